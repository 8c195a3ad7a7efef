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

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;
    use crate::device::Buffer;
    use crate::ops::TokenIds;
    use crate::ops::embedding::{Tables, embedding};

    /// `x = table[ids]`, nearly: an operator to record.
    fn look_up(table: &Buffer<f32>, ids: &TokenIds) -> Result<Buffer<f32>> {
        let mut x = table.device().alloc(ids.len() * 8)?;
        let tables = Tables {
            word: table.as_slice(),
            position: table.as_slice(),
            token_type: table.as_slice(),
            d: 8,
        };
        embedding(&tables, ids, &mut x)?;
        Ok(x)
    }

    fn tokens(device: &Device, ids: &[u32]) -> TokenIds {
        TokenIds::new(device, ids, ids).unwrap()
    }

    fn cuda() -> Option<(Device, Buffer<f32>)> {
        let device = Device::cuda(0)
            .inspect_err(|why| eprintln!("skipped: graphs on cuda ({why})"))
            .ok()?;
        let table: Vec<f32> = (0..32).map(|row| row as f32).collect();
        let table = device.upload(&table).unwrap();
        Some((device, table))
    }

    #[test]
    fn a_graph_computes_from_what_its_inputs_hold_at_launch() {
        let Some((device, table)) = cuda() else {
            return;
        };
        let ids = tokens(&device, &[0, 0, 0]);
        let work = |ids: &TokenIds| {
            // One buffer goes back before the next is taken; a copy on the device is part of the graph.
            drop(look_up(&table, ids)?);
            let x = look_up(&table, ids)?;
            let mut copy = device.alloc(x.len())?;
            copy.copy_from(0, &x)?;
            Ok(copy)
        };
        let mut graph = device.record(ids, work).unwrap();
        for ids in [[1u32, 2, 3], [3, 0, 2]] {
            graph.inputs_mut().write(&ids, &ids).unwrap();
            graph.launch().unwrap();
            let plain = look_up(&table, &tokens(&device, &ids)).unwrap();
            let (got, want) = (graph.outputs().read().unwrap(), plain.read().unwrap());
            assert_eq!(got, want);
        }
    }

    #[test]
    fn what_cannot_be_recorded_is_refused_and_leaves_the_device_usable() {
        let Some((device, table)) = cuda() else {
            return;
        };
        let before = device.memory().in_use;
        let record = |work: &dyn Fn(&TokenIds) -> Result<Buffer<f32>>| {
            let ids = tokens(&device, &[1, 2]);
            let error = device.record(ids, work).err().expect("not recordable");
            let plain = look_up(&table, &tokens(&device, &[1])).unwrap();
            assert_eq!(plain.read().unwrap()[..2], [8.0 + 8.0, 9.0 + 9.0 + 1.0]);
            error.to_string()
        };
        let reading = record(&|ids| {
            let x = look_up(&table, ids)?;
            x.read()?;
            Ok(x)
        });
        assert!(reading.contains("copying to the host"), "{reading}");
        let waiting = record(&|ids| {
            device.synchronize()?;
            look_up(&table, ids)
        });
        assert!(waiting.contains("waiting cannot be part"), "{waiting}");
        let uploading = record(&|ids| {
            device.upload(&[1.0f32])?;
            look_up(&table, ids)
        });
        assert!(uploading.contains("copying from the host"), "{uploading}");
        let calls = std::cell::Cell::new(0);
        let growing = record(&|ids| {
            calls.set(calls.get() + 1);
            if calls.get() == 2 {
                device.alloc::<f32>(4096)?;
            }
            look_up(&table, ids)
        });
        assert!(growing.contains("did not ask for"), "{growing}");
        assert_eq!(device.memory().in_use, before);
    }

    #[test]
    fn others_use_the_device_while_one_thread_records() {
        let Some((device, table)) = cuda() else {
            return;
        };
        let ids = tokens(&device, &[2]);
        let work = |ids: &TokenIds| {
            let x = look_up(&table, ids)?;
            // In the rehearsal, and amid the capture.
            let other = std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let fresh = tokens(&device, &[3]);
                    let y = look_up(&table, &fresh)?;
                    device.synchronize()?;
                    y.read()
                });
                other.join().expect("no panic")
            })?;
            assert_eq!(other[0], 24.0 + 24.0);
            Ok(x)
        };
        let mut graph = device.record(ids, work).unwrap();
        graph.launch().unwrap();
        assert_eq!(graph.outputs().read().unwrap()[0], 16.0 + 16.0);
    }

    #[test]
    fn memory_stays_with_the_graph_until_its_last_user_is_gone() {
        let Some((device, table)) = cuda() else {
            return;
        };
        for caching in [true, false] {
            device.set_memory_caching(caching);
            let before = device.memory().in_use;
            let ids = tokens(&device, &[2]);
            let graph = device.record(ids, |ids| look_up(&table, ids)).unwrap();
            assert!(device.memory().in_use > before);
            // None of the graph's memory is given to others.
            let others: Vec<_> = (0..4).map(|_| look_up(&table, &graph.inputs)).collect();
            drop(others);
            let mut graph = graph;
            graph.launch().unwrap();
            assert_eq!(graph.outputs().read().unwrap()[0], 16.0 + 16.0);
            drop(graph);
            assert_eq!(device.memory().in_use, before);
        }
    }

    #[test]
    fn devices_without_graphs_say_so() {
        let cpu = Device::cpu();
        assert!(!cpu.records());
        let error = cpu.record((), |()| Ok(())).err().expect("unsupported");
        assert!(error.to_string().contains("only CUDA devices"), "{error}");
    }
}
