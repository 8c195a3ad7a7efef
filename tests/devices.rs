//! Devices and their buffers: copies in turns, views, what is refused.

#[path = "common/needs.rs"]
mod needs;

use nearmiss::Device;
use nearmiss::device::{Buffer, DeviceKind, WgpuOptions};
use nearmiss::ops::matmul::{Epilogue, matmul};
use needs::Need;

/// Numbers without a pattern.
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32)
        .collect()
}

/// A device whose copies go in turns of so few bytes that small data cross them.
fn copies_in_turns_are_whole(device: &Device) {
    for n in [1, 15, 16, 17, 1000] {
        let values = numbers(n);
        let mut buffer = device.upload(&values).unwrap();
        assert_eq!(buffer.read().unwrap(), values, "{n} of {}", device.name());
        // One write behind the other, each across a turn, and a read in between.
        for at in (0..n.saturating_sub(10)).step_by(97) {
            buffer
                .write(at, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
                .unwrap();
            assert_eq!(buffer.read_range(at + 2..at + 5).unwrap(), [3.0, 4.0, 5.0]);
        }
        let other = device.upload(&values).unwrap();
        buffer.copy_from(0, &other).unwrap();
        assert_eq!(buffer.read().unwrap(), values);
    }
}

/// Many small writes without a wait: what lies aside is used again only when it has been copied.
fn writes_do_not_overtake_each_other(device: &Device) {
    let pieces: Vec<Buffer<u32>> = (0..200u32)
        .map(|i| device.upload(&[i, i + 1, i + 2]).unwrap())
        .collect();
    for (i, piece) in (0u32..).zip(pieces) {
        assert_eq!(piece.read().unwrap(), [i, i + 1, i + 2]);
    }
}

fn wgpu_in_turns() -> Need<Device> {
    let options = WgpuOptions {
        max_transfer: Some(64),
        ..WgpuOptions::default()
    };
    Need::new("wgpu", Device::wgpu(options))
}

fn cuda_in_turns() -> Need<Device> {
    Need::new("cuda", Device::cuda_with_staging(0, 128))
}

/// A product whose operands and result are ranges of larger buffers, beside one of whole buffers.
fn operators_take_views(device: Device) {
    let half = device.kind() != DeviceKind::Cpu;
    // 256 bytes are enough for every device.
    let (m, n, k, before) = (5, 8, 16, 128);
    let a: Vec<f32> = (0..m * k).map(|i| (i % 7) as f32 - 3.0).collect();
    let w: Vec<f32> = (0..n * k).map(|i| (i % 5) as f32 - 2.0).collect();
    let want: Vec<f32> = (0..m * n)
        .map(|i| (0..k).map(|c| a[i / n * k + c] * w[i % n * k + c]).sum())
        .collect();
    let padded = |values: &[f32]| -> Vec<f32> {
        let zeros = vec![9.0; before];
        [&zeros, values, &zeros].concat()
    };
    let mut out = device.upload(&vec![7f32; before + m * n + before]).unwrap();
    let result = out.as_slice_mut();
    let (mut head, rest) = result.split_at_mut(before);
    let (c, _) = rest.split_at_mut(m * n);
    let epilogue = Epilogue::default();
    if half {
        let cast = |v: &[f32]| {
            v.iter()
                .map(|&v| half::f16::from_f32(v))
                .collect::<Vec<_>>()
        };
        let (a, w) = (
            device.upload(&cast(&padded(&a))).unwrap(),
            device.upload(&cast(&padded(&w))).unwrap(),
        );
        let (a, w) = (
            a.slice(before..before + m * k),
            w.slice(before..before + n * k),
        );
        matmul(a, w, &epilogue, c, m, n).unwrap();
    } else {
        let (a, w) = (
            device.upload(&padded(&a)).unwrap(),
            device.upload(&padded(&w)).unwrap(),
        );
        let (a, w) = (
            a.slice(before..before + m * k),
            w.slice(before..before + n * k),
        );
        matmul(a, w, &epilogue, c, m, n).unwrap();
    }
    assert_eq!(head.reborrow().len(), before);
    let got = out.read().unwrap();
    assert_eq!(got[before..before + m * n], want, "{}", device.name());
    let around = got[..before].iter().chain(&got[before + m * n..]);
    assert!(around.copied().all(|v| v == 7.0), "{}", device.name());
}

/// A kernel reads 16 bytes at a time: a view that begins elsewhere is refused, and named.
fn views_that_kernels_cannot_read_are_refused(device: Device) {
    let rows = device.upload(&[half::f16::ONE; 64]).unwrap();
    let mut out = device.alloc::<f32>(8).unwrap();
    let refused = matmul(
        rows.slice(4..12),
        rows.slice(..64),
        &Epilogue::default(),
        &mut out,
        1,
        8,
    );
    let line = refused.unwrap_err().to_string();
    assert!(
        line.contains("begins at a multiple of") && line.contains('a'),
        "{line}"
    );
}

fn main() {
    let mut tests = needs::Tests::default();
    for device in &[wgpu_in_turns(), cuda_in_turns()] {
        tests.with(
            device,
            "copies_in_turns_are_whole",
            copies_in_turns_are_whole,
        );
        tests.with(
            device,
            "writes_do_not_overtake_each_other",
            writes_do_not_overtake_each_other,
        );
    }
    let devices = needs::devices();
    for device in &devices {
        needs::add!(tests, device => operators_take_views);
    }
    for device in &devices[1..] {
        needs::add!(tests, device => views_that_kernels_cannot_read_are_refused);
    }
    tests.run()
}
