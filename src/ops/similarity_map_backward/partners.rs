//! For every text of a list of pairs, the pairs that it is in.

use crate::ops::{PackedTexts, PairList};

/// The pairs of every text of one side of a list, in the order of the list.
pub(super) struct Partners {
    /// `[n + 1]`: where the pairs of a text begin.
    pub offsets: Vec<u32>,
    /// `[p]`: numbers of pairs.
    pub pairs: Vec<u32>,
}

impl Partners {
    /// Of the queries (`side` 0) or documents (`side` 1) of a list.
    pub fn of(pairs: &PairList, side: usize, texts: &PackedTexts) -> Self {
        let mut offsets = vec![0u32; texts.texts() + 1];
        for pair in pairs.pairs() {
            offsets[pair[side] as usize + 1] += 1;
        }
        for text in 0..texts.texts() {
            offsets[text + 1] += offsets[text];
        }
        let mut next = offsets.clone();
        let mut numbers = vec![0; pairs.len()];
        for (number, pair) in (0u32..).zip(pairs.pairs()) {
            let place = &mut next[pair[side] as usize];
            numbers[*place as usize] = number;
            *place += 1;
        }
        Partners {
            offsets,
            pairs: numbers,
        }
    }

    /// The pairs of a text.
    pub fn of_text(&self, text: usize) -> &[u32] {
        &self.pairs[self.offsets[text] as usize..self.offsets[text + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn pairs_keep_their_order() {
        let cpu = Device::cpu();
        let texts = PackedTexts::new(&cpu, vec![0, 1, 2, 3]).unwrap();
        let pairs = PairList::new(&cpu, vec![[2, 0], [0, 1], [2, 1], [2, 0]]).unwrap();
        let queries = Partners::of(&pairs, 0, &texts);
        assert_eq!(queries.offsets, [0, 1, 1, 4]);
        assert_eq!(queries.of_text(2), [0, 2, 3]);
        let documents = Partners::of(&pairs, 1, &texts);
        assert_eq!(documents.of_text(0), [0, 3]);
        assert_eq!(documents.of_text(1), [1, 2]);
        assert!(documents.of_text(2).is_empty());
    }
}
