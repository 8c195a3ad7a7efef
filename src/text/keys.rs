//! What becomes of every key of a model folder's files.
//!
//! A model folder is a program, so each of its keys is honoured, refused by name, said aloud, or has no effect on an
//! embedding, and the tables here say which, with the reason. [`check_folder`] decides from them; what honours a key is
//! the code that reads the file ([`crate::model::BertConfig`], [`crate::model::head`], [`super::Tokenizer`]). The keys are those
//! that transformers 5 and sentence-transformers 6 write or read for a BERT. A key that no table has is an error where
//! every key of the file has an effect (a pooling module's, say), and a note on standard error elsewhere.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The names that a sentence configuration may have; the first that says anything counts.
pub const SENTENCE_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// The list of the modules that a model is made of.
pub(crate) const MODULES: &str = "modules.json";

/// What becomes of a key.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// It is done as it says.
    Honoured,
    /// It has no effect on an embedding.
    Irrelevant,
    /// The folder is refused, unless the key is unset or has one of these values (JSON, or a plain string).
    Refused(&'static [&'static str]),
    /// It is said on standard error that it has no effect here, unless it is unset or has one of these values.
    Said(&'static [&'static str]),
    /// An object with a table of its own.
    Nested(&'static Table),
}

/// A key of a file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key, or after `*` the end of keys that no other line names.
    pub name: &'static str,
    /// What becomes of it.
    pub effect: Effect,
    /// Why, or how; of a key that may be refused, as the end of a sentence.
    pub why: &'static str,
}

/// What becomes of a key that a table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It is said on standard error, unless it is unset.
    Noted,
    /// The folder is refused, unless it is unset.
    Fatal,
    /// The folder is refused, whatever the value is: what it overrides may be set.
    Override,
}

/// The keys of a kind of file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// What becomes of other keys.
    pub unknown: Unknown,
    /// All that are known.
    pub keys: &'static [Key],
}

