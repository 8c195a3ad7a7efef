//! How a meaning is put into words.

use super::grammar::{Family, Grammar, Line, Mark, Phrase, Shape};
use crate::random::Stream;

/// What a question asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) family: usize,
    pub(super) ask: Option<usize>,
    pub(super) sense: usize,
    /// Entry and pole of every slot.
    pub(super) values: Vec<(usize, usize)>,
}

/// Decides between ways to say a thing, by the name of the decision alone: two meanings that are said with the same
/// choices are said alike, and one decision can be made anew.
#[derive(Clone, Copy)]
pub(super) struct Choices {
    key: u64,
    anew: Option<(Decision, u64)>,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The template.
    Line,
    /// What stands around it.
    Meta,
    /// The words for an action.
    Phrase,
    /// Words for the same, in a template.
    Words,
    /// Words for the value of a slot.
    Value,
    /// Whether the end of an action stands in front.
    Front,
    Greeting,
    Contraction,
    Style,
}

impl Decision {
    pub(super) const ALL: [Decision; 9] = [
        Decision::Line,
        Decision::Meta,
        Decision::Phrase,
        Decision::Words,
        Decision::Value,
        Decision::Front,
        Decision::Greeting,
        Decision::Contraction,
        Decision::Style,
    ];
}

impl Choices {
    pub(super) fn new(key: u64) -> Self {
        Choices { key, anew: None }
    }

    /// The same choices but for one.
    pub(super) fn but(self, decision: Decision, key: u64) -> Self {
        Choices {
            anew: Some((decision, key)),
            ..self
        }
    }

    fn below(self, decision: Decision, detail: &str, n: usize) -> usize {
        let key = match self.anew {
            Some((anew, key)) if anew == decision => key,
            _ => self.key,
        };
        Stream::new(key, &[detail], decision as u64).below(n)
    }
}

/// A meaning in words.
pub(super) struct Surface {
    pub(super) text: String,
    /// Its words, as [`words`](crate::metrics::edits::words) gives them.
    pub(super) words: Vec<String>,
    pub(super) mark: Mark,
    /// Numbers of the template, of what stands around it, and of the words for an action.
    pub(super) form: [usize; 3],
}

impl Grammar {
    /// A meaning in words, with templates of unseen templates or without; none where no template fits.
    pub(super) fn render(
        &self,
        meaning: &Meaning,
        choices: Choices,
        unseen_templates: bool,
    ) -> Option<Surface> {
        let family = &self.families[meaning.family];
        let sense = &family.senses[meaning.sense];
        let values = Values {
            grammar: self,
            family,
            meaning,
            choices,
        };
        let mut mark = Mark::default();
        let mut form = [usize::MAX; 3];

        let (lines, action) = match meaning.ask {
            None => (&sense.lines, None),
            Some(ask) => {
                let ask = &self.asks[ask];
                // What is asked to be done is not "to no longer do" something, and "how do I not" is asked of nothing.
                let usable = |phrase: &&Phrase| {
                    !phrase
                        .text
                        .starts_with(if ask.not { "no longer " } else { "not " })
                };
                let phrases: Vec<&Phrase> = sense.phrases.iter().filter(usable).collect();
                form[2] = choices.below(Decision::Phrase, "", phrases.len());
                let phrase = phrases.get(form[2])?;
                mark = mark.join(phrase.mark);
                let text = values.fill(phrase.text, "phrase", &mut mark);
                (&ask.lines, Some(text))
            }
        };
        let negated = action.as_ref().is_some_and(|text| text.starts_with("not "));
        let usable = |line: &&Line| line.unseen == unseen_templates && !(negated && line.positive);
        let lines: Vec<&Line> = lines.iter().filter(usable).collect();
        if lines.is_empty() {
            return None;
        }
        form[0] = choices.below(Decision::Line, "", lines.len());
        let line = lines[form[0]];
        mark = mark.join(line.mark);
        let mut text = values.fill(line.text, "line", &mut mark);
        // A template's own first word may stand within a sentence; the value of a slot is written as it is.
        if !line.text.starts_with('{') {
            text = lower_first(&text);
        }

        if let Some(mut action) = action {
            let mut front = None;
            if let Some((slot, before)) = family.tail {
                let mut tail = values.word(slot, 0, false, &mut mark);
                if !before.is_empty() {
                    tail = format!("{before} {tail}");
                }
                // "turn it on on my phone"
                let clash = action.rsplit(' ').next() == tail.split(' ').next();
                let can = line.shape == Shape::Direct && asks_first(&text);
                if can && (clash || choices.below(Decision::Front, "", 5) == 0) {
                    front = Some(tail);
                } else if clash {
                    return None;
                } else {
                    action = format!("{action} {tail}");
                }
            }
            text = insert_action(&text, &action)?;
            if let Some(tail) = front {
                text = format!("{tail}, {text}");
            }
        }

        let around = |frames: &[super::grammar::Frame], decision| {
            let usable: Vec<usize> = (0..frames.len())
                .filter(|&i| frames[i].unseen == unseen_templates)
                .collect();
            usable[choices.below(decision, "", usable.len())]
        };
        match line.shape {
            Shape::Indirect => {
                form[1] = around(&self.metas, Decision::Meta);
                text = self.metas[form[1]].text.replace("{i}", &text);
            }
            Shape::Direct if choices.below(Decision::Greeting, "whether", 9) == 0 => {
                form[1] = around(&self.greetings, Decision::Greeting);
                let frame = self.greetings[form[1]].text;
                text = frame.replace("{q}", &text);
            }
            _ => {}
        }
        let text = finish(text, line.shape, choices);
        let words = crate::metrics::edits::words(&text);
        // "at at least", "in in plain words": parts that do not go together.
        if words.windows(2).any(|two| two[0] == two[1]) {
            return None;
        }
        Some(Surface {
            words,
            text,
            mark,
            form,
        })
    }
}

