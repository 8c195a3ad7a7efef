//! Indexes on every device: what is appended, filtered, removed, saved and opened is what is searched.
//!
//! Expected scores come from references in f64 over the rows as they are stored; the operators' own bounds hold.

// Of what tests have in common, golden tensors are not needed here.
#[allow(dead_code)]
mod common;
#[path = "common/needs.rs"]
mod needs;

use std::path::Path;

use common::golden;
use nearmiss::Device;
use nearmiss::encoder::{Encoder, LoadOptions};
use nearmiss::index::{
    Hit, IndexOptions, Rows, SearchOptions, TokenIndex, TokenVectors, VectorIndex,
};
use nearmiss::ops::maxsim::{self, Reduction};
use nearmiss::ops::{Rounding, cosine_topk};
use nearmiss::text::TextKind;

const D: usize = 32;

/// Numbers without a pattern.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 32768.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The rows of an index as they are stored, in the order of `ids`.
fn stored(index: &VectorIndex, ids: &[u64]) -> Vec<f32> {
    let row = |&id: &u64| index.vector(id).unwrap().unwrap();
    ids.iter().flat_map(row).collect()
}

/// Holds rows as they are stored to the directions of what was appended.
///
/// A row `y` of a length of at least 0.7 is rounded to f16 by at most `e = u16 |y| + sqrt(d) tiny`, which turns its direction
/// by at most `2 e / |y|`; where a device brings it to unit length, each element is off by the sum of squares (`d` roundings,
/// halved by the root), the root and the division besides: less than `(d + 8) u` of itself.
fn of_direction(what: &str, stored: &[f32], rows: &[f32], rounding: &Rounding) {
    let unit = |row: &[f32]| -> Vec<f64> {
        let length = row
            .iter()
            .map(|&v| f64::from(v).powi(2))
            .sum::<f64>()
            .sqrt();
        row.iter().map(|&v| f64::from(v) / length).collect()
    };
    let bound = turned(rounding);
    for (row, (got, want)) in stored.chunks(D).zip(rows.chunks(D)).enumerate() {
        let (got, want) = (unit(got), unit(want));
        let off = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2));
        let off = off.sum::<f64>().sqrt();
        assert!(
            off <= bound,
            "{what}: row {row} is turned by {off:e} > {bound:e}"
        );
    }
}

/// How far storing a row may turn its direction, see [`of_direction`].
fn turned(rounding: &Rounding) -> f64 {
    let elements = (D + 8) as f64 * rounding.u;
    2.0 * (rounding.u16 + elements + (D as f64).sqrt() * rounding.tiny / 0.7)
}

/// Holds the hits of a query to exact scores with a bound each, given by id: all of them, or the best `k`, in their order
/// but for those that their bounds do not tell apart.
fn hold(what: &str, hits: &[Hit], exact: &[(u64, f64, f64)], k: usize) {
    assert_eq!(hits.len(), k.min(exact.len()), "{what}");
    let of = |id: u64| {
        let found = exact.iter().find(|(other, ..)| *other == id);
        let &(_, score, bound) = found.unwrap_or_else(|| panic!("{what}: {id} was found"));
        (score, bound)
    };
    for hit in hits {
        let (score, bound) = of(hit.id);
        let error = (f64::from(hit.score) - score).abs();
        assert!(
            error <= bound,
            "{what}: {hit:?} for {score}, {error:e} > {bound:e}"
        );
    }
    let better = |(a, a_bound): (f64, f64), (b, b_bound): (f64, f64)| a - b > a_bound + b_bound;
    for pair in hits.windows(2) {
        assert!(!better(of(pair[1].id), of(pair[0].id)), "{what}: {pair:?}");
    }
    if let Some(last) = hits.last() {
        for &(id, score, bound) in exact {
            let found = hits.iter().any(|hit| hit.id == id);
            assert!(
                found || !better((score, bound), of(last.id)),
                "{what}: {id} is missing"
            );
        }
    }
}

