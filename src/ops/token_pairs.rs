//! Pairs of texts given by their token vectors: what the operators take that compare texts token by token.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use super::{OpSpec, Packing, check, check_width};
use crate::device::{Buffer, Device, ElementType, Float};
use crate::error::{Error, Result};

/// Token vectors of packed texts.
#[derive(Clone, Copy)]
pub struct Tokens<'a, T: Float> {
    /// `[t, d]`, of unit length if products are to be cosines.
    pub rows: &'a Buffer<T>,
    /// Which rows belong to which text.
    pub packing: &'a Packing,
}

impl<T: Float> Tokens<'_, T> {
    /// Where the elements of a text's vectors are, rows being `d` wide.
    pub(super) fn elements(&self, text: u32, d: usize) -> Range<usize> {
        let offsets = self.packing.offsets();
        offsets[text as usize] as usize * d..offsets[text as usize + 1] as usize * d
    }
}

/// Which pairs of a query and a document are scored.
#[derive(Clone, Copy)]
pub enum Pairs<'a> {
    /// Every query with every document: `n_q n_c` scores, those of a query together.
    All,
    /// The listed ones, in their order.
    Listed(&'a PairList),
}

/// A list of (query, document) on a device.
pub struct PairList {
    pub(super) host: Vec<[u32; 2]>,
    pub(super) device: Buffer<u32>,
    /// Queries and documents that there must be at least.
    texts: [usize; 2],
}

impl PairList {
    /// Places a list of (query, document) numbers on `device`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and device failures.
    pub fn new(device: &Device, pairs: Vec<[u32; 2]>) -> Result<Self> {
        let texts = [0, 1].map(|side| {
            let last = pairs.iter().map(|pair| pair[side] as usize + 1).max();
            last.unwrap_or(0)
        });
        Ok(PairList {
            device: device.upload(pairs.as_flattened())?,
            host: pairs,
            texts,
        })
    }

    fn check_texts(&self, op: &'static str, queries: &Packing, documents: &Packing) -> Result<()> {
        let texts = [queries.texts(), documents.texts()];
        if self.texts[0] > texts[0] || self.texts[1] > texts[1] {
            return Err(Error::shape(
                op,
                "pairs",
                format!("numbers of {} queries and {} documents", texts[0], texts[1]),
                format!("{} and {}", self.texts[0], self.texts[1]),
            ));
        }
        Ok(())
    }

    /// Number of pairs, `p`.
    pub fn len(&self) -> usize {
        self.host.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.host.is_empty()
    }
}

/// Checks the token vectors `[t, d]` of both sides and that the pairs name texts that are there.
pub(super) fn check_pairs<T: Float>(
    spec: &OpSpec,
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: Pairs<'_>,
    device: &Device,
) -> Result<()> {
    check_width(spec.name, "d", d)?;
    for (what, tokens) in [("queries", queries), ("documents", documents)] {
        let expected = tokens.packing.tokens() * d;
        check(spec.name, what, tokens.rows, expected, device)?;
    }
    if let Pairs::Listed(list) = pairs {
        check(spec.name, "pairs", &list.device, 2 * list.len(), device)?;
        list.check_texts(spec.name, queries.packing, documents.packing)?;
    }
    Ok(())
}

/// Tokens of the longest text.
pub(super) fn longest(packing: &Packing) -> usize {
    let lengths = packing.offsets().windows(2).map(|w| w[1] - w[0]);
    lengths.max().unwrap_or(0) as usize
}

/// Copies a row-major matrix as f32.
pub(super) fn widen<T: Float>(from: &[T], to: &mut Vec<f32>) {
    to.resize(from.len(), 0.0);
    match T::TYPE {
        ElementType::F16 => {
            bytemuck::cast_slice::<T, half::f16>(from).convert_to_f32_slice(to);
        }
        _ => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from.to_f32();
            }
        }
    }
}

/// Cuts texts into runs of at most `tokens` tokens, or of one text that is longer.
pub(super) fn runs(offsets: &[u32], tokens: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for text in 0..offsets.len() - 1 {
        let start = runs.last().map_or(0, |run| offsets[run.start] as usize);
        match runs.last_mut() {
            Some(run) if offsets[text + 1] as usize - start <= tokens => run.end = text + 1,
            _ => runs.push(text..text + 1),
        }
    }
    runs
}

/// Rows of a piece of the documents begin at a multiple of this, so that bindings are aligned (at d = 8, 2 KiB of f16).
const ALIGN: usize = 128;

/// Documents whose tokens fit one binding of a wgpu device.
pub(super) struct Piece {
    /// Their numbers.
    pub documents: Range<usize>,
    /// Token rows to bind; the first may belong to the piece before.
    pub rows: Range<usize>,
}

/// Cuts documents with rows of `row_bytes` bytes into pieces for bindings of at most `max_binding` bytes.
pub(super) fn pieces(packing: &Packing, row_bytes: usize, max_binding: u64) -> Vec<Piece> {
    let most = usize::try_from(max_binding).unwrap_or(usize::MAX) / row_bytes;
    let offsets = packing.offsets();
    runs(offsets, most.saturating_sub(ALIGN))
        .into_iter()
        .map(|documents| Piece {
            rows: offsets[documents.start] as usize / ALIGN * ALIGN
                ..offsets[documents.end] as usize,
            documents,
        })
        .collect()
}

/// Where the maps of listed pairs lie in a buffer: matrices `[l_q, l_c]`, row-major, one behind the other.
pub struct MapLayout {
    offsets: Vec<u32>,
    pub(super) device: Buffer<u32>,
}

impl MapLayout {
    /// Lays out the maps of `pairs`.
    ///
    /// # Errors
    /// [`Error::Shape`] for pairs of texts that are not there, [`Error::Invalid`] for 2^32 elements or more.
    pub fn new(
        device: &Device,
        queries: &Packing,
        documents: &Packing,
        pairs: &PairList,
    ) -> Result<Self> {
        let offsets = MapLayout::offsets_of(queries, documents, pairs)?;
        Ok(MapLayout {
            device: device.upload(&offsets)?,
            offsets,
        })
    }

    pub(super) fn offsets_of(
        queries: &Packing,
        documents: &Packing,
        pairs: &PairList,
    ) -> Result<Vec<u32>> {
        pairs.check_texts("map layout", queries, documents)?;
        let length = |packing: &Packing, text: u32| {
            let span = &packing.offsets()[text as usize..text as usize + 2];
            u64::from(span[1] - span[0])
        };
        let mut offsets = vec![0];
        let mut total = 0u64;
        for &[q, c] in &pairs.host {
            total += length(queries, q) * length(documents, c);
            offsets.push(u32::try_from(total).map_err(|_| {
                Error::Invalid(format!(
                    "similarity maps of {} pairs take {total} elements or more; fewer than 2^32 fit, score fewer pairs at once",
                    pairs.len()
                ))
            })?);
        }
        Ok(offsets)
    }

    /// Where the maps begin, and where the last one ends, `[p + 1]`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Elements of all maps.
    pub fn elements(&self) -> usize {
        *self.offsets.last().expect("never empty") as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_whole_texts() {
        assert!(runs(&[0], 4).is_empty());
        assert_eq!(runs(&[0, 1, 3, 9, 9, 10], 3), [0..2, 2..3, 3..5]);
    }
}
