//! Soft alignment on the processor: a map in cache, then the definition in f32.

use gemm::Parallelism;
use rayon::prelude::*;

use super::Args;
use super::reference::align;
use crate::device::Float;
use crate::ops::matmul::product;
use crate::ops::token_pairs::widen;

pub(super) fn soft_alignment<T: Float>(args: &Args<'_, T>, scores: &mut [f32]) {
    let d = args.d;
    (args.pairs.pairs().par_iter().zip(scores)).for_each_init(
        || [const { Vec::new() }; 3],
        |[query, document, map], (pair, score)| {
            widen(args.queries.host(pair[0], d), query);
            widen(args.documents.host(pair[1], d), document);
            let (m, n) = (query.len() / d, document.len() / d);
            map.resize(m * n, 0.0);
            *score = if map.is_empty() {
                0.0
            } else {
                product(query, document, map, m, n, d, Parallelism::None);
                align::<f32>(map, n, &args.alignment)
            };
        },
    );
}
