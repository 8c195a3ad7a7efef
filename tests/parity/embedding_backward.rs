//! Cases of `embedding_backward`; broken variant: the gradients of the last 32 tokens are left out.

use nearmiss::Device;
use nearmiss::ops::TokenSegments;
use nearmiss::ops::embedding_backward::{
    TableGradients, embedding_backward, error_bound, reference,
};

use super::{
    AWKWARD, Case, Noise, Outcome, Output, POISONS, anywhere, judge, line, rounding, sum, twice,
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for t in AWKWARD {
        for d in [8, 72, 384] {
            cases.push(of(t, d, 37));
        }
    }
    // Three levels of pieces; rows of more than a block; words that hardly any token uses.
    cases.extend([of(2100, 64, 3), of(70, 1032, 37), of(5000, 8, 30_000)]);
    cases
}

fn of(t: usize, d: usize, vocab: usize) -> Case {
    Case {
        op: "embedding_backward",
        name: format!("t={t},d={d},vocab={vocab}"),
        on: anywhere,
        run: Box::new(move |device| case(device, t, d, vocab)),
    }
}

fn case(device: &Device, t: usize, d: usize, vocab: usize) -> Result<Outcome, String> {
    let (max_positions, types) = (64, 2);
    let mut noise = Noise::new(t * 1009 + d);
    let dx = noise.normal(t * d, 1.0);
    let before = [vocab, max_positions, types].map(|rows| noise.normal(rows * d, 1.0));
    // Texts of 61 tokens that begin with the same word.
    let positions: Vec<u32> = (0..t as u32).map(|i| i % 61).collect();
    let ids: Vec<u32> = positions
        .iter()
        .map(|&p| if p == 0 { 1 } else { noise.below(vocab) as u32 })
        .collect();
    let segments = TokenSegments::new(device, &ids, &positions).map_err(line)?;
    let run = |poison, dx: &[f32]| {
        let mut word = Output::holding(device, &before[0], poison)?;
        let mut position = Output::holding(device, &before[1], poison)?;
        let mut token_type = Output::holding(device, &before[2], poison)?;
        let gradients = TableGradients {
            word: word.target(),
            position: position.target(),
            token_type: token_type.target(),
            d,
        };
        embedding_backward(&device.upload(dx)?, &segments, gradients)?;
        Ok(((word.read()?, position.read()?), token_type.read()?))
    };
    let ((word, position), token_type) = twice(|poison| run(poison, &dx))?;
    let broken = if t > 0 {
        let mut wrong = dx.clone();
        wrong[t.saturating_sub(32) * d..].fill(0.0);
        let ((word, position), token_type) = run(POISONS[0], &wrong).map_err(line)?;
        Some([word, position, token_type])
    } else {
        None
    };
    let mut want = reference::<f64, _>(&dx, &ids, &positions, [vocab, max_positions, types], d);
    for (sums, before) in want.iter_mut().zip(&before) {
        for (sum, &before) in sums.iter_mut().zip(before) {
            *sum += f64::from(before);
        }
    }
    let rounding = rounding(device);
    let before = [&before[0][..], &before[1], &before[2]];
    let bounds = error_bound(&dx, &ids, &positions, before, d, &rounding);
    let outcomes: Result<Vec<Outcome>, String> = [word, position, token_type]
        .iter()
        .enumerate()
        .map(|(i, got)| {
            let wrong = broken.as_ref().map(|tables| &tables[i][..]);
            judge(got, wrong, &want[i], |_| bounds[i].clone(), &rounding)
        })
        .collect();
    Ok(sum(outcomes?))
}
