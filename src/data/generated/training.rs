//! Questions and passages to train on, from the worlds that training may see.

use super::{
    BuiltIn, COLLECTIONS, Document, Passage, REWORDED_OF_FOUR, Writer, answers, chosen_domains,
    grammar, realise,
};
use crate::data::Category;
use crate::data::triplets::Pair;
use crate::error::{Error, Result};
use crate::random::Stream;

use std::collections::{HashMap, HashSet};

/// Passages of a collection that are kept for testing: it can have so many, and training still sees none of them.
pub const RESERVED: usize = 1_000;

/// `n` questions, each with a passage that answers it, equal parts of every collection that is not
/// [held out](BuiltIn::held_out), in a random order.
///
/// They are about the same worlds as the collections of this seed and share nothing else with these up to [`RESERVED`]
/// passages: no passage tells a fact that one of those tells, and no question is answered by one of those.
///
/// # Errors
/// [`Error::Invalid`] for more than the grammars can write.
pub fn training_pairs(seed: u64, n: usize) -> Result<Vec<Pair>> {
    let open: Vec<BuiltIn> = COLLECTIONS.into_iter().filter(|c| !c.held_out).collect();
    let mut pairs = Vec::with_capacity(n);
    for (i, collection) in open.iter().enumerate() {
        // What does not divide evenly goes to the first.
        let share = n / open.len() + usize::from(i < n % open.len());
        pairs.extend(pairs_of(collection, seed, share)?);
    }
    Stream::new(seed, &["training", "order"], 0).shuffle(&mut pairs);
    Ok(pairs)
}

fn pairs_of(collection: &BuiltIn, seed: u64, n: usize) -> Result<Vec<Pair>> {
    let names = collection.domains.map(String::from);
    let domains = chosen_domains(&names)?;
    let (file, text) = super::PEOPLE;
    let people = grammar::parse_people(file, text)?;
    let mut writer = Writer {
        seed,
        domains: &domains,
        people: &people,
        passages: Vec::new(),
        facts: HashSet::new(),
        texts: HashSet::new(),
    };
    // Some passages have no question of their own. A collection's passages are the first of these.
    writer.write_passages(RESERVED + n + n / 4 + 8)?;
    let passages = &writer.passages;
    let mut reserved: HashMap<_, Vec<&Passage>> = HashMap::new();
    for passage in &passages[..RESERVED] {
        reserved.entry(passage.state()).or_default().push(passage);
    }
    let mut asked = HashSet::new();
    let mut pairs = Vec::with_capacity(n);
    for (i, passage) in (0..).zip(&passages[RESERVED..]) {
        if pairs.len() == n {
            break;
        }
        let fact = &passage.fact;
        let frame = &domains[fact.domain].frames[fact.frame];
        let state = &frame.states[fact.state];
        let mut rng = Stream::new(seed, &["training", "question", collection.name], i);
        let mut templates: Vec<_> = state.questions.iter().collect();
        rng.shuffle(&mut templates);
        for template in templates {
            let text = realise(template, &fact.bindings, |_| {
                rng.below(4) < REWORDED_OF_FOUR
            });
            let mut of_state = reserved.get(&passage.state()).into_iter().flatten();
            let tested = of_state.any(|other| answers(&other.fact, fact, template, frame, state));
            if !tested && asked.insert(text.clone()) {
                pairs.push(Pair {
                    anchor: text,
                    positive: passage.text_for_encoder(),
                    category: Category::parse(collection.name),
                });
                break;
            }
        }
    }
    if pairs.len() < n {
        return Err(Error::Invalid(format!(
            "only {} of the generated passages of {} have a question of their own, {n} were asked for; ask for fewer",
            pairs.len(),
            collection.name
        )));
    }
    Ok(pairs)
}

impl Passage {
    /// Domain, frame and state: what passages that may answer the same question have in common.
    fn state(&self) -> (usize, usize, usize) {
        (self.fact.domain, self.fact.frame, self.fact.state)
    }

    /// As a document has it.
    fn text_for_encoder(&self) -> String {
        let document = Document {
            id: String::new(),
            title: self.title.clone(),
            text: self.text.clone(),
        };
        document.text_for_encoder().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_shares_no_fact_with_what_is_tested() {
        for seed in [42, 7] {
            let pairs = training_pairs(seed, 301).unwrap();
            assert_eq!(pairs.len(), 301);
            assert_eq!(pairs, training_pairs(seed, 301).unwrap());
            let anchors: HashSet<&str> = pairs.iter().map(|p| &p.anchor[..]).collect();
            assert_eq!(anchors.len(), 301);
            let of = |name: &str| pairs.iter().filter(|p| p.category.name() == name).count();
            assert_eq!([of("lighthouse-archive"), of("garden-kitchen")], [151, 150]);
            for (n_passages, n_queries) in [(60, 30), (400, 200), (1_000, 500)] {
                for collection in COLLECTIONS {
                    let test = collection.generate(seed, n_passages, n_queries).unwrap();
                    for document in &test.corpus {
                        let text = document.text_for_encoder();
                        assert!(pairs.iter().all(|p| p.positive != text), "{text}");
                    }
                    for query in &test.queries {
                        assert!(!anchors.contains(&query.text[..]), "{}", query.text);
                    }
                }
            }
        }
        assert_ne!(
            training_pairs(1, 20).unwrap(),
            training_pairs(2, 20).unwrap()
        );
    }

    #[test]
    fn facts_of_training_are_told_nowhere_else() {
        let (file, text) = super::super::PEOPLE;
        let people = grammar::parse_people(file, text).unwrap();
        let domains = chosen_domains(&COLLECTIONS[0].domains.map(String::from)).unwrap();
        let write = |n| {
            let mut writer = Writer {
                seed: 42,
                domains: &domains,
                people: &people,
                passages: Vec::new(),
                facts: HashSet::new(),
                texts: HashSet::new(),
            };
            writer.write_passages(n).unwrap();
            writer.passages
        };
        // A collection's passages are the first of a longer list, and the rest tells other facts.
        let (test, all) = (write(RESERVED), write(RESERVED + 200));
        let facts = |of: &[Passage]| -> Vec<_> { of.iter().map(|p| p.fact.clone()).collect() };
        assert_eq!(facts(&test), facts(&all[..RESERVED]));
        let told: HashSet<_> = facts(&test).into_iter().collect();
        assert!(all[RESERVED..].iter().all(|p| !told.contains(&p.fact)));
    }
}
