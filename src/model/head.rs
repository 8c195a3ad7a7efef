//! From token vectors to embeddings: what `modules.json` says, done in its order.
//!
//! ```text
//! Transformer -> Pooling -> Dense, LayerNorm, Normalize, Dropout in any number and order -> truncate_dim
//! ```
//!
//! As sentence-transformers does it: modules run in the order of the list; a `Pooling` makes the embedding anew from
//! the token vectors, so of several the last counts, with what comes behind it; a `Normalize` before any pooling finds
//! nothing to normalise. What has no defined meaning (no pooling, a projection before it, a module of another type) is
//! refused by its number, type and path. A folder without `modules.json` is a bare encoder: the mean of its token
//! vectors, or the last one if it was made to predict the next token.
//!
//! The mean of all token vectors or the first one, normalised or not, is what nearly every model has; a device does it by
//! [`mod@crate::ops::pool`], and such a model can be trained ([`HeadConfig::plain`]). Everything else, behind such a pooling
//! or in its place, is computed on the host in f32, whatever the device: per text it is less than what one layer does for
//! one token.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::checkpoint::WEIGHTS;
use super::config::PoolingConfig;
use crate::error::{Error, Result};
use crate::ops::pool::Pooling;
use crate::text::keys::{self, MODULES, Table};

/// Where `truncate_dim` stands.
const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";

/// Before the names of the modules that are known.
const PACKAGE: &str = "sentence_transformers.";

/// The modules that are run, and where sentence-transformers has them or lets older models find them, inside its package:
/// another module of the same name is another module.
const PLACES: [(&str, &[&str]); 6] = [
    (
        "Transformer",
        &[
            "models",
            "models.Transformer",
            "sentence_transformer.modules",
            "base.modules",
            "base.modules.transformer",
            "cross_encoder.modules",
            "sparse_encoder.modules",
            "sparse_encoder.models",
        ],
    ),
    (
        "Pooling",
        &[
            "models",
            "models.Pooling",
            "sentence_transformer.modules",
            "sentence_transformer.modules.pooling",
        ],
    ),
    (
        "Dense",
        &[
            "models",
            "models.Dense",
            "sentence_transformer.modules",
            "base.modules",
            "base.modules.dense",
            "cross_encoder.modules",
            "sparse_encoder.modules",
            "sparse_encoder.models",
        ],
    ),
    (
        "LayerNorm",
        &[
            "models",
            "models.LayerNorm",
            "sentence_transformer.modules",
            "sentence_transformer.modules.layer_norm",
        ],
    ),
    (
        "Normalize",
        &[
            "models",
            "models.Normalize",
            "sentence_transformer.modules",
            "sentence_transformer.modules.normalize",
            "base.modules",
            "base.modules.normalize",
        ],
    ),
    (
        "Dropout",
        &[
            "models",
            "models.Dropout",
            "sentence_transformer.modules",
            "sentence_transformer.modules.dropout",
        ],
    ),
];

/// A way of making one vector of the token vectors of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The first token's.
    Cls,
    /// The maximum of each coordinate.
    Max,
    /// The mean.
    Mean,
    /// The sum, divided by the root of their number.
    MeanSqrtLen,
    /// The mean with the weights 1, 2, 3 and so on.
    WeightedMean,
    /// The last token's.
    LastToken,
}

impl Mode {
    /// All, with their names and the flags that said the same before, in the order in which flags are put together.
    const ALL: [(Mode, &str, &str); 6] = [
        (Mode::Cls, "cls", "pooling_mode_cls_token"),
        (Mode::Max, "max", "pooling_mode_max_tokens"),
        (Mode::Mean, "mean", "pooling_mode_mean_tokens"),
        (
            Mode::MeanSqrtLen,
            "mean_sqrt_len_tokens",
            "pooling_mode_mean_sqrt_len_tokens",
        ),
        (
            Mode::WeightedMean,
            "weightedmean",
            "pooling_mode_weightedmean_tokens",
        ),
        (Mode::LastToken, "lasttoken", "pooling_mode_lasttoken"),
    ];

