//! What is known about every word of memory: which of its bytes were written, by whom, and who read it last.
//!
//! Time is counted per block: every access carries the `now` of its warp, and a warp knows, for each warp of its block,
//! below which time that warp's accesses happened before it (barriers raise these bounds). Accesses of different
//! blocks are ordered only by release and acquire (see `sync`). One word remembers one writer and one reader; when
//! several threads read it without order among them, it remembers that, the latest time and the warps.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::sync::Sync;

/// The thread of a read by several.
const SEVERAL: u32 = 0xfff;

/// The reader of a collective load: none of the lanes in particular.
pub(crate) const WHOLE_WARP: u32 = 0xffe;

/// The block of reads by several blocks.
const MANY: u32 = u32::MAX;

/// State of four bytes.
#[derive(Default)]
pub(crate) struct Word {
    /// Time (32 bits), thread (12), bytes written then (4), bytes ever written (4), copy pending (1), strong (1).
    write: AtomicU64,
    /// Time (32), thread (12), bytes (4), warps modulo 16 (16).
    read: AtomicU64,
    /// Blocks of the write and of the read.
    blocks: AtomicU64,
    /// Instructions of the write and of the read.
    instructions: AtomicU64,
}

const INIT: u64 = 4;
const BYTES: u64 = 8;
const THREAD: u64 = 12;
const PENDING: u64 = 1;
const STRONG: u64 = 2;

/// Who accesses memory, and what happened before.
pub(crate) struct Who<'a> {
    pub block: u32,
    pub thread: u32,
    /// Time of this access.
    pub now: u32,
    /// Everything in this block before this time is ordered before this access.
    pub below: u32,
    /// Earlier times belong to an earlier launch (global memory) or block (shared memory).
    pub base: u32,
    /// Shared memory starts out unwritten in every block.
    pub fresh: bool,
    /// An atomic, or another access that may race with such.
    pub strong: bool,
    /// Index of the instruction.
    pub instruction: u32,
    /// Per warp of the block: the time below which its accesses are ordered before this one.
    pub bounds: &'a [u32],
    /// What is known of other blocks; `None`: nothing is ever ordered between them.
    pub sync: Option<&'a Sync>,
}

impl Who<'_> {
    /// Whether an access of this block is ordered before this one.
    #[inline(always)]
    fn after(&self, thread: u32, time: u32) -> bool {
        time < self.below
            || thread == self.thread
            || self
                .bounds
                .get(thread as usize / 32)
                .is_some_and(|&bound| time < bound)
    }

    /// Whether all reads of this block that a record stands for are ordered before this access.
    #[inline(always)]
    fn after_reads(&self, record: u64) -> bool {
        let time = (record >> 32) as u32;
        time < self.below
            || (self.bounds.iter().enumerate())
                .all(|(warp, &bound)| record >> (warp % 16) & 1 == 0 || time < bound)
    }

    /// Whether an access of another block, by a thread at a time, is ordered before this one.
    fn knows(&self, block: u32, thread: u32, time: u32) -> bool {
        self.sync
            .is_some_and(|s| s.knows(self.thread, block, thread, time))
    }

    fn warp_bit(&self) -> u64 {
        // A collective read counts for the warp whose time it is; any lane of it will do.
        1 << (self.thread / 32 % 16)
    }
}

/// What an access ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    Uninitialised,
    /// The destination of an asynchronous copy that nobody waited for.
    Pending(Other),
    /// Unordered with an earlier access.
    Race(Other),
}

/// The earlier access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub wrote: bool,
    pub block: u32,
    /// `None`: several threads.
    pub thread: Option<u32>,
    pub instruction: u32,
    pub same_block: bool,
}

impl Word {
    /// Marks bytes as written from outside.
    #[inline(always)]
    pub fn written_by_host(&self, mask: u32) {
        let old = self.write.load(Relaxed);
        self.write
            .store(old & 0xf << INIT | u64::from(mask) << INIT, Relaxed);
    }

