//! `f3`: a small network of convolutions over a similarity map.
//!
//! The map, its row maxima and its column maxima are a picture of three channels on a canvas of 128 x 128:
//!
//! ```text
//! conv 3 -> 128, 3 x 3 -> batch norm -> ReLU -> max pool 2      64 x 64
//! conv 128 -> 256, 3 x 3 -> batch norm -> ReLU -> max pool 2    32 x 32
//! mean over the canvas -> linear 256 -> 128 -> ReLU -> dropout -> linear 128 -> 1 -> tanh
//! ```
//!
//! Texts of 15 to 40 tokens leave nine tenths of the canvas empty, and there every line and every column is like the next
//! one. So the canvas is not computed as it is: equal lines are computed once and counted as often as they occur
//! ([`canvas`]), in statistics and in the mean. All numbers are those of the whole canvas, and so are all gradients.

pub(super) mod backward;
pub(super) mod canvas;
pub(super) mod forward;
pub(super) mod weights;

/// Columns of a pixel's neighbourhood: 27 numbers, and zeros up to a multiple of 8.
const NEIGHBOURS: usize = 32;

/// Pixels of a neighbourhood.
const TAPS: usize = 9;

/// Added to the variance in batch norms.
const EPS: f32 = 1e-5;

/// Share of a running statistic that a step replaces.
const MOMENTUM: f64 = 0.1;
