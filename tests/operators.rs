//! No operator lacks a part, no part lacks an operator, and what is said about them is what was measured.

#[path = "common/needs.rs"]
mod needs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nearmiss::ops::{self, OpSpec, table};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder that holds one file (a large one: one folder) per operator, and which operators must have one.
struct Part {
    folder: &'static str,
    extension: &'static str,
    required: fn(&OpSpec) -> bool,
    /// Files that belong to no single operator.
    shared: &'static [&'static str],
}

const PARTS: &[Part] = &[
    Part {
        folder: "src/ops",
        extension: "rs",
        required: |_| true,
        shared: &[
            "halves",
            "mod",
            "pictures",
            "rounding",
            "segments",
            "simd",
            "table",
            "texts",
            "token_pairs",
        ],
    },
    Part {
        folder: "shaders",
        extension: "wgsl",
        required: |op| op.wgsl.is_some(),
        shared: &[],
    },
    Part {
        folder: "kernels",
        extension: "ptx",
        required: |op| op.ptx.is_some(),
        shared: &[],
    },
    Part {
        folder: "tests/parity",
        extension: "rs",
        required: |_| true,
        shared: &["main", "cases", "judge", "outputs", "suite"],
    },
    Part {
        folder: "benches/ops",
        extension: "rs",
        required: |_| true,
        // `encode` times the operators together, `pairs` is what those of listed pairs have in common.
        shared: &[
            "mod",
            "encode",
            "pair_step",
            "verify",
            "pairs",
            "train_step",
        ],
    },
];

/// Stems of the files `folder/*.extension`, and folders that hold `mod.extension`; fragments, which begin with `_`, and
/// tests, which end with `_test`, left out.
fn stems(folder: &Path, extension: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| {
            let module = path.join("mod").with_extension(extension);
            path.extension().is_some_and(|e| e == extension) || module.is_file()
        })
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_string()))
        .filter(|stem| !stem.starts_with('_') && !stem.ends_with("_test"))
        .collect()
}

/// What is wrong between the files of `folder` and the operators that must have one there.
fn gaps(folder: &Path, part: &Part, ops: &[&OpSpec]) -> Vec<String> {
    let found = stems(folder, part.extension);
    let wanted: BTreeSet<String> = ops
        .iter()
        .filter(|op| (part.required)(op))
        .map(|op| op.name.to_string())
        .collect();
    let file = |stem: &String| format!("{}/{stem}.{}", part.folder, part.extension);
    let missing = wanted
        .difference(&found)
        .map(|stem| format!("{} is missing", file(stem)));
    let orphans = found
        .iter()
        .filter(|stem| !wanted.contains(*stem) && !part.shared.contains(&stem.as_str()))
        .map(|stem| format!("{} belongs to no operator of ops::ALL", file(stem)));
    missing.chain(orphans).collect()
}

