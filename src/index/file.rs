//! Files of indexes: safetensors whose metadata name their layout, mapped when they are opened.
//!
//! Version 2 of a layout holds the texts' ids (`ids`, u64 `[n]`) and, in the metadata, the running number that comes
//! next; in version 1 ids are row numbers.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use half::f16;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::ids::{Ids, MAX_ROWS};
use super::width_fault;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};

/// The version of every layout that is written.
const VERSION: u32 = 2;

/// Maps a file for reading.
pub(super) fn map(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    // SAFETY: the map is only ever read; a file that another process truncates meanwhile would end the process, as
    // with any program that maps its input, which the documentation of the indexes' `open` says.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
    Ok(Arc::new(map))
}

/// f16 numbers of bytes as they are in a file.
pub(super) fn read_f16(bytes: &[u8]) -> Vec<f16> {
    bytes
        .chunks_exact(2)
        .map(|b| f16::from_le_bytes([b[0], b[1]]))
        .collect()
}

/// f32 numbers of bytes as they are in a file.
pub(super) fn read_f32(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

/// A tensor to be written: name, type, shape, bytes.
pub(super) type Written<'a> = (&'a str, Dtype, Vec<usize>, &'a [u8]);

/// Writes an index by way of a temporary file beside it, so that an interrupted run leaves either the old file or the
/// new one. `tensors` hold what is there of `ids`, in its order.
pub(super) fn write(path: &Path, layout: &str, ids: &Ids, tensors: &[Written<'_>]) -> Result<()> {
    let invalid = |e: safetensors::SafeTensorError| {
        Error::Invalid(format!("cannot serialise the index: {e}"))
    };
    let live: Vec<u64> = ids.live().map(|row| ids.of(row)).collect();
    let names: Written<'_> = (
        "ids",
        Dtype::U64,
        vec![live.len()],
        bytemuck::cast_slice(&live),
    );
    let views: Result<Vec<_>> = tensors
        .iter()
        .chain([&names])
        .map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(invalid)?;
            Ok((*name, view))
        })
        .collect();
    let info = [
        ("layout".to_string(), format!("{layout}-{VERSION}")),
        ("next_id".to_string(), ids.next().to_string()),
    ];
    let bytes = safetensors::serialize(views?, Some(info.into())).map_err(invalid)?;
    crate::data::write_atomically(path, |file| file.write_all(&bytes))
}

/// An opened index.
pub(super) struct IndexFile<'a> {
    path: &'a Path,
    map: Arc<Mmap>,
    version: u32,
    next_id: Option<u64>,
}

impl<'a> IndexFile<'a> {
    /// Maps `path` and checks that it is of `layout`; `advice` says what else could be done with another file.
    pub(super) fn open(path: &'a Path, layout: &str, advice: &str) -> Result<Self> {
        let mut file = IndexFile {
            path,
            map: map(path)?,
            version: 0,
            next_id: None,
        };
        let (_, header) = SafeTensors::read_metadata(&file.map)
            .map_err(|e| file.refuse(format!("not a complete index file ({e}); build it again")))?;
        let entry = |name| header.metadata().as_ref().and_then(|m| m.get(name));
        let found = entry("layout").map_or("none", String::as_str);
        let version = found
            .strip_prefix(layout)
            .and_then(|rest| rest.strip_prefix('-')?.parse().ok());
        match version {
            Some(version) if (1..=VERSION).contains(&version) => file.version = version,
            _ => {
                return Err(file.refuse(format!(
                    "layout `{found}`, this version reads `{layout}-1` to `{layout}-{VERSION}`; {advice}"
                )));
            }
        }
        file.next_id = entry("next_id").and_then(|next| next.parse().ok());
        Ok(file)
    }

    /// What is wrong with the file, as an error that names it.
    pub(super) fn refuse(&self, what: String) -> Error {
        Error::input(self.path, what)
    }

    /// Its tensors.
    pub(super) fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map)
            .map_err(|e| self.refuse(format!("not a complete index file: {e}")))
    }

    /// One of `tensors`, which must be of a type.
    pub(super) fn get<'t>(
        &self,
        tensors: &SafeTensors<'t>,
        name: &str,
        dtype: Dtype,
    ) -> Result<TensorView<'t>> {
        let tensor = tensors
            .tensor(name)
            .map_err(|e| self.refuse(format!("tensor {name}: {e}")))?;
        match tensor.dtype() {
            got if got == dtype => Ok(tensor),
            got => Err(self.refuse(format!(
                "tensor {name}: expected {dtype:?}, got {got:?}; build the index again"
            ))),
        }
    }

    /// The numbers of a tensor of type u64 and one dimension.
    pub(super) fn whole_numbers(&self, tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<u64>> {
        let tensor = self.get(tensors, name, Dtype::U64)?;
        if tensor.shape().len() != 1 {
            return Err(self.refuse(format!(
                "tensor {name}: expected one dimension, got {:?}; build the index again",
                tensor.shape()
            )));
        }
        let words = tensor.data().chunks_exact(8);
        Ok(words
            .map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
            .collect())
    }

    /// A matrix of f16 and its sizes, whose width suits an index.
    pub(super) fn rows<'t>(
        &self,
        tensors: &SafeTensors<'t>,
        name: &str,
    ) -> Result<(TensorView<'t>, usize, usize)> {
        let rows = self.get(tensors, name, Dtype::F16)?;
        let &[n, d] = rows.shape() else {
            return Err(self.refuse(format!(
                "tensor {name}: expected two dimensions, got {:?}; build the index again",
                rows.shape()
            )));
        };
        match width_fault(d) {
            None => Ok((rows, n, d)),
            Some(fault) => Err(self.refuse(format!("tensor {name}: {fault}"))),
        }
    }

    /// The ids of its `n` texts.
    pub(super) fn ids(&self, tensors: &SafeTensors<'_>, n: usize) -> Result<Ids> {
        if n > MAX_ROWS {
            return Err(self.refuse(format!(
                "{n} texts; one index holds {MAX_ROWS} at most, split the corpus"
            )));
        }
        if self.version == 1 {
            return Ok(Ids::running(n));
        }
        let ids = self.whole_numbers(tensors, "ids")?;
        if ids.len() != n {
            let what = format!("{} ids for {n} texts; build the index again", ids.len());
            return Err(self.refuse(what));
        }
        let next = self.next_id.ok_or_else(|| {
            self.refuse("its metadata lack a number `next_id`; build the index again".into())
        })?;
        Ids::saved(ids, next)
            .map_err(|id| self.refuse(format!("id {id} is there twice; build the index again")))
    }

    /// Elements `from..to` of one of its tensors as a buffer that maps them, where `device` can.
    pub(super) fn mapped<T: crate::device::Element>(
        &self,
        device: &Device,
        tensor: &TensorView<'_>,
        from: usize,
        to: usize,
    ) -> Option<Buffer<T>> {
        let start = tensor.data().as_ptr() as usize - self.map.as_ptr() as usize;
        device.map_host(&self.map, start + from * size_of::<T>(), to - from)
    }
}