    /// Bytes that were ever written.
    pub fn initialised(&self) -> u32 {
        (self.write.load(Relaxed) >> INIT) as u32 & 0xf
    }

    /// Forgets everything but which bytes were written.
    pub fn restore(&self, initialised: u32) {
        self.write.store(u64::from(initialised) << INIT, Relaxed);
        self.read.store(0, Relaxed);
    }

    fn writer(&self, who: &Who<'_>, w: u64) -> Other {
        let block = (self.blocks.load(Relaxed) >> 32) as u32;
        Other {
            wrote: true,
            block,
            thread: Some((w >> THREAD) as u32 & 0xfff),
            instruction: (self.instructions.load(Relaxed) >> 32) as u32,
            same_block: block == who.block,
        }
    }

    /// Checks the word's last write against an access of the bytes in `mask`.
    #[inline(always)]
    fn after_write(&self, who: &Who<'_>, w: u64, mask: u32) -> Result<(), Conflict> {
        let time = (w >> 32) as u32;
        if time < who.base || (w >> BYTES) as u32 & mask == 0 {
            return Ok(());
        }
        let blocks = self.blocks.load(Relaxed);
        let block = (blocks >> 32) as u32;
        if w & PENDING != 0 {
            return Err(Conflict::Pending(self.writer(who, w)));
        }
        if w & STRONG != 0 && who.strong {
            return Ok(());
        }
        let thread = (w >> THREAD) as u32 & 0xfff;
        let ordered = if block == who.block {
            who.after(thread, time)
        } else {
            who.knows(block, thread, time)
        };
        if ordered {
            Ok(())
        } else {
            Err(Conflict::Race(self.writer(who, w)))
        }
    }

    /// A read of the bytes in `mask`, recorded as read by `who.thread`; `collective` reads belong to the whole warp.
    #[inline(always)]
    pub fn read(&self, mask: u32, who: &Who<'_>, collective: bool) -> Result<(), Conflict> {
        let w = self.write.load(Relaxed);
        let stale = ((w >> 32) as u32) < who.base;
        let initialised = if who.fresh && stale {
            0
        } else {
            (w >> INIT) as u32 & 0xf
        };
        if stale {
            if initialised & mask != mask {
                return Err(Conflict::Uninitialised);
            }
        } else {
            if w & PENDING != 0 && (w >> BYTES) as u32 & mask != 0 {
                return Err(Conflict::Pending(self.writer(who, w)));
            }
            if initialised & mask != mask {
                return Err(Conflict::Uninitialised);
            }
            if collective {
                // Nobody's own write: a lane that reads another's needs a barrier in between.
                let anyone = Who {
                    thread: WHOLE_WARP,
                    ..*who
                };
                self.after_write(&anyone, w, mask)?;
            } else {
                self.after_write(who, w, mask)?;
            }
        }
        // Record it.
        let r = self.read.load(Relaxed);
        let blocks = self.blocks.load(Relaxed);
        let (time, thread) = ((r >> 32) as u32, (r >> 20) as u32 & 0xfff);
        let block = blocks as u32;
        let mine = if collective { SEVERAL } else { who.thread };
        let fresh = u64::from(who.now) << 32
            | u64::from(mine) << 20
            | u64::from(mask) << 16
            | who.warp_bit();
        let strong_only = who.strong;
        if strong_only {
            // Strong reads race with nothing strong, and what they order is not followed word by word.
            return Ok(());
        }
        // Reads that are ordered before this one need not be remembered: what is ordered after this one is after them.
        let new = if time < who.base || (block == who.block && who.after_reads(r)) {
            fresh
        } else if block != who.block {
            self.blocks
                .store(blocks & !0xffff_ffff | u64::from(MANY), Relaxed);
            self.note_read(who);
            self.read.store(
                r & 0xf_ffff
                    | fresh & 0xf_ffff
                    | u64::from(SEVERAL) << 20
                    | u64::from(time.max(who.now)) << 32,
                Relaxed,
            );
            return Ok(());
        } else if thread == mine && mine != SEVERAL {
            fresh | r & 0xf_0000
        } else {
            r & 0xf_ffff
                | fresh & 0xf_ffff
                | u64::from(SEVERAL) << 20
                | u64::from(time.max(who.now)) << 32
        };
        if new != r || block != who.block {
            self.read.store(new, Relaxed);
            self.blocks
                .store(blocks & !0xffff_ffff | u64::from(who.block), Relaxed);
            self.note_read(who);
        }
        Ok(())
    }

