//! How a call is timed.
//!
//! Device work is asynchronous, so a *sample* is a run of calls with one wait at the end, long enough that the wait and
//! the clock do not show; its time over the number of calls is one measurement. Calls rotate through input sets. Beside
//! it stands `alone`: one call on an idle device, launch and wait included, which is what a single caller waits for.

use std::time::{Duration, Instant};

use nearmiss::Result;
use nearmiss::device::{Device, DeviceKind};

/// Length of a sample on a device that works asynchronously: a wait takes some ten microseconds.
const SAMPLE: f64 = 5e-3;

/// Samples at least, even if they take longer than was asked for: five, or three of a call that alone takes longer.
const MIN_SAMPLES: [usize; 2] = [5, 3];

/// Samples at most.
const MAX_SAMPLES: usize = 2000;

/// Calls of one sample at most: what is enqueued takes memory.
const MAX_CALLS: usize = 256;

/// Times in seconds per call.
pub struct Times {
    /// Calls per sample.
    pub calls: usize,
    /// Number of samples.
    pub samples: usize,
    /// Median over samples.
    pub median: f64,
    /// Shortest.
    pub min: f64,
    /// First quartile.
    pub q1: f64,
    /// Third quartile.
    pub q3: f64,
    /// Longest.
    pub max: f64,
    /// Median of calls on an idle device, waited for one by one.
    pub alone: f64,
}

/// Warms up, then times `call` for about `seconds`; with `quick`, one call.
pub fn time(
    device: &Device,
    seconds: f64,
    quick: bool,
    call: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Times> {
    let mut number = 0;
    let mut sample = |calls: usize| -> Result<f64> {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..calls {
            call(number)?;
            number += 1;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    };
    if quick {
        let once = sample(1)?;
        return Ok(times(1, vec![once], vec![once]));
    }
    // Compilation, allocation and page faults stay out, and clocks rise only under load.
    let warm = Instant::now();
    let mut estimate = sample(1)?;
    while warm.elapsed() < Duration::from_secs_f64(0.3 * seconds.min(1.0)) {
        estimate = sample(1)?;
    }
    let calls = match device.kind() {
        // Nothing is asynchronous here; only very short calls are grouped, for the clock's sake.
        DeviceKind::Cpu => (1e-4 / estimate).ceil() as usize,
        _ => (SAMPLE / estimate).ceil() as usize,
    }
    .clamp(1, MAX_CALLS);
    let enough = MIN_SAMPLES[usize::from(estimate > seconds)];
    let mut collect = |calls: usize, seconds: f64| -> Result<Vec<f64>> {
        let start = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < enough
            || (start.elapsed().as_secs_f64() < seconds && samples.len() < MAX_SAMPLES)
        {
            samples.push(sample(calls)?);
        }
        Ok(samples)
    };
    let samples = collect(calls, seconds)?;
    // A sample of one call is such a call.
    let alone = match calls {
        1 => samples.clone(),
        _ => collect(1, 0.2 * seconds)?,
    };
    Ok(times(calls, samples, alone))
}

fn times(calls: usize, mut samples: Vec<f64>, mut alone: Vec<f64>) -> Times {
    samples.sort_by(f64::total_cmp);
    alone.sort_by(f64::total_cmp);
    Times {
        calls,
        samples: samples.len(),
        median: quantile(&samples, 0.5),
        min: quantile(&samples, 0.0),
        q1: quantile(&samples, 0.25),
        q3: quantile(&samples, 0.75),
        max: quantile(&samples, 1.0),
        alone: quantile(&alone, 0.5),
    }
}

/// The `p`-quantile of sorted values, between neighbours linearly.
fn quantile(sorted: &[f64], p: f64) -> f64 {
    let at = p * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}
