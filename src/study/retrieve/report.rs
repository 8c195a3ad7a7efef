//! What a retrieval job leaves behind.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Ranked, Retrieval, RetrieveStage, SecondStage};
use crate::data::beir::Collection;
use crate::metrics::ranking::{Evaluation, RankingMetrics};
use crate::study::escape::in_markdown;
use crate::study::results::{PromptConfig, Setup, collection_sha256};
use crate::study::session::Session;
use crate::study::stage::Report;

/// What a retrieval job depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct RetrieveConfig {
    /// Which stage.
    pub stage: &'static str,
    /// SHA-256 over ids, texts and judgements.
    pub collection_sha256: String,
    /// Documents, queries and judgements used.
    pub sizes: [usize; 3],
    /// Results kept per query.
    pub depth: usize,
    /// What the encoder puts before texts.
    pub prompts: PromptConfig,
    /// Encoder and verifiers.
    #[serde(flatten)]
    pub setup: Setup,
}

impl RetrieveConfig {
    pub(super) fn new(stage: &RetrieveStage, session: &Session) -> Self {
        let collection = &stage.collection;
        let mut setup = session.setup(&stage.scorers);
        if setup.verifiers.is_empty() {
            // No number depends on how much of a text they would see.
            setup.verifier_max_length = setup.max_length;
        }
        RetrieveConfig {
            stage: "retrieve",
            collection_sha256: collection_sha256(collection),
            sizes: [
                collection.corpus.len(),
                collection.queries.len(),
                collection.qrels.n_judgements(),
            ],
            depth: stage.options.depth,
            prompts: PromptConfig::of(&session.encoder),
            setup,
        }
    }
}

/// The metrics that a table shows.
const SHOWN: [&str; 7] = [
    "ndcg@10",
    "mrr@10",
    "accuracy@1",
    "accuracy@10",
    "recall@10",
    "recall@100",
    "map@100",
];

/// The result as a Markdown table, one row per evaluation.
pub(super) fn markdown(collection: &Collection, report: &Report<RetrieveStage>) -> String {
    let (retrieval, second) = &report.found;
    let config = &report.config;
    let [documents, queries, judgements] = config.sizes;
    let mut text = format!(
        "# Retrieval on {}\n\n{documents} documents, {queries} queries, {judgements} judgements; {}.\n\n",
        in_markdown(&collection.name),
        report.provenance.sentence(&config.setup)
    );
    let _ = writeln!(text, "| ranking | {} | change |", SHOWN.join(" | "));
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(SHOWN.len() + 1));
    let mut row = |name: &str, evaluation: &Evaluation, before: Option<&Evaluation>| {
        let values: Vec<String> = SHOWN.iter().map(|m| shown(&evaluation.mean, m)).collect();
        let change = before.map_or(String::new(), |before| {
            format!(
                "{:+.4}",
                evaluation.mean.ndcg_at_10 - before.mean.ndcg_at_10
            )
        });
        let _ = writeln!(text, "| {name} | {} | {change} |", values.join(" | "));
    };
    let first = &retrieval.evaluation;
    row("cosine", first, None);
    for found in &second.rerankings {
        let name = format!("re-ranked by {}", found.verifier);
        row(&name, &found.evaluation, Some(first));
    }
    let without = |name: &str| format!("{name}, documents with the query's own id left out");
    if let Some(first) = &retrieval.without_identical {
        row(&without("cosine"), first, None);
        for found in &second.rerankings {
            if let Some(evaluation) = &found.without_identical {
                let name = without(&format!("re-ranked by {}", found.verifier));
                row(&name, evaluation, Some(first));
            }
        }
    }
    if !second.rerankings.is_empty() {
        let _ = writeln!(
            text,
            "\nRe-ranking: the best {} by cosine, scored on at most {} tokens; change is that of ndcg@10; of equal scores the first stage's order stays.",
            config.depth, config.setup.verifier_max_length
        );
    }
    text.push_str(&report.notes_text());
    text
}

fn shown(metrics: &RankingMetrics, name: &str) -> String {
    metrics.get(name).map_or("-".into(), |v| format!("{v:.4}"))
}

/// What is worth saying about a run beside its numbers.
pub(super) fn notes(
    collection: &Collection,
    retrieval: &Retrieval,
    second: &SecondStage,
) -> Vec<String> {
    let mut notes = collection.notes.lines();
    let mut note = |count: usize, what: &str| {
        if count > 0 {
            notes.push(format!("{what}: {count}"));
        }
    };
    note(
        retrieval.documents.truncated,
        "documents cut at the length limit",
    );
    note(
        retrieval.queries.truncated,
        "queries cut at the length limit",
    );
    note(
        retrieval.documents.empty,
        "empty documents, embedded as their special tokens alone",
    );
    note(
        second.documents.truncated,
        "candidates cut at the verifiers' length limit",
    );
    note(
        second.queries.truncated,
        "queries cut at the verifiers' length limit",
    );
    notes
}

