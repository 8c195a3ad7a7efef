//! Tokens of PTX text.

use crate::parse::ParseError;

/// One token and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token<'a> {
    pub kind: Kind<'a>,
    /// Line, from 1.
    pub line: u32,
    /// Byte range in the text.
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// A name, an opcode with its modifiers, a directive, a register, a number: whatever has no punctuation inside.
    Word(&'a str),
    /// A single punctuation character.
    Punct(char),
    /// A quoted string, without its quotes.
    Text(&'a str),
}

fn in_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Splits `text` into tokens; comments and white space go.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let mut found = Vec::new();
    let (mut i, mut line) = (0, 1u32);
    while i < bytes.len() {
        let start = i;
        match bytes[i] {
            b'\n' => {
                line += 1;
                i += 1;
            }
            c if c.is_ascii_whitespace() => i += 1,
            b'/' if at(i + 1) == b'/' => {
                while i < bytes.len() && bytes[i] != b'\n' {
                    i += 1;
                }
            }
            b'/' if at(i + 1) == b'*' => {
                let opened = line;
                i += 2;
                while !(at(i) == b'*' && at(i + 1) == b'/') {
                    if i >= bytes.len() {
                        return Err(ParseError::new(opened, "a comment that never ends"));
                    }
                    line += u32::from(bytes[i] == b'\n');
                    i += 1;
                }
                i += 2;
            }
            b'"' => {
                i += 1;
                while i < bytes.len() && bytes[i] != b'"' {
                    i += 1;
                }
                i += 1;
                let Some(inner) = text.get(start + 1..i - 1).filter(|_| i <= bytes.len()) else {
                    return Err(ParseError::new(line, "a string that never ends"));
                };
                found.push(Token {
                    kind: Kind::Text(inner),
                    line,
                    start,
                    end: i,
                });
            }
            c if in_word(c) => {
                // `L2::128B` is one word; the single colon after a label is not part of it.
                while in_word(at(i)) || (at(i) == b':' && at(i + 1) == b':') {
                    i += if at(i) == b':' { 2 } else { 1 };
                }
                found.push(Token {
                    kind: Kind::Word(&text[start..i]),
                    line,
                    start,
                    end: i,
                });
            }
            c if c.is_ascii_punctuation() => {
                i += 1;
                found.push(Token {
                    kind: Kind::Punct(c.into()),
                    line,
                    start,
                    end: i,
                });
            }
            _ => {
                return Err(ParseError::new(
                    line,
                    "a character that PTX does not have; only ASCII is allowed outside comments",
                ));
            }
        }
    }
    Ok(found)
}
