//! Retrieval in two stages: encode a collection, search it exactly, evaluate; re-rank the best, evaluate again.

mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use report::RetrieveConfig;

use super::pair_scores::Scorers;
use super::progress::Progress;
use super::session::Session;
use super::stage::{Report, Stage};
use crate::data::beir::{Collection, Query};
use crate::encoder::{EncodeStats, Encoder};
use crate::error::Result;
use crate::index::{Hit, TokenVectors, VectorIndex};
use crate::metrics::ranking::{Evaluation, Run, evaluate};
use crate::ops::PairList;
use crate::text::TextKind;

/// How much is kept and done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrieveOptions {
    /// Results kept per query, one more being looked at.
    pub depth: usize,
    /// Queries encoded and searched at a time; no number depends on it.
    pub queries: usize,
    /// Pairs scored by one launch; no number depends on it.
    pub pairs: usize,
}

impl Default for RetrieveOptions {
    /// The deepest metric looks at 100 results; so few pairs are scored at a time that progress shows.
    fn default() -> Self {
        RetrieveOptions {
            depth: 100,
            queries: 512,
            pairs: 1 << 16,
        }
    }
}

/// The stage: retrieval on a collection, its candidates re-ranked by every verifier.
pub struct RetrieveStage {
    /// What is searched, and what for.
    pub collection: Arc<Collection>,
    /// The second stages.
    pub scorers: Arc<Scorers>,
    /// How much is kept.
    pub options: RetrieveOptions,
}

impl Stage for RetrieveStage {
    const NAME: &'static str = "retrieve";
    const ROWS: &'static str = "per_query.jsonl";
    type Config = RetrieveConfig;
    type Found = (Retrieval, SecondStage);

    fn subject<'a>(&'a self, _session: &'a Session) -> &'a str {
        &self.collection.name
    }

    fn inputs(&self) -> Value {
        json!({ "collection": self.collection.name })
    }

    fn config(&self, session: &Session) -> RetrieveConfig {
        RetrieveConfig::new(self, session)
    }

    fn measure(&self, session: &Session) -> Result<Self::Found> {
        let (encoder, progress) = (&session.encoder, &session.progress);
        let first = retrieve(encoder, &self.collection, self.options, progress)?;
        let second = if self.scorers.verifiers.is_empty() {
            SecondStage::default()
        } else {
            let (scorers, options) = (&self.scorers, self.options);
            rerank(
                encoder,
                &self.collection,
                &first,
                scorers,
                options,
                progress,
            )?
        };
        Ok((first, second))
    }

    fn notes(&self, (first, second): &Self::Found) -> Vec<String> {
        report::notes(&self.collection, first, second)
    }

    fn log(&self, (first, second): &Self::Found) -> Vec<String> {
        report::log(first, second)
    }

    fn markdown(&self, report: &Report<Self>) -> String {
        report::markdown(&self.collection, report)
    }

    fn metrics(&self, (first, second): &Self::Found) -> Value {
        report::metrics(first, second)
    }

    fn rows<'a>(&'a self, (first, second): &'a Self::Found) -> impl Iterator<Item = Value> + 'a {
        report::rows(first, second)
    }

    fn times(&self, (first, second): &Self::Found) -> Value {
        report::times(first, second)
    }
}

/// Documents, best first, per query id.
type Rankings = BTreeMap<String, Vec<Hit>>;

/// What a retrieval run found.
#[derive(Debug)]
pub struct Retrieval {
    /// Per query id, the best documents, one more than is kept: what a second stage scores.
    pub candidates: BTreeMap<String, Vec<Hit>>,
    /// Per query id, the best documents with their cosines, best first.
    pub ranked: BTreeMap<String, Vec<(String, f32)>>,
    /// Metrics over those rankings.
    pub evaluation: Evaluation,
    /// The same with documents left out whose id is the query's own, as BEIR does; `None` if no ranking has one.
    pub without_identical: Option<Evaluation>,
    /// What the encoder did with the documents.
    pub documents: EncodeStats,
    /// What it did with the queries.
    pub queries: EncodeStats,
    /// Bytes that hold the corpus's embeddings.
    pub index_bytes: u64,
    /// How long each step took.
    pub times: Times,
}

/// Times of a run; never part of a result that is compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Encoding the documents.
    pub documents: Duration,
    /// Encoding the queries.
    pub queries: Duration,
    /// Searching.
    pub search: Duration,
}

