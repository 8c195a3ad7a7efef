//! `map_pool_backward`: gradients of maxima and of soft alignments over the maps of a training batch; memory bound.

use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::MapPooling;
use nearmiss::ops::map_pool_backward::{SPEC, error_bound, map_pool_backward, reference};

use super::pairs::{Lengths, map_shapes, maps};
use super::{
    BLOCK, Case, Context, Prepared, Recorded, json, noise, poisoned, repeated, repeats, rounding,
    sample, worst_ratio,
};

const POOLINGS: [(&str, MapPooling); 2] = [
    ("maxima", MapPooling::Max),
    (
        "soft alignments",
        MapPooling::Soft {
            distance: 0.1,
            temperature: 0.1,
            band: None,
        },
    ),
];

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(n, [l_q, l_c]) in map_shapes(context.scale) {
        for (name, pooling) in POOLINGS {
            cases.push(Case {
                op: SPEC.name,
                shape: format!("{name} of {n} maps of {l_q} x {l_c}"),
                sizes: json!({"maps": n, "query": l_q, "document": l_c, "pooling": name}),
                needs: &[&SPEC],
                prepare: Box::new(move |context| prepare(context, n, [l_q, l_c], pooling)),
            });
        }
    }
    cases
}

struct Set {
    maps: Buffer<f32>,
    d_scores: Buffer<f32>,
    d_maps: Buffer<f32>,
}

fn prepare(context: &Context, n: usize, lengths: Lengths, pooling: MapPooling) -> Result<Prepared> {
    let device = &context.device;
    let layout = maps(device, n, lengths)?;
    let elements = layout.elements();
    let bytes = 4 * (2 * elements + n) as u64;
    let sets = context.sets(bytes);
    let values = noise::<f32>(elements.min(BLOCK), 0.4, 1);
    let d_scores = noise::<f32>(n, 1.0, 2);
    let mut inputs = Vec::new();
    for _ in 0..sets {
        inputs.push(Set {
            maps: repeated(device, &values, 0, elements)?,
            d_scores: device.upload(&d_scores)?,
            d_maps: poisoned(device, elements)?,
        });
    }
    let run = move |set: &mut Set| {
        map_pool_backward(&set.maps, &layout, &set.d_scores, pooling, &mut set.d_maps)
    };
    run(&mut inputs[0])?;
    let which = sample(n);
    let (shape, each) = (lengths.map(|l| l as u32), elements / n);
    let (mut want, mut bounds) = (Vec::new(), Vec::new());
    for &pair in &which {
        let map = repeats(&values, pair * each..(pair + 1) * each);
        want.extend(reference::<f64, _>(&map, shape, pooling, d_scores[pair]));
        let rounding = rounding(context);
        bounds.extend(error_bound(&map, shape, pooling, d_scores[pair], &rounding));
    }
    let got = inputs[0].d_maps.read()?;
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, each, &which, &want, &bounds),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "maps"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
