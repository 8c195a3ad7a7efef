//! Scorers whose weights are learned, or through which an encoder learns: from token vectors to scores, and back.
//!
//! ```text
//! unit token vectors -> similarity_map -> map_features -> f3, f4 -> score
//!                    -> maxsim, soft_alignment, means: f1, f2, f0, none
//! ```
//!
//! The way back ends at the hidden states of the encoder: the gradient in the maps, in the unit vectors of both sides
//! ([`similarity_map_backward`](mod@crate::ops::similarity_map_backward)), and through the normalisation.

mod kind;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use half::f16;

pub use kind::Kind;
use tokens::Unit;
pub use tokens::{TokenGradient, TrainingTokens};

use super::cnn::forward::{Running, Statistics};
use super::cnn::weights::CHANNELS;
use super::layers::SCORES;
use super::parameters::{Parameters, Part, Start, Stored, Tensors};
use super::transformer::forward::{Inputs, Saved, forward};
use super::transformer::{self, backward::backward};
use super::{Scorer, VerifierOptions, cnn};
use crate::device::{Buffer, Device, Float, Precision, Slice};
use crate::error::{Error, Result};
use crate::index::TokenVectors;
use crate::model::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::model::weights::{Builder, Gradients, Group, Trainable, Vector, Weights, Working};
use crate::ops::dropout::{Mask, Site};
use crate::ops::map_features::{WindowLayout, map_features};
use crate::ops::map_features_backward::map_features_backward;
use crate::ops::map_pool_backward::{MapPooling, map_pool_backward};
use crate::ops::maxsim::{Reduction, maxsim};
use crate::ops::pool::Pooling;
use crate::ops::soft_alignment::soft_alignment;
use crate::ops::{MapLayout, PairList, Pairs, Tokens, pair_dot, pool, similarity_map};
use crate::random::Stream;

/// What a step drops, pair by pair.
#[derive(Clone)]
pub struct PairMasks {
    /// Of the training.
    pub seed: u64,
    /// Of the step.
    pub step: u64,
    /// Share of the values.
    pub rate: f32,
    /// The numbers of the pairs in the step, by which masks go.
    pub numbers: Arc<[u32]>,
}

impl PairMasks {
    /// What is dropped at a site.
    pub fn at(&self, site: Site) -> Mask {
        let seed = Stream::new(self.seed, &["verifier"], 0).bits();
        Mask::new(self.rate, seed, self.step, 0, site)
    }
}

/// A scorer with its weights.
pub struct Learned {
    kind: Kind,
    d: usize,
    device: Device,
    pub(super) parameters: Parameters,
    body: Body,
    /// Scale and bias of a score before a sigmoid; what a training by binary cross-entropy learns beside.
    objective: Vector,
    /// Whether maxima reach into the padding of a batch.
    padded: bool,
    /// Pairs so far whose map was cut.
    cut: AtomicUsize,
}

enum Body {
    Plain,
    Cnn(cnn::weights::Table, Mutex<Running>),
    Transformer(transformer::weights::Table),
}

/// How pairs go through a scorer.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// To be scored: nothing is dropped, and batch norms have the statistics that training left.
    Eval,
    /// To be learned from: batch norms have the statistics of these pairs.
    Training {
        /// What is dropped.
        masks: Option<&'a PairMasks>,
        /// Whether running statistics take note: not of pairs that are computed again.
        note: bool,
    },
}

impl<'a> Mode<'a> {
    fn masks(self) -> Option<&'a PairMasks> {
        match self {
            Mode::Eval => None,
            Mode::Training { masks, .. } => masks,
        }
    }
}

/// Scale and bias of a score before its sigmoid, at the start of a training.
const OBJECTIVE: [f32; 2] = [10.0, 0.0];

/// The channels of the `f3` in a file: those of the paper unless it says that it has others, in multiples of 8.
fn channels(checkpoint: &Checkpoint) -> [usize; 3] {
    let mut found = CHANNELS;
    for (name, tensor) in checkpoint.tensors() {
        let names = ["conv1.weight", "conv2.weight", "head.0.weight"];
        let place = names.iter().position(|known| *known == name);
        if let (Some(at), Some(&out)) = (place, tensor.shape.first())
            && out > 0
            && out.is_multiple_of(8)
        {
            found[at] = out;
        }
    }
    found
}

