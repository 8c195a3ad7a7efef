//! The trainer: what it makes does not depend on where batches are cut, nor on where a training is cut short.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nearmiss::data::Category;
use nearmiss::data::triplets::Triplet;
use nearmiss::encoder::{Dropout, Encoder, LoadOptions};
use nearmiss::model::checkpoint::Tensor;
use nearmiss::model::{Checkpoint, ModelFolder};
use nearmiss::text::{TextKind, pack};
use nearmiss::train::checkpoint::CHECKPOINT;
use nearmiss::train::curve::{self, CURVE, Point};
use nearmiss::train::trainer::{MODEL, PICTURE};
use nearmiss::train::{Length, Step, TrainOptions, Trained, Trainer};
use nearmiss::{Device, DeviceKind, Result};

use super::common::golden;
use super::golden::MODELS;
use super::mixed;

/// Rows in which the positive turns the anchor around and the negative denies it.
fn rows(n: usize) -> Vec<Triplet> {
    let words = [
        "cat", "dog", "river", "bank", "house", "city", "water", "light", "paper", "bird", "road",
        "door", "song",
    ];
    (0..n)
        .map(|i| {
            let [a, b] = [words[i % 13], words[(i * 5 + 1 + i / 13) % 13]];
            let tail = [
                "",
                " before noon",
                " by the old river in the north of the city",
            ][i % 3];
            Triplet {
                anchor: format!("the {a} and the {b}{tail}"),
                positive: format!("{b} and {a}{tail}, not {}", words[(i + 3) % 13]),
                negative: format!("not the {a} and not the {b}"),
                category: Category::Negation,
            }
        })
        .collect()
}

fn options(steps: u64) -> TrainOptions {
    TrainOptions {
        batch: 4,
        length: Length::Steps(steps),
        learning_rate: Some(1e-3),
        checkpoint_every: Some(2),
        ..TrainOptions::default()
    }
}

fn load(model: &str, device: &Device) -> Encoder {
    Encoder::load(&golden(model), device, LoadOptions::default()).unwrap()
}

fn curve_of(folder: &Path) -> Vec<Point> {
    curve::read(&folder.join(CURVE)).unwrap()
}

/// The curve but for its times, and the weights, bit by bit.
fn outcome(folder: &Path) -> (String, BTreeMap<String, Vec<u8>>) {
    let points: Vec<Point> = curve_of(folder)
        .into_iter()
        .map(|point| Point {
            tokens_per_second: 0.0,
            ..point
        })
        .collect();
    let model = Checkpoint::open(&folder.join(MODEL)).unwrap();
    let tensors = model.tensors().map(|(name, t)| (name, t.data.into_owned()));
    (serde_json::to_string(&points).unwrap(), tensors.collect())
}

/// A batch in one chunk and in many: the same loss and the same gradient, dropout and all, but for the order of sums.
pub fn chunks_leave_loss_and_gradient_as_they_are(device: Device) {
    for model in MODELS {
        let dir = tempfile::tempdir().unwrap();
        let of = |budget: usize| {
            let folder = dir.path().join(budget.to_string());
            let options = TrainOptions {
                batch: 7,
                token_budget: Some(budget),
                ..options(1)
            };
            let trainer = Trainer::new(load(model, &device), options).folder(&folder);
            trainer.run(rows(7)).unwrap();
            curve_of(&folder)[0]
        };
        let whole = of(10_000);
        // Activations rounded in other neighbourhoods: a few of their units, in numbers that are sums of many.
        let unit = if mixed(&device) {
            2f32.powi(-9)
        } else {
            2f32.powi(-20)
        };
        for budget in [1, 40] {
            let parts = of(budget);
            for (got, want) in [
                (parts.loss, whole.loss),
                (parts.gradient_norm, whole.gradient_norm),
            ] {
                let what = format!("{model} on {}, {budget} tokens", device.name());
                assert!(
                    (got - want).abs() <= unit * want,
                    "{what}: {got} for {want}"
                );
            }
        }
    }
}

/// Little room, so that chunks are halved on the way.
pub fn a_device_that_runs_out_of_memory_trains_in_smaller_chunks(device: Device) {
    let run = |limit: Option<u64>| {
        let dir = tempfile::tempdir().unwrap();
        let options = TrainOptions {
            batch: 16,
            ..options(1)
        };
        let trainer = Trainer::new(load(MODELS[0], &device), options).folder(dir.path());
        device.reset_memory_peak();
        let before = device.memory().in_use;
        device.set_memory_limit(limit.map(|limit| before + limit));
        let done = trainer.run(rows(16)).map(drop);
        device.set_memory_limit(None);
        let peak = device.memory().peak - before;
        (done.map(|()| curve_of(dir.path())[0]), peak)
    };
    let (whole, needed) = run(None);
    let whole = whole.unwrap();
    let (less, peak) = run(Some(needed * 4 / 5));
    let less = less.unwrap();
    assert!(peak <= needed * 4 / 5, "{peak} of {needed}");
    assert!(
        (less.loss - whole.loss).abs() < 0.01 * whole.loss,
        "{less:?} {whole:?}"
    );
    // Not even what is kept from step to step, and that but no chunk.
    let encoder = load(MODELS[0], &device);
    let before = device.memory().in_use;
    let step = Step::new(encoder).unwrap();
    let kept = device.memory().in_use - before;
    drop(step);
    for limit in [1 << 12, kept + (1 << 12)] {
        let (nothing, _) = run(Some(limit));
        assert!(nothing.unwrap_err().to_string().contains("out of memory"));
    }
}

