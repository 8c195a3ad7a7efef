//! Which rows of which texts a block of threads takes: the work list of a batch, the same for every layer.

use std::sync::Arc;

use crate::device::{Buffer, Device, DeviceKind, Slice};
use crate::error::{Error, Result};
use crate::ops::{PackedTexts, check_device};

/// Query rows of a block in the shader's work list.
pub(super) const WGSL_ROWS: usize = 16;

/// Query rows of a block in the PTX kernel's work list, by class. A text belongs to the last class whose rows hold all
/// of it, or else to the first; a block of threads takes as many heads as there are such blocks in the first.
pub(super) const PTX_ROWS: [usize; 3] = [128, 64, 32];

/// How many entries the work list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Blocks {
    /// For the shader (and for the CPU, which needs none): (text, first row) of blocks of [`WGSL_ROWS`] rows.
    Wgsl(usize),
    /// For the PTX kernel, by class: (first row of the text, its rows, first row of the block within the text, 0) of
    /// blocks of [`PTX_ROWS`] rows; longest texts first, so that a launch does not end with a long one.
    Ptx([usize; 3]),
}

/// The work list for a kind of device: texts cut into blocks of query rows.
fn blocks(kind: DeviceKind, offsets: &[u32]) -> (Vec<u32>, Blocks) {
    let mut list = Vec::new();
    if kind != DeviceKind::Cuda {
        for (text, span) in offsets.windows(2).enumerate() {
            for start in (span[0]..span[1]).step_by(WGSL_ROWS) {
                list.extend([text as u32, start]);
            }
        }
        let n = list.len() / 2;
        return (list, Blocks::Wgsl(n));
    }
    let mut texts: Vec<[u32; 2]> = offsets.windows(2).map(|w| [w[0], w[1] - w[0]]).collect();
    texts.sort_by_key(|&[_, rows]| std::cmp::Reverse(rows));
    let mut entries = [0; 3];
    for [first, rows] in texts {
        let class = PTX_ROWS
            .iter()
            .rposition(|&most| rows as usize <= most)
            .unwrap_or(0);
        for start in (0..rows).step_by(PTX_ROWS[class]) {
            list.extend([first, rows, start, 0]);
            entries[class] += 1;
        }
    }
    (list, Blocks::Ptx(entries))
}

/// The work list of [`fn@super::attention`] for a batch of packed texts.
pub struct WorkList {
    /// Of the texts that it was made for.
    offsets: Arc<[u32]>,
    list: Buffer<u32>,
    blocks: Blocks,
}

impl WorkList {
    /// The list for `texts`, on their device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and device failures.
    pub fn new(texts: &PackedTexts) -> Result<Self> {
        let device = texts.device();
        let (list, blocks) = blocks(device.kind(), texts.offsets());
        Ok(WorkList {
            offsets: texts.shared_offsets().clone(),
            list: device.upload(&list)?,
            blocks,
        })
    }

    /// Holds the list to the texts and the device of a call.
    pub(in crate::ops) fn check(
        &self,
        op: &'static str,
        texts: &PackedTexts,
        device: &Device,
    ) -> Result<()> {
        let offsets = texts.shared_offsets();
        if !Arc::ptr_eq(&self.offsets, offsets) && self.offsets != *offsets {
            return Err(Error::shape(
                op,
                "work list",
                format!("that of these {} texts", texts.texts()),
                "another one",
            ));
        }
        check_device(op, "work list", self.list.device(), device)
    }

    pub(in crate::ops) fn blocks(&self) -> Blocks {
        self.blocks
    }

    pub(in crate::ops) fn on_device(&self) -> Slice<'_, u32> {
        self.list.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_block_of_its_class() {
        // Lengths 65, 0, 32, 300, 33, 1.
        let offsets = [0, 65, 65, 97, 397, 430, 431];
        let (list, blocks) = blocks(DeviceKind::Cuda, &offsets);
        assert_eq!(blocks, Blocks::Ptx([4, 1, 2]));
        let want: [[u32; 4]; 7] = [
            [97, 300, 0, 0],
            [97, 300, 128, 0],
            [97, 300, 256, 0],
            [0, 65, 0, 0],
            [397, 33, 0, 0],
            [65, 32, 0, 0],
            [430, 1, 0, 0],
        ];
        assert_eq!(list, want.concat());
        let (list, blocks) = super::blocks(DeviceKind::Wgpu, &offsets[..4]);
        assert_eq!(blocks, Blocks::Wgsl(7));
        assert_eq!(list[list.len() - 4..], [2, 65, 2, 81]);
    }
}
