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
    let most = a.len().max(b.len());
    distance_within(a, b, most).expect("no distance is above the longer length")
}

/// [`word_distance`] if it is at most `most`, else `None`. Its cost grows with the distance times the length, not with the
/// square of the length (Ukkonen, 1985), and ends where `most` is passed.
///
/// ```
/// use nearmiss::metrics::edits::distance_within;
/// assert_eq!(distance_within(&["a", "b", "c"], &["a", "c"], 1), Some(1));
/// assert_eq!(distance_within(&["a", "b", "c"], &["d", "e", "f"], 2), None);
/// ```
pub fn distance_within<T: PartialEq>(a: &[T], b: &[T], most: usize) -> Option<usize> {
    let (a, b) = without_common_ends(a, b);
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if long.len() - short.len() > most {
        return None;
    }
    // A band that is too narrow costs a fraction of the next one.
    let mut within = 8.max(long.len() - short.len());
    loop {
        let found = banded(short, long, within.min(most));
        if found.is_some() || within >= most {
            return found;
        }
        within = within.saturating_mul(2);
    }
}

/// What is between the beginning and the end that two sequences have in common.
fn without_common_ends<'a, T: PartialEq>(mut a: &'a [T], mut b: &'a [T]) -> (&'a [T], &'a [T]) {
    let same = |(x, y): &(&T, &T)| x == y;
    let n = a.iter().zip(b).take_while(same).count();
    (a, b) = (&a[n..], &b[n..]);
    let n = (a.iter().rev().zip(b.iter().rev()))
        .take_while(same)
        .count();
    (&a[..a.len() - n], &b[..b.len() - n])
}

/// The distance if it is at most `most`: no way of so few edits leaves the cells within `most` of the diagonal.
fn banded<T: PartialEq>(short: &[T], long: &[T], most: usize) -> Option<usize> {
    let far = most + 1;
    let mut row: Vec<usize> = (0..=short.len()).map(|j| j.min(far)).collect();
    for (i, x) in long.iter().enumerate() {
        let first = (i + 1).saturating_sub(most);
        let last = short.len().min(i + 1 + most);
        // The cell before the band, then those in it.
        let mut diagonal = match first {
            0 => std::mem::replace(&mut row[0], (i + 1).min(far)),
            at => std::mem::replace(&mut row[at - 1], far),
        };
        let mut least = if first == 0 { row[0] } else { far };
        for j in first.max(1)..=last {
            let above = if j == i + 1 + most { far } else { row[j] };
            let substituted = diagonal + usize::from(*x != short[j - 1]);
            diagonal = row[j];
            row[j] = substituted.min(row[j - 1] + 1).min(above + 1).min(far);
            least = least.min(row[j]);
        }
        if least > most {
            return None;
        }
    }
    let found = row[short.len()];
    (found <= most).then_some(found)
}

/// Largest word-level distance that the study tells from larger ones, which count as [`BEYOND`]: no more words of a text
/// than that are read by an encoder of 512 tokens, while a book beside another would take hours.
pub const MOST: usize = 512;

/// What a distance above [`MOST`] counts as.
pub const BEYOND: usize = MOST + 1;

/// [`word_distance`] of two sentences, [`BEYOND`] if it is above [`MOST`], and the words of the first.
pub fn size_and_length(before: &str, after: &str) -> (usize, usize) {
    let (before, after) = (words(before), words(after));
    let size = distance_within(&before, &after, MOST);
    (size.unwrap_or(BEYOND), before.len())
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

    /// The definition, cell by cell.
    fn by_the_table(a: &[u8], b: &[u8]) -> usize {
        let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
        for (i, x) in a.iter().enumerate() {
            let mut row = vec![i + 1];
            for (j, y) in b.iter().enumerate() {
                let substituted = rows[i][j] + usize::from(x != y);
                row.push(substituted.min(row[j] + 1).min(rows[i][j + 1] + 1));
            }
            rows.push(row);
        }
        rows[a.len()][b.len()]
    }

    #[test]
    fn bands_change_no_distance() {
        let mut seen = [0; 40];
        for case in 0..4000 {
            let mut stream = crate::random::Stream::new(3, &["distance"], case);
            // Few letters and many: near and far sequences, of like and unlike lengths.
            let letters = [2, 3, 40][stream.below(3)];
            let mut draw = |most: usize| -> Vec<u8> {
                let n = stream.below(most);
                (0..n).map(|_| stream.below(letters) as u8).collect()
            };
            let a = draw(40);
            let mut b = draw(40);
            if case % 2 == 0 {
                b = [&a[..a.len() / 2], &b[..b.len() / 4], &a[a.len() / 2..]].concat();
            }
            let expected = by_the_table(&a, &b);
            assert_eq!(word_distance(&a, &b), expected, "{a:?} {b:?}");
            assert_eq!(word_distance(&b, &a), expected);
            for most in [0, 1, 2, 5, 8, 9, 17, 39, 100] {
                let within = (expected <= most).then_some(expected);
                assert_eq!(distance_within(&a, &b, most), within, "{most}: {a:?} {b:?}");
            }
            seen[expected.min(39)] += 1;
        }
        assert!(seen[..30].iter().all(|&n| n > 0), "{seen:?}");
    }

    #[test]
    fn books_are_compared_in_no_time() {
        // 20,000 words each: the whole table has 400,000,000 cells. A distance within the limit, one that is beyond it
        // early, and one that is beyond it at the end.
        let book: Vec<u32> = (0..20_000).collect();
        let mut edited = book.clone();
        for i in (1..book.len()).step_by(100) {
            edited[i] = u32::MAX;
        }
        assert_eq!(distance_within(&book, &edited, MOST), Some(200));
        let other: Vec<u32> = (1_000_000..1_020_000).collect();
        assert_eq!(distance_within(&book, &other, MOST), None);
        let end = book.len() - 1000;
        edited[end..].fill(u32::MAX);
        assert_eq!(distance_within(&book, &edited, MOST), None);
        assert_eq!(distance_within(&book, &book[..1000], MOST), None);
    }

    #[test]
    fn sizes_have_a_limit() {
        let text = |n: usize| (0..n).map(|i| format!("w{i} ")).collect::<String>();
        assert_eq!(size_and_length(&text(9), &text(3)), (6, 9));
        assert_eq!(size_and_length("", &text(MOST)), (MOST, 0));
        assert_eq!(size_and_length("", &text(MOST + 1)), (BEYOND, 0));
        assert_eq!(size_and_length("", &text(5000)), (BEYOND, 0));
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
