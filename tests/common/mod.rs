//! What several tests need.

use std::path::{Path, PathBuf};

use half::f16;
use safetensors::{Dtype, SafeTensors};

/// A file of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A safetensors file in memory.
pub struct Tensors(Vec<u8>);

impl Tensors {
    pub fn read(path: &Path) -> Self {
        Tensors(std::fs::read(path).expect("committed"))
    }

    /// The values of a tensor, f64 ones as they are.
    pub fn get_f64(&self, name: &str) -> Vec<f64> {
        let tensors = SafeTensors::deserialize(&self.0).expect("complete");
        let tensor = tensors
            .tensor(name)
            .or_else(|_| tensors.tensor(&format!("bert.{name}")))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let number = |b: &[u8]| match tensor.dtype() {
            Dtype::F16 => f16::from_le_bytes(b.try_into().unwrap()).to_f64(),
            Dtype::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
            Dtype::F64 => f64::from_le_bytes(b.try_into().unwrap()),
            Dtype::U32 => f64::from(u32::from_le_bytes(b.try_into().unwrap())),
            other => panic!("{name}: {other:?}"),
        };
        let size = tensor.dtype().bitsize() / 8;
        tensor.data().chunks_exact(size).map(number).collect()
    }

    /// The values of a tensor whose numbers are f32 or narrower.
    pub fn get(&self, name: &str) -> Vec<f32> {
        self.get_f64(name).into_iter().map(|v| v as f32).collect()
    }
}
