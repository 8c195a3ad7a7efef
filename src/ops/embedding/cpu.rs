//! Table look-ups on the processor.

use rayon::prelude::*;

use super::Args;
use crate::device::Float;

pub(super) fn embedding<T: Float>(args: &Args<'_, T>, x: &mut [f32]) {
    let (tables, d) = (args.tables, args.tables.d);
    let (ids, positions) = (args.ids.host(), args.positions.host());
    let (word, position) = (tables.word.host(), tables.position.host());
    let token_type = &tables.token_type.host()[..d];
    x.par_chunks_mut(d)
        .enumerate()
        .with_min_len(64)
        .for_each(|(t, row)| {
            let word = &word[ids[t] as usize * d..][..d];
            let position = &position[positions[t] as usize * d..][..d];
            for (c, out) in row.iter_mut().enumerate() {
                *out = word[c].to_f32() + position[c].to_f32() + token_type[c].to_f32();
            }
        });
}
