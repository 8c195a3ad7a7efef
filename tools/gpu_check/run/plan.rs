//! The steps, in order of worth, and what each of them runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nearmiss::{Error, Result, ops};
use serde_json::Value;

use super::{archive, summary};

/// Kernels that are looked at with the profiler, the farthest from their floor first.
const PROFILED: usize = 8;

/// Operators in order of what their times are worth: first those that a run spends its time in.
const ORDER: [&str; 43] = [
    "matmul",
    "cosine_topk",
    "maxsim",
    "encode",
    "train_step",
    "pair_step",
    "verify",
    "attention",
    "matmul_nn",
    "matmul_tn",
    "attention_backward",
    "similarity_map",
    "soft_alignment",
    "layer_norm",
    "layer_norm_backward",
    "info_nce",
    "adamw",
    "grad_norm",
    "dropout",
    "embedding",
    "embedding_backward",
    "pool",
    "pool_backward",
    "pair_dot",
    "normalize_rows",
    "scatter_rows",
    "similarity_map_backward",
    "map_features",
    "map_features_backward",
    "map_pool_backward",
    "attention_pool",
    "attention_pool_backward",
    "normalize_rows_backward",
    "add_rows",
    "unfold",
    "fold",
    "batch_norm",
    "batch_norm_backward",
    "max_pool",
    "max_pool_backward",
    "weighted_pool",
    "weighted_pool_backward",
    "relu",
];

/// Those of them that are no operator but a whole pass, of the packed model.
pub const WHOLE: [&str; 4] = ["encode", "train_step", "pair_step", "verify"];

/// Those that PyTorch's compiler can make something of, and those for which a package of kernels exists.
const COMPILED: [&str; 5] = [
    "maxsim",
    "matmul",
    "train_step",
    "layer_norm",
    "soft_alignment",
];
const PEERS: [&str; 2] = ["maxsim", "cosine_topk"];

/// Those whose time is compared with PyTorch's, a process for each line; of a verifier's own operators the step is.
const PYTORCH: [&[&str]; 14] = [
    &["matmul"],
    &["cosine_topk"],
    &["maxsim"],
    &["encode"],
    &["train_step"],
    &["pair_step"],
    &["attention"],
    &["matmul_nn"],
    &["matmul_tn"],
    &["attention_backward"],
    &["similarity_map"],
    &["soft_alignment"],
    &[
        "layer_norm",
        "layer_norm_backward",
        "info_nce",
        "adamw",
        "grad_norm",
        "dropout",
    ],
    &[
        "embedding",
        "embedding_backward",
        "pool",
        "pool_backward",
        "pair_dot",
        "normalize_rows",
        "scatter_rows",
    ],
];

/// Programs that may be missing.
const PYTHON: &str = "python3";
const PROFILER: &str = "ncu";
const SANITIZER: &str = "compute-sanitizer";

/// What a step runs.
pub struct Job {
    /// The process.
    pub command: Command,
    /// Where its output goes, if not to the step's log.
    pub out: Option<String>,
}

/// Makes a step's process, told how many seconds it has, or says why there is nothing to run.
pub type Make = Box<dyn Fn(&Site, f64) -> Result<Job, String>>;

/// One step.
pub struct Step {
    /// Its name; its log is `NAME.log`.
    pub name: String,
    /// Seconds that are kept for it.
    pub least: f64,
    /// Seconds that it may take.
    pub most: f64,
    /// The program that it needs, if it is not ours.
    pub tool: Option<&'static str>,
    /// What it runs.
    pub make: Make,
}

/// An unpacked pack.
pub struct Site {
    /// This program.
    pub program: PathBuf,
    /// The pack.
    pub pack: PathBuf,
    /// Scratch.
    pub work: PathBuf,
    /// What goes into the archive.
    pub kept: PathBuf,
    /// The model folder, if one was packed.
    pub model: Option<PathBuf>,
    /// The collection, if one was packed.
    pub data: Option<PathBuf>,
    /// A folder with the files of an Experiment 1 and its arguments, if one was packed.
    pub experiment: Option<PathBuf>,
    /// The commit that was packed and the compiler that it was built with, for the records.
    pub build: [String; 2],
}

