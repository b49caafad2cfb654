//! A request that is answered when all of its parts are.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use block::{Data, Fault, Outcome, Ticket};

/// Joins the outcomes of several parts into one: the payloads in order, or the first failure.
pub(crate) struct Join {
    ticket: Cell<Option<Ticket>>,
    left: Cell<usize>,
    failed: Cell<Option<Fault>>,
    data: RefCell<Vec<Data>>,
}

impl Join {
    /// `parts` parts, each with a ticket of its own.
    pub fn split(ticket: Ticket, parts: usize) -> Vec<Ticket> {
        let join = Rc::new(Join {
            ticket: Cell::new(Some(ticket)),
            left: Cell::new(parts),
            failed: Cell::new(None),
            data: RefCell::new(vec![Data::empty(); parts]),
        });
        let part = |i| {
            let join = join.clone();
            Ticket::new(move |outcome| join.done(i, outcome))
        };
        (0..parts).map(part).collect()
    }

    fn done(&self, part: usize, outcome: Outcome) {
        match outcome {
            Ok(data) => self.data.borrow_mut()[part] = data,
            Err(fault) => self.failed.set(self.failed.get().or(Some(fault))),
        }
        self.left.set(self.left.get() - 1);
        if self.left.get() > 0 {
            return;
        }
        let ticket = self.ticket.take().expect("the last part answers");
        match self.failed.get() {
            Some(fault) => ticket.fail(fault),
            None => {
                let mut whole = Data::empty();
                self.data.take().into_iter().for_each(|part| whole.append(part));
                ticket.answer(Ok(whole));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Buf;

    #[test]
    fn parts_are_joined_in_order_and_a_failure_waits_for_the_rest() {
        let answer: Rc<RefCell<Option<Outcome>>> = Rc::default();
        let ticket = |to: &Rc<RefCell<Option<Outcome>>>| {
            let to = to.clone();
            Ticket::new(move |o| *to.borrow_mut() = Some(o))
        };
        let mut parts = Join::split(ticket(&answer), 2);
        parts.pop().unwrap().answer(Ok(Data::from(Buf::copy_of(b"b"))));
        parts.pop().unwrap().answer(Ok(Data::from(Buf::copy_of(b"a"))));
        assert_eq!(&*answer.take().unwrap().unwrap().into_buf(), b"ab");
        let mut parts = Join::split(ticket(&answer), 2);
        parts.pop().unwrap().fail(Fault::Medium);
        assert!(answer.borrow().is_none());
        parts.pop().unwrap().done();
        assert_eq!(answer.take().unwrap().unwrap_err(), Fault::Medium);
    }
}
