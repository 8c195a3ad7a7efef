//! Launching a kernel: checks of the request, the order of blocks, several cores, and the comparison of schedules.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::Block;
use crate::code::{Entry, Space};
use crate::counters::Counters;
use crate::memory::{Buffer, Memory};
use crate::report::{Kind, Report};
use crate::warp::{Fault, Place};

/// The most shared memory that a block may have: that of compute capability 8.0.
pub const SHARED_LIMIT: u32 = 163 << 10;

/// A request to run a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The kernel.
    pub entry: &'a Entry,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Shared memory beyond what the kernel declares, in bytes.
    pub dynamic_shared: u32,
    /// The parameters, each at its offset.
    pub parameters: &'a [u8],
}

/// In which order threads advance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// The lanes of a warp together.
    #[default]
    LockStep,
    /// One thread after the other up to the next collective, in a random order.
    OneByOne,
}

/// A thread whose instructions are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The kernel.
    pub entry: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread within the block, counted through all its dimensions.
    pub thread: u32,
}

/// How kernels are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The order of threads.
    pub schedule: Schedule,
    /// Decides every random order.
    pub seed: u64,
    /// Cores for blocks that do not depend on each other.
    pub cores: usize,
    /// Counts sectors and bank conflicts too.
    pub count_memory: bool,
    /// Runs every kernel under both schedules and compares what they leave in memory.
    pub compare: bool,
    /// Entries that are not compared: they leave lists behind whose order is left open.
    pub compare_except: Vec<String>,
    /// A thread to be traced.
    pub trace: Option<Trace>,
    /// Instructions that a block may take before it counts as endless.
    pub limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            schedule: Schedule::default(),
            seed: 0,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            count_memory: false,
            compare: false,
            compare_except: Vec::new(),
            trace: None,
            limit: 1 << 28,
        }
    }
}

impl Options {
    /// Reads `PTX_EMULATOR_SCHEDULE` (`lock-step` or `one-by-one`), `_SEED`, `_CORES`, `_COMPARE` (`1`, or
    /// `except:ENTRY,ENTRY` for all but these), `_LIMIT` and `_TRACE` (`entry:x,y,z:thread`); what is not set keeps its
    /// default. `_COUNTS` (a file, written by the driver library) makes it count memory accesses.
    ///
    /// # Errors
    /// One line that names the variable.
    pub fn from_environment() -> Result<Options, String> {
        Options::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Options, String> {
        let mut options = Options::default();
        let wrong = |name: &str, value: &str, expected: &str| {
            Err(format!("PTX_EMULATOR_{name}={value}: expected {expected}"))
        };
        let get = |name: &str| get(&format!("PTX_EMULATOR_{name}")).filter(|v| !v.is_empty());
        if let Some(v) = get("SCHEDULE") {
            options.schedule = match v.as_str() {
                "lock-step" => Schedule::LockStep,
                "one-by-one" => Schedule::OneByOne,
                _ => return wrong("SCHEDULE", &v, "lock-step or one-by-one"),
            };
        }
        if let Some(v) = get("SEED") {
            match v.parse() {
                Ok(seed) => options.seed = seed,
                Err(_) => return wrong("SEED", &v, "a number"),
            }
        }
        if let Some(v) = get("CORES") {
            match v.parse() {
                Ok(cores) if cores > 0 => options.cores = cores,
                _ => return wrong("CORES", &v, "a number above zero"),
            }
        }
        if let Some(v) = get("LIMIT") {
            match v.parse() {
                Ok(limit) if limit > 0 => options.limit = limit,
                _ => return wrong("LIMIT", &v, "a number of instructions above zero"),
            }
        }
        if let Some(v) = get("COMPARE") {
            let except = v.strip_prefix("except:");
            options.compare = match v.as_str() {
                "1" => true,
                "0" => false,
                _ if except.is_some() => true,
                _ => return wrong("COMPARE", &v, "0, 1 or except:ENTRY,ENTRY"),
            };
            let names = except.unwrap_or_default().split(',');
            options.compare_except = names.map(String::from).collect();
        }
        if let Some(v) = get("TRACE") {
            options.trace = Some(match Trace::parse(&v) {
                Some(trace) => trace,
                None => return wrong("TRACE", &v, "entry:x,y,z:thread"),
            });
        }
        options.count_memory = get("COUNTS").is_some();
        Ok(options)
    }
}

impl Trace {
    fn parse(text: &str) -> Option<Trace> {
        let mut parts = text.split(':');
        let (entry, block, thread) = (parts.next()?, parts.next()?, parts.next()?);
        let block: Vec<u32> = block
            .split(',')
            .map(|n| n.parse().ok())
            .collect::<Option<_>>()?;
        if parts.next().is_some() || entry.is_empty() {
            return None;
        }
        Some(Trace {
            entry: entry.into(),
            block: block.try_into().ok()?,
            thread: thread.parse().ok()?,
        })
    }
}

/// What the blocks of a launch share.
pub(crate) struct Context<'a> {
    pub entry: &'a Entry,
    pub place: Place,
    pub parameters: &'a [u8],
    /// Device memory, by address.
    pub view: Vec<Arc<Buffer>>,
    pub options: &'a Options,
    pub one_by_one: bool,
    /// Accesses before this time belong to earlier launches.
    pub base: u32,
}

