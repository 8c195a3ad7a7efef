//! `train_step`: a step of training from token ids on, and its parts: the forward passes that keep nothing, all gradients
//! (forward, loss and backward), and the update (norm and AdamW).
//!
//! Texts are of one length, or ragged as questions and passages are. The check compares the loss of every anchor with that
//! of the same step on the CPU in f32, cut into other chunks. A logit is `scale` times the cosine of two embeddings, each
//! with the relative error of `encode`; a loss is a difference of a logit and a log-sum-exp, which moves no more than the
//! logits do: `4 scale` times that error in all.

use std::path::Path;

use nearmiss::Result;
use nearmiss::device::{Device, DeviceKind, Precision};
use nearmiss::encoder::{Dropout, Encoder, LoadOptions};
use nearmiss::ops::{self, adamw::AdamW};
use nearmiss::text::{pack, plan_batches};
use nearmiss::train::{Objective, Position, Step, TextBatch};

use super::encode::{bound, models};
use super::{Case, Context, Prepared, Recorded, Scale, bits, json, worst_of_two};

/// Every operator that a step runs.
const STEP: &[&ops::OpSpec] = &[
    &ops::embedding::SPEC,
    &ops::layer_norm::SPEC,
    &ops::matmul::SPEC,
    &ops::attention::SPEC,
    &ops::dropout::SPEC,
    &ops::pool::SPEC,
    &ops::scatter_rows::SPEC,
    &ops::info_nce::SPEC,
    &ops::pool_backward::SPEC,
    &ops::layer_norm_backward::SPEC,
    &ops::matmul_nn::SPEC,
    &ops::matmul_tn::SPEC,
    &ops::attention_backward::SPEC,
    &ops::embedding_backward::SPEC,
    &ops::grad_norm::SPEC,
    &ops::adamw::SPEC,
];

/// Factor of the cosines.
const SCALE: f32 = 10.0;

/// Length of all texts, or `None` for ragged ones.
type Length = Option<usize>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Step,
    Forward,
    Gradients,
    Update,
}

/// The cases, for the models of [`models`].
///
/// # Errors
/// As [`models`].
pub fn cases(context: &Context) -> Result<Vec<Case>> {
    let shapes: &[(usize, Length)] = match context.scale {
        Scale::Quick => &[(3, None)],
        Scale::Software => &[(4, Some(16))],
        Scale::Cpu => &[(32, Some(64)), (32, None)],
        Scale::Gpu => &[(32, Some(64)), (128, Some(64)), (128, None)],
    };
    let mut cases = Vec::new();
    for (folder, name) in models(context)? {
        for &(triplets, length) in shapes {
            for part in [Part::Step, Part::Forward, Part::Gradients, Part::Update] {
                let of = match part {
                    Part::Step => "",
                    Part::Forward => ", forward alone",
                    Part::Gradients => ", gradients alone",
                    Part::Update => ", update alone",
                };
                let tokens = length.map_or("ragged".into(), |l| format!("{l} tokens"));
                let folder = folder.clone();
                cases.push(Case {
                    op: "train_step",
                    shape: format!("{name}, {triplets} triplets, {tokens}{of}"),
                    sizes: json!({"triplets": triplets, "tokens": length, "part": format!("{part:?}")}),
                    needs: STEP,
                    prepare: Box::new(move |context| {
                        prepare(context, &folder, triplets, length, part)
                    }),
                });
            }
        }
    }
    Ok(cases)
}

/// Texts of random tokens: anchors as long as questions, the others as passages; chunks of at most `budget` tokens.
fn batch(encoder: &Encoder, triplets: usize, length: Length, budget: usize) -> TextBatch {
    let (vocab, limit) = (
        encoder.config().vocab as u64,
        encoder.tokenizer().max_length(),
    );
    let length = |text: usize| {
        let random = bits(3, text as u64);
        let ragged = if text < triplets {
            6 + random % 15
        } else {
            20 + random % 109
        };
        length.unwrap_or(ragged as usize).min(limit)
    };
    let tokens: Vec<Vec<u32>> = (0..3 * triplets)
        .map(|text| {
            let id = |i: usize| (bits(4, (text << 10 | i) as u64) % vocab) as u32;
            (0..length(text)).map(id).collect()
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

fn dropout(encoder: &Encoder) -> Dropout {
    let config = encoder.config();
    Dropout {
        hidden: config.hidden_dropout,
        attention: config.attention_dropout,
        seed: 1,
        step: 0,
    }
}

fn prepare(
    context: &Context,
    folder: &Path,
    triplets: usize,
    length: Length,
    part: Part,
) -> Result<Prepared> {
    let device = &context.device;
    let load = |device: &Device| Encoder::load(folder, device, LoadOptions::default());
    let encoder = load(device)?;
    let bound = 4.0 * f64::from(SCALE) * bound(encoder.config(), device.kind());
    let dropout = dropout(&encoder);
    let budget = if device.kind() == DeviceKind::Cpu {
        8192
    } else {
        65_536
    };
    let batch_of = |encoder: &Encoder, budget| batch(encoder, triplets, length, budget);
    let whole = batch_of(&encoder, budget);
    let scale = if device.precision() == Precision::Mixed {
        1024.0
    } else {
        1.0
    };
    let mut step = Step::new(encoder)?;
    let objective = Objective {
        scale: SCALE,
        loss_scale: scale,
        dropout,
        own: &[],
    };
    let losses = step.gradients(&whole, &objective)?;

    let other = load(&Device::cpu())?;
    let parts = batch_of(&other, budget / 4);
    let plain = Objective {
        loss_scale: 1.0,
        ..objective
    };
    let want = Step::new(other)?.gradients(&parts, &plain)?;
    let worst = worst_of_two(&losses, &want, bound);

    let settings = AdamW {
        learning_rate: 1e-6,
        gradient_factor: 1.0 / scale,
        ..AdamW::default()
    };
    let tokens = whole.tokens;
    let call = move |_| -> Result<()> {
        if part == Part::Forward {
            for chunk in &whole.chunks {
                step.encoder().training_embeddings(chunk, Some(dropout))?;
            }
            return Ok(());
        }
        if part != Part::Update {
            step.gradients(&whole, &objective)?;
        }
        if part != Part::Gradients {
            step.update(&settings)?;
        }
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
