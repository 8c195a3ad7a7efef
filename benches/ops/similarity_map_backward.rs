//! `similarity_map_backward`: a training batch, in which every anchor is scored with all positives and its own negative.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Float};
use nearmiss::ops::similarity_map_backward::{
    SPEC, error_bound, reference, similarity_map_backward,
};
use nearmiss::ops::{MapLayout, PackedTexts, PairList, Tokens};

use super::{
    BLOCK, Case, Context, D_MODEL, Prepared, Recorded, Scale, json, noise, offsets, poisoned,
    repeated, repeats, rounding, single, widen, worst_ratio,
};

/// The cases: anchors, and tokens of every text.
pub fn cases(context: &Context) -> Vec<Case> {
    let sizes: &[(usize, usize)] = match context.scale {
        Scale::Quick => &[(2, 11)],
        Scale::Software => &[(4, 20)],
        Scale::Cpu => &[(32, 20), (16, 64)],
        Scale::Gpu => &[(32, 20), (32, 128)],
    };
    let case = |&(anchors, l): &(usize, usize)| {
        let pairs = anchors * (anchors + 1);
        Case {
            op: SPEC.name,
            shape: format!("{pairs} pairs of {l} x {l} tokens, {D_MODEL}"),
            sizes: json!({"anchors": anchors, "pairs": pairs, "tokens": l, "width": D_MODEL}),
            needs: &[&SPEC],
            prepare: Box::new(move |context| {
                if single(context) {
                    prepare::<f32>(context, anchors, l)
                } else {
                    prepare::<f16>(context, anchors, l)
                }
            }),
        }
    };
    sizes.iter().map(case).collect()
}

struct Set<T: Float> {
    queries: Buffer<T>,
    documents: Buffer<T>,
    d_maps: Buffer<f32>,
    d_queries: Buffer<f32>,
    d_documents: Buffer<f32>,
}

fn prepare<T: Float>(context: &Context, n: usize, l: usize) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    // Positives, then negatives.
    let (t_q, t_c) = (n * l * d, 2 * n * l * d);
    let row = |i: u32| {
        (0..n as u32)
            .map(move |j| [i, j])
            .chain([[i, n as u32 + i]])
    };
    let pairs: Vec<[u32; 2]> = (0..n as u32).flat_map(row).collect();
    let elements = pairs.len() * l * l;
    let bytes = (4 * elements + (t_q + t_c) * (size_of::<T>() + 4)) as u64;
    let sets = context.sets(bytes);
    let scale = 1.0 / (d as f32).sqrt();
    let (queries, documents) = (noise::<T>(t_q, scale, 1), noise::<T>(t_c, scale, 2));
    let d_maps = noise::<f32>(elements.min(BLOCK), 1.0, 3);
    let q_packing = PackedTexts::new(device, offsets(n, l))?;
    let c_packing = PackedTexts::new(device, offsets(2 * n, l))?;
    let list = PairList::new(device, pairs.clone())?;
    let layout = MapLayout::new(device, &q_packing, &c_packing, &list)?;
    let mut inputs = Vec::new();
    for _ in 0..sets {
        inputs.push(Set {
            queries: device.upload(&queries)?,
            documents: device.upload(&documents)?,
            d_maps: repeated(device, &d_maps, 0, elements)?,
            d_queries: poisoned(device, t_q)?,
            d_documents: poisoned(device, t_c)?,
        });
    }
    let run = move |set: &mut Set<T>| {
        let tokens = |rows, packing| Tokens { rows, packing };
        similarity_map_backward(
            tokens(set.queries.as_slice(), &q_packing),
            tokens(set.documents.as_slice(), &c_packing),
            D_MODEL,
            &list,
            &layout,
            &set.d_maps,
            &mut set.d_queries,
            &mut set.d_documents,
        )
    };
    run(&mut inputs[0])?;
    // The last anchor, and the first positive.
    let (mut checked, mut worst) = (0, 0f64);
    let (queries, documents) = (widen(&queries), widen(&documents));
    for (side, text) in [(0, n - 1), (1, 0)] {
        let all = [&queries[..], &documents];
        let (mut rows, mut places) = (all, [offsets(n, l), offsets(2 * n, l)]);
        rows[side] = &all[side][text * l * d..(text + 1) * l * d];
        places[side] = offsets(1, l);
        let (mut listed, mut gradients) = (Vec::new(), Vec::new());
        for (p, pair) in pairs.iter().enumerate() {
            if pair[side] as usize == text {
                let mut alone = *pair;
                alone[side] = 0;
                listed.push(alone);
                gradients.extend(repeats(&d_maps, p * l * l..(p + 1) * l * l));
            }
        }
        let places = [&places[0][..], &places[1]];
        let want = &reference::<f64, _>(rows, places, d, &listed, &gradients)[side];
        let rounding = rounding(context);
        let bound = &error_bound(rows, places, d, &listed, &gradients, &rounding)[side];
        let set = &inputs[0];
        let got = [&set.d_queries, &set.d_documents][side].read()?;
        checked += want.len();
        worst = worst.max(worst_ratio(&got, l * d, &[text], want, bound));
    }
    Ok(Prepared {
        checked,
        worst,
        sets,
        set_bytes: bytes * sets as u64,
        // Every call sends the sorted pairs.
        recorded: Recorded::Nothing,
        items: (pairs.len() as f64, "pairs"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
