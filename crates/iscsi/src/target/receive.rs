//! The receiving half of a connection: bytes become headers, and data goes where it belongs.
//!
//! Headers and small data arrive in a staging buffer, many at a time. The data of commands goes straight into the
//! command's buffer as soon as the staging buffer is empty.

use block::{BufMut, limits};

use crate::digest::{DIGEST_BYTES, Digest};
use crate::pdu::{BHS_BYTES, Bhs, Lengths, padding};

/// The staging buffer holds several commands with data, so that one receive serves many commands.
pub(super) const STAGING_BYTES: usize = 32 << 10;
/// How much is staged at a time while solicited data is expected: little, since data is better received in place.
const STAGING_BYTES_FOR_DATA: usize = 1 << 10;
/// From this many missing bytes on, data is received in place.
const DIRECT_BYTES: usize = 4 << 10;

/// Where the data of a PDU goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sink {
    /// Into a buffer of its own ([`Receiver::take_segment`]).
    Segment,
    /// Into the buffer of the command with this slot.
    Task(u32),
    /// It is dropped.
    Nowhere,
}

#[derive(Debug)]
enum Mode {
    /// The header of a PDU.
    Header,
    /// The data of a PDU.
    Data(Payload),
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    sink: Sink,
    /// Where the next byte goes in the sink's buffer.
    at: usize,
    /// Bytes that go into the sink.
    left: usize,
    /// Bytes after them that are dropped: surplus data and padding.
    drop: usize,
    digest: Option<Digest>,
}

/// The connection cannot be understood any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A header digest is wrong.
    HeaderDigest,
    /// More data than we take.
    TooLong,
}

/// What the received bytes say.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet.
    More,
    /// A header; call [`Receiver::begin`] to say where its data goes.
    Header(Bhs),
    /// Data for a command lies in the staging buffer: call [`Receiver::copy_into`].
    Staged(u32),
    /// All data of a PDU is there; `damaged`: its digest does not match.
    End { damaged: bool },
}

/// Where the next bytes shall go.
#[derive(Debug)]
pub(super) enum Place {
    /// Into the staging buffer.
    Staging { buf: BufMut, from: usize, max: usize },
    /// Into the buffer of a command.
    Task { slot: u32, from: usize, max: usize },
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    /// `None` while lent.
    staging: Option<BufMut>,
    start: usize,
    end: usize,
    mode: Mode,
    segment: Vec<u8>,
    /// Whether headers have a digest.
    pub header_digest: bool,
    /// Whether data has a digest.
    pub data_digest: bool,
}

impl Receiver {
    pub fn new() -> Receiver {
        Receiver {
            staging: Some(BufMut::new(STAGING_BYTES)),
            start: 0,
            end: 0,
            mode: Mode::Header,
            segment: Vec::new(),
            header_digest: false,
            data_digest: false,
        }
    }

    /// Where the next bytes go. `expects_data`: commands wait for data. `None` while the last place is lent.
    pub fn place(&mut self, expects_data: bool) -> Option<Place> {
        if let Mode::Data(Payload { sink: Sink::Task(slot), at, left, .. }) = self.mode
            && self.start == self.end
            && left >= DIRECT_BYTES
        {
            return Some(Place::Task { slot, from: at, max: left });
        }
        let mut buf = self.staging.take()?;
        if self.start > 0 {
            buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut max = buf.len() - self.end;
        if expects_data && self.end < STAGING_BYTES_FOR_DATA {
            max = STAGING_BYTES_FOR_DATA - self.end;
        }
        Some(Place::Staging { buf, from: self.end, max })
    }

    /// Gives the staging buffer back with `received` more bytes.
    pub fn staged(&mut self, buf: BufMut, received: usize) {
        self.end = (self.end + received).min(buf.len());
        self.staging = Some(buf);
    }

    /// Notes that `received` bytes were received in place, into the command's buffer.
    pub fn received_directly(&mut self, command: &[u8], received: usize) {
        let Mode::Data(p) = &mut self.mode else { return };
        let at = p.at;
        if p.sink == Sink::Nowhere {
            // The command has ended meanwhile.
            let received = received.min(p.drop);
            p.drop -= received;
            if let Some(digest) = &mut p.digest {
                digest.update(&command[at..at + received]);
            }
        } else {
            let received = received.min(p.left);
            p.take(&command[at..at + received]);
        }
    }

    /// Says where the data of the header goes that [`Step::Header`] gave: `keep` bytes of it into `sink` from `at` on, and
    /// what is more is dropped.
    pub fn begin(&mut self, bhs: &Bhs, sink: Sink, at: usize, keep: usize) {
        let len = Lengths::of(bhs).data;
        let keep = if sink == Sink::Nowhere { 0 } else { keep.min(len) };
        let digest = (self.data_digest && len > 0).then(Digest::default);
        if sink == Sink::Segment {
            self.segment.clear();
        }
        self.mode = Mode::Data(Payload { sink, at, left: keep, drop: len - keep + padding(len), digest });
    }

    /// Copies staged data into the command's buffer.
    pub fn copy_into(&mut self, command: &mut [u8]) {
        let (Mode::Data(p), Some(staging)) = (&mut self.mode, &self.staging) else { return };
        let n = p.left.min(self.end - self.start);
        let from = &staging[self.start..self.start + n];
        command[p.at..p.at + n].copy_from_slice(from);
        p.take(from);
        self.start += n;
    }

    /// The data of the last PDU that had [`Sink::Segment`].
    pub fn take_segment(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.segment)
    }

