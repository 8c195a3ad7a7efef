//! Packed pictures: which pixels are beside each other.

use std::ops::Range;

use super::{ALIGN, PackedTexts, rows_per_binding};
use crate::device::{Buffer, Device, Gpu, Slice};
use crate::error::{Error, Result};

/// Packed pictures: pixels of `n` pictures one behind the other, each line by line; a pixel is a row of a matrix.
pub struct Pictures {
    /// Lines, and pixels of a line.
    sizes: Vec<[u32; 2]>,
    /// Which rows belong to which picture.
    pixels: PackedTexts,
    /// `[r]`: of each pixel 16 times the width of its picture, and which neighbours are there (see [`ABOVE`]).
    neighbours: Buffer<u32>,
    /// `[r / 4, 2]`: of each square of four pixels the first one and the width of the picture; `None` if a side is odd.
    squares: Option<Buffer<u32>>,
}

/// There is a pixel above; twice this one below, four times this one to the left, eight times this one to the right.
const ABOVE: u32 = 1;

/// Widths are below this, so that there is room for the neighbours.
const WIDTHS: u32 = 1 << 28;

impl Pictures {
    /// Of these sizes, lines and pixels of a line, on `device`. Empty pictures are allowed.
    ///
    /// # Errors
    /// [`Error::Shape`] for a width of 2^28 or 2^32 pixels in all, or more; [`Error::OutOfMemory`] and device failures.
    pub fn new(device: &Device, sizes: &[[u32; 2]]) -> Result<Self> {
        let wrong = |what, expected: &str, got| Err(Error::shape("pictures", what, expected, got));
        let mut offsets = vec![0u32];
        let mut end = 0u64;
        for &[lines, width] in sizes {
            if width >= WIDTHS {
                return wrong("width", "below 2^28", u64::from(width));
            }
            end = end.saturating_add(u64::from(lines) * u64::from(width));
            let Ok(end) = u32::try_from(end) else {
                return wrong("pixels", "below 2^32", end);
            };
            offsets.push(end);
        }
        let mut neighbours = Vec::with_capacity(end as usize);
        let even = sizes.as_flattened().iter().all(|side| side % 2 == 0);
        let mut squares = Vec::with_capacity(if even { end as usize / 2 } else { 0 });
        for (&[lines, width], &first) in sizes.iter().zip(&offsets) {
            for y in 0..lines {
                for x in 0..width {
                    let there = [y > 0, y + 1 < lines, x > 0, x + 1 < width];
                    let bits = there
                        .iter()
                        .rev()
                        .fold(0, |bits, &b| bits << 1 | u32::from(b));
                    neighbours.push(width << 4 | bits);
                    if even && y % 2 == 0 && x % 2 == 0 {
                        squares.extend([first + y * width + x, width]);
                    }
                }
            }
        }
        Ok(Pictures {
            sizes: sizes.to_vec(),
            pixels: PackedTexts::new(device, offsets)?,
            neighbours: device.upload(&neighbours)?,
            squares: even.then(|| device.upload(&squares)).transpose()?,
        })
    }

    /// What is left of them after pooling of 2 x 2 pixels.
    ///
    /// # Errors
    /// [`Error::Shape`] if a side is odd; [`Error::OutOfMemory`] and device failures.
    pub fn halved(&self) -> Result<Self> {
        self.squares("pictures")?;
        let halves: Vec<_> = self.sizes.iter().map(|size| size.map(|s| s / 2)).collect();
        Pictures::new(self.pixels.device(), &halves)
    }

    /// Lines and pixels of a line of each.
    pub fn sizes(&self) -> &[[u32; 2]] {
        &self.sizes
    }

    /// Which rows belong to which picture.
    pub fn pixels(&self) -> &PackedTexts {
        &self.pixels
    }

