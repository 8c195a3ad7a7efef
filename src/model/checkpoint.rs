//! `model.safetensors`, or the files that `model.safetensors.index.json` names: the tensors of a checkpoint, read in
//! place and written into one file with every tensor that was there.
//!
//! Tensors have the names that transformers reads: with or without the `bert.` of a task head's checkpoint, and layer
//! norms as `weight` and `bias` or as Google's own checkpoints have them, `gamma` and `beta`.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
pub use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, View};
use serde::Deserialize;

use crate::error::{Error, Result};

/// The file of a model folder that holds the weights.
pub const WEIGHTS: &str = "model.safetensors";

/// The file that says which file holds which tensor, where there are several.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// What says that an adapter changes the weights, where transformers looks for it.
pub(super) const ADAPTER: &str = "adapter_config.json";

/// Why a folder with [`ADAPTER`] is refused.
pub(super) const WHY_NO_ADAPTER: &str = "an adapter changes the weights, which is not supported; merge it into them \
                                         (merge_and_unload of peft) and save the whole model without this file";

/// What checkpoints saved with a task head put before the names of the encoder's tensors.
const HEAD_PREFIX: &str = "bert.";

/// How a layer norm's vectors end today, and in checkpoints converted from TensorFlow.
const OLD_NAMES: [(&str, &str); 2] = [
    ("LayerNorm.weight", "LayerNorm.gamma"),
    ("LayerNorm.bias", "LayerNorm.beta"),
];

/// The weights of a model folder, mapped.
pub struct Checkpoint {
    /// What errors name: the weights file, or the index of several.
    path: PathBuf,
    /// At least one.
    shards: Vec<Shard>,
    prefix: &'static str,
}

/// One weights file.
struct Shard {
    map: Mmap,
    /// Where the tensors begin in the file.
    start: usize,
    metadata: Metadata,
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        // SAFETY: the map is only read; a file that another process truncates meanwhile would end the process, as with
        // any program that maps its input.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::input(
                path,
                format!("not a complete safetensors file ({e}); fetch it again"),
            )
        })?;
        Ok(Shard {
            // The header is behind its length, which has eight bytes.
            start: 8 + header,
            map,
            metadata,
        })
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
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor, and the file that holds it.
    weight_map: HashMap<String, String>,
}

/// The weights files of a model folder, in the order of their names, as paths inside it: [`WEIGHTS`], or what
/// [`WEIGHTS_INDEX`] names where there is no such file. As transformers does, the single file is taken first.
///
/// # Errors
/// [`Error::Input`] for an index that cannot be read or names a file outside the folder.
pub fn weights_files(folder: &Path) -> Result<Vec<String>> {
    let index = folder.join(WEIGHTS_INDEX);
    if folder.join(WEIGHTS).exists() || !index.exists() {
        return Ok(vec![WEIGHTS.into()]);
    }
    let text = std::fs::read_to_string(&index).map_err(|e| Error::io("read", &index, e))?;
    shards_of(&text).map_err(|what| Error::input(index, what))
}

/// The files that an index names; the error is what is wrong with it.
pub(super) fn shards_of(index: &str) -> Result<Vec<String>, String> {
    let index: Index = serde_json::from_str(index)
        .map_err(|e| format!("not the expected JSON: {e}; fetch it again"))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    let plain = |file: &str| {
        let mut parts = Path::new(file).components();
        matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
    };
    match files.iter().find(|file| !plain(file)) {
        Some(file) => Err(format!(
            "names the file {file:?}, which is none of this folder"
        )),
        None if files.is_empty() => Err("names no file of weights; fetch it again".into()),
        None => Ok(files.into_iter().collect()),
    }
}

/// Refuses a folder whose weights an adapter changes.
///
/// # Errors
/// [`Error::Input`] for such a folder.
pub(super) fn check_no_adapter(folder: &Path) -> Result<()> {
    let adapter = folder.join(ADAPTER);
    match adapter.exists() {
        true => Err(Error::input(adapter, WHY_NO_ADAPTER)),
        false => Ok(()),
    }
}

/// Elements that are made f32 at a time: 256 KiB.
const PIECE: usize = 64 << 10;

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
    /// The elements of an f32, f16 or bf16 tensor, exactly, and those of an f64 tensor rounded; `None` for another type.
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
            Dtype::BF16 => Some(
                (self.data.chunks_exact(2))
                    .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
            ),
            Dtype::F64 => Some(
                (self.data.chunks_exact(8))
                    .map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")) as f32)
                    .collect(),
            ),
            _ => None,
        }
    }

    /// f32 values as a tensor of type f32, f64, f16 or bf16, rounded to nearest.
    ///
    /// # Errors
    /// What is wrong, as a sentence that begins after the tensor's name: a value that is not finite or too large for
    /// the type, or another type.
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
            Dtype::BF16 => {
                if let Some(value) = values.iter().find(|&&v| !bf16::from_f32(v).is_finite()) {
                    return Err(format!("{value} does not fit bf16"));
                }
                (values.iter())
                    .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
                    .collect()
            }
            Dtype::F64 => (values.iter())
                .flat_map(|&v| f64::from(v).to_le_bytes())
                .collect(),
            other => {
                return Err(format!(
                    "is {other:?}; only F32, F64, F16 and BF16 are written"
                ));
            }
        };
        Ok(Tensor {
            dtype,
            shape,
            data: Cow::Owned(data),
        })
    }
}

