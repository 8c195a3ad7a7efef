//! The instructions that a lane executes by itself, and the state of a block that they change.

use std::collections::VecDeque;

use crate::code::*;
use crate::counters::Counters;
use crate::launch::Context;
use crate::memory::Buffer;
use crate::report::Kind;
use crate::scalar::{bits, bits64};
use crate::shadow::{Conflict, Other, Who};
use crate::sync::Sync;
use crate::table::Ty;
use crate::warp::{Place, Registers, Result, Warp, fault, lanes};

/// An asynchronous copy on its way.
struct Copy {
    to: usize,
    bytes: usize,
    /// Bytes that come from the source; zeros follow.
    from_source: usize,
    source: u64,
    /// Read when it was issued; `None`: to be read when it is waited for.
    data: Option<[u8; 16]>,
    /// Its group: how many the thread had committed before.
    group: u32,
    pc: u32,
}

/// Asynchronous copies of one thread.
#[derive(Default)]
struct Copies {
    pending: VecDeque<Copy>,
    committed: u32,
}

/// What an access does to the words it touches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Read,
    /// By the lanes of a warp together.
    CollectiveRead,
    Write,
    /// The destination of an asynchronous copy.
    Copy,
}

/// A block that is being executed, but for its warps.
pub(crate) struct State<'a> {
    pub context: &'a Context<'a>,
    pub place: Place,
    /// The block's number.
    pub block: u32,
    pub counters: Counters,
    /// Time of this block; see `shadow`.
    pub clock: u32,
    /// Per warp: the time of its accesses.
    pub now: Vec<u32>,
    /// Per warp: the time below which all accesses of the block are ordered before what it does now.
    pub below: Vec<u32>,
    /// Per warp, the same for each other warp.
    pub bounds: Vec<Vec<u32>>,
    /// Synchronisation with other blocks, in kernels that have such.
    pub sync: Option<Sync>,
    shared: Buffer,
    /// When the block began.
    start: u32,
    local: Vec<u8>,
    local_written: Vec<bool>,
    copies: Vec<Copies>,
    /// The buffer that was accessed last.
    last: usize,
}

impl<'a> State<'a> {
    pub fn new(context: &'a Context<'a>) -> Self {
        let entry = context.entry;
        let threads = context.place.threads() as usize;
        let warps = threads.div_ceil(32);
        let local = threads * entry.local_bytes as usize;
        State {
            context,
            place: context.place,
            block: 0,
            counters: Counters {
                entry: entry.name.clone(),
                ..Counters::default()
            },
            clock: context.base,
            now: vec![0; warps],
            below: vec![0; warps],
            bounds: vec![vec![0; warps]; warps],
            sync: entry.dependent.then(|| Sync::new(warps)),
            shared: Buffer::new(0, entry.shared_bytes(context.place.dynamic_shared).into()),
            start: 0,
            local: vec![0; local],
            local_written: vec![false; local],
            copies: (0..threads).map(|_| Copies::default()).collect(),
            last: 0,
        }
    }

    /// The start of a block.
    pub fn reset(&mut self, block: u32, index: [u32; 3]) {
        self.block = block;
        self.place.index = index;
        self.clock += 1;
        self.start = self.clock;
        self.now.fill(self.clock);
        self.below.fill(self.clock);
        self.bounds.iter_mut().for_each(|b| b.fill(self.start));
        self.local_written.fill(false);
        for copies in &mut self.copies {
            copies.pending.clear();
            copies.committed = 0;
        }
        if let Some(sync) = &mut self.sync {
            sync.start_block(block);
        }
    }

    /// A point in time after which accesses of the warp count as later.
    pub fn tick(&mut self, warp: usize) -> u32 {
        self.clock += 1;
        self.now[warp] = self.clock;
        self.clock
    }

    /// All lanes of the warp have met: what they did is ordered before what they do from now on.
    pub fn warp_barrier(&mut self, warp: usize) {
        let now = self.tick(warp);
        self.bounds[warp][warp] = now;
        self.recompute_below(warp);
        if let Some(sync) = &mut self.sync {
            let brought = sync.arrive(warp);
            sync.leave(warp, &[brought]);
        }
    }

    pub fn recompute_below(&mut self, warp: usize) {
        self.below[warp] = self.bounds[warp].iter().copied().min().unwrap_or(0);
    }

