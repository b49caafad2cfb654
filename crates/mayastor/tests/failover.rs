//! Several control planes on a real etcd, real engines, a leader that is killed and one that is paused while volumes are
//! made: `cargo xtask test --stores`.
#![allow(clippy::disallowed_methods, reason = "tests own files, sockets and processes")]

mod common;
#[path = "../../control/tests/real/mod.rs"]
mod real;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Dir, Engine, Run, client, free_port, program};
use real::Server;

/// A control plane as a process.
struct Plane {
    process: Child,
    grpc: String,
    http: String,
    out: BufReader<std::process::ChildStdout>,
}

impl Plane {
    fn start(store: &str, grpc: &str, http: &str) -> Plane {
        let mut process = program()
            .args(["control", "--grpc", grpc, "--http", http, "--store", store, "--lease", "2", "-L", "info"])
            .args(["--node-grace", "3", "--heartbeat", "0.5"])
            .env("MAYASTOR_PARENT", std::process::id().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut out = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        assert!(line.starts_with("control plane ready") && line.contains(store), "{line:?}");
        Plane { process, grpc: grpc.into(), http: http.into(), out }
    }
    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
    }
    fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }
    /// What it says about who leads, asked by the client itself.
    fn leads(&self) -> bool {
        common::runtime().block_on(async {
            let endpoint =
                tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc)).expect("an address");
            let Ok(channel) = endpoint.connect_timeout(Duration::from_secs(1)).connect().await else { return false };
            let mut asked = api::v1::leadership_client::LeadershipClient::new(channel);
            let asked = tokio::time::timeout(Duration::from_secs(1), asked.get_leader(api::v1::Empty {})).await;
            matches!(asked, Ok(Ok(answer)) if answer.get_ref().here)
        })
    }
    /// What it printed until it ended.
    fn said(mut self) -> String {
        self.signal("-TERM");
        let mut text = String::new();
        self.out.read_to_string(&mut text).expect("text");
        assert!(self.process.wait().expect("it ends").success());
        text
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn eventually(what: &str, limit: Duration, done: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    begin.elapsed()
}

fn leader(planes: &[Plane]) -> Option<usize> {
    planes.iter().position(Plane::leads)
}

/// A command that is repeated until it succeeds, as a person or a program would.
fn insist(all: &str, line: &str) -> Run {
    let begin = Instant::now();
    loop {
        let run = client(&["--control", all], line);
        if run.code == 0 {
            return run;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{line}: {run:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn volumes(all: &str) -> Vec<serde_json::Value> {
    let list: serde_json::Value = serde_json::from_str(&insist(all, "volume list -o json").stdout).expect("JSON");
    list.as_array().expect("a list").clone()
}

struct Setup {
    planes: Vec<Plane>,
    engines: Vec<Engine>,
    /// All control planes, as `--control` takes them.
    all: String,
    _dir: Dir,
    _etcd: Server,
}

fn setup() -> Setup {
    let etcd = Server::start();
    let store = format!("etcd://{}/failover", etcd.address());
    let at = || format!("127.0.0.1:{}", free_port());
    let planes: Vec<Plane> = (0..3).map(|_| Plane::start(&store, &at(), &at())).collect();
    let all = planes.iter().map(|p| p.grpc.clone()).collect::<Vec<_>>().join(",");
    let dir = Dir::new();
    let engine = |n: u32| {
        let config = dir.path(&format!("node-{n}.yaml"));
        let engine = Engine::start(&["-N", &format!("node-{n}"), "--control", &all, "-y", &config]);
        let disk = dir.disk(&format!("disk-{n}"), 512);
        engine.client(&format!("pool create pool {disk}")).ok();
        engine
    };
    let engines: Vec<Engine> = (1..=3).map(engine).collect();
    eventually("all nodes are online with their pools", Duration::from_secs(20), || {
        let status = client(&["--control", &all], "status -o json").stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        status["pools"].as_array().is_some_and(|pools| pools.len() == 3)
    });
    Setup { planes, engines, all, _dir: dir, _etcd: etcd }
}

impl Setup {
    /// Every volume is whole, and the engines hold exactly what belongs to them: nothing was made twice, nothing is left.
    fn converges(&self, names: usize, replicas: usize) {
        eventually("all volumes are online", Duration::from_secs(60), || {
            let all = volumes(&self.all);
            all.len() == names && all.iter().all(|v| v["state"] == "online")
        });
        eventually("there are as many replicas as belong to them", Duration::from_secs(60), || {
            let held = |engine: &Engine| engine.client("replica list -q").ok().lines().count();
            self.engines.iter().map(held).sum::<usize>() == names * replicas
        });
    }
}

#[test]
#[ignore = "needs etcd: cargo xtask test --stores"]
fn the_leader_may_be_killed_while_volumes_are_made() {
    let mut setup = setup();
    let first = leader(&setup.planes).expect("one leads");

    // A standby says who leads; clients that name it are sent there, browsers too.
    let standby = (first + 1) % 3;
    let status = client(&["--control", &setup.planes[standby].grpc], "status -o json").ok();
    assert!(status.contains("node-1"), "{status}");
    let answer = http(&setup.planes[standby].http, "/v1/status");
    assert!(answer.starts_with("HTTP/1.1 307"), "{answer}");
    assert!(answer.contains(&format!("location: http://{}/v1/status", setup.planes[first].http)), "{answer}");

    let all = setup.all.clone();
    let maker = std::thread::spawn(move || {
        for n in 0..8 {
            insist(&all, &format!("volume create v{n} --size 16MiB -r 2"));
        }
    });
    std::thread::sleep(Duration::from_millis(700));
    setup.planes[first].kill();
    let took = eventually("another one leads", Duration::from_secs(10), || leader(&setup.planes).is_some());
    println!("another control plane led after {took:?}");
    maker.join().expect("all volumes are made");
    setup.converges(8, 2);
    for n in 0..8 {
        insist(&setup.all, &format!("volume destroy v{n}"));
    }
    setup.converges(0, 2);
}

#[test]
#[ignore = "needs etcd: cargo xtask test --stores"]
fn a_leader_that_slept_does_nothing_any_more() {
    let setup = setup();
    let first = leader(&setup.planes).expect("one leads");
    let all = setup.all.clone();
    let maker = std::thread::spawn(move || {
        for n in 0..6 {
            insist(&all, &format!("volume create v{n} --size 16MiB -r 2"));
        }
    });
    std::thread::sleep(Duration::from_millis(700));
    setup.planes[first].signal("-STOP");
    let awake = || (0..3).filter(|n| *n != first).find(|n| setup.planes[*n].leads());
    let took = eventually("another one leads", Duration::from_secs(10), || awake().is_some());
    println!("another control plane led after {took:?}");
    maker.join().expect("all volumes are made");
    setup.converges(6, 2);
    // What the sleeper has in mind now is long out of date.
    for n in 0..3 {
        insist(&setup.all, &format!("volume destroy v{n}"));
    }
    let second = awake().expect("it still leads");
    setup.planes[first].signal("-CONT");
    eventually("the sleeper knows that another one leads", Duration::from_secs(5), || {
        let run = client(&["--control", &setup.planes[first].grpc], "status -o json");
        run.code == 0 && !setup.planes[first].leads()
    });
    assert!(setup.planes[second].leads(), "the sleeper disturbs nobody");
    setup.converges(3, 2);
    let Setup { mut planes, .. } = setup;
    let told = planes.remove(first).said();
    assert_eq!(told.matches("control plane leads").count(), 1, "{told}");
}

/// The answer to a GET.
fn http(address: &str, path: &str) -> String {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}
