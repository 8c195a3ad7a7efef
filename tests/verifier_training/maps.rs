//! Scores of given token vectors, and gradients in them and in all parameters.

use std::sync::OnceLock;

use half::f16;
use nearmiss::Device;
use nearmiss::model::weights::Gradients;
use nearmiss::ops::Accum;
use nearmiss::verifier::Kind;
use nearmiss::verifier::learned::{Learned, Mode, PairMasks, TokenGradient};

use super::golden::{
    CHANNELS, TOKEN_STRIDE, Texts, file, gradients_of, learned, loss_scale, pair_list, pairs,
    precision, scorer, texts, weights,
};
use super::plain::{Fault, Form, How, Pass, Plain, Tensors, shapes};
use super::{Errors, direction, distance, length};

/// Of an f64 computation of a whole pass, forward and backward: a few thousand roundings of numbers that may be some
/// hundred times the result.
const SLACK: f64 = 1e-10;

/// How many pairs of the golden file make a batch, and whether maxima reach into its padding.
struct Case {
    prefix: &'static str,
    kind: Kind,
    count: usize,
    padding: Option<[usize; 2]>,
}

const CASES: [Case; 7] = {
    const fn whole(prefix: &'static str, kind: Kind) -> Case {
        Case {
            prefix,
            kind,
            count: 10,
            padding: None,
        }
    }
    [
        whole("none", Kind::MeanCosine),
        whole("f0", Kind::BagOfSimilarities),
        whole("f1", Kind::MaxSim),
        whole("f2", Kind::SoftAlignment),
        whole("f3.corrected", Kind::Cnn),
        Case {
            prefix: "f3.paper",
            kind: Kind::Cnn,
            count: 8,
            padding: Some([31, 40]),
        },
        whole("f4", Kind::Transformer),
    ]
};

/// What a pass and its way back give.
#[derive(Clone)]
struct Found {
    raw: Vec<f64>,
    parameters: Tensors,
    tokens: Vec<f64>,
    after: Tensors,
}

fn found<A: Accum>(
    plain: &Plain,
    texts: &Texts,
    pairs: &[[u32; 2]],
    d_raw: &[f64],
    how: &How<'_>,
) -> Found {
    let pass: Pass<A> = plain.pass(texts.plain(), pairs, how);
    let (parameters, tokens) = pass.backward(d_raw);
    Found {
        raw: pass.raw(),
        parameters,
        tokens,
        after: pass.after.clone(),
    }
}

impl Case {
    fn plain(&self) -> Plain {
        scorer(self.kind)
    }

    fn how(&self, training: bool) -> How<'static> {
        How {
            training,
            padding: self.padding,
            ..How::training()
        }
    }

    /// What the definition gives in f64, computed once.
    fn truth(&self, training: bool) -> &'static Found {
        static ALL: [OnceLock<Found>; 14] = [const { OnceLock::new() }; 14];
        let at = CASES.iter().position(|case| case.prefix == self.prefix);
        ALL[2 * at.expect("one of them") + usize::from(training)].get_or_init(|| {
            let how = self.how(training);
            found::<f64>(
                &self.plain(),
                &texts(),
                &pairs(self.count),
                &weights(self.count),
                &how,
            )
        })
    }
}

/// A scorer with random parameters; `f3` with these channels.
pub fn random(kind: Kind, d: usize, channels: [usize; 3]) -> Plain {
    let mut parameters = Tensors::new();
    for (i, (name, shape)) in shapes(kind, d, channels).into_iter().enumerate() {
        let fan: usize = shape[1..].iter().product();
        let norm = name.contains("norm");
        let (middle, spread) = match &name[..] {
            name if name.ends_with("running_var") => (1.0, 0.5),
            name if norm && name.ends_with("weight") => (1.0, 0.3),
            "cls" | "positions" => (0.0, 0.5),
            name if norm || name.ends_with("bias") => (0.0, 0.2),
            _ => (0.0, 1.7 / (fan as f64).sqrt()),
        };
        let values = direction(shape.iter().product(), 100 + i as u64);
        // Numbers that f32 holds.
        let values = values
            .into_iter()
            .map(|v| f64::from((middle + spread * v) as f32));
        parameters.insert(name, values.collect());
    }
    Plain {
        kind,
        d,
        parameters,
    }
}

