//! Random programs of accesses and barriers, judged twice: by the emulator, and by vector clocks that forget nothing.

use ptx_emulator::{Kind, Report};

use crate::common::{Arg, HEADER, all_options, around, kernel_with, name, parse, run, shape};

const WARPS: usize = 3;
const THREADS: usize = 32 * WARPS;
const WORDS: usize = 3;

/// Who takes part in a step.
#[derive(Clone, Copy, Debug)]
enum Who {
    Thread(usize),
    Warp(usize),
    All,
}

impl Who {
    fn threads(self) -> std::ops::Range<usize> {
        match self {
            Who::Thread(t) => t..t + 1,
            Who::Warp(w) => 32 * w..32 * w + 32,
            Who::All => 0..THREADS,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Read(Who, usize),
    Write(usize, usize),
    /// A barrier of the block.
    Block,
    /// A barrier of two warps.
    Pair(usize, usize),
    /// One warp arrives, the other waits.
    Sign(usize, usize),
    Lanes(usize),
}

fn program(random: &mut fastrand::Rng) -> Vec<Step> {
    // Few barriers make races likely, many make them rare: all sorts are wanted.
    let barriers = random.u32(10..70);
    let mut steps: Vec<Step> = (0..WORDS).map(|word| Step::Write(0, word)).collect();
    steps.push(Step::Block);
    let mut signs = 0;
    for _ in 0..random.usize(4..30) {
        let warp = random.usize(0..WARPS);
        let other = (warp + random.usize(1..WARPS)) % WARPS;
        // Few threads, so that they meet their own traces.
        let thread = 32 * warp + random.usize(0..3);
        let word = random.usize(0..WORDS);
        steps.push(if random.u32(0..100) < barriers {
            match random.u32(0..10) {
                0..4 => Step::Block,
                4..6 => Step::Pair(warp, other),
                6..7 if signs < 12 => {
                    signs += 1;
                    Step::Sign(warp, other)
                }
                _ => Step::Lanes(warp),
            }
        } else {
            match random.u32(0..10) {
                0..4 => Step::Write(thread, word),
                4..7 => Step::Read(Who::Thread(thread), word),
                7..9 => Step::Read(Who::Warp(warp), word),
                _ => Step::Read(Who::All, word),
            }
        });
    }
    steps
}

/// Every step on a line of its own.
fn text(steps: &[Step]) -> String {
    let mut body = String::from(".shared .align 4 .b8 room[64];\n    mov.u32 %r1, 7;\n");
    // Barriers 1 to 3 are those of pairs.
    let mut signs = 3;
    for step in steps {
        let guard = |who: Who| match who {
            Who::Thread(t) => format!("setp.eq.u32 %p, %id, {t}; @%p"),
            Who::Warp(w) => format!("setp.eq.u32 %p, %warp, {w}; @%p"),
            Who::All => String::new(),
        };
        body += &match *step {
            Step::Read(who, word) => format!(
                "    {} ld.shared.u32 %r2, [room + {}];\n",
                guard(who),
                4 * word
            ),
            Step::Write(t, word) => {
                format!(
                    "    {} st.shared.u32 [room + {}], %r1;\n",
                    guard(Who::Thread(t)),
                    4 * word
                )
            }
            Step::Block => "    bar.sync 0;\n".into(),
            // A barrier for each pair.
            Step::Pair(a, b) => format!(
                "    {} bar.sync {number}, 64; {} bar.sync {number}, 64;\n",
                guard(Who::Warp(a)),
                guard(Who::Warp(b)),
                number = a + b
            ),
            // One for each time: who arrives does not wait until the last sign was seen.
            Step::Sign(a, b) => {
                signs += 1;
                format!(
                    "    {} bar.arrive {signs}, 64; {} bar.sync {signs}, 64;\n",
                    guard(Who::Warp(a)),
                    guard(Who::Warp(b))
                )
            }
            Step::Lanes(w) => format!("    {} bar.warp.sync -1;\n", guard(Who::Warp(w))),
        };
    }
    kernel_with(HEADER, "", &body)
}

/// What each thread knows of the others: how many of their steps happened before.
struct Clocks(Vec<[u32; THREADS]>);

impl Clocks {
    fn new() -> Self {
        let mut clocks = Clocks(vec![[0; THREADS]; THREADS]);
        (0..THREADS).for_each(|t| clocks.0[t][t] = 1);
        clocks
    }

    /// What any of `from` knows is known to all of `to`; everybody's own time goes on.
    fn tell(&mut self, from: &[usize], to: &[usize]) {
        let mut all = [0; THREADS];
        for &t in from {
            all.iter_mut()
                .zip(&self.0[t])
                .for_each(|(a, b)| *a = (*a).max(*b));
        }
        for &t in to {
            self.0[t]
                .iter_mut()
                .zip(&all)
                .for_each(|(a, b)| *a = (*a).max(*b));
        }
        for &t in from.iter().chain(to) {
            self.0[t][t] += 1;
        }
    }
}

/// Whether two accesses of a word, one of them writing, are not ordered.
fn races(steps: &[Step]) -> bool {
    let mut clocks = Clocks::new();
    // (thread, its time, whether it writes)
    let mut accesses: [Vec<(usize, u32, bool)>; WORDS] = Default::default();
    let mut race = false;
    let members = |who: Who| who.threads().collect::<Vec<_>>();
    for step in steps {
        let (who, word, writes) = match *step {
            Step::Read(who, word) => (who, word, false),
            Step::Write(t, word) => (Who::Thread(t), word, true),
            Step::Block => {
                clocks.tell(&members(Who::All), &members(Who::All));
                continue;
            }
            Step::Pair(a, b) => {
                let both = [members(Who::Warp(a)), members(Who::Warp(b))].concat();
                clocks.tell(&both, &both);
                continue;
            }
            Step::Sign(a, b) => {
                let both = [members(Who::Warp(a)), members(Who::Warp(b))].concat();
                clocks.tell(&both, &members(Who::Warp(b)));
                continue;
            }
            Step::Lanes(w) => {
                clocks.tell(&members(Who::Warp(w)), &members(Who::Warp(w)));
                continue;
            }
        };
        for t in who.threads() {
            race |= accesses[word].iter().any(|&(other, time, wrote)| {
                other != t && (writes || wrote) && time > clocks.0[t][other]
            });
            accesses[word].push((t, clocks.0[t][t], writes));
        }
    }
    race
}

fn judged(steps: &[Step], options: &ptx_emulator::Options) -> Result<(), Report> {
    let module = parse(&text(steps));
    let args = [Arg::zeros(4), Arg::zeros(4)];
    run(
        module.entry("k").expect("the kernel"),
        shape(1, THREADS as u32),
        &args,
        options,
    )
    .map(drop)
}

/// Every race is found, and nothing else, whatever the order of threads.
#[test]
fn races_are_found_exactly() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut with_races = 0;
    let programs = 400;
    for number in 0..programs {
        let steps = program(&mut random);
        let race = races(&steps);
        with_races += usize::from(race);
        for options in all_options(3) {
            let found = judged(&steps, &options);
            let right = match &found {
                Ok(()) => !race,
                Err(report) => race && report.kind == Kind::Race,
            };
            assert!(
                right,
                "program {number}, {}: {}, but there is {} race\n{}",
                name(&options),
                found
                    .as_ref()
                    .map_or_else(Report::to_string, |()| "nothing found".into()),
                if race { "a" } else { "no" },
                around(&text(&steps), 0)
            );
        }
    }
    // The programs are of both sorts.
    assert!(
        (programs / 5..programs * 4 / 5).contains(&with_races),
        "{with_races} of {programs} have a race"
    );
}
