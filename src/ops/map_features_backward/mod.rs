//! `dM[i, j] = ` the gradients of every place that shows `M[i, j]`, as itself or as a maximum
//!
//! The gradient of [`mod@super::map_features`], its exact transpose: an element of a map gets the gradients of channel 0
//! of all windows that show it, and if it is the winner of its row or of its column, those of channel 1 of the whole row or
//! of channel 2 of the whole column. Elements that nothing shows get zero. Cost: one addition for every number of a window
//! that shows something; the rows read once, the maps written once: memory bound everywhere.
//! Before [`mod@super::similarity_map_backward`].
//!
//! Numerics: sums in f32, of rows and columns first, in a fixed order.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::{OpSpec, WindowLayout, in_every_tier};
use crate::device::{Cost, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "map_features_backward",
    formula: "dM[i, j] = sum of the gradients of all places that show M[i, j], as itself or as a maximum",
    kernels: &[gpu::MAP_FEATURES_BACKWARD],
    ptx: gpu::MAP_FEATURES_BACKWARD.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::MAP_FEATURES_BACKWARD.wgsl,
    wgsl_variants: || in_every_tier(gpu::variants()),
};

/// The arguments after checking.
struct Args<'a> {
    d_rows: Slice<'a, f32>,
    layout: &'a WindowLayout,
    winners: Slice<'a, u32>,
}

/// From `d_rows`, the gradients of the rows of [`map_features`](super::map_features::map_features), and the `winners` that
/// it wrote, the gradients of all maps to `d_maps`, every element of it.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit.
///
/// ```
/// use nearmiss::{Device, ops::{MapLayout, PackedTexts, PairList, WindowLayout, map_features_backward}};
/// let cpu = Device::cpu();
/// let (queries, documents) = (PackedTexts::new(&cpu, vec![0, 1])?, PackedTexts::new(&cpu, vec![0, 2])?);
/// let pairs = PairList::new(&cpu, vec![[0, 0]])?;
/// let layout = MapLayout::new(&cpu, &queries, &documents, &pairs)?;
/// let windows = WindowLayout::patches(&cpu, &layout)?;
/// // One patch; the right element is the maximum of their row, both are those of their columns.
/// let d_rows = cpu.upload(&[1.0f32; 2 * 192])?;
/// let winners = cpu.upload(&[1u32, 0, 0])?;
/// let mut d_maps = cpu.alloc::<f32>(2)?;
/// map_features_backward(&d_rows, &windows, winners.as_slice(), &mut d_maps)?;
/// assert_eq!(d_maps.read()?, [2.0, 4.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn map_features_backward<'a>(
    d_rows: impl Into<Slice<'a, f32>>,
    layout: &WindowLayout,
    winners: Slice<'a, u32>,
    d_maps: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (d_rows, mut d_maps) = (d_rows.into(), d_maps.into());
    let device = d_maps.device();
    let check = SPEC.checks(device);
    let elements = layout.rows() * layout.windows().width();
    check.holds("d_rows", &d_rows, elements)?;
    let table = layout.on_device(&check)?;
    check.holds("winners", &winners, layout.winners())?;
    check.holds("d_maps", &d_maps, layout.elements())?;
    let cost = Cost {
        flop: elements as u64,
        bytes: 4 * (elements + winners.len() + d_maps.len()) as u64,
    };
    let args = Args {
        d_rows,
        layout,
        winners,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::map_features_backward(&args, d_maps.host());
            Ok(())
        }
        Target::Gpu(gpu) => gpu::map_features_backward(gpu, &args, table, d_maps),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::differences_test::noise;
    use crate::ops::map_features::{self, Picture, all};
    use crate::ops::{Rounding, WindowLayout};

    #[test]
    fn the_cpu_agrees_with_the_definition() {
        let cpu = Device::cpu();
        let maps = all(&cpu, &[5, 0, 130, 8], &[1, 9, 0, 140]);
        let single = |n, seed| noise(n, seed).iter().map(|&v| v as f32).collect::<Vec<_>>();
        let values = single(maps.elements(), 3);
        let pictures: Vec<Picture> = (0..)
            .zip(maps.shapes())
            .map(|(p, &shape)| {
                let mut picture = Picture::of(shape);
                if p % 2 == 0 {
                    picture.extent = picture.extent.map(|n| (n + 3).min(128));
                    picture.width = (picture.width + 5).min(128);
                } else {
                    picture.height /= 2;
                }
                picture
            })
            .collect();
        for layout in [
            WindowLayout::patches(&cpu, &maps).unwrap(),
            WindowLayout::neighbours(&cpu, &maps, &pictures).unwrap(),
        ] {
            let windows = layout.windows();
            let d_rows = single(layout.rows() * windows.width(), 5);
            let (mut winners, mut want, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
            for (p, (&shape, &picture)) in maps.shapes().iter().zip(&pictures).enumerate() {
                let map = &values[maps.offsets()[p] as usize..maps.offsets()[p + 1] as usize];
                let (rows, won) = map_features::reference(map, shape, windows, picture);
                let first = layout.texts().offsets()[p] as usize * windows.width();
                let d_rows = &d_rows[first..first + rows.len()];
                want.extend(reference::<f64, _>(d_rows, &won, shape, windows, picture));
                let rounding = Rounding::of(cpu.kind());
                bounds.extend(error_bound(
                    d_rows, &won, shape, windows, picture, &rounding,
                ));
                winners.extend(won);
            }
            let (d_rows, winners) = (cpu.upload(&d_rows).unwrap(), cpu.upload(&winners).unwrap());
            let mut d_maps = cpu.upload(&vec![f32::NAN; maps.elements()]).unwrap();
            map_features_backward(&d_rows, &layout, winners.as_slice(), &mut d_maps).unwrap();
            let got = d_maps.read().unwrap();
            for ((got, want), bound) in got.iter().zip(want).zip(bounds) {
                assert!(
                    (f64::from(*got) - want).abs() <= bound,
                    "{got} {want} {bound:e}"
                );
            }
        }
    }
}
