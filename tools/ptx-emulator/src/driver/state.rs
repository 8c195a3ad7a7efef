//! What the driver knows, and how enqueued work gets done.
//!
//! Work on a stream waits in the stream's queue until something makes the host wait for it. Then the streams that can go
//! on take turns, chosen by a seeded generator, until what the host waits for is done. That is later than any hardware
//! would be, and legal: a host that reads a result, changes a source or frees memory too early is found out here every
//! time instead of sometimes. (`PTX_EMULATOR_STREAMS=immediate` does all work at once, which is handy in a debugger.)
//! The null stream is the legacy one: it waits for all blocking streams of its context, and does its work at once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::CString;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use crate::{Counters, Entry, Kind, Launch, Memory, Options, launch};

use super::codes::{self, *};
use super::ffi::{Handle, host_fill, host_read, host_write};

/// One piece of work on a stream.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Host to device. The digest is that of the source when the copy was asked for.
    Upload {
        to: u64,
        from: usize,
        bytes: usize,
        digest: Option<u64>,
    },
    /// Device to host.
    Download {
        to: usize,
        from: u64,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: usize,
    },
    Kernel {
        function: Handle,
        entry: Arc<Entry>,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        parameters: Vec<u8>,
    },
    /// The event is reached; what waits for the ticket may go on.
    Record {
        event: Handle,
        ticket: u64,
    },
    Wait {
        ticket: u64,
    },
    Free {
        address: u64,
    },
}

/// A fault while work was done, which spoils the context.
struct Fault {
    code: CUresult,
    text: String,
}

pub(super) struct Device {
    pub memory: Memory,
    /// The handle of the primary context, the same at each retaining.
    pub primary: Handle,
    pub primary_users: usize,
    pub primary_flags: u32,
}

pub(super) struct Context {
    pub device: usize,
    pub flags: u32,
    /// What every call gets since a fault.
    pub spoiled: Option<CUresult>,
}

/// A stream's part in a capture.
#[derive(Clone)]
pub(super) struct Joined {
    pub capture: usize,
    /// The nodes that what comes next on this stream depends on.
    pub after: BTreeSet<usize>,
}

pub(super) struct Stream {
    pub context: Handle,
    /// Flag 0: takes turns with the null stream.
    pub blocking: bool,
    pub priority: i32,
    pub queue: std::collections::VecDeque<Work>,
    pub joined: Option<Joined>,
}

pub(super) struct Event {
    pub context: Handle,
    pub timing: bool,
    /// The last recording.
    pub ticket: Option<u64>,
    pub reached: Option<Instant>,
    /// If the last recording was captured: where.
    pub captured: Option<Joined>,
}

/// Work of a graph, and the nodes that it comes after.
#[derive(Clone)]
pub(super) struct Node {
    pub work: Work,
    pub after: BTreeSet<usize>,
}

/// How much a capture forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    pub fn of(value: u32) -> Outcome<Self> {
        match value {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => fail(
                INVALID_VALUE,
                format!("capture mode {value} does not exist"),
            ),
        }
    }
}

pub(super) struct Capture {
    pub origin: Handle,
    pub mode: Mode,
    pub thread: ThreadId,
    pub invalid: bool,
    pub nodes: Vec<Node>,
}

pub(super) struct Module {
    pub context: Handle,
    pub parsed: crate::Module,
    /// `.version` as the driver counts: 70 for 7.0.
    pub version: i32,
    /// Entries that were asked for.
    pub functions: BTreeMap<String, Handle>,
}

pub(super) struct Function {
    pub context: Handle,
    pub module: Handle,
    pub entry: Arc<Entry>,
    /// The entry's, as C sees it.
    pub name: CString,
    pub version: i32,
    /// The most dynamic shared memory that a launch may ask for, in bytes: an attribute.
    pub dynamic: u32,
    pub carveout: i32,
}

#[derive(Clone)]
pub(super) struct Graph {
    pub context: Handle,
    pub nodes: Arc<Vec<Node>>,
}

/// Device memory that was given out.
pub(super) struct Allocation {
    pub context: Handle,
    pub bytes: u64,
    /// From `cuMemAllocAsync`: freeing it waits for nothing.
    pub ordered: bool,
}

/// Page-locked host memory that was given out.
pub(super) struct HostBlock {
    pub context: Handle,
    pub layout: std::alloc::Layout,
}

