//! The forward pass: token ids to token vectors.
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

use half::f16;

use super::graphs::Inputs;
use super::params::{Linear, NormParams, Params};
use crate::device::{Buffer, Device, Float, Slice};
use crate::error::Result;
use crate::model::BertConfig;
use crate::ops::embedding::Tables;
use crate::ops::layer_norm::layer_norm;
use crate::ops::matmul::{Epilogue, matmul};
use crate::ops::{attention, embedding};

/// What a forward pass shows on its way: the stage and the residual stream `[t, d]`.
pub type Observer<'a> = &'a mut dyn FnMut(Stage, &Buffer<f32>) -> Result<()>;

/// A point of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// After the embedding's layer norm.
    Embedding,
    /// After layer number (from 0).
    Layer(usize),
}

/// The residual stream and, where activations are f16, its rounded copy.
struct Stream {
    h: Buffer<f32>,
    rounded: Option<Buffer<f16>>,
}

impl Stream {
    fn alloc<A: Float>(device: &Device, len: usize) -> Result<Self> {
        let half = A::TYPE.size() == 2;
        Ok(Stream {
            h: device.alloc(len)?,
            rounded: if half { Some(device.alloc(len)?) } else { None },
        })
    }

    /// The stream as an operand of a matrix product.
    fn act<A: Float>(&self) -> Slice<'_, A> {
        self.rounded
            .as_ref()
            .and_then(|b| b.as_slice().of_type())
            .or_else(|| self.h.as_slice().of_type())
            .expect("activations are f32, or f16 with a rounded copy")
    }
}

/// Runs the encoder over packed texts that are on the device; returns the last layer's token vectors `[t, d]`.
pub(super) fn forward<A: Float>(
    params: &Params<A>,
    config: &BertConfig,
    inputs: &Inputs,
    observe: Option<Observer<'_>>,
) -> Result<Buffer<f32>> {
    let pass = Pass {
        device: params.word.device(),
        config,
        t: inputs.ids.len(),
    };
    pass.run(params, inputs, observe)
}

struct Pass<'a> {
    device: &'a Device,
    config: &'a BertConfig,
    t: usize,
}

impl Pass<'_> {
    fn run<A: Float>(
        &self,
        params: &Params<A>,
        inputs: &Inputs,
        mut observe: Option<Observer<'_>>,
    ) -> Result<Buffer<f32>> {
        let (d, device) = (self.config.d_model, self.device);
        let mut x = device.alloc::<f32>(self.t * d)?;
        let tables = Tables {
            word: params.word.as_slice(),
            position: params.position.as_slice(),
            token_type: params.token_type.as_slice(),
            d,
        };
        embedding(&tables, &inputs.ids, &mut x)?;
        let mut stream = self.norm::<A>(&x, None, &params.embedding_norm)?;
        drop(x);
        let mut show = |stage, stream: &Stream| match &mut observe {
            Some(observe) => observe(stage, &stream.h),
            None => Ok(()),
        };
        show(Stage::Embedding, &stream)?;
        for (i, layer) in params.layers.iter().enumerate() {
            let qkv = self.linear(stream.act::<A>(), &layer.qkv, 3 * d, false)?;
            let mut context = device.alloc::<A>(self.t * d)?;
            attention(
                &qkv,
                &inputs.packing,
                &inputs.work,
                self.config.n_heads,
                self.config.head_dim(),
                &mut context,
            )?;
            drop(qkv);
            let attended = self.linear(context.as_slice(), &layer.attention_out, d, false)?;
            stream = self.norm(&stream.h, Some(&attended), &layer.attention_norm)?;
            let inner = self.linear(stream.act::<A>(), &layer.ff_in, self.config.d_ff, true)?;
            let outer = self.linear(inner.as_slice(), &layer.ff_out, d, false)?;
            stream = self.norm(&stream.h, Some(&outer), &layer.ff_norm)?;
            show(Stage::Layer(i), &stream)?;
        }
        Ok(stream.h)
    }

    fn linear<A: Float>(
        &self,
        x: Slice<'_, A>,
        layer: &Linear<A>,
        n: usize,
        gelu: bool,
    ) -> Result<Buffer<A>> {
        let mut out = self.device.alloc::<A>(self.t * n)?;
        let epilogue = Epilogue {
            bias: Some(layer.bias.as_slice()),
            gelu,
            residual: None,
        };
        matmul(x, &layer.weight, &epilogue, &mut out, self.t, n)?;
        Ok(out)
    }

    fn norm<A: Float>(
        &self,
        x: &Buffer<f32>,
        residual: Option<&Buffer<A>>,
        norm: &NormParams,
    ) -> Result<Stream> {
        let mut stream = Stream::alloc::<A>(self.device, x.len())?;
        let norm = norm.with_eps(self.config.layer_norm_eps);
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
