//! Built-in retrieval collections, written by a grammar: they need no download and are equal on every machine.
//!
//! [`generate`] writes passages and questions about small worlds (light stations, a branch line, a botanical garden, a
//! test kitchen, municipal archives, a town orchestra). The passages come in **clusters that share their words and
//! differ in structure**: who did it to whom, which came first, whether it happened at all. A question asks, in other
//! words, for one fact; the other members of the cluster name the same people and things and do not answer it.
//!
//! ```text
//! lexicon   `- the brass telescope = the spyglass`       how passages say it = how questions may say it
//! frame     `loan A:person B:person x:portable r:reason` a relation with typed slots; `swap A B` exchanges two
//! state     `lent`, `refused`                            what became of it; each has passages and questions
//! fact      domain, frame, state, value of every slot    one passage tells one fact, no fact is told twice
//! ```
//!
//! **Judgements are computed, not written down.** A question is built from a fact and mentions some of its slots; a
//! passage is relevant if its fact has the same domain, frame and state and agrees in every slot mentioned (in a
//! state that is declared `symmetric`, also with the two swapped). Questions with more than two relevant passages are
//! not asked. The grammar files in `generated/` must therefore keep one rule: a state's questions are answered by
//! that state's passages and by those of no other state.
//!
//! **Random numbers.** SplitMix64 (Steele, Lea and Flood, 2014): number `i` of a stream is a mix of `key + i * g`, a
//! function of its position alone. The key of a stream is made from the seed, the domain's name, and the number of
//! the cluster, so a domain says the same whichever other domains are asked for.
//!
//! Such a set shows that everything works and how models differ on structure. It is no evidence about zero-shot
//! retrieval: its language is far narrower than that of real collections.
//!
//! ```
//! # fn main() -> nearmiss::Result<()> {
//! use nearmiss::data::generated::{Options, generate};
//!
//! let collection = generate(&Options { n_passages: 60, n_queries: 20, ..Options::default() })?;
//! assert_eq!((collection.corpus.len(), collection.queries.len()), (60, 20));
//! # Ok(()) }
//! ```

mod grammar;
mod training;

pub use training::{RESERVED, training_pairs};

use std::collections::{BTreeMap, HashMap, HashSet};

use self::grammar::{Domain, Frame, Piece, Slot, State, Template};
use super::beir::{Collection, CollectionNotes, Document, Query};
use crate::error::{Error, Result};
use crate::metrics::ranking::Qrels;
use crate::random::Stream;

/// The domains' names, in the order in which they take turns.
pub const DOMAINS: [&str; 6] = [
    "lighthouse",
    "railway",
    "garden",
    "kitchen",
    "archive",
    "orchestra",
];

/// A named collection made of some of the domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// The domains it is about; no two collections share one.
    pub domains: [&'static str; 2],
    /// Whether training must not see it.
    pub held_out: bool,
}

/// The built-in collections. Each can have 1,000 passages and more.
pub const COLLECTIONS: [BuiltIn; 3] = [
    BuiltIn {
        name: "lighthouse-archive",
        domains: ["lighthouse", "archive"],
        held_out: false,
    },
    BuiltIn {
        name: "garden-kitchen",
        domains: ["garden", "kitchen"],
        held_out: false,
    },
    BuiltIn {
        name: "railway-orchestra",
        domains: ["railway", "orchestra"],
        held_out: true,
    },
];

impl BuiltIn {
    /// The collection called `name`.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name.
    pub fn named(name: &str) -> Result<Self> {
        let found = COLLECTIONS.into_iter().find(|known| known.name == name);
        found.ok_or_else(|| {
            Error::Usage(format!(
                "there is no built-in collection {name:?}; choose from {}",
                COLLECTIONS.map(|known| known.name).join(", ")
            ))
        })
    }

    /// Writes it, with its own name.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn generate(&self, seed: u64, n_passages: usize, n_queries: usize) -> Result<Collection> {
        let collection = generate(&Options {
            seed,
            n_passages,
            n_queries,
            domains: self.domains.map(String::from).to_vec(),
        })?;
        Ok(Collection {
            name: self.name.to_string(),
            ..collection
        })
    }
}

