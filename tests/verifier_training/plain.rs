//! All scorers of pairs as they are defined, in plain form on a [`Tape`]: maps padded to 128 x 128, nothing folded.

use std::collections::BTreeMap;

use nearmiss::ops::Accum;
use nearmiss::ops::dropout::Site;
use nearmiss::ops::soft_alignment::Alignment;
use nearmiss::verifier::Kind;
use nearmiss::verifier::learned::PairMasks;

use super::tape::{NOTHING, Tape, Var, statistics};

/// Tensors under the names that files have them under.
pub type Tensors = BTreeMap<String, Vec<f64>>;

/// Places of a side of a picture, of a patch, and patches of a side.
const SIDE: usize = 128;
const PATCH: usize = 8;
const PATCHES: usize = SIDE / PATCH;

/// Of both kinds of norm.
const EPS: f64 = 1e-5;

/// The tensors of a scorer over token vectors `d` wide, with their shapes; `f3` with so many channels.
pub fn shapes(kind: Kind, d: usize, channels: [usize; 3]) -> Vec<(String, Vec<usize>)> {
    let mut all: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: &str, shape: &[usize]| all.push((name.into(), shape.to_vec()));
    let [first, second, hidden] = channels;
    match kind {
        Kind::Cnn => {
            for (n, out, inputs) in [("1", first, 3), ("2", second, first)] {
                add(&format!("conv{n}.weight"), &[out, inputs, 3, 3]);
                add(&format!("conv{n}.bias"), &[out]);
                for what in ["weight", "bias", "running_mean", "running_var"] {
                    add(&format!("norm{n}.{what}"), &[out]);
                }
            }
            add("head.0.weight", &[hidden, second]);
            add("head.0.bias", &[hidden]);
            add("head.3.weight", &[1, hidden]);
            add("head.3.bias", &[1]);
        }
        Kind::Transformer => {
            add("patch.weight", &[d, 3, PATCH, PATCH]);
            add("cls", &[d]);
            add("positions", &[1 + PATCHES * PATCHES, d]);
            add("layer.self_attn.in_proj_weight", &[3 * d, d]);
            add("layer.self_attn.in_proj_bias", &[3 * d]);
            for norm in ["embedding_norm", "layer.norm1", "layer.norm2"] {
                add(&format!("{norm}.weight"), &[d]);
                add(&format!("{norm}.bias"), &[d]);
            }
            add("patch.bias", &[d]);
            for (name, out, inputs) in [
                ("layer.self_attn.out_proj", d, d),
                ("layer.linear1", 32, d),
                ("layer.linear2", d, 32),
                ("head.0", d, d),
                ("head.3", 1, d),
            ] {
                add(&format!("{name}.weight"), &[out, inputs]);
                add(&format!("{name}.bias"), &[out]);
            }
        }
        _ => {}
    }
    all
}

/// What is left out of the definition, to see that it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Patches outside the map are keys like others.
    KeysNotMasked,
    /// A line of the canvas far outside the map, and the column there, count as nothing.
    LineForgotten,
}

/// In which of two forms `f4` is computed, which are the same in exact numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All patches of the padded picture, all of them queries, and those outside the map masked as keys.
    Written,
    /// Patches in the map, of which [CLS] alone asks.
    Live,
}

/// How pairs are scored.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// Whether batch norms have the statistics of the pairs.
    pub training: bool,
    pub form: Form,
    /// How far maxima reach beyond a map: to where texts of either side are padded. As far as the map by default.
    pub padding: Option<[usize; 2]>,
    pub masks: Option<&'a PairMasks>,
    pub fault: Option<Fault>,
    /// Whether products are in f16.
    pub half: bool,
}

impl How<'_> {
    /// Without dropout.
    pub fn training() -> Self {
        How {
            training: true,
            form: Form::Live,
            padding: None,
            masks: None,
            fault: None,
            half: false,
        }
    }

    pub fn eval() -> Self {
        How {
            training: false,
            ..How::training()
        }
    }
}

/// A scorer.
#[derive(Clone)]
pub struct Plain {
    pub kind: Kind,
    /// Width of the token vectors.
    pub d: usize,
    pub parameters: Tensors,
}

/// Texts whose token vectors are packed.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    pub rows: &'a [f64],
    pub offsets: &'a [u32],
}

