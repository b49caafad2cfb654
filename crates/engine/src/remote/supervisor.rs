//! The life of a remote disk: keeps an association up, sends requests over it, notices silence, reconnects.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::probe::{Mutant, mutant};
use block::{Blocks, Fault, Geometry, Request, Ticket};
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use host::{Host, Notify};
use uuid::Uuid;

use super::connection::{Connection, Link, Loss, Replies, Token};
use super::flights::{Answers, Flights};
use super::protocol::{Association, Protocol};
use super::{OnRestart, RemoteError, RemoteOptions, RemoteState, refusal};

/// Pauses between attempts to reconnect: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// The deadline is measured in at least so many ticks; it is kept to one of them.
const TICKS: u32 = 8;
const SHORTEST_DEADLINE: Duration = Duration::from_millis(100);
const SHORTEST_TICK: Duration = Duration::from_millis(10);

/// The disk, shared by its handle, its two tasks and (weakly) its connections.
pub(super) struct Inner<P: Protocol> {
    host: Host,
    protocol: P,
    options: RemoteOptions,
    /// Its size only grows.
    geometry: Cell<Geometry>,
    uuid: Option<Uuid>,
    instance: Cell<Option<[u8; 16]>>,
    state: RefCell<RemoteState>,
    flights: RefCell<Flights>,
    association: RefCell<Option<Association<P>>>,
    /// The queue that the next command goes to.
    turn: Cell<usize>,
    /// Wakes the supervisor: a connection has ended, or the disk is being closed.
    attention: Notify,
    /// Set once the association was shut down and nothing runs any more.
    finished: Cell<bool>,
    on_finished: RefCell<Vec<oneshot::Sender<()>>>,
    on_change: RefCell<Option<ChangeCallback>>,
}

type ChangeCallback = Rc<dyn Fn(&RemoteState)>;

struct NoLink;
impl Link for NoLink {
    fn completed(&self, _: &mut Replies) {}
    fn lost(&self) {}
}

/// A link to nobody.
pub(super) fn no_link() -> Weak<dyn Link> {
    Weak::<NoLink>::new()
}

/// Lets connections that are made before the disk exists find it.
struct Anchor<P: Protocol>(RefCell<Weak<Inner<P>>>);
impl<P: Protocol> Link for Anchor<P> {
    fn completed(&self, parts: &mut Replies) {
        if let Some(inner) = self.0.borrow().upgrade() {
            inner.completed(parts);
        }
    }
    fn lost(&self) {
        if let Some(inner) = self.0.borrow().upgrade() {
            inner.attention.notify();
        }
    }
}

async fn associate<P: Protocol>(
    host: &Host,
    protocol: &P,
    options: &RemoteOptions,
    link: Weak<dyn Link>,
) -> Result<Association<P>, RemoteError> {
    let limit = options.connect_timeout;
    let made = host.timeout(limit, protocol.associate(host, options, link)).await;
    made.unwrap_or_else(|| Err(RemoteError::TimedOut { uri: protocol.uri(), limit }))
}

impl<P: Protocol> Inner<P> {
    /// Connects, and starts the tasks that keep the disk up.
    pub(super) async fn start(host: &Host, protocol: P, options: RemoteOptions) -> Result<Rc<Inner<P>>, RemoteError> {
        let options = RemoteOptions { command_deadline: options.command_deadline.max(SHORTEST_DEADLINE), ..options };
        let anchor = Rc::new(Anchor(RefCell::new(Weak::new())));
        let link: Rc<dyn Link> = anchor.clone();
        let association = associate(host, &protocol, &options, Rc::downgrade(&link)).await?;
        let inner = Rc::new(Inner {
            host: host.clone(),
            geometry: Cell::new(association.limits.geometry),
            uuid: association.uuid,
            instance: Cell::new(association.instance),
            protocol,
            options,
            state: RefCell::new(RemoteState::Up),
            flights: RefCell::new(Flights::new(association.limits)),
            association: RefCell::new(Some(association)),
            turn: Cell::new(0),
            attention: Notify::default(),
            finished: Cell::new(false),
            on_finished: RefCell::default(),
            on_change: RefCell::new(None),
        });
        *anchor.0.borrow_mut() = Rc::downgrade(&inner);
        // A connection may have ended before it could tell.
        inner.attention.notify();
        host.spawn(supervise(inner.clone(), link));
        host.spawn(sweep(Rc::downgrade(&inner)));
        Ok(inner)
    }

