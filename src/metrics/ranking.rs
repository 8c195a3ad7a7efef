//! Ranking metrics at a cut-off `k`, and their average over the queries of a test collection.
//!
//! With `rel(r)` in {0, 1} the relevance of the document at rank `r` (from 1) and `R` the number of relevant documents:
//!
//! | metric | definition |
//! | --- | --- |
//! | nDCG@k | `sum_{r<=k} rel(r) / log2(r + 1)` over `sum_{r<=min(k,R)} 1 / log2(r + 1)` |
//! | graded nDCG@k | `sum_{r<=k} grade(r) / log2(r + 1)` over the same sum for the judged grades, best first |
//! | MRR@k | 1 / rank of the first relevant document within `k`, else 0 |
//! | Accuracy@k | 1 if a relevant document is within `k`, else 0 |
//! | Precision@k, Recall@k | hits within `k`, over `k` or over `R` |
//! | MAP@k | `sum_{r<=k} rel(r) * Precision@r`, over `min(k, R)` |
//!
//! nDCG is Järvelin and Kekäläinen (2002) with the discount `log2(r + 1)`, which starts at rank 1, and a linear gain
//! (not `2^grade - 1`). trec_eval's `map_cut_k` divides by `R` where MAP@k here divides by `min(k, R)`, so that a
//! perfect first `k` scores 1; the two agree as long as `R <= k`.
//!
//! The functions take relevance in rank order and never see an id or a score. How ties were broken is decided by whoever
//! made the ranking. A ranking shorter than `k` behaves as if non-relevant documents followed, and every metric is 0
//! for `k = 0` or for a query without a relevant document (nothing is there to be found).
//!
//! [`evaluate`] joins a [`Run`] with [`Qrels`]:
//!
//! ```
//! use nearmiss::metrics::ranking::{Qrels, Run, evaluate};
//!
//! let qrels = Qrels::from_iter([("q1", "d2", 1), ("q1", "d5", 2), ("q1", "d9", 1)]);
//! let ranking = ["d1", "d2", "d3", "d4", "d5"].map(String::from).to_vec();
//! let run = Run::from([("q1".to_string(), ranking)]);
//! let evaluation = evaluate(&run, &qrels)?;
//! assert_eq!(evaluation.mean.mrr_at_10, 0.5);
//! assert_eq!(evaluation.mean.get("recall@10"), Some(2.0 / 3.0));
//! # Ok::<(), nearmiss::Error>(())
//! ```
//!
//! Cost: one map look-up per ranked document and one pass over the ranking per metric.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The discount of rank `index + 1`.
fn discount(index: usize) -> f64 {
    1.0 / (index as f64 + 2.0).log2()
}

/// Relevant documents among the first `k`.
fn hits(relevance: &[bool], k: usize) -> usize {
    relevance.iter().take(k).filter(|&&rel| rel).count()
}

/// `numerator / denominator`, 0 where there is nothing to divide by.
fn share(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 {
        numerator / denominator
    } else {
        0.0
    }
}

/// Binary nDCG@k of `relevance` (in rank order) for a query with `n_relevant` relevant documents.
pub fn ndcg_at_k(relevance: &[bool], n_relevant: usize, k: usize) -> f64 {
    let dcg: f64 = (0..k.min(relevance.len()))
        .filter(|&i| relevance[i])
        .map(discount)
        .sum();
    share(dcg, (0..k.min(n_relevant)).map(discount).sum())
}

/// Graded nDCG@k with linear gain: `grades` in rank order, `judged` all grades of the query in any order.
///
/// The ideal ranking comes from all judged documents, retrieved or not. A grade of 0 or less gains nothing; an unjudged
/// document has grade 0.
pub fn graded_ndcg_at_k(grades: &[i64], judged: &[i64], k: usize) -> f64 {
    let dcg = |gains: &[i64]| -> f64 {
        gains
            .iter()
            .take(k)
            .enumerate()
            .map(|(i, &grade)| grade.max(0) as f64 * discount(i))
            .sum()
    };
    let mut ideal = judged.to_vec();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    share(dcg(grades), dcg(&ideal))
}

