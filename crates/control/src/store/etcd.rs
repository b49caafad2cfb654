//! The store of several control planes: an etcd cluster, version 3.4 or later.
//!
//! Records lie under a prefix, the leader's key beside them. The leader's key exists for as long as its lease; each change
//! is a transaction that compares the key's create revision, so that only the present leader's changes are made.

mod client;
mod lease;

use std::sync::Arc;
use std::time::Duration;

use api::etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcd::kv_client::KvClient;
use api::etcd::request_op::Request as Op;
use api::etcd::response_op::Response as Reply;
use api::etcd::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};

use super::election::{Candidate, Election, Leadership};
use super::{Change, Entry, Expected, Store, StoreError, StoreFuture};
use client::Client;

/// A record may become that large in an answer; etcd itself takes 1.5 MiB at most.
const ANSWER_BYTES: usize = 256 << 20;
/// So many records come in one answer.
const PAGE: i64 = 100;

/// Which etcd, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The members: host:port.
    pub members: Vec<String>,
    /// What all keys begin with. One cluster of Mayastor has one prefix.
    pub prefix: String,
    /// Name and password, when etcd wants them.
    pub user: Option<(String, String)>,
    /// How long one call may take.
    pub limit: Duration,
    /// After how long without a sign of life another control plane may lead; whole seconds, etcd takes 2 or more.
    pub lease: Duration,
}

impl Options {
    /// From `host:port[,host:port…][/prefix]`.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(text: &str) -> Result<Options, String> {
        let (members, prefix) = text.split_once('/').unwrap_or((text, ""));
        if members.contains('@') {
            return Err(
                "name and password do not belong into the address: other users of the machine can read it".into()
            );
        }
        let members: Vec<String> = members.split(',').map(str::to_owned).collect();
        for member in &members {
            let port =
                member.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                return Err(format!("{member:?} is not host:port"));
            }
        }
        let prefix = prefix.trim_matches('/');
        let prefix = format!("/{}", if prefix.is_empty() { "mayastor" } else { prefix });
        Ok(Options { members, prefix, user: None, limit: Duration::from_secs(5), lease: Duration::from_secs(5) })
    }
}

/// An etcd cluster, as the place where the leader is chosen.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    client: Client,
    prefix: String,
    lease: Duration,
}

impl Etcd {
    /// Connections are made when they are needed; a member that cannot be reached is no error yet.
    pub fn new(options: Options) -> Result<Etcd, StoreError> {
        let (prefix, lease) = (options.prefix.clone(), options.lease);
        Ok(Etcd(Arc::new(Inner { client: Client::new(options)?, prefix, lease })))
    }
}

impl Election for Etcd {
    fn campaign(&self, candidate: Candidate) -> StoreFuture<'_, Leadership> {
        Box::pin(lease::campaign(self.0.clone(), candidate))
    }
    fn leader(&self) -> StoreFuture<'_, Option<Candidate>> {
        Box::pin(async move {
            let found = self.0.range(&self.0.leader_key()).await?;
            found.map(|kv| lease::candidate(&kv)).transpose()
        })
    }
}

/// The store in the hands of a leader.
struct EtcdStore {
    inner: Arc<Inner>,
    /// The create revision of the leader's key: it stands for this leader alone.
    fence: i64,
    /// Told when the store says that somebody else leads.
    deposed: Arc<tokio::sync::Notify>,
}

fn revision(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Failed(format!("etcd gave the revision {number}")))
}

fn compare(key: Vec<u8>, target: CompareTarget, wanted: TargetUnion) -> Compare {
    Compare { result: CompareResult::Equal.into(), target: target.into(), key, target_union: Some(wanted) }
}

fn created(key: Vec<u8>, revision: i64) -> Compare {
    compare(key, CompareTarget::Create, TargetUnion::CreateRevision(revision))
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn read(key: Vec<u8>) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

impl Inner {
    fn key(&self, key: &str) -> Vec<u8> {
        format!("{}/{key}", self.prefix).into_bytes()
    }
    fn leader_key(&self) -> Vec<u8> {
        self.key("leader")
    }

    async fn range_of(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let call = |channel, request| async move {
            KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES).range(request).await
        };
        self.client.again(request, call).await
    }
    async fn range(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        Ok(self.range_of(read(key.to_vec())).await?.kvs.pop())
    }
    /// One attempt: when it fails, nobody knows whether it was made.
    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, StoreError> {
        let call = |channel, request| async move { KvClient::new(channel).txn(request).await };
        self.client.once(request, call).await
    }

    /// All keys of a prefix, as of one moment.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        let (base, start) = (self.prefix.len() + 1, self.key(prefix));
        let mut end = start.clone();
        // Prefixes end with a slash: the next byte is no carry.
        *end.last_mut().expect("a prefix begins with a slash") += 1;
        let mut request = RangeRequest { key: start, range_end: end, limit: PAGE, ..RangeRequest::default() };
        let mut found = Vec::new();
        loop {
            let answer = self.range_of(request.clone()).await?;
            let last = answer.kvs.last().map(|kv| kv.key.clone());
            for kv in answer.kvs {
                let key = String::from_utf8(kv.key).ok().filter(|key| key.len() >= base);
                let key = key.ok_or_else(|| StoreError::Failed("etcd has a key that is no text".into()))?;
                found.push((key[base..].to_owned(), Entry { value: kv.value, revision: revision(kv.mod_revision)? }));
            }
            let Some(mut last) = last.filter(|_| answer.more) else { return Ok(found) };
            last.push(0);
            request.key = last;
            if request.revision == 0 {
                request.revision = answer.header.map_or(0, |h| h.revision);
            }
        }
    }
}

