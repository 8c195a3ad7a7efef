//! The command line of `run-study`, which `gpu-check` has too.
//!
//! Data goes to stdout, logs and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check answered no.

mod args;
mod commands;
mod hints;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use commands::Answer;
use nearmiss::study::escape;
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
            return match e.print() {
                // Help that nobody could get.
                Err(fault) if !e.use_stderr() && fault.kind() != ErrorKind::BrokenPipe => {
                    to_stderr(format_args!("error: cannot write stdout: {fault}"));
                    ExitCode::FAILURE
                }
                _ => ExitCode::from(if e.use_stderr() { 2 } else { 0 }),
            };
        }
    };
    match run(cli) {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(3),
        Err(e) => {
            to_stderr(format_args!("error: {}", escape::line(&hints::line(&e))));
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<Answer> {
    use commands::{
        calibrate, encode, experiments, explain, inspect, study, train, train_verifier, verify,
    };
    let done = match cli.command {
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
            rows,
        }) => experiments::experiment_1(&study, &data, &in_domain, &pairs, &arms, &rows),
        Some(Command::Experiment2 {
            study,
            data,
            in_domain,
            pairs,
            trained,
            rows,
        }) => experiments::experiment_2(&study, &data, &in_domain, &pairs, &trained, &rows),
        Some(Command::Train { common, training }) => train::run(&common, &training),
        Some(Command::TrainVerifier { common, training }) => {
            train_verifier::run(&common, &training)
        }
        Some(Command::Calibrate {
            run,
            verifier,
            pairs,
            paraphrases,
            true_accept,
            dry_run,
            folds,
        }) => {
            let files = calibrate::Files { pairs, paraphrases };
            let options = calibrate::Options {
                true_accept,
                dry_run,
                folds: folds.map(|k| k as usize),
            };
            calibrate::run(&run, verifier, &files, &options)
        }
        Some(Command::Verify {
            run,
            verifier,
            pairs,
            first,
            second,
        }) => return verify::run(&run, verifier, pairs.as_deref(), first.zip(second)),
        Some(Command::Explain {
            common,
            second,
            verifier,
            first,
            second_text,
            svg,
        }) => {
            let texts = [&first[..], &second_text];
            explain::run(&common, &second, verifier.as_deref(), texts, svg)
        }
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
    };
    done.map(|()| Answer::Yes)
}
