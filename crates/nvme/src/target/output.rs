//! What waits to be sent on one connection: small pieces (headers, digests) in a shared page, payload as it came from
//! the disk.

use block::link::Outgoing;
use block::{Buf, Data};

use crate::completion::Cqe;
use crate::digest::Digest;
use crate::pdu::{self, CommonHeader, Digests, Kind, Transfer, Violation};
use crate::wire::view;

/// The bytes that a connection has to send, in order.
#[derive(Debug, Default)]
pub(super) struct Output {
    queue: Outgoing,
    /// What ICReq and ICResp agreed on.
    pub digests: Digests,
    /// HPDA: the host's wish for the alignment of data, 0's based dwords.
    pub alignment: u8,
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

    /// Adds a response capsule.
    pub fn response(&mut self, cqe: Cqe) {
        self.header(bytemuck::bytes_of(&pdu::response(self.digests, cqe)));
    }

    /// Adds an R2T.
    pub fn r2t(&mut self, transfer: Transfer) {
        self.header(bytemuck::bytes_of(&pdu::transfer(Kind::R2t, 0, self.digests, 0, transfer)));
    }

    /// Adds the whole data of a command as one C2HData.
    pub fn data(&mut self, cid: u16, data: Data, extra_flags: u8) {
        let len = u32::try_from(data.len()).expect("a transfer is limited by TRANSFER_BYTES");
        let transfer = Transfer { cid, tag: 0, offset: 0, len };
        let flags = pdu::flags::LAST | extra_flags;
        self.header(bytemuck::bytes_of(&pdu::transfer(Kind::C2hData, flags, self.digests, self.alignment, transfer)));
        if self.digests.data {
            let mut digest = Digest::default();
            data.iter().for_each(|buf| digest.update(buf));
            data.into_iter().for_each(|buf| self.queue.large(buf));
            self.queue.small(&digest.to_bytes());
        } else {
            data.into_iter().for_each(|buf| self.queue.large(buf));
        }
    }

    /// Adds the answer to an ICReq.
    pub fn ic_resp(&mut self, digests: Digests, max_h2c_data: u32) {
        self.queue.small(bytemuck::bytes_of(&pdu::ic_resp(0, digests, max_h2c_data)));
    }

    /// Adds a termination request.
    pub fn termination(&mut self, violation: Violation, offending: &[u8]) {
        self.queue.small(&pdu::termination(Kind::C2hTerm, violation, offending));
    }

    /// Adds a header, its digest, and the padding before the data.
    fn header(&mut self, bytes: &[u8]) {
        self.queue.small(bytes);
        if self.digests.header {
            self.queue.small(&Digest::of(bytes).to_bytes());
        }
        let end = bytes.len() + self.digests.header_bytes();
        let data_offset = view::<CommonHeader>(bytes).map_or(0, |common| usize::from(common.data_offset));
        if let Some(pad) = data_offset.checked_sub(end) {
            self.queue.zeroes(pad.min(256));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Le16;

    fn joined(bufs: &[Buf]) -> Vec<u8> {
        bufs.iter().flat_map(|b| b.to_vec()).collect()
    }

    #[test]
    fn headers_share_a_buffer_and_payload_is_not_copied() {
        let mut output = Output::default();
        let payload = Buf::copy_of(&[7; 512]);
        let address = payload.as_ptr();
        output.data(1, Data::from(payload), 0);
        output.response(Cqe { cid: Le16::new(1), ..Cqe::default() });
        output.response(Cqe { cid: Le16::new(2), ..Cqe::default() });
        assert_eq!(output.len(), 24 + 512 + 48);
        let bufs = output.take();
        assert_eq!(bufs.iter().map(|b| b.len()).collect::<Vec<_>>(), [24, 512, 48]);
        assert_eq!(bufs[1].as_ptr(), address);
        assert_eq!(output.len(), 0);
        assert!(output.take().is_empty());
    }

    #[test]
    fn a_full_page_starts_another() {
        let mut output = Output::default();
        for cid in 0..1000 {
            output.response(Cqe { cid: Le16::new(cid), ..Cqe::default() });
        }
        let all = joined(&output.take());
        assert_eq!(all.len(), 24_000);
        for (i, pdu) in all.chunks(24).enumerate() {
            let pdu: pdu::ResponsePdu = view(pdu).expect("whole");
            assert_eq!(usize::from(pdu.cqe.cid.get()), i);
        }
    }

    #[test]
    fn data_is_padded_and_digested() {
        let mut output = Output { digests: Digests { header: true, data: true }, alignment: 15, ..Output::default() };
        output.data(9, Data::from(Buf::copy_of(b"12345678")), 0);
        let all = joined(&output.take());
        // 24 header + 4 digest, padded to 64, 8 data, 4 digest.
        assert_eq!(all.len(), 64 + 8 + 4);
        assert_eq!(all[3], 64);
        assert!(Digest::of(&all[..24]).matches(&all[24..28]));
        assert_eq!(&all[64..72], b"12345678");
        assert!(Digest::of(b"12345678").matches(&all[72..]));
    }
}
