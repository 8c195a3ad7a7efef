//! `calibrate`: the threshold of a guard, by the user's own pairs.

use std::path::PathBuf;

use nearmiss::data::check_output_folder;
use nearmiss::study::guard::{
    Judge, Lists, Report, cross_fitted, cross_fitted_summary, score, summary,
};
use nearmiss::verifier::{Calibration, check_true_accept, fewest_accepts};
use nearmiss::{Error, Result};
use serde_json::json;

use super::super::args::Run;
use super::{close_verifier, guard, open_verifier, print, print_json};

/// Pairs of which it is known whether they mean the same.
pub struct Files {
    /// Near-misses.
    pub pairs: Vec<PathBuf>,
    /// Pairs of equal meaning.
    pub paraphrases: Vec<PathBuf>,
}

/// What is asked for.
pub struct Options {
    /// Share of the pairs of equal meaning that is to be accepted.
    pub true_accept: f64,
    /// Whether the threshold stays as it is.
    pub dry_run: bool,
    /// Folds for thresholds that judge every pair.
    pub folds: Option<usize>,
}

/// Chooses a threshold, says what it costs and what the one before did, and stores it unless it is to stay.
pub fn run(run: &Run, folder: Option<PathBuf>, files: &Files, options: &Options) -> Result<()> {
    let &Options {
        true_accept,
        dry_run,
        folds,
    } = options;
    check_true_accept(true_accept)?;
    let lists = Lists::read(&files.pairs, &files.paraphrases)?;
    let (given, fewest) = (lists.paraphrases.len(), fewest_accepts(true_accept));
    if given < fewest {
        return Err(Error::Invalid(format!(
            "{given} pairs of equal meaning are too few to accept {true_accept} of them: give {fewest} or more (--paraphrases), or accept fewer (--true-accept)"
        )));
    }
    let folder = guard(run, folder);
    if !dry_run && folder.is_dir() {
        check_output_folder(&folder)?;
    }
    let (mut verifier, progress) = open_verifier(run, &folder)?;
    for note in &lists.notes {
        progress.log(note);
    }
    let pairs = lists.labelled();
    let scores = score(&verifier, &pairs, &progress)?;
    // Those of equal meaning come first.
    let (same, other) = scores.split_at(given);
    let calibration = Calibration::choose(same, other, true_accept)?;
    let before = verifier.config().calibration.clone();
    let mut judges = vec![Judge {
        name: "new".into(),
        threshold: calibration.threshold,
        scores: scores.clone(),
        probability: verifier.probability()?,
    }];
    judges.extend(before.as_ref().map(|before| Judge {
        name: "before".into(),
        threshold: before.threshold,
        scores: scores.clone(),
        probability: None,
    }));
    let report = Report::new(&pairs, &judges);
    let folds = folds.map(|count| cross_fitted(&pairs, &scores, true_accept, count));
    let folds = folds.transpose()?;
    if !dry_run {
        verifier.set_calibration(&folder, calibration.clone())?;
    }
    if run.json {
        let value = json!({
            "verifier": folder.display().to_string(),
            "stored": !dry_run,
            "calibration": calibration,
            "before": before,
            "pairs": report,
            "cross_fitted": folds,
        });
        print_json(&value)?;
    } else {
        let stored = match (dry_run, &before) {
            (true, Some(before)) => {
                format!("not stored (--dry-run); it stays {:.4}", before.threshold)
            }
            (true, None) => "not stored (--dry-run); there is none".into(),
            (false, Some(before)) => {
                format!(
                    "stored in {}; it was {:.4}",
                    folder.display(),
                    before.threshold
                )
            }
            (false, None) => format!("stored in {}", folder.display()),
        };
        print(&format!(
            "{}\n{stored}\n{}{}",
            summary(&calibration),
            folds.map_or(String::new(), |found| cross_fitted_summary(&found)),
            report.table("Your pairs")
        ))?;
    }
    close_verifier(run, &verifier, &progress)
}
