//! Model folders in other forms: the same model however it is written, and what is done with what a folder says.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::bf16;
use nearmiss::encoder::{Encoder, LoadOptions};
use nearmiss::index::{TokenVectors, VectorIndex};
use nearmiss::model::checkpoint::{Dtype, Tensor};
use nearmiss::model::hub::{FetchOptions, find_backbone};
use nearmiss::model::{Checkpoint, keys};
use nearmiss::ops::{PairList, pair_dot};
use nearmiss::text::{TextKind, pack, plan_batches};
use nearmiss::{Device, Error};
use serde_json::{Map, Value, json};

const MODELS: [&str; 2] = ["tiny-bert-2x64", "tiny-bert-3x96"];
const TEXTS: [&str; 4] = [
    "the dog",
    "a cat walks, and the river is open",
    "",
    "the red door",
];
const MODULES: &str = "modules.json";
const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";

/// A copy of a golden model, to be changed.
struct Folder(tempfile::TempDir);

impl Folder {
    fn of(model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(model);
        copy(&from, dir.path());
        Folder(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Sets keys of a JSON file, which may be a new one.
    fn set(&self, file: &str, keys: Value) -> &Self {
        let path = self.path().join(file);
        let mut all: Map<String, Value> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => Map::new(),
        };
        all.extend(keys.as_object().unwrap().clone());
        self.write(file, &all.into())
    }

    fn write(&self, file: &str, value: &Value) -> &Self {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
        self
    }

    /// Makes these the modules, each with its configuration in a folder of its own.
    fn modules(&self, modules: &[(&str, Value)]) -> &Self {
        let mut list = vec![module(0, "Transformer", "")];
        for (i, (kind, config)) in (1..).zip(modules) {
            let path = format!("{i}_{kind}");
            list.push(module(i, kind, &path));
            self.write(&format!("{path}/config.json"), config);
        }
        self.write(MODULES, &list.into())
    }

    /// Writes tensors of f32 as the weights of a module.
    fn weights(&self, path: &str, tensors: &[(&str, Vec<usize>, Vec<f32>)]) -> &Self {
        let tensors = tensors.iter().map(|(name, shape, values)| {
            let tensor = Tensor::from_f32(values, Dtype::F32, shape.clone()).unwrap();
            (name.to_string(), tensor)
        });
        save(
            &self.path().join(path).join("model.safetensors"),
            tensors.collect(),
        );
        self
    }

    fn load(&self) -> Result<Encoder, Error> {
        Encoder::load(self.path(), &Device::cpu(), LoadOptions::default())
    }

    fn embed(&self) -> Vec<f32> {
        let encoder = self.load().unwrap();
        let rows = encoder.embed(&TEXTS, TextKind::Document).unwrap();
        assert_eq!(rows.len(), TEXTS.len() * encoder.width());
        rows
    }

    /// The one line that refuses it.
    fn refusal(&self) -> String {
        let error = self.load().err().expect("it is refused");
        assert_eq!(error.exit_code(), 1, "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        error.to_string()
    }

    fn tensors(&self) -> Vec<(String, Tensor<'static>)> {
        let checkpoint = Checkpoint::open(self.path()).unwrap();
        let owned = |t: Tensor<'_>| Tensor {
            dtype: t.dtype,
            shape: t.shape,
            data: t.data.into_owned().into(),
        };
        checkpoint
            .tensors()
            .map(|(name, t)| (name, owned(t)))
            .collect()
    }

    fn replace_tensors(&self, tensors: Vec<(String, Tensor<'_>)>) -> &Self {
        save(&self.path().join("model.safetensors"), tensors);
        self
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, target).unwrap()),
        }
    }
}

