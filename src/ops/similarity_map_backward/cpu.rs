//! The gradients of token vectors on the processor: texts in parallel, each of one product with all its partners.

use gemm::Parallelism;
use rayon::prelude::*;

use super::Args;
use super::partners::Partners;
use crate::device::Float;
use crate::ops::matmul::{Matrix, multiply};
use crate::ops::token_pairs::widen_to;

/// Tokens of partners that are multiplied at once, if texts are that short: with d = 384, 768 KiB of f32, which a core's
/// second-level cache about holds.
const TOKENS: usize = 512;

pub(super) fn similarity_map_backward<T: Float>(
    args: &Args<'_, T>,
    d_queries: &mut [f32],
    d_documents: &mut [f32],
) {
    for (side, gradient) in [(0, d_queries), (1, d_documents)] {
        of_side(args, side, gradient);
    }
}

/// What a thread gathers of the partners of a text.
#[derive(Default)]
struct Gathered {
    /// `[tokens, d]`.
    rows: Vec<f32>,
    /// `[tokens, l]`: the gradients of the products with the text's `l` tokens.
    gradients: Vec<f32>,
}

fn of_side<T: Float>(args: &Args<'_, T>, side: usize, gradient: &mut [f32]) {
    let d = args.d;
    let texts = [args.queries, args.documents];
    let (own, other) = (texts[side], texts[1 - side]);
    let packings = texts.map(|tokens| tokens.packing);
    let partners = Partners::of(args.pairs, args.layout, packings, side);
    let (d_maps, rows) = (args.d_maps.host(), other.rows.host());
    let mut rest = gradient;
    let mut jobs = Vec::with_capacity(own.packing.texts());
    for text in 0..own.packing.texts() {
        let l = own.packing.rows(text).len();
        let (of_text, others) = rest.split_at_mut(l * d);
        rest = others;
        jobs.push((text, l, of_text));
    }
    jobs.into_par_iter()
        .for_each_init(Gathered::default, |gathered, (text, l, of_text)| {
            let mut adds = false;
            let mut multiply_gathered = |gathered: &mut Gathered| {
                let k = gathered.rows.len() / d;
                if k > 0 && l > 0 {
                    let transposed = Matrix::columns(&gathered.gradients, l);
                    let rows = Matrix::rows(&gathered.rows, d);
                    multiply(
                        transposed,
                        rows,
                        of_text,
                        adds,
                        [l, d, k],
                        Parallelism::None,
                    );
                    adds = true;
                }
                gathered.rows.clear();
                gathered.gradients.clear();
            };
            for partner in partners.of_text(text) {
                let (first, n) = (partner.first as usize, partner.tokens as usize);
                let of_pair = &d_maps[partner.map as usize..][..l * n];
                let at = gathered.rows.len();
                gathered.rows.resize(at + n * d, 0.0);
                widen_to(&rows[first * d..][..n * d], &mut gathered.rows[at..]);
                if side == 1 {
                    gathered.gradients.extend_from_slice(of_pair);
                } else {
                    let columns = |j: usize| of_pair.iter().skip(j).step_by(n.max(1));
                    gathered.gradients.extend((0..n).flat_map(columns));
                }
                if gathered.rows.len() >= TOKENS * d {
                    multiply_gathered(gathered);
                }
            }
            multiply_gathered(gathered);
            if !adds {
                of_text.fill(0.0);
            }
        });
}
