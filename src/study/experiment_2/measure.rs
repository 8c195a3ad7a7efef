//! Everything that is measured of the models, kept in a file each so that it is measured once.
//!
//! Models over the published encoder are measured together: every text is encoded once for all of them.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Experiment2;
use super::jobs::{Job, TrainConfig};
use super::models::{Model, Recipe};
use crate::encoder::Encoder;
use crate::error::Result;
use crate::study::measured::{FORM, Record, SetMetrics, pairs_of};
use crate::study::near_miss::digest;
use crate::study::pair_scores::{Scorers, score_pairs};
use crate::study::results::{PromptConfig, Setup, collection_sha256};
use crate::study::retrieve::{SecondStage, rerank, retrieve};
use crate::study::session::Session;
use crate::study::training::{Training, train_again};
use crate::verifier::{Config, Kind, Scorer, VerifierOptions, open};

/// What a model's numbers depend on beside the model.
#[derive(Clone, Debug, Serialize)]
pub struct Inputs {
    /// SHA-256 of each collection.
    pub collections: Vec<String>,
    /// Candidates of a query.
    pub depth: usize,
    /// SHA-256 of the pairs of each near-miss set.
    pub pairs: Vec<String>,
    /// What the encoder puts before texts.
    pub prompts: PromptConfig,
}

impl Inputs {
    pub(super) fn of(stage: &Experiment2, session: &Session) -> Self {
        let (sets, near_misses) = (stage.sets.iter(), stage.near_misses.iter());
        Inputs {
            collections: sets.map(|set| collection_sha256(&set.collection)).collect(),
            depth: stage.retrieve.depth,
            pairs: near_misses.map(|set| digest(&set.items)).collect(),
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
    /// How it was trained; published encoders and scorers without weights were not.
    training: Option<&'a TrainConfig>,
    /// The encoder that it was trained from, or is, and how its scorer is named and reads texts.
    #[serde(flatten)]
    setup: Setup,
}

/// What is measured of an encoder's own cosine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfEncoder {
    /// Rankings of the first stage, one per collection.
    pub retrieval: Vec<SetMetrics>,
    /// Cosines, one list per near-miss set.
    pub near_misses: Vec<Vec<f64>>,
    /// Texts cut at the encoder's length limit, of documents and queries.
    pub truncated: [usize; 2],
}

/// What is measured of a scorer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfScorer {
    /// Learned parameters, the encoder's aside.
    pub parameters: usize,
    /// Rankings after the second stage, one per collection.
    pub retrieval: Vec<SetMetrics>,
    /// Scores, one list per near-miss set.
    pub near_misses: Vec<Vec<f64>>,
    /// Texts cut at the scorer's length limit, of documents, queries and pairs.
    pub truncated: [usize; 3],
    /// Pairs of which a scorer that reads maps did not see all.
    pub cut: usize,
}

/// Everything that is measured of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// How it was trained.
    pub training: Option<Training>,
    /// Its encoder, if that is not the published one.
    pub encoder: Option<OfEncoder>,
    /// Its scorer, if it has one.
    pub scorer: Option<OfScorer>,
}

/// How long a model took; never part of what is compared.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Times {
    /// Training in this run, in seconds.
    pub training_s: f64,
    /// The pass in which it was measured in this run.
    pub measuring_s: f64,
    /// Models that were measured in this pass.
    pub together: usize,
    /// Scoring a hundred candidates, token vectors being there.
    pub ms_per_100_candidates: Option<f64>,
}

/// A model whose turn it is.
struct Turn<'a> {
    /// Its place among all.
    place: usize,
    model: &'a Model,
    job: Option<&'a Job<'a>>,
    config: MeasureConfig<'a>,
    record: Record,
}

