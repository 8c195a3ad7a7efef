//! The command line of `run-study`.
//!
//! Data goes to stdout, logs and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nearmiss::data::beir::Collection;
use nearmiss::data::edits::{self, EditSet};
use nearmiss::data::generated::{BuiltIn, COLLECTIONS};
use nearmiss::data::pairs::{Filter, PairNotes, Triplet, read_triplets};
use nearmiss::device::template;
use nearmiss::device::{DeviceChoice, DeviceKind};
use nearmiss::encoder::{Encoder, LoadOptions};
use nearmiss::index::VectorIndex;
use nearmiss::metrics::near_miss;
use nearmiss::metrics::statistics::Bootstrap;
use nearmiss::model::hub::{Backbone, DEFAULT_BACKBONE, FetchOptions, find_backbone};
use nearmiss::study::explain::explain;
use nearmiss::study::geometry::{
    GeometryConfig, GeometryOptions, geometry, markdown as geometry_markdown,
    metrics_json as geometry_json, notes as geometry_notes, save as save_geometry,
};
use nearmiss::study::near_miss::{
    Examples, NearMissConfig, compare_triplets, counts, metrics_json as near_miss_json,
    near_miss as near_miss_study, notes as near_miss_notes, save as save_near_miss,
    summary as near_miss_summary,
};
use nearmiss::study::profile;
use nearmiss::study::progress::Reporter;
use nearmiss::study::report::{self, RetrieveConfig, SecondStageOptions, Setup};
use nearmiss::study::retrieve::{SecondStage, rerank, retrieve, subset};
use nearmiss::text::TextKind;
use nearmiss::verifier::{self, Penalty};
use nearmiss::{Device, Error, Result, ops};

/// Dense retrieval on hand-written GPU kernels: without a command, runs the whole study at its defaults.
#[derive(Parser)]
#[command(
    name = "run-study",
    version,
    max_term_width = 100,
    args_override_self = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    study: Study,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    second: Second,
    #[command(flatten)]
    pairs: Pairs,
}

