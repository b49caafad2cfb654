//! What a target machine and its driver say to one another about a connection.

use std::ops::Range;

use crate::{Buf, BufMut};

/// A connection of a target, from its acceptance until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// A small number, unique among the connections that exist.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where the next bytes from a socket go.
#[derive(Debug)]
pub struct Receive {
    /// The buffer.
    pub buf: BufMut,
    /// Where in it to begin.
    pub from: usize,
    /// How many bytes at most.
    pub max: usize,
}

/// What the driver does with a connection's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Receive and send.
    Open,
    /// Receive nothing more; wait for commands, send their answers.
    Finishing,
    /// Send what is left, close the socket, then tell the machine that it is lost.
    Flush,
    /// Close the socket at once; commands may still be at the disk.
    Closed,
    /// Nothing is left: the machine may forget the connection.
    Ended,
}

#[derive(Debug)]
enum Part {
    Small(Range<usize>),
    Large(Buf),
}

/// The bytes that a connection has to send, in order: small pieces (headers, digests) share pages of `PAGE_BYTES`, payload
/// stays in the buffers that it came in.
#[derive(Debug, Default)]
pub struct Outgoing<const PAGE_BYTES: usize = 4096> {
    parts: Vec<Part>,
    page: Option<BufMut>,
    used: usize,
    bytes: usize,
}

impl<const PAGE_BYTES: usize> Outgoing<PAGE_BYTES> {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds a payload, which is not copied.
    pub fn large(&mut self, buf: Buf) {
        self.bytes += buf.len();
        self.parts.push(Part::Large(buf));
    }

    /// Adds a copy of a few bytes, at most a page.
    pub fn small(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.room(bytes.len()).copy_from_slice(bytes);
        }
    }

    /// Adds a few zero bytes, at most a page.
    pub fn zeroes(&mut self, len: usize) {
        if len > 0 {
            self.room(len).fill(0);
        }
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
        self.page = None;
        self.used = 0;
        self.bytes = 0;
    }

    /// Makes room for a small piece, which follows what was added last.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.used + len > PAGE_BYTES {
            self.seal();
        }
        let place = self.used..self.used + len;
        self.used = place.end;
        self.bytes += len;
        match self.parts.last_mut() {
            Some(Part::Small(last)) if last.end == place.start => last.end = place.end,
            _ => self.parts.push(Part::Small(place.clone())),
        }
        &mut self.page.get_or_insert_with(|| BufMut::new(PAGE_BYTES))[place]
    }

    /// Ends the page of small pieces: they become buffers like the others.
    fn seal(&mut self) {
        let Some(page) = self.page.take() else { return };
        self.used = 0;
        let page = page.freeze();
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
    fn small_pieces_are_joined_and_payload_is_not_copied() {
        let mut out = Outgoing::<4096>::default();
        let payload = Buf::copy_of(&[7; 1000]);
        let address = payload.as_ptr();
        out.small(b"ab");
        out.zeroes(2);
        out.large(payload);
        out.small(b"c");
        out.small(b"");
        assert_eq!((out.len(), out.is_empty()), (1005, false));
        let bufs = out.take();
        assert_eq!(bufs.iter().map(|b| b.len()).collect::<Vec<_>>(), [4, 1000, 1]);
        assert_eq!((&*bufs[0], bufs[1].as_ptr(), &*bufs[2]), (&b"ab\0\0"[..], address, &b"c"[..]));
        assert!(out.take().is_empty() && out.is_empty());
    }

    #[test]
    fn a_full_page_starts_another() {
        let mut out = Outgoing::<4096>::default();
        for n in 0..1000u32 {
            out.small(&[n.to_be_bytes(), n.to_le_bytes(), [0; 4]].concat());
        }
        let all: Vec<u8> = out.take().iter().flat_map(|b| b.to_vec()).collect();
        assert_eq!(all.len(), 12_000);
        assert!(all.chunks(12).enumerate().all(|(n, piece)| piece[..4] == (n as u32).to_be_bytes()));
    }

    #[test]
    fn what_is_cleared_is_not_sent() {
        let mut out = Outgoing::<4096>::default();
        out.small(b"old");
        out.clear();
        out.small(b"new");
        assert_eq!(out.take().iter().flat_map(|b| b.to_vec()).collect::<Vec<_>>(), b"new");
    }
}
