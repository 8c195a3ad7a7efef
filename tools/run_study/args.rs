//! What can be said on the command line.

use std::ops::Deref;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nearmiss::metrics::near_miss;
use nearmiss::metrics::statistics::Bootstrap;
use nearmiss::model::hub::DEFAULT_BACKBONE;
use nearmiss::study::guard::GuardOptions;
use nearmiss::study::pair_scores::Scorers;
use nearmiss::study::plan;
use nearmiss::study::training::data::SHARE;
use nearmiss::train::pairs;
use nearmiss::verifier::{self, Kind as VerifierKind, Penalty};

/// Dense retrieval on hand-written GPU kernels: without a command, runs the whole study at its defaults.
#[derive(Parser)]
#[command(
    name = "run-study",
    version,
    max_term_width = 100,
    args_override_self = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check answered no (verify: reject).\n\
        Data go to stdout, progress and errors to stderr; --quiet leaves errors alone."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub study: Study,
    #[command(flatten)]
    pub data: Data,
    #[command(flatten)]
    pub second: Second,
    #[command(flatten)]
    pub pairs: Pairs,
}

#[derive(Subcommand)]
pub enum Command {
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
    /// Train the encoder with and without near-misses as negatives (arms Base, A, B and controls), and measure what it gains
    /// and what it costs.
    #[command(name = "experiment-1",
        mut_arg("max_length", |arg| arg.help(
            "Length limit in tokens, of training and measuring; default: 48, with --preset smoke 32, with --preset full 128")),
        mut_arg("mode", |arg| arg.help("corrected, or paper: divides rows one by one whatever their anchors, keeps rows of two equal texts, lets a \
             sentence occur in several rows of a batch, and leaves out near-misses of 20 characters or fewer, as the paper's code does")))]
    Experiment1 {
        #[command(flatten)]
        study: Study,
        #[command(flatten)]
        data: Data,
        /// Names of the collections that training rows are about: not zero-shot, averaged apart.
        #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
        in_domain: Vec<String>,
        #[command(flatten)]
        pairs: PairFiles,
        #[command(flatten)]
        arms: Arms,
        #[command(flatten)]
        rows: TrainingRows,
    },
    /// Compare second-stage scorers as they are and trained, frozen and end to end: how each re-ranks, and which tells
    /// near-misses apart. Trains a guard, too, and leaves it calibrated in OUT/study-guard/verifier.
    #[command(name = "experiment-2",
        mut_arg("max_length", |arg| arg.help("Length limit of the first stage in tokens; default: the model's own")),
        mut_arg("mode", |arg| arg.help("corrected, or paper: divides rows one by one whatever their anchors, keeps rows of two equal texts, and \
             leaves out near-misses of 20 characters or fewer, as the paper's code does")))]
    Experiment2 {
        #[command(flatten)]
        study: Study,
        #[command(flatten)]
        data: Data,
        /// Names of the collections that training rows are about: not zero-shot, averaged apart.
        #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
        in_domain: Vec<String>,
        #[command(flatten)]
        pairs: PairFiles,
        #[command(flatten)]
        trained: TrainedScorers,
        #[command(flatten)]
        rows: TrainingRows,
    },
    /// Train the encoder on your own rows, and write a model folder that sentence-transformers loads.
    #[command(mut_arg("out", |arg| arg
        .default_value("trained")
        .help("Where the model folder is written; checkpoints and the curve go beside it, into OUT.training")),
        mut_arg("max_length", |arg| arg.help("Length limit in tokens; default: 128, or the model's own if that is lower")))]
    Train {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        training: Training,
    },
    /// Train a guard: a verifier that says of two sentences whether they mean the same, and is strict with near-misses.
    ///
    /// A tenth of the pairs is kept aside, sentences and all. By these a threshold is chosen that accepts 95 % of the pairs of
    /// equal meaning, and a table says what it rejects. OUT/verifier is what `verify`, `calibrate` and `explain` take.
    #[command(
        mut_arg("out", |arg| arg
            .default_value("results/guard")
            .help("Where the guard goes: OUT/verifier; checkpoints and the learning curve lie beside it, and the same command goes on where it was cut short")),
        mut_arg("max_length", |arg| arg.help("Length limit in tokens; default: 64, or the model's own if that is lower")))]
    TrainVerifier {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        training: GuardTraining,
    },
    /// Set the threshold of a guard by pairs of your own, and say what it costs.
    Calibrate {
        #[command(flatten)]
        run: Run,
        /// Folder of the guard's verifier; default: in the folder for results guard/verifier, as train-verifier leaves it, else
        /// study-guard/verifier, as the study does.
        #[arg(long, value_name = "DIR")]
        verifier: Option<PathBuf>,
        /// Near-misses, which say what the threshold costs: CSV with columns sentence1, sentence2, category and, if there is
        /// one, source (.gz too).
        #[arg(long, value_name = "FILE", num_args = 1..)]
        pairs: Vec<PathBuf>,
        /// Sentences of equal meaning, by which it is chosen: CSV with columns sentence1, sentence2 and, if there is one, source.
        /// Take pairs as you will meet them, and none that the guard was trained on.
        #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
        paraphrases: Vec<PathBuf>,
        /// Share of the pairs of equal meaning that is to be accepted.
        #[arg(long, value_name = "SHARE", default_value_t = GuardOptions::default().true_accept)]
        true_accept: f64,
        /// Say what would be, and leave the threshold as it is.
        #[arg(long)]
        dry_run: bool,
        /// Judge every pair too by a threshold from pairs that share no sentence with it, in so many parts: what such a
        /// threshold does to pairs that it was not chosen by, with intervals.
        #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..=1000))]
        folds: Option<u32>,
    },
    /// Ask a guard whether two sentences mean the same: exit code 0 for accept, 3 for reject.
    #[command(
        override_usage = "run-study verify [OPTIONS] FIRST SECOND\n       run-study verify [OPTIONS] --pairs FILE"
    )]
    Verify {
        #[command(flatten)]
        run: Run,
        /// Folder of the guard's verifier; default: in the folder for results guard/verifier, as train-verifier leaves it, else
        /// study-guard/verifier, as the study does.
        #[arg(long, value_name = "DIR")]
        verifier: Option<PathBuf>,
        /// Many pairs: CSV with columns sentence1 and sentence2 (.gz too), or - for standard input. Prints a line for each as
        /// they come: verdict, score, threshold and both sentences, separated by tabs; with --json an object a line. The exit
        /// code is 3 if any is rejected.
        #[arg(long, value_name = "FILE", conflicts_with = "first")]
        pairs: Option<PathBuf>,
        /// The sentence that counts as given, as the question whose answer is stored.
        #[arg(required_unless_present = "pairs", requires = "second")]
        first: Option<String>,
        /// The sentence that may mean the same, as the question that is asked.
        second: Option<String>,
    },
    /// Compare two sentences token by token: every score, and the similarity map in the terminal and as an SVG picture.
    Explain {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        second: Second,
        /// Folder of a trained verifier: its verdict, and which tokens that rests on. The encoder is then its own, and so is
        /// the length limit.
        #[arg(long, value_name = "DIR")]
        verifier: Option<PathBuf>,
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
pub struct Common {
    #[command(flatten)]
    pub run: Run,
    /// Encoder: a model folder, a known name (all-MiniLM-L6-v2, all-MiniLM-L12-v2, gte-small) or org/name.
    #[arg(long, default_value = DEFAULT_BACKBONE, env = "NEARMISS_BACKBONE")]
    pub backbone: String,
    /// Length limit in tokens; default: the model's own.
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

/// Those of them that a command with an encoder of its own has too.
#[derive(Args, Clone)]
pub struct Run {
    /// auto, cpu, cuda, cuda:N, wgpu, vulkan or metal.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads; default: all cores.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Memory for activations, e.g. 500MB, 2GB or 1.5GiB; default: what suits the device.
    #[arg(long)]
    pub memory: Option<String>,
    /// Folder for results.
    #[arg(long, default_value = "results")]
    pub out: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// No progress, no log.
    #[arg(long)]
    pub quiet: bool,
    /// Never use the network.
    #[arg(long)]
    pub offline: bool,
    /// Time every operator by itself and print what it cost.
    #[arg(long)]
    pub profile: bool,
}

impl Deref for Common {
    type Target = Run;

    fn deref(&self) -> &Run {
        &self.run
    }
}

/// Options of the stages of the study.
#[derive(Args, Clone)]
pub struct Study {
    #[command(flatten)]
    pub common: Common,
    /// How much of the built-in data: smoke (60 passages, 8 anchors a category), small (400, 100) or full (1,000, 500).
    #[arg(long, value_enum, default_value_t = Preset::Small)]
    pub preset: Preset,
}

#[derive(Args, Clone)]
pub struct Data {
    /// BEIR folders (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv); default: the built-in collections.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Which judgements.
    #[arg(long, default_value = "test")]
    pub split: String,
    /// Use only so many documents (those relevant to the first queries, then others).
    #[arg(long, value_name = "N")]
    pub documents: Option<usize>,
    /// One of the built-in collections; default: all of them (with --preset smoke, the first).
    #[arg(long, value_name = "NAME", conflicts_with = "data")]
    pub collection: Option<String>,
}

#[derive(Args, Clone)]
pub struct Pairs {
    #[command(flatten)]
    pub files: PairFiles,
    /// Pairs of the training domain to set beside: CSV with columns anchor, positive, negative.
    #[arg(long, value_name = "FILE")]
    pub triplets: Option<PathBuf>,
    /// How many of the triplets, drawn at random.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub triplet_sample: usize,
}

#[derive(Args, Clone)]
pub struct PairFiles {
    /// Near-misses: CSV with columns sentence1, sentence2, category and, if there is one, source (.gz too); default:
    /// the built-in edit sets.
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// Sentences of equal meaning: CSV with columns sentence1, sentence2 and, if there is one, source.
    #[arg(long, value_name = "FILE", requires = "pairs")]
    pub paraphrases: Option<PathBuf>,
    /// corrected, or paper: leaves out near-misses of 20 characters or fewer, as the paper's code does.
    #[arg(long, value_enum, default_value_t = Mode::Corrected)]
    pub mode: Mode,
    /// Fewest near-misses and accepts that a rate may rest on.
    #[arg(long, value_name = "N", default_value_t = near_miss::Options::default().minimum)]
    pub minimum: usize,
    /// Bootstrap samples for intervals; of hundreds of categories fewer, down to 1000, which is said.
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples)]
    pub resamples: usize,
    /// Judge every pair too by a threshold from pairs that share no sentence with it, in so many parts: rates for few pairs.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub folds: Option<u32>,
}

