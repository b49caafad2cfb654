//! Sessions from login to logout: negotiation, authentication, discovery, reinstatement, timeouts, the end of a target.

mod support;

use iscsi::chap::{Algorithm, Chap, Credentials};
use iscsi::pdu::{self, opcode};
use iscsi::target::Phase;
use iscsi::text;
use iscsi::wire::{get16, get32};
use support::*;

#[test]
fn linux_logs_in_by_two_stages() {
    let mut w = World::new();
    w.export(DISK);
    let mut i = Initiator::new(&mut w);
    let identity = [("InitiatorName", HOST), ("SessionType", "Normal"), ("TargetName", DISK), ("AuthMethod", "None")];
    let first = i.login(&mut w, 0x81, &identity).expect("an answer");
    assert_eq!((first.login_status(), first.bhs[1]), (0, 0x81));
    assert_eq!(first.keys()["AuthMethod"], "None");
    assert_eq!(first.keys()["TargetPortalGroupTag"], "1");
    let keys = [("HeaderDigest", "None"), ("MaxBurstLength", "16776192"), ("ErrorRecoveryLevel", "0")];
    let second = i.login(&mut w, 0x87, &keys).expect("an answer");
    assert_eq!((second.login_status(), second.bhs[1]), (0, 0x87));
    assert_ne!(get16(&second.bhs, 14), 0, "TSIH");
    assert_eq!(second.keys()["MaxBurstLength"], "1048576");
    assert_eq!(second.keys()["MaxRecvDataSegmentLength"], "262144");
    assert_eq!((get32(&second.bhs, 28), get32(&second.bhs, 32)), (100, 227), "the window");
    i.read(&mut w, &[0; 6], 0).good();
}

#[test]
fn keys_come_over_several_requests() {
    let mut w = World::new();
    w.export(DISK);
    let mut i = Initiator::new(&mut w);
    let mut data = Vec::new();
    for (key, value) in [("InitiatorName", HOST), ("TargetName", DISK), ("MaxBurstLength", "4096")] {
        text::push(&mut data, key, value);
    }
    // Cut within a key.
    let (first, second) = data.split_at(20);
    let answer = i.login_raw(&mut w, 0x44, first).expect("an answer");
    assert_eq!((answer.login_status(), answer.bhs[1], answer.data.len()), (0, 0x04, 0));
    let answer = i.login_raw(&mut w, 0x87, second).expect("an answer");
    assert_eq!((answer.login_status(), answer.bhs[1]), (0, 0x87));
    assert_eq!(answer.keys()["MaxBurstLength"], "4096");
}

#[test]
fn logins_that_cannot_be_are_refused() {
    let host = ("InitiatorName", HOST);
    for (keys, status) in [
        (vec![("TargetName", DISK)], 0x0207),
        (vec![host], 0x0207),
        (vec![host, ("TargetName", "iqn.2019-05.io.openebs:other")], 0x0203),
        (vec![host, ("TargetName", DISK), ("SessionType", "Odd")], 0x0209),
        (vec![("InitiatorName", "someone"), ("TargetName", DISK)], 0x0200),
    ] {
        let mut w = World::new();
        w.export(DISK);
        let mut i = Initiator::new(&mut w);
        let answer = i.login(&mut w, 0x87, &keys).expect("an answer");
        assert_eq!(answer.login_status(), status, "{keys:?}");
        assert_eq!(w.phase(i.id), Phase::Flush);
    }
    let mut w = World::new();
    w.export(DISK);
    let mut i = Initiator::new(&mut w);
    let all = [host, ("TargetName", DISK)];
    assert_eq!(i.login(&mut w, 0x8b, &all).map(|p| p.login_status()), Some(0x0200), "there is no stage 2");
    let mut i = Initiator::new(&mut w);
    let mut bhs = pdu::header(opcode::LOGIN, 0x87, 1);
    bhs[3] = 1;
    i.send(&mut w, bhs, &[]);
    assert_eq!(i.pdus(&mut w)[0].login_status(), 0x0205);
    let mut i = Initiator::new(&mut w);
    let mut bhs = pdu::header(opcode::LOGIN, 0x87, 1);
    bhs[15] = 9;
    let mut data = Vec::new();
    all.iter().for_each(|(key, value)| text::push(&mut data, key, value));
    i.send(&mut w, bhs, &data);
    assert_eq!(i.pdus(&mut w)[0].login_status(), 0x020a, "no such session");
}