const SOURCES: [(&str, &str); DOMAINS.len()] = [
    ("lighthouse.txt", include_str!("generated/lighthouse.txt")),
    ("railway.txt", include_str!("generated/railway.txt")),
    ("garden.txt", include_str!("generated/garden.txt")),
    ("kitchen.txt", include_str!("generated/kitchen.txt")),
    ("archive.txt", include_str!("generated/archive.txt")),
    ("orchestra.txt", include_str!("generated/orchestra.txt")),
];
const PEOPLE: (&str, &str) = ("people.txt", include_str!("generated/people.txt"));

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Clusters of one domain that share a cast: names recur often enough that a name alone does not find a passage.
const CLUSTERS_PER_CAST: u64 = 6;
/// People in a cast, with different last names.
const CAST: usize = 12;
/// Years in which a cast is at work.
const CAST_YEARS: u16 = 12;
/// Passages in a cluster, drawn with equal probability.
const CLUSTER_SIZES: [usize; 4] = [3, 3, 4, 4];
/// Out of four mentions of a thing in a question, how many use the question's own words for it.
const REWORDED_OF_FOUR: usize = 3;
/// A question is asked only if at most this many passages answer it.
const MAX_RELEVANT: usize = 2;
/// Clusters in a row without a single new fact after which a domain counts as exhausted.
const MAX_IDLE_CLUSTERS: u32 = 200;

/// What [`generate`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Same seed, same bytes.
    pub seed: u64,
    /// Passages in the corpus.
    pub n_passages: usize,
    /// Questions, each made from another passage; at most `n_passages`.
    pub n_queries: usize,
    /// Names from [`DOMAINS`]; empty for all of them.
    pub domains: Vec<String>,
}

impl Default for Options {
    /// 400 passages and 200 questions from all domains, seed 42.
    fn default() -> Self {
        Self {
            seed: 42,
            n_passages: 400,
            n_queries: 200,
            domains: Vec::new(),
        }
    }
}

/// Writes a collection: split `test`, passages in random order with ids `p0001`, ..., questions `q0001`, ..., grade 1.
/// It is named `generated`, or `generated-<domain>-...` if not all domains are used.
///
/// # Errors
/// [`Error::Invalid`] for an unknown or repeated domain, no passages, no questions, more questions than passages, or
/// more of either than the grammar can write.
pub fn generate(options: &Options) -> Result<Collection> {
    if options.n_passages == 0 || options.n_queries == 0 {
        return Err(Error::Invalid(format!(
            "a generated collection needs passages and questions, got {} and {}; ask for at least one of each",
            options.n_passages, options.n_queries
        )));
    }
    if options.n_queries > options.n_passages {
        return Err(Error::Invalid(format!(
            "a generated collection has at most one question per passage, got {} questions and {} passages; \
             ask for fewer questions or more passages",
            options.n_queries, options.n_passages
        )));
    }
    let domains = chosen_domains(&options.domains)?;
    let people = grammar::parse_people(PEOPLE.0, PEOPLE.1)?;
    let mut writer = Writer {
        seed: options.seed,
        domains: &domains,
        people: &people,
        passages: Vec::new(),
        facts: HashSet::new(),
        texts: HashSet::new(),
    };
    writer.write_passages(options.n_passages)?;
    let mut passages = writer.passages;
    Stream::new(options.seed, &["order"], 0).shuffle(&mut passages);

    let asked = ask(options, &domains, &passages)?;
    let passage_id = |i: usize| format!("p{:04}", i + 1);
    let mut queries = Vec::with_capacity(asked.len());
    let mut judgements = Vec::new();
    for (i, question) in asked.into_iter().enumerate() {
        let id = format!("q{:04}", i + 1);
        judgements.extend(
            question
                .relevant
                .iter()
                .map(|&p| (id.clone(), passage_id(p), 1)),
        );
        queries.push(Query {
            id,
            text: question.text,
        });
    }
    let corpus = passages.into_iter().enumerate();
    let corpus = corpus.map(|(i, passage)| Document {
        id: passage_id(i),
        title: passage.title,
        text: passage.text,
    });
    let mut name = "generated".to_owned();
    for domain in &options.domains {
        name = format!("{name}-{domain}");
    }
    Ok(Collection {
        name,
        split: "test".to_owned(),
        corpus: corpus.collect(),
        queries,
        qrels: Qrels::from_iter(judgements),
        notes: CollectionNotes::default(),
    })
}

