//! Tables of near-misses, and what they come to.

use std::fmt::Write as _;

use crate::metrics::near_miss::{CategoryReport, Change, Estimate, Evaluation};
use crate::metrics::statistics::Summary;
use crate::study::changes::{AtThreshold, Group, NearMissChange};
use crate::study::escape::in_markdown;
use crate::study::experiment_1::compare::TestSet;
use crate::study::experiment_1::{Experiment1, Found};
use crate::study::near_miss::cross_fitted_rates;
use crate::study::table::{Table, arrow, names, number, signed};
use crate::study::verdict::{TestName, Verdict};

fn rejection_of(evaluation: &CategoryReport) -> Option<f64> {
    let points = evaluation.separation.value()?.rejection.value()?;
    Some(points[1].rejection.value)
}

fn auc_of(evaluation: &CategoryReport) -> Option<f64> {
    Some(evaluation.auc()?.0.value)
}

pub(super) fn rejection_table(found: &Found) -> Table {
    let groups = &found.comparisons.groups;
    let columns: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    let title = "Rejection of near-misses at 95 % true accept (AUC; near-misses / accepts)";
    let mut table = Table::new(title, &["test set", "n"], &columns);
    for test in &found.comparisons.tests {
        let all = |model: usize| &test.evaluations[model].all;
        let n = match (all(0).auc(), &all(0).both_halves) {
            (Some((_, [n, a])), None) => format!("{n} / {a}"),
            (Some((_, [n, a])), Some(_)) => format!("{n} / {a} (b)"),
            (None, _) => "-".into(),
        };
        let cells = groups.iter().map(|group| {
            let mean = |of: &dyn Fn(&CategoryReport) -> Option<f64>| {
                number(group.mean(|model| of(all(model))))
            };
            format!(
                "{} ({}; {} / {})",
                mean(&rejection_of),
                mean(&auc_of),
                mean(&|report| (report.near_misses.n > 0).then_some(report.near_misses.mean)),
                mean(&|report| (report.accepts.n > 0).then_some(report.accepts.mean)),
            )
        });
        let left = [own_name(test), n];
        table.row(&left.into_iter().chain(cells).collect::<Vec<_>>());
    }
    table
}

/// Rates by thresholds from other folds, if they were wanted.
pub(super) fn cross_fitted(found: &Found) -> String {
    let groups = &found.comparisons.groups;
    let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    let tests = found
        .comparisons
        .tests
        .iter()
        .filter(|test| !test.cross_fitted.is_empty());
    let tests = tests.map(|test| {
        let of_group = |group: &Group| {
            group
                .models
                .iter()
                .map(|&i| &test.cross_fitted[i])
                .collect()
        };
        (test.name.clone(), groups.iter().map(of_group).collect())
    });
    cross_fitted_rates(&names, &tests.collect::<Vec<_>>())
}

pub(super) fn own_name(test: &TestSet) -> String {
    match test.own {
        true => format!("{} (own grammar)", test.name),
        false => test.name.clone(),
    }
}

/// Changes of near-misses per test set: over all categories, or of each.
pub(super) fn near_miss_changes(found: &Found, each: bool) -> Table {
    let columns = names(&[
        "near-misses",
        "fell (rose), %",
        "AUC",
        "rejection at 95",
        "margin",
    ]);
    let (title, left): (_, &[&str]) = match each {
        true => ("Changes per category", &["test set", "change", "category"]),
        false => (
            "Changes in telling near-misses apart",
            &["test set", "change"],
        ),
    };
    let mut table = Table::new(title, left, &columns);
    for test in &found.comparisons.tests {
        for NearMissChange {
            before,
            after,
            changes,
        } in &test.changes
        {
            let shown = |change: &&Change| each || change.category == "all";
            for change in changes.iter().filter(shown) {
                let mut cells = vec![own_name(test), arrow(before, after)];
                if each {
                    cells.push(change.category.clone());
                }
                cells.push(format!("{:+.4}", change.difference.mean));
                cells.push(format!(
                    "{:.1} ({:.1})",
                    100.0 * change.lower,
                    100.0 * change.higher
                ));
                let or_none = |estimate: Option<&Estimate>| {
                    estimate.map_or("-".into(), |estimate| signed(estimate, 3))
                };
                cells.push(or_none(change.auc.value()));
                cells.push(or_none(change.rejection.as_ref().map(|all| &all[1])));
                cells.push(or_none(change.margin.as_ref()));
                table.row(&cells);
            }
        }
    }
    table
}

