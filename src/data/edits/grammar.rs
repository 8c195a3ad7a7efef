//! The grammar files: how they are read, and what is checked of them.

use std::collections::{BTreeMap, HashSet};

use crate::data::Category;
use crate::error::{Error, Result};

/// The lexicon whose entries say what they are done to.
pub(super) const ACTION: &str = "action";
/// Slots of this kind take an object of the action before them.
pub(super) const OBJECT: &str = "object";

const FRAMES: (&str, &str) = ("frames.txt", include_str!("frames.txt"));
const COMMON: (&str, &str) = ("common.txt", include_str!("common.txt"));
const DOMAINS: [(&str, &str); super::DOMAINS.len()] = [
    ("bakery.txt", include_str!("bakery.txt")),
    ("harbour.txt", include_str!("harbour.txt")),
    ("school.txt", include_str!("school.txt")),
    ("workshop.txt", include_str!("workshop.txt")),
    ("farm.txt", include_str!("farm.txt")),
];

/// Everything that is needed to write sentences.
pub(super) struct Grammar {
    pub(super) frames: Vec<Frame>,
    pub(super) domains: Vec<Domain>,
    common: Lexicons,
}

type Lexicons = BTreeMap<&'static str, Lexicon>;

pub(super) struct Domain {
    pub(super) name: &'static str,
    lexicons: Lexicons,
}

struct Lexicon {
    /// Names of the forms; a lexicon without names has one form.
    forms: Vec<&'static str>,
    entries: Vec<Entry>,
}

/// A word or phrase in all its forms.
pub(super) struct Entry {
    pub(super) forms: Vec<String>,
    /// The same forms of an expression that means the same.
    pub(super) synonym: Option<Vec<String>>,
    /// What an action is done to.
    pub(super) objects: Vec<Entry>,
    /// Kept for the test set of unseen words.
    pub(super) unseen: bool,
}

pub(super) struct Slot {
    name: &'static str,
    pub(super) lexicon: &'static str,
}

pub(super) struct Frame {
    pub(super) name: &'static str,
    pub(super) category: Category,
    /// Kept for the test set of unseen templates.
    pub(super) unseen: bool,
    pub(super) slots: Vec<Slot>,
    /// Slots whose exchange changes the meaning.
    pub(super) swap: Option<(usize, usize)>,
    pub(super) x: Sentence,
    /// The opposite of `x`, where no exchange makes it.
    pub(super) y: Option<Sentence>,
}

/// A sentence and others that mean the same.
#[derive(Default)]
pub(super) struct Sentence {
    pub(super) text: Template,
    pub(super) para: Vec<Template>,
    pub(super) func: Vec<Template>,
}

#[derive(Default)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

enum Piece {
    Text(&'static str),
    /// Slot and form.
    Slot(usize, usize),
}

impl Template {
    /// The sentence with `word(slot, form)` in its slots, its first letter a capital, `a` before a vowel written `an`.
    pub(super) fn render<'a>(&self, word: impl Fn(usize, usize) -> &'a str) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            match *piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Slot(slot, form) => {
                    let word = word(slot, form);
                    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
                    if vowel && (text.ends_with(" a ") || text == "A " || text == "a ") {
                        text.insert(text.len() - 1, 'n');
                    }
                    text.push_str(word);
                }
            }
        }
        let mut characters = text.chars();
        match characters.next() {
            Some(first) => first.to_uppercase().chain(characters).collect(),
            None => text,
        }
    }

    /// The slots in it.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> {
        self.pieces.iter().filter_map(|piece| match *piece {
            Piece::Text(_) => None,
            Piece::Slot(slot, _) => Some(slot),
        })
    }
}

impl Grammar {
    /// Reads the files that are part of the program.
    pub(super) fn load() -> Result<Self> {
        let (_, common) = parse_lexicons(COMMON.0, COMMON.1)?;
        let mut domains = Vec::new();
        for (file, text) in DOMAINS {
            let (name, lexicons) = parse_lexicons(file, text)?;
            let name = name.ok_or_else(|| at(file, 1, "does not begin with `domain NAME`"))?;
            domains.push(Domain { name, lexicons });
        }
        let mut grammar = Grammar {
            frames: Vec::new(),
            domains,
            common,
        };
        grammar.frames = grammar.parse_frames(FRAMES.0, FRAMES.1)?;
        Ok(grammar)
    }

