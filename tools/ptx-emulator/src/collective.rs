//! What the lanes of a warp do together: shuffles, votes, matrix loads and matrix multiplication.
//!
//! The layouts of fragments are those of the PTX ISA, "Warp-level matrix instructions": lane `l` is in group `l / 4` at
//! position `l % 4`.

use std::cell::Cell;

use crate::code::*;
use crate::execute::State;
use crate::report::Kind;
use crate::scalar::Round;
use crate::scalar::{NAN32, to_f16};
use crate::warp::{Registers, Result, Warp, fault, lanes};

impl Collective {
    /// The register that names the lanes that take part; `None`: all 32.
    pub fn members(&self) -> Option<Reg> {
        match *self {
            Collective::Shfl { members, .. }
            | Collective::Vote { members, .. }
            | Collective::Match { members, .. }
            | Collective::Redux { members, .. }
            | Collective::WarpBarrier { members } => Some(members),
            Collective::LdMatrix { .. }
            | Collective::StMatrix { .. }
            | Collective::Mma { .. }
            | Collective::Barrier { .. } => None,
        }
    }
}

/// Executes a collective for the lanes of `mask`, who are all that it names.
pub(crate) fn collective<'a>(
    state: &mut State<'a>,
    warp: &Warp<'a>,
    mask: u32,
    c: &Collective,
    pc: u32,
) -> Result<()> {
    let r = &warp.registers;
    match *c {
        Collective::Shfl {
            mode,
            result,
            inside,
            value,
            select,
            clamp,
            ..
        } => {
            let (values, select, clamp) = (
                r.w.read(mask, value)?,
                r.w.read(mask, select)?,
                r.w.read(mask, clamp)?,
            );
            let values: [u32; 32] = std::array::from_fn(|lane| values[lane].get());
            let mut in_range = 0;
            for lane in lanes(mask) {
                let (source, within) =
                    shuffled(mode, lane as u32, select[lane].get(), clamp[lane].get());
                if mask >> source & 1 == 0 {
                    return fault(
                        Kind::Undefined,
                        lane as u32,
                        format!("shuffles from lane {source}, which takes no part"),
                    );
                }
                in_range |= u32::from(within) << lane;
                r.put(lane, Any::W(result), values[source as usize].into());
            }
            if let Some(p) = inside {
                r.set(mask, p, in_range);
            }
        }
        Collective::Vote {
            mode,
            result,
            input,
            ..
        } => {
            let holds = r.holds(mask, input)?;
            let answer = match mode {
                VoteMode::Ballot => {
                    for lane in lanes(mask) {
                        r.put(lane, Any::W(result), holds.into());
                    }
                    return Ok(());
                }
                VoteMode::All => holds == mask,
                VoteMode::Any => holds != 0,
                VoteMode::Uni => holds == mask || holds == 0,
            };
            r.set(mask, result, if answer { mask } else { 0 });
        }
        Collective::Match {
            all,
            result,
            pred,
            value,
            ..
        } => {
            r.check(mask, value)?;
            let same = |lane| {
                lanes(mask)
                    .filter(|&other| r.get(other, value) == r.get(lane, value))
                    .fold(0u32, |m, other| m | 1 << other)
            };
            let masks: Vec<_> = lanes(mask).map(|lane| (lane, same(lane))).collect();
            for (lane, found) in masks {
                let found = if all && found != mask { 0 } else { found };
                r.put(lane, Any::W(result), found.into());
                if let Some(p) = pred {
                    r.set(1 << lane, p, if found != 0 { 1 << lane } else { 0 });
                }
            }
        }
        Collective::Redux {
            op,
            signed,
            result,
            value,
            ..
        } => {
            let row = r.w.read(mask, value)?;
            let all = lanes(mask)
                .map(|lane| row[lane].get())
                .reduce(|a, b| match op {
                    AtomOp::Add => a.wrapping_add(b),
                    AtomOp::Min if signed => (a as i32).min(b as i32) as u32,
                    AtomOp::Max if signed => (a as i32).max(b as i32) as u32,
                    AtomOp::Min => a.min(b),
                    AtomOp::Max => a.max(b),
                    AtomOp::And => a & b,
                    AtomOp::Or => a | b,
                    _ => a ^ b,
                });
            for lane in lanes(mask) {
                r.put(lane, Any::W(result), all.unwrap_or(0).into());
            }
        }
        Collective::WarpBarrier { .. } => state.warp_barrier(warp.index),
        Collective::LdMatrix {
            count,
            transposed,
            regs,
            address,
        } => {
            // Lanes 8i to 8i + 7 name the rows of matrix i.
            let rows = (1u64 << (8 * count)) as u32;
            let rows = rows.wrapping_sub(1);
            let mut addresses = [0; 32];
            r.addresses(rows, address, &mut addresses)?;
            state.count_rows(rows, &addresses, false);
            let mut matrix = [[0u16; 8]; 8];
            for (i, reg) in regs[..usize::from(count)].iter().enumerate() {
                for (row, values) in matrix.iter_mut().enumerate() {
                    let lane = 8 * i + row;
                    let words = state.read_row(addresses[lane], warp.thread(lane as u32), pc)?;
                    *values = std::array::from_fn(|c| (words[c / 2] >> (16 * (c % 2))) as u16);
                }
                for lane in 0..32 {
                    // Row lane / 4, columns 2 (lane % 4) and the next; of the transpose likewise.
                    let (at, from) = (lane / 4, 2 * (lane % 4));
                    let (low, high) = if transposed {
                        (matrix[from][at], matrix[from + 1][at])
                    } else {
                        (matrix[at][from], matrix[at][from + 1])
                    };
                    r.put(lane, Any::W(*reg), u64::from(high) << 16 | u64::from(low));
                }
            }
        }
        Collective::StMatrix {
            count,
            transposed,
            regs,
            address,
        } => {
            let rows = (1u64 << (8 * count)) as u32;
            let rows = rows.wrapping_sub(1);
            let mut addresses = [0; 32];
            r.addresses(rows, address, &mut addresses)?;
            state.count_rows(rows, &addresses, true);
            for (i, reg) in regs[..usize::from(count)].iter().enumerate() {
                let row = r.w.read(u32::MAX, *reg)?;
                let mut matrix = [[0u16; 8]; 8];
                for (lane, value) in row.iter().enumerate() {
                    let (at, from) = (lane / 4, 2 * (lane % 4));
                    let value = value.get();
                    let (low, high) = (value as u16, (value >> 16) as u16);
                    if transposed {
                        (matrix[from][at], matrix[from + 1][at]) = (low, high);
                    } else {
                        (matrix[at][from], matrix[at][from + 1]) = (low, high);
                    }
                }
                for (row, values) in matrix.iter().enumerate() {
                    let lane = 8 * i + row;
                    let words = std::array::from_fn(|c| {
                        u32::from(values[2 * c + 1]) << 16 | u32::from(values[2 * c])
                    });
                    state.write_row(addresses[lane], words, warp.thread(lane as u32), pc)?;
                }
            }
        }
        Collective::Mma {
            k,
            wide_c,
            wide_d,
            d,
            a,
            b,
            c,
        } => {
            state.counters.matrix_multiply_adds += 16 * 8 * u64::from(k);
            return multiply(r, k.into(), (wide_c, wide_d), d, a, b, c);
        }
        Collective::Barrier { .. } => unreachable!("left to the scheduler"),
    }
    Ok(())
}

