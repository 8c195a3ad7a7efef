//! What is written beside the tables: numbers, rows and times.

use serde_json::{Value, json};

use crate::study::experiment_1::{Experiment1, Found};

/// The numbers as JSON.
pub(in super::super) fn metrics(stage: &Experiment1, found: &Found) -> Value {
    let models = found
        .models
        .iter()
        .zip(&found.measured)
        .map(|(model, measured)| {
            let sets = stage
                .sets
                .iter()
                .zip(&measured.retrieval)
                .map(|(set, metrics)| {
                    json!({
                        "collection": set.collection.name,
                        "in_domain": set.in_domain,
                        "queries": metrics.per_query.len(),
                        "metrics": metrics.mean(),
                        "metrics_without_identical_ids": metrics.without_identical,
                    })
                });
            json!({
                "model": model.to_string(),
                "arm": model.group(),
                "seed": model.arm.map(|_| model.seed),
                "training": measured.training,
                "retrieval": sets.collect::<Vec<_>>(),
                "held_out": measured.held_out.as_ref().map(|rows| {
                    json!({ "n": rows.n, "positives": rows.positives, "negatives": rows.negatives })
                }),
                "space": measured.space,
                "drift": measured.drift,
            })
        });
    json!({
        "models": models.collect::<Vec<_>>(),
        "comparisons": found.comparisons,
    })
}

/// A line per query with its judgements and every model's ranking and metrics, then a line per pair with every model's cosine,
/// then a line per held-out row that was drawn, with every model's two.
pub(in super::super) fn rows<'a>(
    stage: &'a Experiment1,
    found: &'a Found,
) -> impl Iterator<Item = Value> + 'a {
    let named = move |value: &dyn Fn(usize) -> Value| -> Value {
        let models = found.models.iter().enumerate();
        let all: serde_json::Map<_, _> = models
            .map(|(i, model)| (model.to_string(), value(i)))
            .collect();
        Value::Object(all)
    };
    let queries = stage.sets.iter().enumerate().flat_map(move |(s, set)| {
        let queries = &found.measured[0].retrieval[s].per_query;
        queries.iter().enumerate().map(move |(q, (id, _))| {
            json!({
                "collection": set.collection.name,
                "query": id,
                "judged": set.collection.qrels.judged(id),
                "rankings": named(&|model| found.measured[model].retrieval[s].ranking(q)),
                "metrics": named(&|model| json!(found.measured[model].retrieval[s].per_query[q].1)),
            })
        })
    });
    let pairs = stage
        .near_misses
        .iter()
        .enumerate()
        .flat_map(move |(s, set)| {
            set.items.iter().enumerate().map(move |(i, item)| {
                let mut line = item.line();
                line["set"] = json!(set.name);
                line["scores"] = named(&|model| json!(found.measured[model].near_misses[s][i]));
                line
            })
        });
    // The same rows are drawn for every model.
    let drawn = found.measured[0].held_out.as_ref();
    let drawn = drawn.map_or(&[][..], |rows| &rows.rows).iter();
    let held_out = drawn.enumerate().map(move |(i, &row)| {
        let row = &stage.data.held_out[row];
        let cosines = |model: usize| {
            let rows = found.measured[model].held_out.as_ref();
            json!(rows.map(|rows| rows.cosines[i]))
        };
        json!({
            "held_out": [row.anchor, row.positive, row.negative],
            "cosines": named(&cosines),
        })
    });
    queries.chain(pairs).chain(held_out)
}

pub(in super::super) fn times(found: &Found) -> Value {
    let models = found.models.iter().zip(&found.times);
    let all: serde_json::Map<_, _> = models
        .map(|(model, times)| (model.to_string(), json!(times)))
        .collect();
    Value::Object(all)
}

/// How fast it was.
pub(in super::super) fn log(found: &Found) -> Vec<String> {
    let models = found.models.iter().zip(&found.times);
    models
        .filter(|(_, times)| times.training_s + times.measuring_s > 0.0)
        .map(|(model, times)| {
            format!(
                "{model}: trained in {:.1} s, measured in {:.1} s",
                times.training_s, times.measuring_s
            )
        })
        .collect()
}
