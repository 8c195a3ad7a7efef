//! How many steps, and how large each: linear warm-up and decay, and the rules by which the study sets them.

/// A learning rate that rises linearly from zero to its peak and falls linearly to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The largest learning rate.
    pub peak: f64,
    /// Steps of the whole training, `T`.
    pub steps: u64,
    /// Steps of the warm-up, `W`.
    pub warm_up: u64,
}

impl Schedule {
    /// `steps` steps, this share of them, rounded up, as warm-up; one step at least comes after it, since a training all of
    /// whose rates are 0 would leave the weights as they are.
    pub fn new(peak: f64, steps: u64, warm_up: f64) -> Self {
        let warm_up = (steps as f64 * warm_up).ceil() as u64;
        Schedule {
            peak,
            steps,
            warm_up: warm_up.min(steps.saturating_sub(1)),
        }
    }

    /// The learning rate of the step that comes after `done` updates: `peak` times `t / max(1, W)` in the warm-up, then
    /// `max(0, (T - t) / max(1, T - W))`, with `t = done`. The first update has rate 0. Steps that were left out for a gradient
    /// that is not finite are no updates.
    pub fn rate(&self, done: u64) -> f32 {
        let &Schedule {
            peak,
            steps,
            warm_up,
        } = self;
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let factor = if done < warm_up {
            share(done, warm_up)
        } else {
            share(steps.saturating_sub(done), steps.saturating_sub(warm_up))
        };
        (peak * factor) as f32
    }
}

/// Rules for models of about one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SizeClass {
    /// Models with fewer parameters than this.
    pub below: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Weight decay of matrices.
    pub weight_decay: f32,
    /// Samples per second that the number of steps is reckoned with: a constant, not a measurement.
    pub throughput: u64,
}

/// The classes, smallest first; the last has every model.
pub const SIZE_CLASSES: [SizeClass; 5] = [
    SizeClass {
        below: 30_000_000,
        learning_rate: 1e-4,
        weight_decay: 0.001,
        throughput: 1800,
    },
    SizeClass {
        below: 50_000_000,
        learning_rate: 8e-5,
        weight_decay: 0.005,
        throughput: 1200,
    },
    SizeClass {
        below: 120_000_000,
        learning_rate: 5e-5,
        weight_decay: 0.01,
        throughput: 400,
    },
    SizeClass {
        below: 200_000_000,
        learning_rate: 4e-5,
        weight_decay: 0.01,
        throughput: 250,
    },
    SizeClass {
        below: u64::MAX,
        learning_rate: 3e-5,
        weight_decay: 0.01,
        throughput: 120,
    },
];

/// Training time that the study's numbers of steps are reckoned with.
pub const MINUTES: u64 = 4;

/// Fewest steps by [`SizeClass::steps`].
const FEWEST: u64 = 500;

impl SizeClass {
    /// The class of a model with so many parameters.
    pub fn of(parameters: u64) -> Self {
        let [.., last] = SIZE_CLASSES;
        let found = SIZE_CLASSES
            .into_iter()
            .find(|class| parameters < class.below);
        found.unwrap_or(last)
    }

    /// Steps of `batch` samples in so many minutes: `max(500, floor(60 minutes throughput / batch))`.
    pub fn steps(&self, minutes: u64, batch: u64) -> u64 {
        (60 * minutes * self.throughput / batch.max(1)).max(FEWEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the protocol: parameters, `T`, `W`, learning rate and decay of the four backbones.
    #[test]
    fn backbones_have_the_steps_of_the_protocol() {
        for (parameters, steps, warm_up, learning_rate, weight_decay) in [
            (22_713_216, 3375, 338, 1e-4, 0.001),
            (33_360_000, 2250, 225, 8e-5, 0.005),
            (149_014_272, 500, 50, 4e-5, 0.01),
        ] {
            let class = SizeClass::of(parameters);
            let schedule = Schedule::new(class.learning_rate, class.steps(MINUTES, 128), 0.1);
            assert_eq!((schedule.steps, schedule.warm_up), (steps, warm_up));
            assert_eq!(schedule.peak, learning_rate);
            assert_eq!(class.weight_decay, weight_decay);
        }
        // 60 * 4 * 250 / 128 = 468 is raised to 500.
        assert_eq!(SizeClass::of(110_000_000).steps(4, 128), 750);
        assert_eq!(SizeClass::of(110_000_000).learning_rate, 5e-5);
        assert_eq!(SizeClass::of(200_000_000).learning_rate, 3e-5);
        assert_eq!(SizeClass::of(29_999_999).throughput, 1800);
        assert_eq!(SizeClass::of(30_000_000).throughput, 1200);
        assert_eq!(SizeClass::of(u64::MAX).throughput, 120);
    }

    #[test]
    fn rates_rise_and_fall() {
        let schedule = Schedule::new(1.0, 3375, 0.1);
        assert_eq!(schedule.rate(0), 0.0);
        assert_eq!(schedule.rate(169), 0.5);
        assert_eq!(schedule.rate(337), (337.0 / 338.0) as f32);
        assert_eq!(schedule.rate(338), 1.0);
        assert_eq!(schedule.rate(3374), (1.0 / 3037.0) as f32);
        assert_eq!(schedule.rate(3375), 0.0);
        assert_eq!(schedule.rate(4000), 0.0);
    }

    #[test]
    fn short_trainings_have_rates_too() {
        let of = |steps| Schedule::new(1.0, steps, 0.1);
        assert_eq!((of(1).warm_up, of(1).rate(0), of(1).rate(1)), (0, 1.0, 0.0));
        assert_eq!([0, 1].map(|t| of(2).rate(t)), [0.0, 1.0]);
        assert_eq!(of(0).rate(0), 0.0);
        assert_eq!(Schedule::new(1.0, 4, 1.0).warm_up, 3);
        let cold = Schedule::new(1.0, 4, 0.0);
        assert_eq!([0, 1, 3].map(|t| cold.rate(t)), [1.0, 0.75, 0.25]);
    }
}
