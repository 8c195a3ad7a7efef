//! Graphs of captured work.

use std::ffi::c_ulonglong;

use super::codes::*;
use super::contexts::current;
use super::ffi::{Handle, List, Out, enter};

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(
    executable: Out<Handle>,
    graph: Handle,
    flags: c_ulonglong,
) -> CUresult {
    enter("cuGraphInstantiateWithFlags", |driver| {
        current(driver)?;
        executable.check()?;
        // Freeing at launch (1) concerns memory nodes, of which there are none; priorities of nodes (8) order nothing.
        if flags & !0b1001 != 0 {
            return fail(NOT_SUPPORTED, format!("flags {flags:#x} are not emulated"));
        }
        let Some(graph) = driver.graphs.get(&graph).cloned() else {
            return fail(INVALID_HANDLE, "not a graph, or a destroyed one");
        };
        let handle = driver.handle();
        driver.executables.insert(handle, graph);
        executable.set(handle)
    })
}

/// The number of nodes; their handles are not given out.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetNodes(
    graph: Handle,
    nodes: List<Handle>,
    count: Out<usize>,
) -> CUresult {
    enter("cuGraphGetNodes", |driver| {
        let Some(graph) = driver.graphs.get(&graph) else {
            return fail(INVALID_HANDLE, "not a graph, or a destroyed one");
        };
        if !nodes.is_null() {
            return fail(NOT_SUPPORTED, "handles of nodes are not emulated");
        }
        count.set(graph.nodes.len())
    })
}

/// Everything is where it has to be already.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: Handle, stream: Handle) -> CUresult {
    enter("cuGraphUpload", |driver| {
        let context = current(driver)?;
        driver.place(context, stream)?;
        if !driver.executables.contains_key(&executable) {
            return fail(
                INVALID_HANDLE,
                "not an executable graph, or a destroyed one",
            );
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> CUresult {
    enter("cuGraphLaunch", |driver| {
        let context = current(driver)?;
        let place = driver.place(context, stream)?;
        let Some(graph) = driver.executables.get(&executable).cloned() else {
            return fail(
                INVALID_HANDLE,
                "not an executable graph, or a destroyed one",
            );
        };
        if graph.context != context {
            return fail(INVALID_HANDLE, "an executable graph of another context");
        }
        driver.replay(context, place, &graph.nodes)?;
        driver.healthy(context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: Handle) -> CUresult {
    enter("cuGraphExecDestroy", |driver| {
        // Work of an earlier launch stands in the queues by itself.
        match driver.executables.remove(&executable) {
            Some(_) => Ok(()),
            None => fail(
                INVALID_HANDLE,
                "not an executable graph, or a destroyed one",
            ),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> CUresult {
    enter("cuGraphDestroy", |driver| {
        match driver.graphs.remove(&graph) {
            Some(_) => Ok(()),
            None => fail(INVALID_HANDLE, "not a graph, or a destroyed one"),
        }
    })
}
