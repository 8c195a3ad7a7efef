//! One step of a scorer of pairs: the gradient of a batch in the verifier's weights and, if it is trained too, in the
//! encoder's.
//!
//! ```text
//! every chunk -> hidden states of all texts -> unit token vectors -> maps of the pairs, so many at a time -> scores
//!             -> loss of the whole batch, gradient in the scores -> the pairs once more, kept -> verifier's gradients
//!             -> gradient in the hidden states -> every chunk once more, kept -> encoder's gradients
//! ```
//!
//! A text is encoded once, whatever the number of pairs it is in; of what was kept, the last chunk of texts and pairs that
//! are all one chunk are not computed again.

use std::ops::Range;

use super::objective::{self, Objective, PairRow};
use crate::device::Buffer;
use crate::encoder::{Dropout, Encoder};
use crate::error::{Error, Result};
use crate::model::weights::{Gradients, Table};
use crate::ops::adamw::AdamW;
use crate::ops::{PackedTexts, PairList};
use crate::text::Batch;
use crate::train::batches::TextBatch;
use crate::train::group::{Array, Decay, Group};
use crate::train::step::divided;
use crate::verifier::Tensors;
use crate::verifier::learned::{
    Kind, Learned, Mode, PairMasks, SavedPairs, TokenGradient, TrainingTokens,
};

/// What a gradient is computed of.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// What is wanted of scores.
    pub objective: Objective,
    /// Of the softmax.
    pub temperature: f64,
    /// Whether the texts of every pair change places.
    pub swapped: bool,
    /// Factor of the loss, and so of the gradients.
    pub loss_scale: f32,
    /// What is dropped in the encoder, if it is trained.
    pub dropout: Dropout,
    /// Share of the values dropped in the verifier.
    pub rate: f32,
}

/// An encoder and a verifier with what their training keeps on the device.
pub struct PairStep {
    pub(super) encoder: Encoder,
    pub(super) verifier: Learned,
    /// If the encoder is trained.
    encoder_group: Option<Group<Table>>,
    verifier_group: Group<Tensors>,
    /// Most tokens of a chunk, since the device ran out of memory.
    pub(super) chunk: Option<usize>,
    /// Most bytes that pairs scored at once may take, since then or as told.
    pub(super) pair_memory: Option<usize>,
}

/// Bytes that pairs scored at once may take.
const PAIR_MEMORY: usize = 512 << 20;

impl PairStep {
    /// For a verifier over the token vectors of `encoder`, which is trained with it or stays as it is.
    ///
    /// # Errors
    /// [`Error::Shape`] for a verifier of another width; what the device reports; as [`Encoder::load`] on a device that
    /// multiplies f16, where the weights are read once more.
    pub fn new(mut encoder: Encoder, verifier: Learned, end_to_end: bool) -> Result<Self> {
        if encoder.token_width() != verifier.width() {
            return Err(Error::shape(
                "verifier",
                "encoder",
                format!("token vectors {} wide", verifier.width()),
                encoder.token_width(),
            ));
        }
        let encoder_group = if end_to_end {
            // Reads the weights in f32, before anything else is done.
            encoder.trainable()?;
            Some(Group::new(encoder.table(), encoder.device())?)
        } else {
            None
        };
        Ok(PairStep {
            encoder_group,
            verifier_group: Group::new(verifier.weights().table(), encoder.device())?,
            encoder,
            verifier,
            chunk: None,
            pair_memory: None,
        })
    }

    /// Lets pairs that are scored at once take at most `bytes` of the device's memory (512 MiB unless told).
    pub fn limit_pairs(&mut self, bytes: usize) {
        self.pair_memory = Some(bytes);
    }

    /// Encoder and verifier, without what is kept for more steps.
    pub fn into_parts(self) -> (Encoder, Learned) {
        (self.encoder, self.verifier)
    }

    /// What [`PairStep::gradients`] left: the gradients in the verifier's weights, and those in the encoder's if it is trained.
    pub fn computed(&self) -> (&Gradients<Tensors>, Option<&Gradients>) {
        let of_encoder = self.encoder_group.as_ref();
        (
            &self.verifier_group.gradients,
            of_encoder.map(|group| &group.gradients),
        )
    }

    /// The encoder as it is.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The verifier as it is.
    pub fn verifier(&self) -> &Learned {
        &self.verifier
    }

    /// Everything on the device that a step changes, under its names.
    pub(super) fn arrays(&mut self) -> Result<Vec<(String, Array<'_>)>> {
        let (weights, running) = self.verifier.trainable();
        let mut all = self.verifier_group.arrays("verifier.", weights);
        let running = running.into_iter();
        all.extend(running.map(|(name, values)| (format!("verifier.{name}"), Array::Host(values))));
        if let Some(group) = &mut self.encoder_group {
            all.extend(group.arrays("", self.encoder.trainable()?));
        }
        Ok(all)
    }

