//! Integer arithmetic and bit operations.

use crate::{Table, s, s16, s64};

const A: u64 = 0xdead_beef;
const B: u64 = 0x1234_5678;
const MIN: u64 = 0x8000_0000;
const TOP: u64 = 0x7fff_ffff;
const WIDE_A: u64 = 0xfedc_ba98_7654_3210;
const WIDE_B: u64 = 0x0123_4567_89ab_cdef;

#[test]
fn addition_and_subtraction_wrap() {
    Table::new()
        .is("ww>w", "add.u32 %d, %a, %b;", &[[3, 4, 7], [0xffff_ffff, 1, 0], [A, B, 0xf0e2_1567]])
        .is("ww>w", "add.s32 %d, %a, %b;", &[[TOP, 1, MIN], [s(-5), 3, s(-2)]])
        .is("ww>w", "add.sat.s32 %d, %a, %b;", &[
            [TOP, 1, TOP],
            [MIN, s(-1), MIN],
            [s(-5), 3, s(-2)],
            [MIN, TOP, s(-1)],
        ])
        .is("ww>w", "sub.u32 %d, %a, %b;", &[[3, 4, 0xffff_ffff], [A, B, 0xcc79_6877]])
        .is("ww>w", "sub.s32 %d, %a, %b;", &[[MIN, 1, TOP]])
        .is("ww>w", "sub.sat.s32 %d, %a, %b;", &[
            [MIN, 1, MIN],
            [TOP, s(-1), TOP],
            [0, MIN, TOP],
            [4, 9, s(-5)],
        ])
        .is("xx>x", "add.u64 %d, %a, %b;", &[[u64::MAX, 2, 1], [0xffff_ffff, 1, 0x1_0000_0000]])
        .is("xx>x", "add.s64 %d, %a, %b;", &[[s64(-7), 3, s64(-4)]])
        .is("xx>x", "sub.u64 %d, %a, %b;", &[[0, 1, u64::MAX], [0x1_0000_0000, 1, 0xffff_ffff]])
        .is("xx>x", "sub.s64 %d, %a, %b;", &[[s64(i64::MIN), 1, s64(i64::MAX)]])
        .is("hh>h", "add.u16 %d, %a, %b;", &[[0xffff, 1, 0], [0x1234, 0x4321, 0x5555]])
        .is("hh>h", "add.s16 %d, %a, %b;", &[[0x7fff, 1, 0x8000], [s16(-2), s16(-3), s16(-5)]])
        .is("hh>h", "sub.u16 %d, %a, %b;", &[[0, 1, 0xffff]])
        .is("hh>h", "sub.s16 %d, %a, %b;", &[[0x8000, 1, 0x7fff]])
        // Immediates: decimal, hexadecimal, negative, constant expression.
        .is("w>w", "add.u32 %d, %a, 17;", &[[5, 22]])
        .is("w>w", "add.s32 %d, %a, -17;", &[[5, s(-12)]])
        .is("w>w", "sub.u32 %d, %a, 0xff;", &[[0x100, 1]])
        .is("x>x", "add.s64 %d, %a, -1;", &[[0, u64::MAX]])
        .is("h>h", "add.s16 %d, %a, -1;", &[[0, 0xffff]])
        .check();
}

