//! Texts kept for search.
//!
//! [`VectorIndex`] is the first stage of retrieval: one vector per text, the best found exactly. [`TokenVectors`] hold
//! a vector per token, [`TokenIndex`] those of a corpus, searched by MaxSim.

mod encode;
mod file;
mod token_vectors;
mod tokens;
mod vectors;

pub(crate) use token_vectors::Builder as TokenVectorsBuilder;
pub use token_vectors::TokenVectors;
pub use tokens::TokenIndex;
pub use vectors::{Hit, VectorIndex};
