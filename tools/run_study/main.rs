//! `run-study`: the study and its stages on the command line.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main_with(std::env::args_os())
}
