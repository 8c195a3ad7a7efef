//! What a checker has to say.

use std::fmt;

/// What kind of mistake was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An access outside every buffer, or past the end of shared memory.
    OutOfBounds,
    /// An address that is not a multiple of the access.
    Misaligned,
    /// A register or memory that was never written is read.
    Uninitialised,
    /// Two threads of one block access the same bytes, one of them writing, with no barrier in between.
    Race,
    /// The same between blocks, with no release and acquire in between.
    BlockRace,
    /// The destination of an asynchronous copy is used before the copy was waited for.
    EarlyRead,
    /// Threads wait for others that never come.
    Deadlock,
    /// A block that does not end.
    Endless,
    /// What the ISA leaves undefined.
    Undefined,
    /// Two schedules give two results.
    ScheduleDependent,
    /// A launch that the driver would refuse.
    BadLaunch,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned",
            Kind::Uninitialised => "not initialised",
            Kind::Race => "race",
            Kind::BlockRace => "race between blocks",
            Kind::EarlyRead => "asynchronous copy not waited for",
            Kind::Deadlock => "deadlock",
            Kind::Endless => "endless",
            Kind::Undefined => "undefined",
            Kind::ScheduleDependent => "depends on the schedule",
            Kind::BadLaunch => "bad launch",
        }
    }
}

/// One finding; displayed as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What kind.
    pub kind: Kind,
    /// The kernel.
    pub entry: String,
    /// Line of the PTX text; 0 if the finding belongs to no line.
    pub line: u32,
    /// The instruction there.
    pub instruction: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread within the block, counted through all its dimensions.
    pub thread: Option<u32>,
    /// The address as buffer name and offset, and what happened before.
    pub detail: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.words())?;
        write!(f, "{}", self.entry)?;
        if self.line > 0 {
            write!(f, ", line {}, `{}`", self.line, self.instruction)?;
            let [x, y, z] = self.block;
            write!(f, ", block ({x}, {y}, {z})")?;
        }
        if let Some(thread) = self.thread {
            write!(f, ", thread {thread}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl std::error::Error for Report {}