/// Reciprocal rank of the first relevant document within `k`, else 0.
pub fn mrr_at_k(relevance: &[bool], k: usize) -> f64 {
    relevance
        .iter()
        .take(k)
        .position(|&rel| rel)
        .map_or(0.0, |i| 1.0 / (i + 1) as f64)
}

/// 1 if a relevant document is within `k`, else 0.
pub fn accuracy_at_k(relevance: &[bool], k: usize) -> f64 {
    f64::from(u8::from(hits(relevance, k) > 0))
}

/// Hits within `k` over `k`, also where the ranking is shorter than `k`.
pub fn precision_at_k(relevance: &[bool], k: usize) -> f64 {
    share(hits(relevance, k) as f64, k as f64)
}

/// Hits within `k` over the `n_relevant` relevant documents.
pub fn recall_at_k(relevance: &[bool], n_relevant: usize, k: usize) -> f64 {
    share(hits(relevance, k) as f64, n_relevant as f64)
}

/// Average precision at `k`: the precisions at the ranks of the hits within `k`, summed, over `min(k, n_relevant)`.
pub fn average_precision_at_k(relevance: &[bool], n_relevant: usize, k: usize) -> f64 {
    let at_hits = (1..=k.min(relevance.len())).filter(|&rank| relevance[rank - 1]);
    let sum: f64 = at_hits
        .enumerate()
        .map(|(earlier, rank)| (earlier + 1) as f64 / rank as f64)
        .sum();
    share(sum, k.min(n_relevant) as f64)
}