#[derive(Subcommand)]
enum Command {
    /// Encode a collection, search it exactly, re-rank the best, evaluate the rankings.
    Retrieve {
        #[command(flatten)]
        study: Study,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        second: Second,
    },
    /// Score near-misses and paraphrases by every scorer, and say how well each tells them apart.
    NearMiss {
        #[command(flatten)]
        study: Study,
        #[command(flatten)]
        second: Second,
        #[command(flatten)]
        pairs: Pairs,
    },
    /// Measure what embeddings are made of: conditions on structure, superposition, room on the cap, the space they fill.
    Geometry {
        #[command(flatten)]
        study: Study,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        second: Second,
        #[command(flatten)]
        pairs: Pairs,
    },
    /// Compare two sentences token by token: every score, and the similarity map in the terminal and as an SVG picture.
    Explain {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        second: Second,
        /// The sentence whose tokens look for an answer.
        first: String,
        /// The sentence whose tokens answer.
        second_text: String,
        /// Where the picture goes; default: explain.svg in the folder for results.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Write the embeddings of texts, one per line of a file, or of a collection's documents.
    Encode {
        #[command(flatten)]
        common: Common,
        /// A text file, one text per line.
        #[arg(long, value_name = "FILE", conflicts_with = "data")]
        texts: Option<PathBuf>,
        /// A BEIR folder whose documents are encoded.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Whether the texts are queries or documents, for models with prompts.
        #[arg(long, value_enum, default_value_t = Kind::Document)]
        kind: Kind,
        /// Where to write: `.npy` (f32) or `.safetensors` (an index: f16 rows and norms).
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// The operators, and on which devices each was held to its reference.
    Ops,
    /// The devices of this machine, and why the rest is missing.
    Devices {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the expanded text of a kernel, as the driver gets it.
    Kernel {
        /// Operator name, as in `run-study ops`.
        op: String,
        /// Which language.
        #[arg(long, value_enum, default_value_t = Language::Wgsl)]
        language: Language,
        /// Number of the variant; without it the variants are listed.
        #[arg(long)]
        variant: Option<usize>,
    },
}

/// Options that mean the same everywhere.
#[derive(Args, Clone)]
struct Common {
    /// auto, cpu, cuda, cuda:N, wgpu, vulkan or metal.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Encoder: a model folder, a known name (all-MiniLM-L6-v2, all-MiniLM-L12-v2, gte-small) or org/name.
    #[arg(long, default_value = DEFAULT_BACKBONE, env = "NEARMISS_BACKBONE")]
    backbone: String,
    /// Length limit in tokens; default: the model's own.
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Threads; default: all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Memory for activations, e.g. 500MB or 2GB; default: what suits the device.
    #[arg(long)]
    memory: Option<String>,
    /// Folder for results.
    #[arg(long, default_value = "results")]
    out: PathBuf,
    /// Seed of everything random.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// No progress, no log.
    #[arg(long)]
    quiet: bool,
    /// Never use the network.
    #[arg(long)]
    offline: bool,
    /// Time every operator by itself and print what it cost.
    #[arg(long)]
    profile: bool,
}

/// Options of the stages of the study.
#[derive(Args, Clone)]
struct Study {
    #[command(flatten)]
    common: Common,
    /// How much of the built-in data: smoke (60 passages, 8 anchors a category), small (400, 100) or full (1,000, 500).
    #[arg(long, value_enum, default_value_t = Preset::Small)]
    preset: Preset,
}

#[derive(Args, Clone)]
struct Data {
    /// A BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv); default: the built-in collections.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Which judgements.
    #[arg(long, default_value = "test")]
    split: String,
    /// Use only so many documents (those relevant to the first queries, then others).
    #[arg(long, value_name = "N")]
    documents: Option<usize>,
    /// One of the built-in collections; default: all of them (with --preset smoke, the first).
    #[arg(long, value_name = "NAME", conflicts_with = "data")]
    collection: Option<String>,
}

#[derive(Args, Clone)]
struct Pairs {
    /// Near-misses: CSV with columns sentence1, sentence2, category and, if there is one, source (.gz too); default:
    /// the built-in edit sets.
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Sentences of equal meaning: CSV with columns sentence1, sentence2 and, if there is one, source.
    #[arg(long, value_name = "FILE", requires = "pairs")]
    paraphrases: Option<PathBuf>,
    /// Pairs of the training domain to set beside: CSV with columns anchor, positive, negative.
    #[arg(long, value_name = "FILE")]
    triplets: Option<PathBuf>,
    /// How many of the triplets, drawn at random.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    triplet_sample: usize,
    /// corrected, or paper: leaves out near-misses of 20 characters or fewer, as the paper's code does.
    #[arg(long, value_enum, default_value_t = Mode::Corrected)]
    mode: Mode,
    /// Fewest near-misses and accepts that a rate may rest on.
    #[arg(long, value_name = "N", default_value_t = near_miss::Options::default().minimum)]
    minimum: usize,
    /// Bootstrap samples for intervals.
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples)]
    resamples: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Corrected,
    Paper,
}

#[derive(Args, Clone)]
struct Second {
    /// Second-stage scorers: none, f0, f1, f2, or BASE-VERIFIER (as f1-f2) for the conditional penalty; `off` for no
    /// second stage.
    #[arg(long, value_delimiter = ',', default_values_t = SecondStageOptions::default().verifiers)]
    verifiers: Vec<String>,
    /// Tokens that a verifier sees of a text.
    #[arg(long, value_name = "TOKENS", default_value_t = verifier::MAX_LENGTH)]
    verifier_length: usize,
    /// Base score at which half of the conditional penalty applies.
    #[arg(long, value_name = "TAU", default_value_t = Penalty::default().threshold)]
    penalty_threshold: f64,
    /// Weight of the conditional penalty.
    #[arg(long, value_name = "BETA", default_value_t = Penalty::default().weight)]
    penalty_weight: f64,
}

impl Second {
    fn options(&self) -> Result<SecondStageOptions> {
        let penalty = Penalty {
            threshold: self.penalty_threshold,
            weight: self.penalty_weight,
        };
        if !penalty.threshold.is_finite() || !(0.0..f64::INFINITY).contains(&penalty.weight) {
            return Err(Error::Usage(format!(
                "--penalty-threshold {} and --penalty-weight {}: give numbers, the weight 0 or more",
                penalty.threshold, penalty.weight
            )));
        }
        let verifiers = match &self.verifiers[..] {
            [off] if off == "off" => Vec::new(),
            names => names.to_vec(),
        };
        if let Some(twice) = (1..verifiers.len()).find(|&i| verifiers[..i].contains(&verifiers[i]))
        {
            return Err(Error::Usage(format!(
                "--verifiers names {} twice; name it once",
                verifiers[twice]
            )));
        }
        Ok(SecondStageOptions {
            verifiers,
            max_length: self.verifier_length,
            penalty,
        })
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    Smoke,
    Small,
    Full,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Query,
    Document,
}

#[derive(Clone, Copy, ValueEnum)]
enum Language {
    Ptx,
    Wgsl,
}

/// Runs the command line `args` (the program's name first) and returns the process status.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    // Mesa's software Vulkan complains on stderr where this is not set, though nothing here needs it.
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the program has started no thread yet.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match cli.command {
        None => run_all(&cli.study, &cli.data, &cli.second, &cli.pairs),
        Some(Command::Retrieve {
            study,
            data,
            second,
        }) => run_retrieve(&study, &data, &second),
        Some(Command::NearMiss {
            study,
            second,
            pairs,
        }) => run_near_miss(&study, &second, &pairs),
        Some(Command::Geometry {
            study,
            data,
            second,
            pairs,
        }) => run_geometry(&study, &data, &second, &pairs),
        Some(Command::Explain {
            common,
            second,
            first,
            second_text,
            svg,
        }) => run_explain(&common, &second, [&first, &second_text], svg),
        Some(Command::Encode {
            common,
            texts,
            data,
            kind,
            output,
        }) => run_encode(&common, texts.as_deref(), data.as_deref(), kind, &output),
        Some(Command::Ops) => print(&ops::table::markdown()),
        Some(Command::Devices { json }) => run_devices(json),
        Some(Command::Kernel {
            op,
            language,
            variant,
        }) => run_kernel(&op, language, variant),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// Writes data to stdout; a closed pipe (as of `| head`) is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write", "stdout", e))
        }
        _ => Ok(()),
    }
}

