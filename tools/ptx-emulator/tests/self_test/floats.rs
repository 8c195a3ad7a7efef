use half::f16;

use crate::common::Arg;
use crate::exact::{Side, fused, half_fma, product, quotient, root, sum};
use crate::{Random, SelfTest, Want, over};

const TEXT: &str = include_str!("floats.ptx");

/// Zeros, subnormals, the ends of the range, infinities, NaN, and a few that make ties.
const SPECIAL: [u32; 20] = [
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x0080_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc1_2345,
    0x3f80_0000,
    0x3f80_0001,
    0x3380_0000, // 2^-24
    0xb380_0000,
    0x4b80_0000, // 2^24
    0x3f00_0000,
];

#[test]
fn floats() {
    let mut random = Random(3);
    let n = 3000;
    let items: Vec<[f32; 3]> = (0..n)
        .map(|i| {
            let near = random.word() & 0x7f80_0000;
            let mut float = || {
                f32::from_bits(match i % 3 {
                    0 => random.of(&SPECIAL),
                    1 => random.word(),
                    // Of similar size, so that sums have something to round and to cancel.
                    _ => {
                        (near.wrapping_add((random.word() % 8) << 23) & 0x7f80_0000)
                            | random.word() & 0x807f_ffff
                    }
                })
            };
            [float(), float(), float()]
        })
        .collect();
    let wanted = items.iter().flat_map(|item| answers(*item)).collect();
    SelfTest {
        text: TEXT,
        entry: "floats",
        shape: over(n),
        args: vec![
            Arg::floats(items.into_iter().flatten()),
            Arg::zeros(112 * n),
            Arg::U32(n as u32),
        ],
        wanted: vec![(1, wanted)],
        per_item: 28,
    }
    .check();
}

fn flush(v: f32) -> f32 {
    if v.is_subnormal() {
        0f32.copysign(v)
    } else {
        v
    }
}

/// The number wins over a NaN, and -0 is below +0.
fn extreme(a: f32, b: f32, least: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a };
    }
    // `total_cmp` knows the order of zeros.
    if a.total_cmp(&b).is_lt() == least {
        a
    } else {
        b
    }
}

fn answers([a, b, c]: [f32; 3]) -> Vec<Want> {
    use Side::{Down, Up, Zero};
    let saturated = a * b;
    let mask = |holds: bool| Want::Bits(if holds { u32::MAX } else { 0 });
    let mut all: Vec<Want> = [
        a + b,
        a - b,
        a * b,
        a.mul_add(b, c),
        a / b,
        a.sqrt(),
        1.0 / a,
        extreme(a, b, true),
        extreme(a, b, false),
    ]
    .into_iter()
    .map(Want::Float)
    .collect();
    // A NaN passes with its sign changed, or with any other payload.
    all.extend([a.abs(), -a].map(Want::Float));
    all.push(Want::Float(flush(flush(a) + flush(b))));
    // Which zero becomes of minus zero is not said.
    all.push(Want::Near(
        if saturated.is_nan() {
            0.0
        } else {
            saturated.clamp(0.0, 1.0).into()
        },
        0.0,
    ));
    all.push(mask(a < b));
    all.push(mask(a.partial_cmp(&b).is_none_or(|order| order.is_ge())));
    all.extend(
        [
            sum(a, b, Zero),
            sum(a, b, Up),
            sum(a, b, Down),
            product(a, b, Zero),
            product(a, b, Up),
            product(a, b, Down),
            fused(a, b, c, Zero),
            fused(a, b, c, Up),
            fused(a, b, c, Down),
            quotient(a, b, Zero),
            quotient(a, b, Up),
            root(a, Zero),
            quotient(1.0, a, Down),
        ]
        .map(Want::Float),
    );
    all
}

#[test]
fn halves() {
    const SPECIAL: [u16; 16] = [
        0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x8400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00,
        0x3c00, 0x3c01, 0x1000, 0x9000,
    ];
    let mut random = Random(4);
    let n = 3000;
    let items: Vec<[u32; 3]> = (0..n)
        .map(|i| {
            let near = random.word() as u16 & 0x7c00;
            let mut half = || {
                u32::from(match i % 3 {
                    0 => random.of(&SPECIAL),
                    1 => random.word() as u16,
                    _ => {
                        (near.wrapping_add((random.word() % 4) as u16 * 0x400) & 0x7c00)
                            | random.word() as u16 & 0x83ff
                    }
                })
            };
            let mut pair = || half() << 16 | half();
            [pair(), pair(), pair()]
        })
        .collect();
    let wanted = items.iter().flat_map(|item| half_answers(*item)).collect();
    SelfTest {
        text: TEXT,
        entry: "halves",
        shape: over(n),
        args: vec![
            Arg::words(items.into_iter().flatten()),
            Arg::zeros(32 * n),
            Arg::U32(n as u32),
        ],
        wanted: vec![(1, wanted)],
        per_item: 8,
    }
    .check();
}