/// Where work goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The null stream.
    Legacy,
    Stream(Handle),
}

pub(super) struct Driver {
    options: Options,
    /// Streams keep their work until the host waits.
    deferred: bool,
    counts: Option<PathBuf>,
    pub multiprocessors: u32,
    pub devices: Vec<Device>,
    pub contexts: BTreeMap<Handle, Context>,
    pub streams: BTreeMap<Handle, Stream>,
    pub events: BTreeMap<Handle, Event>,
    pub modules: BTreeMap<Handle, Module>,
    pub functions: BTreeMap<Handle, Function>,
    pub graphs: BTreeMap<Handle, Graph>,
    pub executables: BTreeMap<Handle, Graph>,
    pub captures: BTreeMap<usize, Capture>,
    /// By device and address.
    pub allocations: BTreeMap<(usize, u64), Allocation>,
    pub host: BTreeMap<usize, HostBlock>,
    /// Recordings that have not been reached.
    pending: HashSet<u64>,
    last_handle: usize,
    last_ticket: u64,
    last_capture: usize,
    random: fastrand::Rng,
}

/// Variables of the environment that mean something; those above the line are read by [`Options`].
const VARIABLES: &[&str] = &[
    "SCHEDULE",
    "SEED",
    "CORES",
    "COMPARE",
    "TRACE",
    "LIMIT",
    "COUNTS",
    // ---
    "DEVICES",
    "MEMORY",
    "MULTIPROCESSORS",
    "STREAMS",
    "VERBOSE",
];

/// Where settings come from: the value of `PTX_EMULATOR_` and a name, if it is set.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

fn wrong<T>(name: &str, value: &str, expected: &str) -> Result<T, String> {
    Err(format!("PTX_EMULATOR_{name}={value}: expected {expected}"))
}

fn number(
    get: Variables<'_>,
    name: &str,
    range: RangeInclusive<u64>,
    default: u64,
) -> Result<u64, String> {
    let Some(text) = get(name) else {
        return Ok(default);
    };
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            wrong(name, &text, &expected)
        }
    }
}

/// A number of bytes, with or without a binary unit.
fn bytes(get: Variables<'_>, name: &str, default: u64) -> Result<u64, String> {
    let Some(text) = get(name) else {
        return Ok(default);
    };
    let (digits, shift) = match text.split_at_checked(text.len() - 1) {
        Some((digits, "K")) => (digits, 10),
        Some((digits, "M")) => (digits, 20),
        Some((digits, "G")) => (digits, 30),
        _ => (text.as_str(), 0),
    };
    // Addresses have 47 bits.
    match digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
    {
        Some(bytes) if (1..1 << 46).contains(&bytes) => Ok(bytes),
        _ => wrong(
            name,
            &text,
            "a number of bytes above zero, such as 512M or 8G",
        ),
    }
}

impl Driver {
    /// The driver as the environment asks for it, or in one line what is wrong there.
    pub fn from_environment() -> Result<Self, String> {
        // A misspelt variable would go unnoticed.
        for (name, value) in std::env::vars_os() {
            if let Some(rest) = name.to_str().and_then(|n| n.strip_prefix("PTX_EMULATOR_")) {
                if !VARIABLES.contains(&rest) {
                    let known = VARIABLES.join(", _");
                    return Err(format!(
                        "PTX_EMULATOR_{rest} is not a setting; these are: _{known}"
                    ));
                }
                // The file of the counts may be called anything.
                if rest != "COUNTS" && value.to_str().is_none() {
                    return wrong(rest, &value.to_string_lossy(), "plain text");
                }
            }
        }
        let get = |name: &str| {
            std::env::var(format!("PTX_EMULATOR_{name}"))
                .ok()
                .filter(|v| !v.is_empty())
        };
        let mut options = Options::from_environment()?;
        let counts = std::env::var_os("PTX_EMULATOR_COUNTS")
            .filter(|file| !file.is_empty())
            .map(PathBuf::from);
        options.count_memory |= counts.is_some();
        let deferred = match get("STREAMS").as_deref() {
            None | Some("deferred") => true,
            Some("immediate") => false,
            Some(other) => return wrong("STREAMS", other, "deferred or immediate"),
        };
        if let Some(other) = get("VERBOSE").filter(|v| v != "0" && v != "1") {
            return wrong("VERBOSE", &other, "0 or 1");
        }
        let memory = bytes(&get, "MEMORY", 8 << 30)?;
        let devices = number(&get, "DEVICES", 0..=16, 1)?;
        let multiprocessors = number(&get, "MULTIPROCESSORS", 1..=1024, 4)? as u32;
        let mut driver = Driver {
            random: fastrand::Rng::with_seed(options.seed),
            options,
            deferred,
            counts,
            multiprocessors,
            devices: Vec::new(),
            contexts: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            captures: BTreeMap::new(),
            allocations: BTreeMap::new(),
            host: BTreeMap::new(),
            pending: HashSet::new(),
            // Above the special streams 1 and 2, and recognisable in a debugger.
            last_handle: 0xce00_0000,
            last_ticket: 0,
            last_capture: 0,
        };
        for _ in 0..devices {
            let primary = driver.handle();
            driver.devices.push(Device {
                memory: Memory::new(memory),
                primary,
                primary_users: 0,
                primary_flags: 0,
            });
        }
        Ok(driver)
    }

