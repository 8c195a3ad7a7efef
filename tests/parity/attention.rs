//! Cases of `attention`; broken variant: the boundary between the last two texts is ignored.

use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::PackedTexts;
use nearmiss::ops::attention::WorkList;
use nearmiss::ops::attention::{attention, error_bound, reference};

use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line, on_cuda,
    rounding, twice, with_type,
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
    cases
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
    let mut offsets = vec![0u32];
    for l in lengths {
        offsets.push(offsets.last().expect("never empty") + *l as u32);
    }
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
