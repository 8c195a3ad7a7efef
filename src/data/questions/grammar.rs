//! The grammar files: how they are read, and what is checked of them.
//!
//! A line is a keyword and the rest; `#` starts a comment line. In front of a keyword, `*` keeps what follows for the
//! split that has not been seen: templates for unseen templates, entries and families for unseen words.
//!
//! ```text
//! meta TEMPLATE                     goes around an indirect question, {i}
//! greet TEMPLATE                    goes around a direct question, {q}
//! ask NAME [not]                    a kind of request about an action; `not`: takes actions that begin with `not`, too
//! q | i | k TEMPLATE                direct, indirect, keywords; of an ask with {vp} turn off the light, {ing} turning off
//!                                   the light, {to} to turn off the light, {imp}; `+`: not with actions that begin with `not`
//! apart ASK ASK                     asks that are neither the same nor surely different
//! miss ASK ASK KIND                 the kind of near-miss that two asks are to each other; `question` where not said
//! block NAME                        then senses and lines that families may `use`
//! lexicon NAME KIND [FORM ...]      then entries, `- form + form | the opposite's forms`; ` = ` between words for the same
//! family NAME GROUP                 what can be asked about one thing
//! use BLOCK | ask NAME ...          the senses of a block; the asks of an action
//! slot NAME:LEXICON                 a slot; `slot NAME KIND [FORM ...] = entry; entry` has a lexicon of its own, and
//!                                   `slot NAME:{OTHER}` that of another slot
//! tail NAME:LEXICON [WORDS]         a slot that stands at the end of an action, or in front of the question
//! + entry; entry                    more entries for the slot before
//! keep SLOT ...                     slots that no near-miss changes alone
//! a | b | ... ACTION / ACTION       ways to say one action; `!` in front: by its opposite, `>`: by its converse
//! hold SLOT ...                     the same in the sense before
//! sense NAME                        then q, i, k lines (`>` and `!` as for actions) that all ask the same
//! miss SENSE SENSE KIND             senses that are near-misses of each other
//! swap SLOT SLOT KIND [NAME ...]    an exchange that makes a near-miss, in all or the named senses or asks
//! ```
//!
//! In a template `{A}` is the value of a slot, `{A.adj}` another form of it (`{A.ing}` can be had of every verb), `{A~}`
//! its opposite; `[do not|don't]` are words for the same; an action marks its second verb, `close it and ^save`.
//!
//! What the files must keep: all lines of a sense, and all words for an action, ask for the same; two senses under a
//! `miss`, two asks that are not `apart`, two values of a slot, and a sentence and its `swap` ask for different things.

use std::collections::HashMap;

use super::Kind;
use crate::error::{Error, Result};

const FILES: [(&str, &str); 20] = [
    ("frames.txt", include_str!("frames.txt")),
    ("lexicons.txt", include_str!("lexicons.txt")),
    ("account.txt", include_str!("account.txt")),
    ("booking.txt", include_str!("booking.txt")),
    ("code.txt", include_str!("code.txt")),
    ("device.txt", include_str!("device.txt")),
    ("everyday.txt", include_str!("everyday.txt")),
    ("facts.txt", include_str!("facts.txt")),
    ("files.txt", include_str!("files.txt")),
    ("home.txt", include_str!("home.txt")),
    ("kitchen.txt", include_str!("kitchen.txt")),
    ("messages.txt", include_str!("messages.txt")),
    ("money.txt", include_str!("money.txt")),
    ("people.txt", include_str!("people.txt")),
    ("recommend.txt", include_str!("recommend.txt")),
    ("rules.txt", include_str!("rules.txt")),
    ("safety.txt", include_str!("safety.txt")),
    ("shop.txt", include_str!("shop.txt")),
    ("travel.txt", include_str!("travel.txt")),
    ("trouble.txt", include_str!("trouble.txt")),
];

/// Everything that is needed to write questions.
#[derive(Default)]
pub(super) struct Grammar {
    pub(super) metas: Vec<Frame>,
    pub(super) greetings: Vec<Frame>,
    pub(super) asks: Vec<Ask>,
    pub(super) lexicons: Vec<Lexicon>,
    pub(super) families: Vec<Family>,
    apart: Vec<(usize, usize)>,
    ask_kinds: Vec<(usize, usize, Kind)>,
    blocks: HashMap<&'static str, Vec<Sense>>,
    names: HashMap<&'static str, usize>,
}

