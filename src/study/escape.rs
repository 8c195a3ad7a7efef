//! Texts of others (names of files, categories, sources, sentences) in what is written and shown: one function a format, so
//! that a table stays a table, a line a line, and nothing that a file says moves a terminal's cursor.
//!
//! | for | what becomes of a text |
//! | --- | --- |
//! | [`line()`] | one line without hidden characters; XML takes it as it is, once `<`, `&` and quotes are escaped |
//! | [`lines`] | the same, but line ends and tabs stay |
//! | [`in_markdown`] | a line that Markdown shows as it is, in a cell of a table too |
//! | [`json`] | JSON of the same meaning without invisible characters |
//! | [`file_name`] | part of the name of a file |

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character moves the cursor, is not seen, or turns the order of others: controls (C0, C1), separators of lines,
/// marks of direction, spaces without width, byte order marks, tags, and what is no character.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
        || u32::from(c) & 0xfffe == 0xfffe
        || ('\u{fdd0}'..='\u{fdef}').contains(&c)
}

/// Whether a joiner stands where scripts and pictures need it: between two characters that are not ASCII.
fn joins(before: Option<char>, c: char, after: Option<char>) -> bool {
    let wide = |c: Option<char>| c.is_some_and(|c| !c.is_ascii() && !hidden(c));
    matches!(c, '\u{200c}' | '\u{200d}') && wide(before) && wide(after)
}

/// `text` with every hidden character that `keep` does not keep written as `\u{...}`; white space that ends lines or
/// moves to a column is a space.
fn shown(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| hidden(c) && !keep(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut before = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let after = rest.clone().next();
        match c {
            _ if !hidden(c) || keep(c) || joins(before, c, after) => out.push(c),
            // The first half of a line's end.
            '\r' if after == Some('\n') => {}
            '\n' | '\r' | '\t' => out.push(' '),
            _ => {
                let _ = write!(out, "{}", c.escape_unicode());
            }
        }
        before = Some(c);
    }
    Cow::Owned(out)
}

/// One line, in which line ends and tabs are spaces and other hidden characters are written as `\u{...}`.
///
/// ```
/// use nearmiss::study::escape::line;
/// assert_eq!(line("a\nb\t\u{1b}[31m"), "a b \\u{1b}[31m");
/// ```
pub fn line(text: &str) -> Cow<'_, str> {
    shown(text, |_| false)
}

/// [`line()`] of a text of several lines, which it stays.
pub fn lines(text: &str) -> Cow<'_, str> {
    shown(text, |c| matches!(c, '\n' | '\t'))
}

/// One line that Markdown shows as [`line()`] is: nothing in it ends a cell or begins code, a tag, an entity, a link or
/// emphasis. `_` within words stays as it is, and so does `(*)`.
///
/// ```
/// use nearmiss::study::escape::in_markdown;
/// assert_eq!(in_markdown("a|b\\ `c` <d> snake_case"), "a\\|b\\\\ \\`c\\` \\<d> snake_case");
/// ```
pub fn in_markdown(text: &str) -> String {
    let text = line(text);
    let mut out = String::with_capacity(text.len());
    let mut before: Option<char> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let after = rest.clone().next();
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let special = match c {
            '\\' | '|' | '`' | '<' | '~' => true,
            '&' => begins_entity(rest.as_str()),
            '*' => [before, after] != [Some('('), Some(')')],
            '_' => !(word(before) && word(after)),
            '(' => before == Some(']'),
            _ => false,
        };
        if special {
            out.push('\\');
        }
        out.push(c);
        before = Some(c);
    }
    out
}

/// Whether what follows an ampersand makes a character of it, as `amp;` and `#38;` do.
fn begins_entity(rest: &str) -> bool {
    let name = rest.split(';').next().unwrap_or_default();
    let inside = |c: char| c == '#' || c.is_ascii_alphanumeric();
    name.len() < rest.len() && !name.is_empty() && name.chars().all(inside)
}

/// JSON whose hidden characters, which can only be within strings, are written as `\uXXXX`. Line ends and tabs, which can only
/// be between values, stay.
pub fn json(text: &str) -> Cow<'_, str> {
    let plain = |c: char| matches!(c, '\n' | '\t') || !hidden(c);
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if plain(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    Cow::Owned(out)
}

/// Most bytes of a part of a file's name: names have 255 at most, and theirs have more parts.
const NAME: usize = 120;

