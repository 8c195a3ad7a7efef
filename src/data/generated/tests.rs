use super::*;

fn small(seed: u64) -> Collection {
    generate(&Options {
        seed,
        n_passages: 120,
        n_queries: 60,
        ..Options::default()
    })
    .unwrap()
}

fn texts(collection: &Collection) -> HashSet<&str> {
    collection.corpus.iter().map(|d| d.text.as_str()).collect()
}

fn message(options: Options) -> String {
    generate(&options).unwrap_err().to_string()
}

/// What is wrong with the English of `text`, as far as a rule can tell.
fn language_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.is_ascii() || text.contains(['{', '}', '=', '_', '\n', '\t']) {
        faults.push("odd character".to_owned());
    }
    if text.contains("  ") || text.contains(" ,") || text.contains(" .") || text.contains("..") {
        faults.push("spacing or punctuation".to_owned());
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    for pair in words.windows(2) {
        let bare = |word: &str| {
            word.trim_matches(|c: char| !c.is_ascii_alphanumeric())
                .to_ascii_lowercase()
        };
        let (first, second) = (bare(pair[0]), bare(pair[1]));
        // By sound: a unit, a European, a one-way street, but an hour.
        let consonant = ["uni", "use", "eu", "one"]
            .iter()
            .any(|start| second.starts_with(start));
        let vowel = second.starts_with(['a', 'e', 'i', 'o', 'u']) && !consonant;
        let sounds_open = vowel || second.starts_with("hour");
        if (first == "a" && sounds_open) || (first == "an" && !sounds_open) {
            faults.push(format!("article in {pair:?}"));
        }
        let repeats = first == second && !pair[0].ends_with(['.', ',', ';']);
        let articles = ["a", "an", "the"];
        if repeats || (articles.contains(&first.as_str()) && articles.contains(&second.as_str())) {
            faults.push(format!("repetition in {pair:?}"));
        }
        let sentence_ends = pair[0].ends_with('.');
        if sentence_ends && !pair[1].starts_with(|c: char| c.is_ascii_uppercase()) {
            faults.push(format!("small letter after a full stop in {pair:?}"));
        }
    }
    if !text.starts_with(|c: char| c.is_ascii_uppercase()) {
        faults.push("small letter at the start".to_owned());
    }
    faults
}

#[test]
fn language_rules_find_faults() {
    for bad in [
        "He ate a apple.",
        "He ate an pear.",
        "He left the the room.",
        "He left the a room.",
        "He left. she stayed.",
        "he left.",
        "He {x} left.",
        "He left  early.",
        "Caf\u{e9}.",
    ] {
        assert!(!language_faults(bad).is_empty(), "{bad}");
    }
    assert!(
        language_faults(
            "An hour later a pear and an apple fell. It was a union of an unrefined kind."
        )
        .is_empty()
    );
}

#[test]
fn every_sentence_of_the_grammar_is_clean() {
    for seed in [1, 42] {
        let collection = generate(&Options {
            seed,
            n_passages: 3000,
            n_queries: 1500,
            ..Options::default()
        })
        .unwrap();
        for document in &collection.corpus {
            let faults = language_faults(&document.text);
            assert!(faults.is_empty(), "{faults:?}: {}", document.text);
            let faults = language_faults(&document.title);
            assert!(faults.is_empty(), "{faults:?}: {}", document.title);
            assert!(document.text.ends_with('.'), "{}", document.text);
            let words = document.text.split_whitespace().count();
            assert!(
                (25..=60).contains(&words),
                "{words} words: {}",
                document.text
            );
        }
        for query in &collection.queries {
            let faults = language_faults(&query.text);
            assert!(faults.is_empty(), "{faults:?}: {}", query.text);
            assert!(
                query.text.ends_with('?') && !query.text.contains('.'),
                "{}",
                query.text
            );
        }
    }
}

#[test]
fn the_seed_decides_every_byte() {
    assert_eq!(small(7), small(7));
    let (a, b) = (small(7), small(8));
    assert_eq!(texts(&a).intersection(&texts(&b)).count(), 0);
}

