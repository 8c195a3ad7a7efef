//! The text encoder: BERT-family sentence encoders on our own operators.
//!
//! ```text
//! texts -> Tokenizer -> packed batches -> embedding, n x (attention, feed-forward) -> token vectors -> pool -> embeddings
//! ```
//!
//! [`Encoder::load`] reads the usual model folder (see [`config`]); [`Encoder::encode`] streams any number of texts
//! through in batches that hold a budget of tokens, never padded; [`Encoder::token_vectors`] gives the last layer
//! itself, [`Encoder::encode_tokens`] streams it for any number of texts. Published pooling, normalisation, length limit and prompts are honoured.
//!
//! On CUDA, small batches (up to 1,024 tokens) whose text lengths were met before run as graphs, one call instead of
//! one per kernel, with the same bits as a result. [`Encoder::set_graphs`] and the environment variable
//! `NEARMISS_GRAPHS` (`off`, or a number) say how many are kept.

mod forward;
mod graphs;
mod params;

use std::path::Path;

use half::f16;

pub use forward::{Observer, Stage};
pub use graphs::GraphStats;

use crate::device::{Buffer, Device, DeviceKind};
use crate::error::{Error, Result};
use crate::index::{TokenVectors, TokenVectorsBuilder};
use crate::model::hub::{FetchOptions, find_backbone};
use crate::model::{BertConfig, PoolingConfig};
use crate::ops::{Packing, pool};
use crate::text::{Batch, TextKind, Tokenized, Tokenizer, pack, plan_batches};
use graphs::{Graphs, Inputs, Output};
use params::Params;

/// Texts tokenised and batched together: enough that texts of like length meet, few enough that memory stays small.
const WINDOW: usize = 2048;

/// Bytes of token vectors that are handed out at a time.
const PIECE_BYTES: usize = 1 << 28;

/// A text encoder on a device.
pub struct Encoder {
    // Before the weights, whose addresses they hold.
    graphs: Graphs,
    device: Device,
    config: BertConfig,
    pooling: PoolingConfig,
    tokenizer: Tokenizer,
    weights: Weights,
    token_budget: usize,
}

/// The weights in the device's activation type.
enum Weights {
    F32(Params<f32>),
    F16(Params<f16>),
}

/// How an encoder is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Length limit in tokens; `None` takes the published one.
    pub max_length: Option<usize>,
    /// Tokens per batch; `None` takes a value that suits the device.
    pub token_budget: Option<usize>,
}

/// What [`Encoder::encode`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeStats {
    /// Texts encoded.
    pub texts: usize,
    /// Their tokens, special ones included.
    pub tokens: usize,
    /// Texts cut at the length limit.
    pub truncated: usize,
    /// Texts without any character but white space; they are encoded as their special tokens alone.
    pub empty: usize,
}

impl Encoder {
    /// The encoder of this name on `device`, as published: a known name (`all-MiniLM-L6-v2`), `org/name` of the Hugging
    /// Face Hub or a model folder. It is taken from this machine's caches, or fetched in silence: see
    /// [`find_backbone`], which says what it does.
    ///
    /// # Errors
    /// As [`find_backbone`] and [`Encoder::load`].
    pub fn from_name(name: &str, device: &Device) -> Result<Self> {
        let backbone = find_backbone(name, &FetchOptions::default(), &mut |_| {})?;
        Self::load(&backbone.folder, device, LoadOptions::default())
    }

