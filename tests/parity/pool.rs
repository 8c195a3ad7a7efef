//! Cases of `pool`; broken variant: the last token of the last text is dropped (mean) or its first exchanged (first).

use half::f16;
use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::Packing;
use nearmiss::ops::pool::{Pooling, error_bound, pool, reference};

use super::{Case, Noise, Outcome, judge, line, rounding, sum};

pub fn cases() -> Vec<Case> {
    let packings: [&[usize]; 5] = [&[], &[1], &[31, 1, 0, 33], &[257, 127], &[2, 0, 511]];
    let mut cases = Vec::new();
    for lengths in packings {
        for d in [8, 64, 384, 1032] {
            for pooling in [Pooling::Mean, Pooling::First] {
                for normalize in [true, false] {
                    cases.push(Case {
                        op: "pool",
                        name: format!(
                            "lengths={lengths:?},d={d},{pooling:?},normalize={normalize}"
                        ),
                        run: Box::new(move |device| {
                            Ok(sum([
                                case::<f16>(device, lengths, d, pooling, normalize)?,
                                case::<f32>(device, lengths, d, pooling, normalize)?,
                            ]))
                        }),
                    });
                }
            }
        }
    }
    cases
}

fn case<T: Float>(
    device: &Device,
    lengths: &[usize],
    d: usize,
    pooling: Pooling,
    normalize: bool,
) -> Result<Outcome, String> {
    let mut offsets = vec![0u32];
    for l in lengths {
        offsets.push(offsets.last().expect("never empty") + *l as u32);
    }
    let t = *offsets.last().expect("never empty") as usize;
    let mut noise = Noise::new(t * 13 + d);
    let h = noise.normal(t * d, 1.0);
    let n = lengths.len();
    let run = |h: &[f32]| {
        let packing = Packing::new(device, offsets.clone())?;
        let mut out = device.alloc::<T>(n * d)?;
        pool(&device.upload(h)?, &packing, pooling, normalize, &mut out)?;
        out.read()
    };
    let got = run(&h).map_err(line)?;
    let broken = match lengths.last() {
        Some(&l) if l > 0 => {
            let mut wrong = h.clone();
            let row = match pooling {
                Pooling::Mean => t - 1,
                Pooling::First => t - l,
            };
            // A single token that is dropped leaves nothing; reversing it is wrong in either mode.
            wrong[row * d..][..d].reverse();
            Some(run(&wrong).map_err(line)?)
        }
        _ => None,
    };
    let want = reference::<f64>(&h, &offsets, pooling, normalize, d);
    let bound = error_bound(
        &h,
        &offsets,
        pooling,
        normalize,
        d,
        size_of::<T>(),
        &rounding(device),
    );
    judge(&got, broken.as_deref(), &want, &bound)
}
