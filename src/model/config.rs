//! What a model folder says about an encoder, read and written: sizes, and how token vectors are pooled.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::head::HeadConfig;
use crate::error::{Error, Result};
use crate::ops::pool::Pooling;
use crate::text::keys;

/// Sizes of a BERT encoder, from `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Rows of the word table.
    pub vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Transformer layers.
    pub n_layers: usize,
    /// Attention heads; `d_model / n_heads` is the head dimension.
    pub n_heads: usize,
    /// Inner width of the feed-forward part.
    pub d_ff: usize,
    /// Rows of the position table: the longest text in tokens.
    pub max_positions: usize,
    /// Rows of the token-type table.
    pub token_types: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f32,
    /// Share of the values that training drops after the embedding, the attention and the feed-forward part.
    pub hidden_dropout: f32,
    /// Share of the attention probabilities that training drops.
    pub attention_dropout: f32,
}

impl BertConfig {
    /// Dimensions of one head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// Weights that an encoder of these sizes has, without a pooler.
    pub fn parameters(&self) -> usize {
        let (d, ff) = (self.d_model, self.d_ff);
        let tables = (self.vocab + self.max_positions + self.token_types) * d + 2 * d;
        // Four square products and two of the feed-forward part with their biases, two layer norms.
        let layer = 4 * (d * d + d) + (d * ff + ff) + (ff * d + d) + 4 * d;
        tables + self.n_layers * layer
    }

    /// FLOP of a forward pass over texts of these lengths (matrix products and attention).
    pub fn flop(&self, lengths: impl IntoIterator<Item = usize>) -> u64 {
        let (d, ff) = (self.d_model as u64, self.d_ff as u64);
        let per_token = 2 * self.n_layers as u64 * (4 * d * d + 2 * d * ff);
        let per_pair = 4 * self.n_layers as u64 * d;
        lengths
            .into_iter()
            .map(|l| l as u64)
            .map(|l| per_token * l + per_pair * l * l)
            .sum()
    }
}

/// The pooling that a device does, which is all that most models do to token vectors ([`HeadConfig`] has the rest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolingConfig {
    /// Mean of all tokens or first token.
    pub pooling: Pooling,
    /// Whether embeddings get unit length.
    pub normalize: bool,
}

#[derive(Deserialize)]
struct RawConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "bert_eps")]
    layer_norm_eps: f32,
    #[serde(default = "bert_dropout")]
    hidden_dropout_prob: f32,
    #[serde(default = "bert_dropout")]
    attention_probs_dropout_prob: f32,
}

fn two() -> usize {
    2
}

fn bert_eps() -> f32 {
    1e-12
}

fn bert_dropout() -> f32 {
    0.1
}

impl BertConfig {
    /// Reads `config.json` of the model folder.
    ///
    /// # Errors
    /// [`Error::Io`] if it is missing, [`Error::Input`] if it is no BERT of a form that this crate computes.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let not_json =
            |e: serde_json::Error| Error::input(&path, format!("not the expected JSON: {e}"));
        let object = serde_json::from_str(&text).map_err(not_json)?;
        // What is only to be said is said by who loads the whole folder.
        keys::check(&path, &object, &keys::CONFIG, &mut Vec::new())?;
        let raw: RawConfig = serde_json::from_str(&text).map_err(not_json)?;
        let refuse = |what: String| Err(Error::input(&path, what));
        let config = BertConfig {
            vocab: raw.vocab_size,
            d_model: raw.hidden_size,
            n_layers: raw.num_hidden_layers,
            n_heads: raw.num_attention_heads,
            d_ff: raw.intermediate_size,
            max_positions: raw.max_position_embeddings,
            token_types: raw.type_vocab_size,
            layer_norm_eps: raw.layer_norm_eps,
            hidden_dropout: raw.hidden_dropout_prob,
            attention_dropout: raw.attention_probs_dropout_prob,
        };
        match config.fault() {
            Some(fault) => refuse(fault),
            None => Ok(config),
        }
    }

    /// Why these sizes cannot be computed with, if they cannot.
    pub(super) fn fault(&self) -> Option<String> {
        let (d, heads) = (self.d_model, self.n_heads);
        if d == 0 || heads == 0 || d % heads != 0 || (d / heads) % 32 != 0 {
            return Some(format!(
                "hidden_size {d} over {heads} heads: the head dimension must be a multiple of 32"
            ));
        }
        if self.d_ff == 0 || !self.d_ff.is_multiple_of(8) {
            return Some(format!(
                "intermediate_size {} is not a multiple of 8",
                self.d_ff
            ));
        }
        if self.vocab == 0 || self.max_positions < 3 || self.token_types == 0 {
            return Some(
                "vocab_size, max_position_embeddings or type_vocab_size is too small".into(),
            );
        }
        for (name, rate) in [
            ("hidden_dropout_prob", self.hidden_dropout),
            ("attention_probs_dropout_prob", self.attention_dropout),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return Some(format!("{name} is {rate}; it must be from 0 to below 1"));
            }
        }
        // Token ids, positions and elements of a table are numbered in 32 bits by the kernels.
        const MOST: usize = u32::MAX as usize;
        let rows = [self.vocab, self.max_positions, self.token_types, self.d_ff];
        let most = rows.into_iter().max().unwrap_or(0).max(d.saturating_mul(3));
        if self.n_layers > 4096 || most.saturating_mul(d) > MOST {
            return Some(format!(
                "{} layers of hidden_size {d} with tables of {most} rows are no size that a model has",
                self.n_layers
            ));
        }
        None
    }

    /// `config.json` of a model of these sizes, as transformers reads it.
    pub(super) fn to_json(&self) -> Value {
        // Through the shortest decimal: 1e-12 as f32 is not the f64 that is written 1e-12.
        let decimal = |value: f32| value.to_string().parse().unwrap_or(f64::from(value));
        json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": self.vocab,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "intermediate_size": self.d_ff,
            "max_position_embeddings": self.max_positions,
            "type_vocab_size": self.token_types,
            "layer_norm_eps": decimal(self.layer_norm_eps),
            "hidden_dropout_prob": decimal(self.hidden_dropout),
            "attention_probs_dropout_prob": decimal(self.attention_dropout),
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
        })
    }
}