struct Values<'a> {
    grammar: &'a Grammar,
    family: &'a Family,
    meaning: &'a Meaning,
    choices: Choices,
}

impl Values<'_> {
    /// The words for a slot's value, or for the opposite of it, in a form.
    fn word(&self, slot: usize, form: usize, opposite: bool, mark: &mut Mark) -> String {
        let lexicon = &self.grammar.lexicons[self.family.slots[slot].lexicon];
        let (entry, pole) = self.meaning.values[slot];
        let poles = &lexicon.entries[entry].poles;
        let pole = if opposite { 1 - pole } else { pole };
        let all = &poles[pole][form];
        let name = self.family.slots[slot].name;
        let detail = format!("{name}{}{form}", if opposite { "~" } else { "" });
        let chosen = &all[self.choices.below(Decision::Value, &detail, all.len())];
        *mark = mark.join(chosen.mark);
        chosen.text.to_string()
    }

    /// A template with its alternatives chosen and its slots filled, but for those of asks.
    fn fill(&self, text: &str, place: &str, mark: &mut Mark) -> String {
        let mut chosen = String::new();
        let mut rest = text;
        let mut number = 0;
        while let Some(open) = rest.find('[') {
            let close = open + rest[open..].find(']').expect("checked while reading");
            chosen.push_str(&rest[..open]);
            let all: Vec<&str> = rest[open + 1..close].split('|').collect();
            let detail = format!("{place}{number}");
            chosen.push_str(all[self.choices.below(Decision::Words, &detail, all.len())]);
            number += 1;
            rest = &rest[close + 1..];
        }
        chosen.push_str(rest);

        let mut filled = String::new();
        let mut rest = &chosen[..];
        while let Some(open) = rest.find('{') {
            let close = open + rest[open..].find('}').expect("checked while reading");
            filled.push_str(&rest[..open]);
            let inside = &rest[open + 1..close];
            let (name, form) = inside.split_once('.').unwrap_or((inside, ""));
            match self.family.slot(name.trim_end_matches('~')) {
                Some(slot) => {
                    let lexicon = &self.grammar.lexicons[self.family.slots[slot].lexicon];
                    let known = lexicon.forms.iter().position(|known| *known == form);
                    let opposite = name.ends_with('~');
                    let word = self.word(slot, known.unwrap_or(0), opposite, mark);
                    if form == "ing" && known.is_none() {
                        filled.push_str(&gerund(&word));
                    } else {
                        filled.push_str(&word);
                    }
                }
                // {vp} and its like come later.
                None => filled.push_str(&rest[open..=close]),
            }
            rest = &rest[close + 1..];
        }
        filled.push_str(rest);
        filled
    }
}