#[test]
fn products_in_all_widths() {
    let signed = |a: u64, b: u64| i64::from(a as u32 as i32) * i64::from(b as u32 as i32);
    let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
    let wide_signed = |a: u64, b: u64| i128::from(a as i64) * i128::from(b as i64);
    Table::new()
        .is("ww>w", "mul.lo.u32 %d, %a, %b;", &[[A, B, (A * B) & 0xffff_ffff], [65_536, 65_536, 0]])
        .is("ww>w", "mul.lo.s32 %d, %a, %b;", &[[s(-3), 7, s(-21)], [MIN, s(-1), MIN]])
        .is("ww>w", "mul.hi.u32 %d, %a, %b;", &[[A, B, (A * B) >> 32], [0xffff_ffff, 0xffff_ffff, 0xffff_fffe]])
        .is("ww>w", "mul.hi.s32 %d, %a, %b;", &[
            [s(-1), 1, s(-1)],
            [MIN, MIN, 0x4000_0000],
            [A, B, (signed(A, B) >> 32) as u64 & 0xffff_ffff],
        ])
        .is("ww>x", "mul.wide.u32 %d, %a, %b;", &[[A, B, A * B], [0xffff_ffff, 2, 0x1_ffff_fffe]])
        .is("ww>x", "mul.wide.s32 %d, %a, %b;", &[[s(-2), 3, s64(-6)], [MIN, MIN, 1 << 62], [A, B, signed(A, B) as u64]])
        .is("hh>w", "mul.wide.u16 %d, %a, %b;", &[[0xffff, 0xffff, 0xfffe_0001]])
        .is("hh>w", "mul.wide.s16 %d, %a, %b;", &[[s16(-2), 3, s(-6)], [0x8000, 0x8000, 0x4000_0000]])
        .is("hh>h", "mul.lo.u16 %d, %a, %b;", &[[0x1234, 0x5678, (0x1234 * 0x5678) & 0xffff]])
        .is("hh>h", "mul.lo.s16 %d, %a, %b;", &[[s16(-3), 7, s16(-21)]])
        .is("hh>h", "mul.hi.u16 %d, %a, %b;", &[[0x1234, 0x5678, (0x1234 * 0x5678) >> 16]])
        .is("hh>h", "mul.hi.s16 %d, %a, %b;", &[[s16(-1), 1, 0xffff], [0x8000, 0x8000, 0x4000]])
        .is("xx>x", "mul.lo.u64 %d, %a, %b;", &[[WIDE_A, WIDE_B, wide(WIDE_A, WIDE_B) as u64]])
        .is("xx>x", "mul.lo.s64 %d, %a, %b;", &[[s64(-3), 5, s64(-15)]])
        .is("xx>x", "mul.hi.u64 %d, %a, %b;", &[
            [WIDE_A, WIDE_B, (wide(WIDE_A, WIDE_B) >> 64) as u64],
            [u64::MAX, u64::MAX, u64::MAX - 1],
        ])
        .is("xx>x", "mul.hi.s64 %d, %a, %b;", &[
            [WIDE_A, WIDE_B, (wide_signed(WIDE_A, WIDE_B) >> 64) as u64],
            [s64(-1), 1, u64::MAX],
        ])
        .is("www>w", "mad.lo.u32 %d, %a, %b, %c;", &[[A, B, 9, (A * B + 9) & 0xffff_ffff]])
        .is("www>w", "mad.lo.s32 %d, %a, %b, %c;", &[[s(-3), 7, 1, s(-20)]])
        .is("www>w", "mad.hi.u32 %d, %a, %b, %c;", &[[A, B, 9, ((A * B) >> 32) + 9]])
        .is("www>w", "mad.hi.s32 %d, %a, %b, %c;", &[[s(-1), 1, 5, 4]])
        .is("wwx>x", "mad.wide.u32 %d, %a, %b, %c;", &[[A, B, WIDE_B, WIDE_B.wrapping_add(A * B)]])
        .is("wwx>x", "mad.wide.s32 %d, %a, %b, %c;", &[[s(-2), 3, 1, s64(-5)]])
        .is("hhw>w", "mad.wide.u16 %d, %a, %b, %c;", &[[0xffff, 2, 5, 0x2_0003]])
        .is("hhw>w", "mad.wide.s16 %d, %a, %b, %c;", &[[s16(-2), 3, 1, s(-5)]])
        .is("hhh>h", "mad.lo.u16 %d, %a, %b, %c;", &[[0x100, 0x101, 3, 0x103]])
        .is("xxx>x", "mad.lo.u64 %d, %a, %b, %c;", &[[WIDE_A, 3, 4, WIDE_A.wrapping_mul(3).wrapping_add(4)]])
        .is("xxx>x", "mad.lo.s64 %d, %a, %b, %c;", &[[s64(-3), 5, 15, 0]])
        .check();
}

