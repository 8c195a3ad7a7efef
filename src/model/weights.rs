//! The weights of a model: a table of its tensors, and flat memory that the table divides.
//!
//! All weights of a model are two buffers: *matrices* (the tables and the weights of linear layers) in the type a device
//! multiplies in, and *vectors* (biases and layer norms) in f32 everywhere. Every tensor begins at a multiple of 128
//! elements, which is one of 256 bytes in f16 and in f32 alike, and what lies between tensors is zero. So a master in f32,
//! a working copy in f16, and gradients and moments later have their tensors at the same elements, and what is done to
//! all weights of a group is done to one range. Queries, keys and values are stored as one matrix, as they are multiplied.
//!
//! [`Weights::load`] reads a checkpoint, [`Weights::tensors`] gives its tensors back under their own names and in their
//! own types, with those that an encoder does not use. [`Weights::zeros`] has a number for every weight, as gradients and
//! moments are.

use std::collections::HashMap;
use std::sync::Arc;

use half::f16;

use super::checkpoint::{Checkpoint, Tensor};
use crate::device::{Buffer, Device, Element, ElementType, Float, Slice, SliceMut};
use crate::error::{Error, Result};
use crate::model::BertConfig;

/// Elements between the first elements of tensors are a multiple of this.
const ALIGN: usize = 128;

/// The two buffers, which are also the two groups of weight decay: an optimizer that exempts biases and layer norms from
/// it exempts [`Group::Vectors`] and decays all matrices, embeddings included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Tables and weights of linear layers.
    Matrices,
    /// Biases and layer norms.
    Vectors,
}

impl Group {
    /// Whether weight decay takes these, where it exempts anything.
    pub fn decays(self) -> bool {
        self == Group::Matrices
    }
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in a checkpoint without a task head; several where a checkpoint has its rows in parts of equal size.
    pub names: Vec<String>,
    /// `[rows, columns]` or `[elements]`, all parts together.
    pub shape: Vec<usize>,
    /// In which buffer it is.
    pub group: Group,
    /// Its first element there.
    pub start: usize,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape of one part.
    fn part_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        shape[0] /= self.names.len();
        shape
    }
}

/// Where a matrix is.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub(crate) start: usize,
    elements: usize,
}

/// Where a vector is.
#[derive(Clone, Copy, Debug)]
pub struct Vector {
    pub(crate) start: usize,
    elements: usize,
}

/// A linear layer: `x w^T + bias`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Vector,
}

/// The two vectors of a layer norm, `[d]` each.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Factors.
    pub weight: Vector,
    /// Summands.
    pub bias: Vector,
}

/// One transformer layer, in the order of its forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// Queries, keys and values in one: `[3 d, d]`.
    pub qkv: Linear,
    /// `[d, d]`.
    pub attention_out: Linear,
    /// After the attention.
    pub attention_norm: Norm,
    /// `[d_ff, d]`.
    pub ff_in: Linear,
    /// `[d, d_ff]`.
    pub ff_out: Linear,
    /// After the feed-forward part.
    pub ff_norm: Norm,
}

/// The tensors of a BERT encoder; the pooler of a checkpoint is not among them.
#[derive(Clone, Debug)]
pub struct Table {
    /// `[vocab, d]`.
    pub word: Matrix,
    /// `[max_positions, d]`.
    pub position: Matrix,
    /// `[token_types, d]`.
    pub token_type: Matrix,
    /// After the sum of the three.
    pub embedding_norm: Norm,
    /// The layers.
    pub layers: Vec<Layer>,
    entries: Vec<Entry>,
    /// Elements of both buffers.
    elements: [usize; 2],
}

