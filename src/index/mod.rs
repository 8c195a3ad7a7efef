//! Texts kept for search.
//!
//! [`VectorIndex`] is the first stage of retrieval: one vector per text, the best found exactly by cosine. Vectors may be of
//! any length: only directions count, and they are brought to a length near 1 before they are rounded to f16.
//! [`TokenVectors`] hold a vector per token, [`TokenIndex`] those of a corpus, searched by MaxSim. Both indexes are made,
//! filled, searched, saved and opened alike.
//!
//! A text has an id: the caller's own (`append_with_ids`) or the running number. Texts stay in the order in which they
//! were appended, whatever their ids, and where scores are equal the text that was appended first comes first. A removed
//! text keeps its place but is never found; `compact` frees its memory, and a saved index does without it.

mod encode;
mod file;
mod ids;
mod import;
mod scale;
mod token_vectors;
mod tokens;
mod vectors;

pub(crate) use token_vectors::Builder as TokenVectorsBuilder;
pub use token_vectors::TokenVectors;
pub use tokens::TokenIndex;
pub use vectors::{Rows, VectorIndex};

use crate::error::{Error, Result};
use crate::ops::maxsim::Reduction;

/// One result of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The text's id.
    pub id: u64,
    /// Cosine of the query and the stored (f16) vector, or MaxSim over the stored token vectors.
    pub score: f32,
}

/// What a search is asked besides its queries.
#[derive(Clone, Copy)]
pub struct SearchOptions<'a> {
    /// Only texts whose id it returns `true` for take part; `None` admits all.
    pub filter: Option<&'a dyn Fn(u64) -> bool>,
    /// What MaxSim makes of the maxima of a query's tokens. Of a single vector the sum is the mean.
    pub reduction: Reduction,
    /// Whether a query's scores in a [`VectorIndex`] are the same, bit by bit, however many queries come with it. Else the CPU
    /// takes less time for up to four, and adds up in another order.
    pub alike: bool,
}

impl Default for SearchOptions<'_> {
    /// All texts, the mean of maxima.
    fn default() -> Self {
        SearchOptions {
            filter: None,
            reduction: Reduction::Mean,
            alike: false,
        }
    }
}

impl<'a> SearchOptions<'a> {
    /// The defaults, among the texts whose id `filter` admits.
    pub fn only(filter: &'a dyn Fn(u64) -> bool) -> Self {
        SearchOptions {
            filter: Some(filter),
            ..Self::default()
        }
    }
}

/// How an index uses memory. What is found does not depend on it, but for the last bits of scores: the CPU adds up the
/// products of differently cut matrices in different orders.
#[derive(Clone, Copy, Debug)]
pub struct IndexOptions {
    /// Bytes of vectors in one piece of device memory, at most 1 GiB and at least one text; `None` is 1 GiB in a
    /// [`VectorIndex`] and, when a [`TokenIndex`] is read from a file, 256 MiB.
    pub piece_bytes: Option<usize>,
    /// Numbers that are converted and uploaded at a time when a [`VectorIndex`] is read from a file, at least one row.
    pub chunk: usize,
    /// Scores that a [`TokenIndex`] holds while it is searched, at least those of one query with a piece; queries whose
    /// scores do not fit are searched in turns.
    pub scores: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        IndexOptions {
            piece_bytes: None,
            chunk: 1 << 22,
            scores: 1 << 24,
        }
    }
}

/// Largest piece of device memory for vectors.
const PIECE_BYTES: usize = 1 << 30;

/// Widest vectors of an index: operators bind 128 rows of f32 at least, and WebGPU grants 128 MiB to a binding.
const MAX_WIDTH: usize = 1 << 18;

/// What is wrong with a width.
fn width_fault(d: usize) -> Option<String> {
    let fits = d > 0 && d.is_multiple_of(8) && d <= MAX_WIDTH;
    (!fits).then(|| {
        format!("width {d}: vectors of an index are a multiple of 8 wide, {MAX_WIDTH} at most")
    })
}

fn check_width(op: &'static str, d: usize) -> Result<()> {
    match width_fault(d) {
        None => Ok(()),
        Some(_) => {
            let expected = format!("a multiple of 8 from 8 to {MAX_WIDTH}");
            Err(Error::shape(op, "width", expected, d))
        }
    }
}
