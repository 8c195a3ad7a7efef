//! Texts to token vectors: what an encoder streams, collected piece by piece.

use super::{TokenVectors, TokenVectorsBuilder};
use crate::encoder::{EncodeStats, Encoder, WindowOptions};
use crate::error::Result;
use crate::text::TextKind;

/// Bytes of token vectors that are handed out at a time.
const PIECE_BYTES: usize = 1 << 28;

impl Encoder {
    /// Encodes `texts` in order into token vectors, cut at `max_length` tokens if that is below the encoder's own
    /// limit. `sink` gets them in pieces: the number of the first text, a window's texts or 256 MiB from there on, and
    /// the embeddings `[n, width]` of these texts, cut like their tokens.
    ///
    /// Special tokens and punctuation are tokens like others. Memory: one piece and one batch's activations.
    ///
    /// # Errors
    /// As [`Encoder::windows`]; [`crate::Error::Text`] for a text whose token vectors are not finite.
    pub fn encode_tokens<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        kind: TextKind,
        max_length: Option<usize>,
        mut sink: impl FnMut(usize, TokenVectors, &[f32]) -> Result<()>,
        progress: impl FnMut(usize, usize),
    ) -> Result<EncodeStats> {
        let (d, width) = (self.token_width(), self.width());
        let own = self.tokenizer().max_length();
        let limit = max_length.map_or(own, |limit| limit.min(own));
        let options = WindowOptions {
            max_length,
            texts: Some((PIECE_BYTES / (2 * d * limit.max(1))).max(1)),
        };
        self.windows(
            texts,
            kind,
            options,
            |window| {
                let first = window.first();
                let lengths = window.lengths();
                let mut builder = TokenVectorsBuilder::new(self.device(), d, &lengths)?;
                let mut rows = vec![0f32; lengths.len() * width];
                window.hidden_batches(|batch| {
                    let texts: Vec<usize> = batch.texts.iter().map(|&text| text as usize).collect();
                    let pooled = batch.embeddings()?.read()?;
                    for (row, &text) in pooled.chunks_exact(width).zip(&texts) {
                        rows[text * width..][..width].copy_from_slice(row);
                    }
                    builder.place(&batch.hidden, &batch.packing, &texts)
                })?;
                let vectors = builder.finish().map_err(|e| e.after_texts(first))?;
                sink(first, vectors, &rows)
            },
            progress,
        )
    }
}
