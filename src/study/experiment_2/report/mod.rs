//! What the experiment leaves behind.

mod files;
mod findings;
mod near_miss;
mod retrieval;

pub(super) use files::{log, metrics, rows, times};

use std::fmt::Write as _;

use findings::findings;
use near_miss::{
    cache_table, changes_table, cross_fitted, guard_table, hard_table, positives_table,
    rejection_table, scores_table, sources_table,
};
use retrieval::{encoders_table, reranking_table, sets_table};

use super::compare::TestSet;
use super::{Experiment2, Found};
use crate::study::changes::resamples;
use crate::study::escape::in_markdown;
use crate::study::near_miss::fewer_samples;
use crate::study::stage::Report;
use crate::study::table::{Table, names};

/// What is to be kept in mind wherever scores of different scorers stand in one table.
const SCALES: &str = "Scores have scales of their own: cosines (pooled, none), a mean of cosines (f0), of their maxima (f1), of aligned ones (f2), a tanh (f3, f4 and the guard). A scorer's near-misses are to be compared with its own accepts, and every threshold is its own.";

/// The result as Markdown: what the terminal shows.
pub(super) fn summary(stage: &Experiment2, report: &Report<Experiment2>) -> String {
    let (config, found) = (&report.config, &report.found);
    let data = &stage.data;
    let categories: Vec<String> = (data.categories().iter())
        .map(|category| in_markdown(category.name()))
        .collect();
    let mut text = format!(
        "# Experiment 2 with {}\n\n{}; scorers see at most {} tokens of a text. Rows for retrieval: {} of {}; structural rows: {} of {} ({}).\n",
        in_markdown(&report.provenance.backbone.name),
        report.provenance.sentence(&config.setup),
        config.setup.verifier_max_length,
        data.retrieval.len(),
        in_markdown(&data.names[0]),
        data.structural.len(),
        in_markdown(&data.names[1]),
        categories.join(", "),
    );
    if !config.trained.is_empty() {
        text.push_str(&training_table(report).text);
    }
    text.push_str(&reranking_table(stage, found).text);
    let _ = writeln!(
        text,
        "\nMeans over the collections ({}); the best {} of the encoder's own ranking, re-ranked; the change is that of nDCG@10 beside that ranking (95 %, bootstrap over queries within sets; of several seeds the mean is compared). \"As printed\": the mean of accuracy@1 and accuracy@10, which the paper's code reports as accuracy@1. `pooled` ranks by itself: the encoder's own cosine, `pooled of X` after its training with X.",
        stage.sets.len(),
        stage.retrieve.depth,
    );
    text.push_str(&rejection_table(found).text);
    let _ = writeln!(
        text,
        "\nShare of near-misses rejected at the threshold that accepts 95 % of the paraphrases and controls of other anchors (AUC, 0.5 is chance; mean score of near-misses / accepts). (b): AUC over both halves of the anchors, where one is too small for a rate. {SCALES}"
    );
    text.push_str(&cross_fitted(found));
    if let Some(table) = positives_table(found) {
        text.push_str(&table.text);
        text.push_str("\nRejection at 95 % true accept (AUC) with the sentence itself and with a paraphrase as the positive of structural rows, and the change from the one to the other.\n");
    }
    text.push_str(&findings(found));
    if let Some(table) = guard_table(found) {
        text.push_str(&table);
    }
    text.push_str(&report.notes_text());
    text
}

