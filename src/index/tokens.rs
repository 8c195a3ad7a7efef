//! The token vectors of a corpus, searched by MaxSim.

use std::ops::Range;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, TensorView};

use super::file::{self, IndexFile, read_f16};
use super::ids::{Ids, is_set};
use super::token_vectors::Part;
use super::{Hit, IndexOptions, PIECE_BYTES, SearchOptions, TokenVectors, check_width};
use crate::device::{Buffer, Device};
use crate::encoder::{EncodeStats, Encoder};
use crate::error::{Error, Result};
use crate::ops::cosine_topk::{selects_on, top_scores};
use crate::ops::maxsim::maxsim;
use crate::ops::{PairList, Pairs, check_device};
use crate::text::TextKind;

/// What the layout of a saved index is called; a file with another one is refused.
const LAYOUT: &str = "nearmiss-token-index";

/// What errors call it.
const OP: &str = "token index";

/// Bytes of token vectors in one piece, when an index is read from a file or compacted.
const READ_BYTES: usize = 1 << 28;

/// The token vectors of a corpus in f16 on a device: searched exactly by MaxSim, and read by verifiers
/// ([`crate::verifier::Scorer::score_index`]).
///
/// Memory: `2 d` bytes per token and `4 d` per text; searching takes a score per text and query besides, and never a
/// similarity map. For ids and the order of equal scores see [`crate::index`].
///
/// ```
/// use nearmiss::{Device, index::{TokenIndex, TokenVectors}};
/// let cpu = Device::cpu();
/// let axis = |at: usize| (0..8).map(move |i| if i == at { 1.0 } else { 0.0 });
/// let vectors = |axes: &[usize], offsets: &[u32]| {
///     let rows: Vec<f32> = axes.iter().copied().flat_map(axis).collect();
///     TokenVectors::from_rows(&cpu, &rows, 8, offsets.to_vec())
/// };
/// let mut index = TokenIndex::new(&cpu, 8)?;
/// index.append(vectors(&[0, 1, 2], &[0, 1, 3])?)?;
/// let found = index.search(&vectors(&[2, 0], &[0, 2])?, 2)?;
/// // Both texts hold one of the two tokens that are asked for; the first comes first.
/// assert_eq!(found[0].iter().map(|hit| (hit.id, hit.score)).collect::<Vec<_>>(), [(0, 0.5), (1, 0.5)]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub struct TokenIndex {
    device: Device,
    d: usize,
    options: IndexOptions,
    ids: Ids,
    pieces: Vec<TokenVectors>,
    /// Number of the first text of each piece.
    starts: Vec<usize>,
}

impl TokenIndex {
    /// An empty index of vectors `d` wide, a multiple of 8.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width.
    pub fn new(device: &Device, d: usize) -> Result<Self> {
        Self::with_options(device, d, IndexOptions::default())
    }

    /// An empty index that uses memory as `options` say.
    ///
    /// # Errors
    /// As [`TokenIndex::new`].
    pub fn with_options(device: &Device, d: usize, options: IndexOptions) -> Result<Self> {
        check_width(OP, d)?;
        Ok(TokenIndex {
            device: device.clone(),
            d,
            options,
            ids: Ids::default(),
            pieces: Vec::new(),
            starts: Vec::new(),
        })
    }

    /// Appends texts under running numbers: the first one's is 0, or one more than the largest id so far. Nothing is
    /// copied.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width or another device, [`Error::Invalid`] for more texts than an index holds.
    pub fn append(&mut self, vectors: TokenVectors) -> Result<()> {
        self.append_vectors(vectors, None)
    }

    /// Appends texts under ids of the caller's own, one for each.
    ///
    /// # Errors
    /// As [`TokenIndex::append`]; [`Error::Invalid`] for an id that is there already.
    pub fn append_with_ids(&mut self, vectors: TokenVectors, ids: &[u64]) -> Result<()> {
        self.append_vectors(vectors, Some(ids))
    }

    /// Encodes `texts` and appends their token vectors, in order, under running numbers.
    ///
    /// # Errors
    /// As [`Encoder::encode_tokens`] and [`TokenIndex::append`]; texts before the one that fails may have been appended.
    pub fn append_texts<S: AsRef<str> + Sync>(
        &mut self,
        encoder: &Encoder,
        texts: &[S],
        kind: TextKind,
    ) -> Result<EncodeStats> {
        let append = |_, vectors, _: &[f32]| self.append(vectors);
        encoder.encode_tokens(texts, kind, None, append, |_, _| {})
    }

