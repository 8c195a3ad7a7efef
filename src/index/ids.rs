//! The ids of an index's rows, the caller's own or running numbers, and which rows were removed.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use crate::error::{Error, Result};

/// Rows an index can hold, removed ones included: operators number them in 32 bits, and the last number means "none".
pub(super) const MAX_ROWS: usize = u32::MAX as usize - 1;

/// Names rows by ids that are unique among those that are there.
///
/// Without ids of the caller's own a row's id is its number, and nothing is stored but a bit that says whether it is
/// there; with them, 8 bytes and an entry of a hash table.
#[derive(Default)]
pub(super) struct Ids {
    /// Rows, removed ones included.
    rows: usize,
    /// Ids that are not simply the rows' numbers.
    own: Option<Own>,
    /// Bit `r % 32` of word `r / 32` is set while row `r` is there; bits beyond the last row are not.
    live: Vec<u32>,
    removed: usize,
    /// One more than the largest id there ever was; `rows` as long as there are no own ones.
    next: u64,
}

#[derive(Default)]
struct Own {
    /// `[rows]`.
    of_row: Vec<u64>,
    /// The rows that are there.
    row_of: HashMap<u64, u32>,
}

impl Ids {
    /// `n` rows named by their numbers.
    pub fn running(n: usize) -> Self {
        let mut ids = Ids::default();
        ids.push(n, None);
        ids
    }

    /// Rows with ids that were saved, and the running number that comes next; an id that is there twice is the error.
    pub fn saved(ids: Vec<u64>, next: u64) -> Result<Self, u64> {
        if next == ids.len() as u64 && (0..).zip(&ids).all(|(row, &id)| row == id) {
            return Ok(Ids::running(ids.len()));
        }
        let mut row_of = HashMap::with_capacity(ids.len());
        for (row, &id) in (0..).zip(&ids) {
            if row_of.insert(id, row).is_some() {
                return Err(id);
            }
        }
        let mut saved = Ids::default();
        saved.grow(ids.len());
        let largest = ids.iter().max().map_or(0, |id| id.saturating_add(1));
        saved.next = next.max(largest);
        saved.own = Some(Own {
            of_row: ids,
            row_of,
        });
        Ok(saved)
    }

    /// Rows, removed ones included.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that are there.
    pub fn len(&self) -> usize {
        self.rows - self.removed
    }

    /// The running number that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The id of a row.
    pub fn of(&self, row: usize) -> u64 {
        self.own.as_ref().map_or(row as u64, |own| own.of_row[row])
    }

    /// The row that an id names, if it is there.
    pub fn row(&self, id: u64) -> Option<usize> {
        match &self.own {
            Some(own) => own.row_of.get(&id).map(|&row| row as usize),
            None => usize::try_from(id).ok().filter(|&row| self.is_live(row)),
        }
    }

    /// Whether a row is there.
    pub fn is_live(&self, row: usize) -> bool {
        row < self.rows && is_set(&self.live, row)
    }

