//! Tables of rankings.

use crate::metrics::ranking::RankingMetrics;
use crate::study::changes::{RetrievalChange, kinds};
use crate::study::experiment_2::scorings::{Scoring, rankings_of};
use crate::study::experiment_2::{Experiment2, Found};
use crate::study::table::{Table, names, over_seeds, signed};

/// Sets that the paper's code re-ranks, by what their names end in.
const OF_THE_PAPER: [&str; 2] = ["MSMARCO", "NQ"];

/// Means over some collections, one per model of a scoring.
fn means(found: &Found, scoring: &Scoring, which: &[usize]) -> Vec<RankingMetrics> {
    let of = |&model: &usize| {
        let sets = rankings_of(scoring, &found.measured[model]);
        let of_sets: Vec<RankingMetrics> = which.iter().map(|&i| sets[i].mean()).collect();
        RankingMetrics::mean_of(&of_sets).unwrap_or_default()
    };
    scoring.models.iter().map(of).collect()
}

/// What the paper's code reports as the mean accuracy at 1: its averaging takes every key that holds `accuracy@1`.
fn accuracy_as_printed(metrics: &RankingMetrics) -> f64 {
    (metrics.accuracy_at_1 + metrics.accuracy_at_10) / 2.0
}

/// Every scoring's rankings, means over collections.
pub(super) fn reranking_table(stage: &Experiment2, found: &Found) -> Table {
    let columns = names(&[
        "nDCG@10",
        "MRR@10",
        "accuracy@1",
        "as printed",
        "accuracy@10",
        "change",
        "parameters",
    ]);
    let mut table = Table::new("Re-ranking", &["ranked by"], &columns);
    let all: Vec<usize> = (0..stage.sets.len()).collect();
    let mut changes = found.comparisons.reranking.iter();
    for scoring in &found.comparisons.scorings {
        let metrics = means(found, scoring, &all);
        let of = |value: &dyn Fn(&RankingMetrics) -> f64| {
            over_seeds(&metrics.iter().map(value).collect::<Vec<_>>())
        };
        let mut cells = vec![
            scoring.name.clone(),
            of(&|m| m.ndcg_at_10),
            of(&|m| m.mrr_at_10),
            of(&|m| m.accuracy_at_1),
            of(&accuracy_as_printed),
            of(&|m| m.accuracy_at_10),
        ];
        match scoring.first_stage {
            None => cells.extend(["", ""].map(String::from)),
            Some(_) => {
                let change = changes.next().and_then(|change| change.means.first());
                cells.push(change.map_or("-".into(), |mean| signed(&mean.absolute, 4)));
                let scorer = found.measured[scoring.models[0]].scorer.as_ref();
                cells.push(scorer.map_or("-".into(), |s| s.parameters.to_string()));
            }
        }
        table.row(&cells);
    }
    table
}

/// A metric of every scoring on every collection, with means.
pub(super) fn sets_table(stage: &Experiment2, found: &Found, metric: &str) -> Table {
    let mut kinds = kinds(&stage.sets);
    let ends_in = |i: &usize, end: &str| {
        let name = stage.sets[*i].collection.name.to_ascii_uppercase();
        name.ends_with(end)
    };
    let of_the_paper: Vec<usize> = (0..stage.sets.len())
        .filter(|i| OF_THE_PAPER.iter().any(|end| ends_in(i, end)))
        .collect();
    if of_the_paper.len() == OF_THE_PAPER.len() && stage.sets.len() > of_the_paper.len() {
        kinds.push(("the paper's two", of_the_paper));
    }
    let mut columns: Vec<String> = stage
        .sets
        .iter()
        .map(|set| match set.in_domain {
            true => format!("{} (in-domain)", set.collection.name),
            false => set.collection.name.clone(),
        })
        .collect();
    columns.extend(kinds.iter().map(|(over, _)| match *over {
        "all" => "mean".to_string(),
        over => format!("mean, {over}"),
    }));
    let title = format!("Rankings per set, {metric}");
    let mut table = Table::new(&title, &["ranked by"], &columns);
    for scoring in &found.comparisons.scorings {
        let each = (0..stage.sets.len()).map(|i| vec![i]);
        let which = each.chain(kinds.iter().map(|(_, which)| which.clone()));
        let cells = which.map(|which| {
            let metrics = means(found, scoring, &which);
            let values = metrics.iter().map(|m| m.get(metric).unwrap_or_default());
            over_seeds(&values.collect::<Vec<_>>())
        });
        let name = [scoring.name.clone()].into_iter();
        table.row(&name.chain(cells).collect::<Vec<_>>());
    }
    table
}

/// What training changed in what encoders find by themselves.
pub(super) fn encoders_table(found: &Found) -> Option<Table> {
    let changes = &found.comparisons.encoders;
    let means = &changes.first()?.means;
    let columns: Vec<String> = means
        .iter()
        .map(|mean| format!("{} ({} sets)", mean.over, mean.sets))
        .collect();
    let mut table = Table::new(
        "Change of the first stage's nDCG@10",
        &["encoder"],
        &columns,
    );
    for RetrievalChange { after, means, .. } in changes {
        let cells = means.iter().map(|mean| signed(&mean.absolute, 4));
        table.row(&[after.clone()].into_iter().chain(cells).collect::<Vec<_>>());
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_s_accuracy_is_the_mean_of_two() {
        let metrics = RankingMetrics {
            accuracy_at_1: 0.2,
            accuracy_at_10: 0.8,
            ..RankingMetrics::default()
        };
        assert_eq!(accuracy_as_printed(&metrics), 0.5);
    }
}
