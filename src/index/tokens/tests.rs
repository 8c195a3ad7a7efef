use safetensors::tensor::SafeTensors;

use super::*;
use crate::ops::maxsim::{self, Reduction};

const D: usize = 16;

/// At most five products of 16 terms, whose magnitudes add up to 1 at most, each off by `17 * 2^-24` of that, and their sum.
const TOLERANCE: f64 = 5.0 * (17.0 + 5.0) / 16_777_216.0;

/// Texts of 1 to 5 tokens without a pattern.
fn vectors(cpu: &Device, n: usize, seed: u32) -> (TokenVectors, Vec<Vec<f32>>) {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 32768.0 - 1.0
    };
    let texts: Vec<Vec<f32>> = (0..n)
        .map(|i| (0..(1 + i % 5) * D).map(|_| next()).collect())
        .collect();
    let mut offsets = vec![0];
    for text in &texts {
        offsets.push(offsets.last().unwrap() + (text.len() / D) as u32);
    }
    let vectors = TokenVectors::from_rows(cpu, &texts.concat(), D, offsets).unwrap();
    // What is compared with is what is stored.
    let rows: Vec<f32> = vectors
        .rows
        .read()
        .unwrap()
        .iter()
        .map(|v| v.to_f32())
        .collect();
    let bounds = vectors.packing.offsets().windows(2);
    let stored = bounds
        .map(|w| rows[w[0] as usize * D..w[1] as usize * D].to_vec())
        .collect();
    (vectors, stored)
}

fn index_with(
    cpu: &Device,
    parts: &[(usize, u32)],
    options: IndexOptions,
) -> (TokenIndex, Vec<Vec<f32>>) {
    let mut index = TokenIndex::with_options(cpu, D, options).unwrap();
    let mut all = Vec::new();
    for &(n, seed) in parts {
        let (part, stored) = vectors(cpu, n, seed);
        index.append(part).unwrap();
        all.extend(stored);
    }
    (index, all)
}

fn index(cpu: &Device, parts: &[(usize, u32)]) -> (TokenIndex, Vec<Vec<f32>>) {
    index_with(cpu, parts, IndexOptions::default())
}

/// Holds a search to an exhaustive one over the texts `stored`, of which those with an id take part.
fn hold(
    found: &[Vec<Hit>],
    asked: &[Vec<f32>],
    stored: &[Vec<f32>],
    k: usize,
    reduction: Reduction,
    id: impl Fn(usize) -> Option<u64>,
) {
    assert_eq!(found.len(), asked.len());
    for (hits, query) in found.iter().zip(asked) {
        let mut exact: Vec<(f64, u64)> = (stored.iter().enumerate())
            .filter_map(|(row, text)| Some((text, id(row)?)))
            .map(|(text, id)| {
                let (score, _) = maxsim::reference::<f64>(query, text, D, reduction);
                (score, id)
            })
            .collect();
        exact.sort_by(|a, b| b.0.total_cmp(&a.0));
        assert_eq!(hits.len(), k.min(exact.len()));
        for (hit, (score, id)) in hits.iter().zip(exact) {
            assert_eq!(hit.id, id);
            assert!((f64::from(hit.score) - score).abs() < TOLERANCE);
        }
    }
}

#[test]
fn search_finds_what_an_exhaustive_reference_finds() {
    let cpu = Device::cpu();
    let parts = [(40, 1), (0, 9), (7, 2), (25, 3)];
    let (queries, asked) = vectors(&cpu, 9, 4);
    // All queries at once, several turns, a query at a time.
    for scores in [IndexOptions::default().scores, 100, 1] {
        let options = IndexOptions {
            scores,
            ..IndexOptions::default()
        };
        let (index, stored) = index_with(&cpu, &parts, options);
        // Five texts have 15 tokens; of seven, the last two have 1 and 2.
        assert_eq!(
            (index.len(), index.n_tokens()),
            (72, 8 * 15 + 15 + 3 + 5 * 15)
        );
        for (k, reduction) in [
            (1, Reduction::Mean),
            (10, Reduction::Sum),
            (usize::MAX, Reduction::Mean),
        ] {
            let options = SearchOptions {
                reduction,
                ..SearchOptions::default()
            };
            let found = index.search_with(&queries, k, options).unwrap();
            hold(&found, &asked, &stored, k, reduction, |row| {
                Some(row as u64)
            });
            // Few texts, which are listed, and many, of which the others are dropped.
            let few = |id: u64| id % 7 == 3;
            let many = |id: u64| id % 7 != 3;
            for keep in [&few as &dyn Fn(u64) -> bool, &many] {
                let options = SearchOptions {
                    filter: Some(keep),
                    reduction,
                    ..SearchOptions::default()
                };
                let found = index.search_with(&queries, k, options).unwrap();
                hold(&found, &asked, &stored, k, reduction, |row| {
                    Some(row as u64).filter(|&id| keep(id))
                });
            }
        }
    }
}

