//! What waits to be sent: headers in an arena, payloads by reference, in the order of the wire.

use block::{Buf, BufMut};

/// Headers of a full queue's batch fit into one arena.
const ARENA: usize = 12 << 10;

enum Segment {
    /// Bytes of the arena.
    Header {
        from: usize,
        to: usize,
    },
    Payload(Buf),
}

#[derive(Default)]
pub(super) struct Output {
    arena: Option<(BufMut, usize)>,
    segments: Vec<Segment>,
    ready: Vec<Buf>,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.ready.is_empty()
    }

    /// Adds `bytes` and then `padding` zeroes.
    pub(super) fn add(&mut self, bytes: &[u8], padding: usize) {
        let len = bytes.len() + padding;
        assert!(len <= ARENA, "a header of {len} bytes");
        if len == 0 {
            return;
        }
        if self.arena.as_ref().is_some_and(|(_, used)| used + len > ARENA) {
            self.seal();
        }
        let (arena, used) = self.arena.get_or_insert_with(|| (BufMut::new(ARENA), 0));
        let (from, to) = (*used, *used + len);
        arena[from..from + bytes.len()].copy_from_slice(bytes);
        arena[from + bytes.len()..to].fill(0);
        *used = to;
        match self.segments.last_mut() {
            Some(Segment::Header { to: end, .. }) => *end = to,
            _ => self.segments.push(Segment::Header { from, to }),
        }
    }

    pub(super) fn payload(&mut self, data: Buf) {
        self.segments.push(Segment::Payload(data));
    }

    fn seal(&mut self) {
        let arena = self.arena.take().map(|(arena, _)| arena.freeze());
        self.ready.reserve(self.segments.len());
        for segment in self.segments.drain(..) {
            self.ready.push(match segment {
                Segment::Header { from, to } => arena.as_ref().expect("headers live in an arena").slice(from..to),
                Segment::Payload(data) => data,
            });
        }
    }

    /// Everything that waits, in order.
    pub(super) fn take(&mut self) -> Vec<Buf> {
        self.seal();
        std::mem::take(&mut self.ready)
    }
}
