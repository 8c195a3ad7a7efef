//! Vector indexes from files of others: `.npy` and plain safetensors.

use std::io;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors};

use super::file::{map, read_f16, read_f32};
use super::{IndexOptions, Rows, VectorIndex, width_fault};
use crate::device::Device;
use crate::error::{Error, Result};

impl VectorIndex {
    /// Builds an index from a `.npy` file of shape `[n, d]`, f16 or f32.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Input`] for another shape or type or a file that ends early.
    pub fn from_npy(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        from_npy(path.as_ref(), device, IndexOptions::default())
    }

    /// Builds an index from tensor `name` (`None`: the only one) of a safetensors file, shape `[n, d]`, f16 or f32.
    ///
    /// # Errors
    /// As [`VectorIndex::from_npy`], naming the tensor.
    pub fn from_safetensors(
        path: impl AsRef<Path>,
        name: Option<&str>,
        device: &Device,
    ) -> Result<Self> {
        from_safetensors(path.as_ref(), name, device, IndexOptions::default())
    }
}

fn from_npy(path: &Path, device: &Device, options: IndexOptions) -> Result<VectorIndex> {
    let map = map(path)?;
    let refuse = |what: String| Error::input(path, what);
    if let Some(fault) = npy_header_fault(&map) {
        return Err(refuse(fault));
    }
    let mut data = &map[..];
    let header = npyz::NpyHeader::from_reader(&mut data)
        .map_err(|e| refuse(format!("not a .npy file: {e}")))?;
    let &[n, d] = header.shape() else {
        let shape = header.shape();
        return Err(refuse(format!("expected shape [n, d], got {shape:?}")));
    };
    if header.order() != npyz::Order::C {
        return Err(refuse(
            "stored column by column; save it with numpy.ascontiguousarray".into(),
        ));
    }
    let kind = header.dtype().descr();
    let size = match kind.trim_matches('\'') {
        "<f2" | ">f2" => 2,
        "<f4" | ">f4" => 4,
        _ => {
            return Err(refuse(format!(
                "its type is {kind}; convert it to float16 or float32"
            )));
        }
    };
    let d = usize::try_from(d).unwrap_or(usize::MAX);
    if let Some(fault) = width_fault(d) {
        return Err(refuse(fault));
    }
    // What is allocated from here on is in the file.
    let claimed = u128::from(n) * d as u128 * size;
    if claimed > data.len() as u128 {
        return Err(refuse(format!(
            "ends early or is damaged: {n} rows of {d} take {claimed} bytes, and it holds {}",
            data.len()
        )));
    }
    let mut index = VectorIndex::with_options(device, d, options)?;
    index.reserve(n as usize)?;
    let npy = npyz::NpyFile::with_header(header, data);
    match size {
        2 => fill(&mut index, npy.data::<f16>()),
        _ => fill(&mut index, npy.data::<f32>()),
    }
    .map_err(|e| match e {
        Error::Invalid(what) => refuse(what),
        other => other,
    })?;
    Ok(index)
}

/// Appends numbers as they are read, some rows at a time.
fn fill<T>(
    index: &mut VectorIndex,
    values: Result<impl Iterator<Item = io::Result<T>>, npyz::DTypeError>,
) -> Result<()>
where
    for<'a> &'a Vec<T>: Into<Rows<'a>>,
{
    let mut values = values.map_err(|e| Error::Invalid(e.to_string()))?;
    let at_once = index.chunk_rows() * index.width();
    loop {
        let chunk: io::Result<Vec<T>> = values.by_ref().take(at_once).collect();
        let chunk = chunk.map_err(|e| Error::Invalid(format!("ends early or is damaged: {e}")))?;
        if chunk.is_empty() {
            return Ok(());
        }
        index.append(&chunk)?;
    }
}

