//! Device URIs: one parser for pool disks, nexus children, the bdev calls and the configuration file.
//!
//! | form | device |
//! |---|---|
//! | `aio:///path`, `uring:///path`, `/path` | a file or block device |
//! | `malloc:///name?size_mb=N` or `?num_blocks=N` | memory |
//! | `nvmf://host[:port]/nqn` (port 4420 when absent) | a namespace of an NVMe/TCP target |
//! | `iscsi://host[:port]/iqn[/lun]` (port 3260, lun 0 when absent) | a logical unit of an iSCSI target |
//! | `bdev:///name`, `loopback:///name` | a device that the node has already: a replica, an open device |
//!
//! All take `blk_size` (512 or 4096) and `uuid`; `iscsi` also `chap=/file` (NAME SECRET, and for mutual CHAP a second line
//! for the target), `header_digest=yes` and `data_digest=yes`. Secrets are never part of a URI. What is not understood is an
//! error: a typo in a parameter must not be silently ignored. Nothing is percent-decoded: names and paths are taken as they
//! are written.

use std::fmt;

use block::{BlockSize, Bytes};
use iscsi::IscsiName;
use uuid::Uuid;

use crate::model::Error;

/// The port of an NVMe/TCP target when a URI names none.
pub const DEFAULT_NVMF_PORT: u16 = 4420;
/// The port of an iSCSI target when a URI names none.
pub const DEFAULT_ISCSI_PORT: u16 = 3260;
/// The largest memory device: 16 TiB.
const MALLOC_BYTES: u64 = 16 << 40;

/// What a URI names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A file or block device.
    File {
        /// Its absolute path.
        path: String,
    },
    /// Memory of this process.
    Malloc {
        /// Its name.
        name: String,
        /// Its size; a whole number of blocks, not zero.
        size: Bytes,
    },
    /// A remote namespace.
    Nvmf {
        /// Host name or address; an IPv6 address without brackets.
        host: String,
        /// TCP port.
        port: u16,
        /// The subsystem.
        nqn: String,
    },
    /// A logical unit of an iSCSI target.
    Iscsi {
        /// Host name or address; an IPv6 address without brackets.
        host: String,
        /// TCP port.
        port: u16,
        /// The target's name.
        target: String,
        /// The logical unit.
        lun: u16,
        /// The file with names and secrets.
        chap: Option<String>,
        /// Whether headers and data are protected by digests.
        digests: [bool; 2],
    },
    /// A device that the node has already.
    Bdev {
        /// Its name.
        name: String,
    },
}

/// A device URI that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUri {
    text: String,
    /// What it names.
    pub device: Device,
    /// The block size that it asks for.
    pub block_size: Option<BlockSize>,
    /// The uuid that it asks for.
    pub uuid: Option<Uuid>,
}

#[derive(Default)]
struct Parameters {
    block_size: Option<BlockSize>,
    uuid: Option<Uuid>,
    size_mb: Option<u64>,
    num_blocks: Option<u64>,
    chap: Option<String>,
    digests: [bool; 2],
}

fn wrong(uri: &str, why: impl fmt::Display) -> Error {
    Error::invalid(format!("device URI '{uri}': {why}"))
}

