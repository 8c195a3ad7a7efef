//! The shape of a whole set of embeddings, and how far it moved.

use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};

/// Neighbours per sentence that hubness counts.
pub const NEIGHBOURS: usize = 10;

/// Rows whose cosines with all others are held at a time.
const BLOCK: usize = 256;

/// How embeddings of sentences fill the sphere.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Space {
    /// Sentences.
    pub n: usize,
    /// Relevant pairs that `alignment` is about.
    pub relevant: usize,
    /// Mean cosine of two different sentences (anisotropy): 0 if directions are spread evenly, 1 if all are the same.
    pub anisotropy: f64,
    /// Mean squared distance of relevant pairs (alignment, Wang and Isola, 2020); less is closer.
    pub alignment: Option<f64>,
    /// `log E exp(-2 |a - b|^2)` over two different sentences (uniformity, the same); less is more even.
    pub uniformity: f64,
    /// `(sum of eigenvalues)^2 / sum of their squares` of the covariance: how many dimensions are in use.
    pub participation_ratio: f64,
    /// Skewness of how often a sentence is among the [`NEIGHBOURS`] nearest of others (hubness, Radovanović et al., 2010);
    /// `None` with no more sentences than that, or if all counts are equal.
    pub hubness: Option<f64>,
}

/// Describes `rows` (`[n][d]`, scaled to length 1 here), `relevant` being pairs of row numbers. `None` of fewer than two
/// rows, or if all are the same.
///
/// Takes `n^2 d` multiplications and holds no more than a few hundred rows of cosines.
///
/// # Panics
/// If `rows` is no multiple of `d`, or a pair is out of range.
pub fn space(rows: &[f32], d: usize, relevant: &[[usize; 2]]) -> Option<Space> {
    assert_eq!(rows.len() % d, 0, "rows of {d}");
    let n = rows.len() / d;
    if n < 2 {
        return None;
    }
    // Columns are sentences.
    let mut units = DMatrix::from_column_slice(d, n, rows);
    for mut column in units.column_iter_mut() {
        column.normalize_mut();
    }
    let centre = units.column_mean();
    let to_centre: Vec<f64> = units
        .tr_mul(&centre)
        .iter()
        .map(|&c| f64::from(c))
        .collect();
    let centre_squared = f64::from(centre.norm_squared());

    let (mut cosines, mut potential, mut trace, mut frobenius) = (0.0, 0.0, 0.0, 0.0);
    let mut occurrences = vec![0usize; n];
    let mut nearest: Vec<usize> = Vec::with_capacity(n);
    for start in (0..n).step_by(BLOCK) {
        let block = units.columns(start, BLOCK.min(n - start));
        let gram = units.tr_mul(&block);
        for (i, column) in (start..).zip(gram.column_iter()) {
            for (j, &cosine) in column.iter().enumerate() {
                let cosine = f64::from(cosine);
                let centred = cosine - to_centre[i] - to_centre[j] + centre_squared;
                frobenius += centred * centred;
                if i == j {
                    trace += centred;
                } else {
                    cosines += cosine;
                    potential += (-4.0 * (1.0 - cosine)).exp();
                }
            }
            if n > NEIGHBOURS {
                nearest.clear();
                nearest.extend((0..n).filter(|&j| j != i));
                // Of equal cosines the earlier sentence counts as nearer.
                let order = |a: &usize, b: &usize| column[*b].total_cmp(&column[*a]).then(a.cmp(b));
                if nearest.len() > NEIGHBOURS {
                    nearest.select_nth_unstable_by(NEIGHBOURS - 1, order);
                }
                for &j in &nearest[..NEIGHBOURS] {
                    occurrences[j] += 1;
                }
            }
        }
    }
    let pairs = (n * (n - 1)) as f64;
    let distance =
        |&[a, b]: &[usize; 2]| f64::from((units.column(a) - units.column(b)).norm_squared());
    let alignment = relevant.iter().map(distance).sum::<f64>() / relevant.len() as f64;
    (frobenius > 0.0).then(|| Space {
        n,
        relevant: relevant.len(),
        anisotropy: cosines / pairs,
        alignment: (!relevant.is_empty()).then_some(alignment),
        uniformity: (potential / pairs).ln(),
        participation_ratio: trace * trace / frobenius,
        hubness: skewness(&occurrences),
    })
}

/// Third standardised moment; `None` if all counts are equal.
fn skewness(counts: &[usize]) -> Option<f64> {
    let n = counts.len() as f64;
    let mean = counts.iter().sum::<usize>() as f64 / n;
    let moment = |power| {
        counts
            .iter()
            .map(|&c| (c as f64 - mean).powi(power))
            .sum::<f64>()
            / n
    };
    let variance = moment(2);
    (variance > 0.0).then(|| moment(3) / variance.powf(1.5))
}

