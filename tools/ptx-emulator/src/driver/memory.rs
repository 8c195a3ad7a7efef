//! Device memory, page-locked host memory, copies and fills.

use std::alloc::Layout;
use std::ffi::{c_uchar, c_uint, c_ushort, c_void};

use super::codes::*;
use super::contexts::current;
use super::ffi::{Handle, Out, address, enter};
use super::state::{Driver, HostBlock, Place, Work};
use super::streams::interaction;

/// Alignment of page-locked memory: a page.
const PAGE: usize = 4096;

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> CUresult {
    enter("cuMemGetInfo_v2", |driver| {
        let context = current(driver)?;
        let memory = driver.memory(context);
        free.set(memory.free_bytes() as usize)?;
        total.set(memory.total() as usize)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(to: Out<u64>, bytes: usize) -> CUresult {
    enter("cuMemAlloc_v2", |driver| {
        let context = current(driver)?;
        to.check()?;
        driver.not_while_capturing(interaction())?;
        to.set(driver.allocate(context, bytes as u64, false)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(to: Out<u64>, bytes: usize, stream: Handle) -> CUresult {
    enter("cuMemAllocAsync", |driver| {
        let context = current(driver)?;
        to.check()?;
        if let Place::Stream(stream) = driver.place(context, stream)? {
            driver.not_captured(stream)?;
        }
        to.set(driver.allocate(context, bytes as u64, true)?)
    })
}

/// Takes an allocation out of the books, which from now on nothing may be copied to or from.
fn release(driver: &mut Driver, context: Handle, address: u64) -> Outcome<bool> {
    let device = driver.contexts[&context].device;
    match driver.allocations.remove(&(device, address)) {
        Some(allocation) => Ok(allocation.ordered),
        None => fail(
            INVALID_VALUE,
            format!("no device memory begins at {address:#x}"),
        ),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    enter("cuMemFree_v2", |driver| {
        let context = current(driver)?;
        if address == 0 {
            return Ok(());
        }
        driver.not_while_capturing(interaction())?;
        let ordered = release(driver, context, address)?;
        if !ordered {
            // Freeing waits for the device; memory that was allocated in stream order is its owner's care.
            driver.wait_for_context(context);
        }
        driver.memory(context).free(address);
        driver.healthy(context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> CUresult {
    enter("cuMemFreeAsync", |driver| {
        let context = current(driver)?;
        let place = driver.place(context, stream)?;
        if address == 0 {
            return Ok(());
        }
        if let Place::Stream(stream) = place {
            driver.not_captured(stream)?;
        }
        release(driver, context, address)?;
        driver.submit(context, place, Work::Free { address })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAddressRange_v2(
    base: Out<u64>,
    bytes: Out<usize>,
    address: u64,
) -> CUresult {
    enter("cuMemGetAddressRange_v2", |driver| {
        let context = current(driver)?;
        driver.within(context, address, 1)?;
        let device = driver.contexts[&context].device;
        let found = driver
            .allocations
            .range((device, 0)..=(device, address))
            .next_back();
        if let Some((&(_, start), allocation)) = found {
            base.set_if_wanted(start);
            bytes.set_if_wanted(allocation.bytes as usize);
        }
        Ok(())
    })
}

// --- page-locked host memory ---

fn allocate_host(driver: &mut Driver, to: &Out<*mut c_void>, bytes: usize) -> Outcome {
    let context = current(driver)?;
    to.check()?;
    driver.not_while_capturing(interaction())?;
    if bytes == 0 {
        return fail(INVALID_VALUE, "an allocation of no bytes");
    }
    let Ok(layout) = Layout::from_size_align(bytes, PAGE) else {
        return fail(OUT_OF_MEMORY, "more than the address space");
    };
    // SAFETY: the size is not zero.
    let pointer = unsafe { std::alloc::alloc(layout) };
    if pointer.is_null() {
        return fail(OUT_OF_MEMORY, format!("{bytes} bytes of host memory"));
    }
    let block = HostBlock { context, layout };
    driver.host.insert(address(pointer), block);
    to.set(pointer.cast())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(to: Out<*mut c_void>, bytes: usize) -> CUresult {
    enter("cuMemAllocHost_v2", |driver| {
        allocate_host(driver, &to, bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(to: Out<*mut c_void>, bytes: usize, flags: c_uint) -> CUresult {
    enter("cuMemHostAlloc", |driver| {
        // Portable, device-mapped and write-combined are promises about access that hold here without doing anything.
        if flags > 7 {
            return fail(INVALID_VALUE, format!("unknown flags {flags:#x}"));
        }
        allocate_host(driver, &to, bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> CUresult {
    enter("cuMemFreeHost", |driver| {
        let context = current(driver)?;
        driver.not_while_capturing(interaction())?;
        let at = address(pointer);
        if !driver.host.contains_key(&at) {
            return fail(INVALID_VALUE, "not the start of page-locked memory");
        }
        // As the real one: copies from and to it are still on their way.
        driver.wait_for_context(context);
        driver.free_host(at);
        driver.healthy(context)
    })
}

// --- copies and fills ---

/// Checks a copy or fill and enqueues it. `stream` is `None` for the forms that wait: they run on the null stream.
fn enqueue(
    driver: &mut Driver,
    stream: Option<Handle>,
    work: Work,
    ranges: &[(u64, usize)],
    host: Option<usize>,
) -> Outcome {
    let context = current(driver)?;
    let place = match stream {
        Some(stream) => driver.place(context, stream)?,
        None => {
            driver.not_while_capturing(interaction())?;
            Place::Legacy
        }
    };
    if ranges.iter().all(|&(_, bytes)| bytes == 0) {
        return Ok(());
    }
    if host == Some(0) {
        return fail(INVALID_VALUE, "a null pointer to host memory");
    }
    for &(address, bytes) in ranges {
        driver.within(context, address, bytes as u64)?;
    }
    driver.submit(context, place, work)?;
    // What goes wrong later is told by whoever waits for it.
    driver.healthy(context)
}

fn upload(
    driver: &mut Driver,
    stream: Option<Handle>,
    to: u64,
    from: *const c_void,
    bytes: usize,
) -> Outcome {
    let from = address(from);
    let work = Work::Upload {
        to,
        from,
        bytes,
        digest: None,
    };
    enqueue(driver, stream, work, &[(to, bytes)], Some(from))
}

fn download(
    driver: &mut Driver,
    stream: Option<Handle>,
    to: *mut c_void,
    from: u64,
    bytes: usize,
) -> Outcome {
    let to = address(to);
    let work = Work::Download { to, from, bytes };
    enqueue(driver, stream, work, &[(from, bytes)], Some(to))
}

fn copy(driver: &mut Driver, stream: Option<Handle>, to: u64, from: u64, bytes: usize) -> Outcome {
    let work = Work::Copy { to, from, bytes };
    enqueue(driver, stream, work, &[(to, bytes), (from, bytes)], None)
}

fn fill(
    driver: &mut Driver,
    stream: Option<Handle>,
    to: u64,
    pattern: &[u8],
    count: usize,
) -> Outcome {
    if !to.is_multiple_of(pattern.len() as u64) {
        return fail(
            INVALID_VALUE,
            format!("{to:#x} is not a multiple of {} bytes", pattern.len()),
        );
    }
    let Some(bytes) = count.checked_mul(pattern.len()) else {
        return fail(INVALID_VALUE, "more than the address space");
    };
    let work = Work::Fill {
        to,
        pattern: pattern.to_vec(),
        count,
    };
    enqueue(driver, stream, work, &[(to, bytes)], None)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> CUresult {
    enter("cuMemcpyHtoD_v2", |d| upload(d, None, to, from, bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    enter("cuMemcpyHtoDAsync_v2", |d| {
        upload(d, Some(stream), to, from, bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> CUresult {
    enter("cuMemcpyDtoH_v2", |d| download(d, None, to, from, bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    enter("cuMemcpyDtoHAsync_v2", |d| {
        download(d, Some(stream), to, from, bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> CUresult {
    enter("cuMemcpyDtoD_v2", |d| copy(d, None, to, from, bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    enter("cuMemcpyDtoDAsync_v2", |d| {
        copy(d, Some(stream), to, from, bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: c_uchar, count: usize) -> CUresult {
    enter("cuMemsetD8_v2", |d| fill(d, None, to, &[value], count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(
    to: u64,
    value: c_uchar,
    count: usize,
    stream: Handle,
) -> CUresult {
    enter("cuMemsetD8Async", |d| {
        fill(d, Some(stream), to, &[value], count)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) -> CUresult {
    enter("cuMemsetD16_v2", |d| {
        fill(d, None, to, &value.to_ne_bytes(), count)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(
    to: u64,
    value: c_ushort,
    count: usize,
    stream: Handle,
) -> CUresult {
    enter("cuMemsetD16Async", |d| {
        fill(d, Some(stream), to, &value.to_ne_bytes(), count)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) -> CUresult {
    enter("cuMemsetD32_v2", |d| {
        fill(d, None, to, &value.to_ne_bytes(), count)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(
    to: u64,
    value: c_uint,
    count: usize,
    stream: Handle,
) -> CUresult {
    enter("cuMemsetD32Async", |d| {
        fill(d, Some(stream), to, &value.to_ne_bytes(), count)
    })
}
