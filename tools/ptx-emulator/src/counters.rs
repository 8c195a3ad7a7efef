//! What a launch did, counted.

/// Counts of one launch. They are exact and the same on every machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The kernel.
    pub entry: String,
    /// Instructions times threads.
    pub instructions: u64,
    /// Instructions issued by warps; fewer threads than 32 at a time count as much as 32.
    pub warp_instructions: u64,
    /// Multiply-adds of matrix instructions.
    pub matrix_multiply_adds: u64,
    /// Bytes that threads asked for, in global memory.
    pub global_bytes_read: u64,
    /// Bytes that threads wrote to global memory.
    pub global_bytes_written: u64,
    /// Bytes read from shared memory.
    pub shared_bytes_read: u64,
    /// Bytes written to shared memory.
    pub shared_bytes_written: u64,
    /// Loads, stores, copies and atomics of warps in global memory (only if counted).
    pub global_requests: u64,
    /// Sectors of 32 bytes that these touched (only if counted).
    pub global_sectors: u64,
    /// Accesses of warps to shared memory (only if counted).
    pub shared_requests: u64,
    /// Passes that these need: one without bank conflicts for up to 128 bytes (only if counted).
    pub shared_wavefronts: u64,
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Counters) {
        self.instructions += other.instructions;
        self.warp_instructions += other.warp_instructions;
        self.matrix_multiply_adds += other.matrix_multiply_adds;
        self.global_bytes_read += other.global_bytes_read;
        self.global_bytes_written += other.global_bytes_written;
        self.shared_bytes_read += other.shared_bytes_read;
        self.shared_bytes_written += other.shared_bytes_written;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.shared_requests += other.shared_requests;
        self.shared_wavefronts += other.shared_wavefronts;
    }

    /// All counts with their names.
    pub fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("instructions", self.instructions),
            ("warp_instructions", self.warp_instructions),
            ("matrix_multiply_adds", self.matrix_multiply_adds),
            ("global_bytes_read", self.global_bytes_read),
            ("global_bytes_written", self.global_bytes_written),
            ("shared_bytes_read", self.shared_bytes_read),
            ("shared_bytes_written", self.shared_bytes_written),
            ("global_requests", self.global_requests),
            ("global_sectors", self.global_sectors),
            ("shared_requests", self.shared_requests),
            ("shared_wavefronts", self.shared_wavefronts),
        ]
    }

    /// A global request: sectors of 32 bytes among the accessed ranges.
    pub(crate) fn global_request(&mut self, addresses: impl Iterator<Item = u64>, bytes: u64) {
        let mut sectors: Vec<u64> = addresses
            .flat_map(|a| a / 32..=(a + bytes - 1) / 32)
            .collect();
        sectors.sort_unstable();
        sectors.dedup();
        self.global_requests += 1;
        self.global_sectors += sectors.len() as u64;
    }

    /// A shared request. Lanes are served in groups that ask for 128 bytes together (all 32 with 4 bytes each, 8 with 16
    /// bytes); within a group, a bank gives one word of 4 bytes per pass, to all that want it.
    pub(crate) fn shared_request(&mut self, offsets: &[u64], bytes: u64) {
        let per_group = (128 / bytes.max(4)) as usize;
        self.shared_requests += 1;
        for group in offsets.chunks(per_group) {
            let mut words: Vec<u64> = group
                .iter()
                .flat_map(|&o| o / 4..=(o + bytes - 1) / 4)
                .collect();
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; 32];
            for word in words {
                banks[(word % 32) as usize] += 1;
            }
            self.shared_wavefronts += banks.into_iter().max().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bank_conflicts_and_sectors() {
        let mut c = Counters::default();
        c.shared_request(&(0..32).map(|l| 4 * l).collect::<Vec<_>>(), 4);
        assert_eq!(c.shared_wavefronts, 1);
        c.shared_request(&(0..32).map(|l| 8 * l).collect::<Vec<_>>(), 4);
        assert_eq!(c.shared_wavefronts, 1 + 2); // stride 2: two words per bank
        c.shared_request(&[64; 32], 4);
        assert_eq!(c.shared_wavefronts, 1 + 2 + 1); // one word for all
        c.shared_request(&(0..32).map(|l| 16 * l).collect::<Vec<_>>(), 16);
        assert_eq!(c.shared_wavefronts, 1 + 2 + 1 + 4); // 512 bytes in 4 passes
        c.global_request((0..32).map(|l| 4 * l), 4);
        assert_eq!((c.global_requests, c.global_sectors), (1, 4));
        c.global_request((0..32).map(|l| 128 * l), 4);
        assert_eq!(c.global_sectors, 4 + 32);
    }
}
