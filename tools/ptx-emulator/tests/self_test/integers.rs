use crate::common::Arg;
use crate::{Random, SelfTest, Want, over};

const TEXT: &str = include_str!("integers.ptx");

const SPECIAL: [u32; 12] = [
    0,
    1,
    2,
    31,
    32,
    33,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0x5555_5555,
    0xffff,
];

#[test]
fn integers() {
    let mut random = Random(1);
    let n = 1500;
    let items: Vec<[u32; 4]> = (0..n)
        .map(|i| {
            let mut word = || {
                if i % 3 == 0 {
                    random.of(&SPECIAL)
                } else {
                    random.word()
                }
            };
            let [a, b, c, d] = [word(), word(), word(), word()];
            // A shift, often beyond the width.
            [a, b, c, if i % 2 == 0 { d % 40 } else { d }]
        })
        .collect();
    let wanted = items
        .iter()
        .flat_map(|item| answers(*item))
        .map(Want::Bits)
        .collect();
    let input = items.iter().flatten().copied();
    SelfTest {
        text: TEXT,
        entry: "integers",
        shape: over(n),
        args: vec![Arg::words(input), Arg::zeros(160 * n), Arg::U32(n as u32)],
        wanted: vec![(1, wanted)],
        per_item: 40,
    }
    .check();
}

fn answers([a, b, c, d]: [u32; 4]) -> [u32; 40] {
    let (sa, sb, sc) = (a as i32, b as i32, c as i32);
    let divisor = b & 0x7fff_ffff | 1;
    let position = d & 31;
    let (unsigned, signed) = (u64::from(a) * u64::from(b), i64::from(sa) * i64::from(sb));
    let pair = u64::from(b) << 32 | u64::from(a);
    let bytes = pair.to_le_bytes();
    let permuted = |i: u32| {
        let select = c >> (4 * i) & 15;
        let byte = bytes[select as usize & 7];
        if select & 8 == 0 {
            byte
        } else if byte & 0x80 != 0 {
            0xff
        } else {
            0
        }
    };
    let field = (u64::from(a) >> position) as u32 & 0x1ff;
    let signed_field = (i64::from(sa) >> position << 55 >> 55) as u32;
    let inserted = {
        let mask = 0x7fu64 << position;
        (u64::from(b) & !mask | u64::from(a) << position & mask) as u32
    };
    let less = sa < sb;
    let low = |v: u32| v as u16;
    let high = |v: u32| (v >> 16) as u16;
    [
        a.wrapping_add(b),
        a.wrapping_sub(b),
        a.wrapping_mul(b),
        (unsigned >> 32) as u32,
        (signed >> 32) as u32,
        a.wrapping_mul(b).wrapping_add(c),
        ((signed >> 32) as u32).wrapping_add(c),
        sa.saturating_add(sb) as u32,
        sa.saturating_sub(sb) as u32,
        a / divisor,
        (sa / divisor as i32) as u32,
        a % divisor,
        (sa % divisor as i32) as u32,
        a.min(b),
        sa.max(sb) as u32,
        sa.wrapping_abs() as u32,
        sa.wrapping_neg() as u32,
        a & b,
        a | b,
        a ^ b,
        u32::from(a == 0),
        if d < 32 { a << d } else { 0 },
        if d < 32 { a >> d } else { 0 },
        (sa >> d.min(31)) as u32,
        a ^ b ^ c,
        a & b | !a & c,
        field,
        signed_field,
        inserted,
        a.reverse_bits(),
        a.count_ones(),
        a.leading_zeros(),
        if a == 0 { u32::MAX } else { a.ilog2() },
        u32::from_le_bytes(std::array::from_fn(|i| permuted(i as u32))),
        (pair << (d & 31) >> 32) as u32,
        if d >= 32 { b } else { (pair >> d) as u32 },
        (if less && c != d { a } else { c }).wrapping_add(if less { 0 } else { 5 }),
        if sa >= sc { u32::MAX } else { 0 },
        (i32::from(low(a) as i16) * i32::from(high(b) as i16)) as u32,
        u32::from((high(a) as i16).min(high(b) as i16) as u16) << 16
            | u32::from(low(a).wrapping_add(low(b))),
    ]
}

#[test]
fn wide_integers() {
    let mut random = Random(2);
    let n = 1000;
    let items: Vec<[u64; 2]> = (0..n)
        .map(|i| {
            let mut long = || match i % 3 {
                0 => u64::from(random.of(&SPECIAL)) << 32 | u64::from(random.of(&SPECIAL)),
                _ => random.long(),
            };
            [long(), long()]
        })
        .collect();
    let wanted = items
        .iter()
        .flat_map(|item| wide_answers(*item))
        .flat_map(Want::long)
        .collect();
    SelfTest {
        text: TEXT,
        entry: "wide",
        shape: over(n),
        args: vec![
            Arg::Data(
                items
                    .iter()
                    .flatten()
                    .flat_map(|v| v.to_le_bytes())
                    .collect(),
            ),
            Arg::zeros(160 * n),
            Arg::U32(n as u32),
        ],
        wanted: vec![(1, wanted)],
        per_item: 40,
    }
    .check();
}

fn wide_answers([a, b]: [u64; 2]) -> [u64; 20] {
    let (sa, sb) = (a as i64, b as i64);
    let divisor = b >> 20 | 1;
    let t = b as u32 & 63;
    let (low_a, low_b) = (a as u32, b as u32);
    let mask = (0x1_ffffu128 << t) as u64;
    [
        a.wrapping_add(b),
        a.wrapping_sub(b),
        a.wrapping_mul(b),
        ((u128::from(a) * u128::from(b)) >> 64) as u64,
        ((i128::from(sa) * i128::from(sb)) >> 64) as u64,
        u64::from(low_a) * u64::from(low_b),
        (i64::from(low_a as i32) * i64::from(low_b as i32)).wrapping_add(sa) as u64,
        a / divisor,
        (sa % divisor as i64) as u64,
        a.min(b),
        sa.max(sb) as u64,
        a << t,
        (sa >> t) as u64,
        u64::from(b.leading_zeros()) << 32 | u64::from(a.count_ones()),
        a.reverse_bits(),
        a >> t & 0x1fff,
        a & !mask | b << t & mask,
        a ^ b,
        a.min(b),
        sa.wrapping_abs() as u64,
    ]
}