/// Measures all models, training those that have to be; what was measured before is read.
///
/// What is returned has always been through its file, so that a run that finds it there has the same numbers.
pub(super) fn measure_all(
    stage: &Experiment2,
    session: &Session,
    models: &[Model],
    jobs: &[Job<'_>],
    inputs: &Inputs,
) -> Result<(Vec<Measured>, Vec<Times>)> {
    let mut all: Vec<Option<Measured>> = vec![None; models.len()];
    let mut times = vec![Times::default(); models.len()];
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    for (place, model) in models.iter().enumerate() {
        let job = jobs.iter().find(|job| job.model == *model);
        let config = MeasureConfig {
            stage: "measure-verifier",
            form: FORM,
            inputs,
            training: job.map(|job| &job.config),
            setup: stage.setup_of(session, model)?,
        };
        let turn = Turn {
            place,
            model,
            job,
            record: Record::of(session, &model.slug(), &config),
            config,
        };
        match turn.record.read(session, &model.to_string())? {
            Some(found) => all[place] = Some(found),
            None if model.own_encoder() => alone.push(vec![turn]),
            None => together.push(turn),
        }
    }
    let passes = [together].into_iter().chain(alone);
    for turns in passes.filter(|turns| !turns.is_empty()) {
        for (place, found, time) in pass(stage, session, &turns)? {
            all[place] = Some(found);
            times[place] = time;
        }
    }
    Ok((all.into_iter().flatten().collect(), times))
}

/// The folder of the training that a verifier is of.
fn training_of(verifier: &Path) -> &Path {
    verifier.parent().unwrap_or(verifier)
}

/// Trains and measures models that share an encoder.
fn pass(
    stage: &Experiment2,
    session: &Session,
    turns: &[Turn<'_>],
) -> Result<Vec<(usize, Measured, Times)>> {
    let limit = Some(session.encoder.tokenizer().max_length());
    let mut trained = Vec::with_capacity(turns.len());
    let mut own_encoder = None;
    let mut verifiers: Vec<Box<dyn Scorer>> = Vec::new();
    for turn in turns {
        let made = turn.job.map(|job| job.run(session)).transpose()?;
        match (&made, turn.model.recipe) {
            (Some((folder, ..)), _) if turn.model.own_encoder() => {
                let verifier = session.load_verifier(folder, limit);
                let verifier = verifier.map_err(|e| train_again(e, training_of(folder)))?;
                let (encoder, scorer) = verifier.into_parts();
                own_encoder = Some(encoder);
                verifiers.push(Box::new(scorer));
            }
            (Some((folder, ..)), _) => {
                let device = session.encoder.device();
                let scorer = Config::read(folder).and_then(|config| config.scorer(folder, device));
                let scorer = scorer.map_err(|e| train_again(e, training_of(folder)))?;
                verifiers.push(Box::new(scorer));
            }
            (None, Recipe::Untrained(kind)) => verifiers.push(untrained(kind, session)?),
            (None, _) => {}
        }
        trained.push(made.map(|(_, training, time)| (training, time.as_secs_f64())));
    }
    let names: Vec<String> = turns.iter().map(|turn| turn.model.to_string()).collect();
    session
        .progress
        .log(&format!("measuring {}", names.join("; ")));
    let start = Instant::now();
    let last = turns.last().map(|turn| turn.model);
    let scorers = Scorers {
        verifiers,
        max_length: last.map_or(stage.scorer_length, |model| stage.length_of(model)),
        token_bytes: 2 << 30,
    };
    let own = own_encoder.is_some();
    let encoder = own_encoder.as_ref().unwrap_or(&session.encoder);
    let (of_encoder, of_scorers, speeds) = measure(stage, encoder, &scorers, session)?;
    let measuring_s = start.elapsed().as_secs_f64();
    let mut of_scorers = of_scorers.into_iter().zip(speeds);
    let mut all = Vec::with_capacity(turns.len());
    for (turn, trained) in turns.iter().zip(trained) {
        let scorer = turn.model.verifier().and_then(|_| of_scorers.next());
        let is_encoder = turn.model.recipe == Recipe::Pooled;
        let times = Times {
            training_s: trained.as_ref().map_or(0.0, |(_, seconds)| *seconds),
            measuring_s,
            together: turns.len(),
            ms_per_100_candidates: scorer.as_ref().and_then(|(_, speed)| *speed),
        };
        let found = Measured {
            training: trained.map(|(training, _)| training),
            encoder: (own || is_encoder).then(|| of_encoder.clone()),
            scorer: scorer.map(|(scorer, _)| scorer),
        };
        let kept = turn.record.keep(&turn.config, &found)?;
        all.push((turn.place, kept, times));
    }
    Ok(all)
}

/// A scorer without weights.
pub(super) fn untrained(kind: Kind, session: &Session) -> Result<Box<dyn Scorer>> {
    let device = session.encoder.device();
    open(kind.name(), &VerifierOptions::default(), device)
}

/// What there is of an encoder, of each scorer, and milliseconds of each per hundred candidates.
type Found = (OfEncoder, Vec<OfScorer>, Vec<Option<f64>>);

fn measure(
    stage: &Experiment2,
    encoder: &Encoder,
    scorers: &Scorers,
    session: &Session,
) -> Result<Found> {
    let progress = &session.progress;
    let mut of_encoder = OfEncoder {
        retrieval: Vec::new(),
        near_misses: Vec::new(),
        truncated: [0; 2],
    };
    let empty = |parameters| OfScorer {
        parameters,
        retrieval: Vec::new(),
        near_misses: Vec::new(),
        truncated: [0; 3],
        cut: 0,
    };
    let verifiers = scorers.verifiers.iter();
    let mut of_scorers: Vec<OfScorer> = verifiers.map(|v| empty(v.parameters())).collect();
    let (mut seconds, mut candidates) = (vec![0.0; of_scorers.len()], 0);
    for set in &stage.sets {
        let first = retrieve(encoder, &set.collection, stage.retrieve, progress)?;
        let second = match of_scorers.is_empty() {
            true => SecondStage::default(),
            false => {
                let collection = &set.collection;
                rerank(
                    encoder,
                    collection,
                    &first,
                    scorers,
                    stage.retrieve,
                    progress,
                )?
            }
        };
        of_encoder.truncated[0] += first.documents.truncated;
        of_encoder.truncated[1] += first.queries.truncated;
        let metrics = SetMetrics::of(first.ranked, first.evaluation, first.without_identical);
        of_encoder.retrieval.push(metrics);
        candidates += second.pairs;
        for (i, found) in second.rerankings.into_iter().enumerate() {
            let of_scorer = &mut of_scorers[i];
            of_scorer.truncated[0] += second.documents.truncated;
            of_scorer.truncated[1] += second.queries.truncated;
            let metrics = SetMetrics::of(found.ranked, found.evaluation, found.without_identical);
            of_scorer.retrieval.push(metrics);
            seconds[i] += found.time.as_secs_f64();
        }
    }
    for set in &stage.near_misses {
        let found = score_pairs(encoder, &pairs_of(set), scorers, progress)?;
        let mut scores = found.scores.into_iter();
        of_encoder.near_misses.extend(scores.next());
        for (of_scorer, scores) in of_scorers.iter_mut().zip(scores) {
            of_scorer.near_misses.push(scores);
            of_scorer.truncated[2] += found.texts.truncated;
        }
    }
    for (of_scorer, verifier) in of_scorers.iter_mut().zip(&scorers.verifiers) {
        of_scorer.cut = verifier.cut();
    }
    let speed = |seconds: f64| (candidates > 0).then(|| seconds * 1e5 / candidates as f64);
    Ok((
        of_encoder,
        of_scorers,
        seconds.into_iter().map(speed).collect(),
    ))
}
