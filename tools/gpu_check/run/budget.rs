//! How long a step may take.

/// Seconds without which a process hardly starts.
const START: f64 = 2.0;

/// Seconds that a step gets of the `left` ones: what those after it do not need (`later`, the sum of what each needs at
/// least), at most `most`; where not all can have what they need, its share of what is left, and [`START`] of what it
/// needs. `None` below a second.
pub fn limit(left: f64, least: f64, most: f64, later: f64) -> Option<f64> {
    let fair = (left * least / (least + later)).max(least.min(START));
    let limit = (left - later).max(fair).min(most).min(left);
    (limit >= 1.0).then_some(limit)
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
    fn short_time_is_shared_and_no_step_starts_for_less_than_a_second() {
        let steps = [(10.0, 60.0), (10.0, 20.0), (5.0, f64::INFINITY)];
        assert_eq!(hanging(12.5, &steps), [Some(5.0), Some(5.0), Some(2.5)]);
        // Then the first come first.
        assert_eq!(hanging(3.0, &steps), [Some(2.0), Some(1.0), None]);
        assert_eq!(limit(0.5, 1.0, 9.0, 0.0), None);
        assert_eq!(limit(-3.0, 1.0, 9.0, 0.0), None);
    }
}