    /// Its name in a `pooling_mode`.
    pub fn name(self) -> &'static str {
        let of = Self::ALL.iter().find(|(mode, ..)| *mode == self);
        of.expect("all are there").1
    }

    fn named(name: &str) -> Option<Self> {
        let of = Self::ALL.iter().find(|(_, known, _)| *known == name);
        of.map(|&(mode, ..)| mode)
    }
}

/// What a projection does to its sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x / 2 (1 + erf(x / sqrt 2))`.
    Gelu,
    /// `x / (1 + exp(-x))`.
    Silu,
}

impl Activation {
    /// By the name of its class, such as `torch.nn.modules.activation.Tanh`.
    fn named(name: &str) -> Option<Self> {
        // Where it is defined, and where it is handed on.
        let places = [
            "torch.nn.modules.activation.",
            "torch.nn.modules.linear.",
            "torch.nn.modules.",
            "torch.nn.",
        ];
        Some(
            match places.iter().find_map(|place| name.strip_prefix(place))? {
                "Identity" => Activation::Identity,
                "Tanh" => Activation::Tanh,
                "ReLU" => Activation::Relu,
                "Sigmoid" => Activation::Sigmoid,
                "GELU" => Activation::Gelu,
                "SiLU" => Activation::Silu,
                _ => return None,
            },
        )
    }
}

/// A linear layer over embeddings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenseConfig {
    /// Its folder inside the model folder.
    pub path: String,
    /// Width before it.
    pub input: usize,
    /// Width after it.
    pub output: usize,
    /// Whether something is added to its sums.
    pub bias: bool,
    /// What is done to the sums.
    pub activation: Activation,
    /// Whether what came in is added, through a linear layer without bias where the widths differ.
    pub residual: bool,
}

/// What is done to an embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Unit length.
    Normalize,
    /// A projection.
    Dense(DenseConfig),
    /// A layer norm with weights in this folder, and the width that it is of.
    LayerNorm(String, usize),
}

/// What makes an embedding of the token vectors of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadConfig {
    /// How token vectors become one, or several that are put one behind the other; at least one.
    pub modes: Vec<Mode>,
    /// What is done then, in this order.
    pub steps: Vec<Step>,
    /// The number of coordinates that are kept of a wider embedding.
    pub truncate: Option<usize>,
    /// Width of an embedding.
    pub width: usize,
}

/// An entry of `modules.json`.
pub(super) struct Module {
    /// Which one, from 0.
    number: usize,
    name: String,
    /// The module's folder inside the model folder; empty for the model folder itself.
    pub path: String,
    class: String,
}

impl Module {
    /// The last part of its class.
    fn kind(&self) -> Option<&str> {
        self.class.strip_prefix(PACKAGE)?.rsplit('.').next()
    }

    /// Whether its class, if one of that name is run here, is where sentence-transformers has it.
    fn in_place(&self) -> bool {
        let inside = self.class.strip_prefix(PACKAGE).unwrap_or_default();
        let (place, kind) = inside.rsplit_once('.').unwrap_or(("", inside));
        let places = PLACES.iter().find(|(known, _)| *known == kind);
        places.is_none_or(|(_, places)| places.contains(&place))
    }

    /// Refuses an encoder that is not in the model folder itself.
    fn check_encoder_place(&self, folder: &Path) -> Result<()> {
        if self.kind() != Some("Transformer") || self.path.is_empty() {
            return Ok(());
        }
        Err(self.refuse(
            folder,
            "an encoder in a folder of its own is not supported; move its files into the model folder and make the path empty",
        ))
    }

    fn refuse(&self, folder: &Path, why: &str) -> Error {
        Error::input(
            folder.join(MODULES),
            format!(
                "module {} ({}, path {:?}): {why}",
                self.number, self.class, self.path
            ),
        )
    }

