//! The tokenizer of a model folder: texts in, token ids with special tokens out.
//!
//! [`Tokenizer::load`] reads vocabulary and rules as transformers 5 does, from `tokenizer.json` (or `vocab.txt`) and
//! `tokenizer_config.json`. The padding and the truncation that such files carry are leftovers of the machine that wrote
//! them (all-MiniLM-L6-v2 says 128 there and 256 in `sentence_bert_config.json`), so padding is switched off and the
//! length limit is set here; but the end at which texts are cut is theirs.
//!
//! A limit of `L` tokens keeps the first `L - 2` word pieces of a text between `[CLS]` and `[SEP]`. It is, in this
//! order: the caller's; `max_seq_length` of `sentence_bert_config.json` (or of an older name of that file), where the
//! folder has a `modules.json`; `model_max_length` of `tokenizer_config.json`, unless that is the huge number which stands
//! for "none"; `max_position_embeddings` of `config.json`. The last is also the most that any limit can be, since the
//! model has no further positions.
//!
//! What sentence-transformers does to a text before tokenising is done here as well: the model's prompt is put before
//! it ([`Prompts`]), and it is lower-cased if `do_lower_case` of `sentence_bert_config.json` asks for that. An empty text
//! has its special tokens, so it has an embedding like any other.
//!
//! Texts are tokenised in parallel in the current rayon pool, one text per task. The `tokenizers` crate's own
//! parallelism is not used, hence `TOKENIZERS_PARALLELISM` changes nothing and a thread limit set on the pool holds.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, TruncationDirection, TruncationParams,
    TruncationStrategy,
};

use super::keys;
use super::{one_line, rules};
use crate::error::{Error, Result};

/// Where a model's prompts stand.
const PROMPTS: &str = "config_sentence_transformers.json";

/// From here on a `model_max_length` stands for "none": it is written as 10^30 there, and no model has a length near a
/// million.
const NO_LIMIT: f64 = 1e6;

/// What a text is to the model, which decides the prompt put before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextKind {
    /// Just a text: no prompt.
    #[default]
    Plain,
    /// A question put to the index.
    Query,
    /// A passage of the index.
    Document,
}

/// The strings that a model wants before its texts, from `config_sentence_transformers.json`.
///
/// As sentence-transformers 6 does it: a query takes the prompt named `query`, a document the one named `document`, and
/// without such a one there is no prompt. What `default_prompt_name` names is for texts that are neither, as is any other
/// prompt; a folder without `modules.json` has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompts {
    /// Put before a query, for example `"query: "`; empty for none.
    pub query: String,
    /// Put before a document; empty for none.
    pub document: String,
}

impl Prompts {
    /// Reads the prompts of a model folder; a folder without the file has none.
    ///
    /// # Errors
    ///
    /// A file that is not JSON, a prompt that is not a string, or a default name that no prompt has.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join(PROMPTS);
        let all = read_prompts(model_dir)?;
        let of = |name: &str| all.iter().find(|(known, _)| known == name);
        if let Some(keys) = prompt_file(model_dir)?
            && let Some(name) = keys.get("default_prompt_name").and_then(Value::as_str)
            && !["query", "document"].contains(&name)
            && of(name).is_none()
        {
            return Err(Error::input(
                path,
                format!(
                    "`default_prompt_name` is `{name}`, but `prompts` has no such prompt; add it or remove the name"
                ),
            ));
        }
        let prompt = |name: &str| {
            of(name)
                .map(|(_, prompt)| prompt.clone())
                .unwrap_or_default()
        };
        Ok(Self {
            query: prompt("query"),
            document: prompt("document"),
        })
    }

    /// What is to be said of prompts that are there and not used, though they look as if they were for documents.
    pub(crate) fn notes(&self, model_dir: &Path) -> Result<Vec<String>> {
        let unused = read_prompts(model_dir)?
            .into_iter()
            .filter(|(name, prompt)| {
                self.document.is_empty()
                    && !prompt.is_empty()
                    && ["passage", "corpus"].contains(&&**name)
            });
        Ok(unused
            .map(|(name, prompt)| {
                format!(
                    "{}: the prompt {name} (`{prompt}`) is not put before documents, since sentence-transformers 6 puts `document` there alone; name it so if it should be",
                    model_dir.join(PROMPTS).display()
                )
            })
            .collect())
    }

    /// The prompt of this kind of text, possibly empty.
    pub fn of(&self, kind: TextKind) -> &str {
        match kind {
            TextKind::Plain => "",
            TextKind::Query => &self.query,
            TextKind::Document => &self.document,
        }
    }
}