#[test]
fn division_truncates_towards_zero() {
    Table::new()
        .is("ww>w", "div.u32 %d, %a, %b;", &[[7, 2, 3], [0xffff_ffff, 10, 429_496_729], [0xffff_ffff, 0xffff_ffff, 1]])
        .is("ww>w", "div.s32 %d, %a, %b;", &[[s(-7), 2, s(-3)], [7, s(-2), s(-3)], [s(-7), s(-2), 3], [MIN, 2, 0xc000_0000]])
        .is("ww>w", "rem.u32 %d, %a, %b;", &[[7, 2, 1], [0xffff_ffff, 10, 5]])
        .is("ww>w", "rem.s32 %d, %a, %b;", &[[s(-7), 2, s(-1)], [7, s(-2), 1], [s(-7), s(-4), s(-3)]])
        .is("xx>x", "div.u64 %d, %a, %b;", &[[u64::MAX, 10, 1_844_674_407_370_955_161]])
        .is("xx>x", "div.s64 %d, %a, %b;", &[[s64(-7), 2, s64(-3)]])
        .is("xx>x", "rem.u64 %d, %a, %b;", &[[u64::MAX, 10, 5]])
        .is("xx>x", "rem.s64 %d, %a, %b;", &[[s64(-7), 4, s64(-3)]])
        .is("hh>h", "div.u16 %d, %a, %b;", &[[0xffff, 7, 9362]])
        .is("hh>h", "div.s16 %d, %a, %b;", &[[s16(-7), 2, s16(-3)]])
        .is("hh>h", "rem.u16 %d, %a, %b;", &[[0xffff, 7, 1]])
        .is("hh>h", "rem.s16 %d, %a, %b;", &[[s16(-7), 4, s16(-3)]])
        .check();
}

/// Amounts at or above the width clamp to it; nothing wraps.
#[test]
fn shifts_clamp() {
    Table::new()
        .is("ww>w", "shl.b32 %d, %a, %b;", &[
            [1, 31, MIN],
            [A, 0, A],
            [A, 32, 0],
            [A, 33, 0],
            [A, 0xffff_ffff, 0],
            [A, 4, 0xeadb_eef0],
        ])
        .is("ww>w", "shr.u32 %d, %a, %b;", &[[MIN, 31, 1], [A, 32, 0], [A, 64, 0], [A, 8, 0xde_adbe]])
        .is("ww>w", "shr.s32 %d, %a, %b;", &[
            [MIN, 31, s(-1)],
            [MIN, 32, s(-1)],
            [A, 0x8000_0000, s(-1)],
            [TOP, 40, 0],
            [s(-8), 1, s(-4)],
        ])
        .is("ww>w", "shr.b32 %d, %a, %b;", &[[MIN, 31, 1]])
        .is("xw>x", "shl.b64 %d, %a, %b;", &[[1, 63, 1 << 63], [1, 64, 0], [WIDE_A, 65, 0], [WIDE_A, 4, WIDE_A << 4]])
        .is("xw>x", "shr.u64 %d, %a, %b;", &[[1 << 63, 63, 1], [WIDE_A, 64, 0], [WIDE_A, 4, WIDE_A >> 4]])
        .is("xw>x", "shr.s64 %d, %a, %b;", &[[1 << 63, 63, u64::MAX], [1 << 63, 200, u64::MAX], [s64(i64::MAX), 64, 0]])
        .is("hw>h", "shl.b16 %d, %a, %b;", &[[1, 15, 0x8000], [1, 16, 0], [0xffff, 4, 0xfff0]])
        .is("hw>h", "shr.u16 %d, %a, %b;", &[[0x8000, 15, 1], [0x8000, 16, 0]])
        .is("hw>h", "shr.s16 %d, %a, %b;", &[[0x8000, 15, 0xffff], [0x8000, 17, 0xffff], [0x7fff, 16, 0]])
        .is("w>w", "shl.b32 %d, %a, 5;", &[[3, 96]])
        .check();
}