    // ---- Memory ----

    /// The buffer in which `bytes` at `address` lie, and the offset there.
    #[inline(always)]
    fn locate(&mut self, space: Space, address: u64, bytes: usize, lane: usize) -> Result<usize> {
        let inside = match space {
            Space::Shared => {
                let end = address.wrapping_add(bytes as u64);
                (end <= self.shared.bytes && end >= address).then_some(address as usize)
            }
            _ => {
                let holds = |b: &Buffer| {
                    let at = address.wrapping_sub(b.base);
                    (at < b.bytes && bytes as u64 <= b.bytes - at).then_some(at as usize)
                };
                let view = &self.context.view;
                match view.get(self.last).and_then(|b| holds(b)) {
                    Some(at) => Some(at),
                    None => {
                        let i = view.partition_point(|b| b.base <= address);
                        i.checked_sub(1).and_then(|i| {
                            self.last = i;
                            holds(&view[i])
                        })
                    }
                }
            }
        };
        let Some(offset) = inside else {
            return self.outside(space, address, bytes, lane);
        };
        if !address.is_multiple_of(bytes as u64) {
            let name = self.context.name_of(space, address);
            return fault(
                Kind::Misaligned,
                lane as u32,
                format!("{bytes} bytes at {name} ({address:#x}), which is no multiple of {bytes}"),
            );
        }
        Ok(offset)
    }

    #[cold]
    fn outside<T>(&self, space: Space, address: u64, bytes: usize, lane: usize) -> Result<T> {
        let name = self.context.name_of(space, address);
        let limit = match space {
            Space::Shared => format!("the block has {} bytes of shared memory", self.shared.bytes),
            _ => self.context.limit_near(address),
        };
        fault(
            Kind::OutOfBounds,
            lane as u32,
            format!("{bytes} bytes at {name}; {limit}"),
        )
    }

    #[inline(always)]
    fn buffer(&self, space: Space) -> &Buffer {
        match space {
            Space::Shared => &self.shared,
            _ => &self.context.view[self.last],
        }
    }

    /// Checks an access of bytes that `locate` found, and records it.
    #[inline(always)]
    fn touch(
        &self,
        space: Space,
        offset: usize,
        bytes: usize,
        thread: u32,
        pc: u32,
        how: How,
        strong: bool,
    ) -> Result<()> {
        let warp = thread as usize / 32;
        let shared = space == Space::Shared;
        let who = Who {
            block: self.block,
            thread,
            now: self.now[warp],
            below: self.below[warp],
            base: if shared {
                self.start
            } else {
                self.context.base
            },
            fresh: shared,
            strong,
            instruction: pc,
            bounds: &self.bounds[warp],
            sync: self.sync.as_ref(),
        };
        let buffer = self.buffer(space);
        let (first, last) = (offset / 4, (offset + bytes - 1) / 4);
        for i in first..=last {
            let mask = if bytes >= 4 {
                0xf
            } else {
                ((1 << bytes) - 1) << (offset % 4)
            };
            let word = &buffer.words[i];
            let outcome = match how {
                How::Read => word.read(mask, &who, false),
                How::CollectiveRead => word.read(mask, &who, true),
                How::Write => word.write(mask, &who, false),
                How::Copy => word.write(mask, &who, true),
            };
            if let Err(conflict) = outcome {
                let writes = matches!(how, How::Write | How::Copy);
                return self.conflict(conflict, space, buffer.base + 4 * i as u64, thread, writes);
            }
        }
        Ok(())
    }

