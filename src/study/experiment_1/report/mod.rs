//! What the experiment leaves behind.

mod files;
mod near_miss;
mod retrieval;

pub(super) use files::{log, metrics, rows, times};

use std::fmt::Write as _;

use near_miss::{
    cross_fitted, near_miss_changes, own_name, rejection_table, scores_table, transferred_table,
    verdicts,
};
use retrieval::{retrieval_changes, retrieval_table, set_changes};

use super::{Experiment1, Found};
use crate::study::escape::in_markdown;
use crate::study::stage::Report;
use crate::study::table::{Table, names, number};

/// Metrics of rankings that tables show, the headline first.
const SHOWN: [&str; 4] = ["ndcg@10", "mrr@10", "accuracy@1", "accuracy@10"];

/// Models below which a rank correlation says nothing.
const FEWEST_RANKED: usize = 5;

/// The result as Markdown: what the terminal shows.
pub(super) fn summary(stage: &Experiment1, report: &Report<Experiment1>) -> String {
    let (config, found) = (&report.config, &report.found);
    let data = &stage.data;
    let mut text = format!(
        "# Experiment 1 with {}\n\n{}. Rows for retrieval: {} of {}, {} held out; structural rows: {} of {} ({}).\n",
        in_markdown(&report.provenance.backbone.name),
        report.provenance.sentence(&config.setup),
        data.retrieval.len(),
        in_markdown(&data.names[0]),
        data.held_out.len(),
        data.structural.len(),
        in_markdown(&data.names[1]),
        list(data.categories()),
    );
    text.push_str(&training_table(report).text);
    text.push_str(&retrieval_table(stage, found, "ndcg@10").text);
    text.push_str(&retrieval_changes(found).text);
    text.push_str("\nIntervals: 95 %, bootstrap over queries within sets, which are paired; of several seeds the mean is compared. Sets down / up: those whose own interval lies below / above 0.\n");
    text.push_str(&rejection_table(found).text);
    text.push_str("\nRejected at the threshold that accepts 95 % of the paraphrases and controls of other anchors, AUC (0.5 is chance), and the mean cosine of near-misses / accepts. (b): AUC over both halves of the anchors, where one is too small for a rate.\n");
    text.push_str(&cross_fitted(found));
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
                in_markdown(&test.name),
                found.models.len()
            );
        }
    }
    text
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items = items.into_iter();
    let items: Vec<String> = items.map(|item| in_markdown(&item.to_string())).collect();
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
        let [first, last] = training.losses();
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
            first,
            last,
        ]);
    }
    table
}

fn held_out_table(found: &Found) -> Option<Table> {
    found.measured[0].held_out.as_ref()?;
    let columns = names(&["n", "positives", "negatives", "separation", "hardness"]);
    let title = "Held-out rows of the training domain: cosines with the anchor";
    let mut table = Table::new(title, &["model"], &columns);
    let near_misses = found.comparisons.tests.first();
    for (i, (model, measured)) in found.models.iter().zip(&found.measured).enumerate() {
        let Some(rows) = &measured.held_out else {
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
