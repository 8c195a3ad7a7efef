//! The experiments that train. Files are read before weights are fetched, so that a mistake in them shows at once.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use nearmiss::data::edits::EditSet;
use nearmiss::data::triplets::{Identical, SplitBy};
use nearmiss::metrics::near_miss::{Kind as PairKind, Options};
use nearmiss::study::experiment_1::Experiment1;
use nearmiss::study::experiment_2::Experiment2;
use nearmiss::study::experiment_2::guard::{Guard, GuardRows};
use nearmiss::study::experiment_2::models::{Cell, Choice, Mode as Training, Positives};
use nearmiss::study::measured::RetrievalSet;
use nearmiss::study::near_miss::Examples;
use nearmiss::study::plan::{Plan, Preset};
use nearmiss::study::retrieve::RetrieveOptions;
use nearmiss::study::training::data::{DataOptions, SHARE, TrainingData, TrainingFiles};
use nearmiss::train::arms::Arm;
use nearmiss::train::pairs::Objective;
use nearmiss::verifier::Kind;
use nearmiss::{Error, Result};

use super::super::args::{self, Arms, Data, Mode, PairFiles, Study, TrainedScorers, TrainingRows};
use super::study::{Chosen, chosen, examples_of_files, near_miss_options, run};

/// Experiment 1.
pub fn experiment_1(
    study: &Study,
    data: &Data,
    in_domain: &[String],
    pairs: &PairFiles,
    arms: &Arms,
    rows: &TrainingRows,
) -> Result<()> {
    let chosen = chosen(study, data)?;
    let mut plan = Plan::default();
    plan.push(first(study, &chosen, in_domain, pairs, Some((arms, rows)))?);
    run(study, &plan)
}

/// Experiment 2.
pub fn experiment_2(
    study: &Study,
    data: &Data,
    in_domain: &[String],
    pairs: &PairFiles,
    trained: &TrainedScorers,
    rows: &TrainingRows,
) -> Result<()> {
    let chosen = chosen(study, data)?;
    let mut plan = Plan::default();
    plan.push(second(
        study,
        &chosen,
        in_domain,
        pairs,
        Some((trained, rows)),
    )?);
    run(study, &plan)
}

/// What both experiments train on and are measured on.
struct Inputs {
    files: TrainingFiles,
    data: TrainingData,
    sets: Vec<RetrievalSet>,
    near_misses: Vec<Arc<Examples>>,
    evaluation: Options,
}

impl Inputs {
    /// Without `rows` built-in ones, so many as the preset has.
    fn new(
        study: &Study,
        chosen: &[Chosen],
        in_domain: &[String],
        pairs: &PairFiles,
        rows: Option<&TrainingRows>,
        of_preset: usize,
        edits: EditSet,
    ) -> Result<Self> {
        let seed = study.common.seed;
        let files = rows.map_or(TrainingFiles::default(), |rows| TrainingFiles {
            triplets: rows.triplets.clone(),
            structural: rows.structural.clone(),
            positives: rows.positives.clone(),
        });
        let built_in = files.triplets.is_empty();
        let share = rows.map_or(SHARE, |rows| rows.share);
        let rows = rows.and_then(|rows| rows.rows);
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
                rows: rows.or(built_in.then_some(of_preset)),
            },
        )?;
        let sets = chosen.iter().map(|chosen| RetrievalSet {
            // Rows that are built in are about the same things as these.
            in_domain: (built_in && chosen.trained_world) || in_domain.contains(&chosen.name),
            collection: chosen.collection.clone(),
        });
        let mut near_misses = vec![Arc::new(Examples::from_edits(&edits))];
        if let Some(mut examples) = examples_of_files(study, pairs)? {
            // No two sets of a report have one name.
            if examples.name == Examples::BUILT_IN {
                examples.name.push_str(" (of a file)");
            }
            near_misses.push(Arc::new(examples));
        }
        Ok(Inputs {
            files,
            data,
            sets: sets.collect(),
            near_misses,
            evaluation: near_miss_options(study, pairs)?,
        })
    }
}

/// The seeds that are given, or so many from the first.
fn seeds(given: Option<&Vec<u64>>, first: u64, n: u64) -> Result<Vec<u64>> {
    let seeds = match given {
        Some(seeds) if !seeds.is_empty() => seeds.clone(),
        _ => (0..n).map(|i| first + i).collect(),
    };
    once_each("--seeds", seeds)
}

/// Without `given` the arms of the preset, on built-in rows.
pub fn first(
    study: &Study,
    chosen: &[Chosen],
    in_domain: &[String],
    pairs: &PairFiles,
    given: Option<(&Arms, &TrainingRows)>,
) -> Result<Experiment1> {
    let seed = study.common.seed;
    let preset = Preset::from(study.preset);
    let (size, edits) = (preset.experiment_1(), preset.edit_set(seed)?);
    let (arms, rows) = given.unzip();
    let inputs = Inputs::new(study, chosen, in_domain, pairs, rows, size.rows, edits)?;
    let named = arms.map_or(vec!["A".into(), "B".into()], |arms| arms.arms.clone());
    let mut options = size.training;
    options.max_length = study.common.max_length.unwrap_or(options.max_length);
    if let Some(arms) = arms {
        options.batch = arms.batch.unwrap_or(options.batch);
        options.learning_rate = arms.learning_rate;
    }
    options.distinct = matches!(pairs.mode, Mode::Corrected);
    Ok(Experiment1 {
        data: inputs.data,
        arms: parse_arms(&named)?,
        seeds: seeds(arms.map(|arms| &arms.seeds), seed, size.seeds)?,
        steps: arms.and_then(|arms| arms.steps).or(size.steps),
        options,
        sets: inputs.sets,
        near_misses: inputs.near_misses,
        evaluation: inputs.evaluation,
        held_out: size.held_out,
        sentences: size.sentences,
        seed,
    })
}

