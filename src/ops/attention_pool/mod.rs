//! `out_i = [sum_j w_j row_j | sum_j w_j | 0 x 7]`, `w = mask softmax(scale query_i . row_j)`, over the rows `j` of text `i`
//!
//! Attention of one query per text, with the text's rows as keys and values: the products that make keys and values of
//! rows are folded into the query before and into the result after. A bias of values is multiplied by the total weight,
//! which therefore stands behind the mean (it is 1 where nothing is dropped), in a row that is 8 wider. An empty text
//! gives zeros. Scores are never stored; the probabilities are on request, for the backward. Cost: `4 t d` operations
//! against one read of the rows (and a second one, of what was read just before): memory bound on GPUs.
//! Comes after a norm of the rows, of which only one result per text is wanted; before [`mod@super::matmul`].

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

pub(super) use cpu::{Scratch, drop_and_scale, number};
pub(super) use gpu::{geometry, ptx_sizes, size, wgsl_sizes};
pub(super) use reference::{e_kept, factor};

use super::attention::checked_mask;
use super::dropout::Mask;
use super::{OpSpec, Origins, PackedTexts};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "attention_pool",
    formula: "out = [sum w row | sum w], w = mask softmax(scale query . row), per text",
    kernels: &[gpu::ATTENTION_POOL],
    ptx: gpu::ATTENTION_POOL.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::ATTENTION_POOL.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// Columns of a result behind the mean, of which the first is the total weight and the others are zero: a row stays a
/// multiple of 8 wide.
pub const TOTAL: usize = 8;

/// The arguments after checking.
struct Args<'a, A: Float> {
    queries: Slice<'a, A>,
    rows: Slice<'a, A>,
    texts: &'a PackedTexts,
    d: usize,
    scale: f32,
    /// If it drops anything, with position and number of every row.
    mask: Option<(Mask, Slice<'a, u32>)>,
}

