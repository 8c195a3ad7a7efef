//! f32 and f64 arithmetic: rounding modes, ties, subnormals, NaN, infinities.

use crate::{INF, MAX, NAN, NAN_IN, NEG_INF, NEG_ZERO, SUB, TINY, Table, d, f, p2};

/// 1 + `n` units in its last place.
const fn one_and(n: u64) -> u64 {
    0x3f80_0000 + n
}

/// The sign bit, to negate with.
const MINUS: u64 = 0x8000_0000;

#[test]
fn addition_rounds_as_told() {
    let half_unit = f(p2(-24) as f32); // half a unit in the last place of 1
    let speck = f(p2(-100) as f32);
    let below_one = 0x3f7f_ffff;
    Table::new()
        // The sum of 1 and half a unit is a tie; of 1 + 1 unit and half a unit too, and even is the other neighbour.
        .is("ww>w", "add.rn.f32 %d, %a, %b;", &[
            [f(1.5), f(2.25), f(3.75)],
            [one_and(0), half_unit, one_and(0)],
            [one_and(1), half_unit, one_and(2)],
            [one_and(0), half_unit + 1, one_and(1)], // just above the tie
            [one_and(0), speck, one_and(0)],
            [f(-1.0), half_unit | MINUS, f(-1.0)],
            [MAX, f(p2(103) as f32), INF],       // half a unit above the largest: rounds to infinity
            [MAX, f(p2(102) as f32), MAX],
            [f(1.0), f(-1.0), 0],
            [0, NEG_ZERO, 0],
            [NEG_ZERO, NEG_ZERO, NEG_ZERO],
            [INF, NEG_INF, NAN],
            [INF, f(1.0), INF],
            [NAN_IN, f(1.0), NAN],
            [f(1.0), 0x7f80_0001, NAN], // signalling
            [SUB, SUB, 2],
            [TINY, SUB | MINUS, 0x007f_ffff],
        ])
        .is("ww>w", "add.f32 %d, %a, %b;", &[[one_and(1), half_unit, one_and(2)]])
        .is("ww>w", "add.rz.f32 %d, %a, %b;", &[
            [one_and(1), half_unit, one_and(1)],
            [f(1.0), speck | MINUS, below_one],
            [f(-1.0), speck, below_one | MINUS],
            [MAX, MAX, MAX],
            [MAX | MINUS, MAX | MINUS, MAX | MINUS],
            [f(1.0), f(-1.0), 0],
        ])
        .is("ww>w", "add.rp.f32 %d, %a, %b;", &[
            [f(1.0), speck, one_and(1)],
            [f(-1.0), speck, below_one | MINUS],
            [f(-1.0), speck | MINUS, f(-1.0)],
            [MAX, SUB, INF],
            [MAX | MINUS, MAX | MINUS, MAX | MINUS],
            [f(1.0), f(-1.0), 0],
            [f(1.0), f(0.5), f(1.5)], // exact: nothing to round
        ])
        // The zero that is left of x - x is negative when rounding down.
        .is("ww>w", "add.rm.f32 %d, %a, %b;", &[
            [f(1.0), speck, f(1.0)],
            [f(1.0), speck | MINUS, below_one],
            [f(-1.0), speck | MINUS, one_and(1) | MINUS],
            [MAX, MAX, MAX],
            [MAX | MINUS, SUB | MINUS, NEG_INF],
            [f(1.0), f(-1.0), NEG_ZERO],
            [0, 0, 0],
        ])
        .is("ww>w", "sub.rn.f32 %d, %a, %b;", &[
            [f(1.0), f(1.0), 0],
            [NEG_ZERO, 0, NEG_ZERO],
            [INF, INF, NAN],
            [f(1.0), half_unit, below_one],           // exact
            [f(1.0), f(p2(-25) as f32), f(1.0)],      // a tie below 1: units there are half as large
            [below_one, f(p2(-25) as f32), 0x3f7f_fffe],
        ])
        .is("ww>w", "sub.rz.f32 %d, %a, %b;", &[[f(1.0), speck, below_one]])
        .is("ww>w", "sub.rm.f32 %d, %a, %b;", &[[f(1.0), f(1.0), NEG_ZERO], [f(1.0), speck, below_one]])
        .is("ww>w", "sub.rp.f32 %d, %a, %b;", &[[f(1.0), speck, f(1.0)], [f(-1.0), speck, f(-1.0)]])
        .check();
}

