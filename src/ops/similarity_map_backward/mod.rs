//! `d_queries[i] = sum over pairs and j of dM[i, j] c_j`, `d_documents[j] = sum over pairs and i of dM[i, j] q_i`
//!
//! The gradient of [`mod@super::similarity_map`] in the token vectors of both sides. Training scores every text with many
//! others, so a text's gradient is a sum over all pairs that it is in: the pairs are sorted by text on the host, and the
//! work is divided by texts. The sorted list is sent with every call, so a recording cannot have this operator in it. Token
//! vectors of texts in no pair get zero. Cost: `4 l_q l_c d` FLOP per pair; maps and,
//! mostly from cache, token vectors are read once per pair and side.
//! Comes after [`mod@super::map_features_backward`] or [`mod@super::map_pool_backward`]; before
//! [`mod@super::normalize_rows_backward`].
//!
//! Numerics: products and sums in f32, f16 tokens are exact; the order of a token's sum depends on the pairs of its text
//! alone.

mod cpu;
mod gpu;
mod partners;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::token_pairs::check_pairs;
use super::{MapLayout, OpSpec, PairList, Pairs, Tokens};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "similarity_map_backward",
    formula: "d_queries[i] = sum_j dM[i, j] c_j, d_documents[j] = sum_i dM[i, j] q_i, over all pairs of a text",
    kernels: &[gpu::SIMILARITY_MAP_BACKWARD],
    ptx: gpu::SIMILARITY_MAP_BACKWARD.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::SIMILARITY_MAP_BACKWARD.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// The arguments after checking.
struct Args<'a, T: Float> {
    queries: Tokens<'a, T>,
    documents: Tokens<'a, T>,
    d: usize,
    pairs: &'a PairList,
    layout: &'a MapLayout,
    d_maps: Slice<'a, f32>,
}

