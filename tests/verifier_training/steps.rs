//! Losses, and ten steps of training `f4` on given token vectors, beside PyTorch's.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use nearmiss::Device;
use nearmiss::data::triplets::Triplet;
use nearmiss::ops::adamw::{self, AdamW};
use nearmiss::train::pairs::{Objective, cost, pairs};
use nearmiss::verifier::Kind;

use super::golden::{STRIDE, Texts, WIDTH, file, learned, precision, scorer};
use super::maps::by_kernels;
use super::plain::{How, Plain, Tensors};
use super::{Errors, length};

/// Of an f64 computation of ten whole steps: AdamW divides gradients that are zero but for rounding by 1e-8.
const SLACK: f64 = 1e-9;

const STEPS: usize = 10;

/// Scale and bias of a score before a sigmoid, under their names in the file.
const CALIBRATION: [&str; 2] = ["scale", "bias"];

fn number(name: &str) -> f64 {
    file().get_f64(name)[0]
}

fn near(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        let allowed = SLACK * want.abs().max(1.0);
        assert!((got - want).abs() <= allowed, "{what}: {got} for {want}");
    }
}

/// Losses of given scores, and their gradients in the scores and in scale and bias.
pub fn losses_are_pytorchs() {
    let scores = file().get_f64("losses.scores");
    let b = scores.len().isqrt();
    let calibration: [f64; 2] = file().get_f64("losses.scale_and_bias").try_into().unwrap();
    let temperature = 1.0 / number("steps.scale");
    for objective in [Objective::Softmax, Objective::Pairwise, Objective::Binary] {
        // Where the file has the scores of these pairs: each anchor with every positive, then with its negative.
        let diagonal = (0..b).map(|i| i * b + i);
        let places: Vec<usize> = match objective {
            Objective::Softmax => (0..b * b + b).collect(),
            _ => diagonal.chain(b * b..b * b + b).collect(),
        };
        let of_pairs: Vec<f64> = places.iter().map(|&at| scores[at]).collect();
        let pairs = pairs::<Triplet>(objective, b).concat();
        assert_eq!(pairs.len(), of_pairs.len());
        let cost = cost(objective, b, &of_pairs, temperature, calibration);
        let name = format!("losses.{}", objective.name());
        near(&name, &cost.losses, &file().get_f64(&name));
        let mut d_scores = vec![0.0; scores.len()];
        places
            .iter()
            .zip(&cost.d_scores)
            .for_each(|(&at, &d)| d_scores[at] = d);
        near(
            &name,
            &d_scores,
            &file().get_f64(&format!("{name}.in_scores")),
        );
        if objective == Objective::Binary {
            let want = file().get_f64(&format!("{name}.in_scale_and_bias"));
            near(&name, &cost.d_calibration, &want);
        }
    }
}

/// Which of the two trainings of the file.
#[derive(Clone, Copy)]
struct Course {
    prefix: &'static str,
    objective: Objective,
}

const COURSES: [Course; 2] = [
    Course {
        prefix: "steps",
        objective: Objective::Softmax,
    },
    Course {
        prefix: "bce",
        objective: Objective::Binary,
    },
];

/// A step of the trajectory: the weights before it, and what the definition in f64 makes of them.
struct Point {
    plain: Plain,
    calibration: [f64; 2],
    loss: f64,
    scores: Vec<f64>,
    gradient: Tensors,
}

/// The trajectory, and the weights after the last step.
struct Trajectory {
    points: Vec<Point>,
    end: Tensors,
}

/// Anchors, positives and negatives.
fn texts() -> Texts {
    let offsets = file().get_f64("steps.texts_offsets").into_iter();
    Texts {
        rows: file().get_f64("steps.texts"),
        offsets: offsets.map(|v| v as u32).collect(),
        d: WIDTH,
    }
}

impl Course {
    fn rows(&self) -> usize {
        (texts().offsets.len() - 1) / 3
    }

    fn pairs(&self) -> Vec<[u32; 2]> {
        pairs::<Triplet>(self.objective, self.rows()).concat()
    }

    /// The loss of raw scores, the gradient in these, and that in scale and bias.
    fn loss(&self, raw: &[f64], calibration: [f64; 2]) -> (f64, Vec<f64>, [f64; 2]) {
        let b = self.rows();
        let scores: Vec<f64> = raw.iter().map(|raw| raw.tanh()).collect();
        let cost = cost(
            self.objective,
            b,
            &scores,
            1.0 / number("steps.scale"),
            calibration,
        );
        let d_raw = cost.d_scores.iter().zip(&scores);
        let d_raw = d_raw.map(|(d, score)| d * (1.0 - score * score));
        (
            cost.losses.iter().sum::<f64>() / b as f64,
            d_raw.collect(),
            cost.d_calibration,
        )
    }

