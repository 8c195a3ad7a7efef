//! How long a step may take.

/// Seconds below which a process hardly starts.
const START: f64 = 2.0;

/// Seconds that a step gets of the `left` ones: what those after it do not need (`later`, the sum of what each needs at
/// least), at most `most`; where not all can have what they need, what it needs itself, since half of that would measure
/// nothing and the first are worth most. `None` where too little is left for that.
pub fn limit(left: f64, least: f64, most: f64, later: f64) -> Option<f64> {
    let limit = (left - later).max(least).min(most).min(left);
    (limit >= least.min(START)).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What steps get if every one of them takes all it is given.
    fn hanging(seconds: f64, steps: &[(f64, f64)]) -> Vec<Option<f64>> {
        let mut left = seconds;
        (0..steps.len())
            .map(|i| {
                let later = steps[i + 1..].iter().map(|s| s.0).sum();
                let got = limit(left, steps[i].0, steps[i].1, later);
                left -= got.unwrap_or(0.0);
                assert!(left >= -1e-9);
                got
            })
            .collect()
    }

    #[test]
    fn the_first_may_use_what_the_others_do_not_need() {
        let steps = [(10.0, 60.0), (10.0, 20.0), (5.0, f64::INFINITY)];
        assert_eq!(hanging(100.0, &steps), [Some(60.0), Some(20.0), Some(20.0)]);
        assert_eq!(hanging(30.0, &steps), [Some(15.0), Some(10.0), Some(5.0)]);
    }

    #[test]
    fn short_time_goes_to_the_first() {
        let steps = [(10.0, 60.0), (10.0, 20.0), (5.0, f64::INFINITY)];
        assert_eq!(hanging(12.5, &steps), [Some(10.0), Some(2.5), None]);
        assert_eq!(hanging(3.0, &steps), [Some(3.0), None, None]);
        assert_eq!(limit(0.5, 1.0, 9.0, 0.0), None);
        assert_eq!(limit(-3.0, 1.0, 9.0, 0.0), None);
    }
}
