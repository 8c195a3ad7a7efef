//! The vocabulary and the rules of a tokenizer, as transformers 5 puts them together from the files of a model folder.
//!
//! Which files count depends on the class that `tokenizer_config.json` names, or `config.json` where it names none, or
//! BertTokenizer where neither does. A BertTokenizer takes its vocabulary and added tokens from `tokenizer.json` (or
//! `vocab.txt`) and everything else from `tokenizer_config.json`: lower-casing unless it says `do_lower_case: false`,
//! accents, Chinese characters, the special tokens around a text and the one for the unknown. What `tokenizer.json` says
//! of these is not read, so that a cased vocabulary without `do_lower_case: false` is lower-cased all the same. An
//! XLMRobertaTokenizer takes its pieces and their table of characters, and has all else fixed; classes with other rules are
//! refused. Any other class does what `tokenizer.json` says. Special tokens of `tokenizer_config.json` are taken whole where a text has
//! them, whatever the class.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, Lowercase, NormalizerWrapper, Sequence};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as Splitters;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, Model, PostProcessorWrapper, PreTokenizerWrapper, TruncationDirection,
};

use super::keys;
use super::one_line;
use crate::error::{Error, Result};

/// Classes that transformers builds as it builds a BertTokenizer.
const BERT_CLASSES: [&str; 10] = [
    "BertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
];

/// The class that transformers builds of a vocabulary of sentence pieces, as multilingual models have it.
const SENTENCE_PIECES: &str = "XLMRobertaTokenizer";

/// Classes with rules of their own, which are in no file.
const OTHER_CLASSES: [&str; 78] = [
    "AlbertTokenizer",
    "BartTokenizer",
    "BarthezTokenizer",
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "BigBirdTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "BlenderbotTokenizer",
    "ByT5Tokenizer",
    "CLIPTokenizer",
    "CTRLTokenizer",
    "CamembertTokenizer",
    "CanineTokenizer",
    "ClvpTokenizer",
    "CodeLlamaTokenizer",
    "CohereTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "DiaTokenizer",
    "EsmTokenizer",
    "EsmcTokenizer",
    "FSMTTokenizer",
    "FlaubertTokenizer",
    "FunnelTokenizer",
    "GPT2Tokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTNeoXTokenizer",
    "GemmaTokenizer",
    "HerbertTokenizer",
    "LEDTokenizer",
    "LasrTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LlamaTokenizer",
    "LukeTokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MPNetTokenizer",
    "MarkupLMTokenizer",
    "MgpstrTokenizer",
    "MvpTokenizer",
    "MyT5Tokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PLBartTokenizer",
    "PegasusTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "Qwen2Tokenizer",
    "Qwen3_5Tokenizer",
    "RagTokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RoCBertTokenizer",
    "RoFormerTokenizer",
    "RobertaTokenizer",
    "SeamlessM4TTokenizer",
    "Siglip2Tokenizer",
    "SplinterTokenizer",
    "T5Tokenizer",
    "TapasTokenizer",
    "UdopTokenizer",
    "VideoPrismTokenizer",
    "VitsTokenizer",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2PhonemeCTCTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMTokenizer",
    "XLNetTokenizer",
];

/// The special tokens that have a name, what a BertTokenizer calls them, and what one of sentence pieces does.
const NAMED: [(&str, Option<&str>, &str); 7] = [
    ("bos_token", None, "<s>"),
    ("eos_token", None, "</s>"),
    ("unk_token", Some("[UNK]"), "<unk>"),
    ("sep_token", Some("[SEP]"), "</s>"),
    ("pad_token", Some("[PAD]"), "<pad>"),
    ("cls_token", Some("[CLS]"), "<s>"),
    ("mask_token", Some("[MASK]"), "<mask>"),
];

/// Further special tokens: a list, or an object of names and tokens. The second counts where the first is empty.
const FURTHER: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// An object of further special tokens.
const NAMED_BY_MODEL: &str = "model_specific_special_tokens";

/// The letters of a word above which a vocabulary of word pieces is refused: looking for the pieces takes their square.
const MOST_LETTERS: usize = 1000;

/// Vocabulary and rules.
pub(super) struct Rules {
    /// Without padding and truncation.
    pub inner: tokenizers::Tokenizer,
    /// The end at which long texts are cut.
    pub direction: TruncationDirection,
    /// The file that has the vocabulary.
    pub path: PathBuf,
}

