//! Replays the fuzzers' corpus. What a fuzzer ever found is kept there.
#![allow(clippy::disallowed_methods, reason = "a test reads and writes its own data")]

#[path = "../../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/bodies/engine_text.rs"]
mod engine_text;

use engine::config::{Config, PoolConfig, VERSION};

#[test]
fn text() {
    corpus::replay("engine_text", engine_text::run);
}

const OLD: &str = "\
source: /var/local/mayastor/config.yaml
nexus_opts: {nvmf_enable: true, nvmf_nexus_port: 4421, nvmf_replica_port: 8420}
err_store_opts: {enable_err_store: true, action: fault, max_errors: 32, retention_ns: 5000000000}
implicit_share_base: true
base_bdevs:
  - uri: aio:///tmp/disk1.img?blk_size=4096
nexus_bdevs:
  - name: nexus-4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11
    uuid: 4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11
    size: 64MiB
    children: ['bdev:///r1']
pools:
  - name: tpool
    disks: [/tmp/disk2.img]
    blk_size: 4096
    io_if: 0
    replicas: [{name: r1, share: nvmf}]
";

/// Writes the seeds of the corpus.
#[test]
#[ignore = "changes the repository: run it when a format has changed"]
fn write_seeds() {
    let with = |what: u8, text: &str| [&[what], text.as_bytes()].concat();
    let pool = PoolConfig { name: "p".into(), disks: vec!["aio:///d".into()], ..PoolConfig::default() };
    let settings = [("nexus.error_threshold".to_string(), 64)].into();
    let ours = Config { version: Some(VERSION), pools: vec![pool], settings, ..Config::default() };
    let mut seeds = vec![
        ("config_old".to_string(), with(1, OLD)),
        ("config_ours".into(), with(1, &ours.to_yaml())),
        ("config_empty".into(), with(1, "")),
        ("config_unknown_key".into(), with(1, "version: 1\npoools: []\n")),
        ("config_anchors".into(), with(1, "source: &a [x, y]\nbdev_opts: *a\nversion: 1\n")),
        ("size".into(), with(2, "64MiB")),
        ("size_huge".into(), with(2, "99999999999TiB")),
    ];
    let uris = [
        ("plain", "/dev/sda"),
        ("aio", "aio:///dev/sda?blk_size=4096"),
        ("uring", "uring:///a/b?uuid=4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11"),
        ("malloc", "malloc:///m0?size_mb=64&blk_size=512"),
        ("malloc_blocks", "malloc:///m?num_blocks=3&blk_size=4096"),
        ("nvmf", "nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:x"),
        ("nvmf_six", "nvmf://[::1]/nqn.a"),
        ("bdev", "bdev:////dev/sda"),
        ("loopback", "loopback:///a/b"),
        ("twice", "aio:///d?blk_size=512&blk_size=512"),
        ("hash", "aio:///a#b"),
    ];
    seeds.extend(uris.iter().map(|(name, uri)| (format!("uri_{name}"), with(0, uri))));
    corpus::write("engine_text", &seeds);
}
