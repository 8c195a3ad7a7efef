//! What a geometry job leaves behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::{GeometryStage, GeometryStudy, MARGINS};
use crate::metrics::geometry::{BALANCE, CONDITIONS};
use crate::study::results::{Fingerprint, PromptConfig, Setup, collection_sha256};
use crate::study::session::Session;
use crate::study::stage::Report;
use crate::study::table::{Table, names, number};

/// What a geometry job depends on, apart from the code.
#[derive(Clone, Debug, Serialize)]
pub struct GeometryConfig {
    /// Which stage.
    pub stage: &'static str,
    /// Seed of everything random.
    pub seed: u64,
    /// Scenes that conditions are counted on.
    pub scenes: usize,
    /// Retrieval sentences at most.
    pub sentences: usize,
    /// One in how many sentences of the grid is held out.
    pub held_out: usize,
    /// SHA-256 of each collection that they come from.
    pub collections_sha256: Vec<String>,
    /// SHA-256 over the pairs of paraphrases.
    pub paraphrases_sha256: String,
    /// What the encoder puts before texts.
    pub prompts: PromptConfig,
    /// Encoder and verifiers.
    #[serde(flatten)]
    pub setup: Setup,
}

impl GeometryConfig {
    pub(super) fn new(stage: &GeometryStage, session: &Session) -> Self {
        let collections = stage.collections.iter();
        let mut paraphrases = Fingerprint::default();
        for text in stage.examples.paraphrases().iter().flatten() {
            paraphrases.field(text);
        }
        GeometryConfig {
            stage: "geometry",
            seed: stage.options.seed,
            scenes: stage.options.scenes,
            sentences: stage.options.sentences,
            held_out: stage.options.held_out,
            collections_sha256: collections.map(|c| collection_sha256(c)).collect(),
            paraphrases_sha256: paraphrases.finish(),
            prompts: PromptConfig::of(&session.encoder),
            setup: session.setup(&stage.scorers),
        }
    }
}

/// The result as Markdown.
pub(super) fn markdown(report: &Report<GeometryStage>) -> String {
    let (config, study) = (&report.config, &report.found);
    let mut text = format!(
        "# Geometry\n\n{}; verifiers see at most {} tokens.\n",
        report.provenance.sentence(&config.setup),
        config.setup.verifier_max_length
    );
    text.push_str(&conditions_table(study).text);
    let _ = writeln!(
        text,
        "\nShare of {} two-part sentences on which a condition holds: C1 nearer to its own phrases than to foreign ones, \
         and to both within {BALANCE}; C2 a paraphrase nearer than exchanged modifiers; C3 nearer than other relations; C4 \
         nearer than the negation, (strong) the negation farther than an unrelated sentence, (double) the doubly negated \
         sentence nearer than the negation. The paraphrase wins by the margin. Transcribed from conditions on a space of \
         images and texts; no theorem says that sentences cannot meet them all.",
        study.scenes.len()
    );
    text.push_str(&joint_table(study).text);
    text.push_str(&grid_text(study));
    if let Some(cap) = &study.cap {
        let _ = writeln!(
            text,
            "\n## Room on the cap\n\n95 % of {} paraphrases lie within {:.1} degrees of their anchor. Of {} relevant pairs of query and document {:.1} % lie farther apart: what a limit at that angle would cost in recall.",
            cap.paraphrases,
            cap.degrees,
            cap.relevant,
            100.0 * cap.outside
        );
    }
    if let Some(space) = &study.space {
        let columns = names(&[
            "sentences",
            "anisotropy",
            "alignment",
            "uniformity",
            "participation ratio",
            "hubness",
        ]);
        let mut table = Table::new("Space of retrieval sentences", &["encoder"], &columns);
        table.row(&[
            report.provenance.backbone.name.clone(),
            space.n.to_string(),
            number(Some(space.anisotropy)),
            number(space.alignment),
            number(Some(space.uniformity)),
            format!("{:.1}", space.participation_ratio),
            number(space.hubness),
        ]);
        text.push_str(&table.text);
        text.push_str("\nMean cosine of two sentences; mean squared distance of relevant pairs; log of the mean Gaussian potential; dimensions in use; skewness of how often a sentence is among the ten nearest of others.\n");
    }
    text.push_str(&report.notes_text());
    text
}