/// What every command with an encoder begins with.
struct Session {
    reporter: Reporter,
    backbone: Backbone,
    encoder: Encoder,
}

impl Session {
    fn open(common: &Common) -> Result<Self> {
        let reporter = Reporter::new(common.quiet);
        if let Some(threads) = common.threads {
            if threads == 0 {
                return Err(Error::Usage("--threads 0: give at least one".into()));
            }
            // Fails only if a pool exists already, which nothing before this line makes.
            let _ = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build_global();
        }
        let choice: DeviceChoice = common.device.parse()?;
        let device = Device::open(choice, ops::RETRIEVAL)?;
        if let Some(missing) = ops::RETRIEVAL.iter().find(|op| !op.runs_on(device.kind())) {
            return Err(Error::Unsupported {
                op: missing.name,
                device: device.name(),
                why: "encoding and retrieval need it; use --device cpu or --device vulkan".into(),
            });
        }
        reporter.log(&format!("device: {}", device.name()));
        let fetch = FetchOptions {
            cache_dir: None,
            offline: common.offline,
            progress: reporter.draws(),
        };
        let backbone = find_backbone(&common.backbone, &fetch, &mut |line| reporter.log(line))?;
        reporter.log(&format!(
            "weights: {} from {} ({}), sha256 {}",
            backbone.name,
            backbone.source,
            backbone.folder.display(),
            &backbone.sha256[..12]
        ));
        let mut options = LoadOptions {
            max_length: common.max_length,
            token_budget: None,
        };
        if let Some(memory) = &common.memory {
            options.token_budget = Some(nearmiss::encoder::token_budget(
                &backbone.folder,
                &device,
                parse_bytes(memory)?,
            )?);
        }
        let encoder = Encoder::load(&backbone.folder, &device, options)?;
        device.set_profiling(common.profile);
        Ok(Session {
            reporter,
            backbone,
            encoder,
        })
    }

