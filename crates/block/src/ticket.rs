//! The right, and the duty, to answer one request.

use std::cell::Cell;

use crate::{Data, Fault, Outcome};

thread_local! {
    static WORLD_ENDS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `end` with the duty to answer lifted: for the end of a world (a simulated power cut, a process that exits),
/// when everything in flight is dropped where it stands.
pub fn at_world_end<T>(end: impl FnOnce() -> T) -> T {
    let before = WORLD_ENDS.replace(true);
    let result = end();
    WORLD_ENDS.set(before);
    result
}

/// The right, and the duty, to answer one request exactly once.
///
/// Dropping a ticket unanswered is a bug of ours and panics: "every command completes exactly once" holds by type.
///
/// **The callback may run inside `submit`.** Whoever makes a ticket lets its callback only put the outcome into a queue
/// and wake the owner; it never calls back into the machine that submitted the request.
#[must_use = "a request must be answered"]
pub struct Ticket(Option<Box<dyn FnOnce(Outcome)>>);

impl Ticket {
    /// A ticket whose answer goes to `callback`.
    pub fn new(callback: impl FnOnce(Outcome) + 'static) -> Ticket {
        Ticket(Some(Box::new(callback)))
    }
    /// Answers the request.
    pub fn answer(mut self, outcome: Outcome) {
        let callback = self.0.take().expect("a ticket is answered once");
        callback(outcome);
    }
    /// Answers that the request succeeded, without payload.
    pub fn done(self) {
        self.answer(Ok(Data::empty()));
    }
    /// Answers that the request failed.
    pub fn fail(self, fault: Fault) {
        self.answer(Err(fault));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let excused = self.0.is_none() || WORLD_ENDS.get() || std::thread::panicking();
        assert!(excused, "a ticket was dropped without an answer");
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "dropped without an answer")]
    fn an_unanswered_ticket_panics() {
        drop(Ticket::new(|_| ()));
    }

    #[test]
    fn an_answer_reaches_the_callback() {
        let (tx, rx) = std::sync::mpsc::channel();
        Ticket::new(move |o| tx.send(o.is_ok()).expect("listening")).done();
        assert_eq!(rx.recv(), Ok(true));
    }
}
