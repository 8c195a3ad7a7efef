//! `run-study train` and the experiments through the command line: what they refuse, what a kill costs, what is there at
//! the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nearmiss::train::checkpoint::CHECKPOINT;
use nearmiss::train::curve::{self, CURVE};
use nearmiss::train::{FolderLock, Point};

/// A scratch folder with training rows.
struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// 24 rows, all different.
    fn new() -> Self {
        let scratch = Scratch {
            dir: tempfile::tempdir().unwrap(),
        };
        let row = |i: usize| {
            let [a, b] = [i / 5, i % 5].map(|i| ["dog", "cat", "man", "bird", "child"][i]);
            format!("who sees the {a} {i},the {b} sees the {a} {i},the {a} {i} sees no {b}\n")
        };
        let rows: String = (0..24).map(row).collect();
        scratch.put("rows.csv", &format!("anchor,positive,negative\n{rows}"));
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
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-2x64");
        program
            .env("NEARMISS_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("hf"))
            .current_dir(self.dir.path())
            .args([command, "--device", "cpu", "--backbone"])
            .arg(model);
        program
    }

    /// Trains on `rows` into the folder `model`, 12 steps of 4 with a checkpoint every third.
    fn training(&self, rows: &str, model: &str) -> Command {
        let mut command = self.command("train");
        command.args([
            "--triplets",
            rows,
            "--out",
            model,
            "--batch",
            "4",
            "--steps",
            "12",
        ]);
        command.args([
            "--checkpoint-every",
            "3",
            "--max-length",
            "16",
            "--learning-rate",
            "0.001",
        ]);
        command
    }

    fn train(&self, rows: &str, more: &[&str]) -> Output {
        self.training(rows, "model").args(more).output().unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The last word is one line that begins with `error:` and holds the needles; the exit code is `code`.
fn fails(output: &Output, code: i32, needles: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(text.trim_end().ends_with(errors[0]) || code == 2, "{text}");
    for needle in needles {
        assert!(
            errors[0].contains(needle),
            "`{needle}` is not in: {}",
            errors[0]
        );
    }
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

#[test]
fn rows_that_cannot_be_trained_on() {
    let s = Scratch::new();
    s.put("wrong.csv", "query,answer\na,b\n");
    let wanted = [
        "wrong.csv",
        "query, answer",
        "anchor, positive and negative",
    ];
    fails(&s.train("wrong.csv", &[]), 1, &wanted);
    s.put("empty.csv", "\n");
    fails(
        &s.train("empty.csv", &[]),
        1,
        &["empty.csv", "no column names"],
    );
    s.put("tabs.tsv", "anchor\tpositive\na\tb\n");
    fails(&s.train("tabs.tsv", &[]), 1, &["tabs.tsv", "by commas"]);
    s.put("list.json", "[{\"anchor\": \"a\", \"positive\": \"b\"}]\n");
    fails(
        &s.train("list.json", &[]),
        1,
        &["line 1", "one object a line"],
    );
    s.put(
        "few.csv",
        "anchor,positive,negative\na dog,the dog,no dog\na cat,the cat,no cat\n",
    );
    fails(
        &s.train("few.csv", &[]),
        1,
        &["2 training rows are fewer than a batch of 4"],
    );
    s.put("none.csv", "anchor,positive,negative\na,,n\n");
    fails(
        &s.train("none.csv", &[]),
        1,
        &["none.csv", "no usable row", "empty field"],
    );
    fails(&s.train("nowhere.csv", &[]), 1, &["nowhere.csv"]);
    fails(
        &s.train("rows.csv", &["--batch", "0"]),
        2,
        &["`batch` is 0", "--batch"],
    );
    fails(
        &s.train("rows.csv", &["--learning-rate", "2"]),
        2,
        &["learning_rate"],
    );
    fails(&s.train("rows.csv", &["--out", "/"]), 2, &["--out"]);
    fs::create_dir(s.path("taken")).unwrap();
    fails(
        &s.train("rows.csv", &["--out", "taken"]),
        1,
        &["taken", "exists already"],
    );
    assert!(!s.path("model").exists());
    let no_file = s.command("train").output().unwrap();
    assert_eq!(no_file.status.code(), Some(2));
}

#[test]
fn rows_that_are_odd_are_counted() {
    let s = Scratch::new();
    let rows = fs::read_to_string(s.path("rows.csv")).unwrap();
    s.put("odd.csv", &format!("{rows}same,one,one\nme,you,me\n,x,y\n"));
    let output = s.train("odd.csv", &["--steps", "1"]);
    succeeds(&output);
    let text = stderr(&output);
    assert!(text.contains("odd.csv: 24 rows"), "{text}");
    assert!(text.contains("empty field, left out: 1"), "{text}");
    assert!(
        text.contains("negative equals their positive or anchor, left out: 2"),
        "{text}"
    );
    let kept = s.train(
        "odd.csv",
        &["--steps", "1", "--keep-identical", "--out", "kept"],
    );
    succeeds(&kept);
    let text = stderr(&kept);
    assert!(
        text.contains("odd.csv: 26 rows") && text.contains("or anchor, kept: 2"),
        "{text}"
    );
}

#[test]
fn other_forms_of_rows_give_models_too() {
    let s = Scratch::new();
    let rows = |form: fn(usize) -> String| (0..8).map(form).collect::<String>();
    let pairs = rows(|i| format!("{{\"anchor\": \"who is {i}\", \"positive\": \"it is {i}\"}}\n"));
    s.put("pairs.jsonl", &pairs);
    let near = rows(|i| format!("the dog sees {i},{i} sees the dog,role\n"));
    let near = format!("sentence1,sentence2,category\n{near}");
    let path = s.path("near.csv.gz");
    let mut file =
        flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), Default::default());
    std::io::Write::write_all(&mut file, near.as_bytes()).unwrap();
    file.finish().unwrap();
    for (model, more) in [
        ("random", &[][..]),
        ("bm25", &["--negatives", "bm25"]),
        ("mined", &["--negatives", "encoder"]),
    ] {
        let mut command = s.command("train");
        command.args(["--triplets", "pairs.jsonl", "near.csv.gz", "--out", model]);
        command.args([
            "--batch",
            "4",
            "--steps",
            "2",
            "--max-length",
            "16",
            "--json",
        ]);
        let output = command.args(more).output().unwrap();
        succeeds(&output);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&said["rows"], &said["plan"]["steps"]),
            (&16.into(), &2.into())
        );
        assert!(s.path(model).join("model.safetensors").exists());
    }
}

