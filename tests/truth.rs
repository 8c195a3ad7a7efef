//! Known numbers, reproduced with all-MiniLM-L6-v2: a published one on SciFact, and the cosines of near-misses as
//! sentence-transformers computes them.
//!
//! Needs the real data and the real weights: `NEARMISS_DATA` is a folder that holds `beir/scifact` and
//! `nearmiss/unified_test.csv`, and the backbone is found or fetched as `run-study` does. `NEARMISS_REQUIRE=truth` makes
//! their absence a failure. All of SciFact, for the published number, takes minutes: `NEARMISS_SOAK=1` runs it.

#[path = "common/needs.rs"]
mod needs;

use std::path::PathBuf;

use nearmiss::data::beir::Collection;
use nearmiss::encoder::{Encoder, LoadOptions};
use nearmiss::index::{Hit, VectorIndex};
use nearmiss::metrics::near_miss::{Kind, Options};
use nearmiss::metrics::ranking::evaluate;
use nearmiss::model::hub::{Backbone, DEFAULT_BACKBONE, FetchOptions, find_backbone};
use nearmiss::study::near_miss::{Examples, FileOptions, near_miss};
use nearmiss::study::pair_scores::Scorers;
use nearmiss::study::progress::Progress;
use nearmiss::study::retrieve::{RetrieveOptions, retrieve, subset};
use nearmiss::text::TextKind;
use nearmiss::verifier::Penalty;
use nearmiss::{Device, Result};
use needs::Need;

/// Something of the folder of real data, and the backbone.
struct Material {
    path: PathBuf,
    backbone: Backbone,
}

/// `NEARMISS_DATA/NAME` and the backbone, or a line that says why not.
fn material(name: &str) -> Result<Material, String> {
    let data = std::env::var_os("NEARMISS_DATA").ok_or("NEARMISS_DATA is not set")?;
    let path = PathBuf::from(data).join(name);
    if !path.exists() {
        return Err(format!("{} is missing", path.display()));
    }
    let backbone = find_backbone(DEFAULT_BACKBONE, &FetchOptions::default(), &mut |_| {})
        .map_err(|e| e.to_string())?;
    Ok(Material { path, backbone })
}

fn scifact(material: &Material) -> Collection {
    Collection::load(&material.path, "test").unwrap()
}

/// Peak resident memory of this process in bytes, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// nDCG@10 of a collection of SciFact's texts on the CPU, whose corpus is held once.
fn ndcg(collection: &Collection, backbone: &Backbone) -> f64 {
    let options = LoadOptions {
        max_length: Some(256),
        ..Default::default()
    };
    let encoder = Encoder::load(&backbone.folder, &Device::cpu(), options).unwrap();
    let options = RetrieveOptions::default();
    let found = retrieve(&encoder, collection, options, &Progress::new(true)).unwrap();
    let ndcg = found.evaluation.mean.ndcg_at_10;
    println!("nDCG@10 = {ndcg:.4}, {} tokens", found.documents.tokens);
    let rows_and_norms = (collection.corpus.len() * (2 * encoder.width() + 4)) as u64;
    assert_eq!(
        found.index_bytes, rows_and_norms,
        "the corpus is held once, in f16"
    );
    ndcg
}

/// One of 300 queries' hits moves by about a rank.
const A_RANK: f64 = 0.001;

fn a_fifth_of_scifact_on_the_cpu_is_ranked_as_sentence_transformers_ranks_it(material: &Material) {
    let small = subset(&scifact(material), 1000);
    assert_eq!(small.queries.len(), 300);
    let ndcg = ndcg(&small, &material.backbone);
    // sentence-transformers 6.2.0 in float32, at most 256 tokens. What f16 rows swap are neighbours.
    assert!((ndcg - 0.796_052).abs() <= A_RANK, "nDCG@10 = {ndcg}");
}

