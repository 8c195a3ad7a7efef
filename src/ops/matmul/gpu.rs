//! Launches of `matmul.ptx` and `matmul.wgsl`.

use super::{Dims, Epilogue, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Device, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::{FLOATS, OpSpec, grid, in_every_tier};

pub(super) const MATMUL: Kernel = Kernel {
    entry: "matmul",
    params: &[
        Param::read("a"),
        Param::read("w"),
        Param::read("bias").optional(),
        Param::read("residual").optional(),
        Param::write("before_gelu").optional(),
        Param::write("c"),
        Param::u32("m"),
        Param::u32("n"),
        Param::u32("k"),
    ],
    ptx: Some(Source {
        file: "matmul.ptx",
        text: include_str!("../../../kernels/matmul.ptx"),
    }),
    wgsl: Some(Source {
        file: "matmul.wgsl",
        text: include_str!("../../../shaders/matmul.wgsl"),
    }),
};

/// Outputs of one WGSL workgroup: `TILE x TILE`, 16 x 16 invocations with 4 x 4 outputs each.
const TILE: usize = 64;

impl Epilogue<'_> {
    fn variant(&self, saves: bool) -> Variant {
        epilogue_variant(
            self.bias.is_some(),
            self.gelu,
            self.residual.is_some(),
            saves,
        )
    }
}

fn epilogue_variant(bias: bool, gelu: bool, residual: bool, saves: bool) -> Variant {
    Variant::new()
        .with("bias", bias)
        .with("gelu", gelu)
        .with("residual", residual)
        .with("saves", saves)
}

/// All eight epilogues, and those with GELU once more where what it takes is kept.
fn epilogues() -> impl Iterator<Item = Variant> + Clone {
    (0..16)
        .map(|bits| [1, 2, 4, 8].map(|bit| bits & bit != 0))
        .filter(|&[_, gelu, _, saves]| gelu || !saves)
        .map(|[bias, gelu, residual, saves]| epilogue_variant(bias, gelu, residual, saves))
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    in_every_tier(with_element_types(epilogues()))
}

/// Shaders with these epilogues for all types of operands and results, with panels in workgroup memory and without.
pub(in crate::ops) fn with_element_types(
    epilogues: impl Iterator<Item = Variant> + Clone,
) -> Vec<Variant> {
    let mut all = Vec::new();
    for staged in [true, false] {
        for input in FLOATS {
            for output in FLOATS {
                all.extend(epilogues.clone().map(|e| {
                    e.with("input", input.name())
                        .with("output", output.name())
                        .with("staged", staged)
                }));
            }
        }
    }
    all
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    PtxTile::variants(epilogues())
}

/// A tile size of the PTX kernels of products: `side x side` outputs per block.
#[derive(Clone, Copy)]
pub(in crate::ops) struct PtxTile {
    side: usize,
    pub threads: u32,
    pub shared_bytes: u32,
}

/// Largest first. 128 reads half as much per FLOP; 64 keeps more multiprocessors busy when there is little to do.
const PTX_TILES: [PtxTile; 2] = [
    PtxTile {
        side: 128,
        threads: 256,
        shared_bytes: 3 * PtxTile::step_bytes(128),
    },
    PtxTile {
        side: 64,
        threads: 128,
        shared_bytes: 4 * PtxTile::step_bytes(64),
    },
];

impl PtxTile {
    /// Shared memory of one step: 32 f16 of each row or column of both operands.
    const fn step_bytes(side: u32) -> u32 {
        2 * side * 32 * 2
    }

    /// Kernels with these epilogues for all tiles and types of results.
    pub fn variants(epilogues: impl Iterator<Item = Variant> + Clone) -> Vec<Variant> {
        let mut all = Vec::new();
        for tile in PTX_TILES {
            for output in FLOATS {
                let of = |epilogue| tile.variant(epilogue, output.name());
                all.extend(epilogues.clone().map(of));
            }
        }
        all
    }

