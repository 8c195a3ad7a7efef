//! The arms of the experiment: which rows a training sees.
//!
//! | arm | structural rows | isolates |
//! | --- | --- | --- |
//! | A | none | baseline |
//! | A-id | anchor as positive, another sentence as negative | identity positives, another domain of sentences |
//! | A-para | paraphrase as positive, another sentence as negative | paraphrase supervision |
//! | B | anchor as positive, near-miss as negative | the treatment |
//! | B-matched | as B, more steps: retrieval rows are seen as often as in A | volume of data |
//! | B-para | paraphrase as positive, near-miss as negative | identity positives |
//! | B-dose(p) | as B, p % of the rows | dose response |
//! | B-own | as B, a near-miss is a candidate for its own anchor alone | near-misses as candidates of others |
//!
//! All arms of one seed take the same structural rows, and a smaller dose takes some of those of a larger one.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use crate::data::Category;
use crate::data::pairs::{NearMiss, Paraphrase};
use crate::data::triplets::Triplet;
use crate::error::{Error, Result};
use crate::random::Stream;

/// Which rows a training sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arm {
    /// Rows for retrieval alone.
    A,
    /// Structural rows with their near-miss replaced by another sentence.
    AId,
    /// The same with a paraphrase as the positive.
    APara,
    /// Structural rows with identity positives and near-misses.
    B,
    /// As B, with as many steps as show retrieval rows as often as A does.
    BMatched,
    /// Structural rows with paraphrases and near-misses.
    BPara,
    /// As B with this share of structural rows, 0 to below 1.
    BDose(f64),
    /// As B, near-misses being candidates for their own anchors alone.
    BOwn,
}

/// The arms that have no number.
const NAMES: [(&str, Arm); 7] = [
    ("A", Arm::A),
    ("A-id", Arm::AId),
    ("A-para", Arm::APara),
    ("B", Arm::B),
    ("B-matched", Arm::BMatched),
    ("B-para", Arm::BPara),
    ("B-own", Arm::BOwn),
];

impl Arm {
    /// Whether structural rows have a paraphrase for a positive.
    fn has_paraphrases(self) -> bool {
        matches!(self, Arm::APara | Arm::BPara)
    }