#[test]
fn the_default_set_keeps_its_words() {
    // A change of grammar, lexicon or generator moves every published number: it should be meant.
    let collection = generate(&Options::default()).unwrap();
    let documents = collection
        .corpus
        .iter()
        .map(|d| d.text_for_encoder().into_owned());
    let questions = collection.queries.iter().map(|q| q.text.clone());
    let hash = documents.chain(questions).flat_map(String::into_bytes);
    // FNV-1a.
    let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    assert_eq!(format!("{hash:016x}"), DEFAULT_SET);
}

/// Of what an encoder reads of the default set: all documents, then all questions.
const DEFAULT_SET: &str = "3d38d5387a3666a0";

#[test]
fn counts_ids_and_judgements() {
    let collection = generate(&Options::default()).unwrap();
    assert_eq!(
        (collection.corpus.len(), collection.queries.len()),
        (400, 200)
    );
    assert_eq!(
        (collection.name.as_str(), collection.split.as_str()),
        ("generated", "test")
    );
    assert!(collection.notes.lines().is_empty());

    let documents: HashMap<&str, &Document> = collection
        .corpus
        .iter()
        .map(|d| (d.id.as_str(), d))
        .collect();
    assert_eq!(documents.len(), 400, "unique document ids");
    assert_eq!(texts(&collection).len(), 400, "unique passages");
    let queries: HashSet<&str> = collection.queries.iter().map(|q| q.text.as_str()).collect();
    assert_eq!(queries.len(), 200, "unique questions");
    let ids: HashSet<&str> = collection.queries.iter().map(|q| q.id.as_str()).collect();
    assert_eq!(ids.len(), 200, "unique query ids");

    assert_eq!(collection.qrels.n_queries(), 200);
    for query in &collection.queries {
        let judged = collection.qrels.judged(&query.id).unwrap();
        assert!((1..=MAX_RELEVANT).contains(&judged.len()), "{}", query.text);
        for (document, grade) in judged {
            assert!(
                documents.contains_key(document.as_str()) && *grade == 1,
                "{document} {grade}"
            );
        }
    }
}

