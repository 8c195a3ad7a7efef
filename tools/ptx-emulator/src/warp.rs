//! A warp: registers, and the groups of lanes that stand at the same instruction.

use std::cell::Cell;

use crate::code::{Address, Any, Base, Entry, Pred, Preset, Reg, SINK, Special};
use crate::report::Kind;
use crate::table::{Compare, Fun};

/// What is wrong with an instruction, before it is known which one it was.
#[derive(Debug)]
pub(crate) struct Fault {
    pub kind: Kind,
    /// The lane; `None` if no single one is to blame.
    pub lane: Option<u32>,
    pub detail: String,
}

pub(crate) type Result<T> = std::result::Result<T, Box<Fault>>;

pub(crate) fn fault<T>(kind: Kind, lane: impl Into<Option<u32>>, detail: String) -> Result<T> {
    Err(Box::new(Fault {
        kind,
        lane: lane.into(),
        detail,
    }))
}

/// The lanes of a mask.
#[inline(always)]
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros();
            mask &= mask - 1;
            lane as usize
        })
    })
}

/// The registers of one width: a row of 32 lanes each, and which lanes were written.
pub(crate) struct Bank<'a, T> {
    rows: Vec<[Cell<T>; 32]>,
    written: Vec<Cell<u32>>,
    names: &'a [String],
}

impl<'a, T: Copy + Default> Bank<'a, T> {
    fn new(names: &'a [String], presets: usize) -> Self {
        let n = names.len() + presets;
        Bank {
            rows: (0..n).map(|_| Default::default()).collect(),
            written: vec![Cell::new(u32::MAX); n],
            names,
        }
    }

    /// Forgets what was written, but for the presets.
    fn reset(&self) {
        self.written[..self.names.len()]
            .iter()
            .for_each(|w| w.set(0));
    }

    /// A register that is read by the lanes of `mask`.
    #[inline(always)]
    pub fn read(&self, mask: u32, r: Reg) -> Result<&[Cell<T>; 32]> {
        let missing = mask & !self.written[usize::from(r)].get();
        if missing != 0 {
            return self.unwritten(missing, r);
        }
        Ok(&self.rows[usize::from(r)])
    }

    #[cold]
    fn unwritten<U>(&self, missing: u32, r: Reg) -> Result<U> {
        let name = &self.names[usize::from(r)];
        fault(
            Kind::Uninitialised,
            missing.trailing_zeros(),
            format!("register {name} was never written by this thread"),
        )
    }

    /// A register that the lanes of `mask` write now.
    #[inline(always)]
    pub fn write(&self, mask: u32, r: Reg) -> &[Cell<T>; 32] {
        let written = &self.written[usize::from(r)];
        written.set(written.get() | mask);
        &self.rows[usize::from(r)]
    }
}

/// Registers of all lanes.
pub(crate) struct Registers<'a> {
    pub w: Bank<'a, u32>,
    pub d: Bank<'a, u64>,
    /// Predicates: a bit per lane.
    p: Vec<Cell<u32>>,
    p_written: Vec<Cell<u32>>,
    p_names: &'a [String],
}

impl<'a> Registers<'a> {
    fn new(entry: &'a Entry) -> Self {
        let registers = Registers {
            w: Bank::new(&entry.w_names, entry.w_presets.len()),
            d: Bank::new(&entry.d_names, entry.d_presets.len()),
            p: vec![Cell::new(0); entry.p_names.len()],
            p_written: vec![Cell::new(0); entry.p_names.len()],
            p_names: &entry.p_names,
        };
        for (i, value) in entry.d_presets.iter().enumerate() {
            registers.d.rows[entry.d_names.len() + i]
                .iter()
                .for_each(|v| v.set(*value));
        }
        registers
    }

    fn reset(&self) {
        self.w.reset();
        self.d.reset();
        self.p_written.iter().for_each(|w| w.set(0));
    }

    /// The lanes of `mask` for which a predicate holds.
    #[inline(always)]
    pub fn holds(&self, mask: u32, p: Pred) -> Result<u32> {
        let missing = mask & !self.p_written[usize::from(p.reg)].get();
        if missing != 0 {
            let name = &self.p_names[usize::from(p.reg)];
            return fault(
                Kind::Uninitialised,
                missing.trailing_zeros(),
                format!("predicate {name} was never written by this thread"),
            );
        }
        let bits = self.p[usize::from(p.reg)].get();
        Ok(mask & if p.negated { !bits } else { bits })
    }

    /// Sets a predicate for the lanes of `mask` to their bits in `bits`.
    #[inline(always)]
    pub fn set(&self, mask: u32, p: Reg, bits: u32) {
        if p == SINK {
            return;
        }
        let row = &self.p[usize::from(p)];
        row.set(row.get() & !mask | bits & mask);
        let written = &self.p_written[usize::from(p)];
        written.set(written.get() | mask);
    }