/// Reads the rules of the tokenizer in `folder`, whose model has `vocab` words (if that is known).
///
/// # Errors
/// [`Error::Io`] and [`Error::Input`] naming the file, for one that is missing, cannot be parsed, or asks for what is not
/// done here.
pub(super) fn read(folder: &Path, vocab: Option<usize>) -> Result<Rules> {
    let settings = Settings::read(folder)?;
    if OTHER_CLASSES.contains(&&*settings.class) {
        return Err(settings.fault(
            "tokenizer_class",
            "this class has rules of its own, which are not known here; save the tokenizer as a PreTrainedTokenizerFast",
        ));
    }
    masked(&settings)?;
    let is_bert = settings.kind == Kind::Bert;
    let (mut inner, path) = vocabulary(folder, is_bert)?;
    let fail = |e: tokenizers::Error| Error::input(&path, one_line(&e.to_string()));
    let direction = match settings.text("truncation_side")? {
        Some("left") => TruncationDirection::Left,
        Some("right") => TruncationDirection::Right,
        Some(_) => return Err(settings.fault("truncation_side", "it must be left or right")),
        None => inner
            .get_truncation()
            .map_or(TruncationDirection::Right, |t| t.direction),
    };
    inner.with_padding(None);
    inner.with_truncation(None).map_err(fail)?;
    match settings.kind {
        Kind::Bert => as_bert(&mut inner, &settings, &path)?,
        Kind::SentencePieces => as_sentence_pieces(&mut inner, &settings, &path)?,
        Kind::Written => bounded(&inner, &path)?,
    }
    for (token, overrides) in settings.added_tokens(folder)? {
        let has = inner.get_added_tokens_decoder();
        let known = |known: &AddedToken| match overrides {
            true => *known == token,
            false => known.content == token.content,
        };
        if has.values().any(known) {
            continue;
        }
        // One that gets a number beyond the model's words is none of its words.
        let known = inner.token_to_id(&token.content).is_some();
        if known || vocab.is_none_or(|vocab| inner.get_vocab_size(true) < vocab) {
            inner.add_tokens([token]).map_err(fail)?;
        }
    }
    // These may be among the tokens that were added.
    match settings.kind {
        Kind::Bert => with_tokens_around(&mut inner, &settings, ["cls_token", "sep_token"])?,
        Kind::SentencePieces => {
            with_tokens_around(&mut inner, &settings, ["bos_token", "eos_token"])?;
        }
        Kind::Written => one_type(&inner, &settings, &path)?,
    }
    if settings.flag("split_special_tokens", Some(false))? == Some(true) {
        inner.set_encode_special_tokens(true);
    }
    Ok(Rules {
        inner,
        direction,
        path,
    })
}

/// What is done to a text before it is cut up, one after the other.
pub(super) fn normalizers(inner: &tokenizers::Tokenizer) -> Vec<NormalizerWrapper> {
    match inner.get_normalizer().cloned() {
        None => Vec::new(),
        Some(NormalizerWrapper::Sequence(all)) => all.into_iter().collect(),
        Some(one) => vec![one],
    }
}

/// Makes lower-casing the first thing that is done to a text, unless it is among what is done already.
pub(super) fn lower_case_first(inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
    let mut all = normalizers(inner);
    let lowers =
        |normalizer: &NormalizerWrapper| matches!(normalizer, NormalizerWrapper::Lowercase(_));
    if !all.iter().any(lowers) {
        all.insert(0, Lowercase.into());
        inner.with_normalizer(Some(Sequence::new(all)))?;
    }
    Ok(())
}

/// The tokenizer of `tokenizer.json`, or for a BertTokenizer one with the words of `vocab.txt`; and the file.
fn vocabulary(folder: &Path, is_bert: bool) -> Result<(tokenizers::Tokenizer, PathBuf)> {
    let path = folder.join("tokenizer.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let words = folder.join("vocab.txt");
            if is_bert && words.is_file() {
                return Ok((of_words(&words)?, words));
            }
            return Err(Error::input(
                folder,
                "has no tokenizer.json; give a folder that holds a whole model, or save its fast tokenizer there (`save_pretrained` of transformers writes the file)",
            ));
        }
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| {
        Error::input(
            &path,
            format!(
                "not a tokenizer that can be read ({}); save the model's fast tokenizer again",
                one_line(&e.to_string())
            ),
        )
    })?;
    Ok((inner, path))
}

/// A tokenizer of word pieces, one a line, that has no rules yet.
fn of_words(path: &Path) -> Result<tokenizers::Tokenizer> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    if text.is_empty() {
        return Err(Error::input(path, "is empty; fetch the model again"));
    }
    let model = WordPiece::from_file(&path.to_string_lossy())
        .build()
        .map_err(|e| Error::input(path, one_line(&e.to_string())))?;
    Ok(tokenizers::Tokenizer::new(model))
}