/// A part of a file's name: what is hidden, or what a file's name cannot hold somewhere, is `_`, and what is too long is cut.
pub fn file_name(text: &str) -> String {
    let plain = |c: char| match c {
        '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|' => '_',
        c if hidden(c) => '_',
        c => c,
    };
    let mut name: String = text.chars().map(plain).collect();
    let end = name.floor_char_boundary(NAME);
    name.truncate(end);
    name
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::random::Stream;
    use crate::study::table::{Table, names};

    /// Characters that mean something somewhere, and some that do not.
    const ODD: [&str; 58] = [
        "|",
        "||",
        "\\",
        "\\|",
        "\\\\",
        "`",
        "``",
        "\n",
        "\r\n",
        "\r",
        "\t",
        "\0",
        "\u{1b}[31m",
        "\u{1b}]0;x\u{7}",
        "\u{7f}",
        "\u{9b}31m",
        "\u{85}",
        "\u{200b}",
        "\u{200d}",
        "\u{202e}",
        "\u{2066}",
        "\u{2028}",
        "\u{2029}",
        "\u{feff}",
        "\u{fffe}",
        "\u{ffff}",
        "\u{ad}",
        "\u{e0041}",
        "<",
        ">",
        "&",
        "&amp;",
        "&#124;",
        "\"",
        "'",
        "<script>",
        "</td>",
        "]]>",
        "<!--",
        "[a](b)",
        "![x](y)",
        "*",
        "**",
        "_",
        "__",
        "~~",
        "(*)",
        "#",
        " ",
        "a",
        "B9",
        "\u{e9}",
        "\u{4e2d}",
        "\u{1f600}",
        "---",
        ",",
        "{{ x }}",
        "%s",
    ];

    /// Odd texts, the same at every run.
    pub(in crate::study) fn odd_texts() -> impl Iterator<Item = String> {
        (0..3000).map(|case| {
            let mut stream = Stream::new(11, &["odd"], case);
            let pieces = 1 + stream.below(6);
            (0..pieces).map(|_| ODD[stream.below(ODD.len())]).collect()
        })
    }

    /// The cells of a row as GitHub's Markdown splits it: at every `|` without a backslash before it that is itself none of a
    /// pair; and what they show.
    fn cells(row: &str) -> Vec<String> {
        let inner = row
            .strip_prefix("| ")
            .and_then(|row| row.strip_suffix(" |"))
            .unwrap();
        let (mut all, mut cell) = (Vec::new(), String::new());
        let mut rest = inner.chars();
        while let Some(c) = rest.next() {
            match c {
                '\\' => {
                    let next = rest.next().expect("a backslash ends no row");
                    assert!(
                        next.is_ascii_punctuation(),
                        "a backslash that is shown: {row}"
                    );
                    cell.push(next);
                }
                '|' => all.push(std::mem::take(&mut cell)),
                '`' | '<' => panic!("code or a tag begins in {row}"),
                c => cell.push(c),
            }
        }
        all.push(cell);
        all.iter().map(|cell| cell.trim().to_string()).collect()
    }

    #[test]
    fn tables_keep_their_cells_and_what_they_say() {
        for text in odd_texts() {
            let mut table = Table::new(&text, &[&text, "n"], &names(&["x"]));
            table.row(&[text.clone(), "1".into(), text.clone()]);
            let shown = line(&text);
            let rows: Vec<&str> = table.text.lines().collect();
            assert_eq!(rows.len(), 6, "{text:?}: {}", table.text);
            assert!(rows[1].starts_with("## "), "{text:?}");
            assert_eq!(cells(rows[3])[..], [shown.trim(), "n", "x"], "{text:?}");
            assert_eq!(rows[4], "| --- | --- | ---: |");
            assert_eq!(
                cells(rows[5])[..],
                [shown.trim(), "1", shown.trim()],
                "{text:?}"
            );
            assert!(
                !table.text.chars().any(|c| hidden(c) && c != '\n'),
                "{text:?}"
            );
        }
    }

    #[test]
    fn lines_are_lines_and_json_means_the_same() {
        for text in odd_texts() {
            let shown = line(&text);
            assert!(!shown.chars().any(hidden), "{text:?}");
            assert_eq!(line(&shown), shown, "once is enough");
            let kept = lines(&text);
            assert!(!kept.chars().any(|c| hidden(c) && !"\n\t".contains(c)));
            assert_eq!(line(&kept), shown, "{text:?}");

            let value = serde_json::json!({ &text: [&text, 1.5, null] });
            for written in [format!("{value:#}"), value.to_string()] {
                let safe = json(&written);
                assert!(!safe.chars().any(|c| hidden(c) && c != '\n'), "{text:?}");
                let again: serde_json::Value = serde_json::from_str(&safe).unwrap();
                assert_eq!(again, value, "{text:?}");
            }
            let name = file_name(&text);
            assert!(!name.contains(['/', '\\']) && name.chars().count() <= text.chars().count());
        }
    }

    #[test]
    fn what_is_seen_stays_as_it_is() {
        for text in [
            "negation",
            "cannot_negation",
            "all-MiniLM-L6-v2",
            "role (*)",
            "caf\u{e9} \u{4e2d}\u{6587}",
            "0.569 [0.5, 0.6]",
            "AT&T, 3 & 4",
            // A family and a Persian word need their joiners.
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
        ] {
            assert_eq!(line(text), text);
            assert_eq!(in_markdown(text), text);
        }
        assert_eq!(line("a\u{200d}b"), "a\\u{200d}b");
        let long = file_name(&"\u{e9}".repeat(300));
        assert_eq!((long.len(), long.chars().count()), (NAME, NAME / 2));
    }
}
