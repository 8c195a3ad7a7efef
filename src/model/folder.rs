//! Model folders as a whole: read, and written so that sentence-transformers loads them.
//!
//! A folder that was read is written back byte by byte, its unknown keys included; only what was changed on purpose
//! differs; the weights of what comes behind the pooling are among it. What other programs put beside a model (a model
//! card, weights in other forms) is not taken along.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::checkpoint::{self, Tensor, WEIGHTS};
use super::config::{BertConfig, POOLING_FOLDER, PoolingConfig};
use super::head::{self, HeadConfig};
use crate::error::{Error, Result};
use crate::text::keys::{self, MODULES};

/// Everything that a model folder may say of a model, besides the `config.json` of its modules' own folders.
const SETTINGS: [&str; 8] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "config_sentence_transformers.json",
    MODULES,
];

/// Where the length limit stands, unless the folder calls it otherwise.
const SENTENCE_CONFIG: &str = "sentence_bert_config.json";

/// What a model folder says of a model, without the weights (see [`checkpoint`]).
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFolder {
    config: BertConfig,
    head: HeadConfig,
    /// The name of the sentence configuration.
    sentence_config: &'static str,
    /// Path inside the folder, and content.
    files: BTreeMap<String, Vec<u8>>,
}

impl ModelFolder {
    /// Reads the settings of the model folder `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is missing or cannot be read; as [`BertConfig::read`] and [`HeadConfig::read`].
    pub fn read(folder: &Path) -> Result<Self> {
        head::check_encoder_place(folder)?;
        let config = BertConfig::read(folder)?;
        let head = HeadConfig::read(folder, config.d_model, &mut Vec::new())?;
        let mut files = BTreeMap::new();
        let modules = head::read_modules(folder)?;
        let of_modules = (modules.iter())
            .filter(|module| !module.path.is_empty())
            .map(|module| format!("{}/config.json", module.path));
        let names = SETTINGS.into_iter().chain(keys::SENTENCE_CONFIGS);
        let names = names.map(String::from).chain(of_modules);
        for name in names.chain(head.weights()) {
            let path = folder.join(&name);
            match fs::read(&path) {
                Ok(bytes) => drop(files.insert(name, bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("read", path, e)),
            }
        }
        Ok(ModelFolder {
            sentence_config: keys::sentence_config(folder)?.unwrap_or(SENTENCE_CONFIG),
            config,
            head,
            files,
        })
    }

    /// The settings of a new model: its sizes and pooling, a `tokenizer.json` and the length limit in tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] for sizes that this crate does not compute with, or a limit beyond the positions.
    pub fn new(
        config: BertConfig,
        pooling: PoolingConfig,
        tokenizer: Vec<u8>,
        max_length: usize,
    ) -> Result<Self> {
        if let Some(fault) = config.fault() {
            return Err(Error::Invalid(fault));
        }
        let (modules, pooling_module) = pooling.to_json(config.d_model);
        // Without its class transformers would guess one, and the guess depends on its version.
        let class = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
        let files = [
            ("config.json".into(), pretty(&config.to_json())),
            (MODULES.into(), pretty(&modules)),
            (
                format!("{POOLING_FOLDER}/config.json"),
                pretty(&pooling_module),
            ),
            ("tokenizer.json".into(), tokenizer),
            ("tokenizer_config.json".into(), pretty(&class)),
        ];
        let mut folder = ModelFolder {
            head: HeadConfig::of(pooling, config.d_model),
            sentence_config: SENTENCE_CONFIG,
            config,
            files: files.into(),
        };
        folder.set_max_length(max_length)?;
        Ok(folder)
    }

    /// Sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// What makes an embedding of token vectors.
    pub fn head(&self) -> &HeadConfig {
        &self.head
    }

    /// The content of a file by its path inside the folder, such as `1_Pooling/config.json`.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// Makes `max_length` tokens the model's length limit.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the model has fewer positions; [`Error::Input`] if `sentence_bert_config.json` is no JSON
    /// object.
    pub fn set_max_length(&mut self, max_length: usize) -> Result<()> {
        if max_length > self.config.max_positions {
            return Err(Error::Invalid(format!(
                "a length limit of {max_length} tokens is more than the {} positions of the model",
                self.config.max_positions
            )));
        }
        let name = self.sentence_config;
        let has_modules = self.files.contains_key(MODULES);
        let mut settings: Map<String, Value> = match self.file(name) {
            Some(bytes) if has_modules => serde_json::from_slice(bytes)
                .map_err(|e| Error::input(name, format!("not the expected JSON: {e}")))?,
            // Without modules the file is read by nobody, and what it says besides must not count from now on.
            _ => Map::new(),
        };
        settings.insert("max_seq_length".into(), max_length.into());
        (settings.entry("do_lower_case")).or_insert(false.into());
        // These come before it.
        for kwargs in ["processor_kwargs", "tokenizer_args"] {
            if let Some(Value::Object(kwargs)) = settings.get_mut(kwargs) {
                kwargs.remove("model_max_length");
            }
        }
        if let (false, Some(pooling)) = (has_modules, self.head.plain()) {
            let (modules, module) = pooling.to_json(self.config.d_model);
            self.files.insert(MODULES.into(), pretty(&modules));
            let path = format!("{POOLING_FOLDER}/config.json");
            self.files.insert(path, pretty(&module));
        }
        let bytes = pretty(&settings.into());
        self.files.insert(name.into(), bytes);
        Ok(())
    }

    /// Writes the model folder `to`, which must not exist, with these tensors as its weights; `notes` are what stands in
    /// the weights file beside them. The folder appears whole, by one rename.
    ///
    /// # Errors
    /// [`Error::Input`] if there is something at `to`, [`Error::Io`] if it cannot be written.
    pub fn write<'a>(
        &self,
        to: &Path,
        tensors: impl IntoIterator<Item = (String, Tensor<'a>)>,
        notes: Option<&HashMap<String, String>>,
    ) -> Result<()> {
        let taken = || Error::input(to, "exists; name a folder that does not");
        if to.exists() {
            return Err(taken());
        }
        let full = std::path::absolute(to).map_err(|e| Error::io("create", to, e))?;
        let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
            return Err(taken());
        };
        fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        let scratch = tempfile::Builder::new()
            .prefix(&format!(".{}.part-", name.to_string_lossy()))
            .tempdir_in(parent)
            .map_err(|e| Error::io("create", to, e))?;
        let model = scratch.path().join("model");
        for (path, bytes) in &self.files {
            write_file(&model.join(path), bytes)?;
        }
        checkpoint::write(&model, tensors, notes)?;
        settle(&model.join(WEIGHTS), &model.join("config.json"))
            .map_err(|e| Error::io("write", to.join(WEIGHTS), e))?;
        fs::rename(&model, to).map_err(|e| match to.exists() {
            true => taken(),
            false => Error::io("create", to, e),
        })
    }
}

