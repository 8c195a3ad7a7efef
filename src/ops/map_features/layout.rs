//! Which windows are cut from which map, and where their rows go.

use crate::device::{Buffer, Device, Slice};
use crate::error::{Error, Result};
use crate::ops::token_pairs::Packed;
use crate::ops::{Checks, MapLayout, PackedTexts};

/// Rows and columns of a map that windows show, at most: a map is cut there, its maxima are not.
pub const LARGEST: u32 = 128;

/// What the windows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Squares of 8 x 8 side by side, and in front of those of each map one row of zeros, the place of `[CLS]`.
    Patches,
    /// The 3 x 3 around every pixel of a picture; outside there are zeros.
    Neighbours,
}

impl Windows {
    /// As variants of kernels call them.
    pub(in crate::ops) fn name(self) -> &'static str {
        match self {
            Windows::Patches => "patches",
            Windows::Neighbours => "neighbours",
        }
    }

    /// Both.
    pub const ALL: [Windows; 2] = [Windows::Patches, Windows::Neighbours];

    /// Numbers of a row: three channels of a window, and of neighbours five zeros besides, since `matmul` wants multiples
    /// of 8.
    pub fn width(self) -> usize {
        match self {
            Windows::Patches => 192,
            Windows::Neighbours => 32,
        }
    }

    /// Pixels across a window, and down.
    pub(in crate::ops) fn side(self) -> usize {
        match self {
            Windows::Patches => 8,
            Windows::Neighbours => 3,
        }
    }

    /// Pixels between neighbouring windows.
    pub(in crate::ops) fn stride(self) -> usize {
        match self {
            Windows::Patches => 8,
            Windows::Neighbours => 1,
        }
    }

    /// How far a window begins above and left of its place.
    pub(in crate::ops) fn before(self) -> usize {
        match self {
            Windows::Patches => 0,
            Windows::Neighbours => 1,
        }
    }

    /// Rows of zeros in front of the windows of a map.
    pub(in crate::ops) fn zero_rows(self) -> usize {
        match self {
            Windows::Patches => 1,
            Windows::Neighbours => 0,
        }
    }
}

/// The part of the plane of a map that windows show; what lies beyond is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Rows, at most [`LARGEST`].
    pub height: u32,
    /// Columns, at most [`LARGEST`].
    pub width: u32,
    /// How far column maxima reach down and row maxima reach across, at most [`LARGEST`] each: as far as the map, unless
    /// the maxima were spread over the padding of a batch.
    pub extent: [u32; 2],
}

impl Picture {
    /// As much as can be shown of a map of `shape` and no more.
    pub fn of(shape: [u32; 2]) -> Self {
        let [height, width] = shape.map(|length| length.min(LARGEST));
        Picture {
            height,
            width,
            extent: [height, width],
        }
    }
}

/// The windows of one map.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Cut {
    /// Tokens of query and document.
    pub shape: [usize; 2],
    /// What is shown of them.
    pub picture: [usize; 2],
    /// See [`Picture::extent`].
    pub extent: [usize; 2],
    /// Windows down and across.
    pub grid: [usize; 2],
}

impl Cut {
    /// Of a map of `shape`; patches show all of `Picture::of(shape)`, whatever `picture` is.
    pub fn new(windows: Windows, shape: [u32; 2], picture: Picture) -> Self {
        let whole = Picture::of(shape);
        let (picture, grid) = match windows {
            Windows::Patches => (whole, [whole.height.div_ceil(8), whole.width.div_ceil(8)]),
            Windows::Neighbours => (picture, [picture.height, picture.width]),
        };
        // Without rows there is nothing across either.
        let grid = if grid.contains(&0) { [0; 2] } else { grid };
        let sizes = |sizes: [u32; 2]| sizes.map(|n| n as usize);
        Cut {
            shape: sizes(shape),
            picture: sizes([picture.height, picture.width]),
            extent: sizes(picture.extent),
            grid: sizes(grid),
        }
    }

    /// Rows of its windows, those of zeros among them.
    pub fn rows(&self, windows: Windows) -> usize {
        windows.zero_rows() + self.grid[0] * self.grid[1]
    }

    /// Rows and columns of the map of which there are winners.
    pub fn winners(&self) -> [usize; 2] {
        self.shape.map(|length| length.min(LARGEST as usize))
    }