impl Checkpoint {
    /// Maps the weights of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be read, [`Error::Input`] if a file is no complete safetensors file, if the index of
    /// several names one that is not there, if two tensors are one by today's names, or if an adapter changes them.
    pub fn open(folder: &Path) -> Result<Self> {
        check_no_adapter(folder)?;
        let files = weights_files(folder)?;
        if files == [WEIGHTS] {
            return Self::open_file(folder.join(WEIGHTS));
        }
        let path = folder.join(WEIGHTS_INDEX);
        if let Some(file) = files.iter().find(|file| !folder.join(file).is_file()) {
            return Err(Error::input(
                path,
                format!("names {file}, which is not in the folder; fetch it, or the model again"),
            ));
        }
        let shards = files.iter().map(|file| Shard::open(&folder.join(file)));
        Self::of(path, shards.collect::<Result<_>>()?)
    }

    /// Maps a weights file of any name.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_file(path: PathBuf) -> Result<Self> {
        let shard = Shard::open(&path)?;
        Self::of(path, vec![shard])
    }

    fn of(path: PathBuf, shards: Vec<Shard>) -> Result<Self> {
        let headed = format!("{HEAD_PREFIX}embeddings.word_embeddings.weight");
        let has_head = (shards.iter()).any(|shard| shard.metadata.info(&headed).is_some());
        let checkpoint = Checkpoint {
            prefix: if has_head { HEAD_PREFIX } else { "" },
            path,
            shards,
        };
        checkpoint.check_names()?;
        Ok(checkpoint)
    }

    /// Refuses two tensors that are one by today's names: which of them counts depends on who reads them.
    fn check_names(&self) -> Result<()> {
        let mut known: HashMap<String, String> = HashMap::new();
        for (name, _) in self.tensors() {
            let today = self.plain_name(&name).into_owned();
            if let Some(other) = known.insert(today, name.clone())
                && other != name
            {
                let what = format!(
                    "{other} and {name} are the old and the new name of one tensor; save the file with one of them"
                );
                return Err(Error::input(&self.path, what));
            }
        }
        Ok(())
    }

    /// The file, or the index of several.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in the file beside the tensors, such as `format: pt`; in the first of several.
    pub fn notes(&self) -> Option<&HashMap<String, String>> {
        self.shards[0].metadata.metadata().as_ref()
    }

    /// All tensors by the names they have in the file, in its order; file by file where there are several.
    pub fn tensors(&self) -> impl Iterator<Item = (String, Tensor<'_>)> {
        self.shards.iter().flat_map(|shard| {
            let names = shard.metadata.offset_keys().into_iter();
            names.filter_map(|name| {
                let tensor = shard.stored(&name)?;
                Some((name, tensor))
            })
        })
    }

    /// The name of a tensor in the file as it is called today, without what a task head's checkpoint puts before it.
    pub(super) fn plain_name<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let name = name.strip_prefix(self.prefix).unwrap_or(name);
        for (today, old) in OLD_NAMES {
            if let Some(rest) = name.strip_suffix(old) {
                return Cow::Owned(format!("{rest}{today}"));
            }
        }
        Cow::Borrowed(name)
    }

    /// A tensor by the name it has today without a task head.
    fn stored(&self, name: &str) -> Option<Tensor<'_>> {
        let find = |name: &str| {
            let name = format!("{}{name}", self.prefix);
            self.shards.iter().find_map(|shard| shard.stored(&name))
        };
        find(name).or_else(|| {
            let old = OLD_NAMES
                .iter()
                .find_map(|(today, old)| Some(format!("{}{old}", name.strip_suffix(today)?)))?;
            find(&old)
        })
    }

    /// An encoder's tensor as f32, checked; `name` is what it is called without a task head.
    ///
    /// # Errors
    /// [`Error::Input`] naming the tensor if it is missing, of another shape or type, or holds a number that is not
    /// finite.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.pieces(name, shape, |_, piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(values)
    }

    /// The same, piece by piece from one buffer that stays in a core's cache: the number of a piece's first element, and its
    /// elements.
    ///
    /// # Errors
    /// As [`Checkpoint::values`], and those of `each`.
    pub(super) fn pieces(
        &self,
        name: &str,
        shape: &[usize],
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let refuse = |what: String| Err(self.fault(name, what));
        let Some(tensor) = self.stored(name) else {
            return refuse("missing; the file does not belong to this config.json".into());
        };
        if tensor.shape != shape {
            return refuse(format!("expected shape {shape:?}, got {:?}", tensor.shape));
        }
        let bytes = PIECE * tensor.dtype.bitsize() / 8;
        for (first, data) in (0..).step_by(PIECE).zip(tensor.data.chunks(bytes.max(1))) {
            let piece = Tensor {
                dtype: tensor.dtype,
                shape: Vec::new(),
                data: data.into(),
            };
            let Some(values) = piece.to_f32() else {
                return refuse(format!(
                    "its type is {:?}; convert the file to F32, F16 or BF16",
                    tensor.dtype
                ));
            };
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let (at, value) = (first + at, values[at]);
                return refuse(format!("element {at} is {value}; the file is damaged"));
            }
            each(first, &values)?;
        }
        Ok(())
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
