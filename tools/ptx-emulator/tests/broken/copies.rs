//! Asynchronous copies that are used too early.

use ptx_emulator::Kind::{EarlyRead, Race};

use crate::common::{Arg, shape};
use crate::{ROOM, broken};

fn counting(n: u32) -> Arg {
    Arg::words(0..n)
}

/// A copy of four bytes per thread into `[%r1]`, of 16 into `[%r4]`.
const COPY: &str = "    mad.lo.u32 %r4, %id, 16, %r0;
    mad.wide.u32 %rd, %id, 16, %in;
    cp.async.cg.shared.global [%r4], [%rd], 16; // here
";

fn case(kind: ptx_emulator::Kind, body: &str) -> crate::Broken {
    broken(kind, &(ROOM.to_owned() + COPY + body)).with(
        shape(1, 32),
        counting(128),
        Arg::zeros(128),
    )
}

#[test]
fn nobody_waits() {
    case(
        EarlyRead,
        "    cp.async.wait_all;                   // repaired
    ld.shared.u32 %r5, [%r4 + 4];        // here
    st.global.u32 [%out4], %r5;",
    )
    .says(&[
        "reads shared room + ",
        "asynchronous copy",
        "cp.async.cg.shared.global [%r4], [%rd], 16",
        "not waited for it",
    ])
    .gives((0..32).map(|i| 4 * i + 1));
}

/// Committing is not waiting.
#[test]
fn groups_are_committed_only() {
    case(
        EarlyRead,
        "    cp.async.commit_group;
    cp.async.wait_group 1;               // broken
    cp.async.wait_group 0;               // repaired
    ld.shared.u32 %r5, [%r4];            // here
    st.global.u32 [%out4], %r5;",
    )
    .says(&["asynchronous copy"])
    .gives((0..32).map(|i| 4 * i));
}

/// `wait_group` knows only of committed groups.
#[test]
fn the_commit_is_missing() {
    case(
        EarlyRead,
        "    cp.async.commit_group;               // repaired
    cp.async.wait_group 0;
    ld.shared.u32 %r5, [%r4];            // here
    st.global.u32 [%out4], %r5;",
    )
    .says(&["asynchronous copy"])
    .gives((0..32).map(|i| 4 * i));
}

/// A barrier does not wait for copies.
#[test]
fn barriers_do_not_wait_for_copies() {
    case(
        EarlyRead,
        "    cp.async.wait_all;                   // repaired
    bar.sync 0;
    xor.b32 %r5, %r4, 16;
    ld.shared.u32 %r6, [%r5];            // here
    st.global.u32 [%out4], %r6;",
    )
    .says(&["reads shared room + ", "asynchronous copy"])
    .gives((0..32).map(|i| 4 * (i ^ 1)));
}

/// Everybody waits for its own copies only: those of others need a barrier too.
#[test]
fn copies_of_others_need_a_barrier() {
    case(
        Race,
        "    cp.async.wait_all;
    bar.warp.sync -1;                    // repaired
    xor.b32 %r5, %r4, 16;
    ld.shared.u32 %r6, [%r5];            // here
    st.global.u32 [%out4], %r6;",
    )
    .or(EarlyRead) // the other thread has not come to its wait yet
    .or(ptx_emulator::Kind::Uninitialised) // nor to its copy
    .says(&[
        "shared room + ",
        "cp.async.cg.shared.global [%r4], [%rd], 16|ld.shared.u32 %r6, [%r5]",
        "no barrier lies in between",
    ])
    .gives((0..32).map(|i| 4 * (i ^ 1)));
}

/// The destination belongs to the copy until it was waited for.
#[test]
fn destinations_are_written_too_early() {
    case(
        EarlyRead,
        "    cp.async.wait_all;                   // repaired
    st.shared.u32 [%r4], %id;            // here
    cp.async.wait_all;                   // broken
    ld.shared.u32 %r5, [%r4];
    st.global.u32 [%out4], %r5;",
    )
    .says(&["writes shared room + ", "asynchronous copy"])
    .gives(0..32);
}

/// Two copies into one place.
#[test]
fn destinations_of_two_copies() {
    case(
        EarlyRead,
        "    cp.async.wait_all;                   // repaired
    cp.async.ca.shared.global [%r4], [%rd + 4], 4; // here
    cp.async.wait_all;
    ld.shared.u32 %r5, [%r4];
    st.global.u32 [%out4], %r5;",
    )
    .says(&["writes shared room + ", "asynchronous copy"])
    .gives((0..32).map(|i| 4 * i + 1));
}