fn chosen_domains(names: &[String]) -> Result<Vec<Domain>> {
    let mut chosen = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let Some(at) = DOMAINS.iter().position(|known| known == name) else {
            return Err(Error::Invalid(format!(
                "there is no generated domain {name:?}; choose from {}",
                DOMAINS.join(", ")
            )));
        };
        if names[..i].contains(name) {
            return Err(Error::Invalid(format!(
                "generated domain {name:?} is given twice; name it once"
            )));
        }
        chosen.push(at);
    }
    if names.is_empty() {
        chosen.extend(0..DOMAINS.len());
    }
    let sources = chosen.into_iter().map(|at| SOURCES[at]);
    sources
        .map(|(file, text)| grammar::parse(file, text))
        .collect()
}

/// A slot's value, in the words of passages and of questions. The words of passages identify it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Value {
    passage: String,
    question: String,
}

/// Slot name to value.
type Bindings = BTreeMap<&'static str, Value>;

/// What a passage tells: indices of domain, frame and state, and the values of the frame's and the setting's slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Fact {
    domain: usize,
    frame: usize,
    state: usize,
    bindings: Bindings,
}

impl Fact {
    /// The fact with its two swappable slots exchanged.
    fn swapped(&self, frame: &Frame) -> Option<Self> {
        let (a, b) = frame.swap?;
        let mut fact = self.clone();
        fact.bindings.insert(a, self.bindings[b].clone());
        fact.bindings.insert(b, self.bindings[a].clone());
        Some(fact)
    }

    /// One spelling for facts that mean the same: a symmetric one has its slots in order.
    fn canonical(self, frame: &Frame) -> Self {
        match frame.swap {
            Some((a, b))
                if frame.states[self.state].symmetric && self.bindings[a] > self.bindings[b] =>
            {
                self.swapped(frame).unwrap_or(self)
            }
            _ => self,
        }
    }
}

/// The people of a few clusters, and the first of the years in which they are at work.
struct Cast {
    people: Vec<Value>,
    first_year: u16,
}

struct Passage {
    fact: Fact,
    title: String,
    text: String,
}

struct Question {
    text: String,
    /// Indices of the passages that answer it.
    relevant: Vec<usize>,
}

struct Writer<'a> {
    seed: u64,
    domains: &'a [Domain],
    people: &'a grammar::People,
    passages: Vec<Passage>,
    /// Canonical facts told so far.
    facts: HashSet<Fact>,
    texts: HashSet<String>,
}