/// The folder of the pooling module where we write one.
pub(super) const POOLING_FOLDER: &str = "1_Pooling";

/// What `modules.json` calls its modules.
const MODULE_TYPES: &str = "sentence_transformers.models";

impl PoolingConfig {
    /// Reads the pooling of a model folder whose embeddings are pooled token vectors, normalised or not, and nothing more.
    ///
    /// # Errors
    /// As [`HeadConfig::read`]; [`Error::Input`] for a model that does more.
    pub fn read(folder: &Path) -> Result<Self> {
        let head = HeadConfig::read(folder, BertConfig::read(folder)?.d_model, &mut Vec::new())?;
        head.plain().ok_or_else(|| {
            Error::input(folder, format!("its embeddings are made by {head}, which is more than a mean or first token vector, normalised or not"))
        })
    }

    /// `modules.json` of a model with this pooling, and the `config.json` of its folder [`POOLING_FOLDER`].
    pub(super) fn to_json(self, d_model: usize) -> (Value, Value) {
        let names: &[(&str, &str)] = &[
            ("", "Transformer"),
            (POOLING_FOLDER, "Pooling"),
            ("2_Normalize", "Normalize"),
        ];
        let modules: Vec<Value> = names[..if self.normalize { 3 } else { 2 }]
            .iter()
            .enumerate()
            .map(|(i, (path, kind))| {
                let kind = format!("{MODULE_TYPES}.{kind}");
                json!({"idx": i, "name": i.to_string(), "path": path, "type": kind})
            })
            .collect();
        let pooling = json!({
            "word_embedding_dimension": d_model,
            "pooling_mode_cls_token": self.pooling == Pooling::First,
            "pooling_mode_mean_tokens": self.pooling == Pooling::Mean,
        });
        (modules.into(), pooling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    const CONFIG: &str = r#"{"model_type": "bert", "vocab_size": 10, "hidden_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 16, "hidden_act": "gelu"}"#;

    #[test]
    fn reads_sizes_and_refuses_what_it_cannot_compute() {
        let dir = folder(&[("config.json", CONFIG)]);
        let config = BertConfig::read(dir.path()).unwrap();
        assert_eq!((config.head_dim(), config.layer_norm_eps), (32, 1e-12));
        // What transformers takes where a folder does not say.
        assert_eq!(
            (config.hidden_dropout, config.attention_dropout),
            (0.1, 0.1)
        );
        let rates =
            r#""hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0.25, "vocab_size""#;
        let dir = folder(&[("config.json", &CONFIG.replace("\"vocab_size\"", rates))]);
        let config = BertConfig::read(dir.path()).unwrap();
        assert_eq!(
            (config.hidden_dropout, config.attention_dropout),
            (0.0, 0.25)
        );
        for (from, to, needle) in [
            ("\"bert\"", "\"roberta\"", "model_type is `roberta`"),
            ("\"gelu\"", "\"relu\"", "hidden_act is `relu`"),
            (": 64", ": 60", "multiple of 32"),
            ("\"vocab_size\": 10,", "", "vocab_size"),
            (
                "\"vocab_size\"",
                "\"hidden_dropout_prob\": 1.0, \"vocab_size\"",
                "hidden_dropout_prob is 1; it must be",
            ),
            (
                ": 10,",
                ": 1000000000000000000,",
                "no size that a model has",
            ),
            (
                "layers\": 1",
                "layers\": 1000000000000",
                "no size that a model has",
            ),
        ] {
            let dir = folder(&[("config.json", &CONFIG.replace(from, to))]);
            let error = BertConfig::read(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains(needle) && error.contains("config.json"),
                "{error}"
            );
        }
        let empty = folder(&[]);
        assert!(
            BertConfig::read(empty.path())
                .unwrap_err()
                .to_string()
                .starts_with("cannot read")
        );
    }

    #[test]
    fn only_a_plain_pooling_is_a_pooling() {
        let modules = r#"[{"name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;
        let cls = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
        let read = |modules: &str, pooling: &str| {
            let pooling = ("1_Pooling/config.json", pooling);
            let dir = folder(&[("config.json", CONFIG), ("modules.json", modules), pooling]);
            PoolingConfig::read(dir.path())
        };
        let first = PoolingConfig {
            pooling: Pooling::First,
            normalize: true,
        };
        assert_eq!(read(modules, cls).unwrap(), first);
        let error = read(modules, &cls.replace("false", "true")).unwrap_err();
        assert!(
            error.to_string().contains("first + mean, normalised"),
            "{error}"
        );
        let bare = PoolingConfig {
            pooling: Pooling::Mean,
            normalize: false,
        };
        let dir = folder(&[("config.json", CONFIG)]);
        assert_eq!(PoolingConfig::read(dir.path()).unwrap(), bare);
    }
}
