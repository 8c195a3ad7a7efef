//! What a training is asked for, and the plan that follows for a model and its data.

use serde::{Deserialize, Serialize};

use super::negatives::Negatives;
use super::schedule::{MINUTES, Schedule, SizeClass};
use crate::data::triplets::{self, Triplet};
use crate::error::{Error, Result};
use crate::model::BertConfig;

/// How long a training lasts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Length {
    /// So many steps.
    Steps(u64),
    /// So many times the whole batches of the rows, rounded down to steps, one at least.
    Epochs(f64),
}

/// Which dropout is on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Dropout {
    /// As the model's `config.json` says.
    AsConfigured,
    /// None.
    Off,
    /// These rates.
    Rates {
        /// After the embedding, the attention and the feed-forward part.
        hidden: f64,
        /// Of the attention probabilities.
        attention: f64,
    },
}

/// What a training is asked for. Everything has a default.
///
/// ```
/// use nearmiss::train::{Length, TrainOptions};
/// let options = TrainOptions { length: Length::Steps(200), seed: 7, ..TrainOptions::default() };
/// # options.check()?; Ok::<(), nearmiss::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Triplets of a step; every anchor of a batch is told from the positives and negatives of all others. 32.
    pub batch: usize,
    /// How long. One epoch.
    pub length: Length,
    /// Highest learning rate; `None` takes that of the model's size ([`SizeClass`]).
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay of matrices; `None` takes that of the model's size.
    pub weight_decay: Option<f64>,
    /// Share of the steps in which the learning rate rises to its highest; then it falls to 0. 0.1.
    pub warmup: f64,
    /// What the moments keep of a step. 0.9, 0.999.
    pub beta: [f64; 2],
    /// Added to the root of the second moment. 1e-8.
    pub eps: f64,
    /// Longest gradient, all weights together; a longer one is shortened to it. 1.
    pub max_norm: f64,
    /// Factor of the cosines in the loss: 1 / temperature. 10.
    pub scale: f64,
    /// Most tokens of a text, or the model's own limit where that is lower. 128.
    pub max_length: usize,
    /// Dropout. As the model is configured.
    pub dropout: Dropout,
    /// Of batches, masks and negatives. 42.
    pub seed: u64,
    /// Where rows have no negative: how it is found. At random.
    pub negatives: Negatives,
    /// Whether no sentence may occur in two rows of a batch. No.
    pub distinct: bool,
    /// Whether the model's prompts are put before texts, as before queries and documents in a search. No.
    pub prompts: bool,
    /// Most tokens of a chunk, whose activations are on the device at a time ([`Encoder::training_tokens`] are those that
    /// fit); `None` takes what suits it. Concerns memory and rounding alone.
    ///
    /// [`Encoder::training_tokens`]: crate::encoder::Encoder::training_tokens
    pub token_budget: Option<usize>,
    /// Steps between two checkpoints; `None` for as many hundreds as keep what writing them takes below a twentieth of the
    /// time: weights and moments are large, and a GPU trains a hundred steps while they are written.
    pub checkpoint_every: Option<u64>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            batch: 32,
            length: Length::Epochs(1.0),
            learning_rate: None,
            weight_decay: None,
            warmup: 0.1,
            beta: [0.9, 0.999],
            eps: 1e-8,
            max_norm: 1.0,
            scale: 10.0,
            max_length: 128,
            dropout: Dropout::AsConfigured,
            seed: 42,
            negatives: Negatives::default(),
            distinct: false,
            prompts: false,
            token_budget: None,
            checkpoint_every: None,
        }
    }
}

/// Triplets of a step in the protocol.
pub const PROTOCOL_BATCH: usize = 128;

