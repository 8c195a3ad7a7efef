//! What a launch counts: instructions, bytes, sectors of 32 bytes in global memory, passes over the banks of shared memory.

use ptx_emulator::{Counters, Options};

use crate::common::{Arg, all_options, kernel, parse, run, shape};

/// What is counted if two warps of each block run `body`: the same in every order and on any number of cores.
fn counted(body: &str, blocks: u32) -> Counters {
    let text = kernel(body);
    let module = parse(&text);
    let entry = module.entry("k").expect("the kernel");
    let args = [Arg::zeros(1 << 14), Arg::zeros(1 << 14)];
    let mut all = all_options(3).into_iter().map(|options| {
        let options = Options {
            count_memory: true,
            ..options
        };
        let one_by_one = options.schedule == ptx_emulator::Schedule::OneByOne;
        let (_, counters) =
            run(entry, shape(blocks, 64), &args, &options).unwrap_or_else(|e| panic!("{e}"));
        (one_by_one, counters)
    });
    let first = all.next().expect("lock step").1;
    for (one_by_one, counters) in all {
        assert_eq!(counters.instructions, first.instructions);
        assert_eq!(counters.matrix_multiply_adds, first.matrix_multiply_adds);
        assert_eq!(counters.global_bytes_read, first.global_bytes_read);
        // Lanes that come one by one ask one by one.
        if !one_by_one {
            assert_eq!(counters, first);
        }
    }
    first
}

#[test]
fn instructions_and_bytes() {
    // Ten instructions of the frame and the return, of 64 threads.
    let frame = counted("", 1);
    assert_eq!(
        (frame.instructions, frame.warp_instructions),
        (64 * 11, 2 * 11)
    );
    let counters = counted(
        "ld.global.u32 %r1, [%in4];
    setp.lt.u32 %p, %id, 5;
    @%p st.global.u16 [%out4], %r1;
    mad.wide.u32 %rd, %r, 8, %out;
    st.global.v2.u32 [%rd + 1024], {%r1, %r1};",
        3,
    );
    assert_eq!(counters.entry, "k");
    assert_eq!(counters.instructions, 3 * (64 * (11 + 4) + 5));
    assert_eq!(counters.warp_instructions, 3 * 2 * (11 + 5));
    assert_eq!(counters.global_bytes_read, 3 * 64 * 4);
    assert_eq!(counters.global_bytes_written, 3 * (5 * 2 + 64 * 8));
    assert_eq!(
        (counters.shared_bytes_read, counters.shared_bytes_written),
        (0, 0)
    );
}

/// A warp that reads 128 bytes in a row touches four sectors; with gaps, more.
#[test]
fn sectors_of_global_memory() {
    for (address, bytes, sectors) in [
        ("mad.wide.u32 %rd, %id, 4, %in;", 4, 4),
        ("mad.wide.u32 %rd, %id, 8, %in;", 4, 8),
        ("mad.wide.u32 %rd, %id, 32, %in;", 4, 32),
        ("mad.wide.u32 %rd, %id, 4, %in; add.u64 %rd, %rd, 16;", 4, 5),
        ("mad.wide.u32 %rd, %id, 16, %in;", 16, 16),
        ("mov.u64 %rd, %in;", 4, 1),
    ] {
        let load = if bytes == 16 {
            "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd];"
        } else {
            "ld.global.u32 %r1, [%rd];"
        };
        let counters = counted(&format!("{address}\n {load}"), 1);
        assert_eq!(
            (counters.global_requests, counters.global_sectors),
            (2, 2 * sectors),
            "{address}"
        );
        assert_eq!(counters.global_bytes_read, 64 * bytes, "{address}");
    }
    let atomics = counted("red.global.add.u32 [%in], 1;", 1);
    assert_eq!((atomics.global_requests, atomics.global_sectors), (2, 2));
}

/// A pass gives each of the 32 banks one word; 128 bytes need one, if no two words share a bank.
#[test]
fn passes_over_shared_memory() {
    let address = |stride: u32| format!("mad.lo.u32 %r1, %lane, {stride}, %r0;");
    for (address, store, passes) in [
        (address(4), "st.shared.u32 [%r1], %id;", 1),
        (address(8), "st.shared.u32 [%r1], %id;", 2),
        (address(132), "st.shared.u32 [%r1], %id;", 1),
        (address(128), "st.shared.u32 [%r1], %id;", 32),
        (
            address(16),
            "st.shared.v4.u32 [%r1], {%id, %id, %id, %id};",
            4,
        ),
        (address(8), "st.shared.v2.u32 [%r1], {%id, %id};", 2),
        // Eight rows of 16 bytes at a time: side by side, and all in the same banks.
        (
            address(16),
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r1];",
            4,
        ),
        (
            address(128),
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r1];",
            32,
        ),
        (
            address(144),
            "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r4, %r5}, [%r1];",
            2,
        ),
        // One word for all.
        (address(0), "ld.shared.u32 %r4, [%r1];", 1),
        (
            address(16),
            "cp.async.cg.shared.global [%r1], [%in], 16;",
            4,
        ),
    ] {
        // The other warp has other rows, and what is read was written.
        let body = |access: &str| {
            format!(
                ".shared .align 16 .b8 room[8704];
    mov.u32 %r0, room;
    mov.u32 %r1, 0;
    mad.lo.u32 %r2, %id, 4, %r0;
FILL:
    mad.lo.u32 %r3, %r1, 256, %r2;
    st.shared.u32 [%r3], %r1;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p, %r1, 34;
    @%p bra FILL;
    bar.sync 0;
    setp.ne.u32 %p, %warp, 0;
    @%p bra DONE;
    {address}
    {access}
DONE:"
            )
        };
        let (with, without) = (counted(&body(store), 1), counted(&body(""), 1));
        assert_eq!(
            with.shared_requests - without.shared_requests,
            1,
            "{address} {store}"
        );
        assert_eq!(
            with.shared_wavefronts - without.shared_wavefronts,
            passes,
            "{address} {store}"
        );
    }
}

#[test]
fn products_of_matrices() {
    let counters = counted(
        ".reg .f32 %c<4>;
    mov.f32 %c0, 0f00000000;
    mov.b32 %r4, 0;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%c0, %c1, %c2, %c3}, {%r4, %r4, %r4, %r4}, {%r4, %r4}, {%c0, %c0, %c0, %c0};
    mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%c0, %c1, %c2, %c3}, {%r4, %r4}, {%r4}, {%c0, %c0, %c0, %c0};",
        5,
    );
    assert_eq!(counters.matrix_multiply_adds, 5 * 2 * 16 * 8 * (16 + 8));
}
