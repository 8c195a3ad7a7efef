//! What embeddings of "the α x and the β y" are made of: of their words, or of their phrases.

use nalgebra::DMatrix;
use serde::Serialize;

use super::superposition_bound;
use crate::metrics::statistics::{mean, median, quantile};

/// The words of a sentence "the α x and the β y", numbered: modifier and thing of the first part, then of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// α and β.
    pub modifiers: [usize; 2],
    /// x and y.
    pub things: [usize; 2],
}

/// How well two linear models tell embeddings that they have not seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Structure {
    /// Sentences that the models are fitted to.
    pub fitted: usize,
    /// Sentences that they are judged on.
    pub held_out: usize,
    /// R² of `e = m + u(α) + u'(β) + v(x) + v'(y)`: a sum of words, blind to which modifier belongs to which thing.
    pub additive: f64,
    /// R² of `e = m + w(α, x) + w'(β, y)`: a sum of phrases.
    pub bound: f64,
}

impl Structure {
    /// What phrases explain beyond words; above 0 where the embedding binds modifiers to things.
    pub fn binding_gain(&self) -> f64 {
        self.bound - self.additive
    }
}

/// Fits both models by least squares to the `rows` (`[cells][d]`) of the cells that are not `held_out`, and judges them on
/// those that are. R² is the share of the squared distance from the fitted rows' mean that is explained, over all
/// dimensions together.
///
/// Among equally good fits the one with the smallest coefficients is taken (pseudo-inverse); a sum of word vectors does
/// not say how much belongs to which, but the sum is the same.
///
/// `None` if nothing is held out, nothing is left, or the held-out rows do not vary.
///
/// # Panics
/// If the lengths disagree.
pub fn structure(cells: &[Cell], rows: &[f32], d: usize, held_out: &[bool]) -> Option<Structure> {
    assert_eq!(rows.len(), cells.len() * d, "one row of {d} for every cell");
    assert_eq!(held_out.len(), cells.len(), "one flag for every cell");
    let side =
        |held: bool| -> Vec<usize> { (0..cells.len()).filter(|&i| held_out[i] == held).collect() };
    let (fitted, judged) = (side(false), side(true));
    let count = |of: fn(&Cell) -> [usize; 2]| cells.iter().flat_map(of).max().map_or(0, |m| m + 1);
    let (n_modifiers, n_things) = (count(|c| c.modifiers), count(|c| c.things));
    let words = |cell: &Cell| {
        let things = 1 + 2 * n_modifiers;
        vec![
            0,
            1 + cell.modifiers[0],
            1 + n_modifiers + cell.modifiers[1],
            things + cell.things[0],
            things + n_things + cell.things[1],
        ]
    };
    let phrases = |cell: &Cell| {
        let phrase = |i: usize| cell.modifiers[i] * n_things + cell.things[i];
        vec![0, 1 + phrase(0), 1 + n_modifiers * n_things + phrase(1)]
    };
    let additive = Design {
        columns: 1 + 2 * (n_modifiers + n_things),
        of: &words,
    };
    let bound = Design {
        columns: 1 + 2 * n_modifiers * n_things,
        of: &phrases,
    };
    Some(Structure {
        fitted: fitted.len(),
        held_out: judged.len(),
        additive: additive.r2(cells, rows, d, &fitted, &judged)?,
        bound: bound.r2(cells, rows, d, &fitted, &judged)?,
    })
}

/// A linear model whose inputs are 0 or 1: `of` lists the columns that are 1.
struct Design<'a> {
    columns: usize,
    of: &'a dyn Fn(&Cell) -> Vec<usize>,
}

impl Design<'_> {
    fn matrix(&self, cells: &[Cell], these: &[usize]) -> DMatrix<f64> {
        let mut matrix = DMatrix::zeros(these.len(), self.columns);
        for (row, &i) in these.iter().enumerate() {
            for column in (self.of)(&cells[i]) {
                matrix[(row, column)] = 1.0;
            }
        }
        matrix
    }

    fn r2(
        &self,
        cells: &[Cell],
        rows: &[f32],
        d: usize,
        fitted: &[usize],
        judged: &[usize],
    ) -> Option<f64> {
        if fitted.is_empty() || judged.is_empty() {
            return None;
        }
        let values = |these: &[usize]| {
            DMatrix::from_fn(these.len(), d, |i, j| f64::from(rows[these[i] * d + j]))
        };
        let (x, y) = (self.matrix(cells, fitted), values(fitted));
        let normal = x.tr_mul(&x);
        // Eigenvalues are counts of sentences or 0; what rounding leaves of a 0 is far below.
        let inverse = normal.pseudo_inverse(1e-6).ok()?;
        let weights = inverse * x.tr_mul(&y);
        let truth = values(judged);
        let residual = (&truth - self.matrix(cells, judged) * weights).norm_squared();
        let centre = y.row_mean();
        let total: f64 = truth
            .row_iter()
            .map(|row| (row - &centre).norm_squared())
            .sum();
        (total > 0.0).then(|| 1.0 - residual / total)
    }
}

