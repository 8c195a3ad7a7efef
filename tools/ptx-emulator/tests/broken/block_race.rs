//! Blocks that access the same bytes of global memory, one of them writing, with no release and acquire in between.

use ptx_emulator::Kind::BlockRace;

use crate::broken;
use crate::common::{Arg, shape};

#[test]
fn two_blocks_write() {
    broken(
        BlockRace,
        "mad.wide.u32 %rd, %id, 4, %out;      // broken
    mov.u64 %rd, %out4;                  // repaired
    st.global.u32 [%rd], %r;             // here",
    )
    .with(shape(4, 32), Arg::zeros(4), Arg::zeros(512))
    .says(&[
        "writes p_out + ",
        "of block (",
        "wrote it in line ",
        "no release and acquire lie in between",
    ])
    .gives(0..128);
}

#[test]
fn a_block_reads_what_another_writes() {
    broken(
        BlockRace,
        "mov.u64 %rd, %out;                   // broken
    mov.u64 %rd, %in;                    // repaired
    xor.b32 %r1, %r, 32;
    mad.wide.u32 %rd, %r1, 4, %rd;
    ld.global.u32 %r2, [%rd];            // here
    add.u32 %r2, %r2, 1;
    st.global.u32 [%out4], %r2;          // here",
    )
    .with(shape(4, 32), Arg::words(0..128), Arg::words(0..128))
    .says(&[
        "p_out + ",
        "of block (",
        "wrote it in line |read it in line ",
    ])
    .gives((0..128).map(|i| (i ^ 32) + 1));
}

/// All blocks read a word that one of them changes.
#[test]
fn one_block_writes_what_all_read() {
    broken(
        BlockRace,
        "ld.global.u32 %r1, [%in];            // here
    mov.u32 %r2, %ctaid.x;
    setp.eq.u32 %p, %r2, 2;
    setp.eq.and.u32 %p, %id, 0, %p;
    mov.u64 %rd, %in;                    // broken
    mov.u64 %rd, %out;                   // repaired
    @%p st.global.u32 [%rd], %r1;        // here",
    )
    .with(shape(4, 1), Arg::words([9]), Arg::zeros(4))
    .says(&["p_in + 0", "several blocks|of block ("])
    .gives([9]);
}

/// Each block leaves a part of a sum; the one that finishes last adds them up. Every single part of that is needed.
fn last_block_merges(body: [&str; 5]) -> crate::Broken {
    let [release, counter, acquire, shared, merge] = body;
    broken(
        BlockRace,
        &format!(
            ".shared .align 4 .b8 ticket[4];
    ld.global.u32 %r1, [%in4];
    redux.sync.add.u32 %r1, %r1, -1;
    mov.u32 %r2, %ctaid.x;
    mad.wide.u32 %rd, %r2, 4, %out;
    setp.eq.u32 %p, %id, 0;
    @%p st.global.u32 [%rd + 8], %r1; // here
{release}
{counter}
{acquire}
{shared}
    bar.sync 0;
    ld.shared.u32 %r3, [ticket];
    add.u32 %r3, %r3, 1;
    mov.u32 %r4, %nctaid.x;
    setp.ne.u32 %q, %r3, %r4;
    @%q ret;
    setp.lt.u32 %p, %id, %r4;
    mad.wide.u32 %rd, %id, 4, %out;
{merge}"
        ),
    )
    .with(
        shape(9, 32),
        Arg::words((0..288).map(|i| i * i)),
        Arg::zeros(44),
    )
}

const RELEASE: &str = "    @%p membar.gl;";
const COUNTER: &str = "    @%p atom.global.add.u32 %r3, [%out], 1;";
const ACQUIRE: &str = "    @%p membar.gl;";
const SHARED: &str = "    @%p st.shared.u32 [ticket], %r3;";
const MERGE: &str = "    mov.u32 %r5, 0;
    @%p ld.global.u32 %r5, [%rd + 8]; // here
    redux.sync.add.u32 %r5, %r5, -1;
    setp.eq.u32 %p, %id, 0;
    @%p st.global.u32 [%out + 4], %r5;";

/// The number of blocks, and the sum of the squares below 288.
fn right(found: &[u32]) {
    assert_eq!(found[..2], [9, (0..288).map(|i| i * i).sum::<u32>()]);
}

#[test]
fn the_last_block_merges_without_a_release() {
    let release = &format!("{RELEASE} // repaired");
    let case = last_block_merges([release, COUNTER, ACQUIRE, SHARED, MERGE]);
    right(
        &case
            .says(&["reads p_out + ", "of block (", "wrote it in line "])
            .found(),
    );
}

#[test]
fn the_last_block_merges_without_an_acquire() {
    let acquire = &format!("{ACQUIRE} // repaired");
    let case = last_block_merges([RELEASE, COUNTER, acquire, SHARED, MERGE]);
    right(
        &case
            .says(&["reads p_out + ", "of block (", "wrote it in line "])
            .found(),
    );
}

