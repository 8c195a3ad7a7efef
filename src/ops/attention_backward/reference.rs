//! What the gradient of attention is, and how far from it a result may be.

use crate::ops::attention::{Dropped, scale_of};
use crate::ops::{Accum, Rounding};

/// Inputs of the definition.
#[derive(Clone, Copy)]
pub struct Inputs<'a, T> {
    /// `[t, 3 d]`.
    pub qkv: &'a [T],
    /// `[t, d]`, of the forward.
    pub context: &'a [T],
    /// `[t, n_heads]`, of the forward.
    pub statistics: &'a [T],
    /// `[t, d]`.
    pub d_context: &'a [T],
    /// Of the packed texts.
    pub offsets: &'a [u32],
    /// Heads.
    pub n_heads: usize,
    /// Columns of one.
    pub head_dim: usize,
    /// The mask of the forward.
    pub dropped: Dropped<'a>,
}

impl<T: Copy + Into<f64>> Inputs<'_, T> {
    fn d(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Where a value of queries (0), keys (1) or values (2) is.
    fn at(&self, row: usize, which: usize, head: usize, c: usize) -> usize {
        row * 3 * self.d() + which * self.d() + head * self.head_dim + c
    }

    fn qkv(&self, row: usize, which: usize, head: usize, c: usize) -> f64 {
        self.qkv[self.at(row, which, head, c)].into()
    }

    /// Context and its gradient.
    fn context(&self, row: usize, head: usize, c: usize) -> [f64; 2] {
        let at = row * self.d() + head * self.head_dim + c;
        [self.context[at].into(), self.d_context[at].into()]
    }

    fn statistic(&self, row: usize, head: usize) -> f64 {
        self.statistics[row * self.n_heads + head].into()
    }

    /// What a probability is multiplied by: 0, or `1 / (1 - rate)`.
    fn mask<A: Accum>(&self, text: usize, head: usize, i: usize, j: usize) -> A {
        let Some((mask, numbers)) = self.dropped else {
            return A::of(1.0);
        };
        let first = self.offsets[text] as usize;
        if mask.keeps(j - first, i - first, numbers[text], head) {
            A::of(1.0) / (A::of(1.0) - A::of(mask.rate.into()))
        } else {
            A::of(0.0)
        }
    }

    /// Every text and its rows with every head.
    fn heads(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>, usize)> {
        let texts = self.offsets.windows(2).enumerate();
        let n_heads = self.n_heads;
        texts.flat_map(move |(text, span)| {
            let rows = span[0] as usize..span[1] as usize;
            (0..n_heads).map(move |head| (text, rows.clone(), head))
        })
    }
}

/// The definition, in loops; result `[t, 3 d]`.
pub fn reference<A: Accum>(inputs: &Inputs<'_, impl Copy + Into<f64>>) -> Vec<A> {
    let mut gradient = vec![A::of(0.0); inputs.qkv.len()];
    let scale = A::of(scale_of(inputs.head_dim).into());
    let columns = 0..inputs.head_dim;
    for (text, rows, head) in inputs.heads() {
        let qkv = |row, which, c| A::of(inputs.qkv(row, which, head, c));
        for i in rows.clone() {
            let context = |c| inputs.context(i, head, c).map(A::of);
            let mut mean = A::of(0.0);
            for c in columns.clone() {
                let [o, g] = context(c);
                mean += o * g;
            }
            for j in rows.clone() {
                let (mut score, mut product) = (A::of(0.0), A::of(0.0));
                for c in columns.clone() {
                    score += qkv(i, 0, c) * qkv(j, 1, c);
                    product += context(c)[1] * qkv(j, 2, c);
                }
                let p = (score * scale - A::of(inputs.statistic(i, head))).exp();
                let mask: A = inputs.mask(text, head, i, j);
                let ds = p * (mask * product - mean) * scale;
                for c in columns.clone() {
                    gradient[inputs.at(i, 0, head, c)] += ds * qkv(j, 1, c);
                    gradient[inputs.at(j, 1, head, c)] += ds * qkv(i, 0, c);
                    gradient[inputs.at(j, 2, head, c)] += mask * p * context(c)[1];
                }
            }
        }
    }
    gradient
}

