//! Texts as their token vectors on a device.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::check_width;
use super::scale::{length, near_unit, scale, towards_unit};
use crate::device::{Buffer, Device, DeviceKind, Slice, SliceMut};
use crate::encoder::{Encoder, why_not_finite};
use crate::error::{Error, Result};
use crate::ops::pool::{Pooling, pool};
use crate::ops::{PackedTexts, Places, Tokens, normalize_rows, runs, scatter_rows};
use crate::text::TextKind;

/// What errors call them.
const OP: &str = "token vectors";

/// Tokens of vectors from elsewhere that are on the device in f32 at a time, if texts are that short: some megabytes.
const STAGED: usize = 8192;

/// The token vectors of some texts in f16, with two averages of each text.
///
/// Everything that compares texts by the cosines of their tokens reads these: the rows have unit length, so that a
/// product of rows is a cosine. Made by [`TokenVectors::encode`], or from vectors of any origin by
/// [`TokenVectors::from_rows`].
///
/// Memory: `2 d (t + 2 n)` bytes for `n` texts of `t` tokens together.
pub struct TokenVectors {
    pub(crate) d: usize,
    /// `[t, d]`, unit length.
    pub(crate) rows: Buffer<f16>,
    pub(crate) packing: PackedTexts,
    /// `[n, d]`, unit length.
    pub(crate) means: Buffer<f16>,
    /// `[n, d]`.
    pub(crate) centroids: Buffer<f16>,
}

impl TokenVectors {
    /// From token vectors `[t, d]` of any length that f32 holds, `offsets` `[n + 1]` saying which rows are whose.
    ///
    /// # Errors
    /// [`Error::Shape`] for sizes that do not fit, [`Error::Text`] for one with a number that is not finite.
    ///
    /// ```
    /// use nearmiss::{Device, index::TokenVectors};
    /// let two_and_one = TokenVectors::from_rows(&Device::cpu(), &[0.5; 24], 8, vec![0, 2, 3])?;
    /// assert_eq!((two_and_one.len(), two_and_one.n_tokens()), (2, 3));
    /// # Ok::<(), nearmiss::Error>(())
    /// ```
    pub fn from_rows(device: &Device, rows: &[f32], d: usize, offsets: Vec<u32>) -> Result<Self> {
        check_width(OP, d)?;
        let packing = PackedTexts::new(device, offsets)?;
        if rows.len() != packing.tokens() * d {
            let expected = format!("{} x {d}", packing.tokens());
            return Err(Error::shape(OP, "rows", expected, rows.len()));
        }
        let offsets = packing.offsets();
        check_finite(rows, d, offsets)?;
        let lengths = offsets.windows(2).map(|w| (w[1] - w[0]) as usize);
        let mut builder = Builder::new(device, d, &lengths.collect::<Vec<_>>())?;
        for texts in runs(offsets, STAGED) {
            let part = &offsets[texts.start..texts.end + 1];
            let rows = &rows[part[0] as usize * d..part[texts.len()] as usize * d];
            let part: Vec<u32> = part.iter().map(|&token| token - part[0]).collect();
            let texts: Vec<usize> = texts.collect();
            builder.place_rows(rows, &PackedTexts::new(device, part)?, &texts)?;
        }
        builder.finish()
    }

    /// The token vectors of `texts`, special tokens and punctuation included, up to the encoder's own length limit.
    ///
    /// All of them are held at once; a corpus is encoded piece by piece by [`super::TokenIndex::append_texts`].
    ///
    /// # Errors
    /// As [`Encoder::encode_tokens`].
    pub fn encode<S: AsRef<str> + Sync>(
        encoder: &Encoder,
        texts: &[S],
        kind: TextKind,
    ) -> Result<Self> {
        Self::encode_within(encoder, texts, kind, None)
    }