#[test]
fn products_round_as_told() {
    // (1 + u)^2 = 1 + 2u + u^2 with u = 2^-23: just above 1 + 2u.
    // (1 + 2^11 u)(1 + 2^11 u) = 1 + 2^12 u + 2^22 u^2, and 2^22 u^2 is half a unit: a tie.
    let root = one_and(1 << 11);
    Table::new()
        .is("ww>w", "mul.rn.f32 %d, %a, %b;", &[
            [f(1.5), f(-2.5), f(-3.75)],
            [one_and(1), one_and(1), one_and(2)],
            [root, root, one_and(1 << 12)],
            [f(0.1), f(10.0), f(1.0)],
            [MAX, f(2.0), INF],
            [MAX, f(-2.0), NEG_INF],
            [INF, 0, NAN],
            [INF, f(-1.0), NEG_INF],
            [NAN_IN, 0, NAN],
            [NEG_ZERO, f(3.0), NEG_ZERO],
            [SUB, f(0.5), 0],      // a tie between zero and the smallest: even is zero
            [3, f(0.5), 2],        // 1.5 units: even is 2
            [SUB, f(0.75), SUB],
            [TINY, f(0.5), 0x0040_0000],
            [TINY, TINY, 0],
        ])
        .is("ww>w", "mul.rz.f32 %d, %a, %b;", &[
            [one_and(1), one_and(1), one_and(2)],
            [MAX, f(2.0), MAX],
            [MAX, f(-2.0), MAX | MINUS],
            [3, f(0.5), 1],
            [TINY, TINY, 0],
            [root, root, one_and(1 << 12)],
        ])
        .is("ww>w", "mul.rp.f32 %d, %a, %b;", &[
            [one_and(1), one_and(1), one_and(3)],
            [one_and(1), one_and(1) | MINUS, one_and(2) | MINUS],
            [MAX, f(2.0), INF],
            [MAX, f(-2.0), MAX | MINUS],
            [TINY, TINY, SUB],
            [TINY, TINY | MINUS, NEG_ZERO],
        ])
        .is("ww>w", "mul.rm.f32 %d, %a, %b;", &[
            [one_and(1), one_and(1), one_and(2)],
            [one_and(1), one_and(1) | MINUS, one_and(3) | MINUS],
            [MAX, f(2.0), MAX],
            [MAX, f(-2.0), NEG_INF],
            [TINY, TINY | MINUS, SUB | MINUS],
        ])
        .is("ww>w", "mul.f32 %d, %a, %b;", &[[root, root, one_and(1 << 12)]])
        .check();
}

