//! Launching small kernels, in the emulator and on a GPU if there is one, and checking them with the assembler.
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod fragments;
pub mod hardware;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use ptx_emulator::{Counters, Entry, Launch, Memory, Module, Options, Report, Schedule, launch};

/// What every kernel text starts with.
pub const HEADER: &str = ".version 7.0\n.target sm_80\n.address_size 64\n";

/// An argument of a kernel.
#[derive(Clone, Debug)]
pub enum Arg {
    /// A buffer with this content.
    Data(Vec<u8>),
    /// A buffer of so many bytes that nobody has written.
    Empty(usize),
    U32(u32),
    U64(u64),
    F32(f32),
}

impl Arg {
    pub fn zeros(bytes: usize) -> Arg {
        Arg::Data(vec![0; bytes])
    }

    pub fn words(words: impl IntoIterator<Item = u32>) -> Arg {
        Arg::Data(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    pub fn halves(halves: impl IntoIterator<Item = u16>) -> Arg {
        Arg::Data(halves.into_iter().flat_map(u16::to_le_bytes).collect())
    }

    pub fn floats(floats: impl IntoIterator<Item = f32>) -> Arg {
        Arg::words(floats.into_iter().map(f32::to_bits))
    }
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory, in bytes.
    pub shared: u32,
}

/// `blocks` blocks of `threads` threads in a row.
pub fn shape(blocks: u32, threads: u32) -> Shape {
    Shape {
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared: 0,
    }
}

/// The options under which a kernel must always give the same: both schedules, several seeds, one and two cores.
pub fn all_options(seeds: u64) -> Vec<Options> {
    let mut all = Vec::new();
    for schedule in [Schedule::LockStep, Schedule::OneByOne] {
        for seed in 0..seeds {
            all.push(Options {
                schedule,
                seed,
                cores: 1 + (seed % 2) as usize,
                ..Options::default()
            });
        }
    }
    all
}

/// Options in words, for messages.
pub fn name(options: &Options) -> String {
    let schedule = match options.schedule {
        Schedule::LockStep => "lock step",
        Schedule::OneByOne => "one by one",
    };
    format!(
        "{schedule}, seed {}, {} core(s)",
        options.seed, options.cores
    )
}

pub fn parse(text: &str) -> Module {
    Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{}", around(text, e.line)))
}

/// The text with line numbers, a few lines before and after `line`; all of it for line 0.
pub fn around(text: &str, line: u32) -> String {
    let near = |i: usize| line == 0 || (i as u32 + 1).abs_diff(line) <= 4;
    let numbered = |(i, line): (usize, &str)| format!("{:4} {line}\n", i + 1);
    text.lines()
        .enumerate()
        .filter(|(i, _)| near(*i))
        .map(numbered)
        .collect()
}

/// Launches once in a memory of its own; the buffers afterwards, in the order of the arguments.
pub fn run(
    entry: &Entry,
    shape: Shape,
    args: &[Arg],
    options: &Options,
) -> Result<(Vec<Vec<u8>>, Counters), Report> {
    let memory = Memory::new(1 << 28);
    run_in(&memory, entry, shape, args, options)
}

/// Launches once; its buffers are freed again.
pub fn run_in(
    memory: &Memory,
    entry: &Entry,
    shape: Shape,
    args: &[Arg],
    options: &Options,
) -> Result<(Vec<Vec<u8>>, Counters), Report> {
    assert_eq!(
        entry.parameters.len(),
        args.len(),
        "{}: arguments",
        entry.name
    );
    let mut parameters = vec![0; entry.parameter_bytes];
    let mut buffers = Vec::new();
    for (parameter, arg) in entry.parameters.iter().zip(args) {
        let mut buffer = |bytes: usize| {
            let address = memory
                .alloc(bytes as u64)
                .expect("memory for a test's buffer");
            buffers.push((address, bytes));
            address
        };
        let value = match arg {
            Arg::Data(data) => {
                let address = buffer(data.len());
                memory.write(address, data).unwrap();
                address.to_le_bytes().to_vec()
            }
            Arg::Empty(bytes) => buffer(*bytes).to_le_bytes().to_vec(),
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::F32(v) => v.to_le_bytes().to_vec(),
        };
        assert_eq!(parameter.bytes, value.len(), "{}", parameter.name);
        parameters[parameter.offset..][..value.len()].copy_from_slice(&value);
    }
    let result = launch(
        memory,
        &Launch {
            entry,
            grid: shape.grid,
            block: shape.block,
            dynamic_shared: shape.shared,
            parameters: &parameters,
        },
        options,
    );
    let contents = buffers
        .iter()
        .map(|&(address, bytes)| {
            let mut data = vec![0; bytes];
            memory.read(address, &mut data).unwrap();
            data
        })
        .collect();
    for (address, _) in buffers {
        assert!(memory.free(address), "freeing {address:#x}");
    }
    result.map(|counters| (contents, counters))
}

/// Launches the only kernel of the text, `k`, under all options and on a GPU, if there is one: all must agree. The
/// buffers afterwards. The assembler has to accept the text too.
pub fn everywhere(text: &str, shape: Shape, args: &[Arg]) -> Vec<Vec<u8>> {
    assembles(text, "sm_80");
    let buffers = on_emulator(text, shape, args);
    if let Some(hardware) = hardware::hardware() {
        let found = hardware.run(text, "k", shape, args);
        for (number, (found, wanted)) in found.iter().zip(&buffers).enumerate() {
            let (found, wanted) = (words(found), words(wanted));
            let other: Vec<usize> = (0..wanted.len())
                .filter(|&i| found[i] != wanted[i])
                .collect();
            assert!(
                other.is_empty(),
                "{}: {} of {} words of buffer {number} are not the emulator's, first word {}: {:#x}, not {:#x}\n{}",
                hardware.name,
                other.len(),
                wanted.len(),
                other[0],
                found[other[0]],
                wanted[other[0]],
                around(text, 0)
            );
        }
    }
    buffers
}

/// Launches the only kernel of the text under all options of the emulator, which must agree.
pub fn on_emulator(text: &str, shape: Shape, args: &[Arg]) -> Vec<Vec<u8>> {
    let module = parse(text);
    let entry = module.entries().next().expect("a kernel");
    let mut first: Option<Vec<Vec<u8>>> = None;
    for options in all_options(4) {
        let (buffers, _) = run(entry, shape, args, &options).unwrap_or_else(|report| {
            panic!(
                "{}: {report}\n{}",
                name(&options),
                around(text, report.line)
            )
        });
        match &first {
            None => first = Some(buffers),
            Some(first) => assert!(
                *first == buffers,
                "{}: other results than in lock step, seed 0\n{}",
                name(&options),
                around(text, 0)
            ),
        }
    }
    first.unwrap()
}

pub fn words(bytes: &[u8]) -> Vec<u32> {
    let word = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap());
    bytes.chunks_exact(4).map(word).collect()
}

pub fn longs(bytes: &[u8]) -> Vec<u64> {
    let word = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
    bytes.chunks_exact(8).map(word).collect()
}

pub fn halves(bytes: &[u8]) -> Vec<u16> {
    let half = |b: &[u8]| u16::from_le_bytes(b.try_into().unwrap());
    bytes.chunks_exact(2).map(half).collect()
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    words(bytes).into_iter().map(f32::from_bits).collect()
}

/// A kernel `k(p_in, p_out)` whose `body` finds its thread's index in `%id`, both addresses in `%in` and `%out` and,
/// moved on by four bytes per thread of the grid, in `%in4` and `%out4`; with scratch registers of every kind.
pub fn kernel(body: &str) -> String {
    kernel_with(HEADER, "", body)
}

/// The same with declarations at module level (shared, constants) in front.
pub fn kernel_with(header: &str, declarations: &str, body: &str) -> String {
    format!(
        "{header}{declarations}
.visible .entry k(.param .u64 p_in, .param .u64 p_out)
{{
    .reg .pred %p, %q;
    .reg .b16 %h, %h<8>;
    .reg .b32 %id, %lane, %warp, %r, %r<16>;
    .reg .f32 %f<8>;
    .reg .b64 %in, %out, %in4, %out4, %rd, %rd<8>;
    ld.param.u64 %in, [p_in];
    ld.param.u64 %out, [p_out];
    mov.u32 %id, %tid.x;
    and.b32 %lane, %id, 31;
    shr.u32 %warp, %id, 5;
    mov.u32 %r, %ctaid.x;
    mov.u32 %r0, %ntid.x;
    mad.lo.u32 %r, %r, %r0, %id;
    mad.wide.u32 %in4, %r, 4, %in;
    mad.wide.u32 %out4, %r, 4, %out;
{body}
    ret;
}}
"
    )
}

/// Whether `NEARMISS_REQUIRE` names something that must not be skipped.
pub fn required(what: &str) -> bool {
    let all = std::env::var("NEARMISS_REQUIRE").unwrap_or_default();
    all.split([',', ' ']).any(|name| name == what)
}

/// A line on stderr that the test harness does not capture.
pub fn aloud(line: &str) {
    std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes()).ok();
}

