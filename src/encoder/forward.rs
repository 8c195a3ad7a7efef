//! The forward pass: token ids to hidden states.
//!
//! ```text
//! x = embedding(ids)                       f32 [t, d], the residual stream
//! h = layer_norm(x)
//! per layer:
//!   qkv = h Wqkv^T + b                     [t, 3 d]
//!   a   = attention(qkv)                   [t, d]
//!   h   = layer_norm(h + (a Wo^T + b))     the sum is part of the norm
//!   f   = gelu(h W1^T + b)                 [t, d_ff], GELU in the product's epilogue
//!   h   = layer_norm(h + (f W2^T + b))
//! ```
//!
//! Activations are f32 on the CPU and f16 on a GPU; `h` is kept in f32 in either case and, on a GPU, written a second
//! time in f16 by the same pass.
//!
//! A training drops values at four places: of the first `h`, of the attention's probabilities, and of what either half of
//! a layer adds to the stream.

use half::f16;

use super::graphs::Inputs;
use crate::device::{Buffer, Device, Float, Slice};
use crate::error::Result;
use crate::model::BertConfig;
use crate::model::weights::{Layer, Linear, Norm, Weights};
use crate::ops::attention::{Training, attention_saving};
use crate::ops::dropout::{Mask, Site};
use crate::ops::embedding::Tables;
use crate::ops::matmul::Epilogue;
use crate::ops::{Origins, attention, dropout, embedding, layer_norm, matmul, matmul_saving};
use crate::text::Batch;

/// What a forward pass shows on its way: the stage and the residual stream `[t, d]`.
pub type Observer<'a> = &'a mut (dyn FnMut(Stage, &Buffer<f32>) -> Result<()> + Send);

/// A point of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// After the embedding's layer norm.
    Embedding,
    /// After layer number (from 0).
    Layer(usize),
}

/// The residual stream and, where activations are f16, its rounded copy.
pub struct Stream {
    /// `[t, d]`.
    pub h: Buffer<f32>,
    /// `h` in f16, as the matrix products read it.
    pub rounded: Option<Buffer<f16>>,
}

impl Stream {
    pub(crate) fn alloc<A: Float>(device: &Device, len: usize) -> Result<Self> {
        let half = A::TYPE.size() == 2;
        Ok(Stream {
            h: device.alloc(len)?,
            rounded: if half { Some(device.alloc(len)?) } else { None },
        })
    }

    /// The stream as an operand of a matrix product.
    pub(crate) fn act<A: Float>(&self) -> Slice<'_, A> {
        self.rounded
            .as_ref()
            .and_then(|b| b.as_slice().of_type())
            .or_else(|| self.h.as_slice().of_type())
            .expect("activations are f32, or f16 with a rounded copy")
    }
}

/// What a training step drops: how much, and what the choice depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of the values dropped after the embedding and in what the halves of a layer add to the stream.
    pub hidden: f32,
    /// Share of the attention's probabilities.
    pub attention: f32,
    /// Of the training.
    pub seed: u64,
    /// Of the step: no two have the same masks.
    pub step: u64,
}

/// The dropout of a batch.
pub(super) struct Masks {
    dropout: Dropout,
    /// The numbers of its texts in the step.
    origins: Origins,
}

impl Masks {
    /// `None` if nothing is dropped.
    pub fn new(dropout: Dropout, inputs: &Inputs, batch: &Batch) -> Result<Option<Self>> {
        if dropout.hidden == 0.0 && dropout.attention == 0.0 {
            return Ok(None);
        }
        let origins = Origins::new(&inputs.texts, &batch.texts)?;
        Ok(Some(Masks { dropout, origins }))
    }

    /// What is dropped at a site of layer number (from 0), with what numbers the tokens; `None` for nothing.
    pub fn at(&self, layer: usize, site: Site) -> Option<(Mask, &Origins)> {
        let rate = match site {
            Site::Probabilities => self.dropout.attention,
            _ => self.dropout.hidden,
        };
        let Dropout { seed, step, .. } = self.dropout;
        let mask = Mask::new(rate, seed, step, layer as u32, site);
        (rate > 0.0).then_some((mask, &self.origins))
    }
}

/// What a backward pass reads of a forward pass, in the device's activation type.
pub enum Saved {
    /// Everything is f32.
    F32(SavedPass<f32>),
    /// Activations are f16, the residual stream is f32.
    Mixed(SavedPass<f16>),
}

/// What was computed on the way through the encoder: all that a norm, a product or the attention read.
pub struct SavedPass<A: Float> {
    /// Sum of the three table rows of each token, `[t, d]`.
    pub embedded: Buffer<f32>,
    /// Per layer.
    pub layers: Vec<SavedLayer<A>>,
}

