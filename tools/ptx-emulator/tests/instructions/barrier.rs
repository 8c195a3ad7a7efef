//! Barriers: of the block, named ones with counts, of a warp; arriving without waiting.

use crate::common::{Arg, HEADER, everywhere, kernel, kernel_with, shape, words};

/// Threads hand values around a ring in shared memory, a barrier on either side of each exchange.
#[test]
fn a_ring_of_threads() {
    for barrier in [
        "bar.sync 0;",
        "bar.sync 0, 96;",
        "barrier.sync.aligned 0;",
        "bar.sync 15;",
    ] {
        let text = kernel(&format!(
            ".shared .align 4 .b8 room[384];
    mov.u32 %r0, room;
    mad.lo.u32 %r1, %id, 4, %r0;         // mine
    add.u32 %r2, %id, 1;
    rem.u32 %r2, %r2, 96;
    mad.lo.u32 %r2, %r2, 4, %r0;         // my neighbour's
    mov.u32 %r3, %id;
    mov.u32 %r4, 0;
ROUND:
    st.shared.u32 [%r1], %r3;
    {barrier}
    ld.shared.u32 %r3, [%r2];
    add.u32 %r3, %r3, 1000;
    {barrier}
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p, %r4, 7;
    @%p bra ROUND;
    st.global.u32 [%out4], %r3;"
        ));
        let buffers = everywhere(&text, shape(1, 96), &[Arg::zeros(4), Arg::zeros(384)]);
        assert_eq!(
            words(&buffers[1]),
            (0..96).map(|i| (i + 7) % 96 + 7000).collect::<Vec<u32>>(),
            "{barrier}"
        );
    }
}

/// Barriers 1 and 2 hold two warps each, which do not wait for the other two. The number comes from a register.
#[test]
fn named_barriers_for_parts_of_a_block() {
    let text = kernel(
        ".shared .align 4 .b8 room[512];
    mov.u32 %r0, room;
    mad.lo.u32 %r1, %id, 4, %r0;
    xor.b32 %r2, %id, 32;                // the same lane of the partner warp
    mad.lo.u32 %r2, %r2, 4, %r0;
    shr.u32 %r3, %id, 6;
    add.u32 %r3, %r3, 1;                 // barrier 1 or 2
    mov.u32 %r4, %id;
    mov.u32 %r5, 0;
    mad.lo.u32 %r6, %r3, 3, 2;           // 5 rounds or 8
ROUND:
    st.shared.u32 [%r1], %r4;
    bar.sync %r3, 64;
    ld.shared.u32 %r4, [%r2];
    add.u32 %r4, %r4, 1;
    bar.sync %r3, 64;
    add.u32 %r5, %r5, 1;
    setp.lt.u32 %p, %r5, %r6;
    @%p bra ROUND;
    st.global.u32 [%out4], %r4;",
    );
    let buffers = everywhere(&text, shape(1, 128), &[Arg::zeros(4), Arg::zeros(512)]);
    let want: Vec<u32> = (0..128)
        .map(|i: u32| if i < 64 { (i ^ 32) + 5 } else { i + 8 })
        .collect();
    assert_eq!(words(&buffers[1]), want);
}

/// Producers and consumers: `bar.arrive` says that something is ready, or free again, without waiting.
#[test]
fn arriving_without_waiting() {
    let text = kernel(
        ".shared .align 4 .b8 room[256];     // two slots of 32 words
    mov.u32 %r0, room;
    mad.lo.u32 %r0, %lane, 4, %r0;
    mov.u32 %r4, 0;
    mov.u32 %r7, 0;
    setp.ne.u32 %p, %warp, 0;
    @%p bra CONSUME;
PRODUCE:                                 // round n into slot n % 2: barriers 1 and 2 say full, 3 and 4 free
    and.b32 %r1, %r4, 1;
    add.u32 %r2, %r1, 1;
    add.u32 %r3, %r1, 3;
    bar.sync %r3, 64;
    shl.b32 %r5, %r1, 7;
    add.u32 %r5, %r5, %r0;
    mad.lo.u32 %r6, %r4, 100, %lane;
    st.shared.u32 [%r5], %r6;
    bar.arrive %r2, 64;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %q, %r4, 10;
    @%q bra PRODUCE;
    // The consumer's last two signs of a free slot.
    bar.sync 3, 64;
    bar.sync 4, 64;
    bra DONE;
CONSUME:
    bar.arrive 3, 64;
    bar.arrive 4, 64;
TAKE:
    and.b32 %r1, %r4, 1;
    add.u32 %r2, %r1, 1;
    add.u32 %r3, %r1, 3;
    bar.sync %r2, 64;
    shl.b32 %r5, %r1, 7;
    xor.b32 %r6, %lane, 31;
    sub.u32 %r6, %r6, %lane;
    mad.lo.u32 %r5, %r6, 4, %r5;
    add.u32 %r5, %r5, %r0;               // the word of lane 31 - lane
    ld.shared.u32 %r6, [%r5];
    mad.lo.u32 %r7, %r7, 3, %r6;
    bar.arrive %r3, 64;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %q, %r4, 10;
    @%q bra TAKE;
DONE:
    st.global.u32 [%out4], %r7;",
    );
    let buffers = everywhere(&text, shape(1, 64), &[Arg::zeros(4), Arg::zeros(256)]);
    let taken = |lane: u32| {
        (0..10).fold(0u32, |all, n| {
            all.wrapping_mul(3).wrapping_add(100 * n + 31 - lane)
        })
    };
    let want: Vec<u32> = (0..64)
        .map(|i| if i < 32 { 0 } else { taken(i - 32) })
        .collect();
    assert_eq!(words(&buffers[1]), want);
}

