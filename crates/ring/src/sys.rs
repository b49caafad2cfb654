//! An io_uring whose operations own their memory.
//!
//! This file, `action` and `memory` hold all `unsafe` code of the project. The argument here and in `action` is the same: the kernel gets
//! pointers only into memory and descriptors that a [`Flight`] owns, and a flight leaves the slab only when the kernel
//! has posted the completion of its operation. A ring that must go while operations are in flight cancels them and
//! waits; when the kernel does not give them back (a disk that hangs), their memory is leaked, never freed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use slab::Slab;

use crate::action::Action;

/// Entries of the submission queue; more operations wait in the backlog until the next turn.
const SUBMISSIONS: u32 = 1024;
/// Entries of the completion queue; the kernel keeps what does not fit.
const COMPLETIONS: u32 = 16384;
/// How long a ring that goes waits for its operations.
const FAREWELL: Duration = Duration::from_secs(5);
/// `user_data` of a cancellation, whose own completion nobody waits for.
const CANCELLATION: u64 = u64::MAX;

/// Names one operation in flight; not reused before 2^32 others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

struct Flight<O> {
    key: Key,
    fd: Rc<OwnedFd>,
    action: Action,
    owner: O,
}

enum Pending {
    Start(usize),
    Cancel(Key),
}

/// Whether to wait for a completion.
pub(crate) enum Wait {
    /// Only submit.
    No,
    /// Sleep until one arrives, at most so long.
    AtMost(Option<Duration>),
}

/// A completed operation, back from the kernel.
pub(crate) struct Landed<O> {
    pub(crate) action: Action,
    pub(crate) owner: O,
    /// The kernel's answer, mostly a number of bytes.
    pub(crate) result: io::Result<usize>,
}

/// A ring, and who waits for which operation (`O`).
pub(crate) struct Ring<O> {
    /// Dropped by hand, because it must outlive its operations.
    uring: std::mem::ManuallyDrop<IoUring>,
    flights: std::mem::ManuallyDrop<Slab<Flight<O>>>,
    backlog: VecDeque<Pending>,
    started: u32,
}