#[test]
fn a_saved_index_is_the_same_index() {
    let cpu = Device::cpu();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.safetensors");
    let (index, stored) = index(&cpu, &[(30, 5), (31, 6)]);
    let (queries, asked) = vectors(&cpu, 6, 7);
    index.save(&path).unwrap();
    // Of 12 tokens, of less than a text, of all.
    for piece_bytes in [Some(12 * 2 * D), Some(1), None] {
        let options = IndexOptions {
            piece_bytes,
            ..IndexOptions::default()
        };
        let mut opened = TokenIndex::open_with(&path, &cpu, options).unwrap();
        match piece_bytes {
            None => assert_eq!(opened.pieces.len(), 1),
            Some(1) => assert_eq!(opened.pieces.len(), 61),
            Some(_) => assert!((13..61).contains(&opened.pieces.len())),
        }
        let found = opened.search(&queries, 12).unwrap();
        hold(&found, &asked, &stored, 12, Reduction::Mean, |row| {
            Some(row as u64)
        });
        assert!(opened.ids().eq(index.ids()));
        opened.append(vectors(&cpu, 3, 8).0).unwrap();
        assert_eq!((opened.len(), opened.ids().last()), (64, Some(63)));
    }
}

#[test]
fn ids_are_the_callers_own_and_can_be_removed() {
    let cpu = Device::cpu();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.safetensors");
    let (queries, asked) = vectors(&cpu, 9, 4);
    let mut index = TokenIndex::new(&cpu, D).unwrap();
    let mut stored = Vec::new();
    for (part, (n, seed)) in [(40, 1), (7, 2), (25, 3)].into_iter().enumerate() {
        let (vectors, of_part) = vectors(&cpu, n, seed);
        let ids: Vec<u64> = (0..n as u64)
            .map(|i| 1000 * (3 - part as u64) + i)
            .collect();
        index.append_with_ids(vectors, &ids).unwrap();
        stored.extend(of_part);
    }
    let id = |row: usize| match row {
        0..40 => 3000 + row as u64,
        40..47 => 2000 + row as u64 - 40,
        _ => 1000 + row as u64 - 47,
    };
    let mean = Reduction::Mean;
    let found = index.search(&queries, 72).unwrap();
    hold(&found, &asked, &stored, 72, mean, |row| Some(id(row)));
    assert!(
        index
            .append_with_ids(vectors(&cpu, 1, 1).0, &[2003])
            .is_err()
    );
    // A whole part and some of the others; one that is not there.
    let gone: Vec<u64> = (2000..2007).chain([3000, 3001, 3017, 1024, 5]).collect();
    assert_eq!(index.remove(&gone), 11);
    let left = |row| Some(id(row)).filter(|id| !gone.contains(id));
    let check = |index: &TokenIndex| {
        let found = index.search(&queries, 72).unwrap();
        hold(&found, &asked, &stored, 72, mean, left);
        assert_eq!(index.len(), 61);
    };
    check(&index);
    let (tokens, bytes) = (index.n_tokens(), index.bytes());
    index.save(&path).unwrap();
    check(&TokenIndex::open(&path, &cpu).unwrap());
    index.compact().unwrap();
    check(&index);
    assert_eq!((index.n_tokens(), index.pieces.len()), (tokens, 1));
    assert!(index.bytes() < bytes);
    index.append(vectors(&cpu, 1, 1).0).unwrap();
    assert_eq!(index.ids().last(), Some(3040));
}

