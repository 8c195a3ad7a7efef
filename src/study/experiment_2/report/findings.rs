//! What the numbers come to, in words.

use std::fmt::Write as _;

use super::near_miss::own_name;
use crate::study::changes::RetrievalChange;
use crate::study::escape::in_markdown;
use crate::study::experiment_2::Found;
use crate::study::experiment_2::compare::{Comparisons, TestSet};
use crate::study::table::signed;
use crate::study::verdict::{TestName, Verdict};

/// The scorer of late interaction.
const MAXSIM: &str = "f1";

/// All findings, each in a sentence.
pub(super) fn findings(found: &Found) -> String {
    let comparisons = &found.comparisons;
    let mut text = String::from("\n## Findings\n\n");
    for line in best_second_stage(comparisons) {
        let _ = writeln!(text, "- {line}");
    }
    for test in &comparisons.tests {
        let _ = writeln!(text, "- {}", highest_rejection(comparisons, test));
    }
    for line in verdicts(comparisons) {
        let _ = writeln!(text, "- {line}");
    }
    text
}

/// Which second stage over the published encoder ranks best, and whether that is MaxSim.
fn best_second_stage(comparisons: &Comparisons) -> Vec<String> {
    let Some(RetrievalChange {
        before: next,
        after: best,
        means,
        ..
    }) = &comparisons.best
    else {
        return Vec::new();
    };
    let over = |name: &str| {
        let change = comparisons.reranking.iter().find(|c| c.after == name)?;
        Some(signed(&change.means.first()?.absolute, 4))
    };
    let difference = means.first().map(|mean| mean.absolute);
    let clear = difference
        .and_then(|d| d.interval)
        .is_some_and(|[low, _]| low > 0.0);
    let named = comparisons.scorings.iter().any(|s| s.name == MAXSIM);
    let maxsim = match (best == MAXSIM, clear) {
        _ if !named => String::new(),
        (true, true) => "**MaxSim is the best re-ranker**: ".into(),
        (true, false) => "**MaxSim re-ranks best, without a clear lead**: ".into(),
        (false, true) => "**MaxSim is not the best re-ranker**: ".into(),
        (false, false) => {
            "**MaxSim is not the best re-ranker, without a clear lead of another**: ".into()
        }
    };
    let mut lines = vec![format!(
        "{maxsim}of the second stages over the published encoder {best} ranks best (mean nDCG@10 {} beside the first stage), {next} next ({}); between the two {}.",
        over(best).unwrap_or_default(),
        over(next).unwrap_or_default(),
        difference.map_or("-".into(), |d| signed(&d, 4)),
    )];
    let losers: Vec<&str> = comparisons
        .reranking
        .iter()
        .filter(|change| {
            let mean = change.means.first();
            let interval = mean.and_then(|mean| mean.absolute.interval);
            interval.is_some_and(|[_, high]| high < 0.0)
        })
        .map(|change| &change.after[..])
        .collect();
    if !losers.is_empty() {
        lines.push(format!(
            "Ranking falls clearly below the first stage when re-ranked by {}.",
            losers.join("; ")
        ));
    }
    lines
}

/// Which scorer rejects most near-misses while it accepts 95 % of what means the same.
fn highest_rejection(comparisons: &Comparisons, test: &TestSet) -> String {
    let mut order: Vec<(f64, usize)> = (0..test.scorings.len())
        .filter_map(|i| Some((test.scorings[i].rejection()?, i)))
        .collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let name = |i: usize| &comparisons.scorings[i].name;
    let Some(&(rate, best)) = order.first() else {
        return format!(
            "{}: too few pairs for a rate.",
            in_markdown(&own_name(test))
        );
    };
    let interval = |i: usize| {
        let evaluation = match &test.scorings[i].evaluations[..] {
            [one] => one,
            _ => return String::new(),
        };
        let points = evaluation
            .all
            .separation
            .value()
            .and_then(|s| s.rejection.value());
        match points.and_then(|points| points[1].rejection.interval) {
            Some([low, high]) => format!(" [{low:.3}, {high:.3}]"),
            None => String::new(),
        }
    };
    let mut text = format!(
        "{}: at 95 % true accept **{}** rejects most near-misses, {rate:.3}{}",
        in_markdown(&own_name(test)),
        name(best),
        interval(best)
    );
    if let Some(&(rate, next)) = order.get(1) {
        let _ = write!(text, "; next {}, {rate:.3}{}", name(next), interval(next));
    }
    if let Some((rate, _)) = order.iter().find(|(_, i)| *i == 0 && best != 0) {
        let _ = write!(text, "; the published cosine {rate:.3}");
    }
    text.push('.');
    text
}

