//! A guard: a verifier that says of two sentences whether they mean the same, trained, calibrated and judged on pairs of
//! which that is known.
//!
//! * [`data`] reads such pairs and keeps some of them aside.
//! * [`report`] says what a threshold accepts and rejects of them, and of which kinds.

pub mod data;
pub mod report;

pub use data::{GuardData, GuardOptions, Labelled, Lists, Rows, built_in_rows};
pub use report::{Judge, Report, cross_fitted, cross_fitted_summary, summary};

use super::progress::Progress;
use crate::error::Result;
use crate::verifier::Verifier;

/// Pairs that are scored at once.
const AT_ONCE: usize = 512;

/// The scores of pairs, in their order.
///
/// # Errors
/// As [`Verifier::score`]; a text that cannot be encoded is quoted.
pub fn score(verifier: &Verifier, pairs: &[Labelled], progress: &Progress) -> Result<Vec<f64>> {
    let mut task = progress.task("pairs", pairs.len());
    let mut scores = Vec::with_capacity(pairs.len());
    for piece in pairs.chunks(AT_ONCE) {
        let texts: Vec<[&str; 2]> = piece.iter().map(Labelled::texts).collect();
        let found = verifier.score(&texts);
        scores.extend(found.map_err(|e| e.quoting_text(texts.as_flattened()))?);
        task.at(scores.len());
    }
    task.finish();
    Ok(scores)
}
