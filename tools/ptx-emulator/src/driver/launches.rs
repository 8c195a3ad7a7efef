//! Functions: their attributes, how many blocks fit, and launching them.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::LIMITS;
use super::codes::*;
use super::contexts::current;
use super::ffi::{Handle, List, Out, enter, host_read};
use super::state::{Driver, Function, Work};

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
const DYNAMIC_SHARED: c_uint = 8;
/// `CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT`
const CARVEOUT: c_uint = 9;

/// What a function is said to need at most. PTX has as many registers as a kernel likes, so this is an upper bound, and
/// occupancy does not take registers into account.
const REGISTERS: usize = 255;

fn find(driver: &mut Driver, function: Handle) -> Outcome<&mut Function> {
    match driver.functions.get_mut(&function) {
        Some(function) => Ok(function),
        None => fail(
            INVALID_HANDLE,
            "not a function, or one of an unloaded module",
        ),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(
    to: Out<c_int>,
    attribute: c_uint,
    function: Handle,
) -> CUresult {
    enter("cuFuncGetAttribute", |driver| {
        current(driver)?;
        let function = find(driver, function)?;
        let entry = &function.entry;
        to.set(match attribute {
            0 => entry.max_threads.min(LIMITS.block) as c_int, // MAX_THREADS_PER_BLOCK
            1 => entry.static_shared as c_int,                 // SHARED_SIZE_BYTES
            3 => entry.local_bytes as c_int,                   // LOCAL_SIZE_BYTES
            4 => entry.registers().min(REGISTERS) as c_int,    // NUM_REGS
            5 => function.version,                             // PTX_VERSION
            6 => 10 * LIMITS.capability.0 + LIMITS.capability.1, // BINARY_VERSION
            DYNAMIC_SHARED => function.dynamic as c_int,
            CARVEOUT => function.carveout,
            // Constants, caches and clusters, of which there are none.
            2 | 7 | 10..=15 => 0,
            _ => return fail(INVALID_VALUE, format!("there is no attribute {attribute}")),
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(
    function: Handle,
    attribute: c_uint,
    value: c_int,
) -> CUresult {
    enter("cuFuncSetAttribute", |driver| {
        current(driver)?;
        let function = find(driver, function)?;
        match attribute {
            DYNAMIC_SHARED => {
                let most = LIMITS
                    .shared_on_request
                    .saturating_sub(function.entry.static_shared);
                match u32::try_from(value) {
                    Ok(bytes) if bytes <= most => function.dynamic = bytes,
                    _ => {
                        return refuse(
                            INVALID_VALUE,
                            &function.entry.name,
                            &format!("{value} bytes of dynamic shared memory, of at most {most}"),
                        );
                    }
                }
            }
            CARVEOUT if (-1..=100).contains(&value) => function.carveout = value,
            _ => return fail(INVALID_VALUE, format!("attribute {attribute} = {value}")),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetModule(to: Out<Handle>, function: Handle) -> CUresult {
    enter("cuFuncGetModule", |d| to.set(find(d, function)?.module))
}

/// The name is valid until the module is unloaded.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetName(to: Out<*const c_char>, function: Handle) -> CUresult {
    enter("cuFuncGetName", |d| {
        to.set(find(d, function)?.name.as_ptr())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamInfo(
    function: Handle,
    index: usize,
    offset: Out<usize>,
    bytes: Out<usize>,
) -> CUresult {
    enter("cuFuncGetParamInfo", |driver| {
        let function = find(driver, function)?;
        let Some(parameter) = function.entry.parameters.get(index) else {
            return fail(INVALID_VALUE, format!("there is no parameter {index}"));
        };
        offset.set(parameter.offset)?;
        bytes.set_if_wanted(parameter.bytes);
        Ok(())
    })
}

// --- occupancy ---

fn occupancy(
    driver: &mut Driver,
    blocks: &Out<c_int>,
    function: Handle,
    threads: c_int,
    shared: usize,
) -> Outcome {
    current(driver)?;
    let function = find(driver, function)?;
    let entry = &function.entry;
    let Ok(threads @ 1..) = u32::try_from(threads) else {
        return fail(INVALID_VALUE, format!("blocks of {threads} threads"));
    };
    let shared = u32::try_from(shared).unwrap_or(u32::MAX);
    if threads > entry.max_threads.min(LIMITS.block) || shared > function.dynamic {
        return blocks.set(0);
    }
    // A warp is the unit of threads.
    let by_threads = LIMITS.threads_per_multiprocessor / threads.next_multiple_of(32);
    let block = entry.shared_bytes(shared) + LIMITS.shared_reserved;
    let by_shared = LIMITS.shared_per_multiprocessor / block;
    let fit = by_threads
        .min(by_shared)
        .min(LIMITS.blocks_per_multiprocessor);
    blocks.set(fit as c_int)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: Out<c_int>,
    function: Handle,
    threads: c_int,
    shared: usize,
) -> CUresult {
    enter("cuOccupancyMaxActiveBlocksPerMultiprocessor", |driver| {
        occupancy(driver, &blocks, function, threads, shared)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: Out<c_int>,
    function: Handle,
    threads: c_int,
    shared: usize,
    flags: c_uint,
) -> CUresult {
    enter(
        "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
        |driver| match flags {
            0 | 1 => occupancy(driver, &blocks, function, threads, shared),
            _ => fail(INVALID_VALUE, format!("unknown flags {flags:#x}")),
        },
    )
}

// --- launching ---

/// Refuses a request about a kernel, and says so where a person sees it: the driver's code alone is little help.
fn refuse<T>(code: CUresult, entry: &str, why: &str) -> Outcome<T> {
    let text = format!("{entry}: {why}");
    eprintln!("ptx-emulator: {text}");
    fail(code, text)
}

/// What is wrong with the form of a launch.
fn mistake(function: &Function, grid: [u32; 3], block: [u32; 3], shared: u32) -> Option<String> {
    let shape = |[x, y, z]: [u32; 3]| format!("{x} x {y} x {z}");
    let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
    let most = function.entry.max_threads.min(LIMITS.block);
    if grid.contains(&0) || block.contains(&0) {
        return Some(format!(
            "an empty launch, {} blocks of {} threads",
            shape(grid),
            shape(block)
        ));
    }
    if grid[0] > LIMITS.grid_x || grid[1].max(grid[2]) > LIMITS.grid_yz {
        return Some(format!(
            "{} blocks; the most are {}",
            shape(grid),
            shape([LIMITS.grid_x, LIMITS.grid_yz, LIMITS.grid_yz])
        ));
    }
    if block[0].max(block[1]) > LIMITS.block || block[2] > LIMITS.block_z || threads > most.into() {
        return Some(format!(
            "blocks of {} threads; the kernel allows {most}, at most {} of them in z",
            shape(block),
            LIMITS.block_z
        ));
    }
    if shared > function.dynamic {
        return Some(format!(
            "{shared} bytes of dynamic shared memory; {} are allowed, more by cuFuncSetAttribute",
            function.dynamic
        ));
    }
    None
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: Handle,
    parameters: List<*const c_void>,
    extra: List<*mut c_void>,
) -> CUresult {
    enter("cuLaunchKernel", |driver| {
        let context = current(driver)?;
        let place = driver.place(context, stream)?;
        let handle = function;
        let function = find(driver, handle)?;
        if function.context != context {
            return fail(INVALID_HANDLE, "a function of another context");
        }
        let entry = Arc::clone(&function.entry);
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        if let Some(why) = mistake(function, grid, block, shared) {
            return refuse(INVALID_VALUE, &entry.name, &why);
        }
        if !extra.is_null() {
            let why = "parameters in one buffer are not emulated; hand over one pointer each";
            return refuse(NOT_SUPPORTED, &entry.name, why);
        }
        let mut packed = vec![0; entry.parameter_bytes];
        for (i, parameter) in entry.parameters.iter().enumerate() {
            let pointer = match parameters.is_null() {
                true => std::ptr::null(),
                false => parameters.get(i)?,
            };
            if pointer.is_null() {
                let why = format!("a null pointer for parameter {i}, {}", parameter.name);
                return refuse(INVALID_VALUE, &entry.name, &why);
            }
            let value = host_read(pointer.expose_provenance(), parameter.bytes);
            packed[parameter.offset..][..parameter.bytes].copy_from_slice(&value);
        }
        let work = Work::Kernel {
            function: handle,
            entry,
            grid,
            block,
            shared,
            parameters: packed,
        };
        driver.submit(context, place, work)?;
        driver.healthy(context)
    })
}
