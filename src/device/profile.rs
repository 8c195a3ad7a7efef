//! What ran on a device: counts, costs and, when profiling, times.

use std::time::Duration;

/// What an operator must at least do: the two numbers from which a floor follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations; a fused multiply-add counts as two.
    pub flop: u64,
    /// Bytes moved to and from memory if each input is read once and each output written once.
    pub bytes: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.flop += other.flop;
        self.bytes += other.bytes;
    }
}

/// Measured limits of a device, for the share of the floor that an operator reaches.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Matrix-product rate in FLOP per second.
    pub flops: f64,
    /// Memory bandwidth in bytes per second.
    pub bandwidth: f64,
}

impl Ceilings {
    /// The shortest time `cost` can take, in seconds.
    pub fn floor(&self, cost: Cost) -> f64 {
        (cost.flop as f64 / self.flops).max(cost.bytes as f64 / self.bandwidth)
    }
}

/// Totals of one operator on one device.
#[derive(Clone, Debug)]
pub struct OpTotals {
    /// Operator name.
    pub op: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// Summed cost.
    pub cost: Cost,
    /// Summed time; zero unless profiling was on.
    pub time: Duration,
}

#[derive(Default)]
pub(super) struct Log {
    timing: bool,
    totals: Vec<OpTotals>,
}

impl Log {
    pub fn set_timing(&mut self, on: bool) {
        self.timing = on;
    }

    pub fn timing(&self) -> bool {
        self.timing
    }

    pub fn totals(&self) -> Vec<OpTotals> {
        self.totals.clone()
    }

    pub fn record(&mut self, op: &'static str, cost: Cost, time: Option<Duration>) {
        let at = match self.totals.iter().position(|t| t.op == op) {
            Some(at) => at,
            None => {
                self.totals.push(OpTotals {
                    op,
                    calls: 0,
                    cost: Cost::default(),
                    time: Duration::ZERO,
                });
                self.totals.len() - 1
            }
        };
        let entry = &mut self.totals[at];
        entry.calls += 1;
        entry.cost += cost;
        entry.time += time.unwrap_or_default();
    }
}
