//! Ids of models and of the experiment cover what their numbers depend on, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::guard::GuardRows;
use super::models::Positives;
use super::*;
use crate::data::generated::COLLECTIONS;
use crate::data::triplets::{Identical, SplitBy};
use crate::device::DeviceChoice;
use crate::study::plan::Preset;
use crate::study::results::id;
use crate::study::session::SessionOptions;
use crate::study::training::data::{DataOptions, SHARE, TrainingFiles};
use crate::train::pairs::{Objective, Rates};
use crate::verifier::Kind;

fn session(max_length: Option<usize>, out: &Path) -> Session {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-3x96");
    Session::open(SessionOptions {
        device: DeviceChoice::Cpu,
        backbone: model.to_str().unwrap().into(),
        max_length,
        memory: None,
        offline: true,
        profile: false,
        quiet: true,
        out: out.into(),
    })
    .unwrap()
}

/// The smoke preset with two seeds.
fn stage() -> Experiment2 {
    let size = Preset::Smoke.experiment_2();
    let options = DataOptions {
        seed: 42,
        split: SplitBy::Anchor,
        identical: Identical::Drop,
        share: SHARE,
        rows: Some(size.rows),
    };
    let files = TrainingFiles::default();
    Experiment2 {
        data: TrainingData::new(&files, &options).unwrap(),
        choice: Choice {
            verifiers: Kind::ALL.to_vec(),
            cells: size.cells,
            objectives: vec![Objective::Softmax],
            seeds: vec![42, 43],
        },
        batch: size.batch,
        steps: size.steps,
        checkpoint_every: size.checkpoint_every,
        scorer_length: size.scorer_length,
        sets: vec![RetrievalSet {
            collection: Arc::new(COLLECTIONS[0].generate(42, 12, 6).unwrap()),
            in_domain: true,
        }],
        retrieve: RetrieveOptions::default(),
        near_misses: vec![Arc::new(Examples::from_edits(
            &Preset::Smoke.edit_set(42).unwrap(),
        ))],
        evaluation: Options::default(),
        guard: Some(Guard {
            rows: GuardRows::new(&files, 42, size.guard_anchors, size.guard_questions).unwrap(),
            options: size.guard,
        }),
        seed: 42,
    }
}

/// The ids of the trained models, and that of the experiment.
fn ids(stage: &Experiment2, session: &Session) -> (Vec<String>, String) {
    let config = stage.config(session);
    (config.trained.iter().map(id).collect(), id(&config))
}

