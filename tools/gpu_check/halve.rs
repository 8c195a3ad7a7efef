//! `halve-weights`: a model folder at half its size, for carrying it to a machine that computes in f16 anyway.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nearmiss::model::checkpoint::{Dtype, Tensor};
use nearmiss::model::{Checkpoint, ModelFolder};
use nearmiss::{Error, Result};

/// Copies a model folder with the f32 tensors of `model.safetensors` rounded to f16.
#[derive(Parser)]
#[command(name = "halve-weights", version, max_term_width = 100)]
struct Options {
    /// Model folder.
    from: PathBuf,
    /// Where to put the copy; must not exist.
    to: PathBuf,
}

/// Runs the command with these arguments, the first being its name.
pub fn main_with(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    crate::command(arguments, |options: &Options| {
        let (before, after) = run(options)?;
        println!("{before} bytes of tensors -> {after}");
        Ok(ExitCode::SUCCESS)
    })
}

fn run(options: &Options) -> Result<(usize, usize)> {
    let folder = ModelFolder::read(&options.from)?;
    let weights = Checkpoint::open(&options.from)?;
    let (mut before, mut after) = (0, 0);
    let mut tensors = Vec::new();
    for (name, tensor) in weights.tensors() {
        before += tensor.data.len();
        let tensor = match tensor.dtype {
            Dtype::F32 => halve(&tensor).map_err(|what| {
                Error::input(
                    weights.path(),
                    format!("tensor {name}: {what}; use the model as it is"),
                )
            })?,
            _ => tensor,
        };
        after += tensor.data.len();
        tensors.push((name, tensor));
    }
    folder.write(&options.to, tensors, weights.notes())?;
    Ok((before, after))
}

/// An f32 tensor rounded to f16.
fn halve(tensor: &Tensor<'_>) -> std::result::Result<Tensor<'static>, String> {
    let values = tensor.to_f32().ok_or("holds no f32")?;
    Tensor::from_f32(&values, Dtype::F16, tensor.shape.clone())
}
