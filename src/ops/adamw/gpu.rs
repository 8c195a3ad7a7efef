//! Launches of `adamw.ptx` and `adamw.wgsl`.

use super::{Constants, Moments};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::{grid, rows_per_binding};

pub(super) const ADAMW: Kernel = Kernel {
    entry: "adamw",
    params: &[
        Param::read("gradient"),
        Param::read("norm"),
        Param::write("first"),
        Param::write("second"),
        Param::write("master"),
        Param::write("working").optional(),
        Param::u32("n"),
        Param::f32("gradient_factor"),
        Param::f32("max_norm"),
        Param::f32("rest1"),
        Param::f32("beta2"),
        Param::f32("rest2"),
        Param::f32("keep"),
        Param::f32("step_size"),
        Param::f32("root"),
        Param::f32("eps"),
    ],
    ptx: Some(Source {
        file: "adamw.ptx",
        text: include_str!("../../../kernels/adamw.ptx"),
    }),
    wgsl: Some(Source {
        file: "adamw.wgsl",
        text: include_str!("../../../shaders/adamw.wgsl"),
    }),
};

pub(super) fn variants() -> Vec<Variant> {
    ["none", "f16", "f32"].map(variant).to_vec()
}

fn variant(working: &'static str) -> Variant {
    Variant::new().with("working", working)
}

/// Threads in a block of the PTX kernel, and invocations in a group of the shader, four elements each.
const BLOCK: usize = 256;
const GROUP: usize = 64;

/// Elements beyond one binding go in turns.
pub(super) fn adamw<W: Float>(
    gpu: Gpu<'_>,
    constants: &Constants,
    gradient: Slice<'_, f32>,
    norm: Slice<'_, f32>,
    mut moments: Moments<'_>,
    mut master: SliceMut<'_, f32>,
    mut working: Option<SliceMut<'_, W>>,
) -> Result<()> {
    let n = master.len();
    let at_once = match gpu {
        Gpu::Cuda(_) => n.max(1),
        Gpu::Wgpu(_) => rows_per_binding(gpu, size_of::<f32>()),
    };
    let c = *constants;
    for from in (0..n).step_by(at_once) {
        let turn = from..n.min(from + at_once);
        let vectors = turn.len() / 4;
        let mut copy = working.as_mut().map(|copy| copy.slice_mut(turn.clone()));
        gpu.call(&Call {
            kernel: &ADAMW,
            variant: variant(copy.as_ref().map_or("none", |_| W::TYPE.name())),
            args: &[
                gradient.slice(turn.clone()).into(),
                norm.into(),
                (&mut moments.first.slice_mut(turn.clone())).into(),
                (&mut moments.second.slice_mut(turn.clone())).into(),
                (&mut master.slice_mut(turn.clone())).into(),
                copy.as_mut().into(),
                turn.len().into(),
                c.gradient_factor.into(),
                c.max_norm.into(),
                c.rest1.into(),
                c.beta2.into(),
                c.rest2.into(),
                c.keep.into(),
                c.step_size.into(),
                c.root.into(),
                c.eps.into(),
            ],
            geometry: Geometry {
                groups: grid(vectors.div_ceil(GROUP)),
                grid: [vectors.div_ceil(BLOCK) as u32, 1, 1],
                threads: BLOCK as u32,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
}
