//! How a call is timed.
//!
//! Device work is asynchronous, so a *sample* is a run of calls, long enough that the clock and the wait do not show; its
//! time over the number of calls is one measurement. Calls rotate through input sets. On CUDA the run is recorded as one
//! graph and replayed, between two events of the device, so that what the host needs for launching stays out; what
//! cannot be recorded, since it waits for results, is launched call by call between the events. Elsewhere the host's
//! clock is read. Beside it stand `launched`: the same run launched call by call; and `alone`: one call on an idle
//! device, launch and wait included, which is what a single caller waits for.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use nearmiss::Result;
use nearmiss::device::{Device, DeviceKind};
use serde::{Deserialize, Serialize};

use super::Recorded;

/// Length of a sample on a device that works asynchronously: a wait takes some ten microseconds.
const SAMPLE: f64 = 5e-3;

/// Samples at least, even if they take longer than was asked for: five, or three of a call that alone takes longer.
const MIN_SAMPLES: [usize; 2] = [5, 3];

/// Samples at most.
const MAX_SAMPLES: usize = 2000;

/// Calls of one sample at most: what is enqueued takes memory.
const MAX_CALLS: usize = 256;

/// How a sample was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A replayed graph of calls, between two events.
    Graph,
    /// Calls between two events.
    Stream,
    /// Calls between two looks at the host's clock.
    Clock,
}

/// Times in seconds per call.
pub struct Times {
    /// How samples were taken.
    pub method: Method,
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
    /// Median over samples of calls that are launched one by one, without waiting.
    pub launched: f64,
    /// Median of calls on an idle device, waited for one by one.
    pub alone: f64,
    /// Of the same, what one in a hundred exceeds.
    pub alone_p99: f64,
}

/// A call by its number.
pub type Call<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// Warms up, then times `call` for about `seconds`; with `quick`, once. What cannot be `recorded` is launched call by call.
///
/// # Errors
/// What `call` reports.
pub fn time(
    device: &Device,
    seconds: f64,
    quick: bool,
    call: Call<'_>,
    recorded: &mut Recorded,
) -> Result<Times> {
    let cuda = device.kind() == DeviceKind::Cuda;
    let call = RefCell::new(call);
    let mut number = 0;
    let mut clocked = |calls: usize| -> Result<f64> {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..calls {
            (call.borrow_mut())(number)?;
            number += 1;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    };
    // Compilation, allocation and page faults stay out, and clocks rise only under load.
    let warm = Instant::now();
    let mut estimate = clocked(1)?;
    while !quick && warm.elapsed() < Duration::from_secs_f64(0.3 * seconds.min(1.0)) {
        estimate = clocked(1)?;
    }
    let calls = match device.kind() {
        _ if quick => 1,
        // Nothing is asynchronous here; only very short calls are grouped, for the clock's sake.
        DeviceKind::Cpu => (1e-4 / estimate).ceil() as usize,
        _ => (SAMPLE / estimate).ceil() as usize,
    }
    .clamp(1, MAX_CALLS);
    let enough = match quick {
        true => 1,
        false => MIN_SAMPLES[usize::from(estimate > seconds)],
    };
    let collect = |seconds: f64, sample: &mut dyn FnMut() -> Result<f64>| -> Result<Vec<f64>> {
        let start = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < enough
            || (!quick && start.elapsed().as_secs_f64() < seconds && samples.len() < MAX_SAMPLES)
        {
            samples.push(sample()?);
        }
        Ok(samples)
    };
    if !cuda {
        let samples = collect(seconds, &mut || clocked(calls))?;
        let alone = match calls {
            // A sample of one call is such a call.
            1 => samples.clone(),
            _ => collect(0.2 * seconds, &mut || clocked(1))?,
        };
        let launched = samples.clone();
        return Ok(times(Method::Clock, calls, samples, launched, alone));
    }
    let alone = collect(0.2 * seconds, &mut || clocked(1))?;
    let row = |calls: usize| -> Result<()> {
        let mut call = call.borrow_mut();
        (0..calls).try_for_each(&mut **call)
    };
    let launched = |seconds: f64| {
        collect(seconds, &mut || {
            let time = device.device_time(|| row(calls))?;
            Ok(time.as_secs_f64() / calls as f64)
        })
    };
    // Clocked, a short call is mostly its wait: in a graph there is room for more of them.
    let in_graph = if quick { 2 } else { (4 * calls).min(MAX_CALLS) };
    let graph = match recorded {
        Recorded::All => Some(device.replay(|| row(in_graph))?),
        Recorded::Without(enqueue) => {
            let enqueue = RefCell::new(enqueue);
            let all = || {
                let mut enqueue = enqueue.borrow_mut();
                (0..in_graph).try_for_each(&mut **enqueue)
            };
            Some(device.replay(all)?)
        }
        Recorded::Nothing => None,
    };
    let Some(mut graph) = graph else {
        let samples = launched(seconds)?;
        let same = samples.clone();
        return Ok(times(Method::Stream, calls, samples, same, alone));
    };
    graph.launch()?;
    let samples = collect(seconds, &mut || {
        let time = device.device_time(|| graph.launch())?;
        Ok(time.as_secs_f64() / in_graph as f64)
    })?;
    let launched = launched(0.2 * seconds)?;
    Ok(times(Method::Graph, in_graph, samples, launched, alone))
}

fn times(
    method: Method,
    calls: usize,
    mut samples: Vec<f64>,
    mut launched: Vec<f64>,
    mut alone: Vec<f64>,
) -> Times {
    for values in [&mut samples, &mut launched, &mut alone] {
        values.sort_by(f64::total_cmp);
    }
    Times {
        method,
        calls,
        samples: samples.len(),
        median: quantile(&samples, 0.5),
        min: quantile(&samples, 0.0),
        q1: quantile(&samples, 0.25),
        q3: quantile(&samples, 0.75),
        max: quantile(&samples, 1.0),
        launched: quantile(&launched, 0.5),
        alone: quantile(&alone, 0.5),
        alone_p99: quantile(&alone, 0.99),
    }
}

/// The `p`-quantile of sorted values, between neighbours linearly.
fn quantile(sorted: &[f64], p: f64) -> f64 {
    let at = p * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}
