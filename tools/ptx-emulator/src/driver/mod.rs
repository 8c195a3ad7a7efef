//! The CUDA driver library, as far as programs here use it.
//!
//! Linked as a shared object under the name `libcuda.so.1`, this is what a program finds that looks for a driver. The
//! functions are the driver's own, by name and by binary interface; each does what NVIDIA's documentation says, on the
//! emulator instead of a GPU. Every other function that the binding crate `cudarc` knows is there as well, answers
//! `CUDA_ERROR_NOT_SUPPORTED` and says so once on standard error ([`STUBS`]).
//!
//! What differs from a GPU, on purpose:
//! - work on a stream is done as late as possible (`state`), so that a host that does not wait gets no result;
//! - a launch that the checker objects to spoils the context, as a fault does on hardware, and `cuGetErrorString` of the
//!   code then gives the checker's line instead of the general words;
//! - a host buffer that changes before an asynchronous copy has read it is a fault too.
//!
//! Settings, besides those of [`crate::Options::from_environment`]:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PTX_EMULATOR_DEVICES` | number of devices (1) |
//! | `PTX_EMULATOR_MEMORY` | bytes of memory of each (8 GiB); also as `512M`, `8G` |
//! | `PTX_EMULATOR_MULTIPROCESSORS` | multiprocessors of each (4) |
//! | `PTX_EMULATOR_STREAMS` | `deferred` (the default) or `immediate` |
//! | `PTX_EMULATOR_COUNTS` | file to which one CSV row per launch is appended |
//! | `PTX_EMULATOR_VERBOSE` | `1`: why a call failed, on standard error |

mod codes;
mod contexts;
mod events;
mod ffi;
mod graphs;
mod launches;
mod memory;
mod modules;
mod state;
mod streams;
mod stubs;

pub use stubs::STUBS;

/// The driver's version: CUDA 12.9.
const VERSION: i32 = 12090;

/// What a device can do: the numbers of compute capability 8.0 (NVIDIA A100).
struct Limits {
    capability: (i32, i32),
    /// Threads of a block, in all and in the first two dimensions.
    block: u32,
    block_z: u32,
    grid_x: u32,
    grid_yz: u32,
    /// Shared memory of a block, in bytes: without asking, and with.
    shared: u32,
    shared_on_request: u32,
    /// What the driver itself takes of it per block.
    shared_reserved: u32,
    shared_per_multiprocessor: u32,
    threads_per_multiprocessor: u32,
    blocks_per_multiprocessor: u32,
    /// Of streams: least and greatest.
    priorities: (i32, i32),
}

const LIMITS: Limits = Limits {
    capability: (crate::CAPABILITY.0 as i32, crate::CAPABILITY.1 as i32),
    block: 1024,
    block_z: 64,
    grid_x: i32::MAX as u32,
    grid_yz: 0xffff,
    shared: 48 << 10,
    shared_on_request: crate::SHARED_LIMIT,
    shared_reserved: 1 << 10,
    shared_per_multiprocessor: crate::SHARED_LIMIT + (1 << 10),
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    priorities: (0, -5),
};
