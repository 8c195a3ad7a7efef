//! Shuffles, votes and the like: what every lane of a warp gets, from definitions written out per lane.

use crate::common::{Arg, everywhere, kernel, longs, shape, words};

/// Irregular words.
fn data(n: u32) -> Vec<u32> {
    (0..n)
        .map(|i| (i + 1).wrapping_mul(0x9e37_79b9) ^ i << 7)
        .collect()
}

/// What a shuffle among segments of `width` lanes gives a lane: the lane it reads, and whether that was in range.
fn source(mode: &str, lane: i64, b: i64, width: i64) -> (i64, bool) {
    let first = lane / width * width;
    let wanted = match mode {
        "up" => lane - b,
        "down" => lane + b,
        "bfly" => lane ^ b,
        _ => first + b % width,
    };
    // `bfly` looks below its segment too: only the upper end is checked.
    let inside = match mode {
        "up" => wanted >= first,
        _ => wanted < first + width,
    };
    (if inside { wanted } else { lane }, inside)
}

#[test]
fn shuffles_of_all_modes_and_widths() {
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [32i64, 16, 8, 4, 2, 1] {
            for b in [0i64, 1, 2, 3, 7, 8, 16, 31] {
                // The segments' mask in bits 8 to 12; the bound is the first lane for `up`, the last for the others.
                let c = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
                let text = kernel(&format!(
                    "ld.global.b32 %r1, [%in4];\n shfl.sync.{mode}.b32 %r2|%p, %r1, {b}, {c}, 0xffffffff;\n \
                     shl.b32 %r3, %r, 3;\n cvt.u64.u32 %rd, %r3;\n add.u64 %rd, %rd, %out;\n \
                     selp.b32 %r4, 1, 0, %p;\n st.global.v2.b32 [%rd], {{%r2, %r4}};"
                ));
                let values = data(64);
                let args = [Arg::words(values.clone()), Arg::zeros(512)];
                // Assembling each of these would take longer than everything else: the text is the same but for numbers.
                let buffers = match (width, b) {
                    (16, 3) => everywhere(&text, shape(1, 64), &args),
                    _ => crate::common::on_emulator(&text, shape(1, 64), &args),
                };
                let want: Vec<u32> = (0..64)
                    .flat_map(|i| {
                        let (from, inside) = source(mode, i % 32, b, width);
                        [values[(i / 32 * 32 + from) as usize], u32::from(inside)]
                    })
                    .collect();
                assert_eq!(words(&buffers[1]), want, "{mode}, {b}, width {width}");
            }
        }
    }
}

/// Source lane, bound and value differ from lane to lane; bits beyond the lowest five of the source lane do not count.
#[test]
fn every_lane_names_its_own_source() {
    let text = kernel(
        "mul.lo.u32 %r1, %id, 11;\n add.u32 %r1, %r1, 37;\n mul.lo.u32 %r2, %id, %id;\n \
         shfl.sync.idx.b32 %r3, %r2, %r1, 31, -1;\n st.global.b32 [%out4], %r3;",
    );
    let buffers = everywhere(&text, shape(1, 32), &[Arg::zeros(4), Arg::zeros(128)]);
    let want: Vec<u32> = (0..32)
        .map(|i| (11 * i + 37) % 32)
        .map(|i: u32| i * i)
        .collect();
    assert_eq!(words(&buffers[1]), want);
}

/// The two halves of a warp shuffle, vote and reduce at different places, each among itself.
#[test]
fn parts_of_a_warp_work_apart() {
    let text = kernel(
        "ld.global.b32 %r1, [%in4];
    and.b32 %r2, %r1, 1;
    setp.ne.u32 %q, %r2, 0;
    setp.lt.u32 %p, %lane, 10;
    @%p bra FEW;
    shfl.sync.down.b32 %r3, %r1, 1, 31, 0xfffffc00;
    vote.sync.ballot.b32 %r4, %q, 0xfffffc00;
    redux.sync.add.u32 %r5, %r1, 0xfffffc00;
    bra STORE;
FEW:
    shfl.sync.bfly.b32 %r3, %r1, 1, 31, 0x3ff;
    vote.sync.ballot.b32 %r4, %q, 0x3ff;
    redux.sync.max.u32 %r5, %r1, 0x3ff;
STORE:
    mad.wide.u32 %rd, %id, 12, %out;
    st.global.b32 [%rd], %r3;
    st.global.b32 [%rd + 4], %r4;
    st.global.b32 [%rd + 8], %r5;",
    );
    let values = data(64);
    let buffers = everywhere(
        &text,
        shape(1, 64),
        &[Arg::words(values.clone()), Arg::zeros(64 * 12)],
    );
    let mut want = Vec::new();
    for warp in values.chunks(32) {
        let odd = |range: std::ops::Range<usize>| {
            range
                .filter(|&i| warp[i] % 2 == 1)
                .fold(0u32, |m, i| m | 1 << i)
        };
        for lane in 0..32 {
            want.extend(if lane < 10 {
                [
                    warp[lane ^ 1],
                    odd(0..10),
                    *warp[..10].iter().max().unwrap(),
                ]
            } else {
                let sum = warp[10..].iter().fold(0, |s: u32, v| s.wrapping_add(*v));
                [warp[(lane + 1).min(31)], odd(10..32), sum]
            });
        }
    }
    assert_eq!(words(&buffers[1]), want);
}

