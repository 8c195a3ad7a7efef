//! What a run cost, operator by operator, against the device's limits, which are measured on the spot.
//!
//! * Bandwidth: the best of a copy between two large buffers (bytes read plus written) and a pass that only reads (a
//!   sum on the CPU; on a GPU the row norms of `cosine_topk` where it has them).
//! * Matrix-product rate: the best of this crate's own products, a large square one and the encoder's widest. A share
//!   of the floor so says how far an operator is from the best that *this crate* reaches here, not from a data sheet.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use half::f16;
use rayon::prelude::*;

use crate::device::{Ceilings, Device, DeviceKind, Float, OpTotals};
use crate::error::{Error, Result};
use crate::ops::cosine_topk::inverse_norms;
use crate::ops::matmul::{Epilogue, matmul};

/// Limits and how they were found.
pub struct Limits {
    /// The numbers.
    pub ceilings: Ceilings,
    /// One line for a record.
    pub how: String,
}

/// How much work a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Bytes that a pass over memory moves.
    pub bytes: usize,
    /// Rows and columns of the square product; the encoder's widest has as many rows.
    pub square: usize,
}

impl Probe {
    /// A trial, to see that it works.
    pub const QUICK: Probe = Probe {
        bytes: 1 << 20,
        square: 64,
    };

    /// What fills the device for about a second in all.
    pub fn of(device: &Device) -> Self {
        match device.kind() {
            DeviceKind::Cpu => Probe {
                bytes: 256 << 20,
                square: 2048,
            },
            _ if device.is_software() => Probe {
                bytes: 32 << 20,
                square: 256,
            },
            _ => Probe {
                bytes: 2 << 30,
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
    let Probe { bytes, square } = probe;
    let copy = copy_rate(device, bytes / 2)?;
    let read = match device.kind() {
        DeviceKind::Cpu => Some(host_read_rate(bytes)),
        _ => norms_rate(device, bytes)?,
    };
    let (bandwidth, pass) = match read {
        Some(read) if read > copy => (read, "reading"),
        _ => (copy, "copying"),
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
        let start = Instant::now();
        work()?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn copy_rate(device: &Device, bytes: usize) -> Result<f64> {
    let bytes = bytes.min(device.max_binding() as usize);
    let len = bytes / 4;
    let from = device.upload(&vec![1f32; len])?;
    let mut to = device.alloc::<f32>(len)?;
    let time = best_time(device, || to.copy_from(0, &from))?;
    Ok(2.0 * bytes as f64 / time)
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

/// `None` where the device does not have the operator.
fn norms_rate(device: &Device, bytes: usize) -> Result<Option<f64>> {
    let d = 384;
    let n = bytes.min(device.max_binding() as usize) / 2 / d;
    let rows = device.upload(&vec![f16::ONE; n * d])?;
    let mut norms = device.alloc::<f32>(n)?;
    match best_time(device, || inverse_norms(&rows, d, &mut norms)) {
        Ok(time) => Ok(Some((2 * n * d + 4 * n) as f64 / time)),
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