/// The layout of a kind at a width; `f3` has so many channels.
fn tensors(kind: Kind, d: usize, channels: [usize; 3]) -> (Tensors, Body, Vector) {
    let mut builder = Builder::default();
    let (body, mut stored) = match kind {
        Kind::Cnn => {
            let table = cnn::weights::Table::new(&mut builder, channels);
            let stored = table.stored();
            (
                Body::Cnn(table, Mutex::new(Running::start(channels))),
                stored,
            )
        }
        Kind::Transformer => {
            let table = transformer::weights::Table::new(&mut builder, d);
            let stored = table.stored();
            (Body::Transformer(table), stored)
        }
        _ => {
            // So that neither of the two buffers is empty.
            builder.matrix(Vec::new(), 1, 8);
            (Body::Plain, Vec::new())
        }
    };
    let objective = builder.vector(Vec::new(), 8);
    for (i, name) in ["objective.scale", "objective.bias"]
        .into_iter()
        .enumerate()
    {
        let place = Part::whole(Group::Vectors, objective.start + i, 1, 1);
        let start = Start::Constant(OBJECTIVE[i]);
        stored.push(Stored::new(name, vec![1], start, place));
    }
    (Tensors::new(builder, stored), body, objective)
}

impl Learned {
    /// One that has learned nothing yet, for token vectors `d` wide.
    ///
    /// # Errors
    /// What the device reports.
    pub fn start(kind: Kind, d: usize, seed: u64, device: &Device) -> Result<Self> {
        let (tensors, body, objective) = tensors(kind, d, CHANNELS);
        let parameters = Parameters::start(tensors, seed, device)?;
        Ok(Self::new(kind, d, device, parameters, body, objective))
    }

    /// One from a weights file; an `f3` has as many channels as there.
    ///
    /// # Errors
    /// [`Error::Input`] naming the tensor that is missing, damaged or of another size, or what the device reports.
    pub fn load(kind: Kind, d: usize, checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let (tensors, body, objective) = tensors(kind, d, channels(checkpoint));
        let parameters = Parameters::load(tensors, checkpoint, device)?;
        if let Body::Cnn(_, running) = &body {
            let mut running = lock(running);
            for (names, statistics) in Running::NAMES.iter().zip(&mut running.0) {
                for (name, values) in names.iter().zip(statistics) {
                    *values = checkpoint.values(name, &[values.len()])?;
                }
            }
        }
        Ok(Self::new(kind, d, device, parameters, body, objective))
    }

    fn new(
        kind: Kind,
        d: usize,
        device: &Device,
        parameters: Parameters,
        body: Body,
        objective: Vector,
    ) -> Self {
        Learned {
            kind,
            d,
            device: device.clone(),
            parameters,
            body,
            objective,
            padded: false,
            cut: AtomicUsize::new(0),
        }
    }

    /// With the reference's habit of showing `f3` the maxima of a row and of a column as far as the longest text of its batch
    /// reaches, so that a score depends on the batch; pairs are then scored 32 at a time. Other scorers do not have it.
    pub fn with_padding(mut self, padded: bool) -> Self {
        self.padded = padded;
        self
    }

    /// Whether it has that habit.
    pub fn is_padded(&self) -> bool {
        self.padded && self.kind == Kind::Cnn
    }

    /// Its tensors in f32 under the names that files have them under.
    ///
    /// # Errors
    /// As [`Parameters::tensors`].
    pub fn tensors(&self) -> Result<Vec<(String, Tensor<'static>)>> {
        let mut all = self.parameters.tensors()?;
        if let Body::Cnn(_, running) = &self.body {
            let running = lock(running);
            for (names, statistics) in Running::NAMES.iter().zip(&running.0) {
                for (name, values) in names.iter().zip(statistics) {
                    let tensor = Tensor::from_f32(values, Dtype::F32, vec![values.len()])
                        .map_err(|what| Error::Invalid(format!("tensor {name}: {what}")))?;
                    all.push((name.to_string(), tensor));
                }
            }
        }
        Ok(all)
    }

