//! The parameters of a StorageClass.
//!
//! | parameter | values | meaning |
//! |---|---|---|
//! | `repl` | 1 to 16, default 1 | copies; also a mutable parameter (VolumeAttributesClass) |
//! | `protocol` | `nvmf` (default) | how hosts reach the volume |
//! | `fsType` | `ext4`, `xfs`, `btrfs` | the file system when the claim names none; default `ext4` |
//! | `thin` | `true`, `false` (default) | space is taken when it is written |
//! | `local` | `true`, `false` (default) | a copy on the pod's node when it is a storage node, and served from there |
//! | `ctrlLossTmo` | seconds, −1 for ever; default 600 | how long I/O waits for a lost target |
//! | `reconnectDelay` | 1 to 600 seconds, default 2 | the pause between two attempts |
//! | `keepAlive` | 1 to 600 seconds, default 5 | silence after which a target counts as lost |
//! | `ioQueues` | 1 to 64; default: as many as CPUs | I/O queues of the kernel's initiator |
//!
//! (For operators: `docs/operations.md`.) Other keys are errors, so that a typo is not silently ignored, except those that sidecars add (`csi.storage.k8s.io/…`).

use std::collections::BTreeMap;

use tonic::Status;

use crate::capability::FILE_SYSTEMS;

/// Keys with this prefix are for others.
const FOREIGN: &str = "csi.storage.k8s.io/";

/// What a StorageClass asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// How many copies, 1 to 16.
    pub replicas: u32,
    /// Space is taken when it is written.
    pub thin: bool,
    /// A copy on the pod's node, served from there.
    pub local: bool,
    /// The file system when the capability names none.
    pub fs: Option<String>,
    /// How the host's connection behaves.
    pub connection: Connection,
}

/// How the host's connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Seconds that I/O waits for a lost target; −1 for ever.
    pub ctrl_loss_tmo: i32,
    /// Seconds between two attempts to connect again.
    pub reconnect_delay: u32,
    /// Seconds of silence after which a target counts as lost.
    pub keep_alive: u32,
    /// I/O queues; `None`: as many as there are CPUs.
    pub io_queues: Option<u16>,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection { ctrl_loss_tmo: 600, reconnect_delay: 2, keep_alive: 5, io_queues: None }
    }
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters { replicas: 1, thin: false, local: false, fs: None, connection: Connection::default() }
    }
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    key: &str,
    value: &str,
    least: T,
    most: T,
) -> Result<T, Status> {
    let parsed = value.parse::<T>().ok().filter(|n| *n >= least && *n <= most);
    parsed.ok_or_else(|| Status::invalid_argument(format!("parameter {key}: {value:?} is not {least} to {most}")))
}

fn flag(key: &str, value: &str) -> Result<bool, Status> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Status::invalid_argument(format!("parameter {key}: {value:?} is neither true nor false"))),
    }
}

/// Reads the number of copies.
fn replicas(value: &str) -> Result<u32, Status> {
    number("repl", value, 1, block::limits::NEXUS_MEMBERS as u32)
}

impl Parameters {
    /// Reads the parameters of a StorageClass, or a volume's context, which repeats them.
    pub fn read(map: &BTreeMap<String, String>) -> Result<Parameters, Status> {
        let mut p = Parameters::default();
        for (key, value) in
            map.iter().filter(|(k, _)| !k.starts_with(FOREIGN) && !k.starts_with("storage.kubernetes.io/"))
        {
            match key.as_str() {
                "repl" => p.replicas = replicas(value)?,
                "thin" => p.thin = flag(key, value)?,
                "local" => p.local = flag(key, value)?,
                "protocol" => match value.as_str() {
                    "nvmf" => {}
                    "iscsi" | "nbd" => {
                        let text = format!("parameter protocol: {value} is not offered by this release; nvmf is");
                        return Err(Status::invalid_argument(text));
                    }
                    _ => return Err(Status::invalid_argument(format!("parameter protocol: {value:?} is not nvmf"))),
                },
                "fsType" => {
                    if !FILE_SYSTEMS.contains(&value.as_str()) {
                        let known = FILE_SYSTEMS.join(", ");
                        let text = format!("parameter fsType: {value:?} is not supported; {known} are");
                        return Err(Status::invalid_argument(text));
                    }
                    p.fs = Some(value.clone());
                }
                "ctrlLossTmo" => p.connection.ctrl_loss_tmo = number(key, value, -1, 86_400)?,
                "reconnectDelay" => p.connection.reconnect_delay = number(key, value, 1, 600)?,
                "keepAlive" => p.connection.keep_alive = number(key, value, 1, 600)?,
                "ioQueues" => p.connection.io_queues = Some(number(key, value, 1, block::limits::IO_QUEUES)?),
                _ => return Err(Status::invalid_argument(format!("parameter {key:?} is not known"))),
            }
        }
        Ok(p)
    }

    /// Reads the parameters that may change in a volume's life: `None` when they change nothing.
    pub fn read_mutable(map: &BTreeMap<String, String>) -> Result<Option<u32>, Status> {
        let mut wanted = None;
        for (key, value) in map {
            match key.as_str() {
                "repl" => wanted = Some(replicas(value)?),
                _ => return Err(Status::invalid_argument(format!("parameter {key:?} cannot be changed; repl can"))),
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn good_parameters() {
        assert_eq!(Parameters::read(&map(&[])).unwrap(), Parameters::default());
        let p = Parameters::read(&map(&[
            ("repl", "3"),
            ("protocol", "nvmf"),
            ("fsType", "xfs"),
            ("thin", "true"),
            ("local", "true"),
            ("ctrlLossTmo", "-1"),
            ("ioQueues", "4"),
            ("csi.storage.k8s.io/pvc/name", "claim"),
        ]));
        let p = p.unwrap();
        assert_eq!((p.replicas, p.thin, p.local, p.fs.as_deref()), (3, true, true, Some("xfs")));
        assert_eq!((p.connection.ctrl_loss_tmo, p.connection.io_queues), (-1, Some(4)));
        assert_eq!(Parameters::read_mutable(&map(&[("repl", "2")])).unwrap(), Some(2));
        assert_eq!(Parameters::read_mutable(&map(&[])).unwrap(), None);
    }

    #[test]
    fn bad_parameters_are_invalid_arguments() {
        for (key, value) in [
            ("repl", "0"),
            ("repl", "17"),
            ("repl", "-1"),
            ("repl", "two"),
            ("repl", ""),
            ("repl", "99999999999"),
            ("replicas", "2"),
            ("Repl", "2"),
            ("protocol", ""),
            ("protocol", "tape"),
            ("protocol", "NVMF"),
            ("protocol", "iscsi"),
            ("protocol", "nbd"),
            ("fsType", "ntfs"),
            ("fsType", ""),
            ("thin", "yes"),
            ("thin", ""),
            ("local", "1"),
            ("ctrlLossTmo", "-2"),
            ("reconnectDelay", "0"),
            ("keepAlive", "x"),
            ("ioQueues", "65"),
            ("", ""),
        ] {
            let status = Parameters::read(&map(&[(key, value)])).expect_err(key);
            assert_eq!(status.code(), Code::InvalidArgument, "{key}={value}");
            assert!(status.message().contains(key), "{key}={value}: {}", status.message());
        }
        for (key, value) in [("repl", "0"), ("thin", "true"), ("nonsense", "")] {
            let status = Parameters::read_mutable(&map(&[(key, value)])).expect_err(key);
            assert_eq!(status.code(), Code::InvalidArgument, "{key}={value}");
        }
    }
}
