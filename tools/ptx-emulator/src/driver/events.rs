//! Events: marks in streams, and the time between them.

use std::ffi::{c_float, c_uint};

use super::codes::*;
use super::contexts::current;
use super::ffi::{Handle, Out, enter};
use super::state::{Driver, Event, Place, Work};

/// `CU_EVENT_DISABLE_TIMING`
const NO_TIMING: c_uint = 2;

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: Out<Handle>, flags: c_uint) -> CUresult {
    enter("cuEventCreate", |driver| {
        let context = current(driver)?;
        event.check()?;
        match flags {
            // With or without waiting by sleeping (1), which is all the same here.
            0..4 => {}
            4..8 => return fail(NOT_SUPPORTED, "events of other processes are not emulated"),
            _ => return fail(INVALID_VALUE, format!("unknown flags {flags:#x}")),
        }
        let handle = driver.handle();
        let new = Event {
            context,
            timing: flags & NO_TIMING == 0,
            ticket: None,
            reached: None,
            captured: None,
        };
        driver.events.insert(handle, new);
        event.set(handle)
    })
}

fn find(driver: &mut Driver, event: Handle) -> Outcome<&mut Event> {
    match driver.events.get_mut(&event) {
        Some(event) => Ok(event),
        None => fail(INVALID_HANDLE, "not an event, or a destroyed one"),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> CUresult {
    enter("cuEventDestroy_v2", |driver| {
        find(driver, event)?;
        // A recording on its way does no harm: whoever waits for it waits for its ticket.
        driver.events.remove(&event);
        Ok(())
    })
}

fn record(driver: &mut Driver, event: Handle, stream: Handle) -> Outcome {
    let context = current(driver)?;
    let place = driver.place(context, stream)?;
    if find(driver, event)?.context != context {
        return fail(INVALID_HANDLE, "an event of another context");
    }
    if let Place::Stream(stream) = place
        && let Some(joined) = driver.streams[&stream].joined.clone()
    {
        let event = find(driver, event)?;
        (event.ticket, event.reached) = (None, None);
        event.captured = Some(joined);
        return Ok(());
    }
    let ticket = driver.ticket();
    let mark = find(driver, event)?;
    (mark.ticket, mark.reached, mark.captured) = (Some(ticket), None, None);
    driver.submit(context, place, Work::Record { event, ticket })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CUresult {
    enter("cuEventRecord", |driver| record(driver, event, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) -> CUresult {
    enter("cuEventRecordWithFlags", |driver| match flags {
        0 => record(driver, event, stream),
        1 => fail(NOT_SUPPORTED, "external event nodes are not emulated"),
        _ => fail(INVALID_VALUE, format!("unknown flags {flags:#x}")),
    })
}

/// The last recording of an event that the host may ask about.
fn ticket(driver: &mut Driver, event: Handle) -> Outcome<Option<u64>> {
    let event = find(driver, event)?;
    match &event.captured {
        None => Ok(event.ticket),
        Some(joined) => {
            let capture = joined.capture;
            driver.invalidate(capture);
            fail(CAPTURED_EVENT, "the event was last recorded in a capture")
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> CUresult {
    enter("cuEventQuery", |driver| {
        let context = current(driver)?;
        let Some(ticket) = ticket(driver, event)? else {
            return Ok(());
        };
        if !driver.reached(ticket) {
            driver.tick();
        }
        driver.healthy(context)?;
        if driver.reached(ticket) {
            Ok(())
        } else {
            fail(NOT_READY, "the event has not been reached")
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> CUresult {
    enter("cuEventSynchronize", |driver| {
        let context = current(driver)?;
        if let Some(ticket) = ticket(driver, event)? {
            driver.wait_for_ticket(ticket);
        }
        driver.healthy(context)
    })
}

fn elapsed(driver: &mut Driver, to: &Out<c_float>, start: Handle, end: Handle) -> Outcome {
    let context = current(driver)?;
    to.check()?;
    let mut times = Vec::new();
    for event in [start, end] {
        let ticket = ticket(driver, event)?;
        let event = find(driver, event)?;
        if !event.timing || ticket.is_none() {
            return fail(INVALID_HANDLE, "an event without timing, or never recorded");
        }
        times.push(event.reached);
    }
    driver.healthy(context)?;
    match times[..] {
        [Some(start), Some(end)] => {
            let forwards = end.saturating_duration_since(start).as_secs_f64();
            let backwards = start.saturating_duration_since(end).as_secs_f64();
            to.set(((forwards - backwards) * 1e3) as c_float)
        }
        _ => fail(NOT_READY, "an event has not been reached"),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(to: Out<c_float>, start: Handle, end: Handle) -> CUresult {
    enter("cuEventElapsedTime", |d| elapsed(d, &to, start, end))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(to: Out<c_float>, start: Handle, end: Handle) -> CUresult {
    enter("cuEventElapsedTime_v2", |d| elapsed(d, &to, start, end))
}
