//! The trainer of scorers of pairs: what it makes depends neither on where batches are cut, nor on where a training is cut
//! short; and what cannot be trained or loaded is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nearmiss::data::{Category, triplets::Triplet};
use nearmiss::encoder::{Dropout, Encoder, LoadOptions};
use nearmiss::model::ModelFolder;
use nearmiss::model::checkpoint::{Checkpoint, Tensor};
use nearmiss::text::TextKind;
use nearmiss::train::checkpoint::CHECKPOINT;
use nearmiss::train::curve::{self, CURVE, Point};
use nearmiss::train::pairs::{
    Contrast, Objective, PairOptions, PairRow, PairStep, PairTrainer, Rates, Task, TrainedPair,
    VERIFIER,
};
use nearmiss::train::{Packing, Position};
use nearmiss::verifier::{CONFIG, Kind, Learned, Verifier};
use nearmiss::{Device, DeviceKind, Result};

use super::common::golden;
use super::golden::{gradients_of, mixed};
use super::plain::Tensors;
use super::{distance, length};

const MODELS: [&str; 2] = ["tiny-bert-2x64", "tiny-bert-3x96"];

/// Rows whose negative says something else.
fn rows(n: usize) -> Vec<Triplet> {
    let words = [
        "cat", "dog", "river", "bank", "house", "city", "water", "light", "paper", "bird", "road",
    ];
    let row = |i: usize| {
        let [a, b] = [words[i % 11], words[(i * 5 + 1 + i / 11) % 11]];
        let tail = [
            "",
            " before noon",
            " by the old river in the north of the city",
        ][i % 3];
        Triplet {
            anchor: format!("the {a} and the {b}{tail}"),
            positive: format!("{b} and {a}{tail}"),
            negative: format!("not the {a} and not the {b}"),
            category: Category::Negation,
        }
    };
    (0..n).map(row).collect()
}

/// The same pairs as rows of two pairs.
fn contrasts(n: usize) -> Vec<Contrast> {
    let row = |row: Triplet| Contrast {
        accept: [row.anchor.clone(), row.positive],
        reject: [row.anchor, row.negative],
    };
    rows(n).into_iter().map(row).collect()
}

const ENCODER: Rates = Rates {
    learning_rate: 1e-3,
    weight_decay: 0.001,
};

fn options(steps: u64, end_to_end: bool) -> PairOptions {
    PairOptions {
        batch: 3,
        steps,
        verifier: Rates {
            learning_rate: 2e-3,
            weight_decay: 0.01,
        },
        encoder: end_to_end.then_some(ENCODER),
        checkpoint_every: Some(2),
        ..PairOptions::default()
    }
}

fn load(model: &str, device: &Device) -> Encoder {
    Encoder::load(&golden(model), device, LoadOptions::default()).unwrap()
}

fn curve_of(folder: &Path) -> Vec<Point> {
    curve::read(&folder.join(CURVE)).unwrap()
}

/// The tensors of all weights files below a folder, bit by bit.
fn weights_below(folder: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            weights_below(&path, all);
        } else if path.extension().is_some_and(|end| end == "safetensors") {
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            let file_tensors = Checkpoint::open_file(path).unwrap();
            let tensors = file_tensors.tensors();
            all.extend(
                tensors.map(|(name, tensor)| (format!("{file}/{name}"), tensor.data.into_owned())),
            );
        }
    }
}

/// The curve but for its times, and all weights.
fn outcome(folder: &Path) -> (String, BTreeMap<String, Vec<u8>>) {
    let points: Vec<Point> = (curve_of(folder).into_iter())
        .map(|point| Point {
            tokens_per_second: 0.0,
            ..point
        })
        .collect();
    let mut weights = BTreeMap::new();
    weights_below(&folder.join(VERIFIER), &mut weights);
    (serde_json::to_string(&points).unwrap(), weights)
}

fn mean(points: &[Point]) -> f32 {
    points.iter().map(|point| point.loss).sum::<f32>() / points.len() as f32
}

