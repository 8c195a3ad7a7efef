//! Formulas over matrices with their derivatives: what is computed is written down on a tape, and read backwards.
//!
//! Plain loops, in f64 to be what kernels are held to, or in f32 to show how far from that a plain program is. With
//! [`Tape::half`] products take and give f16, forward and backward, and all else stays f32: what mixed precision means.

use half::f16;
use nearmiss::ops::Accum;

/// A matrix on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Var(usize);

/// In [`Tape::select`], a place where there is nothing: zero.
pub const NOTHING: u32 = u32::MAX;

struct Node<A> {
    values: Vec<A>,
    columns: usize,
    from: From,
}

enum From {
    Given,
    Product {
        a: Var,
        b: Var,
        /// Whether it is `a b^T`.
        transposed: bool,
    },
    Select(Var, Vec<u32>),
    Sum(Var, Var),
    SumRow(Var, Var),
    Times(Var, Var),
    TimesRow(Var, Var),
    /// By constants.
    Factors(Var, Vec<f64>),
    UnitRows(Var),
    NormRows(Var, f64),
    NormColumns(Var, Vec<f64>, f64),
    Softmax(Var),
    Gelu(Var),
    Relu(Var),
    Stack(Vec<Var>),
    /// Some rows, times constants, in one.
    Pool(Var, usize, Vec<f64>),
    Total(Var),
}

/// What was computed so far.
pub struct Tape<A> {
    nodes: Vec<Node<A>>,
    /// Whether products are in f16.
    pub half: bool,
}

fn rounded<A: Accum>(values: &[A], half: bool) -> Vec<A> {
    let round = |v: &A| match half {
        true => A::of(f16::from_f64(v.to_f64()).to_f64()),
        false => *v,
    };
    values.iter().map(round).collect()
}

fn transposed<A: Accum>(values: &[A], columns: usize) -> Vec<A> {
    let rows = values.len() / columns;
    let places = (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j));
    places.map(|at| values[at]).collect()
}

/// `a b` of `[m, k]` and `[k, n]`.
fn product<A: Accum>(a: &[A], b: &[A], k: usize, n: usize) -> Vec<A> {
    let zero = A::of(0.0);
    let mut y = vec![zero; a.len() / k * n];
    for (row, y) in a.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        for (&a, b) in row.iter().zip(b.chunks_exact(n)) {
            // Most of a padded picture.
            if a == zero {
                continue;
            }
            for (y, &b) in y.iter_mut().zip(b) {
                *y += a * b;
            }
        }
    }
    y
}

/// `erf`, all terms of its series of one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut k) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        term *= 2.0 * x * x / (2.0 * k + 1.0);
        sum += term;
        k += 1.0;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

fn gelu<A: Accum>(x: A) -> A {
    A::of(0.5) * x * A::of(1.0 + erf(x.to_f64() / 2f64.sqrt()))
}

fn gelu_slope<A: Accum>(x: A) -> A {
    let x = x.to_f64();
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    A::of(0.5 * (1.0 + erf(x / 2f64.sqrt())) + x * density)
}

fn sum<A: Accum>(values: impl IntoIterator<Item = A>) -> A {
    values.into_iter().fold(A::of(0.0), |all, v| all + v)
}

/// Mean and variance of every column, where rows count so often.
pub fn statistics<A: Accum>(values: &[A], columns: usize, counts: &[f64]) -> [Vec<A>; 2] {
    let total = A::of(counts.iter().sum());
    let moment = |of: &dyn Fn(usize, A) -> A| -> Vec<A> {
        let column = |j: usize| {
            let rows = values.chunks_exact(columns).zip(counts);
            sum(rows.map(|(row, &count)| A::of(count) * of(j, row[j]))) / total
        };
        (0..columns).map(column).collect()
    };
    let mean = moment(&|_, x| x);
    let variance = moment(&|j, x| (x - mean[j]) * (x - mean[j]));
    [mean, variance]
}

impl<A: Accum> Tape<A> {
    pub fn new(half: bool) -> Self {
        Tape {
            nodes: Vec::new(),
            half,
        }
    }

    fn push(&mut self, values: Vec<A>, columns: usize, from: From) -> Var {
        assert!(values.len().is_multiple_of(columns.max(1)));
        self.nodes.push(Node {
            values,
            columns,
            from,
        });
        Var(self.nodes.len() - 1)
    }