impl Table {
    /// The table of an encoder of these sizes, tensors in the order of its forward pass.
    pub fn new(config: &BertConfig) -> Self {
        let mut b = Builder::default();
        let (d, ff) = (config.d_model, config.d_ff);
        let table = |of: &str| vec![format!("embeddings.{of}_embeddings.weight")];
        Table {
            word: b.matrix(table("word"), config.vocab, d),
            position: b.matrix(table("position"), config.max_positions, d),
            token_type: b.matrix(table("token_type"), config.token_types, d),
            embedding_norm: b.norm("embeddings.LayerNorm", d),
            layers: (0..config.n_layers)
                .map(|i| {
                    let name = |part: &str| format!("encoder.layer.{i}.{part}");
                    let qkv = ["query", "key", "value"]
                        .map(|part| name(&format!("attention.self.{part}")));
                    Layer {
                        qkv: b.linear(&qkv, 3 * d, d),
                        attention_out: b.linear(&[name("attention.output.dense")], d, d),
                        attention_norm: b.norm(&name("attention.output.LayerNorm"), d),
                        ff_in: b.linear(&[name("intermediate.dense")], ff, d),
                        ff_out: b.linear(&[name("output.dense")], d, ff),
                        ff_norm: b.norm(&name("output.LayerNorm"), d),
                    }
                })
                .collect(),
            elements: b.ends,
            entries: b.entries,
        }
    }

    /// Its rows.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Elements of a buffer that holds a group, with what lies between tensors.
    pub fn elements(&self, group: Group) -> usize {
        self.elements[group as usize]
    }
}

/// What divides the two buffers of a model's weights.
pub trait Layout {
    /// Elements of a buffer that holds a group, with what lies between tensors.
    fn elements(&self, group: Group) -> usize;
}

impl Layout for Table {
    fn elements(&self, group: Group) -> usize {
        Table::elements(self, group)
    }
}

/// Places the tensors of a table one behind the other.
#[derive(Default)]
pub(crate) struct Builder {
    entries: Vec<Entry>,
    ends: [usize; 2],
}

impl Builder {
    /// The elements of both buffers so far.
    pub fn ends(&self) -> [usize; 2] {
        self.ends
    }

    /// Adds a tensor; returns where it is.
    fn add(&mut self, names: Vec<String>, shape: Vec<usize>, group: Group) -> (usize, usize) {
        let end = &mut self.ends[group as usize];
        let start = *end;
        let elements = shape.iter().product::<usize>();
        *end += elements.next_multiple_of(ALIGN);
        self.entries.push(Entry {
            names,
            shape,
            group,
            start,
        });
        (start, elements)
    }

    pub fn matrix(&mut self, names: Vec<String>, rows: usize, columns: usize) -> Matrix {
        let (start, elements) = self.add(names, vec![rows, columns], Group::Matrices);
        Matrix { start, elements }
    }

    pub fn vector(&mut self, names: Vec<String>, elements: usize) -> Vector {
        let (start, elements) = self.add(names, vec![elements], Group::Vectors);
        Vector { start, elements }
    }

    pub fn linear(&mut self, names: &[String], out: usize, input: usize) -> Linear {
        let all = |end: &str| names.iter().map(|name| format!("{name}.{end}")).collect();
        Linear {
            weight: self.matrix(all("weight"), out, input),
            bias: self.vector(all("bias"), out),
        }
    }

    pub fn norm(&mut self, name: &str, d: usize) -> Norm {
        Norm {
            weight: self.vector(vec![format!("{name}.weight")], d),
            bias: self.vector(vec![format!("{name}.bias")], d),
        }
    }
}

/// The weights of a model in the memory of a device, matrices in `A`; of an encoder unless a table says otherwise.
pub struct Weights<A: Float, L = Table> {
    table: Arc<L>,
    matrices: Buffer<A>,
    vectors: Buffer<f32>,
}

/// A number for every weight, where the weight is: gradients of a loss.
pub type Gradients<L = Table> = Weights<f32, L>;

/// Weights as a device multiplies them.
pub(crate) enum Working<L = Table> {
    F32(Weights<f32, L>),
    Mixed(Weights<f16, L>),
}

impl<L: Layout> Working<L> {
    /// What is where.
    pub fn table(&self) -> &Arc<L> {
        match self {
            Working::F32(weights) => weights.table(),
            Working::Mixed(weights) => weights.table(),
        }
    }
}

/// Weights as an optimizer changes them.
pub(crate) struct Trainable<'a, L = Table> {
    /// In f32.
    pub master: &'a mut Weights<f32, L>,
    /// The copy that products read, where a device multiplies f16.
    pub working: Option<&'a mut Weights<f16, L>>,
}