impl<O> Ring<O> {
    /// A ring for the calling thread. Fails when the kernel has no io_uring, or forbids it.
    pub(crate) fn new() -> io::Result<Ring<O>> {
        let uring = build()?;
        let p = uring.params();
        if !(p.is_feature_nodrop() && p.is_feature_ext_arg() && p.is_feature_fast_poll()) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "Linux 5.11 or later is needed"));
        }
        let (uring, flights) = (std::mem::ManuallyDrop::new(uring), std::mem::ManuallyDrop::new(Slab::new()));
        Ok(Ring { uring, flights, backlog: VecDeque::new(), started: 0 })
    }

    /// Starts an operation. It reaches the kernel with the next [`submit`](Ring::submit).
    pub(crate) fn start(&mut self, fd: Rc<OwnedFd>, action: Action, owner: O) -> Key {
        let slot = self.flights.vacant_entry();
        let index = slot.key();
        let key = Key(u64::from(self.started) << 32 | index as u64);
        // The last value is left out: it could make a key that equals CANCELLATION.
        self.started = (self.started + 1) % u32::MAX;
        slot.insert(Flight { key, fd, action, owner });
        if self.backlog.is_empty() && self.push(index) {
            return key;
        }
        self.backlog.push_back(Pending::Start(index));
        key
    }

    /// Asks the kernel to end an operation early. It still lands, often with an error.
    pub(crate) fn cancel(&mut self, key: Key) {
        if self.flights.get(key.0 as u32 as usize).is_some_and(|f| f.key == key) {
            self.backlog.push_back(Pending::Cancel(key));
        }
    }

    fn push(&mut self, index: usize) -> bool {
        let flight = &mut self.flights[index];
        let entry = flight.action.entry(&flight.fd).user_data(flight.key.0);
        self.push_entry(&entry)
    }

    fn push_entry(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the entry is a cancellation, which has no memory, or points into heap memory that the flight's action
        // owns and names a descriptor that the flight holds open; the flight stays in the slab until it lands (`next`),
        // and nobody touches the action meanwhile. `Drop` keeps this up for flights that never land.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Moves the backlog into the queue, as far as there is room.
    fn push_backlog(&mut self) {
        while let Some(pending) = self.backlog.pop_front() {
            let pushed = match pending {
                Pending::Start(index) => self.push(index),
                Pending::Cancel(key) => {
                    self.push_entry(&opcode::AsyncCancel::new(key.0).build().user_data(CANCELLATION))
                }
            };
            if !pushed {
                self.backlog.push_front(pending);
                return;
            }
        }
    }

    /// Hands everything that was started to the kernel, with one system call unless there is more than a queue-full,
    /// and waits if asked to. Costs no system call when there is nothing to do.
    pub(crate) fn submit(&mut self, wait: Wait) {
        self.push_backlog();
        while !self.backlog.is_empty() {
            let before = self.backlog.len();
            settle(self.uring.submit());
            self.push_backlog();
            if self.backlog.len() == before {
                // The kernel takes nothing for the moment: completions must be reaped first.
                return;
            }
        }
        match wait {
            Wait::No => {
                let queue = self.uring.submission();
                if !queue.is_empty() || queue.taskrun() || queue.cq_overflow() {
                    drop(queue);
                    settle(self.uring.submit());
                }
            }
            Wait::AtMost(None) => settle(self.uring.submit_and_wait(1)),
            Wait::AtMost(Some(limit)) => {
                let limit = types::Timespec::from(limit);
                settle(self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)));
            }
        }
    }

    /// Whether something has landed, or would if the kernel were asked; without a system call.
    pub(crate) fn has_landed(&mut self) -> bool {
        !self.uring.completion().is_empty() || self.uring.submission().taskrun()
    }

    /// The next operation that has landed.
    pub(crate) fn next(&mut self) -> Option<Landed<O>> {
        loop {
            let completion = self.uring.completion().next()?;
            if completion.user_data() == CANCELLATION {
                continue;
            }
            let index = completion.user_data() as u32 as usize;
            let mut flight = self.flights.remove(index);
            assert_eq!(flight.key.0, completion.user_data(), "an operation landed twice");
            let result = match completion.result() {
                code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
                value => {
                    // SAFETY: this is the result of this very action, and it is taken once.
                    unsafe { flight.action.landed(value) };
                    Ok(value as usize)
                }
            };
            return Some(Landed { action: flight.action, owner: flight.owner, result });
        }
    }

    /// Cancels all operations and takes them back; gives up after a while.
    pub(crate) fn drain(&mut self) -> Vec<Landed<O>> {
        let mut landed = Vec::new();
        let keys: Vec<Key> = self.flights.iter().map(|(_, f)| f.key).collect();
        for key in keys {
            self.cancel(key);
        }
        let step = Duration::from_millis(20);
        for _ in 0..FAREWELL.as_millis() / step.as_millis() {
            landed.extend(std::iter::from_fn(|| self.next()));
            if self.flights.is_empty() {
                break;
            }
            self.submit(Wait::AtMost(Some(step)));
        }
        landed
    }
}

impl<O> Drop for Ring<O> {
    fn drop(&mut self) {
        block::at_world_end(|| drop(self.drain()));
        if self.flights.is_empty() {
            // SAFETY: neither is used again; no operation is in flight, so the kernel has no pointer to memory of ours.
            unsafe {
                std::mem::ManuallyDrop::drop(&mut self.uring);
                std::mem::ManuallyDrop::drop(&mut self.flights);
            }
        }
    }
}

/// The best ring that this kernel has.
fn build() -> io::Result<IoUring> {
    let mut best = IoUring::builder();
    best.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    let mut good = IoUring::builder();
    good.setup_coop_taskrun().setup_taskrun_flag();
    let plain = IoUring::builder();
    let mut refused = None;
    for mut builder in [best, good, plain] {
        match builder.setup_cqsize(COMPLETIONS).setup_clamp().build(SUBMISSIONS) {
            Ok(uring) => return Ok(uring),
            // An older kernel does not know a flag.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refused = Some(e),
            Err(e) => return Err(e),
        }
    }
    Err(refused.expect("three attempts were refused"))
}

/// A call into the kernel that was interrupted, timed out, or that wants completions reaped first is no error: the
/// entries stay queued and the next turn tries again.
fn settle(result: io::Result<usize>) {
    match result.map_err(|e| e.raw_os_error()) {
        Ok(_) | Err(Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY)) => (),
        Err(code) => panic!("io_uring_enter failed: {}", io::Error::from_raw_os_error(code.unwrap_or_default())),
    }
}