    /// Neighbours of each pixel where kernels see them.
    pub(super) fn neighbours(&self) -> Slice<'_, u32> {
        self.neighbours.as_slice()
    }

    /// Squares of four pixels where kernels see them, if all sides are even.
    pub(super) fn squares(&self, op: &'static str) -> Result<Slice<'_, u32>> {
        let Some(squares) = &self.squares else {
            let odd = self
                .sizes
                .iter()
                .find(|size| size.iter().any(|s| s % 2 == 1));
            let [lines, width] = odd.copied().unwrap_or_default();
            let got = format!("{lines} x {width}");
            return Err(Error::shape(op, "pictures", "even sides", got));
        };
        Ok(squares.as_slice())
    }

    /// Squares that a launch takes at a time where a pixel has `row_bytes` bytes, and with them all rows among which theirs
    /// are, so many that one binding holds them.
    pub(super) fn square_turns(
        &self,
        gpu: Gpu<'_>,
        row_bytes: usize,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let at_once = match gpu {
            Gpu::Cuda(_) => usize::MAX,
            Gpu::Wgpu(_) => {
                let rows = rows_per_binding(gpu, row_bytes);
                let squares = rows.saturating_sub(2 * self.two_lines() + ALIGN) / 4;
                (squares / ALIGN * ALIGN).max(ALIGN)
            }
        };
        self.turns(at_once)
    }

    /// The same with at most `at_once` squares. Rows begin at a multiple of [`ALIGN`].
    fn turns(&self, at_once: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (r, beside) = (self.pixels.tokens(), self.two_lines());
        let n = r / 4;
        // Row 4 s is in the two lines of square s, so that its rows are no farther than two lines away.
        (0..n).step_by(at_once).map(move |first| {
            let end = first.saturating_add(at_once).min(n);
            let start = (4 * first).saturating_sub(beside) / ALIGN * ALIGN;
            (first..end, start..(4 * end + beside).min(r))
        })
    }

    /// Pixels of two lines of the widest picture.
    fn two_lines(&self) -> usize {
        let widths = self.sizes.iter().filter(|size| size[0] > 0);
        2 * widths.map(|size| size[1]).max().unwrap_or(0) as usize
    }
}

/// The row beside row `r` in the direction of `tap`, line by line from above left, 4 being `r` itself; `None` if it is
/// outside of the picture.
pub(super) fn neighbour(r: usize, neighbours: u32, tap: usize) -> Option<usize> {
    let (width, [dy, dx]) = (neighbours as usize >> 4, [tap / 3, tap % 3]);
    let there = |bit: u32| neighbours & bit != 0;
    let vertical = [there(ABOVE), true, there(2 * ABOVE)][dy];
    let horizontal = [there(4 * ABOVE), true, there(8 * ABOVE)][dx];
    (vertical && horizontal).then(|| r + dy * width + dx - width - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_within_the_picture() {
        let cpu = Device::cpu();
        let sizes = [[2, 3], [0, 5], [1, 1], [4, 2]];
        let pictures = Pictures::new(&cpu, &sizes).unwrap();
        assert_eq!(pictures.pixels().offsets(), [0, 6, 6, 7, 15]);
        let table = pictures.neighbours().read().unwrap();
        for (&[lines, width], &first) in sizes.iter().zip(pictures.pixels().offsets()) {
            for (y, x, tap) in (0..lines)
                .flat_map(|y| (0..width).flat_map(move |x| (0..9).map(move |tap| (y, x, tap))))
            {
                let r = (first + y * width + x) as usize;
                let [to_y, to_x] = [y + tap / 3, x + tap % 3];
                let inside = (1..=lines).contains(&to_y) && (1..=width).contains(&to_x);
                let want = inside.then(|| (first + (to_y - 1) * width + to_x - 1) as usize);
                assert_eq!(neighbour(r, table[r], tap as usize), want, "{y} {x} {tap}");
            }
        }
    }

    #[test]
    fn squares_tile_pictures_with_even_sides() {
        let cpu = Device::cpu();
        let pictures = Pictures::new(&cpu, &[[2, 4], [4, 2]]).unwrap();
        let squares = pictures.squares("test").unwrap().read().unwrap();
        assert_eq!(squares, [0, 4, 2, 4, 8, 2, 12, 2]);
        let halves = pictures.halved().unwrap();
        assert_eq!(halves.sizes(), [[1, 2], [2, 1]]);
        let error = halves.halved().err().unwrap();
        assert_eq!(
            error.to_string(),
            "shape mismatch in pictures: pictures: expected even sides, got 1 x 2"
        );
    }

    #[test]
    fn turns_have_all_rows_of_their_squares() {
        let cpu = Device::cpu();
        let sizes = [[20, 4], [0, 90], [2, 64], [64, 2], [18, 20]];
        let pictures = Pictures::new(&cpu, &sizes).unwrap();
        let squares = crate::ops::max_pool::squares(&sizes);
        for at_once in [1, 7, 128, usize::MAX] {
            let mut next = 0;
            for (these, rows) in pictures.turns(at_once) {
                assert_eq!(these.start, next);
                assert!(these.len() <= at_once && rows.start.is_multiple_of(ALIGN));
                assert!(rows.len() <= 4 * these.len() + 2 * 2 * 64 + ALIGN);
                let mut all = squares[these.clone()].iter().flatten();
                assert!(all.all(|row| rows.contains(row)));
                next = these.end;
            }
            assert_eq!(next, squares.len());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        for (size, why) in [
            ([1, 1 << 28], "width: expected below 2^28, got 268435456"),
            (
                [1 << 16, 1 << 16],
                "pixels: expected below 2^32, got 4294967296",
            ),
        ] {
            let error = Pictures::new(&cpu, &[size]).err().unwrap();
            assert!(error.to_string().ends_with(why), "{error}");
        }
    }
}
