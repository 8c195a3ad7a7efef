//! `table`: what came back from another machine, put where it belongs: the bench record of that device and day, the
//! parity records, the `Measured` lines of the kernels' headers and the rows of the README.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use nearmiss::ops::{self, table::Records};
use nearmiss::{Error, Result};
use serde_json::Value;

use crate::program::record::{Record, Row, Status, duration};
use crate::run::{Done, archive, summary};

/// Cases that a kernel's header names, at most.
const NAMED: usize = 6;

/// Columns of the README's table of times.
const COLUMNS: usize = 8;

/// Columns of a line in a header.
const WIDTH: usize = 120;

/// Puts what `gpu-check run` measured into the tree.
#[derive(Parser)]
#[command(name = "table", version, max_term_width = 100)]
struct Options {
    /// gpu-check.tar.gz, as it came back.
    archive: PathBuf,
    /// The tree.
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_MANIFEST_DIR"))]
    root: PathBuf,
    /// Take an emulator's figures too, which mean nothing: into a copy of the tree, to see that this works.
    #[arg(long)]
    rehearsal: bool,
}

/// Runs the command with these arguments, the first being its name.
pub fn main_with(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    crate::command(arguments, |options: &Options| {
        let lines = run(options)?;
        lines.iter().for_each(|line| println!("{line}"));
        Ok(ExitCode::SUCCESS)
    })
}

/// Does it all; returns a line about each thing done or left.
fn run(options: &Options) -> Result<Vec<String>> {
    let scratch = tempfile::tempdir().map_err(|e| Error::io("create", std::env::temp_dir(), e))?;
    archive::unpack(&options.archive, scratch.path())?;
    let kept = scratch.path();
    let rows = summary::rows(kept);
    let facts = summary::facts(kept)
        .filter(|_| !rows.is_empty())
        .ok_or_else(|| {
            Error::input(
                &options.archive,
                "no bench in it was measured; see its summary.txt",
            )
        })?;
    let about = fs::read_to_string(kept.join("facts.json")).unwrap_or_default();
    let about: Value = serde_json::from_str(&about).unwrap_or_default();
    if about["software"].as_bool() != Some(false) && !options.rehearsal {
        return Err(Error::input(
            &options.archive,
            "measured by an emulator, or by nobody knows what: no figure; --rehearsal with --root takes it all the same",
        ));
    }
    let text = |name: &str| facts.get(name).and_then(Value::as_str).unwrap_or_default();
    let measured = Measured {
        device: hardware(text("device")).into(),
        date: text("date").into(),
        others: summary::others(kept),
        rows,
    };
    let mut lines = Vec::new();
    let record = Record::of(&facts, measured.rows.clone())?;
    let (csv, txt) = record.save(&options.root.join("benches/results"))?;
    let all = read(&txt)? + "\n" + &read(&kept.join("summary.txt")).unwrap_or_default();
    write(&txt, &all)?;
    lines.push(format!("wrote {} and {}", csv.display(), txt.display()));
    let fresh = parity(kept, options, &mut lines)?;
    for op in ops::ALL {
        if let Some(measured) = measured.header(op.name) {
            let path = options.root.join(format!("kernels/{}.ptx", op.name));
            edit(&path, |text| replace_measured(text, &measured), &mut lines)?;
        }
    }
    let readme = options.root.join("README.md");
    let ops = ops::table::markdown_with(&fresh);
    edit(
        &readme,
        |text| {
            let (_, rest) = text.split_once("<!-- gpu:begin -->")?;
            let (before, _) = rest.split_once("<!-- gpu:end -->")?;
            between(text, "gpu", &measured.markdown(before))
        },
        &mut lines,
    )?;
    edit(&readme, |text| between(text, "ops", &ops), &mut lines)?;
    Ok(lines)
}

/// The hardware's own name in `cuda:0 (NVIDIA H200)`.
fn hardware(device: &str) -> &str {
    let inner = device
        .split_once(" (")
        .map(|(_, rest)| rest.trim_end_matches(')'));
    inner.unwrap_or(device)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Error::io("write", path, e))
}

