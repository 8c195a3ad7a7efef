//! What a threshold does to pairs of which it is known whether they mean the same: in all, kind by kind, source by source.

use std::collections::BTreeSet;

use serde::Serialize;

use super::data::Labelled;
use crate::data::groups::connected;
use crate::error::{Error, Result};
use crate::metrics::cache::{calibration_error, precision_at};
use crate::metrics::edits::size_and_length;
use crate::metrics::near_miss::{
    self, CrossFitted, Estimate, FEWEST_OF_BOTH, Folds, Grouped, Measured,
};
use crate::metrics::statistics::{Bootstrap, median, roc_auc, share_at_least};
use crate::study::table::{Table, names, number};
use crate::train::pairs::sigmoid;
use crate::verifier::Calibration;

/// Shares of pairs that mean the same, among all that a guard is asked of: few where anything may come, half in most tests.
pub const BASE_RATES: [f64; 3] = [0.05, 0.2, 0.5];

/// Bins of the calibration error.
const BINS: usize = 15;

/// Scores of pairs, in their order, and where acceptance begins.
#[derive(Clone, Debug)]
pub struct Judge {
    /// What tables call it.
    pub name: String,
    /// Scores from here on are accepted.
    pub threshold: f64,
    /// One a pair.
    pub scores: Vec<f64>,
    /// Scale and bias whose sigmoid makes a score a probability, if there are such.
    pub probability: Option<[f32; 2]>,
}

/// What judges make of pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Parts of the pairs.
    pub parts: Vec<Part>,
    /// What each judge makes of them.
    pub judges: Vec<Judged>,
}

/// A part of the pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// By what it is a part.
    pub by: By,
    /// Its name; empty where there is one such part.
    pub name: String,
    /// Pairs of equal meaning in it.
    pub accepts: usize,
    /// Other pairs in it.
    pub rejects: usize,
}

/// By what pairs are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// By nothing.
    All,
    /// By the kind of difference; pairs of equal meaning have none, and areas are taken beside all of them.
    Category,
    /// By source.
    Source,
    /// Those that a count of changed words gets wrong: pairs of equal meaning in which more words differ than in half of
    /// them, and others in which fewer do.
    Hard,
    /// The rest.
    Easy,
}

/// What a judge makes of the parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// Its threshold.
    pub threshold: f64,
    /// One per part.
    pub rates: Vec<Rates>,
    /// Of what it accepts, the share that does mean the same where [`BASE_RATES`] of all pairs do; `None` where it accepts
    /// nothing, or accepts or others are missing.
    pub precision: [Option<f64>; 3],
    /// Expected calibration error of its probabilities over all pairs, in 15 bins of equally many.
    pub calibration_error: Option<f64>,
}

/// What a judge makes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Share of the pairs of equal meaning that is accepted.
    pub accepted: Option<f64>,
    /// Share of the others that is rejected.
    pub rejected: Option<f64>,
    /// Probability that one of the former scores above one of the latter.
    pub auc: Option<f64>,
}

