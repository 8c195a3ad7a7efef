//! What a bench needs and nobody else: work recorded and replayed as a whole, the device's own clock, a launch that does
//! nothing, and the driver's compiler by itself.

use std::time::{Duration, Instant};

use super::{Backend, Device, Graph};
#[cfg(feature = "cuda")]
use super::{
    Call, Geometry, Kernel, Param,
    template::{Source, Variant},
};
use crate::error::{Error, Result};

/// A kernel that does nothing.
#[cfg(feature = "cuda")]
const NOTHING: Kernel = Kernel {
    entry: "nothing",
    params: &[Param::u32("unused")],
    ptx: Some(Source {
        file: "nothing.ptx",
        text: ".version 7.0\n.target sm_80\n.address_size 64\n\
               .visible .entry nothing(.param .u32 p_unused)\n{\n    ret;\n}\n",
    }),
    wgsl: None,
};

/// Recorded work, to be enqueued as often as one likes.
#[doc(hidden)]
pub struct Replay(Graph<(), ()>);

impl Replay {
    /// Enqueues the work once.
    ///
    /// # Errors
    /// What the device reports.
    pub fn launch(&mut self) -> Result<()> {
        self.0.launch()
    }
}

impl Device {
    /// Records what `work` enqueues, which is called twice; whatever memory it uses must outlive the recording.
    ///
    /// # Errors
    /// As for every recording: where `work` reads or waits, and on a device that does not record.
    #[doc(hidden)]
    pub fn replay(&self, work: impl Fn() -> Result<()>) -> Result<Replay> {
        self.record((), |()| work()).map(Replay)
    }

    /// How long the device is at what `work` enqueues: between two events on CUDA, by the host's clock elsewhere.
    ///
    /// # Errors
    /// What `work` or the device report.
    #[doc(hidden)]
    pub fn device_time(&self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        if let Backend::Cuda(cuda) = self.backend() {
            return cuda.time(work);
        }
        self.synchronize()?;
        let start = Instant::now();
        work()?;
        self.synchronize()?;
        Ok(start.elapsed())
    }

    /// Enqueues a kernel of one block that does nothing: what a launch costs by itself.
    ///
    /// # Errors
    /// What the device reports, and [`Error::Unsupported`] where kernels are not PTX.
    #[doc(hidden)]
    pub fn launch_nothing(&self) -> Result<()> {
        match self.backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => cuda.launch(&Call {
                kernel: &NOTHING,
                variant: Variant::new(),
                args: &[0u32.into()],
                geometry: Geometry {
                    grid: [1; 3],
                    threads: 32,
                    ..Geometry::default()
                },
            }),
            _ => Err(self.takes_no_ptx()),
        }
    }

    /// How long the driver takes to compile (or to find among what it compiled before) a PTX text.
    ///
    /// # Errors
    /// What the driver reports, and [`Error::Unsupported`] where kernels are not PTX.
    #[doc(hidden)]
    pub fn compile_time(&self, ptx: &str) -> Result<Duration> {
        match self.backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => cuda.compile_time(ptx),
            _ => {
                let _ = ptx;
                Err(self.takes_no_ptx())
            }
        }
    }

    fn takes_no_ptx(&self) -> Error {
        Error::Unsupported {
            op: "ptx",
            device: self.name(),
            why: "only CUDA devices run it".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cuda_runs_ptx_and_every_device_has_a_clock() {
        let cpu = Device::cpu();
        assert!(
            cpu.launch_nothing()
                .unwrap_err()
                .to_string()
                .contains("only CUDA")
        );
        assert!(
            cpu.compile_time("")
                .unwrap_err()
                .to_string()
                .contains("only CUDA")
        );
        let wait = Duration::from_millis(2);
        let slept = || {
            std::thread::sleep(wait);
            Ok(())
        };
        assert!(cpu.device_time(slept).unwrap() >= wait);
    }

    #[test]
    #[ignore = "needs a CUDA device"]
    fn nothing_is_launched_recorded_and_compiled() {
        let device = Device::cuda(0).unwrap();
        device.launch_nothing().unwrap();
        let mut replay = device.replay(|| device.launch_nothing()).unwrap();
        device.device_time(|| replay.launch()).unwrap();
        let text =
            ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry e()\n{\n    ret;\n}\n";
        assert!(device.compile_time(text).unwrap() > Duration::ZERO);
        let wrong = device.compile_time("nonsense").unwrap_err().to_string();
        assert!(!wrong.contains('\n'), "{wrong}");
    }
}