/// Encodes `collection` with `encoder`, searches every judged query, and evaluates binary-relevance metrics (graded
/// nDCG besides). The corpus's embeddings are held once, in f16; documents stream through the encoder.
///
/// # Errors
/// What encoder, index and metrics report; a document that cannot be encoded is named.
pub fn retrieve(
    encoder: &Encoder,
    collection: &Collection,
    options: RetrieveOptions,
    progress: &Progress,
) -> Result<Retrieval> {
    let mut times = Times::default();
    let corpus = &collection.corpus;
    let texts: Vec<_> = corpus.iter().map(|d| d.text_for_encoder()).collect();
    let mut index = VectorIndex::with_capacity(encoder.device(), encoder.width(), corpus.len())?;
    let mut task = progress.task("documents", corpus.len());
    let documents = index
        .append_texts_with(encoder, &texts, TextKind::Document, |done, _| task.at(done))
        .map_err(|e| e.naming_text(|i| format!("document {}", corpus[i].id)))?;
    times.documents = task.finish();

    let mut candidates = BTreeMap::new();
    let mut queries = EncodeStats::default();
    let mut task = progress.task("queries", collection.queries.len());
    for chunk in collection.queries.chunks(options.queries.max(1)) {
        let start = Instant::now();
        let texts: Vec<&str> = chunk.iter().map(|q| q.text.as_str()).collect();
        let mut rows = Vec::with_capacity(chunk.len() * encoder.width());
        let stats = encoder
            .encode(
                &texts,
                TextKind::Query,
                |_, part| {
                    rows.extend_from_slice(part);
                    Ok(())
                },
                |_, _| {},
            )
            .map_err(|e| e.naming_text(|i| format!("query {}", chunk[i].id)))?;
        queries.texts += stats.texts;
        queries.tokens += stats.tokens;
        queries.truncated += stats.truncated;
        queries.empty += stats.empty;
        times.queries += start.elapsed();

        let start = Instant::now();
        // One more than is kept, so that a document that is the query itself can be left out.
        let hits = index.search(&rows, options.depth + 1)?;
        times.search += start.elapsed();
        let ids = chunk.iter().map(|query| query.id.clone());
        candidates.extend(ids.zip(hits));
        task.at(candidates.len());
    }
    task.finish();

    let (evaluation, without_identical) = evaluations(&candidates, collection, options.depth)?;
    Ok(Retrieval {
        ranked: first(&candidates, collection, options.depth),
        candidates,
        evaluation,
        without_identical,
        documents,
        queries,
        index_bytes: index.bytes(),
        times,
    })
}

/// Rankings cut at `depth`, with the documents' ids.
fn first(
    rankings: &Rankings,
    collection: &Collection,
    depth: usize,
) -> BTreeMap<String, Vec<(String, f32)>> {
    let named = |hit: &Hit| (collection.corpus[hit.id as usize].id.clone(), hit.score);
    rankings
        .iter()
        .map(|(query, hits)| (query.clone(), hits.iter().take(depth).map(named).collect()))
        .collect()
}

/// The metrics of rankings, and those without the documents whose id is the query's own if there is any.
fn evaluations(
    rankings: &Rankings,
    collection: &Collection,
    depth: usize,
) -> Result<(Evaluation, Option<Evaluation>)> {
    let id = |hit: &Hit| collection.corpus[hit.id as usize].id.as_str();
    let all = evaluate(&run(rankings, depth, id, |_, _| true), &collection.qrels)?;
    let mut lists = rankings.iter();
    let identical = lists.any(|(query, hits)| hits.iter().any(|hit| id(hit) == query));
    let without = identical
        .then(|| {
            evaluate(
                &run(rankings, depth, id, |query, id| query != id),
                &collection.qrels,
            )
        })
        .transpose()?;
    Ok((all, without))
}

/// The first `depth` ids of every ranking that `keep` admits.
fn run<'a>(
    rankings: &Rankings,
    depth: usize,
    id: impl Fn(&Hit) -> &'a str,
    keep: impl Fn(&str, &str) -> bool,
) -> Run {
    rankings
        .iter()
        .map(|(query, hits)| {
            let ids = hits.iter().map(&id).filter(|id| keep(query, id));
            (query.clone(), ids.take(depth).map(str::to_string).collect())
        })
        .collect()
}