impl Site {
    /// Unpacks what is needed from `pack` into `work`.
    ///
    /// # Errors
    /// [`Error::Input`] if it is no pack or a damaged one.
    pub fn unpack(pack: &Path, work: &Path) -> Result<Self> {
        if !pack.join("build").is_file() {
            return Err(Error::input(
                pack,
                "not made by `gpu-check pack` (build is missing)",
            ));
        }
        fs::create_dir_all(work.join("kept")).map_err(|e| Error::io("create", work, e))?;
        // Steps run in the scratch folder.
        let whole = |path: &Path| fs::canonicalize(path).map_err(|e| Error::io("open", path, e));
        let (pack, work) = (&whole(pack)?, &whole(work)?);
        let kept = work.join("kept");
        let mut folders = ["model", "data", "experiment", "tree", "peers"].map(|name| {
            let to = work.join(name);
            let Some(packed) = archive::packed(pack, &format!("{name}.tar")) else {
                return Ok(None);
            };
            archive::unpack(&packed, &to)?;
            Ok(match name {
                // One folder, named as the model or the collection is.
                "model" | "data" | "experiment" => fs::read_dir(&to)
                    .ok()
                    .and_then(|mut entries| Some(entries.next()?.ok()?.path())),
                _ => Some(to),
            })
        });
        let mut take = |i: usize| std::mem::replace(&mut folders[i], Ok(None));
        let (model, data, experiment) = (take(0)?, take(1)?, take(2)?);
        take(3)?;
        take(4)?;
        let build = fs::read_to_string(pack.join("build")).unwrap_or_default();
        let mut build = build.lines().map(String::from);
        Ok(Site {
            program: std::env::current_exe().map_err(|e| Error::io("find", "gpu-check", e))?,
            pack: pack.into(),
            work: work.into(),
            kept,
            model,
            data,
            experiment,
            build: [(); 2].map(|()| build.next().unwrap_or_else(|| "unknown".into())),
        })
    }

    /// Whether the device is no GPU but an emulator, on which only the smallest shapes end in time.
    fn quick(&self) -> bool {
        let facts = fs::read_to_string(self.kept.join("facts.json")).unwrap_or_default();
        let facts: Value = serde_json::from_str(&facts).unwrap_or_default();
        facts["software"].as_bool().unwrap_or(false)
    }

    fn run(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.work)
            .env("CUDA_CACHE_PATH", self.work.join("compiled"))
            .env("CUDA_CACHE_MAXSIZE", (1u64 << 30).to_string())
            .env("PYTHONUNBUFFERED", "1")
            .env("XDG_RUNTIME_DIR", &self.work)
            .env("NEARMISS_BUILD_COMMIT", &self.build[0])
            .env("NEARMISS_BUILD_RUSTC", &self.build[1])
            // For compiled Python and Triton's caches.
            .env("TRITON_CACHE_DIR", self.work.join("triton"))
            .env("TORCHINDUCTOR_CACHE_DIR", self.work.join("inductor"));
        command
    }

    fn ours(&self, arguments: &[&str]) -> Command {
        self.run(&self.program, arguments)
    }

    /// A Python program of the pack; it says itself what it misses.
    fn python(&self, arguments: &[&str]) -> Result<Command, String> {
        let mut command = self.run(tool(PYTHON)?, &[]);
        command
            .arg(self.pack.join("bench_gpu.py"))
            .args(["--peers".into(), self.work.join("peers/peers")])
            .args(arguments);
        if self.quick() {
            command.args(["--device", "cpu", "--small"]);
        }
        Ok(command)
    }

    /// A program that was packed with this one, beside which it was unpacked.
    fn packed(&self, name: &str) -> Result<Command, String> {
        let path = self.program.with_file_name(name);
        match path.is_file() {
            true => Ok(self.run(&path, &[])),
            false => Err("it was not packed".into()),
        }
    }

    fn kept(&self, name: &str) -> String {
        self.kept.join(name).display().to_string()
    }
}

