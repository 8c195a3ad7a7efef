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

use super::token_pairs::{bounds, check_pairs, geometry, query_tile, widen};
use super::{Accum, FLOATS, MapLayout, OpSpec, PairList, Pairs, Rounding, Tokens, in_every_tier};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Cost, ElementType, Float, Gpu, Kernel, Param, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "similarity_map",
    formula: "M[i, j] = q_i . c_j over the tokens of listed pairs of texts",
    kernels: &[SIMILARITY_MAP],
    ptx: SIMILARITY_MAP.ptx,
    ptx_variants: || [32, 64, 128].map(ptx_variant).into(),
    wgsl: SIMILARITY_MAP.wgsl,
    wgsl_variants: || in_every_tier(FLOATS.map(|tokens| wgsl_variant(tokens.name()))),
};

const SIMILARITY_MAP: Kernel = Kernel {
    entry: "similarity_map",
    params: &[
        Param::read("queries"),
        Param::read("query_offsets"),
        Param::read("documents"),
        Param::read("document_offsets"),
        Param::read("pairs"),
        Param::read("map_offsets"),
        Param::write("maps"),
        Param::u32("d"),
        Param::u32("count").wgsl(),
        Param::u32("first_document").wgsl(),
        Param::u32("end_document").wgsl(),
        Param::u32("first_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "similarity_map.ptx",
        text: include_str!("../../kernels/similarity_map.ptx"),
    }),
    wgsl: Some(Source {
        file: "similarity_map.wgsl",
        text: include_str!("../../shaders/similarity_map.wgsl"),
    }),
};

/// Computes the maps of `pairs` from token vectors `[t, d]` into `maps`, laid out by `layout`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8; a layout of other pairs),
/// [`Error::Unsupported`](crate::Error::Unsupported) for f32 tokens on CUDA, whose tensor cores multiply f16.
///
/// ```
/// use nearmiss::{Device, ops::{MapLayout, PackedTexts, PairList, Tokens, similarity_map}};
/// let cpu = Device::cpu();
/// let packing = PackedTexts::new(&cpu, vec![0, 1, 3])?;
/// let rows = cpu.upload(&[[1f32; 8], [0.5; 8], [0.0; 8]].concat())?;
/// let tokens = Tokens { rows: (&rows).into(), packing: &packing };
/// let pairs = PairList::new(&cpu, vec![[0, 1]])?;
/// let layout = MapLayout::new(&cpu, &packing, &packing, &pairs)?;
/// let mut maps = cpu.alloc::<f32>(layout.elements())?;
/// similarity_map(tokens, tokens, 8, &pairs, &layout, &mut maps)?;
/// assert_eq!(maps.read()?, [4.0, 0.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn similarity_map<'a, T: Float>(
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    layout: &MapLayout,
    maps: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let mut maps = maps.into();
    let device = maps.device();
    let check = SPEC.checks(device);
    check_pairs(&check, queries, documents, d, Pairs::Listed(pairs))?;
    layout.is_of(&check, queries.packing, documents.packing, pairs)?;
    check.holds("maps", &maps, layout.elements())?;
    let tokens = queries.packing.tokens() + documents.packing.tokens();
    let cost = Cost {
        flop: (2 * layout.elements() * d) as u64,
        bytes: (4 * layout.elements() + tokens * d * size_of::<T>()) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(queries, documents, d, pairs, layout, maps.host());
            Ok(())
        }
        Target::Gpu(Gpu::Cuda(_)) if T::TYPE != ElementType::F16 => {
            Err(SPEC.unsupported(device, "tensor cores multiply f16 tokens"))
        }
        Target::Gpu(on) => gpu(on, queries, documents, d, pairs, layout, maps),
    })
}

/// The definition, for one pair of token matrices: `[l_q, l_c]`.
#[doc(hidden)]
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
#[doc(hidden)]
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
    let maps = layout.split(maps);
    let jobs = pairs.pairs().par_iter().zip(maps);
    jobs.for_each_init(
        || (Vec::new(), Vec::new()),
        |(query, document), (pair, map)| {
            widen(queries.host(pair[0], d), query);
            widen(documents.host(pair[1], d), document);
            let (m, n) = (query.len() / d, document.len() / d);
            if !map.is_empty() {
                super::matmul::product(query, document, map, m, n, d, Parallelism::None);
            }
        },
    );
}

fn wgsl_variant(tokens: &'static str) -> Variant {
    Variant::new().with("tokens", tokens)
}

fn ptx_variant(tile_q: usize) -> Variant {
    Variant::new().with("tile_q", tile_q as i64)
}

fn gpu<T: Float>(
    gpu: Gpu<'_>,
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: &PairList,
    layout: &MapLayout,
    mut maps: SliceMut<'_, f32>,
) -> Result<()> {
    let (n_q, n_c) = (queries.packing.texts(), documents.packing.texts());
    let listed = pairs.among(SPEC.name, n_q, n_c)?;
    let tile_q = query_tile(queries.packing, 128);
    let variant = match gpu {
        Gpu::Cuda(_) => ptx_variant(tile_q),
        Gpu::Wgpu(_) => wgsl_variant(T::TYPE.name()),
    };
    // Documents beyond one binding go in turns; a launch passes over the pairs of others.
    for bound in bounds(documents.packing, d * size_of::<T>(), gpu.max_binding()) {
        gpu.call(&Call {
            kernel: &SIMILARITY_MAP,
            variant,
            args: &[
                queries.rows.into(),
                queries.packing.on_device().into(),
                bound.of(documents.rows, d).into(),
                documents.packing.on_device().into(),
                listed.into(),
                layout.on_device().into(),
                (&mut maps).into(),
                d.into(),
                pairs.len().into(),
                bound.documents.start.into(),
                bound.documents.end.into(),
                bound.rows.start.into(),
            ],
            geometry: geometry(pairs.len(), pairs.len(), tile_q),
        })?;
    }
    Ok(())
}