/// Small pieces and few scores at a time.
fn small() -> IndexOptions {
    IndexOptions {
        piece_bytes: Some(100 * 2 * D),
        chunk: 30 * D,
        scores: 50,
    }
}

fn vectors_are_found_on_every_device(device: Device) {
    let all = numbers(300 * D, 1);
    let queries = numbers(5 * D, 2);
    let ids: Vec<u64> = (0..300).map(|row| 1000 - row).collect();
    let gone: Vec<u64> = (0..300)
        .filter(|row| row % 3 == 0 || (90..210).contains(row))
        .collect();
    let gone: Vec<u64> = gone.into_iter().map(|row| 1000 - row).collect();
    let name = device.name();
    let rounding = Rounding::of(device.kind());
    let uploaded = device.upload(&all[..100 * D]).unwrap();
    let mut index = VectorIndex::with_options(&device, D, small()).unwrap();
    index.append_with_ids(&uploaded, &ids[..100]).unwrap();
    index.append_with_ids(&all[100 * D..], &ids[100..]).unwrap();
    let rows = stored(&index, &ids);
    of_direction(&name, &rows, &all, &rounding);
    let scores = cosine_topk::reference_scores::<f64>(&queries, &rows, D);
    let bounds = cosine_topk::error_bound(&queries, &rows, D, &rounding);
    let exact = |query: usize, keep: &dyn Fn(u64) -> bool| -> Vec<(u64, f64, f64)> {
        let at = |row: usize| {
            (
                ids[row],
                scores[query * 300 + row],
                bounds[query * 300 + row],
            )
        };
        (0..300).map(at).filter(|(id, ..)| keep(*id)).collect()
    };
    let check = |what: &str, index: &VectorIndex, keep: &dyn Fn(u64) -> bool| {
        let even = |id: u64| id.is_multiple_of(2);
        let both = |id: u64| keep(id) && even(id);
        let filtered = SearchOptions::only(&even);
        for k in [1, 20, 300] {
            let found = index.search(&queries, k).unwrap();
            let few = index.search_with(&queries, k, filtered).unwrap();
            for query in 0..5 {
                hold(what, &found[query], &exact(query, keep), k);
                hold(what, &few[query], &exact(query, &both), k);
            }
        }
    };
    check(&format!("{name}: all"), &index, &|_| true);
    index.remove(&gone);
    let left = |id: u64| !gone.contains(&id);
    check(&format!("{name}: removed"), &index, &left);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.safetensors");
    index.save(&path).unwrap();
    index.compact().unwrap();
    check(&format!("{name}: compacted"), &index, &left);
    let opened = VectorIndex::open_with(&path, &device, small()).unwrap();
    check(&format!("{name}: opened"), &opened, &left);
    assert!(opened.ids().eq(index.ids()));
}

fn rows_on_a_device_are_checked_where_they_are(device: Device) {
    let mut rows = numbers(4 * D, 3);
    rows[D..2 * D].fill(0.0);
    // Longer than any f16, though every number is one.
    rows[2 * D..3 * D].fill(40_000.0);
    let mut index = VectorIndex::new(&device, D).unwrap();
    index.append(&device.upload(&rows).unwrap()).unwrap();
    let long = index.vector(2).unwrap().unwrap();
    assert!(long.iter().all(|&v| v == long[0] && v > 0.12 && v < 0.26));
    let scores = index.search(&[1.0; D], 4).unwrap();
    let zero = scores[0].iter().find(|hit| hit.id == 1).unwrap();
    assert_eq!((zero.score, scores[0][0].id), (0.0, 2));
    for bad in [f32::NEG_INFINITY, f32::INFINITY, f32::NAN] {
        let mut rows = rows.clone();
        rows[3 * D + 5] = bad;
        for rows in [
            Rows::from(&rows),
            Rows::from(&device.upload(&rows).unwrap()),
        ] {
            let error = index.append(rows).unwrap_err().to_string();
            assert!(error.contains("row 7 of the index: element 5"), "{error}");
        }
    }
    assert_eq!(index.len(), 4);
}

