//! Weights that are trained together: their gradients, what AdamW keeps of them, and the step.

use std::sync::Arc;

use half::f16;

use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::model::weights::{Gradients, Layout, Trainable, Weights};
use crate::ops::adamw::{AdamW, Moments};
use crate::ops::{adamw, grad_norm};

/// Elements of what [`grad_norm()`] writes.
const NORM: usize = grad_norm::NORM;

/// What weight decay takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decay {
    /// Matrices; biases and norms are exempt.
    Matrices,
    /// Everything.
    All,
}

/// What a training keeps of one model's weights on the device, besides these.
pub(super) struct Group<L> {
    pub gradients: Gradients<L>,
    /// Of gradients and of their squares.
    moments: [Weights<f32, L>; 2],
    norm: Buffer<f32>,
}

/// A part of the state, as a checkpoint has it: in f32.
pub(super) enum Array<'a> {
    F32(&'a mut Buffer<f32>),
    F16(&'a mut Buffer<f16>),
    /// Not on the device.
    Host(&'a mut [f32]),
}

impl Array<'_> {
    pub fn len(&self) -> usize {
        match self {
            Array::F32(buffer) => buffer.len(),
            Array::F16(buffer) => buffer.len(),
            Array::Host(values) => values.len(),
        }
    }

    pub fn read(&self) -> Result<Vec<f32>> {
        match self {
            Array::F32(buffer) => buffer.read(),
            Array::F16(buffer) => Ok(buffer.read()?.into_iter().map(f16::to_f32).collect()),
            Array::Host(values) => Ok(values.to_vec()),
        }
    }

    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        match self {
            Array::F32(buffer) => buffer.write(0, values),
            Array::F16(buffer) => {
                let values: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
                buffer.write(0, &values)
            }
            Array::Host(all) => {
                all.copy_from_slice(values);
                Ok(())
            }
        }
    }
}

impl<L: Layout> Group<L> {
    /// For weights of this table that no step has changed yet.
    ///
    /// # Errors
    /// What the device reports.
    pub fn new(table: &Arc<L>, device: &Device) -> Result<Self> {
        let zeros = || Weights::zeros(Arc::clone(table), device);
        Ok(Group {
            gradients: zeros()?,
            moments: [zeros()?, zeros()?],
            norm: device.alloc(NORM)?,
        })
    }

    /// Measures the gradients that there are, by whose norm [`Group::step`] clips. Nothing is waited for.
    ///
    /// # Errors
    /// What the device reports.
    pub fn measure(&mut self) -> Result<()> {
        let all = [
            self.gradients.matrices().as_slice(),
            self.gradients.vectors().as_slice(),
        ];
        grad_norm(&all, &mut self.norm)
    }

    /// Makes a step with the gradients that were measured, unless they are not finite. Nothing is waited for.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for settings without meaning, or what the device reports.
    pub fn step(
        &mut self,
        settings: &AdamW,
        decay: Decay,
        weights: Trainable<'_, L>,
    ) -> Result<()> {
        let Group {
            gradients,
            moments: [first, second],
            norm,
        } = self;
        let Trainable { master, working } = weights;
        let (masters, (firsts, seconds)) = (
            master.groups_mut(),
            (first.groups_mut(), second.groups_mut()),
        );
        let (working_matrices, working_vectors) = match working {
            Some(working) => {
                let (matrices, vectors) = working.groups_mut();
                (Some(matrices.as_slice_mut()), Some(vectors.as_slice_mut()))
            }
            None => (None, None),
        };
        let moments = Moments {
            first: firsts.0.as_slice_mut(),
            second: seconds.0.as_slice_mut(),
        };
        adamw::<f16>(
            settings,
            gradients.matrices(),
            &*norm,
            moments,
            masters.0,
            working_matrices,
        )?;
        let of_vectors = match decay {
            Decay::All => *settings,
            Decay::Matrices => AdamW {
                weight_decay: 0.0,
                ..*settings
            },
        };
        let moments = Moments {
            first: firsts.1.as_slice_mut(),
            second: seconds.1.as_slice_mut(),
        };
        adamw::<f32>(
            &of_vectors,
            gradients.vectors(),
            &*norm,
            moments,
            masters.1,
            working_vectors,
        )
    }

    /// The norm of the gradients that were measured last, as they were, scaled.
    ///
    /// # Errors
    /// What the device reports.
    pub fn norm(&self) -> Result<f32> {
        Ok(self.norm.read_range(0..1)?[0].sqrt())
    }

    /// Everything on the device that a step changes, with the weights, under names that begin with `prefix`. A working copy
    /// is kept too, since devices may round to it in their own way.
    pub fn arrays<'a>(
        &'a mut self,
        prefix: &str,
        weights: Trainable<'a, L>,
    ) -> Vec<(String, Array<'a>)> {
        let Trainable { master, working } = weights;
        let [first, second] = &mut self.moments;
        let mut all = Vec::new();
        for (names, of) in [
            (["weights.matrices", "weights.vectors"], master),
            (["first.matrices", "first.vectors"], first),
            (["second.matrices", "second.vectors"], second),
        ] {
            let (matrices, vectors) = of.groups_mut();
            let arrays = [Array::F32(matrices), Array::F32(vectors)];
            all.extend(
                names
                    .map(|name| format!("{prefix}{name}"))
                    .into_iter()
                    .zip(arrays),
            );
        }
        if let Some(working) = working {
            let (matrices, vectors) = working.groups_mut();
            all.push((format!("{prefix}working.matrices"), Array::F16(matrices)));
            all.push((format!("{prefix}working.vectors"), Array::F32(vectors)));
        }
        all
    }
}
