//! Everything that is measured of one model, kept in a file so that it is measured once.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Experiment1;
use super::models::{Job, Model, TrainConfig};
use crate::data::beir::Collection;
use crate::data::triplets::Triplet;
use crate::encoder::Encoder;
use crate::error::Result;
use crate::metrics::geometry::{Space, drift, space};
use crate::metrics::statistics::Summary;
use crate::study::geometry::Sentences;
use crate::study::measured::{FORM, Record, SetMetrics, pairs_of};
use crate::study::near_miss::{Triplets, compare_triplets, digest};
use crate::study::pair_scores::{Scorers, score_pairs};
use crate::study::progress::Progress;
use crate::study::results::{PromptConfig, Setup, collection_sha256};
use crate::study::retrieve::{RetrieveOptions, retrieve};
use crate::study::session::Session;
use crate::study::training::Training;

/// What a model's numbers depend on beside the model.
#[derive(Clone, Debug, Serialize)]
pub struct Inputs {
    /// SHA-256 of each collection.
    pub collections: Vec<String>,
    /// Results kept per query.
    pub depth: usize,
    /// SHA-256 of the pairs of each near-miss set.
    pub pairs: Vec<String>,
    /// SHA-256 of the training domain's held-out rows.
    pub held_out: String,
    /// How many of them are compared, and by which seed they are drawn.
    pub held_out_sample: [u64; 2],
    /// Retrieval sentences that the space is described by, at most.
    pub sentences: usize,
    /// What the encoder puts before texts.
    pub prompts: PromptConfig,
}

impl Inputs {
    pub(super) fn of(stage: &Experiment1, session: &Session) -> Self {
        let collections = stage.sets.iter();
        Inputs {
            collections: collections
                .map(|set| collection_sha256(&set.collection))
                .collect(),
            depth: RetrieveOptions::default().depth,
            pairs: stage
                .near_misses
                .iter()
                .map(|set| digest(&set.items))
                .collect(),
            held_out: crate::data::triplets::sha256(&stage.data.held_out),
            held_out_sample: [stage.held_out_sample() as u64, stage.seed],
            sentences: stage.sentences,
            prompts: PromptConfig::of(&session.encoder),
        }
    }
}

/// What a model's numbers depend on, apart from the code.
#[derive(Clone, Debug, Serialize)]
struct MeasureConfig<'a> {
    stage: &'static str,
    form: &'static str,
    inputs: &'a Inputs,
    /// How it was trained; the published encoder was not.
    training: Option<&'a TrainConfig>,
    /// The encoder that it was trained from, or is.
    #[serde(flatten)]
    setup: &'a Setup,
}

/// Cosines of the training domain's held-out rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldOut {
    /// How many.
    pub n: usize,
    /// Which of them, in the order in which they were drawn.
    pub rows: Vec<usize>,
    /// Of each, the cosines of anchor and positive and of anchor and negative.
    pub cosines: Vec<[f64; 2]>,
    /// Mean and standard deviation of anchor and positive.
    pub positives: [f64; 2],
    /// The same of anchor and negative.
    pub negatives: [f64; 2],
}

/// Everything that is measured of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// How it was trained.
    pub training: Option<Training>,
    /// Rankings, one per collection.
    pub retrieval: Vec<SetMetrics>,
    /// Cosines, one list per near-miss set.
    pub near_misses: Vec<Vec<f64>>,
    /// The training domain.
    pub held_out: Option<HeldOut>,
    /// The space of retrieval sentences.
    pub space: Option<Space>,
    /// How far these moved from where the published encoder has them, beyond a rotation of the whole.
    pub drift: Option<f64>,
    /// Texts cut at the length limit, of documents, queries and pairs.
    pub truncated: [usize; 3],
}

/// How long a model took; never part of what is compared.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Times {
    /// Training in this run, in seconds.
    pub training_s: f64,
    /// Measuring in this run.
    pub measuring_s: f64,
}

/// The retrieval sentences as the published encoder has them, computed when first asked for.
pub(super) struct Before<'a> {
    stage: &'a Experiment1,
    session: &'a Session,
    limit: usize,
    rows: Option<Vec<f32>>,
}

impl<'a> Before<'a> {
    pub fn new(stage: &'a Experiment1, session: &'a Session, limit: usize) -> Self {
        Before {
            stage,
            session,
            limit,
            rows: None,
        }
    }

