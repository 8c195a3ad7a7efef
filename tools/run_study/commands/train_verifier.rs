//! `train-verifier`: a guard of the user's own pairs.

use nearmiss::metrics::statistics::threshold;
use nearmiss::study::guard::{
    GuardData, GuardOptions, Judge, Labelled, Report, Rows, score, summary,
};
use nearmiss::study::pair_scores::{Scorers, score_pairs};
use nearmiss::study::session::Session;
use nearmiss::study::training::{self, stopped};
use nearmiss::train::FolderLock;
use nearmiss::train::pairs::{
    MixOptions, Objective, PairOptions, PairRow, PairTrainer, Rates, TrainedPair, VERIFIER,
};
use nearmiss::verifier::{Calibration, Penalty};
use nearmiss::{Error, Result};
use serde_json::json;

use super::super::args::{Common, GuardTraining, Wanted};
use super::{close, end_trainings_in_order, open, print, print_json};

/// Tokens of a text, unless something else is asked for.
const MAX_LENGTH: usize = 64;

/// Trains on the pairs of files, chooses a threshold by those kept aside, and says what it costs.
pub fn run(common: &Common, training: &GuardTraining) -> Result<()> {
    let kind = training.verifier;
    let mut options = options(common, training);
    options.check()?;
    if training.frozen && !kind.learns() {
        return Err(Error::Usage(format!(
            "--verifier {kind} has no weights, so with --frozen there is nothing to train; leave out one of the two"
        )));
    }
    if options.objective == Objective::Softmax && training.triplets.is_empty() {
        return Err(Error::Usage(
            "--objective softmax tells positives from each other, so it takes --triplets; for pairs choose binary or pairwise"
                .into(),
        ));
    }
    let folder = &common.out;
    // Files are read before weights are fetched, so that a mistake in them shows at once; and so does another training, or a
    // folder that cannot be written.
    FolderLock::check(folder)?;
    let data = data(common, training)?;
    let session = open(&Common {
        max_length: None,
        ..common.clone()
    })?;
    for note in &data.notes {
        session.progress.log(note);
    }
    end_trainings_in_order(&session)?;
    let own = session.encoder.tokenizer().max_length();
    options.max_length = common.max_length.unwrap_or(MAX_LENGTH.min(own));
    let encoder = session.load(&session.backbone.folder, Some(options.max_length))?;
    let options = session.pair_options(options, &encoder);
    // An encoder that stays as it is is found again by its name, or by its folder from wherever that is asked for.
    let name = std::path::absolute(&common.backbone);
    let name = match name {
        Ok(path) if path.is_dir() => path.display().to_string(),
        _ => common.backbone.clone(),
    };

    let mut task = training::Training::task(&session, &folder.display().to_string(), options.steps);
    let listening = session.interrupt.listen();
    let trainer = PairTrainer::new(encoder, kind, options.clone())
        .encoder_name(name)
        .folder(folder)
        .stop_when(listening.flag())
        .watch(|progress| task.step(progress));
    let rows = data.rows.len();
    let trained = match data.rows.clone() {
        Rows::Contrasts(rows) => train(trainer, rows)?,
        Rows::Triplets(rows) => train(trainer, rows)?,
    };
    drop(listening);
    let seconds = task.finish().as_secs_f64();
    if trained.truncated > 0 {
        session.progress.log(&format!(
            "texts cut at {} tokens: {} (--max-length)",
            options.max_length, trained.truncated
        ));
    }
    if !trained.finished {
        return Err(stopped(trained.steps, options.steps, folder));
    }
    let found = training::Training::of(folder, trained.steps, trained.skipped)?;
    let truncated = trained.truncated;
    drop(trained);

    data.write_kept_aside(folder)?;
    let path = folder.join(VERIFIER);
    let mut verifier = session.load_verifier(&path, None)?;
    let scores = score(&verifier, &data.kept_aside, &session.progress)?;
    let calibration = match &verifier.config().calibration {
        // Of the user, since.
        Some(calibration) => {
            session.progress.log(&format!(
                "its threshold stays as it is, {:.4}; `calibrate` sets another",
                calibration.threshold
            ));
            calibration.clone()
        }
        None => {
            let side = |same: bool| -> Vec<f64> {
                let pairs = data.kept_aside.iter().zip(&scores);
                pairs
                    .filter(|(pair, _)| pair.same() == same)
                    .map(|(_, &score)| score)
                    .collect()
            };
            let calibration = Calibration::choose(&side(true), &side(false), training.true_accept)?;
            verifier.set_calibration(&path, calibration.clone())?;
            calibration
        }
    };
    let cosines = cosines(&session, &data.kept_aside)?;
    let same = data
        .kept_aside
        .iter()
        .zip(&cosines)
        .filter(|(pair, _)| pair.same());
    let same: Vec<f64> = same.map(|(_, &cosine)| cosine).collect();
    let of_cosine = threshold(&same, calibration.true_accept).unwrap_or_default();
    let probability = verifier.probability()?;
    let judge = |name: &str, threshold, scores, probability| Judge {
        name: name.into(),
        threshold,
        scores,
        probability,
    };
    let judges = [
        judge(kind.name(), calibration.threshold, scores, probability),
        judge("untrained cosine", of_cosine, cosines, None),
    ];
    let report = Report::new(&data.kept_aside, &judges);
    if common.json {
        let value = json!({
            "verifier": path.display().to_string(),
            "rows": rows,
            "options": options,
            "training": found,
            "texts_cut": truncated,
            "seconds": seconds,
            "calibration": calibration,
            "kept_aside": report,
        });
        print_json(&value)?;
    } else {
        let [first, last] = found.losses();
        print(&format!(
            "verifier: {}\n{rows} rows, {} steps of {}, loss {first} at first and {last} at last (means of a tenth of the steps); the curve: {}\n{}\n{}",
            path.display(),
            found.steps,
            options.batch,
            folder.join(nearmiss::train::trainer::PICTURE).display(),
            summary(&calibration),
            report.table("Pairs that were kept aside"),
        ))?;
    }
    close(&session)
}

