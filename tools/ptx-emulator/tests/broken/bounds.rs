//! Accesses outside their buffer, and misaligned ones.

use ptx_emulator::Kind::{Misaligned, OutOfBounds};

use crate::common::{Arg, HEADER, all_options, kernel, name, parse, run, shape};
use crate::{ROOM, broken};

/// 0, 1, 2, ...
fn counting(n: u32) -> Arg {
    Arg::words(0..n)
}

#[test]
fn past_the_end_of_global_memory() {
    broken(
        OutOfBounds,
        "mov.u32 %r1, 0;
    setp.lt.u32 %p, %id, 31;             // repaired
    @%p ld.global.u32 %r1, [%in4 + 4];   // repaired
    ld.global.u32 %r1, [%in4 + 4];       // broken, here
    st.global.u32 [%out4], %r1;",
    )
    .with(shape(1, 32), counting(32), Arg::zeros(128))
    .says(&[
        "4 bytes at p_in + 128",
        "the buffer has 128 bytes",
        "byte 128 of it",
    ])
    .gives((1..32).chain([0]));
}

/// The bound of a loop is one too large, in one thread of one block only.
#[test]
fn one_iteration_too_many() {
    broken(
        OutOfBounds,
        "mov.u32 %r1, 0;
    mov.u64 %rd, %in;
    add.u32 %r2, %r, 1;                  // sums 1 to 96 words
    setp.eq.u32 %p, %r, 95;              // broken
    @%p add.u32 %r2, %r2, 1;             // broken
MORE:
    ld.global.u32 %r3, [%rd];            // here
    add.u32 %r1, %r1, %r3;
    add.u64 %rd, %rd, 4;
    sub.u32 %r2, %r2, 1;
    setp.ne.u32 %q, %r2, 0;
    @%q bra MORE;
    st.global.u32 [%out4], %r1;",
    )
    .with(shape(3, 32), counting(96), Arg::zeros(384))
    .says(&["4 bytes at p_in + 384", "the buffer has 384 bytes"])
    .gives((0..96).map(|i| i * (i + 1) / 2));
}

#[test]
fn before_the_start_of_global_memory() {
    broken(
        OutOfBounds,
        "mov.u32 %r1, 77;
    setp.ne.u32 %p, %id, 0;              // repaired
    @%p ld.global.u32 %r1, [%in4 + -4];  // repaired
    ld.global.u32 %r1, [%in4 + -4];      // broken, here
    st.global.u32 [%out4], %r1;",
    )
    .with(shape(1, 32), counting(32), Arg::zeros(128))
    .says(&["4 bytes at p_in - 4", "the buffer begins 4 bytes later"])
    .gives([77].into_iter().chain(0..31));
}

/// The first half of a vector is inside.
#[test]
fn a_vector_across_the_end() {
    broken(
        OutOfBounds,
        "mad.wide.u32 %rd, %id, 16, %out;
    mov.u32 %r1, 5;
    setp.eq.u32 %p, %id, 7;
    @!%p st.global.v4.u32 [%rd], {%r1, %r1, %r1, %r1};
    @%p st.global.v4.u32 [%rd], {%r1, %r1, %r1, %r1}; // broken, here
    @%p st.global.v2.u32 [%rd], {%r1, %r1};           // repaired",
    )
    .with(shape(1, 8), counting(1), Arg::zeros(120))
    .says(&["16 bytes at p_out + 112", "the buffer has 120 bytes"])
    .gives([5; 30]);
}

/// Half a word at the end of a buffer of 126 bytes is no word.
#[test]
fn the_last_word_is_half_inside() {
    broken(
        OutOfBounds,
        "mov.u32 %r1, 0x10001;
    setp.lt.u32 %p, %id, 31;
    @%p st.global.u32 [%out4], %r1;
    @!%p st.global.u32 [%out4], %r1;     // broken, here
    @!%p st.global.u16 [%out4], %r1;     // repaired",
    )
    .with(shape(1, 32), counting(1), Arg::zeros(126))
    .says(&["4 bytes at p_out + 124", "the buffer has 126 bytes"])
    .gives([0x10001; 31]);
}

