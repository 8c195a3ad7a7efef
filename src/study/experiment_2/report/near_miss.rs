//! Tables of near-misses and accepts.

use std::fmt::Write as _;

use crate::metrics::cache::precision_at;
use crate::metrics::near_miss::{CategoryReport, Change, Estimate, Evaluation, Measured};
use crate::metrics::statistics::Summary;
use crate::study::experiment_2::compare::{OnTest, TestSet};
use crate::study::experiment_2::scorings::Scoring;
use crate::study::experiment_2::{Experiment2, Found};
use crate::study::near_miss::cross_fitted_rates;
use crate::study::table::{Table, arrow, names, number, signed};

/// Shares of pairs of equal meaning that a guard may meet.
const BASE_RATES: [f64; 3] = [0.05, 0.2, 0.5];

/// A mean over seeds of what evaluations have.
fn of(test: &OnTest, value: impl Fn(&Evaluation) -> Option<f64>) -> Option<f64> {
    OnTest::mean(&test.evaluations, value)
}

/// The scorings with what each does on a test set.
fn each<'a>(
    found: &'a Found,
    test: &'a TestSet,
) -> impl Iterator<Item = (&'a Scoring, &'a OnTest)> {
    found.comparisons.scorings.iter().zip(&test.scorings)
}

pub(super) fn own_name(test: &TestSet) -> String {
    match test.own {
        true => format!("{} (own grammar)", test.name),
        false => test.name.clone(),
    }
}

/// A row per scoring, a column per test set.
pub(super) fn rejection_table(found: &Found) -> Table {
    let tests = &found.comparisons.tests;
    let columns: Vec<String> = tests
        .iter()
        .map(|test| {
            let first = &test.scorings[0].evaluations[0].all;
            let n = match (first.auc(), &first.both_halves) {
                (Some((_, [n, a])), None) => format!("{n} / {a}"),
                (Some((_, [n, a])), Some(_)) => format!("{n} / {a} (b)"),
                (None, _) => "too few".into(),
            };
            format!("{}: {n}", own_name(test))
        })
        .collect();
    let title = "Rejection of near-misses at 95 % true accept (AUC; near-misses / accepts)";
    let mut table = Table::new(title, &["scorer"], &columns);
    for (i, scoring) in found.comparisons.scorings.iter().enumerate() {
        let cells = tests.iter().map(|test| {
            let test = &test.scorings[i];
            format!(
                "{} ({}; {} / {})",
                number(test.rejection()),
                number(test.auc()),
                number(of(test, |e| (e.all.near_misses.n > 0)
                    .then_some(e.all.near_misses.mean))),
                number(of(test, |e| (e.all.accepts.n > 0)
                    .then_some(e.all.accepts.mean))),
            )
        });
        let name = [scoring.name.clone()].into_iter();
        table.row(&name.chain(cells).collect::<Vec<_>>());
    }
    table
}

/// Rates by thresholds from other folds, if they were wanted.
pub(super) fn cross_fitted(found: &Found) -> String {
    let scorings = found.comparisons.scorings.iter();
    let names: Vec<String> = scorings.map(|scoring| scoring.name.clone()).collect();
    let tests = found.comparisons.tests.iter();
    let tests = tests.filter(|test| !test.scorings[0].cross_fitted.is_empty());
    let tests = tests.map(|test| {
        let scorings = test.scorings.iter();
        (
            test.name.clone(),
            scorings
                .map(|on| on.cross_fitted.iter().collect())
                .collect(),
        )
    });
    cross_fitted_rates(&names, &tests.collect::<Vec<_>>())
}