/// The lane that a shuffle reads, and whether it was in range.
fn shuffled(mode: ShflMode, lane: u32, select: u32, clamp: u32) -> (u32, bool) {
    let (select, bound, segment) = (select & 31, clamp & 31, clamp >> 8 & 31);
    let max = lane & segment | bound & !segment;
    let min = lane & segment;
    let (source, within) = match mode {
        ShflMode::Up => {
            let source = lane.wrapping_sub(select);
            (source, source as i32 >= max as i32)
        }
        ShflMode::Down => (lane + select, lane + select <= max),
        ShflMode::Bfly => (lane ^ select, lane ^ select <= max),
        ShflMode::Idx => {
            let source = min | select & !segment;
            (source, source <= max)
        }
    };
    (if within { source } else { lane }, within)
}

/// f16 to f32 by moving the bits to their places and letting one multiplication put the exponent right: exact, for
/// subnormals too; infinities and NaN are those with the largest exponent.
#[inline(always)]
fn widened(bits: u32) -> f32 {
    let magnitude = (bits & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let finite = scaled.to_bits();
    let special = magnitude | 0x7f80_0000;
    let value = if bits & 0x7c00 == 0x7c00 {
        special
    } else {
        finite
    };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// `d = a b + c` for a 16 x k matrix `a` and a k x 8 matrix `b`, accumulated in f32 in the order of k.
///
/// The hardware sums several products at once and truncates; the ISA promises no order and no rounding. Ascending k
/// with one rounding per step is a legal result; products of f16 are exact in f32.
fn multiply(
    r: &Registers<'_>,
    k: usize,
    (wide_c, wide_d): (bool, bool),
    d: [Reg; 4],
    a: [Reg; 4],
    b: [Reg; 2],
    c: [Reg; 4],
) -> Result<()> {
    const ALL: u32 = u32::MAX;
    // Both halves of a register in all lanes.
    let pair = |row: &[Cell<u32>; 32]| -> ([f32; 32], [f32; 32]) {
        (
            std::array::from_fn(|lane| widened(row[lane].get() & 0xffff)),
            std::array::from_fn(|lane| widened(row[lane].get() >> 16)),
        )
    };
    // a: register i holds row (lane / 4) + 8 (i % 2), columns 2 (lane % 4) + 8 (i / 2) and the next.
    let mut left = [[0f32; 16]; 16];
    for (i, reg) in a[..k / 4].iter().enumerate() {
        let (low, high) = pair(r.w.read(ALL, *reg)?);
        for lane in 0..32 {
            let at = &mut left[lane / 4 + 8 * (i % 2)][2 * (lane % 4) + 8 * (i / 2)..];
            (at[0], at[1]) = (low[lane], high[lane]);
        }
    }
    // b: register i holds rows 2 (lane % 4) + 8 i and the next, column lane / 4.
    let mut right = [[0f32; 8]; 16];
    for (i, reg) in b[..k / 8].iter().enumerate() {
        let (low, high) = pair(r.w.read(ALL, *reg)?);
        for lane in 0..32 {
            let at = 2 * (lane % 4) + 8 * i;
            right[at][lane / 4] = low[lane];
            right[at + 1][lane / 4] = high[lane];
        }
    }
    // c and d: row (lane / 4) + 8 j, columns 2 (lane % 4) and the next; f32 in registers 2 j and 2 j + 1, f16 in one.
    let mut sum = [[0f32; 8]; 16];
    for j in 0..2 {
        if wide_c {
            let (first, second) = (r.w.read(ALL, c[2 * j])?, r.w.read(ALL, c[2 * j + 1])?);
            for lane in 0..32 {
                let at = &mut sum[lane / 4 + 8 * j][2 * (lane % 4)..];
                at[0] = f32::from_bits(first[lane].get());
                at[1] = f32::from_bits(second[lane].get());
            }
        } else {
            let (low, high) = pair(r.w.read(ALL, c[j])?);
            for lane in 0..32 {
                let at = &mut sum[lane / 4 + 8 * j][2 * (lane % 4)..];
                (at[0], at[1]) = (low[lane], high[lane]);
            }
        }
    }
    for (sums, left) in sum.iter_mut().zip(&left) {
        for (a, right) in left[..k].iter().zip(&right) {
            for (s, b) in sums.iter_mut().zip(right) {
                *s += a * b;
            }
        }
    }
    let canonical = |v: f32| if v.is_nan() { NAN32 } else { v.to_bits() };
    for j in 0..2 {
        let value = |lane: usize, i: usize| sum[lane / 4 + 8 * j][2 * (lane % 4) + i];
        if wide_d {
            for i in 0..2 {
                if d[2 * j + i] != SINK {
                    let row = r.w.write(ALL, d[2 * j + i]);
                    for (lane, out) in row.iter().enumerate() {
                        out.set(canonical(value(lane, i)));
                    }
                }
            }
        } else {
            for lane in 0..32 {
                let half = |i| to_f16(value(lane, i).into(), Round::Nearest);
                r.put(lane, Any::W(d[j]), u64::from(half(1) << 16 | half(0)));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let value = widened(bits.into());
            assert!(
                value == expected && value.is_sign_positive() == expected.is_sign_positive()
                    || value.is_nan() && expected.is_nan(),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn shuffles_stay_in_their_segment() {
        // Segments of 8: the mask of upper lane bits is 0b11000.
        let clamp = 0x1800 | 7;
        assert_eq!(shuffled(ShflMode::Down, 6, 1, clamp), (7, true));
        assert_eq!(shuffled(ShflMode::Down, 7, 1, clamp), (7, false));
        assert_eq!(shuffled(ShflMode::Idx, 13, 2, clamp), (10, true));
        assert_eq!(shuffled(ShflMode::Up, 9, 1, 0x1800), (8, true));
        assert_eq!(shuffled(ShflMode::Up, 8, 1, 0x1800), (8, false));
        assert_eq!(shuffled(ShflMode::Bfly, 3, 16, 31), (19, true));
    }
}
