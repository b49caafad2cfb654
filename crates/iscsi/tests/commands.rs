//! Commands: data both ways in all the forms that negotiation allows, the commands of a disk, task management.

mod support;

use block::Fault;
use iscsi::pdu::{self, opcode};
use iscsi::wire::{get32, put32, put64};
use support::*;

const DIGESTS: &[(&str, &str)] = &[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];

fn session(keys: &[(&str, &str)]) -> (World, Initiator) {
    let mut w = World::new();
    w.export(DISK);
    let i = Initiator::normal(&mut w, keys);
    (w, i)
}

#[test]
fn data_goes_both_ways_in_every_form() {
    let small = [("MaxBurstLength", "4096"), ("MaxRecvDataSegmentLength", "512")];
    for keys in [&[][..], DIGESTS, &small, &[&small[..], DIGESTS].concat()] {
        for (immediate, piece) in [(0, usize::MAX), (0, 1000), (8192, usize::MAX), (1000, 7)] {
            let (mut w, mut i) = session(keys);
            i.piece = piece;
            let first = if keys.contains(&small[0]) { immediate.min(4096) } else { immediate };
            let data = pattern(40 * 512, immediate as u8);
            let itt = i.start_write(&mut w, &cdb10(0x2a, 16, 40), &data, first);
            let ended = i.end(&mut w, itt, &data);
            ended.good();
            assert_eq!((ended.residual, ended.r2ts > 0), (0, true));
            let read = i.read(&mut w, &cdb16(0x88, 16, 40), data.len());
            assert!(read.good() == data, "{keys:?} {immediate} {piece}");
        }
    }
}

#[test]
fn unsolicited_data_may_follow_the_command() {
    let (mut w, mut i) = session(&[("InitialR2T", "No"), ("FirstBurstLength", "4096")]);
    let data = pattern(20 * 512, 3);
    let bhs = i.command_bhs(&cdb10(0x2a, 0, 20), 0x21, data.len());
    i.send(&mut w, bhs, &data[..512]);
    let itt = i.itt;
    i.send(&mut w, data_out(itt, NONE, 0, 512, false), &data[512..2048]);
    assert!(i.pdus(&mut w).is_empty(), "more was announced");
    i.send(&mut w, data_out(itt, NONE, 1, 2048, true), &data[2048..4096]);
    let ended = i.end(&mut w, itt, &data);
    ended.good();
    assert_eq!(ended.r2ts, 1);
    assert!(i.read(&mut w, &cdb10(0x28, 0, 20), data.len()).good() == data);
}

#[test]
fn a_command_that_fails_at_once_waits_for_its_unsolicited_data() {
    let (mut w, mut i) = session(&[("InitialR2T", "No")]);
    let bhs = i.command_bhs(&cdb10(0x2a, 9000, 2), 0x21, 1024);
    i.send(&mut w, bhs, &[1; 512]);
    let itt = i.itt;
    assert!(i.try_end(&mut w, itt, &[]).is_none());
    i.send(&mut w, data_out(itt, NONE, 0, 512, true), &[1; 512]);
    let ended = i.end(&mut w, itt, &[]);
    assert_eq!((ended.status, ended.sense), (2, 0x2100));
    i.read(&mut w, &[0; 6], 0).good();
}

