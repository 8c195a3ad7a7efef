//! Cases of `embedding`; broken variant: positions of the last token ignored.

use nearmiss::Device;
use nearmiss::device::{ElementType, Float};
use nearmiss::ops::TokenIds;
use nearmiss::ops::embedding::{Tables, embedding, error_bound, reference};

use super::{
    AWKWARD, Case, Noise, Outcome, activations, cast, judge, line, rounding, sum, with_type,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for t in AWKWARD {
        for d in [8, 72, 384] {
            cases.push(Case {
                op: "embedding",
                name: format!("t={t},d={d}"),
                run: Box::new(move |device| {
                    let types: &[ElementType] = activations(device);
                    let outcomes: Result<Vec<Outcome>, String> = types
                        .iter()
                        .map(|&element| with_type!(element, T => case::<T>(device, t, d)))
                        .collect();
                    Ok(sum(outcomes?))
                }),
            });
        }
    }
    cases
}

fn case<T: Float>(device: &Device, t: usize, d: usize) -> Result<Outcome, String> {
    let (vocab, max_positions) = (37, 2048);
    let mut noise = Noise::new(t * 1000 + d);
    let word = noise.normal(vocab * d, 1.0);
    let position = noise.normal(max_positions * d, 0.5);
    let token_type = noise.normal(2 * d, 0.5);
    let ids: Vec<u32> = (0..t).map(|_| noise.below(vocab) as u32).collect();
    let positions: Vec<u32> = (0..t as u32).collect();
    let run = |positions: &[u32]| {
        let upload = |values: &[f32]| device.upload(&cast::<T>(values));
        let (word, position, token_type) =
            (upload(&word)?, upload(&position)?, upload(&token_type)?);
        let tables = Tables {
            word: word.as_slice(),
            position: position.as_slice(),
            token_type: token_type.as_slice(),
            d,
        };
        let mut x = device.alloc::<f32>(t * d)?;
        embedding(&tables, &TokenIds::new(device, &ids, positions)?, &mut x)?;
        x.read()
    };
    let got = run(&positions).map_err(line)?;
    let mut wrong = positions.clone();
    if let Some(last) = wrong.last_mut() {
        *last = 0;
    }
    let broken = if t > 1 {
        Some(run(&wrong).map_err(line)?)
    } else {
        None
    };
    let tables = [&word[..], &position, &token_type];
    let want = reference::<f64>(tables, &ids, &positions, d);
    let bound = error_bound(tables, &ids, &positions, d, &rounding(device));
    judge(&got, broken.as_deref(), &want, &bound)
}
