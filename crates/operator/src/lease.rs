//! Who leads: a Lease, as Kubernetes' own components use it.
//!
//! ```text
//!   Watching ──the lease is free, or was not renewed for its whole time──► Claiming ──all records are ours──► Leading
//!      ▲                                                                      │                                │
//!      └──────────────────────(lost, or an error)─────────────────────────────┴──(lost, or let go)─────────────┘
//! ```
//!
//! Clocks are not compared: a candidate waits until it has seen the same renewal for the lease's whole time on its own
//! clock. A leader counts from before it asked for the renewal. What a former leader still sends is refused, because the
//! new one has changed the revision of every record before it acts ([`crate::store`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use control::store::StoreError;
use control::store::StoreFuture;
use control::store::election::{Candidate, Election, Keeper, Leadership, Reign};
use k8s_openapi::api::coordination::v1::{Lease as Wire, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio::time::Instant;

use crate::store::{KubernetesStore, call};

/// The name of the lease.
pub const LEASE: &str = "mayastor-control";
/// In how many parts of its time the leader renews it; the others look twice as often.
const PARTS: u32 = 5;
/// The leader's addresses.
const CANDIDATE: &str = "openebs.io/leader";

/// The lease, as one candidate sees it.
#[derive(Clone)]
pub(crate) struct Lease {
    api: Api<Wire>,
    holder: String,
    /// How long it lasts without being renewed: a whole number of seconds.
    ttl: Duration,
}

impl Lease {
    fn new(client: &Client, namespace: &str, holder: &str, ttl: Duration) -> Lease {
        Lease { api: Api::namespaced(client.clone(), namespace), holder: holder.to_owned(), ttl }
    }

    fn period(&self) -> Duration {
        self.ttl / PARTS
    }

    async fn look(&self) -> Result<Option<Wire>, StoreError> {
        Ok(call(self.api.get_opt(LEASE)).await?)
    }

    /// Asks the API server whether this candidate still holds it.
    pub async fn confirm(&self) -> Result<(), StoreError> {
        match holder(self.look().await?.as_ref()) {
            Some(holder) if holder == self.holder => Ok(()),
            Some(other) => Err(StoreError::Deposed(format!("{other} leads"))),
            None => Err(StoreError::Deposed("nobody leads".to_owned())),
        }
    }

    /// Writes the lease over what was seen; `false` when somebody else was faster.
    async fn write(&self, seen: Option<Wire>, candidate: Option<&Candidate>) -> Result<bool, StoreError> {
        let now = MicroTime(Timestamp::now());
        let before = seen.as_ref().and_then(|l| l.spec.clone()).unwrap_or_default();
        let again = before.holder_identity.as_deref() == Some(&self.holder);
        let mut lease = Wire::default();
        lease.metadata.name = Some(LEASE.to_owned());
        lease.metadata.resource_version = seen.as_ref().and_then(ResourceExt::resource_version);
        if let Some(candidate) = candidate {
            let text = serde_json::to_string(candidate).expect("plain data");
            lease.metadata.annotations = Some(BTreeMap::from([(CANDIDATE.to_owned(), text)]));
        }
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(candidate.map_or_else(String::new, |_| self.holder.clone())),
            lease_duration_seconds: i32::try_from(self.ttl.as_secs()).ok(),
            acquire_time: if again { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!again)),
            ..LeaseSpec::default()
        });
        let done = match seen {
            Some(_) => call(self.api.replace(LEASE, &PostParams::default(), &lease)).await,
            None => call(self.api.create(&PostParams::default(), &lease)).await,
        };
        match done {
            Ok(_) => Ok(true),
            Err(error) if [404, 409].contains(&error.code()) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Who holds it, if anybody.
fn holder(lease: Option<&Wire>) -> Option<String> {
    lease?.spec.as_ref()?.holder_identity.clone().filter(|holder| !holder.is_empty())
}

/// The choice of a leader in a namespace of Kubernetes.
pub struct KubernetesElection {
    client: Client,
    namespace: String,
    ttl: Duration,
}

impl KubernetesElection {
    /// The election of that namespace; a leader that does not renew its lease for `ttl` is replaced.
    pub fn new(client: Client, namespace: &str, ttl: Duration) -> KubernetesElection {
        KubernetesElection { client, namespace: namespace.to_owned(), ttl }
    }

    async fn lead(&self, candidate: Candidate) -> Result<Leadership, StoreError> {
        let lease = Lease::new(&self.client, &self.namespace, &candidate.name, self.ttl);
        // The renewal that was seen last, and since when.
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match self.attempt(&lease, &candidate, &mut seen).await {
                Ok(Some(leadership)) => return Ok(leadership),
                Ok(None) => {}
                Err(error) => tracing::warn!("no leader can be chosen now: {error}"),
            }
            tokio::time::sleep(lease.period() / 2).await;
        }
    }

    async fn attempt(
        &self,
        lease: &Lease,
        candidate: &Candidate,
        seen: &mut Option<(Option<String>, Instant)>,
    ) -> Result<Option<Leadership>, StoreError> {
        let found = lease.look().await?;
        if holder(found.as_ref()).is_some_and(|holder| holder != candidate.name) {
            let version = found.as_ref().and_then(ResourceExt::resource_version);
            match seen {
                Some((before, since)) if *before == version => {
                    let term = found.as_ref().and_then(|l| l.spec.as_ref()?.lease_duration_seconds);
                    let term = term.and_then(|s| u64::try_from(s).ok()).map_or(self.ttl, Duration::from_secs);
                    if since.elapsed() < term {
                        return Ok(None);
                    }
                }
                _ => {
                    *seen = Some((version, Instant::now()));
                    return Ok(None);
                }
            }
        }
        let sent = Instant::now();
        if !lease.write(found, Some(candidate)).await? {
            return Ok(None);
        }
        let (keeper, reign) = Reign::begin(sent + self.ttl);
        tokio::spawn(keep(lease.clone(), candidate.clone(), keeper));
        let store = KubernetesStore::new(self.client.clone(), self.namespace.clone(), lease.clone(), reign.clone());
        store.claim().await?;
        tracing::info!("{} leads", candidate.name);
        Ok(Some(Leadership { store: Arc::new(store), reign }))
    }
}

