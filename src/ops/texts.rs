//! Lists of numbers on a device that kernels index memory with: packed texts, places of rows, pairs of texts, owners of rows.
//!
//! A kernel cannot report an index that is out of its table, so these types are checked when they are made, and operators
//! hold their limits to the tables at hand.

use std::sync::Arc;

use crate::device::{Buffer, Device, Slice};
use crate::error::{Error, Result};
use crate::ops::check_device;

/// Packed texts: `t` tokens of `n` texts one behind the other, text `i` being rows `offsets[i] .. offsets[i + 1]`.
pub struct PackedTexts {
    offsets: Arc<[u32]>,
    on_device: Buffer<u32>,
}

impl PackedTexts {
    /// Checks `offsets` `[n + 1]` and places them on `device`.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not begin with 0 or fall anywhere. Empty texts are allowed.
    pub fn new(device: &Device, offsets: Vec<u32>) -> Result<Self> {
        if offsets.first() != Some(&0) || offsets.windows(2).any(|w| w[0] > w[1]) {
            return Err(Error::shape(
                "packed texts",
                "offsets",
                "0 first, then never falling",
                format!("{:?}", &offsets[..offsets.len().min(8)]),
            ));
        }
        Ok(PackedTexts {
            on_device: device.upload(&offsets)?,
            offsets: offsets.into(),
        })
    }

    /// Number of texts, `n`.
    pub fn texts(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of tokens of all texts, `t`.
    pub fn tokens(&self) -> usize {
        *self.offsets.last().expect("never empty") as usize
    }

    /// The offsets, `[n + 1]`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// The offsets, for who keeps what was made from them.
    pub(super) fn shared_offsets(&self) -> &Arc<[u32]> {
        &self.offsets
    }

    /// The device that holds the offsets.
    pub fn device(&self) -> &Device {
        self.on_device.device()
    }

    /// The rows of one text.
    pub fn rows(&self, text: usize) -> std::ops::Range<usize> {
        self.offsets[text] as usize..self.offsets[text + 1] as usize
    }

    /// Tokens of the longest text.
    pub fn longest(&self) -> usize {
        let lengths = self.offsets.windows(2).map(|w| w[1] - w[0]);
        lengths.max().unwrap_or(0) as usize
    }

    /// The offsets where kernels see them.
    pub(super) fn on_device(&self) -> Slice<'_, u32> {
        self.on_device.as_slice()
    }
}

/// Where the tokens of packed texts come from: of each its position in its text and the text's number in the whole batch,
/// which stay the same however the batch is packed.
pub struct Origins {
    /// Of the texts that it was made for.
    offsets: Arc<[u32]>,
    /// `[t, 2]`: position, number.
    on_device: Buffer<u32>,
}

impl Origins {
    /// Of `texts`, whose numbers in the batch are `numbers` `[n]`, on their device.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many numbers as texts, [`Error::OutOfMemory`] and device failures.
    pub fn new(texts: &PackedTexts, numbers: &[u32]) -> Result<Self> {
        if numbers.len() != texts.texts() {
            return Err(Error::shape(
                "origins",
                "numbers",
                texts.texts(),
                numbers.len(),
            ));
        }
        let mut places = Vec::with_capacity(2 * texts.tokens());
        for (span, &number) in texts.offsets.windows(2).zip(numbers) {
            places.extend((0..span[1] - span[0]).flat_map(|position| [position, number]));
        }
        Ok(Origins {
            offsets: texts.offsets.clone(),
            on_device: texts.device().upload(&places)?,
        })
    }

    /// Position and number of every token, `[t, 2]`, where kernels see them.
    pub(super) fn on_device(&self) -> Slice<'_, u32> {
        self.on_device.as_slice()
    }

    /// The same, if they are those of `texts`.
    pub(super) fn of(&self, op: &'static str, texts: &PackedTexts) -> Result<Slice<'_, u32>> {
        if !Arc::ptr_eq(&self.offsets, &texts.offsets) && self.offsets != texts.offsets {
            return Err(Error::shape(
                op,
                "origins",
                format!("those of these {} texts", texts.texts()),
                "others",
            ));
        }
        check_device(op, "origins", self.on_device.device(), texts.device())?;
        Ok(self.on_device())
    }
}

/// Rows of a matrix to be written, by their numbers, no two the same.
pub struct Places {
    on_device: Buffer<u32>,
    /// Rows that there must be at least.
    rows: usize,
}

