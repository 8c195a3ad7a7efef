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
        "{device} is out of memory: {bytes} bytes were asked for while {in_use} were in use; use a smaller --memory or shorter texts"
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
    /// A value computed or passed in makes no sense (NaN, empty input, a size beyond a limit).
    #[error("{0}")]
    Invalid(String),
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// The process status for this error: 2 for wrong usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
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
