//! The emulator held to itself, to arithmetic, and to a GPU.
//!
//! Kernels that use every kind of instruction run on many irregular and some special values. What they must answer is
//! computed here in plain Rust: bit by bit for integers, moves, conversions, correctly rounded arithmetic and matrix
//! products of small integers; within the documented error for approximate functions and other sums. The emulator is
//! held to that, and so is the first GPU of this machine, if there is one: then what holds here also holds there. Where
//! there is none, the comparison is skipped aloud, or fails if `NEARMISS_REQUIRE` names `hardware`.
//!
//! The program needs no other file: it can be carried to a machine that has a GPU and no Rust.

mod common;
#[path = "self_test/conversions.rs"]
mod conversions;
#[path = "self_test/exact.rs"]
mod exact;
#[path = "self_test/floats.rs"]
mod floats;
#[path = "self_test/integers.rs"]
mod integers;
#[path = "self_test/matrices.rs"]
mod matrices;
#[path = "self_test/warps.rs"]
mod warps;

use common::hardware::hardware;
use common::{Arg, Shape, all_options, assembles, name, parse, run, words};

/// What a word of output must be.
#[derive(Clone, Copy, Debug)]
enum Want {
    Bits(u32),
    /// An f32; any NaN for a NaN, whose payload is not specified.
    Float(f32),
    /// Two f16, likewise.
    Halves(u16, u16),
    /// An f32 with at most this error.
    Near(f64, f64),
    /// Two f16 with at most these errors.
    NearHalves([(f64, f64); 2]),
    /// The upper word of an f64 that is NaN.
    UpperNan,
    Anything,
}

impl Want {
    fn allows(self, found: u32) -> bool {
        let near = |v: f64, (want, error): (f64, f64)| v == want || (v - want).abs() <= error;
        let half = |bits: u32| half::f16::from_bits(bits as u16);
        match self {
            Want::Bits(bits) => found == bits,
            Want::Float(v) if v.is_nan() => f32::from_bits(found).is_nan(),
            Want::Float(v) => found == v.to_bits(),
            Want::Halves(low, high) => {
                [(low, found), (high, found >> 16)]
                    .into_iter()
                    .all(|(want, found)| {
                        let want = half(want.into());
                        if want.is_nan() {
                            half(found).is_nan()
                        } else {
                            half(found).to_bits() == want.to_bits()
                        }
                    })
            }
            Want::Near(value, error) => near(f32::from_bits(found).into(), (value, error)),
            Want::NearHalves([low, high]) => {
                near(half(found).to_f64(), low) && near(half(found >> 16).to_f64(), high)
            }
            Want::UpperNan => found & 0x7ff8_0000 == 0x7ff8_0000,
            Want::Anything => true,
        }
    }

    /// The two words of an f64.
    fn double(v: f64) -> [Want; 2] {
        if v.is_nan() {
            [Want::Anything, Want::UpperNan]
        } else {
            Want::long(v.to_bits())
        }
    }

    fn long(v: u64) -> [Want; 2] {
        [Want::Bits(v as u32), Want::Bits((v >> 32) as u32)]
    }
}

/// A kernel, what it gets and what each word of one of its buffers must be afterwards.
struct SelfTest<'a> {
    text: &'a str,
    entry: &'a str,
    shape: Shape,
    args: Vec<Arg>,
    /// Buffers and their words; `per_item` words each belong to one item, for messages.
    wanted: Vec<(usize, Vec<Want>)>,
    per_item: usize,
}

impl SelfTest<'_> {
    fn check(self) {
        assembles(self.text, "sm_80");
        let module = parse(self.text);
        let entry = module
            .entry(self.entry)
            .unwrap_or_else(|| panic!("no entry {}", self.entry));
        for options in all_options(2) {
            let (buffers, _) = run(entry, self.shape, &self.args, &options)
                .unwrap_or_else(|e| panic!("{}: {e}", name(&options)));
            self.compare(&buffers, &name(&options));
        }
        if let Some(hardware) = hardware() {
            let buffers = hardware.run(self.text, self.entry, self.shape, &self.args);
            self.compare(&buffers, &hardware.name);
        }
    }

    fn compare(&self, buffers: &[Vec<u8>], where_: &str) {
        for (buffer, wanted) in &self.wanted {
            let found = words(&buffers[*buffer]);
            assert_eq!(
                found.len(),
                wanted.len(),
                "{}: words of buffer {buffer}",
                self.entry
            );
            let wrong: Vec<usize> = (0..found.len())
                .filter(|&i| !wanted[i].allows(found[i]))
                .collect();
            let shown: Vec<String> = wrong
                .iter()
                .take(8)
                .map(|&i| {
                    let (item, word) = (i / self.per_item, i % self.per_item);
                    format!(
                        "item {item}, word {word}: {:#x}, wanted {:x?}",
                        found[i], wanted[i]
                    )
                })
                .collect();
            assert!(
                wrong.is_empty(),
                "{} on {where_}: {} of {} words of buffer {buffer} are wrong:\n{}",
                self.entry,
                wrong.len(),
                found.len(),
                shown.join("\n")
            );
        }
    }
}

/// Irregular numbers, the same in every run.
struct Random(u64);

impl Random {
    fn long(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn word(&mut self) -> u32 {
        (self.long() >> 32) as u32
    }

    /// Within [0, 1).
    fn unit(&mut self) -> f64 {
        (self.long() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of several.
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.long() % all.len() as u64) as usize]
    }
}

/// A kernel over `n` items in blocks of 96 threads, more threads than items.
fn over(n: usize) -> Shape {
    common::shape((n as u32).div_ceil(96) + 1, 96)
}