    /// Which channels show anything at row `i` and column `j` of the plane: the element, the maximum of its row, that of
    /// its column.
    pub fn shows(&self, i: usize, j: usize) -> [bool; 3] {
        let ([l_q, l_c], [down, across]) = (self.shape, self.extent);
        if i >= self.picture[0] || j >= self.picture[1] {
            return [false; 3];
        }
        [
            i < l_q && j < l_c,
            i < l_q && j < across && l_c > 0,
            i < down && j < l_c && l_q > 0,
        ]
    }
}

/// Which windows are cut from the maps of a [`MapLayout`], and where their rows go: map after map, and of each map from
/// the top left, row-major.
pub struct WindowLayout {
    windows: Windows,
    texts: PackedTexts,
    cuts: Vec<Cut>,
    grids: Vec<[u32; 2]>,
    /// `[p + 1]`: where the winners of every map begin, and where the last ones end.
    winners: Vec<u32>,
    /// `[p + 1]`: the same of the maps.
    maps: Vec<u32>,
    /// `[p, 8]`: where the map begins, its rows and columns, the first row of windows, windows down and across, how far the
    /// maxima reach (down in the lower half, across in the upper), the first winner.
    on_device: Buffer<u32>,
}

impl WindowLayout {
    /// Patches of the maps of `maps`: of each one row of zeros and as many windows as cover what is shown of it, none of an
    /// empty map.
    ///
    /// # Errors
    /// [`Error::Invalid`] for 2^32 rows or more, [`Error::OutOfMemory`] and device failures.
    pub fn patches(device: &Device, maps: &MapLayout) -> Result<Self> {
        let cut = |&shape: &[u32; 2]| Cut::new(Windows::Patches, shape, Picture::of(shape));
        let cuts = maps.shapes().iter().map(cut).collect();
        WindowLayout::new(device, Windows::Patches, maps, cuts)
    }

    /// The neighbourhoods of the pixels of `pictures`, one picture a map.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of pictures than maps, or one of more than 128 pixels down or across;
    /// [`Error::Invalid`] for 2^32 rows or more, [`Error::OutOfMemory`] and device failures.
    pub fn neighbours(device: &Device, maps: &MapLayout, pictures: &[Picture]) -> Result<Self> {
        let wrong = |what, expected: String, got| Err(Error::shape("windows", what, expected, got));
        let count = maps.shapes().len();
        if pictures.len() != count {
            return wrong("pictures", count.to_string(), pictures.len());
        }
        for picture in pictures {
            let [down, across] = picture.extent;
            let largest = (picture.height.max(picture.width)).max(down.max(across));
            if largest > LARGEST {
                return wrong(
                    "pictures",
                    format!("at most {LARGEST} pixels"),
                    largest as usize,
                );
            }
        }
        let cut = |(&shape, &picture)| Cut::new(Windows::Neighbours, shape, picture);
        let cuts = maps.shapes().iter().zip(pictures).map(cut).collect();
        WindowLayout::new(device, Windows::Neighbours, maps, cuts)
    }

    fn new(device: &Device, windows: Windows, maps: &MapLayout, cuts: Vec<Cut>) -> Result<Self> {
        let mut table = Vec::with_capacity(8 * cuts.len());
        let (mut rows, mut winners) = (vec![0u32], vec![0u32]);
        let count = cuts.len();
        let number = |n: u64| {
            u32::try_from(n).map_err(|_| {
                Error::Invalid(format!(
                    "windows of {count} maps take {n} rows or more; fewer than 2^32 fit, score fewer pairs at once"
                ))
            })
        };
        let next = |offsets: &[u32], count: usize| {
            number(u64::from(offsets[offsets.len() - 1]) + count as u64)
        };
        for ((p, cut), &map) in cuts.iter().enumerate().zip(maps.offsets()) {
            let sizes = |sizes: [usize; 2]| sizes.map(|n| n as u32);
            let ([l_q, l_c], [down, across]) = (sizes(cut.shape), sizes(cut.grid));
            let extent = sizes(cut.extent);
            table.extend([map, l_q, l_c, rows[p], down, across]);
            table.extend([extent[0] | extent[1] << 16, winners[p]]);
            rows.push(next(&rows, cut.rows(windows))?);
            winners.push(next(&winners, cut.winners().iter().sum())?);
        }
        Ok(WindowLayout {
            windows,
            texts: PackedTexts::new(device, rows)?,
            grids: cuts.iter().map(|cut| cut.grid.map(|n| n as u32)).collect(),
            cuts,
            winners,
            maps: maps.offsets().to_vec(),
            on_device: device.upload(&table)?,
        })
    }

