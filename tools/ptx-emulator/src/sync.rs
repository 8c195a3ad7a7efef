//! What one block knows of others: happens-before through fences, atomics, and release and acquire.
//!
//! Blocks of a kernel that synchronises across blocks run one after the other, in a random order. Whether an access of
//! an earlier block is ordered before one of this block is then a question of what was released and acquired:
//! - a thread that releases (`atom.release`, or a fence and then a strong write) leaves at the address what happened
//!   before it: its own accesses, those that barriers ordered before it, and what it acquired itself;
//! - a thread that acquires (`atom.acquire`, or a strong read and then a fence) takes that over;
//! - at a barrier, all threads of a warp take over what threads of the waiting warps acquired.

use std::collections::HashMap;
use std::rc::Rc;

use crate::code::Order;

/// Which accesses of one block happened before.
#[derive(Clone, Debug, Default)]
struct Bounds {
    /// Per warp: all before this time.
    warps: Vec<u32>,
    /// Of one thread: all before this time.
    threads: HashMap<u32, u32>,
}

/// Which accesses of other blocks happened before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knowledge {
    blocks: HashMap<u32, Bounds>,
}

impl Knowledge {
    fn learn(&mut self, other: &Knowledge) {
        for (block, bounds) in &other.blocks {
            let mine = self.blocks.entry(*block).or_default();
            if mine.warps.len() < bounds.warps.len() {
                mine.warps.resize(bounds.warps.len(), 0);
            }
            for (a, b) in mine.warps.iter_mut().zip(&bounds.warps) {
                *a = (*a).max(*b);
            }
            for (thread, time) in &bounds.threads {
                let known = mine.threads.entry(*thread).or_default();
                *known = (*known).max(*time);
            }
        }
    }

    /// Whether an access of a thread at a time is among them; for a thread of none of the warps, whether it would be,
    /// whichever thread it was.
    fn covers(&self, block: u32, thread: u32, time: u32) -> bool {
        self.blocks.get(&block).is_some_and(|bounds| {
            let by_warp = match bounds.warps.get(thread as usize / 32) {
                Some(&bound) => time < bound,
                None => bounds.warps.iter().all(|&bound| time < bound),
            };
            by_warp
                || bounds
                    .threads
                    .get(&thread)
                    .is_some_and(|&bound| time < bound)
        })
    }
}

/// What a thread did towards synchronising with other blocks.
#[derive(Default)]
struct Thread {
    acquired: Knowledge,
    /// Read strongly, but not followed by a fence yet.
    seen: Knowledge,
    /// What a fence will let the next strong write release.
    fenced: Option<Rc<Knowledge>>,
}

/// The state of a launch whose blocks synchronise.
pub(crate) struct Sync {
    published: HashMap<u64, Rc<Knowledge>>,
    started: Vec<u32>,
    block: u32,
    warps: Vec<Rc<Knowledge>>,
    threads: HashMap<u32, Thread>,
}

impl Sync {
    pub fn new(warps: usize) -> Self {
        Sync {
            published: HashMap::new(),
            started: Vec::new(),
            block: 0,
            warps: vec![Rc::default(); warps],
            threads: HashMap::new(),
        }
    }

    pub fn start_block(&mut self, block: u32) {
        self.block = block;
        self.started.push(block);
        self.warps.fill(Rc::default());
        self.threads.clear();
    }

    /// Whether an access of another block is ordered before what `thread` does now.
    pub fn knows(&self, thread: u32, block: u32, other: u32, time: u32) -> bool {
        let warp = self.warps.get(thread as usize / 32);
        warp.is_some_and(|known| known.covers(block, other, time))
            || self
                .threads
                .get(&thread)
                .is_some_and(|t| t.acquired.covers(block, other, time))
    }

    /// Whether every other block that ever ran has released something that `thread` acquired.
    pub fn knows_all(&self, thread: u32) -> bool {
        let acquired = self.threads.get(&thread).map(|t| &t.acquired);
        self.started.iter().all(|block| {
            *block == self.block
                || self.warps[thread as usize / 32].blocks.contains_key(block)
                || acquired.is_some_and(|k| k.blocks.contains_key(block))
        })
    }

    /// All that is ordered before what `thread` does at time `now`. Accesses of its warp that other lanes made since
    /// the last barrier are not.
    fn before(&self, thread: u32, now: u32, bounds: &[u32]) -> Knowledge {
        let mut all = (*self.warps[thread as usize / 32]).clone();
        if let Some(t) = self.threads.get(&thread) {
            all.learn(&t.acquired);
        }
        let own = all.blocks.entry(self.block).or_default();
        own.warps = bounds.to_vec();
        own.threads.insert(thread, now + 1);
        all
    }

