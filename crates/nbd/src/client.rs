//! The client machine: one connection to a server, without I/O.
//!
//! It is fed with the bytes that came from the server and asked for the bytes to send. How a connection is made anew, and
//! what that means for the device, is the driver's business.

mod handshake;
mod transmission;

use block::link::{Outgoing, Receive};
use block::{Buf, BufMut};
use slab::Slab;
use smallvec::SmallVec;
use thiserror::Error;

use crate::proto::Errno;

/// The receive buffer.
const RECEIVE_BYTES: usize = 64 << 10;
/// Data that is still to come is received straight into the command's buffer from this size on.
const DIRECT_BYTES: usize = 16 << 10;
/// How much to receive at a time while large reads are under way: the headers, and little payload to copy.
const SIP_BYTES: usize = 4 << 10;
/// The longest answer to an option, and the longest error message, that is taken.
const TEXT_BYTES: usize = 32 << 10;

/// What is asked of the server.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The export's name.
    pub export: String,
    /// Whether to ask for extended headers.
    pub extended: bool,
}

/// What the server says about the export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportInfo {
    /// Bytes.
    pub size: u64,
    /// Transmission flags; see [`crate::proto::flag`].
    pub flags: u16,
    /// The smallest unit of a request, in bytes; 1 when the server does not say.
    pub smallest: u32,
    /// The longest read or write, in bytes; 32 MiB when the server does not say.
    pub longest: u32,
    /// Whether trims and write-zeroes may be longer than 32 bits can tell.
    pub extended: bool,
}

impl ExportInfo {
    /// Whether the export has a transmission flag.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A server that does not keep to the protocol, or does not have what is asked for. The connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// It is no NBD server, or one of the time before the fixed newstyle handshake.
    #[error("it does not speak the fixed newstyle handshake of NBD")]
    NotNewstyle,
    /// It refuses the export, and why.
    #[error("it refuses the export '{export}': {why}")]
    Refused {
        /// The export.
        export: String,
        /// Its reason.
        why: String,
    },
    /// There is no such export.
    #[error("it has no export '{0}'")]
    NoSuchExport(String),
    /// Something else that the protocol does not allow.
    #[error("it breaks the protocol: {0}")]
    Protocol(&'static str),
}

/// A command. Offsets and lengths are multiples of [`ExportInfo::smallest`], and reads and writes not longer than
/// [`ExportInfo::longest`].
#[derive(Clone, Debug)]
pub enum Command {
    /// Read.
    Read {
        /// Bytes from the start.
        offset: u64,
        /// Bytes.
        length: usize,
    },
    /// Write.
    Write {
        /// Bytes from the start.
        offset: u64,
        /// The data.
        data: Buf,
        /// Durable when answered.
        durable: bool,
    },
    /// Make durable what was answered.
    Flush,
    /// Forget the contents.
    Trim {
        /// Bytes from the start.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Make it read as zeroes.
    WriteZeroes {
        /// Bytes from the start.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Whether the space may be freed.
        may_unmap: bool,
        /// Durable when answered.
        durable: bool,
    },
}

/// A command that the server has answered.
#[derive(Debug)]
pub struct Completed<T> {
    /// What [`Client::submit`] was given.
    pub token: T,
    /// The data of a read, or nothing; or why it failed.
    pub result: Result<Option<BufMut>, Errno>,
}

/// ```text
/// Greeting ─► Extended ─ACK─────────────────────────┐
///    │           │ error                            ▼
///    └───────────┴────────► Structured ─ACK, error─► Go ─ACK─► Ready
/// ```
/// After a [`Violation`] the driver drops the client; there is no state for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Extended,
    Structured,
    Go,
    Ready,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Incoming {
    /// A header, with all that is short.
    Header,
    /// Data of a read.
    Data { slot: usize, at: usize, left: usize, done: bool },
}

#[derive(Debug)]
struct Slot<T> {
    token: T,
    serial: u64,
    read: Option<Reading>,
    errno: Option<Errno>,
}

/// A read under way.
#[derive(Debug)]
struct Reading {
    offset: u64,
    len: usize,
    /// `None` while it is lent.
    buf: Option<BufMut>,
    /// What has come, in no order.
    got: SmallVec<[(usize, usize); 2]>,
}

/// One connection as a client. `T` names a command to its owner.
#[derive(Debug)]
pub struct Client<T> {
    options: ClientOptions,
    state: State,
    info: ExportInfo,
    has_info: bool,
    /// Structured or extended replies.
    chunks: bool,
    slots: Slab<Slot<T>>,
    serial: u64,
    output: Outgoing,
    /// `None` while lent.
    rx: Option<BufMut>,
    start: usize,
    end: usize,
    incoming: Incoming,
    /// The read whose buffer is lent.
    direct: Option<usize>,
    large_reads: usize,
}

impl<T> Client<T> {
    /// A client that has heard nothing yet.
    pub fn new(options: ClientOptions) -> Client<T> {
        Client {
            options,
            state: State::Greeting,
            info: ExportInfo { smallest: 1, longest: block::limits::NBD_PAYLOAD_BYTES as u32, ..ExportInfo::default() },
            has_info: false,
            chunks: false,
            slots: Slab::new(),
            serial: 0,
            output: Outgoing::default(),
            rx: Some(BufMut::new(RECEIVE_BYTES)),
            start: 0,
            end: 0,
            incoming: Incoming::Header,
            direct: None,
            large_reads: 0,
        }
    }

