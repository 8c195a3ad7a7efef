//! Recorded work: what a function enqueues, kept as a graph that is enqueued again with one call.
//!
//! Small batches take a GPU less time than the host needs to launch their kernels one by one. [`Device::record`] turns
//! such a sequence of operators into a [`Graph`], which a device enqueues as a whole. Sizes and addresses are fixed in
//! it, so a graph owns all memory that it touches (except what its maker promises to keep, such as weights): inputs,
//! outputs and, in an [`Arena`], everything in between.
//!
//! Recording runs the function twice. The rehearsal is an ordinary run whose memory comes from the arena: whatever
//! cannot be part of a graph (compiling kernels, allocating) happens there. The capture repeats it on a stream that
//! executes nothing and finds each kernel compiled and each buffer in the arena. Other threads may use the device
//! meanwhile: both the arena and the capture belong to the recording thread alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::ThreadId;

use super::{Backend, Captured, Cost, Device, Storage};
use crate::error::{Error, Result};

/// Work that is enqueued as a whole: inputs `I`, outputs `O`, and what happens in between.
pub(crate) struct Graph<I, O> {
    // First, because the memory may go only after the work that uses it.
    work: Captured,
    inputs: I,
    outputs: O,
    ops: Vec<(&'static str, Cost)>,
    arena: Arc<Arena>,
}

impl<I, O> Graph<I, O> {
    /// What the work reads, to be written before a launch.
    pub fn inputs_mut(&mut self) -> &mut I {
        &mut self.inputs
    }

    /// What the work has written, once it was launched; the next launch overwrites it.
    pub fn outputs(&self) -> &O {
        &self.outputs
    }

    /// Bytes of device memory that the work takes besides its inputs.
    pub fn bytes(&self) -> u64 {
        self.arena.lock().bytes
    }

