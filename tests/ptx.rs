//! Every variant of every PTX kernel assembles, without spills, for the oldest, the main and the newest architecture.
//!
//! Needs `ptxas`: `NEARMISS_PTXAS=$(tools/ptxas)` fetches one, else it is looked for on PATH. Prints the table of registers
//! and shared memory.

#[path = "common/needs.rs"]
mod needs;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nearmiss::ops;
use nearmiss::ops::kernels::{Expanded, Source, Variant, expand};

/// One kernel variant, expanded.
struct Case {
    source: Source,
    variant: Variant,
    expanded: Expanded,
}

impl Case {
    fn name(&self) -> String {
        format!("{} [{}]", self.source.file, self.variant)
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for op in ops::ALL {
        let Some(source) = op.ptx else { continue };
        for variant in (op.ptx_variants)() {
            let expanded = expand(source, &variant).unwrap_or_else(|e| panic!("{e}"));
            cases.push(Case {
                source,
                variant,
                expanded,
            });
        }
    }
    cases
}

/// The assembler, or why there is none.
fn ptxas() -> Result<PathBuf, String> {
    let named = std::env::var_os("NEARMISS_PTXAS");
    let path: PathBuf = named.as_deref().unwrap_or("ptxas".as_ref()).into();
    match Command::new(&path).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(path),
        // A path that was named must work.
        _ if named.is_some() => panic!("NEARMISS_PTXAS={} does not run", path.display()),
        _ => Err("not on PATH; NEARMISS_PTXAS=$(tools/ptxas) fetches one".into()),
    }
}

/// sm_80 (what the text is written for), sm_90, and the newest that this assembler knows.
fn architectures(ptxas: &Path) -> Vec<u32> {
    let help = Command::new(ptxas)
        .arg("--help")
        .output()
        .expect("ptxas runs");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let newest = help
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter_map(|word| word.strip_prefix("sm_")?.parse().ok())
        .max()
        .expect("ptxas --help lists its architectures");
    let mut all = vec![80, 90, newest];
    all.dedup();
    all
}

/// What the assembler reports about one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Resources {
    registers: u32,
    /// Static shared memory in bytes.
    shared: u32,
}

/// Assembles `text`; an error names the line of the template and what is wrong there.
fn assemble(
    ptxas: &Path,
    architecture: u32,
    text: &str,
    lines: &Expanded,
) -> Result<Resources, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, output) = (
        folder.path().join("kernel.ptx"),
        folder.path().join("kernel.cubin"),
    );
    std::fs::write(&input, text).expect("a temporary file");
    let result = Command::new(ptxas)
        .arg(format!("-arch=sm_{architecture}"))
        .args([
            "-v",
            "--warn-on-spills",
            "--warn-on-local-memory-usage",
            "--warning-as-error",
        ])
        .arg(&input)
        .arg("-o")
        .arg(&output)
        .output()
        .expect("ptxas runs");
    let log = format!(
        "{}{}",
        String::from_utf8_lossy(&result.stdout),
        String::from_utf8_lossy(&result.stderr)
    );
    if !result.status.success() {
        return Err(log
            .lines()
            .filter(|line| !line.contains("info"))
            .map(|line| located(line, lines))
            .collect::<Vec<_>>()
            .join("\n"));
    }
    // "Used 62 registers, used 1 barriers, 512 bytes smem": a part that is zero is left out.
    let number_before = |word: &str| -> Option<u32> {
        let at = log.find(word)?;
        log[..at].split_whitespace().last()?.parse().ok()
    };
    if log.contains("bytes spill") && !log.contains(" 0 bytes spill stores, 0 bytes spill loads") {
        return Err(format!("spills registers: {log}"));
    }
    Ok(Resources {
        registers: number_before(" registers")
            .ok_or_else(|| format!("no register count: {log}"))?,
        shared: number_before(" bytes smem").unwrap_or(0),
    })
}

/// "... kernel.ptx, line 57; error : ..." with the template's file and line instead.
fn located(line: &str, expanded: &Expanded) -> String {
    line.split_once(", line ")
        .and_then(|(_, rest)| {
            let (number, complaint) = rest.split_once(';')?;
            Some(format!(
                "{}:{complaint}",
                expanded.origin(number.trim().parse().ok()?)?
            ))
        })
        .unwrap_or_else(|| line.to_string())
}

fn variants_are_different_and_state_what_they_need() {
    let cases = cases();
    assert!(!cases.is_empty());
    let mut texts = std::collections::HashMap::new();
    for case in &cases {
        let name = case.name();
        let text = &case.expanded.text;
        for directive in [".version 7.0", ".target sm_80", ".address_size 64"] {
            assert_eq!(
                text.lines().filter(|l| *l == directive).count(),
                1,
                "{name}: {directive}"
            );
        }
        if let Some(twin) = texts.insert(text.clone(), name.clone()) {
            panic!("{name} is the same text as {twin}");
        }
    }
}