fn guarded() -> World {
    let credentials = |name: &str, secret: &str| Credentials { name: name.into(), secret: secret.into() };
    let chap = Chap {
        initiator: credentials("alice", "alice's secret"),
        target: Some(credentials("storage", "the other secret")),
    };
    let mut w = World::with(Some(chap));
    w.export(DISK);
    w
}

/// Up to the challenge.
fn challenged(w: &mut World, algorithms: &str) -> (Initiator, Algorithm, u8, Vec<u8>) {
    let mut i = Initiator::new(w);
    let identity = [("InitiatorName", HOST), ("TargetName", DISK), ("AuthMethod", "CHAP,None")];
    let answer = i.login(w, 0x81, &identity).expect("an answer");
    assert_eq!((answer.bhs[1], answer.keys()["AuthMethod"].as_str()), (0, "CHAP"));
    let answer = i.login(w, 0x00, &[("CHAP_A", algorithms)]).expect("an answer");
    let keys = answer.keys();
    let algorithm = Algorithm::choose(&keys["CHAP_A"]).expect("known");
    let identifier = keys["CHAP_I"].parse().expect("a number");
    (i, algorithm, identifier, text::binary(&keys["CHAP_C"], 1024).expect("a challenge"))
}

#[test]
fn chap_one_way() {
    for algorithms in ["5", "7,5"] {
        let mut w = guarded();
        let (mut i, algorithm, identifier, challenge) = challenged(&mut w, algorithms);
        let response = text::hex(&algorithm.respond(identifier, "alice's secret", &challenge));
        let answer = i.login(&mut w, 0x81, &[("CHAP_N", "alice"), ("CHAP_R", &response)]).expect("an answer");
        assert_eq!((answer.login_status(), answer.bhs[1]), (0, 0x81));
        assert!(!answer.keys().contains_key("CHAP_R"));
        assert_eq!(i.login(&mut w, 0x87, &[]).map(|p| p.login_status()), Some(0));
        i.read(&mut w, &[0; 6], 0).good();
    }
}

#[test]
fn chap_mutual() {
    let mut w = guarded();
    let (mut i, algorithm, identifier, challenge) = challenged(&mut w, "5");
    let response = text::hex(&algorithm.respond(identifier, "alice's secret", &challenge));
    let keys = [("CHAP_N", "alice"), ("CHAP_R", &response), ("CHAP_I", "9"), ("CHAP_C", "0x112233445566")];
    let answer = i.login(&mut w, 0x83, &keys).expect("an answer");
    assert_eq!((answer.login_status(), answer.bhs[1]), (0, 0x83), "straight to the full feature phase");
    let expected = algorithm.respond(9, "the other secret", &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66]);
    assert_eq!(answer.keys()["CHAP_N"], "storage");
    assert_eq!(text::binary(&answer.keys()["CHAP_R"], 64), Some(expected));
}

#[test]
fn who_cannot_prove_who_it_is_does_not_get_in() {
    let refused = |answer: Option<Pdu>| assert_eq!(answer.map(|p| p.login_status()), Some(0x0201));
    let identity = [("InitiatorName", HOST), ("TargetName", DISK)];
    let mut w = guarded();
    let mut i = Initiator::new(&mut w);
    refused(i.login(&mut w, 0x87, &identity));
    let mut i = Initiator::new(&mut w);
    refused(i.login(&mut w, 0x81, &[&identity[..], &[("AuthMethod", "None")]].concat()));
    let mut i = Initiator::new(&mut w);
    refused(i.login(&mut w, 0x83, &identity));
    let (mut i, algorithm, identifier, challenge) = challenged(&mut w, "5");
    let wrong = text::hex(&algorithm.respond(identifier, "a guess", &challenge));
    refused(i.login(&mut w, 0x81, &[("CHAP_N", "alice"), ("CHAP_R", &wrong)]));
    let (mut i, algorithm, identifier, challenge) = challenged(&mut w, "5");
    let right = text::hex(&algorithm.respond(identifier, "alice's secret", &challenge));
    refused(i.login(&mut w, 0x81, &[("CHAP_N", "bob"), ("CHAP_R", &right)]));
    let (mut i, algorithm, identifier, challenge) = challenged(&mut w, "5");
    let right = text::hex(&algorithm.respond(identifier, "alice's secret", &challenge));
    let reflected = text::hex(&challenge);
    let keys = [("CHAP_N", "alice"), ("CHAP_R", &right), ("CHAP_I", "1"), ("CHAP_C", &reflected)];
    refused(i.login(&mut w, 0x81, &keys));
    let (mut i, ..) = challenged(&mut w, "5");
    refused(i.login(&mut w, 0x81, &[]));
    // Without a need for CHAP, who wants nothing else is refused.
    let mut w = World::new();
    w.export(DISK);
    let mut i = Initiator::new(&mut w);
    refused(i.login(&mut w, 0x81, &[&identity[..], &[("AuthMethod", "CHAP")]].concat()));
}