    /// A fence.
    pub fn fence(&mut self, thread: u32, now: u32, bounds: &[u32]) {
        let t = self.threads.entry(thread).or_default();
        let seen = std::mem::take(&mut t.seen);
        t.acquired.learn(&seen);
        let before = Rc::new(self.before(thread, now, bounds));
        self.threads.entry(thread).or_default().fenced = Some(before);
    }

    /// A strong read.
    pub fn read(&mut self, thread: u32, address: u64, order: Order) {
        let Some(published) = self.published.get(&address) else {
            return;
        };
        let t = self.threads.entry(thread).or_default();
        if order.acquire {
            t.acquired.learn(published);
        } else {
            t.seen.learn(published);
        }
    }

    /// A strong write; `continues`: a read-modify-write, which passes on what was released there before.
    pub fn write(
        &mut self,
        thread: u32,
        address: u64,
        order: Order,
        continues: bool,
        now: u32,
        bounds: &[u32],
    ) {
        let released = if order.release {
            Some(Rc::new(self.before(thread, now, bounds)))
        } else {
            self.threads.get(&thread).and_then(|t| t.fenced.clone())
        };
        match (released, self.published.remove(&address)) {
            (Some(new), Some(old)) if continues => {
                let mut both = Rc::unwrap_or_clone(old);
                both.learn(&new);
                self.published.insert(address, Rc::new(both));
            }
            (Some(new), _) => {
                self.published.insert(address, new);
            }
            (None, Some(old)) if continues => {
                self.published.insert(address, old);
            }
            (None, _) => {}
        }
    }

    /// What the threads of a warp bring to a barrier.
    pub fn arrive(&mut self, warp: usize) -> Rc<Knowledge> {
        let lanes = 32 * warp as u32..32 * warp as u32 + 32;
        let news: Vec<_> = lanes
            .filter_map(|thread| self.threads.get(&thread))
            .filter(|t| !t.acquired.blocks.is_empty())
            .collect();
        if !news.is_empty() {
            let mut all = (*self.warps[warp]).clone();
            news.iter().for_each(|t| all.learn(&t.acquired));
            self.warps[warp] = Rc::new(all);
        }
        self.warps[warp].clone()
    }

    /// What the warp takes with it from a barrier at which others brought `brought`.
    pub fn leave(&mut self, warp: usize, brought: &[Rc<Knowledge>]) {
        for knowledge in brought {
            if !knowledge.blocks.is_empty() && !Rc::ptr_eq(knowledge, &self.warps[warp]) {
                Rc::make_mut(&mut self.warps[warp]).learn(knowledge);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAXED: Order = Order {
        acquire: false,
        release: false,
        strong: true,
        wide: true,
    };

    /// Block 0 writes at time 5 and raises a flag at address 64; block 1 reads the flag.
    #[test]
    fn fences_on_both_sides_are_needed() {
        for (released, acquired) in [(true, true), (true, false), (false, true)] {
            let mut sync = Sync::new(2);
            sync.start_block(0);
            if released {
                sync.fence(3, 5, &[4, 0]);
            }
            sync.write(3, 64, RELAXED, true, 6, &[4, 0]);
            sync.start_block(1);
            sync.read(33, 64, RELAXED);
            if acquired {
                sync.fence(33, 1, &[0, 0]);
            }
            let both = released && acquired;
            assert_eq!(sync.knows(33, 0, 3, 5), both); // the thread's own access
            assert_eq!(sync.knows(33, 0, 4, 3), both); // one that a barrier ordered before
            assert!(!sync.knows(33, 0, 4, 5)); // another lane's, since the barrier
            assert!(!sync.knows(33, 0, 3, 6)); // after the fence
            assert!(!sync.knows(0, 0, 3, 5)); // another thread of the block
            assert_eq!(sync.knows_all(33), both);
            let brought = sync.arrive(1);
            sync.leave(0, &[brought]);
            assert_eq!(sync.knows(0, 0, 3, 5), both); // that waited for it
        }
    }

    #[test]
    fn read_modify_writes_pass_on_what_was_released() {
        let order = Order {
            acquire: true,
            release: true,
            ..RELAXED
        };
        let mut sync = Sync::new(1);
        for block in 0..3 {
            sync.start_block(block);
            sync.read(0, 64, order);
            sync.write(0, 64, order, true, 1, &[0]);
        }
        assert!(sync.knows(0, 0, 0, 1) && sync.knows(0, 1, 0, 1) && sync.knows_all(0));
        sync.write(0, 64, RELAXED, false, 1, &[0]); // a plain store ends the sequence
        sync.start_block(3);
        sync.read(0, 64, order);
        assert!(!sync.knows_all(0));
    }
}
