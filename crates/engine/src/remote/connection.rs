//! One connection: the machine of `nvme::initiator` between a send task and a receive task.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};

use futures_channel::oneshot;
use host::{AnyStream, Host, Notify};
use nvme::initiator::{Command, Completed, Queue, QueueOptions, Receive, Violation};
use thiserror::Error;

use super::flights::Part;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum Loss {
    #[error("the connection failed: {0}")]
    Io(io::Error),
    #[error("the target closed the connection")]
    Closed,
    #[error("the target does not keep to the protocol: {0}")]
    Violation(Violation),
    #[error("the target fell silent")]
    Silent,
    #[error("the target left a command unanswered for too long")]
    Unanswered,
    #[error("the association was ended here")]
    Ours,
}

/// Who waits for a command.
pub(super) enum Token {
    /// A task.
    Reply(oneshot::Sender<Completed<()>>),
    /// A request of the disk.
    Part(Part),
    /// Nobody.
    Nobody,
}

/// The owner of an association.
pub(super) trait Link {
    /// Parts that were answered.
    fn completed(&self, parts: &mut Vec<Completed<Part>>);
    /// A connection has ended.
    fn lost(&self);
}

/// One queue over one TCP connection. Ends once; the first reason is kept.
pub(super) struct Connection {
    stream: AnyStream,
    queue: RefCell<Queue<Token>>,
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

impl Connection {
    /// Starts the initialisation on a fresh stream.
    pub(super) fn start(host: &Host, stream: AnyStream, options: QueueOptions, link: Weak<dyn Link>) -> Rc<Connection> {
        let connection = Rc::new(Connection {
            stream,
            queue: RefCell::new(Queue::new(options)),
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
        while !self.queue.borrow().is_ready() {
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
        let tokens: Vec<Token> = self.queue.borrow_mut().drain().collect();
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
        if self.is_over() { 0 } else { self.queue.borrow().free() }
    }
    /// Commands without an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.queue.borrow().in_flight()
    }
    /// How often something was received.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }
    pub(super) fn set_in_capsule(&self, bytes: usize) {
        self.queue.borrow_mut().set_in_capsule(bytes);
    }

    /// Submits a command; [`free`](Connection::free) must not be 0. Whatever is submitted before the send task runs
    /// again goes out in one send.
    pub(super) fn submit(&self, command: Command, token: Token) {
        self.queue.borrow_mut().submit(command, token);
        self.outgoing.notify();
    }

    /// Submits a command and waits for its completion. For the few commands that set up an association.
    pub(super) async fn call(&self, command: Command) -> Result<Completed<()>, String> {
        self.check()?;
        if self.free() == 0 {
            return Err("the admin queue is full".into());
        }
        let (tx, rx) = oneshot::channel();
        self.submit(command, Token::Reply(tx));
        // The sender is dropped when the connection ends.
        rx.await.map_err(|_| self.why().unwrap_or_else(|| "the connection ended".into()))
    }

    /// Hands out what was answered. No borrow is held while the owners are told.
    fn deliver(&self, done: &mut Vec<Completed<Token>>, parts: &mut Vec<Completed<Part>>) {
        for Completed { token, result, status, data } in done.drain(..) {
            match token {
                Token::Part(part) => parts.push(Completed { token: part, result, status, data }),
                Token::Reply(reply) => {
                    // The caller may have given up.
                    let _ = reply.send(Completed { token: (), result, status, data });
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
async fn receive(connection: Rc<Connection>) {
    let (mut done, mut parts) = (Vec::new(), Vec::new());
    let mut was_ready = false;
    while !connection.is_over() {
        let Receive { buf, from, max } = connection.queue.borrow_mut().receive();
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
                    let mut queue = connection.queue.borrow_mut();
                    (queue.received(buf, n, &mut done), queue.has_output(), queue.is_ready())
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
async fn transmit(connection: Rc<Connection>) {
    loop {
        let batch = connection.queue.borrow_mut().output();
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