    fn note_read(&self, who: &Who<'_>) {
        let old = self.instructions.load(Relaxed);
        self.instructions
            .store(old & !0xffff_ffff | u64::from(who.instruction), Relaxed);
    }

    /// A write of the bytes in `mask`. `pending`: the data comes later, by an asynchronous copy.
    #[inline(always)]
    pub fn write(&self, mask: u32, who: &Who<'_>, pending: bool) -> Result<(), Conflict> {
        let w = self.write.load(Relaxed);
        self.after_write(who, w, mask)?;
        let r = self.read.load(Relaxed);
        let (time, thread) = ((r >> 32) as u32, (r >> 20) as u32 & 0xfff);
        let blocks = self.blocks.load(Relaxed);
        if time >= who.base && (r >> 16) as u32 & mask != 0 {
            let block = blocks as u32;
            let ordered = if block == MANY {
                who.sync.is_some_and(|s| s.knows_all(who.thread))
            } else if block != who.block {
                if thread == SEVERAL {
                    // Any thread of that block: only a bound on the whole block can order it.
                    who.knows(block, WHOLE_WARP, time)
                } else {
                    who.knows(block, thread, time)
                }
            } else {
                who.after_reads(r) || thread == who.thread
            };
            if !ordered {
                return Err(Conflict::Race(Other {
                    wrote: false,
                    block,
                    thread: (thread != SEVERAL).then_some(thread),
                    instruction: self.instructions.load(Relaxed) as u32,
                    same_block: block == who.block,
                }));
            }
        }
        let after = |w: u64| {
            let stale = ((w >> 32) as u32) < who.base;
            let initialised = if who.fresh && stale {
                0
            } else {
                w >> INIT & 0xf
            };
            let initialised = if pending {
                initialised
            } else {
                initialised | u64::from(mask)
            };
            u64::from(who.now) << 32
                | u64::from(who.thread & 0xfff) << THREAD
                | u64::from(mask) << BYTES
                | initialised << INIT
                | if pending { PENDING } else { 0 }
                | if who.strong { STRONG } else { 0 }
        };
        if mask == 0xf {
            self.write.store(after(w), Relaxed);
        } else {
            // Another block, on another core, may be writing the other bytes just now.
            let mut w = w;
            while let Err(newer) = self
                .write
                .compare_exchange_weak(w, after(w), Relaxed, Relaxed)
            {
                w = newer;
            }
        }
        self.blocks
            .store(u64::from(who.block) << 32 | blocks & 0xffff_ffff, Relaxed);
        let old = self.instructions.load(Relaxed);
        self.instructions.store(
            u64::from(who.instruction) << 32 | old & 0xffff_ffff,
            Relaxed,
        );
        Ok(())
    }

    /// Whether a launch that began at `base` has written the word.
    pub fn written_since(&self, base: u32) -> bool {
        (self.write.load(Relaxed) >> 32) as u32 >= base
    }

    /// The asynchronous copy into this word has been waited for by the thread that issued it: from now on it is a
    /// write of that thread.
    pub fn landed(&self, thread: u32, now: u32) {
        let w = self.write.load(Relaxed);
        let bytes = w >> BYTES & 0xf;
        let initialised = (w >> INIT & 0xf) | bytes;
        self.write.store(
            u64::from(now) << 32
                | u64::from(thread) << THREAD
                | bytes << BYTES
                | initialised << INIT,
            Relaxed,
        );
    }
}
