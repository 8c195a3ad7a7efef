//! The CUDA backend: NVIDIA GPUs through the driver API and our own PTX.
//!
//! `libcuda` is looked up when the first device is opened, so the crate builds and starts on machines that have never
//! seen a GPU. Every device has one stream of its own; launches and copies are enqueued in order, and only
//! [`Memory::read`], [`Memory::synchronize`] and large or very many [`Memory::write`]s wait. PTX is compiled by the
//! driver when a variant of a kernel is first launched; the driver keeps what it compiled on disk.
//!
//! Every driver function in use (`cudarc` adds none of its own on these paths):
//!
//! | for | functions |
//! | --- | --- |
//! | devices | `cuInit` `cuDeviceGetCount` `cuDeviceGet` `cuDeviceGetName` `cuDeviceGetAttribute` `cuDeviceTotalMem_v2` |
//! | context | `cuDevicePrimaryCtxRetain` `cuDevicePrimaryCtxRelease_v2` `cuCtxSetCurrent` |
//! | stream | `cuStreamCreate` `cuStreamSynchronize` `cuStreamDestroy_v2` |
//! | events | `cuEventCreate` `cuEventRecord` `cuEventElapsedTime` `cuEventDestroy_v2` |
//! | memory | `cuMemAlloc_v2` `cuMemFree_v2` `cuMemcpyHtoDAsync_v2` `cuMemcpyDtoHAsync_v2` `cuMemcpyDtoDAsync_v2` |
//! | kernels | `cuModuleLoadDataEx` `cuModuleLoadData` `cuModuleGetFunction` `cuModuleUnload` `cuFuncSetAttribute` `cuLaunchKernel` |
//! | recording | `cuStreamBeginCapture_v2` `cuStreamEndCapture` |
//! | graphs | `cuGraphInstantiateWithFlags` `cuGraphLaunch` `cuGraphExecDestroy` `cuGraphDestroy` |
//! | errors | `cuGetErrorName` `cuGetErrorString` |
//!
//! Symbols are resolved at their first call and a missing one panics, which is why [`driver`] guards the way in and why
//! the list stays within what every driver since CUDA 11.4 exports.
//!
//! Work is recorded on a stream that is made for it ([`Cuda::capture`]). While one thread records, what it enqueues goes
//! there and whatever cannot be recorded is refused; the other threads, and their stream, do not notice.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;
use std::time::Duration;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::{Arg, InventoryLine, Launch, Memory, Storage};
use crate::device::template::{self, Expanded, Variant};
use crate::error::{Error, Result};

/// Shared memory, static and dynamic, that a kernel may use without asking, in bytes.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

/// Writes up to this size are copied aside and return at once; larger ones wait until the source has been read.
const ASIDE: usize = 1 << 20;

/// Bytes that may lie aside before a write waits for the stream.
const ASIDE_TOTAL: usize = 64 << 20;

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
fn device_count() -> Result<usize, String> {
    driver()?;
    let n = result::device::get_count().map_err(|e| format!("counting devices: {}", explain(e)))?;
    match usize::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("the CUDA driver sees no device".into()),
    }
}

/// What a device is.
struct Description {
    device: sys::CUdevice,
    name: String,
    capability: (i32, i32),
    multiprocessors: u32,
    bytes: usize,
}

