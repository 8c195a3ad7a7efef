//! Ids cover exactly what numbers depend on, and sizes that are there for memory alone change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::geometry::{GeometryOptions, GeometryStage};
use super::near_miss::{Examples, NearMissStage, Triplets};
use super::pair_scores::Scorers;
use super::plan::{Plan, Preset};
use super::results;
use super::retrieve::{RetrieveOptions, RetrieveStage};
use super::session::{Session, SessionOptions};
use super::stage::{Stage, Told};
use crate::data::Category;
use crate::data::beir::Collection;
use crate::data::generated::COLLECTIONS;
use crate::data::triplets::{Triplet, TripletNotes};
use crate::device::DeviceChoice;
use crate::metrics::near_miss::Options;
use crate::verifier::Penalty;

/// Everything that the three stages are given.
struct Inputs {
    model: tempfile::TempDir,
    /// Name of the model's folder.
    name: &'static str,
    max_length: Option<usize>,
    memory: Option<u64>,
    verifiers: Vec<&'static str>,
    verifier_length: usize,
    token_bytes: usize,
    penalty: Penalty,
    collection: Collection,
    retrieve: RetrieveOptions,
    examples: Examples,
    triplets: Option<Triplets>,
    near_miss: Options,
    geometry: GeometryOptions,
}

impl Inputs {
    fn new() -> Self {
        let triplet = |i: usize| Triplet {
            anchor: format!("who sees {i} birds?"),
            positive: format!("the cat sees {i} birds"),
            negative: format!("{i} birds see the cat"),
            category: Category::Role,
        };
        let mut inputs = Inputs {
            model: tempfile::tempdir().unwrap(),
            name: "model",
            max_length: None,
            memory: None,
            verifiers: vec!["f1", "f2", "f1-f2"],
            verifier_length: 12,
            token_bytes: 1 << 30,
            penalty: Penalty::default(),
            collection: COLLECTIONS[0].generate(42, 12, 6).unwrap(),
            retrieve: RetrieveOptions::default(),
            examples: Examples::from_edits(&Preset::Smoke.edit_set(42).unwrap()),
            triplets: Some(Triplets {
                all: (0..4).map(triplet).collect(),
                notes: TripletNotes::default(),
                sample: 3,
                seed: 42,
            }),
            near_miss: Options::default(),
            geometry: GeometryOptions {
                scenes: 5,
                ..GeometryOptions::default()
            },
        };
        // Enough accepts for thresholds of such a small set, and intervals in no time.
        inputs.near_miss.minimum = 5;
        inputs.near_miss.bootstrap.resamples = 20;
        inputs.use_model("tiny-bert-2x64");
        inputs
    }

    fn folder(&self) -> PathBuf {
        self.model.path().join(self.name)
    }

    /// Takes one of the golden models in place of the present one.
    fn use_model(&mut self, golden: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let (from, to) = (from.join(golden), self.folder());
        let _ = fs::remove_dir_all(&to);
        fs::create_dir_all(to.join("1_Pooling")).unwrap();
        for file in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "sentence_bert_config.json",
            "modules.json",
            "1_Pooling/config.json",
            "model.safetensors",
        ] {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }

