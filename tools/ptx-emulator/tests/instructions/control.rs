//! Branches, loops, guards, scopes, the end of threads, and the registers that say where a thread is.

use crate::common::{Arg, HEADER, Shape, everywhere, kernel, kernel_with, shape, words};

/// Every lane leaves its loop when it wants to: the length of a Collatz sequence.
#[test]
fn loops_of_different_lengths() {
    let text = kernel(
        "add.u32 %r1, %r, 1;
    mov.u32 %r2, 0;
NEXT:
    setp.eq.u32 %p, %r1, 1;
    @%p bra DONE;
    add.u32 %r2, %r2, 1;
    and.b32 %r3, %r1, 1;
    setp.ne.u32 %q, %r3, 0;
    @%q bra ODD;
    shr.u32 %r1, %r1, 1;
    bra.uni NEXT;
ODD:
    mad.lo.u32 %r1, %r1, 3, 1;
    bra NEXT;
DONE:
    st.global.u32 [%out4], %r2;",
    );
    let buffers = everywhere(&text, shape(3, 50), &[Arg::zeros(4), Arg::zeros(600)]);
    let length = |mut n: u64| {
        let mut steps = 0;
        while n != 1 {
            n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
            steps += 1;
        }
        steps
    };
    assert_eq!(
        words(&buffers[1]),
        (1..=150).map(length).collect::<Vec<u32>>()
    );
}

/// Nested branches meet again: a shuffle behind them has all lanes.
#[test]
fn branches_meet_again() {
    let text = kernel(
        "and.b32 %r1, %lane, 3;
    mov.u32 %r5, %lane;
    setp.lt.u32 %p, %r1, 2;
    @!%p bra UPPER;
    setp.eq.u32 %q, %r1, 0;
    @%q bra ZERO;
    add.u32 %r5, %r5, 100;
    bra JOIN;
ZERO:
    add.u32 %r5, %r5, 200;
    bra JOIN;
UPPER:
    setp.eq.u32 %q, %r1, 2;
    @%q add.u32 %r5, %r5, 300;
    @!%q add.u32 %r5, %r5, 400;
JOIN:
    shfl.sync.bfly.b32 %r6, %r5, 3, 31, -1;
    st.global.u32 [%out4], %r6;",
    );
    let buffers = everywhere(&text, shape(1, 64), &[Arg::zeros(4), Arg::zeros(256)]);
    let own = |lane: u32| lane + [200, 100, 300, 400][lane as usize % 4];
    assert_eq!(
        words(&buffers[1]),
        (0..64)
            .map(|i: u32| own((i % 32) ^ 3))
            .collect::<Vec<u32>>()
    );
}

/// An instruction whose guard is false does nothing: no access, no use of registers that hold nothing yet.
#[test]
fn guards_keep_instructions_from_happening() {
    let text = kernel(
        "setp.lt.u32 %p, %id, 20;
    @%p mov.u32 %r1, 5;
    @%p add.u32 %r2, %r1, %id;
    mov.u64 %rd0, 1;                     // misaligned, and nowhere
    @%p mov.u64 %rd0, %in4;
    @%p ld.global.u32 %r3, [%rd0];
    @!%p mov.u32 %r3, 9;
    mov.u32 %r4, 0;
    @%p add.u32 %r4, %r2, %r3;
    @!%p st.global.u32 [%out4], %r3;
    @%p st.global.u32 [%out4], %r4;",
    );
    let input: Vec<u32> = (0..20).map(|i| 10 * i).collect();
    let buffers = everywhere(&text, shape(1, 40), &[Arg::words(input), Arg::zeros(160)]);
    assert_eq!(
        words(&buffers[1]),
        (0..40)
            .map(|i| if i < 20 { 11 * i + 5 } else { 9 })
            .collect::<Vec<u32>>()
    );
}