#[test]
fn atomics_past_the_end() {
    broken(
        OutOfBounds,
        "mov.u32 %r1, 1;
    red.global.add.u32 [%out4 + 4], %r1; // broken, here
    red.global.add.u32 [%out4], %r1;     // repaired",
    )
    .says(&["4 bytes at p_out + 128"])
    .gives([1; 32]);
}

#[test]
fn past_the_end_of_shared_memory() {
    broken(
        OutOfBounds,
        ".shared .align 4 .b8 first[32];
    .shared .align 4 .b8 room[128];
    mov.u32 %r0, room;
    mad.lo.u32 %r1, %id, 4, %r0;
    st.shared.u32 [%r1], %id;
    add.u32 %r2, %id, 1;
    rem.u32 %r2, %r2, 32;                // repaired
    mad.lo.u32 %r2, %r2, 4, %r0;
    bar.sync 0;
    ld.shared.u32 %r3, [%r2];            // here
    st.global.u32 [%out4], %r3;",
    )
    .says(&[
        "4 bytes at shared room + 128",
        "the block has 160 bytes of shared memory",
    ])
    .gives((1..32).chain([0]));
}

/// A negative offset wraps around to a huge address.
#[test]
fn before_the_start_of_shared_memory() {
    broken(
        OutOfBounds,
        ".shared .align 4 .b8 room[128];
    shl.b32 %r1, %id, 2;
    st.shared.u32 [%r1], %id;
    sub.u32 %r2, %r1, 4;
    max.s32 %r2, %r2, 0;                 // repaired
    bar.sync 0;
    ld.shared.u32 %r3, [%r2];            // here
    st.global.u32 [%out4], %r3;",
    )
    .says(&["4 bytes at shared ", "the block has 128 bytes"])
    .gives([0].into_iter().chain(0..31));
}

/// More dynamic shared memory than the launch asked for.
#[test]
fn past_the_end_of_dynamic_shared_memory() {
    let at = crate::common::Shape {
        shared: 128,
        ..shape(1, 64)
    };
    broken(
        OutOfBounds,
        "mov.u32 %r0, rest;
    mad.lo.u32 %r1, %id, 4, %r0;         // broken
    mad.lo.u32 %r1, %id, 2, %r0;         // repaired
    cvt.u16.u32 %h, %id;
    st.shared.u16 [%r1], %h;             // here
    ld.shared.u16 %r2, [%r1];
    st.global.u32 [%out4], %r2;",
    )
    .declares(".shared .align 16 .b8 fixed[16];\n.extern .shared .align 16 .b8 rest[];\n")
    .with(at, counting(1), Arg::zeros(256))
    .says(&[
        "2 bytes at shared rest + ",
        "the block has 144 bytes of shared memory",
    ])
    .gives(0..64);
}

#[test]
fn outside_local_memory() {
    broken(
        OutOfBounds,
        ".local .align 8 .b8 mine[64];
    mov.u32 %r1, mine;
    and.b32 %r2, %id, 15;                // repaired
    mov.u32 %r2, %id;                    // broken
    mad.lo.u32 %r1, %r2, 4, %r1;
    st.local.u32 [%r1], %id;             // here
    ld.local.u32 %r3, [%r1];
    st.global.u32 [%out4], %r3;",
    )
    .says(&["4 bytes at local memory + ", "there are 64 bytes"])
    .gives(0..32);
}

#[test]
fn outside_constants_and_parameters() {
    broken(
        OutOfBounds,
        "rem.u32 %r1, %id, 5;                 // broken
    rem.u32 %r1, %id, 4;                 // repaired
    shl.b32 %r1, %r1, 2;
    mov.u32 %r2, squares;
    add.u32 %r1, %r1, %r2;
    ld.const.u32 %r3, [%r1];             // here
    st.global.u32 [%out4], %r3;",
    )
    .declares(".const .align 4 .u32 squares[4] = {0, 1, 4, 9};\n")
    .says(&["4 bytes at constants + 16", "there are 16 bytes"])
    .gives((0..32).map(|i| (i % 4) * (i % 4)));
}

