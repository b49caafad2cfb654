//! The configuration file: what the node must bring back after a restart. YAML with the keys of v0.3.0, so that its
//! files can be read, plus ours. It is replaced as a whole before any call that changes something is answered.
//!
//! Sections of v0.3.0 that have no meaning here (tuning of its targets and its memory pools) are accepted and kept;
//! any other unknown key is an error, because a typo must not be silently ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_norway::Value;

use crate::crypt::KeyCheck;
use crate::model::{Error, Protocol};

/// The version that this program writes. A file without one is v0.3.0's.
pub const VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Format of the file; absent in v0.3.0's.
    pub version: Option<u32>,
    /// v0.3.0: where the file came from. Kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Value>,
    /// v0.3.0: tuning of its NVMe target. Kept, without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvmf_tcp_tgt_conf: Option<Value>,
    /// v0.3.0: tuning of its iSCSI target. Kept, without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iscsi_tgt_conf: Option<Value>,
    /// v0.3.0: tuning of its initiator. Kept, without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvme_bdev_opts: Option<Value>,
    /// v0.3.0: tuning of its memory pools. Kept, without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bdev_opts: Option<Value>,
    /// Ports.
    pub nexus_opts: NexusOpts,
    /// When a child is faulted for its errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub err_store_opts: Option<ErrStoreOpts>,
    /// v0.3.0: whether every base device is shared. Read; ours says it for each device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub implicit_share_base: Option<bool>,
    /// Pools.
    pub pools: Vec<PoolConfig>,
    /// Devices that were opened by a call of their own.
    pub base_bdevs: Vec<BaseBdev>,
    /// Nexuses.
    pub nexus_bdevs: Vec<NexusConfig>,
    /// The settings that differ from their defaults.
    pub settings: BTreeMap<String, u64>,
    /// The ledgers of nexuses: for those without a control plane, this is their store.
    pub ledgers: Vec<LedgerConfig>,
    /// The highest term of a control plane that was heard of: calls of lower ones are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_term: Option<u64>,
}

/// `nexus_opts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NexusOpts {
    /// The port of the NVMe/TCP target, for replicas and nexuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvmf_replica_port: Option<u16>,
    #[doc(hidden)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvmf_enable: Option<bool>,
    #[doc(hidden)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvmf_discovery_enable: Option<bool>,
    #[doc(hidden)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvmf_nexus_port: Option<u16>,
    #[doc(hidden)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iscsi_enable: Option<bool>,
    #[doc(hidden)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iscsi_nexus_port: Option<u16>,
    #[doc(hidden)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iscsi_replica_port: Option<u16>,
    /// The port of the NBD server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbd_port: Option<u16>,
}

/// `err_store_opts`: read once, from a file of v0.3.0; ours are in `settings`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ErrStoreOpts {
    /// How many records v0.3.0 kept; without effect here.
    pub err_store_size: Option<u64>,
    /// Whether errors fault a child at all.
    pub enable_err_store: Option<bool>,
    /// `fault` or `ignore`.
    pub action: Option<ErrAction>,
    /// `nexus.error_threshold`.
    pub max_errors: Option<u32>,
    /// `nexus.error_window_ms`, in nanoseconds.
    pub retention_ns: Option<u64>,
}

/// What errors lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrAction {
    /// The child is faulted.
    Fault,
    /// Nothing.
    Ignore,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// Its disks, as URIs (ours) or paths (v0.3.0's).
    pub disks: Vec<String>,
    /// v0.3.0: the block size of a disk given as a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blk_size: Option<u32>,
    /// v0.3.0: without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_if: Option<Value>,
    /// Its replicas that are shared. (v0.3.0 lists all replicas of all pools here; those of others are ignored.)
    pub replicas: Vec<ReplicaConfig>,
}

/// A replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicaConfig {
    /// Its name.
    pub name: String,
    /// How it is shared.
    pub share: Option<Share>,
}

/// How something is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    /// NVMe/TCP.
    Nvmf,
    /// iSCSI.
    Iscsi,
    /// NBD.
    Nbd,
}

impl From<Protocol> for Share {
    fn from(protocol: Protocol) -> Share {
        match protocol {
            Protocol::Nvmf => Share::Nvmf,
            Protocol::Iscsi => Share::Iscsi,
            Protocol::Nbd => Share::Nbd,
        }
    }
}

