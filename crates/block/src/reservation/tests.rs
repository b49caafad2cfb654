use proptest::prelude::*;

use super::*;

const A: HostId = [0xa; 16];
const B: HostId = [0xb; 16];
const C: HostId = [0xc; 16];
use ReservationKind::*;

fn register(key: u64) -> Reserve {
    Reserve::Register { key, persist: Persist::Keep }
}
fn state(of: &[(HostId, u64)]) -> Reservations {
    let mut state = Reservations::new(8);
    for (host, key) in of {
        state.apply(*host, register(*key)).expect("room");
    }
    state
}
fn kinds() -> [ReservationKind; 6] {
    [
        WriteExclusive,
        ExclusiveAccess,
        WriteExclusiveRegistrants,
        ExclusiveAccessRegistrants,
        WriteExclusiveAll,
        ExclusiveAccessAll,
    ]
}

/// The table of Base 8.19.1: the holder, a registrant, and a host that is neither.
#[test]
fn each_kind_keeps_out_whom_it_says() {
    let (yes, no) = (true, false);
    // For each kind: may a registrant read, write; may another host read, write?
    let table = [
        (WriteExclusive, [yes, no, yes, no]),
        (ExclusiveAccess, [no, no, no, no]),
        (WriteExclusiveRegistrants, [yes, yes, yes, no]),
        (ExclusiveAccessRegistrants, [yes, yes, no, no]),
        (WriteExclusiveAll, [yes, yes, yes, no]),
        (ExclusiveAccessAll, [yes, yes, no, no]),
    ];
    for (kind, expected) in table {
        let mut s = state(&[(A, 1), (B, 2)]);
        assert!(s.allows(B, true) && s.allows(C, true), "registering alone keeps nobody out");
        s.apply(A, Reserve::Acquire { current: 1, kind }).expect("free");
        assert!(s.allows(A, true) && s.allows(A, false));
        let found = [s.allows(B, false), s.allows(B, true), s.allows(C, false), s.allows(C, true)];
        assert_eq!(found, expected, "{kind:?}");
        assert_eq!(s.is_holder(B), kind.is_held_by_all());
        assert_eq!(ReservationKind::from_number(kind as u8), Some(kind));
    }
}

#[test]
fn keys_must_be_right() {
    let mut s = state(&[(A, 1)]);
    assert_eq!(s.apply(A, register(1)), Ok(()), "the same key again");
    assert_eq!(s.apply(A, register(2)), Err(Fault::Fenced));
    assert_eq!(s.apply(B, register(0)), Err(Fault::Unsupported));
    assert_eq!(s.apply([0; 16], register(1)), Err(Fault::Unsupported));
    let persist = Persist::Keep;
    assert_eq!(s.apply(A, Reserve::Replace { current: Some(9), key: 2, persist }), Err(Fault::Fenced));
    assert_eq!(s.apply(A, Reserve::Replace { current: Some(1), key: 0, persist }), Err(Fault::Unsupported));
    assert_eq!(s.apply(A, Reserve::Replace { current: Some(1), key: 2, persist }), Ok(()));
    assert_eq!(s.apply(B, Reserve::Replace { current: Some(1), key: 2, persist }), Err(Fault::Fenced));
    assert_eq!(s.apply(B, Reserve::Replace { current: None, key: 3, persist }), Ok(()));
    assert_eq!(s.apply(B, Reserve::Acquire { current: 2, kind: WriteExclusive }), Err(Fault::Fenced));
    assert_eq!(s.apply(C, Reserve::Acquire { current: 2, kind: WriteExclusive }), Err(Fault::Fenced));
    assert_eq!(s.apply(C, Reserve::Clear { current: 2 }), Err(Fault::Fenced));
    assert_eq!(s.apply(A, Reserve::Unregister { current: Some(3), persist }), Err(Fault::Fenced));
    assert_eq!(s.apply(A, Reserve::Unregister { current: None, persist }), Ok(()));
    assert_eq!(s.registrants(), [Registrant { host: B, key: 3 }]);
}

