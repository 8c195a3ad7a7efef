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
    /// Largest error of the arithmetic by itself, over outputs stored as f32, in units of its bound; 0 without such.
    pub arithmetic_f32: f64,
    /// The same over outputs stored as f16, the rounding to nearest discounted: what remains of the error, over the bound
    /// without its term for storing. `worst_ratio`, near 1 by that rounding alone, cannot show how far the arithmetic went
    /// astray; this does.
    pub arithmetic_f16: f64,
    /// Broken variants that the comparison rejected.
    pub broken_rejected: u64,
}

/// How many times its stored value an error of the arithmetic may be before it counts as a jump. Inputs are the same in
/// every run, so on one machine the numbers repeat; another processor may add in another number of lanes, or have no
/// fused multiply-add, each of which changes a sum of roundings by about the square root of two, either way. What is to
/// be found (an intermediate value kept in f16, a coarser approximation) changes it by orders of magnitude.
const JUMP: f64 = 2.0;

/// Below this share of its bound an error is no jump: bounds count up to some thousand roundings at their worst, so this is
/// a few of them, and which element is the worst is chance.
const FLOOR: f64 = 0.01;

impl Record {
    /// What in `fresh` has become worse than this record allows for; one line each.
    pub fn jumps(&self, fresh: &Record) -> Vec<String> {
        // Of an f16 output only the few elements next to where rounding turns show anything, which is chance; of an f32
        // output, made by the same arithmetic, all do.
        let either = self.arithmetic_f16.max(self.arithmetic_f32);
        [
            ("f32", self.arithmetic_f32, fresh.arithmetic_f32),
            ("f16", either, fresh.arithmetic_f16),
        ]
        .into_iter()
        .filter(|&(_, stored, now)| now.is_nan() || now > (JUMP * stored).max(FLOOR))
        .map(|(element, stored, now)| {
            format!("{element} outputs: error {now:.4} of the bound, recorded {stored:.4}")
        })
        .collect()
    }

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
        stored: Some(include_str!("../../tests/parity/records/cuda.json")),
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
        arithmetic_f32: 0.25,
        arithmetic_f16: 0.002,
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
    fn a_jump_is_twice_the_record_and_more_than_a_few_roundings() {
        let fresh = |arithmetic_f32, arithmetic_f16| Record {
            arithmetic_f32,
            arithmetic_f16,
            ..GOOD
        };
        for (f32s, f16s, jumps) in [
            (0.25, 0.002, 0),
            (0.5, 0.5, 0),
            (0.51, 0.002, 1),
            (0.25, 0.51, 1),
            (0.9, 0.9, 2),
            (f64::NAN, 0.0, 1),
            // Better is no jump.
            (0.0, 0.0, 0),
        ] {
            let found = GOOD.jumps(&fresh(f32s, f16s));
            assert_eq!(found.len(), jumps, "{f32s}, {f16s}: {found:?}");
        }
        // Where there are only outputs of f16 they are held to their own.
        assert!(fresh(0.0, 0.002).jumps(&fresh(0.0, 0.01)).is_empty());
        assert_eq!(fresh(0.0, 0.006).jumps(&fresh(0.0, 0.013)).len(), 1);
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
