//! Microbenchmarks of every operator and of the whole encoder: `cargo bench -- --help`.

#[path = "program.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main_with(std::env::args_os())
}