impl Writer<'_> {
    /// Cluster after cluster, the domains taking turns, until there are `n`.
    fn write_passages(&mut self, n: usize) -> Result<()> {
        let mut idle = vec![0; self.domains.len()];
        for cluster in 0.. {
            if idle.iter().all(|&clusters| clusters >= MAX_IDLE_CLUSTERS) {
                return Err(Error::Invalid(format!(
                    "the grammar of the chosen domains has no more than about {} passages, got a request for {n}; \
                     ask for fewer or for more domains",
                    self.passages.len()
                )));
            }
            for (domain, idle) in idle.iter_mut().enumerate() {
                let before = self.passages.len();
                self.write_cluster(domain, cluster, n);
                let after = self.passages.len();
                if after == n {
                    return Ok(());
                }
                *idle = if after == before { *idle + 1 } else { 0 };
            }
        }
        Ok(())
    }

    /// A base fact and its near misses.
    fn write_cluster(&mut self, at: usize, cluster: u64, n: usize) {
        let domain = &self.domains[at];
        let mut rng = Stream::new(self.seed, &["cluster", domain.name], cluster);
        let cast = self.cast(domain, cluster / CLUSTERS_PER_CAST);
        // Every frame once before any comes again.
        let n_frames = domain.frames.len() as u64;
        let frame_at = ((cluster + Stream::new(self.seed, &["frames", domain.name], 0).bits())
            % n_frames) as usize;
        let frame = &domain.frames[frame_at];

        let mut bindings = Bindings::new();
        for slot in domain.setting.iter().chain(&frame.slots) {
            let value = draw(domain, &cast, slot, &bindings, &mut rng);
            bindings.insert(slot.name, value);
        }
        let base = Fact {
            domain: at,
            frame: frame_at,
            state: rng.below(frame.states.len()),
            bindings,
        };
        for fact in self.members(&base, frame, &cast, &mut rng) {
            if self.passages.len() == n {
                return;
            }
            if self.facts.contains(&fact.clone().canonical(frame)) {
                continue;
            }
            let (title, text) = self.tell(&fact, frame, &cast, &mut rng);
            // Facts may differ only in a slot that the chosen sentence leaves out; such a twin is not told.
            if !self.texts.insert(text.clone()) {
                continue;
            }
            self.facts.insert(fact.clone().canonical(frame));
            self.passages.push(Passage { fact, title, text });
        }
    }

    /// The cast with this number, the same for all its clusters.
    fn cast(&self, domain: &Domain, number: u64) -> Cast {
        let mut rng = Stream::new(self.seed, &["cast", domain.name], number);
        let mut last = self.people.last.clone();
        rng.shuffle(&mut last);
        let people = last.into_iter().take(CAST).map(|last| {
            let first = self.people.first[rng.below(self.people.first.len())];
            format!("{first} {last}")
        });
        let value = |name: String| Value {
            passage: name.clone(),
            question: name,
        };
        let (first, last) = domain.years;
        Cast {
            people: people.map(value).collect(),
            first_year: first + rng.below(usize::from(last - first + 2 - CAST_YEARS)) as u16,
        }
    }

    /// The base, then facts that differ from it in structure (roles, state, both), then facts in which one slot has
    /// another value; as many as the cluster's size.
    fn members(&self, base: &Fact, frame: &Frame, cast: &Cast, rng: &mut Stream) -> Vec<Fact> {
        let size = CLUSTER_SIZES[rng.below(CLUSTER_SIZES.len())];
        let other_state = |fact: &Fact, rng: &mut Stream| {
            let mut fact = fact.clone();
            fact.state = (fact.state + 1 + rng.below(frame.states.len() - 1)) % frame.states.len();
            fact
        };
        let mut near = vec![other_state(base, rng)];
        if let Some(swapped) = base.swapped(frame) {
            near.push(other_state(&swapped, rng));
            near.push(swapped);
        }
        rng.shuffle(&mut near);
        near.truncate(size - 2);
        let mut members = vec![base.clone()];
        members.extend(near);
        while members.len() < size {
            let mut fact = members[rng.below(members.len())].clone();
            let slot = &frame.slots[rng.below(frame.slots.len())];
            let value = draw(&self.domains[base.domain], cast, slot, &fact.bindings, rng);
            fact.bindings.insert(slot.name, value);
            members.push(fact);
        }
        members
    }

    /// Title and text: a sentence about the setting, the fact, and an aside that names somebody and something else.
    fn tell(&self, fact: &Fact, frame: &Frame, cast: &Cast, rng: &mut Stream) -> (String, String) {
        let domain = &self.domains[fact.domain];
        let mut bindings = fact.bindings.clone();
        for slot in &domain.adjunct {
            let value = draw(domain, cast, slot, &bindings, rng);
            bindings.insert(slot.name, value);
        }
        let year = cast.first_year + rng.below(usize::from(CAST_YEARS)) as u16;
        for (name, text) in [
            ("month", MONTHS[rng.below(MONTHS.len())].to_owned()),
            ("year", year.to_string()),
        ] {
            let value = Value {
                passage: text.clone(),
                question: text,
            };
            bindings.insert(name, value);
        }
        let sentence = |of: &[Template], rng: &mut Stream| {
            realise(&of[rng.below(of.len())], &bindings, |_| false)
        };
        // A title names both things in either order, lest the order give the roles away.
        let titled = fact.swapped(frame).filter(|_| rng.below(2) == 1);
        let titled = titled.as_ref().unwrap_or(fact);
        let title = realise(
            &frame.titles[rng.below(frame.titles.len())],
            &titled.bindings,
            |_| false,
        );
        let text = [
            sentence(&domain.openings, rng),
            sentence(&frame.states[fact.state].passages, rng),
            sentence(&domain.closings, rng),
        ];
        (title, text.join(" "))
    }
}