    /// The rows that are there, in order.
    pub fn live(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows).filter(|&row| is_set(&self.live, row))
    }

    /// The runs of rows of `rows` that are there, counted from its start.
    pub fn live_runs(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for row in rows.clone().filter(|&row| self.is_live(row)) {
            let at = row - rows.start;
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs
    }

    /// Checks that there are numbers for `n` more rows.
    pub fn check_room(&self, op: &'static str, n: usize) -> Result<()> {
        match self.rows.checked_add(n) {
            Some(rows) if rows <= MAX_ROWS => Ok(()),
            _ => Err(Error::Invalid(format!(
                "{op}: {} rows and {n} more; one index holds {MAX_ROWS} at most, split the corpus",
                self.rows
            ))),
        }
    }

    /// Checks that `n` rows can be added under `ids`, or under running numbers.
    pub fn check(&self, op: &'static str, n: usize, ids: Option<&[u64]>) -> Result<()> {
        self.check_room(op, n)?;
        let Some(ids) = ids else {
            return match self.next.checked_add(n as u64) {
                Some(_) => Ok(()),
                None => Err(Error::Invalid(format!(
                    "{op}: no {n} running numbers are left after id {}; append with ids",
                    self.next - 1
                ))),
            };
        };
        if ids.len() != n {
            return Err(Error::shape(
                op,
                "ids",
                format!("{n}, one a row"),
                ids.len(),
            ));
        }
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|w| w[0] == w[1]).map(|w| w[0]);
        let there = || ids.iter().copied().find(|&id| self.row(id).is_some());
        match twice.or_else(there) {
            Some(id) => Err(Error::Invalid(format!(
                "{op}: id {id} would be there twice; remove it first, or append under another"
            ))),
            None => Ok(()),
        }
    }

    /// Adds `n` rows, which [`Ids::check`] found right.
    pub fn push(&mut self, n: usize, ids: Option<&[u64]>) {
        let first = self.rows;
        if ids.is_some() && self.own.is_none() {
            let row_of = self.live().map(|row| (row as u64, row as u32)).collect();
            self.own = Some(Own {
                of_row: (0..first as u64).collect(),
                row_of,
            });
        }
        self.grow(n);
        let running = self.next..self.next + if ids.is_some() { 0 } else { n as u64 };
        if let Some(own) = &mut self.own {
            match ids {
                Some(ids) => own.of_row.extend_from_slice(ids),
                None => own.of_row.extend(running.clone()),
            }
            let added = own.of_row[first..].iter().copied();
            own.row_of.extend(added.zip(first as u32..));
        }
        let largest = ids.and_then(|ids| ids.iter().max());
        let after = largest.map_or(running.end, |id| id.saturating_add(1));
        self.next = self.next.max(after);
    }

    /// Marks `n` more rows as being there.
    fn grow(&mut self, n: usize) {
        let rows = self.rows + n;
        self.live.resize(rows.div_ceil(32), 0);
        for row in self.rows..rows {
            self.live[row / 32] |= 1 << (row % 32);
        }
        self.rows = rows;
    }

    /// Takes out the rows of `ids`; the number of those that were there.
    pub fn remove(&mut self, ids: &[u64]) -> usize {
        let before = self.removed;
        for &id in ids {
            if let Some(row) = self.row(id) {
                self.live[row / 32] &= !(1 << (row % 32));
                self.removed += 1;
                if let Some(own) = &mut self.own {
                    own.row_of.remove(&id);
                }
            }
        }
        self.removed - before
    }

    /// The bits of the rows that take part in a search, `None` if all do.
    pub fn mask(&self, filter: Option<&dyn Fn(u64) -> bool>) -> Option<Vec<u32>> {
        let Some(keep) = filter else {
            return (self.removed > 0).then(|| self.live.clone());
        };
        let mut words = vec![0; self.live.len()];
        for row in self.live().filter(|&row| keep(self.of(row))) {
            words[row / 32] |= 1 << (row % 32);
        }
        Some(words)
    }

    /// Forgets removed rows: those that are left get numbers without gaps and keep their ids.
    pub fn compact(&mut self) {
        if self.removed > 0 {
            let left: Vec<u64> = self.live().map(|row| self.of(row)).collect();
            *self = Ids::saved(left, self.next).expect("ids that are there are unique");
        }
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ids({} rows, {} removed)", self.rows, self.removed)
    }
}

/// Whether bit `at` of `words` is set.
pub(super) fn is_set(words: &[u32], at: usize) -> bool {
    words[at / 32] >> (at % 32) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ids: &Ids) -> Vec<u64> {
        ids.live().map(|row| ids.of(row)).collect()
    }

    #[test]
    fn running_numbers_follow_the_largest_id() {
        let mut ids = Ids::running(3);
        ids.push(2, Some(&[70, 5]));
        ids.push(2, None);
        assert_eq!(all(&ids), [0, 1, 2, 70, 5, 71, 72]);
        assert_eq!(
            (ids.row(70), ids.row(72), ids.row(3)),
            (Some(3), Some(6), None)
        );
        // Also of those that are no more.
        assert_eq!(ids.remove(&[72, 1, 1, 9]), 2);
        ids.compact();
        assert_eq!((all(&ids), ids.rows()), (vec![0, 2, 70, 5, 71], 5));
        ids.push(1, None);
        assert_eq!(ids.of(5), 73);
        // An id that was removed can be given again.
        ids.check("index", 1, Some(&[72])).unwrap();
    }

    #[test]
    fn an_id_is_there_once() {
        let mut ids = Ids::running(40);
        for (n, given, expected) in [
            (2, vec![50, 50], "id 50"),
            (2, vec![41, 39], "id 39"),
            (2, vec![41], "2, one a row"),
        ] {
            let error = ids.check("index", n, Some(&given)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        ids.push(1, Some(&[u64::MAX]));
        let error = ids.check("index", 1, None).unwrap_err().to_string();
        assert!(error.contains("running numbers"), "{error}");
        assert!(ids.check("index", MAX_ROWS - 40, None).is_err());
        assert_eq!(Ids::saved(vec![4, 8, 4], 9).unwrap_err(), 4);
    }

    #[test]
    fn masks_leave_out_what_was_removed() {
        let mut ids = Ids::running(70);
        assert_eq!(ids.mask(None), None);
        ids.remove(&[0, 33, 69]);
        assert_eq!(ids.mask(None).unwrap(), [!1, !2, 0b1_1111]);
        let odd = ids.mask(Some(&|id| id % 2 == 1)).unwrap();
        assert_eq!(odd, [0xaaaa_aaaa, 0xaaaa_aaa8, 0b10_1010 & 0b1_1111]);
    }
}