    /// Its `config.json`, held to `table`; empty where there is none.
    fn config(
        &self,
        folder: &Path,
        table: &Table,
        notes: &mut Vec<String>,
    ) -> Result<(PathBuf, Map<String, Value>)> {
        let path = folder.join(&self.path).join("config.json");
        // Without a folder of its own it has none: what is there is the encoder's.
        let keys = if self.path.is_empty() {
            None
        } else {
            keys::object(&path)?
        };
        let keys = keys.unwrap_or_default();
        keys::check(&path, &keys, table, notes)?;
        Ok((path, keys))
    }
}

/// The modules of a model folder; none if it has no `modules.json`.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Input`] if it is not a list of modules, or one of them is outside the
/// folder.
pub(super) fn read_modules(folder: &Path) -> Result<Vec<Module>> {
    let path = folder.join(MODULES);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let refuse = |what: String| Error::input(&path, what);
    let list: Vec<Map<String, Value>> =
        serde_json::from_str(&text).map_err(|e| refuse(format!("not the expected JSON: {e}")))?;
    if list.is_empty() {
        return Err(refuse(
            "names no module; a model has a Transformer and a Pooling".into(),
        ));
    }
    let mut modules: Vec<Module> = Vec::new();
    for (number, entry) in list.into_iter().enumerate() {
        let text = |key: &str| match entry.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(refuse(format!("module {number}: `{key}` must be a string"))),
        };
        let path = text("path")?;
        let module = Module {
            number,
            name: text("name")?,
            path: inside(&path).ok_or_else(|| {
                refuse(format!("the path {path:?} leads out of the model folder"))
            })?,
            class: text("type")?,
        };
        if let Some(other) = modules.iter().find(|other| other.name == module.name) {
            return Err(refuse(format!(
                "modules {} and {number} have the same name {:?}; rename one",
                other.number, module.name
            )));
        }
        modules.push(module);
    }
    Ok(modules)
}

/// A path inside the model folder as its names alone, without `.` and a slash at its end; `None` if it leads out.
fn inside(path: &str) -> Option<String> {
    let mut names = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str()?),
            _ => return None,
        }
    }
    Some(names.join("/"))
}

/// Refuses a model folder whose encoder is in a folder of its own, as older sentence-transformers wrote it: without this,
/// its files would only be missing.
///
/// # Errors
/// [`Error::Input`] for such a folder, or as for its `modules.json`.
pub(crate) fn check_encoder_place(folder: &Path) -> Result<()> {
    match read_modules(folder)?.first() {
        Some(first) => first.check_encoder_place(folder),
        None => Ok(()),
    }
}

/// A file of a module's own folder.
#[cfg_attr(
    not(feature = "hub"),
    allow(dead_code, reason = "asked for by what fetches")
)]
pub(super) struct ModuleFile {
    /// Inside the model folder.
    pub path: String,
    /// Whether the module cannot be without it.
    pub needed: bool,
}

/// The files that the modules of a model folder have in folders of their own.
///
/// # Errors
/// As for its `modules.json`.
#[cfg_attr(
    not(feature = "hub"),
    allow(dead_code, reason = "asked for by what fetches")
)]
pub(super) fn module_files(folder: &Path) -> Result<Vec<ModuleFile>> {
    let mut files = Vec::new();
    let modules = read_modules(folder)?;
    for module in modules.iter().filter(|module| !module.path.is_empty()) {
        let has_weights = matches!(module.kind(), Some("Dense" | "LayerNorm"));
        let has_config = has_weights || module.kind() == Some("Pooling");
        files.extend([("config.json", has_config), (WEIGHTS, has_weights)].map(
            |(name, needed)| ModuleFile {
                path: format!("{}/{name}", module.path),
                needed,
            },
        ));
    }
    Ok(files)
}

