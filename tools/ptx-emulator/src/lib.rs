//! Executes PTX on the CPU and checks every step.
//!
//! GPU kernels written in PTX run here without a GPU: [`Module::parse`] reads the text that the driver would get,
//! [`launch`] executes a kernel of it on a [`Memory`]. Around that, the `driver` module exports the functions of the CUDA
//! driver library, so that a program which looks for `libcuda` finds this instead and runs unchanged.
//!
//! While it executes, it checks: accesses stay within their buffer and are aligned; no register and no byte is read
//! that was never written; threads that access the same bytes, one of them writing, are ordered by a barrier (or, from
//! block to block, by release and acquire); asynchronous copies are waited for; barriers and shuffles are reached by
//! all that they name. The first violation ends the launch with a [`Report`].
//!
//! Two schedules execute the same code: the lanes of a warp in lock step, or threads one after the other in a random
//! order up to the next collective. What is wrong under one of them only, or differs between the two, is a mistake of
//! the kernel as well.
//!
//! Limits: one device; no generic addresses; blocks that synchronise run one after the other, so that a block that
//! waits for a later one never ends; within a block, only barriers order accesses (not flags in memory); reads are
//! remembered per word, so threads that read and then write neighbouring halves of one word are taken for a race; and
//! `bar.warp.sync` of some lanes counts for the whole warp.

mod block;
mod code;
mod collective;
mod counters;
mod decode;
pub mod driver;
mod execute;
mod launch;
mod lex;
mod memory;
mod parse;
mod report;
mod scalar;
mod shadow;
mod sync;
mod table;
mod warp;

pub use code::{CAPABILITY, Entry, Module, Parameter, VERSION};
pub use counters::Counters;
pub use launch::{Launch, Options, SHARED_LIMIT, Schedule, Trace, launch};
pub use memory::Memory;
pub use parse::ParseError;
pub use report::{Kind, Report};