impl Report {
    /// What `judges` make of `pairs`.
    pub fn new(pairs: &[Labelled], judges: &[Judge]) -> Self {
        let side = |same: bool| (0..pairs.len()).filter(move |&i| pairs[i].same() == same);
        let (accepts, rejects): (Vec<usize>, Vec<usize>) =
            (side(true).collect(), side(false).collect());
        let mut parts = Vec::new();
        let mut members: Vec<[Vec<usize>; 2]> = Vec::new();
        let mut add = |by, name: &str, accepts: Vec<usize>, rejects: Vec<usize>| {
            parts.push(Part {
                by,
                name: name.into(),
                accepts: accepts.len(),
                rejects: rejects.len(),
            });
            members.push([accepts, rejects]);
        };
        let of = |all: &[usize], wanted: &dyn Fn(usize) -> bool| -> Vec<usize> {
            all.iter().copied().filter(|&i| wanted(i)).collect()
        };
        add(By::All, "", accepts.clone(), rejects.clone());
        let categories: BTreeSet<&str> = (rejects.iter())
            .filter_map(|&i| pairs[i].difference.as_ref())
            .map(|category| category.name())
            .collect();
        for category in categories {
            let is = |i: usize| {
                pairs[i]
                    .difference
                    .as_ref()
                    .is_some_and(|c| c.name() == category)
            };
            add(By::Category, category, Vec::new(), of(&rejects, &is));
        }
        let sources: BTreeSet<&str> = pairs.iter().map(|pair| &pair.source[..]).collect();
        for &source in sources.iter().filter(|_| sources.len() > 1) {
            let is = |i: usize| pairs[i].source == source;
            add(By::Source, source, of(&accepts, &is), of(&rejects, &is));
        }
        let sizes: Vec<f64> = (pairs.iter())
            .map(|pair| size_and_length(&pair.anchor, &pair.text).0 as f64)
            .collect();
        let middle = |which: &[usize]| {
            let sizes: Vec<f64> = which.iter().map(|&i| sizes[i]).collect();
            median(&sizes)
        };
        let [accept, reject] = [middle(&accepts), middle(&rejects)];
        let is_hard = |i: usize| match pairs[i].same() {
            true => accept.is_some_and(|middle| sizes[i] > middle),
            false => reject.is_some_and(|middle| sizes[i] < middle),
        };
        let sides = [
            accept.map(|n| format!("accepts of more than {n} changed words")),
            reject.map(|n| match accept {
                Some(_) => format!("near-misses of fewer than {n}"),
                None => format!("near-misses of fewer than {n} changed words"),
            }),
        ];
        let name = sides.into_iter().flatten().collect::<Vec<_>>().join(", ");
        add(
            By::Hard,
            &name,
            of(&accepts, &is_hard),
            of(&rejects, &is_hard),
        );
        let is_easy = |i: usize| !is_hard(i);
        add(By::Easy, "", of(&accepts, &is_easy), of(&rejects, &is_easy));

        let judged = judges.iter().map(|judge| {
            let pick =
                |which: &[usize]| -> Vec<f64> { which.iter().map(|&i| judge.scores[i]).collect() };
            let rates = parts
                .iter()
                .zip(&members)
                .map(|(part, [accepts, rejects])| {
                    let (same, other) = (pick(accepts), pick(rejects));
                    let share = |scores: &[f64]| {
                        (!scores.is_empty()).then(|| share_at_least(scores, judge.threshold))
                    };
                    let beside = match part.by {
                        By::Category => pick(&members[0][0]),
                        _ => same.clone(),
                    };
                    Rates {
                        accepted: share(&same),
                        rejected: share(&other).map(|share| 1.0 - share),
                        auc: roc_auc(&beside, &other),
                    }
                });
            let rates: Vec<Rates> = rates.collect();
            let precision = BASE_RATES.map(|rate| {
                let (accepted, rejected) = rates[0].accepted.zip(rates[0].rejected)?;
                precision_at(rate, accepted, rejected)
            });
            let calibration_error = judge.probability.and_then(|[scale, bias]| {
                let [same, other] = &members[0];
                let of = |which: &[usize]| -> Vec<f64> {
                    let logits = pick(which).into_iter();
                    let logits = logits.map(|score| f64::from(scale) * score + f64::from(bias));
                    logits.map(sigmoid).collect()
                };
                calibration_error(&of(same), &of(other), BINS)
            });
            Judged {
                name: judge.name.clone(),
                threshold: judge.threshold,
                rates,
                precision,
                calibration_error,
            }
        });
        let judges = judged.collect();
        Report { parts, judges }
    }

