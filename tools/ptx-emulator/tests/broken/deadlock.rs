//! Threads that wait for others that never come.

use ptx_emulator::Kind::Deadlock;

use crate::broken;
use crate::common::{Arg, shape};

/// Half of a warp is at a barrier, the other half at another.
#[test]
fn barriers_in_divergent_code() {
    broken(
        Deadlock,
        "setp.lt.u32 %p, %lane, 16;
    @%p bra FEW;
    bar.sync 0;                          // broken, here
    mov.u32 %r1, 1;
    bra STORE;
FEW:
    bar.sync 0;                          // broken, here
    mov.u32 %r1, 2;
STORE:
    bar.sync 0;                          // repaired
    st.global.u32 [%out4], %r1;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&[
        "nobody can go on",
        "threads 0-15, 32-47 wait in line ",
        "threads 16-31, 48-63 wait in line ",
        "bar.sync 0",
    ])
    .gives((0..64).map(|i| if i % 32 < 16 { 2 } else { 1 }));
}

#[test]
fn warps_at_different_barriers() {
    broken(
        Deadlock,
        "setp.lt.u32 %p, %id, 32;
    @%p bar.sync 1;                      // broken, here
    @!%p bar.sync 2;                     // broken, here
    bar.sync 1;                          // repaired
    st.global.u32 [%out4], %id;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&[
        "threads 0-31 wait in line ",
        "bar.sync 1",
        "threads 32-63 wait in line ",
        "bar.sync 2",
    ])
    .gives(0..64);
}

/// A barrier for more threads than there are.
#[test]
fn barriers_with_a_wrong_count() {
    broken(
        Deadlock,
        "bar.sync 3, 96;                      // broken, here
    bar.sync 3, 64;                      // repaired
    st.global.u32 [%out4], %id;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&["threads 0-63 wait in line ", "bar.sync 3, 96"])
    .gives(0..64);
}

/// The consumer waits for a sign that the producer never gives.
#[test]
fn one_sign_too_few() {
    broken(
        Deadlock,
        "setp.lt.u32 %p, %id, 32;
    @!%p bra CONSUMER;
    bar.arrive 1, 64;
    bar.arrive 2, 64;                    // repaired
    bra DONE;
CONSUMER:
    bar.sync 1, 64;
    bar.sync 2, 64;                      // here
DONE:
    st.global.u32 [%out4], %id;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&[
        "threads 32-63 wait in line ",
        "bar.sync 2, 64",
        "threads 0-31 have ended",
    ])
    .gives(0..64);
}

/// A shuffle names lanes that went another way, or have ended.
#[test]
fn shuffles_without_all_their_lanes() {
    broken(
        Deadlock,
        "mov.u32 %r1, %id;
    setp.ge.u32 %p, %lane, 24;
    @%p bra STORE;
    shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1; // broken, here
    shfl.sync.bfly.b32 %r1, %r1, 1, 31, 0xffffff; // repaired
STORE:
    st.global.u32 [%out4], %r1;",
    )
    .says(&[
        "threads 0-23 wait in line ",
        "shfl.sync.bfly",
        "threads 24-31 have ended",
    ])
    .gives((0..32).map(|i| if i < 24 { i ^ 1 } else { i }));
    broken(
        Deadlock,
        "setp.lt.u32 %p, %lane, 16;
    @%p bra FEW;
    vote.sync.ballot.b32 %r1, %p, -1;    // broken, here
    vote.sync.ballot.b32 %r1, %p, 0xffff0000; // repaired
    bra STORE;
FEW:
    redux.sync.add.u32 %r1, %id, -1;     // broken, here
    redux.sync.add.u32 %r1, %id, 0xffff; // repaired
STORE:
    st.global.u32 [%out4], %r1;",
    )
    .says(&[
        "threads 0-15 wait in line ",
        "redux.sync.add",
        "threads 16-31 wait in line ",
        "vote.sync.ballot",
    ])
    .gives((0..32).map(|i| if i < 16 { 120 } else { 0 }));
}

#[test]
fn warp_barriers_without_all_their_lanes() {
    broken(
        Deadlock,
        "setp.eq.u32 %p, %lane, 31;
    @%p ret;                             // broken
    bar.warp.sync -1;                    // here
    st.global.u32 [%out4], %id;",
    )
    .says(&[
        "threads 0-30 wait in line ",
        "bar.warp.sync",
        "threads 31 have ended",
    ])
    .gives(0..32);
}

/// A barrier in a loop that some lanes leave earlier.
#[test]
fn barriers_inside_of_loops_of_different_lengths() {
    broken(
        Deadlock,
        "and.b32 %r1, %id, 1;                 // broken
    mov.u32 %r1, 1;                      // repaired
    add.u32 %r1, %r1, 1;
MORE:
    bar.sync 0;                          // here
    sub.u32 %r1, %r1, 1;
    setp.ne.u32 %p, %r1, 0;
    @%p bra MORE;
    bar.sync 1;                          // here
    st.global.u32 [%out4], %id;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&["nobody can go on", "bar.sync 0", "bar.sync 1"])
    .gives(0..64);
}
