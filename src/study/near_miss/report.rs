//! What a near-miss job leaves behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Example, Examples, NearMissStage, NearMissStudy, ScorerReport, Triplets};
use crate::metrics::edits::{BEYOND, MOST};
use crate::metrics::near_miss::{
    ALPHAS, BINS, Basis, CategoryReport, CrossFitted, CrossPoint, Estimate, Kind, Measured,
    OperatingPoint,
};
use crate::metrics::statistics::mean;
use crate::study::escape::in_markdown;
use crate::study::results::{Fingerprint, Setup};
use crate::study::session::Session;
use crate::study::stage::Report;
use crate::study::table::{Table, names, number, spread};

/// What a near-miss job depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct NearMissConfig {
    /// Which stage.
    pub stage: &'static str,
    /// SHA-256 over the pairs.
    pub set_sha256: String,
    /// Number of pairs of all kinds.
    pub pairs: usize,
    /// What they are set beside.
    pub triplets: Option<TripletConfig>,
    /// Fewest pairs that a rate may rest on.
    pub minimum: usize,
    /// Bootstrap samples and their seed.
    pub bootstrap: [u64; 2],
    /// Thresholds from elsewhere.
    pub thresholds: Option<[f64; ALPHAS.len()]>,
    /// Folds for thresholds that judge every pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<usize>,
    /// Encoder and verifiers.
    #[serde(flatten)]
    pub setup: Setup,
}

/// What the comparison with triplets depends on.
#[derive(Clone, Debug, Serialize)]
pub struct TripletConfig {
    /// SHA-256 over all of the file.
    pub sha256: String,
    /// How many are drawn.
    pub sample: usize,
    /// By which seed.
    pub seed: u64,
}

impl NearMissConfig {
    pub(super) fn new(stage: &NearMissStage, session: &Session) -> Self {
        let options = &stage.options;
        NearMissConfig {
            stage: "near-miss",
            set_sha256: digest(&stage.examples.items),
            pairs: stage.examples.items.len(),
            triplets: stage.triplets.as_ref().map(TripletConfig::of),
            minimum: options.minimum,
            bootstrap: [options.bootstrap.resamples as u64, options.bootstrap.seed],
            thresholds: options.transferred,
            folds: options.folds,
            setup: session.setup(&stage.scorers),
        }
    }
}

impl TripletConfig {
    fn of(triplets: &Triplets) -> Self {
        let mut hash = Fingerprint::default();
        for triplet in &triplets.all {
            hash.field(&triplet.anchor);
            hash.field(&triplet.positive);
            hash.field(&triplet.negative);
        }
        TripletConfig {
            sha256: hash.finish(),
            sample: triplets.sample.min(triplets.all.len()),
            seed: triplets.seed,
        }
    }
}

/// SHA-256 over the pairs.
pub(in crate::study) fn digest(items: &[Example]) -> String {
    let mut hash = Fingerprint::default();
    for item in items {
        let kind = format!("{:?} {:?} {}", item.kind, item.split, item.part);
        for field in [
            &item.anchor,
            &item.text,
            &kind,
            &item.category,
            &item.source,
        ] {
            hash.field(field);
        }
    }
    hash.finish()
}

fn with_interval(estimate: &Estimate) -> String {
    match estimate.interval {
        Some([low, high]) => format!("{:.3} [{low:.3}, {high:.3}]", estimate.value),
        None => format!("{:.3}", estimate.value),
    }
}

/// The line that says that intervals rest on fewer samples than were wanted, where `used` says how many they were.
pub(in crate::study) fn fewer_samples(used: impl Iterator<Item = usize>) -> Option<String> {
    let fewest = used.min()?;
    Some(format!(
        "categories are so many that intervals rest on fewer bootstrap samples than were asked for: {fewest}; fewer categories or pairs get more"
    ))
}

