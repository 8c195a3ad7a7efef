//! From embeddings to scores: the first stage of retrieval.

mod vector_index;

pub use vector_index::{Hit, VectorIndex};