/// The assembler: `NEARMISS_PTXAS`, or the one on PATH.
fn ptxas() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let named = std::env::var_os("NEARMISS_PTXAS");
        let path: PathBuf = named.as_deref().unwrap_or("ptxas".as_ref()).into();
        match Command::new(&path).arg("--version").output() {
            Ok(output) if output.status.success() => Some(path),
            _ if named.is_some() => panic!("NEARMISS_PTXAS={} does not run", path.display()),
            _ => {
                assert!(
                    !required("ptxas"),
                    "NEARMISS_REQUIRE names ptxas, but there is none: set NEARMISS_PTXAS"
                );
                aloud(
                    "skipped: assembling the kernels of the tests (no ptxas; NEARMISS_PTXAS names one)",
                );
                None
            }
        }
    };
    FOUND.get_or_init(find).as_ref()
}

/// Assembles the text, if there is an assembler, so that no test rests on a dialect of our own.
pub fn assembles(text: &str, arch: &str) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let Some(ptxas) = ptxas() else { return };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("ptx-emulator-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let file = folder.join("kernel.ptx");
    std::fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let output = Command::new(ptxas)
        .args(["-arch", arch, "-O0", "-o"])
        .arg(folder.join("kernel.cubin"))
        .arg(&file)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", ptxas.display()));
    let _ = std::fs::remove_dir_all(&folder);
    if output.status.success() {
        return;
    }
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = complaints
        .split_once(", line ")
        .and_then(|(_, rest)| rest.split(';').next()?.trim().parse().ok())
        .unwrap_or(0);
    panic!(
        "does not assemble for {arch}:\n{complaints}{}",
        around(text, line)
    );
}
