//! One connection, which is also one session: its receiving and sending halves, its numbers, its commands.

use std::collections::VecDeque;
use std::time::Duration;

use block::{Buf, BufMut, Data, Instant, limits};

use super::login::Login;
use super::output::Output;
use super::receive::{Place, Receiver};
use super::tasks::Tasks;
use super::{ExportId, Receive};
use crate::params::Params;
use crate::pdu::{self, Bhs, NO_TAG, RejectReason, Residual};
use crate::scsi::reserve::Port;
use crate::scsi::{Failure, Sense, status};
use crate::wire::put16;

/// How long an initiator may take to log in.
pub(super) const LOGIN_TIME: Duration = Duration::from_secs(15);
/// After so long without a word the initiator is asked whether it is still there, and after as long again it is given up.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// How long the last answers may take to be sent.
pub(super) const FINISHING: Duration = Duration::from_secs(5);
/// With this many bytes unsent nothing more is received: an initiator that does not read gets no more work done.
const OUTPUT_BYTES: usize = 8 << 20;
/// Unit attentions that wait; more are not of interest to anybody.
const ATTENTIONS: usize = 8;

/// How far a connection is.
///
/// ```text
///  Login ─last request─► Held ─older sessions at rest─► Full ──logout──► LoggingOut ─┐ no command at the disk
///    │                    │                              │                           ▼
///    │                    │                              ├──unexport, broken rule──► Finishing ─┐ last answer sent
///    └────────────────────┴──── socket lost, replaced ───┴──────────────────────► Closed ◄──────┘
///                                                                                   │ no command at the disk
///                                                                                   ▼
///                                                                                 Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Negotiates.
    Login,
    /// The last login answer waits until no command of an older session of the same initiator is at a disk.
    Held,
    /// Full feature phase.
    Full,
    /// A logout is answered when no command is at the disk; nothing more is listened to.
    LoggingOut { itt: u32 },
    /// Takes no commands any more, answers those at the disk.
    Finishing,
    /// The socket is closed or to be closed; commands may be at the disk.
    Closed,
    /// Nothing is left.
    Ended,
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

/// Whether the initiator is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It sent something since the timer was set.
    Heard,
    /// It did not.
    Silent,
    /// It did not, and was asked.
    Asked,
}

/// Who is at the other end, once it has logged in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// The initiator's port.
    pub port: Port,
    /// What it works with; `None` in a discovery session.
    pub export: Option<ExportId>,
    pub tsih: u16,
}

/// Which numbers a PDU carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbered {
    /// It carries a status: it uses up a StatSN.
    Status,
    /// It tells the next StatSN.
    Next,
    /// It has none.
    No,
}

/// Text that comes or goes in several PDUs.
#[derive(Debug, Default)]
pub(super) struct LongText {
    pub request: Vec<u8>,
    pub reply: VecDeque<Vec<u8>>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub stage: Stage,
    pub login: Option<Box<Login>>,
    pub session: Option<Session>,
    pub params: Params,
    pub receiver: Receiver,
    pub output: Output,
    pub tasks: Tasks,
    /// The PDU whose data is being received.
    pub current: super::full::Current,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub text: LongText,
    pub attentions: VecDeque<Sense>,
    pub presence: Presence,
    /// When the connection is closed if nothing happens.
    pub timer: Timer,
    /// The command whose buffer is lent for receiving.
    lent: Option<u32>,
    next_ttt: u32,
}

impl Connection {
    pub fn new(now: Instant, seed: [u8; 16]) -> Connection {
        Connection {
            stage: Stage::Login,
            login: Some(Box::new(Login::new(seed))),
            session: None,
            params: Params::default(),
            receiver: Receiver::new(),
            output: Output::default(),
            tasks: Tasks::default(),
            current: super::full::Current::Ignored,
            stat_sn: 0,
            exp_cmd_sn: 0,
            text: LongText::default(),
            attentions: VecDeque::new(),
            presence: Presence::Heard,
            timer: Timer::At(now + LOGIN_TIME),
            lent: None,
            next_ttt: 0,
        }
    }

    /// Whether what the initiator sends is looked at.
    pub fn listens(&self) -> bool {
        matches!(self.stage, Stage::Login | Stage::Held | Stage::Full)
    }

    /// What it works with.
    pub fn export(&self) -> Option<ExportId> {
        self.session.as_ref().and_then(|s| s.export)
    }

    pub fn receive(&mut self) -> Option<Receive> {
        if !self.listens() || self.lent.is_some() || self.output.len() >= OUTPUT_BYTES {
            return None;
        }
        match self.receiver.place(self.tasks.receiving > 0)? {
            Place::Staging { buf, from, max } => Some(Receive { buf, from, max }),
            Place::Task { slot, from, max } => {
                let buf = self.tasks.get_mut(slot).and_then(|task| task.buf.take());
                self.lent = Some(slot);
                Some(Receive { buf: buf.expect("data is received for a command that waits for it"), from, max })
            }
        }
    }

