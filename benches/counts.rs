//! What the PTX emulator counts in one call of a case: exact, and the same on every machine.
//!
//! Where the emulator poses as the CUDA driver and `PTX_EMULATOR_COUNTS` names a file, it appends a row per launch there.
//! Cases are not timed then; the rows that one call leaves are added up.

use std::path::PathBuf;

use nearmiss::device::Device;
use nearmiss::{Error, Result};
use serde::{Deserialize, Serialize};

/// Sums over the launches of one call; named as the emulator's columns.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Kernels launched.
    #[serde(default)]
    pub launches: u64,
    /// Instructions times threads.
    pub instructions: u64,
    /// Instructions issued by warps.
    pub warp_instructions: u64,
    /// Multiply-adds of matrix instructions.
    pub matrix_multiply_adds: u64,
    /// Bytes that threads read from global memory.
    pub global_bytes_read: u64,
    /// Bytes that they wrote to it.
    pub global_bytes_written: u64,
    /// Sectors of 32 bytes that these requests touched.
    pub global_sectors: u64,
    /// Bytes that threads read from shared memory.
    pub shared_bytes_read: u64,
    /// Bytes that they wrote to it.
    pub shared_bytes_written: u64,
    /// Passes over the banks of shared memory.
    pub shared_wavefronts: u64,
}

impl Counts {
    fn add(&mut self, launch: &Counts) {
        self.launches += 1;
        self.instructions += launch.instructions;
        self.warp_instructions += launch.warp_instructions;
        self.matrix_multiply_adds += launch.matrix_multiply_adds;
        self.global_bytes_read += launch.global_bytes_read;
        self.global_bytes_written += launch.global_bytes_written;
        self.global_sectors += launch.global_sectors;
        self.shared_bytes_read += launch.shared_bytes_read;
        self.shared_bytes_written += launch.shared_bytes_written;
        self.shared_wavefronts += launch.shared_wavefronts;
    }

    /// Bytes that threads asked of global memory.
    pub fn global_bytes(&self) -> u64 {
        self.global_bytes_read + self.global_bytes_written
    }

    /// Bytes that threads asked of shared memory.
    pub fn shared_bytes(&self) -> u64 {
        self.shared_bytes_read + self.shared_bytes_written
    }

    /// Bytes of the sectors touched over bytes asked for: 1 if every request takes whole sectors; less where lanes ask
    /// for the same bytes.
    pub fn sector_ratio(&self) -> f64 {
        32.0 * self.global_sectors as f64 / self.global_bytes() as f64
    }

    /// Passes over the banks of shared memory per 128 bytes moved: 1 if nothing conflicts and all lanes take part;
    /// `None` where shared memory is not used.
    pub fn wavefront_ratio(&self) -> Option<f64> {
        let bytes = self.shared_bytes();
        (bytes > 0).then(|| 128.0 * self.shared_wavefronts as f64 / bytes as f64)
    }
}

/// The file that the emulator appends to.
pub struct Counter {
    path: PathBuf,
}

impl Counter {
    /// If `device` is the emulator and was asked to count.
    pub fn of(device: &Device) -> Option<Self> {
        let path = std::env::var_os("PTX_EMULATOR_COUNTS").filter(|path| !path.is_empty())?;
        device.name().contains("PTX emulator").then(|| Counter {
            path: PathBuf::from(path),
        })
    }

    /// Launches counted so far.
    pub fn launches(&self) -> Result<usize> {
        Ok(self.rows()?.len())
    }

    /// The sum over all launches after the first `before`.
    pub fn since(&self, before: usize) -> Result<Counts> {
        let mut sum = Counts::default();
        for launch in &self.rows()?[before..] {
            sum.add(launch);
        }
        Ok(sum)
    }

    fn rows(&self) -> Result<Vec<Counts>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let wrong = |e| Error::Invalid(format!("{}: {e}", self.path.display()));
        let mut file = csv::Reader::from_path(&self.path).map_err(wrong)?;
        file.deserialize()
            .collect::<csv::Result<_>>()
            .map_err(wrong)
    }
}
