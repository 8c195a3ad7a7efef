//! `encode`: the whole encoder, from texts to embeddings (tokenisation included) and from token ids on.
//!
//! Texts are drawn from the words that the model's vocabulary has as one token, so that every text has exactly the
//! length in the name. The check compares embeddings of a batch with those of the same texts encoded one by one on the
//! CPU in f32: neither the neighbours in a batch nor the device may matter.
//!
//! The bound on the distance of two embeddings, relative to their length: each layer stores eight activations (q k v,
//! attention and its projection, two of the feed-forward part, two norms) with a relative error of at most one rounding to
//! the storage type, and its longest sum has `d_ff` terms; errors are added up in the norm, to first order, taking
//! the layers as not amplifying (each ends in a layer norm). The weights' own rounding counts as one more per layer's
//! four products.

use std::path::{Path, PathBuf};

use nearmiss::device::{Device, DeviceKind};
use nearmiss::encoder::{Encoder, LoadOptions};
use nearmiss::model::BertConfig;
use nearmiss::ops::{self, Rounding, pool};
use nearmiss::text::{Batch, TextKind, Tokenizer, pack, plan_batches};
use nearmiss::{Error, Result};

use super::{Case, Context, Prepared, Recorded, Scale, bits, json, sample};

/// Lengths in tokens, special ones included.
const LENGTHS: [usize; 2] = [20, 128];

/// Tokens of a query of eight words.
const QUERY: usize = 10;

/// Tokens of a batch of the cases that begin with token ids.
fn batch_tokens(scale: Scale) -> usize {
    match scale {
        Scale::Quick => 100,
        Scale::Software => 256,
        Scale::Cpu => 2048,
        Scale::Gpu => 32_768,
    }
}

/// The cases, for the model folder given, or else for the tiny models of the tests where they are at hand.
///
/// # Errors
/// [`Error::Input`] if the folder given is no model folder.
pub fn cases(context: &Context) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (folder, name) in models(context)? {
        let limit = Tokenizer::load(&folder, None)?.max_length();
        let mut lengths = LENGTHS.map(|l| l.min(limit)).to_vec();
        lengths.dedup();
        // Number of texts, their length, and whether from text on.
        let mut shapes = Vec::new();
        for &length in &lengths {
            let batch = (batch_tokens(context.scale) / length).max(1);
            // Several batches, so that batching and the pauses between batches count too.
            let many = match context.scale {
                Scale::Quick | Scale::Software => batch,
                Scale::Cpu | Scale::Gpu => 4 * batch,
            };
            shapes.extend([(many, length, true), (batch, length, false)]);
        }
        // What a single query waits for.
        match context.scale {
            Scale::Quick | Scale::Gpu => shapes.push((1, lengths[0], true)),
            Scale::Cpu => shapes.push((1, QUERY.min(limit), true)),
            Scale::Software => {}
        }
        if context.scale == Scale::Gpu {
            shapes.push((384, 64.min(limit), false));
        }
        for (count, length, from_text) in shapes {
            let folder = folder.clone();
            let from = if from_text { "text" } else { "ids" };
            cases.push(Case {
                op: "encode",
                shape: format!("{name}, {count} texts x {length} tokens, from {from}"),
                sizes: json!({"texts": count, "tokens": length, "from": from}),
                needs: ENCODER,
                prepare: Box::new(move |context| match from_text {
                    true => texts(context, &folder, count, length),
                    false => ids(context, &folder, count, length),
                }),
            });
        }
    }
    Ok(cases)
}

/// The operators of an encoder.
const ENCODER: &[&nearmiss::ops::OpSpec] = &[
    &ops::embedding::SPEC,
    &ops::layer_norm::SPEC,
    &ops::matmul::SPEC,
    &ops::attention::SPEC,
    &ops::pool::SPEC,
];

fn texts(context: &Context, folder: &Path, n: usize, length: usize) -> Result<Prepared> {
    let encoder = Encoder::load(folder, &context.device, LoadOptions::default())?;
    let texts = draw(
        folder,
        encoder.tokenizer(),
        encoder.config().vocab,
        n,
        length,
    )?;
    let got = encoder.embed(&texts, TextKind::Plain)?;
    let (checked, worst) = check(&encoder, folder, &texts, &got)?;
    Ok(Prepared {
        checked,
        worst,
        sets: 1,
        set_bytes: 0,
        recorded: Recorded::Nothing,
        items: (n as f64, "texts"),
        call: Box::new(move |_| encoder.embed(&texts, TextKind::Plain).map(drop)),
    })
}