/// Declares [`RankingMetrics`] so that a metric's field, public name and place in the order are stated once.
macro_rules! ranking_metrics {
    ($($field:ident $name:literal $doc:literal,)+) => {
        /// The metrics that are reported for a query or, averaged, for a collection.
        ///
        /// Serialises as a map with keys such as `ndcg@10`, in the order of [`RankingMetrics::NAMES`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct RankingMetrics {
            $(#[doc = $doc] #[serde(rename = $name)] pub $field: f64,)+
        }

        impl RankingMetrics {
            /// Names as in tables and files, in their fixed order.
            pub const NAMES: [&'static str; [$($name),+].len()] = [$($name),+];

            /// Values in the order of [`RankingMetrics::NAMES`].
            pub fn values(&self) -> [f64; Self::NAMES.len()] {
                [$(self.$field),+]
            }

            fn values_mut(&mut self) -> [&mut f64; Self::NAMES.len()] {
                [$(&mut self.$field),+]
            }
        }
    };
}

ranking_metrics! {
    ndcg_at_10 "ndcg@10" "Binary nDCG@10, the headline.",
    mrr_at_1 "mrr@1" "Reciprocal rank of the first hit within 1.",
    mrr_at_3 "mrr@3" "Reciprocal rank of the first hit within 3.",
    mrr_at_5 "mrr@5" "Reciprocal rank of the first hit within 5.",
    mrr_at_10 "mrr@10" "Reciprocal rank of the first hit within 10.",
    accuracy_at_1 "accuracy@1" "1 if the first document is relevant.",
    accuracy_at_3 "accuracy@3" "1 if one of the first 3 is relevant.",
    accuracy_at_5 "accuracy@5" "1 if one of the first 5 is relevant.",
    accuracy_at_10 "accuracy@10" "1 if one of the first 10 is relevant.",
    precision_at_1 "precision@1" "Hits within 1.",
    precision_at_3 "precision@3" "Hits within 3, over 3.",
    precision_at_5 "precision@5" "Hits within 5, over 5.",
    precision_at_10 "precision@10" "Hits within 10, over 10.",
    recall_at_1 "recall@1" "Hits within 1, over the relevant documents.",
    recall_at_3 "recall@3" "Hits within 3, over the relevant documents.",
    recall_at_5 "recall@5" "Hits within 5, over the relevant documents.",
    recall_at_10 "recall@10" "Hits within 10, over the relevant documents.",
    recall_at_100 "recall@100" "Hits within 100, over the relevant documents.",
    map_at_100 "map@100" "Average precision at 100, divisor `min(100, R)`.",
    graded_ndcg_at_1 "graded_ndcg@1" "nDCG@1 with the grades as linear gains.",
    graded_ndcg_at_3 "graded_ndcg@3" "nDCG@3 with the grades as linear gains.",
    graded_ndcg_at_5 "graded_ndcg@5" "nDCG@5 with the grades as linear gains.",
    graded_ndcg_at_10 "graded_ndcg@10" "nDCG@10 with the grades as linear gains.",
}

impl RankingMetrics {
    /// All metrics of one query: `ranked` are the grades in rank order (0 where unjudged), `judged` all grades of the
    /// query. A grade above 0 is relevant.
    pub fn of_query(ranked: &[i64], judged: &[i64]) -> Self {
        let relevance: Vec<bool> = ranked.iter().map(|&grade| grade > 0).collect();
        let rel = &relevance[..];
        let n_relevant = judged.iter().filter(|&&grade| grade > 0).count();
        Self {
            ndcg_at_10: ndcg_at_k(rel, n_relevant, 10),
            mrr_at_1: mrr_at_k(rel, 1),
            mrr_at_3: mrr_at_k(rel, 3),
            mrr_at_5: mrr_at_k(rel, 5),
            mrr_at_10: mrr_at_k(rel, 10),
            accuracy_at_1: accuracy_at_k(rel, 1),
            accuracy_at_3: accuracy_at_k(rel, 3),
            accuracy_at_5: accuracy_at_k(rel, 5),
            accuracy_at_10: accuracy_at_k(rel, 10),
            precision_at_1: precision_at_k(rel, 1),
            precision_at_3: precision_at_k(rel, 3),
            precision_at_5: precision_at_k(rel, 5),
            precision_at_10: precision_at_k(rel, 10),
            recall_at_1: recall_at_k(rel, n_relevant, 1),
            recall_at_3: recall_at_k(rel, n_relevant, 3),
            recall_at_5: recall_at_k(rel, n_relevant, 5),
            recall_at_10: recall_at_k(rel, n_relevant, 10),
            recall_at_100: recall_at_k(rel, n_relevant, 100),
            map_at_100: average_precision_at_k(rel, n_relevant, 100),
            graded_ndcg_at_1: graded_ndcg_at_k(ranked, judged, 1),
            graded_ndcg_at_3: graded_ndcg_at_k(ranked, judged, 3),
            graded_ndcg_at_5: graded_ndcg_at_k(ranked, judged, 5),
            graded_ndcg_at_10: graded_ndcg_at_k(ranked, judged, 10),
        }
    }

    /// Name and value of every metric, in the fixed order.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> + use<> {
        Self::NAMES.into_iter().zip(self.values())
    }

    /// The value called `name`, such as `ndcg@10`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.named().find(|&(n, _)| n == name).map(|(_, v)| v)
    }

    /// Unweighted mean, summed in the given order: over the queries of a set, or over sets. `None` of nothing.
    pub fn mean_of<'a>(items: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut mean = Self::default();
        let mut count = 0usize;
        for item in items {
            for (sum, value) in mean.values_mut().into_iter().zip(item.values()) {
                *sum += value;
            }
            count += 1;
        }
        for sum in mean.values_mut() {
            *sum /= count as f64;
        }
        (count > 0).then_some(mean)
    }
}

/// Relevance judgements: for each query id, the grade of each judged document id.
///
/// A grade above 0 means relevant; a document that is not listed is not relevant. Iteration is in id order, so that
/// everything computed from it is the same on every run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Qrels {
    by_query: BTreeMap<String, BTreeMap<String, i64>>,
}

impl Qrels {
    /// No judgements.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a judgement; returns the grade that it replaces, if the pair was judged before.
    pub fn insert(
        &mut self,
        query: impl Into<String>,
        document: impl Into<String>,
        grade: i64,
    ) -> Option<i64> {
        let judged = self.by_query.entry(query.into()).or_default();
        judged.insert(document.into(), grade)
    }

    /// The judged documents of a query with their grades, `None` for a query that is not judged.
    pub fn judged(&self, query: &str) -> Option<&BTreeMap<String, i64>> {
        self.by_query.get(query)
    }

    /// The grade of a document for a query; 0 where it was not judged.
    pub fn grade(&self, query: &str, document: &str) -> i64 {
        let judged = self.judged(query);
        judged.and_then(|j| j.get(document)).copied().unwrap_or(0)
    }

