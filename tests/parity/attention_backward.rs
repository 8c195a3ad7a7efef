//! Cases of `attention_backward`; broken variant: another mask; without dropout, the statistics of another row.

use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::attention::{WorkList, reference_saving};
use nearmiss::ops::attention_backward::{
    Forward, Inputs, attention_backward, error_bound, reference,
};
use nearmiss::ops::dropout::{Mask, Site};
use nearmiss::ops::{Origins, PackedTexts};

use super::attention::{numbers_of, offsets_of};
use super::{
    Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line, on_cuda,
    rounding, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    let mixed = [64, 65, 32, 20, 0, 130, 2, 191, 16, 63];
    // Few shapes of heads: each takes a software adapter a while to compile.
    let table: [(&[usize], usize, usize, f32, f32); 11] = [
        (&[], 3, 32, 1.0, 0.1),
        (&[1], 3, 32, 1.0, 0.5),
        (&[31, 1, 0, 33], 3, 32, 1.0, 0.0),
        (&[31, 1, 0, 33], 3, 32, 1.0, 0.1),
        (&mixed, 3, 32, 1.0, 0.0),
        (&mixed, 3, 32, 1.0, 0.1),
        (&[257, 3], 3, 32, 5.0, 0.1),
        (&[97, 33, 40], 3, 64, 1.0, 0.0),
        (&[97, 33, 40], 3, 64, 5.0, 0.25),
        (&[193, 5], 3, 64, 1.0, 0.1),
        (&[33, 20], 1, 384, 1.0, 0.5),
    ];
    let case = |(lengths, n_heads, head_dim, size, rate): (&[usize], _, _, _, _)| {
        let lengths = lengths.to_vec();
        Case {
            op: "attention_backward",
            name: format!("lengths={lengths:?},heads={n_heads}x{head_dim},size={size},rate={rate}"),
            on: if head_dim > 64 { but_cuda } else { anywhere },
            run: Box::new(move |device| {
                let shape = (n_heads, head_dim);
                each(
                    activations(device),
                    |element| with_type!(element, A => one::<A>(device, &lengths, shape, size, rate)),
                )
            }),
        }
    };
    table.map(case).into()
}

/// The PTX kernel has heads of 32 and 64.
fn but_cuda(device: &Device) -> bool {
    !on_cuda(device)
}

fn one<A: Float>(
    device: &Device,
    lengths: &[usize],
    (n_heads, head_dim): (usize, usize),
    size: f32,
    rate: f32,
) -> Result<Outcome, String> {
    let (offsets, numbers) = (offsets_of(lengths), numbers_of(lengths));
    let t = *offsets.last().expect("never empty") as usize;
    let d = n_heads * head_dim;
    let mut noise = Noise::new(t * 37 + d);
    let qkv = noise.normal(t * 3 * d, size);
    let d_context = noise.normal(t * d, 1.0);
    let mask = Mask::new(rate, 7, 3, 1, Site::Probabilities);
    let dropped = |mask| (rate > 0.0).then_some((mask, &numbers[..]));
    // What a forward would have given, as far as the element types hold it.
    let (context, statistics) =
        reference_saving::<f64>(&qkv, &offsets, n_heads, head_dim, dropped(mask));
    let context: Vec<f32> = context
        .iter()
        .map(|&v| half::f16::from_f64(v).to_f32())
        .collect();
    let statistics: Vec<f32> = statistics.iter().map(|&v| v as f32).collect();
    let run = |poison, mask: Mask, statistics: &[f32]| {
        let packing = PackedTexts::new(device, offsets.clone())?;
        let work = WorkList::new(&packing)?;
        let origins = Origins::new(&packing, &numbers)?;
        let (qkv, context) = (
            device.upload(&cast::<A>(&qkv))?,
            device.upload(&cast::<A>(&context))?,
        );
        let statistics = device.upload(statistics)?;
        let forward = Forward {
            qkv: qkv.as_slice(),
            context: context.as_slice(),
            statistics: statistics.as_slice(),
            mask: (rate > 0.0).then_some((mask, &origins)),
            texts: &packing,
            work: &work,
            n_heads,
            head_dim,
        };
        let mut d_qkv = Output::<A>::new(device, t * 3 * d, poison)?;
        let d_context = device.upload(&cast::<A>(&d_context))?;
        attention_backward(&forward, &d_context, d_qkv.target())?;
        d_qkv.read()
    };
    let got = twice(|poison| run(poison, mask, &statistics))?;
    let broken = if t < 2 {
        None
    } else if rate > 0.0 {
        let other = Mask::new(rate, 7, 4, 1, Site::Probabilities);
        Some(run(POISONS[0], other, &statistics).map_err(line)?)
    } else {
        let mut wrong = statistics.clone();
        wrong.swap(0, n_heads);
        Some(run(POISONS[0], mask, &wrong).map_err(line)?)
    };
    let inputs = Inputs {
        qkv: &qkv,
        context: &context,
        statistics: &statistics,
        d_context: &d_context,
        offsets: &offsets,
        n_heads,
        head_dim,
        dropped: dropped(mask),
    };
    let want = reference::<f64>(&inputs);
    let rounding = rounding(device);
    let bound = |bytes| error_bound(&inputs, bytes, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
