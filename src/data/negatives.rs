//! Negatives for rows that have none: positives of other rows, drawn at random or found by their words.
//!
//! What answers the anchor in any row is never its negative, and neither is the anchor itself. Which negative a row gets
//! depends on the rows and a seed alone.
//!
//! [`Bm25`] is written here because what is needed is little and must give the same lists everywhere: the crate `bm25`
//! (2.3) orders equal scores by the order of a hash set, which differs from run to run, and looks for each word of a query
//! by going through all words of a document.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::triplets::{Pair, Triplet};
use crate::error::{Error, Result};
use crate::random::Stream;

/// Draws that are made before all candidates are gone through.
const DRAWS: usize = 64;

/// Which texts can be negatives of which anchors.
pub struct Candidates<'a> {
    pairs: &'a [Pair],
    /// The positives, each once, in the order of the rows.
    texts: Vec<&'a str>,
    /// Per row the number of its positive.
    of_row: Vec<u32>,
    /// Per anchor what answers it, the anchor's own text among it if that is a positive.
    answers: HashMap<&'a str, HashSet<u32>>,
}

impl<'a> Candidates<'a> {
    /// Those of rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] for 2^32 rows or more.
    pub fn new(pairs: &'a [Pair]) -> Result<Self> {
        if u32::try_from(pairs.len()).is_err() {
            return Err(Error::Invalid(format!(
                "{} rows cannot be numbered in 32 bits; train on a part of them",
                pairs.len()
            )));
        }
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut texts = Vec::new();
        let mut of_row = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let number = *numbers.entry(&pair.positive).or_insert_with(|| {
                texts.push(pair.positive.as_str());
                texts.len() as u32 - 1
            });
            of_row.push(number);
        }
        let mut answers: HashMap<&str, HashSet<u32>> = HashMap::new();
        for (pair, &number) in pairs.iter().zip(&of_row) {
            let of_anchor = answers.entry(&pair.anchor).or_default();
            of_anchor.insert(number);
            of_anchor.extend(numbers.get(pair.anchor.as_str()));
        }
        Ok(Candidates {
            pairs,
            texts,
            of_row,
            answers,
        })
    }

    /// The distinct positives.
    pub fn texts(&self) -> &[&'a str] {
        &self.texts
    }

    /// The number of a row's positive among the texts.
    pub fn positive(&self, row: usize) -> u32 {
        self.of_row[row]
    }

    /// Whether a text can be the negative of a row.
    pub fn admits(&self, row: usize, text: u32) -> bool {
        !self.answers(row).contains(&text)
    }

    /// How many texts cannot.
    pub fn excluded(&self, row: usize) -> usize {
        self.answers(row).len()
    }

    fn answers(&self, row: usize) -> &HashSet<u32> {
        &self.answers[self.pairs[row].anchor.as_str()]
    }

    /// The positive of a row that is drawn uniformly among those that can serve.
    fn random(&self, row: usize, stream: &mut Stream) -> Result<u32> {
        for _ in 0..DRAWS {
            let text = self.of_row[stream.below(self.of_row.len())];
            if self.admits(row, text) {
                return Ok(text);
            }
        }
        // Few can serve, if any: drawn among them.
        let fits: Vec<u32> = (self.of_row.iter().copied())
            .filter(|&text| self.admits(row, text))
            .collect();
        match fits.is_empty() {
            true => Err(Error::Invalid(format!(
                "row {row} can have no negative: every positive answers its anchor {:?} as well; give rows with other answers",
                self.pairs[row].anchor
            ))),
            false => Ok(fits[stream.below(fits.len())]),
        }
    }

    /// Gives every row a negative: one of those `found` for it (numbers of texts), drawn uniformly, or a random one where
    /// there is none. Returns the rows, and how many took a random one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an anchor that every positive answers.
    pub fn choose(&self, found: &[Vec<u32>], seed: u64) -> Result<(Vec<Triplet>, usize)> {
        let mut without = 0;
        let mut rows = Vec::with_capacity(self.pairs.len());
        for (row, pair) in self.pairs.iter().enumerate() {
            let mut stream = Stream::new(seed, &["data", "negatives"], row as u64);
            let text = match found.get(row).map_or(&[][..], Vec::as_slice) {
                [] => {
                    without += 1;
                    self.random(row, &mut stream)?
                }
                found => found[stream.below(found.len())],
            };
            rows.push(pair.clone().with(self.texts[text as usize].to_string()));
        }
        Ok((rows, without))
    }
}

/// Rows with the positive of another, uniformly drawn row as the negative.
///
/// # Errors
/// As [`Candidates::choose`].
pub fn random(pairs: &[Pair], seed: u64) -> Result<Vec<Triplet>> {
    Ok(Candidates::new(pairs)?.choose(&[], seed)?.0)
}

