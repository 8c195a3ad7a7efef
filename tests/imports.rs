//! Imports run one way: `error <- device <- ops <- model <- encoder <- index <- verifier <- train <- study`. `text`, `data`
//! and `metrics` know no device; nothing in `device` names an operator; nothing above `ops` names CUDA or wgpu.
//!
//! Read from the sources of the library, tests left out: every path that begins at the root of the crate, in a `use` or
//! where it is used.

use std::fs;
use std::path::{Path, PathBuf};

use nearmiss::ops;

/// From the bottom to the top: a layer imports what stands before it.
const LAYERS: [&str; 9] = [
    "error", "device", "ops", "model", "encoder", "index", "verifier", "train", "study",
];

/// What knows no device: imports `error` and its like, and is imported from `ops` up.
const ASIDE: [&str; 4] = ["random", "text", "data", "metrics"];

/// Names of the two GPU interfaces.
const INTERFACES: [&str; 5] = ["cuda", "Cuda", "cudarc", "wgpu", "Wgpu"];

/// Whether a file of module `from` may import module `to`.
fn may_import(from: &str, to: &str) -> bool {
    let layer = |name| LAYERS.iter().position(|&layer| layer == name);
    if from == to {
        return true;
    }
    match (layer(from), layer(to)) {
        (Some(from), Some(to)) => to < from,
        (Some(from), None) => ASIDE.contains(&to) && from >= 2,
        (None, _) => ASIDE.contains(&from) && (to == "error" || ASIDE.contains(&to)),
    }
}

/// The text with comments blanked and, if asked for, string literals; lines stay where they are.
fn code(text: &str, strings: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let begins = |at: usize, what: &str| {
        what.chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let mut at = 0;
    while at < chars.len() {
        let end = if begins(at, "//") {
            (at..chars.len())
                .find(|&i| chars[i] == '\n')
                .unwrap_or(chars.len())
        } else if begins(at, "/*") {
            (at + 2..chars.len())
                .find(|&i| begins(i, "*/"))
                .map_or(chars.len(), |i| i + 2)
        } else if chars[at] == '"' {
            let mut i = at + 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            (i + 1).min(chars.len())
        } else if begins(at, "r\"") || begins(at, "r#") && (begins(at, "r#\"") || begins(at, "r##"))
        {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            let close = format!("\"{}", "#".repeat(hashes));
            (at + hashes + 2..chars.len())
                .find(|&i| begins(i, &close))
                .map_or(chars.len(), |i| i + close.len())
        } else if chars[at] == '\'' && (chars.get(at + 2) == Some(&'\'') || begins(at, "'\\")) {
            let from = at + if begins(at, "'\\") { 3 } else { 2 };
            (from..chars.len())
                .find(|&i| chars[i] == '\'')
                .map_or(chars.len(), |i| i + 1)
        } else {
            out.push(chars[at]);
            at += 1;
            continue;
        };
        let comment = begins(at, "/");
        for &c in &chars[at..end] {
            out.push(if comment || strings { blank(c) } else { c });
        }
        at = end;
    }
    out
}

/// What of a file the library consists of: all before its tests, a module in the file that is only there for them.
fn without_tests(text: &str) -> &str {
    let mut at = 0;
    let mut of_tests = None;
    for line in text.split_inclusive('\n') {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            of_tests = Some(at);
        } else if line.starts_with("mod ")
            && line.trim_end().ends_with('{')
            && let Some(begin) = of_tests
        {
            return &text[..begin];
        } else if !line.starts_with("#[") {
            of_tests = None;
        }
        at += line.len();
    }
    text
}

/// Names, punctuation and their lines (from 1).
fn tokens(code: &str) -> Vec<(&str, usize)> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let word = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let length = word.max(c.len_utf8());
            if !c.is_whitespace() {
                all.push((&rest[..length], number));
            }
            rest = &rest[length..];
        }
    }
    all
}

/// Top-level modules that the code of a module at `depth` (1: `src/NAME.rs`, `src/NAME/mod.rs`) names, with the line.
fn named(code: &str, depth: usize) -> Vec<(String, usize)> {
    let tokens = tokens(code);
    let is = |at: usize, what: &str| tokens.get(at).is_some_and(|t| t.0 == what);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // `crate::`, or as many `super::` as lead to the root; not the end of another path.
        let mut next = at;
        let mut ups = 0;
        while is(next, "super") && is(next + 1, ":") && is(next + 2, ":") {
            (next, ups) = (next + 3, ups + 1);
        }
        let rooted = is(at, "crate") && is(at + 1, ":") && is(at + 2, ":");
        if rooted {
            next = at + 3;
        }
        if !rooted && ups != depth {
            at = next.max(at + 1);
            continue;
        }
        if is(next, "{") {
            // The first name of each part, parts in braces passed over.
            let mut level = 0;
            let mut first = true;
            while let Some(&(token, line)) = tokens.get(next) {
                match token {
                    "{" => level += 1,
                    "}" => level -= 1,
                    "," if level == 1 => {}
                    name if first && level == 1 => found.push((name.to_string(), line)),
                    _ => {}
                }
                first = level == 1 && (token == "," || token == "{");
                next += 1;
                if level == 0 {
                    break;
                }
            }
        } else if let Some(&(name, line)) = tokens.get(next) {
            found.push((name.to_string(), line));
        }
        at = next.max(at + 1);
    }
    found.retain(|(name, _)| name != "self");
    for (name, _) in &mut found {
        // What the root re-exports.
        match &name[..] {
            "Device" | "DeviceKind" => *name = "device".into(),
            "Error" | "Result" => *name = "error".into(),
            _ => {}
        }
    }
    found
}