/// How much of sentences is the superposition of their parts, and what follows for re-bound ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Superposition {
    /// Pairs of a sentence and its re-bound version.
    pub n: usize,
    /// 5th percentile, median and 95th percentile of the cosine of a sentence with the superposition of its parts.
    pub fit: [f64; 3],
    /// The same of the least cosine that sentence and re-bound sentence can then have.
    pub bound: [f64; 3],
    /// The same of the cosine that they have.
    pub measured: [f64; 3],
    /// Mean of the measured cosine less its bound.
    pub slack: f64,
}

/// Summarises pairs of (cosine of a sentence with its parts' superposition, cosine of the re-bound sentence with the same,
/// cosine of the two). `None` of no pairs.
pub fn superposition(pairs: &[[f64; 3]]) -> Option<Superposition> {
    let spread = |values: &[f64]| -> Option<[f64; 3]> {
        Some([
            quantile(values, 0.05)?,
            median(values)?,
            quantile(values, 0.95)?,
        ])
    };
    let of = |f: fn(&[f64; 3]) -> f64| pairs.iter().map(f).collect::<Vec<f64>>();
    let bounds = of(|&[c, other, _]| superposition_bound(c, other));
    let measured = of(|pair| pair[2]);
    let slack: Vec<f64> = measured.iter().zip(&bounds).map(|(m, b)| m - b).collect();
    Some(Superposition {
        n: pairs.len(),
        fit: spread(&of(|pair| pair[0]))?,
        bound: spread(&bounds)?,
        measured: spread(&measured)?,
        slack: mean(&slack)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    const MODIFIERS: usize = 4;
    const THINGS: usize = 5;
    const D: usize = 12;

    fn cells() -> Vec<Cell> {
        let mut cells = Vec::new();
        for a in 0..MODIFIERS {
            for x in 0..THINGS {
                for b in (0..MODIFIERS).filter(|&b| b != a) {
                    for y in (0..THINGS).filter(|&y| y != x) {
                        cells.push(Cell {
                            modifiers: [a, b],
                            things: [x, y],
                        });
                    }
                }
            }
        }
        cells
    }

    /// A vector that depends on a name alone.
    fn vector(name: &str, numbers: [usize; 2]) -> Vec<f32> {
        let name = [name, &format!("{numbers:?}")];
        let mut stream = Stream::new(1, &name, 0);
        (0..D)
            .map(|_| stream.below(2001) as f32 / 1000.0 - 1.0)
            .collect()
    }

    fn rows(parts: impl Fn(&Cell) -> Vec<Vec<f32>>) -> Vec<f32> {
        let sum = |cell: &Cell| {
            let parts = parts(cell);
            (0..D).map(move |j| parts.iter().map(|part| part[j]).sum())
        };
        cells().iter().flat_map(sum).collect()
    }

    fn held_out() -> Vec<bool> {
        let mut stream = Stream::new(2, &["held out"], 0);
        cells().iter().map(|_| stream.below(5) == 0).collect()
    }

    #[test]
    fn sums_of_words_are_recognised() {
        let rows = rows(|cell| {
            let [a, b] = cell.modifiers.map(|i| vector("modifier", [i, 0]));
            let [x, y] = cell.things.map(|i| vector("thing", [i, 0]));
            vec![a, x, b, y]
        });
        let found = structure(&cells(), &rows, D, &held_out()).unwrap();
        assert_eq!(found.fitted + found.held_out, cells().len());
        // Rows are f32 sums of four numbers below 1: relative errors of 1e-7, squared in R².
        assert!(found.additive > 1.0 - 1e-9, "{found:?}");
        assert!(found.bound > 1.0 - 1e-9, "{found:?}");
    }

    #[test]
    fn sums_of_phrases_are_recognised() {
        let rows = rows(|cell| {
            let phrase = |i: usize| vector("phrase", [cell.modifiers[i], cell.things[i]]);
            vec![phrase(0), phrase(1)]
        });
        let found = structure(&cells(), &rows, D, &held_out()).unwrap();
        assert!(found.bound > 1.0 - 1e-9, "{found:?}");
        // Of a random vector per phrase, words explain what a grid's margins do: (4 + 5 - 2) of 19 degrees of freedom.
        assert!(found.additive < 0.6, "{found:?}");
        assert!(found.binding_gain() > 0.4, "{found:?}");
    }

    #[test]
    fn nothing_to_judge() {
        let rows = rows(|cell| vec![vector("thing", cell.things)]);
        assert_eq!(
            structure(&cells(), &rows, D, &vec![false; cells().len()]),
            None
        );
        assert_eq!(
            structure(&cells(), &rows, D, &vec![true; cells().len()]),
            None
        );
        let flat = vec![0.5; rows.len()];
        assert_eq!(structure(&cells(), &flat, D, &held_out()), None);
    }

    #[test]
    fn superposition_by_hand() {
        let found = superposition(&[[0.97, 0.95, 0.99], [0.8, 0.6, 0.5]]).unwrap();
        assert_eq!(found.n, 2);
        let bounds = [superposition_bound(0.97, 0.95), 0.0];
        assert!((found.bound[1] - (bounds[0] + bounds[1]) / 2.0).abs() < 1e-12);
        assert!((found.slack - (0.99 - bounds[0] + 0.5) / 2.0).abs() < 1e-12);
        assert!((found.fit[0] - (0.8 + 0.05 * 0.17)).abs() < 1e-12);
        assert_eq!(superposition(&[]), None);
    }
}
