//! The token vectors of a corpus, searched by MaxSim.

use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, TensorView};

use super::file::{self, IndexFile, read_f16};
use super::{Hit, TokenVectors};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::maxsim::{Reduction, maxsim};
use crate::ops::{PairList, Pairs, check_device};
use crate::verifier::Verifier;

/// What the layout of a saved index is called; a file with another one is refused.
const LAYOUT: &str = "nearmiss-token-index-1";

/// Scores held at a time while searching; more queries than fit are searched in turns.
const SCORES: usize = 1 << 24;

/// Bytes of token vectors in one piece of device memory, when an index is read from a file.
const PIECE_BYTES: usize = 1 << 28;

/// The token vectors of a corpus in f16 on a device: searched exactly by MaxSim, and read by verifiers.
///
/// Texts are numbered in the order in which they were appended. Memory: `2 d` bytes per token and `4 d` per text;
/// searching takes a score per text and query besides, and never a similarity map.
///
/// ```
/// use nearmiss::{Device, ops::maxsim::Reduction, index::{TokenIndex, TokenVectors}};
/// let cpu = Device::cpu();
/// let axis = |at: usize| (0..8).map(move |i| if i == at { 1.0 } else { 0.0 });
/// let vectors = |axes: &[usize], offsets: &[u32]| {
///     let rows: Vec<f32> = axes.iter().copied().flat_map(axis).collect();
///     TokenVectors::from_rows(&cpu, &rows, 8, offsets.to_vec())
/// };
/// let mut index = TokenIndex::new(&cpu, 8);
/// index.append(vectors(&[0, 1, 2], &[0, 1, 3])?)?;
/// let found = index.search(&vectors(&[2, 0], &[0, 2])?, 2, Reduction::Mean)?;
/// // Both texts hold one of the two tokens that are asked for; the first comes first.
/// assert_eq!(found[0].iter().map(|hit| (hit.row, hit.score)).collect::<Vec<_>>(), [(0, 0.5), (1, 0.5)]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub struct TokenIndex {
    device: Device,
    d: usize,
    pieces: Vec<TokenVectors>,
    /// Number of the first text of each piece.
    starts: Vec<usize>,
}

