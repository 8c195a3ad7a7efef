//! Launches of `info_nce.ptx` and `info_nce.wgsl`.

use super::{Args, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::{grid, in_every_tier, rows_per_binding};

pub(super) const PRODUCT: Kernel = Kernel {
    entry: "info_nce_product",
    params: &[
        Param::read("x"),
        Param::read("y"),
        Param::write("c"),
        Param::u32("rows"),
        Param::u32("columns"),
        Param::u32("k"),
        Param::u32("x_pitch"),
        Param::u32("y_pitch"),
        Param::u32("c_pitch"),
        Param::f32("factor"),
        Param::u32("add"),
    ],
    ptx: Some(Source {
        file: "info_nce.ptx",
        text: include_str!("../../../kernels/info_nce.ptx"),
    }),
    wgsl: Some(Source {
        file: "info_nce.wgsl",
        text: include_str!("../../../shaders/info_nce.wgsl"),
    }),
};

pub(super) const SOFTMAX: Kernel = Kernel {
    entry: "info_nce_softmax",
    params: &[
        Param::write("scores"),
        Param::read("owners").optional(),
        Param::write("losses"),
        Param::u32("first"),
        Param::u32("rows").wgsl(),
        Param::u32("m"),
        Param::u32("pitch"),
        Param::f32("factor"),
    ],
    ..PRODUCT
};

/// How the operands of a product lie: `k` along the rows of both, of the first, or of neither.
const FORMS: [&str; 3] = ["nt", "nn", "tn"];

/// Sides of the tiles of the PTX kernel.
const TILES: [usize; 2] = [64, 32];

/// Side of the tile of the shader.
const TILE_WGSL: usize = 32;

/// Blocks that make the larger tile worth it: half of what a large GPU has multiprocessors.
const MANY: usize = 64;

pub(super) fn ptx_variants() -> Vec<Variant> {
    let products = FORMS
        .into_iter()
        .flat_map(|form| TILES.map(|tile| product_ptx(form, tile)));
    products.chain([true, false].map(softmax_ptx)).collect()
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let products = FORMS.into_iter().map(product_wgsl);
    in_every_tier(products.chain([true, false].map(softmax_wgsl)))
}

fn product_ptx(form: &'static str, tile: usize) -> Variant {
    let stage = Variant::new().with("stage", "product");
    stage.with("form", form).with("tile", tile as i64)
}

fn product_wgsl(form: &'static str) -> Variant {
    Variant::new().with("form", form)
}

fn softmax_ptx(owners: bool) -> Variant {
    Variant::new()
        .with("stage", "softmax")
        .with("owners", owners)
}

fn softmax_wgsl(owners: bool) -> Variant {
    Variant::new()
        .with("form", "softmax")
        .with("owners", owners)
}

/// Rows and columns of a result and the terms of its elements, and how far apart the rows of both operands and of the result
/// lie.
struct Product {
    form: &'static str,
    rows: usize,
    columns: usize,
    k: usize,
    pitches: [usize; 3],
    factor: f32,
    add: bool,
}

impl Product {
    fn launch(
        &self,
        gpu: Gpu<'_>,
        x: Slice<'_, f32>,
        y: Slice<'_, f32>,
        mut c: SliceMut<'_, f32>,
    ) -> Result<()> {
        let &Product {
            form,
            rows,
            columns,
            k,
            pitches: [x_pitch, y_pitch, c_pitch],
            factor,
            add,
        } = self;
        let tiles = |side: usize| rows.div_ceil(side) * c_pitch.div_ceil(side);
        let [large, small] = TILES;
        let tile = if tiles(large) < MANY { small } else { large };
        gpu.call(&Call {
            kernel: &PRODUCT,
            variant: match gpu {
                Gpu::Cuda(_) => product_ptx(form, tile),
                Gpu::Wgpu(_) => product_wgsl(form),
            },
            args: &[
                x.into(),
                y.into(),
                (&mut c).into(),
                rows.into(),
                columns.into(),
                k.into(),
                x_pitch.into(),
                y_pitch.into(),
                c_pitch.into(),
                factor.into(),
                u32::from(add).into(),
            ],
            geometry: Geometry {
                groups: grid(tiles(TILE_WGSL)),
                grid: [tiles(tile) as u32, 1, 1],
                threads: ((tile / 4) * (tile / 4)) as u32,
                shared_bytes: 0,
            },
        })
    }
}

/// Columns of the scores, so that their rows are whole vectors of four.
fn pitch(m: usize) -> usize {
    m.next_multiple_of(4)
}

/// Anchors whose scores one binding holds; more go in turns.
fn anchors_at_once(gpu: Gpu<'_>, args: &Args<'_>) -> usize {
    rows_per_binding(gpu, 4 * pitch(args.m)).min(args.b)
}

pub(super) fn info_nce(
    gpu: Gpu<'_>,
    args: &Args<'_>,
    mut losses: SliceMut<'_, f32>,
    mut d_anchors: SliceMut<'_, f32>,
    mut d_candidates: SliceMut<'_, f32>,
) -> Result<()> {
    let &Args {
        candidates,
        b,
        m,
        d,
        ..
    } = args;
    let bytes = (m * d * size_of::<f32>()) as u64;
    if bytes > gpu.max_binding() {
        let why = format!(
            "the candidates take {bytes} bytes, at most {} fit",
            gpu.max_binding()
        );
        return Err(SPEC.unsupported(losses.device(), &why));
    }
    let pitch = pitch(m);
    let at_once = anchors_at_once(gpu, args);
    let mut scores = losses.device().alloc::<f32>(at_once * pitch)?;
    for first in (0..b).step_by(at_once) {
        let end = (first + at_once).min(b);
        let rows = end - first;
        let anchors = args.anchors.slice(first * d..end * d);
        let product = Product {
            form: "nt",
            rows,
            columns: m,
            k: d,
            pitches: [d, d, pitch],
            factor: args.scale,
            add: false,
        };
        product.launch(gpu, anchors, candidates, scores.as_slice_mut())?;
        gpu.call(&Call {
            kernel: &SOFTMAX,
            variant: match gpu {
                Gpu::Cuda(_) => softmax_ptx(args.owners.is_some()),
                Gpu::Wgpu(_) => softmax_wgsl(args.owners.is_some()),
            },
            args: &[
                (&mut scores.as_slice_mut()).into(),
                args.owners.into(),
                (&mut losses.slice_mut(first..end)).into(),
                first.into(),
                rows.into(),
                m.into(),
                pitch.into(),
                args.factor.into(),
            ],
            geometry: Geometry {
                groups: grid(rows),
                grid: [rows as u32, 1, 1],
                threads: 256,
                shared_bytes: 0,
            },
        })?;
        let product = Product {
            form: "nn",
            rows,
            columns: d,
            k: m,
            pitches: [pitch, d, d],
            factor: 1.0,
            add: false,
        };
        let turn = d_anchors.slice_mut(first * d..end * d);
        product.launch(gpu, scores.as_slice(), candidates, turn)?;
        let product = Product {
            form: "tn",
            rows: m,
            columns: d,
            k: rows,
            pitches: [pitch, d, d],
            factor: 1.0,
            add: first > 0,
        };
        product.launch(gpu, scores.as_slice(), anchors, d_candidates.reborrow())?;
    }
    Ok(())
}
