//! Token similarity maps to look at: as an SVG picture and as lines for a terminal.

use std::fmt::Write as _;
use std::path::Path;

use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use crate::data::write_atomically;
use crate::error::Result;

/// Side of a cell of the picture, in pixels.
const CELL: usize = 38;

/// Pixels per character of a label, enough for the widest letters of a proportional font on average.
const PER_CHARACTER: usize = 8;

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
}

impl HeatMap {
    /// A self-contained SVG picture.
    pub fn svg(&self) -> String {
        let longest = |labels: &[String]| {
            let lengths = labels.iter().map(|label| label.chars().count());
            lengths.max().unwrap_or(0) * PER_CHARACTER
        };
        let caption = [
            format!(
                "\u{201c}{}\u{201d}  \u{2192}  \u{201c}{}\u{201d}",
                self.texts[0], self.texts[1]
            ),
            self.score_line(),
        ];
        let left = longest(&self.rows) + 24;
        // Labels of columns stand at 45 degrees.
        let top = 50 + longest(&self.columns) * 71 / 100 + 16;
        let wide = CELL * self.columns.len() + longest(&self.columns) * 71 / 100;
        let width = left + wide.max(longest(&caption)).max(680) + 16;
        let height = top + CELL * self.rows.len() + 56;
        let rows: Vec<Value> = (0..self.rows.len())
            .map(|index| {
                context! {
                    index,
                    token => self.rows[index].clone(),
                    winner => self.winners[index],
                    cells => self.row(index).iter().map(|&v| cell(v)).collect::<Vec<Value>>(),
                }
            })
            .collect();
        let scale: Vec<String> = (0..=40)
            .map(|i| hex(colour(i as f32 / 20.0 - 1.0)))
            .collect();
        let mut env = Environment::new();
        env.set_auto_escape_callback(|_| AutoEscape::Html);
        let template = env.template_from_str(include_str!("heat_map.svg"));
        let rendered = template.and_then(|template| {
            template.render(context! {
                width, height, left, top, caption, rows, scale,
                columns => self.columns.clone(),
                cell => CELL,
                query => self.texts[0].clone(),
                document => self.texts[1].clone(),
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

    /// Lines for a terminal at most `width` characters wide, in colour if that is wanted; a winner is marked `*`.
    pub fn text(&self, width: usize, colours: bool) -> String {
        let label = |token: &str| cut(token, COLUMN - 1);
        let margin = self.rows.iter().map(|token| label(token).chars().count());
        let margin = margin.max().unwrap_or(0);
        let at_once = (width.saturating_sub(margin) / COLUMN).max(1);
        let mut out = String::new();
        for first in (0..self.columns.len()).step_by(at_once) {
            let shown = first..(first + at_once).min(self.columns.len());
            let _ = write!(out, "{:margin$}", "");
            for token in &self.columns[shown.clone()] {
                let _ = write!(out, "{:>COLUMN$}", label(token));
            }
            out.push('\n');
            for (i, token) in self.rows.iter().enumerate() {
                let _ = write!(out, "{:>margin$}", label(token));
                for j in shown.clone() {
                    let value = self.row(i)[j];
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
        out
    }

    fn row(&self, index: usize) -> &[f32] {
        let n = self.columns.len();
        &self.map[index * n..(index + 1) * n]
    }

    fn score_line(&self) -> String {
        let scores = self.scores.iter();
        let shown: Vec<String> = scores.map(|(name, v)| format!("{name} {v:.4}")).collect();
        shown.join(" \u{b7} ")
    }
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
        }
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
