//! Questions and requests as a semantic cache meets them, each with a rewording and a near-miss, written by a grammar.
//!
//! A [`Pair`] is an `anchor` and a `text` that either asks for the same (another wording, word order, notation, the
//! converse relation, the opposite negated) or for something else ([`Kind`] says what differs): an answer that is stored
//! for the anchor serves the former and misleads on the latter.
//!
//! **What can be counted does not tell the two apart.** Every anchor comes twice: with a rewording and with a near-miss,
//! which are alike in how many words they share with the anchor, in whether they hold exactly its words in another
//! order, in whether one side alone holds a negation, and in how the lengths differ. Small edits and large ones occur on
//! both sides, and so do negations, opposites, exchanged names and numbers.
//!
//! **Splits share nothing that is held out**: [`Split::UnseenTemplates`] uses templates that no other split uses,
//! [`Split::UnseenWords`] verbs, nouns, names and pairs of opposites. The grammar files are described in `grammar.rs`.
//!
//! Random numbers depend on the seed, the split and the number of the attempt alone: the same arguments give the same
//! pairs everywhere, and asking for more only adds.
//!
//! ```
//! use nearmiss::data::questions::{Split, generate};
//! let questions = generate(Split::Train, 42, 10)?;
//! assert_eq!(questions.pairs.iter().filter(|pair| pair.same).count(), 5);
//! # Ok::<(), nearmiss::Error>(())
//! ```

mod grammar;
mod render;

use std::collections::{BTreeMap, HashSet};

use serde::{Serialize, Serializer};

use self::grammar::{Grammar, Lexicon, Mark};
use self::render::{Choices, Decision, Meaning, Surface};
use super::Category;
use super::pairs::{NearMiss, Paraphrase};
use crate::error::{Error, Result};
use crate::metrics::edits::word_distance;
use crate::random::Stream;

/// Attempts in a row without a new pair after which the grammar counts as exhausted.
const MAX_IDLE: usize = 5_000;

/// Surfaces of each side that are written for an anchor, to choose two that are alike.
const FRESH: usize = 8;

/// How often each single decision about an anchor's wording is made anew, for small edits.
const ANEW: usize = 3;

/// Edits of at most so many words (as word-level Levenshtein distance) count as small.
pub const SMALL: usize = 3;

/// What pairs are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Training.
    Train,
    /// Judging on templates that occur nowhere else.
    UnseenTemplates,
    /// Judging on verbs, nouns, names, numbers and opposites that occur nowhere else.
    UnseenWords,
}

impl Split {
    /// All of them.
    pub const ALL: [Split; 3] = [Split::Train, Split::UnseenTemplates, Split::UnseenWords];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::UnseenTemplates => "unseen_templates",
            Split::UnseenWords => "unseen_words",
        }
    }
}

/// What the text of a pair does to its anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Same: a synonym, another notation, a contraction, an article, a word of politeness.
    Wording,
    /// Same: exactly the words of the anchor, in another order.
    Order,
    /// Same: another template.
    Template,
    /// Same: the converse relation or the passive, with the arguments exchanged.
    Converse,
    /// Same: the opposite, negated.
    OppositeNegated,
    /// Another verb, particle or adjective that means the opposite.
    Antonym,
    /// A negation more or less.
    Negation,
    /// Two arguments exchanged: who, from, to, instead of.
    Role,
    /// Another number, unit, date or percentage.
    Quantity,
    /// A relation between people or things replaced by its converse.
    Relation,
    /// The same for a relation of place.
    Spatial,
    /// Something else is asked about the same: how much instead of how long, why instead of who.
    Question,
    /// All, some, only, all but, at least, at most.
    Scope,
    /// A thing, person or place exchanged for another of its type.
    Entity,
    /// Attributes of two things exchanged.
    Binding,
    /// Another tense or aspect.
    Tense,
    /// Can, must or should.
    Modality,
    /// The same thing, and something else to be done with it.
    Intent,
    /// Another thing altogether.
    Unrelated,
}

impl Kind {
    /// All kinds: rewordings first.
    pub const ALL: [Kind; 19] = [
        Kind::Wording,
        Kind::Order,
        Kind::Template,
        Kind::Converse,
        Kind::OppositeNegated,
        Kind::Antonym,
        Kind::Negation,
        Kind::Role,
        Kind::Quantity,
        Kind::Relation,
        Kind::Spatial,
        Kind::Question,
        Kind::Scope,
        Kind::Entity,
        Kind::Binding,
        Kind::Tense,
        Kind::Modality,
        Kind::Intent,
        Kind::Unrelated,
    ];

