//! Outputs that show whether an operator wrote all of them, and whether it writes the same twice.

use nearmiss::Result;
use nearmiss::device::{Buffer, Device, Element};

use super::line;

/// What outputs hold before a run, in 32-bit words: NaN as f32 and as two f16, and something finite as either. Neither is
/// an index that occurs.
pub const POISONS: [u32; 2] = [0x7fc0_7e00, 0xdead_beef];

/// Memory for the output of an operator.
pub struct Output<T: Element> {
    buffer: Buffer<T>,
}

impl<T: Element> Output<T> {
    /// `len` elements, full of `poison`.
    pub fn new(device: &Device, len: usize, poison: u32) -> Result<Self> {
        let words = vec![poison; (len * size_of::<T>()).div_ceil(4)];
        let elements: &[T] = bytemuck::cast_slice(&words);
        Ok(Output {
            buffer: device.upload(&elements[..len])?,
        })
    }

    /// Where the operator is to write.
    pub fn target(&mut self) -> &mut Buffer<T> {
        &mut self.buffer
    }

    /// What it wrote, as the input of another operator.
    pub fn written(&self) -> &Buffer<T> {
        &self.buffer
    }

    /// What it wrote.
    pub fn read(&self) -> Result<Vec<T>> {
        self.buffer.read()
    }
}

/// What two runs are compared by.
pub trait Bits {
    /// Appends all bits.
    fn append_to(&self, bits: &mut Vec<u8>);
}

impl<T: Element> Bits for Vec<T> {
    fn append_to(&self, bits: &mut Vec<u8>) {
        bits.extend_from_slice(bytemuck::cast_slice(self));
    }
}

impl<A: Bits, B: Bits> Bits for (A, B) {
    fn append_to(&self, bits: &mut Vec<u8>) {
        self.0.append_to(bits);
        self.1.append_to(bits);
    }
}

/// Runs an operator twice, its outputs full of one poison and then of the other, and requires equal bits: nothing is left
/// to chance, and nothing is left as it was.
pub fn twice<R: Bits>(run: impl Fn(u32) -> Result<R>) -> Result<R, String> {
    let [first, second] = POISONS.map(&run);
    let (first, second) = (first.map_err(line)?, second.map_err(line)?);
    let bits = |result: &R| {
        let mut bits = Vec::new();
        result.append_to(&mut bits);
        bits
    };
    let (a, b) = (bits(&first), bits(&second));
    if a == b {
        return Ok(first);
    }
    let at = a.iter().zip(&b).position(|(a, b)| a != b);
    Err(format!(
        "two runs differ: {} bytes and {}, first at byte {}",
        a.len(),
        b.len(),
        at.unwrap_or(a.len().min(b.len()))
    ))
}