/// Mean scores of near-misses by category, and of accepts.
pub(super) fn scores_table(stage: &Experiment2, found: &Found, test: &TestSet) -> Table {
    let first = &test.scorings[0].evaluations[0];
    let trained = stage.data.categories();
    let mut columns: Vec<String> = first
        .categories
        .iter()
        .map(|report| {
            let seen = trained.iter().any(|c| c.name() == report.category);
            let mark = if seen { "" } else { " (*)" };
            format!("{}{mark}, {}", report.category, report.near_misses.n)
        })
        .collect();
    columns.push(format!("all, {}", first.all.near_misses.n));
    columns.push(format!("accepts, {}", first.all.accepts.n));
    let title = format!("Scores of near-misses and accepts: {}", test.name);
    let mut table = Table::new(&title, &["scorer"], &columns);
    for (scoring, test) in each(found, test) {
        let cell = |report: &dyn Fn(&Evaluation) -> Summary| {
            let some = |e: &Evaluation| Some(report(e)).filter(|found| found.n > 0);
            let mean = of(test, |e| Some(some(e)?.mean));
            match mean.zip(of(test, |e| Some(some(e)?.std))) {
                Some((mean, std)) => format!("{mean:.3} ± {std:.3}"),
                None => "-".into(),
            }
        };
        let mut cells = vec![scoring.name.clone()];
        for i in 0..first.categories.len() {
            cells.push(cell(&|e| e.categories[i].near_misses));
        }
        cells.push(cell(&|e| e.all.near_misses));
        cells.push(cell(&|e| e.all.accepts));
        table.row(&cells);
    }
    table
}

fn or_none(estimate: Option<&Estimate>) -> String {
    estimate.map_or("-".into(), |estimate| signed(estimate, 3))
}

/// What changes from one scoring to another, per category.
pub(super) fn changes_table(found: &Found) -> Table {
    let columns = names(&["AUC", "rejection at 95", "margin"]);
    let left = ["test set", "change", "category"];
    let mut table = Table::new("Changes in telling near-misses apart", &left, &columns);
    let comparisons = &found.comparisons;
    for test in &comparisons.tests {
        for (beside, change) in comparisons.contrasts.iter().zip(&test.changes) {
            let scorings = [beside.before, beside.after].map(|i| &comparisons.scorings[i]);
            let scale = |scoring: &Scoring| match scoring.encoder {
                true => None,
                false => found.models[scoring.models[0]].verifier(),
            };
            let one_scale = scale(scorings[0]) == scale(scorings[1]);
            for of in &change.changes {
                table.row(&[
                    own_name(test),
                    arrow(&change.before, &change.after),
                    of.category.clone(),
                    or_none(of.auc.value()),
                    or_none(of.rejection.as_ref().map(|all| &all[1])),
                    or_none(of.margin.as_ref().filter(|_| one_scale)),
                ]);
            }
        }
    }
    table
}

/// Both kinds of positives side by side.
pub(super) fn positives_table(found: &Found) -> Option<Table> {
    let comparisons = &found.comparisons;
    let columns = names(&["identity", "paraphrase", "change of AUC", "of rejection"]);
    let title = "Positives of structural rows: identity and paraphrase";
    let mut table = Table::new(title, &["test set", "scorer"], &columns);
    let mut any = false;
    for test in &comparisons.tests {
        for (beside, change) in comparisons.contrasts.iter().zip(&test.changes) {
            let Some(all) = change.changes.last().filter(|_| beside.positives) else {
                continue;
            };
            any = true;
            let cell = |at: usize| {
                let test = &test.scorings[at];
                format!("{} ({})", number(test.rejection()), number(test.auc()))
            };
            let Change { auc, rejection, .. } = all;
            table.row(&[
                own_name(test),
                change.after.replace(", paraphrase", ""),
                cell(beside.before),
                cell(beside.after),
                or_none(auc.value()),
                or_none(rejection.as_ref().map(|all| &all[1])),
            ]);
        }
    }
    any.then_some(table)
}

/// Pairs whose wording says the opposite of their meaning.
pub(super) fn hard_table(found: &Found, test: &TestSet) -> Table {
    let first = &test.scorings[0].hard[0];
    let columns = vec![
        "AUC".to_string(),
        format!("hard accepts let in, {}", first.accepts),
        format!("hard rejects kept out, {}", first.near_misses),
    ];
    let [accepts, near_misses] = first.medians;
    let title = format!(
        "Hard pairs: {} (paraphrases of more than {accepts} words, near-misses of fewer than {near_misses})",
        test.name
    );
    let mut table = Table::new(&title, &["scorer"], &columns);
    for (scoring, test) in each(found, test) {
        let cell = |of: &dyn Fn(&crate::metrics::near_miss::Hard) -> &Measured<f64>| {
            number(OnTest::mean(&test.hard, |hard| of(hard).value().copied()))
        };
        table.row(&[
            scoring.name.clone(),
            cell(&|hard| &hard.auc),
            cell(&|hard| &hard.true_accept),
            cell(&|hard| &hard.rejection),
        ]);
    }
    table
}

