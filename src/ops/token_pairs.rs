//! Pairs of texts given by their token vectors: what the operators take that compare texts token by token.

use std::ops::Range;

use super::{ALIGN, Checks, PackedTexts, PairList, halves};
use crate::device::{Buffer, Device, ElementType, Float, Geometry, Slice};
use crate::error::{Error, Result};

/// Token vectors of packed texts.
#[derive(Clone, Copy)]
pub struct Tokens<'a, T: Float> {
    /// `[t, d]`, of unit length if products are to be cosines.
    pub rows: Slice<'a, T>,
    /// Which rows belong to which text.
    pub packing: &'a PackedTexts,
}

impl<'a, T: Float> Tokens<'a, T> {
    /// A text's vectors on the CPU, rows being `d` wide.
    pub(super) fn host(&self, text: u32, d: usize) -> &'a [T] {
        let rows = self.packing.rows(text as usize);
        &self.rows.host()[rows.start * d..rows.end * d]
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

/// Checks the token vectors `[t, d]` of both sides and that the pairs name texts that are there.
pub(super) fn check_pairs<T: Float>(
    check: &Checks<'_>,
    queries: Tokens<'_, T>,
    documents: Tokens<'_, T>,
    d: usize,
    pairs: Pairs<'_>,
) -> Result<()> {
    check.width("d", d)?;
    for (what, tokens) in [("queries", queries), ("documents", documents)] {
        check.holds(what, &tokens.rows, tokens.packing.tokens() * d)?;
        check.holds(
            what,
            &tokens.packing.on_device(),
            tokens.packing.texts() + 1,
        )?;
    }
    if let Pairs::Listed(list) = pairs {
        let (n_q, n_c) = (queries.packing.texts(), documents.packing.texts());
        check.holds("pairs", &list.among(check.op, n_q, n_c)?, 2 * list.len())?;
    }
    Ok(())
}

/// Products of a token of the query and one of the document, over all `pairs`.
pub(super) fn products(queries: &PackedTexts, documents: &PackedTexts, pairs: Pairs<'_>) -> usize {
    match pairs {
        Pairs::All => queries.tokens() * documents.tokens(),
        Pairs::Listed(list) => list
            .pairs()
            .iter()
            .map(|&[q, c]| queries.rows(q as usize).len() * documents.rows(c as usize).len())
            .sum(),
    }
}

/// Copies a row-major matrix as f32.
pub(crate) fn widen<T: Float>(from: &[T], to: &mut Vec<f32>) {
    to.resize(from.len(), 0.0);
    widen_to(from, to);
}

/// The same where there is room for it.
pub(super) fn widen_to<T: Float>(from: &[T], to: &mut [f32]) {
    match T::TYPE {
        ElementType::F16 => {
            halves::widen(bytemuck::cast_slice(from), to);
        }
        _ => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from.to_f32();
            }
        }
    }
}

/// Cuts texts into runs of at most `tokens` tokens, or of one text that is longer.
pub(crate) fn runs(offsets: &[u32], tokens: usize) -> Vec<Range<usize>> {
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

/// Documents whose tokens fit one binding of a wgpu device.
pub(super) struct Bound {
    /// Their numbers.
    pub documents: Range<usize>,
    /// Token rows to bind; the first may belong to the documents before.
    pub rows: Range<usize>,
}

impl Bound {
    /// The rows to bind of all `rows` `[t, d]`.
    pub fn of<'a, T: Float>(&self, rows: Slice<'a, T>, d: usize) -> Slice<'a, T> {
        rows.slice(self.rows.start * d..self.rows.end * d)
    }
}

/// How much runs at once where a group of threads has a pair of texts: `count` pairs on wgpu; on CUDA `blocks`, which take
/// `tile_q` query tokens at a time.
pub(super) fn geometry(count: usize, blocks: usize, tile_q: usize) -> Geometry {
    Geometry {
        groups: super::grid(count),
        grid: [blocks as u32, 1, 1],
        threads: 128,
        // Four stages of 32 of d: 128 document tokens and the query tokens.
        shared_bytes: 4 * (128 + tile_q as u32) * 64,
    }
}

