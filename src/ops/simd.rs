//! Building blocks of vectorised loops.
//!
//! The crate is built for the baseline x86-64, which has 128-bit vectors and no fused multiply-add. Hot loops are
//! functions marked `#[multiversion]` for all SIMD targets: the compiler makes one copy per instruction set and the
//! first call picks. What such a function calls must be `#[inline(always)]` to be compiled along with it.

/// Lanes of a partial sum: enough independent chains to fill the pipelines of a 512-bit multiply-add.
const LANES: usize = 32;

/// `sum_i f(i)` over `0 .. n` in a fixed order: [`LANES`] interleaved chains, then a tree.
#[inline(always)]
pub(super) fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane += f(v);
    }
    tree(lanes, |a, b| a + b)
}

/// All lanes in one, halves joined with halves.
#[inline(always)]
fn tree(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// `sum_i a[i] b[i]` in the order of [`sum`].
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    for (a, b) in a.zip(b) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    tree(lanes, |a, b| a + b)
}

/// The largest of `values`, negative infinity of none. A plain fold would be one chain of dependent comparisons, which
/// takes longer than the products around it.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane = larger(*lane, v);
    }
    tree(lanes, larger)
}

/// `e^x` for `x <= 0`, to within 2 ulp above the smallest normal number; 0 below -87.
///
/// `e^x = 2^n e^r` with `n = round(x / ln 2)`, `|r| <= ln 2 / 2` (reduced in two steps so that it is exact to an ulp),
/// and the Taylor polynomial of degree 7, whose remainder `r^8 / 8!` is below 5.3e-9.
#[inline(always)]
pub(super) fn exp_nonpositive(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.max(-87.0);
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, without a conversion.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.0 / 5040.0f32;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0f32,
    ] {
        p = p.mul_add(r, c);
    }
    // 2^n for -126 <= n <= 0: the exponent field, n + 127; MAGIC's own bits have 0 in the ones that stay.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x <= -87.0 { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0f64;
        for i in 0..=870_000u32 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            let got = f64::from(exp_nonpositive(x));
            if x > -87.0 {
                worst = worst.max((got - exact).abs() / exact);
            } else {
                assert_eq!(got, 0.0);
            }
        }
        // Two units in the last place are at most 4 u = 4 * 2^-24 relative.
        assert!(worst <= 4.0 * 2f64.powi(-24), "{worst:e}");
    }

    #[test]
    fn the_largest_is_found_anywhere() {
        for n in [1, 31, 32, 33, 77] {
            for at in [0, n / 2, n - 1] {
                let mut values = vec![-1.0f32; n];
                values[at] = 2.0;
                assert_eq!(max(&values), 2.0);
            }
        }
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn sums_include_the_tail() {
        let values: Vec<f32> = (0..77).map(|i| i as f32).collect();
        assert_eq!(sum(&values, |v| v), 77.0 * 38.0);
        assert_eq!(sum(&[], |v| v), 0.0);
    }
}