/// Token ids of a list of texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokenized {
    /// Per text, its ids with special tokens: at least one, at most the length limit.
    pub ids: Vec<Vec<u32>>,
    /// How many of the texts were longer than the limit and lost their end.
    pub n_truncated: usize,
}

impl Tokenized {
    /// Tokens of each text, as [`super::plan_batches`] wants them.
    pub fn lengths(&self) -> Vec<usize> {
        self.ids.iter().map(Vec::len).collect()
    }
}

/// A model's tokenizer with its length limit and prompts.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    max_length: usize,
    n_special: usize,
    /// The end at which long texts are cut.
    direction: TruncationDirection,
    lower_case: bool,
    prompts: Prompts,
    /// Whether the beginning of a text has the tokens of the whole, see [`Tokenizer::beginning`].
    by_words: bool,
}

/// Whether nothing behind a white space changes the tokens before it, and white space has none.
fn by_words(inner: &tokenizers::Tokenizer, direction: TruncationDirection) -> bool {
    use NormalizerWrapper::{BertNormalizer, Lowercase};
    let splitter = inner.get_pre_tokenizer();
    let splits = matches!(splitter, Some(PreTokenizerWrapper::BertPreTokenizer(_)));
    let plain = |one: &NormalizerWrapper| matches!(one, BertNormalizer(_) | Lowercase(_));
    let plain = rules::normalizers(inner).iter().all(plain);
    let added = inner.get_added_tokens_decoder();
    let spaced = |token: &AddedToken| token.content.contains(char::is_whitespace);
    splits && plain && direction == TruncationDirection::Right && !added.values().any(spaced)
}

fn length_limit(message: String) -> Error {
    Error::Setting {
        setting: "max_length",
        message,
    }
}

impl Tokenizer {
    /// Reads the tokenizer of `model_dir`; `max_length` (tokens, special ones included) overrides the folder's limit.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a limit that leaves no room for a word or that the model has no positions for;
    /// [`Error::Input`] for a folder without `tokenizer.json`, a file that cannot be parsed, no limit anywhere, a
    /// tokenizer that adds no special tokens, or one whose ids go beyond the model's vocabulary.
    pub fn load(model_dir: impl AsRef<Path>, max_length: Option<usize>) -> Result<Self> {
        let model_dir = model_dir.as_ref();
        let config = keys::object(&model_dir.join("config.json"))?.unwrap_or_default();
        let get = |key: &str| config.get(key).and_then(size);
        let rules::Rules {
            mut inner,
            direction,
            path,
        } = rules::read(model_dir, get("vocab_size"))?;
        let fail = |e: tokenizers::Error| Error::input(&path, one_line(&e.to_string()));
        let sentence = SentenceConfig::read(model_dir)?;
        if sentence.lower_case {
            rules::lower_case_first(&mut inner).map_err(fail)?;
        }

        let n_special = inner.encode_fast("", true).map_err(fail)?.len();
        if n_special == 0 {
            return Err(Error::input(
                &path,
                "adds no special tokens, so that an empty text would have no tokens at all; a tokenizer of the BERT kind, which adds [CLS] and [SEP], is needed",
            ));
        }

        if let Some(vocab) = get("vocab_size") {
            let largest = inner.get_vocab(true).into_values().max().unwrap_or(0) as usize;
            if largest >= vocab {
                return Err(Error::input(
                    &path,
                    format!(
                        "has token id {largest}, but the model's vocabulary ends at {} (`vocab_size` {vocab} in config.json); the two files belong to different models",
                        vocab - 1
                    ),
                ));
            }
        }

        let positions = get("max_position_embeddings");
        let max_length = match max_length {
            Some(wanted) => {
                if let Some(positions) = positions
                    && wanted > positions
                {
                    return Err(length_limit(format!(
                        "a length limit of {wanted} tokens is more than the {positions} positions of the model in {}; give {positions} or less",
                        model_dir.display()
                    )));
                }
                if wanted <= n_special {
                    return Err(length_limit(format!(
                        "a length limit of {wanted} tokens leaves no room for text beside the {n_special} special tokens; give {} or more",
                        n_special + 1
                    )));
                }
                wanted
            }
            None => {
                let limit = sentence
                    .limit
                    .or(tokenizer_limit(model_dir)?)
                    .or(positions)
                    .ok_or_else(|| {
                        Error::input(
                            model_dir,
                            "states no length limit (`max_seq_length` in sentence_bert_config.json, `model_max_length` in tokenizer_config.json or `max_position_embeddings` in config.json); state one there, or ask for one",
                        )
                    })?;
                let limit = limit.min(positions.unwrap_or(limit));
                if limit <= n_special {
                    return Err(Error::input(
                        model_dir,
                        format!(
                            "its length limit of {limit} tokens leaves no room for text beside the {n_special} special tokens; state a larger one there, or ask for one"
                        ),
                    ));
                }
                limit
            }
        };
        inner
            .with_truncation(Some(truncation(max_length, direction)))
            .map_err(fail)?;

        Ok(Self {
            by_words: by_words(&inner, direction),
            inner,
            max_length,
            n_special,
            direction,
            lower_case: sentence.lower_case,
            prompts: Prompts::load(model_dir)?,
            path,
        })
    }

