//! The scheduler of one block: which lanes run next, who waits for whom, and what ends it.

use std::rc::Rc;

use fastrand::Rng;

use crate::code::*;
use crate::collective::collective;
use crate::execute::State;
use crate::launch::Context;
use crate::report::{Kind, Report};
use crate::sync::Knowledge;
use crate::warp::{Fault, Group, Waits, Warp, fault, lanes};

/// Instructions after which other lanes get their turn: enough not to matter for speed, and lanes that wait for others
/// in a loop do not keep these from running.
const TURN: u32 = 1 << 14;

/// A barrier of the block.
#[derive(Default)]
struct Barrier {
    /// Threads that have arrived, whole warps at a time.
    arrived: u32,
    /// How many must; `None`: all that live.
    expected: Option<u32>,
    /// Warps that wait; others only arrived.
    waiting: Vec<usize>,
    /// What arrived with them; see `State::bounds`.
    bounds: Vec<u32>,
    brought: Vec<Rc<Knowledge>>,
}

/// Executes blocks one after the other.
pub(crate) struct Block<'a> {
    pub state: State<'a>,
    warps: Vec<Warp<'a>>,
    barriers: [Barrier; 16],
    /// Instructions left before the block counts as endless.
    left: u64,
    random: Rng,
    /// The lane to be traced, in this block.
    traced: Option<(usize, usize)>,
}

/// A fault and the instruction it belongs to.
type Stop = (u32, Box<Fault>);

impl<'a> Block<'a> {
    pub fn new(context: &'a Context<'a>) -> Self {
        let threads = context.place.threads();
        Block {
            state: State::new(context),
            warps: (0..threads.div_ceil(32) as usize)
                .map(|i| Warp::new(context.entry, i, threads))
                .collect(),
            barriers: Default::default(),
            left: 0,
            random: Rng::with_seed(0),
            traced: None,
        }
    }

