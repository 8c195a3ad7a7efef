//! Cases of `maxsim`: scores within their bound, and winners that are as good as any up to what the bounds leave open.
//! Broken variant: the document token that won for a query token turns away from it.

use nearmiss::device::{Device, DeviceKind, ElementType, Float};
use nearmiss::ops::maxsim::{NO_WINNER, Reduction, error_bound, maxsim, reference};
use nearmiss::ops::{PackedTexts, PairList, Pairs, Tokens};

use super::{
    Case, Noise, Outcome, Output, POISONS, anywhere, cast, each, line, rounding, sum, twice,
    where_bindings_end, with_small_bindings, with_type, worst_ratio,
};

#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Tokens of each query.
    queries: &'static [usize],
    /// Tokens of each document.
    documents: &'static [usize],
    d: usize,
    /// Every how many-eth pair is listed, from the last to the first (0: all pairs, not listed).
    listed: usize,
    reduction: Reduction,
    /// Places for winners beyond the longest query's tokens; none wanted if absent.
    winners: Option<usize>,
    /// Document tokens repeat after so many (0: they do not), which makes exact ties.
    period: usize,
}

const PLAIN: Shape = Shape {
    queries: &[5],
    documents: &[7, 1, 64],
    d: 64,
    listed: 0,
    reduction: Reduction::Mean,
    winners: Some(0),
    period: 0,
};

pub fn cases() -> Vec<Case> {
    let shapes = [
        PLAIN,
        Shape {
            queries: &[],
            ..PLAIN
        },
        Shape {
            documents: &[],
            ..PLAIN
        },
        Shape {
            queries: &[0, 3, 1],
            documents: &[0, 2, 0, 31],
            d: 8,
            reduction: Reduction::Sum,
            winners: Some(2),
            ..PLAIN
        },
        Shape {
            queries: &[32, 33, 1],
            documents: &[127, 129, 257, 128],
            d: 32,
            ..PLAIN
        },
        Shape {
            queries: &[70],
            documents: &[300, 20],
            d: 128,
            reduction: Reduction::Sum,
            ..PLAIN
        },
        Shape {
            queries: &[31, 65],
            documents: &[130, 33],
            d: 384,
            winners: None,
            ..PLAIN
        },
        Shape {
            queries: &[9],
            documents: &[17, 40],
            d: 1024,
            ..PLAIN
        },
        Shape {
            queries: &[33],
            documents: &[300, 130],
            d: 40,
            period: 11,
            ..PLAIN
        },
        Shape {
            queries: &[4, 37, 0, 12],
            documents: &[40, 0, 150, 3, 65],
            d: 72,
            listed: 3,
            ..PLAIN
        },
        Shape {
            queries: &[4, 37],
            documents: &[40, 150, 3, 65],
            d: 16,
            listed: 1,
            winners: None,
            reduction: Reduction::Sum,
            ..PLAIN
        },
        // Queries of which a block takes 64 tokens at a time, and 128.
        Shape {
            queries: &[40, 65, 0, 130],
            documents: &[129, 1, 0, 300],
            d: 72,
            period: 40,
            ..PLAIN
        },
        Shape {
            queries: &[257, 100, 0, 128],
            documents: &[130, 0, 33],
            d: 40,
            winners: None,
            reduction: Reduction::Sum,
            ..PLAIN
        },
        // Documents that the CPU takes one by one, and beside them short ones.
        Shape {
            queries: &[3; 90],
            documents: &[600, 1, 2, 513, 5],
            d: 8,
            winners: None,
            ..PLAIN
        },
    ];
    let mut cases: Vec<Case> = shapes
        .into_iter()
        .map(|shape| Case {
            op: "maxsim",
            name: format!("{shape:?}"),
            on: anywhere,
            run: Box::new(move |device| all_types(device, shape)),
        })
        .collect();
    // Documents larger than one binding, on a device that is told so (only wgpu has such a limit).
    cases.push(Case {
        op: "maxsim",
        name: "larger than one binding".into(),
        on: where_bindings_end,
        run: Box::new(|device| {
            let shape = |listed| Shape {
                queries: &[5, 9],
                documents: &[100, 90, 0, 80, 120, 33, 101, 44],
                d: 64,
                listed,
                ..PLAIN
            };
            with_small_bindings(device, |small| {
                Ok(sum([
                    all_types(small, shape(0))?,
                    all_types(small, shape(2))?,
                ]))
            })
        }),
    });
    cases
}

/// Element types of token vectors that a device multiplies: stored tokens are f16 everywhere; only tensor cores insist.
pub fn token_types(device: &Device) -> &'static [ElementType] {
    match device.kind() {
        DeviceKind::Cuda => &[ElementType::F16],
        _ => &[ElementType::F16, ElementType::F32],
    }
}

fn all_types(device: &Device, shape: Shape) -> Result<Outcome, String> {
    each(
        token_types(device),
        |element| with_type!(element, T => case::<T>(device, shape)),
    )
}

/// Random token vectors of about unit length, and their offsets.
pub fn tokens(
    noise: &mut Noise,
    lengths: &[usize],
    d: usize,
    period: usize,
) -> (Vec<f32>, Vec<u32>) {
    let mut rows = Vec::new();
    let mut offsets = vec![0];
    for &l in lengths {
        let mut text = noise.normal(l * d, 1.0 / (d as f32).sqrt());
        if period > 0 {
            for i in (period * d)..text.len() {
                text[i] = text[i - period * d];
            }
        }
        rows.extend(text);
        offsets.push((rows.len() / d) as u32);
    }
    (rows, offsets)
}

