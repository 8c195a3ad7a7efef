//! Launches of `attention.ptx` and `attention.wgsl`.

use super::work::{Blocks, PTX_ROWS, WGSL_ROWS};
use super::{Args, MAX_HEAD_DIM, PART, SPEC, scale_of};
use crate::device::template::{Source, Variant};
use crate::device::{Call, Float, Geometry, Gpu, Kernel, Param, Slice, SliceMut};
use crate::error::Result;
use crate::ops::dropout::Mask;
use crate::ops::{FLOATS, grid, in_every_tier};

const PTX: Source = Source {
    file: "attention.ptx",
    text: include_str!("../../../kernels/attention.ptx"),
};

const WGSL: Source = Source {
    file: "attention.wgsl",
    text: include_str!("../../../shaders/attention.wgsl"),
};

pub(super) const ATTENTION: Kernel = Kernel {
    entry: "attention",
    params: &[
        Param::read("qkv"),
        Param::read("offsets").wgsl(),
        Param::read("work"),
        Param::write("out"),
        Param::u32("n_long").ptx(),
        Param::u32("n_middle").ptx(),
        Param::u32("n_blocks").wgsl(),
        Param::u32("n_heads"),
        Param::u32("head_dim"),
        Param::f32("exponent").ptx(),
        Param::f32("scale").wgsl(),
    ],
    ptx: Some(PTX),
    wgsl: Some(WGSL),
};

pub(super) const ATTENTION_SAVING: Kernel = Kernel {
    entry: "attention_saving",
    params: &[
        Param::read("qkv"),
        Param::read("offsets").wgsl(),
        Param::read("work"),
        Param::read("origins").optional(),
        Param::write("out"),
        Param::write("statistics"),
        Param::u32("n_long").ptx(),
        Param::u32("n_middle").ptx(),
        Param::u32("n_blocks").wgsl(),
        Param::u32("n_heads"),
        Param::u32("head_dim"),
        Param::f32("exponent").ptx(),
        Param::f32("scale").wgsl(),
        Param::u32("threshold"),
        Param::f32("kept"),
        Param::u32("key_0"),
        Param::u32("key_1"),
    ],
    ptx: Some(PTX),
    wgsl: Some(WGSL),
};

/// What training adds: where statistics go, and which probabilities are dropped.
pub(super) type Saving<'a> = (SliceMut<'a, f32>, Option<(Mask, Slice<'a, u32>)>);

/// What a variant does for training: nothing, statistics, dropout too.
const TRAINING: [(bool, bool); 3] = [(false, false), (true, false), (true, true)];

fn for_training(variant: Variant, (saving, dropout): (bool, bool)) -> Variant {
    variant.with("saving", saving).with("dropout", dropout)
}

/// Threshold, factor and key of a mask, as kernels take them; of none, what drops nothing.
pub(in crate::ops) fn mask_numbers(mask: Option<Mask>) -> (u32, f32, [u32; 2]) {
    mask.map_or((0, 1.0, [0; 2]), |mask| {
        (mask.threshold(), mask.scale(), mask.key)
    })
}

/// Query rows, or pairs of heads and rows, of a warp of the PTX kernel.
const WARP_ROWS: usize = PTX_ROWS[2];

/// Heads that can share a workgroup of the shader.
pub(in crate::ops) fn most_heads(head_dim: usize) -> usize {
    (64 / WGSL_ROWS / (head_dim / PART)).max(1)
}

/// Heads that share one, so that narrow heads still fill 64 invocations.
pub(in crate::ops) fn heads_per_group(n_heads: usize, head_dim: usize) -> usize {
    (1..=most_heads(head_dim))
        .rev()
        .find(|h| n_heads.is_multiple_of(*h))
        .unwrap_or(1)
}

/// Workgroups that share a block of rows: an adapter need not take more than 256 invocations in one.
pub(in crate::ops) fn splits(head_dim: usize) -> usize {
    (WGSL_ROWS * head_dim / PART).div_ceil(256)
}

pub(in crate::ops) fn wgsl_variant(act: &'static str, head_dim: usize, heads: usize) -> Variant {
    Variant::new()
        .with("act", act)
        .with("parts", (head_dim / PART) as i64)
        .with("heads", heads as i64)
}

/// All that [`heads_per_group`] leads to, for either element type.
pub(in crate::ops) fn wgsl_shapes() -> Vec<Variant> {
    let mut all = Vec::new();
    for act in FLOATS {
        for head_dim in (PART..=MAX_HEAD_DIM).step_by(PART) {
            all.extend(
                (1..=most_heads(head_dim)).map(|heads| wgsl_variant(act.name(), head_dim, heads)),
            );
        }
    }
    all
}

pub(super) fn wgsl_variants() -> Vec<Variant> {
    let of = |shape| TRAINING.map(|training| for_training(shape, training));
    in_every_tier(wgsl_shapes().into_iter().flat_map(of))
}

/// How the PTX kernel divides a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum PtxShape {
    /// A warp has all columns of its rows.
    Whole {
        /// Columns of a head, 32 or 64.
        width: usize,
    },
    /// A warp has 64 columns (or fewer, the last); the warps of a block add up their scores.
    Slices {
        /// Warps of a block.
        slices: usize,
        /// Keys per step.
        keys: usize,
    },
}