    /// Enqueues the work.
    ///
    /// # Errors
    /// What the device reports.
    pub fn launch(&mut self) -> Result<()> {
        let device = &self.arena.device;
        match device.backend() {
            Backend::Cuda(d) => d.replay(&mut self.work)?,
            _ => unreachable!("only CUDA devices record"),
        }
        let mut log = device.lock_log();
        for &(op, cost) in &self.ops {
            log.record(op, cost, None);
        }
        Ok(())
    }
}

/// Memory set apart from the device's allocator; it goes back when the last user is gone.
pub(super) struct Arena {
    device: Device,
    state: Mutex<ArenaState>,
}

struct ArenaState {
    free: HashMap<u64, Vec<Storage>>,
    /// Given back, and not to be used again before the rehearsal is over.
    retired: Vec<(u64, Storage)>,
    /// Whether what is given back is used again at once.
    reuse: bool,
    /// Whether the rehearsal is over and nothing may be added.
    sealed: bool,
    bytes: u64,
}

impl Arena {
    fn new(device: &Device) -> Self {
        Arena {
            device: device.clone(),
            state: Mutex::new(ArenaState {
                free: HashMap::new(),
                retired: Vec::new(),
                // A memory checker wants every buffer to be a new one, here as elsewhere.
                reuse: device.lock_pool().caching(),
                sealed: false,
                bytes: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ArenaState> {
        self.state.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// A free piece of exactly `size` bytes, or a new one while the rehearsal lasts.
    pub fn take(&self, size: u64) -> Result<Storage> {
        let sealed = {
            let mut state = self.lock();
            if let Some(piece) = state.free.get_mut(&size).and_then(Vec::pop) {
                return Ok(piece);
            }
            state.sealed
        };
        if sealed {
            return Err(self.device.refuse(format!(
                "recording: {size} bytes that the rehearsal did not ask for"
            )));
        }
        let piece = self.device.take_from_pool(size)?;
        self.lock().bytes += size;
        Ok(piece)
    }

    pub fn give_back(&self, size: u64, piece: Storage) {
        let mut state = self.lock();
        if state.reuse {
            state.free.entry(size).or_default().push(piece);
        } else {
            state.retired.push((size, piece));
        }
    }

    /// Ends the rehearsal: all that was taken for it is free again, and nothing more is to come.
    fn seal(&self) {
        let mut state = self.lock();
        state.sealed = true;
        for (size, piece) in std::mem::take(&mut state.retired) {
            state.free.entry(size).or_default().push(piece);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(|p| p.into_inner());
        let free = std::mem::take(&mut state.free);
        let pieces = free
            .into_iter()
            .flat_map(|(size, pieces)| pieces.into_iter().map(move |piece| (size, piece)))
            .chain(std::mem::take(&mut state.retired));
        for (size, piece) in pieces {
            let unwanted = self.device.lock_pool().give_back(size, piece);
            drop(unwanted);
        }
    }
}

/// A recording in progress.
pub(super) struct Recording {
    thread: ThreadId,
    arena: Arc<Arena>,
    ops: Vec<(&'static str, Cost)>,
}

/// Ends the recording of a device when dropped, also by a panic in what is recorded.
struct Session<'a> {
    device: &'a Device,
}

impl<'a> Session<'a> {
    fn begin(device: &'a Device, arena: &Arc<Arena>) -> Self {
        *device.lock_recording() = Some(Recording {
            thread: std::thread::current().id(),
            arena: arena.clone(),
            ops: Vec::new(),
        });
        Session { device }
    }

    /// The operators noted so far, which are noted no more.
    fn take_ops(&self) -> Vec<(&'static str, Cost)> {
        let mut recording = self.device.lock_recording();
        recording
            .as_mut()
            .map(|r| std::mem::take(&mut r.ops))
            .unwrap_or_default()
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let ended = self.device.lock_recording().take();
        drop(ended);
    }
}

impl Device {
    /// Whether this device can record work.
    pub(crate) fn records(&self) -> bool {
        matches!(self.backend(), Backend::Cuda(_))
    }

    /// Makes a graph of what `work` enqueues for `inputs`; the graph is not launched yet. `work` is called twice and
    /// must do the same both times: operators and copies on the device, without reading or waiting. Memory that it uses
    /// and did not allocate itself must outlive the graph.
    ///
    /// # Errors
    /// What `work` reports, [`Error::Device`] where it does something that cannot be recorded, and
    /// [`Error::Unsupported`] on a device that does not record at all.
    pub(crate) fn record<I, O>(
        &self,
        inputs: I,
        work: impl Fn(&I) -> Result<O>,
    ) -> Result<Graph<I, O>> {
        let Backend::Cuda(cuda) = self.backend() else {
            return Err(Error::Unsupported {
                op: "record",
                device: self.name(),
                why: "only CUDA devices make graphs".into(),
            });
        };
        let one_at_a_time = self.shared.recorder.lock();
        let arena = Arc::new(Arena::new(self));
        let session = Session::begin(self, &arena);
        drop(work(&inputs)?);
        arena.seal();
        session.take_ops();
        let (outputs, captured) = cuda.capture(|| work(&inputs))?;
        let ops = session.take_ops();
        drop(session);
        drop(one_at_a_time);
        Ok(Graph {
            work: captured,
            inputs,
            outputs,
            ops,
            arena,
        })
    }

    /// The arena of the recording that this thread makes, if it makes one.
    pub(super) fn arena(&self) -> Option<Arc<Arena>> {
        self.lock_recording()
            .as_ref()
            .filter(|r| r.thread == std::thread::current().id())
            .map(|r| r.arena.clone())
    }

    /// Notes an operator in the recording that this thread makes; `false` if it makes none.
    pub(super) fn note(&self, op: &'static str, cost: Cost) -> bool {
        let mut recording = self.lock_recording();
        match recording.as_mut() {
            Some(r) if r.thread == std::thread::current().id() => {
                r.ops.push((op, cost));
                true
            }
            _ => false,
        }
    }

    fn lock_recording(&self) -> MutexGuard<'_, Option<Recording>> {
        let recording = &self.shared.recording;
        recording.lock().unwrap_or_else(|p| p.into_inner())
    }

    fn refuse(&self, message: String) -> Error {
        Error::Device {
            device: self.name(),
            message,
        }
    }
}
