//! Data threads: how they start, answer, sleep and end.
#![allow(clippy::disallowed_methods, reason = "the test has threads and a clock of its own")]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use block::{BlockSize, Buf};
use host::{Claim, Host, OpenError, OpenOptions};
use ring::{Gone, Options, Shard, StartError, run};

fn counter() -> Shard<Cell<u64>> {
    let options = Options { name: "counter".into(), ..Options::default() };
    Shard::start(options, |_host| Box::pin(async { Ok::<_, ()>(Rc::new(Cell::new(0))) })).expect("it starts")
}

/// Waits without a world.
fn wait<R: 'static>(answer: impl Future<Output = R> + 'static) -> R {
    run(Options::default(), |_| answer)
}

#[test]
fn calls_from_many_threads_are_all_answered() {
    let shard = counter();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let shard = shard.clone();
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    wait_here(shard.call(|n| Box::pin(async move { n.set(n.get() + 1) }))).expect("it lives");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(wait(shard.call(|n| Box::pin(async move { n.get() }))), Ok(8000));
}

/// Waits on a thread that has nothing but a condition.
fn wait_here<R>(answer: impl Future<Output = R>) -> R {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut answer = std::pin::pin!(answer);
    loop {
        if let std::task::Poll::Ready(value) = answer.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

#[test]
fn a_sleeping_thread_is_woken_by_a_letter() {
    let shard = counter();
    let (tx, rx) = mpsc::channel();
    for n in 0..50 {
        // Long enough for the thread to fall asleep, most of the time.
        std::thread::sleep(Duration::from_millis(n % 3));
        let tx = tx.clone();
        shard.post(move |_| Box::pin(async move { tx.send(n).expect("heard") }));
        assert_eq!(rx.recv_timeout(Duration::from_secs(20)), Ok(n));
    }
}

#[test]
fn a_thread_that_ends_drops_what_it_owns_and_answers_gone() {
    struct Witness(Arc<AtomicUsize>);
    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let theirs = dropped.clone();
    let shard = Shard::start(Options::default(), |host: Host| {
        Box::pin(async move {
            let (a, b) = (Witness(theirs.clone()), Witness(theirs));
            // A task that waits for ever, with a socket operation in flight, and a handle to the world.
            let (waiter, listener) = (host.clone(), host.listen("127.0.0.1:0".parse().expect("an address")));
            host.spawn(async move {
                let (_a, listener) = (a, listener.expect("a port"));
                drop(listener.accept().await);
                waiter.sleep(Duration::MAX).await;
            });
            Ok::<_, ()>(Rc::new((host, b)))
        })
    })
    .expect("it starts");
    let never = shard.call(|_| Box::pin(std::future::pending::<()>()));
    shard.stop();
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    assert_eq!(wait(never), Err(Gone));
    assert_eq!(wait(shard.call(|_| Box::pin(async { 1 }))), Err(Gone));
    shard.stop();
}

#[test]
fn a_disk_is_free_when_its_thread_has_ended() {
    let path = std::env::temp_dir().join(format!("ring-shard-{}", std::process::id()));
    std::fs::File::create(&path).and_then(|f| f.set_len(1 << 20)).expect("a file");
    let options = || OpenOptions { block_size: BlockSize::B4096, claim: Claim::Exclusive };
    let theirs = path.clone();
    let shard = Shard::start(Options::default(), move |host: Host| {
        Box::pin(async move { host.open_disk(theirs, options()).await.map(Rc::new) })
    })
    .expect("it starts");
    // Requests in flight while the thread ends: nobody hears of them again, and nothing panics.
    shard.post(|disk| {
        Box::pin(async move {
            for block in 0..200 {
                let request = block::Request::Write {
                    range: block::BlockRange::new(block, 1),
                    data: Buf::zeroes(4096),
                    durability: block::Durability::Durable,
                };
                disk.submit(request, block::Ticket::new(|_| ()));
            }
        })
    });
    shard.stop();
    let again = path.clone();
    let opened = run(Options::default(), move |host| async move { host.open_disk(again, options()).await.is_ok() });
    std::fs::remove_file(&path).expect("removed");
    assert!(opened);
}

#[test]
fn what_fails_at_the_start_is_reported() {
    let missing = Shard::<()>::start(Options::default(), |host: Host| {
        Box::pin(async move {
            let options = OpenOptions { block_size: BlockSize::B512, claim: Claim::ReadOnly };
            host.open_disk("/no/such/disk", options).await.map(|_| Rc::new(()))
        })
    });
    assert!(matches!(missing, Err(StartError::Init(OpenError::NotFound))));
    let options = Options { cpu: Some(100_000), ..Options::default() };
    let nowhere = Shard::start(options, |_| Box::pin(async { Ok::<_, ()>(Rc::new(())) }));
    assert!(matches!(nowhere, Err(StartError::Thread(_))));
}

#[test]
fn an_idle_thread_uses_no_processor() {
    let spin = Duration::from_micros(50);
    let shard = Shard::start(Options { spin, ..Options::default() }, |host: Host| {
        Box::pin(async move {
            let listener = host.listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
            host.spawn(async move { drop(listener.accept().await) });
            Ok::<_, ()>(Rc::new(host))
        })
    })
    .expect("it starts");
    let busy = || shard.call(|_| Box::pin(async { thread_time() }));
    let before = wait(busy()).expect("it lives");
    std::thread::sleep(Duration::from_millis(500));
    let used = wait(busy()).expect("it lives") - before;
    // One wake-up and one look at the clock; a thread that spins would use all of the half second.
    assert!(used < Duration::from_millis(100), "{used:?}");
}

/// Processor time of the calling thread.
fn thread_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}
