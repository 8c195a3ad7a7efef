//! What a run cost, operator by operator, against the device's measured limits.

use std::fmt::Write;
use std::time::Instant;

use crate::device::{Buffer, Ceilings, Device, DeviceKind, Float, OpTotals};
use crate::error::Result;
use crate::ops::matmul::{Epilogue, matmul};

/// Measures a device's limits: its memory bandwidth by copying a large buffer (read plus written bytes count), its
/// matrix-product rate with this crate's own product, so that a share says how far an operator is from the best that
/// this crate gets here.
///
/// # Errors
/// What the device reports.
pub fn measure_ceilings(device: &Device) -> Result<Ceilings> {
    let software = device.is_software();
    let len = if software { 4 << 20 } else { 32 << 20 };
    let from = device.upload(&vec![1f32; len])?;
    let mut to = device.alloc::<f32>(len)?;
    let bandwidth = 8.0 * len as f64 / best_time(device, || to.copy_from(0, &from, 0..len))?;
    let size = match device.kind() {
        DeviceKind::Cpu => 1024,
        _ if software => 256,
        _ => 4096,
    };
    let flops = match device.kind() {
        DeviceKind::Cpu => product_rate::<f32>(device, size)?,
        _ => product_rate::<half::f16>(device, size)?,
    };
    Ok(Ceilings { flops, bandwidth })
}

fn product_rate<A: Float>(device: &Device, n: usize) -> Result<f64> {
    let values: Vec<A> = (0..n * n)
        .map(|i| A::from_f32((i % 251) as f32 / 251.0 - 0.5))
        .collect();
    let (a, w): (Buffer<A>, Buffer<A>) = (device.upload(&values)?, device.upload(&values)?);
    let mut c = device.alloc::<A>(n * n)?;
    let time = best_time(device, || {
        matmul(&a, &w, &Epilogue::default(), &mut c, n, n)
    })?;
    Ok(2.0 * (n as f64).powi(3) / time)
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

/// A table of totals, most expensive first: calls, time, rates, and the share of the floor that `ceilings` allow.
pub fn table(totals: &[OpTotals], ceilings: Ceilings) -> String {
    let mut totals = totals.to_vec();
    totals.sort_by_key(|t| std::cmp::Reverse(t.time));
    let mut text = format!(
        "measured limits: {:.1} GFLOP/s in matrix products, {:.1} GB/s copying\n\
         | operator | calls | time | GFLOP/s | GB/s | share of the floor |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
        ceilings.flops / 1e9,
        ceilings.bandwidth / 1e9
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
            100.0 * ceilings.floor(t.cost) / seconds
        );
    }
    text
}
