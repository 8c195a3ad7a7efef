//! The stages of the study. Files are read before weights are fetched, so that a mistake in them shows at once.

use std::sync::Arc;

use nearmiss::data::beir::Collection;
use nearmiss::data::generated::COLLECTIONS;
use nearmiss::data::pairs::Filter;
use nearmiss::data::triplets::SplitBy;
use nearmiss::metrics::near_miss::Options;
use nearmiss::metrics::statistics::Bootstrap;
use nearmiss::study::experiment_1::Experiment1;
use nearmiss::study::experiment_1::data::{DataOptions, SHARE, TrainingData, TrainingFiles};
use nearmiss::study::experiment_1::measure::RetrievalSet;
use nearmiss::study::geometry::{GeometryOptions, GeometryStage};
use nearmiss::study::near_miss::{Examples, FileOptions, NearMissStage, Triplets};
use nearmiss::study::pair_scores::Scorers;
use nearmiss::study::plan::{Plan, Preset};
use nearmiss::study::retrieve::{RetrieveOptions, RetrieveStage, subset};
use nearmiss::train::arms::Arm;
use nearmiss::{Error, Result};

use super::super::args::{Arms, Data, Mode, PairFiles, Pairs, Second, Study};
use super::{close, end_trainings_in_order, open, print, scorers};

/// The whole study, stage by stage.
pub fn all(study: &Study, data: &Data, second: &Second, pairs: &Pairs) -> Result<()> {
    let scorers = Arc::new(scorers(second)?);
    let near_miss = near_miss_stage(study, pairs, &scorers)?;
    let collections = collections(study, data)?;
    let geometry = geometry_stage(study, &near_miss, collections.clone());
    let experiment_1 = experiment_1_stage(study, &collections, &[], &pairs.files, None)?;
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
    let collections = collections(study, data)?;
    let mut plan = Plan::default();
    plan.push(experiment_1_stage(
        study,
        &collections,
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
    collections: &[Arc<Collection>],
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
        .find(|name| !collections.iter().any(|c| c.name == **name))
    {
        let names: Vec<&str> = collections.iter().map(|c| &c.name[..]).collect();
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
            share,
            rows: rows.or(built_in.then_some(size.rows)),
        },
    )?;
    // Rows that are built in are about the same things as these.
    let same_world = |name: &str| {
        built_in
            && COLLECTIONS
                .iter()
                .any(|known| known.name == name && !known.held_out)
    };
    let sets = collections.iter().map(|collection| RetrievalSet {
        in_domain: same_world(&collection.name) || in_domain.contains(&collection.name),
        collection: collection.clone(),
    });
    let edits = Examples::from_edits(&Preset::from(study.preset).edit_set(seed)?);
    let mut near_misses = vec![Arc::new(edits)];
    near_misses.extend(examples_of_files(study, pairs)?.map(Arc::new));
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
        options.distinct = arms.distinct;
    }
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

/// The collections that are asked for.
fn collections(study: &Study, data: &Data) -> Result<Vec<Arc<Collection>>> {
    if data.documents == Some(0) {
        return Err(Error::Usage("--documents 0: give at least one".into()));
    }
    let all = match data.data.is_empty() {
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
    let all = all.into_iter().map(|collection| match data.documents {
        Some(n) if n < collection.corpus.len() => subset(&collection, n),
        _ => collection,
    });
    Ok(all.map(Arc::new).collect())
}
