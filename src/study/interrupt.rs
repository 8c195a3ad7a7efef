//! The wish to stop, of somebody who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two wishes that are not one: `timeout` and terminals send a signal to a program and again to its group.
const APART: Duration = Duration::from_secs(1);

/// Tells what is under way to end in order: a training then leaves a checkpoint. A handler of signals calls
/// [`Interrupt::ask`] and ends the program if that says so.
#[derive(Clone, Debug)]
pub struct Interrupt {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicBool>,
    /// Whether the first wish was heard.
    answered: Arc<AtomicBool>,
    /// Milliseconds from `started` to the first wish, from 1; 0 if there was none.
    first: Arc<AtomicU64>,
    started: Instant,
}

impl Default for Interrupt {
    fn default() -> Self {
        Interrupt {
            stop: Arc::default(),
            heard: Arc::default(),
            answered: Arc::default(),
            first: Arc::default(),
            started: Instant::now(),
        }
    }
}

impl Interrupt {
    /// Asks for an end. True if there is nothing to wait for: nobody hears the wish, or it is uttered again. May be called
    /// where a signal is handled: it reads a clock and stores numbers.
    pub fn ask(&self) -> bool {
        self.ask_at(self.started.elapsed())
    }

    fn ask_at(&self, since_start: Duration) -> bool {
        const ORDER: Ordering = Ordering::SeqCst;
        self.stop.store(true, ORDER);
        let now = since_start.as_millis() as u64 + 1;
        match self.first.compare_exchange(0, now, ORDER, ORDER) {
            Ok(_) => {
                let heard = self.heard.load(ORDER);
                self.answered.store(heard, ORDER);
                !heard
            }
            Err(first) if now.saturating_sub(first) >= APART.as_millis() as u64 => true,
            // The same wish, though whoever heard it may have ended meanwhile and be about to say so.
            Err(_) => !self.answered.load(ORDER),
        }
    }

    /// Hears it while the value lives.
    pub fn listen(&self) -> Listening<'_> {
        self.heard.store(true, Ordering::SeqCst);
        Listening { interrupt: self }
    }
}

/// While it lives, somebody hears an [`Interrupt`].
pub struct Listening<'a> {
    interrupt: &'a Interrupt,
}

impl Listening<'_> {
    /// What becomes true.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt.stop)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.interrupt.heard.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_something_to_wait_for_while_somebody_listens() {
        let nobody = Interrupt::default();
        assert!(nobody.ask() && nobody.ask());
        let interrupt = Interrupt::default();
        let listening = interrupt.listen();
        assert!(!listening.flag().load(Ordering::SeqCst));
        let at = |ms| interrupt.ask_at(Duration::from_millis(ms));
        assert!(!at(5000));
        assert!(listening.flag().load(Ordering::SeqCst));
        // The same wish, and another one.
        assert!(!at(5001) && !at(5999));
        assert!(at(6000));
        drop(listening);
        assert!(!at(5002) && at(6001));
    }
}