/// Gives a tokenizer of word pieces the rules of a BertTokenizer. What it has already stays, so that its fingerprint does.
fn as_bert(inner: &mut tokenizers::Tokenizer, settings: &Settings, path: &Path) -> Result<()> {
    let fail = |e: tokenizers::Error| Error::input(path, one_line(&e.to_string()));
    let unknown = settings
        .special("unk_token")?
        .expect("it has a default")
        .content;
    let ModelWrapper::WordPiece(model) = inner.get_model() else {
        return Err(settings.fault(
            "tokenizer_class",
            "tokenizer.json has no word pieces, as this class does; the two files belong to different models",
        ));
    };
    let wanted = (unknown.as_str(), "##", 100);
    let has = (
        &*model.unk_token,
        &*model.continuing_subword_prefix,
        model.max_input_chars_per_word,
    );
    if has != wanted {
        let mut model = model.clone();
        model.unk_token = unknown;
        (
            model.continuing_subword_prefix,
            model.max_input_chars_per_word,
        ) = ("##".into(), 100);
        inner.with_model(model);
    }
    let normalizer = NormalizerWrapper::from(BertNormalizer::new(
        true,
        settings
            .flag("tokenize_chinese_chars", Some(true))?
            .unwrap_or(true),
        settings.flag("strip_accents", None)?,
        settings.flag("do_lower_case", Some(true))?.unwrap_or(true),
    ));
    if written(&inner.get_normalizer()) != written(&Some(&normalizer)) {
        inner.with_normalizer(Some(normalizer)).map_err(fail)?;
    }
    let splitter = PreTokenizerWrapper::from(BertPreTokenizer);
    if inner.get_pre_tokenizer() != Some(&splitter) {
        inner.with_pre_tokenizer(Some(splitter));
    }
    Ok(())
}

/// Gives a tokenizer of sentence pieces the rules of an XLMRobertaTokenizer: of its normaliser a table of characters is all
/// that counts.
fn as_sentence_pieces(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
    path: &Path,
) -> Result<()> {
    let fail = |e: tokenizers::Error| Error::input(path, one_line(&e.to_string()));
    let ModelWrapper::Unigram(model) = inner.get_model() else {
        return Err(settings.fault(
            "tokenizer_class",
            "tokenizer.json has no sentence pieces, as this class does; the two files belong to different models",
        ));
    };
    // No piece has this character, which stands for none.
    let unknown = model.tokenize("\u{10ffff}").unwrap_or_default();
    if model.byte_fallback() || unknown.iter().all(|piece| piece.id != 3) {
        return Err(settings.fault(
            "tokenizer_class",
            "of this class piece 3 stands for what is unknown, and tokenizer.json says otherwise; save the tokenizer as a PreTrainedTokenizerFast",
        ));
    }
    let all = normalizers(inner);
    let is_table = |one: &NormalizerWrapper| matches!(one, NormalizerWrapper::Precompiled(_));
    if !all.iter().all(is_table) || all.len() > 1 {
        let table = all.into_iter().find(is_table);
        inner.with_normalizer(table).map_err(fail)?;
    }
    let prepends = match settings.flag("add_prefix_space", Some(true))? {
        Some(false) => PrependScheme::Never,
        _ => PrependScheme::Always,
    };
    let splitter = PreTokenizerWrapper::from(Splitters::new(vec![
        WhitespaceSplit.into(),
        Metaspace::new('\u{2581}', prepends, true).into(),
    ]));
    if inner.get_pre_tokenizer() != Some(&splitter) {
        inner.with_pre_tokenizer(Some(splitter));
    }
    Ok(())
}

