//! `run`: a plan with a budget, for a machine that is rented by the minute. Whatever happens, what has been measured
//! comes back.
//!
//! The steps of [`plan`] are done in order of worth, each a process of its own with a hard limit, so that one that fails or
//! hangs costs itself alone. What they print goes into files as it is printed; after each step, and every few seconds
//! within one, all files are packed into one archive. OUT holds that archive, the summary and the rows of the benches.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use nearmiss::{Error, Result};
use serde::{Deserialize, Serialize};

pub mod archive;
mod budget;
mod plan;
mod process;
pub mod summary;

use plan::{Make, Site};
use process::Ended;

pub use process::NOTHING_TO_DO;

/// The archive's name in OUT.
pub const ARCHIVE: &str = "gpu-check.tar.gz";

/// Between two packings while a step runs.
const REPACK: Duration = Duration::from_secs(10);

/// For the last packing and the summary.
const RESERVE: f64 = 3.0;

/// Runs a pack within a budget of time; OUT then holds gpu-check.tar.gz, summary.txt and bench.jsonl.
#[derive(Parser)]
#[command(name = "run", version, max_term_width = 100)]
struct Options {
    /// A folder made by `tools/gpu-check pack`.
    pack: PathBuf,
    /// Where the results go.
    out: PathBuf,
    /// Seconds for everything.
    #[arg(long, default_value_t = 560.0)]
    seconds: f64,
    /// Only steps whose name contains one of these, separated by commas.
    #[arg(long, value_name = "SUBSTRINGS", value_delimiter = ',')]
    only: Vec<String>,
    /// Scratch folder, removed at the end; default: a temporary one.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

/// How a step went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Its name.
    pub step: String,
    /// `passed`, `failed`, `cut` or `skipped`.
    pub status: String,
    /// Why not.
    pub note: String,
    /// How long it took.
    pub seconds: f64,
    /// How long it might have taken.
    pub limit: f64,
}

