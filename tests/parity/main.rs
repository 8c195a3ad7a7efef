//! Parity of every operator on every device of this machine.
//!
//! Cases are generated from `cases::all()` for each device. A device that is missing is skipped aloud, unless
//! `NEARMISS_REQUIRE` names it (`cpu`, `wgpu`, `cuda`; separated by commas): then its absence fails.
//! `NEARMISS_RECORD=DIR` writes what was compared to `DIR/<device>.json`.

#[path = "cases.rs"]
mod cases;

use std::sync::{Arc, Mutex};

use cases::{Records, Subject};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // Devices are shared and operators use all cores already.
    arguments.test_threads.get_or_insert(1);
    let required = std::env::var("NEARMISS_REQUIRE").unwrap_or_default();
    let mut trials = Vec::new();
    let mut results = Vec::new();
    for Subject { name, device } in cases::subjects() {
        let device = match device {
            Ok(device) => device,
            Err(why) => {
                let wanted = required
                    .split(',')
                    .any(|r| !r.is_empty() && name.starts_with(r.trim()));
                eprintln!("skipped: {name} ({why})");
                trials.push(
                    Trial::test(format!("{name}::present"), move || {
                        Err(Failed::from(format!(
                            "{name} is required but missing: {why}"
                        )))
                    })
                    .with_ignored_flag(!wanted),
                );
                continue;
            }
        };
        // Every buffer gets memory of its own size, so that a stray access meets a bounds check.
        device.set_memory_caching(false);
        let records = Arc::new(Mutex::new(Records::new()));
        results.push((name, records.clone()));
        for case in cases::all() {
            let (device, records) = (device.clone(), records.clone());
            let spec = nearmiss::ops::ALL.iter().find(|op| op.name == case.op);
            if !spec.is_some_and(|op| op.runs_on(device.kind())) {
                continue;
            }
            trials.push(Trial::test(
                format!("{name}::{}::{}", case.op, case.name),
                move || match (case.run)(&device) {
                    Ok(Some(outcome)) => {
                        let mut records = records.lock().unwrap_or_else(|p| p.into_inner());
                        cases::add(records.entry(case.op.to_string()).or_default(), outcome);
                        Ok(())
                    }
                    Ok(None) => Ok(()),
                    Err(why) => Err(Failed::from(why)),
                },
            ));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Ok(folder) = std::env::var("NEARMISS_RECORD") {
        for (name, records) in results {
            let records = records.lock().unwrap_or_else(|p| p.into_inner());
            let mut text = serde_json::to_string_pretty(&*records).expect("records are plain data");
            text.push('\n');
            let path = std::path::Path::new(&folder).join(format!("{name}.json"));
            if let Err(e) = std::fs::write(&path, text) {
                eprintln!("cannot write {}: {e}", path.display());
                std::process::exit(1);
            }
        }
    }
    conclusion.exit();
}