/// What makes a `.npy` header unfit to be parsed: a length beyond the file, which would be allocated, or sizes whose
/// product overflows, which would be computed. Other faults are the parser's to find.
fn npy_header_fault(bytes: &[u8]) -> Option<String> {
    let (length, text) = match *bytes.get(6..12)? {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([a, b])), 10),
        [_, _, a, b, c, d] => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
        _ => return None,
    };
    let Some(header) = bytes.get(text..).and_then(|rest| rest.get(..length)) else {
        return Some(format!(
            "its header claims {length} bytes, beyond its end; save it again"
        ));
    };
    let header = String::from_utf8_lossy(header);
    let (_, shape) = header.split_once("shape")?;
    let (_, shape) = shape.split_once('(')?;
    let (shape, _) = shape.split_once(')')?;
    let mut sizes = shape
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty());
    let product = sizes.try_fold(1u64, |product, size| {
        let size: u64 = size.trim_end_matches('L').parse().ok()?;
        product.checked_mul(size.max(1))
    });
    match product {
        Some(_) => None,
        None => Some(format!(
            "its shape ({shape}) is no size that a file can have; save it again"
        )),
    }
}

fn from_safetensors(
    path: &Path,
    name: Option<&str>,
    device: &Device,
    options: IndexOptions,
) -> Result<VectorIndex> {
    let map = map(path)?;
    let refuse = |what: String| Error::input(path, what);
    let tensors = SafeTensors::deserialize(&map)
        .map_err(|e| refuse(format!("not a complete safetensors file: {e}")))?;
    let names = tensors.names();
    let name = match (name, &names[..]) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, _) => {
            return Err(refuse(format!(
                "holds {} tensors ({}); name one",
                names.len(),
                names.join(", ")
            )));
        }
    };
    let tensor = tensors
        .tensor(name)
        .map_err(|e| refuse(format!("tensor {name}: {e}")))?;
    let &[n, d] = tensor.shape() else {
        return Err(refuse(format!(
            "tensor {name}: expected shape [n, d], got {:?}",
            tensor.shape()
        )));
    };
    if let Some(fault) = width_fault(d) {
        return Err(refuse(format!("tensor {name}: {fault}")));
    }
    let size = match tensor.dtype() {
        Dtype::F16 => 2,
        Dtype::F32 => 4,
        other => {
            return Err(refuse(format!(
                "tensor {name}: its type is {other:?}; convert it to F16 or F32"
            )));
        }
    };
    let mut index = VectorIndex::with_options(device, d, options)?;
    index.reserve(n)?;
    for chunk in tensor.data().chunks(index.chunk_rows() * d * size) {
        match size {
            2 => index.append(&read_f16(chunk)),
            _ => index.append(&read_f32(chunk)),
        }
        .map_err(|e| match e {
            Error::Invalid(what) => refuse(format!("tensor {name}: {what}")),
            other => other,
        })?;
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use npyz::WriterBuilder;
    use safetensors::tensor::TensorView;

    use super::*;

    const D: usize = 8;

    fn rows(n: usize) -> Vec<f32> {
        (0..n * D)
            .map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0)
            .collect()
    }

    /// A `.npy` file of 9 rows, of the type `kind`.
    fn npy(path: &Path, kind: &str) {
        let kind = npyz::DType::Plain(kind.parse().unwrap());
        let file = std::fs::File::create(path).unwrap();
        let options = npyz::WriteOptions::<f32>::new()
            .dtype(kind)
            .shape(&[9, D as u64]);
        let mut writer = options.writer(file).begin_nd().unwrap();
        writer.extend(rows(9)).unwrap();
        writer.finish().unwrap();
    }

    fn refusal(path: &Path) -> String {
        let error = VectorIndex::from_npy(path, &Device::cpu()).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
        let error = error.to_string();
        assert!(!error.contains('\n') && error.contains("x.npy"), "{error}");
        error
    }

    /// The bytes of a `.npy` file of version 2.0 whose header says `shape` and is followed by `data` zeros.
    fn claims(path: &Path, shape: &str, data: usize) {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn reads_npy_and_safetensors() {
        let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
        let path = dir.path().join("x.npy");
        let all = rows(9);
        npy(&path, "<f4");
        let index = VectorIndex::from_npy(&path, &cpu).unwrap();
        assert_eq!((index.len(), index.width()), (9, D));
        let found = index.search(&all, 9).unwrap();
        // Two rows at a time.
        let small = IndexOptions {
            chunk: 2 * D + 1,
            ..IndexOptions::default()
        };
        npy(&path, ">f4");
        let swapped = from_npy(&path, &cpu, small).unwrap();
        assert_eq!(swapped.search(&all, 9).unwrap(), found);
        let st = dir.path().join("x.safetensors");
        let view = TensorView::new(Dtype::F32, vec![9, D], bytemuck::cast_slice(&all)).unwrap();
        std::fs::write(&st, safetensors::serialize([("e", view)], None).unwrap()).unwrap();
        for options in [small, IndexOptions::default()] {
            let other = from_safetensors(&st, None, &cpu, options).unwrap();
            assert_eq!(other.search(&all, 9).unwrap(), found);
        }
        // The same file is no index of ours, and a truncated one is nothing at all.
        let error = VectorIndex::open(&st, &cpu).unwrap_err().to_string();
        assert!(error.contains("layout `none`"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        assert!(refusal(&path).contains("ends early"));
    }

    #[test]
    fn absurd_npy_sizes_are_refused_before_anything_is_allocated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        for (shape, data, expected) in [
            ("(1, 1073741824)", 64, "width 1073741824"),
            ("(1000000000, 8)", 64, "ends early"),
            ("(4294967295, 262144)", 64, "ends early"),
            ("(8589934592, 8589934592)", 64, "no size"),
            ("(0, 8589934592, 8589934592)", 64, "no size"),
            ("(18446744073709551616, 8)", 64, "no size"),
            ("(3, 12)", 144, "width 12"),
            ("(3, 0)", 0, "width 0"),
            ("(8,)", 32, "expected shape"),
        ] {
            claims(&path, shape, data);
            let error = refusal(&path);
            assert!(error.contains(expected), "{shape}: {error}");
        }
        claims(&path, "(0, 8)", 0);
        assert!(
            VectorIndex::from_npy(&path, &Device::cpu())
                .unwrap()
                .is_empty()
        );
        // A header of 4 GiB.
        std::fs::write(&path, b"\x93NUMPY\x02\x00\xff\xff\xff\xff{").unwrap();
        assert!(refusal(&path).contains("header claims 4294967295 bytes"));
        for early in [0, 5, 11] {
            std::fs::write(&path, &b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..early]).unwrap();
            assert!(refusal(&path).contains("not a .npy file"));
        }
    }

    #[test]
    fn absurd_safetensors_sizes_are_refused_before_anything_is_allocated() {
        let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
        let path = dir.path().join("x.safetensors");
        for (shape, expected) in [
            // No bytes at all, and rows of 2^61 numbers.
            ("[0,2305843009213693952]", "width 2305843009213693952"),
            ("[8,0]", "width 0"),
            (
                "[4611686018427387904,4611686018427387904]",
                "not a complete",
            ),
            ("[4611686018427387904,8]", "not a complete"),
        ] {
            let header =
                format!("{{\"e\":{{\"dtype\":\"F16\",\"shape\":{shape},\"data_offsets\":[0,0]}}}}");
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let error = VectorIndex::from_safetensors(&path, None, &cpu).unwrap_err();
            assert!(matches!(error, Error::Input { .. }), "{error}");
            assert!(error.to_string().contains(expected), "{shape}: {error}");
        }
        std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
        assert!(VectorIndex::from_safetensors(&path, None, &cpu).is_err());
    }

    #[test]
    fn rows_that_are_not_finite_name_their_file() {
        let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
        let path = dir.path().join("x.safetensors");
        let mut all = rows(3);
        all[D + 2] = f32::NAN;
        let view = TensorView::new(Dtype::F32, vec![3, D], bytemuck::cast_slice(&all)).unwrap();
        std::fs::write(&path, safetensors::serialize([("e", view)], None).unwrap()).unwrap();
        let error = VectorIndex::from_safetensors(&path, None, &cpu).unwrap_err();
        assert!(
            error.to_string().contains("x.safetensors: tensor e: row 1"),
            "{error}"
        );
    }
}