/// What goes around a question.
pub(super) struct Frame {
    pub(super) text: &'static str,
    pub(super) unseen: bool,
}

/// A kind of request.
pub(super) struct Ask {
    pub(super) name: &'static str,
    /// Takes negated actions.
    pub(super) not: bool,
    pub(super) lines: Vec<Line>,
}

/// How a line is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Direct,
    Indirect,
    Keywords,
}

/// How an expression comes to say what others say plainly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// By the opposite, negated.
    pub(super) opposite: bool,
    /// By the converse relation or the passive.
    pub(super) converse: bool,
}

impl Mark {
    pub(super) fn join(self, other: Mark) -> Mark {
        Mark {
            opposite: self.opposite != other.opposite,
            converse: self.converse != other.converse,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) shape: Shape,
    pub(super) mark: Mark,
    pub(super) unseen: bool,
    /// Takes no negated actions.
    pub(super) positive: bool,
    pub(super) text: &'static str,
}

#[derive(Clone, Copy)]
pub(super) struct Phrase {
    pub(super) mark: Mark,
    pub(super) text: &'static str,
}

pub(super) struct Lexicon {
    pub(super) name: &'static str,
    /// What an exchange of values is.
    pub(super) kind: Kind,
    pub(super) forms: Vec<&'static str>,
    pub(super) entries: Vec<Entry>,
}

pub(super) struct Entry {
    /// One, or two that are opposites; of each its forms, of each form the words for it.
    pub(super) poles: Vec<Vec<Vec<Phrase>>>,
    pub(super) unseen: bool,
}

pub(super) struct Slot {
    pub(super) name: &'static str,
    pub(super) lexicon: usize,
    pub(super) keep: bool,
}

#[derive(Clone, Default)]
pub(super) struct Sense {
    pub(super) name: &'static str,
    pub(super) phrases: Vec<Phrase>,
    pub(super) lines: Vec<Line>,
    /// Slots whose value may not be changed alone.
    pub(super) held: Vec<&'static str>,
}

/// An exchange of two slots.
pub(super) struct Swap {
    pub(super) slots: (usize, usize),
    pub(super) kind: Kind,
    only: Vec<&'static str>,
}

impl Swap {
    /// Whether it makes a near-miss of a question with this sense and ask.
    pub(super) fn applies(&self, sense: &str, ask: Option<&str>) -> bool {
        self.only.is_empty()
            || self.only.contains(&sense)
            || ask.is_some_and(|ask| self.only.contains(&ask))
    }
}

#[derive(Default)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) group: &'static str,
    pub(super) unseen: bool,
    pub(super) asks: Vec<usize>,
    pub(super) slots: Vec<Slot>,
    /// Number of the slot, and words before it.
    pub(super) tail: Option<(usize, &'static str)>,
    pub(super) senses: Vec<Sense>,
    pub(super) misses: Vec<(usize, usize, Kind)>,
    pub(super) swaps: Vec<Swap>,
}

impl Family {
    fn sense(&self, name: &str) -> Option<usize> {
        self.senses.iter().position(|sense| sense.name == name)
    }

    pub(super) fn slot(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|slot| slot.name == name)
    }
}

impl Grammar {
    /// Reads the files that are part of the program.
    pub(super) fn load() -> Result<Self> {
        let mut grammar = Grammar::default();
        for (file, text) in FILES {
            let mut reader = Reader {
                grammar: &mut grammar,
                place: Place::None,
                slot: None,
            };
            for (number, line) in (1..).zip(text.lines()) {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let failed =
                    |why: String| Error::input(file, format!("line {number}: {why}: {line:?}"));
                reader.read(line).map_err(failed)?;
            }
        }
        grammar.check()?;
        Ok(grammar)
    }

    /// What a change from one ask to another is; none if it may be no change.
    pub(super) fn ask_change(&self, from: usize, to: usize) -> Option<Kind> {
        let is = |a: usize, b: usize| (a, b) == (from, to) || (b, a) == (from, to);
        if from == to || self.apart.iter().any(|&(a, b)| is(a, b)) {
            return None;
        }
        let known = self.ask_kinds.iter().find(|&&(a, b, _)| is(a, b));
        Some(known.map_or(Kind::Question, |&(.., kind)| kind))
    }