    /// The same tokenizer with other prompts; [`Prompts::default`] switches them off.
    pub fn with_prompts(mut self, prompts: Prompts) -> Self {
        self.prompts = prompts;
        self
    }

    /// The same tokenizer with another length limit, at most its own.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for a limit that leaves no room for a word or is above the present one.
    pub fn with_max_length(&self, max_length: usize) -> Result<Self> {
        if max_length <= self.n_special || max_length > self.max_length {
            return Err(length_limit(format!(
                "a length limit of {max_length} tokens does not suit a model with {} special tokens and at most {} in all; give one from {} to {}",
                self.n_special,
                self.max_length,
                self.n_special + 1,
                self.max_length
            )));
        }
        let mut limited = self.clone();
        limited.max_length = max_length;
        limited
            .inner
            .with_truncation(Some(truncation(max_length, limited.direction)))
            .map_err(|e| Error::input(&self.path, one_line(&e.to_string())))?;
        Ok(limited)
    }

    /// The prompts in use.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// The most tokens a text can have, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// How many special tokens are added to every text: 2 for `[CLS]` and `[SEP]`.
    pub fn n_special(&self) -> usize {
        self.n_special
    }

    /// SHA-256 of its vocabulary and rules, whatever file they came from: without the length limit and the prompts,
    /// which can be asked for by themselves.
    pub fn sha256(&self) -> [u8; 32] {
        let mut inner = self.inner.clone();
        inner
            .with_truncation(None)
            .expect("no truncation suits every tokenizer");
        let rules = inner
            .to_string(false)
            .expect("what was read from JSON can be written");
        let mut hash = Sha256::new();
        hash.update([u8::from(self.lower_case)]);
        hash.update(rules.as_bytes());
        if matches!(self.direction, TruncationDirection::Left) {
            hash.update("cut on the left");
        }
        hash.finalize().into()
    }

    /// How a token is written, as heat maps label it (`##ing`); `None` for an id that no token has.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Tokenises texts as they are, without a prompt: [`Tokenizer::encode_kind`] for [`TextKind::Plain`].
    ///
    /// # Errors
    ///
    /// See [`Tokenizer::encode_kind`].
    pub fn encode_batch(&self, texts: &[impl AsRef<str> + Sync]) -> Result<Tokenized> {
        self.encode_kind(texts, TextKind::Plain)
    }

