//! Start, devices and contexts.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint, c_void};

use super::codes::{self, *};
use super::ffi::{Handle, Out, c_text, driver, enter, guard};
use super::state::Driver;
use super::{LIMITS, VERSION};

thread_local! {
    /// The contexts that are current on this thread, the top of the stack last.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

fn top() -> Option<Handle> {
    CURRENT.with_borrow(|stack| stack.last().copied())
}

/// The context that is current on this thread, if it is usable.
pub(super) fn current(driver: &Driver) -> Outcome<Handle> {
    let Some(context) = top() else {
        return fail(INVALID_CONTEXT, "no context is current on this thread");
    };
    driver.healthy(context)?;
    Ok(context)
}

/// The current context even if a fault spoiled it.
fn current_at_all(driver: &Driver) -> Outcome<Handle> {
    match top() {
        None => fail(INVALID_CONTEXT, "no context is current on this thread"),
        Some(context) if !driver.contexts.contains_key(&context) => {
            fail(CONTEXT_IS_DESTROYED, "the context has been destroyed")
        }
        Some(context) => Ok(context),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> CUresult {
    guard("cuInit", || {
        if flags != 0 {
            return fail(INVALID_VALUE, "flags must be 0");
        }
        let mut driver = driver();
        if driver.is_none() {
            match Driver::from_environment() {
                Ok(new) => *driver = Some(new),
                Err(why) => {
                    eprintln!("ptx-emulator: {why}");
                    codes::tell(INVALID_VALUE, &why);
                    return fail(INVALID_VALUE, why);
                }
            }
        }
        match driver.as_ref().map(|driver| driver.devices.len()) {
            Some(0) => fail(NO_DEVICE, "PTX_EMULATOR_DEVICES=0"),
            _ => Ok(()),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> CUresult {
    guard("cuDriverGetVersion", || version.set(VERSION))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(code: CUresult, text: Out<*const c_char>) -> CUresult {
    guard("cuGetErrorName", || {
        let name = codes::c_name(code);
        text.set(c_text(name))?;
        match name {
            Some(_) => Ok(()),
            None => fail(INVALID_VALUE, format!("there is no code {code}")),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(code: CUresult, text: Out<*const c_char>) -> CUresult {
    guard("cuGetErrorString", || {
        let words = codes::c_words(code);
        text.set(c_text(words))?;
        match words {
            Some(_) => Ok(()),
            None => fail(INVALID_VALUE, format!("there is no code {code}")),
        }
    })
}

// --- devices ---

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: Out<c_int>) -> CUresult {
    enter("cuDeviceGetCount", |driver| {
        count.set(driver.devices.len() as c_int)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) -> CUresult {
    enter("cuDeviceGet", |driver| {
        driver.device(ordinal)?;
        device.set(ordinal)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: Out<c_char>, bytes: c_int, device: c_int) -> CUresult {
    enter("cuDeviceGetName", |driver| {
        driver.device(device)?;
        name.set_text("PTX emulator", usize::try_from(bytes).unwrap_or(0))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) -> CUresult {
    enter("cuDeviceTotalMem_v2", |driver| {
        let device = driver.device(device)?;
        bytes.set(driver.devices[device].memory.total() as usize)
    })
}

fn uuid(driver: &Driver, to: &Out<[u8; 16]>, device: c_int) -> Outcome {
    driver.device(device)?;
    let mut uuid = *b"PTX emulator    ";
    uuid[12..].copy_from_slice(&device.to_be_bytes());
    to.set(uuid)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(to: Out<[u8; 16]>, device: c_int) -> CUresult {
    enter("cuDeviceGetUuid", |driver| uuid(driver, &to, device))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(to: Out<[u8; 16]>, device: c_int) -> CUresult {
    enter("cuDeviceGetUuid_v2", |driver| uuid(driver, &to, device))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceComputeCapability(
    major: Out<c_int>,
    minor: Out<c_int>,
    device: c_int,
) -> CUresult {
    enter("cuDeviceComputeCapability", |driver| {
        driver.device(device)?;
        major.set(LIMITS.capability.0)?;
        minor.set(LIMITS.capability.1)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(to: Out<c_int>, which: c_uint, device: c_int) -> CUresult {
    enter("cuDeviceGetAttribute", |driver| {
        driver.device(device)?;
        match attribute(which, driver.multiprocessors) {
            Some(value) => to.set(value),
            None => fail(INVALID_VALUE, format!("there is no attribute {which}")),
        }
    })
}

/// `CUdevice_attribute` of a device of compute capability 8.0 that has nothing but what is emulated; 0 is what a device
/// says of something it does not have.
fn attribute(which: c_uint, multiprocessors: u32) -> Option<c_int> {
    let value = match which {
        1 => LIMITS.block as c_int,                       // MAX_THREADS_PER_BLOCK
        2 | 3 => LIMITS.block as c_int,                   // MAX_BLOCK_DIM_X, Y
        4 => LIMITS.block_z as c_int,                     // MAX_BLOCK_DIM_Z
        5 => c_int::MAX,                                  // MAX_GRID_DIM_X
        6 | 7 => LIMITS.grid_yz as c_int,                 // MAX_GRID_DIM_Y, Z
        8 => LIMITS.shared as c_int,                      // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 64 << 10,                                    // TOTAL_CONSTANT_MEMORY
        10 => 32,                                         // WARP_SIZE
        11 => c_int::MAX,                                 // MAX_PITCH
        12 | 82 => 64 << 10,  // MAX_REGISTERS_PER_BLOCK, PER_MULTIPROCESSOR
        13 | 36 => 1_000_000, // CLOCK_RATE, MEMORY_CLOCK_RATE, in kHz
        14 => 512,            // TEXTURE_ALIGNMENT
        15 | 31 | 40 | 41 | 78 => 1, // GPU_OVERLAP, CONCURRENT_KERNELS, ASYNC_ENGINE_COUNT, UNIFIED_ADDRESSING, PRIORITIES
        16 => multiprocessors as c_int, // MULTIPROCESSOR_COUNT
        37 => 32,                    // GLOBAL_MEMORY_BUS_WIDTH, in bits
        38 => 4 << 20,               // L2_CACHE_SIZE
        39 => LIMITS.threads_per_multiprocessor as c_int, // MAX_THREADS_PER_MULTIPROCESSOR
        75 => LIMITS.capability.0,   // COMPUTE_CAPABILITY_MAJOR
        76 => LIMITS.capability.1,   // COMPUTE_CAPABILITY_MINOR
        79 | 80 => 1,                // GLOBAL_L1_CACHE_SUPPORTED, LOCAL
        81 => LIMITS.shared_per_multiprocessor as c_int, // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        97 => LIMITS.shared_on_request as c_int, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        106 => LIMITS.blocks_per_multiprocessor as c_int, // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => LIMITS.shared_reserved as c_int, // RESERVED_SHARED_MEMORY_PER_BLOCK
        115 => 1,                    // MEMORY_POOLS_SUPPORTED: allocation in stream order
        _ if (1..144).contains(&which) => 0,
        _ => return None,
    };
    Some(value)
}

// --- contexts ---

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) -> CUresult {
    enter("cuDevicePrimaryCtxRetain", |driver| {
        let index = driver.device(device)?;
        context.check()?;
        let primary = driver.devices[index].primary;
        if driver.devices[index].primary_users == 0 {
            let flags = driver.devices[index].primary_flags;
            driver.open_context(primary, index, flags);
        }
        driver.devices[index].primary_users += 1;
        context.set(primary)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> CUresult {
    enter("cuDevicePrimaryCtxRelease_v2", |driver| {
        let index = driver.device(device)?;
        let primary = driver.devices[index].primary;
        match driver.devices[index].primary_users {
            0 => return fail(INVALID_CONTEXT, "the primary context is not retained"),
            1 => driver.close_context(primary),
            _ => {}
        }
        driver.devices[index].primary_users -= 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> CUresult {
    enter("cuDevicePrimaryCtxReset_v2", |driver| {
        let index = driver.device(device)?;
        let primary = driver.devices[index].primary;
        driver.close_context(primary);
        if driver.devices[index].primary_users > 0 {
            let flags = driver.devices[index].primary_flags;
            driver.open_context(primary, index, flags);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxGetState(
    device: c_int,
    flags: Out<c_uint>,
    active: Out<c_int>,
) -> CUresult {
    enter("cuDevicePrimaryCtxGetState", |driver| {
        let device = &driver.devices[driver.device(device)?];
        flags.set(device.primary_flags)?;
        active.set((device.primary_users > 0).into())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) -> CUresult {
    enter("cuDevicePrimaryCtxSetFlags_v2", |driver| {
        let index = driver.device(device)?;
        driver.devices[index].primary_flags = flags;
        Ok(())
    })
}

fn create(driver: &mut Driver, context: &Out<Handle>, flags: c_uint, device: c_int) -> Outcome {
    let device = driver.device(device)?;
    context.check()?;
    let handle = driver.handle();
    driver.open_context(handle, device, flags);
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
    context.set(handle)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(context: Out<Handle>, flags: c_uint, device: c_int) -> CUresult {
    enter("cuCtxCreate_v2", |driver| {
        create(driver, &context, flags, device)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(
    context: Out<Handle>,
    parameters: *const c_void,
    flags: c_uint,
    device: c_int,
) -> CUresult {
    enter("cuCtxCreate_v4", |driver| {
        if !parameters.is_null() {
            return fail(NOT_SUPPORTED, "parameters of contexts are not emulated");
        }
        create(driver, &context, flags, device)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Handle) -> CUresult {
    enter("cuCtxDestroy_v2", |driver| {
        if !driver.contexts.contains_key(&context) {
            return fail(INVALID_CONTEXT, "not a context, or a destroyed one");
        }
        if driver.devices.iter().any(|d| d.primary == context) {
            return fail(
                INVALID_CONTEXT,
                "a primary context is released, not destroyed",
            );
        }
        driver.close_context(context);
        CURRENT.with_borrow_mut(|stack| stack.pop_if(|top| *top == context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> CUresult {
    enter("cuCtxSetCurrent", |driver| {
        if context != Handle::NULL && !driver.contexts.contains_key(&context) {
            return fail(INVALID_CONTEXT, "not a context, or a destroyed one");
        }
        CURRENT.with_borrow_mut(|stack| {
            stack.pop();
            if context != Handle::NULL {
                stack.push(context);
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: Out<Handle>) -> CUresult {
    enter("cuCtxGetCurrent", |_| {
        context.set(top().unwrap_or(Handle::NULL))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> CUresult {
    enter("cuCtxPushCurrent_v2", |driver| {
        if !driver.contexts.contains_key(&context) {
            return fail(INVALID_CONTEXT, "not a context, or a destroyed one");
        }
        CURRENT.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(context: Out<Handle>) -> CUresult {
    enter("cuCtxPopCurrent_v2", |_| {
        match CURRENT.with_borrow_mut(Vec::pop) {
            Some(popped) => {
                context.set_if_wanted(popped);
                Ok(())
            }
            None => fail(INVALID_CONTEXT, "no context is current on this thread"),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(device: Out<c_int>) -> CUresult {
    enter("cuCtxGetDevice", |driver| {
        let context = current_at_all(driver)?;
        device.set(driver.contexts[&context].device as c_int)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetFlags(flags: Out<c_uint>) -> CUresult {
    enter("cuCtxGetFlags", |driver| {
        let context = current_at_all(driver)?;
        flags.set(driver.contexts[&context].flags)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: c_uint) -> CUresult {
    enter("cuCtxSetFlags", |driver| {
        let context = current(driver)?;
        if let Some(context) = driver.contexts.get_mut(&context) {
            context.flags = flags;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) -> CUresult {
    enter("cuCtxGetStreamPriorityRange", |driver| {
        current(driver)?;
        least.set_if_wanted(LIMITS.priorities.0);
        greatest.set_if_wanted(LIMITS.priorities.1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> CUresult {
    enter("cuCtxSynchronize", |driver| {
        let context = current(driver)?;
        driver.none_captured(context)?;
        driver.wait_for_context(context);
        driver.healthy(context)
    })
}
