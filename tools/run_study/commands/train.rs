//! `train`: a model of the user's own rows.

use std::fs;
use std::path::{Path, PathBuf};

use nearmiss::data::triplets::{Examples, Identical, Pair, Triplet, TripletNotes, read};
use nearmiss::study::session::Session;
use nearmiss::study::training::{self, model_folder, stopped};
use nearmiss::train::checkpoint::CHECKPOINT;
use nearmiss::train::{FolderLock, Length, Negatives, Sampler, TrainOptions, Trainer};
use nearmiss::{Error, Result};
use serde_json::json;

use super::super::args::{Common, Mining, Training};
use super::{close, end_trainings_in_order, open, print, print_json};

/// Trains on the rows of files and writes the model folder.
pub fn run(common: &Common, training: &Training) -> Result<()> {
    let to = &common.out;
    let mut options = options(common, training);
    options.check()?;
    let folder = beside(to)?;
    if to.exists() {
        return Err(Error::input(
            to,
            "exists already; name another folder with --out, or remove this one to train again",
        ));
    }
    // Before weights are fetched: another training there is better known at once, and so is a place that cannot be written.
    FolderLock::check(&folder)?;
    let rows = Rows::read(training)?;
    // Negatives are looked for with the encoder's own limit.
    let session = open(&Common {
        max_length: None,
        ..common.clone()
    })?;
    for note in &rows.notes {
        session.progress.log(note);
    }
    end_trainings_in_order(&session)?;
    let (triplets, without) = rows.complete(&options, &session)?;
    if without > 0 {
        let log = format!(
            "rows for which no such negative was found, and that took a random one: {without}"
        );
        session.progress.log(&log);
    }
    // Where negatives were drawn among few rows, a sentence of each batch is in two of its rows.
    if options.distinct
        && triplets.len() >= options.batch
        && Sampler::distinct(&triplets, options.batch, options.seed).is_err()
    {
        options.distinct = false;
        session.progress.log(&format!(
            "no batch of {} rows is without duplicate sentences, so batches have some; a smaller --batch may have none",
            options.batch
        ));
    }
    let encoder = session.load(&session.backbone.folder, common.max_length)?;
    let limit = encoder.tokenizer().max_length();
    let plan = options.plan(session.encoder.config(), limit, &triplets, &[])?;
    let n = triplets.len();
    let mut task = training::Training::task(&session, &to.display().to_string(), plan.steps);
    let listening = session.interrupt.listen();
    let options = session.training_options(options, &encoder);
    let trained = Trainer::new(encoder, options)
        .folder(&folder)
        .stop_when(listening.flag())
        .watch(|progress| task.step(progress))
        .run(triplets)?;
    drop(listening);
    let time = task.finish().as_secs_f64();
    if trained.truncated > 0 {
        session.progress.log(&format!(
            "texts cut at {} tokens: {} (--max-length)",
            trained.plan.max_length, trained.truncated
        ));
    }
    if !trained.finished() {
        return Err(stopped(trained.steps, plan.steps, &folder));
    }
    fs::rename(model_folder(&folder), to).map_err(|e| Error::io("write", to, e))?;
    // Whoever removes the model can train again.
    let checkpoint = folder.join(CHECKPOINT);
    fs::remove_file(&checkpoint).map_err(|e| Error::io("remove", &checkpoint, e))?;
    let found = training::Training::of(&folder, trained.steps, trained.skipped)?;
    if common.json {
        let value = json!({
            "model": to.display().to_string(),
            "rows": n,
            "plan": trained.plan,
            "training": found,
            "texts_cut": trained.truncated,
            "seconds": time,
        });
        print_json(&value)?;
    } else {
        let [first, last] = found.losses();
        print(&format!(
            "model: {}\n{n} rows, {} steps of {}, loss {first} at first and {last} at last (means of a tenth of the steps); the curve: {}\n",
            to.display(),
            found.steps,
            trained.plan.batch,
            folder.join(nearmiss::train::trainer::PICTURE).display()
        ))?;
    }
    close(&session)
}

fn options(common: &Common, training: &Training) -> TrainOptions {
    let default = TrainOptions::default();
    TrainOptions {
        batch: training.batch,
        length: match training.steps {
            Some(steps) => Length::Steps(steps),
            None => Length::Epochs(training.epochs),
        },
        learning_rate: training.learning_rate,
        scale: training.scale,
        max_length: common.max_length.unwrap_or(default.max_length),
        seed: common.seed,
        negatives: match training.negatives {
            Mining::Random => Negatives::Random,
            Mining::Bm25 => Negatives::bm25(),
            Mining::Encoder => Negatives::encoder(),
        },
        distinct: !training.duplicates,
        prompts: training.prompts,
        checkpoint_every: training.checkpoint_every,
        ..default
    }
}

/// The folder of checkpoints and the curve: the model's with another ending.
fn beside(model: &Path) -> Result<PathBuf> {
    let Some(name) = model.file_name() else {
        return Err(Error::Usage(format!(
            "--out {}: name a new folder for the model",
            model.display()
        )));
    };
    let mut name = name.to_owned();
    name.push(".training");
    Ok(model.with_file_name(name))
}

/// The rows of files, with what is odd about them.
struct Rows {
    triplets: Vec<Triplet>,
    pairs: Vec<Pair>,
    notes: Vec<String>,
}

impl Rows {
    fn read(training: &Training) -> Result<Self> {
        let identical = match training.keep_identical {
            true => Identical::Keep,
            false => Identical::Drop,
        };
        let mut rows = Rows {
            triplets: Vec::new(),
            pairs: Vec::new(),
            notes: Vec::new(),
        };
        for file in &training.triplets {
            let (examples, notes): (Examples, TripletNotes) = read(file, identical)?;
            rows.notes
                .push(format!("{}: {} rows", file.display(), examples.len()));
            rows.notes.extend(notes.lines("rows"));
            match examples {
                Examples::Triplets(of_file) => rows.triplets.extend(of_file),
                Examples::Pairs(of_file) => rows.pairs.extend(of_file),
            }
        }
        Ok(rows)
    }

    /// All rows with negatives, and the number of those that took a random one in want of a better.
    fn complete(self, options: &TrainOptions, session: &Session) -> Result<(Vec<Triplet>, usize)> {
        let Rows {
            mut triplets,
            pairs,
            ..
        } = self;
        if pairs.is_empty() {
            return Ok((triplets, 0));
        }
        let n = pairs.len();
        let mut task = session.progress.task("negatives", n);
        let pairs = Examples::Pairs(pairs);
        let encoder = &session.encoder;
        let (found, without) =
            options
                .negatives
                .complete(pairs, encoder, options.seed, |done, of| {
                    task.at(done * n / of.max(1))
                })?;
        task.finish();
        triplets.extend(found);
        Ok((triplets, without))
    }
}
