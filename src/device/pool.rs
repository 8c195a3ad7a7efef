//! The caching allocator's bookkeeping, the same for every backend.

use std::collections::HashMap;

/// Memory statistics of one device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In live buffers.
    pub in_use: u64,
    /// The most that was ever in live buffers at once.
    pub peak: u64,
    /// Freed, and kept for reuse.
    pub cached: u64,
}

/// Free pieces of memory by size class.
pub(super) struct Pool<S> {
    free: HashMap<u64, Vec<S>>,
    stats: MemoryStats,
    caching: bool,
    /// Bytes that may be in use at once.
    limit: u64,
}

/// Smallest piece handed out: wgpu wants copies in multiples of 4, kernels read 16 bytes at a time.
const ALIGNMENT: u64 = 16;

impl<S> Pool<S> {
    pub fn new() -> Self {
        Pool {
            free: HashMap::new(),
            stats: MemoryStats::default(),
            caching: true,
            limit: u64::MAX,
        }
    }

    /// The size that a request of `bytes` really takes. With caching on, sizes are rounded up to an eighth of their
    /// power of two, so that the slightly different batches of a run share pieces at a waste of at most one eighth.
    pub fn size_class(&self, bytes: u64) -> u64 {
        let bytes = bytes.max(ALIGNMENT).next_multiple_of(ALIGNMENT);
        if !self.caching || bytes < 8 * ALIGNMENT {
            return bytes;
        }
        let step = (1u64 << bytes.ilog2()) / 8;
        bytes.next_multiple_of(step.max(ALIGNMENT))
    }

    /// Whether `size` more bytes may be in use.
    pub fn admits(&self, size: u64) -> bool {
        size <= self.limit.saturating_sub(self.stats.in_use)
    }

    pub fn set_limit(&mut self, bytes: Option<u64>) {
        self.limit = bytes.unwrap_or(u64::MAX);
    }

    /// A cached piece of exactly `size` bytes, now in use.
    pub fn take(&mut self, size: u64) -> Option<S> {
        let piece = self.free.get_mut(&size)?.pop()?;
        self.stats.cached -= size;
        self.added(size);
        Some(piece)
    }

    /// Counts a piece of `size` bytes as in use.
    pub fn added(&mut self, size: u64) {
        self.stats.in_use += size;
        self.stats.peak = self.stats.peak.max(self.stats.in_use);
    }

    /// Takes a piece back; returns it if it is not to be kept.
    pub fn give_back(&mut self, size: u64, piece: S) -> Option<S> {
        self.stats.in_use -= size;
        if !self.caching {
            return Some(piece);
        }
        self.stats.cached += size;
        self.free.entry(size).or_default().push(piece);
        None
    }

    /// Empties the cache; the caller drops the pieces outside the lock.
    pub fn drain(&mut self) -> HashMap<u64, Vec<S>> {
        self.stats.cached = 0;
        std::mem::take(&mut self.free)
    }

    pub fn stats(&self) -> MemoryStats {
        self.stats
    }

    pub fn reset_peak(&mut self) {
        self.stats.peak = self.stats.in_use;
    }

    pub fn caching(&self) -> bool {
        self.caching
    }

    pub fn set_caching(&mut self, on: bool) {
        self.caching = on;
        if !on {
            self.drain();
        }
    }
}
