//! Conversions between all types.

use crate::{INF, MAX, NAN_IN, NEG_INF, NEG_ZERO, SUB, TINY, Table, d, f, h, h2, p2, s, s16, s64};

#[test]
fn integers_extend_and_truncate() {
    Table::new()
        .is("w>x", "cvt.u64.u32 %d, %a;", &[[0xffff_fffe, 0xffff_fffe]])
        .is("w>x", "cvt.s64.s32 %d, %a;", &[[s(-2), s64(-2)], [5, 5]])
        .is("w>x", "cvt.u64.s32 %d, %a;", &[[s(-2), s64(-2)]])
        .is("x>w", "cvt.u32.u64 %d, %a;", &[[0x1_2345_6789, 0x2345_6789]])
        .is("x>w", "cvt.s32.s64 %d, %a;", &[[0x1_8000_0000, 0x8000_0000]])
        .is("h>w", "cvt.u32.u16 %d, %a;", &[[0xfffe, 0xfffe]])
        .is("h>w", "cvt.s32.s16 %d, %a;", &[[0xfffe, s(-2)], [0x7fff, 0x7fff]])
        .is("w>h", "cvt.u16.u32 %d, %a;", &[[0x1234_5678, 0x5678]])
        .is("w>h", "cvt.s16.s32 %d, %a;", &[[s(-2), s16(-2)]])
        .is("h>x", "cvt.s64.s16 %d, %a;", &[[0x8000, s64(-32_768)]])
        .is("h>x", "cvt.u64.u16 %d, %a;", &[[0x8000, 0x8000]])
        .is("x>h", "cvt.u16.u64 %d, %a;", &[[0x1_2345_6789, 0x6789]])
        // Only the low byte of an 8-bit operand counts; an 8-bit result is extended to its register.
        .is("w>w", "cvt.u32.u8 %d, %a;", &[[0x1234_56fe, 0xfe]])
        .is("w>w", "cvt.s32.s8 %d, %a;", &[[0x1234_56fe, s(-2)], [0x80, s(-128)], [0x7f, 0x7f]])
        .is("h>w", "cvt.s32.s8 %d, %a;", &[[0x12fe, s(-2)]])
        .is("w>w", "cvt.u8.u32 %d, %a;", &[[0x1234_56fe, 0xfe]])
        .is("w>w", "cvt.s8.s32 %d, %a;", &[[0x180, s(-128)], [0x17f, 0x7f]])
        .is("w>h", "cvt.u8.u32 %d, %a;", &[[0x1234_56fe, 0xfe]])
        .is("x>w", "cvt.u8.u64 %d, %a;", &[[0x1234_56fe, 0xfe]])
        .check();
}

#[test]
fn integers_saturate() {
    Table::new()
        .is("w>w", "cvt.sat.u8.u32 %d, %a;", &[[300, 255], [255, 255], [3, 3]])
        .is("w>w", "cvt.sat.u8.s32 %d, %a;", &[[s(-1), 0], [300, 255]])
        .is("w>w", "cvt.sat.s8.s32 %d, %a;", &[[200, 127], [s(-200), s(-128)], [s(-5), s(-5)]])
        .is("w>h", "cvt.sat.s16.s32 %d, %a;", &[[40_000, 0x7fff], [s(-40_000), 0x8000], [s(-5), s16(-5)]])
        .is("w>h", "cvt.sat.u16.s32 %d, %a;", &[[70_000, 0xffff], [s(-5), 0]])
        .is("w>w", "cvt.sat.u32.s32 %d, %a;", &[[s(-1), 0], [7, 7]])
        .is("w>w", "cvt.sat.s32.u32 %d, %a;", &[[0xffff_ffff, 0x7fff_ffff], [7, 7]])
        .is("x>w", "cvt.sat.s32.s64 %d, %a;", &[[1 << 40, 0x7fff_ffff], [s64(-(1 << 40)), 0x8000_0000]])
        .is("x>w", "cvt.sat.u32.u64 %d, %a;", &[[1 << 40, 0xffff_ffff]])
        .check();
}