impl TokenIndex {
    /// An empty index of vectors `d` wide.
    pub fn new(device: &Device, d: usize) -> Self {
        TokenIndex {
            device: device.clone(),
            d,
            pieces: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Adds texts behind those that are there.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width or another device.
    pub fn append(&mut self, vectors: TokenVectors) -> Result<()> {
        check_device("token index", "vectors", vectors.device(), &self.device)?;
        if vectors.d != self.d {
            return Err(Error::shape("token index", "width", self.d, vectors.d));
        }
        if !vectors.is_empty() {
            self.starts.push(self.len());
            self.pieces.push(vectors);
        }
        Ok(())
    }

    /// Width of a vector.
    pub fn width(&self) -> usize {
        self.d
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(TokenVectors::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Number of tokens of all texts.
    pub fn n_tokens(&self) -> usize {
        self.pieces.iter().map(TokenVectors::n_tokens).sum()
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(TokenVectors::bytes).sum()
    }

    /// The device that holds and searches it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The `k` texts with the largest MaxSim score for each query, best first, ties to the lowest number. Exact: every
    /// text is scored.
    ///
    /// # Errors
    /// [`Error::Shape`] for queries of another width or `k` = 0, or what the device reports.
    pub fn search(
        &self,
        queries: &TokenVectors,
        k: usize,
        reduction: Reduction,
    ) -> Result<Vec<Vec<Hit>>> {
        if k == 0 {
            return Err(Error::shape("token index", "k", "1 or more", 0));
        }
        if queries.d != self.d {
            return Err(Error::shape("token index", "queries", self.d, queries.d));
        }
        let n_q = queries.len();
        let mut best: Vec<Vec<Hit>> = vec![Vec::new(); n_q];
        for (piece, &start) in self.pieces.iter().zip(&self.starts) {
            let at_once = (SCORES / piece.len()).max(1);
            for first in (0..n_q).step_by(at_once) {
                let last = (first + at_once).min(n_q);
                let n = (last - first) * piece.len();
                let mut scores = self.device.alloc::<f32>(n)?;
                let (from, to) = (queries.tokens(), piece.tokens());
                if last - first == n_q {
                    maxsim(from, to, self.d, Pairs::All, reduction, &mut scores, None)?;
                } else {
                    let documents = 0..piece.len() as u32;
                    let list = (first as u32..last as u32)
                        .flat_map(|q| documents.clone().map(move |c| [q, c]))
                        .collect();
                    let list = PairList::new(&self.device, list)?;
                    let pairs = Pairs::Listed(&list);
                    maxsim(from, to, self.d, pairs, reduction, &mut scores, None)?;
                }
                let scores = scores.read()?;
                for (best, scores) in best[first..last]
                    .iter_mut()
                    .zip(scores.chunks_exact(piece.len()))
                {
                    best.extend(
                        (start as u32..)
                            .zip(scores)
                            .map(|(row, &score)| Hit { row, score }),
                    );
                    keep_best(best, k);
                }
            }
        }
        Ok(best)
    }

    /// The scores that `verifier` gives to `pairs` of a query and a text of the index, in their order.
    ///
    /// # Errors
    /// [`Error::Shape`] for a pair whose query or text is not there, or what the device reports.
    pub fn score(
        &self,
        verifier: &dyn Verifier,
        queries: &TokenVectors,
        pairs: &[[u32; 2]],
    ) -> Result<Vec<f32>> {
        let mut of_piece: Vec<Vec<usize>> = vec![Vec::new(); self.pieces.len()];
        for (i, &[_, c]) in pairs.iter().enumerate() {
            of_piece[self.piece_of(c)?].push(i);
        }
        let mut scores = vec![0.0; pairs.len()];
        for ((piece, &start), which) in self.pieces.iter().zip(&self.starts).zip(of_piece) {
            if which.is_empty() {
                continue;
            }
            let local = which.iter().map(|&i| {
                let [q, c] = pairs[i];
                [q, c - start as u32]
            });
            let list = PairList::new(&self.device, local.collect())?;
            for (&i, score) in which.iter().zip(verifier.score(queries, piece, &list)?) {
                scores[i] = score;
            }
        }
        Ok(scores)
    }

    /// The scores that `verifier` gives to `pairs` of texts of the index, the first of each being the query.
    ///
    /// # Errors
    /// As [`TokenIndex::score`].
    pub fn score_within(&self, verifier: &dyn Verifier, pairs: &[[u32; 2]]) -> Result<Vec<f32>> {
        let mut of_piece: Vec<Vec<usize>> = vec![Vec::new(); self.pieces.len()];
        for (i, &[q, _]) in pairs.iter().enumerate() {
            of_piece[self.piece_of(q)?].push(i);
        }
        let mut scores = vec![0.0; pairs.len()];
        for ((queries, &start), which) in self.pieces.iter().zip(&self.starts).zip(of_piece) {
            let local: Vec<[u32; 2]> = which
                .iter()
                .map(|&i| [pairs[i][0] - start as u32, pairs[i][1]])
                .collect();
            for (&i, score) in which.iter().zip(self.score(verifier, queries, &local)?) {
                scores[i] = score;
            }
        }
        Ok(scores)
    }

    /// The piece that holds a text.
    fn piece_of(&self, text: u32) -> Result<usize> {
        if text as usize >= self.len() {
            let expected = format!("texts below {}", self.len());
            return Err(Error::shape("token index", "pairs", expected, text));
        }
        Ok(self.starts.partition_point(|&s| s <= text as usize) - 1)
    }

    /// Writes the index to `path` (a safetensors file) by way of a temporary file beside it, so that an interrupted
    /// run leaves either the old file or the new one.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, a full disk included.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (t, n, d) = (self.n_tokens(), self.len(), self.d);
        let mut rows: Vec<f16> = Vec::with_capacity(t * d);
        let [mut means, mut centroids] = [(); 2].map(|()| Vec::<f16>::with_capacity(n * d));
        let mut offsets = vec![0u64];
        for piece in &self.pieces {
            let before = *offsets.last().expect("not empty");
            let ends = piece.packing.offsets()[1..].iter();
            offsets.extend(ends.map(|&end| before + u64::from(end)));
            rows.extend(piece.rows.read()?);
            means.extend(piece.means.read()?);
            centroids.extend(piece.centroids.read()?);
        }
        let [rows, means, centroids] =
            [&rows, &means, &centroids].map(|values| bytemuck::cast_slice(values));
        file::write(
            path,
            LAYOUT,
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
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let file = IndexFile::open(path, LAYOUT, "build it again")?;
        let tensors = file.tensors()?;
        let [rows, means, centroids] =
            ["rows", "means", "centroids"].map(|name| file.get(&tensors, name, Dtype::F16));
        let (rows, means, centroids) = (rows?, means?, centroids?);
        let offsets: Vec<u64> = file
            .get(&tensors, "offsets", Dtype::U64)?
            .data()
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
            .collect();
        let n = offsets.len().saturating_sub(1);
        let d = *rows.shape().last().unwrap_or(&0);
        let t = offsets.last().map_or(0, |&t| t as usize);
        if rows.shape() != [t, d]
            || [&means, &centroids].iter().any(|a| a.shape() != [n, d])
            || offsets.first() != Some(&0)
            || offsets.windows(2).any(|w| w[0] > w[1])
        {
            return Err(
                file.refuse("its tensors do not fit together; build the index again".into())
            );
        }
        let mut index = Self::new(device, d);
        let mut first = 0;
        while first < n {
            // As many whole texts as make a piece, at least one.
            let begin = offsets[first];
            let fits = |end: u64| (end - begin) as usize * d * 2 <= PIECE_BYTES;
            let last = (first + 1..=n)
                .take_while(|&last| fits(offsets[last]))
                .last()
                .unwrap_or(first + 1);
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
        Ok(index)
    }
}

/// Sorts the hits that matter to the front and drops the rest.
fn keep_best(hits: &mut Vec<Hit>, k: usize) {
    let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row));
    if hits.len() > k {
        hits.select_nth_unstable_by(k - 1, order);
        hits.truncate(k);
    }
    hits.sort_unstable_by(order);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::maxsim;
    use crate::verifier::MaxSim;

    const D: usize = 16;

    /// At most five products of 16 terms, whose magnitudes add up to 1 at most, each off by `17 * 2^-24` of that, and their sum.
    const TOLERANCE: f64 = 5.0 * (17.0 + 5.0) / 16_777_216.0;

    /// Texts of 1 to 5 tokens without a pattern.
    fn vectors(cpu: &Device, n: usize, seed: u32) -> (TokenVectors, Vec<Vec<f32>>) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 32768.0 - 1.0
        };
        let texts: Vec<Vec<f32>> = (0..n)
            .map(|i| (0..(1 + i % 5) * D).map(|_| next()).collect())
            .collect();
        let mut offsets = vec![0];
        for text in &texts {
            offsets.push(offsets.last().unwrap() + (text.len() / D) as u32);
        }
        let vectors = TokenVectors::from_rows(cpu, &texts.concat(), D, offsets).unwrap();
        // What is compared with is what is stored.
        let rows: Vec<f32> = vectors
            .rows
            .read()
            .unwrap()
            .iter()
            .map(|v| v.to_f32())
            .collect();
        let bounds = vectors.packing.offsets().windows(2);
        let stored = bounds
            .map(|w| rows[w[0] as usize * D..w[1] as usize * D].to_vec())
            .collect();
        (vectors, stored)
    }

    fn index(cpu: &Device, parts: &[(usize, u32)]) -> (TokenIndex, Vec<Vec<f32>>) {
        let mut index = TokenIndex::new(cpu, D);
        let mut all = Vec::new();
        for &(n, seed) in parts {
            let (part, stored) = vectors(cpu, n, seed);
            index.append(part).unwrap();
            all.extend(stored);
        }
        (index, all)
    }

    #[test]
    fn search_finds_what_an_exhaustive_reference_finds() {
        let cpu = Device::cpu();
        let (index, stored) = index(&cpu, &[(40, 1), (0, 9), (7, 2), (25, 3)]);
        let (queries, asked) = vectors(&cpu, 9, 4);
        // Five texts have 15 tokens; of seven, the last two have 1 and 2.
        assert_eq!(
            (index.len(), index.n_tokens()),
            (72, 8 * 15 + 15 + 3 + 5 * 15)
        );
        for (k, reduction) in [
            (1, Reduction::Mean),
            (10, Reduction::Sum),
            (500, Reduction::Mean),
        ] {
            let found = index.search(&queries, k, reduction).unwrap();
            for (hits, query) in found.iter().zip(&asked) {
                let mut exact: Vec<(f64, usize)> = stored
                    .iter()
                    .map(|text| maxsim::reference::<f64>(query, text, D, reduction).0)
                    .zip(0..)
                    .collect();
                exact.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                assert_eq!(hits.len(), k.min(72));
                for (hit, (score, row)) in hits.iter().zip(exact) {
                    assert_eq!(hit.row as usize, row);
                    assert!((f64::from(hit.score) - score).abs() < TOLERANCE);
                }
            }
        }
    }

    #[test]
    fn a_saved_index_is_the_same_index() {
        let cpu = Device::cpu();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.safetensors");
        let (index, _) = index(&cpu, &[(30, 5), (31, 6)]);
        let (queries, _) = vectors(&cpu, 6, 7);
        index.save(&path).unwrap();
        let mut opened = TokenIndex::open(&path, &cpu).unwrap();
        let search = |index: &TokenIndex| index.search(&queries, 12, Reduction::Mean).unwrap();
        assert_eq!(search(&opened), search(&index));
        let pairs: Vec<[u32; 2]> = (0..61).map(|c| [c % 6, 60 - c]).collect();
        for name in ["none", "f0", "f1", "f2"] {
            let verifier = crate::verifier::by_name(name, Default::default()).unwrap();
            assert_eq!(
                opened.score(&*verifier, &queries, &pairs).unwrap(),
                index.score(&*verifier, &queries, &pairs).unwrap()
            );
        }
        opened.append(vectors(&cpu, 3, 8).0).unwrap();
        assert_eq!(opened.len(), 64);
    }

    #[test]
    fn scores_come_back_in_the_order_of_their_pairs() {
        let cpu = Device::cpu();
        let (index, stored) = index(&cpu, &[(5, 1), (4, 2)]);
        let (queries, asked) = vectors(&cpu, 2, 3);
        let pairs = [[1, 8], [0, 0], [1, 4], [0, 5], [1, 8]];
        let scores = index.score(&MaxSim, &queries, &pairs).unwrap();
        for (score, [q, c]) in scores.iter().zip(pairs) {
            let (query, text) = (&asked[q as usize], &stored[c as usize]);
            let (exact, _) = maxsim::reference::<f64>(query, text, D, Reduction::Mean);
            assert!((f64::from(*score) - exact).abs() < TOLERANCE);
        }
        let error = index.score(&MaxSim, &queries, &[[0, 9]]).unwrap_err();
        assert!(error.to_string().contains("texts below 9"), "{error}");
    }

    #[test]
    fn damaged_files_are_refused_in_one_line() {
        let cpu = Device::cpu();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.safetensors");
        let (index, _) = index(&cpu, &[(5, 1)]);
        index.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
        let refused = |path: &Path| {
            let error = TokenIndex::open(path, &cpu).err().unwrap().to_string();
            assert!(!error.contains('\n'));
            error
        };
        assert!(refused(&path).contains("not a complete index file"));
        let other = bytes.iter().position(|&b| b == b'1').unwrap();
        let text = String::from_utf8_lossy(&bytes[..other]);
        assert!(text.contains("nearmiss-token-index-"), "{text}");
        let mut changed = bytes.clone();
        changed[other] = b'7';
        std::fs::write(&path, &changed).unwrap();
        assert!(refused(&path).contains("layout `nearmiss-token-index-7`"));
    }

    #[test]
    fn mixed_widths_are_refused() {
        let cpu = Device::cpu();
        let (mut index, _) = index(&cpu, &[(5, 1)]);
        let narrow = TokenVectors::from_rows(&cpu, &[1.0; 8], 8, vec![0, 1]).unwrap();
        assert!(index.search(&narrow, 1, Reduction::Sum).is_err());
        assert!(
            index
                .search(&vectors(&cpu, 1, 1).0, 0, Reduction::Sum)
                .is_err()
        );
        assert!(index.append(narrow).is_err());
    }
}
