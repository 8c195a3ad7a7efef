//! How fast kernels are executed, with all checks: `cargo bench -p ptx-emulator`.
//!
//! A loop of arithmetic, a sum of vectors, an exchange through shared memory with barriers, and the product kernel of this repository
//! (`kernels/matmul.ptx`: asynchronous copies, `ldmatrix`, `mma`), each in lock step and one thread after the other, on
//! one core and on all. Rates are thread-instructions per second: an instruction that 32 lanes execute counts 32 times.
//! Every run's results are compared with plain Rust. `--test` runs everything once, on less; so does `cargo test`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use half::f16;
use ptx_emulator::{Counters, Launch, Memory, Module, Options, Schedule, launch};

/// Multiplies and adds, integers and floats, in registers only.
const ARITHMETIC: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry arithmetic(.param .u64 p_out, .param .u32 p_rounds)
{
    .reg .pred %p;
    .reg .b32 %i, %n, %t, %x, %y;
    .reg .f32 %f, %g;
    .reg .b64 %out;
    ld.param.u64 %out, [p_out];
    ld.param.u32 %n, [p_rounds];
    mov.u32 %i, %ctaid.x;
    mov.u32 %t, %ntid.x;
    mov.u32 %x, %tid.x;
    mad.lo.u32 %i, %i, %t, %x;
    mad.wide.u32 %out, %i, 8, %out;
    mov.u32 %x, %i;
    mov.f32 %f, 0f3F800000;
ROUND:
    mad.lo.u32 %x, %x, 1664525, 1013904223;
    shr.u32 %y, %x, 8;
    xor.b32 %x, %x, %y;
    and.b32 %y, %x, 0xffff;
    cvt.rn.f32.u32 %g, %y;
    fma.rn.f32 %f, %f, 0f3F000000, %g;   // halved, and the next one added
    sub.u32 %n, %n, 1;
    setp.ne.u32 %p, %n, 0;
    @%p bra ROUND;
    st.global.u32 [%out], %x;
    st.global.f32 [%out + 4], %f;
    ret;
}
";

/// The sum of two vectors, an element per thread.
const SUM: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry sum(.param .u64 p_a, .param .u64 p_b, .param .u64 p_out)
{
    .reg .b32 %i, %n, %t;
    .reg .f32 %f, %g;
    .reg .b64 %a, %b, %out;
    ld.param.u64 %a, [p_a];
    ld.param.u64 %b, [p_b];
    ld.param.u64 %out, [p_out];
    mov.u32 %i, %ctaid.x;
    mov.u32 %n, %ntid.x;
    mov.u32 %t, %tid.x;
    mad.lo.u32 %i, %i, %n, %t;
    mad.wide.u32 %a, %i, 4, %a;
    mad.wide.u32 %b, %i, 4, %b;
    mad.wide.u32 %out, %i, 4, %out;
    ld.global.f32 %f, [%a];
    ld.global.f32 %g, [%b];
    add.rn.f32 %f, %f, %g;
    st.global.f32 [%out], %f;
    ret;
}
";

/// Threads hand words around a ring in shared memory, in two buffers with a barrier per round.
const EXCHANGE: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry exchange(.param .u64 p_out, .param .u32 p_rounds)
{
    .reg .pred %p;
    .reg .b32 %i, %n, %t, %x, %mine, %theirs, %at, %slot;
    .reg .b64 %out;
    .shared .align 4 .b8 room[2048];
    ld.param.u64 %out, [p_out];
    ld.param.u32 %n, [p_rounds];
    mov.u32 %t, %tid.x;
    mov.u32 %i, %ctaid.x;
    mad.lo.u32 %i, %i, 256, %t;
    mad.wide.u32 %out, %i, 4, %out;
    mov.u32 %x, room;
    mad.lo.u32 %mine, %t, 4, %x;
    add.u32 %t, %t, 37;
    and.b32 %t, %t, 255;
    mad.lo.u32 %theirs, %t, 4, %x;
    mov.u32 %x, %i;
    mov.u32 %slot, 0;
ROUND:
    add.u32 %at, %mine, %slot;
    st.shared.u32 [%at], %x;
    bar.sync 0;
    add.u32 %at, %theirs, %slot;
    ld.shared.u32 %x, [%at];
    add.u32 %x, %x, 1;
    xor.b32 %slot, %slot, 1024;
    sub.u32 %n, %n, 1;
    setp.ne.u32 %p, %n, 0;
    @%p bra ROUND;
    st.global.u32 [%out], %x;
    ret;
}
";

/// A kernel, ready to run.
struct Bench {
    name: &'static str,
    module: Module,
    memory: Memory,
    grid: u32,
    block: u32,
    shared: u32,
    parameters: Vec<u8>,
    /// What must be in memory afterwards.
    check: Box<dyn Fn(&Memory)>,
}

