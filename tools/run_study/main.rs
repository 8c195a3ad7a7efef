//! `run-study`: the study and its stages on the command line.

// By its path, as gpu-check names it, so that its own modules are found in one place.
#[path = "cli.rs"]
mod cli;

fn main() -> std::process::ExitCode {
    cli::main_with(std::env::args_os())
}