/// Rows with a negative that shares words with the anchor: one of those that [`Bm25`] ranks from `ranks[0]` to below
/// `ranks[1]`, from 0, among the texts that can serve. Returns the rows, and how many took a random one because none
/// shares a word.
///
/// # Errors
/// As [`Candidates::choose`].
pub fn by_words(pairs: &[Pair], ranks: [usize; 2], seed: u64) -> Result<(Vec<Triplet>, usize)> {
    let candidates = Candidates::new(pairs)?;
    let index = Bm25::new(candidates.texts());
    let found: Vec<Vec<u32>> = pairs
        .par_iter()
        .enumerate()
        .map_init(Scores::default, |scores, (row, pair)| {
            let admits = |text| candidates.admits(row, text);
            let best = index.best(&pair.anchor, ranks[1], admits, scores);
            best.into_iter()
                .skip(ranks[0])
                .map(|(text, _)| text)
                .collect()
        })
        .collect();
    candidates.choose(&found, seed)
}

/// Lists of the words of texts (Robertson and Zaragoza, 2009; k1 = 1.2, b = 0.75, as Lucene's formula has them). Words are
/// runs of letters and digits in lower case.
pub struct Bm25 {
    /// Per word the texts that have it, in order, with how often.
    postings: HashMap<String, Vec<(u32, u32)>>,
    /// Per text what its length adds to the count of a word: K1 for one of mean length.
    norms: Vec<f64>,
}

/// Scores of texts while a query is worked on; all zero in between.
#[derive(Default)]
struct Scores {
    of_text: Vec<f64>,
    touched: Vec<u32>,
}

const K1: f64 = 1.2;
const B: f64 = 0.75;

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

impl Bm25 {
    /// An index of these texts.
    pub fn new(texts: &[&str]) -> Self {
        let mut postings: HashMap<String, Vec<(u32, u32)>> = HashMap::new();
        let mut lengths: Vec<u32> = Vec::with_capacity(texts.len());
        for (number, text) in (0u32..).zip(texts) {
            let mut length = 0;
            for word in words(text) {
                length += 1;
                let texts = postings.entry(word).or_default();
                match texts.last_mut() {
                    Some((last, count)) if *last == number => *count += 1,
                    _ => texts.push((number, 1)),
                }
            }
            lengths.push(length);
        }
        let total: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let mean = total as f64 / lengths.len().max(1) as f64;
        let norm = |length: u32| K1 * (1.0 - B + B * f64::from(length) / mean);
        Bm25 {
            postings,
            norms: lengths.into_iter().map(norm).collect(),
        }
    }

    /// The `most` best of the texts that `admits` lets through and that share a word with the query, with their scores;
    /// of equal ones the first comes first.
    fn best(
        &self,
        query: &str,
        most: usize,
        admits: impl Fn(u32) -> bool,
        scores: &mut Scores,
    ) -> Vec<(u32, f64)> {
        scores.of_text.resize(self.norms.len(), 0.0);
        for word in words(query) {
            let Some(texts) = self.postings.get(&word) else {
                continue;
            };
            let [n, with] = [self.norms.len(), texts.len()].map(|n| n as f64);
            let idf = (1.0 + (n - with + 0.5) / (with + 0.5)).ln();
            for &(text, count) in texts {
                let count = f64::from(count);
                let score = &mut scores.of_text[text as usize];
                if *score == 0.0 {
                    scores.touched.push(text);
                }
                *score += idf * count * (K1 + 1.0) / (count + self.norms[text as usize]);
            }
        }
        let mut found = Vec::with_capacity(scores.touched.len());
        for text in scores.touched.drain(..) {
            let score = std::mem::take(&mut scores.of_text[text as usize]);
            if admits(text) {
                found.push((text, score));
            }
        }
        let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if found.len() > most {
            found.select_nth_unstable_by(most, order);
            found.truncate(most);
        }
        found.sort_by(order);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Category;

    fn pair(anchor: &str, positive: &str) -> Pair {
        Pair {
            anchor: anchor.into(),
            positive: positive.into(),
            category: Category::parse("x"),
        }
    }

    /// Forty questions about ten things, four each, every fourth answer of a thing the same.
    fn pairs() -> Vec<Pair> {
        (0..40)
            .map(|i| {
                let thing = [
                    "oak", "elm", "ash", "fir", "yew", "bay", "fig", "box", "may", "gum",
                ][i % 10];
                pair(
                    &format!("what is an {thing} {}", i / 20),
                    &format!("the {thing} is a tree of kind {}", i / 10 % 3),
                )
            })
            .collect()
    }

    /// What is wrong with the negatives of these rows, if anything.
    fn fault(pairs: &[Pair], rows: &[Triplet]) -> Option<String> {
        let positives: HashSet<&str> = pairs.iter().map(|p| p.positive.as_str()).collect();
        for (pair, row) in pairs.iter().zip(rows) {
            if (&row.anchor, &row.positive) != (&pair.anchor, &pair.positive) {
                return Some(format!("{row:?} is another row"));
            }
            if !positives.contains(&row.negative[..]) || row.negative == row.anchor {
                return Some(format!("{row:?} has no positive for a negative"));
            }
            let answers = |p: &&Pair| p.anchor == row.anchor && p.positive == row.negative;
            if pairs.iter().find(answers).is_some() {
                return Some(format!("{row:?} has an answer for a negative"));
            }
        }
        (pairs.len() != rows.len()).then(|| "rows are missing".into())
    }

    #[test]
    fn random_negatives_answer_nothing() {
        let pairs = pairs();
        let rows = random(&pairs, 1).unwrap();
        assert_eq!(fault(&pairs, &rows), None);
        assert_eq!(random(&pairs, 1).unwrap(), rows);
        assert_ne!(random(&pairs, 2).unwrap(), rows);
        // Drawn from all of them.
        let drawn: HashSet<&str> = rows.iter().map(|row| row.negative.as_str()).collect();
        assert!(drawn.len() > 12, "{}", drawn.len());
        // The check sees an answer.
        let mut wrong = rows.clone();
        wrong[3].negative = wrong[3].positive.clone();
        assert!(fault(&pairs, &wrong).is_some());
    }

    #[test]
    fn the_last_text_that_can_serve_is_found() {
        // Of a thousand rows all but one have the same answer.
        let mut pairs = vec![pair("q", "a"); 999];
        pairs.push(pair("r", "b"));
        let rows = random(&pairs, 3).unwrap();
        assert!(rows[..999].iter().all(|row| row.negative == "b"));
        assert_eq!(rows[999].negative, "a");
        // An anchor is not its own negative, even where it answers another one.
        let pairs = [pair("a", "b"), pair("c", "a"), pair("d", "e")];
        for seed in 0..20 {
            assert_eq!(random(&pairs, seed).unwrap()[0].negative, "e");
        }
        let error = random(&[pair("q", "a"), pair("q", "b")], 0).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("every positive answers its anchor \"q\""),
            "{error}"
        );
    }