    /// Runs a block from start to end.
    pub fn run(&mut self, block: u32) -> Result<(), Box<Report>> {
        let context = self.state.context;
        let index = context.index_of(block).expect("a block of the grid");
        self.state.reset(block, index);
        for warp in &mut self.warps {
            warp.reset(&self.state.place, context.one_by_one);
        }
        self.barriers = Default::default();
        self.left = context.options.limit;
        self.random
            .seed(context.options.seed ^ u64::from(block).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.traced = context
            .options
            .trace
            .as_ref()
            .filter(|t| t.entry == context.entry.name && t.block == index)
            .map(|t| (t.thread as usize / 32, t.thread as usize % 32));
        self.schedule().map_err(|(w, (pc, fault))| {
            let thread = fault.lane.map(|lane| self.warps[w].thread(lane));
            Box::new(context.report(*fault, pc, index, thread))
        })
    }

    fn schedule(&mut self) -> Result<(), (usize, Stop)> {
        let one_by_one = self.state.context.one_by_one;
        loop {
            // Everything that can run, in a random order: warps in lock step, else lanes.
            let mut ready: Vec<(usize, u32)> = Vec::new();
            for (w, warp) in self.warps.iter().enumerate() {
                let running = warp.groups.iter().filter(|g| g.waits == Waits::No);
                if one_by_one {
                    ready.extend(running.map(|g| (w, g.mask)));
                } else if running.count() > 0 {
                    ready.push((w, u32::MAX));
                }
            }
            if ready.is_empty() {
                return match self.warps.iter().position(|w| w.live != 0) {
                    None => Ok(()),
                    Some(w) => Err((w, self.deadlock(w))),
                };
            }
            self.random.shuffle(&mut ready);
            for (w, mask) in ready {
                if one_by_one {
                    self.turn_of_lane(w, mask).map_err(|stop| (w, stop))?;
                } else {
                    self.turn_of_warp(w).map_err(|stop| (w, stop))?;
                }
            }
        }
    }

    /// One lane runs until it has to wait.
    fn turn_of_lane(&mut self, w: usize, mask: u32) -> Result<(), Stop> {
        let is = |g: &Group| g.mask == mask && g.waits == Waits::No;
        match self.warps[w].groups.iter().position(is) {
            Some(g) => self.run_group(w, g, u32::MAX),
            // It met others since.
            None => Ok(()),
        }
    }

    /// The lanes of a warp run, those behind first, until they all wait.
    fn turn_of_warp(&mut self, w: usize) -> Result<(), Stop> {
        let end = self.left.saturating_sub(TURN.into());
        while self.left > end {
            let groups = &mut self.warps[w].groups;
            let Some(least) = groups
                .iter()
                .filter(|g| g.waits == Waits::No)
                .map(|g| g.pc)
                .min()
            else {
                return Ok(());
            };
            // Lanes that have met go on together.
            let mut met = 0;
            let mut next = u32::MAX;
            groups.retain(|g| {
                let here = g.waits == Waits::No && g.pc == least;
                if here {
                    met |= g.mask;
                } else if g.waits == Waits::No {
                    next = next.min(g.pc);
                }
                !here
            });
            groups.push(Group {
                pc: least,
                mask: met,
                waits: Waits::No,
            });
            let g = groups.len() - 1;
            self.run_group(w, g, next)?;
        }
        Ok(())
    }

    /// Runs a group until it waits, splits, ends, or comes to `limit`, where others of the warp are.
    fn run_group(&mut self, w: usize, g: usize, limit: u32) -> Result<(), Stop> {
        let context = self.state.context;
        let code = &context.entry.code;
        let warp = &mut self.warps[w];
        let Group {
            mut pc, mut mask, ..
        } = warp.groups[g];
        let mut issued = 0u32;
        let mut lanes_issued = 0u64;
        let mut exited = false;
        let outcome = loop {
            let instruction = &code[pc as usize];
            issued += 1;
            let active = match instruction.guard {
                None => mask,
                Some(guard) => match warp.registers.holds(mask, guard) {
                    Ok(active) => active,
                    Err(fault) => break Err((pc, fault)),
                },
            };
            lanes_issued += u64::from(active.count_ones());
            match &instruction.op {
                Op::Branch { target } => {
                    if active == mask {
                        pc = *target;
                    } else {
                        pc += 1;
                        if active != 0 {
                            warp.groups.push(Group {
                                pc: *target,
                                mask: active,
                                waits: Waits::No,
                            });
                            mask &= !active;
                            break Ok(());
                        }
                    }
                }
                Op::Exit => {
                    if active != 0 {
                        warp.live &= !active;
                        mask &= !active;
                        pc += 1;
                        exited = true;
                        break Ok(());
                    }
                    pc += 1;
                }
                Op::Collective(c) => {
                    if active != mask {
                        // The others pass by.
                        warp.groups.push(Group {
                            pc: pc + 1,
                            mask: mask & !active,
                            waits: Waits::No,
                        });
                        mask = active;
                        if mask == 0 {
                            break Ok(());
                        }
                    }
                    // The whole warp at once: nothing to wait for.
                    let whole = mask == u32::MAX && !matches!(c, Collective::Barrier { .. });
                    let all = match c.members() {
                        _ if !whole => false,
                        None => true,
                        Some(members) => match warp.registers.w.read(mask, members) {
                            Ok(row) => row.iter().all(|m| m.get() == u32::MAX),
                            Err(fault) => break Err((pc, fault)),
                        },
                    };
                    if !all {
                        warp.groups[g] = Group {
                            pc,
                            mask,
                            waits: Waits::Lanes,
                        };
                        self.spend(issued, lanes_issued).map_err(|f| (pc, f))?;
                        return self.meet(w, g);
                    }
                    if let Err(fault) = collective(&mut self.state, warp, mask, c, pc) {
                        break Err((pc, fault));
                    }
                    if let Some((_, lane)) = self.traced.filter(|t| t.0 == w) {
                        trace(context, warp, lane, pc);
                    }
                    pc += 1;
                }
                op => {
                    if active != 0
                        && let Err(fault) = self.state.execute(warp, active, op, pc)
                    {
                        break Err((pc, fault));
                    }
                    if let Some((_, lane)) = self.traced
                        && self.traced.is_some_and(|t| t.0 == w)
                        && active >> lane & 1 == 1
                    {
                        trace(context, warp, lane, pc);
                    }
                    pc += 1;
                }
            }
            if pc >= limit || issued >= TURN {
                break Ok(());
            }
        };
        warp.groups[g] = Group {
            pc,
            mask,
            waits: Waits::No,
        };
        if mask == 0 {
            warp.groups.swap_remove(g);
        }
        self.spend(issued, lanes_issued)
            .map_err(|fault| (pc, fault))?;
        outcome?;
        if exited {
            self.after_exit(w)?;
        }
        Ok(())
    }

    /// Counts instructions, and ends what never ends.
    fn spend(&mut self, issued: u32, lanes_issued: u64) -> Result<(), Box<Fault>> {
        self.state.counters.warp_instructions += u64::from(issued);
        self.state.counters.instructions += lanes_issued;
        match self.left.checked_sub(issued.into()) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => fault(
                Kind::Endless,
                None,
                format!(
                    "the block has executed {} instructions and goes on; see PTX_EMULATOR_LIMIT",
                    self.state.context.options.limit
                ),
            ),
        }
    }

