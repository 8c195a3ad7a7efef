//! Work that is captured instead of executed, and enqueued as a whole later.
//!
//! Work is recorded on a stream that is made for it ([`Cuda::capture`]). While one thread records, what it enqueues goes
//! there and whatever cannot be recorded is refused; the other threads, and their stream, do not notice.

use std::sync::Arc;
use std::thread::ThreadId;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::context::Context;
use super::{Cuda, lock};
use crate::error::Result;

/// Recorded work that can be enqueued.
pub(crate) struct Captured {
    context: Arc<Context>,
    work: sys::CUgraphExec,
}

// SAFETY: an opaque handle of a context that may be used from any thread (see `Context`). The driver wants calls on one
// graph to come one after the other: `Cuda::replay` takes it mutably.
unsafe impl Send for Captured {}

impl Drop for Captured {
    fn drop(&mut self) {
        // It may be at work still, and the memory that it uses is freed next.
        let _ = self.context.synchronize();
        // SAFETY: made by `Cuda::capture`, destroyed only here, and not running.
        let _ = unsafe { result::graph::exec_destroy(self.work) };
    }
}

/// A capture in progress: who makes it, and the stream that notes what is enqueued and executes nothing.
pub(super) struct Capture {
    thread: ThreadId,
    stream: sys::CUstream,
}

// SAFETY: as for `Context`, whose the stream is.
unsafe impl Send for Capture {}

/// Sees to it that a capture is ended and its stream destroyed, also by a panic in what is captured.
struct CaptureEnd<'a> {
    cuda: &'a Cuda,
    stream: sys::CUstream,
    ended: bool,
}

impl CaptureEnd<'_> {
    /// What was captured.
    fn end(&mut self) -> Result<sys::CUgraph, DriverError> {
        self.ended = true;
        *lock(&self.cuda.capture) = None;
        self.cuda.context.bind()?;
        // SAFETY: the stream is ours and is being captured.
        unsafe { result::stream::end_capture(self.stream) }
    }
}

impl Drop for CaptureEnd<'_> {
    fn drop(&mut self) {
        if !self.ended
            && let Ok(graph) = self.end()
        {
            // SAFETY: nobody else has seen the graph.
            let _ = unsafe { result::graph::destroy(graph) };
        }
        // SAFETY: ours, no capture is in progress on it, and nothing was ever executed on it.
        let _ = unsafe { result::stream::destroy(self.stream) };
    }
}

impl Cuda {
    /// Captures what `work` enqueues on this thread instead of executing it. Only launches of kernels that are compiled
    /// already and copies on the device can be captured; anything else in `work` is an error.
    pub fn capture<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Captured)> {
        self.refuse_in_capture("a second recording")?;
        self.check("making the context current", self.context.bind())?;
        let stream = self.check(
            "making a stream",
            result::stream::create(result::stream::StreamKind::NonBlocking),
        )?;
        // Thread-local: calls that have no place in a capture fail on this thread only.
        // SAFETY: the stream has just been made in the current context.
        let begun = unsafe {
            result::stream::begin_capture(
                stream,
                sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            )
        };
        let mut end = CaptureEnd {
            cuda: self,
            stream,
            ended: begun.is_err(),
        };
        self.check("beginning to record", begun)?;
        *lock(&self.capture) = Some(Capture {
            thread: std::thread::current().id(),
            stream,
        });
        let outcome = work();
        let graph = end.end();
        // A failure in the work spoils the capture too, and is the better message.
        let value = outcome.inspect_err(|_| {
            if let Ok(graph) = graph {
                // SAFETY: nobody else has seen the graph.
                let _ = unsafe { result::graph::destroy(graph) };
            }
        })?;
        let graph = self.check("recording", graph)?;
        if graph.is_null() {
            return Err(self.error("recording: the driver made no graph".into()));
        }
        // SAFETY: a graph that the driver has just made; what is instantiated does not need it any more.
        let work = unsafe {
            let work = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            work
        };
        let work = self.check("making a graph of what was recorded", work)?;
        let captured = Captured {
            context: self.context.clone(),
            work,
        };
        Ok((value, captured))
    }

    /// Enqueues what was captured, on the usual stream.
    pub fn replay(&self, captured: &mut Captured) -> Result<()> {
        self.refuse_in_capture("a graph")?;
        self.check("making the context current", self.context.bind())?;
        // SAFETY: graph and stream are of this context, and no other call uses the graph. The memory whose addresses it
        // holds belongs to whoever owns the graph, and is freed only after the stream is idle.
        let launched = unsafe { result::graph::launch(captured.work, self.context.stream) };
        self.check("launching a graph", launched)
    }

    /// The stream on which this thread enqueues: the usual one, or the one on which it records.
    pub(super) fn stream(&self) -> sys::CUstream {
        match &*lock(&self.capture) {
            Some(capture) if capture.thread == std::thread::current().id() => capture.stream,
            _ => self.context.stream,
        }
    }

    /// An error if this thread is recording: `what` cannot be part of a graph.
    pub(super) fn refuse_in_capture(&self, what: &str) -> Result<()> {
        match &*lock(&self.capture) {
            Some(capture) if capture.thread == std::thread::current().id() => {
                Err(self.error(format!("recording: {what} cannot be part of a graph")))
            }
            _ => Ok(()),
        }
    }
}