impl From<Share> for Protocol {
    fn from(share: Share) -> Protocol {
        match share {
            Share::Nvmf => Protocol::Nvmf,
            Share::Iscsi => Protocol::Iscsi,
            Share::Nbd => Protocol::Nbd,
        }
    }
}

/// A device that was opened by a call of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseBdev {
    /// The URI that makes it.
    pub uri: String,
    /// How it is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// A nexus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NexusConfig {
    /// `nexus-<uuid>`.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// Its size: bytes, or with a unit such as 64MiB.
    pub size: String,
    /// Its children, by URI.
    pub children: Vec<String>,
    /// How it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// The key with which it is published; by this the key is known again, it can not be computed from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<KeyCheck>,
    /// Whether the control plane keeps its ledger.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub managed: bool,
    /// Children that an operator took offline.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offline: Vec<String>,
}

/// A ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// The uuid of the nexus.
    pub volume: String,
    /// Its generation.
    pub generation: u64,
    /// Its members in sync, by URI.
    pub in_sync: Vec<String>,
}

impl Config {
    /// Reads a file's contents. An empty file is an empty configuration.
    pub fn parse(path: &str, contents: &[u8]) -> Result<Config, Error> {
        let wrong = |why: String| Error::invalid(format!("configuration file {path}: {why}"));
        let text = std::str::from_utf8(contents).map_err(|e| wrong(e.to_string()))?;
        if text.trim().is_empty() {
            return Ok(Config { version: Some(VERSION), ..Config::default() });
        }
        let mut config: Config = serde_norway::from_str(text).map_err(|e| wrong(e.to_string()))?;
        match config.version {
            Some(VERSION) => {}
            None => config.upgrade().map_err(wrong)?,
            Some(other) => return Err(wrong(format!("version {other}; this program knows up to {VERSION}"))),
        }
        for nexus in &config.nexus_bdevs {
            parse_size(&nexus.size)
                .ok_or_else(|| wrong(format!("nexus {}: '{}' is not a size", nexus.uuid, nexus.size)))?;
        }
        // Sections that are kept as they are may hold what YAML has and we cannot write: better said now than at the
        // first change.
        if let Err(e) = serde_norway::to_string(&config) {
            return Err(wrong(format!("it holds something that could not be written again, such as a '!tag': {e}")));
        }
        Ok(config)
    }

    /// Makes a file of v0.3.0 into one of ours.
    fn upgrade(&mut self) -> Result<(), String> {
        self.version = Some(VERSION);
        if let Some(errors) = self.err_store_opts.take() {
            let off = errors.enable_err_store == Some(false) || errors.action == Some(ErrAction::Ignore);
            let threshold = if off { Some(u32::MAX) } else { errors.max_errors };
            if let Some(threshold) = threshold {
                self.settings.insert("nexus.error_threshold".into(), threshold.into());
            }
            if let Some(ns) = errors.retention_ns {
                self.settings.insert("nexus.error_window_ms".into(), (ns / 1_000_000).max(1));
            }
        }
        for pool in &mut self.pools {
            if let Some(size @ (512 | 4096)) = pool.blk_size.take() {
                for disk in pool.disks.iter_mut().filter(|d| d.starts_with('/')) {
                    *disk = if size == 512 { format!("aio://{disk}") } else { format!("aio://{disk}?blk_size={size}") };
                }
            }
            pool.io_if = None;
        }
        // v0.3.0 lists pool disks and children again as base devices; they need no entry of their own.
        let mut used: Vec<String> = self.pools.iter().flat_map(|p| p.disks.clone()).collect();
        used.extend(self.nexus_bdevs.iter().flat_map(|n| n.children.clone()));
        let names: Vec<String> = used.iter().map(|u| bare(u)).collect();
        self.base_bdevs.retain(|b| !names.contains(&bare(&b.uri)));
        if self.implicit_share_base.take() == Some(true) {
            self.base_bdevs.iter_mut().for_each(|b| b.share = Some(Share::Nvmf));
        }
        Ok(())
    }