/// Elements that [`Weights::clear`] writes at a time.
const CLEARED: usize = 1 << 20;

impl<A: Float, L: Layout> Weights<A, L> {
    /// Places both groups, as the table divides them, on `device`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for other numbers of elements, [`crate::Error::Invalid`] for a matrix with a number that does
    /// not fit `A`, or what the device reports.
    pub(crate) fn from_host(
        table: Arc<L>,
        matrices: &[f32],
        vectors: &[f32],
        device: &Device,
    ) -> Result<Self> {
        let mut weights = Self::zeros(table, device)?;
        fits::<A>(matrices).map_err(Error::Invalid)?;
        let matrices: Vec<A> = matrices.iter().map(|&v| A::from_f32(v)).collect();
        weights.matrices.write(0, &matrices)?;
        weights.vectors.write(0, vectors)?;
        Ok(weights)
    }

    /// A zero for every weight.
    ///
    /// # Errors
    /// What the device reports.
    pub fn zeros(table: Arc<L>, device: &Device) -> Result<Self> {
        let mut weights = Weights {
            matrices: device.alloc(table.elements(Group::Matrices))?,
            vectors: device.alloc(table.elements(Group::Vectors))?,
            table,
        };
        weights.clear()?;
        Ok(weights)
    }

    /// Makes everything zero, on the device.
    ///
    /// # Errors
    /// What the device reports.
    pub fn clear(&mut self) -> Result<()> {
        clear(&mut self.matrices)?;
        clear(&mut self.vectors)
    }

    /// What is where.
    pub fn table(&self) -> &Arc<L> {
        &self.table
    }

    /// The device that holds them.
    pub fn device(&self) -> &Device {
        self.matrices.device()
    }

    /// A matrix, row-major.
    pub fn matrix(&self, at: Matrix) -> Slice<'_, A> {
        self.matrices.slice(at.start..at.start + at.elements)
    }

    /// A vector.
    pub fn vector(&self, at: Vector) -> Slice<'_, f32> {
        self.vectors.slice(at.start..at.start + at.elements)
    }

    /// All matrices, as the table places them.
    pub fn matrices(&self) -> &Buffer<A> {
        &self.matrices
    }

    /// All vectors, as the table places them.
    pub fn vectors(&self) -> &Buffer<f32> {
        &self.vectors
    }

    /// All matrices and all vectors, to be written.
    pub fn groups_mut(&mut self) -> (&mut Buffer<A>, &mut Buffer<f32>) {
        (&mut self.matrices, &mut self.vectors)
    }

    /// A matrix, to be written.
    pub fn matrix_mut(&mut self, at: Matrix) -> SliceMut<'_, A> {
        part(self.matrices.as_slice_mut(), at.start, at.elements)
    }

    /// Matrices, to be written, in the order in which they lie.
    pub fn matrices_mut<const N: usize>(&mut self, at: [Matrix; N]) -> [SliceMut<'_, A>; N] {
        let places = at.map(|m| (m.start, m.elements));
        parts(self.matrices.as_slice_mut(), places)
    }

    /// Weight and bias of a linear layer, to be written.
    pub fn linear_mut(&mut self, at: Linear) -> (SliceMut<'_, A>, SliceMut<'_, f32>) {
        let (w, b) = (at.weight, at.bias);
        let (matrices, vectors) = (&mut self.matrices, &mut self.vectors);
        (
            part(matrices.as_slice_mut(), w.start, w.elements),
            part(vectors.as_slice_mut(), b.start, b.elements),
        )
    }

    /// Weight and bias of a norm, to be written.
    pub fn norm_mut(&mut self, at: Norm) -> [SliceMut<'_, f32>; 2] {
        let places = [at.weight, at.bias].map(|v| (v.start, v.elements));
        parts(self.vectors.as_slice_mut(), places)
    }
}

