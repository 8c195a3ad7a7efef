//! From the neighbourhoods of a map's pixels to scores.

use super::canvas::{Axis, weights as multiplicities};
use super::weights::Table;
use super::{EPS, MOMENTUM, TAPS};
use crate::device::{Buffer, Device, Float, Slice};
use crate::error::Result;
use crate::model::weights::{Norm, Weights};
use crate::ops::batch_norm::batch_norm;
use crate::ops::dropout::Site;
use crate::ops::map_features::{Picture, WindowLayout};
use crate::ops::{
    MapLayout, Origins, PackedTexts, Pictures, dropout, max_pool, relu, unfold, weighted_pool,
};
use crate::verifier::layers::{SCORES, linear};
use crate::verifier::learned::PairMasks;
use crate::verifier::parameters::Tensors;

/// Running means and variances of both norms.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::verifier) struct Running(pub [[Vec<f32>; 2]; 2]);

impl Running {
    /// Those of a network that has seen nothing.
    pub fn start([first, second, _]: [usize; 3]) -> Self {
        Running([first, second].map(|c| [vec![0.0; c], vec![1.0; c]]))
    }

    /// The names that files have them under.
    pub const NAMES: [[&'static str; 2]; 2] = [
        ["norm1.running_mean", "norm1.running_var"],
        ["norm2.running_mean", "norm2.running_var"],
    ];

    /// Takes note of the statistics of so many pixels.
    fn note(&mut self, norm: usize, found: [&[f32]; 2], total: f64) {
        let unbiased = [1.0, total / (total - 1.0)];
        for ((running, found), factor) in self.0[norm].iter_mut().zip(found).zip(unbiased) {
            for (running, &found) in running.iter_mut().zip(found) {
                let kept = (1.0 - MOMENTUM) * f64::from(*running);
                *running = (kept + MOMENTUM * factor * f64::from(found)) as f32;
            }
        }
    }
}

/// What a pass reads besides weights: canvases of pairs and the windows on them.
pub(in crate::verifier) struct Inputs {
    pub layout: WindowLayout,
    /// The canvas as it is, and halved.
    pub pictures: [Pictures; 2],
    /// After both poolings.
    pub pooled: PackedTexts,
    /// How often each pixel counts, on all three.
    pub multiplicities: [Buffer<f32>; 3],
    masks: Option<(PairMasks, Origins)>,
}

impl Inputs {
    /// For maps whose maxima reach as far as `padding` says, or as the maps.
    pub fn new(
        device: &Device,
        maps: &MapLayout,
        padding: Option<[u32; 2]>,
        masks: Option<PairMasks>,
    ) -> Result<Self> {
        let extents = maps.shapes().iter().map(|&shape| {
            let padded = padding.unwrap_or(shape);
            [0, 1].map(|side| padded[side].max(shape[side]).min(128))
        });
        let extents: Vec<[u32; 2]> = extents.collect();
        let canvases: Vec<[Axis; 2]> = extents.iter().map(|extent| extent.map(Axis::new)).collect();
        let sizes = |halvings: u32| -> Vec<[u32; 2]> {
            let size = |canvas: &[Axis; 2]| canvas.map(|axis| axis.lines >> halvings);
            canvases.iter().map(size).collect()
        };
        let pictures = sizes(0);
        let windows: Vec<Picture> = (pictures.iter().zip(&extents))
            .map(|(&[height, width], &extent)| Picture {
                height,
                width,
                extent,
            })
            .collect();
        let mut ends = vec![0u32];
        for [down, across] in sizes(2) {
            ends.push(ends[ends.len() - 1] + down * across);
        }
        let counts = |halvings| device.upload(&multiplicities(&canvases, halvings));
        let masks = match masks {
            Some(masks) => {
                let n = masks.numbers.len() as u32;
                let singles = PackedTexts::new(device, (0..=n).collect())?;
                let origins = Origins::new(&singles, &masks.numbers)?;
                Some((masks, origins))
            }
            None => None,
        };
        Ok(Inputs {
            layout: WindowLayout::neighbours(device, maps, &windows)?,
            pictures: [
                Pictures::new(device, &pictures)?,
                Pictures::new(device, &sizes(1))?,
            ],
            pooled: PackedTexts::new(device, ends)?,
            multiplicities: [counts(0)?, counts(1)?, counts(2)?],
            masks,
        })
    }

    /// Pairs.
    pub fn pairs(&self) -> usize {
        self.pooled.texts()
    }

    /// Pixels of all canvases, before and between the poolings.
    pub fn pixels(&self) -> [usize; 2] {
        [0, 1].map(|i| self.pictures[i].pixels().tokens())
    }

    /// Pixels of all whole canvases, those that are not computed too.
    pub fn total(&self, norm: usize) -> f64 {
        let side = if norm == 0 { 128.0 } else { 64.0 };
        self.pairs() as f64 * side * side
    }