    pub(super) fn entries<'g>(&'g self, domain: &'g Domain, lexicon: &str) -> &'g [Entry] {
        let own = domain.lexicons.get(lexicon);
        let found = own.or_else(|| self.common.get(lexicon));
        &found.expect("checked while reading").entries
    }

    /// Whether a slot of the frame has entries that are kept for the test set of unseen words.
    pub(super) fn has_unseen_words(&self, frame: &Frame) -> bool {
        let any = |lexicons: &Lexicons, name| {
            lexicons
                .get(name)
                .is_some_and(|l| l.entries.iter().any(|entry| entry.unseen))
        };
        frame.slots.iter().any(|slot| {
            any(&self.common, slot.lexicon)
                || self.domains.iter().all(|d| any(&d.lexicons, slot.lexicon))
        })
    }

    /// Names of the forms of a lexicon, which every domain must have alike.
    fn forms(&self, lexicon: &str) -> Option<&[&'static str]> {
        if lexicon == OBJECT {
            return Some(&[]);
        }
        if let Some(found) = self.common.get(lexicon) {
            return Some(&found.forms);
        }
        let mut all = self.domains.iter().map(|d| d.lexicons.get(lexicon));
        let first = all.next()??;
        all.all(|other| other.is_some_and(|other| other.forms == first.forms))
            .then_some(&first.forms[..])
    }

    fn parse_frames(&self, file: &str, text: &'static str) -> Result<Vec<Frame>> {
        let mut frames: Vec<Frame> = Vec::new();
        for (number, line) in lines(text) {
            let fail = |why: &str| at(file, number, why);
            let (keyword, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = rest.trim();
            if keyword == "frame" {
                let mut parts = rest.split_whitespace();
                let (Some(name), Some(category)) = (parts.next(), parts.next()) else {
                    return Err(fail("expected `frame NAME CATEGORY`"));
                };
                let category = Category::parse(category);
                if !super::CATEGORIES.contains(&category) {
                    return Err(fail("a category that edit sets do not have"));
                }
                if frames.iter().any(|frame| frame.name == name) {
                    return Err(fail("a frame with this name was there before"));
                }
                frames.push(Frame {
                    name,
                    category,
                    unseen: parts.next() == Some("unseen"),
                    slots: Vec::new(),
                    swap: None,
                    x: Sentence::default(),
                    y: None,
                });
                continue;
            }
            let frame = frames
                .last_mut()
                .ok_or_else(|| fail("expected `frame` first"))?;
            match keyword {
                "slots" => {
                    for part in rest.split_whitespace() {
                        let (name, lexicon) = part
                            .split_once(':')
                            .ok_or_else(|| fail("expected SLOT:LEXICON"))?;
                        if self.forms(lexicon).is_none() {
                            return Err(fail(
                                "a lexicon that is not in common.txt nor, with equal forms, in all domains",
                            ));
                        }
                        frame.slots.push(Slot { name, lexicon });
                    }
                }
                "swap" => {
                    let place = |name: &str| frame.slots.iter().position(|s| s.name == name);
                    let pair = rest
                        .split_once(' ')
                        .and_then(|(a, b)| Some((place(a)?, place(b)?)));
                    frame.swap = Some(pair.ok_or_else(|| fail("expected two slots"))?);
                }
                "x" | "y" | "para" | "func" => {
                    let template = self
                        .parse_template(rest, &frame.slots)
                        .ok_or_else(|| fail("a slot or a form that is not there"))?;
                    let sentence = frame.y.as_mut().unwrap_or(&mut frame.x);
                    match keyword {
                        "x" => frame.x.text = template,
                        "y" => {
                            frame.y = Some(Sentence {
                                text: template,
                                ..Sentence::default()
                            });
                        }
                        "para" => sentence.para.push(template),
                        _ => sentence.func.push(template),
                    }
                }
                _ => return Err(fail("expected frame, slots, swap, x, y, para or func")),
            }
        }
        for frame in &frames {
            let sentences = [Some(&frame.x), frame.y.as_ref()];
            let complete = sentences
                .into_iter()
                .flatten()
                .all(|s| !s.text.pieces.is_empty() && !s.para.is_empty() && !s.func.is_empty());
            if !complete || frame.swap.is_some() == frame.y.is_some() {
                return Err(Error::input(
                    file,
                    format!(
                        "frame {}: give a sentence with para and func, and either a swap or a y",
                        frame.name
                    ),
                ));
            }
        }
        Ok(frames)
    }

    fn parse_template(&self, text: &'static str, slots: &[Slot]) -> Option<Template> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let close = open + rest[open..].find('}')?;
            if open > 0 {
                pieces.push(Piece::Text(&rest[..open]));
            }
            let inside = &rest[open + 1..close];
            let (name, form) = inside.split_once('.').unwrap_or((inside, ""));
            let slot = slots.iter().position(|slot| slot.name == name)?;
            let forms = self.forms(slots[slot].lexicon)?;
            let form = match form {
                "" => 0,
                form => forms.iter().position(|f| *f == form)?,
            };
            pieces.push(Piece::Slot(slot, form));
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest));
        }
        Some(Template { pieces })
    }
}

