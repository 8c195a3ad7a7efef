//! Cases of `attention`; broken variant: the boundary between the last two texts is ignored; in training, another mask.

use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::attention::{
    Training, WorkList, attention, attention_saving, error_bound, error_bound_saving, reference,
    reference_saving,
};
use nearmiss::ops::dropout::{Mask, Site};
use nearmiss::ops::{Origins, PackedTexts};

use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line, on_cuda,
    rounding, sum, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    let packings: [&[usize]; 6] = [
        &[],
        &[1],
        &[31, 1, 0, 33],
        &[127, 16],
        &[257, 3],
        &[17, 0, 0, 15],
    ];
    let mut cases = Vec::new();
    for lengths in packings {
        for (n_heads, head_dim) in [(3, 32), (4, 32), (2, 64), (1, 384)] {
            let heavy = head_dim == 384 && lengths.iter().any(|&l| l > 200);
            let lengths: Vec<usize> = if heavy {
                vec![129, 3]
            } else {
                lengths.to_vec()
            };
            cases.push(Case {
                op: "attention",
                name: format!("lengths={lengths:?},heads={n_heads}x{head_dim}"),
                on: anywhere,
                run: Box::new(move |device| {
                    each(activations(device), |element| {
                        with_type!(element, A => case::<A>(device, &lengths, n_heads, head_dim, 1.0))
                    })
                }),
            });
        }
    }
    cases.extend(cases_by_size());
    cases.extend(cases_in_training());
    cases
}

/// Dropout and statistics.
fn cases_in_training() -> Vec<Case> {
    let mixed = [64, 65, 32, 20, 0, 130, 2, 191, 16, 63];
    // Few shapes of heads: each takes a software adapter a while to compile.
    let table: [(&[usize], usize, usize, f32, f32); 9] = [
        (&[], 3, 32, 1.0, 0.1),
        (&[1], 3, 32, 1.0, 0.5),
        (&[31, 1, 0, 33], 3, 32, 1.0, 0.1),
        (&mixed, 3, 32, 1.0, 0.0),
        (&mixed, 3, 32, 1.0, 0.1),
        (&[97, 33, 40], 3, 64, 5.0, 0.25),
        (&[257, 3], 3, 64, 1.0, 0.1),
        (&[45, 3], 2, 96, 1.0, 0.1),
        (&[33, 20], 1, 544, 1.0, 0.5),
    ];
    let case = |(lengths, n_heads, head_dim, size, rate): (&[usize], _, _, _, _)| {
        let lengths = lengths.to_vec();
        Case {
            op: "attention",
            name: format!(
                "training,lengths={lengths:?},heads={n_heads}x{head_dim},size={size},rate={rate}"
            ),
            on: if head_dim == 96 { on_cuda } else { anywhere },
            run: Box::new(move |device| {
                let shape = (n_heads, head_dim);
                each(
                    activations(device),
                    |element| with_type!(element, A => training::<A>(device, &lengths, shape, size, rate)),
                )
            }),
        }
    };
    table.map(case).into()
}

/// Offsets of texts of these lengths.
pub(super) fn offsets_of(lengths: &[usize]) -> Vec<u32> {
    let mut offsets = vec![0u32];
    for l in lengths {
        offsets.push(offsets.last().expect("never empty") + *l as u32);
    }
    offsets
}

/// Numbers of texts in a larger batch: neither in order nor from 0.
pub(super) fn numbers_of(lengths: &[usize]) -> Vec<u32> {
    (0..lengths.len() as u32)
        .map(|i| 1000 + i * 7 % 11)
        .collect()
}

