//! Token similarity maps to look at: as an SVG picture and as lines for a terminal.

use std::fmt::Write as _;
use std::path::Path;

use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use crate::data::write_atomically;
use crate::error::Result;
use crate::study::escape;
use crate::verifier::Verdict;

/// Side of a cell of the picture, in pixels.
const CELL: usize = 38;

/// Pixels per character of a label, enough for the widest letters of a proportional font on average.
const PER_CHARACTER: usize = 8;

/// Pixels below a panel.
const BELOW: usize = 56;

/// Cells of a map that are listed as those that a score rests on.
const LISTED: usize = 10;

/// Most characters of a text in the caption of a picture.
const CAPTION: usize = 160;

/// Characters of a column in a terminal.
const COLUMN: usize = 9;

/// Colours for cosines from -1 to 1: warm below zero, blue above, white at zero.
const COLOURS: [(f32, [u8; 3]); 7] = [
    (-1.0, [127, 59, 8]),
    (-0.5, [253, 184, 99]),
    (0.0, [255, 255, 255]),
    (0.25, [222, 235, 247]),
    (0.5, [158, 202, 225]),
    (0.75, [49, 130, 189]),
    (1.0, [8, 48, 107]),
];

/// A similarity map with its labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeatMap {
    /// The two texts.
    pub texts: [String; 2],
    /// Tokens of the first text, one per row.
    pub rows: Vec<String>,
    /// Tokens of the second text, one per column.
    pub columns: Vec<String>,
    /// Cosines, `[rows, columns]`.
    pub map: Vec<f32>,
    /// Per row the column with the largest cosine.
    pub winners: Vec<Option<usize>>,
    /// Name and value of what scores the pair.
    pub scores: Vec<(String, f64)>,
    /// What the score of a learned verifier rests on, if there is one.
    pub rests: Option<Rests>,
}

/// What the score of a learned verifier rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rests {
    /// Its name among the scores.
    pub name: String,
    /// What it says of the pair, if it has a threshold.
    pub verdict: Option<Verdict>,
    /// The slope of the raw score in every cosine, times the cosine, `[rows, columns]`; empty if it reads no map.
    pub contributions: Vec<f32>,
}

impl Rests {
    /// The largest contribution whatever its sign.
    fn largest(&self) -> f32 {
        let sizes = self.contributions.iter().map(|v| v.abs());
        sizes.fold(0.0, f32::max)
    }
}

impl HeatMap {
    /// A self-contained SVG picture. Texts are cut where they are longer than a caption.
    pub fn svg(&self) -> String {
        let [query, document] = [0, 1].map(|i| cut(&escape::line(&self.texts[i]), CAPTION));
        let longest = |labels: &[String]| {
            let lengths = labels.iter().map(|label| label.chars().count());
            lengths.max().unwrap_or(0) * PER_CHARACTER
        };
        let caption = [
            format!("\u{201c}{query}\u{201d}  \u{2192}  \u{201c}{document}\u{201d}"),
            self.score_line(),
        ];
        let [rows, columns] = [&self.rows, &self.columns].map(|labels| shown(labels));
        let left = longest(&rows) + 24;
        // Labels of columns stand at 45 degrees.
        let slanted = longest(&columns) * 71 / 100;
        let wide = CELL * self.columns.len() + slanted;
        let mut height = 50;
        let mut panel = |cells: &dyn Fn(usize) -> Vec<Value>, winners: bool, note: String| {
            let top = height + slanted + 16;
            height = top + CELL * self.rows.len() + BELOW;
            let rows = (0..self.rows.len()).map(|index| {
                context! {
                    index,
                    token => rows[index].clone(),
                    winner => self.winners[index].filter(|_| winners),
                    cells => cells(index),
                }
            });
            context! { top, note, rows => rows.collect::<Vec<Value>>() }
        };
        let cosines = |index: usize| {
            self.row(&self.map, index)
                .iter()
                .map(|&v| cell(v))
                .collect()
        };
        let note = "cosine from -1 to 1; outlined: the token of the second text that answers a token of the first best (MaxSim)";
        let mut panels = vec![panel(&cosines, true, note.into())];
        // In small letters.
        let mut notes = 680;
        if let Some(rests) = self.rests.as_ref().filter(|rests| rests.largest() > 0.0) {
            let largest = rests.largest();
            let shares = |index: usize| {
                let row = self.row(&rests.contributions, index).iter();
                row.map(|&v| share(v, largest)).collect()
            };
            let note = format!(
                "what the score of {} rests on: its slope in the cosine times the cosine, in percent of the largest ({largest:.3e}); blue raises the score",
                rests.name
            );
            notes = note.chars().count() * 6;
            panels.push(panel(&shares, false, note));
        }
        let width = left + wide.max(longest(&caption)).max(notes) + 16;
        let scale: Vec<String> = (0..=40)
            .map(|i| hex(colour(i as f32 / 20.0 - 1.0)))
            .collect();
        let mut env = Environment::new();
        env.set_auto_escape_callback(|_| AutoEscape::Html);
        let template = env.template_from_str(include_str!("heat_map.svg"));
        let rendered = template.and_then(|template| {
            template.render(context! {
                width, height, left, caption, panels, scale,
                columns => columns,
                cell => CELL,
                query => query,
                document => document,
            })
        });
        rendered.expect("the template and its values are the program's own")
    }