/// A fence for the block does not reach other blocks.
#[test]
fn the_last_block_merges_after_a_fence_of_the_block() {
    let release = &format!("    @%p membar.cta; // broken\n{RELEASE} // repaired");
    let case = last_block_merges([release, COUNTER, ACQUIRE, SHARED, MERGE]);
    right(
        &case
            .says(&["no release and acquire lie in between"])
            .found(),
    );
}

/// Release and acquire on the counter itself are as good as fences; relaxed is not.
#[test]
fn the_last_block_merges_with_a_relaxed_counter() {
    let counter = "    @%p atom.relaxed.gpu.global.add.u32 %r3, [%out], 1; // broken
    @%p atom.acq_rel.gpu.global.add.u32 %r3, [%out], 1; // repaired";
    let case = last_block_merges(["", counter, "", SHARED, MERGE]);
    right(
        &case
            .says(&["no release and acquire lie in between"])
            .found(),
    );
}

/// What the other threads of a block wrote must be ordered before the one that counts: a barrier.
#[test]
fn the_last_block_merges_what_other_threads_wrote() {
    let text = |barrier: &str| {
        format!(
            ".shared .align 4 .b8 ticket[4];
    mov.u64 %rd, %in4;
    st.global.u32 [%rd], %r; // here
    {barrier}
    setp.eq.u32 %p, %id, 0;
    @%p membar.gl;
    @%p atom.global.add.u32 %r3, [%out], 1;
    @%p membar.gl;
    @%p st.shared.u32 [ticket], %r3;
    bar.sync 0;
    ld.shared.u32 %r3, [ticket];
    setp.ne.u32 %q, %r3, 3;
    @%q ret;
    mov.u32 %r4, 0;
    mov.u32 %r5, 0;
    mad.wide.u32 %rd, %id, 4, %in;
MORE:
    ld.global.u32 %r6, [%rd]; // here
    add.u32 %r5, %r5, %r6;
    add.u64 %rd, %rd, 256;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p, %r4, 4;
    @%p bra MORE;
    mad.wide.u32 %rd, %id, 4, %out;
    st.global.u32 [%rd + 4], %r5;"
        )
    };
    let at = shape(4, 64);
    broken(BlockRace, &text("bar.sync 0; // repaired"))
        .with(at, Arg::Empty(1024), Arg::zeros(260))
        .says(&["reads p_in + ", "of block ("])
        .gives([4].into_iter().chain((0..64).map(|i| 4 * i + 384)));
}

/// Counting with plain loads and stores.
#[test]
fn counting_without_atomics() {
    broken(
        BlockRace,
        "setp.eq.u32 %p, %id, 0;
    @%p ld.global.u32 %r1, [%out];       // broken, here
    @%p add.u32 %r1, %r1, 1;             // broken
    @%p st.global.u32 [%out], %r1;       // broken, here
    mov.u32 %r1, 1;                      // repaired
    @%p red.global.add.u32 [%out], %r1;  // repaired",
    )
    .with(shape(5, 32), Arg::zeros(4), Arg::zeros(4))
    .says(&["p_out + 0", "of block ("])
    .gives([5]);
}

/// A plain store beside the atomics of other blocks.
#[test]
fn atomics_beside_a_plain_store() {
    broken(
        BlockRace,
        "mov.u32 %r1, %ctaid.x;
    setp.eq.u32 %p, %r1, 1;
    mov.u32 %r2, 0;
    @%p st.global.u32 [%out], %r2;       // broken, here
    @%p atom.global.add.u32 %r3, [%out], %r2; // repaired
    @!%p red.global.add.u32 [%out], 1;   // here",
    )
    .with(shape(5, 1), Arg::zeros(4), Arg::zeros(4))
    .says(&["p_out + 0", "of block ("])
    .gives([4]);
}

/// A flag that was raised without a release, read without an acquire.
#[test]
fn flags_need_release_and_acquire() {
    for (store, load) in [
        ("st.relaxed.gpu.global.u32", "ld.acquire.gpu.global.u32"),
        ("st.release.gpu.global.u32", "ld.relaxed.gpu.global.u32"),
        ("st.volatile.global.u32", "ld.volatile.global.u32"),
    ] {
        // Whoever comes first writes a value and raises the flag; who finds the flag raised reads the value.
        broken(
            BlockRace,
            &format!(
                "setp.eq.u32 %p, %r, 0;
    mov.u32 %r1, 0;
    ld.acquire.gpu.global.u32 %r2, [%out]; // repaired
    {load} %r2, [%out]; // broken
    setp.eq.u32 %q, %r2, 0;
    @%q bra FIRST;
    ld.global.u32 %r3, [%out + 4]; // here
    setp.eq.u32 %p, %r3, 77;
    @!%p trap;
    ret;
FIRST:
    mov.u32 %r3, 77;
    st.global.u32 [%out + 4], %r3; // here
    mov.u32 %r4, 1;
    st.release.gpu.global.u32 [%out], %r4; // repaired
    {store} [%out], %r4; // broken"
            ),
        )
        .with(shape(2, 1), Arg::zeros(4), Arg::zeros(8))
        .says(&["p_out + 4", "of block (", "wrote it in line "])
        .gives([1, 77]);
    }
}
