use super::reference::{error_bound, reference};
use super::*;
use crate::ops::Rounding;
use crate::random::Stream;
use crate::{Device, DeviceKind};

/// Numbers between -1 and 1.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut stream = Stream::new(seed, &["info_nce"], 0);
    let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
    (0..n).map(|_| 2.0 * unit(stream.bits()) - 1.0).collect()
}

/// Losses and both gradients, on the CPU, of rows of width 8 that every anchor sees.
fn on_cpu(anchors: &[f32], candidates: &[f32], scale: f32) -> [Vec<f32>; 3] {
    let cpu = Device::cpu();
    let (a, c) = (
        cpu.upload(anchors).unwrap(),
        cpu.upload(candidates).unwrap(),
    );
    let batch = InfoNce {
        anchors: (&a).into(),
        candidates: (&c).into(),
        own: None,
        d: 8,
        scale,
        gradient_scale: 1.0,
    };
    let sizes = [anchors.len() / 8, anchors.len(), candidates.len()];
    let [mut losses, mut d_anchors, mut d_candidates] = sizes.map(|n| cpu.alloc(n).unwrap());
    info_nce(&batch, &mut losses, &mut d_anchors, &mut d_candidates).unwrap();
    [losses, d_anchors, d_candidates].map(|values| values.read().unwrap())
}

/// The check value of the protocol, widened by zeros.
#[test]
fn two_triplets_have_the_loss_of_the_protocol() {
    let wide = |rows: &[[f32; 2]]| -> Vec<f32> {
        let row = |&[x, y]: &[f32; 2]| [x, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        rows.iter().flat_map(row).collect()
    };
    let anchors = wide(&[[1.0, 0.0], [0.0, 1.0]]);
    let candidates = wide(&[[0.8, 0.6], [0.6, 0.8], [0.6, -0.8], [-0.8, 0.6]]);
    let exact = reference::<f64, f32>(&anchors, &candidates, None, 8, 10.0, 1.0);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / 2.0;
    // 0.8 and 0.6 are rounded to f32.
    assert!((mean(&exact.losses) - 0.239_544_854_8).abs() < 1e-6);

    let [losses, d_anchors, d_candidates] = on_cpu(&anchors, &candidates, 10.0);
    let rounding = Rounding::of(DeviceKind::Cpu);
    let bound = error_bound(&anchors, &candidates, None, 8, 10.0, 1.0, &rounding);
    for (got, want, bound) in [
        (losses, exact.losses, bound.losses),
        (d_anchors, exact.d_anchors, bound.d_anchors),
        (d_candidates, exact.d_candidates, bound.d_candidates),
    ] {
        for ((got, want), bound) in got.into_iter().zip(want).zip(bound) {
            assert!((f64::from(got) - want).abs() <= bound, "{got} {want}");
        }
    }
}

/// A step and half of it give the slope to `h^4`; the last step of that extrapolation is larger than what is left. Either
/// difference is of losses that are off by some roundings of terms up to the largest score.
#[test]
fn gradients_are_those_of_central_differences() {
    let (b, m, d, scale, gradient_scale) = (5, 12, 8, 3.0f32, 7.0f32);
    let owners: Vec<Option<u32>> = (0..m)
        .map(|j| match j {
            2 => Some(2),
            6 => Some(0),
            9 | 11 => Some(4),
            _ => None,
        })
        .collect();
    for owners in [None, Some(&owners[..])] {
        let both = noise(1, (b + m) * d);
        let loss = |both: &[f64]| {
            let (anchors, candidates) = both.split_at(b * d);
            let all = reference::<f64, f64>(anchors, candidates, owners, d, scale, gradient_scale);
            f64::from(gradient_scale) * all.losses.iter().sum::<f64>() / b as f64
        };
        let (anchors, candidates) = both.split_at(b * d);
        let exact = reference::<f64, f64>(anchors, candidates, owners, d, scale, gradient_scale);
        let gradients = [exact.d_anchors, exact.d_candidates].concat();
        let largest = gradients.iter().fold(0f64, |max, g| max.max(g.abs()));
        let h = 3e-4;
        for (at, &gradient) in gradients.iter().enumerate() {
            let slope = |h: f64| {
                let moved = |by: f64| {
                    let mut moved = both.clone();
                    moved[at] += by;
                    loss(&moved)
                };
                (moved(h) - moved(-h)) / (2.0 * h)
            };
            let (whole, half) = (slope(h), slope(h / 2.0));
            let slope = half + (half - whole) / 3.0;
            let roundings = (d + m + 8) as f64 * f64::EPSILON * f64::from(gradient_scale * scale);
            let tolerance = (half - whole).abs() / 3.0 + 2.0 * roundings * d as f64 / h;
            assert!(
                (gradient - slope).abs() <= tolerance,
                "{at}: {gradient} {slope}"
            );
            assert!(tolerance <= 1e-6 * largest, "{at}: {tolerance:e}");
        }
    }
}

/// Gradients do not drown where the positive is all but certain: minus the sum of the others, not a difference to one.
#[test]
fn a_certain_positive_has_exact_gradients() {
    let d = 8;
    let anchors = [[1.0f32; 8], [-1.0; 8]].concat();
    let candidates = [anchors.clone(), vec![0.0; 8]].concat();
    let [_, d_anchors, _] = on_cpu(&anchors, &candidates, 4.0);
    let want = reference::<f64, f32>(&anchors, &candidates, None, d, 4.0, 1.0);
    for (got, want) in d_anchors.into_iter().zip(want.d_anchors) {
        assert!((f64::from(got) / want - 1.0).abs() < 1e-5, "{got} {want}");
    }
}

#[test]
fn a_number_that_is_none_reaches_the_losses() {
    let anchors = vec![0.5f32; 16];
    let mut candidates = vec![0.25f32; 24];
    candidates[20] = f32::NAN;
    for values in on_cpu(&anchors, &candidates, 1.0) {
        assert!(values.iter().all(|v| v.is_nan()));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let cpu = Device::cpu();
    let rows = |n: usize| cpu.upload(&vec![0.5f32; 8 * n]).unwrap();
    let fails = |b: usize, m: usize, own: Option<&OwnRows>| {
        let (a, c) = (rows(b), rows(m));
        let batch = InfoNce {
            anchors: (&a).into(),
            candidates: (&c).into(),
            own,
            d: 8,
            scale: 1.0,
            gradient_scale: 1.0,
        };
        let [mut losses, mut d_a, mut d_c] = [b, 8 * b, 8 * m].map(|n| cpu.alloc(n).unwrap());
        let error = info_nce(&batch, &mut losses, &mut d_a, &mut d_c).unwrap_err();
        error.to_string()
    };
    let of = |owners: &[Option<u32>]| OwnRows::new(&cpu, owners).unwrap();
    assert_eq!(
        fails(0, 1, None),
        "shape mismatch in info_nce: anchors: expected at least 1 rows, got 0"
    );
    assert_eq!(
        fails(2, 1, None),
        "shape mismatch in info_nce: candidates: expected at least 2 rows, got 1"
    );
    assert_eq!(
        fails(2, 3, Some(&of(&[None, None, Some(2)]))),
        "shape mismatch in info_nce: own: expected owners below 2, got 2"
    );
    assert_eq!(
        fails(2, 3, Some(&of(&[None, Some(0), None]))),
        "shape mismatch in info_nce: own: expected positives that their anchors see, got another owner of positive 1"
    );
    assert_eq!(
        fails(2, 3, Some(&of(&[None, None]))),
        "shape mismatch in info_nce: own: expected 3, got 2"
    );
}