    /// A group has come to a collective: it joins those that wait there, and if all that it names are there, they execute
    /// it.
    fn meet(&mut self, w: usize, g: usize) -> Result<(), Stop> {
        let context = self.state.context;
        let Group { pc, mask, .. } = self.warps[w].groups[g];
        let Op::Collective(c) = &context.entry.code[pc as usize].op else {
            unreachable!("only collectives wait for lanes");
        };
        if let Collective::Barrier { .. } = c {
            return self.meet_block(w, pc).map_err(|fault| (pc, fault));
        }
        let warp = &mut self.warps[w];
        warp.groups.swap_remove(g);
        let waiting = |g: &Group| g.waits == Waits::Lanes && g.pc == pc;
        let mut here = mask;
        if let Some(i) = warp.groups.iter().position(waiting) {
            here |= warp.groups.swap_remove(i).mask;
        }
        // Lanes that name the same members belong together.
        let mut arrived = mask;
        while let Some(lane) = lanes(arrived).next() {
            let row = match c.members() {
                None => None,
                Some(members) => Some(warp.registers.w.read(here, members).map_err(|f| (pc, f))?),
            };
            let named = row.map_or(u32::MAX, |row| row[lane].get());
            if let Some(fault) = unmet(warp, c, lane as u32, named) {
                return Err((pc, fault));
            }
            let mates = match row {
                // The usual case while lanes come one after the other.
                _ if named & !here != 0
                    && arrived == 1 << lane
                    && !matches!(c, Collective::WarpBarrier { .. }) =>
                {
                    1 << lane
                }
                None => here,
                Some(row) => lanes(here)
                    .filter(|&l| row[l].get() == named)
                    .fold(0, |m, l| m | 1 << l),
            };
            arrived &= !mates;
            if mates == named {
                here &= !mates;
                collective(&mut self.state, warp, mates, c, pc).map_err(|fault| (pc, fault))?;
                if let Some((_, lane)) = self.traced.filter(|t| t.0 == w && mates >> t.1 & 1 == 1) {
                    trace(context, warp, lane, pc);
                }
                warp.start(pc + 1, mates, context.one_by_one);
            } else if let Collective::WarpBarrier { .. } = c
                && Self::meet_elsewhere(warp, context, mates, named)
            {
                here &= !mates;
                self.state.warp_barrier(w);
                warp.start(pc + 1, mates, context.one_by_one);
            }
        }
        if here != 0 {
            warp.groups.push(Group {
                pc,
                mask: here,
                waits: Waits::Lanes,
            });
        }
        Ok(())
    }

    /// Lanes of a warp may come to `bar.warp.sync` at different instructions: if the missing ones wait at others, they go
    /// on.
    fn meet_elsewhere(warp: &mut Warp<'a>, context: &Context<'a>, mates: u32, named: u32) -> bool {
        let there = |g: &Group| {
            g.waits == Waits::Lanes
                && matches!(
                    context.entry.code[g.pc as usize].op,
                    Op::Collective(Collective::WarpBarrier { .. })
                )
        };
        let elsewhere = warp
            .groups
            .iter()
            .filter(|g| there(g))
            .fold(0, |m, g| m | g.mask);
        if mates | elsewhere & named != named {
            return false;
        }
        let others: Vec<Group> = warp.groups.extract_if(.., |g| there(g)).collect();
        for g in others {
            warp.start(g.pc + 1, g.mask & named, context.one_by_one);
            if g.mask & !named != 0 {
                warp.groups.push(Group {
                    mask: g.mask & !named,
                    ..g
                });
            }
        }
        true
    }

