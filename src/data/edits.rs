//! Built-in edit sets: sentences with near-misses and with controls that keep the meaning, written by a grammar.
//!
//! An [`Anchor`] is a sentence about a small world (a bakery, a harbour, a school, a workshop, a farm). Its [`Variant`]s
//! are a near-miss, whose meaning differs (negation, binding, spatial, role, quantity), and controls of comparable size
//! whose meaning does not: a paraphrase (voice, clause order, a converse relation with its arguments exchanged), a
//! synonym, a function word; besides the sentence itself and an unrelated one. Every anchor has at least a near-miss, a
//! paraphrase and a function-word control.
//!
//! ```text
//! lexicon person                     entries `- singular|plural = synonym's forms`; forms may be split by blanks if no
//! - baker                            form holds one; `*` marks an entry that only the test set of unseen words uses
//! lexicon action base past pp        names of the forms; an action lists what it is done to behind `:`
//! - slice sliced sliced = cut cut cut : loaf, sponge cake
//! frame role-past role [unseen]      name, category; `unseen` keeps it for the test set of unseen templates
//! slots A:person B:person V:treat    `O:object` takes an object of the action in slot V
//! swap A B                           the near-miss is the sentence with these exchanged; without it, `y` is
//! x  The {A} {V.past} the {B}.       a sentence, then `para` and `func` variants that mean the same as it
//! y  ...                             the sentence of opposite meaning, with its own; either can be the anchor
//! ```
//!
//! **Splits are by anchor.** Which of train, calibration and test an anchor belongs to follows from a hash of the values
//! of its slots, whatever their order: a sentence and its swap are never on two sides, and asking for more of one split
//! changes nothing in another. The remaining two test sets hold what no other split does: frames marked `unseen`, and
//! entries marked `*`.
//!
//! Random numbers depend on the seed, category, split and the number of the attempt alone, so the same options give the
//! same sentences everywhere.
//!
//! ```
//! use nearmiss::data::edits::{Options, Split, generate};
//! let set = generate(&Options { per_category: 2, splits: vec![Split::Test], ..Options::default() })?;
//! assert_eq!(set.anchors.len(), 10);
//! # Ok::<(), nearmiss::Error>(())
//! ```

mod grammar;

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use self::grammar::{Domain, Entry, Frame, Grammar, Sentence};
use super::{Category, write_atomically};
use crate::error::{Error, Result};
use crate::metrics::edits::{word_distance, words};
use crate::metrics::near_miss::Kind;
use crate::random::Stream;

/// The worlds that sentences are about.
pub const DOMAINS: [&str; 5] = ["bakery", "harbour", "school", "workshop", "farm"];

/// The kinds of near-misses.
pub const CATEGORIES: [Category; 5] = [
    Category::Negation,
    Category::Binding,
    Category::Spatial,
    Category::Role,
    Category::Quantity,
];

/// Attempts in a row without a new anchor after which the grammar counts as exhausted.
const MAX_IDLE: usize = 5_000;

/// What an anchor is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Training.
    Train,
    /// Choosing thresholds.
    Calibration,
    /// Judging: frames and words as in training, other anchors.
    Test,
    /// Judging on frames that occur nowhere else.
    TestTemplates,
    /// Judging on verbs, modifiers, relations and numbers that occur nowhere else.
    TestWords,
}

impl Split {
    /// All of them.
    pub const ALL: [Split; 5] = [
        Split::Train,
        Split::Calibration,
        Split::Test,
        Split::TestTemplates,
        Split::TestWords,
    ];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Calibration => "calibration",
            Split::Test => "test",
            Split::TestTemplates => "test_templates",
            Split::TestWords => "test_words",
        }
    }
}

/// What changed between an anchor and a variant: the words between what they begin and end with alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edit {
    /// Words of the anchor.
    pub from: String,
    /// Words of the variant in their place.
    pub to: String,
    /// Number of words in front.
    pub position: usize,
    /// Word-level Levenshtein distance.
    pub size: usize,
}

/// A sentence made from an anchor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// What it is to the anchor.
    pub kind: Kind,
    /// The sentence.
    pub text: String,
    /// What changed.
    pub edit: Edit,
}