    pub fn values(&self, x: Var) -> &[A] {
        &self.nodes[x.0].values
    }

    pub fn columns(&self, x: Var) -> usize {
        self.nodes[x.0].columns
    }

    pub fn rows(&self, x: Var) -> usize {
        self.values(x).len() / self.columns(x)
    }

    fn shape(&self, x: Var) -> [usize; 2] {
        [self.rows(x), self.columns(x)]
    }

    /// A value of every element, by its own.
    fn each(&mut self, x: Var, from: From, of: impl Fn(A) -> A) -> Var {
        let values = self.values(x).iter().map(|&v| of(v)).collect();
        self.push(values, self.columns(x), from)
    }

    /// Of every element and the one of the other in the same place, or in its column if the other is a row.
    fn both(&mut self, x: Var, y: Var, from: From, of: impl Fn(A, A) -> A) -> Var {
        let (a, b) = (self.values(x), self.values(y));
        assert!(b.len() == a.len() || b.len() == self.columns(x));
        let values = a.iter().zip(b.iter().cycle()).map(|(&a, &b)| of(a, b));
        self.push(values.collect(), self.columns(x), from)
    }

    pub fn given(&mut self, values: &[f64], columns: usize) -> Var {
        let values = values.iter().map(|&v| A::of(v)).collect();
        self.push(values, columns, From::Given)
    }

    /// `a b`.
    pub fn product(&mut self, a: Var, b: Var) -> Var {
        let ([_, k], [other, n]) = (self.shape(a), self.shape(b));
        assert_eq!(k, other);
        let [x, y] = [a, b].map(|v| rounded(self.values(v), self.half));
        let values = rounded(&product(&x, &y, k, n), self.half);
        let transposed = false;
        self.push(values, n, From::Product { a, b, transposed })
    }

    /// `a b^T`.
    pub fn product_transposed(&mut self, a: Var, b: Var) -> Var {
        let ([_, k], [n, other]) = (self.shape(a), self.shape(b));
        assert_eq!(k, other);
        let [x, y] = [a, b].map(|v| rounded(self.values(v), self.half));
        let values = product(&x, &transposed(&y, k), k, n);
        let values = rounded(&values, self.half);
        let transposed = true;
        self.push(values, n, From::Product { a, b, transposed })
    }

    /// `x w^T + b`.
    pub fn linear(&mut self, x: Var, [weight, bias]: [Var; 2]) -> Var {
        let y = self.product_transposed(x, weight);
        self.plus_row(y, bias)
    }

    /// Elements of `x` at these places, or zero.
    pub fn select(&mut self, x: Var, places: Vec<u32>, columns: usize) -> Var {
        let of = self.values(x);
        let value = |&at: &u32| match at {
            NOTHING => A::of(0.0),
            at => of[at as usize],
        };
        let values = places.iter().map(value).collect();
        self.push(values, columns, From::Select(x, places))
    }

    /// Some rows.
    pub fn rows_of(&mut self, x: Var, rows: std::ops::Range<usize>) -> Var {
        let d = self.columns(x);
        let places = rows.start * d..rows.end * d;
        self.select(x, places.map(|at| at as u32).collect(), d)
    }

    /// Some columns.
    pub fn columns_of(&mut self, x: Var, columns: std::ops::Range<usize>) -> Var {
        let d = self.columns(x);
        let row = |i: usize| columns.clone().map(move |j| (i * d + j) as u32);
        let places = (0..self.rows(x)).flat_map(row).collect();
        self.select(x, places, columns.len())
    }

    pub fn plus(&mut self, x: Var, y: Var) -> Var {
        assert_eq!(self.shape(x), self.shape(y));
        self.both(x, y, From::Sum(x, y), |a, b| a + b)
    }

    pub fn plus_row(&mut self, x: Var, row: Var) -> Var {
        self.both(x, row, From::SumRow(x, row), |a, b| a + b)
    }

    pub fn times(&mut self, x: Var, y: Var) -> Var {
        assert_eq!(self.shape(x), self.shape(y));
        self.both(x, y, From::Times(x, y), |a, b| a * b)
    }

