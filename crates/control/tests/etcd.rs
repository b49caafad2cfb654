//! The store on a real etcd: `cargo xtask test --stores`.
#![allow(clippy::disallowed_methods, reason = "tests live in the real world")]

mod conformance;
mod real;

use std::sync::Arc;
use std::time::{Duration, Instant};

use control::store::election::{Candidate, Election, Leadership};
use control::store::etcd::{Etcd, Options};
use control::store::{Change, Expected, Store, StoreError};
use real::Server;

const PREFIX: &str = "test";

fn options(server: &Server, prefix: &str) -> Options {
    let mut options = Options::parse(&format!("{}/{prefix}", server.address())).unwrap();
    options.lease = Duration::from_secs(2);
    options.limit = Duration::from_secs(2);
    options
}

fn etcd(server: &Server) -> Etcd {
    Etcd::new(options(server, PREFIX)).unwrap()
}

fn candidate(name: &str) -> Candidate {
    Candidate { name: name.into(), grpc: format!("{name}:10125"), http: String::new() }
}

fn put(value: &str) -> Change {
    Change::new("node/a", Expected::Anything, Some(value.as_bytes().to_vec()))
}

async fn value(store: &dyn Store) -> Option<String> {
    store.get("node/a").await.unwrap().map(|e| String::from_utf8(e.value).unwrap())
}

#[tokio::test]
#[ignore = "needs etcd: cargo xtask test --stores"]
async fn the_etcd_store_conforms() {
    let server = Server::start();
    let Leadership { store, reign } = etcd(&server).campaign(candidate("one")).await.unwrap();
    conformance::run(store).await;
    // Another prefix is another store.
    let other = Etcd::new(options(&server, "other")).unwrap().campaign(candidate("other")).await.unwrap();
    assert!(other.store.list("meta/").await.unwrap().is_empty());
    assert!(reign.is_valid());
}

#[tokio::test]
#[ignore = "needs etcd: cargo xtask test --stores"]
async fn one_leads_and_the_next_takes_over_at_once_when_it_steps_down() {
    let server = Server::start();
    let (one, two) = (etcd(&server), etcd(&server));
    assert_eq!(one.leader().await.unwrap(), None);
    let first = one.campaign(candidate("one")).await.unwrap();
    assert_eq!(two.leader().await.unwrap(), Some(candidate("one")));
    let waiting = tokio::spawn(async move { two.campaign(candidate("two")).await.unwrap() });
    // Much longer than the lease.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished() && first.reign.is_valid());
    first.store.commit(put("1")).await.unwrap();

    let before = Instant::now();
    drop(first.reign);
    let second = waiting.await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert_eq!(one.leader().await.unwrap(), Some(candidate("two")));
    let refused = first.store.commit(put("2")).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Deposed(by) if by.contains("two:10125")), "{refused}");
    assert!(matches!(first.store.confirm().await, Err(StoreError::Deposed(_))));
    assert_eq!(value(&*second.store).await.as_deref(), Some("1"));
    second.store.confirm().await.unwrap();
    second.store.commit(put("3")).await.unwrap();
}

/// The leader's process sleeps, with all its tasks, for longer than its lease; then it goes on as if nothing had been.
#[test]
#[ignore = "needs etcd: cargo xtask test --stores"]
fn a_leader_that_slept_changes_nothing_any_more() {
    let server = Server::start();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sleeper = runtime();
    let first = sleeper.block_on(async { etcd(&server).campaign(candidate("one")).await.unwrap() });
    sleeper.block_on(first.store.commit(put("1"))).unwrap();

    let awake = runtime();
    let before = Instant::now();
    let second = awake.block_on(async { etcd(&server).campaign(candidate("two")).await.unwrap() });
    assert!(before.elapsed() < Duration::from_secs(6), "a takeover within seconds: {:?}", before.elapsed());
    awake.block_on(second.store.commit(put("2"))).unwrap();

    assert!(!first.reign.is_valid(), "by its own clock, too");
    let refused = sleeper.block_on(first.store.commit(put("3"))).unwrap_err();
    assert!(matches!(refused, StoreError::Deposed(_)), "{refused}");
    let condition = Expected::Absent;
    let refused = sleeper.block_on(first.store.commit(Change { expected: condition, ..put("3") })).unwrap_err();
    assert!(matches!(refused, StoreError::Deposed(_)), "not a conflict: {refused}");
    sleeper.block_on(async { tokio::time::timeout(Duration::from_secs(5), first.reign.lost()).await.unwrap() });
    assert_eq!(awake.block_on(value(&*second.store)).as_deref(), Some("2"));
}

#[tokio::test]
#[ignore = "needs etcd: cargo xtask test --stores"]
async fn without_etcd_calls_fail_in_time_and_leading_ends_and_all_comes_back_with_it() {
    let mut server = Server::start();
    let (members, prefix) = (options(&server, PREFIX).members, options(&server, PREFIX).prefix);
    // A member that is not there is passed over.
    let members = std::iter::once("127.0.0.1:1".to_owned()).chain(members).collect();
    let election = Etcd::new(Options { members, prefix, ..options(&server, PREFIX) }).unwrap();
    let first = election.campaign(candidate("one")).await.unwrap();
    first.store.commit(put("1")).await.unwrap();

    for silent in [true, false] {
        let leadership =
            if silent { first.reign.clone() } else { election.campaign(candidate("one")).await.unwrap().reign };
        if silent {
            server.signal("-STOP")
        } else {
            server.kill()
        }
        let before = Instant::now();
        let error = first.store.get("node/a").await.unwrap_err();
        assert!(matches!(error, StoreError::Failed(_)), "{error}");
        assert!(matches!(first.store.commit(put("x")).await, Err(StoreError::Failed(_))));
        assert!(before.elapsed() < Duration::from_secs(15), "{:?}", before.elapsed());
        leadership.lost().await;
        assert!(election.leader().await.is_err());
        if silent { server.signal("-CONT") } else { server.run() }
    }
    let again = election.campaign(candidate("one")).await.unwrap();
    let found = value(&*again.store).await;
    // The change that failed may have been made: etcd was only asleep.
    assert!(["1", "x"].contains(&found.as_deref().unwrap()), "{found:?}");
    again.store.commit(put("2")).await.unwrap();
}

#[tokio::test]
#[ignore = "needs etcd: cargo xtask test --stores"]
async fn etcd_may_want_a_name_and_a_password() {
    let server = Server::start();
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"secret"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        let answer = server.post(path, body).unwrap();
        assert!(answer.contains("200 OK"), "{path}: {answer}");
    }
    let nobody = etcd(&server).leader().await.unwrap_err().to_string();
    assert!(nobody.contains("user name is empty"), "{nobody}");
    let with = |password: &str| {
        let user = Some(("root".to_owned(), password.to_owned()));
        Etcd::new(Options { user, ..options(&server, PREFIX) }).unwrap()
    };
    let wrong = with("wrong").leader().await.unwrap_err().to_string();
    assert!(wrong.contains("authentication failed"), "{wrong}");
    let leadership = with("secret").campaign(candidate("one")).await.unwrap();
    conformance::run(leadership.store).await;
    let _: Arc<dyn Election> = Arc::new(with("secret"));
}