/// Where training, and the kind of positives, changed how near-misses are told apart.
fn verdicts(comparisons: &Comparisons) -> Vec<String> {
    let tests = &comparisons.tests;
    let named: Vec<TestName> = tests.iter().map(|t| (own_name(t), t.own)).collect();
    let mut lines = Vec::new();
    for (i, beside) in comparisons.contrasts.iter().enumerate() {
        let scorings = [beside.before, beside.after].map(|i| &comparisons.scorings[i]);
        // What an encoder's own cosine makes of it stands in the tables.
        if scorings[1].encoder {
            continue;
        }
        let interval = |test: &TestSet| test.changes[i].changes.last()?.auc.value()?.interval;
        let verdict = Verdict::of(named.iter().zip(tests.iter().map(interval)));
        lines.push(verdict.sentence(&scorings[0].name, &scorings[1].name));
    }
    match lines.is_empty() {
        true => lines,
        false => {
            lines[0] = format!("By the interval of the change of AUC, {}", lines[0]);
            lines
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::near_miss::Estimate;
    use crate::study::changes::MeanChange;
    use crate::study::experiment_2::scorings::Scoring;

    fn change(before: &str, after: &str, value: f64, interval: [f64; 2]) -> RetrievalChange {
        let estimate = Estimate {
            value,
            interval: Some(interval),
        };
        RetrievalChange {
            before: before.into(),
            after: after.into(),
            sets: Vec::new(),
            means: vec![MeanChange {
                over: "all",
                sets: 3,
                absolute: estimate,
                relative: estimate,
                significant_drops: 0,
                significant_gains: 0,
            }],
        }
    }

    fn said(best: &str, next: &str, lead: [f64; 2]) -> String {
        let scoring = |name: &str, first_stage: Option<usize>| Scoring {
            name: name.into(),
            cosine: false,
            models: vec![0],
            encoder: first_stage.is_none(),
            first_stage,
        };
        let comparisons = Comparisons {
            scorings: vec![
                scoring("pooled", None),
                scoring(best, Some(0)),
                scoring(next, Some(0)),
            ],
            contrasts: Vec::new(),
            reranking: vec![
                change("pooled", best, 0.2, [0.1, 0.3]),
                change("pooled", next, -0.1, [-0.2, -0.05]),
            ],
            encoders: Vec::new(),
            best: Some(change(next, best, 0.3, lead)),
            tests: Vec::new(),
        };
        best_second_stage(&comparisons).join("\n")
    }

    #[test]
    fn whether_maxsim_ranks_best_follows_from_the_numbers() {
        let text = said("f1", "f0", [0.2, 0.4]);
        assert!(
            text.starts_with("**MaxSim is the best re-ranker**: "),
            "{text}"
        );
        assert!(text.contains("f1 ranks best (mean nDCG@10 +0.2000 [+0.1000, +0.3000]"));
        assert!(text.contains("f0 next (-0.1000"), "{text}");
        assert!(text.contains("falls clearly below the first stage when re-ranked by f0."));
        let text = said("f1", "f0", [-0.1, 0.4]);
        assert!(
            text.starts_with("**MaxSim re-ranks best, without a clear lead**"),
            "{text}"
        );
        let text = said("f4 frozen, identity", "f1", [0.2, 0.4]);
        assert!(
            text.starts_with("**MaxSim is not the best re-ranker**"),
            "{text}"
        );
        assert!(said("f0", "none", [0.2, 0.4]).starts_with("of the second stages"));
    }
}
