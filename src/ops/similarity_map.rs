//! `M[i, j] = q_i . c_j` over the tokens of a query and a document
//!
//! The token by token map of a pair: on token vectors of unit length, cosines. Verifiers read it; people look at it. Who
//! only wants its maxima or a sum over it takes [`mod@super::maxsim`] or another operator that consumes the map where it
//! is computed. Cost: `2 l_q l_c d` FLOP per pair against `4 l_q l_c` bytes written.
//!
//! Maps of listed pairs lie packed, one behind the other ([`MapLayout`]): no padding, no masks. An empty text gives an
//! empty map.
//!
//! Numerics: dot products in f32; f16 tokens are exact.

use gemm::Parallelism;
use rayon::prelude::*;

use super::token_pairs::{check_pairs, pieces, widen};
use super::{
    Accum, FLOATS, MapLayout, OpSpec, PairList, Pairs, Rounding, TIERS, Tokens, check, grid,
    tier_variant,
};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, Dispatch, ElementType, Float, Launch, Wgpu};
use crate::error::{Error, Result};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "similarity_map",
    formula: "M[i, j] = q_i . c_j over the tokens of listed pairs of texts",
    ptx: Some(PTX),
    ptx_variants: || vec![Variant::new()],
    wgsl: Some(WGSL),
    wgsl_variants: || {
        let all =
            TIERS.map(|tier| FLOATS.map(|tokens| tier_variant(tier).with("tokens", tokens.name())));
        all.into_iter().flatten().collect()
    },
};

const WGSL: Source = Source {
    file: "similarity_map.wgsl",
    text: include_str!("../../shaders/similarity_map.wgsl"),
};

const PTX: Source = Source {
    file: "similarity_map.ptx",
    text: include_str!("../../kernels/similarity_map.ptx"),
};

/// Computes the maps of `pairs` from token vectors `[t, d]` into `maps`, laid out by `layout`.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (`d` a multiple of 8; a layout of other pairs), [`Error::Unsupported`] for
/// f32 tokens on CUDA, whose tensor cores multiply f16.
///
/// ```
/// use nearmiss::{Device, ops::{MapLayout, Packing, PairList, Tokens, similarity_map}};
/// let cpu = Device::cpu();
/// let packing = Packing::new(&cpu, vec![0, 1, 3])?;
/// let rows = cpu.upload(&[[1f32; 8], [0.5; 8], [0.0; 8]].concat())?;
/// let tokens = Tokens { rows: &rows, packing: &packing };
/// let pairs = PairList::new(&cpu, vec![[0, 1]])?;
/// let layout = MapLayout::new(&cpu, &packing, &packing, &pairs)?;
/// let mut maps = cpu.alloc::<f32>(layout.elements())?;
/// similarity_map(tokens, tokens, 8, &pairs, &layout, &mut maps)?;
/// assert_eq!(maps.read()?, [4.0, 0.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn similarity_map<T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    layout: &MapLayout,
    maps: &mut Buffer<f32>,
) -> Result<()> {
    let device = maps.device().clone();
    check_pairs(&SPEC, queries, documents, d, Pairs::Listed(pairs), &device)?;
    let expected = MapLayout::offsets_of(queries.packing, documents.packing, pairs)?;
    if layout.offsets() != expected {
        return Err(Error::shape(
            SPEC.name,
            "layout",
            format!("that of these {} pairs", pairs.len()),
            "another one",
        ));
    }
    check(SPEC.name, "layout", &layout.device, expected.len(), &device)?;
    check(SPEC.name, "maps", maps, layout.elements(), &device)?;
    if layout.elements() == 0 {
        return Ok(());
    }
    let tokens = queries.packing.tokens() + documents.packing.tokens();
    let cost = Cost {
        flop: (2 * layout.elements() * d) as u64,
        bytes: (4 * layout.elements() + tokens * d * size_of::<T>()) as u64,
    };
    device.run(SPEC.name, cost, |backend| match backend {
        Backend::Cpu(_) => {
            cpu(queries, documents, d, pairs, layout, maps.host_mut());
            Ok(())
        }
        Backend::Wgpu(dev) => wgpu(dev, queries, documents, d, pairs, layout, maps),
        Backend::Cuda(dev) if T::TYPE == ElementType::F16 => {
            cuda(dev, queries, documents, d, pairs, layout, maps)
        }
        Backend::Cuda(_) => Err(SPEC.unsupported(&device, "tensor cores multiply f16 tokens")),
    })
}