fn scifact_on_the_cpu_is_what_the_model_card_leads_to_expect(material: &Material) {
    let ndcg = ndcg(&scifact(material), &material.backbone);
    // The published value has three digits.
    assert!((ndcg - 0.645).abs() <= A_RANK, "nDCG@10 = {ndcg}");
    if let Some(peak) = peak_memory() {
        println!("peak resident memory: {:.0} MB", peak as f64 / 1e6);
        assert!(peak < 1_500_000_000, "{peak} bytes resident");
    }
}

/// Embeddings and top-10 lists of a collection on a device.
struct Ranked {
    documents: Vec<f32>,
    queries: Vec<f32>,
    hits: Vec<Vec<Hit>>,
    ndcg: f64,
}

fn ranked(device: &Device, collection: &Collection, backbone: &Backbone) -> Result<Ranked> {
    let options = LoadOptions {
        max_length: Some(128),
        ..Default::default()
    };
    let encoder = Encoder::load(&backbone.folder, device, options)?;
    let texts: Vec<_> = collection
        .corpus
        .iter()
        .map(|d| d.text_for_encoder())
        .collect();
    let documents = encoder.embed(&texts, TextKind::Document)?;
    let queries: Vec<&str> = collection.queries.iter().map(|q| q.text.as_str()).collect();
    let queries = encoder.embed(&queries, TextKind::Query)?;
    let mut index = VectorIndex::with_capacity(device, encoder.width(), texts.len())?;
    index.append(&documents)?;
    let hits = index.search(&queries, 10)?;
    let run = collection
        .queries
        .iter()
        .zip(&hits)
        .map(|(query, hits)| {
            let id = |hit: &Hit| collection.corpus[hit.id as usize].id.clone();
            (query.id.clone(), hits.iter().map(id).collect())
        })
        .collect();
    let ndcg = evaluate(&run, &collection.qrels)?.mean.ndcg_at_10;
    Ok(Ranked {
        documents,
        queries,
        hits,
        ndcg,
    })
}

/// Euclidean distances between two sets of unit rows.
fn distances(a: &[f32], b: &[f32], d: usize) -> Vec<f64> {
    a.chunks_exact(d)
        .zip(b.chunks_exact(d))
        .map(|(a, b)| {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum::<f64>()
                .sqrt()
        })
        .collect()
}

fn another_device_ranks_the_same_up_to_its_rounding(material: &Material, device: Device) {
    let (collection, backbone) = (scifact(material), &material.backbone);
    // A software adapter is slow: 100 documents there, 1,000 on hardware.
    let small = subset(&collection, if device.is_software() { 100 } else { 1000 });
    let cpu = ranked(&Device::cpu(), &small, backbone).unwrap();
    let other = ranked(&device, &small, backbone).unwrap();
    println!(
        "nDCG@10: cpu {:.4}, {} {:.4}",
        cpu.ndcg,
        device.name(),
        other.ndcg
    );
    assert!((cpu.ndcg - other.ndcg).abs() <= 0.002);

    let d = cpu.documents.len() / small.corpus.len();
    let (e_d, e_q) = (
        distances(&cpu.documents, &other.documents, d),
        distances(&cpu.queries, &other.queries, d),
    );
    let worst = e_d.iter().chain(&e_q).fold(0f64, |m, &e| m.max(e));
    println!("largest distance between the devices' embeddings: {worst:.2e}");
    // Six tensors per layer are rounded to f16 (relative error 2^-11 each) in six layers; layer norms keep the stream at
    // unit scale, so each adds its own relative error once.
    assert!(worst <= 36.0 * 2f64.powi(-11), "{worst}");

    // Unit vectors: |q.d - q'.d'| <= |q - q'| + |d - d'|. Storing rows in f16 adds 2^-11 of the score on either side.
    let storage = 2.0 * 2f64.powi(-11);
    let score =
        |hits: &[Hit], id: u64| hits.iter().find(|h| h.id == id).map(|h| f64::from(h.score));
    for (q, (a, b)) in cpu.hits.iter().zip(&other.hits).enumerate() {
        for (rank, (x, y)) in a.iter().zip(b).enumerate() {
            if x.id == y.id {
                let allowed = e_q[q] + e_d[x.id as usize] + storage;
                assert!(
                    f64::from((x.score - y.score).abs()) <= allowed,
                    "query {q}, rank {rank}"
                );
                continue;
            }
            // Another document at this rank: on the CPU the two must be as close as the errors of both allow.
            let floor = f64::from(a.last().expect("ten hits").score);
            let (sx, sy) = (f64::from(x.score), score(a, y.id).unwrap_or(floor));
            let allowed = 2.0 * e_q[q] + e_d[x.id as usize] + e_d[y.id as usize] + 2.0 * storage;
            assert!(
                (sx - sy).abs() <= allowed,
                "query {q}, rank {rank}: {sx} and {sy}, allowed {allowed:e}"
            );
        }
    }
}

