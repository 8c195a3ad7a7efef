//! `out[r, tap c + i] = x[the neighbour of pixel r in the direction of tap, i]`, 0 outside of the picture
//!
//! The 3 x 3 neighbourhood of every pixel as one row, line by line from above left: a product with a matrix
//! `[channels, 9 c]` ([`mod@super::matmul`]) is then a convolution with zeros around each picture. Pictures of all sizes
//! are packed. Values are copied, bit for bit. Cost: one read of `x` and nine times its bytes written: memory bound
//! everywhere.
//! Comes before [`mod@super::matmul`] and, for the gradient of the matrix, [`mod@super::matmul_tn`]; its transpose is
//! [`mod@super::fold`].

use rayon::prelude::*;

use super::pictures::neighbour;
use super::{OpSpec, Pictures, grid, in_every_tier, rows_per_binding};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Cost, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "unfold",
    formula: "out[r] = the 3 x 3 neighbourhood of pixel r, 0 outside of its picture",
    kernels: &[UNFOLD],
    ptx: UNFOLD.ptx,
    ptx_variants: || vec![Variant::new()],
    wgsl: UNFOLD.wgsl,
    wgsl_variants: || in_every_tier([Variant::new()]),
};

const UNFOLD: Kernel = Kernel {
    entry: "unfold",
    params: &[
        Param::read("x"),
        Param::read("neighbours"),
        Param::write("out"),
        Param::u32("n").ptx(),
        Param::u32("units"),
        Param::u32("width").ptx(),
        Param::u32("rows").ptx(),
        Param::u32("first_row").wgsl(),
        Param::u32("end_row").wgsl(),
    ],
    ptx: Some(Source {
        file: "unfold.ptx",
        text: include_str!("../../kernels/unfold.ptx"),
    }),
    wgsl: Some(Source {
        file: "unfold.wgsl",
        text: include_str!("../../shaders/unfold.wgsl"),
    }),
};

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

/// Bytes that a thread of it handles at a time.
const UNIT: usize = 16;

/// How rows share a block of a PTX kernel: threads of a row of so many units, and rows of a block.
pub(super) fn shared_block(units: usize) -> [usize; 2] {
    let width = units.min(BLOCK);
    [width, BLOCK / width]
}

/// Pixels of a neighbourhood.
pub const TAPS: usize = 9;

/// Unfolds the pixels `x` `[r, c]` of `pictures` into `out` `[r, 9 c]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`c` a multiple of 8).
///
/// ```
/// use nearmiss::{Device, ops::{Pictures, unfold}};
/// let cpu = Device::cpu();
/// let pictures = Pictures::new(&cpu, &[[1, 2]])?; // two pixels beside each other
/// let x = cpu.upload(&[[1.0f32; 8], [2.0; 8]].concat())?;
/// let mut out = cpu.alloc::<f32>(2 * 72)?;
/// unfold(&x, 8, &pictures, &mut out)?;
/// let taps = |row: usize| out.slice(72 * row..72 * (row + 1)).read();
/// let values = |taps: Vec<f32>| taps.into_iter().step_by(8).collect::<Vec<_>>();
/// assert_eq!(values(taps(0)?), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0]);
/// assert_eq!(values(taps(1)?), [0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn unfold<'a, T: Float>(
    x: impl Into<Slice<'a, T>>,
    c: usize,
    pictures: &Pictures,
    out: impl Into<SliceMut<'a, T>>,
) -> Result<()> {
    let (x, mut out) = (x.into(), out.into());
    let device = out.device();
    let check = SPEC.checks(device);
    check.width("c", c)?;
    let r = pictures.pixels().tokens();
    check.holds("x", &x, r * c)?;
    let neighbours = pictures.neighbours();
    check.holds("pictures", &neighbours, r)?;
    check.holds("out", &out, r * TAPS * c)?;
    let cost = Cost {
        flop: 0,
        bytes: ((1 + TAPS) * r * c * size_of::<T>() + 4 * r) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu(x.host(), c, neighbours.host(), out.host());
            Ok(())
        }
        Target::Gpu(on) => gpu(on, x, c, neighbours, out),
    })
}

