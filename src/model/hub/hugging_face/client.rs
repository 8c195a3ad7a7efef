//! The Hub client, which also knows the cache.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};

use hf_hub::api::{Progress, sync::ApiBuilder};
use hf_hub::{Cache, Repo};
use indicatif::ProgressBar;

use super::Place;
use crate::model::checkpoint::{self, ADAPTER, WEIGHTS, WEIGHTS_INDEX, WHY_NO_ADAPTER};
use crate::model::head;
use crate::model::hub::{
    BackboneSource, REQUIRED, TOKENIZER, VOCABULARY, is_model, one_line, present,
};
use crate::text::keys::{self, MODULES};

/// What a model may say of itself beside its modules; fetched where it is there.
const SETTINGS: [&str; 7] = [
    REQUIRED[0],
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config_sentence_transformers.json",
    MODULES,
];

/// The cached snapshot of a repository's main branch, if it has a model, and whether it has all the rest too.
pub(super) fn snapshot(repository: &str, place: &Place) -> Option<(PathBuf, bool)> {
    let cache = Cache::new(place.cache.clone()?).repo(Repo::model(repository.into()));
    let config = cache.get("config.json")?;
    let folder = config.parent()?.to_path_buf();
    if !is_model(&folder) {
        return None;
    }
    let complete = is_published(&folder);
    Some((folder, complete))
}

/// Whether a snapshot has what its modules are made of, and the length limit: other programs may leave these out.
fn is_published(folder: &Path) -> bool {
    let limit = keys::SENTENCE_CONFIGS.iter();
    limit.into_iter().any(|name| present(folder, name))
        && present(folder, MODULES)
        && head::module_files(folder).is_ok_and(|files| {
            let mut needed = files.iter().filter(|file| file.needed);
            needed.all(|file| present(folder, &file.path))
        })
}

