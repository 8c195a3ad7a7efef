//! Typed memory on a device.

use std::marker::PhantomData;
use std::ops::{Range, RangeBounds};
use std::sync::Arc;

use half::f16;
use memmap2::Mmap;

use super::cpu::HostMemory;
use super::graph::Arena;
use super::view::Place;
use super::{Backend, Device, Memory, Slice, SliceMut, Storage, each_backend_pair};
use crate::error::{Error, Result};

/// Element types a buffer can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE 754 binary16, two bytes.
    F16,
    /// IEEE 754 binary32, four bytes.
    F32,
    /// Unsigned 32-bit integer.
    U32,
}

impl ElementType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            ElementType::F16 => 2,
            ElementType::F32 | ElementType::U32 => 4,
        }
    }

    /// The name that templates and tables use.
    pub fn name(self) -> &'static str {
        match self {
            ElementType::F16 => "f16",
            ElementType::F32 => "f32",
            ElementType::U32 => "u32",
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::f16 {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
}

/// A type that can live in a [`Buffer`]: `f16`, `f32`, `u32`.
pub trait Element: bytemuck::Pod + Send + Sync + sealed::Sealed + 'static {
    /// Its run-time name.
    const TYPE: ElementType;
}

impl Element for f16 {
    const TYPE: ElementType = ElementType::F16;
}
impl Element for f32 {
    const TYPE: ElementType = ElementType::F32;
}
impl Element for u32 {
    const TYPE: ElementType = ElementType::U32;
}

/// An [`Element`] that is a number with a fraction: `f16` or `f32`.
pub trait Float: Element {
    /// Rounds to nearest.
    fn from_f32(v: f32) -> Self;
    /// Exact.
    fn to_f32(self) -> f32;
}

impl Float for f16 {
    fn from_f32(v: f32) -> Self {
        f16::from_f32(v)
    }
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}
impl Float for f32 {
    fn from_f32(v: f32) -> Self {
        v
    }
    fn to_f32(self) -> f32 {
        self
    }
}

/// `len` elements of type `T` in the memory of one device. Dropped memory goes back to the device's allocator.
pub struct Buffer<T: Element> {
    device: Device,
    /// `Some` until dropped.
    storage: Option<Storage>,
    /// Bytes really taken from the allocator; 0 for a mapped file.
    size: u64,
    /// Where the memory goes when dropped, if not to the allocator.
    arena: Option<Arc<Arena>>,
    len: usize,
    element: PhantomData<T>,
}

impl Device {
    /// Memory for `len` elements; its content is unspecified until written.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], saying how much was asked for.
    pub fn alloc<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        // More than any memory holds is more than the device has; multiplied carelessly it could look like little.
        let bytes = (len as u64)
            .saturating_mul(size_of::<T>() as u64)
            .min(1 << 62);
        let (storage, size, arena) = self.take_storage(bytes)?;
        Ok(Buffer {
            device: self.clone(),
            storage: Some(storage),
            size,
            arena,
            len,
            element: PhantomData,
        })
    }

    /// A buffer with a copy of `data`.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.alloc(data.len())?;
        buffer.write(0, data)?;
        Ok(buffer)
    }
}

impl Device {
    /// `len` elements of a mapped file from byte `offset`, read in place; `None` on a device that cannot (any GPU), or
    /// where they are not aligned or not all there.
    pub(crate) fn map_host<T: Element>(
        &self,
        map: &Arc<Mmap>,
        offset: usize,
        len: usize,
    ) -> Option<Buffer<T>> {
        let end = offset.checked_add(len.checked_mul(size_of::<T>())?)?;
        let bytes = map.get(offset..end)?;
        let aligned = bytes.as_ptr().align_offset(align_of::<T>()) == 0;
        if !aligned || !matches!(self.backend(), Backend::Cpu(_)) {
            return None;
        }
        Some(Buffer {
            device: self.clone(),
            storage: Some(Storage::Cpu(HostMemory::Mapped {
                map: map.clone(),
                offset,
            })),
            size: 0,
            arena: None,
            len,
            element: PhantomData,
        })
    }
}

