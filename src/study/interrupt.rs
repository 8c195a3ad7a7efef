//! The wish to stop, of somebody who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells what is under way to end in order: a training then leaves a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicBool>,
}

impl Interrupt {
    /// Asks for an end. False if nobody hears it, or if it was asked for before: then there is nothing to wait for.
    pub fn ask(&self) -> bool {
        self.heard.load(Ordering::SeqCst) && !self.stop.swap(true, Ordering::SeqCst)
    }

    /// Whether an end was asked for.
    pub fn asked(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
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
    fn it_is_heard_once_and_only_by_who_listens() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.ask() && !interrupt.asked());
        let listening = interrupt.listen();
        let flag = listening.flag();
        assert!(interrupt.ask() && interrupt.asked() && flag.load(Ordering::SeqCst));
        assert!(!interrupt.ask());
        drop(listening);
        assert!(!Interrupt::default().ask());
    }
}
