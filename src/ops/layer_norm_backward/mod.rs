//! `dx = (g - mean g - z mean(g z)) rstd`, `d_weight += sum dy z`, `d_bias += sum dy`; `g = dy weight`
//!
//! The gradient of [`mod@super::layer_norm`] with respect to `v = x + residual`, and so to both, and to weight and
//! bias. `z = (v - mean v) rstd` and `rstd` are computed again from what the forward read: that is one read of `x` and
//! `residual`, where keeping `z` would be one write and one read. Gradients of the residual stream are f32; a copy in
//! the activation type is written in the same pass for the product before the norm. Cost: about 16 operations per
//! element against 12 to 18 bytes: memory bound.
//!
//! Numerics: sums over rows (of `dy` and `dy z`) are made in pieces of rows, which a second launch adds in their order.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::OpSpec;
use super::layer_norm::Norm;
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "layer_norm_backward",
    formula: "dx = (g - mean g - z mean(g z)) rstd, g = dy weight; d_weight += sum dy z, d_bias += sum dy",
    kernels: &[gpu::LAYER_NORM_BACKWARD, gpu::SUMS],
    ptx: gpu::LAYER_NORM_BACKWARD.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::LAYER_NORM_BACKWARD.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// The arguments after checking.
struct Args<'a, A: Float> {
    x: Slice<'a, f32>,
    residual: Option<Slice<'a, A>>,
    norm: &'a Norm<'a>,
    dy: Slice<'a, f32>,
    rows: usize,
    d: usize,
}

/// From `dy`, the gradient of the result of [`layer_norm`](super::layer_norm::layer_norm) of `x + residual`, all
/// `[rows, d]`: writes the gradient of the sum to `dx` and, rounded, to `dx_act`, and adds those of weight and bias to
/// `d_weight` and `d_bias` `[d]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit, [`Error::Unsupported`](crate::Error::Unsupported)
/// on GPUs for rows wider than 1,024, [`Error::OutOfMemory`](crate::Error::OutOfMemory) for the sums of pieces of rows.
///
/// ```
/// use nearmiss::{Device, ops::{layer_norm::Norm, layer_norm_backward}};
/// let cpu = Device::cpu();
/// let x = cpu.upload(&[1.0f32, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0])?;
/// let weight = cpu.upload(&[2.0f32; 8])?;
/// let norm = Norm { weight: (&weight).into(), bias: None, eps: 0.0 };
/// let dy = cpu.upload(&[1.0f32, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// let mut dx = cpu.alloc::<f32>(8)?;
/// let (mut d_weight, mut d_bias) = (cpu.upload(&[10.0f32; 8])?, cpu.upload(&[0.0f32; 8])?);
/// layer_norm_backward::<f32>(&x, None, &norm, &dy, &mut dx, None, &mut d_weight, &mut d_bias)?;
/// assert_eq!(dx.read()?[..3], [1.5, 0.0, -0.5]);
/// assert_eq!(d_weight.read()?[..2], [11.0, 10.0]);
/// assert_eq!(d_bias.read()?[..2], [1.0, 0.0]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn layer_norm_backward<'a, A: Float>(
    x: impl Into<Slice<'a, f32>>,
    residual: Option<Slice<'a, A>>,
    norm: &'a Norm<'a>,
    dy: impl Into<Slice<'a, f32>>,
    dx: impl Into<SliceMut<'a, f32>>,
    dx_act: Option<SliceMut<'a, A>>,
    d_weight: impl Into<SliceMut<'a, f32>>,
    d_bias: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let (x, dy, mut dx, mut dx_act) = (x.into(), dy.into(), dx.into(), dx_act);
    let (mut d_weight, mut d_bias) = (d_weight.into(), d_bias.into());
    let device = dx.device();
    let check = SPEC.checks(device);
    let d = norm.weight.len();
    check.width("weight", d)?;
    let rows = check.rows("x", &x, d)?;
    check.optional("residual", &residual, x.len())?;
    check.holds("weight", &norm.weight, d)?;
    check.holds("dy", &dy, x.len())?;
    check.holds("dx", &dx, x.len())?;
    check.optional("dx_act", &dx_act, x.len())?;
    check.holds("d_weight", &d_weight, d)?;
    check.holds("d_bias", &d_bias, d)?;
    let args = Args {
        x,
        residual,
        norm,
        dy,
        rows,
        d,
    };
    device.run(
        SPEC.name,
        cost(&args, dx_act.is_some()),
        |target| match target {
            Target::Cpu => {
                let dx_act = dx_act.as_mut().map(|act| act.host());
                cpu::layer_norm_backward(&args, dx.host(), dx_act, d_weight.host(), d_bias.host());
                Ok(())
            }
            Target::Gpu(gpu) => {
                gpu::layer_norm_backward(gpu, &args, dx, dx_act, [d_weight, d_bias])
            }
        },
    )
}

/// Six operations for `z`, two for `g` and its sum, four for the sums with `z`, one for that of `dy`, four for `dx`.
fn cost<A: Float>(args: &Args<'_, A>, act: bool) -> Cost {
    let elements = (args.rows * args.d) as u64;
    let size = size_of::<A>() as u64;
    let residual = args.residual.map_or(0, |_| size);
    let act = if act { size } else { 0 };
    Cost {
        flop: 16 * elements,
        bytes: elements * (12 + residual + act) + 20 * args.d as u64,
    }
}
