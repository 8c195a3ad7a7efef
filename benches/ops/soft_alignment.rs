//! `soft_alignment`: scores of a batch of pairs of equal lengths, with the penalty that tracks positions too.

use nearmiss::ops::soft_alignment::{Alignment, SPEC, error_bound, reference, soft_alignment};

use super::pairs::{self, PairOp};
use super::{Case, Context, D_MODEL};

const ALIGNMENT: Alignment = Alignment {
    distance: 0.1,
    temperature: 0.1,
    band: None,
    monotonicity: 0.1,
};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let op = PairOp {
        needs: &[&SPEC],
        results: |_| 1,
        ready: |_, _, _, list| {
            Ok(Box::new(move |queries, documents, scores| {
                soft_alignment(queries, documents, D_MODEL, &list, ALIGNMENT, scores)
            }))
        },
        expected: |query, document, rounding| {
            (
                vec![reference::<f64>(query, document, D_MODEL, &ALIGNMENT)],
                vec![error_bound(query, document, D_MODEL, &ALIGNMENT, rounding)],
            )
        },
    };
    pairs::cases(context, op)
}