/// All categories of a scorer, then `all`.
fn groups(scorer: &ScorerReport) -> impl Iterator<Item = &CategoryReport> {
    let evaluation = &scorer.evaluation;
    evaluation.categories.iter().chain([&evaluation.all])
}

/// The result as Markdown: what the terminal shows.
pub(super) fn summary(examples: &Examples, report: &Report<NearMissStage>) -> String {
    let (config, study) = (&report.config, &report.found);
    let mut text = format!(
        "# Near-misses of {}\n\n{} pairs of {} texts; {}; verifiers see at most {} tokens.\n",
        in_markdown(&examples.name),
        study.scores.scores[0].len(),
        study.scores.texts.texts,
        report.provenance.sentence(&config.setup),
        config.setup.verifier_max_length
    );
    text.push_str(&scores_table(study).text);
    text.push_str("\nMean and standard deviation of the near-misses' scores; lower is better only beside the accepts' scores, which a scorer must keep high.\n");
    text.push_str(&rejection_table(study).text);
    text.push_str("\nRejected near-misses at the threshold that accepts 95 % of the calibration half (AUC: 0.5 is chance). n: near-misses / accepts of the test half. Accepts are those of the category's own anchors, or ");
    text.push_str(match has_sources(study) {
        true => "(s) of other anchors of the same sources, or (a) of all sources; m of the near-misses come from sources without accepts where it says (m without), and the rate then mixes sources.\n",
        false => "(a) of all.\n",
    });
    text.push_str(&refusals(study));
    if let Some(table) = cross_fitted_table(study) {
        text.push_str(&table);
    }
    if let Some(found) = &study.comparison {
        let _ = writeln!(
            text,
            "\n## Beside pairs of the training domain\n\n{} triplets: cosine of anchor and positive {}, of anchor and negative {}; separation {:.4}; near-misses score {:+.4} against these negatives (hardness).",
            found.positives.n,
            spread(&found.positives, 4),
            spread(&found.negatives, 4),
            found.separation,
            found.hardness
        );
    }
    text.push_str(&report.notes_text());
    text
}

/// Which rates there are not, and why; what there is in their place.
fn refusals(study: &NearMissStudy) -> String {
    let first = &study.scorers[0];
    let mut refusals: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for group in groups(first) {
        if let Measured::Refused { refused } = &group.separation {
            let what = match group.both_halves {
                Some(_) => "rates",
                None => "numbers",
            };
            let list = refusals.entry((what, refused)).or_default();
            list.push(in_markdown(&group.category));
        }
    }
    if let Measured::Refused { refused } = &first.evaluation.thresholds {
        refusals.insert(("numbers", refused), vec!["rejection".into()]);
    }
    let mut text = String::new();
    for ((what, why), of) in &refusals {
        let _ = writeln!(text, "\nNo {what} for {}: {why}.", of.join(", "));
    }
    if groups(first).any(|group| group.both_halves.is_some()) {
        text.push_str("\nWhere a half is too small for a rate, AUC [95 % bootstrap interval over anchors] is over both halves (b), since it needs no threshold.\n");
    }
    // Four fifths of so many are 39, the fewest that a threshold for 95 % is chosen by there.
    let enough = first.evaluation.all.accepts.n >= 49;
    if !refusals.is_empty() && enough && first.cross_fitted.is_none() {
        text.push_str("\n--folds 5 gives rates that rest on all pairs: each is judged by a threshold from pairs that share no sentence with it.\n");
    }
    text
}

