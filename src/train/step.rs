//! One step: the gradient of a batch in every weight, in as many passes as the device has room for, and the update.
//!
//! ```text
//! every chunk -> embeddings [3 B, d] -> loss of the whole batch, gradient in the embeddings
//!             -> every chunk once more, kept -> its rows of that gradient -> backward, added to the gradients
//! ```
//!
//! The softmax is over the whole batch however it is cut (Gao et al., 2021, "Scaling deep contrastive learning batch size
//! under memory limited setup"), and dropout goes by the numbers of texts, so that a chunk computed again has the bits
//! that it had. One chunk is kept from the first turn: a batch that is a single chunk is computed once.

use super::batches::TextBatch;
use super::group::{Array, Decay, Group};
use crate::encoder::{Dropout, Encoder};
use crate::error::{Error, Result};
use crate::model::weights::Table;
use crate::ops::adamw::AdamW;
use crate::ops::info_nce::InfoNce;
use crate::ops::{OwnRows, Places, info_nce, scatter_rows};
use crate::text::Batch;

/// Rows of embeddings at a multiple of which every device lets a view begin: rows are at least 8 numbers wide.
const ALIGN: usize = 8;

/// An encoder with what its training keeps on the device.
pub struct Step {
    pub(super) encoder: Encoder,
    group: Group<Table>,
    /// Most tokens of a chunk, since the device ran out of memory.
    pub(super) chunk: Option<usize>,
}

/// What a gradient is computed of.
#[derive(Clone, Copy)]
pub struct Objective<'a> {
    /// Factor of the cosines: 1 / temperature.
    pub scale: f32,
    /// Factor of the loss, and so of the gradients.
    pub loss_scale: f32,
    /// What is dropped.
    pub dropout: Dropout,
    /// Per row of the training data, whether its negative is a candidate for its own anchor alone; empty if none is.
    pub own: &'a [bool],
}

impl Step {
    /// For an encoder that has not taken a step yet.
    ///
    /// # Errors
    /// What the device reports; as [`Encoder::load`] on one that multiplies f16, where the weights are read once more.
    pub fn new(mut encoder: Encoder) -> Result<Self> {
        // Reads the weights in f32, before anything else is done.
        encoder.trainable()?;
        Ok(Step {
            group: Group::new(encoder.table(), encoder.device())?,
            encoder,
            chunk: None,
        })
    }

    /// The encoder with its weights as they are.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The encoder, without what is kept for more steps.
    pub fn into_encoder(self) -> Encoder {
        self.encoder
    }

    /// Everything on the device that a step changes, under its names.
    pub(super) fn arrays(&mut self) -> Result<Vec<(String, Array<'_>)>> {
        Ok(self.group.arrays("", self.encoder.trainable()?))
    }

    /// Computes the gradient of the loss of a batch in every weight; returns the loss of every anchor, not scaled. If the
    /// device runs out of memory, the chunks are halved and all begins again.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for a text; as [`Encoder::hidden_states`].
    pub fn gradients(&mut self, batch: &TextBatch, objective: &Objective<'_>) -> Result<Vec<f32>> {
        loop {
            let chunks = divided(&batch.chunks, self.chunk.unwrap_or(usize::MAX));
            // Of those that can be halved, so that the limit falls every time and this ends.
            let divisible = chunks.iter().filter(|chunk| chunk.n_texts() > 1);
            let largest = divisible.map(Batch::n_tokens).max();
            match (self.attempt(&chunks, &batch.rows, objective), largest) {
                (Err(Error::OutOfMemory { .. }), Some(largest)) => self.chunk = Some(largest / 2),
                (other, _) => return other,
            }
        }
    }

