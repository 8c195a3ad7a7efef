//! Cases of `similarity_map`; broken variant: two token vectors of a document are exchanged.

use nearmiss::device::{Device, Float};
use nearmiss::ops::similarity_map::{error_bound, reference, similarity_map};
use nearmiss::ops::{MapLayout, PackedTexts, PairList, Tokens};

use super::maxsim::{token_types, tokens};
use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, cast, each, judge, line, rounding, twice,
    where_bindings_end, with_small_bindings, with_type,
};

/// Tokens of each query, of each document, their width, and which pairs.
type Shape = (
    &'static [usize],
    &'static [usize],
    usize,
    &'static [[u32; 2]],
);

pub fn cases() -> Vec<Case> {
    let shapes: [Shape; 9] = [
        (&[5], &[7], 64, &[[0, 0]]),
        (&[5], &[7], 64, &[]),
        (
            &[0, 3],
            &[0, 2, 31],
            8,
            &[[0, 2], [1, 0], [1, 2], [1, 1], [1, 2]],
        ),
        (
            &[32, 33, 1],
            &[127, 129, 257],
            32,
            &[[2, 2], [0, 0], [1, 1], [0, 2]],
        ),
        (&[70], &[300, 20], 128, &[[0, 1], [0, 0]]),
        (&[31, 65], &[130, 33], 384, &[[1, 0], [0, 1]]),
        (&[9], &[17, 40], 1024, &[[0, 0], [0, 1]]),
        // Queries of which a block takes 64 tokens at a time, and 128.
        (&[40, 65, 80], &[129, 1, 64], 72, &[[0, 0], [2, 1], [1, 2]]),
        (
            &[257, 100, 0, 128],
            &[130, 33],
            40,
            &[[0, 1], [1, 0], [2, 0], [3, 1], [3, 0]],
        ),
    ];
    let mut cases: Vec<Case> = shapes
        .into_iter()
        .map(|shape| Case {
            op: "similarity_map",
            name: format!(
                "queries={:?},documents={:?},d={},pairs={:?}",
                shape.0, shape.1, shape.2, shape.3
            ),
            on: anywhere,
            run: Box::new(move |device| all_types(device, shape)),
        })
        .collect();
    cases.push(Case {
        op: "similarity_map",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| {
            let shape: Shape = (
                &[5, 9],
                &[100, 90, 0, 80, 120, 33, 101, 44],
                64,
                &[[1, 7], [0, 0], [0, 4], [1, 5], [0, 2], [1, 3]],
            );
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

fn case<T: Float>(device: &Device, (n_q, n_c, d, pairs): Shape) -> Result<Outcome, String> {
    let mut noise = Noise::new(d * 7 + pairs.len());
    let (queries, q_offsets) = tokens(&mut noise, n_q, d, 0);
    let (documents, c_offsets) = tokens(&mut noise, n_c, d, 0);
    let run = |poison, documents: &[f32]| -> nearmiss::Result<Vec<f32>> {
        let q_packing = PackedTexts::new(device, q_offsets.clone())?;
        let c_packing = PackedTexts::new(device, c_offsets.clone())?;
        let list = PairList::new(device, pairs.to_vec())?;
        let layout = MapLayout::new(device, &q_packing, &c_packing, &list)?;
        let mut maps = Output::new(device, layout.elements(), poison)?;
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
        similarity_map(asked, stored, d, &list, &layout, maps.target())?;
        maps.read()
    };
    let rounding = rounding(device);
    let (mut want, mut bounds) = (Vec::new(), Vec::new());
    // A document of two tokens at least that a map of at least one row shows.
    let mut target = None;
    for &[q, c] in pairs {
        let span = |offsets: &[u32], i: u32| {
            offsets[i as usize] as usize * d..offsets[i as usize + 1] as usize * d
        };
        let query = &queries[span(&q_offsets, q)];
        let document = &documents[span(&c_offsets, c)];
        want.extend(reference::<f64>(query, document, d));
        bounds.extend(error_bound(query, document, d, &rounding));
        if !query.is_empty() && document.len() >= 2 * d {
            target = Some(span(&c_offsets, c));
        }
    }
    let broken = match target {
        Some(rows) => {
            let mut wrong = documents.clone();
            wrong[rows].rotate_left(d);
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
