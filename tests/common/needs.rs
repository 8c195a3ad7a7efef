//! Tests that need something which a machine may lack: a device, an assembler, real data.
//!
//! A test that cannot run is no pass. Where what it needs is missing it is an *ignored* test, in the output and in the
//! counts of `cargo test`, and a line `skipped: WHAT (WHY)` says why, unless `NEARMISS_REQUIRE` names it (names separated
//! by commas): then the test fails. Programs of such tests have no harness but `libtest-mimic`.

#![allow(dead_code, reason = "not every program has every kind of test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use nearmiss::Device;
use nearmiss::device::{Tier, WgpuOptions};

/// Something that tests need: here it is, or why not.
pub struct Need<T> {
    what: &'static str,
    here: Result<Arc<T>, String>,
}

impl<T> Need<T> {
    /// The need for `what`, which is `here`.
    pub fn new<E: ToString>(what: &'static str, here: Result<T, E>) -> Self {
        Need {
            what,
            here: here.map(Arc::new).map_err(|why| why.to_string()),
        }
    }

    /// The need for both.
    pub fn and<U>(&self, other: &Need<U>) -> Need<(Arc<T>, Arc<U>)> {
        let (what, here) = match (&self.here, &other.here) {
            (Ok(a), Ok(b)) => (other.what, Ok(Arc::new((a.clone(), b.clone())))),
            (Err(why), _) => (self.what, Err(why.clone())),
            (_, Err(why)) => (other.what, Err(why.clone())),
        };
        Need { what, here }
    }
}

/// Opens a device that is there: every test has one of its own.
pub type Open = fn() -> Device;

/// wgpu in the tier that every adapter has, where there is an adapter.
pub fn wgpu_core() -> Need<Open> {
    const OPEN: fn() -> nearmiss::Result<Device> = || {
        Device::wgpu(WgpuOptions {
            tier: Some(Tier::Core),
            ..WgpuOptions::default()
        })
    };
    let core: Open = || OPEN().expect("it opened before");
    Need::new("wgpu-core", OPEN().map(|_| core))
}

/// The devices under test: the CPU, wgpu and CUDA.
pub fn devices() -> [Need<Open>; 3] {
    fn wgpu() -> Device {
        Device::wgpu(WgpuOptions::default()).expect("it opened before")
    }
    let (cpu, wgpu): (Open, Open) = (Device::cpu, wgpu);
    [
        Need::new("cpu", Ok::<_, String>(cpu)),
        Need::new("wgpu", Device::wgpu(WgpuOptions::default()).map(|_| wgpu)),
        cuda(),
    ]
}

/// The need for a CUDA device.
pub fn cuda() -> Need<Open> {
    let open: Open = || Device::cuda(0).expect("it opened before");
    Need::new("cuda", Device::cuda(0).map(|_| open))
}

/// Adds functions as tests under their names: such that need nothing, or such that take a device.
#[allow(unused_macros, reason = "as above")]
macro_rules! add {
    ($tests:ident: $($test:ident),+ $(,)?) => {
        $($tests.add(stringify!($test), $test);)+
    };
    ($tests:ident, $device:expr => $($test:ident),+ $(,)?) => {
        $($tests.with($device, stringify!($test), |open| $test(open()));)+
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use add;

/// Whether `NEARMISS_REQUIRE` names `what`; `wgpu` means `wgpu-core` too.
pub fn required(what: &str) -> bool {
    let names = std::env::var("NEARMISS_REQUIRE").unwrap_or_default();
    names.split([',', ' ']).any(|name| {
        let rest = (!name.is_empty()).then(|| what.strip_prefix(name));
        rest.flatten()
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// The tests of a program.
#[derive(Default)]
pub struct Tests {
    trials: Vec<Trial>,
    missing: BTreeMap<&'static str, String>,
}

impl Tests {
    /// Adds a test that needs nothing.
    pub fn add(&mut self, name: &str, test: impl FnOnce() + Send + 'static) {
        self.trials.push(trial(name.into(), test));
    }

    /// Adds a test that needs something and is given it.
    pub fn with<T: Send + Sync + 'static>(
        &mut self,
        need: &Need<T>,
        name: &str,
        test: impl FnOnce(&T) + Send + 'static,
    ) {
        let name = format!("{}::{name}", need.what);
        match &need.here {
            Ok(here) => {
                let here = here.clone();
                self.trials.push(trial(name, move || test(&here)));
            }
            Err(why) => {
                let failure = format!("{} is required, and missing: {why}", need.what);
                self.missing.insert(need.what, why.clone());
                self.trials.push(
                    Trial::test(name, || Err(Failed::from(failure)))
                        .with_kind(format!("needs {}", need.what))
                        .with_ignored_flag(!required(need.what)),
                );
            }
        }
    }

    /// Runs what the command line asks for, and ends the program.
    pub fn run(self) -> ! {
        let arguments = Arguments::from_args();
        if !arguments.list {
            for (what, why) in &self.missing {
                eprintln!("skipped: {what} ({why})");
            }
        }
        libtest_mimic::run(&arguments, self.trials).exit()
    }
}

fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, || {
        test();
        Ok(())
    })
}
