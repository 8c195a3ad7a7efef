//! The whole encoder against PyTorch: two tiny random BERTs whose hidden states, pooled vectors and embeddings were
//! computed in f64 by `tools/reference/tiny_bert.py`.
//!
//! The tolerance is measured, not chosen: the same forward pass is made of the operators' plain-loop references in f32,
//! with every tensor that the device stores in f16 rounded to f16, and a device may be at most twice as far from
//! PyTorch as that chain is (its sums are ordered otherwise), plus four units in the last place of the largest value.

mod common;
#[path = "common/needs.rs"]
mod needs;

use std::sync::Arc;

use common::{Tensors, golden};
use half::f16;
use nearmiss::device::{Buffer, DeviceKind, Float};
use nearmiss::encoder::{Encoder, LoadOptions, Saved, SavedPass, Stage, Stream};
use nearmiss::index::TokenVectors;
use nearmiss::model::checkpoint::Tensor;
use nearmiss::model::weights::{Table, Weights};
use nearmiss::model::{Checkpoint, ModelFolder};
use nearmiss::ops::pool::Pooling;
use nearmiss::ops::{attention, embedding, layer_norm, matmul, pool};
use nearmiss::text::{Batch, TextKind, pack};
use nearmiss::{Device, Error, Result};
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
    encoder.hidden_states(&batch, Some(&mut keep))?;
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
        layer_norm::reference::<f32, _>(x, residual, &weight, Some(&bias), config.layer_norm_eps)
    };
    let tables = ["word", "position", "token_type"]
        .map(|t| stored(&format!("embeddings.{t}_embeddings.weight")));
    let x =
        embedding::reference::<f32, _>([&tables[0], &tables[1], &tables[2]], &ids, &positions, d);
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
            rounded(matmul::reference::<f32, _>(
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
    let pooling = encoder.pooling().unwrap();
    Stages {
        embeddings: pool::reference::<f32, _>(&h, &offsets, pooling.pooling, pooling.normalize, d),
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
        let pooling = encoder.pooling().unwrap();
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

fn hidden_states_and_embeddings_match_pytorch(device: Device) {
    for model in MODELS {
        let expected = expected(model);
        let truth = Tensors::read(&golden(model).join("expected.safetensors"));
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

fn an_encoder_opens_by_name_or_folder() {
    let cpu = Device::cpu();
    let folder = golden(MODELS[0]);
    let opened = Encoder::from_name(folder.to_str().unwrap(), &cpu).unwrap();
    assert_eq!(
        opened.embed(&["the dog"], TextKind::Document).unwrap(),
        encoder_of(MODELS[0])
            .embed(&["the dog"], TextKind::Document)
            .unwrap()
    );
    let error = Encoder::from_name("no-such-model", &cpu).err().unwrap();
    assert!(
        matches!(error, Error::Usage(_)) && error.to_string().contains("all-MiniLM-L6-v2"),
        "{error}"
    );
}

/// With `NEARMISS_WRITTEN_MODELS` the written folders are left there, for `tools/reference/model_folder.py`.
fn written_folders_are_the_models_that_were_read() {
    let scratch = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("NEARMISS_WRITTEN_MODELS").map(std::path::PathBuf::from);
    for model in MODELS {
        let to = kept.as_deref().unwrap_or(scratch.path()).join(model);
        let checkpoint = Checkpoint::open(&golden(model)).unwrap();
        let folder = ModelFolder::read(&golden(model)).unwrap();
        let table = Arc::new(Table::new(folder.config()));
        let master = Weights::<f32>::load(table, &checkpoint, &Device::cpu()).unwrap();
        let tensors = master.tensors(&checkpoint).unwrap();
        folder.write(&to, tensors, checkpoint.notes()).unwrap();
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

fn a_device_that_runs_out_of_memory_gets_smaller_batches(device: Device) {
    let model = MODELS[0];
    let texts: Vec<String> = (0..40)
        .map(|i| format!("text number {i} of many"))
        .collect();
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

/// Twelve texts of several lengths, one of them empty.
fn twelve() -> Vec<String> {
    (0..12)
        .map(|i| ["the dog ", "bites "][i % 2].repeat((1 + i * 5 % 7) * usize::from(i != 4)))
        .collect()
}

fn windows_change_nothing(device: Device) {
    // Every text a batch of its own, so that all sums have one order whatever the windows are.
    let options = LoadOptions {
        token_budget: Some(1),
        ..Default::default()
    };
    let texts = twelve();
    let load = || Encoder::load(&golden(MODELS[1]), &device, options).unwrap();
    let (whole, d) = (load(), load().width());
    let want = whole.embed(&texts, TextKind::Document).unwrap();
    let (mut firsts, mut got) = (Vec::new(), Vec::new());
    let stats = load()
        .with_window(5)
        .encode(
            &texts,
            TextKind::Document,
            |first, rows| {
                assert_eq!(got.len(), first * d);
                firsts.push(first);
                got.extend_from_slice(rows);
                Ok(())
            },
            |_, _| {},
        )
        .unwrap();
    assert_eq!(firsts, [0, 5, 10]);
    assert!(got == want, "embeddings on {}", device.name());
    assert_eq!((stats.texts, stats.empty), (12, 1));

    // Token vectors, cut at five tokens: lengths, rows and averages.
    let pieces = |encoder: &Encoder| {
        let (mut lengths, mut pooled) = (Vec::new(), Vec::new());
        let (mut n, mut rows, mut means) = (0, Vec::new(), Vec::new());
        let keep = |first: usize, vectors: TokenVectors, embeddings: &[f32]| {
            assert_eq!(lengths.len(), first);
            n += 1;
            let tokens = vectors.tokens();
            lengths.extend(tokens.packing.offsets().windows(2).map(|w| w[1] - w[0]));
            rows.extend(tokens.rows.read()?);
            means.extend(vectors.means().read()?);
            pooled.extend_from_slice(embeddings);
            Ok(())
        };
        let stats = encoder
            .encode_tokens(&texts, TextKind::Document, Some(5), keep, |_, _| {})
            .unwrap();
        rows.extend(means);
        (n, stats, lengths, rows, pooled)
    };
    let (one, stats, lengths, rows, pooled) = pieces(&whole);
    assert_eq!(one, 1);
    assert!(lengths.iter().all(|&l| l <= 5) && stats.truncated > 0);
    let got = pieces(&load().with_window(5));
    assert!(
        got == (3, stats, lengths, rows, pooled),
        "token vectors on {}",
        device.name()
    );
}

fn a_text_that_fails_is_named_by_its_place_among_all() {
    // A word whose row of the table overflows in the first norm.
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("model");
    let model = golden(MODELS[0]);
    let weights = Checkpoint::open(&model).unwrap();
    let encoder = encoder_of(MODELS[0]);
    let id = encoder.tokenizer().encode_batch(&["door"]).unwrap().ids[0][1] as usize;
    let d = encoder.width();
    let tensors = weights.tensors().map(|(name, tensor)| {
        if name != "embeddings.word_embeddings.weight" {
            return (name, tensor);
        }
        let mut values = tensor.to_f32().unwrap();
        values[id * d..][..d].fill(f32::MAX);
        let tensor = Tensor::from_f32(&values, tensor.dtype, tensor.shape).unwrap();
        (name, tensor)
    });
    (ModelFolder::read(&model).unwrap())
        .write(&to, tensors, weights.notes())
        .unwrap();
    let encoder = Encoder::load(&to, &Device::cpu(), LoadOptions::default()).unwrap();
    let mut texts = twelve();
    for window in [3, 2048] {
        let encoder = Encoder::load(&to, encoder.device(), LoadOptions::default())
            .unwrap()
            .with_window(window);
        texts[7] = "the dog".into();
        encoder.embed(&texts, TextKind::Document).unwrap();
        texts[7] = "the door".into();
        let embedded = encoder.embed(&texts, TextKind::Document).unwrap_err();
        let ignore = |_: usize, _: TokenVectors, _: &[f32]| Ok(());
        let vectors = encoder
            .encode_tokens(&texts, TextKind::Document, None, ignore, |_, _| {})
            .unwrap_err();
        for error in [embedded, vectors] {
            assert!(matches!(error, Error::Text { index: 7, .. }), "{error}");
        }
    }
}

/// Everything that a forward pass saves is what the operators' references make of what was saved before it.
fn saved_activations_are_those_of_the_pass(device: Device) {
    for model in MODELS {
        let expected = expected(model);
        let tokens: Vec<Vec<u32>> = expected.texts.iter().map(|t| t.token_ids.clone()).collect();
        let batch = pack(&tokens, &(0..tokens.len()).collect::<Vec<_>>());
        let encoder = Encoder::load(&golden(model), &device, LoadOptions::default()).unwrap();
        encoder.set_graphs(0);
        device.reset_memory_peak();
        let before = device.memory().in_use;
        let plain = {
            let (hidden, _) = encoder.hidden_states(&batch, None).unwrap();
            hidden.read().unwrap()
        };
        assert_eq!(device.memory().in_use, before, "nothing is kept");
        let peak = device.memory().peak;
        let pass = encoder.training_pass(&batch, None).unwrap();
        assert!(device.memory().peak > peak, "inference needs less");
        let hidden = pass.hidden.read().unwrap();
        assert!(hidden == plain, "the bits of a plain pass");
        match pass.saved {
            Saved::F32(saved) => check_saved(model, &encoder, &batch, &saved, &plain, |v| v),
            Saved::Mixed(saved) => {
                let round = |v| f16::from_f32(v).to_f32();
                check_saved(model, &encoder, &batch, &saved, &plain, round);
            }
        }
    }
}

/// As golden values are stored.
fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|v| v as f32).collect()
}

fn check_saved<A: Float>(
    model: &str,
    encoder: &Encoder,
    batch: &Batch,
    saved: &SavedPass<A>,
    output: &[f32],
    round: fn(f32) -> f32,
) {
    let weights = Tensors::read(&golden(model).join("model.safetensors"));
    let stored = |name: String| -> Vec<f32> { weights.get(&name).into_iter().map(round).collect() };
    let config = encoder.config();
    let (d, heads, width) = (config.d_model, config.n_heads, config.head_dim());
    let act = |stream: &Stream| match &stream.rounded {
        Some(rounded) => rounded.read().unwrap().iter().map(|v| v.to_f32()).collect(),
        None => stream.h.read().unwrap(),
    };
    let values = |buffer: &Buffer<A>| -> Vec<f32> {
        let read = buffer.read().unwrap();
        read.into_iter().map(A::to_f32).collect()
    };
    let same = |what: &str, got: &[f32], single: Vec<f32>, double: Vec<f64>| {
        let rounded: Vec<f32> = single.into_iter().map(round).collect();
        let what = format!("{model} on {}: {what}", encoder.device().name());
        hold(&what, got, &rounded, &narrow(double));
    };
    assert_eq!(saved.layers.len(), config.n_layers);
    for (i, layer) in saved.layers.iter().enumerate() {
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        let linear = |what: &str, x: &[f32], got: &[f32], parts: &[&str], gelu: bool| {
            let part = |end: &str, rounded: bool| -> Vec<f32> {
                let names = parts.iter().map(|p| name(&format!("{p}.{end}")));
                names
                    .flat_map(|n| if rounded { stored(n) } else { weights.get(&n) })
                    .collect()
            };
            let (w, bias) = (part("weight", true), part("bias", false));
            let n = bias.len();
            let single = matmul::reference::<f32, _>(x, &w, Some(&bias), gelu, None, n);
            let double = matmul::reference::<f64, _>(x, &w, Some(&bias), gelu, None, n);
            same(&format!("{what} {i}"), got, single, double);
        };
        let qkv = values(&layer.attention.qkv);
        let [q, k, v] = ["query", "key", "value"].map(|part| format!("attention.self.{part}"));
        linear("qkv", &act(&layer.input), &qkv, &[&q, &k, &v], false);
        let context = values(&layer.attention.context);
        same(
            &format!("context {i}"),
            &context,
            attention::reference::<f32>(&qkv, &batch.offsets, heads, width),
            attention::reference::<f64>(&qkv, &batch.offsets, heads, width),
        );
        let branch = values(&layer.attention.branch);
        linear(
            "attended",
            &context,
            &branch,
            &["attention.output.dense"],
            false,
        );
        let inner = values(&layer.feed_forward.inner);
        let before = values(&layer.feed_forward.before_gelu);
        for (what, got, gelu) in [("before GELU", &before, false), ("inner", &inner, true)] {
            let input = act(&layer.middle);
            linear(what, &input, got, &["intermediate.dense"], gelu);
        }
        let outer = values(&layer.feed_forward.branch);
        linear("outer", &inner, &outer, &["output.dense"], false);
        let output = match saved.layers.get(i + 1) {
            Some(next) => next.input.h.read().unwrap(),
            None => output.to_vec(),
        };
        let (input, middle) = (
            layer.input.h.read().unwrap(),
            layer.middle.h.read().unwrap(),
        );
        for (what, x, residual, got) in [
            ("attention.output.LayerNorm", &input, &branch, &middle),
            ("output.LayerNorm", &middle, &outer, &output),
        ] {
            let [weight, bias] =
                ["weight", "bias"].map(|v| weights.get(&name(&format!("{what}.{v}"))));
            let eps = config.layer_norm_eps;
            let single =
                layer_norm::reference::<f32, _>(x, Some(residual), &weight, Some(&bias), eps);
            let double =
                layer_norm::reference::<f64, _>(x, Some(residual), &weight, Some(&bias), eps);
            hold(
                &format!("{model}: {what} {i}"),
                got,
                &single,
                &narrow(double),
            );
        }
    }
    // The first stream is the norm of the sum of the tables.
    let embedded = saved.embedded.read().unwrap();
    let [weight, bias] =
        ["weight", "bias"].map(|v| weights.get(&format!("embeddings.LayerNorm.{v}")));
    let eps = config.layer_norm_eps;
    let first = saved.layers[0].input.h.read().unwrap();
    let single = layer_norm::reference::<f32, _>(&embedded, None, &weight, Some(&bias), eps);
    let double = layer_norm::reference::<f64, _>(&embedded, None, &weight, Some(&bias), eps);
    hold(
        &format!("{model}: embeddings.LayerNorm"),
        &first,
        &single,
        &narrow(double),
    );
    assert_eq!(first.len(), batch.n_tokens() * d);
}

fn encoder_of(model: &str) -> Encoder {
    Encoder::load(&golden(model), &Device::cpu(), LoadOptions::default()).unwrap()
}

fn alone_equals_in_a_batch_and_twice_equals_once(device: Device) {
    for model in MODELS {
        let expected = expected(model);
        let texts: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
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

fn main() {
    let mut tests = needs::Tests::default();
    needs::add!(tests:
        token_ids_limits_and_pooling_are_those_of_transformers,
        a_damaged_weight_is_noticed,
        an_encoder_opens_by_name_or_folder,
        written_folders_are_the_models_that_were_read,
        a_text_that_fails_is_named_by_its_place_among_all,
    );
    for device in &needs::devices() {
        needs::add!(tests, device =>
            hidden_states_and_embeddings_match_pytorch,
            a_device_that_runs_out_of_memory_gets_smaller_batches,
            alone_equals_in_a_batch_and_twice_equals_once,
            windows_change_nothing,
            saved_activations_are_those_of_the_pass,
        );
    }
    tests.run()
}
