//! One connection: an initiator's machine between a send task and a receive task.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};

use block::link::Receive;
use block::{Buf, BufMut};
use futures_channel::oneshot;
use host::{AnyStream, Host, Notify};
use thiserror::Error;

use super::flights::{Part, Reply};

/// The machine of a connection.
pub(super) trait Wire: Sized + 'static {
    /// What can be submitted.
    type Command;
    /// What is said to it.
    type Answer: 'static;
    /// An answer with the token of its command, as the machine gives it.
    type Completed: 'static;

    /// Whether commands can be submitted.
    fn is_ready(&self) -> bool;
    /// How many of them now.
    fn free(&self) -> usize;
    /// Commands without an answer.
    fn in_flight(&self) -> usize;
    fn submit(&mut self, command: Self::Command, token: Token<Self::Answer>);
    fn has_output(&self) -> bool;
    fn output(&mut self) -> Vec<Buf>;
    fn receive(&mut self) -> Receive;
    /// An error says how the target breaks the protocol; [`Wire::output`] may then have a last word to it.
    fn received(&mut self, buf: BufMut, n: usize, done: &mut Vec<Self::Completed>) -> Result<(), String>;
    /// Ends the machine: what was in flight.
    fn drain(&mut self) -> Vec<Token<Self::Answer>>;
    fn split(completed: Self::Completed) -> (Token<Self::Answer>, Self::Answer);
    /// What an answer means for a part of a request.
    fn reply(answer: Self::Answer) -> (Reply, Option<BufMut>);
}

/// Parts that were answered.
pub(super) type Replies = Vec<(Part, Reply, Option<BufMut>)>;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum Loss {
    #[error("the connection failed: {0}")]
    Io(io::Error),
    #[error("the target closed the connection")]
    Closed,
    #[error("the target does not keep to the protocol: {0}")]
    Violation(String),
    #[error("the target fell silent")]
    Silent,
    #[error("the target left a command unanswered for too long")]
    Unanswered,
    #[error("the association was ended here")]
    Ours,
}

/// Who waits for a command.
pub(super) enum Token<A> {
    /// A task.
    Reply(oneshot::Sender<A>),
    /// A request of the disk.
    Part(Part),
    /// Nobody.
    Nobody,
}

/// The owner of an association.
pub(super) trait Link {
    /// Parts that were answered.
    fn completed(&self, parts: &mut Replies);
    /// A connection has ended.
    fn lost(&self);
}

/// One queue over one TCP connection. Ends once; the first reason is kept.
pub(super) struct Connection<W: Wire> {
    stream: AnyStream,
    wire: RefCell<W>,
    link: Weak<dyn Link>,
    /// There is something to send, or the connection has ended.
    outgoing: Notify,
    /// The parameters are agreed, or the connection has ended.
    progress: Notify,
    end: RefCell<Option<Loss>>,
    /// Counts receives, so that a silent target is noticed without reading a clock for each.
    received: Cell<u64>,
    orphans: RefCell<Vec<Part>>,
}

impl<W: Wire> Connection<W> {
    /// Starts the initialisation on a fresh stream.
    pub(super) fn start(host: &Host, stream: AnyStream, wire: W, link: Weak<dyn Link>) -> Rc<Connection<W>> {
        let connection = Rc::new(Connection {
            stream,
            wire: RefCell::new(wire),
            link,
            outgoing: Notify::default(),
            progress: Notify::default(),
            end: RefCell::new(None),
            received: Cell::new(0),
            orphans: RefCell::new(Vec::new()),
        });
        host.spawn(receive(connection.clone()));
        host.spawn(transmit(connection.clone()));
        connection
    }

    /// Waits until commands can be submitted.
    pub(super) async fn ready(&self) -> Result<(), String> {
        while !self.wire.borrow().is_ready() {
            self.check()?;
            self.progress.notified().await;
        }
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        self.end.borrow().as_ref().map_or(Ok(()), |loss| Err(loss.to_string()))
    }