/// A sentence with its variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Anchor {
    /// The sentence.
    pub text: String,
    /// Kind of its near-miss.
    pub category: Category,
    /// What it is used for.
    pub split: Split,
    /// Its world.
    pub domain: &'static str,
    /// Name of its frame.
    pub frame: &'static str,
    /// Its near-miss first.
    pub variants: Vec<Variant>,
}

impl Anchor {
    /// The first variant of a kind.
    pub fn variant(&self, kind: Kind) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.kind == kind)
    }
}

/// What [`generate`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Same seed, same sentences.
    pub seed: u64,
    /// Anchors of each category in each split.
    pub per_category: usize,
    /// Which categories, from [`CATEGORIES`].
    pub categories: Vec<Category>,
    /// Which splits.
    pub splits: Vec<Split>,
}

impl Default for Options {
    /// 100 anchors of every category and split, seed 42.
    fn default() -> Self {
        Options {
            seed: 42,
            per_category: 100,
            categories: CATEGORIES.to_vec(),
            splits: Split::ALL.to_vec(),
        }
    }
}

/// Anchors of all splits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditSet {
    /// Split by split, category by category.
    pub anchors: Vec<Anchor>,
}

/// Counts and sizes of one category in one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetSummary {
    /// The split.
    pub split: Split,
    /// The category.
    pub category: Category,
    /// Anchors, each with one near-miss.
    pub anchors: usize,
    /// Controls that keep the meaning.
    pub controls: usize,
    /// Mean word-level distance of near-misses.
    pub near_miss_size: f64,
    /// Mean word-level distance of controls.
    pub control_size: f64,
    /// Mean number of words of an anchor.
    pub length: f64,
}

/// Writes an edit set.
///
/// # Errors
/// [`Error::Invalid`] if nothing is asked for, or more than the grammar can write.
pub fn generate(options: &Options) -> Result<EditSet> {
    if options.per_category == 0 || options.categories.is_empty() || options.splits.is_empty() {
        return Err(Error::Invalid(
            "an edit set needs anchors, categories and splits; ask for at least one of each".into(),
        ));
    }
    if let Some(other) = options.categories.iter().find(|c| !CATEGORIES.contains(c)) {
        return Err(Error::Invalid(format!(
            "the grammar has no category {other}; choose from {}",
            CATEGORIES.map(|c| c.to_string()).join(", ")
        )));
    }
    let grammar = Grammar::load()?;
    let mut anchors: Vec<Anchor> = Vec::new();
    for &split in &options.splits {
        let first = anchors.len();
        for category in &options.categories {
            write_anchors(&grammar, options, split, category, &mut anchors)?;
        }
        add_unrelated(&mut anchors[first..], options.seed, split);
    }
    Ok(EditSet { anchors })
}

fn write_anchors(
    grammar: &Grammar,
    options: &Options,
    split: Split,
    category: &Category,
    anchors: &mut Vec<Anchor>,
) -> Result<()> {
    let frames: Vec<&Frame> = grammar
        .frames
        .iter()
        .filter(|frame| {
            frame.category == *category && frame.unseen == (split == Split::TestTemplates)
        })
        .filter(|frame| split != Split::TestWords || grammar.has_unseen_words(frame))
        .collect();
    let mut seen = HashSet::new();
    let (mut attempt, mut idle) = (0, 0);
    while seen.len() < options.per_category {
        if idle == MAX_IDLE {
            return Err(Error::Invalid(format!(
                "the grammar writes no more than about {} anchors of {category} for the split {}, {} were asked for; ask for fewer",
                seen.len(),
                split.name(),
                options.per_category
            )));
        }
        let purpose = ["edits", category.name(), split.name()];
        let mut stream = Stream::new(options.seed, &purpose, attempt);
        attempt += 1;
        idle += 1;
        let domain = &grammar.domains[stream.below(grammar.domains.len())];
        let frame = frames[stream.below(frames.len())];
        let Some(values) = draw(grammar, domain, frame, split, &mut stream) else {
            continue;
        };
        if !belongs(frame, &values, split) {
            continue;
        }
        let (own, near) = poles(frame, &values, &mut stream);
        let text = own.text.render(|slot, form| &values[slot].forms[form]);
        if seen.insert(text.clone()) {
            idle = 0;
            anchors.push(Anchor {
                variants: variants(own, near, &text, &values, &mut stream),
                text,
                category: category.clone(),
                split,
                domain: domain.name,
                frame: frame.name,
            });
        }
    }
    Ok(())
}

