//! The Debian packages that the suites need; building Mayastor needs none.

use std::path::Path;

use crate::{Result, shell};

/// A file that tells whether a package is there, and the package.
pub type Package = (&'static str, &'static str);

/// A virtual machine, its kernel and programs.
pub const GUEST: &[Package] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/busybox", "busybox-static"),
    ("/usr/bin/cpio", "cpio"),
    ("/usr/bin/kmod", "kmod"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/sbin/nvme", "nvme-cli"),
    ("/usr/sbin/iscsistart", "open-iscsi"),
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/usr/sbin/mkfs.xfs", "xfsprogs"),
    ("/usr/bin/fio", "fio"),
];

/// What makes the networks of chaos.
pub const CHAOS: &[Package] =
    &[("/usr/sbin/ip", "iproute2"), ("/usr/sbin/tc", "iproute2"), ("/usr/bin/unshare", "util-linux")];

/// A browser.
pub const PAGE: &[Package] = &[("/usr/bin/chromium", "chromium"), ("/usr/bin/chromedriver", "chromium-driver")];

/// What makes up requests for the REST API comes from Python's registry.
pub const REST: &[Package] = &[("/usr/bin/python3", "python3"), ("/usr/share/doc/python3-venv", "python3-venv")];

/// What a store may be kept in.
pub const STORES: &[Package] = &[("/usr/bin/etcd", "etcd-server")];

/// What speaks our protocols from outside.
pub const PROTOCOLS: &[Package] = &[
    ("/usr/bin/iscsi-test-cu", "libiscsi-bin"),
    ("/usr/bin/nbdinfo", "libnbd-bin"),
    ("/usr/bin/nbdsh", "python3-libnbd"),
    ("/usr/bin/fio", "fio"),
    ("/usr/bin/qemu-img", "qemu-utils"),
    ("/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so", "qemu-block-extra"),
];

/// What the API server stores into, and what makes its keys and a disk that is not ours. The API server is not in Debian.
pub const KUBERNETES: &[Package] = &[
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
];

/// Programs for file systems.
pub const CSI: &[Package] = &[
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/usr/sbin/mkfs.xfs", "xfsprogs"),
    ("/usr/bin/btrfs", "btrfs-progs"),
    ("/usr/sbin/blkid", "util-linux"),
];

/// Installs what is missing.
pub fn install(wanted: &[Package]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    // The guest's kernel is looked up in the package lists, so they must be there even when nothing is to be installed.
    let lists = std::fs::read_dir("/var/lib/apt/lists").is_ok_and(|d| d.flatten().any(|f| f.path().is_file()));
    let missing: Vec<&str> = wanted.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, p)| *p).collect();
    if missing.is_empty() && lists {
        return Ok(());
    }
    println!("installing {}", if missing.is_empty() { "the package lists".into() } else { missing.join(" ") });
    let (program, first): (&str, &[&str]) = if is_root() { ("apt-get", &[]) } else { ("sudo", &["apt-get"]) };
    shell::run(program, &[first, &["update", "-qq"]].concat())?;
    if !missing.is_empty() {
        shell::run(program, &[first, &["install", "-y", "-qq", "--no-install-recommends"], &missing[..]].concat())?;
    }
    Ok(())
}

/// Whether this is root.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t")))
}
