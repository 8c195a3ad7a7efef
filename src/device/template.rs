//! Expansion of kernel templates.
//!
//! Kernels are text that a person reads top to bottom; only what repeats (unrolled fragments, tile sizes, element
//! types) is left to a template engine ([`minijinja`]). The delimiters do not clash with PTX or WGSL:
//!
//! | in the file | meaning |
//! | --- | --- |
//! | a line that begins with `%%` | a statement: `%% for i in range(4)`, `%% if subgroups`, `%% include "_elements.wgsl"` |
//! | `${expr}` | the value of an expression |
//! | `<# ... #>` | a comment that does not reach the assembler |
//!
//! An undefined name is an error, never an empty string. The expansion keeps a **line map**: every line of the
//! expanded text knows the file and the line it came from, so that an assembler message about line 913 of the
//! expanded text can be read as line 57 of `kernels/matmul.ptx`.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::{Environment, UndefinedBehavior, Value, syntax::SyntaxConfig};

use crate::error::{Error, Result};

/// A kernel source file as embedded in the binary.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// File name inside `kernels/` or `shaders/`, e.g. `layer_norm.wgsl`.
    pub file: &'static str,
    /// The template text.
    pub text: &'static str,
}

/// One template value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Var {
    /// A number: a tile size, a head dimension.
    Int(i64),
    /// A word: an element type, an epilogue.
    Text(&'static str),
    /// A switch.
    Flag(bool),
}

impl From<i64> for Var {
    fn from(v: i64) -> Self {
        Var::Int(v)
    }
}
impl From<&'static str> for Var {
    fn from(v: &'static str) -> Self {
        Var::Text(v)
    }
}
impl From<bool> for Var {
    fn from(v: bool) -> Self {
        Var::Flag(v)
    }
}

/// Values that a variant can have.
const MOST_VALUES: usize = 12;

/// The values that turn a template into one variant of a kernel, by name. Made for every launch, so it lives on the
/// stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variant {
    /// Sorted by name, then nothing.
    values: [Option<(&'static str, Var)>; MOST_VALUES],
}

impl Variant {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same variant with `name` set to `value`.
    ///
    /// # Panics
    /// If it has twelve values already, more than any kernel takes.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Var>) -> Self {
        let value = Some((name, value.into()));
        let n = self.iter().count();
        let place = self.iter().position(|(known, _)| known >= name);
        match place {
            Some(at) if self.values[at].is_some_and(|(known, _)| known == name) => {
                self.values[at] = value;
            }
            at => {
                let at = at.unwrap_or(n);
                self.values[at..=n].rotate_right(1);
                self.values[at] = value;
            }
        }
        self
    }

    /// This variant with the values of `other` added.
    #[must_use]
    pub fn extended(self, other: &Variant) -> Self {
        let mut variant = self;
        for (name, value) in other.iter() {
            variant = variant.with(name, value);
        }
        variant
    }

    /// The value of `name`, if set.
    pub fn get(&self, name: &str) -> Option<Var> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    fn iter(&self) -> impl Iterator<Item = (&'static str, Var)> {
        self.values.iter().map_while(|value| *value)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.iter().enumerate() {
            let sep = if i == 0 { "" } else { " " };
            match value {
                Var::Int(v) => write!(f, "{sep}{name}={v}")?,
                Var::Text(v) => write!(f, "{sep}{name}={v}")?,
                Var::Flag(v) => write!(f, "{sep}{name}={v}")?,
            }
        }
        Ok(())
    }
}

/// An expanded kernel: the text that the driver or the shader compiler gets, and where each line came from.
#[derive(Clone, Debug)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// For each line of `text` (first line first): file name and 1-based line, `None` for lines made by the engine.
    pub lines: Vec<Option<(&'static str, u32)>>,
}

impl Expanded {
    /// Where 1-based line `line` of the expanded text came from, as `file:line`.
    pub fn origin(&self, line: usize) -> Option<String> {
        let (file, line) = (*self.lines.get(line.checked_sub(1)?)?)?;
        Some(format!("{file}:{line}"))
    }
}

/// Begins the marker that carries a line's origin through the engine; stripped from the result. Both PTX and WGSL
/// treat what follows `//` as a comment, so a marker can never change what a line means.
const MARK: &str = "//@";

