//! Token maps and verifiers against PyTorch (`tools/reference/token_maps.py`), and every device against the CPU.
//!
//! No tolerance is chosen: against PyTorch the operators' own error bounds hold, computed from the golden token vectors;
//! between devices the scores may differ by what the differences of their token vectors, which are measured, can do to
//! them, and the bounds of the operators on both.

mod common;
#[path = "common/needs.rs"]
mod needs;

use common::{Tensors, golden};
use half::f16;
use nearmiss::Device;
use nearmiss::device::{DeviceKind, Slice};
use nearmiss::encoder::{Encoder, LoadOptions};
use nearmiss::index::{TokenIndex, TokenVectors};
use nearmiss::ops::maxsim::{self, Reduction, maxsim};
use nearmiss::ops::pair_dot;
use nearmiss::ops::similarity_map::{self, similarity_map};
use nearmiss::ops::soft_alignment::{self, Alignment, soft_alignment};
use nearmiss::ops::{MapLayout, PackedTexts, PairList, Pairs, Rounding, Tokens};
use nearmiss::text::TextKind;
use nearmiss::verifier::{self, VerifierOptions};

/// Token vectors of some texts, on the host.
struct Texts {
    rows: Vec<f32>,
    offsets: Vec<u32>,
    d: usize,
}

impl Texts {
    fn of(&self, i: usize) -> &[f32] {
        let [from, to] = [self.offsets[i], self.offsets[i + 1]].map(|n| n as usize * self.d);
        &self.rows[from..to]
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }
}

/// A tensor of whole numbers.
fn whole(file: &Tensors, name: &str) -> Vec<u32> {
    file.get_f64(name).into_iter().map(|v| v as u32).collect()
}

/// The token vectors of a golden file.
fn texts(file: &Tensors, name: &str) -> Texts {
    let (rows, offsets) = (file.get(name), whole(file, &format!("{name}_offsets")));
    let d = rows.len() / *offsets.last().expect("never empty") as usize;
    Texts { rows, offsets, d }
}

/// Holds values to exact ones with a bound for each; the largest error in units of its bound.
fn hold(what: &str, got: &[f32], want: &[f64], bounds: &[f64]) -> f64 {
    assert_eq!(
        (got.len(), want.len()),
        (bounds.len(), bounds.len()),
        "{what}"
    );
    let mut worst = 0f64;
    for (i, ((&got, want), bound)) in got.iter().zip(want).zip(bounds).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= *bound,
            "{what}[{i}]: {got} for {want}, error {error:e}, bound {bound:e}"
        );
        worst = worst.max(error / bound);
    }
    worst
}