    /// Those of rewordings, with the share of each as far as there are such.
    const REWORDINGS: [(Kind, f64); 5] = [
        (Kind::Wording, 2.0),
        (Kind::Order, 2.0),
        (Kind::Template, 4.0),
        (Kind::Converse, 3.0),
        (Kind::OppositeNegated, 3.0),
    ];

    /// Those of near-misses, with the share of each.
    const MISSES: [(Kind, f64); 14] = [
        (Kind::Antonym, 3.0),
        (Kind::Negation, 3.0),
        (Kind::Role, 3.0),
        (Kind::Quantity, 2.0),
        (Kind::Relation, 2.0),
        (Kind::Spatial, 1.0),
        (Kind::Question, 2.0),
        (Kind::Scope, 1.5),
        (Kind::Entity, 2.0),
        (Kind::Binding, 1.5),
        (Kind::Tense, 1.0),
        (Kind::Modality, 1.5),
        (Kind::Intent, 1.5),
        (Kind::Unrelated, 1.5),
    ];

    /// The name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Wording => "wording",
            Kind::Order => "order",
            Kind::Template => "template",
            Kind::Converse => "converse",
            Kind::OppositeNegated => "opposite_negated",
            Kind::Antonym => "antonym",
            Kind::Negation => "negation",
            Kind::Role => "role",
            Kind::Quantity => "quantity",
            Kind::Relation => "relation",
            Kind::Spatial => "spatial",
            Kind::Question => "question",
            Kind::Scope => "scope",
            Kind::Entity => "entity",
            Kind::Binding => "binding",
            Kind::Tense => "tense",
            Kind::Modality => "modality",
            Kind::Intent => "intent",
            Kind::Unrelated => "unrelated",
        }
    }

    /// Whether such a text asks for the same.
    pub fn is_same(self) -> bool {
        use Kind::{Converse, OppositeNegated, Order, Template, Wording};
        matches!(
            self,
            Wording | Order | Template | Converse | OppositeNegated
        )
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Two questions or requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// The one that counts as given.
    pub anchor: String,
    /// The other one.
    pub text: String,
    /// Whether they ask for the same.
    pub same: bool,
    /// What the text does to the anchor.
    pub kind: Kind,
    /// What the anchor is about: `cooking`, `travel`.
    pub group: &'static str,
    /// The family of the anchor, finer than `group`.
    pub family: &'static str,
}

/// What [`generate`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Questions {
    /// Anchor by anchor: its rewording, then its near-miss.
    pub pairs: Vec<Pair>,
}

/// Pairs of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// The kind.
    pub kind: Kind,
    /// Its pairs.
    pub pairs: usize,
    /// How many of them differ by [`SMALL`] words or fewer.
    pub small: usize,
}

impl Questions {
    /// The pairs that ask for the same.
    pub fn paraphrases(&self) -> Vec<Paraphrase> {
        let same = self.pairs.iter().filter(|pair| pair.same);
        same.map(|pair| Paraphrase {
            anchor: pair.anchor.clone(),
            text: pair.text.clone(),
            source: pair.group.to_string(),
        })
        .collect()
    }

    /// The pairs that do not, their kinds as categories.
    pub fn near_misses(&self) -> Vec<NearMiss> {
        let misses = self.pairs.iter().filter(|pair| !pair.same);
        misses
            .map(|pair| NearMiss {
                anchor: pair.anchor.clone(),
                text: pair.text.clone(),
                category: Category::parse(pair.kind.name()),
                source: pair.group.to_string(),
            })
            .collect()
    }

    /// How many pairs there are of each kind that occurs.
    pub fn kinds(&self) -> Vec<KindCount> {
        let mut counts: BTreeMap<Kind, (usize, usize)> = BTreeMap::new();
        for pair in &self.pairs {
            let words = crate::metrics::edits::words;
            let small = word_distance(&words(&pair.anchor), &words(&pair.text)) <= SMALL;
            let count = counts.entry(pair.kind).or_default();
            count.0 += 1;
            count.1 += usize::from(small);
        }
        let rows = counts.into_iter();
        rows.map(|(kind, (pairs, small))| KindCount { kind, pairs, small })
            .collect()
    }
}