    fn attempt(
        &mut self,
        chunks: &[Batch],
        rows: &[u32],
        objective: &Objective<'_>,
    ) -> Result<Vec<f32>> {
        let Step { encoder, group, .. } = self;
        let gradients = &mut group.gradients;
        gradients.clear()?;
        let (device, d, b) = (encoder.device(), encoder.width(), rows.len());
        let dropout = Some(objective.dropout);
        let Some((last, others)) = chunks.split_last() else {
            return Ok(Vec::new());
        };
        // Anchors, then positives and negatives from where a view may begin.
        let second = b.next_multiple_of(ALIGN);
        let places = |chunk: &Batch| -> Result<Places> {
            let row = |&text: &u32| {
                if (text as usize) < b {
                    text
                } else {
                    text + (second - b) as u32
                }
            };
            Places::new(device, &chunk.texts.iter().map(row).collect::<Vec<u32>>())
        };
        let mut embeddings = device.alloc::<f32>((second + 2 * b) * d)?;
        for chunk in others {
            let rows = encoder.training_embeddings(chunk, dropout)?;
            scatter_rows(&rows, d, &places(chunk)?, &mut embeddings)?;
        }
        let mut kept = Some(encoder.training_pass(last, dropout)?);
        if let Some(pass) = &kept {
            let rows = encoder.embeddings_of(pass)?;
            scatter_rows(&rows, d, &places(last)?, &mut embeddings)?;
        }

        let mut losses = device.alloc::<f32>(b)?;
        let mut d_embeddings = device.alloc::<f32>(embeddings.len())?;
        let (mut d_anchors, d_candidates) = d_embeddings.as_slice_mut().split_at_mut(second * d);
        let own = owners(rows, objective.own);
        let own = own.map(|own| OwnRows::new(device, &own)).transpose()?;
        let loss = InfoNce {
            anchors: embeddings.slice(..b * d),
            candidates: embeddings.slice(second * d..),
            own: own.as_ref(),
            d,
            scale: objective.scale,
            gradient_scale: objective.loss_scale,
        };
        info_nce(
            &loss,
            &mut losses,
            d_anchors.slice_mut(..b * d),
            d_candidates,
        )?;
        drop(embeddings);

        // In the order of the chunks, the kept one first.
        let order = || std::iter::once(last).chain(others);
        let mut place = vec![0u32; 3 * b];
        for (i, &text) in order().flat_map(|chunk| &chunk.texts).enumerate() {
            place[text as usize] = i as u32;
        }
        let mut ordered = device.alloc::<f32>(3 * b * d)?;
        for (rows, place) in [
            (d_embeddings.slice(..b * d), &place[..b]),
            (d_embeddings.slice(second * d..), &place[b..]),
        ] {
            scatter_rows(rows, d, &Places::new(device, place)?, &mut ordered)?;
        }
        let mut first = 0;
        for chunk in order() {
            let pass = match kept.take() {
                Some(pass) => pass,
                None => encoder.training_pass(chunk, dropout)?,
            };
            let end = first + chunk.n_texts() * d;
            let mut rows = device.alloc::<f32>(end - first)?;
            rows.copy_from(0, ordered.slice(first..end))?;
            encoder.backward(pass, rows.as_slice(), gradients)?;
            first = end;
        }
        losses.read()
    }

    /// Makes a step with the gradients that there are, unless they are not finite; `settings` are those of matrices, vectors
    /// do not decay. Returns the norm of the gradients as they are, scaled.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings without meaning, or what the device reports.
    pub fn update(&mut self, settings: &AdamW) -> Result<f32> {
        let weights = self.encoder.trainable()?;
        self.group.measure()?;
        self.group.step(settings, Decay::Matrices, weights)?;
        self.group.norm()
    }
}

/// The anchor that alone sees a candidate, for positives, then negatives; `None` if all see all.
fn owners(rows: &[u32], own: &[bool]) -> Option<Vec<Option<u32>>> {
    if own.is_empty() {
        return None;
    }
    let negatives = (0..)
        .zip(rows)
        .map(|(i, &row)| own[row as usize].then_some(i));
    Some(rows.iter().map(|_| None).chain(negatives).collect())
}

/// The chunks, those of more tokens than the budget in halves, and these again, as long as they have several texts.
pub(super) fn divided(chunks: &[Batch], budget: usize) -> Vec<Batch> {
    let mut todo: Vec<Batch> = chunks.iter().rev().cloned().collect();
    let mut all = Vec::new();
    while let Some(chunk) = todo.pop() {
        if chunk.n_tokens() <= budget || chunk.n_texts() < 2 {
            all.push(chunk);
            continue;
        }
        let middle = chunk.n_texts() / 2;
        let part = |texts: std::ops::Range<usize>| {
            let offsets = &chunk.offsets[texts.start..=texts.end];
            let tokens = offsets[0] as usize..offsets[offsets.len() - 1] as usize;
            Batch {
                ids: chunk.ids[tokens.clone()].to_vec(),
                positions: chunk.positions[tokens].to_vec(),
                offsets: offsets.iter().map(|o| o - offsets[0]).collect(),
                texts: chunk.texts[texts].to_vec(),
            }
        };
        todo.extend([part(middle..chunk.n_texts()), part(0..middle)]);
    }
    all
}