/// The metrics of a run as JSON.
pub(super) fn metrics(retrieval: &Retrieval, second: &SecondStage) -> Value {
    let evaluation = &retrieval.evaluation;
    let reranked = second.rerankings.iter().map(|found| {
        let named = evaluation.mean.named().zip(found.evaluation.mean.values());
        let change: serde_json::Map<_, _> = named
            .map(|((name, before), after)| (name.to_string(), json!(after - before)))
            .collect();
        json!({
            "verifier": found.verifier,
            "parameters": found.parameters,
            "metrics": found.evaluation.mean,
            "change": change,
            "metrics_without_identical_ids": found.without_identical.as_ref().map(|e| &e.mean),
        })
    });
    json!({
        "reranked": reranked.collect::<Vec<_>>(),
        "candidates_scored": second.pairs,
        "candidate_documents": second.documents.texts,
        "candidate_documents_truncated": second.documents.truncated,
        "cosine": evaluation.mean,
        "cosine_without_identical_ids": retrieval.without_identical.as_ref().map(|e| &e.mean),
        "queries": evaluation.per_query.len(),
        "queries_left_out": evaluation.left_out.len(),
        "documents_truncated": retrieval.documents.truncated,
        "document_tokens": retrieval.documents.tokens,
        "query_tokens": retrieval.queries.tokens,
    })
}

/// A line per query: its judgements, its metrics, its best documents, and what every verifier made of them.
pub(super) fn rows<'a>(
    collection: &'a Collection,
    retrieval: &'a Retrieval,
    second: &'a SecondStage,
) -> impl Iterator<Item = Value> + 'a {
    let queries = retrieval.evaluation.per_query.iter().enumerate();
    queries.map(|(i, (query, metrics))| {
        let line = |metrics: &RankingMetrics, ranked: Option<&Ranked>| {
            let mut line = json!(ranked.cloned().unwrap_or_default());
            line["metrics"] = json!(metrics);
            line
        };
        let reranked: serde_json::Map<_, _> = second
            .rerankings
            .iter()
            .map(|found| {
                // The same queries, in the same order: both come from the same judgements.
                let (_, metrics) = &found.evaluation.per_query[i];
                let value = line(metrics, found.ranked.get(query));
                (found.verifier.clone(), value)
            })
            .collect();
        let mut all = line(metrics, retrieval.ranked.get(query));
        all["query"] = json!(query);
        all["judged"] = json!(collection.qrels.judged(query));
        all["reranked"] = json!(reranked);
        all
    })
}

pub(super) fn times(retrieval: &Retrieval, second: &SecondStage) -> Value {
    let verifiers: serde_json::Map<_, _> = second
        .rerankings
        .iter()
        .map(|found| {
            let seconds = found.time.as_secs_f64();
            let value = json!({
                "score_s": seconds,
                "ms_per_100_candidates": ms_per_100_candidates(found.time, second.pairs),
            });
            (found.verifier.clone(), value)
        })
        .collect();
    json!({
        "token_vectors_s": second.time.as_secs_f64(),
        "verifiers": verifiers,
        "encode_documents_s": retrieval.times.documents.as_secs_f64(),
        "encode_queries_s": retrieval.times.queries.as_secs_f64(),
        "search_s": retrieval.times.search.as_secs_f64(),
    })
}

fn ms_per_100_candidates(time: Duration, pairs: usize) -> f64 {
    time.as_secs_f64() * 1e3 * 100.0 / pairs.max(1) as f64
}

/// How fast it was.
pub(super) fn log(retrieval: &Retrieval, second: &SecondStage) -> Vec<String> {
    let times = retrieval.times;
    let rate = |count: usize, time: Duration| count as f64 / time.as_secs_f64().max(1e-9);
    let mut lines = vec![
        format!(
            "documents: {} texts, {} tokens in {:.1} s ({:.0} tokens/s, {:.1} texts/s); index {:.1} MB",
            retrieval.documents.texts,
            retrieval.documents.tokens,
            times.documents.as_secs_f64(),
            rate(retrieval.documents.tokens, times.documents),
            rate(retrieval.documents.texts, times.documents),
            retrieval.index_bytes as f64 / 1e6
        ),
        format!(
            "queries: {} texts, {} tokens in {:.1} s ({:.0} tokens/s); search {:.3} s",
            retrieval.queries.texts,
            retrieval.queries.tokens,
            times.queries.as_secs_f64(),
            rate(retrieval.queries.tokens, times.queries),
            times.search.as_secs_f64()
        ),
    ];
    lines.extend(second.rerankings.iter().map(|found| {
        format!(
            "{}: {} pairs in {:.2} s ({:.2} ms per 100 candidates)",
            found.verifier,
            second.pairs,
            found.time.as_secs_f64(),
            ms_per_100_candidates(found.time, second.pairs)
        )
    }));
    lines
}