/// A row per test set whose pairs were judged by thresholds from other folds, a column per scorer (its models' rates, `[test
/// sets][scorers][models]`), over all near-misses; nothing if there are none.
pub(in crate::study) fn cross_fitted_rates(
    scorers: &[String],
    tests: &[(String, Vec<Vec<&Measured<CrossFitted>>>)],
) -> String {
    if tests
        .iter()
        .all(|(_, scorers)| scorers.iter().all(Vec::is_empty))
    {
        return String::new();
    }
    let title = "Cross-fitted rejection of near-misses at 95 % true accept";
    let mut table = Table::new(title, &["test set", "n"], scorers);
    let mut refusals = String::new();
    for (name, of_scorers) in tests {
        let point = |found: &&Measured<CrossFitted>| -> Option<CrossPoint> {
            found.value()?.points[1].value().cloned()
        };
        let first = of_scorers.iter().flatten().next();
        let n = first.and_then(|found| found.value());
        let n = n.map_or("-".into(), |found| {
            format!("{} / {}", found.near_misses, found.accepts)
        });
        if let Some(Measured::Refused { refused }) = first {
            let _ = writeln!(refusals, "\nNo cross-fitted rates for {name}: {refused}.");
        }
        let cells = of_scorers.iter().map(|models| {
            let rates: Option<Vec<Estimate>> = models
                .iter()
                .map(|found| point(found)?.rejection.value().copied())
                .collect();
            match rates.as_deref() {
                None | Some([]) => "-".into(),
                Some([one]) => with_interval(one),
                Some(several) => {
                    let values: Vec<f64> = several.iter().map(|rate| rate.value).collect();
                    format!("{} over {} seeds", number(mean(&values)), values.len())
                }
            }
        });
        let left = [name.clone(), n].into_iter();
        table.row(&left.chain(cells).collect::<Vec<_>>());
    }
    format!(
        "{}{refusals}\nCalibration half and test half together; every pair is judged by the threshold of pairs that share no sentence with it. [95 % bootstrap intervals over groups of such pairs, thresholds chosen anew in every sample].\n",
        table.text
    )
}

/// Rates by thresholds from other folds, if they were wanted.
fn cross_fitted_table(study: &NearMissStudy) -> Option<String> {
    let found = study.scorers[0].cross_fitted.as_ref()?;
    let found = match found {
        Measured::Value(found) => found,
        Measured::Refused { refused } => {
            return Some(format!("\nNo cross-fitted rates: {refused}.\n"));
        }
    };
    let points: Vec<&Measured<CrossPoint>> = study
        .scorers
        .iter()
        .filter_map(|scorer| Some(&scorer.cross_fitted.as_ref()?.value()?.points[1]))
        .collect();
    let first = match points[0] {
        Measured::Value(point) => point,
        Measured::Refused { refused } => {
            return Some(format!("\nNo cross-fitted rates: {refused}.\n"));
        }
    };
    let columns: Vec<String> = study.scorers.iter().map(|s| s.name.clone()).collect();
    let title = "Cross-fitted rejection of near-misses at 95 % true accept";
    let mut table = Table::new(title, &["category", "n"], &columns);
    let mut row = |name: &str, n: usize, of: &dyn Fn(&CrossPoint) -> Option<Estimate>| {
        let cells = points.iter().map(|point| {
            let estimate = point.value().and_then(of);
            estimate.map_or("-".into(), |estimate| with_interval(&estimate))
        });
        let left = [name.to_string(), n.to_string()];
        table.row(&left.into_iter().chain(cells).collect::<Vec<_>>());
    };
    for (i, category) in first.categories.iter().enumerate() {
        row(&category.category, category.near_misses, &|point| {
            point.categories[i].rejection.value().copied()
        });
    }
    row("all", found.near_misses, &|point| {
        point.rejection.value().copied()
    });
    row("(accepts let in)", found.accepts, &|point| {
        Some(point.true_accept)
    });
    Some(format!(
        "{}\nEach of {} folds is judged by the threshold that the accepts of the others give; pairs that share a sentence ({} groups) are of one fold. [95 % bootstrap intervals over these groups, thresholds chosen anew in every sample].\n",
        table.text, found.folds, found.groups
    ))
}

