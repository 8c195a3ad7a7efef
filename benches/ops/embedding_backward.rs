//! `embedding_backward`: memory bound, rows of gradients added to tables of the usual vocabulary.
//!
//! Words are as frequent as words are (the `k`-th at a frequency of about `1 / k`), positions those of texts of 64
//! tokens. All calls add to the same tables, as in use; tokens and their gradients rotate.

use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::TokenSegments;
use nearmiss::ops::embedding_backward::{
    SPEC, TableGradients, embedding_backward, error_bound, reference,
};

use super::{
    Case, Context, D_MODEL, Prepared, Recorded, Scale, indices, json, noise, rounding, tokens,
    worst_ratio,
};

/// Tokens of a text.
const LENGTH: u32 = 64;
const POSITIONS: usize = 512;
const TYPES: usize = 2;

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let vocab = if context.scale == Scale::Quick {
        100
    } else {
        30_522
    };
    let case = |&t: &usize| Case {
        op: SPEC.name,
        shape: format!("{t} of {vocab} x {D_MODEL}"),
        sizes: json!({"tokens": t, "vocab": vocab, "width": D_MODEL}),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, t, vocab)),
    };
    tokens(context.scale).iter().map(case).collect()
}

/// Words of `t` tokens: of a uniform number, the power of the vocabulary.
fn words(t: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let uniform = indices(t, 1 << 24, seed);
    let word = |u: u32| (vocab as f64).powf(f64::from(u) / f64::from(1 << 24)) as u32 - 1;
    uniform.into_iter().map(word).collect()
}

struct Tables([Buffer<f32>; 3]);

impl Tables {
    fn add(&mut self, dx: &Buffer<f32>, segments: &TokenSegments) -> Result<()> {
        let [word, position, token_type] = &mut self.0;
        let gradients = TableGradients {
            word: word.into(),
            position: position.into(),
            token_type: token_type.into(),
            d: D_MODEL,
        };
        embedding_backward(dx, segments, gradients)
    }
}

fn prepare(context: &Context, t: usize, vocab: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let rows = [vocab, POSITIONS, TYPES];
    let zero = rows.map(|rows| vec![0f32; rows * d]);
    let [word, position, token_type] = &zero;
    let mut tables = Tables([
        device.upload(word)?,
        device.upload(position)?,
        device.upload(token_type)?,
    ]);
    let positions: Vec<u32> = (0..t as u32).map(|i| i % LENGTH).collect();
    let bytes = (t * (4 * d + 12)) as u64;
    let sets = context.sets(bytes);
    let mut inputs = Vec::new();
    for set in 0..sets as u64 {
        let ids = words(t, vocab, 10 + set);
        let dx = device.upload(&noise::<f32>(t * d, 1.0, 1000 + set))?;
        inputs.push((dx, TokenSegments::new(device, &ids, &positions)?));
    }
    tables.add(&inputs[0].0, &inputs[0].1)?;
    let (dx, ids) = (noise::<f32>(t * d, 1.0, 1000), words(t, vocab, 10));
    let want = reference::<f64, _>(&dx, &ids, &positions, rows, d);
    let before = [&word[..], position, token_type];
    let bounds = error_bound(&dx, &ids, &positions, before, d, &rounding(context));
    let mut worst = 0f64;
    for ((table, want), bound) in tables.0.iter().zip(&want).zip(&bounds) {
        let all: Vec<usize> = (0..table.len() / d).collect();
        worst = worst.max(worst_ratio(&table.read()?, d, &all, want, bound));
    }
    Ok(Prepared {
        checked: want.iter().map(Vec::len).sum(),
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (t as f64, "tokens"),
        call: Box::new(move |i| {
            let (dx, segments) = &inputs[i % sets];
            tables.add(dx, segments)
        }),
    })
}