    pub fn times_row(&mut self, x: Var, row: Var) -> Var {
        self.both(x, row, From::TimesRow(x, row), |a, b| a * b)
    }

    /// Times constants, one an element.
    pub fn factors(&mut self, x: Var, factors: Vec<f64>) -> Var {
        let values = self.values(x).iter().zip(&factors);
        let values = values.map(|(&v, &f)| A::of(f) * v).collect();
        self.push(values, self.columns(x), From::Factors(x, factors))
    }

    pub fn scaled(&mut self, x: Var, factor: f64) -> Var {
        self.factors(x, vec![factor; self.values(x).len()])
    }

    /// Rows over their lengths.
    pub fn unit_rows(&mut self, x: Var) -> Var {
        let d = self.columns(x);
        let rows = self.values(x).chunks_exact(d).flat_map(|row| {
            let length = sum(row.iter().map(|&v| v * v)).sqrt();
            row.iter().map(move |&v| v / length)
        });
        self.push(rows.collect(), d, From::UnitRows(x))
    }

    /// Rows minus their means over their deviations.
    pub fn norm_rows(&mut self, x: Var, eps: f64) -> Var {
        let d = self.columns(x);
        let rows = self.values(x).chunks_exact(d).flat_map(|row| {
            let [mean, deviation] = of_row(row, eps);
            row.iter().map(move |&v| (v - mean) / deviation)
        });
        self.push(rows.collect(), d, From::NormRows(x, eps))
    }

    /// Columns minus their means over their deviations, where rows count so often.
    pub fn norm_columns(&mut self, x: Var, counts: Vec<f64>, eps: f64) -> Var {
        let d = self.columns(x);
        let [mean, variance] = statistics(self.values(x), d, &counts);
        let at = |(i, &v): (usize, &A)| {
            let j = i % d;
            (v - mean[j]) / (variance[j] + A::of(eps)).sqrt()
        };
        let values = self.values(x).iter().enumerate().map(at).collect();
        self.push(values, d, From::NormColumns(x, counts, eps))
    }

    /// Of every row; places that are not `allowed` have no part.
    pub fn softmax(&mut self, x: Var, allowed: &[bool]) -> Var {
        let d = self.columns(x);
        assert_eq!(allowed.len(), self.values(x).len());
        let rows = self.values(x).chunks_exact(d).zip(allowed.chunks_exact(d));
        let rows = rows.flat_map(|(row, allowed)| {
            let largest = row.iter().zip(allowed).filter(|(_, a)| **a);
            let largest = largest.fold(f64::NEG_INFINITY, |m, (v, _)| m.max(v.to_f64()));
            let term = move |(&v, &allowed): (&A, &bool)| match allowed {
                true => (v - A::of(largest)).exp(),
                false => A::of(0.0),
            };
            let total = sum(row.iter().zip(allowed).map(term));
            row.iter().zip(allowed).map(move |each| term(each) / total)
        });
        self.push(rows.collect(), d, From::Softmax(x))
    }

    pub fn gelu(&mut self, x: Var) -> Var {
        self.each(x, From::Gelu(x), gelu)
    }

    pub fn relu(&mut self, x: Var) -> Var {
        let zero = A::of(0.0);
        let positive = |v| if v > zero { v } else { zero };
        self.each(x, From::Relu(x), positive)
    }

    /// Rows below each other.
    pub fn stack(&mut self, parts: &[Var]) -> Var {
        let values = parts.iter().flat_map(|&part| self.values(part)).copied();
        let values = values.collect();
        self.push(values, self.columns(parts[0]), From::Stack(parts.to_vec()))
    }

    /// One row: those from `first` on, each times its factor.
    pub fn pool(&mut self, x: Var, first: usize, factors: Vec<f64>) -> Var {
        let d = self.columns(x);
        let rows = self.values(x)[first * d..].chunks_exact(d).zip(&factors);
        let mut all = vec![A::of(0.0); d];
        for (row, &factor) in rows {
            let terms = row.iter().map(|&v| A::of(factor) * v);
            all.iter_mut().zip(terms).for_each(|(all, v)| *all += v);
        }
        self.push(all, d, From::Pool(x, first, factors))
    }

    /// The sum of all elements.
    pub fn total(&mut self, x: Var) -> Var {
        let all = sum(self.values(x).iter().copied());
        self.push(vec![all], 1, From::Total(x))
    }