    /// As [`TokenVectors::encode`], up to `max_length` tokens of a text where the encoder's limit is higher.
    ///
    /// # Errors
    /// As [`Encoder::encode_tokens`].
    pub fn encode_within<S: AsRef<str> + Sync>(
        encoder: &Encoder,
        texts: &[S],
        kind: TextKind,
        max_length: Option<usize>,
    ) -> Result<Self> {
        encoder.device().in_pool(|| {
            let mut pieces = Vec::new();
            let keep = |_, piece, _: &[f32]| {
                pieces.push(piece);
                Ok(())
            };
            encoder.encode_tokens(texts, kind, max_length, keep, |_, _| {})?;
            if pieces.len() == 1 {
                return Ok(pieces.remove(0));
            }
            let all: Vec<Part<'_>> = pieces.iter().map(|piece| (piece, 0..piece.len())).collect();
            Self::gather(encoder.device(), encoder.token_width(), &all)
        })
    }

    /// Texts of several, one behind the other.
    pub(super) fn gather(device: &Device, d: usize, parts: &[Part<'_>]) -> Result<Self> {
        let lengths: Vec<usize> = parts
            .iter()
            .flat_map(|(from, texts)| texts.clone().map(|text| from.span(text..text + 1).len()))
            .collect();
        let mut all = Builder::new(device, d, &lengths)?.vectors;
        let (mut text, mut token) = (0, 0);
        for (from, texts) in parts {
            let tokens = from.span(texts.clone());
            let (rows, averages) = (
                tokens.start * d..tokens.end * d,
                texts.start * d..texts.end * d,
            );
            all.rows.copy_from(token * d, from.rows.slice(rows))?;
            let means = from.means.slice(averages.clone());
            all.means.copy_from(text * d, means)?;
            let centroids = from.centroids.slice(averages);
            all.centroids.copy_from(text * d, centroids)?;
            (text, token) = (text + texts.len(), token + tokens.len());
        }
        Ok(all)
    }

    /// The tokens of some texts.
    pub(super) fn span(&self, texts: Range<usize>) -> Range<usize> {
        let [from, to] = [texts.start, texts.end].map(|at| self.packing.offsets()[at] as usize);
        from..to
    }

    pub(crate) fn from_parts(
        d: usize,
        rows: Buffer<f16>,
        offsets: Vec<u32>,
        means: Buffer<f16>,
        centroids: Buffer<f16>,
    ) -> Result<Self> {
        let device = rows.device().clone();
        Ok(TokenVectors {
            d,
            packing: PackedTexts::new(&device, offsets)?,
            rows,
            means,
            centroids,
        })
    }

    /// Number of texts, `n`.
    pub fn len(&self) -> usize {
        self.packing.texts()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of all texts, `t`.
    pub fn n_tokens(&self) -> usize {
        self.packing.tokens()
    }

    /// Width of a vector.
    pub fn width(&self) -> usize {
        self.d
    }

    /// The device that holds them.
    pub fn device(&self) -> &Device {
        self.rows.device()
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> u64 {
        self.rows.bytes() + self.means.bytes() + self.centroids.bytes()
    }

    /// The token vectors, of unit length.
    pub fn tokens(&self) -> Tokens<'_, f16> {
        Tokens {
            rows: self.rows.as_slice(),
            packing: &self.packing,
        }
    }

    /// `[n, d]`: per text the mean of its token vectors as they were, scaled to unit length: products are the cosines of
    /// mean-pooled embeddings.
    pub fn means(&self) -> Slice<'_, f16> {
        self.means.as_slice()
    }

    /// `[n, d]`: per text the mean of its *unit* token vectors, not scaled: the product of two is the mean of their similarity
    /// map, since `mean_ij q_i . c_j = (mean_i q_i) . (mean_j c_j)`.
    pub fn centroids(&self) -> Slice<'_, f16> {
        self.centroids.as_slice()
    }
}

/// Whether a row of this length may be squared in f32, and divided by its length, without loss.
fn is_ordinary(length: f64) -> bool {
    length == 0.0 || (2f64.powi(-20)..=2f64.powi(20)).contains(&length)
}

