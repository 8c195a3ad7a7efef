//! f16 and f16x2 arithmetic: one rounding, subnormals kept, NaN as 0x7fff.

use crate::{Table, h, h2};

const ONE: u64 = 0x3c00;
/// 2^-11, half a unit in the last place of 1.
const HALF_UNIT: u64 = 0x1000;
const MAX: u64 = 0x7bff; // 65504
const INF: u64 = 0x7c00;
const NAN: u64 = 0x7fff;
const NAN_IN: u64 = 0x7e01;
const MINUS: u64 = 0x8000;

#[test]
fn arithmetic_rounds_once() {
    Table::new()
        .is("hh>h", "add.f16 %d, %a, %b;", &[
            [h(1.5), h(2.25), h(3.75)],
            [ONE, HALF_UNIT, ONE],          // ties to even
            [ONE + 1, HALF_UNIT, ONE + 2],
            [ONE, HALF_UNIT + 1, ONE + 1],
            [MAX, h(16.0), INF],            // 65520 is half way to 65536
            [MAX, h(8.0), MAX],
            [1, 1, 2],                      // subnormals
            [INF, INF | MINUS, NAN],
            [NAN_IN, ONE, NAN],
            [ONE, ONE | MINUS, 0],
            [MINUS, MINUS, MINUS],
        ])
        .is("hh>h", "sub.f16 %d, %a, %b;", &[[ONE, h(3.0), h(-2.0)], [0x0400, 1, 0x03ff]])
        .is("hh>h", "mul.f16 %d, %a, %b;", &[
            [h(1.5), h(-2.5), h(-3.75)],
            [ONE + 1, ONE + 1, ONE + 2],
            [h(256.0), h(256.0), INF],
            [1, h(0.5), 0],                 // a tie between 0 and the smallest
            [3, h(0.5), 2],
            [INF, 0, NAN],
            [0x0400, h(0.5), 0x0200],
        ])
        // (1 + 2^-10)(2^-11 - 2^-21) = 2^-11 - 2^-31: just below half a unit of 1. Rounding to f32 in between makes it
        // exactly half a unit, and the tie above 1 + 2^-10 then goes up.
        .is("hhh>h", "fma.rn.f16 %d, %a, %b, %c;", &[
            [h(2.0), h(3.0), h(4.0), h(10.0)],
            [0x3c01, 0x0ffe, 0x3c01, 0x3c01],
            [0x3c01, 0x0ffe | MINUS, 0x3c01 | MINUS, 0x3c01 | MINUS],
            [MAX, h(2.0), MAX | MINUS, MAX],
            [INF, 0, ONE, NAN],
            [ONE, ONE, NAN_IN, NAN],
            [1, h(0.5), 1, 2],
        ])
        .is("hh>h", "add.ftz.f16 %d, %a, %b;", &[[1, ONE, ONE], [1, 1, 0], [0x0401, 0x0400 | MINUS, 0]])
        .is("hh>h", "mul.ftz.f16 %d, %a, %b;", &[[0x0400, h(0.5), 0], [0x03ff | MINUS, ONE, MINUS]])
        .is("h>h", "neg.f16 %d, %a;", &[[ONE, ONE | MINUS], [0, MINUS]])
        .is("h>h", "abs.f16 %d, %a;", &[[ONE | MINUS, ONE], [MINUS, 0]])
        .check();
}

#[test]
fn pairs_do_both_halves_alone() {
    Table::new()
        .is("ww>w", "add.f16x2 %d, %a, %b;", &[
            [h2(1.0, 2.0), h2(10.0, 20.0), h2(11.0, 22.0)],
            [ONE << 16 | (ONE + 1), HALF_UNIT << 16 | HALF_UNIT, ONE << 16 | (ONE + 2)],
            [NAN_IN << 16 | ONE, ONE << 16 | ONE, NAN << 16 | h(2.0)],
        ])
        .is("ww>w", "sub.f16x2 %d, %a, %b;", &[[h2(1.0, 2.0), h2(10.0, 20.0), h2(-9.0, -18.0)]])
        .is("ww>w", "mul.f16x2 %d, %a, %b;", &[[h2(3.0, 2.0), h2(0.5, -0.25), h2(1.5, -0.5)]])
        .is("www>w", "fma.rn.f16x2 %d, %a, %b, %c;", &[
            [h2(2.0, 3.0), h2(4.0, 5.0), h2(1.0, -1.0), h2(9.0, 14.0)],
            [0x3c01 << 16 | ONE, 0x0ffe << 16 | ONE, 0x3c01 << 16 | ONE, 0x3c01 << 16 | h(2.0)],
        ])
        .is("w>w", "neg.f16x2 %d, %a;", &[[h2(1.0, -2.0), h2(-1.0, 2.0)]])
        .is("w>w", "abs.f16x2 %d, %a;", &[[h2(-1.0, -2.0), h2(1.0, 2.0)]])
        .is("ww>w", "min.f16x2 %d, %a, %b;", &[[h2(1.0, 2.0), h2(-1.0, 3.0), h2(-1.0, 2.0)]])
        .is("ww>w", "max.f16x2 %d, %a, %b;", &[[h2(1.0, 2.0), h2(-1.0, 3.0), h2(1.0, 3.0)], [NAN_IN << 16 | ONE, ONE << 16 | NAN_IN, ONE << 16 | ONE]])
        .check();
}

#[test]
fn the_number_wins_over_nan() {
    Table::new()
        .is("hh>h", "min.f16 %d, %a, %b;", &[[ONE, h(2.0), ONE], [0, MINUS, MINUS], [NAN_IN, ONE, ONE], [ONE, NAN_IN, ONE], [NAN_IN, NAN_IN, NAN]])
        .is("hh>h", "max.f16 %d, %a, %b;", &[[ONE, h(2.0), h(2.0)], [MINUS, 0, 0], [NAN_IN, ONE, ONE], [NAN_IN, NAN_IN, NAN]])
        .is("hh>h", "min.NaN.f16 %d, %a, %b;", &[[NAN_IN, ONE, NAN], [ONE, h(2.0), ONE]])
        .is("hh>h", "max.NaN.f16 %d, %a, %b;", &[[ONE, NAN_IN, NAN], [ONE, h(2.0), h(2.0)]])
        .is("ww>w", "max.NaN.f16x2 %d, %a, %b;", &[[NAN_IN << 16 | ONE, ONE << 16 | h(2.0), NAN << 16 | h(2.0)]])
        .check();
}

#[test]
fn comparisons() {
    Table::new()
        .is("hh>p", "setp.lt.f16 %d, %a, %b;", &[[ONE, h(2.0), 1], [h(2.0), ONE, 0], [NAN_IN, ONE, 0]])
        .is("hh>p", "setp.geu.f16 %d, %a, %b;", &[[ONE, h(2.0), 0], [NAN_IN, ONE, 1], [0, MINUS, 1]])
        .is("hh>p", "setp.eq.f16 %d, %a, %b;", &[[0, MINUS, 1], [NAN_IN, NAN_IN, 0]])
        .check();
}
