//! The command line of `run-study`, which `gpu-check` has too.
//!
//! Data goes to stdout, logs and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod args;
mod commands;
mod hints;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use nearmiss::study::progress::to_stderr;
use nearmiss::{Result, ops};

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
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            to_stderr(format_args!("error: {}", hints::line(&e)));
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    use commands::{encode, explain, inspect, study, train};
    match cli.command {
        None => study::all(&cli.study, &cli.data, &cli.second, &cli.pairs),
        Some(Command::Retrieve {
            study,
            data,
            second,
        }) => study::retrieve(&study, &data, &second),
        Some(Command::NearMiss {
            study,
            second,
            pairs,
        }) => study::near_miss(&study, &second, &pairs),
        Some(Command::Geometry {
            study,
            data,
            second,
            pairs,
        }) => study::geometry(&study, &data, &second, &pairs),
        Some(Command::Experiment1 {
            study,
            data,
            in_domain,
            pairs,
            arms,
        }) => study::experiment_1(&study, &data, &in_domain, &pairs, &arms),
        Some(Command::Train { common, training }) => train::run(&common, &training),
        Some(Command::Explain {
            common,
            second,
            first,
            second_text,
            svg,
        }) => explain::run(&common, &second, [&first, &second_text], svg),
        Some(Command::Encode {
            common,
            texts,
            data,
            kind,
            output,
        }) => encode::run(&common, texts.as_deref(), data.as_deref(), kind, &output),
        Some(Command::Ops) => commands::print(&ops::table::markdown()),
        Some(Command::Devices { json }) => inspect::devices(json),
        Some(Command::Kernel {
            op,
            language,
            variant,
        }) => inspect::kernel(&op, language, variant),
    }
}
