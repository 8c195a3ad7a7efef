//! What a model does to token vectors beyond what a device does: see [`crate::model::head`].
//!
//! On the host and in f32, whatever the device: per text this is less than what one layer does for one token. Where it
//! begins with a pooling that a device does, only pooled rows come to the host.

use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::hex;
use crate::device::{Buffer, Device, DeviceKind};
use crate::error::{Error, Result};
use crate::model::Checkpoint;
use crate::model::checkpoint::WEIGHTS;
use crate::model::head::{Activation, DenseConfig, HeadConfig, Mode, Step};
use crate::ops::matmul;
use crate::ops::matmul::Epilogue;

/// Lengths below this count as this, as in PyTorch.
const NORM_FLOOR: f32 = 1e-12;

/// What PyTorch adds to the variance in a layer norm.
const LAYER_NORM_EPS: f32 = 1e-5;

/// A head with its weights.
pub(super) struct Head {
    config: HeadConfig,
    steps: Vec<Loaded>,
    /// Of its weights, where it has any.
    sha256: Option<String>,
}

/// A step with its weights.
enum Loaded {
    Normalize,
    Dense(Box<Dense>),
    LayerNorm { weight: Vec<f32>, bias: Vec<f32> },
}

struct Dense {
    config: DenseConfig,
    /// `[output, input]`.
    weight: Buffer<f32>,
    /// `[output]`.
    bias: Option<Buffer<f32>>,
    /// `[output, input]`, if what came in is added through it.
    residual: Option<Buffer<f32>>,
}

impl Head {
    /// Reads the weights of a head; products run in the threads of `device` if that is a CPU.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file for weights that are missing, damaged, or not those of the configuration.
    pub fn load(folder: &Path, config: HeadConfig, device: &Device) -> Result<Self> {
        let cpu = match device.kind() {
            DeviceKind::Cpu => device.clone(),
            _ => Device::cpu(),
        };
        let mut hash = Sha256::new();
        let mut steps = Vec::new();
        for step in &config.steps {
            let (loaded, path) = match step {
                Step::Normalize => {
                    steps.push(Loaded::Normalize);
                    continue;
                }
                Step::Dense(dense) => (Dense::load(folder, dense, &cpu)?, &dense.path),
                Step::LayerNorm(path, width) => {
                    let file = weights_of(folder, path, &["norm.weight", "norm.bias"])?;
                    let weight = file.values("norm.weight", &[*width])?;
                    let bias = file.values("norm.bias", &[*width])?;
                    (Loaded::LayerNorm { weight, bias }, path)
                }
            };
            steps.push(loaded);
            let path = folder.join(path).join(WEIGHTS);
            hash.update(std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?);
        }
        let has_weights = steps.iter().any(|step| !matches!(step, Loaded::Normalize));
        Ok(Head {
            config,
            steps,
            sha256: has_weights.then(|| hex(&hash.finalize())),
        })
    }

    pub fn config(&self) -> &HeadConfig {
        &self.config
    }

    /// All that an embedding depends on beside the token vectors, in words.
    pub fn describe(&self) -> String {
        match &self.sha256 {
            Some(sha256) => format!("{}; weights {sha256}", self.config),
            None => self.config.to_string(),
        }
    }

    /// The embeddings `[n, width]` of texts with the token vectors `hidden` `[t, d]`, text `i` having those from
    /// `offsets[i]` to `offsets[i + 1]`.
    ///
    /// # Errors
    /// What an operator reports.
    pub fn embeddings(&self, hidden: &[f32], offsets: &[u32], d: usize) -> Result<Vec<f32>> {
        let modes = &self.config.modes;
        let width = modes.len() * d;
        let mut rows = vec![0f32; (offsets.len() - 1) * width];
        let texts = rows.par_chunks_exact_mut(width).zip(offsets.par_windows(2));
        texts.for_each(|(row, span)| {
            let tokens = &hidden[span[0] as usize * d..span[1] as usize * d];
            if !tokens.is_empty() {
                let parts = row.chunks_exact_mut(d).zip(modes);
                parts.for_each(|(part, mode)| pool(*mode, tokens, part));
            }
        });
        self.finish(rows, width, 0)
    }

    /// What is made of pooled rows `[n, width]` when the first `done` steps were done: embeddings.
    ///
    /// # Errors
    /// What an operator reports.
    pub fn finish(&self, mut rows: Vec<f32>, mut width: usize, done: usize) -> Result<Vec<f32>> {
        for step in &self.steps[done..] {
            match step {
                Loaded::Normalize => rows.par_chunks_exact_mut(width).for_each(normalize),
                Loaded::LayerNorm { weight, bias } => {
                    let rows = rows.par_chunks_exact_mut(width);
                    rows.for_each(|row| layer_norm(row, weight, bias));
                }
                Loaded::Dense(dense) => {
                    rows = dense.apply(&rows)?;
                    width = dense.config.output;
                }
            }
        }
        let kept = self.config.width;
        if kept < width {
            rows = (rows.chunks_exact(width))
                .flat_map(|row| &row[..kept])
                .copied()
                .collect();
        }
        Ok(rows)
    }
}