impl<A: Float> Weights<A> {
    /// Reads the tensors of `table` from a checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::values`], and for a matrix with a number that does not fit `A`.
    pub fn load(table: Arc<Table>, checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let mut weights = Weights {
            matrices: device.alloc(table.elements(Group::Matrices))?,
            vectors: device.alloc(table.elements(Group::Vectors))?,
            table: table.clone(),
        };
        for entry in table.entries() {
            let shape = entry.part_shape();
            let part = shape.iter().product::<usize>();
            for (i, name) in entry.names.iter().enumerate() {
                let start = entry.start + i * part;
                checkpoint.pieces(name, &shape, |at, values| {
                    let to = start + at;
                    match entry.group {
                        Group::Vectors => weights.vectors.write(to, values),
                        Group::Matrices => {
                            fits::<A>(values).map_err(|what| checkpoint.fault(name, what))?;
                            let values: Vec<A> = values.iter().map(|&v| A::from_f32(v)).collect();
                            weights.matrices.write(to, &values)
                        }
                    }
                })?;
            }
            // Whatever is done to the whole buffer finds numbers everywhere.
            let end = entry.start + entry.elements();
            let gap = end.next_multiple_of(ALIGN) - end;
            match entry.group {
                Group::Vectors => weights.vectors.write(end, &vec![0.0; gap])?,
                Group::Matrices => weights.matrices.write(end, &vec![A::from_f32(0.0); gap])?,
            }
        }
        Ok(weights)
    }

    /// The tables of words, positions and token types, to be written.
    pub fn tables_mut(&mut self) -> [SliceMut<'_, A>; 3] {
        let table = &self.table;
        self.matrices_mut([table.word, table.position, table.token_type])
    }

    /// The tensors of a checkpoint with these weights in the place of its own: their names and types are the
    /// checkpoint's, and what the table does not have stays as it is. Values are rounded where the checkpoint is f16, so
    /// what is to be kept is a master, not a working copy.
    ///
    /// # Errors
    /// [`crate::Error::Input`] naming a tensor that has another shape or type, or a value that its type does not hold;
    /// what the device reports.
    pub fn tensors<'c>(&self, checkpoint: &'c Checkpoint) -> Result<Vec<(String, Tensor<'c>)>> {
        let matrices = self.matrices.read()?;
        let vectors = self.vectors.read()?;
        let mut places = HashMap::new();
        for entry in self.table.entries() {
            for (part, name) in entry.names.iter().enumerate() {
                places.insert(name.as_str(), (entry, part));
            }
        }
        let mut all = Vec::new();
        for (stored_name, tensor) in checkpoint.tensors() {
            let name = checkpoint.plain_name(&stored_name);
            let Some((entry, part)) = places.remove(&*name) else {
                all.push((stored_name, tensor));
                continue;
            };
            let shape = entry.part_shape();
            if tensor.shape != shape {
                let what = format!("expected shape {shape:?}, got {:?}", tensor.shape);
                return Err(checkpoint.fault(&name, what));
            }
            let elements: usize = shape.iter().product();
            let range = entry.start + part * elements..entry.start + (part + 1) * elements;
            let tensor = match entry.group {
                Group::Vectors => Tensor::from_f32(&vectors[range], tensor.dtype, shape),
                Group::Matrices => {
                    let values: Vec<f32> = matrices[range].iter().map(|v| v.to_f32()).collect();
                    Tensor::from_f32(&values, tensor.dtype, shape)
                }
            };
            let tensor = tensor.map_err(|what| checkpoint.fault(&name, what))?;
            all.push((stored_name, tensor));
        }
        match places.into_keys().min() {
            Some(name) => Err(checkpoint.fault(name, "missing".into())),
            None => Ok(all),
        }
    }
}

