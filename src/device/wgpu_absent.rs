//! Stand-in for the wgpu backend in a build without the feature `wgpu`: the same names, no values.

use super::{Dispatch, InventoryLine, Memory, Tier, WgpuOptions};
use crate::error::Result;

const WHY: &str = "this build was made without the feature `wgpu`";

pub(crate) enum Wgpu {}

impl Wgpu {
    pub fn open(_: WgpuOptions) -> Result<Self, String> {
        Err(WHY.into())
    }

    pub fn inventory() -> Vec<InventoryLine> {
        vec![InventoryLine {
            device: "wgpu".into(),
            available: false,
            detail: WHY.into(),
        }]
    }

    pub fn max_binding(&self) -> u64 {
        match *self {}
    }

    pub fn tier(&self) -> Tier {
        match *self {}
    }

    pub fn is_software(&self) -> bool {
        match *self {}
    }

    pub fn dispatch(&self, _: &Dispatch<'_>) -> Result<()> {
        match *self {}
    }
}

impl Memory for Wgpu {
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
