//! `c = (a w) * gelu'(u) + residual`, the factor and the residual optional
//!
//! The backward of the linear layer ([`mod@super::matmul`]) with respect to what it multiplies: `a` `[m, n]` is the gradient
//! of its result, `w` `[n, k]` its weights as they are stored, `c` `[m, k]` the gradient of its input. Where that input
//! came from GELU, `u` is what GELU took ([`matmul_saving`](super::matmul::matmul_saving)) and `c` the gradient of `u`;
//! where it is the residual stream, the gradient that passes the layer by is added. Products are accumulated in f32
//! whatever the element types, and the epilogue runs while the result is in registers (in cache on the CPU).
//!
//! Cost: `2 m n k` FLOP against `m n + n k + m k` elements. `gelu'(x) = Phi(x) + x phi(x)`, with the normal distribution
//! `Phi(x) = (1 + erf(x / sqrt 2)) / 2` and its density `phi(x) = exp(-x^2 / 2) / sqrt(2 pi)`.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::OpSpec;
use super::matmul::{host_operands, takes_operands};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "matmul_nn",
    formula: "c = (a w) gelu'(u) + residual (gelu', residual optional)",
    kernels: &[gpu::MATMUL_NN],
    ptx: gpu::MATMUL_NN.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::MATMUL_NN.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// What happens to the product before it is stored, in this order.
#[derive(Clone, Copy)]
pub struct NnEpilogue<'a, A: Float> {
    /// `[m, k]`, what GELU took in the forward pass: the product is multiplied with its slope there.
    pub gelu_of: Option<Slice<'a, A>>,
    /// `[m, k]`, added last.
    pub residual: Option<Slice<'a, f32>>,
}

impl<A: Float> Default for NnEpilogue<'_, A> {
    fn default() -> Self {
        NnEpilogue {
            gelu_of: None,
            residual: None,
        }
    }
}

/// Sizes of a product.
#[derive(Clone, Copy)]
struct Dims {
    m: usize,
    n: usize,
    k: usize,
}

/// `a` `[m, n]` times `w` `[n, k]`, then the epilogue, into `c` `[m, k]`; `n` and `k` are multiples of 8.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit, [`Error::Unsupported`](crate::Error::Unsupported) for
/// element types a device does not have (CUDA takes f16 operands, the CPU f32).
///
/// ```
/// use nearmiss::{Device, ops::matmul_nn::{NnEpilogue, matmul_nn}};
/// let cpu = Device::cpu();
/// let dy = cpu.upload(&[1.0f32; 8])?; // 1 x 8
/// let w = cpu.upload(&[0.5f32; 64])?; // 8 x 8
/// let passed_by = cpu.upload(&[1.0f32; 8])?;
/// let mut dx = cpu.alloc::<f32>(8)?;
/// let epilogue = NnEpilogue { residual: Some((&passed_by).into()), ..Default::default() };
/// matmul_nn(&dy, &w, &epilogue, &mut dx, 1, 8)?;
/// assert_eq!(dx.read()?, [5.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn matmul_nn<'a, A: Float, C: Float>(
    a: impl Into<Slice<'a, A>>,
    w: impl Into<Slice<'a, A>>,
    epilogue: &NnEpilogue<'a, A>,
    c: impl Into<SliceMut<'a, C>>,
    m: usize,
    k: usize,
) -> Result<()> {
    let (a, w, mut c) = (a.into(), w.into(), c.into());
    let device = c.device();
    let check = SPEC.checks(device);
    check.width("k", k)?;
    let n = check.rows("w", &w, k)?;
    check.width("n", n)?;
    check.holds("a", &a, m * n)?;
    check.holds("c", &c, m * k)?;
    check.optional("gelu_of", &epilogue.gelu_of, m * k)?;
    check.optional("residual", &epilogue.residual, m * k)?;
    let dims = Dims { m, n, k };
    device.run(
        SPEC.name,
        cost::<A, C>(dims, epilogue),
        |target| match target {
            Target::Cpu => {
                let (a, w) = host_operands(&SPEC, a, w)?;
                let Some(c) = c.host_as::<f32>() else {
                    return Err(SPEC.unsupported(device, "the CPU writes f32 products"));
                };
                let gelu_of = epilogue.gelu_of.and_then(|u| u.host_as::<f32>());
                cpu::matmul_nn(a, w, gelu_of, epilogue.residual.map(|r| r.host()), c, dims);
                Ok(())
            }
            Target::Gpu(gpu) => {
                takes_operands::<A>(&SPEC, gpu, device)?;
                gpu::matmul_nn(gpu, a, w, epilogue, c, dims)
            }
        },
    )
}

fn cost<A: Float, C: Float>(dims: Dims, epilogue: &NnEpilogue<'_, A>) -> Cost {
    let Dims { m, n, k } = dims;
    let gelu_of = epilogue.gelu_of.map_or(0, |_| size_of::<A>());
    let residual = epilogue.residual.map_or(0, |_| 4);
    Cost {
        flop: 2 * (m * n * k) as u64,
        bytes: ((m * n + n * k) * size_of::<A>() + m * k * (size_of::<C>() + gelu_of + residual))
            as u64,
    }
}
