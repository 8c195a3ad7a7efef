//! The crate's error type.
//!
//! Every error prints as **one line** that says what went wrong, where, and what to do about it. The command-line
//! tools print it as it is and turn [`Error::exit_code`] into the process status.

use std::path::{Path, PathBuf};

/// Result of every fallible function in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. `Display` gives one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operator was given a buffer or a size that does not fit.
    #[error("shape mismatch in {op}: {what}: expected {expected}, got {got}")]
    Shape {
        /// Operator name, as in [`crate::ops::ALL`].
        op: &'static str,
        /// Which argument or dimension.
        what: &'static str,
        /// What would have been right.
        expected: String,
        /// What was passed.
        got: String,
    },
    /// The device has no implementation of this operator (or of this variant of it).
    #[error("operator {op} is not available on device {device}: {why}")]
    Unsupported {
        /// Operator name.
        op: &'static str,
        /// Device name.
        device: String,
        /// What is missing, and the way out.
        why: String,
    },
    /// A device was asked for that this machine cannot offer.
    #[error("device {wanted} is not available: {why}; available here: {available}")]
    NoDevice {
        /// The device as the user named it.
        wanted: String,
        /// Why it cannot be had.
        why: String,
        /// What can be had instead.
        available: String,
    },
    /// The device ran out of memory.
    #[error(
        "{device} is out of memory: {bytes} bytes were asked for while {in_use} were in use; work on fewer or shorter texts at a time"
    )]
    OutOfMemory {
        /// Device name.
        device: String,
        /// Size of the request that failed, in bytes.
        bytes: u64,
        /// Bytes in live buffers at that moment.
        in_use: u64,
    },
    /// The device or its driver failed.
    #[error("{device}: {message}")]
    Device {
        /// Device name.
        device: String,
        /// What the driver said, and during what.
        message: String,
    },
    /// Reading or writing a file failed in the operating system.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done: `read`, `create`, `write`, ...
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file was read, but what it holds is not usable.
    #[error("{}: {message}", path.display())]
    Input {
        /// The file (or folder).
        path: PathBuf,
        /// Where in the file (line, tensor, column), what is wrong, and the cure.
        message: String,
    },
    /// A text of a list cannot be processed.
    #[error("text {index} {message}")]
    Text {
        /// Which text of the list that the caller passed, from 0.
        index: usize,
        /// What is wrong with it and the cure, as a sentence that begins after its subject.
        message: String,
    },
    /// A value computed or passed in makes no sense (NaN, empty input, a size beyond a limit).
    #[error("{0}")]
    Invalid(String),
    /// A setting of the library has a value that cannot be.
    #[error("{message}")]
    Setting {
        /// The field or argument, as `max_length`.
        setting: &'static str,
        /// Its value, what is wrong with it, and what would be right.
        message: String,
    },
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// Somebody asked for an end before there was a result.
    #[error("{0}")]
    Stopped(String),
}

impl Error {
    /// The process status for this error: 2 for wrong usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Setting { .. } => 2,
            _ => 1,
        }
    }

    /// An operating-system error while doing `doing` (a verb) to `path`.
    pub fn io(doing: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io {
            doing,
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    /// A file whose content is not usable; `message` says where in it, what, and the cure.
    pub fn input(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Input {
            path: path.as_ref().to_path_buf(),
            message: message.into(),
        }
    }

    /// Text `index` of a list that cannot be processed; `message` goes on where "text 3" ends.
    pub fn text(index: usize, message: impl Into<String>) -> Self {
        Error::Text {
            index,
            message: message.into(),
        }
    }

    /// The same error for a list in which `first` more texts come before: what a function that passes on a part of its
    /// texts says about the whole. Other errors stay what they are.
    pub fn after_texts(self, first: usize) -> Self {
        match self {
            Error::Text { index, message } => Error::text(first + index, message),
            other => other,
        }
    }

    /// The same error with the text called what `name` says of its index, for callers whose texts have names (`query
    /// 17`, `document doc3`). It is [`Error::Invalid`] then, for a name needs no list. Other errors stay what they are.
    pub fn naming_text(self, name: impl FnOnce(usize) -> String) -> Self {
        match self {
            Error::Text { index, message } => Error::Invalid(format!("{} {message}", name(index))),
            other => other,
        }
    }

    /// [`Error::naming_text`] with the beginning of the text itself, for texts that have no name.
    pub fn quoting_text<S: AsRef<str>>(self, texts: &[S]) -> Self {
        const SHOWN: usize = 80;
        self.naming_text(|index| {
            let Some(text) = texts.get(index).map(AsRef::as_ref) else {
                return format!("text {index}");
            };
            match text.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("the text that begins {:?}", &text[..end]),
                None => format!("the text {text:?}"),
            }
        })
    }

    /// A wrong shape in operator `op`.
    pub fn shape(
        op: &'static str,
        what: &'static str,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        Error::Shape {
            op,
            what,
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_counted_in_the_callers_list_and_called_by_name() {
        let error = || Error::text(3, "is too odd");
        assert_eq!(error().to_string(), "text 3 is too odd");
        let moved = error().after_texts(2048);
        assert!(matches!(moved, Error::Text { index: 2051, .. }), "{moved}");
        let named = moved.naming_text(|i| format!("document d{i}"));
        assert_eq!(named.to_string(), "document d2051 is too odd");
        // A name is given once, whatever the lists further out are.
        let again = named.after_texts(1).naming_text(|_| unreachable!());
        assert_eq!(again.to_string(), "document d2051 is too odd");

        let long = "ä".repeat(81);
        let texts = ["", "", "", "a \"b\"\n", &long];
        let quoted = error().quoting_text(&texts).to_string();
        assert_eq!(quoted, r#"the text "a \"b\"\n" is too odd"#);
        let begun = Error::text(4, "is too long")
            .quoting_text(&texts)
            .to_string();
        let shown = &long[..160];
        assert_eq!(
            begun,
            format!("the text that begins \"{shown}\" is too long")
        );
    }

    #[test]
    fn a_message_that_only_looks_like_a_text_keeps_its_words() {
        let error = Error::Invalid("text 12 of a template".into());
        let error = error.after_texts(1).quoting_text(&[] as &[&str]);
        assert_eq!(error.to_string(), "text 12 of a template");
    }
}
