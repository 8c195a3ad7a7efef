//! The backward pass: the gradient of a loss in the hidden states, to the gradient in every weight.
//!
//! What [`super::forward`] computes, in reverse order. Per layer, `h` being the stream between its halves, `x` the one that
//! it was given, `g` the gradient in its output:
//!
//! ```text
//! s  = layer_norm_backward(g)              of the sum h + f, f being what the second half added; drops as f did
//! dW2, db2 += s^T inner, sum s             inner = gelu(v)
//! u  = (s W2) gelu'(v)                     [t, d_ff]
//! dW1, db1 += u^T h, sum u
//! g  = u W1 + s                            the gradient in h
//! s  = layer_norm_backward(g)              of the sum x + a; drops as a did
//! dWo, dbo += s^T context, sum s
//! dqkv = attention_backward(s Wo)          [t, 3 d]
//! dWqkv, dbqkv += dqkv^T x, sum dqkv
//! g  = dqkv Wqkv + s                       the gradient in x
//! ```
//!
//! Gradients of the stream and of the weights are f32; the operands of products are f32 on the CPU and f16 on a GPU, where
//! the caller scales the loss so that they do not vanish. What was saved of a layer is given back when it was read.

use super::forward::{Masks, SavedAttention, SavedFeedForward, SavedLayer, SavedPass, Stream};
use super::graphs::Inputs;
use crate::device::{Buffer, Device, ElementType, Float, Slice};
use crate::error::Result;
use crate::model::BertConfig;
use crate::model::weights::{Gradients, Layer, Linear, Norm, Weights};
use crate::ops::attention_backward::{Forward, attention_backward};
use crate::ops::dropout::{Mask, Site};
use crate::ops::embedding_backward::{TableGradients, embedding_backward};
use crate::ops::matmul_nn::{NnEpilogue, matmul_nn};
use crate::ops::{Origins, TokenSegments, dropout, layer_norm, layer_norm_backward, matmul_tn};

/// The gradient in a sum that was normalised: as the stream has it and as a product reads it.
struct SumGradient<A: Float> {
    stream: Buffer<f32>,
    /// What the branch was given, dropped values among it; `None` if that is `stream`.
    branch: Option<Buffer<A>>,
}

impl<A: Float> SumGradient<A> {
    /// The gradient in what was added to the stream.
    fn branch(&self) -> Slice<'_, A> {
        self.branch
            .as_ref()
            .map(Buffer::as_slice)
            .or_else(|| self.stream.as_slice().of_type())
            .expect("there is a copy unless activations are f32")
    }
}

/// Adds the gradient in every weight to `gradients`, given the one in the hidden states, `[t, d]`.
pub(super) fn backward<A: Float>(
    weights: &Weights<A>,
    config: &BertConfig,
    inputs: &Inputs,
    masks: Option<&Masks>,
    segments: &TokenSegments,
    saved: SavedPass<A>,
    d_hidden: Buffer<f32>,
    gradients: &mut Gradients,
) -> Result<()> {
    let mut pass = Backward {
        weights,
        config,
        inputs,
        masks,
        device: weights.device(),
        t: inputs.ids.len(),
        gradients,
    };
    let table = weights.table();
    let mut gradient = d_hidden;
    let SavedPass { embedded, layers } = saved;
    for (i, (layer, saved)) in (table.layers.iter().zip(layers)).enumerate().rev() {
        gradient = pass.layer(i, layer, saved, gradient)?;
    }
    pass.embedding(&embedded, segments, gradient)
}

struct Backward<'a, A: Float> {
    weights: &'a Weights<A>,
    config: &'a BertConfig,
    inputs: &'a Inputs,
    masks: Option<&'a Masks>,
    device: &'a Device,
    t: usize,
    gradients: &'a mut Gradients,
}

impl<'a, A: Float> Backward<'a, A> {
    /// From the gradient in a layer's output to the one in its input.
    fn layer(
        &mut self,
        number: usize,
        layer: &Layer,
        saved: SavedLayer<A>,
        gradient: Buffer<f32>,
    ) -> Result<Buffer<f32>> {
        let SavedLayer {
            input,
            attention,
            middle,
            feed_forward,
        } = saved;
        let gradient = self.feed_forward(number, layer, &middle, feed_forward, gradient)?;
        drop(middle);
        self.attend(number, layer, &input, attention, gradient)
    }

    fn feed_forward(
        &mut self,
        number: usize,
        layer: &Layer,
        input: &Stream,
        saved: SavedFeedForward<A>,
        gradient: Buffer<f32>,
    ) -> Result<Buffer<f32>> {
        let SavedFeedForward {
            before_gelu,
            inner,
            branch,
        } = saved;
        let mask = self.mask(number, Site::FeedForwardOutput);
        let sum = self.norm(&input.h, Some(&branch), layer.ff_norm, gradient, mask)?;
        drop(branch);
        self.weight(layer.ff_out, sum.branch(), inner.as_slice())?;
        drop(inner);
        let mut d_inner = self.device.alloc::<A>(before_gelu.len())?;
        let epilogue = NnEpilogue {
            gelu_of: Some(before_gelu.as_slice()),
            residual: None,
        };
        let weight = self.weights.matrix(layer.ff_out.weight);
        let d_ff = self.config.d_ff;
        matmul_nn(sum.branch(), weight, &epilogue, &mut d_inner, self.t, d_ff)?;
        drop(before_gelu);
        self.weight(layer.ff_in, d_inner.as_slice(), input.act())?;
        self.input(layer.ff_in, d_inner.as_slice(), &sum.stream)
    }