    /// Lanes have come to a barrier of the block, which counts whole warps.
    fn meet_block(&mut self, w: usize, pc: u32) -> Result<(), Box<Fault>> {
        let context = self.state.context;
        let Op::Collective(Collective::Barrier {
            id,
            threads,
            arrive,
        }) = context.entry.code[pc as usize].op
        else {
            unreachable!("called for barriers");
        };
        let warp = &mut self.warps[w];
        let here = |g: &Group| g.waits == Waits::Lanes && g.pc == pc;
        let mask = warp
            .groups
            .iter()
            .filter(|g| here(g))
            .fold(0, |m, g| m | g.mask);
        warp.groups.retain(|g| !here(g));
        let group = |waits| Group { pc, mask, waits };
        if mask != warp.live {
            warp.groups.push(group(Waits::Lanes));
            return Ok(());
        }
        let lane = mask.trailing_zeros();
        let uniform = |reg: Reg| -> Result<u32, Box<Fault>> {
            let row = warp.registers.w.read(mask, reg)?;
            let value = row[lane as usize].get();
            if lanes(mask).any(|l| row[l].get() != value) {
                return fault(
                    Kind::Undefined,
                    lane,
                    "the lanes of the warp name different barriers".into(),
                );
            }
            Ok(value)
        };
        let id = uniform(id)? as usize;
        let threads = threads.map(uniform).transpose()?;
        if id >= 16 {
            return fault(
                Kind::Undefined,
                lane,
                format!("there are barriers 0 to 15, and none {id}"),
            );
        }
        if let Some(n) = threads
            && (n == 0 || n % 32 != 0)
        {
            return fault(
                Kind::Undefined,
                lane,
                format!("{n} threads are no multiple of the warp size, 32"),
            );
        }
        let barrier = &mut self.barriers[id];
        if barrier.arrived > 0 && barrier.expected != threads {
            return fault(
                Kind::Undefined,
                lane,
                format!("barrier {id} is in use with another number of threads"),
            );
        }
        barrier.expected = threads;
        barrier.arrived += 32;
        // What happened before, for those that wait.
        let state = &mut self.state;
        let now = state.tick(w);
        state.bounds[w][w] = now;
        barrier.bounds.resize(state.bounds[w].len(), 0);
        for (all, mine) in barrier.bounds.iter_mut().zip(&state.bounds[w]) {
            *all = (*all).max(*mine);
        }
        if let Some(sync) = &mut state.sync {
            barrier.brought.push(sync.arrive(w));
        }
        if arrive {
            warp.start(pc + 1, mask, context.one_by_one);
        } else {
            barrier.waiting.push(w);
            warp.groups.push(group(Waits::Barrier));
        }
        self.complete(id)
    }

    /// Lets go those who wait at a barrier, if all have come.
    fn complete(&mut self, id: usize) -> Result<(), Box<Fault>> {
        let alive = 32 * self.warps.iter().filter(|w| w.live != 0).count() as u32;
        let barrier = &mut self.barriers[id];
        let expected = barrier.expected.unwrap_or(alive);
        if barrier.arrived == 0 || barrier.arrived < expected {
            return Ok(());
        }
        let Barrier {
            waiting,
            mut bounds,
            brought,
            ..
        } = std::mem::take(barrier);
        // Who waited has done nothing since it arrived: all it did lies before now, whatever others did meanwhile.
        self.state.clock += 1;
        for &w in &waiting {
            self.state.now[w] = self.state.clock;
            bounds[w] = self.state.clock;
        }
        for w in waiting {
            let state = &mut self.state;
            for (mine, all) in state.bounds[w].iter_mut().zip(&bounds) {
                *mine = (*mine).max(*all);
            }
            state.recompute_below(w);
            if let Some(sync) = &mut state.sync {
                sync.leave(w, &brought);
            }
            let warp = &mut self.warps[w];
            let groups: Vec<Group> = warp
                .groups
                .extract_if(.., |g| g.waits == Waits::Barrier)
                .collect();
            for group in groups {
                warp.start(group.pc + 1, group.mask, self.state.context.one_by_one);
            }
        }
        Ok(())
    }