    /// A table in Markdown.
    pub fn table(&self, title: &str) -> String {
        let judge = |judge: &Judged| {
            ["accepted", "rejected", "AUC"].map(|what| format!("{}: {what}", judge.name))
        };
        let right: Vec<String> = self.judges.iter().flat_map(judge).collect();
        let left = names(&["pairs", "of equal meaning / near-misses"]);
        let left: Vec<&str> = left.iter().map(String::as_str).collect();
        let mut table = Table::new(title, &left, &right);
        for (i, part) in self.parts.iter().enumerate() {
            let name = match part.by {
                By::All => "all".to_string(),
                By::Category => part.name.clone(),
                By::Source => format!("from {}", part.name),
                By::Hard => "hard".to_string(),
                By::Easy => "easy".to_string(),
            };
            let accepts = match part.by {
                By::Category => "-".to_string(),
                _ => part.accepts.to_string(),
            };
            let mut row = vec![name, format!("{accepts} / {}", part.rejects)];
            for judge in &self.judges {
                let Rates {
                    accepted,
                    rejected,
                    auc,
                } = judge.rates[i];
                row.extend([accepted, rejected, auc].map(number));
            }
            table.row(&row);
        }
        table.text.push_str(
            "\nAccepted: share of the pairs of equal meaning that score at least the threshold",
        );
        for judge in &self.judges {
            table
                .text
                .push_str(&format!("; {} {:.4}", judge.name, judge.threshold));
        }
        table.text.push_str(". Rejected: share of the near-misses that score below it. A category's AUC is taken beside all pairs of equal meaning.");
        if let Some(hard) = self.parts.iter().find(|part| part.by == By::Hard) {
            table.text.push_str(&format!(" Hard: {}.", hard.name));
        }
        let [few, some, half] = BASE_RATES.map(|rate| 100.0 * rate);
        table.text.push_str(&format!(
            " Of what is accepted, right where {few} / {some} / {half} % of all pairs mean the same:"
        ));
        for (i, judge) in self.judges.iter().enumerate() {
            let separator = if i == 0 { "" } else { ";" };
            let shares = judge.precision.map(number).join(" / ");
            table
                .text
                .push_str(&format!("{separator} {} {shares}", judge.name));
        }
        table.text.push('.');
        for judge in &self.judges {
            if let Some(error) = judge.calibration_error {
                table.text.push_str(&format!(
                    " Expected calibration error of {}'s probabilities: {error:.3}.",
                    judge.name
                ));
            }
        }
        table.text.push('\n');
        table.text
    }
}

/// What thresholds for a share `true_accept` do to pairs that they were not chosen by, `count` folds of them being judged in
/// turn; or why that cannot be said.
///
/// # Errors
/// As [`near_miss::cross_fitted`], but for pairs that cannot be divided.
pub fn cross_fitted(
    pairs: &[Labelled],
    scores: &[f64],
    true_accept: f64,
    count: usize,
) -> Result<Measured<CrossFitted>> {
    let groups = connected(pairs.iter().map(Labelled::texts));
    let categories: Vec<String> = pairs
        .iter()
        .map(|pair| {
            pair.difference
                .as_ref()
                .map_or(String::new(), |c| c.to_string())
        })
        .collect();
    let grouped = (0..pairs.len()).map(|i| Grouped {
        accept: pairs[i].same(),
        category: &categories[i],
        score: scores[i],
        group: groups[i],
    });
    let folds = Folds {
        count,
        minimum: FEWEST_OF_BOTH,
        bootstrap: Bootstrap::default(),
    };
    let grouped: Vec<Grouped<'_>> = grouped.collect();
    match near_miss::cross_fitted(&grouped, &folds, &[true_accept]) {
        Ok(found) => Ok(Measured::Value(found)),
        Err(Error::Invalid(refused)) => Ok(Measured::Refused { refused }),
        Err(e) => Err(e),
    }
}

/// What [`cross_fitted`] found, in a line.
pub fn cross_fitted_summary(found: &Measured<CrossFitted>) -> String {
    let refused = |why: &str| format!("no cross-fitted rates: {why}\n");
    let found = match found {
        Measured::Value(found) => found,
        Measured::Refused { refused: why } => return refused(why),
    };
    let point = match &found.points[0] {
        Measured::Value(point) => point,
        Measured::Refused { refused: why } => return refused(why),
    };
    let shown = |estimate: &Estimate| {
        let percent = |share: f64| format!("{:.1}", 100.0 * share);
        let [low, high] = estimate.interval.unwrap_or([0.0, 1.0]).map(percent);
        format!("{} % [{low}, {high}]", percent(estimate.value))
    };
    let rate = |rejection: &Measured<Estimate>, n: usize, what: &str| match rejection {
        Measured::Value(estimate) => format!("{} of {n} {what}", shown(estimate)),
        Measured::Refused { .. } => format!("too few {what} ({n})"),
    };
    let categories = point.categories.iter();
    let categories: Vec<String> = categories
        .map(|of| rate(&of.rejection, of.near_misses, &of.category))
        .collect();
    let categories = match categories.len() {
        0 | 1 => String::new(),
        _ => format!(" ({})", categories.join("; ")),
    };
    format!(
        "cross-fitted: thresholds from other pairs ({} folds, {} groups that share no sentence) accept {} of {} pairs of equal meaning and \
         reject {}{categories}; 95 % intervals over groups, thresholds chosen anew\n",
        found.folds,
        found.groups,
        shown(&point.true_accept),
        found.accepts,
        rate(&point.rejection, found.near_misses, "near-misses"),
    )
}

