//! `rows[w] = ` a window over three channels of a similarity map: `M`, its row maxima, its column maxima
//!
//! What a verifier that looks at maps multiplies: a convolution of a map is the product ([`mod@super::matmul`]) of its
//! windows, one row each, with the kernels. Channel 0 of the map `M` `[l_q, l_c]` of a pair is `M[i, j]`, channel 1 the
//! maximum of row `i`, channel 2 that of column `j`; of equal numbers the first is the maximum. Maxima are over the whole
//! map, but windows show its first 128 rows and columns. [`WindowLayout`] says which windows: [`Windows::Patches`] or
//! [`Windows::Neighbours`]. Column `channel * n * n + y * n + x` of a row is the pixel in row `y` and column `x` of a window
//! of `n` x `n`; a pixel of which there is nothing to show is zero.
//!
//! Cost: no arithmetic; maps read once or twice, and windows written, 192 numbers a patch and 32 a pixel: memory bound
//! everywhere.
//! Comes after [`mod@super::similarity_map`]; [`mod@super::map_features_backward`] takes the winners.
//!
//! Numerics: numbers are copied, and rounded where rows are f16. Which of several NaN or other numbers beside a NaN is a
//! maximum is not defined.

mod cpu;
mod gpu;
mod layout;
mod reference;

#[doc(hidden)]
pub use reference::reference;

pub(super) use layout::Cut;
pub use layout::{LARGEST, Picture, WindowLayout, Windows};

use super::{OpSpec, in_every_tier};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "map_features",
    formula: "rows = windows over M, its row maxima and its column maxima",
    kernels: &[gpu::MAP_FEATURES],
    ptx: gpu::MAP_FEATURES.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::MAP_FEATURES.wgsl,
    wgsl_variants: || in_every_tier(gpu::variants()),
};

/// The arguments after checking.
struct Args<'a> {
    maps: Slice<'a, f32>,
    layout: &'a WindowLayout,
}

/// Writes the windows that `layout` names of `maps`, packed as by the [`MapLayout`](super::MapLayout) it was made from, to
/// `rows` `[layout.rows(), layout.windows().width()]`.
///
/// `winners`, if wanted, is `[layout.winners()]`: of every map the columns of the maxima of its first 128 rows, then the
/// rows of the maxima of its first 128 columns, [`NO_WINNER`](super::maxsim::NO_WINNER) where the other text is empty.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit.
///
/// ```
/// use nearmiss::{Device, ops::{MapLayout, PackedTexts, PairList, Picture, WindowLayout, map_features}};
/// let cpu = Device::cpu();
/// let (queries, documents) = (PackedTexts::new(&cpu, vec![0, 1])?, PackedTexts::new(&cpu, vec![0, 2])?);
/// let pairs = PairList::new(&cpu, vec![[0, 0]])?;
/// let layout = MapLayout::new(&cpu, &queries, &documents, &pairs)?;
/// let windows = WindowLayout::neighbours(&cpu, &layout, &[Picture::of([1, 2])])?;
/// let maps = cpu.upload(&[0.25f32, 0.5])?;
/// let mut rows = cpu.alloc::<f32>(2 * 32)?;
/// let mut winners = cpu.alloc::<u32>(windows.winners())?;
/// map_features(&maps, &windows, &mut rows, Some(winners.as_slice_mut()))?;
/// // Around the left pixel: itself and the right one, the maximum of their row twice, and those of their columns.
/// let rows = rows.read()?;
/// assert_eq!(rows[3..6], [0.0, 0.25, 0.5]);
/// assert_eq!(rows[9 + 3..9 + 6], [0.0, 0.5, 0.5]);
/// assert_eq!(rows[18 + 3..18 + 6], [0.0, 0.25, 0.5]);
/// assert_eq!(winners.read()?, [1, 0, 0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn map_features<'a, A: Float>(
    maps: impl Into<Slice<'a, f32>>,
    layout: &WindowLayout,
    rows: impl Into<SliceMut<'a, A>>,
    winners: Option<SliceMut<'a, u32>>,
) -> Result<()> {
    let (maps, mut rows, mut winners) = (maps.into(), rows.into(), winners);
    let device = rows.device();
    let check = SPEC.checks(device);
    let elements = layout.rows() * layout.windows().width();
    check.holds("maps", &maps, layout.elements())?;
    let table = layout.on_device(&check)?;
    check.holds("rows", &rows, elements)?;
    check.optional("winners", &winners, layout.winners())?;
    let won = winners.as_ref().map_or(0, SliceMut::len);
    let cost = Cost {
        flop: 0,
        bytes: (4 * (maps.len() + won) + elements * size_of::<A>()) as u64,
    };
    let args = Args { maps, layout };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let winners = winners.as_mut().map(SliceMut::host);
            cpu::map_features(&args, rows.host(), winners);
            Ok(())
        }
        Target::Gpu(gpu) => gpu::map_features(gpu, &args, table, rows, winners),
    })
}

