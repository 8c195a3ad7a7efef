//! `train-verifier`, `calibrate`, `verify` and `explain --verifier` through the command line: what they make, what they
//! answer, what they refuse.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nearmiss::train::curve::{self, CURVE};
use serde_json::Value;

const ANIMALS: [&str; 6] = ["dog", "cat", "man", "bird", "child", "cow"];

/// A scratch folder with pairs of 60 anchors, of two sources.
struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let scratch = Scratch {
            dir: tempfile::tempdir().unwrap(),
        };
        let [near, same] = pairs(0..60);
        scratch.put("near.csv", &near);
        scratch.put("same.csv", &same);
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, command: &str) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_run-study"));
        program
            .env("NEARMISS_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("hf"))
            .env_remove("NEARMISS_BACKBONE")
            .current_dir(self.dir.path())
            .args([command, "--device", "cpu"]);
        program
    }

    fn run(&self, command: &str, more: &[&str]) -> Output {
        self.command(command).args(more).output().unwrap()
    }

    /// Six steps on the pairs, into `results/guard`, of which a fifth is kept aside.
    fn training(&self) -> Command {
        let mut command = self.command("train-verifier");
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-2x64");
        command.arg("--backbone").arg(model);
        command.args(["--steps", "6", "--batch", "4", "--checkpoint-every", "2"]);
        command.args(["--max-length", "16", "--keep-aside", "0.2"]);
        command.args(["--true-accept", "0.8"]);
        command
    }

    fn train(&self, more: &[&str]) -> Output {
        let files = ["--pairs", "near.csv", "--paraphrases", "same.csv"];
        self.training().args(files).args(more).output().unwrap()
    }

    /// Makes the guard accept everything from here on.
    fn set_threshold(&self, threshold: f64) {
        let path = self.path("results/guard/verifier/verifier.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["calibration"]["threshold"] = threshold.into();
        fs::write(path, config.to_string()).unwrap();
    }

    fn threshold(&self) -> f64 {
        let path = self.path("results/guard/verifier/verifier.json");
        let config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        config["calibration"]["threshold"].as_f64().unwrap()
    }
}

/// Near-misses and paraphrases of anchors, as CSV.
fn pairs(anchors: std::ops::Range<usize>) -> [String; 2] {
    let mut near = String::from("sentence1,sentence2,category,source\n");
    let mut same = String::from("sentence1,sentence2,source\n");
    for i in anchors {
        let [a, b] = [i, i + 1].map(|i| ANIMALS[i % 6]);
        let source = ["farm", "town"][i % 2];
        let category = ["role", "negation"][i % 2];
        let other = match i % 2 {
            0 => format!("the {b} sees {i} the {a}"),
            _ => format!("the {a} sees {i} no {b}"),
        };
        near += &format!("the {a} sees {i} the {b},{other},{category},{source}\n");
        same += &format!("the {a} sees {i} the {b},{i} the {b} is seen by the {a},{source}\n");
    }
    [near, same]
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One line begins with `error:` and holds the needles; the exit code is `code`.
fn fails(output: &Output, code: i32, needles: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    for needle in needles {
        assert!(
            errors[0].contains(needle),
            "`{needle}` is not in: {}",
            errors[0]
        );
    }
}

/// It ends with this exit code and without an error.
fn ends(output: &Output, code: i32) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("error:"), "{text}");
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stdout(output)))
}

