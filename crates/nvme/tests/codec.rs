//! The codecs, from both sides: what one writes the other reads.

use nvme::command::{Sgl, Sqe};
use nvme::pdu::{self, CommonHeader, Digests, FatalError, Header, Kind, Layout, Transfer, Violation};
use nvme::wire::view;
use nvme::{Cqe, Status};
use proptest::prelude::*;

fn digests() -> impl Strategy<Value = Digests> {
    any::<(bool, bool)>().prop_map(|(header, data)| Digests { header, data })
}

fn parse(bytes: &[u8], digests: Digests, alignment: u8) -> (Layout, Header) {
    let common: CommonHeader = view(bytes).expect("a common header");
    let layout = Layout::of(&common, digests, alignment).expect("a good layout");
    (layout, Header::parse(&layout, bytes).expect("a good header"))
}

proptest! {
    #[test]
    fn init(alignment in 0u8..32, digests in digests(), max in 1u32..1000, h2c in 1024u32..1_000_000) {
        let (_, header) = parse(bytemuck::bytes_of(&pdu::ic_req(alignment, digests, max)), Digests::default(), 0);
        prop_assert_eq!(header, Header::IcReq { data_alignment: alignment, digests, max_r2t: max });
        let max_h2c_data = h2c * 4;
        let (_, header) = parse(bytemuck::bytes_of(&pdu::ic_resp(alignment, digests, max_h2c_data)), Digests::default(), 0);
        prop_assert_eq!(header, Header::IcResp { data_alignment: alignment, digests, max_h2c_data });
    }

    #[test]
    fn transfers(digests in digests(), alignment in 0u8..32, cid: u16, tag: u16, offset in 0u32..1_000_000, len in 1u32..1_000_000) {
        let transfer = Transfer { cid, tag, offset: offset * 4, len };
        for kind in [Kind::H2cData, Kind::C2hData, Kind::R2t] {
            let pdu = pdu::transfer(kind, 0, digests, alignment, transfer);
            let (layout, header) = parse(bytemuck::bytes_of(&pdu), digests, alignment);
            let (data, expected) = match kind {
                Kind::H2cData => (len, Header::H2cData(transfer)),
                Kind::C2hData => (len, Header::C2hData(transfer)),
                _ => (0, Header::R2t(transfer)),
            };
            prop_assert_eq!(header, expected);
            prop_assert_eq!(layout.data_len, data as usize);
            prop_assert_eq!(layout.has_data_digest, digests.data && data > 0);
            if data > 0 {
                prop_assert_eq!(layout.data_start % ((usize::from(alignment) + 1) * 4), 0);
            }
            // A receiver that asked for a coarser alignment refuses what is not aligned for it.
            if data > 0 && layout.data_start % 128 != 0 {
                let common = pdu.common;
                prop_assert_eq!(Layout::of(&common, digests, 31), Err(Violation::field(pdu::offset::DATA_OFFSET)));
            }
        }
    }

    #[test]
    fn capsules(digests in digests(), raw: [u8; 32], rest: [u8; 32], data in 0usize..8192, result: u64, cid: u16, status in 0u16..0x8000) {
        let mut whole = [0; 64];
        whole[..32].copy_from_slice(&raw);
        whole[32..].copy_from_slice(&rest);
        let sqe: Sqe = bytemuck::cast(whole);
        let pdu = pdu::command(digests, 0, sqe, data);
        let (layout, header) = parse(bytemuck::bytes_of(&pdu), digests, 0);
        prop_assert_eq!(header, Header::Command(sqe));
        prop_assert_eq!(layout.data_len, data);
        let status = Status::from_wire(status << 1);
        let cqe = Cqe { result: result.into(), cid: cid.into(), status: status.to_wire().into(), ..Cqe::default() };
        let (_, header) = parse(bytemuck::bytes_of(&pdu::response(digests, cqe)), digests, 0);
        prop_assert_eq!(header, Header::Response(cqe));
        prop_assert_eq!(cqe.status(), status);
    }

    #[test]
    fn terminations(info: u32, offending in proptest::collection::vec(any::<u8>(), 0..300)) {
        for error in 1..=6 {
            let error = FatalError::from_wire(error).expect("known");
            let bytes = pdu::termination(Kind::H2cTerm, Violation { error, info }, &offending);
            let (layout, header) = parse(&bytes, Digests { header: true, data: true }, 0);
            prop_assert_eq!(header, Header::H2cTerm { status: error as u16, info });
            prop_assert_eq!(layout.pdu_len, bytes.len());
            prop_assert_eq!(&bytes[layout.data_start..], &offending[..offending.len().min(128)]);
        }
    }

    #[test]
    fn arbitrary_headers_give_consistent_layouts(bytes: [u8; 8], digests in digests(), alignment in 0u8..32, rest: [u8; 32]) {
        let common: CommonHeader = view(&bytes).expect("eight bytes");
        if let Ok(layout) = Layout::of(&common, digests, alignment) {
            prop_assert!(layout.header_len <= layout.data_start);
            let digest = if layout.has_data_digest { 4 } else { 0 };
            if layout.data_len > 0 {
                prop_assert_eq!(layout.data_start + layout.data_len + digest, layout.pdu_len);
            }
            let _ = Header::parse(&layout, &rest);
        }
    }
}

#[test]
fn directions() {
    use nvme::command::{Direction, admin, io};
    let of = |opcode| Sqe { opcode, sgl: Sgl::default(), ..Sqe::default() }.direction();
    assert_eq!(of(io::WRITE), Direction::ToController);
    assert_eq!(of(io::READ), Direction::ToHost);
    assert_eq!(of(io::FLUSH), Direction::None);
    assert_eq!(of(admin::IDENTIFY), Direction::ToHost);
    assert_eq!(nvme::fabrics::connect(1, 0, 31, 0, 0).direction(), Direction::ToController);
    assert_eq!(nvme::fabrics::property_get(1, 0, true).direction(), Direction::None);
}
