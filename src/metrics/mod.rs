//! Measures of rankings, of separation and of geometry. Nothing here knows a device or a file.
//!
//! [`ranking`] evaluates retrieval; [`near_miss`] says how well scores tell near-misses from paraphrases, with
//! [`edits`] relating that to the size of the edit, and [`cache`] what a semantic cache would make of them; [`geometry`]
//! looks at the embeddings themselves; [`statistics`] is what they share.

pub mod cache;
pub mod edits;
#[cfg(feature = "study")]
pub mod geometry;
pub mod near_miss;
pub mod ranking;
pub mod statistics;