    /// Tokenises texts with the prompt of their kind, in parallel; the result is in the order of `texts`.
    ///
    /// # Errors
    ///
    /// [`Error::Text`] for the first text that the tokenizer's rules could not handle, for example one with a character
    /// outside a vocabulary that has no unknown token.
    pub fn encode_kind(
        &self,
        texts: &[impl AsRef<str> + Sync],
        kind: TextKind,
    ) -> Result<Tokenized> {
        let encoded: Vec<Result<(Vec<u32>, bool)>> = texts
            .par_iter()
            .enumerate()
            .map(|(i, text)| self.encode(i, text.as_ref(), kind))
            .collect();
        // In order, so that of several errors the first is reported, on every run.
        let encoded: Vec<(Vec<u32>, bool)> = encoded.into_iter().collect::<Result<_>>()?;
        let n_truncated = encoded.iter().filter(|(_, truncated)| *truncated).count();
        Ok(Tokenized {
            ids: encoded.into_iter().map(|(ids, _)| ids).collect(),
            n_truncated,
        })
    }

    /// As much of a text as holds more tokens than the length limit; of a book that is little of it.
    ///
    /// It ends at some white space, and half of it holds as many tokens: where words are told apart by white space, which no
    /// token has within it, nothing that its end could change is among the first tokens.
    fn beginning<'t>(&self, text: &'t str) -> Result<&'t str, tokenizers::Error> {
        let mut end = BYTES_PER_TOKEN * self.max_length;
        if !self.by_words || end >= text.len() / 2 {
            return Ok(text);
        }
        // White space before the first word is nothing there.
        let text = text.trim_start();
        let until = |end: usize| {
            let head = &text[..text.floor_char_boundary(end)];
            head.rfind([' ', '\n']).map(|at| &head[..at])
        };
        while end < text.len() / 2 {
            if let (Some(half), Some(all)) = (until(end / 2), until(end)) {
                let tokens = self.inner.encode_fast(half, true)?;
                if !tokens.get_overflowing().is_empty() {
                    return Ok(all);
                }
            }
            end *= 8;
        }
        Ok(text)
    }

    /// One text: its ids, and whether its end was cut off.
    fn encode(&self, index: usize, text: &str, kind: TextKind) -> Result<(Vec<u32>, bool)> {
        let prompt = self.prompts.of(kind);
        let text = if prompt.is_empty() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(format!("{prompt}{text}"))
        };
        let failed = |e: tokenizers::Error| {
            Error::text(
                index,
                format!(
                    "cannot be tokenised by {}: {}",
                    self.path.display(),
                    one_line(&e.to_string())
                ),
            )
        };
        let beginning = self.beginning(&text).map_err(failed)?;
        let encoding = self.inner.encode_fast(beginning, true).map_err(failed)?;
        // What truncation cut off is kept by the crate as further encodings, and that is how it shows.
        let truncated = !encoding.get_overflowing().is_empty();
        Ok((encoding.get_ids().to_vec(), truncated))
    }
}

/// Bytes of a long text that are tokenised at first, per token of the length limit.
const BYTES_PER_TOKEN: usize = 64;

/// Texts longer than `max_length` tokens lose their end, or their beginning.
fn truncation(max_length: usize, direction: TruncationDirection) -> TruncationParams {
    TruncationParams {
        max_length,
        direction,
        strategy: TruncationStrategy::LongestFirst,
        stride: 0,
    }
}

/// What the sentence configuration says of texts.
#[derive(Default)]
struct SentenceConfig {
    limit: Option<usize>,
    lower_case: bool,
}

impl SentenceConfig {
    /// Reads it; sentence-transformers reads it in folders with `modules.json` alone.
    fn read(model_dir: &Path) -> Result<Self> {
        if !keys::has_modules(model_dir) {
            return Ok(Self::default());
        }
        let Some(name) = keys::sentence_config(model_dir)? else {
            return Ok(Self::default());
        };
        let path = model_dir.join(name);
        let keys = keys::object(&path)?.unwrap_or_default();
        // The older name counts where the newer one says nothing.
        let kwargs = ["processor_kwargs", "tokenizer_args"].map(|key| keys.get(key)?.as_object());
        let kwargs = kwargs
            .into_iter()
            .flatten()
            .find(|kwargs| !kwargs.is_empty());
        let first = kwargs.and_then(|kwargs| kwargs.get("model_max_length"));
        let limit = match first {
            Some(limit) => limit_of(&path, "model_max_length", Some(limit))?,
            None => limit_of(&path, "max_seq_length", keys.get("max_seq_length"))?,
        };
        let lower_case = match keys.get("do_lower_case") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                return Err(Error::input(
                    path,
                    format!("do_lower_case is `{other}`; it must be true or false"),
                ));
            }
        };
        Ok(Self { limit, lower_case })
    }
}