    fn rows(&mut self) -> Result<&[f32]> {
        if self.rows.is_none() {
            let session = self.session;
            let base = session.load(&session.backbone.folder, Some(self.limit))?;
            let sentences = self.stage.retrieval_sentences();
            self.rows = Some(sentences.embed(&base, &self.session.progress)?);
        }
        Ok(self.rows.as_deref().unwrap_or_default())
    }
}

/// Measures a model, training it first if need be; or reads what was measured before.
///
/// What is returned has always been through its file, so that a run that finds it there has the same numbers.
pub(super) fn measured(
    stage: &Experiment1,
    session: &Session,
    setup: &Setup,
    inputs: &Inputs,
    model: &Model,
    job: Option<&Job<'_>>,
    before: &mut Before<'_>,
) -> Result<(Measured, Times)> {
    let config = MeasureConfig {
        stage: "measure",
        form: FORM,
        inputs,
        training: job.map(|job| &job.config),
        setup,
    };
    let group = model.group().replace(['(', ')'], "-");
    let record = Record::of(session, group.trim_end_matches('-'), &config);
    if let Some(found) = record.read(session, &model.to_string())? {
        return Ok((found, Times::default()));
    }
    let (encoder, training, time) = match job {
        None => {
            let limit = Some(setup.max_length);
            (
                session.load(&session.backbone.folder, limit)?,
                None,
                Duration::ZERO,
            )
        }
        Some(job) => {
            let (encoder, training, time) = job.run(session)?;
            (encoder, Some(training), time)
        }
    };
    session.progress.log(&format!("measuring {model}"));
    let start = Instant::now();
    let mut found = measure(stage, &encoder, &session.progress, job.is_none(), before)?;
    found.training = training;
    let times = Times {
        training_s: time.as_secs_f64(),
        measuring_s: start.elapsed().as_secs_f64(),
    };
    Ok((record.keep(&config, &found)?, times))
}

fn measure(
    stage: &Experiment1,
    encoder: &Encoder,
    progress: &Progress,
    published: bool,
    before: &mut Before<'_>,
) -> Result<Measured> {
    let mut truncated = [0; 3];
    let mut retrieval = Vec::with_capacity(stage.sets.len());
    for set in &stage.sets {
        let found = retrieve(
            encoder,
            &set.collection,
            RetrieveOptions::default(),
            progress,
        )?;
        truncated[0] += found.documents.truncated;
        truncated[1] += found.queries.truncated;
        retrieval.push(SetMetrics::of(
            found.ranked,
            found.evaluation,
            found.without_identical,
        ));
    }
    let pooled = Scorers {
        verifiers: Vec::new(),
        max_length: encoder.tokenizer().max_length(),
        token_bytes: 2 << 30,
    };
    let mut near_misses = Vec::with_capacity(stage.near_misses.len());
    for set in &stage.near_misses {
        let pairs = pairs_of(set);
        let mut found = score_pairs(encoder, &pairs, &pooled, progress)?;
        truncated[2] += found.texts.truncated;
        near_misses.push(std::mem::take(&mut found.scores[0]));
    }
    let sample = stage.held_out_sample();
    let held_out = match sample {
        0 => None,
        _ => {
            let triplets = held_out_triplets(&stage.data.held_out, sample, stage.seed);
            let found = compare_triplets(encoder, &triplets, 0.0, progress)?;
            let ends = |of: Summary| [of.mean, of.std];
            Some(HeldOut {
                n: found.positives.n,
                rows: found.rows,
                cosines: found.cosines,
                positives: ends(found.positives),
                negatives: ends(found.negatives),
            })
        }
    };
    let sentences = stage.retrieval_sentences();
    let rows = sentences.embed(encoder, progress)?;
    let d = encoder.width();
    let space = space(&rows, d, &sentences.relevant);
    let drift = match published {
        true => {
            before.rows = Some(rows);
            None
        }
        false => drift(before.rows()?, &rows, d),
    };
    Ok(Measured {
        training: None,
        retrieval,
        near_misses,
        held_out,
        space,
        drift,
        truncated,
    })
}

fn held_out_triplets(rows: &[Triplet], sample: usize, seed: u64) -> Triplets {
    Triplets {
        all: rows.to_vec(),
        notes: Default::default(),
        sample,
        seed,
    }
}

impl Experiment1 {
    /// How many held-out rows are compared.
    fn held_out_sample(&self) -> usize {
        self.held_out.min(self.data.held_out.len())
    }

    /// The retrieval sentences that the space is described by.
    fn retrieval_sentences(&self) -> Sentences {
        let collections: Vec<&Collection> = self.sets.iter().map(|set| &*set.collection).collect();
        Sentences::of(&collections, self.sentences)
    }
}
