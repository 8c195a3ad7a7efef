//! `maxsim`: one query against a corpus of token vectors, which reads them once, and queries against candidates of their
//! own, as re-ranking does.

use half::f16;
use nearmiss::Result;
use nearmiss::ops::maxsim::{Reduction, SPEC, error_bound, maxsim, reference};
use nearmiss::ops::{PackedTexts, PairList, Pairs, Tokens};
use rayon::prelude::*;

use super::{
    BLOCK, CHECK, Case, Context, D_MODEL, Prepared, Recorded, Scale, json, noise, offsets,
    poisoned, repeated, repeats, rounding, sample, widen, worst_ratio,
};

/// Tokens of a query.
const QUERY: usize = 32;

#[derive(Clone, Copy)]
struct Shape {
    queries: usize,
    /// Tokens of a query.
    l_q: usize,
    documents: usize,
    /// Tokens of a document.
    l: usize,
    d: usize,
    /// Each query with as many documents of its own, or all with all.
    listed: bool,
}

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    // Tokens of the query, documents, tokens of a document; 1,024 tokens on both sides are bound by arithmetic.
    let (corpora, candidates): (&[[usize; 3]], usize) = match context.scale {
        Scale::Quick => (&[[QUERY, 10, 17]], 5),
        Scale::Software => (&[[QUERY, 100, 128]], 25),
        Scale::Cpu => (&[[QUERY, 10_000, 128]], 100),
        Scale::Gpu => (
            &[
                [QUERY, 10_000, 128],
                [QUERY, 10_000, 300],
                [QUERY, 1_000, 300],
                [1024, 1_000, 1024],
            ],
            100,
        ),
    };
    let mut shapes = Vec::new();
    for d in [128, D_MODEL] {
        for &[l_q, documents, l] in corpora {
            shapes.push(Shape {
                queries: 1,
                l_q,
                documents,
                l,
                d,
                listed: false,
            });
        }
    }
    shapes.push(Shape {
        queries: 8,
        l_q: QUERY,
        documents: 8 * candidates,
        l: corpora[0][2],
        d: D_MODEL,
        listed: true,
    });
    if context.scale == Scale::Gpu {
        // What a batch of queries shares, what re-ranking has for each, and a batch of training, all with all.
        let more = [
            (8, 10_000, 300, false),
            (32, 3_200, 256, true),
            (128, 128, 300, false),
        ];
        shapes.extend(more.map(|(queries, documents, l, listed)| Shape {
            queries,
            l_q: QUERY,
            documents,
            l,
            d: 128,
            listed,
        }));
    }
    let case = |shape: Shape| Case {
        op: SPEC.name,
        shape: format!(
            "{} x {} tokens, {}{} x {} tokens, {}",
            shape.queries,
            shape.l_q,
            if shape.listed { "candidates " } else { "" },
            shape.documents,
            shape.l,
            shape.d
        ),
        sizes: json!({
            "queries": shape.queries,
            "query": shape.l_q,
            "documents": shape.documents,
            "document": shape.l,
            "width": shape.d,
            "listed": shape.listed,
        }),
        needs: &[&SPEC],
        prepare: Box::new(move |context| prepare(context, shape)),
    };
    shapes.into_iter().map(case).collect()
}

fn prepare(context: &Context, shape: Shape) -> Result<Prepared> {
    let device = &context.device;
    let Shape {
        queries: n_q,
        l_q,
        documents: n_c,
        l,
        d,
        listed,
    } = shape;
    let count = if listed { n_c } else { n_q * n_c };
    let bytes = (2 * (n_q * l_q + n_c * l) * d + 4 * count) as u64;
    let sets = context.sets(bytes);
    // About unit length.
    let scale = 1.0 / (d as f32).sqrt();
    let asked = noise::<f16>((n_q * l_q * d).min(BLOCK), scale, 1);
    let stored = noise::<f16>((n_c * l * d).min(BLOCK), scale, 2);
    let q_packing = PackedTexts::new(device, offsets(n_q, l_q))?;
    let c_packing = PackedTexts::new(device, offsets(n_c, l))?;
    let own = |c: usize| [(c / (n_c / n_q)) as u32, c as u32];
    let pairs: Vec<[u32; 2]> = match listed {
        true => (0..n_c).map(own).collect(),
        false => (0..count)
            .map(|p| [(p / n_c) as u32, (p % n_c) as u32])
            .collect(),
    };
    let list = PairList::new(device, if listed { pairs.clone() } else { Vec::new() })?;
    let mut inputs = Vec::new();
    for _ in 0..sets {
        inputs.push((
            repeated(device, &asked, 0, n_q * l_q * d)?,
            repeated(device, &stored, 0, n_c * l * d)?,
            poisoned::<f32>(device, count)?,
        ));
    }
    let mut call = move |i: usize| {
        let (asked, stored, scores) = &mut inputs[i % sets];
        let queries = Tokens {
            rows: asked.as_slice(),
            packing: &q_packing,
        };
        let documents = Tokens {
            rows: stored.as_slice(),
            packing: &c_packing,
        };
        let pairs = match listed {
            true => Pairs::Listed(&list),
            false => Pairs::All,
        };
        maxsim(
            queries,
            documents,
            d,
            pairs,
            Reduction::Sum,
            &mut *scores,
            None,
        )?;
        Ok::<_, nearmiss::Error>(if i == CHECK {
            scores.read()?
        } else {
            Vec::new()
        })
    };
    let got = call(CHECK)?;
    let which = sample(count);
    let rules = rounding(context);
    let (want, bounds): (Vec<f64>, Vec<f64>) = which
        .par_iter()
        .map(|&p| {
            let [q, c] = pairs[p].map(|i| i as usize);
            let query = widen(&repeats(&asked, q * l_q * d..(q + 1) * l_q * d));
            let document = widen(&repeats(&stored, c * l * d..(c + 1) * l * d));
            let value = reference::<f64>(&query, &document, d, Reduction::Sum).0;
            let bound = error_bound(&query, &document, d, Reduction::Sum, &rules).0;
            (value, bound)
        })
        .unzip();
    Ok(Prepared {
        checked: want.len(),
        worst: worst_ratio(&got, 1, &which, &want, &bounds),
        sets,
        set_bytes: bytes * sets as u64,
        recorded: Recorded::All,
        items: (count as f64, "pairs"),
        call: Box::new(move |i| call(i).map(drop)),
    })
}
