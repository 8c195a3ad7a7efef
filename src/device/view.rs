//! Ranges of buffers, which operators take in place of whole ones.
//!
//! All weights of a model, or all their gradients, can so be one [`Buffer`]. A view is borrowed from its buffer like a
//! slice from a vector, and two that are written never overlap. GPUs want views to begin at certain offsets: a multiple
//! of 16 bytes on CUDA, of up to 256 bytes on wgpu; operators refuse others.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use super::{Binding, Buffer, Device, Element, Storage};
use crate::error::Result;

/// Elements of a [`Buffer`], to be read.
pub struct Slice<'a, T: Element> {
    device: &'a Device,
    place: Place<'a, &'a [T]>,
    len: usize,
}

/// Elements of a [`Buffer`], to be written.
pub struct SliceMut<'a, T: Element> {
    device: &'a Device,
    place: Place<'a, &'a mut [T]>,
    len: usize,
}

/// Where the elements are.
pub(super) enum Place<'a, H> {
    /// In memory that the CPU sees: the elements themselves.
    Host(H),
    /// In the memory of a GPU.
    Device {
        storage: &'a Storage,
        /// First byte.
        offset: u64,
        /// Bytes from there to the end of the allocation.
        room: u64,
    },
}

impl<'a, T: Element> Clone for Slice<'a, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Element> Copy for Slice<'_, T> {}

impl<'a, H: Copy> Clone for Place<'a, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Copy> Copy for Place<'_, H> {}

/// First element and number of elements of a range of `len`.
fn bounds(range: impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last + 1,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => len,
    };
    assert!(
        start <= end && end <= len,
        "elements {start}..{end} of {len}"
    );
    (start, end - start)
}

impl<'a, H> Place<'a, H> {
    /// The place from element `start` on; `host` cuts host memory.
    fn at<T, U>(self, start: usize, host: impl FnOnce(H) -> U) -> Place<'a, U> {
        match self {
            Place::Host(elements) => Place::Host(host(elements)),
            Place::Device {
                storage,
                offset,
                room,
            } => {
                let skipped = (start * size_of::<T>()) as u64;
                Place::Device {
                    storage,
                    offset: offset + skipped,
                    room: room - skipped,
                }
            }
        }
    }

    fn bind<T>(&self, len: usize, written: bool) -> Binding<'a> {
        match *self {
            Place::Host(_) => unreachable!("kernels run on GPUs"),
            Place::Device {
                storage,
                offset,
                room,
            } => Binding {
                storage,
                offset,
                // Kernels address whole 16-byte units; the allocation reaches to the next multiple of 16.
                bytes: ((len * size_of::<T>()) as u64)
                    .max(16)
                    .next_multiple_of(16)
                    .min(room),
                written,
            },
        }
    }
}

impl<'a, T: Element> Slice<'a, T> {
    pub(super) fn new(device: &'a Device, place: Place<'a, &'a [T]>, len: usize) -> Self {
        Slice { device, place, len }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// `true` if it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device it lives on.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range goes beyond the end, as a range of a slice does.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Slice<'a, T> {
        let (start, len) = bounds(range, self.len);
        Slice {
            device: self.device,
            place: self.place.at::<T, _>(start, |host| &host[start..][..len]),
            len,
        }
    }

    /// The elements, copied to the host. Waits for the work that produces them.
    ///
    /// # Errors
    /// What the device reports, including failures of earlier enqueued work.
    pub fn read(&self) -> Result<Vec<T>> {
        match self.place {
            Place::Host(elements) => Ok(elements.to_vec()),
            Place::Device {
                storage, offset, ..
            } => super::buffer::read(self.device, storage, offset, self.len),
        }
    }

    /// The elements on the CPU device.
    pub(crate) fn host(&self) -> &'a [T] {
        match self.place {
            Place::Host(elements) => elements,
            Place::Device { .. } => unreachable!("only CPU code paths look into a buffer"),
        }
    }

    /// The memory of a GPU and the first byte in it; `None` on the CPU.
    pub(super) fn on_device(&self) -> Option<(&'a Storage, u64)> {
        match self.place {
            Place::Host(_) => None,
            Place::Device {
                storage, offset, ..
            } => Some((storage, offset)),
        }
    }

    /// The view as one of elements of another type, if that is the type they have.
    pub(crate) fn of_type<U: Element>(self) -> Option<Slice<'a, U>> {
        let place = match self.place {
            Place::Host(_) => Place::Host(self.host_as::<U>()?),
            Place::Device {
                storage,
                offset,
                room,
            } => Place::Device {
                storage,
                offset,
                room,
            },
        };
        (T::TYPE == U::TYPE).then(|| Slice::new(self.device, place, self.len))
    }

    /// The elements on the CPU device as those of another type, if that is the type they have.
    pub(crate) fn host_as<U: Element>(&self) -> Option<&'a [U]> {
        (T::TYPE == U::TYPE).then(|| bytemuck::cast_slice(self.host()))
    }

    /// It as a kernel argument.
    pub(super) fn bind(&self) -> Binding<'a> {
        self.place.bind::<T>(self.len, false)
    }
}