/// Renews the lease until it is lost or let go.
async fn keep(lease: Lease, candidate: Candidate, mut keeper: Keeper) {
    let mut until = Instant::now() + lease.ttl;
    loop {
        tokio::select! {
            () = keeper.released() => break,
            () = tokio::time::sleep(lease.period()) => {}
        }
        let sent = Instant::now();
        let renewed = async {
            let found = lease.look().await?;
            if holder(found.as_ref()).as_deref() != Some(&lease.holder) {
                return Err(StoreError::Deposed("somebody else leads".to_owned()));
            }
            lease.write(found, Some(&candidate)).await
        };
        // An API server that hangs must not keep the leader from noticing that its time is over.
        match tokio::time::timeout(lease.period() * 2, renewed).await {
            Ok(Ok(true)) => {
                until = sent + lease.ttl;
                keeper.renewed(until);
            }
            Ok(Err(StoreError::Deposed(why))) => {
                tracing::warn!("the lease is lost: {why}");
                return keeper.lost();
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!("the lease was not renewed: {error}"),
            Err(_) => tracing::warn!("the lease was not renewed: the API server does not answer"),
        }
        if Instant::now() >= until {
            tracing::warn!("the lease ran out");
            return keeper.lost();
        }
    }
    // Given back, so that nobody has to wait for its end. A leader that is gone does not mind a failure.
    let give_back = async {
        let found = lease.look().await?;
        if holder(found.as_ref()).as_deref() == Some(&lease.holder) {
            lease.write(found, None).await?;
        }
        Ok::<(), StoreError>(())
    };
    let _ = tokio::time::timeout(lease.period(), give_back).await;
    keeper.lost();
}

impl Election for KubernetesElection {
    fn campaign(&self, candidate: Candidate) -> StoreFuture<'_, Leadership> {
        Box::pin(self.lead(candidate))
    }
    fn leader(&self) -> StoreFuture<'_, Option<Candidate>> {
        Box::pin(async move {
            let found = Lease::new(&self.client, &self.namespace, "", self.ttl).look().await?;
            let text = found.as_ref().and_then(|l| l.annotations().get(CANDIDATE));
            Ok(text.and_then(|text| serde_json::from_str(text).ok()))
        })
    }
}