    /// Follows the training with the definition in f64, once.
    fn trajectory(&self) -> &'static Trajectory {
        static ALL: [OnceLock<Trajectory>; 2] = [const { OnceLock::new() }; 2];
        ALL[usize::from(self.objective == Objective::Binary)].get_or_init(|| self.follow())
    }

    fn follow(&self) -> Trajectory {
        let mut plain = scorer(Kind::Transformer);
        let mut weights = plain.parameters.clone();
        if self.objective == Objective::Binary {
            weights.extend(
                CALIBRATION.map(|name| (name.into(), vec![number(&format!("bce.{name}"))])),
            );
        }
        let states = weights
            .iter()
            .map(|(name, values)| (name.clone(), adamw::State::new(values)));
        let mut states: BTreeMap<String, adamw::State<f64>> = states.collect();
        let beta = file().get_f64("steps.betas").try_into().unwrap();
        let mut points = Vec::new();
        for step in 0..STEPS {
            for (name, values) in &mut plain.parameters {
                values.clone_from(&states[name].master);
            }
            let calibration =
                CALIBRATION.map(|name| states.get(name).map_or(0.0, |state| state.master[0]));
            let pass = plain.pass::<f64>(texts().plain(), &self.pairs(), &How::training());
            let (loss, d_raw, d_calibration) = self.loss(&pass.raw(), calibration);
            let (mut gradient, _) = pass.backward(&d_raw);
            if self.objective == Objective::Binary {
                let names = CALIBRATION.into_iter().zip(d_calibration);
                gradient.extend(names.map(|(name, d)| (name.into(), vec![d])));
            }
            let sum = gradient.values().flatten().map(|g| g * g).sum();
            let settings = AdamW {
                learning_rate: number("steps.learning_rate") as f32,
                beta,
                eps: number("steps.eps") as f32,
                weight_decay: number("steps.weight_decay") as f32,
                step: step as u64 + 1,
                gradient_factor: 1.0,
                max_norm: number("steps.max_norm") as f32,
            };
            for (name, state) in &mut states {
                adamw::reference::<f64, f64>(&settings, &gradient[name], sum, state);
            }
            points.push(Point {
                plain: plain.clone(),
                calibration,
                loss,
                scores: pass.raw().into_iter().map(f64::tanh).collect(),
                gradient,
            });
        }
        let end = states.into_iter().map(|(name, state)| (name, state.master));
        Trajectory {
            points,
            end: end.collect(),
        }
    }
}

/// Ten steps by either loss: losses, scores, gradients, their norms and the weights after the last one.
pub fn definitions_take_the_steps_of_pytorch() {
    for course in &COURSES {
        let (prefix, Trajectory { points, end }) = (course.prefix, course.trajectory());
        let losses: Vec<f64> = points.iter().map(|point| point.loss).collect();
        near(
            "losses",
            &losses,
            &file().get_f64(&format!("{prefix}.losses")),
        );
        let norm = |point: &Point| length(point.gradient.values().flatten().copied());
        let norms: Vec<f64> = points.iter().map(norm).collect();
        near("norms", &norms, &file().get_f64(&format!("{prefix}.norms")));
        if course.objective == Objective::Binary {
            for (i, name) in CALIBRATION.into_iter().enumerate() {
                let before = points.iter().map(|point| point.calibration[i]);
                let all: Vec<f64> = before.chain([end[name][0]]).collect();
                near(name, &all, &file().get_f64(&format!("bce.{name}")));
            }
            continue;
        }
        let b = course.rows();
        // The file has a row an anchor: the positives, then its own negative.
        let scores = points.iter().flat_map(|point| {
            let row = move |i: usize| (0..b).map(move |j| i * b + j).chain([b * b + i]);
            (0..b).flat_map(row).map(|at| point.scores[at])
        });
        near(
            "scores",
            &scores.collect::<Vec<_>>(),
            &file().get_f64("steps.scores"),
        );
        for (i, (point, norm)) in points.iter().zip(norms).enumerate() {
            for (name, gradient) in &point.gradient {
                let stored = file().get_f64(&format!("steps.grad.{i}.{name}"));
                let got = gradient.iter().skip(i % STRIDE).step_by(STRIDE);
                assert_eq!(got.len(), stored.len(), "{name}");
                for (got, want) in got.zip(stored) {
                    // Stored in f32, to nearest.
                    let allowed = want.abs() * f64::from(f32::EPSILON) / 2.0 + SLACK * norm;
                    assert!(
                        (got - want).abs() <= allowed,
                        "step {i}, {name}: {got} for {want}"
                    );
                }
            }
        }
        for (name, weights) in end {
            let got: Vec<f64> = weights.iter().step_by(STRIDE).copied().collect();
            near(
                name,
                &got,
                &file().get_f64(&format!("steps.weights.{name}")),
            );
        }
    }
}

/// At the weights of each step the kernels' loss and gradients are at most twice as far from the definition in f64 as
/// PyTorch's own in the device's precision. Measured per layer over all steps: the error of one step is that of a handful of
/// scores, which all its tensors share, and two such draws may lie far apart.
pub fn steps_are_pytorchs(device: Device) {
    let texts = texts();
    for course in &COURSES {
        let theirs = |what: &str, step: usize| -> f64 {
            let name = format!("errors.{}.{}.{what}", precision(&device), course.prefix);
            file().get_f64(&name)[step]
        };
        let mut errors = Errors::default();
        for (step, point) in course.trajectory().points.iter().enumerate() {
            let learned = learned(&point.plain, point.calibration, &device);
            let mode = super::maps::TRAINING;
            let mut found = (0.0, [0.0; 2]);
            let (_, mut gradient, _) =
                by_kernels(&learned, &device, &texts, &course.pairs(), mode, |raw| {
                    let calibration = learned.objective().unwrap().map(f64::from);
                    let (loss, d_raw, d_calibration) = course.loss(raw, calibration);
                    found = (loss, d_calibration);
                    d_raw
                });
            let (loss, d_calibration) = found;
            gradient.extend(
                CALIBRATION
                    .into_iter()
                    .zip(d_calibration)
                    .map(|(name, d)| (name.into(), vec![d])),
            );
            errors.add("loss", (loss - point.loss).powi(2), theirs("losses", step));
            for (name, want) in &point.gradient {
                let ours = super::distance(&gradient[name], want).powi(2);
                let theirs = theirs(&format!("grad.{name}"), step);
                let layer = match &name[..] {
                    "scale" | "bias" => "scale and bias".into(),
                    name => super::layer(name),
                };
                errors.add(&layer, ours, theirs);
            }
        }
        errors.hold(&format!("{} on {}", course.prefix, device.name()));
    }
}
