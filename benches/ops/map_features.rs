//! `map_features`: windows over the maps of a training batch, with winners; memory bound.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Device, Float};
use nearmiss::ops::map_features::{SPEC, map_features, reference};
use nearmiss::ops::{MapLayout, Picture, WindowLayout, Windows};

use super::pairs::{Lengths, map_shapes, maps};
use super::{
    BLOCK, Case, Context, Prepared, Recorded, json, noise, poisoned, repeated, repeats, sample,
    single, worst_ratio,
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
                prepare: Box::new(move |context| {
                    if single(context) {
                        prepare::<f32>(context, n, [l_q, l_c], windows)
                    } else {
                        prepare::<f16>(context, n, [l_q, l_c], windows)
                    }
                }),
            });
        }
    }
    cases
}

/// What the windows are called.
pub fn name(windows: Windows) -> &'static str {
    match windows {
        Windows::Patches => "patches",
        Windows::Neighbours => "neighbours",
    }
}

/// Windows over all of the maps.
pub fn layout(device: &Device, maps: &MapLayout, windows: Windows) -> Result<WindowLayout> {
    match windows {
        Windows::Patches => WindowLayout::patches(device, maps),
        Windows::Neighbours => {
            let pictures: Vec<Picture> = maps.shapes().iter().map(|&s| Picture::of(s)).collect();
            WindowLayout::neighbours(device, maps, &pictures)
        }
    }
}

struct Set<T: Float> {
    maps: Buffer<f32>,
    rows: Buffer<T>,
    winners: Buffer<u32>,
}

fn prepare<T: Float>(
    context: &Context,
    n: usize,
    lengths: Lengths,
    windows: Windows,
) -> Result<Prepared> {
    let device = &context.device;
    let maps = maps(device, n, lengths)?;
    let layout = layout(device, &maps, windows)?;
    let elements = maps.elements();
    let size = layout.rows() * windows.width();
    let bytes = (4 * (elements + layout.winners()) + size * size_of::<T>()) as u64;
    let sets = context.sets(bytes);
    let values = noise::<f32>(elements.min(BLOCK), 0.4, 1);
    let mut inputs = Vec::new();
    for _ in 0..sets {
        inputs.push(Set {
            maps: repeated(device, &values, 0, elements)?,
            rows: poisoned::<T>(device, size)?,
            winners: device.alloc(layout.winners())?,
        });
    }
    let run = move |set: &mut Set<T>| {
        let winners = Some(set.winners.as_slice_mut());
        map_features(&set.maps, &layout, &mut set.rows, winners)
    };
    run(&mut inputs[0])?;
    let which = sample(n);
    let shape = lengths.map(|l| l as u32);
    let (each, winners) = (elements / n, lengths[0] + lengths[1]);
    let all_winners = inputs[0].winners.read()?;
    let (mut want, mut right) = (Vec::new(), true);
    for &pair in &which {
        let map = repeats(&values, pair * each..(pair + 1) * each);
        let (rows, won) = reference(&map, shape, windows, Picture::of(shape));
        want.extend(rows.into_iter().map(f64::from));
        right &= all_winners[pair * winners..(pair + 1) * winners] == won;
    }
    // Numbers are copied, and of a kind that f16 holds.
    let bound = vec![0.0; want.len()];
    let rows = worst_ratio(&inputs[0].rows.read()?, size / n, &which, &want, &bound);
    Ok(Prepared {
        checked: want.len() + which.len() * winners,
        worst: if right { rows } else { f64::INFINITY },
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "maps"),
        call: Box::new(move |i| run(&mut inputs[i % sets])),
    })
}
