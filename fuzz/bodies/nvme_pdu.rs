//! Decodes arbitrary bytes as everything that comes from a peer.

use nvme::identify::parse_descriptor_list;
use nvme::nqn::NQN_FIELD;
use nvme::pdu::{CommonHeader, Digests, Header, Layout};
use nvme::wire::{text, view};
use nvme::{Nqn, Status};

/// The first byte holds the digests (bits 1:0) and the alignment (bits 7:3).
pub fn run(input: &[u8]) {
    let [options, bytes @ ..] = input else { return };
    if let Some(common) = view::<CommonHeader>(bytes)
        && let Ok(layout) = Layout::of(&common, Digests::from_wire(options & 3), options >> 3)
    {
        assert!(layout.header_len <= layout.data_start && layout.data_start + layout.data_len <= layout.pdu_len);
        // The header may be parsed from too few bytes: an error, not a panic.
        let _ = Header::parse(&layout, bytes);
    }
    let _ = parse_descriptor_list(bytes);
    let _ = text(bytes);
    if let Some(Ok(field)) = bytes.get(..NQN_FIELD).map(<[u8; NQN_FIELD]>::try_from)
        && let Ok(nqn) = Nqn::from_field(&field)
    {
        assert_eq!(Nqn::from_field(&nqn.to_field()), Ok(nqn));
    }
    if let [a, b, ..] = bytes {
        let status = Status::from_wire(u16::from_le_bytes([*a, *b]));
        let _ = (status.to_result(), status.meaning());
    }
}