#[test]
fn residuals() {
    let (mut w, mut i) = session(&[]);
    let more = i.read(&mut w, &cdb10(0x28, 0, 1), 10_000);
    assert_eq!((more.good().len(), more.residual), (512, 512 - 10_000));
    let less = i.read(&mut w, &cdb10(0x28, 0, 2), 512);
    assert_eq!((less.good().len(), less.residual), (512, 512));
    let nothing = i.read(&mut w, &cdb10(0x28, 0, 1), 0);
    assert_eq!((nothing.good().len(), nothing.residual), (0, 512));
    // A write of two blocks with data for one.
    let cut = i.write(&mut w, &cdb10(0x2a, 0, 2), &[7; 512]);
    cut.good();
    assert_eq!(cut.residual, 512);
    let both = i.read(&mut w, &cdb10(0x28, 0, 2), 1024);
    assert_eq!((both.good()[511], both.good()[512]), (7, 0));
    let odd = i.write(&mut w, &cdb10(0x2a, 0, 1), &[8; 200]);
    assert_eq!((odd.status, odd.sense, odd.residual), (2, 0x0e03, 312));
    let surplus = i.write(&mut w, &cdb10(0x2a, 0, 1), &[9; 1024]);
    surplus.good();
    assert_eq!(surplus.residual, -512);
    let both = i.read(&mut w, &cdb10(0x28, 0, 2), 1024);
    assert_eq!((both.good()[511], both.good()[512]), (9, 0));
}

#[test]
fn compare_and_write_and_orwrite() {
    let (mut w, mut i) = session(&[]);
    let mut cdb = cdb16(0x89, 4, 0);
    cdb[13] = 1;
    i.write(&mut w, &cdb, &[[0; 512], [5; 512]].concat()).good();
    assert_eq!(i.read(&mut w, &cdb10(0x28, 4, 1), 512).good(), [5; 512]);
    let mut wrong = [5; 512];
    wrong[300] = 6;
    let ended = i.write(&mut w, &cdb, &[wrong, [7; 512]].concat());
    assert_eq!((ended.status, ended.sense), (2, 0x1d00));
    assert_eq!(i.read(&mut w, &cdb10(0x28, 4, 1), 512).good(), [5; 512]);
    assert_eq!(i.write(&mut w, &cdb, &[0; 512]).sense, 0x0e03, "half of the data");
    i.write(&mut w, &cdb16(0x8b, 4, 1), &[0x12; 512]).good();
    assert_eq!(i.read(&mut w, &cdb10(0x28, 4, 1), 512).good(), [0x17; 512]);
}

#[test]
fn nothing_comes_between_the_halves_of_a_compare_and_write() {
    let (mut w, mut i) = session(&[]);
    let mut other = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 2], &[]);
    w.prompt = false;
    let mut cdb = cdb16(0x89, 0, 0);
    cdb[13] = 1;
    let both = [[0; 512], [5; 512]].concat();
    let first = i.start_write(&mut w, &cdb, &both, 1024);
    let write = other.start_write(&mut w, &cdb10(0x2a, 0, 1), &[9; 512], 512);
    let again = other.start_write(&mut w, &cdb, &both, 1024);
    let read = other.start_read(&mut w, &cdb10(0x28, 100, 1), 512);
    // Only the first one's reading and the other's read are at the disk.
    assert_eq!(w.waiting.len(), 2);
    w.answer_all();
    i.end(&mut w, first, &[]).good();
    let ended = other.pdus(&mut w);
    assert_eq!(ended.iter().map(Pdu::itt).collect::<Vec<_>>(), [read, write, again]);
    assert_eq!(ended[2].bhs[3], 2, "the write came before the second comparison");
    w.prompt = true;
    assert_eq!(i.read(&mut w, &cdb10(0x28, 0, 1), 512).good(), [9; 512]);
}

#[test]
fn a_gated_command_whose_session_ends_does_not_block_others() {
    let (mut w, mut i) = session(&[]);
    let mut other = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 2], &[]);
    let mut third = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 3], &[]);
    w.prompt = false;
    let mut cdb = cdb16(0x89, 0, 0);
    cdb[13] = 1;
    let write = i.start_write(&mut w, &cdb10(0x2a, 0, 1), &[9; 512], 512);
    other.start_write(&mut w, &cdb, &[0; 1024], 1024);
    let last = third.start_write(&mut w, &cdb10(0x2a, 8, 1), &[1; 512], 512);
    assert_eq!(w.waiting.len(), 1);
    w.lose(other.id);
    assert_eq!(w.waiting.len(), 2, "the third need not wait any more");
    w.answer_all();
    i.end(&mut w, write, &[]).good();
    third.end(&mut w, last, &[]).good();
}

