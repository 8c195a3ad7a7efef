//! What is left of a job: a folder, named by everything that its numbers depend on.
//!
//! | file | |
//! | --- | --- |
//! | `config.json` | everything that a number depends on, apart from the code; the folder's id is short for it |
//! | `provenance.json` | where and by what it was made, and what things are called: no number depends on that |
//! | `metrics.json`, `report.md` | the numbers, and the tables of them |
//! | `per_query.jsonl`, `pairs.jsonl`, `measured.jsonl`, `scenes.jsonl` | a line per thing that was measured |
//! | `times.json` | how long it took |
//!
//! Two machines that do the same therefore write into folders of one name, whatever hardware they have; what they find
//! differs by rounding at most. Every file is complete or absent.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::escape::in_markdown;
use super::pair_scores::Scorers;
pub(super) use crate::data::Fingerprint;
use crate::data::beir::Collection;
use crate::data::{hex, write_atomically};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::model::BertConfig;
use crate::model::hub::Backbone;
use crate::text::TextKind;
use crate::verifier::Scorer;

/// The id of a configuration: the first 12 hexadecimal digits of the SHA-256 of its JSON.
pub fn id(config: &impl Serialize) -> String {
    let text = serde_json::to_string(config).expect("plain data");
    hex(&Sha256::digest(text.as_bytes()))[..12].to_string()
}

/// SHA-256 over everything of a collection that a number depends on.
pub(super) fn collection_sha256(collection: &Collection) -> String {
    let mut hash = Fingerprint::default();
    hash.field(&collection.corpus.len().to_string());
    for document in &collection.corpus {
        hash.field(&document.id);
        hash.field(&document.text_for_encoder());
    }
    hash.field(&collection.queries.len().to_string());
    for query in &collection.queries {
        hash.field(&query.id);
        hash.field(&query.text);
    }
    for (query, judged) in collection.qrels.iter() {
        for (document, grade) in judged {
            hash.field(query);
            hash.field(document);
            hash.field(&grade.to_string());
        }
    }
    hash.finish()
}

/// What the numbers of an encoder and its scorers depend on; what they are called is not among it.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    /// SHA-256 of the backbone's weights.
    pub weights_sha256: String,
    /// SHA-256 of the tokenizer's vocabulary and rules.
    pub tokenizer_sha256: String,
    /// What its configuration adds to that.
    pub architecture: Architecture,
    /// `mean` or `first`, normalised or not.
    pub pooling: String,
    /// Length limit in tokens.
    pub max_length: usize,
    /// `f32`, or `mixed` where activations are f16.
    pub precision: &'static str,
    /// Scorers beside the encoder's own.
    pub verifiers: Vec<VerifierConfig>,
    /// Tokens that they see of a text.
    pub verifier_max_length: usize,
}

/// A verifier by name, and the constants it works with.
#[derive(Clone, Debug, Serialize)]
pub struct VerifierConfig {
    /// Its name in tables.
    pub name: String,
    /// Names and values.
    pub constants: serde_json::Map<String, Value>,
}

/// What shapes an encoder beside the shapes of its weights.
#[derive(Clone, Debug, Serialize)]
pub struct Architecture {
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f32,
}

impl Setup {
    /// The setup of a job that is about to start.
    pub fn new(encoder: &Encoder, weights_sha256: &str, scorers: &Scorers) -> Self {
        // The rest are shapes of the weights, or concern training alone.
        let BertConfig {
            n_layers,
            n_heads,
            layer_norm_eps,
            vocab: _,
            d_model: _,
            d_ff: _,
            max_positions: _,
            token_types: _,
            hidden_dropout: _,
            attention_dropout: _,
        } = *encoder.config();
        let constants_of = |verifier: &dyn Scorer| VerifierConfig {
            name: verifier.name(),
            constants: verifier
                .constants()
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
        };
        Setup {
            weights_sha256: weights_sha256.to_string(),
            tokenizer_sha256: hex(&encoder.tokenizer().sha256()),
            architecture: Architecture {
                layers: n_layers,
                heads: n_heads,
                layer_norm_eps,
            },
            pooling: encoder.describe_head(),
            max_length: encoder.tokenizer().max_length(),
            precision: encoder.device().precision().name(),
            verifiers: scorers
                .verifiers
                .iter()
                .map(|v| constants_of(&**v))
                .collect(),
            verifier_max_length: scorers.limit(encoder),
        }
    }
}

/// What the encoder puts before queries and documents, for stages that have any.
#[derive(Clone, Debug, Serialize)]
pub struct PromptConfig {
    /// Before a query.
    pub query: String,
    /// Before a document.
    pub document: String,
}

impl PromptConfig {
    /// Those of an encoder.
    pub fn of(encoder: &Encoder) -> Self {
        let prompts = encoder.tokenizer().prompts();
        PromptConfig {
            query: prompts.of(TextKind::Query).to_string(),
            document: prompts.of(TextKind::Document).to_string(),
        }
    }
}

/// Where and by what a job was done, and what its inputs are called. No number depends on it beyond rounding.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// Version of this crate.
    pub version: &'static str,
    /// Device and hardware.
    pub device: String,
    /// Operating system and architecture.
    pub system: String,
    /// The encoder: name, folder, and how it was found.
    pub backbone: Backbone,
    /// Names of the inputs.
    pub inputs: Value,
}

impl Provenance {
    /// That of a job done now.
    pub fn new(encoder: &Encoder, backbone: &Backbone, inputs: Value) -> Self {
        Provenance {
            version: env!("CARGO_PKG_VERSION"),
            device: encoder.device().name(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            backbone: backbone.clone(),
            inputs,
        }
    }

    /// It in words, with the encoder's own: "NAME (pooling, at most N tokens) on DEVICE", in Markdown.
    pub fn sentence(&self, setup: &Setup) -> String {
        format!(
            "{} ({}, at most {} tokens) on {}",
            in_markdown(&self.backbone.name),
            setup.pooling,
            setup.max_length,
            in_markdown(&self.device)
        )
    }
}

/// The folder of a job's results. Each file is complete or absent.
pub struct ResultFolder {
    path: PathBuf,
}

impl ResultFolder {
    /// The folder `NAME` in `out`; it is made with the first file.
    pub fn new(out: &Path, name: &str) -> Self {
        ResultFolder {
            path: out.join(name),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file: a read-only folder, a full disk.
    pub fn json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
        self.text(name, &format!("{text}\n"))
    }

    /// Writes a text.
    ///
    /// # Errors
    /// As [`ResultFolder::json`].
    pub fn text(&self, name: &str, text: &str) -> Result<()> {
        write_atomically(&self.path.join(name), |file| {
            file.write_all(text.as_bytes())
        })
    }

    /// Writes values as JSON, one per line, as they come.
    ///
    /// # Errors
    /// As [`ResultFolder::json`].
    pub fn lines(&self, name: &str, rows: impl Iterator<Item = Value>) -> Result<()> {
        write_atomically(&self.path.join(name), |file| {
            rows.into_iter().try_for_each(|row| writeln!(file, "{row}"))
        })
    }
}
