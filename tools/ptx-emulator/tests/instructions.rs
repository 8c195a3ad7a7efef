//! Known answers for every class of instruction: what the PTX ISA says, worked out by hand or in plain Rust, and never
//! by the emulator itself.
//!
//! Scalar instructions are rows of tables: a signature, the instruction, operands and expected results as bits.
//! Everything runs under both schedules and several seeds, and on a GPU, if this machine has one. With `NEARMISS_PTXAS`
//! set, every kernel is assembled too, so that no test rests on a dialect of our own.

mod common;
#[path = "instructions/approximate.rs"]
#[rustfmt::skip] // tables
mod approximate;
#[path = "instructions/atomic.rs"]
mod atomic;
#[path = "instructions/barrier.rs"]
mod barrier;
#[path = "instructions/control.rs"]
mod control;
#[path = "instructions/convert.rs"]
#[rustfmt::skip] // tables
mod convert;
#[path = "instructions/counters.rs"]
mod counters;
#[path = "instructions/float.rs"]
#[rustfmt::skip] // tables
mod float;
#[path = "instructions/half.rs"]
#[rustfmt::skip] // tables
mod half_precision;
#[path = "instructions/integer.rs"]
#[rustfmt::skip] // tables
mod integer;
#[path = "instructions/matrix.rs"]
mod matrix;
#[path = "instructions/memory.rs"]
mod memory;
#[path = "instructions/refusals.rs"]
mod refusals;
#[path = "instructions/select.rs"]
#[rustfmt::skip] // tables
mod select;
#[path = "instructions/warp.rs"]
mod warp;

use std::fmt::Write as _;

use common::hardware::hardware;
use common::{Arg, HEADER, Shape, all_options, assembles, longs, name, run, shape};
use ptx_emulator::Module;

/// Bits of an f32.
const fn f(v: f32) -> u64 {
    v.to_bits() as u64
}

/// Bits of an f64.
const fn d(v: f64) -> u64 {
    v.to_bits()
}

/// Bits of the f16 nearest to `v`.
const fn h(v: f32) -> u64 {
    half::f16::from_f32_const(v).to_bits() as u64
}

/// Bits of two f16, the lower half first.
const fn h2(low: f32, high: f32) -> u64 {
    h(high) << 16 | h(low)
}

/// Bits of an s32.
const fn s(v: i32) -> u64 {
    v as u32 as u64
}

/// Bits of an s16.
const fn s16(v: i16) -> u64 {
    v as u16 as u64
}

/// Bits of an s64.
const fn s64(v: i64) -> u64 {
    v as u64
}

/// 2 to the power of `e`, exact over the range of f64.
fn p2(e: i32) -> f64 {
    2f64.powi(e)
}

const INF: u64 = f(f32::INFINITY);
const NEG_INF: u64 = f(f32::NEG_INFINITY);
/// What f32 arithmetic gives for NaN.
const NAN: u64 = 0x7fff_ffff;
/// Some other NaN.
const NAN_IN: u64 = 0xffc1_2345;
/// Negative zero as f32.
const NEG_ZERO: u64 = 0x8000_0000;
/// The largest finite f32.
const MAX: u64 = f(f32::MAX);
/// The smallest normal f32.
const TINY: u64 = f(f32::MIN_POSITIVE);
/// The smallest subnormal f32.
const SUB: u64 = 1;

/// What an instruction may answer.
#[derive(Clone, Copy)]
enum Want {
    Bits(u64),
    /// An f32 with at most this error.
    Near(f64, f64),
}

struct Case {
    signature: String,
    instruction: String,
    operands: Vec<Vec<u64>>,
    results: Vec<Vec<Want>>,
}

