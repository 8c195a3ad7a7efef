//! Matrix instructions against the element positions that the PTX ISA lists for each of them.

use half::f16;

use crate::common::fragments::{of_8x8, of_a, of_b, of_c};
use crate::common::{Arg, assembles, everywhere, floats, halves, kernel, on_emulator, shape};

/// A kernel that loads 8 x 8 matrices from 512 bytes of shared memory, row by row through the addresses of the lanes.
/// Row r of matrix m lies at 128 m + 16 (7 - r): bottom up, so that addresses count and not places.
fn loads(count: usize, transposed: bool) -> String {
    let registers = ["%r4", "%r5", "%r6", "%r7"][..count].join(", ");
    let trans = if transposed { ".trans" } else { "" };
    let stores: String = (0..count)
        .map(|i| format!("st.global.u32 [%rd + {}], %r{};\n ", 4 * i, 4 + i))
        .collect();
    kernel(&format!(
        ".shared .align 16 .b8 room[512];
    mov.u32 %r0, room;
    mad.lo.u32 %r1, %id, 16, %r0;
    mad.wide.u32 %rd, %id, 16, %in;
    ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%rd];
    st.shared.v4.u32 [%r1], {{%r4, %r5, %r6, %r7}};
    bar.sync 0;
    xor.b32 %r2, %id, 7;
    mad.lo.u32 %r1, %r2, 16, %r0;
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{registers}}}, [%r1];
    mad.wide.u32 %rd, %id, {}, %out;
    {stores}",
        4 * count
    ))
}

#[test]
fn ldmatrix_gives_each_lane_its_elements() {
    let data: Vec<u16> = (0..256).map(|i| 1000 + i).collect();
    for count in [1, 2, 4] {
        for transposed in [false, true] {
            let text = loads(count, transposed);
            let buffers = everywhere(
                &text,
                shape(1, 32),
                &[Arg::halves(data.clone()), Arg::zeros(128 * count)],
            );
            let mut want = Vec::new();
            for lane in 0..32 {
                for matrix in 0..count {
                    for i in 0..2 {
                        let (row, column) = of_8x8(lane, i);
                        let (row, column) = if transposed {
                            (column, row)
                        } else {
                            (row, column)
                        };
                        want.push(data[64 * matrix + 8 * (7 - row) + column]);
                    }
                }
            }
            assert_eq!(
                halves(&buffers[1]),
                want,
                "x{count}, transposed: {transposed}"
            );
        }
    }
}

/// Only the first 8 or 16 lanes' addresses count for one or two matrices: the others' may be anything.
#[test]
fn ldmatrix_ignores_addresses_it_does_not_need() {
    for count in [1, 2] {
        let text = loads(count, false).replace(
            "    ldmatrix",
            &format!(
                "    setp.ge.u32 %p, %id, {};\n    @%p mov.u32 %r1, 0xfffffff1;\n    ldmatrix",
                8 * count
            ),
        );
        let data: Vec<u16> = (0..256).collect();
        let buffers = everywhere(
            &text,
            shape(1, 32),
            &[Arg::halves(data), Arg::zeros(128 * count)],
        );
        let first = &halves(&buffers[1])[..2];
        assert_eq!(first, [56, 57], "x{count}");
    }
}

