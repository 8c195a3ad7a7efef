//! Ids of models and of the experiment cover what their numbers depend on, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::data::generated::COLLECTIONS;
use crate::data::triplets::{Identical, SplitBy};
use crate::device::DeviceChoice;
use crate::study::plan::Preset;
use crate::study::results::id;
use crate::study::session::SessionOptions;
use crate::study::training::data;

fn session(max_length: Option<usize>) -> Session {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert-2x64");
    Session::open(SessionOptions {
        device: DeviceChoice::Cpu,
        backbone: model.to_str().unwrap().into(),
        max_length,
        memory: None,
        offline: true,
        profile: false,
        quiet: true,
        out: "nowhere".into(),
    })
    .unwrap()
}

fn stage() -> Experiment1 {
    let size = Preset::Smoke.experiment_1();
    let options = data::DataOptions {
        seed: 42,
        split: SplitBy::Anchor,
        identical: Identical::Drop,
        share: data::SHARE,
        rows: Some(size.rows),
    };
    Experiment1 {
        data: TrainingData::new(&data::TrainingFiles::default(), &options).unwrap(),
        arms: vec![Arm::A, Arm::B],
        seeds: vec![42, 43],
        steps: size.steps,
        options: size.training,
        sets: vec![RetrievalSet {
            collection: Arc::new(COLLECTIONS[0].generate(42, 12, 6).unwrap()),
            in_domain: true,
        }],
        near_misses: vec![Arc::new(Examples::from_edits(
            &Preset::Smoke.edit_set(42).unwrap(),
        ))],
        evaluation: Options::default(),
        held_out: size.held_out,
        sentences: size.sentences,
        seed: 42,
    }
}

/// The ids of the trained models, and that of the experiment.
fn ids(stage: &Experiment1, session: &Session) -> (Vec<String>, String) {
    let config = stage.config(session);
    (config.trained.iter().map(id).collect(), id(&config))
}

#[test]
fn an_id_changes_with_what_numbers_depend_on() {
    let at_hand = session(None);
    let (models, whole) = ids(&stage(), &at_hand);
    // Two arms by two seeds.
    assert_eq!(models.iter().collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(ids(&stage(), &at_hand), (models.clone(), whole.clone()));
    type Change = (&'static str, [bool; 2], fn(&mut Experiment1));
    let changes: [Change; 20] = [
        ("a row for retrieval", [true, true], |s| {
            s.data.retrieval[3].positive.push('.')
        }),
        ("the order of rows", [true, true], |s| {
            s.data.order_sha256.push('x')
        }),
        ("steps", [true, true], |s| s.steps = Some(7)),
        ("the batch", [true, true], |s| s.options.batch = 5),
        ("the learning rate", [true, true], |s| {
            s.options.learning_rate = Some(0.1)
        }),
        ("the length limit", [true, true], |s| {
            s.options.max_length = 20
        }),
        ("seeds", [true, true], |s| s.seeds = vec![1, 2]),
        ("a held-out row", [false, true], |s| {
            s.data.held_out[0].negative.push('.')
        }),
        ("how many held-out rows", [false, true], |s| s.held_out = 3),
        ("sentences", [false, true], |s| s.sentences = 20),
        ("the seed of what is drawn", [false, true], |s| s.seed = 7),
        ("a collection's kind", [false, true], |s| {
            s.sets[0].in_domain = false
        }),
        ("another collection", [false, true], |s| {
            s.sets.push(s.sets[0].clone())
        }),
        ("a near-miss", [false, true], |s| {
            Arc::make_mut(&mut s.near_misses[0]).items[0].text.push('.');
        }),
        ("fewest pairs", [false, true], |s| s.evaluation.minimum = 7),
        ("folds", [false, true], |s| s.evaluation.folds = Some(3)),
        ("bootstrap samples", [false, true], |s| {
            s.evaluation.bootstrap.resamples = 7
        }),
        // What no number depends on.
        ("names and notes", [false, false], |s| {
            s.data.names = ["x", "y"].map(String::from);
            s.data.notes.push("odd".into());
        }),
        ("checkpoints", [false, false], |s| {
            s.options.checkpoint_every = Some(1)
        }),
        ("memory", [false, false], |s| {
            s.options.token_budget = Some(100)
        }),
    ];
    for (what, [of_models, of_whole], change) in changes {
        let mut other = stage();
        change(&mut other);
        let (found, id) = ids(&other, &at_hand);
        assert_eq!(found != models, of_models, "{what}");
        assert_eq!(id != whole, of_whole, "{what}");
    }
    // Structural rows concern the arms that have some, a share those alone too.
    let mut other = stage();
    other.data.structural[0].near_miss.push('.');
    let (found, _) = ids(&other, &at_hand);
    assert!(found[..2] == models[..2] && found[2..] != models[2..]);
    other = stage();
    other.data.share = 0.1;
    let (found, _) = ids(&other, &at_hand);
    assert!(found[..2] == models[..2] && found[2] != models[2] && found[3] != models[3]);
    // A limit of the session's is the experiment's, where it is lower.
    assert_ne!(ids(&stage(), &session(Some(16))).0, models);
    assert_eq!(ids(&stage(), &session(Some(40))).0, models);
}

#[test]
fn what_cannot_be_trained_is_an_error_of_the_run() {
    let session = session(None);
    let mut stage = stage();
    stage.options.batch = 1000;
    let error = stage.measure(&session).err().unwrap().to_string();
    assert!(error.contains("fewer than a batch of 1000"), "{error}");
}
