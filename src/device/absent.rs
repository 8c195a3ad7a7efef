//! Stand-ins for backends that a build leaves out: the same names, no values.

use super::{Call, InventoryLine, Memory, WgpuOptions};
use crate::error::Result;

/// Stands for CUDA in a build without the feature `cuda`.
pub(crate) enum Cuda {}

/// Stands for work that CUDA captured.
pub(crate) enum Captured {}

/// Stands for wgpu in a build without the feature `wgpu`.
pub(crate) enum Wgpu {}

/// What the two have in common. `match *self {}` is how a type without values keeps its promises.
macro_rules! absent {
    ($backend:ident, $feature:literal) => {
        impl $backend {
            const WHY: &str = concat!("this build was made without the feature `", $feature, "`");

            pub fn compiled_variants(&self) -> Vec<(&'static str, String)> {
                match *self {}
            }

            pub fn inventory() -> Vec<InventoryLine> {
                vec![InventoryLine {
                    device: $feature.into(),
                    available: false,
                    detail: Self::WHY.into(),
                }]
            }
        }

        impl Memory for $backend {
            type Storage = std::convert::Infallible;

            fn name(&self) -> String {
                match *self {}
            }
            fn alloc(&self, _: u64) -> Result<Option<Self::Storage>> {
                match *self {}
            }
            fn write(&self, _: &mut Self::Storage, _: u64, _: &[u8]) -> Result<()> {
                match *self {}
            }
            fn read(&self, _: &Self::Storage, _: u64, _: &mut [u8]) -> Result<()> {
                match *self {}
            }
            fn copy(
                &self,
                _: &Self::Storage,
                _: u64,
                _: &mut Self::Storage,
                _: u64,
                _: u64,
            ) -> Result<()> {
                match *self {}
            }
            fn synchronize(&self) -> Result<()> {
                match *self {}
            }
        }
    };
}

absent!(Cuda, "cuda");
absent!(Wgpu, "wgpu");

impl Cuda {
    pub fn open(_: usize, _: Option<usize>) -> Result<Self, String> {
        Err(Self::WHY.into())
    }
    pub fn multiprocessors(&self) -> u32 {
        match *self {}
    }
    pub fn launch(&self, _: &Call<'_>) -> Result<()> {
        match *self {}
    }
    pub fn is_emulator(&self) -> bool {
        match *self {}
    }
    pub fn capture<T>(&self, _: impl FnOnce() -> Result<T>) -> Result<(T, Captured)> {
        match *self {}
    }
    pub fn replay(&self, _: &mut Captured) -> Result<()> {
        match *self {}
    }
    pub fn time(&self, _: impl FnOnce() -> Result<()>) -> Result<std::time::Duration> {
        match *self {}
    }
    pub fn compile_time(&self, _: &str) -> Result<std::time::Duration> {
        match *self {}
    }
}

impl Wgpu {
    pub fn open(_: WgpuOptions) -> Result<Self, String> {
        Err(Self::WHY.into())
    }
    pub fn max_binding(&self) -> u64 {
        match *self {}
    }
    pub fn staged(&self) -> bool {
        match *self {}
    }
    pub fn is_software(&self) -> bool {
        match *self {}
    }
    pub fn dispatch(&self, _: &Call<'_>) -> Result<()> {
        match *self {}
    }
}
