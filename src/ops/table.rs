//! The operator table: operator by device, made from the stored records of the parity suite.
//!
//! A record is what one run of `cargo test --test parity` compared on one device (`tests/parity/records/DEVICE.json`,
//! written with `NEARMISS_RECORD=tests/parity/records`). A cell is a pass only where a record holds at least one
//! compared element and at least one broken variant that was rejected; nothing in the table is written by hand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::device::DeviceKind;
use crate::ops::{ALL, OpSpec};

/// What the parity suite compared for one operator on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Passing cases.
    pub cases: u64,
    /// Output elements held against the reference in f64.
    pub elements: u64,
    /// Largest error, in units of the derived bound.
    pub worst_ratio: f64,
    /// Broken variants that the comparison rejected.
    pub broken_rejected: u64,
}

impl Record {
    /// Whether this shows anything: something was compared, the comparison was able to fail, and it did not.
    pub fn passes(&self) -> bool {
        self.elements > 0 && self.broken_rejected > 0 && self.worst_ratio <= 1.0
    }
}

/// Records of one device, by operator name.
pub type Records = BTreeMap<String, Record>;

/// A column of the table: a device that the parity suite knows.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// The device as the suite calls it, also the stem of its file of records.
    pub name: &'static str,
    /// Its kind, which says what operators exist for it.
    pub kind: DeviceKind,
    /// The stored file, if the suite has been recorded there.
    stored: Option<&'static str>,
}

/// Every column. A device whose records are not stored yet has `None`; a test fails when a file lies there unused.
pub const SUBJECTS: &[Subject] = &[
    Subject {
        name: "cpu",
        kind: DeviceKind::Cpu,
        stored: Some(include_str!("../../tests/parity/records/cpu.json")),
    },
    Subject {
        name: "wgpu-core",
        kind: DeviceKind::Wgpu,
        stored: Some(include_str!("../../tests/parity/records/wgpu-core.json")),
    },
    Subject {
        name: "wgpu-f16",
        kind: DeviceKind::Wgpu,
        stored: Some(include_str!("../../tests/parity/records/wgpu-f16.json")),
    },
    Subject {
        name: "cuda-emulated",
        kind: DeviceKind::Cuda,
        stored: Some(include_str!(
            "../../tests/parity/records/cuda-emulated.json"
        )),
    },
    Subject {
        name: "cuda",
        kind: DeviceKind::Cuda,
        stored: None,
    },
];

impl Subject {
    /// The stored records, `None` where there are none yet.
    ///
    /// # Panics
    /// If the embedded file is not a file of records, which a test of this crate rules out.
    pub fn records(&self) -> Option<Records> {
        self.stored.map(|text| {
            serde_json::from_str(text)
                .unwrap_or_else(|e| panic!("tests/parity/records/{}.json: {e}", self.name))
        })
    }
}

/// The table in Markdown: one row per operator, one column per device.
///
/// `pass` comes with the number of cases and the largest error in units of its derived bound; `not run` marks an
/// operator that exists on the device and has no record there; a dash one that does not exist there.
pub fn markdown() -> String {
    markdown_with(&BTreeMap::new())
}

/// The same with other records in place of the stored ones, by the device's name.
pub fn markdown_with(fresh: &BTreeMap<String, Records>) -> String {
    let columns: Vec<(Subject, Records)> = SUBJECTS
        .iter()
        .map(|s| {
            let records = fresh.get(s.name).cloned().or_else(|| s.records());
            (*s, records.unwrap_or_default())
        })
        .collect();
    render(ALL, &columns)
}

fn render(ops: &[&OpSpec], columns: &[(Subject, Records)]) -> String {
    let mut rows = vec![vec!["operator".to_string()]];
    rows[0].extend(columns.iter().map(|(subject, _)| subject.name.to_string()));
    for op in ops {
        let mut row = vec![format!("`{}`", op.name)];
        row.extend(columns.iter().map(|(subject, records)| {
            if op.runs_on(subject.kind) {
                cell(records.get(op.name))
            } else {
                "—".into()
            }
        }));
        rows.push(row);
    }
    // Columns of equal width, so that the text can be read as it is.
    let width = |c: usize| rows.iter().map(|row| row[c].chars().count()).max();
    let widths: Vec<usize> = (0..=columns.len()).filter_map(width).collect();
    let rule: Vec<String> = widths.iter().map(|&w| "-".repeat(w)).collect();
    rows.insert(1, rule);
    let mut text = String::new();
    for row in &rows {
        for (value, &width) in row.iter().zip(&widths) {
            text.push_str(&format!("| {value:<width$} "));
        }
        text.push_str("|\n");
    }
    text
}

fn cell(record: Option<&Record>) -> String {
    match record {
        Some(r) if r.passes() => format!("pass: {} cases, {:.3}", r.cases, r.worst_ratio),
        _ => "not run".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{embedding, layer_norm};

    const GOOD: Record = Record {
        cases: 2,
        elements: 10,
        worst_ratio: 0.25,
        broken_rejected: 1,
    };

    #[test]
    fn a_cell_is_a_pass_only_from_a_record_that_could_have_failed() {
        assert_eq!(cell(Some(&GOOD)), "pass: 2 cases, 0.250");
        let nothing_compared = Record {
            elements: 0,
            ..GOOD
        };
        let nothing_rejected = Record {
            broken_rejected: 0,
            ..GOOD
        };
        let beyond = Record {
            worst_ratio: 1.1,
            ..GOOD
        };
        let nan = Record {
            worst_ratio: f64::NAN,
            ..GOOD
        };
        for bad in [nothing_compared, nothing_rejected, beyond, nan] {
            assert_eq!(cell(Some(&bad)), "not run");
        }
        assert_eq!(cell(None), "not run");
    }

    #[test]
    fn the_table_tells_missing_operators_from_unrecorded_ones() {
        let cuda = SUBJECTS
            .iter()
            .find(|s| s.name == "cuda")
            .copied()
            .expect("cuda is a column");
        let columns = [
            (SUBJECTS[0], Records::from([("layer_norm".into(), GOOD)])),
            (cuda, Records::new()),
        ];
        let no_ptx = OpSpec {
            ptx: None,
            ..embedding::SPEC
        };
        assert_eq!(
            render(&[&layer_norm::SPEC, &no_ptx], &columns),
            "\
| operator     | cpu                  | cuda    |
| ------------ | -------------------- | ------- |
| `layer_norm` | pass: 2 cases, 0.250 | not run |
| `embedding`  | not run              | —       |
"
        );
    }

    #[test]
    fn stored_records_are_records_of_operators_that_exist() {
        for subject in SUBJECTS {
            for (op, record) in subject.records().unwrap_or_default() {
                assert!(ALL.iter().any(|spec| spec.name == op), "{op}");
                assert!(record.passes(), "{op} on {}: {record:?}", subject.name);
            }
        }
        assert!(markdown().lines().count() == ALL.len() + 2);
    }
}
