//! What a stage leaves behind: `config.json`, `metrics.json`, `report.md`, `per_query.jsonl`, `times.json`.
//!
//! Everything a number depends on stands in `config.json` beside it; times are kept apart, so that two runs of the same
//! thing have equal files but for `times.json`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::retrieve::{DEPTH, Retrieval, SecondStage};
use crate::data::beir::Collection;
use crate::data::write_atomically;
use crate::device::Device;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::metrics::ranking::{Evaluation, RankingMetrics};
use crate::model::hub::Backbone;
use crate::verifier::Verifier;
use crate::verifier::{self, Penalty, VerifierOptions};

/// The second stage as a user asks for it.
#[derive(Clone, Debug)]
pub struct SecondStageOptions {
    /// Names, see [`verifier::open`]; none for no second stage.
    pub verifiers: Vec<String>,
    /// Tokens that a verifier sees of a text.
    pub max_length: usize,
    /// Constants of conditional penalties.
    pub penalty: Penalty,
}

impl Default for SecondStageOptions {
    fn default() -> Self {
        SecondStageOptions {
            verifiers: ["none", "f0", "f1", "f2"].map(String::from).to_vec(),
            max_length: verifier::MAX_LENGTH,
            penalty: Penalty::default(),
        }
    }
}

impl SecondStageOptions {
    /// The verifiers themselves, for token vectors on `device`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that no verifier has.
    pub fn build(&self, device: &Device) -> Result<Vec<Box<dyn Verifier>>> {
        let options = VerifierOptions {
            penalty: self.penalty,
            ..VerifierOptions::default()
        };
        let names = self.verifiers.iter();
        names
            .map(|name| verifier::open(name, &options, device))
            .collect()
    }
}

/// What every stage depends on: version, encoder and verifiers.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    /// Version of this crate.
    pub version: &'static str,
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
    /// Scorers beside the encoder's own.
    pub verifiers: Vec<String>,
    /// Tokens that they see of a text.
    pub verifier_max_length: usize,
    /// Constants of conditional penalties: threshold and weight.
    pub penalty: [f64; 2],
}

impl Setup {
    /// The setup of a run that is about to start.
    pub fn new(encoder: &Encoder, backbone: &Backbone, second: &SecondStageOptions) -> Self {
        Setup {
            version: env!("CARGO_PKG_VERSION"),
            backbone: backbone.name.clone(),
            weights_sha256: backbone.sha256.clone(),
            pooling: pooling_name(encoder),
            max_length: encoder.tokenizer().max_length(),
            device: encoder.device().name(),
            verifiers: second.verifiers.clone(),
            verifier_max_length: second.max_length.min(encoder.tokenizer().max_length()),
            penalty: [second.penalty.threshold, second.penalty.weight],
        }
    }

    /// It in words: "NAME (pooling, at most N tokens) on DEVICE".
    pub fn sentence(&self) -> String {
        format!(
            "{} ({}, at most {} tokens) on {}",
            self.backbone, self.pooling, self.max_length, self.device
        )
    }
}

/// The folder of a run's results. Each file is complete or absent.
pub(super) struct ResultFolder {
    path: PathBuf,
}

impl ResultFolder {
    /// The folder `OUT/STAGE-NAME-ID`, where the id is short for the configuration, which is written to it.
    pub(super) fn new(
        out: &Path,
        stage: &str,
        name: &str,
        config: &impl Serialize,
    ) -> Result<Self> {
        let folder = ResultFolder {
            path: out.join(format!("{stage}-{name}-{}", short_id(config))),
        };
        folder.json("config.json", config)?;
        Ok(folder)
    }

    pub(super) fn json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
        self.text(name, &format!("{text}\n"))
    }

    pub(super) fn text(&self, name: &str, text: &str) -> Result<()> {
        self.write(name, |file| file.write_all(text.as_bytes()))
    }

    pub(super) fn write(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
    ) -> Result<()> {
        write_atomically(&self.path.join(name), write)
    }

    pub(super) fn into_path(self) -> PathBuf {
        self.path
    }
}