    /// Writes [`HeatMap::svg`] to a file, which is complete or absent.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) naming the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, |file| file.write_all(self.svg().as_bytes()))
    }

    /// Verdict of the verifier and the cells that its score rests on most, as lines.
    fn rests_lines(&self) -> String {
        let mut out = String::new();
        let Some(rests) = &self.rests else {
            return out;
        };
        if let Some(verdict) = rests.verdict {
            let says = if verdict.accepted { "accept" } else { "reject" };
            let _ = writeln!(
                out,
                "{}: {says} (score {:.4}, threshold {:.4})",
                rests.name, verdict.score, verdict.threshold
            );
        }
        if rests.largest() == 0.0 {
            return out;
        }
        let mut cells: Vec<usize> = (0..rests.contributions.len()).collect();
        let size = |cell: usize| rests.contributions[cell].abs();
        cells.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
        let n = self.columns.len();
        let _ = writeln!(
            out,
            "\nwhat its score rests on most (slope in the cosine, times the cosine):\n{:<16}{:<16}{:>8}{:>14}",
            "token", "token", "cosine", "contribution"
        );
        for &at in cells.iter().take(LISTED) {
            let tokens = [&self.rows[at / n], &self.columns[at % n]];
            let [row, column] = tokens.map(|token| cut(&escape::line(token), 15));
            let _ = writeln!(
                out,
                "{row:<16}{column:<16}{:>8.2}{:>+14.4}",
                self.map[at], rests.contributions[at]
            );
        }
        out
    }

    /// Lines for a terminal at most `width` characters wide, in colour if that is wanted; a winner is marked `*`.
    pub fn text(&self, width: usize, colours: bool) -> String {
        let label = |token: &str| cut(token, COLUMN - 1);
        let [rows, columns] = [&self.rows, &self.columns].map(|labels| shown(labels));
        let margin = rows.iter().map(|token| label(token).chars().count());
        let margin = margin.max().unwrap_or(0);
        let at_once = (width.saturating_sub(margin) / COLUMN).max(1);
        let mut out = String::new();
        for first in (0..self.columns.len()).step_by(at_once) {
            let shown = first..(first + at_once).min(self.columns.len());
            let _ = write!(out, "{:margin$}", "");
            for token in &columns[shown.clone()] {
                let _ = write!(out, "{:>COLUMN$}", label(token));
            }
            out.push('\n');
            for (i, token) in rows.iter().enumerate() {
                let _ = write!(out, "{:>margin$}", label(token));
                for j in shown.clone() {
                    let value = self.row(&self.map, i)[j];
                    let mark = if self.winners[i] == Some(j) { '*' } else { ' ' };
                    let number = format!("{value:.2}{mark}");
                    if colours {
                        let [r, g, b] = colour(value);
                        let ink = if dark([r, g, b]) { 231 } else { 16 };
                        let _ = write!(
                            out,
                            "\x1b[48;2;{r};{g};{b}m\x1b[38;5;{ink}m{number:>COLUMN$}\x1b[0m"
                        );
                    } else {
                        let _ = write!(out, "{number:>COLUMN$}");
                    }
                }
                out.push('\n');
            }
            out.push('\n');
        }
        let _ = writeln!(out, "{}", self.score_line());
        out + &self.rests_lines()
    }

    /// A row of values that are one a cell.
    fn row<'a>(&self, values: &'a [f32], index: usize) -> &'a [f32] {
        let n = self.columns.len();
        &values[index * n..(index + 1) * n]
    }

    fn score_line(&self) -> String {
        let scores = self.scores.iter();
        let shown: Vec<String> = scores.map(|(name, v)| format!("{name} {v:.4}")).collect();
        shown.join(" \u{b7} ")
    }
}

/// Labels as they can be shown.
fn shown(labels: &[String]) -> Vec<String> {
    let labels = labels.iter();
    labels
        .map(|label| escape::line(label).into_owned())
        .collect()
}

