//! What waits to be sent on one connection: small pieces (headers, digests) in a shared page, payload as it came from
//! the disk.

use block::link::Outgoing;
use block::{Buf, Data};

use crate::digest::Digest;
use crate::pdu::{self, Bhs, padding};

/// The bytes that a connection has to send, in order.
#[derive(Debug, Default)]
pub(super) struct Output {
    queue: Outgoing,
    /// Whether headers have a digest.
    pub header_digest: bool,
    /// Whether data has a digest.
    pub data_digest: bool,
}

impl Output {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes everything that waits, as buffers to send in order.
    pub fn take(&mut self) -> Vec<Buf> {
        self.queue.take()
    }

    /// Forgets everything that waits.
    pub fn clear(&mut self) {
        self.queue.clear();
    }

    /// Adds a PDU with data; the header's data length is set here.
    pub fn pdu(&mut self, mut bhs: Bhs, data: Data) {
        let len = data.len();
        pdu::set_data_len(&mut bhs, len);
        self.queue.small(&bhs);
        if self.header_digest {
            self.queue.small(&Digest::of(&bhs).to_bytes());
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
        self.queue.small(pad);
        if self.data_digest {
            digest.update(pad);
            self.queue.small(&digest.to_bytes());
        }
    }

    /// Data of a few bytes is better copied than sent as a piece of its own.
    fn large(&mut self, buf: Buf) {
        if buf.len() <= 256 { self.queue.small(&buf) } else { self.queue.large(buf) }
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
