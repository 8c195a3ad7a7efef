//! `d_word[ids[t]] += dx[t]`, `d_position[positions[t]] += dx[t]`, `d_token_type[0] += dx[t]`
//!
//! The gradient of [`mod@super::embedding`]: for every table row, the sum over the tokens that used it. The tokens come
//! sorted ([`TokenSegments`]), so that each sum has one owner and one order, without atomics; a segment as long as the
//! batch (token type 0) is a tree of sums of 32 rows, in as many launches as the tree has levels. Cost: `3 t d`
//! additions; `dx` is read three times, mostly from cache, and the rows that are added to are read and written: memory
//! bound. The last operator of an encoder's backward; after [`mod@super::layer_norm_backward`].

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::{OpSpec, TokenSegments};
use crate::device::template::Variant;
use crate::device::{Cost, Slice, SliceMut, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "embedding_backward",
    formula: "d_word[ids[t]] += dx[t], d_position[positions[t]] += dx[t], d_token_type[0] += dx[t]",
    kernels: &[gpu::EMBEDDING_BACKWARD],
    ptx: gpu::EMBEDDING_BACKWARD.ptx,
    ptx_variants: || vec![Variant::new()],
    wgsl: gpu::EMBEDDING_BACKWARD.wgsl,
    wgsl_variants: || super::in_every_tier([Variant::new()]),
};

/// The gradients of the tables of an embedding, rows of width `d`; added to.
pub struct TableGradients<'a> {
    /// `[vocab, d]`.
    pub word: SliceMut<'a, f32>,
    /// `[max_positions, d]`.
    pub position: SliceMut<'a, f32>,
    /// `[types, d]`; every token has type 0.
    pub token_type: SliceMut<'a, f32>,
    /// Row width, a multiple of 8.
    pub d: usize,
}

/// The arguments after checking, but for the tables.
struct Args<'a> {
    /// `[t, d]`.
    dx: Slice<'a, f32>,
    segments: &'a TokenSegments,
    /// The rows that pieces add up.
    list: Slice<'a, u32>,
    d: usize,
}

/// Adds the gradients `dx` `[t, d]` of the results of [`embedding`](super::embedding::embedding) to the table rows that
/// each token used.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit, an id that is not in the vocabulary or a position beyond the table;
/// [`Error::OutOfMemory`] for the sums of pieces.
///
/// ```
/// use nearmiss::{Device, ops::{TokenSegments, embedding_backward::{TableGradients, embedding_backward}}};
/// let cpu = Device::cpu();
/// let dx = cpu.upload(&[[1.0f32; 8], [2.0; 8], [4.0; 8]].concat())?;
/// let (mut word, mut position, mut token_type) =
///     (cpu.upload(&[0.5f32; 16])?, cpu.upload(&[0.0f32; 16])?, cpu.upload(&[0.0f32; 8])?);
/// let tables = TableGradients {
///     word: (&mut word).into(),
///     position: (&mut position).into(),
///     token_type: (&mut token_type).into(),
///     d: 8,
/// };
/// embedding_backward(&dx, &TokenSegments::new(&cpu, &[1, 0, 1], &[0, 1, 0])?, tables)?;
/// assert_eq!(word.read()?[7..9], [2.5, 5.5]);
/// assert_eq!(position.read()?[7..9], [5.0, 2.0]);
/// assert_eq!(token_type.read()?, [7.0; 8]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn embedding_backward<'a>(
    dx: impl Into<Slice<'a, f32>>,
    segments: &TokenSegments,
    gradients: TableGradients<'_>,
) -> Result<()> {
    let dx = dx.into();
    let TableGradients {
        mut word,
        mut position,
        mut token_type,
        d,
    } = gradients;
    let device = word.device();
    let check = SPEC.checks(device);
    check.width("d", d)?;
    check.holds("dx", &dx, segments.tokens() * d)?;
    let rows = |what, table: &SliceMut<'_, f32>| match check.rows(what, table, d)? {
        0 => Err(Error::shape(SPEC.name, what, "at least one row", 0)),
        rows => Ok(rows),
    };
    rows("token_type", &token_type)?;
    let limits = [rows("word", &word)?, rows("position", &position)?];
    let list = segments.below(SPEC.name, limits)?;
    check.holds("segments", &list, list.len())?;
    let args = Args {
        dx,
        segments,
        list,
        d,
    };
    device.run(SPEC.name, cost(segments, d), |target| match target {
        Target::Cpu => {
            cpu::embedding_backward(&args, [token_type.host(), position.host(), word.host()]);
            Ok(())
        }
        Target::Gpu(gpu) => gpu::embedding_backward(gpu, &args, [token_type, position, word]),
    })
}

/// Three additions per element of `dx`, which is counted once; the lists; and what is added to, read and written.
fn cost(segments: &TokenSegments, d: usize) -> Cost {
    let (t, rows) = (segments.tokens(), segments.rows());
    Cost {
        flop: (3 * t * d) as u64,
        bytes: (4 * t * (d + 3) + 8 * rows * d) as u64,
    }
}