#[test]
fn few_pairs_are_enough() {
    let s = Scratch::new();
    let rows: String = (0..40)
        .map(|i| format!("question {i},answer {i}\n"))
        .collect();
    s.put("few.csv", &format!("anchor,positive\n{rows}"));
    let mut command = s.command("train");
    command.args(["--triplets", "few.csv", "--out", "few", "--json"]);
    let output = command.output().unwrap();
    succeeds(&output);
    assert!(stderr(&output).contains("no batch of 32 rows is without duplicate sentences"));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Its only step has a learning rate above 0.
    let plan = &found["plan"];
    assert_eq!([&plan["steps"], &plan["warmup_steps"]], [1, 0]);
}

/// Rows are tokenised ahead by a thread of their own, in the pool that trains.
#[test]
fn one_thread_is_enough() {
    let s = Scratch::new();
    succeeds(&s.train("rows.csv", &["--threads", "1"]));
}

#[test]
fn the_model_is_a_backbone_and_training_it_twice_is_refused() {
    let s = Scratch::new();
    succeeds(&s.train("rows.csv", &[]));
    for file in [
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
    ] {
        assert!(s.path("model").join(file).exists(), "{file}");
    }
    let settings = fs::read_to_string(s.path("model/sentence_bert_config.json")).unwrap();
    assert!(settings.contains("\"max_seq_length\": 16"), "{settings}");
    let points = curve::read(&s.path("model.training").join(CURVE)).unwrap();
    assert_eq!(points.len(), 12);
    assert!(
        points[9..].iter().all(|p| p.loss < points[0].loss),
        "the loss falls"
    );
    assert!(s.path("model.training/curve.svg").exists());
    fails(&s.train("rows.csv", &[]), 1, &["model", "exists already"]);
    let first = weights(&s, "model");
    fs::remove_dir_all(s.path("model")).unwrap();
    succeeds(&s.train("rows.csv", &[]));
    assert_eq!(weights(&s, "model"), first);
    s.put("texts.txt", "the dog sees\n");
    let output = s
        .command("encode")
        .args([
            "--backbone",
            "model",
            "--texts",
            "texts.txt",
            "--output",
            "e.npy",
        ])
        .output()
        .unwrap();
    succeeds(&output);
    // The same rows and seed give the same bits; another seed others.
    succeeds(&s.train("rows.csv", &["--out", "again"]));
    succeeds(&s.train("rows.csv", &["--out", "other", "--seed", "7"]));
    assert_eq!(weights(&s, "again"), weights(&s, "model"));
    assert_ne!(weights(&s, "other"), weights(&s, "model"));
}