/// The limit of `tokenizer_config.json`.
fn tokenizer_limit(model_dir: &Path) -> Result<Option<usize>> {
    let path = model_dir.join("tokenizer_config.json");
    let keys = keys::object(&path)?.unwrap_or_default();
    for key in ["model_max_length", "max_len"] {
        if keys.contains_key(key) {
            return limit_of(&path, key, keys.get(key));
        }
    }
    Ok(None)
}

/// A length limit of a configuration file; `None` if it stands for none.
fn limit_of(path: &Path, key: &str, value: Option<&Value>) -> Result<Option<usize>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value.as_f64().is_some_and(|limit| limit >= NO_LIMIT) => Ok(None),
        Some(value) => size(value).map(Some).ok_or_else(|| {
            Error::input(
                path,
                format!("{key} is `{value}`; it must be a number of tokens, or null for none"),
            )
        }),
    }
}

/// The file with the prompts, where it is read.
fn prompt_file(model_dir: &Path) -> Result<Option<Map<String, Value>>> {
    if !keys::has_modules(model_dir) {
        return Ok(None);
    }
    keys::object(&model_dir.join(PROMPTS))
}

/// The prompts of a model folder by their names, null being none.
fn read_prompts(model_dir: &Path) -> Result<Vec<(String, String)>> {
    let path = model_dir.join(PROMPTS);
    let mut keys = prompt_file(model_dir)?.unwrap_or_default();
    let prompts = match keys.remove("prompts") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(prompts)) => prompts,
        Some(_) => {
            return Err(Error::input(
                path,
                "`prompts` must be an object of name and string",
            ));
        }
    };
    let read = |(name, prompt)| match prompt {
        Value::Null => Ok((name, String::new())),
        Value::String(prompt) => Ok((name, prompt)),
        other => Err(Error::input(
            &path,
            format!("prompt `{name}` must be a string, got {other}"),
        )),
    };
    prompts.into_iter().map(read).collect()
}