fn maps_and_scores_match_pytorch(device: Device) {
    let file = Tensors::read(&golden("token_maps.safetensors"));
    let (queries, documents) = (texts(&file, "queries"), texts(&file, "documents"));
    let d = queries.d;
    let pairs: Vec<[u32; 2]> = (0..queries.len() as u32)
        .flat_map(|q| (0..documents.len() as u32).map(move |c| [q, c]))
        .collect();
    let sides = |&[q, c]: &[u32; 2]| (queries.of(q as usize), documents.of(c as usize));
    let rounding = Rounding::of(device.kind());
    let upload = |texts: &Texts| {
        let rows: Vec<f16> = texts.rows.iter().map(|&v| f16::from_f32(v)).collect();
        let packing = PackedTexts::new(&device, texts.offsets.clone()).unwrap();
        (device.upload(&rows).unwrap(), packing)
    };
    let ((q_rows, q_packing), (c_rows, c_packing)) = (upload(&queries), upload(&documents));
    let q = Tokens {
        rows: q_rows.as_slice(),
        packing: &q_packing,
    };
    let c = Tokens {
        rows: c_rows.as_slice(),
        packing: &c_packing,
    };
    let list = PairList::new(&device, pairs.clone()).unwrap();

    let layout = MapLayout::new(&device, &q_packing, &c_packing, &list).unwrap();
    let mut maps = device.alloc::<f32>(layout.elements()).unwrap();
    similarity_map(q, c, d, &list, &layout, &mut maps).unwrap();
    let bounds: Vec<f64> = pairs
        .iter()
        .flat_map(|pair| {
            let (q, c) = sides(pair);
            similarity_map::error_bound(q, c, d, &rounding)
        })
        .collect();
    let want = file.get_f64("maps");
    let worst = hold("maps", &maps.read().unwrap(), &want, &bounds);
    println!(
        "{}: {} products, worst {worst:.3}",
        device.name(),
        want.len()
    );

    let longest = (0..queries.len())
        .map(|i| queries.of(i).len() / d)
        .max()
        .expect("there are queries");
    for (name, reduction) in [
        ("maxsim_sum", Reduction::Sum),
        ("maxsim_mean", Reduction::Mean),
    ] {
        let bound = |pair| {
            let (q, c) = sides(pair);
            maxsim::error_bound(q, c, d, reduction, &rounding).0
        };
        let bounds: Vec<f64> = pairs.iter().map(bound).collect();
        for listed in [Pairs::All, Pairs::Listed(&list)] {
            let mut scores = device.alloc::<f32>(pairs.len()).unwrap();
            let mut winners = device.alloc::<u32>(pairs.len() * longest).unwrap();
            maxsim(
                q,
                c,
                d,
                listed,
                reduction,
                &mut scores,
                Some(winners.as_slice_mut()),
            )
            .unwrap();
            let want = file.get_f64(name);
            let worst = hold(name, &scores.read().unwrap(), &want, &bounds);
            println!("{}: {name}, worst {worst:.3}", device.name());
            // Random products: the two best are never as close as rounding.
            let winners = winners.read().unwrap();
            let won: Vec<u32> = winners
                .chunks_exact(longest)
                .zip(&pairs)
                .flat_map(|(row, &[q, _])| &row[..queries.of(q as usize).len() / d])
                .copied()
                .collect();
            assert_eq!(won, whole(&file, "winners"), "{name}");
        }
    }

    for (name, alignment) in [
        ("soft_alignment", Alignment::default()),
        (
            "soft_alignment_band",
            Alignment {
                band: Some(5),
                ..Alignment::default()
            },
        ),
        (
            "soft_alignment_monotone",
            Alignment {
                monotonicity: 0.01,
                ..Alignment::default()
            },
        ),
    ] {
        let mut scores = device.alloc::<f32>(pairs.len()).unwrap();
        soft_alignment(q, c, d, &list, alignment, &mut scores).unwrap();
        let bound = |pair| {
            let (q, c) = sides(pair);
            soft_alignment::error_bound(q, c, d, &alignment, &rounding)
        };
        let bounds: Vec<f64> = pairs.iter().map(bound).collect();
        let want = file.get_f64(name);
        let worst = hold(name, &scores.read().unwrap(), &want, &bounds);
        println!("{}: {name}, worst {worst:.3}", device.name());
    }
}

fn verifiers_match_pytorch(device: Device) {
    let file = Tensors::read(&golden("token_maps.safetensors"));
    let (queries, documents) = (texts(&file, "queries"), texts(&file, "documents"));
    let d = queries.d;
    // Golden rows are unit vectors rounded to f16. Scaling to length 1 again moves none of their numbers by more than a
    // unit in f16's last place (a half from the length, a half from rounding): 2^-10 of itself, and of the row's length.
    let row = 2f64.powi(-10);
    // A product of two such rows, 2 row + row^2; for f2, see `soft_alignment_gain`.
    let product = 2.0 * row + row * row;
    let load = |texts: &Texts| {
        TokenVectors::from_rows(&device, &texts.rows, d, texts.offsets.clone()).unwrap()
    };
    let (q, c) = (load(&queries), load(&documents));
    let list =
        (0..queries.len() as u32).flat_map(|q| (0..documents.len() as u32).map(move |c| [q, c]));
    let list = PairList::new(&device, list.collect()).unwrap();
    // The average of unit rows is kept in f16 too, which costs as much as a row.
    for (verifier, name, allowed) in [
        ("f0", "bag", 2.0 * product),
        ("f1", "maxsim_mean", product),
        ("f2", "soft_alignment", soft_alignment_gain() * product),
    ] {
        let verifier = verifier::open(verifier, &VerifierOptions::default(), &device).unwrap();
        let scores = verifier.score(&q, &c, &list).unwrap();
        let want = file.get_f64(name);
        let worst = hold(name, &scores, &want, &vec![allowed; want.len()]);
        println!(
            "{}: {name}, worst {worst:.3} of {allowed:.1e}",
            device.name()
        );
    }
}

