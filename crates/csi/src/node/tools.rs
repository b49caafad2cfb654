//! File systems: which one is there, making, checking, growing. Done by each file system's own programs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tonic::Status;

/// How long a program may take: a check of a large file system is slow.
const LIMIT: Duration = Duration::from_secs(600);

struct Ran {
    code: i32,
    out: String,
    /// The last lines that it said.
    said: String,
}

async fn run(program: &str, words: &[&std::ffi::OsStr]) -> Result<Ran, Status> {
    let child = Command::new(program).args(words).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(LIMIT, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) => return Err(Status::internal(format!("{program} cannot be run: {e}"))),
        Err(_) => return Err(Status::internal(format!("{program} did not end within {} s", LIMIT.as_secs()))),
    };
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut said: Vec<String> = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    if said.is_empty() {
        said = out.lines().map(str::to_owned).collect();
    }
    let said = said[said.len().saturating_sub(3)..].join("; ");
    Ok(Ran { code: output.status.code().unwrap_or(-1), out, said })
}

/// What is on a device; `None` when it is blank.
pub(crate) async fn probe(device: &Path) -> Result<Option<String>, Status> {
    let words = ["-p", "-u", "filesystem,raid,crypto,other", "-o", "export"].map(std::ffi::OsStr::new);
    let ran = run("blkid", &[&words[..], &[device.as_os_str()]].concat()).await?;
    match ran.code {
        0 => {
            let value = |key: &str| ran.out.lines().find_map(|l| l.strip_prefix(key).map(str::to_owned));
            let found = value("TYPE=").or_else(|| value("PTTYPE=").map(|t| format!("partition table ({t})")));
            Ok(found)
        }
        2 => Ok(None),
        _ => Err(Status::internal(format!("blkid cannot tell what is on {}: {}", device.display(), ran.said))),
    }
}

/// Makes a file system on a blank device.
pub(crate) async fn make(device: &Path, fs: &str) -> Result<(), Status> {
    // Pools hand out zeroes, so nothing has to be discarded first.
    let words: &[&str] = match fs {
        "ext4" => &["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"],
        "xfs" => &["-q", "-f", "-K"],
        _ => &["-q", "-f", "-K"],
    };
    let words: Vec<&std::ffi::OsStr> = words.iter().map(std::ffi::OsStr::new).collect();
    let program = format!("mkfs.{fs}");
    let ran = run(&program, &[&words[..], &[device.as_os_str()]].concat()).await?;
    if ran.code != 0 {
        return Err(Status::internal(format!("{program} failed on {}: {}", device.display(), ran.said)));
    }
    Ok(())
}

/// Checks a file system before it is mounted and repairs what is safe to repair. xfs and btrfs do that in mounting.
pub(crate) async fn check(device: &Path, fs: &str) -> Result<(), Status> {
    if fs != "ext4" {
        return Ok(());
    }
    let ran = run("e2fsck", &["-p".as_ref(), device.as_os_str()]).await?;
    match ran.code {
        0 => Ok(()),
        1 => {
            tracing::warn!("the file system on {} was repaired: {}", device.display(), ran.out.trim());
            Ok(())
        }
        _ => {
            let text = format!("the file system on {} needs to be repaired by hand: {}", device.display(), ran.said);
            Err(Status::internal(text))
        }
    }
}

/// Lets a mounted file system fill its device.
pub(crate) async fn grow(device: &Path, point: &Path, fs: &str) -> Result<(), Status> {
    let (program, words): (&str, Vec<&std::ffi::OsStr>) = match fs {
        "ext4" => ("resize2fs", vec![device.as_os_str()]),
        "xfs" => ("xfs_growfs", vec!["-d".as_ref(), point.as_os_str()]),
        _ => ("btrfs", vec!["filesystem".as_ref(), "resize".as_ref(), "max".as_ref(), point.as_os_str()]),
    };
    let ran = run(program, &words).await?;
    if ran.code != 0 {
        return Err(Status::internal(format!("{program} failed on {}: {}", device.display(), ran.said)));
    }
    Ok(())
}
