//! What the embeddings themselves look like: angles, caps, superposition, and whether anything else moved.

mod conditions;
mod space;
mod structure;

use serde::Serialize;

pub use conditions::{BALANCE, CONDITIONS, Conditions, SceneScores, conditions};
pub use space::{NEIGHBOURS, Space, drift, space};
pub use structure::{Cell, Structure, Superposition, structure, superposition};

use super::statistics::{degrees, median, quantile};

/// Where edits put a sentence, relative to unrelated sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// Near-misses are at least half as far as unrelated sentences and twice as far as paraphrases.
    Ideal,
    /// Near-misses are no farther than paraphrases.
    Blind,
    /// Neither.
    Between,
}

/// Median angles in degrees, and their quotients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Displacement {
    /// Between an anchor and its near-miss.
    pub near_miss: f64,
    /// Between an anchor and its paraphrase.
    pub paraphrase: f64,
    /// Between unrelated sentences.
    pub unrelated: f64,
    /// `near_miss / unrelated`.
    pub d: f64,
    /// `paraphrase / unrelated`.
    pub d_paraphrase: f64,
    /// What that means.
    pub regime: Regime,
}

/// Normalised displacement: how far near-misses and paraphrases lie from their anchors in units of the median angle
/// between unrelated sentences. `None` if one of the three has no cosine, or unrelated sentences coincide.
pub fn displacement(
    near_misses: &[f64],
    paraphrases: &[f64],
    unrelated: &[f64],
) -> Option<Displacement> {
    let angle = |cosines: &[f64]| median(&cosines.iter().map(|&c| degrees(c)).collect::<Vec<_>>());
    let (near_miss, paraphrase) = (angle(near_misses)?, angle(paraphrases)?);
    let unrelated = angle(unrelated).filter(|&angle| angle > 0.0)?;
    let (d, d_paraphrase) = (near_miss / unrelated, paraphrase / unrelated);
    Some(Displacement {
        near_miss,
        paraphrase,
        unrelated,
        d,
        d_paraphrase,
        regime: if d >= 0.5 && d >= 2.0 * d_paraphrase {
            Regime::Ideal
        } else if d <= d_paraphrase {
            Regime::Blind
        } else {
            Regime::Between
        },
    })
}

/// Room around an anchor: what lies inside the cap that holds 95 % of the paraphrases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cap {
    /// Its half angle in degrees, the 95th percentile of the paraphrases' angles.
    pub degrees: f64,
    /// Share of near-misses outside.
    pub near_misses_outside: f64,
}

/// The cap of some paraphrases, and how many near-misses are outside of it. `None` if there are none of either.
pub fn cap(paraphrases: &[f64], near_misses: &[f64]) -> Option<Cap> {
    let angles: Vec<f64> = paraphrases.iter().map(|&c| degrees(c)).collect();
    let rho = quantile(&angles, 0.95)?;
    Some(Cap {
        degrees: rho,
        near_misses_outside: share_outside(rho, near_misses)?,
    })
}

/// Share of the pairs whose angle exceeds `rho` degrees; `None` of no pairs. Of relevant (query, document) pairs this is
/// the recall that a hard limit on the angle would cost.
pub fn share_outside(rho: f64, cosines: &[f64]) -> Option<f64> {
    let outside = cosines.iter().filter(|&&c| degrees(c) > rho).count();
    (!cosines.is_empty()).then(|| outside as f64 / cosines.len() as f64)
}

/// The least cosine that two sentences can have whose embeddings have cosines `c` and `c_other` to one common vector:
/// `c c' - sqrt(1 - c^2) sqrt(1 - c'^2)`, the cosine of the sum of the angles.
///
/// A sentence and its re-bound version share the superposition of their parts; where both lie close to it they are
/// close to one another, whatever the training.
///
/// ```
/// use nearmiss::metrics::geometry::superposition_bound;
/// assert!((superposition_bound(0.97, 0.95) - 0.8455905144).abs() < 1e-10);
/// ```
pub fn superposition_bound(c: f64, c_other: f64) -> f64 {
    let (c, c_other) = (c.clamp(-1.0, 1.0), c_other.clamp(-1.0, 1.0));
    c * c_other - ((1.0 - c * c) * (1.0 - c_other * c_other)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosines(angles: &[f64]) -> Vec<f64> {
        angles.iter().map(|a| a.to_radians().cos()).collect()
    }

    #[test]
    fn displacement_by_hand() {
        let of = |near: f64, para: f64| {
            displacement(
                &cosines(&[near - 1.0, near, near + 5.0]),
                &cosines(&[para]),
                &cosines(&[70.0, 90.0, 80.0]),
            )
            .unwrap()
        };
        let found = of(40.0, 20.0);
        assert!((found.d - 0.5).abs() < 1e-9 && (found.d_paraphrase - 0.25).abs() < 1e-9);
        assert_eq!(of(40.1, 20.0).regime, Regime::Ideal);
        assert_eq!(of(39.0, 5.0).regime, Regime::Between);
        assert_eq!(of(60.0, 40.0).regime, Regime::Between);
        assert_eq!(of(10.0, 20.0).regime, Regime::Blind);
        assert_eq!(displacement(&[], &[1.0], &[0.0]), None);
        assert_eq!(displacement(&[0.5], &[1.0], &[1.0]), None);
    }

    #[test]
    fn caps_by_hand() {
        let paraphrases: Vec<f64> = (0..=100).map(|i| f64::from(i) / 10.0).collect();
        let found = cap(&cosines(&paraphrases), &cosines(&[9.0, 9.4, 9.6, 30.0])).unwrap();
        assert!((found.degrees - 9.5).abs() < 1e-9);
        assert_eq!(found.near_misses_outside, 0.5);
        assert_eq!(cap(&[], &[0.5]), None);
    }

    #[test]
    fn the_bound_is_reached_in_a_plane() {
        let at = |degrees: f64| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        let dot = |a: [f64; 2], b: [f64; 2]| a[0] * b[0] + a[1] * b[1];
        let (common, s, other) = (at(0.0), at(25.0), at(-15.0));
        let bound = superposition_bound(dot(common, s), dot(common, other));
        assert!((bound - dot(s, other)).abs() < 1e-12);
    }
}
