//! The grammar files: how they are read, and what is checked of them.
//!
//! A line is a keyword and the rest; `#` starts a comment line.
//!
//! ```text
//! domain NAME                    first line
//! years FIRST LAST               the slot {year} is drawn from these; {month} is always there
//! setting NAME:LEXICON ...       slots that a cluster of passages shares
//! adjunct NAME:LEXICON ...       slots that only openings and closings use, drawn for each passage
//! open | close TEMPLATE          one of each goes around a fact
//! lexicon NAME                   then lines `- words of passages = words of questions` (the second part may lack)
//! frame NAME SLOT:LEXICON ...    a relation
//! title TEMPLATE                 what the frame is about; must not tell facts of the frame apart by structure
//! swap SLOT SLOT                 two slots of the frame, of one lexicon, whose exchange makes another fact
//! state NAME [symmetric]         symmetric: the exchange makes the same fact
//! p | q TEMPLATE                 a sentence that tells the fact | a question that it answers
//! ```
//!
//! A template is text with slots, `{x}`; `{A.last}` is a person's last name. Slots of the lexicon `person` take people.

use std::collections::{BTreeMap, HashSet};

use super::Value;
use crate::error::{Error, Result};

/// The lexicon that is made of casts and not of lines.
pub(super) const PERSON: &str = "person";

pub(super) struct Domain {
    pub(super) name: &'static str,
    /// First and last.
    pub(super) years: (u16, u16),
    pub(super) setting: Vec<Slot>,
    pub(super) adjunct: Vec<Slot>,
    pub(super) openings: Vec<Template>,
    pub(super) closings: Vec<Template>,
    pub(super) lexicons: BTreeMap<&'static str, Vec<Value>>,
    pub(super) frames: Vec<Frame>,
}

#[derive(Clone)]
pub(super) struct Slot {
    pub(super) name: &'static str,
    pub(super) lexicon: &'static str,
}

pub(super) struct Frame {
    /// What a title says of every fact of the frame.
    pub(super) titles: Vec<Template>,
    pub(super) slots: Vec<Slot>,
    pub(super) swap: Option<(&'static str, &'static str)>,
    /// At least two.
    pub(super) states: Vec<State>,
}

pub(super) struct State {
    pub(super) symmetric: bool,
    pub(super) passages: Vec<Template>,
    pub(super) questions: Vec<Template>,
}

pub(super) struct Template {
    pub(super) pieces: Vec<Piece>,
    line: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Piece {
    Text(&'static str),
    Slot(&'static str),
    LastName(&'static str),
}

impl Template {
    /// Names of the slots, in order of appearance.
    pub(super) fn slots(&self) -> impl Iterator<Item = &'static str> {
        self.pieces.iter().filter_map(|piece| match *piece {
            Piece::Text(_) => None,
            Piece::Slot(name) | Piece::LastName(name) => Some(name),
        })
    }

    fn parse(text: &'static str, line: usize) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let close = rest.find('}').filter(|&close| close > open);
            let close = close.ok_or_else(|| format!("`{{` without `}}` in {text:?}; close it"))?;
            if open > 0 {
                pieces.push(Piece::Text(&rest[..open]));
            }
            let slot = &rest[open + 1..close];
            pieces.push(match slot.strip_suffix(".last") {
                Some(name) => Piece::LastName(name),
                None => Piece::Slot(slot),
            });
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest));
        }
        Ok(Self { pieces, line })
    }
}

/// The first and the last names of all people.
pub(super) struct People {
    pub(super) first: Vec<&'static str>,
    pub(super) last: Vec<&'static str>,
}

/// Numbered lines without comments and blanks, as keyword and rest.
fn lines(text: &'static str) -> impl Iterator<Item = (usize, &'static str, &'static str)> {
    let numbered = text
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim()));
    numbered
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let (keyword, rest) = line.split_once(' ').unwrap_or((line, ""));
            (number, keyword, rest.trim())
        })
}

/// Reads the names: the keywords `first` and `last`, each with its `- name` lines.
pub(super) fn parse_people(file: &str, text: &'static str) -> Result<People> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut current = None;
    for (number, keyword, rest) in lines(text) {
        match (keyword, &mut current) {
            ("first", _) => current = Some(&mut first),
            ("last", _) => current = Some(&mut last),
            ("-", Some(names)) => names.push(rest),
            _ => {
                return Err(at(
                    file,
                    number,
                    format!("expected first, last or a `- name`, got {keyword:?}"),
                ));
            }
        }
    }
    for (kind, names, least) in [("first", &first, 1), ("last", &last, super::CAST)] {
        if names.len() < least {
            return Err(Error::input(
                file,
                format!("{} {kind} names; give at least {least}", names.len()),
            ));
        }
    }
    Ok(People { first, last })
}

