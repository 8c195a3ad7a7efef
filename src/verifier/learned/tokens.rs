//! Token vectors as a training compares them, and the gradient in them.

use half::f16;

use crate::device::{Buffer, Float, Precision};
use crate::error::Result;
use crate::ops::normalize_rows_backward::normalize_rows_backward;
use crate::ops::pool::Pooling;
use crate::ops::similarity_map_backward::similarity_map_backward;
use crate::ops::{
    MapLayout, PackedTexts, PairList, Tokens, add_rows, normalize_rows, pool, pool_backward,
    similarity_map,
};

/// The token vectors of texts as a training compares them.
pub struct TrainingTokens {
    d: usize,
    /// As the encoder left them, `[t, d]`.
    hidden: Buffer<f32>,
    pub(super) packing: PackedTexts,
    /// Of unit length, `[t, d]`.
    pub(super) exact: Buffer<f32>,
    /// The same, as products read them.
    pub(super) unit: Unit,
}

pub(super) enum Unit {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
}

impl TrainingTokens {
    /// From hidden states `[t, d]`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn new(hidden: Buffer<f32>, packing: PackedTexts, d: usize) -> Result<Self> {
        let device = hidden.device().clone();
        let mut exact = device.alloc::<f32>(hidden.len())?;
        let mut halves = device.alloc::<f16>(hidden.len())?;
        normalize_rows(&hidden, d, &mut halves, Some(exact.as_slice_mut()), None)?;
        let unit = match device.precision() {
            Precision::Mixed => Unit::F16(halves),
            Precision::F32 => {
                let mut copy = device.alloc::<f32>(exact.len())?;
                copy.copy_from(0, &exact)?;
                Unit::F32(copy)
            }
        };
        Ok(TrainingTokens {
            d,
            hidden,
            packing,
            exact,
            unit,
        })
    }

    /// Which rows are whose.
    pub fn packing(&self) -> &PackedTexts {
        &self.packing
    }

    /// The maps of pairs.
    pub(super) fn maps(&self, pairs: &PairList) -> Result<(MapLayout, Buffer<f32>)> {
        let device = self.hidden.device();
        let layout = MapLayout::new(device, &self.packing, &self.packing, pairs)?;
        let mut maps = device.alloc::<f32>(layout.elements())?;
        let packing = &self.packing;
        match &self.unit {
            Unit::F32(rows) => {
                let rows = rows.as_slice();
                let texts = Tokens { rows, packing };
                similarity_map(texts, texts, self.d, pairs, &layout, &mut maps)?;
            }
            Unit::F16(rows) => {
                let rows = rows.as_slice();
                let texts = Tokens { rows, packing };
                similarity_map(texts, texts, self.d, pairs, &layout, &mut maps)?;
            }
        }
        Ok((layout, maps))
    }

    /// Mean token vectors of unit length, `[n, d]`.
    pub(super) fn means(&self) -> Result<Buffer<f32>> {
        let mut means = (self.hidden.device()).alloc::<f32>(self.packing.texts() * self.d)?;
        pool(&self.hidden, &self.packing, Pooling::Mean, true, &mut means)?;
        Ok(means)
    }
}

/// The gradient in the token vectors of texts, as pairs add to it.
pub struct TokenGradient {
    d: usize,
    /// In unit vectors, `[t, d]`.
    unit: Option<Buffer<f32>>,
    /// In mean vectors of unit length, `[n, d]`.
    means: Option<Buffer<f32>>,
}

impl TokenGradient {
    /// None yet.
    pub fn new(tokens: &TrainingTokens) -> Self {
        TokenGradient {
            d: tokens.d,
            unit: None,
            means: None,
        }
    }

    /// Adds what pairs give to the sides of their maps.
    pub(super) fn add(
        &mut self,
        tokens: &TrainingTokens,
        pairs: &PairList,
        layout: &MapLayout,
        d_maps: &Buffer<f32>,
    ) -> Result<()> {
        let packing = &tokens.packing;
        let sides = match &tokens.unit {
            Unit::F32(rows) => both_sides(rows, packing, self.d, pairs, layout, d_maps)?,
            Unit::F16(rows) => both_sides(rows, packing, self.d, pairs, layout, d_maps)?,
        };
        accumulate(&mut self.unit, sides, self.d)
    }

    /// The same where pairs are scored by mean vectors: maps of one element.
    pub(super) fn add_means(
        &mut self,
        tokens: &TrainingTokens,
        pairs: &PairList,
        d_scores: &Buffer<f32>,
    ) -> Result<()> {
        let device = d_scores.device();
        let n = tokens.packing.texts() as u32;
        let singles = PackedTexts::new(device, (0..=n).collect())?;
        let layout = MapLayout::new(device, &singles, &singles, pairs)?;
        let means = tokens.means()?;
        let sides = match &tokens.unit {
            Unit::F32(_) => both_sides(&means, &singles, self.d, pairs, &layout, d_scores)?,
            Unit::F16(_) => {
                let mut halves = device.alloc::<f16>(means.len())?;
                pool(&means, &singles, Pooling::First, false, &mut halves)?;
                both_sides(&halves, &singles, self.d, pairs, &layout, d_scores)?
            }
        };
        accumulate(&mut self.means, sides, self.d)
    }

    /// The gradient in the hidden states, `[t, d]`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn finish(self, tokens: &TrainingTokens) -> Result<Buffer<f32>> {
        let (device, d) = (tokens.hidden.device(), self.d);
        let mut d_hidden = device.alloc::<f32>(tokens.hidden.len())?;
        if let Some(d_means) = &self.means {
            let hidden = &tokens.hidden;
            pool_backward(
                hidden,
                &tokens.packing,
                Pooling::Mean,
                true,
                d_means,
                &mut d_hidden,
            )?;
        } else if let Some(d_unit) = &self.unit {
            normalize_rows_backward(&tokens.hidden, d, d_unit, &mut d_hidden)?;
        } else {
            d_hidden.write(0, &vec![0.0; tokens.hidden.len()])?;
        }
        Ok(d_hidden)
    }
}

/// The gradients in both sides of maps.
fn both_sides<T: Float>(
    rows: &Buffer<T>,
    packing: &PackedTexts,
    d: usize,
    pairs: &PairList,
    layout: &MapLayout,
    d_maps: &Buffer<f32>,
) -> Result<[Buffer<f32>; 2]> {
    let device = rows.device();
    let texts = Tokens {
        rows: rows.as_slice(),
        packing,
    };
    let (mut queries, mut documents) = (device.alloc(rows.len())?, device.alloc(rows.len())?);
    similarity_map_backward(
        texts,
        texts,
        d,
        pairs,
        layout,
        d_maps,
        &mut queries,
        &mut documents,
    )?;
    Ok([queries, documents])
}

/// Adds both to a sum, which may be nothing yet.
fn accumulate(
    sum: &mut Option<Buffer<f32>>,
    [first, second]: [Buffer<f32>; 2],
    d: usize,
) -> Result<()> {
    let mut total = match sum.take() {
        Some(mut total) => {
            add_rows(&first, d, None, &mut total, None)?;
            total
        }
        None => first,
    };
    add_rows(&second, d, None, &mut total, None)?;
    *sum = Some(total);
    Ok(())
}
