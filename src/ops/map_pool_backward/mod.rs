//! `dM[i, j] = d_score dscore / dM[i, j]` of scores that are means over a similarity map
//!
//! The gradient in the map `M` `[l_q, l_c]` of a pair of the scores without weights of their own ([`MapPooling`]):
//!
//! * mean: `sum M / (l_q l_c)`; every element gets `d_score / (l_q l_c)`
//! * maximum ([`mod@super::maxsim`]): `sum_i max_j M_ij / l_q`; the first of the largest of each row gets `d_score / l_q`
//! * soft ([`mod@super::soft_alignment`], without its penalty): `sum_i r_i / l_q` with `r_i = sum_j A_ij M_ij` and `A_i =
//!   softmax_j((M_ij - distance |i - j|) / temperature)` over the tokens within the band; an element gets `d_score / l_q
//!   A_ij (1 + (M_ij - r_i) / temperature)`, one outside the band zero
//!
//! The maps are those of [`mod@super::similarity_map`], made again for training, where scores were made without them. Cost:
//! of a soft alignment 10 operations and an exponential per element against 8 bytes: memory bound everywhere.
//! Before [`mod@super::similarity_map_backward`].

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference, score};

use super::soft_alignment::Alignment;
use super::{MapLayout, OpSpec, in_every_tier};
use crate::device::{Cost, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "map_pool_backward",
    formula: "dM = d_score dscore / dM, score the mean of M, of its row maxima or of a soft alignment",
    kernels: &[gpu::MAP_POOL_BACKWARD],
    ptx: gpu::MAP_POOL_BACKWARD.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::MAP_POOL_BACKWARD.wgsl,
    wgsl_variants: || in_every_tier(gpu::variants()),
};

/// What a score makes of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MapPooling {
    /// The mean of all elements.
    Mean,
    /// The mean of the largest elements of all rows.
    Max,
    /// The mean of what a soft alignment makes of every row.
    Soft {
        /// What a step of distance between the positions costs, 0 or more.
        distance: f32,
        /// Temperature of the softmax, 1e-6 or more.
        temperature: f32,
        /// The largest distance that may be chosen, if it is limited.
        band: Option<u32>,
    },
}

impl MapPooling {
    /// As variants of kernels call it.
    fn name(self) -> &'static str {
        match self {
            MapPooling::Mean => "mean",
            MapPooling::Max => "max",
            MapPooling::Soft { .. } => "soft",
        }
    }

    /// The alignment of a soft one; of others one that nothing reads.
    fn alignment(self) -> Alignment {
        match self {
            MapPooling::Soft {
                distance,
                temperature,
                band,
            } => Alignment {
                distance,
                temperature,
                band,
                monotonicity: 0.0,
            },
            _ => Alignment::default(),
        }
    }
}

/// The arguments after checking.
struct Args<'a> {
    maps: Slice<'a, f32>,
    layout: &'a MapLayout,
    d_scores: Slice<'a, f32>,
    pooling: MapPooling,
}

