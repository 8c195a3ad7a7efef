//! `devices` and `kernel`: what there is on this machine and in this program.

use nearmiss::ops::kernels;
use nearmiss::{Device, Error, Result, ops};

use super::super::args::Language;
use super::{print, print_json};

/// Which devices there are, which one `auto` takes, and what each lacks.
pub fn devices(json: bool) -> Result<()> {
    let lines = Device::inventory();
    if json {
        let values: Vec<_> = lines
            .iter()
            .map(|l| serde_json::json!({ "device": l.device, "available": l.available, "detail": l.detail }))
            .collect();
        return print_json(&values);
    }
    let mut text = String::new();
    for line in lines {
        let mark = if line.available {
            "available"
        } else {
            "missing"
        };
        text.push_str(&format!("{:<8} {mark:<10} {}\n", line.device, line.detail));
    }
    let (auto, passed) = Device::auto_explained();
    text.push_str(&format!("--device auto takes {}\n", auto.name()));
    for line in passed {
        text.push_str(&format!("  not {}: {}\n", line.device, line.detail));
    }
    print(&text)
}

/// The variants of an operator's kernel, or the expanded text of one.
pub fn kernel(op: &str, language: Language, variant: Option<usize>) -> Result<()> {
    let names = || {
        ops::ALL
            .iter()
            .map(|op| op.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let spec = ops::ALL
        .iter()
        .find(|spec| spec.name == op)
        .ok_or_else(|| Error::Usage(format!("unknown operator `{op}`: there are {}", names())))?;
    let (source, variants) = match language {
        Language::Ptx => (spec.ptx, (spec.ptx_variants)()),
        Language::Wgsl => (spec.wgsl, (spec.wgsl_variants)()),
    };
    let source =
        source.ok_or_else(|| Error::Usage(format!("{op} has no kernel in that language")))?;
    let Some(number) = variant else {
        let list: Vec<String> = variants
            .iter()
            .enumerate()
            .map(|(i, v)| format!("{i:>3}  {v}\n"))
            .collect();
        return print(&list.concat());
    };
    let variant = variants.get(number).ok_or_else(|| {
        Error::Usage(format!(
            "--variant {number}: {op} has variants 0 to {}",
            variants.len().max(1) - 1
        ))
    })?;
    print(&kernels::expand(source, variant)?.text)
}