/// Rows `[t, d]`, all rows of a text scaled by the power of two that brings its longest near 1.
fn texts_near_unit(rows: &[f32], d: usize, offsets: &[u32]) -> Vec<f32> {
    let mut scaled = vec![0f32; rows.len()];
    for span in offsets.windows(2) {
        let text = span[0] as usize * d..span[1] as usize * d;
        let longest = rows[text.clone()].chunks(d).map(length).fold(0.0, f64::max);
        scale(
            &rows[text.clone()],
            towards_unit(longest),
            &mut scaled[text],
        );
    }
    scaled
}

/// Requires the rows `[t, d]` of all texts to be finite.
fn check_finite(rows: &[f32], d: usize, offsets: &[u32]) -> Result<()> {
    match rows.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let text = offsets.partition_point(|&first| first as usize <= at / d) - 1;
            let what = format!(
                "got token vectors that are not finite: element {} of token {} is {}",
                at % d,
                at / d - offsets[text] as usize,
                rows[at]
            );
            Err(Error::text(text, what))
        }
    }
}

/// Some texts of token vectors.
pub(super) type Part<'a> = (&'a TokenVectors, Range<usize>);

/// From hidden states `h` `[t, d]` the token vectors of texts `[t, d]`, and their means and centroids `[n, d]`; the lengths
/// of the rows of `h` go to `norms`.
fn unit_rows(
    h: &Buffer<f32>,
    d: usize,
    packing: &PackedTexts,
    rows: SliceMut<'_, f16>,
    [means, centroids]: [SliceMut<'_, f16>; 2],
    norms: Option<SliceMut<'_, f32>>,
) -> Result<()> {
    // In f32 once more, so that the centroid is an average of what was not rounded yet.
    let mut unit = h.device().alloc::<f32>(h.len())?;
    normalize_rows(h, d, rows, Some(unit.as_slice_mut()), norms)?;
    pool(&unit, packing, Pooling::Mean, false, centroids)?;
    pool(h, packing, Pooling::Mean, true, means)
}

/// Texts as places of a scattering.
fn places(device: &Device, texts: &[usize]) -> Result<Places> {
    let texts: Vec<u32> = texts.iter().map(|&text| text as u32).collect();
    Places::new(device, &texts)
}

/// Collects the token vectors of texts whose lengths are known, batch by batch, in any order.
pub(crate) struct Builder {
    vectors: TokenVectors,
}

impl Builder {
    pub fn new(device: &Device, d: usize, lengths: &[usize]) -> Result<Self> {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        let mut end = 0usize;
        offsets.push(0);
        for length in lengths {
            end += length;
            offsets.push(u32::try_from(end).map_err(|_| {
                Error::Invalid(format!(
                    "token vectors of {} texts have 2^32 rows or more; take fewer texts at once",
                    lengths.len()
                ))
            })?);
        }
        let n = lengths.len();
        Ok(Builder {
            vectors: TokenVectors::from_parts(
                d,
                device.alloc(end * d)?,
                offsets,
                device.alloc(n * d)?,
                device.alloc(n * d)?,
            )?,
        })
    }

    /// Takes the token vectors `[t, d]`, of any length and finite, of texts as [`Builder::place`] does.
    fn place_rows(&mut self, rows: &[f32], packing: &PackedTexts, texts: &[usize]) -> Result<()> {
        let (d, device) = (self.vectors.d, self.vectors.device().clone());
        if rows.par_chunks(d).all(|row| is_ordinary(length(row))) {
            return self.put(&device.upload(rows)?, packing, texts, None);
        }
        // Tokens count by their directions alone, but in a text's mean they count as long as they are.
        let each = near_unit(rows, d);
        self.put(&device.upload(&each)?, packing, texts, None)?;
        let whole = device.upload(&texts_near_unit(rows, d, packing.offsets()))?;
        let mut means = device.alloc::<f16>(texts.len() * d)?;
        pool(&whole, packing, Pooling::Mean, true, &mut means)?;
        scatter_rows(&means, d, &places(&device, texts)?, &mut self.vectors.means)
    }

    /// Takes the hidden states `h` `[t, d]` of a batch, whose text `i` is text `texts[i]` of the whole.
    pub fn place(&mut self, h: &Buffer<f32>, packing: &PackedTexts, texts: &[usize]) -> Result<()> {
        let t = packing.tokens();
        // A GPU is not waited for batch by batch; its activations in f16 leave no such rows finite.
        if t == 0 || h.device().kind() != DeviceKind::Cpu {
            return self.put(h, packing, texts, None);
        }
        let mut norms = h.device().alloc::<f32>(t)?;
        self.put(h, packing, texts, Some(norms.as_slice_mut()))?;
        // A length of zero may be one whose square f32 does not hold.
        let ordinary = |&norm: &f32| norm > 0.0 && is_ordinary(norm.into());
        if norms.read()?.iter().all(ordinary) {
            return Ok(());
        }
        let rows = h.read()?;
        match rows.iter().all(|v| v.is_finite()) {
            true => self.place_rows(&rows, packing, texts),
            // Told in the end.
            false => Ok(()),
        }
    }

    /// Takes hidden states whose lengths f32 squares without loss, and gives these lengths.
    fn put(
        &mut self,
        h: &Buffer<f32>,
        packing: &PackedTexts,
        texts: &[usize],
        norms: Option<SliceMut<'_, f32>>,
    ) -> Result<()> {
        let (d, device) = (self.vectors.d, h.device());
        let (t, n) = (packing.tokens(), packing.texts());
        let to = &mut self.vectors;
        if t == 0 {
            // The averages of nothing.
            let zeros = vec![f16::ZERO; d];
            for &text in texts {
                to.means.write(text * d, &zeros)?;
                to.centroids.write(text * d, &zeros)?;
            }
            return Ok(());
        }
        if texts.iter().copied().eq(0..n) {
            // They are where they belong.
            fn first(all: &mut Buffer<f16>, len: usize) -> SliceMut<'_, f16> {
                all.as_slice_mut().split_at_mut(len).0
            }
            let averages = [&mut to.means, &mut to.centroids].map(|all| first(all, n * d));
            return unit_rows(h, d, packing, first(&mut to.rows, t * d), averages, norms);
        }
        let mut rows = device.alloc::<f16>(t * d)?;
        let (mut means, mut centroids) = (device.alloc(n * d)?, device.alloc(n * d)?);
        let averages = [&mut means, &mut centroids].map(Buffer::as_slice_mut);
        unit_rows(h, d, packing, rows.as_slice_mut(), averages, norms)?;
        let tokens = packing
            .offsets()
            .windows(2)
            .zip(texts)
            .flat_map(|(span, &text)| {
                let first = to.packing.offsets()[text];
                first..first + (span[1] - span[0])
            });
        let tokens = Places::new(device, &tokens.collect::<Vec<u32>>())?;
        scatter_rows(&rows, d, &tokens, &mut to.rows)?;
        let texts = places(device, texts)?;
        scatter_rows(&means, d, &texts, &mut to.means)?;
        scatter_rows(&centroids, d, &texts, &mut to.centroids)
    }

    /// Ends the work; a text with a number that is not finite is an [`Error::Text`].
    pub fn finish(self) -> Result<TokenVectors> {
        // A token that is not finite makes its text's mean so; means are few.
        let means = self.vectors.means.read()?;
        if let Some(at) = means.iter().position(|v| !v.is_finite()) {
            return Err(Error::text(
                at / self.vectors.d,
                format!(
                    "got token vectors that are not finite on {}: {}",
                    self.vectors.device().name(),
                    why_not_finite(self.vectors.device())
                ),
            ));
        }
        Ok(self.vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_those_of_the_definition() {
        // Text 0: (3, 4, 0...) and (0, 2, 0...); text 1: (0, 0, 5, 0...).
        let cpu = Device::cpu();
        let mut rows = [0f32; 24];
        (rows[0], rows[1], rows[9], rows[18]) = (3.0, 4.0, 2.0, 5.0);
        let vectors = TokenVectors::from_rows(&cpu, &rows, 8, vec![0, 2, 3]).unwrap();
        let near = |got: &[f16], want: &[f32]| {
            for (got, want) in got.iter().zip(want) {
                assert!(
                    (got.to_f32() - want).abs() <= 2f32.powi(-11),
                    "{got} {want}"
                );
            }
        };
        near(&vectors.rows.read().unwrap()[..2], &[0.6, 0.8]);
        near(&vectors.rows.read().unwrap()[8..10], &[0.0, 1.0]);
        near(&vectors.centroids.read().unwrap()[..2], &[0.3, 0.9]);
        // The mean of the rows as they are, (1.5, 3), has length 3.3541.
        near(
            &vectors.means.read().unwrap()[..2],
            &[0.447_213_6, 0.894_427_2],
        );
        near(&vectors.means.read().unwrap()[8..11], &[0.0, 0.0, 1.0]);
    }

    #[test]
    fn texts_go_to_the_device_a_few_at_a_time() {
        let cpu = Device::cpu();
        // One of the runs is of a text that is longer than a run, and one of an empty text alone.
        let long = STAGED as u32 + 5;
        let (d, lengths) = (8, [3000u32, 5000, long, 0, long, 2, 0, 700, 8000]);
        let mut offsets = vec![0];
        offsets.extend(lengths.iter().scan(0, |end, &length| {
            *end += length;
            Some(*end)
        }));
        let t = offsets[lengths.len()] as usize;
        let mut random = crate::random::Stream::new(5, &["rows"], 0);
        let rows: Vec<f32> = (0..t * d).map(|_| random.unit() as f32 - 0.5).collect();
        let all = TokenVectors::from_rows(&cpu, &rows, d, offsets.clone()).unwrap();
        // Beside the vectors, what a run takes: in f32 twice, in f16 once, a few numbers a token, rounded up by an eighth.
        let staged = (4 + 4 + 2) * u64::from(long) * d as u64 + 16 * u64::from(long);
        let (peak, bytes) = (cpu.memory().peak, all.bytes());
        assert!(
            8 * peak <= 9 * (bytes + staged),
            "{peak}, {bytes}, {staged}"
        );
        let part =
            |of: &Buffer<f16>, from: usize, to: usize| of.read_range(from * d..to * d).unwrap();
        for (text, span) in offsets.windows(2).enumerate() {
            let (from, to) = (span[0] as usize, span[1] as usize);
            let own = &rows[from * d..to * d];
            let one = TokenVectors::from_rows(&cpu, own, d, vec![0, span[1] - span[0]]).unwrap();
            assert_eq!(part(&all.rows, from, to), one.rows.read().unwrap());
            assert_eq!(part(&all.means, text, text + 1), one.means.read().unwrap());
            assert_eq!(
                part(&all.centroids, text, text + 1),
                one.centroids.read().unwrap()
            );
        }
    }

    #[test]
    fn lengths_far_from_one_change_nothing() {
        let cpu = Device::cpu();
        let d = 16;
        let mut random = crate::random::Stream::new(7, &["rows"], 0);
        let rows: Vec<f32> = (0..5 * d).map(|_| random.unit() as f32 - 0.5).collect();
        let offsets = vec![0, 2, 2, 5];
        let all = |rows: &[f32]| {
            let made = TokenVectors::from_rows(&cpu, rows, d, offsets.clone()).unwrap();
            [&made.rows, &made.means, &made.centroids].map(|part| part.read().unwrap())
        };
        let plain = all(&rows);
        // A power of two is exact as long as no number is subnormal.
        for exponent in [-100, -30, 30, 100] {
            let by = 2f32.powi(exponent);
            let scaled: Vec<f32> = rows.iter().map(|v| v * by).collect();
            assert_eq!(all(&scaled), plain, "2^{exponent}");
        }
        // Tokens of one text that are 1e40 times as long as others: the mean is the long ones', each token keeps its own.
        let mut uneven = rows.clone();
        uneven[..d].iter_mut().for_each(|v| *v *= 2f32.powi(70));
        uneven[d..2 * d]
            .iter_mut()
            .for_each(|v| *v *= 2f32.powi(-63));
        let [tokens, means, centroids] = all(&uneven);
        assert_eq!((&tokens, &centroids), (&plain[0], &plain[2]));
        assert_eq!(means[..d], plain[0][..d]);
        assert_eq!(means[d..], plain[1][d..]);
        for (at, bad) in [
            (0, f32::NAN),
            (d, f32::INFINITY),
            (4 * d + 5, f32::NEG_INFINITY),
        ] {
            let mut rows = rows.clone();
            rows[at] = bad;
            let error = TokenVectors::from_rows(&cpu, &rows, d, offsets.clone());
            let error = error.err().unwrap().to_string();
            let text = if at < 2 * d {
                "text 0 got"
            } else {
                "text 2 got"
            };
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn hidden_states_far_from_unit_length_keep_their_directions() {
        let cpu = Device::cpu();
        let d = 16;
        let mut random = crate::random::Stream::new(9, &["rows"], 0);
        let rows: Vec<f32> = (0..5 * d).map(|_| random.unit() as f32 - 0.5).collect();
        let packing = PackedTexts::new(&cpu, vec![0, 3, 5]).unwrap();
        let made = |rows: &[f32], texts: &[usize], lengths: &[usize]| -> Result<_> {
            let mut builder = Builder::new(&cpu, d, lengths)?;
            builder.place(&cpu.upload(rows)?, &packing, texts)?;
            let made = builder.finish()?;
            Ok([&made.rows, &made.means, &made.centroids].map(|part| part.read().unwrap()))
        };
        for (texts, lengths) in [([0, 1], [3, 2]), ([1, 0], [2, 3])] {
            let plain = made(&rows, &texts, &lengths).unwrap();
            for exponent in [-100, -66, -30, 30, 83, 100] {
                let by = 2f32.powi(exponent);
                let scaled: Vec<f32> = rows.iter().map(|v| v * by).collect();
                let made = made(&scaled, &texts, &lengths).unwrap();
                assert_eq!(made, plain, "2^{exponent}");
            }
            // A row of nothing is one of nothing.
            let mut zero = rows.clone();
            zero[d..2 * d].fill(0.0);
            let at = (texts[0] * 2 + 1) * d;
            assert!(
                made(&zero, &texts, &lengths).unwrap()[0][at..at + d]
                    .iter()
                    .all(|v| *v == f16::ZERO)
            );
            let mut bad = rows.clone();
            bad[4 * d] = f32::INFINITY;
            let error = made(&bad, &texts, &lengths).err().unwrap().to_string();
            let says = format!("text {} got token vectors that are not finite", texts[1]);
            assert!(
                error.starts_with(&says) && error.ends_with("check the model"),
                "{error}"
            );
        }
    }

    #[test]
    fn refuses_sizes_and_numbers_that_make_no_sense() {
        let cpu = Device::cpu();
        let short = TokenVectors::from_rows(&cpu, &[0.5; 16], 8, vec![0, 2, 3]);
        assert!(short.err().unwrap().to_string().contains("3 x 8"));
        let mut rows = [0.5f32; 24];
        rows[17] = f32::NAN;
        let nan = TokenVectors::from_rows(&cpu, &rows, 8, vec![0, 2, 3]);
        assert!(nan.err().unwrap().to_string().starts_with("text 1 got"));
        // Nothing of the size that is claimed is allocated.
        assert!(TokenVectors::from_rows(&cpu, &[0.5; 8], 8, vec![0, u32::MAX]).is_err());
        for (d, offsets) in [
            (12, vec![0, 2]),
            (0, vec![0]),
            (1 << 40, vec![0]),
            (8, vec![]),
        ] {
            let rows = vec![0.5; d % 1000 * 2];
            assert!(TokenVectors::from_rows(&cpu, &rows, d, offsets).is_err());
        }
    }
}
