//! Launches of `matmul.ptx` and `matmul.wgsl`.

use super::{Dims, Epilogue, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::{FLOATS, grid, in_every_tier};

pub(super) const MATMUL: Kernel = Kernel {
    entry: "matmul",
    params: &[
        Param::read("a"),
        Param::read("w"),
        Param::read("bias").optional(),
        Param::read("residual").optional(),
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
    fn variant(&self) -> Variant {
        epilogue_variant(self.bias.is_some(), self.gelu, self.residual.is_some())
    }
}

fn epilogue_variant(bias: bool, gelu: bool, residual: bool) -> Variant {
    Variant::new()
        .with("bias", bias)
        .with("gelu", gelu)
        .with("residual", residual)
}

/// All eight epilogues.
fn epilogues() -> impl Iterator<Item = Variant> {
    (0..8).map(|bits| epilogue_variant(bits & 1 != 0, bits & 2 != 0, bits & 4 != 0))
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for staged in [true, false] {
        for input in FLOATS {
            for output in FLOATS {
                all.extend(epilogues().map(|e| {
                    e.with("input", input.name())
                        .with("output", output.name())
                        .with("staged", staged)
                }));
            }
        }
    }
    in_every_tier(all)
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for tile in PTX_TILES {
        for output in FLOATS {
            all.extend(epilogues().map(|e| tile.variant(e, output.name())));
        }
    }
    all
}

/// A tile size of the PTX kernel: `side x side` outputs per block.
#[derive(Clone, Copy)]
struct PtxTile {
    side: usize,
    threads: u32,
    shared_bytes: u32,
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
    /// Shared memory of one k step: 32 f16 of each row of both operands.
    const fn step_bytes(side: u32) -> u32 {
        2 * side * 32 * 2
    }

    fn variant(self, epilogue: Variant, output: &'static str) -> Variant {
        epilogue
            .with("output", output)
            .with("tile_m", self.side as i64)
            .with("tile_n", self.side as i64)
    }

    /// Blocks that cover `m x n` outputs.
    fn blocks(self, dims: Dims) -> usize {
        dims.m.div_ceil(self.side) * dims.n.div_ceil(self.side)
    }

    /// The largest tile that gives every multiprocessor a block, else the smallest.
    fn choose(dims: Dims, multiprocessors: u32) -> Self {
        let busy = |tile: &Self| tile.blocks(dims) >= multiprocessors as usize;
        PTX_TILES.into_iter().find(busy).unwrap_or(PTX_TILES[1])
    }
}

/// Rows or columns of one launch, at most: their numbers and byte offsets within a row stay below 2^32.
const MOST: usize = (1 << 31) - 256;

pub(super) fn matmul<A: Float, C: Float>(
    gpu: Gpu<'_>,
    a: Slice<'_, A>,
    w: Slice<'_, A>,
    epilogue: &Epilogue<'_>,
    before_gelu: Option<SliceMut<'_, A>>,
    mut c: SliceMut<'_, C>,
    dims: Dims,
) -> Result<()> {
    let Dims { m, n, k } = dims;
    if before_gelu.is_some() {
        return Err(SPEC.unsupported(c.device(), "no kernel keeps the value before GELU"));
    }
    let (variant, tile) = match gpu {
        Gpu::Cuda(device) => {
            let tile = PtxTile::choose(dims, device.multiprocessors());
            (tile.variant(epilogue.variant(), C::TYPE.name()), tile)
        }
        Gpu::Wgpu(device) => {
            let variant = epilogue
                .variant()
                .with("input", A::TYPE.name())
                .with("output", C::TYPE.name())
                // Workgroup memory is a detour on a processor, where it is ordinary memory behind costly barriers.
                .with("staged", device.staged());
            (variant, PTX_TILES[0])
        }
    };
    if m.max(n) >= MOST || tile.blocks(dims) >= 1 << 31 {
        let why = format!("{m} x {n} outputs are too many for one launch");
        return Err(SPEC.unsupported(c.device(), &why));
    }
    gpu.call(&Call {
        kernel: &MATMUL,
        variant,
        args: &[
            a.into(),
            w.into(),
            epilogue.bias.into(),
            epilogue.residual.into(),
            (&mut c).into(),
            m.into(),
            n.into(),
            k.into(),
        ],
        geometry: Geometry {
            groups: grid(m.div_ceil(TILE) * n.div_ceil(TILE)),
            grid: [tile.blocks(dims) as u32, 1, 1],
            threads: tile.threads,
            shared_bytes: tile.shared_bytes,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_tiles_are_those_of_the_kernel() {
        for tile in PTX_TILES {
            let variant = tile.variant(epilogue_variant(false, false, false), "f32");
            let kernel = crate::device::template::expand(MATMUL.ptx.unwrap(), &variant)
                .unwrap()
                .text;
            // The block size, and the offset at which the last slot of shared memory wraps round to the first.
            assert!(kernel.contains(&format!(".maxntid {}, 1, 1\n", tile.threads)));
            assert!(kernel.contains(&format!("%r_use, {};\n", tile.shared_bytes)));
        }
        let dims = |m| Dims { m, n: 384, k: 384 };
        assert_eq!(PtxTile::choose(dims(128 * 44), 132).side, 128);
        assert_eq!(PtxTile::choose(dims(128 * 43), 132).side, 64);
    }
}