#[test]
fn fused_products_round_once() {
    // With e = 2^-12: (1 + e)^2 - (1 + 2e) = e^2, which two roundings would lose.
    let (a, c) = (f(1.0 + p2(-12) as f32), f(-1.0 - p2(-11) as f32));
    // 1 * 1 + 2^-100: only directed modes see the speck.
    let (one, speck) = (f(1.0), f(p2(-100) as f32));
    Table::new()
        .is("www>w", "fma.rn.f32 %d, %a, %b, %c;", &[
            [f(2.0), f(3.0), f(4.0), f(10.0)],
            [a, a, c, f(p2(-24) as f32)],
            [one, one, speck, one],
            [f(2.0), f(-0.5), one, 0],
            [INF, 0, one, NAN],
            [INF, one, NEG_INF, NAN],
            [one, one, NAN_IN, NAN],
            [MAX, f(2.0), MAX | MINUS, MAX],     // no overflow in between
            [MAX, f(2.0), 0, INF],
            [SUB, f(0.5), SUB, 2],               // 1.5 units: even
            [SUB, f(0.5), SUB | MINUS, NEG_ZERO], // -0.5 units: even is zero, of the sign of the sum
            [NEG_ZERO, one, 0, 0],
            [NEG_ZERO, one, NEG_ZERO, NEG_ZERO],
            // (1 + u)(1 - u) 2^-24 + 1 + u with u = 2^-23 is 2^-70 below a tie, too little for f64 to tell.
            [one + 1, 0x337f_fffe, one + 1, one + 1],
            [one + 1, 0x337f_fffe | MINUS, (one + 1) | MINUS, (one + 1) | MINUS],
        ])
        .is("www>w", "fma.rz.f32 %d, %a, %b, %c;", &[[one, one, speck | MINUS, 0x3f7f_ffff], [one, one, speck, one], [a, a, c, f(p2(-24) as f32)]])
        .is("www>w", "fma.rp.f32 %d, %a, %b, %c;", &[[one, one, speck, one + 1], [one, one, f(-1.0), 0], [MAX, one, SUB, INF]])
        .is("www>w", "fma.rm.f32 %d, %a, %b, %c;", &[[one, one, speck, one], [one, one, f(-1.0), NEG_ZERO], [MAX, one, MAX, MAX]])
        .is("www>w", "mad.rn.f32 %d, %a, %b, %c;", &[[a, a, c, f(p2(-24) as f32)]])
        .check();
}

#[test]
fn flushing_treats_subnormals_as_zero() {
    Table::new()
        .is("ww>w", "add.ftz.f32 %d, %a, %b;", &[
            [SUB, f(1.0), f(1.0)],
            [SUB, SUB, 0],
            [SUB | MINUS, SUB | MINUS, NEG_ZERO],
            [0x00c0_0000, TINY | MINUS, 0],           // 2^-127, a subnormal result
            [0x80c0_0000, TINY, NEG_ZERO],
            [TINY, TINY, 0x0100_0000],
        ])
        .is("ww>w", "sub.rn.ftz.f32 %d, %a, %b;", &[[0x007f_ffff, 0, 0], [0, 0x007f_ffff, 0]])
        .is("ww>w", "mul.rn.ftz.f32 %d, %a, %b;", &[
            [SUB, MAX, 0],
            [TINY, f(-0.5), NEG_ZERO],
            [TINY, f(2.0), 0x0100_0000],
            [0x007f_ffff | MINUS, f(1.0), NEG_ZERO],
        ])
        .is("www>w", "fma.rn.ftz.f32 %d, %a, %b, %c;", &[
            [SUB, f(1e30), 0, 0],
            [f(1.0), f(1.0), SUB, f(1.0)],
            [TINY, f(0.5), 0, 0],
            [TINY, f(0.5), TINY, 0x00c0_0000],        // only the end result counts
        ])
        .is("ww>w", "min.ftz.f32 %d, %a, %b;", &[[SUB | MINUS, f(1.0), NEG_ZERO]])
        .is("ww>w", "max.ftz.f32 %d, %a, %b;", &[[SUB, f(-1.0), 0]])
        .is("w>w", "abs.ftz.f32 %d, %a;", &[[SUB | MINUS, 0], [f(-2.0), f(2.0)]])
        .is("w>w", "neg.ftz.f32 %d, %a;", &[[SUB, NEG_ZERO]])
        .is("ww>w", "div.rn.ftz.f32 %d, %a, %b;", &[[f(1.0), SUB, INF], [TINY, f(2.0), 0]])
        .is("w>w", "sqrt.rn.ftz.f32 %d, %a;", &[[SUB | MINUS, NEG_ZERO], [f(4.0), f(2.0)]])
        .is("ww>p", "setp.gt.ftz.f32 %d, %a, %b;", &[[SUB, 0, 0], [TINY, 0, 1]])
        .is("ww>p", "setp.gt.f32 %d, %a, %b;", &[[SUB, 0, 1]])
        .check();
}