    /// What the windows are.
    pub fn windows(&self) -> Windows {
        self.windows
    }

    /// The rows of every map, those of zeros among them, as the tokens of a text.
    pub fn texts(&self) -> &PackedTexts {
        &self.texts
    }

    /// Rows of all maps.
    pub fn rows(&self) -> usize {
        self.texts.tokens()
    }

    /// Windows down and across of every map, without the row of zeros; `[0, 0]` where there are none.
    pub fn grids(&self) -> &[[u32; 2]] {
        &self.grids
    }

    /// How many winners there are: of every map one for each of its first 128 rows, then one for each of its first 128
    /// columns.
    pub fn winners(&self) -> usize {
        *self.winners.last().expect("never empty") as usize
    }

    /// How many maps have rows or columns that no window shows, since they are larger than 128 x 128.
    pub fn cut(&self) -> usize {
        let larger = |cut: &&Cut| cut.shape.iter().any(|&length| length > LARGEST as usize);
        self.cuts.iter().filter(larger).count()
    }

    /// The windows of every map.
    pub(in crate::ops) fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// Elements of all maps.
    pub(in crate::ops) fn elements(&self) -> usize {
        *self.maps.last().expect("never empty") as usize
    }

    /// Maps, rows of elements of `size` bytes, and winners, as the cutting of their buffers needs them.
    pub(in crate::ops) fn packed(&self, size: usize) -> [Packed<'_>; 3] {
        [
            (&self.maps[..], size_of::<f32>()),
            (self.texts.offsets(), self.windows.width() * size),
            (&self.winners, size_of::<u32>()),
        ]
        .map(|(offsets, unit)| Packed { offsets, unit })
    }

    /// The table where kernels see it, if that is on the device of `check`.
    pub(in crate::ops) fn on_device(&self, check: &Checks<'_>) -> Result<Slice<'_, u32>> {
        let table = self.on_device.as_slice();
        check.holds("layout", &table, 8 * self.cuts.len())?;
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::PairList;

    fn maps(cpu: &Device) -> MapLayout {
        let packing = |lengths: &[u32]| {
            let mut offsets = vec![0];
            offsets.extend(lengths.iter().scan(0, |end, l| {
                *end += l;
                Some(*end)
            }));
            PackedTexts::new(cpu, offsets).unwrap()
        };
        let (queries, documents) = (packing(&[9, 0, 130]), packing(&[16, 3, 200]));
        let pairs = PairList::new(cpu, vec![[0, 0], [1, 1], [2, 2], [0, 2]]).unwrap();
        MapLayout::new(cpu, &queries, &documents, &pairs).unwrap()
    }

    #[test]
    fn patches_cover_what_is_shown() {
        let cpu = Device::cpu();
        let maps = maps(&cpu);
        assert_eq!(maps.shapes(), [[9, 16], [0, 3], [130, 200], [9, 200]]);
        let layout = WindowLayout::patches(&cpu, &maps).unwrap();
        assert_eq!(layout.grids(), [[2, 2], [0, 0], [16, 16], [2, 16]]);
        assert_eq!(layout.texts().offsets(), [0, 5, 6, 263, 296]);
        assert_eq!((layout.rows(), layout.cut()), (296, 2));
        assert_eq!(layout.winners(), 25 + 3 + 256 + 137);
    }

    #[test]
    fn pictures_are_as_many_as_maps_and_no_larger_than_128() {
        let cpu = Device::cpu();
        let maps = maps(&cpu);
        let mut pictures: Vec<Picture> = maps.shapes().iter().map(|&s| Picture::of(s)).collect();
        pictures[0].extent = [9, 20];
        pictures[1].height = 4;
        let layout = WindowLayout::neighbours(&cpu, &maps, &pictures).unwrap();
        assert_eq!(layout.grids(), [[9, 16], [4, 3], [128, 128], [9, 128]]);
        assert_eq!(layout.rows(), 144 + 12 + 16_384 + 1152);
        let error = WindowLayout::neighbours(&cpu, &maps, &pictures[1..]).err();
        assert_eq!(
            error.unwrap().to_string(),
            "shape mismatch in windows: pictures: expected 4, got 3"
        );
        pictures[3].extent[0] = 129;
        let error = WindowLayout::neighbours(&cpu, &maps, &pictures).err();
        assert_eq!(
            error.unwrap().to_string(),
            "shape mismatch in windows: pictures: expected at most 128 pixels, got 129"
        );
    }
}
