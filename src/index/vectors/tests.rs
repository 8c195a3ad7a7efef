use safetensors::tensor::TensorView;

use super::*;

fn rows(n: usize, d: usize) -> Vec<f32> {
    (0..n * d)
        .map(|i| ((i * 37 + i / d * 11) % 101) as f32 / 50.0 - 1.0)
        .collect()
}

fn found(index: &VectorIndex, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
    index.search(queries, k).unwrap()
}

/// Holds two searches for all texts to one another. They have the same texts with nearly the same scores, best first.
///
/// A score of 16 products, whose magnitudes add up to 1 at most, is off by at most `g(16) + 2 (g(10) + 2 u) + 4 u` (see
/// `cosine_topk::error_bound`), less than 45 u; two of them by twice that.
fn assert_alike(a: &[Vec<Hit>], b: &[Vec<Hit>]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!(
            [a, b]
                .iter()
                .all(|hits| hits.is_sorted_by(|x, y| x.score >= y.score))
        );
        let by_id = |hits: &[Hit]| {
            let mut hits = hits.to_vec();
            hits.sort_by_key(|hit| hit.id);
            hits
        };
        assert_eq!(a.len(), b.len());
        for (a, b) in by_id(a).iter().zip(by_id(b)) {
            assert_eq!(a.id, b.id);
            assert!(
                (a.score - b.score).abs() <= 90.0 * 2f32.powi(-24),
                "{a:?} {b:?}"
            );
        }
    }
}

/// Pieces of seven rows of 16 and reading by three rows.
fn small_steps() -> IndexOptions {
    IndexOptions {
        piece_bytes: Some(7 * 32 + 5),
        chunk: 3 * 16,
        ..IndexOptions::default()
    }
}

#[test]
fn appends_across_pieces_and_survives_a_round_trip() {
    let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
    let (all, path) = (rows(50, 16), dir.path().join("index.safetensors"));
    let mut index = VectorIndex::with_capacity(&cpu, 16, 10).unwrap();
    for part in all.chunks(7 * 16) {
        index.append(part).unwrap();
    }
    assert_eq!(index.len(), 50);
    let queries = &all[3 * 16..5 * 16];
    let hits = found(&index, queries, 5);
    assert_eq!((hits[0][0].id, hits[1][0].id), (3, 4));
    index.save(&path).unwrap();
    let mut opened = VectorIndex::open(&path, &cpu).unwrap();
    assert_eq!(found(&opened, queries, 5), hits);
    opened.append(&all[..16]).unwrap();
    assert_eq!(opened.len(), 51);
    let again = found(&opened, &all[..16], 2);
    assert_eq!(
        (again[0][0].id, again[0][1].id),
        (0, 50),
        "equal rows, the first first"
    );
    let odd = SearchOptions::only(&|id| id % 2 == 1);
    let odd = opened.search_with(&all[..16], 3, odd).unwrap();
    assert!(odd[0].len() == 3 && odd[0].iter().all(|hit| hit.id % 2 == 1));
    assert_eq!(opened.vector(50).unwrap(), opened.vector(0).unwrap());
    assert_eq!(opened.vector(51).unwrap(), None);
}

#[test]
fn pieces_and_chunks_change_nothing() {
    let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
    let (all, path) = (rows(50, 16), dir.path().join("index.safetensors"));
    let mut whole = VectorIndex::new(&cpu, 16).unwrap();
    whole.append(&all).unwrap();
    let mut cut = VectorIndex::with_options(&cpu, 16, small_steps()).unwrap();
    cut.append(&all[..9 * 16]).unwrap();
    cut.append(&all[9 * 16..]).unwrap();
    assert_eq!((whole.pieces.len(), cut.pieces.len()), (1, 8));
    let hits = found(&whole, &all, 50);
    assert_alike(&found(&cut, &all, 50), &hits);
    // A file whose tensors are not aligned cannot be mapped and is read, as it is for a GPU.
    cut.save(&path).unwrap();
    misalign(&path);
    let read = VectorIndex::open_with(&path, &cpu, small_steps()).unwrap();
    assert_eq!(read.pieces.len(), 8);
    assert_alike(&found(&read, &all, 50), &hits);
    let read = VectorIndex::open(&path, &cpu).unwrap();
    assert_eq!(found(&read, &all, 50), hits);
}