/// Runs the command with these arguments, the first being its name.
pub fn main_with(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    crate::command(arguments, |options: &Options| {
        Ok(match run(options)? {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    })
}

fn run(options: &Options) -> Result<bool> {
    let start = Instant::now();
    if !(options.seconds > RESERVE && options.seconds.is_finite()) {
        return Err(Error::Usage(format!("--seconds must be above {RESERVE}")));
    }
    let scratch = tempfile::tempdir().map_err(|e| Error::io("create", std::env::temp_dir(), e))?;
    let work = options
        .work
        .clone()
        .unwrap_or_else(|| scratch.path().into());
    let site = Site::unpack(&options.pack, &work)?;
    make(&options.out)?;
    let out = fs::canonicalize(&options.out).map_err(|e| Error::io("open", &options.out, e))?;
    let mut run = Run {
        out,
        site,
        done: Vec::new(),
    };
    let mut steps = plan::steps(&run.site);
    if let Some(unknown) = options
        .only
        .iter()
        .find(|part| !steps.iter().any(|step| step.name.contains(&part[..])))
    {
        return Err(Error::Usage(format!("no step is called `{unknown}`")));
    }
    // The facts say how large the others are.
    steps.retain(|step| {
        let wanted = |part: &String| step.name.contains(&part[..]);
        options.only.is_empty() || step.name == "facts" || options.only.iter().any(wanted)
    });
    // Programs that are not here, or have nothing to do here: nothing is kept for steps that need them.
    let mut idle: Vec<&str> = steps.iter().filter_map(|step| step.tool).collect();
    idle.retain(|tool| plan::found(tool).is_none());
    for (i, step) in steps.iter().enumerate() {
        let left = options.seconds - RESERVE - start.elapsed().as_secs_f64();
        let later = steps[i + 1..].iter();
        let later = later.filter(|s| s.tool.is_none_or(|tool| !idle.contains(&tool)));
        let later = later.map(|s| s.least).sum();
        let limit = budget::limit(left, step.least, step.most, later);
        let done = run.step(&step.name, &step.make, limit);
        eprintln!(
            "{:>4.0} s  {}",
            start.elapsed().as_secs_f64(),
            summary::line(&done)
        );
        idle.extend(step.tool.filter(|_| done.status == "skipped"));
        run.done.push(done);
        run.keep()?;
    }
    println!("{}", run.summary());
    if let Some(work) = &options.work {
        // A scratch folder that stays is no loss.
        let _ = fs::remove_dir_all(work);
    }
    Ok(run.done.iter().all(|d| d.status != "failed"))
}

/// A run in progress.
struct Run {
    out: PathBuf,
    site: Site,
    done: Vec<Done>,
}

impl Run {
    fn step(&self, name: &str, make: &Make, limit: Option<f64>) -> Done {
        let ended = |status: &str, note: String, seconds: f64, limit: f64| Done {
            step: name.into(),
            status: status.into(),
            note,
            seconds,
            limit,
        };
        let job = match make(&self.site, limit.unwrap_or(0.0)) {
            Ok(job) => job,
            Err(why) => return ended("skipped", why, 0.0, 0.0),
        };
        let Some(limit) = limit else {
            return ended("skipped", "no time was left".into(), 0.0, 0.0);
        };
        let mut command = job.command;
        if let Err(e) = self.redirect(&mut command, name, job.out.as_deref()) {
            return ended("failed", e.to_string(), 0.0, limit);
        }
        let start = Instant::now();
        let mut packed = Instant::now();
        let result = process::run(&mut command, Duration::from_secs_f64(limit), || {
            if packed.elapsed() >= REPACK {
                packed = Instant::now();
                // It is tried again after the step, where a failure counts.
                let _ = self.keep();
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        let last = || last_line(&self.site.kept.join(format!("{name}.log")));
        match result {
            Ended::Passed => ended("passed", String::new(), seconds, limit),
            Ended::Skipped => ended("skipped", last(), seconds, limit),
            Ended::Failed(why) => ended("failed", format!("{why}: {}", last()), seconds, limit),
            Ended::Cut => ended("cut", last(), seconds, limit),
        }
    }

    /// What the step prints goes into files: `out`, if it names one, and the step's log.
    fn redirect(&self, command: &mut Command, name: &str, out: Option<&str>) -> Result<()> {
        let create = |name: &str| {
            let path = self.site.kept.join(name);
            make(path.parent().unwrap_or(&self.site.kept))?;
            File::create(&path).map_err(|e| Error::io("create", &path, e))
        };
        let log = create(&format!("{name}.log"))?;
        let twin = log.try_clone().map_err(|e| Error::io("open", name, e))?;
        command.stdin(std::process::Stdio::null()).stderr(log);
        match out {
            Some(out) => command.stdout(create(out)?),
            None => command.stdout(twin),
        };
        Ok(())
    }

    /// Brings everything measured so far to OUT.
    fn keep(&self) -> Result<()> {
        let kept = &self.site.kept;
        let steps: Vec<String> = self
            .done
            .iter()
            .map(|done| serde_json::to_string(done).expect("numbers and strings"))
            .collect();
        write(&kept.join("steps.jsonl"), &(steps.join("\n") + "\n"))?;
        let text = self.summary();
        write(&kept.join("summary.txt"), &text)?;
        write(&self.out.join("summary.txt"), &text)?;
        write(&self.out.join("bench.jsonl"), &summary::raw_rows(kept))?;
        let left_out = archive::pack(kept, &self.out.join(ARCHIVE))?;
        for path in left_out {
            eprintln!("note: {} is too large for the archive", path.display());
        }
        Ok(())
    }

    fn summary(&self) -> String {
        summary::text(&self.site.kept, &self.done)
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))
}

/// Writes a file that is whole at every moment.
fn write(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    let done = File::create(&part)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&part, path));
    done.map_err(|e| Error::io("write", path, e))
}

/// The last line of a log that says something, cut to a length that fits a table.
fn last_line(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4096)..]).into_owned();
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    let line = line.unwrap_or_default();
    line.strip_prefix("skipped: ")
        .unwrap_or(line)
        .chars()
        .take(160)
        .collect()
}