impl Context<'_> {
    /// A report on an instruction.
    pub fn report(&self, fault: Fault, pc: u32, block: [u32; 3], thread: Option<u32>) -> Report {
        Report {
            kind: fault.kind,
            entry: self.entry.name.clone(),
            line: self.entry.code[pc as usize].line,
            instruction: self.entry.texts[pc as usize].clone(),
            block,
            thread,
            detail: fault.detail,
        }
    }

    /// An instruction for a message.
    pub fn instruction(&self, pc: u32) -> String {
        let pc = pc as usize;
        format!(
            "line {}, `{}`",
            self.entry.code[pc].line, self.entry.texts[pc]
        )
    }

    /// Where a block stands in the grid.
    pub fn index_of(&self, block: u32) -> Option<[u32; 3]> {
        let [x, y, z] = self.place.grid;
        let index = [block % x, block / x % y, block / (x * y)];
        (index[2] < z).then_some(index)
    }

    fn buffer_near(&self, address: u64) -> Option<&Buffer> {
        let i = self.view.partition_point(|b| b.base <= address);
        let below = i.checked_sub(1).map(|i| &*self.view[i]);
        let above = self.view.get(i).map(|b| &**b);
        match (below, above) {
            (Some(b), Some(a)) if a.base - address < (address - b.base).saturating_sub(b.bytes) => {
                Some(a)
            }
            (Some(b), _) => Some(b),
            (None, a) => a,
        }
    }

    /// An address as the parameter that points there and an offset, or as a shared variable and an offset.
    pub fn name_of(&self, space: Space, address: u64) -> String {
        if space == Space::Shared {
            let variables = &self.entry.shared_variables;
            let inside = variables
                .iter()
                .filter(|v| u64::from(v.offset) <= address)
                .max_by_key(|v| v.offset);
            return match inside {
                Some(v) => format!("shared {} + {}", v.name, address - u64::from(v.offset)),
                None => format!("shared memory + {}", address as i64),
            };
        }
        let Some(buffer) = self.buffer_near(address) else {
            return format!("address {address:#x}");
        };
        let pointers = self
            .entry
            .parameters
            .iter()
            .filter(|p| p.bytes == 8)
            .map(|p| {
                let bytes = &self.parameters[p.offset..p.offset + 8];
                (
                    &p.name,
                    u64::from_le_bytes(bytes.try_into().expect("eight bytes")),
                )
            });
        // Of several parameters that point into the buffer, the last one before the address.
        let named = pointers
            .filter(|(_, value)| (buffer.base..=buffer.end()).contains(value))
            .max_by_key(|(_, value)| if *value <= address { *value } else { 0 });
        match named {
            Some((name, value)) if value <= address => format!("{name} + {}", address - value),
            Some((name, value)) => format!("{name} - {}", value - address),
            None => format!(
                "a buffer of {} bytes that no parameter points to, {:+}",
                buffer.bytes,
                address.wrapping_sub(buffer.base) as i64
            ),
        }
    }

    /// How large the buffer is that an address belongs to or misses.
    pub fn limit_near(&self, address: u64) -> String {
        match self.buffer_near(address) {
            Some(buffer) if address < buffer.base => {
                format!("the buffer begins {} bytes later", buffer.base - address)
            }
            Some(buffer) if address - buffer.base < 1 << 40 => format!(
                "the buffer has {} bytes, and this is byte {} of it",
                buffer.bytes,
                address - buffer.base
            ),
            _ => "no buffer is there".into(),
        }
    }
}