impl DeviceUri {
    /// Reads a device URI or a plain absolute path.
    pub fn parse(uri: &str) -> Result<DeviceUri, Error> {
        if uri.chars().any(|c| c.is_control()) {
            return Err(wrong(&uri.escape_default().to_string(), "it contains a control character"));
        }
        if uri.starts_with('/') {
            let device = Device::File { path: file_path(uri, uri)? };
            return Ok(DeviceUri { text: uri.into(), device, block_size: None, uuid: None });
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(wrong(uri, "neither an absolute path nor a URI such as aio:///path or nvmf://host:port/nqn"));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if place.contains('#') {
            return Err(wrong(uri, "a '#' part is not understood"));
        }
        let mut parameters = Parameters::parse(uri, scheme, query)?;
        let device = match scheme {
            "aio" | "uring" => Device::File { path: file_path(uri, local(uri, place)?)? },
            "malloc" => {
                let name = local(uri, place)?.trim_start_matches('/');
                Device::Malloc { name: device_name(uri, name)?, size: parameters.malloc_size(uri)? }
            }
            "nvmf" => remote(uri, place)?,
            "iscsi" => logical_unit(uri, place, parameters.chap.take(), parameters.digests)?,
            "bdev" | "loopback" => {
                // The name of a file is its path: bdev:////dev/sda.
                let name = local(uri, place)?;
                let name = name.strip_prefix('/').unwrap_or(name);
                device_name(uri, name.strip_prefix('/').unwrap_or(name))?;
                Device::Bdev { name: name.into() }
            }
            "pcie" => return Err(wrong(uri, format!("{scheme} devices are not supported yet"))),
            _ => {
                let known = "aio, uring, malloc, nvmf, iscsi, bdev, loopback";
                return Err(wrong(uri, format!("unknown scheme '{scheme}' (known: {known})")));
            }
        };
        Ok(DeviceUri { text: uri.into(), device, block_size: parameters.block_size, uuid: parameters.uuid })
    }

    /// The URI as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name under which the device is registered: the path, the memory's name, `host:port/nqn` with `n1`.
    pub fn name(&self) -> String {
        match &self.device {
            Device::File { path } => path.clone(),
            Device::Malloc { name, .. } | Device::Bdev { name } => name.clone(),
            Device::Nvmf { nqn, .. } => format!("{}/{nqn}n1", self.place()),
            Device::Iscsi { target, lun, .. } => format!("{}/{target}/{lun}", self.place()),
        }
    }

    /// The complete URI that makes the same device again: with scheme, port, block size and, when there is one, uuid.
    pub fn canonical(&self) -> String {
        let mut query = Vec::new();
        let base = match &self.device {
            // Only a plain path can have these characters in it, and it has no parameters.
            Device::File { path } if path.contains(['?', '#']) => return path.clone(),
            Device::File { path } => {
                let scheme = if self.text.starts_with("uring:") { "uring" } else { "aio" };
                format!("{scheme}://{path}")
            }
            Device::Malloc { name, size } => {
                let block_size = self.block_size.unwrap_or(BlockSize::B512);
                query.push(format!("num_blocks={}", block_size.blocks_in(*size)));
                format!("malloc:///{name}")
            }
            Device::Nvmf { nqn, .. } => format!("nvmf://{}/{nqn}", self.place()),
            Device::Iscsi { target, lun, chap, digests, .. } => {
                query.extend(chap.iter().map(|file| format!("chap={file}")));
                let [header, data] = digests;
                query.extend(header.then(|| "header_digest=yes".to_owned()));
                query.extend(data.then(|| "data_digest=yes".to_owned()));
                format!("iscsi://{}/{target}/{lun}", self.place())
            }
            Device::Bdev { name } => format!("bdev:///{name}"),
        };
        query.extend(self.block_size.map(|b| format!("blk_size={}", b.bytes())));
        query.extend(self.uuid.map(|u| format!("uuid={u}")));
        if query.is_empty() { base } else { format!("{base}?{}", query.join("&")) }
    }

    fn place(&self) -> String {
        match &self.device {
            Device::Nvmf { host, port, .. } | Device::Iscsi { host, port, .. } => match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            },
            _ => String::new(),
        }
    }
}

