//! `f3` and `f4` on the CPU beside PyTorch's numbers.

use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::*;
use crate::model::checkpoint::Tensor;
use crate::ops::PackedTexts;

/// The golden file.
struct Golden(Vec<u8>);

impl Golden {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        Golden(std::fs::read(folder.join("verifiers.safetensors")).unwrap())
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn get(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        let number = |b: &[u8]| match tensor.dtype() {
            Dtype::F16 => f16::from_le_bytes(b.try_into().unwrap()).to_f64(),
            Dtype::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
            Dtype::F64 => f64::from_le_bytes(b.try_into().unwrap()),
            Dtype::U32 => f64::from(u32::from_le_bytes(b.try_into().unwrap())),
            other => panic!("{name}: {other:?}"),
        };
        let size = tensor.dtype().bitsize() / 8;
        tensor.data().chunks_exact(size).map(number).collect()
    }

    /// A verifier with the weights of the file.
    fn verifier(&self, kind: Kind, device: &Device) -> Learned {
        let (tensors, body, objective) = tensors(kind, 64, [16, 32, 16]);
        let read = |name: &str| -> Vec<f32> {
            let values = self.get(&format!("{}.param.{name}", kind.name()));
            values.into_iter().map(|v| v as f32).collect()
        };
        let parameters = Parameters::fill(tensors, device, |tensor| {
            Ok(match &tensor.name[..] {
                "objective.scale" => vec![OBJECTIVE[0]],
                "objective.bias" => vec![OBJECTIVE[1]],
                name => read(name),
            })
        });
        if let Body::Cnn(_, running) = &body {
            let mut running = lock(running);
            for (name, values) in Running::NAMES
                .as_flattened()
                .iter()
                .zip(running.0.as_flattened_mut())
            {
                *values = read(name);
            }
        }
        Learned::new(kind, 64, device, parameters.unwrap(), body, objective)
    }

    /// The texts of both sides as one list, and the pairs in it.
    fn texts(&self, device: &Device) -> (TrainingTokens, PairList) {
        let mut rows = self.get("queries");
        rows.extend(self.get("documents"));
        let rows: Vec<f32> = rows.into_iter().map(|v| v as f32).collect();
        let mut offsets: Vec<u32> = self
            .get("queries_offsets")
            .iter()
            .map(|&v| v as u32)
            .collect();
        let (n, t) = (offsets.len() as u32 - 1, offsets[offsets.len() - 1]);
        let documents = self.get("documents_offsets");
        offsets.extend(documents[1..].iter().map(|&v| v as u32 + t));
        let packing = PackedTexts::new(device, offsets).unwrap();
        let tokens = TrainingTokens::new(device.upload(&rows).unwrap(), packing, 64).unwrap();
        let pairs = self.get("pairs");
        let pairs = pairs
            .chunks_exact(2)
            .map(|p| [p[0] as u32, n + p[1] as u32]);
        (tokens, PairList::new(device, pairs.collect()).unwrap())
    }
}

/// How far two lists are from each other, over the length of the second.
fn relative(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let off = length(&mut got.iter().zip(want).map(|(a, b)| a - b));
    off / length(&mut want.iter().copied())
}

fn values(tensor: &Tensor<'_>) -> Vec<f64> {
    tensor
        .to_f32()
        .unwrap()
        .into_iter()
        .map(f64::from)
        .collect()
}

/// Holds logits, gradients in every weight and those in the tokens to the file's. F3 in f32 has kinks: a value that ReLU
/// or a maximum decides otherwise moves a gradient by its share.
fn compare(golden: &Golden, verifier: &Learned, prefix: &str, count: usize, mode: Mode<'_>) {
    let cpu = verifier.device.clone();
    let (tokens, pairs) = golden.texts(&cpu);
    let pairs = PairList::new(&cpu, pairs.pairs()[..count].to_vec()).unwrap();
    let (raw, saved) = verifier.forward(&tokens, &pairs, mode, None, true).unwrap();
    let raw: Vec<f64> = raw.into_iter().map(f64::from).collect();
    let off = relative(&raw, &golden.get(&format!("{prefix}.logits")));
    assert!(off < 1e-5, "{prefix}: {off}");

    let weights = golden.get("weights");
    let d_raw: Vec<f32> = weights[..count].iter().map(|&v| v as f32).collect();
    let mut gradients = Gradients::zeros(verifier.weights().table().clone(), &cpu).unwrap();
    let mut d_tokens = TokenGradient::new(&tokens);
    verifier
        .backward(
            &tokens,
            &pairs,
            saved,
            &d_raw,
            &mut gradients,
            Some(&mut d_tokens),
        )
        .unwrap();
    for (name, got) in verifier.weights().of_like(&gradients).unwrap() {
        // A bias before a norm over the batch has no effect.
        if name.starts_with("objective") || name.starts_with("conv") && name.ends_with("bias") {
            continue;
        }
        let want = golden.get(&format!("{prefix}.grad.{name}"));
        let off = relative(&values(&got), &want);
        println!("{prefix} {name} {off:e}");
        assert!(off < 1e-4, "{prefix} {name}: {off}");
    }
    let d_hidden = d_tokens.finish(&tokens).unwrap().read().unwrap();
    // The file has every ninth element of either side.
    let (queries, documents) = d_hidden.split_at(golden.get("queries").len());
    let ninth = |side: &[f32]| -> Vec<f64> { side.iter().step_by(9).map(|&v| v.into()).collect() };
    let got = [ninth(queries), ninth(documents)].concat();
    let mut want = golden.get(&format!("{prefix}.grad_queries"));
    want.extend(golden.get(&format!("{prefix}.grad_documents")));
    let off = relative(&got, &want);
    println!("{prefix} tokens {off:e}");
    assert!(off < 1e-4, "{prefix} tokens: {off}");
}