impl HeadConfig {
    /// The head with this pooling alone, over token vectors of width `d_model`.
    pub fn of(pooling: PoolingConfig, d_model: usize) -> Self {
        let mode = match pooling.pooling {
            Pooling::Mean => Mode::Mean,
            Pooling::First => Mode::Cls,
        };
        HeadConfig {
            modes: vec![mode],
            steps: if pooling.normalize {
                vec![Step::Normalize]
            } else {
                Vec::new()
            },
            truncate: None,
            width: d_model,
        }
    }

    /// Reads what a model folder says of its head, for token vectors of width `d_model`; what is to be said of it goes to
    /// `notes`.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read; [`Error::Input`] naming module and key for what is not done here.
    pub fn read(folder: &Path, d_model: usize, notes: &mut Vec<String>) -> Result<Self> {
        let modules = read_modules(folder)?;
        if modules.is_empty() {
            return Self::bare(folder, d_model);
        }
        check_entries(folder, notes)?;
        let mut head: Option<HeadConfig> = None;
        for module in &modules {
            let refuse = |why: &str| module.refuse(folder, why);
            let Some(kind) = module.kind() else {
                return Err(refuse(
                    "the module has code of its own, which is not run here",
                ));
            };
            if !module.in_place() {
                return Err(refuse(&format!(
                    "sentence-transformers has no module there; its own is {PACKAGE}models.{kind}"
                )));
            }
            if (kind == "Transformer") != (module.number == 0) {
                return Err(refuse(
                    "a model begins with its Transformer, and has no other",
                ));
            }
            match (kind, &mut head) {
                ("Transformer", _) => module.check_encoder_place(folder)?,
                ("Pooling", head) => *head = Some(Self::pooled(module, folder, d_model, notes)?),
                // There is nothing to normalise yet.
                ("Normalize", None) => drop(module.config(folder, &keys::NORMALIZE, notes)?),
                ("Normalize", Some(head)) => {
                    module.config(folder, &keys::NORMALIZE, notes)?;
                    head.steps.push(Step::Normalize);
                }
                ("Dropout", Some(_)) => drop(module.config(folder, &keys::DROPOUT, notes)?),
                ("Dense", Some(head)) => {
                    let dense = DenseConfig::read(module, folder, head.width, notes)?;
                    head.width = dense.output;
                    head.steps.push(Step::Dense(dense));
                }
                ("LayerNorm", Some(head)) => {
                    let (path, keys) = module.config(folder, &keys::LAYER_NORM, notes)?;
                    expect_width(&path, &keys, "dimension", head.width)?;
                    head.steps
                        .push(Step::LayerNorm(module.path.clone(), head.width));
                }
                ("Dropout" | "Dense" | "LayerNorm", None) => {
                    return Err(refuse(
                        "works on an embedding, and no Pooling comes before it",
                    ));
                }
                _ => {
                    return Err(refuse(
                        "no module of this type is supported (Transformer, Pooling, Dense, LayerNorm, Normalize and Dropout are)",
                    ));
                }
            }
        }
        let Some(mut head) = head else {
            return Err(Error::input(
                folder.join(MODULES),
                "no Pooling is among the modules, so that there are token vectors and no embedding; add one",
            ));
        };
        head.truncate = truncation(folder)?;
        head.width = head.truncate.map_or(head.width, |to| to.min(head.width));
        Ok(head)
    }

    /// An encoder alone, as sentence-transformers completes it.
    fn bare(folder: &Path, d_model: usize) -> Result<Self> {
        let config = keys::object(&folder.join("config.json"))?.unwrap_or_default();
        let class = config.get("architectures").and_then(|all| all[0].as_str());
        let causal = class.is_some_and(|class| class.ends_with("ForCausalLM"));
        Ok(HeadConfig {
            modes: vec![if causal { Mode::LastToken } else { Mode::Mean }],
            steps: Vec::new(),
            truncate: None,
            width: d_model,
        })
    }