impl fmt::Display for DeviceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Parameters {
    fn parse(uri: &str, scheme: &str, query: &str) -> Result<Parameters, Error> {
        let mut parameters = Parameters::default();
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if seen.contains(&key) {
                return Err(wrong(uri, format!("parameter '{key}' is given twice")));
            }
            seen.push(key);
            let number = || value.parse::<u64>().map_err(|_| wrong(uri, format!("{key}='{value}' is not a number")));
            match key {
                "blk_size" => {
                    let size = u32::try_from(number()?).ok().and_then(BlockSize::from_bytes);
                    let size = size.ok_or_else(|| wrong(uri, format!("blk_size={value} is neither 512 nor 4096")))?;
                    parameters.block_size = Some(size);
                }
                "uuid" => {
                    let uuid = Uuid::parse_str(value);
                    parameters.uuid = Some(uuid.map_err(|_| wrong(uri, format!("uuid='{value}' is not a uuid")))?);
                }
                "chap" if scheme == "iscsi" => {
                    let is_path = value.starts_with('/') && !value.ends_with('/');
                    parameters.chap = Some(value.to_owned()).filter(|_| is_path);
                    if !is_path {
                        return Err(wrong(uri, "chap must be the absolute path of a file"));
                    }
                }
                "header_digest" | "data_digest" if scheme == "iscsi" => {
                    let wanted = match value {
                        "" | "yes" | "on" | "true" | "1" => true,
                        "no" | "off" | "false" | "0" => false,
                        _ => return Err(wrong(uri, format!("{key}='{value}' is neither yes nor no"))),
                    };
                    parameters.digests[usize::from(key == "data_digest")] = wanted;
                }
                "size_mb" if scheme == "malloc" => parameters.size_mb = Some(number()?),
                "num_blocks" if scheme == "malloc" => parameters.num_blocks = Some(number()?),
                _ => return Err(wrong(uri, format!("unknown parameter '{key}'"))),
            }
        }
        Ok(parameters)
    }

    fn malloc_size(&self, uri: &str) -> Result<Bytes, Error> {
        let block_size = u64::from(self.block_size.unwrap_or(BlockSize::B512).bytes());
        let size = match (self.size_mb.unwrap_or(0), self.num_blocks.unwrap_or(0)) {
            (0, 0) => return Err(wrong(uri, "size_mb or num_blocks is missing")),
            (mb, 0) => mb.checked_mul(1 << 20),
            (0, blocks) => blocks.checked_mul(block_size),
            _ => return Err(wrong(uri, "size_mb and num_blocks exclude each other")),
        };
        match size {
            Some(size) if size <= MALLOC_BYTES => Ok(Bytes(size)),
            _ => Err(wrong(uri, "the size is above 16 TiB")),
        }
    }
}

/// The path of a URI that must have no host.
fn local<'a>(uri: &str, place: &'a str) -> Result<&'a str, Error> {
    match place {
        "" | "/" => Err(wrong(uri, "the name after :/// is missing")),
        _ if place.starts_with('/') => Ok(place),
        _ => Err(wrong(uri, "there must be three slashes before the name, as in aio:///dev/sda")),
    }
}

fn file_path(uri: &str, path: &str) -> Result<String, Error> {
    if path.ends_with('/') { Err(wrong(uri, "the path names a directory")) } else { Ok(path.into()) }
}

fn device_name(uri: &str, name: &str) -> Result<String, Error> {
    if name.is_empty() || name.ends_with('/') || name.split('/').any(str::is_empty) {
        return Err(wrong(uri, "the name after :/// is missing or has an empty part"));
    }
    Ok(name.into())
}

fn remote(uri: &str, place: &str) -> Result<Device, Error> {
    let Some((authority, nqn)) = place.split_once('/') else {
        return Err(wrong(uri, "the NQN after the host is missing"));
    };
    if nqn.is_empty() || nqn.contains('/') {
        return Err(wrong(uri, "after the host there must be an NQN and nothing else"));
    }
    if nqn.len() > 223 {
        return Err(wrong(uri, "the NQN is longer than 223 bytes"));
    }
    let (host, port) = address(uri, authority, DEFAULT_NVMF_PORT)?;
    Ok(Device::Nvmf { host, port, nqn: nqn.into() })
}

fn logical_unit(uri: &str, place: &str, chap: Option<String>, digests: [bool; 2]) -> Result<Device, Error> {
    let Some((authority, rest)) = place.split_once('/') else {
        return Err(wrong(uri, "the target's name after the host is missing"));
    };
    let (target, lun) = rest.split_once('/').unwrap_or((rest, "0"));
    let name = IscsiName::new(target).map_err(|e| wrong(uri, e))?;
    let lun = lun.parse().ok().filter(|lun| *lun < 1 << 14);
    let lun = lun.ok_or_else(|| wrong(uri, "after the target's name there may be a logical unit, 0 to 16383"))?;
    let (host, port) = address(uri, authority, DEFAULT_ISCSI_PORT)?;
    Ok(Device::Iscsi { host, port, target: name.to_string(), lun, chap, digests })
}

