//! What was measured so far, in a table that fits the end of a terminal.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Done, archive, plan};
use crate::program::record::{Row, Status, duration};

/// Characters of the summary, at most: where it is shown, 12,000 are.
pub const MOST: usize = 10_000;

/// One line about a step.
pub fn line(done: &Done) -> String {
    let Done {
        step,
        status,
        note,
        seconds,
        limit,
    } = done;
    let note = match &note[..] {
        "" => String::new(),
        note => format!(": {note}"),
    };
    match &status[..] {
        "skipped" => format!("{step} skipped{note}"),
        "cut" => format!("{step} cut at {limit:.0} s{note}"),
        _ => format!("{step} {status} ({seconds:.1} s){note}"),
    }
}

/// The lines of JSON in the files `folder/*.jsonl`; half a line, as a step leaves that is cut, is passed over.
fn lines(folder: &Path) -> Vec<Map<String, Value>> {
    let mut found = Vec::new();
    for path in archive::files(folder).unwrap_or_default() {
        if path.extension().is_some_and(|e| e == "jsonl") {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            found.extend(
                text.lines()
                    .filter_map(|line| serde_json::from_str(line).ok()),
            );
        }
    }
    found
}

/// The rows of the benches as they were printed.
pub fn raw_rows(kept: &Path) -> String {
    let rows = lines(&kept.join("bench")).into_iter();
    rows.map(|row| Value::from(row).to_string() + "\n")
        .collect()
}

/// The facts that the first bench printed, if any did.
pub fn facts(kept: &Path) -> Option<Map<String, Value>> {
    let mut lines = lines(&kept.join("bench")).into_iter();
    lines.find(|line| line.contains_key("device"))
}

/// The rows of the benches.
pub fn rows(kept: &Path) -> Vec<Row> {
    lines(&kept.join("bench"))
        .into_iter()
        .filter(|line| line.contains_key("op"))
        .filter_map(|line| serde_json::from_value(line.into()).ok())
        .collect()
}

/// The cases that are farthest from their floor, as `bench --case` wants them named: the worst of every operator, worst
/// first, then the second worst of every operator, and so on.
pub fn worst(kept: &Path) -> Vec<String> {
    let mut rows = rows(kept);
    rows.retain(|row| {
        row.status == Status::Ok
            && !plan::WHOLE.contains(&&row.op[..])
            && row.share_of_floor.is_some()
    });
    rows.sort_by(|a, b| {
        a.share_of_floor
            .partial_cmp(&b.share_of_floor)
            .unwrap_or(Ordering::Equal)
    });
    let mut before: BTreeMap<String, usize> = BTreeMap::new();
    let mut cases: Vec<(usize, String)> = rows
        .into_iter()
        .map(|row| {
            let case = format!("{} {}", row.op, row.shape);
            let place = before.entry(row.op).or_default();
            *place += 1;
            (*place, case)
        })
        .collect();
    cases.sort_by_key(|case| case.0);
    cases.into_iter().map(|case| case.1).collect()
}

/// Another implementation of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    /// Which.
    pub by: String,
    /// Seconds per call.
    pub seconds: f64,
}

/// What others took for each case (operator and shape), the fastest first.
pub fn others(kept: &Path) -> BTreeMap<(String, String), Vec<Other>> {
    let mut found: BTreeMap<_, Vec<Other>> = BTreeMap::new();
    for line in ["torch", "compile", "peers"]
        .into_iter()
        .flat_map(|by| lines(&kept.join(by)))
    {
        let text = |name: &str| line.get(name).and_then(Value::as_str).map(String::from);
        let seconds = line.get("seconds_median").and_then(Value::as_f64);
        if let (Some(op), Some(shape), Some(by), Some(seconds)) =
            (text("op"), text("shape"), text("by"), seconds)
        {
            let others = found.entry((op, shape)).or_default();
            others.push(Other { by, seconds });
        }
    }
    for others in found.values_mut() {
        others.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    }
    found
}