    /// Operators and, if asked for, what each cost.
    fn close(&self, common: &Common) -> Result<()> {
        let device = self.encoder.device();
        let totals = device.op_totals();
        let ran: Vec<String> = totals
            .iter()
            .map(|t| format!("{} x {}", t.op, t.calls))
            .collect();
        self.reporter.log(&format!(
            "operators on {}: {}",
            device.kind(),
            ran.join(", ")
        ));
        let memory = device.memory();
        self.reporter.log(&format!(
            "device memory: at most {:.1} MB",
            memory.peak as f64 / 1e6
        ));
        if common.profile {
            device.set_profiling(false);
            let limits = profile::measure_limits(device, profile::Probe::of(device))?;
            eprint!("{}", profile::table(&totals, &limits));
        }
        Ok(())
    }
}

fn parse_bytes(text: &str) -> Result<u64> {
    let (number, unit) = text.split_at(
        text.find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len()),
    );
    let factor = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "KB" | "K" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" => 1e9,
        _ => f64::NAN,
    };
    match number.trim().parse::<f64>() {
        Ok(v) if v * factor >= 1.0 => Ok((v * factor) as u64),
        _ => Err(Error::Usage(format!(
            "--memory {text}: write a size such as 500MB or 2GB"
        ))),
    }
}

/// The collections that are asked for.
fn collections(study: &Study, data: &Data) -> Result<Vec<Collection>> {
    if data.documents == Some(0) {
        return Err(Error::Usage("--documents 0: give at least one".into()));
    }
    let all = match (&data.data, &data.collection) {
        (Some(folder), _) => vec![Collection::load(folder, &data.split)?],
        (None, name) => {
            let (n_passages, n_queries) = match study.preset {
                Preset::Smoke => (60, 30),
                Preset::Small => (400, 200),
                Preset::Full => (1000, 500),
            };
            let chosen = match (name, study.preset) {
                (Some(name), _) => vec![BuiltIn::named(name)?],
                (None, Preset::Smoke) => COLLECTIONS[..1].to_vec(),
                (None, _) => COLLECTIONS.to_vec(),
            };
            let written = chosen
                .iter()
                .map(|built_in| built_in.generate(study.common.seed, n_passages, n_queries));
            written.collect::<Result<_>>()?
        }
    };
    Ok(all
        .into_iter()
        .map(|collection| match data.documents {
            Some(n) if n < collection.corpus.len() => subset(&collection, n),
            _ => collection,
        })
        .collect())
}

/// The built-in edit set of a preset.
fn edit_set(study: &Study) -> Result<EditSet> {
    use edits::Split::{Calibration, Test, TestTemplates, TestWords};
    let (per_category, splits) = match study.preset {
        Preset::Smoke => (8, vec![Calibration, Test]),
        Preset::Small => (100, vec![Calibration, Test, TestTemplates, TestWords]),
        Preset::Full => (500, vec![Calibration, Test, TestTemplates, TestWords]),
    };
    edits::generate(&edits::Options {
        seed: study.common.seed,
        per_category,
        splits,
        ..edits::Options::default()
    })
}

