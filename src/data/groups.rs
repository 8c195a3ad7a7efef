//! Rows that hang together through the sentences they share: what is split by them has no sentence on both sides.

use std::collections::HashMap;

use super::triplets::{self, Split, SplitBy};
use crate::error::Result;

/// A sentence as most tokenizers see it: in lower case, and whatever white space there is as one space.
pub fn folded(sentence: &str) -> String {
    let words: Vec<&str> = sentence.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// The number of every row's group. Rows that share a sentence ([`folded`]), directly or by way of other rows, are of one
/// group, and groups are numbered in the order of their first rows.
///
/// ```
/// use nearmiss::data::groups::connected;
/// let groups = connected([["a", "b"], ["c", "d"], ["B ", "e"], ["f", "f"]]);
/// assert_eq!(groups, [0, 1, 0, 2]);
/// ```
pub fn connected<'a, const N: usize>(rows: impl IntoIterator<Item = [&'a str; N]>) -> Vec<usize> {
    // A forest over sentences, whose trees are groups.
    let mut above: Vec<usize> = Vec::new();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut firsts = Vec::new();
    for row in rows {
        let mut of_row = None;
        for sentence in row {
            let number = *numbers.entry(folded(sentence)).or_insert_with(|| {
                above.push(above.len());
                above.len() - 1
            });
            let top = top(&mut above, number);
            let group = *of_row.get_or_insert(top);
            above[top] = group;
        }
        firsts.extend(of_row);
    }
    let mut names: HashMap<usize, usize> = HashMap::new();
    let named = firsts.into_iter().map(|sentence| {
        let next = names.len();
        *names.entry(top(&mut above, sentence)).or_insert(next)
    });
    named.collect()
}

/// The root of a tree; what is on the way there comes closer to it.
fn top(above: &mut [usize], mut at: usize) -> usize {
    while above[at] != at {
        above[at] = above[above[at]];
        at = above[at];
    }
    at
}

/// Divides rows, given by their groups, in a seeded order into those to train on, `floor(share * n)` or what their number
/// reaches with the last group, and those held out. No group is on both sides.
///
/// # Errors
/// As [`triplets::split`].
pub fn split(groups: &[usize], share: f64, seed: u64) -> Result<Split> {
    let names: Vec<String> = groups.iter().map(usize::to_string).collect();
    triplets::split(
        names.iter().map(String::as_str),
        SplitBy::Anchor,
        share,
        seed,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::Stream;

    #[test]
    fn groups_are_those_of_a_search() {
        for case in 0..200 {
            let mut stream = Stream::new(5, &["groups"], case);
            let names: Vec<String> = (0..40).map(|i| i.to_string()).collect();
            let n = 1 + stream.below(30);
            let rows: Vec<[&str; 3]> = (0..n)
                .map(|_| [(); 3].map(|()| names[stream.below(40)].as_str()))
                .collect();
            let groups = connected(rows.iter().copied());
            for (i, row) in rows.iter().enumerate() {
                // Everything that can be reached from here.
                let mut reached: HashSet<&str> = row.iter().copied().collect();
                loop {
                    let before = reached.len();
                    for other in &rows {
                        if other.iter().any(|sentence| reached.contains(sentence)) {
                            reached.extend(other);
                        }
                    }
                    if reached.len() == before {
                        break;
                    }
                }
                for (j, other) in rows.iter().enumerate() {
                    assert_eq!(groups[i] == groups[j], reached.contains(other[0]));
                }
            }
            let firsts: Vec<usize> = (0..n)
                .filter(|&i| !groups[..i].contains(&groups[i]))
                .map(|i| groups[i])
                .collect();
            assert_eq!(firsts, (0..firsts.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_group_is_on_both_sides() {
        let groups: Vec<usize> = (0..1000).map(|i| i % 300).collect();
        let found = split(&groups, 0.9, 1).unwrap();
        let of = |rows: &[usize]| -> HashSet<usize> { rows.iter().map(|&i| groups[i]).collect() };
        assert!(of(&found.train).is_disjoint(&of(&found.held_out)));
        assert_eq!(found.train.len() + found.held_out.len(), 1000);
        assert!((900..904).contains(&found.train.len()));
        assert_eq!(split(&groups, 0.9, 1).unwrap(), found);
        assert_ne!(split(&groups, 0.9, 2).unwrap(), found);
    }
}