/// Everything that a training's numbers depend on besides the start weights: what must be equal for one to go on from a
/// checkpoint of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// SHA-256 of the rows, in their order.
    pub rows_sha256: String,
    /// How many they are.
    pub rows: usize,
    /// How many of their negatives are candidates for their own anchors alone.
    pub own: usize,
    /// Triplets of a step.
    pub batch: usize,
    /// Steps in all.
    pub steps: u64,
    /// Steps in which the learning rate rises.
    pub warmup_steps: u64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Weight decay of matrices.
    pub weight_decay: f64,
    /// What the moments keep.
    pub beta: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Longest gradient.
    pub max_norm: f64,
    /// Factor of the cosines.
    pub scale: f64,
    /// Most tokens of a text.
    pub max_length: usize,
    /// Dropout of hidden values and of attention probabilities.
    pub dropout: [f64; 2],
    /// Of batches and masks.
    pub seed: u64,
    /// Whether batches are free of duplicate sentences.
    pub distinct: bool,
    /// Whether prompts are put before texts.
    pub prompts: bool,
}

impl Plan {
    /// The learning rate of every step.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.learning_rate,
            steps: self.steps,
            warm_up: self.warmup_steps,
        }
    }
}

/// The error of a setting of this value.
pub(super) fn refuse(
    setting: &'static str,
    value: impl std::fmt::Display,
    why: &str,
) -> Result<()> {
    Err(Error::Setting {
        setting,
        message: format!("`{setting}` is {value}; {why}"),
    })
}

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn is_share(value: f64) -> bool {
    (0.0..1.0).contains(&value)
}

/// Requires a learning rate and a weight decay that can be, where they are given.
pub(super) fn check_rates(learning_rate: Option<f64>, weight_decay: Option<f64>) -> Result<()> {
    if let Some(rate) = learning_rate
        && !(is_positive(rate) && rate <= 1.0)
    {
        refuse("learning_rate", rate, "give a number above 0, at most 1")?;
    }
    if let Some(decay) = weight_decay
        && !is_share(decay)
    {
        refuse("weight_decay", decay, "give a number from 0 to below 1")?;
    }
    Ok(())
}

/// Requires shares that moments can keep of a step.
pub(super) fn check_moments(beta: [f64; 2]) -> Result<()> {
    match beta.into_iter().find(|&beta| !is_share(beta)) {
        Some(beta) => refuse("beta", beta, "give numbers from 0 to below 1"),
        None => Ok(()),
    }
}

