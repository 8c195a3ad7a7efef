//! The protocol's training of a scorer of pairs: steps, batches and rates by the encoder's size.

use super::{PairOptions, Rates};
use crate::model::BertConfig;
use crate::train::schedule::MINUTES;
use crate::verifier::Kind;

/// Samples per second that numbers of steps are reckoned with, of scorers without weights, of convolutions, and of a
/// Transformer: constants, not measurements.
type Throughputs = [u64; 3];

/// Rules for encoders of about one size.
struct Class {
    /// Encoders with fewer parameters than this.
    below: usize,
    frozen: Throughputs,
    end_to_end: Throughputs,
    encoder: Rates,
}

const fn rates(learning_rate: f64, weight_decay: f64) -> Rates {
    Rates {
        learning_rate,
        weight_decay,
    }
}

/// The classes, smallest first; the last has every encoder.
const CLASSES: [Class; 4] = [
    Class {
        below: 30_000_000,
        frozen: [600, 50, 200],
        end_to_end: [440, 55, 150],
        encoder: rates(2e-5, 0.001),
    },
    Class {
        below: 50_000_000,
        frozen: [600, 50, 200],
        end_to_end: [440, 55, 150],
        encoder: rates(1.5e-5, 0.005),
    },
    Class {
        below: 120_000_000,
        frozen: [300, 30, 120],
        end_to_end: [165, 35, 80],
        encoder: rates(1e-5, 0.01),
    },
    Class {
        below: usize::MAX,
        frozen: [150, 20, 60],
        end_to_end: [90, 25, 40],
        encoder: rates(5e-6, 0.01),
    },
];

/// Rows of a step, in the order of [`Throughputs`].
const BATCHES: [usize; 3] = [128, 32, 32];

/// The place of a scorer in [`Throughputs`].
fn column(kind: Kind) -> usize {
    match kind {
        Kind::Transformer => 2,
        Kind::Cnn => 1,
        _ => 0,
    }
}

fn options(
    column: usize,
    parameters: usize,
    end_to_end: bool,
    batch: Option<usize>,
) -> PairOptions {
    let [.., last] = &CLASSES;
    let class = CLASSES.iter().find(|class| parameters < class.below);
    let class = class.unwrap_or(last);
    let batch = batch.unwrap_or(BATCHES[column]);
    let throughput = match end_to_end {
        true => class.end_to_end[column],
        false => class.frozen[column],
    };
    PairOptions {
        batch,
        // A batch of none is refused where the options are checked.
        steps: 60 * MINUTES * throughput / batch.max(1) as u64,
        encoder: end_to_end.then_some(class.encoder),
        ..PairOptions::default()
    }
}

impl PairOptions {
    /// The protocol's training of a scorer over an encoder of this size, frozen or end to end, by the protocol's batches or
    /// others.
    pub fn protocol(
        config: &BertConfig,
        kind: Kind,
        end_to_end: bool,
        batch: Option<usize>,
    ) -> Self {
        options(column(kind), config.parameters(), end_to_end, batch)
    }

    /// Steps in which learning rates rise.
    pub fn warmup_steps(&self) -> u64 {
        (self.steps as f64 * self.warmup) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the protocol: rows of a step, then steps and warm-up of gte-small, frozen and end to end.
    #[test]
    fn scorers_have_the_steps_of_the_protocol() {
        for (column, batch, frozen, end_to_end) in [
            (0, 128, (1125, 112), (825, 82)),
            (1, 32, (375, 37), (412, 41)),
            (2, 32, (1500, 150), (1125, 112)),
        ] {
            for (whole, steps) in [(false, frozen), (true, end_to_end)] {
                let found = options(column, 33_360_000, whole, None);
                assert_eq!(found.batch, batch);
                assert_eq!((found.steps, found.warmup_steps()), steps, "{column}");
                assert_eq!(found.encoder, whole.then_some(rates(1.5e-5, 0.005)));
                assert_eq!(found.verifier, rates(1e-4, 0.01));
                found.check().unwrap();
            }
        }
        let columns = [Kind::MaxSim, Kind::Cnn, Kind::Transformer].map(column);
        assert_eq!(columns, [0, 1, 2]);
    }

    #[test]
    fn larger_encoders_take_fewer_and_smaller_steps() {
        let of = |parameters| options(2, parameters, true, None);
        let sizes = [22_713_216, 33_360_000, 109_000_000, 149_014_272];
        assert_eq!(sizes.map(|n| of(n).steps), [1125, 1125, 600, 300]);
        let encoders = sizes.map(|n| of(n).encoder.unwrap());
        let expected = [(2e-5, 0.001), (1.5e-5, 0.005), (1e-5, 0.01), (5e-6, 0.01)];
        assert_eq!(encoders, expected.map(|(rate, decay)| rates(rate, decay)));
        assert_eq!(options(0, usize::MAX, false, None).steps, 281);
        let halved = options(2, 33_360_000, true, Some(16));
        assert_eq!((halved.batch, halved.steps), (16, 2250));
    }
}