/// Host and port.
fn address(uri: &str, authority: &str, default: u16) -> Result<(String, u16), Error> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or("?"))),
            None => return Err(wrong(uri, "the ']' after the IPv6 address is missing")),
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() || host.contains(['@', '[', ']', ' ']) {
        return Err(wrong(uri, "the host is missing or malformed"));
    }
    let port = match port {
        None => default,
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port != 0 => port,
            _ => return Err(wrong(uri, format!("'{text}' is not a port (1 to 65535)"))),
        },
    };
    Ok((host.into(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ok(uri: &str) -> DeviceUri {
        DeviceUri::parse(uri).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn every_form() {
        assert_eq!(ok("aio:///dev/sda").device, Device::File { path: "/dev/sda".into() });
        assert_eq!(ok("uring:///a/b?blk_size=4096").block_size, Some(BlockSize::B4096));
        assert_eq!(ok("/tmp/a?b").name(), "/tmp/a?b");
        let malloc = ok("malloc:///m0?size_mb=8192&uuid=4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11");
        assert_eq!(malloc.device, Device::Malloc { name: "m0".into(), size: Bytes(8 << 30) });
        assert!(malloc.uuid.is_some());
        assert_eq!(
            ok("malloc:///m?num_blocks=3&blk_size=4096").device,
            Device::Malloc { name: "m".into(), size: Bytes(12288) }
        );
        let foreign = ok("nvmf://10.0.0.1/nqn.2019-05.io.openebs:x");
        assert_eq!(foreign.name(), "10.0.0.1:4420/nqn.2019-05.io.openebs:xn1");
        let v6 = ok("nvmf://[::1]:8420/nqn.a");
        assert_eq!(v6.device, Device::Nvmf { host: "::1".into(), port: 8420, nqn: "nqn.a".into() });
        assert_eq!(v6.canonical(), "nvmf://[::1]:8420/nqn.a");
        let unit = ok("iscsi://10.0.0.1/iqn.2000-01.x:A?chap=/etc/chap&data_digest=yes");
        assert_eq!(unit.name(), "10.0.0.1:3260/iqn.2000-01.x:a/0");
        assert_eq!(unit.canonical(), "iscsi://10.0.0.1:3260/iqn.2000-01.x:a/0?chap=/etc/chap&data_digest=yes");
        assert_eq!(ok(&unit.canonical()).device, unit.device);
        assert_eq!(ok("iscsi://[::1]:1/eui.0123456789abcdef/7").canonical(), "iscsi://[::1]:1/eui.0123456789abcdef/7");
        assert_eq!(ok("bdev:///a/b").name(), "a/b");
        assert_eq!(ok("bdev:////dev/sda").name(), "/dev/sda");
        assert_eq!(ok("loopback:///a").device, Device::Bdev { name: "a".into() });
    }

    #[test]
    fn a_path_with_the_signs_of_a_uri_stays_a_path() {
        for path in ["/tmp/a?b", "/tmp/a?blk_size=4096", "/tmp/a#b"] {
            assert_eq!(ok(path).canonical(), path);
            assert_eq!(ok(&ok(path).canonical()).device, ok(path).device);
        }
    }

    #[test]
    fn wrong_ones_say_what_and_where() {
        for (uri, part) in [
            ("", "neither an absolute path"),
            ("dev/sda", "neither an absolute path"),
            ("foo:///x", "unknown scheme 'foo'"),
            ("aio://dev/sda", "three slashes"),
            ("aio:///", "missing"),
            ("aio:///dev/", "directory"),
            ("aio:///dev/sda?blk_size=1024", "neither 512 nor 4096"),
            ("aio:///dev/sda?blk_size=x", "not a number"),
            ("aio:///dev/sda?blksize=512", "unknown parameter 'blksize'"),
            ("aio:///dev/sda?blk_size=512&blk_size=512", "twice"),
            ("aio:///dev/sda?uuid=1", "not a uuid"),
            ("aio:///dev/sda?size_mb=1", "unknown parameter 'size_mb'"),
            ("malloc:///m", "size_mb or num_blocks"),
            ("malloc:///?size_mb=1", "missing"),
            ("malloc:///m?size_mb=0", "size_mb or num_blocks"),
            ("malloc:///m?size_mb=1&num_blocks=1", "exclude"),
            ("malloc:///m?size_mb=18446744073709551615", "16 TiB"),
            ("malloc:///m?size_mb=-1", "not a number"),
            ("nvmf://host", "NQN"),
            ("nvmf://host/", "NQN"),
            ("nvmf://host/nqn/2", "NQN"),
            ("nvmf:///nqn", "host"),
            ("nvmf://host:0/nqn", "not a port"),
            ("nvmf://host:65536/nqn", "not a port"),
            ("nvmf://[::1/nqn", "']'"),
            ("nvmf://[::1]8420/nqn", "not a port"),
            ("bdev:///", "missing"),
            ("bdev:///a//b", "empty part"),
            ("pcie:///0000:03:00.0", "not supported yet"),
            ("iscsi://host", "target's name"),
            ("iscsi://host/nqn.2000-01.x:a", "no iSCSI name"),
            ("iscsi://host/iqn.2000-01.x:a/b", "logical unit"),
            ("iscsi://host/iqn.2000-01.x:a/16384", "logical unit"),
            ("iscsi://host:x/iqn.2000-01.x:a", "not a port"),
            ("iscsi://host/iqn.2000-01.x:a?chap=secret", "absolute path"),
            ("iscsi://host/iqn.2000-01.x:a?header_digest=maybe", "neither yes nor no"),
            ("nvmf://host/nqn?chap=/etc/chap", "unknown parameter 'chap'"),
            ("aio:///a#b", "'#'"),
        ] {
            let error = DeviceUri::parse(uri).expect_err(uri);
            assert_eq!(error.kind, crate::model::ErrorKind::InvalidArgument, "{uri}");
            assert!(error.message.contains(part) && error.message.contains(uri), "{uri}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(text in ".*") {
            let _ = DeviceUri::parse(&text);
        }
        #[test]
        fn any_near_miss_is_understood_or_refused(
            scheme in "(aio|uring|malloc|nvmf|iscsi|bdev|loopback)",
            rest in "[/a-z\\[\\]:?&=0-9#._]{0,40}",
        ) {
            let _ = DeviceUri::parse(&format!("{scheme}://{rest}"));
        }
        #[test]
        fn the_canonical_form_means_the_same(
            name in "[a-z]{1,8}(/[a-z0-9.]{1,8}){0,2}",
            blocks in 1u64..1 << 32,
            big in any::<bool>(),
            id in any::<Option<u128>>(),
            form in 0..5,
        ) {
            let uuid = id.map(|i| format!("&uuid={}", Uuid::from_u128(i))).unwrap_or_default();
            let query = format!("blk_size={}{uuid}", if big { 4096 } else { 512 });
            let text = match form {
                0 => format!("aio:///{name}?{query}"),
                1 => format!("uring:///{name}?{query}"),
                2 => format!("malloc:///{name}?num_blocks={blocks}&{query}"),
                3 => format!("nvmf://{}/nqn.x:{}?{query}", name.replace('/', "-"), name.replace('/', "-")),
                _ => format!("bdev:///{name}?{query}"),
            };
            let first = ok(&text);
            let again = ok(&first.canonical());
            prop_assert_eq!(&first.device, &again.device);
            prop_assert_eq!(first.block_size, again.block_size);
            prop_assert_eq!(first.uuid, again.uuid);
            prop_assert_eq!(first.name(), again.name());
        }
    }
}