/// A value for `slot` that no slot of the passage has yet.
fn draw(domain: &Domain, cast: &Cast, slot: &Slot, taken: &Bindings, rng: &mut Stream) -> Value {
    let all = match slot.lexicon {
        grammar::PERSON => &cast.people,
        name => &domain.lexicons[name],
    };
    let free: Vec<&Value> = all
        .iter()
        .filter(|&value| !taken.values().any(|t| t == value))
        .collect();
    free[rng.below(free.len())].clone()
}

/// The template with its slots filled, and a capital at the start of every sentence. `reword` says, for each slot in
/// turn, whether it gets the question's words.
fn realise(
    template: &Template,
    bindings: &Bindings,
    mut reword: impl FnMut(&str) -> bool,
) -> String {
    let mut text = String::new();
    for piece in &template.pieces {
        match *piece {
            Piece::Text(words) => text.push_str(words),
            Piece::Slot(name) if reword(name) => text.push_str(&bindings[name].question),
            Piece::Slot(name) => text.push_str(&bindings[name].passage),
            Piece::LastName(name) => {
                let full = &bindings[name].passage;
                text.push_str(full.rsplit(' ').next().unwrap_or(full));
            }
        }
    }
    let mut sentence_starts = true;
    let capital = |c: char| {
        let starts = sentence_starts && c != ' ';
        sentence_starts = c == '.' || (sentence_starts && c == ' ');
        if starts { c.to_ascii_uppercase() } else { c }
    };
    text.chars().map(capital).collect()
}

/// `n_queries` questions, each from another passage, with the passages that answer it.
fn ask(options: &Options, domains: &[Domain], passages: &[Passage]) -> Result<Vec<Question>> {
    let mut same_state: HashMap<(usize, usize, usize), Vec<usize>> = HashMap::new();
    for (i, passage) in passages.iter().enumerate() {
        let Fact {
            domain,
            frame,
            state,
            ..
        } = passage.fact;
        same_state
            .entry((domain, frame, state))
            .or_default()
            .push(i);
    }
    let mut rng = Stream::new(options.seed, &["questions"], 0);
    let mut order: Vec<usize> = (0..passages.len()).collect();
    rng.shuffle(&mut order);
    let mut questions = Vec::with_capacity(options.n_queries);
    let mut asked = HashSet::new();
    for &source in &order {
        let fact = &passages[source].fact;
        let frame = &domains[fact.domain].frames[fact.frame];
        let state = &frame.states[fact.state];
        let mut templates: Vec<&Template> = state.questions.iter().collect();
        rng.shuffle(&mut templates);
        for template in templates {
            let text = realise(template, &fact.bindings, |_| {
                rng.below(4) < REWORDED_OF_FOUR
            });
            let candidates = same_state[&(fact.domain, fact.frame, fact.state)]
                .iter()
                .copied();
            let answers = |&i: &usize| answers(&passages[i].fact, fact, template, frame, state);
            let relevant: Vec<usize> = candidates.filter(answers).collect();
            if relevant.len() <= MAX_RELEVANT && asked.insert(text.clone()) {
                questions.push(Question { text, relevant });
                break;
            }
        }
        if questions.len() == options.n_queries {
            return Ok(questions);
        }
    }
    Err(Error::Invalid(format!(
        "only {} of the {} generated passages have a question of their own, got a request for {} questions; \
         ask for fewer",
        questions.len(),
        passages.len(),
        options.n_queries
    )))
}

/// Whether a passage that tells `told` (same frame and state as `fact`) answers the question that `template` makes
/// of `fact`.
fn answers(told: &Fact, fact: &Fact, template: &Template, frame: &Frame, state: &State) -> bool {
    let agrees = |told: &Fact| {
        let mut slots = template.slots();
        slots.all(|slot| told.bindings[slot] == fact.bindings[slot])
    };
    agrees(told) || (state.symmetric && told.swapped(frame).is_some_and(|told| agrees(&told)))
}

#[cfg(test)]
mod tests;
