//! Streams, and recording what is enqueued on them.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::{c_int, c_uint};

use super::LIMITS;
use super::codes::*;
use super::contexts::current;
use super::ffi::{Handle, List, Out, enter};
use super::state::{Driver, Graph, Joined, Mode, Place, Stream, Work};

thread_local! {
    /// How much captures forbid this thread.
    static INTERACTION: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// How much captures forbid this thread.
pub(super) fn interaction() -> Mode {
    INTERACTION.get()
}

fn create(
    stream: &Out<Handle>,
    flags: c_uint,
    priority: c_int,
) -> impl FnOnce(&mut Driver) -> Outcome {
    move |driver| {
        let context = current(driver)?;
        stream.check()?;
        if flags > 1 {
            return fail(INVALID_VALUE, format!("unknown flags {flags:#x}"));
        }
        let handle = driver.handle();
        let new = Stream {
            context,
            blocking: flags == 0,
            // Out of range means the nearest.
            priority: priority.clamp(LIMITS.priorities.1, LIMITS.priorities.0),
            queue: VecDeque::new(),
            joined: None,
        };
        driver.streams.insert(handle, new);
        stream.set(handle)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) -> CUresult {
    enter("cuStreamCreate", create(&stream, flags, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(
    stream: Out<Handle>,
    flags: c_uint,
    priority: c_int,
) -> CUresult {
    enter(
        "cuStreamCreateWithPriority",
        create(&stream, flags, priority),
    )
}

/// The stream itself; the null stream is not one that can be asked, captured or destroyed here.
fn own(driver: &Driver, context: Handle, stream: Handle) -> Outcome<Handle> {
    match driver.place(context, stream)? {
        Place::Stream(stream) => Ok(stream),
        Place::Legacy => fail(INVALID_HANDLE, "not for the null stream"),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CUresult {
    enter("cuStreamDestroy_v2", |driver| {
        let context = current(driver)?;
        let stream = own(driver, context, stream)?;
        if let Some(joined) = &driver.streams[&stream].joined {
            let capture = joined.capture;
            driver.leave_capture(capture);
        }
        // What was enqueued is still done.
        driver.wait_for(&[stream]);
        driver.streams.remove(&stream);
        driver.healthy(context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> CUresult {
    enter("cuStreamSynchronize", |driver| {
        let context = current(driver)?;
        match driver.place(context, stream)? {
            Place::Legacy => driver.wait_for_blocking(context)?,
            Place::Stream(stream) => {
                driver.not_captured(stream)?;
                driver.wait_for(&[stream]);
            }
        }
        driver.healthy(context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> CUresult {
    enter("cuStreamQuery", |driver| {
        let context = current(driver)?;
        match driver.place(context, stream)? {
            Place::Legacy => driver.wait_for_blocking(context)?,
            Place::Stream(stream) => {
                driver.not_captured(stream)?;
                driver.tick();
                driver.healthy(context)?;
                if !driver.idle(&[stream]) {
                    return fail(NOT_READY, "the stream has work left");
                }
            }
        }
        driver.healthy(context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> CUresult {
    enter("cuStreamWaitEvent", |driver| {
        let context = current(driver)?;
        let place = driver.place(context, stream)?;
        if flags > 1 {
            return fail(INVALID_VALUE, format!("unknown flags {flags:#x}"));
        }
        let Some(event) = driver.events.get(&event) else {
            return fail(INVALID_HANDLE, "not an event, or a destroyed one");
        };
        let (ticket, captured) = (event.ticket, event.captured.clone());
        match (place, captured) {
            (Place::Stream(stream), Some(captured)) => driver.join(stream, &captured),
            (Place::Legacy, Some(captured)) => {
                driver.invalidate(captured.capture);
                fail(
                    STREAM_CAPTURE_IMPLICIT,
                    "the null stream cannot be captured",
                )
            }
            (Place::Stream(stream), None) if driver.streams[&stream].joined.is_some() => {
                if ticket.is_none() {
                    return Ok(());
                }
                fail(
                    STREAM_CAPTURE_ISOLATION,
                    "a stream that is being captured would wait for an event that is not",
                )
            }
            (Place::Stream(_), None) => match ticket {
                Some(ticket) => driver.submit(context, place, Work::Wait { ticket }),
                // An event that was never recorded holds nobody up.
                None => Ok(()),
            },
            (Place::Legacy, None) => {
                if let Some(ticket) = ticket {
                    driver.wait_for_ticket(ticket);
                }
                driver.healthy(context)
            }
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetFlags(stream: Handle, flags: Out<c_uint>) -> CUresult {
    enter("cuStreamGetFlags", |driver| {
        let context = current(driver)?;
        flags.set(match driver.place(context, stream)? {
            Place::Legacy => 0,
            Place::Stream(stream) => (!driver.streams[&stream].blocking).into(),
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: Handle, priority: Out<c_int>) -> CUresult {
    enter("cuStreamGetPriority", |driver| {
        let context = current(driver)?;
        priority.set(match driver.place(context, stream)? {
            Place::Legacy => 0,
            Place::Stream(stream) => driver.streams[&stream].priority,
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx(stream: Handle, to: Out<Handle>) -> CUresult {
    enter("cuStreamGetCtx", |driver| {
        let context = current(driver)?;
        driver.place(context, stream)?;
        to.set(context)
    })
}

// --- captures ---

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> CUresult {
    enter("cuStreamBeginCapture_v2", |driver| {
        let context = current(driver)?;
        if driver.place(context, stream)? == Place::Legacy {
            return fail(
                STREAM_CAPTURE_UNSUPPORTED,
                "the null stream cannot be captured",
            );
        }
        let mode = Mode::of(mode)?;
        if driver.streams[&stream].joined.is_some() {
            return fail(ILLEGAL_STATE, "the stream is being captured already");
        }
        driver.begin_capture(stream, mode);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) -> CUresult {
    enter("cuStreamEndCapture", |driver| {
        let context = current(driver)?;
        let stream = own(driver, context, stream)?;
        graph.check()?;
        // On failure there is no graph.
        graph.set(Handle::NULL)?;
        let nodes = driver.end_capture(stream)?;
        let handle = driver.handle();
        let new = Graph {
            context,
            nodes: nodes.into(),
        };
        driver.graphs.insert(handle, new);
        graph.set(handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: Handle, status: Out<c_uint>) -> CUresult {
    enter("cuStreamIsCapturing", |driver| {
        let context = current(driver)?;
        status.set(match driver.place(context, stream)? {
            Place::Legacy => 0,
            Place::Stream(stream) => match &driver.streams[&stream].joined {
                None => 0,
                Some(joined) if driver.captures[&joined.capture].invalid => 2,
                Some(_) => 1,
            },
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuThreadExchangeStreamCaptureMode(mode: List<c_uint>) -> CUresult {
    enter("cuThreadExchangeStreamCaptureMode", |_| {
        let new = Mode::of(mode.get(0)?)?;
        let old = INTERACTION.replace(new);
        mode.put(0, old as c_uint);
        Ok(())
    })
}

impl Driver {
    /// Waiting for an event of a capture makes a stream part of it.
    fn join(&mut self, stream: Handle, event: &Joined) -> Outcome {
        match self.captures.get(&event.capture) {
            None => {
                return fail(
                    CAPTURED_EVENT,
                    "the capture that recorded the event is over",
                );
            }
            Some(capture) if capture.invalid => {
                return fail(
                    STREAM_CAPTURE_INVALIDATED,
                    "an earlier call ended the capture",
                );
            }
            Some(_) => {}
        }
        let joined = &mut self.stream(stream).joined;
        let after: &mut BTreeSet<usize> = match joined {
            Some(joined) if joined.capture != event.capture => {
                let other = joined.capture;
                self.invalidate(other);
                self.invalidate(event.capture);
                return fail(STREAM_CAPTURE_MERGE, "two captures would become one");
            }
            Some(joined) => &mut joined.after,
            None => {
                let new = Joined {
                    capture: event.capture,
                    after: BTreeSet::new(),
                };
                &mut joined.insert(new).after
            }
        };
        after.extend(&event.after);
        Ok(())
    }
}
