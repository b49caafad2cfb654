//! The receiving half of a connection: bytes become PDUs.
//!
//! Headers and in-capsule data arrive in a staging buffer, many at a time; in-capsule data stays there, and a command holds
//! a view of it. The data of H2CData goes straight into the command's buffer as soon as the staging buffer is empty.

use block::{Buf, BufMut, limits};

use crate::digest::{DIGEST_BYTES, Digest};
use crate::pdu::{self, COMMON_BYTES, CommonHeader, Digests, FatalError, Header, Kind, Layout, Transfer, Violation};
use crate::wire::view;

/// Sizes of the staging buffer. It holds several capsules, so that one receive serves many commands; it grows while
/// receives fill it, and shrinks when they leave most of it empty, since thousands of connections have one each.
pub(super) const STAGING_BYTES: usize = 16 << 10;
const MOST_STAGING_BYTES: usize = 256 << 10;
/// How much is staged at a time while H2CData is expected: little, since its data is better received in place.
const STAGING_BYTES_FOR_DATA: usize = 1 << 10;
/// From this many missing bytes on, data is received in place.
const DIRECT_BYTES: usize = 4 << 10;

/// What arrives next.
#[derive(Debug)]
enum Mode {
    /// The header of a PDU.
    Header,
    /// Data of a command that waits for it.
    Payload(Payload),
}

/// The data of one H2CData on its way into a command's buffer.
#[derive(Clone, Copy, Debug)]
struct Payload {
    slot: u16,
    /// Where the next byte goes in the command's buffer.
    at: usize,
    left: usize,
    /// The digest so far, when one follows.
    digest: Option<Digest>,
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    /// `None` while lent.
    staging: Option<Buf>,
    /// The received bytes that are not consumed.
    start: usize,
    end: usize,
    /// Bytes of the next staging buffer.
    size: usize,
    /// Where the PDU begins that was looked at last.
    last: usize,
    /// Bytes before the data of the H2CData that was looked at last.
    skip: usize,
    mode: Mode,
    /// What ICReq and ICResp agreed on.
    pub digests: Digests,
}

/// What the received bytes say.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet.
    More,
    /// A whole PDU other than H2CData.
    Pdu {
        /// The parsed header.
        header: Header,
        /// The data, aligned to nothing.
        data: Option<Buf>,
        /// The data digest does not match.
        damaged: bool,
    },
    /// The header of an H2CData; its data follows once [`Receiver::expect`] was called.
    Data {
        /// What the data is.
        transfer: Transfer,
        /// Whether it is the last for its R2T.
        is_last: bool,
    },
    /// Data for the command in that slot lies in the staging buffer: call [`Receiver::copy_into`].
    Staged {
        /// The command.
        slot: u16,
    },
    /// All data of one H2CData is there.
    Received {
        /// The command.
        slot: u16,
        /// The data digest does not match.
        damaged: bool,
    },
}

/// Where the next bytes shall go.
#[derive(Debug)]
pub(super) enum Place {
    /// Into this buffer.
    Staging {
        /// The staging buffer.
        buf: BufMut,
        /// Where to begin.
        from: usize,
        /// How many at most.
        max: usize,
    },
    /// Into the buffer of a command.
    Command {
        /// The command's slot.
        slot: u16,
        /// Where to begin.
        from: usize,
        /// How many at most.
        max: usize,
    },
}

impl Receiver {
    pub fn new() -> Receiver {
        Receiver {
            staging: Some(Buf::zeroes(0)),
            start: 0,
            end: 0,
            size: STAGING_BYTES,
            last: 0,
            skip: 0,
            mode: Mode::Header,
            digests: Digests::default(),
        }
    }

    /// Where the next bytes go. `expects_data`: R2Ts are outstanding. `None` while the last place is lent.
    pub fn place(&mut self, expects_data: bool) -> Option<Place> {
        if let Mode::Payload(p) = &self.mode
            && self.start == self.end
            && p.left >= DIRECT_BYTES
        {
            return Some(Place::Command { slot: p.slot, from: p.at, max: p.left });
        }
        let staged = self.staging.take()?;
        let buf = match staged.try_into_mut() {
            // No command holds a part of it.
            Ok(mut buf) if buf.len() == self.size => {
                buf.copy_within(self.start..self.end, 0);
                buf
            }
            Ok(other) => self.another(&other),
            Err(shared) => self.another(&shared),
        };
        self.end -= self.start;
        self.start = 0;
        self.last = 0;
        let mut max = buf.len() - self.end;
        if expects_data && self.end < STAGING_BYTES_FOR_DATA {
            max = STAGING_BYTES_FOR_DATA - self.end;
        }
        Some(Place::Staging { buf, from: self.end, max })
    }

    /// Another staging buffer that begins with the bytes that are not consumed: a part of a PDU, and so less than fits.
    fn another(&self, staged: &[u8]) -> BufMut {
        let mut buf = BufMut::new(self.size);
        buf[..self.end - self.start].copy_from_slice(&staged[self.start..self.end]);
        buf
    }

    /// Gives the staging buffer back with `received` more bytes.
    pub fn staged(&mut self, buf: BufMut, received: usize) {
        self.end = (self.end + received).min(buf.len());
        if self.end == buf.len() {
            self.size = (self.size * 2).min(MOST_STAGING_BYTES);
        } else if self.end < self.size / 8 {
            self.size = (self.size / 2).max(STAGING_BYTES);
        }
        self.staging = Some(buf.freeze());
    }