    /// Reads a model folder onto `device`.
    ///
    /// # Errors
    /// One line naming the file, and the tensor or field in it, for anything missing, damaged or unsupported;
    /// [`Error::Usage`] if `NEARMISS_GRAPHS` is neither `off` nor a number.
    pub fn load(folder: &Path, device: &Device, options: LoadOptions) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::input(
                folder,
                "not a model folder; give one that holds config.json, tokenizer.json and model.safetensors",
            ));
        }
        let config = BertConfig::read(folder)?;
        let pooling = PoolingConfig::read(folder)?;
        let tokenizer = Tokenizer::load(folder, options.max_length)?;
        let half = device.kind() != DeviceKind::Cpu;
        let weights = if half {
            Weights::F16(Params::load(folder, &config, device)?)
        } else {
            Weights::F32(Params::load(folder, &config, device)?)
        };
        Ok(Encoder {
            graphs: Graphs::new()?,
            token_budget: options.token_budget.unwrap_or(default_budget(device)),
            device: device.clone(),
            config,
            pooling,
            tokenizer,
            weights,
        })
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// Its pooling.
    pub fn pooling(&self) -> PoolingConfig {
        self.pooling
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Width of embeddings and token vectors.
    pub fn width(&self) -> usize {
        self.config.d_model
    }

    /// Keeps at most `most` graphs of small batches from now on (CUDA only), each with the activations of its batch; 0
    /// gives up those there are and makes no more. Without this call as many as `NEARMISS_GRAPHS` says, or 32.
    pub fn set_graphs(&self, most: usize) {
        self.graphs.set_most(most);
    }

    /// What became of the graphs of small batches so far.
    pub fn graph_stats(&self) -> GraphStats {
        self.graphs.stats()
    }

    /// Encodes `texts` in order. `sink` gets the embeddings in pieces: the number of the first text and the rows
    /// `[n, d]` from there on; `progress` hears how many texts and tokens are done.
    ///
    /// Memory: one batch's activations and one piece of embeddings, whatever the number of texts. If the device runs
    /// out of memory the batch is halved and tried again.
    ///
    /// # Errors
    /// What the device or `sink` report; [`Error::Text`] for a text that cannot be tokenised or whose embedding is not
    /// finite.
    pub fn encode<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        kind: TextKind,
        mut sink: impl FnMut(usize, &[f32]) -> Result<()>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<EncodeStats> {
        let d = self.width();
        let mut job = Job::new(self);
        for (first, window) in (0..).step_by(WINDOW).zip(texts.chunks(WINDOW)) {
            let tokens = job
                .tokenize(&self.tokenizer, window, kind)
                .map_err(|e| e.after_texts(first))?;
            let mut rows = vec![0f32; window.len() * d];
            job.run(&tokens, &mut progress, |batch, which| {
                let pooled = self.pooled(batch)?;
                for (row, &text) in pooled.chunks_exact(d).zip(which) {
                    if row.iter().any(|v| !v.is_finite()) {
                        return Err(Error::text(
                            first + text,
                            format!(
                                "got an embedding that is not finite on {}: its activations overflow; try --device cpu",
                                self.device.name()
                            ),
                        ));
                    }
                    rows[text * d..][..d].copy_from_slice(row);
                }
                Ok(())
            })?;
            sink(first, &rows)?;
        }
        Ok(job.stats)
    }

    /// Encodes `texts` in order into token vectors, cut at `max_length` tokens if that is below the encoder's own
    /// limit. `sink` gets them in pieces: the number of the first text, up to 2,048 texts or 256 MiB from there on, and
    /// the embeddings `[n, d]` of these texts, cut like their tokens.
    ///
    /// Special tokens and punctuation are tokens like others. Memory: one piece and one batch's activations.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; [`Error::Usage`] for a limit that leaves no room for a word.
    pub fn encode_tokens<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        kind: TextKind,
        max_length: Option<usize>,
        mut sink: impl FnMut(usize, TokenVectors, &[f32]) -> Result<()>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<EncodeStats> {
        let d = self.width();
        let own = self.tokenizer.max_length();
        let limit = max_length.map_or(own, |limit| limit.min(own));
        let tokenizer = self.tokenizer.with_max_length(limit)?;
        let window = (PIECE_BYTES / (2 * d * limit)).clamp(1, WINDOW);
        let mut job = Job::new(self);
        for (first, window) in (0..).step_by(window).zip(texts.chunks(window)) {
            let tokens = job
                .tokenize(&tokenizer, window, kind)
                .map_err(|e| e.after_texts(first))?;
            let mut builder = TokenVectorsBuilder::new(&self.device, d, &tokens.lengths())?;
            let mut rows = vec![0f32; window.len() * d];
            job.run(&tokens, &mut progress, |batch, which| {
                let (h, packing) = self.token_vectors(batch, None)?;
                let pooled = self.pool(&h, &packing)?.read()?;
                for (row, &text) in pooled.chunks_exact(d).zip(which) {
                    rows[text * d..][..d].copy_from_slice(row);
                }
                builder.place(&h, &packing, which)
            })?;
            let vectors = builder.finish().map_err(|e| e.after_texts(first))?;
            sink(first, vectors, &rows)?;
        }
        Ok(job.stats)
    }

    /// [`Encoder::encode`] into one piece, `[n, d]`.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], kind: TextKind) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(texts.len() * self.width());
        self.encode(
            texts,
            kind,
            |_, rows| {
                all.extend_from_slice(rows);
                Ok(())
            },
            |_, _| {},
        )?;
        Ok(all)
    }

    /// The last layer's token vectors of a packed batch, `[t, d]` on the device, with their packing. `observe` is
    /// shown the residual stream after the embedding and after every layer.
    ///
    /// # Errors
    /// [`Error::Shape`] for ids or lengths beyond the model's tables, or what the device reports.
    pub fn token_vectors(
        &self,
        batch: &Batch,
        observe: Option<Observer<'_>>,
    ) -> Result<(Buffer<f32>, Packing)> {
        self.check_batch(batch)?;
        let input = [&batch.ids[..], &batch.positions, &batch.offsets];
        // An observer wants to see what happens in between.
        if observe.is_none()
            && let Some(h) = self.graphs.run(
                &self.device,
                Output::Vectors,
                input,
                |inputs| self.forward(inputs, None),
                |h| {
                    let mut copy = self.device.alloc(h.len())?;
                    copy.copy_from(0, h)?;
                    Ok(copy)
                },
            )?
        {
            return Ok((h, Packing::new(&self.device, batch.offsets.clone())?));
        }
        let inputs = self.upload(input)?;
        let h = self.forward(&inputs, observe)?;
        Ok((h, inputs.packing))
    }

    /// The embeddings of a packed batch, `[n, d]`.
    fn pooled(&self, batch: &Batch) -> Result<Vec<f32>> {
        self.check_batch(batch)?;
        let input = [&batch.ids[..], &batch.positions, &batch.offsets];
        let work = |inputs: &Inputs| {
            let h = self.forward(inputs, None)?;
            self.pool(&h, &inputs.packing)
        };
        let replayed = self
            .graphs
            .run(&self.device, Output::Embeddings, input, work, |out| {
                out.read()
            })?;
        match replayed {
            Some(rows) => Ok(rows),
            None => work(&self.upload(input)?)?.read(),
        }
    }

    /// The published pooling of token vectors.
    fn pool(&self, h: &Buffer<f32>, packing: &Packing) -> Result<Buffer<f32>> {
        let mut out = self.device.alloc::<f32>(packing.texts() * self.width())?;
        let PoolingConfig { pooling, normalize } = self.pooling;
        pool(h, packing, pooling, normalize, &mut out)?;
        Ok(out)
    }

    fn upload(&self, [ids, positions, offsets]: [&[u32]; 3]) -> Result<Inputs> {
        Inputs::upload(&self.device, ids, positions, offsets)
    }

    /// The token vectors of a batch that is on the device.
    fn forward(&self, inputs: &Inputs, observe: Option<Observer<'_>>) -> Result<Buffer<f32>> {
        match &self.weights {
            Weights::F32(params) => forward::forward(params, &self.config, inputs, observe),
            Weights::F16(params) => forward::forward(params, &self.config, inputs, observe),
        }
    }

    /// A GPU cannot report an index out of its table, so it is checked here.
    fn check_batch(&self, batch: &Batch) -> Result<()> {
        let check = |what, values: &[u32], limit: usize| match values.iter().max() {
            Some(&max) if max as usize >= limit => Err(Error::shape(
                "embedding",
                what,
                format!("below {limit}"),
                max,
            )),
            _ => Ok(()),
        };
        check("ids", &batch.ids, self.config.vocab)?;
        check("positions", &batch.positions, self.config.max_positions)
    }
}

