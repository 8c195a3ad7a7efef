use crate::common::Arg;
use crate::exact::{half, half_towards_zero};
use crate::{Random, SelfTest, Want, over};

#[test]
fn conversions() {
    const FLOATS: [f32; 24] = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        254.5,
        255.5,
        65_504.0,
        65_519.996,
        65_520.0,
        65_535.9,
        2_147_483_520.0,
        2_147_483_648.0,
        -2_147_483_648.0,
        4_294_967_040.0,
        1e30,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        5.960_464_5e-8,
        2.980_232_2e-8,
    ];
    const LONGS: [u64; 8] = [
        0,
        1,
        u64::MAX,
        1 << 63,
        (1 << 63) - 1,
        (1 << 40) + (1 << 16),
        (1 << 40) + (1 << 16) + 1,
        0xffff_ffff,
    ];
    let mut random = Random(6);
    let n = 3000;
    let items: Vec<(f32, u32, u64)> = (0..n)
        .map(|i| {
            let float = match i % 3 {
                0 => random.of(&FLOATS),
                1 => f32::from_bits(random.word()),
                // Around the sizes where integers and f16 end.
                _ => {
                    ((random.unit() * 64.0 - 30.0).exp2()
                        * if random.word() & 1 == 0 { 1.0 } else { -1.0 })
                        as f32
                }
            };
            let word = random.word() >> (random.word() % 32);
            let long = if i % 2 == 0 {
                random.of(&LONGS)
            } else {
                random.long() >> (random.word() % 60)
            };
            (
                float,
                if i % 5 == 0 {
                    word.wrapping_neg()
                } else {
                    word
                },
                long,
            )
        })
        .collect();
    let wanted = items.iter().flat_map(|item| answers(*item)).collect();
    let input = items
        .iter()
        .flat_map(|(f, k, l)| [f.to_bits(), *k, *l as u32, (*l >> 32) as u32]);
    SelfTest {
        text: include_str!("conversions.ptx"),
        entry: "conversions",
        shape: over(n),
        args: vec![Arg::words(input), Arg::zeros(112 * n), Arg::U32(n as u32)],
        wanted: vec![(1, wanted)],
        per_item: 28,
    }
    .check();
}

fn answers((f, k, l): (f32, u32, u64)) -> Vec<Want> {
    // Casts of Rust round towards zero, clamp, and make zero of NaN.
    let wide = f64::from(f);
    let signed = |v: f64| Want::Bits(v as i32 as u32);
    let narrow = half(wide);
    let back = half::f16::from_bits(narrow).to_f32();
    let d = f64::from_bits(l);
    let saturated = if f.is_nan() {
        0.0
    } else {
        wide.clamp(0.0, 1.0)
    };
    // Towards zero: an integer of 32 bits is exact in f64.
    let towards_zero = {
        let near = k as f32;
        if f64::from(near) > f64::from(k) {
            near.next_down()
        } else {
            near
        }
    };
    let parts = l.to_le_bytes();
    let part = |i: usize| u32::from(u16::from_le_bytes([parts[2 * i], parts[2 * i + 1]]));
    let mut all = vec![
        signed(wide.round_ties_even()),
        signed(wide),
        signed(wide.floor()),
        signed(wide.ceil()),
        Want::Bits(f as u32),
        Want::Bits(u32::from(wide.round_ties_even() as u8)),
    ];
    // The ISA makes the top bit alone of a NaN, where 64 bits take part.
    all.extend(Want::long(if f.is_nan() {
        1 << 63
    } else {
        f as i64 as u64
    }));
    all.extend([
        Want::Halves(narrow, half_towards_zero(wide)),
        Want::Float(back),
        Want::Halves(half(back.into()), narrow),
        Want::Float(f.round_ties_even()),
    ]);
    all.extend(Want::double(wide));
    all.extend([
        Want::Float(d as f32),
        Want::Near(saturated, 0.0), // either zero
        Want::Float(k as i32 as f32),
        Want::Float(k as f32),
        Want::Float(towards_zero),
        Want::Float(l as f32),
        Want::Float(l as i64 as f32),
        Want::Halves(half(f64::from(k as i32)), half(f64::from(k))),
        Want::Bits(i32::from(k as i8) as u32),
        Want::Bits(u32::from(k as u16)),
        // A narrow result is extended to its register.
        Want::Bits((k as i32).clamp(-32_768, 32_767) as u32),
        Want::Bits((l as i64).clamp(0, i64::from(u32::MAX)) as u32),
        Want::Bits(part(1) << 16 | part(3)),
        Want::Bits(part(0) << 16 | part(2)),
    ]);
    all
}