    /// Notes that `received` bytes were received in place, into the command's buffer.
    pub fn received_directly(&mut self, command: &[u8], received: usize) {
        if let Mode::Payload(p) = &mut self.mode {
            let received = received.min(p.left);
            p.advance(&command[p.at..p.at + received]);
        }
    }

    /// Lets the data that follows go into the command in `slot`, from `at` on.
    pub fn expect(&mut self, slot: u16, at: usize, len: usize) {
        self.start += std::mem::take(&mut self.skip);
        let digest = self.digests.data.then(Digest::default);
        self.mode = Mode::Payload(Payload { slot, at, left: len, digest });
    }

    /// Copies staged data into the command's buffer.
    pub fn copy_into(&mut self, command: &mut [u8]) {
        let (Mode::Payload(p), Some(staging)) = (&mut self.mode, &self.staging) else { return };
        let n = p.left.min(self.end - self.start);
        let from = &staging[self.start..self.start + n];
        command[p.at..p.at + n].copy_from_slice(from);
        p.advance(from);
        self.start += n;
    }

    /// Forgets staged bytes (after the connection was terminated).
    pub fn discard(&mut self) {
        self.start = 0;
        self.end = 0;
        self.last = 0;
        self.mode = Mode::Header;
    }

    /// The header that was looked at last, for a termination request.
    pub fn offending(&self) -> &[u8] {
        let staged = self.staging.as_deref().and_then(|s| s.get(self.last..self.end)).unwrap_or_default();
        let header = Kind::from_wire(staged.first().copied().unwrap_or(0xff)).map_or(COMMON_BYTES, Kind::header_len);
        &staged[..staged.len().min(header)]
    }

    /// Looks at the staged bytes.
    pub fn step(&mut self) -> Result<Step, Violation> {
        if let Mode::Payload(p) = self.mode {
            return Ok(self.step_payload(p));
        }
        self.last = self.start;
        let Some(staging) = &self.staging else { return Ok(Step::More) };
        let bytes = &staging[self.start..self.end];
        let Some(common) = view::<CommonHeader>(bytes) else { return Ok(Step::More) };
        let layout = Layout::of(&common, self.digests, 0)?;
        check_limits(&layout)?;
        let header_end = layout.header_len + if layout.has_header_digest { DIGEST_BYTES } else { 0 };
        let Some(head) = bytes.get(..header_end) else { return Ok(Step::More) };
        let (head, digest) = head.split_at(layout.header_len);
        if layout.has_header_digest && !Digest::of(head).matches(digest) {
            let received = u32::from_le_bytes(digest.try_into().unwrap_or_default());
            return Err(Violation { error: FatalError::HeaderDigest, info: received });
        }
        let header = Header::parse(&layout, head)?;
        if let Header::H2cData(transfer) = header {
            if bytes.len() < layout.data_start {
                return Ok(Step::More);
            }
            self.skip = layout.data_start;
            return Ok(Step::Data { transfer, is_last: layout.flags & pdu::flags::LAST != 0 });
        }
        let Some(whole) = bytes.get(..layout.pdu_len) else { return Ok(Step::More) };
        let (mut data, mut damaged) = (None, false);
        if layout.data_len > 0 && layout.kind == Kind::Command {
            let (payload, digest) = whole[layout.data_start..].split_at(layout.data_len);
            damaged = layout.has_data_digest && !Digest::of(payload).matches(digest);
            let from = self.start + layout.data_start;
            data = Some(staging.slice(from..from + payload.len()));
        }
        self.start += layout.pdu_len;
        Ok(Step::Pdu { header, data, damaged })
    }

    fn step_payload(&mut self, p: Payload) -> Step {
        let staged = self.staging.as_deref().and_then(|s| s.get(self.start..self.end)).unwrap_or_default();
        if p.left > 0 {
            return if staged.is_empty() { Step::More } else { Step::Staged { slot: p.slot } };
        }
        let mut damaged = false;
        if let Some(digest) = p.digest {
            let Some(wire) = staged.get(..DIGEST_BYTES) else { return Step::More };
            damaged = !digest.matches(wire);
            self.start += DIGEST_BYTES;
        }
        self.mode = Mode::Header;
        Step::Received { slot: p.slot, damaged }
    }
}

impl Payload {
    fn advance(&mut self, bytes: &[u8]) {
        self.at += bytes.len();
        self.left -= bytes.len();
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }
}

/// Refuses what a host may not send, and what is longer than we allow.
fn check_limits(layout: &Layout) -> Result<(), Violation> {
    let most = match layout.kind {
        Kind::Command => limits::IN_CAPSULE_BYTES,
        Kind::H2cTerm => pdu::MAX_TERM_DATA,
        Kind::H2cData => limits::TRANSFER_BYTES,
        Kind::IcReq => 0,
        Kind::IcResp | Kind::C2hTerm | Kind::Response | Kind::C2hData | Kind::R2t => {
            return Err(Violation::field(pdu::offset::KIND));
        }
    };
    if layout.data_len <= most {
        Ok(())
    } else if layout.kind == Kind::H2cData {
        Err(Violation { error: FatalError::LimitExceeded, info: pdu::offset::TRANSFER_LEN })
    } else {
        Err(Violation::field(pdu::offset::PDU_LEN))
    }
}