/// A positive whole number of a configuration file; anything else (absent, null, 10^30) is none.
fn size(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .filter(|&n| n > 0)
        .and_then(|n| usize::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const WORDS: [&str; 12] = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "query", ":", "a", "dog",
    ];
    const CLS: u32 = 2;
    const SEP: u32 = 3;

    /// A model folder with an uncased WordPiece tokenizer of [`WORDS`], padding and truncation switched on in the file.
    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let vocab: serde_json::Map<String, Value> = WORDS
            .iter()
            .enumerate()
            .map(|(i, word)| (word.to_string(), json!(i)))
            .collect();
        let special = |id: usize| json!({"id": id, "content": WORDS[id], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let tokenizer = json!({
            "version": "1.0",
            "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
            "added_tokens": [special(0), special(1), special(2), special(3)],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}
        });
        let write = |name: &str, value: &Value| {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        };
        write("tokenizer.json", &tokenizer);
        write(
            "config.json",
            &json!({"vocab_size": WORDS.len(), "max_position_embeddings": 32}),
        );
        // What sentence-transformers adds is read in a folder with modules alone.
        write("modules.json", &json!([]));
        for (name, value) in files {
            write(name, value);
        }
        dir
    }

    /// `tokenizer_config.json` of a tokenizer that does what `tokenizer.json` says.
    fn as_written() -> (&'static str, Value) {
        let class = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
        ("tokenizer_config.json", class)
    }

    fn error(dir: &Path, max_length: Option<usize>) -> Error {
        let error = Tokenizer::load(dir, max_length).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        error
    }

    #[test]
    fn texts_become_ids_with_special_tokens_and_no_padding() {
        let dir = folder(&[]);
        let tokenizer = Tokenizer::load(dir.path(), None).unwrap();
        let texts = ["The cats sat", " \u{1c}\n the\tzebra  ", "", "   "];
        let out = tokenizer.encode_batch(&texts).unwrap();
        assert_eq!(
            out.ids,
            [
                vec![CLS, 4, 5, 7, 6, SEP],
                vec![CLS, 4, 1, SEP],
                vec![CLS, SEP],
                vec![CLS, SEP]
            ]
        );
        assert_eq!(out.n_truncated, 0);
        assert_eq!(out.lengths(), [6, 4, 2, 2]);
        assert_eq!(tokenizer.token(7).as_deref(), Some("##s"));
        assert_eq!(tokenizer.token(99), None);
        assert!(
            tokenizer
                .encode_batch(&[] as &[&str])
                .unwrap()
                .ids
                .is_empty()
        );
    }

    #[test]
    fn of_books_the_beginning_is_read_and_gives_the_same_tokens() {
        let dir = folder(&[]);
        let tokenizer = Tokenizer::load(dir.path(), Some(16)).unwrap();
        let start = BYTES_PER_TOKEN * 16;
        let words = [
            "the cats ",
            "sat\ta [SEP] dog\n",
            "\u{4e2d}zebra\u{301} ",
            "cat, the-dog: ",
        ];
        let book = |words: &[&str], bytes: usize| -> String {
            let all = words.iter().cycle();
            let mut text = String::new();
            for word in all {
                text += word;
                if text.len() > bytes {
                    return text;
                }
            }
            unreachable!()
        };
        let space = " ".repeat(3 * start);
        let blob = "x".repeat(3 * start);
        let texts = [
            book(&words, 40 * start),
            book(&words[1..], 3 * start / 2),
            format!("{space}{}", book(&words, 9 * start)),
            format!("{blob} {}", book(&words, 19 * start)),
            format!("{}{blob}", book(&words, 5 * start)),
            // Few tokens in many bytes: nothing is cut off.
            format!("the cat{space}{space}sat"),
            format!("{blob} {blob} cat"),
            blob.clone(),
            space.clone(),
        ];
        let found = tokenizer.encode_batch(&texts).unwrap();
        for (text, ids) in texts.iter().zip(&found.ids) {
            let whole = tokenizer.inner.encode_fast(&**text, true).unwrap();
            assert_eq!(ids, whole.get_ids(), "{}...", &text[..40]);
        }
        assert_eq!(found.n_truncated, 5);
        let read = texts.map(|text| tokenizer.beginning(&text).unwrap().len() / start);
        // In units of what is tried first: of the first a little, the second is short anyway, of the third a little once the
        // white space is gone; a word without end has to be passed.
        assert_eq!(read[..5], [0, 1, 0, 7, 0], "{read:?}");
    }

    #[test]
    fn white_space_may_be_a_token() {
        let tab = json!({"5": {"content": "\t", "special": false, "normalized": false}});
        let keys = json!({"added_tokens_decoder": tab});
        let dir = folder(&[("tokenizer_config.json", keys)]);
        let vocab = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
        let vocab = vocab.replacen("\"cat\"", "\"\\t\"", 1);
        std::fs::write(dir.path().join("tokenizer.json"), vocab).unwrap();
        let tokenizer = Tokenizer::load(dir.path(), Some(8)).unwrap();
        let long = format!("\t{}", "the ".repeat(4000));
        let out = tokenizer.encode_batch(&["\tthe", &long]).unwrap();
        assert_eq!(out.ids[0], [CLS, 5, 4, SEP]);
        assert_eq!(out.ids[1][..3], [CLS, 5, 4]);
    }

    #[test]
    fn truncation_keeps_the_first_word_pieces_and_is_counted() {
        let dir = folder(&[]);
        let tokenizer = Tokenizer::load(dir.path(), Some(5)).unwrap();
        let texts = ["the cat sat a dog", "the cat sat", "the cat sat a"];
        let out = tokenizer.encode_batch(&texts).unwrap();
        assert!(out.ids.iter().all(|ids| *ids == [CLS, 4, 5, 6, SEP]));
        assert_eq!(out.n_truncated, 2); // the second has exactly five tokens
    }

    #[test]
    fn the_limit_comes_from_the_first_file_that_has_one() {
        let sentence = ("sentence_bert_config.json", json!({"max_seq_length": 20}));
        let none = ("sentence_bert_config.json", json!({"max_seq_length": null}));
        let tokenizer = ("tokenizer_config.json", json!({"model_max_length": 24}));
        let endless = ("tokenizer_config.json", json!({"model_max_length": 1e30}));
        let beyond = ("sentence_bert_config.json", json!({"max_seq_length": 99}));
        let other_name = ("sentence_roberta_config.json", json!({"max_seq_length": 9}));
        let second = (
            "sentence_distilbert_config.json",
            json!({"max_seq_length": 7}),
        );
        let empty = ("sentence_bert_config.json", json!({}));
        let kwargs = json!({"max_seq_length": 9, "processor_kwargs": {"model_max_length": 11}});
        let kwargs = ("sentence_bert_config.json", kwargs);
        let old_key = ("tokenizer_config.json", json!({"max_len": 13}));
        for (files, limit) in [
            (vec![empty, other_name.clone(), second.clone()], 9),
            (vec![sentence.clone(), other_name], 20),
            (vec![kwargs], 11),
            (vec![old_key], 13),
            (vec![sentence, tokenizer.clone()], 20),
            (vec![none, tokenizer], 24),
            (vec![endless], 32),
            (vec![], 32),
            (vec![beyond], 32),
        ] {
            let dir = folder(&files);
            let loaded = Tokenizer::load(dir.path(), None).unwrap();
            assert_eq!(loaded.max_length(), limit);
            let long = vec!["cat"; 50].join(" ");
            assert_eq!(
                loaded.encode_batch(&[long]).unwrap().ids[0].len(),
                limit,
                "{files:?}"
            );
            assert_eq!(
                Tokenizer::load(dir.path(), Some(32)).unwrap().max_length(),
                32
            );
        }
    }

    #[test]
    fn a_shorter_limit_cuts_more() {
        let dir = folder(&[]);
        let tokenizer = Tokenizer::load(dir.path(), Some(6)).unwrap();
        let short = tokenizer.with_max_length(4).unwrap();
        let of = |t: &Tokenizer| t.encode_batch(&["the cat sat the dog"]).unwrap();
        assert_eq!(of(&tokenizer).ids, [[CLS, 4, 5, 6, 4, SEP]]);
        assert_eq!(of(&short).ids, [[CLS, 4, 5, SEP]]);
        assert_eq!((short.max_length(), of(&short).n_truncated), (4, 1));
        for limit in [2, 7] {
            let error = tokenizer.with_max_length(limit).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(
                error.to_string().ends_with("give one from 3 to 6"),
                "{error}"
            );
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let dir = folder(&[]);
        for (limit, says) in [(33, "32 positions"), (2, "no room"), (0, "no room")] {
            let error = error(dir.path(), Some(limit));
            assert!(
                matches!(
                    error,
                    Error::Setting {
                        setting: "max_length",
                        ..
                    }
                ),
                "{error}"
            );
            assert!(error.to_string().contains(says), "{error}");
        }
        for wrong in [json!(0), json!(-3), json!(12.5), json!("12"), json!(true)] {
            for (file, key) in [
                ("sentence_bert_config.json", "max_seq_length"),
                ("tokenizer_config.json", "model_max_length"),
            ] {
                let dir = folder(&[(file, json!({ key: wrong }))]);
                let text = error(dir.path(), None).to_string();
                assert!(text.contains(file) && text.contains(key), "{text}");
            }
        }
        let dir = folder(&[("config.json", json!({}))]);
        assert!(error(dir.path(), None).to_string().contains("ask for one"));
        assert!(Tokenizer::load(dir.path(), Some(64)).is_ok());
    }

    #[test]
    fn prompts_go_before_their_kind_of_text() {
        let file = "config_sentence_transformers.json";
        let ids = |config: Value, kind| {
            let dir = folder(&[(file, config)]);
            let tokenizer = Tokenizer::load(dir.path(), None).unwrap();
            tokenizer.encode_kind(&["cat"], kind).unwrap().ids.remove(0)
        };
        let prompts = json!({"prompts": {"query": "query: ", "document": "the "}});
        assert_eq!(ids(prompts.clone(), TextKind::Query), [CLS, 8, 9, 5, SEP]);
        assert_eq!(ids(prompts.clone(), TextKind::Document), [CLS, 4, 5, SEP]);
        assert_eq!(ids(prompts, TextKind::Plain), [CLS, 5, SEP]);
        // `document` is always there for sentence-transformers 6, so that it never comes to the others.
        let others = json!({"prompts": {"x": "a ", "passage": "the "}, "default_prompt_name": "x"});
        for kind in [TextKind::Query, TextKind::Document, TextKind::Plain] {
            assert_eq!(ids(others.clone(), kind), [CLS, 5, SEP]);
        }
        let dir = folder(&[(file, others.clone())]);
        let notes = Prompts::load(dir.path())
            .unwrap()
            .notes(dir.path())
            .unwrap();
        assert!(
            notes.len() == 1 && notes[0].contains("passage (`the `)"),
            "{notes:?}"
        );
        // Nor does it read them where there are no modules.
        std::fs::remove_file(dir.path().join("modules.json")).unwrap();
        let query = json!({"prompts": {"query": "query: "}});
        std::fs::write(dir.path().join(file), query.to_string()).unwrap();
        assert_eq!(Prompts::load(dir.path()).unwrap(), Prompts::default());
        for none in [
            json!({}),
            json!({"prompts": {"query": null}, "default_prompt_name": null}),
            json!({"default_prompt_name": "query"}),
        ] {
            assert_eq!(ids(none, TextKind::Query), [CLS, 5, SEP]);
        }
        let dir = folder(&[(file, json!({"prompts": {}, "default_prompt_name": "y"}))]);
        assert!(error(dir.path(), None).to_string().contains("`y`"));
        let dir = folder(&[(file, json!({"prompts": {"query": 3}}))]);
        assert!(error(dir.path(), None).to_string().contains("`query`"));
    }

    #[test]
    fn lower_casing_is_done_where_the_folder_asks_for_it() {
        let cased = |lower: bool| {
            let sentence = json!({"max_seq_length": 16, "do_lower_case": lower});
            let dir = folder(&[("sentence_bert_config.json", sentence), as_written()]);
            let path = dir.path().join("tokenizer.json");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(
                &path,
                text.replace("\"lowercase\":true", "\"lowercase\":false"),
            )
            .unwrap();
            let tokenizer = Tokenizer::load(dir.path(), None).unwrap();
            let texts = ["CAT [SEP]"];
            tokenizer.encode_batch(&texts).unwrap().ids.remove(0)
        };
        // A special token stays one.
        assert_eq!(cased(true), [CLS, 5, SEP, SEP]);
        assert_eq!(cased(false), [CLS, 1, SEP, SEP]);
    }

    #[test]
    fn broken_folders_get_one_line_with_the_cure() {
        let empty = tempfile::tempdir().unwrap();
        let text = error(empty.path(), None).to_string();
        assert!(text.contains(empty.path().to_str().unwrap()), "{text}");
        assert!(text.contains("tokenizer.json"), "{text}");

        let dir = folder(&[("tokenizer.json", json!({"version": "1.0"}))]);
        assert!(error(dir.path(), None).to_string().contains("tokenizer"));

        let dir = folder(&[("config.json", json!({"vocab_size": 11}))]);
        let text = error(dir.path(), Some(8)).to_string();
        assert!(text.contains("token id 11"), "{text}");

        let dir = folder(&[]);
        std::fs::write(dir.path().join("config.json"), "{\n\"vocab_size\": }").unwrap();
        let text = error(dir.path(), None).to_string();
        assert!(text.contains("line 2"), "{text}");

        // Without a template there are no special tokens.
        let dir = folder(&[as_written()]);
        let path = dir.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["post_processor"] = Value::Null;
        std::fs::write(&path, json.to_string()).unwrap();
        assert!(
            error(dir.path(), None)
                .to_string()
                .contains("no special tokens")
        );
    }

    #[test]
    fn many_texts_keep_their_order() {
        let dir = folder(&[]);
        let tokenizer = Tokenizer::load(dir.path(), None).unwrap();
        let texts: Vec<String> = (0..500).map(|i| "cat ".repeat(i % 7)).collect();
        let out = tokenizer.encode_batch(&texts).unwrap();
        for (i, ids) in out.ids.iter().enumerate() {
            assert_eq!(ids.len(), 2 + i % 7);
        }
    }
}