/// Instructions with operands and expected results.
///
/// A signature such as `ww>wp` gives the kinds of the operands `%a %b %c %e` and of the results `%d %q`: `h`, `w`, `x`
/// are 16, 32 and 64 bits, `p` is a predicate (0 or 1). A row holds the operands, then the results.
#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn new() -> Self {
        Table::default()
    }

    /// Adds an instruction.
    fn is<const N: usize>(mut self, signature: &str, instruction: &str, rows: &[[u64; N]]) -> Self {
        let (operands, results) = signature.split_once('>').unwrap();
        assert_eq!(
            operands.len() + results.len(),
            N,
            "{signature}: {instruction}"
        );
        let n = operands.len();
        self.0.push(Case {
            signature: signature.into(),
            instruction: instruction.into(),
            operands: rows.iter().map(|row| row[..n].to_vec()).collect(),
            results: rows
                .iter()
                .map(|row| row[n..].iter().map(|v| Want::Bits(*v)).collect())
                .collect(),
        });
        self
    }

    /// Adds a function of one f32: operand, true value, allowed error.
    fn near(mut self, instruction: &str, rows: &[(f32, f64, f64)]) -> Self {
        self.0.push(Case {
            signature: "w>w".into(),
            instruction: instruction.into(),
            operands: rows.iter().map(|row| vec![f(row.0)]).collect(),
            results: rows
                .iter()
                .map(|row| vec![Want::Near(row.1, row.2)])
                .collect(),
        });
        self
    }

    /// Runs and checks everything, and says all that is wrong.
    fn check(self) {
        let wrong: Vec<String> = self
            .0
            .iter()
            .filter_map(|case| case.check().err())
            .collect();
        assert!(
            wrong.is_empty(),
            "{} of {} instructions:\n{}",
            wrong.len(),
            self.0.len(),
            wrong.join("\n")
        );
        let kernels = self.0.iter().enumerate().map(|(i, case)| case.kernel(i));
        let text = HEADER.to_owned() + &kernels.collect::<String>();
        assembles(&text, "sm_80");
        let Some(hardware) = hardware() else { return };
        let compared = self.0.iter().enumerate().map(|(i, case)| {
            let (at, args) = case.launch();
            let buffers = hardware.run(&text, &format!("case_{i}"), at, &args);
            case.compare(&longs(&buffers[1]), true)
        });
        let wrong: Vec<String> = compared.filter_map(Result::err).collect();
        assert!(
            wrong.is_empty(),
            "on {}, {} wrong:\n{}",
            hardware.name,
            wrong.len(),
            wrong.join("\n")
        );
    }
}

impl Case {
    /// The answers under all options; what is wrong with them.
    fn check(&self) -> Result<(), String> {
        let module =
            Module::parse(&(HEADER.to_owned() + &self.kernel(0))).map_err(|e| e.to_string())?;
        let entry = module.entries().next().expect("the kernel");
        let (at, args) = self.launch();
        for options in all_options(2) {
            let (buffers, _) = run(entry, at, &args, &options)
                .map_err(|report| format!("{}: {report}", name(&options)))?;
            self.compare(&longs(&buffers[1]), false)
                .map_err(|wrong| format!("{wrong} ({})", name(&options)))?;
        }
        Ok(())
    }

    /// A whole warp and, after it, a part of one; rows of operands in, rows of results out.
    fn launch(&self) -> (Shape, [Arg; 3]) {
        let rows = self.operands.len();
        let threads = (rows + 37).max(45);
        let operands = self.operands.iter().flatten().flat_map(|v| v.to_le_bytes());
        let args = [
            Arg::Data(operands.collect()),
            Arg::zeros(8 * self.results[0].len() * threads),
            Arg::U32(rows as u32),
        ];
        (shape(1, threads as u32), args)
    }

