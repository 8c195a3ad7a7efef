//! `x[t, :] = word[ids[t], :] + position[positions[t], :] + token_type[0, :]`
//!
//! The first operator of a BERT encoder: three table rows are added into the f32 residual stream. Tables may be f16
//! or f32. Cost: `2 t d` additions; the bytes are the word rows read and the sums written, so it runs at memory speed.
//! Comes before [`mod@super::layer_norm`].
//!
//! Numerics: two additions in f32, in the order written; f16 tables are read exactly.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{error_bound, reference};

use super::{OpSpec, TokenIds};
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "embedding",
    formula: "x[t] = word[ids[t]] + position[positions[t]] + token_type[0]",
    kernels: &[gpu::EMBEDDING],
    ptx: gpu::EMBEDDING.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::EMBEDDING.wgsl,
    wgsl_variants: || super::in_every_tier(gpu::variants()),
};

/// The tables of an embedding, rows of width `d`.
pub struct Tables<'a, T: Float> {
    /// `[vocab, d]`.
    pub word: Slice<'a, T>,
    /// `[max_positions, d]`.
    pub position: Slice<'a, T>,
    /// `[types, d]`; every token has type 0.
    pub token_type: Slice<'a, T>,
    /// Row width, a multiple of 8.
    pub d: usize,
}

/// The arguments after checking.
struct Args<'a, T: Float> {
    tables: &'a Tables<'a, T>,
    /// `[t]`, in the word table.
    ids: Slice<'a, u32>,
    /// `[t]`, in the position table.
    positions: Slice<'a, u32>,
}

/// Looks up and adds: `tokens` `[t]` give `x` `[t, d]`.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit, an id that is not in the vocabulary or a position beyond the table.
///
/// ```
/// use nearmiss::{Device, ops::{TokenIds, embedding::{Tables, embedding}}};
/// let cpu = Device::cpu();
/// let table = |rows: &[f32]| cpu.upload(&rows.iter().flat_map(|&r| [r; 8]).collect::<Vec<f32>>());
/// let (word, position, token_type) = (table(&[1.0, 2.0])?, table(&[10.0, 20.0])?, table(&[0.5])?);
/// let tables = Tables {
///     word: (&word).into(),
///     position: (&position).into(),
///     token_type: (&token_type).into(),
///     d: 8,
/// };
/// let mut x = cpu.alloc::<f32>(2 * 8)?;
/// embedding(&tables, &TokenIds::new(&cpu, &[1, 0], &[0, 1])?, &mut x)?;
/// assert_eq!(x.read()?[7..9], [12.5, 21.5]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn embedding<'a, T: Float>(
    tables: &Tables<'a, T>,
    tokens: &TokenIds,
    x: impl Into<SliceMut<'a, f32>>,
) -> Result<()> {
    let mut x = x.into();
    let device = x.device();
    let check = SPEC.checks(device);
    let (t, d) = (tokens.len(), tables.d);
    check.width("d", d)?;
    check.holds("x", &x, t * d)?;
    let rows = |what, table: &Slice<'_, T>| match check.rows(what, table, d)? {
        0 => Err(Error::shape(SPEC.name, what, "at least one row", 0)),
        rows => Ok(rows),
    };
    rows("token_type", &tables.token_type)?;
    let limits = [
        rows("word", &tables.word)?,
        rows("position", &tables.position)?,
    ];
    let [ids, positions] = tokens.below(SPEC.name, limits)?;
    let args = Args {
        tables,
        ids,
        positions,
    };
    check.holds("ids", &args.ids, t)?;
    device.run(SPEC.name, cost::<T>(t, d), |target| match target {
        Target::Cpu => {
            cpu::embedding(&args, x.host());
            Ok(())
        }
        Target::Gpu(gpu) => gpu::embedding(gpu, &args, x),
    })
}

/// Two additions per element; one word row read and one row written, and the two index lists. The position and
/// token-type rows are the same few for all texts and stay in cache.
fn cost<T: Float>(t: usize, d: usize) -> Cost {
    Cost {
        flop: 2 * (t * d) as u64,
        bytes: (t * d * (size_of::<T>() + 4) + t * 8) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn an_id_out_of_range_is_an_error_that_names_it() {
        let cpu = Device::cpu();
        let table = cpu.upload(&[0f32; 16]).unwrap();
        let tables = Tables {
            word: table.as_slice(),
            position: table.as_slice(),
            token_type: table.as_slice(),
            d: 8,
        };
        let ids = TokenIds::new(&cpu, &[2], &[0]).unwrap();
        let mut x = cpu.alloc(8).unwrap();
        let error = embedding(&tables, &ids, &mut x).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in embedding: ids: expected below 2, got 2"
        );
    }
}