    /// Changes a JSON file of the model.
    fn edit(&self, file: &str, change: impl Fn(&mut Value)) {
        let path = self.folder().join(file);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    fn session(&self, out: &Path) -> Session {
        Session::open(SessionOptions {
            device: DeviceChoice::Cpu,
            backbone: self.folder().to_str().unwrap().into(),
            max_length: self.max_length,
            memory: self.memory,
            offline: true,
            profile: false,
            quiet: true,
            out: out.to_path_buf(),
        })
        .unwrap()
    }

    fn stages(self) -> (RetrieveStage, NearMissStage, GeometryStage) {
        let mut scorers =
            Scorers::named(&self.verifiers, self.verifier_length, self.penalty).unwrap();
        scorers.token_bytes = self.token_bytes;
        let (scorers, examples) = (Arc::new(scorers), Arc::new(self.examples));
        let collection = Arc::new(self.collection);
        let retrieve = RetrieveStage {
            collection: collection.clone(),
            scorers: scorers.clone(),
            options: self.retrieve,
        };
        let near_miss = NearMissStage {
            examples: examples.clone(),
            triplets: self.triplets,
            scorers: scorers.clone(),
            options: self.near_miss,
        };
        let geometry = GeometryStage {
            examples,
            collections: vec![collection],
            scorers,
            options: self.geometry,
        };
        (retrieve, near_miss, geometry)
    }

    /// What ids are made of: retrieval, near-misses, geometry.
    fn configs(self) -> [Value; 3] {
        let session = self.session(Path::new("nowhere"));
        let (retrieve, near_miss, geometry) = self.stages();
        [
            json!(retrieve.config(&session)),
            json!(near_miss.config(&session)),
            json!(geometry.config(&session)),
        ]
    }
}

/// The places in a JSON value that hold something else than a list or an object, with what they hold.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn walk(path: String, value: &Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) => map
                .iter()
                .for_each(|(key, value)| walk(format!("{path}/{key}"), value, into)),
            Value::Array(list) => (0..)
                .zip(list)
                .for_each(|(i, value)| walk(format!("{path}/{i}"), value, into)),
            leaf => drop(into.insert(path, leaf.clone())),
        }
    }
    let mut found = BTreeMap::new();
    walk(String::new(), value, &mut found);
    found
}