#[test]
fn floats_to_integers_round_and_clamp() {
    Table::new()
        .is("w>w", "cvt.rni.s32.f32 %d, %a;", &[
            [f(2.5), 2],
            [f(3.5), 4],
            [f(-2.5), s(-2)],
            [f(2.500_000_2), 3],
            [f(0.5), 0],
            [f(8_388_609.0), 8_388_609],
            [f(3e9), 0x7fff_ffff],
            [f(-3e9), 0x8000_0000],
            [INF, 0x7fff_ffff],
            [NEG_INF, 0x8000_0000],
            [NAN_IN, 0],
            [SUB, 0],
        ])
        .is("w>w", "cvt.rzi.s32.f32 %d, %a;", &[[f(2.9), 2], [f(-2.9), s(-2)], [f(2_147_483_520.0), 2_147_483_520], [f(2_147_483_648.0), 0x7fff_ffff]])
        .is("w>w", "cvt.rmi.s32.f32 %d, %a;", &[[f(2.9), 2], [f(-2.1), s(-3)], [SUB | 0x8000_0000, s(-1)]])
        .is("w>w", "cvt.rpi.s32.f32 %d, %a;", &[[f(2.1), 3], [f(-2.9), s(-2)], [SUB, 1]])
        .is("w>w", "cvt.rpi.ftz.s32.f32 %d, %a;", &[[SUB, 0], [f(2.1), 3]])
        .is("w>w", "cvt.rni.u32.f32 %d, %a;", &[[f(-0.4), 0], [f(-7.0), 0], [f(3e9), 3_000_000_000], [f(5e9), 0xffff_ffff], [NAN_IN, 0]])
        .is("w>w", "cvt.rzi.u32.f32 %d, %a;", &[[f(4_294_967_040.0), 4_294_967_040], [f(-1.5), 0], [INF, 0xffff_ffff]])
        .is("w>x", "cvt.rzi.s64.f32 %d, %a;", &[[f(-1e10), s64(-10_000_000_000)], [f(1e30), s64(i64::MAX)], [f(-1e30), s64(i64::MIN)]])
        .is("w>x", "cvt.rzi.u64.f32 %d, %a;", &[[f(1e10), 10_000_000_000], [f(-1.0), 0], [INF, u64::MAX]])
        // NaN is 0, unless a 64-bit type takes part: then it is the top bit alone.
        .is("w>x", "cvt.rzi.s64.f32 %d, %a;", &[[NAN_IN, 1 << 63]])
        .is("w>x", "cvt.rzi.u64.f32 %d, %a;", &[[NAN_IN, 1 << 63]])
        .is("x>w", "cvt.rzi.s32.f64 %d, %a;", &[[d(f64::NAN), 0x8000_0000]])
        .is("w>w", "cvt.rni.u8.f32 %d, %a;", &[[f(300.0), 255], [f(254.5), 254], [f(-3.0), 0]])
        .is("w>w", "cvt.rni.s8.f32 %d, %a;", &[[f(300.0), 127], [f(-300.0), s(-128)]])
        .is("w>h", "cvt.rni.s16.f32 %d, %a;", &[[f(40_000.0), 0x7fff], [f(-40_000.0), 0x8000], [f(-1.5), s16(-2)]])
        .is("w>h", "cvt.rzi.u16.f32 %d, %a;", &[[f(70_000.0), 0xffff], [f(65_535.9), 0xffff]])
        .is("x>w", "cvt.rzi.s32.f64 %d, %a;", &[[d(-2.9), s(-2)], [d(1e300), 0x7fff_ffff]])
        .is("x>x", "cvt.rni.s64.f64 %d, %a;", &[[d(2.5), 2], [d(-1e300), 1 << 63]])
        .is("x>x", "cvt.rzi.u64.f64 %d, %a;", &[[d(1e19), 10_000_000_000_000_000_000]])
        .is("h>w", "cvt.rni.s32.f16 %d, %a;", &[[h(2.5), 2], [h(-3.5), s(-4)], [0x7c00, 0x7fff_ffff], [0x7e00, 0]])
        .is("h>w", "cvt.rzi.u32.f16 %d, %a;", &[[h(2.75), 2], [h(-3.5), 0]])
        .check();
}