    /// The value of a register of either width in one lane; it must have been checked.
    #[inline(always)]
    pub fn get(&self, lane: usize, r: Any) -> u64 {
        match r {
            Any::W(r) => self.w.rows[usize::from(r)][lane].get().into(),
            Any::D(r) => self.d.rows[usize::from(r)][lane].get(),
        }
    }

    /// Checks that a register of either width was written.
    #[inline(always)]
    pub fn check(&self, mask: u32, r: Any) -> Result<()> {
        match r {
            Any::W(r) => self.w.read(mask, r).map(drop),
            Any::D(r) => self.d.read(mask, r).map(drop),
        }
    }

    /// Writes a register of either width in one lane.
    #[inline(always)]
    pub fn put(&self, lane: usize, r: Any, value: u64) {
        match r {
            Any::W(SINK) | Any::D(SINK) => {}
            Any::W(r) => self.w.write(1 << lane, r)[lane].set(value as u32),
            Any::D(r) => self.d.write(1 << lane, r)[lane].set(value),
        }
    }

    /// Whether the predicate is set in a lane; `None` if it was never written.
    pub fn predicate(&self, lane: usize, p: Reg) -> Option<bool> {
        let bit = |row: &[Cell<u32>]| row[usize::from(p)].get() >> lane & 1 == 1;
        bit(&self.p_written).then(|| bit(&self.p))
    }

    /// Addresses that the lanes of `mask` form from a register and an offset; those of other lanes mean nothing.
    #[inline(always)]
    pub fn addresses(&self, mask: u32, address: Address, all: &mut [u64; 32]) -> Result<()> {
        let offset = address.offset as u64;
        // One lane, or all of them whether wanted or not.
        let wanted = if mask.is_power_of_two() {
            let lane = mask.trailing_zeros() as usize;
            lane..lane + 1
        } else {
            0..32
        };
        match address.base {
            Base::None => all[wanted].fill(offset),
            Base::W(r) => {
                let row = self.w.read(mask, r)?;
                for lane in wanted {
                    all[lane] = u64::from(row[lane].get()).wrapping_add(offset);
                }
            }
            Base::D(r) => {
                let row = self.d.read(mask, r)?;
                for lane in wanted {
                    all[lane] = row[lane].get().wrapping_add(offset);
                }
            }
        }
        Ok(())
    }

    /// Runs a row of the table of scalar instructions.
    #[inline(always)]
    pub fn run(&self, mask: u32, fun: Fun, to: Reg, s: &[Reg; 4]) -> Result<()> {
        let (w, d) = (&self.w, &self.d);
        match fun {
            Fun::WtoW(f) => {
                let a = w.read(mask, s[0])?;
                f(mask, w.write(mask, to), a);
            }
            Fun::WWtoW(f) => {
                let (a, b) = (w.read(mask, s[0])?, w.read(mask, s[1])?);
                f(mask, w.write(mask, to), a, b);
            }
            Fun::WWWtoW(f) => {
                let (a, b, c) = (
                    w.read(mask, s[0])?,
                    w.read(mask, s[1])?,
                    w.read(mask, s[2])?,
                );
                f(mask, w.write(mask, to), a, b, c);
            }
            Fun::WWWWtoW(f) => {
                let (a, b) = (w.read(mask, s[0])?, w.read(mask, s[1])?);
                let (c, e) = (w.read(mask, s[2])?, w.read(mask, s[3])?);
                f(mask, w.write(mask, to), [a, b, c, e]);
            }
            Fun::DtoD(f) => {
                let a = d.read(mask, s[0])?;
                f(mask, d.write(mask, to), a);
            }
            Fun::DDtoD(f) => {
                let (a, b) = (d.read(mask, s[0])?, d.read(mask, s[1])?);
                f(mask, d.write(mask, to), a, b);
            }
            Fun::DDDtoD(f) => {
                let (a, b, c) = (
                    d.read(mask, s[0])?,
                    d.read(mask, s[1])?,
                    d.read(mask, s[2])?,
                );
                f(mask, d.write(mask, to), a, b, c);
            }
            Fun::DWtoD(f) => {
                let (a, b) = (d.read(mask, s[0])?, w.read(mask, s[1])?);
                f(mask, d.write(mask, to), a, b);
            }
            Fun::DWWtoD(f) => {
                let (a, b, c) = (
                    d.read(mask, s[0])?,
                    w.read(mask, s[1])?,
                    w.read(mask, s[2])?,
                );
                f(mask, d.write(mask, to), a, b, c);
            }
            Fun::DDWWtoD(f) => {
                let (a, b) = (d.read(mask, s[0])?, d.read(mask, s[1])?);
                let (c, e) = (w.read(mask, s[2])?, w.read(mask, s[3])?);
                f(mask, d.write(mask, to), [a, b], [c, e]);
            }
            Fun::WtoD(f) => {
                let a = w.read(mask, s[0])?;
                f(mask, d.write(mask, to), a);
            }
            Fun::DtoW(f) => {
                let a = d.read(mask, s[0])?;
                f(mask, w.write(mask, to), a);
            }
            Fun::WWtoD(f) => {
                let (a, b) = (w.read(mask, s[0])?, w.read(mask, s[1])?);
                f(mask, d.write(mask, to), a, b);
            }
            Fun::WWDtoD(f) => {
                let (a, b, c) = (
                    w.read(mask, s[0])?,
                    w.read(mask, s[1])?,
                    d.read(mask, s[2])?,
                );
                f(mask, d.write(mask, to), a, b, c);
            }
        }
        Ok(())
    }