fn at(file: &str, line: usize, message: impl std::fmt::Display) -> Error {
    Error::input(file, format!("line {line}: {message}"))
}

/// Reads a domain and checks that every passage and question that it can make is complete.
pub(super) fn parse(file: &str, text: &'static str) -> Result<Domain> {
    let mut domain = Domain {
        name: "",
        years: (0, 0),
        setting: Vec::new(),
        adjunct: Vec::new(),
        openings: Vec::new(),
        closings: Vec::new(),
        lexicons: BTreeMap::new(),
        frames: Vec::new(),
    };
    let mut lexicon: Option<&mut Vec<Value>> = None;
    for (number, keyword, rest) in lines(text) {
        let fail = |message: String| at(file, number, message);
        let template = || Template::parse(rest, number).map_err(fail);
        let no_parent = |parent: &str| {
            fail(format!(
                "{keyword:?} before the first {parent:?}; move it below one"
            ))
        };
        match keyword {
            "domain" => domain.name = rest,
            "years" => {
                let years: Option<(u16, u16)> = rest
                    .split_once(' ')
                    .and_then(|(a, b)| Some((a.parse().ok()?, b.trim().parse().ok()?)));
                domain.years = years
                    .filter(|(first, last)| first + super::CAST_YEARS <= last + 1)
                    .ok_or_else(|| {
                        let least = super::CAST_YEARS;
                        fail(format!(
                            "expected a first and a last year, {least} years or more, got {rest:?}"
                        ))
                    })?;
            }
            "setting" => domain.setting = slots(rest).map_err(fail)?,
            "adjunct" => domain.adjunct = slots(rest).map_err(fail)?,
            "open" => domain.openings.push(template()?),
            "close" => domain.closings.push(template()?),
            "lexicon" => lexicon = Some(domain.lexicons.entry(rest).or_default()),
            "-" => {
                let (passage, question) = rest.split_once('=').unwrap_or((rest, ""));
                let (passage, question) = (passage.trim(), question.trim());
                let entry = Value {
                    passage: passage.to_owned(),
                    question: if question.is_empty() {
                        passage
                    } else {
                        question
                    }
                    .to_owned(),
                };
                let entries = lexicon.as_mut().ok_or_else(|| no_parent("lexicon"))?;
                if passage.is_empty() || entries.iter().any(|known| known.passage == passage) {
                    return Err(fail(format!(
                        "empty or repeated entry {passage:?}; remove it"
                    )));
                }
                entries.push(entry);
            }
            "frame" => {
                let (_, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                domain.frames.push(Frame {
                    titles: Vec::new(),
                    slots: slots(rest).map_err(fail)?,
                    swap: None,
                    states: Vec::new(),
                });
            }
            "title" | "swap" | "state" | "p" | "q" => {
                let frame = domain.frames.last_mut().ok_or_else(|| no_parent("frame"))?;
                match keyword {
                    "title" => frame.titles.push(template()?),
                    "swap" => frame.swap = Some(swap(frame, rest).map_err(fail)?),
                    "state" => {
                        let symmetric = rest.ends_with(" symmetric");
                        if symmetric && frame.swap.is_none() {
                            return Err(fail(
                                "a symmetric state needs a `swap` above it".to_owned(),
                            ));
                        }
                        frame.states.push(State {
                            symmetric,
                            passages: Vec::new(),
                            questions: Vec::new(),
                        });
                    }
                    _ => {
                        let state = frame.states.last_mut().ok_or_else(|| no_parent("state"))?;
                        let side = if keyword == "p" {
                            &mut state.passages
                        } else {
                            &mut state.questions
                        };
                        side.push(template()?);
                    }
                }
            }
            _ => {
                return Err(fail(format!(
                    "unknown keyword {keyword:?}; see the list in grammar.rs"
                )));
            }
        }
    }
    check(file, &domain)?;
    Ok(domain)
}

/// `A:person x:thing`.
fn slots(text: &'static str) -> Result<Vec<Slot>, String> {
    let slot = |word: &'static str| match word.split_once(':') {
        Some((name, lexicon)) if !name.is_empty() && !lexicon.is_empty() => {
            Ok(Slot { name, lexicon })
        }
        _ => Err(format!("expected NAME:LEXICON, got {word:?}")),
    };
    text.split_whitespace().map(slot).collect()
}