fn near_miss_cosines_are_those_of_sentence_transformers(material: &Material) {
    let Material { path, backbone } = material;
    let examples = Examples::from_files(path, None, FileOptions::default()).unwrap();
    let near_misses = examples.items.iter().filter(|e| e.kind == Kind::NearMiss);
    assert_eq!(near_misses.count(), 6_394);
    let options = LoadOptions {
        max_length: Some(128),
        ..Default::default()
    };
    let encoder = Encoder::load(&backbone.folder, &Device::cpu(), options).unwrap();
    let quiet = Progress::new(true);
    let scorers = Scorers::named::<&str>(&[], 128, Penalty::default()).unwrap();
    let found = near_miss(&encoder, &examples, &scorers, &Options::default(), &quiet).unwrap();
    // sentence-transformers 6.2.0 in float32, at most 128 tokens: pairs, mean and standard deviation.
    let expected = [
        ("binding", 1_500, 0.966_761, 0.043_191),
        ("negation", 2_661, 0.809_421, 0.160_932),
        ("spatial", 2_233, 0.948_903, 0.046_944),
    ];
    let categories = &found.scorers[0].evaluation.categories;
    assert_eq!(categories.len(), expected.len());
    for (got, (category, n, mean, std)) in categories.iter().zip(expected) {
        let cosines = &got.near_misses;
        println!("{category}: {:.6} ± {:.6}", cosines.mean, cosines.std);
        assert_eq!((&got.category[..], cosines.n), (category, n));
        // Two f32 computations of a cosine differ by some 1e-6; the last printed digit is half of that.
        assert!((cosines.mean - mean).abs() < 1e-5 && (cosines.std - std).abs() < 1e-5);
    }
}

fn main() {
    let mut tests = needs::Tests::default();
    let scifact = Need::new("truth-scifact", material("beir/scifact"));
    tests.with(
        &scifact,
        "a_fifth_of_scifact_on_the_cpu_is_ranked_as_sentence_transformers_ranks_it",
        a_fifth_of_scifact_on_the_cpu_is_ranked_as_sentence_transformers_ranks_it,
    );
    let whole = match std::env::var_os("NEARMISS_SOAK") {
        Some(_) => material("beir/scifact"),
        None => Err("minutes: NEARMISS_SOAK=1, or tools/check --soak, runs it".into()),
    };
    tests.with(
        &Need::new("truth-scifact-whole", whole),
        "scifact_on_the_cpu_is_what_the_model_card_leads_to_expect",
        scifact_on_the_cpu_is_what_the_model_card_leads_to_expect,
    );
    let [_, wgpu, _] = needs::devices();
    tests.with(
        &scifact.and(&wgpu),
        "another_device_ranks_the_same_up_to_its_rounding",
        |(material, open)| another_device_ranks_the_same_up_to_its_rounding(material, open()),
    );
    let near_misses = Need::new("truth-near-misses", material("nearmiss/unified_test.csv"));
    tests.with(
        &near_misses,
        "near_miss_cosines_are_those_of_sentence_transformers",
        near_miss_cosines_are_those_of_sentence_transformers,
    );
    tests.run()
}