/// Writes `n` pairs: the first half of every two asks for the same.
///
/// # Errors
/// [`Error::Invalid`] if none are asked for, or more than the grammar can write.
pub fn generate(split: Split, seed: u64, n: usize) -> Result<Questions> {
    if n == 0 {
        return Err(Error::Invalid(
            "no questions were asked for; ask for at least one".into(),
        ));
    }
    let grammar = Grammar::load()?;
    let mut writer = Writer::new(&grammar, split);
    let mut pairs: Vec<Pair> = Vec::with_capacity(n + 1);
    let (mut attempt, mut idle) = (0, 0);
    while pairs.len() < n {
        if idle == MAX_IDLE {
            return Err(Error::Invalid(format!(
                "the grammar writes no more than about {} questions for the split {}, {n} were asked for; ask for fewer",
                pairs.len(),
                split.name(),
            )));
        }
        let stream = Stream::new(seed, &["questions", split.name()], attempt);
        attempt += 1;
        idle += 1;
        if let Some(two) = writer.write(stream) {
            idle = 0;
            pairs.extend(two);
        }
    }
    pairs.truncate(n);
    Ok(Questions { pairs })
}

/// How a near-miss is made from a meaning.
#[derive(Clone, Copy)]
enum Change {
    /// To another sense.
    Sense(usize, usize),
    /// To another ask.
    Ask(usize, usize),
    /// Another value in a slot.
    Value(usize),
    /// The exchange with this number.
    Swap(usize),
    /// Something else about the same things.
    Intent,
    /// Anything else.
    Unrelated,
}

/// What counts alike in a rewording and a near-miss of one anchor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Stratum {
    /// At most [`SMALL`] words edited, or words moved and nothing else.
    small: bool,
    overlap: usize,
    length: usize,
    negation: bool,
}

/// What is against two candidates: not as wished for, of a kind that there is much of, less alike than others.
type Cost = (bool, bool, f64, f64);

/// What the two edits of an anchor are to be like.
#[derive(Clone, Copy)]
struct Wish {
    small: bool,
    /// A negation on one side alone.
    negation: bool,
}

struct Writer<'g> {
    grammar: &'g Grammar,
    split: Split,
    /// The entries of each lexicon that the split uses.
    entries: Vec<Vec<usize>>,
    /// Of each family the families that share a named lexicon with it, and the two slots.
    relatives: Vec<Vec<(usize, usize, usize)>>,
    /// Families with the changes that make a near-miss of each kind.
    changes: Vec<Vec<(usize, Vec<Change>)>>,
    /// Near-misses of each kind so far, with a surcharge for attempts that failed.
    written: Vec<f64>,
    /// Rewordings of each kind so far.
    reworded: [f64; Kind::REWORDINGS.len()],
    anchors: HashSet<Vec<String>>,
}

impl<'g> Writer<'g> {
    fn new(grammar: &'g Grammar, split: Split) -> Self {
        let used = |lexicon: &Lexicon| {
            let entries = &lexicon.entries;
            let unseen = split == Split::UnseenWords && entries.iter().any(|e| e.unseen);
            (0..entries.len())
                .filter(|&i| entries[i].unseen == unseen)
                .collect()
        };
        let mut writer = Writer {
            grammar,
            split,
            entries: grammar.lexicons.iter().map(used).collect(),
            relatives: Vec::new(),
            changes: Vec::new(),
            written: vec![0.0; Kind::MISSES.len()],
            reworded: [0.0; Kind::REWORDINGS.len()],
            anchors: HashSet::new(),
        };
        let numbers = 0..grammar.families.len();
        writer.relatives = numbers.map(|number| writer.relatives_of(number)).collect();
        for (kind, _) in Kind::MISSES {
            let usable = (0..grammar.families.len()).filter(|&number| writer.can_use(number));
            let changes = usable.map(|number| (number, writer.changes_of(number, kind)));
            let some = changes.filter(|(_, changes)| !changes.is_empty()).collect();
            writer.changes.push(some);
        }
        writer
    }

