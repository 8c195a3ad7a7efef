//! Retrieval in two stages: encode a collection, search it exactly, evaluate; re-rank the best, evaluate again.

mod report;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use report::RetrieveConfig;

use super::pair_scores::Scorers;
use super::progress::Progress;
use super::session::Session;
use super::stage::{Report, Stage};
use crate::data::beir::{Collection, Query};
use crate::encoder::{EncodeStats, Encoder};
use crate::error::Result;
use crate::index::{Hit, SearchOptions, TokenVectors, VectorIndex};
use crate::metrics::ranking::{Evaluation, Run, evaluate};
use crate::ops::PairList;
use crate::text::TextKind;

/// How much is kept and done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrieveOptions {
    /// Results kept per query and re-ranked; where the query's own document is among them, one more is.
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
        report::rows(&self.collection, first, second)
    }

    fn times(&self, (first, second): &Self::Found) -> Value {
        report::times(first, second)
    }
}

/// The best documents of a query, best first: its candidates, in the order of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ranked<D = (String, f32)> {
    /// As many as are kept, with their scores.
    #[serde(rename = "ranked")]
    pub best: Vec<D>,
    /// Where the query's own document is among them, the one that the first stage has behind them, with its score: what comes
    /// in if that document is left out.
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    pub next: Option<D>,
}

/// Candidates by their numbers.
type Candidates = Ranked<Hit>;

impl Candidates {
    /// From the first stage's best, one more than are kept; `own` says which is the query's own.
    fn new(mut hits: Vec<Hit>, depth: usize, own: impl Fn(&Hit) -> bool) -> Self {
        let more = hits.split_off(depth.min(hits.len()));
        let next = more.into_iter().next();
        Ranked {
            next: next.filter(|_| hits.iter().any(own)),
            best: hits,
        }
    }

    /// All of them, the additional one last.
    fn all(&self) -> impl Iterator<Item = &Hit> {
        self.best.iter().chain(&self.next)
    }

    /// The same with new scores, in the order of [`Ranked::all`], those that are kept ordered by them, best first; equal ones
    /// stay in order.
    fn reordered(&self, scores: &[f32]) -> Self {
        let mut scored = self
            .all()
            .zip(scores)
            .map(|(hit, &score)| Hit { score, ..*hit });
        let mut best: Vec<Hit> = scored.by_ref().take(self.best.len()).collect();
        best.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ranked {
            best,
            next: scored.next(),
        }
    }

    /// Without the document that `own` says is the query's own: what comes behind moves up, and the additional one takes its
    /// place by its score, behind its equals.
    fn without(&self, own: impl Fn(&Hit) -> bool) -> Vec<Hit> {
        let mut hits: Vec<Hit> = self.best.iter().filter(|hit| !own(hit)).copied().collect();
        if let Some(next) = self.next {
            let at = hits.partition_point(|hit| hit.score.total_cmp(&next.score).is_ge());
            hits.insert(at, next);
        }
        hits
    }

    /// With the documents' ids.
    fn named(&self, collection: &Collection) -> Ranked {
        let named = |hit: &Hit| (collection.corpus[hit.id as usize].id.clone(), hit.score);
        Ranked {
            best: self.best.iter().map(named).collect(),
            next: self.next.as_ref().map(named),
        }
    }
}

/// Candidates per query id.
type Rankings = BTreeMap<String, Candidates>;

/// What a retrieval run found.
#[derive(Debug)]
pub struct Retrieval {
    /// Per query id, the best documents by their numbers: what a second stage scores.
    pub candidates: BTreeMap<String, Ranked<Hit>>,
    /// Per query id, the best documents with their cosines.
    pub ranked: BTreeMap<String, Ranked>,
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
        // One more than is kept, so that a document that is the query itself can be left out. Numbers do not depend on how
        // many queries are asked at a time.
        let alike = SearchOptions {
            alike: true,
            ..SearchOptions::default()
        };
        let hits = index.search_with(&rows, options.depth + 1, alike)?;
        times.search += start.elapsed();
        candidates.extend(chunk.iter().zip(hits).map(|(query, hits)| {
            let own = |hit: &Hit| corpus[hit.id as usize].id == query.id;
            (query.id.clone(), Candidates::new(hits, options.depth, own))
        }));
        task.at(candidates.len());
    }
    task.finish();

    let (evaluation, without_identical) = evaluations(&candidates, collection)?;
    Ok(Retrieval {
        ranked: named(&candidates, collection),
        candidates,
        evaluation,
        without_identical,
        documents,
        queries,
        index_bytes: index.bytes(),
        times,
    })
}

/// Rankings with the documents' ids.
fn named(rankings: &Rankings, collection: &Collection) -> BTreeMap<String, Ranked> {
    let rankings = rankings.iter();
    rankings
        .map(|(query, candidates)| (query.clone(), candidates.named(collection)))
        .collect()
}

/// The metrics of rankings, and those without the documents whose id is the query's own if there is any.
fn evaluations(
    rankings: &Rankings,
    collection: &Collection,
) -> Result<(Evaluation, Option<Evaluation>)> {
    let id = |hit: &Hit| collection.corpus[hit.id as usize].id.as_str();
    let run = |of: &dyn Fn(&str, &Candidates) -> Vec<Hit>| -> Run {
        let lists = rankings.iter();
        let ids = |hits: Vec<Hit>| hits.iter().map(|hit| id(hit).to_string()).collect();
        lists
            .map(|(query, candidates)| (query.clone(), ids(of(query, candidates))))
            .collect()
    };
    let all = run(&|_, candidates| candidates.best.clone());
    let all = evaluate(&all, &collection.qrels)?;
    let own = |query: &str, hit: &Hit| id(hit) == query;
    let mut lists = rankings.iter();
    let without = lists
        .any(|(query, candidates)| candidates.best.iter().any(|hit| own(query, hit)))
        .then(|| {
            let without = run(&|query, candidates| candidates.without(|hit| own(query, hit)));
            evaluate(&without, &collection.qrels)
        });
    Ok((all, without.transpose()?))
}

