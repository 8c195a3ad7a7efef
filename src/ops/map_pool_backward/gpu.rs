//! Launches of `map_pool_backward.ptx` and `map_pool_backward.wgsl`.

use super::{Args, MapPooling};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Geometry, Gpu, Kernel, Param, SliceMut};
use crate::error::Result;
use crate::ops::grid;
use crate::ops::token_pairs::pair_runs;

pub(super) const MAP_POOL_BACKWARD: Kernel = Kernel {
    entry: "map_pool_backward",
    params: &[
        Param::read("maps").optional(),
        Param::read("map_offsets"),
        Param::read("shapes"),
        Param::read("d_scores"),
        Param::write("d_maps"),
        Param::u32("band"),
        Param::f32("distance"),
        Param::f32("temperature"),
        Param::u32("first_pair").wgsl(),
        Param::u32("end_pair").wgsl(),
        Param::u32("first_element").wgsl(),
    ],
    ptx: Some(Source {
        file: "map_pool_backward.ptx",
        text: include_str!("../../../kernels/map_pool_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "map_pool_backward.wgsl",
        text: include_str!("../../../shaders/map_pool_backward.wgsl"),
    }),
};

pub(super) fn variants() -> Vec<Variant> {
    ["mean", "max", "soft"].map(variant).to_vec()
}

fn variant(pooling: &'static str) -> Variant {
    Variant::new().with("pooling", pooling)
}

/// Maps beyond one binding go in turns.
pub(super) fn map_pool_backward(
    gpu: Gpu<'_>,
    args: &Args<'_>,
    mut d_maps: SliceMut<'_, f32>,
) -> Result<()> {
    let packed = args.layout.packed();
    let alignment = args.pooling.alignment();
    for run in pair_runs(&[packed], gpu.max_binding()) {
        let elements = packed.bound(&run);
        // The mean alone does not ask what is in a map.
        let maps = (args.pooling != MapPooling::Mean).then(|| args.maps.slice(elements.clone()));
        gpu.call(&Call {
            kernel: &MAP_POOL_BACKWARD,
            variant: variant(args.pooling.name()),
            args: &[
                maps.into(),
                args.layout.on_device().into(),
                args.layout.shapes_on_device().into(),
                args.d_scores.into(),
                (&mut d_maps.slice_mut(elements.clone())).into(),
                alignment.widest().into(),
                alignment.distance.into(),
                alignment.temperature.into(),
                run.start.into(),
                run.end.into(),
                elements.start.into(),
            ],
            geometry: Geometry {
                groups: grid(run.len()),
                grid: [run.len() as u32, 1, 1],
                threads: 256,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
}
