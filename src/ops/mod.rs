//! The operators.
//!
//! An operator is one name and, under that name, everything there is to know about it: its definition with shapes,
//! checks and a reference here in `src/ops/`, its PTX in `kernels/`, its WGSL in `shaders/`, its parity cases in
//! `tests/parity/` and its bench in `benches/ops/`. [`ALL`] lists them; a test fails when a part is missing.
//!
//! Every reference is plain loops, generic over the accumulator ([`Accum`]): in `f64` it is the truth that devices
//! are held to, in `f32` it shows the error that a plain program makes. Every operator also has an `error_bound`:
//! given inputs and a device's [`Rounding`], the largest error each output element may have, derived from the number
//! of roundings on its way (see the function's documentation), never guessed.

pub mod attention;
pub mod cosine_topk;
pub mod embedding;
pub mod layer_norm;
pub mod matmul;
pub mod maxsim;
pub mod pool;
pub mod similarity_map;
pub mod soft_alignment;
pub mod table;

mod rounding;
mod simd;
mod token_pairs;

pub use attention::attention;
pub use cosine_topk::cosine_topk;
pub use embedding::embedding;
pub use layer_norm::layer_norm;
pub use matmul::matmul;
pub use maxsim::maxsim;
pub use pool::pool;
pub use rounding::Rounding;
pub use similarity_map::similarity_map;
pub use soft_alignment::soft_alignment;
pub use token_pairs::{MapLayout, PairList, Pairs, Tokens};

use crate::device::template::{Source, Variant};
use crate::device::{Buffer, Device, DeviceKind, Element, ElementType, Tier};
use crate::error::{Error, Result};

/// What there is under an operator's name.
#[derive(Clone, Copy, Debug)]
pub struct OpSpec {
    /// The name that all its parts share.
    pub name: &'static str,
    /// The formula, in one line.
    pub formula: &'static str,
    /// Its PTX template, if it runs on CUDA.
    pub ptx: Option<Source>,
    /// Every variant of the PTX template that the launcher can ask for.
    pub ptx_variants: fn() -> Vec<Variant>,
    /// Its WGSL template, if it runs on wgpu.
    pub wgsl: Option<Source>,
    /// Every variant of the WGSL template that the launcher can ask for, both tiers.
    pub wgsl_variants: fn() -> Vec<Variant>,
}

impl OpSpec {
    /// Whether this operator exists on devices of this kind.
    pub fn runs_on(&self, kind: DeviceKind) -> bool {
        match kind {
            DeviceKind::Cpu => true,
            DeviceKind::Cuda => self.ptx.is_some(),
            DeviceKind::Wgpu => self.wgsl.is_some(),
        }
    }

    /// The error for a device that lacks this operator, or the variant of it that was asked for.
    fn unsupported(&self, device: &Device, why: &str) -> Error {
        Error::Unsupported {
            op: self.name,
            device: device.name(),
            why: why.into(),
        }
    }
}

/// Every operator, in the order in which a query meets them.
pub const ALL: &[&OpSpec] = &[
    &embedding::SPEC,
    &layer_norm::SPEC,
    &matmul::SPEC,
    &attention::SPEC,
    &pool::SPEC,
    &cosine_topk::SPEC,
    &similarity_map::SPEC,
    &maxsim::SPEC,
    &soft_alignment::SPEC,
];

/// The operators that encoding and exact retrieval need.
pub const RETRIEVAL: &[&OpSpec] = &[
    &embedding::SPEC,
    &layer_norm::SPEC,
    &matmul::SPEC,
    &attention::SPEC,
    &pool::SPEC,
    &cosine_topk::SPEC,
];

/// The accumulator of a reference implementation: `f64` is the truth, `f32` the yardstick.
pub trait Accum:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::AddAssign
{
    /// Rounds a value to this precision.
    fn of(v: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Natural exponential.
    fn exp(self) -> Self;
}

macro_rules! accum {
    ($t:ty) => {
        impl Accum for $t {
            fn of(v: f64) -> Self {
                v as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
        }
    };
}
accum!(f32);
accum!(f64);

/// Packed texts: `t` tokens of `n` texts one behind the other, text `i` being rows `offsets[i] .. offsets[i + 1]`.
///
/// Lives on a device together with the work list of [`fn@attention`]: texts cut into blocks of query rows.
pub struct Packing {
    offsets: Vec<u32>,
    device_offsets: Buffer<u32>,
    blocks: Buffer<u32>,
    n_blocks: attention::Blocks,
}

impl Packing {
    /// Checks `offsets` `[n + 1]` and places them on `device`.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not begin with 0 or fall anywhere. Empty texts are allowed.
    pub fn new(device: &Device, offsets: Vec<u32>) -> Result<Self> {
        if offsets.first() != Some(&0) || offsets.windows(2).any(|w| w[0] > w[1]) {
            return Err(Error::shape(
                "packing",
                "offsets",
                "0 first, then never falling",
                format!("{:?}", &offsets[..offsets.len().min(8)]),
            ));
        }
        let (blocks, n_blocks) = attention::blocks(device.kind(), &offsets);
        Ok(Packing {
            n_blocks,
            device_offsets: device.upload(&offsets)?,
            blocks: device.upload(&blocks)?,
            offsets,
        })
    }

    /// Number of texts, `n`.
    pub fn texts(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of tokens of all texts, `t`.
    pub fn tokens(&self) -> usize {
        *self.offsets.last().expect("never empty") as usize
    }

    /// The offsets, `[n + 1]`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }
}

/// Requires `buffer` to hold `expected` elements and to live on `device`.
fn check<T: Element>(
    op: &'static str,
    what: &'static str,
    buffer: &Buffer<T>,
    expected: usize,
    device: &Device,
) -> Result<()> {
    if buffer.len() != expected {
        return Err(Error::shape(op, what, expected, buffer.len()));
    }
    check_device(op, what, buffer.device(), device)
}

/// Requires that `got` is the very device `expected`: two openings of one device do not share buffers.
pub(crate) fn check_device(
    op: &'static str,
    what: &'static str,
    got: &Device,
    expected: &Device,
) -> Result<()> {
    if got.same_as(expected) {
        return Ok(());
    }
    let (name, mut other) = (expected.name(), got.name());
    if other == name {
        other = "a buffer of another opening of it (clone a Device to share it)".into();
    }
    Err(Error::shape(op, what, format!("a buffer on {name}"), other))
}

/// Requires a width to be a positive multiple of 8: vector loads rely on it on every device.
fn check_width(op: &'static str, what: &'static str, d: usize) -> Result<()> {
    if d == 0 || !d.is_multiple_of(8) {
        return Err(Error::shape(op, what, "a positive multiple of 8", d));
    }
    Ok(())
}

/// The template values that say what the adapter can do.
fn tier_variant(tier: Tier) -> Variant {
    let full = tier == Tier::F16Subgroups;
    Variant::new().with("native", full).with("subgroups", full)
}

/// Both tiers, for enumerating variants.
const TIERS: [Tier; 2] = [Tier::Core, Tier::F16Subgroups];

/// Both floating element types, for enumerating variants.
const FLOATS: [ElementType; 2] = [ElementType::F16, ElementType::F32];

/// Spreads `n` workgroups over two dimensions, each within the limit of 65,535; shaders get the flat index back as
/// `x + y * num_workgroups.x` and ignore what lies beyond `n`.
fn grid(n: usize) -> [u32; 3] {
    const MAX: usize = 65_535;
    let x = n.min(MAX);
    [x as u32, n.div_ceil(x.max(1)) as u32, 1]
}
