//! `halve-weights`: a model folder at half its size, for carrying it to a machine that computes in f16 anyway.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use half::f16;
use nearmiss::{Error, Result};
use safetensors::{Dtype, SafeTensors, View};

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
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(e) => {
            // A closed pipe is all that can go wrong here, and then nobody reads.
            let _ = e.print();
            return ExitCode::from(e.exit_code() as u8);
        }
    };
    match run(&options) {
        Ok((before, after)) => {
            println!("{before} bytes of tensors -> {after}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(options: &Options) -> Result<(usize, usize)> {
    let weights = options.from.join("model.safetensors");
    let bytes = fs::read(&weights).map_err(|e| Error::io("read", &weights, e))?;
    if options.to.exists() {
        return Err(Error::input(
            &options.to,
            "exists; name a folder that does not",
        ));
    }
    let sizes = halve(&weights, &bytes, &options.to)?;
    copy_settings(&options.from, &options.to)?;
    // One level down lies the pooling's configuration.
    for entry in list(&options.from)? {
        if entry.is_dir() {
            let name = entry.file_name().unwrap_or_default();
            copy_settings(&entry, &options.to.join(name))?;
        }
    }
    Ok(sizes)
}

/// A tensor of the new file.
struct Tensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Cow<'a, [u8]>,
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

fn halve(path: &Path, bytes: &[u8], to: &Path) -> Result<(usize, usize)> {
    let damaged = |e: safetensors::SafeTensorError| {
        Error::input(
            path,
            format!("not a complete safetensors file ({e}); fetch it again"),
        )
    };
    let source = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let mut tensors = Vec::new();
    let (mut before, mut after) = (0, 0);
    for (name, view) in source.tensors() {
        before += view.data().len();
        let tensor = if view.dtype() == Dtype::F32 {
            Tensor {
                dtype: Dtype::F16,
                shape: view.shape().to_vec(),
                data: Cow::Owned(round(path, &name, view.data())?),
            }
        } else {
            Tensor {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                data: Cow::Borrowed(view.data()),
            }
        };
        after += tensor.data.len();
        tensors.push((name, tensor));
    }
    fs::create_dir_all(to).map_err(|e| Error::io("create", to, e))?;
    let out = to.join("model.safetensors");
    safetensors::serialize_to_file(tensors, header.metadata().clone(), &out)
        .map_err(|e| Error::input(&out, format!("cannot be written ({e})")))?;
    Ok((before, after))
}

/// f32 bytes to f16 bytes, to nearest.
fn round(path: &Path, name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut halves = Vec::with_capacity(bytes.len() / 2);
    for b in bytes.chunks_exact(4) {
        let value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let half = f16::from_f32(value);
        if !half.is_finite() {
            return Err(Error::input(
                path,
                format!("tensor {name}: {value} does not fit f16; use the model as it is"),
            ));
        }
        halves.extend(half.to_le_bytes());
    }
    Ok(halves)
}

/// Copies the small files that describe a model: `.json` and `.txt`.
fn copy_settings(from: &Path, to: &Path) -> Result<()> {
    for path in list(from)? {
        let wanted = path.extension().is_some_and(|e| e == "json" || e == "txt");
        if let (true, Some(name)) = (wanted && path.is_file(), path.file_name()) {
            fs::create_dir_all(to).map_err(|e| Error::io("create", to, e))?;
            fs::copy(&path, to.join(name)).map_err(|e| Error::io("copy", &path, e))?;
        }
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    read().map_err(|e| Error::io("read", folder, e))
}
