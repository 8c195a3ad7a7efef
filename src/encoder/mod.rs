//! The text encoder: BERT-family sentence encoders on our own operators.
//!
//! ```text
//! texts -> Tokenizer -> packed batches -> embedding, n x (attention, feed-forward) -> token vectors -> pool -> embeddings
//! ```
//!
//! [`Encoder::from_name`] finds or fetches a published model, [`Encoder::load`] reads a model folder; [`Encoder::encode`]
//! streams any number of texts through in batches that hold a budget of tokens, never padded. [`Encoder::hidden_states`]
//! gives the last layer itself, [`Encoder::windows`] streams it for any number of texts. A model folder is done as it is
//! written or refused by name: modules, length limit, tokenizer and prompts ([`crate::model::keys`] has every key).
//!
//! On CUDA, small batches (up to 1,024 tokens) whose text lengths were met before run as graphs, one call instead of
//! one per kernel, with the same bits as a result. [`Encoder::set_graphs`] and the environment variable
//! `NEARMISS_GRAPHS` (`off`, or a number) say how many are kept.

mod backward;
mod forward;
mod graphs;
mod head;
mod training;
mod window;

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use forward::{
    Dropout, Observer, Saved, SavedAttention, SavedFeedForward, SavedLayer, SavedPass, Stage,
    Stream,
};
pub use graphs::GraphStats;
pub use training::TrainingPass;
pub use window::{HiddenBatch, Window, WindowOptions};

use crate::device::{Buffer, Device, DeviceKind, Precision};
use crate::error::{Error, Result};
use crate::model::hub::{FetchOptions, find_backbone};
use crate::model::weights::{Table, Weights, Working};
use crate::model::{BertConfig, Checkpoint, HeadConfig, PoolingConfig, keys};
use crate::ops::{PackedTexts, pool};
use crate::text::{Batch, TextKind, Tokenizer};
use forward::Masks;
use graphs::{Graphs, Inputs, Output};
use head::Head;
use window::{Pooled, WINDOW};

/// Why what a model computed on `device` is not finite, and what may help.
pub(crate) fn why_not_finite(device: &Device) -> &'static str {
    match device.precision() {
        Precision::Mixed => "its activations overflow in f16; try the CPU",
        Precision::F32 => {
            "its weights or its config.json make numbers that f32 does not hold; check the model"
        }
    }
}

/// A text encoder on a device.
pub struct Encoder {
    // Before the weights, whose addresses they hold.
    graphs: Graphs,
    device: Device,
    config: BertConfig,
    head: Head,
    /// What the device does of the head, and how many of its steps are done with it.
    pooling: Option<(PoolingConfig, usize)>,
    tokenizer: Tokenizer,
    /// The tokenizer with the shorter limit that was asked for last: a copy takes as long as encoding a short text.
    limited: Mutex<Option<Arc<Tokenizer>>>,
    weights: Working,
    /// The weights in f32 beside a working copy in f16, once a training has changed them.
    master: Option<Weights<f32>>,
    /// Where it was read from.
    folder: PathBuf,
    token_budget: usize,
    /// Texts of a window.
    window: usize,
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

