//! The whole encoder against PyTorch: two tiny random BERTs whose hidden states, pooled vectors and embeddings were
//! computed in f64 by `tools/reference/tiny_bert.py`.
//!
//! The tolerance is measured, not chosen: the same forward pass is made of the operators' plain-loop references in f32,
//! with every tensor that the device stores in f16 rounded to f16, and a device may be at most twice as far from
//! PyTorch as that chain is (its sums are ordered otherwise), plus four units in the last place of the largest value.

mod common;

use common::{Tensors, devices, golden};
use half::f16;
use nearmiss::device::DeviceKind;
use nearmiss::encoder::{Encoder, LoadOptions, Stage};
use nearmiss::model::{Checkpoint, ModelFolder};
use nearmiss::ops::pool::Pooling;
use nearmiss::ops::{attention, embedding, layer_norm, matmul, pool};
use nearmiss::text::{TextKind, pack};
use nearmiss::{Device, Result};
use safetensors::SafeTensors;
use serde::Deserialize;

const MODELS: [&str; 2] = ["tiny-bert-2x64", "tiny-bert-3x96"];

#[derive(Deserialize)]
struct Expected {
    max_seq_length: usize,
    pooling: String,
    normalize: bool,
    texts: Vec<ExpectedText>,
}

#[derive(Deserialize)]
struct ExpectedText {
    name: String,
    text: String,
    token_ids: Vec<u32>,
    truncated: bool,
}

fn expected(model: &str) -> Expected {
    let text = std::fs::read_to_string(golden(model).join("expected.json")).expect("committed");
    serde_json::from_str(&text).expect("made by tiny_bert.py")
}

/// What a forward pass gives: the residual stream after the embedding and after each layer, and the embeddings.
struct Stages {
    hidden: Vec<Vec<f32>>,
    embeddings: Vec<f32>,
}

/// The encoder on a device, over all texts in one packed batch.
fn on_device(encoder: &Encoder, expected: &Expected) -> Result<Stages> {
    let tokens: Vec<Vec<u32>> = expected.texts.iter().map(|t| t.token_ids.clone()).collect();
    let batch = pack(&tokens, &(0..tokens.len()).collect::<Vec<_>>());
    let mut hidden = Vec::new();
    let mut keep = |stage: Stage, h: &nearmiss::device::Buffer<f32>| {
        let place = match stage {
            Stage::Embedding => 0,
            Stage::Layer(i) => i + 1,
        };
        assert_eq!(place, hidden.len());
        hidden.push(h.read()?);
        Ok(())
    };
    encoder.token_vectors(&batch, Some(&mut keep))?;
    let texts: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
    Ok(Stages {
        hidden,
        embeddings: encoder.embed(&texts, TextKind::Document)?,
    })
}

/// The yardstick: references in f32, `round` applied wherever the device stores activations or weights.
fn yardstick(model: &str, encoder: &Encoder, expected: &Expected, round: fn(f32) -> f32) -> Stages {
    let weights = Tensors::read(&golden(model).join("model.safetensors"));
    let stored = |name: &str| -> Vec<f32> { weights.get(name).into_iter().map(round).collect() };
    let rounded = |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(round).collect() };
    let config = encoder.config();
    let d = config.d_model;
    let ids: Vec<u32> = expected
        .texts
        .iter()
        .flat_map(|t| t.token_ids.clone())
        .collect();
    let positions: Vec<u32> = expected
        .texts
        .iter()
        .flat_map(|t| 0..t.token_ids.len() as u32)
        .collect();
    let mut offsets = vec![0u32];
    for text in &expected.texts {
        offsets.push(offsets.last().expect("never empty") + text.token_ids.len() as u32);
    }
    let norm = |x: &[f32], residual: Option<&[f32]>, name: &str| {
        let (weight, bias) = (
            weights.get(&format!("{name}.weight")),
            weights.get(&format!("{name}.bias")),
        );
        layer_norm::reference::<f32>(x, residual, &weight, Some(&bias), config.layer_norm_eps)
    };
    let tables = ["word", "position", "token_type"]
        .map(|t| stored(&format!("embeddings.{t}_embeddings.weight")));
    let x = embedding::reference::<f32>([&tables[0], &tables[1], &tables[2]], &ids, &positions, d);
    let mut h = norm(&x, None, "embeddings.LayerNorm");
    let mut hidden = vec![h.clone()];
    for i in 0..config.n_layers {
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        let linear = |x: &[f32], names: &[String], n: usize, gelu: bool| {
            let part = |end: &str, f: &dyn Fn(&str) -> Vec<f32>| -> Vec<f32> {
                names
                    .iter()
                    .flat_map(|name| f(&format!("{name}.{end}")))
                    .collect()
            };
            let (weight, bias) = (
                part("weight", &|n| stored(n)),
                part("bias", &|n| weights.get(n)),
            );
            rounded(matmul::reference::<f32>(
                x,
                &weight,
                Some(&bias),
                gelu,
                None,
                n,
            ))
        };
        let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        let qkv = linear(&rounded(h.clone()), &qkv, 3 * d, false);
        let context = rounded(attention::reference::<f32>(
            &qkv,
            &offsets,
            config.n_heads,
            config.head_dim(),
        ));
        let attended = linear(&context, &[name("attention.output.dense")], d, false);
        h = norm(&h, Some(&attended), &name("attention.output.LayerNorm"));
        let inner = linear(
            &rounded(h.clone()),
            &[name("intermediate.dense")],
            config.d_ff,
            true,
        );
        let outer = linear(&inner, &[name("output.dense")], d, false);
        h = norm(&h, Some(&outer), &name("output.LayerNorm"));
        hidden.push(h.clone());
    }
    let pooling = encoder.pooling();
    Stages {
        embeddings: pool::reference::<f32>(&h, &offsets, pooling.pooling, pooling.normalize, d),
        hidden,
    }
}