#[test]
fn saturation_clamps_to_the_unit_interval() {
    Table::new()
        .is("ww>w", "add.sat.f32 %d, %a, %b;", &[
            [f(0.75), f(0.75), f(1.0)],
            [f(0.25), f(0.5), f(0.75)],
            [f(0.25), f(-0.5), 0],
            [NAN_IN, f(1.0), 0],
            [INF, f(1.0), f(1.0)],
        ])
        .is("ww>w", "mul.rn.sat.f32 %d, %a, %b;", &[[f(3.0), f(4.0), f(1.0)], [f(3.0), f(-4.0), 0]])
        .is("www>w", "fma.rn.sat.f32 %d, %a, %b, %c;", &[[f(0.5), f(0.5), f(0.25), f(0.5)], [INF, 0, 0, 0]])
        .check();
}

#[test]
fn quotients_and_roots_are_correctly_rounded() {
    // 1/3 = 0.0101..b: the mantissa ends in ..10101 with 01.. cut off in f32: 0x3eaaaaaa|.aa, so nearest is up.
    let (third, third_up) = (0x3eaa_aaaa, 0x3eaa_aaab);
    // sqrt 2 = 1.41421356237.. lies between 0x3fb504f3 = 1.41421354 (error 2.4e-8) and the next (9.5e-8).
    let (root, root_up) = (0x3fb5_04f3, 0x3fb5_04f4);
    Table::new()
        .is("ww>w", "div.rn.f32 %d, %a, %b;", &[
            [f(1.0), f(3.0), third_up],
            [f(6.0), f(-2.0), f(-3.0)],
            [f(1.0), 0, INF],
            [f(1.0), NEG_ZERO, NEG_INF],
            [0, 0, NAN],
            [INF, INF, NAN],
            [f(1.0), INF, 0],
            [SUB, f(2.0), 0],
            [3, f(2.0), 2],
            [MAX, f(0.5), INF],
            [NAN_IN, f(2.0), NAN],
        ])
        .is("ww>w", "div.rz.f32 %d, %a, %b;", &[[f(1.0), f(3.0), third], [f(-1.0), f(3.0), third | MINUS], [MAX, f(0.5), MAX]])
        .is("ww>w", "div.rp.f32 %d, %a, %b;", &[[f(1.0), f(3.0), third_up], [f(-1.0), f(3.0), third | MINUS], [f(1.0), f(4.0), f(0.25)]])
        .is("ww>w", "div.rm.f32 %d, %a, %b;", &[[f(1.0), f(3.0), third], [f(-1.0), f(3.0), third_up | MINUS]])
        .is("w>w", "rcp.rn.f32 %d, %a;", &[[f(3.0), third_up], [f(4.0), f(0.25)], [0, INF], [NEG_ZERO, NEG_INF], [INF, 0], [MAX, 0x0020_0000], [NAN_IN, NAN]])
        .is("w>w", "rcp.rz.f32 %d, %a;", &[[f(3.0), third]])
        .is("w>w", "rcp.rm.f32 %d, %a;", &[[f(-3.0), third_up | MINUS]])
        .is("w>w", "rcp.rp.f32 %d, %a;", &[[f(3.0), third_up], [f(-3.0), third | MINUS]])
        .is("w>w", "sqrt.rn.f32 %d, %a;", &[
            [f(2.0), root],
            [f(9.0), f(3.0)],
            [f(-1.0), NAN],
            [NEG_ZERO, NEG_ZERO],
            [INF, INF],
            [NEG_INF, NAN],
            [2, f(p2(-74) as f32)], // 2^-148
        ])
        .is("w>w", "sqrt.rz.f32 %d, %a;", &[[f(2.0), root], [f(4.0), f(2.0)]])
        .is("w>w", "sqrt.rm.f32 %d, %a;", &[[f(2.0), root]])
        .is("w>w", "sqrt.rp.f32 %d, %a;", &[[f(2.0), root_up], [f(4.0), f(2.0)]])
        .check();
}