/// What was computed of some pairs.
pub struct Pass<A> {
    tape: Tape<A>,
    /// `[p, 1]`.
    raw: Var,
    tokens: Var,
    parameters: BTreeMap<String, Var>,
    /// Running statistics after these pairs, of those that have some.
    pub after: Tensors,
}

impl<A: Accum> Pass<A> {
    /// Scores before tanh, where there is one.
    pub fn raw(&self) -> Vec<f64> {
        self.tape
            .values(self.raw)
            .iter()
            .map(|v| v.to_f64())
            .collect()
    }

    /// The gradients in parameters and token vectors of `sum_i d_i raw_i`.
    pub fn backward(&self, d_raw: &[f64]) -> (Tensors, Vec<f64>) {
        let gradients = self.tape.backward(self.raw, d_raw);
        let of = |x: Var| gradients.of(x, self.tape.values(x).len());
        let parameters = self.parameters.iter();
        let parameters = parameters.map(|(name, &x)| (name.clone(), of(x)));
        (parameters.collect(), of(self.tokens))
    }
}

impl Plain {
    /// Pairs of texts, all of them one batch.
    pub fn pass<A: Accum>(&self, texts: Texts<'_>, pairs: &[[u32; 2]], how: &How<'_>) -> Pass<A> {
        let mut tape = Tape::<A>::new(how.half);
        let tokens = tape.given(texts.rows, self.d);
        let running = |name: &String| name.contains("running");
        let parameters = self.parameters.iter().filter(|(name, _)| !running(name));
        let parameters = parameters.map(|(name, values)| {
            let columns = match &name[..] {
                "patch.weight" => 3 * PATCH * PATCH,
                "conv1.weight" => 3 * 9,
                "conv2.weight" => 9 * self.parameters["conv1.bias"].len(),
                "head.0.weight" if self.kind == Kind::Cnn => self.parameters["conv2.bias"].len(),
                "head.3.weight" => values.len(),
                "layer.linear2.weight" => 32,
                name if name == "positions"
                    || name.ends_with("weight") && !name.contains("norm") =>
                {
                    self.d
                }
                _ => values.len(),
            };
            (name.clone(), tape.given(values, columns))
        });
        let parameters: BTreeMap<String, Var> = parameters.collect();
        let mut work = Work {
            plain: self,
            tape,
            parameters: &parameters,
            how,
            after: Tensors::new(),
        };
        let raw = work.score(tokens, texts.offsets, pairs);
        let Work { tape, after, .. } = work;
        Pass {
            tape,
            raw,
            tokens,
            parameters,
            after,
        }
    }
}

struct Work<'a, A> {
    plain: &'a Plain,
    tape: Tape<A>,
    parameters: &'a BTreeMap<String, Var>,
    how: &'a How<'a>,
    after: Tensors,
}

/// A map with its maxima.
struct Map {
    values: Var,
    shape: [usize; 2],
    /// The column of the largest element of every row, and the row of that of every column.
    winners: [Vec<usize>; 2],
    /// How far the maxima reach.
    extent: [usize; 2],
}

impl Map {
    /// Where the element of a channel of the picture is in the map.
    fn place(&self, channel: usize, y: usize, x: usize) -> u32 {
        let ([rows, columns], [down, across]) = (self.shape, self.extent);
        if y >= SIDE || x >= SIDE {
            return NOTHING;
        }
        let at = match channel {
            0 if y < rows && x < columns => (y, x),
            1 if y < rows && x < across => (y, self.winners[0][y]),
            2 if x < columns && y < down => (self.winners[1][x], x),
            _ => return NOTHING,
        };
        (at.0 * columns + at.1) as u32
    }
}