/// The first characters of a label that is too long, and a sign that there were more.
fn cut(label: &str, most: usize) -> String {
    if label.chars().count() <= most {
        return label.to_string();
    }
    label.chars().take(most - 1).chain(['\u{2026}']).collect()
}

fn cell(value: f32) -> Value {
    let fill = colour(value);
    context! {
        ink => if dark(fill) { "#ffffff" } else { "#222222" },
        fill => hex(fill),
        shown => format!("{value:.2}"),
        exact => format!("{value:.4}"),
    }
}

/// A cell of contributions: in percent of the largest.
fn share(value: f32, largest: f32) -> Value {
    let fill = colour(value / largest);
    context! {
        ink => if dark(fill) { "#ffffff" } else { "#222222" },
        fill => hex(fill),
        shown => format!("{:.0}", 100.0 * value / largest),
        exact => format!("{value:+.3e}"),
    }
}

/// The colour of a cosine, between the two nearest of [`COLOURS`].
fn colour(value: f32) -> [u8; 3] {
    let value = value.clamp(-1.0, 1.0);
    let above = COLOURS.iter().position(|&(at, _)| at >= value).unwrap_or(0);
    let ((low, from), (high, to)) = (COLOURS[above.saturating_sub(1)], COLOURS[above]);
    let share = if high > low {
        (value - low) / (high - low)
    } else {
        0.0
    };
    let blend = |i: usize| {
        let (from, to) = (f32::from(from[i]), f32::from(to[i]));
        (from + share * (to - from)).round() as u8
    };
    [blend(0), blend(1), blend(2)]
}

