//! Where one kind of models tells near-misses apart better than another, in words.

use super::escape::in_markdown;

/// Where some models tell near-misses apart better than others, and where not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Test sets in which the interval of the change of AUC lies above 0.
    pub better: Vec<&'a TestName>,
    /// Test sets in which it lies below 0.
    pub worse: Vec<&'a TestName>,
    /// The others.
    pub unclear: Vec<&'a TestName>,
}

/// A test set's name, and whether structural rows are made of its templates and words.
pub type TestName = (String, bool);

impl<'a> Verdict<'a> {
    /// From the intervals of a change, one per test set.
    pub fn of(changes: impl IntoIterator<Item = (&'a TestName, Option<[f64; 2]>)>) -> Self {
        let mut verdict = Verdict::default();
        for (name, interval) in changes {
            match interval {
                Some([low, _]) if low > 0.0 => verdict.better.push(name),
                Some([_, high]) if high < 0.0 => verdict.worse.push(name),
                _ => verdict.unclear.push(name),
            }
        }
        verdict
    }

    /// Whether it is better on sentences of the templates and words that it was trained on and nowhere else.
    pub fn only_own_grammar(&self) -> bool {
        let mut others = self.worse.iter().chain(&self.unclear);
        let elsewhere = others.any(|name| !name.1);
        elsewhere && !self.better.is_empty() && self.better.iter().all(|name| name.1)
    }

    /// In a sentence, as Markdown.
    pub fn sentence(&self, before: &str, after: &str) -> String {
        let list = |names: &[&TestName]| {
            let names: Vec<String> = names.iter().map(|(name, _)| in_markdown(name)).collect();
            names.join("; ")
        };
        let mut parts = Vec::new();
        for (what, names) in [
            ("tells near-misses apart better on", &self.better),
            ("worse on", &self.worse),
            ("without a clear change on", &self.unclear),
        ] {
            if !names.is_empty() {
                parts.push(format!("{what} {}", list(names)));
            }
        }
        let own = match self.only_own_grammar() {
            true => {
                " **It improves on its own grammar alone, where templates and words are those that it was trained on.**"
            }
            false => "",
        };
        let [before, after] = [before, after].map(in_markdown);
        format!("{after} beside {before}: {}.{own}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_on_the_own_grammar_alone_is_called_that() {
        let names: Vec<TestName> = [("own", true), ("words", false), ("file", false)]
            .map(|(name, own)| (name.to_string(), own))
            .to_vec();
        let of = |intervals: [Option<[f64; 2]>; 3]| Verdict::of(names.iter().zip(intervals));
        let own = of([Some([0.1, 0.2]), Some([-0.1, 0.1]), Some([-0.2, -0.1])]);
        assert!(own.only_own_grammar());
        let said = own.sentence("A", "B");
        assert!(
            said.contains("better on own, worse on file, without a clear change on words"),
            "{said}"
        );
        assert!(said.contains("alone"));
        let both = of([Some([0.1, 0.2]), Some([0.1, 0.2]), None]);
        assert!(!both.only_own_grammar() && !both.sentence("A", "B").contains("alone"));
        assert!(!of([None; 3]).only_own_grammar());
        // Where nothing else was looked at, nothing is said of elsewhere.
        let alone = Verdict::of(names[..1].iter().zip([Some([0.1, 0.2])]));
        assert!(!alone.only_own_grammar());
    }
}
