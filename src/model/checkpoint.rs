//! `model.safetensors`: the tensors of a checkpoint, read in place and written with every tensor that was there.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
pub use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, View};

use crate::error::{Error, Result};

/// The file of a model folder that holds the weights.
pub const WEIGHTS: &str = "model.safetensors";

/// What checkpoints saved with a task head put before the names of the encoder's tensors.
const HEAD_PREFIX: &str = "bert.";

/// The weights file of a model folder, mapped.
pub struct Checkpoint {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors begin in the file.
    start: usize,
    metadata: Metadata,
    prefix: &'static str,
}

/// A tensor as it is stored: little-endian, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Type of an element.
    pub dtype: Dtype,
    /// Sizes, the last axis being contiguous.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Cow<'a, [u8]>,
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

impl Tensor<'_> {
    /// The elements of an f32 or f16 tensor, exactly; `None` for another type.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        match self.dtype {
            Dtype::F32 => Some(
                self.data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            ),
            Dtype::F16 => {
                let halves: Vec<f16> = self
                    .data
                    .chunks_exact(2)
                    .map(|b| f16::from_le_bytes([b[0], b[1]]))
                    .collect();
                Some(halves.to_f32_vec())
            }
            _ => None,
        }
    }

    /// f32 values as a tensor of type f32 or f16, rounded to nearest.
    ///
    /// # Errors
    /// What is wrong, as a sentence that begins after the tensor's name: a value that is not finite or too large for
    /// f16, or another type.
    pub fn from_f32(
        values: &[f32],
        dtype: Dtype,
        shape: Vec<usize>,
    ) -> Result<Tensor<'static>, String> {
        if let Some(value) = values.iter().find(|v| !v.is_finite()) {
            return Err(format!("holds {value}, which no model computes with"));
        }
        let data = match dtype {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => {
                if let Some(value) = values.iter().find(|&&v| !f16::from_f32(v).is_finite()) {
                    return Err(format!("{value} does not fit f16"));
                }
                (values.iter())
                    .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                    .collect()
            }
            other => return Err(format!("is {other:?}; only F32 and F16 are written")),
        };
        Ok(Tensor {
            dtype,
            shape,
            data: Cow::Owned(data),
        })
    }
}

impl Checkpoint {
    /// Maps the weights file of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Input`] if it is no complete safetensors file.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_file(folder.join(WEIGHTS))
    }

    /// Maps a weights file of any name.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_file(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|e| Error::io("read", &path, e))?;
        // SAFETY: the map is only read; a file that another process truncates meanwhile would end the process, as with
        // any program that maps its input.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", &path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::input(
                &path,
                format!("not a complete safetensors file ({e}); fetch it again"),
            )
        })?;
        let headed = format!("{HEAD_PREFIX}embeddings.word_embeddings.weight");
        Ok(Checkpoint {
            prefix: if metadata.info(&headed).is_some() {
                HEAD_PREFIX
            } else {
                ""
            },
            // The header is behind its length, which has eight bytes.
            start: 8 + header,
            path,
            map,
            metadata,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in the file beside the tensors, such as `format: pt`.
    pub fn notes(&self) -> Option<&HashMap<String, String>> {
        self.metadata.metadata().as_ref()
    }

    /// All tensors by the names they have in the file, in its order.
    pub fn tensors(&self) -> impl Iterator<Item = (String, Tensor<'_>)> {
        let names = self.metadata.offset_keys().into_iter();
        names.filter_map(|name| {
            let tensor = self.stored(&name)?;
            Some((name, tensor))
        })
    }

    /// The name of a tensor in the file without what a task head's checkpoint puts before it.
    pub(super) fn plain_name<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.prefix).unwrap_or(name)
    }

    fn stored(&self, name: &str) -> Option<Tensor<'_>> {
        let info = self.metadata.info(name)?;
        let (from, to) = info.data_offsets;
        Some(Tensor {
            dtype: info.dtype,
            shape: info.shape.clone(),
            data: Cow::Borrowed(&self.map[self.start + from..self.start + to]),
        })
    }

    /// An encoder's tensor as f32, checked; `name` is what it is called without a task head.
    ///
    /// # Errors
    /// [`Error::Input`] naming the tensor if it is missing, of another shape or type, or holds a number that is not
    /// finite.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let refuse = |what: String| Err(self.fault(name, what));
        let Some(tensor) = self.stored(&format!("{}{name}", self.prefix)) else {
            return refuse("missing; the file does not belong to this config.json".into());
        };
        if tensor.shape != shape {
            return refuse(format!("expected shape {shape:?}, got {:?}", tensor.shape));
        }
        let Some(values) = tensor.to_f32() else {
            return refuse(format!(
                "its type is {:?}; convert the file to F32 or F16",
                tensor.dtype
            ));
        };
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return refuse(format!(
                "element {at} is {}; the file is damaged",
                values[at]
            ));
        }
        Ok(values)
    }

    /// The error of a tensor; `name` is what it is called without a task head.
    pub(super) fn fault(&self, name: &str, what: String) -> Error {
        Error::input(&self.path, format!("tensor {}{name}: {what}", self.prefix))
    }
}

/// Writes a weights file into `folder`.
pub(super) fn write<'a>(
    folder: &Path,
    tensors: impl IntoIterator<Item = (String, Tensor<'a>)>,
    notes: Option<&HashMap<String, String>>,
) -> Result<()> {
    let path = folder.join(WEIGHTS);
    safetensors::serialize_to_file(tensors, notes.cloned(), &path)
        .map_err(|e| Error::io("write", &path, std::io::Error::other(e)))
}
