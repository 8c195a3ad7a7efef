//! The gradient of [`mod@super::attention_pool`]
//!
//! With `p` the probabilities that the forward kept, `m_j` the factor of dropout of row `j` (0 or `1 / (1 - rate)`, 1
//! without), and of a text's row of `d_out` `dz` the first `d` columns and `dw` the next one, the gradient in the total
//! weight:
//!
//! ```text
//! ds_j = p_j (dp_j - sum_k p_k dp_k)      dp_j = m_j (dz . row_j + dw)
//! d_query = scale sum_j ds_j row_j        d_row_j = m_j p_j dz + scale ds_j query
//! ```
//!
//! Cost: `8 t d` operations against one read of the rows and one write of their gradient in f32 (what is read a second time
//! was read just before): memory bound on GPUs. Sums are made in a fixed order, without atomics.
//! Comes after the backward of the product behind the forward; `d_rows` is what a norm's backward takes.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::attention::checked_mask;
use super::attention_pool::TOTAL;
use super::dropout::Mask;
use super::{OpSpec, Origins, PackedTexts};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::Result;

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "attention_pool_backward",
    formula: "d_query = scale sum ds row, d_row = p m dz + scale ds query, ds = p (dp - sum p dp), dp = m (dz . row + dw)",
    kernels: &[gpu::ATTENTION_POOL_BACKWARD],
    ptx: gpu::ATTENTION_POOL_BACKWARD.ptx,
    ptx_variants: gpu::ptx_variants,
    wgsl: gpu::ATTENTION_POOL_BACKWARD.wgsl,
    wgsl_variants: gpu::wgsl_variants,
};

/// What the forward, [`attention_pool`](super::attention_pool()), read and wrote.
pub struct Forward<'a, A: Float> {
    /// `[n, d]`.
    pub queries: Slice<'a, A>,
    /// `[t, d]`.
    pub rows: Slice<'a, A>,
    /// The packed texts.
    pub texts: &'a PackedTexts,
    /// Columns of a row.
    pub d: usize,
    /// What products are multiplied by before the softmax.
    pub scale: f32,
    /// Which probabilities were dropped.
    pub mask: Option<(Mask, &'a Origins)>,
    /// Before dropout, `[t]`.
    pub probabilities: Slice<'a, f32>,
}

/// The arguments after checking.
struct Args<'a, A: Float> {
    forward: &'a Forward<'a, A>,
    d_out: Slice<'a, A>,
    /// If it drops anything, with position and number of every row.
    mask: Option<(Mask, Slice<'a, u32>)>,
}