/// Brings a file that is in place to the disk, with the mode of one that was created plainly: the weights were written
/// under another name, for their owner alone.
fn settle(path: &Path, like: &Path) -> std::io::Result<()> {
    fs::set_permissions(path, fs::metadata(like)?.permissions())?;
    File::open(path)?.sync_all()
}

fn write_file(path: &PathBuf, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        // On disk before the rename makes it visible: a power cut must not leave a complete-looking folder.
        file.sync_all()
    };
    write().map_err(|e| Error::io("write", path, e))
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Checkpoint;
    use crate::ops::pool::Pooling;
    use safetensors::Dtype;

    fn sizes() -> BertConfig {
        BertConfig {
            vocab: 11,
            d_model: 32,
            n_layers: 1,
            n_heads: 1,
            d_ff: 64,
            max_positions: 16,
            token_types: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
        }
    }

    fn tensors() -> Vec<(String, Tensor<'static>)> {
        let ids = Tensor {
            dtype: Dtype::I64,
            shape: vec![1, 2],
            data: vec![7; 16].into(),
        };
        let half = Tensor::from_f32(&[1.5, -2.0], Dtype::F16, vec![2]).unwrap();
        vec![
            ("bert.embeddings.position_ids".into(), ids),
            ("bert.embeddings.word_embeddings.weight".into(), half),
        ]
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_new_folder_says_what_it_was_made_of() {
        let dir = tempfile::tempdir().unwrap();
        for (i, (pooling, normalize)) in [(Pooling::Mean, true), (Pooling::First, false)]
            .into_iter()
            .enumerate()
        {
            let pooling = PoolingConfig { pooling, normalize };
            let new = ModelFolder::new(sizes(), pooling, b"{}".to_vec(), 12).unwrap();
            let to = dir.path().join(format!("models/{i}"));
            new.write(&to, tensors(), None).unwrap();
            let read = ModelFolder::read(&to).unwrap();
            assert_eq!(read, new);
            assert_eq!(
                (read.config(), read.head().plain()),
                (&sizes(), Some(pooling))
            );
            let limit: Value =
                serde_json::from_slice(read.file("sentence_bert_config.json").unwrap()).unwrap();
            assert_eq!(limit["max_seq_length"], 12);
            let config = String::from_utf8(read.file("config.json").unwrap().to_vec()).unwrap();
            assert!(config.contains("\"layer_norm_eps\": 1e-12"), "{config}");
        }
        let odd = BertConfig {
            n_heads: 3,
            ..sizes()
        };
        let pooling = PoolingConfig {
            pooling: Pooling::Mean,
            normalize: true,
        };
        assert!(ModelFolder::new(odd, pooling, Vec::new(), 12).is_err());
        let long = ModelFolder::new(sizes(), pooling, Vec::new(), 17).unwrap_err();
        assert!(long.to_string().contains("16 positions"), "{long}");
    }

    #[test]
    fn what_nobody_knows_survives() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let pooling = PoolingConfig {
            pooling: Pooling::Mean,
            normalize: true,
        };
        let notes = HashMap::from([("format".to_string(), "pt".to_string())]);
        (ModelFolder::new(sizes(), pooling, b"{}".to_vec(), 12).unwrap())
            .write(&from, tensors(), Some(&notes))
            .unwrap();
        let add = |file: &str, value: &str| {
            let text = fs::read_to_string(from.join(file)).unwrap();
            let text = text.replacen('{', &format!("{{\n  \"somebody's own\" : {value},"), 1);
            fs::write(from.join(file), text).unwrap();
        };
        add("config.json", "[1.50, {}]");
        add("modules.json", "[1.50, {}]");
        // Here a key that says something is refused.
        add("1_Pooling/config.json", "[  ]");
        add("sentence_bert_config.json", "{  }");
        fs::write(from.join("README.md"), "a model card").unwrap();

        let to = dir.path().join("to");
        let mut folder = ModelFolder::read(&from).unwrap();
        let weights = Checkpoint::open(&from).unwrap();
        folder
            .write(&to, weights.tensors(), weights.notes())
            .unwrap();
        let written = files(&to);
        assert_eq!(written.len() + 1, files(&from).len(), "{written:?}");
        for path in &written {
            let inside = path.strip_prefix(&to).unwrap();
            assert_eq!(
                fs::read(path).unwrap(),
                fs::read(from.join(inside)).unwrap(),
                "{}",
                inside.display()
            );
        }

        folder.set_max_length(9).unwrap();
        let changed = folder.file("sentence_bert_config.json").unwrap();
        let changed: Value = serde_json::from_slice(changed).unwrap();
        assert_eq!(changed["max_seq_length"], 9);
        assert_eq!(changed["somebody's own"], json!({}));
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("model");
        let pooling = PoolingConfig {
            pooling: Pooling::Mean,
            normalize: true,
        };
        let new = ModelFolder::new(sizes(), pooling, b"{}".to_vec(), 12).unwrap();
        // A tensor whose bytes are not those of its shape.
        let wrong = Tensor {
            dtype: Dtype::F32,
            shape: vec![3],
            data: vec![0; 4].into(),
        };
        let error = new.write(&to, [("x".to_string(), wrong)], None);
        assert!(error.unwrap_err().to_string().contains("model.safetensors"));
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
        new.write(&to, tensors(), None).unwrap();
        let before = files(&to);
        let error = new.write(&to, Vec::new(), None).unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
        assert_eq!(files(&to), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |file: &str| fs::metadata(to.join(file)).unwrap().permissions().mode();
            assert_eq!(mode("model.safetensors"), mode("config.json"));
        }
    }
}