#[test]
fn integers_to_floats_round() {
    let two_24 = 1 << 24;
    Table::new()
        .is("w>w", "cvt.rn.f32.u32 %d, %a;", &[
            [0, 0],
            [1, f(1.0)],
            [two_24 + 1, f(16_777_216.0)], // a tie: even is below
            [two_24 + 3, f(16_777_220.0)], // a tie: even is above
            [0xffff_ffff, f(4_294_967_296.0)],
        ])
        .is("w>w", "cvt.rz.f32.u32 %d, %a;", &[[two_24 + 3, f(16_777_218.0)], [0xffff_ffff, f(4_294_967_040.0)]])
        .is("w>w", "cvt.rp.f32.u32 %d, %a;", &[[two_24 + 1, f(16_777_218.0)]])
        .is("w>w", "cvt.rm.f32.s32 %d, %a;", &[[s(-16_777_217), f(-16_777_218.0)], [two_24 + 1, f(16_777_216.0)]])
        .is("w>w", "cvt.rn.f32.s32 %d, %a;", &[[s(-3), f(-3.0)], [0x8000_0000, f(-2_147_483_648.0)], [s(-16_777_217), f(-16_777_216.0)]])
        .is("x>w", "cvt.rn.f32.u64 %d, %a;", &[[u64::MAX, f(18_446_744_073_709_551_615.0)], [(1 << 40) + (1 << 16), f(p2(40) as f32)], [(1 << 40) + (1 << 16) + 1, f((p2(40) + p2(17)) as f32)]])
        .is("x>w", "cvt.rn.f32.s64 %d, %a;", &[[s64(-5), f(-5.0)], [s64(i64::MIN), f(-p2(63) as f32)]])
        .is("h>w", "cvt.rn.f32.u16 %d, %a;", &[[0xffff, f(65_535.0)]])
        .is("h>w", "cvt.rn.f32.s16 %d, %a;", &[[0xffff, f(-1.0)]])
        .is("w>w", "cvt.rn.f32.u8 %d, %a;", &[[0x1ff, f(255.0)]])
        .is("w>w", "cvt.rn.f32.s8 %d, %a;", &[[0x1ff, f(-1.0)]])
        .is("w>h", "cvt.rn.f16.u32 %d, %a;", &[[2049, h(2048.0)], [2051, h(2052.0)], [65_519, 0x7bff], [65_520, 0x7c00], [0xffff_ffff, 0x7c00]])
        .is("w>h", "cvt.rz.f16.u32 %d, %a;", &[[2051, h(2050.0)], [65_536, 0x7bff]])
        .is("w>h", "cvt.rn.f16.s32 %d, %a;", &[[s(-2049), h(-2048.0)], [s(-1), h(-1.0)]])
        .is("h>h", "cvt.rn.f16.s16 %d, %a;", &[[s16(-3), h(-3.0)]])
        .is("w>x", "cvt.rn.f64.u32 %d, %a;", &[[0xffff_ffff, d(4_294_967_295.0)]])
        .is("w>x", "cvt.rn.f64.s32 %d, %a;", &[[s(-7), d(-7.0)]])
        .is("x>x", "cvt.rn.f64.u64 %d, %a;", &[[(1 << 53) + 1, d(p2(53))], [(1 << 53) + 3, d(p2(53) + 4.0)]])
        .is("x>x", "cvt.rn.f64.s64 %d, %a;", &[[s64(-9), d(-9.0)]])
        .check();
}