    /// Lanes have ended: barriers may be complete without them, and what takes all lanes never will be.
    fn after_exit(&mut self, w: usize) -> Result<(), Stop> {
        let waiting = |g: &&Group| g.waits == Waits::Lanes;
        let groups: Vec<Group> = self.warps[w]
            .groups
            .iter()
            .filter(waiting)
            .copied()
            .collect();
        for Group { pc, mask, .. } in groups {
            match &self.state.context.entry.code[pc as usize].op {
                Op::Collective(Collective::Barrier { .. }) => {
                    self.meet_block(w, pc).map_err(|fault| (pc, fault))?;
                }
                Op::Collective(c) if c.members().is_none() => {
                    let lane = mask.trailing_zeros();
                    if let Some(fault) = unmet(&self.warps[w], c, lane, u32::MAX) {
                        return Err((pc, fault));
                    }
                }
                _ => {}
            }
        }
        if self.warps[w].live == 0 {
            for id in 0..16 {
                self.complete(id).map_err(|fault| (0, fault))?;
            }
        }
        Ok(())
    }

    /// Everybody waits.
    fn deadlock(&self, w: usize) -> Stop {
        let context = self.state.context;
        let mut places: Vec<(u32, Vec<u32>)> = Vec::new();
        let mut ended = Vec::new();
        for warp in &self.warps {
            for lane in lanes(warp.lanes & !warp.live) {
                ended.push(warp.thread(lane as u32));
            }
            for group in &warp.groups {
                let threads = lanes(group.mask).map(|lane| warp.thread(lane as u32));
                match places.iter_mut().find(|(pc, _)| *pc == group.pc) {
                    Some((_, all)) => all.extend(threads),
                    None => places.push((group.pc, threads.collect())),
                }
            }
        }
        places.sort();
        let mut parts: Vec<String> = places
            .iter_mut()
            .map(|(pc, threads)| {
                format!("{} wait in {}", ranges(threads), context.instruction(*pc))
            })
            .collect();
        if !ended.is_empty() {
            parts.push(format!("{} have ended", ranges(&mut ended)));
        }
        let first = self.warps[w].groups.first();
        let pc = first.map_or(0, |g| g.pc);
        (
            pc,
            Box::new(Fault {
                kind: Kind::Deadlock,
                lane: first.map(|g| g.mask.trailing_zeros()),
                detail: format!("nobody can go on: {}", parts.join("; ")),
            }),
        )
    }
}

/// Why the lanes that a lane names at a collective can never meet.
fn unmet(warp: &Warp<'_>, c: &Collective, lane: u32, named: u32) -> Option<Box<Fault>> {
    let detail = if named >> lane & 1 == 0 {
        format!("the lane is not among the members it names, {named:#x}")
    } else if c.members().is_none() && warp.live != u32::MAX {
        let gone = !warp.live;
        format!("takes all 32 lanes of the warp, of which {gone:#x} have ended or do not exist")
    } else {
        return None;
    };
    Some(Box::new(Fault {
        kind: Kind::Undefined,
        lane: Some(lane),
        detail,
    }))
}

/// Threads as `threads 0-31, 64`.
fn ranges(threads: &mut [u32]) -> String {
    threads.sort_unstable();
    let parts: Vec<String> = threads
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => String::new(),
        })
        .collect();
    format!("threads {}", parts.join(", "))
}

/// Prints what a lane has just executed, and the values of the registers it wrote.
fn trace(context: &Context<'_>, warp: &Warp<'_>, lane: usize, pc: u32) {
    let entry = context.entry;
    let r = &warp.registers;
    let values: Vec<String> = entry.code[pc as usize]
        .op
        .results()
        .into_iter()
        .map(|result| match result {
            Written::Register(any) => match r.traced(lane, any) {
                Some(v) => format!("{} = {}", entry.name_of(any), shown(any, v)),
                None => format!("{} not written", entry.name_of(any)),
            },
            Written::Predicate(p) => {
                let value = r.predicate(lane, p);
                let name = &entry.p_names[usize::from(p)];
                format!("{name} = {}", value.map_or("?".into(), |v| v.to_string()))
            }
        })
        .collect();
    eprintln!(
        "{}:{}: {}{}{}",
        entry.name,
        entry.code[pc as usize].line,
        entry.texts[pc as usize],
        if values.is_empty() { "" } else { "  // " },
        values.join(", ")
    );
}

/// A register as an integer and as a float.
fn shown(any: Any, v: u64) -> String {
    match any {
        Any::W(_) => format!(
            "{v:#x} ({}, {:e})",
            v as u32 as i32,
            f32::from_bits(v as u32)
        ),
        Any::D(_) => format!("{v:#x} ({})", v as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_in_ranges() {
        assert_eq!(ranges(&mut [3, 1, 2, 7, 9, 10]), "threads 1-3, 7, 9-10");
    }
}