    /// Whether a family has what the split asks for.
    fn can_use(&self, family: usize) -> bool {
        let family = &self.grammar.families[family];
        match self.split {
            Split::Train | Split::UnseenTemplates => !family.unseen,
            Split::UnseenWords => {
                let lexicon = |slot: &grammar::Slot| &self.grammar.lexicons[slot.lexicon];
                let unseen = |slot| lexicon(slot).entries.iter().any(|entry| entry.unseen);
                family.unseen || family.slots.iter().any(unseen)
            }
        }
    }

    /// The ways to make a near-miss of a kind in a family.
    fn changes_of(&self, number: usize, wanted: Kind) -> Vec<Change> {
        let family = &self.grammar.families[number];
        let mut changes = Vec::new();
        for &(a, b, kind) in &family.misses {
            if kind == wanted {
                changes.extend([Change::Sense(a, b), Change::Sense(b, a)]);
            }
        }
        for &a in &family.asks {
            for &b in &family.asks {
                if self.grammar.ask_change(a, b) == Some(wanted) {
                    changes.push(Change::Ask(a, b));
                }
            }
        }
        for (i, slot) in family.slots.iter().enumerate() {
            let lexicon = &self.grammar.lexicons[slot.lexicon];
            let entries = &self.entries[slot.lexicon];
            let poles = lexicon.entries.iter().any(|entry| entry.poles.len() == 2);
            if !slot.keep && lexicon.kind == wanted && (poles || entries.len() > 1) {
                changes.push(Change::Value(i));
            }
        }
        for (i, swap) in family.swaps.iter().enumerate() {
            if swap.kind == wanted {
                changes.push(Change::Swap(i));
            }
        }
        match wanted {
            Kind::Intent if !self.relatives[number].is_empty() => changes.push(Change::Intent),
            Kind::Unrelated => changes.push(Change::Unrelated),
            _ => {}
        }
        changes
    }

    /// Families that share a named lexicon with this one: number, and the two slots.
    fn relatives_of(&self, number: usize) -> Vec<(usize, usize, usize)> {
        let grammar = self.grammar;
        let mut found = Vec::new();
        for (i, slot) in grammar.families[number].slots.iter().enumerate() {
            let shared = |other: &grammar::Slot| {
                other.lexicon == slot.lexicon && !grammar.lexicons[slot.lexicon].name.is_empty()
            };
            for (other, family) in grammar.families.iter().enumerate() {
                if other != number && self.can_use(other) && !slot.keep {
                    let place = family.slots.iter().position(shared);
                    found.extend(place.map(|place| (other, i, place)));
                }
            }
        }
        found
    }

    /// A rewording and a near-miss of one new anchor.
    fn write(&mut self, mut stream: Stream) -> Option<[Pair; 2]> {
        let order = |&a: &usize, &b: &usize| {
            let share = |i: usize| self.written[i] / Kind::MISSES[i].1;
            share(a).total_cmp(&share(b))
        };
        let usable = (0..Kind::MISSES.len()).filter(|&i| !self.changes[i].is_empty());
        let wanted = usable.min_by(order)?;
        // A kind that is used up must not stop the others.
        self.written[wanted] += 0.02;
        let families = &self.changes[wanted];
        let (family, changes) = &families[stream.below(families.len())];
        let change = changes[stream.below(changes.len())];

        let meaning = self.meaning(*family, change, &mut stream)?;
        let key = stream.bits();
        let anchor = self.render(&meaning, Choices::new(key))?;
        if self.anchors.contains(&anchor.words) {
            return None;
        }
        let mut same = Vec::new();
        let mut miss = Vec::new();
        for i in 0..FRESH + ANEW * Decision::ALL.len() {
            let choices = match i.checked_sub(FRESH) {
                None => Choices::new(stream.bits()),
                Some(i) => Choices::new(key).but(Decision::ALL[i / ANEW], stream.bits()),
            };
            same.extend(self.render(&meaning, choices));
            let Some(other) = self.changed(&meaning, change, &mut stream) else {
                continue;
            };
            miss.extend(self.render(&other, choices));
            let varies = matches!(
                change,
                Change::Value(_) | Change::Intent | Change::Unrelated
            );
            if varies || i == 0 {
                miss.extend(self.render(&other, Choices::new(key)));
            }
        }
        let wish = Wish {
            small: stream.below(2) == 0,
            negation: stream.below(2) == 0,
        };
        let (same, miss) = self.choose(&anchor, same, miss, wish)?;
        let kind = rewording(&anchor, &same);

        self.written[wanted] += 1.0;
        let place = Kind::REWORDINGS.iter().position(|&(k, _)| k == kind)?;
        self.reworded[place] += 1.0;
        self.anchors.insert(anchor.words.clone());
        let source = &self.grammar.families[*family];
        let pair = |text: String, kind: Kind| Pair {
            anchor: anchor.text.clone(),
            text,
            same: kind.is_same(),
            kind,
            group: source.group,
            family: source.name,
        };
        Some([
            pair(same.text, kind),
            pair(miss.text, Kind::MISSES[wanted].0),
        ])
    }