/// Texts of so many random tokens each, which f16 holds.
fn random_texts(lengths: &[usize], d: usize) -> Texts {
    let ends = lengths.iter().scan(0, |end, n| {
        *end += *n as u32;
        Some(*end)
    });
    let rows = direction(lengths.iter().sum::<usize>() * d, 5);
    Texts {
        rows: rows
            .into_iter()
            .map(|v| f16::from_f64(v).to_f64())
            .collect(),
        offsets: [0].into_iter().chain(ends).collect(),
        d,
    }
}

/// The derivative of every scorer in every tensor and in the token vectors, along a random direction, is the difference
/// quotient of the scores there, with dropout and without.
///
/// A rounding error of the scores is divided by the step. That is what is allowed, and a tenth of what the quotient changes
/// with half the step, whose square the error goes by.
pub fn derivatives_are_central_differences() {
    let d = 8;
    let texts = random_texts(&[3, 9, 17, 4], d);
    let pairs = [[0, 1], [2, 1], [1, 3], [3, 2]];
    let wanted = [1.0, -0.5, 0.75, 0.25];
    let masks = PairMasks {
        seed: 3,
        step: 2,
        rate: 0.25,
        numbers: [4, 0, 1, 7].into(),
    };
    for kind in Kind::ALL {
        let plain = random(kind, d, [8, 8, 8]);
        let written = How {
            form: Form::Written,
            ..How::training()
        };
        let masked = How {
            masks: Some(&masks),
            padding: Some([20, 18]),
            ..How::training()
        };
        for how in [written, masked, How::eval()] {
            let at = |plain: &Plain, texts: &Texts| -> f64 {
                let raw = plain.pass::<f64>(texts.plain(), &pairs, &how).raw();
                raw.iter()
                    .zip(wanted)
                    .map(|(raw, wanted)| raw * wanted)
                    .sum()
            };
            let here = at(&plain, &texts);
            let found = found::<f64>(&plain, &texts, &pairs, &wanted, &how);
            let mut all: Vec<(&str, &[f64])> = vec![("tokens", &found.tokens)];
            all.extend(found.parameters.iter().map(|(name, g)| (&name[..], &g[..])));
            for (i, (tensor, gradient)) in all.into_iter().enumerate() {
                let along = direction(gradient.len(), i as u64);
                let moved = |h: f64| {
                    let (mut plain, mut texts) = (plain.clone(), texts.clone());
                    let values = match plain.parameters.get_mut(tensor) {
                        Some(values) => values,
                        None => &mut texts.rows,
                    };
                    values.iter_mut().zip(&along).for_each(|(v, a)| *v += h * a);
                    at(&plain, &texts)
                };
                // So small that hardly anything crosses a kink of ReLU or a maximum.
                let h = 3e-6 / (along.len() as f64).sqrt();
                let quotient = |h: f64| (moved(h) - moved(-h)) / (2.0 * h);
                let (coarse, fine) = (quotient(h), quotient(h / 2.0));
                let product: f64 = gradient.iter().zip(&along).map(|(g, a)| g * a).sum();
                let allowed = 0.1 * (coarse - fine).abs() + 1e-13 * (1.0 + here.abs()) / h;
                let what = format!("{kind}, {tensor}");
                assert!(
                    (product - fine).abs() <= allowed,
                    "{what}: {product:e} against {fine:e}, allowed {allowed:e}"
                );
                // And it could have failed, but where a norm or a softmax takes a bias away again.
                let nothing =
                    tensor.starts_with("conv") && tensor.ends_with("bias") && how.training;
                assert!(
                    nothing && product.abs() < 1e-9 || product.abs() > 3.0 * allowed,
                    "{what}: {product:e}, allowed {allowed:e}"
                );
            }
        }
    }
}