/// The result as Markdown, with every table.
pub(super) fn markdown(examples: &Examples, report: &Report<NearMissStage>) -> String {
    let mut text = summary(examples, report);
    let study = &report.found;
    text.push_str(&separation_table(study).text);
    let _ = write!(
        text,
        "\nThresholds from the calibration half of the anchors, rates on the test half; [95 % bootstrap intervals over anchors]. Rejection at a true-accept rate of {} %.\n",
        ALPHAS.map(|a| format!("{:.0}", a * 100.0)).join(", ")
    );
    if !study.scorers[0].further.is_empty() {
        text.push_str(&further_table(study).text);
    }
    text.push_str(&margins_table(study).text);
    text.push_str(&left_out_table(study).text);
    text.push_str(&fixed_table(study).text);
    text.push_str(&histogram_table(study).text);
    text.push_str(&geometry_tables(study));
    if has_sources(study) {
        text.push_str(&sources_table(study).text);
    }
    text
}

/// Whether it is known where pairs come from.
fn has_sources(study: &NearMissStudy) -> bool {
    let mut sources = study.scorers[0].evaluation.sources.iter();
    sources.any(|source| !source.source.is_empty())
}

/// One row per category and test set, one column per scorer.
fn rejection_table(study: &NearMissStudy) -> Table {
    let columns: Vec<String> = study.scorers.iter().map(|s| s.name.clone()).collect();
    let title = "Rejection of near-misses at 95 % true accept (AUC)";
    let mut table = Table::new(title, &["category", "n"], &columns);
    let mut row = |name: String, groups: Vec<&CategoryReport>| {
        let n = sizes_shown(groups[0]).unwrap_or("-".into());
        let cells = groups.iter().map(|group| match group.separation.value() {
            None => match &group.both_halves {
                None => "-".to_string(),
                Some(found) => format!("- ({})", with_interval(&found.auc)),
            },
            Some(found) => {
                let points = found.rejection.value();
                let rate = number(points.map(|points| points[1].rejection.value));
                format!("{rate} ({})", number(Some(found.auc.value)))
            }
        });
        let cells: Vec<String> = [name, n].into_iter().chain(cells).collect();
        table.row(&cells);
    };
    for (i, group) in groups(&study.scorers[0]).enumerate() {
        let of = study.scorers.iter().map(|scorer| groups(scorer).nth(i));
        let of = of.map(|group| group.expect("the same categories"));
        row(group.category.clone(), of.collect());
    }
    for (part, (name, _)) in study.scorers[0].further.iter().enumerate() {
        let of = study.scorers.iter();
        let of = of.map(|scorer| &scorer.further[part].1.all);
        row(format!("all, {name}"), of.collect());
    }
    table
}

fn scores_table(study: &NearMissStudy) -> Table {
    let scorers = study
        .scorers
        .iter()
        .map(|s| s.name.clone())
        .collect::<Vec<_>>();
    let mut table = Table::new("Scores", &["category", "n"], &scorers);
    for (i, group) in groups(&study.scorers[0]).enumerate() {
        let cells = study.scorers.iter().map(|scorer| {
            let found = groups(scorer).nth(i).expect("the same categories");
            spread(&found.near_misses, 4)
        });
        let left = [group.category.clone(), group.near_misses.n.to_string()];
        table.row(&left.into_iter().chain(cells).collect::<Vec<_>>());
    }
    let accepts = study.scorers.iter();
    let accepts = accepts.map(|scorer| spread(&scorer.evaluation.all.accepts, 4));
    let n = study.scorers[0].evaluation.all.accepts.n.to_string();
    let left = ["(accepts)".to_string(), n];
    table.row(&left.into_iter().chain(accepts).collect::<Vec<_>>());
    table
}

