//! The stages of the study. Files are read before weights are fetched, so that a mistake in them shows at once.

use std::sync::Arc;

use nearmiss::data::beir::Collection;
use nearmiss::data::generated::COLLECTIONS;
use nearmiss::data::pairs::Filter;
use nearmiss::data::triplets::{Identical, SplitBy};
use nearmiss::metrics::near_miss::Options;
use nearmiss::metrics::statistics::Bootstrap;
use nearmiss::study::experiment_1::Experiment1;
use nearmiss::study::geometry::{GeometryOptions, GeometryStage};
use nearmiss::study::measured::RetrievalSet;
use nearmiss::study::near_miss::{Examples, FileOptions, NearMissStage, Triplets};
use nearmiss::study::pair_scores::Scorers;
use nearmiss::study::plan::{Plan, Preset};
use nearmiss::study::retrieve::{RetrieveOptions, RetrieveStage, subset};
use nearmiss::study::training::data::{DataOptions, SHARE, TrainingData, TrainingFiles};
use nearmiss::train::arms::Arm;
use nearmiss::{Error, Result};

use super::super::args::{Arms, Data, Mode, PairFiles, Pairs, Second, Study};
use super::{close, end_trainings_in_order, open, print, scorers};

/// The whole study, stage by stage.
pub fn all(study: &Study, data: &Data, second: &Second, pairs: &Pairs) -> Result<()> {
    let scorers = Arc::new(scorers(second)?);
    let near_miss = near_miss_stage(study, pairs, &scorers)?;
    let chosen = chosen(study, data)?;
    let experiment_1 = experiment_1_stage(study, &chosen, &[], &pairs.files, None)?;
    let collections: Vec<Arc<Collection>> = chosen.into_iter().map(|c| c.collection).collect();
    let geometry = geometry_stage(study, &near_miss, collections.clone());
    let mut plan = Plan::default();
    for collection in collections {
        plan.push(retrieve_stage(collection, &scorers));
    }
    plan.push(near_miss);
    plan.push(geometry);
    plan.push(experiment_1);
    run(study, &plan)
}

