//! For every text of a list of pairs, the pairs that it is in.

use std::ops::Range;

use crate::ops::{MapLayout, PackedTexts, PairList};

/// The pairs of every text of one side of a list, in the order of the list.
pub(super) struct Partners {
    /// `[n + 1]`: where the pairs of a text begin.
    pub offsets: Vec<u32>,
    /// `[p]`: one entry a pair.
    pub entries: Vec<Partner>,
}

/// A pair that a text is in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Partner {
    /// Where the pair's map begins.
    pub map: u32,
    /// Tokens of its document: from row to row of the map.
    pub l_c: u32,
    /// The first row of the other text.
    pub first: u32,
    /// Tokens of the other text.
    pub tokens: u32,
}

impl Partners {
    /// Of the queries (`side` 0) or documents (`side` 1) of a list.
    pub fn of(
        pairs: &PairList,
        layout: &MapLayout,
        packings: [&PackedTexts; 2],
        side: usize,
    ) -> Self {
        let (own, other) = (packings[side], packings[1 - side]);
        let mut offsets = vec![0u32; own.texts() + 1];
        for pair in pairs.pairs() {
            offsets[pair[side] as usize + 1] += 1;
        }
        for text in 0..own.texts() {
            offsets[text + 1] += offsets[text];
        }
        let mut next = offsets.clone();
        let mut entries = vec![Partner::default(); pairs.len()];
        let maps = layout.offsets().iter().zip(layout.shapes());
        for (pair, (&map, &[_, l_c])) in pairs.pairs().iter().zip(maps) {
            let place = &mut next[pair[side] as usize];
            let rows = other.rows(pair[1 - side] as usize);
            entries[*place as usize] = Partner {
                map,
                l_c,
                first: rows.start as u32,
                tokens: rows.len() as u32,
            };
            *place += 1;
        }
        Partners { offsets, entries }
    }

    /// The pairs of a text.
    pub fn of_text(&self, text: usize) -> &[Partner] {
        &self.entries[self.offsets[text] as usize..self.offsets[text + 1] as usize]
    }
}

/// Where the lists of both sides are in a buffer, of each its offsets and its entries, everything where views may begin.
pub(super) fn together(sides: &[Partners; 2]) -> (Vec<u32>, [[Range<usize>; 2]; 2]) {
    let mut all = Vec::new();
    let places = sides.each_ref().map(|side| {
        let entries = bytemuck::cast_slice(&side.entries);
        [&side.offsets[..], entries].map(|list: &[u32]| {
            // A multiple of 256 bytes.
            all.resize(all.len().next_multiple_of(64), 0);
            all.extend_from_slice(list);
            all.len() - list.len()..all.len()
        })
    });
    // So that an empty list at the end has memory too.
    all.resize(all.len() + 4, 0);
    (all, places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn pairs_keep_their_order() {
        let cpu = Device::cpu();
        let queries = PackedTexts::new(&cpu, vec![0, 1, 2, 5]).unwrap();
        let documents = PackedTexts::new(&cpu, vec![0, 2, 3, 3]).unwrap();
        let pairs = PairList::new(&cpu, vec![[2, 0], [0, 1], [2, 1], [2, 0]]).unwrap();
        let layout = MapLayout::new(&cpu, &queries, &documents, &pairs).unwrap();
        let partner = |map, l_c, first, tokens| Partner {
            map,
            l_c,
            first,
            tokens,
        };
        let sides = [0, 1].map(|side| Partners::of(&pairs, &layout, [&queries, &documents], side));
        assert_eq!(sides[0].offsets, [0, 1, 1, 4]);
        assert_eq!(
            sides[0].of_text(2),
            [
                partner(0, 2, 0, 2),
                partner(7, 1, 2, 1),
                partner(10, 2, 0, 2)
            ]
        );
        assert_eq!(
            sides[1].of_text(0),
            [partner(0, 2, 2, 3), partner(10, 2, 2, 3)]
        );
        assert_eq!(
            sides[1].of_text(1),
            [partner(6, 1, 0, 1), partner(7, 1, 2, 3)]
        );
        assert!(sides[1].of_text(2).is_empty());
        let (all, [[offsets, _], [_, entries]]) = together(&sides);
        assert_eq!(all[offsets], [0, 1, 1, 4]);
        assert_eq!((entries.start % 64, entries.len()), (0, 16));
        assert_eq!(all[entries.start..][..4], [0, 2, 2, 3]);
    }
}