/// What a threshold costs, in a line.
pub fn summary(calibration: &Calibration) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let accepted = format!(
        "threshold {:.4}: accepts {} of {} pairs of equal meaning",
        calibration.threshold,
        percent(calibration.accepted),
        calibration.accepts
    );
    match (calibration.rejected, calibration.auc) {
        (Some(rejected), Some(auc)) => format!(
            "{accepted}, rejects {} of {} near-misses (AUC {auc:.3})",
            percent(rejected),
            calibration.rejects
        ),
        _ => format!("{accepted}; what that lets in is not known, as there are no near-misses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Category;

    fn pair(anchor: &str, text: &str, difference: Option<Category>, source: &str) -> Labelled {
        Labelled {
            anchor: anchor.into(),
            text: text.into(),
            difference,
            source: source.into(),
        }
    }

    #[test]
    fn parts_by_hand() {
        let (negation, role) = (Some(Category::Negation), Some(Category::Role));
        let pairs = [
            // Words changed: 1, 3, 1, 2, 1.
            pair("a b c", "a b d", None, "x"),
            pair("a b c", "d e f", None, "y"),
            pair("a b c", "a b d", None, "x"),
            pair("a b c", "c b a", role, "x"),
            pair("a b c", "a b not c", negation, "y"),
        ];
        let judge = |name: &str, threshold, scores: [f64; 5]| Judge {
            name: name.into(),
            threshold,
            scores: scores.to_vec(),
            probability: (name == "f4").then_some([2.0, -1.0]),
        };
        let judges = [
            judge("f4", 0.5, [0.9, 0.6, 0.4, 0.1, 0.7]),
            judge("cosine", 0.9, [1.0; 5]),
        ];
        let report = Report::new(&pairs, &judges);
        let parts: Vec<_> = (report.parts.iter())
            .map(|part| (part.by, &part.name[..], part.accepts, part.rejects))
            .collect();
        let hard = "accepts of more than 1 changed words, near-misses of fewer than 1.5";
        assert_eq!(
            parts,
            [
                (By::All, "", 3, 2),
                (By::Category, "negation", 0, 1),
                (By::Category, "role", 0, 1),
                (By::Source, "x", 2, 1),
                (By::Source, "y", 1, 1),
                (By::Hard, hard, 1, 1),
                (By::Easy, "", 2, 1),
            ]
        );
        let rates = |accepted, rejected, auc| Rates {
            accepted,
            rejected,
            auc,
        };
        let (third, half) = (Some(2.0 / 3.0), Some(0.5));
        assert_eq!(
            report.judges[0].rates,
            [
                rates(third, half, third),
                rates(None, Some(0.0), Some(1.0 / 3.0)),
                rates(None, Some(1.0), Some(1.0)),
                rates(half, Some(1.0), Some(1.0)),
                rates(Some(1.0), Some(0.0), Some(0.0)),
                rates(Some(1.0), Some(0.0), Some(0.0)),
                rates(half, Some(1.0), Some(1.0)),
            ]
        );
        assert!(
            report.judges[1]
                .rates
                .iter()
                .all(|r| r.rejected == Some(0.0) && r.auc == half)
        );
        let table = report.table("Kept aside");
        assert!(
            table.contains("| negation | - / 1 | - | 0.000 | 0.333 | - | 0.000 | 0.500 |"),
            "{table}"
        );
        assert!(
            table.contains("| from y | 1 / 1 |") && table.contains("| hard | 1 / 1 |"),
            "{table}"
        );
        // 2/3 accepted and 1/2 rejected: 0.05 * 2/3 of 0.05 * 2/3 + 0.95 / 2, and so on.
        let right = |rate: f64| rate * 2.0 / 3.0 / (rate * 2.0 / 3.0 + (1.0 - rate) / 2.0);
        for (got, rate) in report.judges[0].precision.into_iter().zip(BASE_RATES) {
            assert!((got.unwrap() - right(rate)).abs() < 1e-12);
        }
        // A bin a pair: the distance of each probability from what is true.
        let wrong = [(0.9, 1.0), (0.6, 1.0), (0.4, 1.0), (0.1, 0.0), (0.7, 0.0)]
            .map(|(score, same)| (sigmoid(2.0 * score - 1.0) - same).abs());
        let error = report.judges[0].calibration_error.unwrap();
        assert!((error - wrong.iter().sum::<f64>() / 5.0).abs() < 1e-12);
        assert_eq!(report.judges[1].calibration_error, None);
        assert!(
            table.contains("f4 0.066 / 0.250 / 0.571; cosine 0.050"),
            "{table}"
        );
        // One source is all.
        let one = Report::new(&pairs[..1], &[judge("f4", 0.5, [0.9; 5])]);
        assert!(one.parts.iter().all(|part| part.by != By::Source));
    }

    #[test]
    fn fifty_and_fifty_pairs_are_judged_by_others() {
        // Scores of pairs that are all different: accepts 1.00, 1.01, ..., and near-misses from 0.52 on.
        let same = (0..50).map(|i| pair(&format!("a{i}"), &format!("b{i}"), None, "x"));
        let kind = |i: usize| match i % 2 {
            0 => Category::Role,
            _ => Category::Negation,
        };
        let other = (0..50).map(|i| pair(&format!("a{i}"), &format!("c{i}"), Some(kind(i)), "x"));
        let pairs: Vec<Labelled> = same.chain(other).collect();
        let scores: Vec<f64> = (0..100)
            .map(|i| {
                if i < 50 {
                    1.0 + i as f64 / 100.0
                } else {
                    0.02 + i as f64 / 100.0
                }
            })
            .collect();
        let found = cross_fitted(&pairs, &scores, 0.95, 5).unwrap();
        let line = cross_fitted_summary(&found);
        assert!(
            line.contains("5 folds, 50 groups") && line.contains("of 50 pairs of equal meaning"),
            "{line}"
        );
        assert!(
            line.contains("of 25 role") && line.ends_with("chosen anew\n"),
            "{line}"
        );
        // Near-misses below 1 lie below every threshold, the two highest near 1.01 may not.
        let point = found.value().unwrap().points[0].value().unwrap();
        assert!(point.rejection.value().unwrap().value >= 0.96, "{line}");
        let [low, high] = point.true_accept.interval.unwrap();
        assert!(low <= 0.96 && high >= 0.94, "{line}");
        // Too few for five folds; of a single sentence.
        let few = cross_fitted(&pairs[20..], &scores[20..], 0.95, 5).unwrap();
        assert!(cross_fitted_summary(&few).contains("at least 39 are needed"));
        let of_one: Vec<Labelled> = pairs
            .iter()
            .map(|p| Labelled {
                anchor: "a".into(),
                ..p.clone()
            })
            .collect();
        let one = cross_fitted(&of_one, &scores, 0.95, 5).unwrap();
        assert!(cross_fitted_summary(&one).contains("of 1 groups"));
    }

    #[test]
    fn a_threshold_in_a_line() {
        let calibration = Calibration::choose(&[0.9, 0.8, 0.7, 0.6], &[0.75, 0.1], 0.75).unwrap();
        assert_eq!(
            summary(&calibration),
            "threshold 0.7000: accepts 75.0 % of 4 pairs of equal meaning, rejects 50.0 % of 2 near-misses (AUC 0.750)"
        );
        let alone = Calibration::choose(&[0.9, 0.8], &[], 0.5).unwrap();
        assert!(
            summary(&alone)
                .ends_with("what that lets in is not known, as there are no near-misses")
        );
    }
}
