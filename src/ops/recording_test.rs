//! Operators in recorded work: what a graph computes, what it refuses, and whose memory it takes.

use crate::device::{Buffer, Device};
use crate::error::Result;
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

fn cuda() -> (Device, Buffer<f32>) {
    let device = Device::cuda(0).unwrap();
    let table: Vec<f32> = (0..32).map(|row| row as f32).collect();
    let table = device.upload(&table).unwrap();
    (device, table)
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_graph_computes_from_what_its_inputs_hold_at_launch() {
    let (device, table) = cuda();
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
#[ignore = "needs a CUDA device"]
fn what_cannot_be_recorded_is_refused_and_leaves_the_device_usable() {
    let (device, table) = cuda();
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
#[ignore = "needs a CUDA device"]
fn others_use_the_device_while_one_thread_records() {
    let (device, table) = cuda();
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
#[ignore = "needs a CUDA device"]
fn memory_stays_with_the_graph_until_its_last_user_is_gone() {
    let (device, table) = cuda();
    for caching in [true, false] {
        device.set_memory_caching(caching);
        let before = device.memory().in_use;
        let ids = tokens(&device, &[2]);
        let mut graph = device.record(ids, |ids| look_up(&table, ids)).unwrap();
        assert!(device.memory().in_use > before);
        // None of the graph's memory is given to others.
        let others: Vec<_> = (0..4)
            .map(|_| look_up(&table, graph.inputs_mut()))
            .collect();
        drop(others);
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
