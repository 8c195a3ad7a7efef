//! Cases of `map_features`: every number is one of the map, so rows are equal but for rounding to f16, and winners are
//! equal. Broken variant: the first two rows of a map are exchanged.

use nearmiss::device::{Device, Float};
use nearmiss::ops::map_features::{map_features, reference};
use nearmiss::ops::{MapLayout, Picture, WindowLayout, Windows};

use super::map_pool_backward::layout;
use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, each, judge, line, rounding,
    twice, where_bindings_end, with_small_bindings, with_type,
};

/// What of the maps is shown.
#[derive(Clone, Copy, Debug)]
pub enum Shown {
    /// Patches of them.
    Patches,
    /// Neighbourhoods of all of their pixels.
    Neighbours,
    /// Of all that there are in the largest of them, in which the maxima reach as far.
    Padded,
    /// Of some of their pixels, with maxima that reach less far or beyond.
    Cut,
}

impl Shown {
    pub const ALL: [Shown; 4] = [Shown::Patches, Shown::Neighbours, Shown::Padded, Shown::Cut];

    pub fn windows(self) -> Windows {
        match self {
            Shown::Patches => Windows::Patches,
            _ => Windows::Neighbours,
        }
    }

    /// Of maps of these shapes.
    pub fn pictures(self, shapes: &[[u32; 2]]) -> Vec<Picture> {
        let most = |side: usize| {
            let longest = shapes.iter().map(|shape| shape[side]).max();
            longest.unwrap_or(0).min(128)
        };
        let picture = |(p, &shape): (usize, &[u32; 2])| {
            let whole = Picture::of(shape);
            match self {
                Shown::Patches | Shown::Neighbours => whole,
                Shown::Padded => Picture {
                    height: 128,
                    width: most(1),
                    extent: [most(0), most(1)],
                },
                Shown::Cut => Picture {
                    height: (whole.height + 2).min(128) / (1 + p as u32 % 2),
                    width: (whole.width + 3).min(128) / (1 + p as u32 % 3),
                    extent: [whole.height / 2, (whole.width + 9).min(128)],
                },
            }
        };
        shapes.iter().enumerate().map(picture).collect()
    }

    /// Lays the windows out on a device.
    pub fn layout(self, device: &Device, maps: &MapLayout) -> nearmiss::Result<WindowLayout> {
        match self {
            Shown::Patches => WindowLayout::patches(device, maps),
            _ => WindowLayout::neighbours(device, maps, &self.pictures(maps.shapes())),
        }
    }
}

/// Tokens of each query and of each document; every query with every document.
pub type Shape = (&'static [usize], &'static [usize]);

pub const SHAPES: [Shape; 6] = [
    (&[], &[3]),
    (&[1], &[1]),
    (&[5, 0, 9], &[7, 1, 0, 64]),
    (&[8, 16], &[33, 15, 24]),
    (&[31, 127], &[100, 2]),
    // Larger than what is shown, in one direction and in both.
    (&[3, 130], &[129, 128, 300]),
];

/// What is larger than a binding of 64 KiB, while no map's rows are.
pub const BEYOND: Shape = (&[20, 33, 0, 9], &[15, 8, 14]);

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for shown in Shown::ALL {
            // Pictures of 128 rows each are slow to compare; two of the shapes have them.
            if matches!(shown, Shown::Padded) && shape.0.len() * shape.1.len() > 6 {
                continue;
            }
            for winners in [true, false] {
                cases.push(Case {
                    op: "map_features",
                    name: format!(
                        "queries={:?},documents={:?},{shown:?},winners={winners}",
                        shape.0, shape.1
                    ),
                    on: anywhere,
                    run: Box::new(move |device| all_types(device, shape, shown, winners)),
                });
            }
        }
    }
    for shown in [Shown::Patches, Shown::Neighbours] {
        cases.push(Case {
            op: "map_features",
            name: format!("larger than one binding, {shown:?}"),
            on: where_bindings_end,
            run: Box::new(move |device| {
                with_small_bindings(device, |small| all_types(small, BEYOND, shown, true))
            }),
        });
    }
    cases
}

fn all_types(
    device: &Device,
    shape: Shape,
    shown: Shown,
    winners: bool,
) -> Result<Outcome, String> {
    each(
        activations(device),
        |element| with_type!(element, T => case::<T>(device, shape, shown, winners)),
    )
}

fn case<T: Float>(
    device: &Device,
    (queries, documents): Shape,
    shown: Shown,
    with_winners: bool,
) -> Result<Outcome, String> {
    let (maps, shapes, layout) = layout(queries, documents);
    let elements: usize = maps.iter().sum();
    // Coarse enough that maxima are tied, and nothing that f16 holds.
    let mut values = Noise::new(elements * 11 + 3).normal(elements, 0.4);
    values
        .iter_mut()
        .for_each(|v| *v = (*v * 16.0).round() / 16.0 + 1e-5);
    let run = |poison, values: &[f32]| -> nearmiss::Result<(Vec<T>, Vec<u32>)> {
        let windows = shown.layout(device, &layout(device)?)?;
        let size = windows.rows() * windows.windows().width();
        let mut rows = Output::<T>::new(device, size, poison)?;
        let mut winners = Output::<u32>::new(device, windows.winners(), poison)?;
        map_features(
            &device.upload(values)?,
            &windows,
            rows.target(),
            with_winners.then(|| winners.target()),
        )?;
        let winners = if with_winners {
            winners.read()?
        } else {
            Vec::new()
        };
        Ok((rows.read()?, winners))
    };
    let (got, winners) = twice(|poison| run(poison, &values))?;
    let (mut want, mut want_winners, mut rest) = (Vec::new(), Vec::new(), &values[..]);
    // A map of which a row is exchanged with another one, and shown.
    let mut target = None;
    let mut first = 0;
    for ((&shape, &count), picture) in shapes.iter().zip(&maps).zip(shown.pictures(&shapes)) {
        let (map, others) = rest.split_at(count);
        rest = others;
        let (rows, won) = reference(map, shape, shown.windows(), picture);
        let shows = picture.height > 0 && picture.width > 0;
        if shape[0] > 1 && count > 0 && shows && map[0] != map[shape[1] as usize] {
            target = Some((first, shape[1] as usize));
        }
        first += count;
        want.extend(rows.into_iter().map(f64::from));
        want_winners.extend(won);
    }
    if with_winners && winners != want_winners {
        return Err(format!("winners are {winners:?}, not {want_winners:?}"));
    }
    let broken = match target {
        Some((map, l_c)) => {
            let mut wrong = values.clone();
            wrong[map..map + 2 * l_c].rotate_left(l_c);
            Some(run(POISONS[0], &wrong).map_err(line)?.0)
        }
        None => None,
    };
    let rounding = rounding(device);
    // Numbers are copied, and zeros are nothing else.
    let stored = |&v: &f64, bytes| match bytes {
        2 if v != 0.0 => rounding.store(v, 0.0, 2),
        _ => 0.0,
    };
    let bound = |bytes| want.iter().map(|v| stored(v, bytes)).collect();
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
