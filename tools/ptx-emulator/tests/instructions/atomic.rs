//! Atomics: what is left in memory, and what the threads were told.

use crate::common::{Arg, everywhere, kernel, longs, shape, words};

/// The operations whose result does not depend on the order, on every type, in both memories, with `atom` and `red`.
#[test]
fn reductions_in_memory() {
    let narrow: Vec<u32> = (0..96u32)
        .map(|i| (i + 3).wrapping_mul(0x9e37_79b9))
        .collect();
    let wide: Vec<u64> = (0..96u64)
        .map(|i| (i + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect();
    type Fold<T> = fn(T, T) -> T;
    let on_words: [(&str, u32, Fold<u32>); 11] = [
        ("add.u32", 7, u32::wrapping_add),
        ("add.s32", 7, u32::wrapping_add),
        ("min.u32", u32::MAX, u32::min),
        ("max.u32", 0, u32::max),
        ("min.s32", 5, |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", 5, |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", 0xf0ff_ff3f, |a, b| a & b),
        ("or.b32", 0x100, |a, b| a | b),
        ("xor.b32", 0x1234, |a, b| a ^ b),
        // Sums of small integers are exact in any order.
        ("add.f32", 0x4000_0000, |a, b| {
            (f32::from_bits(a) + f32::from_bits(b)).to_bits()
        }),
        ("add.u32.relaxed", 1, u32::wrapping_add),
    ];
    let on_longs: [(&str, u64, Fold<u64>); 8] = [
        ("add.u64", 7, u64::wrapping_add),
        ("min.u64", u64::MAX, u64::min),
        ("max.u64", 0, u64::max),
        ("min.s64", 5, |a, b| (a as i64).min(b as i64) as u64),
        ("max.s64", 5, |a, b| (a as i64).max(b as i64) as u64),
        ("or.b64", 1 << 40, |a, b| a | b),
        ("xor.b64", 1 << 41, |a, b| a ^ b),
        ("add.f64", 0x4000_0000_0000_0000, |a, b| {
            (f64::from_bits(a) + f64::from_bits(b)).to_bits()
        }),
    ];
    let body = |op: &str, bytes: u32, name: &str, space: &str| {
        let (operation, ty) = op.split_once('.').unwrap();
        let (ty, order) = match ty.split_once('.') {
            Some((ty, order)) => (ty, format!(".{order}.gpu")),
            None => (ty, String::new()),
        };
        let class = if bytes == 8 { "rd4" } else { "r4" };
        let old = if name == "atom" {
            format!("%{}, ", class.replace('4', "5"))
        } else {
            String::new()
        };
        let at = if space == "global" {
            "[%out]"
        } else {
            "[room]"
        };
        // A float operand needs a float register.
        let (to_float, value, old) = match ty {
            "f32" => ("mov.b32 %f0, %r4;", "%f0", old.replace("%r5", "%f5")),
            "f64" => ("mov.b64 %d0, %rd4;", "%d0", old.replace("%rd5", "%d1")),
            _ => ("", if bytes == 8 { "%rd4" } else { "%r4" }, old),
        };
        let bits = 8 * bytes;
        let (before, after) = if space == "shared" {
            (
                format!(
                    "setp.eq.u32 %p, %id, 0;\n @%p ld.global.b{bits} %{class}, [%out];\n \
                     @%p st.shared.b{bits} [room], %{class};\n bar.sync 0;"
                ),
                format!(
                    "bar.sync 0;\n @%p ld.shared.b{bits} %{class}, [room];\n @%p st.global.b{bits} [%out], %{class};"
                ),
            )
        } else {
            (String::new(), String::new())
        };
        kernel(&format!(
            ".shared .align 8 .b8 room[8];\n .reg .f64 %d0, %d1;\n mad.wide.u32 %rd, %r, {bytes}, %in;\n {before}\n \
             ld.global.b{bits} %{class}, [%rd];\n {to_float}\n {name}{order}.{space}.{operation}.{ty} {old}{at}, {value};\n {after}"
        ))
    };
    for name in ["atom", "red"] {
        for space in ["global", "shared"] {
            // Several blocks only where they share the memory.
            let at = if space == "global" {
                shape(3, 32)
            } else {
                shape(1, 96)
            };
            for (op, start, fold) in on_words {
                let values: Vec<u32> = match op {
                    "add.f32" => (0..96u32).map(|i| (i as f32 - 20.0).to_bits()).collect(),
                    "and.b32" => narrow.iter().map(|v| v | 0x8000_0101).collect(), // some bits survive
                    _ => narrow.clone(),
                };
                let text = body(op, 4, name, space);
                let buffers = everywhere(
                    &text,
                    at,
                    &[Arg::words(values.clone()), Arg::words([start])],
                );
                let want = values.iter().fold(start, |a, b| fold(a, *b));
                assert_eq!(words(&buffers[1]), [want], "{name}.{space}.{op}");
            }
            for (op, start, fold) in on_longs {
                let values: Vec<u64> = if op.ends_with("f64") {
                    (0..96)
                        .map(|i| (f64::from(i) * 0.5 - 20.0).to_bits())
                        .collect()
                } else {
                    wide.clone()
                };
                let text = body(op, 8, name, space);
                let bytes =
                    |all: &[u64]| Arg::Data(all.iter().flat_map(|v| v.to_le_bytes()).collect());
                let buffers = everywhere(&text, at, &[bytes(&values), bytes(&[start])]);
                let want = values.iter().fold(start, |a, b| fold(a, *b));
                assert_eq!(longs(&buffers[1]), [want], "{name}.{space}.{op}");
            }
        }
    }
}

/// Everybody gets a ticket of its own: the old values of a counter are 0, 1, 2, ... in some order.
#[test]
fn old_values_are_all_different() {
    // A bit per ticket, so that the answer does not depend on the order.
    for take in [
        "atom.global.add.u32 %r1, [%in], 1;",
        "atom.global.inc.u32 %r1, [%in], 1000;",
        "atom.add.acq_rel.gpu.global.u32 %r1, [%in], 1;",
    ] {
        let text = kernel(&format!(
            "{take}
    shr.u32 %r2, %r1, 5;
    and.b32 %r3, %r1, 31;
    mov.u32 %r4, 1;
    shl.b32 %r4, %r4, %r3;
    mad.wide.u32 %rd, %r2, 4, %out;
    red.global.add.u32 [%rd], %r4;"
        ));
        let text = text.replace("atom.add.acq_rel.gpu.global", "atom.acq_rel.gpu.global.add");
        let buffers = everywhere(&text, shape(4, 48), &[Arg::zeros(4), Arg::zeros(24)]);
        assert_eq!(words(&buffers[0]), [192], "{take}");
        assert_eq!(words(&buffers[1]), [u32::MAX; 6], "{take}");
    }
}

/// `inc` wraps to zero at its bound, `dec` from zero, or from beyond it, to its bound.
#[test]
fn counting_modulo() {
    let text = kernel(
        "mad.wide.u32 %rd0, %id, 8, %in;
    mad.wide.u32 %rd1, %id, 8, %out;
    ld.global.u32 %r1, [%rd0 + 4];
    atom.global.inc.u32 %r2, [%rd1], %r1;
    atom.global.dec.u32 %r3, [%rd1 + 4], %r1;
    st.global.v2.u32 [%rd0], {%r2, %r3};",
    );
    // (value, bound), and what inc and dec make of it.
    let cases: [(u32, u32, u32, u32); 6] = [
        (0, 5, 1, 5),
        (4, 5, 5, 3),
        (5, 5, 0, 4),
        (9, 5, 0, 5),
        (0, 0, 0, 0),
        (u32::MAX, u32::MAX, 0, u32::MAX - 1),
    ];
    let input = cases.iter().flat_map(|c| [77, c.1]);
    let memory = cases.iter().flat_map(|c| [c.0, c.0]);
    let buffers = everywhere(&text, shape(1, 6), &[Arg::words(input), Arg::words(memory)]);
    assert_eq!(
        words(&buffers[0]),
        cases.iter().flat_map(|c| [c.0, c.0]).collect::<Vec<_>>()
    );
    assert_eq!(
        words(&buffers[1]),
        cases.iter().flat_map(|c| [c.2, c.3]).collect::<Vec<_>>()
    );
}

#[test]
fn exchange_and_compare() {
    let text = kernel(
        "mad.wide.u32 %rd0, %id, 8, %in;
    mad.wide.u32 %rd1, %id, 8, %out;
    ld.global.u64 %rd2, [%rd0];          // what to expect
    cvt.u32.u64 %r1, %rd2;
    atom.global.cas.b32 %r2, [%rd1], %r1, 99;
    atom.global.exch.b32 %r3, [%rd1 + 4], %id;
    st.global.v2.u32 [%rd0], {%r2, %r3};",
    );
    let buffers = everywhere(
        &text,
        shape(1, 4),
        &[
            Arg::words([5, 0, 6, 0, 5, 0, 0, 0]),
            Arg::words([5, 10, 5, 11, 5, 12, 0, 13]),
        ],
    );
    assert_eq!(words(&buffers[0]), [5, 10, 5, 11, 5, 12, 0, 13]);
    assert_eq!(words(&buffers[1]), [99, 0, 5, 1, 99, 2, 99, 3]);

    let text = kernel(
        "mov.u64 %rd0, 0x1122334455667788;
    mad.wide.u32 %rd1, %id, 8, %out;
    atom.global.cas.b64 %rd2, [%rd1], %rd0, -1;
    atom.global.exch.b64 %rd3, [%rd1], 7;
    mad.wide.u32 %rd1, %id, 8, %in;
    st.global.u64 [%rd1], %rd3;",
    );
    let longs_of = |all: [u64; 2]| Arg::Data(all.iter().flat_map(|v| v.to_le_bytes()).collect());
    let buffers = everywhere(
        &text,
        shape(1, 2),
        &[
            Arg::zeros(16),
            longs_of([0x1122_3344_5566_7788, 0x1122_3344]),
        ],
    );
    assert_eq!(longs(&buffers[0]), [u64::MAX, 0x1122_3344]);
    assert_eq!(longs(&buffers[1]), [7, 7]);
}

/// A loop of compare-and-swap adds what there is no instruction for: the largest f32.
#[test]
fn loops_of_compare_and_swap_end() {
    for space in ["global", "shared"] {
        let at = if space == "global" {
            "[%out]"
        } else {
            "[room]"
        };
        let (before, after) = if space == "shared" {
            (
                "mov.u32 %r1, 0;\n setp.eq.u32 %q, %id, 0;\n @%q st.shared.u32 [room], %r1;\n bar.sync 0;",
                "bar.sync 0;\n @%q ld.shared.u32 %r1, [room];\n @%q st.global.u32 [%out], %r1;",
            )
        } else {
            ("", "")
        };
        let load = if space == "global" {
            "ld.relaxed.gpu.global.f32"
        } else {
            "ld.volatile.shared.f32"
        };
        let text = kernel(&format!(
            ".shared .align 4 .b8 room[4];
    {before}
    ld.global.f32 %f0, [%in4];
    {load} %f1, {at};
AGAIN:
    max.f32 %f2, %f0, %f1;
    mov.b32 %r2, %f1;
    mov.b32 %r3, %f2;
    atom.{space}.cas.b32 %r4, {at}, %r2, %r3;
    mov.b32 %f1, %r4;
    setp.ne.u32 %p, %r4, %r2;
    @%p bra AGAIN;
    {after}"
        ));
        let values: Vec<f32> = (0..70).map(|i| (i as f32 * 1.7).sin()).collect();
        let largest = values.iter().copied().fold(0.0, f32::max);
        let buffers = everywhere(&text, shape(1, 70), &[Arg::floats(values), Arg::zeros(4)]);
        assert_eq!(words(&buffers[1]), [largest.to_bits()], "{space}");
    }
}

/// Fence, counter, fence: what other blocks left behind is there for the last one.
#[test]
fn the_last_block_adds_up() {
    let text = kernel(
        ".shared .align 4 .b8 ticket[4];
    // Each block leaves a part of the sum; the last one to finish adds the parts.
    ld.global.u32 %r1, [%in4];
    redux.sync.add.u32 %r1, %r1, -1;
    mov.u32 %r2, %ctaid.x;
    mad.wide.u32 %rd, %r2, 4, %out;
    setp.eq.u32 %p, %id, 0;
    @%p st.global.u32 [%rd + 8], %r1;
    membar.gl;
    @%p atom.global.add.u32 %r3, [%out], 1;
    membar.gl;
    @%p st.shared.u32 [ticket], %r3;
    bar.sync 0;
    ld.shared.u32 %r3, [ticket];
    add.u32 %r3, %r3, 1;
    mov.u32 %r4, %nctaid.x;
    setp.ne.u32 %q, %r3, %r4;
    @%q ret;
    mov.u32 %r5, 0;
    setp.lt.u32 %p, %id, %r4;
    mad.wide.u32 %rd, %id, 4, %out;
    @%p ld.global.u32 %r5, [%rd + 8];
    redux.sync.add.u32 %r5, %r5, -1;
    setp.eq.u32 %p, %id, 0;
    @%p st.global.u32 [%out + 4], %r5;",
    );
    let values: Vec<u32> = (0..9 * 32).map(|i| i * i).collect();
    let buffers = everywhere(
        &text,
        shape(9, 32),
        &[Arg::words(values.clone()), Arg::zeros(44)],
    );
    let found = words(&buffers[1]);
    assert_eq!(found[..2], [9, values.iter().sum::<u32>()]);
}
