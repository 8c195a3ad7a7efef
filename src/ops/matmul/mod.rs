//! `c = epilogue(a w^T)`, `epilogue(v) = gelu(v + bias) + residual`, each part optional
//!
//! The linear layer: `a` `[m, k]` are activations, `w` `[n, k]` a weight matrix as checkpoints store it (one row per
//! output). Products are accumulated in f32 whatever the element types. The epilogue runs while the result is still in
//! registers (in cache on the CPU), so no bias, activation or residual costs a pass of its own.
//!
//! Cost: `2 m n k` FLOP against `m k + n k + m n` elements. `gelu(x) = x/2 (1 + erf(x / sqrt 2))`, the exact form.
//!
//! On the CPU the product itself is the `gemm` crate's; rows are dealt out to threads in panels and each thread
//! finishes its panel (product, then epilogue) before the next, so that the epilogue finds it in cache. Few rows are
//! multiplied by a loop of our own, which reads `w` as it lies instead of packing it.

mod cpu;
pub(in crate::ops) mod few;
mod gpu;
mod reference;

pub(super) use cpu::{Matrix, erf, multiply, panels, product};
pub(super) use gpu::{NN_TILES, PtxTile, plan, with_element_types};
pub(super) use reference::{erf_bound, erf_exact};
#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::OpSpec;
use crate::device::{Cost, Device, ElementType, Float, Gpu, Slice, SliceMut, Target};
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
    run(a.into(), w.into(), epilogue, None, c.into(), m, n)
}

/// As [`matmul()`] with GELU, and leaves what GELU takes, `a w^T + bias`, in `before_gelu` `[m, n]`: its backward
/// ([`mod@super::matmul_nn`]) wants it.
///
/// # Errors
/// Those of [`matmul()`], and [`Error::Invalid`] without GELU.
///
/// ```
/// use nearmiss::{Device, ops::matmul::{Epilogue, matmul_saving}};
/// let cpu = Device::cpu();
/// let a = cpu.upload(&[1.0f32; 8])?; // 1 x 8
/// let w = cpu.upload(&[-1.0f32; 64])?; // 8 x 8
/// let (mut before, mut c) = (cpu.alloc::<f32>(8)?, cpu.alloc::<f32>(8)?);
/// matmul_saving(&a, &w, &Epilogue { gelu: true, ..Default::default() }, &mut before, &mut c, 1, 8)?;
/// assert_eq!(before.read()?, [-8.0; 8]);
/// assert!(c.read()?.iter().all(|v| v.abs() < 1e-5));
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn matmul_saving<'a, A: Float, C: Float>(
    a: impl Into<Slice<'a, A>>,
    w: impl Into<Slice<'a, A>>,
    epilogue: &Epilogue<'a>,
    before_gelu: impl Into<SliceMut<'a, A>>,
    c: impl Into<SliceMut<'a, C>>,
    m: usize,
    n: usize,
) -> Result<()> {
    if !epilogue.gelu {
        return Err(Error::Invalid(
            "matmul_saving: without GELU there is nothing before it".into(),
        ));
    }
    let before_gelu = Some(before_gelu.into());
    run(a.into(), w.into(), epilogue, before_gelu, c.into(), m, n)
}

fn run<'a, A: Float, C: Float>(
    a: Slice<'a, A>,
    w: Slice<'a, A>,
    epilogue: &Epilogue<'a>,
    mut before_gelu: Option<SliceMut<'a, A>>,
    mut c: SliceMut<'a, C>,
    m: usize,
    n: usize,
) -> Result<()> {
    let device = c.device();
    let check = SPEC.checks(device);
    check.width("n", n)?;
    if !w.len().is_multiple_of(n) {
        return Err(Error::shape(SPEC.name, "w", format!("{n} rows"), w.len()));
    }
    let k = w.len() / n;
    check.width("k", k)?;
    check.holds("w", &w, n * k)?;
    check.holds("a", &a, m * k)?;
    check.holds("c", &c, m * n)?;
    check.optional("bias", &epilogue.bias, n)?;
    check.optional("residual", &epilogue.residual, m * n)?;
    check.optional("before_gelu", &before_gelu, m * n)?;
    let dims = Dims { m, n, k };
    let cost = cost::<A, C>(dims, epilogue, before_gelu.is_some());
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let (a, w) = host_operands(&SPEC, a, w)?;
            let Some(c) = c.host_as::<f32>() else {
                return Err(SPEC.unsupported(device, "the CPU writes f32 products"));
            };
            let before_gelu = before_gelu
                .as_mut()
                .and_then(|saved| saved.host_as::<f32>());
            cpu::matmul(a, w, epilogue, before_gelu, c, dims);
            Ok(())
        }
        Target::Gpu(gpu) => {
            takes_operands::<A>(&SPEC, gpu, device)?;
            gpu::matmul(gpu, a, w, epilogue, before_gelu, c, dims)
        }
    })
}

/// Both operands on the CPU, which multiplies f32.
pub(super) fn host_operands<'a, A: Float>(
    spec: &OpSpec,
    a: Slice<'a, A>,
    b: Slice<'a, A>,
) -> Result<(&'a [f32], &'a [f32])> {
    match (a.host_as(), b.host_as()) {
        (Some(a), Some(b)) => Ok((a, b)),
        _ => Err(spec.unsupported(a.device(), "the CPU multiplies f32 operands")),
    }
}

/// That a GPU multiplies operands of this type.
pub(super) fn takes_operands<A: Float>(spec: &OpSpec, gpu: Gpu<'_>, device: &Device) -> Result<()> {
    match gpu {
        Gpu::Cuda(_) if A::TYPE != ElementType::F16 => {
            Err(spec.unsupported(device, "tensor cores multiply f16 operands"))
        }
        _ => Ok(()),
    }
}

fn cost<A: Float, C: Float>(dims: Dims, epilogue: &Epilogue<'_>, saving: bool) -> Cost {
    let Dims { m, n, k } = dims;
    let residual = if epilogue.residual.is_some() { 4 } else { 0 };
    let saved = if saving { size_of::<A>() } else { 0 };
    Cost {
        flop: 2 * (m * n * k) as u64,
        bytes: ((m * k + n * k) * size_of::<A>() + m * n * (size_of::<C>() + residual + saved))
            as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saving_wants_gelu() {
        let cpu = Device::cpu();
        let (a, w) = (
            cpu.upload(&[1f32; 8]).unwrap(),
            cpu.upload(&[1f32; 64]).unwrap(),
        );
        let (mut before, mut c) = (cpu.alloc::<f32>(8).unwrap(), cpu.alloc::<f32>(8).unwrap());
        let error = matmul_saving(&a, &w, &Epilogue::default(), &mut before, &mut c, 1, 8);
        assert_eq!(
            error.unwrap_err().to_string(),
            "matmul_saving: without GELU there is nothing before it"
        );
    }
}