    pub(super) fn state(&self) -> RemoteState {
        self.state.borrow().clone()
    }
    pub(super) fn protocol(&self) -> &P {
        &self.protocol
    }
    /// A connection that takes a command now, and something of its association.
    pub(super) fn line<T>(&self, and: impl FnOnce(&P::Extra) -> T) -> Option<(T, Rc<Connection<P::Wire>>)> {
        let association = self.association.borrow();
        let association = association.as_ref()?;
        Some((and(&association.extra), self.next_line(association.io())?.clone()))
    }
    pub(super) fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }
    pub(super) fn instance(&self) -> Option<[u8; 16]> {
        self.instance.get()
    }
    pub(super) fn geometry(&self) -> Geometry {
        self.geometry.get()
    }

    /// Asks the target for the size of the device.
    pub(super) async fn refresh(&self) -> Result<Geometry, Fault> {
        let asked = self.association.borrow().as_ref().map(|a| (a.connections[0].clone(), a.extra));
        let (line, extra) = asked.ok_or(Fault::Gone)?;
        let blocks = P::blocks(&line, extra).await.ok_or(Fault::Gone)?;
        self.grow(blocks);
        Ok(self.geometry())
    }

    fn grow(&self, blocks: Blocks) {
        let was = self.geometry.get();
        self.geometry.set(Geometry { blocks: blocks.max(was.blocks), ..was });
    }
    pub(super) fn on_change(&self, callback: Box<dyn Fn(&RemoteState)>) {
        *self.on_change.borrow_mut() = Some(callback.into());
    }

    fn is_closed(&self) -> bool {
        *self.state.borrow() == RemoteState::Closed
    }

    /// The only place where the state changes. Closed is the end; Failed and Fenced can only be closed.
    fn go(&self, next: RemoteState) {
        {
            let mut state = self.state.borrow_mut();
            let allowed = match (&*state, &next) {
                (RemoteState::Closed, _) => false,
                (RemoteState::Failed(_) | RemoteState::Fenced, next) => *next == RemoteState::Closed,
                (now, next) => now != next,
            };
            if !allowed {
                return;
            }
            *state = next.clone();
        }
        let callback = self.on_change.borrow().clone();
        if let Some(callback) = callback {
            callback(&next);
        }
    }

    pub(super) fn submit(&self, request: Request, ticket: Ticket) {
        if let Some(fault) = refusal(&self.state.borrow()) {
            return ticket.fail(fault);
        }
        self.flights.borrow_mut().add(request, ticket);
        self.pump();
    }

    /// Gives waiting parts to queues with free slots. Nobody is called back from here.
    fn pump(&self) {
        let association = self.association.borrow();
        let Some(association) = &*association else { return };
        let mut flights = self.flights.borrow_mut();
        while let Some(line) = self.next_line(association.io()) {
            let Some(part) = flights.next() else { return };
            line.submit(P::command(association, part.op()), Token::Part(part));
        }
    }

    /// A connection that takes a command now, in turn.
    fn next_line<'a>(&self, lines: &'a [Rc<Connection<P::Wire>>]) -> Option<&'a Rc<Connection<P::Wire>>> {
        let from = self.turn.get();
        let found = (0..lines.len()).map(|i| (from + i) % lines.len()).find(|i| lines[*i].free() > 0)?;
        self.turn.set(found + 1);
        Some(&lines[found])
    }

    /// Parts were answered: answers go out when nothing is borrowed, freed slots are filled.
    fn completed(&self, parts: &mut Replies) {
        let mut answers = Answers::new();
        {
            let mut flights = self.flights.borrow_mut();
            for (part, reply, data) in parts.drain(..) {
                flights.done(part, reply, data, &mut answers);
            }
        }
        self.pump();
        answer(answers);
    }

    pub(super) fn begin_close(&self) {
        self.go(RemoteState::Closed);
        self.give_up(Fault::Aborted);
        self.attention.notify();
    }

    fn give_up(&self, fault: Fault) {
        let mut answers = Answers::new();
        self.flights.borrow_mut().fail_all(fault, &mut answers);
        answer(answers);
    }

    /// The target is known to be down: nobody waits for it any more.
    fn lose(&self) {
        if *self.state.borrow() == RemoteState::Reconnecting {
            self.go(RemoteState::Lost);
            let mut answers = Answers::new();
            self.flights.borrow_mut().lose_all(&mut answers);
            answer(answers);
        }
    }

    pub(super) async fn closed(&self) {
        if self.finished.get() {
            return;
        }
        let (tx, rx) = oneshot::channel();
        self.on_finished.borrow_mut().push(tx);
        // Dropped when all is over.
        let _ = rx.await;
    }

    /// Waits for `future`, unless the disk is closed first.
    async fn unless_closed<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let closed = async {
            while !self.is_closed() {
                self.attention.notified().await;
            }
        };
        match select(std::pin::pin!(future), std::pin::pin!(closed)).await {
            Either::Left((value, _)) if !self.is_closed() => Some(value),
            _ => None,
        }
    }

    /// Takes a broken association down: what was in flight waits for the next one.
    fn take_down(&self) -> Option<Association<P>> {
        let association = self.association.borrow_mut().take()?;
        association.end();
        let orphans: Vec<_> = association.connections.iter().flat_map(|connection| connection.orphans()).collect();
        // Rule: what was on a connection that ended is sent again, or answered.
        if mutant(Mutant::DropTicketOnReset) {
            self.flights.borrow_mut().forget(&orphans);
        } else {
            self.flights.borrow_mut().again(orphans);
        }
        Some(association)
    }

    /// Whether a new association leads to the same namespace, with everything in it that was answered.
    fn recognise(&self, association: &Association<P>) -> Result<(), RemoteError> {
        let changed = |why: String| Err(RemoteError::Changed { uri: self.protocol.uri(), why });
        let (was, is) = (self.geometry(), association.limits.geometry);
        if association.uuid != self.uuid {
            let name = |uuid: Option<Uuid>| uuid.map_or("one without a UUID".to_owned(), |uuid| uuid.to_string());
            return changed(format!("expected the namespace {}, found {}", name(self.uuid), name(association.uuid)));
        }
        if is.block_size != was.block_size || is.blocks < was.blocks {
            return changed(format!(
                "the namespace had {} blocks of {} bytes and has {} of {} now",
                was.blocks,
                was.block_size.bytes(),
                is.blocks,
                is.block_size.bytes()
            ));
        }
        let restarted = matches!((self.instance.get(), association.instance), (Some(a), Some(b)) if a != b);
        let unflushed = self.flights.borrow().unflushed();
        let fails = match self.options.on_restart {
            OnRestart::Fail => unflushed > 0,
            OnRestart::FailAlways => true,
            OnRestart::Resume => false,
        };
        if restarted && fails {
            return changed(format!(
                "the target has restarted and may have lost {unflushed} writes that were not flushed"
            ));
        }
        Ok(())
    }

    fn install(&self, association: Association<P>) {
        self.instance.set(association.instance);
        self.flights.borrow_mut().set_limits(association.limits);
        self.grow(association.limits.geometry.blocks);
        *self.association.borrow_mut() = Some(association);
        self.go(RemoteState::Up);
        self.pump();
    }

    /// One tick of the sweep: deadlines, silence, keep-alive.
    fn tick(&self, watch: &mut Watch) {
        let mut answers = Answers::new();
        let known = self.flights.borrow_mut().tick(watch.deadline, &mut answers);
        {
            let association = self.association.borrow();
            match &*association {
                None => watch.down += 1,
                Some(association) => {
                    watch.down = 0;
                    let probe = watch.look(association, known) | watch.keep_alive_is_due();
                    if probe {
                        P::probe(association);
                    }
                }
            }
        }
        if watch.down > watch.deadline && *self.state.borrow() == RemoteState::Reconnecting {
            self.go(RemoteState::Lost);
        }
        self.pump();
        answer(answers);
    }
}

