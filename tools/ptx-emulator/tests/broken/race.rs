//! Threads of one block that access the same bytes with no barrier in between.

use ptx_emulator::Kind::{Race, Uninitialised};

use crate::common::{Arg, shape};
use crate::{Broken, ROOM, broken};

/// 64 threads, 64 words out.
fn two_warps(body: &str) -> Broken {
    broken(Race, &(ROOM.to_owned() + body)).with(shape(1, 64), Arg::zeros(256), Arg::zeros(256))
}

/// The same with shared memory zero at the start, so that a read that comes too early finds something.
fn two_warps_from_zero(body: &str) -> Broken {
    two_warps(&format!(
        "mov.u32 %r4, 0;\n    st.shared.u32 [%r1], %r4;\n    bar.sync 0;\n{body}"
    ))
}

#[test]
fn no_barrier_between_warps() {
    two_warps_from_zero(
        "    st.shared.u32 [%r1], %id;            // here
    bar.sync 0;                          // repaired
    ld.shared.u32 %r5, [%r3];            // here
    st.global.u32 [%out4], %r5;",
    )
    .says(&[
        "shared room + ",
        "thread ",
        "wrote it in line |read it in line ",
        "st.shared.u32 [%r1], %id|ld.shared.u32 %r5, [%r3]",
        "no barrier lies in between",
    ])
    .gives((0..64).map(|i| i ^ 32));
}

