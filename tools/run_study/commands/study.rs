//! The stages of the study. Files are read before weights are fetched, so that a mistake in them shows at once.

use std::sync::Arc;

use nearmiss::data::beir::Collection;
use nearmiss::data::check_output_folder;
use nearmiss::data::generated::COLLECTIONS;
use nearmiss::data::pairs::Filter;
use nearmiss::metrics::near_miss::Options;
use nearmiss::metrics::statistics::Bootstrap;
use nearmiss::study::geometry::{GeometryOptions, GeometryStage};
use nearmiss::study::near_miss::{Examples, FileOptions, NearMissStage, Triplets};
use nearmiss::study::pair_scores::Scorers;
use nearmiss::study::plan::{Plan, Preset};
use nearmiss::study::retrieve::{RetrieveOptions, RetrieveStage, smallest_subset, subset};
use nearmiss::study::stage::Told;
use nearmiss::{Error, Result};

use super::super::args::{Data, Mode, PairFiles, Pairs, Second, Study};
use super::{close, end_trainings_in_order, experiments, open, print, print_json, scorers};

/// Most bootstrap samples: intervals are steady long before, and time and memory grow with their number.
const MOST_RESAMPLES: usize = 1_000_000;

/// The whole study, stage by stage.
pub fn all(study: &Study, data: &Data, second: &Second, pairs: &Pairs) -> Result<()> {
    let scorers = Arc::new(scorers(second)?);
    let near_miss = near_miss_stage(study, pairs, &scorers)?;
    let chosen = chosen(study, data)?;
    let experiment_1 = experiments::first(study, &chosen, &[], &pairs.files, None)?;
    let experiment_2 = experiments::second(study, &chosen, &[], &pairs.files, None)?;
    let collections: Vec<Arc<Collection>> = chosen.into_iter().map(|c| c.collection).collect();
    let geometry = geometry_stage(study, &near_miss, collections.clone());
    let mut plan = Plan::default();
    for collection in collections {
        plan.push(retrieve_stage(collection, &scorers));
    }
    plan.push(near_miss);
    plan.push(geometry);
    plan.push(experiment_1);
    plan.push(experiment_2);
    run(study, &plan)
}

/// Retrieval on every collection.
pub fn retrieve(study: &Study, data: &Data, second: &Second) -> Result<()> {
    let scorers = Arc::new(scorers(second)?);
    let mut plan = Plan::default();
    for collection in collections(study, data)? {
        plan.push(retrieve_stage(collection, &scorers));
    }
    run(study, &plan)
}

/// Near-misses.
pub fn near_miss(study: &Study, second: &Second, pairs: &Pairs) -> Result<()> {
    let scorers = Arc::new(scorers(second)?);
    let mut plan = Plan::default();
    plan.push(near_miss_stage(study, pairs, &scorers)?);
    run(study, &plan)
}

/// Geometry.
pub fn geometry(study: &Study, data: &Data, second: &Second, pairs: &Pairs) -> Result<()> {
    let scorers = Arc::new(scorers(second)?);
    let near_miss = near_miss_stage(study, pairs, &scorers)?;
    let mut plan = Plan::default();
    plan.push(geometry_stage(study, &near_miss, collections(study, data)?));
    run(study, &plan)
}

/// Runs a plan; with `--json` the numbers of its jobs are printed as one list, else their tables as they come.
pub fn run(study: &Study, plan: &Plan) -> Result<()> {
    check_output_folder(&study.common.out)?;
    let session = open(&study.common)?;
    end_trainings_in_order(&session)?;
    let mut found = Vec::new();
    let outcome = plan.run(&session, |told| {
        match told {
            Told::Numbers(numbers) => found.push(numbers),
            Told::Tables(tables) if !study.common.json => print(tables)?,
            Told::Tables(_) => {}
        }
        Ok(())
    });
    // What was found before a job failed, or could not be saved, is not lost.
    if study.common.json && (outcome.is_ok() || !found.is_empty()) {
        print_json(&found)?;
    }
    outcome?;
    close(&session)
}

fn retrieve_stage(collection: Arc<Collection>, scorers: &Arc<Scorers>) -> RetrieveStage {
    RetrieveStage {
        collection,
        scorers: scorers.clone(),
        options: RetrieveOptions::default(),
    }
}

