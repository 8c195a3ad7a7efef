//! The operators.
//!
//! An operator is one name and, under that name, everything there is to know about it: its definition with shapes,
//! checks and a reference here in `src/ops/` (a large one is a folder of `mod`, `reference`, `cpu` and `gpu`), its PTX
//! in `kernels/`, its WGSL in `shaders/`, its parity cases in `tests/parity/` and its bench in `benches/ops/`. [`ALL`]
//! lists them; a test fails when a part is missing.
//!
//! Operators take views ([`Slice`], [`SliceMut`]; `&buffer` is one) and check every size before anything runs. Lists
//! with which a kernel indexes memory are types that are checked when they are made: [`PackedTexts`], [`TokenIds`],
//! [`PairList`], [`Places`], [`OwnRows`].
//! [`TokenSegments`], [`PairList`], [`Places`].
//!
//! Every reference is plain loops, generic over the accumulator ([`Accum`]): in `f64` it is the truth that devices
//! are held to, in `f32` it shows the error that a plain program makes. Every operator also has an `error_bound`:
//! given inputs and a device's [`Rounding`], the largest error each output element may have, derived from the number
//! of roundings on its way (see the function's documentation), never guessed.

pub mod adamw;
pub mod add_rows;
pub mod attention;
pub mod attention_backward;
pub mod attention_pool;
pub mod attention_pool_backward;
pub mod batch_norm;
pub mod batch_norm_backward;
pub mod cosine_topk;
pub mod dropout;
pub mod embedding;
pub mod embedding_backward;
pub mod fold;
pub mod grad_norm;
pub mod info_nce;
pub mod layer_norm;
pub mod layer_norm_backward;
pub mod map_features;
pub mod map_features_backward;
pub mod map_pool_backward;
pub mod matmul;
pub mod matmul_nn;
pub mod matmul_tn;
pub mod max_pool;
pub mod max_pool_backward;
pub mod maxsim;
pub mod normalize_rows;
pub mod normalize_rows_backward;
pub mod pair_dot;
pub mod pool;
pub mod pool_backward;
pub mod relu;
pub mod scatter_rows;
pub mod similarity_map;
pub mod similarity_map_backward;
pub mod soft_alignment;
#[doc(hidden)]
pub mod table;
pub mod unfold;
pub mod weighted_pool;
pub mod weighted_pool_backward;

#[cfg(test)]
mod differences_test;
mod halves;
#[cfg(test)]
mod kernels_test;
mod pictures;
#[cfg(all(test, feature = "cuda"))]
mod recording_test;
mod rounding;
mod segments;
mod simd;
mod texts;
mod token_pairs;

pub use adamw::adamw;
pub use add_rows::add_rows;
pub use attention::{attention, attention_saving};
pub use attention_backward::attention_backward;
pub use attention_pool::attention_pool;
pub use attention_pool_backward::attention_pool_backward;
pub use batch_norm::batch_norm;
pub use batch_norm_backward::batch_norm_backward;
pub use cosine_topk::cosine_topk;
pub use dropout::dropout;
pub use embedding::embedding;
pub use embedding_backward::embedding_backward;
pub use fold::fold;
pub use grad_norm::grad_norm;
pub use info_nce::info_nce;
pub use layer_norm::layer_norm;
pub use layer_norm_backward::layer_norm_backward;
pub use map_features::{Picture, WindowLayout, Windows, map_features};
pub use map_features_backward::map_features_backward;
pub use map_pool_backward::{MapPooling, map_pool_backward};
pub use matmul::{matmul, matmul_saving};
pub use matmul_nn::matmul_nn;
pub use matmul_tn::matmul_tn;
pub use max_pool::max_pool;
pub use max_pool_backward::max_pool_backward;
pub use maxsim::maxsim;
pub use normalize_rows::normalize_rows;
pub use normalize_rows_backward::normalize_rows_backward;
pub use pair_dot::pair_dot;
pub use pictures::Pictures;
pub use pool::pool;
pub use pool_backward::pool_backward;
pub use relu::relu;
#[doc(hidden)]
pub use rounding::Rounding;
pub use scatter_rows::scatter_rows;
pub use segments::TokenSegments;
pub use similarity_map::similarity_map;
pub use similarity_map_backward::similarity_map_backward;
pub use soft_alignment::soft_alignment;
pub use texts::{Origins, OwnRows, PackedTexts, PairList, Places, TokenIds};
pub use token_pairs::{MapLayout, Pairs, Tokens};
pub(crate) use token_pairs::{runs, widen};
pub use unfold::unfold;
pub use weighted_pool::weighted_pool;
pub use weighted_pool_backward::weighted_pool_backward;

/// Kernel texts, for tests and tools.
#[doc(hidden)]
pub mod kernels {
    pub use crate::device::template::{Expanded, Source, Var, Variant, expand};
}

use crate::device::template::{Source, Variant};
use crate::device::{Device, DeviceKind, Element, ElementType, Gpu, Kernel, Slice, SliceMut, Tier};
use crate::error::{Error, Result};

