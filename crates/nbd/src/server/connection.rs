//! One connection: its receiving and sending halves, and its commands.

use std::time::Duration;

use block::link::{Outgoing, Receive};
use block::{BlockRange, BufMut, Data, Fault, Instant, limits};
use slab::Slab;
use smallvec::SmallVec;

use super::ExportId;
use super::receive::{Mode, Place, Receiver};
use crate::proto::{
    self, CHUNK_BYTES, ChunkHeader, EXTENDED_CHUNK_BYTES, Errno, GREETING, RequestHeader, SIMPLE_REPLY_MAGIC, chunk,
    handshake,
};

/// How long a client may take until it has chosen an export.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long the last answers may take to be sent.
pub(super) const FINISHING: Duration = Duration::from_secs(5);
/// With this many bytes unsent nothing more is received: a client that does not read gets no more work done.
const OUTPUT_BYTES: usize = 8 << 20;

/// How far a connection is.
///
/// ```text
///  Greeting ─client's flags─► Options ─GO, EXPORT_NAME─► Held ─lost connections at rest─► Transmission
///      │                         │                         │                                │      │ DISC,
///      │                         ├── ABORT ───────────────────────────────────────────────────────►│ unexport
///      │                         │                         │                                │      ▼
///      │                         │                         │                                │   Finishing
///      └─────────────────────────┴─── socket lost, a broken rule ───────────────────────────┴─► │ last answer sent
///                                                                                          Closed ◄┘
///                                                                                             │ no command at the disk
///                                                                                             ▼
///                                                                                           Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client's flags are awaited.
    Greeting,
    /// Options are answered.
    Options,
    /// An export is chosen; the answer waits for the end of what lost connections left at its disk.
    Held(Chosen),
    /// Commands are carried out.
    Transmission,
    /// Takes no commands any more, answers those at the disk.
    Finishing,
    /// The socket is closed or to be closed; commands may be at the disk.
    Closed,
    /// Nothing is left.
    Ended,
}

/// How an export was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// With EXPORT_NAME.
    Name,
    /// With GO; what the client wants to know is sent already.
    Go,
}

/// How commands are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Replies {
    Simple,
    Structured,
    Extended,
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

/// What a command wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Read,
    Write {
        durable: bool,
    },
    Flush,
    /// A range that is cleared piece by piece; `rest` is what is not yet given to the disk, `flush` what comes last.
    Clear {
        rest: BlockRange,
        how: Clear,
        flush: bool,
    },
}

/// How a range is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clear {
    Unmap,
    Zero { may_unmap: bool, durable: bool },
}

/// A command.
#[derive(Debug)]
pub(super) struct Task {
    pub header: RequestHeader,
    pub op: Op,
    /// Requests at the disk.
    pub pending: u32,
    /// What they read, in order.
    pub parts: SmallVec<[Data; 1]>,
    pub fault: Option<Fault>,
    /// The payload of a write while it comes; `None` while it is lent.
    pub buf: Option<BufMut>,
}