/// The loss of rows that can be learned falls, and the verifier of the folder gives the scores of the one in memory.
pub fn training_lowers_the_loss_and_leaves_a_verifier(device: Device) {
    let steps = if device.kind() == DeviceKind::Cpu {
        60
    } else {
        16
    };
    for (kind, end_to_end, objective) in [
        (Kind::Transformer, false, Objective::Binary),
        (Kind::Transformer, true, Objective::Softmax),
        (Kind::MaxSim, true, Objective::Pairwise),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let options = PairOptions {
            objective,
            dropout: 0.0,
            ..options(steps, end_to_end)
        };
        let trainer = PairTrainer::new(load(MODELS[0], &device), kind, options).folder(dir.path());
        let trained = trainer.run(rows(6)).unwrap();
        assert!(trained.finished && trained.steps == steps);
        let points = curve_of(dir.path());
        let quarter = points.len() / 4;
        let (first, last) = (
            mean(&points[..quarter]),
            mean(&points[points.len() - quarter..]),
        );
        let what = format!("{kind} on {}", device.name());
        println!("{what}: loss {first} to {last}");
        assert!(last < 0.97 * first, "{what}: {first} to {last}");

        let folder = dir.path().join(VERIFIER);
        let verifier = Verifier::load(&folder, &device).unwrap();
        assert_eq!(folder.join("encoder").exists(), end_to_end);
        let texts: Vec<Triplet> = rows(5);
        let pairs: Vec<[&str; 2]> = texts
            .iter()
            .map(|row| [&row.anchor[..], &row.negative[..]])
            .collect();
        let scores = verifier.score(&pairs).unwrap();
        assert!(scores.iter().all(|score| score.is_finite()));
        let again = dir.path().join("again");
        let (encoder, scorer) = (trained.encoder, trained.verifier);
        let name = golden(MODELS[0]).to_string_lossy().into_owned();
        let name = (!end_to_end).then_some(&name[..]);
        Verifier::save(
            &again,
            &encoder,
            name,
            &scorer,
            128,
            serde_json::Value::Null,
        )
        .unwrap();
        let written = Verifier::load(&again, &device).unwrap();
        assert_eq!(written.score(&pairs).unwrap(), scores, "{what}");
        assert!(
            verifier
                .judge(&pairs)
                .unwrap_err()
                .to_string()
                .contains("no threshold")
        );
    }
}

fn train(
    kind: Kind,
    options: PairOptions,
    device: &Device,
    folder: &Path,
    cut: Option<u64>,
) -> Result<TrainedPair> {
    let stop = Arc::new(AtomicBool::new(false));
    let trainer = PairTrainer::new(load(MODELS[0], device), kind, options).folder(folder);
    let trainer = trainer.stop_when(stop.clone()).watch(|progress| {
        if Some(progress.point.step) == cut {
            stop.store(true, Ordering::Relaxed);
        }
    });
    trainer.run(rows(7))
}

/// A training in one go has the bits of one that was stopped on the way: weights, running statistics, curve.
pub fn a_training_goes_on_bit_by_bit(device: Device) {
    let mut all = vec![(Kind::Transformer, true, 6), (Kind::Transformer, false, 6)];
    if device.kind() == DeviceKind::Cpu {
        all.push((Kind::Cnn, false, 3));
        all.push((Kind::MeanCosine, true, 6));
    }
    for (kind, end_to_end, steps) in all {
        let options = PairOptions {
            objective: Objective::Binary,
            ..options(steps, end_to_end)
        };
        let dir = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
        assert!(
            train(kind, options.clone(), &device, &whole, None)
                .unwrap()
                .finished
        );
        let stopped = train(kind, options.clone(), &device, &parts, Some(2)).unwrap();
        assert!(!stopped.finished && stopped.steps == 2);
        assert!(!parts.join(VERIFIER).exists());
        assert!(
            train(kind, options.clone(), &device, &parts, None)
                .unwrap()
                .finished
        );
        let (got, want) = (outcome(&parts), outcome(&whole));
        let what = format!("{kind} on {}", device.name());
        assert!(got == want, "{what}");
        assert_eq!(
            want.1.keys().any(|name| name.contains("running")),
            kind == Kind::Cnn
        );
        // Once more does nothing.
        let again = train(kind, options, &device, &parts, None).unwrap();
        assert!(again.finished && outcome(&parts) == want, "{what}");
    }
}

/// What a step computes: losses, the verifier's gradients, the encoder's in one list.
struct Computed {
    losses: Vec<f64>,
    verifier: Tensors,
    encoder: Vec<f64>,
}

/// How a step is made.
struct Cut {
    /// Most tokens of a chunk of texts.
    tokens: usize,
    /// Bytes that pairs scored at once may take.
    pairs: usize,
    swapped: bool,
    dropout: bool,
}

