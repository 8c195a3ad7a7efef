//! Device memory: buffers with gaps between them, and what is known about every word of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use crate::shadow::Word;

/// Unused addresses between two buffers, so that an access past the end of one never hits another.
const GAP: u64 = 64 << 10;

/// Alignment of buffers, as the driver gives it.
const ALIGNMENT: u64 = 256;

/// Where device addresses begin.
const FIRST: u64 = 0x7f00_0000_0000;

/// One allocation, in device or shared memory.
pub(crate) struct Buffer {
    pub base: u64,
    pub bytes: u64,
    data: Box<[AtomicU64]>,
    pub words: Box<[Word]>,
}

impl Buffer {
    pub fn new(base: u64, bytes: u64) -> Self {
        Buffer {
            base,
            bytes,
            data: (0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect(),
            words: (0..bytes.div_ceil(4)).map(|_| Word::default()).collect(),
        }
    }

    pub fn end(&self) -> u64 {
        self.base + self.bytes
    }

    fn pointer(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset + bytes <= self.data.len() * 8);
        // SAFETY: within the allocation (checked above). `AtomicU64` has interior mutability, so writing through the
        // pointer is allowed.
        unsafe { self.data.as_ptr().cast::<u8>().cast_mut().add(offset) }
    }

    /// `bytes` (1, 2, 4 or 8) at an offset that is a multiple of it.
    #[inline(always)]
    pub fn load(&self, offset: usize, bytes: usize) -> u64 {
        let p = self.pointer(offset, bytes);
        // SAFETY: in bounds, aligned to its size (the caller checks, the allocation is aligned to 8), and all accesses
        // go through atomics of some size.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(p).load(Relaxed).into(),
                2 => AtomicU16::from_ptr(p.cast()).load(Relaxed).into(),
                4 => AtomicU32::from_ptr(p.cast()).load(Relaxed).into(),
                _ => AtomicU64::from_ptr(p.cast()).load(Relaxed),
            }
        }
    }

    /// The counterpart of [`Buffer::load`].
    #[inline(always)]
    pub fn store(&self, offset: usize, bytes: usize, value: u64) {
        let p = self.pointer(offset, bytes);
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(p).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(p.cast()).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(p.cast()).store(value as u32, Relaxed),
                _ => AtomicU64::from_ptr(p.cast()).store(value, Relaxed),
            }
        }
    }

    fn read_bytes(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= self.bytes as usize);
        for (i, byte) in to.iter_mut().enumerate() {
            *byte = (self.data[(offset + i) / 8].load(Relaxed) >> (8 * ((offset + i) % 8))) as u8;
        }
    }

    fn write_bytes(&self, offset: usize, from: &[u8]) {
        let end = offset + from.len();
        assert!(end <= self.bytes as usize);
        let mut at = offset;
        let mut rest = from;
        while !rest.is_empty() {
            if at.is_multiple_of(8) && rest.len() >= 8 {
                let (eight, tail) = rest.split_at(8);
                let value = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
                self.data[at / 8].store(value, Relaxed);
                (at, rest) = (at + 8, tail);
            } else {
                self.store(at, 1, rest[0].into());
                (at, rest) = (at + 1, &rest[1..]);
            }
        }
        // Which bytes of a word: all of those inside, part of the first and the last.
        for word in offset / 4..end.div_ceil(4) {
            let mask = (0..4)
                .filter(|b| (offset..end).contains(&(4 * word + b)))
                .fold(0, |m, b| m | 1 << b);
            self.words[word].written_by_host(mask);
        }
    }

    /// Contents and which bytes were written.
    pub fn snapshot(&self) -> (Vec<u64>, Vec<u8>) {
        (
            self.data.iter().map(|v| v.load(Relaxed)).collect(),
            self.words.iter().map(|w| w.initialised() as u8).collect(),
        )
    }

    pub fn restore(&self, (data, initialised): &(Vec<u64>, Vec<u8>)) {
        for (to, from) in self.data.iter().zip(data) {
            to.store(*from, Relaxed);
        }
        for (word, mask) in self.words.iter().zip(initialised) {
            word.restore((*mask).into());
        }
    }
}

struct State {
    buffers: BTreeMap<u64, Arc<Buffer>>,
    next: u64,
    used: u64,
}

/// The memory of one device.
pub struct Memory {
    state: RwLock<State>,
    total: u64,
    /// Times of accesses so far; see `shadow`.
    pub(crate) clock: AtomicU32,
}