    /// What a pooling module begins.
    fn pooled(
        module: &Module,
        folder: &Path,
        d_model: usize,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let (path, keys) = module.config(folder, &keys::POOLING, notes)?;
        if !path.exists() || module.path.is_empty() {
            return Err(module.refuse(folder, "its config.json is missing; fetch the model again"));
        }
        let modes = modes(&keys).map_err(|what| Error::input(&path, what))?;
        // As in Python, null, zero and what is empty are false too.
        let without = keys
            .get("include_prompt")
            .filter(|value| keys::unset(value));
        if let Some(value) = without
            && has_prompts(folder)?
        {
            return Err(Error::input(
                path,
                format!(
                    "include_prompt is `{value}`; leaving the tokens of prompts out of the pooling is not supported"
                ),
            ));
        }
        Ok(HeadConfig {
            width: modes.len() * d_model,
            modes,
            steps: Vec::new(),
            truncate: None,
        })
    }

    /// The pooling that a device does, if that is all: the mean or the first token vector, normalised or not.
    pub fn plain(&self) -> Option<PoolingConfig> {
        let (pooling, steps) = self.on_device()?;
        (self.truncate.is_none() && steps == self.steps.len()).then_some(pooling)
    }

    /// The pooling that a device can do, and how many of the steps it does with it.
    pub(crate) fn on_device(&self) -> Option<(PoolingConfig, usize)> {
        let pooling = match self.modes[..] {
            [Mode::Mean] => Pooling::Mean,
            [Mode::Cls] => Pooling::First,
            _ => return None,
        };
        let normal = self
            .steps
            .iter()
            .take_while(|step| **step == Step::Normalize);
        let steps = normal.count();
        let normalize = steps > 0;
        Some((PoolingConfig { pooling, normalize }, steps))
    }

    /// Paths inside the model folder of the weights that it has.
    pub(super) fn weights(&self) -> impl Iterator<Item = String> + '_ {
        self.steps.iter().filter_map(|step| match step {
            Step::Normalize => None,
            Step::Dense(DenseConfig { path, .. }) | Step::LayerNorm(path, _) => {
                Some(format!("{path}/{WEIGHTS}"))
            }
        })
    }
}

/// `mean, normalised`, `cls + max, dense 768 to 256 (Tanh), first 128`.
impl fmt::Display for HeadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As it has always been called where it is one of the two that devices do.
        let name = |mode: &Mode| match mode {
            Mode::Cls => "first",
            other => other.name(),
        };
        let modes: Vec<&str> = self.modes.iter().map(name).collect();
        write!(f, "{}", modes.join(" + "))?;
        for (i, step) in self.steps.iter().enumerate() {
            match step {
                Step::Normalize if i > 0 && self.steps[i - 1] == Step::Normalize => {}
                Step::Normalize => write!(f, ", normalised")?,
                Step::LayerNorm(..) => write!(f, ", layer norm")?,
                Step::Dense(dense) => {
                    write!(
                        f,
                        ", dense {} to {} ({:?}",
                        dense.input, dense.output, dense.activation
                    )?;
                    write!(f, "{})", if dense.residual { ", residual" } else { "" })?;
                }
            }
        }
        match self.truncate {
            Some(to) => write!(f, ", first {to}"),
            None => Ok(()),
        }
    }
}

/// Holds the entries of `modules.json` to their table.
fn check_entries(folder: &Path, notes: &mut Vec<String>) -> Result<()> {
    let path = folder.join(MODULES);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let entries: Vec<Map<String, Value>> = serde_json::from_str(&text)
        .map_err(|e| Error::input(&path, format!("not the expected JSON: {e}")))?;
    (entries.iter()).try_for_each(|entry| keys::check(&path, entry, &keys::MODULE, notes))
}

