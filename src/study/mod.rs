//! The study: stages that take an encoder and data, and give tables and files.
//!
//! * [`session`] is what a command begins with: device, encoder, progress, folder for results.
//! * [`plan`] says how much is done, and does it job by job; [`stage`] is what every stage is and how it is run;
//!   [`results`] what is left of it, under an id that covers everything the numbers depend on.
//! * [`retrieve`] encodes a collection, searches it, re-ranks the best, evaluates the rankings.
//! * [`near_miss`] scores pairs by every scorer and says how well each rejects near-misses.
//! * [`geometry`] measures what embeddings are made of and the space they fill.
//! * [`experiment_1`] trains an encoder with and without near-misses as negatives, and measures what that changes.
//! * [`guard`] trains and calibrates verifiers that say of two sentences whether they mean the same.
//! * [`experiment_2`] compares second stages, as they are and trained, with and without their encoder; it leaves a guard.
//! * [`training`] is what stages that train have in common: rows, progress, the end; [`measured`] keeps what was measured of a
//!   model; [`changes`] sets models beside others, and [`verdict`] says so in words.
//! * [`explain`] compares two sentences token by token, and draws that.
//! * [`pair_scores`] scores pairs of sentences, encoding every text once; [`table`] writes tables, [`escape`] keeps names and
//!   texts of others in their place there; [`progress`] shows how far a stage is, [`interrupt`] ends a training in order, [`profile`] says what each operator cost on the device.

pub mod changes;
pub mod escape;
pub mod experiment_1;
pub mod experiment_2;
pub mod explain;
pub mod geometry;
pub mod guard;
pub mod interrupt;
pub mod measured;
pub mod near_miss;
pub mod pair_scores;
pub mod plan;
pub mod profile;
pub mod progress;
pub mod results;
pub mod retrieve;
pub mod session;
pub mod stage;
pub mod table;
pub mod training;
pub mod verdict;

#[cfg(test)]
mod tests;
