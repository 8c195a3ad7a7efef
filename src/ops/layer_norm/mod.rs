//! `y = (v - mean(v)) / sqrt(var(v) + eps) * weight + bias`, `v = x + residual`, over each row
//!
//! `x` is the f32 residual stream; `residual` is what a sublayer adds to it, in the activation type. The result is
//! the next residual stream in f32 and, where activations are f16, a rounded copy for the next matrix product, written
//! in the same pass. Cost: about 8 operations per element against 10 to 18 bytes: memory bound everywhere.
//! Comes after [`mod@super::embedding`] and every sublayer; before [`mod@super::matmul`].
//!
//! Numerics: mean first, then the mean of squared deviations (never `E[v^2] - mean^2`, which cancels), all in f32.

mod cpu;
mod gpu;
mod reference;

use half::f16;

pub(super) use reference::{Deviations, deviations};
#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::OpSpec;
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "layer_norm",
    formula: "y = (v - mean v) / sqrt(var v + eps) * weight + bias, v = x + residual",
    kernels: &[gpu::LAYER_NORM],
    ptx: gpu::LAYER_NORM.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::LAYER_NORM.wgsl,
    wgsl_variants: || super::in_every_tier(gpu::variants()),
};

/// The parameters of a layer norm.
pub struct Norm<'a> {
    /// `[d]`.
    pub weight: Slice<'a, f32>,
    /// `[d]`; `None` is zero.
    pub bias: Option<Slice<'a, f32>>,
    /// Added to the variance.
    pub eps: f32,
}

/// The arguments after checking.
struct Args<'a, A: Float> {
    x: Slice<'a, f32>,
    residual: Option<Slice<'a, A>>,
    norm: &'a Norm<'a>,
    rows: usize,
    d: usize,
}

/// Normalises the rows of `x + residual`, `[rows, d]`, into `y` and, rounded, into `y_act`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit, [`Error::Unsupported`](crate::Error::Unsupported) on
/// CUDA for rows wider than 1,024.
///
/// ```
/// use nearmiss::{Device, ops::layer_norm::{Norm, layer_norm}};
/// let cpu = Device::cpu();
/// let x = cpu.upload(&[1.0f32, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0])?;
/// let (weight, bias) = (cpu.upload(&[2.0f32; 8])?, cpu.upload(&[0.5f32; 8])?);
/// let norm = Norm { weight: (&weight).into(), bias: Some((&bias).into()), eps: 0.0 };
/// let mut y = cpu.alloc(8)?;
/// layer_norm::<f32>(&x, None, &norm, &mut y, None)?;
/// assert_eq!(y.read()?[..2], [2.5, -1.5]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn layer_norm<'a, A: Float>(
    x: impl Into<Slice<'a, f32>>,
    residual: Option<Slice<'a, A>>,
    norm: &'a Norm<'a>,
    y: impl Into<SliceMut<'a, f32>>,
    y_act: Option<SliceMut<'a, f16>>,
) -> Result<()> {
    let (x, mut y) = (x.into(), y.into());
    let device = y.device();
    let check = SPEC.checks(device);
    let d = norm.weight.len();
    check.width("weight", d)?;
    let rows = check.rows("x", &x, d)?;
    check.holds("y", &y, x.len())?;
    check.holds("weight", &norm.weight, d)?;
    check.optional("residual", &residual, x.len())?;
    check.optional("bias", &norm.bias, d)?;
    check.optional("y_act", &y_act, x.len())?;
    let args = Args {
        x,
        residual,
        norm,
        rows,
        d,
    };
    device.run(
        SPEC.name,
        cost(&args, y_act.is_some()),
        |target| match target {
            Target::Cpu => {
                cpu::layer_norm(&args, y.host(), y_act);
                Ok(())
            }
            Target::Gpu(gpu) => gpu::layer_norm(gpu, &args, y, y_act),
        },
    )
}

/// Two subtractions or additions, a square and its sum, a scale, a weight and a bias per element.
fn cost<A: Float>(args: &Args<'_, A>, act: bool) -> Cost {
    let elements = (args.rows * args.d) as u64;
    let residual = args.residual.map_or(0, |_| size_of::<A>() as u64);
    let act = if act { 2 } else { 0 };
    Cost {
        flop: 8 * elements,
        bytes: elements * (8 + residual + act) + 8 * args.d as u64,
    }
}