#[test]
fn a_folder_written_and_read_is_the_same_collection() {
    let collection = small(3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("generated");
    collection.write(&path).unwrap();
    assert_eq!(Collection::load(&path, "test").unwrap(), collection);
}

#[test]
fn a_domain_says_the_same_alone() {
    let chosen = |domains: &[&str], n_passages| {
        generate(&Options {
            n_passages,
            n_queries: 10,
            domains: domains.iter().map(|&d| d.to_owned()).collect(),
            ..Options::default()
        })
        .unwrap()
    };
    let (alone, both) = (
        chosen(&["garden"], 200),
        chosen(&["garden", "railway"], 200),
    );
    assert_eq!(alone.name, "generated-garden");
    assert_eq!(both.name, "generated-garden-railway");
    let shared = texts(&alone).intersection(&texts(&both)).count();
    assert!((80..=120).contains(&shared), "{shared}");
}

const TINY: &str = "domain tiny
years 1900 1920
setting p:place
adjunct C:person
open At {p} in {year}.
close Said {C}.
lexicon place
- Here
- There
lexicon thing
- the cup = the mug
- the pen
- the hat
- the map
frame meet A:person B:person x:thing
swap A B
title {x}
state gave
p {A} gave {x} to {B}.
q Who gave {x} to {B}?
state met symmetric
p {A} met {B} about {x}.
q Who met {B}?
";

fn fact(state: usize, a: &str, b: &str, x: &str) -> Fact {
    let value = |text: &str| Value {
        passage: text.to_owned(),
        question: text.to_owned(),
    };
    let slots = [("A", a), ("B", b), ("x", x), ("p", "Here")];
    Fact {
        domain: 0,
        frame: 0,
        state,
        bindings: slots
            .into_iter()
            .map(|(name, text)| (name, value(text)))
            .collect(),
    }
}

#[test]
fn relevance_follows_from_the_facts() {
    let domain = grammar::parse("tiny.txt", TINY).unwrap();
    let frame = &domain.frames[0];
    let relevant = |told: &Fact, asked: &Fact| {
        let state = &frame.states[asked.state];
        answers(told, asked, &state.questions[0], frame, state)
    };
    let asked = fact(0, "Ann", "Bob", "cup");
    assert!(relevant(&asked, &asked));
    assert!(
        relevant(&fact(0, "Cy", "Bob", "cup"), &asked),
        "the giver is asked for"
    );
    assert!(
        !relevant(&fact(0, "Bob", "Ann", "cup"), &asked),
        "roles exchanged"
    );
    assert!(
        !relevant(&fact(0, "Ann", "Bob", "pen"), &asked),
        "another thing"
    );
    let met = fact(1, "Ann", "Bob", "cup");
    assert!(
        relevant(&fact(1, "Bob", "Cy", "pen"), &met),
        "meeting is mutual"
    );
    assert!(
        !relevant(&fact(1, "Ann", "Cy", "cup"), &met),
        "without the one who is named"
    );
    let canonical = |f: Fact| f.canonical(frame);
    assert_eq!(canonical(fact(1, "Bob", "Ann", "cup")), canonical(met));
    assert_ne!(canonical(fact(0, "Bob", "Ann", "cup")), canonical(asked));
}

#[test]
fn questions_have_near_misses() {
    let options = Options::default();
    let domains = chosen_domains(&[]).unwrap();
    let people = grammar::parse_people(PEOPLE.0, PEOPLE.1).unwrap();
    let mut writer = Writer {
        seed: options.seed,
        domains: &domains,
        people: &people,
        passages: Vec::new(),
        facts: HashSet::new(),
        texts: HashSet::new(),
    };
    writer.write_passages(options.n_passages).unwrap();
    let passages = writer.passages;
    let asked = ask(&options, &domains, &passages).unwrap();
    // Values of the fact, in any role: a passage with the same ones differs in structure alone.
    let values = |i: usize| {
        passages[i]
            .fact
            .bindings
            .values()
            .collect::<std::collections::BTreeSet<_>>()
    };
    let hard = asked.iter().filter(|question| {
        let told = values(question.relevant[0]);
        (0..passages.len()).any(|i| !question.relevant.contains(&i) && values(i) == told)
    });
    let share = hard.count() as f64 / asked.len() as f64;
    assert!(share > 0.6, "{share}");
}

#[test]
fn bad_requests_name_the_cure() {
    let with = |n_passages, n_queries, domains: &[&str]| {
        message(Options {
            n_passages,
            n_queries,
            domains: domains.iter().map(|&d| d.to_owned()).collect(),
            ..Options::default()
        })
    };
    assert!(with(0, 0, &[]).contains("at least one of each"));
    assert!(with(5, 6, &[]).contains("got 6 questions and 5 passages"));
    assert!(with(5, 5, &["moon"]).contains("\"moon\"; choose from lighthouse, railway"));
    assert!(with(5, 5, &["garden", "garden"]).contains("twice"));
    assert!(
        with(4000, 4000, &["garden"])
            .contains("4000 generated passages have a question of their own")
    );
    for message in [with(0, 0, &[]), with(5, 6, &[]), with(5, 5, &["moon"])] {
        assert!(!message.contains('\n'));
    }
}

#[test]
fn an_exhausted_grammar_says_how_far_it_goes() {
    let domains = [grammar::parse("tiny.txt", TINY).unwrap()];
    let mut people = grammar::parse_people(PEOPLE.0, PEOPLE.1).unwrap();
    people.first.truncate(1);
    people.last.truncate(CAST);
    let mut writer = Writer {
        seed: 1,
        domains: &domains,
        people: &people,
        passages: Vec::new(),
        facts: HashSet::new(),
        texts: HashSet::new(),
    };
    let error = writer.write_passages(100_000).unwrap_err().to_string();
    // 2 places, 4 things, 12 * 11 ordered pairs who gave, half as many who met.
    let all = 2 * 4 * (132 + 66);
    assert!(
        writer.passages.len() <= all && writer.passages.len() > all * 9 / 10,
        "{error}"
    );
    assert!(
        error.contains(&format!(
            "no more than about {} passages",
            writer.passages.len()
        )),
        "{error}"
    );
}

#[test]
fn broken_grammars_are_named_with_their_line() {
    grammar::parse("tiny.txt", TINY).map(|_| ()).unwrap();
    for (from, to, expected) in [
        (
            "years 1900 1920",
            "years 1900",
            "line 2: expected a first and a last year",
        ),
        (
            "years 1900 1920",
            "years 1900 1905",
            "line 2: expected a first and a last year, 12 years or more",
        ),
        (
            "setting p:place",
            "setting p",
            "line 3: expected NAME:LEXICON, got \"p\"",
        ),
        ("Said {C}.", "Said {C.", "line 6: `{` without `}`"),
        (
            "Said {C}.",
            "Said {A}.",
            "line 6: slot \"A\" has no value here",
        ),
        (
            "- There",
            "- Here",
            "line 9: empty or repeated entry \"Here\"",
        ),
        (
            "- There",
            "",
            "lexicon \"place\" has 1 entries; give at least 2",
        ),
        (
            "swap A B",
            "swap A x",
            "line 16: expected two slots of the frame with one lexicon",
        ),
        ("swap A B", "", "a symmetric state needs a `swap`"),
        (
            "state met symmetric",
            "",
            "a frame with fewer than two states",
        ),
        (
            "p {A} met {B} about {x}.",
            "p {A} met {B}.",
            "line 22: the passage does not tell slot \"x\"",
        ),
        (
            "q Who met {B}?",
            "q Who met {C}?",
            "line 23: slot \"C\" has no value here",
        ),
        ("q Who met {B}?", "", "`p` or `q` of a state missing"),
        ("title {x}", "", "`title` of a frame missing"),
        ("domain tiny", "", "`domain` missing"),
        (
            "domain tiny",
            "donain tiny",
            "line 1: unknown keyword \"donain\"",
        ),
        (
            "adjunct C:person",
            "adjunct x:person",
            "slot \"x\" is declared twice",
        ),
        (
            "lexicon place",
            "p {p}",
            "line 7: \"p\" before the first \"frame\"",
        ),
    ] {
        let text: &'static str = Box::leak(TINY.replace(from, to).into_boxed_str());
        let error = match grammar::parse("tiny.txt", text) {
            Ok(_) => panic!("accepted without {from:?}"),
            Err(error) => error.to_string(),
        };
        assert!(
            error.starts_with("tiny.txt: ") && error.contains(expected),
            "{error}"
        );
    }
    let Err(error) = grammar::parse_people("people.txt", "first\n- Ann\nmiddle\n") else {
        panic!("accepted a keyword that does not exist");
    };
    assert!(error.to_string().contains("line 3"), "{error}");
}

#[test]
fn the_files_are_in_the_order_of_their_names() {
    let domains = chosen_domains(&[]).unwrap();
    let names: Vec<&str> = domains.iter().map(|d| d.name).collect();
    assert_eq!(names, DOMAINS);
}

#[test]
fn built_in_collections_are_large_and_share_nothing() {
    let mut texts = HashSet::new();
    for built_in in COLLECTIONS {
        let collection = built_in.generate(42, 1_000, 500).unwrap();
        assert_eq!(collection.name, built_in.name);
        assert_eq!(
            (collection.corpus.len(), collection.queries.len()),
            (1_000, 500)
        );
        for document in collection.corpus {
            assert!(
                texts.insert(document.text),
                "no passage is in two collections"
            );
        }
        assert_eq!(BuiltIn::named(built_in.name).unwrap(), built_in);
    }
    let domains: HashSet<&str> = COLLECTIONS.iter().flat_map(|c| c.domains).collect();
    assert_eq!(domains.len(), DOMAINS.len());
    assert_eq!(COLLECTIONS.iter().filter(|c| c.held_out).count(), 1);
    assert_eq!(BuiltIn::named("moon").unwrap_err().exit_code(), 2);
}
