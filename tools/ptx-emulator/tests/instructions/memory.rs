//! Loads, stores, state spaces, vectors and asynchronous copies.

use crate::common::{
    Arg, HEADER, Shape, assembles, everywhere, kernel, kernel_with, longs, on_emulator, shape,
    words,
};

/// Bytes 0, 1, 2, ... with the top bit set in every third.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|i| (i as u8).wrapping_mul(37) ^ if i % 3 == 0 { 0x80 } else { 0x11 })
        .collect()
}

/// The little-endian number in `bytes`, the sign extended if `signed`.
fn number(bytes: &[u8], signed: bool) -> u64 {
    let mut all = [if signed && bytes[bytes.len() - 1] & 0x80 != 0 {
        0xff
    } else {
        0
    }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

/// A load fills a wider register: with the sign if the type has one, else with zeros.
#[test]
fn loads_extend_to_their_register() {
    let data = pattern(8 * 40);
    for (ty, bytes, signed) in [
        ("u8", 1, false),
        ("s8", 1, true),
        ("b8", 1, false),
        ("u16", 2, false),
        ("s16", 2, true),
        ("b16", 2, false),
        ("u32", 4, false),
        ("s32", 4, true),
        ("b32", 4, false),
        ("u64", 8, false),
        ("s64", 8, true),
        ("b64", 8, false),
    ] {
        let text = kernel(&format!(
            "mad.wide.u32 %rd, %id, {bytes}, %in;\n mad.wide.u32 %rd1, %id, 8, %out;\n \
             ld.global.{ty} %rd0, [%rd];\n st.global.u64 [%rd1], %rd0;"
        ));
        let buffers = everywhere(
            &text,
            shape(1, 40),
            &[Arg::Data(data.clone()), Arg::zeros(320)],
        );
        let want: Vec<u64> = data
            .chunks_exact(bytes)
            .take(40)
            .map(|b| number(b, signed))
            .collect();
        assert_eq!(longs(&buffers[1]), want, "{ty}");
    }
}

/// A store takes the low bytes of a wider register and leaves the bytes around them alone.
#[test]
fn stores_take_the_low_bytes() {
    for bytes in [1usize, 2, 4, 8] {
        let text = kernel(&format!(
            "mad.wide.u32 %rd, %id, 8, %in;\n ld.global.u64 %rd0, [%rd];\n \
             mad.wide.u32 %rd, %id, {}, %out;\n st.global.b{} [%rd + {bytes}], %rd0;",
            2 * bytes,
            8 * bytes
        ));
        let data = pattern(8 * 33);
        let before = vec![0xee; 2 * bytes * 33];
        let buffers = everywhere(
            &text,
            shape(1, 33),
            &[Arg::Data(data.clone()), Arg::Data(before.clone())],
        );
        let mut want = before;
        for i in 0..33 {
            want[(2 * i + 1) * bytes..][..bytes].copy_from_slice(&data[8 * i..][..bytes]);
        }
        assert_eq!(buffers[1], want, "{bytes} bytes");
    }
}

/// The first register of a vector holds what lies at the lowest address.
#[test]
fn vectors_are_in_order_of_addresses() {
    for (ty, bytes, count) in [
        ("b8", 1, 2),
        ("b8", 1, 4),
        ("b16", 2, 2),
        ("b16", 2, 4),
        ("b32", 4, 2),
        ("b32", 4, 4),
        ("b64", 8, 2),
    ] {
        let class = if bytes == 8 {
            "b64"
        } else if bytes == 4 {
            "b32"
        } else {
            "b16"
        };
        let registers = |order: &[usize]| {
            let names: Vec<String> = order.iter().map(|i| format!("%v{i}")).collect();
            names.join(", ")
        };
        let (straight, reversed): (Vec<usize>, Vec<usize>) =
            ((0..count).collect(), (0..count).rev().collect());
        let size = bytes * count;
        for space in ["global", "shared", "local"] {
            // Through the space in order, then out in the opposite order.
            let through = if space == "global" {
                String::new()
            } else {
                let own = if space == "shared" {
                    "mad.lo.u32 %r0, %id, 16, %r0;"
                } else {
                    ""
                };
                format!(
                    "mov.u32 %r0, room;\n {own}\n st.{space}.v{count}.{ty} [%r0], {{{0}}};\n \
                     ld.{space}.v{count}.{ty} {{{0}}}, [%r0];",
                    registers(&straight)
                )
            };
            let body = format!(
                ".reg .{class} %v<4>;\n .shared .align 16 .b8 {}[640];\n .local .align 16 .b8 {}[16];\n \
                 mad.wide.u32 %rd, %id, {size}, %in;\n mad.wide.u32 %rd1, %id, {size}, %out;\n \
                 ld.global.v{count}.{ty} {{{}}}, [%rd];\n {through}\n st.global.v{count}.{ty} [%rd1], {{{}}};",
                if space == "shared" {
                    "room"
                } else {
                    "unused_shared"
                },
                if space == "local" {
                    "room"
                } else {
                    "unused_local"
                },
                registers(&straight),
                registers(&reversed)
            );
            let data = pattern(size * 40);
            let buffers = everywhere(
                &kernel(&body),
                shape(1, 40),
                &[Arg::Data(data.clone()), Arg::zeros(size * 40)],
            );
            let want: Vec<u8> = data
                .chunks_exact(size)
                .flat_map(|vector| {
                    vector
                        .chunks_exact(bytes)
                        .rev()
                        .flatten()
                        .copied()
                        .collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(buffers[1], want, "v{count}.{ty} through {space}");
        }
    }
}

#[test]
fn vectors_of_floats_keep_their_bits() {
    let text = kernel(
        "mad.wide.u32 %rd, %id, 16, %in;\n mad.wide.u32 %rd1, %id, 16, %out;\n \
         ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%rd];\n st.global.v2.f32 [%rd1], {%f3, %f0};\n \
         st.global.v2.f32 [%rd1 + 8], {%f1, %f2};",
    );
    // NaN payloads and subnormals among them.
    let data: Vec<u32> = (0..160u32)
        .map(|i| i.wrapping_mul(0x9e37_79b9) | ((i % 4 / 3) * 0x7f80_0001))
        .collect();
    let buffers = everywhere(
        &text,
        shape(1, 40),
        &[Arg::words(data.clone()), Arg::zeros(640)],
    );
    let want: Vec<u32> = data
        .chunks_exact(4)
        .flat_map(|v| [v[3], v[0], v[1], v[2]])
        .collect();
    assert_eq!(words(&buffers[1]), want);
}

/// What hints and orders do to caches is invisible; which bytes move is not theirs to change.
#[test]
fn hints_and_orders_load_and_store_the_same() {
    let header = HEADER.replace("7.0", "7.4");
    let (loads, stores) = (
        [
            "ld.global.nc.b32",
            "ld.global.ca.b32",
            "ld.global.cg.b32",
            "ld.global.cs.b32",
            "ld.global.cv.b32",
            "ld.global.nc.L1::no_allocate.b32",
            "ld.global.L1::evict_last.b32",
            "ld.global.L2::128B.b32",
            "ld.global.nc.L1::no_allocate.L2::256B.b32",
            "ld.volatile.global.b32",
            "ld.weak.global.b32",
            "ld.relaxed.gpu.global.b32",
            "ld.acquire.gpu.global.b32",
            "ld.acquire.sys.global.b32",
        ],
        [
            "st.global.wb.b32",
            "st.global.cg.b32",
            "st.global.cs.b32",
            "st.global.wt.b32",
            "st.global.L1::no_allocate.b32",
            "st.volatile.global.b32",
            "st.weak.global.b32",
            "st.relaxed.gpu.global.b32",
            "st.release.gpu.global.b32",
            "st.release.cta.global.b32",
        ],
    );
    let data: Vec<u32> = (0..64).map(|i| i * 77 + 5).collect();
    for i in 0..loads.len().max(stores.len()) {
        let (load, store) = (loads[i % loads.len()], stores[i % stores.len()]);
        let body = format!(
            "{load} %r1, [%in4];\n {store} [%out4], %r1;\n prefetch.global.L2 [%in4];\n prefetch.global.L1 [%in];"
        );
        let text = kernel_with(&header, "", &body);
        let buffers = everywhere(
            &text,
            shape(2, 32),
            &[Arg::words(data.clone()), Arg::zeros(256)],
        );
        assert_eq!(words(&buffers[1]), data, "{load}, {store}");
    }
}

/// Addresses: register, register plus or minus an offset, variable plus an offset, 32 and 64 bits.
#[test]
fn addresses_in_all_their_spellings() {
    let body = "
    .shared .align 8 .b8 a[512];
    .shared .align 4 .u32 b[64];
    // a[8 lane + 4] = id, b[63 - id] = id
    shl.b32 %r0, %id, 3;
    mov.u32 %r1, a;
    add.u32 %r0, %r0, %r1;
    st.shared.u32 [%r0 + 4], %id;
    mov.u32 %r2, b;
    sub.u32 %r3, 63, %id;
    shl.b32 %r3, %r3, 2;
    add.u32 %r2, %r2, %r3;
    st.shared.u32 [%r2], %id;
    bar.sync 0;
    ld.shared.u32 %r4, [a + 4];          // 0
    ld.shared.u32 %r5, [b];              // 63
    ld.shared.u32 %r6, [%r2 + 0];        // id
    cvt.u64.u32 %rd, %r0;
    ld.shared.u32 %r7, [%rd + 4];        // id
    add.u32 %r0, %r0, 100;
    ld.shared.u32 %r8, [%r0 + -96];      // id
    mad.wide.u32 %rd, %id, 20, %out;
    add.u64 %rd, %rd, 1000;
    st.global.u32 [%rd + -1000], %r4;
    st.global.u32 [%rd+-996], %r5;
    st.global.u32 [%rd + -992], %r6;
    st.global.u32 [%rd + -988], %r7;
    cvta.to.global.u64 %rd, %rd;
    st.global.u32 [%rd + -984], %r8;";
    let buffers = everywhere(
        &kernel(body),
        shape(1, 64),
        &[Arg::zeros(4), Arg::zeros(64 * 20)],
    );
    let want: Vec<u32> = (0..64).flat_map(|i| [0, 63, i, i, i]).collect();
    assert_eq!(words(&buffers[1]), want);
}

/// Parameters lie at multiples of their size, and are read as what they are.
#[test]
fn parameters_of_all_types() {
    let text = format!(
        "{HEADER}.visible .entry k(.param .u8 a, .param .u64 out, .param .u16 b, .param .s8 c, .param .f32 d, \
         .param .b64 e, .param .s16 f)\n{{\n .reg .b64 %out, %v;\n .reg .f32 %f;\n .reg .b32 %r;\n \
         ld.param.u64 %out, [out];\n\
         ld.param.u8 %v, [a];\n st.global.u64 [%out], %v;\n\
         ld.param.u16 %v, [b];\n st.global.u64 [%out + 8], %v;\n\
         ld.param.s8 %v, [c];\n st.global.u64 [%out + 16], %v;\n\
         ld.param.f32 %f, [d];\n mov.b32 %r, %f;\n cvt.u64.u32 %v, %r;\n st.global.u64 [%out + 24], %v;\n\
         ld.param.b64 %v, [e];\n st.global.u64 [%out + 32], %v;\n\
         ld.param.s16 %v, [f];\n st.global.u64 [%out + 40], %v;\n\
         ld.param.u32 %r, [e + 4];\n cvt.u64.u32 %v, %r;\n st.global.u64 [%out + 48], %v;\n ret;\n}}\n"
    );
    let module = crate::common::parse(&text);
    let entry = module.entry("k").expect("the kernel");
    let offsets: Vec<_> = entry
        .parameters
        .iter()
        .map(|p| (p.name.as_str(), p.offset, p.bytes))
        .collect();
    let want = [
        ("a", 0, 1),
        ("out", 8, 8),
        ("b", 16, 2),
        ("c", 18, 1),
        ("d", 20, 4),
        ("e", 24, 8),
        ("f", 32, 2),
    ];
    assert_eq!(offsets, want);
    assert_eq!(entry.parameter_bytes, 34);
    assembles(&text, "sm_80");
    let memory = ptx_emulator::Memory::new(1 << 20);
    let out = memory.alloc(56).unwrap();
    let mut parameters = vec![0u8; 34];
    parameters[0] = 0xfe;
    parameters[8..16].copy_from_slice(&out.to_le_bytes());
    parameters[16..18].copy_from_slice(&0xfedc_u16.to_le_bytes());
    parameters[18] = 0xfe;
    parameters[20..24].copy_from_slice(&1.5f32.to_le_bytes());
    parameters[24..32].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
    parameters[32..34].copy_from_slice(&(-2i16).to_le_bytes());
    let request = ptx_emulator::Launch {
        entry,
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared: 0,
        parameters: &parameters,
    };
    ptx_emulator::launch(&memory, &request, &ptx_emulator::Options::default())
        .unwrap_or_else(|e| panic!("{e}"));
    let mut found = [0; 56];
    memory.read(out, &mut found).unwrap();
    let minus_two = u64::MAX - 1;
    assert_eq!(
        longs(&found),
        [
            0xfe,
            0xfedc,
            minus_two,
            0x3fc0_0000,
            0x0123_4567_89ab_cdef,
            minus_two,
            0x0123_4567
        ]
    );
}

/// Module-level and kernel-level variables, initial values, alignment; every thread's own local memory.
#[test]
fn variables_in_constant_shared_and_local_memory() {
    let declarations = "
.const .align 4 .u32 squares[5] = {0, 1, 4, 9, 16};
.const .f32 half = 0f3F000000;
.const .align 8 .u64 wide[2] = {0x123456789abcdef0, 7};
.shared .align 16 .b8 first[24];
.shared .align 32 .b8 second[8];
";
    let body = "
    .local .align 8 .b8 mine[24];
    .shared .align 4 .b8 third[4];
    rem.u32 %r0, %id, 5;
    shl.b32 %r0, %r0, 2;
    mov.u32 %r1, squares;
    add.u32 %r0, %r0, %r1;
    ld.const.u32 %r2, [%r0];             // squares[id % 5]
    ld.const.f32 %f0, [half];
    mov.b32 %r3, %f0;
    ld.const.u64 %rd, [wide + 8];
    cvt.u32.u64 %r4, %rd;
    st.local.u32 [mine + 4], %id;
    mov.u32 %r5, mine;
    st.local.u64 [%r5 + 16], %rd;
    ld.local.u32 %r6, [%r5 + 4];
    ld.local.u32 %r7, [mine + 16];
    // Where a variable is placed is the assembler's choice; that it is aligned and apart from the others is not.
    mov.u32 %r8, first;
    and.b32 %r8, %r8, 15;
    mov.u32 %r9, second;
    and.b32 %r9, %r9, 31;
    or.b32 %r10, %r8, %r9;
    setp.eq.u32 %p, %id, 0;
    @%p st.shared.u32 [first + 20], 5;
    @%p st.shared.u32 [second], 6;
    @%p st.shared.u32 [third], 7;
    bar.sync 0;
    ld.shared.u32 %r11, [first + 20];
    ld.shared.u32 %r12, [second];
    mad.lo.u32 %r11, %r11, 10, %r12;
    ld.shared.u32 %r12, [third];
    mad.lo.u32 %r11, %r11, 10, %r12;
    mad.wide.u32 %rd, %id, 28, %out;
    st.global.u32 [%rd], %r2;
    st.global.u32 [%rd + 4], %r3;
    st.global.u32 [%rd + 8], %r4;
    st.global.u32 [%rd + 12], %r6;
    st.global.u32 [%rd + 16], %r7;
    st.global.u32 [%rd + 20], %r10;
    st.global.u32 [%rd + 24], %r11;";
    let text = kernel_with(HEADER, declarations, body);
    let buffers = everywhere(&text, shape(1, 70), &[Arg::zeros(4), Arg::zeros(70 * 28)]);
    let want: Vec<u32> = (0..70)
        .flat_map(|i| [(i % 5) * (i % 5), 0x3f00_0000, 7, i, 7, 0, 567])
        .collect();
    assert_eq!(words(&buffers[1]), want);
}

/// The array without a size begins after the others and is as large as the launch says.
#[test]
fn dynamic_shared_memory() {
    let declarations = ".extern .shared .align 16 .b8 rest[];\n.shared .align 4 .b8 fixed[20];\n";
    let body = "
    mov.u32 %r0, rest;
    mad.lo.u32 %r1, %id, 4, %r0;
    st.shared.u32 [%r1], %id;
    and.b32 %r4, %r0, 15;                // 0: it is aligned, wherever it begins
    add.u32 %r4, %r4, 32;
    setp.lt.u32 %p, %id, 5;
    mov.u32 %r3, fixed;
    mad.lo.u32 %r3, %id, 4, %r3;
    @%p st.shared.u32 [%r3], %r4;
    bar.sync 0;
    xor.b32 %r2, %id, 63;
    mad.lo.u32 %r1, %r2, 4, %r0;
    ld.shared.u32 %r3, [%r1];
    ld.shared.u32 %r4, [fixed + 16];
    mad.lo.u32 %r3, %r4, 1000, %r3;
    st.global.u32 [%out4], %r3;";
    let at = Shape {
        shared: 256,
        ..shape(1, 64)
    };
    let text = kernel_with(HEADER, declarations, body);
    let buffers = everywhere(&text, at, &[Arg::zeros(4), Arg::zeros(256)]);
    assert_eq!(
        words(&buffers[1]),
        (0..64).map(|i| (i ^ 63) + 32_000).collect::<Vec<u32>>()
    );
}

/// Copies of every size arrive whole; what lies beyond the source size is zero, and is not read.
#[test]
fn asynchronous_copies_fill_with_zeros() {
    for (size, cache) in [(4usize, "ca"), (8, "ca"), (16, "ca"), (16, "cg")] {
        // Thread i takes i % (size + 1) bytes of its chunk. The source ends with what the last thread takes.
        let threads = 40usize;
        let taken = |i: usize| i % (size + 1);
        let source = pattern((threads - 1) * size + taken(threads - 1));
        let body = format!(
            ".shared .align 16 .b8 room[640];
    mov.u32 %r0, room;
    mad.lo.u32 %r0, %id, {size}, %r0;
    mad.wide.u32 %rd, %id, {size}, %in;
    rem.u32 %r1, %id, {};
    cp.async.{cache}.shared.global [%r0], [%rd], {size}, %r1;
    cp.async.wait_all;
    mad.wide.u32 %rd, %id, {size}, %out;
    mov.u32 %r2, 0;
MORE:
    ld.shared.u32 %r3, [%r0];
    st.global.u32 [%rd], %r3;
    add.u32 %r0, %r0, 4;
    add.u64 %rd, %rd, 4;
    add.u32 %r2, %r2, 4;
    setp.lt.u32 %p, %r2, {size};
    @%p bra MORE;",
            size + 1
        );
        let args = [Arg::Data(source.clone()), Arg::zeros(threads * size)];
        let buffers = everywhere(&kernel(&body), shape(1, threads as u32), &args);
        let mut want = vec![0; threads * size];
        for i in 0..threads {
            want[i * size..][..taken(i)].copy_from_slice(&source[i * size..][..taken(i)]);
        }
        assert_eq!(buffers[1], want, "{cache}, {size} bytes");
    }
}

/// `wait_group N` waits for all groups but the newest N; the copies of a group not committed yet belong to the next.
#[test]
fn groups_of_copies_are_waited_for_in_order() {
    let body = "
    .shared .align 16 .b8 room[1536];    // three chunks of 16 bytes per thread
    mov.u32 %r0, room;
    mad.lo.u32 %r0, %id, 48, %r0;
    mad.wide.u32 %rd, %id, 48, %in;
    mad.wide.u32 %rd1, %id, 12, %out;
    cp.async.cg.shared.global [%r0], [%rd], 16;
    cp.async.commit_group;
    cp.async.ca.shared.global [%r0 + 16], [%rd + 16], 8;
    cp.async.ca.shared.global [%r0 + 24], [%rd + 24], 4;
    cp.async.ca.shared.global.L2::128B [%r0 + 28], [%rd + 28], 4;
    cp.async.commit_group;
    cp.async.cg.shared.global [%r0 + 32], [%rd + 32], 16;
    cp.async.commit_group;
    cp.async.commit_group;               // empty
    cp.async.wait_group 3;
    ld.shared.u32 %r1, [%r0 + 12];
    cp.async.wait_group 2;
    ld.shared.u32 %r2, [%r0 + 28];
    cp.async.wait_group 0;
    ld.shared.u32 %r3, [%r0 + 36];
    st.global.u32 [%rd1], %r1;
    st.global.u32 [%rd1 + 4], %r2;
    st.global.u32 [%rd1 + 8], %r3;";
    let data: Vec<u32> = (0..32 * 12).map(|i| 1000 + i).collect();
    let text = kernel_with(&HEADER.replace("7.0", "7.4"), "", body);
    let buffers = everywhere(
        &text,
        shape(1, 32),
        &[Arg::words(data.clone()), Arg::zeros(32 * 12)],
    );
    let want: Vec<u32> = data
        .chunks_exact(12)
        .flat_map(|c| [c[3], c[7], c[9]])
        .collect();
    assert_eq!(words(&buffers[1]), want);
}

/// Threads exchange what they copied: waiting and a barrier, in this order.
#[test]
fn copies_of_others_are_there_after_a_barrier() {
    let body = "
    .shared .align 16 .b8 room[1024];
    mov.u32 %r0, room;
    mad.lo.u32 %r1, %id, 16, %r0;
    mad.wide.u32 %rd, %id, 16, %in;
    cp.async.cg.shared.global [%r1], [%rd], 16;
    cp.async.wait_all;
    bar.sync 0;
    sub.u32 %r2, 63, %id;
    mad.lo.u32 %r2, %r2, 16, %r0;
    ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r2];
    mad.wide.u32 %rd, %id, 16, %out;
    st.global.v4.u32 [%rd], {%r4, %r5, %r6, %r7};";
    let data: Vec<u32> = (0..256).map(|i| 7 * i).collect();
    let buffers = everywhere(
        &kernel(body),
        shape(1, 64),
        &[Arg::words(data.clone()), Arg::zeros(1024)],
    );
    let want: Vec<u32> = data.chunks_exact(4).rev().flatten().copied().collect();
    assert_eq!(words(&buffers[1]), want);
}

/// The spelling of newer texts.
#[test]
fn shared_memory_may_be_called_shared_cta() {
    let body = "
    .shared .align 16 .b8 room[640];
    mov.u32 %r0, room;
    mad.lo.u32 %r0, %id, 16, %r0;
    mad.wide.u32 %rd, %id, 16, %in;
    cp.async.cg.shared::cta.global [%r0], [%rd], 16;
    cp.async.wait_all;
    ld.shared::cta.u32 %r1, [%r0 + 8];
    st.shared::cta.u32 [%r0], %r1;
    ld.shared.u32 %r1, [%r0];
    st.global.u32 [%out4], %r1;";
    let text = kernel_with(&HEADER.replace("7.0", "7.8"), "", body);
    let data: Vec<u32> = (0..160).collect();
    let args = [Arg::words(data), Arg::zeros(160)];
    assembles(&text, "sm_80");
    let buffers = on_emulator(&text, shape(1, 40), &args);
    assert_eq!(
        words(&buffers[1]),
        (0..40).map(|i| 4 * i + 2).collect::<Vec<u32>>()
    );
}