/// A block that does not fill its last warp: the lanes that exist name each other.
#[test]
fn a_warp_that_is_not_full() {
    let text = kernel(
        "ld.global.b32 %r1, [%in4];\n mov.u32 %r2, -1;\n setp.lt.u32 %p, %id, 32;\n @!%p mov.u32 %r2, 0xff;\n \
         redux.sync.xor.b32 %r3, %r1, %r2;\n st.global.b32 [%out4], %r3;",
    );
    let values = data(40);
    let buffers = everywhere(
        &text,
        shape(1, 40),
        &[Arg::words(values.clone()), Arg::zeros(160)],
    );
    let all = |part: &[u32]| part.iter().fold(0, |a, b| a ^ b);
    let mut want = vec![all(&values[..32]); 32];
    want.extend([all(&values[32..]); 8]);
    assert_eq!(words(&buffers[1]), want);
}

#[test]
fn votes() {
    let text = kernel(
        "ld.global.b32 %r1, [%in4];
    setp.ne.u32 %p, %r1, 0;
    vote.sync.all.pred %q, %p, -1;
    selp.b32 %r2, 1, 0, %q;
    vote.sync.any.pred %q, %p, -1;
    selp.b32 %r3, 1, 0, %q;
    vote.sync.uni.pred %q, %p, -1;
    selp.b32 %r4, 1, 0, %q;
    vote.sync.ballot.b32 %r5, !%p, -1;
    mad.wide.u32 %rd, %id, 16, %out;
    st.global.v4.b32 [%rd], {%r2, %r3, %r4, %r5};",
    );
    // Warps of: all set, none set, some set, all but one set.
    let set = |i: u32| match i / 32 {
        0 => true,
        1 => false,
        2 => i % 5 == 1,
        _ => i != 100,
    };
    let values: Vec<u32> = (0..128).map(|i| u32::from(set(i)) * (i + 9)).collect();
    let buffers = everywhere(
        &text,
        shape(1, 128),
        &[Arg::words(values), Arg::zeros(128 * 16)],
    );
    let clear = |warp: u32| {
        (0..32)
            .filter(|l| !set(32 * warp + l))
            .fold(0u32, |m, l| m | 1 << l)
    };
    let per_warp = [
        [1, 1, 1, 0],
        [0, 0, 1, u32::MAX],
        [0, 1, 0, clear(2)],
        [0, 1, 0, 1 << 4],
    ];
    let want: Vec<u32> = (0..128).flat_map(|i| per_warp[i / 32]).collect();
    assert_eq!(words(&buffers[1]), want);
}

#[test]
fn matches() {
    let text = kernel(
        "ld.global.b32 %r1, [%in4];
    match.any.sync.b32 %r2, %r1, -1;
    match.all.sync.b32 %r3|%p, %r1, -1;
    selp.b32 %r4, 1, 0, %p;
    cvt.u64.u32 %rd0, %r1;
    shl.b64 %rd0, %rd0, 32;              // only the upper half differs
    match.any.sync.b64 %r5, %rd0, -1;
    mad.wide.u32 %rd, %id, 16, %out;
    st.global.v4.b32 [%rd], {%r2, %r3, %r4, %r5};",
    );
    // One warp of several values, one of a single value.
    let values: Vec<u32> = (0..64)
        .map(|i: u32| if i < 32 { i * i % 7 } else { 5 })
        .collect();
    let buffers = everywhere(
        &text,
        shape(1, 64),
        &[Arg::words(values.clone()), Arg::zeros(1024)],
    );
    let mut want = Vec::new();
    for warp in values.chunks(32) {
        for value in warp {
            let same = (0..32)
                .filter(|&i| warp[i] == *value)
                .fold(0u32, |m, i| m | 1 << i);
            let all = same == u32::MAX;
            want.extend([same, if all { same } else { 0 }, u32::from(all), same]);
        }
    }
    assert_eq!(words(&buffers[1]), want);
}