    #[cold]
    fn conflict<T>(
        &self,
        conflict: Conflict,
        space: Space,
        address: u64,
        thread: u32,
        writes: bool,
    ) -> Result<T> {
        let name = self.context.name_of(space, address);
        let does = if writes { "writes" } else { "reads" };
        let earlier = |other: &Other| {
            let who = match other.thread {
                Some(thread) => format!("thread {thread}"),
                None => "several threads".into(),
            };
            let block = if other.same_block {
                String::new()
            } else {
                match self.context.index_of(other.block) {
                    Some([x, y, z]) => format!(" of block ({x}, {y}, {z})"),
                    None => " of several blocks".into(),
                }
            };
            let did = if other.wrote { "wrote" } else { "read" };
            format!(
                "{who}{block} {did} it in {}",
                self.context.instruction(other.instruction)
            )
        };
        let (kind, detail) = match conflict {
            Conflict::Uninitialised => (
                Kind::Uninitialised,
                format!("{does} {name}, which was never written"),
            ),
            Conflict::Pending(other) => (
                Kind::EarlyRead,
                format!(
                    "{does} {name}, which an asynchronous copy is still filling: {}, and has not waited for it",
                    earlier(&other)
                ),
            ),
            Conflict::Race(other) if other.same_block => (
                Kind::Race,
                format!(
                    "{does} {name}; {}, and no barrier lies in between",
                    earlier(&other)
                ),
            ),
            Conflict::Race(other) => (
                Kind::BlockRace,
                format!(
                    "{does} {name}; {}, and no release and acquire lie in between",
                    earlier(&other)
                ),
            ),
        };
        fault(kind, thread % 32, detail)
    }

    /// Counts what a warp asks of memory at once.
    fn count(&mut self, space: Space, mask: u32, addresses: &[u64; 32], bytes: usize, write: bool) {
        let all = u64::from(mask.count_ones()) * bytes as u64;
        let c = &mut self.counters;
        *match (space, write) {
            (Space::Global, false) => &mut c.global_bytes_read,
            (Space::Global, true) => &mut c.global_bytes_written,
            (_, false) => &mut c.shared_bytes_read,
            (_, true) => &mut c.shared_bytes_written,
        } += all;
        if self.context.options.count_memory && mask != 0 {
            if space == Space::Global {
                c.global_request(lanes(mask).map(|l| addresses[l]), bytes as u64);
            } else {
                let offsets: Vec<u64> = lanes(mask).map(|l| addresses[l]).collect();
                c.shared_request(&offsets, bytes as u64);
            }
        }
    }