#[cfg(test)]
pub(super) use tests::all;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::differences_test::noise;
    use crate::ops::{MapLayout, PackedTexts, PairList};

    /// The maps of every query with every document.
    pub(in crate::ops) fn all(cpu: &Device, queries: &[u32], documents: &[u32]) -> MapLayout {
        let packing = |lengths: &[u32]| {
            let mut offsets = vec![0];
            for l in lengths {
                offsets.push(offsets[offsets.len() - 1] + l);
            }
            PackedTexts::new(cpu, offsets).unwrap()
        };
        let pairs = (0..queries.len() as u32)
            .flat_map(|q| (0..documents.len() as u32).map(move |c| [q, c]))
            .collect();
        let pairs = PairList::new(cpu, pairs).unwrap();
        MapLayout::new(cpu, &packing(queries), &packing(documents), &pairs).unwrap()
    }

    #[test]
    fn the_cpu_agrees_with_the_definition() {
        let cpu = Device::cpu();
        let maps = all(&cpu, &[5, 0, 130, 8], &[1, 9, 0, 140]);
        // Coarse numbers, so that maxima are tied.
        let values: Vec<f32> = noise(maps.elements(), 3)
            .iter()
            .map(|v| (v * 4.0).round() as f32 / 4.0)
            .collect();
        let pictures: Vec<Picture> = (0..)
            .zip(maps.shapes())
            .map(|(p, &shape)| {
                let mut picture = Picture::of(shape);
                // Padded, cut, or as it is.
                match p % 3 {
                    0 => {
                        picture.extent = picture.extent.map(|n| (n + 3).min(LARGEST));
                        picture.height = (picture.height + 2).min(LARGEST);
                        picture.width = (picture.width + 5).min(LARGEST);
                    }
                    1 => picture.height /= 2,
                    _ => {}
                }
                picture
            })
            .collect();
        for layout in [
            WindowLayout::patches(&cpu, &maps).unwrap(),
            WindowLayout::neighbours(&cpu, &maps, &pictures).unwrap(),
        ] {
            let windows = layout.windows();
            let mut rows = cpu
                .upload(&vec![f32::NAN; layout.rows() * windows.width()])
                .unwrap();
            let mut winners = cpu.upload(&vec![7u32; layout.winners()]).unwrap();
            let on_device = cpu.upload(&values).unwrap();
            let won = Some(winners.as_slice_mut());
            map_features(&on_device, &layout, &mut rows, won).unwrap();
            let (mut want, mut want_winners) = (Vec::new(), Vec::new());
            for ((span, &shape), &picture) in
                maps.offsets().windows(2).zip(maps.shapes()).zip(&pictures)
            {
                let map = &values[span[0] as usize..span[1] as usize];
                let (rows, winners) = reference(map, shape, windows, picture);
                want.extend(rows);
                want_winners.extend(winners);
            }
            assert!(rows.read().unwrap() == want, "{windows:?}");
            assert!(winners.read().unwrap() == want_winners, "{windows:?}");
        }
    }
}