/// A value for every slot, or none if two slots of one lexicon met in one value.
fn draw<'g>(
    grammar: &'g Grammar,
    domain: &'g Domain,
    frame: &Frame,
    split: Split,
    stream: &mut Stream,
) -> Option<Vec<&'g Entry>> {
    let mut values: Vec<&Entry> = Vec::with_capacity(frame.slots.len());
    for slot in &frame.slots {
        let value = if slot.lexicon == grammar::OBJECT {
            let mut action = frame.slots.iter().zip(&values);
            let (_, action) = action.rfind(|(s, _)| s.lexicon == grammar::ACTION)?;
            &action.objects[stream.below(action.objects.len())]
        } else {
            let entries = grammar.entries(domain, slot.lexicon);
            let marked = split == Split::TestWords && entries.iter().any(|e| e.unseen);
            let usable: Vec<&Entry> = entries.iter().filter(|e| e.unseen == marked).collect();
            usable[stream.below(usable.len())]
        };
        if values.iter().any(|v| v.forms == value.forms) {
            return None;
        }
        values.push(value);
    }
    Some(values)
}

/// Whether a sentence with these values is one of `split`'s; the two special test sets have their own.
fn belongs(frame: &Frame, values: &[&Entry], split: Split) -> bool {
    // What an edit replaces by something that the sentence does not have is no part of its name, so that the sentence
    // and its near-miss have one name.
    let used = |slot: usize| frame.x.text.slots().any(|other| other == slot);
    let replaced = |slot: usize| {
        frame
            .swap
            .is_some_and(|(a, b)| (slot == a || slot == b) && !(used(a) && used(b)))
    };
    let kept = (0..).zip(values).filter(|(slot, _)| !replaced(*slot));
    let mut parts: Vec<&str> = kept.map(|(_, value)| value.forms[0].as_str()).collect();
    parts.sort_unstable();
    parts.push(frame.category.name());
    let share = Stream::new(0, &parts, 0).below(4);
    match split {
        Split::Train => share < 2,
        Split::Calibration => share == 2,
        Split::Test => share == 3,
        Split::TestTemplates | Split::TestWords => true,
    }
}

/// Which sentence of a frame is the anchor, and the near-miss that belongs to it.
fn poles<'f>(frame: &'f Frame, values: &[&Entry], stream: &mut Stream) -> (&'f Sentence, String) {
    let plain = |slot: usize, form: usize| values[slot].forms[form].as_str();
    match (&frame.y, frame.swap) {
        (Some(y), _) if stream.below(2) == 1 => (y, frame.x.text.render(plain)),
        (Some(y), _) => (&frame.x, y.text.render(plain)),
        (None, swap) => {
            let (a, b) = swap.expect("checked while reading: a frame swaps or has a y");
            let exchanged = |slot: usize, form: usize| match slot {
                slot if slot == a => plain(b, form),
                slot if slot == b => plain(a, form),
                slot => plain(slot, form),
            };
            (&frame.x, frame.x.text.render(exchanged))
        }
    }
}

/// Everything that is made of the anchor `text`, but for an unrelated sentence.
fn variants(
    own: &Sentence,
    near: String,
    text: &str,
    values: &[&Entry],
    stream: &mut Stream,
) -> Vec<Variant> {
    let plain = |slot: usize, form: usize| values[slot].forms[form].as_str();
    let mut variants = Vec::new();
    let mut add = |kind, variant: String| {
        let edit = edit(text, &variant);
        variants.push(Variant {
            kind,
            text: variant,
            edit,
        });
    };
    add(Kind::NearMiss, near);
    let Sentence { para, func, .. } = own;
    let chosen = &para[stream.below(para.len())];
    add(Kind::Paraphrase, chosen.render(plain));
    let replaceable: Vec<usize> = own
        .text
        .slots()
        .filter(|&slot| values[slot].synonym.is_some())
        .collect();
    if !replaceable.is_empty() {
        let replaced = replaceable[stream.below(replaceable.len())];
        let synonym = values[replaced].synonym.as_ref().expect("chosen for it");
        let text = own.text.render(|slot, form| {
            if slot == replaced {
                &synonym[form]
            } else {
                plain(slot, form)
            }
        });
        add(Kind::Synonym, text);
    }
    let chosen = &func[stream.below(func.len())];
    add(Kind::Function, chosen.render(plain));
    add(Kind::Identity, text.to_string());
    variants
}

