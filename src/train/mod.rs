//! Training.

pub mod scale;
pub mod schedule;