    /// Executes an instruction that is no branch and no collective for the lanes of `mask`.
    #[inline(always)]
    pub fn execute(&mut self, warp: &Warp<'a>, mask: u32, op: &Op, pc: u32) -> Result<()> {
        let r = &warp.registers;
        match op {
            Op::Lanes { fun, d, s } => return r.run(mask, *fun, *d, s),
            Op::SetP {
                compare,
                d,
                q,
                a,
                b,
                combine,
            } => {
                let holds = r.compare(mask, *compare, *a, *b)?;
                let (yes, no) = match combine {
                    None => (holds, !holds),
                    Some((logic, p)) => {
                        let p = r.holds(mask, *p)?;
                        (logic.of(holds, p), logic.of(!holds, p))
                    }
                };
                r.set(mask, *d, yes);
                if let Some(q) = q {
                    r.set(mask, *q, no);
                }
            }
            Op::Load(access) => return self.load(warp, mask, access, pc),
            Op::Store(access) => return self.store(warp, mask, access, pc),
            Op::SelP { d, a, b, p } => {
                let first = r.holds(mask, *p)?;
                r.check(mask, *a)?;
                r.check(mask, *b)?;
                for lane in lanes(mask) {
                    r.put(
                        lane,
                        *d,
                        r.get(lane, if first >> lane & 1 == 1 { *a } else { *b }),
                    );
                }
            }
            Op::Convert {
                conversion,
                d,
                s,
                extend,
            } => {
                r.check(mask, *s)?;
                for lane in lanes(mask) {
                    let mut value = conversion.apply(r.get(lane, *s));
                    if *extend {
                        value = sign_extended(value, conversion.to.bytes() as usize);
                    }
                    r.put(lane, *d, value);
                }
            }
            Op::PackHalves {
                d,
                upper,
                lower,
                conversion,
            } => {
                r.w.read(mask, *upper)?;
                r.w.read(mask, *lower)?;
                for lane in lanes(mask) {
                    let half = |s| conversion.apply(r.get(lane, Any::W(s)));
                    r.put(lane, Any::W(*d), half(*upper) << 16 | half(*lower));
                }
            }
            Op::Set {
                compare,
                d,
                a,
                b,
                one,
            } => {
                let holds = r.compare(mask, *compare, *a, *b)?;
                for lane in lanes(mask) {
                    let value = if holds >> lane & 1 == 1 { *one } else { 0 };
                    r.put(lane, Any::W(*d), value.into());
                }
            }
            Op::MovPred { d, a } => r.set(mask, *d, r.holds(mask, *a)?),
            Op::PredLogic { op, d, a, b } => {
                r.set(mask, *d, op.of(r.holds(mask, *a)?, r.holds(mask, *b)?));
            }
            Op::Pack { d, parts, count } => {
                let parts = &parts[..usize::from(*count)];
                for part in parts {
                    r.check(mask, *part)?;
                }
                let width = width(*d, *count);
                for lane in lanes(mask) {
                    let whole = parts
                        .iter()
                        .rev()
                        .fold(0, |all, part| all << width | r.get(lane, *part));
                    r.put(lane, *d, whole);
                }
            }
            Op::Unpack { parts, count, a } => {
                r.check(mask, *a)?;
                let width = width(*a, *count);
                for lane in lanes(mask) {
                    let whole = r.get(lane, *a);
                    for (i, part) in parts[..usize::from(*count)].iter().enumerate() {
                        r.put(
                            lane,
                            *part,
                            whole >> (width * i as u32) & ((1 << width) - 1),
                        );
                    }
                }
            }
            Op::Atomic(atom) => return self.atomic(warp, mask, atom, pc),
            Op::Fence(order) => {
                if let Some(sync) = &mut self.sync
                    && order.wide
                {
                    let (now, bounds) = (self.now[warp.index], &self.bounds[warp.index]);
                    for lane in lanes(mask) {
                        sync.fence(warp.thread(lane as u32), now, bounds);
                    }
                    self.tick(warp.index);
                }
            }
            Op::CopyAsync {
                to,
                from,
                bytes,
                source_bytes,
            } => return self.copy(warp, mask, *to, *from, (*bytes).into(), *source_bytes, pc),
            Op::CopyCommit => {
                for lane in lanes(mask) {
                    self.copies[warp.thread(lane as u32) as usize].committed += 1;
                }
            }
            Op::CopyWait(pending) => {
                for lane in lanes(mask) {
                    self.wait(warp.thread(lane as u32), *pending)?;
                }
            }
            Op::ActiveMask { d } => {
                for lane in lanes(mask) {
                    r.put(lane, Any::W(*d), mask.into());
                }
            }
            Op::Trap => {
                return fault(
                    Kind::Undefined,
                    mask.trailing_zeros(),
                    "the kernel stopped itself".into(),
                );
            }
            Op::Nothing => {}
            Op::Branch { .. } | Op::Exit | Op::Collective(_) => {
                unreachable!("left to the scheduler")
            }
        }
        Ok(())
    }