/// Error of each element, stored with `bytes` bytes. For a row `i` and a key `j`, with `m` the mask's factor:
///
/// * score `s`: products, their sum and the scale `g(head_dim + 3) scale sum |q k|`; where exponents are to base 2, score
///   and statistic are each multiplied once more, and then subtracted: `e_x = e_s + 3 u (|s| + |L|)`
/// * probability: `r_p = e^(e_x) (1 + (exp.0 + exp.1 |s - L|) u) - 1`, relative, and what is too small may be flushed to 0
/// * `m` is rounded twice to nearest by the host and multiplied in: `r_m = 2 * 2^-24 + u`
/// * `p` as an operand of a matrix unit, `m` multiplied in before or behind: `operand.0` relative, `operand.1 m` absolute
/// * `dp = sum dO v`: `g(head_dim) sum |dO v|`; `D = sum dO o`: `g(head_dim + 1) sum |dO o|`;
///   `t = m dp - D`: errors of both, `r_m |m dp|`, and `u (|t| + e)` for the difference
/// * `ds = p t`: `(1 + r_p) (|p| e_t) + r_p |p t|`, `u` for the product, then `operand` as above
/// * sums over the `l` rows or keys, in pieces of any kind: `g(l + 2)` with the scale
///
/// Products of two errors are kept where they are not obviously below the second order's share of `g`.
pub fn error_bound(
    inputs: &Inputs<'_, impl Copy + Into<f64>>,
    bytes: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let u = rounding.u;
    let scale = f64::from(scale_of(inputs.head_dim));
    let columns = 0..inputs.head_dim;
    let tiny = f64::from(f32::MIN_POSITIVE);
    let r_mask = inputs.dropped.map_or(0.0, |_| 2.0 * 2f64.powi(-24) + u);
    // Errors that are propagated, and sums of magnitudes.
    let mut errors = vec![0.0; inputs.qkv.len()];
    let mut sums = vec![0.0; inputs.qkv.len()];
    let mut lengths = vec![0; inputs.qkv.len() / (3 * inputs.d()).max(1)];
    for (text, rows, head) in inputs.heads() {
        lengths[rows.clone()].fill(rows.len());
        let qkv = |row, which, c| inputs.qkv(row, which, head, c);
        for i in rows.clone() {
            let context = |c| inputs.context(i, head, c);
            let products = columns.clone().map(|c| context(c)[0] * context(c)[1]);
            let mean: f64 = products.clone().sum();
            let magnitude: f64 = products.map(f64::abs).sum();
            let e_mean = rounding.g(inputs.head_dim + 1) * magnitude;
            let statistic = inputs.statistic(i, head);
            for j in rows.clone() {
                let (mut score, mut e_score, mut dp, mut e_dp) = (0.0, 0.0, 0.0, 0.0);
                for c in columns.clone() {
                    let (s, g) = (qkv(i, 0, c) * qkv(j, 1, c), context(c)[1] * qkv(j, 2, c));
                    score += s * scale;
                    e_score += rounding.g(inputs.head_dim + 3) * scale * s.abs();
                    dp += g;
                    e_dp += rounding.g(inputs.head_dim) * g.abs();
                }
                let x = score - statistic;
                let e_x = e_score + 3.0 * u * (score.abs() + statistic.abs());
                let p = x.exp();
                let r_exp = (rounding.exp.0 + rounding.exp.1 * x.abs()) * u;
                let r_p = e_x.exp() * (1.0 + r_exp) - 1.0;
                let mask: f64 = inputs.mask(text, head, i, j);
                let narrowed = |value: f64, e: f64| {
                    e + rounding.operand.0 * (value.abs() + e) + rounding.operand.1 + tiny
                };
                let r_pm = (1.0 + r_p) * (1.0 + r_mask + u) - 1.0;
                let pm = mask * p;
                let e_pm = if pm == 0.0 {
                    0.0
                } else {
                    mask * narrowed(p, r_pm * p)
                };
                let t = mask * dp - mean;
                let e_t =
                    mask * e_dp * (1.0 + r_mask + u) + (r_mask + u) * (mask * dp).abs() + e_mean;
                let e_t = e_t + u * (t.abs() + e_t);
                let ds = p * t;
                let e_ds = (1.0 + r_p) * p * e_t + r_p * ds.abs();
                let e_ds = narrowed(ds, e_ds + u * (ds.abs() + e_ds));
                for c in columns.clone() {
                    let (q, k, g) = (qkv(i, 0, c).abs(), qkv(j, 1, c).abs(), context(c)[1].abs());
                    for (at, value, e, by) in [
                        (inputs.at(i, 0, head, c), ds, e_ds, k * scale),
                        (inputs.at(j, 1, head, c), ds, e_ds, q * scale),
                        (inputs.at(j, 2, head, c), pm, e_pm, g),
                    ] {
                        errors[at] += e * by;
                        sums[at] += (value.abs() + e) * by;
                    }
                }
            }
        }
    }
    let exact = reference::<f64>(inputs);
    (0..errors.len())
        .map(|at| {
            let l = lengths[at / (3 * inputs.d())];
            let e = errors[at] + (rounding.g(l + 2) + u) * sums[at];
            rounding.store(exact[at], e, bytes)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::reference_saving;
    use crate::ops::dropout::{Mask, Site};
    use crate::random::Stream;

    const OFFSETS: [u32; 4] = [0, 3, 3, 8];
    const NUMBERS: [u32; 3] = [4, 0, 9];
    const HEADS: (usize, usize) = (2, 32);

    fn noise(n: usize, seed: u64) -> Vec<f64> {
        let mut stream = Stream::new(seed, &["attention_backward"], 0);
        let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        (0..n).map(|_| 3.0 * unit(stream.bits()) - 1.5).collect()
    }

    /// The gradient of `sum d_context context` is that of central differences.
    ///
    /// With steps `h` and `2 h` the differences are `f' + a h^2 + O(h^4)` and `f' + 4 a h^2 + O(h^4)`, so a third of what
    /// they differ by is the truncation of the first; it is allowed twice, for the fourth order. Rounding, with `u` = 2^-53:
    /// the `n` products that are added up have errors of `n u` of their magnitudes by the sum, and less than `1024 u` of
    /// their own: twice `g(33)` of a score, of which `sum |q k| scale` is below 13, and an exponential and two sums over
    /// fewer than 32 terms (the bound of [`attention`](crate::ops::attention::error_bound)). Two losses so wrong, over `2 h`.
    fn against_differences(dropped: Dropped<'_>) {
        let (n_heads, head_dim) = HEADS;
        let (t, d) = (OFFSETS[3] as usize, n_heads * head_dim);
        let (qkv, d_context) = (noise(3 * t * d, 1), noise(t * d, 2));
        let forward =
            |qkv: &[f64]| reference_saving::<f64>(qkv, &OFFSETS, n_heads, head_dim, dropped);
        let (context, statistics) = forward(&qkv);
        let gradient = reference::<f64>(&Inputs {
            qkv: &qkv,
            context: &context,
            statistics: &statistics,
            d_context: &d_context,
            offsets: &OFFSETS,
            n_heads,
            head_dim,
            dropped,
        });
        let loss = |qkv: &[f64]| -> f64 {
            let context = forward(qkv).0;
            context.iter().zip(&d_context).map(|(o, g)| o * g).sum()
        };
        let magnitude: f64 = context
            .iter()
            .zip(&d_context)
            .map(|(o, g)| (o * g).abs())
            .sum();
        let h = 1e-3;
        let rounding = (t * d + 1024) as f64 * f64::EPSILON / 2.0 * magnitude / h;
        let mut moved = qkv.clone();
        for at in 0..qkv.len() {
            let mut difference = |h: f64| {
                moved[at] = qkv[at] + h;
                let above = loss(&moved);
                moved[at] = qkv[at] - h;
                let below = loss(&moved);
                moved[at] = qkv[at];
                (above - below) / (2.0 * h)
            };
            let (near, far) = (difference(h), difference(2.0 * h));
            let truncation = (far - near).abs() / 3.0;
            let error = (near - gradient[at]).abs();
            assert!(
                error <= 2.0 * truncation + rounding,
                "{at}: {near} and {}, {error:e} of {truncation:e} and {rounding:e}",
                gradient[at]
            );
            // The tolerance is far below the gradient, so that a wrong one could not pass.
            assert!(
                2.0 * truncation + rounding < 1e-4,
                "{truncation:e} {rounding:e}"
            );
        }
        let largest = gradient.iter().fold(0f64, |m, g| m.max(g.abs()));
        assert!(largest > 0.1, "{largest}");
    }

    #[test]
    fn the_gradient_is_that_of_central_differences() {
        against_differences(None);
    }

    #[test]
    fn the_gradient_is_that_of_central_differences_with_dropout() {
        let mask = Mask::new(0.25, 1, 2, 3, Site::Probabilities);
        against_differences(Some((mask, &NUMBERS)));
    }
}
