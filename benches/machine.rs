//! The facts without which a time says little.

use std::fs;
use std::process::Command;

use nearmiss::device::{Device, DeviceKind};

/// Bytes of the last-level cache: the CPU's own where Linux tells it, else 32 MiB; for a GPU 128 MiB, more than any
/// has today (the driver interfaces used here do not tell).
pub fn last_level_cache(device: &Device) -> u64 {
    if device.kind() != DeviceKind::Cpu && !device.is_software() {
        return 128 << 20;
    }
    (0..8)
        .filter_map(|i| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size");
            let text = fs::read_to_string(path).ok()?;
            text.trim().strip_suffix('K')?.parse::<u64>().ok()
        })
        .max()
        .map_or(32 << 20, |kib| kib << 10)
}

/// The processor's name.
pub fn cpu_model() -> String {
    let from_proc = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    });
    from_proc
        .or_else(|| output("sysctl", &["-n", "machdep.cpu.brand_string"]))
        .unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// Vector instructions that decide what the CPU paths run.
pub fn cpu_features() -> String {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [(std::env::consts::ARCH, true)];
    let names: Vec<&str> = found.iter().filter(|f| f.1).map(|f| f.0).collect();
    names.join(" ")
}

/// Operating system and kernel.
pub fn system() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or(std::env::consts::OS.into(), |n| {
            n.trim_matches('"').to_string()
        });
    let kernel = output("uname", &["-sr"]).unwrap_or_default();
    format!("{name}, {kernel}, {}", std::env::consts::ARCH)
}

/// How busy the machine was just before.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next().map(String::from))
        .unwrap_or_else(|| "unknown".into())
}

/// The commit, as whoever carried the program here says, else from the checkout.
pub fn commit() -> String {
    if let Ok(commit) = std::env::var("NEARMISS_BUILD_COMMIT") {
        return commit;
    }
    let root = env!("CARGO_MANIFEST_DIR");
    let Some(hash) = output("git", &["-C", root, "rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    let sources = ["src", "kernels", "shaders", "benches/ops"];
    let mut arguments = vec!["-C", root, "status", "--porcelain", "--"];
    arguments.extend(sources);
    match output("git", &arguments) {
        None => hash,
        Some(_) => format!("{hash} with changes"),
    }
}

/// The compiler, as whoever carried the program here says, else the one on the path.
pub fn rustc() -> String {
    std::env::var("NEARMISS_BUILD_RUSTC")
        .ok()
        .or_else(|| output("rustc", &["--version"]))
        .unwrap_or_else(|| "unknown".into())
}

/// NVIDIA's driver, where there is one.
pub fn nvidia_driver() -> Option<String> {
    fs::read_to_string("/proc/driver/nvidia/version")
        .ok()
        .and_then(|text| text.lines().next().map(String::from))
}

/// The clocks of NVIDIA's GPUs at this moment, their temperature and power, where `nvidia-smi` tells.
pub fn nvidia_clocks() -> Option<String> {
    let query =
        "--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active";
    output("nvidia-smi", &[query, "--format=csv,noheader"])
}

/// Today in UTC, `YYYY-MM-DD`.
pub fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

/// First line that a command prints; `None` if it fails or prints nothing.
fn output(command: &str, arguments: &[&str]) -> Option<String> {
    let done = Command::new(command).args(arguments).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    let line = text.lines().next()?.trim().to_string();
    (done.status.success() && !line.is_empty()).then_some(line)
}
