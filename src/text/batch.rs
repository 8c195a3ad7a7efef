//! Packed batches: `[t]` token ids of several texts back to back, and `offsets [n + 1]` that say where each begins.
//!
//! There is no padding, so a batch costs what its tokens cost. [`plan_batches`] decides which texts share a batch from
//! their lengths alone; [`pack`] copies their tokens. Texts of like length are put together because attention is
//! scheduled by the longest text of a batch, and because the first batch is then the most expensive one: when it fits
//! the device's memory, all do.

/// Several texts back to back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[t]`.
    pub ids: Vec<u32>,
    /// Position of each token in its own text, from 0, `[t]`.
    pub positions: Vec<u32>,
    /// Text `i` owns tokens `offsets[i] .. offsets[i + 1]`, `[n + 1]`, not decreasing.
    pub offsets: Vec<u32>,
    /// The place of each packed text in the caller's order, `[n]`.
    pub texts: Vec<u32>,
}

impl Batch {
    /// Number of texts, `n`.
    pub fn n_texts(&self) -> usize {
        self.texts.len()
    }

    /// Number of tokens, `t`.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of the longest text, 0 for an empty batch.
    pub fn max_length(&self) -> usize {
        self.offsets
            .windows(2)
            .map(|w| (w[1] - w[0]) as usize)
            .max()
            .unwrap_or(0)
    }
}

/// Divides texts of the given token counts into batches of at most `token_budget` tokens and `max_texts` texts.
///
/// Returns the indices into `lengths` of each batch, longest texts first; texts of equal length keep their order, so
/// the same lengths give the same batches everywhere. A text longer than the budget is a batch of its own, and a limit
/// of zero counts as one: every text is in exactly one batch, whatever the limits.
pub fn plan_batches(lengths: &[usize], token_budget: usize, max_texts: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(lengths[text])); // stable: ties stay in the caller's order

    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut n_tokens = 0usize;
    for text in order {
        let length = lengths[text];
        match batches.last_mut() {
            Some(batch)
                if batch.len() < max_texts && n_tokens.saturating_add(length) <= token_budget =>
            {
                batch.push(text);
                n_tokens += length;
            }
            _ => {
                batches.push(vec![text]);
                n_tokens = length;
            }
        }
    }
    batches
}

/// Copies the texts `which` (indices into `tokens`, in this order) into one packed batch.
///
/// # Panics
///
/// If an index is out of range, or if the batch would hold 2^32 tokens or more (its offsets are 32 bits wide).
pub fn pack(tokens: &[Vec<u32>], which: &[usize]) -> Batch {
    let n_tokens: usize = which.iter().map(|&text| tokens[text].len()).sum();
    assert!(
        u32::try_from(n_tokens).is_ok() && u32::try_from(tokens.len()).is_ok(),
        "a packed batch holds fewer than 2^32 tokens and texts, got {n_tokens} tokens of {} texts",
        tokens.len()
    );
    let mut batch = Batch {
        ids: Vec::with_capacity(n_tokens),
        positions: Vec::with_capacity(n_tokens),
        offsets: Vec::with_capacity(which.len() + 1),
        texts: Vec::with_capacity(which.len()),
    };
    batch.offsets.push(0);
    for &text in which {
        let ids = &tokens[text];
        batch.ids.extend_from_slice(ids);
        batch.positions.extend(0..ids.len() as u32);
        batch.offsets.push(batch.ids.len() as u32);
        batch.texts.push(text as u32);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths without a pattern, from a small linear congruential generator.
    fn lengths(n: usize, longest: u64, mut state: u64) -> Vec<usize> {
        (0..n)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                ((state >> 33) % longest + 1) as usize
            })
            .collect()
    }

    /// What is wrong with a plan, if anything.
    fn fault(
        lengths: &[usize],
        budget: usize,
        max_texts: usize,
        plan: &[Vec<usize>],
    ) -> Option<String> {
        let mut seen = vec![0; lengths.len()];
        let mut before = usize::MAX;
        for batch in plan {
            let n_tokens: usize = batch.iter().map(|&t| lengths[t]).sum();
            if batch.is_empty() {
                return Some("empty batch".into());
            }
            if batch.len() > 1 && (n_tokens > budget || batch.len() > max_texts) {
                return Some(format!("{n_tokens} tokens in {} texts", batch.len()));
            }
            for &text in batch {
                seen[text] += 1;
                if lengths[text] > before {
                    return Some(format!("text {text} is longer than the one before it"));
                }
                before = lengths[text];
            }
        }
        (seen.iter().any(|&n| n != 1)).then(|| format!("texts seen {seen:?} times"))
    }

    #[test]
    fn every_text_once_within_the_budget() {
        for (n, longest, budget, max_texts) in [
            (0, 10, 64, 8),
            (1, 10, 64, 8),
            (1000, 128, 512, 32),
            (1000, 128, 512, 3),
            (257, 300, 100, 1000),
            (50, 20, 0, 5),
            (50, 20, 100, 0),
        ] {
            let lengths = lengths(n, longest, 7);
            let plan = plan_batches(&lengths, budget, max_texts);
            assert_eq!(fault(&lengths, budget, max_texts.max(1), &plan), None);
            assert_eq!(plan, plan_batches(&lengths, budget, max_texts));
        }
        // The check above rejects a plan with a text twice, one left out, or one too many.
        assert!(fault(&[3, 2], 9, 9, &[vec![0, 0]]).is_some());
        assert!(fault(&[3, 2], 9, 9, &[vec![0]]).is_some());
        assert!(fault(&[3, 2], 4, 9, &[vec![0, 1]]).is_some());
    }

    #[test]
    fn a_worked_plan() {
        // 9 is over the budget and alone; 5 + 3 = 8 fits exactly; of the two 3s the first comes first.
        let plan = plan_batches(&[3, 9, 5, 3, 2], 8, 8);
        assert_eq!(plan, [vec![1], vec![2, 0], vec![3, 4]]);
    }

    #[test]
    fn packing_keeps_every_token() {
        let tokens = vec![vec![7, 8, 9], vec![1], vec![], vec![4, 5]];
        let batch = pack(&tokens, &[3, 2, 0]);
        assert_eq!(batch.ids, [4, 5, 7, 8, 9]);
        assert_eq!(batch.positions, [0, 1, 0, 1, 2]);
        assert_eq!(batch.offsets, [0, 2, 2, 5]);
        assert_eq!(batch.texts, [3, 2, 0]);
        assert_eq!(
            (batch.n_texts(), batch.n_tokens(), batch.max_length()),
            (3, 5, 3)
        );
        let empty = pack(&tokens, &[]);
        assert_eq!(
            (empty.offsets.as_slice(), empty.max_length()),
            (&[0][..], 0)
        );
    }
}