fn largest_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(g, w)| f64::from(g - w).abs())
        .fold(
            0.0,
            |m, e| if e.is_nan() { f64::INFINITY } else { m.max(e) },
        )
}

fn hold(what: &str, got: &[f32], yardstick: &[f32], want: &[f32]) {
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let allowed = 2.0 * largest_error(yardstick, want) + 4.0 * f64::from(f32::EPSILON * scale);
    let error = largest_error(got, want);
    println!("{what}: error {error:.2e}, allowed {allowed:.2e}");
    assert!(
        error <= allowed,
        "{what}: error {error:.3e}, allowed {allowed:.3e}"
    );
}

#[test]
fn token_ids_limits_and_pooling_are_those_of_transformers() {
    for model in MODELS {
        let expected = expected(model);
        let encoder =
            Encoder::load(&golden(model), &Device::cpu(), LoadOptions::default()).unwrap();
        assert_eq!(
            encoder.tokenizer().max_length(),
            expected.max_seq_length,
            "{model}"
        );
        let pooling = encoder.pooling();
        assert_eq!(pooling.normalize, expected.normalize, "{model}");
        assert_eq!(
            pooling.pooling == Pooling::Mean,
            expected.pooling == "mean",
            "{model}"
        );
        let texts: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
        let tokenized = encoder.tokenizer().encode_batch(&texts).unwrap();
        for (text, ids) in expected.texts.iter().zip(&tokenized.ids) {
            assert_eq!(ids, &text.token_ids, "{model}: {}", text.name);
        }
        let cut = expected.texts.iter().filter(|t| t.truncated).count();
        assert_eq!(tokenized.n_truncated, cut, "{model}");
    }
}

#[test]
fn hidden_states_and_embeddings_match_pytorch() {
    for model in MODELS {
        let expected = expected(model);
        let truth = Tensors::read(&golden(model).join("expected.safetensors"));
        for device in devices() {
            let encoder = Encoder::load(&golden(model), &device, LoadOptions::default()).unwrap();
            let got = on_device(&encoder, &expected).unwrap();
            let round: fn(f32) -> f32 = match device.kind() {
                DeviceKind::Cpu => |v| v,
                _ => |v| f16::from_f32(v).to_f32(),
            };
            let yardstick = yardstick(model, &encoder, &expected, round);
            assert_eq!(got.hidden.len(), encoder.config().n_layers + 1);
            for (i, (got, yardstick)) in got.hidden.iter().zip(&yardstick.hidden).enumerate() {
                let what = format!("{model} on {}: hidden.{i}", device.name());
                hold(&what, got, yardstick, &truth.get(&format!("hidden.{i}")));
            }
            let what = format!("{model} on {}: embeddings", device.name());
            hold(
                &what,
                &got.embeddings,
                &yardstick.embeddings,
                &truth.get("embeddings"),
            );
        }
    }
}