/// The packages of which not one case ran, and the first reason.
fn not_run(kept: &Path) -> BTreeMap<String, String> {
    let text = |line: &Map<String, Value>, name: &str| {
        line.get(name).and_then(Value::as_str).map(String::from)
    };
    let mut missing = BTreeMap::new();
    let lines = lines(&kept.join("peers"));
    for line in &lines {
        if let (Some(by), Some(why)) = (text(line, "by"), text(line, "note")) {
            missing.entry(by).or_insert(why);
        }
    }
    missing.retain(|by, _| {
        let ran = |line: &Map<String, Value>| {
            line.contains_key("seconds_median") && text(line, "by").as_ref() == Some(by)
        };
        !lines.iter().any(ran)
    });
    missing
}

/// The fastest of PyTorch's own, and the fastest of the other packages.
pub fn split(others: &[Other]) -> [Option<&Other>; 2] {
    let torch = |other: &&Other| other.by.starts_with("torch");
    [
        others.iter().find(torch),
        others.iter().find(|other| !torch(other)),
    ]
}

/// The whole of it, within [`MOST`] characters: steps are left out before rows are.
pub fn text(kept: &Path, done: &[Done]) -> String {
    let mut head = head(kept);
    let (table, legend) = table(kept);
    let passed: Vec<&Done> = done.iter().filter(|d| d.status == "passed").collect();
    let seconds: f64 = done.iter().map(|d| d.seconds).sum();
    head += &format!(
        "{} of {} steps passed, {seconds:.0} s\n",
        passed.len(),
        done.len()
    );
    let mut left = MOST.saturating_sub(head.len() + table.len() + legend.len());
    let mut steps = String::new();
    let lines = unfinished(done);
    for (i, line) in lines.iter().enumerate() {
        if line.len() + 80 > left {
            steps += &format!(
                "and {} more lines on steps, in steps.jsonl\n",
                lines.len() - i
            );
            break;
        }
        left -= line.len();
        steps += line;
    }
    let mut all = format!("{head}{steps}{table}{legend}");
    if all.len() > MOST {
        let cut = all
            .char_indices()
            .map(|(at, _)| at)
            .take_while(|at| *at <= MOST - 60);
        all.truncate(cut.last().unwrap_or(0));
        all += "\n... the rest is in bench.jsonl\n";
    }
    all
}

/// A line for each step that did not pass; those that were skipped for one reason share theirs.
fn unfinished(done: &[Done]) -> Vec<String> {
    let mut skipped: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut lines = Vec::new();
    for done in done {
        match &done.status[..] {
            "passed" => {}
            "skipped" => match skipped.iter_mut().find(|(why, _)| *why == done.note) {
                Some((_, steps)) => steps.push(&done.step),
                None => skipped.push((&done.note, vec![&done.step])),
            },
            _ => lines.push(line(done) + "\n"),
        }
    }
    let group = |(why, steps): (&str, Vec<&str>)| format!("skipped: {why}: {}\n", steps.join(", "));
    lines.extend(skipped.into_iter().map(group));
    lines
}

/// Machine and limits.
fn head(kept: &Path) -> String {
    let mut head = String::new();
    if let Some(facts) = facts(kept) {
        for name in ["device", "driver", "date", "commit", "limits"] {
            if let Some(value) = facts.get(name).and_then(Value::as_str) {
                head += &format!("{name}: {value}\n");
            }
        }
    }
    let limits = fs::read_to_string(kept.join("limits.json")).unwrap_or_default();
    let limits: Value = serde_json::from_str(&limits).unwrap_or_default();
    let launch = |name: &str| limits["launch"][name].as_f64().map(duration);
    if let (Some(graph), Some(launched), Some(alone)) = (
        launch("seconds_graph"),
        launch("seconds_launched"),
        launch("seconds_alone"),
    ) {
        head +=
            &format!("an empty kernel: {graph} in a graph, {launched} launched, {alone} alone\n");
    }
    let compiled: Vec<String> = lines(&kept.join("jit"))
        .iter()
        .filter_map(|line| {
            let seconds = |name: &str| line.get(name).and_then(Value::as_f64).map(duration);
            let op = line.get("op")?.as_str()?;
            let (cold, warm) = (seconds("cold_seconds")?, seconds("warm_seconds")?);
            Some(format!("{op} {cold}, {warm}"))
        })
        .collect();
    if !compiled.is_empty() {
        let compiled = compiled.join("; ");
        head += &format!("compiling all variants, afresh and again: {compiled}\n");
    }
    head
}