/// Runs a kernel to its end.
///
/// # Errors
/// The first finding of the checker; memory then holds whatever was written until then.
pub fn launch(memory: &Memory, launch: &Launch<'_>, options: &Options) -> Result<Counters, Report> {
    check(launch)?;
    memory.refresh_clock();
    let schedule = options.schedule == Schedule::OneByOne;
    if !options.compare || options.compare_except.contains(&launch.entry.name) {
        return run(memory, launch, options, schedule).map_err(|r| *r);
    }
    let view = memory.view();
    let reached = pointed_to(launch, &view);
    let snapshot = || -> Vec<_> { reached.iter().map(|b| b.snapshot()).collect() };
    let before = snapshot();
    run(memory, launch, options, true).map_err(|r| *r)?;
    let one_by_one = snapshot();
    for (buffer, state) in reached.iter().zip(&before) {
        buffer.restore(state);
    }
    let counters = run(memory, launch, options, false).map_err(|r| *r)?;
    for ((buffer, one), lock) in reached.iter().zip(&one_by_one).zip(&snapshot()) {
        let differs = (one.0.iter().zip(&lock.0)).position(|(a, b)| a != b);
        if let Some(i) = differs {
            let difference = one.0[i] ^ lock.0[i];
            let address = buffer.base + 8 * i as u64 + u64::from(difference.trailing_zeros() / 8);
            let context = context(launch, view, options, false, 0);
            return Err(Report {
                kind: Kind::ScheduleDependent,
                entry: launch.entry.name.clone(),
                line: 0,
                instruction: String::new(),
                block: [0; 3],
                thread: None,
                detail: format!(
                    "{} holds {:#x} if threads advance one by one and {:#x} in lock step",
                    context.name_of(Space::Global, address),
                    one.0[i],
                    lock.0[i]
                ),
            });
        }
    }
    Ok(counters)
}

/// The buffers that parameters point into.
fn pointed_to(launch: &Launch<'_>, view: &[Arc<Buffer>]) -> Vec<Arc<Buffer>> {
    let values: Vec<u64> = (launch.entry.parameters.iter())
        .filter(|p| p.bytes == 8)
        .map(|p| {
            let bytes = &launch.parameters[p.offset..p.offset + 8];
            u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
        })
        .collect();
    let reached = |b: &&Arc<Buffer>| values.iter().any(|v| (b.base..b.end()).contains(v));
    view.iter().filter(reached).cloned().collect()
}

/// What the driver would refuse.
fn check(launch: &Launch<'_>) -> Result<(), Report> {
    let entry = launch.entry;
    let threads = launch.block.iter().try_fold(1u32, |n, d| n.checked_mul(*d));
    let shared = entry.shared_bytes(launch.dynamic_shared);
    let [gx, gy, gz] = launch.grid;
    let [bx, by, bz] = launch.block;
    let wrong = if gx == 0 || gy == 0 || gz == 0 {
        format!("a grid of {gx} x {gy} x {gz} blocks has none")
    } else if gx > 0x7fff_ffff || gy > 0xffff || gz > 0xffff {
        format!("a grid of {gx} x {gy} x {gz} blocks; 2147483647 x 65535 x 65535 are the most")
    } else if u64::from(gx) * u64::from(gy) * u64::from(gz) >= u64::from(u32::MAX) {
        format!("a grid of {gx} x {gy} x {gz} blocks is more than this emulator counts")
    } else if bx == 0 || by == 0 || bz == 0 {
        format!("a block of {bx} x {by} x {bz} threads has none")
    } else if threads.is_none_or(|n| n > entry.max_threads) || bx > 1024 || by > 1024 || bz > 64 {
        format!(
            "a block of {bx} x {by} x {bz} threads; the kernel allows {}",
            entry.max_threads
        )
    } else if shared > SHARED_LIMIT {
        format!("{shared} bytes of shared memory per block; {SHARED_LIMIT} are the most")
    } else if launch.parameters.len() != entry.parameter_bytes {
        format!(
            "{} bytes of parameters; the entry has {} in {} parameters",
            launch.parameters.len(),
            entry.parameter_bytes,
            entry.parameters.len()
        )
    } else {
        return Ok(());
    };
    Err(Report {
        kind: Kind::BadLaunch,
        entry: entry.name.clone(),
        line: 0,
        instruction: String::new(),
        block: [0; 3],
        thread: None,
        detail: wrong,
    })
}