impl Memory {
    /// An empty memory of `total` bytes.
    pub fn new(total: u64) -> Memory {
        Memory {
            state: RwLock::new(State {
                buffers: BTreeMap::new(),
                next: FIRST,
                used: 0,
            }),
            total,
            clock: AtomicU32::new(1),
        }
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that are left.
    pub fn free_bytes(&self) -> u64 {
        self.total - self.read_state(|s| s.used)
    }

    fn read_state<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new buffer, not initialised; `None` if there is not enough memory. Addresses are never used twice.
    pub fn alloc(&self, bytes: u64) -> Option<u64> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let used = state.used.checked_add(bytes)?;
        if used > self.total {
            return None;
        }
        let address = state.next;
        state.next = (address + bytes + GAP).next_multiple_of(ALIGNMENT);
        state.used = used;
        let buffer = Arc::new(Buffer::new(address, bytes));
        state.buffers.insert(address, buffer);
        Some(address)
    }

    /// Gives a buffer back; `false` if none begins at `address`.
    pub fn free(&self, address: u64) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match state.buffers.remove(&address) {
            Some(buffer) => {
                state.used -= buffer.bytes;
                true
            }
            None => false,
        }
    }

    fn find(&self, address: u64, bytes: u64) -> Result<(Arc<Buffer>, usize), String> {
        let found = self.read_state(|s| {
            let (_, buffer) = s.buffers.range(..=address).next_back()?;
            (address <= buffer.end() && bytes <= buffer.end() - address).then(|| buffer.clone())
        });
        match found {
            Some(buffer) => {
                let offset = (address - buffer.base) as usize;
                Ok((buffer, offset))
            }
            None => Err(format!("{bytes} bytes at {address:#x} are in no buffer")),
        }
    }

    /// Copies to the device.
    ///
    /// # Errors
    /// If the range is not within one buffer; the same for the other copies.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), String> {
        let (buffer, offset) = self.find(address, data.len() as u64)?;
        buffer.write_bytes(offset, data);
        Ok(())
    }

    /// Copies from the device.
    ///
    /// # Errors
    /// As for [`Memory::write`].
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), String> {
        let (buffer, offset) = self.find(address, data.len() as u64)?;
        buffer.read_bytes(offset, data);
        Ok(())
    }

    /// Copies on the device.
    ///
    /// # Errors
    /// As for [`Memory::write`].
    pub fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), String> {
        let mut data = vec![0; bytes as usize];
        self.read(from, &mut data)?;
        self.write(to, &data)
    }

    /// Writes `pattern` `count` times.
    ///
    /// # Errors
    /// As for [`Memory::write`].
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), String> {
        self.write(address, &pattern.repeat(count as usize))
    }

    /// Starts times anew before they overflow; to be called between launches.
    pub(crate) fn refresh_clock(&self) {
        if self.clock.load(Relaxed) > u32::MAX / 2 {
            for buffer in self.view() {
                for word in &buffer.words {
                    word.restore(word.initialised());
                }
            }
            self.clock.store(1, Relaxed);
        }
    }

    /// All buffers as they are now, by address.
    pub(crate) fn view(&self) -> Vec<Arc<Buffer>> {
        self.read_state(|s| s.buffers.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_within_buffers() {
        let memory = Memory::new(1000);
        let a = memory.alloc(100).unwrap();
        let b = memory.alloc(100).unwrap();
        assert!(memory.alloc(801).is_none());
        assert!(b >= a + 100 + GAP && b.is_multiple_of(ALIGNMENT));
        memory
            .write(a + 3, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
            .unwrap();
        memory.copy(a + 4, b, 9).unwrap();
        let mut back = [0; 9];
        memory.read(b, &mut back).unwrap();
        assert_eq!(back, [2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert!(memory.write(a + 99, &[0; 2]).is_err());
        assert!(memory.read(a + 100, &mut [0]).is_err());
        assert!(memory.free(a) && !memory.free(a) && !memory.free(b + 1));
        assert_eq!(memory.free_bytes(), 900);
        memory.fill(b, &[1, 2], 3).unwrap();
        memory.read(b, &mut back[..6]).unwrap();
        assert_eq!(back[..6], [1, 2, 1, 2, 1, 2]);
        let view = memory.view();
        assert_eq!(view[0].words[1].initialised(), 0xf);
        assert_eq!(view[0].words[2].initialised(), 1);
    }
}