#[test]
fn an_id_changes_with_what_numbers_depend_on() {
    let at_hand = session(Some(40), Path::new("nowhere"));
    let (models, whole) = ids(&stage(), &at_hand);
    // f4 frozen by two kinds of positives, f4 and f1 with their encoder, all by two seeds; the guard.
    assert_eq!(models.len(), 4 * 2 + 1);
    assert_eq!(models.iter().collect::<BTreeSet<_>>().len(), models.len());
    assert_eq!(ids(&stage(), &at_hand), (models.clone(), whole.clone()));
    /// Which of the models on the experiment's rows, the guard, and the experiment.
    type Change = (&'static str, [bool; 3], fn(&mut Experiment2));
    let changes: [Change; 25] = [
        ("a row for retrieval", [true, false, true], |s| {
            s.data.retrieval[3].positive.push('.')
        }),
        ("a share of structural rows", [true, false, true], |s| {
            s.data.share = 0.1
        }),
        ("steps", [true, false, true], |s| s.steps = Some(7)),
        ("the batch", [true, false, true], |s| s.batch = Some(5)),
        ("what scorers see", [true, false, true], |s| {
            s.scorer_length = 20
        }),
        ("the objective", [true, false, true], |s| {
            s.choice.objectives = vec![Objective::Binary]
        }),
        ("seeds", [true, false, true], |s| {
            s.choice.seeds = vec![1, 2]
        }),
        ("positives", [true, false, true], |s| {
            s.choice.cells.remove(0);
            s.choice.cells[0].positives = vec![Positives::Paraphrase];
        }),
        ("the guard's seed", [false, true, true], |s| s.seed = 7),
        ("a row of the guard", [false, true, true], |s| {
            guard(s).rows.rows[0].accept[1].push('.')
        }),
        ("the guard's steps", [false, true, true], |s| {
            guard(s).options.steps = 9
        }),
        ("the guard's rates", [false, true, true], |s| {
            guard(s).options.verifier = Rates {
                learning_rate: 0.1,
                weight_decay: 0.0,
            }
        }),
        (
            "what the guard is calibrated on",
            [false, false, true],
            |s| guard(s).rows.accepts[0][0].push('.'),
        ),
        ("no guard", [false, true, true], |s| s.guard = None),
        ("the scorers", [false, false, true], |s| {
            // Those that learn are not scored as they are.
            s.choice
                .verifiers
                .retain(|kind| *kind != Kind::SoftAlignment);
        }),
        ("candidates", [false, false, true], |s| s.retrieve.depth = 7),
        ("a collection's kind", [false, false, true], |s| {
            s.sets[0].in_domain = false
        }),
        ("another collection", [false, false, true], |s| {
            s.sets.push(s.sets[0].clone())
        }),
        ("a near-miss", [false, false, true], |s| {
            Arc::make_mut(&mut s.near_misses[0]).items[0].text.push('.');
        }),
        ("fewest pairs", [false, false, true], |s| {
            s.evaluation.minimum = 7
        }),
        ("folds", [false, false, true], |s| {
            s.evaluation.folds = Some(3)
        }),
        ("bootstrap samples", [false, false, true], |s| {
            s.evaluation.bootstrap.resamples = 7
        }),
        // What no number depends on.
        ("names and notes", [false, false, false], |s| {
            s.data.names = ["x", "y"].map(String::from);
            s.data.notes.push("odd".into());
            guard(s).rows.name = "z".into();
        }),
        ("checkpoints", [false, false, false], |s| {
            s.checkpoint_every = Some(1);
            guard(s).options.checkpoint_every = Some(1);
        }),
        ("how much is done at a time", [false, false, false], |s| {
            (s.retrieve.queries, s.retrieve.pairs) = (1, 1);
            guard(s).options.token_budget = Some(100);
        }),
    ];
    let (own, of_guard) = models.split_at(models.len() - 1);
    for (what, [of_models, the_guard, of_whole], change) in changes {
        let mut other = stage();
        change(&mut other);
        let guarded = usize::from(other.guard.is_some());
        let (found, id) = ids(&other, &at_hand);
        let (found, guard) = found.split_at(found.len() - guarded);
        assert_eq!(found != own, of_models, "{what}");
        assert_eq!(guard != of_guard, the_guard, "{what}");
        assert_eq!(id != whole, of_whole, "{what}");
    }
    // The first stage's limit is none of a training's, unless scorers would see more.
    let shorter = session(Some(36), Path::new("nowhere"));
    let (found, id) = ids(&stage(), &shorter);
    assert!(found[..8] == models[..8] && id != whole);
    let (found, _) = ids(&stage(), &session(Some(16), Path::new("nowhere")));
    assert!(found.iter().all(|id| !models.contains(id)));
}

fn guard(stage: &mut Experiment2) -> &mut Guard {
    stage.guard.as_mut().unwrap()
}

#[test]
fn what_cannot_be_trained_is_an_error_of_the_run() {
    let session = session(None, Path::new("nowhere"));
    let mut stage = stage();
    stage.batch = Some(1000);
    let error = stage.measure(&session).err().unwrap().to_string();
    assert!(error.contains("fewer than a batch of 1000"), "{error}");
}

#[test]
fn the_guard_is_left_once_and_again_when_it_is_another() {
    let out = tempfile::tempdir().unwrap();
    let session = session(None, out.path());
    let mut stage = stage();
    stage.choice.cells.clear();
    stage.choice.verifiers = vec![Kind::MaxSim];
    stage.evaluation.bootstrap.resamples = 20;
    stage.evaluation.minimum = 5;
    let first = stage.measure(&session).unwrap();
    let calibration = first.calibration.unwrap();
    assert_eq!(calibration.true_accept, 0.95);
    let verifier = session
        .load_verifier(&out.path().join("study-guard/verifier"), None)
        .unwrap();
    assert_eq!(verifier.threshold().unwrap(), calibration.threshold);
    let own = session.encoder.tokenizer().max_length();
    assert_eq!(verifier.config().max_length, own.min(64));
    // What is there is taken as it is.
    let file = out.path().join("study-guard/verifier/verifier.json");
    let written = || std::fs::metadata(&file).unwrap().modified().unwrap();
    let before = written();
    let second = stage.measure(&session).unwrap();
    assert_eq!(
        (second.calibration.as_ref(), written()),
        (Some(&calibration), before)
    );
    assert_eq!(json!(second.comparisons), json!(first.comparisons));
    // Without its id nobody knows whose it is.
    std::fs::remove_file(out.path().join("study-guard/id")).unwrap();
    let third = stage.measure(&session).unwrap();
    assert_eq!(third.calibration, Some(calibration.clone()));
    guard(&mut stage).options.steps = 2;
    let other = stage.measure(&session).unwrap().calibration.unwrap();
    assert_ne!(other.threshold, calibration.threshold);
    let kept = crate::verifier::Config::read(&out.path().join("study-guard/verifier"));
    assert_eq!(kept.unwrap().calibration, Some(other));
}
