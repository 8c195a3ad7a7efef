//! Two-part sentences that probe what an embedding is made of, with everything that can be done to them.
//!
//! [`grid`] is every "the α x and the β y" over a few modifiers and things. [`scenes`] are sentences about two modified
//! things and a relation, each with all the changes that the geometric conditions compare: one sentence has its modifiers
//! exchanged, its relation turned, its meaning negated and negated twice, so that conditions can be counted together.
//!
//! ```
//! use nearmiss::data::probe::scenes;
//! let scene = &scenes(42, 10)[0];
//! assert_ne!(scene.text, scene.rebound);
//! ```

use std::collections::HashSet;

use serde::Serialize;

use crate::metrics::geometry::Cell;
use crate::random::Stream;

/// Modifiers of the grid and of scenes.
const MODIFIERS: [&str; 6] = ["red", "blue", "wooden", "broken", "small", "shiny"];

/// Things that all modifiers go with.
const THINGS: [&str; 6] = ["cup", "box", "chair", "lamp", "bottle", "basket"];

/// What places one thing beside another, with the converse.
const PLACES: [[&str; 2]; 4] = [
    ["above", "below"],
    ["in front of", "behind"],
    ["to the left of", "to the right of"],
    ["under", "on top of"],
];

/// What one thing does to another: base form, third person, participle.
const ACTIONS: [[&str; 3]; 4] = [
    ["hide", "hides", "hidden"],
    ["cover", "covers", "covered"],
    ["support", "supports", "supported"],
    ["block", "blocks", "blocked"],
];

/// Content phrases that a sentence does not hold, per scene.
const FOREIGN: usize = 6;

/// All sentences "the α x and the β y" of two different modifiers and two different things, and where each one's re-bound
/// version "the β x and the α y" is.
#[derive(Clone, Debug)]
pub struct Grid {
    /// The words of every sentence.
    pub cells: Vec<Cell>,
    /// The sentences.
    pub texts: Vec<String>,
    /// Their four words of content, which the re-bound version has too.
    pub words: Vec<[&'static str; 4]>,
    /// For every sentence the number of its re-bound version.
    pub rebound: Vec<usize>,
}

fn phrase(modifier: usize, thing: usize) -> String {
    format!("the {} {}", MODIFIERS[modifier], THINGS[thing])
}

/// The grid over all modifiers and things: 900 sentences.
pub fn grid() -> Grid {
    let mut cells = Vec::new();
    for a in 0..MODIFIERS.len() {
        for b in (0..MODIFIERS.len()).filter(|&b| b != a) {
            for x in 0..THINGS.len() {
                for y in (0..THINGS.len()).filter(|&y| y != x) {
                    cells.push(Cell {
                        modifiers: [a, b],
                        things: [x, y],
                    });
                }
            }
        }
    }
    let text = |cell: &Cell| {
        let [a, b] = [0, 1].map(|i| phrase(cell.modifiers[i], cell.things[i]));
        format!("{a} and {b}")
    };
    let words = |cell: &Cell| {
        let ([a, b], [x, y]) = (cell.modifiers, cell.things);
        [MODIFIERS[a], THINGS[x], MODIFIERS[b], THINGS[y]]
    };
    let rebound = |cell: &Cell| {
        let [a, b] = cell.modifiers;
        let other = Cell {
            modifiers: [b, a],
            things: cell.things,
        };
        let found = cells.iter().position(|cell| *cell == other);
        found.expect("the grid is closed under exchange")
    };
    Grid {
        texts: cells.iter().map(text).collect(),
        words: cells.iter().map(words).collect(),
        rebound: cells.iter().map(rebound).collect(),
        cells,
    }
}

/// A sentence about two things and what has been done to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scene {
    /// The sentence.
    pub text: String,
    /// Its two content phrases.
    pub parts: [String; 2],
    /// Content phrases that share no word with it but articles.
    pub foreign: Vec<String>,
    /// The same meaning: the converse relation, or the passive voice.
    pub paraphrase: String,
    /// The modifiers exchanged.
    pub rebound: String,
    /// The things exchanged in the relation and, of places, the opposite relation.
    pub related: Vec<String>,
    /// Its negation.
    pub negation: String,
    /// The denial of its negation.
    pub double_negation: String,
    /// A scene of other modifiers and things, in another relation.
    pub unrelated: String,
}

/// What two things have to do with one another.
#[derive(Clone, Copy, PartialEq)]
enum Relation {
    /// Number in [`PLACES`], and which of the two.
    Place(usize, usize),
    /// Number in [`ACTIONS`].
    Action(usize),
}

impl Relation {
    fn draw(stream: &mut Stream) -> Self {
        match stream.below(2 * PLACES.len() + ACTIONS.len()) {
            i if i < 2 * PLACES.len() => Relation::Place(i / 2, i % 2),
            i => Relation::Action(i - 2 * PLACES.len()),
        }
    }

    fn says(self, a: &str, b: &str) -> String {
        match self {
            Relation::Place(i, side) => format!("{a} is {} {b}", PLACES[i][side]),
            Relation::Action(i) => format!("{a} {} {b}", ACTIONS[i][1]),
        }
    }

    fn denies(self, a: &str, b: &str) -> String {
        match self {
            Relation::Place(i, side) => format!("{a} is not {} {b}", PLACES[i][side]),
            Relation::Action(i) => format!("{a} does not {} {b}", ACTIONS[i][0]),
        }
    }