    /// How many documents are relevant (grade above 0) to a query.
    pub fn n_relevant(&self, query: &str) -> usize {
        self.judged(query)
            .map_or(0, |j| j.values().filter(|&&grade| grade > 0).count())
    }

    /// Number of queries with at least one judgement.
    pub fn n_queries(&self) -> usize {
        self.by_query.len()
    }

    /// Number of judged (query, document) pairs.
    pub fn n_judgements(&self) -> usize {
        self.by_query.values().map(BTreeMap::len).sum()
    }

    /// True when nothing is judged.
    pub fn is_empty(&self) -> bool {
        self.by_query.is_empty()
    }

    /// Query ids with their judged documents, in id order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, i64>)> {
        self.by_query.iter().map(|(query, j)| (query.as_str(), j))
    }

    /// Keeps the queries for which `keep` holds, with all their judgements.
    pub fn retain_queries(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.by_query.retain(|query, _| keep(query));
    }
}

impl<Q: Into<String>, D: Into<String>> FromIterator<(Q, D, i64)> for Qrels {
    fn from_iter<I: IntoIterator<Item = (Q, D, i64)>>(judgements: I) -> Self {
        let mut qrels = Self::new();
        for (query, document, grade) in judgements {
            qrels.insert(query, document, grade);
        }
        qrels
    }
}

/// Ranked document ids, best first, per query id.
pub type Run = BTreeMap<String, Vec<String>>;

/// What [`evaluate`] found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean over `per_query`.
    pub mean: RankingMetrics,
    /// Metrics of every query that has a relevant document, in the order of the query ids.
    pub per_query: Vec<(String, RankingMetrics)>,
    /// Judged queries without a relevant document: no metric is defined for them, and they are not in the mean.
    pub left_out: Vec<String>,
    /// Queries with a relevant document that the run lacks. They are in `per_query` and in the mean, as zeros: a system
    /// must not gain by giving no answer.
    pub missing_from_run: Vec<String>,
    /// Queries of the run that nobody judged; ignored.
    pub unjudged: Vec<String>,
}

/// Metrics of `run` under `qrels`.
///
/// # Errors
/// A ranking that lists a document twice (its hits would be counted twice), or `qrels` in which no query has a relevant
/// document (there is nothing to average).
pub fn evaluate(run: &Run, qrels: &Qrels) -> Result<Evaluation> {
    let mut per_query = Vec::with_capacity(qrels.n_queries());
    let mut left_out = Vec::new();
    let mut missing_from_run = Vec::new();
    for (query, judged) in qrels.iter() {
        if qrels.n_relevant(query) == 0 {
            left_out.push(query.to_string());
            continue;
        }
        let ranking = run.get(query).map_or(&[][..], Vec::as_slice);
        if !run.contains_key(query) {
            missing_from_run.push(query.to_string());
        }
        let mut seen = HashSet::with_capacity(ranking.len());
        if let Some(twice) = ranking.iter().find(|d| !seen.insert(d.as_str())) {
            return Err(Error::Invalid(format!(
                "the ranking of query {query:?} lists document {twice:?} twice; a document may be ranked once"
            )));
        }
        let grade_of = |document: &String| judged.get(document).copied().unwrap_or(0);
        let ranked: Vec<i64> = ranking.iter().map(grade_of).collect();
        let grades: Vec<i64> = judged.values().copied().collect();
        per_query.push((
            query.to_string(),
            RankingMetrics::of_query(&ranked, &grades),
        ));
    }
    let mean = RankingMetrics::mean_of(per_query.iter().map(|(_, m)| m)).ok_or_else(|| {
        Error::Invalid(format!(
            "none of the {} judged queries has a relevant document (grade above 0), so there is nothing to evaluate",
            qrels.n_queries()
        ))
    })?;
    let judged = |query: &&String| qrels.judged(query).is_some();
    let unjudged = run.keys().filter(|q| !judged(q)).cloned().collect();
    Ok(Evaluation {
        mean,
        per_query,
        left_out,
        missing_from_run,
        unjudged,
    })
}

#[cfg(test)]
mod tests;
