//! The canvas of `f3`, with lines that are all the same folded into one that counts as often.
//!
//! Beyond the map the picture is zero. After the first convolution what the map reaches ends one line behind it; the lines
//! after that are all alike, up to the border, since a zero border is like the zeros inside. After pooling, the second
//! convolution reaches one line further, and now the border matters: what it takes for zeros there is something else than
//! the constant inside. So of the 64 lines between the poolings there are: those that the map reaches, rounded up to whole
//! pairs; pairs in the middle, all alike; and the last pair, which the border reaches. The middle is computed once, with the
//! number of its pairs as its weight. Columns likewise.

/// Lines of the canvas.
const SIDE: u32 = 128;

/// One direction of a folded canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// Lines of the canvas that are computed, a multiple of 4.
    pub lines: u32,
    /// The first line that counts more than once, and how often it and the three after it count.
    middle: u32,
    weight: u32,
}

impl Axis {
    /// For a picture that has something in its first `live` lines.
    pub fn new(live: u32) -> Self {
        // After the first convolution and pooling, then after the second convolution, in whole pairs.
        let reached = (live + 1).div_ceil(2);
        let pairs = (reached + 1).div_ceil(2);
        let folded = 4 * pairs + 8;
        if folded >= SIDE {
            return Axis {
                lines: SIDE,
                middle: SIDE,
                weight: 1,
            };
        }
        Axis {
            lines: folded,
            middle: 4 * pairs,
            weight: SIDE / 4 - pairs - 1,
        }
    }

    /// How often each line counts where every `2^halvings` are one.
    pub fn weights(self, halvings: u32) -> impl Iterator<Item = f32> {
        let middle = self.middle..self.middle + 4;
        (0..self.lines >> halvings).map(move |line| {
            let line = line << halvings;
            if middle.contains(&line) {
                self.weight as f32
            } else {
                1.0
            }
        })
    }
}

/// Pixels that are computed for a map of this shape.
pub(in crate::verifier) fn pixels(shape: [usize; 2]) -> usize {
    let [lines, columns] = shape.map(|length| Axis::new(length.min(SIDE as usize) as u32).lines);
    (lines * columns) as usize
}

/// How often each pixel counts on canvases that were halved so often, one behind the other.
pub(super) fn weights(canvases: &[[Axis; 2]], halvings: u32) -> Vec<f32> {
    let mut all = Vec::new();
    for [down, across] in canvases {
        let columns: Vec<f32> = across.weights(halvings).collect();
        for line in down.weights(halvings) {
            all.extend(columns.iter().map(|column| line * column));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_counted() {
        for live in 0..=SIDE {
            let axis = Axis::new(live);
            assert_eq!(axis.lines % 4, 0);
            for halvings in 0..3 {
                let sum: f32 = axis.weights(halvings).sum();
                assert_eq!(sum, (SIDE >> halvings) as f32, "{live} {halvings}");
            }
            // What the map reaches is computed line by line, and the middle is beyond it.
            let reached = (live + 1).div_ceil(2) + 1;
            assert!(axis.weight == 1 || axis.middle >= 2 * reached);
        }
        assert_eq!(Axis::new(20).lines, 32);
        assert_eq!(Axis::new(120).lines, SIDE);
        let [narrow, whole] = [Axis::new(1), Axis::new(128)];
        let weights = weights(&[[narrow, whole], [narrow, narrow]], 2);
        assert_eq!(weights.iter().sum::<f32>(), 2.0 * 32.0 * 32.0);
    }
}
