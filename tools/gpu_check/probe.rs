//! Small commands that measure one thing of the machine: `facts`, `limits` and `jit`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nearmiss::device::{DeviceChoice, DeviceKind};
use nearmiss::ops::kernels;
use nearmiss::study::profile::{Probe, measure_limits};
use nearmiss::{Device, Error, Result, ops};
use serde_json::{Value, json};

use crate::program::{Recorded, timing};

/// Seconds that the empty launch is timed.
const LAUNCH_SECONDS: f64 = 0.5;

#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Options {
    /// cpu, cuda, cuda:N, wgpu, vulkan or metal.
    #[arg(long, default_value = "cuda")]
    device: String,
    /// limits: what another library measured here, lines of JSON as bench_gpu.py prints them.
    #[arg(long, value_name = "FILE")]
    measured: Option<PathBuf>,
    /// jit: only this operator.
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
}

/// Runs `what` with these arguments, the first being its name.
pub fn main_with(what: &str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    crate::command(arguments, |options: &Options| {
        let device = open(options)?;
        match what {
            "facts" => facts(&device)?,
            "limits" => limits(&device, options)?,
            _ => jit(&device, options)?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn open(options: &Options) -> Result<Device> {
    let choice: DeviceChoice = options.device.parse()?;
    Device::open(choice)
}

/// What the device is.
fn facts(device: &Device) -> Result<()> {
    println!(
        "{}",
        json!({"device": device.name(), "software": device.is_software()})
    );
    Ok(())
}

/// The device's limits, and what a launch costs by itself.
fn limits(device: &Device, options: &Options) -> Result<()> {
    let quick = device.is_software();
    let probe = if quick {
        Probe::QUICK
    } else {
        Probe::of(device)
    };
    let measured = options.measured.as_ref().map(std::fs::read_to_string);
    // PyTorch may be missing on this machine.
    let measured = measured.and_then(|text| text.ok()).unwrap_or_default();
    let mut all = measure_limits(device, probe)?.with(&measured).json();
    if device.kind() == DeviceKind::Cuda {
        let call = &mut |_| device.launch_nothing();
        let launch = timing::time(device, LAUNCH_SECONDS, quick, call, &mut Recorded::All)?;
        all["launch"] = json!({
            "seconds_graph": launch.median,
            "seconds_launched": launch.launched,
            "seconds_alone": launch.alone,
        });
    }
    println!("{all}");
    Ok(())
}

/// How long the driver compiles each operator's kernels, all variants: first afresh (if `CUDA_CACHE_PATH` names an empty
/// folder), then from what it kept.
fn jit(device: &Device, options: &Options) -> Result<()> {
    let ops: Vec<_> = ops::ALL
        .iter()
        .filter(|op| options.op.as_ref().is_none_or(|name| name == op.name))
        .collect();
    if ops.is_empty() {
        let name = options.op.as_deref().unwrap_or_default();
        return Err(Error::Usage(format!(
            "no operator is called `{name}`; see run-study ops"
        )));
    }
    for op in ops {
        let Some(source) = op.ptx else { continue };
        let mut row = json!({"op": op.name, "variants": (op.ptx_variants)().len()});
        for state in ["cold", "warm"] {
            let (mut total, mut slowest) = (Duration::ZERO, Duration::ZERO);
            for variant in (op.ptx_variants)() {
                let text = kernels::expand(source, &variant)?.text;
                let time = device.compile_time(&text)?;
                total += time;
                slowest = slowest.max(time);
            }
            row[format!("{state}_seconds")] = Value::from(total.as_secs_f64());
            row[format!("{state}_slowest_seconds")] = Value::from(slowest.as_secs_f64());
        }
        println!("{row}");
    }
    Ok(())
}