/// The result as Markdown, with every table.
pub(super) fn markdown(stage: &Experiment2, report: &Report<Experiment2>) -> String {
    let found = &report.found;
    let mut text = summary(stage, report);
    for metric in [
        "ndcg@10",
        "graded_ndcg@10",
        "mrr@10",
        "accuracy@1",
        "recall@10",
    ] {
        text.push_str(&sets_table(stage, found, metric).text);
    }
    if let Some(table) = encoders_table(found) {
        text.push_str(&table.text);
        text.push_str("\nWhat a training with its scorer makes of an encoder's own ranking.\n");
    }
    for test in &found.comparisons.tests {
        text.push_str(&scores_table(stage, found, test).text);
    }
    let _ = writeln!(
        text,
        "\nMean and standard deviation of scores, both halves. (*) no structural row is of this kind. {SCALES}"
    );
    if !found.comparisons.contrasts.is_empty() {
        text.push_str(&changes_table(found).text);
        text.push_str("\nMargin: accepts less near-misses of the same anchor, where both scorers have one scale.\n");
    }
    for test in &found.comparisons.tests {
        text.push_str(&hard_table(found, test).text);
    }
    text.push_str("\nHard accepts: paraphrases whose word distance from their anchor is above the median; hard rejects: near-misses whose distance is below it. Rates at the threshold of the tables above.\n");
    for test in &found.comparisons.tests {
        text.push_str(&cache_table(found, test).text);
    }
    text.push_str("\nAs a semantic cache: areas under precision against cache hit ratio (P-CHR) and against recall (PR), and the first over the second (retention). They depend on the share of accepts among the pairs.\n");
    for test in found.comparisons.tests.iter().filter(has_sources) {
        text.push_str(&sources_table(found, test).text);
    }
    text.push_str("\nOf every source its own accepts and near-misses: AUC, and the share of its near-misses below the common 95 % threshold.\n");
    text
}

/// Whether it is known where the pairs of a test set come from.
fn has_sources(test: &&TestSet) -> bool {
    let mut sources = test.scorings[0].evaluations[0].sources.iter();
    sources.any(|source| !source.source.is_empty())
}

/// What is worth saying of what was measured.
pub(super) fn notes(found: &Found) -> Vec<String> {
    let tests = found.comparisons.tests.iter();
    let used = tests.flat_map(|test| {
        let evaluations = test.scorings.iter().flat_map(|on| &on.evaluations);
        let used = evaluations.filter_map(|e| e.resamples);
        used.chain(resamples(&test.changes))
    });
    let mut notes: Vec<String> = fewer_samples(used).into_iter().collect();
    for (model, measured) in found.models.iter().zip(&found.measured) {
        if let Some(training) = measured.training.as_ref().filter(|t| t.skipped > 0) {
            notes.push(format!(
                "{model}: steps without an update, as gradients overflowed: {}",
                training.skipped
            ));
        }
        if let Some(scorer) = measured.scorer.as_ref().filter(|s| s.cut > 0) {
            notes.push(format!(
                "{model}: pairs of which it did not see all: {}",
                scorer.cut
            ));
        }
    }
    let published = found.measured.iter().find_map(|m| m.encoder.as_ref());
    if let Some([documents, queries]) = published.map(|e| e.truncated)
        && documents + queries > 0
    {
        notes.push(format!(
            "texts cut at the encoder's length limit: {documents} documents, {queries} queries"
        ));
    }
    let scorer = found.measured.iter().find_map(|m| m.scorer.as_ref());
    if let Some([documents, queries, pairs]) = scorer.map(|s| s.truncated)
        && documents + queries + pairs > 0
    {
        notes.push(format!(
            "texts cut at the scorers' length limit: {documents} candidates, {queries} queries, {pairs} of pairs"
        ));
    }
    notes
}

fn training_table(report: &Report<Experiment2>) -> Table {
    let columns = names(&[
        "rows",
        "structural",
        "steps",
        "of",
        "rate of the scorer",
        "of the encoder",
        "loss, first tenth",
        "last tenth",
    ]);
    let mut table = Table::new("Training", &["model", "objective"], &columns);
    let found = &report.found;
    let trained = found.models.iter().zip(&found.measured);
    let trained = trained.filter_map(|(model, m)| Some((model, m.training.as_ref()?)));
    for ((model, training), config) in trained.zip(&report.config.trained) {
        let options = &config.options;
        let [first, last] = training.losses();
        let rows = config.rows.max(1) as f64;
        table.row(&[
            model.to_string(),
            options.objective.name().into(),
            config.rows.to_string(),
            format!("{:.1} %", 100.0 * config.structural as f64 / rows),
            training.steps.to_string(),
            options.batch.to_string(),
            options.verifier.learning_rate.to_string(),
            (options.encoder).map_or("-".into(), |rates| rates.learning_rate.to_string()),
            first,
            last,
        ]);
    }
    table
}
