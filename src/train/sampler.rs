//! Which rows make which batch: a seeded permutation per epoch, cut into batches of one size.
//!
//! The order depends on the rows, the seed and the number of the epoch alone, so that a [`Position`] of two numbers is
//! all that a training needs to go on where it stopped.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::data::triplets::Triplet;
use crate::error::{Error, Result};
use crate::random::Stream;

/// Where a sampler stands: the batch that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batch of that epoch, from 0; the number of its batches where the next epoch is about to begin.
    pub batch: u64,
}

/// Rows in a seeded order, batch after batch, without end.
///
/// Every epoch is another permutation. Rows that are left when no whole batch can be made of them are left out of the
/// epoch; in the next one they have the chance of any other row.
#[derive(Clone, Debug)]
pub struct Sampler {
    n_rows: u32,
    batch: usize,
    seed: u64,
    sentences: Option<Sentences>,
    position: Position,
    /// The batches of the epoch of `position`, back to back.
    order: Vec<u32>,
}

/// Which rows share a sentence.
#[derive(Clone, Debug)]
struct Sentences {
    /// Of every row its sentences by number.
    of_row: Vec<[u32; 3]>,
    /// How many there are.
    count: usize,
}

impl Sampler {
    /// Batches of `batch` of the rows `0 .. n_rows`.
    ///
    /// # Errors
    /// [`Error::Setting`] for batches of no rows; [`Error::Invalid`] for fewer rows than a batch, or too many.
    pub fn new(n_rows: usize, batch: usize, seed: u64) -> Result<Self> {
        Self::with(n_rows, batch, seed, None)
    }

    /// Batches in which no sentence occurs in two rows. In one row it may occur twice: an anchor that is its own
    /// positive.
    ///
    /// Rows are taken in the order of the permutation; one that shares a sentence with the batch waits for the first
    /// later one that it fits.
    ///
    /// # Errors
    /// As [`Sampler::new`]; [`Error::Invalid`] also if the rows that share no sentence are fewer than a batch.
    pub fn distinct(rows: &[Triplet], batch: usize, seed: u64) -> Result<Self> {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut of_row = Vec::with_capacity(rows.len());
        for row in rows {
            of_row.push([&row.anchor, &row.positive, &row.negative].map(|text| {
                let next = numbers.len() as u32;
                *numbers.entry(text.as_str()).or_insert(next)
            }));
        }
        let sentences = Sentences {
            of_row,
            count: numbers.len(),
        };
        Self::with(rows.len(), batch, seed, Some(sentences))
    }

    fn with(n_rows: usize, batch: usize, seed: u64, sentences: Option<Sentences>) -> Result<Self> {
        if batch == 0 {
            return Err(Error::Setting {
                setting: "batch",
                message: "a batch of 0 rows trains nothing; give 1 or more".into(),
            });
        }
        // Three sentences of each are numbered in 32 bits.
        if n_rows > (u32::MAX / 3) as usize {
            return Err(Error::Invalid(format!(
                "{n_rows} training rows; {} at most can be numbered, train on a part of them",
                u32::MAX / 3
            )));
        }
        if n_rows < batch {
            return Err(Error::Invalid(format!(
                "{n_rows} training rows are fewer than a batch of {batch}; give more rows or a smaller batch"
            )));
        }
        let mut sampler = Sampler {
            n_rows: n_rows as u32,
            batch,
            seed,
            sentences,
            position: Position::default(),
            order: Vec::new(),
        };
        sampler.seek(Position::default())?;
        Ok(sampler)
    }

    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.n_rows as usize
    }

    /// Rows of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Whole batches of the present epoch.
    pub fn batches(&self) -> u64 {
        (self.order.len() / self.batch) as u64
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes to a position that a sampler of the same rows, batch and seed had.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a position that its epochs do not have.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        self.order = self.epoch(position.epoch)?;
        if position.batch > self.batches() {
            return Err(Error::Invalid(format!(
                "batch {} of epoch {} was asked for, which has {}",
                position.batch,
                position.epoch,
                self.batches()
            )));
        }
        self.position = position;
        Ok(())
    }

    /// The rows of the next batch.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an epoch has no batch without duplicate sentences.
    pub fn next_batch(&mut self) -> Result<Vec<u32>> {
        if self.position.batch == self.batches() {
            self.seek(Position {
                epoch: self.position.epoch + 1,
                batch: 0,
            })?;
        }
        let start = self.position.batch as usize * self.batch;
        self.position.batch += 1;
        Ok(self.order[start..start + self.batch].to_vec())
    }

    /// The batches of an epoch, back to back.
    fn epoch(&self, epoch: u64) -> Result<Vec<u32>> {
        let mut order: Vec<u32> = (0..self.n_rows).collect();
        Stream::new(self.seed, &["train", "sampler"], epoch).shuffle(&mut order);
        let order = match &self.sentences {
            None => {
                order.truncate(order.len() / self.batch * self.batch);
                order
            }
            Some(sentences) => sentences.batches(order, self.batch),
        };
        if order.is_empty() {
            return Err(Error::Invalid(format!(
                "no batch of {} of the {} training rows is without duplicate sentences; give more rows, a smaller batch, or allow duplicates",
                self.batch, self.n_rows
            )));
        }
        Ok(order)
    }
}