#[test]
fn one_holds_at_a_time() {
    let mut s = state(&[(A, 1), (B, 2)]);
    s.apply(A, Reserve::Acquire { current: 1, kind: WriteExclusive }).expect("free");
    assert_eq!(s.apply(A, Reserve::Acquire { current: 1, kind: WriteExclusive }), Ok(()), "it has it already");
    assert_eq!(s.apply(A, Reserve::Acquire { current: 1, kind: ExclusiveAccess }), Err(Fault::Fenced));
    assert_eq!(s.apply(B, Reserve::Acquire { current: 2, kind: WriteExclusive }), Err(Fault::Fenced));
    assert_eq!(s.apply(B, Reserve::Release { current: 2, kind: WriteExclusive }), Ok(()), "nothing of its own");
    assert!(s.held().is_some());
    assert_eq!(s.apply(A, Reserve::Release { current: 1, kind: ExclusiveAccess }), Err(Fault::Unsupported));
    assert_eq!(s.apply(A, Reserve::Release { current: 1, kind: WriteExclusive }), Ok(()));
    assert_eq!(s.apply(B, Reserve::Acquire { current: 2, kind: ExclusiveAccess }), Ok(()));
    s.apply(B, Reserve::Unregister { current: Some(2), persist: Persist::Keep }).expect("registered");
    assert_eq!(s.held(), None, "it goes with its holder");
    s.apply(A, Reserve::Acquire { current: 1, kind: WriteExclusive }).expect("free");
    s.apply(A, Reserve::Clear { current: 1 }).expect("registered");
    assert!(s.held().is_none() && s.registrants().is_empty());
}

#[test]
fn what_all_hold_lasts_until_the_last_one_leaves() {
    let mut s = state(&[(A, 1), (B, 2)]);
    s.apply(A, Reserve::Acquire { current: 1, kind: WriteExclusiveAll }).expect("free");
    assert_eq!(s.apply(B, Reserve::Acquire { current: 2, kind: WriteExclusiveAll }), Ok(()));
    s.apply(A, Reserve::Unregister { current: Some(1), persist: Persist::Keep }).expect("registered");
    assert!(s.allows(B, true) && !s.allows(A, true));
    let kept = Reservations::from_kept(&Reservations { persistent: true, ..s.clone() }.to_keep(), 8);
    assert!(kept.is_some_and(|k| k.is_holder(B) && !k.is_holder(A)));
    s.apply(B, Reserve::Unregister { current: Some(2), persist: Persist::Keep }).expect("registered");
    assert_eq!(s.held(), None);
}

#[test]
fn a_preempted_holder_is_out() {
    for kind in kinds() {
        let mut s = state(&[(A, 1), (B, 2), (C, 1)]);
        s.apply(A, Reserve::Acquire { current: 1, kind: WriteExclusive }).expect("free");
        let take = |victim| Reserve::Preempt { current: 2, victim, kind };
        assert_eq!(s.apply(B, take(0)), Err(Fault::Unsupported));
        assert_eq!(s.apply(B, take(7)), Err(Fault::Fenced), "nobody has that key");
        assert_eq!(s.apply(B, take(1)), Ok(()));
        assert_eq!(s.held(), Some(Held { kind, holder: B }));
        assert_eq!(s.registrants(), [Registrant { host: B, key: 2 }], "all that had the key are out");
        assert_eq!(s.apply(A, Reserve::Preempt { current: 1, victim: 2, kind }), Err(Fault::Fenced));
        assert!(!s.allows(A, true));
    }
}