/// Puts an action in its place in a template of an ask; none where two forms in -ing would meet, "stopping muting".
fn insert_action(text: &str, action: &str) -> Option<String> {
    let mut words = action.split(' ');
    let phase = ["stop", "start", "finish", "keep", "quit"].contains(&words.next()?);
    let doing = words
        .next()
        .is_some_and(|word| word.ends_with("ing") && !word.ends_with("thing"));
    if phase && doing && text.contains("{ing}") {
        return None;
    }
    let imperative = match action.strip_prefix("not ") {
        Some(rest) => format!("do not {rest}"),
        None => action.to_string(),
    };
    let to = match action.strip_prefix("not ") {
        Some(rest) => format!("not to {rest}"),
        None => format!("to {action}"),
    };
    let text = text
        .replace("{vp}", action)
        .replace("{ing}", &gerund(action))
        .replace("{imp}", &imperative)
        .replace("{to}", &to);
    Some(text.replace('^', ""))
}

/// The action that begins with a verb, with the verb in -ing, and other verbs of it that are marked with `^`.
fn gerund(action: &str) -> String {
    for adverb in ["not ", "no longer "] {
        if let Some(rest) = action.strip_prefix(adverb) {
            return format!("{adverb}{}", gerund(rest));
        }
    }
    if let Some((first, second)) = action.split_once('^') {
        return format!("{}{}", gerund(first), gerund(second));
    }
    let (verb, rest) = match action.find(' ') {
        Some(at) => action.split_at(at),
        None => (action, ""),
    };
    const DOUBLED: [&str; 40] = [
        "put", "get", "set", "reset", "cut", "stop", "let", "shut", "split", "swap", "zip",
        "unzip", "log", "plug", "unplug", "pin", "unpin", "tag", "untag", "drop", "run", "begin",
        "quit", "dim", "swim", "nap", "tip", "jog", "dig", "hum", "stir", "scan", "wet", "cancel",
        "label", "travel", "shovel", "transfer", "submit", "commit",
    ];
    let stem = if verb == "be" || verb.ends_with("ee") || verb.ends_with("ye") {
        verb.to_string()
    } else if let Some(stem) = verb.strip_suffix("ie") {
        format!("{stem}y")
    } else if DOUBLED.contains(&verb) {
        let last = verb.chars().last().expect("a verb has letters");
        format!("{verb}{last}")
    } else {
        verb.strip_suffix('e').unwrap_or(verb).to_string()
    };
    format!("{stem}ing{rest}")
}

/// Whether a sentence is a question from its first word on, so that a phrase may stand in front of it.
fn asks_first(text: &str) -> bool {
    const FIRST: [&str; 17] = [
        "how", "what", "where", "when", "why", "can", "could", "is", "am", "do", "does", "should",
        "must", "may", "would", "will", "which",
    ];
    let first = text.split(' ').next().unwrap_or_default();
    FIRST.contains(&first)
        && !text.starts_with("how to ")
        && text.ends_with('?')
        && !text[..text.len() - 1].contains(['?', '.'])
}

/// The first letter small, unless it is that of the word I.
fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(letter) if text.split([' ', '\'']).next() != Some("I") => {
            letter.to_lowercase().chain(characters).collect()
        }
        _ => text.to_string(),
    }
}