    /// The kernel: thread i of the block takes row i modulo the rows.
    fn kernel(&self, index: usize) -> String {
        let mut text = String::new();
        let (operands, results) = self.signature.split_once('>').unwrap();
        let declared = |kind: char| match kind {
            'h' => ".b16",
            'w' => ".b32",
            'x' => ".b64",
            'p' => ".pred",
            _ => panic!("{}: no such kind", self.signature),
        };
        let operands: Vec<(char, &str)> = operands.chars().zip(["%a", "%b", "%c", "%e"]).collect();
        let results: Vec<(char, &str)> = results.chars().zip(["%d", "%q"]).collect();
        writeln!(
            text,
            ".visible .entry case_{index}(.param .u64 p_in, .param .u64 p_out, .param .u32 p_rows)\n{{\n  \
             .reg .b32 %rows, %id, %row, %t;\n  .reg .b64 %in, %out;"
        )
        .unwrap();
        for (kind, register) in operands.iter().chain(&results) {
            writeln!(text, "  .reg {} {register};", declared(*kind)).unwrap();
        }
        write!(
            text,
            "  ld.param.u64 %in, [p_in];\n  ld.param.u64 %out, [p_out];\n  ld.param.u32 %rows, [p_rows];\n  \
             mov.u32 %id, %tid.x;\n  rem.u32 %row, %id, %rows;\n  mad.wide.u32 %in, %row, {}, %in;\n  \
             mad.wide.u32 %out, %id, {}, %out;\n",
            8 * operands.len(),
            8 * results.len()
        )
        .unwrap();
        for (i, (kind, register)) in operands.iter().enumerate() {
            match kind {
                'p' => writeln!(
                    text,
                    "  ld.global.b32 %t, [%in + {}];\n  setp.ne.u32 {register}, %t, 0;",
                    8 * i
                ),
                _ => writeln!(
                    text,
                    "  ld.global{} {register}, [%in + {}];",
                    declared(*kind),
                    8 * i
                ),
            }
            .unwrap();
        }
        writeln!(text, "  {}", self.instruction).unwrap();
        for (i, (kind, register)) in results.iter().enumerate() {
            match kind {
                'p' => writeln!(
                    text,
                    "  selp.b32 %t, 1, 0, {register};\n  st.global.b32 [%out + {}], %t;",
                    8 * i
                ),
                _ => writeln!(
                    text,
                    "  st.global{} [%out + {}], {register};",
                    declared(*kind),
                    8 * i
                ),
            }
            .unwrap();
        }
        text.push_str("  ret;\n}\n");
        text
    }

    /// The first wrong row. Hardware may have other NaNs, and its approximate functions are so even where the emulator's
    /// are exact.
    fn compare(&self, found: &[u64], hardware: bool) -> Result<(), String> {
        let rows = self.operands.len();
        let outputs = self.results[0].len();
        let opcode = self.instruction.split_whitespace().next().unwrap();
        let single = opcode.ends_with(".f32") || opcode.contains(".f32.");
        let approximate = opcode.contains(".approx") || opcode.contains(".full");
        for thread in 0..found.len() / outputs {
            let row = thread % rows;
            for (i, want) in self.results[row].iter().enumerate() {
                let got = found[thread * outputs + i];
                let (right, wanted) = match *want {
                    Want::Bits(bits) => {
                        let (a, b) = (f32::from_bits(got as u32), f32::from_bits(bits as u32));
                        let near = a.is_nan() && b.is_nan()
                            || approximate && (a - b).abs() <= b.abs() * 1e-6;
                        (
                            got == bits || hardware && single && near,
                            format!("{bits:#x}"),
                        )
                    }
                    Want::Near(value, error) => {
                        let got = f64::from(f32::from_bits(got as u32));
                        let right = got == value || (got - value).abs() <= error;
                        (right, format!("{value:e} within {error:e} (found {got:e})"))
                    }
                };
                if !right {
                    let operands: Vec<String> = self.operands[row]
                        .iter()
                        .map(|v| format!("{v:#x}"))
                        .collect();
                    return Err(format!(
                        "`{}` of ({}): result {i} is {got:#x}, wanted {wanted} (thread {thread})",
                        self.instruction,
                        operands.join(", ")
                    ));
                }
            }
        }
        Ok(())
    }
}