/// The definitions in f64 are what PyTorch computed: scores, gradients, running statistics.
pub fn definitions_are_pytorchs() {
    for case in &CASES {
        let near = |what: &str, got: &[f64], stored: bool, scale: f64| {
            let name = format!("{}.{what}", case.prefix);
            let want = file().get_f64(&name);
            let stride = match what.starts_with("grad_") {
                true => TOKEN_STRIDE,
                false => 1,
            };
            let got = got.iter().step_by(stride);
            assert_eq!(got.len(), want.len(), "{name}");
            for (got, want) in got.zip(want) {
                // Gradients are stored in f32, to nearest.
                let rounding = if stored {
                    want.abs() * f64::from(f32::EPSILON) / 2.0
                } else {
                    0.0
                };
                let allowed = rounding + SLACK * scale;
                assert!(
                    (got - want).abs() <= allowed,
                    "{name}: {got} for {want}, allowed {allowed:e}"
                );
            }
        };
        let all = case.truth(true);
        near("logits", &all.raw, false, 1.0);
        let scale = length(
            all.parameters
                .values()
                .flatten()
                .chain(&all.tokens)
                .copied(),
        );
        for (name, values) in &all.parameters {
            near(&format!("grad.{name}"), values, true, scale);
        }
        let queries = file().get_f64("queries").len();
        near("grad_queries", &all.tokens[..queries], true, scale);
        near("grad_documents", &all.tokens[queries..], true, scale);
        for (name, values) in &all.after {
            near(&format!("after.{name}"), values, false, 1.0);
        }
        if case.kind == Kind::Cnn {
            assert_eq!(all.after.len(), 4);
            near("eval_logits", &case.truth(false).raw, false, 1.0);
        }
    }
}

/// Lengths at which a folded canvas and the grid of patches change, and texts that are cut.
const LENGTHS: [usize; 14] = [1, 2, 8, 9, 20, 63, 64, 116, 117, 120, 121, 127, 128, 140];

/// Pairs of them: small maps, long and narrow ones, and such as fill the canvas.
const PAIRS: [[u32; 2]; 9] = [
    [0, 0],
    [1, 12],
    [3, 7],
    [5, 6],
    [8, 2],
    [9, 10],
    [11, 3],
    [12, 13],
    [4, 4],
];

/// `f4` over all patches of a padded picture, each a query, and over patches in the map of which [CLS] alone asks, are the
/// same numbers, gradients too, as long as the others are masked.
pub fn two_forms_of_f4_are_one() {
    let d = 16;
    let (plain, texts) = (
        random(Kind::Transformer, d, CHANNELS),
        random_texts(&LENGTHS, d),
    );
    let wanted = direction(PAIRS.len(), 3);
    let of = |how: How<'_>| found::<f64>(&plain, &texts, &PAIRS, &wanted, &how);
    let live = of(How::training());
    let written = of(How {
        form: Form::Written,
        ..How::training()
    });
    let unmasked = of(How {
        form: Form::Written,
        fault: Some(Fault::KeysNotMasked),
        ..How::training()
    });
    assert!(distance(&written.raw, &live.raw) < SLACK);
    let scale = length(
        live.parameters
            .values()
            .flatten()
            .chain(&live.tokens)
            .copied(),
    );
    for (name, want) in &live.parameters {
        assert!(
            distance(&written.parameters[name], want) < SLACK * scale,
            "{name}"
        );
    }
    assert!(distance(&written.tokens, &live.tokens) < SLACK * scale);
    let apart = live.raw.iter().zip(&unmasked.raw).zip(PAIRS);
    for ((live, unmasked), pair) in apart {
        let full = pair.iter().all(|&text| LENGTHS[text as usize] > 120);
        assert!(
            full || (live - unmasked).abs() > 1e-4,
            "{pair:?}: {live} {unmasked}"
        );
    }
}