/// What is wrong in a file, `path` relative to `src`.
fn wrong_in(path: &Path, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let module = parts[0].trim_end_matches(".rs");
    let of_tests = |file: &&str| *file == "tests.rs" || file.ends_with("_test.rs");
    if module == "lib" || parts.last().is_some_and(of_tests) {
        return Vec::new();
    }
    let depth = parts.len() - usize::from(parts.last() == Some(&"mod.rs"));
    let text = without_tests(text);
    let bare = code(text, true);
    let place = |line: usize| format!("src/{}:{line}", path.display());
    let mut wrong: Vec<String> = named(&bare, depth)
        .into_iter()
        .filter(|(to, _)| !may_import(module, to))
        .map(|(to, line)| format!("{}: {module} imports {to}", place(line)))
        .collect();
    let words = |text: &str, known: &[&str], why: &str| -> Vec<String> {
        tokens(text)
            .into_iter()
            .filter(|(word, _)| known.contains(word))
            .map(|(word, line)| format!("{}: {why} names {word}", place(line)))
            .collect()
    };
    if module == "device" {
        // `pool` is a word for memory as well.
        let names: Vec<&str> = ops::ALL
            .iter()
            .map(|op| op.name)
            .filter(|n| *n != "pool")
            .collect();
        wrong.extend(words(&code(text, false), &names, "device"));
    } else if !["error", "ops"].contains(&module) {
        wrong.extend(words(&bare, &INTERFACES, module));
    }
    wrong
}

/// All Rust files under `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn imports_run_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = files(&src);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("readable");
        let path = file.strip_prefix(&src).expect("under src");
        seen += named(&code(&text, true), path.iter().count()).len();
        wrong.extend(wrong_in(path, &text));
    }
    assert!(
        seen > files.len(),
        "{seen} imports in {} files",
        files.len()
    );
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).expect("readable") {
        let path = entry.expect("a folder entry").path();
        let name = path.file_stem().and_then(|s| s.to_str()).expect("a name");
        assert!(
            name == "lib" || LAYERS.contains(&name) || ASIDE.contains(&name),
            "src/{name} has no place in the order of imports"
        );
    }
}

#[test]
fn what_runs_the_wrong_way_is_found() {
    let wrong = |path: &str, text: &str| wrong_in(Path::new(path), text);
    assert_eq!(
        wrong(
            "index/mod.rs",
            "use crate::error::Error;\nuse crate::verifier::Scorer;\n"
        ),
        ["src/index/mod.rs:2: index imports verifier"]
    );
    let grouped =
        "use crate::{\n    error::{Error, Result},\n    study,\n    device::{self, Device},\n};\n";
    assert_eq!(
        wrong("encoder/forward.rs", grouped),
        ["src/encoder/forward.rs:3: encoder imports study"]
    );
    // Where it is used, and by way of `super`.
    assert_eq!(
        wrong(
            "device/mod.rs",
            "fn f(op: &crate::ops::OpSpec) {}\nuse super::model;\n"
        ),
        [
            "src/device/mod.rs:1: device imports ops",
            "src/device/mod.rs:2: device imports model"
        ]
    );
    assert_eq!(
        wrong(
            "data/beir.rs",
            "use super::super::device::Device;\nuse super::pairs;\nuse crate::{Device, Result};\n"
        ),
        [
            "src/data/beir.rs:1: data imports device",
            "src/data/beir.rs:3: data imports device"
        ]
    );
    assert_eq!(
        wrong(
            "device/template.rs",
            "const F: &str = \"matmul.ptx\"; // attention\n"
        ),
        ["src/device/template.rs:1: device names matmul"]
    );
    assert_eq!(
        wrong("study/mod.rs", "let device = Device::cuda(0)?; // wgpu\n"),
        ["src/study/mod.rs:1: study names cuda"]
    );
    // Behind a module of tests that is a file of its own, all the same.
    assert_eq!(
        wrong(
            "ops/mod.rs",
            "#[cfg(test)]\nmod kernels_test;\nuse crate::model::config;\n"
        ),
        ["src/ops/mod.rs:3: ops imports model"]
    );
    let fine = "use crate::Device;\nuse crate::error::Result;\n/* crate::study */ let s = \"crate::study cuda\";\n\
        let c = '\"'; let r = r#\"crate::study \"cuda\"#;\n\n#[cfg(test)]\nmod tests {\n    use crate::study;\n}\n";
    assert_eq!(wrong("index/file.rs", fine), Vec::<String>::new());
}
