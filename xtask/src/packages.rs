//! The Debian packages that the suites need; building Mayastor needs none.

use std::path::Path;

use crate::{Result, shell};

/// A program that tells whether a package is there, and the package.
const GUEST: &[(&str, &str)] = &[
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
const CHAOS: &[(&str, &str)] =
    &[("/usr/sbin/ip", "iproute2"), ("/usr/sbin/tc", "iproute2"), ("/usr/bin/unshare", "util-linux")];

/// Installs what chaos lacks.
pub fn for_chaos() -> Result<()> {
    let missing: Vec<_> = CHAOS.iter().filter(|(file, _)| !Path::new(file).exists()).copied().collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// Installs what the test of the REST API lacks.
pub fn for_rest() -> Result<()> {
    install(&[("/usr/bin/python3", "python3"), ("/usr/share/doc/python3-venv", "python3-venv")])
}

const PAGE: &[(&str, &str)] = &[("/usr/bin/chromium", "chromium"), ("/usr/bin/chromedriver", "chromium-driver")];

/// Installs what the browser test lacks.
pub fn for_page() -> Result<()> {
    install(PAGE)
}

/// What speaks our protocols from outside.
const PROTOCOLS: &[(&str, &str)] = &[
    ("/usr/bin/iscsi-test-cu", "libiscsi-bin"),
    ("/usr/bin/qemu-img", "qemu-utils"),
    ("/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so", "qemu-block-extra"),
];

/// Installs what the protocol suite lacks.
pub fn for_protocols() -> Result<()> {
    install(PROTOCOLS)
}

/// Installs what the guest suite lacks.
pub fn for_guest() -> Result<()> {
    install(GUEST)
}

/// Programs for file systems.
const CSI: &[(&str, &str)] = &[
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/usr/sbin/mkfs.xfs", "xfsprogs"),
    ("/usr/bin/btrfs", "btrfs-progs"),
    ("/usr/sbin/blkid", "util-linux"),
];

/// Installs what the suite of the CSI driver lacks.
pub fn for_csi() -> Result<()> {
    install(CSI)
}

fn install(wanted: &[(&str, &str)]) -> Result<()> {
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
