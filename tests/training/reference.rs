//! The encoder with its loss, forward and backward, as a chain of the operators' references: plain loops.
//!
//! In f64 it is what kernels are held to; in f32, with every tensor rounded to f16 that a device stores so, it shows how
//! far from that a plain program of the device's precision is.

use std::collections::BTreeMap;

use nearmiss::encoder::Dropout;
use nearmiss::model::{BertConfig, PoolingConfig};
use nearmiss::ops::dropout::{Mask, Site};
use nearmiss::ops::{
    Accum, attention, attention_backward, dropout, embedding, embedding_backward, info_nce,
    layer_norm, layer_norm_backward, matmul, matmul_nn, matmul_tn, pool, pool_backward,
};

/// Tensors under the names that they have in a checkpoint without a task head.
pub type Tensors = BTreeMap<String, Vec<f64>>;

/// A model in the memory of the host.
#[derive(Clone)]
pub struct Model {
    pub config: BertConfig,
    pub pooling: PoolingConfig,
    pub weights: Tensors,
}

/// The texts of a step, packed: anchors, positives, negatives, as many of each.
#[derive(Clone)]
pub struct Texts {
    pub ids: Vec<u32>,
    pub offsets: Vec<u32>,
}

impl Texts {
    pub fn triplets(&self) -> usize {
        (self.offsets.len() - 1) / 3
    }

    pub fn positions(&self) -> Vec<u32> {
        let spans = self.offsets.windows(2);
        spans.flat_map(|w| 0..w[1] - w[0]).collect()
    }
}

/// What a step is made with.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Of the cosines.
    pub scale: f32,
    /// Of the loss, undone in the results.
    pub loss_scale: f32,
    pub dropout: Option<Dropout>,
}

/// How a number is stored: what rounds activations, and the weights and gradients that products read.
pub type Round = fn(f64) -> f64;

/// The loss and its gradient.
pub fn step<A: Accum>(
    model: &Model,
    texts: &Texts,
    settings: &Settings,
    round: Round,
) -> (f64, Tensors) {
    let chain = Chain::<A>::new(model, texts, settings, round);
    let forward = chain.forward();
    let (loss, d_embeddings) = chain.loss(&forward.hidden);
    (loss, chain.backward(forward, &d_embeddings))
}

/// The loss alone.
pub fn loss<A: Accum>(model: &Model, texts: &Texts, settings: &Settings, round: Round) -> f64 {
    let chain = Chain::<A>::new(model, texts, settings, round);
    chain.loss(&chain.forward().hidden).0
}

/// A stream as the norms and as the products read it.
#[derive(Clone)]
struct Stream {
    h: Vec<f64>,
    rounded: Vec<f64>,
}

struct Layer {
    input: Stream,
    qkv: Vec<f64>,
    statistics: Vec<f64>,
    context: Vec<f64>,
    attended: Vec<f64>,
    middle: Stream,
    before_gelu: Vec<f64>,
    inner: Vec<f64>,
    outer: Vec<f64>,
}

struct Forward {
    embedded: Vec<f64>,
    layers: Vec<Layer>,
    hidden: Vec<f64>,
}

struct Chain<'a, A> {
    model: &'a Model,
    texts: &'a Texts,
    settings: &'a Settings,
    round: Round,
    /// The number of each text in the step.
    numbers: Vec<u32>,
    accumulator: std::marker::PhantomData<A>,
}

fn wide<A: Accum>(values: Vec<A>) -> Vec<f64> {
    values.into_iter().map(A::to_f64).collect()
}

const PARTS: [&str; 3] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
];

impl<'a, A: Accum> Chain<'a, A> {
    fn new(model: &'a Model, texts: &'a Texts, settings: &'a Settings, round: Round) -> Self {
        Chain {
            model,
            texts,
            settings,
            round,
            numbers: (0..texts.offsets.len() as u32 - 1).collect(),
            accumulator: std::marker::PhantomData,
        }
    }

    fn rounded(&self, values: Vec<A>) -> Vec<f64> {
        values
            .into_iter()
            .map(|v| (self.round)(v.to_f64()))
            .collect()
    }

    fn vector(&self, names: &[String], end: &str) -> Vec<f64> {
        let all = names
            .iter()
            .flat_map(|name| &self.model.weights[&format!("{name}.{end}")]);
        all.copied().collect()
    }

    /// As a product reads it.
    fn matrix(&self, names: &[String]) -> Vec<f64> {
        let values = self.vector(names, "weight").into_iter();
        values.map(|v| (self.round)(A::of(v).to_f64())).collect()
    }

    fn mask(&self, layer: usize, site: Site) -> Option<Mask> {
        let Dropout {
            hidden,
            attention,
            seed,
            step,
        } = self.settings.dropout?;
        let rate = if matches!(site, Site::Probabilities) {
            attention
        } else {
            hidden
        };
        Some(Mask::new(rate, seed, step, layer as u32, site))
    }

