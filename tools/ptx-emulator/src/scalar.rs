//! Floating-point arithmetic as the PTX ISA defines it, one value at a time, on bit patterns.
//!
//! f32 and f64 results that are NaN are the canonical NaN. Approximate functions are computed in f64 and rounded once,
//! so they are closer to the truth than the ISA promises: their documented error belongs into the test that uses them.

use half::f16;

/// Rounding of a result that is not representable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
}

pub(crate) const NAN32: u32 = 0x7fff_ffff;
pub(crate) const NAN16: u32 = 0x7fff;

/// The bits of a result; every NaN becomes the canonical one.
#[inline(always)]
pub(crate) fn bits(v: f32) -> u32 {
    if v.is_nan() { NAN32 } else { v.to_bits() }
}

/// The bits of an f64 result.
#[inline(always)]
pub(crate) fn bits64(v: f64) -> u64 {
    if v.is_nan() {
        0x7fff_ffff_ffff_ffff
    } else {
        v.to_bits()
    }
}

/// Subnormals become zero of the same sign (`.ftz`).
#[inline(always)]
pub(crate) fn flush(v: f32) -> f32 {
    if v.to_bits() & 0x7f80_0000 == 0 {
        f32::from_bits(v.to_bits() & 0x8000_0000)
    } else {
        v
    }
}

/// Clamps to [0, 1]; NaN becomes 0 (`.sat`).
#[inline(always)]
pub(crate) fn saturate(v: f32) -> f32 {
    if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) }
}

/// `hi + lo`, where `|lo|` is at most half a unit of `hi`, rounded to f32.
pub(crate) fn round_f32(hi: f64, lo: f64, round: Round) -> f32 {
    if !hi.is_finite() {
        return hi as f32;
    }
    // To odd in f64 first: the sticky bit then decides every later rounding correctly, since f64 has more than two
    // bits beyond f32.
    let mut odd = hi;
    if lo != 0.0 && hi.to_bits() & 1 == 0 {
        let away = (lo > 0.0) == (hi > 0.0) || hi == 0.0;
        odd = f64::from_bits(if away {
            hi.to_bits() + 1
        } else {
            hi.to_bits() - 1
        });
    }
    let nearest = odd as f32;
    let exact = f64::from(nearest);
    let (toward_up, toward_down) = match round {
        Round::Nearest => return nearest,
        Round::Zero => (odd < 0.0, odd > 0.0),
        Round::Up => (true, false),
        Round::Down => (false, true),
    };
    if toward_up && exact < odd {
        next_up(nearest)
    } else if toward_down && exact > odd {
        -next_up(-nearest)
    } else {
        nearest
    }
}

fn next_up(v: f32) -> f32 {
    v.next_up()
}

/// `a + b` as a rounded sum and what the rounding lost, exactly.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

/// The sign of an exact zero: minus only if both parts are minus zero, or when rounding down.
fn zero_sum(a: f64, b: f64, round: Round) -> Option<f32> {
    (a + b == 0.0 && a == -b).then(|| {
        if a.is_sign_negative() && b.is_sign_negative() {
            return -0.0;
        }
        if a == 0.0 && b == 0.0 && a.is_sign_positive() && b.is_sign_positive() {
            return 0.0;
        }
        if round == Round::Down { -0.0 } else { 0.0 }
    })
}

#[inline(always)]
pub(crate) fn add_f32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return a + b;
    }
    fma_f32(a, 1.0, b, round)
}

#[inline(always)]
pub(crate) fn mul_f32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return a * b;
    }
    // Exact in f64, so there is no remainder.
    round_f32(f64::from(a) * f64::from(b), 0.0, round)
}

#[inline(always)]
pub(crate) fn fma_f32(a: f32, b: f32, c: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return a.mul_add(b, c);
    }
    let product = f64::from(a) * f64::from(b);
    if let Some(zero) = zero_sum(product, c.into(), round) {
        return zero;
    }
    let (sum, rest) = two_sum(product, c.into());
    round_f32(sum, rest, round)
}