fn conditions_table(study: &GeometryStudy) -> Table {
    let columns = names(&[
        "C1 content",
        "balance",
        "C2 binding",
        "C3 relation",
        "C4 negation",
        "strong",
        "double",
        "all four",
    ]);
    let mut table = Table::new("Conditions", &["scorer", "margin"], &columns);
    for scorer in &study.scorers {
        for found in &scorer.conditions {
            let left = [scorer.name.clone(), found.margin.to_string()];
            let shares = [
                found.content,
                found.balance,
                found.binding,
                found.relation,
                found.negation,
                found.strong_negation,
                found.double_negation,
                found.all,
            ];
            let cells = shares.map(|share| number(Some(share)));
            table.row(&left.into_iter().chain(cells).collect::<Vec<_>>());
        }
    }
    table
}

/// Every two conditions on the same sentence.
fn joint_table(study: &GeometryStudy) -> Table {
    let pairs: Vec<[usize; 2]> = (0..CONDITIONS.len())
        .flat_map(|i| (i + 1..CONDITIONS.len()).map(move |j| [i, j]))
        .collect();
    let columns: Vec<String> = pairs
        .iter()
        .map(|&[i, j]| format!("{} + {}", CONDITIONS[i], CONDITIONS[j]))
        .collect();
    let title = format!("Two conditions on the same sentence, margin {}", MARGINS[0]);
    let mut table = Table::new(&title, &["scorer"], &columns);
    for scorer in &study.scorers {
        if let Some(found) = scorer.conditions.first() {
            let cells = pairs.iter().map(|&[i, j]| number(Some(found.joint[i][j])));
            let cells: Vec<String> = [scorer.name.clone()].into_iter().chain(cells).collect();
            table.row(&cells);
        }
    }
    table
}

/// Superposition, and the binding structure of "the α x and the β y".
fn grid_text(study: &GeometryStudy) -> String {
    let columns = names(&[
        "pairs",
        "sentence and its parts",
        "least possible",
        "measured",
        "slack",
    ]);
    let title = "Sentences as superpositions of their parts";
    let mut table = Table::new(title, &["exchanged"], &columns);
    for (name, found) in &study.superposition {
        let spread = |[low, median, high]: [f64; 3]| format!("{median:.3} [{low:.3}, {high:.3}]");
        table.row(&[
            name.to_string(),
            found.n.to_string(),
            spread(found.fit),
            spread(found.bound),
            spread(found.measured),
            number(Some(found.slack)),
        ]);
    }
    let mut text = table.text;
    text.push_str("\nCosine of a sentence with the normalised sum of its parts (words where modifiers are exchanged, phrases where things are); the least cosine that it can then have with the sentence whose parts are exchanged; the one it has; mean difference of these. Medians [5th, 95th percentile].\n");
    if let Some(found) = &study.structure {
        let _ = writeln!(
            text,
            "\nOf the variance of the embeddings of {} held-out sentences \"the α x and the β y\" a sum of word vectors explains {:.3}, a sum of phrase vectors {:.3}; binding gain {:+.3} (fitted to {}).",
            found.held_out,
            found.additive,
            found.bound,
            found.binding_gain(),
            found.fitted
        );
    }
    text
}

/// The numbers of a run as JSON.
pub(super) fn metrics(study: &GeometryStudy) -> Value {
    json!({
        "conditions": study.scorers,
        "superposition": study.superposition.iter().copied().collect::<BTreeMap<_, _>>(),
        "structure": study.structure,
        "binding_gain": study.structure.map(|found| found.binding_gain()),
        "cap": study.cap,
        "space": study.space,
    })
}

/// What is worth saying about a run beside its numbers.
pub(super) fn notes(study: &GeometryStudy) -> Vec<String> {
    let mut notes = Vec::new();
    if study.space.is_none() {
        notes.push("no retrieval sentences: the space is not described".into());
    }
    if study.cap.is_none() {
        notes.push(
            "no paraphrases or no relevant pairs: what a limit on the angle costs is unknown"
                .into(),
        );
    }
    notes
}

/// A line per scene, with its scores.
pub(super) fn rows(study: &GeometryStudy) -> impl Iterator<Item = Value> + '_ {
    let scenes = study.scenes.iter().enumerate();
    scenes.map(|(i, scene)| {
        let scorers = study.scorers.iter().zip(&study.scores);
        let scores: serde_json::Map<_, _> = scorers
            .map(|(scorer, scores)| (scorer.name.clone(), json!(scores[i])))
            .collect();
        let mut line = json!(scene);
        line["scores"] = Value::Object(scores);
        line
    })
}
