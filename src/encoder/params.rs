//! The weights of a BERT encoder on a device.

use std::fs::File;
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::device::{Buffer, Device, Float};
use crate::error::{Error, Result};
use crate::model::BertConfig;
use crate::ops::layer_norm::Norm;

/// A linear layer: `x w^T + bias`.
pub(super) struct Linear<A: Float> {
    /// `[out, in]`.
    pub weight: Buffer<A>,
    /// `[out]`.
    pub bias: Buffer<f32>,
}

/// The two vectors of a layer norm, `[d]` each.
pub(super) struct NormParams {
    pub weight: Buffer<f32>,
    pub bias: Buffer<f32>,
}

impl NormParams {
    pub fn with_eps(&self, eps: f32) -> Norm<'_> {
        Norm {
            weight: self.weight.as_slice(),
            bias: Some(self.bias.as_slice()),
            eps,
        }
    }
}

/// One transformer layer, in the order of its forward pass.
pub(super) struct Layer<A: Float> {
    /// Queries, keys and values in one: `[3 d, d]`.
    pub qkv: Linear<A>,
    /// `[d, d]`.
    pub attention_out: Linear<A>,
    pub attention_norm: NormParams,
    /// `[d_ff, d]`.
    pub ff_in: Linear<A>,
    /// `[d, d_ff]`.
    pub ff_out: Linear<A>,
    pub ff_norm: NormParams,
}

/// All weights that a forward pass uses; the pooler of the checkpoint is not among them.
pub(super) struct Params<A: Float> {
    /// `[vocab, d]`.
    pub word: Buffer<A>,
    /// `[max_positions, d]`.
    pub position: Buffer<A>,
    /// `[token_types, d]`.
    pub token_type: Buffer<A>,
    pub embedding_norm: NormParams,
    pub layers: Vec<Layer<A>>,
}

impl<A: Float> Params<A> {
    /// Reads `model.safetensors` of the model folder; f32 and f16 tensors are taken, with or without the prefix
    /// `bert.` of checkpoints saved with a task head.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Input`] naming the tensor if it is truncated, if a tensor is
    /// missing, of another shape or type, or holds a number that is not finite (in `A`).
    pub fn load(folder: &Path, config: &BertConfig, device: &Device) -> Result<Self> {
        let path = folder.join("model.safetensors");
        let file = File::open(&path).map_err(|e| Error::io("read", &path, e))?;
        // SAFETY: the map is only read, and dropped before this function returns; a file that another process
        // truncates meanwhile would end the process, as with any program that maps its input.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", &path, e))?;
        let tensors = SafeTensors::deserialize(&map).map_err(|e| {
            Error::input(
                &path,
                format!("not a complete safetensors file ({e}); fetch it again"),
            )
        })?;
        let source = Source {
            prefix: if tensors
                .tensor("bert.embeddings.word_embeddings.weight")
                .is_ok()
            {
                "bert."
            } else {
                ""
            },
            tensors,
            path: &path,
            device,
        };
        let d = config.d_model;
        Ok(Params {
            word: source.matrix("embeddings.word_embeddings.weight", config.vocab, d)?,
            position: source.matrix(
                "embeddings.position_embeddings.weight",
                config.max_positions,
                d,
            )?,
            token_type: source.matrix(
                "embeddings.token_type_embeddings.weight",
                config.token_types,
                d,
            )?,
            embedding_norm: source.norm("embeddings.LayerNorm", d)?,
            layers: (0..config.n_layers)
                .map(|i| source.layer(i, config))
                .collect::<Result<_>>()?,
        })
    }
}

struct Source<'a> {
    prefix: &'static str,
    tensors: SafeTensors<'a>,
    path: &'a Path,
    device: &'a Device,
}

impl Source<'_> {
    fn layer<A: Float>(&self, i: usize, config: &BertConfig) -> Result<Layer<A>> {
        let (d, ff) = (config.d_model, config.d_ff);
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        let mut weight = Vec::with_capacity(3 * d * d);
        let mut bias = Vec::with_capacity(3 * d);
        for part in ["query", "key", "value"] {
            weight.extend(self.values(&name(&format!("attention.self.{part}.weight")), &[d, d])?);
            bias.extend(self.values(&name(&format!("attention.self.{part}.bias")), &[d])?);
        }
        Ok(Layer {
            qkv: Linear {
                weight: self.upload(&name("attention.self"), &weight)?,
                bias: self.device.upload(&bias)?,
            },
            attention_out: self.linear(&name("attention.output.dense"), d, d)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), d)?,
            ff_in: self.linear(&name("intermediate.dense"), ff, d)?,
            ff_out: self.linear(&name("output.dense"), d, ff)?,
            ff_norm: self.norm(&name("output.LayerNorm"), d)?,
        })
    }

    fn linear<A: Float>(&self, name: &str, rows: usize, columns: usize) -> Result<Linear<A>> {
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"), rows, columns)?,
            bias: self.vector(&format!("{name}.bias"), rows)?,
        })
    }

    fn norm(&self, name: &str, d: usize) -> Result<NormParams> {
        Ok(NormParams {
            weight: self.vector(&format!("{name}.weight"), d)?,
            bias: self.vector(&format!("{name}.bias"), d)?,
        })
    }

    fn vector(&self, name: &str, n: usize) -> Result<Buffer<f32>> {
        self.device.upload(&self.values(name, &[n])?)
    }

    fn matrix<A: Float>(&self, name: &str, rows: usize, columns: usize) -> Result<Buffer<A>> {
        self.upload(name, &self.values(name, &[rows, columns])?)
    }

    fn upload<A: Float>(&self, name: &str, values: &[f32]) -> Result<Buffer<A>> {
        if A::TYPE.size() == 2 {
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            if largest > f16::MAX.to_f32() {
                return Err(Error::input(
                    self.path,
                    format!(
                        "tensor {name}: {largest} does not fit f16, which this device computes with; use --device cpu"
                    ),
                ));
            }
        }
        let values: Vec<A> = values.iter().map(|&v| A::from_f32(v)).collect();
        self.device.upload(&values)
    }

    /// A tensor as f32, checked.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let refuse = |what: String| {
            Err(Error::input(
                self.path,
                format!("tensor {}{name}: {what}", self.prefix),
            ))
        };
        let Ok(tensor) = self.tensors.tensor(&format!("{}{name}", self.prefix)) else {
            return refuse("missing; the file does not belong to this config.json".into());
        };
        if tensor.shape() != shape {
            return refuse(format!(
                "expected shape {shape:?}, got {:?}",
                tensor.shape()
            ));
        }
        let bytes = tensor.data();
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => {
                let halves: Vec<f16> = bytes
                    .chunks_exact(2)
                    .map(|b| f16::from_le_bytes([b[0], b[1]]))
                    .collect();
                halves.to_f32_vec()
            }
            other => {
                return refuse(format!(
                    "its type is {other:?}; convert the file to F32 or F16"
                ));
            }
        };
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return refuse(format!(
                "element {at} is {}; the file is damaged",
                values[at]
            ));
        }
        Ok(values)
    }
}