/// How many near-misses and accepts a rate rests on, and where the accepts come from.
fn sizes(group: &CategoryReport, near_misses: usize, accepts: usize) -> String {
    let basis = match (&group.category[..], group.basis) {
        ("all", _) | (_, Basis::SameAnchors) => "",
        (_, Basis::SameSources) => " (s)",
        (_, Basis::AllSources) => " (a)",
    };
    let without = match group.without_accepts_of_their_source {
        0 => String::new(),
        n => format!(" ({n} without)"),
    };
    format!("{near_misses} / {accepts}{basis}{without}")
}

/// The sizes of what a row shows: of the test half, or of both (b) where that is too small.
fn sizes_shown(group: &CategoryReport) -> Option<String> {
    match (group.separation.value(), &group.both_halves) {
        (Some(found), _) => Some(sizes(group, found.near_misses, found.accepts)),
        (None, Some(found)) => {
            let sizes = sizes(group, found.near_misses, found.accepts);
            Some(format!("{sizes} (b)"))
        }
        (None, None) => None,
    }
}

fn separation_table(study: &NearMissStudy) -> Table {
    let columns = names(&[
        "n",
        "AUC",
        "AP",
        "EER",
        "d'",
        "RR90",
        "RR95",
        "RR99",
        "true accept at 95",
    ]);
    let mut table = Table::new("Separation", &["scorer", "category"], &columns);
    for scorer in &study.scorers {
        for group in groups(scorer) {
            let mut cells = vec![scorer.name.clone(), group.category.clone()];
            match &group.separation {
                Measured::Refused { .. } => match &group.both_halves {
                    None => cells.extend(std::iter::repeat_n("-".to_string(), columns.len())),
                    Some(found) => {
                        cells.extend(sizes_shown(group));
                        cells.push(with_interval(&found.auc));
                        cells.push("-".into());
                        cells.push(with_interval(&found.equal_error_rate));
                        cells.extend(std::iter::repeat_n("-".to_string(), columns.len() - 4));
                    }
                },
                Measured::Value(found) => {
                    cells.push(sizes(group, found.near_misses, found.accepts));
                    cells.push(with_interval(&found.auc));
                    cells.push(number(Some(found.average_precision)));
                    cells.push(number(Some(found.equal_error_rate)));
                    cells.push(number(found.d_prime));
                    match found.rejection.value() {
                        None => cells.extend(std::iter::repeat_n("-".to_string(), 4)),
                        Some(points) => {
                            cells.extend(points.iter().map(|p| with_interval(&p.rejection)));
                            cells.push(number(Some(points[1].true_accept)));
                        }
                    }
                }
            }
            table.row(&cells);
        }
        let mean = &scorer.evaluation.macro_average;
        let mut cells = vec![
            scorer.name.clone(),
            format!("mean of {}", mean.categories),
            String::new(),
            number(mean.auc),
        ];
        cells.extend([(); 3].map(|()| String::new()));
        cells.extend(mean.rejection.map(number));
        cells.push(String::new());
        table.row(&cells);
    }
    table
}

fn further_table(study: &NearMissStudy) -> Table {
    let columns = names(&["n", "AUC", "RR95", "true accept at 95", "mean margin"]);
    let title = "Further test sets, with the same thresholds";
    let mut table = Table::new(title, &["test set", "scorer", "category"], &columns);
    for part in 0..study.scorers[0].further.len() {
        for scorer in &study.scorers {
            let (name, evaluation) = &scorer.further[part];
            for group in evaluation.categories.iter().chain([&evaluation.all]) {
                let mut cells = vec![
                    name.to_string(),
                    scorer.name.clone(),
                    group.category.clone(),
                ];
                match group.separation.value() {
                    None => cells.extend(std::iter::repeat_n("-".to_string(), columns.len())),
                    Some(found) => {
                        let point = found.rejection.value().map(|points| &points[1]);
                        let shown = |p: &OperatingPoint| with_interval(&p.rejection);
                        cells.push(sizes(group, found.near_misses, found.accepts));
                        cells.push(with_interval(&found.auc));
                        cells.push(point.map_or("-".into(), shown));
                        cells.push(number(point.map(|p| p.true_accept)));
                        let margin = found.margins.as_ref().map(|m| with_interval(&m.mean));
                        cells.push(margin.unwrap_or("-".into()));
                    }
                }
                table.row(&cells);
            }
        }
    }
    table
}

