//! What a stage leaves behind: `config.json`, `metrics.json`, `report.md`, `per_query.jsonl`, `times.json`.
//!
//! Everything a number depends on stands in `config.json` beside it; times are kept apart, so that two runs of the same
//! thing have equal files but for `times.json`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::retrieve::{DEPTH, Retrieval};
use crate::data::beir::Collection;
use crate::data::write_atomically;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::metrics::ranking::{Evaluation, RankingMetrics};

/// What a retrieval run depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct RetrieveConfig {
    /// Which stage.
    pub stage: &'static str,
    /// Version of this crate.
    pub version: &'static str,
    /// Name of the collection.
    pub collection: String,
    /// SHA-256 over ids, texts and judgements.
    pub collection_sha256: String,
    /// Documents, queries and judgements used.
    pub sizes: [usize; 3],
    /// Short name of the backbone.
    pub backbone: String,
    /// SHA-256 of its weights.
    pub weights_sha256: String,
    /// `mean` or `first`, normalised or not.
    pub pooling: String,
    /// Length limit in tokens.
    pub max_length: usize,
    /// Device kind and hardware.
    pub device: String,
    /// Results kept per query.
    pub depth: usize,
}

impl RetrieveConfig {
    /// The configuration of a run that is about to start.
    pub fn new(
        encoder: &Encoder,
        collection: &Collection,
        backbone: &str,
        weights_sha256: &str,
    ) -> Self {
        let pooling = encoder.pooling();
        RetrieveConfig {
            stage: "retrieve",
            version: env!("CARGO_PKG_VERSION"),
            collection: collection.name.clone(),
            collection_sha256: digest(collection),
            sizes: [
                collection.corpus.len(),
                collection.queries.len(),
                collection.qrels.n_judgements(),
            ],
            backbone: backbone.into(),
            weights_sha256: weights_sha256.into(),
            pooling: format!(
                "{:?}{}",
                pooling.pooling,
                if pooling.normalize {
                    ", normalised"
                } else {
                    ""
                }
            )
            .to_lowercase(),
            max_length: encoder.tokenizer().max_length(),
            device: encoder.device().name(),
            depth: DEPTH,
        }
    }

    /// A short name of this very configuration, for the result folder.
    pub fn id(&self) -> String {
        let text = serde_json::to_string(self).expect("plain data");
        hex(&Sha256::digest(text.as_bytes()))[..12].to_string()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// SHA-256 over everything of a collection that a result depends on; fields are length-prefixed, so that no two
/// collections look alike.
fn digest(collection: &Collection) -> String {
    let mut hash = Sha256::new();
    let mut field = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    for document in &collection.corpus {
        field(&document.id);
        field(&document.text_for_encoder());
    }
    for query in &collection.queries {
        field(&query.id);
        field(&query.text);
    }
    for (query, judged) in collection.qrels.iter() {
        for (document, grade) in judged {
            field(query);
            field(document);
            field(&grade.to_string());
        }
    }
    hex(&hash.finalize())
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
pub fn markdown(config: &RetrieveConfig, retrieval: &Retrieval, notes: &[String]) -> String {
    let [documents, queries, judgements] = config.sizes;
    let mut text = format!(
        "# Retrieval on {}\n\n{documents} documents, {queries} queries, {judgements} judgements; {} ({}, at most {} tokens) on {}.\n\n",
        config.collection, config.backbone, config.pooling, config.max_length, config.device
    );
    let _ = writeln!(text, "| ranking | {} |", SHOWN.join(" | "));
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(SHOWN.len()));
    let mut row = |name: &str, evaluation: &Evaluation| {
        let values: Vec<String> = SHOWN.iter().map(|m| shown(&evaluation.mean, m)).collect();
        let _ = writeln!(text, "| {name} | {} |", values.join(" | "));
    };
    row("cosine", &retrieval.evaluation);
    if let Some(evaluation) = &retrieval.without_identical {
        row(
            "cosine, documents with the query's own id left out",
            evaluation,
        );
    }
    if !notes.is_empty() {
        text.push_str("\nNotes:\n\n");
        for note in notes {
            let _ = writeln!(text, "- {note}");
        }
    }
    text
}

fn shown(metrics: &RankingMetrics, name: &str) -> String {
    metrics.get(name).map_or("-".into(), |v| format!("{v:.4}"))
}

/// What is worth saying about a run beside its numbers.
pub fn notes(collection: &Collection, retrieval: &Retrieval) -> Vec<String> {
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
    notes
}

/// The metrics of a run as JSON.
pub fn metrics_json(retrieval: &Retrieval) -> Value {
    let evaluation = &retrieval.evaluation;
    json!({
        "cosine": evaluation.mean,
        "cosine_without_identical_ids": retrieval.without_identical.as_ref().map(|e| &e.mean),
        "queries": evaluation.per_query.len(),
        "queries_left_out": evaluation.left_out.len(),
        "documents_truncated": retrieval.documents.truncated,
        "document_tokens": retrieval.documents.tokens,
        "query_tokens": retrieval.queries.tokens,
    })
}

/// Writes a run under `out` and returns its folder, `OUT/retrieve-COLLECTION-ID`. Each file is complete or absent.
///
/// # Errors
/// [`Error::Io`] naming the file: a read-only folder, a full disk.
pub fn save(
    out: &Path,
    config: &RetrieveConfig,
    retrieval: &Retrieval,
    notes: &[String],
) -> Result<PathBuf> {
    let folder = out.join(format!(
        "{}-{}-{}",
        config.stage,
        config.collection,
        config.id()
    ));
    let json_file = |name: &str, value: &dyn Fn() -> serde_json::Result<String>| -> Result<()> {
        let text = value().map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
        write_atomically(&folder.join(name), |file| writeln!(file, "{text}"))
    };
    json_file("config.json", &|| serde_json::to_string_pretty(config))?;
    write_atomically(&folder.join("per_query.jsonl"), |file| {
        for (query, metrics) in &retrieval.evaluation.per_query {
            let top = retrieval.ranked.get(query);
            let line = json!({ "query": query, "metrics": metrics, "ranked": top });
            writeln!(file, "{line}")?;
        }
        Ok(())
    })?;
    write_atomically(&folder.join("report.md"), |file| {
        file.write_all(markdown(config, retrieval, notes).as_bytes())
    })?;
    let times = json!({
        "encode_documents_s": retrieval.times.documents.as_secs_f64(),
        "encode_queries_s": retrieval.times.queries.as_secs_f64(),
        "search_s": retrieval.times.search.as_secs_f64(),
    });
    json_file("times.json", &|| serde_json::to_string_pretty(&times))?;
    json_file("metrics.json", &|| {
        serde_json::to_string_pretty(&metrics_json(retrieval))
    })?;
    Ok(folder)
}
