//! What initiators may not do: it ends their connection, and touches nobody else.

mod support;

use iscsi::pdu::{self, opcode};
use iscsi::target::Phase;
use iscsi::wire::{get32, put32};
use proptest::prelude::*;
use support::*;

/// Runs a story with a session of its own, and checks that the connection ends and another session goes on.
fn ends(keys: &[(&str, &str)], what: &str, story: impl FnOnce(&mut World, &mut Initiator)) {
    let mut w = World::new();
    w.export(DISK);
    let mut bystander = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 9], &[]);
    bystander.write(&mut w, &cdb10(0x2a, 0, 1), &[7; 512]).good();
    let mut i = Initiator::normal(&mut w, keys);
    story(&mut w, &mut i);
    assert!(matches!(w.phase(i.id), Phase::Flush | Phase::Ended), "{what}");
    if w.phase(i.id) == Phase::Flush {
        w.lose(i.id);
    }
    w.target.remove(i.id);
    assert_eq!(bystander.read(&mut w, &cdb10(0x28, 0, 1), 512).good(), [7; 512], "{what}");
}

#[test]
fn broken_rules_end_the_connection() {
    ends(&[], "a gap in CmdSN", |w, i| {
        i.cmd_sn += 1;
        i.start_read(w, &[0; 6], 0);
    });
    ends(&[], "immediate data of a read", |w, i| {
        let bhs = i.command_bhs(&cdb10(0x28, 0, 1), 0xc1, 512);
        i.send(w, bhs, &[1; 512]);
    });
    ends(&[("ImmediateData", "No")], "immediate data without leave", |w, i| {
        i.start_write(w, &cdb10(0x2a, 0, 1), &[1; 512], 512);
    });
    ends(&[], "more immediate data than expected", |w, i| {
        let bhs = i.command_bhs(&cdb10(0x2a, 0, 1), 0xa1, 512);
        i.send(w, bhs, &[1; 1024]);
    });
    ends(&[], "unsolicited data without leave", |w, i| {
        let bhs = i.command_bhs(&cdb10(0x2a, 0, 1), 0x21, 512);
        i.send(w, bhs, &[]);
    });
    ends(&[("InitialR2T", "No")], "unsolicited data in the wrong place", |w, i| {
        let bhs = i.command_bhs(&cdb10(0x2a, 0, 2), 0x21, 1024);
        i.send(w, bhs, &[]);
        i.send(w, data_out(i.itt, NONE, 0, 512, true), &[1; 512]);
    });
    ends(&[("InitialR2T", "No"), ("FirstBurstLength", "512")], "too much unsolicited data", |w, i| {
        let bhs = i.command_bhs(&cdb10(0x2a, 0, 2), 0x21, 1024);
        i.send(w, bhs, &[]);
        i.send(w, data_out(i.itt, NONE, 0, 0, true), &[1; 1024]);
    });
    ends(&[], "a login in the full feature phase", |w, i| {
        i.login(w, 0x87, &[]);
    });
    ends(&[], "a PDU longer than we take", |w, i| {
        let mut bhs = pdu::header(opcode::NOP_OUT | pdu::IMMEDIATE, pdu::FINAL, 5);
        pdu::set_data_len(&mut bhs, 0xff_ffff);
        w.deliver(i.id, &bhs, usize::MAX);
    });
    ends(&[("HeaderDigest", "CRC32C")], "a wrong header digest", |w, i| {
        let bhs = i.command_bhs(&[0; 6], 0x81, 0);
        let mut bytes = i.bytes(bhs, &[]);
        bytes[50] ^= 1;
        w.deliver(i.id, &bytes, usize::MAX);
    });
    ends(&[], "text without end", |w, i| {
        for _ in 0..20 {
            let mut bhs = pdu::header(opcode::TEXT | pdu::IMMEDIATE, pdu::CONTINUE, 5);
            put32(&mut bhs, 20, NONE);
            put32(&mut bhs, 24, i.cmd_sn);
            i.send(w, bhs, &[b'x'; 8192]);
            for answer in i.pdus(w) {
                put32(&mut bhs, 20, get32(&answer.bhs, 20));
                i.send(w, bhs, &[b'x'; 60_000]);
            }
        }
    });
}