    /// Reads a model folder onto `device`. What the folder says without effect here is said on standard error, once.
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
        crate::model::head::check_encoder_place(folder)?;
        let config = BertConfig::read(folder)?;
        let mut notes = keys::check_folder(folder)?;
        let head = HeadConfig::read(folder, config.d_model, &mut notes)?;
        let table = Arc::new(Table::new(&config));
        let weights = || -> Result<Working> {
            let checkpoint = Checkpoint::open(folder)?;
            Ok(match device.precision() {
                Precision::F32 => Working::F32(Weights::load(table, &checkpoint, device)?),
                Precision::Mixed => Working::Mixed(Weights::load(table, &checkpoint, device)?),
            })
        };
        // The one takes about as long as the other.
        let (tokenizer, weights) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| Tokenizer::load(folder, options.max_length));
            let weights = weights();
            let tokenizer = tokenizer.join();
            (
                tokenizer.unwrap_or_else(|panic| resume_unwind(panic)),
                weights,
            )
        });
        let (tokenizer, weights) = (tokenizer?, weights?);
        notes.extend(tokenizer.prompts().notes(folder)?);
        let pooling = head.on_device();
        let head = Head::load(folder, head, device)?;
        keys::say(notes);
        Ok(Encoder {
            graphs: Graphs::new()?,
            token_budget: options.token_budget.unwrap_or(default_budget(device)),
            window: WINDOW,
            device: device.clone(),
            config,
            head,
            pooling,
            tokenizer,
            limited: Mutex::new(None),
            weights,
            master: None,
            folder: folder.to_path_buf(),
        })
    }

    /// The model folder that it was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// What makes an embedding of the token vectors of a text.
    pub fn head(&self) -> &HeadConfig {
        self.head.config()
    }

    /// The same in words, with what its weights are.
    pub fn describe_head(&self) -> String {
        self.head.describe()
    }

    /// Its head, if that is a pooling that a device does and nothing more.
    pub fn pooling(&self) -> Option<PoolingConfig> {
        self.head().plain()
    }

    /// The same where only such a head will do.
    ///
    /// # Errors
    /// [`Error::Input`] for a head that does more.
    pub(crate) fn plain_pooling(&self) -> Result<PoolingConfig> {
        self.pooling().ok_or_else(|| {
            Error::input(
                &self.folder,
                format!(
                    "its embeddings are made by {}; only models whose embeddings are mean or first token vectors, normalised or not, can be trained",
                    self.head()
                ),
            )
        })
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Width of embeddings.
    pub fn width(&self) -> usize {
        self.head().width
    }

    /// Width of token vectors, which is that of embeddings unless they are projected, cut or put together.
    pub fn token_width(&self) -> usize {
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

    /// The same encoder with windows of at most `texts` texts (2,048 without this call): so many are tokenised and
    /// batched together, and [`Encoder::encode`] hands out their embeddings at a time.
    pub fn with_window(mut self, texts: usize) -> Self {
        self.window = texts.max(1);
        self
    }

    /// Encodes `texts` in order. `sink` gets the embeddings in pieces: the number of the first text and the rows
    /// `[n, d]` from there on; `progress` hears how many texts and tokens are done.
    ///
    /// Memory: one batch's activations and one window's embeddings, whatever the number of texts. If the device runs
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
        progress: impl FnMut(usize, usize),
    ) -> Result<EncodeStats> {
        let each = |window: Window<'_>| {
            let first = window.first();
            sink(first, &window.embeddings()?)
        };
        self.windows(texts, kind, WindowOptions::default(), each, progress)
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

    /// The hidden states of a packed batch, `[t, d]` on the device: the last layer's output, with the batch's texts.
    /// `observe` is shown the residual stream after the embedding and after every layer.
    ///
    /// # Errors
    /// [`Error::Shape`] for ids or lengths beyond the model's tables, or what the device reports.
    pub fn hidden_states(
        &self,
        batch: &Batch,
        observe: Option<Observer<'_>>,
    ) -> Result<(Buffer<f32>, PackedTexts)> {
        self.check_batch(batch)?;
        self.device.in_pool(|| {
            // An observer wants to see what happens in between.
            if observe.is_none()
                && let Some(h) = self.graphs.run(
                    &self.device,
                    Output::Hidden,
                    batch,
                    |inputs| self.forward(inputs, None, None),
                    |h| {
                        let mut copy = self.device.alloc(h.len())?;
                        copy.copy_from(0, h)?;
                        Ok(copy)
                    },
                )?
            {
                return Ok((h, PackedTexts::new(&self.device, batch.offsets.clone())?));
            }
            let inputs = Inputs::upload(&self.device, batch)?;
            let h = self.forward(&inputs, None, observe)?;
            Ok((h, inputs.texts))
        })
    }

    /// The embeddings of a packed batch.
    fn pooled(&self, batch: &Batch) -> Result<Pooled> {
        let Some((pooling, done)) = self.pooling else {
            let (h, texts) = self.hidden_states(batch, None)?;
            return Ok(Pooled::OnHost(self.head_on_host(&h, &texts)?));
        };
        self.check_batch(batch)?;
        let work = |inputs: &Inputs| {
            let h = self.forward(inputs, None, None)?;
            self.pool_on_device(pooling, &h, &inputs.texts)
        };
        self.device.in_pool(|| {
            let replayed =
                self.graphs
                    .run(&self.device, Output::Embeddings, batch, work, |out| {
                        out.read()
                    })?;
            let pooled = match replayed {
                Some(rows) => Pooled::OnHost(rows),
                None => work(&Inputs::upload(&self.device, batch)?).map(Pooled::OnDevice)?,
            };
            if self.pooling().is_some() {
                return Ok(pooled);
            }
            let rows = self.head.finish(pooled.read()?, self.token_width(), done)?;
            Ok(Pooled::OnHost(rows))
        })
    }

    /// The embeddings that the published head makes of token vectors.
    fn pool(&self, h: &Buffer<f32>, texts: &PackedTexts) -> Result<Buffer<f32>> {
        let Some((pooling, done)) = self.pooling else {
            return self.device.upload(&self.head_on_host(h, texts)?);
        };
        let pooled = self.pool_on_device(pooling, h, texts)?;
        if self.pooling().is_some() {
            return Ok(pooled);
        }
        let rows = pooled.read()?;
        let rows = (self.device).in_pool(|| self.head.finish(rows, self.token_width(), done))?;
        self.device.upload(&rows)
    }

    fn pool_on_device(
        &self,
        PoolingConfig { pooling, normalize }: PoolingConfig,
        h: &Buffer<f32>,
        texts: &PackedTexts,
    ) -> Result<Buffer<f32>> {
        let mut out = (self.device).alloc::<f32>(texts.texts() * self.token_width())?;
        pool(h, texts, pooling, normalize, &mut out)?;
        Ok(out)
    }

    /// A head whose pooling no device does, over token vectors `[t, d]` of a batch.
    fn head_on_host(&self, h: &Buffer<f32>, texts: &PackedTexts) -> Result<Vec<f32>> {
        let hidden = h.read()?;
        let offsets = texts.offsets();
        (self.device).in_pool(|| self.head.embeddings(&hidden, offsets, self.token_width()))
    }

    /// The hidden states of a batch that is on the device.
    fn forward(
        &self,
        inputs: &Inputs,
        masks: Option<&Masks>,
        observe: Option<Observer<'_>>,
    ) -> Result<Buffer<f32>> {
        let config = &self.config;
        match &self.weights {
            Working::F32(weights) => forward::forward(weights, config, inputs, masks, observe),
            Working::Mixed(weights) => forward::forward(weights, config, inputs, masks, observe),
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

/// Tokens per batch whose activations fit `memory` bytes for the model in `folder` on `device`; at least one token.
///
/// At its widest a layer holds the residual stream twice, its rounded copies, and either queries, keys, values and
/// context or the inner feed-forward activations and their product.
///
/// # Errors
/// As [`BertConfig::read`].
pub fn token_budget(folder: &Path, device: &Device, memory: u64) -> Result<usize> {
    let config = BertConfig::read(folder)?;
    let act = match device.precision() {
        Precision::F32 => 4,
        Precision::Mixed => 2,
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
