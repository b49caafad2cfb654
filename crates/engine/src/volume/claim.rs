//! Making a member this nexus's own, by a reservation. docs/replication.md, section 3.4.

use std::time::Duration;

use block::{Fault, Persist, ReservationKind, Reserve, limits};
use host::{DiskRef, Host, Reservable};

/// Only the holder writes.
const KIND: ReservationKind = ReservationKind::WriteExclusive;
/// Each attempt registers, or puts one other host out; the rest is for those who come meanwhile.
const ATTEMPTS: usize = 2 * limits::REGISTRANTS;

/// Takes a member over from whoever had it. When this succeeds only this opening of the nexus can write to it, nothing of
/// a former writer is under way, and both stay so when the member's node restarts, as far as the member can keep that. A
/// device without reservations is left as it is.
pub(super) async fn claim(host: &Host, disk: &DiskRef, key: u64, limit: Duration) -> Result<(), String> {
    let Some(device) = disk.reservable() else { return Ok(()) };
    // Several commands, each of which writes. A member that hangs was found out before.
    match host.timeout(limit * 4, take(device, key)).await {
        None => Err("reserving it: the device does not answer".into()),
        Some(Err(Fault::Fenced)) => Err("reserving it: others take it at the same time".into()),
        Some(done) => done.map_err(|fault| format!("reserving it: {fault}")),
    }
}

async fn take(device: &dyn Reservable, key: u64) -> Result<(), Fault> {
    let me = device.host();
    let persist = if device.remembers() { Persist::Remember } else { Persist::Keep };
    for _ in 0..ATTEMPTS {
        let state = device.reservations().await?;
        let key_of = |host| state.registrants().iter().find(|r| r.host == host).map(|r| r.key);
        let own = key_of(me);
        let other = state.registrants().iter().find(|r| r.host != me).map(|r| r.key);
        let is_kept = persist == Persist::Keep || state.is_persistent();
        let preempt = |victim| Reserve::Preempt { current: key, victim, kind: KIND };
        let next = match (state.held(), own) {
            (_, None) => Reserve::Register { key, persist },
            (_, Some(own)) if own != key || !is_kept => Reserve::Replace { current: Some(own), key, persist },
            (None, _) => Reserve::Acquire { current: key, kind: KIND },
            (Some(held), _) if held.kind.is_held_by_all() => preempt(0),
            (Some(held), _) if held.holder != me => preempt(key_of(held.holder).ok_or(Fault::Medium)?),
            (Some(held), _) if held.kind != KIND => preempt(key),
            // Registrants can not write, but leave no litter.
            (Some(_), _) => match other {
                Some(other) => preempt(other),
                // The last word is the device's: it has ended what was under way, also when an earlier answer was lost.
                None => return device.reserve(Reserve::Acquire { current: key, kind: KIND }).await,
            },
        };
        match device.reserve(next).await {
            // Somebody was quicker: look again.
            Ok(()) | Err(Fault::Fenced) => {}
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault::Fenced)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use block::{BlockSize, Bytes, HostId};
    use host::Executor;

    use super::*;
    use crate::guard::Guard;
    use crate::malloc::Malloc;

    fn run(work: impl Future<Output = ()> + 'static) {
        let executor = Executor::new(|| ());
        let done = Rc::new(RefCell::new(false));
        let over = done.clone();
        executor.spawner().spawn(async move {
            work.await;
            *over.borrow_mut() = true;
        });
        executor.run_ready(100_000);
        assert!(done.take(), "it ends");
    }
    fn guard() -> Rc<Guard> {
        Guard::new(Rc::new(Malloc::new("m", Bytes(64 << 10), BlockSize::B512)), None)
    }
    fn id(n: u8) -> HostId {
        [n; 16]
    }
    async fn take(guard: &Rc<Guard>, host: u8, key: u64) -> Result<(), Fault> {
        super::take(guard.view(id(host)).reservable().expect("guarded"), key).await
    }

    #[test]
    fn whatever_was_there_the_last_one_has_it_alone() {
        let kinds = (1..=6).filter_map(ReservationKind::from_number);
        for kind in kinds {
            run(async move {
                let guard = guard();
                for n in 1..5 {
                    // Two of them with the same key, as unlucky random numbers would have it.
                    let register = Reserve::Register { key: u64::from(n / 2 + 1), persist: Persist::Keep };
                    guard.reserve(id(n), register).await.expect("room");
                }
                guard.reserve(id(2), Reserve::Acquire { current: 2, kind }).await.expect("free");
                for (host, key) in [(9, 77), (8, 77), (9, 77), (9, 78)] {
                    assert_eq!(take(&guard, host, key).await, Ok(()), "{kind:?}");
                    let state = guard.reservations();
                    assert_eq!(state.held().map(|h| (h.kind, h.holder)), Some((KIND, id(host))));
                    assert_eq!(state.registrants().iter().map(|r| r.key).collect::<Vec<_>>(), [key]);
                }
            });
        }
    }

    #[test]
    fn of_two_at_the_same_time_one_has_it() {
        run(async {
            let guard = guard();
            let (a, b) = futures_util::future::join(take(&guard, 1, 11), take(&guard, 2, 22)).await;
            let holder = guard.reservations().held().expect("one of them").holder;
            assert!(if holder == id(1) { a.is_ok() } else { b.is_ok() });
        });
    }
}
