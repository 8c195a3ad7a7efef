//! Gradients of the whole encoder, and the trainer.
//!
//! A chain of trust: central differences in f64 prove the chain of the operators' references ([`reference`]); that chain
//! is what PyTorch computes in f64, over ten steps of training, weights included; and on every device the kernels'
//! gradients at the weights of each step are at most twice as far from PyTorch's in f64 as its own are in the device's
//! precision.

#[allow(dead_code, reason = "not every program reads tensors in f32")]
#[path = "../common/mod.rs"]
mod common;
mod golden;
#[path = "../common/needs.rs"]
mod needs;
mod reference;
mod trainer;

use std::collections::BTreeMap;
use std::path::Path;

use golden::{MODELS, Point, model, training};
use half::f16;
use nearmiss::Device;
use nearmiss::device::Precision;
use nearmiss::encoder::{Dropout, Encoder, LoadOptions};
use nearmiss::model::checkpoint::{Dtype, Tensor};
use nearmiss::model::weights::{Gradients, Group};
use nearmiss::model::{Checkpoint, ModelFolder};
use nearmiss::ops::info_nce::{InfoNce, info_nce};
use nearmiss::text::{Batch, pack};
use reference::{Model, Round, Settings, Tensors, Texts, loss, step};
use trainer::{
    a_device_that_runs_out_of_memory_trains_in_smaller_chunks, a_killed_training_goes_on,
    a_loss_that_is_not_finite_ends_the_training, a_pass_fits_the_memory_that_it_was_given,
    a_training_goes_on_bit_by_bit, chunks_leave_loss_and_gradient_as_they_are,
    training_lowers_the_loss, what_cannot_be_trained_is_refused,
};

/// Of an f64 computation of a whole step, forward and backward: a few thousand roundings of numbers that may be some
/// hundred times the result.
const SLACK: f64 = 1e-10;

/// The length of a list of numbers.
fn length(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// How far two are from each other.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    length(a.iter().zip(b).map(|(a, b)| a - b))
}

/// Texts as one batch whose parts have these numbers.
fn batch(texts: &Texts, numbers: &[usize]) -> Batch {
    let spans = texts.offsets.windows(2);
    let tokens: Vec<Vec<u32>> = spans
        .map(|w| texts.ids[w[0] as usize..w[1] as usize].to_vec())
        .collect();
    pack(&tokens, numbers)
}

/// A step small enough to be made a few hundred times: two triplets, one whose positive is its anchor.
fn small(name: &str) -> Texts {
    let words: [&[u32]; 6] = match name {
        // Words twice in a text and in two texts.
        "tiny-bert-2x64" => [
            &[2, 60, 61, 60, 3],
            &[2, 70, 3],
            &[2, 71, 60, 3],
            &[2, 70, 3],
            &[2, 3],
            &[2, 72, 73, 71, 74, 3],
        ],
        _ => [
            &[7, 60, 61, 60, 6],
            &[7, 70, 6],
            &[7, 71, 60, 6],
            &[7, 70, 6],
            &[7, 6],
            &[7, 72, 73, 71, 74, 6],
        ],
    };
    let mut offsets = vec![0];
    for text in words {
        offsets.push(offsets[offsets.len() - 1] + text.len() as u32);
    }
    Texts {
        ids: words.concat(),
        offsets,
    }
}