#[test]
fn compacting_moves_only_what_changed() {
    let cpu = Device::cpu();
    // Ten texts of 30 tokens make a piece.
    let options = IndexOptions {
        piece_bytes: Some(30 * 2 * D),
        ..IndexOptions::default()
    };
    let parts = [(10, 1), (4, 2), (1, 3), (10, 4), (10, 5)];
    let (mut index, stored) = index_with(&cpu, &parts, options);
    index.remove(&[33]);
    let (queries, asked) = vectors(&cpu, 5, 6);
    index.compact().unwrap();
    let lengths: Vec<usize> = index.pieces.iter().map(TokenVectors::len).collect();
    assert_eq!(lengths, [10, 5, 10, 9]);
    let found = index.search(&queries, 40).unwrap();
    hold(&found, &asked, &stored, 40, Reduction::Mean, |row| {
        Some(row as u64).filter(|&id| id != 33)
    });
}

#[test]
fn opens_files_of_version_1() {
    let cpu = Device::cpu();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.safetensors");
    let (index, _) = index(&cpu, &[(5, 1)]);
    index.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let old = ["rows", "means", "centroids", "offsets"];
    let old = old.map(|name| (name, tensors.tensor(name).unwrap()));
    let info = [("layout".into(), "nearmiss-token-index-1".into())].into();
    let old = safetensors::serialize(old, Some(info)).unwrap();
    std::fs::write(&path, old).unwrap();
    let opened = TokenIndex::open(&path, &cpu).unwrap();
    let (queries, _) = vectors(&cpu, 3, 7);
    assert!(opened.ids().eq(0..5));
    assert_eq!(
        opened.search(&queries, 5).unwrap(),
        index.search(&queries, 5).unwrap()
    );
}

#[test]
fn damaged_files_are_refused_in_one_line() {
    let cpu = Device::cpu();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.safetensors");
    let (index, _) = index(&cpu, &[(5, 1)]);
    index.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = TokenIndex::open(&path, &cpu).err().unwrap();
        assert!(matches!(error, Error::Input { .. }), "{error}");
        let error = error.to_string();
        assert!(!error.contains('\n'));
        error
    };
    assert!(refused(&bytes[..bytes.len() - 7]).contains("not a complete index file"));
    // The same data under a header that was changed.
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..data]).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(header.contains(from), "{from} in {header}");
        let header = header.replacen(from, to, 1);
        let length = (header.len() as u64).to_le_bytes();
        refused(&[&length, header.as_bytes(), &bytes[data..]].concat())
    };
    for (from, to, expected) in [
        (
            "token-index-2",
            "token-index-7",
            "layout `nearmiss-token-index-7`",
        ),
        (
            "token-index-2",
            "vector-index-2",
            "layout `nearmiss-vector-index-2`",
        ),
        ("next_id", "next", "next_id"),
        // 15 rows of 16.
        ("[15,16]", "[240]", "two dimensions"),
        ("[15,16]", "[20,12]", "width 12"),
        ("[15,16]", "[30,8]", "do not fit together"),
        ("[15,16]", "[1073741824,1073741824]", "not a complete"),
        ("[15,16]", "[9223372036854775807,2]", "not a complete"),
        ("[5,16]", "[10,8]", "do not fit together"),
        ("[6]", "[3,2]", "one dimension"),
        ("\"ids\"", "\"names\"", "tensor ids"),
    ] {
        let error = changed(from, to);
        assert!(error.contains(expected), "{from} to {to}: {error}");
    }
    // An id that is there twice: ids and offsets are the file's only numbers of 64 bits.
    let twice = [0u64, 1, 2, 3, 4].map(u64::to_le_bytes).concat();
    let at = bytes.windows(40).rposition(|w| w == twice).unwrap();
    let mut damaged = bytes.clone();
    damaged[at + 8] = 4;
    assert!(refused(&damaged).contains("id 4 is there twice"));
}

#[test]
fn mixed_widths_are_refused() {
    let cpu = Device::cpu();
    let (mut index, _) = index(&cpu, &[(5, 1)]);
    let narrow = TokenVectors::from_rows(&cpu, &[1.0; 8], 8, vec![0, 1]).unwrap();
    assert!(index.search(&narrow, 1).is_err());
    assert!(index.search(&vectors(&cpu, 1, 1).0, 0).is_err());
    assert!(index.append(narrow).is_err());
    for d in [0, 12, 1 << 30] {
        assert!(TokenIndex::new(&cpu, d).is_err(), "{d}");
    }
}
