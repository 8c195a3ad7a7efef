//! Launches of `map_features_backward.ptx` and `map_features_backward.wgsl`.

use super::Args;
use crate::device::template::{Source, Variant};
use crate::device::{Call, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::grid;
use crate::ops::map_features::{Cut, Windows};
use crate::ops::token_pairs::pair_runs;

pub(super) const MAP_FEATURES_BACKWARD: Kernel = Kernel {
    entry: "map_features_backward",
    params: &[
        Param::read("d_rows"),
        Param::read("cuts"),
        Param::read("winners"),
        Param::write("d_maps"),
        Param::u32("first_pair").wgsl(),
        Param::u32("end_pair").wgsl(),
        Param::u32("first_element").wgsl(),
        Param::u32("first_row").wgsl(),
        Param::u32("first_winner").wgsl(),
    ],
    ptx: Some(Source {
        file: "map_features_backward.ptx",
        text: include_str!("../../../kernels/map_features_backward.ptx"),
    }),
    wgsl: Some(Source {
        file: "map_features_backward.wgsl",
        text: include_str!("../../../shaders/map_features_backward.wgsl"),
    }),
};

fn variant(windows: Windows) -> Variant {
    Variant::new().with("windows", windows.name())
}

pub(super) fn variants() -> Vec<Variant> {
    Windows::ALL.map(variant).to_vec()
}

/// Pixels of which a block of the PTX kernel holds the neighbourhoods, if four rows of a picture are no more.
const PIXELS: usize = 512;

/// Bytes of shared memory of a block: with neighbours the sums of 128 rows, and 27 numbers each of as many pixels as it
/// holds at a time, in planes of an odd number of them.
fn shared_bytes(windows: Windows, cuts: &[Cut]) -> usize {
    let plane = |cut: &Cut| {
        let [height, width] = cut.grid;
        (height.min(PIXELS / width.max(1)).max(4.min(height)) * width) | 1
    };
    match windows {
        Windows::Patches => 0,
        Windows::Neighbours => 4 * (128 + 27 * cuts.iter().map(plane).max().unwrap_or(0)),
    }
}

/// Maps whose rows are beyond one binding go in turns.
pub(super) fn map_features_backward(
    gpu: Gpu<'_>,
    args: &Args<'_>,
    cuts: Slice<'_, u32>,
    mut d_maps: SliceMut<'_, f32>,
) -> Result<()> {
    let windows = args.layout.windows();
    let width = windows.width();
    let packed = args.layout.packed(size_of::<f32>());
    for run in pair_runs(&packed, gpu.max_binding()) {
        let [elements, windows_of, won] = packed.map(|buffer| buffer.bound(&run));
        let firsts = [elements.start, windows_of.start, won.start];
        gpu.call(&Call {
            kernel: &MAP_FEATURES_BACKWARD,
            variant: variant(windows),
            args: &[
                args.d_rows
                    .slice(windows_of.start * width..windows_of.end * width)
                    .into(),
                cuts.into(),
                args.winners.slice(won).into(),
                (&mut d_maps.slice_mut(elements)).into(),
                run.start.into(),
                run.end.into(),
                firsts[0].into(),
                firsts[1].into(),
                firsts[2].into(),
            ],
            geometry: Geometry {
                groups: grid(run.len()),
                grid: [run.len() as u32, 1, 1],
                threads: 256,
                shared_bytes: shared_bytes(windows, args.layout.cuts()) as u32,
            },
        })?;
    }
    Ok(())
}