    /// Every template has the slots that it names, every family something to say.
    fn check(&self) -> Result<()> {
        for family in &self.families {
            let fail = |why: String| {
                Err(Error::input(
                    "questions",
                    format!("family {}: {why}", family.name),
                ))
            };
            if family.senses.is_empty() {
                return fail("no sense".into());
            }
            for sense in &family.senses {
                if sense.phrases.is_empty() == sense.lines.is_empty()
                    || sense.phrases.is_empty() != family.asks.is_empty()
                {
                    return fail(format!(
                        "sense {}: give either lines, or an ask and actions",
                        sense.name
                    ));
                }
                let lines = sense.lines.iter().map(|line| line.text);
                for text in lines.chain(sense.phrases.iter().map(|phrase| phrase.text)) {
                    if let Some(part) = self.unknown_part(family, text) {
                        return fail(format!("{{{part}}} in {text:?} is not known"));
                    }
                    if text.matches('[').count() != text.matches(']').count() {
                        return fail(format!("a bracket in {text:?} is not closed"));
                    }
                }
            }
            let reachable = family.misses.len() + family.swaps.len() + family.asks.len();
            if reachable == 0 && family.slots.iter().all(|slot| slot.keep) {
                return fail("nothing can be changed".into());
            }
        }
        Ok(())
    }