#[test]
fn write_same_unmap_verify() {
    let (mut w, mut i) = session(&[]);
    i.write(&mut w, &cdb10(0x41, 0, 3000), &pattern(512, 1)).good();
    for lba in [0, 2047, 2048, 2999] {
        assert!(i.read(&mut w, &cdb10(0x28, lba, 1), 512).good() == pattern(512, 1), "{lba}");
    }
    assert_eq!(i.read(&mut w, &cdb10(0x28, 3000, 1), 512).good(), [0; 512]);
    let mut verify = cdb10(0x2f, 10, 2);
    verify[1] = 2;
    i.write(&mut w, &verify, &pattern(512, 1).repeat(2)).good();
    assert_eq!(i.write(&mut w, &verify, &[0; 1024]).sense, 0x1d00);
    verify[1] = 6;
    i.write(&mut w, &verify, &pattern(512, 1)).good();
    i.read(&mut w, &cdb10(0x2f, 0, 8), 0).good();
    let mut list = vec![0; 24];
    (list[1], list[3]) = (22, 16);
    put64(&mut list, 8, 8);
    put32(&mut list, 16, 4);
    i.write(&mut w, &cdb10(0x42, 0, 24), &list).good();
    assert_eq!(i.read(&mut w, &cdb10(0x28, 8, 4), 2048).good(), [0; 2048]);
    let mut same = cdb16(0x93, 100, 50);
    same[1] = 8;
    i.write(&mut w, &same, &[0; 512]).good();
    assert_eq!(i.read(&mut w, &cdb10(0x28, 149, 2), 1024).good(), [vec![0; 512], pattern(512, 1)].concat());
    i.write(&mut w, &cdb10(0x2e, 50, 2), &[3; 1024]).good();
    i.read(&mut w, &cdb10(0x35, 0, 0), 0).good();
    let durable = [&[0x28, 8][..], &cdb10(0x28, 50, 1)[2..]].concat();
    assert_eq!(i.read(&mut w, &durable, 512).good(), [3; 512], "FUA");
}

#[test]
fn faults_become_sense_data() {
    for (fault, status, sense) in
        [(Fault::Medium, 2, 0x1100), (Fault::Gone, 2, 0x0500), (Fault::Fenced, 0x18, 0), (Fault::NoSpace, 2, 0x2707)]
    {
        let (mut w, mut i) = session(&[]);
        w.fault = Some(fault);
        let ended = i.read(&mut w, &cdb10(0x28, 0, 1), 512);
        assert_eq!((ended.status, ended.sense), (status, sense), "{fault}");
        w.fault = None;
        i.read(&mut w, &cdb10(0x28, 0, 1), 512).good();
    }
}

#[test]
fn other_units_do_not_exist() {
    let (mut w, mut i) = session(&[]);
    let mut ask = |cdb: &[u8], expected| {
        let mut bhs = i.command_bhs(cdb, 0xc1, expected);
        bhs[9] = 5;
        i.send(&mut w, bhs, &[]);
        let itt = i.itt;
        i.end(&mut w, itt, &[])
    };
    assert_eq!(ask(&[0; 6], 0).sense, 0x2500);
    assert_eq!(ask(&[0x12, 0, 0, 0, 96, 0], 96).good()[0], 0x7f);
    assert_eq!(ask(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], 16).good().len(), 16);
    assert_eq!(ask(&[3, 0, 0, 0, 18, 0], 18).good()[12], 0x25);
}