#[test]
fn stmatrix_is_the_inverse_of_ldmatrix() {
    for count in [1usize, 2, 4] {
        for transposed in [false, true] {
            let registers = ["%r4", "%r5", "%r6", "%r7"][..count].join(", ");
            let trans = if transposed { ".trans" } else { "" };
            // Lane l holds elements 1000 i + 2 l and the next in register i.
            let text = kernel(&format!(
                ".shared .align 16 .b8 room[512];
    mov.u32 %r0, room;
    shl.b32 %r4, %id, 1;
    mad.lo.u32 %r4, %r4, 0x10001, 0x10000;
    add.u32 %r5, %r4, 0x3e803e8;
    add.u32 %r6, %r5, 0x3e803e8;
    add.u32 %r7, %r6, 0x3e803e8;
    xor.b32 %r2, %id, 7;
    mad.lo.u32 %r1, %r2, 16, %r0;
    stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r1], {{{registers}}};
    bar.sync 0;
    setp.ge.u32 %p, %id, {};
    @%p ret;
    mad.lo.u32 %r1, %id, 16, %r0;
    ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r1];
    mad.wide.u32 %rd, %id, 16, %out;
    st.global.v4.u32 [%rd], {{%r4, %r5, %r6, %r7}};",
                8 * count
            ));
            // It came after compute capability 8.0, for which all texts here are written.
            assembles(
                &text.replace("7.0\n.target sm_80", "7.8\n.target sm_90"),
                "sm_90",
            );
            let buffers = on_emulator(
                &text,
                shape(1, 32),
                &[Arg::zeros(4), Arg::zeros(128 * count)],
            );
            let mut want = vec![0; 64 * count];
            for lane in 0..32 {
                for matrix in 0..count {
                    for i in 0..2 {
                        let (row, column) = of_8x8(lane, i);
                        let (row, column) = if transposed {
                            (column, row)
                        } else {
                            (row, column)
                        };
                        want[64 * matrix + 8 * (7 - row) + column] =
                            (1000 * matrix + 2 * lane + i) as u16;
                    }
                }
            }
            assert_eq!(
                halves(&buffers[1]),
                want,
                "x{count}, transposed: {transposed}"
            );
        }
    }
}

/// The kind of an accumulator.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sum {
    F32,
    F16,
}

impl Sum {
    fn name(self) -> &'static str {
        match self {
            Sum::F32 => "f32",
            Sum::F16 => "f16",
        }
    }

    /// 32-bit words of a lane.
    fn words(self) -> usize {
        match self {
            Sum::F32 => 4,
            Sum::F16 => 2,
        }
    }
}

/// A kernel for one `mma`. Per lane, the words of a, b and c come one after the other; those of d go out.
fn multiplies(k: usize, sum: Sum) -> String {
    let (ty, bits) = (sum.name(), if sum == Sum::F32 { "f32" } else { "b32" });
    let parts = [
        ("a", k / 4, "b32"),
        ("b", k / 8, "b32"),
        ("c", sum.words(), bits),
    ];
    let words: usize = parts.iter().map(|part| part.1).sum();
    let list = |name: &str, n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("%{name}{i}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let mut body = format!(
        ".reg .b32 %a<4>, %b<2>;\n .reg .{bits} %c<4>, %d<4>;\n mad.wide.u32 %rd, %id, {}, %in;\n ",
        4 * words
    );
    let mut at = 0;
    for (name, n, ty) in parts {
        for i in 0..n {
            body += &format!("ld.global.{ty} %{name}{i}, [%rd + {at}];\n ");
            at += 4;
        }
    }
    let [a, b, c] = parts.map(|(name, n, _)| list(name, n));
    let d = list("d", sum.words());
    body += &format!(
        "mma.sync.aligned.m16n8k{k}.row.col.{ty}.f16.f16.{ty} {d}, {a}, {b}, {c};\n mad.wide.u32 %rd, %id, {}, %out;\n ",
        4 * sum.words()
    );
    for i in 0..sum.words() {
        body += &format!("st.global.{bits} [%rd + {}], %d{i};\n ", 4 * i);
    }
    kernel(&body)
}

/// Matrices, row by row.
struct Operands {
    a: Vec<f16>,
    b: Vec<f16>,
    c: Vec<f32>,
}