    /// The weights to be changed; and what training changes beside them, running statistics, under their names.
    pub(crate) fn trainable(
        &mut self,
    ) -> (Trainable<'_, Tensors>, Vec<(&'static str, &mut [f32])>) {
        let running = match &mut self.body {
            Body::Cnn(_, running) => {
                let running = running.get_mut().unwrap_or_else(|p| p.into_inner());
                let names = Running::NAMES.as_flattened().iter().copied();
                let values = running.0.as_flattened_mut().iter_mut();
                names.zip(values.map(Vec::as_mut_slice)).collect()
            }
            _ => Vec::new(),
        };
        (self.parameters.trainable(), running)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Width of the token vectors that it reads.
    pub fn width(&self) -> usize {
        self.d
    }

    /// Its weights.
    pub fn weights(&self) -> &Parameters {
        &self.parameters
    }

    /// Scale and bias of its score before a sigmoid.
    ///
    /// # Errors
    /// What the device reports.
    pub fn objective(&self) -> Result<[f32; 2]> {
        let read = |vector: Slice<'_, f32>| vector.slice(..2).read();
        let values = match &self.parameters.working {
            Working::F32(weights) => read(weights.vector(self.objective)),
            Working::Mixed(weights) => read(weights.vector(self.objective)),
        }?;
        Ok([values[0], values[1]])
    }

    /// Writes the gradients in scale and bias of the score before a sigmoid.
    ///
    /// # Errors
    /// What the device reports.
    pub fn set_objective_gradient(
        &self,
        gradients: &mut Gradients<Tensors>,
        values: [f32; 2],
    ) -> Result<()> {
        let (_, vectors) = gradients.groups_mut();
        vectors.write(self.objective.start, &values)
    }

    /// The score that a raw one, as [`Learned::forward`] gives it, stands for.
    pub fn score_of(&self, raw: f32) -> f64 {
        match self.body {
            Body::Plain => f64::from(raw),
            Body::Cnn(..) | Body::Transformer(_) => f64::from(raw).tanh(),
        }
    }

    /// The slope of [`Learned::score_of`] where it has this value.
    pub fn slope_at(&self, score: f64) -> f64 {
        match self.body {
            Body::Plain => 1.0,
            Body::Cnn(..) | Body::Transformer(_) => 1.0 - score * score,
        }
    }

    /// Refuses token vectors of another width.
    fn check_widths(&self, queries: &TokenVectors, documents: &TokenVectors) -> Result<()> {
        for (what, texts) in [("queries", queries), ("documents", documents)] {
            if texts.width() != self.d {
                let expected = format!("token vectors {} wide, as it was trained on", self.d);
                return Err(Error::shape("verifier", what, expected, texts.width()));
            }
        }
        Ok(())
    }

    /// Bytes that a pair of texts of these lengths takes on the way through and back.
    pub fn pair_bytes(&self, query: usize, document: usize) -> usize {
        let map = 2 * 4 * query * document;
        match &self.body {
            Body::Plain => map,
            Body::Cnn(table, _) => {
                let pixels = cnn::canvas::pixels([query, document]);
                let [first, second, _] = table.channels;
                map + 4 * pixels * (2 * 32 + 3 * first + (first + 2 * 9 * first + 3 * second) / 4)
            }
            Body::Transformer(_) => {
                let [q, c] = [query, document].map(|l| l.min(128).div_ceil(8));
                let rows = 1 + q * c;
                map + rows * (2 * 4 * 192 + 6 * 4 * self.d) + 16 * 4 * self.d
            }
        }
    }

    /// Raw scores of pairs of texts. With `keep`, what is computed on the way stays for [`Learned::backward`]. `padding` is
    /// how far texts of either side are padded where that matters ([`Learned::with_padding`]); `None` for as far as the
    /// longest ones here.
    ///
    /// # Errors
    /// [`Error::Shape`] for token vectors of another width or pairs of texts that are not there, or what the device reports.
    pub fn forward(
        &self,
        tokens: &TrainingTokens,
        pairs: &PairList,
        mode: Mode<'_>,
        padding: Option<[u32; 2]>,
        keep: bool,
    ) -> Result<(Vec<f32>, Option<SavedPairs>)> {
        if let Body::Plain = self.body {
            let raw = match &tokens.unit {
                Unit::F32(rows) => self.plain(tokens, rows, pairs)?,
                Unit::F16(rows) => self.plain(tokens, rows, pairs)?,
            };
            return Ok((raw, None));
        }
        let (layout, maps) = tokens.maps(pairs)?;
        let (raw, saved) = self.over_maps(&layout, &maps, mode, padding, keep)?;
        Ok((raw, saved.map(|body| SavedPairs { layout, body })))
    }

    /// Scores of those without weights.
    fn plain<T: Float>(
        &self,
        tokens: &TrainingTokens,
        rows: &Buffer<T>,
        pairs: &PairList,
    ) -> Result<Vec<f32>> {
        let (device, d) = (&self.device, self.d);
        let texts = Tokens {
            rows: rows.as_slice(),
            packing: &tokens.packing,
        };
        let mut scores = device.alloc::<f32>(pairs.len())?;
        match self.kind {
            Kind::MeanCosine => {
                let means = tokens.means()?;
                pair_dot(&means, &means, d, pairs, &mut scores)?;
            }
            Kind::BagOfSimilarities => {
                let mut centroids = device.alloc::<f32>(tokens.packing.texts() * d)?;
                pool(
                    &tokens.exact,
                    &tokens.packing,
                    Pooling::Mean,
                    false,
                    &mut centroids,
                )?;
                pair_dot(&centroids, &centroids, d, pairs, &mut scores)?;
            }
            Kind::MaxSim => {
                let pairs = Pairs::Listed(pairs);
                maxsim(texts, texts, d, pairs, Reduction::Mean, &mut scores, None)?;
            }
            Kind::SoftAlignment => {
                let alignment = VerifierOptions::default().alignment;
                soft_alignment(texts, texts, d, pairs, alignment, &mut scores)?;
            }
            Kind::Cnn | Kind::Transformer => unreachable!("has weights"),
        }
        scores.read()
    }

    /// Raw scores of maps.
    pub(super) fn over_maps(
        &self,
        maps: &MapLayout,
        values: &Buffer<f32>,
        mode: Mode<'_>,
        padding: Option<[u32; 2]>,
        keep: bool,
    ) -> Result<(Vec<f32>, Option<SavedBody>)> {
        let longest = || {
            let shapes = maps.shapes().iter();
            shapes.fold([0, 0], |[m, n], &[q, c]| [m.max(q), n.max(c)])
        };
        let inputs = match &self.body {
            Body::Plain => {
                return Err(Error::Invalid(format!("{} does not read maps", self.kind)));
            }
            Body::Cnn(..) => {
                let padding = self.padded.then(|| padding.unwrap_or_else(longest));
                let masks = mode.masks().cloned();
                BodyInputs::Cnn(Box::new(cnn::forward::Inputs::new(
                    &self.device,
                    maps,
                    padding,
                    masks,
                )?))
            }
            Body::Transformer(_) => {
                let layout = WindowLayout::patches(&self.device, maps)?;
                let masks = mode.masks().cloned();
                BodyInputs::Transformer(Box::new(Inputs::new(&self.device, layout, masks, keep)?))
            }
        };
        self.cut.fetch_add(inputs.layout().cut(), Ordering::Relaxed);
        Ok(match &self.parameters.working {
            Working::F32(weights) => {
                let (raw, saved) = self.through(weights, inputs, values, mode, keep)?;
                (raw, saved.map(SavedBody::F32))
            }
            Working::Mixed(weights) => {
                let (raw, saved) = self.through(weights, inputs, values, mode, keep)?;
                (raw, saved.map(SavedBody::Mixed))
            }
        })
    }

    /// Maps through a learned body.
    fn through<A: Float>(
        &self,
        weights: &Weights<A, Tensors>,
        inputs: BodyInputs,
        maps: &Buffer<f32>,
        mode: Mode<'_>,
        keep: bool,
    ) -> Result<(Vec<f32>, Option<SavedMaps<A>>)> {
        let device = weights.device();
        let layout = inputs.layout();
        let mut windows = device.alloc::<A>(layout.texts().tokens() * layout.windows().width())?;
        let mut winners = device.alloc::<u32>(if keep { layout.winners() } else { 0 })?;
        let wanted = keep.then(|| winners.as_slice_mut());
        map_features(maps, layout, &mut windows, wanted)?;
        let (scores, pass) = match (&self.body, &inputs) {
            (Body::Transformer(table), BodyInputs::Transformer(inputs)) => {
                let (scores, pass) = forward(weights, table, windows.as_slice(), inputs)?;
                (scores, BodyPass::Transformer(Box::new(pass)))
            }
            (Body::Cnn(table, running), BodyInputs::Cnn(inputs)) => {
                // Not locked while operators run: see `Device::in_pool`.
                let mut known = lock(running).clone();
                let (statistics, notes) = match mode {
                    Mode::Eval => (Statistics::Running(&known), false),
                    Mode::Training { note, .. } => {
                        (Statistics::Own(note.then_some(&mut known)), note)
                    }
                };
                let windows = windows.as_slice();
                let (scores, pass) =
                    cnn::forward::forward(weights, table, windows, inputs, statistics)?;
                if notes {
                    *lock(running) = known;
                }
                (scores, BodyPass::Cnn(Box::new(pass)))
            }
            _ => unreachable!("inputs are made for the body"),
        };
        let raw = scores.read()?.into_iter().step_by(SCORES).collect();
        let saved = keep.then_some(SavedMaps {
            inputs,
            windows,
            winners,
            pass,
        });
        Ok((raw, saved))
    }

    /// Adds the gradients in the weights to `gradients`, and those in the tokens to `d_tokens`, given those in raw scores.
    ///
    /// # Errors
    /// What the device reports.
    pub fn backward(
        &self,
        tokens: &TrainingTokens,
        pairs: &PairList,
        saved: Option<SavedPairs>,
        d_raw: &[f32],
        gradients: &mut Gradients<Tensors>,
        d_tokens: Option<&mut TokenGradient>,
    ) -> Result<()> {
        let d_maps = match (&self.body, saved) {
            (Body::Cnn(..) | Body::Transformer(_), Some(SavedPairs { layout, body })) => {
                let wants_maps = d_tokens.is_some();
                let d_maps =
                    self.over_maps_backward(&layout, body, d_raw, gradients, wants_maps)?;
                d_maps.map(|d_maps| (layout, d_maps))
            }
            (Body::Cnn(..) | Body::Transformer(_), None) => {
                return Err(Error::Invalid("nothing was kept of these pairs".into()));
            }
            (Body::Plain, _) => {
                let Some(d_tokens) = d_tokens else {
                    return Ok(());
                };
                let d_scores = self.device.upload(d_raw)?;
                let Some(pooling) = self.map_pooling() else {
                    return d_tokens.add_means(tokens, pairs, &d_scores);
                };
                let (layout, maps) = tokens.maps(pairs)?;
                let mut d_maps = self.device.alloc::<f32>(layout.elements())?;
                map_pool_backward(&maps, &layout, &d_scores, pooling, &mut d_maps)?;
                return d_tokens.add(tokens, pairs, &layout, &d_maps);
            }
        };
        match (d_maps, d_tokens) {
            (Some((layout, d_maps)), Some(d_tokens)) => {
                d_tokens.add(tokens, pairs, &layout, &d_maps)
            }
            _ => Ok(()),
        }
    }

    /// As [`Scorer::score`], of a body with maps.
    fn scores(
        &self,
        queries: &TokenVectors,
        documents: &TokenVectors,
        pairs: &PairList,
    ) -> Result<Vec<f32>> {
        let (q, c) = (queries.tokens(), documents.tokens());
        let mut scores = Vec::with_capacity(pairs.len());
        let rows = |&[query, document]: &[u32; 2]| {
            [(q, query), (c, document)].map(|(side, text)| side.packing.rows(text as usize).len())
        };
        let together = match self.is_padded() {
            true => PADDED_TOGETHER,
            false => usize::MAX,
        };
        let groups = pairs.pairs().chunks(together).map(|group| {
            let longest = |side: usize| group.iter().map(|pair| rows(pair)[side] as u32).max();
            (group, [0, 1].map(|side| longest(side).unwrap_or_default()))
        });
        // Of a group that does not fit, parts are padded as the whole is.
        let mut groups: Vec<_> = groups.collect();
        groups.reverse();
        while let Some((todo, padding)) = groups.pop() {
            let bytes = |pair: &[u32; 2]| {
                let [query, document] = rows(pair);
                self.pair_bytes(query, document)
            };
            let (mut taken, mut count) = (0, 0);
            while count < todo.len() && (count == 0 || taken + bytes(&todo[count]) <= AT_ONCE) {
                taken += bytes(&todo[count]);
                count += 1;
            }
            let (now, later) = todo.split_at(count);
            let now = PairList::new(&self.device, now.to_vec())?;
            let layout = MapLayout::new(&self.device, q.packing, c.packing, &now)?;
            let mut maps = self.device.alloc::<f32>(layout.elements())?;
            similarity_map(q, c, self.d, &now, &layout, &mut maps)?;
            let (raw, _) = self.over_maps(&layout, &maps, Mode::Eval, Some(padding), false)?;
            if let Some(at) = raw.iter().position(|raw| !raw.is_finite()) {
                let [query, document] = now.pairs()[at];
                return Err(Error::Invalid(format!(
                    "{} gives {} for the pair of query {query} and document {document}: their token vectors, or the verifier's weights, are not finite",
                    self.kind, raw[at]
                )));
            }
            scores.extend(raw.into_iter().map(|raw| self.score_of(raw) as f32));
            if !later.is_empty() {
                groups.push((later, padding));
            }
        }
        Ok(scores)
    }

    /// How one without weights makes a score of a map; `None` for those that do otherwise.
    fn map_pooling(&self) -> Option<MapPooling> {
        match self.kind {
            Kind::BagOfSimilarities => Some(MapPooling::Mean),
            Kind::MaxSim => Some(MapPooling::Max),
            Kind::SoftAlignment => {
                let alignment = VerifierOptions::default().alignment;
                Some(MapPooling::Soft {
                    distance: alignment.distance,
                    temperature: alignment.temperature,
                    band: alignment.band,
                })
            }
            _ => None,
        }
    }

    /// What the score of a pair depends on, token by token; `None` for a scorer that reads no map.
    ///
    /// # Errors
    /// [`Error::Shape`] for token vectors of another width or texts that are not there, or what the device reports.
    pub fn contributions(
        &self,
        queries: &TokenVectors,
        documents: &TokenVectors,
        [query, document]: [u32; 2],
    ) -> Result<Option<Contributions>> {
        self.check_widths(queries, documents)?;
        let pair = PairList::new(&self.device, vec![[query, document]])?;
        let (q, c) = (queries.tokens(), documents.tokens());
        let layout = MapLayout::new(&self.device, q.packing, c.packing, &pair)?;
        let mut map = self.device.alloc::<f32>(layout.elements())?;
        similarity_map(q, c, self.d, &pair, &layout, &mut map)?;
        // Gradients in f16 are kept away from zero.
        let scale = match self.device.precision() {
            Precision::F32 => 1.0,
            Precision::Mixed => 256.0,
        };
        let slopes = match (&self.body, self.map_pooling()) {
            (Body::Plain, Some(pooling)) => {
                let mut slopes = self.device.alloc::<f32>(layout.elements())?;
                let one = self.device.upload(&[scale])?;
                map_pool_backward(&map, &layout, &one, pooling, &mut slopes)?;
                Some(slopes)
            }
            (Body::Plain, None) => None,
            _ => {
                let (_, saved) = self.over_maps(&layout, &map, Mode::Eval, None, true)?;
                let table = self.weights().table().clone();
                let mut gradients = Gradients::zeros(table, &self.device)?;
                let kept = || Error::Invalid("nothing was kept of this pair".into());
                let saved = saved.ok_or_else(kept)?;
                self.over_maps_backward(&layout, saved, &[scale], &mut gradients, true)?
            }
        };
        let Some(slopes) = slopes else {
            return Ok(None);
        };
        let (map, slopes) = (map.read()?, slopes.read()?);
        let terms = map.iter().zip(&slopes);
        Ok(Some(Contributions {
            values: terms
                .map(|(cosine, slope)| cosine * slope / scale)
                .collect(),
            map,
        }))
    }

    /// Adds the gradients in the weights; returns those in the maps, if wanted.
    pub(super) fn over_maps_backward(
        &self,
        layout: &MapLayout,
        saved: SavedBody,
        d_raw: &[f32],
        gradients: &mut Gradients<Tensors>,
        wants_maps: bool,
    ) -> Result<Option<Buffer<f32>>> {
        let elements = layout.elements();
        match (&self.parameters.working, saved) {
            (Working::F32(weights), SavedBody::F32(saved)) => {
                self.back(weights, saved, elements, d_raw, gradients, wants_maps)
            }
            (Working::Mixed(weights), SavedBody::Mixed(saved)) => {
                self.back(weights, saved, elements, d_raw, gradients, wants_maps)
            }
            _ => Err(Error::Invalid("a pass of another verifier".into())),
        }
    }

    /// The way back through a learned body, to maps of so many elements.
    fn back<A: Float>(
        &self,
        weights: &Weights<A, Tensors>,
        saved: SavedMaps<A>,
        elements: usize,
        d_raw: &[f32],
        gradients: &mut Gradients<Tensors>,
        wants_maps: bool,
    ) -> Result<Option<Buffer<f32>>> {
        let device = weights.device();
        let SavedMaps {
            inputs,
            windows,
            winners,
            pass,
        } = saved;
        let mut d_scores = vec![A::from_f32(0.0); d_raw.len() * SCORES];
        for (row, &value) in d_scores.chunks_exact_mut(SCORES).zip(d_raw) {
            row[0] = A::from_f32(value);
        }
        let d_scores = device.upload(&d_scores)?;
        let (d_scores, windows) = (d_scores.as_slice(), windows.as_slice());
        let d_windows = match (&self.body, &inputs, pass) {
            (
                Body::Transformer(table),
                BodyInputs::Transformer(inputs),
                BodyPass::Transformer(pass),
            ) => backward(
                weights, table, windows, inputs, *pass, d_scores, gradients, wants_maps,
            )?,
            (Body::Cnn(table, _), BodyInputs::Cnn(inputs), BodyPass::Cnn(pass)) => {
                let back = cnn::backward::backward::<A>;
                back(
                    weights, table, windows, inputs, *pass, d_scores, gradients, wants_maps,
                )?
            }
            _ => return Err(Error::Invalid("a pass of another verifier".into())),
        };
        let Some(d_windows) = d_windows else {
            return Ok(None);
        };
        let mut d_maps = device.alloc::<f32>(elements)?;
        map_features_backward(&d_windows, inputs.layout(), winners.as_slice(), &mut d_maps)?;
        Ok(Some(d_maps))
    }
}

