//! From embeddings to scores.
//!
//! [`VectorIndex`] is the first stage of retrieval: one vector per text, the best found exactly. [`TokenVectors`] hold
//! a vector per token, [`TokenIndex`] those of a corpus, searched by MaxSim; a [`verifier::Verifier`] scores pairs of
//! texts by them.

mod index_file;
mod token_index;
mod token_vectors;
mod vector_index;
pub mod verifier;

pub use token_index::TokenIndex;
pub(crate) use token_vectors::Builder as TokenVectorsBuilder;
pub use token_vectors::TokenVectors;
pub use vector_index::{Hit, VectorIndex};
pub use verifier::Verifier;