/// Fragments that any template may include.
const FRAGMENTS: &[Source] = &[
    Source {
        file: "_elements.wgsl",
        text: include_str!("../../shaders/_elements.wgsl"),
    },
    Source {
        file: "_gelu.wgsl",
        text: include_str!("../../shaders/_gelu.wgsl"),
    },
    Source {
        file: "_group_sum.wgsl",
        text: include_str!("../../shaders/_group_sum.wgsl"),
    },
    Source {
        file: "_token_products.wgsl",
        text: include_str!("../../shaders/_token_products.wgsl"),
    },
    Source {
        file: "_gelu.ptx",
        text: include_str!("../../kernels/_gelu.ptx"),
    },
    Source {
        file: "_philox.wgsl",
        text: include_str!("../../shaders/_philox.wgsl"),
    },
    Source {
        file: "_philox.ptx",
        text: include_str!("../../kernels/_philox.ptx"),
    },
    Source {
        file: "_mma.ptx",
        text: include_str!("../../kernels/_mma.ptx"),
    },
    Source {
        file: "_row_tiles.ptx",
        text: include_str!("../../kernels/_row_tiles.ptx"),
    },
    Source {
        file: "_token_pairs.ptx",
        text: include_str!("../../kernels/_token_pairs.ptx"),
    },
];

/// Expands `source` with the values of `variant`.
///
/// # Errors
/// [`Error::Invalid`] naming file and line if the template does not parse or uses an undefined name.
pub fn expand(source: Source, variant: &Variant) -> Result<Expanded> {
    let syntax = SyntaxConfig::builder()
        .block_delimiters("<%", "%>")
        .variable_delimiters("${", "}")
        .comment_delimiters("<#", "#>")
        .line_statement_prefix("%%")
        .build()
        .expect("the delimiters are distinct");
    let mut env = Environment::new();
    env.set_syntax(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);

    let fail = |e: minijinja::Error| {
        Error::Invalid(format!(
            "kernel template {}:{} with [{variant}]: {e:#}",
            e.name().unwrap_or(source.file),
            e.line().unwrap_or(0),
        ))
    };
    let files: Vec<Source> = FRAGMENTS.iter().copied().chain([source]).collect();
    for (index, file) in files.iter().enumerate() {
        env.add_template_owned(file.file, mark_lines(index, file.text))
            .map_err(fail)?;
    }
    let values: BTreeMap<&str, Value> = variant
        .iter()
        .map(|(name, value)| {
            let value = match value {
                Var::Int(v) => Value::from(v),
                Var::Text(v) => Value::from(v),
                Var::Flag(v) => Value::from(v),
            };
            (name, value)
        })
        .collect();
    let marked = env
        .get_template(source.file)
        .and_then(|t| t.render(values))
        .map_err(fail)?;

    let mut text = String::with_capacity(marked.len());
    let mut lines = Vec::new();
    for line in marked.lines() {
        let (code, origin) = match line.find(MARK) {
            Some(at) => (&line[..at], parse_mark(&line[at + MARK.len()..], &files)),
            None => (line, None),
        };
        text.push_str(code.trim_end());
        text.push('\n');
        lines.push(origin);
    }
    Ok(Expanded { text, lines })
}

/// Appends to every line that is not a statement the marker `//@file:line`.
fn mark_lines(file: usize, text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for (i, line) in text.lines().enumerate() {
        out.push_str(line);
        if !line.trim_start().starts_with("%%") {
            out.push_str(&format!(" {MARK}{file}:{}", i + 1));
        }
        out.push('\n');
    }
    out
}

fn parse_mark(mark: &str, files: &[Source]) -> Option<(&'static str, u32)> {
    let mark = mark.split_whitespace().next()?;
    let (file, line) = mark.split_once(':')?;
    let file: usize = file.parse().ok()?;
    Some((files.get(file)?.file, line.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source {
        file: "probe.wgsl",
        text: "first\n%% for i in range(n)\n  body ${i} <# gone #>\n%% endfor\nlast ${name}\n",
    };

    #[test]
    fn expands_and_maps_lines() {
        let variant = Variant::new().with("n", 2).with("name", "x");
        let e = expand(SOURCE, &variant).unwrap();
        let words: Vec<&str> = e.text.split_whitespace().collect();
        assert_eq!(words, ["first", "body", "0", "body", "1", "last", "x"]);
        let origin_of = |needle: &str| {
            let at = e.text.lines().position(|l| l.contains(needle)).unwrap();
            e.origin(at + 1).unwrap()
        };
        assert_eq!(origin_of("body 1"), "probe.wgsl:3");
        assert_eq!(origin_of("last"), "probe.wgsl:5");
    }

    #[test]
    fn variants_are_the_same_whatever_the_order() {
        let variant = Variant::new().with("b", 1).with("c", true).with("a", "x");
        assert_eq!(variant.to_string(), "a=x b=1 c=true");
        let other = Variant::new().with("a", "y").with("c", true);
        assert_eq!(
            other.extended(&Variant::new().with("a", "x").with("b", 1)),
            variant
        );
        assert_eq!(
            (variant.get("b"), variant.get("d")),
            (Some(Var::Int(1)), None)
        );
    }

    #[test]
    fn undefined_names_are_errors() {
        let error = expand(SOURCE, &Variant::new().with("n", 1)).unwrap_err();
        assert!(error.to_string().contains("probe.wgsl:5"), "{error}");
    }
}