    /// The same from the other thing's side.
    fn paraphrase(self, a: &str, b: &str) -> String {
        match self {
            Relation::Place(i, side) => Relation::Place(i, 1 - side).says(b, a),
            Relation::Action(i) => format!("{b} is {} by {a}", ACTIONS[i][2]),
        }
    }

    fn same_words(self, other: Self) -> bool {
        match (self, other) {
            (Relation::Place(i, _), Relation::Place(j, _)) => i == j,
            _ => self == other,
        }
    }
}

/// At most `n` different scenes. The numbers of a scene depend on the seed and its position alone.
pub fn scenes(seed: u64, n: usize) -> Vec<Scene> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    // The grammar has 10,800 scenes; drawing ten times as often as asked finds as many as it holds.
    for attempt in 0..10 * n as u64 {
        if found.len() == n {
            break;
        }
        let scene = scene(&mut Stream::new(seed, &["scene"], attempt));
        if seen.insert(scene.text.clone()) {
            found.push(scene);
        }
    }
    found
}

fn scene(stream: &mut Stream) -> Scene {
    let mut order = |n: usize| {
        let mut numbers: Vec<usize> = (0..n).collect();
        stream.shuffle(&mut numbers);
        numbers
    };
    let (m, t) = (order(MODIFIERS.len()), order(THINGS.len()));
    let relation = Relation::draw(stream);
    let mut other = Relation::draw(stream);
    while relation.same_words(other) {
        other = Relation::draw(stream);
    }
    let (a, b) = (phrase(m[0], t[0]), phrase(m[1], t[1]));
    let mut related = vec![relation.says(&b, &a)];
    if let Relation::Place(i, side) = relation {
        related.push(Relation::Place(i, 1 - side).says(&a, &b));
    }
    let negation = relation.denies(&a, &b);
    let foreign = m[2..]
        .iter()
        .flat_map(|&m| t[2..].iter().map(move |&t| phrase(m, t)));
    let mut foreign: Vec<String> = foreign.collect();
    stream.shuffle(&mut foreign);
    foreign.truncate(FOREIGN);
    Scene {
        text: relation.says(&a, &b),
        foreign,
        paraphrase: relation.paraphrase(&a, &b),
        rebound: relation.says(&phrase(m[1], t[0]), &phrase(m[0], t[1])),
        related,
        double_negation: format!("it is not true that {negation}"),
        negation,
        unrelated: other.says(&phrase(m[2], t[2]), &phrase(m[3], t[3])),
        parts: [a, b],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::edits::words;

    #[test]
    fn the_grid_is_full_and_rebinding_undoes_itself() {
        let grid = grid();
        assert_eq!(grid.texts.len(), 30 * 30);
        let distinct: HashSet<&String> = grid.texts.iter().collect();
        assert_eq!(distinct.len(), grid.texts.len());
        assert_eq!(grid.texts[0], "the red cup and the blue box");
        assert_eq!(grid.texts[grid.rebound[0]], "the blue cup and the red box");
        for (i, &other) in grid.rebound.iter().enumerate() {
            assert_eq!(grid.rebound[other], i);
            let sorted = |text: &str| {
                let mut words = words(text);
                words.sort();
                words
            };
            assert_eq!(sorted(&grid.texts[i]), sorted(&grid.texts[other]));
        }
    }

    #[test]
    fn scenes_are_what_they_say() {
        let found = scenes(42, 300);
        assert_eq!(found.len(), 300);
        assert_eq!(found[..20], scenes(42, 20));
        assert_ne!(found[..20], scenes(43, 20));
        for scene in &found {
            let own: HashSet<String> = words(&scene.text).into_iter().collect();
            let content = |text: &str| {
                let words = words(text).into_iter();
                words
                    .filter(|w| !["the", "is"].contains(&&w[..]))
                    .collect::<HashSet<_>>()
            };
            for phrase in &scene.foreign {
                assert!(content(phrase).is_disjoint(&own), "{scene:?}");
            }
            assert_eq!(scene.foreign.len(), FOREIGN);
            let things: HashSet<&str> = THINGS.into_iter().chain(MODIFIERS).collect();
            let shared = content(&scene.unrelated);
            assert!(
                shared
                    .iter()
                    .all(|w| !(own.contains(w) && things.contains(&w[..])))
            );
            let mut all: Vec<&String> = vec![&scene.text, &scene.paraphrase, &scene.rebound];
            all.extend([&scene.negation, &scene.double_negation, &scene.unrelated]);
            all.extend(&scene.related);
            let distinct: HashSet<&String> = all.iter().copied().collect();
            assert_eq!(distinct.len(), all.len(), "{scene:?}");
        }
    }

    #[test]
    fn scenes_read_as_meant() {
        let place = Relation::Place(0, 0);
        assert_eq!(
            place.says("the red cup", "the blue box"),
            "the red cup is above the blue box"
        );
        assert_eq!(
            place.paraphrase("the red cup", "the blue box"),
            "the blue box is below the red cup"
        );
        let action = Relation::Action(0);
        assert_eq!(
            action.paraphrase("the lamp", "the chair"),
            "the chair is hidden by the lamp"
        );
        assert_eq!(
            action.denies("the lamp", "the chair"),
            "the lamp does not hide the chair"
        );
    }
}
