//! What the driver says, in words that lead back to the kernels' files.

use std::ffi::CStr;

use cudarc::driver::result::DriverError;

use crate::device::template::Expanded;

/// The first error in the driver's compiler log, its line number replaced by the line of the file that it came from.
pub(super) fn first_complaint(log: &str, expanded: &Expanded) -> Option<String> {
    let line = log
        .lines()
        .find(|line| line.contains("error") || line.contains("fatal"))
        .or_else(|| log.lines().find(|line| !line.trim().is_empty()))?
        .trim();
    let numbered = line.split_once("line ").and_then(|(_, rest)| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        let origin = expanded.origin(digits.parse().ok()?)?;
        let complaint = rest[digits.len()..].trim_start_matches([';', ' ', ':']);
        Some(format!("{origin}: {complaint}"))
    });
    Some(numbered.unwrap_or_else(|| line.to_string()))
}

/// A report of the PTX emulator, `kind: entry, line N, ..`, with its line numbers, which count in the text that the
/// driver got, replaced by places in the kernels' files; anything else as it is.
pub(super) fn placed(report: &str, texts: &[(&'static str, Expanded)]) -> String {
    let unplaced = || report.to_owned();
    let Some((head, tail)) = report.split_once(", line ") else {
        return unplaced();
    };
    let entry = head.rsplit(' ').next().unwrap_or_default();
    let number = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    let (Some(line), Some(instruction)) = (number(tail), tail.split('`').nth(1)) else {
        return unplaced();
    };
    let line: usize = line;
    let opcode = instruction
        .split_whitespace()
        .find(|word| !word.starts_with('@'));
    // Of the variants that have been compiled, those that have this instruction there.
    let mut places = texts
        .iter()
        .filter(|(name, text)| {
            let there = text.text.lines().nth(line.saturating_sub(1));
            *name == entry && there.zip(opcode).is_some_and(|(t, o)| t.contains(o))
        })
        .map(|(_, text)| {
            let mut parts = report.split("line ");
            let mut placed = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                match number(part).and_then(|line| text.origin(line)) {
                    Some(origin) => {
                        placed.push_str(&origin);
                        placed.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
                    }
                    None => {
                        placed.push_str("line ");
                        placed.push_str(part);
                    }
                }
            }
            placed
        });
    match places.next() {
        Some(first) if places.all(|other| other == first) => first,
        _ => unplaced(),
    }
}

/// A driver error in words, with its name.
pub(super) fn explain(error: DriverError) -> String {
    let text =
        |text: Result<&CStr, DriverError>| text.ok().map(|t| t.to_string_lossy().into_owned());
    match (text(error.error_string()), text(error.error_name())) {
        (Some(words), Some(name)) => format!("{words} ({name})"),
        _ => format!("driver error {}", error.0 as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::template::{self, Source, Variant};

    #[test]
    fn compiler_complaints_name_the_line_of_the_file() {
        let source = Source {
            file: "probe.ptx",
            text: "%% set n = 2\n%% for i in range(n)\n  one\n  two\n%% endfor\n",
        };
        let expanded = template::expand(source, &Variant::new()).unwrap();
        let at = 1 + expanded
            .text
            .lines()
            .position(|l| l.contains("two"))
            .unwrap();
        let log = format!(
            "ptxas application ptx input, line {at}; error   : Unknown symbol '%r'\nptxas fatal   : aborted"
        );
        assert_eq!(
            first_complaint(&log, &expanded).unwrap(),
            "probe.ptx:4: error   : Unknown symbol '%r'"
        );
        assert_eq!(
            first_complaint("ptxas fatal   : no", &expanded).unwrap(),
            "ptxas fatal   : no"
        );
        assert_eq!(first_complaint(" \n", &expanded), None);
    }

    #[test]
    fn reports_name_the_line_of_the_file() {
        let source = Source {
            file: "probe.ptx",
            text: "%% if wide\n//\n%% endif\nadd.u32 %a, %a, 1;\nst.global.u32 [%b], %a;\n",
        };
        let text = |wide| {
            let variant = Variant::new().with("wide", wide);
            ("probe", template::expand(source, &variant).unwrap())
        };
        let texts = [text(true), text(false)];
        let line = |i: usize, what: &str| {
            let lines = texts[i].1.text.lines();
            1 + lines.enumerate().find(|l| l.1.contains(what)).unwrap().0
        };
        let (add, store) = (line(0, "add"), line(0, "st.global"));
        let report = |at: usize, instruction: &str| {
            format!("out of bounds: probe, line {at}, `{instruction}`, thread 3: since line {add}")
        };
        assert_eq!(
            placed(&report(store, "st.global.u32 [%b], %a"), &texts),
            "out of bounds: probe, probe.ptx:5, `st.global.u32 [%b], %a`, thread 3: since probe.ptx:4"
        );
        // No variant has that instruction in that line; another kernel; no report at all.
        for other in [
            report(add, "ret"),
            report(store, "st.global.u32").replace("probe", "prob"),
            "invalid value (CUDA_ERROR_INVALID_VALUE)".into(),
        ] {
            assert_eq!(placed(&other, &texts), other);
        }
    }
}