/// What there is under an operator's name.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct OpSpec {
    /// The name that all its parts share.
    pub name: &'static str,
    /// The formula, in one line.
    pub formula: &'static str,
    /// The entries of its kernels, with their parameters.
    pub kernels: &'static [Kernel],
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

    /// Checks of a call whose result is on `device`.
    fn checks<'a>(&self, device: &'a Device) -> Checks<'a> {
        Checks {
            op: self.name,
            device,
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
#[doc(hidden)]
pub const ALL: &[&OpSpec] = &[
    &embedding::SPEC,
    &layer_norm::SPEC,
    &matmul::SPEC,
    &attention::SPEC,
    &attention_backward::SPEC,
    &attention_pool::SPEC,
    &attention_pool_backward::SPEC,
    &add_rows::SPEC,
    &dropout::SPEC,
    &pool::SPEC,
    &normalize_rows::SPEC,
    &normalize_rows_backward::SPEC,
    &scatter_rows::SPEC,
    &pool_backward::SPEC,
    &layer_norm_backward::SPEC,
    &embedding_backward::SPEC,
    &cosine_topk::SPEC,
    &pair_dot::SPEC,
    &similarity_map::SPEC,
    &maxsim::SPEC,
    &soft_alignment::SPEC,
    &map_features::SPEC,
    &map_features_backward::SPEC,
    &map_pool_backward::SPEC,
    &similarity_map_backward::SPEC,
    &unfold::SPEC,
    &batch_norm::SPEC,
    &batch_norm_backward::SPEC,
    &fold::SPEC,
    &max_pool::SPEC,
    &max_pool_backward::SPEC,
    &weighted_pool::SPEC,
    &weighted_pool_backward::SPEC,
    &relu::SPEC,
    &matmul_nn::SPEC,
    &matmul_tn::SPEC,
    &info_nce::SPEC,
    &grad_norm::SPEC,
    &adamw::SPEC,
];

/// The accumulator of a reference implementation: `f64` is the truth, `f32` the yardstick.
#[doc(hidden)]
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
    /// Natural logarithm.
    fn ln(self) -> Self;
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
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
        }
    };
}
accum!(f32);
accum!(f64);

/// An argument as far as it can be checked without its elements.
trait View {
    fn len(&self) -> usize;
    fn device(&self) -> &Device;
}

impl<T: Element> View for Slice<'_, T> {
    fn len(&self) -> usize {
        Slice::len(self)
    }
    fn device(&self) -> &Device {
        Slice::device(self)
    }
}

impl<T: Element> View for SliceMut<'_, T> {
    fn len(&self) -> usize {
        SliceMut::len(self)
    }
    fn device(&self) -> &Device {
        SliceMut::device(self)
    }
}

/// Checks of the arguments of one call of an operator; what fails is named.
#[derive(Clone, Copy)]
struct Checks<'a> {
    op: &'static str,
    device: &'a Device,
}

impl Checks<'_> {
    /// Requires an argument to hold `expected` elements and to live on the device.
    fn holds(&self, what: &'static str, view: &impl View, expected: usize) -> Result<()> {
        if view.len() != expected {
            return Err(Error::shape(self.op, what, expected, view.len()));
        }
        check_device(self.op, what, view.device(), self.device)
    }

    /// The same of an argument that may be left out.
    fn optional(
        &self,
        what: &'static str,
        view: &Option<impl View>,
        expected: usize,
    ) -> Result<()> {
        view.as_ref()
            .map_or(Ok(()), |view| self.holds(what, view, expected))
    }

    /// Requires an argument to be whole rows of `d` elements on the device, and counts them.
    fn rows(&self, what: &'static str, view: &impl View, d: usize) -> Result<usize> {
        if !view.len().is_multiple_of(d) {
            return Err(Error::shape(
                self.op,
                what,
                format!("rows of {d}"),
                view.len(),
            ));
        }
        self.holds(what, view, view.len())?;
        Ok(view.len() / d)
    }

    /// Requires a width to be a positive multiple of 8: vector loads rely on it on every device.
    fn width(&self, what: &'static str, d: usize) -> Result<()> {
        if d == 0 || !d.is_multiple_of(8) {
            return Err(Error::shape(self.op, what, "a positive multiple of 8", d));
        }
        Ok(())
    }
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

/// Variants of a shader in both tiers.
fn in_every_tier(variants: impl IntoIterator<Item = Variant>) -> Vec<Variant> {
    let of = |variant: Variant| Tier::ALL.map(|tier| variant.extended(&tier.variant()));
    variants.into_iter().flat_map(of).collect()
}

/// Both floating element types, for enumerating variants.
const FLOATS: [ElementType; 2] = [ElementType::F16, ElementType::F32];

/// Spreads `n` workgroups over two dimensions, each within the limit of 65,535; shaders get the flat index back as
/// `x + y * num_workgroups.x` and ignore what lies beyond `n`.
fn grid(n: usize) -> [u32; 3] {
    const MAX: usize = 65_535;
    let x = n.min(MAX);
    [x as u32, n.div_ceil(x.max(1)) as u32, 1]
}

/// Where rows are bound in turns, each turn begins at a multiple of this, so that bindings are aligned (at d = 8, 2 KiB
/// of f16, and 512 B of one f32 a row).
const ALIGN: usize = 128;

/// Whole rows of `row_bytes` bytes that one launch can take, a multiple of [`ALIGN`].
fn rows_per_binding(gpu: Gpu<'_>, row_bytes: usize) -> usize {
    let fit = usize::try_from(gpu.max_binding()).unwrap_or(usize::MAX) / row_bytes;
    // Row numbers stay clear of 2^32 whatever the device.
    (fit.min(1 << 31) / ALIGN * ALIGN).max(ALIGN)
}