/// Sets every anchor beside one from another world.
fn add_unrelated(anchors: &mut [Anchor], seed: u64, split: Split) {
    let others: Vec<(String, &str)> = anchors.iter().map(|a| (a.text.clone(), a.domain)).collect();
    for (i, anchor) in (0..).zip(anchors.iter_mut()) {
        let mut stream = Stream::new(seed, &["unrelated", split.name()], i);
        // With a single world in a small set there may be none.
        let drawn = (0..100).map(|_| &others[stream.below(others.len())]);
        let other = drawn
            .into_iter()
            .find(|(_, domain)| *domain != anchor.domain);
        if let Some((text, _)) = other {
            anchor.variants.push(Variant {
                kind: Kind::Unrelated,
                text: text.clone(),
                edit: edit(&anchor.text, text),
            });
        }
    }
}

/// What changed between two sentences.
fn edit(before: &str, after: &str) -> Edit {
    let (a, b): (Vec<&str>, Vec<&str>) = (
        before.split_whitespace().collect(),
        after.split_whitespace().collect(),
    );
    let alike = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let (rest_a, rest_b) = (&a[alike..], &b[alike..]);
    let pairs = rest_a.iter().rev().zip(rest_b.iter().rev());
    let end = pairs.take_while(|(x, y)| x == y).count();
    Edit {
        from: rest_a[..rest_a.len() - end].join(" "),
        to: rest_b[..rest_b.len() - end].join(" "),
        position: alike,
        size: word_distance(&words(before), &words(after)),
    }
}

impl EditSet {
    /// Counts and sizes, split by split and category by category.
    pub fn summary(&self) -> Vec<SetSummary> {
        let mut summaries = Vec::new();
        for split in Split::ALL {
            for category in &CATEGORIES {
                let of = |a: &&Anchor| a.split == split && a.category == *category;
                let anchors: Vec<&Anchor> = self.anchors.iter().filter(of).collect();
                if anchors.is_empty() {
                    continue;
                }
                let sizes = |wanted: &dyn Fn(Kind) -> bool| -> (usize, f64) {
                    let all = anchors.iter().flat_map(|a| &a.variants);
                    let sizes: Vec<usize> = all
                        .filter(|v| wanted(v.kind))
                        .map(|v| v.edit.size)
                        .collect();
                    let n = sizes.len();
                    (n, sizes.iter().sum::<usize>() as f64 / n.max(1) as f64)
                };
                let (_, near_miss_size) = sizes(&|kind| kind == Kind::NearMiss);
                let (controls, control_size) = sizes(&|kind| {
                    use Kind::{Function, Paraphrase, Synonym};
                    matches!(kind, Paraphrase | Synonym | Function)
                });
                let lengths: usize = anchors.iter().map(|a| words(&a.text).len()).sum();
                summaries.push(SetSummary {
                    split,
                    category: category.clone(),
                    anchors: anchors.len(),
                    controls,
                    near_miss_size,
                    control_size,
                    length: lengths as f64 / anchors.len() as f64,
                });
            }
        }
        summaries
    }

    /// Writes all variants as CSV: `anchor,text,kind,category,split,domain,frame,from,to,position,size`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        write_atomically(path, |file| {
            let mut csv = csv::Writer::from_writer(file);
            csv.write_record([
                "anchor", "text", "kind", "category", "split", "domain", "frame", "from", "to",
                "position", "size",
            ])?;
            for anchor in &self.anchors {
                for variant in &anchor.variants {
                    let Edit {
                        from,
                        to,
                        position,
                        size,
                    } = &variant.edit;
                    csv.write_record([
                        &anchor.text,
                        &variant.text,
                        variant.kind.name(),
                        anchor.category.name(),
                        anchor.split.name(),
                        anchor.domain,
                        anchor.frame,
                        from,
                        to,
                        &position.to_string(),
                        &size.to_string(),
                    ])?;
                }
            }
            csv.flush()
        })
    }
}

#[cfg(test)]
mod tests;