#[test]
fn f32_to_f16_and_back() {
    let half_unit = p2(-11) as f32;
    Table::new()
        .is("w>h", "cvt.rn.f16.f32 %d, %a;", &[
            [f(1.0 + half_unit), 0x3c00],              // ties to even
            [f(1.0 + 3.0 * half_unit), 0x3c02],
            [f(1.0 + half_unit) + 1, 0x3c01],
            [f(-1.0 - 3.0 * half_unit), 0xbc02],
            [f(65_519.996), 0x7bff],
            [f(65_520.0), 0x7c00],
            [MAX, 0x7c00],
            [NEG_INF, 0xfc00],
            [f(p2(-24) as f32), 1],
            [f(p2(-25) as f32), 0],                    // a tie between zero and the smallest
            [f(p2(-25) as f32) + 1, 1],
            [f(3.0 * p2(-25) as f32), 2],
            [f(p2(-14) as f32), 0x0400],
            [f((p2(-14) - p2(-26)) as f32), 0x0400],   // a subnormal that rounds up to a normal
            [SUB, 0],
            [NEG_ZERO, 0x8000],
            [NAN_IN, 0x7fff],
        ])
        .is("w>h", "cvt.rz.f16.f32 %d, %a;", &[
            [f(1.0 + 3.0 * half_unit), 0x3c01],
            [f(65_520.0), 0x7bff],
            [MAX, 0x7bff],
            [INF, 0x7c00],
            [f(-1e9), 0xfbff],
            [f(1.9 * p2(-24) as f32), 1],
            [TINY | 0x8000_0000, 0x8000],
        ])
        .is("w>h", "cvt.rn.sat.f16.f32 %d, %a;", &[[f(2.0), h(1.0)], [f(-2.0), 0], [f(0.5), h(0.5)], [NAN_IN, 0]])
        .is("h>w", "cvt.f32.f16 %d, %a;", &[
            [0x3c01, f(1.0 + 2.0 * half_unit)],
            [1, f(p2(-24) as f32)],
            [0x83ff, f((-1023.0 * p2(-24)) as f32)],
            [0x7bff, f(65_504.0)],
            [0x7c00, INF],
            [0xfc00, NEG_INF],
            [0x8000, NEG_ZERO],
        ])
        // The first source goes to the upper half.
        .is("ww>w", "cvt.rn.f16x2.f32 %d, %a, %b;", &[[f(2.0), f(1.0), h2(1.0, 2.0)], [f(1.0 + 3.0 * half_unit), NAN_IN, 0x3c02_7fff], [f(1e9), f(-0.0), 0x7c00_8000]])
        .is("ww>w", "cvt.rz.f16x2.f32 %d, %a, %b;", &[[f(1e9), f(1.0 + 3.0 * half_unit), 0x7bff_3c01]])
        .check();
}

#[test]
fn floats_to_floats() {
    Table::new()
        .is("w>w", "cvt.rni.f32.f32 %d, %a;", &[[f(2.5), f(2.0)], [f(3.5), f(4.0)], [f(-0.3), NEG_ZERO], [f(1e20), f(1e20)], [INF, INF]])
        .is("w>w", "cvt.rzi.f32.f32 %d, %a;", &[[f(2.9), f(2.0)], [f(-2.9), f(-2.0)]])
        .is("w>w", "cvt.rmi.f32.f32 %d, %a;", &[[f(2.9), f(2.0)], [f(-2.1), f(-3.0)]])
        .is("w>w", "cvt.rpi.f32.f32 %d, %a;", &[[f(2.1), f(3.0)], [f(-2.9), f(-2.0)]])
        .is("w>w", "cvt.sat.f32.f32 %d, %a;", &[[f(2.5), f(1.0)], [f(-2.5), 0], [f(0.25), f(0.25)], [NAN_IN, 0]])
        .is("w>w", "cvt.ftz.f32.f32 %d, %a;", &[[SUB | 0x8000_0000, NEG_ZERO], [TINY, TINY]])
        .is("h>h", "cvt.rni.f16.f16 %d, %a;", &[[h(2.5), h(2.0)]])
        .is("w>x", "cvt.f64.f32 %d, %a;", &[[f(0.1), d(f64::from(0.1f32))], [SUB, d(p2(-149))]])
        .is("x>w", "cvt.rn.f32.f64 %d, %a;", &[
            [d(1.0 + p2(-24)), f(1.0)],
            [d(1.0 + 3.0 * p2(-24)), f(1.0) + 2],
            [d(1e300), INF],
            [d(p2(-150)), 0],
            [d(p2(-149)), SUB],
        ])
        .is("x>w", "cvt.rz.f32.f64 %d, %a;", &[[d(1.0 + 3.0 * p2(-24)), f(1.0) + 1], [d(1e300), MAX], [d(1.9 * p2(-149)), SUB]])
        .is("x>w", "cvt.rp.f32.f64 %d, %a;", &[[d(1.0 + p2(-50)), f(1.0) + 1], [d(p2(-200)), SUB]])
        .is("x>w", "cvt.rm.f32.f64 %d, %a;", &[[d(1.0 - p2(-50)), 0x3f7f_ffff], [d(-1e300), NEG_INF]])
        .is("x>h", "cvt.rn.f16.f64 %d, %a;", &[[d(1.0 + p2(-11)), 0x3c00], [d(1.0 + p2(-11) + p2(-40)), 0x3c01]])
        .is("h>x", "cvt.f64.f16 %d, %a;", &[[0x3c01, d(1.0 + p2(-10))]])
        .check();
}