#[test]
fn discovery_lists_all_targets_over_several_answers() {
    let mut w = World::new();
    let names: Vec<String> = (0..100).map(|n| format!("iqn.2019-05.io.openebs:{n:03}")).collect();
    names.iter().for_each(|name| {
        w.export(name);
    });
    let mut i = Initiator::new(&mut w);
    let keys = [("InitiatorName", HOST), ("SessionType", "Discovery"), ("MaxRecvDataSegmentLength", "512")];
    assert_eq!(i.login(&mut w, 0x87, &keys).map(|p| p.login_status()), Some(0));
    let mut all = Vec::new();
    let mut answer = i.text(&mut w, NONE, b"SendTargets=All\0");
    let mut answers = 1;
    while answer.bhs[1] & pdu::FINAL == 0 {
        assert!(answer.data.len() <= 512 && answer.bhs[1] & pdu::CONTINUE != 0);
        all.extend(answer.data);
        answer = i.text(&mut w, get32(&answer.bhs, 20), b"");
        answers += 1;
    }
    all.extend(answer.data);
    assert!(answers > 10);
    let pairs = text::parse(&all).expect("text");
    assert_eq!(pairs.iter().filter(|(k, _)| k == "TargetName").map(|(_, v)| v.clone()).collect::<Vec<_>>(), names);
    assert!(pairs.iter().filter(|(k, _)| k == "TargetAddress").all(|(_, v)| v == "10.0.0.1:3260,1"));
    let one = i.text(&mut w, NONE, b"SendTargets=iqn.2019-05.io.openebs:042\0");
    assert_eq!(one.keys()["TargetName"], "iqn.2019-05.io.openebs:042");
    // Commands have no place here.
    let bhs = i.command_bhs(&[0; 6], 0x81, 0);
    i.send(&mut w, bhs, &[]);
    assert_eq!(i.pdus(&mut w)[0].opcode(), opcode::REJECT);
    assert!(i.logout(&mut w).is_some());
    assert_eq!(w.phase(i.id), Phase::Flush);
}

#[test]
fn a_normal_session_learns_of_its_own_target_only() {
    let mut w = World::new();
    w.export(DISK);
    w.export("iqn.2019-05.io.openebs:other");
    let mut i = Initiator::normal(&mut w, &[]);
    let answer = i.text(&mut w, NONE, b"SendTargets=\0X=1\0");
    assert_eq!(answer.keys()["TargetName"], DISK);
    assert_eq!(answer.keys()["X"], "Reject");
    assert!(i.text(&mut w, NONE, b"SendTargets=iqn.2019-05.io.openebs:other\0").keys().is_empty());
}

#[test]
fn a_new_session_of_the_same_port_waits_for_the_old_ones_writes() {
    let mut w = World::new();
    w.export(DISK);
    let mut old = Initiator::normal(&mut w, &[]);
    w.prompt = false;
    old.start_write(&mut w, &cdb10(0x2a, 0, 1), &[1; 512], 512);
    let mut new = Initiator::new(&mut w);
    assert!(new.log_in(&mut w, &[]).is_none(), "the login is held");
    assert_eq!((w.phase(old.id), w.phase(new.id)), (Phase::Closed, Phase::Open));
    w.answer_all();
    assert_eq!(w.phase(old.id), Phase::Ended);
    assert_eq!(new.pdus(&mut w)[0].login_status(), 0);
    w.prompt = true;
    new.write(&mut w, &cdb10(0x2a, 0, 1), &[2; 512]).good();
    assert_eq!(new.read(&mut w, &cdb10(0x28, 0, 1), 512).good(), [2; 512]);
    // Another port of the same host is another session.
    let mut other = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 2], &[]);
    other.read(&mut w, &[0; 6], 0).good();
    new.read(&mut w, &[0; 6], 0).good();
}

