//! `c += a^T b`, and optionally `column_sums += sum over rows of a`
//!
//! The backward of the linear layer ([`mod@super::matmul`]) with respect to its parameters: `a` `[t, n]` is the gradient of its
//! result, `b` `[t, k]` what it multiplied; `c` `[n, k]` is the gradient of its weights and `column_sums` `[n]` that of its
//! bias. Both are added to what is there, in f32; products are accumulated in f32 whatever the element types.
//!
//! Cost: `2 t n k` FLOP against `t (n + k)` elements read and `n k` f32 read and written. There are few outputs and long sums:
//! a GPU splits the rows among groups of blocks where the outputs alone are too few for it, and adds up the parts in their
//! order, so that two runs give equal bits. Comes after the loss, beside [`mod@super::matmul_nn`].

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
    name: "matmul_tn",
    formula: "c += a^T b; column_sums += sum_t a_t (optional)",
    kernels: &[gpu::MATMUL_TN, gpu::ADD_PARTIALS],
    ptx: gpu::MATMUL_TN.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::MATMUL_TN.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// Sizes of a product.
#[derive(Clone, Copy)]
struct Dims {
    t: usize,
    n: usize,
    k: usize,
}

/// Adds the transpose of `a` `[t, n]` times `b` `[t, k]` to `c` `[n, k]`, and the sum of the rows of `a` to `column_sums`
/// `[n]`; `n` and `k` are multiples of 8, `t` is any number.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit, [`Error::Unsupported`](crate::Error::Unsupported) for
/// element types a device does not have (CUDA takes f16 operands, the CPU f32).
///
/// ```
/// use nearmiss::{Device, ops::matmul_tn};
/// let cpu = Device::cpu();
/// let dy = cpu.upload(&[[1.0f32; 8], [2.0; 8]].concat())?; // 2 x 8
/// let x = cpu.upload(&[[3.0f32; 8], [5.0; 8]].concat())?; // 2 x 8
/// let mut d_weight = cpu.upload(&[100.0f32; 64])?;
/// let mut d_bias = cpu.upload(&[10.0f32; 8])?;
/// matmul_tn(&dy, &x, &mut d_weight, Some((&mut d_bias).into()), 8, 8)?;
/// assert_eq!(d_weight.read()?, [113.0; 64]);
/// assert_eq!(d_bias.read()?, [13.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn matmul_tn<'a, A: Float>(
    a: impl Into<Slice<'a, A>>,
    b: impl Into<Slice<'a, A>>,
    c: impl Into<SliceMut<'a, f32>>,
    mut column_sums: Option<SliceMut<'a, f32>>,
    n: usize,
    k: usize,
) -> Result<()> {
    let (a, b, mut c) = (a.into(), b.into(), c.into());
    let device = c.device();
    let check = SPEC.checks(device);
    check.width("n", n)?;
    check.width("k", k)?;
    let t = check.rows("a", &a, n)?;
    check.holds("b", &b, t * k)?;
    check.holds("c", &c, n * k)?;
    check.optional("column_sums", &column_sums, n)?;
    let dims = Dims { t, n, k };
    let cost = cost::<A>(dims, column_sums.is_some());
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            let (a, b) = host_operands(&SPEC, a, b)?;
            let column_sums = column_sums.as_mut().map(|sums| sums.host());
            cpu::matmul_tn(a, b, c.host(), column_sums, dims);
            Ok(())
        }
        Target::Gpu(gpu) => {
            takes_operands::<A>(&SPEC, gpu, device)?;
            gpu::matmul_tn(gpu, a, b, c, column_sums, dims)
        }
    })
}

fn cost<A: Float>(dims: Dims, sums: bool) -> Cost {
    let Dims { t, n, k } = dims;
    let sums = if sums { n } else { 0 };
    Cost {
        flop: (2 * t * n * k + t * sums) as u64,
        bytes: (t * (n + k) * size_of::<A>() + 8 * (n * k + sums)) as u64,
    }
}
