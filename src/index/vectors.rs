//! A corpus of embeddings for exact cosine search.

use std::borrow::Cow;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use safetensors::tensor::Dtype;

use super::file::{self, IndexFile, read_f16, read_f32};
use super::ids::Ids;
use super::scale::{check_finite, length, lengthened, near_unit};
use super::{Hit, IndexOptions, PIECE_BYTES, SearchOptions, check_width};
use crate::device::{Buffer, Device, DeviceKind, Slice};
use crate::encoder::{EncodeStats, Encoder, Window, WindowOptions, why_not_finite};
use crate::error::{Error, Result};
use crate::ops::cosine_topk::{FEW, Shard, cosine_topk, inverse_norms};
use crate::ops::pool::{Pooling, pool};
use crate::ops::{PackedTexts, Places, check_device, normalize_rows, scatter_rows, widen};
use crate::text::TextKind;

/// What the layout of a saved index is called; a file with another one is refused.
const LAYOUT: &str = "nearmiss-vector-index";

/// What errors call it.
const OP: &str = "vector index";

/// Inverse lengths, as a device computes them, of rows that are rounded as they are.
const NEAR_UNIT: RangeInclusive<f32> = 0.7..=1.43;

/// Inverse lengths of rows whose squares f32 holds with all their digits.
const MEASURED: RangeInclusive<f32> = 1e-15..=1e10;

/// Embeddings of a corpus, held once, in f16, on a device, and searched exactly by cosine.
///
/// How they are laid out is this type's own business: it is built, saved, mapped, appended to and searched through its
/// methods alone. For ids and the order of equal scores see [`crate::index`].
///
/// ```
/// use nearmiss::{Device, index::{SearchOptions, VectorIndex}};
/// let mut index = VectorIndex::new(&Device::cpu(), 8)?;
/// index.append(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// index.append_with_ids(&[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], &[700])?;
/// let query = [0.1, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
/// assert_eq!(index.search(&query, 1)?[0][0].id, 700);
/// let others = index.search_with(&query, 1, SearchOptions::only(&|id| id != 700))?;
/// assert_eq!(others[0][0].id, 0);
/// # Ok::<(), nearmiss::Error>(())
/// ```
#[derive(Debug)]
pub struct VectorIndex {
    device: Device,
    d: usize,
    options: IndexOptions,
    ids: Ids,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    /// `[capacity, d]`.
    rows: Buffer<f16>,
    /// `[capacity]`, 0 for a zero row.
    inverse_norms: Buffer<f32>,
    /// Rows in use.
    n: usize,
}

/// Embeddings `[n, d]` that are appended to a [`VectorIndex`]: f32 or f16 on the host, f32 on the index's device.
///
/// Their lengths do not count: what has a direction in f32, from 1e-38 to 1e38, keeps it.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// Scaled by a power of two to a length near 1, then rounded to f16.
    F32(&'a [f32]),
    /// Taken as they are, but that short ones are made longer by a power of two, which loses nothing.
    F16(&'a [f16]),
    /// Brought to a length near 1 and rounded to f16 where they are: rows on a GPU do not come to the host, but for their
    /// lengths and the rows that are zero or whose squares f32 does not hold.
    Device(Slice<'a, f32>),
}

impl<'a> From<&'a [f32]> for Rows<'a> {
    fn from(rows: &'a [f32]) -> Self {
        Rows::F32(rows)
    }
}

impl<'a> From<&'a Vec<f32>> for Rows<'a> {
    fn from(rows: &'a Vec<f32>) -> Self {
        Rows::F32(rows)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Rows<'a> {
    fn from(rows: &'a [f32; N]) -> Self {
        Rows::F32(rows)
    }
}

impl<'a> From<&'a [f16]> for Rows<'a> {
    fn from(rows: &'a [f16]) -> Self {
        Rows::F16(rows)
    }
}

impl<'a> From<&'a Vec<f16>> for Rows<'a> {
    fn from(rows: &'a Vec<f16>) -> Self {
        Rows::F16(rows)
    }
}

