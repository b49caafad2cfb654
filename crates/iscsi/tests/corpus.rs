//! Replays the fuzzers' corpora. What a fuzzer ever found is kept there.
#![allow(clippy::disallowed_methods, reason = "a test reads its own data")]

mod support;

#[path = "../../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/bodies/iscsi_initiator.rs"]
mod iscsi_initiator;
#[path = "../../../fuzz/bodies/iscsi_target.rs"]
mod iscsi_target;
#[path = "../../../fuzz/bodies/iscsi_text.rs"]
mod iscsi_text;

use iscsi::pdu::{self, opcode};
use iscsi::wire::put32;
use support::*;

#[test]
fn target() {
    corpus::replay("iscsi_target", iscsi_target::run);
}

#[test]
fn initiator() {
    corpus::replay("iscsi_initiator", iscsi_initiator::run);
}

#[test]
fn text() {
    corpus::replay("iscsi_text", iscsi_text::run);
}

/// A conversation of a normal session: the start byte, how it is cut, PDUs one after the other.
fn conversation(start: u8, piece: u8, pdus: impl FnOnce(&mut Initiator) -> Vec<Vec<u8>>) -> Vec<u8> {
    let mut w = World::new();
    w.export(DISK);
    let mut i = Initiator::new(&mut w);
    (i.header_digest, i.data_digest) = (start & 4 != 0, start & 4 != 0);
    let mut bytes = vec![start, piece];
    bytes.extend(pdus(&mut i).concat());
    bytes
}

#[test]
#[ignore = "writes the seeds"]
fn seeds() {
    let write = |i: &mut Initiator, immediate: usize| {
        let bhs = i.command_bhs(&cdb10(0x2a, 0, 4), 0xa1, 2048);
        i.bytes(bhs, &pattern(2048, 1)[..immediate])
    };
    let read = |i: &mut Initiator| {
        let bhs = i.command_bhs(&cdb10(0x28, 0, 4), 0xc1, 2048);
        i.bytes(bhs, &[])
    };
    let solicited = |i: &mut Initiator| i.bytes(data_out(i.itt, 1, 0, 0, true), &pattern(2048, 1));
    let manage = |i: &mut Initiator, function: u8| {
        let mut bhs = pdu::header(opcode::TASK | pdu::IMMEDIATE, pdu::FINAL | function, 900);
        put32(&mut bhs, 20, i.itt);
        put32(&mut bhs, 24, i.cmd_sn);
        i.bytes(bhs, &[])
    };
    let text = |i: &mut Initiator| {
        let mut bhs = pdu::header(opcode::TEXT | pdu::IMMEDIATE, pdu::FINAL, 901);
        put32(&mut bhs, 20, NONE);
        put32(&mut bhs, 24, i.cmd_sn);
        i.bytes(bhs, b"SendTargets=All\0")
    };
    let logout = |i: &mut Initiator| {
        let mut bhs = pdu::header(opcode::LOGOUT | pdu::IMMEDIATE, pdu::FINAL, 902);
        put32(&mut bhs, 24, i.cmd_sn);
        i.bytes(bhs, &[])
    };
    let compare = |i: &mut Initiator| {
        let mut cdb = cdb16(0x89, 0, 0);
        cdb[13] = 1;
        let bhs = i.command_bhs(&cdb, 0xa1, 1024);
        i.bytes(bhs, &[0; 1024])
    };
    let login = |i: &mut Initiator| {
        let mut bhs = pdu::header(opcode::LOGIN | pdu::IMMEDIATE, 0x87, 1);
        put32(&mut bhs, 24, 100);
        i.bytes(bhs, format!("InitiatorName={HOST}\0TargetName={DISK}\0HeaderDigest=CRC32C\0").as_bytes())
    };
    let mut seeds = vec![
        ("login".to_owned(), conversation(0, 200, |i| vec![login(i), read(i)])),
        ("login-second-stage".to_owned(), conversation(1, 9, |i| vec![login(i)])),
        ("discovery".to_owned(), conversation(3, 255, |i| vec![text(i), logout(i)])),
    ];
    for start in [0x02, 0x06, 0x12, 0x16, 0x32, 0x52, 0x72] {
        let mut add = |name: &str, bytes| seeds.push((format!("{name}-{start:02x}"), bytes));
        add("read", conversation(start, 255, |i| vec![read(i), read(i), text(i), logout(i)]));
        add("write", conversation(start, 100, |i| vec![write(i, 2048), write(i, 0), solicited(i), read(i)]));
        add("abort", conversation(start, 255, |i| vec![write(i, 2048), manage(i, 1), write(i, 0), manage(i, 5)]));
        add("compare", conversation(start, 255, |i| vec![compare(i), write(i, 2048), compare(i), manage(i, 2)]));
    }
    seeds.push((
        "unsolicited".to_owned(),
        conversation(0x0a, 255, |i| {
            let bhs = i.command_bhs(&cdb10(0x2a, 0, 4), 0x21, 2048);
            let first = i.bytes(bhs, &[1; 512]);
            vec![first, i.bytes(data_out(i.itt, NONE, 0, 512, true), &[2; 1536])]
        }),
    ));
    corpus::write("iscsi_target", &seeds);
    let mut list = vec![1];
    list.extend(cdb10(0x42, 0, 24));
    list.resize(17, 0);
    list.extend([0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0, 0]);
    let register = [&[2, 0, 0, 0][..], &[0; 15], &[7], &[0; 8]].concat();
    let reserve = [&[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 16]].concat();
    corpus::write(
        "iscsi_text",
        &[
            ("keys", b"\0InitialR2T=No\0MaxBurstLength=0x1000\0FirstBurstLength=65536\0CHAP_C=0bTWFu\0".to_vec()),
            ("unmap", list),
            ("mode-select", [&[1][..], &[0x15, 0x10, 0, 0, 24, 0], &[0; 10], &[0, 0, 0, 0, 8, 18, 0]].concat()),
            ("reservations", [register, reserve].concat()),
            ("header", [&[3][..], &pdu::header(opcode::COMMAND, 0xc1, 7)].concat()),
        ],
    );
}
