//! The CPU as a device: f32 in memory, aligned to cache lines.

use std::sync::Arc;

use memmap2::Mmap;

use super::Memory;
use crate::error::{Error, Result};

/// The processor. Operators run at once on the calling thread and rayon's pool.
pub(crate) struct Cpu;

/// One cache line; allocations are whole lines so that vector loads of a row never split more than they must.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

/// Host memory: our own, or part of a file that is mapped and only ever read.
pub(crate) enum HostMemory {
    Owned(Vec<Line>),
    Mapped { map: Arc<Mmap>, offset: usize },
}

impl HostMemory {
    pub fn bytes(&self) -> &[u8] {
        match self {
            HostMemory::Owned(lines) => bytemuck::cast_slice(lines),
            HostMemory::Mapped { map, offset } => &map[*offset..],
        }
    }

    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            HostMemory::Owned(lines) => Some(bytemuck::cast_slice_mut(lines)),
            HostMemory::Mapped { .. } => None,
        }
    }
}

impl Memory for Cpu {
    type Storage = HostMemory;

    fn name(&self) -> String {
        "cpu".into()
    }

    fn alloc(&self, bytes: u64) -> Result<Option<HostMemory>> {
        let lines = (bytes as usize).div_ceil(size_of::<Line>());
        let mut memory = Vec::new();
        if memory.try_reserve_exact(lines).is_err() {
            return Ok(None);
        }
        memory.resize(lines, Line([0; 64]));
        Ok(Some(HostMemory::Owned(memory)))
    }

    fn write(&self, to: &mut HostMemory, offset: u64, data: &[u8]) -> Result<()> {
        let Some(to) = to.bytes_mut() else {
            return Err(Error::Invalid("a mapped file is read-only".into()));
        };
        to[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read(&self, from: &HostMemory, offset: u64, data: &mut [u8]) -> Result<()> {
        data.copy_from_slice(&from.bytes()[offset as usize..][..data.len()]);
        Ok(())
    }

    fn copy(
        &self,
        from: &HostMemory,
        from_offset: u64,
        to: &mut HostMemory,
        to_offset: u64,
        bytes: u64,
    ) -> Result<()> {
        let source = &from.bytes()[from_offset as usize..][..bytes as usize];
        self.write(to, to_offset, source)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// Threads and vector extensions, for `run-study devices`.
pub(super) fn describe() -> String {
    let threads = rayon::current_num_threads();
    #[cfg(target_arch = "x86_64")]
    let vector = if std::arch::is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "SSE2"
    };
    #[cfg(not(target_arch = "x86_64"))]
    let vector = std::env::consts::ARCH;
    format!("{threads} threads, {vector}")
}