impl<A: Accum> Work<'_, A> {
    fn parameter(&self, name: &str) -> Var {
        self.parameters[name]
    }

    fn layer(&self, name: &str) -> [Var; 2] {
        ["weight", "bias"].map(|end| self.parameter(&format!("{name}.{end}")))
    }

    fn score(&mut self, tokens: Var, offsets: &[u32], pairs: &[[u32; 2]]) -> Var {
        let span = |text: u32| offsets[text as usize] as usize..offsets[text as usize + 1] as usize;
        if self.plain.kind == Kind::MeanCosine {
            let one = |pair: &[u32; 2]| {
                let sides = pair.map(|text| {
                    let n = span(text).len();
                    let mean = self
                        .tape
                        .pool(tokens, span(text).start, vec![1.0 / n as f64; n]);
                    self.tape.unit_rows(mean)
                });
                self.tape.product_transposed(sides[0], sides[1])
            };
            let all: Vec<Var> = pairs.iter().map(one).collect();
            return self.tape.stack(&all);
        }
        let unit = self.tape.unit_rows(tokens);
        let mut maps = Vec::new();
        for pair in pairs {
            let [query, document] = pair.map(|text| self.tape.rows_of(unit, span(text)));
            let values = self.tape.product_transposed(query, document);
            let shape = [self.tape.rows(values), self.tape.columns(values)];
            let across = self.tape.product_transposed(document, query);
            let extent =
                [0, 1].map(|side| self.how.padding.map_or(0, |to| to[side]).max(shape[side]));
            maps.push(Map {
                winners: [self.tape.winners(values), self.tape.winners(across)],
                values,
                shape,
                extent,
            });
        }
        match self.plain.kind {
            Kind::Cnn => self.cnn(&maps),
            Kind::Transformer => {
                let one = |(i, map)| self.transformer(map, i);
                let all: Vec<Var> = maps.iter().enumerate().map(one).collect();
                self.tape.stack(&all)
            }
            kind => {
                let all: Vec<Var> = maps.iter().map(|map| self.fixed(kind, map)).collect();
                self.tape.stack(&all)
            }
        }
    }

    fn fixed(&mut self, kind: Kind, map: &Map) -> Var {
        let ([rows, columns], tape) = (map.shape, &mut self.tape);
        let (chosen, n) = match kind {
            Kind::BagOfSimilarities => (map.values, rows * columns),
            Kind::MaxSim => {
                let places = (0..rows).map(|i| (i * columns + map.winners[0][i]) as u32);
                (tape.select(map.values, places.collect(), 1), rows)
            }
            _ => {
                let Alignment {
                    distance,
                    temperature,
                    ..
                } = Alignment::default();
                let [distance, temperature] = [distance, temperature].map(f64::from);
                let far = |i: usize, j: usize| -distance * i.abs_diff(j) as f64;
                let far = (0..rows).flat_map(|i| (0..columns).map(move |j| far(i, j)));
                let far = tape.given(&far.collect::<Vec<_>>(), columns);
                let logits = tape.plus(map.values, far);
                let logits = tape.scaled(logits, 1.0 / temperature);
                let shares = tape.softmax(logits, &vec![true; rows * columns]);
                (tape.times(shares, map.values), rows)
            }
        };
        let sum = tape.total(chosen);
        tape.scaled(sum, 1.0 / n as f64)
    }

    /// With what a mask drops of rows in the places `row..` of pair `pair` set to zero.
    fn dropped(&mut self, x: Var, pair: usize, site: Site) -> Var {
        let Some(masks) = self.how.masks else {
            return x;
        };
        let (mask, d) = (masks.at(site), self.tape.columns(x));
        let kept = 1.0 / (1.0 - f64::from(mask.rate));
        let factor = |at: usize| {
            let stays = mask.keeps(at % d, at / d, masks.numbers[pair], 0);
            if stays { kept } else { 0.0 }
        };
        let factors = (0..self.tape.values(x).len()).map(factor).collect();
        self.tape.factors(x, factors)
    }

    fn norm(&mut self, x: Var, name: &str) -> Var {
        let [weight, bias] = self.layer(name);
        let normed = self.tape.norm_rows(x, EPS);
        let scaled = self.tape.times_row(normed, weight);
        self.tape.plus_row(scaled, bias)
    }

    fn transformer(&mut self, map: &Map, pair: usize) -> Var {
        let written = self.how.form == Form::Written;
        assert!(
            !written || self.how.masks.is_none(),
            "masks go by patches in the map"
        );
        let live = map.shape.map(|n| n.min(SIDE).div_ceil(PATCH));
        let grid = if written { [PATCHES; 2] } else { live };
        let patches: Vec<[usize; 2]> = (0..grid[0])
            .flat_map(|i| (0..grid[1]).map(move |j| [i, j]))
            .collect();
        let mut places = Vec::new();
        for [i, j] in &patches {
            for at in 0..3 * PATCH * PATCH {
                let (channel, y, x) = (at / (PATCH * PATCH), at / PATCH % PATCH, at % PATCH);
                places.push(map.place(channel, i * PATCH + y, j * PATCH + x));
            }
        }
        let d = self.plain.d;
        let windows = self.tape.select(map.values, places, 3 * PATCH * PATCH);
        let layer = self.layer("patch");
        let embedded = self.tape.linear(windows, layer);
        let x = self.tape.stack(&[self.parameter("cls"), embedded]);
        let numbers = patches.iter().map(|[i, j]| 1 + i * PATCHES + j);
        let rows = [0].into_iter().chain(numbers);
        let places = rows
            .flat_map(|row| (row * d..(row + 1) * d).map(|at| at as u32))
            .collect();
        let positions = self.tape.select(self.parameter("positions"), places, d);
        let x = self.tape.plus(x, positions);
        let h = self.norm(x, "embedding_norm");
        let h = self.dropped(h, pair, Site::Embedding);

        let y = self.norm(h, "layer.norm1");
        let of_queries = match written {
            true => y,
            false => self.tape.rows_of(y, 0..1),
        };
        let [query, key, value] = [(0, of_queries), (1, y), (2, y)].map(|(part, x)| {
            let [weight, bias] = ["weight", "bias"]
                .map(|end| self.parameter(&format!("layer.self_attn.in_proj_{end}")));
            let weight = self.tape.rows_of(weight, part * d..(part + 1) * d);
            let bias = self.tape.columns_of(bias, part * d..(part + 1) * d);
            self.tape.linear(x, [weight, bias])
        });
        let logits = self.tape.product_transposed(query, key);
        // As an operator takes it.
        let scale = f64::from((1.0 / (d as f64).sqrt()) as f32);
        let logits = self.tape.scaled(logits, scale);
        let masked = self.how.fault != Some(Fault::KeysNotMasked);
        let inside = |&[i, j]: &[usize; 2]| !masked || i < live[0] && j < live[1];
        let keys: Vec<bool> = [true]
            .into_iter()
            .chain(patches.iter().map(inside))
            .collect();
        let shares = self
            .tape
            .softmax(logits, &keys.repeat(self.tape.rows(logits)));
        let shares = self.dropped(shares, pair, Site::Probabilities);
        let mixed = self.tape.product(shares, value);
        let layer = self.layer("layer.self_attn.out_proj");
        let branch = self.tape.linear(mixed, layer);
        let branch = self.dropped(branch, pair, Site::AttentionOutput);
        let h = match written {
            true => h,
            false => self.tape.rows_of(h, 0..1),
        };
        let s = self.tape.plus(h, branch);

        let normed = self.norm(s, "layer.norm2");
        let layers =
            ["layer.linear1", "layer.linear2", "head.0", "head.3"].map(|name| self.layer(name));
        let inner = self.tape.linear(normed, layers[0]);
        let inner = self.tape.gelu(inner);
        let inner = self.dropped(inner, pair, Site::FeedForwardInner);
        let branch = self.tape.linear(inner, layers[1]);
        let branch = self.dropped(branch, pair, Site::FeedForwardOutput);
        let s = self.tape.plus(s, branch);

        let cls = self.tape.rows_of(s, 0..1);
        let head = self.tape.linear(cls, layers[2]);
        let head = self.tape.gelu(head);
        let head = self.dropped(head, pair, Site::Head);
        self.tape.linear(head, layers[3])
    }

    fn cnn(&mut self, maps: &[Map]) -> Var {
        // A convolution of each map.
        let layer = self.layer("conv1");
        let mut all = Vec::new();
        for map in maps {
            let mut places = Vec::with_capacity(SIDE * SIDE * 27);
            for (y, x) in pixels(SIDE) {
                for at in 0..27 {
                    let (channel, dy, dx) = (at / 9, at / 3 % 3, at % 3);
                    // One line of zeros around the picture.
                    let inside = y + dy > 0 && x + dx > 0;
                    let place = || map.place(channel, y + dy - 1, x + dx - 1);
                    places.push(if inside { place() } else { NOTHING });
                }
            }
            let windows = self.tape.select(map.values, places, 27);
            all.push(self.tape.linear(windows, layer));
        }
        let x = self.tape.stack(&all);
        let between = self.block(x, 1, SIDE, maps.len());

        let half = SIDE / 2;
        let channels = self.tape.columns(between);
        let mut places = Vec::with_capacity(maps.len() * half * half * 9 * channels);
        for picture in 0..maps.len() {
            for (y, x) in pixels(half) {
                for at in 0..channels * 9 {
                    let (channel, dy, dx) = (at / 9, at / 3 % 3, at % 3);
                    let inside = (1..=half).contains(&(y + dy)) && (1..=half).contains(&(x + dx));
                    let pixel = || (picture * half + y + dy - 1) * half + x + dx - 1;
                    places.push(if inside {
                        (pixel() * channels + channel) as u32
                    } else {
                        NOTHING
                    });
                }
            }
        }
        let windows = self.tape.select(between, places, 9 * channels);
        let layer = self.layer("conv2");
        let x = self.tape.linear(windows, layer);
        let pooled = self.block(x, 2, half, maps.len());

        let side = SIDE / 4;
        let counts = self.counts(side, 1);
        let total: f64 = counts.iter().sum();
        let shares: Vec<f64> = counts.iter().map(|count| count / total).collect();
        let layers = ["head.0", "head.3"].map(|name| self.layer(name));
        let mut all = Vec::new();
        for pair in 0..maps.len() {
            let mean = self.tape.pool(pooled, pair * side * side, shares.clone());
            let head = self.tape.linear(mean, layers[0]);
            let head = self.tape.relu(head);
            let head = self.dropped(head, pair, Site::Head);
            all.push(self.tape.linear(head, layers[1]));
        }
        self.tape.stack(&all)
    }

    /// How often pixels of so many pictures count: once.
    fn counts(&self, side: usize, pictures: usize) -> Vec<f64> {
        let line = 100 * side / SIDE;
        let forgotten = self.how.fault == Some(Fault::LineForgotten);
        let count = |(y, x)| {
            if forgotten && (y == line || x == line) {
                0.0
            } else {
                1.0
            }
        };
        pixels(side).map(count).collect::<Vec<_>>().repeat(pictures)
    }

    /// Norm, ReLU and pooling of the results of a convolution.
    fn block(&mut self, x: Var, number: usize, side: usize, pictures: usize) -> Var {
        let name = |what: &str| format!("norm{number}.{what}");
        let [weight, bias] = self.layer(&format!("norm{number}"));
        let counts = self.counts(side, pictures);
        let running =
            ["running_mean", "running_var"].map(|what| &self.plain.parameters[&name(what)]);
        let normed = if self.how.training {
            let total: f64 = counts.iter().sum();
            let found = statistics(self.tape.values(x), self.tape.columns(x), &counts);
            let unbiased = [1.0, total / (total - 1.0)];
            for (i, what) in ["running_mean", "running_var"].into_iter().enumerate() {
                let pairs = running[i].iter().zip(&found[i]);
                let after = pairs.map(|(old, new)| 0.9 * old + 0.1 * unbiased[i] * new.to_f64());
                self.after.insert(name(what), after.collect());
            }
            self.tape.norm_columns(x, counts, EPS)
        } else {
            let shift: Vec<f64> = running[0].iter().map(|mean| -mean).collect();
            let scale: Vec<f64> = running[1]
                .iter()
                .map(|variance| 1.0 / (variance + EPS).sqrt())
                .collect();
            let columns = shift.len();
            let [shift, scale] = [shift, scale].map(|row| self.tape.given(&row, columns));
            let x = self.tape.plus_row(x, shift);
            self.tape.times_row(x, scale)
        };
        let x = self.tape.times_row(normed, weight);
        let x = self.tape.plus_row(x, bias);
        let x = self.tape.relu(x);
        let (values, columns) = (self.tape.values(x), self.tape.columns(x));
        let mut places = Vec::with_capacity(values.len() / 4);
        for picture in 0..pictures {
            for (y, x) in pixels(side / 2) {
                let corner = (picture * side + 2 * y) * side + 2 * x;
                for channel in 0..columns {
                    let four =
                        [0, 1, side, side + 1].map(|step| (corner + step) * columns + channel);
                    let best = four
                        .into_iter()
                        .reduce(|best, at| if values[at] > values[best] { at } else { best });
                    places.push(best.expect("four of them") as u32);
                }
            }
        }
        self.tape.select(x, places, columns)
    }
}

/// Lines and columns of a square picture.
fn pixels(side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..side).flat_map(move |y| (0..side).map(move |x| (y, x)))
}
