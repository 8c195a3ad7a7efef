//! `similarity_map`: maps of a batch of pairs of equal lengths.

use nearmiss::ops::MapLayout;
use nearmiss::ops::similarity_map::{SPEC, error_bound, reference, similarity_map};

use super::pairs::{self, PairOp};
use super::{Case, Context, D_MODEL};

/// The cases.
pub fn cases(context: &Context) -> Vec<Case> {
    let op = PairOp {
        needs: &[&SPEC],
        results: |[l_q, l_c]| l_q * l_c,
        ready: |device, queries, documents, list| {
            let layout = MapLayout::new(device, queries, documents, &list)?;
            Ok(Box::new(move |queries, documents, maps| {
                similarity_map(queries, documents, D_MODEL, &list, &layout, maps)
            }))
        },
        expected: |query, document, rounding| {
            (
                reference::<f64>(query, document, D_MODEL),
                error_bound(query, document, D_MODEL, rounding),
            )
        },
    };
    pairs::cases(context, op)
}
