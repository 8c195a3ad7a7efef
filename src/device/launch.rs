//! What an operator says to a GPU backend to run one kernel.

use super::Binding;
use crate::device::template::{Source, Variant};

/// One dispatch of a WGSL entry point.
#[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
pub(crate) struct Dispatch<'a> {
    /// The shader template.
    pub source: Source,
    /// Name of the entry point.
    pub entry: &'static str,
    /// Template values.
    pub variant: Variant,
    /// Storage buffers `@group(0) @binding(0..)`, in order.
    pub bindings: &'a [Binding<'a>],
    /// The bytes of `var<immediate>`, a multiple of 4 (at most 128).
    pub params: &'a [u8],
    /// Workgroups in x, y, z.
    pub groups: [u32; 3],
}

/// One argument of a PTX kernel.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) enum Arg<'a> {
    /// A device address.
    Buffer(Binding<'a>),
    /// `.param .u32`
    U32(u32),
    /// `.param .f32`
    F32(f32),
    /// A zero address, for an input that this variant does not read.
    Null,
}

/// One launch of a PTX entry.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct Launch<'a> {
    /// The kernel template.
    pub source: Source,
    /// Name of the entry.
    pub entry: &'static str,
    /// Template values.
    pub variant: Variant,
    /// Arguments in the order of the entry's parameters.
    pub args: &'a [Arg<'a>],
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}
