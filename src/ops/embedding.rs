//! `x[t, :] = word[ids[t], :] + position[positions[t], :] + token_type[0, :]`
//!
//! The first operator of a BERT encoder: three table rows are added into the f32 residual stream. Tables may be f16
//! or f32. Cost: `2 t d` additions; the bytes are the word rows read and the sums written, so it runs at memory speed.
//! Comes before [`mod@super::layer_norm`].
//!
//! Numerics: two additions in f32, in the order written; f16 tables are read exactly.

use rayon::prelude::*;

use super::{Accum, FLOATS, OpSpec, Rounding, TIERS, check, check_width, grid, tier_variant};
use crate::device::template::{Source, Variant};
use crate::device::{Arg, Backend, Buffer, Cost, Cuda, Dispatch, ElementType, Float, Launch, Wgpu};
use crate::error::{Error, Result};

/// Everything under this operator's name.
pub const SPEC: OpSpec = OpSpec {
    name: "embedding",
    formula: "x[t] = word[ids[t]] + position[positions[t]] + token_type[0]",
    ptx: Some(PTX),
    ptx_variants: || FLOATS.map(ptx_variant).to_vec(),
    wgsl: Some(WGSL),
    wgsl_variants: || {
        let all =
            TIERS.map(|tier| FLOATS.map(|table| tier_variant(tier).with("table", table.name())));
        all.into_iter().flatten().collect()
    },
};

const WGSL: Source = Source {
    file: "embedding.wgsl",
    text: include_str!("../../shaders/embedding.wgsl"),
};

const PTX: Source = Source {
    file: "embedding.ptx",
    text: include_str!("../../kernels/embedding.ptx"),
};

fn ptx_variant(table: ElementType) -> Variant {
    Variant::new().with("table", table.name())
}

/// The tables of an embedding, rows of width `d`.
pub struct Tables<'a, T: Float> {
    /// `[vocab, d]`.
    pub word: &'a Buffer<T>,
    /// `[max_positions, d]`.
    pub position: &'a Buffer<T>,
    /// `[types, d]`; every token has type 0.
    pub token_type: &'a Buffer<T>,
    /// Row width, a multiple of 8.
    pub d: usize,
}

#[derive(Clone, Copy)]
struct Dims {
    t: usize,
    d: usize,
    vocab: usize,
    max_positions: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    t: u32,
    d4: u32,
}

