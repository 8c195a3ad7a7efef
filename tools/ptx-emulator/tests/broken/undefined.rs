//! What the ISA leaves undefined.

use ptx_emulator::Kind::Undefined;

use crate::common::{Arg, shape};
use crate::{ROOM, broken};

#[test]
fn shuffles_from_lanes_that_take_no_part() {
    broken(
        Undefined,
        "setp.lt.u32 %p, %lane, 16;
    mov.u32 %r1, %id;
    @!%p bra STORE;
    shfl.sync.down.b32 %r1, %id, 4, 31, 0xffff; // broken, here
    shfl.sync.down.b32 %r1, %id, 4, 0x100f, 0xffff; // repaired
STORE:
    st.global.u32 [%out4], %r1;",
    )
    .says(&["shuffles from lane 16"])
    .gives((0..32).map(|i| if i < 12 { i + 4 } else { i }));
}

#[test]
fn lanes_that_do_not_name_themselves() {
    broken(
        Undefined,
        "setp.eq.u32 %p, %lane, 3;
    vote.sync.ballot.b32 %r1, %p, 0xfffffffe; // broken, here
    vote.sync.ballot.b32 %r1, %p, 0xffffffff; // repaired
    st.global.u32 [%out4], %r1;",
    )
    .says(&["not among the members", "0xfffffffe"])
    .gives([8; 32]);
}

/// Matrix instructions take the whole warp: lanes that have ended, or that the block does not have, are missing.
#[test]
fn matrices_without_a_whole_warp() {
    let multiply = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%c0, %c1, %c2, %c3}, {%r4, %r4}, {%r4}, {%c0, %c0, %c0, %c0}; // here";
    let body = |before: &str, after: &str| {
        format!(
            ".reg .f32 %c<4>;
    mov.u32 %r4, 0;
    mov.f32 %c0, 0f3F800000;
    {before}
    {multiply}
    {after}
    st.global.f32 [%out4], %c1;"
        )
    };
    broken(
        Undefined,
        &body("setp.ge.u32 %p, %id, 30;\n    @%p ret; // broken", ""),
    )
    .says(&["all 32 lanes", "have ended or do not exist"])
    .gives([0x3f80_0000; 32]);
    // A block of 48 threads has half a second warp.
    broken(
        Undefined,
        &body(
            "setp.ge.u32 %p, %id, 32;\n    mov.f32 %c1, %c0;\n    @%p bra STORE; // repaired",
            "STORE:",
        ),
    )
    .with(shape(1, 48), Arg::zeros(4), Arg::zeros(192))
    .says(&["all 32 lanes", "0xffff0000"])
    .gives([0x3f80_0000; 48]);
    broken(
        Undefined,
        &(ROOM.to_owned()
            + "mad.lo.u32 %r4, %id, 16, %r0;
    st.shared.v4.u32 [%r4], {%id, %id, %id, %id};
    bar.warp.sync -1;
    setp.eq.u32 %p, %id, 31;
    @%p ret;                             // broken
    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r4]; // here
    st.global.u32 [%out4], %r5;"),
    )
    .says(&["all 32 lanes", "0x80000000"])
    .gives((0..32).map(|i| i / 4));
}

#[test]
fn barriers_that_do_not_exist() {
    broken(
        Undefined,
        "ld.global.u32 %r1, [%in];
    add.u32 %r1, %r1, 16;                // broken
    bar.sync %r1, 64;                    // here
    st.global.u32 [%out4], %id;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&["barriers 0 to 15", "16"])
    .gives(0..64);
    broken(
        Undefined,
        "mov.u32 %r1, 64;
    sub.u32 %r1, %r1, 24;                // broken
    bar.sync 1, %r1;                     // here
    st.global.u32 [%out4], %id;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&["40 threads", "multiple of the warp size"])
    .gives(0..64);
    broken(
        Undefined,
        "and.b32 %r1, %lane, 1;               // broken
    mov.u32 %r1, 1;                      // repaired
    bar.sync %r1;                        // here
    st.global.u32 [%out4], %id;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&["different barriers"])
    .gives(0..64);
    broken(
        Undefined,
        "setp.lt.u32 %p, %id, 32;
    @%p bar.sync 1, 96;                  // broken, here
    @!%p bar.sync 1, 64;                 // broken, here
    bar.sync 1, 64;                      // repaired
    st.global.u32 [%out4], %id;",
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&["barrier 1", "another number of threads"])
    .gives(0..64);
}

/// A copy cannot take more than its size from the source.
#[test]
fn copies_of_more_than_their_size() {
    broken(
        Undefined,
        &(ROOM.to_owned()
            + "mov.u32 %r4, 5;                      // broken
    mov.u32 %r4, 4;                      // repaired
    cp.async.ca.shared.global [%r1], [%in4], 4, %r4; // here
    cp.async.wait_all;
    ld.shared.u32 %r5, [%r1];
    st.global.u32 [%out4], %r5;"),
    )
    .with(shape(1, 31), Arg::words(0..32), Arg::zeros(124))
    .says(&["a copy of 4 bytes with 5"])
    .gives(0..31);
}

/// `.nc` promises that nobody writes while the kernel runs.
#[test]
fn read_only_loads_of_what_was_written() {
    broken(
        Undefined,
        "st.global.u32 [%in4], %id;
    ld.global.nc.u32 %r1, [%in4];        // broken, here
    ld.global.u32 %r1, [%in4];           // repaired
    st.global.u32 [%out4], %r1;",
    )
    .says(&["p_in + ", "this launch has written"])
    .gives(0..32);
}

#[test]
fn traps() {
    broken(
        Undefined,
        "ld.global.u32 %r1, [%in4];
    setp.ne.u32 %p, %r1, 0;              // broken
    setp.eq.u32 %p, %r1, 77;             // repaired
    @%p trap;                            // here
    st.global.u32 [%out4], %r1;",
    )
    .with(
        shape(1, 32),
        Arg::words((0..32).map(|i| i / 31)),
        Arg::zeros(128),
    )
    .says(&["stopped itself"])
    .gives((0..32).map(|i| i / 31));
}