const WHOLE: Cut = Cut {
    tokens: 10_000,
    pairs: 512 << 20,
    swapped: false,
    dropout: true,
};

fn computed<R: PairRow>(
    device: &Device,
    kind: Kind,
    objective: Objective,
    rows: &[R],
    cut: &Cut,
) -> Computed {
    let encoder = load(MODELS[0], device);
    let verifier = Learned::start(kind, encoder.width(), 3, device).unwrap();
    let packing = Packing {
        tokenizer: encoder.tokenizer().clone(),
        token_budget: cut.tokens,
        kinds: [TextKind::Plain; 2],
    };
    let numbers = (0..rows.len() as u32).collect();
    let batch = packing.pack(rows, numbers, Position::default()).unwrap();
    let mut step = PairStep::new(encoder, verifier, true).unwrap();
    step.limit_pairs(cut.pairs);
    let rate = if cut.dropout { 0.1 } else { 0.0 };
    let task = Task {
        objective,
        temperature: 0.1,
        swapped: cut.swapped,
        loss_scale: if mixed(device) { 256.0 } else { 1.0 },
        dropout: Dropout {
            hidden: rate,
            attention: rate,
            seed: 5,
            step: 3,
        },
        rate,
    };
    let losses = step.gradients::<R>(&batch, &task).unwrap();
    let (of_verifier, of_encoder) = step.computed();
    let of_encoder = of_encoder.unwrap();
    let encoder = [of_encoder.matrices(), of_encoder.vectors()]
        .map(|flat| flat.read().unwrap())
        .concat();
    Computed {
        losses: losses.into_iter().map(f64::from).collect(),
        verifier: gradients_of(step.verifier(), of_verifier),
        encoder: encoder.into_iter().map(f64::from).collect(),
    }
}

impl Computed {
    /// Holds everything to what another way gave, but for rounding.
    fn near(&self, want: &Computed, unit: f64, what: &str) {
        let apart = |got: &[f64], want: &[f64]| {
            distance(got, want) / length(want.iter().copied()).max(1e-30)
        };
        let all = |of: &Tensors| of.values().flatten().copied().collect::<Vec<f64>>();
        assert!(
            apart(&self.losses, &want.losses) <= unit,
            "{what}: {:?} {:?}",
            self.losses,
            want.losses
        );
        let (got, whole) = (all(&self.verifier), all(&want.verifier));
        assert!(
            whole.iter().all(|&v| v == 0.0) || apart(&got, &whole) <= unit,
            "{what}: {}",
            apart(&got, &whole)
        );
        let off = apart(&self.encoder, &want.encoder);
        assert!(off <= unit, "{what}: {off}");
    }
}

/// Chunks of texts, and of pairs, leave losses and gradients as they are, masks and all, but for the order of sums.
pub fn chunks_leave_losses_and_gradients_as_they_are(device: Device) {
    // Activations rounded in other neighbourhoods: a few of their units, in numbers that are sums of many.
    let unit = if mixed(&device) {
        2f64.powi(-7)
    } else {
        2f64.powi(-16)
    };
    let rows = rows(3);
    for (kind, objective) in [
        (Kind::Transformer, Objective::Softmax),
        (Kind::MaxSim, Objective::Softmax),
        (Kind::MeanCosine, Objective::Binary),
    ] {
        let whole = computed(&device, kind, objective, &rows, &WHOLE);
        for (tokens, pairs) in [(1, WHOLE.pairs), (40, 1), (10_000, 1), (10_000, 1 << 16)] {
            let cut = Cut {
                tokens,
                pairs,
                ..WHOLE
            };
            let what = format!(
                "{kind} on {}, {tokens} tokens, {pairs} bytes",
                device.name()
            );
            computed(&device, kind, objective, &rows, &cut).near(&whole, unit, &what);
        }
        // And it could have failed: masks matter.
        let plain = Cut {
            dropout: false,
            ..WHOLE
        };
        let plain = computed(&device, kind, objective, &rows, &plain);
        assert!(distance(&plain.encoder, &whole.encoder) > 4.0 * unit * length(whole.encoder));
    }
}