    /// A new handle.
    pub fn handle(&mut self) -> Handle {
        self.last_handle += 16;
        Handle(self.last_handle)
    }

    pub fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// A number below `n`.
    fn choose(&mut self, n: usize) -> usize {
        self.random.usize(..n)
    }

    pub fn device(&self, ordinal: i32) -> Outcome<usize> {
        match usize::try_from(ordinal) {
            Ok(i) if i < self.devices.len() => Ok(i),
            _ => fail(
                INVALID_DEVICE,
                format!("device {ordinal} of {}", self.devices.len()),
            ),
        }
    }

    // --- contexts ---

    pub fn open_context(&mut self, handle: Handle, device: usize, flags: u32) {
        let context = Context {
            device,
            flags,
            spoiled: None,
        };
        self.contexts.insert(handle, context);
    }

    /// Everything of a context goes: its memory, its handles, and what it had not done yet.
    pub fn close_context(&mut self, context: Handle) {
        self.drop_queues(context);
        let gone: Vec<Handle> = self.streams_of(context, false);
        self.captures.retain(|_, c| !gone.contains(&c.origin));
        self.streams.retain(|_, s| s.context != context);
        self.events.retain(|_, e| e.context != context);
        self.modules.retain(|_, m| m.context != context);
        self.functions.retain(|_, f| f.context != context);
        self.graphs.retain(|_, g| g.context != context);
        self.executables.retain(|_, g| g.context != context);
        let devices = &self.devices;
        self.allocations.retain(|&(device, address), a| {
            let keep = a.context != context;
            if !keep {
                devices[device].memory.free(address);
            }
            keep
        });
        let blocks: Vec<usize> = self
            .host
            .iter()
            .filter(|(_, block)| block.context == context)
            .map(|(&address, _)| address)
            .collect();
        for address in blocks {
            self.free_host(address);
        }
        if let Some(closed) = self.contexts.remove(&context)
            && let Some(code) = closed.spoiled
        {
            codes::untell(code);
        }
    }

    /// Gives page-locked memory back; false if there is none at this address.
    pub fn free_host(&mut self, address: usize) -> bool {
        let Some(block) = self.host.remove(&address) else {
            return false;
        };
        // SAFETY: allocated by `cuMemHostAlloc` with this layout, and taken out of the table just now.
        unsafe {
            std::alloc::dealloc(std::ptr::with_exposed_provenance_mut(address), block.layout);
        }
        true
    }

    /// That a context exists and has seen no fault.
    pub fn healthy(&self, context: Handle) -> Outcome {
        match self.contexts.get(&context) {
            None => fail(CONTEXT_IS_DESTROYED, "the context has been destroyed"),
            Some(context) => match context.spoiled {
                Some(code) => fail(code, "an earlier fault spoiled the context"),
                None => Ok(()),
            },
        }
    }

    /// The device of a context that exists.
    fn device_of(&self, context: Handle) -> usize {
        self.contexts[&context].device
    }

    pub fn memory(&self, context: Handle) -> &Memory {
        &self.devices[self.device_of(context)].memory
    }

    fn streams_of(&self, context: Handle, only_blocking: bool) -> Vec<Handle> {
        self.streams
            .iter()
            .filter(|(_, s)| s.context == context && (s.blocking || !only_blocking))
            .map(|(&handle, _)| handle)
            .collect()
    }

    // --- memory ---