/// What a cache would make of the scores.
pub(super) fn cache_table(found: &Found, test: &TestSet) -> Table {
    let first = test.scorings[0].cache[0];
    let title = format!(
        "As a semantic cache: {} ({} of the pairs are accepts)",
        test.name,
        first.map_or("none".into(), |f| format!("{:.1} %", 100.0 * f.base_rate))
    );
    let columns = names(&[
        "P-CHR AUC",
        "PR-AUC",
        "retention",
        "rejection at 90",
        "at 95",
        "at 99",
    ]);
    let mut table = Table::new(&title, &["scorer"], &columns);
    for (scoring, test) in each(found, test) {
        let areas = |value: &dyn Fn(&crate::metrics::cache::CacheAreas) -> f64| {
            number(OnTest::mean(&test.cache, |found| found.as_ref().map(value)))
        };
        let rejection = |at: usize| {
            let of_all = |all: &CategoryReport| {
                let points = all.separation.value()?.rejection.value()?;
                Some(points[at].rejection.value)
            };
            number(of(test, |e| of_all(&e.all)))
        };
        table.row(&[
            scoring.name.clone(),
            areas(&|found| found.p_chr_auc),
            areas(&|found| found.pr_auc),
            areas(&|found| found.retention),
            rejection(0),
            rejection(1),
            rejection(2),
        ]);
    }
    table
}

/// Every source by itself.
pub(super) fn sources_table(found: &Found, test: &TestSet) -> Table {
    let sources = &test.scorings[0].evaluations[0].sources;
    let name = |source: &str| match source {
        "" => "(not said)".to_string(),
        source => source.to_string(),
    };
    let columns: Vec<String> = sources
        .iter()
        .map(|s| {
            format!(
                "{}, {} / {}",
                name(&s.source),
                s.near_misses[1],
                s.accepts[1]
            )
        })
        .collect();
    let title = format!("By source: {}", test.name);
    let mut table = Table::new(&title, &["scorer"], &columns);
    for (scoring, test) in each(found, test) {
        let cells = (0..sources.len()).map(|i| {
            let auc = of(test, |e| e.sources[i].auc.value().copied());
            let rejection = of(test, |e| e.sources[i].rejection_95.value().copied());
            format!("{} ({})", number(auc), number(rejection))
        });
        let name = [scoring.name.clone()].into_iter();
        table.row(&name.chain(cells).collect::<Vec<_>>());
    }
    table
}

/// The guard with its own threshold.
pub(super) fn guard_table(found: &Found) -> Option<String> {
    let calibration = found.calibration.as_ref()?;
    let mut columns = names(&["accepts let in", "near-misses kept out"]);
    columns.extend(BASE_RATES.map(|rate| format!("right at {:.0} %", 100.0 * rate)));
    let mut table = Table::new("The guard at its own threshold", &["test set"], &columns);
    for test in &found.comparisons.tests {
        let Some(at) = test.guard else { continue };
        let mut cells = vec![
            test.name.clone(),
            number(Some(at.true_accept)),
            number(Some(at.rejection)),
        ];
        let right = BASE_RATES.map(|rate| precision_at(rate, at.true_accept, at.rejection));
        cells.extend(right.map(number));
        table.row(&cells);
    }
    let mut text = table.text;
    let _ = writeln!(
        text,
        "\nThreshold {:.4}, chosen to accept {:.0} % of {} pairs of equal meaning that were kept aside; there it rejects {} of {} near-misses (AUC {}). Right at p %: the share of accepted pairs that mean the same, where p % of all pairs do.",
        calibration.threshold,
        100.0 * calibration.true_accept,
        calibration.accepts,
        number(calibration.rejected),
        calibration.rejects,
        number(calibration.auc)
    );
    Some(text)
}
