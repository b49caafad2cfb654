//! The records are lost while the storage nodes run; they are made anew from what the nodes hold.
#![allow(clippy::disallowed_methods, reason = "tests own files, sockets and processes")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Dir, Engine, client, free_port, program};

struct Plane(Child);

impl Plane {
    fn start(grpc: &str, dir: &str) -> Plane {
        let mut process = program()
            .args(["control", "--grpc", grpc, "--http", "none", "--data-dir", dir, "-L", "warn", "--heartbeat", "0.5"])
            .env("MAYASTOR_PARENT", std::process::id().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("control plane ready"), "{line:?}");
        Plane(process)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// What must be as it was: who a volume is, where it is served, how large it is, and its copies.
fn essence(volume: &serde_json::Value) -> serde_json::Value {
    let mut replicas: Vec<String> =
        volume["replicas"].as_array().expect("replicas").iter().map(|r| r["uuid"].to_string()).collect();
    replicas.sort();
    serde_json::json!([
        volume["name"],
        volume["uuid"],
        volume["size"],
        volume["device_uri"],
        volume["generation"],
        replicas
    ])
}

#[test]
fn lost_records_are_made_anew_and_the_volumes_never_notice() {
    let dir = Dir::new();
    let grpc = format!("127.0.0.1:{}", free_port());
    let plane = Plane::start(&grpc, &dir.path("records"));
    let engines: Vec<Engine> = (1..=3)
        .map(|n| {
            let config = dir.path(&format!("node-{n}.yaml"));
            let engine = Engine::start(&["-N", &format!("node-{n}"), "--control", &grpc, "-y", &config]);
            engine.client(&format!("pool create pool {}", dir.disk(&format!("disk-{n}"), 256))).ok();
            engine
        })
        .collect();
    let ask = |line: &str| client(&["--control", &grpc], line);
    eventually("three pools", || {
        let status = json(&ask("status -o json").stdout);
        status["pools"].as_array().filter(|pools| pools.len() == 3).map(drop)
    });
    ask("volume create data --size 16MiB -r 3 -q").ok();
    ask("volume create thin --size 32MiB -r 2 --thin -q").ok();
    ask("volume publish data -q").ok();
    let volumes = || {
        let list = json(&ask("volume list -o json").stdout);
        let list = list.as_array().filter(|l| l.len() == 2 && l.iter().all(|v| v["state"] == "online")).cloned()?;
        Some(list.iter().map(essence).collect::<Vec<_>>())
    };
    let before = eventually("both volumes are online", volumes);
    // The list is in no promised order.
    let sorted = |mut list: Vec<serde_json::Value>| {
        list.sort_by_key(ToString::to_string);
        list
    };
    let before = sorted(before);
    let image = dir.path("image");
    let bytes: Vec<u8> = (0..8u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&image, &bytes).expect("a file");
    ask(&format!("volume import {image} data -q")).ok();
    let intact = |copy: &str| {
        let copy = dir.path(copy);
        ask(&format!("volume export data {copy} -q")).ok();
        assert!(std::fs::read(&copy).expect("a file").starts_with(&bytes), "every byte is right");
    };
    intact("before.img");
    drop(plane);

    // The records are gone; an empty control plane must stop nothing.
    let empty = Plane::start(&grpc, &dir.path("empty"));
    eventually("the nodes are known", || {
        let nodes = json(&ask("node list -o json").stdout);
        nodes.as_array().filter(|n| n.len() == 3 && n.iter().all(|n| n["state"] == "online")).map(drop)
    });
    assert_eq!(json(&ask("volume list -o json").stdout), serde_json::json!([]));
    let held = || engines.iter().map(|e| e.client("replica list -q").ok().lines().count()).sum::<usize>();
    assert_eq!(held(), 5);

    let list = engines.iter().map(|e| e.grpc.as_str()).collect::<Vec<_>>().join(",");
    let names: String = before
        .iter()
        .map(|v| format!(" --name {}={}", v[1].as_str().expect("a uuid"), v[0].as_str().expect("a name")))
        .collect();
    let recover = |more: &str| {
        client(&[], &format!("control recover --data-dir {} --engines {list}{names}{more}", dir.path("empty")))
    };
    let busy = recover("").fails(1);
    assert!(busy.contains("in use by another process"), "{busy}");
    drop(empty);

    let shown = recover("").ok();
    assert!(shown.contains("would be written") && shown.contains("Nothing was written"), "{shown}");
    assert!(recover("").ok().contains("would be written"), "showing writes nothing");
    let written = json(&recover(" --yes -o json").ok());
    assert_eq!(written["unclear"], serde_json::json!([]), "{written}");
    assert!(written["volumes"].as_array().expect("volumes").iter().all(|v| v["state"] == "written"), "{written}");
    assert!(recover(" --yes").ok().contains("on record"), "what is there stays");

    let _plane = Plane::start(&grpc, &dir.path("empty"));
    let after = sorted(eventually("both volumes are online again", volumes));
    assert_eq!(after, before, "the same volumes, served from the same places by the same nexuses");
    intact("after.img");
    // They are managed as before.
    ask("volume scale thin 3 --wait -q").ok();
    for name in ["data", "thin"] {
        ask(&format!("volume destroy {name} -q")).ok();
    }
    eventually("all is freed", || (held() == 0).then_some(()));
    // A node that cannot be asked may be the one with the newest state.
    let _ = engines.into_iter().next().map(Engine::kill);
    drop(_plane);
    assert!(recover("").fails(3).contains("engine 127.0.0.1"), "all nodes are needed");
}