/// Query tokens that a block on CUDA takes at a time, 32 to `most`: what holds most queries at once. A document is read as
/// often as a query has such tiles, and a tile costs what a full one does.
pub(super) fn query_tile(queries: &PackedTexts, most: usize) -> usize {
    let mean = queries.tokens() / queries.texts().max(1);
    [32, 64, 128]
        .into_iter()
        .find(|&tile| mean <= tile || tile == most)
        .unwrap_or(most)
}

/// Cuts documents with rows of `row_bytes` bytes for bindings of at most `max_binding` bytes.
pub(super) fn bounds(packing: &PackedTexts, row_bytes: usize, max_binding: u64) -> Vec<Bound> {
    let most = usize::try_from(max_binding).unwrap_or(usize::MAX) / row_bytes;
    let offsets = packing.offsets();
    runs(offsets, most.saturating_sub(ALIGN))
        .into_iter()
        .map(|documents| Bound {
            rows: offsets[documents.start] as usize / ALIGN * ALIGN
                ..offsets[documents.end] as usize,
            documents,
        })
        .collect()
}

/// A buffer in which what belongs to each of a list of pairs lies one behind the other.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    /// Where that of each pair begins, and where the last one's ends, `[p + 1]`, in units.
    pub offsets: &'a [u32],
    /// Bytes of a unit.
    pub unit: usize,
}

impl Packed<'_> {
    /// Bytes that every view on a GPU may begin at a multiple of.
    const ALIGNED: usize = 256;

    /// The units to bind for a run of pairs; the first ones may belong to the pair before.
    pub fn bound(&self, run: &Range<usize>) -> Range<usize> {
        // Units that end at such a multiple.
        let together = Self::ALIGNED >> self.unit.trailing_zeros().min(Self::ALIGNED.ilog2());
        self.offsets[run.start] as usize / together * together..self.offsets[run.end] as usize
    }

    fn fits(&self, run: &Range<usize>, max_binding: u64) -> bool {
        (self.bound(run).len() * self.unit) as u64 <= max_binding
    }
}

/// Cuts a list of pairs into runs of which bindings of at most `max_binding` bytes hold what is in each of the buffers, or
/// of one pair that is larger.
pub(super) fn pair_runs(buffers: &[Packed<'_>], max_binding: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for pair in 0..buffers.first().map_or(0, |buffer| buffer.offsets.len() - 1) {
        let longer = runs.last().map_or(0, |run| run.start)..pair + 1;
        match runs.last_mut() {
            Some(run) if buffers.iter().all(|b| b.fits(&longer, max_binding)) => *run = longer,
            _ => runs.push(pair..pair + 1),
        }
    }
    runs
}

/// Where the maps of listed pairs lie in a buffer: matrices `[l_q, l_c]`, row-major, one behind the other.
pub struct MapLayout {
    offsets: Vec<u32>,
    shapes: Vec<[u32; 2]>,
    /// `[p + 1]` offsets; then, where views may begin, `[p, 2]` shapes.
    on_device: Buffer<u32>,
}

impl MapLayout {
    /// Lays out the maps of `pairs`.
    ///
    /// # Errors
    /// [`Error::Shape`] for pairs of texts that are not there, [`Error::Invalid`] for 2^32 elements or more.
    pub fn new(
        device: &Device,
        queries: &PackedTexts,
        documents: &PackedTexts,
        pairs: &PairList,
    ) -> Result<Self> {
        let shapes = MapLayout::shapes_of(queries, documents, pairs)?;
        let mut offsets = Vec::with_capacity(shapes.len() + 1);
        offsets.push(0);
        let mut total = 0u64;
        for &[l_q, l_c] in &shapes {
            total += u64::from(l_q) * u64::from(l_c);
            offsets.push(u32::try_from(total).map_err(|_| {
                Error::Invalid(format!(
                    "similarity maps of {} pairs take {total} elements or more; fewer than 2^32 fit, score fewer pairs at once",
                    pairs.len()
                ))
            })?);
        }
        let mut both = Vec::with_capacity(Self::second(shapes.len()) + 2 * shapes.len());
        both.extend_from_slice(&offsets);
        both.resize(Self::second(shapes.len()), 0);
        both.extend_from_slice(shapes.as_flattened());
        Ok(MapLayout {
            on_device: device.upload(&both)?,
            offsets,
            shapes,
        })
    }