/// What a second stage made of the first one's candidates.
#[derive(Debug)]
pub struct Reranking {
    /// Name of the verifier.
    pub verifier: String,
    /// Its learned parameters.
    pub parameters: usize,
    /// Per query id, the best documents with the verifier's scores, best first.
    pub ranked: BTreeMap<String, Vec<(String, f32)>>,
    /// Metrics over those rankings.
    pub evaluation: Evaluation,
    /// The same with documents left out whose id is the query's own; `None` if no ranking has one.
    pub without_identical: Option<Evaluation>,
    /// Time of scoring, token vectors being there.
    pub time: Duration,
}

/// All second stages of a run, and what they had in common.
#[derive(Debug, Default)]
pub struct SecondStage {
    /// One per verifier, in the order given.
    pub rerankings: Vec<Reranking>,
    /// Pairs of a query and a candidate that each verifier scored.
    pub pairs: usize,
    /// What the encoder did with the documents that are a candidate of any query.
    pub documents: EncodeStats,
    /// What it did with the queries.
    pub queries: EncodeStats,
    /// Time of making token vectors.
    pub time: Duration,
}

/// Re-ranks the candidates of `first_stage` with each verifier.
///
/// Token vectors of a query and of a document are computed once, whatever the number of its pairs and of verifiers:
/// those of the queries are held, those of the documents stream through in pieces, each scored against the queries
/// that have its texts as candidates. Candidates with equal scores keep the first stage's order.
///
/// # Errors
/// What encoder, verifiers and metrics report; a document that cannot be encoded is named.
pub fn rerank(
    encoder: &Encoder,
    collection: &Collection,
    first_stage: &Retrieval,
    scorers: &Scorers,
    options: RetrieveOptions,
    progress: &Progress,
) -> Result<SecondStage> {
    let (verifiers, limit) = (&scorers.verifiers, Some(scorers.limit(encoder)));
    let at_once = options.pairs.max(1);
    let corpus = &collection.corpus;
    let (lists, asked): (Vec<&Vec<Hit>>, Vec<&Query>) = collection
        .queries
        .iter()
        .filter_map(|query| Some((first_stage.candidates.get(&query.id)?, query)))
        .unzip();
    // The pairs by document: (query, place among its candidates).
    let mut wanted: BTreeMap<u64, Vec<(usize, usize)>> = BTreeMap::new();
    for (q, list) in lists.iter().enumerate() {
        for (place, hit) in list.iter().enumerate() {
            wanted.entry(hit.id).or_default().push((q, place));
        }
    }
    let (rows, wanted): (Vec<u64>, Vec<_>) = wanted.into_iter().unzip();

    let start = Instant::now();
    let mut scoring = vec![Duration::ZERO; verifiers.len()];
    let mut query_pieces: Vec<(usize, TokenVectors)> = Vec::new();
    let texts: Vec<&str> = asked.iter().map(|query| query.text.as_str()).collect();
    let keep = |first, vectors, _: &[f32]| {
        query_pieces.push((first, vectors));
        Ok(())
    };
    let queries = encoder
        .encode_tokens(&texts, TextKind::Query, limit, keep, |_, _| {})
        .map_err(|e| e.naming_text(|i| format!("query {}", asked[i].id)))?;

    let mut scores: Vec<Vec<Vec<f32>>> = verifiers
        .iter()
        .map(|_| lists.iter().map(|list| vec![0.0; list.len()]).collect())
        .collect();
    let texts: Vec<_> = rows
        .iter()
        .map(|&row| corpus[row as usize].text_for_encoder())
        .collect();
    let mut task = progress.task("candidates", texts.len());
    let documents = encoder
        .encode_tokens(
            &texts,
            TextKind::Document,
            limit,
            |first, vectors, _| {
                for (first_query, piece) in &query_pieces {
                    let these = *first_query..*first_query + piece.len();
                    let (places, pairs): (Vec<(usize, usize)>, Vec<[u32; 2]>) = (0..vectors.len())
                        .flat_map(|c| wanted[first + c].iter().map(move |&at| (at, c)))
                        .filter(|((q, _), _)| these.contains(q))
                        .map(|((q, place), c)| ((q, place), [(q - first_query) as u32, c as u32]))
                        .unzip();
                    for part in (0..pairs.len()).step_by(at_once) {
                        let part = part..(part + at_once).min(pairs.len());
                        let list = PairList::new(encoder.device(), pairs[part.clone()].to_vec())?;
                        for (v, verifier) in verifiers.iter().enumerate() {
                            let start = Instant::now();
                            let found = verifier.score(piece, &vectors, &list)?;
                            scoring[v] += start.elapsed();
                            for (&(q, place), score) in places[part.clone()].iter().zip(found) {
                                scores[v][q][place] = score;
                            }
                        }
                    }
                }
                Ok(())
            },
            |done, _| task.at(done),
        )
        .map_err(|e| e.naming_text(|i| format!("document {}", corpus[rows[i] as usize].id)))?;
    task.finish();
    let time = start.elapsed() - scoring.iter().sum();

    let mut rerankings = Vec::new();
    for ((verifier, scores), time) in verifiers.iter().zip(scores).zip(scoring) {
        let rankings: Rankings = asked
            .iter()
            .zip(lists.iter().zip(scores))
            .map(|(query, (list, scores))| (query.id.clone(), reordered(list, &scores)))
            .collect();
        let (evaluation, without_identical) = evaluations(&rankings, collection, options.depth)?;
        rerankings.push(Reranking {
            verifier: verifier.name(),
            parameters: verifier.parameters(),
            ranked: first(&rankings, collection, options.depth),
            evaluation,
            without_identical,
            time,
        });
    }
    Ok(SecondStage {
        rerankings,
        pairs: lists.iter().map(|list| list.len()).sum(),
        documents,
        queries,
        time,
    })
}