/// The modes of a pooling module; the error is what is wrong with them.
fn modes(keys: &Map<String, Value>) -> Result<Vec<Mode>, String> {
    let named = |value: &Value| {
        let mode = value.as_str().and_then(Mode::named);
        mode.ok_or_else(|| {
            let known = Mode::ALL.map(|(_, name, _)| name).join(", ");
            format!("pooling_mode is `{value}`; known are {known}")
        })
    };
    match keys.get("pooling_mode") {
        Some(Value::Array(list)) if list.is_empty() => Err("pooling_mode names no mode".into()),
        Some(Value::Array(list)) => list.iter().map(named).collect(),
        Some(one) => Ok(vec![named(one)?]),
        None => {
            let mut modes = Vec::new();
            for (mode, _, flag) in Mode::ALL {
                match keys.get(flag) {
                    Some(Value::Bool(true)) => modes.push(mode),
                    None | Some(Value::Bool(false) | Value::Null) => {}
                    Some(other) => {
                        return Err(format!("{flag} is `{other}`; it must be true or false"));
                    }
                }
            }
            // As sentence-transformers has it where nothing is said.
            Ok(if modes.is_empty() {
                vec![Mode::Mean]
            } else {
                modes
            })
        }
    }
}

/// Whether anything is put before texts of any kind.
fn has_prompts(folder: &Path) -> Result<bool> {
    let keys = keys::object(&folder.join(SENTENCE_TRANSFORMERS))?.unwrap_or_default();
    let prompts = keys.get("prompts").and_then(Value::as_object);
    let says = |prompt: &Value| prompt.as_str().is_some_and(|prompt| !prompt.is_empty());
    Ok(prompts.is_some_and(|prompts| prompts.values().any(says)))
}

/// `truncate_dim`, if it is set.
fn truncation(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join(SENTENCE_TRANSFORMERS);
    let keys = keys::object(&path)?.unwrap_or_default();
    match keys.get("truncate_dim") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let width = value.as_u64().and_then(|n| usize::try_from(n).ok());
            let fits = |n: &usize| *n > 0 && n.is_multiple_of(8);
            width.filter(fits).map(Some).ok_or_else(|| {
                Error::input(
                    path,
                    format!("truncate_dim is `{value}`; it must be a multiple of 8, as the widths of embeddings are"),
                )
            })
        }
    }
}

/// Refuses a width in a module's configuration that is not the one before it.
fn expect_width(path: &Path, keys: &Map<String, Value>, key: &str, width: usize) -> Result<()> {
    match keys.get(key).and_then(Value::as_u64) {
        Some(found) if found == width as u64 => Ok(()),
        _ => {
            let found = keys
                .get(key)
                .map_or("missing".into(), |found| format!("`{found}`"));
            Err(Error::input(
                path,
                format!("{key} is {found}, and what comes before the module is {width} wide"),
            ))
        }
    }
}

impl DenseConfig {
    fn read(module: &Module, folder: &Path, width: usize, notes: &mut Vec<String>) -> Result<Self> {
        let (path, keys) = module.config(folder, &keys::DENSE, notes)?;
        let refuse = |what: String| Error::input(&path, what);
        expect_width(&path, &keys, "in_features", width)?;
        let output = keys.get("out_features").and_then(Value::as_u64);
        let fits = |n: &usize| *n > 0 && n.is_multiple_of(8) && n.saturating_mul(width) < 1 << 31;
        let output = output.and_then(|n| usize::try_from(n).ok()).filter(fits).ok_or_else(|| {
            let found = keys.get("out_features").unwrap_or(&Value::Null);
            refuse(format!("out_features is `{found}`; it must be a multiple of 8, as the widths of embeddings are"))
        })?;
        let flag = |key: &str, default: bool| match keys.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(refuse(format!(
                "{key} is `{other}`; it must be true or false"
            ))),
        };
        let activation = match keys.get("activation_function") {
            None => Activation::Tanh,
            Some(value) => value.as_str().and_then(Activation::named).ok_or_else(|| {
                refuse(format!("activation_function is `{value}`; known are torch.nn's Identity, Tanh, ReLU, Sigmoid, GELU and SiLU"))
            })?,
        };
        Ok(DenseConfig {
            path: module.path.clone(),
            input: width,
            output,
            bias: flag("bias", true)?,
            activation,
            residual: flag("use_residual", false)?,
        })
    }
}