/// The number wins over a NaN, and -0 is less than +0; with .NaN the NaN wins.
#[test]
fn extremes_and_signs() {
    let plain = |least: bool| {
        let pick = |low, high| if least { low } else { high };
        [
            [f(1.0), f(2.0), pick(f(1.0), f(2.0))],
            [f(2.0), f(-1.0), pick(f(-1.0), f(2.0))],
            [0, NEG_ZERO, pick(NEG_ZERO, 0)],
            [NEG_ZERO, 0, pick(NEG_ZERO, 0)],
            [INF, NEG_INF, pick(NEG_INF, INF)],
            [SUB, TINY, pick(SUB, TINY)],
        ]
    };
    let number_wins = [[NAN_IN, f(1.0), f(1.0)], [f(1.0), NAN_IN, f(1.0)], [NAN_IN, NAN_IN, NAN]];
    let nan_wins = [[NAN_IN, f(1.0), NAN], [f(1.0), NAN_IN, NAN], [NAN_IN, NAN_IN, NAN]];
    Table::new()
        .is("ww>w", "min.f32 %d, %a, %b;", &plain(true))
        .is("ww>w", "max.f32 %d, %a, %b;", &plain(false))
        .is("ww>w", "min.f32 %d, %a, %b;", &number_wins)
        .is("ww>w", "max.f32 %d, %a, %b;", &number_wins)
        .is("ww>w", "min.NaN.f32 %d, %a, %b;", &plain(true))
        .is("ww>w", "max.NaN.f32 %d, %a, %b;", &plain(false))
        .is("ww>w", "min.NaN.f32 %d, %a, %b;", &nan_wins)
        .is("ww>w", "max.NaN.f32 %d, %a, %b;", &nan_wins)
        .is("w>w", "abs.f32 %d, %a;", &[[f(-2.5), f(2.5)], [NEG_ZERO, 0], [NEG_INF, INF], [SUB | MINUS, SUB]])
        .is("w>w", "neg.f32 %d, %a;", &[[f(-2.5), f(2.5)], [0, NEG_ZERO], [INF, NEG_INF], [SUB, SUB | MINUS]])
        .check();
}

#[test]
fn double_precision() {
    let tie = d(p2(-53));
    let one = d(1.0);
    let minus = 1 << 63;
    Table::new()
        .is("xx>x", "add.f64 %d, %a, %b;", &[[d(1.5), d(2.25), d(3.75)], [one, tie, one], [one + 1, tie, one + 2]])
        .is("xx>x", "add.rn.f64 %d, %a, %b;", &[[one, tie, one], [d(0.1), d(0.2), d(0.1 + 0.2)]])
        .is("xx>x", "sub.rn.f64 %d, %a, %b;", &[[one, one, 0], [one, d(3.0), d(-2.0)]])
        .is("xx>x", "mul.rn.f64 %d, %a, %b;", &[[d(0.1), d(10.0), one], [d(f64::MAX), d(2.0), d(f64::INFINITY)], [one + 1, one + 1, one + 2]])
        // With e = 2^-27: (1 + e)^2 - (1 + 2e) = e^2.
        .is("xxx>x", "fma.rn.f64 %d, %a, %b, %c;", &[
            [d(2.0), d(3.0), d(4.0), d(10.0)],
            [d(1.0 + p2(-27)), d(1.0 + p2(-27)), d(-1.0 - p2(-26)), d(p2(-54))],
        ])
        .is("xx>x", "div.rn.f64 %d, %a, %b;", &[[one, d(3.0), 0x3fd5_5555_5555_5555], [one, 0, d(f64::INFINITY)]])
        .is("x>x", "rcp.rn.f64 %d, %a;", &[[d(3.0), 0x3fd5_5555_5555_5555]])
        .is("x>x", "sqrt.rn.f64 %d, %a;", &[[d(2.0), 0x3ff6_a09e_667f_3bcd], [d(9.0), d(3.0)]])
        .is("x>x", "abs.f64 %d, %a;", &[[d(-2.5), d(2.5)]])
        .is("x>x", "neg.f64 %d, %a;", &[[d(2.5), d(-2.5)], [0, minus]])
        .is("xx>x", "min.f64 %d, %a, %b;", &[[one, d(-1.0), d(-1.0)], [d(f64::NAN), one, one]])
        .is("xx>x", "max.f64 %d, %a, %b;", &[[one, d(-1.0), one], [one, d(f64::NAN), one]])
        .check();
}