/// The candidates with their new scores, best first; equal ones stay in order.
fn reordered(candidates: &[Hit], scores: &[f32]) -> Vec<Hit> {
    let with_scores = candidates.iter().zip(scores);
    let mut hits: Vec<Hit> = with_scores
        .map(|(hit, &score)| Hit { score, ..*hit })
        .collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
    hits
}

/// A smaller collection of `n` documents for a quick look: the relevant documents of the first queries, up to half,
/// then documents in order. Queries whose relevant documents are all among them stay.
pub fn subset(collection: &Collection, n: usize) -> Collection {
    let place: BTreeMap<&str, usize> = collection
        .corpus
        .iter()
        .enumerate()
        .map(|(i, d)| (d.id.as_str(), i))
        .collect();
    let mut chosen = std::collections::BTreeSet::new();
    let mut kept = Vec::new();
    for query in &collection.queries {
        let Some(judged) = collection.qrels.judged(&query.id) else {
            continue;
        };
        let relevant: Vec<usize> = judged
            .iter()
            .filter(|(_, grade)| **grade > 0)
            .filter_map(|(id, _)| place.get(id.as_str()).copied())
            .collect();
        let new = relevant.iter().filter(|i| !chosen.contains(*i)).count();
        if relevant.is_empty() || chosen.len() + new > n / 2 {
            continue;
        }
        chosen.extend(relevant);
        kept.push(query.clone());
    }
    for i in 0..collection.corpus.len() {
        if chosen.len() >= n {
            break;
        }
        chosen.insert(i);
    }
    let mut qrels = collection.qrels.clone();
    qrels.retain_queries(|id| kept.iter().any(|q| q.id == id));
    Collection {
        name: format!("{}-{n}", collection.name),
        split: collection.split.clone(),
        corpus: chosen
            .into_iter()
            .map(|i| collection.corpus[i].clone())
            .collect(),
        queries: kept,
        qrels,
        notes: collection.notes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identical_ids_can_be_left_out() {
        let hits = [0, 1].map(|id| Hit { id, score: 1.0 }).to_vec();
        let rankings: Rankings = [("q".to_string(), hits)].into();
        let id = |hit: &Hit| ["q", "d"][hit.id as usize];
        assert_eq!(run(&rankings, 2, id, |_, _| true)["q"], ["q", "d"]);
        assert_eq!(run(&rankings, 2, id, |q, d| q != d)["q"], ["d"]);
    }

    #[test]
    fn equal_scores_keep_the_order_of_the_first_stage() {
        let candidates: Vec<Hit> = [7, 3, 9, 1].map(|id| Hit { id, score: 0.5 }).to_vec();
        let order = |scores: [f32; 4]| {
            let hits = reordered(&candidates, &scores);
            hits.iter().map(|hit| hit.id).collect::<Vec<_>>()
        };
        assert_eq!(order([0.2; 4]), [7, 3, 9, 1]);
        assert_eq!(order([0.1, 0.9, 0.1, 0.9]), [3, 1, 7, 9]);
    }
}