impl PtxShape {
    /// Columns of a slice.
    const SLICE: usize = 64;

    pub(in crate::ops) fn of(head_dim: usize) -> Self {
        if head_dim <= Self::SLICE {
            return PtxShape::Whole { width: head_dim };
        }
        let slices = head_dim.div_ceil(Self::SLICE);
        // With 16 keys up to 12 slices fit into the shared memory (99 KiB) and the registers of every device.
        let keys = if slices <= 8 { 32 } else { 16 };
        PtxShape::Slices { slices, keys }
    }

    fn variant(self) -> Variant {
        let (width, sliced, keys) = match self {
            PtxShape::Whole { width } => (width, false, 64),
            PtxShape::Slices { keys, .. } => (Self::SLICE, true, keys),
        };
        Variant::new()
            .with("width", width as i64)
            .with("sliced", sliced)
            .with("keys", keys as i64)
    }

    fn threads(self) -> u32 {
        match self {
            PtxShape::Whole { .. } => 128,
            PtxShape::Slices { slices, .. } => 32 * slices as u32,
        }
    }

    fn shared_bytes(self) -> u32 {
        match self {
            // Three stages of 64 keys and values.
            PtxShape::Whole { width } => 3 * 64 * 2 * (2 * width as u32),
            // Keys and values of a slice, and 32 rows of scores in f32.
            PtxShape::Slices { slices, keys } => {
                slices as u32 * keys as u32 * (2 * 2 * Self::SLICE as u32 + 4 * WARP_ROWS as u32)
            }
        }
    }

    /// Blocks of threads for the entries of each class.
    pub(in crate::ops) fn launch_blocks(self, entries: [usize; 3], n_heads: usize) -> usize {
        let per_entry = PTX_ROWS.map(|rows| match self {
            PtxShape::Whole { .. } => n_heads.div_ceil(PTX_ROWS[0] / rows),
            PtxShape::Slices { .. } => n_heads * (rows / WARP_ROWS),
        });
        entries.iter().zip(per_entry).map(|(n, per)| n * per).sum()
    }
}

pub(super) fn ptx_variants() -> Vec<Variant> {
    let shapes = [32, 64, 96, MAX_HEAD_DIM].map(|head_dim| PtxShape::of(head_dim).variant());
    let of = |shape| TRAINING.map(|training| for_training(shape, training));
    shapes.into_iter().flat_map(of).collect()
}

