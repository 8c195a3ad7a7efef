//! The wish to stop, of somebody who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells what is under way to end in order: a training then leaves a checkpoint. A handler of signals needs no more than
/// its two flags: it ends the program if [`Interrupt::at_once`] is true, and else makes [`Interrupt::stop`] true, and the
/// other too if the signal is one that is not sent twice by mistake.
#[derive(Clone, Debug)]
pub struct Interrupt {
    stop: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Default for Interrupt {
    fn default() -> Self {
        Interrupt {
            stop: Arc::default(),
            at_once: Arc::new(AtomicBool::new(true)),
        }
    }
}

impl Interrupt {
    /// What becomes true to ask for an end.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether there is nothing to wait for: nobody hears the wish, or it was uttered before.
    pub fn at_once(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.at_once)
    }

    /// Hears it while the value lives.
    pub fn listen(&self) -> Listening<'_> {
        self.at_once.store(false, Ordering::SeqCst);
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
        self.interrupt.stop()
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.interrupt.at_once.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_something_to_wait_for_while_somebody_listens() {
        let interrupt = Interrupt::default();
        let now = || interrupt.at_once().load(Ordering::SeqCst);
        assert!(now());
        let listening = interrupt.listen();
        assert!(!now());
        interrupt.stop().store(true, Ordering::SeqCst);
        assert!(listening.flag().load(Ordering::SeqCst));
        drop(listening);
        assert!(now());
    }
}
