//! From the patches of maps to scores.

use super::weights::{BEHIND, Table};
use super::{EPS, SIDE};
use crate::device::{Buffer, Device, Float, Slice};
use crate::encoder::Stream;
use crate::error::Result;
use crate::model::weights::{Linear, Norm, Weights};
use crate::ops::dropout::{Mask, Site};
use crate::ops::embedding::Tables;
use crate::ops::map_features::WindowLayout;
use crate::ops::matmul::Epilogue;
use crate::ops::matmul_nn::NnEpilogue;
use crate::ops::pool::Pooling;
use crate::ops::{
    Origins, PackedTexts, Places, TokenIds, TokenSegments, add_rows, attention_pool, dropout,
    embedding, layer_norm, matmul, matmul_nn, matmul_saving, pool,
};
use crate::verifier::layers::{SCORES, linear};
use crate::verifier::learned::PairMasks;
use crate::verifier::parameters::Tensors;

/// What a pass reads besides weights: where the patches of each pair are.
pub(in crate::verifier) struct Inputs {
    pub layout: WindowLayout,
    masks: Option<PairMasks>,
    /// `[t]`: the place in the picture and the kind of every row.
    pub ids: TokenIds,
    /// The first row of every pair, that of [CLS].
    pub first: Places,
    /// A row a pair, as it were texts of one token.
    pub singles: PackedTexts,
    /// Numbers of rows, for masks.
    origins: Option<[Origins; 2]>,
    /// For the gradients of what rows have in common.
    pub segments: Option<TokenSegments>,
}

impl Inputs {
    /// For the patches of `layout`; `keep` says whether there is to be a backward.
    pub fn new(
        device: &Device,
        layout: WindowLayout,
        masks: Option<PairMasks>,
        keep: bool,
    ) -> Result<Self> {
        let texts = layout.texts();
        let (mut places, mut kinds) = (Vec::with_capacity(texts.tokens()), Vec::new());
        for &[down, across] in layout.grids() {
            places.push(0);
            let patches = (0..down).flat_map(|i| (0..across).map(move |j| (i, j)));
            places.extend(patches.map(|(i, j)| 1 + i * SIDE as u32 + j));
            kinds.push(0);
            kinds.resize(places.len(), 1);
        }
        let first = Places::new(device, &texts.offsets()[..texts.texts()])?;
        let singles = PackedTexts::new(device, (0..=texts.texts() as u32).collect())?;
        let origins = match &masks {
            Some(masks) => Some([
                Origins::new(texts, &masks.numbers)?,
                Origins::new(&singles, &masks.numbers)?,
            ]),
            None => None,
        };
        Ok(Inputs {
            ids: TokenIds::new(device, &places, &kinds)?,
            first,
            segments: match keep {
                true => Some(TokenSegments::new(device, &places, &kinds)?),
                false => None,
            },
            layout,
            masks,
            singles,
            origins,
        })
    }

    /// Pairs.
    pub fn pairs(&self) -> usize {
        self.layout.texts().texts()
    }

    /// Rows, [CLS] included.
    pub fn rows(&self) -> usize {
        self.layout.texts().tokens()
    }

    /// What is dropped of all rows.
    pub fn of_rows(&self, site: Site) -> Option<(Mask, &Origins)> {
        let (masks, [rows, _]) = self.masks.as_ref().zip(self.origins.as_ref())?;
        Some((masks.at(site), rows))
    }

    /// What is dropped of the rows that are one a pair.
    pub fn of_pairs(&self, site: Site) -> Option<(Mask, &Origins)> {
        let (masks, [_, pairs]) = self.masks.as_ref().zip(self.origins.as_ref())?;
        Some((masks.at(site), pairs))
    }
}

/// What a backward reads of a pass: `t` rows of `p` pairs at width `d`.
pub(in crate::verifier) struct Saved<A: Float> {
    /// Sums of patch, kind and position, `[t, d]`.
    pub embedded: Buffer<f32>,
    /// `h`, `[t, d]`.
    pub h: Buffer<f32>,
    /// `y`, `[t, d]`.
    pub y: Stream,
    /// `y` of [CLS], `[p, d]`, and what becomes of it: `q`, `u`.
    pub first: Buffer<A>,
    pub query: Buffer<A>,
    pub keys: Buffer<A>,
    /// `[t]`.
    pub probabilities: Buffer<f32>,
    /// `[z | sum p]`, `[p, d + 8]`.
    pub mean: Buffer<A>,
    /// `Wv z + bv sum p`, `[p, d]`.
    pub value: Buffer<A>,
    /// `s` between the halves of the layer, `[p, d]`, and its norm.
    pub middle: Buffer<f32>,
    pub middle_norm: Stream,
    /// `[p, 32]`.
    pub before_inner: Buffer<A>,
    pub inner: Buffer<A>,
    /// What the layer makes of [CLS], `[p, d]`.
    pub output: Stream,
    /// `[p, d]`.
    pub before_head: Buffer<A>,
    pub head: Buffer<A>,
}

