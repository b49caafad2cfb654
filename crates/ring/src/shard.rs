//! Data threads, and how others talk to them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_channel::oneshot;
use host::{Executor, Host, LocalFuture};
use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

use crate::core::Core;
use crate::parker::Parker;
use crate::world::Linux;

/// Tasks that run before the thread looks at the ring again.
const BUDGET: usize = 128;

/// How a data thread runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the thread may watch for completions before it sleeps; [`DEFAULT_SPIN`] by default, zero: it sleeps at
    /// once. It watches only while that pays: when what it waits for has been coming within this time. That saves the
    /// cost of waking (about 15 µs a request at queue depth 1).
    pub spin: Duration,
    /// The thread's name; for people only, Linux shows the first 15 bytes.
    pub name: String,
    /// The processor that the thread stays on, counted from 0; any when `None`.
    pub cpu: Option<usize>,
}

/// The default of [`Options::spin`].
pub const DEFAULT_SPIN: Duration = Duration::from_micros(50);

impl Default for Options {
    fn default() -> Options {
        Options { spin: DEFAULT_SPIN, name: String::new(), cpu: None }
    }
}

/// io_uring is missing or forbidden.
#[derive(Debug, Error)]
#[error(
    "io_uring is not available ({0}): Linux 5.11 or later is needed, the sysctl kernel.io_uring_disabled must be 0, and \
     a container's seccomp profile must allow io_uring_setup, io_uring_enter and io_uring_register"
)]
pub struct NoRing(#[source] pub io::Error);

/// Why a data thread did not start.
#[derive(Debug, Error)]
pub enum StartError<E> {
    /// io_uring is missing or forbidden.
    #[error(transparent)]
    NoRing(#[from] NoRing),
    /// The system gave no thread, or not the processor that was asked for.
    #[error("cannot start a data thread: {0}")]
    Thread(#[source] io::Error),
    /// What should run on the thread failed to start.
    #[error("{0}")]
    Init(E),
    /// The thread panicked while it started.
    #[error("a data thread panicked while it started")]
    Panicked,
}

/// The data thread has ended, so there is nobody to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the data thread has ended")]
pub struct Gone;

type Letter<T> = Box<dyn FnOnce(Rc<T>) -> LocalFuture<'static, ()> + Send>;

/// What other threads leave for a data thread.
enum Mailbox<T> {
    Open(VecDeque<Letter<T>>),
    Closed,
}

struct Shared<T> {
    mailbox: Mutex<Mailbox<T>>,
    stop: AtomicBool,
    parker: Arc<Parker>,
}

impl<T> Shared<T> {
    fn mailbox(&self) -> MutexGuard<'_, Mailbox<T>> {
        self.mailbox.lock().expect("nobody panics with this lock")
    }
    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.parker.unpark();
    }
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
    fn has_mail(&self) -> bool {
        matches!(&*self.mailbox(), Mailbox::Open(letters) if !letters.is_empty())
    }
    fn take_mail(&self) -> VecDeque<Letter<T>> {
        match &mut *self.mailbox() {
            Mailbox::Open(letters) => std::mem::take(letters),
            Mailbox::Closed => VecDeque::new(),
        }
    }
}

/// Closes the mailbox when the thread ends, in whichever way; letters that are left are dropped unread.
struct Closing<'a, T>(&'a Shared<T>);

impl<T> Drop for Closing<'_, T> {
    fn drop(&mut self) {
        let left = std::mem::replace(&mut *self.0.mailbox(), Mailbox::Closed);
        drop(left);
    }
}

/// The thread, which ends when the last handle to it goes.
struct Thread<T> {
    shared: Arc<Shared<T>>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl<T> Drop for Thread<T> {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// A handle to a data thread that owns a `T`. Usable from any thread; the thread ends with the last handle.
pub struct Shard<T>(Arc<Thread<T>>);

impl<T> Clone for Shard<T> {
    fn clone(&self) -> Self {
        Shard(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Shard<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shard")
    }
}

impl<T: 'static> Shard<T> {
    /// Starts a data thread and waits until `init` has made what it owns.
    pub fn start<E: Send + 'static>(
        options: Options,
        init: impl FnOnce(Host) -> LocalFuture<'static, Result<Rc<T>, E>> + Send + 'static,
    ) -> Result<Shard<T>, StartError<E>> {
        let parker = Arc::new(Parker::new().map_err(StartError::Thread)?);
        let mailbox = Mutex::new(Mailbox::Open(VecDeque::new()));
        let shared = Arc::new(Shared { mailbox, stop: AtomicBool::new(false), parker });
        let (tx, rx) = mpsc::channel();
        let theirs = shared.clone();
        let handle = std::thread::Builder::new()
            .name(options.name.clone())
            .spawn(move || run_shard(&theirs, &options, init, &tx))
            .map_err(StartError::Thread)?;
        match rx.recv() {
            Ok(Ok(())) => Ok(Shard(Arc::new(Thread { shared, handle: Mutex::new(Some(handle)) }))),
            Ok(Err(e)) => {
                // The thread is about to end; its files are free again when it has.
                let _ = handle.join();
                Err(e)
            }
            Err(mpsc::RecvError) => Err(StartError::Panicked),
        }
    }

    /// Runs `f` on the data thread and waits for its result. What was called runs to its end also when the returned
    /// future is dropped.
    pub fn call<R: Send + 'static, F: FnOnce(Rc<T>) -> LocalFuture<'static, R> + Send + 'static>(
        &self,
        f: F,
    ) -> impl Future<Output = Result<R, Gone>> + Send + use<T, R, F> {
        let (tx, rx) = oneshot::channel();
        self.deliver(Box::new(move |t| {
            Box::pin(async move {
                // The caller may have gone.
                let _ = tx.send(f(t).await);
            })
        }));
        async move { rx.await.map_err(|oneshot::Canceled| Gone) }
    }

