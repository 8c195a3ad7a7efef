//! Operators that take listed pairs of equal lengths, as a verifier asks for them.

use half::f16;
use nearmiss::Result;
use nearmiss::device::{Buffer, Device};
use nearmiss::ops::{MapLayout, OpSpec, PackedTexts, PairList, Rounding, Tokens};

use super::{
    BLOCK, CHECK, Case, Context, D_MODEL, Prepared, Recorded, Scale, json, noise, offsets,
    poisoned, repeated, repeats, rounding, sample, widen, worst_ratio,
};

/// Lengths of query and document.
pub type Lengths = [usize; 2];

/// Runs the operator on token vectors of all pairs.
pub type Run = Box<dyn FnMut(Tokens<'_, f16>, Tokens<'_, f16>, &mut Buffer<f32>) -> Result<()>>;

/// Values, and how far off each may be.
pub type Expected = (Vec<f64>, Vec<f64>);

/// What differs between the operators; `d` is [`D_MODEL`].
#[derive(Clone, Copy)]
pub struct PairOp {
    /// It alone.
    pub needs: &'static [&'static OpSpec],
    /// Numbers per pair that it writes.
    pub results: fn(Lengths) -> usize,
    /// Makes ready what stays the same from call to call.
    pub ready: fn(&Device, &PackedTexts, &PackedTexts, PairList) -> Result<Run>,
    /// What a pair's numbers are, and how far off they may be.
    pub expected: fn(&[f32], &[f32], &Rounding) -> Expected,
}

/// The cases.
pub fn cases(context: &Context, op: PairOp) -> Vec<Case> {
    let pairs = match context.scale {
        Scale::Quick => 3,
        Scale::Software => 16,
        Scale::Cpu => 200,
        Scale::Gpu => 1000,
    };
    let case = |(pairs, [l_q, l_c]): (usize, Lengths)| Case {
        op: op.needs[0].name,
        shape: format!("{pairs} pairs of {l_q} x {l_c} tokens, {D_MODEL}"),
        sizes: json!({"pairs": pairs, "query": l_q, "document": l_c, "width": D_MODEL}),
        needs: op.needs,
        prepare: Box::new(move |context| prepare(context, op, pairs, [l_q, l_c])),
    };
    let mut shapes = vec![(pairs, [32, 128]), (pairs, [20, 20])];
    if context.scale == Scale::Gpu {
        shapes.push((1024, [128, 128]));
    }
    shapes.into_iter().map(case).collect()
}

fn prepare(context: &Context, op: PairOp, n: usize, [l_q, l_c]: Lengths) -> Result<Prepared> {
    let (device, d) = (&context.device, D_MODEL);
    let results = (op.results)([l_q, l_c]);
    let bytes = (2 * n * (l_q + l_c) * d + 4 * n * results) as u64;
    let sets = context.sets(bytes);
    // About unit length.
    let scale = 1.0 / (d as f32).sqrt();
    let asked = noise::<f16>((n * l_q * d).min(BLOCK), scale, 1);
    let stored = noise::<f16>((n * l_c * d).min(BLOCK), scale, 2);
    let q_packing = PackedTexts::new(device, offsets(n, l_q))?;
    let c_packing = PackedTexts::new(device, offsets(n, l_c))?;
    let list = PairList::new(device, (0..n as u32).map(|i| [i, i]).collect())?;
    let mut run = (op.ready)(device, &q_packing, &c_packing, list)?;
    let mut inputs = Vec::new();
    for _ in 0..sets {
        inputs.push((
            repeated(device, &asked, 0, n * l_q * d)?,
            repeated(device, &stored, 0, n * l_c * d)?,
            poisoned::<f32>(device, n * results)?,
        ));
    }
    let mut call = move |i: usize| {
        let (asked, stored, found) = &mut inputs[i % sets];
        let queries = Tokens {
            rows: asked.as_slice(),
            packing: &q_packing,
        };
        let documents = Tokens {
            rows: stored.as_slice(),
            packing: &c_packing,
        };
        run(queries, documents, found)?;
        Ok::<_, nearmiss::Error>(if i == CHECK {
            found.read()?
        } else {
            Vec::new()
        })
    };
    let got = call(CHECK)?;
    let which = sample(n);
    let (mut want, mut bounds) = (Vec::new(), Vec::new());
    for &pair in &which {
        let query = widen(&repeats(&asked, pair * l_q * d..(pair + 1) * l_q * d));
        let document = widen(&repeats(&stored, pair * l_c * d..(pair + 1) * l_c * d));
        let (values, allowed) = (op.expected)(&query, &document, &rounding(context));
        want.extend(values);
        bounds.extend(allowed);
    }
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, results, &which, &want, &bounds),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (n as f64, "pairs"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}

/// Numbers of maps and their lengths, for what is done to maps: a training batch of short texts, and of long ones.
pub fn map_shapes(scale: Scale) -> &'static [(usize, Lengths)] {
    match scale {
        Scale::Quick => &[(3, [11, 20])],
        Scale::Software => &[(16, [20, 20])],
        Scale::Cpu => &[(1056, [20, 20]), (64, [128, 128])],
        Scale::Gpu => &[(1056, [20, 20]), (1056, [128, 128])],
    }
}

/// `n` maps of these lengths, of as many queries and documents.
pub fn maps(device: &Device, n: usize, [l_q, l_c]: Lengths) -> Result<MapLayout> {
    let queries = PackedTexts::new(device, offsets(n, l_q))?;
    let documents = PackedTexts::new(device, offsets(n, l_c))?;
    let list = PairList::new(device, (0..n as u32).map(|i| [i, i]).collect())?;
    MapLayout::new(device, &queries, &documents, &list)
}
