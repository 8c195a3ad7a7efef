//! Outputs that show whether an operator wrote all of them and nothing else, and whether it writes the same twice.

use nearmiss::device::{Buffer, Device, Element, Slice, SliceMut};
use nearmiss::{Error, Result};

use super::line;

/// What outputs hold before a run, in 32-bit words: NaN as f32 and as two f16, and something finite as either. Neither is
/// an index that occurs.
pub const POISONS: [u32; 2] = [0x7fc0_7e00, 0xdead_beef];

/// Bytes of either guard: as many as the alignment of a view may ask for.
const GUARD: usize = 256;

/// Memory for the output of an operator. With the first poison it is a view with guards before and behind it, which must
/// stay as they are; with the second a buffer of its own, beyond which a memory checker looks.
pub struct Output<T: Element> {
    buffer: Buffer<T>,
    len: usize,
    poison: u32,
}

impl<T: Element> Output<T> {
    /// `len` elements, full of `poison`.
    pub fn new(device: &Device, len: usize, poison: u32) -> Result<Self> {
        Ok(Output {
            buffer: device.upload(&filled::<T>(len + 2 * guard::<T>(poison), poison))?,
            len,
            poison,
        })
    }

    /// The same around `values`, for what is added to.
    pub fn holding(device: &Device, values: &[T], poison: u32) -> Result<Self> {
        let guard = guard::<T>(poison);
        let mut all = filled::<T>(values.len() + 2 * guard, poison);
        all[guard..][..values.len()].copy_from_slice(values);
        Ok(Output {
            buffer: device.upload(&all)?,
            len: values.len(),
            poison,
        })
    }

    /// Where the operator is to write.
    pub fn target(&mut self) -> SliceMut<'_, T> {
        let behind = self.buffer.as_slice_mut();
        let (_, behind) = behind.split_at_mut(guard::<T>(self.poison));
        behind.split_at_mut(self.len).0
    }

    /// What it wrote, as the input of another operator.
    pub fn written(&self) -> Slice<'_, T> {
        let guard = guard::<T>(self.poison);
        self.buffer.slice(guard..guard + self.len)
    }

    /// What it wrote; an error if that is not all that it wrote.
    pub fn read(&self) -> Result<Vec<T>> {
        inside(&self.buffer.read()?, self.poison).map_err(Error::Invalid)
    }
}

/// Elements of a guard.
fn guard<T: Element>(poison: u32) -> usize {
    if poison == POISONS[0] {
        GUARD / size_of::<T>()
    } else {
        0
    }
}

/// `len` elements full of `poison`.
pub fn filled<T: Element>(len: usize, poison: u32) -> Vec<T> {
    let words = vec![poison; (len * size_of::<T>()).div_ceil(4)];
    bytemuck::cast_slice(&words)[..len].to_vec()
}

/// What lies between the guards of `all`, if they are as they were.
pub fn inside<T: Element>(all: &[T], poison: u32) -> Result<Vec<T>, String> {
    let guard = guard::<T>(poison);
    let end = all.len() - guard;
    let before = filled::<T>(all.len(), poison);
    let same = |a: &T, b: &T| bytemuck::bytes_of(a) == bytemuck::bytes_of(b);
    match (0..guard)
        .chain(end..all.len())
        .find(|&i| !same(&all[i], &before[i]))
    {
        Some(i) => Err(format!(
            "element {} of an output of {} was written",
            i as i64 - guard as i64,
            end - guard
        )),
        None => Ok(all[guard..end].to_vec()),
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