fn near_miss_stage(study: &Study, pairs: &Pairs, scorers: &Arc<Scorers>) -> Result<NearMissStage> {
    let seed = study.common.seed;
    let examples = match examples_of_files(study, &pairs.files)? {
        Some(examples) => examples,
        None => Examples::from_edits(&Preset::from(study.preset).edit_set(seed)?),
    };
    let triplets = pairs.triplets.as_deref();
    let triplets = triplets.map(|file| Triplets::read(file, pairs.triplet_sample, seed));
    Ok(NearMissStage {
        examples: Arc::new(examples),
        triplets: triplets.transpose()?,
        scorers: scorers.clone(),
        options: near_miss_options(study, &pairs.files)?,
    })
}

/// The pairs that are given, if any.
pub fn examples_of_files(study: &Study, pairs: &PairFiles) -> Result<Option<Examples>> {
    let files = FileOptions {
        filter: match pairs.mode {
            Mode::Corrected => Filter::Corrected,
            Mode::Paper => Filter::Paper,
        },
        seed: study.common.seed,
        ..FileOptions::default()
    };
    let given = pairs.pairs.as_deref();
    let paraphrases = pairs.paraphrases.as_deref();
    given
        .map(|file| Examples::from_files(file, paraphrases, files))
        .transpose()
}

pub fn near_miss_options(study: &Study, pairs: &PairFiles) -> Result<Options> {
    if !(1..=MOST_RESAMPLES).contains(&pairs.resamples) {
        return Err(Error::Usage(format!(
            "--resamples {}: give 1 to {MOST_RESAMPLES}",
            pairs.resamples
        )));
    }
    Ok(Options {
        minimum: pairs.minimum,
        folds: pairs.folds.map(|k| k as usize),
        bootstrap: Bootstrap {
            resamples: pairs.resamples,
            seed: study.common.seed,
        },
        ..Options::default()
    })
}

/// The paraphrases that set the cap are those of the near-misses.
fn geometry_stage(
    study: &Study,
    near_miss: &NearMissStage,
    collections: Vec<Arc<Collection>>,
) -> GeometryStage {
    GeometryStage {
        examples: near_miss.examples.clone(),
        collections,
        scorers: near_miss.scorers.clone(),
        options: GeometryOptions {
            seed: study.common.seed,
            scenes: Preset::from(study.preset).scenes(),
            ..GeometryOptions::default()
        },
    }
}

/// A collection that is asked for.
pub struct Chosen {
    /// Its name before it was cut down.
    pub name: String,
    /// Whether the built-in rows to train on are about the same things.
    pub trained_world: bool,
    pub collection: Arc<Collection>,
}

/// The collections that are asked for.
pub fn chosen(study: &Study, data: &Data) -> Result<Vec<Chosen>> {
    if data.documents == Some(0) {
        return Err(Error::Usage("--documents 0: give at least one".into()));
    }
    let built_in = data.data.is_empty();
    let all: Vec<Collection> = match built_in {
        false => {
            let folders = data.data.iter();
            folders
                .map(|folder| Collection::load(folder, &data.split))
                .collect::<Result<_>>()?
        }
        true => {
            let preset = Preset::from(study.preset);
            preset.collections(study.common.seed, data.collection.as_deref())?
        }
    };
    let of_trained_world = |name: &str| {
        let mut known = COLLECTIONS.iter();
        known.any(|known| known.name == name && !known.held_out)
    };
    let chosen = all.into_iter().map(|collection| {
        Ok(Chosen {
            name: collection.name.clone(),
            trained_world: built_in && of_trained_world(&collection.name),
            collection: Arc::new(match data.documents {
                Some(n) if n < collection.corpus.len() => cut_down(&collection, n)?,
                _ => collection,
            }),
        })
    });
    chosen.collect()
}

/// The collection with `n` documents, among which must be all that are relevant to some query: there is nothing to measure
/// otherwise.
fn cut_down(collection: &Collection, n: usize) -> Result<Collection> {
    let fewest = smallest_subset(collection);
    if fewest.is_some_and(|fewest| n >= fewest) {
        return Ok(subset(collection, n));
    }
    let name = &collection.name;
    Err(Error::Usage(match fewest {
        Some(fewest) if fewest < collection.corpus.len() => format!(
            "--documents {n}: half of so few documents of {name} hold all that are relevant of no query; give {fewest} or more"
        ),
        Some(_) => format!(
            "--documents {n}: half of so few documents of {name} hold all that are relevant of no query; leave --documents out"
        ),
        None => format!(
            "--documents {n}: no query of {name} has a relevant document in corpus.jsonl; leave --documents out, or mend qrels"
        ),
    }))
}

fn collections(study: &Study, data: &Data) -> Result<Vec<Arc<Collection>>> {
    let chosen = chosen(study, data)?.into_iter();
    Ok(chosen.map(|chosen| chosen.collection).collect())
}
