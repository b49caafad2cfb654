//! Feeds arbitrary bytes to the parsers of text keys, CDBs and parameter lists.

use block::{BlockSize, Blocks, Features, Geometry};
use iscsi::params::Params;
use iscsi::scsi::{cdb, mode, reserve::Port, reserve::Reservations};
use iscsi::{IscsiName, pdu, text};

/// The first byte chooses the parser.
pub fn run(input: &[u8]) {
    let [which, bytes @ ..] = input else { return };
    match which % 4 {
        0 => keys(bytes),
        1 => commands(bytes),
        2 => reservations(bytes),
        _ => headers(bytes),
    }
}

fn keys(bytes: &[u8]) {
    let Ok(pairs) = text::parse(bytes) else { return };
    let mut params = Params::default();
    let mut written = Vec::new();
    for (key, value) in &pairs {
        let answer = params.answer(key, value);
        assert!(answer.text().is_none_or(|t| !t.contains('\0')));
        let _ = (text::number(value), text::binary(value, 64), IscsiName::new(value));
        text::push(&mut written, key, value);
    }
    assert_eq!(text::parse(&written), Ok(pairs));
    assert!(params.first_burst <= params.max_burst && params.peer_segment >= 512);
}

fn commands(bytes: &[u8]) {
    let Some((cdb, list)) = bytes.split_first_chunk::<16>() else { return };
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        let geometry = Geometry { block_size, blocks: Blocks(1 << 20), features: Features::default() };
        if let Ok(command) = cdb::parse(cdb, &geometry) {
            assert!(command.data_out(&geometry) <= block::limits::TRANSFER_BYTES);
        }
        for range in cdb::unmap_ranges(list, &geometry).unwrap_or_default() {
            assert!(range.fits(geometry.blocks) && !range.is_empty());
        }
        let _ = (mode::select(list, false, &geometry), mode::select(list, true, &geometry));
    }
}

fn reservations(bytes: &[u8]) {
    let name = IscsiName::new("iqn.2000-01.org.example:host").expect("a name");
    let mut reservations = Reservations::default();
    for step in bytes.chunks(27) {
        let [who, action, kind, list @ ..] = step else { return };
        let port = Port { initiator: name.clone(), isid: [who % 4; 6] };
        // Whoever it does not name goes on.
        let _ = reservations.change(&port, action % 7, kind % 9, list);
        for action in 0..4 {
            let report = reservations.report(action);
            assert!(report.len() >= 8);
        }
    }
}

fn headers(bytes: &[u8]) {
    for bhs in bytes.chunks_exact(pdu::BHS_BYTES) {
        let bhs: pdu::Bhs = bhs.try_into().expect("48 bytes");
        pdu::Request::parse(&bhs);
    }
}