/// Elements of a view.
fn part<T: Element>(view: SliceMut<'_, T>, start: usize, elements: usize) -> SliceMut<'_, T> {
    view.split_at_mut(start).1.split_at_mut(elements).0
}

/// Several of them, by first element and number, in the order in which they lie.
fn parts<T: Element, const N: usize>(
    view: SliceMut<'_, T>,
    places: [(usize, usize); N],
) -> [SliceMut<'_, T>; N] {
    let mut rest = Some((0, view));
    places.map(|(start, elements)| {
        let (at, view) = rest.take().expect("put back below");
        let (wanted, after) = view.split_at_mut(start - at).1.split_at_mut(elements);
        rest = Some((start + elements, after));
        wanted
    })
}

/// Writes zeros, most of them as copies on the device.
fn clear<T: Float>(buffer: &mut Buffer<T>) -> Result<()> {
    let zeros = vec![T::from_f32(0.0); CLEARED.min(buffer.len())];
    let zeros = buffer.device().upload(&zeros)?;
    let mut at = 0;
    while at < buffer.len() {
        let count = zeros.len().min(buffer.len() - at);
        buffer.copy_from(at, zeros.slice(..count))?;
        at += count;
    }
    Ok(())
}

/// Why values cannot be had in `A`, if they cannot.
fn fits<A: Float>(values: &[f32]) -> Result<(), String> {
    if A::TYPE != ElementType::F16 {
        return Ok(());
    }
    let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    if largest > f16::MAX.to_f32() {
        return Err(format!(
            "{largest} does not fit f16, which this device computes with; use the CPU"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn golden(model: &str) -> (BertConfig, Checkpoint) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(model);
        (
            BertConfig::read(&folder).unwrap(),
            Checkpoint::open(&folder).unwrap(),
        )
    }

    const MODELS: [&str; 2] = ["tiny-bert-2x64", "tiny-bert-3x96"];

    #[test]
    fn tensors_are_apart_aligned_and_whole() {
        // A width and an inner width that leave gaps behind biases.
        let config = BertConfig {
            vocab: 11,
            d_model: 96,
            n_layers: 2,
            n_heads: 3,
            d_ff: 136,
            max_positions: 16,
            token_types: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
        };
        let table = Table::new(&config);
        for group in [Group::Matrices, Group::Vectors] {
            let mut end = 0;
            for entry in table.entries().iter().filter(|e| e.group == group) {
                assert!(entry.start >= end && entry.start - end < ALIGN);
                assert!(
                    (entry.start * 2).is_multiple_of(256),
                    "256 bytes, f16 and f32"
                );
                assert_eq!(entry.shape.len() == 2, group.decays());
                end = entry.start + entry.elements();
            }
            assert_eq!(table.elements(group), end.next_multiple_of(ALIGN));
        }
        let d = 96;
        let per_layer = 4 * d * (d + 1) + 2 * d * 136 + 136 + d + 4 * d;
        let all: usize = table.entries().iter().map(Entry::elements).sum();
        assert_eq!(all, (11 + 16 + 2) * d + 2 * d + 2 * per_layer);
        let names: Vec<_> = table.entries().iter().flat_map(|e| &e.names).collect();
        assert_eq!(names.len(), 5 + 2 * 16, "no name is left out or twice");
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let cpu = Device::cpu();
        for model in MODELS {
            let (config, checkpoint) = golden(model);
            let table = Arc::new(Table::new(&config));
            let weights = Weights::<f32>::load(table.clone(), &checkpoint, &cpu).unwrap();
            let tensors = weights.tensors(&checkpoint).unwrap();
            assert!(
                tensors.iter().map(|t| &t.0).eq(checkpoint
                    .tensors()
                    .map(|t| t.0)
                    .collect::<Vec<_>>()
                    .iter())
            );
            for ((name, got), (_, want)) in tensors.iter().zip(checkpoint.tensors()) {
                assert_eq!(*got, want, "{model}: {name}");
            }
            let used: usize = table.entries().iter().map(|e| e.names.len()).sum();
            assert!(tensors.len() > used, "{model} has a head that is not used");
            // Between tensors there is nothing.
            let sum = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
            let whole = sum(&weights.matrices().read().unwrap());
            let parts: f64 = (table.entries().iter())
                .filter(|e| e.group == Group::Matrices)
                .map(|e| sum(&weights.matrices().read().unwrap()[e.start..][..e.elements()]))
                .sum();
            assert!((whole - parts).abs() < 1e-9, "{whole} {parts}");
        }
    }

    #[test]
    fn what_was_changed_is_what_changes() {
        let (config, checkpoint) = golden(MODELS[1]);
        let table = Arc::new(Table::new(&config));
        let mut weights = Weights::<f32>::load(table.clone(), &checkpoint, &Device::cpu()).unwrap();
        // The third row of the keys of layer 1, in the middle of the fused matrix, and one of its biases.
        let d = config.d_model;
        let qkv = table.layers[1].qkv;
        let row = qkv.weight.start + (d + 2) * d;
        weights.matrices.write(row, &vec![0.25; d]).unwrap();
        weights
            .vectors
            .write(qkv.bias.start + d + 2, &[-0.5])
            .unwrap();
        let changed: Vec<String> = (weights.tensors(&checkpoint).unwrap().into_iter())
            .zip(checkpoint.tensors())
            .filter(|((_, got), (_, want))| got != want)
            .map(|((name, got), _)| {
                let values = got.to_f32().unwrap();
                match got.shape.len() {
                    2 => assert_eq!(values[2 * d..3 * d], vec![0.25; d]),
                    _ => assert_eq!(values[2], -0.5),
                }
                name
            })
            .collect();
        let name = |end: &str| format!("bert.encoder.layer.1.attention.self.key.{end}");
        let mut want = [name("weight"), name("bias")];
        want.sort();
        let mut changed = changed;
        changed.sort();
        assert_eq!(changed, want);

        // The checkpoint is f16 and cannot hold this.
        weights.matrices.write(row, &[1e6]).unwrap();
        let error = weights.tensors(&checkpoint).unwrap_err().to_string();
        assert!(
            error.contains("key.weight") && error.contains("f16"),
            "{error}"
        );
    }

    #[test]
    fn parts_to_be_written_are_where_they_are_read() {
        let (config, _) = golden(MODELS[1]);
        let table = Arc::new(Table::new(&config));
        let mut weights = Weights::<f32>::zeros(table.clone(), &Device::cpu()).unwrap();
        let fill = |mut view: SliceMut<'_, f32>, value: f32| view.host().fill(value);
        let layer = table.layers[2];
        let [word, position, token_type] = weights.tables_mut();
        fill(word, 1.0);
        fill(position, 2.0);
        fill(token_type, 3.0);
        let (weight, bias) = weights.linear_mut(layer.ff_in);
        fill(weight, 4.0);
        fill(bias, 5.0);
        let [weight, bias] = weights.norm_mut(layer.ff_norm);
        fill(weight, 6.0);
        fill(bias, 7.0);
        let sum = |view: Slice<'_, f32>, value: f32| {
            let values = view.read().unwrap();
            assert!(values.iter().all(|&v| v == value));
            values.len() as f64 * f64::from(value)
        };
        let matrices = sum(weights.matrix(table.word), 1.0)
            + sum(weights.matrix(table.position), 2.0)
            + sum(weights.matrix(table.token_type), 3.0)
            + sum(weights.matrix(layer.ff_in.weight), 4.0);
        let vectors = sum(weights.vector(layer.ff_in.bias), 5.0)
            + sum(weights.vector(layer.ff_norm.weight), 6.0)
            + sum(weights.vector(layer.ff_norm.bias), 7.0);
        let all = |buffer: &Buffer<f32>| -> f64 {
            let values = buffer.read().unwrap();
            values.into_iter().map(f64::from).sum()
        };
        assert_eq!(all(weights.matrices()), matrices, "and nothing else");
        assert_eq!(all(weights.vectors()), vectors);
        weights.clear().unwrap();
        assert_eq!(all(weights.matrices()) + all(weights.vectors()), 0.0);
    }

    #[test]
    fn a_checkpoint_of_other_sizes_is_refused() {
        let (config, checkpoint) = golden(MODELS[0]);
        let refuse = |config: &BertConfig| {
            let table = Arc::new(Table::new(config));
            let loaded = Weights::<f32>::load(table, &checkpoint, &Device::cpu());
            loaded.err().unwrap().to_string()
        };
        let deeper = BertConfig {
            n_layers: 3,
            ..config.clone()
        };
        assert!(refuse(&deeper).contains("encoder.layer.2.attention.self.query.weight: missing"));
        let wider = BertConfig {
            d_ff: 264,
            ..config
        };
        assert!(refuse(&wider).contains("expected shape [264, 64], got [256, 64]"));
    }
}