/// With `NEARMISS_WRITTEN_MODELS` the written folders are left there, for `tools/reference/model_folder.py`.
#[test]
fn written_folders_are_the_models_that_were_read() {
    let scratch = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("NEARMISS_WRITTEN_MODELS").map(std::path::PathBuf::from);
    for model in MODELS {
        let to = kept.as_deref().unwrap_or(scratch.path()).join(model);
        let weights = Checkpoint::open(&golden(model)).unwrap();
        ModelFolder::read(&golden(model))
            .unwrap()
            .write(&to, weights.tensors(), weights.notes())
            .unwrap();
        let expected = expected(model);
        let texts: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
        let written = Encoder::load(&to, &Device::cpu(), LoadOptions::default()).unwrap();
        assert_eq!(
            written.embed(&texts, TextKind::Document).unwrap(),
            encoder_of(model).embed(&texts, TextKind::Document).unwrap(),
            "{model}"
        );
    }
}

#[test]
fn a_damaged_weight_is_noticed() {
    let model = MODELS[0];
    let expected = expected(model);
    let truth = Tensors::read(&golden(model).join("expected.safetensors"));
    let damaged = tempfile::tempdir().unwrap();
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ] {
        std::fs::copy(golden(model).join(file), damaged.path().join(file)).unwrap();
    }
    let mut bytes = std::fs::read(golden(model).join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    let weight = weights
        .tensor("encoder.layer.1.output.dense.weight")
        .unwrap();
    let at = weight.data().as_ptr() as usize - bytes.as_ptr() as usize;
    let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes[at..at + 4].copy_from_slice(&(value + 0.05).to_le_bytes());
    std::fs::write(damaged.path().join("model.safetensors"), &bytes).unwrap();
    let encoder = Encoder::load(damaged.path(), &Device::cpu(), LoadOptions::default()).unwrap();
    let got = on_device(&encoder, &expected).unwrap();
    let yardstick = yardstick(model, &encoder_of(model), &expected, |v| v);
    let want = truth.get("hidden.2");
    let allowed = 2.0 * largest_error(&yardstick.hidden[2], &want) + 1e-6;
    assert!(
        largest_error(&got.hidden[2], &want) > allowed,
        "one weight in {} went unnoticed",
        bytes.len() / 4
    );
}

#[test]
fn a_device_that_runs_out_of_memory_gets_smaller_batches() {
    let model = MODELS[0];
    let texts: Vec<String> = (0..40)
        .map(|i| format!("text number {i} of many"))
        .collect();
    for device in devices() {
        let encoder = Encoder::load(&golden(model), &device, LoadOptions::default()).unwrap();
        device.reset_memory_peak();
        let weights = device.memory().in_use;
        let whole = encoder.embed(&texts, TextKind::Document).unwrap();
        let needed = device.memory().peak - weights;
        // A quarter of what one batch took: two halvings.
        device.set_memory_limit(Some(weights + needed / 4));
        let halved = encoder.embed(&texts, TextKind::Document).unwrap();
        assert_eq!(halved.len(), whole.len());
        let error = largest_error(&halved, &whole);
        assert!(error < 0.01, "texts were exchanged: {error}");
        device.set_memory_limit(Some(weights + 64));
        let refused = encoder.embed(&texts, TextKind::Document).unwrap_err();
        let line = refused.to_string();
        assert!(
            line.contains("out of memory") && line.contains("bytes were asked for"),
            "{line}"
        );
        device.set_memory_limit(None);
        assert_eq!(encoder.embed(&texts, TextKind::Document).unwrap(), whole);
    }
}

fn encoder_of(model: &str) -> Encoder {
    Encoder::load(&golden(model), &Device::cpu(), LoadOptions::default()).unwrap()
}

#[test]
fn alone_equals_in_a_batch_and_twice_equals_once() {
    for model in MODELS {
        let expected = expected(model);
        let texts: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
        for device in devices() {
            let encoder = Encoder::load(&golden(model), &device, LoadOptions::default()).unwrap();
            let d = encoder.width();
            let together = encoder.embed(&texts, TextKind::Document).unwrap();
            assert_eq!(
                together,
                encoder.embed(&texts, TextKind::Document).unwrap(),
                "two runs differ"
            );
            let scale = together.iter().fold(0f32, |m, v| m.max(v.abs()));
            // Other neighbours mean other tile edges in the products, hence another order of the same sums: each
            // activation may round to the neighbouring number of the type it is stored in.
            let unit = if device.kind() == DeviceKind::Cpu {
                2f32.powi(-23)
            } else {
                2f32.powi(-10)
            };
            let allowed = 16.0 * unit * scale;
            for (i, text) in texts.iter().enumerate() {
                let alone = encoder.embed(&[text], TextKind::Document).unwrap();
                let error = largest_error(&alone, &together[i * d..(i + 1) * d]);
                assert!(
                    error <= f64::from(allowed),
                    "{model} text {i} on {}: {error:e}",
                    device.name()
                );
            }
        }
    }
}