fn half_answers(words: [u32; 3]) -> [Want; 8] {
    let part =
        |word: u32, high: bool| f16::from_bits((if high { word >> 16 } else { word }) as u16);
    let both = |f: &dyn Fn(f16, f16, f16) -> u16| {
        let one = |high| {
            f(
                part(words[0], high),
                part(words[1], high),
                part(words[2], high),
            )
        };
        Want::Halves(one(false), one(true))
    };
    let one = f16::ONE;
    let least =
        |a: f16, b: f16, least| crate::exact::half(extreme(a.to_f32(), b.to_f32(), least).into());
    let (low_a, high_a) = (part(words[0], false), part(words[0], true));
    let (low_b, high_b) = (part(words[1], false), part(words[1], true));
    [
        both(&|a, b, _| half_fma(a, one, b)),
        both(&|a, b, _| half_fma(b, -one, a)),
        // Minus zero leaves the sign of a product of zero alone.
        both(&|a, b, _| {
            half_fma(
                a,
                b,
                f16::NEG_ZERO.copysign(f16::from_f32((a.to_f32() * b.to_f32()).signum())),
            )
        }),
        both(&half_fma),
        both(&|a, b, _| least(a, b, true)),
        both(&|a, b, _| least(a, b, false)),
        both(&|a, _, _| a.to_bits() ^ 0x8000),
        Want::Halves(
            half_fma(low_a, low_b, high_a),
            half_fma(high_a, one, high_b),
        ),
    ]
}

/// Unit in the last place of an f32 of this size.
fn ulp(v: f64) -> f64 {
    2f64.powi((v.abs().log2().floor() as i32).max(-126) - 23)
}

/// Errors as the PTX ISA documents them for each function.
#[test]
fn approximate_functions() {
    let mut random = Random(5);
    let n = 3000;
    let items: Vec<[f32; 3]> = (0..n)
        .map(|_| {
            // 2^-100 to 2^100; up to 16 in magnitude; within pi of zero, where the error of sine and cosine is
            // documented (an H200 exceeds it for some angles beyond).
            let wide = (random.unit() * 200.0 - 100.0).exp2() as f32;
            let moderate = (random.unit() * 32.0 - 16.0) as f32;
            let angle = ((random.unit() * 2.0 - 1.0) * std::f64::consts::PI) as f32;
            [wide, moderate, angle]
        })
        .collect();
    let relative = |v: f64, e: f64| Want::Near(v, v.abs() * e.exp2());
    let wanted = items
        .iter()
        .flat_map(|item| {
            let [a, b, c] = item.map(f64::from);
            let power = b.exp2();
            let power = Want::Near(power, (2.0 * ulp(power)).max(power * 2f64.powi(-22)));
            let log = a.log2();
            let near_one = (0.5..=2.0).contains(&a);
            [
                Want::Near(1.0 / a, ulp(1.0 / a)),
                Want::Near(1.0 / a, ulp(1.0 / a)),
                relative(a.sqrt(), -22.0),
                relative(1.0 / a.sqrt(), -22.9),
                Want::Near(log, 2f64.powi(-22) * if near_one { 1.0 } else { log.abs() }),
                power,
                power,
                Want::Near(b / c, 2.0 * ulp(b / c)),
                Want::Near(c.sin(), 2f64.powf(-20.5)),
                Want::Near(c.cos(), 2f64.powf(-20.5)),
                relative(b.tanh(), -11.0),
            ]
        })
        .collect();
    SelfTest {
        text: TEXT,
        entry: "functions",
        shape: over(n),
        args: vec![
            Arg::floats(items.into_iter().flatten()),
            Arg::zeros(44 * n),
            Arg::U32(n as u32),
        ],
        wanted: vec![(1, wanted)],
        per_item: 11,
    }
    .check();
}