/// Articles, contractions, case and the sign at the end.
fn finish(text: String, shape: Shape, choices: Choices) -> String {
    let mut text = articles(&text);
    if shape == Shape::Keywords {
        let dropped = ["the", "a", "an", "my", "your"];
        let words: Vec<&str> = text.split(' ').collect();
        // "to the left of", "a hundred", "a week" and "a few" keep their articles.
        let before = [
            "few", "little", "lot", "hundred", "thousand", "quarter", "moment", "day", "week",
            "month", "year", "night", "while", "third",
        ];
        let counts = |i: usize| {
            words[i] == "a" && words.get(i + 1).is_some_and(|next| before.contains(next))
        };
        let kept = (0..words.len()).filter(|&i| {
            !dropped.contains(&words[i]) || i > 0 && words[i - 1] == "to" || counts(i)
        });
        return kept
            .map(|i| words[i])
            .collect::<Vec<_>>()
            .join(" ")
            .to_lowercase();
    }
    if choices.below(Decision::Contraction, "", 2) == 0 {
        text = contract(&text);
    }
    let mut characters = text.chars();
    if let Some(first) = characters.next() {
        text = first.to_uppercase().chain(characters).collect();
    }
    match choices.below(Decision::Style, "", 8) {
        0 | 1 => text.trim_end_matches(['.', '?']).to_lowercase(),
        2 => text.trim_end_matches(['.', '?']).to_string(),
        _ => text,
    }
}

/// `an` before a vowel's sound, `a` before a consonant's.
fn articles(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let mut out: Vec<String> = Vec::with_capacity(words.len());
    for (i, word) in words.iter().enumerate() {
        let next = words.get(i + 1);
        out.push(match (*word, next) {
            ("a" | "an", Some(next)) => if vowel_sound(next) { "an" } else { "a" }.to_string(),
            ("A" | "An", Some(next)) => if vowel_sound(next) { "An" } else { "A" }.to_string(),
            _ => word.to_string(),
        });
    }
    out.join(" ")
}

fn vowel_sound(word: &str) -> bool {
    const CONSONANT: [&str; 11] = [
        "one", "use", "uni", "euro", "ukulele", "usb", "url", "uk", "us ", "usual", "ubi",
    ];
    const VOWEL: [&str; 15] = [
        "hour", "honest", "heir", "ssd", "hdmi", "sd", "suv", "x-ray", "led", "mp3", "html", "xml",
        "sms", "18", "11",
    ];
    let lower = word.to_lowercase();
    // "uninstalled", "unusual": spelt like "unit".
    let un = lower.starts_with("unin") || lower.starts_with("unim");
    if CONSONANT.iter().any(|start| lower.starts_with(start)) && !un {
        return false;
    }
    let word = lower.trim_matches(|c: char| !c.is_alphanumeric());
    VOWEL
        .iter()
        .any(|start| word == *start || start.len() > 3 && word.starts_with(start))
        || word.starts_with(['a', 'e', 'i', 'o', 'u', '8'])
}

/// Contracts what may be contracted, in a sentence whose first letter is still small.
fn contract(text: &str) -> String {
    const ANYWHERE: [(&str, &str); 16] = [
        (" do not ", " don't "),
        (" does not ", " doesn't "),
        (" did not ", " didn't "),
        (" is not ", " isn't "),
        (" are not ", " aren't "),
        (" was not ", " wasn't "),
        (" were not ", " weren't "),
        (" cannot ", " can't "),
        (" will not ", " won't "),
        (" has not ", " hasn't "),
        (" would not ", " wouldn't "),
        (" should not ", " shouldn't "),
        (" I would ", " I'd "),
        (" I am ", " I'm "),
        (" whether it is ", " whether it's "),
        (" if it is ", " if it's "),
    ];
    // Not within indirect questions, which may end in the verb.
    const FIRST: [(&str, &str); 4] = [
        (" what is ", " what's "),
        (" where is ", " where's "),
        (" when is ", " when's "),
        (" who is ", " who's "),
    ];
    let mut text = format!(" {text}");
    for (long, short) in ANYWHERE {
        text = text.replace(long, short);
    }
    for (long, short) in FIRST {
        for before in ["", ",", ":"] {
            let (long, short) = (format!("{before}{long}"), format!("{before}{short}"));
            if before.is_empty() && text.starts_with(&long) {
                text = format!("{short}{}", &text[long.len()..]);
            } else if !before.is_empty() {
                text = text.replace(&long, &short);
            }
        }
    }
    text[1..].to_string()
}
