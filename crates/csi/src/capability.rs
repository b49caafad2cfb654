//! What a volume can be used for, and as what.

use api::csi;
use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessType, MountVolume};
use tonic::Status;

/// The file systems that the node plugin makes, checks and grows.
pub const FILE_SYSTEMS: &[&str] = &["ext4", "xfs", "btrfs"];

/// As what a volume is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a block device.
    Block,
    /// As a file system.
    Mount(Mount),
}

/// A file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `None`: the StorageClass or the default says.
    pub fs: Option<String>,
    /// Options of mount(8).
    pub flags: Vec<String>,
}

/// A capability that was understood and that volumes have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// As what.
    pub access: Access,
    /// By whom.
    pub mode: Mode,
}

impl Capability {
    /// Reads a capability; INVALID_ARGUMENT when it is malformed or not among those that volumes have.
    pub fn read(wire: Option<&csi::VolumeCapability>) -> Result<Capability, Status> {
        let wire = wire.ok_or_else(|| Status::invalid_argument("the volume's capability is missing"))?;
        let mode = wire.access_mode.as_ref().and_then(|m| Mode::try_from(m.mode).ok()).unwrap_or(Mode::Unknown);
        if mode == Mode::Unknown {
            return Err(Status::invalid_argument("the access mode is missing or not known"));
        }
        let access = match &wire.access_type {
            None => return Err(Status::invalid_argument("the access type is missing: block or mount")),
            Some(AccessType::Block(_)) => Access::Block,
            Some(AccessType::Mount(mount)) => Access::Mount(read_mount(mount)?),
        };
        let capability = Capability { access, mode };
        if let Access::Mount(_) = capability.access
            && matches!(mode, Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter)
        {
            let text = "a file system cannot be written while other nodes have it mounted; use volumeMode: Block, or \
                        ReadWriteOnce, or ReadOnlyMany";
            return Err(Status::invalid_argument(text));
        }
        Ok(capability)
    }

    /// Reads all of a request's capabilities; there must be one at least.
    pub fn read_all(wire: &[csi::VolumeCapability]) -> Result<Vec<Capability>, Status> {
        if wire.is_empty() {
            return Err(Status::invalid_argument("the volume's capabilities are missing"));
        }
        wire.iter().map(|c| Capability::read(Some(c))).collect()
    }

    /// Whether several nodes may have the volume at the same time.
    pub fn is_shared(&self) -> bool {
        matches!(self.mode, Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter)
    }

    /// Whether nobody writes.
    pub fn is_read_only(&self) -> bool {
        matches!(self.mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly)
    }
}

fn read_mount(mount: &MountVolume) -> Result<Mount, Status> {
    let fs = match mount.fs_type.as_str() {
        "" => None,
        known if FILE_SYSTEMS.contains(&known) => Some(known.to_owned()),
        other => {
            let known = FILE_SYSTEMS.join(", ");
            return Err(Status::invalid_argument(format!("file system {other:?} is not supported; {known} are")));
        }
    };
    if !mount.volume_mount_group.is_empty() {
        return Err(Status::invalid_argument("a volume mount group is not supported; use the pod's fsGroup"));
    }
    for flag in &mount.mount_flags {
        check_flag(flag)?;
    }
    Ok(Mount { fs, flags: mount.mount_flags.clone() })
}

/// Options that would break what the plugin relies on, or that are no options.
fn check_flag(flag: &str) -> Result<(), Status> {
    let bad = |why: &str| Err(Status::invalid_argument(format!("mount option {flag:?}: {why}")));
    if flag.is_empty() || flag.chars().any(|c| c.is_control() || c == ',' || c.is_whitespace()) {
        return bad("it is empty or has a comma, a blank or a control character in it");
    }
    match flag.split('=').next().unwrap_or_default() {
        "bind" | "rbind" | "move" | "remount" | "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate"
        | "unbindable" | "runbindable" => bad("it says how to mount, which the plugin decides"),
        "device" | "loop" | "offset" | "sizelimit" | "logdev" | "rtdev" => bad("it would name another device"),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use csi::volume_capability::{AccessMode, BlockVolume};
    use tonic::Code;

    pub(crate) fn block(mode: Mode) -> csi::VolumeCapability {
        let access_type = Some(AccessType::Block(BlockVolume {}));
        csi::VolumeCapability { access_mode: Some(AccessMode { mode: mode as i32 }), access_type }
    }
    pub(crate) fn mount(mode: Mode, fs: &str, flags: &[&str]) -> csi::VolumeCapability {
        let mount = MountVolume {
            fs_type: fs.into(),
            mount_flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            ..Default::default()
        };
        let access_mode = Some(AccessMode { mode: mode as i32 });
        csi::VolumeCapability { access_mode, access_type: Some(AccessType::Mount(mount)) }
    }

    #[test]
    fn what_volumes_have() {
        use Mode::*;
        for mode in [
            SingleNodeWriter,
            SingleNodeReaderOnly,
            MultiNodeReaderOnly,
            MultiNodeSingleWriter,
            MultiNodeMultiWriter,
            SingleNodeSingleWriter,
            SingleNodeMultiWriter,
        ] {
            assert!(Capability::read(Some(&block(mode))).is_ok(), "{mode:?}");
            let shared_writer = matches!(mode, MultiNodeSingleWriter | MultiNodeMultiWriter);
            assert_eq!(Capability::read(Some(&mount(mode, "xfs", &[]))).is_ok(), !shared_writer, "{mode:?}");
        }
    }

    #[test]
    fn bad_capabilities_are_invalid_arguments() {
        let mode = Mode::SingleNodeWriter;
        let mut untyped = block(mode);
        untyped.access_type = None;
        let mut modeless = block(mode);
        modeless.access_mode = None;
        let mut strange = block(mode);
        strange.access_mode = Some(AccessMode { mode: 99 });
        let mut grouped = mount(mode, "", &[]);
        if let Some(AccessType::Mount(m)) = &mut grouped.access_type {
            m.volume_mount_group = "1000".into();
        }
        let bad = [
            ("no type", untyped),
            ("no mode", modeless),
            ("mode 99", strange),
            ("group", grouped),
            ("mode 0", block(Mode::Unknown)),
            ("ntfs", mount(mode, "ntfs", &[])),
            ("EXT4", mount(mode, "EXT4", &[])),
            ("empty flag", mount(mode, "", &[""])),
            ("two flags in one", mount(mode, "", &["noatime,bind"])),
            ("bind", mount(mode, "", &["bind"])),
            ("remount", mount(mode, "", &["remount"])),
            ("other device", mount(mode, "xfs", &["logdev=/dev/sda"])),
            ("newline", mount(mode, "", &["no\natime"])),
        ];
        for (what, wire) in bad {
            let status = Capability::read(Some(&wire)).expect_err(what);
            assert_eq!(status.code(), Code::InvalidArgument, "{what}");
        }
        assert_eq!(Capability::read(None).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(Capability::read_all(&[]).unwrap_err().code(), Code::InvalidArgument);
        assert!(Capability::read(Some(&mount(mode, "", &["noatime", "discard", "data=ordered"]))).is_ok());
    }
}