fn every_operator_has_all_its_parts_and_no_part_is_an_orphan() {
    let mut wrong = Vec::new();
    for part in PARTS {
        wrong.extend(gaps(&root().join(part.folder), part, ops::ALL));
    }
    for op in ops::ALL {
        let folder = root().join("src/ops").join(op.name);
        let there = |part: &&str| folder.join(part).with_extension("rs").is_file();
        let parts = ["reference", "cpu"].iter().filter(|part| !there(part));
        if folder.is_dir() {
            wrong.extend(parts.map(|part| format!("src/ops/{}/{part}.rs is missing", op.name)));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn a_missing_part_and_an_orphan_are_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let part = &PARTS[1];
    for op in ops::ALL.iter().skip(1) {
        std::fs::write(folder.path().join(format!("{}.wgsl", op.name)), "").expect("writable");
    }
    std::fs::write(folder.path().join("_fragment.wgsl"), "").expect("writable");
    std::fs::write(folder.path().join("stray.wgsl"), "").expect("writable");
    assert_eq!(
        gaps(folder.path(), part, ops::ALL),
        [
            format!("shaders/{}.wgsl is missing", ops::ALL[0].name),
            "shaders/stray.wgsl belongs to no operator of ops::ALL".into(),
        ]
    );
}

fn parts_are_registered_under_the_operators_name() {
    let mut names = BTreeSet::new();
    for op in ops::ALL {
        assert!(names.insert(op.name), "{} is listed twice", op.name);
        assert!(!op.formula.is_empty(), "{} states no formula", op.name);
        for (source, extension, variants) in [
            (op.wgsl, "wgsl", (op.wgsl_variants)()),
            (op.ptx, "ptx", (op.ptx_variants)()),
        ] {
            if let Some(source) = source {
                assert_eq!(source.file, format!("{}.{extension}", op.name));
            }
            assert_eq!(
                source.is_some(),
                !variants.is_empty(),
                "{}: kernel and variants in {extension} go together",
                op.name
            );
        }
        for (module, program) in [("tests/parity", "cases.rs"), ("benches/ops", "mod.rs")] {
            let path = root().join(module).join(program);
            let text = std::fs::read_to_string(&path).expect("readable");
            let used = format!("{}::cases(", op.name);
            assert!(
                text.contains(&used),
                "{module}/{program} does not call {used}..)"
            );
        }
    }
}

fn the_table_in_the_readme_is_the_generated_one() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md is readable");
    let (begin, end) = ("<!-- ops:begin -->", "<!-- ops:end -->");
    let inside = readme
        .split_once(begin)
        .and_then(|(_, rest)| rest.split_once(end))
        .map(|(inside, _)| inside.trim())
        .unwrap_or_else(|| panic!("README.md lacks {begin} .. {end}"));
    assert_eq!(
        inside,
        table::markdown().trim(),
        "put what `tools/run-study ops` prints between {begin} and {end} of README.md"
    );
}

/// Records in a folder, by device.
fn records(folder: &Path) -> BTreeMap<String, table::Records> {
    stems(folder, "json")
        .into_iter()
        .map(|name| {
            let path = folder.join(format!("{name}.json"));
            let text = std::fs::read_to_string(&path).expect("readable");
            let records =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (name, records)
        })
        .collect()
}

fn stored_records_cover_exactly_the_operators_of_each_device() {
    let stored = records(&root().join("tests/parity/records"));
    for name in stored.keys() {
        assert!(
            table::SUBJECTS
                .iter()
                .any(|s| s.name == name && s.records().is_some()),
            "tests/parity/records/{name}.json is not embedded in src/ops/table.rs"
        );
    }
    for subject in table::SUBJECTS {
        let Some(embedded) = subject.records() else {
            continue;
        };
        assert_eq!(
            stored.get(subject.name),
            Some(&embedded),
            "{}",
            subject.name
        );
        let recorded: BTreeSet<&str> = embedded.keys().map(String::as_str).collect();
        let there: BTreeSet<&str> = ops::ALL
            .iter()
            .filter(|op| op.runs_on(subject.kind))
            .map(|op| op.name)
            .collect();
        // A GPU is not at hand whenever an operator is new; the table says what has not run there.
        let complete = match subject.name {
            "cuda" => recorded.is_subset(&there),
            _ => recorded == there,
        };
        assert!(
            complete,
            "tests/parity/records/{}.json does not hold the operators that run there; record again",
            subject.name
        );
    }
}

/// What differs between a stored file of records and a fresh one. What was compared may not differ; errors may (another
/// processor, another driver), as long as they do not jump.
fn differences(name: &str, stored: &table::Records, fresh: &table::Records) -> Vec<String> {
    let counts = |r: &table::Record| (r.cases, r.elements, r.broken_rejected);
    let names: BTreeSet<&String> = stored.keys().chain(fresh.keys()).collect();
    names
        .into_iter()
        .flat_map(|op| match (stored.get(op), fresh.get(op)) {
            (Some(s), Some(f)) if counts(s) == counts(f) => s
                .jumps(f)
                .into_iter()
                .map(|jump| format!("{op} on {name}: {jump}"))
                .collect(),
            (s, f) => vec![format!("{op} on {name}: stored {s:?}, fresh {f:?}")],
        })
        .collect()
}

/// `folder` is what a complete run of the parity suite has just written.
fn stored_records_are_what_a_fresh_run_compares(folder: &Path) {
    let fresh = records(folder);
    assert!(
        fresh.contains_key("cpu"),
        "{}: no cpu.json; run parity with NEARMISS_RECORD set to it",
        folder.display()
    );
    let mut wrong = Vec::new();
    for subject in table::SUBJECTS {
        match (subject.records(), fresh.get(subject.name)) {
            (Some(stored), Some(fresh)) => {
                wrong.extend(differences(subject.name, &stored, fresh));
            }
            (None, Some(_)) => println!("{}: compared here, not stored", subject.name),
            (_, None) => println!("{}: not on this machine", subject.name),
        }
    }
    assert!(
        wrong.is_empty(),
        "\n{}\nrecord again: NEARMISS_RECORD=tests/parity/records cargo test --release --test parity",
        wrong.join("\n")
    );
}

fn stale_records_are_found() {
    let stored = table::SUBJECTS[0].records().expect("cpu is recorded");
    assert!(differences("cpu", &stored, &stored).is_empty());

    let mut fewer = stored.clone();
    fewer.remove("matmul");
    assert_eq!(differences("cpu", &stored, &fewer).len(), 1);
    let mut other = stored.clone();
    other.get_mut("matmul").expect("recorded").elements += 1;
    assert_eq!(differences("cpu", &stored, &other).len(), 1);
    // A smaller error elsewhere is no difference.
    let mut better = stored.clone();
    better.get_mut("matmul").expect("recorded").worst_ratio /= 2.0;
    assert!(differences("cpu", &stored, &better).is_empty());
    // A jump is, even if the error stays within its bound.
    let mut worse = stored.clone();
    let arithmetic = &mut worse.get_mut("matmul").expect("recorded").arithmetic_f32;
    *arithmetic = 0.02 + 2.0 * *arithmetic;
    let found = differences("cpu", &stored, &worse);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("matmul on cpu: f32 outputs"),
        "{found:?}"
    );
}

fn main() {
    let mut tests = needs::Tests::default();
    needs::add!(tests:
        every_operator_has_all_its_parts_and_no_part_is_an_orphan,
        a_missing_part_and_an_orphan_are_found,
        parts_are_registered_under_the_operators_name,
        the_table_in_the_readme_is_the_generated_one,
        stored_records_cover_exactly_the_operators_of_each_device,
        stale_records_are_found,
    );
    let fresh = std::env::var_os("NEARMISS_FRESH_RECORDS").map(PathBuf::from);
    let fresh = fresh.ok_or("NEARMISS_FRESH_RECORDS is not set; tools/check sets it");
    let fresh = needs::Need::new("fresh-records", fresh);
    tests.with(
        &fresh,
        "stored_records_are_what_a_fresh_run_compares",
        |folder| {
            stored_records_are_what_a_fresh_run_compares(folder);
        },
    );
    tests.run()
}