fn save(path: &PathBuf, tensors: Vec<(String, Tensor<'_>)>) {
    // Not over a file that somebody has mapped.
    let _ = fs::remove_file(path);
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

fn module(number: usize, kind: &str, path: &str) -> Value {
    let class = format!("sentence_transformers.models.{kind}");
    json!({"idx": number, "name": number.to_string(), "path": path, "type": class})
}

fn pooling(modes: Value) -> (&'static str, Value) {
    ("Pooling", json!({"pooling_mode": modes}))
}

fn normalize() -> (&'static str, Value) {
    ("Normalize", json!({}))
}

fn d_model(folder: &Folder) -> usize {
    folder.load().unwrap().token_width()
}

#[test]
fn old_names_are_the_same_tensors() {
    for model in MODELS {
        let folder = Folder::of(model);
        let want = folder.embed();
        let old = |name: String| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            name.replace("LayerNorm.bias", "LayerNorm.beta")
        };
        let tensors: Vec<_> = folder
            .tensors()
            .into_iter()
            .map(|(n, t)| (old(n), t))
            .collect();
        assert!(
            tensors
                .iter()
                .any(|(name, _)| name.ends_with("LayerNorm.gamma"))
        );
        folder.replace_tensors(tensors);
        assert_eq!(folder.embed(), want, "{model}");
        // What is saved has the names of what was read.
        let to = folder.path().join("saved");
        folder.load().unwrap().save(&to).unwrap();
        let names = |folder: &Path| -> Vec<String> {
            let checkpoint = Checkpoint::open(folder).unwrap();
            checkpoint.tensors().map(|(name, _)| name).collect()
        };
        assert_eq!(names(&to), names(folder.path()));
    }
}

#[test]
fn bf16_and_f64_are_their_values() {
    let folder = Folder::of(MODELS[0]);
    let tensors = folder.tensors();
    let rounded = |dtype: Dtype| -> Vec<(String, Tensor<'static>)> {
        let of = |(name, t): &(String, Tensor<'static>)| {
            let Some(values) = t.to_f32() else {
                return (name.clone(), t.clone());
            };
            let values: Vec<f32> = (values.iter())
                .map(|&v| bf16::from_f32(v).to_f32())
                .collect();
            (
                name.clone(),
                Tensor::from_f32(&values, dtype, t.shape.clone()).unwrap(),
            )
        };
        tensors.iter().map(of).collect()
    };
    let want = folder.replace_tensors(rounded(Dtype::F32)).embed();
    assert_ne!(want, Folder::of(MODELS[0]).embed(), "rounding shows");
    for dtype in [Dtype::BF16, Dtype::F64] {
        folder.replace_tensors(rounded(dtype));
        assert_eq!(folder.embed(), want, "{dtype:?}");
        // And they are written as they were.
        let to = folder.path().join(format!("saved {dtype:?}"));
        folder.load().unwrap().save(&to).unwrap();
        let saved = Checkpoint::open(&to).unwrap();
        assert!(saved.tensors().eq(rounded(dtype)), "{dtype:?}");
    }
    let whole = Tensor {
        dtype: Dtype::I8,
        shape: vec![64],
        data: vec![1; 64].into(),
    };
    let mut tensors = tensors;
    let norm =
        |(name, _): &&mut (String, Tensor<'static>)| name.ends_with("embeddings.LayerNorm.bias");
    tensors.iter_mut().find(norm).unwrap().1 = whole;
    let error = folder.replace_tensors(tensors).refusal();
    assert!(
        error.contains("LayerNorm.bias") && error.contains("I8"),
        "{error}"
    );
}

#[test]
fn weights_in_several_files_are_one_model() {
    for model in MODELS {
        let folder = Folder::of(model);
        let want = folder.embed();
        let mut parts: [Vec<(String, Tensor<'_>)>; 3] = Default::default();
        for (i, tensor) in folder.tensors().into_iter().enumerate() {
            parts[i % 3].push(tensor);
        }
        let mut places: HashMap<String, String> = HashMap::new();
        let file = |i: usize| format!("model-0000{}-of-00003.safetensors", i + 1);
        for (i, part) in parts.iter().enumerate() {
            places.extend(part.iter().map(|(name, _)| (name.clone(), file(i))));
            save(&folder.path().join(file(i)), part.clone());
        }
        let index = "model.safetensors.index.json";
        folder.write(index, &json!({"metadata": {}, "weight_map": places}));
        fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        assert_eq!(folder.embed(), want, "{model}");
        // What is saved is one file, and no index.
        let to = folder.path().join("saved");
        folder.load().unwrap().save(&to).unwrap();
        assert!(to.join("model.safetensors").exists() && !to.join(index).exists());

        fs::remove_file(folder.path().join(file(1))).unwrap();
        let error = folder.refusal();
        assert!(error.contains(index) && error.contains(&file(1)), "{error}");
        folder.write(index, &json!({"weight_map": {"x": "../model.safetensors"}}));
        let error = folder.refusal();
        assert!(error.contains("none of this folder"), "{error}");
        folder.write(index, &json!({"weight_map": {}}));
        assert!(folder.refusal().contains("names no file"));
    }
}

/// Per text, one vector in f64 and the sum of what was added up for each of its elements.
fn by_definition(mode: &str, tokens: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let n = tokens.len() as f64;
    let at = |i: usize| -> (f64, f64) {
        let column: Vec<f64> = tokens.iter().map(|token| token[i]).collect();
        let sum = |weight: &dyn Fn(usize) -> f64, by: f64| {
            let terms = column.iter().enumerate().map(|(t, v)| weight(t) * v);
            let (sum, size) = terms.fold((0.0, 0.0), |(s, a), v| (s + v, a + f64::abs(v)));
            (sum / by, size / by)
        };
        match mode {
            "cls" => (column[0], 0.0),
            "lasttoken" => (column[column.len() - 1], 0.0),
            "max" => (column.iter().copied().fold(f64::MIN, f64::max), 0.0),
            "mean" => sum(&|_| 1.0, n),
            "mean_sqrt_len_tokens" => sum(&|_| 1.0, n.sqrt()),
            "weightedmean" => sum(&|t| (t + 1) as f64, n * (n + 1.0) / 2.0),
            other => panic!("{other}"),
        }
    };
    (0..tokens[0].len()).map(at).collect()
}

#[test]
fn every_pooling_is_its_definition() {
    const MODES: [&str; 6] = [
        "cls",
        "max",
        "mean",
        "mean_sqrt_len_tokens",
        "weightedmean",
        "lasttoken",
    ];
    let folder = Folder::of(MODELS[0]);
    let (encoder, d) = (folder.load().unwrap(), d_model(&folder));
    let tokens = encoder.tokenizer().encode_batch(&TEXTS).unwrap();
    // The batch that `embed` makes, so that the states are the same.
    let plan = plan_batches(&tokens.lengths(), usize::MAX, usize::MAX);
    let batch = pack(&tokens.ids, &plan[0]);
    let hidden = encoder
        .hidden_states(&batch, None)
        .unwrap()
        .0
        .read()
        .unwrap();
    let mut parts = Vec::new();
    for mode in MODES {
        let rows = folder.modules(&[pooling(json!(mode))]).embed();
        for (i, row) in rows.chunks_exact(d).enumerate() {
            let at = batch
                .texts
                .iter()
                .position(|&text| text as usize == i)
                .unwrap();
            let span = batch.offsets[at] as usize * d..batch.offsets[at + 1] as usize * d;
            let of_text: Vec<Vec<f64>> = (hidden[span].chunks_exact(d))
                .map(|token| token.iter().map(|&v| f64::from(v)).collect())
                .collect();
            // A sum of n terms, each a product, divided: n + 3 roundings at most.
            let roundings = (of_text.len() + 3) as f64 * f64::from(f32::EPSILON);
            for (got, (want, size)) in row.iter().zip(by_definition(mode, &of_text)) {
                let error = (f64::from(*got) - want).abs();
                let allowed = roundings * size.max(want.abs());
                assert!(
                    error <= allowed,
                    "{mode}: {got} for {want}, error {error:e} of {allowed:e}"
                );
            }
        }
        parts.push(rows);
    }
    // Several are put one behind the other, in the order in which they are named.
    let list = |which: &[usize]| -> Vec<f32> {
        let texts = 0..TEXTS.len();
        texts
            .flat_map(|i| which.iter().flat_map(move |&m| (m, i).into_row(d)))
            .map(|(m, at)| parts[m][at])
            .collect()
    };
    let all = json!(["lasttoken", "mean", "cls"]);
    assert_eq!(folder.modules(&[pooling(all)]).embed(), list(&[5, 2, 0]));
    // By flags the order is always the same.
    let flags = json!({"pooling_mode_lasttoken": true, "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true,
        "pooling_mode_max_tokens": false, "word_embedding_dimension": d});
    assert_eq!(
        folder.modules(&[("Pooling", flags)]).embed(),
        list(&[0, 2, 5])
    );
    let none = json!({"pooling_mode_mean_tokens": false});
    assert_eq!(folder.modules(&[("Pooling", none)]).embed(), list(&[2]));
    let both = json!({"pooling_mode_mean_tokens": true, "pooling_mode": "max"});
    assert_eq!(folder.modules(&[("Pooling", both)]).embed(), list(&[1]));
}

/// The elements of a row of a part.
trait IntoRow {
    fn into_row(self, d: usize) -> Vec<(usize, usize)>;
}

impl IntoRow for (usize, usize) {
    fn into_row(self, d: usize) -> Vec<(usize, usize)> {
        (self.1 * d..(self.1 + 1) * d)
            .map(|at| (self.0, at))
            .collect()
    }
}

#[test]
fn modules_run_in_their_order() {
    let folder = Folder::of(MODELS[0]);
    let mean = folder.modules(&[pooling(json!("mean"))]).embed();
    let unit = folder
        .modules(&[pooling(json!("mean")), normalize()])
        .embed();
    let first = folder.modules(&[pooling(json!("cls"))]).embed();
    assert_ne!(mean, unit);
    // Before a pooling there is nothing to normalise.
    assert_eq!(
        folder
            .modules(&[normalize(), pooling(json!("mean"))])
            .embed(),
        mean
    );
    // A pooling begins anew.
    let again = [pooling(json!("mean")), normalize(), pooling(json!("cls"))];
    assert_eq!(folder.modules(&again).embed(), first);
    // What has a length of one keeps it.
    let twice = [pooling(json!("mean")), normalize(), normalize()];
    assert_eq!(folder.modules(&twice).embed(), unit);
    let dropout = ("Dropout", json!({"dropout": 0.9}));
    assert_eq!(
        folder.modules(&[pooling(json!("mean")), dropout]).embed(),
        mean
    );
    // A bare encoder is pooled by the mean; one that predicts the next token by the last.
    fs::remove_file(folder.path().join(MODULES)).unwrap();
    assert_eq!(folder.embed(), mean);
    folder.set("config.json", json!({"architectures": ["BertForCausalLM"]}));
    let bare = folder.embed();
    assert_eq!(folder.modules(&[pooling(json!("lasttoken"))]).embed(), bare);
}

#[test]
fn modules_that_cannot_be_run_are_named() {
    let folder = Folder::of(MODELS[0]);
    let dense = || ("Dense", json!({"in_features": 64, "out_features": 32}));
    for (modules, says) in [
        (
            vec![pooling(json!("mean")), ("CNN", json!({}))],
            r#"module 2 (sentence_transformers.models.CNN, path "2_CNN")"#,
        ),
        (
            vec![dense(), pooling(json!("mean"))],
            "module 1 (sentence_transformers.models.Dense",
        ),
        (
            vec![pooling(json!("mean")), ("Transformer", json!({}))],
            "module 2 (sentence_transformers.models.Transformer",
        ),
        (vec![normalize()], "no Pooling"),
        (
            vec![pooling(json!("median"))],
            "pooling_mode is `\"median\"`",
        ),
        (vec![pooling(json!([]))], "names no mode"),
        (
            vec![("Pooling", json!({"pooling_mode_mean_tokens": 1}))],
            "pooling_mode_mean_tokens is `1`",
        ),
        (
            vec![("Pooling", json!({"pooling_mode_median": true}))],
            "pooling_mode_median is `true`",
        ),
        (
            vec![
                pooling(json!("mean")),
                (
                    "Normalize",
                    json!({"module_input_name": "token_embeddings"}),
                ),
            ],
            "module_input_name",
        ),
        (
            vec![
                pooling(json!("mean")),
                ("Dense", json!({"in_features": 32, "out_features": 32})),
            ],
            "in_features is `32`",
        ),
        (
            vec![
                pooling(json!("mean")),
                ("Dense", json!({"in_features": 64, "out_features": 30})),
            ],
            "out_features is `30`",
        ),
        (
            vec![
                pooling(json!("mean")),
                (
                    "Dense",
                    json!({"in_features": 64, "out_features": 32, "activation_function": "mine.Act"}),
                ),
            ],
            "mine.Act",
        ),
        (
            vec![
                pooling(json!("mean")),
                (
                    "Dense",
                    json!({"in_features": 64, "out_features": 32, "gain": 2}),
                ),
            ],
            "gain is `2`",
        ),
        (
            vec![pooling(json!("mean")), dense()],
            "2_Dense/model.safetensors",
        ),
    ] {
        let error = folder.modules(&modules).refusal();
        assert!(error.contains(says), "{error}");
    }
    for (list, says) in [
        (json!([]), "names no module"),
        (
            json!([module(0, "Pooling", "1_Pooling")]),
            "begins with its Transformer",
        ),
        (
            json!([module(0, "Transformer", "0_Transformer")]),
            "a folder of its own",
        ),
        (
            json!([
                module(0, "Transformer", ""),
                module(0, "Pooling", "1_Pooling")
            ]),
            "the same name",
        ),
        (
            json!([module(0, "Transformer", ""), module(1, "Pooling", "../x")]),
            "leads out of",
        ),
        (
            json!([module(0, "Transformer", ""), {"name": "1", "path": "1_Pooling", "type": "mine.Pooling"}]),
            "code of its own",
        ),
        (
            json!([module(0, "Transformer", ""), module(1, "Pooling", "none")]),
            "config.json is missing",
        ),
        (
            json!([{"path": "", "type": "x"}]),
            "`name` must be a string",
        ),
        (
            json!([
                module(0, "Transformer", ""),
                module(1, "Pooling", "./1_Pooling/../../x")
            ]),
            "leads out of",
        ),
        (
            json!([
                module(0, "Transformer", ""),
                module(1, "Pooling", "/1_Pooling")
            ]),
            "leads out of",
        ),
        (
            json!([module(0, "Transformer", ""), typed("foo.bar.Pooling")]),
            "module 1 (sentence_transformers.foo.bar.Pooling",
        ),
        (
            json!([module(0, "Transformer", ""), typed("Pooling")]),
            "its own is sentence_transformers.models.Pooling",
        ),
        (
            json!([module(0, "Transformer", ""), typed("base.modules.Pooling")]),
            "has no module there",
        ),
    ] {
        let error = folder.write(MODULES, &list).refusal();
        assert!(error.contains(says) && error.contains(MODULES), "{error}");
    }
}

/// A pooling by its class, inside the package.
fn typed(class: &str) -> Value {
    let class = format!("sentence_transformers.{class}");
    json!({"idx": 1, "name": "1", "path": "1_Pooling", "type": class})
}

#[test]
fn modules_are_found_wherever_sentence_transformers_finds_them() {
    let folder = Folder::of(MODELS[0]);
    let want = folder.modules(&[pooling(json!("max"))]).embed();
    for class in [
        "models.Pooling.Pooling",
        "sentence_transformer.modules.Pooling",
        "sentence_transformer.modules.pooling.Pooling",
    ] {
        let first = json!({"name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"});
        folder.write(MODULES, &json!([first, typed(class)]));
        assert_eq!(folder.embed(), want, "{class}");
    }
    for path in ["./1_Pooling", "1_Pooling/", "././1_Pooling/."] {
        folder.write(
            MODULES,
            &json!([module(0, "Transformer", "./"), module(1, "Pooling", path)]),
        );
        assert_eq!(folder.embed(), want, "{path}");
        // Written back it is the same.
        let to = tempfile::tempdir().unwrap();
        folder
            .load()
            .unwrap()
            .save(&to.path().join("saved"))
            .unwrap();
        copy(&to.path().join("saved"), folder.path());
        assert_eq!(folder.embed(), want, "{path}, saved");
    }
}

#[test]
fn an_encoder_in_a_folder_of_its_own_is_named() {
    let folder = Folder::of(MODELS[0]);
    let own = folder.path().join("0_Transformer");
    fs::create_dir(&own).unwrap();
    for file in fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if file.is_file() && !file.ends_with(MODULES) {
            fs::rename(&file, own.join(file.file_name().unwrap())).unwrap();
        }
    }
    let list = json!([
        module(0, "Transformer", "0_Transformer"),
        module(1, "Pooling", "1_Pooling")
    ]);
    folder.write(MODULES, &list);
    let says = "move its files into the model folder and make the path empty";
    assert!(folder.refusal().contains(says), "{}", folder.refusal());
    let error = found(&folder);
    assert!(error.contains(says) && error.contains(MODULES), "{error}");
}

/// The one line with which a search refuses a folder.
fn found(folder: &Folder) -> String {
    let options = FetchOptions {
        offline: true,
        ..FetchOptions::default()
    };
    let name = folder.path().to_str().unwrap();
    let error = find_backbone(name, &options, &mut |_| {})
        .unwrap_err()
        .to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn an_adapter_is_named() {
    let folder = Folder::of(MODELS[0]);
    folder.write("adapter_config.json", &json!({"peft_type": "LORA", "r": 4}));
    let error = folder.refusal();
    assert!(
        error.contains("adapter_config.json") && error.contains("merge"),
        "{error}"
    );
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(found(&folder).contains("merge"), "{}", found(&folder));
}

#[test]
fn weights_that_are_cut_are_not_missing() {
    let folder = Folder::of(MODELS[0]);
    let weights = folder.path().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for length in [5, 100, whole.len() - 1] {
        fs::write(&weights, &whole[..length]).unwrap();
        let error = folder.refusal();
        assert!(
            error.contains("not a complete safetensors file"),
            "{length}: {error}"
        );
    }
    fs::write(&weights, b"").unwrap();
    let error = found(&folder);
    assert!(
        error.contains("model.safetensors: is empty (0 bytes)"),
        "{error}"
    );
    assert!(folder.refusal().contains("not a complete safetensors file"));
}

#[test]
fn both_names_of_a_tensor_are_one_too_many() {
    let folder = Folder::of(MODELS[0]);
    let tensors = folder.tensors();
    let norm = (tensors.iter())
        .find(|(name, _)| name.ends_with("embeddings.LayerNorm.weight"))
        .unwrap();
    let old = norm.0.replace("weight", "gamma");
    let mut both = tensors.clone();
    both.push((old.clone(), norm.1.clone()));
    let error = folder.replace_tensors(both).refusal();
    assert!(error.contains(&old) && error.contains(&norm.0), "{error}");
}

/// Whether a tensor is of the last layer norm, which nothing comes behind.
fn is_last(name: &str) -> bool {
    name.contains("layer.1.output.LayerNorm")
}

/// Multiplies what the last layer norm makes.
fn lengthen(folder: &Folder, by: f32) {
    let last = |(name, tensor): (String, Tensor<'static>)| {
        if !is_last(&name) {
            return (name, tensor);
        }
        let values: Vec<f32> = tensor.to_f32().unwrap().iter().map(|v| v * by).collect();
        let scaled = Tensor::from_f32(&values, Dtype::F32, tensor.shape.clone()).unwrap();
        (name, scaled)
    };
    folder.replace_tensors(folder.tensors().into_iter().map(last).collect());
}

#[test]
fn token_vectors_of_any_length_are_compared_by_their_directions() {
    let parts = |folder: &Folder| {
        let vectors =
            TokenVectors::encode(&folder.load().unwrap(), &TEXTS, TextKind::Document).unwrap();
        let d = vectors.width();
        let mut dots = Vec::new();
        for (rows, n) in [
            (vectors.means(), vectors.len()),
            (vectors.centroids(), vectors.len()),
        ] {
            let mut out = vectors.device().alloc::<f32>(n * n).unwrap();
            let all: Vec<[u32; 2]> = (0..n as u32)
                .flat_map(|i| (0..n as u32).map(move |j| [i, j]))
                .collect();
            let pairs = PairList::new(vectors.device(), all).unwrap();
            pair_dot(rows, rows, d, &pairs, &mut out).unwrap();
            dots.extend(out.read().unwrap());
        }
        dots
    };
    let want = parts(&Folder::of(MODELS[0]));
    for exponent in [-66, -30, 30, 83] {
        let folder = Folder::of(MODELS[0]);
        lengthen(&folder, 2f32.powi(exponent));
        assert_eq!(parts(&folder), want, "2^{exponent}");
    }
    // What f32 itself does not hold is no matter of f16.
    let folder = Folder::of(MODELS[0]);
    let tensors = folder.tensors();
    let last = tensors.iter().filter(|(name, _)| is_last(name));
    let largest = last
        .flat_map(|(_, tensor)| tensor.to_f32().unwrap())
        .fold(0.0, |m: f32, v| m.max(v.abs()));
    lengthen(&folder, 0.99 * f32::MAX / largest);
    let encoder = folder.load().unwrap();
    let embedding = encoder.embed(&TEXTS, TextKind::Document).unwrap_err();
    let tokens = TokenVectors::encode(&encoder, &TEXTS, TextKind::Document)
        .err()
        .unwrap();
    for error in [embedding, tokens].map(|error| error.to_string()) {
        assert!(
            error.contains("not finite on") && error.contains("check the model"),
            "{error}"
        );
        assert!(!error.contains("f16"), "{error}");
    }
}

/// A projection whose sums are exact: each output is twice one of the inputs.
fn doubling(folder: &Folder, path: &str, from: usize, to: usize) {
    let mut weight = vec![0f32; to * from];
    for i in 0..to {
        weight[i * from + (7 * i + 3) % from] = 2.0;
    }
    folder.weights(
        path,
        &[
            ("linear.weight", vec![to, from], weight),
            ("linear.bias", vec![to], vec![0.5; to]),
        ],
    );
}

#[test]
fn projections_are_done_and_make_the_width() {
    let folder = Folder::of(MODELS[0]);
    let d = d_model(&folder);
    let mean = folder.modules(&[pooling(json!("mean"))]).embed();
    let projected = |f: fn(f32) -> f32| -> Vec<f32> {
        let rows = mean.chunks_exact(d);
        rows.flat_map(|row| (0..32).map(move |i| f(2.0 * row[(7 * i + 3) % d] + 0.5)))
            .collect()
    };
    let tanh: fn(f32) -> f32 = f32::tanh;
    for (activation, f) in [
        (
            Some("torch.nn.modules.linear.Identity"),
            (|x| x) as fn(f32) -> f32,
        ),
        (Some("torch.nn.modules.activation.Tanh"), tanh),
        (Some("torch.nn.modules.activation.ReLU"), |x| x.max(0.0)),
        (None, tanh),
    ] {
        let mut config = json!({"in_features": d, "out_features": 32, "bias": true});
        if let Some(activation) = activation {
            config["activation_function"] = activation.into();
        }
        folder.modules(&[pooling(json!("mean")), ("Dense", config)]);
        doubling(&folder, "2_Dense", d, 32);
        assert_eq!(folder.embed(), projected(f), "{activation:?}");
    }
    let encoder = folder.load().unwrap();
    assert_eq!((encoder.width(), encoder.token_width()), (32, d));
    assert_eq!(
        encoder.head().to_string(),
        format!("mean, dense {d} to 32 (Tanh)")
    );

    // An index takes embeddings, token vectors stay as wide as they are.
    let cpu = Device::cpu();
    let mut index = VectorIndex::new(&cpu, encoder.width()).unwrap();
    index
        .append_texts(&encoder, &TEXTS, TextKind::Document)
        .unwrap();
    let query = encoder.embed(&TEXTS[1..2], TextKind::Document).unwrap();
    assert_eq!(index.search(&query, 1).unwrap()[0][0].id, 1);
    let vectors = TokenVectors::encode(&encoder, &TEXTS, TextKind::Document).unwrap();
    assert_eq!(vectors.width(), d);

    // It cannot be trained, and says so.
    let error = encoder.gradients().err().unwrap().to_string();
    assert!(
        error.contains("dense 64 to 32") && error.contains("trained"),
        "{error}"
    );
    // Written back it is the same model.
    let to = folder.path().join("saved");
    encoder.save(&to).unwrap();
    let saved = Encoder::load(&to, &cpu, LoadOptions::default()).unwrap();
    let want = encoder.embed(&TEXTS, TextKind::Document).unwrap();
    assert_eq!(saved.embed(&TEXTS, TextKind::Document).unwrap(), want);

    // What came in is added, as it is or through a layer of its own.
    let residual = json!({"in_features": d, "out_features": d, "use_residual": true,
        "activation_function": "torch.nn.modules.linear.Identity"});
    folder.modules(&[pooling(json!("mean")), ("Dense", residual)]);
    doubling(&folder, "2_Dense", d, d);
    let want: Vec<f32> = (mean.chunks_exact(d))
        .flat_map(|row| (0..d).map(move |i| 2.0 * row[(7 * i + 3) % d] + 0.5 + row[i]))
        .collect();
    assert_eq!(folder.embed(), want);

    // A bias that the configuration does not say of belongs to another model.
    let config = json!({"in_features": d, "out_features": 32, "bias": false});
    folder.modules(&[pooling(json!("mean")), ("Dense", config)]);
    doubling(&folder, "2_Dense", d, 32);
    assert!(
        folder.refusal().contains("linear.bias"),
        "{}",
        folder.refusal()
    );
}

#[test]
fn embeddings_are_cut_where_the_folder_says_so() {
    let folder = Folder::of(MODELS[0]);
    let d = d_model(&folder);
    let whole = folder.embed();
    folder.set(SENTENCE_TRANSFORMERS, json!({"truncate_dim": 24}));
    let want: Vec<f32> = whole
        .chunks_exact(d)
        .flat_map(|row| row[..24].to_vec())
        .collect();
    assert_eq!(folder.embed(), want);
    assert_eq!(folder.load().unwrap().width(), 24);
    folder.set(SENTENCE_TRANSFORMERS, json!({"truncate_dim": 4096}));
    assert_eq!(folder.embed(), whole);
    for wrong in [json!(0), json!(-8), json!(20), json!("24")] {
        folder.set(SENTENCE_TRANSFORMERS, json!({"truncate_dim": wrong}));
        assert!(
            folder.refusal().contains("truncate_dim"),
            "{}",
            folder.refusal()
        );
    }
}

#[test]
fn no_key_with_an_effect_is_passed_over() {
    // Of what the golden models say, all is known.
    for model in MODELS {
        let folder = Folder::of(model);
        assert_eq!(
            keys::check_folder(folder.path()).unwrap(),
            [""; 0],
            "{model}"
        );
    }
    let says = |file: &str, keys: Value| {
        let folder = Folder::of(MODELS[0]);
        let want = folder.embed();
        folder.set(file, keys);
        assert_eq!(folder.embed(), want, "{file}");
        keys::check_folder(folder.path()).unwrap().join("; ")
    };
    for (file, keys, needle) in [
        (
            "config.json",
            json!({"favourite_colour": "blue"}),
            "favourite_colour is `blue`; the key is not known",
        ),
        (
            "tokenizer_config.json",
            json!({"do_upper_case": true}),
            "do_upper_case is `true`; the key is not known",
        ),
        (
            SENTENCE_TRANSFORMERS,
            json!({"similarity_fn_name": "dot"}),
            "similarity_fn_name is `dot`; embeddings are compared",
        ),
        (
            SENTENCE_TRANSFORMERS,
            json!({"scale": 2}),
            "scale is `2`; the key is not known",
        ),
        (
            SENTENCE_TRANSFORMERS,
            json!({"prompts": {"x": "y"}, "default_prompt_name": "x"}),
            "default_prompt_name is `x`",
        ),
        // Unset, it is as if it was not there.
        (
            "config.json",
            json!({"favourite_colour": null, "twist": false, "list": []}),
            "",
        ),
        (
            "config.json",
            json!({"is_decoder": false, "pruned_heads": {}, "quantization_config": null}),
            "",
        ),
        (
            SENTENCE_TRANSFORMERS,
            json!({"similarity_fn_name": "cosine"}),
            "",
        ),
    ] {
        let notes = says(file, keys);
        assert!(
            notes.contains(needle) && notes.is_empty() == needle.is_empty(),
            "{notes}"
        );
    }
    for (file, keys, needle) in [
        (
            "config.json",
            json!({"is_decoder": true}),
            "is_decoder is `true`",
        ),
        (
            "config.json",
            json!({"add_cross_attention": true}),
            "add_cross_attention",
        ),
        (
            "config.json",
            json!({"hidden_act": "gelu_new"}),
            "hidden_act is `gelu_new`",
        ),
        (
            "config.json",
            json!({"position_embedding_type": "relative_key"}),
            "position_embedding_type",
        ),
        (
            "config.json",
            json!({"pruned_heads": {"1": [0]}}),
            "pruned_heads",
        ),
        (
            "config.json",
            json!({"quantization_config": {"bits": 8}}),
            "quantization_config",
        ),
        (
            "config.json",
            json!({"auto_map": {"AutoModel": "x.Y"}}),
            "auto_map",
        ),
        (
            "config.json",
            json!({"model_type": "nomic_bert"}),
            "model_type is `nomic_bert`",
        ),
        (
            "tokenizer_config.json",
            json!({"auto_map": ["x.Y", null]}),
            "auto_map",
        ),
        (
            "sentence_bert_config.json",
            json!({"pad_to": 8}),
            "pad_to is `8`",
        ),
        (
            "sentence_bert_config.json",
            json!({"query_length": 8}),
            "query_length",
        ),
        (
            "sentence_bert_config.json",
            json!({"model_args": {"rotary": true}}),
            "rotary",
        ),
        (
            "sentence_bert_config.json",
            json!({"modality_config": {"image": {"method": "forward"}}}),
            "modality_config",
        ),
        (
            SENTENCE_TRANSFORMERS,
            json!({"model_type": "SparseEncoder"}),
            "model_type is `SparseEncoder`",
        ),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode_median": true}),
            "pooling_mode_median",
        ),
        (
            "sentence_bert_config.json",
            json!({"do_lower_case": "no"}),
            "do_lower_case",
        ),
    ] {
        let folder = Folder::of(MODELS[0]);
        let error = folder.set(file, keys).refusal();
        assert!(error.contains(file) && error.contains(needle), "{error}");
    }
    // Leaving prompts out of the pooling matters where there are prompts.
    let folder = Folder::of(MODELS[0]);
    let want = folder.embed();
    folder.set("1_Pooling/config.json", json!({"include_prompt": false}));
    assert_eq!(folder.embed(), want);
    folder.set(
        SENTENCE_TRANSFORMERS,
        json!({"prompts": {"query": "query: "}}),
    );
    for falsy in [json!(false), Value::Null, json!(0), json!("")] {
        folder.set("1_Pooling/config.json", json!({"include_prompt": falsy}));
        let error = folder.refusal();
        assert!(
            error.contains(&format!("include_prompt is `{falsy}`")),
            "{error}"
        );
    }
    folder.set("1_Pooling/config.json", json!({"include_prompt": true}));
    folder.load().unwrap();
    // A file that is not read is named.
    let folder = Folder::of(MODELS[0]);
    fs::remove_file(folder.path().join(MODULES)).unwrap();
    let notes = keys::check_folder(folder.path()).unwrap();
    assert!(
        notes.len() == 1 && notes[0].contains("sentence_bert_config.json: not read"),
        "{notes:?}"
    );
}