/// Numbered lines without comments and blanks.
fn lines(text: &'static str) -> impl Iterator<Item = (usize, &'static str)> {
    let numbered = text.lines().zip(1..);
    numbered
        .map(|(line, number)| (number, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn at(file: &str, line: usize, why: &str) -> Error {
    Error::input(file, format!("line {line}: {why}"))
}

fn parse_lexicons(file: &str, text: &'static str) -> Result<(Option<&'static str>, Lexicons)> {
    let mut domain = None;
    let mut lexicons = Lexicons::new();
    let mut current = "";
    for (number, line) in lines(text) {
        let (keyword, rest) = line.split_once(' ').unwrap_or((line, ""));
        match keyword {
            "domain" => domain = Some(rest),
            "lexicon" => {
                let mut parts = rest.split_whitespace();
                current = parts.next().unwrap_or_default();
                let new = Lexicon {
                    forms: parts.collect(),
                    entries: Vec::new(),
                };
                lexicons.insert(current, new);
            }
            "-" | "*" => {
                let lexicon = lexicons
                    .get_mut(current)
                    .ok_or_else(|| at(file, number, "expected `lexicon` first"))?;
                let n = lexicon.forms.len().max(1);
                let mut entry = parse_entry(rest, n)
                    .ok_or_else(|| at(file, number, &format!("expected {n} forms")))?;
                entry.unseen = keyword == "*";
                if (current == ACTION) == entry.objects.is_empty() {
                    return Err(at(file, number, "actions have objects, others have none"));
                }
                lexicon.entries.push(entry);
            }
            _ => {
                let why = "expected domain, lexicon or an entry";
                return Err(at(file, number, why));
            }
        }
    }
    // A synonym that is an entry itself could make two slots of a sentence mean the same.
    for (name, lexicon) in &lexicons {
        let mut first = HashSet::new();
        let all = lexicon.entries.iter();
        for words in all
            .flat_map(|e| [Some(&e.forms), e.synonym.as_ref()])
            .flatten()
        {
            if !first.insert(&words[0]) {
                return Err(Error::input(
                    file,
                    format!("lexicon {name}: {:?} is there twice", words[0]),
                ));
            }
        }
    }
    Ok((domain, lexicons))
}

/// `forms [= forms of a synonym] [: objects]`
fn parse_entry(text: &str, n: usize) -> Option<Entry> {
    let (head, objects) = match text.split_once(" : ") {
        Some((head, objects)) => (head, objects),
        None => (text, ""),
    };
    let forms = |text: &str| -> Option<Vec<String>> {
        let text = text.trim();
        let parts: Vec<String> = if n == 1 {
            vec![text.to_string()]
        } else if text.contains('|') {
            text.split('|')
                .map(|form| form.trim().to_string())
                .collect()
        } else {
            text.split_whitespace().map(str::to_string).collect()
        };
        // A noun with one form alone is used in one form alone.
        (parts.len() == n && parts.iter().all(|form| !form.is_empty())).then_some(parts)
    };
    let (own, synonym) = match head.split_once('=') {
        Some((own, synonym)) => (own, Some(forms(synonym)?)),
        None => (head, None),
    };
    let objects = objects.split(',').map(str::trim).filter(|o| !o.is_empty());
    let objects = objects.map(|object| parse_entry(object, 1));
    Some(Entry {
        forms: forms(own)?,
        synonym,
        objects: objects.collect::<Option<_>>()?,
        unseen: false,
    })
}
