//! What waits to be sent on one connection: small pieces (headers, digests) in a shared page, payload as it came from
//! the disk.

use std::ops::Range;

use block::{Buf, BufMut, Data};

use crate::digest::Digest;
use crate::pdu::{self, Bhs, padding};

/// The size of a page of small pieces.
const ARENA_BYTES: usize = 4096;

#[derive(Debug)]
enum Part {
    Small(Range<usize>),
    Large(Buf),
}

/// The bytes that a connection has to send, in order.
#[derive(Debug, Default)]
pub(super) struct Output {
    parts: Vec<Part>,
    arena: Option<BufMut>,
    used: usize,
    bytes: usize,
    /// Whether headers have a digest.
    pub header_digest: bool,
    /// Whether data has a digest.
    pub data_digest: bool,
}

impl Output {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Takes everything that waits, as buffers to send in order.
    pub fn take(&mut self) -> Vec<Buf> {
        self.seal();
        self.bytes = 0;
        let sealed = |part| match part {
            Part::Large(buf) => buf,
            Part::Small(_) => unreachable!("sealed just now"),
        };
        self.parts.drain(..).map(sealed).collect()
    }

    /// Forgets everything that waits.
    pub fn clear(&mut self) {
        self.parts.clear();
        self.arena = None;
        self.used = 0;
        self.bytes = 0;
    }

    /// Adds a PDU with data; the header's data length is set here.
    pub fn pdu(&mut self, mut bhs: Bhs, data: Data) {
        let len = data.len();
        pdu::set_data_len(&mut bhs, len);
        self.small(&bhs);
        if self.header_digest {
            self.small(&Digest::of(&bhs).to_bytes());
        }
        if len == 0 {
            return;
        }
        let pad = &[0; 4][..padding(len)];
        let mut digest = Digest::default();
        for buf in data {
            if self.data_digest {
                digest.update(&buf);
            }
            self.large(buf);
        }
        self.small(pad);
        if self.data_digest {
            digest.update(pad);
            self.small(&digest.to_bytes());
        }
    }

    fn large(&mut self, buf: Buf) {
        if buf.len() <= 256 {
            return self.small(&buf);
        }
        self.bytes += buf.len();
        self.parts.push(Part::Large(buf));
    }

    fn small(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.used + bytes.len() > ARENA_BYTES {
            self.seal();
        }
        let arena = self.arena.get_or_insert_with(|| BufMut::new(ARENA_BYTES));
        let place = self.used..self.used + bytes.len();
        arena[place.clone()].copy_from_slice(bytes);
        self.used = place.end;
        self.bytes += bytes.len();
        match self.parts.last_mut() {
            Some(Part::Small(last)) if last.end == place.start => last.end = place.end,
            _ => self.parts.push(Part::Small(place)),
        }
    }

    /// Ends the page of small pieces: they become buffers like the others.
    fn seal(&mut self) {
        let Some(arena) = self.arena.take() else { return };
        self.used = 0;
        let page = arena.freeze();
        for part in &mut self.parts {
            if let Part::Small(place) = part {
                *part = Part::Large(page.slice(place.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_padded_and_digested_and_not_copied() {
        let mut output = Output { header_digest: true, data_digest: true, ..Output::default() };
        let payload = Buf::copy_of(&[7; 1021]);
        let address = payload.as_ptr();
        output.pdu(pdu::header(pdu::opcode::DATA_IN, 0, 1), Data::from(payload));
        assert_eq!(output.len(), 48 + 4 + 1024 + 4);
        let bufs = output.take();
        assert_eq!(bufs.iter().map(|b| b.len()).collect::<Vec<_>>(), [52, 1021, 7]);
        assert_eq!((bufs[1].as_ptr(), &bufs[0][5..8]), (address, &[0, 3, 0xfd][..]));
        assert!(Digest::of(&bufs[0][..48]).matches(&bufs[0][48..]));
        let padded = [&bufs[1][..], &[0; 3]].concat();
        assert!(Digest::of(&padded).matches(&bufs[2][3..]));
        assert!(output.take().is_empty() && output.len() == 0);
    }

    #[test]
    fn a_full_page_starts_another() {
        let mut output = Output::default();
        for tag in 0..200 {
            output.pdu(pdu::header(pdu::opcode::NOP_IN, 0, tag), Data::empty());
        }
        let all: Vec<u8> = output.take().iter().flat_map(|b| b.to_vec()).collect();
        assert_eq!(all.len(), 200 * 48);
        assert!(all.chunks(48).enumerate().all(|(tag, pdu)| crate::wire::get32(pdu, 16) as usize == tag));
    }
}
