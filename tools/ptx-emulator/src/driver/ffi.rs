//! The border: what C hands over, and what must not cross it.
//!
//! A caller of the driver API promises that a pointer is null or valid for the purpose that the function has for it.
//! That promise is what every `SAFETY` comment here rests on; nothing else in this folder touches a caller's memory
//! except through these types.

use std::any::Any;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::codes::{
    self, CUresult, INVALID_VALUE, NOT_INITIALIZED, Outcome, SUCCESS, UNKNOWN, fail,
};
use super::state::Driver;

/// An opaque handle: a number that is never given out twice, so that a destroyed one is recognised. 0 is null.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub usize);

impl Handle {
    pub const NULL: Handle = Handle(0);
}

/// A pointer through which a result is returned.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// An error if the caller gave null.
    pub fn check(&self) -> Outcome {
        if self.0.is_null() {
            return fail(INVALID_VALUE, "a null pointer for a result");
        }
        Ok(())
    }

    /// Hands a result over.
    pub fn set(&self, value: T) -> Outcome {
        self.check()?;
        // SAFETY: not null, so by the caller's promise it may be written; `write` reads and drops nothing.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Hands a result over if the caller wants it.
    pub fn set_if_wanted(&self, value: T) {
        let _ = self.set(value);
    }
}

impl Out<c_char> {
    /// A buffer of characters whose address came as a value.
    pub fn at(buffer: *mut c_void) -> Self {
        Out(buffer.cast())
    }

    /// A zero-terminated text, cut to the caller's `len` bytes.
    pub fn set_text(&self, text: &str, len: usize) -> Outcome {
        self.check()?;
        if len == 0 {
            return fail(INVALID_VALUE, "a buffer of no bytes");
        }
        let kept = &text.as_bytes()[..text.len().min(len - 1)];
        // SAFETY: not null, and the caller promises `len` bytes; `kept` is at least one shorter.
        unsafe {
            std::ptr::copy_nonoverlapping(kept.as_ptr(), self.0.cast(), kept.len());
            self.0.add(kept.len()).write(0);
        }
        Ok(())
    }
}

/// A zero-terminated text.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    pub fn bytes(&self) -> Outcome<Vec<u8>> {
        if self.0.is_null() {
            return fail(INVALID_VALUE, "a null pointer for a text");
        }
        // SAFETY: not null, so by the caller's promise it is zero-terminated.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes().to_vec())
    }

    pub fn lossy(&self) -> Outcome<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }
}

/// The caller's array.
#[repr(transparent)]
pub struct List<T>(*mut T);

impl<T: Copy> List<T> {
    /// No list.
    pub fn none() -> Self {
        List(std::ptr::null_mut())
    }

    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    pub fn get(&self, index: usize) -> Outcome<T> {
        if self.0.is_null() {
            return fail(INVALID_VALUE, "a null pointer for a list");
        }
        // SAFETY: not null, and the caller promises as many elements as the function's other arguments say.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    pub fn put(&self, index: usize, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `get`; the lists written to are the ones that the API declares as in and out.
            unsafe { self.0.add(index).write_unaligned(value) };
        }
    }
}

/// An address in the caller's memory, kept as a number: work may be done on another thread than it was asked for.
pub(super) fn address<T>(pointer: *const T) -> usize {
    pointer.expose_provenance()
}

/// A copy of host memory.
pub(super) fn host_read(from: usize, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    // SAFETY: the caller of the copy promised `bytes` readable bytes at `from` until the work is done.
    unsafe {
        std::ptr::copy_nonoverlapping(
            std::ptr::with_exposed_provenance::<u8>(from),
            data.as_mut_ptr(),
            bytes,
        );
    }
    data
}

/// Writes host memory.
pub(super) fn host_write(to: usize, data: &[u8]) {
    // SAFETY: the caller of the copy promised as many writable bytes at `to` until the work is done.
    unsafe {
        std::ptr::copy_nonoverlapping(
            data.as_ptr(),
            std::ptr::with_exposed_provenance_mut::<u8>(to),
            data.len(),
        );
    }
}

/// Fills host memory with a byte.
pub(super) fn host_fill(to: usize, byte: u8, bytes: usize) {
    // SAFETY: as in `host_write`.
    unsafe {
        std::ptr::with_exposed_provenance_mut::<u8>(to).write_bytes(byte, bytes);
    }
}

/// A text of the driver's as C takes it.
pub(super) fn c_text(text: Option<&'static CStr>) -> *const c_char {
    text.map_or(std::ptr::null(), CStr::as_ptr)
}

/// A value in the form of a pointer, as the JIT options have it.
pub(super) fn value_of(pointer: *mut c_void) -> usize {
    pointer.addr()
}

/// All there is; `None` until `cuInit`. One lock for everything: this is a test double, and order is what it is about.
static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

pub(super) fn driver() -> MutexGuard<'static, Option<Driver>> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of a driver function that needs `cuInit`.
pub(super) fn enter(function: &str, body: impl FnOnce(&mut Driver) -> Outcome) -> CUresult {
    guard(function, || match driver().as_mut() {
        Some(driver) => body(driver),
        None => fail(NOT_INITIALIZED, "cuInit has not been called"),
    })
}

/// Runs the body of a driver function: no panic leaves it.
pub(super) fn guard(function: &str, body: impl FnOnce() -> Outcome) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(failure)) => {
            if std::env::var_os("PTX_EMULATOR_VERBOSE").is_some_and(|v| v == "1") {
                let name = codes::name(failure.code).unwrap_or("an unknown code");
                eprintln!("ptx-emulator: {function}: {name}: {}", failure.why);
            }
            failure.code
        }
        Err(panic) => {
            eprintln!(
                "ptx-emulator: {function}: a defect of the emulator: {}",
                words(&*panic)
            );
            UNKNOWN
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
}