impl Places {
    /// Places numbers on `device`.
    ///
    /// # Errors
    /// [`Error::Shape`] if one is named twice, [`Error::OutOfMemory`] and device failures.
    pub fn new(device: &Device, values: &[u32]) -> Result<Self> {
        // Most lists rise; only others are sorted to look for equal numbers.
        if !values.is_sorted_by(|a, b| a < b) {
            let mut sorted = values.to_vec();
            sorted.sort_unstable();
            if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
                return Err(Error::shape(
                    "places",
                    "values",
                    "no number twice",
                    format!("{} twice", twice[0]),
                ));
            }
        }
        Ok(Places {
            on_device: device.upload(values)?,
            rows: end(values),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.on_device.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.on_device.is_empty()
    }

    /// The numbers where kernels see them, if all are below `rows`.
    pub(super) fn among(&self, op: &'static str, rows: usize) -> Result<Slice<'_, u32>> {
        if self.rows > rows {
            return Err(Error::shape(
                op,
                "places",
                format!("below {rows}"),
                self.rows - 1,
            ));
        }
        Ok(self.on_device.as_slice())
    }
}

/// The tokens of packed texts on a device: ids of words, and each token's position in its text. They go there together.
pub struct TokenIds {
    /// `[t]` ids, rows of the word table; then, where views may begin, `[t]` positions, rows of the position table.
    on_device: Buffer<u32>,
    len: usize,
    /// Of either the largest number, and one more; 0 of none.
    ends: [usize; 2],
}

impl TokenIds {
    /// Places ids and positions, `[t]` each, on `device`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many of either.
    pub fn new(device: &Device, ids: &[u32], positions: &[u32]) -> Result<Self> {
        Ok(TokenIds {
            on_device: device.upload(&Self::both(ids, positions)?)?,
            len: ids.len(),
            ends: [end(ids), end(positions)],
        })
    }

    /// Overwrites all of them with as many others.
    ///
    /// # Errors
    /// [`Error::Shape`] for another count, or what the device reports.
    pub fn write(&mut self, ids: &[u32], positions: &[u32]) -> Result<()> {
        if ids.len() != self.len {
            return Err(Error::shape("token ids", "ids", self.len, ids.len()));
        }
        self.on_device.write(0, &Self::both(ids, positions)?)?;
        self.ends = [end(ids), end(positions)];
        Ok(())
    }

    /// Where the positions begin behind `t` ids: at a multiple of 256 bytes.
    fn second(t: usize) -> usize {
        t.next_multiple_of(64)
    }

    fn both(ids: &[u32], positions: &[u32]) -> Result<Vec<u32>> {
        if ids.len() != positions.len() {
            return Err(Error::shape(
                "token ids",
                "positions",
                ids.len(),
                positions.len(),
            ));
        }
        let mut both = Vec::with_capacity(Self::second(ids.len()) + ids.len());
        both.extend_from_slice(ids);
        both.resize(Self::second(ids.len()), 0);
        both.extend_from_slice(positions);
        Ok(both)
    }

    /// Number of tokens, `t`.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ids and positions where kernels see them, if there are tables of so many words and positions.
    pub(super) fn below(
        &self,
        op: &'static str,
        limits: [usize; 2],
    ) -> Result<[Slice<'_, u32>; 2]> {
        for ((what, end), limit) in ["ids", "positions"].into_iter().zip(self.ends).zip(limits) {
            if end > limit {
                return Err(Error::shape(op, what, format!("below {limit}"), end - 1));
            }
        }
        let second = Self::second(self.len);
        Ok([0, second].map(|start| self.on_device.slice(start..start + self.len)))
    }
}

/// The largest number, and one more; 0 of none.
fn end(values: &[u32]) -> usize {
    values.iter().max().map_or(0, |&max| max as usize + 1)
}

/// A list of (query, document) on a device.
pub struct PairList {
    pairs: Vec<[u32; 2]>,
    on_device: Buffer<u32>,
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
            on_device: device.upload(pairs.as_flattened())?,
            pairs,
            texts,
        })
    }

    /// Number of pairs, `p`.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The pairs.
    pub fn pairs(&self) -> &[[u32; 2]] {
        &self.pairs
    }

    /// The pairs where kernels see them, if there are so many queries and documents.
    pub(super) fn among(
        &self,
        op: &'static str,
        queries: usize,
        documents: usize,
    ) -> Result<Slice<'_, u32>> {
        if self.texts[0] > queries || self.texts[1] > documents {
            return Err(Error::shape(
                op,
                "pairs",
                format!("numbers of {queries} queries and {documents} documents"),
                format!("{} and {}", self.texts[0], self.texts[1]),
            ));
        }
        Ok(self.on_device.as_slice())
    }
}

/// Which candidates of a loss only one anchor sees, its own; all others are seen by every anchor.
pub struct OwnRows {
    /// `[m]`: the anchor, or [`OwnRows::EVERYBODY`].
    on_device: Buffer<u32>,
    /// The largest owner, and one more; 0 of none.
    anchors: usize,
    /// The first candidate whose owner has another number than itself.
    foreign: usize,
}

impl OwnRows {
    /// In place of an owner where there is none.
    pub(super) const EVERYBODY: u32 = u32::MAX;

    /// Places the owners of `m` candidates on `device`; `None` is a candidate for every anchor.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and device failures.
    pub fn new(device: &Device, owners: &[Option<u32>]) -> Result<Self> {
        let named: Vec<u32> = owners.iter().flatten().copied().collect();
        let foreign = (0u32..)
            .zip(owners)
            .position(|(row, owner)| owner.is_some_and(|owner| owner != row));
        let values: Vec<u32> = owners
            .iter()
            .map(|owner| owner.unwrap_or(Self::EVERYBODY))
            .collect();
        Ok(OwnRows {
            on_device: device.upload(&values)?,
            anchors: end(&named),
            foreign: foreign.unwrap_or(owners.len()),
        })
    }

    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.on_device.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.on_device.is_empty()
    }

    /// The owners where kernels see them, if all are below `anchors` and each anchor sees the candidate of its own number,
    /// its positive.
    pub(super) fn among(&self, op: &'static str, anchors: usize) -> Result<Slice<'_, u32>> {
        if self.anchors > anchors {
            return Err(Error::shape(
                op,
                "own",
                format!("owners below {anchors}"),
                self.anchors - 1,
            ));
        }
        if self.foreign < anchors {
            return Err(Error::shape(
                op,
                "own",
                "positives that their anchors see",
                format!("another owner of positive {}", self.foreign),
            ));
        }
        Ok(self.on_device.as_slice())
    }
}