/// Runs stages, which return their numbers; with `--json` these are printed as one list.
fn run_stages(
    study: &Study,
    stages: impl FnOnce(&Session) -> Result<Vec<serde_json::Value>>,
) -> Result<()> {
    let session = Session::open(&study.common)?;
    check_writable(&study.common.out)?;
    let found = stages(&session)?;
    if study.common.json {
        print(&format!("{:#}\n", serde_json::Value::from(found)))?;
    }
    session.close(&study.common)
}

/// The whole study at its defaults, stage by stage.
fn run_all(study: &Study, data: &Data, second: &Second, pairs: &Pairs) -> Result<()> {
    let (options, plan) = (second.options()?, pairs.plan(study)?);
    let collections = collections(study, data)?;
    run_stages(study, |session| {
        let mut found = Vec::new();
        for collection in &collections {
            found.push(retrieve_stage(session, study, collection, &options)?);
        }
        found.push(near_miss_stage(session, study, &plan, &options)?);
        let geometry = geometry_stage(session, study, &collections, &plan, &options)?;
        found.push(geometry);
        Ok(found)
    })
}

fn run_retrieve(study: &Study, data: &Data, second: &Second) -> Result<()> {
    let options = second.options()?;
    let collections = collections(study, data)?;
    run_stages(study, |session| {
        let stages = collections.iter();
        stages
            .map(|collection| retrieve_stage(session, study, collection, &options))
            .collect()
    })
}

fn run_near_miss(study: &Study, second: &Second, pairs: &Pairs) -> Result<()> {
    let (options, plan) = (second.options()?, pairs.plan(study)?);
    run_stages(study, |session| {
        Ok(vec![near_miss_stage(session, study, &plan, &options)?])
    })
}

fn run_geometry(study: &Study, data: &Data, second: &Second, pairs: &Pairs) -> Result<()> {
    let (options, plan) = (second.options()?, pairs.plan(study)?);
    let collections = collections(study, data)?;
    run_stages(study, |session| {
        let found = geometry_stage(session, study, &collections, &plan, &options)?;
        Ok(vec![found])
    })
}

/// Runs a stage on a collection, saves and prints what it found, and returns its numbers.
fn retrieve_stage(
    session: &Session,
    study: &Study,
    collection: &Collection,
    options: &SecondStageOptions,
) -> Result<serde_json::Value> {
    let verifiers = options.build(session.encoder.device())?;
    let (reporter, encoder) = (&session.reporter, &session.encoder);
    let config = RetrieveConfig::new(collection, Setup::new(encoder, &session.backbone, options));
    let found = retrieve(encoder, collection, reporter)?;
    let limit = config.setup.verifier_max_length;
    let second = if verifiers.is_empty() {
        SecondStage::default()
    } else {
        rerank(encoder, collection, &found, &verifiers, limit, reporter)?
    };
    let notes = report::notes(collection, &found, &second);
    let times = found.times;
    let rate =
        |tokens: usize, time: std::time::Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    reporter.log(&format!(
        "documents: {} texts, {} tokens in {:.1} s ({:.0} tokens/s, {:.1} texts/s); index {:.1} MB",
        found.documents.texts,
        found.documents.tokens,
        times.documents.as_secs_f64(),
        rate(found.documents.tokens, times.documents),
        rate(found.documents.texts, times.documents),
        found.index_bytes as f64 / 1e6
    ));
    reporter.log(&format!(
        "queries: {} texts, {} tokens in {:.1} s ({:.0} tokens/s); search {:.3} s",
        found.queries.texts,
        found.queries.tokens,
        times.queries.as_secs_f64(),
        rate(found.queries.tokens, times.queries),
        times.search.as_secs_f64()
    ));
    for reranking in &second.rerankings {
        let ms = reranking.time.as_secs_f64() * 1e3;
        reporter.log(&format!(
            "{}: {} pairs in {:.2} s ({:.2} ms per 100 candidates)",
            reranking.verifier,
            second.pairs,
            ms / 1e3,
            ms * 100.0 / second.pairs.max(1) as f64
        ));
    }
    if !study.common.json {
        let text = report::markdown(&config, &found, &second, &notes);
        print(&format!("{text}\n"))?;
    }
    let folder = report::save(&study.common.out, &config, &found, &second, &notes)?;
    reporter.log(&format!("saved: {}", folder.display()));
    let mut json = report::metrics_json(&found, &second);
    json["stage"] = "retrieve".into();
    json["collection"] = collection.name.clone().into();
    Ok(json)
}