#[test]
fn preempting_a_registrant_leaves_the_reservation_alone() {
    let mut s = state(&[(A, 1), (B, 2), (C, 3)]);
    assert_eq!(s.apply(A, Reserve::Preempt { current: 1, victim: 3, kind: WriteExclusive }), Ok(()));
    assert_eq!(s.held(), None, "there was none to take");
    s.apply(B, Reserve::Acquire { current: 2, kind: ExclusiveAccess }).expect("free");
    s.apply(C, register(3)).expect("room");
    s.apply(A, Reserve::Preempt { current: 1, victim: 3, kind: WriteExclusive }).expect("it is there");
    assert_eq!(s.held(), Some(Held { kind: ExclusiveAccess, holder: B }));
    // A holder may change what it holds by preempting itself.
    s.apply(B, Reserve::Preempt { current: 2, victim: 2, kind: WriteExclusive }).expect("its own");
    assert_eq!(s.held(), Some(Held { kind: WriteExclusive, holder: B }));
    assert_eq!(s.registrants().len(), 2);
    // Of a reservation that all hold, key 0 means everybody else.
    let mut s = state(&[(A, 1), (B, 2), (C, 3)]);
    s.apply(A, Reserve::Acquire { current: 1, kind: ExclusiveAccessAll }).expect("free");
    s.apply(B, Reserve::Preempt { current: 2, victim: 3, kind: WriteExclusive }).expect("registered");
    assert_eq!(s.held().map(|h| h.kind), Some(ExclusiveAccessAll));
    s.apply(B, Reserve::Preempt { current: 2, victim: 0, kind: WriteExclusive }).expect("holder");
    assert_eq!((s.held(), s.registrants().len()), (Some(Held { kind: WriteExclusive, holder: B }), 1));
}

#[test]
fn registrants_are_limited() {
    let mut s = Reservations::new(2);
    s.apply(A, register(1)).expect("room");
    s.apply(B, register(1)).expect("room");
    assert_eq!(s.apply(C, register(1)), Err(Fault::NoSpace));
    let persist = Persist::Keep;
    assert_eq!(s.apply(C, Reserve::Replace { current: None, key: 1, persist }), Err(Fault::NoSpace));
    assert_eq!(s.generation(), 2);
}

fn asks() -> impl Strategy<Value = (u8, Reserve)> {
    let key = 0u64..4;
    let persist = prop_oneof![Just(Persist::Keep), Just(Persist::Forget), Just(Persist::Remember)];
    let kind = (1u8..7).prop_map(|n| ReservationKind::from_number(n).expect("a kind"));
    let ask = (0..7, key.clone(), proptest::option::of(key.clone()), key, persist, kind).prop_map(
        |(what, key, current, victim, persist, kind)| match what {
            0 => Reserve::Register { key, persist },
            1 => Reserve::Unregister { current, persist },
            2 => Reserve::Replace { current, key, persist },
            3 => Reserve::Acquire { current: key, kind },
            4 => Reserve::Preempt { current: key, victim, kind },
            5 => Reserve::Release { current: key, kind },
            _ => Reserve::Clear { current: key },
        },
    );
    (0u8..4, ask)
}

proptest! {
    /// Whatever is asked: a holder is a registrant, refusals change nothing, and what is kept comes back the same.
    #[test]
    fn it_stays_well_formed(asks in proptest::collection::vec(asks(), 0..60)) {
        let mut s = Reservations::new(3);
        for (host, ask) in asks {
            let before = s.clone();
            let done = s.apply([host; 16], ask);
            if done.is_err() {
                prop_assert_eq!(&s, &before);
            }
            if let Some(held) = s.held() {
                let holds = |r: &Registrant| s.is_holder(r.host);
                prop_assert!(s.registrants().iter().any(holds), "{:?} is held by nobody", held);
                prop_assert!(s.registrants().iter().filter(|r| holds(r)).all(|r| s.allows(r.host, true)));
                prop_assert!(!s.allows([0xee; 16], true));
            }
            let kept = Reservations { persistent: true, ..s.clone() };
            prop_assert!(kept.to_keep().len() <= Reservations::kept_len(3));
            prop_assert_eq!(Reservations::from_kept(&kept.to_keep(), 3), Some(kept));
        }
    }

    #[test]
    fn reading_what_was_kept_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0u8..8, count in 0u8..5) {
        let _ = Reservations::from_kept(&bytes, 3);
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[FORM, kind, count, 0]);
            let _ = Reservations::from_kept(&bytes, 3);
        }
    }
}