/// From `d_scores` `[p]`, the gradients of the scores of `maps`, those of the maps to `d_maps`, both laid out by `layout`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes or a pooling that do not fit.
///
/// ```
/// use nearmiss::{Device, ops::{MapLayout, MapPooling, PackedTexts, PairList, map_pool_backward}};
/// let cpu = Device::cpu();
/// let (queries, documents) = (PackedTexts::new(&cpu, vec![0, 2])?, PackedTexts::new(&cpu, vec![0, 2])?);
/// let pairs = PairList::new(&cpu, vec![[0, 0]])?;
/// let layout = MapLayout::new(&cpu, &queries, &documents, &pairs)?;
/// let maps = cpu.upload(&[0.25f32, 0.5, 1.0, 0.0])?;
/// let d_scores = cpu.upload(&[1.0f32])?;
/// let mut d_maps = cpu.alloc::<f32>(4)?;
/// map_pool_backward(&maps, &layout, &d_scores, MapPooling::Max, &mut d_maps)?;
/// assert_eq!(d_maps.read()?, [0.0, 0.5, 0.5, 0.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn map_pool_backward<'a>(
    maps: impl Into<Slice<'a, f32>>,
    layout: &MapLayout,
    d_scores: impl Into<Slice<'a, f32>>,
    pooling: MapPooling,
    d_maps: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (maps, d_scores, mut d_maps) = (maps.into(), d_scores.into(), d_maps.into());
    let device = d_maps.device();
    let check = SPEC.checks(device);
    pooling.alignment().check(SPEC.name)?;
    layout.is_on(&check)?;
    check.holds("maps", &maps, layout.elements())?;
    check.holds("d_scores", &d_scores, layout.shapes().len())?;
    check.holds("d_maps", &d_maps, layout.elements())?;
    // The mean alone does not ask what is in a map.
    let (operations, reads) = match pooling {
        MapPooling::Mean => (0, 0),
        MapPooling::Max => (1, 1),
        MapPooling::Soft { .. } => (10, 1),
    };
    let cost = Cost {
        flop: (operations * maps.len()) as u64,
        bytes: 4 * ((1 + reads) * maps.len() + d_scores.len()) as u64,
    };
    let args = Args {
        maps,
        layout,
        d_scores,
        pooling,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::map_pool_backward(&args, d_maps.host());
            Ok(())
        }
        Target::Gpu(gpu) => gpu::map_pool_backward(gpu, &args, d_maps),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::Rounding;
    use crate::ops::differences_test::noise;
    use crate::ops::map_features::all;

    #[test]
    fn the_cpu_agrees_with_the_definition() {
        let cpu = Device::cpu();
        let maps = all(&cpu, &[5, 0, 40, 1], &[1, 9, 0, 33]);
        let single = |n, seed| noise(n, seed).iter().map(|&v| v as f32).collect::<Vec<_>>();
        let (values, d_scores) = (single(maps.elements(), 3), single(16, 4));
        let soft = |band| MapPooling::Soft {
            distance: 0.1,
            temperature: 0.1,
            band,
        };
        for pooling in [
            MapPooling::Mean,
            MapPooling::Max,
            soft(None),
            soft(Some(0)),
            soft(Some(3)),
            soft(Some(u32::MAX)),
        ] {
            let mut d_maps = cpu.upload(&vec![f32::NAN; maps.elements()]).unwrap();
            let (values_here, d_scores_here) =
                (cpu.upload(&values).unwrap(), cpu.upload(&d_scores).unwrap());
            map_pool_backward(&values_here, &maps, &d_scores_here, pooling, &mut d_maps).unwrap();
            let got = d_maps.read().unwrap();
            for (p, &shape) in maps.shapes().iter().enumerate() {
                let span = maps.offsets()[p] as usize..maps.offsets()[p + 1] as usize;
                let map = &values[span.clone()];
                let want = reference::<f64, _>(map, shape, pooling, d_scores[p]);
                let rounding = Rounding::of(cpu.kind());
                let bounds = error_bound(map, shape, pooling, d_scores[p], &rounding);
                for ((got, want), bound) in got[span].iter().zip(want).zip(bounds) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(
                        error <= bound,
                        "{pooling:?} {shape:?}: {got} {want} {bound:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_temperature_of_zero_is_refused() {
        let cpu = Device::cpu();
        let maps = all(&cpu, &[1], &[1]);
        let soft = MapPooling::Soft {
            distance: 0.1,
            temperature: 0.0,
            band: None,
        };
        let (one, mut d_maps) = (cpu.upload(&[1f32]).unwrap(), cpu.alloc::<f32>(1).unwrap());
        assert_eq!(
            map_pool_backward(&one, &maps, &one, soft, &mut d_maps)
                .unwrap_err()
                .to_string(),
            "shape mismatch in map_pool_backward: temperature: expected 1e-6 or more, got 0"
        );
    }
}