/// The weights file of a module, which has these tensors and no others.
fn weights_of(folder: &Path, path: &str, tensors: &[&str]) -> Result<Checkpoint> {
    let folder = folder.join(path);
    let file = folder.join(WEIGHTS);
    if !file.exists() && folder.join("pytorch_model.bin").exists() {
        return Err(Error::input(
            folder,
            "the weights of this module are in pytorch_model.bin; save the model again in safetensors form",
        ));
    }
    let checkpoint = Checkpoint::open_file(file)?;
    let mut names = checkpoint.tensors().map(|(name, _)| name);
    match names.find(|name| !tensors.contains(&&**name)) {
        Some(name) => Err(Error::input(
            checkpoint.path(),
            format!(
                "tensor {name}: its config.json says of none; the two files belong to different models"
            ),
        )),
        None => {
            drop(names);
            Ok(checkpoint)
        }
    }
}

impl Dense {
    fn load(folder: &Path, config: &DenseConfig, cpu: &Device) -> Result<Loaded> {
        let projected = config.residual && config.input != config.output;
        let mut tensors = vec!["linear.weight"];
        tensors.extend(config.bias.then_some("linear.bias"));
        tensors.extend(projected.then_some("residual.weight"));
        let file = weights_of(folder, &config.path, &tensors)?;
        let matrix = |name| cpu.upload(&file.values(name, &[config.output, config.input])?);
        let bias = || cpu.upload(&file.values("linear.bias", &[config.output])?);
        Ok(Loaded::Dense(Box::new(Dense {
            weight: matrix("linear.weight")?,
            bias: config.bias.then(bias).transpose()?,
            residual: projected.then(|| matrix("residual.weight")).transpose()?,
            config: config.clone(),
        })))
    }

    /// `activation(x w^T + bias)`, and what came in where that is added: `[n, input]` to `[n, output]`.
    fn apply(&self, x: &[f32]) -> Result<Vec<f32>> {
        let DenseConfig {
            input,
            output,
            activation,
            ..
        } = self.config;
        let n = x.len() / input;
        let cpu = self.weight.device();
        let x = cpu.upload(x)?;
        let product = |weight: &Buffer<f32>, epilogue: Epilogue<'_>| {
            let mut out = cpu.alloc::<f32>(n * output)?;
            matmul(&x, weight, &epilogue, &mut out, n, output)?;
            out.read()
        };
        let epilogue = Epilogue {
            bias: self.bias.as_ref().map(Into::into),
            gelu: activation == Activation::Gelu,
            residual: None,
        };
        let mut out = product(&self.weight, epilogue)?;
        out.par_iter_mut()
            .for_each(|v| *v = activated(activation, *v));
        let added = match (&self.residual, self.config.residual) {
            (Some(weight), _) => product(weight, Epilogue::default())?,
            (None, true) => x.read()?,
            (None, false) => return Ok(out),
        };
        out.iter_mut().zip(added).for_each(|(v, a)| *v += a);
        Ok(out)
    }
}

/// An activation that is not done with the product.
fn activated(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Identity | Activation::Gelu => x,
        Activation::Tanh => x.tanh(),
        // Not `max`: a NaN is to be seen.
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// One vector of token vectors `[t, d]`, t at least 1, into `out` `[d]`.
fn pool(mode: Mode, tokens: &[f32], out: &mut [f32]) {
    let d = out.len();
    let n = tokens.len() / d;
    let mut sum = |weight: fn(usize) -> f32| {
        out.fill(0.0);
        for (i, token) in tokens.chunks_exact(d).enumerate() {
            let weight = weight(i);
            out.iter_mut()
                .zip(token)
                .for_each(|(o, v)| *o += weight * v);
        }
    };
    let divisor = match mode {
        Mode::Cls => return out.copy_from_slice(&tokens[..d]),
        Mode::LastToken => return out.copy_from_slice(&tokens[(n - 1) * d..]),
        Mode::Max => {
            out.fill(f32::NEG_INFINITY);
            for token in tokens.chunks_exact(d) {
                // Not `max`: a NaN is to be seen.
                let larger = |o: f32, v: f32| if v > o || v.is_nan() { v } else { o };
                out.iter_mut()
                    .zip(token)
                    .for_each(|(o, v)| *o = larger(*o, *v));
            }
            return;
        }
        Mode::Mean => {
            sum(|_| 1.0);
            n as f32
        }
        Mode::MeanSqrtLen => {
            sum(|_| 1.0);
            (n as f32).sqrt()
        }
        Mode::WeightedMean => {
            sum(|i| (i + 1) as f32);
            (n * (n + 1) / 2) as f32
        }
    };
    out.iter_mut().for_each(|o| *o /= divisor);
}

fn normalize(row: &mut [f32]) {
    let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
    let length = if length < NORM_FLOOR {
        NORM_FLOOR
    } else {
        length
    };
    row.iter_mut().for_each(|v| *v /= length);
}

fn layer_norm(row: &mut [f32], weight: &[f32], bias: &[f32]) {
    let n = row.len() as f32;
    let mean = row.iter().sum::<f32>() / n;
    let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
    let scale = 1.0 / (variance + LAYER_NORM_EPS).sqrt();
    for ((v, w), b) in row.iter_mut().zip(weight).zip(bias) {
        *v = (*v - mean) * scale * w + b;
    }
}