/// Mean and spread of near-misses' cosines by category, on one test set.
pub(super) fn scores_table(stage: &Experiment1, found: &Found, test: usize) -> Table {
    let test = &found.comparisons.tests[test];
    let groups = &found.comparisons.groups;
    let mut columns: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    let wins: Vec<&NearMissChange> = test.changes.iter().filter(|c| c.before == "A").collect();
    columns.extend(
        wins.iter()
            .map(|c| format!("Δ {}", arrow(&c.before, &c.after))),
    );
    columns.extend(wins.iter().map(|c| format!("{} wins, %", c.after)));
    let title = format!("Cosines of near-misses: {}", test.name);
    let mut table = Table::new(&title, &["category", "n"], &columns);
    let trained = stage.data.categories();
    let reports = |evaluation: &Evaluation| -> Vec<CategoryReport> {
        let each = evaluation.categories.iter();
        each.chain([&evaluation.all]).cloned().collect()
    };
    let all: Vec<Vec<CategoryReport>> = test.evaluations.iter().map(reports).collect();
    for (i, report) in all[0].iter().enumerate() {
        let unseen = report.category != "all"
            && !trained
                .iter()
                .any(|category| category.name() == report.category);
        let name = match unseen {
            true => format!("{} (*)", report.category),
            false => report.category.clone(),
        };
        let mut cells = vec![name, report.near_misses.n.to_string()];
        for group in groups {
            cells.push(mean_spread(group, |model| all[model][i].near_misses));
        }
        cells.extend(
            wins.iter()
                .map(|c| format!("{:+.4}", c.changes[i].difference.mean)),
        );
        cells.extend(
            wins.iter()
                .map(|c| format!("{:.1}", 100.0 * c.changes[i].lower)),
        );
        table.row(&cells);
    }
    let mut accepts = vec![
        "(accepts)".to_string(),
        test.evaluations[0].all.accepts.n.to_string(),
    ];
    for group in groups {
        let of = |model: usize| test.evaluations[model].all.accepts;
        accepts.push(mean_spread(group, of));
    }
    accepts.extend(wins.iter().flat_map(|_| [String::new(), String::new()]));
    table.row(&accepts);
    table
}

/// Mean over a group of means and of standard deviations; `-` of nothing.
fn mean_spread(group: &Group, of: impl Fn(usize) -> Summary) -> String {
    let some = |model: usize| Some(of(model)).filter(|found| found.n > 0);
    let mean = group.mean(|model| Some(some(model)?.mean));
    match mean.zip(group.mean(|model| Some(some(model)?.std))) {
        Some((mean, std)) => format!("{mean:.3} ± {std:.3}"),
        None => "-".into(),
    }
}

pub(super) fn transferred_table(found: &Found) -> Table {
    let groups = &found.comparisons.groups;
    let columns: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    let title =
        "The published encoder's threshold on every model: near-misses rejected / accepts accepted";
    let mut table = Table::new(title, &["test set"], &columns);
    for test in &found.comparisons.tests {
        let cells = groups.iter().map(|group| {
            let of = |what: &dyn Fn(AtThreshold) -> f64| {
                number(group.mean(|model| test.transferred[model].map(what)))
            };
            format!("{} / {}", of(&|t| t.rejection), of(&|t| t.true_accept))
        });
        table.row(
            &std::iter::once(own_name(test))
                .chain(cells)
                .collect::<Vec<_>>(),
        );
    }
    table
}

/// In sentences, where each arm tells near-misses apart better than the one that it is set beside.
pub(super) fn verdicts(stage: &Experiment1, found: &Found) -> String {
    let tests = &found.comparisons.tests;
    let named: Vec<TestName> = tests
        .iter()
        .map(|test| (own_name(test), test.own))
        .collect();
    let Some(first) = tests.first() else {
        return String::new();
    };
    let mut text = String::from(
        "\n## Meaning or grammar\n\nBy the interval of the change of AUC, all kinds of near-misses together:\n\n",
    );
    let asked = |change: &&NearMissChange| change.before != "Base";
    if !first.changes.iter().any(|change| asked(&change)) {
        return String::new();
    }
    for (i, change) in first.changes.iter().enumerate().filter(|(_, c)| asked(c)) {
        let interval = |test: &TestSet| test.changes[i].changes.last()?.auc.value()?.interval;
        let verdict = Verdict::of(named.iter().zip(tests.iter().map(interval)));
        let _ = writeln!(
            text,
            "- {}",
            verdict.sentence(&change.before, &change.after)
        );
    }
    let trained = stage.data.categories();
    let mut lines = String::new();
    for test in tests {
        for NearMissChange {
            before,
            after,
            changes,
        } in test.changes.iter().filter(asked)
        {
            let unseen = changes.iter().filter(|change| {
                change.category != "all" && !trained.iter().any(|c| c.name() == change.category)
            });
            let shown: Vec<String> = unseen
                .filter_map(|c| {
                    let category = in_markdown(&c.category);
                    Some(format!("{category} {}", signed(c.auc.value()?, 3)))
                })
                .collect();
            if !shown.is_empty() {
                let change = arrow(before, after);
                let name = in_markdown(&test.name);
                let _ = writeln!(lines, "- {name}, {change}: {}", shown.join("; "));
            }
        }
    }
    if !lines.is_empty() {
        let _ = write!(
            text,
            "\nChange of AUC for kinds of near-misses that no structural row is of:\n\n{lines}"
        );
    }
    text
}
