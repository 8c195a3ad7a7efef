//! Cases of `attention`; broken variant: the boundary between the last two texts is ignored.

use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::Packing;
use nearmiss::ops::attention::{attention, error_bound, reference};

use super::{Case, Noise, Outcome, activations, cast, judge, line, rounding, sum, with_type};

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
                run: Box::new(move |device| {
                    let outcomes: Result<Vec<Outcome>, String> = activations(device)
                        .iter()
                        .map(|&element| with_type!(element, A => case::<A>(device, &lengths, n_heads, head_dim)))
                        .collect();
                    Ok(sum(outcomes?))
                }),
            });
        }
    }
    cases
}

fn case<A: Float>(
    device: &Device,
    lengths: &[usize],
    n_heads: usize,
    head_dim: usize,
) -> Result<Outcome, String> {
    let mut offsets = vec![0u32];
    for l in lengths {
        offsets.push(offsets.last().expect("never empty") + *l as u32);
    }
    let t = *offsets.last().expect("never empty") as usize;
    let d = n_heads * head_dim;
    let mut noise = Noise::new(t * 31 + d);
    let qkv = noise.normal(t * 3 * d, 1.0);
    let run = |offsets: &[u32]| {
        let packing = Packing::new(device, offsets.to_vec())?;
        let mut out = device.alloc::<A>(t * d)?;
        attention(
            &device.upload(&cast::<A>(&qkv))?,
            &packing,
            n_heads,
            head_dim,
            &mut out,
        )?;
        out.read()
    };
    let got = run(&offsets).map_err(line)?;
    let broken = match offsets[..] {
        [.., before, boundary, last] if before < boundary && boundary < last => {
            let mut merged = offsets.clone();
            merged.remove(offsets.len() - 2);
            Some(run(&merged).map_err(line)?)
        }
        _ => None,
    };
    let want = reference::<f64>(&qkv, &offsets, n_heads, head_dim);
    let bound = error_bound(
        &qkv,
        &offsets,
        n_heads,
        head_dim,
        size_of::<A>(),
        &rounding(device),
    );
    judge(&got, broken.as_deref(), &want, &bound)
}
