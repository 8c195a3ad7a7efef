//! Launches of `matmul_nn.ptx` and `matmul_nn.wgsl`.

use super::{Dims, NnEpilogue, SPEC};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::in_every_tier;
use crate::ops::matmul::{NN_TILES, PtxTile, plan, with_element_types};

pub(super) const MATMUL_NN: Kernel = Kernel {
    entry: "matmul_nn",
    params: &[
        Param::read("a"),
        Param::read("w"),
        Param::read("gelu_of").optional(),
        Param::read("residual").optional(),
        Param::write("c"),
        Param::u32("m"),
        Param::u32("n"),
        Param::u32("k"),
    ],
    ptx: Some(Source {
        file: "matmul_nn.ptx",
        text: include_str!("../../../kernels/matmul_nn.ptx"),
    }),
    wgsl: Some(Source {
        file: "matmul_nn.wgsl",
        text: include_str!("../../../shaders/matmul_nn.wgsl"),
    }),
};

fn variant(gelu: bool, residual: bool) -> Variant {
    Variant::new().with("gelu", gelu).with("residual", residual)
}

/// All four epilogues.
fn epilogues() -> impl Iterator<Item = Variant> + Clone {
    (0..4).map(|bits| variant(bits & 1 != 0, bits & 2 != 0))
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    in_every_tier(with_element_types(epilogues()))
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    PtxTile::variants(&NN_TILES, epilogues())
}

pub(super) fn matmul_nn<A: Float, C: Float>(
    gpu: Gpu<'_>,
    a: Slice<'_, A>,
    w: Slice<'_, A>,
    epilogue: &NnEpilogue<'_, A>,
    mut c: SliceMut<'_, C>,
    dims: Dims,
) -> Result<()> {
    let Dims { m, n, k } = dims;
    let variant = variant(epilogue.gelu_of.is_some(), epilogue.residual.is_some());
    let (variant, geometry) = plan::<A, C>(&SPEC, gpu, c.device(), &NN_TILES, variant, [m, k])?;
    gpu.call(&Call {
        kernel: &MATMUL_NN,
        variant,
        args: &[
            a.into(),
            w.into(),
            epilogue.gelu_of.into(),
            epilogue.residual.into(),
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
    fn tiles_are_those_of_the_kernel() {
        for variant in ptx_variants() {
            let text = crate::device::template::expand(MATMUL_NN.ptx.unwrap(), &variant)
                .unwrap()
                .text;
            let tile = PtxTile::choose(
                &NN_TILES,
                if text.contains(".maxntid 256") {
                    1 << 20
                } else {
                    1
                },
                128,
                8,
            );
            assert!(text.contains(&format!(".maxntid {}, 1, 1\n", tile.threads())));
            assert!(text.contains(&format!("%r_use, {};\n", tile.shared_bytes())));
        }
    }
}