pub(super) fn attention<A: Float>(
    gpu: Gpu<'_>,
    args: &Args<'_, A>,
    saving: Option<Saving<'_>>,
    mut out: SliceMut<'_, A>,
) -> Result<()> {
    let &Args {
        qkv,
        texts,
        work,
        n_heads,
        head_dim,
    } = args;
    let scale = scale_of(head_dim);
    let (variant, [n_long, n_middle, n_blocks], geometry) = match work.blocks() {
        Blocks::Wgsl(n_blocks) => {
            let heads = heads_per_group(n_heads, head_dim);
            let geometry = Geometry {
                groups: grid(n_blocks * splits(head_dim) * (n_heads / heads)),
                ..Geometry::default()
            };
            let variant = wgsl_variant(A::TYPE.name(), head_dim, heads);
            (variant, [0, 0, n_blocks], geometry)
        }
        Blocks::Ptx(entries) => {
            let shape = PtxShape::of(head_dim);
            let blocks = shape.launch_blocks(entries, n_heads);
            let width = n_heads * head_dim;
            if blocks >= 1 << 31 || 3 * width >= 1 << 30 {
                let tokens = texts.tokens();
                let why = format!("{tokens} tokens of width {width} are too many for one launch");
                return Err(SPEC.unsupported(out.device(), &why));
            }
            let geometry = Geometry {
                grid: [blocks as u32, 1, 1],
                threads: shape.threads(),
                shared_bytes: shape.shared_bytes(),
                ..Geometry::default()
            };
            (shape.variant(), [entries[0], entries[1], 0], geometry)
        }
    };
    let exponent = (f64::from(scale) * std::f64::consts::LOG2_E) as f32;
    let Some((mut statistics, mask)) = saving else {
        return gpu.call(&Call {
            kernel: &ATTENTION,
            variant: for_training(variant, (false, false)),
            args: &[
                qkv.into(),
                texts.on_device().into(),
                work.on_device().into(),
                (&mut out).into(),
                n_long.into(),
                n_middle.into(),
                n_blocks.into(),
                n_heads.into(),
                head_dim.into(),
                exponent.into(),
                scale.into(),
            ],
            geometry,
        });
    };
    let (threshold, kept, key) = mask_numbers(mask.map(|(mask, _)| mask));
    gpu.call(&Call {
        kernel: &ATTENTION_SAVING,
        variant: for_training(variant, (true, mask.is_some())),
        args: &[
            qkv.into(),
            texts.on_device().into(),
            work.on_device().into(),
            mask.map(|(_, origins)| origins).into(),
            (&mut out).into(),
            (&mut statistics).into(),
            n_long.into(),
            n_middle.into(),
            n_blocks.into(),
            n_heads.into(),
            head_dim.into(),
            exponent.into(),
            scale.into(),
            threshold.into(),
            kept.into(),
            key[0].into(),
            key[1].into(),
        ],
        geometry,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_heads_divide_the_heads() {
        assert_eq!(heads_per_group(12, 32), 4);
        assert_eq!(heads_per_group(3, 32), 3);
        assert_eq!(heads_per_group(12, 64), 2);
        assert_eq!(heads_per_group(1, 384), 1);
    }

    #[test]
    fn every_shader_variant_that_is_asked_for_is_listed_and_no_other() {
        let listed = wgsl_variants();
        let mut asked = Vec::new();
        for head_dim in (PART..=MAX_HEAD_DIM).step_by(PART) {
            for n_heads in 1..=24 {
                let heads = heads_per_group(n_heads, head_dim);
                for act in FLOATS {
                    let variant = wgsl_variant(act.name(), head_dim, heads);
                    asked.extend(in_every_tier(
                        TRAINING.map(|training| for_training(variant, training)),
                    ));
                }
            }
        }
        assert!(asked.iter().all(|v| listed.contains(v)));
        assert!(listed.iter().all(|v| asked.contains(v)));
    }

    #[test]
    fn a_workgroup_takes_what_every_adapter_has() {
        assert_eq!([32, 384, 512].map(splits), [1, 1, 1]);
        assert_eq!([544, 768].map(splits), [2, 2]);
        for head_dim in (PART..=MAX_HEAD_DIM).step_by(PART) {
            let variant = for_training(wgsl_variant("f32", head_dim, 1), (false, false));
            let variant = in_every_tier([variant])[0];
            let shader = crate::device::template::expand(ATTENTION.wgsl.unwrap(), &variant);
            let shader = shader.unwrap().text;
            let rows = WGSL_ROWS / splits(head_dim);
            for line in [
                format!("const SPLITS: u32 = {}u;", splits(head_dim)),
                format!("@workgroup_size({})", rows * head_dim / PART),
            ] {
                assert!(shader.contains(&line), "{head_dim}: {line}");
            }
        }
    }

    #[test]
    fn every_entry_has_its_blocks() {
        let whole = PtxShape::of(32);
        assert_eq!(whole.launch_blocks([4, 1, 2], 12), 4 * 12 + 6 + 2 * 3);
        assert_eq!(whole.launch_blocks([4, 1, 2], 3), 4 * 3 + 2 + 2);
        let sliced = PtxShape::of(384);
        assert_eq!(sliced.launch_blocks([4, 1, 2], 1), 4 * 4 + 2 + 2);
    }

    #[test]
    fn ptx_shapes_are_those_of_the_kernel() {
        let mut asked = Vec::new();
        for head_dim in (PART..=MAX_HEAD_DIM).step_by(PART) {
            let shape = PtxShape::of(head_dim);
            for training in TRAINING {
                let variant = for_training(shape.variant(), training);
                let kernel = crate::device::template::expand(PTX, &variant).unwrap().text;
                let most: u32 = kernel
                    .split_once(".maxntid ")
                    .and_then(|(_, rest)| rest.split(',').next()?.parse().ok())
                    .unwrap();
                assert!(shape.threads() <= most, "{head_dim}");
                assert!(shape.shared_bytes() <= 99 << 10, "{head_dim}");
                if let PtxShape::Whole { .. } = shape {
                    // The offset at which the last stage wraps round to the first.
                    assert!(kernel.contains(&format!("%r_use, {};\n", shape.shared_bytes())));
                }
                asked.push(variant);
            }
        }
        assert!(asked.iter().all(|v| ptx_variants().contains(v)));
        assert!(ptx_variants().iter().all(|v| asked.contains(v)));
    }
}