    /// The lanes of `mask` for which a comparison holds.
    #[inline(always)]
    pub fn compare(&self, mask: u32, compare: Compare, a: Reg, b: Reg) -> Result<u32> {
        Ok(match compare {
            Compare::W(f) => f(mask, self.w.read(mask, a)?, self.w.read(mask, b)?),
            Compare::D(f) => f(mask, self.d.read(mask, a)?, self.d.read(mask, b)?),
        })
    }
}

/// What a group of lanes waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    No,
    /// Other lanes of the warp.
    Lanes,
    /// A barrier of the block, at which the whole warp has arrived.
    Barrier,
}

/// Lanes that stand at the same instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub waits: Waits,
}

/// 32 threads, or those of them that the block has.
pub(crate) struct Warp<'a> {
    pub index: usize,
    pub registers: Registers<'a>,
    pub groups: Vec<Group>,
    /// Lanes that exist.
    pub lanes: u32,
    /// Lanes that have not ended.
    pub live: u32,
    entry: &'a Entry,
}

/// Where a block is, for the special registers.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub index: [u32; 3],
    pub dynamic_shared: u32,
}

impl Place {
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

impl<'a> Warp<'a> {
    pub fn new(entry: &'a Entry, index: usize, threads: u32) -> Self {
        let count = (threads - 32 * index as u32).min(32);
        Warp {
            index,
            registers: Registers::new(entry),
            groups: Vec::with_capacity(32),
            lanes: u32::MAX >> (32 - count),
            live: 0,
            entry,
        }
    }

    /// The warp at the start of a block.
    pub fn reset(&mut self, place: &Place, one_by_one: bool) {
        self.registers.reset();
        for (i, preset) in self.entry.w_presets.iter().enumerate() {
            let row = &self.registers.w.rows[self.entry.w_names.len() + i];
            for (lane, value) in row.iter().enumerate() {
                value.set(match preset {
                    Preset::Constant(v) => *v,
                    Preset::Special(special) => self.special(*special, place, lane as u32),
                });
            }
        }
        self.live = self.lanes;
        self.groups.clear();
        self.start(0, self.live, one_by_one);
    }

    /// Lets lanes run from an instruction on, together or each by itself.
    pub fn start(&mut self, pc: u32, mask: u32, one_by_one: bool) {
        let mut push = |mask| {
            self.groups.push(Group {
                pc,
                mask,
                waits: Waits::No,
            });
        };
        if one_by_one {
            lanes(mask).for_each(|lane| push(1 << lane));
        } else if mask != 0 {
            push(mask);
        }
    }

    pub fn thread(&self, lane: u32) -> u32 {
        32 * self.index as u32 + lane
    }

    fn special(&self, special: Special, place: &Place, lane: u32) -> u32 {
        let thread = self.thread(lane);
        let [x, y, _] = place.block;
        let at_least = |mask: u32| if lane == 31 { 0 } else { mask << (lane + 1) };
        match special {
            Special::Tid(0) => thread % x,
            Special::Tid(1) => thread / x % y,
            Special::Tid(_) => thread / (x * y),
            Special::NTid(axis) => place.block[usize::from(axis)],
            Special::CtaId(axis) => place.index[usize::from(axis)],
            Special::NCtaId(axis) => place.grid[usize::from(axis)],
            Special::LaneId => lane,
            Special::WarpId => self.index as u32,
            Special::NWarpId => place.threads().div_ceil(32),
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskLe => !at_least(u32::MAX),
            Special::LaneMaskGt => at_least(u32::MAX),
            Special::LaneMaskGe => u32::MAX << lane,
            Special::DynamicShared => place.dynamic_shared,
            Special::TotalShared => self.entry.shared_bytes(place.dynamic_shared),
        }
    }
}
