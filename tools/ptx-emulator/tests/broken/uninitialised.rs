//! Reads of what was never written.

use ptx_emulator::Kind::Uninitialised;

use crate::common::{Arg, shape};
use crate::{ROOM, broken};

#[test]
fn registers() {
    broken(
        Uninitialised,
        "setp.lt.u32 %p, %id, 16;
    mov.u32 %r5, 0;                      // repaired
    @%p mov.u32 %r5, 7;
    add.u32 %r6, %r5, 1;                 // here
    st.global.u32 [%out4], %r6;",
    )
    .says(&["register %r5"])
    .gives((0..32).map(|i| if i < 16 { 8 } else { 1 }));
}

#[test]
fn wide_registers_in_addresses() {
    broken(
        Uninitialised,
        "mov.u64 %rd7, %out4;                 // repaired
    st.global.u32 [%rd7], %id;           // here",
    )
    .says(&["register %rd7"])
    .gives(0..32);
}

#[test]
fn predicates() {
    for using in [
        "@%q st.global.u32 [%out4], %id;",
        "selp.u32 %r2, 1, 0, %q;",
        "vote.sync.ballot.b32 %r2, %q, -1;",
        "and.pred %q, %q, %p;",
    ] {
        broken(
            Uninitialised,
            &format!(
                "setp.lt.u32 %p, %id, 16;
    setp.ge.u32 %q, %id, 32;             // repaired
    @%p setp.lt.u32 %q, %id, 8;
    {using} // here"
            ),
        )
        .says(&["predicate %q"])
        .found();
    }
}

/// A branch goes around the only assignment, in every block but the first.
#[test]
fn registers_on_one_path() {
    broken(
        Uninitialised,
        "mov.u32 %r1, %ctaid.x;
    setp.ne.u32 %p, %r1, 0;
    mov.u32 %r5, 3;                      // repaired
    @%p bra SKIP;
    mov.u32 %r5, 9;
SKIP:
    st.global.u32 [%out4], %r5;          // here",
    )
    .with(shape(2, 16), Arg::zeros(4), Arg::zeros(128))
    .says(&["register %r5"])
    .gives((0..32).map(|i| if i < 16 { 9 } else { 3 }));
}

/// Operands of matrix instructions and shuffles count as read by every lane.
#[test]
fn registers_of_collectives() {
    broken(
        Uninitialised,
        "setp.lt.u32 %p, %id, 31;
    mov.u32 %r5, %id;                    // repaired
    @%p mov.u32 %r5, %id;
    shfl.sync.idx.b32 %r6, %r5, 3, 31, -1; // here
    st.global.u32 [%out4], %r6;",
    )
    .says(&["register %r5"])
    .gives([3; 32]);
    broken(
        Uninitialised,
        ".reg .b32 %a<4>, %b<2>;\n .reg .f32 %c<4>;
    mov.b32 %a0, 0;
    mov.b32 %a1, 0;
    mov.b32 %a2, 0;
    mov.b32 %a3, 0;                      // repaired
    mov.b32 %b0, 0;
    mov.b32 %b1, 0;
    mov.f32 %c0, 0f3F800000;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%c0, %c1, %c2, %c3}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c0, %c0, %c0}; // here
    st.global.f32 [%out4], %c3;",
    )
    .says(&["register %a3"])
    .gives([0x3f80_0000; 32]);
}

#[test]
fn global_memory() {
    broken(
        Uninitialised,
        "mov.u32 %r1, 5;
    st.global.u32 [%in4], %r1;           // repaired
    ld.global.u32 %r2, [%in4];           // here
    st.global.u32 [%out4], %r2;",
    )
    .with(shape(1, 32), Arg::Empty(128), Arg::zeros(128))
    .says(&["reads p_in + ", "never written"])
    .gives([5; 32]);
}

