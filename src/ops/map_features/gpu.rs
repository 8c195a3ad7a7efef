//! Launches of `map_features.ptx` and `map_features.wgsl`.

use super::layout::Windows;
use super::{Args, Cut};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::token_pairs::pair_runs;
use crate::ops::{FLOATS, grid};

pub(super) const MAP_FEATURES: Kernel = Kernel {
    entry: "map_features",
    params: &[
        Param::read("maps"),
        Param::read("cuts"),
        Param::write("rows"),
        Param::write("winners").optional(),
        Param::u32("first_pair").wgsl(),
        Param::u32("end_pair").wgsl(),
        Param::u32("first_element").wgsl(),
        Param::u32("first_row").wgsl(),
        Param::u32("first_winner").wgsl(),
    ],
    ptx: Some(Source {
        file: "map_features.ptx",
        text: include_str!("../../../kernels/map_features.ptx"),
    }),
    wgsl: Some(Source {
        file: "map_features.wgsl",
        text: include_str!("../../../shaders/map_features.wgsl"),
    }),
};

fn variant(windows: Windows, winners: bool, rows: &'static str) -> Variant {
    Variant::new()
        .with("windows", windows.name())
        .with("winners", winners)
        .with("rows", rows)
}

pub(super) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for windows in Windows::ALL {
        for winners in [false, true] {
            all.extend(FLOATS.map(|rows| variant(windows, winners, rows.name())));
        }
    }
    all
}

/// Threads of a block: a multiple of the units of four numbers that a row of either kind has.
const THREADS: u32 = 192;

/// Bytes of shared memory of a block: the maxima of 128 rows and of 128 columns, and as much of a map, its rows an odd
/// number of elements apart.
fn shared_bytes(cuts: &[Cut]) -> usize {
    let of = |cut: &Cut| {
        let [rows, columns] = cut.winners();
        rows * (columns | 1)
    };
    4 * (256 + cuts.iter().map(of).max().unwrap_or(0))
}

/// Maps whose rows are beyond one binding go in turns.
pub(super) fn map_features<A: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_>,
    cuts: Slice<'_, u32>,
    mut rows: SliceMut<'_, A>,
    mut winners: Option<SliceMut<'_, u32>>,
) -> Result<()> {
    let windows = args.layout.windows();
    let width = windows.width();
    let packed = args.layout.packed(size_of::<A>());
    for run in pair_runs(&packed, gpu.max_binding()) {
        let [elements, windows_of, won] = packed.map(|buffer| buffer.bound(&run));
        let (first_element, first_row, first_winner) =
            (elements.start, windows_of.start, won.start);
        let winners = winners.as_mut();
        let mut winners = winners.map(|winners| winners.slice_mut(won));
        gpu.call(&Call {
            kernel: &MAP_FEATURES,
            variant: variant(windows, winners.is_some(), A::TYPE.name()),
            args: &[
                args.maps.slice(elements).into(),
                cuts.into(),
                (&mut rows.slice_mut(windows_of.start * width..windows_of.end * width)).into(),
                winners.as_mut().into(),
                run.start.into(),
                run.end.into(),
                first_element.into(),
                first_row.into(),
                first_winner.into(),
            ],
            geometry: Geometry {
                groups: grid(run.len()),
                grid: [run.len() as u32, 1, 1],
                threads: THREADS,
                shared_bytes: shared_bytes(args.layout.cuts()) as u32,
            },
        })?;
    }
    Ok(())
}
