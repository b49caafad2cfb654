//! A small single-threaded executor. Tasks run in the order in which they became ready, or in an order that the world
//! chooses (the simulator's seed), so that a run can be repeated exactly.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use futures_channel::oneshot;

type Task = Pin<Box<dyn Future<Output = ()>>>;
type TaskId = u64;

/// Tasks that were woken, possibly from another thread.
struct Ready {
    ids: Mutex<VecDeque<TaskId>>,
    /// Called after a wake, so that a world that sleeps in the kernel comes back.
    unpark: Box<dyn Fn() + Send + Sync>,
}

struct TaskWaker {
    id: TaskId,
    /// Whether the task stands in the queue already.
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.ids.lock().expect("nobody panics with this lock").push_back(self.id);
            (self.ready.unpark)();
        }
    }
}

#[derive(Default)]
struct Tasks {
    /// `None` while the task is being polled.
    by_id: BTreeMap<TaskId, (Option<Task>, Arc<TaskWaker>)>,
    next: TaskId,
}

/// Runs the tasks of one thread (one shard, or one simulated world).
pub struct Executor {
    spawner: Spawner,
}

/// Starts tasks on its executor. Cheap to clone.
#[derive(Clone)]
pub struct Spawner {
    tasks: Rc<RefCell<Tasks>>,
    ready: Arc<Ready>,
}

impl Executor {
    /// An executor; `unpark` is called after each wake, from whichever thread woke.
    pub fn new(unpark: impl Fn() + Send + Sync + 'static) -> Executor {
        let ready = Arc::new(Ready { ids: Mutex::default(), unpark: Box::new(unpark) });
        Executor { spawner: Spawner { tasks: Rc::default(), ready } }
    }

    /// The handle with which tasks are started.
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Whether a task is ready to run.
    pub fn has_ready(&self) -> bool {
        !self.spawner.ready.ids.lock().expect("nobody panics with this lock").is_empty()
    }

    /// Runs one ready task, the one that `choose` picks out of `n` (0 is the one that waited longest).
    /// Returns whether there was one.
    pub fn run_one(&self, choose: impl FnOnce(usize) -> usize) -> bool {
        let id = {
            let mut ids = self.spawner.ready.ids.lock().expect("nobody panics with this lock");
            if ids.is_empty() {
                return false;
            }
            let n = ids.len();
            ids.remove(choose(n) % n).expect("within the queue")
        };
        self.spawner.poll(id);
        true
    }

    /// Runs ready tasks until none is left, at most `budget` of them, so that the world can look at its devices.
    pub fn run_ready(&self, budget: usize) {
        for _ in 0..budget {
            if !self.run_one(|_| 0) {
                return;
            }
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // A task may own a spawner, and so the task list: without this they would keep each other alive.
        let tasks = std::mem::take(&mut self.spawner.tasks.borrow_mut().by_id);
        block::at_world_end(|| drop(tasks));
    }
}

impl Spawner {
    /// Starts a task. It runs to its end also when the handle is dropped.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let (tx, rx) = oneshot::channel();
        let task = async move {
            // Nobody may be waiting for the result.
            let _ = tx.send(future.await);
        };
        let id = {
            let mut tasks = self.tasks.borrow_mut();
            let id = tasks.next;
            tasks.next += 1;
            let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(true), ready: self.ready.clone() });
            tasks.by_id.insert(id, (Some(Box::pin(task)), waker));
            id
        };
        self.ready.ids.lock().expect("nobody panics with this lock").push_back(id);
        JoinHandle { id, rx, tasks: self.tasks.clone() }
    }

    fn poll(&self, id: TaskId) {
        let taken = self.tasks.borrow_mut().by_id.get_mut(&id).map(|(task, waker)| (task.take(), waker.clone()));
        let Some((Some(mut task), waker)) = taken else { return };
        // Cleared first: a wake during the poll queues the task again.
        waker.queued.store(false, Ordering::Release);
        if task.as_mut().poll(&mut Context::from_waker(&Waker::from(waker))).is_ready() {
            let ended = self.tasks.borrow_mut().by_id.remove(&id);
            drop(ended);
        } else if let Some(slot) = self.tasks.borrow_mut().by_id.get_mut(&id) {
            slot.0 = Some(task);
        }
    }
}

/// A started task.
pub struct JoinHandle<T> {
    id: TaskId,
    rx: oneshot::Receiver<T>,
    tasks: Rc<RefCell<Tasks>>,
}

impl<T> JoinHandle<T> {
    /// Ends the task where it waits; its variables are dropped. Without effect on a task that has ended.
    pub fn cancel(self) {
        let task = self.tasks.borrow_mut().by_id.remove(&self.id);
        drop(task);
    }
}

impl<T> Future for JoinHandle<T> {
    /// `None` when the task was cancelled.
    type Output = Option<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.rx).poll(cx).map(Result::ok)
    }
}

/// Wakes one waiting task. A notification with nobody waiting is kept for the next one who waits.
#[derive(Default)]
pub struct Notify {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Notify {
    /// Lets the waiting task go on.
    pub fn notify(&self) {
        self.set.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
    /// Waits for a notification.
    pub async fn notified(&self) {
        std::future::poll_fn(|cx| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Queue;

    #[test]
    fn tasks_wait_and_are_woken() {
        let executor = Executor::new(|| ());
        let queue = Queue::default();
        let (q, spawner) = (queue.clone(), executor.spawner());
        let sum = Rc::new(Cell::new(0));
        let total = sum.clone();
        spawner.spawn(async move {
            for _ in 0..3 {
                total.set(total.get() + q.next().await);
            }
        });
        executor.run_ready(100);
        for n in [1, 2, 3] {
            queue.push(n);
            executor.run_ready(100);
        }
        assert_eq!(sum.get(), 6);
        assert!(!executor.has_ready());
    }

    #[test]
    fn a_cancelled_task_drops_its_variables() {
        let executor = Executor::new(|| ());
        let witness = Rc::new(());
        let held = witness.clone();
        let handle = executor.spawner().spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        executor.run_ready(10);
        assert_eq!(Rc::strong_count(&witness), 2);
        handle.cancel();
        assert_eq!(Rc::strong_count(&witness), 1);
    }

    #[test]
    fn tasks_that_hold_a_spawner_end_with_the_executor() {
        let executor = Executor::new(|| ());
        let witness = Rc::new(());
        let (held, spawner) = (witness.clone(), executor.spawner());
        executor.spawner().spawn(async move {
            let _held = (held, spawner);
            std::future::pending::<()>().await;
        });
        executor.run_ready(10);
        drop(executor);
        assert_eq!(Rc::strong_count(&witness), 1);
    }
}