/// What experiment 1 trains.
#[derive(Args, Clone)]
pub struct Arms {
    /// Arms, or `all`; the published encoder is always there. A: rows for retrieval alone. B: near-misses too, as negatives
    /// of sentences that are their own positives; B-para: whose positives are paraphrases; B-own: for their own anchors alone;
    /// B-matched: with as many rows for retrieval as A; B-dose(PERCENT): another share. A-id, A-para: as B and B-para, with
    /// other sentences in the place of near-misses.
    #[arg(long, value_name = "ARM", value_delimiter = ',', num_args = 1.., default_values_t = ["A", "B"].map(String::from))]
    pub arms: Vec<String>,
    /// Seeds of every arm; default: --seed alone, with --preset full that and the two after it.
    #[arg(long, value_name = "SEED", value_delimiter = ',', num_args = 1..)]
    pub seeds: Vec<u64>,
    /// Steps of a training; default: 60, with --preset smoke 6, with --preset full the protocol's for the encoder's size.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Triplets of a step; default: 32, with --preset smoke 4, with --preset full 128.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Highest learning rate; default: the protocol's for the encoder's size.
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
}

/// Which scorers experiment 2 compares, and how it trains them.
#[derive(Args, Clone)]
pub struct TrainedScorers {
    /// Scorers; those without weights are looked at as they are, too. Default: all, of which the small presets train f4 frozen
    /// and end to end and f1 end to end.
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    pub verifiers: Vec<String>,
    /// Trainings: frozen, end-to-end; default: both. A scorer without weights has the second alone.
    #[arg(long, value_name = "HOW", value_delimiter = ',', num_args = 1..)]
    pub training: Vec<String>,
    /// Positives of structural rows: identity (the sentence itself, arm B), paraphrase (arm B-para); default: both, in the small
    /// presets with f4 frozen alone.
    #[arg(long, value_name = "KIND", value_delimiter = ',', num_args = 1..)]
    pub positives_as: Vec<String>,
    /// What is wanted of scores: softmax over the batch (the paper's), pairwise, binary.
    #[arg(long, value_name = "OBJECTIVE", value_enum, value_delimiter = ',', num_args = 1.., default_values_t = [Objective::Softmax])]
    pub objective: Vec<Objective>,
    /// Seeds of every training; default: --seed alone, with --preset full that and the two after it.
    #[arg(long, value_name = "SEED", value_delimiter = ',', num_args = 1..)]
    pub seeds: Vec<u64>,
    /// Steps of a training; default: 120, with --preset smoke 3, with --preset full the protocol's for scorer and encoder.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Rows of a step; default: 16, with --preset smoke 4, with --preset full the protocol's.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Tokens that scorers see of a text, in training too; default: 32, with --preset full 128.
    #[arg(long, value_name = "TOKENS")]
    pub verifier_length: Option<usize>,
    /// Candidates that a second stage re-ranks; default: 100, with --preset smoke 10.
    #[arg(long, value_name = "N")]
    pub depth: Option<usize>,
    /// Steps of the guard; default: 200, with --preset smoke 3, with --preset full 2,000.
    #[arg(long, value_name = "STEPS", conflicts_with = "no_guard")]
    pub guard_steps: Option<u64>,
    /// Train no guard.
    #[arg(long)]
    pub no_guard: bool,
}