/// Where an address points that no parameter leads to: between two buffers, nowhere at all, and into one freed before.
#[test]
fn addresses_that_lead_nowhere() {
    let text = format!(
        "{HEADER}.visible .entry k(.param .u64 p_in, .param .u64 p_far)\n{{\n .reg .b64 %rd;\n .reg .b32 %r;\n \
         ld.param.u64 %rd, [p_far];\n ld.global.u32 %r, [%rd + 16];\n ret;\n}}\n"
    );
    let module = parse(&text);
    let entry = module.entry("k").unwrap();
    let memory = ptx_emulator::Memory::new(1 << 20);
    let gone = memory.alloc(64).unwrap();
    memory.write(gone, &[0; 64]).unwrap();
    assert!(memory.free(gone));
    for far in [0, 64, 1 << 45, gone, u64::MAX - 63] {
        for options in all_options(2) {
            let args = [Arg::zeros(64), Arg::U64(far)];
            let report =
                crate::common::run_in(&memory, entry, shape(1, 1), &args, &options).unwrap_err();
            assert_eq!(
                (report.kind, report.line, report.thread),
                (OutOfBounds, 9, Some(0)),
                "{far:#x}: {report}"
            );
            assert!(
                report.detail.starts_with("4 bytes at "),
                "{far:#x}: {report}"
            );
        }
    }
}

/// A buffer does not reach into the next one.
#[test]
fn buffers_are_apart() {
    let text = kernel("mad.wide.u32 %rd, %id, 4096, %in4;\n st.global.u32 [%rd], %id;");
    let module = parse(&text);
    let entry = module.entry("k").unwrap();
    for options in all_options(2) {
        let report = run(
            entry,
            shape(1, 32),
            &[Arg::zeros(128), Arg::zeros(1 << 18)],
            &options,
        )
        .unwrap_err();
        assert_eq!(report.kind, OutOfBounds, "{}: {report}", name(&options));
    }
}

#[test]
fn misaligned_global_accesses() {
    broken(
        Misaligned,
        "mad.wide.u32 %rd, %id, 20, %in;      // broken
    mad.wide.u32 %rd, %id, 32, %in;      // repaired
    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd]; // here
    st.global.u32 [%out4], %r4;",
    )
    .with(shape(1, 32), counting(256), Arg::zeros(128))
    .says(&["16 bytes at p_in + ", "no multiple of 16"])
    .gives((0..32).map(|i| 8 * i + 3));
    broken(
        Misaligned,
        "mad.wide.u32 %rd, %id, 6, %out;      // broken
    mad.wide.u32 %rd, %id, 4, %out;      // repaired
    mov.u32 %r1, 1;
    red.global.add.u32 [%rd], %r1;       // here",
    )
    .with(shape(1, 32), counting(1), Arg::zeros(192))
    .says(&["4 bytes at p_out + ", "no multiple of 4"])
    .gives((0..48).map(|i| u32::from(i < 32)));
}