/// The same pairs as rows of another form have the same loss; texts that change places are another pair.
pub fn rows_and_order_of_texts_are_respected(device: Device) {
    let plain = Cut {
        dropout: false,
        ..WHOLE
    };
    let unit = if mixed(&device) {
        2f64.powi(-7)
    } else {
        2f64.powi(-16)
    };
    for objective in [Objective::Binary, Objective::Pairwise] {
        let of = |cut: &Cut| computed(&device, Kind::MaxSim, objective, &rows(3), cut);
        let want = of(&plain);
        let other = computed(&device, Kind::MaxSim, objective, &contrasts(3), &plain);
        other.near(&want, unit, "contrasts");
        let turn = |[first, second]: [String; 2]| [second, first];
        let turned: Vec<Contrast> = contrasts(3)
            .into_iter()
            .map(|row| Contrast {
                accept: turn(row.accept),
                reject: turn(row.reject),
            })
            .collect();
        let swapped = of(&Cut {
            swapped: true,
            ..plain
        });
        computed(&device, Kind::MaxSim, objective, &turned, &plain).near(&swapped, unit, "turned");
        assert!(distance(&swapped.losses, &want.losses) > 1e-4 * length(want.losses));
    }
}

/// Little room, so that less is done at a time on the way.
pub fn a_device_that_runs_out_of_memory_trains_in_smaller_pieces(device: Device) {
    let run = |limit: Option<u64>| {
        let dir = tempfile::tempdir().unwrap();
        let options = PairOptions {
            batch: 8,
            ..options(1, true)
        };
        let trainer = PairTrainer::new(load(MODELS[0], &device), Kind::Transformer, options)
            .folder(dir.path());
        device.reset_memory_peak();
        let before = device.memory().in_use;
        device.set_memory_limit(limit.map(|limit| before + limit));
        let done = trainer.run(rows(8)).map(drop);
        device.set_memory_limit(None);
        let peak = device.memory().peak - before;
        (done.map(|()| curve_of(dir.path())[0]), peak)
    };
    let (whole, needed) = run(None);
    let (whole, limit) = (whole.unwrap(), needed * 4 / 5);
    let (less, peak) = run(Some(limit));
    let less = less.unwrap();
    assert!(peak <= limit, "{peak} of {needed}");
    assert!(
        (less.loss - whole.loss).abs() < 0.01 * whole.loss,
        "{less:?} {whole:?}"
    );
    let (nothing, _) = run(Some(1 << 12));
    assert!(nothing.unwrap_err().to_string().contains("out of memory"));
}

fn says<T>(result: Result<T>, what: &str) {
    let error = result.err().expect(what).to_string();
    assert!(error.contains(what) && !error.contains('\n'), "{error}");
}

pub fn what_cannot_be_trained_is_refused() {
    let device = Device::cpu();
    let dir = tempfile::tempdir().unwrap();
    let new = |kind, options| PairTrainer::new(load(MODELS[0], &device), kind, options);
    says(
        new(Kind::MaxSim, options(2, false)).run(rows(4)),
        "f1 has no weights",
    );
    says(
        new(Kind::Transformer, options(2, false)).run(contrasts(4)),
        "wants a negative of every anchor",
    );
    says(
        new(Kind::Transformer, options(2, false)).run(rows(2)),
        "2 training rows are fewer than a batch of 3",
    );
    let none = PairOptions {
        temperature: 0.0,
        ..options(2, false)
    };
    says(
        new(Kind::Transformer, none).run(rows(4)),
        "`temperature` is 0",
    );

    let folder = dir.path().join("one");
    train(
        Kind::Transformer,
        options(4, false),
        &device,
        &folder,
        Some(2),
    )
    .unwrap();
    let other = |kind, options| train(kind, options, &device, &folder, None);
    says(
        other(Kind::Cnn, options(4, false)),
        "`scorer` is f4 there and f3 here",
    );
    says(
        other(Kind::Transformer, options(5, false)),
        "`steps` is 4 there and 5 here",
    );
    let swap = PairOptions {
        swap: true,
        ..options(4, false)
    };
    says(
        other(Kind::Transformer, swap),
        "`swap` is false there and true here",
    );
    assert!(
        other(Kind::Transformer, options(4, false))
            .unwrap()
            .finished
    );
    std::fs::remove_file(folder.join(CHECKPOINT)).unwrap();
    says(
        other(Kind::Transformer, options(4, false)),
        "a model is here already",
    );
}

