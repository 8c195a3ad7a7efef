//! What every command with an encoder begins and ends with.

use std::path::{Path, PathBuf};

use super::interrupt::Interrupt;
use super::pair_scores::Scorers;
use super::profile::{self, Probe};
use super::progress::Progress;
use super::results::Setup;
use crate::data::check_output_folder;
use crate::device::{Device, DeviceChoice};
use crate::encoder::{Encoder, LoadOptions, token_budget};
use crate::error::Result;
use crate::model::hub::{Backbone, FetchOptions, find_backbone};
use crate::train::TrainOptions;
use crate::train::pairs::PairOptions;
use crate::verifier::{LoadVerifier, Verifier};

/// What a session is opened with.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Where to run.
    pub device: DeviceChoice,
    /// Name or folder of the encoder, see [`find_backbone`].
    pub backbone: String,
    /// Length limit in tokens; `None` for the model's own.
    pub max_length: Option<usize>,
    /// Bytes for activations; `None` for what suits the device.
    pub memory: Option<u64>,
    /// Never use the network.
    pub offline: bool,
    /// Time every operator by itself.
    pub profile: bool,
    /// No progress, no log.
    pub quiet: bool,
    /// Folder for results.
    pub out: PathBuf,
}

/// An encoder on a device, where to say how far things are, and where results go.
pub struct Session {
    /// Says how far things are.
    pub progress: Progress,
    /// Where the encoder came from.
    pub backbone: Backbone,
    /// The encoder, which knows its device.
    pub encoder: Encoder,
    /// Folder for results.
    pub out: PathBuf,
    /// What ends a training in order.
    pub interrupt: Interrupt,
    memory: Option<u64>,
    offline: bool,
    load: LoadOptions,
    profile: bool,
}

impl Session {
    /// Opens the device, finds or fetches the encoder and loads it.
    ///
    /// # Errors
    /// What the device, the search and the model folder report.
    pub fn open(options: SessionOptions) -> Result<Self> {
        let progress = Progress::new(options.quiet);
        let device = open_device(options.device, &progress)?;
        let fetch = FetchOptions {
            cache_dir: None,
            offline: options.offline,
            progress: progress.draws(),
        };
        let backbone = find_backbone(&options.backbone, &fetch, &mut |line| progress.log(line))?;
        progress.log(&format!(
            "weights: {} from {} ({}), sha256 {}",
            backbone.name,
            backbone.source,
            backbone.folder.display(),
            &backbone.sha256[..12]
        ));
        let budget = options.memory;
        let budget = budget.map(|bytes| token_budget(&backbone.folder, &device, bytes));
        let load = LoadOptions {
            max_length: options.max_length,
            token_budget: budget.transpose()?,
        };
        let encoder = Encoder::load(&backbone.folder, &device, load)?;
        device.set_profiling(options.profile);
        Ok(Session {
            progress,
            backbone,
            encoder,
            out: options.out,
            interrupt: Interrupt::default(),
            memory: options.memory,
            offline: options.offline,
            load,
            profile: options.profile,
        })
    }

    /// Another encoder on the same device: that of a model folder, with this length limit or the folder's own.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn load(&self, folder: &Path, max_length: Option<usize>) -> Result<Encoder> {
        let load = LoadOptions {
            max_length,
            ..self.load
        };
        Encoder::load(folder, self.encoder.device(), load)
    }

    /// How `encoder` is trained by `options` within this session's memory for activations.
    pub fn training_options(&self, options: TrainOptions, encoder: &Encoder) -> TrainOptions {
        TrainOptions {
            token_budget: options.token_budget.or(self.training_tokens(encoder)),
            ..options
        }
    }

    /// How a scorer over `encoder` is trained by `options` within this session's memory for activations.
    pub fn pair_options(&self, options: PairOptions, encoder: &Encoder) -> PairOptions {
        let within = self.training_tokens(encoder);
        PairOptions {
            token_budget: options.token_budget.or(within),
            ..options
        }
    }

    /// Most tokens that a training of `encoder` has on the device at a time within this session's memory for activations;
    /// `None` for what suits the device.
    pub fn training_tokens(&self, encoder: &Encoder) -> Option<usize> {
        self.memory.map(|memory| encoder.training_tokens(memory))
    }

    /// The verifier of a folder with its encoder, which has this length limit or the folder's own.
    ///
    /// # Errors
    /// As [`Verifier::load`].
    pub fn load_verifier(&self, folder: &Path, max_length: Option<usize>) -> Result<Verifier> {
        let load = LoadOptions {
            max_length,
            ..self.load
        };
        let options = LoadVerifier {
            fetch: FetchOptions {
                offline: self.offline,
                ..FetchOptions::default()
            },
            encoder: load,
            memory: self.memory,
        };
        Verifier::load_with(folder, self.encoder.device(), &options)
    }

    /// What numbers of its encoder and of `scorers` depend on.
    pub fn setup(&self, scorers: &Scorers) -> Setup {
        Setup::new(&self.encoder, &self.backbone.sha256, scorers)
    }

    /// Fails if the folder for results cannot be written: better known before an hour of work than after.
    ///
    /// # Errors
    /// As [`check_output_folder`].
    pub fn check_out(&self) -> Result<()> {
        check_output_folder(&self.out)
    }

    /// Logs which operators ran and how much memory they took; if the session was opened for that, the table of what
    /// each cost.
    ///
    /// # Errors
    /// What the device reports while its limits are measured.
    pub fn close(&self) -> Result<Option<String>> {
        close(self.encoder.device(), &self.progress, self.profile)
    }
}

/// Opens a device, and says which it is and, where that was left open, why no other.
///
/// # Errors
/// As [`Device::open`].
pub fn open_device(choice: DeviceChoice, progress: &Progress) -> Result<Device> {
    let (device, passed) = match choice {
        DeviceChoice::Auto => Device::auto_explained(),
        choice => (Device::open(choice)?, Vec::new()),
    };
    progress.log(&format!("device: {}", device.name()));
    for line in passed {
        progress.log(&format!("  not {}: {}", line.device, line.detail));
    }
    Ok(device)
}

/// Logs which operators ran on a device and how much memory they took; if it was profiled, the table of what each cost.
///
/// # Errors
/// What the device reports while its limits are measured.
pub fn close(device: &Device, progress: &Progress, profile: bool) -> Result<Option<String>> {
    let totals = device.op_totals();
    let ran: Vec<String> = totals
        .iter()
        .map(|t| format!("{} x {}", t.op, t.calls))
        .collect();
    progress.log(&format!(
        "operators on {}: {}",
        device.kind(),
        ran.join(", ")
    ));
    let memory = device.memory();
    progress.log(&format!(
        "device memory: at most {:.1} MB",
        memory.peak as f64 / 1e6
    ));
    if !profile {
        return Ok(None);
    }
    device.set_profiling(false);
    let limits = profile::measure_limits(device, Probe::of(device))?;
    Ok(Some(profile::table(&totals, &limits)))
}