/// Threads may end early; those that stay go on, with each other and with barriers.
#[test]
fn early_ends() {
    for end in ["ret", "exit"] {
        let text = kernel(&format!(
            ".shared .align 4 .b8 room[256];
    mov.u32 %r1, room;
    mad.lo.u32 %r1, %id, 4, %r1;
    mul.lo.u32 %r2, %id, 3;
    st.shared.u32 [%r1], %r2;
    st.global.u32 [%out4], %id;
    setp.ge.u32 %p, %id, 37;
    @%p {end};
    bar.sync 0;
    sub.u32 %r3, 36, %id;
    mov.u32 %r1, room;
    mad.lo.u32 %r1, %r3, 4, %r1;
    ld.shared.u32 %r4, [%r1];
    st.global.u32 [%out4], %r4;"
        ));
        let buffers = everywhere(&text, shape(1, 64), &[Arg::zeros(4), Arg::zeros(256)]);
        let want: Vec<u32> = (0..64)
            .map(|i| if i < 37 { 3 * (36 - i) } else { i })
            .collect();
        assert_eq!(words(&buffers[1]), want, "{end}");
    }
}

/// A kernel may end without `ret`.
#[test]
fn the_end_of_the_text_is_an_end() {
    let text = format!(
        "{HEADER}.visible .entry k(.param .u64 out)\n{{\n .reg .b64 %out;\n .reg .b32 %r;\n ld.param.u64 %out, [out];\n \
         mov.u32 %r, 7;\n st.global.u32 [%out], %r;\n}}\n"
    );
    let buffers = everywhere(&text, shape(1, 1), &[Arg::zeros(4)]);
    assert_eq!(words(&buffers[0]), [7]);
}

/// A name declared in an inner scope hides the outer one there, and is unknown outside.
#[test]
fn scopes() {
    let text = kernel(
        "mov.u32 %r1, 1;
    {
        .reg .b32 %r1, %inner;
        mov.u32 %r1, 50;
        mov.u32 %inner, 7;
        add.u32 %r2, %r1, %inner;
        {
            .reg .b32 %inner;
            mov.u32 %inner, 1000;
            add.u32 %r2, %r2, %inner;
        }
        add.u32 %r2, %r2, %inner;
    }
    add.u32 %r2, %r2, %r1;
    st.global.u32 [%out4], %r2;",
    );
    let buffers = everywhere(&text, shape(1, 32), &[Arg::zeros(4), Arg::zeros(128)]);
    assert_eq!(words(&buffers[1]), vec![1065; 32]);
}

