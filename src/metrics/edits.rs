//! How large an edit is, and how much a score moves with it.
//!
//! The size `k` of an edit is the word-level Levenshtein distance between the two sentences. An encoder that reads
//! structure should turn further for an edit that changes the meaning than for one of the same size that does not: the
//! *selectivity* is the quotient of the two median angles, matched on size and length; at or below 1 the encoder is
//! moved by wording alone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::statistics::{degrees, median, quantile};

/// Largest size of edit in a [`Curve`].
pub const LARGEST: usize = 5;

/// Words per length bucket when edits are matched.
const BUCKET: usize = 8;

/// The words of a sentence, in lower case, without punctuation but for apostrophes and hyphens inside.
pub fn words(text: &str) -> Vec<String> {
    let pieces = text.split_whitespace();
    pieces
        .map(|piece| {
            piece
                .trim_matches(|c: char| !c.is_alphanumeric())
                .to_lowercase()
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// Levenshtein distance between two sequences: the least number of insertions, deletions and substitutions.
///
/// ```
/// use nearmiss::metrics::edits::{word_distance, words};
/// let distance = |a: &str, b: &str| word_distance(&words(a), &words(b));
/// assert_eq!(distance("The dog barks.", "The dog does not bark."), 3);
/// assert_eq!(distance("the dog bites the man", "the man bites the dog"), 2);
/// ```
pub fn word_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A scored edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edit {
    /// Whether it changes the meaning.
    pub changes_meaning: bool,
    /// Cosine of the sentence before and after.
    pub cosine: f64,
    /// Word-level Levenshtein distance.
    pub size: usize,
    /// Words of the sentence before.
    pub length: usize,
}

/// Median angle for every size of edit from 1 to [`LARGEST`], with the number of edits it is taken of.
pub type Curve = [Option<(f64, usize)>; LARGEST];

/// How an encoder answers edits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sensitivity {
    /// Edits that change the meaning, of size 1 or more.
    pub n: usize,
    /// Their mean size in words.
    pub mean_size: f64,
    /// Median of degrees per edited word.
    pub degrees_per_word: f64,
    /// 95th percentile of degrees per edited word.
    pub degrees_per_word_p95: f64,
    /// Median of `1 - cosine`.
    pub median_distance: f64,
    /// Median angle against size, of edits that change the meaning.
    pub changing: Curve,
    /// The same of edits that do not.
    pub preserving: Curve,
    /// See [`selectivity`].
    pub selectivity: Option<Selectivity>,
}

/// The quotient of median angles, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Selectivity {
    /// Median angle of edits that change the meaning over that of edits that do not.
    pub ratio: f64,
    /// Edits of each kind that were matched.
    pub matched: usize,
}

/// Summarises scored edits; `None` if none of them changes the meaning. Edits of size 0 (of punctuation or case alone)
/// have no angle per word and are left out.
pub fn sensitivity(edits: &[Edit]) -> Option<Sensitivity> {
    let edits: Vec<Edit> = edits.iter().filter(|e| e.size > 0).copied().collect();
    let changing: Vec<Edit> = edits
        .iter()
        .filter(|e| e.changes_meaning)
        .copied()
        .collect();
    let preserving: Vec<Edit> = edits
        .iter()
        .filter(|e| !e.changes_meaning)
        .copied()
        .collect();
    let per_word: Vec<f64> = changing
        .iter()
        .map(|e| degrees(e.cosine) / e.size as f64)
        .collect();
    let distances: Vec<f64> = changing.iter().map(|e| 1.0 - e.cosine).collect();
    let sizes: usize = changing.iter().map(|e| e.size).sum();
    Some(Sensitivity {
        n: changing.len(),
        mean_size: sizes as f64 / changing.len() as f64,
        degrees_per_word: median(&per_word)?,
        degrees_per_word_p95: quantile(&per_word, 0.95)?,
        median_distance: median(&distances)?,
        changing: curve(&changing),
        preserving: curve(&preserving),
        selectivity: selectivity(&edits),
    })
}

fn curve(edits: &[Edit]) -> Curve {
    std::array::from_fn(|i| {
        let of_size = edits.iter().filter(|e| e.size == i + 1);
        let angles: Vec<f64> = of_size.map(|e| degrees(e.cosine)).collect();
        Some((median(&angles)?, angles.len()))
    })
}

/// Median angle of the edits that change the meaning over that of those that do not, both taken of the same mixture of
/// sizes and lengths: within each cell (size, and length in steps of eight words) as many of either kind count as the
/// rarer kind has, those at evenly spaced ranks of the cell's angles. `None` if no cell has both or the divisor is 0.
pub fn selectivity(edits: &[Edit]) -> Option<Selectivity> {
    let mut cells: BTreeMap<(usize, usize), [Vec<f64>; 2]> = BTreeMap::new();
    for edit in edits {
        let cell = cells.entry((edit.size, edit.length / BUCKET)).or_default();
        cell[usize::from(edit.changes_meaning)].push(degrees(edit.cosine));
    }
    let mut matched: [Vec<f64>; 2] = Default::default();
    for cell in cells.values_mut() {
        let n = cell[0].len().min(cell[1].len());
        for (angles, matched) in cell.iter_mut().zip(&mut matched) {
            angles.sort_unstable_by(f64::total_cmp);
            // The middles of n equal parts, so that the subset has the cell's distribution and no chance in it.
            matched.extend((0..n).map(|i| angles[(2 * i + 1) * angles.len() / (2 * n)]));
        }
    }
    let [preserving, changing] = &matched;
    let (preserving, changing) = (median(preserving)?, median(changing)?);
    (preserving > 0.0).then(|| Selectivity {
        ratio: changing / preserving,
        matched: matched[0].len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(changes_meaning: bool, angle: f64, size: usize, length: usize) -> Edit {
        Edit {
            changes_meaning,
            cosine: angle.to_radians().cos(),
            size,
            length,
        }
    }

    #[test]
    fn words_are_bare() {
        let expected = ["it's", "a", "well-known", "fact", "3", "times"];
        assert_eq!(
            words(" It's a \u{201c}well-known\u{201d} fact -- 3 times! "),
            expected
        );
    }

    #[test]
    fn distances_by_hand() {
        let chars = |a: &str, b: &str| {
            word_distance(
                &a.chars().collect::<Vec<_>>(),
                &b.chars().collect::<Vec<_>>(),
            )
        };
        for (a, b, expected) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("abc", "", 3),
            ("flaw", "lawn", 2),
            ("same", "same", 0),
        ] {
            assert_eq!(chars(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn sensitivity_by_hand() {
        let edits = [
            edit(true, 10.0, 1, 5),
            edit(true, 30.0, 2, 5),
            edit(true, 60.0, 3, 6),
            edit(false, 5.0, 1, 5),
            edit(false, 90.0, 0, 5),
            edit(false, 20.0, 9, 40),
        ];
        let found = sensitivity(&edits).unwrap();
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-9, "{got} {want}");
        assert_eq!(found.n, 3);
        close(found.mean_size, 2.0);
        // 10, 15 and 20 degrees per word.
        close(found.degrees_per_word, 15.0);
        close(found.degrees_per_word_p95, 19.5);
        close(found.median_distance, 1.0 - 3f64.sqrt() / 2.0);
        close(found.changing[1].unwrap().0, 30.0);
        assert_eq!(found.preserving[1], None);
        // One cell has both kinds: size 1, up to seven words.
        let selectivity = found.selectivity.unwrap();
        assert_eq!(selectivity.matched, 1);
        close(selectivity.ratio, 2.0);
        assert_eq!(sensitivity(&edits[3..]), None);
    }

    #[test]
    fn matching_evens_out_sizes() {
        // Large edits turn further whatever they mean; unmatched, the many large edits that change the meaning would
        // look like sensitivity.
        let mut edits = Vec::new();
        for i in 0..30 {
            let wiggle = f64::from(i) / 10.0;
            edits.push(edit(true, 40.0 + wiggle, 4, 10));
            edits.push(edit(false, 10.0 + wiggle, 1, 10));
        }
        for i in 0..3 {
            let wiggle = f64::from(i) / 10.0;
            edits.push(edit(true, 10.0 + wiggle, 1, 10));
            edits.push(edit(false, 40.0 + wiggle, 4, 10));
        }
        let found = selectivity(&edits).unwrap();
        assert_eq!(found.matched, 6);
        assert!((found.ratio - 1.0).abs() < 0.1, "{found:?}");
    }
}
