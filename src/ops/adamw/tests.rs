use half::f16;

use super::reference::{State, error_bound, reference};
use super::*;
use crate::device::Buffer;
use crate::ops::Rounding;
use crate::random::Stream;
use crate::{Device, DeviceKind};

/// About normal numbers.
fn noise(seed: u64, n: usize, scale: f64) -> Vec<f32> {
    let mut stream = Stream::new(seed, &["adamw"], 0);
    let mut unit = || (stream.bits() >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
    (0..n)
        .map(|_| ((0..4).map(|_| unit()).sum::<f64>() * scale) as f32)
        .collect()
}

struct Weights {
    first: Buffer<f32>,
    second: Buffer<f32>,
    master: Buffer<f32>,
    working: Buffer<f16>,
}

impl Weights {
    fn new(weights: &[f32]) -> Self {
        let cpu = Device::cpu();
        let zeros = || cpu.upload(&vec![0f32; weights.len()]).unwrap();
        Weights {
            first: zeros(),
            second: zeros(),
            master: cpu.upload(weights).unwrap(),
            working: cpu.upload(&vec![f16::NAN; weights.len()]).unwrap(),
        }
    }

    fn step(&mut self, settings: &AdamW, gradient: &[f32], sum: f32) {
        let cpu = self.master.device().clone();
        let gradient = cpu.upload(gradient).unwrap();
        let norm = cpu.upload(&[sum, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let moments = Moments {
            first: (&mut self.first).into(),
            second: (&mut self.second).into(),
        };
        adamw(
            settings,
            &gradient,
            &norm.unwrap(),
            moments,
            &mut self.master,
            Some((&mut self.working).into()),
        )
        .unwrap();
    }

    fn read(&self) -> [Vec<f32>; 3] {
        [&self.first, &self.second, &self.master].map(|buffer| buffer.read().unwrap())
    }
}

/// Weights after five steps of PyTorch 2.15 in f64: `torch.optim.AdamW([w], lr=0.01, weight_decay=0.1)`, with
/// `clip_grad_norm_([w], 1.0)` before each, which shortens the first two gradients.
const PYTORCH: [f64; 4] = [
    0.450_829_263_336_362_9,
    -0.200_700_174_021_778_9,
    1.940_648_313_834_749_7,
    0.027_001_483_055_247_064,
];

#[test]
fn the_definition_is_that_of_pytorch() {
    let weights = [0.5f64, -0.25, 2.0, 1e-3];
    let mut state = State::<f64>::new(&weights);
    let mut settings = AdamW {
        learning_rate: 0.01,
        weight_decay: 0.1,
        ..AdamW::default()
    };
    for step in 1..=5u32 {
        settings.step = step.into();
        let t = f64::from(step);
        let gradient = [0.1 * t, -2.0 / t, 0.3, 1e-4 * (t - 3.0)];
        let sum = gradient.iter().map(|g| g * g).sum();
        reference(&settings, &gradient, sum, &mut state);
    }
    for (got, want) in state.master.iter().zip(PYTORCH) {
        // The learning rate and the decay are those of f32.
        assert!((got / want - 1.0).abs() < 1e-7, "{got} {want}");
    }
}

#[test]
fn steps_stay_within_their_bounds() {
    let n = 40_000;
    let weights = noise(0, n, 0.05);
    let mut ours = Weights::new(&weights);
    let mut exact = State::<f64>::new(&weights);
    let mut errors = State::<f64>::new(&vec![0f32; n]);
    let rounding = Rounding::of(DeviceKind::Cpu);
    for step in 1..=10 {
        let settings = AdamW {
            learning_rate: 1e-4 * step as f32,
            step,
            gradient_factor: 1.0 / 1024.0,
            ..AdamW::default()
        };
        let mut gradient = noise(step, n, 30.0 / step as f64);
        // A weight without gradients, and one with very small ones.
        gradient[7] = 0.0;
        gradient[8] *= 1e-20;
        let sum = gradient
            .iter()
            .map(|&g| f64::from(g) * f64::from(g))
            .sum::<f64>() as f32;
        ours.step(&settings, &gradient, sum);
        let before = exact.clone();
        reference(&settings, &gradient, sum.into(), &mut exact);
        error_bound(
            &settings,
            &gradient,
            sum.into(),
            &before,
            &mut errors,
            &rounding,
        );
    }
    let [first, second, master] = ours.read();
    let mut worst = 0f64;
    for (got, want, error) in [
        (&first, &exact.first, &errors.first),
        (&second, &exact.second, &errors.second),
        (&master, &exact.master, &errors.master),
    ] {
        for ((&got, want), error) in got.iter().zip(want).zip(error) {
            worst = worst.max((f64::from(got) - want).abs() / error);
        }
    }
    assert!(worst <= 1.0, "{worst}");
    // The bound of a weight is a few roundings of it, and of an update.
    let largest = errors.master.iter().fold(0f64, |max, &e| max.max(e));
    assert!(largest < 1e-6, "{largest:e}");
    let copy: Vec<f16> = master.iter().map(|&w| f16::from_f32(w)).collect();
    assert_eq!(ours.working.read().unwrap(), copy);
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let mut ours = Weights::new(&[1.0; 16]);
    let settings = AdamW::default();
    ours.step(&settings, &[0.25; 16], 1.0);
    let (before, working) = (ours.read(), ours.working.read().unwrap());
    for sum in [f32::NAN, f32::INFINITY] {
        ours.step(&settings, &[0.5; 16], sum);
        assert_eq!(ours.read(), before);
        assert_eq!(ours.working.read().unwrap(), working);
    }
}

#[test]
fn settings_without_meaning_are_refused() {
    let good = AdamW::default();
    assert!(Constants::of(&good).is_ok());
    let unlimited = AdamW {
        max_norm: f32::INFINITY,
        ..good
    };
    let factor = Constants::of(&unlimited).unwrap().factor(1e30);
    assert_eq!(factor, Some(1.0));
    for bad in [
        AdamW { step: 0, ..good },
        AdamW {
            learning_rate: f32::NAN,
            ..good
        },
        AdamW {
            beta: [0.9, 1.0],
            ..good
        },
        AdamW {
            gradient_factor: 0.0,
            ..good
        },
        AdamW {
            max_norm: f32::NAN,
            ..good
        },
    ] {
        let error = Constants::of(&bad).unwrap_err().to_string();
        assert!(error.contains("adamw"), "{error}");
    }
}