    fn attend(
        &mut self,
        number: usize,
        layer: &Layer,
        input: &Stream,
        saved: SavedAttention<A>,
        gradient: Buffer<f32>,
    ) -> Result<Buffer<f32>> {
        let SavedAttention {
            qkv,
            statistics,
            context,
            branch,
        } = saved;
        let mask = self.mask(number, Site::AttentionOutput);
        let sum = self.norm(
            &input.h,
            Some(&branch),
            layer.attention_norm,
            gradient,
            mask,
        )?;
        drop(branch);
        self.weight(layer.attention_out, sum.branch(), context.as_slice())?;
        let d = self.config.d_model;
        let mut d_context = self.device.alloc::<A>(context.len())?;
        let weight = self.weights.matrix(layer.attention_out.weight);
        let plain = NnEpilogue::default();
        matmul_nn(sum.branch(), weight, &plain, &mut d_context, self.t, d)?;
        let mut d_qkv = self.device.alloc::<A>(qkv.len())?;
        let forward = Forward {
            qkv: qkv.as_slice(),
            context: context.as_slice(),
            statistics: statistics.as_slice(),
            mask: self.mask(number, Site::Probabilities),
            texts: &self.inputs.texts,
            work: &self.inputs.work,
            n_heads: self.config.n_heads,
            head_dim: self.config.head_dim(),
        };
        attention_backward(&forward, d_context.as_slice(), d_qkv.as_slice_mut())?;
        drop((qkv, statistics, context, d_context));
        self.weight(layer.qkv, d_qkv.as_slice(), input.act())?;
        self.input(layer.qkv, d_qkv.as_slice(), &sum.stream)
    }

    fn embedding(
        &mut self,
        embedded: &Buffer<f32>,
        segments: &TokenSegments,
        mut gradient: Buffer<f32>,
    ) -> Result<()> {
        let d = self.config.d_model;
        if let Some((mask, origins)) = self.mask(0, Site::Embedding) {
            dropout(&mut gradient, d, mask, origins)?;
        }
        let norm = self.weights.table().embedding_norm;
        let sum = self.norm(embedded, None, norm, gradient, None)?;
        let [word, position, token_type] = self.gradients.tables_mut();
        let tables = TableGradients {
            word,
            position,
            token_type,
            d,
        };
        embedding_backward(sum.stream.as_slice(), segments, tables)
    }

    /// The gradient in `x + residual`, given the one in its norm. The part of the residual is dropped as `mask` says.
    fn norm(
        &mut self,
        x: &Buffer<f32>,
        residual: Option<&Buffer<A>>,
        norm: Norm,
        gradient: Buffer<f32>,
        mask: Option<(Mask, &Origins)>,
    ) -> Result<SumGradient<A>> {
        let half = A::TYPE != ElementType::F32;
        let apart = residual.is_some() && (half || mask.is_some());
        let mut sum = SumGradient {
            stream: self.device.alloc(x.len())?,
            branch: if apart {
                Some(self.device.alloc(x.len())?)
            } else {
                None
            },
        };
        let of = layer_norm::Norm {
            weight: self.weights.vector(norm.weight),
            bias: Some(self.weights.vector(norm.bias)),
            eps: self.config.layer_norm_eps,
        };
        let [d_weight, d_bias] = self.gradients.norm_mut(norm);
        layer_norm_backward(
            x.as_slice(),
            residual.map(Buffer::as_slice),
            &of,
            gradient.as_slice(),
            sum.stream.as_slice_mut(),
            sum.branch.as_mut().map(Buffer::as_slice_mut),
            d_weight,
            d_bias,
        )?;
        if let (Some(branch), Some((mask, origins))) = (&mut sum.branch, mask) {
            dropout(branch, self.config.d_model, mask, origins)?;
        }
        Ok(sum)
    }

    /// Adds the gradients in weight and bias of a linear layer, given the one in its output and its input.
    fn weight(&mut self, layer: Linear, d_out: Slice<'_, A>, input: Slice<'_, A>) -> Result<()> {
        let (out, width) = (d_out.len() / self.t.max(1), input.len() / self.t.max(1));
        let (d_weight, d_bias) = self.gradients.linear_mut(layer);
        matmul_tn(d_out, input, d_weight, Some(d_bias), out, width)
    }

    /// The gradient in the stream that a linear layer read, given the one in its output and the one in the sum behind it.
    fn input(
        &self,
        layer: Linear,
        d_out: Slice<'_, A>,
        residual: &Buffer<f32>,
    ) -> Result<Buffer<f32>> {
        let d = self.config.d_model;
        let mut gradient = self.device.alloc(self.t * d)?;
        let epilogue = NnEpilogue {
            gelu_of: None,
            residual: Some(residual.as_slice()),
        };
        let weight = self.weights.matrix(layer.weight);
        matmul_nn(d_out, weight, &epilogue, &mut gradient, self.t, d)?;
        Ok(gradient)
    }

    /// What was dropped at a site; `None` for nothing.
    fn mask(&self, layer: usize, site: Site) -> Option<(Mask, &'a Origins)> {
        self.masks.and_then(|masks| masks.at(layer, site))
    }
}