fn every_rounding_is_explicit() {
    // Without .rn the assembler may fuse a product and a sum, and error bounds would count what does not run.
    for case in cases() {
        for (i, line) in case.expanded.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let Some(opcode) = code.split_whitespace().find(|word| !word.starts_with('@')) else {
                continue;
            };
            let parts: Vec<&str> = opcode.split('.').collect();
            let rounds = [
                "add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt", "rsqrt", "ex2", "lg2",
                "tanh",
            ];
            if rounds.contains(&parts[0]) && parts.last() == Some(&"f32") {
                assert!(
                    parts.contains(&"rn") || parts.contains(&"approx"),
                    "{}: {opcode} leaves its rounding open",
                    case.expanded.origin(i + 1).unwrap_or_default()
                );
            }
        }
    }
}

fn headers_state_every_field() {
    let fields = [
        "Computes",
        "Twins",
        "Entry",
        "Shapes",
        "Layout",
        "Requires",
        "Launch",
        "Mapping",
        "Shared",
        "Registers",
        "Sync",
        "Work",
        "Traffic",
        "Roofline",
        "Measured",
        "Numerics",
        "Edges",
    ];
    for source in ops::ALL.iter().filter_map(|op| op.ptx) {
        for field in fields {
            let stated = source.text.lines().any(|line| {
                line.strip_prefix(&format!("// {field} "))
                    .is_some_and(|rest| !rest.trim().is_empty())
            });
            assert!(
                stated,
                "kernels/{}: the header does not state {field}",
                source.file
            );
        }
    }
}

fn every_variant_assembles_without_spills(ptxas: &Path) {
    let architectures = architectures(ptxas);
    let cases = cases();
    let jobs: Vec<(usize, u32)> = (0..cases.len())
        .flat_map(|case| {
            architectures
                .iter()
                .map(move |&architecture| (case, architecture))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; jobs.len()]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&(case, architecture)) =
                    jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let lines = &cases[case].expanded;
                    let result = assemble(ptxas, architecture, &lines.text, lines);
                    let at = case * architectures.len()
                        + architectures
                            .iter()
                            .position(|&a| a == architecture)
                            .expect("one of them");
                    results.lock().expect("no thread panics while holding it")[at] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no thread panicked");

    let heads: Vec<String> = architectures.iter().map(|a| format!("sm_{a}")).collect();
    println!(
        "registers per thread on {}; static shared memory; kernel",
        heads.join(", ")
    );
    let mut failures = String::new();
    for (case, results) in cases.iter().zip(results.chunks(architectures.len())) {
        let mut row = String::new();
        let mut shared = 0;
        for (result, head) in results.iter().zip(&heads) {
            match result.as_ref().expect("every job ran") {
                Ok(r) => {
                    shared = shared.max(r.shared);
                    write!(row, "{:>4}", r.registers).expect("strings grow");
                }
                Err(why) => {
                    writeln!(failures, "{} on {head}:\n{why}", case.name()).expect("strings grow")
                }
            }
        }
        println!("{row} {shared:>6} B  {}", case.name());
    }
    assert!(failures.is_empty(), "\n{failures}");
}

fn an_error_and_a_spill_are_found(ptxas: &Path) {
    let source = ops::matmul::SPEC.ptx.expect("matmul has PTX");
    let variant = (ops::matmul::SPEC.ptx_variants)().swap_remove(0);
    let expanded = expand(source, &variant).expect("expands");
    assemble(ptxas, 80, &expanded.text, &expanded).expect("the kernel as it is");

    let typo = expanded
        .text
        .replacen("mov.u32 %r_use, 0;", "mov.u32 %r_use, %r_typo;", 1);
    assert_ne!(typo, expanded.text);
    let line = 1 + source
        .text
        .lines()
        .position(|l| l.contains("mov.u32 %r_use, 0;"))
        .expect("there");
    let why = assemble(ptxas, 80, &typo, &expanded).expect_err("an unknown register");
    assert!(
        why.contains(&format!("matmul.ptx:{line}:")) && why.contains("%r_typo"),
        "{why}"
    );

    // Five blocks of 256 threads leave 48 registers per thread, fewer than there are accumulators.
    let crowded = expanded
        .text
        .replacen(".minnctapersm 2", ".minnctapersm 5", 1);
    assert_ne!(crowded, expanded.text);
    let why = assemble(ptxas, 80, &crowded, &expanded).expect_err("spills");
    assert!(
        why.contains("spill") || why.contains("local memory"),
        "{why}"
    );
}

fn main() {
    let mut tests = needs::Tests::default();
    needs::add!(tests:
        variants_are_different_and_state_what_they_need,
        every_rounding_is_explicit,
        headers_state_every_field,
    );
    let ptxas = needs::Need::new("ptxas", ptxas());
    tests.with(&ptxas, "every_variant_assembles_without_spills", |path| {
        every_variant_assembles_without_spills(path);
    });
    tests.with(&ptxas, "an_error_and_a_spill_are_found", |path| {
        an_error_and_a_spill_are_found(path);
    });
    tests.run()
}