#[test]
fn misaligned_shared_and_local_accesses() {
    broken(
        Misaligned,
        &(ROOM.to_owned()
            + "st.shared.u32 [%r1], %id;
    bar.sync 0;
    and.b32 %r4, %r1, 0xfffffff8;        // repaired
    mov.u32 %r4, %r1;                    // broken
    ld.shared.u64 %rd, [%r4];            // here
    cvt.u32.u64 %r5, %rd;
    st.global.u32 [%out4], %r5;"),
    )
    .with(shape(1, 31), counting(1), Arg::zeros(128))
    .or(ptx_emulator::Kind::Uninitialised)
    .says(&["8 bytes at shared room + ", "no multiple of 8"]);
    broken(
        Misaligned,
        ".local .align 8 .b8 mine[16];
    mov.u64 %rd, 9;
    st.local.u64 [mine + 4], %rd;        // broken, here
    st.local.u64 [mine + 8], %rd;        // repaired
    ld.local.u32 %r1, [mine + 8];
    st.global.u32 [%out4], %r1;",
    )
    .says(&["8 bytes at local memory + 4", "no multiple of 8"])
    .gives([9; 32]);
}

#[test]
fn misaligned_matrices_and_copies() {
    broken(
        Misaligned,
        &(ROOM.to_owned()
            + "mad.lo.u32 %r4, %id, 16, %r0;
    mov.u32 %r5, 7;
    st.shared.v4.u32 [%r4], {%r5, %r5, %r5, %r5};
    bar.warp.sync -1;
    rem.u32 %r6, %id, 8;
    mad.lo.u32 %r6, %r6, 24, %r0;        // broken
    mad.lo.u32 %r6, %r6, 16, %r0;        // repaired
    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r7}, [%r6]; // here
    st.global.u32 [%out4], %r7;"),
    )
    .says(&["16 bytes at shared room + 24", "no multiple of 16"])
    .gives([7; 32]);
    for (to, from) in [("8", "0"), ("0", "8")] {
        broken(
            Misaligned,
            &(ROOM.to_owned()
                + &format!(
                    "mad.lo.u32 %r4, %id, 16, %r0;
    mad.wide.u32 %rd, %id, 16, %in;
    cp.async.cg.shared.global [%r4 + {to}], [%rd + {from}], 16; // broken, here
    cp.async.cg.shared.global [%r4], [%rd], 16;       // repaired
    cp.async.wait_all;
    ld.shared.u32 %r5, [%r4];
    st.global.u32 [%out4], %r5;"
                )),
        )
        .with(shape(1, 31), counting(128), Arg::zeros(128))
        .says(&[
            if to == "8" {
                "16 bytes at shared room + "
            } else {
                "16 bytes at p_in + "
            },
            "no multiple of 16",
        ])
        .gives((0..32).map(|i| if i < 31 { 4 * i } else { 0 }));
    }
}

/// A copy may name an address past the end as long as it takes nothing from there.
#[test]
fn copies_past_the_end() {
    broken(
        OutOfBounds,
        &(ROOM.to_owned()
            + "mad.lo.u32 %r4, %id, 16, %r0;
    mad.wide.u32 %rd, %id, 16, %in;
    mov.u32 %r5, 16;
    setp.ge.u32 %p, %id, 20;             // repaired
    @%p mov.u32 %r5, 0;                  // repaired
    cp.async.cg.shared.global [%r4], [%rd], 16, %r5; // here
    cp.async.wait_all;
    ld.shared.u32 %r6, [%r4 + 12];
    st.global.u32 [%out4], %r6;"),
    )
    .with(shape(1, 32), counting(80), Arg::zeros(128))
    .says(&[" bytes at p_in + ", "the buffer has 320 bytes"])
    .gives((0..32).map(|i| if i < 20 { 4 * i + 3 } else { 0 }));
}

#[test]
fn matrix_rows_past_the_end() {
    broken(
        OutOfBounds,
        ".shared .align 16 .b8 room[256];
    mov.u32 %r0, room;
    and.b32 %r1, %id, 15;
    mad.lo.u32 %r1, %r1, 16, %r0;
    mov.u32 %r2, 3;
    setp.lt.u32 %p, %id, 16;
    @%p st.shared.v4.u32 [%r1], {%r2, %r2, %r2, %r2};
    bar.warp.sync -1;
    mad.lo.u32 %r1, %id, 16, %r0;        // broken
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r1]; // here
    st.global.u32 [%out4], %r7;",
    )
    .says(&["16 bytes at shared room + 256", "the block has 256 bytes"])
    .gives([3; 32]);
}