impl Task {
    /// Bytes of memory that the command takes.
    pub fn bytes(&self) -> usize {
        match self.op {
            Op::Read | Op::Write { .. } => self.header.length as usize,
            Op::Flush | Op::Clear { .. } => 0,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub stage: Stage,
    pub export: Option<ExportId>,
    pub replies: Replies,
    /// No zeroes after the answer to EXPORT_NAME.
    pub no_zeroes: bool,
    /// The export for which base:allocation was chosen.
    pub allocation_of: Option<ExportId>,
    pub receiver: Receiver,
    pub output: Outgoing,
    pub tasks: Slab<Task>,
    /// Commands that are at the disk.
    pub at_disk: usize,
    /// Bytes of payload that its commands have in memory.
    pub bytes: usize,
    pub timer: Timer,
    /// Which buffer the driver has.
    lent: Option<Lent>,
}

#[derive(Clone, Copy, Debug)]
enum Lent {
    Staging,
    Payload(u32),
}

impl Connection {
    pub fn new(now: Instant) -> Connection {
        let mut output = Outgoing::default();
        output.small(&GREETING);
        output.small(&(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
        Connection {
            stage: Stage::Greeting,
            export: None,
            replies: Replies::Simple,
            no_zeroes: false,
            allocation_of: None,
            receiver: Receiver::new(),
            output,
            tasks: Slab::new(),
            at_disk: 0,
            bytes: 0,
            timer: Timer::At(now + HANDSHAKE),
            lent: None,
        }
    }

    pub fn listens(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Options | Stage::Held(_) | Stage::Transmission)
    }

    /// Whether another command may be taken up.
    pub fn has_room(&self) -> bool {
        self.tasks.len() < limits::NBD_COMMANDS && self.output.len() < OUTPUT_BYTES
    }

    /// Whether there is memory for a payload; one is always let in.
    pub fn has_memory(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= limits::NBD_CONNECTION_BYTES
    }

    pub fn receive(&mut self) -> Option<Receive> {
        let is_busy = self.output.len() >= OUTPUT_BYTES || matches!(self.stage, Stage::Held(_));
        if !self.listens() || self.lent.is_some() || is_busy {
            return None;
        }
        if self.receiver.bytes().len() == super::receive::STAGING_BYTES {
            // It is full of commands that wait for room.
            return None;
        }
        match self.receiver.place()? {
            Place::Staging { buf, from, max } => {
                self.lent = Some(Lent::Staging);
                Some(Receive { buf, from, max })
            }
            Place::Payload { slot, from, max } => {
                let buf = self.tasks[slot as usize].buf.take()?;
                self.lent = Some(Lent::Payload(slot));
                Some(Receive { buf, from, max })
            }
        }
    }

    /// Takes a buffer back with `received` more bytes.
    pub fn take_back(&mut self, buf: BufMut, received: usize) {
        match self.lent.take() {
            Some(Lent::Staging) => self.receiver.staged(buf, received),
            // The connection may have been closed meanwhile; then the command is gone.
            Some(Lent::Payload(slot)) => {
                if let Some(task) = self.tasks.get_mut(slot as usize) {
                    task.buf = Some(buf);
                    self.receiver.received_directly(received);
                }
            }
            None => {}
        }
    }

    /// Adds a command.
    pub fn begin(&mut self, task: Task) -> u32 {
        self.bytes += task.bytes();
        self.tasks.insert(task) as u32
    }

    /// Forgets a command that is not at the disk.
    pub fn end(&mut self, slot: u32) -> Task {
        let task = self.tasks.remove(slot as usize);
        self.bytes -= task.bytes();
        task
    }

    /// Forgets what is still being received; the payload of no command comes any more.
    pub fn drop_unsent(&mut self) {
        let slots: Vec<u32> =
            self.tasks.iter().filter(|(_, task)| task.pending == 0).map(|(slot, _)| slot as u32).collect();
        for slot in slots {
            self.end(slot);
        }
        self.receiver.discard();
        self.receiver.mode = Mode::Header;
    }

    pub fn answer_option(&mut self, option: u32, reply: u32, data: &[u8]) {
        let magic = proto::OPTION_REPLY_MAGIC.to_be_bytes();
        let len = (data.len() as u32).to_be_bytes();
        let header = [&magic[..], &option.to_be_bytes(), &reply.to_be_bytes(), &len].concat();
        self.output.small(&header);
        data.chunks(2048).for_each(|piece| self.output.small(piece));
    }

    /// Answers a command that has no data.
    pub fn answer(&mut self, request: &RequestHeader, result: Result<(), Errno>) {
        if self.replies == Replies::Simple {
            return self.simple_reply(request, result.err());
        }
        let Err(errno) = result else { return self.chunk(request, chunk::NONE, 0) };
        // No message: the number says it.
        self.chunk(request, chunk::ERROR, 6);
        self.output.small(&errno.0.to_be_bytes());
        self.output.small(&[0, 0]);
    }

    /// Answers a read.
    pub fn answer_read(&mut self, request: &RequestHeader, parts: impl IntoIterator<Item = Data>) {
        if self.replies == Replies::Simple {
            self.simple_reply(request, None);
        } else {
            self.chunk(request, chunk::OFFSET_DATA, 8 + request.length);
            self.output.small(&request.offset.to_be_bytes());
        }
        parts.into_iter().flatten().for_each(|buf| self.output.large(buf));
    }

    /// Answers a BLOCK_STATUS: one extent.
    pub fn answer_status(&mut self, request: &RequestHeader, context: u32, length: u64, flags: u32) {
        if self.replies == Replies::Extended {
            self.chunk(request, chunk::BLOCK_STATUS_EXT, 24);
            self.output.small(&context.to_be_bytes());
            self.output.small(&1u32.to_be_bytes());
            self.output.small(&length.to_be_bytes());
            self.output.small(&u64::from(flags).to_be_bytes());
        } else {
            self.chunk(request, chunk::BLOCK_STATUS, 12);
            self.output.small(&context.to_be_bytes());
            self.output.small(&(length as u32).to_be_bytes());
            self.output.small(&flags.to_be_bytes());
        }
    }

    fn simple_reply(&mut self, request: &RequestHeader, error: Option<Errno>) {
        let mut bytes = [0; proto::SIMPLE_REPLY_BYTES];
        bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&error.map_or(0, |e| e.0).to_be_bytes());
        bytes[8..].copy_from_slice(&request.cookie.to_be_bytes());
        self.output.small(&bytes);
    }

    /// The header of the only chunk of a reply.
    fn chunk(&mut self, request: &RequestHeader, kind: u16, length: u64) {
        let RequestHeader { cookie, offset, .. } = *request;
        let header = ChunkHeader { flags: chunk::DONE, kind, cookie, offset, length };
        let (bytes, len) = header.to_bytes(self.replies == Replies::Extended);
        debug_assert!(len == CHUNK_BYTES || len == EXTENDED_CHUNK_BYTES);
        self.output.small(&bytes[..len]);
    }
}