fn parameters(values: &[&[u8]]) -> Vec<u8> {
    let mut all: Vec<u8> = Vec::new();
    for value in values {
        all.resize(all.len().next_multiple_of(value.len()), 0);
        all.extend(*value);
    }
    all
}

fn read_words(memory: &Memory, address: u64, n: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * n];
    memory
        .read(address, &mut bytes)
        .expect("the buffer is that long");
    bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
        .collect()
}

fn arithmetic(blocks: u32, rounds: u32) -> Bench {
    let memory = Memory::new(1 << 24);
    let n = 256 * blocks as usize;
    let out = memory.alloc(8 * n as u64).expect("memory");
    Bench {
        name: "arithmetic",
        module: Module::parse(ARITHMETIC).expect("PTX"),
        grid: blocks,
        block: 256,
        shared: 0,
        parameters: parameters(&[&out.to_le_bytes(), &rounds.to_le_bytes()]),
        check: Box::new(move |memory| {
            let found = read_words(memory, out, 2 * n);
            for i in (0..n).step_by(97) {
                let (mut x, mut f) = (i as u32, 1f32);
                for _ in 0..rounds {
                    x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    x ^= x >> 8;
                    f = f.mul_add(0.5, (x & 0xffff) as f32);
                }
                assert_eq!(found[2 * i..2 * i + 2], [x, f.to_bits()], "thread {i}");
            }
        }),
        memory,
    }
}

fn sum(blocks: u32) -> Bench {
    let memory = Memory::new(1 << 28);
    let n = 256 * blocks as usize;
    let vector = |step: f32| {
        let bytes: Vec<u8> = (0..n)
            .flat_map(|i| (step * i as f32).to_le_bytes())
            .collect();
        let address = memory.alloc(bytes.len() as u64).expect("memory");
        let written = memory.write(address, &bytes);
        written.expect("the buffer is that long");
        address
    };
    let (a, b) = (vector(0.5), vector(3.0));
    let out = memory.alloc(4 * n as u64).expect("memory");
    Bench {
        name: "sum",
        module: Module::parse(SUM).expect("PTX"),
        grid: blocks,
        block: 256,
        shared: 0,
        parameters: parameters(&[&a.to_le_bytes(), &b.to_le_bytes(), &out.to_le_bytes()]),
        check: Box::new(move |memory| {
            let of = |i: usize| (0.5 * i as f32 + 3.0 * i as f32).to_bits();
            assert_eq!(
                read_words(memory, out, n),
                (0..n).map(of).collect::<Vec<_>>()
            );
        }),
        memory,
    }
}

fn exchange(blocks: u32, rounds: u32) -> Bench {
    let memory = Memory::new(1 << 24);
    let n = 256 * blocks;
    let out = memory.alloc(4 * u64::from(n)).expect("memory");
    Bench {
        name: "exchange",
        module: Module::parse(EXCHANGE).expect("PTX"),
        grid: blocks,
        block: 256,
        shared: 0,
        parameters: parameters(&[&out.to_le_bytes(), &rounds.to_le_bytes()]),
        check: Box::new(move |memory| {
            let found = read_words(memory, out, n as usize);
            let from = |i: u32| i / 256 * 256 + (i + 37 * rounds) % 256 + rounds;
            assert_eq!(found, (0..n).map(from).collect::<Vec<_>>());
        }),
        memory,
    }
}

