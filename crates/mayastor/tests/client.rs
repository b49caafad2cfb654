//! The client commands against a real engine: what people and programs read.
#![allow(clippy::disallowed_methods, reason = "tests own files, sockets and processes")]

mod common;

use common::{Dir, Engine};

const UUID: &str = "4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1";

#[test]
fn pools_replicas_and_nexuses_by_command() {
    let dir = Dir::new();
    let (disk, engine) = (dir.disk("d1", 100), Engine::start(&[]));
    let (run, nvme) = (|line: &str| engine.client(line), engine.nvme.as_str());
    let json = |line: &str| -> serde_json::Value { serde_json::from_str(&run(line).ok()).expect("JSON") };
    assert_eq!(run("pool list").ok(), "No pools found\n");
    assert_eq!(run("pool list -q").ok(), "");
    assert_eq!(run("pool list -o json").ok(), "[]\n");
    assert_eq!(run(&format!("pool create p1 {disk}")).ok(), "Created pool p1\n");
    assert_eq!(run("replica create p1 r1 -s 20MiB").ok(), "Created bdev:///r1\n");
    assert_eq!(run("replica create p1 r2 -s 20MiB --thin -p nvmf -q").ok(), "r2\n");
    assert_eq!(run("replica share r1").ok(), format!("Shared nvmf://{nvme}/nqn.2019-05.io.openebs:r1\n"));
    assert_eq!(run("replica share r1 none").ok(), "Unshared bdev:///r1\n");
    let pools = json("pool list -o json");
    assert_eq!((pools[0]["state"].as_str(), pools[0]["committed"].as_u64()), (Some("online"), Some(20 << 20)));
    let rows = run("replica list -q -u b").ok();
    let row: Vec<_> = rows.lines().next().expect("a row").split_whitespace().collect();
    assert_eq!(row, ["p1", "r1", "online", "no", "20971520", "0", "bdev:///r1"]);
    assert!(run("pool list -o yaml").ok().starts_with("- name: p1\n"));

    let child = "malloc:///a?size_mb=20";
    assert_eq!(run(&format!("nexus create {UUID} 10MiB bdev:///r1 {child}")).ok(), format!("Nexus {UUID} created\n"));
    let uri = format!("nvmf://{nvme}/nqn.2019-05.io.openebs:nexus-{UUID}");
    assert_eq!(run(&format!("nexus publish {UUID} -q")).ok(), format!("{uri}\n"));
    run(&format!("nexus remove {UUID} {child}")).ok();
    run(&format!("nexus add {UUID} {child}")).ok();
    let watched = run(&format!("rebuild progress {UUID} {child} --watch")).ok();
    assert!(watched.ends_with(&format!("Child {child} is in sync\n")), "{watched}");
    assert!(run(&format!("rebuild progress {UUID} {child}")).fails(1).contains("is not being rebuilt; it is online"));
    let nexus = &json("nexus list -o json")[0];
    assert_eq!((nexus["state"].as_str(), nexus["device_uri"].as_str()), (Some("online"), Some(uri.as_str())));
    assert_eq!(nexus["children"][1]["state"], "online");

    assert!(run("pool destroy p1").fails(1).starts_with("pool 'p1' holds 2 replicas"));
    run(&format!("nexus destroy {UUID}")).ok();
    run("replica destroy r1").ok();
    run("replica destroy r2").ok();
    assert_eq!(run("pool destroy p1").ok(), "Destroyed pool p1\n");
    let known = format!("(engine {})", engine.grpc);
    for line in [
        format!("nexus children {UUID}"),
        "replica share nosuch".into(),
        "bdev destroy nosuch".into(),
        "config show nosuch".into(),
    ] {
        let message = run(&line).fails(4);
        assert!(message.contains("not found") && message.ends_with(&known), "{line}: {message}");
    }
}

#[test]
fn the_client_of_v0_3_0_by_its_name() {
    let dir = Dir::new();
    let (disk, engine) = (dir.disk("d1", 100), Engine::start(&[]));
    let (run, nvme) = (|line: &str| engine.legacy(&dir, line), engine.nvme.as_str());
    assert_eq!(run("pool list").ok(), "No pools found\n");
    assert_eq!(run(&format!("pool create tpool {disk}")).ok(), "Created pool tpool\n");
    let shared = format!("nvmf://{nvme}/nqn.2019-05.io.openebs:r1");
    assert_eq!(run("replica create tpool r1 --size 20MiB -p nvmf").ok(), format!("Created {shared}\n"));
    let table = "POOL  NAME THIN  SHARE     SIZE URI\ntpool r1   false nvmf  20971520 ";
    assert_eq!(run("replica list").ok(), format!("{table}{shared}\n"));
    assert_eq!(run("-q replica list").ok(), format!("tpool r1 false nvmf 20971520 {shared}\n"));
    assert!(run("-u i replica list").ok().contains(" 20.00 MiB "));
    assert!(run("-q replica stats").ok().ends_with("         0          0          0          0\n"));
    assert_eq!(run("replica destroy r1").ok(), "");
    let children = "'malloc:///a?size_mb=20 malloc:///b?size_mb=20'";
    assert_eq!(run(&format!("nexus create {UUID} 10MiB {children}")).ok(), format!("Nexus {UUID} created\n"));
    let list = format!("{:22} STATE\nmalloc:///a?size_mb=20 online\nmalloc:///b?size_mb=20 online\n", "NAME");
    assert_eq!(run(&format!("nexus children {UUID}")).ok(), list);
    assert_eq!(run("-q nexus list").ok(), format!("{UUID}  10485760 online 0\n"));
    let failed = run(&format!("rebuild state {UUID} malloc:///a?size_mb=20"));
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""));
    assert!(failed.stderr.starts_with("Error: Status { code: Internal"), "{}", failed.stderr);
    let unknown = run("nexus children nosuch");
    assert!(unknown.code == 1 && unknown.stderr.contains("InvalidArgument"), "{unknown:?}");
    assert_eq!(run(&format!("nexus destroy {UUID}")).ok(), format!("Nexus {UUID} destroyed\n"));
    assert_eq!(run("pool destroy tpool").ok(), "Destroyed pool tpool\n");
}