/// `A B`, two slots of the frame that take the same lexicon.
fn swap(frame: &Frame, text: &'static str) -> Result<(&'static str, &'static str), String> {
    let find = |name: &str| frame.slots.iter().find(|slot| slot.name == name);
    match text.split_once(' ').map(|(a, b)| (find(a), find(b.trim()))) {
        Some((Some(a), Some(b))) if a.name != b.name && a.lexicon == b.lexicon => {
            Ok((a.name, b.name))
        }
        _ => Err(format!(
            "expected two slots of the frame with one lexicon, got {text:?}"
        )),
    }
}

/// What [`super::generate`] relies on: nothing it needs is missing, every slot has a value to draw, templates use
/// only slots that are bound where they stand.
fn check(file: &str, domain: &Domain) -> Result<()> {
    let missing = |what: &str| Error::input(file, format!("{what} missing; add at least one"));
    for (what, empty) in [
        ("`domain`", domain.name.is_empty()),
        ("`years`", domain.years == (0, 0)),
        ("`open`", domain.openings.is_empty()),
        ("`close`", domain.closings.is_empty()),
        ("`frame`", domain.frames.is_empty()),
    ] {
        if empty {
            return Err(missing(what));
        }
    }
    for frame in &domain.frames {
        let fact: Vec<&Slot> = domain.setting.iter().chain(&frame.slots).collect();
        let all: Vec<&Slot> = fact.iter().copied().chain(&domain.adjunct).collect();
        let mut names = HashSet::from(["month", "year"]);
        if let Some(twice) = all.iter().find(|slot| !names.insert(slot.name)) {
            return Err(Error::input(
                file,
                format!(
                    "slot {:?} is declared twice in one passage; rename one",
                    twice.name
                ),
            ));
        }
        for slot in &all {
            let entries = match slot.lexicon {
                PERSON => super::CAST,
                name => domain.lexicons.get(name).map_or(0, Vec::len),
            };
            // No two slots of a passage get the same value, and a near miss draws one more.
            let needed = 1 + all
                .iter()
                .filter(|other| other.lexicon == slot.lexicon)
                .count();
            if entries < needed {
                return Err(Error::input(
                    file,
                    format!(
                        "lexicon {:?} has {entries} entries; give at least {needed}",
                        slot.lexicon
                    ),
                ));
            }
        }
        if frame.states.len() < 2 {
            return Err(Error::input(
                file,
                "a frame with fewer than two states; give it another",
            ));
        }
        let fact_names: HashSet<&str> = fact.iter().map(|slot| slot.name).collect();
        let around = [&domain.openings, &domain.closings];
        for template in around.into_iter().flatten() {
            let bound = |name: &str| {
                let outside = domain.setting.iter().chain(&domain.adjunct);
                matches!(name, "month" | "year")
                    || outside.into_iter().any(|slot| slot.name == name)
            };
            bound_only(file, template, bound)?;
        }
        if frame.titles.is_empty() {
            return Err(missing("`title` of a frame"));
        }
        for template in &frame.titles {
            bound_only(file, template, |name| fact_names.contains(name))?;
        }
        for state in &frame.states {
            if state.passages.is_empty() || state.questions.is_empty() {
                return Err(missing("`p` or `q` of a state"));
            }
            for template in state.passages.iter().chain(&state.questions) {
                bound_only(file, template, |name| fact_names.contains(name))?;
            }
            // A passage must tell whatever its fact holds, or a question could ask for what it does not say.
            for template in &state.passages {
                let told: HashSet<&str> = template.slots().collect();
                if let Some(slot) = frame.slots.iter().find(|slot| !told.contains(slot.name)) {
                    return Err(at(
                        file,
                        template.line,
                        format!("the passage does not tell slot {:?}; use it", slot.name),
                    ));
                }
            }
        }
    }
    Ok(())
}

fn bound_only(file: &str, template: &Template, bound: impl Fn(&str) -> bool) -> Result<()> {
    match template.slots().find(|name| !bound(name)) {
        Some(name) => Err(at(
            file,
            template.line,
            format!("slot {name:?} has no value here; declare it or use another"),
        )),
        None => Ok(()),
    }
}