    /// Drops values of the head.
    pub fn drop_head<A: Float>(&self, x: &mut Buffer<A>, width: usize) -> Result<()> {
        match &self.masks {
            Some((masks, origins)) => dropout(x, width, masks.at(Site::Head), origins),
            None => Ok(()),
        }
    }
}

/// A convolution with what follows it, as a backward reads it.
pub(in crate::verifier) struct SavedBlock<A: Float> {
    /// The convolution's result, `[pixels, c]`.
    pub x: Buffer<A>,
    /// Statistics that it was normalised with, `[c]`.
    pub mean: Buffer<f32>,
    pub variance: Buffer<f32>,
    /// What normalisation does, as a factor and a summand.
    pub scale: Buffer<f32>,
    pub shift: Buffer<f32>,
    /// Whether the statistics are those of `x`.
    pub own: bool,
}

/// What a backward reads of a pass over `p` pairs.
pub(in crate::verifier) struct Saved<A: Float> {
    pub blocks: [SavedBlock<A>; 2],
    /// Between the blocks, `[pixels / 4, c1]`.
    pub between: Buffer<A>,
    /// The mean over the canvas, `[p, c2]`.
    pub mean: Buffer<A>,
    /// `[p, hidden]`.
    pub head: Buffer<A>,
}

/// Where the statistics of norms come from.
pub(in crate::verifier) enum Statistics<'a> {
    /// What earlier steps left.
    Running(&'a Running),
    /// The pairs at hand; the running ones take note if there are some.
    Own(Option<&'a mut Running>),
}

/// The scores of pairs before tanh, `[p, 8]` of which column 0 counts, given the neighbourhoods of their pixels, `[pixels, 32]`.
pub(in crate::verifier) fn forward<A: Float>(
    weights: &Weights<A, Tensors>,
    table: &Table,
    neighbours: Slice<'_, A>,
    inputs: &Inputs,
    mut statistics: Statistics<'_>,
) -> Result<(Buffer<f32>, Saved<A>)> {
    let device = weights.device();
    let [first, second, hidden] = table.channels;
    let [whole, half] = inputs.pixels();
    let x = linear(weights, neighbours, table.conv1, whole, first)?;
    let block1 = block(weights, x, table.norm1, 0, inputs, &mut statistics)?;
    let mut between = device.alloc::<A>(half * first)?;
    let (scale, shift) = (&block1.scale, &block1.shift);
    max_pool(&block1.x, scale, shift, &inputs.pictures[0], &mut between)?;

    let mut unfolded = device.alloc::<A>(half * TAPS * first)?;
    unfold(&between, first, &inputs.pictures[1], &mut unfolded)?;
    let x = linear(weights, unfolded.as_slice(), table.conv2, half, second)?;
    drop(unfolded);
    let block2 = block(weights, x, table.norm2, 1, inputs, &mut statistics)?;
    let mut pooled = device.alloc::<A>(inputs.pooled.tokens() * second)?;
    let (scale, shift) = (&block2.scale, &block2.shift);
    max_pool(&block2.x, scale, shift, &inputs.pictures[1], &mut pooled)?;

    let p = inputs.pairs();
    let mut mean = device.alloc::<A>(p * second)?;
    let counts = &inputs.multiplicities[2];
    weighted_pool(&pooled, second, counts, &inputs.pooled, &mut mean)?;
    let mut head = linear(weights, mean.as_slice(), table.head, p, hidden)?;
    relu(&mut head, None)?;
    inputs.drop_head(&mut head, hidden)?;
    let scores = linear(weights, head.as_slice(), table.score, p, SCORES)?;
    let saved = Saved {
        blocks: [block1, block2],
        between,
        mean,
        head,
    };
    Ok((scores, saved))
}

/// What normalises the result of a convolution.
fn block<A: Float>(
    weights: &Weights<A, Tensors>,
    x: Buffer<A>,
    at: Norm,
    norm: usize,
    inputs: &Inputs,
    statistics: &mut Statistics<'_>,
) -> Result<SavedBlock<A>> {
    let device = weights.device();
    let (gamma, beta) = (
        weights.vector(at.weight).read()?,
        weights.vector(at.bias).read()?,
    );
    let c = gamma.len();
    let (means, variances, own) = match statistics {
        Statistics::Running(running) => {
            let [mean, variance] = &running.0[norm];
            (mean.clone(), variance.clone(), false)
        }
        Statistics::Own(running) => {
            let (mut mean, mut variance) = (device.alloc(c)?, device.alloc(c)?);
            let total = inputs.total(norm);
            let counts = &inputs.multiplicities[norm];
            batch_norm(&x, counts, total as f32, &mut mean, &mut variance)?;
            let (mean, variance) = (mean.read()?, variance.read()?);
            if let Some(running) = running {
                running.note(norm, [&mean, &variance], total);
            }
            (mean, variance, true)
        }
    };
    let scale: Vec<f32> = (gamma.iter().zip(&variances))
        .map(|(gamma, variance)| gamma / (variance + EPS).sqrt())
        .collect();
    let shift: Vec<f32> = (beta.iter().zip(&means).zip(&scale))
        .map(|((beta, mean), scale)| scale.mul_add(-mean, *beta))
        .collect();
    Ok(SavedBlock {
        x,
        mean: device.upload(&means)?,
        variance: device.upload(&variances)?,
        scale: device.upload(&scale)?,
        shift: device.upload(&shift)?,
        own,
    })
}