#[test]
fn reductions() {
    let signed = |f: fn(i32, i32) -> i32| move |a: u32, b: u32| f(a as i32, b as i32) as u32;
    type Fold = Box<dyn Fn(u32, u32) -> u32>;
    let all: Vec<(&str, Fold)> = vec![
        ("add.u32", Box::new(u32::wrapping_add)),
        ("add.s32", Box::new(u32::wrapping_add)),
        ("min.u32", Box::new(u32::min)),
        ("max.u32", Box::new(u32::max)),
        ("min.s32", Box::new(signed(i32::min))),
        ("max.s32", Box::new(signed(i32::max))),
        ("and.b32", Box::new(|a, b| a & b)),
        ("or.b32", Box::new(|a, b| a | b)),
        ("xor.b32", Box::new(|a, b| a ^ b)),
    ];
    for (op, fold) in all {
        let text = kernel(&format!(
            "ld.global.b32 %r1, [%in4];\n redux.sync.{op} %r2, %r1, -1;\n st.global.b32 [%out4], %r2;"
        ));
        // Some bits common to all, so that `and` and `or` have something to say.
        let values: Vec<u32> = data(64)
            .into_iter()
            .map(|v| (v | 0x0001_0010) & 0xffff_fff7)
            .collect();
        let buffers = everywhere(
            &text,
            shape(1, 64),
            &[Arg::words(values.clone()), Arg::zeros(256)],
        );
        let want: Vec<u32> = values
            .chunks(32)
            .flat_map(|warp| [warp.iter().copied().reduce(&fold).unwrap(); 32])
            .collect();
        assert_eq!(words(&buffers[1]), want, "{op}");
    }
}

/// Which lanes are together is the scheduler's business, but a lane is always among them, and nobody from another branch.
#[test]
fn active_lanes_share_a_branch() {
    let text = kernel(
        "setp.lt.u32 %p, %lane, 7;
    @%p bra FEW;
    activemask.b32 %r1;
    and.b32 %r2, %r1, 0x7f;              // nobody from the other branch
    bra STORE;
FEW:
    activemask.b32 %r1;
    and.b32 %r2, %r1, 0xffffff80;
STORE:
    shr.u32 %r3, %r1, %lane;
    and.b32 %r3, %r3, 1;
    mad.wide.u32 %rd, %id, 8, %out;
    st.global.v2.b32 [%rd], {%r2, %r3};",
    );
    let buffers = everywhere(&text, shape(1, 64), &[Arg::zeros(4), Arg::zeros(512)]);
    assert_eq!(longs(&buffers[1]), vec![1u64 << 32; 64]);
}

/// A sum over the warp by five shuffles, with the loop closed over many rounds.
#[test]
fn sums_by_shuffles() {
    let text = kernel(
        "ld.global.b32 %r1, [%in4];
    mov.u32 %r3, 0;
ROUND:
    mov.u32 %r4, 16;
STEP:
    shfl.sync.bfly.b32 %r2, %r1, %r4, 31, -1;
    add.u32 %r1, %r1, %r2;
    shr.u32 %r4, %r4, 1;
    setp.ne.u32 %p, %r4, 0;
    @%p bra STEP;
    add.u32 %r1, %r1, %lane;
    add.u32 %r3, %r3, 1;
    setp.lt.u32 %p, %r3, 20;
    @%p bra ROUND;
    st.global.b32 [%out4], %r1;",
    );
    let values = data(96);
    let buffers = everywhere(
        &text,
        shape(1, 96),
        &[Arg::words(values.clone()), Arg::zeros(384)],
    );
    let mut want = values;
    for _ in 0..20 {
        for warp in want.chunks_mut(32) {
            let sum = warp.iter().fold(0u32, |s, v| s.wrapping_add(*v));
            (0..)
                .zip(warp)
                .for_each(|(lane, v)| *v = sum.wrapping_add(lane));
        }
    }
    assert_eq!(words(&buffers[1]), want);
}
