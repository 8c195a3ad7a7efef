//! What a run cost, operator by operator, against the device's limits, which are measured on the spot.
//!
//! * Bandwidth: the best of a copy between two large buffers (bytes read plus written) and a pass that only reads (a
//!   sum on the CPU; on a GPU the row norms of `cosine_topk` where it has them).
//! * Matrix-product rate: the best of this crate's own products, a large square one and the encoder's widest. A share
//!   of the floor so says how far an operator is from the best that *this crate* reaches here, not from a data sheet.
//!
//! Where another library has measured the same machine, its figures count too ([`Limits::with`]): the better bandwidth, and
//! its product in place of our own.

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use half::f16;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::device::{Buffer, Ceilings, Device, DeviceKind, Element, Float, OpTotals};
use crate::error::{Error, Result};
use crate::ops::cosine_topk::inverse_norms;
use crate::ops::matmul::{Epilogue, matmul};

/// Limits and how they were found.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The numbers.
    pub ceilings: Ceilings,
    /// One line for a record.
    pub how: String,
}

impl Limits {
    /// Takes over what another library measured on this machine: lines of JSON as `tools/reference/bench_gpu.py` prints
    /// them (`what`: read, copy or matmul, with `gb_per_s` or `tflop_per_s`); others are passed over.
    pub fn with(mut self, measured: &str) -> Self {
        let rows = measured
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut product = None;
        for row in rows {
            let what = row["what"].as_str().unwrap_or_default();
            let rate = |name: &str| {
                row[name]
                    .as_f64()
                    .filter(|rate| rate.is_finite() && *rate > 0.0)
            };
            match (what, rate("gb_per_s"), rate("tflop_per_s")) {
                ("read" | "copy", Some(rate), _) if rate * 1e9 > self.ceilings.bandwidth => {
                    self.ceilings.bandwidth = rate * 1e9;
                    let _ = write!(self.how, "; {rate:.1} GB/s in PyTorch's {what}");
                }
                ("matmul", _, Some(rate)) if product.is_none_or(|best| rate > best) => {
                    product = Some(rate);
                }
                _ => {}
            }
        }
        if let Some(rate) = product {
            self.ceilings.flops = rate * 1e12;
            let _ = write!(self.how, "; {:.1} GFLOP/s in PyTorch's product", rate * 1e3);
        }
        self
    }

    /// One line of JSON, for [`Limits::read`].
    pub fn json(&self) -> Value {
        json!({
            "bytes_per_s": self.ceilings.bandwidth,
            "flop_per_s": self.ceilings.flops,
            "how": self.how,
        })
    }

    /// Limits that were measured before.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Input`] if the file holds no limits.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let rate = |name: &str| {
            value[name]
                .as_f64()
                .filter(|rate| rate.is_finite() && *rate > 0.0)
        };
        match (
            rate("bytes_per_s"),
            rate("flop_per_s"),
            value["how"].as_str(),
        ) {
            (Some(bandwidth), Some(flops), Some(how)) => Ok(Limits {
                ceilings: Ceilings { flops, bandwidth },
                how: how.into(),
            }),
            _ => Err(Error::input(
                path,
                "no limits; `gpu-check limits` writes bytes_per_s, flop_per_s and how",
            )),
        }
    }
}

/// How much work a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Bytes that a copy moves.
    pub bytes: usize,
    /// Bytes that a pass reads.
    pub read: usize,
    /// Rows and columns of the square product; the encoder's widest has as many rows.
    pub square: usize,
}

impl Probe {
    /// A trial, to see that it works.
    pub const QUICK: Probe = Probe {
        bytes: 1 << 20,
        read: 1 << 20,
        square: 64,
    };

    /// What fills the device for about a second in all.
    pub fn of(device: &Device) -> Self {
        match device.kind() {
            DeviceKind::Cpu => Probe {
                bytes: 256 << 20,
                read: 256 << 20,
                square: 2048,
            },
            _ if device.is_software() => Probe {
                bytes: 32 << 20,
                read: 32 << 20,
                square: 256,
            },
            _ => Probe {
                bytes: 2 << 30,
                read: 10_000_000_000,
                square: 8192,
            },
        }
    }
}

/// Measures both limits of a device.
///
/// # Errors
/// What the device reports.
pub fn measure_limits(device: &Device, probe: Probe) -> Result<Limits> {
    let Probe {
        bytes,
        read,
        square,
    } = probe;
    let copied = copy_rate(device, bytes / 2)?;
    let pass = match device.kind() {
        DeviceKind::Cpu => Some((host_read_rate(read), read)),
        _ => norms_rate(device, read)?,
    };
    let (bandwidth, pass, bytes) = match pass {
        Some((rate, read)) if rate > copied => (rate, "reading", read),
        _ => (copied, "copying", bytes),
    };
    let mut product = (0.0, [0; 3]);
    for shape in [[square; 3], [square, 1536, 384]] {
        let rate = match device.kind() {
            DeviceKind::Cpu => product_rate::<f32>(device, shape)?,
            _ => product_rate::<f16>(device, shape)?,
        };
        if rate > product.0 {
            product = (rate, shape);
        }
    }
    let (flops, [m, n, k]) = product;
    Ok(Limits {
        ceilings: Ceilings { flops, bandwidth },
        how: format!(
            "{:.1} GB/s {pass} {} MiB, {:.1} GFLOP/s in our own matmul {m} x {n} x {k}",
            bandwidth / 1e9,
            bytes >> 20,
            flops / 1e9
        ),
    })
}

/// The shortest of five runs after a warm-up, in seconds.
fn best_time(device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    device.synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        best = best.min(device.device_time(&mut work)?.as_secs_f64());
    }
    Ok(best)
}

