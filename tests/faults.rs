//! Bad input, through the command line: one clear line on stderr that names what and where, the right exit code,
//! and nothing half-written.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

fn golden() -> PathBuf {
    // Named when it runs, if the program was carried to another machine.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/golden/tiny-bert-2x64")
}

/// A scratch folder with a model, a small collection and room for results.
struct Scratch {
    dir: tempfile::TempDir,
}

const CORPUS: &str = r#"{"_id": "d1", "title": "Dogs", "text": "the dog bites the man"}
{"_id": "d2", "title": "", "text": "a man walks"}
{"_id": "d3", "title": "", "text": ""}
"#;
const QUERIES: &str = r#"{"_id": "q1", "text": "who bites the man?"}
{"_id": "q2", "text": "who walks?"}
"#;
const QRELS: &str = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n";

impl Scratch {
    fn new() -> Self {
        let scratch = Scratch {
            dir: tempfile::tempdir().unwrap(),
        };
        for file in fs::read_dir(golden()).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                scratch.put(
                    &format!("model/{}", file.file_name().display()),
                    &fs::read(file.path()).unwrap(),
                );
            }
        }
        let pooling = fs::read(golden().join("1_Pooling/config.json")).unwrap();
        scratch.put("model/1_Pooling/config.json", &pooling);
        scratch.put("data/corpus.jsonl", CORPUS.as_bytes());
        scratch.put("data/queries.jsonl", QUERIES.as_bytes());
        scratch.put("data/qrels/test.tsv", QRELS.as_bytes());
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// So many near-misses as `pairs.csv`, and their paraphrases as `para.csv`.
    fn put_pairs(&self, anchors: usize) {
        let [near_misses, paraphrases] = pairs(anchors);
        self.put("pairs.csv", near_misses.as_bytes());
        self.put("para.csv", paraphrases.as_bytes());
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Changes one tensor of the model.
    fn damage(&self, name: &str, change: impl Fn(&mut Vec<f32>, &mut Vec<usize>)) {
        let bytes = fs::read(self.path("model/model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut changed: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (tensor, view) in tensors.tensors() {
            let (mut shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
            if tensor == name {
                let mut values: Vec<f32> = data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                change(&mut values, &mut shape);
                data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            }
            changed.push((tensor, view.dtype(), shape, data));
        }
        let views = changed.iter().map(|(name, dtype, shape, data)| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        fs::write(
            self.path("model/model.safetensors"),
            safetensors::serialize(views, None).unwrap(),
        )
        .unwrap();
    }

    fn command(&self) -> Command {
        self.surround(Command::new(program()))
    }

    /// A command with this folder around it.
    fn surround(&self, mut command: Command) -> Command {
        command
            .env("NEARMISS_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("hf"))
            .env_remove("NEARMISS_BACKBONE")
            .current_dir(self.dir.path());
        command
    }

    /// The program where files may not grow beyond so many blocks of 512 bytes or 1 KiB, which is what a full disk is: a write
    /// that fails amid the output. The signal that comes with the error would end the program.
    #[cfg(unix)]
    fn full_disk(&self, blocks: usize) -> Command {
        let limited = format!(r#"trap "" XFSZ && ulimit -f {blocks} && exec "$0" "$@""#);
        let mut command = self.surround(Command::new("sh"));
        command.args(["-c".as_ref(), limited.as_ref(), program().as_os_str()]);
        command
    }

    fn retrieve(&self, more: &[&str]) -> Output {
        self.command()
            .args([
                "retrieve",
                "--device",
                "cpu",
                "--backbone",
                "model",
                "--data",
                "data",
                "--out",
                "out",
            ])
            .args(more)
            .output()
            .unwrap()
    }
}

/// The executable: the one that was carried to this machine, else the one that was built here.
fn program() -> OsString {
    let carried = std::env::var_os("NEARMISS_RUN_STUDY");
    carried.unwrap_or(env!("CARGO_BIN_EXE_run-study").into())
}

/// The one line that begins with `error:`; the exit code must be `code`, and no panic may show.
fn fails(output: &Output, code: i32, needles: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(
        stderr.trim_end().ends_with(errors[0]) || code == 2,
        "the error is the last word: {stderr}"
    );
    for needle in needles {
        assert!(
            errors[0].contains(needle),
            "`{needle}` is not in: {}",
            errors[0]
        );
    }
}

#[test]
fn a_good_run_writes_everything_and_reports_the_empty_document() {
    let s = Scratch::new();
    s.put(
        "data/qrels/test.tsv",
        format!("{QRELS}q1\tnowhere\t1\nq9\td1\t1\nq2\td3\t0\n").as_bytes(),
    );
    let output = s.retrieve(&[]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for note in [
        "not in corpus.jsonl",
        "not in queries.jsonl",
        "empty documents",
        "| cosine |",
    ] {
        assert!(stdout.contains(note), "`{note}` is not in {stdout}");
    }
    let run = fs::read_dir(s.path("out"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for file in [
        "config.json",
        "metrics.json",
        "report.md",
        "per_query.jsonl",
        "times.json",
        "provenance.json",
    ] {
        assert!(run.join(file).exists(), "{file}");
    }
    let lines = fs::read_to_string(run.join("per_query.jsonl")).unwrap();
    assert!(
        lines.contains("\"d3\"") && !lines.contains("null"),
        "the empty document is ranked, with a number"
    );
    // The same again: equal files, but for the times.
    let metrics = fs::read(run.join("metrics.json")).unwrap();
    assert!(s.retrieve(&["--threads", "1"]).status.success());
    assert_eq!(fs::read(run.join("metrics.json")).unwrap(), metrics);
    assert_eq!(
        fs::read_dir(s.path("out")).unwrap().count(),
        1,
        "equal configurations share a folder"
    );
}

#[test]
fn damaged_models() {
    let s = Scratch::new();
    fs::remove_file(s.path("model/tokenizer.json")).unwrap();
    fails(&s.retrieve(&[]), 1, &["tokenizer.json"]);

    let s = Scratch::new();
    let weight = "encoder.layer.0.output.dense.weight";
    s.damage(weight, |_, shape| shape.reverse());
    fails(
        &s.retrieve(&[]),
        1,
        &[
            "model.safetensors",
            weight,
            "expected shape [64, 256]",
            "got [256, 64]",
        ],
    );

    let s = Scratch::new();
    s.damage(weight, |values, _| values[7] = f32::NAN);
    fails(
        &s.retrieve(&[]),
        1,
        &["model.safetensors", weight, "element 7 is NaN"],
    );

    let s = Scratch::new();
    let bytes = fs::read(s.path("model/model.safetensors")).unwrap();
    s.put("model/model.safetensors", &bytes[..bytes.len() / 2]);
    fails(
        &s.retrieve(&[]),
        1,
        &["model.safetensors", "not a complete safetensors file"],
    );

    let s = Scratch::new();
    fails(
        &s.retrieve(&["--backbone", "nowhere/at/all"]),
        1,
        &["nowhere/at/all", "no such folder"],
    );
    fails(&s.retrieve(&["--max-length", "4000"]), 2, &["4000"]);
}

#[test]
fn damaged_collections() {
    let s = Scratch::new();
    s.put("data/corpus.jsonl", b"");
    fails(&s.retrieve(&[]), 1, &["corpus.jsonl"]);
    s.put(
        "data/corpus.jsonl",
        format!("{CORPUS}{{\"_id\": \"d1\", \"text\": \"again\"}}\n").as_bytes(),
    );
    fails(&s.retrieve(&[]), 1, &["corpus.jsonl", "d1", "line 4"]);
    s.put(
        "data/corpus.jsonl",
        b"{\"_id\": \"d1\", \"text\": \"caf\xe9\"}\n",
    );
    fails(&s.retrieve(&[]), 1, &["corpus.jsonl", "line 1", "UTF-8"]);
    s.put("data/corpus.jsonl", CORPUS.as_bytes());
    s.put(
        "data/qrels/test.tsv",
        b"query-id\tcorpus-id\tscore\nq1\td1\tyes\n",
    );
    fails(&s.retrieve(&[]), 1, &["test.tsv", "2"]);
    // Of several collections all are read before anything is measured.
    s.put("data/qrels/test.tsv", QRELS.as_bytes());
    fails(&s.retrieve(&["--data", "nowhere"]), 1, &["nowhere"]);
    assert!(!s.path("out").exists() || fs::read_dir(s.path("out")).unwrap().next().is_none());
}

#[test]
fn a_text_that_cannot_be_tokenised_is_named_by_its_id() {
    let s = Scratch::new();
    let tokenizer = fs::read_to_string(s.path("model/tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    // A vocabulary without an unknown token has no way out; a BertTokenizer would name another.
    let class = br#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#;
    s.put("model/tokenizer_config.json", class);
    tokenizer["model"]["unk_token"] = "[NONE]".into();
    s.put("model/tokenizer.json", tokenizer.to_string().as_bytes());
    // More than are tokenised at a time, and two that fail: the first in the list is the one to hear of.
    let rest: String = (0..2060)
        .map(|i| {
            let text = if i == 2050 || i > 2057 {
                "\u{2603}"
            } else {
                "a cat"
            };
            format!("{{\"_id\": \"n{i}\", \"text\": \"{text}\"}}\n")
        })
        .collect();
    s.put("data/corpus.jsonl", format!("{CORPUS}{rest}").as_bytes());
    let needles = ["document n2050 cannot be tokenised", "tokenizer.json"];
    fails(&s.retrieve(&[]), 1, &needles);
    let encode = |input: &str, output: &str| {
        let options = [
            "encode",
            "--device",
            "cpu",
            "--backbone",
            "model",
            "--output",
            output,
        ];
        let mut command = s.command();
        command
            .args(options)
            .args(input.split(' '))
            .output()
            .unwrap()
    };
    s.put("texts", "\u{feff}a cat\n\na \u{2603}\n".as_bytes());
    for output in ["x.npy", "x.safetensors"] {
        let needles = ["line 3 of texts cannot be tokenised"];
        fails(&encode("--texts texts", output), 1, &needles);
        let needles = ["document n2050 cannot be tokenised"];
        fails(&encode("--data data", output), 1, &needles);
        assert!(!s.path(output).exists());
    }
    s.put("texts", b"a cat\na dog\ra man\r");
    fails(&encode("--texts texts", "x.npy"), 1, &["texts: line 2"]);
    // Pairs are encoded in the order of their first sentences: this text is the last of about 2,200.
    let [near_misses, _] = pairs(1100);
    let last = "zebras walk,\u{2603} walks,role,here\n";
    s.put("pairs.csv", format!("{near_misses}{last}").as_bytes());
    let needles = ["the text \"\u{2603} walks\" cannot be tokenised"];
    fails(&s.near_miss(&["--pairs", "pairs.csv"]), 1, &needles);
}

#[test]
fn places_that_cannot_be_written() {
    let s = Scratch::new();
    s.put("file", b"in the way");
    fails(
        &s.retrieve(&["--out", "file/results"]),
        1,
        &["file/results"],
    );
    let encode = |output: &str| {
        s.put("texts", b"one\n\ntwo words\n");
        s.command()
            .args([
                "encode",
                "--device",
                "cpu",
                "--backbone",
                "model",
                "--texts",
                "texts",
                "--output",
                output,
            ])
            .output()
            .unwrap()
    };
    fails(&encode("file/x.npy"), 1, &["file"]);
    fails(&encode("x.txt"), 2, &["x.txt", ".npy"]);
    let good = encode("x.npy");
    assert!(
        good.status.success(),
        "{}",
        String::from_utf8_lossy(&good.stderr)
    );
    let index =
        nearmiss::index::VectorIndex::from_npy(s.path("x.npy"), &nearmiss::Device::cpu()).unwrap();
    assert_eq!((index.len(), index.width()), (3, 64));
    assert!(encode("x.safetensors").status.success());
    let index =
        nearmiss::index::VectorIndex::open(s.path("x.safetensors"), &nearmiss::Device::cpu())
            .unwrap();
    assert_eq!(index.len(), 3);
    assert!(
        index
            .vector(1)
            .unwrap()
            .expect("the second text")
            .iter()
            .all(|v| f16::from_f32(*v).is_finite())
    );
}

#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing_that_was_there() {
    let s = Scratch::new();
    let full = s.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x.npy"), b"old").unwrap();
    let texts: String = (0..200).map(|i| format!("text number {i}\n")).collect();
    s.put("texts", texts.as_bytes());
    let arguments = "encode --device cpu --backbone model --texts texts --output full/x.npy";
    let output = s.full_disk(16).args(arguments.split(' ')).output().unwrap();
    fails(&output, 1, &["x.npy"]);
    let left = fs::read_dir(&full).unwrap().count();
    assert_eq!(
        (fs::read(full.join("x.npy")).unwrap(), left),
        (b"old".to_vec(), 1)
    );
}

/// What was measured is told before it is saved, as tables and as JSON.
#[cfg(unix)]
#[test]
fn numbers_that_cannot_be_saved_are_told() {
    let s = Scratch::new();
    let arguments = "retrieve --device cpu --backbone model --data data --out out";
    for (json, told) in [(None, "| cosine |"), (Some("--json"), "\"ndcg@10\"")] {
        let mut command = s.full_disk(1);
        let output = command.args(arguments.split(' ')).args(json).output();
        let output = output.unwrap();
        fails(&output, 1, &["out"]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains(told), "{stdout}");
        if json.is_some() {
            let found: Value = serde_json::from_str(&stdout).unwrap();
            assert_eq!(found.as_array().unwrap().len(), 1);
        }
    }
}

#[test]
fn missing_devices_and_wrong_usage() {
    let s = Scratch::new();
    fails(&s.retrieve(&["--device", "gpu"]), 2, &["`gpu`", "vulkan"]);
    fails(
        &s.retrieve(&["--device", "cuda:99"]),
        1,
        &["cuda:99", "available here: cpu"],
    );
    fails(&s.retrieve(&["--threads", "0"]), 2, &["--threads"]);
    fails(
        &s.retrieve(&["--threads", "100000"]),
        2,
        &["--threads 100000: give 1 to"],
    );
    fails(&s.retrieve(&["--memory", "lots"]), 2, &["--memory lots"]);
    let output = s
        .command()
        .args(["retrieve", "--nonsense"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let output = s.command().arg("devices").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("cpu"));
}

/// Near-misses of `n` anchors in a CSV: each has a swap, and a paraphrase in the other file.
fn pairs(n: usize) -> [String; 2] {
    const NAMES: [&str; 6] = ["cat", "dog", "man", "bird", "fish", "cow"];
    let mut near_misses = String::from("sentence1,sentence2,category,source\n");
    let mut paraphrases = String::from("sentence1,sentence2,source\n");
    for i in 0..n {
        let [a, b] = [i, i + 1].map(|i| NAMES[i % NAMES.len()]);
        near_misses += &format!("the {a} sees {i} {b},the {b} sees {i} {a},role,here\n");
        paraphrases += &format!("the {a} sees {i} {b},{i} {b} is seen by the {a},here\n");
    }
    [near_misses, paraphrases]
}

impl Scratch {
    fn near_miss(&self, more: &[&str]) -> Output {
        let options = [
            "near-miss",
            "--device",
            "cpu",
            "--backbone",
            "model",
            "--out",
            "out",
        ];
        self.command().args(options).args(more).output().unwrap()
    }
}

#[test]
fn odd_pairs_are_kept_or_counted() {
    let s = Scratch::new();
    let [near_misses, paraphrases] = pairs(80);
    let odd = [
        "\"a man walks\",,negation,here",
        "the man walks,the man walks,negation,here",
        "the man walks,negatives_placeholder,negation,here",
        "the man runs,the man ran,tense shift,here",
    ];
    s.put(
        "pairs.csv",
        format!("{near_misses}{}\n", odd.join("\n")).as_bytes(),
    );
    s.put("para.csv", paraphrases.as_bytes());
    let files = ["--pairs", "pairs.csv", "--paraphrases", "para.csv"];
    let output = s.near_miss(&files);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for line in ["tense shift", "role", "empty", "equal", "marker"] {
        assert!(stdout.contains(line), "`{line}` is not in {stdout}");
    }
    // One pair of a category is no basis for a rate, and that is said.
    assert!(
        stdout.contains("No numbers for tense shift: ")
            && stdout.contains("at least 30 are needed"),
        "{stdout}"
    );
    let tokens = s.near_miss(&[&files[..], &["--verifier-length", "5"]].concat());
    let stdout = String::from_utf8_lossy(&tokens.stdout);
    assert!(
        stdout.contains("cut at the verifiers' length limit: "),
        "{stdout}"
    );
}

#[test]
fn pairs_that_cannot_be_evaluated() {
    let s = Scratch::new();
    fails(
        &s.near_miss(&["--pairs", "nowhere.csv"]),
        1,
        &["nowhere.csv"],
    );
    s.put("pairs.csv", b"text,category\na,b\n");
    fails(
        &s.near_miss(&["--pairs", "pairs.csv"]),
        1,
        &["pairs.csv", "sentence1"],
    );
    s.put("pairs.csv", b"sentence1,sentence2,category\n");
    fails(&s.near_miss(&["--pairs", "pairs.csv"]), 1, &["pairs.csv"]);
    s.put(
        "pairs.csv",
        b"sentence1,sentence2,category\na b,c d,role\nx\n",
    );
    fails(
        &s.near_miss(&["--pairs", "pairs.csv"]),
        1,
        &["pairs.csv", "3"],
    );
    // A stray quote, which would take the rows behind it for its field.
    let [near_misses, paraphrases] = pairs(80);
    let stray = near_misses.replace(",the man sees 1 dog", ",\"the man sees 1 dog");
    assert_ne!(stray, near_misses);
    s.put("pairs.csv", stray.as_bytes());
    s.put("para.csv", paraphrases.as_bytes());
    let files = ["--pairs", "pairs.csv", "--paraphrases", "para.csv"];
    let needles = ["pairs.csv: line 3: a quote opens here", "never closed"];
    fails(&s.near_miss(&files), 1, &needles);
    // Closed by a quote at the end of a later field, it is a field with line ends, and said to be.
    let closed = stray.replace("the cat sees 5 cow,role", "the cat sees 5 cow\",role");
    assert_ne!(closed, stray);
    s.put("pairs.csv", closed.as_bytes());
    let output = s.near_miss(&files);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("opens in line 3, the longest has 5 lines"),
        "{stdout}"
    );

    s.put_pairs(8);
    // Too few for any rate: described, not judged.
    let output = s.near_miss(&["--pairs", "pairs.csv", "--paraphrases", "para.csv"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(stdout.contains("No numbers for"), "{stdout}");
    fails(&s.near_miss(&["--verifiers", "f9"]), 2, &["f9", "f1"]);
    fails(&s.near_miss(&["--resamples", "0"]), 2, &["--resamples"]);
    fails(
        &s.near_miss(&["--paraphrases", "para.csv"]),
        2,
        &["required"],
    );
    let explain = |texts: [&str; 2]| {
        let options = [
            "explain",
            "--device",
            "cpu",
            "--backbone",
            "model",
            "--out",
            "out",
        ];
        s.command().args(options).args(texts).output().unwrap()
    };
    fails(&explain(["the man", "  "]), 1, &["second text is empty"]);
    let output = explain(["the dog bites the man", "the man bites the dog"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("f1"));
    assert!(s.path("out/explain.svg").exists());
    let output = s.command().args(["--collection", "moon"]).output().unwrap();
    fails(&output, 2, &["moon", "lighthouse-archive"]);
}

/// The lines of a Markdown table, split into cells as Markdown does it: at every `|` that no backslash escapes.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => cells.last_mut().unwrap().extend(rest.next()),
            '|' => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    let inner = &cells[1..cells.len() - 1];
    inner.iter().map(|cell| cell.trim().to_string()).collect()
}

#[test]
fn odd_names_break_no_table_and_no_line() {
    let s = Scratch::new();
    let odd = [
        "a|b",
        "back\\slash\\",
        "`code`",
        "two\nlines",
        "tab\there",
        "\u{1b}[31mred",
        "\u{202e}right",
        "zero\u{200b}width",
        "<b>bold</b>",
    ];
    let quoted = |text: &str| format!("\"{text}\"");
    let mut near_misses = String::from("sentence1,sentence2,category,source\n");
    let mut paraphrases = String::from("sentence1,sentence2,source\n");
    for (i, name) in odd.iter().cycle().take(9 * odd.len()).enumerate() {
        let name = quoted(name);
        near_misses += &format!("the cat sees {i} dog,the dog sees {i} cat,{name},{name}\n");
        paraphrases += &format!("the cat sees {i} dog,{i} dog is seen by the cat,{name}\n");
    }
    let file = "pairs |`x`\n\u{1b}[2J.csv";
    s.put(file, near_misses.as_bytes());
    s.put("para.csv", paraphrases.as_bytes());
    let options = [
        "--minimum",
        "3",
        "--resamples",
        "20",
        "--paraphrases",
        "para.csv",
    ];
    let output = s.near_miss(&[&["--pairs", file][..], &options].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let folder = results(&s, "near-miss").pop().unwrap();
    let report = fs::read_to_string(folder.join("report.md")).unwrap();
    for text in [&stdout, &stderr, &report] {
        let hidden = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{200b}".contains(c);
        assert!(!text.contains(hidden), "{text:?}");
    }
    for text in [&stdout, &report] {
        let mut columns = 0;
        let mut names = std::collections::HashSet::new();
        for line in text.lines() {
            if !line.starts_with('|') {
                columns = 0;
                continue;
            }
            let cells = cells(line);
            assert!(columns == 0 || columns == cells.len(), "{line}");
            columns = cells.len();
            names.extend(cells);
        }
        for name in [
            "a|b",
            "back\\slash\\",
            "`code`",
            "two lines",
            "tab here",
            "\\u{1b}[31mred",
            "<b>bold</b>",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }
    let json = s.near_miss(&[&["--json", "--pairs", file][..], &options].concat());
    let text = String::from_utf8(json.stdout).unwrap();
    assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{200b}']));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let names = value[0]["scorers"][0]["evaluation"]["categories"].to_string();
    assert!(names.contains("\u{202e}right"), "{names}");
    // An error is a line, whatever the file is called.
    let damaged = "a\nb.csv";
    s.put(damaged, b"nothing\n");
    fails(
        &s.near_miss(&["--pairs", damaged]),
        1,
        &["a b.csv", "sentence1"],
    );
}

#[test]
fn nothing_is_said_of_sources_or_of_means_that_are_not_there() {
    let s = Scratch::new();
    let [near_misses, paraphrases] = pairs(80);
    let without = |text: &str| text.replace(",source", "").replace(",here", "");
    s.put("pairs.csv", without(&near_misses).as_bytes());
    s.put("para.csv", without(&paraphrases).as_bytes());
    let quick = ["--resamples", "20"];
    let files = ["--pairs", "pairs.csv", "--paraphrases", "para.csv"];
    let output = s.near_miss(&[&files[..], &quick].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && !stdout.contains("without"),
        "{stdout}"
    );
    assert!(!stdout.contains("source"), "{stdout}");
    let folder = results(&s, "near-miss").pop().unwrap();
    let report = fs::read_to_string(folder.join("report.md")).unwrap();
    assert!(!report.contains("source"), "{report}");

    // No accepts: no mean of theirs, in the table and in JSON.
    let output = s.near_miss(&[&files[..2], &quick].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let accepts = stdout.lines().find(|l| l.starts_with("| (accepts) |"));
    let accepts = cells(accepts.unwrap_or_else(|| panic!("{stdout}")));
    assert_eq!(accepts[1], "0");
    assert!(accepts[2..].iter().all(|cell| cell == "-"), "{accepts:?}");
    let json = s.near_miss(&[&["--json"][..], &files[..2], &quick].concat());
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let all = &value[0]["scorers"][0]["evaluation"]["all"];
    assert_eq!(
        all["accepts"],
        serde_json::json!({"n": 0, "mean": null, "std": null})
    );
    assert!(all["near_misses"]["mean"].is_number());
    fails(
        &s.near_miss(&["--resamples", "1000000000"]),
        2,
        &["--resamples 1000000000: give 1 to"],
    );
}

/// Every command that prints, with what it needs beside `--backbone`; `guard` and `trained` are folders for what it writes.
fn commands() -> Vec<Vec<&'static str>> {
    let run = ["--device", "cpu", "--backbone", "model", "--out", "out"];
    let with = |command: &'static str, more: &[&'static str]| [&[command][..], &run, more].concat();
    let files = ["--pairs", "pairs.csv", "--paraphrases", "para.csv"];
    let quick = ["--resamples", "20"];
    vec![
        vec!["--help"],
        vec!["devices"],
        vec!["devices", "--json"],
        vec!["ops"],
        vec!["kernel", "matmul"],
        with("retrieve", &["--data", "data"]),
        with("retrieve", &["--data", "data", "--json"]),
        with("near-miss", &[&files[..], &quick].concat()),
        with(
            "geometry",
            &[&["--data", "data", "--preset", "smoke"][..], &files].concat(),
        ),
        with("explain", &["the dog", "the man"]),
        with("explain", &["the dog", "the man", "--json"]),
        with("encode", &["--data", "data", "--output", "x.npy", "--json"]),
    ]
}

/// Who reads goes away, or cannot take more: every command ends in order, and says what it could not say.
#[cfg(target_os = "linux")]
#[test]
fn streams_that_end_early_end_no_command_in_disorder() {
    use std::process::Stdio;
    let s = Scratch::new();
    s.put_pairs(80);
    let full = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for arguments in commands() {
        let command = || {
            let mut command = s.command();
            command.args(&arguments).stdin(Stdio::null());
            command
        };
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
        // A reader of one of the two that is gone before anything comes.
        for which in [1, 2] {
            let mut command = command();
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            match which {
                1 => drop(child.stdout.take()),
                _ => drop(child.stderr.take()),
            }
            let output = child.wait_with_output().unwrap();
            let stderr = said(&output);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{arguments:?} {which}: {stderr}"
            );
            assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
            assert!(which == 1 || !output.stdout.is_empty(), "{arguments:?}");
        }
        // Streams that were closed beforehand.
        for closed in [r#"exec "$0" "$@" >&-"#, r#"exec "$0" "$@" 2>&-"#] {
            let output = s
                .surround(Command::new("sh"))
                .args(["-c".as_ref(), closed.as_ref(), program().as_os_str()])
                .args(&arguments)
                .output()
                .unwrap();
            let stderr = said(&output);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{arguments:?} {closed}: {stderr}"
            );
            assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
        }
        // A full disk: without data it is a failure, without progress it is not.
        let output = command().stdout(full()).output().unwrap();
        fails(&output, 1, &["cannot write stdout: No space left"]);
        let output = command().stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    // What was measured is saved though it could not be shown.
    fs::remove_dir_all(s.path("out")).unwrap();
    let mut command = s.command();
    command.args(&commands()[5]).stdout(full());
    fails(&command.output().unwrap(), 1, &["cannot write stdout"]);
    assert!(results(&s, "retrieve")[0].join("metrics.json").exists());
}

#[test]
fn places_are_tried_before_anything_is_done() {
    let s = Scratch::new();
    s.put("file", b"in the way");
    s.put_pairs(300);
    s.put(
        "rows.csv",
        b"anchor,positive,negative\na cat,the cat,a dog\na man,the man,a cow\n",
    );
    s.put("texts", b"one\n");
    let files = ["--pairs", "pairs.csv", "--paraphrases", "para.csv"];
    let run = |arguments: &[&str]| {
        // No such encoder: what is said of the place is said before one is looked for.
        let nowhere = [
            "--device",
            "cpu",
            "--backbone",
            "no/such/encoder",
            "--offline",
        ];
        s.command().args(arguments).args(nowhere).output().unwrap()
    };
    let before: Vec<_> = fs::read_dir(s.dir.path())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    for out in ["file", "file/deeper/still"] {
        let with = |arguments: &[&'static str]| run(&[arguments, &["--out", out]].concat());
        for output in [
            with(&["retrieve", "--data", "data"]),
            with(&[&["near-miss"][..], &files].concat()),
            with(&["geometry", "--data", "data"]),
            with(&["experiment-1", "--preset", "smoke"]),
            with(&["experiment-2", "--preset", "smoke"]),
            with(&["train", "--triplets", "rows.csv"]),
            with(&[&["train-verifier", "--steps", "1"][..], &files].concat()),
        ] {
            fails(&output, 1, &["file"]);
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!stderr.contains("no/such/encoder"), "{stderr}");
        }
    }
    let output = run(&["encode", "--texts", "texts", "--output", "file/x.npy"]);
    fails(&output, 1, &["file", "is a file, where a folder is needed"]);
    fs::create_dir(s.path("folder.npy")).unwrap();
    let output = run(&["encode", "--texts", "texts", "--output", "folder.npy"]);
    fails(&output, 1, &["folder.npy: is a folder; name a file in it"]);
    fs::remove_dir(s.path("folder.npy")).unwrap();
    // A place that is fine is left as it was when something else is wrong.
    for arguments in [
        &["retrieve", "--data", "data", "--out", "new"][..],
        &["train", "--triplets", "rows.csv", "--out", "new/model"],
        &[&["train-verifier", "--out", "new/guard"][..], &files].concat(),
        &["encode", "--texts", "texts", "--output", "new/x.npy"],
    ] {
        fails(&run(arguments), 1, &["no/such/encoder"]);
    }
    let after: Vec<_> = fs::read_dir(s.dir.path())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(before.len(), after.len(), "{after:?}");

    // What was compared is shown before the picture is saved.
    let explain = |more: &[&str]| {
        let mut command = s.command();
        command.args([
            "explain",
            "--device",
            "cpu",
            "--backbone",
            "model",
            "the dog",
            "the man",
        ]);
        command.args(more).output().unwrap()
    };
    let output = explain(&["--out", "file"]);
    fails(&output, 1, &["the picture could not be saved", "--svg"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("f1 "));
    assert!(
        explain(&["--out", "file", "--svg", "here.svg"])
            .status
            .success()
    );
    assert!(s.path("here.svg").exists());
}

#[test]
fn files_are_read_as_people_have_them() {
    let s = Scratch::new();
    // Documents alone can be encoded.
    s.put(
        "corpus/corpus.jsonl",
        format!("{CORPUS}{CORPUS}").as_bytes(),
    );
    let output = s
        .command()
        .args([
            "encode",
            "--device",
            "cpu",
            "--backbone",
            "model",
            "--data",
            "corpus",
        ])
        .args(["--output", "x.npy", "--json"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["texts"], &value["width"]), (&3.into(), &64.into()));
    assert!(
        value["notes"].to_string().contains("read once: 3"),
        "{value}"
    );
    // TREC's judgements, and grades below 0.
    s.put("data/qrels/test.tsv", b"q1 0 d1 1\nq1 0 d2 -1\nq2 0 d2 1\n");
    let output = s.retrieve(&[]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(
        stdout.contains("3 documents, 2 queries, 3 judgements"),
        "{stdout}"
    );
    assert!(
        stdout.contains("TREC's four columns") && stdout.contains("below 0"),
        "{stdout}"
    );
    // Files that are none.
    s.put("pairs.csv", b"PK\x03\x04\x14\0\x06\0\x08\0");
    fails(
        &s.near_miss(&["--pairs", "pairs.csv"]),
        1,
        &["pairs.csv", ".xlsx"],
    );
    s.put("pairs.csv", b"\xff\xfes\0e\0n\0t\0");
    fails(
        &s.near_miss(&["--pairs", "pairs.csv"]),
        1,
        &["pairs.csv", "UTF-16"],
    );
    s.put("data/corpus.jsonl", b"\x1f\x8b\x08\0\0\0\0\0");
    fails(&s.retrieve(&[]), 1, &["corpus.jsonl", "gzip"]);
}

#[test]
fn columns_that_carry_meaning_are_not_passed_over() {
    let s = Scratch::new();
    let train = |file: &str| {
        let options = [
            "train",
            "--device",
            "cpu",
            "--backbone",
            "model",
            "--out",
            "trained",
        ];
        let mut command = s.command();
        command.args(options).args(["--triplets", file]);
        command.output().unwrap()
    };
    s.put(
        "mined.csv",
        b"anchor,positive,negative_1,negative_2\na,b,c,d\n",
    );
    let needles = [
        "mined.csv: line 1: names `negative_1`",
        "rename one to negative",
    ];
    fails(&train("mined.csv"), 1, &needles);
    assert!(!s.path("trained").exists());
    s.put_pairs(8);
    s.put(
        "paws.csv",
        b"id,sentence1,sentence2,label\n1,a b,b a,0\n2,a c,c a,1\n",
    );
    let with = |paraphrases| s.near_miss(&["--pairs", "pairs.csv", "--paraphrases", paraphrases]);
    fails(
        &with("paws.csv"),
        1,
        &["paws.csv: has a column `label`", "leave the column out"],
    );
    fails(
        &with("pairs.csv"),
        1,
        &["pairs.csv: has a column `category`", "give paraphrases"],
    );
    for command in ["calibrate", "train-verifier"] {
        let files = ["--pairs", "pairs.csv", "--paraphrases", "paws.csv"];
        let mut output = s.command();
        output.args([command, "--device", "cpu"]).args(files);
        if command == "train-verifier" {
            output.args(["--backbone", "model", "--out", "guard"]);
        }
        let output = output.output().unwrap();
        fails(&output, 1, &["paws.csv: has a column `label`"]);
    }
    let said = s.path("para.csv");
    let more = fs::read_to_string(&said).unwrap().replace("here", "here,1");
    fs::write(&said, more.replace("source", "source,id")).unwrap();
    let output = with("para.csv");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("paraphrases: columns that are not read: id"),
        "{stdout}"
    );
}

#[test]
fn a_collection_cut_down_too_far_says_how_far_it_can_be() {
    let s = Scratch::new();
    let all = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t1\n";
    let corpus = format!("{CORPUS}{}", CORPUS.replace("\"d", "\"e"));
    s.put("data/corpus.jsonl", corpus.as_bytes());
    s.put("data/qrels/test.tsv", all.as_bytes());
    let cut = |n| s.retrieve(&["--documents", n]);
    fails(
        &cut("3"),
        2,
        &["--documents 3", "of data", "give 4 or more"],
    );
    assert!(cut("4").status.success());
    // Three of six are half of all that there are.
    let more = format!("{all}q1\td3\t1\n");
    s.put("data/qrels/test.tsv", more.as_bytes());
    fails(&cut("5"), 2, &["--documents 5", "leave --documents out"]);
    s.put(
        "data/qrels/test.tsv",
        b"query-id\tcorpus-id\tscore\nq1\td9\t1\n",
    );
    fails(
        &cut("5"),
        2,
        &["no query of data has a relevant document in corpus.jsonl"],
    );
}

#[test]
fn no_network_and_nothing_cached() {
    let s = Scratch::new();
    let output = s
        .command()
        .args(["--offline", "--device", "cpu", "--out", "out"])
        .output()
        .unwrap();
    fails(&output, 1, &["give a model folder", "cache"]);
}

#[test]
fn the_library_knows_no_options_and_the_program_names_them() {
    let s = Scratch::new();
    let length = |option: &str, n: &str| s.retrieve(&[option, n]);
    fails(
        &length("--max-length", "4000"),
        2,
        &["4000", "positions", "(options: --max-length"],
    );
    fails(
        &length("--verifier-length", "2"),
        2,
        &["2 tokens", "--verifier-length"],
    );
    fails(
        &s.retrieve(&["--device", "cuda:99"]),
        1,
        &["cuda:99", "(options: --device)"],
    );
}

/// What is in the folders of results, by the beginning of their names.
fn results(s: &Scratch, stage: &str) -> Vec<PathBuf> {
    let folders = fs::read_dir(s.path("out")).unwrap();
    let folders = folders.map(|folder| folder.unwrap().path());
    folders
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(stage)
        })
        .collect()
}

#[test]
fn runs_on_other_triplets_do_not_share_a_folder() {
    let s = Scratch::new();
    let [near_misses, paraphrases] = pairs(20);
    s.put("pairs.csv", near_misses.as_bytes());
    s.put("paraphrases.csv", paraphrases.as_bytes());
    s.put("a.csv", b"anchor,positive,negative\na cat,the cat,a dog\n");
    s.put(
        "b.csv",
        b"anchor,positive,negative\na cat,the cat,a man\na dog,the dog,a man\n",
    );
    let run = |more: &[&str]| {
        let files = ["--pairs", "pairs.csv", "--paraphrases", "paraphrases.csv"];
        let quick = ["--resamples", "20"];
        let output = s.near_miss(&[&files[..], &quick, more].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        results(&s, "near-miss-pairs-").len()
    };
    assert_eq!(run(&[]), 1);
    assert_eq!(run(&["--triplets", "a.csv"]), 2);
    assert_eq!(run(&["--triplets", "b.csv"]), 3);
    assert_eq!(run(&["--triplets", "b.csv", "--triplet-sample", "1"]), 4);
    // Nothing that bears on a number.
    assert_eq!(run(&["--threads", "1", "--memory", "1MB"]), 4);
    for folder in results(&s, "near-miss-pairs-") {
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let (config, provenance) = (read("config.json"), read("provenance.json"));
        for word in ["\"device\"", "\"version\""] {
            assert!(
                provenance.contains(word) && !config.contains(word),
                "{word}"
            );
        }
    }
}