    /// Runs `f` on the data thread, some time soon. Without effect when the thread has ended.
    pub fn post(&self, f: impl FnOnce(Rc<T>) -> LocalFuture<'static, ()> + Send + 'static) {
        self.deliver(Box::new(f));
    }

    fn deliver(&self, letter: Letter<T>) {
        let refused = match &mut *self.0.shared.mailbox() {
            Mailbox::Open(letters) => {
                letters.push_back(letter);
                None
            }
            Mailbox::Closed => Some(letter),
        };
        drop(refused);
        self.0.shared.parker.unpark();
    }

    /// Ends the thread: its tasks are dropped where they wait. Returns when it has ended; called on the thread itself, at
    /// once.
    pub fn stop(&self) {
        self.0.shared.stop();
        let mut handle = self.0.handle.lock().expect("nobody panics with this lock");
        if handle.as_ref().is_some_and(|h| h.thread().id() != std::thread::current().id()) {
            // A panic of the thread has been reported by the thread.
            let _ = handle.take().expect("just seen").join();
        }
    }
}

/// The data thread, from its start to its end.
fn run_shard<T: 'static, E: Send + 'static>(
    shared: &Shared<T>,
    options: &Options,
    init: impl FnOnce(Host) -> LocalFuture<'static, Result<Rc<T>, E>>,
    started: &mpsc::Sender<Result<(), StartError<E>>>,
) {
    let _closing = Closing(shared);
    let looper = match pin_to(options.cpu)
        .map_err(StartError::Thread)
        .and_then(|()| Looper::new(options.spin, shared.parker.clone()).map_err(StartError::NoRing))
    {
        Ok(looper) => looper,
        // The starter waits for this answer, so somebody listens.
        Err(e) => return drop(started.send(Err(e))),
    };
    let result = looper.run(init(looper.host.clone()));
    match result {
        Err(e) => {
            drop(looper);
            let _ = started.send(Err(StartError::Init(e)));
        }
        Ok(owned) => {
            let _ = started.send(Ok(()));
            looper.turn_until(
                || shared.has_mail() || shared.is_stopped(),
                || {
                    for letter in shared.take_mail() {
                        looper.host.spawn(letter(owned.clone()));
                    }
                    shared.is_stopped()
                },
            );
            looper.end(owned);
        }
    }
}

fn pin_to(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no processor {cpu}")));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Runs a future on the calling thread to its end, with a world of its own. For tools, tests and benchmarks.
///
/// Panics when there is no io_uring; see [`try_run`].
pub fn run<T: 'static, F: Future<Output = T> + 'static>(options: Options, f: impl FnOnce(Host) -> F) -> T {
    try_run(options, f).unwrap_or_else(|e| panic!("{e}"))
}

/// Like [`run`], for those who have something to say when there is no io_uring.
pub fn try_run<T: 'static, F: Future<Output = T> + 'static>(
    options: Options,
    f: impl FnOnce(Host) -> F,
) -> Result<T, NoRing> {
    pin_to(options.cpu).map_err(NoRing)?;
    let parker = Arc::new(Parker::new().map_err(NoRing)?);
    let looper = Looper::new(options.spin, parker)?;
    let result = looper.run(f(looper.host.clone()));
    looper.end(());
    Ok(result)
}

/// One thread's executor and world, and the loop that turns them.
struct Looper {
    core: Rc<Core>,
    executor: Executor,
    host: Host,
}

impl Looper {
    fn new(spin: Duration, parker: Arc<Parker>) -> Result<Looper, NoRing> {
        let core = Core::new(parker.clone(), spin).map_err(NoRing)?;
        let executor = Executor::new(move || parker.unpark());
        let host = Host::new(Rc::new(Linux(core.clone())), executor.spawner());
        Ok(Looper { core, executor, host })
    }

    /// Runs a future to its end.
    fn run<R: 'static>(&self, future: impl Future<Output = R> + 'static) -> R {
        let result = Rc::new(RefCell::new(None));
        let theirs = result.clone();
        self.host.spawn(async move {
            let value = future.await;
            theirs.replace(Some(value));
        });
        self.turn_until(|| false, || result.borrow().is_some());
        result.take().expect("the loop has ended, so the future has")
    }

    /// Runs tasks and passes on completions until `is_done`. Sleeps when there is nothing to do, unless `has_mail`.
    fn turn_until(&self, has_mail: impl Fn() -> bool, is_done: impl Fn() -> bool) {
        let has_work = || self.executor.has_ready() || has_mail();
        loop {
            self.core.fire_timers();
            self.executor.run_ready(BUDGET);
            if is_done() {
                return;
            }
            if has_work() {
                self.core.submit();
            } else {
                self.core.wait(has_work);
            }
            self.core.reap();
        }
    }

    /// Drops all tasks and what they belong to, and takes back what the kernel works on.
    fn end<T>(self, owned: T) {
        let Looper { core, executor, host } = self;
        drop(executor);
        block::at_world_end(|| drop((owned, host)));
        core.close();
    }
}