/// Refuses word pieces that take longer to find than anybody waits.
fn bounded(inner: &tokenizers::Tokenizer, path: &Path) -> Result<()> {
    match inner.get_model() {
        ModelWrapper::WordPiece(model) if model.max_input_chars_per_word > MOST_LETTERS => {
            Err(Error::input(
                path,
                format!(
                    "max_input_chars_per_word is {}, and the pieces of such a word take its square to find; write {MOST_LETTERS} or less (100 is usual)",
                    model.max_input_chars_per_word
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// Refuses inputs of the model by which it would see padding.
fn masked(settings: &Settings) -> Result<()> {
    match settings.names_of_inputs() {
        Some(names) if !names.contains(&"attention_mask") => Err(settings.fault(
            "model_input_names",
            "without attention_mask a text's numbers depend on how long others are; add it",
        )),
        _ => Ok(()),
    }
}

/// Refuses a post-processor by which a text has tokens of another type than the first, if the model is given types.
fn one_type(inner: &tokenizers::Tokenizer, settings: &Settings, path: &Path) -> Result<()> {
    let names = settings.names_of_inputs().unwrap_or_default();
    if !names.contains(&"token_type_ids") {
        return Ok(());
    }
    let some = inner
        .encode_fast("a", true)
        .map_err(|e| Error::input(path, one_line(&e.to_string())))?;
    if some.get_type_ids().iter().any(|&of| of != 0) {
        return Err(Error::input(
            path,
            "its post_processor gives a text tokens of a type that is not 0, which is not supported; write type_id 0",
        ));
    }
    Ok(())
}

/// Puts the special tokens of these names around every text.
fn with_tokens_around(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
    names: [&str; 2],
) -> Result<()> {
    let around = around(inner, settings, names)?;
    let of_single = |post: Option<&PostProcessorWrapper>| {
        let post = written(&post);
        (post["single"].clone(), post["special_tokens"].clone())
    };
    if of_single(inner.get_post_processor()) != of_single(Some(&around)) {
        inner.with_post_processor(Some(around));
    }
    Ok(())
}

/// What is put around a text: the tokens of these names.
fn around(
    inner: &tokenizers::Tokenizer,
    settings: &Settings,
    names: [&str; 2],
) -> Result<PostProcessorWrapper> {
    let mut tokens = Vec::new();
    for key in names {
        let token = settings.special(key)?.expect("it has a default").content;
        let Some(id) = inner.token_to_id(&token) else {
            return Err(Error::input(
                &settings.path,
                format!(
                    "{key} is `{token}`, which is not in the vocabulary; the files belong to different models"
                ),
            ));
        };
        tokens.push((token, id));
    }
    let [before, behind] = [&tokens[0].0, &tokens[1].0];
    let made = (TemplateProcessing::builder())
        .try_single(format!("{before}:0 $A:0 {behind}:0"))
        .and_then(|builder| builder.try_pair(format!("{before}:0 $A:0 {behind}:0 $B:1 {behind}:1")))
        .map_err(|e| e.to_string())
        .and_then(|builder| {
            builder
                .special_tokens(tokens.clone())
                .build()
                .map_err(|e| e.to_string())
        });
    let made = made.map_err(|e| {
        let what = format!(
            "{} `{before}` and {} `{behind}` cannot be put around a text: {}",
            names[0],
            names[1],
            one_line(&e)
        );
        Error::input(&settings.path, what)
    })?;
    Ok(made.into())
}

/// As it stands in a `tokenizer.json`.
fn written(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or(Value::Null)
}

/// Whose rules a tokenizer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Those of a BertTokenizer.
    Bert,
    /// Those of an XLMRobertaTokenizer.
    SentencePieces,
    /// Those of `tokenizer.json`.
    Written,
}

/// `tokenizer_config.json`, with what an old `special_tokens_map.json` adds.
struct Settings {
    path: PathBuf,
    keys: Map<String, Value>,
    /// The class, without the `Fast` that its name may end in.
    class: String,
    kind: Kind,
}

impl Settings {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        let mut keys = keys::object(&path)?.unwrap_or_default();
        if !keys.contains_key("added_tokens_decoder") {
            let map = keys::object(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
            for (key, mut value) in map {
                // Of lists both count.
                if key == FURTHER[0]
                    && let (Some(Value::Array(more)), Value::Array(all)) =
                        (keys.get_mut(&key), &mut value)
                {
                    more.append(all);
                    continue;
                }
                keys.insert(key, value);
            }
        }
        let config = keys::object(&folder.join("config.json"))?.unwrap_or_default();
        let class = |keys: &Map<String, Value>| {
            let class = keys.get("tokenizer_class")?.as_str()?;
            Some(class.strip_suffix("Fast").unwrap_or(class).to_string())
        };
        let class = class(&keys)
            .or_else(|| class(&config))
            .unwrap_or(BERT_CLASSES[0].into());
        let kind = match &*class {
            SENTENCE_PIECES => Kind::SentencePieces,
            class if BERT_CLASSES.contains(&class) => Kind::Bert,
            _ => Kind::Written,
        };
        Ok(Settings {
            path,
            keys,
            class,
            kind,
        })
    }

    fn fault(&self, key: &str, why: &str) -> Error {
        let value = match self.keys.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            // The class may come from elsewhere.
            None => self.class.clone(),
        };
        Error::input(&self.path, format!("{key} is `{value}`; {why}"))
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.fault(key, "it must be a string")),
        }
    }

    /// A flag; `None` where it may be null and is.
    fn flag(&self, key: &str, default: Option<bool>) -> Result<Option<bool>> {
        match self.keys.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::Null) if default.is_none() => Ok(None),
            Some(_) => Err(self.fault(key, "it must be true or false")),
        }
    }

    /// What the model is given, if it is said.
    fn names_of_inputs(&self) -> Option<Vec<&str>> {
        let names = self.keys.get("model_input_names")?.as_array()?;
        Some(names.iter().filter_map(Value::as_str).collect())
    }

    /// A special token by its name.
    fn special(&self, key: &str) -> Result<Option<AddedToken>> {
        match self.keys.get(key) {
            Some(value) if !value.is_null() => token(value, true)
                .map(Some)
                .ok_or_else(|| self.fault(key, "it must be a token")),
            _ => {
                let named = NAMED.iter().find(|(name, ..)| *name == key);
                let default = named.and_then(|&(_, of_bert, of_pieces)| match self.kind {
                    Kind::Bert => of_bert,
                    Kind::SentencePieces => Some(of_pieces),
                    Kind::Written => None,
                });
                Ok(default.map(|content| AddedToken::from(content, true)))
            }
        }
    }

    /// All special tokens: those of the names that every tokenizer has, of names of the model's own, and without any.
    fn special_tokens(&self) -> Result<Vec<AddedToken>> {
        let mut special = Vec::new();
        for (key, ..) in NAMED {
            special.extend(self.special(key)?);
        }
        let is_known = |key: &str| NAMED.iter().any(|(name, ..)| *name == key);
        for (key, value) in &self.keys {
            if key.ends_with("_token") && !is_known(key) {
                special.extend(token(value, true));
            }
        }
        let says = |key: &&str| match self.keys.get(*key) {
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(named)) => !named.is_empty(),
            Some(value) => !value.is_null(),
            None => false,
        };
        let further = FURTHER.iter().find(|key| says(key));
        let by_model = Some(&NAMED_BY_MODEL).filter(|key| says(key));
        for key in further.into_iter().chain(by_model) {
            let values: Vec<&Value> = match self.keys.get(*key) {
                Some(Value::Array(list)) => list.iter().collect(),
                Some(Value::Object(named)) => named.values().collect(),
                _ => return Err(self.fault(key, "it must be a list of tokens")),
            };
            for value in values {
                let token = token(value, true);
                special.push(token.ok_or_else(|| self.fault(key, "it must be a list of tokens"))?);
            }
        }
        Ok(special)
    }

    /// Tokens that are taken whole, those with numbers first; and whether one counts where the vocabulary has it with other flags.
    fn added_tokens(&self, folder: &Path) -> Result<Vec<(AddedToken, bool)>> {
        let special = self.special_tokens()?;
        let overrides = matches!(
            self.keys.get("added_tokens_decoder"),
            Some(Value::Object(_))
        );
        let mut numbered: Vec<(u64, AddedToken)> = Vec::new();
        match self.keys.get("added_tokens_decoder") {
            Some(Value::Object(tokens)) => {
                for (id, value) in tokens {
                    let found = id.parse().ok().zip(token(value, false));
                    numbered.push(found.ok_or_else(|| {
                        self.fault(
                            "added_tokens_decoder",
                            "it must have a token for every number",
                        )
                    })?);
                }
            }
            None | Some(Value::Null) => {
                let path = folder.join("added_tokens.json");
                for (content, id) in keys::object(&path)?.unwrap_or_default() {
                    let is_special = special.iter().any(|token| token.content == content);
                    let id = id.as_u64().ok_or_else(|| {
                        Error::input(
                            &path,
                            format!("{content:?} is `{id}`; it must have a number"),
                        )
                    })?;
                    numbered.push((id, AddedToken::from(content, is_special)));
                }
            }
            Some(_) => return Err(self.fault("added_tokens_decoder", "it must be an object")),
        }
        numbered.sort_by_key(|(id, _)| *id);
        let numbered = numbered.into_iter().map(|(_, mut token)| {
            token.special |= special.iter().any(|one| one.content == token.content);
            (token, overrides)
        });
        let numbered: Vec<_> = numbered.collect();
        let special = special.into_iter().map(|token| (token, false));
        Ok(numbered.into_iter().chain(special).collect())
    }
}

