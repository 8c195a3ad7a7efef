//! What `run-study` does: options become inputs of the library, results become output.

pub mod calibrate;
pub mod encode;
pub mod experiments;
pub mod explain;
pub mod inspect;
pub mod study;
pub mod train;
pub mod train_verifier;
pub mod verify;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nearmiss::model::hub::FetchOptions;
use nearmiss::study::escape::{json, lines};
use nearmiss::study::experiment_2::guard::FOLDER;
use nearmiss::study::pair_scores::Scorers;
use nearmiss::study::progress::{Progress, to_stderr};
use nearmiss::study::session::{self, Session, SessionOptions};
use nearmiss::train::pairs::VERIFIER;
use nearmiss::verifier::{self, LoadVerifier, Penalty, Verifier};
use nearmiss::{Error, Result};
use serde::Serialize;

use super::args::{Common, Run, Second};

/// What a command was asked and answers by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It did what it was told to; what it checked is so.
    Yes,
    /// What it checked is not so.
    No,
}

/// Writes data to stdout, without what would move the cursor of a terminal; a closed pipe (as of `| head`) is no failure.
pub fn print(text: &str) -> Result<()> {
    print_as_it_is(&lines(text)).map(drop)
}

/// Writes JSON to stdout.
fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|e| Error::Invalid(format!("the result as JSON: {e}")))?;
    print_as_it_is(&format!("{}\n", json(&text))).map(drop)
}

/// Writes to stdout; says whether there is still somebody to read.
fn print_as_it_is(text: &str) -> Result<bool> {
    let mut stdout = std::io::stdout();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("write", "stdout", e)),
    }
}

/// Threads per core that can be asked for: more only stand in each other's way.
const MOST_THREADS_PER_CORE: usize = 4;

/// Takes as many threads as are asked for.
fn set_threads(run: &Run) -> Result<()> {
    if let Some(threads) = run.threads {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = MOST_THREADS_PER_CORE * cores;
        if !(1..=most).contains(&threads) {
            return Err(Error::Usage(format!(
                "--threads {threads}: give 1 to {most} on this machine of {cores} cores"
            )));
        }
        // Fails only if a pool exists already, which nothing before this line makes.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global();
    }
    Ok(())
}

/// Bytes for activations, if some are asked for.
fn memory(run: &Run) -> Result<Option<u64>> {
    run.memory.as_deref().map(parse_bytes).transpose()
}

/// Opens what every command with an encoder needs.
fn open(common: &Common) -> Result<Session> {
    set_threads(common)?;
    Session::open(SessionOptions {
        device: common.device.parse()?,
        backbone: common.backbone.clone(),
        max_length: common.max_length,
        memory: memory(common)?,
        offline: common.offline,
        profile: common.profile,
        quiet: common.quiet,
        out: common.out.clone(),
    })
}

/// The folder of the guard's verifier where none is named.
fn guard(run: &Run, folder: Option<PathBuf>) -> PathBuf {
    folder.unwrap_or_else(|| {
        let [own, study] = ["guard", FOLDER].map(|name| run.out.join(name).join(VERIFIER));
        match !own.exists() && study.exists() {
            true => study,
            false => own,
        }
    })
}

/// Opens a verifier with its encoder.
fn open_verifier(run: &Run, folder: &Path) -> Result<(Verifier, Progress)> {
    set_threads(run)?;
    let progress = Progress::new(run.quiet);
    // Better known than the device.
    verifier::Config::read(folder)?;
    let device = session::open_device(run.device.parse()?, &progress)?;
    let options = LoadVerifier {
        fetch: FetchOptions {
            offline: run.offline,
            progress: progress.draws(),
            ..FetchOptions::default()
        },
        memory: memory(run)?,
        ..LoadVerifier::default()
    };
    let verifier = Verifier::load_with(folder, &device, &options)?;
    let config = verifier.config();
    let threshold = verifier.threshold();
    progress.log(&format!(
        "verifier: {} of {}, {}",
        config.verifier,
        folder.display(),
        threshold.map_or("without a threshold".into(), |t| format!(
            "threshold {t:.4}"
        ))
    ));
    device.set_profiling(run.profile);
    Ok((verifier, progress))
}

