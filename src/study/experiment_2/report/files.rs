//! What is written beside the tables: numbers, rows and times.

use serde_json::{Map, Value, json};

use crate::study::experiment_2::scorings::{Scoring, rankings_of};
use crate::study::experiment_2::{Experiment2, Found};

/// The numbers as JSON.
pub(in super::super) fn metrics(stage: &Experiment2, found: &Found) -> Value {
    let models = found.models.iter().zip(&found.measured);
    let models = models.map(|(model, measured)| {
        json!({
            "model": model.to_string(),
            "group": model.group(),
            "verifier": model.verifier().map(|kind| kind.name()),
            "seed": model.trained().then_some(model.seed),
            "training": measured.training,
            "parameters": measured.scorer.as_ref().map(|s| s.parameters),
        })
    });
    let rankings = found.comparisons.scorings.iter().flat_map(|scoring| {
        let of_model = |&model: &usize| {
            let sets = stage.sets.iter();
            let sets = sets.zip(rankings_of(scoring, &found.measured[model]));
            let sets = sets.map(|(set, metrics)| {
                json!({
                    "collection": set.collection.name,
                    "in_domain": set.in_domain,
                    "queries": metrics.per_query.len(),
                    "metrics": metrics.mean(),
                    "metrics_without_identical_ids": metrics.without_identical,
                })
            });
            json!({
                "scorer": scoring.name,
                "model": found.models[model].to_string(),
                "sets": sets.collect::<Vec<_>>(),
            })
        };
        scoring.models.iter().map(of_model).collect::<Vec<_>>()
    });
    json!({
        "models": models.collect::<Vec<_>>(),
        "rankings": rankings.collect::<Vec<_>>(),
        "comparisons": found.comparisons,
        "guard": found.calibration,
    })
}

/// A line per query with its judgements and the rankings and metrics of every scoring's models, then a line per pair with
/// their scores.
pub(in super::super) fn rows<'a>(
    stage: &'a Experiment2,
    found: &'a Found,
) -> impl Iterator<Item = Value> + 'a {
    let scorings = &found.comparisons.scorings;
    // By scoring, one value per model.
    let named = move |value: &dyn Fn(&Scoring, usize) -> Value| -> Value {
        let all: Map<_, _> = scorings
            .iter()
            .map(|scoring| {
                let values = scoring.models.iter().map(|&model| value(scoring, model));
                (scoring.name.clone(), values.collect::<Vec<_>>().into())
            })
            .collect();
        Value::Object(all)
    };
    let queries = stage.sets.iter().enumerate().flat_map(move |(s, set)| {
        let first = scorings.first().map(|scoring| {
            let sets = rankings_of(scoring, &found.measured[scoring.models[0]]);
            &sets[s].per_query[..]
        });
        let queries = first.unwrap_or_default().iter().enumerate();
        queries.map(move |(q, (id, _))| {
            json!({
                "collection": set.collection.name,
                "query": id,
                "judged": set.collection.qrels.judged(id),
                "rankings": named(&|scoring, model| {
                    rankings_of(scoring, &found.measured[model])[s].ranking(q)
                }),
                "metrics": named(&|scoring, model| {
                    json!(rankings_of(scoring, &found.measured[model])[s].per_query[q].1)
                }),
            })
        })
    });
    let sets = stage.near_misses.iter().enumerate();
    let pairs = sets.flat_map(move |(s, set)| {
        set.items.iter().enumerate().map(move |(i, item)| {
            let mut line = item.line();
            line["set"] = json!(set.name);
            line["scores"] = named(&|scoring, model| {
                let measured = &found.measured[model];
                let scores = match scoring.encoder {
                    true => measured.encoder.as_ref().map(|e| &e.near_misses),
                    false => measured.scorer.as_ref().map(|s| &s.near_misses),
                };
                json!(scores.map(|scores| scores[s][i]))
            });
            line
        })
    });
    queries.chain(pairs)
}

pub(in super::super) fn times(found: &Found) -> Value {
    let models = found.models.iter().zip(&found.times);
    let all: Map<_, _> = models
        .map(|(model, times)| (model.to_string(), json!(times)))
        .collect();
    Value::Object(all)
}

/// How fast it was.
pub(in super::super) fn log(found: &Found) -> Vec<String> {
    let models = found.models.iter().zip(&found.times);
    models
        .filter(|(_, times)| times.together > 0)
        .map(|(model, times)| {
            let trained = match times.training_s {
                0.0 => String::new(),
                seconds => format!("trained in {seconds:.1} s, "),
            };
            let scored = times.ms_per_100_candidates.map_or(String::new(), |ms| {
                format!(", {ms:.2} ms per 100 candidates")
            });
            let together = match times.together {
                1 => String::new(),
                n => format!(" with {} others", n - 1),
            };
            format!(
                "{model}: {trained}measured in {:.1} s{together}{scored}",
                times.measuring_s
            )
        })
        .collect()
}