    /// The first slot or form in a template that does not exist.
    fn unknown_part(&self, family: &Family, text: &'static str) -> Option<&'static str> {
        text.split('{').skip(1).find_map(|piece| {
            let inside = piece.split_once('}')?.0;
            let (name, form) = inside.split_once('.').unwrap_or((inside, ""));
            let known = family.slot(name.trim_end_matches('~')).is_some_and(|slot| {
                let lexicon = &self.lexicons[family.slots[slot].lexicon];
                let poles = lexicon.entries.iter().all(|entry| entry.poles.len() == 2);
                (form.is_empty() || form == "ing" || lexicon.forms.contains(&form))
                    && (!name.ends_with('~') || poles)
            });
            (!known).then_some(inside)
        })
    }
}

/// What the lines that come next belong to.
enum Place {
    None,
    Ask,
    Block(&'static str),
    Lexicon,
    Family,
}

struct Reader<'g> {
    grammar: &'g mut Grammar,
    place: Place,
    /// The lexicon of the slot that was read last.
    slot: Option<usize>,
}

type Read<T = ()> = std::result::Result<T, String>;

impl Reader<'_> {
    fn read(&mut self, line: &'static str) -> Read {
        let (keyword, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let (unseen, keyword) = match keyword.strip_prefix('*') {
            Some(keyword) => (true, keyword),
            None => (false, keyword),
        };
        let grammar = &mut *self.grammar;
        match keyword {
            "meta" => grammar.metas.push(Frame { text: rest, unseen }),
            "greet" => grammar.greetings.push(Frame { text: rest, unseen }),
            "ask" if !matches!(self.place, Place::Family) => {
                let (name, not) = match rest.split_once(' ') {
                    Some((name, "not")) => (name, true),
                    _ => (rest, false),
                };
                grammar.asks.push(Ask {
                    name,
                    not,
                    lines: Vec::new(),
                });
                self.place = Place::Ask;
            }
            "apart" => {
                let (a, b) = rest.split_once(' ').ok_or("expected two asks")?;
                let pair = (ask_number(grammar, a)?, ask_number(grammar, b)?);
                grammar.apart.push(pair);
            }
            "block" => {
                grammar.blocks.insert(rest, Vec::new());
                self.place = Place::Block(rest);
            }
            "lexicon" => {
                let mut parts = rest.split_whitespace();
                let name = parts.next().ok_or("expected a name")?;
                let kind = kind(parts.next().unwrap_or_default())?;
                let new = Lexicon {
                    name,
                    kind,
                    forms: parts.collect(),
                    entries: Vec::new(),
                };
                if grammar.names.insert(name, grammar.lexicons.len()).is_some() {
                    return Err("a lexicon with this name was there before".into());
                }
                grammar.lexicons.push(new);
                self.place = Place::Lexicon;
            }
            "-" | "" if matches!(self.place, Place::Lexicon) => {
                let lexicon = grammar.lexicons.last_mut().expect("the place says so");
                let entry = entry(rest, lexicon.forms.len().max(1), unseen)?;
                lexicon.entries.push(entry);
            }
            "family" => {
                let (name, group) = rest.split_once(' ').ok_or("expected name and group")?;
                if grammar.families.iter().any(|family| family.name == name) {
                    return Err("a family with this name was there before".into());
                }
                grammar.families.push(Family {
                    name,
                    group,
                    unseen,
                    ..Family::default()
                });
                self.place = Place::Family;
                self.slot = None;
            }
            _ => self.read_in_place(keyword, rest, unseen)?,
        }
        Ok(())
    }

    fn read_in_place(&mut self, keyword: &'static str, rest: &'static str, unseen: bool) -> Read {
        if let Some(line) = line(keyword, rest, unseen) {
            let senses = match self.place {
                Place::Ask => {
                    let ask = self.grammar.asks.last_mut().expect("the place says so");
                    ask.lines.push(line);
                    return Ok(());
                }
                Place::Block(name) => self.grammar.blocks.get_mut(name),
                Place::Family => self.grammar.families.last_mut().map(|f| &mut f.senses),
                _ => None,
            };
            let sense = senses.and_then(|senses| senses.last_mut());
            sense
                .ok_or("expected `sense` or `ask` first")?
                .lines
                .push(line);
            return Ok(());
        }
        match (&self.place, keyword) {
            (Place::Block(name), "sense") => {
                let senses = self.grammar.blocks.get_mut(name).expect("it was begun");
                senses.push(sense(rest));
                Ok(())
            }
            (Place::Block(_) | Place::Family, "hold") => {
                let senses = match self.place {
                    Place::Block(name) => self.grammar.blocks.get_mut(name),
                    _ => self.grammar.families.last_mut().map(|f| &mut f.senses),
                };
                let sense = senses.and_then(|senses| senses.last_mut());
                let held = rest.split_whitespace();
                sense.ok_or("expected `sense` first")?.held.extend(held);
                Ok(())
            }
            (Place::None | Place::Ask, "miss") => {
                let [a, b, name] = words(rest)?;
                let grammar = &mut *self.grammar;
                let known = (
                    ask_number(grammar, a)?,
                    ask_number(grammar, b)?,
                    kind(name)?,
                );
                grammar.ask_kinds.push(known);
                Ok(())
            }
            (Place::Family, _) => self.read_in_family(keyword, rest),
            _ => Err("a keyword that is not known here".into()),
        }
    }

    fn read_in_family(&mut self, keyword: &'static str, rest: &'static str) -> Read {
        let Grammar {
            families,
            lexicons,
            names,
            blocks,
            asks,
            ..
        } = &mut *self.grammar;
        let family = families.last_mut().expect("the place says so");
        match keyword {
            "use" => {
                let senses = blocks.get(rest).ok_or("a block that is not there")?;
                family.senses.extend(senses.iter().cloned());
            }
            "ask" => {
                for name in rest.split_whitespace() {
                    let ask = asks.iter().position(|ask| ask.name == name);
                    family
                        .asks
                        .push(ask.ok_or_else(|| format!("no ask {name}"))?);
                }
            }
            "slot" | "tail" => {
                let (name, lexicon, words) = match rest.split_once(" = ") {
                    Some((head, list)) => {
                        let mut head = head.split_whitespace();
                        let name = head.next().ok_or("expected a name")?;
                        let kind = kind(head.next().unwrap_or_default())?;
                        lexicons.push(Lexicon {
                            name: "",
                            kind,
                            forms: head.collect(),
                            entries: Vec::new(),
                        });
                        let own = lexicons.last_mut().expect("it was just pushed");
                        entries(own, list, family.unseen)?;
                        (name, lexicons.len() - 1, "")
                    }
                    None => {
                        let (name, rest) = rest.split_once(':').ok_or("expected `SLOT:LEXICON`")?;
                        let (lexicon, words) = rest.split_once(' ').unwrap_or((rest, ""));
                        let other = lexicon.strip_prefix('{').and_then(|l| l.strip_suffix('}'));
                        let lexicon = match other {
                            Some(slot) => family.slot(slot).map(|slot| family.slots[slot].lexicon),
                            None => names.get(lexicon).copied(),
                        };
                        (name, lexicon.ok_or("a lexicon that is not there")?, words)
                    }
                };
                if keyword == "tail" {
                    family.tail = Some((family.slots.len(), words));
                }
                family.slots.push(Slot {
                    name,
                    lexicon,
                    keep: false,
                });
                self.slot = Some(lexicon);
            }
            "+" => {
                let own = self.slot.ok_or("expected a slot first")?;
                entries(&mut lexicons[own], rest, family.unseen)?;
            }
            "keep" => {
                for name in rest.split_whitespace() {
                    let slot = family.slot(name).ok_or("a slot that is not there")?;
                    family.slots[slot].keep = true;
                }
            }
            "sense" => family.senses.push(sense(rest)),
            "a" | "b" | "c" | "d" | "e" | "f" => {
                if family.sense(keyword).is_none() {
                    family.senses.push(sense(keyword));
                }
                let place = family.sense(keyword).expect("it was just pushed");
                let phrases = rest.split(" / ").map(|text| phrase(text.trim()));
                family.senses[place].phrases.extend(phrases);
            }
            "miss" => {
                let [a, b, name] = words(rest)?;
                let place = |name| family.sense(name).ok_or(format!("no sense {name}"));
                let miss = (place(a)?, place(b)?, kind(name)?);
                family.misses.push(miss);
            }
            "swap" => {
                let mut parts = rest.split_whitespace();
                let mut slot = || {
                    parts
                        .next()
                        .and_then(|name| family.slot(name))
                        .ok_or("expected two slots")
                };
                let slots = (slot()?, slot()?);
                let lexicons = [slots.0, slots.1].map(|slot| family.slots[slot].lexicon);
                if lexicons[0] != lexicons[1] {
                    return Err("the two slots have different lexicons".into());
                }
                let kind = kind(parts.next().unwrap_or_default())?;
                family.swaps.push(Swap {
                    slots,
                    kind,
                    only: parts.collect(),
                });
            }
            _ => return Err("a keyword that is not known in a family".into()),
        }
        Ok(())
    }
}

fn ask_number(grammar: &Grammar, name: &str) -> Read<usize> {
    let found = grammar.asks.iter().position(|ask| ask.name == name);
    found.ok_or_else(|| format!("no ask {name}"))
}

fn kind(name: &str) -> Read<Kind> {
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    found.ok_or_else(|| format!("{name:?} is no kind"))
}

fn words<const N: usize>(text: &'static str) -> Read<[&'static str; N]> {
    let all: Vec<&str> = text.split_whitespace().collect();
    all.try_into().map_err(|_| format!("expected {N} words"))
}

fn sense(name: &'static str) -> Sense {
    Sense {
        name,
        ..Sense::default()
    }
}

/// `[+][!][>]` and one of q, i, k.
fn line(keyword: &str, text: &'static str, unseen: bool) -> Option<Line> {
    let (prefix, shape) = keyword.split_at_checked(keyword.len().checked_sub(1)?)?;
    let shape = match shape {
        "q" => Shape::Direct,
        "i" => Shape::Indirect,
        "k" => Shape::Keywords,
        _ => return None,
    };
    if !prefix.chars().all(|c| "+!>".contains(c)) {
        return None;
    }
    Some(Line {
        shape,
        mark: Mark {
            opposite: prefix.contains('!'),
            converse: prefix.contains('>'),
        },
        unseen,
        positive: prefix.contains('+'),
        text,
    })
}

fn phrase(text: &'static str) -> Phrase {
    let plain = text.trim_start_matches(['!', '>']);
    let marks = &text[..text.len() - plain.len()];
    Phrase {
        mark: Mark {
            opposite: marks.contains('!'),
            converse: marks.contains('>'),
        },
        text: plain,
    }
}

fn entries(lexicon: &mut Lexicon, list: &'static str, unseen: bool) -> Read {
    for text in list.split(';') {
        let text = text.trim();
        let (marked, text) = match text.strip_prefix('*') {
            Some(text) => (true, text.trim()),
            None => (false, text),
        };
        if text.is_empty() {
            return Err("an empty entry".into());
        }
        let entry = entry(text, lexicon.forms.len().max(1), marked || unseen)?;
        lexicon.entries.push(entry);
    }
    Ok(())
}

/// Opposites, their forms, the words for each.
fn entry(text: &'static str, n: usize, unseen: bool) -> Read<Entry> {
    let poles = text.split(" | ").map(|pole| {
        // The mark of an unseen entry may stand in front of its opposite, too.
        let forms = pole.trim_start_matches('*').split(" + ").map(|form| {
            let all = form.split(" = ");
            all.map(|text| phrase(text.trim())).collect::<Vec<_>>()
        });
        let forms: Vec<_> = forms.collect();
        if forms.len() == n {
            Ok(forms)
        } else {
            Err(format!("expected {n} forms in {pole:?}"))
        }
    });
    let poles = poles.collect::<Read<Vec<_>>>()?;
    if poles.len() > 2 {
        return Err("more than two opposites".into());
    }
    Ok(Entry { poles, unseen })
}