fn margins_table(study: &NearMissStudy) -> Table {
    let columns = names(&[
        "n",
        "mean",
        "median",
        "5th percentile",
        "triplet error",
        "anchor accuracy",
        "degrees",
        "identity margin",
    ]);
    let title = "Margins of paraphrases over near-misses of the same anchor";
    let mut table = Table::new(title, &["scorer", "category"], &columns);
    for scorer in &study.scorers {
        for group in groups(scorer) {
            let Some(found) = group.separation.value() else {
                continue;
            };
            let Some(margins) = &found.margins else {
                continue;
            };
            table.row(&[
                scorer.name.clone(),
                group.category.clone(),
                margins.n.to_string(),
                with_interval(&margins.mean),
                number(Some(margins.median)),
                number(Some(margins.p05)),
                number(Some(margins.triplet_error)),
                number(found.anchor_accuracy),
                number(margins.degrees),
                number(group.identity_margin),
            ]);
        }
    }
    table
}

fn left_out_table(study: &NearMissStudy) -> Table {
    let columns = names(&["threshold at 95", "true accept", "rejection"]);
    let title = "Leave one category out: thresholds from the anchors of the other categories";
    let mut table = Table::new(title, &["scorer", "category"], &columns);
    for scorer in &study.scorers {
        for group in &scorer.evaluation.categories {
            let found = group.separation.value();
            let point = found.and_then(|found| Some(found.rejection_left_out.value()?[1]));
            table.row(&[
                scorer.name.clone(),
                group.category.clone(),
                number(point.map(|p| p.threshold)),
                number(point.map(|p| p.true_accept)),
                number(point.map(|p| p.rejection.value)),
            ]);
        }
    }
    table
}

fn fixed_table(study: &NearMissStudy) -> Table {
    let columns = names(&["0.85", "0.90", "0.95"]);
    let title = "Fixed thresholds on a cosine: near-misses let in / accepts kept out, as a semantic cache would";
    let mut table = Table::new(title, &["scorer", "category"], &columns);
    for scorer in &study.scorers {
        for group in groups(scorer) {
            let found = group.separation.value().and_then(|found| found.fixed);
            let Some(points) = found else {
                continue;
            };
            let mut cells = vec![scorer.name.clone(), group.category.clone()];
            let shown = points.map(|p| format!("{:.3} / {:.3}", p.false_accept, p.false_reject));
            cells.extend(shown);
            table.row(&cells);
        }
    }
    table
}

fn histogram_table(study: &NearMissStudy) -> Table {
    let mut columns = vec!["below 0".to_string()];
    columns.extend((0..BINS.len()).map(|i| {
        let end = BINS.get(i + 1).copied().unwrap_or(1.01);
        format!("[{}, {end})", BINS[i])
    }));
    columns.push("above".into());
    let title = "Shares of near-misses by score";
    let mut table = Table::new(title, &["scorer", "category"], &columns);
    for scorer in &study.scorers {
        for group in groups(scorer) {
            let found = &group.histogram;
            let shares = [found.below_zero].into_iter().chain(found.shares);
            let shares = shares.chain([found.above]);
            let mut cells = vec![scorer.name.clone(), group.category.clone()];
            cells.extend(shares.map(|share| format!("{share:.3}")));
            table.row(&cells);
        }
    }
    table
}