impl<'a, T: Element> SliceMut<'a, T> {
    pub(super) fn new(device: &'a Device, place: Place<'a, &'a mut [T]>, len: usize) -> Self {
        SliceMut { device, place, len }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// `true` if it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device it lives on.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The same elements, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_, T> {
        self.slice_mut(..)
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range goes beyond the end, as a range of a slice does.
    pub fn slice_mut(&mut self, range: impl RangeBounds<usize>) -> SliceMut<'_, T> {
        let (start, len) = bounds(range, self.len);
        let place = match &mut self.place {
            Place::Host(host) => Place::Host(&mut host[start..][..len]),
            Place::Device {
                storage,
                offset,
                room,
            } => Place::Device {
                storage,
                offset: *offset,
                room: *room,
            }
            .at::<T, _>(start, |host: &mut [T]| host),
        };
        SliceMut {
            device: self.device,
            place,
            len,
        }
    }

    /// The elements before `middle` and those from there on.
    ///
    /// # Panics
    /// If there are fewer than `middle`.
    pub fn split_at_mut(self, middle: usize) -> (SliceMut<'a, T>, SliceMut<'a, T>) {
        let (_, len) = bounds(middle.., self.len);
        let device = self.device;
        let [before, after] = match self.place {
            Place::Host(host) => {
                let (before, after) = host.split_at_mut(middle);
                [Place::Host(before), Place::Host(after)]
            }
            Place::Device {
                storage,
                offset,
                room,
            } => [0, middle].map(|start| {
                Place::Device {
                    storage,
                    offset,
                    room,
                }
                .at::<T, _>(start, |host: &'a mut [T]| host)
            }),
        };
        (
            SliceMut::new(device, before, middle),
            SliceMut::new(device, after, len),
        )
    }

    /// The elements on the CPU device, to be written.
    pub(crate) fn host(&mut self) -> &mut [T] {
        match &mut self.place {
            Place::Host(elements) => elements,
            Place::Device { .. } => unreachable!("only CPU code paths look into a buffer"),
        }
    }

    /// The elements on the CPU device as those of another type, if that is the type they have.
    pub(crate) fn host_as<U: Element>(&mut self) -> Option<&mut [U]> {
        (T::TYPE == U::TYPE).then(|| bytemuck::cast_slice_mut(self.host()))
    }

    /// It as a kernel argument.
    pub(super) fn bind(&mut self) -> Binding<'_> {
        self.place.bind::<T>(self.len, true)
    }
}

impl<'a, T: Element> From<&'a Buffer<T>> for Slice<'a, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        buffer.as_slice()
    }
}

impl<'a, T: Element> From<&'a mut Buffer<T>> for Slice<'a, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        buffer.as_slice()
    }
}

impl<'a, T: Element> From<&'a SliceMut<'_, T>> for Slice<'a, T> {
    fn from(view: &'a SliceMut<'_, T>) -> Self {
        let place = match &view.place {
            Place::Host(host) => Place::Host(&**host),
            Place::Device {
                storage,
                offset,
                room,
            } => Place::Device {
                storage,
                offset: *offset,
                room: *room,
            },
        };
        Slice::new(view.device, place, view.len)
    }
}

impl<'a, T: Element> From<&'a mut Buffer<T>> for SliceMut<'a, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        buffer.as_slice_mut()
    }
}

impl<T: Element> fmt::Debug for Slice<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Slice<{}>[{}] on {}",
            T::TYPE.name(),
            self.len,
            self.device.name()
        )
    }
}

impl<T: Element> fmt::Debug for SliceMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Slice::from(self), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_ranges_of_their_buffer() {
        let cpu = Device::cpu();
        let mut buffer = cpu.upload(&[0f32, 1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(buffer.slice(1..3).read().unwrap(), [1.0, 2.0]);
        assert_eq!(
            buffer.slice(..).slice(3..).slice(1..).read().unwrap(),
            [4.0]
        );
        assert!(buffer.slice(5..).is_empty());
        let (mut before, mut after) = buffer.as_slice_mut().split_at_mut(2);
        assert_eq!((before.len(), after.len()), (2, 3));
        before.host()[1] = 10.0;
        after.slice_mut(1..).host()[1] = 40.0;
        assert_eq!(buffer.read().unwrap(), [0.0, 10.0, 2.0, 3.0, 40.0]);
    }

    #[test]
    #[should_panic(expected = "elements 2..6 of 5")]
    fn views_end_with_their_buffer() {
        let buffer = Device::cpu().upload(&[0f32; 5]).unwrap();
        buffer.slice(2..6);
    }
}