fn ids(context: &Context, folder: &Path, n: usize, length: usize) -> Result<Prepared> {
    let encoder = Encoder::load(folder, &context.device, LoadOptions::default())?;
    let texts = draw(
        folder,
        encoder.tokenizer(),
        encoder.config().vocab,
        n,
        length,
    )?;
    let tokens = encoder.tokenizer().encode_batch(&texts)?;
    let order = plan_batches(&tokens.lengths(), usize::MAX, usize::MAX).concat();
    let batch: Batch = pack(&tokens.ids, &order);
    let (d, pooling) = (
        encoder.width(),
        encoder
            .pooling()
            .expect("backbones of the bench are pooled plainly"),
    );
    let mut out = context.device.alloc::<f32>(n * d)?;
    let mut run = move |read: bool| {
        let (h, packing) = encoder.hidden_states(&batch, None)?;
        pool(&h, &packing, pooling.pooling, pooling.normalize, &mut out)?;
        Ok::<_, Error>(if read { out.read()? } else { Vec::new() })
    };
    let packed = run(true)?;
    let mut got = vec![0f32; n * d];
    for (row, &text) in packed.chunks_exact(d).zip(&order) {
        got[text * d..][..d].copy_from_slice(row);
    }
    let again = Encoder::load(folder, &context.device, LoadOptions::default())?;
    let (checked, worst) = check(&again, folder, &texts, &got)?;
    Ok(Prepared {
        checked,
        worst,
        sets: 1,
        set_bytes: 0,
        recorded: Recorded::Nothing,
        items: ((n * length) as f64, "tokens"),
        call: Box::new(move |_| run(false).map(drop)),
    })
}

/// The model folders that whole encoders are measured with, and their names.
///
/// # Errors
/// [`Error::Input`] if the folder given is no model folder.
pub fn models(context: &Context) -> Result<Vec<(PathBuf, String)>> {
    let folders: Vec<PathBuf> = match &context.backbone {
        Some(folder) if folder.is_dir() => vec![folder.clone()],
        Some(folder) => {
            return Err(Error::input(
                folder,
                "not a folder; --backbone takes a model folder",
            ));
        }
        None => ["tiny-bert-2x64", "tiny-bert-3x96"]
            .map(|name| {
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("tests/golden")
                    .join(name)
            })
            .into_iter()
            .filter(|folder| folder.is_dir())
            .collect(),
    };
    let named = |folder: PathBuf| {
        let name = folder.file_name().unwrap_or(folder.as_os_str());
        let name = name.to_string_lossy().into_owned();
        (folder, name)
    };
    Ok(folders.into_iter().map(named).collect())
}

/// `n` texts of exactly `length` tokens.
///
/// # Errors
/// [`Error::Input`] for a vocabulary without plain words.
pub fn draw(
    folder: &Path,
    tokenizer: &Tokenizer,
    vocab: usize,
    n: usize,
    length: usize,
) -> Result<Vec<String>> {
    let plain = |word: &String| word.len() > 1 && word.chars().all(|c| c.is_ascii_lowercase());
    let words: Vec<String> = (0..vocab as u32)
        .filter_map(|id| tokenizer.token(id))
        .filter(plain)
        .collect();
    let special = tokenizer.n_special();
    let lengths = tokenizer.encode_batch(&words)?.lengths();
    let words: Vec<&String> = words
        .iter()
        .zip(lengths)
        .filter(|(_, l)| *l == special + 1)
        .map(|(w, _)| w)
        .collect();
    if words.is_empty() || length <= special {
        return Err(Error::input(
            folder,
            "its vocabulary has no plain words to make texts of",
        ));
    }
    let word = |i: usize| words[(bits(7, i as u64) % words.len() as u64) as usize].as_str();
    let per_text = length - special;
    let texts: Vec<String> = (0..n)
        .map(|text| {
            let parts: Vec<&str> = (0..per_text).map(|i| word(text * per_text + i)).collect();
            parts.join(" ")
        })
        .collect();
    match tokenizer
        .encode_batch(&texts)?
        .lengths()
        .iter()
        .find(|&&l| l != length)
    {
        Some(l) => Err(Error::input(
            folder,
            format!("a text meant to have {length} tokens has {l}"),
        )),
        None => Ok(texts),
    }
}

/// How far an embedding may be from that of the CPU, relative to its length.
pub fn bound(config: &BertConfig, kind: DeviceKind) -> f64 {
    let (ours, theirs) = (Rounding::of(kind), Rounding::of(DeviceKind::Cpu));
    let stored = if kind == DeviceKind::Cpu {
        0.0
    } else {
        ours.u16
    };
    let sums = ours.g(config.d_ff) + theirs.g(config.d_ff);
    config.n_layers as f64 * (8.0 * (sums + stored) + 4.0 * stored)
}

/// Embeddings compared, and the largest distance over its bound.
fn check(encoder: &Encoder, folder: &Path, texts: &[String], got: &[f32]) -> Result<(usize, f64)> {
    let cpu = Encoder::load(folder, &Device::cpu(), LoadOptions::default())?;
    let d = encoder.width();
    let bound = bound(encoder.config(), encoder.device().kind());
    let which = sample(texts.len());
    let mut worst = 0f64;
    for &text in &which {
        let want = cpu.embed(&texts[text..=text], TextKind::Plain)?;
        let (mut distance, mut length) = (0f64, 0f64);
        for (got, want) in got[text * d..][..d].iter().zip(&want) {
            distance += f64::from(got - want).powi(2);
            length += f64::from(*want).powi(2);
        }
        let ratio = (distance / length).sqrt() / bound;
        worst = if ratio.is_finite() {
            worst.max(ratio)
        } else {
            f64::INFINITY
        };
    }
    Ok((which.len() * d, worst))
}