/// Every second step sees the texts of a pair in the other order.
pub fn a_training_that_swaps_turns_every_second_step() {
    let device = Device::cpu();
    let losses = |swap| {
        let dir = tempfile::tempdir().unwrap();
        let options = PairOptions {
            swap,
            ..options(2, true)
        };
        train(Kind::MaxSim, options, &device, dir.path(), None).unwrap();
        let points = curve_of(dir.path());
        [points[0].loss, points[1].loss]
    };
    let (usual, swapped) = (losses(false), losses(true));
    assert_eq!(usual[0], swapped[0]);
    assert_ne!(usual[1], swapped[1]);
}

/// The golden model with other values of a word.
fn changed(to: &Path, word: &str, value: f32) {
    let from = golden(MODELS[0]);
    let encoder = load(MODELS[0], &Device::cpu());
    let id = encoder.tokenizer().encode_batch(&[word]).unwrap().ids[0][1] as usize;
    let d = encoder.width();
    let checkpoint = Checkpoint::open(&from).unwrap();
    let tensors = checkpoint.tensors().map(|(name, tensor)| {
        if name != "embeddings.word_embeddings.weight" {
            return (name, tensor);
        }
        let mut values = tensor.to_f32().unwrap();
        values[id * d..][..d].fill(value);
        let tensor = Tensor::from_f32(&values, tensor.dtype, tensor.shape).unwrap();
        (name, tensor)
    });
    ModelFolder::read(&from)
        .unwrap()
        .write(to, tensors, None)
        .unwrap();
}

/// A word whose vector overflows in the first norm: the rows of the batch are named.
pub fn a_loss_that_is_not_finite_ends_the_training() {
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("model");
    changed(&damaged, "door", f32::MAX);
    let encoder = Encoder::load(&damaged, &Device::cpu(), LoadOptions::default()).unwrap();
    let mut rows = rows(4);
    rows[2].negative = "the door".into();
    let options = PairOptions {
        batch: 4,
        ..options(3, false)
    };
    let error = PairTrainer::new(encoder, Kind::Transformer, options)
        .run(rows)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("step 1: the loss is not finite on the batch of training rows "),
        "{error}"
    );
    assert!(error.contains("the loss of rows 2 themselves"), "{error}");
}

/// A verifier belongs to its encoder, and says what is wrong with its files.
pub fn what_is_no_verifier_of_an_encoder_is_refused() {
    let device = Device::cpu();
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    changed(&model, "door", 0.25);
    let encoder = || Encoder::load(&model, &device, LoadOptions::default()).unwrap();
    let scorer = Learned::start(Kind::Transformer, encoder().width(), 1, &device).unwrap();
    let name = model.to_string_lossy().into_owned();
    let save = |to: &str| -> PathBuf {
        let folder = dir.path().join(to);
        Verifier::save(
            &folder,
            &encoder(),
            Some(&name),
            &scorer,
            32,
            serde_json::Value::Null,
        )
        .unwrap();
        folder
    };
    let folder = save("one");
    let load = |folder: &Path| Verifier::load(folder, &device);
    assert_eq!(load(&folder).unwrap().config().max_length, 32);
    says(
        load(&dir.path().join("none")),
        "not the folder of a verifier",
    );

    let config = std::fs::read_to_string(folder.join(CONFIG)).unwrap();
    for (from, to, what) in [
        (
            "\"width\": 64",
            "\"width\": 72",
            "it reads token vectors 72 wide, and the encoder",
        ),
        (
            "\"version\": 1",
            "\"version\": 2",
            "its layout has version 2",
        ),
        (
            "\"verifier\": \"f4\"",
            "\"verifier\": \"f9\"",
            "there is no verifier `f9`",
        ),
        ("\"verifier\": \"f4\"", "\"verifier\": \"f3\"", "conv"),
        ("{", "[", "verifier.json"),
    ] {
        assert!(config.contains(from), "{config}");
        std::fs::write(folder.join(CONFIG), config.replacen(from, to, 1)).unwrap();
        says(load(&folder), what);
    }
    std::fs::write(folder.join(CONFIG), &config).unwrap();
    let weights = folder.join("verifier.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    says(load(&folder), "not a complete safetensors file");
    std::fs::write(&weights, &whole).unwrap();
    assert!(load(&folder).is_ok());
    std::fs::remove_dir_all(&model).unwrap();
    changed(&model, "door", 0.5);
    says(load(&folder), "give it that encoder again");
}