/// What a near-miss stage is to do; files are read before weights are fetched, so that a mistake in them shows at once.
struct NearMissPlan {
    options: near_miss::Options,
    examples: Examples,
    triplets: Option<(Vec<Triplet>, PairNotes)>,
    triplet_sample: usize,
}

impl Pairs {
    fn plan(&self, study: &Study) -> Result<NearMissPlan> {
        if self.resamples == 0 {
            return Err(Error::Usage("--resamples 0: give at least one".into()));
        }
        let filter = match self.mode {
            Mode::Corrected => Filter::Corrected,
            Mode::Paper => Filter::Paper,
        };
        Ok(NearMissPlan {
            options: near_miss::Options {
                minimum: self.minimum,
                bootstrap: Bootstrap {
                    resamples: self.resamples,
                    seed: study.common.seed,
                },
                ..near_miss::Options::default()
            },
            examples: match &self.pairs {
                Some(file) => {
                    let paraphrases = self.paraphrases.as_deref();
                    Examples::from_files(file, paraphrases, filter, study.common.seed)?
                }
                None => Examples::from_edits(&edit_set(study)?),
            },
            triplets: self.triplets.as_deref().map(read_triplets).transpose()?,
            triplet_sample: self.triplet_sample,
        })
    }
}

/// Runs the stage, saves and prints what it found, and returns its numbers.
fn geometry_stage(
    session: &Session,
    study: &Study,
    collections: &[Collection],
    plan: &NearMissPlan,
    second: &SecondStageOptions,
) -> Result<serde_json::Value> {
    let verifiers = second.build(session.encoder.device())?;
    let (reporter, encoder) = (&session.reporter, &session.encoder);
    let options = GeometryOptions {
        seed: study.common.seed,
        scenes: match study.preset {
            Preset::Smoke => 20,
            Preset::Small => 200,
            Preset::Full => 1000,
        },
        ..GeometryOptions::default()
    };
    let config = GeometryConfig::new(
        &options,
        collections,
        &plan.examples.name,
        Setup::new(encoder, &session.backbone, second),
    );
    let paraphrases = plan.examples.paraphrases();
    let found = geometry(
        encoder,
        &paraphrases,
        collections,
        &verifiers,
        second.max_length,
        &options,
        reporter,
    )?;
    let notes = geometry_notes(&found);
    if !study.common.json {
        let text = geometry_markdown(&config, &found, &notes);
        print(&format!("{text}\n"))?;
    }
    let folder = save_geometry(&study.common.out, &config, &found, &notes)?;
    reporter.log(&format!(
        "geometry: {:.1} s; saved: {}",
        found.time.as_secs_f64(),
        folder.display()
    ));
    let mut json = geometry_json(&found);
    json["stage"] = "geometry".into();
    Ok(json)
}