fn answer(answers: Answers) {
    for (ticket, outcome) in answers {
        ticket.answer(outcome);
    }
}

/// What the sweep remembers from tick to tick.
struct Watch {
    /// Ticks of the deadline.
    deadline: u32,
    /// Ticks without an association.
    down: u32,
    /// For each connection: what it had received, and for how many ticks nothing has come while something should.
    quiet: Vec<(u64, u32)>,
    /// Ticks between keep-alives (0: none), and since the last.
    every: u32,
    since: u32,
}

impl Watch {
    fn keep_alive_is_due(&mut self) -> bool {
        if self.every == 0 {
            return false;
        }
        self.since += 1;
        if self.since < self.every {
            return false;
        }
        self.since = 0;
        true
    }

    /// Ends an association whose target has gone silent. `known`: a request that the target knew of has passed its
    /// deadline. Returns whether the target should be asked for a sign of life: a slow disk keeps an I/O queue silent,
    /// a dead target the admin queue as well.
    fn look<P: Protocol>(&mut self, association: &Association<P>, known: bool) -> bool {
        self.quiet.resize(association.connections.len(), (0, 0));
        let mut probe = false;
        for (connection, (received, ticks)) in association.connections.iter().zip(&mut self.quiet) {
            let now = connection.received();
            *ticks = if connection.in_flight() > 0 && now == *received { *ticks + 1 } else { 0 };
            *received = now;
            probe |= *ticks > 0;
        }
        // Half of the deadline, so that there is time left to try again.
        if self.quiet[0].1 >= self.deadline / 2 {
            self.quiet.clear();
            association.connections[0].fail(Loss::Silent);
        }
        // The target holds a command for too long, although it answers others. A new association makes sure that it
        // does not carry it out at some later time.
        if known && let Some(line) = association.io().first() {
            line.fail(Loss::Unanswered);
        }
        probe
    }
}