/// Adding to memory reads it.
#[test]
fn global_memory_in_atomics() {
    broken(
        Uninitialised,
        "mov.u32 %r1, 0;
    st.global.u32 [%in4], %r1;           // repaired
    atom.global.add.u32 %r2, [%in4], 1;  // here
    st.global.u32 [%out4], %r2;",
    )
    .with(shape(1, 32), Arg::Empty(128), Arg::zeros(128))
    .says(&["p_in + ", "never written"])
    .gives([0; 32]);
}

#[test]
fn shared_memory() {
    broken(
        Uninitialised,
        &(ROOM.to_owned()
            + "setp.lt.u32 %p, %id, 63;            // broken
    setp.lt.u32 %p, %id, 64;             // repaired
    @%p st.shared.u32 [%r1], %id;
    bar.sync 0;
    ld.shared.u32 %r4, [%r2];            // here
    st.global.u32 [%out4], %r4;"),
    )
    .with(shape(1, 64), Arg::zeros(4), Arg::zeros(256))
    .says(&["reads shared room + 252", "never written"])
    .gives((0..64).map(|i| i ^ 1));
}

/// Half of a word is not all of it.
#[test]
fn half_a_word() {
    broken(
        Uninitialised,
        &(ROOM.to_owned()
            + "cvt.u16.u32 %h, %id;
    st.shared.u16 [%r1], %h;
    st.shared.u16 [%r1 + 2], %h;         // repaired
    ld.shared.u32 %r4, [%r1];            // here
    st.global.u32 [%out4], %r4;"),
    )
    .says(&["shared room + ", "never written"])
    .gives((0..32).map(|i| i << 16 | i));
}

/// A block does not find in shared memory what the block before it left there.
#[test]
fn shared_memory_of_another_block() {
    broken(
        Uninitialised,
        &(ROOM.to_owned()
            + "mov.u32 %r4, %ctaid.x;
    setp.eq.u32 %p, %r4, 1;              // broken
    setp.ge.u32 %p, %r4, 0;              // repaired
    @%p st.shared.u32 [%r1], %id;
    bar.sync 0;
    ld.shared.u32 %r5, [%r1];            // here
    st.global.u32 [%out4], %r5;"),
    )
    .with(shape(4, 32), Arg::zeros(4), Arg::zeros(512))
    .says(&["shared room + ", "never written"])
    .gives((0..128).map(|i| i % 32));
}

#[test]
fn local_memory() {
    broken(
        Uninitialised,
        ".local .align 4 .b8 mine[8];
    st.local.u32 [mine], %id;
    st.local.u32 [mine + 4], %id;        // repaired
    ld.local.u32 %r1, [mine + 4];        // here
    st.global.u32 [%out4], %r1;",
    )
    .says(&["local memory + 4", "never written"])
    .gives(0..32);
}

/// Matrices and copies read memory as loads do.
#[test]
fn memory_of_matrices_and_copies() {
    broken(
        Uninitialised,
        &(ROOM.to_owned()
            + "mad.lo.u32 %r4, %id, 16, %r0;
    setp.ne.u32 %p, %id, 5;              // broken
    setp.lt.u32 %p, %id, 32;             // repaired
    @%p st.shared.v4.u32 [%r4], {%id, %id, %id, %id};
    bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r4]; // here
    st.global.u32 [%out4], %r5;"),
    )
    .says(&["reads shared room + 80", "never written"])
    .gives((0..32).map(|i| i / 4));
    broken(
        Uninitialised,
        &(ROOM.to_owned()
            + "mad.wide.u32 %rd, %id, 4, %in;
    setp.lt.u32 %p, %id, 31;             // broken
    setp.lt.u32 %p, %id, 32;             // repaired
    @%p st.global.u32 [%rd], %id;
    cp.async.ca.shared.global [%r1], [%rd], 4; // here
    cp.async.wait_all;
    ld.shared.u32 %r4, [%r1];
    st.global.u32 [%out4], %r4;"),
    )
    .with(shape(1, 32), Arg::Empty(128), Arg::zeros(128))
    .says(&["reads p_in + 124", "never written"])
    .gives(0..32);
}