/// A token as a string, or as an object with its flags.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    match value {
        Value::String(content) => Some(AddedToken::from(content.clone(), special)),
        Value::Object(flags) => {
            let flag = |key: &str| flags.get(key).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(special);
            Some(
                AddedToken::from(flags.get("content")?.as_str()?, special)
                    .single_word(flag("single_word").unwrap_or(false))
                    .lstrip(flag("lstrip").unwrap_or(false))
                    .rstrip(flag("rstrip").unwrap_or(false))
                    .normalized(flag("normalized").unwrap_or(!special)),
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const WORDS: [&str; 21] = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "CAT", "Cafe", "cafe", "café",
        "Café", "Cat", "中", "国", "中国", "##s", "query", ":", "<s>", "</s>",
    ];

    /// A folder with the words above in an uncased `tokenizer.json`, changed by `change`.
    fn folder(change: impl FnOnce(&mut Value), files: &[(&str, Value)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let vocab: Map<String, Value> = (WORDS.iter().zip(0..))
            .map(|(word, i)| (word.to_string(), json!(i)))
            .collect();
        let special = |id: usize| {
            json!({"id": id, "content": WORDS[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let around = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
        let mut tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0), special(1), special(2), special(3), special(4)],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"[CLS]": around("[CLS]", 2), "[SEP]": around("[SEP]", 3)}},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab},
        });
        change(&mut tokenizer);
        let write = |name: &str, value: &Value| {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        };
        write("tokenizer.json", &tokenizer);
        files.iter().for_each(|(name, value)| write(name, value));
        dir
    }

    fn tokens(dir: &Path) -> Vec<String> {
        let rules = read(dir, Some(WORDS.len())).unwrap();
        let texts = ["the CAT", "Café", "中国", "the <s> cat [MASK]"];
        let join = |text| {
            rules
                .inner
                .encode(text, true)
                .unwrap()
                .get_tokens()
                .join(" ")
        };
        texts.map(join).to_vec()
    }

    const CONFIG: &str = "tokenizer_config.json";

    /// That file for a class, with further keys.
    fn of_class(class: &str, mut keys: Value) -> (&'static str, Value) {
        keys["tokenizer_class"] = class.into();
        (CONFIG, keys)
    }

    /// What transformers 5.23 makes of the same folders.
    #[test]
    fn files_are_put_together_as_transformers_does() {
        let uncased = [
            "[CLS] the cat [SEP]",
            "[CLS] cafe [SEP]",
            "[CLS] 中 国 [SEP]",
        ];
        let cased = [
            "[CLS] the CAT [SEP]",
            "[CLS] Café [SEP]",
            "[CLS] 中 国 [SEP]",
        ];
        let plain = "[CLS] the [UNK] [UNK] [UNK] cat [MASK] [SEP]";
        let hold = |dir: &Path, three: [&str; 3], last: &str| {
            let [a, b, c] = three;
            assert_eq!(tokens(dir), [a, b, c, last]);
        };
        let lower = |on: bool| move |json: &mut Value| json["normalizer"]["lowercase"] = on.into();
        // A BertTokenizer does not read the rules of tokenizer.json.
        let bert = |keys: Value| (CONFIG, keys);
        for class in [
            "BertTokenizer",
            "BertTokenizerFast",
            "ElectraTokenizer",
            "DPRQuestionEncoderTokenizer",
        ] {
            let dir = folder(lower(false), &[bert(json!({"tokenizer_class": class}))]);
            hold(dir.path(), uncased, plain);
            let keys = json!({"tokenizer_class": class, "do_lower_case": false});
            hold(folder(lower(true), &[bert(keys)]).path(), cased, plain);
        }
        hold(folder(lower(false), &[]).path(), uncased, plain);
        let no_accents = |json: &mut Value| json["normalizer"]["strip_accents"] = false.into();
        hold(folder(no_accents, &[]).path(), uncased, plain);
        let accents = [
            "[CLS] the cat [SEP]",
            "[CLS] café [SEP]",
            "[CLS] 中 国 [SEP]",
        ];
        hold(
            folder(|_| {}, &[bert(json!({"strip_accents": false}))]).path(),
            accents,
            plain,
        );
        let chinese = [
            "[CLS] the cat [SEP]",
            "[CLS] cafe [SEP]",
            "[CLS] 中国 [SEP]",
        ];
        let keys = json!({"tokenize_chinese_chars": false});
        hold(folder(|_| {}, &[bert(keys)]).path(), chinese, plain);
        // Others do.
        for class in [
            "PreTrainedTokenizerFast",
            "TokenizersBackend",
            "ConvBertTokenizer",
            "NoSuchTokenizer",
        ] {
            let keys = json!({"tokenizer_class": class, "do_lower_case": true});
            hold(folder(lower(false), &[bert(keys)]).path(), cased, plain);
        }
        let config = (
            "config.json",
            json!({"tokenizer_class": "PreTrainedTokenizerFast"}),
        );
        hold(folder(lower(false), &[config]).path(), cased, plain);

        let around = ["<s> the cat </s>", "<s> cafe </s>", "<s> 中 国 </s>"];
        let named =
            json!({"cls_token": "<s>", "sep_token": {"content": "</s>", "__type": "AddedToken"}});
        let whole = "<s> the <s> cat [MASK] </s>";
        hold(folder(|_| {}, &[bert(named.clone())]).path(), around, whole);
        let map = ("special_tokens_map.json", named);
        hold(
            folder(|_| {}, std::slice::from_ref(&map)).path(),
            around,
            whole,
        );
        let taken = "[CLS] the <s> cat [MASK] [SEP]";
        let decoder = json!({"added_tokens_decoder": {"19": {"content": "<s>", "special": true}}});
        // An old map counts only where this is not there.
        hold(folder(|_| {}, &[bert(decoder), map]).path(), uncased, taken);
        for keys in [
            json!({"bos_token": "<s>"}),
            json!({"additional_special_tokens": ["<s>"]}),
            json!({"extra_special_tokens": [{"content": "<s>"}]}),
            json!({"extra_special_tokens": {"x_token": "<s>"}}),
            json!({"extra_special_tokens": ["<s>"], "additional_special_tokens": ["</s>", "the"]}),
            json!({"extra_special_tokens": [], "additional_special_tokens": ["<s>"]}),
            json!({"model_specific_special_tokens": {"x": "<s>"}}),
            json!({"x_token": "<s>"}),
            json!({"x_token": {"content": "<s>", "__type": "AddedToken"}}),
        ] {
            hold(folder(|_| {}, &[bert(keys)]).path(), uncased, taken);
        }
        let added = (
            "added_tokens.json",
            json!({"<s>": 19, "beyond the model's words": 21}),
        );
        hold(folder(|_| {}, &[added]).path(), uncased, taken);
        let unknown = "[CLS] the the the the cat [MASK] [SEP]";
        hold(
            folder(|_| {}, &[bert(json!({"unk_token": "the"}))]).path(),
            uncased,
            unknown,
        );
        let split = "[CLS] the [UNK] [UNK] [UNK] cat [UNK] [UNK] [UNK] [SEP]";
        hold(
            folder(|_| {}, &[bert(json!({"split_special_tokens": true}))]).path(),
            uncased,
            split,
        );
    }

    /// Flags of the tokens with numbers count before those of `tokenizer.json`.
    #[test]
    fn tokens_with_numbers_have_their_own_flags() {
        let mask = |normalized: bool| {
            let token = json!({"content": "[MASK]", "special": true, "normalized": normalized});
            let keys = json!({"added_tokens_decoder": {"4": token}});
            let dir = folder(|_| {}, &[(CONFIG, keys)]);
            let rules = read(dir.path(), Some(WORDS.len())).unwrap();
            rules.inner.encode("[mask]", false).unwrap().len()
        };
        assert_eq!((mask(true), mask(false)), (1, 3));
    }

    /// What an XLMRobertaTokenizer is made of, whatever else `tokenizer.json` says.
    #[test]
    fn sentence_pieces_have_fixed_rules() {
        const PIECES: [&str; 8] = [
            "<s>",
            "<pad>",
            "</s>",
            "<unk>",
            "\u{2581}the",
            "\u{2581}cat",
            "cat",
            "the",
        ];
        let pieces = |change: &dyn Fn(&mut Value), keys: Value| {
            let vocab = PIECES.map(|piece| json!([piece, -1.0])).to_vec();
            let pieces = |json: &mut Value| {
                json["model"] = json!({"type": "Unigram", "unk_id": 3, "vocab": vocab});
                json["added_tokens"] = json!([]);
                json["post_processor"] = Value::Null;
                change(json);
            };
            let dir = folder(pieces, &[of_class("XLMRobertaTokenizerFast", keys)]);
            let rules = read(dir.path(), Some(PIECES.len()))?;
            let found = rules.inner.encode("the  cat\tTHE", true).unwrap();
            Ok::<_, Error>(found.get_tokens().join(" "))
        };
        let usual = "<s> \u{2581}the \u{2581}cat \u{2581}THE </s>";
        let lower = |json: &mut Value| json["normalizer"] = json!({"type": "Lowercase"});
        let whole = |json: &mut Value| {
            json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}",
                "prepend_scheme": "always", "split": false});
        };
        for change in [&lower as &dyn Fn(&mut Value), &whole, &|_| {}] {
            assert_eq!(pieces(change, json!({})).unwrap(), usual);
        }
        let bare = pieces(&|_| {}, json!({"add_prefix_space": false}));
        assert_eq!(bare.unwrap(), "<s> the cat THE </s>");
        let around = pieces(&|_| {}, json!({"bos_token": "cat"}));
        assert!(around.unwrap().starts_with("cat \u{2581}the"));
        let other = |json: &mut Value| json["model"]["unk_id"] = 0.into();
        for (change, says) in [
            (&other as &dyn Fn(&mut Value), "piece 3"),
            (
                &|json: &mut Value| json["model"]["byte_fallback"] = true.into(),
                "piece 3",
            ),
        ] {
            let error = pieces(change, json!({})).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn words_alone_make_a_tokenizer() {
        let dir = folder(|_| {}, &[]);
        let whole = tokens(dir.path());
        std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        std::fs::write(dir.path().join("vocab.txt"), WORDS.join("\r\n")).unwrap();
        assert_eq!(tokens(dir.path()), whole);
        let write =
            |keys: Value| std::fs::write(dir.path().join(CONFIG), keys.to_string()).unwrap();
        write(json!({"do_lower_case": false}));
        assert_eq!(tokens(dir.path())[0], "[CLS] the CAT [SEP]");
        write(json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
        let error = read(dir.path(), None).err().unwrap().to_string();
        assert!(error.contains("no tokenizer.json"), "{error}");
        std::fs::remove_file(dir.path().join(CONFIG)).unwrap();
        std::fs::write(dir.path().join("vocab.txt"), "").unwrap();
        let error = read(dir.path(), None).err().unwrap().to_string();
        assert!(error.contains("vocab.txt: is empty"), "{error}");
    }

    #[test]
    fn the_end_at_which_texts_are_cut_is_the_folders() {
        let cut = |direction: Value| {
            move |json: &mut Value| {
                if !direction.is_null() {
                    let strategy = "LongestFirst";
                    json["truncation"] = json!({"direction": direction, "max_length": 4, "strategy": strategy, "stride": 0});
                }
            }
        };
        for (json_says, config_says, left) in [
            (json!(null), json!(null), false),
            (json!("Left"), json!(null), true),
            (json!("Right"), json!("left"), true),
            (json!("Left"), json!("right"), false),
        ] {
            let dir = folder(
                cut(json_says),
                &[(CONFIG, json!({"truncation_side": config_says}))],
            );
            let direction = read(dir.path(), None).unwrap().direction;
            assert_eq!(matches!(direction, TruncationDirection::Left), left);
        }
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (keys, says) in [
            (
                json!({"tokenizer_class": "MPNetTokenizerFast"}),
                "tokenizer_class is `MPNetTokenizerFast`",
            ),
            (
                json!({"tokenizer_class": "Qwen2TokenizerFast"}),
                "tokenizer_class is `Qwen2TokenizerFast`",
            ),
            (json!({"do_lower_case": null}), "do_lower_case is `null`"),
            (json!({"strip_accents": "yes"}), "strip_accents is `yes`"),
            (
                json!({"cls_token": "<new>"}),
                "cls_token is `<new>`, which is not in the vocabulary",
            ),
            (json!({"sep_token": 3}), "sep_token is `3`"),
            (
                json!({"truncation_side": "middle"}),
                "truncation_side is `middle`",
            ),
            (
                json!({"additional_special_tokens": "<s>"}),
                "additional_special_tokens",
            ),
            (
                json!({"added_tokens_decoder": {"x": "y"}}),
                "added_tokens_decoder",
            ),
        ] {
            let dir = folder(|_| {}, &[(CONFIG, keys)]);
            let read = read(dir.path(), Some(WORDS.len()));
            let error = read.err().unwrap().to_string();
            assert!(error.contains(says) && error.contains(CONFIG), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let written = |change: fn(&mut Value), keys: Value| {
            let dir = folder(change, &[of_class("PreTrainedTokenizerFast", keys)]);
            let read = read(dir.path(), Some(WORDS.len()));
            read.err().map(|e| e.to_string()).unwrap_or_default()
        };
        let types = |json: &mut Value| {
            json["post_processor"]["single"][1]["Sequence"]["type_id"] = 1.into();
        };
        let given = json!({"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]});
        let unmasked = json!({"model_input_names": ["input_ids"]});
        assert!(written(|_| {}, unmasked).contains("without attention_mask"));
        assert!(written(types, given).contains("type that is not 0"));
        assert_eq!(written(types, json!({})), "");
        let long = |json: &mut Value| json["model"]["max_input_chars_per_word"] = 100_000.into();
        assert!(written(long, json!({})).contains("max_input_chars_per_word is 100000"));
        let level = |json: &mut Value| {
            let vocab = json["model"]["vocab"].take();
            json["model"] = json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab});
        };
        let error = read(folder(level, &[]).path(), None)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("no word pieces"), "{error}");
    }
}
