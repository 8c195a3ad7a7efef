//! Cases of `pool`; broken variant: the last token of the last text is dropped (mean) or its first exchanged (first).

use half::f16;
use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::PackedTexts;
use nearmiss::ops::pool::{Pooling, error_bound, pool, reference};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, on_cuda, rounding, sum, twice,
};

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
                        on: anywhere,
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
    cases.extend([8, 384, 1032].map(|d| Case {
        op: "pool",
        name: format!("the same bits in any batch: d={d}"),
        on: anywhere,
        run: Box::new(move |device| {
            Ok(sum([
                in_any_batch(device, d, true)?,
                in_any_batch(device, d, false)?,
            ]))
        }),
    }));
    cases.push(Case {
        op: "pool",
        name: "rows that are too wide are refused".into(),
        on: on_cuda,
        run: Box::new(too_wide),
    });
    cases
}

/// Alone, a text this long takes two stages on a GPU; among so many others it takes one.
fn in_any_batch(device: &Device, d: usize, normalize: bool) -> Result<Outcome, String> {
    let (long, others) = (1001, 300);
    let h = Noise::new(d).normal((long + others) * d, 1.0);
    let alone = vec![0, long as u32];
    let among: Vec<u32> = std::iter::once(0)
        .chain((0..=others).map(|i| (long + i) as u32))
        .collect();
    let run = |rows: &[f32], offsets: &[u32]| {
        twice(|poison| {
            let packing = PackedTexts::new(device, offsets.to_vec())?;
            let mut out = Output::<f32>::new(device, packing.texts() * d, poison)?;
            let h = device.upload(rows)?;
            pool(&h, &packing, Pooling::Mean, normalize, out.target())?;
            out.read()
        })
    };
    let got = run(&h[..long * d], &alone)?;
    if got != run(&h, &among)?[..d] {
        return Err(format!("other bits among others, normalize = {normalize}"));
    }
    let (h, rounding) = (&h[..long * d], rounding(device));
    let want = reference::<f64, _>(h, &alone, Pooling::Mean, normalize, d);
    let bound = |bytes| error_bound(h, &alone, Pooling::Mean, normalize, d, bytes, &rounding);
    judge(&got, None, &want, bound, &rounding)
}

/// The widest row that the PTX kernel takes, and one that is wider.
fn too_wide(device: &Device) -> Result<Outcome, String> {
    let run = |d: usize| {
        let packing = PackedTexts::new(device, vec![0, 2])?;
        let h = device.upload(&vec![1.0f32; 2 * d])?;
        let mut out = Output::<f32>::new(device, d, POISONS[0])?;
        pool(&h, &packing, Pooling::Mean, false, out.target())?;
        out.read()
    };
    let widest = 12_280;
    if run(widest).map_err(line)? != vec![1.0; widest] {
        return Err("the mean of ones is not one".into());
    }
    match run(widest + 8) {
        Err(e) if e.to_string().contains("at most 12280") => Ok(Outcome {
            elements: widest as u64,
            ..Outcome::default()
        }),
        Err(e) => Err(e.to_string()),
        Ok(_) => Err(format!("width {} is not refused", widest + 8)),
    }
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
    let run = |poison, h: &[f32]| {
        let packing = PackedTexts::new(device, offsets.clone())?;
        let mut out = Output::<T>::new(device, n * d, poison)?;
        pool(
            &device.upload(h)?,
            &packing,
            pooling,
            normalize,
            out.target(),
        )?;
        out.read()
    };
    let got = twice(|poison| run(poison, &h))?;
    let broken = match lengths.last() {
        Some(&l) if l > 0 => {
            let mut wrong = h.clone();
            let row = match pooling {
                Pooling::Mean => t - 1,
                Pooling::First => t - l,
            };
            // A single token that is dropped leaves nothing; reversing it is wrong in either mode.
            wrong[row * d..][..d].reverse();
            Some(run(POISONS[0], &wrong).map_err(line)?)
        }
        _ => None,
    };
    let want = reference::<f64, _>(&h, &offsets, pooling, normalize, d);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&h, &offsets, pooling, normalize, d, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