/// A row scaled by a power of two so that its largest number is at least 1 and below 2.
fn ordinary(row: &[f32]) -> Vec<f32> {
    let largest = row.iter().fold(0f32, |most, v| most.max(v.abs()));
    let by = 2f64.powf(-f64::from(largest).log2().floor());
    row.iter().map(|&v| (f64::from(v) * by) as f32).collect()
}

/// Rows and queries of every size that f32 holds, from the host and on the device, next to one another.
fn lengths_do_not_count(device: Device) {
    let sizes = [
        1e-38, 1e-30, 1e-19, 1e-9, 1e-4, 1.0, 3.0, 1e6, 1e19, 1e30, 1e38,
    ];
    let rounding = Rounding::of(device.kind());
    let row = |(i, size): (usize, &f32)| -> Vec<f32> {
        let row = numbers(D, 40 + i as u32);
        row.into_iter().map(|v| v * size).collect()
    };
    let mixed: Vec<f32> = sizes.iter().enumerate().flat_map(row).collect();
    let queries: Vec<f32> = sizes.iter().rev().enumerate().flat_map(row).collect();
    let truth = cosine_topk::reference_scores::<f64>(&queries, &mixed, D);
    let ids: Vec<u64> = (0..sizes.len() as u64).collect();
    // The bound is that of queries of an ordinary length: a power of two changes no digit of them.
    let near: Vec<f32> = queries.chunks(D).flat_map(ordinary).collect();
    let uploaded = device.upload(&mixed).unwrap();
    for (from, rows) in [
        ("host", Rows::from(&mixed)),
        ("device", Rows::from(&uploaded)),
    ] {
        let what = format!("{}: from the {from}", device.name());
        let mut index = VectorIndex::new(&device, D).unwrap();
        index.append(rows).unwrap();
        let kept = stored(&index, &ids);
        of_direction(&what, &kept, &mixed, &rounding);
        let bounds = cosine_topk::error_bound(&near, &kept, D, &rounding);
        for (q, hits) in index
            .search(&queries, sizes.len())
            .unwrap()
            .iter()
            .enumerate()
        {
            let exact: Vec<(u64, f64, f64)> = ids
                .iter()
                .map(|&id| {
                    let at = q * sizes.len() + id as usize;
                    (id, truth[at], bounds[at] + turned(&rounding))
                })
                .collect();
            hold(&what, hits, &exact, sizes.len());
        }
    }
}

/// Texts of 1 to 7 tokens.
fn texts(device: &Device, n: u32, seed: u32) -> (TokenVectors, Vec<Vec<f32>>) {
    let ends = (0..n).scan(0, |end, text| {
        *end += 1 + text % 7;
        Some(*end)
    });
    let offsets: Vec<u32> = [0].into_iter().chain(ends).collect();
    let rows = numbers(*offsets.last().unwrap() as usize * D, seed);
    let vectors = TokenVectors::from_rows(device, &rows, D, offsets.clone()).unwrap();
    let rows = vectors.tokens().rows.read().unwrap();
    let rows: Vec<f32> = rows.iter().map(|v| v.to_f32()).collect();
    let texts = offsets
        .windows(2)
        .map(|w| rows[w[0] as usize * D..w[1] as usize * D].to_vec());
    (vectors, texts.collect())
}