    #[test]
    fn words_find_what_is_about_the_same() {
        let pairs = pairs();
        let (rows, without) = by_words(&pairs, [0, 1], 1).unwrap();
        assert_eq!((fault(&pairs, &rows), without), (None, 0));
        // The rare word decides: each negative is another answer about the same tree, where there is one.
        for row in &rows {
            let thing = row.anchor.split(' ').nth(3).unwrap();
            assert!(row.negative.contains(thing), "{row:?}");
        }
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        assert_eq!(
            threads.install(|| by_words(&pairs, [0, 1], 1)).unwrap().0,
            rows
        );
        // Further down the list others come.
        let (rows, _) = by_words(&pairs, [5, 9], 1).unwrap();
        assert_eq!(fault(&pairs, &rows), None);
        let same = |row: &&Triplet| row.negative.contains(row.anchor.split(' ').nth(3).unwrap());
        assert_eq!(rows.iter().filter(same).count(), 0);
        // Without a common word there is nothing to find.
        let (rows, without) = by_words(&[pair("x", "y"), pair("z", "w")], [0, 5], 0).unwrap();
        assert_eq!((&rows[0].negative[..], without), ("w", 2));
    }

    #[test]
    fn bm25_equals_its_formula() {
        let texts = ["a b b c", "B, d!", "e e e e e f"];
        let index = Bm25::new(&texts);
        let mut scores = Scores::default();
        let found = index.best("b f b", 3, |_| true, &mut scores);
        // By hand: N = 3, mean length 4; b is in two texts, f in one; b counts twice in the query.
        let idf = |n: f64| (1.0 + (3.0 - n + 0.5) / (n + 0.5)).ln();
        let part = |tf: f64, length: f64| tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / 4.0));
        let expected = [
            (0, 2.0 * idf(2.0) * part(2.0, 4.0)),
            (1, 2.0 * idf(2.0) * part(1.0, 2.0)),
            (2, idf(1.0) * part(1.0, 6.0)),
        ];
        for (text, score) in found {
            assert!(
                (score - expected[text as usize].1).abs() < 1e-12,
                "{text} {score}"
            );
        }
        // Nothing is left of one query in the next, and the order of equal ones is that of the texts.
        let again = index.best("d", 3, |_| true, &mut scores);
        assert_eq!(again.len(), 1);
        let index = Bm25::new(&["x", "x", "y x", "x"]);
        let found = index.best("x", 3, |text| text != 1, &mut Scores::default());
        let order: Vec<u32> = found.into_iter().map(|(text, _)| text).collect();
        assert_eq!(order, [0, 3, 2]);
    }
}
