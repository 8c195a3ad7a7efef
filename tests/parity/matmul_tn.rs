//! Cases of `matmul_tn`; broken variant: the last row is dropped.

use nearmiss::Device;
use nearmiss::device::{DeviceKind, Float, WgpuOptions};
use nearmiss::ops::matmul_tn::{error_bound, matmul_tn, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    reopened, rounding, sum, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    let mut shapes: Vec<(usize, usize, usize)> = Vec::new();
    for (i, t) in AWKWARD.into_iter().enumerate() {
        // Two different sizes, none a multiple of a tile in both of them.
        shapes.push((t, [8, 72, 136][i % 3], [8, 40, 200][(i + 1) % 3]));
    }
    // Sums that are split and that are not, tails of all lengths.
    shapes.extend([
        (2500, 64, 96),
        (515, 264, 384),
        (30, 384, 1032),
        (32, 128, 128),
        (300, 96, 8),
    ]);
    let mut cases = Vec::new();
    for (t, n, k) in shapes {
        for sums in [false, true] {
            cases.push(Case {
                op: "matmul_tn",
                name: format!("t={t},n={n},k={k},sums={sums}"),
                on: anywhere,
                run: Box::new(move |device| {
                    each(
                        activations(device),
                        |input| with_type!(input, A => case::<A>(device, t, n, k, sums)),
                    )
                }),
            });
        }
    }
    // A software adapter leaves the staged tiles out, which are what hardware runs: here it is told to take them, and
    // hardware the direct ones.
    for (t, n, k) in [
        (1, 8, 8),
        (33, 72, 40),
        (64, 64, 64),
        (1030, 136, 200),
        (257, 24, 264),
    ] {
        cases.push(Case {
            op: "matmul_tn",
            name: format!("the other tiles: t={t},n={n},k={k}"),
            on: |device| device.kind() == DeviceKind::Wgpu,
            run: Box::new(move |device| {
                let options = WgpuOptions {
                    staged: Some(device.is_software()),
                    ..Default::default()
                };
                reopened(device, options, |other| {
                    let outcomes = each(
                        activations(other),
                        |input| with_type!(input, A => case::<A>(other, t, n, k, true)),
                    );
                    Ok(sum([outcomes?, case::<f32>(other, t, n, k, false)?]))
                })
            }),
        });
    }
    cases
}

fn case<A: Float>(
    device: &Device,
    t: usize,
    n: usize,
    k: usize,
    sums: bool,
) -> Result<Outcome, String> {
    let mut noise = Noise::new(t * 10_037 + n * 107 + k);
    let a = noise.normal(t * n, 1.0);
    let b = noise.normal(t * k, 1.0);
    let before_c = noise.normal(n * k, 4.0);
    let before_sums = noise.normal(n, 4.0);
    let run = |poison, a: &[f32]| {
        let (a, b) = (
            device.upload(&cast::<A>(a))?,
            device.upload(&cast::<A>(&b))?,
        );
        let mut c = Output::holding(device, &before_c, poison)?;
        let mut column_sums = Output::holding(device, &before_sums, poison)?;
        let wanted = sums.then(|| column_sums.target());
        matmul_tn(&a, &b, c.target(), wanted, n, k)?;
        Ok((c.read()?, column_sums.read()?))
    };
    let got = twice(|poison| run(poison, &a))?;
    let broken = if t > 0 {
        let mut wrong = a.clone();
        wrong[(t - 1) * n..].fill(0.0);
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let rounding = rounding(device);
    let (c, all_sums) = reference::<f64, _>(&a, &b, &before_c, &before_sums, n, k);
    let (c_bound, sums_bound) = error_bound(&a, &b, &before_c, &before_sums, n, k, &rounding);
    let broken_c = broken.as_ref().map(|(c, _)| &c[..]);
    let mut outcomes = vec![judge(&got.0, broken_c, &c, |_| c_bound.clone(), &rounding)?];
    if sums {
        let broken_sums = broken.as_ref().map(|(_, sums)| &sums[..]);
        let bound = |_| sums_bound.clone();
        outcomes.push(judge(&got.1, broken_sums, &all_sums, bound, &rounding)?);
    } else if got.1 != before_sums {
        return Err("column sums that were not asked for".into());
    }
    Ok(sum(outcomes))
}
