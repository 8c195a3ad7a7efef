//! Files of indexes: safetensors whose metadata name their layout, mapped when they are opened.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use half::f16;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::device::{Buffer, Device};
use crate::error::{Error, Result};

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

/// A tensor to be written: name, type, shape, bytes.
pub(super) type Written<'a> = (&'a str, Dtype, Vec<usize>, &'a [u8]);

/// Writes an index by way of a temporary file beside it, so that an interrupted run leaves either the old file or the
/// new one.
pub(super) fn write(path: &Path, layout: &str, tensors: &[Written<'_>]) -> Result<()> {
    let invalid = |e: safetensors::SafeTensorError| {
        Error::Invalid(format!("cannot serialise the index: {e}"))
    };
    let views: Result<Vec<_>> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(invalid)?;
            Ok((*name, view))
        })
        .collect();
    let info = [("layout".to_string(), layout.to_string())].into();
    let bytes = safetensors::serialize(views?, Some(info)).map_err(invalid)?;
    crate::data::write_atomically(path, |file| file.write_all(&bytes))
}

/// An opened index.
pub(super) struct IndexFile<'a> {
    path: &'a Path,
    map: Arc<Mmap>,
}

impl<'a> IndexFile<'a> {
    /// Maps `path` and checks that it is of `layout`; `advice` says what else could be done with another file.
    pub(super) fn open(path: &'a Path, layout: &str, advice: &str) -> Result<Self> {
        let file = IndexFile {
            path,
            map: map(path)?,
        };
        let (_, header) = SafeTensors::read_metadata(&file.map)
            .map_err(|e| file.refuse(format!("not a complete index file ({e}); build it again")))?;
        let found = header.metadata().as_ref().and_then(|m| m.get("layout"));
        if found.map(String::as_str) != Some(layout) {
            let found = found.map_or("none", |l| l);
            return Err(file.refuse(format!(
                "layout `{found}`, this version reads `{layout}`; {advice}"
            )));
        }
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