/// Requires numbers above 0.
pub(super) fn check_positive(settings: &[(&'static str, f64)]) -> Result<()> {
    match settings.iter().find(|(_, value)| !is_positive(*value)) {
        Some((setting, value)) => refuse(setting, value, "give a number above 0"),
        None => Ok(()),
    }
}

/// Requires room for a word in a text and a token in a chunk, and a checkpoint now and then.
pub(super) fn check_sizes(
    max_length: usize,
    token_budget: Option<usize>,
    checkpoint_every: Option<u64>,
) -> Result<()> {
    if max_length < 3 {
        let why = "the special tokens take two, so give 3 or more";
        refuse("max_length", max_length, why)?;
    }
    if token_budget == Some(0) {
        refuse("token_budget", 0, "give 1 or more")?;
    }
    if checkpoint_every == Some(0) {
        refuse("checkpoint_every", 0, "give 1 or more steps")?;
    }
    Ok(())
}

impl TrainOptions {
    /// The protocol's training of a model of this size: its number of steps for such batches ([`PROTOCOL_BATCH`] there).
    pub fn protocol(config: &BertConfig, batch: usize) -> Self {
        let class = SizeClass::of(config.parameters() as u64);
        TrainOptions {
            batch,
            length: Length::Steps(class.steps(MINUTES, batch as u64)),
            ..TrainOptions::default()
        }
    }

    /// Whether every value is one that can be trained with.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first that is not.
    pub fn check(&self) -> Result<()> {
        if self.batch == 0 {
            refuse("batch", 0, "give 1 or more")?;
        }
        match self.length {
            Length::Steps(0) => refuse("steps", 0, "give 1 or more")?,
            Length::Epochs(epochs) if !is_positive(epochs) => {
                refuse("epochs", epochs, "give a number above 0")?;
            }
            _ => {}
        }
        check_rates(self.learning_rate, self.weight_decay)?;
        if !(0.0..=1.0).contains(&self.warmup) {
            refuse(
                "warmup",
                self.warmup,
                "it is a share of the steps: give 0 to 1",
            )?;
        }
        check_moments(self.beta)?;
        check_positive(&[
            ("eps", self.eps),
            ("max_norm", self.max_norm),
            ("scale", self.scale),
        ])?;
        if let Dropout::Rates { hidden, attention } = self.dropout
            && let Some(rate) = [hidden, attention]
                .into_iter()
                .find(|&rate| !is_share(rate))
        {
            refuse("dropout", rate, "give rates from 0 to below 1")?;
        }
        check_sizes(self.max_length, self.token_budget, self.checkpoint_every)?;
        self.negatives.check()
    }

    /// What follows for a model, whose texts have `max_length` tokens at most, and its rows; `own` says per row whether its
    /// negative is a candidate for its own anchor alone, and is empty if none is.
    ///
    /// # Errors
    /// As [`TrainOptions::check`]; [`Error::Invalid`] for fewer rows than a batch, or `own` of another length.
    pub fn plan(
        &self,
        config: &BertConfig,
        max_length: usize,
        rows: &[Triplet],
        own: &[bool],
    ) -> Result<Plan> {
        self.check()?;
        let n_rows = rows.len();
        if !own.is_empty() && own.len() != n_rows {
            return Err(Error::Invalid(format!(
                "{n_rows} training rows were given with {} marks of own negatives",
                own.len()
            )));
        }
        if n_rows < self.batch {
            return Err(Error::Invalid(format!(
                "{n_rows} training rows are fewer than a batch of {}; give more rows or a smaller batch",
                self.batch
            )));
        }
        let steps = match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => (((n_rows / self.batch) as f64 * epochs) as u64).max(1),
        };
        let class = SizeClass::of(config.parameters() as u64);
        let learning_rate = self.learning_rate.unwrap_or(class.learning_rate);
        Ok(Plan {
            rows_sha256: triplets::sha256(rows),
            rows: n_rows,
            own: own.iter().filter(|own| **own).count(),
            batch: self.batch,
            steps,
            warmup_steps: Schedule::new(learning_rate, steps, self.warmup).warm_up,
            learning_rate,
            weight_decay: self.weight_decay.unwrap_or(decimal(class.weight_decay)),
            beta: self.beta,
            eps: self.eps,
            max_norm: self.max_norm,
            scale: self.scale,
            max_length: self.max_length.min(max_length),
            dropout: match self.dropout {
                Dropout::AsConfigured => {
                    [config.hidden_dropout, config.attention_dropout].map(decimal)
                }
                Dropout::Off => [0.0; 2],
                Dropout::Rates { hidden, attention } => [hidden, attention],
            },
            seed: self.seed,
            distinct: self.distinct,
            prompts: self.prompts,
        })
    }
}

/// The number that an f32 is written as: 0.1 of 0.1f32.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minilm(n_layers: usize) -> BertConfig {
        BertConfig {
            vocab: 30_522,
            d_model: 384,
            n_layers,
            n_heads: 12,
            d_ff: 1536,
            max_positions: 512,
            token_types: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
        }
    }

    fn rows(n: usize) -> Vec<Triplet> {
        let row = |i: usize| Triplet {
            anchor: i.to_string(),
            positive: String::new(),
            negative: String::new(),
            category: crate::data::Category::Negation,
        };
        (0..n).map(row).collect()
    }

    #[test]
    fn the_protocols_numbers_come_out() {
        // Steps, warm-up and rates of the BERT backbones.
        for (layers, steps, warmup, rate, decay) in
            [(6, 3375, 338, 1e-4, 0.001), (12, 2250, 225, 8e-5, 0.005)]
        {
            let config = minilm(layers);
            let options = TrainOptions::protocol(&config, PROTOCOL_BATCH);
            let plan = options.plan(&config, 512, &rows(1000), &[]).unwrap();
            assert_eq!(
                (plan.batch, plan.steps, plan.warmup_steps),
                (128, steps, warmup)
            );
            assert_eq!((plan.learning_rate, plan.weight_decay), (rate, decay));
            assert_eq!((plan.max_length, plan.dropout), (128, [0.1; 2]));
            let quarter = TrainOptions::protocol(&config, PROTOCOL_BATCH / 4);
            assert_eq!(quarter.length, Length::Steps(4 * steps));
        }
        assert_eq!(minilm(6).parameters(), 22_565_376);
        assert_eq!(minilm(12).parameters(), 33_212_160);
    }

    #[test]
    fn epochs_are_whole_batches() {
        let config = minilm(1);
        let plan = |epochs, n| {
            let options = TrainOptions {
                length: Length::Epochs(epochs),
                ..TrainOptions::default()
            };
            options.plan(&config, 64, &rows(n), &[])
        };
        let two = plan(2.0, 100).unwrap();
        assert_eq!((two.steps, two.warmup_steps, two.max_length), (6, 1, 64));
        let one = plan(0.01, 100).unwrap();
        assert!(one.steps == 1 && one.schedule().rate(0) > 0.0);
        let error = plan(1.0, 31).unwrap_err().to_string();
        assert!(error.starts_with("31 training rows are fewer than a batch of 32"));
        // Other rows, or other rows whose negatives are their own, are another plan.
        let of = |rows: &[Triplet], own: &[bool]| {
            let plan = TrainOptions::default().plan(&config, 64, rows, own);
            plan.map(|plan| (plan.rows_sha256, plan.own))
        };
        let mut changed = rows(40);
        changed[7].negative = "another".into();
        assert_ne!(of(&changed, &[]).unwrap().0, of(&rows(40), &[]).unwrap().0);
        let mut own = vec![false; 40];
        own[39] = true;
        assert_eq!(of(&changed, &own).unwrap().1, 1);
        assert!(of(&changed, &own[1..]).is_err());
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        TrainOptions::default().check().unwrap();
        let refused = |change: &dyn Fn(&mut TrainOptions), name: &str| {
            let mut options = TrainOptions::default();
            change(&mut options);
            match options.check().unwrap_err() {
                Error::Setting { setting, message } => {
                    assert_eq!(setting, name);
                    assert!(message.starts_with(&format!("`{name}` is ")), "{message}");
                }
                other => panic!("{other}"),
            }
        };
        refused(&|o| o.batch = 0, "batch");
        refused(&|o| o.length = Length::Steps(0), "steps");
        refused(&|o| o.length = Length::Epochs(f64::NAN), "epochs");
        refused(&|o| o.learning_rate = Some(0.0), "learning_rate");
        refused(&|o| o.learning_rate = Some(f64::NAN), "learning_rate");
        refused(&|o| o.weight_decay = Some(-0.1), "weight_decay");
        refused(&|o| o.warmup = 1.1, "warmup");
        refused(&|o| o.beta[1] = 1.0, "beta");
        refused(&|o| o.eps = 0.0, "eps");
        refused(&|o| o.max_norm = f64::INFINITY, "max_norm");
        refused(&|o| o.scale = -1.0, "scale");
        refused(&|o| o.max_length = 2, "max_length");
        let rates = Dropout::Rates {
            hidden: 0.1,
            attention: 1.0,
        };
        refused(&|o| o.dropout = rates, "dropout");
        refused(&|o| o.token_budget = Some(0), "token_budget");
        refused(&|o| o.checkpoint_every = Some(0), "checkpoint_every");
        let ranks = [5, 5];
        refused(&|o| o.negatives = Negatives::Bm25 { ranks }, "ranks");
        let ranks = [0, 2000];
        refused(&|o| o.negatives = Negatives::Bm25 { ranks }, "ranks");
        let below = f64::NAN;
        let ranks = [0, 5];
        refused(
            &|o| o.negatives = Negatives::Encoder { ranks, below },
            "below",
        );
    }
}
