//! Parity of every operator on every device of this machine.
//!
//! Cases are generated from `cases::of()` for each device. A device that is missing is an ignored test, unless
//! `NEARMISS_REQUIRE` names it (`cpu`, `wgpu`, `cuda`; separated by commas): then its absence fails.
//! `NEARMISS_RECORD=DIR` writes what was compared to `DIR/<device>.json`; without it errors are also held to the stored
//! records.

#[path = "cases.rs"]
mod cases;
#[path = "../common/needs.rs"]
mod needs;
#[path = "suite.rs"]
mod suite;

use std::sync::{Arc, Mutex};

use cases::{Records, Subject};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // Devices are shared and operators use all cores already.
    arguments.test_threads.get_or_insert(1);
    let record = std::env::var_os("NEARMISS_RECORD");
    let mut trials = suite();
    let mut results = Vec::new();
    for Subject { name, device } in cases::subjects() {
        let device = match device {
            Ok(device) => device,
            Err(why) => {
                eprintln!("skipped: {name} ({why})");
                let failure = format!("{name} is required but missing: {why}");
                trials.push(
                    Trial::test(format!("{name}::present"), || Err(Failed::from(failure)))
                        .with_ignored_flag(!needs::required(name)),
                );
                continue;
            }
        };
        // Every buffer gets memory of its own size, so that a stray access meets a bounds check.
        device.set_memory_caching(false);
        let records = Arc::new(Mutex::new(Records::new()));
        results.push((name, records.clone()));
        for case in cases::of(name, &device, record.is_some()) {
            let (device, records) = (device.clone(), records.clone());
            trials.push(Trial::test(
                format!("{name}::{}::{}", case.op, case.name),
                move || {
                    let outcome = (case.run)(&device)?;
                    let mut records = records.lock().unwrap_or_else(|p| p.into_inner());
                    cases::add(records.entry(case.op.to_string()).or_default(), outcome);
                    Ok(())
                },
            ));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(folder) = record {
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

/// The tests of the suite itself.
fn suite() -> Vec<Trial> {
    let tests: [(&str, fn()); 6] = [
        (
            "the_arithmetic_shows_behind_the_rounding_to_f16",
            suite::the_arithmetic_shows_behind_the_rounding_to_f16,
        ),
        (
            "a_rounded_number_is_no_error_of_the_arithmetic",
            suite::a_rounded_number_is_no_error_of_the_arithmetic,
        ),
        (
            "an_output_that_is_left_as_it_was_is_found",
            suite::an_output_that_is_left_as_it_was_is_found,
        ),
        (
            "a_guard_that_is_written_is_found",
            suite::a_guard_that_is_written_is_found,
        ),
        (
            "runs_that_differ_are_found",
            suite::runs_that_differ_are_found,
        ),
        (
            "a_variant_that_is_not_listed_is_found",
            suite::a_variant_that_is_not_listed_is_found,
        ),
    ];
    tests
        .map(|(name, test)| {
            Trial::test(format!("suite::{name}"), move || {
                test();
                Ok(())
            })
        })
        .into()
}