/// The tokens that are to fit some memory do, and not by far.
pub fn a_pass_fits_the_memory_that_it_was_given(device: Device) {
    for model in MODELS {
        let encoder = load(model, &device);
        let memory = 16 << 20;
        let most = encoder.training_tokens(memory);
        let tokens = vec![vec![10u32; 16]; most / 16];
        let numbers: Vec<usize> = (0..tokens.len()).collect();
        let batch = pack(&tokens, &numbers);
        let mut gradients = encoder.gradients().unwrap();
        device.reset_memory_peak();
        let before = device.memory().in_use;
        let dropout = Dropout {
            hidden: 0.1,
            attention: 0.1,
            seed: 1,
            step: 0,
        };
        let pass = encoder.training_pass(&batch, Some(dropout)).unwrap();
        let n = tokens.len() * encoder.width();
        let rows = device.upload(&vec![0.01f32; n]).unwrap();
        encoder
            .backward(pass, rows.as_slice(), &mut gradients)
            .unwrap();
        let peak = device.memory().peak - before;
        let what = format!("{model} on {}: {peak} of {memory} bytes", device.name());
        assert!(peak <= memory, "{what}");
        // An eighth is kept for what a device may round up, and some for the widest moment of larger models.
        assert!(peak >= memory * 2 / 3, "{what}");
        assert_eq!(encoder.training_tokens(1), 1);
    }
}

fn train(
    model: &str,
    device: &Device,
    folder: &Path,
    steps: u64,
    cut: Option<u64>,
) -> Result<Trained> {
    let stop = Arc::new(AtomicBool::new(false));
    let trainer = Trainer::new(load(model, device), options(steps)).folder(folder);
    let trainer = trainer.stop_when(stop.clone()).watch(|progress| {
        if Some(progress.point.step) == cut {
            stop.store(true, Ordering::Relaxed);
        }
    });
    trainer.run(rows(13))
}

/// Ten steps in one go have the bits of four, a stop, three, a crash and the rest.
pub fn a_training_goes_on_bit_by_bit(device: Device) {
    for model in MODELS {
        let dir = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
        let trained = train(model, &device, &whole, 10, None).unwrap();
        assert!(trained.finished() && trained.steps == 10);
        let stopped = train(model, &device, &parts, 10, Some(4)).unwrap();
        assert!(!stopped.finished() && stopped.steps == 4);
        assert!(!parts.join(MODEL).exists());
        let crash = || {
            let trainer = Trainer::new(load(model, &device), options(10)).folder(&parts);
            let trainer = trainer.watch(|progress| assert!(progress.point.step < 7, "crash"));
            trainer.run(rows(13)).map(drop)
        };
        catch_unwind(AssertUnwindSafe(crash)).unwrap_err();
        assert_eq!(curve_of(&parts).len(), 7);
        let rest = train(model, &device, &parts, 10, None).unwrap();
        assert!(
            outcome(&parts) == outcome(&whole),
            "{model} on {}",
            device.name()
        );

        // Once more does nothing, and gives the same encoder.
        let again = train(model, &device, &parts, 10, None).unwrap();
        let embed = |trained: &Trained| {
            trained
                .encoder
                .embed(&["the dog"], TextKind::Document)
                .unwrap()
        };
        let written = Encoder::load(&parts.join(MODEL), &device, LoadOptions::default()).unwrap();
        assert_eq!(
            embed(&again),
            written.embed(&["the dog"], TextKind::Document).unwrap()
        );
        // Weights of a model in f16 are rounded when they are written.
        if model == MODELS[0] {
            assert_eq!(embed(&again), embed(&rest));
        }
        assert!(std::fs::metadata(parts.join(CHECKPOINT)).unwrap().len() < 10_000);
        let picture = std::fs::read_to_string(parts.join(PICTURE)).unwrap();
        assert!(picture.contains("<svg"));
    }
}