/// Angles: how far near-misses and paraphrases turn, and how that grows with the edit.
fn geometry_tables(study: &NearMissStudy) -> String {
    let mut text = String::new();
    let columns = names(&[
        "near-miss",
        "paraphrase",
        "unrelated",
        "D",
        "D of paraphrases",
        "regime",
    ]);
    let title = "Median angles in degrees, and relative to unrelated sentences (D)";
    let mut table = Table::new(title, &["scorer", "category"], &columns);
    let mut caps = String::new();
    for scorer in &study.scorers {
        for (category, found) in &scorer.displacement {
            table.row(&[
                scorer.name.clone(),
                category.clone(),
                format!("{:.1}", found.near_miss),
                format!("{:.1}", found.paraphrase),
                format!("{:.1}", found.unrelated),
                number(Some(found.d)),
                number(Some(found.d_paraphrase)),
                format!("{:?}", found.regime).to_lowercase(),
            ]);
        }
        if let Some(cap) = &scorer.cap {
            let _ = writeln!(
                caps,
                "\n{}: 95 % of the paraphrases lie within {:.1} degrees of their anchor; {:.1} % of the near-misses lie outside.",
                scorer.name,
                cap.degrees,
                100.0 * cap.near_misses_outside
            );
        }
    }
    if study.scorers.iter().any(|s| !s.displacement.is_empty()) {
        text.push_str(&table.text);
        text.push_str(&caps);
    }
    let columns = names(&[
        "edits",
        "mean size",
        "degrees per word",
        "95th percentile",
        "median 1 - cos",
        "selectivity",
        "matched",
        "angle at 1 / 2 / 3 / 4 / 5 words",
        "the same of accepts",
    ]);
    let title = "Edit sensitivity: near-misses against accepts of equal size and length";
    let mut table = Table::new(title, &["scorer", "category"], &columns);
    let mut any = false;
    for scorer in &study.scorers {
        for group in groups(scorer) {
            let Some(found) = &group.sensitivity else {
                continue;
            };
            any = true;
            let curve = |curve: &crate::metrics::edits::Curve| {
                let angles =
                    curve.map(|at| at.map_or("-".into(), |(angle, _)| format!("{angle:.1}")));
                angles.join(" / ")
            };
            table.row(&[
                scorer.name.clone(),
                group.category.clone(),
                found.n.to_string(),
                format!("{:.2}", found.mean_size),
                format!("{:.2}", found.degrees_per_word),
                format!("{:.2}", found.degrees_per_word_p95),
                format!("{:.4}", found.median_distance),
                found
                    .selectivity
                    .map_or("-".into(), |s| format!("{:.3}", s.ratio)),
                found
                    .selectivity
                    .map_or("0".into(), |s| s.matched.to_string()),
                curve(&found.changing),
                curve(&found.preserving),
            ]);
        }
    }
    if any {
        text.push_str(&table.text);
    }
    text
}

fn sources_table(study: &NearMissStudy) -> Table {
    let mut columns = names(&["near-misses", "accepts"]);
    let scorers = &study.scorers;
    columns.extend(scorers.iter().map(|s| format!("{} AUC", s.name)));
    columns.extend(scorers.iter().map(|s| format!("{} RR95", s.name)));
    let title = "By source (test half; common thresholds; AUC of its own accepts and near-misses)";
    let mut table = Table::new(title, &["source"], &columns);
    for (i, source) in scorers[0].evaluation.sources.iter().enumerate() {
        let name = match &source.source[..] {
            "" => "(not said)",
            name => name,
        };
        let mut cells = vec![
            name.to_string(),
            source.near_misses[1].to_string(),
            source.accepts[1].to_string(),
        ];
        let of = |scorer: &ScorerReport| scorer.evaluation.sources[i].clone();
        cells.extend(scorers.iter().map(|s| number(of(s).auc.value().copied())));
        cells.extend(
            scorers
                .iter()
                .map(|s| number(of(s).rejection_95.value().copied())),
        );
        table.row(&cells);
    }
    table
}