/// A program on the path, or that it is not there.
fn tool(name: &str) -> Result<PathBuf, String> {
    found(name).ok_or_else(|| format!("{name} is not installed"))
}

/// A program on the path.
pub fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn log(command: Command) -> Result<Job, String> {
    Ok(Job { command, out: None })
}

fn rows(command: Command, out: String) -> Result<Job, String> {
    Ok(Job {
        command,
        out: Some(out),
    })
}

/// What is asked of the machine; whatever is missing there is passed over.
const MACHINE: &str = "date -u; uname -a; cat /etc/os-release; lscpu; free -g; nvidia-smi; \
    nvidia-smi -q -d CLOCK,POWER,TEMPERATURE,PERFORMANCE; ls /usr/local/cuda/bin; \
    python3 -c 'import torch, triton; print(torch.__version__, torch.version.cuda, triton.__version__)'; \
    \"$0\" run-study devices; true";

/// All steps for what was packed.
pub fn steps(site: &Site) -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    steps.add("machine", [3.0, 25.0], |site, _| {
        let mut command = site.run("sh", &["-c", MACHINE]);
        command.arg(&site.program);
        log(command)
    });
    steps.add("facts", [3.0, 20.0], |site, _| {
        rows(site.ours(&["facts"]), "facts.json".into())
    });
    steps.add("smoke", [6.0, 60.0], |site, _| {
        let arguments = ["bench", "--device", "cuda", "--quick", "--json"];
        rows(site.ours(&arguments), "smoke.jsonl".into())
    });
    // The first to load PyTorch, which a fresh machine has on a cold disk.
    steps.with(PYTHON, "ceilings", [15.0, 45.0], |site, _| {
        let command = site.python(&[
            "--what",
            "bandwidth",
            "--what",
            "matmul",
            "--shape",
            "8192,8192,8192",
        ])?;
        rows(command, "ceilings.jsonl".into())
    });
    steps.add("limits", [4.0, 30.0], |site, _| {
        let measured = site.kept("ceilings.jsonl");
        let command = site.ours(&["limits", "--device", "cuda", "--measured", &measured]);
        rows(command, "limits.json".into())
    });
    steps.add("cases", [2.0, 10.0], |site, _| {
        let scale = if site.quick() { "quick" } else { "gpu" };
        let mut command = site.ours(&["bench", "--list", scale]);
        if let Some(model) = &site.model {
            command.arg("--backbone").arg(model);
        }
        rows(command, "cases.jsonl".into())
    });
    for op in ORDER {
        steps.add(format!("bench-{op}"), bench_seconds(op), move |site, _| {
            let limits = site.kept("limits.json");
            let mut command = site.ours(&["bench", "--device", "cuda", "--json", "--op", op]);
            // How long a single query waits, in the worst of a hundred times, takes some more of them.
            let seconds = if op == "encode" { "1.5" } else { "0.4" };
            command.args(["--seconds", seconds, "--limits", &limits]);
            if site.quick() {
                command.arg("--quick");
            }
            if let Some(model) = &site.model {
                command.arg("--backbone").arg(model);
            } else if WHOLE.contains(&op) {
                return Err("no model was packed".into());
            }
            rows(command, format!("bench/{op}.jsonl"))
        });
    }
    for these in PYTORCH {
        // A process takes most of a small operator's time to start.
        let name = match these {
            [op] => format!("pytorch-{op}"),
            [op, .., last] => format!("pytorch-{op}-to-{last}"),
            [] => continue,
        };
        let more = these.len() as f64 - 1.0;
        let seconds = [6.0 + 1.5 * more, 40.0 + 5.0 * more];
        steps.with(PYTHON, name, seconds, move |site, _| {
            python(site, these, "torch")
        });
    }
    for op in PEERS {
        steps.with(
            PYTHON,
            format!("peers-{op}"),
            [8.0, 60.0],
            move |site, _| python(site, &[op], "peers"),
        );
    }
    for op in ops::ALL {
        steps.add(format!("parity-{}", op.name), [2.0, 40.0], |site, _| {
            let (filter, out) = (format!("{}::", op.name), format!("records/{}", op.name));
            let arguments = [
                "parity",
                "--subject",
                "cuda",
                "--require",
                "cuda",
                "--filter",
            ];
            let mut command = site.ours(&arguments);
            command.arg(filter).arg("--out").arg(site.kept.join(out));
            log(command)
        });
    }
    for number in 1..=PROFILED {
        steps.with(
            PROFILER,
            format!("profile-{number}"),
            [3.0, 20.0],
            move |site, _| profile(site, number),
        );
    }
    for op in COMPILED {
        steps.with(
            PYTHON,
            format!("compiled-{op}"),
            [5.0, 40.0],
            move |site, _| python(site, &[op], "compile"),
        );
    }
    for (test, require) in [
        ("graphs", "cuda"),
        ("self_test", "hardware"),
        ("instructions", "hardware"),
        ("faults", "cuda"),
    ] {
        steps.add(format!("test-{test}"), [4.0, 40.0], move |site, _| {
            let mut command = site.packed(&format!("test-{test}"))?;
            command
                .arg("--show-output")
                .env("CARGO_MANIFEST_DIR", site.work.join("tree"))
                .env("NEARMISS_RUN_STUDY", site.work.join("tree/run-study"))
                .env("NEARMISS_GPU_CHECK", &site.program);
            if !site.quick() {
                command.env("NEARMISS_REQUIRE", require);
            }
            log(command)
        });
    }
    steps.add("jit", [15.0, 90.0], |site, _| {
        let mut command = site.ours(&["jit", "--device", "cuda"]);
        // Nothing that was compiled before is there.
        command.env("CUDA_CACHE_PATH", site.work.join("jit"));
        rows(command, "jit/all.jsonl".into())
    });
    // One size of every operator: the tools slow everything down a hundredfold.
    for name in ["memcheck", "racecheck", "synccheck"] {
        steps.with(
            SANITIZER,
            format!("sanitizer-{name}"),
            [4.0, 60.0],
            move |site, _| {
                let arguments = ["--tool", name, "--error-exitcode", "1"];
                let mut command = site.run(tool(SANITIZER)?, &arguments);
                command.arg(&site.program);
                command.args([
                    "parity",
                    "--subject",
                    "cuda",
                    "--require",
                    "cuda",
                    "--filter",
                    "33",
                ]);
                log(command)
            },
        );
    }
    steps.add("parity-vulkan", [3.0, 20.0], |site, _| {
        let out = site.kept("records/vulkan");
        log(site.ours(&["parity", "--subject", "wgpu", "--out", &out]))
    });
    if site.model.is_some() {
        steps.add("study", [12.0, f64::INFINITY], study);
        // What it takes has to be known by whoever packs it; `--only experiment` gives it everything.
        if site.experiment.is_some() {
            steps.add("experiment", [3.0, f64::INFINITY], experiment);
        }
    }
    steps.0
}