    pub fn variant(self, epilogue: Variant, output: &'static str) -> Variant {
        epilogue
            .with("output", output)
            .with("tile_m", self.side as i64)
            .with("tile_n", self.side as i64)
    }

    /// Blocks that cover `rows x columns` outputs.
    pub fn blocks(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.side) * columns.div_ceil(self.side)
    }

    /// The largest tile that gives every multiprocessor a block, else the smallest.
    pub fn choose(rows: usize, columns: usize, multiprocessors: u32) -> Self {
        let busy = |tile: &Self| tile.blocks(rows, columns) >= multiprocessors as usize;
        PTX_TILES.into_iter().find(busy).unwrap_or(PTX_TILES[1])
    }
}

/// How a GPU multiplies `rows x columns` outputs of type `C` with an epilogue.
pub(in crate::ops) fn plan<A: Float, C: Float>(
    spec: &OpSpec,
    gpu: Gpu<'_>,
    device: &Device,
    epilogue: Variant,
    [rows, columns]: [usize; 2],
) -> Result<(Variant, Geometry)> {
    let (variant, tile) = match gpu {
        Gpu::Cuda(cuda) => {
            let tile = PtxTile::choose(rows, columns, cuda.multiprocessors());
            (tile.variant(epilogue, C::TYPE.name()), tile)
        }
        Gpu::Wgpu(wgpu) => {
            let variant = epilogue
                .with("input", A::TYPE.name())
                .with("output", C::TYPE.name())
                // Workgroup memory is a detour on a processor, where it is ordinary memory behind costly barriers.
                .with("staged", wgpu.staged());
            (variant, PTX_TILES[0])
        }
    };
    let blocks = tile.blocks(rows, columns);
    if rows.max(columns) >= MOST || blocks >= 1 << 31 {
        let why = format!("{rows} x {columns} outputs are too many for one launch");
        return Err(spec.unsupported(device, &why));
    }
    let geometry = Geometry {
        groups: grid(rows.div_ceil(TILE) * columns.div_ceil(TILE)),
        grid: [blocks as u32, 1, 1],
        threads: tile.threads,
        shared_bytes: tile.shared_bytes,
    };
    Ok((variant, geometry))
}

/// Rows or columns of one launch, at most: their numbers and byte offsets within a row stay below 2^32.
const MOST: usize = (1 << 31) - 256;

pub(super) fn matmul<A: Float, C: Float>(
    gpu: Gpu<'_>,
    a: Slice<'_, A>,
    w: Slice<'_, A>,
    epilogue: &Epilogue<'_>,
    mut before_gelu: Option<SliceMut<'_, A>>,
    mut c: SliceMut<'_, C>,
    dims: Dims,
) -> Result<()> {
    let Dims { m, n, k } = dims;
    let variant = epilogue.variant(before_gelu.is_some());
    let (variant, geometry) = plan::<A, C>(&SPEC, gpu, c.device(), variant, [m, n])?;
    gpu.call(&Call {
        kernel: &MATMUL,
        variant,
        args: &[
            a.into(),
            w.into(),
            epilogue.bias.into(),
            epilogue.residual.into(),
            before_gelu.as_mut().into(),
            (&mut c).into(),
            m.into(),
            n.into(),
            k.into(),
        ],
        geometry,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_tiles_are_those_of_the_kernel() {
        for tile in PTX_TILES {
            let variant = tile.variant(epilogue_variant(false, false, false, false), "f32");
            let kernel = crate::device::template::expand(MATMUL.ptx.unwrap(), &variant)
                .unwrap()
                .text;
            // The block size, and the offset at which the last slot of shared memory wraps round to the first.
            assert!(kernel.contains(&format!(".maxntid {}, 1, 1\n", tile.threads)));
            assert!(kernel.contains(&format!("%r_use, {};\n", tile.shared_bytes)));
        }
        assert_eq!(PtxTile::choose(128 * 44, 384, 132).side, 128);
        assert_eq!(PtxTile::choose(128 * 43, 384, 132).side, 64);
    }
}