fn copy_rate(device: &Device, bytes: usize) -> Result<f64> {
    let bytes = bytes.min(device.max_binding() as usize);
    let len = bytes / 4;
    let from = filled(device, len, 1f32)?;
    let mut to = device.alloc::<f32>(len)?;
    let time = best_time(device, || to.copy_from(0, &from))?;
    Ok(2.0 * bytes as f64 / time)
}

/// `len` equal numbers, of which the host sends only the first few.
fn filled<T: Element>(device: &Device, len: usize, value: T) -> Result<Buffer<T>> {
    const BLOCK: usize = 1 << 22;
    let block = device.upload(&vec![value; BLOCK.min(len)])?;
    let mut all = device.alloc(len)?;
    for at in (0..len).step_by(BLOCK) {
        all.copy_from(at, block.slice(..BLOCK.min(len - at)))?;
    }
    Ok(all)
}

/// All threads add up a large array.
fn host_read_rate(bytes: usize) -> f64 {
    let values = vec![1u64; bytes / 8];
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        let sum: u64 = values
            .par_chunks(1 << 15)
            .map(|part| part.iter().fold(0u64, |sum, v| sum.wrapping_add(*v)))
            .reduce(|| 0, u64::wrapping_add);
        black_box(sum);
        best = best.min(start.elapsed().as_secs_f64());
    }
    bytes as f64 / best
}

/// The rate and the bytes read, fewer than `bytes` if there is not that much memory; `None` where the device does not
/// have the operator.
fn norms_rate(device: &Device, bytes: usize) -> Result<Option<(f64, usize)>> {
    let d = 384;
    let n = bytes.min(device.max_binding() as usize) / 2 / d;
    let rows = match filled(device, n * d, f16::ONE) {
        Err(Error::OutOfMemory { .. }) if n > 1 => return norms_rate(device, bytes / 2),
        rows => rows?,
    };
    let mut norms = device.alloc::<f32>(n)?;
    match best_time(device, || inverse_norms(&rows, d, &mut norms)) {
        Ok(time) => Ok(Some(((2 * n * d + 4 * n) as f64 / time, bytes))),
        Err(Error::Unsupported { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn product_rate<A: Float>(device: &Device, [m, n, k]: [usize; 3]) -> Result<f64> {
    // A product of zeros can run faster than one of numbers.
    let operand = |len: usize, scale: f32| -> Vec<A> {
        (0..len)
            .map(|i| A::from_f32(((i * 7919 % 251) as f32 / 125.0 - 1.0) * scale))
            .collect()
    };
    let a = device.upload(&operand(m * k, 1.0))?;
    let w = device.upload(&operand(n * k, 0.05))?;
    let mut c = device.alloc::<A>(m * n)?;
    let time = best_time(device, || {
        matmul(&a, &w, &Epilogue::default(), &mut c, m, n)
    })?;
    Ok(2.0 * (m * n * k) as f64 / time)
}

/// A table of totals, most expensive first: calls, time, rates, and the share of the floor that the limits allow.
pub fn table(totals: &[OpTotals], limits: &Limits) -> String {
    let mut totals = totals.to_vec();
    totals.sort_by_key(|t| std::cmp::Reverse(t.time));
    let mut text = format!(
        "measured limits: {}\n\
         | operator | calls | time | GFLOP/s | GB/s | share of the floor |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
        limits.how
    );
    for t in totals {
        let seconds = t.time.as_secs_f64().max(1e-9);
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} ms | {:.1} | {:.1} | {:.0} % |",
            t.op,
            t.calls,
            seconds * 1e3,
            t.cost.flop as f64 / seconds / 1e9,
            t.cost.bytes as f64 / seconds / 1e9,
            100.0 * limits.ceilings.floor(t.cost) / seconds
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Limits {
        Limits {
            ceilings: Ceilings {
                flops: 5e13,
                bandwidth: 3e12,
            },
            how: "own".into(),
        }
    }

    #[test]
    fn what_another_library_measured_counts_where_it_is_a_limit() {
        let measured = "{\"what\": \"machine\"}\n\
            {\"what\": \"read\", \"gb_per_s\": 4000.0}\n{\"what\": \"copy\", \"gb_per_s\": 2000.0}\n\
            {\"what\": \"matmul\", \"tflop_per_s\": 20.0}\n{\"what\": \"matmul\", \"tflop_per_s\": 40.0}\n{\"wha";
        let limits = own().with(measured);
        assert_eq!(limits.ceilings.bandwidth, 4e12);
        // Its product is the limit even if our own is faster.
        assert_eq!(limits.ceilings.flops, 4e13);
        assert!(
            limits.how.contains("4000.0 GB/s in PyTorch's read"),
            "{}",
            limits.how
        );
        let alone = own().with("");
        assert_eq!((alone.ceilings.flops, &alone.how[..]), (5e13, "own"));
    }

    #[test]
    fn limits_are_read_as_they_were_written_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.json");
        std::fs::write(&path, own().json().to_string()).unwrap();
        let read = Limits::read(&path).unwrap();
        assert_eq!(read.ceilings.bandwidth, 3e12);
        assert_eq!((read.ceilings.flops, &read.how[..]), (5e13, "own"));
        std::fs::write(
            &path,
            "{\"bytes_per_s\": 0, \"flop_per_s\": 1, \"how\": \"\"}",
        )
        .unwrap();
        assert!(
            Limits::read(&path)
                .unwrap_err()
                .to_string()
                .contains("no limits")
        );
    }

    #[test]
    fn a_filled_buffer_is_filled_to_its_end() {
        let cpu = Device::cpu();
        let values = filled(&cpu, (1 << 22) + 6, 2f32).unwrap().read().unwrap();
        assert!(values.len() == (1 << 22) + 6 && values.iter().all(|v| *v == 2.0));
    }
}
