//! `verify`: what the verdict of a guard takes, `f4` with random weights: one pair from text on, which somebody waits for,
//! and many pairs whose token vectors are there.
//!
//! The check holds scores of pairs together to those of the same pairs one by one, on the same device. A score moves no
//! more than the map does where the verifier is as it begins: by twice the error of `encode` where texts are encoded, and by
//! that of a layer of it, whose longest sum has as many terms as a token vector is wide, where they are not.

use std::path::Path;

use nearmiss::Result;
use nearmiss::device::{Device, DeviceKind};
use nearmiss::encoder::{Encoder, LoadOptions};
use nearmiss::index::TokenVectors;
use nearmiss::ops::{self, PairList};
use nearmiss::text::TextKind;
use nearmiss::verifier::{Kind, Learned, MAX_LENGTH, Scorer};

use super::encode::{bound, draw, models};
use super::{
    Case, Context, D_MODEL, Prepared, Recorded, Scale, bits, json, noise, rounding, sample,
    worst_of_two,
};

/// What scores token vectors.
const SCORES: &[&ops::OpSpec] = &[
    &ops::similarity_map::SPEC,
    &ops::map_features::SPEC,
    &ops::matmul::SPEC,
    &ops::layer_norm::SPEC,
    &ops::attention_pool::SPEC,
    &ops::add_rows::SPEC,
];

/// What makes them too.
const TEXTS: &[&ops::OpSpec] = &[
    &ops::embedding::SPEC,
    &ops::layer_norm::SPEC,
    &ops::matmul::SPEC,
    &ops::attention::SPEC,
    &ops::pool::SPEC,
    &ops::normalize_rows::SPEC,
    &ops::scatter_rows::SPEC,
    &ops::similarity_map::SPEC,
    &ops::map_features::SPEC,
    &ops::attention_pool::SPEC,
    &ops::add_rows::SPEC,
];

/// Tokens of a text of the pair that is waited for.
const LENGTH: usize = 20;

/// The cases, for the models of [`models`] and for token vectors of any.
///
/// # Errors
/// As [`models`].
pub fn cases(context: &Context) -> Result<Vec<Case>> {
    let pairs = match context.scale {
        Scale::Quick => 3,
        Scale::Software => 16,
        Scale::Cpu | Scale::Gpu => 1000,
    };
    let mut cases = Vec::new();
    for (folder, name) in models(context)? {
        cases.push(Case {
            op: "verify",
            shape: format!("{name}, f4, 1 pair of {LENGTH} tokens, from text"),
            sizes: json!({"pairs": 1, "tokens": LENGTH, "from": "text"}),
            needs: TEXTS,
            prepare: Box::new(move |context| one(context, &folder)),
        });
    }
    cases.push(Case {
        op: "verify",
        shape: format!("f4, {pairs} pairs of 15 to 40 tokens, {D_MODEL}, from token vectors"),
        sizes: json!({"pairs": pairs, "tokens": [15, 40], "width": D_MODEL, "from": "vectors"}),
        needs: SCORES,
        prepare: Box::new(move |context| many(context, pairs)),
    });
    Ok(cases)
}

fn one(context: &Context, folder: &Path) -> Result<Prepared> {
    let device = context.device.clone();
    let encoder = Encoder::load(folder, &device, LoadOptions::default())?;
    let verifier = Learned::start(Kind::Transformer, encoder.width(), 1, &device)?;
    let (tokenizer, config) = (encoder.tokenizer(), encoder.config());
    let length = LENGTH.min(tokenizer.max_length());
    let texts = draw(folder, tokenizer, config.vocab, 8, length)?;
    let bound = 2.0 * bound(config, device.kind());
    let score = move |texts: &[String]| -> Result<Vec<f32>> {
        let vectors =
            TokenVectors::encode_within(&encoder, texts, TextKind::Plain, Some(MAX_LENGTH))?;
        let pairs = (0..texts.len() as u32 / 2).map(|i| [2 * i, 2 * i + 1]);
        verifier.score(
            &vectors,
            &vectors,
            &PairList::new(&device, pairs.collect())?,
        )
    };
    let together = score(&texts)?;
    let alone: Vec<f32> = texts
        .chunks(2)
        .map(|pair| Ok(score(pair)?[0]))
        .collect::<Result<_>>()?;
    Ok(Prepared {
        checked: together.len(),
        worst: worst_of_two(&together, &alone, bound),
        sets: 1,
        set_bytes: 0,
        recorded: Recorded::Nothing,
        items: (1.0, "pairs"),
        call: Box::new(move |_| score(&texts[..2]).map(drop)),
    })
}

/// Token vectors of `n` texts of 15 to 40 tokens.
fn vectors(device: &Device, n: usize, seed: u64) -> Result<TokenVectors> {
    let mut offsets = vec![0u32];
    for text in 0..n as u64 {
        let length = 15 + (bits(seed, text) % 26) as u32;
        offsets.push(offsets[text as usize] + length);
    }
    let rows: Vec<f32> = noise(offsets[n] as usize * D_MODEL, 1.0, seed);
    TokenVectors::from_rows(device, &rows, D_MODEL, offsets)
}

fn many(context: &Context, n: usize) -> Result<Prepared> {
    let device = &context.device;
    let verifier = Learned::start(Kind::Transformer, D_MODEL, 1, device)?;
    let (queries, documents) = (vectors(device, n, 21)?, vectors(device, n, 22)?);
    let list = PairList::new(device, (0..n as u32).map(|i| [i, i]).collect())?;
    let together = verifier.score(&queries, &documents, &list)?;
    let which = sample(n);
    let alone: Vec<f32> = which
        .iter()
        .map(|&i| {
            let pair = PairList::new(device, vec![[i as u32, i as u32]])?;
            Ok(verifier.score(&queries, &documents, &pair)?[0])
        })
        .collect::<Result<_>>()?;
    let sampled: Vec<f32> = which.iter().map(|&i| together[i]).collect();
    let rounding = rounding(context);
    let stored = match device.kind() {
        DeviceKind::Cpu => 0.0,
        _ => rounding.u16,
    };
    let bound = 8.0 * (2.0 * rounding.g(D_MODEL) + stored) + 4.0 * stored;
    Ok(Prepared {
        checked: which.len(),
        worst: worst_of_two(&sampled, &alone, bound),
        sets: 1,
        set_bytes: 0,
        recorded: Recorded::Nothing,
        items: (n as f64, "pairs"),
        call: Box::new(move |_| verifier.score(&queries, &documents, &list).map(drop)),
    })
}