/// From `d_maps`, the gradients of the maps of [`similarity_map`](super::similarity_map::similarity_map) with the same
/// arguments, writes those of the token vectors to `d_queries` `[t_q, d]` and `d_documents` `[t_c, d]`, every element of
/// both.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8; a layout of other pairs),
/// [`Error::Unsupported`](crate::Error::Unsupported) for f32 tokens on CUDA, which
/// [`similarity_map`](super::similarity_map::similarity_map) does not multiply there either,
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory) on GPUs, where the sorted pairs take room.
///
/// ```
/// use nearmiss::{Device, ops::{MapLayout, PackedTexts, PairList, Tokens, similarity_map_backward}};
/// let cpu = Device::cpu();
/// let packing = PackedTexts::new(&cpu, vec![0, 1, 3])?;
/// let rows = cpu.upload(&[[1f32; 8], [0.5; 8], [0.0; 8]].concat())?;
/// let tokens = Tokens { rows: (&rows).into(), packing: &packing };
/// let pairs = PairList::new(&cpu, vec![[0, 1]])?;
/// let layout = MapLayout::new(&cpu, &packing, &packing, &pairs)?;
/// let d_maps = cpu.upload(&[2.0f32, 3.0])?;
/// let (mut d_queries, mut d_documents) = (cpu.alloc::<f32>(24)?, cpu.alloc::<f32>(24)?);
/// similarity_map_backward(tokens, tokens, 8, &pairs, &layout, &d_maps, &mut d_queries, &mut d_documents)?;
/// assert_eq!(d_queries.read()?, [[1.0; 8], [0.0; 8], [0.0; 8]].concat());
/// assert_eq!(d_documents.read()?, [[0.0; 8], [2.0; 8], [3.0; 8]].concat());
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn similarity_map_backward<'a, T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    layout: &MapLayout,
    d_maps: impl Into<Slice<'a, f32>>,
    d_queries: impl Into<SliceMut<'a, f32>>,
    d_documents: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (d_maps, mut d_queries, mut d_documents) =
        (d_maps.into(), d_queries.into(), d_documents.into());
    let device = d_queries.device();
    let check = SPEC.checks(device);
    check_pairs(&check, queries, documents, d, Pairs::Listed(pairs))?;
    layout.is_of(&check, queries.packing, documents.packing, pairs)?;
    check.holds("d_maps", &d_maps, layout.elements())?;
    check.holds("d_queries", &d_queries, queries.packing.tokens() * d)?;
    check.holds("d_documents", &d_documents, documents.packing.tokens() * d)?;
    let tokens = queries.packing.tokens() + documents.packing.tokens();
    let cost = Cost {
        flop: (4 * layout.elements() * d) as u64,
        bytes: (8 * layout.elements() + tokens * d * (size_of::<T>() + 4)) as u64,
    };
    let args = Args {
        queries,
        documents,
        d,
        pairs,
        layout,
        d_maps,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::similarity_map_backward(&args, d_queries.host(), d_documents.host());
            Ok(())
        }
        Target::Gpu(gpu) => gpu::similarity_map_backward(gpu, &args, [d_queries, d_documents]),
    })
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::Device;
    use crate::ops::differences_test::noise;
    use crate::ops::{PackedTexts, Rounding};

    /// Every query with every document and more, among them texts of no tokens and more partners than are gathered at a
    /// time.
    #[test]
    fn the_cpu_agrees_with_the_definition() {
        let cpu = Device::cpu();
        let d = 24;
        let (q_offsets, c_offsets) = (
            vec![0u32, 5, 5, 6, 40, 43],
            vec![0u32, 300, 300, 700, 703, 710],
        );
        let mut pairs: Vec<[u32; 2]> = (0..4).flat_map(|q| (0..4).map(move |c| [q, c])).collect();
        pairs.extend([[0, 2], [3, 0], [0, 2]]);
        let packings = [&q_offsets, &c_offsets].map(|o| PackedTexts::new(&cpu, o.clone()).unwrap());
        let list = PairList::new(&cpu, pairs.clone()).unwrap();
        let layout = MapLayout::new(&cpu, &packings[0], &packings[1], &list).unwrap();
        let exact = |n: usize, seed| -> Vec<f32> {
            noise(n, seed)
                .iter()
                .map(|&v| f16::from_f64(v).to_f32())
                .collect()
        };
        let rows = [exact(43 * d, 1), exact(710 * d, 2)];
        let d_maps = exact(layout.elements(), 3);
        let on_device = rows.each_ref().map(|r| cpu.upload(r).unwrap());
        let tokens = |side: usize| Tokens {
            rows: (&on_device[side]).into(),
            packing: &packings[side],
        };
        let mut found = rows
            .each_ref()
            .map(|r| cpu.upload(&vec![f32::NAN; r.len()]).unwrap());
        let [d_queries, d_documents] = &mut found;
        let gradient = cpu.upload(&d_maps).unwrap();
        similarity_map_backward(
            tokens(0),
            tokens(1),
            d,
            &list,
            &layout,
            &gradient,
            d_queries,
            d_documents,
        )
        .unwrap();
        let (rows, offsets) = ([&rows[0][..], &rows[1]], [&q_offsets[..], &c_offsets]);
        let want = reference::<f64, _>(rows, offsets, d, &pairs, &d_maps);
        let bounds = error_bound(rows, offsets, d, &pairs, &d_maps, &Rounding::of(cpu.kind()));
        for side in 0..2 {
            let got = found[side].read().unwrap();
            for ((got, want), bound) in got.iter().zip(&want[side]).zip(&bounds[side]) {
                assert!(
                    (f64::from(*got) - want).abs() <= *bound,
                    "{got} {want} {bound:e}"
                );
            }
        }
    }

    #[test]
    fn a_layout_of_other_pairs_is_refused() {
        let cpu = Device::cpu();
        let packing = PackedTexts::new(&cpu, vec![0, 1, 3]).unwrap();
        let rows = cpu.upload(&[1f32; 24]).unwrap();
        let tokens = Tokens {
            rows: (&rows).into(),
            packing: &packing,
        };
        let pairs = |pair| PairList::new(&cpu, vec![pair]).unwrap();
        // As many elements, in another shape.
        let layout = MapLayout::new(&cpu, &packing, &packing, &pairs([0, 1])).unwrap();
        let d_maps = cpu.upload(&[1f32; 2]).unwrap();
        let (mut a, mut b) = (cpu.alloc::<f32>(24).unwrap(), cpu.alloc::<f32>(24).unwrap());
        let listed = pairs([1, 0]);
        let error =
            similarity_map_backward(tokens, tokens, 8, &listed, &layout, &d_maps, &mut a, &mut b);
        assert_eq!(
            error.unwrap_err().to_string(),
            "shape mismatch in similarity_map_backward: layout: expected that of these 1 pairs, got another one"
        );
    }
}
