//! What is mounted where, and mounting.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tonic::Status;

/// A mount of this process's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Where.
    pub point: PathBuf,
    /// The device of the file system (st_dev).
    pub device: u64,
    /// What of that file system is seen here: `/` unless it is a bind mount.
    pub root: PathBuf,
    /// Its kind.
    pub fs: String,
    /// Whether it, or its file system, refuses writes.
    pub read_only: bool,
    /// Whether the file system as a whole refuses writes, as after an error.
    pub fs_read_only: bool,
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (mut bytes, raw) = (Vec::new(), text.as_bytes());
    let mut at = 0;
    while at < raw.len() {
        let octal = raw.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()).filter(|_| raw[at] == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                at += 4;
            }
            None => {
                bytes.push(raw[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// One line of `/proc/self/mountinfo`.
fn parse(line: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (major, minor) = left.next()?.split_once(':')?;
    let (root, point, options) = (left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (fs, _source, super_options) = (right.next()?, right.next()?, right.next().unwrap_or_default());
    let says = |options: &str, word: &str| options.split(',').any(|o| o == word);
    Some(Mounted {
        point: unescape(point),
        device: rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?),
        root: unescape(root),
        fs: fs.to_owned(),
        read_only: says(options, "ro") || says(super_options, "ro"),
        fs_read_only: says(super_options, "ro"),
    })
}

/// All mounts, in the order in which they were made.
pub(crate) fn all() -> io::Result<Vec<Mounted>> {
    Ok(std::fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(parse).collect())
}

/// The topmost mount at a path.
pub(crate) fn at(path: &Path) -> io::Result<Option<Mounted>> {
    Ok(all()?.into_iter().rfind(|m| m.point == path))
}

/// The number of a device node (st_rdev).
pub(crate) fn device_number(path: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(path)?.rdev())
}

/// The device number that a file system on the device is mounted under. (btrfs has numbers of its own, so the caller
/// compares by the device's name for it.)
pub(crate) fn is_of(mount: &Mounted, device: &Path) -> bool {
    let Ok(number) = device_number(device) else { return false };
    if mount.device == number {
        return true;
    }
    let Ok(text) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    text.lines().any(|line| {
        let source = line.split_once(" - ").and_then(|(_, right)| right.split(' ').nth(1));
        source.is_some_and(|s| unescape(s) == device) && parse(line).is_some_and(|m| m == *mount)
    })
}

/// Runs what may block for long on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(format!("a thread failed: {e}")))
}

/// Splits options of mount(8) into the kernel's flags and what the file system gets.
pub(crate) fn options(words: &[String]) -> (MountFlags, String) {
    let (mut flags, mut rest) = (MountFlags::empty(), Vec::new());
    for word in words {
        match word.as_str() {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => flags -= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            "silent" => flags |= MountFlags::SILENT,
            "defaults" | "suid" | "dev" | "exec" | "async" | "atime" | "diratime" | "loud" => {}
            other => rest.push(other),
        }
    }
    (flags, rest.join(","))
}

fn failed(what: &str, path: &Path, e: Errno) -> Status {
    Status::internal(format!("cannot {what} {}: {e}", path.display()))
}

/// Mounts a file system.
pub(crate) async fn mount(device: &Path, point: &Path, fs: &str, words: &[String]) -> Result<(), Status> {
    let (flags, data) = options(words);
    let (device, point, fs) = (device.to_owned(), point.to_owned(), fs.to_owned());
    blocking(move || {
        let data = std::ffi::CString::new(data).map_err(|_| Status::invalid_argument("a mount option has a NUL"))?;
        let done = rustix::mount::mount(&device, &point, fs.as_str(), flags, Some(data.as_c_str()));
        done.map_err(|e| {
            let (device, point) = (device.display(), point.display());
            Status::internal(format!("cannot mount {device} as {fs} at {point}: {e}"))
        })
    })
    .await?
}

/// Shows what is at `from` at `to` too.
pub(crate) async fn bind(from: &Path, to: &Path) -> Result<(), Status> {
    let (from, to) = (from.to_owned(), to.to_owned());
    blocking(move || rustix::mount::mount_bind(&from, &to).map_err(|e| failed("bind-mount to", &to, e))).await?
}

/// Makes a bind mount refuse writes, without touching the file system under it.
pub(crate) async fn bind_read_only(point: &Path) -> Result<(), Status> {
    let point = point.to_owned();
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    blocking(move || rustix::mount::mount_remount(&point, flags, "").map_err(|e| failed("make read-only", &point, e)))
        .await?
}

/// Unmounts whatever is mounted at the path, however often. A mount that is busy is an error, unless `lazily`.
pub(crate) async fn unmount_all(point: &Path, lazily: bool) -> Result<(), Status> {
    let point = point.to_owned();
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    blocking(move || {
        loop {
            match rustix::mount::unmount(&point, flags) {
                Ok(()) => {}
                Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                Err(e) => return Err(failed("unmount", &point, e)),
            }
        }
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let line = r"36 35 7:3 /sub /mnt/a\040b rw,noatime shared:7 - ext4 /dev/loop3 rw,errors=continue";
        let m = parse(line).unwrap();
        assert_eq!((m.point.as_path(), m.root.as_path()), (Path::new("/mnt/a b"), Path::new("/sub")));
        assert_eq!(
            (m.device, m.fs.as_str(), m.read_only, m.fs_read_only),
            (rustix::fs::makedev(7, 3), "ext4", false, false)
        );
        let bound = parse("1 2 7:3 / /t ro - xfs /dev/loop3 rw").unwrap();
        assert!(bound.read_only && !bound.fs_read_only);
        let failed = parse("1 2 7:3 / /t rw master:1 - xfs /dev/loop3 ro").unwrap();
        assert!(failed.read_only && failed.fs_read_only);
        assert_eq!(parse("nonsense"), None);
        assert!(all().unwrap().iter().any(|m| m.point == Path::new("/")));
    }

    #[test]
    fn options_become_flags_or_go_to_the_file_system() {
        let words: Vec<String> = ["noatime", "ro", "discard", "data=ordered", "defaults"].map(String::from).into();
        let (flags, data) = options(&words);
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::RDONLY);
        assert_eq!(data, "discard,data=ordered");
        assert_eq!(options(&["ro".into(), "rw".into()]).0, MountFlags::empty());
    }
}
