//! Cases of `soft_alignment`; broken variant: the tokens of a document stand in reverse order.

use nearmiss::device::{Device, Float};
use nearmiss::ops::soft_alignment::{Alignment, error_bound, reference, soft_alignment};
use nearmiss::ops::{PackedTexts, PairList, Tokens};

use super::maxsim::{token_types, tokens};
use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, cast, each, judge, line, rounding, twice,
    where_bindings_end, with_small_bindings, with_type,
};

#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Tokens of each query.
    queries: &'static [usize],
    /// Tokens of each document.
    documents: &'static [usize],
    d: usize,
    alignment: Alignment,
}

pub fn cases() -> Vec<Case> {
    let plain = Alignment::default();
    let monotone = Alignment {
        monotonicity: 0.3,
        ..plain
    };
    let shape = |queries, documents, d, alignment| Shape {
        queries,
        documents,
        d,
        alignment,
    };
    let banded = |band, alignment: Alignment| Alignment {
        band: Some(band),
        ..alignment
    };
    let shapes = [
        shape(&[5], &[7, 1, 64], 64, plain),
        shape(&[], &[7], 64, plain),
        shape(&[0, 3, 1], &[0, 2, 0, 31], 8, monotone),
        shape(&[32, 33, 1], &[127, 129, 257], 32, plain),
        shape(&[33, 70, 64], &[127, 20], 32, monotone),
        shape(&[70], &[300, 20], 128, banded(4, plain)),
        // Only some query tokens have candidates: those before the document's end and a little after.
        shape(&[70, 40], &[9, 33, 40], 16, banded(3, monotone)),
        shape(&[40], &[40, 130], 16, banded(0, monotone)),
        shape(&[31, 65], &[130, 33], 384, monotone),
        shape(&[9], &[17, 40], 1024, plain),
        // Without positions, and with hardly anything but positions.
        shape(
            &[20],
            &[50],
            64,
            Alignment {
                distance: 0.0,
                temperature: 0.02,
                ..monotone
            },
        ),
        shape(
            &[20],
            &[50],
            64,
            Alignment {
                distance: 3.0,
                ..plain
            },
        ),
    ];
    let mut cases: Vec<Case> = shapes
        .into_iter()
        .map(|shape| Case {
            op: "soft_alignment",
            name: format!("{shape:?}"),
            on: anywhere,
            run: Box::new(move |device| all_types(device, shape)),
        })
        .collect();
    cases.push(Case {
        op: "soft_alignment",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(move |device| {
            let shape = shape(&[5, 9], &[100, 90, 0, 80, 120, 33, 101, 44], 64, monotone);
            with_small_bindings(device, |small| all_types(small, shape))
        }),
    });
    cases
}

fn all_types(device: &Device, shape: Shape) -> Result<Outcome, String> {
    each(
        token_types(device),
        |element| with_type!(element, T => case::<T>(device, shape)),
    )
}

/// Every query with every document.
fn case<T: Float>(device: &Device, shape: Shape) -> Result<Outcome, String> {
    let d = shape.d;
    let mut noise = Noise::new(d * 3 + shape.queries.len() + 5 * shape.documents.len());
    let (queries, q_offsets) = tokens(&mut noise, shape.queries, d, 0);
    let (documents, c_offsets) = tokens(&mut noise, shape.documents, d, 0);
    let pairs: Vec<[u32; 2]> = (0..shape.queries.len() as u32)
        .flat_map(|q| (0..shape.documents.len() as u32).map(move |c| [q, c]))
        .collect();
    let run = |poison, documents: &[f32]| -> nearmiss::Result<Vec<f32>> {
        let q_packing = PackedTexts::new(device, q_offsets.clone())?;
        let c_packing = PackedTexts::new(device, c_offsets.clone())?;
        let list = PairList::new(device, pairs.clone())?;
        let mut scores = Output::new(device, pairs.len(), poison)?;
        let asked = device.upload(&cast::<T>(&queries))?;
        let stored = device.upload(&cast::<T>(documents))?;
        let asked = Tokens {
            rows: asked.as_slice(),
            packing: &q_packing,
        };
        let stored = Tokens {
            rows: stored.as_slice(),
            packing: &c_packing,
        };
        soft_alignment(asked, stored, d, &list, shape.alignment, scores.target())?;
        scores.read()
    };
    let rounding = rounding(device);
    let (mut want, mut bounds) = (Vec::new(), Vec::new());
    // A document of two tokens at least, that somebody asks for.
    let mut target = None;
    for &[q, c] in &pairs {
        let span = |offsets: &[u32], i: u32| {
            offsets[i as usize] as usize * d..offsets[i as usize + 1] as usize * d
        };
        let query = &queries[span(&q_offsets, q)];
        let document = &documents[span(&c_offsets, c)];
        want.push(reference::<f64>(query, document, d, &shape.alignment));
        bounds.push(error_bound(query, document, d, &shape.alignment, &rounding));
        if !query.is_empty() && document.len() >= 2 * d {
            target = Some(span(&c_offsets, c));
        }
    }
    let broken = match target {
        Some(rows) => {
            let mut wrong = documents.clone();
            wrong[rows.clone()]
                .chunks_exact_mut(d)
                .zip(documents[rows].chunks_exact(d).rev())
                .for_each(|(to, from)| to.copy_from_slice(from));
            Some(run(POISONS[0], &wrong).map_err(line)?)
        }
        None => None,
    };
    let got = twice(|poison| run(poison, &documents))?;
    judge(
        &got,
        broken.as_deref(),
        &want,
        |_| bounds.clone(),
        &rounding,
    )
}