/// Counts time for all requests together, so that none needs a timer of its own.
async fn sweep<P: Protocol>(disk: Weak<Inner<P>>) {
    let Some(inner) = disk.upgrade() else { return };
    let (host, deadline, keep_alive) = (inner.host.clone(), inner.options.command_deadline, inner.options.keep_alive);
    drop(inner);
    let mut interval = deadline / TICKS;
    let mut every = 0;
    if !keep_alive.is_zero() {
        interval = interval.min(keep_alive / 4).max(SHORTEST_TICK);
        every = ticks(keep_alive / 2, interval);
    }
    let mut watch = Watch { deadline: ticks(deadline, interval), down: 0, quiet: Vec::new(), every, since: 0 };
    loop {
        host.sleep(interval).await;
        match disk.upgrade() {
            Some(inner) if !inner.is_closed() => inner.tick(&mut watch),
            _ => return,
        }
    }
}

/// How many whole intervals a time has, at least one.
fn ticks(time: Duration, interval: Duration) -> u32 {
    u32::try_from(time.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX).max(1)
}

/// Keeps the disk up until it is closed or has failed for good.
async fn supervise<P: Protocol>(inner: Rc<Inner<P>>, link: Rc<dyn Link>) {
    loop {
        inner.attention.notified().await;
        if inner.is_closed() {
            break;
        }
        let is_over = inner.association.borrow().as_ref().is_some_and(|a| a.why_over().is_some());
        if !is_over {
            continue;
        }
        inner.go(RemoteState::Reconnecting);
        let old = inner.take_down();
        match reconnect(&inner, &link, old).await {
            Some(Ok(association)) => {
                inner.install(association);
                // It may have ended again already.
                inner.attention.notify();
            }
            Some(Err(error)) => {
                let end = match error {
                    RemoteError::HostRefused { .. } => RemoteState::Fenced,
                    error => RemoteState::Failed(error.to_string()),
                };
                let fault = refusal(&end).expect("nothing is served in an end state");
                inner.go(end);
                inner.give_up(fault);
                // Nothing more will happen, but close() still wants its answer.
                while !inner.is_closed() {
                    inner.attention.notified().await;
                }
                break;
            }
            None => break,
        }
    }
    let association = inner.association.borrow_mut().take();
    if let Some(association) = association {
        P::close(&association, &inner.host).await;
    }
    inner.finished.set(true);
    inner.on_finished.borrow_mut().clear();
}

/// Tries until there is an association to the same namespace. `None` when the disk was closed meanwhile.
async fn reconnect<P: Protocol>(
    inner: &Inner<P>,
    link: &Rc<dyn Link>,
    old: Option<Association<P>>,
) -> Option<Result<Association<P>, RemoteError>> {
    let mut pause = BACKOFF.0;
    let mut old = old;
    let patience = inner.options.refused_deadline.min(inner.options.command_deadline);
    let dead_at = inner.host.now() + patience;
    loop {
        let slept = inner.unless_closed(inner.host.sleep(pause)).await;
        // By now a target that broke the protocol has been told why.
        for connection in old.take().iter().flat_map(|old| &old.connections) {
            connection.hang_up();
        }
        slept?;
        let made = associate(&inner.host, &inner.protocol, &inner.options, Rc::downgrade(link));
        match inner.unless_closed(made).await? {
            Ok(association) => match inner.recognise(&association) {
                Ok(()) => return Some(Ok(association)),
                Err(error) => {
                    P::close(&association, &inner.host).await;
                    return Some(Err(error));
                }
            },
            Err(error) if error.is_final() => return Some(Err(error)),
            Err(RemoteError::Connect { why, .. }) if why.kind() == io::ErrorKind::ConnectionRefused => {
                pause = (pause * 2).min(BACKOFF.1);
                let now = inner.host.now();
                if now >= dead_at {
                    inner.lose();
                } else {
                    pause = pause.min(dead_at.since(now));
                }
            }
            Err(_) => pause = (pause * 2).min(BACKOFF.1),
        }
    }
}