/// The gradients `d_queries` `[n, d]` and `d_rows` `[t, d]` of pooling by attention, both written completely, from that
/// of its result, `d_out` `[n, d + 8]`, of which the last 7 columns count for nothing.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for sizes that do not fit (`d` a multiple of 8), origins of other texts or a rate
/// that is not at least 0 and below 1; [`Error::Unsupported`](crate::Error::Unsupported) for element types a device does not
/// have (CUDA takes f16 activations, the CPU f32) and on GPUs for rows wider than 1,024.
///
/// ```
/// use nearmiss::{Device, ops::{PackedTexts, attention_pool_backward::{Forward, attention_pool_backward}}};
/// let cpu = Device::cpu();
/// let texts = PackedTexts::new(&cpu, vec![0, 2])?;
/// let (queries, rows) = (cpu.upload(&[0.0f32; 8])?, cpu.upload(&[[3.0f32; 8], [5.0; 8]].concat())?);
/// let probabilities = cpu.upload(&[0.5f32; 2])?;
/// let forward = Forward {
///     queries: (&queries).into(), rows: (&rows).into(), texts: &texts, d: 8, scale: 1.0, mask: None,
///     probabilities: (&probabilities).into(),
/// };
/// let d_out = cpu.upload(&[[1.0f32; 8], [0.0; 8]].concat())?;
/// let (mut d_queries, mut d_rows) = (cpu.alloc::<f32>(8)?, cpu.alloc::<f32>(16)?);
/// attention_pool_backward(&forward, &d_out, &mut d_queries, &mut d_rows)?;
/// assert_eq!(d_queries.read()?, [8.0; 8]); // ds is -4 and 4
/// assert_eq!(d_rows.read()?, [0.5; 16]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn attention_pool_backward<'a, A: Float>(
    forward: &Forward<'_, A>,
    d_out: impl Into<Slice<'a, A>>,
    d_queries: impl Into<SliceMut<'a, A>>,
    d_rows: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let &Forward {
        queries,
        rows,
        texts,
        d,
        mask,
        probabilities,
        ..
    } = forward;
    let (d_out, mut d_queries, mut d_rows) = (d_out.into(), d_queries.into(), d_rows.into());
    let device = d_rows.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    let (n, t) = (texts.texts(), texts.tokens());
    check.holds("queries", &queries, n * d)?;
    check.holds("rows", &rows, t * d)?;
    check.holds("texts", &texts.on_device(), n + 1)?;
    check.holds("probabilities", &probabilities, t)?;
    check.holds("d_out", &d_out, n * (d + TOTAL))?;
    check.holds("d_queries", &d_queries, n * d)?;
    check.holds("d_rows", &d_rows, t * d)?;
    let mask = checked_mask(SPEC.name, texts, mask)?;
    let cost = Cost {
        flop: (8 * t * d) as u64,
        bytes: ((t * d + n * (3 * d + TOTAL)) * size_of::<A>() + 4 * t * (d + 1)) as u64,
    };
    let args = Args {
        forward,
        d_out,
        mask,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::attention_pool_backward(&args, d_queries.host_as::<f32>(), d_rows.host())
                .ok_or_else(|| SPEC.unsupported(device, "the CPU computes with f32 activations"))
        }
        Target::Gpu(gpu) => gpu::attention_pool_backward(gpu, &args, d_queries, d_rows),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::attention_pool;
    use crate::ops::differences_test::noise;

    #[test]
    fn the_cpu_computes_what_is_defined() {
        let cpu = Device::cpu();
        let (offsets, numbers) = ([0, 3, 3, 4, 44], [7, 0, 5, 9]);
        let as_f32 = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let (queries, rows) = (as_f32(noise(4 * 16, 1)), as_f32(noise(44 * 16, 2)));
        let d_out = as_f32(noise(4 * 24, 3));
        let texts = PackedTexts::new(&cpu, offsets.to_vec()).unwrap();
        let origins = Origins::new(&texts, &numbers).unwrap();
        for rate in [0.0, 0.5] {
            let mask = Mask { rate, key: [1, 2] };
            let dropped = Some((mask, &numbers[..]));
            let (_, p) =
                attention_pool::reference::<f32, _>(&queries, &rows, &offsets, 16, 0.5, dropped);
            let of = |values: &[f32]| cpu.upload(values).unwrap();
            let [q, r, p_here, d_here] = [&queries, &rows, &p, &d_out].map(|v| of(v));
            let forward = Forward {
                queries: q.as_slice(),
                rows: r.as_slice(),
                texts: &texts,
                d: 16,
                scale: 0.5,
                mask: Some((mask, &origins)),
                probabilities: p_here.as_slice(),
            };
            // All of both is written.
            let [mut d_queries, mut d_rows] = [of(&[f32::NAN; 64]), of(&[f32::NAN; 704])];
            attention_pool_backward(&forward, &d_here, &mut d_queries, &mut d_rows).unwrap();
            let want = reference::<f64, _>(&queries, &rows, &offsets, 16, 0.5, dropped, &p, &d_out);
            for (got, want) in [d_queries, d_rows].iter().zip(want) {
                let mut both = got.read().unwrap().into_iter().zip(want);
                assert!(both.all(|(got, want)| (f64::from(got) - want).abs() < 1e-5));
            }
        }
    }
}