/// Lanes exchange through shared memory; whole warps, and groups of lanes that name each other at different places.
#[test]
fn barriers_of_a_warp() {
    let text = kernel(
        ".shared .align 4 .b8 room[256];
    mov.u32 %r0, room;
    mad.lo.u32 %r1, %id, 4, %r0;
    xor.b32 %r2, %id, 1;
    mad.lo.u32 %r2, %r2, 4, %r0;
    mul.lo.u32 %r3, %id, 5;
    st.shared.u32 [%r1], %r3;
    bar.warp.sync -1;
    ld.shared.u32 %r4, [%r2];
    bar.warp.sync 0xffffffff;
    setp.lt.u32 %p, %lane, 8;
    @%p bra FEW;
    add.u32 %r4, %r4, 7;
    st.shared.u32 [%r1], %r4;
    bar.warp.sync 0xffffff00;
    ld.shared.u32 %r4, [%r2];
    bra STORE;
FEW:
    add.u32 %r4, %r4, 9;
    st.shared.u32 [%r1], %r4;
    bar.warp.sync 0xff;
    ld.shared.u32 %r4, [%r2];
STORE:
    st.global.u32 [%out4], %r4;",
    );
    let buffers = everywhere(&text, shape(1, 64), &[Arg::zeros(4), Arg::zeros(256)]);
    // Exchanged twice: everybody's own number again.
    let want: Vec<u32> = (0..64)
        .map(|i| 5 * i + if i % 32 < 8 { 9 } else { 7 })
        .collect();
    assert_eq!(words(&buffers[1]), want);
}

/// The two sides of a branch meet at barriers that stand at different places, if both name all lanes.
#[test]
fn a_warp_barrier_at_two_places() {
    let text = kernel(
        ".shared .align 4 .b8 room[128];
    mov.u32 %r0, room;
    mad.lo.u32 %r1, %lane, 4, %r0;
    xor.b32 %r2, %lane, 16;
    mad.lo.u32 %r2, %r2, 4, %r0;
    add.u32 %r3, %lane, 3;
    st.shared.u32 [%r1], %r3;
    setp.lt.u32 %p, %lane, 16;
    @%p bra FEW;
    bar.warp.sync -1;
    ld.shared.u32 %r4, [%r2];
    bra STORE;
FEW:
    bar.warp.sync -1;
    ld.shared.u32 %r4, [%r2];
    add.u32 %r4, %r4, 100;
STORE:
    st.global.u32 [%out4], %r4;",
    );
    let buffers = everywhere(&text, shape(1, 32), &[Arg::zeros(4), Arg::zeros(128)]);
    let want: Vec<u32> = (0..32)
        .map(|i: u32| (i ^ 16) + 3 + if i < 16 { 100 } else { 0 })
        .collect();
    assert_eq!(words(&buffers[1]), want);
}

/// Barriers of a warp in some warps only, between two barriers of the block: who reads before the second barrier is
/// done when others write behind it, however the warps took turns.
#[test]
fn warp_barriers_between_block_barriers() {
    let text = kernel(
        ".shared .align 4 .b8 room[4];
    mov.u32 %r0, room;
    mov.u32 %r5, 0;
    mov.u32 %r4, 0;
    setp.eq.u32 %p, %id, 0;
    @%p st.shared.u32 [%r0], %r4;
    bar.sync 0;
ROUND:
    rem.u32 %r2, %r4, 4;
    setp.eq.u32 %q, %r2, %warp;
    @%q bra.uni PLAIN;
    bar.warp.sync -1;
    bar.warp.sync -1;
PLAIN:
    ld.shared.u32 %r1, [%r0];
    add.u32 %r5, %r5, %r1;
    bar.sync 0;
    add.u32 %r4, %r4, 1;
    rem.u32 %r3, %r4, 128;
    setp.eq.u32 %p, %id, %r3;
    @%p st.shared.u32 [%r0], %r4;
    bar.sync 0;
    setp.lt.u32 %p, %r4, 16;
    @%p bra ROUND;
    st.global.u32 [%out4], %r5;",
    );
    let buffers = everywhere(&text, shape(1, 128), &[Arg::zeros(4), Arg::zeros(512)]);
    assert_eq!(words(&buffers[1]), vec![120; 128]);
}

/// Blocks have barriers of their own.
#[test]
fn blocks_do_not_wait_for_each_other() {
    let text = kernel_with(
        HEADER,
        ".shared .align 4 .b8 room[256];\n",
        "mov.u32 %r0, room;
    mad.lo.u32 %r1, %id, 4, %r0;
    st.shared.u32 [%r1], %r;
    mov.u32 %r3, %ctaid.x;
ROUND:
    bar.sync 0;
    sub.u32 %r3, %r3, 1;
    setp.gt.s32 %p, %r3, 0;
    @%p bra ROUND;
    xor.b32 %r2, %id, 63;
    mad.lo.u32 %r2, %r2, 4, %r0;
    ld.shared.u32 %r4, [%r2];
    st.global.u32 [%out4], %r4;",
    );
    let buffers = everywhere(&text, shape(5, 64), &[Arg::zeros(4), Arg::zeros(1280)]);
    assert_eq!(
        words(&buffers[1]),
        (0..320).map(|i| i ^ 63).collect::<Vec<u32>>()
    );
}