    /// The command whose data is being received.
    pub fn task(&self) -> Option<u32> {
        match self.mode {
            Mode::Data(Payload { sink: Sink::Task(slot), .. }) => Some(slot),
            _ => None,
        }
    }

    /// The rest of the data that is being received is dropped: its command is no more.
    pub fn divert(&mut self) {
        if let Mode::Data(p) = &mut self.mode {
            p.sink = Sink::Nowhere;
            p.drop += std::mem::take(&mut p.left);
        }
    }

    /// Forgets staged bytes (nothing more is listened to).
    pub fn discard(&mut self) {
        self.start = 0;
        self.end = 0;
        self.segment.clear();
        self.mode = Mode::Header;
    }

    /// Looks at the staged bytes.
    pub fn step(&mut self) -> Result<Step, Broken> {
        match self.mode {
            Mode::Header => self.step_header(),
            Mode::Data(p) => Ok(self.step_data(p)),
        }
    }

    fn step_header(&mut self) -> Result<Step, Broken> {
        let Some(bytes) = self.staging.as_deref().map(|s| &s[self.start..self.end]) else { return Ok(Step::More) };
        let Some(bhs) = bytes.first_chunk::<BHS_BYTES>().copied() else { return Ok(Step::More) };
        let lengths = Lengths::of(&bhs);
        if lengths.data > limits::ISCSI_SEGMENT_BYTES {
            return Err(Broken::TooLong);
        }
        let head = BHS_BYTES + lengths.extra;
        let whole = head + if self.header_digest { DIGEST_BYTES } else { 0 };
        let Some(all) = bytes.get(..whole) else { return Ok(Step::More) };
        if self.header_digest && !Digest::of(&all[..head]).matches(&all[head..]) {
            return Err(Broken::HeaderDigest);
        }
        self.start += whole;
        Ok(Step::Header(bhs))
    }

    fn step_data(&mut self, mut p: Payload) -> Step {
        let staged = self.staging.as_deref().and_then(|s| s.get(self.start..self.end)).unwrap_or_default();
        if p.left > 0 {
            if staged.is_empty() {
                return Step::More;
            }
            if let Sink::Task(slot) = p.sink {
                return Step::Staged(slot);
            }
            let n = p.left.min(staged.len());
            self.segment.extend_from_slice(&staged[..n]);
            p.take(&staged[..n]);
            self.start += n;
        } else if p.drop > 0 {
            let n = p.drop.min(staged.len());
            if n == 0 {
                return Step::More;
            }
            if let Some(digest) = &mut p.digest {
                digest.update(&staged[..n]);
            }
            p.drop -= n;
            self.start += n;
        } else {
            let mut damaged = false;
            if let Some(digest) = p.digest {
                let Some(wire) = staged.get(..DIGEST_BYTES) else { return Step::More };
                damaged = !digest.matches(wire);
                self.start += DIGEST_BYTES;
            }
            self.mode = Mode::Header;
            return Step::End { damaged };
        }
        self.mode = Mode::Data(p);
        self.step_data(p)
    }
}

impl Payload {
    fn take(&mut self, bytes: &[u8]) {
        self.at += bytes.len();
        self.left -= bytes.len();
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }
}
