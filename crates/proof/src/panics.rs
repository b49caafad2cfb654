//! Panics of a run, caught with their place, and not printed.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    static LISTENS: RefCell<bool> = const { RefCell::new(false) };
}

static HOOK: Once = Once::new();

/// From now on panics of this thread are kept, not printed.
pub fn listen() {
    LISTENS.set(true);
    LAST.take();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !LISTENS.with_borrow(|l| *l) {
                return before(info);
            }
            let text = info.payload_as_str().unwrap_or("a panic without words");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            LAST.with_borrow_mut(|last| {
                last.get_or_insert_with(|| format!("{text} ({place})"));
            });
        }));
    });
}

/// From now on panics of this thread are printed again.
pub fn ignore() {
    LISTENS.set(false);
}

/// The first panic since then.
pub fn take() -> String {
    LAST.take().unwrap_or_default()
}