    /// The export, once commands can be submitted.
    pub fn export(&self) -> Option<ExportInfo> {
        (self.state == State::Ready).then_some(self.info)
    }

    /// Commands without an answer.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// The bytes to send, in order; empty when there is nothing.
    pub fn output(&mut self) -> Vec<Buf> {
        self.output.take()
    }

    /// Ends the connection: what was in flight, in no order. The server may or may not have carried it out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.slots.drain().map(|slot| slot.token)
    }

    /// Where the next bytes shall go. To be called once before each receive.
    pub fn receive(&mut self) -> Receive {
        if let Incoming::Data { slot, at, left, .. } = self.incoming
            && left >= DIRECT_BYTES
            && self.start == self.end
        {
            let reading = self.slots[slot].read.as_mut().expect("checked with the header");
            self.direct = Some(slot);
            return Receive { buf: reading.buf.take().expect("one receive at a time"), from: at, max: left };
        }
        let mut buf = self.rx.take().expect("one receive at a time");
        buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = buf.len() - self.end;
        let max = if self.large_reads > 0 { room.min(SIP_BYTES) } else { room };
        Receive { buf, from: self.end, max }
    }

    /// Takes back the buffer with `n` more bytes in it and adds the commands that are answered by them to `done`. After an
    /// error the client is of no more use: what was in flight comes from [`drain`](Client::drain).
    pub fn received(&mut self, buf: BufMut, n: usize, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        match self.direct.take() {
            Some(slot) => {
                self.slots[slot].read.as_mut().expect("as in receive").buf = Some(buf);
                if let Incoming::Data { at, left, .. } = &mut self.incoming {
                    *at += n;
                    *left -= n;
                }
            }
            None => {
                self.rx = Some(buf);
                self.end += n;
            }
        }
        while self.step(done)? {}
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.rx.as_ref().expect("back from the driver")[self.start..self.end]
    }

    /// Acts on what has come; whether there was something to do.
    fn step(&mut self, done: &mut Vec<Completed<T>>) -> Result<bool, Violation> {
        match (self.state, self.incoming) {
            (State::Ready, Incoming::Header) => self.reply(done),
            (State::Ready, Incoming::Data { .. }) => self.data(done),
            (State::Greeting, _) => self.greeting(),
            _ => self.option_reply(),
        }
    }
}
