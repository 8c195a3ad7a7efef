//! Which elements are dropped.

use super::philox::philox;
use crate::error::{Error, Result};
use crate::random::Stream;

/// Where in an encoder or a verifier something is dropped; equal counters of different sites draw different words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The sum of the embeddings, after its norm.
    Embedding,
    /// The probabilities of attention.
    Probabilities,
    /// What attention adds to the residual stream.
    AttentionOutput,
    /// The inner activations of the feed-forward network, after GELU.
    FeedForwardInner,
    /// What the feed-forward network adds to the residual stream.
    FeedForwardOutput,
    /// The inner activations of a head that makes a score.
    Head,
}

impl Site {
    fn name(self) -> &'static str {
        match self {
            Site::Embedding => "embedding",
            Site::Probabilities => "probabilities",
            Site::AttentionOutput => "attention output",
            Site::FeedForwardInner => "feed-forward inner",
            Site::FeedForwardOutput => "feed-forward output",
            Site::Head => "head",
        }
    }
}

/// Which elements are dropped, and by how much the others grow.
///
/// Element `x` of the row of a token is dropped if word `x % 4` of Philox4x32-10 for the counter `(x / 4, position of the
/// token in its text, number of the text in the batch, head)` is below `rate * 2^32`; the head is 0 where there are none.
/// So a mask depends on neither the device, nor the packing, nor how a batch is cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// The share of elements that are dropped, at least 0 and below 1.
    pub rate: f32,
    /// Of Philox.
    pub key: [u32; 2],
}

impl Mask {
    /// The mask of one site of one layer in one step of a training. `rate` is held to its range where the mask is used.
    pub fn new(rate: f32, seed: u64, step: u64, layer: u32, site: Site) -> Self {
        let place = Stream::new(seed, &["dropout", site.name()], layer.into()).bits();
        let key = Stream::new(place, &["step"], step).bits();
        Mask {
            rate,
            key: [key as u32, (key >> 32) as u32],
        }
    }

    /// A word below this drops its element.
    pub(in crate::ops) fn threshold(&self) -> u32 {
        // Saturates; the largest f32 below 1 gives 2^32 - 256.
        (f64::from(self.rate) * 2f64.powi(32)).round() as u32
    }

    /// What elements that stay are multiplied by: `1 / (1 - rate)`.
    pub(in crate::ops) fn scale(&self) -> f32 {
        1.0 / (1.0 - self.rate)
    }

    /// Whether element `x` stays.
    #[doc(hidden)]
    pub fn keeps(&self, x: usize, position: usize, text: u32, head: usize) -> bool {
        let counter = [x as u32 / 4, position as u32, text, head as u32];
        philox(self.key, counter)[x % 4] >= self.threshold()
    }

    pub(in crate::ops) fn check(&self, op: &'static str) -> Result<()> {
        if (0.0..1.0).contains(&self.rate) {
            return Ok(());
        }
        Err(Error::shape(
            op,
            "rate",
            "at least 0 and below 1",
            self.rate,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_differ_in_every_part_of_their_name() {
        let keys = [
            Mask::new(0.1, 1, 2, 3, Site::Embedding),
            Mask::new(0.1, 0, 2, 3, Site::Embedding),
            Mask::new(0.1, 1, 1, 3, Site::Embedding),
            Mask::new(0.1, 1, 2, 2, Site::Embedding),
            Mask::new(0.1, 1, 2, 3, Site::Probabilities),
            Mask::new(0.1, 1, 2, 3, Site::AttentionOutput),
            Mask::new(0.1, 1, 2, 3, Site::FeedForwardInner),
            Mask::new(0.1, 1, 2, 3, Site::FeedForwardOutput),
            Mask::new(0.1, 1, 2, 3, Site::Head),
        ]
        .map(|mask| mask.key);
        let distinct: std::collections::HashSet<_> = keys.into_iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn the_rate_is_that_of_the_words_dropped() {
        for rate in [0.0f32, 0.1, 0.5, 0.9] {
            let mask = Mask::new(rate, 1, 2, 3, Site::Embedding);
            let n = 40_000;
            let dropped = (0..n).filter(|&x| !mask.keeps(x, 5, 7, 0)).count();
            let (n, rate) = (n as f64, f64::from(rate));
            // Six standard deviations.
            let most = 6.0 * (n * rate * (1.0 - rate)).sqrt();
            assert!(
                (dropped as f64 - rate * n).abs() <= most,
                "{rate}: {dropped}"
            );
        }
        for rate in [-0.1, 1.0, f32::NAN, f32::INFINITY] {
            let mask = Mask::new(rate, 1, 2, 3, Site::Embedding);
            assert!(mask.check("dropout").is_err(), "{rate}");
        }
    }
}