/// The definition, for one pair of token matrices: `[l_q, l_c]`.
pub fn reference<A: Accum>(query: &[f32], document: &[f32], d: usize) -> Vec<A> {
    let mut map = Vec::with_capacity(query.len() / d * (document.len() / d));
    for q in query.chunks_exact(d) {
        for c in document.chunks_exact(d) {
            let mut product = A::of(0.0);
            for (&q, &c) in q.iter().zip(c) {
                product += A::of(q.into()) * A::of(c.into());
            }
            map.push(product);
        }
    }
    map
}

/// `g(d) sum |q c|` per element.
pub fn error_bound(query: &[f32], document: &[f32], d: usize, rounding: &Rounding) -> Vec<f64> {
    let magnitudes = |rows: &[f32]| rows.iter().map(|v| v.abs()).collect::<Vec<f32>>();
    reference::<f64>(&magnitudes(query), &magnitudes(document), d)
        .into_iter()
        .map(|magnitude| rounding.store(0.0, rounding.g(d) * magnitude, 4))
        .collect()
}

fn cpu<T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    layout: &MapLayout,
    maps: &mut [f32],
) {
    let (asked, stored) = (queries.rows.host(), documents.rows.host());
    // The maps as slices of their own.
    let mut rest = maps;
    let mut jobs = Vec::with_capacity(pairs.len());
    for (pair, span) in pairs.host.iter().zip(layout.offsets().windows(2)) {
        let (map, after) = rest.split_at_mut((span[1] - span[0]) as usize);
        rest = after;
        jobs.push((pair, map));
    }
    jobs.into_par_iter().for_each_init(
        || (Vec::new(), Vec::new()),
        |(query, document), (pair, map)| {
            widen(&asked[queries.elements(pair[0], d)], query);
            widen(&stored[documents.elements(pair[1], d)], document);
            let (m, n) = (query.len() / d, document.len() / d);
            if !map.is_empty() {
                super::matmul::product(query, document, map, m, n, d, Parallelism::None);
            }
        },
    );
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    pairs: u32,
    d4: u32,
    first_document: u32,
    end_document: u32,
    first_row: u32,
}

fn wgpu<T: Float>(
    dev: &Wgpu,
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    layout: &MapLayout,
    maps: &mut Buffer<f32>,
) -> Result<()> {
    let variant = tier_variant(dev.tier()).with("tokens", T::TYPE.name());
    // Documents beyond one binding go in pieces; a launch passes over the pairs of other pieces.
    for piece in pieces(documents.packing, d * size_of::<T>(), dev.max_binding()) {
        let params = Params {
            pairs: pairs.len() as u32,
            d4: (d / 4) as u32,
            first_document: piece.documents.start as u32,
            end_document: piece.documents.end as u32,
            first_row: piece.rows.start as u32,
        };
        dev.dispatch(&Dispatch {
            source: WGSL,
            entry: "similarity_map",
            variant: variant.clone(),
            bindings: &[
                queries.rows.bind(),
                queries.packing.device_offsets.bind(),
                documents
                    .rows
                    .bind_range(piece.rows.start * d..piece.rows.end * d),
                documents.packing.device_offsets.bind(),
                pairs.device.bind(),
                layout.device.bind(),
                maps.bind_mut(),
            ],
            params: bytemuck::bytes_of(&params),
            groups: grid(pairs.len()),
        })?;
    }
    Ok(())
}

fn cuda<T: Float>(
    dev: &Cuda,
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    layout: &MapLayout,
    maps: &mut Buffer<f32>,
) -> Result<()> {
    dev.launch(&Launch {
        source: PTX,
        entry: "similarity_map",
        variant: Variant::new(),
        args: &[
            Arg::Buffer(queries.rows.bind()),
            Arg::Buffer(queries.packing.device_offsets.bind()),
            Arg::Buffer(documents.rows.bind()),
            Arg::Buffer(documents.packing.device_offsets.bind()),
            Arg::Buffer(pairs.device.bind()),
            Arg::Buffer(layout.device.bind()),
            Arg::Buffer(maps.bind_mut()),
            Arg::U32(d as u32),
        ],
        grid: [pairs.len() as u32, 1, 1],
        block: [128, 1, 1],
        // Four stages of 32 of d: 128 document tokens and 32 query tokens.
        shared_bytes: 4 * (128 + 32) * 64,
    })
}
