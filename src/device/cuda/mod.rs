//! The CUDA backend: NVIDIA GPUs through the driver API and our own PTX.
//!
//! `libcuda` is looked up when the first device is opened, so the crate builds and starts on machines that have never
//! seen a GPU. Every device has one stream of its own; launches and copies are enqueued in order, and only
//! [`Memory::read`], [`Memory::synchronize`] and [`Memory::write`]s that overtake the device by megabytes wait. PTX is
//! compiled by the driver when a variant of a kernel is first launched; the driver keeps what it compiled on disk.
//!
//! Every driver function in use (`cudarc` adds none of its own on these paths):
//!
//! | for | functions |
//! | --- | --- |
//! | devices | `cuInit` `cuDeviceGetCount` `cuDeviceGet` `cuDeviceGetName` `cuDeviceGetAttribute` `cuDeviceTotalMem_v2` |
//! | context | `cuDevicePrimaryCtxRetain` `cuDevicePrimaryCtxRelease_v2` `cuCtxSetCurrent` |
//! | stream | `cuStreamCreate` `cuStreamSynchronize` `cuStreamDestroy_v2` |
//! | events | `cuEventCreate` `cuEventRecord` `cuEventSynchronize` `cuEventElapsedTime` `cuEventDestroy_v2` |
//! | memory | `cuMemAlloc_v2` `cuMemFree_v2` `cuMemcpyHtoDAsync_v2` `cuMemcpyDtoHAsync_v2` `cuMemcpyDtoDAsync_v2` `cuMemHostAlloc` `cuMemFreeHost` |
//! | kernels | `cuModuleLoadDataEx` `cuModuleLoadData` `cuModuleGetFunction` `cuModuleUnload` `cuFuncSetAttribute` `cuLaunchKernel` |
//! | recording | `cuStreamBeginCapture_v2` `cuStreamEndCapture` |
//! | graphs | `cuGraphInstantiateWithFlags` `cuGraphLaunch` `cuGraphExecDestroy` `cuGraphDestroy` |
//! | errors | `cuGetErrorName` `cuGetErrorString` |
//!
//! Symbols are resolved at their first call and a missing one panics, which is why `context` guards the way in and why
//! the list stays within what every driver since CUDA 11.4 exports.

mod capture;
mod context;
mod diagnostics;
mod memory;
mod modules;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cudarc::driver::result::{self, DriverError};

use super::template::Expanded;
use super::{InventoryLine, Memory};
use crate::error::{Error, Result};
use capture::Capture;
pub(crate) use capture::Captured;
use context::{Context, Description, Event, device_count};
use diagnostics::{explain, placed};
use memory::Aside;
use modules::Kernels;

/// An NVIDIA GPU.
pub(crate) struct Cuda {
    // Fields are dropped in this order; the context outlives what it holds.
    kernels: Kernels,
    /// Entry and text of every kernel, to name lines in reports. The driver keeps its own copy.
    texts: Mutex<Vec<(&'static str, Expanded)>>,
    aside: Mutex<Aside>,
    capture: Mutex<Option<Capture>>,
    /// Spent in the driver's compiler so far.
    compiling: Mutex<Duration>,
    context: Arc<Context>,
    multiprocessors: u32,
}

impl Cuda {
    /// Device number `ordinal`, or in one line why not; `staging` bytes of host memory hold what is on its way there.
    pub fn open(ordinal: usize, staging: Option<usize>) -> Result<Self, String> {
        let description = Description::of(ordinal)?;
        description.check()?;
        let context = Context::open(ordinal, &description)
            .map_err(|e| format!("{} does not open: {}", description.name, explain(e)))?;
        let context = Arc::new(context);
        Ok(Cuda {
            kernels: Kernels::default(),
            texts: Mutex::default(),
            aside: Mutex::new(Aside::new(&context, staging.unwrap_or(memory::ASIDE))),
            capture: Mutex::default(),
            compiling: Mutex::default(),
            context,
            multiprocessors: description.multiprocessors,
        })
    }

    /// One line per device, or one that says why there is none.
    pub fn inventory() -> Vec<InventoryLine> {
        let n = match device_count() {
            Ok(n) => n,
            Err(why) => {
                return vec![InventoryLine {
                    device: "cuda".into(),
                    available: false,
                    detail: why,
                }];
            }
        };
        (0..n)
            .map(|ordinal| {
                let usable = Description::of(ordinal).and_then(|d| {
                    d.check()?;
                    let (major, minor) = d.capability;
                    Ok(format!(
                        "{}, compute capability {major}.{minor}, {} multiprocessors, {:.1} GiB",
                        d.name,
                        d.multiprocessors,
                        d.bytes as f64 / f64::from(1u32 << 30)
                    ))
                });
                InventoryLine {
                    device: format!("cuda:{ordinal}"),
                    available: usable.is_ok(),
                    detail: usable.unwrap_or_else(|why| why),
                }
            })
            .collect()
    }

    /// Streaming multiprocessors: launchers choose tile sizes that keep all of them busy.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Whether the driver is not a GPU's but the emulator that executes and checks our PTX on the CPU.
    pub fn is_emulator(&self) -> bool {
        self.context.name.starts_with("PTX emulator")
    }

    /// Runs `work` and says how long the device was at it: the time between two events around what it enqueued, less
    /// what the driver's compiler took in between, for which the device waits.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        self.refuse_in_capture("taking the time")?;
        let compiling = *lock(&self.compiling);
        let start = self.check("recording an event", Event::record(&self.context))?;
        work()?;
        let end = self.check("recording an event", Event::record(&self.context))?;
        self.synchronize()?;
        // SAFETY: both events are ours, recorded in the same stream, and the stream is done.
        let milliseconds = unsafe { result::event::elapsed(start.event, end.event) };
        let milliseconds = self.check("timing", milliseconds)?;
        let elapsed = Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3);
        Ok(elapsed.saturating_sub(lock(&self.compiling).saturating_sub(compiling)))
    }

    /// Waits for the stream; then nothing aside is needed any more.
    fn finish(&self) -> Result<()> {
        let mut aside = lock(&self.aside);
        let done = self.context.synchronize();
        aside.clear();
        self.check("waiting for enqueued work", done)
    }

    /// `doing` is put into words only if something failed.
    fn check<T>(&self, doing: impl fmt::Display, outcome: Result<T, DriverError>) -> Result<T> {
        outcome.map_err(|e| {
            let why = placed(&explain(e), &lock(&self.texts));
            self.error(format!("{doing}: {why}"))
        })
    }

    fn error(&self, message: String) -> Error {
        Error::Device {
            device: self.name(),
            message,
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // What lies aside may be needed until the stream is idle.
        let _ = self.context.synchronize();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_an_error_of_one_line() {
        // Without a driver, without a device, or with fewer than a million of them.
        let why = Cuda::open(1_000_000, None).err().unwrap();
        assert!(why.contains("CUDA driver") && !why.contains('\n'), "{why}");
        let lines = Cuda::inventory();
        assert!(!lines.is_empty());
        assert!(
            lines
                .iter()
                .all(|l| l.device.starts_with("cuda") && !l.detail.contains('\n'))
        );
    }
}