/// What [`close`] says, of a verifier.
fn close_verifier(run: &Run, verifier: &Verifier, progress: &Progress) -> Result<()> {
    let device = verifier.encoder().device();
    if let Some(table) = session::close(device, progress, run.profile)? {
        to_stderr(table.trim_end());
    }
    Ok(())
}

/// Makes Ctrl-C, a plain kill and a terminal that is closed end a training in order; while none is under way, and when one
/// of them comes again, they end the program.
fn end_trainings_in_order(session: &Session) -> Result<()> {
    #[cfg(unix)]
    use signal_hook::consts::SIGHUP;
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::low_level::{exit, register};
    let all = [
        SIGINT,
        SIGTERM,
        #[cfg(unix)]
        SIGHUP,
    ];
    for signal in all {
        let interrupt = session.interrupt.clone();
        let handle = move || {
            if interrupt.ask() {
                exit(128 + signal);
            }
        };
        // SAFETY: what a handler may do is all that it does: `ask` reads a clock and stores to atomics, `exit` ends the
        // process without running anything of it.
        unsafe { register(signal, handle) }
            .map_err(|e| Error::Invalid(format!("cannot listen for Ctrl-C: {e}")))?;
    }
    Ok(())
}

/// Says what ran and, if asked for, what it cost.
fn close(session: &Session) -> Result<()> {
    if let Some(table) = session.close()? {
        to_stderr(table.trim_end());
    }
    Ok(())
}

fn parse_bytes(text: &str) -> Result<u64> {
    let (number, unit) = text.split_at(
        text.find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len()),
    );
    let factor = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "KB" | "K" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" => 1e9,
        "TB" | "T" => 1e12,
        "KIB" => 1024.0,
        "MIB" => 1048576.0,
        "GIB" => 1073741824.0,
        "TIB" => 1099511627776.0,
        _ => f64::NAN,
    };
    match number.trim().parse::<f64>().map(|v| v * factor) {
        Ok(bytes) if bytes.is_finite() && bytes >= 1.0 => Ok(bytes as u64),
        _ => Err(Error::Usage(format!(
            "--memory {text}: write a size such as 500MB, 2GB or 1.5GiB"
        ))),
    }
}

/// The verifiers that are asked for.
fn scorers(second: &Second) -> Result<Scorers> {
    let penalty = Penalty {
        threshold: second.penalty_threshold,
        weight: second.penalty_weight,
    };
    if !penalty.threshold.is_finite() || !(0.0..f64::INFINITY).contains(&penalty.weight) {
        return Err(Error::Usage(format!(
            "--penalty-threshold {} and --penalty-weight {}: give numbers, the weight 0 or more",
            penalty.threshold, penalty.weight
        )));
    }
    let names = match &second.verifiers[..] {
        [off] if off == "off" => &[],
        names => names,
    };
    if let Some(twice) = (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
        return Err(Error::Usage(format!(
            "--verifiers names {} twice; name it once",
            names[twice]
        )));
    }
    Scorers::named(names, second.verifier_length, penalty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_either_system() {
        for (text, expected) in [
            ("1", 1),
            ("12b", 12),
            ("500MB", 500_000_000),
            ("2g", 2_000_000_000),
            ("1.5GiB", 1_610_612_736),
            ("1 MiB", 1 << 20),
            ("64kib", 65_536),
            (" 3 KB ", 3_000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), expected, "{text}");
        }
        for text in [
            "", "lots", "GB", "0", "-1GB", "0.1", "1GIBI", "1e400", "infGB", "NaN", "2 G B",
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.to_string().contains("--memory"), "{text}");
        }
    }
}