/// Whether white reads better on a colour than black (relative luminance, ITU-R BT.709 weights).
fn dark([r, g, b]: [u8; 3]) -> bool {
    0.2126 * f32::from(r) + 0.7152 * f32::from(g) + 0.0722 * f32::from(b) < 140.0
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> HeatMap {
        HeatMap {
            texts: ["a <b>".into(), "c & \"d\"".into()],
            rows: vec!["a".into(), "<b>".into()],
            columns: vec!["c".into(), "&".into(), "extraordinary".into()],
            map: vec![0.25, 0.5, -0.125, 1.0, 0.0, 0.75],
            winners: vec![Some(1), Some(0)],
            scores: vec![("f1".into(), 0.75)],
            rests: None,
        }
    }

    #[test]
    fn what_a_score_rests_on_is_a_panel_and_a_list() {
        let verdict = Verdict {
            score: 0.25,
            threshold: 0.5,
            accepted: false,
        };
        let mut map = map();
        map.rests = Some(Rests {
            name: "verifier f4".into(),
            verdict: Some(verdict),
            contributions: vec![0.1, -0.4, 0.0, 0.2, 0.05, 0.01],
        });
        let svg = map.svg();
        assert_eq!(svg.matches("stroke=\"#ffffff\"").count(), 12, "cells");
        assert_eq!(svg.matches("stroke=\"#d9480f\"").count(), 2, "winners");
        assert!(svg.contains(">-100<") && svg.contains(">50<"), "{svg}");
        assert!(
            svg.contains("what the score of verifier f4 rests on"),
            "{svg}"
        );
        let text = map.text(80, false);
        assert!(
            text.contains("verifier f4: reject (score 0.2500, threshold 0.5000)"),
            "{text}"
        );
        let first = text
            .lines()
            .skip_while(|line| !line.starts_with("token"))
            .nth(1);
        let expected = "a               &                   0.50       -0.4000";
        assert_eq!(first, Some(expected));
        // One that reads no map has a verdict and no more.
        map.rests.as_mut().unwrap().contributions.clear();
        assert_eq!(map.svg().matches("stroke=\"#ffffff\"").count(), 6);
        assert!(!map.text(80, false).contains("rests"));
    }

    #[test]
    fn the_picture_is_escaped_and_complete() {
        let svg = map().svg();
        assert!(!svg.contains("<b>") && svg.contains("&lt;b&gt;") && svg.contains("&amp;"));
        assert_eq!(svg.matches("stroke=\"#ffffff\"").count(), 6, "cells");
        assert_eq!(svg.matches("stroke=\"#d9480f\"").count(), 2, "winners");
        // The first winner is in row 0, column 1.
        let (left, top) = (
            3 * PER_CHARACTER + 24,
            50 + 13 * PER_CHARACTER * 71 / 100 + 16,
        );
        let outline = format!(
            "<rect x=\"{}.5\" y=\"{}.5\" width=\"35\"",
            left + CELL + 1,
            top + 1
        );
        assert!(svg.contains(&outline), "{outline}\n{svg}");
        assert!(svg.contains("-0.12<") && svg.contains("-0.1250") && svg.contains("f1 0.7500"));
    }

    /// What is wrong with a text as XML 1.0, by hand: characters, references, and elements that are closed in order.
    fn ill_formed(xml: &str) -> Option<String> {
        let legal = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
        if let Some(c) = xml.chars().find(|&c| !legal(c)) {
            return Some(format!("character {c:?}"));
        }
        let reference = |rest: &str| {
            let name = rest.split_once(';').map_or("", |(name, _)| name);
            ["amp", "lt", "gt", "quot", "apos"].contains(&name)
                || name
                    .strip_prefix("#x")
                    .is_some_and(|n| u32::from_str_radix(n, 16).is_ok())
                || name
                    .strip_prefix('#')
                    .is_some_and(|n| n.parse::<u32>().is_ok())
        };
        if let Some(part) = xml.split('&').skip(1).find(|rest| !reference(rest)) {
            return Some(format!("& of {part:?}"));
        }
        let mut open = Vec::new();
        for piece in xml.split('<').skip(1) {
            let Some((tag, text)) = piece.split_once('>') else {
                return Some(format!("tag {piece:?}"));
            };
            if text.contains("]]>") {
                return Some("]]>".into());
            }
            let name = |tag: &str| {
                tag.split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_string()
            };
            match tag.strip_prefix('/') {
                Some(closed) if open.pop() != Some(closed.to_string()) => {
                    return Some(format!("end of {closed}"));
                }
                Some(_) => {}
                None if tag.matches('"').count() % 2 == 1 => {
                    return Some(format!("quotes of {tag}"));
                }
                None if tag.ends_with('/') => {}
                None => open.push(name(tag)),
            }
        }
        (!open.is_empty()).then(|| format!("{open:?} stay open"))
    }

    #[test]
    fn pictures_and_lines_stand_odd_texts() {
        assert_eq!(ill_formed("<a b=\"c\"><d/>&amp;</a>"), None);
        for bad in [
            "<a>",
            "<a></b>",
            "<a>&</a>",
            "<a>\u{1b}</a>",
            "<a b=\"></a>",
            "<a",
        ] {
            assert!(ill_formed(bad).is_some(), "{bad}");
        }
        for text in crate::study::escape::tests::odd_texts().step_by(3) {
            let mut map = map();
            map.texts = [text.clone(), format!("{text}{text}")];
            map.rows[1].clone_from(&text);
            map.columns[1].clone_from(&text);
            map.rests = Some(Rests {
                name: "verifier f4".into(),
                verdict: None,
                contributions: vec![0.1, -0.4, 0.0, 0.2, 0.05, 0.01],
            });
            assert_eq!(ill_formed(&map.svg()), None, "{text:?}");
            let lines = map.text(80, false);
            assert!(
                !lines.chars().any(|c| c.is_control() && c != '\n'),
                "{text:?}"
            );
            assert_eq!(lines.lines().count(), map_lines(), "{text:?}");
        }
    }

    /// Lines of [`map`] with what a score rests on.
    fn map_lines() -> usize {
        let (head, rows, empty, scores) = (1, 2, 1, 1);
        let (before, title, cells) = (1, 2, 6);
        head + rows + empty + scores + before + title + cells
    }

    #[test]
    fn a_picture_of_huge_texts_has_a_caption_of_its_width() {
        let mut map = map();
        map.texts = ["a ".repeat(1 << 20), "b".repeat(1 << 20)];
        let svg = map.svg();
        assert!(svg.len() < 20_000, "{}", svg.len());
    }

    #[test]
    fn lines_are_cut_to_the_width_and_mark_winners() {
        let text = map().text(80, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "           c        & extraor\u{2026}");
        assert_eq!(lines[1], "  a    0.25     0.50*   -0.12 ");
        assert_eq!(lines[2], "<b>    1.00*    0.00     0.75 ");
        assert_eq!(*lines.last().unwrap(), "f1 0.7500");
        let narrow = map().text(22, false);
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 22),
            "{narrow}"
        );
        assert_eq!(narrow.matches('*').count(), 2);
        assert_eq!(map().text(80, true).matches("\x1b[0m").count(), 6);
    }

    #[test]
    fn colours_meet_their_stops() {
        for (value, expected) in COLOURS {
            assert_eq!(colour(value), expected);
        }
        assert_eq!(colour(7.0), COLOURS[6].1);
        assert_eq!(colour(-0.25), [254, 220, 177]);
        assert!(dark(colour(1.0)) && !dark(colour(0.2)));
    }
}