impl<T: Element> Buffer<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// `true` if it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of device memory its elements occupy: really two per `f16`, on every device.
    pub fn bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }

    fn storage(&self) -> &Storage {
        self.storage.as_ref().expect("present until dropped")
    }

    /// Copies `data` into the buffer, beginning at element `at`.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not fit, or what the device reports.
    pub fn write(&mut self, at: usize, data: &[T]) -> Result<()> {
        self.check_range("write", at, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let offset = (at * size_of::<T>()) as u64;
        let device = self.device.clone();
        let storage = self.storage.as_mut().expect("present until dropped");
        // Devices copy whole words; an odd number of f16 is completed with a zero in the padding of the allocation,
        // which always reaches to the next multiple of 16 bytes.
        if !bytes.len().is_multiple_of(4) && at + data.len() == self.len && offset.is_multiple_of(4)
        {
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().next_multiple_of(4), 0);
            return each_backend_pair!(device.backend(), storage, (d, s) => d.write(s, offset, &padded));
        }
        if !offset.is_multiple_of(4) || !bytes.len().is_multiple_of(4) {
            return Err(Error::shape(
                "write",
                "offset and length of an f16 range",
                "even numbers of elements",
                format!("{at}, {}", data.len()),
            ));
        }
        each_backend_pair!(device.backend(), storage, (d, s) => d.write(s, offset, bytes))
    }

    /// All elements, copied to the host. Waits for the work that produces them.
    ///
    /// # Errors
    /// What the device reports, including failures of earlier enqueued work.
    pub fn read(&self) -> Result<Vec<T>> {
        self.as_slice().read()
    }

    /// The elements of `range`, copied to the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if the range does not fit, or what the device reports.
    pub fn read_range(&self, range: Range<usize>) -> Result<Vec<T>> {
        self.check_range("read", range.start, range.len())?;
        self.slice(range).read()
    }

    /// All elements as a view.
    pub fn as_slice(&self) -> Slice<'_, T> {
        let place = match self.storage() {
            Storage::Cpu(s) => Place::Host(bytemuck::cast_slice(
                &s.bytes()[..self.len * size_of::<T>()],
            )),
            storage => Place::Device {
                storage,
                offset: 0,
                room: self.size,
            },
        };
        Slice::new(&self.device, place, self.len)
    }

    /// All elements as a view to write to.
    pub fn as_slice_mut(&mut self) -> SliceMut<'_, T> {
        let len = self.len;
        let place = match self.storage.as_mut().expect("present until dropped") {
            Storage::Cpu(s) => Place::Host(
                &mut bytemuck::cast_slice_mut(
                    s.bytes_mut().expect("mapped buffers are never written"),
                )[..len],
            ),
            storage => Place::Device {
                storage,
                offset: 0,
                room: self.size,
            },
        };
        SliceMut::new(&self.device, place, len)
    }

    /// The elements of `range` as a view.
    ///
    /// # Panics
    /// If the range goes beyond the end, as a range of a slice does.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Slice<'_, T> {
        self.as_slice().slice(range)
    }

    /// Copies the elements of `from` to this buffer, beginning at element `at`, on the device.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit or are on another device.
    pub fn copy_from<'a>(&mut self, at: usize, from: impl Into<Slice<'a, T>>) -> Result<()> {
        let from = from.into();
        self.check_range("copy", at, from.len())?;
        if !self.device.same_as(from.device()) {
            let (to, from) = (self.device.name(), from.device().name());
            return Err(Error::shape("copy", "device", to, from));
        }
        let Some((source, from_offset)) = from.on_device() else {
            self.as_slice_mut()
                .slice_mut(at..at + from.len())
                .host()
                .copy_from_slice(from.host());
            return Ok(());
        };
        let to_offset = (at * size_of::<T>()) as u64;
        let mut bytes = (from.len() * size_of::<T>()) as u64;
        if at + from.len() == self.len {
            // Devices copy whole words, and allocations end with one.
            bytes = bytes.next_multiple_of(4);
        }
        if bytes == 0 {
            return Ok(());
        }
        if [to_offset, from_offset, bytes]
            .iter()
            .any(|n| !n.is_multiple_of(4))
        {
            return Err(Error::shape(
                "copy",
                "offsets and length of an f16 range",
                "even numbers of elements",
                format!("{} elements to element {at}", from.len()),
            ));
        }
        let device = self.device.clone();
        let storage = self.storage.as_mut().expect("present until dropped");
        match (device.backend(), source, storage) {
            (Backend::Cuda(d), Storage::Cuda(f), Storage::Cuda(t)) => {
                d.copy(f, from_offset, t, to_offset, bytes)
            }
            (Backend::Wgpu(d), Storage::Wgpu(f), Storage::Wgpu(t)) => {
                d.copy(f, from_offset, t, to_offset, bytes)
            }
            _ => unreachable!("a buffer's storage is of its device's kind"),
        }
    }

    fn check_range(&self, op: &'static str, at: usize, count: usize) -> Result<()> {
        if at.checked_add(count).is_none_or(|end| end > self.len) {
            return Err(Error::shape(
                op,
                "range",
                format!("at most {} elements", self.len),
                format!("{count} elements from element {at}"),
            ));
        }
        Ok(())
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        // A mapped file (size 0) is not the allocator's.
        if let Some(storage) = self.storage.take().filter(|_| self.size > 0) {
            if let Some(arena) = &self.arena {
                arena.give_back(self.size, storage);
                return;
            }
            let unwanted = self.device.lock_pool().give_back(self.size, storage);
            drop(unwanted);
        }
    }
}

impl<T: Element> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Buffer<{}>[{}] on {}",
            T::TYPE.name(),
            self.len,
            self.device.name()
        )
    }
}

/// Copies `len` elements from byte `offset` of a GPU's memory to the host.
pub(super) fn read<T: Element>(
    device: &Device,
    storage: &Storage,
    offset: u64,
    len: usize,
) -> Result<Vec<T>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    // Devices copy whole words: widen the byte range to multiples of 4 (allocations are multiples of 16).
    let start = offset / 4 * 4;
    let end = (offset + (len * size_of::<T>()) as u64).next_multiple_of(4);
    let mut words = vec![0u32; ((end - start) / 4) as usize];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    each_backend_pair!(device.backend(), storage, (d, s) => d.read(s, start, bytes))?;
    let skip = (offset - start) as usize / size_of::<T>();
    let all: &[T] = bytemuck::cast_slice(&words);
    Ok(all[skip..skip + len].to_vec())
}

/// A buffer, or a part of one, as an argument of a kernel.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub storage: &'a Storage,
    /// First byte.
    pub offset: u64,
    /// Bytes, a multiple of 16.
    pub bytes: u64,
    /// Whether the kernel writes it.
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    pub written: bool,
}
