//! Cases of `map_features_backward`; broken variant: the gradients of a map are dropped.

use nearmiss::Device;
use nearmiss::ops::map_features;
use nearmiss::ops::map_features_backward::{error_bound, map_features_backward, reference};

use super::map_features::{BEYOND, SHAPES, Shape, Shown};
use super::map_pool_backward::layout;
use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, twice,
    where_bindings_end, with_small_bindings,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for shown in Shown::ALL {
            if matches!(shown, Shown::Padded) && shape.0.len() * shape.1.len() > 6 {
                continue;
            }
            cases.push(Case {
                op: "map_features_backward",
                name: format!("queries={:?},documents={:?},{shown:?}", shape.0, shape.1),
                on: anywhere,
                run: Box::new(move |device| case(device, shape, shown)),
            });
        }
    }
    for shown in [Shown::Patches, Shown::Neighbours] {
        cases.push(Case {
            op: "map_features_backward",
            name: format!("larger than one binding, {shown:?}"),
            on: where_bindings_end,
            run: Box::new(move |device| {
                with_small_bindings(device, |small| case(small, BEYOND, shown))
            }),
        });
    }
    cases
}

fn case(device: &Device, (queries, documents): Shape, shown: Shown) -> Result<Outcome, String> {
    let (maps, shapes, layout) = layout(queries, documents);
    let elements: usize = maps.iter().sum();
    let mut noise = Noise::new(elements * 5 + 1);
    let values = noise.normal(elements, 0.4);
    let (windows, pictures) = (shown.windows(), shown.pictures(&shapes));
    // Winners as the forward finds them, and as many gradients as it has numbers.
    let (mut winners, mut sizes, mut rest) = (Vec::new(), Vec::new(), &values[..]);
    for ((&shape, &count), &picture) in shapes.iter().zip(&maps).zip(&pictures) {
        let (map, others) = rest.split_at(count);
        rest = others;
        let (rows, won) = map_features::reference(map, shape, windows, picture);
        sizes.push(rows.len());
        winners.push(won);
    }
    let size: usize = sizes.iter().sum();
    let d_rows = noise.normal(size, 1.0);
    let all_winners = winners.concat();
    let run = |poison, d_rows: &[f32]| {
        let windows = shown.layout(device, &layout(device)?)?;
        let winners = device.upload(&all_winners)?;
        let mut d_maps = Output::<f32>::new(device, elements, poison)?;
        map_features_backward(
            &device.upload(d_rows)?,
            &windows,
            winners.as_slice(),
            d_maps.target(),
        )?;
        d_maps.read()
    };
    let got = twice(|poison| run(poison, &d_rows))?;
    let rounding = rounding(device);
    let (mut want, mut bounds, mut rest) = (Vec::new(), Vec::new(), &d_rows[..]);
    // The rows of a map of which anything is shown.
    let (mut target, mut first) = (None, 0);
    for (pair, (&shape, &picture)) in shapes.iter().zip(&pictures).enumerate() {
        let (d_rows, others) = rest.split_at(sizes[pair]);
        rest = others;
        let won = &winners[pair];
        let d_map = reference::<f64, _>(d_rows, won, shape, windows, picture);
        bounds.extend(error_bound(d_rows, won, shape, windows, picture, &rounding));
        if d_map.iter().any(|&v| v != 0.0) {
            target = Some(first..first + sizes[pair]);
        }
        first += sizes[pair];
        want.extend(d_map);
    }
    let broken = match target {
        Some(rows) => {
            let mut wrong = d_rows.clone();
            wrong[rows].fill(0.0);
            Some(run(POISONS[0], &wrong).map_err(line)?)
        }
        None => None,
    };
    judge(
        &got,
        broken.as_deref(),
        &want,
        |_| bounds.clone(),
        &rounding,
    )
}