/// shf.l takes the upper half of {b, a} << c, shf.r the lower half of {b, a} >> c; .clamp stops at 32, .wrap takes c % 32.
#[test]
fn funnel_shifts() {
    let pair = B << 32 | A;
    Table::new()
        .is("www>w", "shf.l.wrap.b32 %d, %a, %b, %c;", &[[A, B, 0, B], [A, B, 8, (pair << 8) >> 32], [A, B, 32, B], [A, B, 40, (pair << 8) >> 32]])
        .is("www>w", "shf.l.clamp.b32 %d, %a, %b, %c;", &[[A, B, 8, (pair << 8) >> 32], [A, B, 32, A], [A, B, 77, A]])
        .is("www>w", "shf.r.wrap.b32 %d, %a, %b, %c;", &[[A, B, 0, A], [A, B, 8, (pair >> 8) & 0xffff_ffff], [A, B, 32, A], [A, B, 33, (pair >> 1) & 0xffff_ffff]])
        .is("www>w", "shf.r.clamp.b32 %d, %a, %b, %c;", &[[A, B, 8, (pair >> 8) & 0xffff_ffff], [A, B, 32, B], [A, B, 1000, B]])
        .check();
}

#[test]
fn extremes_and_signs() {
    Table::new()
        .is("ww>w", "min.u32 %d, %a, %b;", &[[1, 0xffff_ffff, 1], [5, 5, 5]])
        .is("ww>w", "max.u32 %d, %a, %b;", &[[1, 0xffff_ffff, 0xffff_ffff]])
        .is("ww>w", "min.s32 %d, %a, %b;", &[[1, s(-1), s(-1)], [MIN, TOP, MIN]])
        .is("ww>w", "max.s32 %d, %a, %b;", &[[1, s(-1), 1]])
        .is("xx>x", "min.u64 %d, %a, %b;", &[[1, u64::MAX, 1]])
        .is("xx>x", "max.u64 %d, %a, %b;", &[[1, u64::MAX, u64::MAX]])
        .is("xx>x", "min.s64 %d, %a, %b;", &[[1, s64(-1), s64(-1)]])
        .is("xx>x", "max.s64 %d, %a, %b;", &[[1, s64(-1), 1]])
        .is("hh>h", "min.u16 %d, %a, %b;", &[[1, 0xffff, 1]])
        .is("hh>h", "max.u16 %d, %a, %b;", &[[1, 0xffff, 0xffff]])
        .is("hh>h", "min.s16 %d, %a, %b;", &[[1, 0xffff, 0xffff]])
        .is("hh>h", "max.s16 %d, %a, %b;", &[[1, 0xffff, 1]])
        .is("w>w", "abs.s32 %d, %a;", &[[s(-9), 9], [9, 9], [0, 0]])
        .is("x>x", "abs.s64 %d, %a;", &[[s64(-9), 9], [1 << 40, 1 << 40]])
        .is("h>h", "abs.s16 %d, %a;", &[[s16(-9), 9]])
        .is("w>w", "neg.s32 %d, %a;", &[[9, s(-9)], [MIN, MIN], [0, 0]])
        .is("x>x", "neg.s64 %d, %a;", &[[9, s64(-9)]])
        .is("h>h", "neg.s16 %d, %a;", &[[9, s16(-9)]])
        .check();
}

