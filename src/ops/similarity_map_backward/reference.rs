//! What the gradients of token vectors are, and how far from them a result may be.

use crate::ops::{Accum, Rounding};

/// The definition: the gradients of the queries' and of the documents' token vectors, `[t_q, d]` and `[t_c, d]`, from
/// those of the maps of `pairs`, one behind the other.
pub fn reference<A: Accum, T: Copy + Into<f64>>(
    [queries, documents]: [&[T]; 2],
    [q_offsets, c_offsets]: [&[u32]; 2],
    d: usize,
    pairs: &[[u32; 2]],
    d_maps: &[T],
) -> [Vec<A>; 2] {
    let mut d_queries = vec![A::of(0.0); queries.len()];
    let mut d_documents = vec![A::of(0.0); documents.len()];
    let rows = |offsets: &[u32], text: u32| {
        offsets[text as usize] as usize..offsets[text as usize + 1] as usize
    };
    let mut elements = d_maps.iter();
    for &[query, document] in pairs {
        for i in rows(q_offsets, query) {
            for j in rows(c_offsets, document) {
                let Some(&gradient) = elements.next() else {
                    continue;
                };
                let gradient = A::of(gradient.into());
                for c in 0..d {
                    d_queries[i * d + c] += gradient * A::of(documents[j * d + c].into());
                    d_documents[j * d + c] += gradient * A::of(queries[i * d + c].into());
                }
            }
        }
    }
    [d_queries, d_documents]
}

/// `g(n + 1) sum |terms|` of a sum of `n` products in any order, each of them rounded too where nothing is fused.
pub fn error_bound(
    rows: [&[f32]; 2],
    offsets: [&[u32]; 2],
    d: usize,
    pairs: &[[u32; 2]],
    d_maps: &[f32],
    rounding: &Rounding,
) -> [Vec<f64>; 2] {
    let magnitudes = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<f32>>();
    let (queries, documents) = (magnitudes(rows[0]), magnitudes(rows[1]));
    let mut sums = reference::<f64, _>(
        [&queries, &documents],
        offsets,
        d,
        pairs,
        &magnitudes(d_maps),
    );
    for side in 0..2 {
        // Terms of a token: the tokens of all texts that its text is paired with.
        let other = offsets[1 - side];
        let mut terms = vec![0usize; offsets[side].len() - 1];
        for pair in pairs {
            let text = pair[1 - side] as usize;
            terms[pair[side] as usize] += (other[text + 1] - other[text]) as usize;
        }
        for (text, &terms) in terms.iter().enumerate() {
            let span = offsets[side][text] as usize * d..offsets[side][text + 1] as usize * d;
            for sum in &mut sums[side][span] {
                // A product below the normal range may be flushed.
                let flushed = terms as f64 * f64::from(f32::MIN_POSITIVE);
                *sum = rounding.store(0.0, rounding.g(terms + 1) * *sum + flushed, 4);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::reference;
    use crate::ops::differences_test::{hold, noise, weighted};

    #[test]
    fn central_differences_agree() {
        let (q_offsets, c_offsets, d) = ([0, 3, 3, 4], [0, 2, 7], 8);
        // A pair twice, a text with several, texts with none.
        let pairs = [[0, 1], [2, 0], [0, 0], [1, 1], [0, 1]];
        let (queries, documents) = (noise(4 * d, 1), noise(7 * d, 2));
        let weight = noise(15 + 2 + 6 + 15, 3);
        let maps = |queries: &[f64], documents: &[f64]| {
            let mut maps = Vec::new();
            for [q, c] in pairs {
                for i in q_offsets[q]..q_offsets[q + 1] {
                    for j in c_offsets[c]..c_offsets[c + 1] {
                        let (q, c) = (&queries[i * d..][..d], &documents[j * d..][..d]);
                        maps.push(q.iter().zip(c).map(|(q, c)| q * c).sum());
                    }
                }
            }
            weighted(&maps, &weight)
        };
        let numbers = |values: &[usize]| values.iter().map(|&v| v as u32).collect::<Vec<u32>>();
        let listed = pairs.map(|pair| pair.map(|text| text as u32));
        let [d_queries, d_documents] = reference::<f64, _>(
            [&queries, &documents],
            [&numbers(&q_offsets), &numbers(&c_offsets)],
            d,
            &listed,
            &weight,
        );
        let roundings = d + weight.len() + 2;
        hold("queries", &queries, &d_queries, roundings, |queries| {
            maps(queries, &documents)
        });
        hold(
            "documents",
            &documents,
            &d_documents,
            roundings,
            |documents| maps(&queries, documents),
        );
    }
}
