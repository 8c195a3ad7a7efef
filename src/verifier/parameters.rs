//! The weights of a learned verifier: where they come from, where they are, and how files name them.

use std::sync::Arc;

use half::f16;

use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::model::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::model::weights::{Builder, Group, Layout, Trainable, Weights, Working};
use crate::random::Stream;

/// How a tensor begins, as the framework of the reference has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Start {
    /// Uniform in `-bound .. bound`.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// All elements are this.
    Constant(f32),
}

/// Rows of a tensor in one of the two buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub group: Group,
    /// The first element.
    pub start: usize,
    pub rows: usize,
    pub columns: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements from one column to the next.
    pub step: usize,
}

impl Part {
    /// Rows that lie one behind the other.
    pub fn whole(group: Group, start: usize, rows: usize, columns: usize) -> Self {
        Part {
            group,
            start,
            rows,
            columns,
            stride: columns,
            step: 1,
        }
    }

    /// The places of its elements in their buffer, in order.
    fn places(self) -> impl Iterator<Item = usize> {
        (0..self.rows).flat_map(move |row| {
            let first = self.start + row * self.stride;
            (0..self.columns).map(move |column| first + column * self.step)
        })
    }
}

/// A tensor as files have it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// The name that the module of the reference has it under.
    pub name: String,
    pub shape: Vec<usize>,
    pub start: Start,
    /// Where its elements are, in their order.
    pub parts: Vec<Part>,
}

impl Stored {
    /// A tensor that is one part.
    pub fn new(name: impl Into<String>, shape: Vec<usize>, start: Start, part: Part) -> Self {
        Stored {
            name: name.into(),
            shape,
            start,
            parts: vec![part],
        }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The tensors of a learned verifier.
pub struct Tensors {
    /// As files have them. What none names is zero and stays so.
    stored: Vec<Stored>,
    /// Elements of both buffers.
    sizes: [usize; 2],
}

impl Layout for Tensors {
    fn elements(&self, group: Group) -> usize {
        self.sizes[group as usize]
    }
}

impl Tensors {
    /// Of tensors that `builder` has placed.
    pub(super) fn new(builder: Builder, stored: Vec<Stored>) -> Self {
        Tensors {
            stored,
            sizes: builder.ends(),
        }
    }

    /// Numbers that a training of the verifier changes.
    pub fn parameters(&self) -> usize {
        self.stored.iter().map(Stored::elements).sum()
    }
}

/// The weights of a learned verifier.
pub struct Parameters {
    pub(super) working: Working<Tensors>,
    /// In f32 beside a working copy in f16.
    master: Option<Weights<f32, Tensors>>,
}

impl Parameters {
    /// Weights as they are before any training.
    ///
    /// # Errors
    /// What the device reports.
    pub(super) fn start(table: Tensors, seed: u64, device: &Device) -> Result<Self> {
        let mut stream_number = 0;
        Self::fill(table, device, |tensor| {
            stream_number += 1;
            let mut stream = Stream::new(seed, &["verifier", &tensor.name], stream_number);
            let mut value = || match tensor.start {
                Start::Uniform(bound) => (bound * (2.0 * stream.unit() - 1.0)) as f32,
                Start::Normal(deviation) => (deviation * stream.normal()) as f32,
                Start::Constant(value) => value,
            };
            Ok((0..tensor.elements()).map(|_| value()).collect())
        })
    }

    /// The weights of a file.
    ///
    /// # Errors
    /// As [`Checkpoint::values`], or what the device reports.
    pub(super) fn load(table: Tensors, checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        Self::fill(table, device, |tensor| {
            checkpoint.values(&tensor.name, &tensor.shape)
        })
    }

    pub(super) fn fill(
        table: Tensors,
        device: &Device,
        mut values: impl FnMut(&Stored) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let [mut matrices, mut vectors] =
            [Group::Matrices, Group::Vectors].map(|group| vec![0f32; table.elements(group)]);
        for tensor in &table.stored {
            let values = values(tensor)?;
            let places = tensor
                .parts
                .iter()
                .flat_map(|part| part.places().map(|at| (part.group, at)));
            for ((group, at), value) in places.zip(values) {
                match group {
                    Group::Matrices => matrices[at] = value,
                    Group::Vectors => vectors[at] = value,
                }
            }
        }
        let table = Arc::new(table);
        let f32s =
            || Weights::<f32, Tensors>::from_host(table.clone(), &matrices, &vectors, device);
        Ok(match device.precision() {
            Precision::F32 => Parameters {
                working: Working::F32(f32s()?),
                master: None,
            },
            Precision::Mixed => Parameters {
                master: Some(f32s()?),
                working: Working::Mixed(Weights::<f16, Tensors>::from_host(
                    table.clone(),
                    &matrices,
                    &vectors,
                    device,
                )?),
            },
        })
    }

    /// What is where.
    pub fn table(&self) -> &Arc<Tensors> {
        self.working.table()
    }

    /// The weights to be changed.
    pub(crate) fn trainable(&mut self) -> Trainable<'_, Tensors> {
        match &mut self.working {
            Working::F32(weights) => Trainable {
                master: weights,
                working: None,
            },
            Working::Mixed(weights) => Trainable {
                master: self.master.as_mut().expect("made with the copy"),
                working: Some(weights),
            },
        }
    }

    fn master(&self) -> &Weights<f32, Tensors> {
        match (&self.working, &self.master) {
            (Working::F32(weights), _) | (_, Some(weights)) => weights,
            (Working::Mixed(_), None) => unreachable!("made with the copy"),
        }
    }

    /// Its tensors in f32, as files have them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a weight that is not finite, or what the device reports.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor<'static>)>> {
        self.of_like(self.master())
    }

    /// What stands in the places of the weights in `like`, gradients for one, under the names of the tensors.
    ///
    /// # Errors
    /// As [`Parameters::tensors`].
    pub fn of_like(&self, like: &Weights<f32, Tensors>) -> Result<Vec<(String, Tensor<'static>)>> {
        let (matrices, vectors) = (like.matrices().read()?, like.vectors().read()?);
        let tensor = |tensor: &Stored| {
            let places = tensor
                .parts
                .iter()
                .flat_map(|part| part.places().map(|at| (part.group, at)));
            let value = |(group, at): (Group, usize)| match group {
                Group::Matrices => matrices[at],
                Group::Vectors => vectors[at],
            };
            let values: Vec<f32> = places.map(value).collect();
            let stored = Tensor::from_f32(&values, Dtype::F32, tensor.shape.clone())
                .map_err(|what| Error::Invalid(format!("tensor {}: {what}", tensor.name)))?;
            Ok((tensor.name.clone(), stored))
        };
        self.table().stored.iter().map(tensor).collect()
    }
}
