//! Devices, buffers and kernel launches.
//!
//! A [`Device`] is an opaque handle to one place where operators run: the CPU, an NVIDIA GPU through the CUDA driver,
//! or a Vulkan/Metal adapter through wgpu. Work is enqueued in order on one stream per device; only reads
//! ([`Buffer::read`]) and [`Device::synchronize`] wait. No public type leaks cudarc or wgpu, and everything that
//! allocates, copies, launches or times lives here and never in an operator's file.
//!
//! Buffers are typed, owned and drawn from a caching allocator. Whatever a device lacks is an error that names it;
//! nothing falls back to another device in silence.

mod bench;
mod buffer;
mod call;
mod cpu;
mod graph;
mod pool;
mod profile;
pub(crate) mod template;
mod view;

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
#[allow(dead_code, reason = "one of the two may be there for real")]
mod absent;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "wgpu")]
mod wgpu;

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

#[doc(hidden)]
pub use bench::Replay;
pub use buffer::{Buffer, Element, ElementType, Float};
pub use pool::MemoryStats;
pub use profile::OpTotals;
#[doc(hidden)]
pub use profile::{Ceilings, Cost};

#[cfg(feature = "cuda")]
pub(crate) use self::cuda::{Captured, Cuda};
#[cfg(feature = "wgpu")]
pub(crate) use self::wgpu::Wgpu;
#[cfg(not(feature = "wgpu"))]
pub(crate) use absent::Wgpu;
#[cfg(not(feature = "cuda"))]
pub(crate) use absent::{Captured, Cuda};
pub(crate) use buffer::Binding;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use call::Arg;
pub(crate) use call::{Call, Geometry, Gpu};
#[doc(hidden)]
pub use call::{Kernel, Language, Param, ParamKind};
pub(crate) use graph::Graph;
use graph::{Arena, Recording};
use pool::Pool;
use profile::Log;
use template::Variant;
pub use view::{Slice, SliceMut};

use crate::error::{Error, Result};

/// The kinds of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor: f32 in memory, dense products through `gemm`, rayon elsewhere.
    Cpu,
    /// An NVIDIA GPU, through the CUDA driver API and our own PTX.
    Cuda,
    /// A Vulkan or Metal adapter, through wgpu and our own WGSL.
    Wgpu,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
            DeviceKind::Wgpu => "wgpu",
        })
    }
}

/// In which element types a device keeps a model's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// Everything in f32.
    F32,
    /// Activations and matrices in f16; the residual stream, sums, norms and small vectors in f32.
    Mixed,
}

impl Precision {
    /// As results and messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Mixed => "mixed",
        }
    }
}

/// Which device a user asked for: `auto | cpu | cuda[:N] | wgpu | vulkan | metal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// CUDA, then a hardware wgpu adapter, then the CPU.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// CUDA device with this ordinal.
    Cuda(usize),
    /// Any wgpu adapter: a hardware one if there is one, else a software one.
    Wgpu,
    /// As `Wgpu`, Vulkan only.
    Vulkan,
    /// As `Wgpu`, Metal only.
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "auto" => DeviceChoice::Auto,
            "cpu" => DeviceChoice::Cpu,
            "cuda" => DeviceChoice::Cuda(0),
            "wgpu" => DeviceChoice::Wgpu,
            "vulkan" => DeviceChoice::Vulkan,
            "metal" => DeviceChoice::Metal,
            _ => match s.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(n) => DeviceChoice::Cuda(n),
                None => {
                    return Err(Error::Usage(format!(
                        "unknown device `{s}`: use auto, cpu, cuda, cuda:N, wgpu, vulkan or metal"
                    )));
                }
            },
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceChoice::Wgpu => f.write_str("wgpu"),
            DeviceChoice::Vulkan => f.write_str("vulkan"),
            DeviceChoice::Metal => f.write_str("metal"),
        }
    }
}

/// The feature tier of a wgpu device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Core WGSL: f16 lives in memory as pairs in a `u32`.
    Core,
    /// `shader-f16` and subgroup operations.
    F16Subgroups,
}

