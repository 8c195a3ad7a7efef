//! The study: stages that take a device, an encoder and data, and give tables and files.
//!
//! * [`backbone`] finds or fetches the weights.
//! * [`retrieve`] encodes a collection, searches it, evaluates the rankings.
//! * [`explain`] compares two sentences token by token, [`heat_map`] draws that.
//! * [`report`] writes what a stage found: JSON, Markdown, one JSON line per query.
//! * [`profile`] says what each operator cost on the device.
//! * [`progress`] shows how far a stage is.

pub mod backbone;
pub mod explain;
pub mod heat_map;
pub mod near_miss;
pub mod profile;
pub mod progress;
pub mod report;
pub mod retrieve;