/// The loss of rows that can be learned falls, with dropout, and the folder at the end is the encoder. With
/// `NEARMISS_TRAINED_MODELS` what the CPU trained is left there, for `tools/reference/model_folder.py`.
pub fn training_lowers_the_loss(device: Device) {
    let scratch = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("NEARMISS_TRAINED_MODELS").map(PathBuf::from);
    let kept = kept.filter(|_| device.kind() == DeviceKind::Cpu);
    let folder = kept.clone().unwrap_or(scratch.path().join("training"));
    let steps = if device.kind() == DeviceKind::Cpu {
        60
    } else {
        12
    };
    let options = TrainOptions {
        max_length: 12,
        batch: 8,
        ..options(steps)
    };
    let trainer = Trainer::new(load(MODELS[0], &device), options).folder(&folder);
    let trained = trainer.run(rows(26)).unwrap();
    let points = curve_of(&folder);
    assert_eq!(points.len() as u64, steps);
    let mean = |points: &[Point]| points.iter().map(|p| p.loss).sum::<f32>() / points.len() as f32;
    let quarter = points.len() / 4;
    let (first, last) = (
        mean(&points[..quarter]),
        mean(&points[points.len() - quarter..]),
    );
    assert!(last < 0.8 * first, "{}: {first} to {last}", device.name());
    assert!(trained.truncated > 0);
    let written = Encoder::load(&folder.join(MODEL), &device, LoadOptions::default()).unwrap();
    assert_eq!(written.tokenizer().max_length(), 12);
    let texts = [
        "the dog",
        "the river and the bank",
        "a longer text about the city by the old river, before noon",
    ];
    assert_eq!(
        written.embed(&texts, TextKind::Document).unwrap(),
        trained.encoder.embed(&texts, TextKind::Document).unwrap()
    );
    if kept.is_some() {
        let embeddings = written.embed(&texts, TextKind::Document).unwrap();
        let all = serde_json::json!({"texts": texts, "embeddings": embeddings});
        std::fs::write(folder.join("embeddings.json"), all.to_string()).unwrap();
    }
    // In memory, and from where it was: on with what it has.
    let more = Trainer::new(
        trained.encoder,
        TrainOptions {
            batch: 8,
            ..self::options(2)
        },
    );
    more.run(rows(26)).unwrap();
}

pub fn what_cannot_be_trained_is_refused() {
    let device = Device::cpu();
    let dir = tempfile::tempdir().unwrap();
    let says = |result: Result<Trained>, what: &str| {
        let error = result.err().expect(what).to_string();
        assert!(error.contains(what) && !error.contains('\n'), "{error}");
    };
    let few = Trainer::new(load(MODELS[0], &device), options(1));
    says(
        few.run(rows(3)),
        "3 training rows are fewer than a batch of 4",
    );
    let folder = dir.path().join("one");
    train(MODELS[0], &device, &folder, 6, Some(2)).unwrap();
    says(train(MODELS[1], &device, &folder, 6, None), "the model is");
    says(
        train(MODELS[0], &device, &folder, 8, None),
        "`steps` is 6 there and 8 here",
    );
    let inner = |_: &nearmiss::train::Progress| {
        says(
            train(MODELS[0], &device, &folder, 6, None),
            "another training",
        );
    };
    let outer = Trainer::new(load(MODELS[0], &device), options(6)).folder(&folder);
    outer.watch(inner).run(rows(13)).unwrap();
    std::fs::remove_file(folder.join(CHECKPOINT)).unwrap();
    says(
        train(MODELS[0], &device, &folder, 6, None),
        "a model is here already",
    );
}

/// A word whose vector overflows in the first norm: the rows of the batch are named.
pub fn a_loss_that_is_not_finite_ends_the_training() {
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("model");
    let from = golden(MODELS[0]);
    let checkpoint = Checkpoint::open(&from).unwrap();
    let encoder = load(MODELS[0], &Device::cpu());
    let id = encoder.tokenizer().encode_batch(&["door"]).unwrap().ids[0][1] as usize;
    let d = encoder.width();
    let tensors = checkpoint.tensors().map(|(name, tensor)| {
        if name != "embeddings.word_embeddings.weight" {
            return (name, tensor);
        }
        let mut values = tensor.to_f32().unwrap();
        values[id * d..][..d].fill(f32::MAX);
        let tensor = Tensor::from_f32(&values, tensor.dtype, tensor.shape).unwrap();
        (name, tensor)
    });
    (ModelFolder::read(&from).unwrap())
        .write(&damaged, tensors, None)
        .unwrap();
    let encoder = Encoder::load(&damaged, &Device::cpu(), LoadOptions::default()).unwrap();
    let mut rows = rows(4);
    rows.iter_mut().for_each(|row| {
        for text in [&mut row.anchor, &mut row.positive, &mut row.negative] {
            *text = text.replace("door", "road");
        }
    });
    rows[2].anchor = "the door".into();
    let error = Trainer::new(encoder, options(3))
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

/// Where [`main`](super::main) finds the folder of a training that it is to run and nothing else.
pub const FOLDER: &str = "NEARMISS_TEST_TRAINING_FOLDER";

/// What the process does that [`a_killed_training_goes_on`] kills.
pub fn to_be_killed(folder: &Path) {
    train(MODELS[0], &Device::cpu(), folder, 40, None).unwrap();
}

/// A process that trains, killed at moments that have nothing to do with its steps, again and again; what is there then
/// has the bits of a training that was let alone.
pub fn a_killed_training_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| dir.path().join(name));
    to_be_killed(&whole);
    let mut kills = 0;
    for wait in (0..).map(|i| 15 + i * 37 % 200 + i) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(FOLDER, &killed)
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
    }
    println!("killed {kills} times");
    assert!(kills > 0);
    assert!(outcome(&killed) == outcome(&whole));
}