#[test]
fn scores_and_gradients_of_f4_are_pytorchs() {
    let (golden, cpu) = (Golden::open(), Device::cpu());
    let verifier = golden.verifier(Kind::Transformer, &cpu);
    compare(&golden, &verifier, "f4", 10, Mode::Eval);
}

#[test]
fn scores_and_gradients_of_f3_are_pytorchs() {
    let (golden, cpu) = (Golden::open(), Device::cpu());
    let training = Mode::Training {
        masks: None,
        note: true,
    };
    for (prefix, count) in [("f3.corrected", 10), ("f3.paper", 8)] {
        let verifier = golden.verifier(Kind::Cnn, &cpu).with_padding(count == 8);
        let (tokens, pairs) = golden.texts(&cpu);
        let pairs = PairList::new(&cpu, pairs.pairs()[..count].to_vec()).unwrap();
        let (raw, _) = verifier
            .forward(&tokens, &pairs, Mode::Eval, None, false)
            .unwrap();
        let raw: Vec<f64> = raw.into_iter().map(f64::from).collect();
        let off = relative(&raw, &golden.get(&format!("{prefix}.eval_logits")));
        assert!(off < 1e-5, "{prefix}: {off}");
        compare(&golden, &verifier, prefix, count, training);
        for (name, tensor) in verifier.tensors().unwrap() {
            if name.contains("running") {
                let want = golden.get(&format!("{prefix}.after.{name}"));
                let off = relative(&values(&tensor), &want);
                assert!(off < 1e-6, "{prefix} {name}: {off}");
            }
        }
    }
}

/// What a padded score depends on is the longest of its 32, in however many parts memory has them scored.
#[test]
fn padding_is_that_of_32_pairs() {
    let cpu = Device::cpu();
    let padded = Learned::start(Kind::Cnn, 64, 1, &cpu)
        .unwrap()
        .with_padding(true);
    // 60 tokens a side; the last of the first 32 pairs has 80 beside 90.
    let lengths = |text: u32| match text {
        62 => 80,
        63 => 90,
        _ => 60,
    };
    let offsets: Vec<u32> = (0..=66).map(|text| (0..text).map(lengths).sum()).collect();
    let n = *offsets.last().unwrap() as usize;
    let mut stream = crate::random::Stream::new(3, &["padding"], 0);
    let rows: Vec<f32> = (0..64 * n)
        .map(|_| stream.below(2000) as f32 / 1000.0 - 1.0)
        .collect();
    let vectors = TokenVectors::from_rows(&cpu, &rows, 64, offsets.clone()).unwrap();
    let pairs: Vec<[u32; 2]> = (0..33).map(|i| [2 * i, 2 * i + 1]).collect();
    assert!(
        16 * padded.pair_bytes(60, 60) > AT_ONCE,
        "all at once: nothing is tested"
    );
    let list = PairList::new(&cpu, pairs.clone()).unwrap();
    let scores = padded.score(&vectors, &vectors, &list).unwrap();
    let packing = PackedTexts::new(&cpu, offsets).unwrap();
    let tokens = TrainingTokens::new(cpu.upload(&rows).unwrap(), packing, 64).unwrap();
    let alone = |pair: usize, padding| -> f32 {
        let list = PairList::new(&cpu, vec![pairs[pair]]).unwrap();
        let (raw, _) = padded
            .forward(&tokens, &list, Mode::Eval, Some(padding), false)
            .unwrap();
        padded.score_of(raw[0]) as f32
    };
    for (pair, padding) in [
        (0, [80, 90]),
        (20, [80, 90]),
        (31, [80, 90]),
        (32, [60, 60]),
    ] {
        let want = alone(pair, padding);
        assert!(
            (scores[pair] - want).abs() < 1e-5,
            "{pair}: {} {want}",
            scores[pair]
        );
    }
    assert!(
        (scores[0] - alone(0, [60, 60])).abs() > 1e-4,
        "padding makes no difference"
    );
}

