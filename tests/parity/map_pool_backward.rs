//! Cases of `map_pool_backward`; broken variant: the gradient of a score is another one.

use nearmiss::Device;
use nearmiss::ops::map_pool_backward::{error_bound, map_pool_backward, reference};
use nearmiss::ops::{MapLayout, MapPooling, PackedTexts, PairList};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, twice,
    where_bindings_end, with_small_bindings,
};

/// Tokens of each query and of each document; every query with every document.
type Shape = (&'static [usize], &'static [usize]);

fn soft(band: Option<u32>) -> MapPooling {
    MapPooling::Soft {
        distance: 0.1,
        temperature: 0.1,
        band,
    }
}

pub fn cases() -> Vec<Case> {
    let shapes: [Shape; 6] = [
        (&[], &[3]),
        (&[1], &[1]),
        (&[5, 0, 9], &[7, 1, 0, 64]),
        (&[31, 33], &[33, 127, 8]),
        (&[3, 70], &[129, 128, 300]),
        (&[257], &[20]),
    ];
    let poolings = [
        MapPooling::Mean,
        MapPooling::Max,
        soft(None),
        soft(Some(0)),
        soft(Some(5)),
        // Hardly anything but positions, and nothing but products.
        MapPooling::Soft {
            distance: 3.0,
            temperature: 0.05,
            band: Some(u32::MAX),
        },
        MapPooling::Soft {
            distance: 0.0,
            temperature: 1.0,
            band: None,
        },
    ];
    let mut cases = Vec::new();
    for shape in shapes {
        for pooling in poolings {
            cases.push(Case {
                op: "map_pool_backward",
                name: format!("queries={:?},documents={:?},{pooling:?}", shape.0, shape.1),
                on: anywhere,
                run: Box::new(move |device| case(device, shape, pooling, false)),
            });
        }
    }
    // Of equal maxima the first wins.
    cases.push(Case {
        op: "map_pool_backward",
        name: "ties".into(),
        on: anywhere,
        run: Box::new(|device| case(device, (&[40, 3], &[9, 150]), MapPooling::Max, true)),
    });
    for pooling in [MapPooling::Mean, MapPooling::Max, soft(Some(9))] {
        cases.push(Case {
            op: "map_pool_backward",
            name: format!("larger than one binding, {pooling:?}"),
            on: where_bindings_end,
            run: Box::new(move |device| {
                with_small_bindings(device, |small| {
                    case(small, (&[50, 70, 0, 33], &[90, 31, 100]), pooling, false)
                })
            }),
        });
    }
    cases
}

fn case(
    device: &Device,
    (queries, documents): Shape,
    pooling: MapPooling,
    ties: bool,
) -> Result<Outcome, String> {
    let (maps, shapes, layout) = layout(queries, documents);
    let elements: usize = maps.iter().sum();
    let mut noise = Noise::new(elements * 13 + 7);
    let mut values = noise.normal(elements, 0.4);
    if ties {
        values
            .iter_mut()
            .for_each(|v| *v = (*v * 4.0).round() / 4.0);
    }
    let d_scores = noise.normal(shapes.len(), 1.0);
    let run = |poison, d_scores: &[f32]| {
        let layout = layout(device)?;
        let mut d_maps = Output::<f32>::new(device, elements, poison)?;
        map_pool_backward(
            &device.upload(&values)?,
            &layout,
            &device.upload(d_scores)?,
            pooling,
            d_maps.target(),
        )?;
        d_maps.read()
    };
    let got = twice(|poison| run(poison, &d_scores))?;
    // The first row may always choose the first column.
    let broken = match maps.iter().position(|&elements| elements > 0) {
        Some(pair) => {
            let mut wrong = d_scores.clone();
            wrong[pair] = d_scores[pair] * 1.5 + 1.0;
            Some(run(POISONS[0], &wrong).map_err(line)?)
        }
        None => None,
    };
    let rounding = rounding(device);
    let (mut want, mut bounds, mut rest) = (Vec::new(), Vec::new(), &values[..]);
    for ((&shape, &elements), &d_score) in shapes.iter().zip(&maps).zip(&d_scores) {
        let (map, others) = rest.split_at(elements);
        rest = others;
        want.extend(reference::<f64, _>(map, shape, pooling, d_score));
        bounds.extend(error_bound(map, shape, pooling, d_score, &rounding));
    }
    judge(
        &got,
        broken.as_deref(),
        &want,
        |_| bounds.clone(),
        &rounding,
    )
}

/// Elements and shapes of the maps of every query with every document, and what lays them out on a device.
#[allow(
    clippy::type_complexity,
    reason = "three results that are taken apart at once"
)]
pub fn layout(
    queries: &[usize],
    documents: &[usize],
) -> (
    Vec<usize>,
    Vec<[u32; 2]>,
    impl Fn(&Device) -> nearmiss::Result<MapLayout>,
) {
    let offsets = |lengths: &[usize]| {
        let mut offsets = vec![0u32];
        for &l in lengths {
            offsets.push(offsets[offsets.len() - 1] + l as u32);
        }
        offsets
    };
    let (q_offsets, c_offsets) = (offsets(queries), offsets(documents));
    let (mut pairs, mut shapes) = (Vec::new(), Vec::new());
    for (q, &l_q) in queries.iter().enumerate() {
        for (c, &l_c) in documents.iter().enumerate() {
            pairs.push([q as u32, c as u32]);
            shapes.push([l_q as u32, l_c as u32]);
        }
    }
    let elements = shapes.iter().map(|s| s[0] as usize * s[1] as usize);
    let make = move |device: &Device| {
        let q_packing = PackedTexts::new(device, q_offsets.clone())?;
        let c_packing = PackedTexts::new(device, c_offsets.clone())?;
        let list = PairList::new(device, pairs.clone())?;
        MapLayout::new(device, &q_packing, &c_packing, &list)
    };
    (elements.collect(), shapes, make)
}