    /// The file's contents.
    pub fn to_yaml(&self) -> String {
        let body = serde_norway::to_string(self).expect("plain data can be written as YAML");
        format!("# Written by Mayastor at each change; edit only while it is stopped.\n{body}")
    }
}

/// A URI without its parameters.
fn bare(uri: &str) -> String {
    uri.split('?').next().unwrap_or_default().trim_start_matches("aio://").trim_start_matches("uring://").to_owned()
}

/// A size in bytes: a number, possibly with a unit (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB; K, M, G, T mean powers of
/// 1024). `None` when it is none.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_not_be_written_again_is_refused() {
        let error = Config::parse("c.yaml", b"source:\n !x a b: c\n").expect_err("a bare tag");
        assert!(error.message.contains("c.yaml") && error.message.contains("!tag"), "{error}");
    }

    const OLD: &str = "\
source: /var/local/mayastor/config.yaml
nvmf_tcp_tgt_conf: {name: mayastor_target, max_namespaces: 110, opts: {max_queue_depth: 64}}
nexus_opts: {nvmf_enable: true, nvmf_nexus_port: 4421, nvmf_replica_port: 8420, iscsi_enable: true}
err_store_opts: {err_store_size: 256, enable_err_store: true, action: fault, max_errors: 32, retention_ns: 5000000000}
base_bdevs:
  - uri: aio:///tmp/disk1.img?blk_size=4096&uuid=4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11
  - uri: malloc:///m0?size_mb=64
nexus_bdevs:
  - name: nexus-4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11
    uuid: 4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11
    size: 64MiB
    children: ['bdev:///r1']
pools:
  - name: tpool
    disks: [/tmp/disk1.img]
    blk_size: 4096
    io_if: 1
    replicas: [{name: r1, share: Nvmf}, {name: r2, share: null}]
implicit_share_base: true
";

    #[test]
    fn a_file_of_v0_3_0_is_read() {
        let config = Config::parse("c.yaml", OLD.as_bytes()).unwrap();
        assert_eq!(config.version, Some(VERSION));
        assert_eq!(config.settings["nexus.error_threshold"], 32);
        assert_eq!(config.settings["nexus.error_window_ms"], 5000);
        assert_eq!(config.pools[0].disks, ["aio:///tmp/disk1.img?blk_size=4096"]);
        assert_eq!(config.pools[0].replicas[0].share, Some(Share::Nvmf));
        assert_eq!(parse_size(&config.nexus_bdevs[0].size), Some(64 << 20));
        assert_eq!(config.base_bdevs, [BaseBdev { uri: "malloc:///m0?size_mb=64".into(), share: Some(Share::Nvmf) }]);
        assert!(config.nvmf_tcp_tgt_conf.is_some());
        let again = Config::parse("c.yaml", config.to_yaml().as_bytes()).unwrap();
        assert_eq!(again, config, "what is written is read back the same");
    }

    #[test]
    fn nothing_is_an_empty_configuration() {
        for text in ["", "  \n", "\n\n"] {
            assert_eq!(Config::parse("c", text.as_bytes()).unwrap().pools, []);
        }
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        for (text, part) in [
            ("pols: []", "pols"),
            ("pools: [{name: a, disk: [x]}]", "disk"),
            ("version: 2", "version 2"),
            ("nexus_bdevs: [{uuid: u, size: big}]", "'big' is not a size"),
            ("pools: {", "c.yaml"),
            ("[1, 2]", "c.yaml"),
            ("nexus_opts: {nvmf_replica_port: 70000}", "c.yaml"),
            ("\u{0}", "c.yaml"),
        ] {
            let error = Config::parse("c.yaml", text.as_bytes()).expect_err(text);
            assert!(error.message.contains(part) && error.message.contains("c.yaml"), "{error}");
        }
        assert!(Config::parse("c.yaml", &[0xff, 0xfe]).is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("10MiB", 10 << 20), ("1 GB", 1_000_000_000), ("3k", 3072)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "1XB", "-1", "1.5G", "99999999999999999999", "18446744073709551615T"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_contents_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Config::parse("c", &bytes);
        }
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z_0-9:\\[\\]{}, \n-]{0,80}") {
            let _ = Config::parse("c", text.as_bytes());
        }
    }
}
