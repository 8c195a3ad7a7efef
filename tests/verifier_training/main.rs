//! Scores and gradients of verifiers, and their trainer.
//!
//! A chain of trust: central differences in f64 prove the derivatives of the definitions ([`tape`], [`plain`]); these are
//! what PyTorch computes in f64, of given token vectors and over ten steps of training; and on every device the kernels'
//! numbers are at most twice as far from that as PyTorch's own are in the device's precision, or, where PyTorch was not
//! asked, as those of plain loops in it.

#[allow(dead_code, reason = "not every program reads tensors in f32")]
#[path = "../common/mod.rs"]
mod common;
mod golden;
mod maps;
#[path = "../common/needs.rs"]
mod needs;
mod plain;
mod steps;
mod tape;
mod trainer;

use std::collections::BTreeMap;

use maps::{
    definitions_are_pytorchs, derivatives_are_central_differences,
    scores_and_gradients_are_pytorchs, two_forms_of_f4_are_one,
};
use steps::{definitions_take_the_steps_of_pytorch, losses_are_pytorchs, steps_are_pytorchs};
use trainer::{
    a_device_that_runs_out_of_memory_trains_in_smaller_pieces,
    a_loss_that_is_not_finite_ends_the_training, a_training_goes_on_bit_by_bit,
    a_training_that_swaps_turns_every_second_step, chunks_leave_losses_and_gradients_as_they_are,
    rows_and_order_of_texts_are_respected, training_lowers_the_loss_and_leaves_a_verifier,
    what_cannot_be_trained_is_refused, what_is_no_verifier_of_an_encoder_is_refused,
};

/// The length of a list of numbers.
fn length(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// How far two are from each other.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    length(a.iter().zip(b).map(|(a, b)| a - b))
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

/// The layer that a tensor belongs to: weight and bias of one are measured together, since some are few numbers and the
/// gradients of some biases are zero but for rounding.
fn layer(tensor: &str) -> String {
    let end = ["weight", "bias", "running_mean", "running_var"].into_iter();
    let end = end.filter_map(|end| tensor.strip_suffix(end)).next();
    end.unwrap_or(tensor)
        .trim_end_matches(['.', '_'])
        .to_string()
}

/// Sums of squared errors, ours and the yardstick's, by what was measured.
#[derive(Default)]
struct Errors(BTreeMap<String, [f64; 2]>);

impl Errors {
    fn add(&mut self, what: &str, ours: f64, theirs: f64) {
        let sums = self.0.entry(what.into()).or_default();
        sums[0] += ours;
        sums[1] += theirs;
    }

    /// Holds our errors to at most twice the yardstick's, each by itself.
    fn hold(&self, whose: &str) {
        let ratio = |[ours, theirs]: &[f64; 2]| (ours / theirs).sqrt();
        let ratios = self.0.iter().map(|(what, sums)| (what, ratio(sums)));
        let ratios: Vec<(&String, f64)> = ratios.collect();
        let (what, worst) = ratios
            .iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .expect("something was measured");
        println!("{whose}: at most {worst:.2} times the yardstick's error ({what})");
        for (what, ratio) in ratios {
            assert!(
                ratio <= 2.0,
                "{whose}, {what}: {ratio:.2} times the yardstick's error"
            );
        }
    }
}

fn main() {
    let mut tests = needs::Tests::default();
    needs::add!(tests:
        derivatives_are_central_differences,
        definitions_are_pytorchs,
        two_forms_of_f4_are_one,
        losses_are_pytorchs,
        definitions_take_the_steps_of_pytorch,
        what_cannot_be_trained_is_refused,
        a_training_that_swaps_turns_every_second_step,
        a_loss_that_is_not_finite_ends_the_training,
        what_is_no_verifier_of_an_encoder_is_refused,
    );
    for device in &needs::devices() {
        needs::add!(tests, device =>
            scores_and_gradients_are_pytorchs,
            steps_are_pytorchs,
            chunks_leave_losses_and_gradients_as_they_are,
            rows_and_order_of_texts_are_respected,
            a_device_that_runs_out_of_memory_trains_in_smaller_pieces,
            a_training_goes_on_bit_by_bit,
            training_lowers_the_loss_and_leaves_a_verifier,
        );
    }
    needs::add!(tests, &needs::wgpu_core() =>
        scores_and_gradients_are_pytorchs,
        steps_are_pytorchs,
    );
    tests.run()
}