impl Sentences {
    /// Batches of rows that share no sentence, back to back.
    fn batches(&self, order: Vec<u32>, batch: usize) -> Vec<u32> {
        let n_rows = order.len();
        let mut fresh = order.into_iter();
        let mut waiting: VecDeque<u32> = VecDeque::new();
        let mut batches = Vec::with_capacity(n_rows);
        // The number of the last batch in which a sentence occurs, from 1.
        let mut used = vec![0u32; self.count];
        for number in 1.. {
            let end = batches.len() + batch;
            let mut fits = |row: u32| {
                let sentences = &self.of_row[row as usize];
                let fits = sentences.iter().all(|&s| used[s as usize] != number);
                if fits {
                    sentences.iter().for_each(|&s| used[s as usize] = number);
                }
                fits
            };
            let mut passed = VecDeque::new();
            while batches.len() < end
                && let Some(row) = waiting.pop_front().or_else(|| fresh.next())
            {
                match fits(row) {
                    true => batches.push(row),
                    false => passed.push_back(row),
                }
            }
            // Those that have waited longest come first.
            passed.append(&mut waiting);
            waiting = passed;
            if batches.len() < end {
                batches.truncate(end - batch);
                break;
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::data::Category;

    fn row(anchor: &str, positive: &str, negative: &str) -> Triplet {
        Triplet {
            anchor: anchor.into(),
            positive: positive.into(),
            negative: negative.into(),
            category: Category::parse("x"),
        }
    }

    /// What the batches of one epoch do wrong, if anything.
    fn fault(
        batches: &[Vec<u32>],
        batch: usize,
        sentences: impl Fn(u32) -> Vec<u32>,
    ) -> Option<String> {
        let mut seen = HashSet::new();
        for rows in batches {
            if rows.len() != batch {
                return Some(format!("a batch of {}", rows.len()));
            }
            let mut used = HashSet::new();
            for &row in rows {
                if !seen.insert(row) {
                    return Some(format!("row {row} twice"));
                }
                let own: HashSet<u32> = sentences(row).into_iter().collect();
                if !used.is_disjoint(&own) {
                    return Some(format!("row {row} shares a sentence"));
                }
                used.extend(own);
            }
        }
        None
    }

    #[test]
    fn every_epoch_is_a_permutation_of_its_own() {
        let mut sampler = Sampler::new(103, 10, 42).unwrap();
        let mut epochs = Vec::new();
        for epoch in 0..3 {
            let batches: Vec<Vec<u32>> = (0..10).map(|_| sampler.next_batch().unwrap()).collect();
            assert_eq!(sampler.position(), Position { epoch, batch: 10 });
            assert_eq!(fault(&batches, 10, |row| vec![row]), None);
            epochs.push(batches);
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        // Three rows are left out of each, not the same three.
        let left = |epoch: &[Vec<u32>]| -> HashSet<u32> {
            let used: HashSet<u32> = epoch.iter().flatten().copied().collect();
            (0..103).filter(|row| !used.contains(row)).collect()
        };
        assert_ne!(left(&epochs[0]), left(&epochs[1]));
        let other = Sampler::new(103, 10, 43).unwrap().next_batch().unwrap();
        assert_ne!(other, epochs[0][0]);
        // The check sees a row twice.
        assert!(fault(&[vec![1, 1]], 2, |row| vec![row]).is_some());
    }

    #[test]
    fn a_restored_position_goes_on_as_if_nothing_had_happened() {
        // Sentences that up to six rows share.
        let rows: Vec<Triplet> = (0..38usize)
            .map(|i| {
                let [a, p, n] = [0, 1, 2].map(|j| format!("text {}", (i + j) % 31));
                row(&a, &p, &n)
            })
            .collect();
        for distinct in [false, true] {
            let make = || match distinct {
                false => Sampler::new(rows.len(), 4, 7),
                true => Sampler::distinct(&rows, 4, 7),
            };
            let mut whole = make().unwrap();
            // Over the ends of epochs.
            for _ in 0..30 {
                let saved = serde_json::to_string(&whole.position()).unwrap();
                let mut resumed = make().unwrap();
                resumed.seek(serde_json::from_str(&saved).unwrap()).unwrap();
                assert_eq!(resumed.next_batch().unwrap(), whole.next_batch().unwrap());
                assert_eq!(resumed.position(), whole.position());
            }
            let beyond = Position {
                epoch: 1,
                batch: 10,
            };
            assert!(make().unwrap().seek(beyond).is_err());
        }
    }

    #[test]
    fn a_batch_can_be_kept_free_of_duplicates() {
        // Thirty sentences among three hundred rows: most rows share one with many others.
        let mut stream = Stream::new(3, &["rows"], 0);
        let rows: Vec<Triplet> = (0..300)
            .map(|_| {
                let [a, p, n] = [0; 3].map(|_| format!("s{}", stream.below(60)));
                row(&a, &p, &n)
            })
            .collect();
        let sentences = |of: u32| -> Vec<u32> {
            let row = &rows[of as usize];
            let number = |text: &str| text[1..].parse().unwrap();
            vec![
                number(&row.anchor),
                number(&row.positive),
                number(&row.negative),
            ]
        };
        let mut sampler = Sampler::distinct(&rows, 8, 1).unwrap();
        let count = sampler.batches();
        // Far from all batches are lost to the rule: the rows that wait find a place later.
        assert!((33..=37).contains(&count), "{count}");
        let batches: Vec<Vec<u32>> = (0..count).map(|_| sampler.next_batch().unwrap()).collect();
        assert_eq!(fault(&batches, 8, sentences), None);
        let mut plain = Sampler::new(rows.len(), 8, 1).unwrap();
        let plain: Vec<Vec<u32>> = (0..37).map(|_| plain.next_batch().unwrap()).collect();
        assert!(fault(&plain, 8, sentences).is_some());
        // Where no sentence is shared the rule changes nothing.
        let apart: Vec<Triplet> = (0..50)
            .map(|i| row(&format!("a{i}"), &format!("a{i}"), &format!("n{i}")))
            .collect();
        let mut distinct = Sampler::distinct(&apart, 8, 5).unwrap();
        let mut plain = Sampler::new(50, 8, 5).unwrap();
        for _ in 0..20 {
            assert_eq!(distinct.next_batch().unwrap(), plain.next_batch().unwrap());
        }
    }

    #[test]
    fn too_few_rows_are_refused() {
        let said = |sampler: Result<Sampler>| sampler.unwrap_err().to_string();
        assert!(
            said(Sampler::new(31, 32, 0))
                .starts_with("31 training rows are fewer than a batch of 32")
        );
        assert!(matches!(
            Sampler::new(5, 0, 0).unwrap_err(),
            Error::Setting {
                setting: "batch",
                ..
            }
        ));
        let same: Vec<Triplet> = (0..9).map(|i| row("a", "b", &i.to_string())).collect();
        assert!(said(Sampler::distinct(&same, 2, 0)).contains("without duplicate sentences"));
        assert_eq!(Sampler::distinct(&same, 1, 0).unwrap().batches(), 9);
    }
}
