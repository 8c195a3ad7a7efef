//! Comparisons and selections.

use crate::{NAN_IN, NEG_ZERO, Table, d, f, s, s16, s64};

#[test]
fn integers_compare_by_their_sign() {
    let big = 0xffff_ffff;
    let mut table = Table::new();
    // The answer for (1, 2), (2, 2), (3, 2) and, signed and unsigned, for (-1, 1).
    for (op, below, same, above) in [
        ("eq", 0, 1, 0),
        ("ne", 1, 0, 1),
        ("lt", 1, 0, 0),
        ("le", 1, 1, 0),
        ("gt", 0, 0, 1),
        ("ge", 0, 1, 1),
    ] {
        table = table
            .is("ww>p", &format!("setp.{op}.s32 %d, %a, %b;"), &[[1, 2, below], [2, 2, same], [3, 2, above], [s(-1), 1, below]])
            .is("ww>p", &format!("setp.{op}.u32 %d, %a, %b;"), &[[1, 2, below], [2, 2, same], [3, 2, above], [big, 1, above]])
            .is("xx>p", &format!("setp.{op}.s64 %d, %a, %b;"), &[[1, 2, below], [2, 2, same], [3, 2, above], [s64(-1), 1, below]])
            .is("xx>p", &format!("setp.{op}.u64 %d, %a, %b;"), &[[1, 2, below], [2, 2, same], [1 << 32, 2, above], [u64::MAX, 1, above]])
            .is("hh>p", &format!("setp.{op}.s16 %d, %a, %b;"), &[[1, 2, below], [2, 2, same], [3, 2, above], [s16(-1), 1, below]])
            .is("hh>p", &format!("setp.{op}.u16 %d, %a, %b;"), &[[1, 2, below], [2, 2, same], [3, 2, above], [0xffff, 1, above]]);
    }
    for (op, below, same, above) in [("lo", 1, 0, 0), ("ls", 1, 1, 0), ("hi", 0, 0, 1), ("hs", 0, 1, 1)] {
        table = table.is("ww>p", &format!("setp.{op}.u32 %d, %a, %b;"), &[[1, 2, below], [2, 2, same], [big, 2, above]]);
    }
    table
        .is("ww>p", "setp.eq.b32 %d, %a, %b;", &[[big, big, 1], [1, 2, 0]])
        .is("xx>p", "setp.ne.b64 %d, %a, %b;", &[[1 << 40, 0, 1], [7, 7, 0]])
        .is("w>p", "setp.lt.s32 %d, %a, -3;", &[[s(-4), 1], [s(-3), 0]])
        .check();
}

/// Ordered comparisons with a NaN are false, unordered ones true.
#[test]
fn floats_compare_ordered_or_not() {
    let mut table = Table::new();
    for (op, below, same, above) in [
        ("eq", 0, 1, 0),
        ("ne", 1, 0, 1),
        ("lt", 1, 0, 0),
        ("le", 1, 1, 0),
        ("gt", 0, 0, 1),
        ("ge", 0, 1, 1),
    ] {
        for (suffix, nan) in [("", 0), ("u", 1)] {
            table = table
                .is("ww>p", &format!("setp.{op}{suffix}.f32 %d, %a, %b;"), &[
                    [f(1.0), f(2.0), below],
                    [f(2.0), f(2.0), same],
                    [f(3.0), f(2.0), above],
                    [f(-3.0), f(2.0), below],
                    [0, NEG_ZERO, same],
                    [NAN_IN, f(1.0), nan],
                    [f(1.0), NAN_IN, nan],
                    [NAN_IN, NAN_IN, nan],
                ])
                .is("xx>p", &format!("setp.{op}{suffix}.f64 %d, %a, %b;"), &[
                    [d(1.0), d(2.0), below],
                    [d(2.0), d(2.0), same],
                    [d(3.0), d(2.0), above],
                    [d(f64::NAN), d(1.0), nan],
                ]);
        }
    }
    table
        .is("ww>p", "setp.num.f32 %d, %a, %b;", &[[f(1.0), f(2.0), 1], [NAN_IN, f(1.0), 0], [f(1.0), NAN_IN, 0]])
        .is("ww>p", "setp.nan.f32 %d, %a, %b;", &[[f(1.0), f(2.0), 0], [NAN_IN, f(1.0), 1], [f(1.0), NAN_IN, 1]])
        .check();
}

/// The second result is the combination with the negated comparison.
#[test]
fn comparisons_combine_with_a_predicate() {
    Table::new()
        .is("ww>pp", "setp.lt.s32 %d|%q, %a, %b;", &[[1, 2, 1, 0], [2, 1, 0, 1]])
        .is("wwp>pp", "setp.lt.and.s32 %d|%q, %a, %b, %c;", &[[1, 2, 1, 1, 0], [1, 2, 0, 0, 0], [2, 1, 1, 0, 1], [2, 1, 0, 0, 0]])
        .is("wwp>pp", "setp.lt.or.s32 %d|%q, %a, %b, %c;", &[[1, 2, 1, 1, 1], [1, 2, 0, 1, 0], [2, 1, 1, 1, 1], [2, 1, 0, 0, 1]])
        .is("wwp>pp", "setp.lt.xor.s32 %d|%q, %a, %b, %c;", &[[1, 2, 1, 0, 1], [1, 2, 0, 1, 0], [2, 1, 1, 1, 0], [2, 1, 0, 0, 1]])
        .is("wwp>p", "setp.lt.and.s32 %d, %a, %b, !%c;", &[[1, 2, 1, 0], [1, 2, 0, 1]])
        .is("wwp>p", "setp.gt.or.f32 %d, %a, %b, %c;", &[[f(2.0), f(1.0), 0, 1], [NAN_IN, f(1.0), 0, 0], [NAN_IN, f(1.0), 1, 1]])
        .check();
}

#[test]
fn selections() {
    Table::new()
        .is("wwp>w", "selp.b32 %d, %a, %b, %c;", &[[7, 9, 1, 7], [7, 9, 0, 9]])
        .is("wwp>w", "selp.f32 %d, %a, %b, %c;", &[[f(7.0), NAN_IN, 1, f(7.0)], [f(7.0), NAN_IN, 0, NAN_IN]])
        .is("xxp>x", "selp.b64 %d, %a, %b, %c;", &[[1 << 40, 9, 1, 1 << 40], [1 << 40, 9, 0, 9]])
        .is("hhp>h", "selp.b16 %d, %a, %b, %c;", &[[7, 9, 1, 7], [7, 9, 0, 9]])
        .is("p>w", "selp.u32 %d, 1, 0, %a;", &[[1, 1], [0, 0]])
        .is("ww>w", "set.lt.u32.s32 %d, %a, %b;", &[[s(-1), 1, 0xffff_ffff], [1, 1, 0]])
        .is("ww>w", "set.lt.s32.f32 %d, %a, %b;", &[[f(1.0), f(2.0), 0xffff_ffff], [NAN_IN, f(2.0), 0]])
        .is("ww>w", "set.ltu.f32.f32 %d, %a, %b;", &[[NAN_IN, f(2.0), f(1.0)], [f(3.0), f(2.0), 0]])
        .check();
}