    /// Of every row the place of its largest element, the first of equal ones.
    pub fn winners(&self, x: Var) -> Vec<usize> {
        let d = self.columns(x);
        let best =
            |row: &[A]| (1..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best });
        self.values(x).chunks_exact(d).map(best).collect()
    }

    /// The gradients of `sum_i d_i y_i` in everything that `y` was made of; none where it has no part.
    pub fn backward(&self, y: Var, d_y: &[f64]) -> Gradients<A> {
        let mut all: Vec<Option<Vec<A>>> = self.nodes.iter().map(|_| None).collect();
        assert_eq!(d_y.len(), self.values(y).len());
        all[y.0] = Some(d_y.iter().map(|&v| A::of(v)).collect());
        for at in (0..=y.0).rev() {
            if matches!(self.nodes[at].from, From::Given) {
                continue;
            }
            if let Some(d) = all[at].take() {
                self.step_back(&self.nodes[at], &d, &mut all);
            }
        }
        Gradients(all)
    }

    fn step_back(&self, node: &Node<A>, d: &[A], all: &mut [Option<Vec<A>>]) {
        let mut add = |x: Var, values: &mut dyn Iterator<Item = A>| match &mut all[x.0] {
            Some(sum) => sum.iter_mut().zip(values).for_each(|(s, v)| *s += v),
            none => *none = Some(values.collect()),
        };
        let (columns, zero) = (node.columns, A::of(0.0));
        match &node.from {
            From::Given => {}
            From::Product {
                a,
                b,
                transposed: is_transposed,
            } => {
                let d = rounded(d, self.half);
                let [x, y] = [*a, *b].map(|v| rounded(self.values(v), self.half));
                let (k, n) = (self.columns(*a), columns);
                let (to_a, to_b) = if *is_transposed {
                    // y = a b^T: d_a = d b, d_b = d^T a.
                    (
                        product(&d, &y, n, k),
                        product(&transposed(&d, n), &x, d.len() / n, k),
                    )
                } else {
                    // d_a = d b^T, d_b = a^T d.
                    let to_a = product(&d, &transposed(&y, n), n, k);
                    (to_a, product(&transposed(&x, k), &d, x.len() / k, n))
                };
                for (v, values) in [(*a, to_a), (*b, to_b)] {
                    add(v, &mut rounded(&values, self.half).into_iter());
                }
            }
            From::Select(x, places) => {
                let mut values = vec![zero; self.values(*x).len()];
                for (&at, &d) in places.iter().zip(d).filter(|(at, _)| **at != NOTHING) {
                    values[at as usize] += d;
                }
                add(*x, &mut values.into_iter());
            }
            From::Sum(x, y) => {
                add(*x, &mut d.iter().copied());
                add(*y, &mut d.iter().copied());
            }
            From::SumRow(x, row) => {
                add(*x, &mut d.iter().copied());
                let column = |j| sum(d.iter().skip(j).step_by(columns).copied());
                add(*row, &mut (0..columns).map(column));
            }
            From::Times(x, y) => {
                add(*x, &mut d.iter().zip(self.values(*y)).map(|(&d, &v)| d * v));
                add(*y, &mut d.iter().zip(self.values(*x)).map(|(&d, &v)| d * v));
            }
            From::TimesRow(x, row) => {
                let factors = self.values(*row).iter().cycle();
                add(*x, &mut d.iter().zip(factors).map(|(&d, &v)| d * v));
                let of = self.values(*x);
                let column = |j| {
                    let rows = (j..d.len()).step_by(columns);
                    sum(rows.map(|at| d[at] * of[at]))
                };
                add(*row, &mut (0..columns).map(column));
            }
            From::Factors(x, factors) => {
                add(*x, &mut d.iter().zip(factors).map(|(&d, &f)| A::of(f) * d));
            }
            From::UnitRows(x) => {
                let rows = self.values(*x).chunks_exact(columns);
                let units = node.values.chunks_exact(columns);
                let all = rows.zip(units).zip(d.chunks_exact(columns));
                add(
                    *x,
                    &mut all.flat_map(|((row, unit), d)| {
                        let length = sum(row.iter().map(|&v| v * v)).sqrt();
                        let along = sum(d.iter().zip(unit).map(|(&d, &u)| d * u));
                        let each = d.iter().zip(unit);
                        each.map(move |(&d, &u)| (d - along * u) / length)
                    }),
                );
            }
            From::NormRows(x, eps) => {
                let rows = self.values(*x).chunks_exact(columns);
                let normed = node.values.chunks_exact(columns);
                let all = rows.zip(normed).zip(d.chunks_exact(columns));
                let n = A::of(columns as f64);
                add(
                    *x,
                    &mut all.flat_map(|((row, normed), d)| {
                        let [_, deviation] = of_row(row, *eps);
                        let mean = sum(d.iter().copied()) / n;
                        let along = sum(d.iter().zip(normed).map(|(&d, &y)| d * y)) / n;
                        let each = d.iter().zip(normed);
                        each.map(move |(&d, &y)| (d - mean - y * along) / deviation)
                    }),
                );
            }
            From::NormColumns(x, counts, eps) => {
                let [_, variance] = statistics(self.values(*x), columns, counts);
                let total = A::of(counts.iter().sum());
                // Rows that count twice have the gradient of both.
                let mean = |of: &dyn Fn(usize) -> A| -> Vec<A> {
                    let column = |j| sum((j..d.len()).step_by(columns).map(of)) / total;
                    (0..columns).map(column).collect()
                };
                let (means, along) = (mean(&|at| d[at]), mean(&|at| d[at] * node.values[at]));
                let value = |at: usize| {
                    let (j, count) = (at % columns, A::of(counts[at / columns]));
                    let rest = d[at] - count * (means[j] + node.values[at] * along[j]);
                    rest / (variance[j] + A::of(*eps)).sqrt()
                };
                add(*x, &mut (0..d.len()).map(value));
            }
            From::Softmax(x) => {
                let rows = node
                    .values
                    .chunks_exact(columns)
                    .zip(d.chunks_exact(columns));
                add(
                    *x,
                    &mut rows.flat_map(|(p, d)| {
                        let mean = sum(p.iter().zip(d).map(|(&p, &d)| p * d));
                        p.iter().zip(d).map(move |(&p, &d)| p * (d - mean))
                    }),
                );
            }
            From::Gelu(x) => {
                let slopes = self.values(*x).iter().map(|&v| gelu_slope(v));
                add(*x, &mut d.iter().zip(slopes).map(|(&d, slope)| d * slope));
            }
            From::Relu(x) => {
                let each = d.iter().zip(self.values(*x));
                add(
                    *x,
                    &mut each.map(|(&d, &v)| if v > zero { d } else { zero }),
                );
            }
            From::Pool(x, first, factors) => {
                let mut values = vec![zero; self.values(*x).len()];
                let rows = values[first * columns..].chunks_exact_mut(columns);
                for (row, &factor) in rows.zip(factors) {
                    let terms = d.iter().map(|&d| A::of(factor) * d);
                    row.iter_mut().zip(terms).for_each(|(v, d)| *v = d);
                }
                add(*x, &mut values.into_iter());
            }
            From::Total(x) => add(*x, &mut self.values(*x).iter().map(|_| d[0])),
            From::Stack(parts) => {
                let mut left = d;
                for &part in parts {
                    let (here, rest) = left.split_at(self.values(part).len());
                    add(part, &mut here.iter().copied());
                    left = rest;
                }
            }
        }
    }
}

/// Mean and deviation of a row.
fn of_row<A: Accum>(row: &[A], eps: f64) -> [A; 2] {
    let n = A::of(row.len() as f64);
    let mean = sum(row.iter().copied()) / n;
    let variance = sum(row.iter().map(|&v| (v - mean) * (v - mean))) / n;
    [mean, (variance + A::of(eps)).sqrt()]
}

/// Gradients in what a tape was given.
pub struct Gradients<A>(Vec<Option<Vec<A>>>);

impl<A: Accum> Gradients<A> {
    /// In one of it, of so many elements; zeros if it had no part.
    pub fn of(&self, x: Var, elements: usize) -> Vec<f64> {
        match &self.0[x.0] {
            Some(values) => values.iter().map(|v| v.to_f64()).collect(),
            None => vec![0.0; elements],
        }
    }
}