/// Makes the header of a safetensors file one byte longer.
fn misalign(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    bytes[..8].copy_from_slice(&(length + 1).to_le_bytes());
    bytes.insert(8 + length as usize, b' ');
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn ids_are_the_callers_own() {
    let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
    let (all, path) = (rows(5, 16), dir.path().join("index.safetensors"));
    let mut index = VectorIndex::new(&cpu, 16).unwrap();
    let ids = [900, 7, 1 << 40, 8, 3];
    index.append_with_ids(&all, &ids).unwrap();
    // The same vectors again: of equal scores the first appended comes first, though its id is larger.
    index.append_with_ids(&all[..16], &[1]).unwrap();
    let best = |index: &VectorIndex| {
        let hits = found(index, &all, 2);
        assert_eq!((hits[0][0].id, hits[0][1].id), (900, 1));
        hits.iter().map(|hits| hits[0].id).collect::<Vec<_>>()
    };
    assert_eq!(best(&index), ids);
    index.save(&path).unwrap();
    let opened = VectorIndex::open(&path, &cpu).unwrap();
    assert_eq!(best(&opened), ids);
    assert!(opened.ids().eq(index.ids()) && opened.contains(1 << 40));
    for twice in [&[5, 5][..], &[6, 900]] {
        let error = index.append_with_ids(&all[..32], twice).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }
    assert!(index.append_with_ids(&all[..32], &[5]).is_err());
    assert_eq!(index.len(), 6);
}

#[test]
fn removed_texts_are_never_found() {
    let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
    let (all, path) = (rows(50, 16), dir.path().join("index.safetensors"));
    let mut index = VectorIndex::with_options(&cpu, 16, small_steps()).unwrap();
    index.append(&all).unwrap();
    // Whole pieces, parts of pieces, one twice, one that is not there.
    let gone: Vec<u64> = (5..22).chain([49, 49, 300]).collect();
    assert_eq!(index.remove(&gone), 18);
    let (left, of_left): (Vec<u64>, Vec<&[f32]>) = (0..)
        .zip(all.chunks_exact(16))
        .filter(|(id, _)| !gone.contains(id))
        .unzip();
    let mut without = VectorIndex::new(&cpu, 16).unwrap();
    without.append_with_ids(&of_left.concat(), &left).unwrap();
    let expected = found(&without, &all, 50);
    assert_eq!((index.len(), expected[0].len()), (32, 32));
    assert_alike(&found(&index, &all, 50), &expected);
    let even = SearchOptions::only(&|id| id % 2 == 0);
    assert_alike(
        &index.search_with(&all, 50, even).unwrap(),
        &without.search_with(&all, 50, even).unwrap(),
    );
    index.save(&path).unwrap();
    let before = index.bytes();
    index.compact().unwrap();
    let opened = VectorIndex::open(&path, &cpu).unwrap();
    assert!(opened.pieces[0].n == 32 && index.bytes() < before);
    for mut index in [index, opened] {
        assert_alike(&found(&index, &all, 50), &expected);
        assert_eq!(index.vector(48).unwrap(), without.vector(48).unwrap());
        assert_eq!(index.vector(49).unwrap(), None);
        // Running numbers go on behind all that there ever were.
        index.append(&all[..16]).unwrap();
        assert_eq!(index.ids().last(), Some(50));
        index.remove(&(0..60).collect::<Vec<u64>>());
        assert!(index.is_empty() && found(&index, &all, 3).iter().all(Vec::is_empty));
        index.compact().unwrap();
        assert_eq!(index.bytes(), 0);
    }
}

#[test]
fn rows_of_the_device_are_those_of_the_host() {
    let cpu = Device::cpu();
    let all = rows(9, 16);
    let (mut here, mut there) = (
        VectorIndex::new(&cpu, 16).unwrap(),
        VectorIndex::new(&cpu, 16).unwrap(),
    );
    here.append(&all).unwrap();
    there.append(&cpu.upload(&all).unwrap()).unwrap();
    assert_eq!(found(&here, &all, 9), found(&there, &all, 9));
    let other = Device::cpu().upload(&all).unwrap();
    assert!(there.append(&other).is_err(), "another device");
}

#[test]
fn opens_files_of_version_1() {
    let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
    let (all, path) = (rows(5, 8), dir.path().join("index.safetensors"));
    let mut index = VectorIndex::new(&cpu, 8).unwrap();
    index.append(&all).unwrap();
    let halves = index.pieces[0].rows.read_range(0..40).unwrap();
    let norms = index.pieces[0].inverse_norms.read_range(0..5).unwrap();
    let tensors = [
        (
            "rows",
            TensorView::new(Dtype::F16, vec![5, 8], bytemuck::cast_slice(&halves)).unwrap(),
        ),
        (
            "inverse_norms",
            TensorView::new(Dtype::F32, vec![5], bytemuck::cast_slice(&norms)).unwrap(),
        ),
    ];
    let info = [("layout".into(), "nearmiss-vector-index-1".into())].into();
    std::fs::write(
        &path,
        safetensors::serialize(tensors.clone(), Some(info)).unwrap(),
    )
    .unwrap();
    let mut opened = VectorIndex::open(&path, &cpu).unwrap();
    assert_eq!(found(&opened, &all, 5), found(&index, &all, 5));
    opened.append(&all[..8]).unwrap();
    assert!(opened.ids().eq(0..6));
    let info = [("layout".into(), "nearmiss-vector-index-3".into())].into();
    std::fs::write(&path, safetensors::serialize(tensors, Some(info)).unwrap()).unwrap();
    let error = VectorIndex::open(&path, &cpu).unwrap_err().to_string();
    assert!(
        error.contains("layout `nearmiss-vector-index-3`"),
        "{error}"
    );
}

#[test]
fn refuses_what_is_not_finite() {
    let mut index = VectorIndex::new(&Device::cpu(), 8).unwrap();
    let mut bad = vec![0f32; 16];
    bad[11] = f32::INFINITY;
    let error = index.append(&bad).unwrap_err().to_string();
    assert!(
        error.contains("row 1") && error.contains("element 3"),
        "{error}"
    );
    assert!(index.append(&[f16::NAN; 8][..]).is_err());
    assert!(index.is_empty());
    assert!(
        index
            .search(&[f32::NAN; 8], 1)
            .unwrap_err()
            .to_string()
            .contains("query 0")
    );
}

#[test]
fn refuses_sizes_that_make_no_sense() {
    let cpu = Device::cpu();
    for d in [0, 12, 1 << 30, usize::MAX - 7] {
        assert!(VectorIndex::new(&cpu, d).is_err(), "{d}");
        // This one used to hang.
        assert!(VectorIndex::with_capacity(&cpu, d, 1).is_err(), "{d}");
    }
    let error = VectorIndex::with_capacity(&cpu, 8, usize::MAX).unwrap_err();
    assert!(error.to_string().contains("split the corpus"), "{error}");
    let mut index = VectorIndex::new(&cpu, 8).unwrap();
    index.append(&[1.0; 8]).unwrap();
    // More results than there are texts cost nothing.
    assert_eq!(found(&index, &[1.0; 8], usize::MAX)[0].len(), 1);
    assert!(index.search(&[1.0; 8], 0).is_err());
    assert!(index.search(&[1.0; 9], 1).is_err());
    assert!(index.append(&[1.0; 9]).is_err());
}

/// Rows and queries of every size that f32 holds are found with the cosines of their directions.
///
/// A row `y` of a length of at least 0.7 is rounded to f16 by at most `e = |2^-11 y| + sqrt(d) 2^-25`, which turns its
/// direction by at most `2 e / |y|`; what the search adds is `cosine_topk::error_bound`.
#[test]
fn lengths_do_not_count() {
    use crate::ops::Rounding;
    use crate::ops::cosine_topk::{error_bound, reference_scores};
    let (cpu, d, n) = (Device::cpu(), 32, 20);
    let mut random = crate::random::Stream::new(11, &["rows"], 0);
    let mut draw =
        |n: usize| -> Vec<f32> { (0..n * d).map(|_| random.unit() as f32 - 0.5).collect() };
    let (base, queries) = (draw(n), draw(3));
    let times = |rows: &[f32], by: f32| -> Vec<f32> { rows.iter().map(|v| v * by).collect() };
    let scores = |index: &VectorIndex, queries: &[f32]| -> Vec<f32> {
        let all = found(index, queries, n).into_iter().flat_map(|mut hits| {
            assert_eq!(hits.len(), n);
            assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
            hits.sort_by_key(|hit| hit.id);
            hits.into_iter().map(|hit| hit.score)
        });
        all.collect()
    };
    let of_rows = 2.0 * (2f64.powi(-11) + (d as f64).sqrt() * 2f64.powi(-25) / 0.7);
    let sizes = [1e-38, 1e-30, 1e-19, 1e-9, 1.0, 3.0, 1e6, 1e19, 1e30, 1e38];
    for of_row in sizes {
        for of_query in sizes {
            let (rows, queries) = (times(&base, of_row), times(&queries, of_query));
            let mut index = VectorIndex::new(&cpu, d).unwrap();
            index.append(&rows).unwrap();
            let got = scores(&index, &queries);
            let truth = reference_scores::<f64>(&queries, &rows, d);
            // The bound does not depend on lengths, which its smallest summand takes for near 1.
            let near = [&queries, &rows].map(|rows| near_unit(rows, d).into_owned());
            let of_search = error_bound(&near[0], &near[1], d, &Rounding::of(cpu.kind()));
            for ((got, truth), bound) in got.iter().zip(&truth).zip(of_search) {
                let off = (f64::from(*got) - truth).abs();
                assert!(
                    off <= of_rows + bound,
                    "{of_row:e} {of_query:e}: {got} {truth}"
                );
            }
        }
    }
    // A power of two changes nothing at all, wherever the rows come from.
    let mut plain = VectorIndex::new(&cpu, d).unwrap();
    plain.append(&base).unwrap();
    let expected = scores(&plain, &queries);
    for exponent in [-110, -40, 20, 110] {
        let (rows, queries) = [&base, &queries]
            .map(|rows| times(rows, 2f32.powi(exponent)))
            .into();
        let mut here = VectorIndex::new(&cpu, d).unwrap();
        here.append(&rows).unwrap();
        let mut there = VectorIndex::new(&cpu, d).unwrap();
        there.append(&cpu.upload(&rows).unwrap()).unwrap();
        for index in [here, there] {
            assert_eq!(scores(&index, &queries), expected, "2^{exponent}");
        }
    }
}

#[test]
fn short_f16_rows_keep_their_digits() {
    let (cpu, dir) = (Device::cpu(), tempfile::tempdir().unwrap());
    let path = dir.path().join("index.safetensors");
    // The smallest numbers that f16 has; their cosines are those of the same rows made 2^20 times as long.
    let bits = |i: usize| f16::from_bits((i * 7 % 50) as u16);
    let tiny: Vec<f16> = (0..5 * 16).map(bits).collect();
    let long: Vec<f32> = tiny.iter().map(|v| v.to_f32() * 2f32.powi(20)).collect();
    let mut index = VectorIndex::new(&cpu, 16).unwrap();
    index.append(&tiny).unwrap();
    let mut other = VectorIndex::new(&cpu, 16).unwrap();
    other.append(&long).unwrap();
    assert_eq!(found(&index, &long, 5), found(&other, &long, 5));
    let stored = index.pieces[0].rows.read_range(0..80).unwrap();
    let normal = |v: &f16| *v == f16::ZERO || *v >= f16::MIN_POSITIVE;
    assert!(stored.iter().all(normal), "{stored:?}");
    // A file of rows that were saved short, with the inverse lengths that they had.
    let norms: Vec<f32> = tiny
        .chunks(16)
        .map(|row| (1.0 / length(&row.to_f32_vec())) as f32)
        .collect();
    let (rows, norms) = (bytemuck::cast_slice(&tiny), bytemuck::cast_slice(&norms));
    let tensors = [
        (
            "rows",
            TensorView::new(Dtype::F16, vec![5, 16], rows).unwrap(),
        ),
        (
            "inverse_norms",
            TensorView::new(Dtype::F32, vec![5], norms).unwrap(),
        ),
    ];
    let info = [("layout".into(), "nearmiss-vector-index-1".into())].into();
    let bytes = safetensors::serialize(tensors, Some(info)).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let mapped = VectorIndex::open(&path, &cpu).unwrap();
    assert_alike(&found(&mapped, &long, 5), &found(&index, &long, 5));
    misalign(&path);
    let read = VectorIndex::open(&path, &cpu).unwrap();
    assert_eq!(found(&read, &long, 5), found(&index, &long, 5));
}

#[test]
fn a_zero_row_has_cosine_zero() {
    let cpu = Device::cpu();
    let mut rows = vec![0f32; 16];
    rows[8] = 1e-30;
    let mut index = VectorIndex::new(&cpu, 8).unwrap();
    index.append(&rows).unwrap();
    let hits = &found(&index, &rows[8..], 2)[0];
    assert_eq!(
        [0, 1].map(|i| (hits[i].id, hits[i].score)),
        [(1, 1.0), (0, 0.0)]
    );
    let of_zero = &found(&index, &rows[..8], 2)[0];
    assert!(of_zero.iter().all(|hit| hit.score == 0.0));
}

#[test]
fn scores_of_a_query_are_the_same_beside_others_if_that_is_wanted() {
    let (cpu, d, n) = (Device::cpu(), 40, 100);
    let mut random = crate::random::Stream::new(3, &["rows"], 0);
    let mut draw =
        |n: usize| -> Vec<f32> { (0..n * d).map(|_| random.unit() as f32 - 0.5).collect() };
    let (rows, queries) = (draw(n), draw(70));
    let mut index = VectorIndex::new(&cpu, d).unwrap();
    index.append(&rows).unwrap();
    let alike = SearchOptions {
        alike: true,
        ..SearchOptions::default()
    };
    let all = index.search_with(&queries, 10, alike).unwrap();
    for at_once in [1, 3, 4, 5, 66] {
        let parts = queries.chunks(at_once * d);
        let found = parts.flat_map(|part| index.search_with(part, 10, alike).unwrap());
        assert_eq!(found.collect::<Vec<_>>(), all, "{at_once}");
    }
}