#[test]
fn persistent_reservations_between_two_initiators() {
    let (mut w, mut a) = session(&[]);
    let mut b = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 2], &[]);
    let out = |action: u8, kind: u8| vec![0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    let list = |key: u64, new: u64| {
        let mut list = vec![0; 24];
        put64(&mut list, 0, key);
        put64(&mut list, 8, new);
        list
    };
    a.write(&mut w, &out(0, 0), &list(0, 1)).good();
    b.write(&mut w, &out(0, 0), &list(0, 2)).good();
    a.write(&mut w, &out(1, 1), &list(1, 0)).good();
    assert_eq!(b.write(&mut w, &cdb10(0x2a, 0, 1), &[1; 512]).status, 0x18);
    b.read(&mut w, &cdb10(0x28, 0, 1), 512).good();
    assert_eq!(b.read(&mut w, &[0x16, 0, 0, 0, 0, 0], 0).status, 0x18, "RESERVE");
    // Taken over: a learns of it with its next command, once.
    b.write(&mut w, &out(4, 3), &list(2, 1)).good();
    assert_eq!(a.read(&mut w, &[0; 6], 0).sense, 0x2a05);
    assert_eq!(a.read(&mut w, &cdb10(0x28, 0, 1), 512).status, 0x18);
    a.read(&mut w, &[0; 6], 0).good();
    let keys = a.read(&mut w, &[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], 256);
    assert_eq!((get32(keys.good(), 4), keys.good()[15]), (8, 2));
    // They outlive the session.
    assert!(b.logout(&mut w).is_some());
    w.lose(b.id);
    assert_eq!(a.read(&mut w, &cdb10(0x28, 0, 1), 512).status, 0x18);
}

#[test]
fn the_old_reservation_ends_with_its_session() {
    let (mut w, mut a) = session(&[]);
    let mut b = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 2], &[]);
    a.read(&mut w, &[0x16, 0, 0, 0, 0, 0], 0).good();
    assert_eq!(b.read(&mut w, &[0; 6], 0).status, 0x18);
    b.read(&mut w, &[0x17, 0, 0, 0, 0, 0], 0).good();
    assert_eq!(b.read(&mut w, &[0; 6], 0).status, 0x18, "it was not b's to release");
    w.lose(a.id);
    b.read(&mut w, &[0; 6], 0).good();
}

#[test]
fn an_abort_is_answered_when_the_command_can_do_no_more() {
    let (mut w, mut i) = session(&[]);
    w.prompt = false;
    let write = i.start_write(&mut w, &cdb10(0x2a, 0, 1), &[1; 512], 512);
    assert_eq!(i.manage(&mut w, 1, write), None);
    assert_eq!(i.manage(&mut w, 1, 4242), Some(1), "no such task");
    w.answer_all();
    let answers = i.pdus(&mut w);
    assert_eq!(answers.iter().map(Pdu::opcode).collect::<Vec<_>>(), [opcode::TASK_RESPONSE]);
    // Its tag is free again; a command that waits for data is gone at once.
    w.prompt = true;
    let bhs = i.command_bhs(&cdb10(0x2a, 0, 1), 0xa1, 512);
    i.send(&mut w, bhs, &[]);
    let itt = i.itt;
    let r2t = i.pdus(&mut w).remove(0);
    assert_eq!(i.manage(&mut w, 1, itt), Some(0));
    i.send(&mut w, data_out(itt, get32(&r2t.bhs, 20), 0, 0, true), &[9; 512]);
    assert_eq!(i.read(&mut w, &cdb10(0x28, 0, 1), 512).good(), [1; 512]);
}

#[test]
fn a_reset_reaches_all_sessions() {
    let (mut w, mut a) = session(&[]);
    let mut b = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 2], &[]);
    w.prompt = false;
    let lost = b.start_write(&mut w, &cdb10(0x2a, 0, 1), &[1; 512], 512);
    assert_eq!(a.manage(&mut w, 5, NONE), None);
    w.answer_all();
    w.prompt = true;
    assert_eq!(a.managed(&mut w), Some(0));
    assert!(b.try_end(&mut w, lost, &[]).is_none());
    for i in [&mut a, &mut b] {
        assert_eq!(i.read(&mut w, &[0; 6], 0).sense, 0x2903);
        i.read(&mut w, &[0; 6], 0).good();
    }
    assert_eq!(a.manage(&mut w, 8, NONE), Some(4), "tasks are not moved");
    assert_eq!(a.manage(&mut w, 3, NONE), Some(5));
}

