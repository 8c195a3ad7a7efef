//! The study: stages that take a device, an encoder and data, and give tables and files.
//!
//! * [`retrieve`] encodes a collection, searches it, evaluates the rankings.
//! * [`near_miss`] scores pairs by every scorer and says how well each rejects near-misses.
//! * [`geometry`] measures what embeddings are made of and the space they fill.
//! * [`explain`] compares two sentences token by token, [`heat_map`] draws that.
//! * [`pair_scores`] scores pairs of sentences, encoding every text once.
//! * [`report`] writes what a stage found: JSON, Markdown, one JSON line per query; [`table`] its tables.
//! * [`profile`] says what each operator cost on the device.
//! * [`progress`] shows how far a stage is.

pub mod explain;
pub mod geometry;
pub mod heat_map;
pub mod near_miss;
pub mod pair_scores;
pub mod profile;
pub mod progress;
pub mod report;
pub mod retrieve;
pub mod table;