fn token_vectors_are_found_on_every_device(device: Device) {
    let gone: Vec<u64> = (0..70)
        .filter(|id| id % 3 == 0 || (20..55).contains(id))
        .collect();
    let left = |id: u64| !gone.contains(&id);
    let name = device.name();
    let rounding = Rounding::of(device.kind());
    let (queries, asked) = texts(&device, 4, 9);
    let mut index = TokenIndex::with_options(&device, D, small()).unwrap();
    let mut all = Vec::new();
    for (n, seed) in [(30, 1), (1, 2), (39, 3)] {
        let (vectors, stored) = texts(&device, n, seed);
        index.append(vectors).unwrap();
        all.extend(stored);
    }
    let check = |what: &str, index: &TokenIndex, keep: &dyn Fn(u64) -> bool| {
        // Every fifth text is listed; without it, some of all are dropped.
        let few = |id: u64| id.is_multiple_of(5);
        let many = |id: u64| !id.is_multiple_of(5);
        let everything = |_| true;
        for filter in [&few as &dyn Fn(u64) -> bool, &many, &everything] {
            for (k, reduction) in [(70, Reduction::Mean), (3, Reduction::Sum)] {
                let options = SearchOptions {
                    filter: Some(filter),
                    reduction,
                    ..SearchOptions::default()
                };
                let found = index.search_with(&queries, k, options).unwrap();
                for (hits, query) in found.iter().zip(&asked) {
                    let exact: Vec<(u64, f64, f64)> = (0..)
                        .zip(&all)
                        .filter(|&(id, _)| keep(id) && filter(id))
                        .map(|(id, text)| {
                            let (score, _) = maxsim::reference::<f64>(query, text, D, reduction);
                            let (bound, _) =
                                maxsim::error_bound(query, text, D, reduction, &rounding);
                            (id, score, bound)
                        })
                        .collect();
                    hold(what, hits, &exact, k);
                }
            }
        }
    };
    check(&format!("{name}: all"), &index, &|_| true);
    index.remove(&gone);
    check(&format!("{name}: removed"), &index, &left);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.safetensors");
    index.save(&path).unwrap();
    index.compact().unwrap();
    check(&format!("{name}: compacted"), &index, &left);
    let opened = TokenIndex::open_with(&path, &device, small()).unwrap();
    check(&format!("{name}: opened"), &opened, &left);
    assert!(opened.ids().eq(index.ids()));
}

fn texts_become_entries_of_either_index(device: Device) {
    let encoder = |device: &Device, folder: &Path| {
        Encoder::load(folder, device, LoadOptions::default()).unwrap()
    };
    let words = [
        "the old dog",
        "a small cat by the river",
        "rain",
        "the old dog",
    ];
    let encoder = encoder(&device, &golden("tiny-bert-2x64"));
    let mut vectors = VectorIndex::new(&device, encoder.width()).unwrap();
    let mut tokens = TokenIndex::new(&device, encoder.width()).unwrap();
    let kind = TextKind::Plain;
    assert_eq!(
        vectors.append_texts(&encoder, &words, kind).unwrap().texts,
        4
    );
    assert_eq!(
        tokens.append_texts(&encoder, &words, kind).unwrap().texts,
        4
    );
    let rows = encoder.embed(&words, kind).unwrap();
    let asked = TokenVectors::encode(&encoder, &words, kind).unwrap();
    assert_eq!((asked.len(), asked.n_tokens()), (4, tokens.n_tokens()));
    let best = |found: Vec<Vec<Hit>>| -> Vec<u64> { found.iter().map(|hits| hits[0].id).collect() };
    // The last text is the first once more.
    assert_eq!(best(vectors.search(&rows, 1).unwrap()), [0, 1, 2, 0]);
    assert_eq!(best(tokens.search(&asked, 1).unwrap()), [0, 1, 2, 0]);
    assert!(
        TokenVectors::encode(&encoder, &[""; 0], kind)
            .unwrap()
            .is_empty()
    );
    // Joined from pieces of three texts and one, they are the same.
    let joined = TokenVectors::encode(&encoder.with_window(3), &words, kind).unwrap();
    let all = |vectors: &TokenVectors| {
        let offsets = vectors.tokens().packing.offsets().to_vec();
        let tokens = vectors.tokens().rows;
        let rows = [tokens, vectors.means(), vectors.centroids()];
        (offsets, rows.map(|rows| rows.read().unwrap()))
    };
    assert!(all(&joined) == all(&asked), "joined on {}", device.name());
}

fn main() {
    let mut tests = needs::Tests::default();
    for device in &needs::devices() {
        needs::add!(tests, device =>
            vectors_are_found_on_every_device,
            rows_on_a_device_are_checked_where_they_are,
            lengths_do_not_count,
            token_vectors_are_found_on_every_device,
            texts_become_entries_of_either_index,
        );
    }
    tests.run()
}
