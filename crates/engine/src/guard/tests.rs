use block::{BlockRange, BlockSize, Buf, Bytes, Durability, ReservationKind};
use host::{DiskExt, Executor};

use super::*;
use crate::malloc::Malloc;

const A: HostId = [0xa; 16];
const B: HostId = [0xb; 16];
const KIND: ReservationKind = ReservationKind::WriteExclusive;

/// Keeps in memory; fails when it is told to.
#[derive(Default)]
struct Memory {
    bytes: RefCell<Vec<u8>>,
    fault: Cell<Option<Fault>>,
}

impl Keep for Memory {
    fn kept(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }
    fn keep(&self, bytes: Vec<u8>) -> LocalFuture<'_, Result<(), Fault>> {
        let done = self.fault.get().map_or(Ok(()), Err);
        if done.is_ok() {
            *self.bytes.borrow_mut() = bytes;
        }
        Box::pin(std::future::ready(done))
    }
}

/// A disk that answers when it is told to.
struct Slow {
    disk: Malloc,
    waiting: RefCell<Vec<(Request, Ticket)>>,
}

impl Disk for Slow {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        self.waiting.borrow_mut().push((request, ticket));
    }
    fn label(&self) -> String {
        "slow".into()
    }
}

fn malloc() -> DiskRef {
    Rc::new(Malloc::new("m", Bytes(64 << 10), BlockSize::B512))
}
fn run<T: 'static>(work: impl Future<Output = T> + 'static) -> T {
    let executor = Executor::new(|| ());
    let done = Rc::new(RefCell::new(None));
    let result = done.clone();
    executor.spawner().spawn(async move { *result.borrow_mut() = Some(work.await) });
    executor.run_ready(10_000);
    done.take().expect("it ends")
}
fn register(key: u64, persist: Persist) -> Reserve {
    Reserve::Register { key, persist }
}
async fn write(disk: &DiskRef) -> Result<(), Fault> {
    disk.write(BlockRange::new(0, 1), Buf::copy_of(&[7; 512]), Durability::Volatile).await
}
async fn hold(disk: &DiskRef, key: u64, persist: Persist) {
    let reservable = disk.reservable().expect("guarded");
    reservable.reserve(register(key, persist)).await.expect("room");
    reservable.reserve(Reserve::Acquire { current: key, kind: KIND }).await.expect("free");
}

#[test]
fn only_the_holder_writes_whoever_comes_first() {
    run(async {
        let guard = Guard::new(malloc(), None);
        let (a, b) = (guard.view(A), guard.view(B));
        assert_eq!(write(&b).await, Ok(()));
        hold(&a, 1, Persist::Keep).await;
        assert_eq!((write(&a).await, write(&b).await), (Ok(()), Err(Fault::Fenced)));
        assert_eq!((b.flush().await, b.read(BlockRange::new(0, 1)).await.map(drop)), (Err(Fault::Fenced), Ok(())));
        let asks = b.reservable().expect("guarded");
        asks.reserve(register(2, Persist::Keep)).await.expect("room");
        asks.reserve(Reserve::Preempt { current: 2, victim: 1, kind: KIND }).await.expect("the holder's key");
        assert_eq!((write(&a).await, write(&b).await), (Err(Fault::Fenced), Ok(())));
        assert_eq!(asks.reserve(register(2, Persist::Remember)).await, Err(Fault::Unsupported), "nowhere to keep it");
    });
}

#[test]
fn a_preemption_is_answered_when_the_victims_writes_have_ended() {
    let executor = Executor::new(|| ());
    let slow = Rc::new(Slow { disk: Malloc::new("m", Bytes(64 << 10), BlockSize::B512), waiting: RefCell::default() });
    let guard = Guard::new(slow.clone(), None);
    let log: Rc<RefCell<Vec<&'static str>>> = Rc::default();
    let spawner = executor.spawner();
    let (a, b) = (guard.view(A), guard.view(B));
    let told = log.clone();
    spawner.spawn(async move {
        hold(&a, 1, Persist::Keep).await;
        let done = write(&a).await;
        told.borrow_mut().push(if done.is_ok() { "written" } else { "refused" });
    });
    executor.run_ready(100);
    let told = log.clone();
    let theirs = b.clone();
    spawner.spawn(async move {
        let asks = theirs.reservable().expect("guarded");
        asks.reserve(register(2, Persist::Keep)).await.expect("room");
        asks.reserve(Reserve::Preempt { current: 2, victim: 1, kind: KIND }).await.expect("the holder's key");
        told.borrow_mut().push("preempted");
    });
    executor.run_ready(100);
    assert_eq!(*log.borrow(), [""; 0], "the write is at the disk");
    // The new holder's own writes do not hold it up, nor reads.
    let zeroes =
        Request::WriteZeroes { range: BlockRange::new(1, 1), may_unmap: false, durability: Durability::Volatile };
    b.submit(zeroes, Ticket::new(|_| ()));
    let (request, ticket) = slow.waiting.borrow_mut().remove(0);
    slow.disk.submit(request, ticket);
    executor.run_ready(100);
    assert_eq!(*log.borrow(), ["written", "preempted"]);
    let left = slow.waiting.take();
    left.into_iter().for_each(|(_, ticket)| ticket.done());
}

#[test]
fn what_shall_be_kept_is_in_force_after_a_restart() {
    run(async {
        let memory = Rc::new(Memory::default());
        let guard = Guard::new(malloc(), Some(memory.clone()));
        hold(&guard.view(A), 1, Persist::Remember).await;
        let again = Guard::new(malloc(), Some(memory.clone()));
        assert_eq!((write(&again.view(A)).await, write(&again.view(B)).await), (Ok(()), Err(Fault::Fenced)));
        let forget = Reserve::Replace { current: Some(1), key: 1, persist: Persist::Forget };
        again.reserve(A, forget).await.expect("registered");
        assert_eq!(write(&Guard::new(malloc(), Some(memory)).view(B)).await, Ok(()));
    });
}

#[test]
fn what_could_not_be_kept_has_not_happened() {
    run(async {
        let memory = Rc::new(Memory::default());
        let guard = Guard::new(malloc(), Some(memory.clone()));
        hold(&guard.view(A), 1, Persist::Remember).await;
        memory.fault.set(Some(Fault::Gone));
        assert_eq!(guard.reserve(B, register(2, Persist::Remember)).await, Err(Fault::Gone));
        assert_eq!(guard.reservations().registrants().len(), 1);
        memory.bytes.borrow_mut()[0] = 99;
        let damaged = Guard::new(malloc(), Some(memory));
        assert_eq!(write(&damaged.view(A)).await, Err(Fault::Fenced), "it does not guess");
    });
}
