//! Approximate functions: within the error that the PTX ISA documents, and exact at the values it lists.

use crate::{INF, MAX, NAN, NAN_IN, NEG_INF, NEG_ZERO, SUB, TINY, Table, f, p2};

/// Unit in the last place of an f32 of the size of `v`.
fn ulp(v: f64) -> f64 {
    2f64.powi((v.abs().log2().floor() as i32).max(-126) - 23)
}

#[test]
fn special_values_are_exact() {
    let minus = |v: u64| v | NEG_ZERO;
    Table::new()
        .is("w>w", "rcp.approx.f32 %d, %a;", &[[0, INF], [NEG_ZERO, NEG_INF], [INF, 0], [NEG_INF, NEG_ZERO], [f(2.0), f(0.5)], [f(1.0), f(1.0)], [NAN_IN, NAN]])
        .is("w>w", "rcp.approx.ftz.f32 %d, %a;", &[[SUB, INF], [minus(SUB), NEG_INF], [INF, 0], [MAX, 0], [f(4.0), f(0.25)]])
        .is("w>w", "sqrt.approx.f32 %d, %a;", &[[0, 0], [NEG_ZERO, NEG_ZERO], [INF, INF], [f(-1.0), NAN], [NEG_INF, NAN], [f(4.0), f(2.0)], [NAN_IN, NAN]])
        .is("w>w", "rsqrt.approx.f32 %d, %a;", &[[0, INF], [NEG_ZERO, NEG_INF], [INF, 0], [f(-1.0), NAN], [f(4.0), f(0.5)], [f(1.0), f(1.0)], [NAN_IN, NAN]])
        .is("w>w", "rsqrt.approx.ftz.f32 %d, %a;", &[[SUB, INF], [minus(SUB), NEG_INF]])
        .is("w>w", "ex2.approx.f32 %d, %a;", &[[0, f(1.0)], [NEG_ZERO, f(1.0)], [f(10.0), f(1024.0)], [f(-1.0), f(0.5)], [INF, INF], [NEG_INF, 0], [f(128.0), INF], [f(-200.0), 0], [NAN_IN, NAN]])
        .is("w>w", "ex2.approx.ftz.f32 %d, %a;", &[[0, f(1.0)], [SUB, f(1.0)], [f(-130.0), 0], [NEG_INF, 0], [f(-126.0), TINY]])
        .is("w>w", "lg2.approx.f32 %d, %a;", &[[f(1.0), 0], [f(8.0), f(3.0)], [f(0.25), f(-2.0)], [0, NEG_INF], [NEG_ZERO, NEG_INF], [INF, INF], [f(-1.0), NAN], [NAN_IN, NAN]])
        .is("w>w", "lg2.approx.ftz.f32 %d, %a;", &[[SUB, NEG_INF], [f(2.0), f(1.0)]])
        .is("w>w", "sin.approx.f32 %d, %a;", &[[0, 0], [NEG_ZERO, NEG_ZERO], [INF, NAN], [NEG_INF, NAN], [NAN_IN, NAN]])
        .is("w>w", "cos.approx.f32 %d, %a;", &[[0, f(1.0)], [NEG_ZERO, f(1.0)], [INF, NAN], [NAN_IN, NAN]])
        .is("w>w", "tanh.approx.f32 %d, %a;", &[[0, 0], [NEG_ZERO, NEG_ZERO], [INF, f(1.0)], [NEG_INF, f(-1.0)], [NAN_IN, NAN]])
        .is("ww>w", "div.approx.f32 %d, %a, %b;", &[[f(6.0), f(2.0), f(3.0)], [f(1.0), 0, INF], [0, 0, NAN], [INF, INF, NAN], [f(1.0), INF, 0]])
        .is("ww>w", "div.full.f32 %d, %a, %b;", &[[f(6.0), f(2.0), f(3.0)], [f(1.0), 0, INF]])
        .check();
}

/// Arguments over many magnitudes, irregular in their bits.
fn arguments(from: i32, to: i32) -> Vec<f32> {
    let mut bits = 12_345u32;
    (from..to)
        .flat_map(|e| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mantissa = 1.0 + f64::from(bits >> 8) * p2(-24);
            [(mantissa * p2(e)) as f32, (-mantissa * p2(e)) as f32]
        })
        .collect()
}

#[test]
fn errors_stay_within_the_documented_bounds() {
    let positive = |from, to| arguments(from, to).into_iter().filter(|v| *v > 0.0);
    // 1 ulp.
    let reciprocals: Vec<_> = arguments(-125, 125)
        .into_iter()
        .map(|v| (v, 1.0 / f64::from(v), ulp(1.0 / f64::from(v))))
        .collect();
    // Relative error 2^-22.9.
    let inverse_roots: Vec<_> = positive(-126, 127)
        .map(|v| (v, 1.0 / f64::from(v).sqrt(), p2(0) / f64::from(v).sqrt() * 2f64.powf(-22.9)))
        .collect();
    // Relative error 2^-23 over the full range in later editions of the manual, 1 ulp of what rsqrt and rcp compose to
    // in all: 2^-22 holds for both.
    let roots: Vec<_> = positive(-126, 127)
        .map(|v| (v, f64::from(v).sqrt(), f64::from(v).sqrt() * p2(-22)))
        .collect();
    // 2 ulp in [2^-126 .. 2^128).
    let powers: Vec<_> = arguments(-20, 7)
        .into_iter()
        .filter(|v| v.abs() < 126.0)
        .map(|v| (v, f64::from(v).exp2(), 2.0 * ulp(f64::from(v).exp2())))
        .collect();
    // Absolute error 2^-22 in [0.5, 2], relative error 2^-22 elsewhere.
    let logarithms: Vec<_> = positive(-126, 127)
        .map(|v| {
            let want = f64::from(v).log2();
            let scale = if (0.5..=2.0).contains(&v) { 1.0 } else { want.abs() };
            (v, want, scale * p2(-22))
        })
        .collect();
    // Absolute error 2^-20.5 in [-2 pi, 2 pi].
    let angles: Vec<f32> = (-100..=100).map(|i| i as f32 * 0.0628).collect();
    let sines: Vec<_> = angles.iter().map(|v| (*v, f64::from(*v).sin(), 2f64.powf(-20.5))).collect();
    let cosines: Vec<_> = angles.iter().map(|v| (*v, f64::from(*v).cos(), 2f64.powf(-20.5))).collect();
    // Relative error 2^-11.
    let tangents: Vec<_> = arguments(-20, 4)
        .into_iter()
        .map(|v| (v, f64::from(v).tanh(), f64::from(v).tanh().abs() * p2(-11)))
        .collect();
    Table::new()
        .near("rcp.approx.f32 %d, %a;", &reciprocals)
        .near("rcp.approx.ftz.f32 %d, %a;", &reciprocals)
        .near("rsqrt.approx.f32 %d, %a;", &inverse_roots)
        .near("rsqrt.approx.ftz.f32 %d, %a;", &inverse_roots)
        .near("sqrt.approx.f32 %d, %a;", &roots)
        .near("sqrt.approx.ftz.f32 %d, %a;", &roots)
        .near("ex2.approx.f32 %d, %a;", &powers)
        .near("ex2.approx.ftz.f32 %d, %a;", &powers)
        .near("lg2.approx.f32 %d, %a;", &logarithms)
        .near("lg2.approx.ftz.f32 %d, %a;", &logarithms)
        .near("sin.approx.f32 %d, %a;", &sines)
        .near("cos.approx.f32 %d, %a;", &cosines)
        .near("tanh.approx.f32 %d, %a;", &tangents)
        .check();
}