impl EtcdStore {
    fn fence(&self) -> Compare {
        created(self.inner.leader_key(), self.fence)
    }

    /// That another one leads, in the words of its key.
    fn deposed(&self, leader: Option<&KeyValue>) -> StoreError {
        self.deposed.notify_one();
        StoreError::Deposed(match leader.map(lease::candidate) {
            Some(Ok(leader)) => format!("{} at {} does", leader.name, leader.grpc),
            Some(Err(error)) => error.to_string(),
            None => "nobody does at the moment".to_owned(),
        })
    }

    async fn change(&self, change: Change) -> Result<u64, StoreError> {
        let Change { key: name, expected, value, urgency: _ } = change;
        let key = self.inner.key(&name);
        let mut compares = vec![self.fence()];
        match expected {
            Expected::Anything => {}
            Expected::Absent => compares.push(created(key.clone(), 0)),
            Expected::Revision(wanted) => {
                let wanted = i64::try_from(wanted).map_err(|_| StoreError::Conflict(name.clone()))?;
                compares.push(compare(key.clone(), CompareTarget::Mod, TargetUnion::ModRevision(wanted)));
            }
        }
        let change = match value {
            Some(value) => Op::RequestPut(PutRequest { key, value, lease: 0 }),
            None => Op::RequestDeleteRange(DeleteRangeRequest { key, range_end: Vec::new() }),
        };
        let success = vec![op(change)];
        let failure = vec![op(Op::RequestRange(read(self.inner.leader_key())))];
        let answer = self.inner.txn(TxnRequest { compare: compares, success, failure }).await?;
        if answer.succeeded {
            return revision(answer.header.map_or(0, |h| h.revision));
        }
        let leader = leader_in(answer);
        if leader.as_ref().is_some_and(|kv| kv.create_revision == self.fence) {
            return Err(StoreError::Conflict(name));
        }
        Err(self.deposed(leader.as_ref()))
    }

    async fn confirmed(&self) -> Result<(), StoreError> {
        // The read keeps etcd from answering out of one member's past.
        let look = || vec![op(Op::RequestRange(read(self.inner.leader_key())))];
        let request = TxnRequest { compare: vec![self.fence()], success: look(), failure: look() };
        let answer = self.inner.txn(request).await?;
        if answer.succeeded { Ok(()) } else { Err(self.deposed(leader_in(answer).as_ref())) }
    }
}

/// The leader's key that a transaction has read last.
fn leader_in(answer: TxnResponse) -> Option<KeyValue> {
    match answer.responses.into_iter().next_back()?.response? {
        Reply::ResponseRange(mut range) => range.kvs.pop(),
        _ => None,
    }
}

impl Store for EtcdStore {
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>> {
        let key = self.inner.key(key);
        Box::pin(async move {
            let found = self.inner.range(&key).await?;
            found.map(|kv| Ok(Entry { revision: revision(kv.mod_revision)?, value: kv.value })).transpose()
        })
    }
    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<(String, Entry)>> {
        let prefix = prefix.to_owned();
        Box::pin(async move { self.inner.list(&prefix).await })
    }
    fn commit(&self, change: Change) -> StoreFuture<'_, u64> {
        Box::pin(self.change(change))
    }
    fn confirm(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.confirmed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let one = Options::parse("10.0.0.1:2379").unwrap();
        assert_eq!((one.members, one.prefix.as_str()), (vec!["10.0.0.1:2379".to_owned()], "/mayastor"));
        let many = Options::parse("a:1,b:2,[::1]:3/clusters/one/").unwrap();
        assert_eq!((many.members.len(), many.prefix.as_str()), (3, "/clusters/one"));
        for wrong in ["", "a", "a:", ":1", "a:0", "a:1,", "a:70000", "root:secret@a:1", "a:1,b/x"] {
            assert!(Options::parse(wrong).is_err(), "{wrong}");
        }
    }
}