/// Rows that an experiment trains on.
#[derive(Args, Clone)]
pub struct TrainingRows {
    /// Rows for retrieval: CSV or JSON lines (.gz too) with anchor, positive and, if there is one, negative; default: built in.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub triplets: Vec<PathBuf>,
    /// Use so many rows for retrieval, equal numbers of each file.
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    /// Near-misses to train on: CSV with columns sentence1, sentence2 and category; default: built in.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub structural: Vec<PathBuf>,
    /// Sentences of equal meaning for positives that are paraphrases: CSV with columns sentence1 and sentence2.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "structural")]
    pub positives: Vec<PathBuf>,
    /// Share of structural rows.
    #[arg(long, default_value_t = SHARE)]
    pub share: f64,
}

/// How `train` trains.
#[derive(Args, Clone)]
pub struct Training {
    /// Rows: CSV or JSON lines (.gz too) with anchor, positive and, if there is one, negative, or sentence1, sentence2 and
    /// category (near-misses: sentence1 is anchor and positive).
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub triplets: Vec<PathBuf>,
    /// How often all rows are gone through.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1.0,
        conflicts_with = "steps"
    )]
    pub epochs: f64,
    /// Steps, whatever the number of rows.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Triplets of a step: every anchor is told from the positives and negatives of all others.
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Highest learning rate; default: what suits the encoder's size.
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Factor of the cosines in the loss: 1 / temperature.
    #[arg(long, default_value_t = 10.0)]
    pub scale: f64,
    /// How rows without a negative get one.
    #[arg(long, value_enum, default_value_t = Mining::Random)]
    pub negatives: Mining,
    /// Keep rows whose negative equals their positive or anchor.
    #[arg(long)]
    pub keep_identical: bool,
    /// Let a sentence occur in several rows of a batch, where it is a wrong negative of its own row.
    #[arg(long)]
    pub duplicates: bool,
    /// Put the model's prompts before texts, as before queries and documents in a search.
    #[arg(long)]
    pub prompts: bool,
    /// Steps between two checkpoints; default: as many hundreds as keep what writing them takes below a twentieth of the
    /// time.
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u64>,
}