#[test]
fn a_command_in_the_middle_of_its_data_can_be_reset_from_elsewhere() {
    let (mut w, mut a) = session(&[]);
    let mut b = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 2], &[]);
    let data = pattern(65_536, 1);
    let bhs = a.command_bhs(&cdb10(0x2a, 0, 128), 0xa1, data.len());
    let bytes = a.bytes(bhs, &data);
    // 40 KiB have come when the reset does: part of it in place.
    w.deliver(a.id, &bytes[..40_000], usize::MAX);
    assert_eq!(b.manage(&mut w, 5, NONE), Some(0));
    w.deliver(a.id, &bytes[40_000..], usize::MAX);
    assert_eq!(a.read(&mut w, &[0; 6], 0).sense, 0x2903);
    assert!(a.read(&mut w, &cdb10(0x28, 0, 128), data.len()).good().iter().all(|b| *b == 0));
}

#[test]
fn numbers_outside_the_window_are_ignored() {
    let (mut w, mut i) = session(&[]);
    let at = i.cmd_sn;
    for cmd_sn in [at + 128, at - 1, at.wrapping_sub(1000)] {
        let mut bhs = i.command_bhs(&[0; 6], 0x81, 0);
        put32(&mut bhs, 24, cmd_sn);
        i.send(&mut w, bhs, &[]);
        assert!(i.pdus(&mut w).is_empty());
    }
    i.cmd_sn = at;
    i.read(&mut w, &[0; 6], 0).good();
}

#[test]
fn the_window_closes_and_opens() {
    let (mut w, mut i) = session(&[]);
    w.prompt = false;
    for _ in 0..128 {
        i.start_read(&mut w, &cdb10(0x28, 0, 1), 512);
    }
    i.start_read(&mut w, &cdb10(0x28, 0, 1), 512);
    assert_eq!(w.waiting.len(), 128, "one too many is ignored");
    i.cmd_sn -= 1;
    // For immediate delivery there is still room, and not for ever.
    for n in 0..9 {
        let mut bhs = i.command_bhs(&cdb10(0x28, 0, 1), 0xc1, 512);
        bhs[0] |= pdu::IMMEDIATE;
        i.cmd_sn -= 1;
        i.send(&mut w, bhs, &[]);
        assert_eq!(w.waiting.len(), 128 + (n + 1).min(8));
    }
    let rejected = i.pdus(&mut w);
    assert_eq!((rejected[0].opcode(), rejected[0].bhs[2]), (opcode::REJECT, 6));
    let max = get32(&rejected[0].bhs, 32);
    assert_eq!(max.wrapping_add(1), i.cmd_sn, "no room");
    w.answer_all();
    let answers = i.pdus(&mut w);
    assert_eq!(get32(&answers.last().expect("answers").bhs, 32), max + 128);
}

#[test]
fn damaged_data_fails_its_command_only() {
    let (mut w, mut i) = session(DIGESTS);
    let bhs = i.command_bhs(&cdb10(0x2a, 0, 1), 0xa1, 512);
    let mut bytes = i.bytes(bhs, &[1; 512]);
    *bytes.last_mut().expect("a digest") ^= 1;
    w.deliver(i.id, &bytes, usize::MAX);
    let answers = i.pdus(&mut w);
    assert_eq!((answers[0].opcode(), answers[0].bhs[2]), (opcode::REJECT, 2));
    assert_eq!((answers[1].opcode(), answers[1].bhs[3]), (opcode::RESPONSE, 2));
    assert_eq!(i.read(&mut w, &cdb10(0x28, 0, 1), 512).good(), [0; 512]);
}