/// The definition, in loops; result `[r, 9 c]`. `sizes` are lines and pixels of a line of each picture.
#[doc(hidden)]
pub fn reference<T: Copy + Default>(x: &[T], c: usize, sizes: &[[u32; 2]]) -> Vec<T> {
    let mut out = Vec::with_capacity(x.len() * TAPS);
    let mut first = 0;
    for &[lines, width] in sizes {
        let [lines, width] = [lines, width].map(|side| side as isize);
        for y in 0..lines {
            for x_at in 0..width {
                for tap in 0..TAPS as isize {
                    let [y, x_at] = [y + tap / 3 - 1, x_at + tap % 3 - 1];
                    if (0..lines).contains(&y) && (0..width).contains(&x_at) {
                        let row = first + (y * width + x_at) as usize;
                        out.extend_from_slice(&x[row * c..][..c]);
                    } else {
                        out.extend((0..c).map(|_| T::default()));
                    }
                }
            }
        }
        first += (lines * width) as usize;
    }
    out
}

fn cpu<T: Float>(x: &[T], c: usize, neighbours: &[u32], out: &mut [T]) {
    out.par_chunks_mut(TAPS * c)
        .zip(neighbours)
        .enumerate()
        .with_min_len(16)
        .for_each(|(r, (out, &neighbours))| {
            for (tap, out) in out.chunks_exact_mut(c).enumerate() {
                match neighbour(r, neighbours, tap) {
                    Some(row) => out.copy_from_slice(&x[row * c..][..c]),
                    None => out.fill(T::from_f32(0.0)),
                }
            }
        });
}

/// Rows of the result beyond one binding go in turns.
fn gpu<T: Float>(
    gpu: Gpu<'_>,
    x: Slice<'_, T>,
    c: usize,
    neighbours: Slice<'_, u32>,
    mut out: SliceMut<'_, T>,
) -> Result<()> {
    let n = neighbours.len();
    let units = c * size_of::<T>() / UNIT;
    let [width, rows] = shared_block(units);
    let at_once = match gpu {
        Gpu::Cuda(_) => n.max(1),
        Gpu::Wgpu(_) => rows_per_binding(gpu, TAPS * c * size_of::<T>()),
    };
    for first in (0..n).step_by(at_once) {
        let end = (first + at_once).min(n);
        gpu.call(&Call {
            kernel: &UNFOLD,
            variant: Variant::new(),
            args: &[
                x.into(),
                neighbours.into(),
                (&mut out.slice_mut(first * TAPS * c..end * TAPS * c)).into(),
                n.into(),
                units.into(),
                width.into(),
                rows.into(),
                first.into(),
                end.into(),
            ],
            geometry: Geometry {
                groups: grid(((end - first) * TAPS * units).div_ceil(64)),
                grid: [n.div_ceil(rows) as u32, 1, 1],
                threads: (width * rows) as u32,
                shared_bytes: 0,
            },
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        let sizes = [[5, 3], [0, 4], [1, 1], [1, 6], [40, 2]];
        let pictures = Pictures::new(&cpu, &sizes).unwrap();
        let x: Vec<f32> = (0..102 * 8).map(|i| i as f32 + 1.0).collect();
        let mut out = cpu.upload(&vec![f32::NAN; 102 * 72]).unwrap();
        unfold(&cpu.upload(&x).unwrap(), 8, &pictures, &mut out).unwrap();
        assert_eq!(out.read().unwrap(), reference(&x, 8, &sizes));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = Device::cpu();
        let pictures = Pictures::new(&cpu, &[[1, 2]]).unwrap();
        let x = cpu.upload(&[0f32; 16]).unwrap();
        let mut out = cpu.alloc::<f32>(72).unwrap();
        let error = unfold(&x, 8, &pictures, &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in unfold: out: expected 144, got 72"
        );
    }
}
