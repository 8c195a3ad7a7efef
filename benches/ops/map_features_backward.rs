//! `map_features_backward`: gradients of windows over the maps of a training batch; memory bound.

use nearmiss::Result;
use nearmiss::device::Buffer;
use nearmiss::ops::map_features_backward::{SPEC, error_bound, map_features_backward, reference};
use nearmiss::ops::{Picture, Windows};

use super::map_features::{layout, name};
use super::pairs::{Lengths, map_shapes, maps};
use super::{
    BLOCK, Case, Context, Prepared, Recorded, indices, json, noise, poisoned, repeated, repeats,
    rounding, sample, worst_ratio,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(n, [l_q, l_c]) in map_shapes(context.scale) {
        for windows in Windows::ALL {
            cases.push(Case {
                op: SPEC.name,
                shape: format!("{} of {n} maps of {l_q} x {l_c}", name(windows)),
                sizes: json!({"maps": n, "query": l_q, "document": l_c, "windows": name(windows)}),
                needs: &[&SPEC],
                prepare: Box::new(move |context| prepare(context, n, [l_q, l_c], windows)),
            });
        }
    }
    cases
}

struct Set {
    d_rows: Buffer<f32>,
    winners: Buffer<u32>,
    d_maps: Buffer<f32>,
}

fn prepare(context: &Context, n: usize, lengths: Lengths, windows: Windows) -> Result<Prepared> {
    let device = &context.device;
    let maps = maps(device, n, lengths)?;
    let layout = layout(device, &maps, windows)?;
    let elements = maps.elements();
    let size = layout.rows() * windows.width();
    let bytes = 4 * (elements + layout.winners() + size) as u64;
    let sets = context.sets(bytes);
    let values = noise::<f32>(size.min(BLOCK), 1.0, 1);
    // Of rows columns, of columns rows, any.
    let mut winners = Vec::with_capacity(layout.winners());
    for pair in 0..n as u64 {
        winners.extend(indices(lengths[0], lengths[1], 2 * pair));
        winners.extend(indices(lengths[1], lengths[0], 2 * pair + 1));
    }
    let mut inputs = Vec::new();
    for _ in 0..sets {
        inputs.push(Set {
            d_rows: repeated(device, &values, 0, size)?,
            winners: device.upload(&winners)?,
            d_maps: poisoned(device, elements)?,
        });
    }
    let run = move |set: &mut Set| {
        map_features_backward(
            &set.d_rows,
            &layout,
            set.winners.as_slice(),
            &mut set.d_maps,
        )
    };
    run(&mut inputs[0])?;
    let which = sample(n);
    let shape = lengths.map(|l| l as u32);
    let (rows, of_map) = (size / n, lengths[0] + lengths[1]);
    let (mut want, mut bounds) = (Vec::new(), Vec::new());
    let picture = Picture::of(shape);
    for &pair in &which {
        let d_rows = repeats(&values, pair * rows..(pair + 1) * rows);
        let won = &winners[pair * of_map..(pair + 1) * of_map];
        want.extend(reference::<f64, _>(&d_rows, won, shape, windows, picture));
        let rounding = rounding(context);
        bounds.extend(error_bound(
            &d_rows, won, shape, windows, picture, &rounding,
        ));
    }
    let got = inputs[0].d_maps.read()?;
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, elements / n, &which, &want, &bounds),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "maps"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