    fn dropped(&self, x: Vec<f64>, layer: usize, site: Site) -> Vec<A> {
        let d = self.model.config.d_model;
        match self.mask(layer, site) {
            Some(mask) => dropout::reference(&x, d, mask, &self.texts.offsets, &self.numbers),
            None => x.into_iter().map(A::of).collect(),
        }
    }

    fn probabilities(&self, layer: usize) -> Option<(Mask, &[u32])> {
        let mask = self.mask(layer, Site::Probabilities)?;
        Some((mask, self.numbers.as_slice()))
    }

    fn linear(&self, x: &[f64], names: &[String], gelu: bool) -> Vec<f64> {
        let bias = self.vector(names, "bias");
        let weight = self.matrix(names);
        self.rounded(matmul::reference::<A, f64>(
            x,
            &weight,
            Some(&bias),
            gelu,
            None,
            bias.len(),
        ))
    }

    fn norm(&self, x: &[f64], residual: Option<&[f64]>, name: &str) -> Stream {
        let [weight, bias] = ["weight", "bias"].map(|end| self.vector(&[name.into()], end));
        let eps = self.model.config.layer_norm_eps;
        let h = wide(layer_norm::reference::<A, f64>(
            x,
            residual,
            &weight,
            Some(&bias),
            eps,
        ));
        Stream {
            rounded: h.iter().map(|&v| (self.round)(v)).collect(),
            h,
        }
    }

    fn forward(&self) -> Forward {
        let config = &self.model.config;
        let (d, heads, width) = (config.d_model, config.n_heads, config.head_dim());
        let offsets = &self.texts.offsets;
        let tables = ["word", "position", "token_type"]
            .map(|table| self.matrix(&[format!("embeddings.{table}_embeddings")]));
        let tables = [&tables[0][..], &tables[1], &tables[2]];
        let (ids, positions) = (&self.texts.ids, self.texts.positions());
        let embedded = wide(embedding::reference::<A, f64>(tables, ids, &positions, d));
        let mut stream = self.norm(&embedded, None, "embeddings.LayerNorm");
        stream.h = wide(self.dropped(stream.h, 0, Site::Embedding));
        stream.rounded = self.rounded(self.dropped(stream.rounded, 0, Site::Embedding));
        let mut layers = Vec::new();
        for i in 0..config.n_layers {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let input = stream;
            let qkv = self.linear(&input.rounded, &PARTS.map(name), false);
            let dropped = self.probabilities(i);
            let (context, statistics) =
                attention::reference_saving::<A>(&qkv, offsets, heads, width, dropped);
            let context = self.rounded(context);
            let attended = self.linear(&context, &[name("attention.output.dense")], false);
            let attended = self.rounded(self.dropped(attended, i, Site::AttentionOutput));
            let after = name("attention.output.LayerNorm");
            let middle = self.norm(&input.h, Some(&attended), &after);
            let wider = [name("intermediate.dense")];
            let before_gelu = self.linear(&middle.rounded, &wider, false);
            let inner = self.linear(&middle.rounded, &wider, true);
            let outer = self.linear(&inner, &[name("output.dense")], false);
            let outer = self.rounded(self.dropped(outer, i, Site::FeedForwardOutput));
            stream = self.norm(&middle.h, Some(&outer), &name("output.LayerNorm"));
            layers.push(Layer {
                input,
                qkv,
                statistics: wide(statistics),
                context,
                attended,
                middle,
                before_gelu,
                inner,
                outer,
            });
        }
        Forward {
            embedded,
            layers,
            hidden: stream.h,
        }
    }

    /// The loss, and the gradient of the scaled loss in the embeddings.
    fn loss(&self, hidden: &[f64]) -> (f64, Vec<f64>) {
        let (d, b) = (self.model.config.d_model, self.texts.triplets());
        let (offsets, pooling) = (&self.texts.offsets, self.model.pooling.pooling);
        let unit = wide(pool::reference::<A, f64>(hidden, offsets, pooling, true, d));
        let (anchors, candidates) = unit.split_at(b * d);
        let Settings {
            scale, loss_scale, ..
        } = *self.settings;
        let all = info_nce::reference::<A, f64>(anchors, candidates, None, d, scale, loss_scale);
        let losses = wide(all.losses);
        let gradient = [wide(all.d_anchors), wide(all.d_candidates)].concat();
        (losses.iter().sum::<f64>() / b as f64, gradient)
    }

