//! What a training asks of an encoder: passes that are kept for a backward, and the backward to all weights.

use std::sync::Arc;

use super::forward::{self, Dropout, Masks, Saved};
use super::graphs::Inputs;
use super::{Encoder, Working, backward};
use crate::device::{Buffer, Slice};
use crate::error::{Error, Result};
use crate::model::weights::{Gradients, Table, Weights};
use crate::ops::{TokenSegments, pool, pool_backward};
use crate::text::Batch;

/// A forward pass over a batch, with all that its backward reads.
pub struct TrainingPass {
    /// The last layer's output, `[t, d]`.
    pub hidden: Buffer<f32>,
    /// What was computed on the way.
    pub saved: Saved,
    inputs: Inputs,
    masks: Option<Masks>,
    segments: TokenSegments,
}

/// Embeddings are compared by their angle, whatever length the model publishes them with.
const UNIT_LENGTH: bool = true;

impl Encoder {
    /// A zero for each of its weights.
    ///
    /// # Errors
    /// What the device reports.
    pub fn gradients(&self) -> Result<Gradients> {
        Weights::zeros(Arc::clone(self.table()), &self.device)
    }

    /// A forward pass with everything kept that [`Encoder::backward`] reads. Of each text its number in the step decides
    /// what `dropout` drops ([`Batch::texts`]), not the batch that it is in.
    ///
    /// # Errors
    /// As [`Encoder::hidden_states`].
    pub fn training_pass(&self, batch: &Batch, dropout: Option<Dropout>) -> Result<TrainingPass> {
        let (inputs, masks) = self.training_inputs(batch, dropout)?;
        let masked = masks.as_ref();
        let (hidden, saved) = match &self.weights {
            Working::F32(weights) => {
                let (hidden, saved) =
                    forward::forward_saving(weights, &self.config, &inputs, masked)?;
                (hidden, Saved::F32(saved))
            }
            Working::Mixed(weights) => {
                let (hidden, saved) =
                    forward::forward_saving(weights, &self.config, &inputs, masked)?;
                (hidden, Saved::Mixed(saved))
            }
        };
        Ok(TrainingPass {
            segments: TokenSegments::new(&self.device, &batch.ids, &batch.positions)?,
            hidden,
            saved,
            inputs,
            masks,
        })
    }

    /// The embeddings of a batch as [`Encoder::training_pass`] has them, `[n, d]` with unit length; nothing is kept.
    ///
    /// # Errors
    /// As [`Encoder::hidden_states`].
    pub fn training_embeddings(
        &self,
        batch: &Batch,
        dropout: Option<Dropout>,
    ) -> Result<Buffer<f32>> {
        let (inputs, masks) = self.training_inputs(batch, dropout)?;
        let hidden = self.forward(&inputs, masks.as_ref(), None)?;
        self.unit_embeddings(&hidden, &inputs)
    }

    /// The embeddings of a pass, `[n, d]` with unit length.
    ///
    /// # Errors
    /// What the device reports.
    pub fn embeddings_of(&self, pass: &TrainingPass) -> Result<Buffer<f32>> {
        self.unit_embeddings(&pass.hidden, &pass.inputs)
    }

    /// Adds the gradient in every weight to `gradients`, given the one in the embeddings of a pass, `[n, d]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a gradient of another size, or what the device reports.
    pub fn backward(
        &self,
        pass: TrainingPass,
        d_embeddings: Slice<'_, f32>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        if !Arc::ptr_eq(gradients.table(), self.table()) {
            return Err(Error::shape(
                "backward",
                "gradients",
                "those of this encoder",
                "another's",
            ));
        }
        let TrainingPass {
            hidden,
            saved,
            inputs,
            masks,
            segments,
        } = pass;
        let mut d_hidden = self.device.alloc(hidden.len())?;
        pool_backward(
            hidden.as_slice(),
            &inputs.texts,
            self.pooling.pooling,
            UNIT_LENGTH,
            d_embeddings,
            d_hidden.as_slice_mut(),
        )?;
        drop(hidden);
        let (config, masks) = (&self.config, masks.as_ref());
        match (&self.weights, saved) {
            (Working::F32(weights), Saved::F32(saved)) => backward::backward(
                weights, config, &inputs, masks, &segments, saved, d_hidden, gradients,
            ),
            (Working::Mixed(weights), Saved::Mixed(saved)) => backward::backward(
                weights, config, &inputs, masks, &segments, saved, d_hidden, gradients,
            ),
            _ => Err(Error::shape(
                "backward",
                "pass",
                "one of this encoder",
                "another's",
            )),
        }
    }

    fn table(&self) -> &Arc<Table> {
        match &self.weights {
            Working::F32(weights) => weights.table(),
            Working::Mixed(weights) => weights.table(),
        }
    }

    fn training_inputs(
        &self,
        batch: &Batch,
        dropout: Option<Dropout>,
    ) -> Result<(Inputs, Option<Masks>)> {
        self.check_batch(batch)?;
        let inputs = Inputs::upload(&self.device, batch)?;
        let masks = match dropout {
            Some(dropout) => Masks::new(dropout, &inputs, batch)?,
            None => None,
        };
        Ok((inputs, masks))
    }

    fn unit_embeddings(&self, hidden: &Buffer<f32>, inputs: &Inputs) -> Result<Buffer<f32>> {
        let mut out = self.device.alloc(inputs.texts.texts() * self.width())?;
        pool(
            hidden,
            &inputs.texts,
            self.pooling.pooling,
            UNIT_LENGTH,
            &mut out,
        )?;
        Ok(out)
    }
}