/// Runs the stage on pairs, saves and prints what it found, and returns its numbers.
fn near_miss_stage(
    session: &Session,
    study: &Study,
    plan: &NearMissPlan,
    second: &SecondStageOptions,
) -> Result<serde_json::Value> {
    let verifiers = second.build(session.encoder.device())?;
    let (reporter, encoder) = (&session.reporter, &session.encoder);
    let (examples, options) = (&plan.examples, &plan.options);
    reporter.log(&format!("{}: {}", examples.name, counts(&examples.items)));
    let config = NearMissConfig::new(
        examples,
        options,
        Setup::new(encoder, &session.backbone, second),
    );
    let limit = second.max_length;
    let mut found = near_miss_study(encoder, examples, &verifiers, limit, options, reporter)?;
    let mut notes = near_miss_notes(examples, &found);
    if let Some((triplets, triplet_notes)) = &plan.triplets {
        let near_misses = found.scorers[0].evaluation.all.near_misses.mean;
        let (n, seed) = (plan.triplet_sample, study.common.seed);
        let comparison = compare_triplets(encoder, triplets, n, seed, near_misses, reporter)?;
        found.comparison = Some(comparison);
        notes.extend(triplet_notes.lines("triplets"));
    }
    let seconds = found.scores.encoding.as_secs_f64();
    reporter.log(&format!(
        "{} texts, {} tokens in {seconds:.1} s ({:.0} tokens/s)",
        found.scores.texts.texts,
        found.scores.texts.tokens,
        found.scores.texts.tokens as f64 / seconds.max(1e-9)
    ));
    for (name, time) in config.setup.verifiers.iter().zip(&found.scores.scoring) {
        reporter.log(&format!(
            "{name}: {} pairs in {:.2} s",
            examples.items.len(),
            time.as_secs_f64()
        ));
    }
    // Printed before it is saved: a full disk takes nothing that was computed.
    if !study.common.json {
        print(&near_miss_summary(&config, &found, &notes))?;
    }
    let folder = save_near_miss(&study.common.out, &config, examples, &found, &notes)?;
    reporter.log(&format!("saved: {}", folder.display()));
    if !study.common.json {
        let more = folder.join("report.md");
        print(&format!("\nEvery table: {}\n\n", more.display()))?;
    }
    let mut json = near_miss_json(&found);
    json["stage"] = "near-miss".into();
    json["set"] = examples.name.clone().into();
    Ok(json)
}

fn run_explain(
    common: &Common,
    second: &Second,
    texts: [&str; 2],
    svg: Option<PathBuf>,
) -> Result<()> {
    let options = second.options()?;
    let session = Session::open(common)?;
    let verifiers = options.build(session.encoder.device())?;
    let found = explain(&session.encoder, texts, &verifiers, options.max_length)?;
    let path = svg.unwrap_or_else(|| common.out.join("explain.svg"));
    found.save(&path)?;
    if common.json {
        let json = serde_json::to_string_pretty(&found)
            .map_err(|e| Error::Invalid(format!("the map as JSON: {e}")))?;
        print(&format!("{json}\n"))?;
    } else {
        let stdout = console::Term::stdout();
        let width = if stdout.is_term() {
            usize::from(stdout.size().1)
        } else {
            120
        };
        print(&found.text(width, console::colors_enabled()))?;
    }
    session
        .reporter
        .log(&format!("picture: {}", path.display()));
    session.close(common)
}

/// A folder that cannot be written is better known before an hour of work than after.
fn check_writable(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|e| Error::io("create folder", out, e))?;
    tempfile::tempfile_in(out).map_err(|e| Error::io("write to", out, e))?;
    Ok(())
}