fn wide(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

/// Raw scores of a scorer on a device.
fn raw_of(
    learned: &Learned,
    device: &Device,
    texts: &Texts,
    pairs: &[[u32; 2]],
    mode: Mode<'_>,
) -> Vec<f64> {
    let tokens = texts.on(device);
    let raw = learned.forward(&tokens, &pair_list(device, pairs), mode, None, false);
    wide(raw.unwrap().0)
}

/// What a device makes of pairs: raw scores, and the gradients in parameters and token vectors of a loss whose gradient in
/// these scores `d_raw` gives.
pub fn by_kernels(
    learned: &Learned,
    device: &Device,
    texts: &Texts,
    pairs: &[[u32; 2]],
    mode: Mode<'_>,
    d_raw: impl FnOnce(&[f64]) -> Vec<f64>,
) -> (Vec<f64>, Tensors, Vec<f64>) {
    let tokens = texts.on(device);
    let pairs = pair_list(device, pairs);
    let (raw, saved) = learned.forward(&tokens, &pairs, mode, None, true).unwrap();
    let (raw, scale) = (wide(raw), loss_scale(device));
    let d_raw: Vec<f32> = d_raw(&raw).iter().map(|d| (scale * d) as f32).collect();
    let mut gradients = Gradients::zeros(learned.weights().table().clone(), device).unwrap();
    let mut d_tokens = TokenGradient::new(&tokens);
    learned
        .backward(
            &tokens,
            &pairs,
            saved,
            &d_raw,
            &mut gradients,
            Some(&mut d_tokens),
        )
        .unwrap();
    let mut parameters = gradients_of(learned, &gradients);
    parameters.retain(|name, _| !name.starts_with("objective"));
    parameters.values_mut().flatten().for_each(|v| *v /= scale);
    let d_hidden = d_tokens.finish(&tokens).unwrap().read().unwrap();
    let d_hidden = wide(d_hidden).into_iter().map(|v| v / scale);
    (raw, parameters, d_hidden.collect())
}

/// Orders of the channels in which the file has PyTorch's logits of F3 in eval mode, each by one place on: of one order, how
/// far they are off is one draw or two, as all of them go through one average and one head.
const ORDERS: usize = 16;

/// An `f3` with its channels in another order, each `by` places on: the same function.
fn rolled(mut plain: Plain, by: usize) -> Plain {
    let channels =
        ["conv1", "conv2", "head.0"].map(|name| plain.parameters[&format!("{name}.bias")].len());
    for (name, shape) in shapes(Kind::Cnn, plain.d, channels) {
        let inputs = shape.get(1).copied().unwrap_or(1);
        let moved = if name.starts_with("conv1") { 0 } else { by };
        let values = plain.parameters.get_mut(&name).expect("all are there");
        let each = values.len() / shape[0] / inputs;
        let old = values.clone();
        for (i, piece) in old.chunks_exact(each).enumerate() {
            let to = (i / inputs + by) % shape[0] * inputs + (i % inputs + moved) % inputs;
            values[to * each..][..each].copy_from_slice(piece);
        }
    }
    plain
}

/// Without dropout.
pub const TRAINING: Mode<'static> = Mode::Training {
    masks: None,
    note: true,
};

/// Scores, gradients in all parameters and token vectors, and running statistics are at most twice as far from the
/// definition in f64 as PyTorch's own, in f32 or under f16 autocast as the device computes.
pub fn scores_and_gradients_are_pytorchs(device: Device) {
    let kind = precision(&device);
    for case in &CASES {
        let theirs = |what: &str| -> f64 {
            let name = format!("errors.{kind}.{}.{what}", case.prefix);
            file().get_f64(&name)[0]
        };
        let mut errors = Errors::default();
        let mut compare = |what: &str, of: &str, got: &[f64], want: &[f64]| {
            errors.add(what, distance(got, want).powi(2), theirs(of));
        };
        let (texts, pairs) = (texts(), pairs(case.count));
        let learned =
            learned(&case.plain(), [10.0, 0.0], &device).with_padding(case.padding.is_some());
        if case.kind == Kind::Cnn {
            let (mut got, want) = (Vec::new(), &case.truth(false).raw);
            for by in 0..ORDERS {
                let other = self::learned(&rolled(case.plain(), by), [10.0, 0.0], &device)
                    .with_padding(case.padding.is_some());
                got.extend(raw_of(&other, &device, &texts, &pairs, Mode::Eval));
            }
            compare("eval logits", "eval_logits", &got, &want.repeat(ORDERS));
        }
        let want = case.truth(true);
        let (raw, parameters, tokens) =
            by_kernels(&learned, &device, &texts, &pairs, TRAINING, |_| {
                weights(case.count)
            });
        compare("logits", "logits", &raw, &want.raw);
        let queries = file().get_f64("queries").len();
        for (side, range) in [
            ("queries", 0..queries),
            ("documents", queries..tokens.len()),
        ] {
            compare(
                "tokens",
                &format!("grad_{side}"),
                &tokens[range.clone()],
                &want.tokens[range],
            );
        }
        assert!(parameters.keys().eq(want.parameters.keys()));
        for (name, got) in &parameters {
            compare(
                &super::layer(name),
                &format!("grad.{name}"),
                got,
                &want.parameters[name],
            );
        }
        let mut noted = 0;
        for (name, tensor) in learned.tensors().unwrap() {
            if let Some(want) = want.after.get(&name) {
                let got = wide(tensor.to_f32().unwrap());
                compare(
                    &format!("statistics {}", super::layer(&name)),
                    &format!("after.{name}"),
                    &got,
                    want,
                );
                noted += 1;
            }
        }
        assert_eq!(noted, want.after.len());
        errors.hold(&format!("{} on {}", case.prefix, device.name()));
    }
}