    /// Whether the connection has ended.
    pub(super) fn is_over(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Why the connection has ended, if it has.
    pub(super) fn why(&self) -> Option<String> {
        self.check().err()
    }

    /// Ends the connection. A target that broke the protocol is told so first, by the send task.
    pub(super) fn fail(&self, loss: Loss) {
        let told = matches!(loss, Loss::Violation(_));
        {
            let mut end = self.end.borrow_mut();
            if end.is_some() {
                return;
            }
            *end = Some(loss);
        }
        // Dropping a reply's sender tells its caller that no answer will come.
        let tokens = self.wire.borrow_mut().drain();
        let parts = tokens.into_iter().filter_map(|token| match token {
            Token::Part(part) => Some(part),
            Token::Reply(_) | Token::Nobody => None,
        });
        self.orphans.borrow_mut().extend(parts);
        if !told {
            self.stream.shutdown();
        }
        self.outgoing.notify();
        self.progress.notify();
        if let Some(link) = self.link.upgrade() {
            link.lost();
        }
    }

    /// Closes the socket of a connection that has ended, also when the peer does not take what is being sent.
    pub(super) fn hang_up(&self) {
        self.fail(Loss::Ours);
        self.stream.shutdown();
    }

    /// What was in flight when the connection ended.
    pub(super) fn orphans(&self) -> Vec<Part> {
        std::mem::take(&mut self.orphans.borrow_mut())
    }

    /// Commands that can be submitted now.
    pub(super) fn free(&self) -> usize {
        if self.is_over() { 0 } else { self.wire.borrow().free() }
    }
    /// Commands without an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.wire.borrow().in_flight()
    }
    /// How often something was received.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }
    /// Does something with the machine.
    pub(super) fn with<R>(&self, what: impl FnOnce(&mut W) -> R) -> R {
        what(&mut self.wire.borrow_mut())
    }

    /// Submits a command; [`free`](Connection::free) must not be 0. Whatever is submitted before the send task runs
    /// again goes out in one send.
    pub(super) fn submit(&self, command: W::Command, token: Token<W::Answer>) {
        self.wire.borrow_mut().submit(command, token);
        self.outgoing.notify();
    }

    /// Submits a command and waits for its completion. For the few commands that set up an association.
    pub(super) async fn call(&self, command: W::Command) -> Result<W::Answer, String> {
        self.check()?;
        if self.free() == 0 {
            return Err("it takes no more commands now".into());
        }
        let (tx, rx) = oneshot::channel();
        self.submit(command, Token::Reply(tx));
        // The sender is dropped when the connection ends.
        rx.await.map_err(|_| self.why().unwrap_or_else(|| "the connection ended".into()))
    }

    /// Hands out what was answered. No borrow is held while the owners are told.
    fn deliver(&self, done: &mut Vec<W::Completed>, parts: &mut Replies) {
        for completed in done.drain(..) {
            let (token, answer) = W::split(completed);
            match token {
                Token::Part(part) => {
                    let (reply, data) = W::reply(answer);
                    parts.push((part, reply, data));
                }
                Token::Reply(reply) => {
                    // The caller may have given up.
                    let _ = reply.send(answer);
                }
                Token::Nobody => {}
            }
        }
        if !parts.is_empty()
            && let Some(link) = self.link.upgrade()
        {
            link.completed(parts);
        }
        parts.clear();
    }
}

/// Feeds the machine until the connection ends.
async fn receive<W: Wire>(connection: Rc<Connection<W>>) {
    let (mut done, mut parts) = (Vec::new(), Vec::new());
    let mut was_ready = false;
    while !connection.is_over() {
        let Receive { buf, from, max } = connection.wire.borrow_mut().receive();
        let (buf, got) = connection.stream.recv(buf, from, max).await;
        if connection.is_over() {
            break;
        }
        match got {
            Err(error) => connection.fail(Loss::Io(error)),
            Ok(0) => connection.fail(Loss::Closed),
            Ok(n) => {
                connection.received.set(connection.received.get() + 1);
                let (fed, has_output, is_ready) = {
                    let mut wire = connection.wire.borrow_mut();
                    (wire.received(buf, n, &mut done), wire.has_output(), wire.is_ready())
                };
                if !done.is_empty() {
                    connection.deliver(&mut done, &mut parts);
                }
                if let Err(violation) = fed {
                    connection.fail(Loss::Violation(violation));
                } else if has_output {
                    connection.outgoing.notify();
                }
                if is_ready && !was_ready {
                    was_ready = true;
                    connection.progress.notify();
                }
            }
        }
    }
}

/// Sends what the machine has to say: one send at a time, the next batch gathers meanwhile.
async fn transmit<W: Wire>(connection: Rc<Connection<W>>) {
    loop {
        let batch = connection.wire.borrow_mut().output();
        let over = connection.is_over();
        if over {
            let violated = matches!(*connection.end.borrow(), Some(Loss::Violation(_)));
            if violated && !batch.is_empty() {
                // The reason for ending; whether it arrives does not matter.
                let _ = connection.stream.send(batch).await;
            }
            connection.stream.shutdown();
            return;
        }
        if batch.is_empty() {
            connection.outgoing.notified().await;
        } else if let Err(error) = connection.stream.send(batch).await {
            connection.fail(Loss::Io(error));
        }
    }
}
