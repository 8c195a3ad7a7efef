//! The golden files of training: settings, texts, what PyTorch found, and the trajectory of weights that it belongs to.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use nearmiss::model::weights::{Group, Table};
use nearmiss::model::{BertConfig, Checkpoint, PoolingConfig};
use nearmiss::ops::adamw::{self, AdamW};
use serde::Deserialize;

use super::common::{self, golden};
use super::reference::{Model, Settings, Tensors, Texts, step};

pub const MODELS: [&str; 2] = ["tiny-bert-2x64", "tiny-bert-3x96"];

#[derive(Deserialize)]
pub struct Golden {
    pub stride: usize,
    pub scale: f32,
    learning_rate: f64,
    warm_up: u64,
    weight_decay: f32,
    betas: [f64; 2],
    eps: f32,
    max_norm: f32,
    pub loss_scale: f32,
    /// Names, in the order of the lists of errors.
    pub tensors: Vec<String>,
    pub steps: Vec<Step>,
}

#[derive(Deserialize)]
pub struct Step {
    pub loss: f64,
    pub gradient_norm: f64,
    learning_rate: f64,
}

/// A step of the trajectory: the weights before it, and what the references in f64 make of its texts.
pub struct Point {
    pub model: Model,
    pub texts: Texts,
    pub loss: f64,
    pub gradient: Tensors,
}

pub struct Training {
    pub golden: Golden,
    pub tensors: common::Tensors,
    pub points: Vec<Point>,
    /// After the last step.
    pub weights: Tensors,
}

impl Golden {
    /// The optimizer's settings at a step, from 0.
    pub fn adamw(&self, step: usize, group: Group) -> AdamW {
        AdamW {
            learning_rate: self.steps[step].learning_rate as f32,
            beta: self.betas,
            eps: self.eps,
            weight_decay: if group.decays() {
                self.weight_decay
            } else {
                0.0
            },
            step: step as u64 + 1,
            gradient_factor: 1.0,
            max_norm: self.max_norm,
        }
    }

    pub fn settings(&self) -> Settings {
        Settings {
            scale: self.scale,
            loss_scale: 1.0,
            dropout: None,
        }
    }

    pub fn schedule(&self) -> nearmiss::train::schedule::Schedule {
        nearmiss::train::schedule::Schedule {
            peak: self.learning_rate,
            steps: self.steps.len() as u64,
            warm_up: self.warm_up,
        }
    }

    /// The learning rates of the file are those of the schedule.
    pub fn check_schedule(&self) {
        for (done, step) in self.steps.iter().enumerate() {
            let rate = self.schedule().rate(done as u64);
            assert_eq!(f64::from(rate), step.learning_rate, "step {done}");
        }
    }
}

impl Training {
    /// Of a tensor's gradient at a step, the numbers of the elements that the file has.
    pub fn sampled(&self, step: usize) -> impl Fn(&[f64]) -> Vec<f64> {
        let stride = self.golden.stride;
        move |values| {
            values
                .iter()
                .skip(step % stride)
                .step_by(stride)
                .copied()
                .collect()
        }
    }

    /// What the file has of a gradient.
    pub fn stored(&self, step: usize, name: &str) -> Vec<f64> {
        self.tensors.get_f64(&format!("gradient.{step}.{name}"))
    }
}

/// The training of a model of [`MODELS`], computed once.
pub fn training(model: &str) -> Arc<Training> {
    static ALL: [OnceLock<Arc<Training>>; 2] = [OnceLock::new(), OnceLock::new()];
    let at = MODELS
        .iter()
        .position(|&name| name == model)
        .expect("one of them");
    ALL[at].get_or_init(|| Arc::new(follow(model))).clone()
}

/// A golden model, its weights as they are stored.
pub fn model(name: &str) -> Model {
    let folder = golden(name);
    let config = BertConfig::read(&folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let mut weights = Tensors::new();
    for entry in Table::new(&config).entries() {
        let mut shape = entry.shape.clone();
        shape[0] /= entry.names.len();
        for name in &entry.names {
            let values = checkpoint.values(name, &shape).unwrap();
            weights.insert(name.clone(), values.into_iter().map(f64::from).collect());
        }
    }
    Model {
        pooling: PoolingConfig::read(&folder).unwrap(),
        config,
        weights,
    }
}

/// The group of every tensor.
pub fn groups(config: &BertConfig) -> BTreeMap<String, Group> {
    let table = Table::new(config);
    let entries = table.entries().iter();
    let all = entries.flat_map(|e| e.names.iter().map(|name| (name.clone(), e.group)));
    all.collect()
}

fn follow(name: &str) -> Training {
    let text = std::fs::read_to_string(golden("training").join(format!("{name}.json")));
    let golden: Golden = serde_json::from_str(&text.expect("committed")).expect("as it was made");
    let path = common::golden("training").join(format!("{name}.safetensors"));
    let tensors = common::Tensors::read(&path);
    let mut model = model(name);
    let groups = groups(&model.config);
    let mut states: BTreeMap<String, adamw::State<f64>> = (model.weights.iter())
        .map(|(name, values)| (name.clone(), adamw::State::new(values)))
        .collect();
    let mut points = Vec::new();
    for i in 0..golden.steps.len() {
        let list = |what: &str| -> Vec<u32> {
            let values = tensors.get_f64(&format!("{what}.{i}"));
            values.into_iter().map(|v| v as u32).collect()
        };
        let texts = Texts {
            ids: list("token_ids"),
            offsets: list("offsets"),
        };
        let (loss, gradient) = step::<f64>(&model, &texts, &golden.settings(), |v| v);
        let sum = gradient.values().flatten().map(|g| g * g).sum();
        let before = model.clone();
        for (name, weights) in &mut model.weights {
            let state = states.get_mut(name).expect("one each");
            let settings = golden.adamw(i, groups[name]);
            adamw::reference::<f64, f64>(&settings, &gradient[name], sum, state);
            weights.clone_from(&state.master);
        }
        points.push(Point {
            model: before,
            texts,
            loss,
            gradient,
        });
    }
    Training {
        golden,
        tensors,
        points,
        weights: model.weights,
    }
}