    fn append_vectors(&mut self, vectors: TokenVectors, ids: Option<&[u64]>) -> Result<()> {
        check_device(OP, "vectors", vectors.device(), &self.device)?;
        if vectors.d != self.d {
            return Err(Error::shape(OP, "width", self.d, vectors.d));
        }
        let n = vectors.len();
        self.ids.check(OP, n, ids)?;
        if n > 0 {
            self.starts.push(self.ids.rows());
            self.pieces.push(vectors);
            self.ids.push(n, ids);
        }
        Ok(())
    }

    /// Width of a vector.
    pub fn width(&self) -> usize {
        self.d
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of all texts.
    pub fn n_tokens(&self) -> usize {
        let runs = self.live_runs().into_iter();
        runs.map(|(at, texts)| self.pieces[at].span(texts).len())
            .sum()
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(TokenVectors::bytes).sum()
    }

    /// The device that holds and searches it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The ids of its texts, in the order in which they were appended.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids.live().map(|row| self.ids.of(row))
    }

    /// Whether a text of this id is there.
    pub fn contains(&self, id: u64) -> bool {
        self.ids.row(id).is_some()
    }

    /// The `k` texts with the largest MaxSim score, the mean of its maxima, for each query, best first; of equal ones,
    /// those that were appended first. Exact: every text is scored.
    ///
    /// # Errors
    /// [`Error::Shape`] for queries of another width or `k` = 0, or what the device reports.
    pub fn search(&self, queries: &TokenVectors, k: usize) -> Result<Vec<Vec<Hit>>> {
        self.search_with(queries, k, SearchOptions::default())
    }

    /// [`TokenIndex::search`] with more to say.
    ///
    /// # Errors
    /// As [`TokenIndex::search`].
    pub fn search_with(
        &self,
        queries: &TokenVectors,
        k: usize,
        options: SearchOptions<'_>,
    ) -> Result<Vec<Vec<Hit>>> {
        if k == 0 {
            return Err(Error::shape(OP, "k", "at least 1", k));
        }
        if queries.d != self.d {
            return Err(Error::shape(OP, "queries", self.d, queries.d));
        }
        let n_q = queries.len();
        let mut best: Vec<Vec<Scored>> = vec![Vec::new(); n_q];
        let mask = self.ids.mask(options.filter);
        for (piece, &start) in self.pieces.iter().zip(&self.starts) {
            let takes_part = |&text: &u32| {
                let row = start + text as usize;
                mask.as_ref().is_none_or(|mask| is_set(mask, row))
            };
            let all = 0..piece.len() as u32;
            let mut texts: Vec<u32> = all.clone().filter(takes_part).collect();
            if texts.is_empty() {
                continue;
            }
            // To score all texts together and drop some is faster than a list, unless most are dropped.
            let listed = 2 * texts.len() <= piece.len();
            if !listed {
                texts = all.collect();
            }
            let admitted = match &mask {
                Some(_) if !listed && selects_on(&self.device, k) => {
                    let bits = |texts: &[u32]| {
                        let which = texts.iter().zip(0..).filter(|(text, _)| takes_part(text));
                        which.fold(0, |bits, (_, bit)| bits | 1u32 << bit)
                    };
                    let words: Vec<u32> = texts.chunks(32).map(bits).collect();
                    Some(self.device.upload(&words)?)
                }
                _ => None,
            };
            let at_once = (self.options.scores / texts.len()).max(1);
            for first in (0..n_q).step_by(at_once) {
                let last = (first + at_once).min(n_q);
                let mut scores = self.device.alloc::<f32>((last - first) * texts.len())?;
                let list = if listed || last - first < n_q {
                    let pairs = (first as u32..last as u32)
                        .flat_map(|q| texts.iter().map(move |&c| [q, c]))
                        .collect();
                    Some(PairList::new(&self.device, pairs)?)
                } else {
                    None
                };
                maxsim(
                    queries.tokens(),
                    piece.tokens(),
                    self.d,
                    list.as_ref().map_or(Pairs::All, Pairs::Listed),
                    options.reduction,
                    &mut scores,
                    None,
                )?;
                if selects_on(&self.device, k) {
                    let admitted = admitted.as_ref().map(Buffer::as_slice);
                    let found = top_scores(&scores, texts.len(), admitted, k)?;
                    for (q, best) in best[first..last].iter_mut().enumerate() {
                        let scored = found.of(q).filter(|&(_, score)| score > f32::NEG_INFINITY);
                        best.extend(
                            scored.map(|(column, score)| {
                                (score, start as u32 + texts[column as usize])
                            }),
                        );
                        keep_best(best, k);
                    }
                    continue;
                }
                let scores = scores.read()?;
                for (best, scores) in best[first..last]
                    .iter_mut()
                    .zip(scores.chunks_exact(texts.len()))
                {
                    let scored = texts
                        .iter()
                        .zip(scores)
                        .filter(|(text, _)| takes_part(text));
                    best.extend(scored.map(|(&text, &score)| (score, start as u32 + text)));
                    keep_best(best, k);
                }
            }
        }
        let hit = |(score, row)| Hit {
            id: self.ids.of(row as usize),
            score,
        };
        let hits = |best: Vec<Scored>| best.into_iter().map(hit).collect();
        Ok(best.into_iter().map(hits).collect())
    }