/// Others may still read what the copy overwrites.
#[test]
fn copies_overwrite_what_others_read() {
    broken(
        Race,
        &(ROOM.to_owned()
            + "st.shared.u32 [%r1], %id;
    bar.sync 0;
    ld.shared.u32 %r5, [%r3];            // here
    bar.sync 0;                          // repaired
    cp.async.ca.shared.global [%r1], [%in4], 4; // here
    cp.async.wait_all;
    ld.shared.u32 %r6, [%r1];
    mad.lo.u32 %r6, %r6, 100, %r5;
    st.global.u32 [%out4], %r6;"),
    )
    .with(shape(1, 64), counting(64), Arg::zeros(256))
    .or(EarlyRead)
    .says(&["shared room + ", "no barrier lies in between"])
    .gives((0..64).map(|i| 100 * i + (i ^ 32)));
}

#[test]
fn matrices_of_copies() {
    case(
        EarlyRead,
        "    cp.async.wait_all;                   // repaired
    bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r4]; // here
    st.global.u32 [%out4], %r6;",
    )
    .says(&["reads shared room + ", "asynchronous copy"])
    // Row l / 4 of the second matrix is that of lane 8 + l / 4, and l % 4 its word.
    .gives((0..32).map(|i| 4 * (8 + i / 4) + i % 4));
}

/// A pipeline over three stages: in each round, every thread waits for its oldest copy, a barrier makes it everybody's
/// and tells that the stage before was read, which is then filled again. Eight rounds of 64 words.
fn pipeline(waits: &str, barrier: &str, refill: &str) -> String {
    format!(
        ".shared .align 16 .b8 stages[768];
    mov.u32 %r0, stages;
    mad.lo.u32 %r1, %id, 4, %r0;         // where I put what I copy
    xor.b32 %r2, %id, 63;
    mad.lo.u32 %r2, %r2, 4, %r0;         // whose copy I read
    mov.u64 %rd, %in4;
    mov.u32 %r3, 0;
    st.shared.u32 [%r1], %r3;
    st.shared.u32 [%r1 + 256], %r3;
    st.shared.u32 [%r1 + 512], %r3;
    bar.sync 0;
    cp.async.ca.shared.global [%r1], [%rd], 4; // here
    cp.async.commit_group;
    cp.async.ca.shared.global [%r1 + 256], [%rd + 256], 4; // here
    cp.async.commit_group;
    mov.u32 %r4, 0;                      // round
    mov.u32 %r5, 0;                      // sum
    mov.u32 %r6, 0;                      // offset of the stage to read
    mov.u32 %r7, 512;                    // of the stage to fill
ROUND:
    {waits}
    {barrier}
    {refill}
    add.u32 %r9, %r2, %r6;
    ld.shared.u32 %r10, [%r9];           // here
    mad.lo.u32 %r5, %r5, 3, %r10;
    add.u32 %r6, %r6, 256;
    setp.eq.u32 %p, %r6, 768;
    @%p mov.u32 %r6, 0;
    add.u32 %r7, %r7, 256;
    setp.eq.u32 %p, %r7, 768;
    @%p mov.u32 %r7, 0;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p, %r4, 8;
    @%p bra ROUND;
    st.global.u32 [%out4], %r5;"
    )
}

const REFILL: &str = "add.u32 %r8, %r4, 2;
    setp.lt.u32 %p, %r8, 8;
    mad.wide.u32 %rd0, %r8, 256, %rd;
    add.u32 %r8, %r1, %r7;
    @%p cp.async.ca.shared.global [%r8], [%rd0], 4; // here
    cp.async.commit_group;";

fn sums(found: Vec<u32>) {
    let sum = |thread: u32| {
        (0..8).fold(0u32, |s, round| {
            s.wrapping_mul(3).wrapping_add(64 * round + (thread ^ 63))
        })
    };
    assert_eq!(found, (0..64).map(sum).collect::<Vec<_>>());
}

#[test]
fn a_pipeline_that_waits_too_little() {
    let waits = "cp.async.wait_group 2; // broken\n    cp.async.wait_group 1; // repaired";
    let text = pipeline(waits, "bar.sync 0;", REFILL);
    let case = broken(EarlyRead, &text).with(shape(1, 64), counting(512), Arg::zeros(256));
    sums(
        case.says(&["reads shared stages + ", "asynchronous copy"])
            .found(),
    );
}

#[test]
fn a_pipeline_without_a_barrier() {
    let text = pipeline("cp.async.wait_group 1;", "bar.sync 0; // repaired", REFILL);
    let case = broken(Race, &text).with(shape(1, 64), counting(512), Arg::zeros(256));
    let case = case.or(EarlyRead);
    sums(case.says(&["shared stages + "]).found());
}

/// Filling before the barrier: others may not have read the stage yet.
#[test]
fn a_pipeline_that_fills_too_early() {
    let early: String = REFILL
        .lines()
        .map(|l| format!("{} // broken\n", l.replace(" // here", "")))
        .collect();
    // The fault shows in the copy and in the load.
    let early = early.replace(", 4; // broken", ", 4; // broken, here");
    let late: String = REFILL
        .lines()
        .map(|l| match l.strip_suffix(" // here") {
            Some(l) => format!("{l} // repaired, here\n"),
            None => format!("{l} // repaired\n"),
        })
        .collect();
    let text = pipeline(
        "cp.async.wait_group 1;                   // repaired",
        &format!("{early}    cp.async.wait_group 2; // broken\n    bar.sync 0;"),
        &late,
    );
    // Whoever comes to the next round first begins to fill what the others have still to read.
    let case = broken(EarlyRead, &text)
        .with(shape(1, 64), counting(512), Arg::zeros(256))
        .or(Race);
    sums(case.says(&["shared stages + "]).found());
}