    /// Where the shapes begin behind the offsets of `p` maps: at a multiple of 256 bytes.
    fn second(p: usize) -> usize {
        (p + 1).next_multiple_of(64)
    }

    /// The shapes of the maps of `pairs`.
    pub(super) fn shapes_of(
        queries: &PackedTexts,
        documents: &PackedTexts,
        pairs: &PairList,
    ) -> Result<Vec<[u32; 2]>> {
        pairs.among("map layout", queries.texts(), documents.texts())?;
        let length = |packing: &PackedTexts, text: u32| packing.rows(text as usize).len() as u32;
        let shape = |&[q, c]: &[u32; 2]| [length(queries, q), length(documents, c)];
        Ok(pairs.pairs().iter().map(shape).collect())
    }

    /// Requires this to be the layout of `pairs`, on the device.
    pub(super) fn is_of(
        &self,
        check: &Checks<'_>,
        queries: &PackedTexts,
        documents: &PackedTexts,
        pairs: &PairList,
    ) -> Result<()> {
        if self.shapes != MapLayout::shapes_of(queries, documents, pairs)? {
            return Err(Error::shape(
                check.op,
                "layout",
                format!("that of these {} pairs", pairs.len()),
                "another one",
            ));
        }
        self.is_on(check)
    }

    /// Requires this to be on the device.
    pub(super) fn is_on(&self, check: &Checks<'_>) -> Result<()> {
        check.holds("layout", &self.on_device(), self.offsets.len())
    }

    /// Where the maps begin, and where the last one ends, `[p + 1]`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Tokens of query and document of every pair, `[p, 2]`.
    pub fn shapes(&self) -> &[[u32; 2]] {
        &self.shapes
    }

    /// The offsets where kernels see them.
    pub(super) fn on_device(&self) -> Slice<'_, u32> {
        self.on_device.slice(..self.offsets.len())
    }

    /// The shapes where kernels see them.
    pub(super) fn shapes_on_device(&self) -> Slice<'_, u32> {
        let second = Self::second(self.shapes.len());
        self.on_device.slice(second..second + 2 * self.shapes.len())
    }

    /// As the cutting of a buffer of all maps needs it.
    pub(super) fn packed(&self) -> Packed<'_> {
        Packed {
            offsets: &self.offsets,
            unit: size_of::<f32>(),
        }
    }

    /// Elements of all maps.
    pub fn elements(&self) -> usize {
        *self.offsets.last().expect("never empty") as usize
    }

    /// The maps of a buffer of all, as slices of their own.
    pub(super) fn split<'a, T>(&self, mut maps: &'a mut [T]) -> Vec<&'a mut [T]> {
        let mut all = Vec::with_capacity(self.shapes.len());
        for span in self.offsets.windows(2) {
            let (map, rest) = maps.split_at_mut((span[1] - span[0]) as usize);
            all.push(map);
            maps = rest;
        }
        all
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

    #[test]
    fn runs_of_pairs_fit_their_bindings() {
        let maps = Packed {
            offsets: &[0, 100, 300, 300, 1000, 1100],
            unit: 4,
        };
        assert_eq!(pair_runs(&[maps], u64::MAX).first(), Some(&(0..5)));
        // The third run begins at a multiple of 64 elements, 44 before its first.
        assert_eq!(pair_runs(&[maps], 1600), [0..3, 3..4, 4..5]);
        assert_eq!(maps.bound(&(3..4)), 256..1000);
        assert_eq!(pair_runs(&[maps], 1200), [0..3, 3..4, 4..5]);
        assert_eq!(pair_runs(&[maps], 1199), [0..1, 1..3, 3..4, 4..5]);
        let rows = Packed {
            offsets: &[0, 1, 2, 3, 4, 5],
            unit: 768,
        };
        assert_eq!(pair_runs(&[maps, rows], 2000), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(rows.bound(&(1..3)), 1..3);
        assert!(
            pair_runs(
                &[Packed {
                    offsets: &[0],
                    unit: 4
                }],
                16
            )
            .is_empty()
        );
    }
}