    /// That `bytes` bytes at a device address lie within one piece of memory of this context's device.
    pub fn within(&self, context: Handle, address: u64, bytes: u64) -> Outcome {
        let device = self.device_of(context);
        let inside = self
            .allocations
            .range((device, 0)..=(device, address))
            .next_back()
            .is_some_and(|(&(_, start), a)| {
                address
                    .checked_add(bytes)
                    .is_some_and(|end| end <= start + a.bytes)
            });
        if inside {
            return Ok(());
        }
        fail(
            INVALID_VALUE,
            format!("{bytes} bytes at {address:#x} are not within one piece of device memory"),
        )
    }

    pub fn allocate(&mut self, context: Handle, bytes: u64, ordered: bool) -> Outcome<u64> {
        if bytes == 0 {
            return fail(INVALID_VALUE, "an allocation of no bytes");
        }
        let device = self.device_of(context);
        let memory = &self.devices[device].memory;
        let Some(address) = memory.alloc(bytes) else {
            return fail(
                OUT_OF_MEMORY,
                format!("{bytes} bytes of {} free ones", memory.free_bytes()),
            );
        };
        let allocation = Allocation {
            context,
            bytes,
            ordered,
        };
        self.allocations.insert((device, address), allocation);
        Ok(address)
    }

    // --- streams ---

    /// The stream with this handle, in the current context.
    pub fn place(&self, context: Handle, stream: Handle) -> Outcome<Place> {
        if stream.0 <= 2 {
            // The null stream under its three names.
            return Ok(Place::Legacy);
        }
        match self.streams.get(&stream) {
            None => fail(INVALID_HANDLE, "not a stream, or a destroyed one"),
            Some(s) if s.context != context => fail(INVALID_HANDLE, "a stream of another context"),
            Some(_) => Ok(Place::Stream(stream)),
        }
    }

    /// Enqueues work, or records it if the stream is being captured.
    pub fn submit(&mut self, context: Handle, place: Place, mut work: Work) -> Outcome {
        match place {
            Place::Legacy => {
                self.wait_for_blocking(context)?;
                self.healthy(context)?;
                self.perform(context, work);
                Ok(())
            }
            Place::Stream(stream) if self.streams[&stream].joined.is_some() => {
                self.capture_work(stream, work)
            }
            Place::Stream(stream) => {
                if self.deferred {
                    self.prepare(&mut work);
                }
                if let Work::Record { ticket, .. } = work {
                    self.pending.insert(ticket);
                }
                self.stream(stream).queue.push_back(work);
                if !self.deferred {
                    self.run(|driver| driver.idle(&[stream]), &[stream]);
                }
                Ok(())
            }
        }
    }

    pub fn stream(&mut self, stream: Handle) -> &mut Stream {
        self.streams
            .get_mut(&stream)
            .expect("looked up by the caller under the same lock")
    }

    /// Takes precautions against hosts that do not wait: a digest of what is to be read, and poison where a result will
    /// be. Neither where other work still has business with the same bytes.
    fn prepare(&self, work: &mut Work) {
        let queued = |reads: bool, at: usize, bytes: usize| {
            let overlaps = |start: usize, n: usize| start < at + bytes && at < start + n;
            self.streams
                .values()
                .flat_map(|s| &s.queue)
                .any(|w| match *w {
                    Work::Upload { from, bytes, .. } => reads && overlaps(from, bytes),
                    Work::Download { to, bytes, .. } => !reads && overlaps(to, bytes),
                    _ => false,
                })
        };
        match work {
            Work::Upload {
                from,
                bytes,
                digest,
                ..
            } if !queued(false, *from, *bytes) => {
                *digest = Some(hash(&host_read(*from, *bytes)));
            }
            // All ones are a NaN in every floating-point format.
            Work::Download { to, bytes, .. } if !queued(true, *to, *bytes) => {
                host_fill(*to, 0xff, *bytes);
            }
            _ => {}
        }
    }

    /// Whether these streams have nothing left to do.
    pub fn idle(&self, streams: &[Handle]) -> bool {
        streams
            .iter()
            .all(|s| self.streams.get(s).is_none_or(|s| s.queue.is_empty()))
    }

    pub fn reached(&self, ticket: u64) -> bool {
        !self.pending.contains(&ticket)
    }