    /// Computes the gradients of the loss of a batch; returns the loss of every row, not scaled. If the device runs out of
    /// memory, less is done at a time and all begins again.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for a text or a pair; as [`Encoder::hidden_states`].
    pub fn gradients<R: PairRow>(&mut self, batch: &TextBatch, task: &Task) -> Result<Vec<f32>> {
        const LEAST: usize = 1 << 16;
        // What is begun again has left no trace.
        let running: Vec<Vec<f32>> = (self.verifier.trainable().1.iter())
            .map(|(_, values)| values.to_vec())
            .collect();
        loop {
            for ((_, values), before) in self.verifier.trainable().1.into_iter().zip(&running) {
                values.copy_from_slice(before);
            }
            let chunks = divided(&batch.chunks, self.chunk.unwrap_or(usize::MAX));
            let bytes = self.pair_memory.unwrap_or(PAIR_MEMORY);
            let divisible = chunks.iter().filter(|chunk| chunk.n_texts() > 1);
            let largest = divisible.map(Batch::n_tokens).max();
            match self.attempt::<R>(&chunks, batch.rows.len(), bytes, task) {
                // What of the two was too much is not known.
                Err(Error::OutOfMemory { .. }) if bytes > LEAST => {
                    self.pair_memory = Some(bytes / 2);
                    if let Some(largest) = largest {
                        self.chunk = Some(largest / 2);
                    }
                }
                other => return other,
            }
        }
    }

    fn attempt<R: PairRow>(
        &mut self,
        chunks: &[Batch],
        b: usize,
        bytes: usize,
        task: &Task,
    ) -> Result<Vec<f32>> {
        let PairStep {
            encoder,
            verifier,
            encoder_group,
            verifier_group,
            ..
        } = self;
        verifier_group.gradients.clear()?;
        let device = encoder.device().clone();
        let d = encoder.token_width();
        let tokens: usize = chunks.iter().map(Batch::n_tokens).sum();
        let Some((last, others)) = chunks.split_last() else {
            return Ok(Vec::new());
        };
        let dropout = Some(task.dropout);
        let mut hidden = device.alloc::<f32>(tokens * d)?;
        let (mut offsets, mut place) = (vec![0u32], vec![0u32; R::TEXTS * b]);
        let mut kept = None;
        let mut firsts = Vec::new();
        for chunk in chunks {
            let first = offsets[offsets.len() - 1];
            firsts.push(first as usize);
            for (i, &text) in chunk.texts.iter().enumerate() {
                place[text as usize] = offsets.len() as u32 - 1;
                offsets.push(first + chunk.offsets[i + 1]);
            }
            let at = first as usize * d;
            match encoder_group {
                None => hidden.copy_from(at, &encoder.hidden_states(chunk, None)?.0)?,
                Some(_) if std::ptr::eq(chunk, last) => {
                    let pass = encoder.training_pass(chunk, dropout)?;
                    hidden.copy_from(at, &pass.hidden)?;
                    kept = Some(pass);
                }
                Some(_) => hidden.copy_from(at, &encoder.training_hidden(chunk, dropout)?)?,
            }
        }
        let tokens = TrainingTokens::new(hidden, PackedTexts::new(&device, offsets)?, d)?;

        // The pairs, so many at a time.
        let groups = objective::pairs::<R>(task.objective, b);
        let placed = |pair: [u32; 2]| {
            let [first, second] = pair.map(|text| place[text as usize]);
            if task.swapped {
                [second, first]
            } else {
                [first, second]
            }
        };
        let pairs: Vec<[u32; 2]> = groups.concat().into_iter().map(placed).collect();
        let ranges = match verifier.kind() {
            // Pairs that are normalised together stay together.
            Kind::Cnn => whole(groups.iter().map(Vec::len)),
            _ => divided_pairs(&pairs, tokens.packing(), verifier, bytes),
        };
        let longest = |pairs: &[[u32; 2]], side: usize| {
            let lengths = pairs
                .iter()
                .map(|pair| tokens.packing().rows(pair[side] as usize).len());
            lengths.max().unwrap_or(0) as u32
        };
        let queries = longest(&pairs, 0);
        let part = |range: Range<usize>| -> Result<Part> {
            let of_part = &pairs[range.clone()];
            Ok(Part {
                list: PairList::new(&device, of_part.to_vec())?,
                masks: (task.rate > 0.0).then(|| PairMasks {
                    seed: task.dropout.seed,
                    step: task.dropout.step,
                    rate: task.rate,
                    numbers: (range.start as u32..range.end as u32).collect(),
                }),
                padding: [queries, longest(of_part, 1)],
                kept: None,
            })
        };
        let mut parts = ranges.into_iter().map(part).collect::<Result<Vec<_>>>()?;
        let mut raw = Vec::with_capacity(pairs.len());
        let once = parts.len() == 1;
        for part in &mut parts {
            let (mode, padding) = (part.mode(true), Some(part.padding));
            let (scores, kept) = verifier.forward(&tokens, &part.list, mode, padding, once)?;
            raw.extend(scores);
            part.kept = kept;
        }

        let scores: Vec<f64> = raw.iter().map(|&raw| verifier.score_of(raw)).collect();
        let calibration = verifier.objective()?.map(f64::from);
        let cost = objective::cost(task.objective, b, &scores, task.temperature, calibration);
        let scale = f64::from(task.loss_scale);
        let d_raw: Vec<f32> = (cost.d_scores.iter().zip(&scores))
            .map(|(d_score, &score)| (scale * d_score * verifier.slope_at(score)) as f32)
            .collect();
        let gradients = &mut verifier_group.gradients;
        let mut d_tokens = encoder_group.as_ref().map(|_| TokenGradient::new(&tokens));
        let mut left = &d_raw[..];
        for mut part in parts {
            let saved = match part.kept.take() {
                // Who has no weights reads nothing of it.
                None if verifier.kind().learns() => {
                    let (mode, padding) = (part.mode(false), Some(part.padding));
                    verifier
                        .forward(&tokens, &part.list, mode, padding, true)?
                        .1
                }
                kept => kept,
            };
            let (d_raw, rest) = left.split_at(part.list.len());
            verifier.backward(
                &tokens,
                &part.list,
                saved,
                d_raw,
                gradients,
                d_tokens.as_mut(),
            )?;
            left = rest;
        }
        let d_calibration = cost.d_calibration.map(|d| (scale * d) as f32);
        verifier.set_objective_gradient(gradients, d_calibration)?;

        if let (Some(group), Some(d_tokens)) = (encoder_group, d_tokens) {
            group.gradients.clear()?;
            let d_hidden = d_tokens.finish(&tokens)?;
            drop(tokens);
            // The kept one first.
            let order = (std::iter::once(last).chain(others))
                .zip(firsts.iter().rev().take(1).chain(&firsts));
            for (chunk, &first) in order {
                let pass = match kept.take() {
                    Some(pass) => pass,
                    None => encoder.training_pass(chunk, dropout)?,
                };
                let rows = first * d..(first + chunk.n_tokens()) * d;
                let mut part: Buffer<f32> = device.alloc(rows.len())?;
                part.copy_from(0, d_hidden.slice(rows))?;
                encoder.backward_from_hidden(pass, part, &mut group.gradients)?;
            }
        }
        Ok(cost.losses.into_iter().map(|loss| loss as f32).collect())
    }