fn train<R: PairRow>(trainer: PairTrainer<'_>, rows: Vec<R>) -> Result<TrainedPair> {
    trainer.run(rows)
}

/// The pairs of the files.
fn data(common: &Common, training: &GuardTraining) -> Result<GuardData> {
    let options = GuardOptions {
        keep_aside: training.keep_aside,
        true_accept: training.true_accept,
        built_in: training.built_in,
        mix: MixOptions {
            seed: common.seed,
            ..MixOptions::default()
        },
    };
    match training.triplets.is_empty() {
        true => GuardData::of_pairs(&training.pairs, &training.paraphrases, &options),
        false => GuardData::of_triplets(&training.triplets, &options),
    }
}

/// The encoder's own cosines of pairs, as it was before the training.
fn cosines(session: &Session, pairs: &[Labelled]) -> Result<Vec<f64>> {
    let texts: Vec<[&str; 2]> = pairs.iter().map(Labelled::texts).collect();
    let none: [&str; 0] = [];
    let scorers = Scorers::named(
        &none,
        session.encoder.tokenizer().max_length(),
        Penalty::default(),
    )?;
    let mut found = score_pairs(&session.encoder, &texts, &scorers, &session.progress)?;
    Ok(found.scores.swap_remove(0))
}

fn options(common: &Common, training: &GuardTraining) -> PairOptions {
    PairOptions {
        objective: match training.objective {
            Wanted::Binary => Objective::Binary,
            Wanted::Softmax => Objective::Softmax,
            Wanted::Pairwise => Objective::Pairwise,
        },
        batch: training.batch,
        steps: training.steps,
        verifier: Rates {
            learning_rate: training.verifier_learning_rate,
            weight_decay: 0.01,
        },
        encoder: (!training.frozen).then_some(Rates {
            learning_rate: training.learning_rate,
            weight_decay: 0.005,
        }),
        // A guard is asked either way round.
        swap: true,
        max_length: common.max_length.unwrap_or(MAX_LENGTH),
        seed: common.seed,
        checkpoint_every: training.checkpoint_every,
        ..PairOptions::default()
    }
}
