//! How a control plane comes to lead, and stays it: a key with a lease.

use std::sync::Arc;
use std::time::Duration;

use api::etcd::lease_client::LeaseClient;
use api::etcd::request_op::Request as Op;
use api::etcd::{KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest, TxnRequest};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{EtcdStore, Inner, StoreError, created, op};
use crate::record;
use crate::store::election::{Candidate, Keeper, Leadership, Reign};

/// How often a candidate looks whether the place is free.
const LOOK: Duration = Duration::from_millis(300);
/// How long a candidate waits after etcd failed.
const REST: Duration = Duration::from_secs(1);

/// The candidate whose key it is.
pub(super) fn candidate(kv: &KeyValue) -> Result<Candidate, StoreError> {
    record::decode("leader", &kv.value)
}

/// Waits until the place is free and takes it.
pub(super) async fn campaign(inner: Arc<Inner>, candidate: Candidate) -> Result<Leadership, StoreError> {
    let mut told = String::new();
    loop {
        match attempt(&inner, &candidate).await {
            Ok(Some(leadership)) => return Ok(leadership),
            Ok(None) => tokio::time::sleep(LOOK).await,
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    tracing::warn!("{text}; trying again");
                    told = text;
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn attempt(inner: &Arc<Inner>, candidate: &Candidate) -> Result<Option<Leadership>, StoreError> {
    if inner.range(&inner.leader_key()).await?.is_some() {
        return Ok(None);
    }
    let asked = Instant::now();
    let seconds = i64::try_from(inner.lease.as_secs().max(2)).unwrap_or(i64::MAX);
    let request = LeaseGrantRequest { ttl: seconds, id: 0 };
    let call = |channel, request| async move { LeaseClient::new(channel).lease_grant(request).await };
    let granted = inner.client.once(request, call).await?;
    if granted.id == 0 || granted.ttl <= 0 {
        return Err(StoreError::Failed(format!("etcd grants no lease: {}", granted.error)));
    }
    let lease = Lease { id: granted.id, ttl: seconds_of(granted.ttl) };
    let put = PutRequest { key: inner.leader_key(), value: record::encode(candidate), lease: lease.id };
    let request = TxnRequest {
        compare: vec![created(inner.leader_key(), 0)],
        success: vec![op(Op::RequestPut(put))],
        failure: Vec::new(),
    };
    let fence = match inner.txn(request).await {
        Ok(answer) if answer.succeeded => answer.header.map_or(0, |h| h.revision),
        // Somebody was faster.
        Ok(_) => {
            revoke(inner, lease.id).await;
            return Ok(None);
        }
        // It may have been made. With its lease the key goes, too.
        Err(error) => {
            revoke(inner, lease.id).await;
            return Err(error);
        }
    };
    let (keeper, reign) = Reign::begin(asked + lease.ttl);
    let deposed = Arc::new(Notify::new());
    tokio::spawn(keep(inner.clone(), lease, keeper, deposed.clone()));
    let store = Arc::new(EtcdStore { inner: inner.clone(), fence, deposed });
    Ok(Some(Leadership { store, reign }))
}

struct Lease {
    id: i64,
    ttl: Duration,
}

fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

/// Renews the lease for as long as the reign is held. An etcd that does not answer is asked until the time is over.
async fn keep(inner: Arc<Inner>, lease: Lease, mut keeper: Keeper, deposed: Arc<Notify>) {
    let mut until = Instant::now() + lease.ttl;
    let mut given_back = false;
    loop {
        let asked = Instant::now();
        let renewed = tokio::select! {
            () = keeper.released() => { given_back = true; break }
            () = deposed.notified() => break,
            // A member that is silent must not cost the whole time.
            renewed = tokio::time::timeout(lease.ttl / 3, renew(&inner, lease.id)) => renewed,
        };
        match renewed {
            Ok(Ok(ttl)) if ttl > 0 => {
                until = asked + seconds_of(ttl);
                keeper.renewed(until);
            }
            Ok(Ok(_)) => {
                tracing::warn!("etcd has ended the lease: this control plane leads no more");
                break;
            }
            Ok(Err(error)) => tracing::warn!("the lease was not renewed: {error}"),
            Err(_) => tracing::warn!("the lease was not renewed: etcd does not answer"),
        }
        if Instant::now() >= until {
            tracing::warn!("the lease is over: this control plane leads no more");
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(lease.ttl / 4) => {}
            () = keeper.released() => { given_back = true; break }
            () = deposed.notified() => break,
        }
    }
    if !given_back {
        keeper.lost();
    }
    // Somebody else may lead at once. When it fails the lease ends by itself.
    revoke(&inner, lease.id).await;
    keeper.lost();
}

/// Renews a lease once: for how many seconds from when it was asked.
async fn renew(inner: &Inner, id: i64) -> Result<i64, StoreError> {
    let call = |channel, request: Request<i64>| async move {
        let (metadata, extensions, id) = request.into_parts();
        let ask = tokio_stream::once(LeaseKeepAliveRequest { id });
        let request = Request::from_parts(metadata, extensions, ask);
        let mut answers = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
        let answer = answers.message().await?.ok_or_else(|| Status::unavailable("etcd said nothing"))?;
        Ok(Response::new(answer.ttl))
    };
    inner.client.once(id, call).await
}

async fn revoke(inner: &Inner, id: i64) {
    let call = |channel, request| async move { LeaseClient::new(channel).lease_revoke(request).await };
    if let Err(error) = inner.client.once(LeaseRevokeRequest { id }, call).await {
        tracing::debug!("the lease was not given back: {error}");
    }
}
