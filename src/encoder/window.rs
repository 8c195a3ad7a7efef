//! Texts on their way through an encoder: windows of texts that are tokenised together, in batches that fit the device.

use std::sync::Arc;

use super::{EncodeStats, Encoder, why_not_finite};
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::ops::PackedTexts;
use crate::text::{Batch, TextKind, Tokenized, Tokenizer, pack, plan_batches};

/// Texts of a window unless the caller says otherwise: enough that texts of like length meet, few enough that memory
/// stays small.
pub(super) const WINDOW: usize = 2048;

/// How [`Encoder::windows`] cuts texts and lists of texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowOptions {
    /// Length limit in tokens; `None`, or more than the encoder's own, takes that.
    pub max_length: Option<usize>,
    /// Most texts of a window; `None`, or more than the encoder's own number, takes that.
    pub texts: Option<usize>,
}

/// Tokenised texts, before they run through the encoder.
pub struct Window<'a> {
    encoder: &'a Encoder,
    first: usize,
    tokens: &'a Tokenized,
    job: &'a mut Job,
    progress: &'a mut dyn FnMut(usize, usize),
}

/// The hidden states of a batch of texts, on the device.
pub struct HiddenBatch<'a> {
    encoder: &'a Encoder,
    /// The last layer's output, `[t, d]`.
    pub hidden: Buffer<f32>,
    /// Which rows belong to which text of the batch.
    pub packing: PackedTexts,
    /// The place of each text of the batch in its window, `[n]`.
    pub texts: &'a [u32],
}

impl HiddenBatch<'_> {
    /// The embeddings of its texts, `[n, d]`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn embeddings(&self) -> Result<Buffer<f32>> {
        self.encoder.pool(&self.hidden, &self.packing)
    }
}

/// What goes on from window to window.
struct Job {
    /// Tokens of a batch; falls when the device runs out of memory.
    budget: usize,
    stats: EncodeStats,
}

/// The embeddings of a batch, `[n, d]`.
pub(super) enum Pooled {
    /// Where they were computed.
    OnDevice(Buffer<f32>),
    /// Read already: their memory was a graph's.
    OnHost(Vec<f32>),
}

impl Pooled {
    pub fn read(self) -> Result<Vec<f32>> {
        match self {
            Pooled::OnDevice(rows) => rows.read(),
            Pooled::OnHost(rows) => Ok(rows),
        }
    }
}

impl Encoder {
    /// Streams `texts` in order: `each` gets them tokenised, window by window, and runs them through the encoder in the
    /// way it needs; `progress` hears how many texts and tokens were enqueued.
    ///
    /// The next window is tokenised while `each` has the present one. Memory: the tokens of two windows, and one batch's
    /// activations. If the device runs out of memory the batch is halved and tried again.
    ///
    /// # Errors
    /// What `each` or the device report; [`Error::Text`] for a text that cannot be tokenised; [`Error::Setting`] for a
    /// limit that leaves no room for a word.
    pub fn windows<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        kind: TextKind,
        options: WindowOptions,
        mut each: impl FnMut(Window<'_>) -> Result<()>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<EncodeStats> {
        let limited = match options.max_length {
            Some(limit) if limit < self.tokenizer.max_length() => Some(self.limited(limit)?),
            _ => None,
        };
        let tokenizer = limited.as_deref().unwrap_or(&self.tokenizer);
        let size = options.texts.unwrap_or(self.window).min(self.window).max(1);
        let tokenize = |window: &[S]| -> Result<(Tokenized, usize)> {
            let blank = window.iter().filter(|t| t.as_ref().trim().is_empty());
            Ok((tokenizer.encode_kind(window, kind)?, blank.count()))
        };
        let mut job = Job {
            budget: self.token_budget,
            stats: EncodeStats::default(),
        };
        let mut first = 0;
        let mut chunks = texts.chunks(size);
        let mut next = chunks.next().map(tokenize);
        while let Some(tokenized) = next.take() {
            let (tokens, blank) = tokenized.map_err(|e| e.after_texts(first))?;
            job.stats.truncated += tokens.n_truncated;
            job.stats.empty += blank;
            let window = Window {
                encoder: self,
                first,
                tokens: &tokens,
                job: &mut job,
                progress: &mut progress,
            };
            match chunks.next() {
                None => each(window)?,
                // In the current pool, so that a limit on its threads holds; this thread goes on at once.
                Some(chunk) => {
                    let (next, tokenize) = (&mut next, &tokenize);
                    rayon::in_place_scope(|scope| {
                        scope.spawn(move |_| *next = Some(tokenize(chunk)));
                        each(window)
                    })?;
                }
            }
            first += tokens.ids.len();
        }
        Ok(job.stats)
    }

