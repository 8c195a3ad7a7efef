//! The driver, its devices, and a device's context with its one stream.

use std::sync::{Arc, OnceLock};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::diagnostics::explain;

/// Makes the driver usable, once per process: it is an error, and not a panic, if there is none.
fn driver() -> Result<(), String> {
    static DRIVER: OnceLock<Result<(), String>> = OnceLock::new();
    DRIVER
        .get_or_init(|| {
            // SAFETY: loads and unloads the driver library under its usual names, which runs its initialisers; that is
            // what every CUDA program does at its start.
            if !unsafe { sys::is_culib_present() } {
                return Err("there is no CUDA driver (libcuda) on this machine".into());
            }
            result::init().map_err(|e| format!("the CUDA driver does not start: {}", explain(e)))
        })
        .clone()
}

/// Number of devices; an error if there is no driver or not one device.
pub(super) fn device_count() -> Result<usize, String> {
    driver()?;
    let n = result::device::get_count().map_err(|e| format!("counting devices: {}", explain(e)))?;
    match usize::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("the CUDA driver sees no device".into()),
    }
}

/// What a device is.
pub(super) struct Description {
    pub(super) device: sys::CUdevice,
    pub(super) name: String,
    pub(super) capability: (i32, i32),
    pub(super) multiprocessors: u32,
    pub(super) bytes: usize,
}

impl Description {
    pub(super) fn of(ordinal: usize) -> Result<Self, String> {
        let n = device_count()?;
        if ordinal >= n {
            return Err(format!(
                "the CUDA driver sees {n} device(s), numbered from 0"
            ));
        }
        let describe = || -> Result<Self, DriverError> {
            use sys::CUdevice_attribute as Attribute;
            let device = result::device::get(ordinal as i32)?;
            // SAFETY: `device` is a handle that the driver has just given out, for both uses of it.
            let attribute = |which| unsafe { result::device::get_attribute(device, which) };
            Ok(Description {
                device,
                name: result::device::get_name(device)?,
                capability: (
                    attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                    attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
                ),
                multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?
                    .max(1) as u32,
                // SAFETY: as above.
                bytes: unsafe { result::device::total_mem(device) }?,
            })
        };
        describe().map_err(|e| format!("asking about device {ordinal}: {}", explain(e)))
    }

    /// Our PTX needs `cp.async` and `mma.m16n8k16`.
    pub(super) fn check(&self) -> Result<(), String> {
        let (major, minor) = self.capability;
        if major < 8 {
            return Err(format!(
                "{} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or newer",
                self.name
            ));
        }
        Ok(())
    }
}

/// A device's context and its one stream; lives as long as any memory or kernel of the device.
pub(super) struct Context {
    pub(super) ordinal: usize,
    pub(super) name: String,
    pub(super) device: sys::CUdevice,
    pub(super) context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
}

// SAFETY: the handles are opaque to us, and the driver API may be called on them from any thread once the context is
// current there; every method that calls it binds the context first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver does its own locking.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn open(ordinal: usize, description: &Description) -> Result<Self, DriverError> {
        let device = description.device;
        // SAFETY: `device` comes from the driver. The retained context is released in `drop` or right here.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        let stream =
            // SAFETY: the context is retained.
            unsafe { result::ctx::set_current(context) }
                .and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking));
        match stream {
            Ok(stream) => Ok(Context {
                ordinal,
                name: description.name.clone(),
                device,
                context,
                stream,
            }),
            Err(e) => {
                // SAFETY: retained above and not used again.
                let _ = unsafe { result::primary_ctx::release(device) };
                Err(e)
            }
        }
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }
    }

    pub(super) fn synchronize(&self) -> Result<(), DriverError> {
        self.bind()?;
        // SAFETY: the stream is ours until `drop`.
        unsafe { result::stream::synchronize(self.stream) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.synchronize();
        // SAFETY: all memory and kernels hold an `Arc` of this context, so they are gone, and so is enqueued work.
        unsafe {
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// A point in the stream.
pub(super) struct Event {
    context: Arc<Context>,
    pub(super) event: sys::CUevent,
}

// SAFETY: an opaque handle of a context that may be used from any thread (see `Context`).
unsafe impl Send for Event {}

impl Event {
    /// An event recorded in the stream behind everything enqueued so far; its time can be taken.
    pub(super) fn record(context: &Arc<Context>) -> Result<Self, DriverError> {
        // The default flag of the driver, unlike cudarc's own default, keeps timing on.
        let event = Self::new(context, sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        event.record_again()?;
        Ok(event)
    }

    /// An event to wait for, not recorded yet.
    pub(super) fn to_wait_for(context: &Arc<Context>) -> Result<Self, DriverError> {
        Self::new(context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn new(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Self, DriverError> {
        context.bind()?;
        let event = result::event::create(flags)?;
        Ok(Event {
            context: context.clone(),
            event,
        })
    }

    /// Moves the event behind everything enqueued so far.
    pub(super) fn record_again(&self) -> Result<(), DriverError> {
        // SAFETY: event and stream belong to this context, which `self` keeps.
        unsafe { result::event::record(self.event, self.context.stream) }
    }

    /// Waits until the stream has come to it.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: ours until `drop`.
        unsafe { result::event::synchronize(self.event) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.context.bind();
        // SAFETY: made by `new`, and destroyed once.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}
