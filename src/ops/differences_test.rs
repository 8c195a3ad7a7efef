//! Central differences in f64, to which the reference backward of an operator is held.

/// Holds `gradient` to the central differences of `f` at `x`. `f` gives its value and the sum of the magnitudes of what
/// it adds up, each of which has gone through at most `roundings` roundings.
///
/// With `D(h) = (f(x + h) - f(x - h)) / 2 h = f' + c h^2 + O(h^4)`, the truncation of `D(h / 2)` is
/// `(D(h) - D(h / 2)) / 3`, to first order; what is allowed is three times that. Rounding leaves each value of `f` within
/// `roundings 2^-53` of its magnitude, and so `D(h / 2)` within twice that over `h`.
pub fn hold(
    what: &str,
    x: &[f64],
    gradient: &[f64],
    roundings: usize,
    f: impl Fn(&[f64]) -> [f64; 2],
) {
    const STEP: f64 = 1.0 / 1024.0;
    assert_eq!(x.len(), gradient.len(), "{what}");
    let largest = gradient.iter().fold(0f64, |most, g| most.max(g.abs()));
    let mut at = x.to_vec();
    for i in 0..x.len() {
        let mut value = |step: f64| {
            at[i] = x[i] + step;
            f(&at)
        };
        let magnitude = value(0.0)[1];
        let mut difference = |h: f64| (value(h)[0] - value(-h)[0]) / (2.0 * h);
        let (coarse, fine) = (difference(STEP), difference(STEP / 2.0));
        at[i] = x[i];
        let rounding = roundings as f64 * 2f64.powi(-53) * magnitude;
        let allowed = (coarse - fine).abs() + 2.0 * rounding / STEP;
        // Else nothing is shown.
        assert!(
            allowed < 1e-3 * largest,
            "{what}[{i}]: {allowed:e} of {largest:e}"
        );
        let error = (fine - gradient[i]).abs();
        assert!(
            error <= allowed,
            "{what}[{i}]: the gradient is {}, the difference {fine}: off by {error:e}, allowed {allowed:e}",
            gradient[i]
        );
    }
}

/// `sum_i weight_i y_i`, of which `weight` is the gradient with respect to `y`, and the sum of the magnitudes.
pub fn weighted(y: &[f64], weight: &[f64]) -> [f64; 2] {
    let terms = || y.iter().zip(weight).map(|(y, w)| y * w);
    [terms().sum(), terms().map(f64::abs).sum()]
}

/// Numbers between -1 and 1, the same in every run.
pub fn noise(n: usize, seed: u64) -> Vec<f64> {
    let golden = 0.618_033_988_749_895;
    (0..n)
        .map(|i| {
            let phase = (i as f64 + 1.0) * golden + seed as f64 * 0.291;
            2.0 * (phase.fract() * 7919.0 * golden).fract() - 1.0
        })
        .collect()
}

#[test]
fn a_wrong_gradient_is_found() {
    let (x, weight) = (noise(9, 1), noise(9, 2));
    let f = |x: &[f64]| weighted(&x.iter().map(|v| v.sin()).collect::<Vec<_>>(), &weight);
    let gradient: Vec<f64> = x.iter().zip(&weight).map(|(x, w)| x.cos() * w).collect();
    hold("sin", &x, &gradient, 12, f);
    let wrong = gradient
        .iter()
        .map(|g| g * (1.0 + 1e-5))
        .collect::<Vec<_>>();
    let found = std::panic::catch_unwind(|| hold("sin", &x, &wrong, 12, f));
    assert!(found.is_err());
}