impl<'a> From<&'a Buffer<f32>> for Rows<'a> {
    fn from(rows: &'a Buffer<f32>) -> Self {
        Rows::Device(rows.as_slice())
    }
}

impl<'a> From<Slice<'a, f32>> for Rows<'a> {
    fn from(rows: Slice<'a, f32>) -> Self {
        Rows::Device(rows)
    }
}

impl VectorIndex {
    /// An empty index for embeddings of width `d`, a multiple of 8.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width.
    pub fn new(device: &Device, d: usize) -> Result<Self> {
        Self::with_options(device, d, IndexOptions::default())
    }

    /// An empty index with memory for `n` rows, so that appending up to there never moves or splits anything.
    ///
    /// # Errors
    /// As [`VectorIndex::new`], [`Error::Invalid`] for more rows than an index holds, and [`Error::OutOfMemory`].
    pub fn with_capacity(device: &Device, d: usize, n: usize) -> Result<Self> {
        let mut index = Self::new(device, d)?;
        index.reserve(n)?;
        Ok(index)
    }

    /// An empty index that uses memory as `options` say.
    ///
    /// # Errors
    /// As [`VectorIndex::new`].
    pub fn with_options(device: &Device, d: usize, options: IndexOptions) -> Result<Self> {
        check_width(OP, d)?;
        Ok(VectorIndex {
            device: device.clone(),
            d,
            options,
            ids: Ids::default(),
            pieces: Vec::new(),
        })
    }

    /// Width of the embeddings.
    pub fn width(&self) -> usize {
        self.d
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// `true` if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device that holds and searches it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of device memory that hold rows and norms: `2 d + 4` per row of capacity.
    pub fn bytes(&self) -> u64 {
        self.pieces
            .iter()
            .map(|p| p.rows.bytes() + p.inverse_norms.bytes())
            .sum()
    }

    /// The ids of its texts, in the order in which they were appended.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids.live().map(|row| self.ids.of(row))
    }

    /// Whether a text of this id is there.
    pub fn contains(&self, id: u64) -> bool {
        self.ids.row(id).is_some()
    }

    /// Makes room for `n` more rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more rows than an index holds, [`Error::OutOfMemory`].
    pub fn reserve(&mut self, n: usize) -> Result<()> {
        self.ids.check_room(OP, n)?;
        self.make_room(n, 0)
    }

