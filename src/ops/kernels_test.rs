//! The parameters that operators declare are those of their kernels: same names, same order, in both languages.

use super::{ALL, OpSpec};
use crate::device::template::expand;
use crate::device::{Kernel, Language, Param, ParamKind};

/// `.TYPE NAME` of every parameter of every entry of expanded PTX.
fn ptx_entries(text: &str) -> Vec<(String, Vec<String>)> {
    let code: String = text
        .lines()
        .flat_map(|line| [line.split("//").next().unwrap_or_default(), " "])
        .collect();
    code.split(".entry")
        .skip(1)
        .map(|declaration| {
            let (name, rest) = declaration.split_once('(').expect("a parameter list");
            let (list, _) = rest.split_once(')').expect("its end");
            let words = list.split(',').map(|p| {
                let words: Vec<&str> = p.split_whitespace().collect();
                words[1..].join(" ")
            });
            (name.trim().to_string(), words.collect())
        })
        .collect()
}

fn in_ptx(param: &Param) -> String {
    let kind = match param.kind {
        ParamKind::Read | ParamKind::Write => ".u64",
        ParamKind::U32 => ".u32",
        ParamKind::F32 => ".f32",
    };
    format!("{kind} p_{}", param.name)
}

/// What an expanded shader declares: its entry, bindings as `ACCESS NAME` in the order of their numbers, and the fields
/// of `Params` as `NAME: TYPE`.
struct Shader {
    entry: String,
    bindings: Vec<String>,
    numbers: Vec<String>,
}

fn shader(text: &str) -> Shader {
    let code: Vec<&str> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let code = code.join("\n");
    let mut bindings: Vec<(usize, String)> = code
        .split("@binding(")
        .skip(1)
        .map(|rest| {
            let (number, rest) = rest.split_once(')').expect("a number");
            let (_, rest) = rest.split_once("var<storage,").expect("storage");
            let (access, rest) = rest.split_once('>').expect("an access");
            let (name, _) = rest.split_once(':').expect("a name");
            let number = number.trim().parse().expect("a number");
            (number, format!("{} {}", access.trim(), name.trim()))
        })
        .collect();
    bindings.sort();
    assert!(
        bindings.iter().enumerate().all(|(i, b)| i == b.0),
        "{bindings:?}"
    );
    let fields = code
        .split_once("struct Params {")
        .and_then(|(_, rest)| rest.split_once('}'))
        .map_or("", |(fields, _)| fields);
    let fields = fields.split(',').map(str::trim).filter(|f| !f.is_empty());
    let (_, main) = code.split_once("@compute").expect("an entry");
    let (_, main) = main.split_once("fn ").expect("a function");
    Shader {
        entry: main
            .split('(')
            .next()
            .unwrap_or_default()
            .trim()
            .to_string(),
        bindings: bindings.into_iter().map(|(_, name)| name).collect(),
        numbers: fields.map(str::to_string).collect(),
    }
}

/// `None` for a number.
fn in_wgsl(param: &Param) -> Option<String> {
    match param.kind {
        ParamKind::Read => Some(format!("read {}", param.name)),
        ParamKind::Write => Some(format!("read_write {}", param.name)),
        _ => None,
    }
}

fn named<'a>(spec: &'a OpSpec, entry: &str) -> &'a Kernel {
    let found = spec.kernels.iter().find(|kernel| kernel.entry == entry);
    found.unwrap_or_else(|| panic!("{}: entry {entry} is not declared", spec.name))
}

#[test]
fn parameters_are_those_of_the_kernels() {
    for spec in ALL {
        let mut seen = Vec::new();
        for variant in (spec.ptx_variants)() {
            let text = expand(spec.ptx.expect("variants of something"), &variant).unwrap();
            for (entry, found) in ptx_entries(&text.text) {
                let kernel = named(spec, &entry);
                let there = kernel.params.iter().filter(|p| p.is_in(Language::Ptx));
                let declared: Vec<String> = there.map(in_ptx).collect();
                assert_eq!(found, declared, "{entry} [{variant}]");
                assert!(kernel.ptx.is_some(), "{entry}");
                seen.push((Language::Ptx, entry));
            }
        }
        for variant in (spec.wgsl_variants)() {
            let text = expand(spec.wgsl.expect("variants of something"), &variant).unwrap();
            let found = shader(&text.text);
            let kernel = named(spec, &found.entry);
            let there = || kernel.params.iter().filter(|p| p.is_in(Language::Wgsl));
            // Of the optional ones some are there, in order.
            let mut bound = found.bindings.iter().peekable();
            for param in there() {
                let Some(declared) = in_wgsl(param) else {
                    continue;
                };
                if bound.peek() == Some(&&declared) {
                    bound.next();
                } else {
                    assert!(param.optional, "{} [{variant}]: {declared}", found.entry);
                }
            }
            assert_eq!(bound.next(), None, "{} [{variant}]", found.entry);
            let numbers = there().filter_map(|param| match param.kind {
                ParamKind::U32 => Some(format!("{}: u32", param.name)),
                ParamKind::F32 => Some(format!("{}: f32", param.name)),
                _ => None,
            });
            assert_eq!(
                found.numbers,
                numbers.collect::<Vec<_>>(),
                "{} [{variant}]",
                found.entry
            );
            assert!(kernel.wgsl.is_some(), "{}", found.entry);
            seen.push((Language::Wgsl, found.entry));
        }
        for kernel in spec.kernels {
            let is = |language| seen.contains(&(language, kernel.entry.to_string()));
            assert_eq!(is(Language::Ptx), kernel.ptx.is_some(), "{}", kernel.entry);
            assert_eq!(
                is(Language::Wgsl),
                kernel.wgsl.is_some(),
                "{}",
                kernel.entry
            );
        }
    }
}

#[test]
fn another_order_is_seen() {
    let text = "struct Params { d: u32, n: f32 }\n@group(0) @binding(1) var<storage, read_write> y: array<f32>;\n\
        @group(0) @binding(0) var<storage, read> x: array<f32>;\n@compute @workgroup_size(1)\nfn probe() {}\n";
    let found = shader(text);
    assert_eq!(found.entry, "probe");
    assert_eq!(found.bindings, ["read x", "read_write y"]);
    assert_eq!(found.numbers, ["d: u32", "n: f32"]);
    let entries = ptx_entries(".visible .entry probe(.param .u64 p_x,\n .param .u32 p_n) { }");
    assert_eq!(
        entries,
        [("probe".into(), vec![".u64 p_x".into(), ".u32 p_n".into()])]
    );
}
