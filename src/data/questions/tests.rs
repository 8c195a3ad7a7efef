use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::OnceLock;

use super::*;
use crate::data::pairs::{Filter, contradiction, read_near_misses, read_paraphrases};
use crate::metrics::edits::words;
use crate::metrics::statistics::roc_auc;

/// Pairs of a split, written once.
fn some(split: Split) -> &'static Questions {
    static WRITTEN: [OnceLock<Questions>; 3] = [const { OnceLock::new() }; 3];
    WRITTEN[split as usize].get_or_init(|| generate(split, 7, 2_000).unwrap())
}

#[test]
fn anchors_come_with_a_rewording_and_a_near_miss() {
    for split in Split::ALL {
        let pairs = &some(split).pairs;
        assert_eq!(pairs.len(), 2_000);
        let mut seen = HashSet::new();
        let mut anchors = HashSet::new();
        for two in pairs.chunks(2) {
            let [same, miss] = two else { panic!("{two:?}") };
            assert_eq!(same.anchor, miss.anchor);
            assert_eq!((same.family, same.group), (miss.family, miss.group));
            assert!(same.same && same.kind.is_same(), "{same:?}");
            assert!(!miss.same && !miss.kind.is_same(), "{miss:?}");
            assert!(anchors.insert(words(&same.anchor)), "{same:?}");
            assert_ne!(words(&same.text), words(&miss.text));
            for pair in two {
                assert_ne!(words(&pair.anchor), words(&pair.text), "{pair:?}");
                assert!(seen.insert((&pair.anchor, &pair.text)), "{pair:?}");
            }
        }
    }
}

#[test]
fn texts_are_written_as_people_write() {
    for split in Split::ALL {
        for pair in &some(split).pairs {
            for text in [&pair.anchor, &pair.text] {
                let words: Vec<&str> = text.split(' ').collect();
                assert!((2..=30).contains(&words.len()), "{text}");
                assert!(
                    !text.contains(['{', '}', '[', ']', '|', '*', '^', '=', '!', '>']),
                    "{text}"
                );
                assert!(words.iter().all(|word| !word.is_empty()), "{text}");
                for two in words.windows(2) {
                    let next = two[1].to_lowercase();
                    let vowel = next.starts_with(['a', 'e', 'i', 'o']) && !next.starts_with("one");
                    assert!(!two[0].eq_ignore_ascii_case("a") || !vowel, "{text}");
                    assert_ne!(two[0], two[1], "{text}");
                }
            }
        }
    }
}

#[test]
fn what_guards_are_judged_by_is_none_of_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/questions");
    let near_misses = folder.join("near_misses.csv");
    let (misses, _) = read_near_misses(&near_misses, Filter::Corrected).unwrap();
    let (same, _) = read_paraphrases(&folder.join("paraphrases.csv")).unwrap();
    assert_eq!((misses.len(), same.len()), (198, 198));
    assert_eq!(contradiction(&misses, &same), None);
    let misses = misses.iter().map(|pair| [&pair.anchor, &pair.text]);
    let same = same.iter().map(|pair| [&pair.anchor, &pair.text]);
    let judged: HashSet<[Vec<String>; 2]> = misses
        .chain(same)
        .map(|two| two.map(|t| words(t)))
        .collect();
    for pair in &some(Split::Train).pairs {
        let two = [&pair.anchor, &pair.text].map(|text| words(text));
        let turned = [two[1].clone(), two[0].clone()];
        assert!(
            !judged.contains(&two) && !judged.contains(&turned),
            "{pair:?}"
        );
    }
}

