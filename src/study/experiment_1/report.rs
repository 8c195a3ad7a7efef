//! What the experiment leaves behind.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::compare::{Group, NearMissChange, RetrievalChange, TestName, TestSet, Verdict, kinds};
use super::{Experiment1, Found};
use crate::metrics::near_miss::{CategoryReport, Change, Estimate, Evaluation};
use crate::metrics::ranking::RankingMetrics;
use crate::metrics::statistics::Summary;
use crate::study::stage::Report;
use crate::study::table::{Table, names, number};

/// Metrics of rankings that tables show, the headline first.
const SHOWN: [&str; 4] = ["ndcg@10", "mrr@10", "accuracy@1", "accuracy@10"];

/// Models below which a rank correlation says nothing.
const FEWEST_RANKED: usize = 5;

/// A number that may go either way, with its interval.
fn signed(estimate: &Estimate, digits: usize) -> String {
    let value = format!("{:+.digits$}", estimate.value);
    match estimate.interval {
        Some([low, high]) => format!("{value} [{low:+.digits$}, {high:+.digits$}]"),
        None => value,
    }
}

/// Mean over seeds; with several of them, the standard deviation beside it.
fn over_seeds(values: &[f64]) -> String {
    let found = Summary::of(values);
    match values.len() {
        0 => "-".into(),
        1 => format!("{:.4}", found.mean),
        _ => format!("{:.4} ± {:.4}", found.mean, found.std),
    }
}

/// `before -> after` of a change.
fn arrow(before: &str, after: &str) -> String {
    format!("{before} → {after}")
}

/// The result as Markdown: what the terminal shows.
pub(super) fn summary(stage: &Experiment1, report: &Report<Experiment1>) -> String {
    let (config, found) = (&report.config, &report.found);
    let data = &stage.data;
    let mut text = format!(
        "# Experiment 1 with {}\n\n{}. Rows for retrieval: {} of {}, {} held out; structural rows: {} of {} ({}).\n",
        report.provenance.backbone.name,
        report.provenance.sentence(&config.setup),
        data.retrieval.len(),
        data.names[0],
        data.held_out.len(),
        data.structural.len(),
        data.names[1],
        list(data.categories()),
    );
    text.push_str(&training_table(report).text);
    text.push_str(&retrieval_table(stage, found, "ndcg@10").text);
    text.push_str(&retrieval_changes(found).text);
    text.push_str("\nIntervals: 95 %, bootstrap over queries within sets, which are paired; of several seeds the mean is compared. Sets down / up: those whose own interval lies below / above 0.\n");
    text.push_str(&rejection_table(found).text);
    text.push_str("\nRejected at the threshold that accepts 95 % of the paraphrases and controls of other anchors, AUC (0.5 is chance), and the mean cosine of near-misses / accepts.\n");
    text.push_str(&near_miss_changes(found, false).text);
    text.push_str("\nNear-misses: change of their mean cosine, and the share whose cosine fell (and rose) by more than 0.01. Margin: accepts less near-misses of the same anchor.\n");
    text.push_str(&verdicts(stage, found));
    text.push_str(&report.notes_text());
    text
}

