//! Which of several control planes on one store leads.
//!
//! ```text
//!   Standby ──campaign answers──► Leading ──lost──► Standby
//!      ▲                             │
//!      └──────────resign─────────────┘
//! ```
//!
//! Contract: once `campaign` has been answered to another candidate, no change through an older leader's handle is made,
//! however long its process slept. The lease only decides *when* somebody else may lead; the store refuses the old one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Store, StoreFuture};

/// How long giving back a lease may take.
const RESIGN: Duration = Duration::from_secs(2);

/// One who can lead.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Candidate {
    /// Who it is, for people; another one at each start of a process.
    pub name: String,
    /// Where clients and engines reach it: host:port.
    pub grpc: String,
    /// Where its page and REST API are; empty: nowhere.
    pub http: String,
}

/// The choice of a leader.
pub trait Election: Send + Sync + 'static {
    /// Waits until this candidate leads. Dropping the future gives up. A store that cannot be reached is waited for, too.
    fn campaign(&self, candidate: Candidate) -> StoreFuture<'_, Leadership>;
    /// Who leads now, as far as the store says.
    fn leader(&self) -> StoreFuture<'_, Option<Candidate>>;
}

/// What a leader has.
pub struct Leadership {
    /// The store, for as long as nobody else leads.
    pub store: Arc<dyn Store>,
    /// How long that is.
    pub reign: Reign,
}

/// The time for which a candidate leads. Clones are the same reign. It ends when it is lost, and is given back when the last
/// clone is dropped.
#[derive(Clone)]
pub struct Reign {
    until: watch::Receiver<Option<Instant>>,
    /// Dropped with the last clone, which tells the keeper.
    held: Arc<watch::Sender<()>>,
}

/// The other end of a [`Reign`]: whoever renews the lease.
pub struct Keeper {
    until: watch::Sender<Option<Instant>>,
    released: watch::Receiver<()>,
}

impl Reign {
    /// A reign that lasts until `until`, unless it is renewed.
    pub fn begin(until: Instant) -> (Keeper, Reign) {
        let (sender, receiver) = watch::channel(Some(until));
        let (held, released) = watch::channel(());
        (Keeper { until: sender, released }, Reign { until: receiver, held: Arc::new(held) })
    }
    /// One that never ends: there is nobody else.
    pub fn forever() -> Reign {
        let far = Instant::now() + Duration::from_secs(100 * 365 * 86_400);
        let (keeper, reign) = Reign::begin(far);
        // It is never renewed, and must not end with the keeper either.
        std::mem::forget(keeper);
        reign
    }
    /// Whether it still lasts, by this machine's clock. It may have been lost all the same only if the clock runs slow: the
    /// store has the last word.
    pub fn is_valid(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until) && self.until.has_changed().is_ok()
    }
    /// Gives it back, and waits until that is done, but not for long.
    pub async fn resign(&self) {
        let _ = self.held.send(());
        let _ = tokio::time::timeout(RESIGN, self.lost()).await;
    }
    /// Waits until it is lost.
    pub async fn lost(&self) {
        let mut until = self.until.clone();
        loop {
            let Some(end) = *until.borrow_and_update() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(end) => if *until.borrow() == Some(end) { return },
                changed = until.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Keeper {
    /// The lease was renewed: it lasts until then.
    pub fn renewed(&self, until: Instant) {
        self.until.send_replace(Some(until));
    }
    /// It is lost.
    pub fn lost(&self) {
        self.until.send_replace(None);
    }
    /// Waits until the reign is to be given back: its holder resigns, or nobody holds it any more.
    pub async fn released(&mut self) {
        // That the sender is gone says the same as its word.
        let _ = self.released.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Whether the future is ready at once.
    async fn is_ready(future: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = future => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn a_reign_ends_with_its_time_unless_it_is_renewed() {
        let now = Instant::now();
        let (keeper, reign) = Reign::begin(now + HOUR);
        assert!(reign.is_valid() && !is_ready(reign.lost()).await);
        keeper.renewed(now + 2 * HOUR);
        assert!(reign.is_valid() && !is_ready(reign.lost()).await);
        keeper.renewed(now);
        assert!(!reign.is_valid());
        reign.lost().await;
    }

    #[tokio::test]
    async fn it_ends_at_once_when_it_is_lost_and_is_given_back_with_the_last_handle() {
        let (mut keeper, reign) = Reign::begin(Instant::now() + HOUR);
        let other = reign.clone();
        keeper.lost();
        other.lost().await;
        assert!(!reign.is_valid());
        drop(reign);
        assert!(!is_ready(keeper.released()).await);
        drop(other);
        keeper.released().await;
    }

    #[tokio::test]
    async fn without_its_keeper_there_is_no_reign_but_the_one_without_rivals() {
        let (keeper, reign) = Reign::begin(Instant::now() + HOUR);
        drop(keeper);
        assert!(!reign.is_valid());
        reign.lost().await;
        assert!(Reign::forever().is_valid() && !is_ready(Reign::forever().lost()).await);
    }
}