/// Without `given` the scorers of the preset, trained on built-in rows.
pub fn second(
    study: &Study,
    chosen: &[Chosen],
    in_domain: &[String],
    pairs: &PairFiles,
    given: Option<(&TrainedScorers, &TrainingRows)>,
) -> Result<Experiment2> {
    let seed = study.common.seed;
    let preset = Preset::from(study.preset);
    let size = preset.experiment_2();
    let edits = preset.edit_set_of(seed, size.edit_anchors)?;
    let (trained, rows) = given.unzip();
    let mut inputs = Inputs::new(study, chosen, in_domain, pairs, rows, size.rows, edits)?;
    for set in &mut inputs.near_misses {
        // No number is made of what is neither to be accepted nor a near-miss.
        let judged = |kind: PairKind| kind == PairKind::NearMiss || kind.is_accept();
        Arc::make_mut(set).items.retain(|item| judged(item.kind));
    }
    let depth = trained
        .and_then(|trained| trained.depth)
        .unwrap_or(size.depth);
    if depth == 0 {
        return Err(Error::Usage(
            "--depth 0: give one candidate at least".into(),
        ));
    }
    let guard = match trained {
        Some(trained) if trained.no_guard => None,
        _ => {
            let mut options = size.guard;
            let steps = trained.and_then(|trained| trained.guard_steps);
            options.steps = steps.unwrap_or(options.steps);
            options.checkpoint_every = size.checkpoint_every;
            Some(Guard {
                rows: GuardRows::new(
                    &inputs.files,
                    seed,
                    size.guard_anchors,
                    size.guard_questions,
                )?,
                options,
            })
        }
    };
    let length = trained.and_then(|trained| trained.verifier_length);
    Ok(Experiment2 {
        data: inputs.data,
        choice: Choice {
            verifiers: verifiers(trained)?,
            cells: cells(trained, size.cells)?,
            objectives: objectives(trained)?,
            seeds: seeds(trained.map(|trained| &trained.seeds), seed, size.seeds)?,
        },
        batch: trained.and_then(|trained| trained.batch).or(size.batch),
        steps: trained.and_then(|trained| trained.steps).or(size.steps),
        checkpoint_every: size.checkpoint_every,
        scorer_length: length.unwrap_or(size.scorer_length),
        sets: inputs.sets,
        retrieve: RetrieveOptions {
            depth,
            ..RetrieveOptions::default()
        },
        near_misses: inputs.near_misses,
        evaluation: inputs.evaluation,
        guard,
        seed,
    })
}

/// The scorers that are named; all of them if none is.
fn verifiers(trained: Option<&TrainedScorers>) -> Result<Vec<Kind>> {
    match trained {
        Some(trained) if !trained.verifiers.is_empty() => parsed("--verifiers", &trained.verifiers),
        _ => Ok(Kind::ALL.to_vec()),
    }
}

/// What is trained: of the scorers that are named every way that is, or what the preset has of it.
fn cells(trained: Option<&TrainedScorers>, of_preset: Vec<Cell>) -> Result<Vec<Cell>> {
    let Some(trained) = trained else {
        return Ok(of_preset);
    };
    let mut cells = match trained.verifiers.is_empty() {
        true => of_preset,
        false => Cell::all(&verifiers(Some(trained))?),
    };
    if !trained.training.is_empty() {
        let modes: Vec<Training> = parsed("--training", &trained.training)?;
        cells.retain(|cell| modes.contains(&cell.mode));
    }
    if !trained.positives_as.is_empty() {
        let positives: Vec<Positives> = parsed("--positives-as", &trained.positives_as)?;
        for cell in &mut cells {
            cell.positives.clone_from(&positives);
        }
    }
    Ok(cells)
}

fn objectives(trained: Option<&TrainedScorers>) -> Result<Vec<Objective>> {
    let named = trained.map_or(vec![args::Objective::Softmax], |t| t.objective.clone());
    let twice = (1..named.len()).find(|&i| named[..i].contains(&named[i]));
    let objectives: Vec<Objective> = named.into_iter().map(Objective::from).collect();
    match twice {
        None => Ok(objectives),
        Some(i) => Err(Error::Usage(format!(
            "--objective names {} twice; name it once",
            objectives[i].name()
        ))),
    }
}

/// Values by name.
fn parsed<T: FromStr<Err = Error> + PartialEq + Display>(
    option: &str,
    names: &[String],
) -> Result<Vec<T>> {
    let values: Result<Vec<T>> = names.iter().map(|name| name.parse()).collect();
    once_each(option, values?)
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
fn once_each<T: PartialEq + Display>(option: &str, values: Vec<T>) -> Result<Vec<T>> {
    match (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
        None => Ok(values),
        Some(twice) => Err(Error::Usage(format!(
            "{option} names {} twice; name it once",
            values[twice]
        ))),
    }
}
