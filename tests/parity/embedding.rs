//! Cases of `embedding`; broken variant: positions of the last token ignored.

use nearmiss::Device;
use nearmiss::device::Float;
use nearmiss::ops::TokenIds;
use nearmiss::ops::embedding::{Tables, embedding, error_bound, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, activations, anywhere, cast, each, judge, line,
    on_cuda, rounding, twice, with_type,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for t in AWKWARD {
        for d in [8, 72, 384] {
            cases.push(Case {
                op: "embedding",
                name: format!("t={t},d={d}"),
                on: anywhere,
                run: Box::new(move |device| {
                    each(
                        activations(device),
                        |element| with_type!(element, T => case::<T>(device, t, d, false)),
                    )
                }),
            });
        }
    }
    // Tables of f32 on CUDA: rows of less than a block, of one unit per thread, and of more than one.
    cases.extend([8, 72, 1024, 1032].map(|d| Case {
        op: "embedding",
        name: format!("the bits of the CPU: t=67,d={d}"),
        on: on_cuda,
        run: Box::new(move |device| case::<f32>(device, 67, d, true)),
    }));
    cases
}

/// With `as_cpu` the CPU has to give the same bits: two additions in the same order, of which no rounding differs.
fn case<T: Float>(device: &Device, t: usize, d: usize, as_cpu: bool) -> Result<Outcome, String> {
    let (vocab, max_positions) = (37, 2048);
    let mut noise = Noise::new(t * 1000 + d);
    let word = noise.normal(vocab * d, 1.0);
    let position = noise.normal(max_positions * d, 0.5);
    let token_type = noise.normal(2 * d, 0.5);
    let ids: Vec<u32> = (0..t).map(|_| noise.below(vocab) as u32).collect();
    let positions: Vec<u32> = (0..t as u32).collect();
    let run = |device: &Device, poison, positions: &[u32]| {
        let upload = |values: &[f32]| device.upload(&cast::<T>(values));
        let (word, position, token_type) =
            (upload(&word)?, upload(&position)?, upload(&token_type)?);
        let tables = Tables {
            word: word.as_slice(),
            position: position.as_slice(),
            token_type: token_type.as_slice(),
            d,
        };
        let mut x = Output::<f32>::new(device, t * d, poison)?;
        embedding(
            &tables,
            &TokenIds::new(device, &ids, positions)?,
            x.target(),
        )?;
        x.read()
    };
    let got = twice(|poison| run(device, poison, &positions))?;
    if as_cpu && got != run(&Device::cpu(), POISONS[0], &positions).map_err(line)? {
        return Err("other bits than on the CPU".into());
    }
    let mut wrong = positions.clone();
    if let Some(last) = wrong.last_mut() {
        *last = 0;
    }
    let broken = if t > 1 {
        Some(run(device, POISONS[0], &wrong).map_err(line)?)
    } else {
        None
    };
    let tables = [&word[..], &position, &token_type];
    let want = reference::<f64, _>(tables, &ids, &positions, d);
    let rounding = rounding(device);
    let bound = |_| error_bound(tables, &ids, &positions, d, &rounding);
    judge(&got, broken.as_deref(), &want, bound, &rounding)
}