    /// The piece that holds a text, and the text's number in it.
    pub(crate) fn place(&self, id: u64) -> Result<(usize, u32)> {
        let Some(row) = self.ids.row(id) else {
            let n = self.len();
            return Err(Error::Invalid(format!(
                "{OP}: none of its {n} texts has id {id}"
            )));
        };
        let piece = self.starts.partition_point(|&start| start <= row) - 1;
        Ok((piece, (row - self.starts[piece]) as u32))
    }

    /// A piece that [`TokenIndex::place`] found.
    pub(crate) fn piece(&self, piece: usize) -> &TokenVectors {
        &self.pieces[piece]
    }

    /// Removes texts; the number of those that were there. Their memory stays until [`TokenIndex::compact`]; their ids
    /// can be given to others.
    pub fn remove(&mut self, ids: &[u64]) -> usize {
        self.ids.remove(ids)
    }

    /// Frees the memory of removed texts and joins small pieces, so that an index that was appended to text by text is
    /// searched as fast as one made at once. Takes, until it is done, memory for a second copy of what is moved.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and device failures; the index is then as it was.
    pub fn compact(&mut self) -> Result<()> {
        let mut groups: Vec<Vec<(usize, Range<usize>)>> = Vec::new();
        let mut bytes = 0;
        for (at, texts) in self.live_runs() {
            let more = self.pieces[at].span(texts.clone()).len() * 2 * self.d;
            match groups.last_mut() {
                Some(group) if bytes + more <= self.piece_bytes() => {
                    group.push((at, texts));
                    bytes += more;
                }
                _ => {
                    groups.push(vec![(at, texts)]);
                    bytes = more;
                }
            }
        }
        let mut moved: Vec<Option<TokenVectors>> = Vec::with_capacity(groups.len());
        for group in &groups {
            let parts = group
                .iter()
                .map(|(at, texts)| (&self.pieces[*at], texts.clone()));
            let parts: Vec<Part<'_>> = parts.collect();
            // A piece that stays as it is is not copied.
            moved.push(match &parts[..] {
                [(piece, texts)] if texts.len() == piece.len() => None,
                parts => Some(TokenVectors::gather(&self.device, self.d, parts)?),
            });
        }
        let old = std::mem::take(&mut self.pieces);
        let mut old: Vec<Option<TokenVectors>> = old.into_iter().map(Some).collect();
        self.starts.clear();
        let mut start = 0;
        for (group, moved) in groups.iter().zip(moved) {
            let piece = moved.or_else(|| old[group[0].0].take());
            let piece = piece.expect("a piece that stays is in one group");
            self.starts.push(start);
            start += piece.len();
            self.pieces.push(piece);
        }
        self.ids.compact();
        Ok(())
    }

    /// The runs of texts that are there, each with the number of its piece.
    fn live_runs(&self) -> Vec<(usize, Range<usize>)> {
        let pieces = self.pieces.iter().zip(&self.starts).enumerate();
        pieces
            .flat_map(|(at, (piece, &start))| {
                let runs = self.ids.live_runs(start..start + piece.len());
                runs.into_iter().map(move |run| (at, run))
            })
            .collect()
    }

    fn piece_bytes(&self) -> usize {
        let most = self.options.piece_bytes.unwrap_or(READ_BYTES);
        most.min(PIECE_BYTES)
    }