/// What was computed on the way through a layer.
pub struct SavedLayer<A: Float> {
    /// The stream that the layer was given.
    pub input: Stream,
    /// The first half of the layer.
    pub attention: SavedAttention<A>,
    /// The stream between its halves.
    pub middle: Stream,
    /// The second half.
    pub feed_forward: SavedFeedForward<A>,
}

/// What was computed on the way through the attention of a layer.
pub struct SavedAttention<A: Float> {
    /// Queries, keys and values, `[t, 3 d]`.
    pub qkv: Buffer<A>,
    /// Logarithms of the sums of exponentials of the scores, `[t, n_heads]`.
    pub statistics: Buffer<f32>,
    /// The attention's output, `[t, d]`.
    pub context: Buffer<A>,
    /// What is added to the stream before the norm, `[t, d]`.
    pub branch: Buffer<A>,
}

/// What was computed on the way through the feed-forward part of a layer.
pub struct SavedFeedForward<A: Float> {
    /// Before GELU, `[t, d_ff]`.
    pub before_gelu: Buffer<A>,
    /// After GELU, `[t, d_ff]`.
    pub inner: Buffer<A>,
    /// What is added to the stream before the norm, `[t, d]`.
    pub branch: Buffer<A>,
}

/// Runs the encoder over packed texts that are on the device; returns the hidden states `[t, d]`.
pub(super) fn forward<A: Float>(
    weights: &Weights<A>,
    config: &BertConfig,
    inputs: &Inputs,
    masks: Option<&Masks>,
    observe: Option<Observer<'_>>,
) -> Result<Buffer<f32>> {
    let pass = Pass::new(weights, config, inputs, masks);
    Ok(pass.run(false, observe)?.0.h)
}

/// As [`forward`], and what a backward pass reads.
pub(super) fn forward_saving<A: Float>(
    weights: &Weights<A>,
    config: &BertConfig,
    inputs: &Inputs,
    masks: Option<&Masks>,
) -> Result<(Buffer<f32>, SavedPass<A>)> {
    let (stream, saved) = Pass::new(weights, config, inputs, masks).run(true, None)?;
    Ok((stream.h, saved.expect("asked for")))
}

struct Pass<'a, A: Float> {
    weights: &'a Weights<A>,
    config: &'a BertConfig,
    inputs: &'a Inputs,
    masks: Option<&'a Masks>,
    device: &'a Device,
    t: usize,
}

impl<'a, A: Float> Pass<'a, A> {
    fn new(
        weights: &'a Weights<A>,
        config: &'a BertConfig,
        inputs: &'a Inputs,
        masks: Option<&'a Masks>,
    ) -> Self {
        Pass {
            weights,
            config,
            inputs,
            masks,
            device: weights.device(),
            t: inputs.ids.len(),
        }
    }

    /// The whole encoder. What is not kept is given back as soon as nothing of this pass reads it any more.
    fn run(
        &self,
        keep: bool,
        mut observe: Option<Observer<'_>>,
    ) -> Result<(Stream, Option<SavedPass<A>>)> {
        let mut show = |stage, stream: &Stream| match &mut observe {
            Some(observe) => observe(stage, &stream.h),
            None => Ok(()),
        };
        let (mut stream, embedded) = self.embed()?;
        let embedded = keep.then_some(embedded);
        show(Stage::Embedding, &stream)?;
        let mut layers = Vec::new();
        for (i, layer) in self.weights.table().layers.iter().enumerate() {
            let (output, saved) = self.layer(i, layer, stream, keep)?;
            stream = output;
            layers.extend(saved);
            show(Stage::Layer(i), &stream)?;
        }
        let saved = embedded.map(|embedded| SavedPass { embedded, layers });
        Ok((stream, saved))
    }

    /// The first stream, and the sum of which it is the norm.
    fn embed(&self) -> Result<(Stream, Buffer<f32>)> {
        let d = self.config.d_model;
        let mut x = self.device.alloc::<f32>(self.t * d)?;
        let table = self.weights.table();
        let tables = Tables {
            word: self.weights.matrix(table.word),
            position: self.weights.matrix(table.position),
            token_type: self.weights.matrix(table.token_type),
            d,
        };
        embedding(&tables, &self.inputs.ids, &mut x)?;
        let mut stream = self.norm(&x, None, table.embedding_norm)?;
        self.drop(0, Site::Embedding, &mut stream.h)?;
        if let Some(rounded) = &mut stream.rounded {
            self.drop(0, Site::Embedding, rounded)?;
        }
        Ok((stream, x))
    }