fn case<T: Float>(device: &Device, shape: Shape) -> Result<Outcome, String> {
    let d = shape.d;
    let mut noise = Noise::new(d * 31 + shape.queries.len() + shape.period);
    let (queries, q_offsets) = tokens(&mut noise, shape.queries, d, 0);
    let (documents, c_offsets) = tokens(&mut noise, shape.documents, d, shape.period);
    let (n_q, n_c) = (shape.queries.len(), shape.documents.len());
    let mut pairs: Vec<[u32; 2]> = (0..n_q as u32)
        .flat_map(|q| (0..n_c as u32).map(move |c| [q, c]))
        .collect();
    if shape.listed > 0 {
        pairs = pairs.into_iter().rev().step_by(shape.listed).collect();
    }
    let longest = shape.queries.iter().max().unwrap_or(&0) + shape.winners.unwrap_or(0);
    let run = |poison, documents: &[f32]| -> nearmiss::Result<(Vec<f32>, Vec<u32>)> {
        let q_packing = PackedTexts::new(device, q_offsets.clone())?;
        let c_packing = PackedTexts::new(device, c_offsets.clone())?;
        let asked = device.upload(&cast::<T>(&queries))?;
        let stored = device.upload(&cast::<T>(documents))?;
        let list = PairList::new(device, pairs.clone())?;
        let mut scores = Output::<f32>::new(device, pairs.len(), poison)?;
        let mut winners = match shape.winners {
            Some(_) => Some(Output::<u32>::new(device, pairs.len() * longest, poison)?),
            None => None,
        };
        maxsim(
            Tokens {
                rows: asked.as_slice(),
                packing: &q_packing,
            },
            Tokens {
                rows: stored.as_slice(),
                packing: &c_packing,
            },
            d,
            if shape.listed > 0 {
                Pairs::Listed(&list)
            } else {
                Pairs::All
            },
            shape.reduction,
            scores.target(),
            winners.as_mut().map(Output::target),
        )?;
        let winners = winners.map(|w| w.read()).transpose()?;
        Ok((scores.read()?, winners.unwrap_or_default()))
    };
    let text = |rows: &'_ [f32], offsets: &[u32], i: u32| {
        rows[offsets[i as usize] as usize * d..offsets[i as usize + 1] as usize * d].to_vec()
    };
    let rules = rounding(device);
    let (got, winners) = twice(|poison| run(poison, &documents))?;
    let (mut want, mut bounds) = (Vec::new(), Vec::new());
    // A row of the documents to break, with what it is to become.
    let mut target = None;
    for (p, &[q, c]) in pairs.iter().enumerate() {
        let (query, document) = (
            text(&queries, &q_offsets, q),
            text(&documents, &c_offsets, c),
        );
        let (score, exact) = reference::<f64>(&query, &document, d, shape.reduction);
        let (bound, of_product) = error_bound(&query, &document, d, shape.reduction, &rules);
        want.push(score);
        bounds.push(bound);
        if shape.winners.is_some() {
            let found = &winners[p * longest..(p + 1) * longest];
            judge_winners(found, &query, &document, d, of_product)
                .map_err(|e| format!("query {q}, document {c}: {e}"))?;
        }
        if let Some(&winner) = exact.first()
            && winner != NO_WINNER
            && shape.period == 0
        {
            target = Some((c_offsets[c as usize] + winner, query[..d].to_vec()));
        }
    }
    let worst = worst_ratio(&got, &want, &bounds);
    if worst > 1.0 {
        return Err(format!("error is {worst:.3} times the bound"));
    }
    let mut outcome = Outcome {
        elements: want.len() as u64,
        worst,
        arithmetic_f32: worst,
        ..Outcome::default()
    };
    if let Some((row, query)) = target {
        let mut wrong = documents.clone();
        for (v, q) in wrong[row as usize * d..][..d].iter_mut().zip(&query) {
            *v = -q;
        }
        let broken = run(POISONS[0], &wrong).map_err(line)?.0;
        if worst_ratio(&broken, &want, &bounds) <= 1.0 {
            return Err("the broken variant passes: the test cannot fail".into());
        }
        outcome.rejected += 1;
    }
    Ok(outcome)
}

/// The winner of each query token must be as good as the best up to both their errors, and of equal tokens the first.
fn judge_winners(
    found: &[u32],
    query: &[f32],
    document: &[f32],
    d: usize,
    bound: f64,
) -> Result<(), String> {
    let l_q = query.len() / d;
    if found[l_q..].iter().any(|&w| w != NO_WINNER) {
        return Err("a winner of a token that is not there".into());
    }
    for (i, (q, &winner)) in query.chunks_exact(d).zip(found).enumerate() {
        let products: Vec<f64> = document
            .chunks_exact(d)
            .map(|c| {
                q.iter()
                    .zip(c)
                    .map(|(&a, &b)| f64::from(a) * f64::from(b))
                    .sum()
            })
            .collect();
        if products.is_empty() && winner == NO_WINNER {
            continue;
        }
        let Some(&product) = products.get(winner as usize) else {
            return Err(format!(
                "query token {i}: winner {winner} of {}",
                products.len()
            ));
        };
        let best = products.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if product < best - 2.0 * bound {
            return Err(format!(
                "query token {i}: {winner} won with {product}, best {best}"
            ));
        }
        let token = |j: usize| &document[j * d..(j + 1) * d];
        let winner = winner as usize;
        if let Some(first) = (0..winner).find(|&j| token(j) == token(winner)) {
            return Err(format!(
                "query token {i}: {winner} won, {first} is the same"
            ));
        }
    }
    Ok(())
}