    fn load(&mut self, warp: &Warp<'a>, mask: u32, a: &Access, pc: u32) -> Result<()> {
        let r = &warp.registers;
        let mut addresses = [0; 32];
        r.addresses(mask, a.address, &mut addresses)?;
        let (bytes, regs) = (usize::from(a.bytes), &a.regs[..usize::from(a.count)]);
        let size = bytes * regs.len();
        let put = |lane, i: usize, value| {
            r.put(
                lane,
                regs[i],
                if a.signed {
                    sign_extended(value, bytes)
                } else {
                    value
                },
            );
        };
        match a.space {
            Space::Param | Space::Const => {
                let (from, what) = if a.space == Space::Param {
                    (self.context.parameters, "parameters")
                } else {
                    (&*self.context.entry.constants, "constants")
                };
                for lane in lanes(mask) {
                    let at = addresses[lane];
                    check_small(at, size, from.len(), what, lane)?;
                    for i in 0..regs.len() {
                        let mut value = [0; 8];
                        value[..bytes].copy_from_slice(&from[at as usize + bytes * i..][..bytes]);
                        put(lane, i, u64::from_le_bytes(value));
                    }
                }
            }
            Space::Local => {
                let each = self.context.entry.local_bytes as usize;
                for lane in lanes(mask) {
                    let at = addresses[lane];
                    check_small(at, size, each, "local memory", lane)?;
                    let start = each * warp.thread(lane as u32) as usize + at as usize;
                    if !self.local_written[start..start + size].iter().all(|w| *w) {
                        return fault(
                            Kind::Uninitialised,
                            lane as u32,
                            format!("reads local memory + {at}, which was never written"),
                        );
                    }
                    for i in 0..regs.len() {
                        let mut value = [0; 8];
                        value[..bytes].copy_from_slice(&self.local[start + bytes * i..][..bytes]);
                        put(lane, i, u64::from_le_bytes(value));
                    }
                }
            }
            Space::Global | Space::Shared => {
                self.count(a.space, mask, &addresses, size, false);
                for lane in lanes(mask) {
                    let offset = self.locate(a.space, addresses[lane], size, lane)?;
                    let thread = warp.thread(lane as u32);
                    self.touch(a.space, offset, size, thread, pc, How::Read, a.order.strong)?;
                    let buffer = self.buffer(a.space);
                    if a.read_only && buffer.words[offset / 4].written_since(self.context.base) {
                        let name = self.context.name_of(a.space, addresses[lane]);
                        return fault(
                            Kind::Undefined,
                            lane as u32,
                            format!("a read-only load of {name}, which this launch has written"),
                        );
                    }
                    for i in 0..regs.len() {
                        put(lane, i, buffer.load(offset + bytes * i, bytes));
                    }
                    if let Some(sync) = &mut self.sync
                        && a.order.strong
                        && a.order.wide
                    {
                        sync.read(thread, addresses[lane], a.order);
                    }
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, warp: &Warp<'a>, mask: u32, a: &Access, pc: u32) -> Result<()> {
        let r = &warp.registers;
        let mut addresses = [0; 32];
        r.addresses(mask, a.address, &mut addresses)?;
        let (bytes, regs) = (usize::from(a.bytes), &a.regs[..usize::from(a.count)]);
        let size = bytes * regs.len();
        for reg in regs {
            r.check(mask, *reg)?;
        }
        if a.space == Space::Local {
            let each = self.context.entry.local_bytes as usize;
            for lane in lanes(mask) {
                let at = addresses[lane];
                check_small(at, size, each, "local memory", lane)?;
                let start = each * warp.thread(lane as u32) as usize + at as usize;
                for (i, reg) in regs.iter().enumerate() {
                    self.local[start + bytes * i..][..bytes]
                        .copy_from_slice(&r.get(lane, *reg).to_le_bytes()[..bytes]);
                }
                self.local_written[start..start + size].fill(true);
            }
            return Ok(());
        }
        self.count(a.space, mask, &addresses, size, true);
        for lane in lanes(mask) {
            let offset = self.locate(a.space, addresses[lane], size, lane)?;
            let thread = warp.thread(lane as u32);
            self.touch(
                a.space,
                offset,
                size,
                thread,
                pc,
                How::Write,
                a.order.strong,
            )?;
            let buffer = self.buffer(a.space);
            for (i, reg) in regs.iter().enumerate() {
                buffer.store(offset + bytes * i, bytes, r.get(lane, *reg));
            }
            if let Some(sync) = &mut self.sync
                && a.order.strong
                && a.order.wide
            {
                let (now, bounds) = (self.now[warp.index], &self.bounds[warp.index]);
                sync.write(thread, addresses[lane], a.order, false, now, bounds);
            }
        }
        if a.order.release {
            self.tick(warp.index);
        }
        Ok(())
    }

    fn atomic(&mut self, warp: &Warp<'a>, mask: u32, a: &Atom, pc: u32) -> Result<()> {
        let r = &warp.registers;
        let mut addresses = [0; 32];
        r.addresses(mask, a.address, &mut addresses)?;
        let bytes = a.ty.bytes() as usize;
        r.check(mask, a.a)?;
        if let Some(b) = a.b {
            r.check(mask, b)?;
        }
        self.count(a.space, mask, &addresses, bytes, true);
        for lane in lanes(mask) {
            let offset = self.locate(a.space, addresses[lane], bytes, lane)?;
            let thread = warp.thread(lane as u32);
            self.touch(a.space, offset, bytes, thread, pc, How::Read, true)?;
            self.touch(a.space, offset, bytes, thread, pc, How::Write, true)?;
            let buffer = self.buffer(a.space);
            let old = buffer.load(offset, bytes);
            let b = a.b.map_or(0, |b| r.get(lane, b));
            buffer.store(
                offset,
                bytes,
                combined(a.op, a.ty, old, r.get(lane, a.a), b),
            );
            if let Some(result) = a.result {
                r.put(lane, result, old);
            }
            if let Some(sync) = &mut self.sync
                && a.order.wide
                && a.space == Space::Global
            {
                let (now, bounds) = (self.now[warp.index], &self.bounds[warp.index]);
                sync.read(thread, addresses[lane], a.order);
                sync.write(thread, addresses[lane], a.order, true, now, bounds);
            }
        }
        if a.order.release {
            self.tick(warp.index);
        }
        Ok(())
    }

    // ---- Asynchronous copies ----

    fn copy(
        &mut self,
        warp: &Warp<'a>,
        mask: u32,
        to: Address,
        from: Address,
        bytes: usize,
        source_bytes: Option<Reg>,
        pc: u32,
    ) -> Result<()> {
        let r = &warp.registers;
        let (mut targets, mut sources) = ([0; 32], [0; 32]);
        r.addresses(mask, to, &mut targets)?;
        r.addresses(mask, from, &mut sources)?;
        if let Some(s) = source_bytes {
            r.w.read(mask, s)?;
        }
        self.count(Space::Global, mask, &sources, bytes, false);
        self.count(Space::Shared, mask, &targets, bytes, true);
        for lane in lanes(mask) {
            let thread = warp.thread(lane as u32);
            let from_source = source_bytes.map_or(bytes, |s| r.get(lane, Any::W(s)) as usize);
            if from_source > bytes {
                return fault(
                    Kind::Undefined,
                    lane as u32,
                    format!("a copy of {bytes} bytes with {from_source} of them from the source"),
                );
            }
            let source = sources[lane];
            // What is not read need not exist, but the address is aligned all the same.
            if from_source > 0 && !source.is_multiple_of(bytes as u64) {
                self.locate(Space::Global, source, bytes, lane)?;
            }
            let data = self.read_source(source, from_source, thread, pc)?;
            let to = self.locate(Space::Shared, targets[lane], bytes, lane)?;
            self.touch(Space::Shared, to, bytes, thread, pc, How::Copy, false)?;
            // Threads one by one: the data is read as late as it may be.
            let data = (!self.context.one_by_one).then_some(data);
            let copies = &mut self.copies[thread as usize];
            let group = copies.committed;
            copies.pending.push_back(Copy {
                to,
                bytes,
                from_source,
                source,
                data,
                group,
                pc,
            });
        }
        Ok(())
    }

    /// Reads what a copy takes from global memory: `bytes` need not be a power of two.
    fn read_source(&mut self, source: u64, bytes: usize, thread: u32, pc: u32) -> Result<[u8; 16]> {
        let mut data = [0; 16];
        if bytes == 16 {
            // The usual case.
            let offset = self.locate(Space::Global, source, bytes, thread as usize % 32)?;
            self.touch(Space::Global, offset, bytes, thread, pc, How::Read, false)?;
            let buffer = self.buffer(Space::Global);
            for (i, part) in data.chunks_exact_mut(8).enumerate() {
                part.copy_from_slice(&buffer.load(offset + 8 * i, 8).to_le_bytes());
            }
            return Ok(data);
        }
        let mut at = 0;
        while at < bytes {
            let part = if bytes - at >= 4 { 4 } else { 1 };
            let offset = self.locate(
                Space::Global,
                source + at as u64,
                part,
                thread as usize % 32,
            )?;
            self.touch(Space::Global, offset, part, thread, pc, How::Read, false)?;
            let value = self.buffer(Space::Global).load(offset, part);
            data[at..at + part].copy_from_slice(&value.to_le_bytes()[..part]);
            at += part;
        }
        Ok(data)
    }

    /// Waits until at most `pending` of the thread's groups are on their way.
    fn wait(&mut self, thread: u32, pending: Option<u32>) -> Result<()> {
        let committed = self.copies[thread as usize].committed;
        // Groups below this number are complete.
        let complete = match pending {
            Some(pending) => committed.saturating_sub(pending),
            None => {
                self.copies[thread as usize].committed += 1;
                u32::MAX
            }
        };
        while let Some(copy) = self.copies[thread as usize]
            .pending
            .pop_front_if(|copy| copy.group < complete)
        {
            let data = match copy.data {
                Some(data) => data,
                None => self.read_source(copy.source, copy.from_source, thread, copy.pc)?,
            };
            let warp = thread as usize / 32;
            for i in (0..copy.bytes).step_by(4) {
                let value = u32::from_le_bytes(data[i..i + 4].try_into().expect("four bytes"));
                self.shared.store(copy.to + i, 4, value.into());
                self.shared.words[(copy.to + i) / 4].landed(thread, self.now[warp]);
            }
        }
        Ok(())
    }

    // ---- For collectives ----

    /// A row of 16 bytes that a lane names and the whole warp reads.
    pub fn read_row(&mut self, address: u64, thread: u32, pc: u32) -> Result<[u32; 4]> {
        let offset = self.locate(Space::Shared, address, 16, thread as usize % 32)?;
        self.touch(
            Space::Shared,
            offset,
            16,
            thread,
            pc,
            How::CollectiveRead,
            false,
        )?;
        Ok(std::array::from_fn(|i| {
            self.shared.load(offset + 4 * i, 4) as u32
        }))
    }

    /// The counterpart for stores.
    pub fn write_row(&mut self, address: u64, row: [u32; 4], thread: u32, pc: u32) -> Result<()> {
        let offset = self.locate(Space::Shared, address, 16, thread as usize % 32)?;
        self.touch(Space::Shared, offset, 16, thread, pc, How::Write, false)?;
        for (i, value) in row.into_iter().enumerate() {
            self.shared.store(offset + 4 * i, 4, value.into());
        }
        Ok(())
    }

    pub fn count_rows(&mut self, rows: u32, addresses: &[u64; 32], write: bool) {
        self.count(Space::Shared, rows, addresses, 16, write);
    }
}

fn check_small(at: u64, bytes: usize, limit: usize, what: &str, lane: usize) -> Result<()> {
    if at
        .checked_add(bytes as u64)
        .is_none_or(|end| end > limit as u64)
    {
        return fault(
            Kind::OutOfBounds,
            lane as u32,
            format!(
                "{bytes} bytes at {what} + {}; there are {limit} bytes",
                at as i64
            ),
        );
    }
    if !at.is_multiple_of(bytes as u64) {
        return fault(
            Kind::Misaligned,
            lane as u32,
            format!("{bytes} bytes at {what} + {at}, which is no multiple of {bytes}"),
        );
    }
    Ok(())
}

/// Bits of each of `count` parts of a register.
fn width(whole: Any, count: u8) -> u32 {
    match (whole, count) {
        (Any::D(_), 2) => 32,
        (Any::D(_), _) | (Any::W(_), 2) => 16,
        _ => 8,
    }
}

fn sign_extended(value: u64, bytes: usize) -> u64 {
    let unused = 64 - 8 * bytes as u32;
    ((value << unused) as i64 >> unused) as u64
}

/// What an atomic operation stores.
fn combined(op: AtomOp, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    use AtomOp::*;
    let signed = |v: u64| sign_extended(v, ty.bytes() as usize) as i64;
    match op {
        Add if ty == Ty::F32 => {
            // `atom.add.f32` in global memory flushes subnormals; in shared memory it does not. Neither is used where
            // it matters, and one definition is easier to reason about: no flush.
            bits(f32::from_bits(old as u32) + f32::from_bits(a as u32)).into()
        }
        Add if ty == Ty::F64 => bits64(f64::from_bits(old) + f64::from_bits(a)),
        Add => old.wrapping_add(a),
        Min if ty.is_signed() => signed(old).min(signed(a)) as u64,
        Max if ty.is_signed() => signed(old).max(signed(a)) as u64,
        Min => old.min(a),
        Max => old.max(a),
        And => old & a,
        Or => old | a,
        Xor => old ^ a,
        Exch => a,
        Cas => {
            if old == a {
                b
            } else {
                old
            }
        }
        Inc => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        Dec => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
    }
}

impl Logic {
    fn of(self, a: u32, b: u32) -> u32 {
        match self {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        }
    }
}

impl Registers<'_> {
    /// The value of a register for a trace; `None` if it was never written.
    pub fn traced(&self, lane: usize, r: Any) -> Option<u64> {
        self.check(1 << lane, r).is_ok().then(|| self.get(lane, r))
    }
}