/// D as the kernel gives it, row by row. If it is `exact`, hardware must give the same.
fn product(k: usize, d: Sum, exact: bool, o: &Operands) -> Vec<f32> {
    let mut input = Vec::new();
    for lane in 0..32 {
        let pair = |low: f16, high: f16| u32::from(high.to_bits()) << 16 | u32::from(low.to_bits());
        let at_a = |i| {
            let (row, column) = of_a(lane, i);
            o.a[row * k + column]
        };
        let at_b = |i| {
            let (row, column) = of_b(lane, i);
            o.b[row * 8 + column]
        };
        let at_c = |i| {
            let (row, column) = of_c(lane, i);
            o.c[row * 8 + column]
        };
        input.extend((0..k / 4).map(|w| pair(at_a(2 * w), at_a(2 * w + 1))));
        input.extend((0..k / 8).map(|w| pair(at_b(2 * w), at_b(2 * w + 1))));
        match d {
            Sum::F32 => input.extend((0..4).map(|i| at_c(i).to_bits())),
            Sum::F16 => input.extend(
                (0..2).map(|w| pair(f16::from_f32(at_c(2 * w)), f16::from_f32(at_c(2 * w + 1)))),
            ),
        }
    }
    let text = multiplies(k, d);
    assembles(&text, "sm_80");
    let launch = if exact { everywhere } else { on_emulator };
    let buffers = launch(
        &text,
        shape(1, 32),
        &[Arg::words(input), Arg::zeros(128 * d.words())],
    );
    let elements: Vec<f32> = match d {
        Sum::F32 => floats(&buffers[1]),
        Sum::F16 => halves(&buffers[1])
            .into_iter()
            .map(|h| f16::from_bits(h).to_f32())
            .collect(),
    };
    let mut out = vec![f32::NAN; 128];
    for (n, value) in elements.into_iter().enumerate() {
        let (row, column) = of_c(n / 4, n % 4);
        out[row * 8 + column] = value;
    }
    out
}

const SHAPES: [(usize, Sum); 4] = [(16, Sum::F32), (16, Sum::F16), (8, Sum::F32), (8, Sum::F16)];

/// Small integers: every sum is exact, whatever its order.
#[test]
fn products_of_integers_are_exact() {
    for (k, d) in SHAPES {
        let small = |i: usize, m: i64| f16::from_f32(((i as i64 * 7919 + m * 31) % 9 - 4) as f32);
        let o = Operands {
            a: (0..16 * k).map(|i| small(i, 1)).collect(),
            b: (0..k * 8).map(|i| small(i, 2)).collect(),
            c: (0..128).map(|i| (i * i % 101) as f32 - 50.0).collect(),
        };
        let found = product(k, d, true, &o);
        for row in 0..16 {
            for column in 0..8 {
                let sum: f32 = (0..k)
                    .map(|i| o.a[row * k + i].to_f32() * o.b[i * 8 + column].to_f32())
                    .sum();
                let want = sum + o.c[row * 8 + column];
                assert_eq!(
                    found[row * 8 + column],
                    want,
                    "k {k}, {d:?}, row {row}, column {column}"
                );
            }
        }
    }
}

/// One element of A and one of B at a time: each product lands in its place and nowhere else.
#[test]
fn unit_matrices_find_every_place() {
    for k in [16, 8] {
        let o = Operands {
            // A has a single one per row, at column (5 row + 3) mod k; B counts its elements.
            a: (0..16 * k)
                .map(|i| {
                    f16::from_f32(if i % k == (5 * (i / k) + 3) % k {
                        1.0
                    } else {
                        0.0
                    })
                })
                .collect(),
            b: (0..k * 8).map(|i| f16::from_f32(1.0 + i as f32)).collect(),
            c: (0..128).map(|i| 1000.0 * i as f32).collect(),
        };
        let found = product(k, Sum::F32, true, &o);
        let want: Vec<f32> = (0..128)
            .map(|i| 1.0 + (((5 * (i / 8) + 3) % k) * 8 + i % 8) as f32 + 1000.0 * i as f32)
            .collect();
        assert_eq!(found, want, "k {k}");
    }
}