    /// Whether their near-misses are replaced.
    fn has_others(self) -> bool {
        matches!(self, Arm::AId | Arm::APara)
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Arm::BDose(share) = self {
            // A share such as 0.07 is no whole number of percent in binary.
            return write!(f, "B-dose({})", (share * 1e8).round() / 1e6);
        }
        let named = NAMES.iter().find(|(_, arm)| arm == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

impl FromStr for Arm {
    type Err = Error;

    /// The name of an arm in any case; a dose is in percent: `B-dose(2.5)`.
    fn from_str(text: &str) -> Result<Self> {
        if let Some((_, arm)) = NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
        {
            return Ok(*arm);
        }
        let lower = text.to_ascii_lowercase();
        let dose = lower
            .strip_prefix("b-dose(")
            .and_then(|rest| rest.strip_suffix(')'));
        match dose.and_then(|dose| dose.trim_end_matches('%').trim().parse::<f64>().ok()) {
            Some(percent) if (0.0..100.0).contains(&percent) => Ok(Arm::BDose(percent / 100.0)),
            _ => Err(Error::Usage(format!(
                "no arm is called `{text}`; there are {} and B-dose(P), P percent from 0 to below 100",
                NAMES.map(|(name, _)| name).join(", ")
            ))),
        }
    }
}

/// A sentence with a near-miss of it and, where there is one, a paraphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structural {
    /// The sentence.
    pub anchor: String,
    /// Another one of equal meaning.
    pub paraphrase: Option<String>,
    /// One that resembles it and says something else.
    pub near_miss: String,
    /// What the edit does.
    pub category: Category,
}

impl Structural {
    /// Near-misses as structural rows, each with the first paraphrase of its anchor, whichever side of a pair that is on. A
    /// sentence that is a near-miss of the anchor as well is no paraphrase of it.
    pub fn join(near_misses: &[NearMiss], paraphrases: &[Paraphrase]) -> Vec<Self> {
        let mut wrong: HashSet<(&str, &str)> = HashSet::new();
        for pair in near_misses {
            wrong.insert((&pair.anchor, &pair.text));
        }
        let mut equal: HashMap<&str, &str> = HashMap::new();
        for pair in paraphrases {
            for (of, text) in [(&pair.anchor, &pair.text), (&pair.text, &pair.anchor)] {
                let sides = (of.as_str(), text.as_str());
                if of != text && !wrong.contains(&sides) {
                    equal.entry(sides.0).or_insert(sides.1);
                }
            }
        }
        let row = |pair: &NearMiss| Structural {
            anchor: pair.anchor.clone(),
            paraphrase: equal.get(pair.anchor.as_str()).map(|text| text.to_string()),
            near_miss: pair.text.clone(),
            category: pair.category.clone(),
        };
        near_misses.iter().map(row).collect()
    }
}

/// The rows of an arm.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// Retrieval rows in their order, then structural rows.
    pub rows: Vec<Triplet>,
    /// Per row, whether its negative is a candidate for its own anchor alone.
    pub own: Vec<bool>,
    /// How many are structural.
    pub structural: usize,
    /// How many of those are there a second time or more, because a dose asks for more than there are.
    pub repeated: usize,
    /// How many were to have a paraphrase and, having none, have their anchor as the positive.
    pub without_paraphrase: usize,
    /// By how much the number of steps is to be multiplied.
    pub steps_factor: f64,
}

impl Mixed {
    /// The steps of this arm where A has so many.
    pub fn steps(&self, of_a: u64) -> u64 {
        (of_a as f64 * self.steps_factor).round() as u64
    }
}

/// The rows of an arm. `share` is the share of structural rows in arms that have some and no dose of their own; `None`
/// takes each of `structural` once.
///
/// # Errors
/// [`Error::Setting`] for a share that is not from 0 to below 1; [`Error::Invalid`] without retrieval rows, without
/// structural rows where some are asked for, or where no other sentence can take a near-miss's place.
pub fn mix(
    arm: Arm,
    retrieval: &[Triplet],
    structural: &[Structural],
    share: Option<f64>,
    seed: u64,
) -> Result<Mixed> {
    if retrieval.is_empty() {
        return Err(Error::Invalid(format!(
            "arm {arm} has no rows for retrieval; give some"
        )));
    }
    let share = match arm {
        Arm::A => Some(0.0),
        Arm::BDose(share) => Some(share),
        _ => share,
    };
    let wanted = match share {
        None => structural.len(),
        Some(share) if (0.0..1.0).contains(&share) => {
            (retrieval.len() as f64 * share / (1.0 - share)).round() as usize
        }
        Some(share) => {
            return Err(Error::Setting {
                setting: "share",
                message: format!(
                    "`share` is {share}; the share of structural rows is from 0 to below 1"
                ),
            });
        }
    };
    let none = structural.is_empty() && (wanted > 0 || share.is_none());
    if none {
        return Err(Error::Invalid(format!(
            "arm {arm} has no structural rows; give some"
        )));
    }
    let chosen = choose(structural.len(), wanted, seed);
    let mut mixed = Mixed {
        rows: retrieval.to_vec(),
        own: vec![false; retrieval.len()],
        structural: wanted,
        repeated: wanted.saturating_sub(structural.len()),
        without_paraphrase: 0,
        steps_factor: 1.0,
    };
    let others = arm.has_others().then(|| Others::new(structural));
    for i in chosen {
        let row = &structural[i];
        let paraphrase = match arm.has_paraphrases() {
            true => row.paraphrase.as_ref(),
            false => None,
        };
        mixed.without_paraphrase += usize::from(arm.has_paraphrases() && row.paraphrase.is_none());
        mixed.rows.push(Triplet {
            anchor: row.anchor.clone(),
            positive: paraphrase.unwrap_or(&row.anchor).clone(),
            negative: match &others {
                Some(others) => others.of(i, seed)?.to_string(),
                None => row.near_miss.clone(),
            },
            category: row.category.clone(),
        });
        mixed.own.push(arm == Arm::BOwn);
    }
    if arm == Arm::BMatched {
        mixed.steps_factor = mixed.rows.len() as f64 / retrieval.len() as f64;
    }
    Ok(mixed)
}

/// `wanted` of the numbers `0 .. n`, in rising order: the first of a seeded permutation, all of them as often as they fit.
fn choose(n: usize, wanted: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    Stream::new(seed, &["train", "arms", "rows"], 0).shuffle(&mut order);
    let mut chosen: Vec<usize> = order.into_iter().cycle().take(wanted).collect();
    chosen.sort_unstable();
    chosen
}

/// Sentences that can take the place of near-misses.
struct Others<'a> {
    structural: &'a [Structural],
    /// What is near each anchor in any row: itself, its near-misses and paraphrases.
    near: HashMap<&'a str, HashSet<&'a str>>,
}