/// How far embeddings moved beyond a rotation of the whole: the mean of `1 - cos(Q a, b)` over corresponding rows, `Q`
/// being the orthogonal matrix that brings `before` closest to `after` (Procrustes; Schönemann, 1966). Rows are scaled to
/// length 1 first. `None` of no rows.
///
/// # Panics
/// If the shapes differ.
pub fn drift(before: &[f32], after: &[f32], d: usize) -> Option<f64> {
    assert_eq!(before.len(), after.len(), "the same sentences");
    assert_eq!(before.len() % d, 0, "rows of {d}");
    let n = before.len() / d;
    if n == 0 {
        return None;
    }
    let units = |rows: &[f32]| {
        let mut units = DMatrix::from_iterator(d, n, rows.iter().map(|&x| f64::from(x)));
        for mut column in units.column_iter_mut() {
            column.normalize_mut();
        }
        units
    };
    let (before, after) = (units(before), units(after));
    // The sum of cosines after the best rotation is the sum of the singular values.
    let singular = (&after * before.transpose()).singular_values();
    Some((1.0 - singular.sum() / n as f64).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn close(a: f64, b: f64) {
        // Cosines are f32 products of rows of a few numbers.
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }

    #[test]
    fn a_cross_by_hand() {
        // Four directions at right angles in a plane, the first twice as long.
        let rows = [2.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0];
        let found = space(&rows, 2, &[[0, 1], [0, 2]]).unwrap();
        assert_eq!((found.n, found.relevant, found.hubness), (4, 2, None));
        close(found.anisotropy, -1.0 / 3.0);
        close(found.alignment.unwrap(), 3.0);
        let expected = (2.0 * (-4f64).exp() + (-8f64).exp()) / 3.0;
        close(found.uniformity, expected.ln());
        close(found.participation_ratio, 2.0);
        // Squeezed onto a line, one dimension is in use.
        let line = [1.0, 0.0, -1.0, 0.0];
        close(space(&line, 2, &[]).unwrap().participation_ratio, 1.0);
        assert_eq!(space(&line, 2, &[]).unwrap().alignment, None);
        assert_eq!(space(&[1.0, 0.0], 2, &[]), None);
        assert_eq!(space(&[1.0, 0.0, 2.0, 0.0], 2, &[]), None);
    }

    #[test]
    fn hubs_show() {
        // 300 points on a great circle have no hub; a pole beside points around it is everyone's neighbour.
        let circle: Vec<f32> = (0..300)
            .flat_map(|i| {
                let angle = std::f32::consts::TAU * (i as f32) / 300.0;
                [angle.cos(), angle.sin(), 0.0]
            })
            .collect();
        let even = space(&circle, 3, &[]).unwrap();
        assert!(even.hubness.is_none_or(|h| h.abs() < 0.5), "{even:?}");
        let mut rows: Vec<f32> = circle.chunks(3).flat_map(|p| [p[0], p[1], 30.0]).collect();
        rows.extend([0.0, 0.0, 1.0]);
        let mut stream = Stream::new(3, &["noise"], 0);
        let d = 40;
        let mut wide = Vec::new();
        for row in rows.chunks(3) {
            wide.extend_from_slice(row);
            // Every point but the pole has a direction of its own: all are nearer to the pole than to one another.
            let own = stream.below(d - 3);
            let last = row[0] == 0.0 && row[1] == 0.0;
            wide.extend((0..d - 3).map(|j| if j == own && !last { 20.0 } else { 0.0 }));
        }
        let hub = space(&wide, d, &[]).unwrap();
        assert!(hub.hubness.unwrap() > 2.0, "{hub:?}");
        close(skewness(&[0, 0, 0, 4]).unwrap(), 6.0 / 27f64.sqrt());
        assert_eq!(skewness(&[3, 3]), None);
    }

    #[test]
    fn rotations_are_no_drift() {
        let mut stream = Stream::new(4, &["rows"], 0);
        let (n, d) = (50, 3);
        let mut next = || stream.below(2001) as f32 / 1000.0 - 1.0;
        let before: Vec<f32> = (0..n * d).map(|_| next()).collect();
        // A turn about an axis and a reflection, and another length for every row.
        let (s, c) = 0.7f32.sin_cos();
        let turned: Vec<f32> = before
            .chunks(d)
            .zip(1..)
            .flat_map(|(r, k)| {
                let k = k as f32;
                [
                    k * (c * r[0] - s * r[1]),
                    k * (s * r[0] + c * r[1]),
                    -k * r[2],
                ]
            })
            .collect();
        assert!(drift(&before, &turned, d).unwrap() < 1e-6);
        let others: Vec<f32> = (0..n * d).map(|_| next()).collect();
        assert!(drift(&before, &others, d).unwrap() > 0.3);
        assert_eq!(drift(&[], &[], d), None);
    }
}