fn run_encode(
    common: &Common,
    texts: Option<&Path>,
    data: Option<&Path>,
    kind: Kind,
    output: &Path,
) -> Result<()> {
    let texts: Vec<String> = match (texts, data) {
        (Some(file), _) => read_lines(file)?,
        (None, Some(folder)) => Collection::load(folder, "test")?
            .corpus
            .iter()
            .map(|d| d.text_for_encoder().into_owned())
            .collect(),
        (None, None) => {
            return Err(Error::Usage(
                "encode: give --texts FILE or --data DIR".into(),
            ));
        }
    };
    let extension = output
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    if !["npy", "safetensors"].contains(&extension) {
        return Err(Error::Usage(format!(
            "--output {}: end its name in .npy or .safetensors",
            output.display()
        )));
    }
    let session = Session::open(common)?;
    let encoder = &session.encoder;
    let kind = match kind {
        Kind::Query => TextKind::Query,
        Kind::Document => TextKind::Document,
    };
    let mut task = session.reporter.task("texts", texts.len());
    let stats = if extension == "npy" {
        let mut rows = Vec::with_capacity(texts.len() * encoder.width());
        let stats = encoder.encode(
            &texts,
            kind,
            |_, part| {
                rows.extend_from_slice(part);
                Ok(())
            },
            |done, _| task.at(done),
        )?;
        nearmiss::data::write_npy(output, &rows, encoder.width())?;
        stats
    } else {
        let mut index = VectorIndex::with_capacity(encoder.device(), encoder.width(), texts.len())?;
        let stats = encoder.encode(
            &texts,
            kind,
            |_, part| index.append(part),
            |done, _| task.at(done),
        )?;
        index.save(output)?;
        stats
    };
    let time = task.finish().as_secs_f64();
    session.reporter.log(&format!(
        "{} texts, {} tokens in {time:.1} s ({:.0} tokens/s, {:.1} texts/s); {} cut, {} empty; saved: {}",
        stats.texts,
        stats.tokens,
        stats.tokens as f64 / time,
        stats.texts as f64 / time,
        stats.truncated,
        stats.empty,
        output.display()
    ));
    session.close(common)
}

fn read_lines(file: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(file).map_err(|e| Error::io("read", file, e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        Error::input(
            file,
            format!("line {line}: not UTF-8; convert the file to UTF-8"),
        )
    })?;
    if text.is_empty() {
        return Err(Error::input(file, "empty; write one text per line"));
    }
    Ok(text.lines().map(str::to_string).collect())
}

fn run_devices(json: bool) -> Result<()> {
    let lines = Device::inventory();
    if json {
        let values: Vec<_> = lines
            .iter()
            .map(|l| serde_json::json!({ "device": l.device, "available": l.available, "detail": l.detail }))
            .collect();
        return print(&format!("{:#}\n", serde_json::Value::from(values)));
    }
    let mut text = String::new();
    for line in lines {
        let mark = if line.available {
            "available"
        } else {
            "missing"
        };
        text.push_str(&format!("{:<8} {mark:<10} {}\n", line.device, line.detail));
    }
    let auto = Device::auto(ops::RETRIEVAL);
    text.push_str(&format!("--device auto takes {}\n", auto.name()));
    for kind in [DeviceKind::Cuda, DeviceKind::Wgpu] {
        let lacking: Vec<&str> = ops::ALL
            .iter()
            .filter(|op| !op.runs_on(kind))
            .map(|op| op.name)
            .collect();
        if !lacking.is_empty() {
            text.push_str(&format!(
                "{kind} does not have yet: {}\n",
                lacking.join(", ")
            ));
        }
    }
    print(&text)
}

fn run_kernel(op: &str, language: Language, variant: Option<usize>) -> Result<()> {
    let names = || {
        ops::ALL
            .iter()
            .map(|op| op.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let spec = ops::ALL
        .iter()
        .find(|spec| spec.name == op)
        .ok_or_else(|| Error::Usage(format!("unknown operator `{op}`: there are {}", names())))?;
    let (source, variants) = match language {
        Language::Ptx => (spec.ptx, (spec.ptx_variants)()),
        Language::Wgsl => (spec.wgsl, (spec.wgsl_variants)()),
    };
    let source =
        source.ok_or_else(|| Error::Usage(format!("{op} has no kernel in that language")))?;
    let Some(number) = variant else {
        let list: Vec<String> = variants
            .iter()
            .enumerate()
            .map(|(i, v)| format!("{i:>3}  {v}\n"))
            .collect();
        return print(&list.concat());
    };
    let variant = variants.get(number).ok_or_else(|| {
        Error::Usage(format!(
            "--variant {number}: {op} has variants 0 to {}",
            variants.len().max(1) - 1
        ))
    })?;
    print(&template::expand(source, variant)?.text)
}