    fn render(&self, meaning: &Meaning, choices: Choices) -> Option<Surface> {
        let unseen = self.split == Split::UnseenTemplates;
        let surface = self.grammar.render(meaning, choices, unseen)?;
        (2..=30).contains(&surface.words.len()).then_some(surface)
    }

    /// A meaning of a family that a change applies to.
    fn meaning(&self, number: usize, change: Change, stream: &mut Stream) -> Option<Meaning> {
        let family = &self.grammar.families[number];
        let values = self.values(number, stream)?;
        let sense = match change {
            Change::Sense(from, _) => from,
            _ => stream.below(family.senses.len()),
        };
        let ask = match change {
            _ if family.asks.is_empty() => None,
            Change::Ask(from, _) => Some(from),
            _ => Some(family.asks[stream.below(family.asks.len())]),
        };
        if let Change::Swap(i) = change {
            let name = ask.map(|ask| self.grammar.asks[ask].name);
            if !family.swaps[i].applies(family.senses[sense].name, name) {
                return None;
            }
        }
        Some(Meaning {
            family: number,
            ask,
            sense,
            values,
        })
    }

    /// A value for every slot; two slots of one lexicon have two values.
    fn values(&self, number: usize, stream: &mut Stream) -> Option<Vec<(usize, usize)>> {
        let family = &self.grammar.families[number];
        let mut values: Vec<(usize, usize)> = Vec::with_capacity(family.slots.len());
        for slot in &family.slots {
            let lexicon = &self.grammar.lexicons[slot.lexicon];
            let entries = &self.entries[slot.lexicon];
            let entry = *entries.get(stream.below(entries.len()))?;
            let pole = stream.below(lexicon.entries[entry].poles.len());
            let mut before = family.slots.iter().zip(&values);
            if before.any(|(s, v)| s.lexicon == slot.lexicon && v.0 == entry) {
                return None;
            }
            values.push((entry, pole));
        }
        Some(values)
    }

    /// The meaning of a near-miss.
    fn changed(&self, meaning: &Meaning, change: Change, stream: &mut Stream) -> Option<Meaning> {
        let family = &self.grammar.families[meaning.family];
        let mut other = meaning.clone();
        match change {
            Change::Sense(_, to) => other.sense = to,
            Change::Ask(_, to) => other.ask = Some(to),
            Change::Value(slot) => {
                if family.senses[other.sense]
                    .held
                    .contains(&family.slots[slot].name)
                {
                    return None;
                }
                let lexicon = family.slots[slot].lexicon;
                let (entry, pole) = other.values[slot];
                other.values[slot] = match self.grammar.lexicons[lexicon].entries[entry].poles.len()
                {
                    2 => (entry, 1 - pole),
                    _ => {
                        let entries = &self.entries[lexicon];
                        let taken = |new: usize| {
                            let mut slots = family.slots.iter().zip(&meaning.values);
                            slots.any(|(s, v)| s.lexicon == lexicon && v.0 == new)
                        };
                        let free: Vec<usize> =
                            entries.iter().copied().filter(|&e| !taken(e)).collect();
                        (*free.get(stream.below(free.len()))?, 0)
                    }
                };
            }
            Change::Swap(i) => {
                let (a, b) = family.swaps[i].slots;
                other.values.swap(a, b);
            }
            Change::Intent => {
                let relatives = &self.relatives[meaning.family];
                let (number, own, its) = relatives[stream.below(relatives.len())];
                other = self.meaning(number, Change::Unrelated, stream)?;
                other.values[its] = meaning.values[own];
                let slots = &self.grammar.families[number].slots;
                let twice = |i: usize, j: usize| {
                    slots[i].lexicon == slots[j].lexicon && other.values[i].0 == other.values[j].0
                };
                if (0..slots.len()).any(|i| (0..i).any(|j| twice(i, j))) {
                    return None;
                }
            }
            Change::Unrelated => {
                let number = stream.below(self.grammar.families.len());
                if !self.can_use(number) || self.grammar.families[number].group == family.group {
                    return None;
                }
                other = self.meaning(number, Change::Unrelated, stream)?;
            }
        }
        Some(other)
    }

