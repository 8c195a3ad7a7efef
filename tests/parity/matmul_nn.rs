//! Cases of `matmul_nn`; broken variant: the last eight of n are dropped.

use half::f16;
use nearmiss::Device;
use nearmiss::device::{DeviceKind, Float, WgpuOptions};
use nearmiss::ops::matmul_nn::{NnEpilogue, error_bound, matmul_nn, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, judge, line,
    reopened, rounding, sum, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    let mut shapes: Vec<(usize, usize, usize)> = Vec::new();
    for (i, m) in AWKWARD.into_iter().enumerate() {
        // Three different sizes, none a multiple of a tile in all of them.
        shapes.push((m, [8, 40, 200][(i + 1) % 3], [8, 72, 136][i % 3]));
    }
    shapes.extend([(33, 384, 264), (130, 1536, 64), (65, 64, 1024)]);
    let mut cases = Vec::new();
    for (i, (m, n, k)) in shapes.into_iter().enumerate() {
        for epilogue in [0, 1 + i % 3] {
            let (gelu, residual) = (epilogue & 1 != 0, epilogue & 2 != 0);
            cases.push(Case {
                op: "matmul_nn",
                name: format!("m={m},n={n},k={k},gelu={gelu},residual={residual}"),
                on: anywhere,
                run: Box::new(move |device| {
                    let mut outcomes = Vec::new();
                    for &input in activations(device) {
                        outcomes.push(with_type!(input, A => case::<A, f32>(device, m, n, k, gelu, residual))?);
                        if device.kind() != DeviceKind::Cpu {
                            outcomes.push(with_type!(input, A => case::<A, f16>(device, m, n, k, gelu, residual))?);
                        }
                    }
                    Ok(sum(outcomes))
                }),
            });
        }
    }
    // A software adapter leaves the staged tiles out, which are what hardware runs: here it is told to take them, and
    // hardware the direct ones.
    for (m, n, k) in [
        (1, 8, 8),
        (33, 40, 72),
        (64, 64, 64),
        (130, 200, 136),
        (257, 24, 264),
    ] {
        for flag in [false, true] {
            cases.push(Case {
                op: "matmul_nn",
                name: format!("the other tiles: m={m},n={n},k={k},gelu={flag},residual={flag}"),
                on: |device| device.kind() == DeviceKind::Wgpu,
                run: Box::new(move |device| {
                    let options = WgpuOptions {
                        staged: Some(device.is_software()),
                        ..Default::default()
                    };
                    reopened(device, options, |other| {
                        Ok(sum([
                            case::<f16, f16>(other, m, n, k, flag, flag)?,
                            case::<f32, f32>(other, m, n, k, flag, flag)?,
                        ]))
                    })
                }),
            });
        }
    }
    cases
}

fn case<A: Float, C: Float>(
    device: &Device,
    m: usize,
    n: usize,
    k: usize,
    gelu: bool,
    residual: bool,
) -> Result<Outcome, String> {
    let mut noise = Noise::new(m * 10_009 + n * 103 + k);
    let a = noise.normal(m * n, 1.0);
    let w = noise.normal(n * k, 1.0 / (n as f32).sqrt());
    // Some of it where erf has long become one.
    let before = noise.normal(m * k, 3.0);
    let add = noise.normal(m * k, 1.0);
    let run = |poison, a: &[f32]| {
        let (a, w) = (
            device.upload(&cast::<A>(a))?,
            device.upload(&cast::<A>(&w))?,
        );
        let (before, add) = (device.upload(&cast::<A>(&before))?, device.upload(&add)?);
        let epilogue = NnEpilogue {
            gelu_of: gelu.then(|| before.as_slice()),
            residual: residual.then(|| add.as_slice()),
        };
        let mut c = Output::<C>::new(device, m * k, poison)?;
        matmul_nn(&a, &w, &epilogue, c.target(), m, k)?;
        c.read()
    };
    let got = twice(|poison| run(poison, &a))?;
    let broken = if m > 0 {
        let mut wrong = a.clone();
        wrong.chunks_mut(n).for_each(|row| row[n - 8..].fill(0.0));
        Some(run(POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let (before, add) = (gelu.then_some(&before[..]), residual.then_some(&add[..]));
    let want = reference::<f64, _>(&a, &w, before, add, k);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&a, &w, before, add, k, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
