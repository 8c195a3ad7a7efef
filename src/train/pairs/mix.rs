//! Rows for a guard: pairs of equal meaning beside near-misses, from lists of either.
//!
//! A row is one pair to accept and one to reject, so that both are as frequent. Sources differ in style, and a scorer that
//! can tell the answer by the source has no need of the meaning. Therefore:
//!
//! | source has | its rows | pair to accept | pair to reject |
//! | --- | --- | --- | --- |
//! | both | as many as its longer list | its own | its own |
//! | near-misses alone | one for each | of any source | its own |
//! | paraphrases alone | one for each | its own | of any source |
//!
//! Of a source that has both, either answer is as frequent in its rows; of one that has only near-misses every pair is to
//! be rejected, which no order of rows can change: [`Mixture::sources`] says which those are. Lists are dealt like cards:
//! in a random order, every card once before one comes again, then in another order.
//!
//! Besides, a share of the rows reject sentences that have nothing to do with each other, as a search may bring them up:
//! *random* ones, any two, and *hard* ones, of one source and with many words in common. Unrelated are sentences that no
//! chain of pairs joins. Whoever looks like a near-miss is not the only one to be kept out.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::objective::Contrast;
use crate::data::groups::connected;
use crate::data::pairs::{NearMiss, Paraphrase, contradiction};
use crate::error::{Error, Result};
use crate::metrics::edits::words;
use crate::random::Stream;

/// Sentences that a hard one is chosen from.
const CHOICE: usize = 16;

/// Draws for an unrelated sentence before there is taken to be none.
const DRAWS: usize = 64;

/// How rows are made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MixOptions {
    /// Share of the rows whose pair to reject is of two unrelated sentences. 0.1.
    pub random: f64,
    /// Share of those whose unrelated sentences share words. 0.05.
    pub hard: f64,
    /// Of everything that is drawn. 42.
    pub seed: u64,
}

impl Default for MixOptions {
    fn default() -> Self {
        MixOptions {
            random: 0.1,
            hard: 0.05,
            seed: 42,
        }
    }
}

/// Rows, and what they are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixture {
    /// The rows, in a random order.
    pub rows: Vec<Contrast>,
    /// How many of them reject unrelated sentences.
    pub random: usize,
    /// How many reject unrelated sentences that share words.
    pub hard: usize,
    /// What each source has, by name.
    pub sources: BTreeMap<String, Sides>,
}

/// How many pairs a source has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sides {
    /// Paraphrases.
    pub accepts: usize,
    /// Near-misses.
    pub rejects: usize,
}

