//! The CPU as a device: f32 in memory, aligned to cache lines.

use super::Memory;
use crate::error::Result;

/// The processor. Operators run at once on the calling thread and rayon's pool.
pub(crate) struct Cpu;

/// One cache line; allocations are whole lines so that vector loads of a row never split more than they must.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Host memory.
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl Memory for Cpu {
    type Storage = Lines;

    fn name(&self) -> String {
        "cpu".into()
    }

    fn alloc(&self, bytes: u64) -> Result<Option<Lines>> {
        let lines = (bytes as usize).div_ceil(size_of::<Line>());
        let mut memory = Vec::new();
        if memory.try_reserve_exact(lines).is_err() {
            return Ok(None);
        }
        memory.resize(lines, Line([0; 64]));
        Ok(Some(Lines(memory)))
    }

    fn write(&self, to: &mut Lines, offset: u64, data: &[u8]) -> Result<()> {
        to.bytes_mut()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read(&self, from: &Lines, offset: u64, data: &mut [u8]) -> Result<()> {
        data.copy_from_slice(&from.bytes()[offset as usize..][..data.len()]);
        Ok(())
    }

    fn copy(
        &self,
        from: &Lines,
        from_offset: u64,
        to: &mut Lines,
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