/// What can be counted about a pair.
fn features(pair: &Pair) -> [(&'static str, f64); 9] {
    let (a, b) = (words(&pair.anchor), words(&pair.text));
    let flag = |holds: bool| f64::from(u8::from(holds));
    let negated = |words: &[String]| words.iter().any(|word| is_negation(word));
    let opposite = OPPOSITES.iter().any(|&[x, y]| {
        let only = |words: &[String], one: &str, other: &str| {
            words.iter().any(|w| w == one) && words.iter().all(|w| w != other)
        };
        only(&a, x, y) && only(&b, y, x) || only(&a, y, x) && only(&b, x, y)
    });
    let numbers = |words: &[String]| -> Vec<String> {
        let digits = words
            .iter()
            .filter(|w| w.contains(|c: char| c.is_ascii_digit()));
        digits.cloned().collect()
    };
    // Words that both hold, in another order.
    let common: Vec<usize> = a
        .iter()
        .filter_map(|w| b.iter().position(|v| v == w))
        .collect();
    let turned = common.windows(2).filter(|two| two[0] > two[1]).count();
    [
        ("overlap of words", overlap(&a, &b)),
        ("difference in length", a.len().abs_diff(b.len()) as f64),
        ("length of the text", b.len() as f64),
        ("words to edit", word_distance(&a, &b) as f64),
        ("a negation on one side", flag(negated(&a) != negated(&b))),
        ("the same words", flag(sorted(&a) == sorted(&b))),
        ("an opposite", flag(opposite)),
        ("other digits", flag(numbers(&a) != numbers(&b))),
        ("another order", turned as f64),
    ]
}

const OPPOSITES: [[&str; 2]; 14] = [
    ["on", "off"],
    ["in", "out"],
    ["up", "down"],
    ["before", "after"],
    ["with", "without"],
    ["more", "less"],
    ["open", "close"],
    ["enable", "disable"],
    ["first", "last"],
    ["under", "over"],
    ["above", "below"],
    ["most", "least"],
    ["lock", "unlock"],
    ["add", "remove"],
];

#[test]
fn what_can_be_counted_does_not_tell_rewordings_from_near_misses() {
    for split in Split::ALL {
        let pairs = &some(split).pairs;
        for i in 0..features(&pairs[0]).len() {
            let values = |same: bool| -> Vec<f64> {
                let wanted = pairs.iter().filter(|pair| pair.same == same);
                wanted.map(|pair| features(pair)[i].1).collect()
            };
            let auc = roc_auc(&values(true), &values(false)).unwrap();
            let (name, _) = features(&pairs[0])[i];
            assert!((0.45..=0.55).contains(&auc), "{split:?}: {name}: {auc}");
        }
    }
}

#[test]
fn edits_are_small_and_large_on_both_sides() {
    for split in Split::ALL {
        let questions = some(split);
        for same in [true, false] {
            let of = questions
                .kinds()
                .into_iter()
                .filter(|row| row.kind.is_same() == same);
            let (pairs, small) = of.fold((0, 0), |(n, s), row| (n + row.pairs, s + row.small));
            let share = small as f64 / pairs as f64;
            assert!((0.2..=0.8).contains(&share), "{split:?} {same}: {share}");
        }
    }
}

#[test]
fn every_kind_occurs_in_every_split() {
    for split in Split::ALL {
        let kinds = some(split).kinds();
        let total: f64 = Kind::MISSES.iter().map(|(_, share)| share).sum();
        for (kind, share) in Kind::MISSES {
            let row = kinds.iter().find(|row| row.kind == kind).unwrap();
            let expected = 1_000.0 * share / total;
            let off = (row.pairs as f64 - expected).abs();
            assert!(off <= 0.1 * expected + 1.0, "{split:?} {row:?}: {expected}");
        }
        for (kind, _) in Kind::REWORDINGS {
            let row = kinds.iter().find(|row| row.kind == kind);
            assert!(row.is_some(), "{split:?} {kind:?}");
        }
    }
}

#[test]
fn the_same_arguments_give_the_same_pairs() {
    for split in Split::ALL {
        let few = generate(split, 3, 101).unwrap();
        assert_eq!(few.pairs.len(), 101);
        assert_eq!(few, generate(split, 3, 101).unwrap());
        let more = generate(split, 3, 140).unwrap();
        assert_eq!(more.pairs[..101], few.pairs[..]);
        assert_ne!(more, generate(split, 4, 140).unwrap());
    }
}

#[test]
fn splits_share_no_held_out_word_and_no_held_out_template() {
    let texts = |pairs: &[Pair]| -> HashSet<Vec<String>> {
        let both = pairs.iter().flat_map(|pair| [&pair.anchor, &pair.text]);
        both.map(|text| words(text)).collect()
    };
    let train = texts(&generate(Split::Train, 8, 6_000).unwrap().pairs);
    let templates = texts(&some(Split::UnseenTemplates).pairs);
    let unseen = texts(&some(Split::UnseenWords).pairs);
    assert!(train.is_disjoint(&templates) && train.is_disjoint(&unseen));
    // What is made of new words holds at least one, on either side.
    let known: HashSet<&String> = train.iter().chain(&templates).flatten().collect();
    for text in &unseen {
        assert!(text.iter().any(|word| !known.contains(word)), "{text:?}");
    }
    // No template is kept for one split and used in another.
    let grammar = Grammar::load().unwrap();
    let two_ways = |templates: Vec<(&str, bool)>| {
        let (kept, used): (Vec<_>, Vec<_>) = templates.into_iter().partition(|(_, unseen)| *unseen);
        let used: HashSet<&str> = used.into_iter().map(|(text, _)| text).collect();
        let both = kept.into_iter().find(|(text, _)| used.contains(text));
        assert_eq!(both, None);
    };
    two_ways(grammar.metas.iter().map(|f| (f.text, f.unseen)).collect());
    two_ways(
        grammar
            .greetings
            .iter()
            .map(|f| (f.text, f.unseen))
            .collect(),
    );
    for ask in &grammar.asks {
        two_ways(
            ask.lines
                .iter()
                .map(|line| (line.text, line.unseen))
                .collect(),
        );
    }
    for sense in grammar.families.iter().flat_map(|family| &family.senses) {
        two_ways(
            sense
                .lines
                .iter()
                .map(|line| (line.text, line.unseen))
                .collect(),
        );
    }
}

/// A text that can be made of a meaning and of its near-miss would be a wrong label.
#[test]
fn no_text_says_both() {
    let grammar = Grammar::load().unwrap();
    for split in Split::ALL {
        let writer = Writer::new(&grammar, split);
        for number in 0..grammar.families.len() {
            if !writer.can_use(number) {
                continue;
            }
            for (kind, _) in Kind::MISSES {
                for (i, change) in writer.changes_of(number, kind).into_iter().enumerate() {
                    let purpose = ["both", grammar.families[number].name, kind.name()];
                    let mut stream = Stream::new(1, &purpose, i as u64);
                    let Some(meaning) = writer.meaning(number, change, &mut stream) else {
                        continue;
                    };
                    let Some(other) = writer.changed(&meaning, change, &mut stream) else {
                        continue;
                    };
                    let mut said: HashMap<Vec<String>, bool> = HashMap::new();
                    for n in 0..RENDERINGS {
                        for (meaning, first) in [(&meaning, true), (&other, false)] {
                            let choices = Choices::new(stream.bits().wrapping_add(n));
                            if let Some(surface) = writer.render(meaning, choices) {
                                let before = said.insert(surface.words, first);
                                assert!(
                                    before.is_none_or(|before| before == first),
                                    "{purpose:?}: {}",
                                    surface.text
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Of each of two meanings that must not meet.
const RENDERINGS: u64 = 6;

#[test]
fn everything_is_used() {
    let grammar = Grammar::load().unwrap();
    let groups: HashSet<&str> = grammar.families.iter().map(|family| family.group).collect();
    assert!(groups.len() >= 25, "{}", groups.len());
    let opposites: usize = (grammar.families.iter())
        .map(|family| {
            let antonym = |miss: &&(usize, usize, Kind)| miss.2 == Kind::Antonym;
            family.misses.iter().filter(antonym).count()
        })
        .sum();
    assert!(opposites >= 80, "{opposites}");
    for split in Split::ALL {
        let writer = Writer::new(&grammar, split);
        for number in (0..grammar.families.len()).filter(|&number| writer.can_use(number)) {
            let change = Change::Unrelated;
            let mut stream = Stream::new(2, &["used", grammar.families[number].name], 0);
            let rendered = (0..60).any(|_| {
                let meaning = writer.meaning(number, change, &mut stream);
                let choices = Choices::new(stream.bits());
                meaning.is_some_and(|meaning| writer.render(&meaning, choices).is_some())
            });
            assert!(rendered, "{split:?}: {}", grammar.families[number].name);
        }
    }
}

#[test]
fn pairs_can_be_had_as_files_have_them() {
    let questions = some(Split::Train);
    let (same, misses) = (questions.paraphrases(), questions.near_misses());
    assert_eq!((same.len(), misses.len()), (1_000, 1_000));
    assert_eq!(same[0].text, questions.pairs[0].text);
    assert_eq!(misses[0].text, questions.pairs[1].text);
    assert_eq!(misses[0].category.name(), questions.pairs[1].kind.name());
    let total: usize = questions.kinds().iter().map(|row| row.pairs).sum();
    assert_eq!(total, 2_000);
}

#[test]
fn nothing_is_refused_in_one_line() {
    let error = generate(Split::Train, 1, 0).unwrap_err().to_string();
    assert!(
        error.contains("at least one") && !error.contains('\n'),
        "{error}"
    );
}
