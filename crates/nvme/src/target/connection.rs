//! One connection: its receiving and sending halves, its commands, and its place in a controller.

use std::time::Duration;

use block::{BufMut, Data, HostId, Instant, limits};

use super::output::Output;
use super::receive::{Place, Receiver};
use super::sessions::Claim;
use super::slots::{Slots, Work};
use super::{Receive, SubsystemId};
use crate::completion::Cqe;
use crate::fabrics::SQ_HEAD_DISABLED;
use crate::pdu::flags;
use crate::{Status, wire::Le16};

/// How long a host may take from its connection to its Connect.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a host may take to close after a termination request.
pub(super) const TERMINATION: Duration = Duration::from_secs(2);
/// How long the last answers may take to be sent when a subsystem is no longer served.
pub(super) const FINISHING: Duration = Duration::from_secs(5);
/// With this many bytes unsent nothing more is received: a host that does not read gets no more work done.
const OUTPUT_BYTES: usize = 8 << 20;

/// How far a connection is.
///
/// ```text
///  Greeting ─ICReq─► Unconnected ─Connect─► Joined ─unexport─► Finishing ─┐
///     │                  │                    │                           │ last answer sent
///     ├──────────────────┴─ protocol error ───┴─► Terminating ─┐          │
///     │                                                        │ peer closed, or time is up
///     └─ socket lost, controller ended ───────────────────► Closed ◄──────┘
///                                                              │ no command at the disk
///                                                              ▼
///                                                            Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for an ICReq.
    Greeting,
    /// Waits for a Connect.
    Unconnected,
    /// A queue of a controller.
    Joined,
    /// Takes no commands any more, answers those at the disk.
    Finishing,
    /// A termination request was sent; what is received is ignored.
    Terminating,
    /// The socket is closed or to be closed; commands may be at the disk.
    Closed,
    /// Nothing is left.
    Ended,
}

/// A connection's place in a controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    /// CNTLID.
    pub controller: u16,
    /// QID; 0 is the admin queue.
    pub queue: u16,
    /// The subsystem; `None` for discovery.
    pub subsystem: Option<SubsystemId>,
    /// The host's identifier.
    pub host: HostId,
    /// Whether the host has to claim the member by its first write.
    pub claim: Claim,
}

/// Submission queue flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// SQHD is reported; it is this now, and the queue has so many entries.
    Controlled { head: u16, entries: u16 },
    /// The host asked to do without.
    Disabled,
}

/// A point in time that is known only when the machine is next told the time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// None.
    Off,
    /// So long after the next time that we are told.
    After(Duration),
    /// Then.
    At(Instant),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub stage: Stage,
    pub role: Option<Role>,
    pub receiver: Receiver,
    pub output: Output,
    pub slots: Slots,
    pub flow: Flow,
    /// Bytes arrived since the keep-alive timer was looked at last.
    pub heard: bool,
    /// When the connection is closed if nothing happens.
    pub timer: Timer,
    /// The command whose buffer is lent for receiving.
    lent: Option<u16>,
}

impl Connection {
    pub fn new(now: Instant) -> Connection {
        Connection {
            stage: Stage::Greeting,
            role: None,
            receiver: Receiver::new(),
            output: Output::default(),
            slots: Slots::new(limits::ADMIN_QUEUE_ENTRIES.into()),
            flow: Flow::Controlled { head: 0, entries: 1 },
            heard: false,
            timer: Timer::At(now + HANDSHAKE),
            lent: None,
        }
    }

    /// Whether what the host sends is looked at.
    pub fn listens(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Unconnected | Stage::Joined)
    }

    pub fn receive(&mut self) -> Option<Receive> {
        let may_receive = self.listens() || self.stage == Stage::Terminating;
        if !may_receive || self.lent.is_some() || self.output.len() >= OUTPUT_BYTES {
            return None;
        }
        match self.receiver.place(self.slots.receiving > 0)? {
            Place::Staging { buf, from, max } => Some(Receive { buf, from, max }),
            Place::Command { slot, from, max } => {
                let Some(Work::Receiving { buf, .. }) = self.slots.get_mut(slot) else {
                    unreachable!("data is received for a command that waits for it");
                };
                let buf = buf.take().expect("nothing else borrows the buffer");
                self.lent = Some(slot);
                Some(Receive { buf, from, max })
            }
        }
    }

    /// Takes a buffer back, with `received` new bytes.
    pub fn give_back(&mut self, buf: BufMut, received: usize) {
        self.heard = true;
        match self.lent.take() {
            None => self.receiver.staged(buf, received),
            Some(slot) => {
                // The command is gone when the connection was closed meanwhile.
                if let Some(Work::Receiving { buf: place, .. }) = self.slots.get_mut(slot) {
                    self.receiver.received_directly(&buf, received);
                    *place = Some(buf);
                }
            }
        }
    }

    /// Answers a command without data.
    pub fn answer(&mut self, slot: u16, result: u64, status: Status) {
        let cid = self.slots.cid(slot);
        self.slots.remove(slot);
        self.answer_cid(cid, result, status);
    }

    /// Sends a completion for a command that has no slot (any more).
    pub fn answer_cid(&mut self, cid: u16, result: u64, status: Status) {
        if !matches!(self.stage, Stage::Unconnected | Stage::Joined | Stage::Finishing) {
            return;
        }
        let sq_head = Le16::new(self.advance());
        let status = Le16::new(status.to_wire());
        self.output.response(Cqe { result: result.into(), sq_head, sq_id: Le16::new(0), cid: cid.into(), status });
    }

    /// Answers a command that succeeded, with data.
    pub fn answer_with(&mut self, slot: u16, data: Data) {
        let cid = self.slots.cid(slot);
        if !matches!(self.stage, Stage::Joined | Stage::Finishing) {
            self.slots.remove(slot);
        } else if self.flow == Flow::Disabled {
            // Without flow control the completion says nothing that the flag does not (TCP 3.3.2.1).
            self.slots.remove(slot);
            self.output.data(cid, data, flags::SUCCESS);
        } else {
            self.output.data(cid, data, 0);
            self.answer(slot, 0, Status::SUCCESS);
        }
    }

    fn advance(&mut self) -> u16 {
        match &mut self.flow {
            Flow::Disabled => SQ_HEAD_DISABLED,
            Flow::Controlled { head, entries } => {
                *head = (*head + 1) % (*entries).max(1);
                *head
            }
        }
    }
}