#[test]
fn from_pairs_to_a_guard_that_is_asked_calibrated_and_explained() {
    let s = Scratch::new();
    let output = s.train(&[]);
    ends(&output, 0);
    let (said, log) = (stdout(&output), stderr(&output));
    let guard = "results/guard/verifier";
    for part in [
        guard,
        "6 steps of 4",
        "curve.svg",
        "threshold ",
        "| all | 12 / 12 |",
        "| role | - / ",
        "| from farm | ",
        "| hard | ",
        "untrained cosine: AUC",
    ] {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    assert!(log.contains("near.csv: 60 near-misses"), "{log}");
    let aside = "kept aside: 12 pairs of equal meaning, 12 near-misses";
    assert!(log.contains(aside), "{log}");
    for file in ["curve.jsonl", "curve.svg", "kept-aside/paraphrases.csv"] {
        assert!(s.path("results/guard").join(file).exists(), "{file}");
    }

    // One pair: the exit code is the answer, whatever it is.
    let ask = |more: &[&str]| s.run("verify", more);
    let texts = ["the dog sees the cat", "the cat sees the dog"];
    s.set_threshold(-2.0);
    let output = ask(&texts);
    ends(&output, 0);
    let said = stdout(&output);
    assert!(
        said.starts_with("accept (score ") && said.ends_with("threshold -2.0000)\n"),
        "{said}"
    );
    s.set_threshold(2.0);
    let output = ask(&[&texts[..], &["--json", "--quiet"]].concat());
    ends(&output, 3);
    let verdict = json(&output);
    assert_eq!(
        (&verdict["accepted"], &verdict["sentence2"]),
        (&false.into(), &texts[1].into())
    );
    assert_eq!(stderr(&output), "");

    // Many pairs, of a file: the same scores as one by one.
    s.put(
        "ask.csv",
        &format!(
            "id,sentence1,sentence2\n1,{},{}\n2,a dog,\"a dog,\na cat\"\n",
            texts[0], texts[1]
        ),
    );
    let output = ask(&["--pairs", "ask.csv", "--verifier", guard, "--json"]);
    ends(&output, 3);
    let said = stdout(&output);
    let rows: Vec<Value> = said
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], verdict);
    assert_eq!(rows[1]["sentence2"], "a dog,\na cat");
    let between = rows.iter().map(|row| row["score"].as_f64().unwrap());
    s.set_threshold(between.fold(f64::INFINITY, f64::min));
    let output = ask(&["--pairs", "ask.csv"]);
    ends(&output, 0);
    let said = stdout(&output);
    let last: Vec<&str> = said.lines().last().unwrap().split('\t').collect();
    assert_eq!(
        (last[0], last[3], last[4]),
        ("accept", "a dog", "a dog, a cat")
    );

    // Calibrated by other pairs.
    let [near, same] = pairs(60..90);
    s.put("new_near.csv", &near);
    s.put("new_same.csv", &same);
    s.set_threshold(0.25);
    let calibrate = |more: &[&str]| {
        s.run(
            "calibrate",
            &[&["--paraphrases", "new_same.csv"], more].concat(),
        )
    };
    let output = calibrate(&["--pairs", "new_near.csv", "--dry-run"]);
    ends(&output, 0);
    let said = stdout(&output);
    for part in [
        "accepts 96.7 % of 30",
        "of 30 near-misses",
        "it stays 0.2500",
        "before: rejected",
        "| negation |",
    ] {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    assert_eq!(s.threshold(), 0.25);
    // By thresholds of other pairs: of 30 groups a fold has 6, and the lowest of 24 is no threshold for 95 %.
    for (rate, part) in [
        (
            "0.8",
            "cross-fitted: thresholds from other pairs (5 folds, 30 groups",
        ),
        (
            "0.95",
            "no cross-fitted rates: accepts outside of a fold: 24; at least 39",
        ),
    ] {
        let asked = ["--dry-run", "--folds", "5", "--true-accept", rate];
        let output = calibrate(&[&["--pairs", "new_near.csv"], &asked[..]].concat());
        ends(&output, 0);
        let said = stdout(&output);
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    assert_eq!(s.threshold(), 0.25);
    let output = calibrate(&["--pairs", "new_near.csv", "--json"]);
    ends(&output, 0);
    let found = json(&output);
    assert_eq!(found["before"]["threshold"], 0.25);
    assert_eq!(
        found["calibration"]["threshold"].as_f64().unwrap(),
        s.threshold()
    );
    assert_eq!(
        (&found["stored"], &found["pairs"]["judges"][0]["name"]),
        (&true.into(), &"new".into())
    );
    let output = calibrate(&["--true-accept", "0.5"]);
    ends(&output, 0);
    assert!(
        stdout(&output).contains("what that lets in is not known"),
        "{}",
        stdout(&output)
    );

    // Explained.
    let output = s.run(
        "explain",
        &[&["--verifier", guard, "--svg", "x.svg"], &texts[..]].concat(),
    );
    ends(&output, 0);
    let said = stdout(&output);
    assert!(
        said.contains("verifier f4: ") && said.contains("what its score rests on most"),
        "{said}"
    );
    assert!(
        fs::read_to_string(s.path("x.svg"))
            .unwrap()
            .contains("what the score of verifier f4")
    );

    // A guard that was trained is not trained again, and its threshold is the user's.
    let before = s.threshold();
    let output = s.train(&["--json"]);
    ends(&output, 0);
    assert!(
        stderr(&output).contains("its threshold stays as it is"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        json(&output)["calibration"]["threshold"].as_f64().unwrap(),
        before
    );
    fails(
        &s.train(&["--steps", "7"]),
        1,
        &["`steps` is 6 there and 7 here", "another folder"],
    );
    fails(
        &s.train(&["--seed", "7"]),
        1,
        &["`seed` is 42 there and 7 here"],
    );
}

#[test]
fn triplets_and_other_scorers_give_guards_too() {
    let s = Scratch::new();
    let row = |i: usize| {
        let [a, b] = [i, i + 1].map(|i| ANIMALS[i % 6]);
        format!(
            "{{\"anchor\": \"the {a} sees {i} the {b}\", \"positive\": \"{i} the {b} is seen by the {a}\", \"negative\": \"the {b} sees {i} the {a}\"}}\n"
        )
    };
    s.put("rows.jsonl", &(0..60).map(row).collect::<String>());
    for (out, more) in [
        ("binary", &[][..]),
        ("softmax", &["--objective", "softmax"]),
        ("f1", &["--verifier", "f1", "--objective", "pairwise"]),
        ("none", &["--verifier", "none"]),
    ] {
        let mut command = s.training();
        command.args(["--triplets", "rows.jsonl", "--out", out, "--json"]);
        let output = command.args(more).output().unwrap();
        ends(&output, 0);
        let found = json(&output);
        assert_eq!(
            (&found["rows"], &found["calibration"]["accepts"]),
            (&48.into(), &12.into())
        );
        let verifier = format!("{out}/verifier");
        let asked = s.run("verify", &["--verifier", &verifier, "a dog", "a dog"]);
        assert!(
            [Some(0), Some(3)].contains(&asked.status.code()),
            "{}",
            stderr(&asked)
        );
    }
    // One that reads no map has a verdict all the same.
    let output = s.run(
        "explain",
        &["--verifier", "none/verifier", "a dog", "a cat"],
    );
    ends(&output, 0);
    assert!(!stdout(&output).contains("rests on"), "{}", stdout(&output));
}

#[test]
fn an_encoder_that_stays_as_it_is_is_not_in_the_folder() {
    let s = Scratch::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-2x64");
    fs::create_dir_all(s.path("model/1_Pooling")).unwrap();
    for file in [
        "config.json",
        "tokenizer.json",
        "modules.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ] {
        fs::copy(golden.join(file), s.path("model").join(file)).unwrap();
    }
    let training = s.train(&["--frozen", "--backbone", "model", "--threads", "1"]);
    ends(&training, 0);
    assert!(!s.path("results/guard/verifier/encoder").exists());
    // Found from another folder.
    let verifier = s.path("results/guard/verifier");
    fs::create_dir(s.path("elsewhere")).unwrap();
    let mut command = s.command("verify");
    command
        .current_dir(s.path("elsewhere"))
        .arg("--verifier")
        .arg(verifier);
    let output = command.args(["a dog", "a cat"]).output().unwrap();
    assert!(
        [Some(0), Some(3)].contains(&output.status.code()),
        "{}",
        stderr(&output)
    );
    // It is that encoder or none.
    let other = golden
        .parent()
        .unwrap()
        .join("tiny-bert-3x96/model.safetensors");
    fs::copy(other, s.path("model/model.safetensors")).unwrap();
    let output = s.run("verify", &["a dog", "a cat"]);
    fails(
        &output,
        1,
        &["verifier.json", "it was trained on the encoder"],
    );
}

#[cfg(unix)]
#[test]
fn a_training_that_was_stopped_goes_on_where_it_was() {
    let s = Scratch::new();
    let more = ["--steps", "250", "--checkpoint-every", "50"];
    ends(&s.train(&[&more[..], &["--out", "unbroken"]].concat()), 0);
    let files = [
        "--pairs",
        "near.csv",
        "--paraphrases",
        "same.csv",
        "--out",
        "broken",
    ];
    let mut command = s.training();
    command
        .args(files)
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let start = Instant::now();
    let curve = s.path("broken").join(CURVE);
    while fs::read(&curve).map_or(0, |text| text.len()) < 300 {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "no steps for two minutes"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .output();
    assert!(sent.unwrap().status.success());
    let output = child.wait_with_output().unwrap();
    fails(
        &output,
        1,
        &["stopped after step", "of 250", "the same command goes on"],
    );
    assert!(!s.path("broken/verifier").exists());
    let output = s.train(&[&more[..], &["--out", "broken"]].concat());
    ends(&output, 0);
    assert!(
        stderr(&output).contains("going on after step"),
        "{}",
        stderr(&output)
    );
    let bytes = |out: &str, file: &str| fs::read(s.path(out).join("verifier").join(file)).unwrap();
    for file in ["verifier.safetensors", "encoder/model.safetensors"] {
        assert!(bytes("broken", file) == bytes("unbroken", file), "{file}");
    }
    assert_eq!(curve::read(&curve).unwrap().len(), 250);
}

#[test]
fn pairs_are_judged_as_they_come() {
    let s = Scratch::new();
    ends(&s.train(&[]), 0);
    let start = || {
        let mut command = s.command("verify");
        command
            .args(["--pairs", "-", "--quiet"])
            .stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    s.set_threshold(-2.0);
    let mut child = start();
    let (mut to, mut from) = (
        child.stdin.take().unwrap(),
        BufReader::new(child.stdout.take().unwrap()),
    );
    to.write_all(b"sentence1,sentence2\n").unwrap();
    for i in 0..3 {
        // Each verdict is there before the next question.
        writeln!(to, "dog {i},cat {i}").unwrap();
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        assert!(
            line.starts_with("accept\t") && line.ends_with(&format!("\tdog {i}\tcat {i}\n")),
            "{line}"
        );
    }
    // What is wrong is said behind the verdicts before it.
    to.write_all(b"a cow,a dog\na cow,\n").unwrap();
    drop(to);
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    assert!(line.ends_with("\ta cow\ta dog\n"), "{line}");
    let output = child.wait_with_output().unwrap();
    fails(&output, 1, &["standard input: line 6: sentence2 is empty"]);
    // Nobody reads any more.
    let mut child = start();
    drop(child.stdout.take());
    let mut to = child.stdin.take().unwrap();
    let many: String = (0..3000).map(|i| format!("dog {i},cat {i}\n")).collect();
    let _ = write!(to, "sentence1,sentence2\n{many}");
    drop(to);
    ends(&child.wait_with_output().unwrap(), 0);
}

#[test]
fn guards_that_cannot_be_trained() {
    let s = Scratch::new();
    fails(
        &s.train(&["--keep-aside", "0.05"]),
        1,
        &["3 of 60 pairs", "takes 5 or more", "as 0.1"],
    );
    fails(
        &s.train(&["--keep-aside", "0"]),
        2,
        &["`keep_aside` is 0", "--keep-aside"],
    );
    fails(
        &s.train(&["--true-accept", "1"]),
        2,
        &["`true_accept` is 1", "--true-accept"],
    );
    fails(
        &s.train(&["--verifier-learning-rate", "2"]),
        2,
        &["--verifier-learning-rate"],
    );
    fails(
        &s.train(&["--batch", "200"]),
        1,
        &["training rows are fewer than a batch of 200"],
    );
    let frozen = ["--frozen", "--verifier", "f1"];
    fails(&s.train(&frozen), 2, &["f1 has no weights", "--frozen"]);
    fails(&s.train(&["--objective", "softmax"]), 2, &["--triplets"]);
    s.put(
        "wrong.csv",
        "sentence1,sentence2\nthe cat sees 1 no man,the cat sees 1 the man\n",
    );
    let output = s.train(&["--paraphrases", "wrong.csv"]);
    fails(
        &output,
        1,
        &["near.csv", "wrong.csv", "the cat sees 1 the man"],
    );
    s.put("columns.csv", "sentence1,text\na,b\n");
    fails(
        &s.train(&["--paraphrases", "columns.csv"]),
        1,
        &["columns.csv", "no column `sentence2`"],
    );
    for wrong in [
        &["train-verifier"][..],
        &["train-verifier", "--pairs", "near.csv"],
        &[
            "train-verifier",
            "--pairs",
            "near.csv",
            "--paraphrases",
            "same.csv",
            "--triplets",
            "x.csv",
        ],
        &["train-verifier", "--triplets", "x.csv", "--verifier", "f9"],
        &[
            "train-verifier",
            "--triplets",
            "x.csv",
            "--frozen",
            "--learning-rate",
            "0.1",
        ],
        &["calibrate"],
        &["verify"],
        &["verify", "one text"],
        &["verify", "--pairs", "near.csv", "a", "b"],
    ] {
        let output = s.run(wrong[0], &wrong[1..]);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{wrong:?}: {}",
            stderr(&output)
        );
    }
    assert!(!s.path("results/guard/verifier").exists());
}

#[test]
fn guards_that_cannot_be_asked() {
    let s = Scratch::new();
    let ask = |more: &[&str]| s.run("verify", more);
    let texts = ["a dog", "a cat"];
    fails(
        &ask(&texts),
        1,
        &[
            "results/guard/verifier",
            "not the folder of a verifier",
            "train-verifier",
        ],
    );
    ends(&s.train(&[]), 0);
    // Without one's own, the one of the study is asked.
    fs::rename(s.path("results/guard"), s.path("results/study-guard")).unwrap();
    fails(&ask(&["a dog", "  "]), 1, &["the second text is empty"]);
    fs::rename(s.path("results/study-guard"), s.path("results/guard")).unwrap();
    fails(&ask(&["a dog", "  "]), 1, &["the second text is empty"]);
    fails(&ask(&["--pairs", "nowhere.csv"]), 1, &["nowhere.csv"]);
    s.put("columns.csv", "sentence1,text\na,b\n");
    fails(
        &ask(&["--pairs", "columns.csv"]),
        1,
        &["columns.csv", "no column `sentence2`"],
    );
    let few = ["--paraphrases", "columns.csv"];
    fails(&s.run("calibrate", &few), 1, &["columns.csv", "sentence2"]);
    s.put("few.csv", "sentence1,sentence2\na,b\n");
    let few = ["--paraphrases", "few.csv"];
    fails(
        &s.run("calibrate", &few),
        1,
        &["1 pairs of equal meaning are too few", "20 or more"],
    );
    let both = [
        "--paraphrases",
        "same.csv",
        "few.csv",
        "--pairs",
        "wrong.csv",
    ];
    s.put("wrong.csv", "sentence1,sentence2,category\nb,a,role\n");
    fails(
        &s.run("calibrate", &both),
        1,
        &["wrong.csv", "in few.csv", "\"b\" and \"a\""],
    );

    let folder = s.path("results/guard/verifier");
    let config = fs::read_to_string(folder.join("verifier.json")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(config.contains(from), "{config}");
        fs::write(folder.join("verifier.json"), config.replace(from, to)).unwrap();
        ask(&texts)
    };
    fails(
        &with("\"width\": 64", "\"width\": 128"),
        1,
        &["verifier.json", "128 wide", "64 wide"],
    );
    fails(&with("\"f4\"", "\"f9\""), 1, &["verifier.json", "f9"]);
    fails(
        &with("\"version\": 1", "\"version\": 9"),
        1,
        &["verifier.json", "version 9"],
    );
    fails(&with("{", "["), 1, &["verifier.json"]);
    let uncalibrated = {
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["calibration"] = Value::Null;
        config.to_string()
    };
    fs::write(folder.join("verifier.json"), uncalibrated).unwrap();
    fails(&ask(&texts), 1, &["no threshold", "calibrate"]);
    fs::write(folder.join("verifier.json"), &config).unwrap();
    let weights = fs::read(folder.join("verifier.safetensors")).unwrap();
    fs::write(
        folder.join("verifier.safetensors"),
        &weights[..weights.len() / 2],
    )
    .unwrap();
    fails(
        &ask(&texts),
        1,
        &["verifier.safetensors", "not a complete safetensors file"],
    );
}