/// Numbers between -1 and 1 without a pattern.
fn direction(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The reference's gradient in every tensor, along a random direction of the whole tensor, is the difference quotient of
/// the reference's loss there, with dropout and without.
///
/// Central differences with a step `h` and with `h / 2` give, extrapolated, an error of order `h^4`; the distance of the
/// finer one to the extrapolated one is an estimate of the error before extrapolation, hence far above that after it. A
/// rounding error of the loss is divided by `h`.
fn reference_gradients_are_central_differences() {
    for name in MODELS {
        let texts = small(name);
        let whole = model(name);
        for rate in [0.0, 0.2] {
            let settings = Settings {
                scale: 10.0,
                loss_scale: 4.0,
                dropout: Some(Dropout {
                    hidden: rate,
                    attention: rate,
                    seed: 7,
                    step: 3,
                }),
            };
            let at = |model: &Model| loss::<f64>(model, &texts, &settings, |v| v);
            let (here, gradient) = step::<f64>(&whole, &texts, &settings, |v| v);
            assert_eq!(here, at(&whole));
            let names: Vec<&String> = gradient.keys().collect();
            assert!(
                names.iter().copied().eq(whole.weights.keys()),
                "a gradient for every tensor"
            );
            for (i, tensor) in names.into_iter().enumerate() {
                let along = direction(gradient[tensor].len(), i as u64);
                let moved = |h: f64| {
                    let mut model = whole.clone();
                    let weights = model.weights.get_mut(tensor).unwrap();
                    weights
                        .iter_mut()
                        .zip(&along)
                        .for_each(|(w, a)| *w += h * a);
                    at(&model)
                };
                // Some ten-thousandth of the whole tensor's spread.
                let h = 1e-3 / (along.len() as f64).sqrt();
                let quotient = |h: f64| (moved(h) - moved(-h)) / (2.0 * h);
                let (coarse, fine) = (quotient(h), quotient(h / 2.0));
                let extrapolated = fine + (fine - coarse) / 3.0;
                let product: f64 = gradient[tensor]
                    .iter()
                    .zip(&along)
                    .map(|(g, a)| g * a)
                    .sum();
                let allowed = (fine - extrapolated).abs() * 0.1 + 1e-13 * here.abs() / h;
                let error = (product - extrapolated).abs();
                assert!(
                    error <= allowed,
                    "{name}, dropout {rate}, {tensor}: {product:e} against {extrapolated:e}, allowed {allowed:e}"
                );
                // And it could have failed: what is compared is no zero, but for the keys' biases, in which it is one.
                assert!(
                    tensor.ends_with("key.bias") && product.abs() < 1e-9
                        || product.abs() > 10.0 * allowed,
                    "{name}, {tensor}: {product:e}, allowed {allowed:e}"
                );
            }
        }
    }
}

/// Ten steps: losses, gradients, their norms and the weights after the last one.
fn references_take_the_steps_of_pytorch() {
    for name in MODELS {
        let training = training(name);
        let golden = &training.golden;
        golden.check_schedule();
        assert!(
            golden
                .tensors
                .iter()
                .all(|t| training.points[0].gradient.contains_key(t))
        );
        assert_eq!(golden.tensors.len(), training.points[0].gradient.len());
        for (i, (point, step)) in training.points.iter().zip(&golden.steps).enumerate() {
            let near = |what: &str, got: f64, want: f64| {
                let error = (got - want).abs();
                assert!(
                    error <= SLACK * want.abs(),
                    "{name}, step {i}: {what} {got} for {want}"
                );
            };
            near("loss", point.loss, step.loss);
            let norm = length(point.gradient.values().flatten().copied());
            near("norm", norm, step.gradient_norm);
            let sampled = training.sampled(i);
            for tensor in &golden.tensors {
                let got = sampled(&point.gradient[tensor]);
                for (got, want) in got.iter().zip(training.stored(i, tensor)) {
                    // Stored in f32, to nearest.
                    let allowed = want.abs() * f64::from(f32::EPSILON) / 2.0 + SLACK * norm;
                    assert!(
                        (got - want).abs() <= allowed,
                        "{name}, step {i}, {tensor}: {got} for {want}"
                    );
                }
            }
        }
        for (tensor, weights) in &training.weights {
            let stored = training.tensors.get_f64(&format!("weights.{tensor}"));
            for (got, want) in weights.iter().step_by(golden.stride).zip(stored) {
                assert!(
                    (got - want).abs() <= SLACK,
                    "{name}, {tensor}: {got} for {want}"
                );
            }
        }
    }
}

/// A model folder with these weights in f32.
fn written(model: &Model, name: &str, to: &Path) {
    let from = common::golden(name);
    let checkpoint = Checkpoint::open(&from).unwrap();
    let tensors = checkpoint.tensors().map(|(stored, tensor)| {
        let plain = stored.strip_prefix("bert.").unwrap_or(&stored);
        let tensor = match model.weights.get(plain) {
            Some(values) => {
                let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
                Tensor::from_f32(&values, Dtype::F32, tensor.shape).unwrap()
            }
            None => tensor,
        };
        (stored, tensor)
    });
    let folder = ModelFolder::read(&from).unwrap();
    folder.write(to, tensors, None).unwrap();
}

fn encoder(model: &Model, name: &str, device: &Device) -> Encoder {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    written(model, name, &folder);
    Encoder::load(&folder, device, LoadOptions::default()).unwrap()
}

/// The loss of a step and its gradient, by the kernels: everything in one batch.
fn by_kernels(encoder: &Encoder, texts: &Texts, settings: &Settings) -> (f64, Tensors) {
    let device = encoder.device();
    let (d, b) = (encoder.width(), texts.triplets());
    let numbers: Vec<usize> = (0..3 * b).collect();
    let pass = encoder
        .training_pass(&batch(texts, &numbers), settings.dropout)
        .unwrap();
    let rows = encoder.embeddings_of(&pass).unwrap().read().unwrap();
    let [anchors, candidates] = [&rows[..b * d], &rows[b * d..]].map(|r| device.upload(r).unwrap());
    let loss = InfoNce {
        anchors: (&anchors).into(),
        candidates: (&candidates).into(),
        own: None,
        d,
        scale: settings.scale,
        gradient_scale: settings.loss_scale,
    };
    let mut losses = device.alloc(b).unwrap();
    let (mut d_anchors, mut d_candidates) = (
        device.alloc(b * d).unwrap(),
        device.alloc(2 * b * d).unwrap(),
    );
    info_nce(&loss, &mut losses, &mut d_anchors, &mut d_candidates).unwrap();
    let d_rows = [d_anchors.read().unwrap(), d_candidates.read().unwrap()].concat();
    let d_rows = device.upload(&d_rows).unwrap();
    let mut gradients = encoder.gradients().unwrap();
    encoder
        .backward(pass, d_rows.as_slice(), &mut gradients)
        .unwrap();
    let losses = losses.read().unwrap();
    let loss = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / b as f64;
    (
        loss,
        unpacked(&gradients, 1.0 / f64::from(settings.loss_scale)),
    )
}

/// Every tensor of a flat store, times a factor.
fn unpacked(gradients: &Gradients, factor: f64) -> Tensors {
    let (matrices, vectors) = (
        gradients.matrices().read().unwrap(),
        gradients.vectors().read().unwrap(),
    );
    let mut all = Tensors::new();
    for entry in gradients.table().entries() {
        let flat = match entry.group {
            Group::Matrices => &matrices,
            Group::Vectors => &vectors,
        };
        let parts = flat[entry.start..][..entry.elements()]
            .chunks_exact(entry.elements() / entry.names.len());
        for (name, part) in entry.names.iter().zip(parts) {
            let values = part.iter().map(|&v| f64::from(v) * factor);
            all.insert(name.clone(), values.collect());
        }
    }
    all
}

/// Whether what a device stores as an activation is f16.
fn mixed(device: &Device) -> bool {
    device.precision() == Precision::Mixed
}

fn round_of(device: &Device) -> Round {
    if mixed(device) {
        |v| f16::from_f64(v).to_f64()
    } else {
        |v| f64::from(v as f32)
    }
}

/// The tensor that one of a checkpoint is a part of: queries, keys and values are one. The gradient in a key's bias is zero
/// but for rounding, so that its error says nothing on its own.
fn as_stored(name: &str) -> String {
    let parts = ["query", "key", "value"].map(|part| format!(".self.{part}."));
    let part = parts.iter().find(|part| name.contains(*part));
    part.map_or(name.into(), |part| name.replace(part, ".self.qkv."))
}

/// Sums of squared errors: ours and the yardstick's.
#[derive(Clone, Copy, Default)]
struct Errors {
    ours: f64,
    theirs: f64,
}

impl Errors {
    fn add(&mut self, other: Errors) {
        self.ours += other.ours;
        self.theirs += other.theirs;
    }

    fn ratio(&self) -> f64 {
        (self.ours / self.theirs).sqrt()
    }
}

/// At the weights of each of ten steps the kernels' gradients are at most twice as far from PyTorch's in f64 as PyTorch's
/// own: in f32 on a CPU, under f16 autocast elsewhere. Measured per step over all tensors, and per tensor over all steps.
fn gradients_match_pytorch(device: Device) {
    for name in MODELS {
        let training = training(name);
        let golden = &training.golden;
        let kind = if mixed(&device) { "f16" } else { "f32" };
        let mut of_tensors: BTreeMap<String, Errors> = BTreeMap::new();
        let mut worst = 0f64;
        for (i, point) in training.points.iter().enumerate() {
            let encoder = encoder(&point.model, name, &device);
            let settings = Settings {
                loss_scale: if mixed(&device) {
                    golden.loss_scale
                } else {
                    1.0
                },
                ..golden.settings()
            };
            let (_, gradient) = by_kernels(&encoder, &point.texts, &settings);
            let theirs = training.tensors.get_f64(&format!("errors.{kind}.{i}"));
            let sampled = training.sampled(i);
            let mut of_step = Errors::default();
            for (tensor, theirs) in golden.tensors.iter().zip(theirs) {
                let ours = distance(&sampled(&gradient[tensor]), &training.stored(i, tensor));
                let errors = Errors {
                    ours: ours * ours,
                    theirs,
                };
                of_tensors.entry(as_stored(tensor)).or_default().add(errors);
                of_step.add(errors);
            }
            worst = worst.max(of_step.ratio());
            let ratio = of_step.ratio();
            assert!(
                ratio <= 2.0,
                "{name} on {}, step {i}: {ratio:.2}",
                device.name()
            );
        }
        println!(
            "{name} on {}: at most {worst:.2} times PyTorch's error",
            device.name()
        );
        for (tensor, errors) in of_tensors {
            let ratio = errors.ratio();
            assert!(
                ratio <= 2.0,
                "{name} on {}, {tensor}: {ratio:.2}",
                device.name()
            );
        }
    }
}

/// With dropout at all sites, the kernels' gradient in every tensor is at most twice as far from the references' in f64 as
/// the references in f32 are that round what the device rounds; so is the loss, but for a few of its own units.
fn gradients_with_dropout_are_those_of_the_references(device: Device) {
    for name in MODELS {
        let training = training(name);
        let Point { model, texts, .. } = &training.points[4];
        let settings = Settings {
            scale: training.golden.scale,
            loss_scale: if mixed(&device) {
                training.golden.loss_scale
            } else {
                1.0
            },
            dropout: Some(Dropout {
                hidden: 0.1,
                attention: 0.2,
                seed: 11,
                step: 5,
            }),
        };
        let (loss, want) = step::<f64>(model, texts, &settings, |v| v);
        let (plain_loss, plain) = step::<f32>(model, texts, &settings, round_of(&device));
        let encoder = encoder(model, name, &device);
        let (got_loss, got) = by_kernels(&encoder, texts, &settings);
        let allowed = 2.0 * (plain_loss - loss).abs() + 8.0 * f64::from(f32::EPSILON) * loss;
        let what = format!("{name} on {}", device.name());
        let unit = if mixed(&device) {
            f16::EPSILON.to_f64()
        } else {
            f64::from(f32::EPSILON)
        };
        // A loss that happens to be right in the yardstick is no yardstick: its error is that of its logits.
        let allowed = allowed + unit * f64::from(settings.scale);
        assert!(
            (got_loss - loss).abs() <= allowed,
            "{what}: loss {got_loss} for {loss}"
        );
        let mut of_tensors: BTreeMap<String, Errors> = BTreeMap::new();
        for (tensor, want) in &want {
            let square = |gradient: &Tensors| distance(&gradient[tensor], want).powi(2);
            of_tensors
                .entry(as_stored(tensor))
                .or_default()
                .add(Errors {
                    ours: square(&got),
                    theirs: square(&plain),
                });
        }
        let mut worst = 0f64;
        for (tensor, errors) in of_tensors {
            let ratio = errors.ratio();
            worst = worst.max(ratio);
            assert!(
                ratio <= 2.0,
                "{what}, {tensor}: {ratio:.2} times the error of plain loops"
            );
        }
        println!("{what}: at most {worst:.2} times the error of plain loops");
        let other = Settings {
            dropout: settings.dropout.map(|d| Dropout { step: 6, ..d }),
            ..settings
        };
        let (_, again) = by_kernels(&encoder, texts, &settings);
        assert!(again == got, "{what}: two runs differ");
        let (_, other) = by_kernels(&encoder, texts, &other);
        let word = "embeddings.word_embeddings.weight";
        let apart = distance(&other[word], &want[word]);
        assert!(
            apart > 100.0 * distance(&got[word], &want[word]),
            "{what}: another step has the same masks"
        );
    }
}

fn main() {
    if let Some(folder) = std::env::var_os(trainer::FOLDER) {
        return trainer::to_be_killed(Path::new(&folder));
    }
    let mut tests = needs::Tests::default();
    needs::add!(tests:
        reference_gradients_are_central_differences,
        references_take_the_steps_of_pytorch,
        what_cannot_be_trained_is_refused,
        a_loss_that_is_not_finite_ends_the_training,
        a_killed_training_goes_on,
    );
    for device in &needs::devices() {
        needs::add!(tests, device =>
            gradients_match_pytorch,
            gradients_with_dropout_are_those_of_the_references,
            chunks_leave_loss_and_gradient_as_they_are,
            a_device_that_runs_out_of_memory_trains_in_smaller_chunks,
            a_pass_fits_the_memory_that_it_was_given,
            a_training_goes_on_bit_by_bit,
            training_lowers_the_loss,
        );
    }
    needs::add!(tests, &needs::wgpu_core() =>
        gradients_match_pytorch,
        gradients_with_dropout_are_those_of_the_references,
    );
    tests.run()
}