/// Seconds for the benches of an operator, at least and at most: those with large inputs or many shapes take longer.
fn bench_seconds(op: &str) -> [f64; 2] {
    match op {
        "cosine_topk" | "encode" | "train_step" => [25.0, 75.0],
        "maxsim" | "matmul" => [12.0, 75.0],
        "pair_step" => [6.0, 40.0],
        _ => [3.0, 40.0],
    }
}

struct Steps(Vec<Step>);

impl Steps {
    fn add(
        &mut self,
        name: impl Into<String>,
        [least, most]: [f64; 2],
        make: impl Fn(&Site, f64) -> Result<Job, String> + 'static,
    ) {
        self.0.push(Step {
            name: name.into(),
            least,
            most,
            tool: None,
            make: Box::new(make),
        });
    }

    /// A step that needs `tool`.
    fn with(
        &mut self,
        tool: &'static str,
        name: impl Into<String>,
        seconds: [f64; 2],
        make: impl Fn(&Site, f64) -> Result<Job, String> + 'static,
    ) {
        self.add(name, seconds, make);
        if let Some(step) = self.0.last_mut() {
            step.tool = Some(tool);
        }
    }
}

/// The cases of these operators, as PyTorch or a package for it does them.
fn python(site: &Site, these: &[&str], by: &str) -> Result<Job, String> {
    let cases = site.kept("cases.jsonl");
    let mut command = site.python(&["--cases", &cases, "--by", by])?;
    for op in these {
        command.args(["--op", op]);
    }
    if let Some(model) = &site.model {
        command.arg("--model").arg(model);
    }
    rows(command, format!("{by}/{}.jsonl", these[0]))
}