/// The product kernel, without an epilogue, for tiles of 128 x 128 and f32 results.
fn matmul_text() -> String {
    use minijinja::syntax::SyntaxConfig;
    use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    let syntax = SyntaxConfig::builder()
        .block_delimiters("<%", "%>")
        .variable_delimiters("${", "}")
        .comment_delimiters("<#", "#>")
        .line_statement_prefix("%%")
        .build()
        .expect("the delimiters are distinct");
    let mut env = Environment::new();
    env.set_syntax(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    for file in ["_mma.ptx", "_gelu.ptx", "matmul.ptx"] {
        let text =
            std::fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        env.add_template_owned(file, text)
            .unwrap_or_else(|e| panic!("{e:#}"));
    }
    let values = context! {
        bias => false, gelu => false, residual => false, saves => false, output => "f32",
        tile_m => 128, tile_n => 128, warp_m => 64, warp_n => 64, stages => 3, blocks => 2
    };
    let template = env.get_template("matmul.ptx").expect("just added");
    template.render(values).unwrap_or_else(|e| panic!("{e:#}"))
}

fn matmul(m: usize, n: usize, k: usize) -> Bench {
    let memory = Memory::new(1 << 28);
    let mut state = 1u32;
    let mut matrix = |rows: usize| -> Vec<f16> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f16::from_f32((state >> 8) as f32 / (1 << 24) as f32 - 0.5)
        };
        (0..rows * k).map(|_| next()).collect()
    };
    let (a, w) = (matrix(m), matrix(n));
    let stored = |matrix: &[f16]| {
        let bytes: Vec<u8> = matrix.iter().flat_map(|v| v.to_le_bytes()).collect();
        let address = memory.alloc(bytes.len() as u64).expect("memory");
        memory
            .write(address, &bytes)
            .expect("the buffer is that long");
        address
    };
    let (a_at, w_at) = (stored(&a), stored(&w));
    let c_at = memory.alloc(4 * (m * n) as u64).expect("memory");
    let size = |v: usize| (v as u32).to_le_bytes();
    Bench {
        name: "matmul",
        module: Module::parse(&matmul_text())
            .unwrap_or_else(|e| panic!("matmul.ptx, expanded: {e}")),
        grid: (m.div_ceil(128) * n.div_ceil(128)) as u32,
        block: 128,
        shared: 3 * 16_384,
        parameters: parameters(&[
            &a_at.to_le_bytes(),
            &w_at.to_le_bytes(),
            // No bias, no residual, nothing kept.
            &0u64.to_le_bytes(),
            &0u64.to_le_bytes(),
            &0u64.to_le_bytes(),
            &c_at.to_le_bytes(),
            &size(m),
            &size(n),
            &size(k),
        ]),
        check: Box::new(move |memory| {
            let found = read_words(memory, c_at, m * n);
            for i in (0..m * n).step_by(101) {
                let (row, column) = (i / n, i % n);
                let terms = (0..k).map(|j| a[row * k + j].to_f64() * w[column * k + j].to_f64());
                let magnitude: f64 = terms.clone().map(f64::abs).sum();
                let want: f64 = terms.sum();
                let error = (f64::from(f32::from_bits(found[i])) - want).abs();
                // One rounding per term, of at most a unit in the last place.
                let allowed = k as f64 * 2f64.powi(-23) * magnitude;
                assert!(
                    error <= allowed,
                    "row {row}, column {column}: off by {error:e}"
                );
            }
        }),
        memory,
    }
}

impl Bench {
    fn run(&self, options: &Options) -> Counters {
        let entry = self.module.entry(self.name).expect("the kernel");
        let request = Launch {
            entry,
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            dynamic_shared: self.shared,
            parameters: &self.parameters,
        };
        launch(&self.memory, &request, options).unwrap_or_else(|report| panic!("{report}"))
    }

    /// The median of at least three runs and a second, or one run.
    fn time(&self, options: &Options, once: bool) -> (f64, Counters) {
        let mut seconds = Vec::new();
        loop {
            let start = Instant::now();
            let counters = self.run(options);
            seconds.push(start.elapsed().as_secs_f64());
            if once || seconds.len() >= 3 && seconds.iter().sum::<f64>() >= 1.0 {
                (self.check)(&self.memory);
                seconds.sort_by(f64::total_cmp);
                return (seconds[seconds.len() / 2], counters);
            }
        }
    }
}

fn main() -> ExitCode {
    let (mut bench, mut test) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--test" => test = true,
            // What `cargo bench` says, and `cargo test` does not.
            "--bench" => bench = true,
            "--help" | "-h" => {
                println!("usage: cargo bench -p ptx-emulator [-- --test]");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!(
                    "unknown argument {other}; usage: cargo bench -p ptx-emulator [-- --test]"
                );
                return ExitCode::from(2);
            }
        }
    }
    let once = test || !bench;
    let benches = if once {
        [
            arithmetic(2, 50),
            sum(4),
            exchange(2, 10),
            matmul(130, 136, 40),
        ]
    } else {
        [
            arithmetic(16, 1000),
            sum(4096),
            exchange(16, 300),
            matmul(512, 512, 384),
        ]
    };
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = if all > 1 { vec![1, all] } else { vec![1] };
    println!(
        "{:<12} {:<11} {:>5} {:>14} {:>9} {:>14} {:>12} {:>8}",
        "kernel",
        "schedule",
        "cores",
        "instructions",
        "seconds",
        "million/s",
        "Mmul-add/s",
        "scaling"
    );
    for bench in &benches {
        for (schedule, name) in [
            (Schedule::LockStep, "lock step"),
            (Schedule::OneByOne, "one by one"),
        ] {
            let mut alone = None;
            for &cores in &cores {
                let options = Options {
                    schedule,
                    cores,
                    ..Options::default()
                };
                let (seconds, counters) = bench.time(&options, once);
                let alone = *alone.get_or_insert(seconds);
                println!(
                    "{:<12} {name:<11} {cores:>5} {:>14} {seconds:>9.4} {:>14.1} {:>12.1} {:>8.2}",
                    bench.name,
                    counters.instructions,
                    counters.instructions as f64 / seconds / 1e6,
                    counters.matrix_multiply_adds as f64 / seconds / 1e6,
                    alone / seconds
                );
            }
        }
    }
    ExitCode::SUCCESS
}