    /// Its tokenizer with a limit below its own.
    fn limited(&self, limit: usize) -> Result<Arc<Tokenizer>> {
        let mut last = self.limited.lock().unwrap_or_else(|p| p.into_inner());
        if let Some(tokenizer) = &*last
            && tokenizer.max_length() == limit
        {
            return Ok(tokenizer.clone());
        }
        let limited = Arc::new(self.tokenizer.with_max_length(limit)?);
        *last = Some(limited.clone());
        Ok(limited)
    }
}

impl Window<'_> {
    /// The number of its first text.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Tokens of each of its texts.
    pub fn lengths(&self) -> Vec<usize> {
        self.tokens.lengths()
    }

    /// Computes the hidden states of its texts, batch by batch. A batch that runs out of memory is repeated in halves, so
    /// `work` must stand being called twice for a text.
    ///
    /// # Errors
    /// What `work` or the device report.
    pub fn hidden_batches(
        mut self,
        mut work: impl FnMut(&HiddenBatch<'_>) -> Result<()>,
    ) -> Result<()> {
        let encoder = self.encoder;
        self.batches(|batch| {
            let (hidden, packing) = encoder.hidden_states(batch, None)?;
            work(&HiddenBatch {
                encoder,
                hidden,
                packing,
                texts: &batch.texts,
            })
        })
    }

    /// The embeddings of its texts, `[n, d]`, in their order. They are read when all batches have been enqueued.
    ///
    /// # Errors
    /// What the device reports; [`Error::Text`] for a text whose embedding is not finite.
    pub fn embeddings(mut self) -> Result<Vec<f32>> {
        let (encoder, first, d) = (self.encoder, self.first, self.encoder.width());
        let mut rows = vec![0f32; self.tokens.ids.len() * d];
        let mut settle = |waiting: &mut Vec<(Pooled, Vec<u32>)>| -> Result<()> {
            for (pooled, texts) in waiting.drain(..) {
                for (row, text) in pooled.read()?.chunks_exact(d).zip(texts) {
                    let text = text as usize;
                    if row.iter().any(|v| !v.is_finite()) {
                        return Err(Error::text(
                            first + text,
                            format!(
                                "got an embedding that is not finite on {}: {}",
                                encoder.device.name(),
                                why_not_finite(&encoder.device)
                            ),
                        ));
                    }
                    rows[text * d..][..d].copy_from_slice(row);
                }
            }
            Ok(())
        };
        let mut waiting = Vec::new();
        self.batches(|batch| {
            let pooled = match encoder.pooled(batch) {
                // What waits to be read holds memory that this batch may need.
                Err(Error::OutOfMemory { .. }) if !waiting.is_empty() => {
                    settle(&mut waiting)?;
                    encoder.pooled(batch)
                }
                other => other,
            };
            waiting.push((pooled?, batch.texts.clone()));
            Ok(())
        })?;
        settle(&mut waiting)?;
        Ok(rows)
    }

    /// Runs `work` on batches of the texts, longest texts first. One that runs out of memory is repeated in halves.
    fn batches(&mut self, mut work: impl FnMut(&Batch) -> Result<()>) -> Result<()> {
        // A stack, so that a batch that does not fit can be replaced by its halves.
        let mut todo = plan_batches(&self.tokens.lengths(), self.job.budget, usize::MAX);
        todo.reverse();
        while let Some(which) = todo.pop() {
            let batch = pack(&self.tokens.ids, &which);
            match work(&batch) {
                // Graphs hold memory that this batch may need.
                Err(Error::OutOfMemory { .. }) if self.encoder.graphs.clear() => {
                    todo.push(which);
                    continue;
                }
                Err(Error::OutOfMemory { .. }) if which.len() > 1 => {
                    self.job.budget = (self.job.budget / 2).max(1);
                    let (a, b) = which.split_at(which.len() / 2);
                    todo.extend([b.to_vec(), a.to_vec()]);
                    continue;
                }
                other => other?,
            }
            let stats = &mut self.job.stats;
            stats.texts += which.len();
            stats.tokens += batch.n_tokens();
            (self.progress)(stats.texts, stats.tokens);
        }
        Ok(())
    }
}