    /// Writes the index to `path` (a safetensors file), removed texts left out, by way of a temporary file beside it, so
    /// that an interrupted run leaves either the old file or the new one.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, a full disk included.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (n, d) = (self.len(), self.d);
        let mut rows: Vec<f16> = Vec::new();
        let [mut means, mut centroids] = [(); 2].map(|()| Vec::<f16>::with_capacity(n * d));
        let mut offsets = vec![0u64];
        for (at, texts) in self.live_runs() {
            let piece = &self.pieces[at];
            let tokens = piece.span(texts.clone());
            let before = *offsets.last().expect("not empty");
            let ends = piece.packing.offsets()[texts.start + 1..=texts.end].iter();
            offsets.extend(ends.map(|&end| before + u64::from(end) - tokens.start as u64));
            rows.extend(piece.rows.read_range(tokens.start * d..tokens.end * d)?);
            let averages = texts.start * d..texts.end * d;
            means.extend(piece.means.read_range(averages.clone())?);
            centroids.extend(piece.centroids.read_range(averages)?);
        }
        let t = rows.len() / d;
        let [rows, means, centroids] =
            [&rows, &means, &centroids].map(|values| bytemuck::cast_slice(values));
        file::write(
            path.as_ref(),
            LAYOUT,
            &self.ids,
            &[
                ("rows", Dtype::F16, vec![t, d], rows),
                ("means", Dtype::F16, vec![n, d], means),
                ("centroids", Dtype::F16, vec![n, d], centroids),
                (
                    "offsets",
                    Dtype::U64,
                    vec![n + 1],
                    bytemuck::cast_slice(&offsets),
                ),
            ],
        )
    }

    /// Opens a saved index. On the CPU the file is mapped, not read: vectors come in as they are touched (so the file
    /// must not shrink meanwhile).
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Input`] if it is no complete index of this layout.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Self::open_with(path, device, IndexOptions::default())
    }

    /// [`TokenIndex::open`], using memory as `options` say.
    ///
    /// # Errors
    /// As [`TokenIndex::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        device: &Device,
        options: IndexOptions,
    ) -> Result<Self> {
        let file = IndexFile::open(path.as_ref(), LAYOUT, "build it again")?;
        let tensors = file.tensors()?;
        let (rows, t, d) = file.rows(&tensors, "rows")?;
        let [means, centroids] =
            ["means", "centroids"].map(|name| file.get(&tensors, name, Dtype::F16));
        let (means, centroids) = (means?, centroids?);
        let offsets = file.whole_numbers(&tensors, "offsets")?;
        let n = offsets.len().saturating_sub(1);
        if [&means, &centroids].iter().any(|a| a.shape() != [n, d])
            || offsets.first() != Some(&0)
            || offsets.last() != Some(&(t as u64))
            || offsets.windows(2).any(|w| w[0] > w[1])
        {
            return Err(
                file.refuse("its tensors do not fit together; build the index again".into())
            );
        }
        let ids = file.ids(&tensors, n)?;
        let mut index = Self::with_options(device, d, options)?;
        let mut first = 0;
        while first < n {
            // As many whole texts as make a piece, at least one.
            let begin = offsets[first];
            let most = (index.piece_bytes() / (2 * d)) as u64;
            let more = offsets[first + 1..].partition_point(|&end| end - begin <= most);
            let last = first + more.max(1);
            if offsets[last] - begin > u64::from(u32::MAX) {
                return Err(file.refuse(format!(
                    "text {first} has {} tokens; fewer than 2^32 can be searched",
                    offsets[last] - begin
                )));
            }
            let place = |view: &TensorView<'_>, from: usize, to: usize| match file.mapped(
                device,
                view,
                from * d,
                to * d,
            ) {
                Some(mapped) => Ok(mapped),
                None => device.upload(&read_f16(&view.data()[from * d * 2..to * d * 2])),
            };
            let local = offsets[first..=last].iter().map(|o| (o - begin) as u32);
            index.append(TokenVectors::from_parts(
                d,
                place(&rows, begin as usize, offsets[last] as usize)?,
                local.collect(),
                place(&means, first, last)?,
                place(&centroids, first, last)?,
            )?)?;
            first = last;
        }
        index.ids = ids;
        Ok(index)
    }
}

/// A score and the number of its text.
type Scored = (f32, u32);

/// Sorts the best `k` to the front and drops the rest.
fn keep_best(best: &mut Vec<Scored>, k: usize) {
    let order = |a: &Scored, b: &Scored| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if best.len() > k {
        best.select_nth_unstable_by(k - 1, order);
        best.truncate(k);
    }
    best.sort_unstable_by(order);
}

#[cfg(test)]
mod tests;
