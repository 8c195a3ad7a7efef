//! `gpu-check`: parity, benches and the study in one binary, for a machine that has a GPU and no Rust, and what runs them
//! there within a budget of time.
//!
//! `tools/gpu-check` packs it together with a model and data, starts it over there, and takes in what comes back.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use nearmiss::Result;

#[path = "../../tests/parity/cases.rs"]
mod cases;
#[path = "../run_study/cli.rs"]
mod cli;
mod halve;
mod parity;
mod probe;
#[path = "../../benches/program.rs"]
mod program;
mod run;
mod table;

const USAGE: &str = "\
usage: gpu-check COMMAND ...

  run            everything that a pack holds, within a budget of time
  table          put what a run brought back where it belongs
  parity         hold every operator on every device of this machine against its reference
  bench          time every operator on one device
  facts          what a device is
  limits         a device's bandwidth, matrix-product rate and cost of a launch
  jit            how long the driver compiles each operator's kernels
  run-study      the study; what follows are its own arguments
  halve-weights  copy a model folder with its weights rounded to f16

`gpu-check COMMAND --help` tells the options of each.";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| "gpu-check".into());
    let command = arguments.next().unwrap_or_default();
    // Each command names itself in its messages by what stands first.
    let mut name = program;
    name.push(" ");
    name.push(&command);
    let rest = std::iter::once::<OsString>(name).chain(arguments);
    match command.to_str() {
        Some("run") => run::main_with(rest),
        Some("table") => table::main_with(rest),
        Some(what @ ("facts" | "limits" | "jit")) => probe::main_with(what, rest),
        Some("parity") => parity::main_with(rest),
        Some("bench") => program::main_with(rest),
        Some("run-study") => cli::main_with(rest),
        Some("halve-weights") => halve::main_with(rest),
        Some("--help" | "-h" | "help") => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Parses a command's options and runs it; what goes wrong is one line, and the exit status.
fn command<O: Parser>(
    arguments: impl Iterator<Item = OsString>,
    run: impl FnOnce(&O) -> Result<ExitCode>,
) -> ExitCode {
    let options = match O::try_parse_from(arguments) {
        Ok(options) => options,
        Err(e) => {
            // A closed pipe is all that can go wrong here, and then nobody reads.
            let _ = e.print();
            return ExitCode::from(e.exit_code() as u8);
        }
    };
    run(&options).unwrap_or_else(|e| {
        eprintln!("error: {e}");
        ExitCode::from(e.exit_code())
    })
}
