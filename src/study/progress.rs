//! Progress on stderr: a bar on a terminal, now and then a plain line elsewhere, nothing when quiet.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::escape;

/// Where progress and log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    quiet: bool,
    terminal: bool,
}

/// Writes a line to stderr. Whoever read it may have gone (`2>&1 | head`): no reason to end what is under way.
pub fn to_stderr(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Seconds between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Reports to stderr unless `quiet`.
    pub fn new(quiet: bool) -> Self {
        Progress {
            quiet,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Whether bars can be drawn.
    pub fn draws(&self) -> bool {
        self.terminal && !self.quiet
    }

    /// One line of log.
    pub fn log(&self, line: &str) {
        if !self.quiet {
            to_stderr(escape::line(line));
        }
    }

    /// A task of `total` steps.
    pub fn task(&self, what: &'static str, total: usize) -> Task {
        let bar = self.draws().then(|| {
            let style = ProgressStyle::with_template(
                "{msg:>10} [{bar:40}] {pos}/{len} {per_sec} eta {eta}{prefix}",
            )
            .expect("the template is valid")
            .progress_chars("=> ");
            let bar = ProgressBar::new(total as u64).with_style(style);
            bar.set_message(what);
            bar
        });
        Task {
            what,
            total,
            bar,
            plain: !self.quiet && !self.terminal,
            started: Instant::now(),
            last_line: Instant::now(),
        }
    }
}

/// A running task.
pub struct Task {
    what: &'static str,
    total: usize,
    bar: Option<ProgressBar>,
    plain: bool,
    started: Instant,
    last_line: Instant,
}

impl Task {
    /// `done` of the steps are done.
    pub fn at(&mut self, done: usize) {
        self.at_with(done, String::new);
    }

    /// `done` of the steps are done, and this is worth saying beside it.
    pub fn at_with(&mut self, done: usize, beside: impl FnOnce() -> String) {
        let beside = || match beside() {
            text if text.is_empty() => text,
            text => format!(", {text}"),
        };
        if let Some(bar) = &self.bar {
            bar.set_prefix(beside());
            bar.set_position(done as u64);
        } else if self.plain && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let beside = beside();
            to_stderr(format_args!(
                "{}: {done} of {}{beside}",
                self.what, self.total
            ));
        }
    }

    /// Counts the first `done` steps as done before.
    pub fn begin_at(&mut self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.reset_eta();
        }
    }

    /// Ends the task; the time it took.
    pub fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}