#[test]
fn contributions_are_slopes_times_cosines() {
    let (golden, cpu) = (Golden::open(), Device::cpu());
    let side = |name: &str| {
        let numbers = |name: &str| golden.get(name).into_iter();
        let rows: Vec<f32> = numbers(name).map(|v| v as f32).collect();
        let offsets = numbers(&format!("{name}_offsets")).map(|v| v as u32);
        TokenVectors::from_rows(&cpu, &rows, 64, offsets.collect()).unwrap()
    };
    let (queries, documents) = (side("queries"), side("documents"));
    let pairs = golden.get("pairs");
    let pairs = pairs.chunks_exact(2).map(|p| [p[0] as u32, p[1] as u32]);
    let options = VerifierOptions::default();
    for pair in pairs.take(4) {
        let list = PairList::new(&cpu, vec![pair]).unwrap();
        let (q, c) = (queries.tokens(), documents.tokens());
        let layout = MapLayout::new(&cpu, q.packing, c.packing, &list).unwrap();
        for kind in Kind::ALL {
            let verifier = match kind {
                Kind::Cnn | Kind::Transformer => golden.verifier(kind, &cpu),
                _ => Learned::start(kind, 64, 1, &cpu).unwrap(),
            };
            let found = verifier.contributions(&queries, &documents, pair);
            let Some(Contributions { map, values }) = found.unwrap() else {
                assert_eq!(kind, Kind::MeanCosine);
                continue;
            };
            let score = verifier.score(&queries, &documents, &list).unwrap()[0];
            let raw = |map: &[f32]| -> f64 {
                let map = cpu.upload(map).unwrap();
                let (raw, _) = verifier
                    .over_maps(&layout, &map, Mode::Eval, None, false)
                    .unwrap();
                f64::from(raw[0])
            };
            match kind {
                // Homogeneous in the cosines: their contributions are all that there is.
                Kind::BagOfSimilarities | Kind::MaxSim => {
                    let sum: f32 = values.iter().sum();
                    assert!((sum - score).abs() < 1e-4, "{kind}: {sum} {score}");
                    let most = values.iter().filter(|v| **v != 0.0).count();
                    let rows = layout.shapes()[0][0] as usize;
                    assert!(kind != Kind::MaxSim || most <= rows, "{most} {rows}");
                }
                Kind::Cnn | Kind::Transformer => {
                    assert!((verifier.score_of(raw(&map) as f32) as f32 - score).abs() < 1e-5);
                    let slopes: Vec<f64> = (values.iter().zip(&map))
                        .map(|(value, cosine)| f64::from(value / cosine))
                        .collect();
                    let length = slopes.iter().map(|s| s * s).sum::<f64>().sqrt();
                    // Between corners, of which f3 has many.
                    let most_off = if kind == Kind::Cnn { 0.1 } else { 0.02 };
                    // Along the gradient by this much in all: little, for a row or column may get another maximum.
                    let step = 0.002;
                    let moved = |sign: f64| -> Vec<f32> {
                        let by = |(cosine, slope): (&f32, &f64)| {
                            (f64::from(*cosine) + sign * step * slope / length) as f32
                        };
                        map.iter().zip(&slopes).map(by).collect()
                    };
                    let rise = (raw(&moved(1.0)) - raw(&moved(-1.0))) / (2.0 * step);
                    println!("{kind} {pair:?} {rise} {length}");
                    assert!((rise / length - 1.0).abs() < most_off, "{rise} {length}");
                    // One cell by itself, the one that counts most.
                    let most = (0..slopes.len())
                        .max_by(|&a, &b| slopes[a].abs().total_cmp(&slopes[b].abs()));
                    let most = most.unwrap();
                    let cell = |by: f64| {
                        let mut map = map.clone();
                        map[most] = (f64::from(map[most]) + by) as f32;
                        raw(&map)
                    };
                    let rise = (cell(step) - cell(-step)) / (2.0 * step);
                    println!("{rise} {}", slopes[most]);
                    assert!(
                        (rise / slopes[most] - 1.0).abs() < most_off,
                        "{rise} {}",
                        slopes[most]
                    );
                }
                _ => {
                    let fixed = crate::verifier::open(kind.name(), &options, &cpu).unwrap();
                    assert_eq!(fixed.score(&queries, &documents, &list).unwrap()[0], score);
                    assert!(values.iter().any(|v| *v > 0.0));
                }
            }
        }
    }
}
