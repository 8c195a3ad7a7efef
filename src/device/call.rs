//! What an operator says to a GPU to run one kernel, in words that both languages share.

use super::template::{Source, Variant};
use super::{Binding, Cuda, Element, Slice, SliceMut, Wgpu};
use crate::error::{Error, Result};

/// The languages that kernels are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// `kernels/`, for CUDA.
    Ptx,
    /// `shaders/`, for wgpu.
    Wgsl,
}

/// What a parameter of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// Memory that the kernel reads.
    Read,
    /// Memory that the kernel writes, and may read.
    Write,
    /// An unsigned number.
    U32,
    /// A floating-point number.
    F32,
}

/// A parameter of a kernel.
///
/// Its place in [`Kernel::params`] is its place among the parameters of the PTX entry and, for memory, among the
/// bindings of the shader or, for numbers, in the shader's `Params`. Both languages call it by the same name; a PTX
/// parameter has `p_` before it.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name in both languages.
    pub name: &'static str,
    /// What it is.
    pub kind: ParamKind,
    /// Whether a call may leave it out: PTX then gets a zero address, and the variant of the shader has no such binding.
    pub optional: bool,
    /// The one language that has it; `None` if both do.
    pub only: Option<Language>,
}

impl Param {
    const fn new(name: &'static str, kind: ParamKind) -> Self {
        Param {
            name,
            kind,
            optional: false,
            only: None,
        }
    }

    /// Memory that is read.
    pub(crate) const fn read(name: &'static str) -> Self {
        Self::new(name, ParamKind::Read)
    }

    /// Memory that is written.
    pub(crate) const fn write(name: &'static str) -> Self {
        Self::new(name, ParamKind::Write)
    }

    /// An unsigned number.
    pub(crate) const fn u32(name: &'static str) -> Self {
        Self::new(name, ParamKind::U32)
    }

    /// A floating-point number.
    pub(crate) const fn f32(name: &'static str) -> Self {
        Self::new(name, ParamKind::F32)
    }

    /// The same, and a call may leave it out.
    pub(crate) const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The same, in PTX only.
    pub(crate) const fn ptx(mut self) -> Self {
        self.only = Some(Language::Ptx);
        self
    }

    /// The same, in WGSL only.
    pub(crate) const fn wgsl(mut self) -> Self {
        self.only = Some(Language::Wgsl);
        self
    }

    /// Whether a language has it.
    pub fn is_in(&self, language: Language) -> bool {
        self.only.is_none_or(|only| only == language)
    }
}

/// An entry of an operator's kernel files: the same name and the same parameters in every language that has it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Name of the entry.
    pub entry: &'static str,
    /// Its parameters, in order.
    pub params: &'static [Param],
    /// The PTX template that holds it.
    pub ptx: Option<Source>,
    /// The WGSL template that holds it.
    pub wgsl: Option<Source>,
}

/// A value for a parameter.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
#[derive(Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// Memory.
    Buffer(Binding<'a>),
    /// No memory, for an optional parameter.
    Absent,
    U32(u32),
    F32(f32),
    /// A size that does not fit the kernels' 32 bits, which a call refuses.
    TooLarge(usize),
}

impl From<u32> for Arg<'_> {
    fn from(value: u32) -> Self {
        Arg::U32(value)
    }
}

/// A size; kernels count in 32 bits.
impl From<usize> for Arg<'_> {
    fn from(value: usize) -> Self {
        u32::try_from(value).map_or(Arg::TooLarge(value), Arg::U32)
    }
}

impl From<f32> for Arg<'_> {
    fn from(value: f32) -> Self {
        Arg::F32(value)
    }
}

impl<'a, T: Element> From<Slice<'a, T>> for Arg<'a> {
    fn from(view: Slice<'a, T>) -> Self {
        Arg::Buffer(view.bind())
    }
}

impl<'a, T: Element> From<&'a mut SliceMut<'_, T>> for Arg<'a> {
    fn from(view: &'a mut SliceMut<'_, T>) -> Self {
        Arg::Buffer(view.bind())
    }
}

impl<'a, T: Into<Arg<'a>>> From<Option<T>> for Arg<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Arg::Absent, Into::into)
    }
}

/// How much runs at once, in the terms of either language.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(
    not(all(feature = "cuda", feature = "wgpu")),
    allow(dead_code, reason = "each language reads its own")
)]
pub(crate) struct Geometry {
    /// WGSL: workgroups in x, y, z.
    pub groups: [u32; 3],
    /// PTX: blocks in x, y, z.
    pub grid: [u32; 3],
    /// PTX: threads of a block.
    pub threads: u32,
    /// PTX: dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// One run of a kernel.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
pub(crate) struct Call<'a> {
    /// Which.
    pub kernel: &'static Kernel,
    /// Template values; a shader gets those of its device's tier besides.
    pub variant: Variant,
    /// Values for the kernel's parameters, in their order.
    pub args: &'a [Arg<'a>],
    /// How much runs at once; nothing runs where one of the numbers is zero.
    pub geometry: Geometry,
}

impl<'a> Call<'a> {
    /// The parameters that `language` has, with their values.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size that does not fit.
    ///
    /// # Panics
    /// If the values are not those of the parameters, which every parity test would show.
    #[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
    pub fn arguments(
        &self,
        language: Language,
    ) -> impl Iterator<Item = Result<(&'static Param, Arg<'a>)>> {
        let Kernel { entry, params, .. } = self.kernel;
        assert_eq!(params.len(), self.args.len(), "arguments of {entry}");
        let pairs = params.iter().zip(self.args.iter().copied());
        let there = pairs.filter(move |(param, _)| param.is_in(language));
        there.map(move |(param, arg)| {
            let fits = match (param.kind, arg) {
                (ParamKind::U32, Arg::TooLarge(size)) => {
                    return Err(Error::shape(entry, param.name, "below 2^32", size));
                }
                (ParamKind::Read, Arg::Buffer(binding)) => !binding.written,
                (ParamKind::Write, Arg::Buffer(binding)) => binding.written,
                (ParamKind::Read | ParamKind::Write, Arg::Absent) => param.optional,
                (ParamKind::U32, Arg::U32(_)) | (ParamKind::F32, Arg::F32(_)) => true,
                _ => false,
            };
            assert!(fits, "argument {} of {entry}", param.name);
            Ok((param, arg))
        })
    }
}

/// A device with kernels.
#[derive(Clone, Copy)]
pub(crate) enum Gpu<'a> {
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    Cuda(&'a Cuda),
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    Wgpu(&'a Wgpu),
}

impl<'a> Gpu<'a> {
    /// The largest piece of memory one argument can span, in bytes.
    pub fn max_binding(self) -> u64 {
        match self {
            Gpu::Cuda(_) => u64::MAX,
            Gpu::Wgpu(device) => device.max_binding(),
        }
    }

    /// Enqueues one run of a kernel.
    pub fn call(self, call: &Call<'_>) -> Result<()> {
        match self {
            Gpu::Cuda(device) => device.launch(call),
            Gpu::Wgpu(device) => device.dispatch(call),
        }
    }
}