    fn layer(
        &self,
        number: usize,
        layer: &Layer,
        input: Stream,
        keep: bool,
    ) -> Result<(Stream, Option<SavedLayer<A>>)> {
        let (middle, attention) = self.attend(number, layer, &input, keep)?;
        let first_half = keep.then_some((input, attention));
        let (output, feed_forward) = self.feed_forward(number, layer, &middle, keep)?;
        let saved = first_half
            .zip(feed_forward)
            .map(|((input, attention), feed_forward)| SavedLayer {
                input,
                attention,
                middle,
                feed_forward,
            });
        Ok((output, saved))
    }

    fn attend(
        &self,
        number: usize,
        layer: &Layer,
        input: &Stream,
        keep: bool,
    ) -> Result<(Stream, SavedAttention<A>)> {
        let (d, heads) = (self.config.d_model, self.config.n_heads);
        let qkv = self.linear(input.act(), layer.qkv, 3 * d)?;
        let mut context = self.device.alloc::<A>(self.t * d)?;
        let mask = self.mask(number, Site::Probabilities);
        let trained = keep || mask.is_some();
        let mut statistics = self
            .device
            .alloc(if trained { heads * self.t } else { 0 })?;
        let Inputs { texts, work, .. } = self.inputs;
        let width = self.config.head_dim();
        if trained {
            let training = Training {
                statistics: statistics.as_slice_mut(),
                mask,
            };
            attention_saving(&qkv, texts, work, heads, width, training, &mut context)?;
        } else {
            attention(&qkv, texts, work, heads, width, &mut context)?;
        }
        let mut branch = self.linear(context.as_slice(), layer.attention_out, d)?;
        self.drop(number, Site::AttentionOutput, &mut branch)?;
        let output = self.norm(&input.h, Some(&branch), layer.attention_norm)?;
        let saved = SavedAttention {
            qkv,
            statistics,
            context,
            branch,
        };
        Ok((output, saved))
    }

    fn feed_forward(
        &self,
        number: usize,
        layer: &Layer,
        input: &Stream,
        keep: bool,
    ) -> Result<(Stream, Option<SavedFeedForward<A>>)> {
        let n = self.config.d_ff;
        let mut before_gelu = None;
        let mut inner = self.device.alloc::<A>(self.t * n)?;
        let (weight, epilogue) = self.operands(layer.ff_in, true);
        if keep {
            let before = before_gelu.insert(self.device.alloc::<A>(self.t * n)?);
            matmul_saving(
                input.act(),
                weight,
                &epilogue,
                before,
                &mut inner,
                self.t,
                n,
            )?;
        } else {
            matmul(input.act(), weight, &epilogue, &mut inner, self.t, n)?;
        }
        let mut branch = self.linear(inner.as_slice(), layer.ff_out, self.config.d_model)?;
        self.drop(number, Site::FeedForwardOutput, &mut branch)?;
        let output = self.norm(&input.h, Some(&branch), layer.ff_norm)?;
        let saved = before_gelu.map(|before_gelu| SavedFeedForward {
            before_gelu,
            inner,
            branch,
        });
        Ok((output, saved))
    }

    /// What is dropped at a site; `None` for nothing.
    fn mask(&self, layer: usize, site: Site) -> Option<(Mask, &'a Origins)> {
        self.masks.and_then(|masks| masks.at(layer, site))
    }

    /// Drops values of `x` `[t, d]`, if any are dropped at this site.
    fn drop<T: Float>(&self, layer: usize, site: Site, x: &mut Buffer<T>) -> Result<()> {
        match self.mask(layer, site) {
            Some((mask, origins)) => dropout(x, self.config.d_model, mask, origins),
            None => Ok(()),
        }
    }

    /// The weight of a linear layer, and what happens to the product.
    fn operands(&self, layer: Linear, gelu: bool) -> (Slice<'a, A>, Epilogue<'a>) {
        let epilogue = Epilogue {
            bias: Some(self.weights.vector(layer.bias)),
            gelu,
            residual: None,
        };
        (self.weights.matrix(layer.weight), epilogue)
    }

    fn linear(&self, x: Slice<'_, A>, layer: Linear, n: usize) -> Result<Buffer<A>> {
        let mut out = self.device.alloc::<A>(self.t * n)?;
        let (weight, epilogue) = self.operands(layer, false);
        matmul(x, weight, &epilogue, &mut out, self.t, n)?;
        Ok(out)
    }

    fn norm(&self, x: &Buffer<f32>, residual: Option<&Buffer<A>>, norm: Norm) -> Result<Stream> {
        let mut stream = Stream::alloc::<A>(self.device, x.len())?;
        let norm = layer_norm::Norm {
            weight: self.weights.vector(norm.weight),
            bias: Some(self.weights.vector(norm.bias)),
            eps: self.config.layer_norm_eps,
        };
        layer_norm(
            x,
            residual.map(Buffer::as_slice),
            &norm,
            &mut stream.h,
            stream.rounded.as_mut().map(Buffer::as_slice_mut),
        )?;
        Ok(stream)
    }
}
