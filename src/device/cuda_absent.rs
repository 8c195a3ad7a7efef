//! Stand-in for the CUDA backend in a build without the feature `cuda`: the same names, no values.

use super::{InventoryLine, Launch, Memory};
use crate::error::Result;

const WHY: &str = "this build was made without the feature `cuda`";

pub(crate) enum Cuda {}

impl Cuda {
    pub fn open(_: usize) -> Result<Self, String> {
        Err(WHY.into())
    }

    pub fn inventory() -> Vec<InventoryLine> {
        vec![InventoryLine {
            device: "cuda".into(),
            available: false,
            detail: WHY.into(),
        }]
    }

    pub fn multiprocessors(&self) -> u32 {
        match *self {}
    }

    pub fn launch(&self, _: &Launch<'_>) -> Result<()> {
        match *self {}
    }
}

impl Memory for Cuda {
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
    fn copy(&self, _: &Self::Storage, _: u64, _: &mut Self::Storage, _: u64, _: u64) -> Result<()> {
        match *self {}
    }
    fn synchronize(&self) -> Result<()> {
        match *self {}
    }
}