impl<'a> Others<'a> {
    fn new(structural: &'a [Structural]) -> Self {
        let mut near: HashMap<&str, HashSet<&str>> = HashMap::new();
        for row in structural {
            let of_anchor = near.entry(&row.anchor).or_default();
            of_anchor.extend([row.anchor.as_str(), &row.near_miss]);
            of_anchor.extend(row.paraphrase.as_deref());
        }
        Others { structural, near }
    }

    /// The anchor of another row, drawn at random; what is near the own anchor is passed over.
    fn of(&self, row: usize, seed: u64) -> Result<&'a str> {
        let anchor = self.structural[row].anchor.as_str();
        let n = self.structural.len();
        let mut stream = Stream::new(seed, &["train", "arms", "others"], row as u64);
        let fits = |at: usize| {
            let text = self.structural[at].anchor.as_str();
            (!self.near[anchor].contains(text)).then_some(text)
        };
        // Draws find one nearly always; if not, the first behind a place that is drawn.
        let drawn = (0..64).find_map(|_| fits(stream.below(n)));
        let start = stream.below(n);
        let other = drawn.or_else(|| (start..start + n).find_map(|at| fits(at % n)));
        other.ok_or_else(|| {
            Error::Invalid(format!(
                "no other sentence can take the place of the near-miss of {anchor:?}; give rows with other anchors"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retrieval(n: usize) -> Vec<Triplet> {
        (0..n)
            .map(|i| Triplet {
                anchor: format!("question {i}"),
                positive: format!("answer {i}"),
                negative: format!("answer {}", i + 1),
                category: Category::parse("nq"),
            })
            .collect()
    }

    /// Three near-misses of each sentence; every other sentence has a paraphrase.
    fn structural(n: usize) -> Vec<Structural> {
        (0..n)
            .map(|i| Structural {
                anchor: format!("sentence {}", i / 3),
                paraphrase: (i / 3 % 2 == 0).then(|| format!("the same {}", i / 3)),
                near_miss: format!("not sentence {i}"),
                category: Category::Negation,
            })
            .collect()
    }

    fn of(arm: Arm, share: Option<f64>) -> Mixed {
        let mixed = mix(arm, &retrieval(100), &structural(24), share, 42).unwrap();
        assert_eq!(mixed.rows[..100], retrieval(100));
        assert_eq!(mixed.rows.len(), mixed.own.len());
        assert_eq!(mixed.rows.len(), 100 + mixed.structural);
        mixed
    }

    #[test]
    fn every_arm_has_its_rows() {
        let base = structural(24);
        assert_eq!(of(Arm::A, None).structural, 0);
        for arm in [
            Arm::B,
            Arm::BMatched,
            Arm::BOwn,
            Arm::AId,
            Arm::APara,
            Arm::BPara,
        ] {
            let mixed = of(arm, None);
            assert_eq!((mixed.structural, mixed.repeated), (24, 0), "{arm}");
            for ((row, base), own) in mixed.rows[100..].iter().zip(&base).zip(&mixed.own[100..]) {
                assert_eq!((&row.anchor, &row.category), (&base.anchor, &base.category));
                let positive = match arm {
                    Arm::APara | Arm::BPara => base.paraphrase.as_ref().unwrap_or(&base.anchor),
                    _ => &base.anchor,
                };
                assert_eq!(&row.positive, positive);
                match arm {
                    Arm::AId | Arm::APara => {
                        // Another row's anchor: nothing that is near the own one.
                        assert!(
                            base.anchor != row.negative && row.negative.starts_with("sentence")
                        );
                    }
                    _ => assert_eq!(row.negative, base.near_miss),
                }
                assert_eq!(*own, arm == Arm::BOwn);
            }
            let without = match arm {
                Arm::APara | Arm::BPara => 12,
                _ => 0,
            };
            assert_eq!(mixed.without_paraphrase, without);
            let factor = if arm == Arm::BMatched { 1.24 } else { 1.0 };
            assert_eq!(mixed.steps_factor, factor);
            assert!(mixed.own[..100].iter().all(|own| !own));
        }
        // A-id and A-para differ in their positives alone, and B-own from B in nothing but whose the negatives are.
        let negatives =
            |arm| -> Vec<String> { of(arm, None).rows.into_iter().map(|r| r.negative).collect() };
        assert_eq!(negatives(Arm::AId), negatives(Arm::APara));
        assert_eq!(of(Arm::B, None).rows, of(Arm::BOwn, None).rows);
        // The protocol's files: 123,856 rows for 100,000.
        let matched = mix(Arm::BMatched, &retrieval(1000), &structural(239), None, 1).unwrap();
        assert_eq!((matched.steps_factor, matched.steps(3375)), (1.239, 4182));
        assert_eq!((matched.structural, matched.rows.len()), (239, 1239));
    }

    #[test]
    fn doses_are_nested_and_exact() {
        let rows = |percent: f64| of(Arm::BDose(percent / 100.0), None);
        assert_eq!(
            rows(0.0),
            Mixed {
                steps_factor: 1.0,
                ..of(Arm::A, None)
            }
        );
        let mut before: Vec<Triplet> = Vec::new();
        for percent in [2.5, 5.0, 10.0, 20.0, 40.0] {
            let mixed = rows(percent);
            // As near as whole rows come: within half a row.
            let exact = 100.0 * percent / (100.0 - percent);
            assert!((mixed.structural as f64 - exact).abs() <= 0.5, "{percent}");
            let now = mixed.rows[100..].to_vec();
            assert!(before.iter().all(|row| now.contains(row)));
            assert_eq!(mixed.repeated, mixed.structural.saturating_sub(24));
            before = now;
        }
        // 40 % are 67 rows: every one of the 24 twice, and 19 of them three times.
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for row in &before {
            *counts.entry(&row.negative).or_default() += 1;
        }
        let of = |n: usize| counts.values().filter(|&&count| count == n).count();
        assert_eq!((of(2), of(3), counts.len()), (5, 19, 24));
    }

    #[test]
    fn a_share_takes_the_same_rows_in_every_arm() {
        let anchors = |arm| -> Vec<(String, Category)> {
            let rows = of(arm, Some(0.1)).rows.into_iter().skip(100);
            rows.map(|row| (row.anchor, row.category)).collect()
        };
        assert_eq!(anchors(Arm::B).len(), 11);
        for arm in [Arm::AId, Arm::APara, Arm::BPara, Arm::BOwn, Arm::BDose(0.1)] {
            assert_eq!(anchors(arm), anchors(Arm::B));
        }
        let all = |seed| mix(Arm::B, &retrieval(100), &structural(24), Some(0.1), seed).unwrap();
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let said = |share: Option<f64>, structural: &[Structural]| {
            let error = mix(Arm::B, &retrieval(9), structural, share, 0).unwrap_err();
            error.to_string()
        };
        assert!(said(Some(1.0), &structural(3)).contains("below 1"));
        assert!(said(None, &[]).contains("no structural rows"));
        let lonely = mix(Arm::AId, &retrieval(9), &structural(3), None, 0).unwrap_err();
        assert!(lonely.to_string().contains("no other sentence"), "{lonely}");
    }

    #[test]
    fn paraphrases_find_their_anchors() {
        let near = |anchor: &str, text: &str| NearMiss {
            anchor: anchor.into(),
            text: text.into(),
            category: Category::Spatial,
            source: "x".into(),
        };
        let same = |anchor: &str, text: &str| Paraphrase {
            anchor: anchor.into(),
            text: text.into(),
            source: "x".into(),
        };
        let near_misses = [
            near("a", "a'"),
            near("b", "b'"),
            near("c", "c'"),
            near("a", "z"),
        ];
        let paraphrases = [
            same("a", "z"),
            same("a", "a1"),
            same("b2", "b"),
            same("a", "a3"),
        ];
        let rows = Structural::join(&near_misses, &paraphrases);
        let found: Vec<Option<&str>> = rows.iter().map(|row| row.paraphrase.as_deref()).collect();
        assert_eq!(found, [Some("a1"), Some("b2"), None, Some("a1")]);
        assert_eq!((&rows[3].anchor[..], &rows[3].near_miss[..]), ("a", "z"));
    }

    #[test]
    fn names_are_read_back() {
        let doses = [0.0, 2.5, 5.0, 7.0, 10.0, 20.0, 40.0].map(|p| Arm::BDose(p / 100.0));
        for arm in NAMES.map(|(_, arm)| arm).into_iter().chain(doses) {
            assert_eq!(arm.to_string().parse::<Arm>().unwrap(), arm);
        }
        assert_eq!(Arm::BDose(0.07).to_string(), "B-dose(7)");
        assert_eq!("b-DOSE(2.5%)".parse::<Arm>().unwrap(), Arm::BDose(0.025));
        for wrong in ["C", "B-dose", "B-dose(100)", "B-dose(x)", ""] {
            let error = wrong.parse::<Arm>().unwrap_err().to_string();
            assert!(error.contains("A, A-id, A-para, B, B-matched"), "{error}");
        }
    }
}