/// What a second stage made of the first one's candidates.
#[derive(Debug)]
pub struct Reranking {
    /// Name of the verifier.
    pub verifier: String,
    /// Its learned parameters.
    pub parameters: usize,
    /// Per query id, the best documents with the verifier's scores, best first.
    pub ranked: BTreeMap<String, Ranked>,
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

/// Re-ranks the candidates of `first_stage` with each verifier: as many as are kept; where the query's own document is among
/// them, the one that comes in without it is scored too.
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
    let (lists, asked): (Vec<&Candidates>, Vec<&Query>) = collection
        .queries
        .iter()
        .filter_map(|query| Some((first_stage.candidates.get(&query.id)?, query)))
        .unzip();
    // The pairs by document: (query, place among its candidates).
    let mut wanted: BTreeMap<u64, Vec<(usize, usize)>> = BTreeMap::new();
    for (q, list) in lists.iter().enumerate() {
        for (place, hit) in list.all().enumerate() {
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
        .map(|_| {
            lists
                .iter()
                .map(|list| vec![0.0; list.all().count()])
                .collect()
        })
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
            .map(|(query, (list, scores))| (query.id.clone(), list.reordered(&scores)))
            .collect();
        let (evaluation, without_identical) = evaluations(&rankings, collection)?;
        rerankings.push(Reranking {
            verifier: verifier.name(),
            parameters: verifier.parameters(),
            ranked: named(&rankings, collection),
            evaluation,
            without_identical,
            time,
        });
    }
    Ok(SecondStage {
        rerankings,
        pairs: lists.iter().map(|list| list.all().count()).sum(),
        documents,
        queries,
        time,
    })
}

/// The fewest documents of which [`subset`] makes a collection with a query; `None` if no query has a relevant document in the
/// corpus.
pub fn smallest_subset(collection: &Collection) -> Option<usize> {
    let corpus: HashSet<&str> = collection.corpus.iter().map(|d| &d.id[..]).collect();
    let relevant = |query: &Query| {
        let judged = collection.qrels.judged(&query.id).into_iter().flatten();
        let found = judged.filter(|(id, grade)| **grade > 0 && corpus.contains(&id[..]));
        found.count()
    };
    let counts = collection.queries.iter().map(relevant);
    // Half of the documents are for them.
    Some(2 * counts.filter(|&n| n > 0).min()?)
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

    fn hits(ids: &[u64]) -> Vec<Hit> {
        let numbered = (0..).zip(ids);
        numbered
            .map(|(place, &id)| Hit {
                id,
                score: 1.0 - place as f32 / 10.0,
            })
            .collect()
    }

    fn ids(hits: &[Hit]) -> Vec<u64> {
        hits.iter().map(|hit| hit.id).collect()
    }

    #[test]
    fn one_more_is_kept_where_the_own_document_is_among_the_best() {
        let own = |hit: &Hit| hit.id == 7;
        for (found, kept, next, without) in [
            (&[1, 7, 2, 3][..], &[1, 7, 2][..], Some(3), &[1, 2, 3][..]),
            (&[1, 2, 3, 7], &[1, 2, 3], None, &[1, 2, 3]),
            (&[1, 2, 3, 4], &[1, 2, 3], None, &[1, 2, 3]),
            (&[7, 1], &[7, 1], None, &[1]),
            (&[], &[], None, &[]),
        ] {
            let candidates = Candidates::new(hits(found), 3, own);
            assert_eq!(ids(&candidates.best), kept, "{found:?}");
            assert_eq!(candidates.next.map(|hit| hit.id), next, "{found:?}");
            assert_eq!(ids(&candidates.without(own)), without, "{found:?}");
        }
    }

    #[test]
    fn what_lies_behind_the_depth_is_not_re_ranked_to_the_front() {
        let own = |hit: &Hit| hit.id == 7;
        let candidates = Candidates::new(hits(&[1, 7, 2, 3]), 3, own);
        // The one behind the depth scores best of all: it counts where the query's own document is left out, and there alone.
        let found = candidates.reordered(&[0.2, 0.9, 0.3, 1.0]);
        assert_eq!(ids(&found.best), [7, 2, 1]);
        assert_eq!(ids(&found.without(own)), [3, 2, 1]);
        let found = candidates.reordered(&[0.2, 0.9, 0.3, 0.2]);
        assert_eq!(ids(&found.without(own)), [2, 1, 3], "behind its equals");
        let found = candidates.reordered(&[0.2, 0.9, 0.3, 0.25]);
        assert_eq!(ids(&found.without(own)), [2, 3, 1]);
    }

    #[test]
    fn equal_scores_keep_the_order_of_the_first_stage() {
        let candidates = Candidates::new(hits(&[7, 3, 9, 1]), 4, |_| false);
        let order = |scores: [f32; 4]| ids(&candidates.reordered(&scores).best);
        assert_eq!(order([0.2; 4]), [7, 3, 9, 1]);
        assert_eq!(order([0.1, 0.9, 0.1, 0.9]), [3, 1, 7, 9]);
    }
}
