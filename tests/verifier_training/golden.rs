//! The golden file of verifiers: what PyTorch found in f64, and how far its own lower precisions are from that.

use std::sync::OnceLock;

use nearmiss::Device;
use nearmiss::device::Precision;
use nearmiss::model::Checkpoint;
use nearmiss::model::checkpoint::{Dtype, Tensor};
use nearmiss::ops::{PackedTexts, PairList};
use nearmiss::verifier::Kind;
use nearmiss::verifier::learned::{Learned, TrainingTokens};

use super::common::{self, Tensors as File};
use super::plain::{Plain, Tensors, shapes};

/// Width of the token vectors.
pub const WIDTH: usize = 64;

/// Channels of the file's `f3`.
pub const CHANNELS: [usize; 3] = [16, 32, 16];

/// Gradients that the file has in part are every so manieth element.
pub const STRIDE: usize = 10;

/// The same of gradients in token vectors.
pub const TOKEN_STRIDE: usize = 9;

/// Of the loss where a device stores gradients in f16.
pub const LOSS_SCALE: f64 = 1024.0;

/// The file.
pub fn file() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| File::read(&common::golden("verifiers.safetensors")))
}

/// Token vectors of texts, packed.
#[derive(Clone)]
pub struct Texts {
    pub rows: Vec<f64>,
    pub offsets: Vec<u32>,
    pub d: usize,
}

impl Texts {
    pub fn plain(&self) -> super::plain::Texts<'_> {
        super::plain::Texts {
            rows: &self.rows,
            offsets: &self.offsets,
        }
    }

    pub fn on(&self, device: &Device) -> TrainingTokens {
        let rows: Vec<f32> = self.rows.iter().map(|&v| v as f32).collect();
        let packing = PackedTexts::new(device, self.offsets.clone()).unwrap();
        TrainingTokens::new(device.upload(&rows).unwrap(), packing, self.d).unwrap()
    }
}

fn whole(name: &str) -> Vec<u32> {
    let values = file().get_f64(name).into_iter();
    values.map(|v| v as u32).collect()
}

/// The texts of both sides as one list.
pub fn texts() -> Texts {
    let mut rows = file().get_f64("queries");
    rows.extend(file().get_f64("documents"));
    let mut offsets = whole("queries_offsets");
    let first = offsets[offsets.len() - 1];
    offsets.extend(
        whole("documents_offsets")[1..]
            .iter()
            .map(|end| first + end),
    );
    let d = WIDTH;
    Texts { rows, offsets, d }
}

/// The first pairs of that list.
pub fn pairs(count: usize) -> Vec<[u32; 2]> {
    let queries = whole("queries_offsets").len() as u32 - 1;
    let pairs = whole("pairs");
    let pairs = pairs
        .chunks_exact(2)
        .map(|pair| [pair[0], queries + pair[1]]);
    pairs.take(count).collect()
}

/// What the file's gradients are of: the sum of so many logits, weighted.
pub fn weights(count: usize) -> Vec<f64> {
    file().get_f64("weights")[..count].to_vec()
}

/// A scorer with the parameters of the file.
pub fn scorer(kind: Kind) -> Plain {
    let tensors = shapes(kind, WIDTH, CHANNELS)
        .into_iter()
        .map(|(name, shape)| {
            let values = file().get_f64(&format!("{kind}.param.{name}"));
            assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
            (name, values)
        });
    Plain {
        kind,
        d: WIDTH,
        parameters: tensors.collect(),
    }
}

/// The same on a device, as from a file; scale and bias of the score before a sigmoid are `objective`.
pub fn learned(plain: &Plain, objective: [f64; 2], device: &Device) -> Learned {
    let channels = match plain.kind {
        Kind::Cnn => {
            ["conv1", "conv2", "head.0"].map(|name| plain.parameters[&format!("{name}.bias")].len())
        }
        _ => CHANNELS,
    };
    let mut tensors: Vec<(String, Tensor<'static>)> = Vec::new();
    let mut add = |name: String, values: &[f64], shape| {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        tensors.push((name, Tensor::from_f32(&values, Dtype::F32, shape).unwrap()));
    };
    for (name, shape) in shapes(plain.kind, plain.d, channels) {
        let values = &plain.parameters[&name];
        add(name, values, shape);
    }
    for (name, value) in ["objective.scale", "objective.bias"]
        .into_iter()
        .zip(objective)
    {
        add(name.into(), &[value], vec![1]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("verifier.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    let checkpoint = Checkpoint::open_file(path).unwrap();
    Learned::load(plain.kind, plain.d, &checkpoint, device).unwrap()
}

/// Gradients under the names of the tensors.
pub fn gradients_of(
    learned: &Learned,
    gradients: &nearmiss::model::weights::Gradients<nearmiss::verifier::Tensors>,
) -> Tensors {
    let all = learned.weights().of_like(gradients).unwrap().into_iter();
    let values = |tensor: Tensor<'_>| -> Vec<f64> {
        let values = tensor.to_f32().unwrap().into_iter();
        values.map(f64::from).collect()
    };
    all.map(|(name, tensor)| (name, values(tensor))).collect()
}

pub fn pair_list(device: &Device, pairs: &[[u32; 2]]) -> PairList {
    PairList::new(device, pairs.to_vec()).unwrap()
}

/// Whether what a device stores as an activation is f16.
pub fn mixed(device: &Device) -> bool {
    device.precision() == Precision::Mixed
}

/// Which of PyTorch's precisions a device is measured by.
pub fn precision(device: &Device) -> &'static str {
    if mixed(device) { "f16" } else { "f32" }
}

/// The scale of the loss on a device, by which gradients do not get lost in f16.
pub fn loss_scale(device: &Device) -> f64 {
    if mixed(device) { LOSS_SCALE } else { 1.0 }
}
