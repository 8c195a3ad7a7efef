//! Correct rounding, from exact comparisons.

use std::cmp::Ordering;

use half::f16;

/// A rounding towards a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Zero,
    Up,
    Down,
}

/// The bits of the f16 nearest to a positive number, ties to even; `against` compares the number with an exact value.
fn nearest_magnitude(against: impl Fn(f64) -> Ordering) -> u16 {
    let value = |bits: u16| {
        if bits == 0x7c00 {
            65_536.0
        } else {
            f16::from_bits(bits).to_f64()
        }
    };
    // The largest f16 that is not above the number, or infinity, which takes the place of 65,536.
    let (mut low, mut high) = (0u16, 0x7c00u16);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if against(value(middle)) == Ordering::Less {
            high = middle - 1;
        } else {
            low = middle;
        }
    }
    if low == 0x7c00 {
        return low;
    }
    match against((value(low) + value(low + 1)) / 2.0) {
        Ordering::Less => low,
        Ordering::Greater => low + 1,
        Ordering::Equal => low + low % 2,
    }
}

/// The f16 nearest to an exact value.
pub fn half(v: f64) -> u16 {
    if v.is_nan() {
        return 0x7fff;
    }
    let sign = if v.is_sign_negative() { 0x8000 } else { 0 };
    sign | nearest_magnitude(|x| v.abs().total_cmp(&x))
}

/// The f16 next to an exact value towards zero.
pub fn half_towards_zero(v: f64) -> u16 {
    if v.is_nan() || v.is_infinite() {
        return half(v);
    }
    let magnitudes = 0..=0x7bffu16;
    let below = magnitudes
        .collect::<Vec<_>>()
        .partition_point(|b| f16::from_bits(*b).to_f64() <= v.abs());
    let sign = if v.is_sign_negative() { 0x8000 } else { 0 };
    sign | (below as u16 - 1)
}

/// a b + c of f16, rounded once. Finite operands are multiples of 2^-24, so that the result is one of 2^-48.
pub fn half_fma(a: f16, b: f16, c: f16) -> u16 {
    let rough = a.to_f64().mul_add(b.to_f64(), c.to_f64());
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return half(rough);
    }
    let scaled = |v: f16| (v.to_f64() * 2f64.powi(24)) as i128;
    let exact = scaled(a) * scaled(b) + (scaled(c) << 24);
    if exact == 0 {
        return if rough.is_sign_negative() { 0x8000 } else { 0 };
    }
    let sign = if exact < 0 { 0x8000 } else { 0 };
    sign | nearest_magnitude(|x| exact.abs().cmp(&((x * 2f64.powi(48)) as i128)))
}

/// The neighbour of `near` on the side; `near` is an f32 next to the number, which it compares with as told.
fn on_side(near: f32, compared: Ordering, negative: bool, side: Side) -> f32 {
    let up = match side {
        Side::Up => true,
        Side::Down => false,
        Side::Zero => negative,
    };
    match (compared, up) {
        (Ordering::Less, true) => near.next_up(),
        (Ordering::Greater, false) => near.next_down(),
        _ => near,
    }
}

/// `sum + rest`, where the rest is less than the last bit of the sum, rounded to a side.
fn directed(sum: f64, rest: f64, side: Side) -> f32 {
    let near = sum as f32;
    let order = |a: f64, b: f64| a.partial_cmp(&b).expect("numbers");
    let compared = order(near.into(), sum).then(order(0.0, rest));
    on_side(near, compared, sum < 0.0, side)
}

pub fn sum(a: f32, b: f32, side: Side) -> f32 {
    fused(a, 1.0, b, side)
}

pub fn product(a: f32, b: f32, side: Side) -> f32 {
    let exact = f64::from(a) * f64::from(b);
    if exact == 0.0 || !exact.is_finite() {
        exact as f32
    } else {
        directed(exact, 0.0, side)
    }
}

pub fn fused(a: f32, b: f32, c: f32, side: Side) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    if !sum.is_finite() {
        return sum as f32;
    }
    // What the sum lost (Knuth).
    let part = sum - product;
    let rest = (product - (sum - part)) + (c - part);
    if sum == 0.0 && rest == 0.0 {
        // An exact zero is positive, but when rounding down; two zeros of one sign keep it.
        let alike = product == 0.0 && product.is_sign_negative() == c.is_sign_negative();
        let negative = if alike {
            c.is_sign_negative()
        } else {
            side == Side::Down
        };
        return if negative { -0.0 } else { 0.0 };
    }
    directed(sum, rest, side)
}

pub fn quotient(a: f32, b: f32, side: Side) -> f32 {
    let near = a / b;
    if a == 0.0 || b == 0.0 || !a.is_finite() || !b.is_finite() {
        return near;
    }
    let negative = a.is_sign_negative() != b.is_sign_negative();
    // near b against a: exact in f64.
    let compared = if near.is_infinite() {
        if negative {
            Ordering::Less
        } else {
            Ordering::Greater
        }
    } else {
        let compared = (f64::from(near) * f64::from(b))
            .partial_cmp(&f64::from(a))
            .expect("numbers");
        if b < 0.0 {
            compared.reverse()
        } else {
            compared
        }
    };
    on_side(near, compared, negative, side)
}

pub fn root(a: f32, side: Side) -> f32 {
    let near = a.sqrt();
    if !near.is_finite() || near == 0.0 {
        return near;
    }
    let compared = (f64::from(near) * f64::from(near))
        .partial_cmp(&f64::from(a))
        .expect("numbers");
    on_side(near, compared, false, side)
}

#[test]
fn roundings_to_f16() {
    assert_eq!(half(1.0 + 2f64.powi(-11)), 0x3c00);
    assert_eq!(half(1.0 + 2f64.powi(-11) + 2f64.powi(-40)), 0x3c01);
    assert_eq!(half(-65_519.999), 0xfbff);
    assert_eq!(half(65_520.0), 0x7c00);
    assert_eq!(half(f64::NEG_INFINITY), 0xfc00);
    assert_eq!(
        (half(2f64.powi(-25)), half(1.5 * 2f64.powi(-24)), half(-0.0)),
        (0, 2, 0x8000)
    );
    assert_eq!(
        (
            half_towards_zero(-65_519.999),
            half_towards_zero(1e9),
            half_towards_zero(0.9 * 2f64.powi(-24))
        ),
        (0xfbff, 0x7bff, 0)
    );
    let bits = f16::from_bits;
    assert_eq!(half_fma(bits(0x3c01), bits(0x0ffe), bits(0x3c01)), 0x3c01);
}

#[test]
fn roundings_to_a_side() {
    let third = 0x3eaa_aaaa;
    assert_eq!(quotient(1.0, 3.0, Side::Zero).to_bits(), third);
    assert_eq!(
        quotient(1.0, -3.0, Side::Down).to_bits(),
        0x8000_0000 | (third + 1)
    );
    assert_eq!(quotient(f32::MAX, 0.5, Side::Zero), f32::MAX);
    assert_eq!(sum(1.0, -1e-30, Side::Zero), 1f32.next_down());
    assert_eq!(sum(1.0, -1.0, Side::Down).to_bits(), 0x8000_0000);
    assert_eq!(
        product(f32::MIN_POSITIVE, f32::MIN_POSITIVE, Side::Up).to_bits(),
        1
    );
    assert_eq!(product(f32::MAX, -2.0, Side::Up), -f32::MAX);
    assert_eq!(fused(1.0, 1.0, 1e-30, Side::Up), 1f32.next_up());
    assert_eq!(root(2.0, Side::Up).to_bits(), 0x3fb5_04f4);
}