fn context<'a>(
    launch: &Launch<'a>,
    view: Vec<Arc<Buffer>>,
    options: &'a Options,
    one_by_one: bool,
    base: u32,
) -> Context<'a> {
    Context {
        entry: launch.entry,
        place: Place {
            grid: launch.grid,
            block: launch.block,
            index: [0; 3],
            dynamic_shared: launch.dynamic_shared,
        },
        parameters: launch.parameters,
        view,
        options,
        one_by_one,
        base,
    }
}

fn run(
    memory: &Memory,
    launch: &Launch<'_>,
    options: &Options,
    one_by_one: bool,
) -> Result<Counters, Box<Report>> {
    let base = memory.clock.load(Relaxed);
    let context = context(launch, memory.view(), options, one_by_one, base);
    let blocks: u32 = launch.grid.iter().product();
    let mut order: Vec<u32> = (0..blocks).collect();
    fastrand::Rng::with_seed(options.seed).shuffle(&mut order);
    // Blocks that synchronise run one after the other: what each of them sees is then decided by the order alone.
    let cores = if launch.entry.dependent {
        1
    } else {
        options.cores.min(order.len())
    };
    let next = AtomicUsize::new(0);
    let latest = AtomicU32::new(base);
    let failed: Mutex<Option<(usize, Box<Report>)>> = Mutex::new(None);
    let first_failure = AtomicUsize::new(usize::MAX);
    let work = || {
        let mut block = Block::new(&context);
        loop {
            let i = next.fetch_add(1, Relaxed);
            // Blocks before a failed one still run: the report is the same however many cores there are.
            if i >= order.len() || i > first_failure.load(Relaxed) {
                break;
            }
            if let Err(report) = block.run(order[i]) {
                first_failure.fetch_min(i, Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(at, _)| i < *at) {
                    *failed = Some((i, report));
                }
                break;
            }
        }
        latest.fetch_max(block.state.clock, Relaxed);
        block.state.counters
    };
    let mut counters = Counters {
        entry: launch.entry.name.clone(),
        ..Counters::default()
    };
    if cores == 1 {
        counters.add(&work());
    } else {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                match worker.join() {
                    Ok(part) => counters.add(&part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }
    memory.clock.store(latest.load(Relaxed) + 1, Relaxed);
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, report)) => Err(report),
        None => Ok(counters),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Options, String> {
        Options::from_variables(|name| {
            pairs
                .iter()
                .find(|(k, _)| *k == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn options_come_from_variables() {
        let options = from(&[
            ("PTX_EMULATOR_SCHEDULE", "one-by-one"),
            ("PTX_EMULATOR_SEED", "7"),
            ("PTX_EMULATOR_COMPARE", "except:search,merge"),
            ("PTX_EMULATOR_TRACE", "matmul:1,2,0:33"),
        ])
        .unwrap();
        assert_eq!((options.schedule, options.seed), (Schedule::OneByOne, 7));
        assert!(options.compare);
        assert_eq!(options.compare_except, ["search", "merge"]);
        let trace = options.trace.unwrap();
        assert_eq!(
            (trace.entry.as_str(), trace.block, trace.thread),
            ("matmul", [1, 2, 0], 33)
        );
        for (name, value) in [
            ("SCHEDULE", "fast"),
            ("SEED", "-"),
            ("CORES", "0"),
            ("TRACE", "a:1:2"),
            ("LIMIT", "x"),
            ("COMPARE", "search"),
        ] {
            let name = format!("PTX_EMULATOR_{name}");
            let error = from(&[(&name, value)]).unwrap_err();
            assert!(error.contains(&name) && error.contains(value), "{error}");
        }
    }
}