/// A change of one input: which of retrieval, near-misses and geometry have other numbers then.
type Change = (&'static str, [bool; 3], Box<dyn Fn(&mut Inputs)>);

fn changes() -> Vec<Change> {
    const ALL: [bool; 3] = [true; 3];
    const NONE: [bool; 3] = [false; 3];
    const RETRIEVE: [bool; 3] = [true, false, false];
    const NEAR_MISS: [bool; 3] = [false, true, false];
    const GEOMETRY: [bool; 3] = [false, false, true];
    /// Stages with queries and documents.
    const COLLECTION: [bool; 3] = [true, false, true];
    /// Stages with pairs.
    const EXAMPLES: [bool; 3] = [false, true, true];
    fn change(
        what: &'static str,
        stages: [bool; 3],
        change: impl Fn(&mut Inputs) + 'static,
    ) -> Change {
        (what, stages, Box::new(change))
    }
    fn triplets(inputs: &mut Inputs) -> &mut Triplets {
        inputs.triplets.as_mut().unwrap()
    }
    vec![
        // The encoder.
        change("another model", ALL, |i| i.use_model("tiny-bert-3x96")),
        change("a weight", ALL, |i| {
            let path = i.folder().join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        change("a number of config.json", ALL, |i| {
            i.edit("config.json", |c| c["layer_norm_eps"] = json!(1e-6));
        }),
        change("a rule of the tokenizer", ALL, |i| {
            i.edit("tokenizer_config.json", |c| {
                c["do_lower_case"] = json!(false)
            });
        }),
        change("a rule of tokenizer.json", ALL, |i| {
            i.edit("tokenizer.json", |t| {
                t["normalizer"]["lowercase"] = json!(false)
            });
            i.edit("tokenizer_config.json", |c| {
                c["tokenizer_class"] = json!("PreTrainedTokenizerFast")
            });
        }),
        change("lower case", ALL, |i| {
            i.edit("sentence_bert_config.json", |c| {
                c["do_lower_case"] = json!(true)
            });
        }),
        change("the pooling", ALL, |i| {
            let other = |c: &mut Value| {
                for mode in ["pooling_mode_mean_tokens", "pooling_mode_cls_token"] {
                    c[mode] = json!(!c[mode].as_bool().unwrap());
                }
            };
            i.edit("1_Pooling/config.json", other);
        }),
        change("normalisation", ALL, |i| {
            i.edit("modules.json", |m| {
                let modules = m.as_array_mut().unwrap();
                let normalize = |m: &Value| m["type"].as_str().unwrap().ends_with("Normalize");
                match modules.iter().position(normalize) {
                    Some(at) => drop(modules.remove(at)),
                    None => modules.push(json!({ "idx": 2, "name": "2", "path": "2_Normalize",
                        "type": "sentence_transformers.models.Normalize" })),
                }
            });
        }),
        change("the prompt of queries", COLLECTION, |i| {
            let prompts = json!({ "prompts": { "query": "query: " } }).to_string();
            fs::write(
                i.folder().join("config_sentence_transformers.json"),
                prompts,
            )
            .unwrap();
        }),
        change("the prompt of documents", COLLECTION, |i| {
            let prompts = json!({ "prompts": { "document": "text: " } }).to_string();
            fs::write(
                i.folder().join("config_sentence_transformers.json"),
                prompts,
            )
            .unwrap();
        }),
        change("the length limit", ALL, |i| i.max_length = Some(30)),
        // The verifiers.
        change("fewer verifiers", ALL, |i| i.verifiers.truncate(2)),
        change("the order of verifiers", ALL, |i| i.verifiers.swap(0, 1)),
        change("what verifiers see", ALL, |i| i.verifier_length = 11),
        change("the penalty's threshold", ALL, |i| {
            i.penalty.threshold = 0.8
        }),
        change("the penalty's weight", ALL, |i| i.penalty.weight = 0.4),
        // The collection.
        change("a document's text", COLLECTION, |i| {
            i.collection.corpus[3].text.push('.');
        }),
        change("a document's id", COLLECTION, |i| {
            i.collection.corpus[3].id.push('x');
        }),
        change("the order of documents", COLLECTION, |i| {
            i.collection.corpus.swap(0, 1);
        }),
        change("a document becomes a query", COLLECTION, |i| {
            let last = i.collection.corpus.pop().unwrap();
            let text = last.text_for_encoder().into_owned();
            let query = crate::data::beir::Query { id: last.id, text };
            i.collection.queries.insert(0, query);
        }),
        change("a query", COLLECTION, |i| {
            i.collection.queries[2].text.push('?');
        }),
        change("a judgement", COLLECTION, |i| {
            let query = i.collection.queries[0].id.clone();
            let document = i.collection.corpus[0].id.clone();
            i.collection.qrels.insert(query, document, 7);
        }),
        change("how deep rankings are", RETRIEVE, |i| i.retrieve.depth = 10),
        // The pairs.
        change("a paraphrase", EXAMPLES, |i| {
            let kind = crate::metrics::near_miss::Kind::Paraphrase;
            let mut items = i.examples.items.iter_mut();
            items.find(|item| item.kind == kind).unwrap().text.push('.');
        }),
        change("a near-miss", NEAR_MISS, |i| {
            let kind = crate::metrics::near_miss::Kind::NearMiss;
            let mut items = i.examples.items.iter_mut();
            items.find(|item| item.kind == kind).unwrap().text.push('.');
        }),
        change("a category", NEAR_MISS, |i| {
            i.examples.items[0].category.push('x');
        }),
        change("a source", NEAR_MISS, |i| {
            i.examples.items[0].source.push('x')
        }),
        change("the half of an anchor", NEAR_MISS, |i| {
            use crate::metrics::near_miss::Split::{Calibration, Test};
            let split = &mut i.examples.items[0].split;
            *split = if *split == Test { Calibration } else { Test };
        }),
        change("one pair fewer", NEAR_MISS, |i| {
            let kind = crate::metrics::near_miss::Kind::Unrelated;
            let at = i.examples.items.iter().position(|item| item.kind == kind);
            i.examples.items.remove(at.unwrap());
        }),
        change("fewest pairs of a rate", NEAR_MISS, |i| {
            i.near_miss.minimum = 6
        }),
        change("bootstrap samples", NEAR_MISS, |i| {
            i.near_miss.bootstrap.resamples = 21;
        }),
        change("the bootstrap's seed", NEAR_MISS, |i| {
            i.near_miss.bootstrap.seed = 43;
        }),
        change("folds", NEAR_MISS, |i| i.near_miss.folds = Some(3)),
        change("thresholds from elsewhere", NEAR_MISS, |i| {
            i.near_miss.transferred = Some([0.7, 0.8, 0.9]);
        }),
        // The triplets.
        change("no triplets", NEAR_MISS, |i| i.triplets = None),
        change("a triplet", NEAR_MISS, |i| {
            triplets(i).all[3].negative.push('.')
        }),
        change("how many triplets", NEAR_MISS, |i| triplets(i).sample = 2),
        change("the triplets' seed", NEAR_MISS, |i| triplets(i).seed = 43),
        // Geometry.
        change("geometry's seed", GEOMETRY, |i| i.geometry.seed = 43),
        change("scenes", GEOMETRY, |i| i.geometry.scenes = 6),
        change("sentences", GEOMETRY, |i| i.geometry.sentences = 10),
        change("held-out sentences", GEOMETRY, |i| i.geometry.held_out = 4),
        // What no number depends on.
        change("the model folder's name", NONE, |i| {
            let from = i.folder();
            i.name = "renamed";
            fs::rename(from, i.folder()).unwrap();
        }),
        change("what a writer of configurations adds", NONE, |i| {
            i.edit("config.json", |c| c["transformers_version"] = json!("9"));
            // Leftovers of the machine that wrote it.
            i.edit("tokenizer.json", |t| {
                t["truncation"] = json!({ "direction": "Right", "max_length": 128,
                    "strategy": "LongestFirst", "stride": 0 });
                // A BertTokenizer has this from tokenizer_config.json.
                t["normalizer"]["lowercase"] = json!(false);
            });
        }),
        change("memory", NONE, |i| i.memory = Some(1 << 20)),
        change("names and notes", NONE, |i| {
            i.collection.name = "other".into();
            i.collection.split = "dev".into();
            i.collection.notes.empty_documents = 3;
            i.examples.name = "other".into();
            i.examples.notes.clear();
        }),
        change("how much is done at a time", NONE, |i| {
            (i.retrieve.queries, i.retrieve.pairs, i.token_bytes) = (1, 1, 1);
        }),
        change("a sample of all triplets", NONE, |i| triplets(i).sample = 3),
        change("the category of a triplet", NONE, |i| {
            triplets(i).all[0].category = Category::Negation;
        }),
    ]
}

#[test]
fn ids_cover_exactly_what_numbers_depend_on() {
    let before = Inputs::new().configs();
    let mut seen = [(); 3].map(|()| BTreeSet::new());
    for (what, stages, change) in changes() {
        let mut inputs = Inputs::new();
        change(&mut inputs);
        let after = inputs.configs();
        for (i, changed) in stages.into_iter().enumerate() {
            let [old, new] = [&before[i], &after[i]];
            assert_eq!(
                results::id(old) != results::id(new),
                changed,
                "{what}: {}",
                old["stage"]
            );
            let (old, new) = (leaves(old), leaves(new));
            let paths = old.keys().chain(new.keys());
            seen[i].extend(paths.filter(|p| old.get(*p) != new.get(*p)).cloned());
        }
    }
    for (config, mut seen) in before.iter().zip(seen) {
        // Another device is needed to see this one change.
        seen.extend(["/stage", "/precision"].map(String::from));
        for (path, _) in leaves(config) {
            assert!(
                seen.contains(&path),
                "no input changes {path} of {}",
                config["stage"]
            );
        }
    }
    // More triplets than there are is as many as there are.
    let mut inputs = Inputs::new();
    inputs.triplets.as_mut().unwrap().sample = 4;
    let all = inputs.configs();
    let mut inputs = Inputs::new();
    inputs.triplets.as_mut().unwrap().sample = 5000;
    assert_eq!(inputs.configs(), all);
}

#[test]
fn what_no_verifier_reads_is_in_no_id() {
    let configs = |verifiers: &[&'static str], change: fn(&mut Inputs)| {
        let mut inputs = Inputs::new();
        inputs.verifiers = verifiers.to_vec();
        change(&mut inputs);
        inputs.configs()
    };
    let penalty = |i: &mut Inputs| i.penalty.weight = 0.1;
    let length = |i: &mut Inputs| i.verifier_length = 11;
    assert_eq!(configs(&["f1"], penalty), configs(&["f1"], |_| {}));
    assert_eq!(configs(&[], length)[0], configs(&[], |_| {})[0]);
}

#[test]
fn every_value_of_a_configuration_is_in_its_id() {
    for config in Inputs::new().configs() {
        let mut ids = BTreeSet::from([results::id(&config)]);
        let paths = leaves(&config);
        for (path, value) in &paths {
            let mut other = config.clone();
            let place = other.pointer_mut(path).unwrap();
            *place = match value {
                Value::String(text) => json!(format!("{text}x")),
                Value::Number(n) => json!(n.as_f64().unwrap() + 1.0),
                _ => json!("something"),
            };
            assert!(ids.insert(results::id(&other)), "{path}");
        }
        assert!(paths.len() > 15);
    }
}

/// The files of a folder, with their contents, but for times.
fn files(out: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(out).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(out).unwrap().to_path_buf();
            if !name.ends_with("times.json") {
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

fn run(inputs: Inputs) -> BTreeMap<PathBuf, String> {
    let out = tempfile::tempdir().unwrap();
    let session = inputs.session(out.path());
    let (retrieve, near_miss, geometry) = inputs.stages();
    let mut plan = Plan::default();
    plan.push(retrieve);
    plan.push(near_miss);
    plan.push(geometry);
    let (mut shown, mut found) = (String::new(), Vec::new());
    plan.run(&session, |told| {
        match told {
            Told::Numbers(numbers) => found.push(numbers),
            Told::Tables(text) => shown.push_str(text),
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(found.len(), 3);
    for title in [
        "# Retrieval on",
        "# Near-misses of",
        "# Geometry",
        "Every table:",
    ] {
        assert!(shown.contains(title), "{title}");
    }
    let files = files(out.path());
    for folder in plan.folders(&session) {
        assert!(files.contains_key(&Path::new(&folder).join("metrics.json")));
    }
    files
}

#[test]
fn sizes_that_save_memory_change_nothing_and_provenance_stands_beside() {
    let whole = run(Inputs::new());
    assert_eq!(whole.len(), 3 * 5);
    let mut inputs = Inputs::new();
    // Pairs are scored one after the other, texts are encoded in pairs.
    (inputs.retrieve.queries, inputs.retrieve.pairs) = (4, 7);
    inputs.token_bytes = 1;
    let pieces = run(inputs);
    assert_eq!(
        whole.keys().collect::<Vec<_>>(),
        pieces.keys().collect::<Vec<_>>()
    );
    for (name, content) in &whole {
        let other = &pieces[name];
        if name.ends_with("provenance.json") {
            // The model lies in another folder.
            let [a, b] = [content, other].map(|text| -> Value {
                let mut value: Value = serde_json::from_str(text).unwrap();
                value["backbone"]["folder"].take();
                value
            });
            assert_eq!(a, b);
            let config = &whole[&name.with_file_name("config.json")];
            let values = leaves(&serde_json::from_str(config).unwrap());
            for path in ["/version", "/device", "/system", "/backbone/name"] {
                let value = a.pointer(path).unwrap();
                assert!(values.values().all(|v| v != value), "{path} is in {config}");
            }
        } else {
            assert!(content == other, "{}", name.display());
        }
    }
}
