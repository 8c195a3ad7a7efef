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
    PtxTile::variants(&PTX_TILES, epilogues())
}

/// A division of work of the PTX kernels of products.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct PtxTile {
    /// Outputs of a block, rows and columns.
    block: [usize; 2],
    /// Outputs of a warp.
    warp: [usize; 2],
    /// Steps of 32 in shared memory.
    stages: usize,
    /// Blocks that a multiprocessor is to hold.
    blocks: usize,
}

impl PtxTile {
    const fn new(block: [usize; 2], warp: [usize; 2], stages: usize, blocks: usize) -> Self {
        PtxTile {
            block,
            warp,
            stages,
            blocks,
        }
    }

    pub const fn threads(self) -> u32 {
        (32 * (self.block[0] / self.warp[0]) * (self.block[1] / self.warp[1])) as u32
    }

    /// Shared memory: in each stage 32 f16 of each row or column of both operands.
    pub const fn shared_bytes(self) -> u32 {
        (self.stages * (self.block[0] + self.block[1]) * 64) as u32
    }

    /// Kernels with these epilogues for `tiles` and all types of results.
    pub fn variants(
        tiles: &[PtxTile],
        epilogues: impl Iterator<Item = Variant> + Clone,
    ) -> Vec<Variant> {
        let mut all = Vec::new();
        for tile in tiles {
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
            .with("tile_m", self.block[0] as i64)
            .with("tile_n", self.block[1] as i64)
            .with("warp_m", self.warp[0] as i64)
            .with("warp_n", self.warp[1] as i64)
            .with("stages", self.stages as i64)
            .with("blocks", self.blocks as i64)
    }

    /// Blocks that cover `rows x columns` outputs.
    pub fn count(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.block[0]) * columns.div_ceil(self.block[1])
    }

    /// The first of `tiles` that gives every multiprocessor a block, else the last.
    pub fn choose(tiles: &[PtxTile], rows: usize, columns: usize, multiprocessors: u32) -> Self {
        let busy = |tile: &&Self| tile.count(rows, columns) >= multiprocessors as usize;
        *tiles.iter().find(busy).unwrap_or(&tiles[tiles.len() - 1])
    }
}

/// Where there is little to do, more multiprocessors have something to do.
const SMALL_TILE: PtxTile = PtxTile::new([64, 64], [32, 32], 4, 4);

/// Of `matmul`. On an H200, 128 x 128 outputs in warps of 64 x 64 are 4 to 8 % faster than in warps of 64 x 32, and than
/// 256 x 128 outputs.
const PTX_TILES: [PtxTile; 2] = [PtxTile::new([128, 128], [64, 64], 3, 2), SMALL_TILE];

/// Of `matmul_nn`.
pub(in crate::ops) const NN_TILES: [PtxTile; 2] =
    [PtxTile::new([128, 128], [64, 32], 3, 2), SMALL_TILE];

/// How a GPU multiplies `rows x columns` outputs of type `C` with an epilogue.
pub(in crate::ops) fn plan<A: Float, C: Float>(
    spec: &OpSpec,
    gpu: Gpu<'_>,
    device: &Device,
    tiles: &[PtxTile],
    epilogue: Variant,
    [rows, columns]: [usize; 2],
) -> Result<(Variant, Geometry)> {
    let (variant, tile) = match gpu {
        Gpu::Cuda(cuda) => {
            let tile = PtxTile::choose(tiles, rows, columns, cuda.multiprocessors());
            (tile.variant(epilogue, C::TYPE.name()), tile)
        }
        Gpu::Wgpu(wgpu) => {
            let variant = epilogue
                .with("input", A::TYPE.name())
                .with("output", C::TYPE.name())
                // Workgroup memory is a detour on a processor, where it is ordinary memory behind costly barriers.
                .with("staged", wgpu.staged());
            (variant, tiles[0])
        }
    };
    let blocks = tile.count(rows, columns);
    if rows.max(columns) >= MOST || blocks >= 1 << 31 {
        let why = format!("{rows} x {columns} outputs are too many for one launch");
        return Err(spec.unsupported(device, &why));
    }
    let geometry = Geometry {
        groups: grid(rows.div_ceil(TILE) * columns.div_ceil(TILE)),
        grid: [blocks as u32, 1, 1],
        threads: tile.threads(),
        shared_bytes: tile.shared_bytes(),
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
    let (variant, geometry) = plan::<A, C>(&SPEC, gpu, c.device(), &PTX_TILES, variant, [m, n])?;
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
            assert!(kernel.contains(&format!(".maxntid {}, 1, 1\n", tile.threads())));
            assert!(kernel.contains(&format!("%r_use, {};\n", tile.shared_bytes())));
        }
        assert_eq!(
            PtxTile::choose(&PTX_TILES, 128 * 44, 384, 132).block[0],
            128
        );
        assert_eq!(PtxTile::choose(&PTX_TILES, 128 * 43, 384, 132).block[0], 64);
    }
}
