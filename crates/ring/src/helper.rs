//! Calls that block (name resolution, opening, small files) run on helper threads, a bounded number of them, which end
//! when there is nothing left to do.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use futures_channel::oneshot;

/// Blocking calls of one data thread that run at the same time; more wait in order.
const THREADS: usize = 8;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<Work>,
}

/// The helper threads of one data thread.
#[derive(Default)]
pub(crate) struct Helpers(Arc<Mutex<State>>);

impl Helpers {
    /// Runs `work` on a helper thread. The work runs to its end also when the future is dropped.
    pub(crate) fn run<R: Send + 'static, F: FnOnce() -> io::Result<R> + Send + 'static>(
        &self,
        work: F,
    ) -> impl Future<Output = io::Result<R>> + use<R, F> {
        let (tx, rx) = oneshot::channel();
        let started = self.start(Box::new(move || {
            // Nobody may be waiting for the result.
            let _ = tx.send(work());
        }));
        async move {
            started?;
            rx.await.unwrap_or_else(|_| Err(io::Error::other("a helper thread ended early")))
        }
    }

    fn start(&self, work: Work) -> io::Result<()> {
        let mut state = self.0.lock().expect("nobody panics with this lock");
        state.waiting.push_back(work);
        if state.running == THREADS {
            return Ok(());
        }
        let shared = self.0.clone();
        let spawned = std::thread::Builder::new().name("helper".into()).spawn(move || {
            while let Some(work) = next(&shared) {
                work();
            }
        });
        match spawned {
            Ok(_) => state.running += 1,
            // Another helper will do it.
            Err(_) if state.running > 0 => (),
            Err(e) => {
                state.waiting.pop_back();
                return Err(e);
            }
        }
        Ok(())
    }
}

/// The next piece of work, or the end of this helper.
fn next(shared: &Mutex<State>) -> Option<Work> {
    let mut state = shared.lock().expect("nobody panics with this lock");
    let work = state.waiting.pop_front();
    if work.is_none() {
        state.running -= 1;
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn more_work_than_threads_is_all_done() {
        let (helpers, now, most) = (Helpers::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let waiting: Vec<_> = (0..40)
            .map(|n| {
                let (now, most) = (now.clone(), most.clone());
                helpers.run(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(n)
                })
            })
            .collect();
        let done = futures_util::future::join_all(waiting);
        let done = crate::tests::block_on(done);
        assert!(done.into_iter().map(|n| n.expect("it ran")).eq(0..40));
        assert!(most.load(Ordering::SeqCst) <= THREADS);
    }
}