    /// Makes a step with the gradients that there are, unless some are not finite. Each model has its own settings and is
    /// clipped by its own norm. Returns the norm of the gradients of both as they are, scaled.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings without meaning, or what the device reports.
    pub fn update(&mut self, verifier: &AdamW, encoder: &AdamW) -> Result<f32> {
        self.verifier_group.measure()?;
        if let Some(group) = &mut self.encoder_group {
            group.measure()?;
        }
        let mut squares = self.verifier_group.norm()?.powi(2);
        if let Some(group) = &self.encoder_group {
            squares += group.norm()?.powi(2);
        }
        let norm = squares.sqrt();
        if norm.is_finite() {
            let (weights, _) = self.verifier.trainable();
            self.verifier_group.step(verifier, Decay::All, weights)?;
            if let Some(group) = &mut self.encoder_group {
                group.step(encoder, Decay::All, self.encoder.trainable()?)?;
            }
        }
        Ok(norm)
    }
}

/// Pairs that are scored together.
struct Part {
    list: PairList,
    masks: Option<PairMasks>,
    /// How far the texts of either side are padded, where that matters.
    padding: [u32; 2],
    /// What was kept of the first way through, if it was the only part and there is anything to keep.
    kept: Option<SavedPairs>,
}

impl Part {
    /// The way through, for the first time or once more.
    fn mode(&self, first: bool) -> Mode<'_> {
        Mode::Training {
            masks: self.masks.as_ref(),
            note: first,
        }
    }
}

/// Ranges of these lengths, one behind the other.
fn whole(lengths: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let ends = lengths.scan(0, |end, length| {
        *end += length;
        Some(*end - length..*end)
    });
    ends.collect()
}

/// Ranges of pairs whose maps and what is computed of them take at most so many bytes; one pair at least.
fn divided_pairs(
    pairs: &[[u32; 2]],
    texts: &PackedTexts,
    verifier: &Learned,
    bytes: usize,
) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut taken = 0;
    for (i, &[query, document]) in pairs.iter().enumerate() {
        let rows = |text: u32| texts.rows(text as usize).len();
        let needed = verifier.pair_bytes(rows(query), rows(document));
        match parts.last_mut() {
            Some(part) if taken + needed <= bytes => {
                part.end = i + 1;
                taken += needed;
            }
            _ => {
                parts.push(i..i + 1);
                taken = needed;
            }
        }
    }
    parts
}