#[test]
fn solicited_data_must_be_what_was_asked_for() {
    for (what, data_sn, offset, len, is_final) in [
        ("the wrong DataSN", 1, 0, 1024, true),
        ("the wrong offset", 0, 512, 512, true),
        ("more than asked", 0, 0, 2048, true),
        ("an end too early", 0, 0, 512, true),
        ("no end", 0, 0, 1024, false),
    ] {
        ends(&[], what, |w, i| {
            let itt = i.start_write(w, &cdb10(0x2a, 8, 2), &[1; 1024], 0);
            let r2t = i.pdus(w).remove(0);
            i.send(w, data_out(itt, get32(&r2t.bhs, 20), data_sn, offset, is_final), &vec![1; len]);
            assert!(w.waiting.is_empty());
        });
    }
    ends(&[], "the wrong tag", |w, i| {
        let itt = i.start_write(w, &cdb10(0x2a, 8, 1), &[1; 512], 0);
        let r2t = i.pdus(w).remove(0);
        i.send(w, data_out(itt, get32(&r2t.bhs, 20) + 1, 0, 0, true), &[1; 512]);
    });
}

#[test]
fn what_is_only_odd_is_rejected() {
    let mut w = World::new();
    w.export(DISK);
    let mut i = Initiator::normal(&mut w, &[]);
    for (opcode, reason) in [(opcode::SNACK, 3), (0x1c, 5)] {
        i.send(&mut w, pdu::header(opcode, pdu::FINAL, 5), &[]);
        let rejected = i.pdus(&mut w).remove(0);
        assert_eq!((rejected.opcode(), rejected.bhs[2], rejected.data.len()), (opcode::REJECT, reason, 48));
    }
    // Data for a command that is not there.
    i.send(&mut w, data_out(99, 5, 0, 0, true), &[1; 512]);
    assert!(i.pdus(&mut w).is_empty());
    w.prompt = false;
    let itt = i.start_read(&mut w, &cdb10(0x28, 0, 1), 512);
    i.itt -= 1;
    i.start_read(&mut w, &cdb10(0x28, 0, 1), 512);
    let rejected = i.pdus(&mut w).remove(0);
    assert_eq!((rejected.opcode(), rejected.bhs[2]), (opcode::REJECT, 7), "a tag twice");
    w.answer_all();
    i.end(&mut w, itt, &[]).good();
}

#[test]
fn nothing_but_a_login_begins_a_connection() {
    let mut w = World::new();
    w.export(DISK);
    for first in [opcode::COMMAND, opcode::NOP_OUT, opcode::TEXT, opcode::DATA_OUT, 0x3f] {
        let mut i = Initiator::new(&mut w);
        i.send(&mut w, pdu::header(first, pdu::FINAL, 1), &[]);
        assert_eq!(w.phase(i.id), Phase::Ended);
        w.target.remove(i.id);
    }
    let mut i = Initiator::new(&mut w);
    for _ in 0..10 {
        i.login_raw(&mut w, 0x44, &[b'x'; 8192]);
    }
    assert_eq!(w.phase(i.id), Phase::Flush, "a login without end");
    let mut i = Initiator::new(&mut w);
    let many: Vec<String> = (0..1000).map(|n| format!("X-unknown-{n}")).collect();
    let mut keys = vec![("InitiatorName", HOST), ("TargetName", DISK)];
    keys.extend(many.iter().map(|key| (key.as_str(), "1")));
    assert_eq!(i.login(&mut w, 0x87, &keys).map(|p| p.login_status()), Some(0x0200));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_pdus_never_make_the_target_fail(
        pdus in proptest::collection::vec((any::<[u8; 48]>(), 0usize..2000), 1..8),
        piece in 1usize..3000,
    ) {
        let mut w = World::new();
        let disk = w.export(DISK);
        let mut i = Initiator::normal(&mut w, &[("InitialR2T", "No")]);
        i.piece = piece;
        for (mut bhs, len) in pdus {
            // Let most of them reach the dispatch: no additional headers, a number that fits.
            bhs[4] = 0;
            bhs[0] &= 0x47;
            put32(&mut bhs, 24, i.cmd_sn);
            i.send(&mut w, bhs, &pattern(len, 1));
            for answer in i.pdus(&mut w) {
                i.cmd_sn = get32(&answer.bhs, 28);
            }
        }
        w.unexport(disk);
        w.lose(i.id);
        prop_assert_eq!(w.phase(i.id), Phase::Ended);
        prop_assert_eq!(w.idle, [disk]);
    }
}
