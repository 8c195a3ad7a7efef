//! The parity suite without a test harness: the same cases as `cargo test --test parity`, a table at the end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use comfy_table::Table;
use nearmiss::{Device, Error, Result, ops};

use crate::cases::{self, Record, Records, Subject};
use crate::run::NOTHING_TO_DO;

/// Holds every operator on every device of this machine against its reference in f64.
#[derive(Parser)]
#[command(name = "parity", version, max_term_width = 100)]
struct Options {
    /// Only devices whose name begins with this: cpu, wgpu-core, wgpu-f16, cuda.
    #[arg(long, value_name = "NAME", default_value = "")]
    subject: String,
    /// Only cases whose name (`operator::case`) contains this.
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    filter: String,
    /// Devices that must be there, separated by commas: cpu, wgpu, cuda.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    require: Vec<String>,
    /// Write what was compared to `DIR/<device>.json`.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What happened on one device.
struct Tally {
    name: &'static str,
    records: Records,
    failed: BTreeMap<&'static str, u64>,
}

/// Runs the command with these arguments, the first being its name.
pub fn main_with(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    crate::command(arguments, run)
}

fn run(options: &Options) -> Result<ExitCode> {
    if let Some(folder) = &options.out {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    }
    let required = |name: &str| options.require.iter().any(|r| name.starts_with(r.trim()));
    let subjects: Vec<Subject> = cases::subjects()
        .into_iter()
        .filter(|s| s.name.starts_with(&options.subject))
        .collect();
    if subjects.is_empty() {
        return Err(Error::Usage(format!(
            "no device is called `{}`: use cpu, wgpu, wgpu-core, wgpu-f16 or cuda",
            options.subject
        )));
    }
    if let Some(unknown) = options
        .require
        .iter()
        .find(|r| !subjects.iter().any(|s| s.name.starts_with(r.trim())))
    {
        return Err(Error::Usage(format!(
            "--require {unknown}: no such device among those selected"
        )));
    }
    let mut lines = Vec::new();
    let mut failed = false;
    let mut tallies = Vec::new();
    for Subject { name, device } in subjects {
        match device {
            Ok(device) => {
                let recording = options.out.is_some();
                tallies.push(suite(name, &device, &options.filter, recording));
            }
            Err(why) => {
                failed |= required(name);
                lines.push(format!(
                    "{}: {name} ({why})",
                    if required(name) { "MISSING" } else { "skipped" }
                ));
            }
        }
    }
    let table = table(&tallies);
    if let Some(folder) = &options.out {
        for tally in &tallies {
            write(folder, tally)?;
        }
    }
    println!("{table}");
    lines.iter().for_each(|line| println!("{line}"));
    failed |= tallies.iter().any(|t| !t.failed.is_empty());
    let ran: u64 = tallies
        .iter()
        .flat_map(|t| t.records.values())
        .map(|r| r.cases)
        .sum();
    if ran == 0 && !failed {
        if tallies.is_empty() {
            // The lines above say why.
            return Ok(ExitCode::from(NOTHING_TO_DO));
        }
        eprintln!("error: nothing ran; no case contains `{}`", options.filter);
        failed = true;
    }
    println!("{}", if failed { "FAILED" } else { "passed" });
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// All cases on one device.
fn suite(name: &'static str, device: &Device, filter: &str, recording: bool) -> Tally {
    eprintln!("{name}: {}", device.name());
    // Every buffer gets memory of its own size, so that a stray access meets a bounds check.
    device.set_memory_caching(false);
    let mut tally = Tally {
        name,
        records: Records::new(),
        failed: BTreeMap::new(),
    };
    let start = Instant::now();
    for case in cases::of(name, device, recording) {
        let title = format!("{}::{}", case.op, case.name);
        if !title.contains(filter) {
            continue;
        }
        let result = catch_unwind(AssertUnwindSafe(|| (case.run)(device)))
            .unwrap_or_else(|_| Err("it panicked (see above)".into()));
        match result {
            Ok(outcome) => {
                cases::add(tally.records.entry(case.op.into()).or_default(), outcome);
            }
            Err(why) => {
                eprintln!("FAILED {name}::{title}: {why}");
                *tally.failed.entry(case.op).or_default() += 1;
            }
        }
    }
    eprintln!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    tally
}

fn table(tallies: &[Tally]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        "device",
        "operator",
        "passed",
        "failed",
        "elements",
        "worst error / bound",
        "broken variants rejected",
    ]);
    for tally in tallies {
        for op in ops::ALL {
            let record: Record = tally.records.get(op.name).copied().unwrap_or_default();
            let failed = tally.failed.get(op.name).copied().unwrap_or_default();
            if record.cases + failed == 0 {
                continue;
            }
            table.add_row([
                tally.name.to_string(),
                op.name.to_string(),
                record.cases.to_string(),
                failed.to_string(),
                record.elements.to_string(),
                format!("{:.3}", record.worst_ratio),
                record.broken_rejected.to_string(),
            ]);
        }
    }
    table.trim_fmt()
}

fn write(folder: &Path, tally: &Tally) -> Result<()> {
    let path = folder.join(format!("{}.json", tally.name));
    let mut text = serde_json::to_string_pretty(&tally.records).expect("records are plain data");
    text.push('\n');
    std::fs::write(&path, text).map_err(|e| Error::io("write", &path, e))
}