impl Description {
    fn of(ordinal: usize) -> Result<Self, String> {
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
    fn check(&self) -> Result<(), String> {
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
struct Context {
    ordinal: usize,
    name: String,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
}

// SAFETY: the handles are opaque to us, and the driver API may be called on them from any thread once the context is
// current there; every method that calls it binds the context first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver does its own locking.
unsafe impl Sync for Context {}

impl Context {
    fn open(ordinal: usize, description: &Description) -> Result<Self, DriverError> {
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
    fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }
    }

    fn synchronize(&self) -> Result<(), DriverError> {
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

/// A point in the stream whose time is taken.
struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

impl Event {
    /// An event recorded in the stream behind everything enqueued so far.
    fn record(context: &Arc<Context>) -> Result<Self, DriverError> {
        context.bind()?;
        // The default flag of the driver, unlike cudarc's own default, keeps timing on.
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        let event = Event {
            context: context.clone(),
            event,
        };
        // SAFETY: event and stream belong to this context, which `event` keeps.
        unsafe { result::event::record(event.event, context.stream) }?;
        Ok(event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.context.bind();
        // SAFETY: made by `record`, and destroyed once.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}

/// A piece of device memory.
pub(crate) struct Piece {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
    bytes: u64,
}

impl Piece {
    /// The device address of `offset`, from which `count` bytes must exist.
    fn at(&self, offset: u64, count: usize) -> sys::CUdeviceptr {
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

/// One compiled variant of a kernel.
struct Kernel {
    context: Arc<Context>,
    module: sys::CUmodule,
    function: sys::CUfunction,
    parameters: Vec<Parameter>,
    /// Dynamic shared memory that a launch may ask for.
    shared_limit: u32,
}

// SAFETY: opaque handles of a context that may be used from any thread (see `Context`).
unsafe impl Send for Kernel {}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        // SAFETY: loaded by `Cuda::compile`, unloaded only here, and no launch is left.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// Recorded work that can be enqueued.
pub(crate) struct Captured {
    context: Arc<Context>,
    work: sys::CUgraphExec,
}

// SAFETY: an opaque handle of a context that may be used from any thread (see `Context`). The driver wants calls on one
// graph to come one after the other: `Cuda::replay` takes it mutably.
unsafe impl Send for Captured {}

impl Drop for Captured {
    fn drop(&mut self) {
        // It may be at work still, and the memory that it uses is freed next.
        let _ = self.context.synchronize();
        // SAFETY: made by `Cuda::capture`, destroyed only here, and not running.
        let _ = unsafe { result::graph::exec_destroy(self.work) };
    }
}

/// A capture in progress: who makes it, and the stream that notes what is enqueued and executes nothing.
struct Capture {
    thread: ThreadId,
    stream: sys::CUstream,
}

// SAFETY: as for `Context`, whose the stream is.
unsafe impl Send for Capture {}

/// Sees to it that a capture is ended and its stream destroyed, also by a panic in what is captured.
struct CaptureEnd<'a> {
    cuda: &'a Cuda,
    stream: sys::CUstream,
    ended: bool,
}

impl CaptureEnd<'_> {
    /// What was captured.
    fn end(&mut self) -> Result<sys::CUgraph, DriverError> {
        self.ended = true;
        *lock(&self.cuda.capture) = None;
        self.cuda.context.bind()?;
        // SAFETY: the stream is ours and is being captured.
        unsafe { result::stream::end_capture(self.stream) }
    }
}

impl Drop for CaptureEnd<'_> {
    fn drop(&mut self) {
        if !self.ended
            && let Ok(graph) = self.end()
        {
            // SAFETY: nobody else has seen the graph.
            let _ = unsafe { result::graph::destroy(graph) };
        }
        // SAFETY: ours, no capture is in progress on it, and nothing was ever executed on it.
        let _ = unsafe { result::stream::destroy(self.stream) };
    }
}

/// What a kernel's parameter list declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameter {
    Address,
    U32,
    F32,
}

/// Host data whose copy to the device has been enqueued but may not have been made.
#[derive(Default)]
struct Aside {
    data: Vec<Box<[u8]>>,
    bytes: usize,
}

pub(crate) struct Cuda {
    // Fields are dropped in this order; the context outlives what it holds.
    kernels: Mutex<HashMap<(&'static str, &'static str, Variant), Kernel>>,
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
    /// Device number `ordinal`, or in one line why not.
    pub fn open(ordinal: usize) -> Result<Self, String> {
        let description = Description::of(ordinal)?;
        description.check()?;
        let context = Context::open(ordinal, &description)
            .map_err(|e| format!("{} does not open: {}", description.name, explain(e)))?;
        Ok(Cuda {
            kernels: Mutex::default(),
            texts: Mutex::default(),
            aside: Mutex::default(),
            capture: Mutex::default(),
            compiling: Mutex::default(),
            context: Arc::new(context),
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

    /// Captures what `work` enqueues on this thread instead of executing it. Only launches of kernels that are compiled
    /// already and copies on the device can be captured; anything else in `work` is an error.
    pub fn capture<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Captured)> {
        self.refuse_in_capture("a second recording")?;
        self.check("making the context current", self.context.bind())?;
        let stream = self.check(
            "making a stream",
            result::stream::create(result::stream::StreamKind::NonBlocking),
        )?;
        // Thread-local: calls that have no place in a capture fail on this thread only.
        // SAFETY: the stream has just been made in the current context.
        let begun = unsafe {
            result::stream::begin_capture(
                stream,
                sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            )
        };
        let mut end = CaptureEnd {
            cuda: self,
            stream,
            ended: begun.is_err(),
        };
        self.check("beginning to record", begun)?;
        *lock(&self.capture) = Some(Capture {
            thread: std::thread::current().id(),
            stream,
        });
        let outcome = work();
        let graph = end.end();
        // A failure in the work spoils the capture too, and is the better message.
        let value = outcome.inspect_err(|_| {
            if let Ok(graph) = graph {
                // SAFETY: nobody else has seen the graph.
                let _ = unsafe { result::graph::destroy(graph) };
            }
        })?;
        let graph = self.check("recording", graph)?;
        if graph.is_null() {
            return Err(self.error("recording: the driver made no graph".into()));
        }
        // SAFETY: a graph that the driver has just made; what is instantiated does not need it any more.
        let work = unsafe {
            let work = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            work
        };
        let work = self.check("making a graph of what was recorded", work)?;
        let captured = Captured {
            context: self.context.clone(),
            work,
        };
        Ok((value, captured))
    }

    /// Enqueues what was captured, on the usual stream.
    pub fn replay(&self, captured: &mut Captured) -> Result<()> {
        self.refuse_in_capture("a graph")?;
        self.check("making the context current", self.context.bind())?;
        // SAFETY: graph and stream are of this context, and no other call uses the graph. The memory whose addresses it
        // holds belongs to whoever owns the graph, and is freed only after the stream is idle.
        let launched = unsafe { result::graph::launch(captured.work, self.context.stream) };
        self.check("launching a graph", launched)
    }

    /// The stream on which this thread enqueues: the usual one, or the one on which it records.
    fn stream(&self) -> sys::CUstream {
        match &*lock(&self.capture) {
            Some(capture) if capture.thread == std::thread::current().id() => capture.stream,
            _ => self.context.stream,
        }
    }

    /// An error if this thread is recording: `what` cannot be part of a graph.
    fn refuse_in_capture(&self, what: &str) -> Result<()> {
        match &*lock(&self.capture) {
            Some(capture) if capture.thread == std::thread::current().id() => {
                Err(self.error(format!("recording: {what} cannot be part of a graph")))
            }
            _ => Ok(()),
        }
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

    /// How long the driver takes to make a module of a PTX text.
    pub fn compile_time(&self, ptx: &str) -> Result<Duration> {
        let image =
            CString::new(ptx).map_err(|_| self.error("a zero byte in a PTX text".into()))?;
        self.check("making the context current", self.context.bind())?;
        let start = std::time::Instant::now();
        // SAFETY: `image` is zero-terminated and outlives the call; the context is current.
        let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let taken = start.elapsed();
        let module = self.check("compiling", loaded)?;
        // SAFETY: loaded above, and nothing refers to it.
        let unloaded = unsafe { result::module::unload(module) };
        self.check("unloading a module", unloaded)?;
        Ok(taken)
    }

    /// Enqueues one launch, compiling the variant if it is new.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let what = || {
            format!(
                "{} in {} [{}]",
                launch.entry, launch.source.file, launch.variant
            )
        };
        if launch.grid.contains(&0) || launch.block.contains(&0) {
            return Err(self.error(format!(
                "{}: an empty launch, grid {:?}, block {:?}",
                what(),
                launch.grid,
                launch.block
            )));
        }
        self.check("making the context current", self.context.bind())?;
        let key = (launch.source.file, launch.entry, launch.variant.clone());
        let mut kernels = lock(&self.kernels);
        let kernel = match kernels.entry(key) {
            std::collections::hash_map::Entry::Occupied(slot) => slot.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => {
                self.refuse_in_capture("compiling a kernel")?;
                let start = std::time::Instant::now();
                let kernel = self.compile(launch)?;
                *lock(&self.compiling) += start.elapsed();
                slot.insert(kernel)
            }
        };

        let mut values = Vec::with_capacity(launch.args.len());
        let mut kinds = Vec::with_capacity(launch.args.len());
        for arg in launch.args {
            let (kind, value) = pack(arg);
            kinds.push(kind);
            values.push(value);
        }
        if kinds != kernel.parameters {
            return Err(self.error(format!(
                "{}: declares {:?}, is given {kinds:?}",
                what(),
                kernel.parameters
            )));
        }
        if launch.shared_bytes > kernel.shared_limit {
            use sys::CUfunction_attribute_enum as Attribute;
            // SAFETY: the function is one of a module that is loaded as long as `kernel` exists.
            let raised = unsafe {
                result::function::set_function_attribute(
                    kernel.function,
                    Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    launch.shared_bytes as i32,
                )
            };
            self.check(
                &format!(
                    "{}: asking for {} bytes of shared memory",
                    what(),
                    launch.shared_bytes
                ),
                raised,
            )?;
            kernel.shared_limit = launch.shared_bytes;
        }
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the argument list has the number and kinds of values that the entry declares (checked above), each
        // pointer reaches 8 readable bytes, and the driver copies them before it returns. Addresses come from live
        // pieces of this device; memory is freed only after the stream is idle. That the kernel stays within the
        // buffers is the launcher's promise: it checks the shapes.
        let launched = unsafe {
            result::launch_kernel(
                kernel.function,
                (gx, gy, gz),
                (bx, by, bz),
                launch.shared_bytes,
                self.stream(),
                &mut pointers,
            )
        };
        self.check(
            &format!(
                "{}: launching grid {:?}, block {:?}, {} bytes of shared memory",
                what(),
                launch.grid,
                launch.block,
                launch.shared_bytes
            ),
            launched,
        )
    }

    /// Expands a variant and has the driver compile it.
    fn compile(&self, launch: &Launch<'_>) -> Result<Kernel> {
        let expanded = template::expand(launch.source, &launch.variant)?;
        let name = format!("{} [{}]", launch.source.file, launch.variant);
        let parameters = parameters(&expanded.text, launch.entry).ok_or_else(|| {
            self.error(format!(
                "{name}: no entry {} with .u64, .u32 and .f32 parameters",
                launch.entry
            ))
        })?;
        let image = CString::new(expanded.text.as_str())
            .map_err(|_| self.error(format!("{name}: a zero byte in the text")))?;
        let entry = CString::new(launch.entry)
            .map_err(|_| self.error(format!("{name}: a zero byte in the entry's name")))?;

        let mut log = vec![0u8; 8 << 10];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // An option's value is passed in place of the pointer.
        let mut values = [
            log.as_mut_ptr().cast::<c_void>(),
            std::ptr::without_provenance_mut(log.len() - 1),
        ];
        let mut module = std::ptr::null_mut();
        // SAFETY: `image` is zero-terminated, options and values are two each, the log has the size stated (its last
        // byte stays zero), and all of them outlive the call. The context is current.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if let Err(e) = loaded.result() {
            let log = CStr::from_bytes_until_nul(&log)
                .map(CStr::to_string_lossy)
                .unwrap_or_default();
            return Err(self.error(format!(
                "{name} does not compile: {}",
                first_complaint(&log, &expanded).unwrap_or_else(|| explain(e))
            )));
        }
        // SAFETY: the module has just been loaded.
        let function = match unsafe { result::module::get_function(module, entry) } {
            Ok(function) => function,
            Err(e) => {
                // SAFETY: loaded above, and nothing refers to it.
                let _ = unsafe { result::module::unload(module) };
                return self.check(&format!("{name}: looking up {}", launch.entry), Err(e));
            }
        };
        let mut kernel = Kernel {
            context: self.context.clone(),
            module,
            function,
            parameters,
            shared_limit: 0,
        };
        // SAFETY: the function is one of a module that is loaded as long as `kernel` exists.
        let fixed = unsafe {
            result::function::get_function_attribute(
                kernel.function,
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )
        };
        let fixed = self.check(&format!("{name}: asking for its static memory"), fixed)?;
        kernel.shared_limit = SHARED_BY_DEFAULT.saturating_sub(fixed as u32);
        lock(&self.texts).push((launch.entry, expanded));
        Ok(kernel)
    }

    /// Waits for the stream; then nothing aside is needed any more.
    fn finish(&self, aside: &mut Aside) -> Result<()> {
        let done = self.context.synchronize();
        *aside = Aside::default();
        self.check("waiting for enqueued work", done)
    }

    fn check<T>(&self, doing: &str, outcome: Result<T, DriverError>) -> Result<T> {
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
            Err(e) => self.check(&format!("allocating {bytes} bytes"), Err(e)),
        }
    }

    fn write(&self, to: &mut Piece, offset: u64, data: &[u8]) -> Result<()> {
        let address = to.at(offset, data.len());
        self.refuse_in_capture("copying from the host")?;
        self.check("making the context current", self.context.bind())?;
        let doing = "copying to the device";
        let mut aside = lock(&self.aside);
        if data.len() > ASIDE {
            // SAFETY: `to` has the bytes (checked), and `data` is borrowed until the stream is idle again.
            let copied = unsafe { result::memcpy_htod_async(address, data, self.context.stream) };
            self.check(doing, copied)?;
            return self.finish(&mut aside);
        }
        if aside.bytes + data.len() > ASIDE_TOTAL {
            self.finish(&mut aside)?;
        }
        let copy: Box<[u8]> = data.into();
        // SAFETY: `to` has the bytes (checked); `copy` stays where it is, on the heap, until the stream has been idle.
        let copied = unsafe { result::memcpy_htod_async(address, &copy, self.context.stream) };
        aside.bytes += copy.len();
        aside.data.push(copy);
        self.check(doing, copied)
    }

    fn read(&self, from: &Piece, offset: u64, data: &mut [u8]) -> Result<()> {
        let address = from.at(offset, data.len());
        self.refuse_in_capture("copying to the host")?;
        self.check("making the context current", self.context.bind())?;
        let mut aside = lock(&self.aside);
        // SAFETY: `from` has the bytes (checked), and `data` is borrowed until the stream is idle again.
        let copied = unsafe { result::memcpy_dtoh_async(data, address, self.context.stream) };
        // Wait even if the copy was refused: an earlier failure is then the better message.
        self.finish(&mut aside)?;
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
        self.finish(&mut lock(&self.aside))
    }
}

/// An argument in the memory form in which the driver reads it: as many bytes as its kind has, at the front.
#[repr(C, align(8))]
struct Packed([u8; 8]);

fn pack(arg: &Arg<'_>) -> (Parameter, Packed) {
    let word = |[a, b, c, d]: [u8; 4]| Packed([a, b, c, d, 0, 0, 0, 0]);
    match arg {
        Arg::Buffer(binding) => {
            let Storage::Cuda(piece) = binding.storage else {
                unreachable!("a CUDA device's buffers are CUDA buffers")
            };
            let address = piece.at(binding.offset, binding.bytes as usize);
            (Parameter::Address, Packed(address.to_ne_bytes()))
        }
        Arg::Null => (Parameter::Address, Packed([0; 8])),
        Arg::U32(value) => (Parameter::U32, word(value.to_ne_bytes())),
        Arg::F32(value) => (Parameter::F32, word(value.to_ne_bytes())),
    }
}

/// The parameter list of `entry`; `None` if the entry is missing or has a parameter of another kind.
fn parameters(ptx: &str, entry: &str) -> Option<Vec<Parameter>> {
    let code: String = ptx
        .lines()
        .flat_map(|line| [line.split("//").next().unwrap_or_default(), " "])
        .collect();
    let list = code.split(".entry").skip(1).find_map(|declaration| {
        let (name, rest) = declaration.split_once('(')?;
        (name.trim() == entry).then(|| rest.split_once(')'))?
    })?;
    list.0
        .split(',')
        .map(
            |parameter| match parameter.split_whitespace().collect::<Vec<_>>()[..] {
                [".param", ".u64", _] => Some(Parameter::Address),
                [".param", ".u32", _] => Some(Parameter::U32),
                [".param", ".f32", _] => Some(Parameter::F32),
                _ => None,
            },
        )
        .collect()
}

/// The first error in the driver's compiler log, its line number replaced by the line of the file that it came from.
fn first_complaint(log: &str, expanded: &Expanded) -> Option<String> {
    let line = log
        .lines()
        .find(|line| line.contains("error") || line.contains("fatal"))
        .or_else(|| log.lines().find(|line| !line.trim().is_empty()))?
        .trim();
    let numbered = line.split_once("line ").and_then(|(_, rest)| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        let origin = expanded.origin(digits.parse().ok()?)?;
        let complaint = rest[digits.len()..].trim_start_matches([';', ' ', ':']);
        Some(format!("{origin}: {complaint}"))
    });
    Some(numbered.unwrap_or_else(|| line.to_string()))
}

/// A report of the PTX emulator, `kind: entry, line N, ..`, with its line numbers, which count in the text that the
/// driver got, replaced by places in the kernels' files; anything else as it is.
fn placed(report: &str, texts: &[(&'static str, Expanded)]) -> String {
    let unplaced = || report.to_owned();
    let Some((head, tail)) = report.split_once(", line ") else {
        return unplaced();
    };
    let entry = head.rsplit(' ').next().unwrap_or_default();
    let number = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    let (Some(line), Some(instruction)) = (number(tail), tail.split('`').nth(1)) else {
        return unplaced();
    };
    let line: usize = line;
    let opcode = instruction
        .split_whitespace()
        .find(|word| !word.starts_with('@'));
    // Of the variants that have been compiled, those that have this instruction there.
    let mut places = texts
        .iter()
        .filter(|(name, text)| {
            let there = text.text.lines().nth(line.saturating_sub(1));
            *name == entry && there.zip(opcode).is_some_and(|(t, o)| t.contains(o))
        })
        .map(|(_, text)| {
            let mut parts = report.split("line ");
            let mut placed = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                match number(part).and_then(|line| text.origin(line)) {
                    Some(origin) => {
                        placed.push_str(&origin);
                        placed.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
                    }
                    None => {
                        placed.push_str("line ");
                        placed.push_str(part);
                    }
                }
            }
            placed
        });
    match places.next() {
        Some(first) if places.all(|other| other == first) => first,
        _ => unplaced(),
    }
}

/// A driver error in words, with its name.
fn explain(error: DriverError) -> String {
    let text =
        |text: Result<&CStr, DriverError>| text.ok().map(|t| t.to_string_lossy().into_owned());
    match (text(error.error_string()), text(error.error_name())) {
        (Some(words), Some(name)) => format!("{words} ({name})"),
        _ => format!("driver error {}", error.0 as u32),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::template::Source;

    const PTX: &str = "// .entry probe(\n.visible .entry other(.param .u64 a)\n{ ret; }\n.visible .entry probe(\n  \
        .param .u64 a, // one, two)\n  .param .u32 n,\n  .param .f32 eps\n)\n{\n  ret;\n}\n";

    #[test]
    fn parameter_lists_are_read() {
        use Parameter::{Address, F32, U32};
        assert_eq!(parameters(PTX, "probe"), Some(vec![Address, U32, F32]));
        assert_eq!(parameters(PTX, "other"), Some(vec![Address]));
        assert_eq!(parameters(PTX, "prob"), None);
        assert_eq!(parameters(&PTX.replace(".f32", ".v4"), "probe"), None);
    }

    #[test]
    fn arguments_are_packed_at_the_front() {
        let (kind, packed) = pack(&Arg::U32(0x0102_0304));
        assert_eq!(kind, Parameter::U32);
        assert_eq!(packed.0[..4], 0x0102_0304u32.to_ne_bytes());
        let (kind, packed) = pack(&Arg::F32(1.5));
        assert_eq!(kind, Parameter::F32);
        assert_eq!(packed.0[..4], 1.5f32.to_ne_bytes());
        let (kind, packed) = pack(&Arg::Null);
        assert_eq!((kind, packed.0), (Parameter::Address, [0; 8]));
    }

    #[test]
    fn compiler_complaints_name_the_line_of_the_file() {
        let source = Source {
            file: "probe.ptx",
            text: "%% set n = 2\n%% for i in range(n)\n  one\n  two\n%% endfor\n",
        };
        let expanded = template::expand(source, &Variant::new()).unwrap();
        let at = 1 + expanded
            .text
            .lines()
            .position(|l| l.contains("two"))
            .unwrap();
        let log = format!(
            "ptxas application ptx input, line {at}; error   : Unknown symbol '%r'\nptxas fatal   : aborted"
        );
        assert_eq!(
            first_complaint(&log, &expanded).unwrap(),
            "probe.ptx:4: error   : Unknown symbol '%r'"
        );
        assert_eq!(
            first_complaint("ptxas fatal   : no", &expanded).unwrap(),
            "ptxas fatal   : no"
        );
        assert_eq!(first_complaint(" \n", &expanded), None);
    }

    #[test]
    fn reports_name_the_line_of_the_file() {
        let source = Source {
            file: "probe.ptx",
            text: "%% if wide\n//\n%% endif\nadd.u32 %a, %a, 1;\nst.global.u32 [%b], %a;\n",
        };
        let text = |wide| {
            let variant = Variant::new().with("wide", wide);
            ("probe", template::expand(source, &variant).unwrap())
        };
        let texts = [text(true), text(false)];
        let line = |i: usize, what: &str| {
            let lines = texts[i].1.text.lines();
            1 + lines.enumerate().find(|l| l.1.contains(what)).unwrap().0
        };
        let (add, store) = (line(0, "add"), line(0, "st.global"));
        let report = |at: usize, instruction: &str| {
            format!("out of bounds: probe, line {at}, `{instruction}`, thread 3: since line {add}")
        };
        assert_eq!(
            placed(&report(store, "st.global.u32 [%b], %a"), &texts),
            "out of bounds: probe, probe.ptx:5, `st.global.u32 [%b], %a`, thread 3: since probe.ptx:4"
        );
        // No variant has that instruction in that line; another kernel; no report at all.
        for other in [
            report(add, "ret"),
            report(store, "st.global.u32").replace("probe", "prob"),
            "invalid value (CUDA_ERROR_INVALID_VALUE)".into(),
        ] {
            assert_eq!(placed(&other, &texts), other);
        }
    }

    #[test]
    fn a_missing_device_is_an_error_of_one_line() {
        // Without a driver, without a device, or with fewer than a million of them.
        let why = Cuda::open(1_000_000).err().unwrap();
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
