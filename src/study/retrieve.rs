//! First-stage retrieval: encode a collection, search it exactly, evaluate.

use std::collections::BTreeMap;
use std::time::Duration;

use super::progress::Reporter;
use crate::data::beir::Collection;
use crate::encoder::{EncodeStats, Encoder};
use crate::error::{Error, Result};
use crate::metrics::ranking::{Evaluation, Run, evaluate};
use crate::score::VectorIndex;
use crate::text::TextKind;

/// Results kept per query: the deepest metric looks at 100.
pub const DEPTH: usize = 100;

/// Queries encoded and searched at a time.
const QUERIES: usize = 512;

/// What a retrieval run found.
#[derive(Debug)]
pub struct Retrieval {
    /// Per query id, the best [`DEPTH`] documents with their cosines, best first.
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
    reporter: &Reporter,
) -> Result<Retrieval> {
    let mut times = Times::default();
    let corpus = &collection.corpus;
    let texts: Vec<_> = corpus.iter().map(|d| d.text_for_encoder()).collect();
    let mut index = VectorIndex::with_capacity(encoder.device(), encoder.width(), corpus.len())?;
    let mut task = reporter.task("documents", corpus.len());
    let documents = encoder
        .encode(
            &texts,
            TextKind::Document,
            |_, rows| index.append(rows),
            |done, _| task.at(done),
        )
        .map_err(|e| name_text(e, |i| format!("document {}", corpus[i].id)))?;
    times.documents = task.finish();

    let mut ranked = BTreeMap::new();
    let mut queries = EncodeStats::default();
    let mut task = reporter.task("queries", collection.queries.len());
    for chunk in collection.queries.chunks(QUERIES) {
        let start = std::time::Instant::now();
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
            .map_err(|e| name_text(e, |i| format!("query {}", chunk[i].id)))?;
        queries.texts += stats.texts;
        queries.tokens += stats.tokens;
        queries.truncated += stats.truncated;
        queries.empty += stats.empty;
        times.queries += start.elapsed();

        let start = std::time::Instant::now();
        // One more than is kept, so that a document that is the query itself can be left out.
        let hits = index.search(&rows, (DEPTH + 1).min(corpus.len()), None)?;
        times.search += start.elapsed();
        for (query, hits) in chunk.iter().zip(hits) {
            let list = hits
                .into_iter()
                .map(|hit| (corpus[hit.row as usize].id.clone(), hit.score))
                .collect();
            ranked.insert(query.id.clone(), list);
        }
        task.at(ranked.len());
    }
    task.finish();

    let evaluation = evaluate(&run(&ranked, |_, _| true), &collection.qrels)?;
    let identical = ranked
        .iter()
        .any(|(query, list)| list.iter().any(|(id, _)| id == query));
    let without_identical = if identical {
        Some(evaluate(
            &run(&ranked, |query, id| query != id),
            &collection.qrels,
        )?)
    } else {
        None
    };
    ranked
        .values_mut()
        .for_each(|list: &mut Vec<_>| list.truncate(DEPTH));
    Ok(Retrieval {
        ranked,
        evaluation,
        without_identical,
        documents,
        queries,
        index_bytes: index.bytes(),
        times,
    })
}

/// The first [`DEPTH`] ids of every ranking that `keep` admits.
fn run(ranked: &BTreeMap<String, Vec<(String, f32)>>, keep: impl Fn(&str, &str) -> bool) -> Run {
    ranked
        .iter()
        .map(|(query, list)| {
            let ids = list.iter().map(|(id, _)| id).filter(|id| keep(query, id));
            (query.clone(), ids.take(DEPTH).cloned().collect())
        })
        .collect()
}

/// The encoder counts texts; whoever reads the message knows ids.
fn name_text(error: Error, name: impl Fn(usize) -> String) -> Error {
    match error {
        Error::Invalid(message) => {
            let number = message
                .strip_prefix("text ")
                .and_then(|rest| Some((rest.split(' ').next()?.parse::<usize>().ok()?, rest)));
            match number {
                Some((i, rest)) => {
                    Error::Invalid(format!("{}{}", name(i), &rest[i.to_string().len()..]))
                }
                None => Error::Invalid(message),
            }
        }
        other => other,
    }
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
    fn errors_name_the_document() {
        let error = name_text(Error::Invalid("text 12 got an embedding".into()), |i| {
            format!("document d{i}")
        });
        assert_eq!(error.to_string(), "document d12 got an embedding");
        let other = name_text(Error::Invalid("something else".into()), |_| unreachable!());
        assert_eq!(other.to_string(), "something else");
    }

    #[test]
    fn identical_ids_can_be_left_out() {
        let list = vec![("q".to_string(), 1.0), ("d".to_string(), 0.5)];
        let ranked: BTreeMap<_, _> = [("q".to_string(), list)].into();
        assert_eq!(run(&ranked, |_, _| true)["q"], ["q", "d"]);
        assert_eq!(run(&ranked, |q, d| q != d)["q"], ["d"]);
    }
}