    /// A rewording and a near-miss that are alike in what counts, as wished where possible; the rewording of the kind that
    /// there is least of so far.
    fn choose(
        &self,
        anchor: &Surface,
        same: Vec<Surface>,
        miss: Vec<Surface>,
        wish: Wish,
    ) -> Option<(Surface, Surface)> {
        // A text that says both would be a fault of the grammar; it is neither.
        let mut seen = HashSet::from([anchor.words.clone()]);
        let mut described = |surfaces: Vec<Surface>| -> Vec<(Stratum, f64, Surface)> {
            let new = surfaces
                .into_iter()
                .filter(|s| seen.insert(s.words.clone()));
            let describe = |s: Surface| {
                let share = overlap(&anchor.words, &s.words);
                (stratum(&anchor.words, &s.words), share, s)
            };
            new.map(describe).collect()
        };
        let mut same = described(same);
        let mut miss = described(miss);
        let mut best: Option<(Cost, usize, usize)> = None;
        for (i, (stratum, a, surface)) in same.iter().enumerate() {
            let kind = rewording(anchor, surface);
            let mut shares = Kind::REWORDINGS.iter().zip(&self.reworded);
            let share = shares.find(|((known, _), _)| *known == kind);
            let share = share.map_or(0.0, |((_, share), n)| n / share);
            for (j, (other, b, _)) in miss.iter().enumerate() {
                if stratum != other {
                    continue;
                }
                let cost = (
                    stratum.small != wish.small,
                    stratum.negation != wish.negation,
                    share,
                    (a - b).abs(),
                );
                if best.is_none_or(|(known, ..)| cost < known) {
                    best = Some((cost, i, j));
                }
            }
        }
        let (_, i, j) = best?;
        Some((same.swap_remove(i).2, miss.swap_remove(j).2))
    }
}

/// What a rewording does.
fn rewording(anchor: &Surface, text: &Surface) -> Kind {
    let Mark { opposite, converse } = anchor.mark.join(text.mark);
    if opposite {
        Kind::OppositeNegated
    } else if converse {
        Kind::Converse
    } else if sorted(&anchor.words) == sorted(&text.words) {
        Kind::Order
    } else if anchor.form == text.form {
        Kind::Wording
    } else {
        Kind::Template
    }
}

fn sorted(words: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = words.iter().collect();
    sorted.sort_unstable();
    sorted
}

/// Share of all words of two texts that they have in common (Jaccard).
fn overlap(a: &[String], b: &[String]) -> f64 {
    let (a, b): (HashSet<&String>, HashSet<&String>) = (a.iter().collect(), b.iter().collect());
    a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
}

/// Whether a word negates.
fn is_negation(word: &str) -> bool {
    const WORDS: [&str; 10] = [
        "not", "no", "never", "none", "nothing", "nobody", "without", "neither", "nor", "cannot",
    ];
    WORDS.contains(&word) || word.ends_with("n't")
}

fn stratum(anchor: &[String], text: &[String]) -> Stratum {
    let negated = |words: &[String]| words.iter().any(|word| is_negation(word));
    let longer = anchor.len().abs_diff(text.len());
    let moved = sorted(anchor) == sorted(text);
    let small = moved || longer <= SMALL && word_distance(anchor, text) <= SMALL;
    let overlap = match overlap(anchor, text) {
        _ if moved => 6,
        // Small edits share most words anyway.
        _ if small => 5,
        share if share >= 0.8 => 5,
        share if share >= 0.65 => 4,
        share if share >= 0.5 => 3,
        share if share >= 0.35 => 2,
        share if share >= 0.2 => 1,
        _ => 0,
    };
    let length = match longer {
        0 if !small => 0,
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    Stratum {
        small,
        overlap,
        length,
        negation: negated(anchor) != negated(text),
    }
}

#[cfg(test)]
mod tests;