/// How `train-verifier` trains.
#[derive(Args, Clone)]
#[group(skip)]
pub struct GuardTraining {
    /// Near-misses, pairs to reject: CSV with columns sentence1, sentence2, category and, if there is one, source (.gz too).
    #[arg(
        long,
        value_name = "FILE",
        num_args = 1..,
        requires = "paraphrases",
        required_unless_present = "triplets"
    )]
    pub pairs: Vec<PathBuf>,
    /// Sentences of equal meaning, pairs to accept: CSV with columns sentence1, sentence2 and, if there is one, source. Pairs
    /// of one source are set beside each other, so that its style does not tell the answer; without such a column the
    /// file's name is the source, without an ending such as _paraphrases.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "pairs")]
    pub paraphrases: Vec<PathBuf>,
    /// Instead of both: CSV or JSON lines (.gz too) with anchor, positive (says the same) and negative (does not).
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["pairs", "paraphrases"])]
    pub triplets: Vec<PathBuf>,
    /// What is trained over the token map of two sentences: f4, a small Transformer, or f3, a small network of convolutions; f0, f1, f2 and none have no weights, and
    /// train the encoder alone.
    #[arg(long, value_name = "NAME", default_value_t = VerifierKind::Transformer)]
    pub verifier: VerifierKind,
    /// Leave the encoder as it is, and train the verifier alone: quicker, and clearly weaker.
    #[arg(long)]
    pub frozen: bool,
    /// What is wanted of scores: binary makes them comparable from pair to pair, as a threshold needs; pairwise sets pairs to
    /// accept above pairs to reject; softmax tells the positive from those of the whole batch, and takes --triplets.
    #[arg(long, value_enum, default_value_t = Wanted::Binary)]
    pub objective: Wanted,
    /// Steps: three quarters of an hour of two cores; a third of them make a usable guard.
    #[arg(long, value_name = "N", default_value_t = 7000)]
    pub steps: u64,
    /// Rows of a step, each a pair to accept and a pair to reject.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Highest learning rate of the encoder.
    #[arg(
        long,
        value_name = "RATE",
        default_value_t = 1e-4,
        conflicts_with = "frozen"
    )]
    pub learning_rate: f64,
    /// Highest learning rate of the verifier.
    #[arg(long, value_name = "RATE", default_value_t = 3e-4)]
    pub verifier_learning_rate: f64,
    /// Share of the pairs of equal meaning that is to be accepted.
    #[arg(long, value_name = "SHARE", default_value_t = GuardOptions::default().true_accept)]
    pub true_accept: f64,
    /// Share of the pairs that is not trained on, for the threshold and the table.
    #[arg(long, value_name = "SHARE", default_value_t = GuardOptions::default().keep_aside)]
    pub keep_aside: f64,
    /// Share of the rows of a training on pairs that are built in: questions with rewordings and near-misses, so that a
    /// guard knows more kinds of them than your pairs have. 0 leaves them out.
    #[arg(long, value_name = "SHARE", default_value_t = GuardOptions::default().built_in)]
    pub built_in: f64,
    /// Steps between two checkpoints; default: as many hundreds as keep what writing them takes below a twentieth of the
    /// time.
    #[arg(long, value_name = "N")]
    pub checkpoint_every: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// Binary cross-entropy of every pair by itself.
    Binary,
    /// Cross-entropy of a softmax over the batch.
    Softmax,
    /// Logistic loss of the difference of two scores.
    Pairwise,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Mining {
    /// The positive of another row, drawn at random.
    Random,
    /// One that shares many words with the anchor.
    Bm25,
    /// One that the encoder finds similar to the anchor.
    Encoder,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Mode {
    Corrected,
    Paper,
}

#[derive(Args, Clone)]
pub struct Second {
    /// Second-stage scorers: none, f0, f1, f2, or BASE-VERIFIER (as f1-f2) for the conditional penalty; `off` for no
    /// second stage.
    #[arg(long, value_delimiter = ',', default_values_t = Scorers::NAMES.map(String::from))]
    pub verifiers: Vec<String>,
    /// Tokens that a verifier sees of a text.
    #[arg(long, value_name = "TOKENS", default_value_t = verifier::MAX_LENGTH)]
    pub verifier_length: usize,
    /// Base score at which half of the conditional penalty applies.
    #[arg(long, value_name = "TAU", default_value_t = Penalty::default().threshold)]
    pub penalty_threshold: f64,
    /// Weight of the conditional penalty.
    #[arg(long, value_name = "BETA", default_value_t = Penalty::default().weight)]
    pub penalty_weight: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Objective {
    Softmax,
    Pairwise,
    Binary,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Preset {
    Smoke,
    Small,
    Full,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    Query,
    Document,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Language {
    Ptx,
    Wgsl,
}

impl From<Preset> for plan::Preset {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::Smoke => plan::Preset::Smoke,
            Preset::Small => plan::Preset::Small,
            Preset::Full => plan::Preset::Full,
        }
    }
}

impl From<Objective> for pairs::Objective {
    fn from(objective: Objective) -> Self {
        match objective {
            Objective::Softmax => pairs::Objective::Softmax,
            Objective::Pairwise => pairs::Objective::Pairwise,
            Objective::Binary => pairs::Objective::Binary,
        }
    }
}
