//! What a training asks of an encoder: passes that are kept for a backward, the backward to all weights, and these
//! themselves to be changed and saved.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::forward::{self, Dropout, Masks, Saved};
use super::graphs::Inputs;
use super::{Encoder, backward};
use crate::data::hex;
use crate::device::{Buffer, Precision, Slice};
use crate::error::{Error, Result};
use crate::model::weights::{Gradients, Table, Trainable, Weights, Working};
use crate::model::{Checkpoint, ModelFolder};
use crate::ops::{TokenSegments, pool, pool_backward};
use crate::text::{Batch, Tokenizer};

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
    /// [`Error::Input`] for a model whose head cannot be trained ([`crate::model::HeadConfig::plain`]); what the device
    /// reports.
    pub fn gradients(&self) -> Result<Gradients> {
        self.plain_pooling()?;
        Weights::zeros(Arc::clone(self.table()), &self.device)
    }

    /// Tokens of a [`TrainingPass`] that takes at most `memory` bytes together with its backward; at least one. Weights,
    /// their gradients and what an optimizer keeps of them are not among these bytes.
    pub fn training_tokens(&self, memory: u64) -> usize {
        let (act, stream) = match self.device.precision() {
            Precision::F32 => (4, 4),
            Precision::Mixed => (2, 4 + 2),
        };
        let c = &self.config;
        let [d, ff, heads] = [c.d_model, c.d_ff, c.n_heads].map(|n| n as u64);
        // Queries, keys, values, context, both branches; the inner activations before and after GELU; statistics.
        let layer = 2 * d * stream + act * (6 * d + 2 * ff) + 4 * heads;
        let kept = 4 * d + c.n_layers as u64 * layer + d * stream;
        // Nothing of the last layer is given back yet when its inner gradient is there: those in its output, in the sum
        // (as the stream and as the product read it), and in the inner activations.
        let backward = 2 * 4 * d + act * (d + ff);
        // Ids, positions, segments and the numbers by which dropout goes.
        let inputs = 64;
        // A device may round sizes up, by an eighth at most.
        let per_token = (kept + backward + inputs) * 9 / 8;
        (memory / per_token).clamp(1, 1 << 20) as usize
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

    /// The hidden states of a batch as [`Encoder::training_pass`] has them, `[t, d]`; nothing is kept.
    ///
    /// # Errors
    /// As [`Encoder::hidden_states`].
    pub fn training_hidden(&self, batch: &Batch, dropout: Option<Dropout>) -> Result<Buffer<f32>> {
        let (inputs, masks) = self.training_inputs(batch, dropout)?;
        self.forward(&inputs, masks.as_ref(), None)
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
    /// [`Error::Shape`] for a gradient of another size, or what the device reports.
    pub fn backward(
        &self,
        pass: TrainingPass,
        d_embeddings: Slice<'_, f32>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let mut d_hidden = self.device.alloc(pass.hidden.len())?;
        pool_backward(
            pass.hidden.as_slice(),
            &pass.inputs.texts,
            self.plain_pooling()?.pooling,
            UNIT_LENGTH,
            d_embeddings,
            d_hidden.as_slice_mut(),
        )?;
        self.backward_from_hidden(pass, d_hidden, gradients)
    }

    /// The same, given the gradient in the hidden states of a pass, `[t, d]`.
    ///
    /// # Errors
    /// As [`Encoder::backward`].
    pub fn backward_from_hidden(
        &self,
        pass: TrainingPass,
        d_hidden: Buffer<f32>,
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

    /// The weights to be changed. On a device that multiplies f16 they are held twice from now on.
    ///
    /// # Errors
    /// [`Error::Input`] for a model whose head cannot be trained ([`crate::model::HeadConfig::plain`]); as
    /// [`Encoder::load`], if they have to be read once more.
    pub(crate) fn trainable(&mut self) -> Result<Trainable<'_>> {
        self.plain_pooling()?;
        match &mut self.weights {
            Working::F32(weights) => Ok(Trainable {
                master: weights,
                working: None,
            }),
            Working::Mixed(weights) => {
                if self.master.is_none() {
                    let checkpoint = Checkpoint::open(&self.folder)?;
                    let table = Arc::clone(weights.table());
                    self.master = Some(Weights::load(table, &checkpoint, &self.device)?);
                }
                Ok(Trainable {
                    master: self.master.as_mut().expect("it is there now"),
                    working: Some(weights),
                })
            }
        }
    }

    /// SHA-256 of the weights as they are, in f32.
    ///
    /// # Errors
    /// As [`Encoder::load`], if they have to be read once more.
    pub(crate) fn weights_sha256(&mut self) -> Result<String> {
        let (matrices, vectors) = self.trainable()?.master.groups_mut();
        let mut hash = Sha256::new();
        for group in [matrices, vectors] {
            hash.update(bytemuck::cast_slice::<f32, u8>(&group.read()?));
        }
        Ok(hex(&hash.finalize()))
    }

    /// Takes the weights of the model folder `folder`, which has the sizes of this encoder.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub(crate) fn read_weights(&mut self, folder: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(folder)?;
        let table = Arc::clone(self.table());
        // They hold the addresses of the weights.
        self.graphs.clear();
        self.weights = match &self.weights {
            Working::F32(_) => Working::F32(Weights::load(table, &checkpoint, &self.device)?),
            Working::Mixed(_) => Working::Mixed(Weights::load(table, &checkpoint, &self.device)?),
        };
        self.master = None;
        self.folder = folder.to_path_buf();
        Ok(())
    }

    /// Makes `max_length` tokens the length limit, at most the present one.
    ///
    /// # Errors
    /// [`Error::Setting`] for one that leaves no room for a word, or is higher.
    pub(crate) fn set_max_length(&mut self, max_length: usize) -> Result<()> {
        self.tokenizer = self.tokenizer.with_max_length(max_length)?;
        Ok(())
    }

    /// Writes the model folder `to`, which must not exist: the settings of the folder that this encoder was read from,
    /// with its weights and its length limit as they are now; weights in the types that they have there.
    ///
    /// # Errors
    /// As [`ModelFolder::write`]; [`Error::Input`] if the folder that it was read from is not the same any more.
    pub fn save(&self, to: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(&self.folder)?;
        let mut folder = ModelFolder::read(&self.folder)?;
        let max_length = self.tokenizer.max_length();
        // A folder that says the same already keeps its bytes.
        if Tokenizer::load(&self.folder, None)?.max_length() != max_length {
            folder.set_max_length(max_length)?;
        }
        let notes = checkpoint.notes();
        match (&self.weights, &self.master) {
            (Working::F32(weights), _) | (_, Some(weights)) => {
                folder.write(to, weights.tensors(&checkpoint)?, notes)
            }
            (Working::Mixed(_), None) => folder.write(to, checkpoint.tensors(), notes),
        }
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        self.weights.table()
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
        let mut out = (self.device).alloc(inputs.texts.texts() * self.token_width())?;
        pool(
            hidden,
            &inputs.texts,
            self.plain_pooling()?.pooling,
            UNIT_LENGTH,
            &mut out,
        )?;
        Ok(out)
    }
}
