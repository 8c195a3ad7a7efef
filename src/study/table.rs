//! Tables of numbers in Markdown. Whatever a title, a heading or a cell says, it stays one: see [`in_markdown`].

use std::fmt::Write as _;

use super::escape::in_markdown;
use crate::metrics::near_miss::Estimate;
use crate::metrics::statistics::Summary;

/// A Markdown table.
pub struct Table {
    /// The heading and the rows so far.
    pub text: String,
}

impl Table {
    /// An empty table under a heading: columns of words, then columns of numbers.
    pub fn new(title: &str, left: &[&str], right: &[String]) -> Self {
        let mut text = format!("\n## {}\n\n", in_markdown(title));
        let right_names = right.iter().map(String::as_str);
        let names = left.iter().copied().chain(right_names).map(in_markdown);
        let _ = writeln!(text, "| {} |", names.collect::<Vec<_>>().join(" | "));
        let marks = left.iter().map(|_| "---");
        let marks = marks.chain(right.iter().map(|_| "---:"));
        let _ = writeln!(text, "| {} |", marks.collect::<Vec<_>>().join(" | "));
        Table { text }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        let cells: Vec<String> = cells.iter().map(|cell| in_markdown(cell)).collect();
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }
}

/// Column headings.
pub fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

/// A number with three decimals; `-` if there is none.
pub fn number(value: Option<f64>) -> String {
    let value = value.filter(|v| v.is_finite());
    value.map_or("-".into(), |v| format!("{v:.3}"))
}

/// Mean and standard deviation; `-` of nothing.
pub fn spread(found: &Summary, digits: usize) -> String {
    match found.n {
        0 => "-".into(),
        _ => format!("{:.digits$} ± {:.digits$}", found.mean, found.std),
    }
}

/// A number that may go either way, with its interval; `-` if it is none.
pub fn signed(estimate: &Estimate, digits: usize) -> String {
    if !estimate.value.is_finite() {
        return "-".into();
    }
    let value = format!("{:+.digits$}", estimate.value);
    match estimate.interval {
        Some([low, high]) => format!("{value} [{low:+.digits$}, {high:+.digits$}]"),
        None => value,
    }
}

/// Mean over seeds; with several of them, the standard deviation beside it.
pub fn over_seeds(values: &[f64]) -> String {
    let found = Summary::of(values);
    match values.len() {
        0 => "-".into(),
        1 => format!("{:.4}", found.mean),
        _ => format!("{:.4} ± {:.4}", found.mean, found.std),
    }
}

/// `before -> after` of a change.
pub fn arrow(before: &str, after: &str) -> String {
    format!("{before} → {after}")
}