#[test]
fn logic() {
    Table::new()
        .is("ww>w", "and.b32 %d, %a, %b;", &[[A, B, 0x1224_1668]])
        .is("ww>w", "or.b32 %d, %a, %b;", &[[A, B, 0xdebd_feff]])
        .is("ww>w", "xor.b32 %d, %a, %b;", &[[A, B, 0xcc99_e897]])
        .is("w>w", "not.b32 %d, %a;", &[[A, 0x2152_4110]])
        .is("w>w", "cnot.b32 %d, %a;", &[[A, 0], [0, 1]])
        .is("xx>x", "and.b64 %d, %a, %b;", &[[WIDE_A, WIDE_B, WIDE_A & WIDE_B]])
        .is("xx>x", "or.b64 %d, %a, %b;", &[[WIDE_A, WIDE_B, u64::MAX]])
        .is("xx>x", "xor.b64 %d, %a, %b;", &[[WIDE_A, u64::MAX, WIDE_B]])
        .is("x>x", "not.b64 %d, %a;", &[[WIDE_A, WIDE_B]])
        .is("hh>h", "and.b16 %d, %a, %b;", &[[0xff00, 0x0ff0, 0x0f00]])
        .is("hh>h", "or.b16 %d, %a, %b;", &[[0xff00, 0x0ff0, 0xfff0]])
        .is("hh>h", "xor.b16 %d, %a, %b;", &[[0xff00, 0x0ff0, 0xf0f0]])
        .is("h>h", "not.b16 %d, %a;", &[[0xff00, 0x00ff]])
        .is("pp>p", "and.pred %d, %a, %b;", &[[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 1]])
        .is("pp>p", "or.pred %d, %a, %b;", &[[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
        .is("pp>p", "xor.pred %d, %a, %b;", &[[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
        .is("p>p", "not.pred %d, %a;", &[[0, 1], [1, 0]])
        .is("p>p", "mov.pred %d, %a;", &[[0, 0], [1, 1]])
        .check();
}

/// Bit i of the result is bit 4 a + 2 b + c of the table, for the bits i of a, b and c. With a = f0, b = cc, c = aa the
/// result's low byte is the table itself.
#[test]
fn three_operand_logic() {
    let (a, b, c) = (0xffff_00f0u64, 0xf0f0_00cc, 0xcccc_00aa);
    let mut table = Table::new().is("www>w", "lop3.b32 %d, %a, %b, %c, 0x80;", &[[a, b, c, a & b & c]]);
    for lut in [0u64, 1, 0x17, 0x2d, 0x96, 0xca, 0xe8, 0xfe, 0xff] {
        let mut want = 0;
        for bit in 0..32 {
            let of = |v: u64| v >> bit & 1;
            want |= (lut >> (4 * of(a) + 2 * of(b) + of(c)) & 1) << bit;
        }
        assert_eq!(want & 0xff, lut);
        table = table.is("www>w", &format!("lop3.b32 %d, %a, %b, %c, {lut};"), &[[a, b, c, want]]);
    }
    table.check();
}

#[test]
fn bit_counts_and_positions() {
    Table::new()
        .is("w>w", "popc.b32 %d, %a;", &[[0, 0], [0xffff_ffff, 32], [A, 24]])
        .is("x>w", "popc.b64 %d, %a;", &[[u64::MAX, 64], [WIDE_A, 32]])
        .is("w>w", "clz.b32 %d, %a;", &[[0, 32], [1, 31], [MIN, 0]])
        .is("x>w", "clz.b64 %d, %a;", &[[0, 64], [1, 63], [1 << 40, 23]])
        .is("w>w", "brev.b32 %d, %a;", &[[1, MIN], [0x0000_00f1, 0x8f00_0000], [B, 0x1e6a_2c48]])
        .is("x>x", "brev.b64 %d, %a;", &[[1, 1 << 63], [WIDE_B, 0xf7b3_d591_e6a2_c480]])
        .is("w>w", "bfind.u32 %d, %a;", &[[0, 0xffff_ffff], [1, 0], [MIN, 31], [0x300, 9]])
        .is("w>w", "bfind.s32 %d, %a;", &[[0, 0xffff_ffff], [s(-1), 0xffff_ffff], [s(-2), 0], [TOP, 30], [MIN, 30]])
        .is("w>w", "bfind.shiftamt.u32 %d, %a;", &[[0, 0xffff_ffff], [1, 31], [0x300, 22]])
        .is("w>w", "bfind.shiftamt.s32 %d, %a;", &[[s(-2), 31], [s(-1), 0xffff_ffff]])
        .is("x>w", "bfind.u64 %d, %a;", &[[1 << 40, 40], [0, 0xffff_ffff]])
        .is("x>w", "bfind.s64 %d, %a;", &[[s64(-1), 0xffff_ffff], [s64(i64::MIN), 62]])
        .check();
}

/// Position and length are taken modulo 256; bits past the top read as zero, or as the sign if the type has one.
#[test]
fn bit_fields() {
    Table::new()
        .is("www>w", "bfe.u32 %d, %a, %b, %c;", &[
            [A, 4, 8, 0xee],
            [A, 0, 32, A],
            [A, 0, 0, 0],
            [A, 28, 8, 0xd],
            [A, 32, 4, 0],
            [A, 0x104, 0x108, 0xee],
        ])
        .is("www>w", "bfe.s32 %d, %a, %b, %c;", &[
            [A, 4, 8, 0xffff_ffee],
            [B, 4, 8, 0x67],
            [A, 28, 8, 0xffff_fffd],
            [A, 40, 4, 0xffff_ffff],
            [A, 4, 0, 0],
            [A, 0, 40, A],
        ])
        .is("xww>x", "bfe.u64 %d, %a, %b, %c;", &[[WIDE_A, 32, 16, 0xba98], [WIDE_A, 60, 8, 0xf], [WIDE_A, 0, 64, WIDE_A]])
        .is("xww>x", "bfe.s64 %d, %a, %b, %c;", &[[WIDE_A, 32, 16, 0xffff_ffff_ffff_ba98]])
        .is("wwww>w", "bfi.b32 %d, %a, %b, %c, %e;", &[
            [0xab, B, 8, 8, 0x1234_ab78],
            [0xffff_ffff, 0, 28, 8, 0xf000_0000],
            [A, B, 4, 0, B],
            [A, B, 32, 4, B],
            [A, B, 0, 32, A],
        ])
        .is("xxww>x", "bfi.b64 %d, %a, %b, %c, %e;", &[[0xab, 0, 40, 8, 0xab << 40], [WIDE_A, WIDE_B, 0, 64, WIDE_A]])
        .check();
}

/// Bytes 0-3 are those of a, 4-7 those of b; bit 3 of a selector replicates the sign.
#[test]
fn byte_permutations() {
    let (a, b) = (0x8332_2110, 0x7665_d444); // bytes 10 21 32 83 and 44 d4 65 76
    Table::new()
        .is("www>w", "prmt.b32 %d, %a, %b, %c;", &[
            [a, b, 0x3210, a],
            [a, b, 0x7654, b],
            [a, b, 0x0123, 0x1021_3283],
            [a, b, 0x5410, 0xd444_2110],
            [a, b, 0xb8d1, 0xff00_ff21], // signs of bytes 3, 0 and 5, then byte 1
        ])
        .is("ww>w", "prmt.b32 %d, %a, %b, 0x1054;", &[[a, b, 0x2110_d444]])
        .check();
}

/// Packing and unpacking: the first element of a vector is the lowest.
#[test]
fn moves_pack_and_unpack() {
    Table::new()
        .is("w>w", "mov.b32 %d, %a;", &[[A, A]])
        .is("w>w", "mov.u32 %d, 0x89abcdef;", &[[0, 0x89ab_cdef]])
        .is("w>w", "mov.s32 %d, -2;", &[[0, s(-2)]])
        .is("w>w", "mov.f32 %d, 0f3F800000;", &[[0, 0x3f80_0000]])
        .is("w>w", "mov.f32 %d, 1.5;", &[[0, 0x3fc0_0000]])
        .is("x>x", "mov.b64 %d, %a;", &[[WIDE_A, WIDE_A]])
        .is("x>x", "mov.f64 %d, 0d3FF8000000000000;", &[[0, 0x3ff8_0000_0000_0000]])
        .is("h>h", "mov.b16 %d, %a;", &[[0xbeef, 0xbeef]])
        .is("hh>w", "mov.b32 %d, {%a, %b};", &[[0x1111, 0x2222, 0x2222_1111]])
        .is("w>hh", "mov.b32 {%d, %q}, %a;", &[[A, 0xbeef, 0xdead]])
        .is("ww>x", "mov.b64 %d, {%a, %b};", &[[A, B, B << 32 | A]])
        .is("x>ww", "mov.b64 {%d, %q}, %a;", &[[WIDE_A, 0x7654_3210, 0xfedc_ba98]])
        .is("hhhh>x", "mov.b64 %d, {%a, %b, %c, %e};", &[[1, 2, 3, 4, 0x0004_0003_0002_0001]])
        .is("w>h", "mov.b32 {%d, _}, %a;", &[[A, 0xbeef]])
        .is("w>h", "mov.b32 {_, %d}, %a;", &[[A, 0xdead]])
        .check();
}