/// The mean of the rows of each text of `texts`, weighed by their attention to its query: `queries` `[n, d]` and `rows`
/// `[t, d]` give `out` `[n, d + 8]`.
///
/// Probabilities are dropped and scaled as `mask` says, after the softmax: a row's place in its text counts as the element,
/// at position 0 and head 0, which are the words that [`mod@super::attention`] draws for the first token of a text in its
/// first head. `probabilities` `[t]` get those before dropout. `origins` are those of the rows.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8), origins of other texts or a rate
/// that is not at least 0 and below 1; [`Error::Unsupported`](crate::Error::Unsupported) for element types a device does not
/// have (CUDA takes f16 activations, the CPU f32) and on GPUs for rows wider than 1,024.
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, attention_pool}};
/// let cpu = Device::cpu();
/// let texts = PackedTexts::new(&cpu, vec![0, 2])?;
/// let queries = cpu.upload(&[0.0f32; 8])?; // looks at all rows alike
/// let rows = cpu.upload(&[[3.0f32; 8], [5.0; 8]].concat())?;
/// let mut out = cpu.alloc::<f32>(16)?;
/// attention_pool(&queries, &rows, &texts, 8, 1.0, None, None, &mut out)?;
/// assert_eq!(out.read()?, [[4.0; 8], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]].concat());
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn attention_pool<'a, A: Float>(
    queries: impl Into<Slice<'a, A>>,
    rows: impl Into<Slice<'a, A>>,
    texts: &PackedTexts,
    d: usize,
    scale: f32,
    mask: Option<(Mask, &Origins)>,
    probabilities: Option<SliceMut<'_, f32>>,
    out: impl Into<SliceMut<'a, A>>,
) -> Result<()> {
    let (queries, rows, mut out) = (queries.into(), rows.into(), out.into());
    let mut probabilities = probabilities;
    let device = out.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let (n, t) = (texts.texts(), texts.tokens());
    check.holds("queries", &queries, n * d)?;
    check.holds("rows", &rows, t * d)?;
    check.holds("texts", &texts.on_device(), n + 1)?;
    check.optional("probabilities", &probabilities, t)?;
    check.holds("out", &out, n * (d + TOTAL))?;
    let mask = checked_mask(SPEC.name, texts, mask)?;
    let saved = probabilities.as_ref().map_or(0, |p| 4 * p.len());
    let cost = Cost {
        flop: (4 * t * d) as u64,
        bytes: ((t * d + n * (2 * d + TOTAL)) * size_of::<A>() + saved) as u64,
    };
    let args = Args {
        queries,
        rows,
        texts,
        d,
        scale,
        mask,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let probabilities = probabilities.as_mut().map(|p| p.host());
            cpu::attention_pool(&args, probabilities, out.host_as::<f32>())
                .ok_or_else(|| SPEC.unsupported(device, "the CPU computes with f32 activations"))
        }
        Target::Gpu(gpu) => gpu::attention_pool(gpu, &args, probabilities, out),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::differences_test::noise;

    const MASK: Mask = Mask {
        rate: 0.5,
        key: [1, 2],
    };

    /// Probabilities and results of texts with these numbers.
    fn pooled(offsets: &[u32], numbers: &[u32], mask: Option<Mask>) -> (Vec<f32>, Vec<f32>) {
        let cpu = Device::cpu();
        let texts = PackedTexts::new(&cpu, offsets.to_vec()).unwrap();
        let origins = Origins::new(&texts, numbers).unwrap();
        let as_f32 = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let queries = cpu.upload(&as_f32(noise(texts.texts() * 16, 1))).unwrap();
        let rows = cpu.upload(&as_f32(noise(texts.tokens() * 16, 2))).unwrap();
        let mut probabilities = cpu.alloc::<f32>(texts.tokens()).unwrap();
        let mut out = cpu.alloc::<f32>(texts.texts() * 24).unwrap();
        attention_pool(
            &queries,
            &rows,
            &texts,
            16,
            0.5,
            mask.map(|mask| (mask, &origins)),
            Some(probabilities.as_slice_mut()),
            &mut out,
        )
        .unwrap();
        (probabilities.read().unwrap(), out.read().unwrap())
    }

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let (offsets, numbers) = ([0, 3, 3, 4, 44], [7, 0, 5, 9]);
        let as_f32 = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let (queries, rows) = (as_f32(noise(4 * 16, 1)), as_f32(noise(44 * 16, 2)));
        for mask in [None, Some(MASK)] {
            let (probabilities, out) = pooled(&offsets, &numbers, mask);
            let dropped = mask.map(|mask| (mask, &numbers[..]));
            let (want, p) = reference::<f64, _>(&queries, &rows, &offsets, 16, 0.5, dropped);
            let close = |got: &[f32], want: &[f64]| {
                let mut both = got.iter().zip(want);
                assert!(both.all(|(&got, &want)| (f64::from(got) - want).abs() < 1e-5));
            };
            close(&out, &want);
            close(&probabilities, &p);
            assert_eq!(out[24..48], [0.0; 24], "of no rows");
        }
    }

    #[test]
    fn words_are_those_of_attention_and_probabilities_those_before() {
        let (with, without) = (
            pooled(&[0, 40], &[3], Some(MASK)),
            pooled(&[0, 40], &[3], None),
        );
        assert_eq!(with.0, without.0);
        let kept = (0..40).filter(|&j| MASK.keeps(j, 0, 3, 0));
        let total: f32 = kept.map(|j| 2.0 * with.0[j]).sum();
        assert!((with.1[16] - total).abs() < 1e-6);
        assert!((without.1[16] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        let texts = PackedTexts::new(&cpu, vec![0, 2]).unwrap();
        let others = PackedTexts::new(&cpu, vec![0, 1, 2]).unwrap();
        let origins = Origins::new(&others, &[0, 1]).unwrap();
        let zeros = cpu.upload(&[0f32; 16]).unwrap();
        let refused = |mask, out: usize| {
            let mut out = cpu.alloc::<f32>(out).unwrap();
            let query = zeros.slice(..8);
            let done = attention_pool(query, &zeros, &texts, 8, 1.0, mask, None, &mut out);
            done.unwrap_err().to_string()
        };
        assert_eq!(
            refused(None, 8),
            "shape mismatch in attention_pool: out: expected 16, got 8"
        );
        let why = refused(Some((MASK, &origins)), 16);
        assert!(
            why.contains("origins: expected those of these 1 texts"),
            "{why}"
        );
    }
}
