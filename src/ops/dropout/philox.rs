//! Philox4x32-10 (Salmon and others, *Parallel random numbers: as easy as 1, 2, 3*, 2011): four random words of a counter
//! and a key, with nothing kept in between.
//!
//! Twins: `kernels/_philox.ptx`, `shaders/_philox.wgsl`. All arithmetic is on integers, so that devices agree in every bit.

/// Rounds.
const ROUNDS: usize = 10;

/// What the first and the third word of the counter are multiplied by.
const FACTORS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// What is added to the words of the key between rounds: the golden ratio, and the square root of 3 less 1.
const STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Counters that differ in their first word only, and are worked on together: as many as a vector of 512 bits has products.
pub(in crate::ops) const LANES: usize = 8;

/// The words of [`LANES`] counters `[first + lane, rest[0], rest[1], rest[2]]`: word `w` of lane `i` is `[w][i]`.
#[inline(always)]
fn lanes(key: [u32; 2], first: u32, rest: [u32; 3]) -> [[u32; LANES]; 4] {
    let [mut k0, mut k1] = key;
    let mut c0: [u32; LANES] = std::array::from_fn(|i| first.wrapping_add(i as u32));
    let [mut c1, mut c2, mut c3] = rest.map(|word| [word; LANES]);
    for _ in 0..ROUNDS {
        for i in 0..LANES {
            let a = u64::from(FACTORS[0]) * u64::from(c0[i]);
            let b = u64::from(FACTORS[1]) * u64::from(c2[i]);
            c0[i] = (b >> 32) as u32 ^ c1[i] ^ k0;
            c1[i] = b as u32;
            c2[i] = (a >> 32) as u32 ^ c3[i] ^ k1;
            c3[i] = a as u32;
        }
        k0 = k0.wrapping_add(STEPS[0]);
        k1 = k1.wrapping_add(STEPS[1]);
    }
    [c0, c1, c2, c3]
}

/// The words of counters `[0, ..rest]`, `[1, ..rest]` and so on, one behind the other; `words` is a multiple of
/// `4 * LANES` long.
#[inline(always)]
pub(in crate::ops) fn fill(key: [u32; 2], rest: [u32; 3], words: &mut [u32]) {
    for (chunk, words) in words.chunks_exact_mut(4 * LANES).enumerate() {
        let drawn = lanes(key, (chunk * LANES) as u32, rest);
        for (i, four) in words.chunks_exact_mut(4).enumerate() {
            for (w, word) in four.iter_mut().enumerate() {
                *word = drawn[w][i];
            }
        }
    }
}

/// The four words of one counter.
pub(in crate::ops) fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [first, rest @ ..] = counter;
    lanes(key, first, rest).map(|word| word[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_published_words() {
        // Known answers of the authors' library (Random123, `kat_vectors`).
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let known = [
            (
                [0; 2],
                [0; 4],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 2],
                [u32::MAX; 4],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0xa409_3822, 0x299f_31d0],
                pi,
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (key, counter, words) in known {
            assert_eq!(philox(key, counter), words);
        }
    }

    #[test]
    fn rows_of_words_are_those_of_their_counters() {
        let (key, rest) = ([7, 9], [3, 5, 11]);
        let mut words = vec![0; 8 * LANES];
        fill(key, rest, &mut words);
        for (i, four) in words.chunks_exact(4).enumerate() {
            assert_eq!(four, philox(key, [i as u32, rest[0], rest[1], rest[2]]));
        }
    }
}
