//! What everything on one data thread shares: the ring, the timers, the way to wake the thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use block::Instant;
use rustix::time::{ClockId, clock_gettime};

use crate::action::Action;
use crate::disk::Job;
use crate::helper::Helpers;
use crate::parker::Parker;
use crate::patience::Patience;
use crate::sys::{Key, Landed, Ring, Wait};
use crate::timers::Timers;

/// Who waits for an operation.
pub(crate) enum Owner {
    /// The thread itself: the operation is its doorbell.
    Doorbell,
    /// A request to a disk.
    Job(Job),
    /// A future that may or may not still exist.
    Slot(Rc<Slot>),
}

/// The shared parts of one data thread. Nothing here is borrowed while a callback or a waker runs.
pub(crate) struct Core {
    ring: RefCell<Ring<Owner>>,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) helpers: Helpers,
    parker: Arc<Parker>,
    bell: Rc<OwnedFd>,
    patience: Patience,
    closed: Cell<bool>,
}

impl Core {
    /// The core of the calling thread, which may look at the ring for up to `spin` before it sleeps.
    pub(crate) fn new(parker: Arc<Parker>, spin: Duration) -> io::Result<Rc<Core>> {
        let core = Rc::new(Core {
            ring: RefCell::new(Ring::new()?),
            timers: RefCell::default(),
            helpers: Helpers::default(),
            bell: Rc::new(parker.bell()?),
            parker,
            patience: Patience::new(spin),
            closed: Cell::new(false),
        });
        core.arm_doorbell();
        Ok(core)
    }

    fn arm_doorbell(&self) {
        self.ring.borrow_mut().start(self.bell.clone(), Action::Wake(Box::default()), Owner::Doorbell);
    }

    /// The monotonic clock.
    pub(crate) fn now(&self) -> Instant {
        let t = clock_gettime(ClockId::Monotonic);
        Instant(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    /// Whether the thread has ended; nothing can be started any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Starts an operation of a disk request.
    pub(crate) fn start_job(&self, fd: &Rc<OwnedFd>, action: Action, job: Job) {
        self.ring.borrow_mut().start(fd.clone(), action, Owner::Job(job));
    }

    /// Starts an operation whose result the slot keeps for a future.
    pub(crate) fn start_slot(&self, fd: &Rc<OwnedFd>, action: Action, slot: &Rc<Slot>) {
        let key = self.ring.borrow_mut().start(fd.clone(), action, Owner::Slot(slot.clone()));
        slot.0.replace(State::Flying { key, waker: None });
    }

    /// Ends the slot's operation early, if it has one in flight.
    pub(crate) fn cancel_slot(&self, slot: &Slot) {
        let key = match &*slot.0.borrow() {
            State::Flying { key, .. } => *key,
            State::Idle | State::Landed(..) => return,
        };
        self.ring.borrow_mut().cancel(key);
    }

    /// Wakes those whose time has come.
    pub(crate) fn fire_timers(&self) {
        if self.timers.borrow().first().is_none() {
            return;
        }
        let now = self.now();
        loop {
            let due = self.timers.borrow_mut().take_due(now);
            match due {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }

    /// Hands what was started to the kernel, without waiting.
    pub(crate) fn submit(&self) {
        self.ring.borrow_mut().submit(Wait::No);
    }

    /// Hands what was started to the kernel and waits for a completion, a timer, or until `has_work`, which other
    /// threads may cause together with a call to `unpark`.
    pub(crate) fn wait(&self, has_work: impl Fn() -> bool) {
        let mut ring = self.ring.borrow_mut();
        let first = self.timers.borrow().first();
        let watch = self.patience.watch();
        if !watch.is_zero() {
            ring.submit(Wait::No);
            let until = self.now() + watch;
            while !ring.has_landed() && !has_work() {
                let now = self.now();
                if first.is_some_and(|due| due <= now) {
                    return;
                }
                if now >= until {
                    self.patience.missed();
                    break;
                }
                std::hint::spin_loop();
            }
            if ring.has_landed() {
                self.patience.hit();
                ring.submit(Wait::No);
                return;
            }
        }
        self.parker.prepare();
        if has_work() {
            ring.submit(Wait::No);
        } else {
            let before = self.patience.wants_to_know().then(|| self.now());
            ring.submit(Wait::AtMost(first.map(|due| due.since(self.now()))));
            if let Some(before) = before {
                self.patience.slept(self.now().since(before));
            }
        }
        self.parker.awake();
    }

    /// Passes on everything that has landed.
    pub(crate) fn reap(self: &Rc<Core>) {
        loop {
            let landed = self.ring.borrow_mut().next();
            let Some(Landed { action, owner, result }) = landed else { return };
            match owner {
                Owner::Doorbell => self.arm_doorbell(),
                Owner::Job(job) => job.landed(self, action, result),
                Owner::Slot(slot) => slot.landed(action, result),
            }
        }
    }

    /// The end of the thread: takes back what the kernel still works on.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        let landed = self.ring.borrow_mut().drain();
        block::at_world_end(|| drop(landed));
    }
}

/// Where one operation's result waits for a future, or for the one after it when the first was dropped.
///
/// ```text
///   Idle ── start ──> Flying ── the kernel answers ──> Landed ── take ──> Idle
/// ```
#[derive(Default)]
pub(crate) struct Slot(RefCell<State>);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Flying {
        key: Key,
        waker: Option<Waker>,
    },
    Landed(Action, io::Result<usize>),
}

impl Slot {
    /// Whether no operation is in flight and no result waits.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(*self.0.borrow(), State::Idle)
    }

    /// Takes the result of the operation, or arranges to be woken by it. Pending without a wake when idle.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<(Action, io::Result<usize>)> {
        let mut state = self.0.borrow_mut();
        if let State::Flying { waker, .. } = &mut *state {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match std::mem::take(&mut *state) {
            State::Landed(action, result) => Poll::Ready((action, result)),
            State::Idle | State::Flying { .. } => Poll::Pending,
        }
    }

    /// Waits for the result of the operation.
    pub(crate) async fn wait(&self) -> (Action, io::Result<usize>) {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Puts back a result, or the part of it that was not used.
    pub(crate) fn put_back(&self, action: Action, result: io::Result<usize>) {
        self.0.replace(State::Landed(action, result));
    }

    fn landed(&self, action: Action, result: io::Result<usize>) {
        if let State::Flying { waker: Some(waker), .. } = self.0.replace(State::Landed(action, result)) {
            waker.wake();
        }
    }
}
