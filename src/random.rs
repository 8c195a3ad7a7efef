//! Random numbers that depend on a name and a position alone: SplitMix64 streams (Steele, Lea and Flood, 2014).

/// The increment of SplitMix64: 2^64 divided by the golden ratio, rounded to an odd number.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64 (variant 13 of Stafford's mixers).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Random numbers with a position: number `i` is `mix(key + i * GOLDEN)`, counted from 1.
pub(crate) struct Stream {
    key: u64,
    drawn: u64,
}

impl Stream {
    /// The stream of `seed` that belongs to a purpose and a number; different purposes give unrelated streams.
    pub(crate) fn new(seed: u64, purpose: &[&str], number: u64) -> Self {
        let mut key = mix(seed.wrapping_add(GOLDEN));
        for word in purpose {
            for byte in word.bytes() {
                key = mix(key.wrapping_add(GOLDEN) ^ u64::from(byte));
            }
            // A word's end counts too: ("ab", "c") is not ("a", "bc").
            key = mix(key.wrapping_add(GOLDEN) ^ 0x100);
        }
        Self {
            key: mix(key.wrapping_add(GOLDEN) ^ number),
            drawn: 0,
        }
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.key.wrapping_add(self.drawn.wrapping_mul(GOLDEN)))
    }

    /// A number below `n` (0 if `n` is 0): the high half of a 128-bit product, whose bias is at most `n / 2^64`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// A number from 0 to below 1, a multiple of 2^-53.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * 2f64.powi(-53)
    }

    /// A number of the standard normal distribution (Box and Muller, 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        // Of the two uniform numbers the first is above 0.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Fisher and Yates' shuffle.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_published_splitmix64() {
        // First outputs of the public-domain C program for state 1234567.
        let mut stream = Stream {
            key: 1_234_567,
            drawn: 0,
        };
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!(expected, [stream.bits(), stream.bits(), stream.bits()]);
    }

    #[test]
    fn streams_differ_in_every_part_of_their_name() {
        let first = |seed, purpose: &[&str], number| Stream::new(seed, purpose, number).bits();
        let names = [
            first(1, &["ab", "c"], 0),
            first(1, &["a", "bc"], 0),
            first(1, &["ab"], 0),
            first(2, &["ab", "c"], 0),
            first(1, &["ab", "c"], 1),
        ];
        let distinct: std::collections::HashSet<_> = names.into_iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn normal_numbers_have_the_moments_of_their_distribution() {
        let mut stream = Stream::new(3, &["normal"], 0);
        let n = 40_000;
        let drawn: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let moment = |power| drawn.iter().map(|x| x.powi(power)).sum::<f64>() / f64::from(n);
        // Six standard deviations of the sample moments: 1, 2 and 96 over n.
        let within = |got: f64, want: f64, variance: f64| {
            assert!((got - want).abs() < 6.0 * (variance / f64::from(n)).sqrt());
        };
        within(moment(1), 0.0, 1.0);
        within(moment(2), 1.0, 2.0);
        within(moment(4), 3.0, 96.0);
    }

    #[test]
    fn below_is_uniform_and_shuffle_reaches_every_order() {
        let mut stream = Stream::new(7, &["test"], 0);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[stream.below(6)] += 1;
        }
        // Standard deviation sqrt(60000 * 1/6 * 5/6) = 91; six of them.
        assert!(
            counts.iter().all(|&c| c.abs_diff(10_000) < 548),
            "{counts:?}"
        );
        let mut orders = std::collections::HashSet::new();
        for _ in 0..200 {
            let mut items = [0, 1, 2];
            stream.shuffle(&mut items);
            orders.insert(items);
        }
        assert_eq!(orders.len(), 6);
    }
}
