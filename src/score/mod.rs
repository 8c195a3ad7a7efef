//! From embeddings to scores.
//!
//! [`VectorIndex`] is the first stage of retrieval: one vector per text, the best found exactly. [`TokenVectors`] hold
//! a vector per token, [`TokenIndex`] those of a corpus, searched by MaxSim; a [`verifier::Verifier`] scores pairs of
//! texts by them.

mod token_index;
mod token_vectors;
mod vector_index;
pub mod verifier;

pub use token_index::TokenIndex;
pub(crate) use token_vectors::Builder as TokenVectorsBuilder;
pub use token_vectors::TokenVectors;
pub use vector_index::{Hit, VectorIndex};
pub use verifier::Verifier;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file for reading.
fn map(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    // SAFETY: the map is only ever read; a file that another process truncates meanwhile would end the process, as
    // with any program that maps its input, which the documentation of the indexes' `open` says.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
    Ok(Arc::new(map))
}