    /// The streams whose next work does not wait for another stream.
    fn ready(&self) -> Vec<Handle> {
        self.streams
            .iter()
            .filter(|(_, s)| match s.queue.front() {
                None => false,
                Some(&Work::Wait { ticket }) => self.reached(ticket),
                Some(_) => true,
            })
            .map(|(&handle, _)| handle)
            .collect()
    }

    /// Lets streams go on, in a random order with a liking for `wanted`, until `done`.
    ///
    /// A stream can only wait for what was enqueued earlier, so one of them can always go on.
    fn run(&mut self, done: impl Fn(&Driver) -> bool, wanted: &[Handle]) {
        while !done(self) {
            let ready = self.ready();
            let liked: Vec<Handle> = ready
                .iter()
                .copied()
                .filter(|s| wanted.contains(s))
                .collect();
            let from = if liked.is_empty() || self.choose(4) == 0 {
                &ready
            } else {
                &liked
            };
            assert!(!from.is_empty(), "streams wait for each other");
            let stream = from[self.choose(from.len())];
            self.step(stream);
        }
    }

    /// The next work of a stream.
    fn step(&mut self, stream: Handle) {
        let stream = self.stream(stream);
        let context = stream.context;
        if let Some(work) = stream.queue.pop_front() {
            self.perform(context, work);
        }
    }

    /// Lets one stream make one step, as a device does between two questions whether it is done.
    pub fn tick(&mut self) {
        let ready = self.ready();
        if !ready.is_empty() {
            let stream = ready[self.choose(ready.len())];
            self.step(stream);
        }
    }

    /// Waits for a stream.
    pub fn wait_for(&mut self, streams: &[Handle]) {
        self.run(|driver| driver.idle(streams), streams);
    }

    /// Waits for all streams of a context.
    pub fn wait_for_context(&mut self, context: Handle) {
        let streams = self.streams_of(context, false);
        self.wait_for(&streams);
    }

    /// Waits for the streams that the null stream of a context waits for.
    pub fn wait_for_blocking(&mut self, context: Handle) -> Outcome {
        let streams = self.streams_of(context, true);
        for &stream in &streams {
            if let Some(joined) = &self.streams[&stream].joined {
                let capture = joined.capture;
                self.invalidate(capture);
                return fail(
                    STREAM_CAPTURE_IMPLICIT,
                    "the null stream would wait for a stream that is being captured",
                );
            }
        }
        self.wait_for(&streams);
        Ok(())
    }

    /// Waits until a recording is reached.
    pub fn wait_for_ticket(&mut self, ticket: u64) {
        let at: Vec<Handle> = self
            .streams
            .iter()
            .filter(|(_, s)| {
                s.queue
                    .iter()
                    .any(|w| matches!(w, Work::Record { ticket: t, .. } if *t == ticket))
            })
            .map(|(&handle, _)| handle)
            .collect();
        self.run(|driver| driver.reached(ticket), &at);
    }

    fn drop_queues(&mut self, context: Handle) {
        for stream in self.streams.values_mut() {
            if stream.context == context {
                for work in stream.queue.drain(..) {
                    if let Work::Record { ticket, .. } = work {
                        self.pending.remove(&ticket);
                    }
                }
            }
        }
    }

    // --- work ---

    fn perform(&mut self, context: Handle, work: Work) {
        if let Err(fault) = self.attempt(context, work) {
            eprintln!("ptx-emulator: {}", fault.text);
            codes::tell(fault.code, &fault.text);
            self.drop_queues(context);
            if let Some(context) = self.contexts.get_mut(&context) {
                context.spoiled = Some(fault.code);
            }
        }
    }

