//! Tables of rankings.

use crate::metrics::ranking::RankingMetrics;
use crate::metrics::statistics::Summary;
use crate::study::changes::{Group, RetrievalChange, kinds};
use crate::study::experiment_1::{Experiment1, Found};
use crate::study::table::{Table, arrow, names, over_seeds, signed};

/// A metric of every group on every collection, with the means.
pub(super) fn retrieval_table(stage: &Experiment1, found: &Found, metric: &str) -> Table {
    let kinds = kinds(&stage.sets);
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
    let mut table = Table::new(&format!("Retrieval, {metric}"), &["model"], &columns);
    let value = |metrics: &RankingMetrics| metrics.get(metric).unwrap_or_default();
    // Per column, of every model.
    let of_model = |model: usize| -> Vec<f64> {
        let sets = &found.measured[model].retrieval;
        let each: Vec<f64> = sets.iter().map(|set| value(&set.mean())).collect();
        let means = kinds.iter().map(|(_, which)| {
            which.iter().map(|&i| each[i]).sum::<f64>() / which.len().max(1) as f64
        });
        let means: Vec<f64> = means.collect();
        each.into_iter().chain(means).collect()
    };
    let all: Vec<Vec<f64>> = (0..found.models.len()).map(of_model).collect();
    let of_group = |group: &Group, column: usize| -> Vec<f64> {
        group
            .models
            .iter()
            .map(|&model| all[model][column])
            .collect()
    };
    let groups = &found.comparisons.groups;
    for group in groups {
        let cells = (0..columns.len()).map(|column| over_seeds(&of_group(group, column)));
        table.row(
            &std::iter::once(group.name.clone())
                .chain(cells)
                .collect::<Vec<_>>(),
        );
    }
    for change in &found.comparisons.retrieval {
        let place = |name: &str| groups.iter().find(|group| group.name == name);
        let (Some(before), Some(after)) = (place(&change.before), place(&change.after)) else {
            continue;
        };
        let cells = (0..columns.len()).map(|column| {
            let [b, a] = [before, after].map(|group| Summary::of(&of_group(group, column)));
            match before.models.len() + after.models.len() {
                2 => format!("{:+.4}", a.mean - b.mean),
                _ => format!("{:+.4} ± {:.4}", a.mean - b.mean, a.std.hypot(b.std)),
            }
        });
        let name = format!("Δ {}", arrow(&change.before, &change.after));
        table.row(&std::iter::once(name).chain(cells).collect::<Vec<_>>());
    }
    table
}

pub(super) fn retrieval_changes(found: &Found) -> Table {
    let columns = names(&["sets", "absolute", "relative, %", "sets down / up"]);
    let mut table = Table::new("Change of mean nDCG@10", &["change", "over"], &columns);
    for change in &found.comparisons.retrieval {
        for mean in &change.means {
            table.row(&[
                arrow(&change.before, &change.after),
                mean.over.to_string(),
                mean.sets.to_string(),
                signed(&mean.absolute, 4),
                signed(&mean.relative, 2),
                format!("{} / {}", mean.significant_drops, mean.significant_gains),
            ]);
        }
    }
    table
}

pub(super) fn set_changes(stage: &Experiment1, found: &Found) -> Table {
    let columns: Vec<String> = stage
        .sets
        .iter()
        .map(|set| set.collection.name.clone())
        .collect();
    let mut table = Table::new("Change of nDCG@10 per set", &["change"], &columns);
    for RetrievalChange {
        before,
        after,
        sets,
        ..
    } in &found.comparisons.retrieval
    {
        let cells = sets.iter().map(|estimate| signed(estimate, 4));
        table.row(
            &std::iter::once(arrow(before, after))
                .chain(cells)
                .collect::<Vec<_>>(),
        );
    }
    table
}