/// What the downloading thread reports.
enum Event {
    /// The repository answered.
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

/// Downloads what the snapshot lacks of the model: what it says of itself, what its modules are made of, and the weights,
/// last, since a folder that has them was fetched to the end.
///
/// The client has no time limits of its own, so it works in a thread, and this one gives up when it hears nothing.
/// The thread is then left behind; it can only complete a file of the Hugging Face cache.
pub(super) fn fetch(
    repository: &str,
    place: &Place,
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
            let lacks = |file: &str| Err(format!("the repository {name} has no {file}"));
            if exists(ADAPTER) {
                return Err(format!("{ADAPTER}: {WHY_NO_ADAPTER}"));
            }
            let _ = events.send(Event::Listed);
            let folder = cache
                .repo(Repo::model(name.clone()))
                .pointer_path(&info.sha);
            let mut downloaded = false;
            let mut take = |file: &str| -> Result<(), String> {
                if !exists(file) || folder.join(file).exists() {
                    return Ok(());
                }
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
                Ok(())
            };
            let failed = |e: crate::Error| one_line(&e.to_string());
            if !exists(REQUIRED[0]) {
                // It may be in the encoder's own folder.
                take(MODULES)?;
                head::check_encoder_place(&folder).map_err(failed)?;
                return lacks(REQUIRED[0]);
            }
            if !exists(TOKENIZER) && !exists(VOCABULARY) {
                return lacks(TOKENIZER);
            }
            if !exists(WEIGHTS) && !exists(WEIGHTS_INDEX) {
                return lacks(WEIGHTS);
            }
            for file in SETTINGS.into_iter().chain(keys::SENTENCE_CONFIGS) {
                take(file)?;
            }
            if !exists(TOKENIZER) {
                take(VOCABULARY)?;
            }
            for file in head::module_files(&folder).map_err(failed)? {
                take(&file.path)?;
            }
            if exists(WEIGHTS) {
                take(WEIGHTS)?;
            } else {
                take(WEIGHTS_INDEX)?;
                for file in checkpoint::weights_files(&folder).map_err(failed)? {
                    if !exists(&file) {
                        return lacks(&file);
                    }
                    take(&file)?;
                }
            }
            if !is_model(&folder) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::hub::tests::*;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const MODULES_JSON: &[u8] = br#"[
        {"name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;

    const SHA: &str = "0123456789012345678901234567890123456789";

    /// A file of the repository, and what it holds.
    type File = (&'static str, &'static [u8]);

    /// A Hub with one repository, `org/name`, that has `files`; returns its address and the files asked for.
    fn serve(files: &'static [File]) -> (String, Arc<Mutex<Vec<String>>>) {
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

    fn answer(mut stream: TcpStream, files: &[File], asked: &Mutex<Vec<String>>) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let Some(Ok(request)) = lines.next() else {
            return;
        };
        let mut range = None;
        for line in lines.by_ref() {
            let line = line.unwrap().to_lowercase();
            if let Some(bytes) = line.strip_prefix("range: bytes=") {
                let (from, to) = bytes.split_once('-').unwrap();
                range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
            }
            if line.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap();
        let (status, headers, body) = if path == "/api/models/org/name/revision/main" {
            let siblings: Vec<_> = files
                .iter()
                .map(|(file, _)| serde_json::json!({ "rfilename": file }))
                .collect();
            let info = serde_json::json!({"sha": SHA, "siblings": siblings});
            ("200 OK", String::new(), info.to_string().into_bytes())
        } else if let Some((file, content)) = path
            .strip_prefix("/org/name/resolve/main/")
            .and_then(|path| files.iter().find(|(file, _)| *file == path))
        {
            let (from, to) = range.unwrap();
            let to = to.unwrap_or(content.len() - 1).min(content.len() - 1);
            asked.lock().unwrap().push(file.to_string());
            let headers = format!(
                "Content-Range: bytes {from}-{to}/{}\r\nETag: \"{}\"\r\nX-Repo-Commit: {SHA}\r\n",
                content.len(),
                hash(file.as_bytes()),
            );
            ("206 Partial Content", headers, content[from..=to].to_vec())
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
            ("README.md", CONTENT),
            ("config.json", CONTENT),
            ("tokenizer.json", CONTENT),
            ("tokenizer_config.json", CONTENT),
            ("sentence_bert_config.json", CONTENT),
            ("modules.json", MODULES_JSON),
            ("1_Pooling/config.json", CONTENT),
            ("model.safetensors", CONTENT),
            ("pytorch_model.bin", CONTENT),
        ]);
        around.hub.endpoint = endpoint;
        let found = search("org/name", false, &around).0.unwrap();
        assert_eq!(found.source, BackboneSource::Hub);
        assert_eq!(found.sha256, hash(CONTENT));
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
        assert_eq!(resumed.sha256, hash(CONTENT));
    }

    #[test]
    fn what_a_model_says_of_itself_is_fetched() {
        const MODULES: &[u8] = br#"[
            {"name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"name": "1", "path": "pool", "type": "sentence_transformers.models.Pooling"},
            {"name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
            {"name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;
        const INDEX: &[u8] = br#"{"weight_map": {"a": "b.safetensors", "b": "a.safetensors"}}"#;
        let dir = tempfile::tempdir().unwrap();
        let mut around = bare(dir.path());
        let (endpoint, asked) = serve(&[
            ("config.json", CONTENT),
            ("vocab.txt", CONTENT),
            ("special_tokens_map.json", CONTENT),
            ("sentence_distilbert_config.json", CONTENT),
            ("modules.json", MODULES),
            ("pool/config.json", CONTENT),
            ("1_Pooling/config.json", CONTENT),
            ("2_Dense/config.json", CONTENT),
            ("2_Dense/model.safetensors", CONTENT),
            ("2_Dense/pytorch_model.bin", CONTENT),
            ("model.safetensors.index.json", INDEX),
            ("a.safetensors", CONTENT),
            ("b.safetensors", CONTENT),
            ("c.safetensors", CONTENT),
        ]);
        around.hub.endpoint = endpoint;
        let found = search("org/name", false, &around).0.unwrap();
        assert_eq!(found.sha256, hash(&[CONTENT, CONTENT].concat()));
        // A file is asked for once to learn of it and once for what it holds.
        let mut fetched = asked.lock().unwrap().clone();
        fetched.dedup();
        assert_eq!(
            fetched,
            [
                "config.json",
                "special_tokens_map.json",
                "modules.json",
                "sentence_distilbert_config.json",
                "vocab.txt",
                "pool/config.json",
                "2_Dense/config.json",
                "2_Dense/model.safetensors",
                "model.safetensors.index.json",
                "a.safetensors",
                "b.safetensors"
            ]
        );
        let again = search("org/name", true, &around);
        assert_eq!(again.0.unwrap().source, BackboneSource::HuggingFaceCache);
        assert!(again.1.is_empty(), "{:?}", again.1);
        // Half a model is completed.
        fs::remove_file(found.folder.join("b.safetensors")).unwrap();
        assert!(search("org/name", true, &around).0.is_err());
        search("org/name", false, &around).0.unwrap();
        fs::remove_file(found.folder.join("2_Dense/model.safetensors")).unwrap();
        let (partial, log) = search("org/name", true, &around);
        assert!(partial.is_ok() && log[0].contains("without all"), "{log:?}");
        search("org/name", false, &around).0.unwrap();
        assert!(found.folder.join("2_Dense/model.safetensors").exists());
    }

    #[test]
    fn repositories_that_are_of_no_use_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = bare(dir.path());
        around.hub.endpoint = serve(&[("config.json", CONTENT), ("tokenizer.json", CONTENT)]).0;
        for (name, says) in [
            ("org/name", "org/name has no model.safetensors"),
            ("org/other", "404"),
        ] {
            let error = search(name, false, &around).0.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        // What is there is named, and nothing large was fetched for it.
        const OWN: &[u8] = br#"[{"name": "0", "path": "0_BERT", "type": "sentence_transformers.models.Transformer"}]"#;
        for (files, says) in [
            (
                &[
                    ("modules.json", OWN),
                    ("0_BERT/config.json", CONTENT),
                    ("0_BERT/model.safetensors", CONTENT),
                ],
                "move its files into the model folder",
            ),
            (
                &[
                    ("adapter_config.json", CONTENT),
                    ("config.json", CONTENT),
                    ("model.safetensors", CONTENT),
                ],
                "adapter_config.json: an adapter changes the weights",
            ),
        ] as [(&'static [File], &str); 2]
        {
            let mut around = bare(dir.path());
            let (endpoint, asked) = serve(files);
            around.hub.endpoint = endpoint;
            let error = search("org/name", false, &around).0.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            let asked = asked.lock().unwrap();
            assert!(asked.iter().all(|file| file == "modules.json"), "{asked:?}");
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