    fn backward(&self, forward: Forward, d_embeddings: &[f64]) -> Tensors {
        let config = &self.model.config;
        let (d, heads, width) = (config.d_model, config.n_heads, config.head_dim());
        let (offsets, pooling) = (&self.texts.offsets, self.model.pooling.pooling);
        let mut all = Tensors::new();
        let hidden = &forward.hidden;
        let mut g = wide(pool_backward::reference::<A, f64>(
            hidden,
            offsets,
            pooling,
            true,
            d,
            d_embeddings,
        ));
        for (i, layer) in forward.layers.iter().enumerate().rev() {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let after = name("output.LayerNorm");
            let s = self.norm_backward(&layer.middle.h, Some(&layer.outer), &after, &g, &mut all);
            let branch = self.rounded(self.dropped(self.stored(&s), i, Site::FeedForwardOutput));
            let [inward, outward] = ["intermediate.dense", "output.dense"].map(name);
            self.weight(
                &branch,
                &layer.inner,
                std::slice::from_ref(&outward),
                &mut all,
            );
            let d_inner = self.rounded(matmul_nn::reference::<A, f64>(
                &branch,
                &self.matrix(&[outward]),
                Some(&layer.before_gelu),
                None,
                config.d_ff,
            ));
            self.weight(
                &d_inner,
                &layer.middle.rounded,
                std::slice::from_ref(&inward),
                &mut all,
            );
            let weight = self.matrix(&[inward]);
            g = wide(matmul_nn::reference::<A, f64>(
                &d_inner,
                &weight,
                None,
                Some(&s),
                d,
            ));

            let after = name("attention.output.LayerNorm");
            let s = self.norm_backward(&layer.input.h, Some(&layer.attended), &after, &g, &mut all);
            let branch = self.rounded(self.dropped(self.stored(&s), i, Site::AttentionOutput));
            let out = [name("attention.output.dense")];
            self.weight(&branch, &layer.context, &out, &mut all);
            let weight = self.matrix(&out);
            let d_context = self.rounded(matmul_nn::reference::<A, f64>(
                &branch, &weight, None, None, d,
            ));
            let d_qkv = self.rounded(attention_backward::reference::<A>(
                &attention_backward::Inputs {
                    qkv: &layer.qkv,
                    context: &layer.context,
                    statistics: &layer.statistics,
                    d_context: &d_context,
                    offsets,
                    n_heads: heads,
                    head_dim: width,
                    dropped: self.probabilities(i),
                },
            ));
            let parts = PARTS.map(name);
            self.weight(&d_qkv, &layer.input.rounded, &parts, &mut all);
            let weight = self.matrix(&parts);
            g = wide(matmul_nn::reference::<A, f64>(
                &d_qkv,
                &weight,
                None,
                Some(&s),
                d,
            ));
        }
        let g = wide(self.dropped(g, 0, Site::Embedding));
        let first = "embeddings.LayerNorm";
        let dx = self.norm_backward(&forward.embedded, None, first, &g, &mut all);
        let rows = [config.vocab, config.max_positions, config.token_types];
        let positions = self.texts.positions();
        let tables =
            embedding_backward::reference::<A, f64>(&dx, &self.texts.ids, &positions, rows, d);
        for (table, gradient) in ["word", "position", "token_type"].into_iter().zip(tables) {
            all.insert(
                format!("embeddings.{table}_embeddings.weight"),
                wide(gradient),
            );
        }
        let factor = f64::from(self.settings.loss_scale);
        all.values_mut().flatten().for_each(|v| *v /= factor);
        all
    }

    /// A gradient of the stream as a product reads it.
    fn stored(&self, values: &[f64]) -> Vec<f64> {
        values.iter().map(|&v| (self.round)(v)).collect()
    }

    fn norm_backward(
        &self,
        x: &[f64],
        residual: Option<&[f64]>,
        name: &str,
        dy: &[f64],
        all: &mut Tensors,
    ) -> Vec<f64> {
        let weight = self.vector(&[name.into()], "weight");
        let eps = self.model.config.layer_norm_eps;
        let [dx, d_weight, d_bias] =
            layer_norm_backward::reference::<A, f64>(x, residual, &weight, eps, dy);
        all.insert(format!("{name}.weight"), wide(d_weight));
        all.insert(format!("{name}.bias"), wide(d_bias));
        wide(dx)
    }

    fn weight(&self, d_out: &[f64], input: &[f64], names: &[String], all: &mut Tensors) {
        let t = self.texts.ids.len();
        let (n, k) = (d_out.len() / t, input.len() / t);
        let zeros = vec![0f64; n * k];
        let (weight, bias) =
            matmul_tn::reference::<A, f64>(d_out, input, &zeros, &zeros[..n], n, k);
        let (weight, bias) = (wide(weight), wide(bias));
        let of = weight.chunks_exact(n * k / names.len());
        for ((name, weight), bias) in names.iter().zip(of).zip(bias.chunks_exact(n / names.len())) {
            all.insert(format!("{name}.weight"), weight.to_vec());
            all.insert(format!("{name}.bias"), bias.to_vec());
        }
    }
}
