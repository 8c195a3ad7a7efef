use std::collections::BTreeSet;

use super::*;

fn full() -> EditSet {
    let options = Options {
        per_category: 500,
        ..Options::default()
    };
    generate(&options).unwrap()
}

fn small(per_category: usize, splits: &[Split]) -> EditSet {
    let options = Options {
        per_category,
        splits: splits.to_vec(),
        ..Options::default()
    };
    generate(&options).unwrap()
}

#[test]
fn every_anchor_has_a_near_miss_and_controls() {
    let set = full();
    assert_eq!(set.anchors.len(), 500 * 5 * 5);
    for anchor in &set.anchors {
        use Kind::{Function, Identity, NearMiss, Paraphrase, Unrelated};
        for kind in [NearMiss, Paraphrase, Function, Identity, Unrelated] {
            assert!(anchor.variant(kind).is_some(), "{kind:?}: {anchor:?}");
        }
        for variant in &anchor.variants {
            let same = variant.text == anchor.text;
            assert_eq!(same, variant.kind == Identity, "{anchor:?}");
        }
        let texts: BTreeSet<&str> = anchor.variants.iter().map(|v| &v.text[..]).collect();
        assert_eq!(texts.len(), anchor.variants.len(), "{anchor:?}");
    }
    let synonyms = set
        .anchors
        .iter()
        .filter(|a| a.variant(Kind::Synonym).is_some());
    let share = synonyms.count() as f64 / set.anchors.len() as f64;
    assert!(share > 0.5, "{share}");
}

#[test]
fn splits_share_no_anchor_and_no_near_miss_of_one() {
    let set = full();
    let of = |split: Split| -> BTreeSet<&str> {
        set.anchors
            .iter()
            .filter(|a| a.split == split)
            .map(|a| &a.text[..])
            .collect()
    };
    for (i, a) in Split::ALL.into_iter().enumerate() {
        for b in &Split::ALL[i + 1..] {
            assert!(of(a).is_disjoint(&of(*b)), "{a:?} {b:?}");
        }
    }
    for split in [Split::Train, Split::Calibration, Split::Test] {
        let own = of(split);
        let others = set
            .anchors
            .iter()
            .filter(|a| a.split != split && a.split <= Split::Test);
        for other in others {
            let near = &other.variant(Kind::NearMiss).unwrap().text[..];
            assert!(!own.contains(near), "{split:?}: {other:?}");
        }
    }
}

#[test]
fn unseen_templates_and_words_are_unseen() {
    let set = full();
    let frames = |wanted: &dyn Fn(Split) -> bool| -> BTreeSet<&str> {
        set.anchors
            .iter()
            .filter(|a| wanted(a.split))
            .map(|a| a.frame)
            .collect()
    };
    let held = frames(&|split| split == Split::TestTemplates);
    assert_eq!(held.len(), 5, "one for each category");
    assert!(held.is_disjoint(&frames(&|split| split != Split::TestTemplates)));

    // Every anchor of unseen words holds at least one word that no other split has in any anchor.
    let usual: BTreeSet<String> = set
        .anchors
        .iter()
        .filter(|a| a.split != Split::TestWords)
        .flat_map(|a| words(&a.text))
        .collect();
    for anchor in set.anchors.iter().filter(|a| a.split == Split::TestWords) {
        let new = words(&anchor.text)
            .into_iter()
            .any(|word| !usual.contains(&word));
        // Phrases made of usual words: relations, quantifiers, phrasal verbs.
        let phrases = ["on top of", "ahead of", "hardly any", "to the east of"];
        let text = anchor.text.to_lowercase();
        assert!(
            new || phrases.iter().any(|p| text.contains(p)),
            "{anchor:?}"
        );
    }
}

#[test]
fn the_same_options_give_the_same_sentences() {
    let small_set = small(20, &[Split::Test]);
    assert_eq!(small_set, small(20, &[Split::Test]));
    // More of another split changes nothing here but the unrelated sentences' neighbours: none, they are of this split.
    let both = small(20, &[Split::Train, Split::Test]);
    assert_eq!(both.anchors[100..], small_set.anchors[..]);
    // More of this split only adds.
    let more = small(30, &[Split::Test]);
    let texts = |set: &EditSet| -> BTreeSet<String> {
        set.anchors.iter().map(|a| a.text.clone()).collect()
    };
    assert!(texts(&more).is_superset(&texts(&small_set)));
    let other = Options {
        seed: 7,
        per_category: 20,
        splits: vec![Split::Test],
        ..Options::default()
    };
    assert_ne!(generate(&other).unwrap(), small_set);
}

#[test]
fn sentences_are_written_as_english_is() {
    for anchor in full().anchors {
        for text in anchor
            .variants
            .iter()
            .map(|v| &v.text)
            .chain([&anchor.text])
        {
            let lower = text.to_lowercase();
            assert!(
                text.ends_with('.') && !text.contains("  ") && !text.contains(['{', '|']),
                "{text}"
            );
            assert!(text.starts_with(|c: char| c.is_uppercase()), "{text}");
            for pair in lower.split_whitespace().collect::<Vec<_>>().windows(2) {
                let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
                assert!(pair[0] != "a" || !vowel, "{text}");
                assert!(pair[0] != "an" || vowel, "{text}");
                assert_ne!(pair[0], pair[1], "{text}");
            }
        }
    }
}

#[test]
fn edits_say_what_changed() {
    let found = edit("The dog bites the man.", "The man bites the dog.");
    let expected = Edit {
        from: "dog bites the man.".into(),
        to: "man bites the dog.".into(),
        position: 1,
        size: 2,
    };
    assert_eq!(found, expected);
    let found = edit("It can run.", "It cannot run.");
    assert_eq!(
        (&found.from[..], &found.to[..], found.size),
        ("can", "cannot", 1)
    );
    assert_eq!(edit("a b", "a b c").to, "c");
    assert_eq!(edit("a a", "a a a").from, "");
}

#[test]
fn summaries_count() {
    let set = small(10, &[Split::Train, Split::TestWords]);
    let summary = set.summary();
    assert_eq!(summary.len(), 10);
    for row in &summary {
        assert_eq!(row.anchors, 10);
        assert!(row.controls >= 20 && row.controls <= 30);
        assert!(row.near_miss_size >= 1.0 && row.length >= 6.0, "{row:?}");
    }
}

#[test]
fn csv_holds_every_variant() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edits.csv");
    let set = small(3, &[Split::Test]);
    set.write_csv(&path).unwrap();
    let mut reader = csv::Reader::from_path(&path).unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let variants: usize = set.anchors.iter().map(|a| a.variants.len()).sum();
    assert_eq!(rows.len(), variants);
    assert_eq!(&rows[0][0], set.anchors[0].text);
    assert_eq!(&rows[0][2], "near_miss");
}

#[test]
fn too_much_is_refused_in_one_line() {
    let refused = |options: Options| {
        let error = generate(&options).unwrap_err().to_string();
        assert!(!error.contains('\n'));
        error
    };
    let none = refused(Options {
        per_category: 0,
        ..Options::default()
    });
    assert!(none.contains("at least one"), "{none}");
    let other = refused(Options {
        categories: vec![Category::Other("irony".into())],
        ..Options::default()
    });
    assert!(other.contains("irony"), "{other}");
    let much = refused(Options {
        per_category: 100_000,
        splits: vec![Split::TestWords],
        categories: vec![Category::Spatial],
        ..Options::default()
    });
    assert!(much.contains("ask for fewer"), "{much}");
}