#[test]
fn special_registers() {
    let text = kernel_with(
        HEADER,
        ".extern .shared .align 16 .b8 dynamic[];\n.shared .align 16 .b8 fixed[48];\n",
        "
    // The flat index of the thread in the grid.
    mov.u32 %r1, %tid.y;
    mov.u32 %r2, %tid.z;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %ntid.y;
    mad.lo.u32 %r5, %r2, %r4, %r1;
    mov.u32 %r6, %tid.x;
    mad.lo.u32 %r5, %r5, %r3, %r6;       // in the block
    mov.u32 %r6, %ctaid.z;
    mov.u32 %r7, %nctaid.y;
    mov.u32 %r8, %ctaid.y;
    mad.lo.u32 %r6, %r6, %r7, %r8;
    mov.u32 %r7, %nctaid.x;
    mov.u32 %r8, %ctaid.x;
    mad.lo.u32 %r6, %r6, %r7, %r8;       // the block
    mov.u32 %r7, %ntid.z;
    mul.lo.u32 %r8, %r3, %r4;
    mul.lo.u32 %r8, %r8, %r7;
    mad.lo.u32 %r9, %r6, %r8, %r5;
    mad.wide.u32 %rd, %r9, 64, %out;
    st.global.u32 [%rd], %r1;
    st.global.u32 [%rd + 4], %r2;
    st.global.u32 [%rd + 8], %r5;
    st.global.u32 [%rd + 12], %r6;
    mov.u32 %r10, %laneid;
    st.global.u32 [%rd + 16], %r10;
    mov.u32 %r10, %warpid;               // any number, as long as the warp has it in common
    activemask.b32 %r12;
    bfind.u32 %r13, %r12;
    shfl.sync.idx.b32 %r11, %r10, %r13, 31, %r12;
    setp.eq.u32 %p, %r10, %r11;
    selp.u32 %r10, 1, 0, %p;
    st.global.u32 [%rd + 20], %r10;
    mov.u32 %r10, %nwarpid;
    setp.ge.u32 %p, %r10, 3;             // how many there are room for; at least those of the block
    selp.u32 %r10, 1, 0, %p;
    st.global.u32 [%rd + 24], %r10;
    mov.u32 %r10, %lanemask_eq;
    st.global.u32 [%rd + 28], %r10;
    mov.u32 %r10, %lanemask_lt;
    st.global.u32 [%rd + 32], %r10;
    mov.u32 %r10, %lanemask_le;
    st.global.u32 [%rd + 36], %r10;
    mov.u32 %r10, %lanemask_gt;
    st.global.u32 [%rd + 40], %r10;
    mov.u32 %r10, %lanemask_ge;
    st.global.u32 [%rd + 44], %r10;
    mov.u32 %r10, %dynamic_smem_size;
    st.global.u32 [%rd + 48], %r10;
    mov.u32 %r10, WARP_SZ;
    st.global.u32 [%rd + 52], %r10;
    mov.u32 %r10, %nctaid.z;
    st.global.u32 [%rd + 56], %r10;
    mov.u32 %r10, %ntid.z;
    st.global.u32 [%rd + 60], %r10;",
    );
    let at = Shape {
        grid: [2, 3, 2],
        block: [5, 4, 4],
        shared: 80,
    };
    let buffers = everywhere(&text, at, &[Arg::zeros(4), Arg::zeros(64 * 960)]);
    let found = words(&buffers[1]);
    for (i, row) in found.chunks_exact(16).enumerate() {
        let (block, thread) = (i as u32 / 80, i as u32 % 80);
        let lane = thread % 32;
        let below = (1u64 << lane) as u32 - 1;
        let want = [
            thread / 5 % 4,
            thread / 20,
            thread,
            block,
            lane,
            1,
            1,
            1 << lane,
            below,
            below | 1 << lane,
            !(below | 1 << lane),
            !below,
            80,
            32,
            2,
            4,
        ];
        assert_eq!(row, want, "thread {thread} of block {block}");
    }
}

/// Several kernels in one text, each with its own labels and registers; `.maxntid` is the most threads.
#[test]
fn several_kernels_in_one_text() {
    let one = |name: &str, value: u32| {
        format!(
            ".visible .entry {name}(.param .u64 out)\n.maxntid 8, 4, 1\n.minnctapersm 2\n{{\n .reg .pred %p;\n \
             .reg .b64 %out;\n .reg .b32 %r, %n;\n ld.param.u64 %out, [out];\n mov.u32 %r, 0;\n mov.u32 %n, 0;\n\
             LOOP:\n add.u32 %r, %r, {value};\n add.u32 %n, %n, 1;\n setp.lt.u32 %p, %n, 3;\n @%p bra LOOP;\n \
             st.global.u32 [%out], %r;\n ret;\n}}\n"
        )
    };
    let text = format!("{HEADER}{}{}", one("first", 5), one("second", 70));
    crate::common::assembles(&text, "sm_80");
    let module = crate::common::parse(&text);
    let mut names: Vec<&str> = module.entries().map(|e| e.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["first", "second"]);
    assert!(module.entry("third").is_none());
    for (name, want) in [("first", 15), ("second", 210)] {
        let entry = module.entry(name).expect("the kernel");
        assert_eq!(entry.max_threads, 32);
        for options in crate::common::all_options(2) {
            let run = crate::common::run(entry, shape(1, 1), &[Arg::zeros(4)], &options);
            let (buffers, counters) = run.unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(words(&buffers[0]), [want]);
            // Three before the loop, three rounds of four but for the branch not taken, store and return.
            assert_eq!(counters.instructions, 3 + 11 + 2);
        }
    }
}