    fn attempt(&mut self, context: Handle, work: Work) -> Result<(), Fault> {
        let device = self.device_of(context);
        let memory = &self.devices[device].memory;
        let illegal = |doing: &'static str| {
            move |text: String| Fault {
                code: ILLEGAL_ADDRESS,
                text: format!("{doing}: {text}"),
            }
        };
        match work {
            Work::Upload {
                to,
                from,
                bytes,
                digest,
            } => {
                let data = host_read(from, bytes);
                if digest.is_some_and(|digest| digest != hash(&data)) {
                    return Err(Fault {
                        code: LAUNCH_FAILED,
                        text: format!(
                            "copying to the device: {bytes} bytes of host memory at {from:#x} changed between the \
                             asynchronous call and the copy; keep them until the stream has been waited for"
                        ),
                    });
                }
                memory
                    .write(to, &data)
                    .map_err(illegal("copying to the device"))
            }
            Work::Download { to, from, bytes } => {
                let mut data = vec![0; bytes];
                memory
                    .read(from, &mut data)
                    .map_err(illegal("copying from the device"))?;
                host_write(to, &data);
                Ok(())
            }
            Work::Copy { to, from, bytes } => memory
                .copy(from, to, bytes as u64)
                .map_err(illegal("copying on the device")),
            Work::Fill { to, pattern, count } => memory
                .fill(to, &pattern, count as u64)
                .map_err(illegal("filling")),
            Work::Kernel {
                entry,
                grid,
                block,
                shared,
                parameters,
                ..
            } => {
                let request = Launch {
                    entry: &entry,
                    grid,
                    block,
                    dynamic_shared: shared,
                    parameters: &parameters,
                };
                match launch(memory, &request, &self.options) {
                    Ok(counters) => {
                        self.count(&request, &counters);
                        Ok(())
                    }
                    Err(report) => Err(Fault {
                        code: match report.kind {
                            Kind::OutOfBounds => ILLEGAL_ADDRESS,
                            Kind::Misaligned => MISALIGNED_ADDRESS,
                            _ => LAUNCH_FAILED,
                        },
                        text: report.to_string(),
                    }),
                }
            }
            Work::Record { event, ticket } => {
                self.pending.remove(&ticket);
                if let Some(event) = self.events.get_mut(&event)
                    && event.ticket == Some(ticket)
                {
                    event.reached = Some(Instant::now());
                }
                Ok(())
            }
            // Only taken from a queue when it is over, and on the null stream after waiting.
            Work::Wait { .. } => Ok(()),
            Work::Free { address } => {
                memory.free(address);
                Ok(())
            }
        }
    }

    /// One row for a launch in the file that was asked for.
    fn count(&mut self, launch: &Launch<'_>, counters: &Counters) {
        let Some(path) = &self.counts else {
            return;
        };
        let append = || -> Result<(), Box<dyn std::error::Error>> {
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)?;
            // One write per launch: processes that share the file do not tear each other's rows.
            let mut text = csv::Writer::from_writer(Vec::new());
            let columns = columns(launch, counters);
            if file.metadata()?.len() == 0 {
                text.write_record(columns.iter().map(|(name, _)| name))?;
            }
            text.write_record(columns.iter().map(|(_, value)| value))?;
            file.write_all(&text.into_inner()?)?;
            Ok(())
        };
        if let Err(e) = append() {
            eprintln!("ptx-emulator: PTX_EMULATOR_COUNTS={}: {e}", path.display());
            self.counts = None;
        }
    }

    // --- captures ---

    pub fn begin_capture(&mut self, stream: Handle, mode: Mode) {
        self.last_capture += 1;
        let capture = Capture {
            origin: stream,
            mode,
            thread: std::thread::current().id(),
            invalid: false,
            nodes: Vec::new(),
        };
        self.captures.insert(self.last_capture, capture);
        let joined = Joined {
            capture: self.last_capture,
            after: BTreeSet::new(),
        };
        self.stream(stream).joined = Some(joined);
    }

    pub fn invalidate(&mut self, capture: usize) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }

    /// Refuses what a capture forbids: calls that would have to wait for, or interfere with, the work of streams.
    pub fn not_while_capturing(&mut self, mode: Mode) -> Outcome {
        let here = std::thread::current().id();
        let hit: Vec<usize> = self
            .captures
            .iter()
            .filter(|(_, c)| {
                mode != Mode::Relaxed
                    && ((c.thread == here && c.mode != Mode::Relaxed)
                        || (c.mode == Mode::Global && mode == Mode::Global))
            })
            .map(|(&id, _)| id)
            .collect();
        if hit.is_empty() {
            return Ok(());
        }
        for id in hit {
            self.invalidate(id);
        }
        fail(
            STREAM_CAPTURE_UNSUPPORTED,
            "not while a stream is being captured, which has ended the capture",
        )
    }

    /// Refuses to wait for, or ask about, a stream that is being captured.
    pub fn not_captured(&mut self, stream: Handle) -> Outcome {
        if let Some(joined) = self.streams.get(&stream).and_then(|s| s.joined.as_ref()) {
            let capture = joined.capture;
            self.invalidate(capture);
            return fail(
                STREAM_CAPTURE_UNSUPPORTED,
                "the stream is being captured, which this has ended",
            );
        }
        Ok(())
    }

    /// Refuses to wait for a context while one of its streams is being captured.
    pub fn none_captured(&mut self, context: Handle) -> Outcome {
        for stream in self.streams_of(context, false) {
            self.not_captured(stream)?;
        }
        Ok(())
    }

    fn capture_work(&mut self, stream: Handle, work: Work) -> Outcome {
        let joined = self
            .streams
            .get_mut(&stream)
            .and_then(|s| s.joined.as_mut());
        let Some((joined, capture)) = joined
            .and_then(|j| Some((self.captures.get_mut(&j.capture)?, j)))
            .map(|(c, j)| (j, c))
        else {
            return fail(ILLEGAL_STATE, "the capture is gone");
        };
        if capture.invalid {
            return fail(
                STREAM_CAPTURE_INVALIDATED,
                "an earlier call ended the capture",
            );
        }
        let node = Node {
            work,
            after: std::mem::take(&mut joined.after),
        };
        joined.after.insert(capture.nodes.len());
        capture.nodes.push(node);
        Ok(())
    }

    /// The graph of the capture that began on this stream.
    pub fn end_capture(&mut self, stream: Handle) -> Outcome<Vec<Node>> {
        let Some(joined) = self.streams[&stream].joined.clone() else {
            return fail(ILLEGAL_STATE, "the stream is not being captured");
        };
        let capture = &self.captures[&joined.capture];
        if capture.origin != stream {
            self.invalidate(joined.capture);
            return fail(
                STREAM_CAPTURE_UNMATCHED,
                "the capture began on another stream",
            );
        }
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            self.invalidate(joined.capture);
            return fail(
                STREAM_CAPTURE_WRONG_THREAD,
                "the capture began on another thread",
            );
        }
        let capture = self.leave_capture(joined.capture);
        if capture.invalid {
            return fail(
                STREAM_CAPTURE_INVALIDATED,
                "an earlier call ended the capture",
            );
        }
        let mut reached = joined.after.clone();
        let mut open: Vec<usize> = joined.after.into_iter().collect();
        while let Some(node) = open.pop() {
            for &earlier in &capture.nodes[node].after {
                if reached.insert(earlier) {
                    open.push(earlier);
                }
            }
        }
        if reached.len() < capture.nodes.len() {
            return fail(
                STREAM_CAPTURE_UNJOINED,
                "work of another stream of the capture was not waited for",
            );
        }
        Ok(capture.nodes)
    }

    /// Takes a capture away from all its streams.
    pub fn leave_capture(&mut self, id: usize) -> Capture {
        for stream in self.streams.values_mut() {
            stream.joined.take_if(|joined| joined.capture == id);
        }
        self.captures
            .remove(&id)
            .expect("a stream that is being captured has a capture")
    }

    /// Enqueues a graph: its work in one of the orders that its dependencies allow.
    pub fn replay(&mut self, context: Handle, place: Place, nodes: &[Node]) -> Outcome {
        for node in nodes {
            if let Work::Kernel {
                function, entry, ..
            } = &node.work
                && !self.functions.contains_key(function)
            {
                return fail(
                    INVALID_HANDLE,
                    format!("the module of {} has been unloaded", entry.name),
                );
            }
        }
        let mut done = BTreeSet::new();
        while done.len() < nodes.len() {
            let ready: Vec<usize> = (0..nodes.len())
                .filter(|i| !done.contains(i) && nodes[*i].after.is_subset(&done))
                .collect();
            let next = ready[self.choose(ready.len())];
            done.insert(next);
            self.submit(context, place, nodes[next].work.clone())?;
        }
        Ok(())
    }
}

fn hash(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish()
}

/// The row of a launch, with the names of its columns.
fn columns(launch: &Launch<'_>, c: &Counters) -> Vec<(&'static str, String)> {
    let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
    let numbers = [
        ("grid_x", gx.into()),
        ("grid_y", gy.into()),
        ("grid_z", gz.into()),
        ("block_x", bx.into()),
        ("block_y", by.into()),
        ("block_z", bz.into()),
        ("dynamic_shared", launch.dynamic_shared.into()),
        ("static_shared", launch.entry.static_shared.into()),
    ];
    std::iter::once(("entry", launch.entry.name.clone()))
        .chain(
            numbers
                .into_iter()
                .chain(c.named())
                .map(|(name, n): (_, u64)| (name, n.to_string())),
        )
        .collect()
}