impl Tier {
    /// Every tier.
    pub(crate) const ALL: [Tier; 2] = [Tier::Core, Tier::F16Subgroups];

    /// The template values that say what an adapter of this tier can do.
    pub(crate) fn variant(self) -> Variant {
        let full = self == Tier::F16Subgroups;
        Variant::new().with("native", full).with("subgroups", full)
    }
}

/// How a wgpu device is opened; the defaults are what `--device wgpu` means.
#[derive(Clone, Copy, Debug, Default)]
pub struct WgpuOptions {
    /// Which backend is meant: `Wgpu`, `Vulkan` or `Metal`.
    pub choice: Option<DeviceChoice>,
    /// Use at most this tier even where the adapter could do more (tests run the core tier everywhere).
    pub tier: Option<Tier>,
    /// Pretend that one binding can hold at most so many bytes (tests exercise sharding on small data).
    pub max_binding: Option<u64>,
    /// Whether matrix products stage their operands in workgroup memory; `None`: on hardware, not on a software
    /// adapter, where it is a detour (tests run both).
    pub staged: Option<bool>,
    /// Transfer at most so many bytes at a time (tests exercise transfers in turns on small data).
    pub max_transfer: Option<u64>,
    /// Refuse software adapters.
    pub hardware_only: bool,
}

/// A place where operators run. Cheap to clone; `Send + Sync`.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Backend,
    pool: Mutex<Pool<Storage>>,
    log: Mutex<Log>,
    /// The recording in progress.
    recording: Mutex<Option<Recording>>,
    /// Held while recording.
    recorder: Mutex<()>,
}

/// Where an operator runs.
pub(crate) enum Target<'a> {
    /// In Rust, on buffers that the host sees.
    Cpu,
    /// In a kernel.
    Gpu(Gpu<'a>),
}

/// The device behind the handle; nothing outside of this module sees it.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one per device, behind an Arc"
)]
enum Backend {
    Cpu(cpu::Cpu),
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    Cuda(Cuda),
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    Wgpu(Wgpu),
}

/// Memory on a device.
pub(crate) enum Storage {
    Cpu(<cpu::Cpu as Memory>::Storage),
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    Cuda(<Cuda as Memory>::Storage),
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    Wgpu(<Wgpu as Memory>::Storage),
}

/// What every backend does with memory. Sizes and offsets are bytes, multiples of 4.
pub(crate) trait Memory {
    /// A piece of device memory.
    type Storage;

    /// Short name with the hardware's own: `cuda:0 (NVIDIA H200)`.
    fn name(&self) -> String;
    /// New memory of `bytes` bytes with unspecified content; `Ok(None)` if there is not enough.
    fn alloc(&self, bytes: u64) -> Result<Option<Self::Storage>>;
    /// Copies host bytes to the device, in stream order.
    fn write(&self, to: &mut Self::Storage, offset: u64, data: &[u8]) -> Result<()>;
    /// Waits for all earlier work, then copies device bytes to the host.
    fn read(&self, from: &Self::Storage, offset: u64, data: &mut [u8]) -> Result<()>;
    /// Copies between two pieces of device memory, in stream order.
    fn copy(
        &self,
        from: &Self::Storage,
        from_offset: u64,
        to: &mut Self::Storage,
        to_offset: u64,
        bytes: u64,
    ) -> Result<()>;
    /// Waits until all enqueued work is done and reports any error of it.
    fn synchronize(&self) -> Result<()>;
}

/// Calls the same method on whichever backend this is.
macro_rules! each_backend {
    ($self:expr, $dev:ident => $call:expr) => {
        match $self {
            Backend::Cpu($dev) => $call,
            Backend::Cuda($dev) => $call,
            Backend::Wgpu($dev) => $call,
        }
    };
}

