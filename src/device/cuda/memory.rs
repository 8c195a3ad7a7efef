//! Device memory, and the copies into and out of it.
//!
//! What the host writes is first put aside in memory that the driver can read while the host goes on (page-locked, where
//! the system allows it): two halves, so that one is filled while the other is copied. A write waits only where the half
//! that it needs is still being copied.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::context::{Context, Event};
use super::{Cuda, lock};
use crate::device::Memory;
use crate::error::Result;

/// Bytes that can be aside in all: enough for the inputs of a few batches.
pub(super) const ASIDE: usize = 16 << 20;

/// A piece of device memory.
pub(crate) struct Piece {
    pub(super) context: Arc<Context>,
    pub(super) address: sys::CUdeviceptr,
    pub(super) bytes: u64,
}

impl Piece {
    /// The device address of `offset`, from which `count` bytes must exist.
    pub(super) fn at(&self, offset: u64, count: usize) -> sys::CUdeviceptr {
        let end = offset.checked_add(count as u64);
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "{count} bytes at {offset} of a piece of {}",
            self.bytes
        );
        self.address + offset
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Work that was enqueued earlier may still use the memory. Pieces are freed rarely: a pool lies above.
        let _ = self.context.synchronize();
        // SAFETY: allocated by `alloc`, freed only here, and no work is left.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Memory of the host that holds what is on its way to the device.
pub(super) struct Aside {
    context: Arc<Context>,
    /// Bytes of a half.
    half: usize,
    /// Made when first needed.
    memory: Option<HostMemory>,
    /// Which half is being filled.
    filling: usize,
    /// Bytes in it.
    filled: usize,
    /// Of each half the end of its copies, once it has been filled.
    copied: [Option<Event>; 2],
    /// Whether the copies of a half may still be under way.
    pending: [bool; 2],
}

/// Two halves side by side.
enum HostMemory {
    /// Page-locked: copies from it leave the host alone.
    Pinned(*mut c_void),
    /// Ordinary memory, where the system locks no more pages; the driver then copies twice.
    Ordinary(Vec<u8>),
}

// SAFETY: the pointer is to memory that only the `Aside` uses, and that the driver lets any thread use.
unsafe impl Send for HostMemory {}

impl Aside {
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Self {
        Aside {
            context: context.clone(),
            half: (bytes / 2).max(1),
            memory: None,
            filling: 0,
            filled: 0,
            copied: [None, None],
            pending: [false, false],
        }
    }

    /// Enqueues a copy of `data` to `address`, where so many bytes must exist; returns when it has been put aside.
    fn send(&mut self, mut address: sys::CUdeviceptr, mut data: &[u8]) -> Result<(), DriverError> {
        while !data.is_empty() {
            if self.filled == self.half {
                self.turn()?;
            }
            let (now, later) = data.split_at(data.len().min(self.half - self.filled));
            let start = self.filling * self.half + self.filled;
            let context = self.context.clone();
            let place = &mut self.bytes()[start..start + now.len()];
            place.copy_from_slice(now);
            // SAFETY: the caller answers for the device's bytes; the place is not touched again before `turn` or `clear`
            // have made sure that the copy is done.
            unsafe { result::memcpy_htod_async(address, &*place, context.stream) }?;
            self.filled += now.len();
            self.pending[self.filling] = true;
            address += now.len() as u64;
            data = later;
        }
        Ok(())
    }

    /// Goes on to the other half, once its copies are done.
    fn turn(&mut self) -> Result<(), DriverError> {
        let event = match self.copied[self.filling].take() {
            Some(event) => event,
            None => Event::to_wait_for(&self.context)?,
        };
        event.record_again()?;
        self.copied[self.filling] = Some(event);
        let next = 1 - self.filling;
        if let (true, Some(event)) = (self.pending[next], &self.copied[next]) {
            event.wait()?;
        }
        self.pending[next] = false;
        (self.filling, self.filled) = (next, 0);
        Ok(())
    }

    /// Forgets what is aside; the stream must be idle.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
        self.pending = [false, false];
    }

    fn bytes(&mut self) -> &mut [u8] {
        let len = 2 * self.half;
        // SAFETY: no flags; the memory is freed in `drop`.
        let memory =
            self.memory
                .get_or_insert_with(|| match unsafe { result::malloc_host(len, 0) } {
                    Ok(pinned) => HostMemory::Pinned(pinned),
                    Err(_) => HostMemory::Ordinary(vec![0; len]),
                });
        match memory {
            // SAFETY: `len` bytes, allocated above and borrowed like `self`; any bytes are valid.
            HostMemory::Pinned(start) => unsafe {
                std::slice::from_raw_parts_mut(start.cast::<u8>(), len)
            },
            HostMemory::Ordinary(bytes) => bytes,
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.context.synchronize();
        if let Some(HostMemory::Pinned(start)) = self.memory {
            // SAFETY: allocated by `bytes`, freed only here, and no copy is under way.
            let _ = unsafe { result::free_host(start) };
        }
    }
}

impl Memory for Cuda {
    type Storage = Piece;

    fn name(&self) -> String {
        format!("cuda:{} ({})", self.context.ordinal, self.context.name)
    }

    fn alloc(&self, bytes: u64) -> Result<Option<Piece>> {
        self.refuse_in_capture("allocating memory")?;
        self.check("making the context current", self.context.bind())?;
        // SAFETY: the context is current; `Piece` frees what is allocated here.
        match unsafe { result::malloc_sync(bytes as usize) } {
            Ok(address) => Ok(Some(Piece {
                context: self.context.clone(),
                address,
                bytes,
            })),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(e) => self.check(format_args!("allocating {bytes} bytes"), Err(e)),
        }
    }

    fn write(&self, to: &mut Piece, offset: u64, data: &[u8]) -> Result<()> {
        let address = to.at(offset, data.len());
        self.refuse_in_capture("copying from the host")?;
        self.check("making the context current", self.context.bind())?;
        let sent = lock(&self.aside).send(address, data);
        self.check("copying to the device", sent)
    }

    fn read(&self, from: &Piece, offset: u64, data: &mut [u8]) -> Result<()> {
        let address = from.at(offset, data.len());
        self.refuse_in_capture("copying to the host")?;
        self.check("making the context current", self.context.bind())?;
        // SAFETY: `from` has the bytes (checked), and `data` is borrowed until the stream is idle again.
        let copied = unsafe { result::memcpy_dtoh_async(data, address, self.context.stream) };
        // Wait even if the copy was refused: an earlier failure is then the better message.
        self.finish()?;
        self.check("copying from the device", copied)
    }

    fn copy(
        &self,
        from: &Piece,
        from_offset: u64,
        to: &mut Piece,
        to_offset: u64,
        bytes: u64,
    ) -> Result<()> {
        let source = from.at(from_offset, bytes as usize);
        let target = to.at(to_offset, bytes as usize);
        self.check("making the context current", self.context.bind())?;
        // SAFETY: both pieces have the bytes (checked) and are different ones, since one is borrowed mutably; they are
        // freed only after the stream is idle.
        let copied =
            unsafe { result::memcpy_dtod_async(target, source, bytes as usize, self.stream()) };
        self.check("copying on the device", copied)
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_in_capture("waiting")?;
        self.finish()
    }
}