/// What a retrieval run depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct RetrieveConfig {
    /// Which stage.
    pub stage: &'static str,
    /// Name of the collection.
    pub collection: String,
    /// SHA-256 over ids, texts and judgements.
    pub collection_sha256: String,
    /// Documents, queries and judgements used.
    pub sizes: [usize; 3],
    /// Results kept per query.
    pub depth: usize,
    /// Encoder and verifiers.
    #[serde(flatten)]
    pub setup: Setup,
}

impl RetrieveConfig {
    /// The configuration of a run that is about to start.
    pub fn new(collection: &Collection, setup: Setup) -> Self {
        RetrieveConfig {
            stage: "retrieve",
            collection: collection.name.clone(),
            collection_sha256: digest(collection),
            sizes: [
                collection.corpus.len(),
                collection.queries.len(),
                collection.qrels.n_judgements(),
            ],
            depth: DEPTH,
            setup,
        }
    }
}

/// The published pooling in words.
fn pooling_name(encoder: &Encoder) -> String {
    let pooling = encoder.pooling();
    let normalised = if pooling.normalize {
        ", normalised"
    } else {
        ""
    };
    format!("{:?}{normalised}", pooling.pooling).to_lowercase()
}

/// A short name of a configuration, for the result folder.
fn short_id(config: &impl Serialize) -> String {
    let text = serde_json::to_string(config).expect("plain data");
    hex(&Sha256::digest(text.as_bytes()))[..12].to_string()
}

pub(super) fn hex(bytes: &[u8]) -> String {
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
pub fn markdown(
    config: &RetrieveConfig,
    retrieval: &Retrieval,
    second: &SecondStage,
    notes: &[String],
) -> String {
    let [documents, queries, judgements] = config.sizes;
    let mut text = format!(
        "# Retrieval on {}\n\n{documents} documents, {queries} queries, {judgements} judgements; {}.\n\n",
        config.collection,
        config.setup.sentence()
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
pub fn notes(collection: &Collection, retrieval: &Retrieval, second: &SecondStage) -> Vec<String> {
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
pub fn metrics_json(retrieval: &Retrieval, second: &SecondStage) -> Value {
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

/// Writes a run under `out` and returns its folder, `OUT/retrieve-COLLECTION-ID`. Each file is complete or absent.
///
/// # Errors
/// [`Error::Io`] naming the file: a read-only folder, a full disk.
pub fn save(
    out: &Path,
    config: &RetrieveConfig,
    retrieval: &Retrieval,
    second: &SecondStage,
    notes: &[String],
) -> Result<PathBuf> {
    let folder = ResultFolder::new(out, config.stage, &config.collection, config)?;
    folder.write("per_query.jsonl", |file| {
        for (i, (query, metrics)) in retrieval.evaluation.per_query.iter().enumerate() {
            let top = retrieval.ranked.get(query);
            let reranked: serde_json::Map<_, _> = second
                .rerankings
                .iter()
                .map(|found| {
                    // The same queries, in the same order: both come from the same judgements.
                    let (_, metrics) = &found.evaluation.per_query[i];
                    let ranked = found.ranked.get(query);
                    let value = json!({ "metrics": metrics, "ranked": ranked });
                    (found.verifier.clone(), value)
                })
                .collect();
            let line =
                json!({ "query": query, "metrics": metrics, "ranked": top, "reranked": reranked });
            writeln!(file, "{line}")?;
        }
        Ok(())
    })?;
    folder.text("report.md", &markdown(config, retrieval, second, notes))?;
    let verifiers: serde_json::Map<_, _> = second
        .rerankings
        .iter()
        .map(|found| {
            let ms = found.time.as_secs_f64() * 1e3;
            let value = json!({
                "score_s": found.time.as_secs_f64(),
                "ms_per_100_candidates": ms * 100.0 / second.pairs.max(1) as f64,
            });
            (found.verifier.clone(), value)
        })
        .collect();
    let times = json!({
        "token_vectors_s": second.time.as_secs_f64(),
        "verifiers": verifiers,
        "encode_documents_s": retrieval.times.documents.as_secs_f64(),
        "encode_queries_s": retrieval.times.queries.as_secs_f64(),
        "search_s": retrieval.times.search.as_secs_f64(),
    });
    folder.json("times.json", &times)?;
    folder.json("metrics.json", &metrics_json(retrieval, second))?;
    Ok(folder.into_path())
}