/// Random values: products of f16 are exact in f32; k + 1 terms are added, each addition at most one unit in the last
/// place of f32 off (hardware truncates) relative to the largest intermediate, which the sum of magnitudes bounds. An
/// f16 result is rounded once more.
#[test]
fn products_of_random_values_are_close() {
    let mut random = 1u64;
    let mut next = move || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((random >> 40) as f32 / 8_388_608.0 - 1.0) * 2.0
    };
    for (k, d) in SHAPES {
        let o = Operands {
            a: (0..16 * k).map(|_| f16::from_f32(next())).collect(),
            b: (0..k * 8).map(|_| f16::from_f32(next())).collect(),
            c: (0..128).map(|_| f16::from_f32(next()).to_f32()).collect(),
        };
        let found = product(k, d, false, &o);
        for row in 0..16 {
            for column in 0..8 {
                let terms =
                    (0..k).map(|i| o.a[row * k + i].to_f64() * o.b[i * 8 + column].to_f64());
                let c_value = f64::from(o.c[row * 8 + column]);
                let want = terms.clone().sum::<f64>() + c_value;
                let magnitude = terms.map(f64::abs).sum::<f64>() + c_value.abs();
                let mut allowed = (k + 1) as f64 * 2f64.powi(-23) * magnitude;
                if d == Sum::F16 {
                    allowed += 2f64.powi(-11) * want.abs() + 2f64.powi(-25);
                }
                let error = (f64::from(found[row * 8 + column]) - want).abs();
                assert!(
                    error <= allowed,
                    "k {k}, {d:?}, row {row}, column {column}: {error:e} > {allowed:e}"
                );
            }
        }
    }
}

/// Subnormal f16 are numbers; infinities and NaN spread to the sums they belong to, and to no other.
#[test]
fn special_values_in_products() {
    let k = 16;
    let mut o = Operands {
        a: vec![f16::ZERO; 16 * k],
        b: vec![f16::ONE; k * 8],
        c: vec![0.25; 128],
    };
    o.a[2 * k] = f16::INFINITY;
    o.a[3 * k + 4] = f16::NAN;
    o.a[5 * k + 9] = f16::from_bits(1); // 2^-24
    o.a[6 * k] = f16::INFINITY;
    o.a[6 * k + 1] = f16::NEG_INFINITY;
    o.a[7 * k + 2] = f16::MAX;
    o.b[2 * 8 + 1] = f16::MAX;
    for (i, row) in product(k, Sum::F32, false, &o).chunks(8).enumerate() {
        for (j, v) in row.iter().enumerate() {
            match i {
                2 => assert_eq!(*v, f32::INFINITY),
                3 | 6 => assert!(v.is_nan(), "row {i}: {v}"),
                5 => assert_eq!(*v, 0.25 + 2f32.powi(-24)),
                7 => assert_eq!(
                    *v,
                    if j == 1 {
                        65_504f32 * 65_504.0
                    } else {
                        65_504.25
                    }
                ),
                _ => assert_eq!(*v, 0.25),
            }
        }
    }
    // An f16 sum overflows to infinity.
    for (i, row) in product(k, Sum::F16, false, &o).chunks(8).enumerate() {
        assert_eq!(
            row[1].is_infinite(),
            i == 2 || i == 7,
            "row {i}: {}",
            row[1]
        );
    }
}

/// Operands may be the registers of the result, and an `mma` reads them all before it writes any.
#[test]
fn sums_in_place() {
    let text = kernel(
        ".reg .b32 %a<4>, %b<2>;\n .reg .f32 %c<4>;
    mov.b32 %a0, 0x3c003c00;
    mov.b32 %a1, 0x3c003c00;
    mov.b32 %a2, 0x3c003c00;
    mov.b32 %a3, 0x3c003c00;
    mov.b32 %b0, 0x40004000;             // 2
    mov.b32 %b1, 0x40004000;
    mov.f32 %c0, 0f3F800000;
    mov.f32 %c1, 0f3F800000;
    mov.f32 %c2, 0f3F800000;
    mov.f32 %c3, 0f3F800000;
    mov.u32 %r1, 0;
MORE:
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%c0, %c1, %c2, %c3}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1, %c2, %c3};
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p, %r1, 5;
    @%p bra MORE;
    add.f32 %c0, %c0, %c1;
    add.f32 %c2, %c2, %c3;
    add.f32 %c0, %c0, %c2;
    st.global.f32 [%out4], %c0;",
    );
    let buffers = everywhere(&text, shape(1, 64), &[Arg::zeros(4), Arg::zeros(256)]);
    assert_eq!(floats(&buffers[1]), vec![4.0 * 161.0; 64]);
}