#[test]
fn discovery_sessions_do_not_end_each_other() {
    let mut w = World::new();
    w.export(DISK);
    let keys = [("InitiatorName", HOST), ("SessionType", "Discovery")];
    let mut sessions = [Initiator::new(&mut w), Initiator::new(&mut w)];
    for i in &mut sessions {
        assert_eq!(i.login(&mut w, 0x87, &keys).map(|p| p.login_status()), Some(0));
    }
    for i in &mut sessions {
        assert_eq!(i.text(&mut w, NONE, b"SendTargets=All\0").keys()["TargetName"], DISK);
    }
}

#[test]
fn silent_initiators_are_asked_and_given_up() {
    let mut w = World::new();
    w.export(DISK);
    let slow = w.accept();
    let mut i = Initiator::normal(&mut w, &[]);
    w.pass(16);
    assert_eq!(w.phase(slow), Phase::Ended, "it did not log in");
    w.pass(30);
    let pings = i.pdus(&mut w);
    assert_eq!((pings[0].opcode(), pings[0].itt(), get32(&pings[0].bhs, 20)), (opcode::NOP_IN, NONE, 1));
    let mut pong = pdu::header(opcode::NOP_OUT | pdu::IMMEDIATE, pdu::FINAL, NONE);
    iscsi::wire::put32(&mut pong, 20, 1);
    i.send(&mut w, pong, &[]);
    w.pass(30);
    assert_eq!(w.phase(i.id), Phase::Open);
    w.pass(60);
    assert_eq!(w.phase(i.id), Phase::Ended);
}

#[test]
fn nop_out_is_echoed() {
    let mut w = World::new();
    w.export(DISK);
    let mut i = Initiator::normal(&mut w, &[]);
    let mut bhs = pdu::header(opcode::NOP_OUT, pdu::FINAL, 77);
    iscsi::wire::put32(&mut bhs, 20, NONE);
    iscsi::wire::put32(&mut bhs, 24, i.cmd_sn);
    i.cmd_sn += 1;
    i.send(&mut w, bhs, b"are you there");
    let pong = i.pdus(&mut w).remove(0);
    assert_eq!((pong.opcode(), pong.itt(), pong.data.as_slice()), (opcode::NOP_IN, 77, &b"are you there"[..]));
    i.read(&mut w, &[0; 6], 0).good();
}

#[test]
fn a_target_that_goes_answers_first() {
    let mut w = World::new();
    let disk = w.export(DISK);
    let mut busy = Initiator::normal(&mut w, &[]);
    let mut idle = Initiator::of_port(&mut w, [0x80, 0, 0, 0, 0, 2], &[]);
    w.prompt = false;
    let itt = busy.start_read(&mut w, &cdb10(0x28, 0, 1), 512);
    w.unexport(disk);
    assert_eq!((w.phase(busy.id), w.phase(idle.id)), (Phase::Finishing, Phase::Flush));
    let last = idle.pdus(&mut w);
    assert_eq!((last[0].opcode(), last[0].bhs[36]), (opcode::ASYNC, 3));
    w.lose(idle.id);
    assert!(w.idle.is_empty());
    w.answer_all();
    assert_eq!(busy.end(&mut w, itt, &[]).good(), [0; 512]);
    assert_eq!(w.phase(busy.id), Phase::Flush);
    w.lose(busy.id);
    assert_eq!(w.idle, [disk]);
    let mut late = Initiator::new(&mut w);
    assert_eq!(late.log_in(&mut w, &[]).map(|p| p.login_status()), Some(0x0203));
}

#[test]
fn a_logout_waits_for_commands_at_the_disk() {
    let mut w = World::new();
    w.export(DISK);
    let mut i = Initiator::normal(&mut w, &[]);
    w.prompt = false;
    i.start_write(&mut w, &cdb10(0x2a, 0, 1), &[1; 512], 512);
    assert!(i.logout(&mut w).is_none());
    w.answer_all();
    let answers = i.pdus(&mut w);
    assert_eq!(answers.iter().map(Pdu::opcode).collect::<Vec<_>>(), [opcode::LOGOUT_RESPONSE]);
    assert_eq!(w.phase(i.id), Phase::Flush);
}