/// The rows, narrow, and what their columns mean.
fn table(kept: &Path) -> (String, String) {
    let rows = rows(kept);
    if rows.is_empty() {
        return ("no case was measured\n".into(), String::new());
    }
    let others = others(kept);
    let mut cells = vec![
        [
            "operator", "shape", "time", "alone", "floor", "PyTorch", "peer", "ratio", "error",
        ]
        .map(String::from),
    ];
    for row in rows {
        let time = |seconds: Option<f64>| seconds.map_or(String::new(), duration);
        let Some(seconds) = row.seconds_median.filter(|_| row.status == Status::Ok) else {
            let mut line = [const { String::new() }; 9];
            line[0] = row.op;
            line[1] = row.shape;
            line[2] = row.note.chars().take(60).collect();
            cells.push(line);
            continue;
        };
        let found = others.get(&(row.op.clone(), row.shape.clone()));
        let [torch, peer] = found.map_or([None, None], |others| split(others));
        let fastest = found.and_then(|others| others.first());
        let alone = match row.seconds_alone_p99 {
            // Only where a single caller waits for it is the tail of interest.
            Some(p99) if row.shape.contains(" 1 texts") => {
                format!("{}, p99 {}", time(row.seconds_alone), duration(p99))
            }
            _ => time(row.seconds_alone),
        };
        cells.push([
            row.op,
            row.shape,
            duration(seconds),
            alone,
            row.share_of_floor
                .map_or(String::new(), |v| format!("{:.0} %", 100.0 * v)),
            time(torch.map(|other| other.seconds)),
            peer.map_or(String::new(), |o| {
                format!("{} {}", duration(o.seconds), o.by)
            }),
            fastest.map_or(String::new(), |other| {
                format!("{:.2}", other.seconds / seconds)
            }),
            row.error_over_bound
                .map_or(String::new(), |v| format!("{v:.2}")),
        ]);
    }
    let mut text = String::new();
    for (by, why) in not_run(kept) {
        text += &format!("not compared with {by}: {why}\n");
    }
    let mut last = String::new();
    for line in &cells {
        // An operator is named once, and no column is padded: room is short.
        let name = if line[0] == last { "" } else { &line[0] };
        last = line[0].clone();
        let rest = line[1..].join(" | ");
        text += format!("{name} | {rest}").trim_end_matches([' ', '|']);
        text.push('\n');
    }
    let legend = "time: a call in a graph of calls, or launched; alone: one call, waited for; floor: share of the time \
                  that the limits allow; ratio: the fastest other over ours; error: over its bound\n";
    (text, legend.into())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A folder as a run leaves it: two cases measured, one failed, half a line, PyTorch and a package beside them.
    pub fn kept() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let facts = r#"{"device":"cuda:0 (NVIDIA H200)","date":"2026-11-27","commit":"abc","limits":"fast"}"#;
        let row = |op: &str, shape: &str, seconds: f64, share: f64| {
            format!(
                r#"{{"op":"{op}","shape":"{shape}","status":"ok","seconds_median":{seconds},"seconds_alone":3e-5,"share_of_floor":{share},"error_over_bound":0.25,"method":"graph"}}"#
            )
        };
        let (large, small) = (
            row("matmul", "8 x 8", 1e-4, 0.4),
            row("matmul", "4 x 4", 2e-5, 0.2),
        );
        put(
            "bench/matmul.jsonl",
            &format!("{facts}\n{large}\n{small}\n{{\"op\":\"ma"),
        );
        let failed = r#"{"op":"maxsim","shape":"1","status":"failed","note":"FAILED: it hangs"}"#;
        put("bench/maxsim.jsonl", &format!("{facts}\n{failed}\n"));
        let jit = r#"{"op":"pool","variants":2,"cold_seconds":1.5,"warm_seconds":0.02}"#;
        put("jit/pool.jsonl", &format!("{jit}\n"));
        let other = |by: &str, seconds: f64| {
            format!(r#"{{"op":"matmul","shape":"8 x 8","by":"{by}","seconds_median":{seconds}}}"#)
        };
        put("torch/matmul.jsonl", &format!("{}\n", other("torch", 2e-4)));
        put(
            "compile/matmul.jsonl",
            &format!("{}\n", other("torch.compile", 1.5e-4)),
        );
        let missing =
            r#"{"op":"matmul","shape":"8 x 8","by":"flashlib","note":"ImportError: no triton"}"#;
        put(
            "peers/matmul.jsonl",
            &format!("{}\n{missing}\n", other("flash-maxsim", 5e-5)),
        );
        folder
    }

    fn done(step: &str, status: &str) -> Done {
        Done {
            step: step.into(),
            status: status.into(),
            note: "why not".into(),
            seconds: 2.0,
            limit: 5.0,
        }
    }

    #[test]
    fn a_row_says_time_floor_others_ratio_and_error() {
        let kept = kept();
        let steps = [
            ("a", "passed"),
            ("c", "skipped"),
            ("b", "cut"),
            ("d", "skipped"),
        ];
        let text = text(kept.path(), &steps.map(|(step, status)| done(step, status)));
        assert!(text.contains("device: cuda:0 (NVIDIA H200)"), "{text}");
        assert!(text.contains("1 of 4 steps passed, 8 s"), "{text}");
        assert!(
            text.contains("afresh and again: pool 1.500 s, 20.000 ms\n"),
            "{text}"
        );
        assert!(
            text.contains("b cut at 5 s: why not\nskipped: why not: c, d\n"),
            "{text}"
        );
        // The faster of PyTorch's two; the fastest of all, over ours.
        let row = "matmul | 8 x 8 | 100.0 us | 30.0 us | 40 % | 150.0 us | 50.0 us flash-maxsim | 0.50 | 0.25\n";
        assert!(text.contains(row), "{text}");
        assert!(
            text.contains(" | 4 x 4 | 20.0 us | 30.0 us | 20 % |  |  |  | 0.25\n"),
            "{text}"
        );
        assert!(text.contains("maxsim | 1 | FAILED: it hangs\n"), "{text}");
        assert!(
            text.contains("not compared with flashlib: ImportError: no triton\n"),
            "{text}"
        );
        assert!(!text.contains("not compared with flash-maxsim"), "{text}");
    }

    #[test]
    fn the_worst_of_every_operator_come_first_and_none_that_failed() {
        let kept = kept();
        assert_eq!(worst(kept.path()), ["matmul 4 x 4", "matmul 8 x 8"]);
        let row =
            r#"{"op":"pool","shape":"2","status":"ok","seconds_median":1e-5,"share_of_floor":0.3}"#;
        let facts = r#"{"device":"cuda:0","date":"2026-11-27","commit":"abc","limits":"fast"}"#;
        let rows = format!("{facts}\n{row}\n");
        fs::write(kept.path().join("bench/pool.jsonl"), rows).unwrap();
        let cases = ["matmul 4 x 4", "pool 2", "matmul 8 x 8"];
        assert_eq!(worst(kept.path()), cases);
    }

    #[test]
    fn it_never_grows_beyond_what_a_terminal_keeps() {
        let kept = kept();
        let many: Vec<Done> = (0..500)
            .map(|i| done(&format!("step-{i}"), "failed"))
            .collect();
        let long = text(kept.path(), &many);
        assert!(long.len() <= MOST, "{}", long.len());
        assert!(
            long.contains("more lines on steps, in steps.jsonl") && long.contains("matmul | 8 x 8"),
            "{long}"
        );
        let rows = fs::read_to_string(kept.path().join("bench/matmul.jsonl")).unwrap();
        let row = rows.lines().nth(1).unwrap();
        fs::write(
            kept.path().join("bench/matmul.jsonl"),
            format!("{row}\n").repeat(300),
        )
        .unwrap();
        let long = text(kept.path(), &many);
        assert!(
            long.len() <= MOST && long.ends_with("bench.jsonl\n"),
            "{}",
            long.len()
        );
        let empty = tempfile::tempdir().unwrap();
        assert!(text(empty.path(), &[]).contains("no case was measured"));
    }
}