/// Texts on their way through an encoder, in batches that fit the device.
struct Job<'a> {
    encoder: &'a Encoder,
    budget: usize,
    stats: EncodeStats,
}

impl<'a> Job<'a> {
    fn new(encoder: &'a Encoder) -> Self {
        Job {
            encoder,
            budget: encoder.token_budget,
            stats: EncodeStats::default(),
        }
    }

    fn tokenize<S: AsRef<str> + Sync>(
        &mut self,
        tokenizer: &Tokenizer,
        window: &[S],
        kind: TextKind,
    ) -> Result<Tokenized> {
        let tokenized = tokenizer.encode_kind(window, kind)?;
        self.stats.truncated += tokenized.n_truncated;
        let empty = window.iter().filter(|t| t.as_ref().trim().is_empty());
        self.stats.empty += empty.count();
        Ok(tokenized)
    }

    /// Runs `work` on batches of the texts, with the numbers of the texts in each. One that runs out of memory is
    /// repeated in halves, so `work` must stand being called twice for a text.
    fn run(
        &mut self,
        tokens: &Tokenized,
        progress: &mut impl FnMut(usize, usize),
        mut work: impl FnMut(&Batch, &[usize]) -> Result<()>,
    ) -> Result<()> {
        // A stack, so that a batch that does not fit can be replaced by its halves.
        let mut todo = plan_batches(&tokens.lengths(), self.budget, usize::MAX);
        todo.reverse();
        while let Some(which) = todo.pop() {
            let batch = pack(&tokens.ids, &which);
            match work(&batch, &which) {
                // Graphs hold memory that this batch may need.
                Err(Error::OutOfMemory { .. }) if self.encoder.graphs.clear() => {
                    todo.push(which);
                    continue;
                }
                Err(Error::OutOfMemory { .. }) if which.len() > 1 => {
                    self.budget = (self.budget / 2).max(1);
                    let (a, b) = which.split_at(which.len() / 2);
                    todo.extend([b.to_vec(), a.to_vec()]);
                    continue;
                }
                other => other?,
            }
            self.stats.texts += which.len();
            self.stats.tokens += batch.n_tokens();
            progress(self.stats.texts, self.stats.tokens);
        }
        Ok(())
    }
}

/// Tokens per batch whose activations fit `memory` bytes for the model in `folder` on `device`; at least one token.
///
/// At its widest a layer holds the residual stream twice, its rounded copies, and either queries, keys, values and
/// context or the inner feed-forward activations and their product.
///
/// # Errors
/// As [`BertConfig::read`].
pub fn token_budget(folder: &Path, device: &Device, memory: u64) -> Result<usize> {
    let config = BertConfig::read(folder)?;
    let act = if device.kind() == DeviceKind::Cpu {
        4
    } else {
        2
    };
    let (d, ff) = (config.d_model as u64, config.d_ff as u64);
    let per_token = 2 * d * (4 + act) + act * (4 * d).max(ff + d);
    Ok((memory / per_token).clamp(1, 1 << 20) as usize)
}

/// Tokens per batch that keep a device busy: on the CPU few, so that activations stay in cache; on a GPU many, so
/// that launches do not show; on a software adapter few again.
fn default_budget(device: &Device) -> usize {
    match device.kind() {
        DeviceKind::Cpu => 2048,
        _ if device.is_software() => 1024,
        _ => 32_768,
    }
}
