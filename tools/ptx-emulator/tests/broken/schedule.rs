//! Results that depend on which thread comes first.

use ptx_emulator::Kind::ScheduleDependent;
use ptx_emulator::{Options, Schedule};

use crate::common::{Arg, HEADER, assembles, kernel_with, parse, run, shape, words};
use crate::marked;

/// Compares the schedules: the broken version must differ, the repaired one must not.
fn compared(
    body: &str,
    input: Arg,
    output: Arg,
    says: &[&str],
    want: impl IntoIterator<Item = u32>,
) {
    let whole = kernel_with(HEADER, "", body);
    let text = |other: &str| -> String {
        whole
            .lines()
            .map(|l| {
                if marked(l, other) {
                    "\n".into()
                } else {
                    format!("{l}\n")
                }
            })
            .collect()
    };
    let options = |seed| Options {
        compare: true,
        seed,
        ..Options::default()
    };
    let args = [input, output];
    let broken = text("repaired");
    assembles(&broken, "sm_80");
    let module = parse(&broken);
    for seed in 0..4 {
        let report = run(
            module.entry("k").unwrap(),
            shape(1, 64),
            &args,
            &options(seed),
        )
        .unwrap_err();
        assert_eq!(
            (report.kind, report.line, report.entry.as_str()),
            (ScheduleDependent, 0, "k"),
            "{report}"
        );
        for part in says {
            assert!(
                report.detail.contains(part),
                "does not say `{part}`: {report}"
            );
        }
    }
    // Each schedule by itself has nothing to complain about.
    for schedule in [Schedule::LockStep, Schedule::OneByOne] {
        let alone = Options {
            schedule,
            ..Options::default()
        };
        run(module.entry("k").unwrap(), shape(1, 64), &args, &alone)
            .unwrap_or_else(|e| panic!("{e}"));
    }
    let repaired = text("broken");
    assembles(&repaired, "sm_80");
    let module = parse(&repaired);
    let want: Vec<u32> = want.into_iter().collect();
    for seed in 0..4 {
        let (buffers, counters) = run(
            module.entry("k").unwrap(),
            shape(1, 64),
            &args,
            &options(seed),
        )
        .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(words(&buffers[1]), want);
        assert_eq!(counters.entry, "k");
        assert!(counters.instructions > 64);
    }
}

/// Places taken in the order of arrival.
#[test]
fn tickets() {
    compared(
        "atom.global.add.u32 %r1, [%in], 1;   // broken
    mov.u32 %r1, %id;                    // repaired
    mad.wide.u32 %rd, %r1, 4, %out;
    st.global.u32 [%rd], %id;",
        Arg::zeros(4),
        Arg::zeros(256),
        &["p_out + ", "one by one", "in lock step"],
        0..64,
    );
}

/// Sums of floats depend on their order, sums of integers do not.
#[test]
fn sums_of_floats() {
    compared(
        "mov.u32 %r2, %lane;
    ld.global.f32 %f0, [%in4];
    red.global.add.f32 [%out], %f0;      // broken
    cvt.rzi.s32.f32 %r1, %f0;            // repaired
    red.global.add.u32 [%out], %r1;      // repaired",
        Arg::floats((0..64).map(|i: i32| {
            if i % 2 == 0 {
                1.5e8 - i as f32 * 1e6
            } else {
                1.0 + i as f32
            }
        })),
        Arg::zeros(4),
        &["p_out + "],
        [(0..64)
            .map(|i: i32| {
                if i % 2 == 0 {
                    (1.5e8 - i as f32 * 1e6) as i32
                } else {
                    1 + i
                }
            })
            .fold(0i32, i32::wrapping_add) as u32],
    );
}

/// Which lanes happen to be together.
#[test]
fn active_lanes() {
    compared(
        "activemask.b32 %r1;                  // broken
    mov.u32 %r1, -1;                     // repaired
    st.global.u32 [%out4], %r1;",
        Arg::zeros(4),
        Arg::zeros(256),
        &["p_out + 0 holds", "in lock step"],
        [u32::MAX; 64],
    );
}

/// Memory is as it was before the second run, or counters would count twice.
#[test]
fn both_runs_start_from_the_same_memory() {
    compared(
        "atom.global.exch.b32 %r1, [%in], %id; // broken
    ld.global.u32 %r1, [%out4];          // repaired
    add.u32 %r1, %r1, 1;
    st.global.u32 [%out4], %r1;",
        Arg::words([1000]),
        Arg::words(0..64),
        &["p_in + 0 holds"],
        1..65,
    );
}