/// Calls the same method on a backend and a storage of its kind.
macro_rules! each_backend_pair {
    ($backend:expr, $storage:expr, ($dev:ident, $s:ident) => $call:expr) => {
        match ($backend, $storage) {
            ($crate::device::Backend::Cpu($dev), $crate::device::Storage::Cpu($s)) => $call,
            ($crate::device::Backend::Cuda($dev), $crate::device::Storage::Cuda($s)) => $call,
            ($crate::device::Backend::Wgpu($dev), $crate::device::Storage::Wgpu($s)) => $call,
            _ => unreachable!("a buffer's storage is of its device's kind"),
        }
    };
}
pub(crate) use each_backend_pair;

impl Device {
    fn new(backend: Backend) -> Self {
        let device = Device {
            shared: Arc::new(Shared {
                backend,
                pool: Mutex::new(Pool::new()),
                log: Mutex::new(Log::default()),
                recording: Mutex::new(None),
                recorder: Mutex::new(()),
            }),
        };
        if !memory_caching(device.backend()) {
            device.set_memory_caching(false);
        }
        device
    }

    /// The processor.
    pub fn cpu() -> Self {
        Self::new(Backend::Cpu(cpu::Cpu))
    }

    /// NVIDIA GPU number `ordinal`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where there is no driver, no such GPU, or the crate was built without the feature `cuda`.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Self::open_cuda(ordinal, None)
    }

    /// As [`Device::cuda`], with so many bytes of host memory for what is on its way to the device (tests exercise copies
    /// in turns on small data).
    ///
    /// # Errors
    /// As [`Device::cuda`].
    #[doc(hidden)]
    pub fn cuda_with_staging(ordinal: usize, bytes: usize) -> Result<Self> {
        Self::open_cuda(ordinal, Some(bytes))
    }

    fn open_cuda(ordinal: usize, staging: Option<usize>) -> Result<Self> {
        Cuda::open(ordinal, staging)
            .map(|d| Self::new(Backend::Cuda(d)))
            .map_err(|why| no_device(DeviceChoice::Cuda(ordinal), why))
    }

    /// A Vulkan or Metal adapter: hardware if there is any, else software.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where there is no adapter, or the crate was built without the feature `wgpu`.
    pub fn wgpu(options: WgpuOptions) -> Result<Self> {
        Wgpu::open(options)
            .map(|d| Self::new(Backend::Wgpu(d)))
            .map_err(|why| no_device(options.choice.unwrap_or(DeviceChoice::Wgpu), why))
    }

    /// The best device of this machine: CUDA, then a hardware wgpu adapter, then the CPU. One that is software (a Vulkan
    /// adapter, a CUDA emulator) is only used when asked for by name. [`Device::auto_explained`] says why.
    pub fn auto() -> Self {
        Self::auto_explained().0
    }

    /// What [`Device::auto`] takes, and for each kind that comes before it why it was passed over: one line each.
    pub fn auto_explained() -> (Self, Vec<InventoryLine>) {
        let mut passed = Vec::new();
        let mut pass = |device: DeviceKind, detail: String| {
            passed.push(InventoryLine {
                device: device.to_string(),
                available: false,
                detail,
            });
        };
        match Self::cuda(0) {
            Ok(device) if !device.is_software() => return (device, passed),
            Ok(device) => pass(
                DeviceKind::Cuda,
                format!("{} is software, used only when asked for", device.name()),
            ),
            Err(Error::NoDevice { why, .. }) => pass(DeviceKind::Cuda, why),
            Err(e) => pass(DeviceKind::Cuda, e.to_string()),
        }
        let hardware = WgpuOptions {
            hardware_only: true,
            ..Default::default()
        };
        match Self::wgpu(hardware) {
            Ok(device) => return (device, passed),
            Err(Error::NoDevice { why, .. }) => pass(DeviceKind::Wgpu, why),
            Err(e) => pass(DeviceKind::Wgpu, e.to_string()),
        }
        (Self::cpu(), passed)
    }

    /// Opens the device the user asked for.
    ///
    /// # Errors
    /// [`Error::NoDevice`] with one line: which, why, and what is available.
    pub fn open(choice: DeviceChoice) -> Result<Self> {
        match choice {
            DeviceChoice::Auto => Ok(Self::auto()),
            DeviceChoice::Cpu => Ok(Self::cpu()),
            DeviceChoice::Cuda(n) => Self::cuda(n),
            DeviceChoice::Wgpu | DeviceChoice::Vulkan | DeviceChoice::Metal => {
                Self::wgpu(WgpuOptions {
                    choice: Some(choice),
                    ..Default::default()
                })
            }
        }
    }

    /// Everything this machine has, and why the rest is missing: one line per device kind or adapter.
    pub fn inventory() -> Vec<InventoryLine> {
        let mut lines = vec![InventoryLine {
            device: "cpu".into(),
            available: true,
            detail: cpu::describe(),
        }];
        lines.extend(Cuda::inventory());
        lines.extend(Wgpu::inventory());
        lines
    }

    fn backend(&self) -> &Backend {
        &self.shared.backend
    }

    /// Which kind of device this is.
    pub fn kind(&self) -> DeviceKind {
        match self.backend() {
            Backend::Cpu(_) => DeviceKind::Cpu,
            Backend::Cuda(_) => DeviceKind::Cuda,
            Backend::Wgpu(_) => DeviceKind::Wgpu,
        }
    }

    /// In which precision models work here.
    pub fn precision(&self) -> Precision {
        match self.backend() {
            Backend::Cpu(_) => Precision::F32,
            Backend::Cuda(_) | Backend::Wgpu(_) => Precision::Mixed,
        }
    }

    /// Short name with the hardware's own, e.g. `vulkan (llvmpipe (LLVM 15.0.6, 256 bits), f16 + subgroups)`.
    pub fn name(&self) -> String {
        each_backend!(self.backend(), d => d.name())
    }

    /// `true` if both handles mean the same device.
    pub fn same_as(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Runs `work` where the processor's operators run, on a thread of the current rayon pool. Any other thread hands every
    /// operator over and waits, which takes a twentieth of a millisecond or more each: as long as an operator on a short
    /// text. On a GPU it is just called.
    ///
    /// The thread may run other work while an operator of this one waits for others: nothing that is locked may stay so
    /// from one operator to the next. Nor may `work` wait for another thread that needs the pool: it may have one thread
    /// alone.
    pub fn in_pool<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self.backend() {
            Backend::Cpu(_) => rayon::scope(|_| work()),
            Backend::Cuda(_) | Backend::Wgpu(_) => work(),
        }
    }

    /// Waits until all enqueued work is done.
    ///
    /// # Errors
    /// Whatever failed in that work.
    pub fn synchronize(&self) -> Result<()> {
        each_backend!(self.backend(), d => d.synchronize())
    }

    /// The largest piece of memory one kernel argument can span, in bytes.
    pub fn max_binding(&self) -> u64 {
        match self.backend() {
            Backend::Wgpu(d) => d.max_binding(),
            _ => u64::MAX,
        }
    }

    /// `true` for a device that claims to be a GPU and runs on the processor.
    pub fn is_software(&self) -> bool {
        match self.backend() {
            Backend::Wgpu(d) => d.is_software(),
            Backend::Cuda(d) => d.is_emulator(),
            Backend::Cpu(_) => false,
        }
    }

    /// Allocator statistics: bytes in live buffers now and at most, bytes kept for reuse.
    pub fn memory(&self) -> MemoryStats {
        self.lock_pool().stats()
    }

    /// Forgets the peak of [`Device::memory`], which starts again from what is in use now.
    pub fn reset_memory_peak(&self) {
        self.lock_pool().reset_peak();
    }

    /// Switches the allocator's cache on or off. Off, every buffer has memory of its own and exactly its own size,
    /// so that a memory checker sees every overrun. `NEARMISS_MEMORY_CACHING` (`on` or `off`) says how devices are
    /// opened; unset, the cache is on, except on a CUDA device that is an emulator.
    pub fn set_memory_caching(&self, on: bool) {
        self.lock_pool().set_caching(on);
    }

    /// Lets at most so many bytes be in use at once (`None`: as many as there are); what would exceed them is
    /// [`Error::OutOfMemory`]. For machines whose memory is shared, and for testing what happens when it runs out.
    pub fn set_memory_limit(&self, bytes: Option<u64>) {
        self.lock_pool().set_limit(bytes);
    }

    /// Switches profiling on or off. While on, every operator is timed on its own (the device is synchronised before
    /// and after it), so totals are exact and the whole run is slower.
    pub fn set_profiling(&self, on: bool) {
        self.lock_log().set_timing(on);
    }

    /// Whether profiling is on.
    pub(crate) fn profiling(&self) -> bool {
        self.lock_log().timing()
    }

    /// What ran here since the device was opened, per operator, in order of first use.
    pub fn op_totals(&self) -> Vec<OpTotals> {
        self.lock_log().totals()
    }

    /// The kernel variants that this device has compiled so far: their entry, and the values as they print.
    /// Tests hold them to what the operators list.
    #[doc(hidden)]
    pub fn compiled_variants(&self) -> Vec<(&'static str, String)> {
        match self.backend() {
            Backend::Cpu(_) => Vec::new(),
            Backend::Cuda(d) => d.compiled_variants(),
            Backend::Wgpu(d) => d.compiled_variants(),
        }
    }

    /// Runs one operator: counts it, times it when profiling, and keeps its cost.
    pub(crate) fn run(
        &self,
        op: &'static str,
        cost: Cost,
        work: impl FnOnce(Target<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut work = Some(work);
        self.run_once(op, cost, &mut |target| {
            let work = work.take().expect("an operator runs once");
            work(target)
        })
    }

    /// [`Device::run`], compiled once for all operators; `work` is called once.
    fn run_once(
        &self,
        op: &'static str,
        cost: Cost,
        work: &mut dyn FnMut(Target<'_>) -> Result<()>,
    ) -> Result<()> {
        let target = match self.backend() {
            Backend::Cpu(_) => Target::Cpu,
            Backend::Cuda(d) => Target::Gpu(Gpu::Cuda(d)),
            Backend::Wgpu(d) => Target::Gpu(Gpu::Wgpu(d)),
        };
        // What is recorded counts when it is replayed; it cannot be timed on its own.
        if self.note(op, cost) {
            return work(target);
        }
        if !self.profiling() {
            work(target)?;
            self.lock_log().record(op, cost, None);
            return Ok(());
        }
        self.synchronize()?;
        let time = match self.backend() {
            Backend::Cuda(d) => d.time(|| work(target))?,
            _ => {
                let start = std::time::Instant::now();
                work(target)?;
                self.synchronize()?;
                start.elapsed()
            }
        };
        self.lock_log().record(op, cost, Some(time));
        Ok(())
    }

    /// Memory for `bytes` bytes, its real size, and the arena that it belongs to, if not to the pool.
    fn take_storage(&self, bytes: u64) -> Result<(Storage, u64, Option<Arc<Arena>>)> {
        let size = self.lock_pool().size_class(bytes);
        match self.arena() {
            Some(arena) => Ok((arena.take(size)?, size, Some(arena))),
            None => Ok((self.take_from_pool(size)?, size, None)),
        }
    }

    /// A piece of `size` bytes, a size class, from the cache or the backend.
    fn take_from_pool(&self, size: u64) -> Result<Storage> {
        let out_of_memory = || Error::OutOfMemory {
            device: self.name(),
            bytes: size,
            in_use: self.memory().in_use,
        };
        {
            let mut pool = self.lock_pool();
            if pool.admits(size)
                && let Some(storage) = pool.take(size)
            {
                return Ok(storage);
            }
        }
        if !self.lock_pool().admits(size) {
            return Err(out_of_memory());
        }
        let fresh = |size| -> Result<Option<Storage>> {
            Ok(match self.backend() {
                Backend::Cpu(d) => d.alloc(size)?.map(Storage::Cpu),
                Backend::Cuda(d) => d.alloc(size)?.map(Storage::Cuda),
                Backend::Wgpu(d) => d.alloc(size)?.map(Storage::Wgpu),
            })
        };
        let mut storage = fresh(size)?;
        if storage.is_none() {
            // What is kept for reuse may be what is missing: give it back and try once more.
            self.synchronize()?;
            let cached = self.lock_pool().drain();
            drop(cached);
            storage = fresh(size)?;
        }
        let storage = storage.ok_or_else(out_of_memory)?;
        self.lock_pool().added(size);
        Ok(storage)
    }

    fn lock_pool(&self) -> std::sync::MutexGuard<'_, Pool<Storage>> {
        self.shared
            .pool
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    fn lock_log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.shared
            .log
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

/// One line of [`Device::inventory`].
#[derive(Clone, Debug)]
pub struct InventoryLine {
    /// What `--device` would be given.
    pub device: String,
    /// Whether it can be used.
    pub available: bool,
    /// The hardware's name and tier, or why it is missing.
    pub detail: String,
}

/// The environment variable that switches the allocator's cache.
const MEMORY_CACHING: &str = "NEARMISS_MEMORY_CACHING";

/// Whether freed memory is kept for reuse when a device is opened: as the environment says, else always but on the
/// emulator, whose checker sees reads of fresh memory and of freed memory only if every buffer is a new one.
fn memory_caching(backend: &Backend) -> bool {
    let wanted = std::env::var(MEMORY_CACHING).unwrap_or_default();
    match wanted.as_str() {
        "on" => return true,
        "off" => return false,
        "" => {}
        _ => {
            static NOTED: std::sync::Once = std::sync::Once::new();
            NOTED.call_once(|| {
                let note = format!("note: {MEMORY_CACHING}={wanted} is ignored; use on or off");
                let _ = writeln!(std::io::stderr(), "{note}");
            });
        }
    }
    !matches!(backend, Backend::Cuda(d) if d.is_emulator())
}

fn no_device(wanted: DeviceChoice, why: String) -> Error {
    let available: Vec<String> = Device::inventory()
        .into_iter()
        .filter(|line| line.available)
        .map(|line| line.device)
        .collect();
    Error::NoDevice {
        wanted: wanted.to_string(),
        why,
        available: available.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_parse_and_print() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3", "wgpu", "vulkan", "metal"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!(
            "cuda".parse::<DeviceChoice>().unwrap(),
            DeviceChoice::Cuda(0)
        );
        for bad in ["", "gpu", "cuda:", "cuda:x", "CPU"] {
            assert_eq!(bad.parse::<DeviceChoice>().unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn the_pool_is_where_the_processor_computes() {
        let threads = || (rayon::current_thread_index(), std::thread::current().id());
        assert_eq!(threads().0, None);
        let device = Device::cpu();
        let (once, twice) = device.in_pool(|| (threads(), device.in_pool(threads)));
        assert!(once.0.is_some());
        assert_eq!(once, twice);
    }

    #[test]
    fn more_elements_than_any_memory_holds_are_refused() {
        let device = Device::cpu();
        // Times four it would be zero bytes.
        for len in [1 << 62, usize::MAX] {
            let refused = device.alloc::<f32>(len).unwrap_err();
            assert!(matches!(refused, Error::OutOfMemory { .. }), "{refused}");
        }
        assert_eq!(device.memory().in_use, 0);
    }

    #[test]
    fn buffers_round_trip_and_memory_is_counted() {
        let device = Device::cpu();
        let a = device.upload(&[1.0f32, 2.0, 3.0]).unwrap();
        assert_eq!(a.read().unwrap(), [1.0, 2.0, 3.0]);
        let used = device.memory().in_use;
        assert!(used >= 12);
        drop(a);
        assert_eq!(device.memory().in_use, 0);
        assert_eq!(device.memory().peak, used);
        assert_eq!(device.memory().cached, used);
        let b = device.alloc::<u32>(3).unwrap();
        assert_eq!(device.memory().cached, 0, "the freed piece is used again");
        drop(b);
        device.set_memory_caching(false);
        assert_eq!(device.memory().cached, 0);
    }
}