    /// Appends embeddings `[n, d]`, held in f16, under running numbers: the first one's is 0, or one more than the
    /// largest id so far.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length that is no multiple of `d`; [`Error::Invalid`] naming the row for a number that
    /// is not finite; [`Error::OutOfMemory`]. On an error nothing is appended.
    pub fn append<'a>(&mut self, rows: impl Into<Rows<'a>>) -> Result<()> {
        self.append_rows(rows.into(), None)
    }

    /// Appends embeddings under ids of the caller's own, one for each.
    ///
    /// # Errors
    /// As [`VectorIndex::append`]; [`Error::Invalid`] for an id that is there already.
    pub fn append_with_ids<'a>(&mut self, rows: impl Into<Rows<'a>>, ids: &[u64]) -> Result<()> {
        self.append_rows(rows.into(), Some(ids))
    }

    /// Encodes `texts` and appends their embeddings, in order, under running numbers. On a GPU they stay there.
    ///
    /// # Errors
    /// As [`Encoder::encode`] and [`VectorIndex::append`]; windows of texts before the one that fails may have been
    /// appended.
    pub fn append_texts<S: AsRef<str> + Sync>(
        &mut self,
        encoder: &Encoder,
        texts: &[S],
        kind: TextKind,
    ) -> Result<EncodeStats> {
        self.append_texts_with(encoder, texts, kind, |_, _| {})
    }

    /// The same; `progress` hears how many texts and tokens are done.
    ///
    /// # Errors
    /// As [`VectorIndex::append_texts`].
    pub fn append_texts_with<S: AsRef<str> + Sync>(
        &mut self,
        encoder: &Encoder,
        texts: &[S],
        kind: TextKind,
        progress: impl FnMut(usize, usize),
    ) -> Result<EncodeStats> {
        if self.device.kind() == DeviceKind::Cpu || !self.device.same_as(encoder.device()) {
            return encoder.encode(texts, kind, |_, rows| self.append(rows), progress);
        }
        if encoder.width() != self.d {
            return Err(Error::shape(OP, "encoder", self.d, encoder.width()));
        }
        let (d, device) = (self.d, self.device.clone());
        let each = |window: Window<'_>| {
            let (first, n) = (window.first(), window.lengths().len());
            // Batches hold texts of like length; here they go back into order.
            let mut rows = device.alloc::<f32>(n * d)?;
            window.hidden_batches(|batch| {
                let places = Places::new(&device, batch.texts)?;
                scatter_rows(&batch.embeddings()?, d, &places, &mut rows)
            })?;
            self.append(&rows).map_err(|e| match e {
                Error::Invalid(_) => not_finite(&rows, d).after_texts(first),
                other => other,
            })
        };
        encoder.windows(texts, kind, WindowOptions::default(), each, progress)
    }

    fn append_rows(&mut self, rows: Rows<'_>, ids: Option<&[u64]>) -> Result<()> {
        let len = match rows {
            Rows::F32(rows) => rows.len(),
            Rows::F16(rows) => rows.len(),
            Rows::Device(rows) => {
                check_device(OP, "rows", rows.device(), &self.device)?;
                rows.len()
            }
        };
        if !len.is_multiple_of(self.d) {
            return Err(Error::shape(OP, "rows", format!("rows of {}", self.d), len));
        }
        let n = len / self.d;
        self.ids.check(OP, n, ids)?;
        match rows {
            Rows::F32(rows) => self.append_host(&self.rounded(rows, 0)?)?,
            Rows::F16(rows) => {
                self.check_finite(rows, 0)?;
                self.append_host(&lengthened(rows, self.d))?;
            }
            Rows::Device(rows) if self.device.kind() == DeviceKind::Cpu => {
                self.append_host(&self.rounded(&rows.read()?, 0)?)?;
            }
            Rows::Device(rows) => self.append_device(rows, n)?,
        }
        self.ids.push(n, ids);
        Ok(())
    }

    /// New rows, the first of them being the `first`th, in f16 as they are stored.
    fn rounded(&self, rows: &[f32], first: usize) -> Result<Vec<f16>> {
        check_finite(rows, self.d, |row| self.name(first + row))?;
        Ok(round(&near_unit(rows, self.d), self.d))
    }

    /// Appends f16 rows as they are, with their inverse lengths.
    fn append_host(&mut self, rows: &[f16]) -> Result<()> {
        let inverse = |wide: &mut Vec<f32>, row: &[f16]| {
            widen(row, wide);
            let norm = length(wide);
            if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 }
        };
        let norms: Vec<f32> = rows
            .par_chunks(self.d)
            .with_min_len(64)
            .map_init(Vec::new, inverse)
            .collect();
        self.write(rows, &norms)
    }

    /// What an appended row, the `row`th of them, is called.
    fn name(&self, row: usize) -> String {
        format!("row {} of the index", self.ids.rows() + row)
    }

    /// Requires appended rows, the first of them being the `first`th, to be finite.
    fn check_finite(&self, rows: &[f16], first: usize) -> Result<()> {
        match rows.iter().position(|v| !v.is_finite()) {
            None => Ok(()),
            Some(at) => Err(Error::Invalid(format!(
                "{}: element {} is {} in f16; embeddings must be finite",
                self.name(first + at / self.d),
                at % self.d,
                rows[at]
            ))),
        }
    }

    /// Puts rows and their inverse norms behind those that are there.
    fn write(&mut self, rows: &[f16], norms: &[f32]) -> Result<()> {
        let d = self.d;
        self.fill(norms.len(), |piece, range| {
            let at = piece.n;
            piece
                .rows
                .write(at * d, &rows[range.start * d..range.end * d])?;
            piece.inverse_norms.write(at, &norms[range])
        })
    }

    /// [`VectorIndex::append_host`] on a GPU, where only lengths are looked at from the host.
    fn append_device(&mut self, x: Slice<'_, f32>, n: usize) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let (d, device) = (self.d, self.device.clone());
        let mut inverse = device.alloc::<f32>(n)?;
        inverse_norms(x, d, &mut inverse)?;
        let lengths = inverse.read()?;
        let mut rows = device.alloc::<f16>(n * d)?;
        if lengths.iter().all(|inverse| NEAR_UNIT.contains(inverse)) {
            let each = PackedTexts::new(&device, (0..=n as u32).collect())?;
            pool(x, &each, Pooling::First, false, &mut rows)?;
        } else {
            normalize_rows(x, d, &mut rows, None, None)?;
            // No range holds a NaN.
            let odd = lengths.iter().enumerate();
            for (row, _) in odd.filter(|(_, inverse)| !MEASURED.contains(*inverse)) {
                let at = row * d;
                let stored = self.rounded(&x.slice(at..at + d).read()?, row)?;
                rows.write(at, &stored)?;
            }
        }
        inverse_norms(&rows, d, &mut inverse)?;
        self.fill(n, |piece, range| {
            let at = piece.n;
            piece
                .rows
                .copy_from(at * d, rows.slice(range.start * d..range.end * d))?;
            piece.inverse_norms.copy_from(at, inverse.slice(range))
        })
    }

    /// Lets `put` place `n` new rows behind the last of each piece that has room, then counts them as there.
    fn fill(
        &mut self,
        n: usize,
        mut put: impl FnMut(&mut Piece, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        // All memory first, so that an error leaves the index as it was.
        self.make_room(n, self.ids.rows() / 2)?;
        let mut done = 0;
        let mut taken = vec![0; self.pieces.len()];
        for (piece, taken) in self.pieces.iter_mut().zip(&mut taken) {
            *taken = (piece.capacity() - piece.n).min(n - done);
            if *taken > 0 {
                put(piece, done..done + *taken)?;
                done += *taken;
            }
        }
        for (piece, taken) in self.pieces.iter_mut().zip(taken) {
            piece.n += taken;
        }
        Ok(())
    }

    /// Adds pieces until `n` more rows fit, of `at_least` rows if a piece holds as many.
    fn make_room(&mut self, n: usize, at_least: usize) -> Result<()> {
        let room: usize = self.pieces.iter().map(|p| p.capacity() - p.n).sum();
        let mut missing = n.saturating_sub(room);
        while missing > 0 {
            let size = missing.max(at_least).min(self.piece_rows());
            self.pieces.push(Piece {
                rows: self.device.alloc(size * self.d)?,
                inverse_norms: self.device.alloc(size)?,
                n: 0,
            });
            missing = missing.saturating_sub(size);
        }
        Ok(())
    }

    /// Rows of one piece at most.
    fn piece_rows(&self) -> usize {
        let most = PIECE_BYTES.min(self.options.piece_bytes.unwrap_or(PIECE_BYTES));
        (most / (2 * self.d)).max(1)
    }

    /// The `k` texts with the largest cosine to each of the `queries` `[n_q, d]`, best first; of equal ones, those that
    /// were appended first.
    ///
    /// # Errors
    /// [`Error::Shape`] for a wrong query length or `k` = 0, [`Error::Invalid`] naming a query that is not finite, or
    /// what the device reports.
    pub fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>> {
        self.search_with(queries, k, SearchOptions::default())
    }

    /// [`VectorIndex::search`] with more to say.
    ///
    /// # Errors
    /// As [`VectorIndex::search`].
    pub fn search_with(
        &self,
        queries: &[f32],
        k: usize,
        options: SearchOptions<'_>,
    ) -> Result<Vec<Vec<Hit>>> {
        if k == 0 {
            return Err(Error::shape(OP, "k", "at least 1", k));
        }
        if !queries.len().is_multiple_of(self.d) {
            let expected = format!("rows of {}", self.d);
            return Err(Error::shape(OP, "queries", expected, queries.len()));
        }
        check_finite(queries, self.d, |query| format!("query {query}"))?;
        let n_q = queries.len() / self.d;
        if self.is_empty() || n_q == 0 {
            return Ok(vec![Vec::new(); n_q]);
        }
        let mask = self.ids.mask(options.filter);
        let mask = mask.map(|words| self.device.upload(&words)).transpose()?;
        let shards: Vec<Shard<'_>> = self
            .pieces
            .iter()
            .map(|p| Shard {
                rows: p.rows.as_slice(),
                inverse_norms: p.inverse_norms.as_slice(),
                n: p.n,
            })
            .collect();
        let mut queries = near_unit(queries, self.d);
        if options.alike && n_q <= FEW && self.device.kind() == DeviceKind::Cpu {
            // With so many that they are multiplied as any number is.
            queries.to_mut().resize((FEW + 1) * self.d, 0.0);
        }
        let queries = self.device.upload(&queries)?;
        let k = k.min(self.len());
        let found = cosine_topk(
            &queries,
            self.d,
            &shards,
            mask.as_ref().map(Buffer::as_slice),
            k,
        )?;
        let hit = |(row, score)| Hit {
            id: self.ids.of(row as usize),
            score,
        };
        Ok((0..n_q).map(|q| found.of(q).map(hit).collect()).collect())
    }

    /// The stored embedding of a text, in f32; `None` if no such text is there. Its direction is that of what was appended
    /// (rounded to f16), its length near 1; only f16 rows that were longer keep their length.
    ///
    /// # Errors
    /// What the device reports.
    pub fn vector(&self, id: u64) -> Result<Option<Vec<f32>>> {
        let Some(mut local) = self.ids.row(id) else {
            return Ok(None);
        };
        for piece in &self.pieces {
            if local < piece.n {
                let range = local * self.d..(local + 1) * self.d;
                return Ok(Some(piece.rows.read_range(range)?.to_f32_vec()));
            }
            local -= piece.n;
        }
        unreachable!("every row is in a piece")
    }

    /// Removes texts; the number of those that were there. Their memory stays until [`VectorIndex::compact`]; their ids
    /// can be given to others.
    pub fn remove(&mut self, ids: &[u64]) -> usize {
        self.ids.remove(ids)
    }

    /// Frees the memory of removed texts. Takes, until it is done, memory for what is left of the pieces that hold any.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and device failures; the index is then as it was.
    pub fn compact(&mut self) -> Result<()> {
        let mut compacted: Vec<Option<Piece>> = Vec::new();
        for (piece, live) in self.pieces.iter().zip(self.live_runs()) {
            let n = live.iter().map(Range::len).sum();
            if n == piece.n {
                compacted.push(None);
                continue;
            }
            let mut new = Piece {
                rows: self.device.alloc(n * self.d)?,
                inverse_norms: self.device.alloc(n)?,
                n: 0,
            };
            for run in live {
                let rows = piece.rows.slice(run.start * self.d..run.end * self.d);
                new.rows.copy_from(new.n * self.d, rows)?;
                let norms = piece.inverse_norms.slice(run);
                new.inverse_norms.copy_from(new.n, norms)?;
                new.n += norms.len();
            }
            compacted.push(Some(new));
        }
        for (piece, new) in self.pieces.iter_mut().zip(compacted) {
            if let Some(new) = new {
                *piece = new;
            }
        }
        self.pieces.retain(|piece| piece.capacity() > 0);
        self.ids.compact();
        Ok(())
    }

    /// Per piece the runs of its rows that are there.
    fn live_runs(&self) -> Vec<Vec<Range<usize>>> {
        let ends = self.pieces.iter().scan(0, |end, piece| {
            *end += piece.n;
            Some(*end - piece.n..*end)
        });
        ends.map(|rows| self.ids.live_runs(rows)).collect()
    }

    /// Writes the index to `path` (a safetensors file), removed texts left out, by way of a temporary file beside it, so
    /// that an interrupted run leaves either the old file or the new one.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, a full disk included.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let n = self.len();
        let mut rows: Vec<f16> = Vec::with_capacity(n * self.d);
        let mut norms: Vec<f32> = Vec::with_capacity(n);
        for (piece, live) in self.pieces.iter().zip(self.live_runs()) {
            for run in live {
                let range = run.start * self.d..run.end * self.d;
                rows.extend(piece.rows.read_range(range)?);
                norms.extend(piece.inverse_norms.read_range(run)?);
            }
        }
        let (rows, norms) = (bytemuck::cast_slice(&rows), bytemuck::cast_slice(&norms));
        file::write(
            path.as_ref(),
            LAYOUT,
            &self.ids,
            &[
                ("rows", Dtype::F16, vec![n, self.d], rows),
                ("inverse_norms", Dtype::F32, vec![n], norms),
            ],
        )
    }

    /// Opens a saved index. On the CPU the file is mapped, not read: opening is instant and pages come in as a search
    /// touches them (so the file must not shrink meanwhile). Rows can be appended (they live in memory;
    /// [`VectorIndex::save`] writes all).
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Input`] if it is no complete index of this layout.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Self::open_with(path, device, IndexOptions::default())
    }

    /// [`VectorIndex::open`], using memory as `options` say.
    ///
    /// # Errors
    /// As [`VectorIndex::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        device: &Device,
        options: IndexOptions,
    ) -> Result<Self> {
        let advice = "build it again, or load it as plain safetensors";
        let file = IndexFile::open(path.as_ref(), LAYOUT, advice)?;
        let tensors = file.tensors()?;
        let (rows, n, d) = file.rows(&tensors, "rows")?;
        let norms = file.get(&tensors, "inverse_norms", Dtype::F32)?;
        if norms.shape() != [n] {
            return Err(file.refuse(
                "tensors rows and inverse_norms do not fit together; build it again".into(),
            ));
        }
        let ids = file.ids(&tensors, n)?;
        let mut index = Self::with_options(device, d, options)?;
        let mapped = file
            .mapped(device, &rows, 0, n * d)
            .zip(file.mapped(device, &norms, 0, n));
        match mapped {
            Some((rows, inverse_norms)) if n > 0 => index.pieces.push(Piece {
                rows,
                inverse_norms,
                n,
            }),
            _ => {
                index.make_room(n, 0)?;
                let at_once = index.chunk_rows();
                let rows = rows.data().chunks(at_once * 2 * d);
                let norms = norms.data().chunks(at_once * 4);
                for (first, (rows, norms)) in (0..).step_by(at_once).zip(rows.zip(norms)) {
                    let rows = read_f16(rows);
                    index
                        .check_finite(&rows, first)
                        .map_err(|e| file.refuse(e.to_string()))?;
                    match lengthened(&rows, d) {
                        Cow::Borrowed(rows) => index.write(rows, &read_f32(norms))?,
                        // Written before lengths were brought near 1.
                        Cow::Owned(rows) => index.append_host(&rows)?,
                    }
                }
            }
        }
        index.ids = ids;
        Ok(index)
    }

    /// Rows that are read from a file, converted and uploaded at a time.
    pub(super) fn chunk_rows(&self) -> usize {
        (self.options.chunk / self.d).max(1)
    }
}

impl Piece {
    fn capacity(&self) -> usize {
        self.inverse_norms.len()
    }
}

/// Which of some embeddings `[n, d]` is not finite, as an error about its text.
fn not_finite(rows: &Buffer<f32>, d: usize) -> Error {
    let why = why_not_finite(rows.device());
    match rows.read() {
        Ok(rows) => {
            let finite = |row: &[f32]| row.iter().all(|v| v.is_finite());
            let row = rows.chunks_exact(d).position(|row| !finite(row));
            Error::text(
                row.unwrap_or(0),
                format!("got an embedding that is not finite: {why}"),
            )
        }
        Err(e) => e,
    }
}

/// Rows `[n, d]` in f16.
fn round(rows: &[f32], d: usize) -> Vec<f16> {
    let mut rounded = vec![f16::ZERO; rows.len()];
    let both = rounded.par_chunks_mut(d).zip(rows.par_chunks(d));
    both.with_min_len(64)
        .for_each(|(to, from)| to.convert_from_f32_slice(from));
    rounded
}

#[cfg(test)]
mod tests;