/// The `number`-th worst case under the profiler.
fn profile(site: &Site, number: usize) -> Result<Job, String> {
    let worst = summary::worst(&site.kept);
    let case = worst.get(number - 1).ok_or("no more cases were measured")?;
    let mut command = site.run(
        tool(PROFILER)?,
        &["--clock-control", "none", "--launch-count", "12"],
    );
    for section in ["SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy"] {
        command.args(["--section", section]);
    }
    command
        .arg(&site.program)
        .args(["bench", "--device", "cuda", "--once", "--case", case]);
    log(command)
}

/// The study, as large as the time allows.
fn study(site: &Site, limit: f64) -> Result<Job, String> {
    let preset = match limit {
        _ if site.quick() || limit < 40.0 => "smoke",
        _ if limit < 150.0 => "small",
        _ => "full",
    };
    let arguments = [
        "run-study",
        "--device",
        "cuda",
        "--preset",
        preset,
        "--offline",
        "--profile",
    ];
    let mut command = site.ours(&arguments);
    command.arg("--out").arg(site.kept.join("study"));
    if let Some(model) = &site.model {
        command.arg("--backbone").arg(model);
    }
    if let Some(data) = site.data.as_ref().filter(|_| preset != "smoke") {
        command.arg("--data").arg(data);
    }
    log(command)
}

/// The trainings that were packed, with the arguments beside them.
fn experiment(site: &Site, _: f64) -> Result<Job, String> {
    let folder = site.experiment.as_ref().ok_or("it was not packed")?;
    let file = folder.join("arguments");
    let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut command = site.ours(&["run-study", "experiment-1", "--device", "cuda", "--offline"]);
    command.arg("--out").arg(site.kept.join("experiment"));
    if let Some(model) = &site.model {
        command.arg("--backbone").arg(model);
    }
    command.args(text.lines()).current_dir(folder);
    log(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_timed_compared_and_compiled() {
        let site = Site {
            program: "p".into(),
            pack: "p".into(),
            work: "w".into(),
            kept: "k".into(),
            model: Some("m".into()),
            data: None,
            experiment: None,
            build: [String::new(), String::new()],
        };
        let steps = steps(&site);
        let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        for op in ops::ALL {
            for kind in ["bench", "parity"] {
                let name = format!("{kind}-{}", op.name);
                assert!(names.contains(&&name[..]), "{name} is missing");
            }
        }
        assert!(names.contains(&"jit"));
        // What a line of Python is asked for is what it has a case for.
        let source = include_str!("../../reference/bench_gpu.py");
        let known = source.split_once("\nCASES = {").unwrap().1;
        let known = known.split_once("\n}").unwrap().0;
        let known: Vec<&str> = known
            .lines()
            .filter_map(|line| line.split('"').nth(1))
            .chain(["encode", "train_step", "pair_step"])
            .collect();
        let asked: Vec<&str> = PYTORCH.concat();
        assert!(known.iter().all(|op| asked.contains(op)), "{known:?}");
        assert!(asked.iter().all(|op| known.contains(op)), "{asked:?}");
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        // What is kept for the steps fits into the time that such a machine is rented for.
        let least: f64 = steps.iter().map(|step| step.least).sum();
        assert!(least < 560.0, "{least}");
        assert!(steps.iter().all(|step| step.least <= step.most));
    }
}