/// Looks up and adds: `ids` and `positions` `[t]` give `x` `[t, d]`.
///
/// Ids must be below the vocabulary and positions below the position table's rows: whoever packs texts checks that,
/// a GPU cannot report it.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (on the CPU also for an id out of range).
///
/// ```
/// use nearmiss::{Device, ops::embedding::{Tables, embedding}};
/// let cpu = Device::cpu();
/// let table = |rows: &[f32]| cpu.upload(&rows.iter().flat_map(|&r| [r; 8]).collect::<Vec<f32>>());
/// let (word, position, token_type) = (table(&[1.0, 2.0])?, table(&[10.0, 20.0])?, table(&[0.5])?);
/// let tables = Tables { word: &word, position: &position, token_type: &token_type, d: 8 };
/// let mut x = cpu.alloc::<f32>(2 * 8)?;
/// embedding(&tables, &cpu.upload(&[1u32, 0])?, &cpu.upload(&[0u32, 1])?, &mut x)?;
/// assert_eq!(x.read()?[7..9], [12.5, 21.5]);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn embedding<T: Float>(
    tables: &Tables<'_, T>,
    ids: &Buffer<u32>,
    positions: &Buffer<u32>,
    x: &mut Buffer<f32>,
) -> Result<()> {
    let device = x.device().clone();
    let (t, d) = (ids.len(), tables.d);
    check_width(SPEC.name, "d", d)?;
    check(SPEC.name, "ids", ids, t, &device)?;
    check(SPEC.name, "positions", positions, t, &device)?;
    check(SPEC.name, "x", x, t * d, &device)?;
    for (what, table) in [
        ("word", tables.word),
        ("position", tables.position),
        ("token_type", tables.token_type),
    ] {
        if table.is_empty() || table.len() % d != 0 {
            return Err(Error::shape(
                SPEC.name,
                what,
                format!("rows of {d}"),
                table.len(),
            ));
        }
    }
    let dims = Dims {
        t,
        d,
        vocab: tables.word.len() / d,
        max_positions: tables.position.len() / d,
    };
    device.run(SPEC.name, cost::<T>(t, d), |backend| match backend {
        Backend::Cpu(_) => cpu(tables, ids.host(), positions.host(), x.host_mut(), dims),
        Backend::Wgpu(dev) => wgpu(dev, tables, ids, positions, x, dims),
        Backend::Cuda(dev) => cuda(dev, tables, ids, positions, x, dims),
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

/// The definition, in loops. All tables row-major; result `[t, d]`.
pub fn reference<A: Accum>(
    tables: [&[f32]; 3],
    ids: &[u32],
    positions: &[u32],
    d: usize,
) -> Vec<A> {
    let mut x = Vec::with_capacity(ids.len() * d);
    for (&id, &position) in ids.iter().zip(positions) {
        for c in 0..d {
            let word = A::of(tables[0][id as usize * d + c].into());
            let position = A::of(tables[1][position as usize * d + c].into());
            let token_type = A::of(tables[2][c].into());
            x.push(word + position + token_type);
        }
    }
    x
}

/// Two roundings: `g(2) (|word| + |position| + |token_type|)` per element.
pub fn error_bound(
    tables: [&[f32]; 3],
    ids: &[u32],
    positions: &[u32],
    d: usize,
    rounding: &Rounding,
) -> Vec<f64> {
    let magnitudes = tables.map(|table| table.iter().map(|v| v.abs()).collect::<Vec<f32>>());
    let sums = reference::<f64>(
        [&magnitudes[0], &magnitudes[1], &magnitudes[2]],
        ids,
        positions,
        d,
    );
    sums.into_iter()
        .map(|sum| rounding.store(0.0, rounding.g(2) * sum, 4))
        .collect()
}

fn cpu<T: Float>(
    tables: &Tables<'_, T>,
    ids: &[u32],
    positions: &[u32],
    x: &mut [f32],
    dims: Dims,
) -> Result<()> {
    let out_of_range =
        |what, list: &[u32], limit: usize| match list.iter().find(|&&i| i as usize >= limit) {
            Some(i) => Err(Error::shape(SPEC.name, what, format!("below {limit}"), i)),
            None => Ok(()),
        };
    out_of_range("ids", ids, dims.vocab)?;
    out_of_range("positions", positions, dims.max_positions)?;
    let d = dims.d;
    let (word, position) = (tables.word.host(), tables.position.host());
    let token_type = &tables.token_type.host()[..d];
    x.par_chunks_mut(d)
        .enumerate()
        .with_min_len(64)
        .for_each(|(t, row)| {
            let word = &word[ids[t] as usize * d..][..d];
            let position = &position[positions[t] as usize * d..][..d];
            for (c, out) in row.iter_mut().enumerate() {
                *out = word[c].to_f32() + position[c].to_f32() + token_type[c].to_f32();
            }
        });
    Ok(())
}

fn wgpu<T: Float>(
    dev: &Wgpu,
    tables: &Tables<'_, T>,
    ids: &Buffer<u32>,
    positions: &Buffer<u32>,
    x: &mut Buffer<f32>,
    dims: Dims,
) -> Result<()> {
    let params = Params {
        t: dims.t as u32,
        d4: (dims.d / 4) as u32,
    };
    dev.dispatch(&Dispatch {
        source: WGSL,
        entry: "embedding",
        variant: variant(dev, T::TYPE),
        bindings: &[
            tables.word.bind(),
            tables.position.bind(),
            tables.token_type.bind(),
            ids.bind(),
            positions.bind(),
            x.bind_mut(),
        ],
        params: bytemuck::bytes_of(&params),
        groups: grid((dims.t * dims.d / 4).div_ceil(64)),
    })
}

/// Threads in a block of the PTX kernel, at most.
const BLOCK: usize = 256;

fn cuda<T: Float>(
    dev: &Cuda,
    tables: &Tables<'_, T>,
    ids: &Buffer<u32>,
    positions: &Buffer<u32>,
    x: &mut Buffer<f32>,
    dims: Dims,
) -> Result<()> {
    if dims.t == 0 {
        return Ok(());
    }
    // A thread takes 16 bytes of a row; short rows share a block.
    let width = (dims.d * size_of::<T>() / 16).min(BLOCK);
    let tokens = BLOCK / width;
    dev.launch(&Launch {
        source: PTX,
        entry: "embedding",
        variant: ptx_variant(T::TYPE),
        args: &[
            Arg::Buffer(tables.word.bind()),
            Arg::Buffer(tables.position.bind()),
            Arg::Buffer(tables.token_type.bind()),
            Arg::Buffer(ids.bind()),
            Arg::Buffer(positions.bind()),
            Arg::Buffer(x.bind_mut()),
            Arg::U32(dims.t as u32),
            Arg::U32(dims.d as u32),
            Arg::U32(width as u32),
            Arg::U32(tokens as u32),
        ],
        grid: [dims.t.div_ceil(tokens) as u32, 1, 1],
        block: [(width * tokens) as u32, 1, 1],
        shared_bytes: 0,
    })
}

fn variant(dev: &Wgpu, table: ElementType) -> Variant {
    tier_variant(dev.tier()).with("table", table.name())
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
            word: &table,
            position: &table,
            token_type: &table,
            d: 8,
        };
        let ids = cpu.upload(&[2u32]).unwrap();
        let positions = cpu.upload(&[0u32]).unwrap();
        let mut x = cpu.alloc(8).unwrap();
        let error = embedding(&tables, &ids, &positions, &mut x).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shape mismatch in embedding: ids: expected below 2, got 2"
        );
    }
}
