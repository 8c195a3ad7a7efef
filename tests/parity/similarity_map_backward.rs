//! Cases of `similarity_map_backward`; broken variant: two of the gradients of a map are exchanged.

use nearmiss::device::{Device, Float};
use nearmiss::ops::similarity_map_backward::{error_bound, reference, similarity_map_backward};
use nearmiss::ops::{MapLayout, PackedTexts, PairList, Tokens};

use super::maxsim::{token_types, tokens};
use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, cast, each, judge, line, rounding, sum, twice,
    with_type,
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
        // In no pair at all.
        (&[5, 9], &[7], 64, &[]),
        // A pair twice, texts in no pair, empty ones.
        (
            &[0, 3, 2],
            &[0, 2, 31, 1],
            8,
            &[[0, 2], [1, 0], [1, 2], [1, 1], [1, 2]],
        ),
        // Two, three and five pairs of a text.
        (
            &[32, 33, 1],
            &[127, 129, 257],
            32,
            &[[2, 2], [0, 0], [1, 1], [0, 2], [1, 2]],
        ),
        (&[70], &[300, 20], 128, &[[0, 1], [0, 0]]),
        (&[31, 65], &[130, 33], 384, &[[1, 0], [0, 1]]),
        (&[9], &[17, 40], 1032, &[[0, 0], [0, 1]]),
        // More pairs of a text than a block has warps.
        (
            &[20],
            &[3, 20, 9, 20, 0, 33, 20, 64, 20, 31, 20, 1],
            72,
            &[
                [0, 11],
                [0, 0],
                [0, 1],
                [0, 2],
                [0, 3],
                [0, 4],
                [0, 5],
                [0, 6],
                [0, 7],
                [0, 8],
                [0, 9],
                [0, 10],
            ],
        ),
        // And of a document.
        (
            &[3, 20, 9, 20, 0, 33, 20, 40, 20, 31],
            &[20, 8],
            136,
            &[
                [9, 0],
                [8, 0],
                [7, 0],
                [6, 0],
                [5, 0],
                [4, 0],
                [3, 0],
                [2, 0],
                [1, 0],
                [0, 1],
                [0, 0],
            ],
        ),
    ];
    shapes
        .into_iter()
        .map(|shape| Case {
            op: "similarity_map_backward",
            name: format!(
                "queries={:?},documents={:?},d={},pairs={:?}",
                shape.0, shape.1, shape.2, shape.3
            ),
            on: anywhere,
            run: Box::new(move |device| {
                each(
                    token_types(device),
                    |element| with_type!(element, T => case::<T>(device, shape)),
                )
            }),
        })
        .collect()
}

fn case<T: Float>(device: &Device, (n_q, n_c, d, pairs): Shape) -> Result<Outcome, String> {
    let mut noise = Noise::new(d * 7 + pairs.len());
    let (queries, q_offsets) = tokens(&mut noise, n_q, d, 0);
    let (documents, c_offsets) = tokens(&mut noise, n_c, d, 0);
    let sizes: Vec<usize> = pairs
        .iter()
        .map(|&[q, c]| n_q[q as usize] * n_c[c as usize])
        .collect();
    let d_maps = noise.normal(sizes.iter().sum(), 1.0);
    let run = |poison, d_maps: &[f32]| -> nearmiss::Result<(Vec<f32>, Vec<f32>)> {
        let q_packing = PackedTexts::new(device, q_offsets.clone())?;
        let c_packing = PackedTexts::new(device, c_offsets.clone())?;
        let list = PairList::new(device, pairs.to_vec())?;
        let layout = MapLayout::new(device, &q_packing, &c_packing, &list)?;
        let asked = device.upload(&cast::<T>(&queries))?;
        let stored = device.upload(&cast::<T>(&documents))?;
        let mut d_queries = Output::<f32>::new(device, queries.len(), poison)?;
        let mut d_documents = Output::<f32>::new(device, documents.len(), poison)?;
        similarity_map_backward(
            Tokens {
                rows: asked.as_slice(),
                packing: &q_packing,
            },
            Tokens {
                rows: stored.as_slice(),
                packing: &c_packing,
            },
            d,
            &list,
            &layout,
            &device.upload(d_maps)?,
            d_queries.target(),
            d_documents.target(),
        )?;
        Ok((d_queries.read()?, d_documents.read()?))
    };
    let got = twice(|poison| run(poison, &d_maps))?;
    // The gradients of two products of a map: the first, and the last of them.
    let (mut target, mut first) = (None, 0);
    for &size in &sizes {
        if size > 1 {
            target = Some((first, first + size - 1));
        }
        first += size;
    }
    let broken = match target {
        Some((a, b)) => {
            let mut wrong = d_maps.clone();
            wrong.swap(a, b);
            Some(run(POISONS[0], &wrong).map_err(line)?)
        }
        None => None,
    };
    let rounding = rounding(device);
    let rows = [&queries[..], &documents];
    let offsets = [&q_offsets[..], &c_offsets];
    let [want_q, want_c] = reference::<f64, _>(rows, offsets, d, pairs, &d_maps);
    let [bound_q, bound_c] = error_bound(rows, offsets, d, pairs, &d_maps, &rounding);
    let (broken_q, broken_c) = broken.unzip();
    Ok(sum([
        judge(
            &got.0,
            broken_q.as_deref(),
            &want_q,
            |_| bound_q.clone(),
            &rounding,
        )?,
        judge(
            &got.1,
            broken_c.as_deref(),
            &want_c,
            |_| bound_c.clone(),
            &rounding,
        )?,
    ]))
}