fn weights(s: &Scratch, model: &str) -> Vec<u8> {
    fs::read(s.path(model).join("model.safetensors")).unwrap()
}

#[test]
fn one_training_at_a_time() {
    let s = Scratch::new();
    let lock = FolderLock::take(&s.path("model.training")).unwrap();
    fails(
        &s.train("rows.csv", &[]),
        1,
        &["another training", "name another folder"],
    );
    drop(lock);
    succeeds(&s.train("rows.csv", &[]));
}

#[cfg(target_os = "linux")]
#[test]
fn messages_that_nobody_reads_cost_nothing() {
    let s = Scratch::new();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = s.training("rows.csv", "model");
    assert!(command.stderr(full).status().unwrap().success());
    assert!(s.path("model").exists());
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut again = s.training("rows.csv", "model");
    assert_eq!(again.stderr(full).status().unwrap().code(), Some(1));
}

/// Steps that a training's curve has; while it is written its last line may be in the making.
fn steps_of(folder: &Path) -> u64 {
    let text = fs::read_to_string(folder.join(CURVE)).unwrap_or_default();
    let mut points = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Point>(line).ok());
    points.next_back().map_or(0, |point| point.step)
}

/// Waits until the training in `folder` has done `steps` steps, or has ended.
fn wait_for(child: &mut Child, folder: &Path, steps: u64) {
    let start = Instant::now();
    while steps_of(folder) < steps && child.try_wait().unwrap().is_none() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "no step for two minutes"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_kill_loses_at_most_the_steps_since_the_last_checkpoint() {
    let s = Scratch::new();
    succeeds(&s.train("rows.csv", &["--out", "unbroken"]));
    let folder = s.path("model.training");
    let start = |s: &Scratch| {
        let mut command = s.training("rows.csv", "model");
        command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // At random points, of one training after the other: before the first step, between checkpoints, behind one.
    let mut random = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    let mut kept = 0;
    for steps in [0, 2, 4, 5, 7, 10] {
        let mut child = start(&s);
        wait_for(&mut child, &folder, steps);
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_micros(u64::from(random % 30_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        if s.path("model").exists() {
            break;
        }
        // What is in the checkpoint is everything but the steps since it was due.
        let done = steps_of(&folder);
        let checkpoint = fs::read(folder.join(CHECKPOINT)).unwrap_or_default();
        let from = step_in(&checkpoint);
        assert!(from >= kept, "a checkpoint went back from {kept} to {from}");
        assert!(
            done <= from + 3,
            "{done} steps were done, the checkpoint has {from}"
        );
        kept = from;
    }
    let last = start(&s).wait_with_output().unwrap();
    if !s.path("model").exists() {
        succeeds(&last);
    }
    assert_eq!(weights(&s, "model"), weights(&s, "unbroken"));
    let points = |name: &str| -> Vec<(u64, f32)> {
        let points = curve::read(&s.path(name).join(CURVE)).unwrap();
        points.iter().map(|p| (p.step, p.loss)).collect()
    };
    assert_eq!(points("model.training"), points("unbroken.training"));
}

/// The step that a checkpoint says it is of; 0 without one.
fn step_in(checkpoint: &[u8]) -> u64 {
    let Some(length) = checkpoint.first_chunk::<8>() else {
        return 0;
    };
    let header = &checkpoint[8..8 + u64::from_le_bytes(*length) as usize];
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let notes = header["__metadata__"].as_object().unwrap();
    let entry = notes.values().next().unwrap().as_str().unwrap();
    let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
    entry["state"]["step"].as_u64().unwrap()
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_a_checkpoint_and_says_how_to_go_on() {
    let s = Scratch::new();
    let folder = s.path("model.training");
    let mut before = 0;
    // Each may come twice for one wish: `timeout` sends its signal to the program and again to its group.
    for signals in [
        &["-INT"][..],
        &["-INT", "-INT"],
        &["-TERM", "-TERM"],
        &["-HUP", "-HUP"],
    ] {
        let mut command = s.training("rows.csv", "model");
        command
            .args(["--steps", "5000"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        wait_for(&mut child, &folder, before + 2);
        let id = child.id().to_string();
        for (i, signal) in signals.iter().enumerate() {
            let sent = Command::new("kill").args([signal, &id[..]]).output();
            // The program may be at its end before the second.
            assert!(sent.unwrap().status.success() || i > 0);
        }
        let output = child.wait_with_output().unwrap();
        fails(
            &output,
            1,
            &["stopped after step", "of 5000", "the same command goes on"],
        );
        let step = step_in(&fs::read(folder.join(CHECKPOINT)).unwrap());
        // No step is lost, the one before the wish included.
        assert_eq!(step, steps_of(&folder));
        assert!(step >= before + 2, "{step} after {before}");
        before = step;
    }
    assert!(!s.path("model").exists());
    // It is the training of these options alone.
    fails(&s.train("rows.csv", &[]), 1, &["steps", "5000", "12"]);
}

#[test]
fn an_experiment_goes_on_where_it_was_and_does_nothing_twice() {
    let s = Scratch::new();
    let run = |more: &[&str]| {
        let mut command = s.command("experiment-1");
        command.args([
            "--preset",
            "smoke",
            "--resamples",
            "50",
            "--minimum",
            "5",
            "--out",
            "out",
        ]);
        command
            .args(["--steps", "2", "--json"])
            .args(more)
            .output()
            .unwrap()
    };
    let first = run(&[]);
    succeeds(&first);
    let files = |prefix: &str| folders(&s, prefix);
    assert_eq!(
        [
            files("train-").len(),
            files("measure-").len(),
            files("experiment-1-").len()
        ],
        [2, 3, 1]
    );
    // A model keeps the length limit of its training.
    let settings = files("train-")[0].join("model/sentence_bert_config.json");
    assert!(
        fs::read_to_string(settings)
            .unwrap()
            .contains("\"max_seq_length\": 32")
    );
    let result = &files("experiment-1-")[0];
    let read = |name: &str| fs::read(result.join(name)).unwrap();
    let (metrics, rows) = (read("metrics.json"), read("measured.jsonl"));
    let modified = |path: &Path| {
        fs::metadata(path.join("curve.jsonl"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let trained: Vec<_> = files("train-").iter().map(|path| modified(path)).collect();
    // Another arm needs one more training, and what is there stays as it is.
    let second = run(&["--arms", "A,B,B-own"]);
    succeeds(&second);
    assert!(stderr(&second).contains("A, seed 42: measured before"));
    assert_eq!(
        [
            files("train-").len(),
            files("measure-").len(),
            files("experiment-1-").len()
        ],
        [3, 4, 2]
    );
    let kept: Vec<_> = files("train-")
        .iter()
        .filter(|p| !p.to_str().unwrap().contains("B-own"))
        .map(|path| modified(path))
        .collect();
    assert_eq!(kept, trained);
    // The first again: the same bytes, whether measured or read.
    let third = run(&[]);
    succeeds(&third);
    assert_eq!(
        (read("metrics.json"), read("measured.jsonl")),
        (metrics, rows)
    );
    assert_eq!(third.stdout, first.stdout);
    let found: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    let found = &found[0];
    assert_eq!(found["stage"], "experiment-1");
    let models: Vec<&str> = found["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["model"].as_str().unwrap())
        .collect();
    assert_eq!(models, ["Base", "A, seed 42", "B, seed 42"]);
}

/// The folders of results that begin so, in the order of their names.
fn folders(s: &Scratch, prefix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(s.path("out")).unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    let begins = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix)
    };
    let mut kept: Vec<PathBuf> = all.filter(begins).collect();
    kept.sort();
    kept
}

/// Experiment 2 at its smallest.
fn second_experiment(s: &Scratch, more: &[&str]) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-3x96");
    let mut command = s.command("experiment-2");
    command.arg("--backbone").arg(model);
    command.args(["--preset", "smoke", "--resamples", "50", "--minimum", "5"]);
    command.args(["--out", "out", "--json"]);
    command.args(more).output().unwrap()
}

#[test]
fn second_stages_are_trained_once_and_the_guard_is_left() {
    let s = Scratch::new();
    let first = second_experiment(&s, &[]);
    succeeds(&first);
    let count = |prefix: &str| folders(&s, prefix).len();
    // f4 frozen on two kinds of positives, f4 and f1 with their encoder, the guard; the cosine and scorers as they are.
    let counts = || ["train-", "measure-", "experiment-2-"].map(count);
    assert_eq!(counts(), [5, 10, 1]);
    let found: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    let found = &found[0];
    assert_eq!(found["stage"], "experiment-2");
    let models: Vec<&str> = found["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["model"].as_str().unwrap())
        .collect();
    assert_eq!(models[..3], ["pooled", "none", "f0"]);
    assert_eq!(models.last(), Some(&"guard, seed 42"));
    let config = fs::read_to_string(s.path("out/study-guard/verifier/verifier.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let threshold = &config["calibration"]["threshold"];
    assert!(threshold.is_f64() && *threshold == found["guard"]["threshold"]);
    let report = folders(&s, "experiment-2-")[0].join("report.md");
    let report = fs::read_to_string(report).unwrap();
    for title in [
        "## Re-ranking",
        "## Rejection of near-misses",
        "## Positives of structural rows",
        "## Findings",
        "## The guard",
        "## Hard pairs",
        "## As a semantic cache",
    ] {
        assert!(report.contains(title), "{title}");
    }
    // The same again trains and measures nothing.
    let modified = || -> Vec<_> {
        let curves = folders(&s, "train-")
            .into_iter()
            .map(|path| path.join(CURVE));
        let files = curves.chain([s.path("out/study-guard/verifier/verifier.json")]);
        files
            .map(|file| fs::metadata(file).unwrap().modified().unwrap())
            .collect()
    };
    let before = modified();
    let second = second_experiment(&s, &[]);
    succeeds(&second);
    assert_eq!(
        (&second.stdout, modified()),
        (&first.stdout, before.clone())
    );
    assert!(stderr(&second).contains("guard, seed 42: measured before"));
    // What others have in common with it is there already, too.
    let part = ["--verifiers", "f1,f4", "--training", "frozen", "--no-guard"];
    succeeds(&second_experiment(&s, &part));
    assert_eq!((counts(), modified()), ([5, 10, 2], before));
    // A measurement that is gone is made again, of the model that is there.
    let measured = folders(&s, "measure-");
    let frozen = measured
        .iter()
        .find(|p| p.to_str().unwrap().contains("-f4-frozen-identity-"));
    fs::remove_dir_all(frozen.unwrap()).unwrap();
    let third = second_experiment(&s, &[]);
    succeeds(&third);
    assert_eq!((third.stdout, counts()), (first.stdout, [5, 10, 2]));
}

#[test]
fn second_experiments_that_cannot_be() {
    let s = Scratch::new();
    for (more, needles) in [
        (
            &["--verifiers", "f9"][..],
            &["there is no verifier `f9`"][..],
        ),
        (
            &["--training", "frosen"],
            &["there is no training `frosen`", "end-to-end"],
        ),
        (
            &["--positives-as", "x"],
            &["there is no kind of positives `x`"],
        ),
        (&["--verifiers", "f1,f1"], &["--verifiers names f1 twice"]),
        (
            &["--objective", "binary,binary"],
            &["--objective names binary twice"],
        ),
        (&["--seeds", "1,1"], &["--seeds names 1 twice"]),
        (&["--depth", "0"], &["--depth 0"]),
    ] {
        fails(&second_experiment(&s, more), 2, needles);
    }
    let refused = second_experiment(&s, &["--batch", "400"]);
    fails(
        &refused,
        1,
        &["training rows are fewer than a batch of 400"],
    );
    assert!(!s.path("out/study-guard").exists());
}

#[test]
fn what_is_about_the_training_rows_is_told_from_what_only_has_its_name() {
    let s = Scratch::new();
    let pairs = |kind: &str| -> String {
        let row = |i: usize| format!("the cat number {i} sleeps,the {kind} number {i} sleeps,x\n");
        (0..8).map(row).collect()
    };
    s.put(
        "edits.csv",
        &format!("sentence1,sentence2,category\n{}", pairs("dog")),
    );
    let mut command = s.command("experiment-1");
    command.args(["--preset", "smoke", "--documents", "30", "--steps", "1"]);
    command.args(["--arms", "A", "--resamples", "50", "--minimum", "2"]);
    let output = command.args(["--pairs", "edits.csv", "--json"]).output();
    let output = output.unwrap();
    succeeds(&output);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Cut down, it is about the same passages as before.
    let set = &found[0]["models"][0]["retrieval"][0];
    assert_eq!(set["collection"], "lighthouse-archive-30");
    assert_eq!(set["in_domain"], true);
    // A file may be called as the built-in edits are.
    let tests = found[0]["comparisons"]["tests"].as_array().unwrap();
    let named: Vec<_> = tests
        .iter()
        .map(|test| {
            (
                test["name"].as_str().unwrap(),
                test["own"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        named,
        [("edits, test", true), ("edits (of a file), test", false)]
    );
}

#[test]
fn experiments_that_cannot_be() {
    let s = Scratch::new();
    let run = |more: &[&str]| {
        let mut command = s.command("experiment-1");
        command
            .args(["--preset", "smoke"])
            .args(more)
            .output()
            .unwrap()
    };
    fails(&run(&["--arms", "C"]), 2, &["no arm is called `C`"]);
    fails(&run(&["--arms", "A,B,A"]), 2, &["--arms names A twice"]);
    fails(&run(&["--seeds", "1,1"]), 2, &["--seeds names 1 twice"]);
    fails(&run(&["--share", "1"]), 2, &["--share 1"]);
    fails(
        &run(&["--in-domain", "x"]),
        2,
        &["--in-domain x", "lighthouse-archive"],
    );
    fails(
        &run(&["--batch", "400"]),
        1,
        &["72 training rows are fewer than a batch of 400"],
    );
    s.put("same.csv", "sentence1,sentence2\na,b\n");
    let alone = run(&["--positives", "same.csv"]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(stderr(&alone).contains("--structural"));
}
