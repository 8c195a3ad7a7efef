//! Cases of `matmul`; broken variant: the last eight of k are dropped.

use half::f16;
use nearmiss::Device;
use nearmiss::device::{DeviceKind, Float, WgpuOptions};
use nearmiss::ops::matmul::{Epilogue, error_bound, matmul, matmul_saving, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, judge, line,
    reopened, rounding, sum, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    let mut shapes: Vec<(usize, usize, usize)> = Vec::new();
    for (i, m) in AWKWARD.into_iter().enumerate() {
        // Three different sizes, none a multiple of a tile in all of them.
        shapes.push((m, [8, 72, 136][i % 3], [8, 40, 200][(i + 1) % 3]));
    }
    shapes.extend([(33, 264, 384), (130, 64, 1536), (65, 1024, 64)]);
    let mut cases = Vec::new();
    for (i, (m, n, k)) in shapes.into_iter().enumerate() {
        for epilogue in [0, 1 + i % 7, 7] {
            let then = Then::of(epilogue);
            let Then {
                bias,
                gelu,
                residual,
                ..
            } = then;
            let name =
                format!("m={m},n={n},k={k},bias={bias},gelu={gelu},residual={residual}#{epilogue}");
            cases.push(with_every_type(name, m, n, k, then));
        }
        // What GELU takes is kept, with and without the other parts.
        let then = Then {
            saving: true,
            ..Then::of([3, 7, 2, 6][i % 4])
        };
        let Then { bias, residual, .. } = then;
        let name = format!("saving: m={m},n={n},k={k},bias={bias},residual={residual}");
        cases.push(with_every_type(name, m, n, k, then));
    }
    // A software adapter leaves the staged tiles out, which are what hardware runs: here it is told to take them, and
    // hardware the direct ones.
    for (m, n, k) in [
        (1, 8, 8),
        (33, 72, 40),
        (64, 64, 64),
        (130, 136, 200),
        (257, 264, 24),
    ] {
        for (epilogue, saving) in [(0, false), (7, false), (7, true)] {
            let then = Then {
                saving,
                ..Then::of(epilogue)
            };
            cases.push(Case {
                op: "matmul",
                name: format!(
                    "the other tiles: m={m},n={n},k={k},epilogue={epilogue},saving={saving}"
                ),
                on: |device| device.kind() == DeviceKind::Wgpu,
                run: Box::new(move |device| {
                    let options = WgpuOptions {
                        staged: Some(device.is_software()),
                        ..Default::default()
                    };
                    reopened(device, options, |other| {
                        Ok(sum([
                            case::<f16, f16>(other, m, n, k, then)?,
                            case::<f32, f32>(other, m, n, k, then)?,
                        ]))
                    })
                }),
            });
        }
    }
    cases
}

/// What follows the product.
#[derive(Clone, Copy)]
struct Then {
    bias: bool,
    gelu: bool,
    residual: bool,
    saving: bool,
}

impl Then {
    fn of(bits: usize) -> Self {
        Then {
            bias: bits & 1 != 0,
            gelu: bits & 2 != 0,
            residual: bits & 4 != 0,
            saving: false,
        }
    }
}

fn with_every_type(name: String, m: usize, n: usize, k: usize, then: Then) -> Case {
    Case {
        op: "matmul",
        name,
        on: anywhere,
        run: Box::new(move |device| {
            let mut outcomes = Vec::new();
            for &input in activations(device) {
                outcomes.push(with_type!(input, A => case::<A, f32>(device, m, n, k, then))?);
                if device.kind() != DeviceKind::Cpu {
                    outcomes.push(with_type!(input, A => case::<A, f16>(device, m, n, k, then))?);
                }
            }
            Ok(sum(outcomes))
        }),
    }
}

fn case<A: Float, C: Float>(
    device: &Device,
    m: usize,
    n: usize,
    k: usize,
    then: Then,
) -> Result<Outcome, String> {
    let mut noise = Noise::new(m * 10_007 + n * 101 + k);
    let a = noise.normal(m * k, 1.0);
    let w = noise.normal(n * k, 1.0 / (k as f32).sqrt());
    let shift = noise.normal(n, 0.5);
    let add = noise.normal(m * n, 1.0);
    let run = |poison, a: &[f32]| {
        let (a, w) = (
            device.upload(&cast::<A>(a))?,
            device.upload(&cast::<A>(&w))?,
        );
        let (shift, add) = (device.upload(&shift)?, device.upload(&add)?);
        let epilogue = Epilogue {
            bias: then.bias.then(|| shift.as_slice()),
            gelu: then.gelu,
            residual: then.residual.then(|| add.as_slice()),
        };
        let mut c = Output::<C>::new(device, m * n, poison)?;
        let mut saved = Output::<A>::new(device, if then.saving { m * n } else { 0 }, poison)?;
        if then.saving {
            matmul_saving(&a, &w, &epilogue, saved.target(), c.target(), m, n)?;
        } else {
            matmul(&a, &w, &epilogue, c.target(), m, n)?;
        }
        Ok((c.read()?, saved.read()?))
    };
    let got = twice(|poison| run(poison, &a))?;
    let broken = if m > 0 {
        let mut wrong = a.clone();
        wrong.chunks_mut(k).for_each(|row| row[k - 8..].fill(0.0));
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let (shift, add) = (
        then.bias.then_some(&shift[..]),
        then.residual.then_some(&add[..]),
    );
    let rounding = rounding(device);
    let want = reference::<f64, _>(&a, &w, shift, then.gelu, add, n);
    let bound = |bytes| error_bound(&a, &w, shift, then.gelu, add, n, bytes, &rounding);
    let broken_c = broken.as_ref().map(|(c, _)| &c[..]);
    let outcome = judge(&got.0, broken_c, &want, bound, &rounding)?;
    if !then.saving {
        return Ok(outcome);
    }
    let want = reference::<f64, _>(&a, &w, shift, false, None, n);
    let bound = |bytes| error_bound(&a, &w, shift, false, None, n, bytes, &rounding);
    let broken_saved = broken.as_ref().map(|(_, saved)| &saved[..]);
    let saved = judge(&got.1, broken_saved, &want, bound, &rounding)?;
    Ok(sum([outcome, saved]))
}