/// The result as Markdown, with every table.
pub(super) fn markdown(stage: &Experiment1, report: &Report<Experiment1>) -> String {
    let found = &report.found;
    let mut text = summary(stage, report);
    for metric in &SHOWN[1..] {
        text.push_str(&retrieval_table(stage, found, metric).text);
    }
    text.push_str(&set_changes(stage, found).text);
    for test in 0..found.comparisons.tests.len() {
        text.push_str(&scores_table(stage, found, test).text);
    }
    text.push_str("\n(*) no structural row is of this kind.\n");
    text.push_str(&near_miss_changes(found, true).text);
    text.push_str(&transferred_table(found).text);
    if let Some(table) = held_out_table(found) {
        text.push_str(&table.text);
        text.push_str("\nSeparation: positives less negatives. Hardness: the mean near-miss cosine of the first test set less that of these negatives.\n");
    }
    text.push_str(&geometry_table(found).text);
    text.push_str("\nOf retrieval sentences. Drift: mean of 1 - cos between the published encoder's embeddings, turned onto the model's as a whole, and the model's.\n");
    text.push_str(&trade_off_table(found).text);
    let correlations = found
        .comparisons
        .tests
        .iter()
        .zip(&found.comparisons.correlation);
    for (test, correlation) in correlations {
        if let Some(rho) = correlation.filter(|_| found.models.len() >= FEWEST_RANKED) {
            let _ = writeln!(
                text,
                "\nSpearman's rank correlation of rejection on {} and mean nDCG@10 over these {} models: {rho:+.3}.",
                test.name,
                found.models.len()
            );
        }
    }
    text
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

fn training_table(report: &Report<Experiment1>) -> Table {
    let columns = names(&[
        "rows",
        "structural",
        "steps",
        "of",
        "learning rate",
        "loss, first tenth",
        "last tenth",
    ]);
    let mut table = Table::new("Training", &["model"], &columns);
    let found = &report.found;
    let trained = found.models.iter().zip(&found.measured);
    let trained = trained.filter_map(|(model, m)| Some((model, m.training.as_ref()?)));
    for ((model, training), config) in trained.zip(&report.config.trained) {
        let plan = &config.plan;
        table.row(&[
            model.to_string(),
            plan.rows.to_string(),
            format!(
                "{:.1} %",
                100.0 * config.structural as f64 / plan.rows.max(1) as f64
            ),
            training.steps.to_string(),
            plan.batch.to_string(),
            plan.learning_rate.to_string(),
            format!("{:.3}", training.loss[0]),
            format!("{:.3}", training.loss[1]),
        ]);
    }
    table
}

/// A metric of every group on every collection, with the means.
fn retrieval_table(stage: &Experiment1, found: &Found, metric: &str) -> Table {
    let kinds = kinds(&stage.sets);
    let mut columns: Vec<String> = stage
        .sets
        .iter()
        .map(|set| match set.in_domain {
            true => format!("{} (in-domain)", set.collection.name),
            false => set.collection.name.clone(),
        })
        .collect();
    columns.extend(kinds.iter().map(|(over, _)| match *over {
        "all" => "mean".to_string(),
        over => format!("mean, {over}"),
    }));
    let mut table = Table::new(&format!("Retrieval, {metric}"), &["model"], &columns);
    let value = |metrics: &RankingMetrics| metrics.get(metric).unwrap_or_default();
    // Per column, of every model.
    let of_model = |model: usize| -> Vec<f64> {
        let sets = &found.measured[model].retrieval;
        let each: Vec<f64> = sets.iter().map(|set| value(&set.mean())).collect();
        let means = kinds.iter().map(|(_, which)| {
            which.iter().map(|&i| each[i]).sum::<f64>() / which.len().max(1) as f64
        });
        let means: Vec<f64> = means.collect();
        each.into_iter().chain(means).collect()
    };
    let all: Vec<Vec<f64>> = (0..found.models.len()).map(of_model).collect();
    let of_group = |group: &Group, column: usize| -> Vec<f64> {
        group
            .models
            .iter()
            .map(|&model| all[model][column])
            .collect()
    };
    let groups = &found.comparisons.groups;
    for group in groups {
        let cells = (0..columns.len()).map(|column| over_seeds(&of_group(group, column)));
        table.row(
            &std::iter::once(group.name.clone())
                .chain(cells)
                .collect::<Vec<_>>(),
        );
    }
    for change in &found.comparisons.retrieval {
        let place = |name: &str| groups.iter().find(|group| group.name == name);
        let (Some(before), Some(after)) = (place(&change.before), place(&change.after)) else {
            continue;
        };
        let cells = (0..columns.len()).map(|column| {
            let [b, a] = [before, after].map(|group| Summary::of(&of_group(group, column)));
            match before.models.len() + after.models.len() {
                2 => format!("{:+.4}", a.mean - b.mean),
                _ => format!("{:+.4} ± {:.4}", a.mean - b.mean, a.std.hypot(b.std)),
            }
        });
        let name = format!("Δ {}", arrow(&change.before, &change.after));
        table.row(&std::iter::once(name).chain(cells).collect::<Vec<_>>());
    }
    table
}

fn retrieval_changes(found: &Found) -> Table {
    let columns = names(&["sets", "absolute", "relative, %", "sets down / up"]);
    let mut table = Table::new("Change of mean nDCG@10", &["change", "over"], &columns);
    for change in &found.comparisons.retrieval {
        for mean in &change.means {
            table.row(&[
                arrow(&change.before, &change.after),
                mean.over.to_string(),
                mean.sets.to_string(),
                signed(&mean.absolute, 4),
                signed(&mean.relative, 2),
                format!("{} / {}", mean.significant_drops, mean.significant_gains),
            ]);
        }
    }
    table
}

fn set_changes(stage: &Experiment1, found: &Found) -> Table {
    let columns: Vec<String> = stage
        .sets
        .iter()
        .map(|set| set.collection.name.clone())
        .collect();
    let mut table = Table::new("Change of nDCG@10 per set", &["change"], &columns);
    for RetrievalChange {
        before,
        after,
        sets,
        ..
    } in &found.comparisons.retrieval
    {
        let cells = sets.iter().map(|estimate| signed(estimate, 4));
        table.row(
            &std::iter::once(arrow(before, after))
                .chain(cells)
                .collect::<Vec<_>>(),
        );
    }
    table
}

/// The mean over a group's models of what each has; `None` if one has not.
fn group_mean(group: &Group, of: impl Fn(usize) -> Option<f64>) -> Option<f64> {
    let values: Option<Vec<f64>> = group.models.iter().map(|&model| of(model)).collect();
    Some(Summary::of(&values?).mean)
}

fn rejection_of(evaluation: &CategoryReport) -> Option<f64> {
    let points = evaluation.separation.value()?.rejection.value()?;
    Some(points[1].rejection.value)
}

fn auc_of(evaluation: &CategoryReport) -> Option<f64> {
    Some(evaluation.separation.value()?.auc.value)
}

fn rejection_table(found: &Found) -> Table {
    let groups = &found.comparisons.groups;
    let columns: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    let title = "Rejection of near-misses at 95 % true accept (AUC; near-misses / accepts)";
    let mut table = Table::new(title, &["test set", "n"], &columns);
    for test in &found.comparisons.tests {
        let all = |model: usize| &test.evaluations[model].all;
        let n = match all(0).separation.value() {
            Some(found) => format!("{} / {}", found.near_misses, found.accepts),
            None => "-".into(),
        };
        let cells = groups.iter().map(|group| {
            let mean = |of: &dyn Fn(&CategoryReport) -> Option<f64>| {
                number(group_mean(group, |model| of(all(model))))
            };
            format!(
                "{} ({}; {} / {})",
                mean(&rejection_of),
                mean(&auc_of),
                mean(&|report| Some(report.near_misses.mean)),
                mean(&|report| (report.accepts.n > 0).then_some(report.accepts.mean)),
            )
        });
        let left = [own_name(test), n];
        table.row(&left.into_iter().chain(cells).collect::<Vec<_>>());
    }
    table
}

fn own_name(test: &TestSet) -> String {
    match test.own {
        true => format!("{} (own grammar)", test.name),
        false => test.name.clone(),
    }
}

/// Changes of near-misses per test set: over all categories, or of each.
fn near_miss_changes(found: &Found, each: bool) -> Table {
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
fn scores_table(stage: &Experiment1, found: &Found, test: usize) -> Table {
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
            let of = |value: &dyn Fn(&Summary) -> f64| {
                group_mean(group, |model| Some(value(&all[model][i].near_misses)))
            };
            let (mean, std) = (of(&|s| s.mean), of(&|s| s.std));
            cells.push(format!("{} ± {}", number(mean), number(std)));
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
        let of = |value: &dyn Fn(&Summary) -> f64| {
            group_mean(group, |model| {
                Some(value(&test.evaluations[model].all.accepts))
            })
        };
        accepts.push(format!(
            "{} ± {}",
            number(of(&|s| s.mean)),
            number(of(&|s| s.std))
        ));
    }
    accepts.extend(wins.iter().flat_map(|_| [String::new(), String::new()]));
    table.row(&accepts);
    table
}

fn transferred_table(found: &Found) -> Table {
    let groups = &found.comparisons.groups;
    let columns: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    let title =
        "The published encoder's threshold on every model: near-misses rejected / accepts accepted";
    let mut table = Table::new(title, &["test set"], &columns);
    for test in &found.comparisons.tests {
        let cells = groups.iter().map(|group| {
            let of = |what: &dyn Fn(super::compare::Transferred) -> f64| {
                number(group_mean(group, |model| test.transferred[model].map(what)))
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
fn verdicts(stage: &Experiment1, found: &Found) -> String {
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
                .filter_map(|c| Some(format!("{} {}", c.category, signed(c.auc.value()?, 3))))
                .collect();
            if !shown.is_empty() {
                let change = arrow(before, after);
                let _ = writeln!(lines, "- {}, {change}: {}", test.name, shown.join("; "));
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

fn held_out_table(found: &Found) -> Option<Table> {
    found.measured[0].held_out?;
    let columns = names(&["n", "positives", "negatives", "separation", "hardness"]);
    let title = "Held-out rows of the training domain: cosines with the anchor";
    let mut table = Table::new(title, &["model"], &columns);
    let near_misses = found.comparisons.tests.first();
    for (i, (model, measured)) in found.models.iter().zip(&found.measured).enumerate() {
        let Some(rows) = measured.held_out else {
            continue;
        };
        let ends = |[mean, std]: [f64; 2]| format!("{mean:.4} ± {std:.4}");
        let hardness =
            near_misses.map(|test| test.evaluations[i].all.near_misses.mean - rows.negatives[0]);
        table.row(&[
            model.to_string(),
            rows.n.to_string(),
            ends(rows.positives),
            ends(rows.negatives),
            format!("{:.4}", rows.positives[0] - rows.negatives[0]),
            hardness.map_or("-".into(), |h| format!("{h:+.4}")),
        ]);
    }
    Some(table)
}

fn geometry_table(found: &Found) -> Table {
    let columns = names(&[
        "n",
        "anisotropy",
        "alignment",
        "uniformity",
        "participation ratio",
        "hubness",
        "drift",
    ]);
    let mut table = Table::new("Collateral geometry", &["model"], &columns);
    for (model, measured) in found.models.iter().zip(&found.measured) {
        let Some(space) = &measured.space else {
            continue;
        };
        table.row(&[
            model.to_string(),
            space.n.to_string(),
            format!("{:.4}", space.anisotropy),
            number(space.alignment),
            format!("{:.3}", space.uniformity),
            format!("{:.1}", space.participation_ratio),
            number(space.hubness),
            measured.drift.map_or("-".into(), |d| format!("{d:.4}")),
        ]);
    }
    table
}

fn trade_off_table(found: &Found) -> Table {
    let mut columns = names(&["mean nDCG@10"]);
    let zero_shot = found
        .comparisons
        .trade_off
        .iter()
        .any(|p| p.ndcg_zero_shot.is_some());
    if zero_shot {
        columns.push("zero-shot".into());
    }
    columns.extend(found.comparisons.tests.iter().map(own_name));
    let title = "Trade-off: retrieval, and rejection at 95 % true accept (AUC) per test set";
    let mut table = Table::new(title, &["model"], &columns);
    for point in &found.comparisons.trade_off {
        let mut cells = vec![point.model.clone(), format!("{:.4}", point.ndcg)];
        if zero_shot {
            cells.push(
                point
                    .ndcg_zero_shot
                    .map_or("-".into(), |v| format!("{v:.4}")),
            );
        }
        let of_tests = point.rejection.iter().zip(&point.auc);
        cells.extend(of_tests.map(|(r, auc)| format!("{} ({})", number(*r), number(*auc))));
        table.row(&cells);
    }
    table
}

/// The numbers as JSON.
pub(super) fn metrics(stage: &Experiment1, found: &Found) -> Value {
    let models = found
        .models
        .iter()
        .zip(&found.measured)
        .map(|(model, measured)| {
            let sets = stage
                .sets
                .iter()
                .zip(&measured.retrieval)
                .map(|(set, metrics)| {
                    json!({
                        "collection": set.collection.name,
                        "in_domain": set.in_domain,
                        "queries": metrics.per_query.len(),
                        "metrics": metrics.mean(),
                        "metrics_without_identical_ids": metrics.without_identical,
                    })
                });
            json!({
                "model": model.to_string(),
                "arm": model.group(),
                "seed": model.arm.map(|_| model.seed),
                "training": measured.training,
                "retrieval": sets.collect::<Vec<_>>(),
                "held_out": measured.held_out,
                "space": measured.space,
                "drift": measured.drift,
            })
        });
    json!({
        "models": models.collect::<Vec<_>>(),
        "comparisons": found.comparisons,
    })
}

/// A line per query with every model's metrics, then a line per pair with every model's cosine.
pub(super) fn rows<'a>(
    stage: &'a Experiment1,
    found: &'a Found,
) -> impl Iterator<Item = Value> + 'a {
    let named = move |value: &dyn Fn(usize) -> Value| -> Value {
        let models = found.models.iter().enumerate();
        let all: serde_json::Map<_, _> = models
            .map(|(i, model)| (model.to_string(), value(i)))
            .collect();
        Value::Object(all)
    };
    let queries = stage.sets.iter().enumerate().flat_map(move |(s, set)| {
        let queries = &found.measured[0].retrieval[s].per_query;
        queries.iter().enumerate().map(move |(q, (id, _))| {
            json!({
                "collection": set.collection.name,
                "query": id,
                "metrics": named(&|model| json!(found.measured[model].retrieval[s].per_query[q].1)),
            })
        })
    });
    let pairs = stage
        .near_misses
        .iter()
        .enumerate()
        .flat_map(move |(s, set)| {
            set.items.iter().enumerate().map(move |(i, item)| {
                let mut line = json!(item);
                line["set"] = json!(set.name);
                line["scores"] = named(&|model| json!(found.measured[model].near_misses[s][i]));
                line
            })
        });
    queries.chain(pairs)
}

pub(super) fn times(found: &Found) -> Value {
    let models = found.models.iter().zip(&found.times);
    let all: serde_json::Map<_, _> = models
        .map(|(model, times)| (model.to_string(), json!(times)))
        .collect();
    Value::Object(all)
}

/// How fast it was.
pub(super) fn log(found: &Found) -> Vec<String> {
    let models = found.models.iter().zip(&found.times);
    models
        .filter(|(_, times)| times.training_s + times.measuring_s > 0.0)
        .map(|(model, times)| {
            format!(
                "{model}: trained in {:.1} s, measured in {:.1} s",
                times.training_s, times.measuring_s
            )
        })
        .collect()
}