fn training<A: Float>(
    device: &Device,
    lengths: &[usize],
    (n_heads, head_dim): (usize, usize),
    size: f32,
    rate: f32,
) -> Result<Outcome, String> {
    let (offsets, numbers) = (offsets_of(lengths), numbers_of(lengths));
    let t = *offsets.last().expect("never empty") as usize;
    let d = n_heads * head_dim;
    let mut noise = Noise::new(t * 31 + d);
    let qkv = noise.normal(t * 3 * d, size);
    let run = |poison, mask: Mask| {
        let packing = PackedTexts::new(device, offsets.clone())?;
        let work = WorkList::new(&packing)?;
        let origins = Origins::new(&packing, &numbers)?;
        let mut out = Output::<A>::new(device, t * d, poison)?;
        let mut statistics = Output::<f32>::new(device, t * n_heads, poison)?;
        let training = Training {
            statistics: statistics.target(),
            mask: Some((mask, &origins)),
        };
        attention_saving(
            &device.upload(&cast::<A>(&qkv))?,
            &packing,
            &work,
            n_heads,
            head_dim,
            training,
            out.target(),
        )?;
        Ok((out.read()?, statistics.read()?))
    };
    let mask = Mask::new(rate, 7, 3, 1, Site::Probabilities);
    let other = Mask::new(rate, 7, 4, 1, Site::Probabilities);
    let (out, statistics) = twice(|poison| run(poison, mask))?;
    let broken = if rate > 0.0 && t > 1 {
        Some(run(POISONS[0], other).map_err(line)?.0)
    } else {
        None
    };
    let dropped = Some((mask, &numbers[..]));
    let (want, of_rows) = reference_saving::<f64>(&qkv, &offsets, n_heads, head_dim, dropped);
    let rounding = rounding(device);
    let bounds =
        |bytes| error_bound_saving(&qkv, &offsets, n_heads, head_dim, dropped, bytes, &rounding);
    Ok(sum([
        judge(
            &out,
            broken.as_deref(),
            &want,
            |bytes| bounds(bytes).0,
            &rounding,
        )?,
        judge(
            &statistics,
            None,
            &of_rows,
            |bytes| bounds(bytes).1,
            &rounding,
        )?,
    ]))
}

/// What the PTX kernel does differently by the size of its input; the widest heads are a matter of all devices.
fn cases_by_size() -> Vec<Case> {
    // A block takes 1, 2 or 4 heads by the length of the text (more than 64 rows, 64, 32), keys come 64 at a time and
    // then 32, into a ring of three stages; the number of heads need not divide.
    let mixed = [64, 65, 32, 20, 0, 128, 2, 191, 16, 63];
    let (long, middle) = (&[449, 64][..], &[97, 33, 40][..]);
    let table: [(&[usize], usize, usize, f32); 12] = [
        (&mixed, 5, 32, 1.0),
        (&mixed, 3, 64, 1.0),
        (long, 2, 32, 1.0),
        (long, 1, 64, 1.0),
        // Sharp probabilities: the maximum rises late, and most probabilities vanish.
        (long, 2, 32, 5.0),
        (middle, 3, 64, 5.0),
        // Two, three, eight slices of 64 columns, with 32 keys per step; nine and twelve, with 16. Some end half full.
        (middle, 2, 96, 1.0),
        (middle, 1, 160, 5.0),
        (middle, 1, 512, 1.0),
        (middle, 1, 544, 1.0),
        (middle, 1, 768, 1.0),
        (&mixed, 2, 128, 1.0),
    ];
    table
        .map(|(lengths, n_heads, head_dim, size)| {
            let lengths = lengths.to_vec();
            Case {
                op: "attention",
                name: format!("lengths={lengths:?},heads={n_heads}x{head_dim},size={size}"),
                on: if head_dim < 512 { on_cuda } else { anywhere },
                run: Box::new(move |device| {
                    each(activations(device), |element| {
                        with_type!(element, A => case::<A>(device, &lengths, n_heads, head_dim, size))
                    })
                }),
            }
        })
        .into()
}

fn case<A: Float>(
    device: &Device,
    lengths: &[usize],
    n_heads: usize,
    head_dim: usize,
    size: f32,
) -> Result<Outcome, String> {
    let offsets = offsets_of(lengths);
    let t = *offsets.last().expect("never empty") as usize;
    let d = n_heads * head_dim;
    let mut noise = Noise::new(t * 31 + d);
    let qkv = noise.normal(t * 3 * d, size);
    let run = |poison, offsets: &[u32]| {
        let packing = PackedTexts::new(device, offsets.to_vec())?;
        let work = WorkList::new(&packing)?;
        let mut out = Output::<A>::new(device, t * d, poison)?;
        attention(
            &device.upload(&cast::<A>(&qkv))?,
            &packing,
            &work,
            n_heads,
            head_dim,
            out.target(),
        )?;
        out.read()
    };
    let got = twice(|poison| run(poison, &offsets))?;
    let broken = match offsets[..] {
        [.., before, boundary, last] if before < boundary && boundary < last => {
            let mut merged = offsets.clone();
            merged.remove(offsets.len() - 2);
            Some(run(POISONS[0], &merged).map_err(line)?)
        }
        _ => None,
    };
    let want = reference::<f64>(&qkv, &offsets, n_heads, head_dim);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&qkv, &offsets, n_heads, head_dim, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