/// Makes rows of pairs, each of which is in one row at least.
///
/// # Errors
/// [`Error::Setting`] for shares that are not from 0 to below 1 together; [`Error::Invalid`] if either list is empty, or
/// for a pair that is in both, which it names.
///
/// ```
/// use nearmiss::data::{Category, pairs::{NearMiss, Paraphrase}};
/// use nearmiss::train::pairs::{MixOptions, mix};
/// let near_misses = [NearMiss {
///     anchor: "the dog sees the cat".into(),
///     text: "the cat sees the dog".into(),
///     category: Category::Role,
///     source: "pets".into(),
/// }];
/// let paraphrases = [Paraphrase {
///     anchor: "the door is open".into(),
///     text: "the open door".into(),
///     source: "pets".into(),
/// }];
/// let mixture = mix(&near_misses, &paraphrases, &MixOptions { random: 0.0, hard: 0.0, seed: 1 })?;
/// assert_eq!(mixture.rows[0].reject[1], "the cat sees the dog");
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn mix(
    near_misses: &[NearMiss],
    paraphrases: &[Paraphrase],
    options: &MixOptions,
) -> Result<Mixture> {
    let MixOptions { random, hard, seed } = *options;
    for (setting, share) in [("random", random), ("hard", hard)] {
        if !((0.0..1.0).contains(&share) && random + hard < 1.0) {
            let message = format!(
                "`{setting}` is {share}; give shares from 0 to below 1, together below 1 too"
            );
            return Err(Error::Setting { setting, message });
        }
    }
    for (what, empty) in [
        ("near-misses", near_misses.is_empty()),
        ("pairs of equal meaning", paraphrases.is_empty()),
    ] {
        if empty {
            return Err(Error::Invalid(format!(
                "there are no {what} to train on; a guard learns from both near-misses and pairs of equal meaning"
            )));
        }
    }
    if let Some([near_miss, paraphrase]) = contradiction(near_misses, paraphrases) {
        let pair = &near_misses[near_miss];
        return Err(Error::Invalid(format!(
            "{:?} and {:?} are a near-miss (source {}) and of equal meaning (source {}); remove one of the two",
            pair.anchor, pair.text, pair.source, paraphrases[paraphrase].source
        )));
    }

    let mut lists: BTreeMap<&str, Lists> = BTreeMap::new();
    for (number, pair) in paraphrases.iter().enumerate() {
        lists.entry(&pair.source).or_default().accepts.push(number);
    }
    for (number, pair) in near_misses.iter().enumerate() {
        lists.entry(&pair.source).or_default().rejects.push(number);
    }
    let both = |anchor: &String, text: &String| [anchor.clone(), text.clone()];
    let accept = |number: usize| both(&paraphrases[number].anchor, &paraphrases[number].text);
    let reject = |number: usize| both(&near_misses[number].anchor, &near_misses[number].text);
    let deck = |list: Vec<usize>, what, source| Deck::new(list, seed, [what, source]);
    let mut any_accept = deck((0..paraphrases.len()).collect(), "accepts of all", "");
    let mut any_reject = deck((0..near_misses.len()).collect(), "rejects of all", "");
    let mut rows = Vec::new();
    for (source, list) in &lists {
        let mut accepts = deck(list.accepts.clone(), "accepts", source);
        let mut rejects = deck(list.rejects.clone(), "rejects", source);
        for _ in 0..list.accepts.len().max(list.rejects.len()) {
            let same = accepts.deal().or_else(|| any_accept.deal());
            let other = rejects.deal().or_else(|| any_reject.deal());
            if let Some((same, other)) = same.zip(other) {
                rows.push(Contrast {
                    accept: accept(same),
                    reject: reject(other),
                });
            }
        }
    }

    // Of as many rows in all as leave the others their share.
    let all = rows.len() as f64 / (1.0 - random - hard);
    let unrelated = Unrelated::new(near_misses, paraphrases);
    let kinds: [(f64, Draw<'_>); 2] = [(random, Unrelated::random), (hard, Unrelated::hard)];
    let [random, hard] = kinds.map(|(share, draw)| {
        let before = rows.len();
        let mut stream = Stream::new(seed, &["mix", "unrelated"], before as u64);
        for _ in 0..(all * share).round() as usize {
            let Some(same) = any_accept.deal() else { break };
            let source = &paraphrases[same].source;
            // Where everything hangs together there is none.
            if let Some(pair) = draw(&unrelated, source, &mut stream) {
                rows.push(Contrast {
                    accept: accept(same),
                    reject: pair.map(str::to_string),
                });
            }
        }
        rows.len() - before
    });
    Stream::new(seed, &["mix", "rows"], 0).shuffle(&mut rows);
    let sources = lists.iter().map(|(source, list)| {
        let sides = Sides {
            accepts: list.accepts.len(),
            rejects: list.rejects.len(),
        };
        (source.to_string(), sides)
    });
    Ok(Mixture {
        rows,
        random,
        hard,
        sources: sources.collect(),
    })
}

/// Numbers of the pairs of a source.
#[derive(Default)]
struct Lists {
    accepts: Vec<usize>,
    rejects: Vec<usize>,
}

/// Cards that are dealt in a random order, each once before one comes again, then in another order.
struct Deck {
    cards: Vec<usize>,
    dealt: usize,
    stream: Stream,
}

impl Deck {
    fn new(cards: Vec<usize>, seed: u64, name: [&str; 2]) -> Self {
        Deck {
            dealt: cards.len(),
            cards,
            stream: Stream::new(seed, &["mix", name[0], name[1]], 0),
        }
    }

    /// The next card; `None` of no cards.
    fn deal(&mut self) -> Option<usize> {
        if self.dealt == self.cards.len() {
            self.stream.shuffle(&mut self.cards);
            self.dealt = 0;
        }
        let card = self.cards.get(self.dealt).copied()?;
        self.dealt += 1;
        Some(card)
    }
}

/// How two unrelated sentences are found, the first of a source.
type Draw<'a> = fn(&Unrelated<'a>, &str, &mut Stream) -> Option<[&'a str; 2]>;

/// All pairs, to find sentences that have nothing to do with each other.
struct Unrelated<'a> {
    pairs: Vec<[&'a str; 2]>,
    /// Of every pair.
    groups: Vec<usize>,
    all: Vec<usize>,
    of_source: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Unrelated<'a> {
    fn new(near_misses: &'a [NearMiss], paraphrases: &'a [Paraphrase]) -> Self {
        let accepts = paraphrases
            .iter()
            .map(|pair| ([&pair.anchor[..], &pair.text], &pair.source));
        let rejects = near_misses
            .iter()
            .map(|pair| ([&pair.anchor[..], &pair.text], &pair.source));
        let mut of_source: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut pairs = Vec::new();
        for (pair, source) in accepts.chain(rejects) {
            of_source.entry(source).or_default().push(pairs.len());
            pairs.push(pair);
        }
        Unrelated {
            groups: connected(pairs.iter().copied()),
            all: (0..pairs.len()).collect(),
            pairs,
            of_source,
        }
    }

    /// A sentence of the source and its group.
    fn first(&self, source: &str, stream: &mut Stream) -> (&'a str, usize) {
        let own = &self.of_source[source];
        let pair = own[stream.below(own.len())];
        (self.pairs[pair][stream.below(2)], self.groups[pair])
    }

    /// A sentence of one of these pairs that is in another group.
    fn other(&self, pairs: &[usize], group: usize, stream: &mut Stream) -> Option<&'a str> {
        let mut draws = (0..DRAWS).map(|_| (pairs[stream.below(pairs.len())], stream.below(2)));
        let (pair, side) = draws.find(|&(pair, _)| self.groups[pair] != group)?;
        Some(self.pairs[pair][side])
    }

    /// The second of any source.
    fn random(&self, source: &str, stream: &mut Stream) -> Option<[&'a str; 2]> {
        let (first, group) = self.first(source, stream);
        Some([first, self.other(&self.all, group, stream)?])
    }

    /// The second the one that shares most words with the first, of some of the same source; of any source where that has no
    /// other sentences.
    fn hard(&self, source: &str, stream: &mut Stream) -> Option<[&'a str; 2]> {
        let (first, group) = self.first(source, stream);
        let set = |text: &str| -> HashSet<String> { words(text).into_iter().collect() };
        let wanted = set(first);
        let mut best: Option<(f64, &str)> = None;
        for _ in 0..CHOICE {
            let own = self.other(&self.of_source[source], group, stream);
            let text = own.or_else(|| self.other(&self.all, group, stream))?;
            let words = set(text);
            let common = wanted.intersection(&words).count();
            let share = common as f64 / (wanted.len() + words.len() - common).max(1) as f64;
            if best.is_none_or(|(most, _)| share > most) {
                best = Some((share, text));
            }
        }
        Some([first, best?.1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Category;

    /// Near-misses and paraphrases of sources, given by their numbers of each: every sentence says what it is of.
    fn lists(sources: &[(&str, usize, usize)]) -> (Vec<NearMiss>, Vec<Paraphrase>) {
        let (mut near_misses, mut paraphrases) = (Vec::new(), Vec::new());
        for &(source, accepts, rejects) in sources {
            paraphrases.extend((0..accepts).map(|i| Paraphrase {
                anchor: format!("{source} says {i}"),
                text: format!("{i} is what {source} says"),
                source: source.into(),
            }));
            near_misses.extend((0..rejects).map(|i| NearMiss {
                anchor: format!("{source} denies {i}"),
                text: format!("{source} never denies {i}"),
                category: Category::Negation,
                source: source.into(),
            }));
        }
        (near_misses, paraphrases)
    }

    const NONE: MixOptions = MixOptions {
        random: 0.0,
        hard: 0.0,
        seed: 5,
    };

    fn mixed(sources: &[(&str, usize, usize)], options: &MixOptions) -> Mixture {
        let (near_misses, paraphrases) = lists(sources);
        mix(&near_misses, &paraphrases, options).unwrap()
    }

    /// How often pairs occur.
    fn counts<'a>(pairs: impl Iterator<Item = &'a [String; 2]>) -> HashMap<&'a [String; 2], usize> {
        let mut counts = HashMap::new();
        pairs.for_each(|pair| *counts.entry(pair).or_default() += 1);
        counts
    }

    fn source(pair: &[String; 2]) -> &str {
        let mut words = pair.iter().flat_map(|text| text.split(' '));
        words
            .find(|word| ["a", "b", "c", "d"].contains(word))
            .unwrap()
    }

    #[test]
    fn both_answers_come_from_a_source_that_has_both() {
        let sources = [("a", 30, 70), ("b", 50, 20), ("c", 0, 40), ("d", 10, 0)];
        let mixture = mixed(&sources, &NONE);
        assert_eq!(mixture.rows.len(), 70 + 50 + 40 + 10);
        let own =
            |name: &str, row: &Contrast| [&row.accept, &row.reject].map(|p| source(p) == name);
        for (name, rows) in [("a", 70), ("b", 50)] {
            let of = mixture
                .rows
                .iter()
                .filter(|row| own(name, row) == [true, true]);
            assert_eq!(of.count(), rows, "{name}");
        }
        // What is there once is dealt with by what all sources have.
        let of = |name| {
            mixture
                .rows
                .iter()
                .filter(move |row| source(&row.reject) == name)
        };
        let beside: HashSet<&str> = of("c").map(|row| source(&row.accept)).collect();
        assert_eq!(beside, HashSet::from(["a", "b", "d"]));
        // Those of d have rejects of c among others.
        assert!((40..=50).contains(&of("c").count()));
        let alone = mixture.rows.iter().filter(|row| source(&row.accept) == "d");
        assert!(alone.count() >= 10);
        let sides = |accepts, rejects| Sides { accepts, rejects };
        assert_eq!(
            (mixture.sources["a"], mixture.sources["c"]),
            (sides(30, 70), sides(0, 40))
        );
    }

    #[test]
    fn every_pair_is_dealt_and_none_much_more_often_than_another() {
        let mixture = mixed(&[("a", 30, 70)], &NONE);
        let rejects = counts(mixture.rows.iter().map(|row| &row.reject));
        assert_eq!(rejects.len(), 70);
        assert!(rejects.values().all(|&n| n == 1));
        // 70 = 2 * 30 + 10.
        let accepts = counts(mixture.rows.iter().map(|row| &row.accept));
        assert_eq!(accepts.len(), 30);
        let often = |times| accepts.values().filter(|&&n| n == times).count();
        assert_eq!([often(2), often(3)], [20, 10]);
    }

    #[test]
    fn the_seed_decides() {
        let sources = [("a", 30, 70), ("b", 50, 20), ("c", 0, 40)];
        let of = |seed| {
            mixed(
                &sources,
                &MixOptions {
                    seed,
                    ..MixOptions::default()
                },
            )
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1).rows, of(2).rows);
        assert_eq!(of(1).rows.len(), of(2).rows.len());
    }

    #[test]
    fn unrelated_sentences_have_nothing_to_do_with_each_other() {
        let (near_misses, paraphrases) = lists(&[("a", 60, 60), ("b", 40, 80)]);
        let options = MixOptions {
            random: 0.2,
            hard: 0.1,
            seed: 9,
        };
        let mixture = mix(&near_misses, &paraphrases, &options).unwrap();
        // 140 rows are seven in ten of all.
        assert_eq!(
            (mixture.rows.len(), mixture.random, mixture.hard),
            (200, 40, 20)
        );
        let known: HashSet<[&str; 2]> = (near_misses.iter())
            .map(|pair| [&pair.anchor[..], &pair.text])
            .collect();
        let equal: HashSet<[&str; 2]> = (paraphrases.iter())
            .flat_map(|pair| [[&pair.anchor[..], &pair.text], [&pair.text, &pair.anchor]])
            .collect();
        let unrelated: Vec<[&str; 2]> = (mixture.rows.iter())
            .map(|row| [&row.reject[0][..], &row.reject[1]])
            .filter(|pair| !known.contains(pair))
            .collect();
        assert_eq!(unrelated.len(), 60);
        for pair in &unrelated {
            assert!(!equal.contains(pair) && pair[0] != pair[1], "{pair:?}");
            let mut numbers =
                pair.map(|text| text.split(' ').find(|word| word.parse::<u32>().is_ok()));
            numbers.sort();
            // The same number in the same source is the same group.
            let verb = |text: &str| text.contains("denies");
            let same_source = source(&[pair[0].into(), String::new()])
                == source(&[pair[1].into(), String::new()]);
            assert!(
                numbers[0] != numbers[1] || !same_source || verb(pair[0]) != verb(pair[1]),
                "{pair:?}"
            );
        }
    }

    #[test]
    fn hard_ones_share_more_words() {
        let sources = [("a", 100, 100), ("b", 100, 100)];
        let shared = |random, hard| {
            let mixture = mixed(
                &sources,
                &MixOptions {
                    random,
                    hard,
                    seed: 3,
                },
            );
            let (near_misses, _) = lists(&sources);
            let known: HashSet<&str> = near_misses.iter().map(|pair| &pair.text[..]).collect();
            let rows = mixture.rows.iter();
            let unrelated = rows.filter(|row| {
                !known.contains(&row.reject[1][..])
                    || !row.reject[1].ends_with(row.reject[0].rsplit(' ').next().unwrap())
            });
            let common: Vec<f64> = unrelated
                .map(|row| {
                    let [a, b] =
                        [0, 1].map(|i| words(&row.reject[i]).into_iter().collect::<HashSet<_>>());
                    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
                })
                .collect();
            common.iter().sum::<f64>() / common.len() as f64
        };
        let (random, hard) = (shared(0.3, 0.0), shared(0.0, 0.3));
        assert!(hard > 1.5 * random, "{hard} {random}");
    }

    #[test]
    fn where_all_hangs_together_nothing_is_unrelated() {
        let (mut near_misses, mut paraphrases) = lists(&[("a", 20, 20)]);
        near_misses
            .iter_mut()
            .for_each(|pair| pair.anchor = "hub".into());
        paraphrases
            .iter_mut()
            .for_each(|pair| pair.anchor = "hub".into());
        let mixture = mix(&near_misses, &paraphrases, &MixOptions::default()).unwrap();
        assert_eq!(
            (mixture.rows.len(), mixture.random, mixture.hard),
            (20, 0, 0)
        );
    }

    #[test]
    fn what_cannot_be_mixed_is_named() {
        let (near_misses, mut paraphrases) = lists(&[("a", 3, 3)]);
        let refused = |near_misses: &[NearMiss],
                       paraphrases: &[Paraphrase],
                       options: &MixOptions,
                       parts: &[&str]| {
            let error = mix(near_misses, paraphrases, options)
                .unwrap_err()
                .to_string();
            assert!(!error.contains('\n'), "{error}");
            for part in parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        };
        refused(&[], &paraphrases, &NONE, &["no near-misses"]);
        refused(&near_misses, &[], &NONE, &["no pairs of equal meaning"]);
        for (random, hard) in [(1.0, 0.0), (0.6, 0.4), (-0.1, 0.0), (0.0, f64::NAN)] {
            let options = MixOptions {
                random,
                hard,
                seed: 1,
            };
            refused(&near_misses, &paraphrases, &options, &["from 0 to below 1"]);
        }
        paraphrases[2] = Paraphrase {
            anchor: near_misses[1].text.clone(),
            text: near_misses[1].anchor.clone(),
            source: "elsewhere".into(),
        };
        let parts = [
            "\"a denies 1\" and \"a never denies 1\"",
            "(source a)",
            "(source elsewhere)",
        ];
        refused(&near_misses, &paraphrases, &NONE, &parts);
    }
}