/// The numbers of a run as JSON.
pub(super) fn metrics(study: &NearMissStudy) -> Value {
    json!({
        "scorers": study.scorers,
        "comparison": study.comparison,
        "texts": study.scores.texts.texts,
        "tokens": study.scores.texts.tokens,
        "texts_truncated": study.scores.texts.truncated,
    })
}

/// A line per pair, with its scores, then one per triplet that pairs are set beside, with its two cosines.
pub(super) fn rows<'a>(
    stage: &'a NearMissStage,
    study: &'a NearMissStudy,
) -> impl Iterator<Item = Value> + 'a {
    let examples = &stage.examples;
    let pairs = examples.items.iter().enumerate().map(|(i, item)| {
        let scorers = study.scorers.iter().zip(&study.scores.scores);
        let scores: serde_json::Map<_, _> = scorers
            .map(|(scorer, scores)| (scorer.name.clone(), json!(scores[i])))
            .collect();
        let mut line = item.line();
        line["scores"] = Value::Object(scores);
        line
    });
    let drawn = stage.triplets.iter().zip(&study.comparison);
    let triplets = drawn.flat_map(|(triplets, comparison)| {
        let drawn = comparison.rows.iter().zip(&comparison.cosines);
        drawn.map(|(&row, cosines)| {
            let row = &triplets.all[row];
            json!({
                "triplet": [row.anchor, row.positive, row.negative],
                "cosines": cosines,
            })
        })
    });
    pairs.chain(triplets)
}

/// Names of the verifiers with the time that each took.
fn scoring(study: &NearMissStudy) -> impl Iterator<Item = (&String, f64)> {
    // The first scorer is the encoder's own cosine, which is part of encoding.
    let verifiers = study.scores.names[1..].iter().zip(&study.scores.scoring);
    verifiers.map(|(name, time)| (name, time.as_secs_f64()))
}

pub(super) fn times(study: &NearMissStudy) -> Value {
    let scoring: serde_json::Map<_, _> = scoring(study)
        .map(|(name, seconds)| (name.clone(), json!(seconds)))
        .collect();
    json!({
        "encode_s": study.scores.encoding.as_secs_f64(),
        "score_s": scoring,
    })
}

/// How fast it was.
pub(super) fn log(study: &NearMissStudy) -> Vec<String> {
    let scores = &study.scores;
    let seconds = scores.encoding.as_secs_f64();
    let mut lines = vec![format!(
        "{} texts, {} tokens in {seconds:.1} s ({:.0} tokens/s)",
        scores.texts.texts,
        scores.texts.tokens,
        scores.texts.tokens as f64 / seconds.max(1e-9)
    )];
    let pairs = scores.scores[0].len();
    let scoring = scoring(study);
    lines.extend(scoring.map(|(name, seconds)| format!("{name}: {pairs} pairs in {seconds:.2} s")));
    lines
}

/// What is worth saying about a run beside its numbers.
pub(super) fn notes(examples: &Examples, study: &NearMissStudy) -> Vec<String> {
    let mut notes = examples.notes.clone();
    if study.scores.texts.truncated > 0 {
        let n = study.scores.texts.truncated;
        notes.push(format!("texts cut at the verifiers' length limit: {n}"));
    }
    let sizes = examples.items.iter().map(|item| item.size_and_length().0);
    let beyond = sizes.filter(|&size| size == BEYOND).count();
    if beyond > 0 {
        notes.push(format!(
            "pairs in which more than {MOST} words differ, whose size of edit counts as {BEYOND}: {beyond}"
        ));
    }
    let accepts = examples.items.iter().filter(|item| item.kind.is_accept());
    if accepts.count() == 0 {
        notes.push("no paraphrases were given: scores are described, separation is not".into());
    }
    notes.extend(fewer_samples(
        study.evaluations().filter_map(|e| e.resamples),
    ));
    if !examples
        .items
        .iter()
        .any(|item| item.kind == Kind::Unrelated)
    {
        notes.push("no unrelated pairs: angles have no scale".into());
    }
    notes
}
