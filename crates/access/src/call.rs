//! Who is behind the work of a task, and a number for it: for the records and the log.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::role::Caller;

/// A call that is being served.
#[derive(Debug)]
pub struct Call {
    /// Who asked.
    pub caller: Caller,
    /// What: an RPC's path, or a method and a route.
    pub what: String,
    /// A number that no other call of this process has; log lines of the call carry it.
    pub id: u64,
    /// What it is about, such as `volume/data`.
    about: Mutex<String>,
    noted: Mutex<bool>,
}

tokio::task_local! {
    static CALL: std::sync::Arc<Call>;
}

impl Call {
    /// A new one.
    pub fn new(caller: Caller, what: String) -> std::sync::Arc<Call> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        std::sync::Arc::new(Call { caller, what, id, about: Mutex::default(), noted: Mutex::default() })
    }
    /// Runs `work` for this call.
    pub fn run<F: Future>(self: std::sync::Arc<Self>, work: F) -> impl Future<Output = F::Output> {
        CALL.scope(self, work)
    }
    /// What the call turned out to be about; empty when nothing said so.
    pub fn about(&self) -> String {
        self.about.lock().map(|a| a.clone()).unwrap_or_default()
    }
    /// Whether something was noted in the records while it was served.
    pub fn is_noted(&self) -> bool {
        self.noted.lock().is_ok_and(|n| *n)
    }
}

/// Says what the call is about that this task serves.
pub fn about(object: &str) {
    let _ = CALL.try_with(|call| {
        if let Ok(mut about) = call.about.lock() {
            object.clone_into(&mut about);
        }
    });
}

/// Who asked for what this task does, to be noted now; empty when it is nobody's call, or nobody is known by name.
pub fn note_actor() -> String {
    let named = CALL.try_with(|call| {
        if let Ok(mut noted) = call.noted.lock() {
            *noted = true;
        }
        call.caller.name.clone()
    });
    named.unwrap_or_default()
}