/// How much more than its cosines the soft alignment of a query token can change: with weights `p = softmax(S / tau)` and
/// `f = sum p S`, `df/dS_j = p_j (1 + (S_j - f) / tau)`, whose magnitudes add up to at most `1 + range / (2 tau)` (a mean
/// deviation is at most half the range). Cosines range over 2, a little more once rounded.
fn soft_alignment_gain() -> f64 {
    1.0 + 2.01 / (2.0 * f64::from(Alignment::default().temperature))
}

/// The largest distance between corresponding rows.
fn farthest(a: &[f32], b: &[f32], d: usize) -> f64 {
    assert_eq!(a.len(), b.len());
    let squared = |(a, b): (&[f32], &[f32])| -> f64 {
        let terms = a.iter().zip(b);
        terms.map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    let rows = a.chunks_exact(d).zip(b.chunks_exact(d));
    rows.map(squared).fold(0.0, f64::max).sqrt()
}

/// A device's token vectors, what it makes of them, and how they look on the host.
struct Scored {
    device: Device,
    /// Tokens, means, centroids.
    rows: [Vec<f32>; 3],
    offsets: Vec<u32>,
    d: usize,
    /// `[scorers][pairs]`.
    scores: Vec<Vec<f32>>,
    /// MaxSim's ranking per query.
    ranked: Vec<Vec<u64>>,
}

/// Sentences of words that the tiny model knows: swaps, negations, other relations, longer and shorter ones.
const TEXTS: [&str; 14] = [
    "the old dog and the small cat run by the river",
    "the small dog and the old cat run by the river",
    "the small cat and the old dog run by the river",
    "the dog and the cat walk by the river",
    "the dog and the cat walk not by the river",
    "he gives the paper to the house in the city",
    "the house in the city gives the paper to him",
    "rain before noon and snow after the night",
    "snow before noon and rain after the night",
    "the red bird is on the blue door",
    "the red bird is on the blue door, not in the tree: we see it from the road, and they find a page with a large word in it",
    "read",
    "write",
    "two birds sing, three dogs make a line, four cats eat and five see the water of the open river in the west",
];

const VERIFIERS: [&str; 4] = ["none", "f0", "f1", "f2"];

/// Every text against every text.
fn scored(device: Device, texts: &[&str]) -> Scored {
    let folder = golden("tiny-bert-3x96");
    let encoder = Encoder::load(&folder, &device, LoadOptions::default()).unwrap();
    let vectors = TokenVectors::encode(&encoder, texts, TextKind::Plain).unwrap();
    let n = texts.len() as u32;
    let pairs: Vec<[u32; 2]> = (0..n).flat_map(|q| (0..n).map(move |c| [q, c])).collect();
    let list = PairList::new(&device, pairs).unwrap();
    let of = |name| {
        let verifier = verifier::open(name, &VerifierOptions::default(), &device).unwrap();
        verifier.score(&vectors, &vectors, &list).unwrap()
    };
    let scores = VERIFIERS.map(of).to_vec();
    let host = |rows: Slice<'_, f16>| -> Vec<f32> {
        let rows = rows.read().unwrap();
        rows.iter().map(|v| v.to_f32()).collect()
    };
    let rows = [vectors.tokens().rows, vectors.means(), vectors.centroids()].map(host);
    let (offsets, d) = (vectors.tokens().packing.offsets().to_vec(), vectors.width());
    let mut index = TokenIndex::new(&device, d).unwrap();
    let again = TokenVectors::from_rows(&device, &rows[0], d, offsets.clone()).unwrap();
    index.append(again).unwrap();
    let hits = index.search(&vectors, texts.len()).unwrap();
    let ranked = hits
        .iter()
        .map(|hits| hits.iter().map(|hit| hit.id).collect());
    Scored {
        ranked: ranked.collect(),
        device,
        rows,
        offsets,
        d,
        scores,
    }
}

fn a_text_answers_itself_best() {
    let cpu = scored(Device::cpu(), &TEXTS);
    for (query, ranked) in cpu.ranked.iter().enumerate() {
        assert_eq!(ranked[0], query as u64);
    }
}

