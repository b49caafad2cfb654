//! The program as a process: how it starts, stops and fails, whatever it is asked.
#![allow(clippy::disallowed_methods, reason = "tests own files, sockets and processes")]

mod common;

use std::io::Read;
use std::process::Stdio;

use api::v1;
use api::v1::engine_client::EngineClient;
use common::{Dir, Engine, client, program};

#[test]
fn no_connection_is_code_3_and_one_sentence() {
    let port = common::free_port();
    let address = format!("127.0.0.1:{port}");
    for line in
        ["pool list", "replica stats", "nexus children x", "rebuild progress x y --watch", "bdev list", "config show"]
    {
        let message = client(&["--engine", &address], line).fails(3);
        assert_eq!(message, format!("cannot connect to the engine {address}: Connection refused"), "{line}");
    }
    for line in
        ["node list", "volume list", "status", "status --watch", "events", "volume show v --wait", "pool list --all"]
    {
        let message = client(&["--control", &address], line).fails(3);
        assert_eq!(message, format!("cannot connect to the control plane {address}: Connection refused"), "{line}");
    }
}

#[test]
fn wrong_addresses_are_code_2() {
    for address in ["", "host:port", "127.0.0.1:0", "a/b", "127.0.0.1:99999"] {
        let message = client(&[&format!("--engine={address}")], "pool list").fails(2);
        assert!(message.contains("is not an address"), "{message}");
    }
}

#[test]
fn wrong_usage_is_code_2_with_nothing_on_stdout() {
    for line in ["pool create", "replica create p --size 1lightyear", "frobnicate", "pool list --frobnicate"] {
        let run = client(&[], line);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{line}");
        assert!(!run.stderr.is_empty(), "{line}");
    }
    assert!(client(&[], "--version").ok().starts_with("mayastor "));
    assert!(client(&[], "pool create --help").ok().contains("mayastor pool create p1 /dev/sdb"));
    assert!(client(&[], "exit-codes").ok().contains("3  the engine"));
}

#[test]
fn an_engine_that_cannot_start_says_why() {
    let dir = Dir::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let engine = |arguments: &str| client(&["engine"], arguments);
    let message = engine(&format!("-g {taken} --nvme 127.0.0.1:0")).fails(1);
    assert!(message.contains(&taken) && message.contains("in use"), "{message}");
    assert!(engine("-g nonsense").fails(2).contains("--grpc"));
    assert!(engine("-g 127.0.0.1:0 --nvme nonsense").fails(2).contains("--nvme"));
    assert!(engine("-g 127.0.0.1:0 -N 'two words'").fails(2).contains("--node-name"));
    assert!(engine("-g 127.0.0.1:0 -L mayastor=loud").fails(2).contains("--log"));
    assert!(engine("-g 127.0.0.1:0 --control x:y").fails(2).contains("is not an address"));
    std::fs::write(dir.0.join("broken.yaml"), "pools: {").expect("a file");
    let broken = dir.path("broken.yaml");
    let message = engine(&format!("-g 127.0.0.1:0 --nvme 127.0.0.1:0 -y {broken}")).fails(1);
    assert!(message.contains(&broken), "{message}");
    let message = engine(&format!("-g 127.0.0.1:0 --nvme {taken}")).fails(1);
    assert!(message.contains(&taken), "{message}");
}

#[test]
fn a_stop_is_clean_even_while_someone_watches() {
    let engine = Engine::start(&[]);
    let runtime = common::runtime();
    let mut watch = runtime.block_on(async {
        let mut client = EngineClient::new(common::channel(&engine.grpc).await);
        let mut stream = client.watch_node(v1::Empty {}).await.expect("a stream").into_inner();
        let first = stream.message().await.expect("a report").expect("one at least");
        assert_eq!((first.id.as_str(), first.grpc_endpoint.as_str()), ("mayastor-node", engine.grpc.as_str()));
        stream
    });
    let status = engine.terminate();
    assert!(status.success(), "{status}");
    // The stream ends; it does not hang.
    runtime.block_on(async { while let Ok(Some(_)) = watch.message().await {} });
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let engine = Engine::start(&[]);
    let mut child = program()
        .args(["--engine", &engine.grpc, "-o", "json", "config", "show"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut stderr).expect("text");
    let status = child.wait().expect("it ends");
    assert!(status.success() && stderr.is_empty(), "{status}: {stderr}");
}
