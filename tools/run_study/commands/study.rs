//! The stages of the study. Files are read before weights are fetched, so that a mistake in them shows at once.

use std::sync::Arc;

use nearmiss::data::beir::Collection;
use nearmiss::data::pairs::Filter;
use nearmiss::metrics::near_miss::Options;
use nearmiss::metrics::statistics::Bootstrap;
use nearmiss::study::geometry::{GeometryOptions, GeometryStage};
use nearmiss::study::near_miss::{Examples, FileOptions, NearMissStage, Triplets};
use nearmiss::study::pair_scores::Scorers;
use nearmiss::study::plan::{Plan, Preset};
use nearmiss::study::retrieve::{RetrieveOptions, RetrieveStage, subset};
use nearmiss::{Error, Result};

use super::super::args::{Data, Mode, Pairs, Second, Study};
use super::{close, open, print, scorers};

/// The whole study, stage by stage.
pub fn all(study: &Study, data: &Data, second: &Second, pairs: &Pairs) -> Result<()> {
    let scorers = Arc::new(scorers(second)?);
    let near_miss = near_miss_stage(study, pairs, &scorers)?;
    let collections = collections(study, data)?;
    let geometry = geometry_stage(study, &near_miss, collections.clone());
    let mut plan = Plan::default();
    for collection in collections {
        plan.push(retrieve_stage(collection, &scorers));
    }
    plan.push(near_miss);
    plan.push(geometry);
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
fn run(study: &Study, plan: &Plan) -> Result<()> {
    let session = open(&study.common)?;
    let found = plan.run(&session, |tables| match study.common.json {
        true => Ok(()),
        false => print(tables),
    })?;
    if study.common.json {
        print(&format!("{:#}\n", serde_json::Value::from(found)))?;
    }
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
    if pairs.resamples == 0 {
        return Err(Error::Usage("--resamples 0: give at least one".into()));
    }
    let seed = study.common.seed;
    let files = FileOptions {
        filter: match pairs.mode {
            Mode::Corrected => Filter::Corrected,
            Mode::Paper => Filter::Paper,
        },
        seed,
        ..FileOptions::default()
    };
    let examples = match &pairs.pairs {
        Some(file) => Examples::from_files(file, pairs.paraphrases.as_deref(), files)?,
        None => Examples::from_edits(&Preset::from(study.preset).edit_set(seed)?),
    };
    let triplets = pairs.triplets.as_deref();
    let triplets = triplets.map(|file| Triplets::read(file, pairs.triplet_sample, seed));
    Ok(NearMissStage {
        examples: Arc::new(examples),
        triplets: triplets.transpose()?,
        scorers: scorers.clone(),
        options: Options {
            minimum: pairs.minimum,
            bootstrap: Bootstrap {
                resamples: pairs.resamples,
                seed,
            },
            ..Options::default()
        },
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

/// The collections that are asked for.
fn collections(study: &Study, data: &Data) -> Result<Vec<Arc<Collection>>> {
    if data.documents == Some(0) {
        return Err(Error::Usage("--documents 0: give at least one".into()));
    }
    let all = match &data.data {
        Some(folder) => vec![Collection::load(folder, &data.split)?],
        None => {
            let preset = Preset::from(study.preset);
            preset.collections(study.common.seed, data.collection.as_deref())?
        }
    };
    let all = all.into_iter().map(|collection| match data.documents {
        Some(n) if n < collection.corpus.len() => subset(&collection, n),
        _ => collection,
    });
    Ok(all.map(Arc::new).collect())
}