/// Experiment 1.
pub fn experiment_1(
    study: &Study,
    data: &Data,
    in_domain: &[String],
    pairs: &PairFiles,
    arms: &Arms,
) -> Result<()> {
    let chosen = chosen(study, data)?;
    let mut plan = Plan::default();
    plan.push(experiment_1_stage(
        study,
        &chosen,
        in_domain,
        pairs,
        Some(arms),
    )?);
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
    end_trainings_in_order(&session)?;
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
fn examples_of_files(study: &Study, pairs: &PairFiles) -> Result<Option<Examples>> {
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

fn near_miss_options(study: &Study, pairs: &PairFiles) -> Result<Options> {
    if pairs.resamples == 0 {
        return Err(Error::Usage("--resamples 0: give at least one".into()));
    }
    Ok(Options {
        minimum: pairs.minimum,
        bootstrap: Bootstrap {
            resamples: pairs.resamples,
            seed: study.common.seed,
        },
        ..Options::default()
    })
}

/// Without `arms` those of the preset, on built-in rows.
fn experiment_1_stage(
    study: &Study,
    chosen: &[Chosen],
    in_domain: &[String],
    pairs: &PairFiles,
    arms: Option<&Arms>,
) -> Result<Experiment1> {
    let seed = study.common.seed;
    let size = Preset::from(study.preset).experiment_1();
    let files = arms.map_or(TrainingFiles::default(), |arms| TrainingFiles {
        triplets: arms.triplets.clone(),
        structural: arms.structural.clone(),
        positives: arms.positives.clone(),
    });
    let built_in = files.triplets.is_empty();
    let rows = arms.and_then(|arms| arms.rows);
    let share = arms.map_or(SHARE, |arms| arms.share);
    if !(0.0..1.0).contains(&share) || rows == Some(0) {
        return Err(Error::Usage(format!(
            "--share {share}, --rows {}: give a share from 0 to below 1, and one row at least",
            rows.map_or("all".into(), |rows| rows.to_string())
        )));
    }
    if let Some(name) = in_domain
        .iter()
        .find(|name| !chosen.iter().any(|c| c.name == **name))
    {
        let names: Vec<&str> = chosen.iter().map(|c| &c.name[..]).collect();
        return Err(Error::Usage(format!(
            "--in-domain {name}: no collection is called so; there are {}",
            names.join(", ")
        )));
    }
    let data = TrainingData::new(
        &files,
        &DataOptions {
            seed,
            split: match pairs.mode {
                Mode::Corrected => SplitBy::Anchor,
                Mode::Paper => SplitBy::Row,
            },
            identical: match pairs.mode {
                Mode::Corrected => Identical::Drop,
                Mode::Paper => Identical::Keep,
            },
            share,
            rows: rows.or(built_in.then_some(size.rows)),
        },
    )?;
    let sets = chosen.iter().map(|chosen| RetrievalSet {
        // Rows that are built in are about the same things as these.
        in_domain: (built_in && chosen.trained_world) || in_domain.contains(&chosen.name),
        collection: chosen.collection.clone(),
    });
    let edits = Examples::from_edits(&Preset::from(study.preset).edit_set(seed)?);
    let mut near_misses = vec![Arc::new(edits)];
    if let Some(mut examples) = examples_of_files(study, pairs)? {
        // No two sets of a report have one name.
        if examples.name == Examples::BUILT_IN {
            examples.name.push_str(" (of a file)");
        }
        near_misses.push(Arc::new(examples));
    }
    let seeds = match arms {
        Some(arms) if !arms.seeds.is_empty() => arms.seeds.clone(),
        _ => (0..size.seeds).map(|i| seed + i).collect(),
    };
    let named = arms.map_or(vec!["A".into(), "B".into()], |arms| arms.arms.clone());
    let mut options = size.training;
    options.max_length = study.common.max_length.unwrap_or(options.max_length);
    if let Some(arms) = arms {
        options.batch = arms.batch.unwrap_or(options.batch);
        options.learning_rate = arms.learning_rate;
    }
    options.distinct = matches!(pairs.mode, Mode::Corrected);
    Ok(Experiment1 {
        data,
        arms: parse_arms(&named)?,
        seeds: once_each("--seeds", seeds)?,
        steps: arms.and_then(|arms| arms.steps).or(size.steps),
        options,
        sets: sets.collect(),
        near_misses,
        evaluation: near_miss_options(study, pairs)?,
        held_out: size.held_out,
        sentences: size.sentences,
        seed,
    })
}

/// Arms by name; `all` stands for every one, with the doses of the protocol.
fn parse_arms(names: &[String]) -> Result<Vec<Arm>> {
    const ALL: [&str; 12] = [
        "A",
        "A-id",
        "A-para",
        "B",
        "B-matched",
        "B-para",
        "B-own",
        "B-dose(2.5)",
        "B-dose(5)",
        "B-dose(10)",
        "B-dose(20)",
        "B-dose(40)",
    ];
    let arms: Vec<Arm> = match names {
        [all] if all == "all" => ALL.map(str::parse).into_iter().collect::<Result<_>>()?,
        names => names
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_>>()?,
    };
    once_each("--arms", arms)
}

/// The values, if none is there twice.
fn once_each<T: PartialEq + std::fmt::Display>(option: &str, values: Vec<T>) -> Result<Vec<T>> {
    match (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
        None => Ok(values),
        Some(twice) => Err(Error::Usage(format!(
            "{option} names {} twice; name it once",
            values[twice]
        ))),
    }
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
struct Chosen {
    /// Its name before it was cut down.
    name: String,
    /// Whether the built-in rows to train on are about the same things.
    trained_world: bool,
    collection: Arc<Collection>,
}

/// The collections that are asked for.
fn chosen(study: &Study, data: &Data) -> Result<Vec<Chosen>> {
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
    let chosen = all.into_iter().map(|collection| Chosen {
        name: collection.name.clone(),
        trained_world: built_in && of_trained_world(&collection.name),
        collection: Arc::new(match data.documents {
            Some(n) if n < collection.corpus.len() => subset(&collection, n),
            _ => collection,
        }),
    });
    Ok(chosen.collect())
}

fn collections(study: &Study, data: &Data) -> Result<Vec<Arc<Collection>>> {
    let chosen = chosen(study, data)?.into_iter();
    Ok(chosen.map(|chosen| chosen.collection).collect())
}
