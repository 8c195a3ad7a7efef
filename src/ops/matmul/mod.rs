//! `c = epilogue(a w^T)`, `epilogue(v) = gelu(v + bias) + residual`, each part optional
//!
//! The linear layer: `a` `[m, k]` are activations, `w` `[n, k]` a weight matrix as checkpoints store it (one row per
//! output). Products are accumulated in f32 whatever the element types. The epilogue runs while the result is still in
//! registers (in cache on the CPU), so no bias, activation or residual costs a pass of its own.
//!
//! Cost: `2 m n k` FLOP against `m k + n k + m n` elements. `gelu(x) = x/2 (1 + erf(x / sqrt 2))`, the exact form.
//!
//! On the CPU the product itself is the `gemm` crate's; rows are dealt out to threads in panels and each thread
//! finishes its panel (product, then epilogue) before the next, so that the epilogue finds it in cache.

mod cpu;
mod gpu;
mod reference;

pub(super) use cpu::product;
#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::OpSpec;
use crate::device::{Cost, ElementType, Float, Gpu, Slice, SliceMut, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "matmul",
    formula: "c = gelu(a w^T + bias) + residual (bias, gelu, residual optional)",
    kernels: &[gpu::MATMUL],
    ptx: gpu::MATMUL.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::MATMUL.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// What happens to the product before it is stored, in this order: bias, GELU, residual.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// `[n]`, added to every row.
    pub bias: Option<Slice<'a, f32>>,
    /// Apply `gelu`.
    pub gelu: bool,
    /// `[m, n]`, added last.
    pub residual: Option<Slice<'a, f32>>,
}

/// Sizes of a product.
#[derive(Clone, Copy)]
struct Dims {
    m: usize,
    n: usize,
    k: usize,
}

/// `a` `[m, k]` times the transpose of `w` `[n, k]`, then the epilogue, into `c` `[m, n]`; `n` and `k` are multiples
/// of 8.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit, [`Error::Unsupported`] for element types a device does not have (CUDA
/// takes f16 operands, the CPU f32).
///
/// ```
/// use nearmiss::{Device, ops::matmul::{Epilogue, matmul}};
/// let cpu = Device::cpu();
/// let a = cpu.upload(&[1.0f32; 8])?; // 1 x 8
/// let w = cpu.upload(&[0.5f32; 64])?; // 8 x 8
/// let bias = cpu.upload(&[1.0f32; 8])?;
/// let mut c = cpu.alloc::<f32>(8)?;
/// matmul(&a, &w, &Epilogue { bias: Some((&bias).into()), ..Default::default() }, &mut c, 1, 8)?;
/// assert_eq!(c.read()?, [5.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn matmul<'a, A: Float, C: Float>(
    a: impl Into<Slice<'a, A>>,
    w: impl Into<Slice<'a, A>>,
    epilogue: &Epilogue<'a>,
    c: impl Into<SliceMut<'a, C>>,
    m: usize,
    n: usize,
) -> Result<()> {
    let (a, w, mut c) = (a.into(), w.into(), c.into());
    let device = c.device();
    let check = SPEC.checks(device);
    check.width("n", n)?;
    if !w.len().is_multiple_of(n) {
        return Err(Error::shape(SPEC.name, "w", format!("{n} rows"), w.len()));
    }
    let k = w.len() / n;
    check.width("k", k)?;
    check.holds("a", &a, m * k)?;
    check.holds("w", &w, n * k)?;
    check.holds("c", &c, m * n)?;
    check.optional("bias", &epilogue.bias, n)?;
    check.optional("residual", &epilogue.residual, m * n)?;
    let dims = Dims { m, n, k };
    device.run(
        SPEC.name,
        cost::<A, C>(dims, epilogue),
        |target| match target {
            Target::Cpu => {
                let (Some(a), Some(w)) = (a.host_as::<f32>(), w.host_as::<f32>()) else {
                    return Err(SPEC.unsupported(device, "the CPU multiplies f32 operands"));
                };
                let Some(c) = c.host_as::<f32>() else {
                    return Err(SPEC.unsupported(device, "the CPU writes f32 products"));
                };
                cpu::matmul(a, w, epilogue, c, dims);
                Ok(())
            }
            Target::Gpu(Gpu::Cuda(_)) if A::TYPE != ElementType::F16 => {
                Err(SPEC.unsupported(device, "tensor cores multiply f16 operands"))
            }
            Target::Gpu(gpu) => gpu::matmul(gpu, a, w, epilogue, c, dims),
        },
    )
}

fn cost<A: Float, C: Float>(dims: Dims, epilogue: &Epilogue<'_>) -> Cost {
    let Dims { m, n, k } = dims;
    let residual = if epilogue.residual.is_some() {
        4 * m * n
    } else {
        0
    };
    Cost {
        flop: 2 * (m * n * k) as u64,
        bytes: ((m * k + n * k) * size_of::<A>() + m * n * size_of::<C>() + residual) as u64,
    }
}
