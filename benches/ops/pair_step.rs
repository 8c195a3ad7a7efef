//! `pair_step`: a step of training `f4` end to end with its encoder, from token ids on: every anchor scored against the
//! positives of the whole batch and its own negative, `B (B + 1)` maps; softmax, backward through maps and encoder, and the
//! update of both. Texts have 15 to 40 tokens.
//!
//! The check compares the loss of every anchor with that of the same step cut into other chunks of texts, on the same
//! device. A score is at most 1 and moves no more than the map does where the verifier is as it begins; a loss is a
//! difference of a score over the temperature and a log-sum-exp, as in `train_step`: `4 / temperature` times the error of
//! `encode` in all.

use std::path::Path;

use nearmiss::Result;
use nearmiss::data::triplets::Triplet;
use nearmiss::device::{DeviceKind, Precision};
use nearmiss::encoder::{Dropout, Encoder, LoadOptions};
use nearmiss::ops::{self, adamw::AdamW};
use nearmiss::text::{pack, plan_batches};
use nearmiss::train::pairs::{Objective, PairStep, Task};
use nearmiss::train::{Position, TextBatch};
use nearmiss::verifier::{Kind, Learned};

use super::encode::{bound, models};
use super::{Case, Context, Prepared, Recorded, Scale, bits, json, worst_of_two};

/// What a step runs besides an encoder's forward and backward.
const STEP: &[&ops::OpSpec] = &[
    &ops::embedding::SPEC,
    &ops::layer_norm::SPEC,
    &ops::matmul::SPEC,
    &ops::attention::SPEC,
    &ops::dropout::SPEC,
    &ops::pool::SPEC,
    &ops::normalize_rows::SPEC,
    &ops::similarity_map::SPEC,
    &ops::map_features::SPEC,
    &ops::attention_pool::SPEC,
    &ops::add_rows::SPEC,
    &ops::attention_pool_backward::SPEC,
    &ops::map_features_backward::SPEC,
    &ops::similarity_map_backward::SPEC,
    &ops::normalize_rows_backward::SPEC,
    &ops::layer_norm_backward::SPEC,
    &ops::matmul_nn::SPEC,
    &ops::matmul_tn::SPEC,
    &ops::attention_backward::SPEC,
    &ops::embedding_backward::SPEC,
    &ops::grad_norm::SPEC,
    &ops::adamw::SPEC,
];

/// Of the softmax.
const TEMPERATURE: f64 = 0.1;

/// The cases, for the models of [`models`].
///
/// # Errors
/// As [`models`].
pub fn cases(context: &Context) -> Result<Vec<Case>> {
    let triplets: usize = match context.scale {
        Scale::Quick => 3,
        Scale::Software => 4,
        Scale::Cpu | Scale::Gpu => 32,
    };
    let mut cases = Vec::new();
    for (folder, name) in models(context)? {
        cases.push(Case {
            op: "pair_step",
            shape: format!("{name}, f4 end to end, {triplets} triplets of 15 to 40 tokens"),
            sizes: json!({"triplets": triplets, "tokens": [15, 40]}),
            needs: STEP,
            prepare: Box::new(move |context| prepare(context, &folder, triplets)),
        });
    }
    Ok(cases)
}

/// Texts of random tokens in chunks of at most `budget` tokens.
fn batch(encoder: &Encoder, triplets: usize, budget: usize) -> TextBatch {
    let vocab = encoder.config().vocab as u64;
    let limit = encoder.tokenizer().max_length();
    let tokens: Vec<Vec<u32>> = (0..3 * triplets)
        .map(|text| {
            let length = ((15 + bits(5, text as u64) % 26) as usize).min(limit);
            let id = |i: usize| (bits(6, (text << 10 | i) as u64) % vocab) as u32;
            (0..length).map(id).collect()
        })
        .collect();
    let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
    let plan = plan_batches(&lengths, budget, usize::MAX);
    TextBatch {
        rows: (0..triplets as u32).collect(),
        chunks: plan.iter().map(|which| pack(&tokens, which)).collect(),
        tokens: lengths.iter().sum(),
        truncated: 0,
        next: Position::default(),
    }
}

fn prepare(context: &Context, folder: &Path, triplets: usize) -> Result<Prepared> {
    let device = &context.device;
    let step = || -> Result<PairStep> {
        let encoder = Encoder::load(folder, device, LoadOptions::default())?;
        let verifier = Learned::start(Kind::Transformer, encoder.width(), 1, device)?;
        PairStep::new(encoder, verifier, true)
    };
    let encoder = Encoder::load(folder, device, LoadOptions::default())?;
    let config = encoder.config();
    let bound = 4.0 / TEMPERATURE * bound(config, device.kind());
    let task = Task {
        objective: Objective::Softmax,
        temperature: TEMPERATURE,
        swapped: false,
        loss_scale: if device.precision() == Precision::Mixed {
            1024.0
        } else {
            1.0
        },
        dropout: Dropout {
            hidden: config.hidden_dropout,
            attention: config.attention_dropout,
            seed: 1,
            step: 0,
        },
        rate: 0.1,
    };
    let budget = if device.kind() == DeviceKind::Cpu {
        8192
    } else {
        65_536
    };
    let whole = batch(&encoder, triplets, budget);
    let parts = batch(&encoder, triplets, whole.tokens / 3);
    drop(encoder);
    let want = step()?.gradients::<Triplet>(&parts, &task)?;
    let mut step = step()?;
    let losses = step.gradients::<Triplet>(&whole, &task)?;
    let worst = worst_of_two(&losses, &want, bound);
    let settings = AdamW {
        learning_rate: 1e-6,
        gradient_factor: 1.0 / task.loss_scale,
        ..AdamW::default()
    };
    let tokens = whole.tokens;
    let call = move |_| -> Result<()> {
        step.gradients::<Triplet>(&whole, &task)?;
        step.update(&settings, &settings)?;
        Ok(())
    };
    Ok(Prepared {
        checked: losses.len(),
        worst,
        sets: 1,
        set_bytes: 0,
        recorded: Recorded::Nothing,
        items: (tokens as f64, "tokens"),
        call: Box::new(call),
    })
}