/// Division with directed rounding: the remainder's sign says on which side of the quotient the truth lies.
pub(crate) fn div_f32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return a / b;
    }
    let (a, b) = (f64::from(a), f64::from(b));
    let quotient = a / b;
    if !quotient.is_finite() || quotient == 0.0 {
        return quotient as f32;
    }
    let remainder = (-quotient).mul_add(b, a);
    round_f32(quotient, remainder / b, round)
}

pub(crate) fn sqrt_f32(v: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return v.sqrt();
    }
    let v = f64::from(v);
    let root = v.sqrt();
    if !root.is_finite() || root == 0.0 {
        return root as f32;
    }
    let remainder = (-root).mul_add(root, v);
    round_f32(root, remainder / (2.0 * root), round)
}

/// A unary approximate function, computed in f64.
#[inline(always)]
pub(crate) fn approx(v: f32, f: impl Fn(f64) -> f64) -> f32 {
    f(v.into()) as f32
}

/// `min`/`max`: the number wins over a NaN, and -0 is below +0.
#[inline(always)]
pub(crate) fn min_f32(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a };
    }
    if a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

#[inline(always)]
pub(crate) fn max_f32(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a };
    }
    if a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

pub(crate) fn min_f64(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

pub(crate) fn max_f64(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

/// An f16 from its bits, exactly.
#[inline(always)]
pub(crate) fn h(bits: u32) -> f64 {
    f16::from_bits(bits as u16).to_f64()
}

/// The bits of an f16 result, rounded once to nearest.
///
/// Sums and products of two f16 are exact in f64. So is `a b + c` but for a difference in magnitude of more than 2^40,
/// where the smaller part lies far beyond the last bit of f16 and cannot make a tie, since `c` and a product of that
/// size are representable or overflow.
#[inline(always)]
pub(crate) fn h_bits(v: f64) -> u32 {
    if v.is_nan() {
        NAN16
    } else {
        u32::from(nearest_f16(v).to_bits())
    }
}

/// f64 to f16, rounded once: to odd in f32 first, whose last bit then stands for all that was cut off.
fn nearest_f16(v: f64) -> f16 {
    let nearest = v as f32;
    let exact = f64::from(nearest);
    if exact == v || !nearest.is_finite() {
        return f16::from_f32(nearest);
    }
    let beyond = u32::from(exact.abs() > v.abs());
    f16::from_f32(f32::from_bits((nearest.to_bits() - beyond) | 1))
}

/// Subnormal f16 to zero.
#[inline(always)]
pub(crate) fn h_flush(bits: u32) -> u32 {
    if bits & 0x7c00 == 0 {
        bits & 0x8000
    } else {
        bits
    }
}

/// `f` on both halves of two pairs of f16.
#[inline(always)]
pub(crate) fn halves(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    f(a & 0xffff, b & 0xffff) & 0xffff | f(a >> 16, b >> 16) << 16
}

pub(crate) fn h_min(a: u32, b: u32) -> u32 {
    let min = min_f32(h(a) as f32, h(b) as f32);
    if min.is_nan() {
        NAN16
    } else {
        h_bits(min.into())
    }
}

pub(crate) fn h_max(a: u32, b: u32) -> u32 {
    let max = max_f32(h(a) as f32, h(b) as f32);
    if max.is_nan() {
        NAN16
    } else {
        h_bits(max.into())
    }
}

/// f64 to f16 with a rounding mode.
pub(crate) fn to_f16(v: f64, round: Round) -> u32 {
    if v.is_nan() {
        return NAN16;
    }
    let nearest = nearest_f16(v);
    let exact = nearest.to_f64();
    let (up, down) = match round {
        Round::Nearest => (false, false),
        Round::Zero => (v < 0.0, v > 0.0),
        Round::Up => (true, false),
        Round::Down => (false, true),
    };
    // The neighbour towards plus infinity, on bit patterns.
    let next_up = |v: f16| match v.to_bits() {
        0x8000 => f16::from_bits(1),
        b if b & 0x8000 != 0 => f16::from_bits(b - 1),
        b => f16::from_bits(b + 1),
    };
    let rounded = if up && exact < v {
        next_up(nearest)
    } else if down && exact > v {
        -next_up(-nearest)
    } else {
        nearest
    };
    u32::from(rounded.to_bits())
}

/// Rounds to an integer, still as f64.
pub(crate) fn to_integral(v: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}

/// Rounds an integer to f32.
pub(crate) fn int_to_f32(v: i128, round: Round) -> f32 {
    // 64 bits split into two parts that f64 holds exactly.
    let (high, low) = ((v >> 32) as f64 * 4294967296.0, (v & 0xffff_ffff) as f64);
    let (sum, rest) = two_sum(high, low);
    if v == 0 {
        return 0.0;
    }
    round_f32(sum, rest, round)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directed_roundings_enclose_the_nearest() {
        let cases = [
            (1.0f32, 3.0f32),
            (0.1, 0.7),
            (1e-40, 3.0),
            (-5.5, 1e-3),
            (3.4e38, 1.5),
        ];
        for (a, b) in cases {
            let truth = f64::from(a) / f64::from(b);
            let (down, up) = (div_f32(a, b, Round::Down), div_f32(a, b, Round::Up));
            assert!(
                f64::from(down) <= truth && truth <= f64::from(up),
                "{a} / {b}"
            );
            assert!(up == down || up == down.next_up(), "{a} / {b}");
            let near = div_f32(a, b, Round::Nearest);
            assert!(near == up || near == down);
        }
    }

    #[test]
    fn a_sum_just_above_a_tie_is_rounded_up() {
        // 1 + 2^-24 is a tie of f32 and goes to even, 1; anything more goes up.
        let tie = 2f32.powi(-24);
        assert_eq!(add_f32(1.0, tie, Round::Nearest), 1.0);
        assert_eq!(
            round_f32(1.0 + f64::from(tie), 1e-30, Round::Nearest),
            1.0f32.next_up()
        );
        assert_eq!(round_f32(1.0 + f64::from(tie), -1e-30, Round::Nearest), 1.0);
        assert_eq!(add_f32(1.0, 1e-30, Round::Up), 1.0f32.next_up());
        assert_eq!(add_f32(1.0, 1e-30, Round::Zero), 1.0);
        assert_eq!(add_f32(-1.0, 1e-30, Round::Zero), -(1.0f32.next_down()));
        assert_eq!(
            add_f32(1.0, -1.0, Round::Down).to_bits(),
            (-0.0f32).to_bits()
        );
    }

    #[test]
    fn f16_rounding_modes() {
        // 2049 lies between 2048 and 2050.
        assert_eq!(h(to_f16(2049.0, Round::Nearest)), 2048.0);
        assert_eq!(h(to_f16(2049.0, Round::Up)), 2050.0);
        assert_eq!(h(to_f16(-2049.0, Round::Zero)), -2048.0);
        assert_eq!(h(to_f16(1e9, Round::Nearest)), f64::INFINITY);
        assert_eq!(h(to_f16(1e9, Round::Zero)), 65504.0);
        assert_eq!(h_bits(2f64.powi(-25)), 0); // a tie with zero, which is even
        assert_eq!(h_bits(2f64.powi(-25) * 1.01), 1);
    }

    #[test]
    fn integers_to_f32() {
        assert_eq!(int_to_f32(16_777_217, Round::Nearest), 16_777_216.0);
        assert_eq!(int_to_f32(16_777_217, Round::Up), 16_777_218.0);
        assert_eq!(
            int_to_f32(i128::from(u64::MAX), Round::Zero),
            18_446_742_974_197_923_840.0
        );
        assert_eq!(int_to_f32(-3, Round::Nearest), -3.0);
    }
}