/// What a body reads besides windows.
enum BodyInputs {
    Cnn(Box<cnn::forward::Inputs>),
    Transformer(Box<Inputs>),
}

impl BodyInputs {
    fn layout(&self) -> &WindowLayout {
        match self {
            BodyInputs::Cnn(inputs) => &inputs.layout,
            BodyInputs::Transformer(inputs) => &inputs.layout,
        }
    }
}

/// What a body keeps.
enum BodyPass<A: Float> {
    Cnn(Box<cnn::forward::Saved<A>>),
    Transformer(Box<Saved<A>>),
}

/// The running statistics, whatever became of who held them before.
fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Which cells of a pair's token map its score rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Contributions {
    /// Cosines of the tokens, `[tokens of the query, tokens of the document]`.
    pub map: Vec<f32>,
    /// Per cell the slope of the raw score ([`Learned::score_of`] makes the score of it) in the cosine, times the cosine:
    /// to first order, what the raw score would lose if the two tokens had nothing in common.
    pub values: Vec<f32>,
}

/// What is kept of pairs for the way back.
pub struct SavedPairs {
    layout: MapLayout,
    body: SavedBody,
}

/// What is kept of maps, in the device's activation type.
pub(super) enum SavedBody {
    F32(SavedMaps<f32>),
    Mixed(SavedMaps<f16>),
}

pub(super) struct SavedMaps<A: Float> {
    inputs: BodyInputs,
    windows: Buffer<A>,
    winners: Buffer<u32>,
    pass: BodyPass<A>,
}

/// Bytes that pairs scored at once may take.
const AT_ONCE: usize = 256 << 20;

/// Pairs that the reference scores together, by which padding goes.
const PADDED_TOGETHER: usize = 32;

impl Scorer for Learned {
    fn name(&self) -> String {
        self.kind.name().into()
    }

    fn score(
        &self,
        queries: &TokenVectors,
        documents: &TokenVectors,
        pairs: &PairList,
    ) -> Result<Vec<f32>> {
        if let Body::Plain = self.body {
            let fixed = super::open(self.kind.name(), &VerifierOptions::default(), &self.device)?;
            return fixed.score(queries, documents, pairs);
        }
        self.check_widths(queries, documents)?;
        self.device
            .in_pool(|| self.scores(queries, documents, pairs))
    }

    fn parameters(&self) -> usize {
        // Scale and bias of the objective are no part of a score.
        self.parameters.table().parameters() - OBJECTIVE.len()
    }

    fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }

    fn is_cosine(&self) -> bool {
        self.kind == Kind::MeanCosine
    }
}