/// One text for a table and for its documentation, so that the latter cannot say anything else.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident, $unknown:ident:
        $($key:literal $effect:ident $(($argument:expr))? $why:literal;)*) => {
        $(#[$doc])*
        ///
        /// | key | what becomes of it | why |
        /// | --- | --- | --- |
        $(#[doc = concat!("| `", $key, "` | ", stringify!($effect), " | ", $why, " |")])*
        pub static $name: Table = Table {
            unknown: Unknown::$unknown,
            keys: &[$(Key {
                name: $key,
                effect: Effect::$effect $(($argument))?,
                why: $why,
            }),*],
        };
    };
}

table! {
    /// `config.json`
    CONFIG, Noted:
    "vocab_size" Honoured "rows of the word table";
    "hidden_size" Honoured "width of the residual stream";
    "num_hidden_layers" Honoured "layers";
    "num_attention_heads" Honoured "heads";
    "intermediate_size" Honoured "inner width of the feed-forward part";
    "max_position_embeddings" Honoured "rows of the position table, and the highest length limit";
    "type_vocab_size" Honoured "rows of the token-type table; a text is of type 0";
    "layer_norm_eps" Honoured "in every layer norm";
    "hidden_dropout_prob" Honoured "by training";
    "attention_probs_dropout_prob" Honoured "by training";
    "tokenizer_class" Honoured "where tokenizer_config.json has none";
    "architectures" Honoured "without modules.json a causal model is pooled by its last token; else the encoder inside the head is taken";
    "model_type" Refused(&["bert"]) "only `bert` encoders are supported";
    "hidden_act" Refused(&["gelu", "gelu_python"]) "only `gelu` (the exact one) is supported";
    "position_embedding_type" Refused(&["absolute"]) "only `absolute` is supported";
    "is_decoder" Refused(&[]) "a decoder's attention sees earlier tokens alone, which is not supported";
    "is_causal" Refused(&[]) "attention to earlier tokens alone is not supported";
    "is_encoder_decoder" Refused(&[]) "only encoders are supported";
    "add_cross_attention" Refused(&[]) "attention to another text is not supported";
    "pruned_heads" Refused(&[]) "layers of different numbers of heads are not supported";
    "quantization_config" Refused(&[]) "quantised weights are not supported; save the model with weights of F32, F16 or BF16";
    "auto_map" Refused(&[]) "the model has code of its own, which is not run here";
    "embedding_size" Refused(&[]) "tables narrower than the residual stream are not supported";
    "dtype" Irrelevant "weights have the type that they have in the file; products are f32 or f16, as the device has them";
    "torch_dtype" Irrelevant "as `dtype`";
    "transformers_version" Irrelevant "of who wrote it";
    "_name_or_path" Irrelevant "of who wrote it";
    "name_or_path" Irrelevant "of who wrote it";
    "_commit_hash" Irrelevant "of who wrote it";
    "_attn_implementation" Irrelevant "how it is computed, not what";
    "attn_implementation" Irrelevant "how it is computed, not what";
    "_attn_implementation_autoset" Irrelevant "how it is computed, not what";
    "initializer_range" Irrelevant "there are weights";
    "initializer_factor" Irrelevant "there are weights";
    "classifier_dropout" Irrelevant "of a task head";
    "num_labels" Irrelevant "of a task head";
    "_num_labels" Irrelevant "of a task head";
    "id2label" Irrelevant "of a task head";
    "label2id" Irrelevant "of a task head";
    "problem_type" Irrelevant "of a task head";
    "finetuning_task" Irrelevant "of a task head";
    "sentence_transformers" Irrelevant "of a cross-encoder's head";
    "task_specific_params" Irrelevant "of a task head";
    "tie_word_embeddings" Irrelevant "of a task head";
    "tie_encoder_decoder" Irrelevant "of a task head";
    "pooler_fc_size" Irrelevant "of the pooler, which no embedding is made with";
    "pooler_num_attention_heads" Irrelevant "of the pooler";
    "pooler_num_fc_layers" Irrelevant "of the pooler";
    "pooler_size_per_head" Irrelevant "of the pooler";
    "pooler_type" Irrelevant "of the pooler";
    "directionality" Irrelevant "of Google's own checkpoints; always `bidi`";
    "pad_token_id" Irrelevant "texts are packed, never padded";
    "bos_token_id" Irrelevant "the tokenizer knows";
    "eos_token_id" Irrelevant "the tokenizer knows";
    "cls_token_id" Irrelevant "the tokenizer knows";
    "sep_token_id" Irrelevant "the tokenizer knows";
    "decoder_start_token_id" Irrelevant "of decoders";
    "cross_attention_hidden_size" Irrelevant "of decoders";
    "use_cache" Irrelevant "of decoders";
    "prefix" Irrelevant "of decoders";
    "gradient_checkpointing" Irrelevant "of another program's training";
    "chunk_size_feed_forward" Irrelevant "how it is computed, not what";
    "output_attentions" Irrelevant "what else is handed out";
    "output_hidden_states" Irrelevant "what else is handed out";
    "output_past" Irrelevant "what else is handed out";
    "return_dict" Irrelevant "in what it is handed out";
    "torchscript" Irrelevant "how it is computed, not what";
    "use_bfloat16" Irrelevant "as `dtype`";
    "model_max_length" Irrelevant "the tokenizer's is read";
    "language" Irrelevant "of who wrote it";
    "name" Irrelevant "of who wrote it";
    "max_length" Irrelevant "of generation";
    "min_length" Irrelevant "of generation";
    "do_sample" Irrelevant "of generation";
    "num_beams" Irrelevant "of generation";
    "temperature" Irrelevant "of generation";
    "top_k" Irrelevant "of generation";
    "top_p" Irrelevant "of generation";
    "repetition_penalty" Irrelevant "of generation";
    "length_penalty" Irrelevant "of generation";
    "no_repeat_ngram_size" Irrelevant "of generation";
    "num_return_sequences" Irrelevant "of generation";
}

table! {
    /// `tokenizer_config.json`
    TOKENIZER_CONFIG, Noted:
    "tokenizer_class" Honoured "a BertTokenizer and an XLMRobertaTokenizer are made of their vocabulary and this file, others as tokenizer.json says";
    "do_lower_case" Honoured "of a BertTokenizer, whatever tokenizer.json says; true where it is not said";
    "strip_accents" Honoured "of a BertTokenizer, whatever tokenizer.json says";
    "tokenize_chinese_chars" Honoured "of a BertTokenizer, whatever tokenizer.json says";
    "cls_token" Honoured "of a BertTokenizer before every text; of any one a special token";
    "sep_token" Honoured "of a BertTokenizer behind every text; of any one a special token";
    "unk_token" Honoured "of a BertTokenizer what stands for the unknown; of any one a special token";
    "pad_token" Honoured "a special token";
    "mask_token" Honoured "a special token";
    "bos_token" Honoured "of an XLMRobertaTokenizer before every text; of any one a special token";
    "eos_token" Honoured "of an XLMRobertaTokenizer behind every text; of any one a special token";
    "additional_special_tokens" Honoured "special tokens, where there are no `extra_special_tokens`";
    "extra_special_tokens" Honoured "special tokens";
    "added_tokens_decoder" Honoured "tokens that are taken whole, with flags that count before those of tokenizer.json";
    "model_max_length" Honoured "the length limit, where sentence_bert_config.json has none";
    "max_len" Honoured "as `model_max_length`, where that is not there";
    "truncation_side" Honoured "the end at which long texts are cut";
    "split_special_tokens" Honoured "whether special tokens in a text are cut up like words";
    "auto_map" Refused(&[]) "the tokenizer has code of its own, which is not run here";
    "add_bos_token" Irrelevant "a BertTokenizer has `cls_token`";
    "add_eos_token" Irrelevant "a BertTokenizer has `sep_token`";
    "add_prefix_space" Honoured "of an XLMRobertaTokenizer; of others tokenizer.json knows";
    "clean_up_tokenization_spaces" Irrelevant "of decoding";
    "do_basic_tokenize" Irrelevant "of a tokenizer that transformers 5 has no more";
    "never_split" Irrelevant "of a tokenizer that transformers 5 has no more";
    "wordpieces_prefix" Irrelevant "of training a tokenizer";
    "clean_text" Irrelevant "a BertTokenizer always does";
    "padding_side" Irrelevant "texts are packed, never padded";
    "pad_to_multiple_of" Irrelevant "texts are packed, never padded";
    "pad_token_type_id" Irrelevant "texts are packed, never padded";
    "padding" Irrelevant "texts are packed, never padded";
    "max_length" Irrelevant "of truncation that is not asked for";
    "stride" Irrelevant "of what was cut off";
    "truncation" Irrelevant "texts are always cut at the limit";
    "truncation_strategy" Irrelevant "a single text is cut the same by all";
    "model_input_names" Honoured "must have `attention_mask`; with `token_type_ids` a text must be all of type 0";
    "model_specific_special_tokens" Honoured "special tokens";
    "special_tokens_map_file" Irrelevant "of who wrote it";
    "tokenizer_file" Irrelevant "of who wrote it";
    "full_tokenizer_file" Irrelevant "of who wrote it";
    "vocab_file" Irrelevant "of who wrote it";
    "merges_file" Irrelevant "of who wrote it";
    "name_or_path" Irrelevant "of who wrote it";
    "from_slow" Irrelevant "of who wrote it";
    "is_local" Irrelevant "of who wrote it";
    "local_files_only" Irrelevant "of who wrote it";
    "backend" Irrelevant "of who wrote it";
    "use_fast" Irrelevant "of who wrote it";
    "legacy" Irrelevant "of who wrote it";
    "processor_class" Irrelevant "of other modalities";
    "chat_template" Irrelevant "a sentence is no conversation";
    "sp_model_kwargs" Irrelevant "tokenizer.json knows";
    "trust_remote_code" Irrelevant "no code of a folder is run";
    "verbose" Irrelevant "of another program's output";
    "*_token" Honoured "a special token under a name of the model's own";
}

table! {
    /// `special_tokens_map.json`
    SPECIAL_TOKENS_MAP, Noted:
    "cls_token" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "sep_token" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "unk_token" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "pad_token" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "mask_token" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "bos_token" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "eos_token" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "additional_special_tokens" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "extra_special_tokens" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "model_specific_special_tokens" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
    "*_token" Honoured "as in tokenizer_config.json, unless that has `added_tokens_decoder`";
}

table! {
    /// `sentence_bert_config.json`, or one of the older names of it ([`SENTENCE_CONFIGS`])
    SENTENCE_CONFIG, Fatal:
    "max_seq_length" Honoured "the length limit";
    "do_lower_case" Honoured "lower-cases texts before anything else does something to them";
    "processor_kwargs" Nested(&PROCESSOR_KWARGS) "what the tokenizer is made with";
    "tokenizer_args" Nested(&PROCESSOR_KWARGS) "the older name of `processor_kwargs`";
    "model_kwargs" Nested(&MODEL_KWARGS) "what the encoder is made with";
    "model_args" Nested(&MODEL_KWARGS) "the older name of `model_kwargs`";
    "config_kwargs" Nested(&CONFIG_KWARGS) "what the sizes are changed by";
    "config_args" Nested(&CONFIG_KWARGS) "the older name of `config_kwargs`";
    "transformer_task" Refused(&["feature-extraction"]) "only `feature-extraction` makes embeddings";
    "modality_config" Refused(&[r#"{"text": {"method": "forward", "method_output_name": "last_hidden_state"}}"#])
        "only texts are supported, by the last layer's output";
    "module_output_name" Refused(&["token_embeddings"]) "only `token_embeddings` are pooled";
    "processing_kwargs" Refused(&[]) "texts are processed in the one way";
    "tokenizer_name_or_path" Refused(&[]) "put the tokenizer's files into the model folder";
    "query_length" Refused(&[]) "a limit for queries alone is not supported";
    "document_length" Refused(&[]) "a limit for documents alone is not supported";
    "query_expansion" Refused(&[]) "queries with more tokens than their own are not supported";
    "unpad_inputs" Irrelevant "texts are packed, never padded";
}

table! {
    /// `processor_kwargs` of `sentence_bert_config.json`
    PROCESSOR_KWARGS, Override:
    "model_max_length" Honoured "the length limit, before `max_seq_length`";
    "use_fast" Irrelevant "of who wrote it";
    "trust_remote_code" Irrelevant "no code of a folder is run";
    "padding_side" Irrelevant "texts are packed, never padded";
    "clean_up_tokenization_spaces" Irrelevant "of decoding";
}

table! {
    /// `model_kwargs` of `sentence_bert_config.json`
    MODEL_KWARGS, Override:
    "dtype" Irrelevant "as in config.json";
    "torch_dtype" Irrelevant "as in config.json";
    "attn_implementation" Irrelevant "how it is computed, not what";
    "device_map" Irrelevant "where it is computed, not what";
    "low_cpu_mem_usage" Irrelevant "how it is read";
    "use_safetensors" Irrelevant "no other weights are read";
    "add_pooling_layer" Irrelevant "no embedding is made with it";
    "trust_remote_code" Irrelevant "no code of a folder is run";
}

table! {
    /// `config_kwargs` of `sentence_bert_config.json`
    CONFIG_KWARGS, Override:
    "use_cache" Irrelevant "of decoders";
    "trust_remote_code" Irrelevant "no code of a folder is run";
    "attn_implementation" Irrelevant "how it is computed, not what";
}

table! {
    /// `config_sentence_transformers.json`
    SENTENCE_TRANSFORMERS, Noted:
    "prompts" Honoured "`query` before queries, `document` before documents";
    "truncate_dim" Honoured "embeddings are cut to this width, after all modules";
    "model_type" Refused(&["SentenceTransformer"]) "only a `SentenceTransformer` makes one embedding of a text";
    "default_prompt_name" Said(&["query", "document"])
        "sentence-transformers puts it before neither queries nor documents, which have prompts of their own";
    "similarity_fn_name" Said(&["cosine"]) "embeddings are compared by their cosine here";
    "requirements" Irrelevant "of who wrote it";
    "__version__" Irrelevant "of who wrote it";
}

table! {
    /// An entry of `modules.json`
    MODULE, Noted:
    "type" Honoured "what the module does; a class of sentence-transformers, where it has it";
    "path" Honoured "the folder of the module; that of the encoder is the model folder itself";
    "name" Honoured "no two modules may have the same";
    "idx" Irrelevant "modules run in the order of the list";
    "kwargs" Refused(&[]) "modules that are told more than the text are not supported";
}

table! {
    /// `config.json` of a module of type `Pooling`
    POOLING, Fatal:
    "pooling_mode" Honoured "one or several modes, one behind the other";
    "pooling_mode_cls_token" Honoured "unless there is `pooling_mode`";
    "pooling_mode_max_tokens" Honoured "unless there is `pooling_mode`";
    "pooling_mode_mean_tokens" Honoured "unless there is `pooling_mode`";
    "pooling_mode_mean_sqrt_len_tokens" Honoured "unless there is `pooling_mode`";
    "pooling_mode_weightedmean_tokens" Honoured "unless there is `pooling_mode`";
    "pooling_mode_lasttoken" Honoured "unless there is `pooling_mode`";
    "include_prompt" Honoured "false (null, zero) is refused for a model that has prompts, and has no effect on one that has none";
    "embedding_dimension" Irrelevant "the width is that of the encoder";
    "word_embedding_dimension" Irrelevant "the older name of `embedding_dimension`";
}

table! {
    /// `config.json` of a module of type `Dense`
    DENSE, Fatal:
    "in_features" Honoured "must be the width before it";
    "out_features" Honoured "the width after it";
    "bias" Honoured "true where it is not said";
    "activation_function" Honoured "one of torch's: Identity, Tanh, ReLU, Sigmoid, GELU, SiLU; Tanh where it is not said";
    "use_residual" Honoured "adds what comes in, through `residual.weight` where the widths differ";
    "module_input_name" Refused(&["sentence_embedding"]) "only sentence embeddings are projected";
    "module_output_name" Refused(&["sentence_embedding"]) "only the sentence embedding is handed on";
}

table! {
    /// `config.json` of a module of type `Normalize`
    NORMALIZE, Fatal:
    "module_input_name" Refused(&["sentence_embedding"]) "only sentence embeddings are normalised";
    "module_output_name" Refused(&["sentence_embedding"]) "only the sentence embedding is handed on";
}

table! {
    /// `config.json` of a module of type `LayerNorm`
    LAYER_NORM, Fatal:
    "dimension" Honoured "must be the width before it";
}

table! {
    /// `config.json` of a module of type `Dropout`
    DROPOUT, Fatal:
    "dropout" Irrelevant "nothing is dropped outside a training";
}

/// Whether a value says nothing: null, false, zero, or empty.
pub(crate) fn unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Whether a value is one of `values`.
fn is_one(value: &Value, values: &[&str]) -> bool {
    let is = |text: &str| {
        value == text || serde_json::from_str::<Value>(text).is_ok_and(|v| v == *value)
    };
    values.iter().any(|text| is(text))
}

/// A value on one line, cut where it is long.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Holds the keys of an object in the file `path` to their table; what is to be said goes to `notes`.
///
/// # Errors
/// [`Error::Input`] for a key that is refused.
pub(crate) fn check(
    path: &Path,
    object: &Map<String, Value>,
    table: &Table,
    notes: &mut Vec<String>,
) -> Result<()> {
    let says = |value: &Value| table.unknown == Unknown::Override || !unset(value);
    for (name, value) in object.iter().filter(|(_, value)| says(value)) {
        let refuse = |why: &str| {
            Err(Error::input(
                path,
                format!("{name} is `{}`; {why}", shown(value)),
            ))
        };
        let mut say = |why: &str| {
            notes.push(format!(
                "{}: {name} is `{}`; {why}",
                path.display(),
                shown(value)
            ));
        };
        let is = |key: &&Key| match key.name.strip_prefix('*') {
            Some(end) => name.ends_with(end),
            None => key.name == name,
        };
        let Some(key) = table.keys.iter().find(is) else {
            match table.unknown {
                Unknown::Noted => say("the key is not known here and has no effect"),
                Unknown::Fatal | Unknown::Override => {
                    return refuse(
                        "the key is not known here, and each one in this file has an effect; remove it if it has none",
                    );
                }
            }
            continue;
        };
        match key.effect {
            Effect::Honoured | Effect::Irrelevant => {}
            Effect::Refused(but) if is_one(value, but) => {}
            Effect::Refused(_) => return refuse(key.why),
            Effect::Said(but) if is_one(value, but) => {}
            Effect::Said(_) => say(key.why),
            Effect::Nested(table) => match value {
                Value::Object(inner) => check(path, inner, table, notes)?,
                _ => return refuse("it must be an object"),
            },
        }
    }
    Ok(())
}

/// A JSON object; `None` where there is no such file.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Input`] if it is no JSON object.
pub(crate) fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::input(path, format!("not the expected JSON: {e}")))
}

/// Whether the model folder says of which modules it is made; without, sentence-transformers reads no settings of its own.
pub(crate) fn has_modules(folder: &Path) -> bool {
    folder.join(MODULES).exists()
}

/// The name of the sentence configuration that counts, if there is one.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Input`] if it is no JSON object.
pub(crate) fn sentence_config(folder: &Path) -> Result<Option<&'static str>> {
    for name in SENTENCE_CONFIGS {
        if object(&folder.join(name))?.is_some_and(|keys| !keys.is_empty()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Holds the files of a model folder to their tables, module folders aside ([`crate::model::head`] reads those); returns what is to be
/// said.
///
/// # Errors
/// [`Error::Input`] for a key that is refused, or a file that is no JSON object.
pub fn check_folder(folder: &Path) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut check_file = |name: &str, table: &Table| -> Result<()> {
        let path = folder.join(name);
        match object(&path)? {
            Some(keys) => check(&path, &keys, table, &mut notes),
            None => Ok(()),
        }
    };
    check_file("config.json", &CONFIG)?;
    check_file("tokenizer_config.json", &TOKENIZER_CONFIG)?;
    check_file("special_tokens_map.json", &SPECIAL_TOKENS_MAP)?;
    if has_modules(folder) {
        check_file("config_sentence_transformers.json", &SENTENCE_TRANSFORMERS)?;
        if let Some(name) = sentence_config(folder)? {
            check_file(name, &SENTENCE_CONFIG)?;
        }
    } else {
        let ignored = ["config_sentence_transformers.json"];
        let ignored = ignored.into_iter().chain(SENTENCE_CONFIGS);
        notes.extend(
            ignored
                .filter(|name| folder.join(name).exists())
                .map(|name| {
                    format!(
                        "{}: not read, since the folder has no modules.json",
                        folder.join(name).display()
                    )
                }),
        );
    }
    Ok(notes)
}

/// Says notes on standard error, each once in a process.
pub(crate) fn say(notes: Vec<String>) {
    static SAID: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let mut said = SAID.lock().unwrap_or_else(|p| p.into_inner());
    for note in notes {
        if !said.contains(&note) {
            let _ = writeln!(std::io::stderr(), "note: {note}");
            said.insert(note);
        }
    }
}
