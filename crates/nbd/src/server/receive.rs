//! The receiving half of a connection: headers and small payloads arrive in a staging buffer, many at a time; what is
//! missing of a large payload goes straight into the command's buffer.

use block::{BufMut, limits};

use crate::proto::OPTION_HEADER_BYTES;

/// The staging buffer holds several commands with data, so that one receive serves many commands.
pub(super) const STAGING_BYTES: usize = 32 << 10;
/// From this many missing bytes on, a payload is received in place.
const DIRECT_BYTES: usize = 4 << 10;

const _: () = assert!(OPTION_HEADER_BYTES + limits::NBD_OPTION_BYTES <= STAGING_BYTES, "an option fits");

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// A header.
    Header,
    /// The payload of the command in this slot.
    Payload { slot: u32, at: usize, left: usize },
    /// Bytes that nobody wants.
    Skip { left: u64 },
}

/// Where the next bytes go.
#[derive(Debug)]
pub(super) enum Place {
    Staging { buf: BufMut, from: usize, max: usize },
    Payload { slot: u32, from: usize, max: usize },
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    /// `None` while lent.
    staging: Option<BufMut>,
    start: usize,
    end: usize,
    pub mode: Mode,
}

impl Receiver {
    pub fn new() -> Receiver {
        Receiver { staging: Some(BufMut::new(STAGING_BYTES)), start: 0, end: 0, mode: Mode::Header }
    }

    /// Where the next bytes go; `None` while the staging buffer is lent.
    pub fn place(&mut self) -> Option<Place> {
        if let Mode::Payload { slot, at, left } = self.mode
            && self.start == self.end
            && left >= DIRECT_BYTES
        {
            return Some(Place::Payload { slot, from: at, max: left });
        }
        let mut buf = self.staging.take()?;
        if self.start > 0 {
            buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let max = buf.len() - self.end;
        Some(Place::Staging { buf, from: self.end, max })
    }

    /// Gives the staging buffer back with `received` more bytes.
    pub fn staged(&mut self, buf: BufMut, received: usize) {
        self.end = (self.end + received).min(buf.len());
        self.staging = Some(buf);
    }

    /// Notes that `received` bytes of the payload were received in place.
    pub fn received_directly(&mut self, received: usize) {
        if let Mode::Payload { at, left, .. } = &mut self.mode {
            let n = received.min(*left);
            *at += n;
            *left -= n;
        }
    }

    /// The staged bytes.
    pub fn bytes(&self) -> &[u8] {
        self.staging.as_deref().and_then(|s| s.get(self.start..self.end)).unwrap_or_default()
    }

    /// Passes over staged bytes that were read.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
    }

    /// Copies staged bytes of the payload into the command's buffer.
    pub fn copy_into(&mut self, payload: &mut [u8]) {
        let Mode::Payload { slot, at, left } = self.mode else { return };
        let n = left.min(self.end - self.start);
        payload[at..at + n].copy_from_slice(&self.bytes()[..n]);
        self.start += n;
        self.mode = Mode::Payload { slot, at: at + n, left: left - n };
    }

    /// Passes over staged bytes that nobody wants; whether all of them are passed.
    pub fn skip(&mut self) -> bool {
        let Mode::Skip { left } = self.mode else { return true };
        let n = left.min((self.end - self.start) as u64);
        self.start += n as usize;
        self.mode = if left == n { Mode::Header } else { Mode::Skip { left: left - n } };
        left == n
    }

    /// Forgets staged bytes (nothing more is listened to).
    pub fn discard(&mut self) {
        (self.start, self.end, self.mode) = (0, 0, Mode::Header);
    }
}