/// Rewrites a file; one that lacks the place is an error.
fn edit(
    path: &Path,
    change: impl FnOnce(&str) -> Option<String>,
    lines: &mut Vec<String>,
) -> Result<()> {
    let before = read(path)?;
    let after = change(&before).ok_or_else(|| {
        Error::input(
            path,
            "the place for the figures is missing: `Measured` or markers",
        )
    })?;
    if after != before {
        write(path, &after)?;
        lines.push(format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Takes over the parity records of operators whose step passed, under the name of their device.
fn parity(
    kept: &Path,
    options: &Options,
    lines: &mut Vec<String>,
) -> Result<BTreeMap<String, Records>> {
    let steps = read(&kept.join("steps.jsonl")).unwrap_or_default();
    let steps: Vec<Done> = steps
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let name = if options.rehearsal {
        "cuda-emulated"
    } else {
        "cuda"
    };
    let mut fresh = Records::new();
    for op in ops::ALL {
        let step = steps
            .iter()
            .find(|done| done.step == format!("parity-{}", op.name));
        let status = step.map_or("not run", |done| &done.status);
        let path = kept.join(format!("records/{}/{name}.json", op.name));
        let records: Option<Records> = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match records.and_then(|mut records| records.remove(op.name)) {
            Some(record) if status == "passed" && record.passes() => {
                fresh.insert(op.name.into(), record);
            }
            _ => lines.push(format!("no parity record of {}: {status}", op.name)),
        }
    }
    if fresh.is_empty() {
        return Ok(BTreeMap::new());
    }
    let path = options
        .root
        .join(format!("tests/parity/records/{name}.json"));
    let mut all: Records = match path.exists() {
        true => serde_json::from_str(&read(&path)?)
            .map_err(|e| Error::input(&path, format!("no parity record ({e}); restore it")))?,
        false => Records::new(),
    };
    for (op, record) in &fresh {
        let jumps = all.get(op).map(|old| old.jumps(record)).unwrap_or_default();
        lines.extend(jumps.iter().map(|jump| format!("{op} on {name}: {jump}")));
    }
    all.extend(fresh);
    let text = serde_json::to_string_pretty(&all).expect("records are plain data");
    write(&path, &(text + "\n"))?;
    lines.push(format!("wrote {}", path.display()));
    // The operator table embeds the records of a device once there are any.
    let table = options.root.join("src/ops/table.rs");
    let source = read(&table)?;
    let (before, after) = (
        format!("name: \"{name}\",\n        kind: DeviceKind::Cuda,\n        stored: None,"),
        format!(
            "name: \"{name}\",\n        kind: DeviceKind::Cuda,\n        \
             stored: Some(include_str!(\"../../tests/parity/records/{name}.json\")),"
        ),
    );
    if source.contains(&before) {
        write(&table, &source.replacen(&before, &after, 1))?;
        lines.push(format!("wrote {}", table.display()));
    }
    Ok(BTreeMap::from([(name.into(), all)]))
}

/// Everything that was timed.
struct Measured {
    device: String,
    date: String,
    rows: Vec<Row>,
    others: BTreeMap<(String, String), Vec<summary::Other>>,
}

impl Measured {
    /// Rows with a time.
    fn timed(&self) -> impl Iterator<Item = (&Row, f64)> {
        let rows = self.rows.iter().filter(|row| row.status == Status::Ok);
        rows.filter_map(|row| Some((row, row.seconds_median?)))
    }

    /// The `Measured` lines of a kernel; `None` if no case of it was timed.
    fn header(&self, op: &str) -> Option<String> {
        let cases: Vec<String> = self
            .timed()
            .filter(|(row, _)| row.op == op)
            .take(NAMED)
            .map(|(row, seconds)| {
                let share = row
                    .share_of_floor
                    .map_or(String::new(), |v| format!(" ({:.0} %)", 100.0 * v));
                format!("{}: {}{share}", row.shape, duration(seconds))
            })
            .collect();
        let what = format!(
            "{}, {} (share of the floor): {}",
            self.device,
            self.date,
            cases.join("; ")
        );
        (!cases.is_empty()).then(|| wrapped("// Measured   ", "//            ", &what))
    }

    /// The rows of the README: what was measured now, and of `before`, the README, what this device did at other times and
    /// not now, since no rented minutes measure everything.
    fn markdown(&self, before: &str) -> String {
        let mut rows: Vec<[String; COLUMNS]> = Vec::new();
        for (row, seconds) in self.timed() {
            let others = self.others.get(&(row.op.clone(), row.shape.clone()));
            let others = others.map_or(&[][..], |others| others);
            let [torch, peer] = summary::split(others);
            rows.push([
                format!("`{}`", row.op),
                row.shape.clone(),
                duration(seconds),
                row.share_of_floor
                    .map_or(String::new(), |v| format!("{:.0} %", 100.0 * v)),
                torch.map_or(String::new(), |other| duration(other.seconds)),
                peer.map_or(String::new(), |o| {
                    format!("{} ({})", duration(o.seconds), o.by)
                }),
                others.first().map_or(String::new(), |other| {
                    format!("{:.2}", other.seconds / seconds)
                }),
                self.date.clone(),
            ]);
        }
        let heading = format!("{}; a call", self.device);
        if before.contains(&heading) {
            for old in before.lines().filter_map(cells) {
                if !rows.iter().any(|new| new[..2] == old[..2]) {
                    rows.push(old);
                }
            }
        }
        rows.sort_by(|a, b| a[0].trim_matches('`').cmp(b[0].trim_matches('`')));
        let mut text = format!(
            "{heading} in a graph of calls where it can be recorded, f16 in and f32 accumulated on all sides:\n\n\
             | operator | shape | time | share of the floor | PyTorch | others | fastest other / ours | date |\n\
             | --- | --- | ---: | ---: | ---: | --- | ---: | --- |\n"
        );
        for row in rows {
            text += &format!("| {} |\n", row.join(" | "));
        }
        text
    }
}

/// The cells of a row of the README's table of GPU times; `None` for any other line.
fn cells(line: &str) -> Option<[String; COLUMNS]> {
    let inner = line.strip_prefix("| `")?.strip_suffix('|')?;
    let cells: Vec<String> = inner.split('|').map(|cell| cell.trim().into()).collect();
    let mut cells: [String; COLUMNS] = cells.try_into().ok()?;
    cells[0].insert(0, '`');
    Some(cells)
}

/// Text in lines of at most [`WIDTH`] columns, broken at spaces.
fn wrapped(first: &str, next: &str, text: &str) -> String {
    let mut lines = vec![first.to_string()];
    let mut empty = true;
    for word in text.split(' ') {
        let line = lines.last_mut().expect("one at least");
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{next}{word}"));
        } else {
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
        }
        empty = false;
    }
    lines.join("\n")
}

/// A kernel's text with other `Measured` lines; `None` if it has none.
fn replace_measured(text: &str, measured: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("// Measured "))?;
    // What goes on from the line before is indented as far as its text.
    let goes_on = |line: &&&str| line.starts_with("//            ");
    let more = lines[at + 1..].iter().take_while(goes_on).count();
    let mut all = lines[..at].to_vec();
    all.push(measured);
    all.extend(&lines[at + 1 + more..]);
    Some(all.join("\n") + "\n")
}

/// Text with another inside between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; `None` without them.
fn between(text: &str, name: &str, inside: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- {name}:begin -->"),
        format!("<!-- {name}:end -->"),
    );
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{inside}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use nearmiss::ops::table::Record;

    use super::*;

    const KERNEL: &str =
        "// matmul.ptx\n// Measured   none yet\n//            at all\n//\n//   code\nret;\n";

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("kernels/matmul.ptx", KERNEL);
        put("tests/parity/records/.keep", "");
        put(
            "README.md",
            "a\n<!-- gpu:begin -->\nno number\n<!-- gpu:end -->\nb\n<!-- ops:begin -->\n<!-- ops:end -->\n",
        );
        let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/table.rs");
        put("src/ops/table.rs", &fs::read_to_string(table).unwrap());
        root
    }

    fn options(root: &Path, kept: &Path) -> Options {
        let archive = root.join("a.tar.gz");
        archive::pack(kept, &archive).unwrap();
        Options {
            archive,
            root: root.into(),
            rehearsal: false,
        }
    }

    /// What a run leaves, with parity passed for one operator and cut for another.
    fn kept(software: bool) -> tempfile::TempDir {
        let kept = summary::tests::kept();
        let put = |name: &str, text: &str| {
            let path = kept.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("facts.json", &format!("{{\"software\":{software}}}"));
        put("summary.txt", "the summary\n");
        let record = Record {
            cases: 3,
            elements: 9,
            worst_ratio: 0.5,
            broken_rejected: 2,
            ..Record::default()
        };
        let record = serde_json::to_string(&record).unwrap();
        let mut steps = String::new();
        for (op, status) in [("matmul", "passed"), ("attention", "cut")] {
            put(
                &format!("records/{op}/cuda.json"),
                &format!("{{\"{op}\":{record}}}"),
            );
            steps += &format!(
                "{{\"step\":\"parity-{op}\",\"status\":\"{status}\",\"note\":\"\",\"seconds\":1.0,\"limit\":2.0}}\n"
            );
        }
        put("steps.jsonl", &steps);
        kept
    }

    #[test]
    fn what_came_back_goes_to_record_headers_readme_and_parity() {
        let (root, kept) = (tree(), kept(false));
        let options = options(root.path(), kept.path());
        let lines = run(&options).unwrap().join("\n");
        let text = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        let folder = "benches/results/cuda-0-nvidia-h200";
        let csv = text(&format!("{folder}/2026-11-27.csv"));
        assert!(
            csv.lines().count() == 4 && csv.contains("matmul,8 x 8,ok"),
            "{csv}"
        );
        assert!(text(&format!("{folder}/2026-11-27.txt")).ends_with("the summary\n"));
        assert_eq!(
            text("kernels/matmul.ptx"),
            "// matmul.ptx\n\
             // Measured   NVIDIA H200, 2026-11-27 (share of the floor): 8 x 8: 100.0 us (40 %); 4 x 4: 20.0 us (20 %)\n\
             //\n//   code\nret;\n"
        );
        let readme = text("README.md");
        let row = "| `matmul` | 8 x 8 | 100.0 us | 40 % | 150.0 us | 50.0 us (flash-maxsim) | 0.50 | 2026-11-27 |\n";
        assert!(
            readme.contains(row) && !readme.contains("no number"),
            "{readme}"
        );
        assert!(
            readme.starts_with("a\n<!-- gpu:begin -->\nNVIDIA H200; a call"),
            "{readme}"
        );
        assert!(readme.contains("pass: 3 cases, 0.500"), "{readme}");
        let records: Records =
            serde_json::from_str(&text("tests/parity/records/cuda.json")).unwrap();
        assert_eq!(records.keys().collect::<Vec<_>>(), ["matmul"]);
        assert!(
            lines.contains("no parity record of attention: cut"),
            "{lines}"
        );
        assert!(
            text("src/ops/table.rs")
                .contains("include_str!(\"../../tests/parity/records/cuda.json\")")
        );
        // Once more: a second record of the day, nothing else changes.
        let again = run(&options).unwrap();
        assert_eq!(text("README.md"), readme);
        assert!(again[0].contains("2026-11-27-2.csv"), "{again:?}");
        // What was measured at another time stays, unless it was measured again.
        let (old, earlier) = (
            "| `matmul` | 9 x 9 | 7.0 us | 1 % |  |  |  | 2026-11-01 |\n",
            row.replace("100.0 us", "99.0 us").replace("-27 |", "-01 |"),
        );
        let path = root.path().join("README.md");
        fs::write(&path, readme.replace(row, &(earlier + old))).unwrap();
        run(&options).unwrap();
        let merged = text("README.md");
        assert!(
            merged.contains(row) && merged.contains(old) && !merged.contains("99.0 us"),
            "{merged}"
        );
        // Another card's times are no rows of this table.
        fs::write(&path, merged.replace("NVIDIA H200;", "NVIDIA A100;")).unwrap();
        run(&options).unwrap();
        assert_eq!(text("README.md"), readme);
    }

    #[test]
    fn figures_of_an_emulator_are_refused_unless_rehearsed() {
        let (root, kept) = (tree(), kept(true));
        let mut options = options(root.path(), kept.path());
        let error = run(&options).unwrap_err().to_string();
        assert!(
            error.contains("emulator") && error.contains("a.tar.gz"),
            "{error}"
        );
        assert!(!root.path().join("benches").exists());
        options.rehearsal = true;
        run(&options).unwrap();
    }

    #[test]
    fn an_archive_without_a_bench_is_refused() {
        let (root, kept) = (tree(), tempfile::tempdir().unwrap());
        fs::write(kept.path().join("summary.txt"), "").unwrap();
        let error = run(&options(root.path(), kept.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no bench"), "{error}");
    }

    #[test]
    fn headers_are_wrapped_and_replaced_whole() {
        let long = wrapped("// Measured   ", "//            ", &"word ".repeat(60));
        assert!(
            long.lines().count() > 2 && long.lines().all(|line| line.len() <= WIDTH),
            "{long}"
        );
        let once = replace_measured(KERNEL, &long).unwrap();
        assert_eq!(replace_measured(&once, &long).unwrap(), once);
        assert!(once.ends_with("//\n//   code\nret;\n"), "{once}");
        assert_eq!(replace_measured("// no figures\n", "x"), None);
    }
}