/// The scores of pairs before tanh, `[p, 8]` of which column 0 counts, given their patches, `[t, 192]`.
pub(in crate::verifier) fn forward<A: Float>(
    weights: &Weights<A, Tensors>,
    table: &Table,
    patches: Slice<'_, A>,
    inputs: &Inputs,
) -> Result<(Buffer<f32>, Saved<A>)> {
    let device = weights.device();
    let (d, t, p) = (table.d, inputs.rows(), inputs.pairs());
    let texts = inputs.layout.texts();

    let nothing = device.upload(&vec![A::from_f32(0.0); d])?;
    let tables = Tables {
        word: weights.matrix(table.positions),
        position: weights.matrix(table.kinds),
        token_type: nothing.as_slice(),
        d,
    };
    let mut constant = device.alloc::<f32>(t * d)?;
    embedding(&tables, &inputs.ids, &mut constant)?;
    let mut embedded = device.alloc::<f32>(t * d)?;
    let epilogue = Epilogue {
        residual: Some(constant.as_slice()),
        ..Epilogue::default()
    };
    let patch = weights.matrix(table.patch);
    matmul(patches, patch, &epilogue, &mut embedded, t, d)?;
    drop(constant);

    let mut h = norm::<A>(weights, &embedded, table.embedding_norm)?.h;
    if let Some((mask, origins)) = inputs.of_rows(Site::Embedding) {
        dropout(&mut h, d, mask, origins)?;
    }
    let y = norm::<A>(weights, &h, table.attention_norm)?;
    let mut first = device.alloc::<A>(p * d)?;
    pool(&y.h, texts, Pooling::First, false, &mut first)?;
    let query = linear(weights, first.as_slice(), table.query, p, d)?;
    let mut keys = device.alloc::<A>(p * d)?;
    let key = weights.matrix(table.key);
    matmul_nn(&query, key, &NnEpilogue::default(), &mut keys, p, d)?;
    let mut probabilities = device.alloc::<f32>(t)?;
    let mut mean = device.alloc::<A>(p * (d + BEHIND))?;
    attention_pool(
        keys.as_slice(),
        y.act(),
        texts,
        d,
        scale(d),
        inputs.of_rows(Site::Probabilities),
        Some(probabilities.as_slice_mut()),
        mean.as_slice_mut(),
    )?;
    let mut value = device.alloc::<A>(p * d)?;
    let values = weights.matrix(table.value);
    matmul(&mean, values, &Epilogue::default(), &mut value, p, d)?;

    let mut middle = device.alloc::<f32>(p * d)?;
    pool(&h, texts, Pooling::First, false, &mut middle)?;
    let mut branch = linear::<A, A>(weights, value.as_slice(), table.attention_out, p, d)?;
    drop_values(&mut branch, d, inputs.of_pairs(Site::AttentionOutput))?;
    add_rows(branch.as_slice(), d, None, middle.as_slice_mut(), None)?;

    let middle_norm = norm::<A>(weights, &middle, table.ff_norm)?;
    let (before_inner, mut inner) = gelu(weights, middle_norm.act(), table.ff_in, p, super::INNER)?;
    drop_values(
        &mut inner,
        super::INNER,
        inputs.of_pairs(Site::FeedForwardInner),
    )?;
    let mut branch = linear::<A, A>(weights, inner.as_slice(), table.ff_out, p, d)?;
    drop_values(&mut branch, d, inputs.of_pairs(Site::FeedForwardOutput))?;
    let mut output = Stream::alloc::<A>(device, p * d)?;
    output.h.copy_from(0, &middle)?;
    let rounded = output.rounded.as_mut().map(Buffer::as_slice_mut);
    add_rows(branch.as_slice(), d, None, output.h.as_slice_mut(), rounded)?;

    let (before_head, mut head) = gelu(weights, output.act(), table.head, p, d)?;
    drop_values(&mut head, d, inputs.of_pairs(Site::Head))?;
    let scores = linear(weights, head.as_slice(), table.score, p, SCORES)?;
    let saved = Saved {
        embedded,
        h,
        y,
        first,
        query,
        keys,
        probabilities,
        mean,
        value,
        middle,
        middle_norm,
        before_inner,
        inner,
        output,
        before_head,
        head,
    };
    Ok((scores, saved))
}

/// Of the products of queries and keys.
pub(super) fn scale(d: usize) -> f32 {
    (1.0 / (d as f64).sqrt()) as f32
}

/// A norm as operators take it.
pub(super) fn norm_of<'a, A: Float>(
    weights: &'a Weights<A, Tensors>,
    at: Norm,
) -> crate::ops::layer_norm::Norm<'a> {
    crate::ops::layer_norm::Norm {
        weight: weights.vector(at.weight),
        bias: Some(weights.vector(at.bias)),
        eps: EPS,
    }
}

fn norm<A: Float>(weights: &Weights<A, Tensors>, x: &Buffer<f32>, at: Norm) -> Result<Stream> {
    let mut y = Stream::alloc::<A>(weights.device(), x.len())?;
    let rounded = y.rounded.as_mut().map(Buffer::as_slice_mut);
    layer_norm::<A>(x, None, &norm_of(weights, at), &mut y.h, rounded)?;
    Ok(y)
}

/// A linear layer with GELU: what GELU takes, and what it gives.
fn gelu<A: Float>(
    weights: &Weights<A, Tensors>,
    x: Slice<'_, A>,
    layer: Linear,
    rows: usize,
    out: usize,
) -> Result<(Buffer<A>, Buffer<A>)> {
    let device = weights.device();
    let (mut before, mut y) = (device.alloc(rows * out)?, device.alloc(rows * out)?);
    let epilogue = Epilogue {
        bias: Some(weights.vector(layer.bias)),
        gelu: true,
        residual: None,
    };
    let weight = weights.matrix(layer.weight);
    matmul_saving(x, weight, &epilogue, &mut before, &mut y, rows, out)?;
    Ok((before, y))
}

/// Drops values of rows that are `d` wide, if any are dropped.
pub(super) fn drop_values<T: Float>(
    x: &mut Buffer<T>,
    d: usize,
    mask: Option<(Mask, &Origins)>,
) -> Result<()> {
    match mask {
        Some((mask, origins)) => dropout(x, d, mask, origins),
        None => Ok(()),
    }
}