/// Whoever comes first finds that nobody wrote there before.
#[test]
fn no_barrier_after_the_first_write() {
    broken(
        Uninitialised,
        &(ROOM.to_owned()
            + "st.shared.u32 [%r1], %id;            // here
    bar.sync 0;                          // repaired
    ld.shared.u32 %r5, [%r3];            // here
    st.global.u32 [%out4], %r5;"),
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .or(Race)
    .says(&["reads shared room + ", "never written"])
    .gives((0..64).map(|i| i ^ 32));
}

/// Lock step is no barrier: lanes that exchange data through memory need one.
#[test]
fn no_barrier_between_lanes() {
    two_warps_from_zero(
        "    st.shared.u32 [%r1], %id;            // here
    bar.warp.sync -1;                    // repaired
    ld.shared.u32 %r5, [%r2];            // here
    st.global.u32 [%out4], %r5;",
    )
    .says(&["shared room + ", "wrote it in line |read it in line "])
    .gives((0..64).map(|i| i ^ 1));
}

/// Nor is a shuffle, or a vote.
#[test]
fn shuffles_do_not_order_memory() {
    for between in [
        "shfl.sync.idx.b32 %r6, %id, 0, 31, -1;",
        "vote.sync.ballot.b32 %r6, %p, -1;",
    ] {
        two_warps_from_zero(&format!(
            "    setp.eq.u32 %p, %id, 0;
    st.shared.u32 [%r1], %id;            // here
    {between}
    bar.warp.sync -1;                    // repaired
    ld.shared.u32 %r5, [%r2];            // here
    st.global.u32 [%out4], %r5;"
        ))
        .says(&["no barrier lies in between"])
        .gives((0..64).map(|i| i ^ 1));
    }
}

#[test]
fn two_threads_write() {
    two_warps(
        "mov.u32 %r4, %r0;                    // broken
    mov.u32 %r4, %r1;                    // repaired
    st.shared.u32 [%r4], %id;            // here
    bar.sync 0;
    ld.shared.u32 %r5, [%r2];
    st.global.u32 [%out4], %r5;",
    )
    .says(&["writes shared room + 0", "thread ", "wrote it in line "])
    .gives((0..64).map(|i| i ^ 1));
}

/// Writes into different bytes of one word are no race, into the same byte they are.
#[test]
fn bytes_of_one_word() {
    broken(
        Race,
        ".shared .align 4 .b8 room[64];
    mov.u32 %r0, room;
    shr.u32 %r1, %id, 1;                 // broken
    mov.u32 %r1, %id;                    // repaired
    add.u32 %r1, %r1, %r0;
    st.shared.u8 [%r1], %id;             // here
    bar.sync 0;
    shr.u32 %r2, %id, 1;                 // broken
    mov.u32 %r2, %id;                    // repaired
    add.u32 %r2, %r2, %r0;
    ld.shared.u8 %r3, [%r2];
    st.global.u32 [%out4], %r3;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&["writes shared room + "])
    .gives(0..64);
}

/// The second half of a round begins to overwrite what others still read in the first.
#[test]
fn one_barrier_per_round_is_not_enough() {
    two_warps(
        "mov.u32 %r4, 0;
    mov.u32 %r5, %id;
ROUND:
    st.shared.u32 [%r1], %r5;            // here
    bar.sync 0;
    ld.shared.u32 %r5, [%r3];            // here
    bar.sync 0;                          // repaired
    add.u32 %r5, %r5, 1;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p, %r4, 4;
    @%p bra ROUND;
    st.global.u32 [%out4], %r5;",
    )
    .says(&["shared room + ", "read it in line |wrote it in line "])
    .gives((4..68).collect::<Vec<_>>());
}

/// With two buffers, one barrier per round is.
#[test]
fn two_buffers_need_one_barrier_per_round() {
    two_warps(
        "mov.u32 %r4, 0;
    mov.u32 %r5, %id;
ROUND:
    and.b32 %r6, %r4, 1;                 // repaired
    mov.u32 %r6, 0;                      // broken
    shl.b32 %r6, %r6, 8;
    add.u32 %r7, %r1, %r6;
    st.shared.u32 [%r7], %r5;            // here
    bar.sync 0;
    add.u32 %r7, %r3, %r6;
    ld.shared.u32 %r5, [%r7];            // here
    add.u32 %r5, %r5, 1;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p, %r4, 6;
    @%p bra ROUND;
    st.global.u32 [%out4], %r5;",
    )
    .says(&["shared room + "])
    .gives((6..70).collect::<Vec<_>>());
}

/// A barrier of two warps says nothing about a third.
#[test]
fn a_barrier_of_other_warps() {
    broken(
        Race,
        &(ROOM.to_owned()
            + "mov.u32 %r4, 0;
    st.shared.u32 [%r1], %r4;
    bar.sync 0;
    setp.lt.u32 %p, %id, 32;
    @%p st.shared.u32 [%r1], %id;        // here
    setp.lt.u32 %q, %id, 64;
    @%q bar.sync 1, 64;                  // broken
    bar.sync 1, 96;                      // repaired
    and.b32 %r5, %id, 31;
    mad.lo.u32 %r5, %r5, 4, %r0;
    ld.shared.u32 %r6, [%r5];            // here
    st.global.u32 [%out4], %r6;"),
    )
    .with(shape(1, 96), Arg::zeros(4), Arg::zeros(384))
    .says(&["shared room + ", "no barrier lies in between"])
    .gives((0..96).map(|i| i % 32));
}

/// Who only arrives has not waited.
#[test]
fn arriving_is_not_waiting() {
    two_warps_from_zero(
        "    setp.lt.u32 %p, %id, 32;
    @!%p bra CONSUMER;
    st.shared.u32 [%r1], %id;            // here
    bar.arrive 1, 64;                    // repaired
    bar.sync 1, 64;                      // broken
    mov.u32 %r5, 0;
    bra STORE;
CONSUMER:
    bar.sync 1, 64;                      // repaired
    bar.arrive 1, 64;                    // broken
    ld.shared.u32 %r5, [%r3];            // here
STORE:
    st.global.u32 [%out4], %r5;",
    )
    .says(&["shared room + "])
    .gives((0..64).map(|i: u32| i.saturating_sub(32)));
}

/// `ldmatrix` reads for the whole warp: a lane's own row is read by others.
#[test]
fn matrices_of_rows_just_written() {
    broken(
        Race,
        &(ROOM.to_owned()
            + "mad.lo.u32 %r4, %id, 16, %r0;
    st.shared.v4.u32 [%r4], {%id, %id, %id, %id};
    bar.warp.sync -1;                    // repaired
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r4]; // here
    st.global.u32 [%out4], %r5;"),
    )
    .says(&[
        "reads shared room + ",
        "st.shared.v4.u32",
        "no barrier lies in between",
    ])
    .gives((0..32).map(|i| i / 4));
}

/// And it must be over before the rows are written again.
#[test]
fn rows_overwritten_after_a_matrix_was_read() {
    two_warps(
        "mad.lo.u32 %r4, %lane, 16, %r0;
    setp.lt.u32 %p, %id, 32;
    @%p st.shared.v4.u32 [%r4], {%id, %id, %id, %id};
    bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r4]; // here
    bar.sync 0;                          // repaired
    mov.u32 %r9, 99;
    @%p st.shared.u32 [%r4], %r9;        // here
    bar.sync 0;
    ld.shared.u32 %r9, [%r4];
    add.u32 %r5, %r5, %r9;
    st.global.u32 [%out4], %r5;",
    )
    .says(&["shared room + "])
    .gives((0..64).map(|i| i % 32 / 4 + 99));
}

/// Global memory is no different within a block.
#[test]
fn global_memory() {
    broken(
        Race,
        "st.global.u32 [%in4], %id;           // here
    bar.sync 0;                          // repaired
    xor.b32 %r1, %id, 32;
    mad.wide.u32 %rd, %r1, 4, %in;
    ld.global.u32 %r2, [%rd];            // here
    st.global.u32 [%out4], %r2;",
    )
    .with(shape(1, 64), Arg::zeros(256), Arg::zeros(256))
    .says(&["p_in + ", "wrote it in line |read it in line "])
    .gives((0..64).map(|i| i ^ 32));
}

/// A plain access beside atomics of others.
#[test]
fn atomics_beside_plain_accesses() {
    two_warps_from_zero(
        "    mov.u32 %r5, 1;
    red.shared.add.u32 [%r0], %r5;       // here
    bar.sync 0;                          // repaired
    ld.shared.u32 %r6, [%r0];            // here
    st.global.u32 [%out4], %r6;",
    )
    .says(&["shared room + 0"])
    .gives([64; 64]);
}

/// A fence orders a thread's own accesses; it does not wait for others.
#[test]
fn fences_are_no_barriers() {
    two_warps_from_zero(
        "    st.shared.u32 [%r1], %id;            // here
    membar.cta;
    bar.sync 0;                          // repaired
    ld.shared.u32 %r5, [%r3];            // here
    st.global.u32 [%out4], %r5;",
    )
    .says(&["no barrier lies in between"])
    .gives((0..64).map(|i| i ^ 32));
}

/// Several threads have read the word: the one that writes must come after all of them.
#[test]
fn one_writes_what_all_have_read() {
    two_warps_from_zero(
        "    ld.shared.u32 %r5, [%r0];            // here
    bar.sync 0;                          // repaired
    setp.eq.u32 %p, %id, 40;
    @%p st.shared.u32 [%r0], %id;        // here
    st.global.u32 [%out4], %r5;",
    )
    .says(&["shared room + 0", "read it in line |wrote it in line "])
    .gives([0; 64]);
}

/// What a thread does to its own bytes needs no barrier, and neither does reading together.
#[test]
fn reading_together_is_no_race() {
    two_warps_from_zero(
        "    ld.shared.u32 %r5, [%r0];
    ld.shared.u32 %r6, [%r0 + 4];
    mov.u32 %r7, %r1;                    // repaired
    mov.u32 %r7, %r2;                    // broken
    add.u32 %r1, %r1, 256;
    add.u32 %r7, %r7, 256;
    st.shared.u32 [%r1], %id;            // here
    ld.shared.u32 %r8, [%r7];            // here
    st.shared.u32 [%r1], %r8;            // here
    ld.shared.u32 %r8, [%r7];            // here
    add.u32 %r8, %r8, %r5;
    add.u32 %r8, %r8, %r6;
    st.global.u32 [%out4], %r8;",
    )
    .or(Uninitialised)
    .says(&["shared room + "])
    .gives(0..64);
}

/// All lanes have read the word; one of them reads it again and changes it, behind a barrier of the warp.
#[test]
fn a_lane_updates_what_its_warp_has_read() {
    two_warps_from_zero(
        "    and.b32 %r6, %r1, 0xffffff80;        // a word per warp
    mov.u32 %r7, 0;
ROUND:
    ld.shared.u32 %r5, [%r6];            // here
    bar.warp.sync -1;                    // repaired
    setp.eq.u32 %p, %lane, 5;
    @%p ld.shared.u32 %r8, [%r6];
    @%p add.u32 %r8, %r8, 3;
    @%p st.shared.u32 [%r6], %r8;        // here
    bar.warp.sync -1;
    add.u32 %r7, %r7, 1;
    setp.lt.u32 %p, %r7, 4;
    @%p bra ROUND;
    st.global.u32 [%out4], %r5;",
    )
    .says(&["shared room + ", "read it in line |wrote it in line "])
    .gives([9; 64]);
}