    /// Takes a buffer back, with `received` new bytes.
    pub fn give_back(&mut self, buf: BufMut, received: usize) {
        self.presence = Presence::Heard;
        match self.lent.take() {
            None => self.receiver.staged(buf, received),
            Some(slot) => {
                self.receiver.received_directly(&buf, received);
                // The command is gone when it was aborted meanwhile.
                if let Some(task) = self.tasks.get_mut(slot) {
                    task.buf = Some(buf);
                }
            }
        }
    }

    /// A target transfer tag that is not in use.
    pub fn ttt(&mut self) -> u32 {
        self.next_ttt = (self.next_ttt + 1) % NO_TAG;
        self.next_ttt
    }

    /// How many more commands are taken.
    pub fn window(&self) -> u32 {
        limits::ISCSI_TASKS - self.tasks.in_window()
    }

    /// Sends a PDU with the numbers of this moment.
    pub fn send(&mut self, mut bhs: Bhs, data: Data, numbered: Numbered) {
        if matches!(self.stage, Stage::Closed | Stage::Ended) {
            return;
        }
        let stat_sn = (numbered != Numbered::No).then_some(self.stat_sn);
        let max_cmd_sn = self.exp_cmd_sn.wrapping_add(self.window()).wrapping_sub(1);
        pdu::set_numbers(&mut bhs, stat_sn, self.exp_cmd_sn, max_cmd_sn);
        if numbered == Numbered::Status {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
        self.output.pdu(bhs, data);
    }

    /// Rejects a PDU.
    pub fn reject(&mut self, bhs: &Bhs, reason: RejectReason) {
        let mut reject = pdu::header(pdu::opcode::REJECT, pdu::FINAL, NO_TAG);
        reject[2] = reason as u8;
        self.send(reject, Data::from(Buf::copy_of(bhs)), Numbered::Status);
    }

    /// The next answer to a command tells this.
    pub fn attention(&mut self, sense: Sense) {
        if self.attentions.len() < ATTENTIONS && !self.attentions.contains(&sense) {
            self.attentions.push_back(sense);
        }
    }

    /// Answers a command, which has left its slot.
    pub fn answer(&mut self, itt: u32, expected: u32, r2ts: u32, outcome: Result<Success, (Failure, u64)>) {
        match outcome {
            Ok(Success::Sent(bytes)) => {
                let bhs = pdu::response(itt, status::GOOD, Residual::of(expected, bytes), r2ts);
                self.send(bhs, Data::empty(), Numbered::Status);
            }
            Ok(Success::Data(data)) => self.answer_with(itt, expected, data),
            Err((failure, transfer)) => {
                let bhs = pdu::response(itt, failure.status(), Residual::of(expected, transfer), r2ts);
                let data = match failure {
                    Failure::Check(sense) => Data::from(sense_segment(sense)),
                    Failure::Conflict | Failure::Full => Data::empty(),
                };
                self.send(bhs, data, Numbered::Status);
            }
        }
    }

    /// Sends the data of a command, and with the last of it the status.
    fn answer_with(&mut self, itt: u32, expected: u32, data: Data) {
        let residual = Residual::of(expected, data.len() as u64);
        let total = data.len().min(expected as usize);
        if total == 0 {
            let bhs = pdu::response(itt, status::GOOD, residual, 0);
            return self.send(bhs, Data::empty(), Numbered::Status);
        }
        let (segment, burst) = (self.params.peer_segment as usize, self.params.max_burst as usize);
        let mut parts = Parts::new(data);
        let (mut at, mut data_sn) = (0, 0);
        while at < total {
            let end = total.min(at + segment).min((at / burst + 1) * burst);
            let mut bhs = pdu::data_in(itt, end == total || end % burst == 0, data_sn, at as u32);
            let piece = parts.take(end - at);
            if end == total {
                pdu::with_status(&mut bhs, residual);
                self.send(bhs, piece, Numbered::Status);
            } else {
                self.send(bhs, piece, Numbered::No);
            }
            at = end;
            data_sn += 1;
        }
    }
}

/// How a command succeeded.
#[derive(Debug)]
pub(super) enum Success {
    /// It needed so many bytes of data from the initiator.
    Sent(u64),
    /// It has this data for the initiator.
    Data(Data),
}

/// The data segment of a response with sense data: its length, then itself (11.4.7).
fn sense_segment(sense: Sense) -> Buf {
    let bytes = sense.to_bytes();
    let mut segment = BufMut::new(2 + bytes.len());
    put16(&mut segment, 0, bytes.len() as u16);
    segment[2..].copy_from_slice(&bytes);
    segment.freeze()
}

/// Data that is taken piece by piece, without a copy.
struct Parts {
    bufs: VecDeque<Buf>,
}

impl Parts {
    fn new(data: Data) -> Parts {
        Parts { bufs: data.into_iter().collect() }
    }
    fn take(&mut self, mut n: usize) -> Data {
        let mut piece = Data::empty();
        while n > 0 {
            let Some(buf) = self.bufs.pop_front() else { break };
            if buf.len() > n {
                self.bufs.push_front(buf.slice(n..buf.len()));
                piece.push(buf.slice(0..n));
                break;
            }
            n -= buf.len();
            piece.push(buf);
        }
        piece
    }
}