/// Another device than the CPU, and the CPU.
fn devices_score_and_rank_alike(device: Device) {
    let texts = TEXTS;
    let n = texts.len();
    let (cpu, other) = (scored(Device::cpu(), &texts), scored(device, &texts));
    assert_eq!(cpu.offsets, other.offsets);
    let d = cpu.d;
    let moved: Vec<Vec<f64>> = (0..3).map(|kind| text_moves(&cpu, &other, kind)).collect();
    let of_text = |scored: &Scored, i: usize| -> Vec<f32> {
        let [from, to] = [i, i + 1].map(|i| scored.offsets[i] as usize * d);
        scored.rows[0][from..to].to_vec()
    };
    // A product of two rows changes by at most what the rows do, which are no longer than 1 + 2^-10.
    let product = |kind: usize, q: usize, c: usize| {
        (moved[kind][q] + moved[kind][c]) * (1.0 + 2f64.powi(-10))
    };
    let rounding = |scored: &Scored, name: &str, q: usize, c: usize| {
        let rounding = Rounding::of(scored.device.kind());
        let (q_rows, c_rows) = (of_text(scored, q), of_text(scored, c));
        match name {
            "f2" => {
                let alignment = Alignment::default();
                soft_alignment::error_bound(&q_rows, &c_rows, d, &alignment, &rounding)
            }
            "f1" => maxsim::error_bound(&q_rows, &c_rows, d, Reduction::Mean, &rounding).0,
            // One product of two rows.
            _ => {
                let row = |kind: usize, i: usize| &scored.rows[kind][i * d..][..d];
                let kind = if name == "none" { 1 } else { 2 };
                let (q, c) = (row(kind, q), row(kind, c));
                pair_dot::error_bound(q, c, d, &[[0, 0]], &rounding)[0]
            }
        }
    };
    let mut bounds_of_f1 = vec![0.0; n * n];
    for (v, name) in VERIFIERS.into_iter().enumerate() {
        let bounds: Vec<f64> = (0..n * n)
            .map(|at| {
                let (q, c) = (at / n, at % n);
                let moves = match name {
                    "none" => product(1, q, c),
                    "f0" => product(2, q, c),
                    "f1" => product(0, q, c),
                    _ => product(0, q, c) * soft_alignment_gain(),
                };
                moves + rounding(&cpu, name, q, c) + rounding(&other, name, q, c)
            })
            .collect();
        let want: Vec<f64> = cpu.scores[v].iter().map(|&s| f64::from(s)).collect();
        let worst = hold(name, &other.scores[v], &want, &bounds);
        println!(
            "{}: {name}, worst {worst:.3} of its bound",
            other.device.name()
        );
        if name == "f1" {
            bounds_of_f1 = bounds;
        }
    }
    // A text may stand before another only if the CPU's scores leave that open.
    let same = cpu
        .ranked
        .iter()
        .zip(&other.ranked)
        .filter(|(a, b)| a == b)
        .count();
    println!(
        "{}: {same} of {n} rankings are identical",
        other.device.name()
    );
    let f1 = &cpu.scores[2];
    for (q, ranked) in other.ranked.iter().enumerate() {
        for pair in ranked.windows(2) {
            let [a, b] = [0, 1].map(|i| q * n + pair[i] as usize);
            let open = bounds_of_f1[a] + bounds_of_f1[b];
            let lost = f64::from(f1[b]) - f64::from(f1[a]);
            assert!(
                lost <= open,
                "query {q}: {pair:?} exchanged, {lost:e} > {open:e}"
            );
        }
    }
    if other.device.kind() != DeviceKind::Cpu {
        assert!(
            moved[0].iter().any(|&m| m > 0.0),
            "the devices were not two"
        );
    }
}

/// Per text, the largest distance between its rows of one kind (tokens, means, centroids) on two devices.
fn text_moves(a: &Scored, b: &Scored, kind: usize) -> Vec<f64> {
    let d = a.d;
    (0..a.offsets.len() - 1)
        .map(|i| {
            let span = match kind {
                0 => a.offsets[i] as usize * d..a.offsets[i + 1] as usize * d,
                _ => i * d..(i + 1) * d,
            };
            farthest(&a.rows[kind][span.clone()], &b.rows[kind][span], d)
        })
        .collect()
}

fn main() {
    let mut tests = needs::Tests::default();
    needs::add!(tests: a_text_answers_itself_best);
    let devices = needs::devices();
    for device in &devices {
        needs::add!(tests, device => maps_and_scores_match_pytorch, verifiers_match_pytorch);
    }
    for device in &devices[1..] {
        needs::add!(tests, device => devices_score_and_rank_alike);
    }
    tests.run()
}
