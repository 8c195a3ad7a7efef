//! The two limits of a device from which floors follow, measured on the spot.
//!
//! * Bandwidth: the best of a copy between two large buffers (bytes read plus written) and a pass that only reads (a
//!   sum on the CPU; on a GPU the row norms of `cosine_topk` where it has them).
//! * Matrix-product rate: the best of this crate's own products, a large square one and the encoder's widest. A share
//!   of the floor so says how far an operator is from the best that *this crate* reaches here, not from a data sheet.

use std::hint::black_box;
use std::time::Instant;

use half::f16;
use nearmiss::device::{Ceilings, Device, DeviceKind, Float};
use nearmiss::ops::cosine_topk::{self, inverse_norms};
use nearmiss::ops::matmul::{Epilogue, matmul};
use nearmiss::{Error, Result};
use rayon::prelude::*;

use super::ops::noise;
use super::{Context, Scale};

/// Limits and how they were found.
pub struct Limits {
    /// The numbers.
    pub ceilings: Ceilings,
    /// One line for the record.
    pub how: String,
}

/// Measures both limits.
pub fn measure(context: &Context) -> Result<Limits> {
    let device = &context.device;
    let bytes: usize = match context.scale {
        Scale::Quick => 1 << 20,
        Scale::Software => 32 << 20,
        Scale::Cpu => 256 << 20,
        Scale::Gpu => 2 << 30,
    };
    let copy = copy_rate(device, bytes / 2)?;
    let read = if device.kind() == DeviceKind::Cpu {
        Some(host_read_rate(bytes))
    } else if cosine_topk::SPEC.runs_on(device.kind()) {
        norms_rate(device, bytes)?
    } else {
        None
    };
    let square = match context.scale {
        Scale::Quick => 64,
        Scale::Software => 256,
        Scale::Cpu => 2048,
        Scale::Gpu => 8192,
    };
    let mut shapes = vec![[square; 3]];
    if matches!(context.scale, Scale::Cpu | Scale::Gpu) {
        shapes.push([square, 1536, 384]);
    }
    let mut product = (0.0, [0; 3]);
    for shape in shapes {
        let rate = match device.kind() {
            DeviceKind::Cpu => product_rate::<f32>(device, shape)?,
            _ => product_rate::<f16>(device, shape)?,
        };
        if rate > product.0 {
            product = (rate, shape);
        }
    }
    let (flops, [m, n, k]) = product;
    let (bandwidth, pass) = match read {
        Some(read) if read > copy => (read, "reading"),
        _ => (copy, "copying"),
    };
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
    let time = best_time(device, || to.copy_from(0, &from, 0..len))?;
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

/// `None` where the device has this operator for other devices only.
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
    let a = device.upload(&noise::<A>(m * k, 1.0, 1))?;
    let w = device.upload(&noise::<A>(n * k, 0.05, 2))?;
    let mut c = device.alloc::<A>(m * n)?;
    let time = best_time(device, || {
        matmul(&a, &w, &Epilogue::default(), &mut c, m, n)
    })?;
    Ok(2.0 * (m * n * k) as f64 / time)
}
