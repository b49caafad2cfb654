//! Files and loop devices pass the checks that every disk has to pass.
#![allow(clippy::disallowed_methods, reason = "the test makes files")]

use std::path::{Path, PathBuf};
use std::process::Command;

use block::{BlockSize, Fault, Request};
use host::conformance::check_disk;
use host::{Claim, DiskExt, OpenError, OpenOptions};
use ring::{Options, run};

const EXCLUSIVE: Claim = Claim::Exclusive;

/// A directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        Dir::under(&std::env::temp_dir(), name)
    }
    fn under(parent: &Path, name: &str) -> Dir {
        let path = parent.join(format!("ring-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Dir(path)
    }
    fn file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.0.join(name);
        std::fs::File::create(&path).and_then(|f| f.set_len(len)).expect("a file");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn check(path: &Path, block_size: BlockSize) {
    let path = path.to_path_buf();
    run(Options::default(), move |host| async move {
        let disk = host.open_disk(&path, OpenOptions { block_size, claim: EXCLUSIVE }).await.expect("it opens");
        assert_eq!(disk.geometry().block_size, block_size);
        check_disk(&host, disk).await;
    });
}

#[test]
fn a_file_is_a_disk() {
    let dir = Dir::new("file");
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        check(&dir.file("disk", 8 << 20), block_size);
    }
}

#[test]
fn a_file_in_memory_is_a_disk() {
    if !Path::new("/dev/shm").is_dir() {
        eprintln!("SKIPPED: there is no /dev/shm");
        return;
    }
    let dir = Dir::under(Path::new("/dev/shm"), "tmpfs");
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        check(&dir.file("disk", 8 << 20), block_size);
    }
}

/// A loop device that goes away with the test.
struct Loop(String);

impl Loop {
    fn new(file: &Path, sector: u32) -> Option<Loop> {
        let made = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on", "--sector-size", &sector.to_string()])
            .arg(file)
            .output();
        match made {
            Ok(out) if out.status.success() => Some(Loop(String::from_utf8_lossy(&out.stdout).trim().to_owned())),
            Ok(out) => {
                eprintln!("SKIPPED: no loop device: {}", String::from_utf8_lossy(&out.stderr).trim());
                None
            }
            Err(e) => {
                eprintln!("SKIPPED: no losetup: {e}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let dir = Dir::new("loop");
    for (sector, block_sizes) in [(512, &[BlockSize::B512, BlockSize::B4096][..]), (4096, &[BlockSize::B4096])] {
        let file = dir.file(&format!("disk{sector}"), 8 << 20);
        let Some(device) = Loop::new(&file, sector) else { return };
        for &block_size in block_sizes {
            check(Path::new(&device.0), block_size);
        }
    }
}

#[test]
fn a_block_device_has_one_owner_and_keeps_its_block_size() {
    let dir = Dir::new("loop-claim");
    let file = dir.file("disk", 8 << 20);
    let Some(device) = Loop::new(&file, 4096) else { return };
    let path = device.0.clone();
    run(Options::default(), move |host| async move {
        let open = |block_size, claim| host.open_disk(&path, OpenOptions { block_size, claim });
        let refused = open(BlockSize::B512, EXCLUSIVE).await.err().expect("larger blocks");
        assert!(matches!(&refused, OpenError::Invalid(why) if why.contains("4096")), "{refused}");
        let disk = open(BlockSize::B4096, EXCLUSIVE).await.expect("it is free");
        assert!(matches!(open(BlockSize::B4096, EXCLUSIVE).await.err(), Some(OpenError::Busy)));
        open(BlockSize::B4096, Claim::ReadOnly).await.expect("looking is allowed");
        drop(disk);
        open(BlockSize::B4096, EXCLUSIVE).await.expect("it is free again");
    });
}

#[test]
fn a_file_has_one_owner() {
    let dir = Dir::new("claim");
    let path = dir.file("disk", 1 << 20);
    let other = dir.0.join("other-name");
    std::fs::hard_link(&path, &other).expect("a second name");
    run(Options::default(), move |host| async move {
        let open =
            |path: &Path, claim| host.open_disk(path.to_owned(), OpenOptions { block_size: BlockSize::B512, claim });
        let disk = open(&path, EXCLUSIVE).await.expect("it is free");
        assert!(matches!(open(&path, EXCLUSIVE).await.err(), Some(OpenError::Busy)));
        assert!(matches!(open(&other, EXCLUSIVE).await.err(), Some(OpenError::Busy)));
        let look = open(&path, Claim::ReadOnly).await.expect("looking is allowed");
        look.read(look.geometry().all()).await.expect("a read");
        let range = look.geometry().all();
        assert_eq!(look.call(Request::Unmap { range }).await.err(), Some(Fault::Unsupported));
        drop(disk);
        open(&other, EXCLUSIVE).await.expect("it is free again");
    });
}

#[test]
fn another_process_has_the_file() {
    let dir = Dir::new("lock");
    let path = dir.file("disk", 1 << 20);
    // `flock` waits for its input to end with the lock in hand.
    let started = Command::new("flock")
        .arg("--exclusive")
        .arg(&path)
        .args(["sh", "-c", "echo locked; cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut holder) = started else {
        eprintln!("SKIPPED: no flock command");
        return;
    };
    let mut line = String::new();
    let out = holder.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
    let options = OpenOptions { block_size: BlockSize::B512, claim: EXCLUSIVE };
    let refused = run(Options::default(), move |host| async move { host.open_disk(path, options).await.err() });
    drop(holder.stdin.take());
    holder.wait().expect("it ends");
    assert!(matches!(refused, Some(OpenError::Busy)), "{refused:?}");
}

#[test]
fn what_is_no_disk_is_refused() {
    let dir = Dir::new("refused");
    let (empty, here) = (dir.file("empty", 100), dir.0.clone());
    run(Options::default(), move |host| async move {
        let open = |path: PathBuf| host.open_disk(path, OpenOptions { block_size: BlockSize::B512, claim: EXCLUSIVE });
        assert!(matches!(open(here.join("missing")).await.err(), Some(OpenError::NotFound)));
        assert!(matches!(open(here.join("empty/missing")).await.err(), Some(OpenError::NotFound)));
        assert!(matches!(open(here.clone()).await.err(), Some(OpenError::Invalid(_))));
        assert!(matches!(open("/dev/null".into()).await.err(), Some(OpenError::Invalid(_))));
        assert!(matches!(open(empty).await.err(), Some(OpenError::Invalid(_))));
    });
}

#[test]
fn a_file_that_was_cut_short_fails_loudly() {
    let dir = Dir::new("cut");
    let path = dir.file("disk", 1 << 20);
    run(Options::default(), move |host| async move {
        let options = OpenOptions { block_size: BlockSize::B4096, claim: EXCLUSIVE };
        let disk = host.open_disk(&path, options).await.expect("it opens");
        std::fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(10 << 10)).expect("cut");
        assert_eq!(disk.read(disk.geometry().all()).await, Err(Fault::Medium));
    });
}

#[test]
fn a_dropped_disk_still_answers() {
    const REQUESTS: u64 = 20_000;
    let dir = Dir::new("drop");
    let path = dir.file("disk", 8 << 20);
    run(Options::default(), move |host| async move {
        let options = OpenOptions { block_size: BlockSize::B4096, claim: EXCLUSIVE };
        let disk = host.open_disk(&path, options.clone()).await.expect("it opens");
        let answers = host::Queue::default();
        // More than the rings hold.
        for i in 0..REQUESTS {
            let range = block::BlockRange::new(i % 2048, 1);
            let (answers, data) = (answers.clone(), block::Buf::zeroes(4096));
            let request = Request::Write { range, data, durability: block::Durability::Volatile };
            disk.submit(request, block::Ticket::new(move |outcome| answers.push(outcome.is_ok())));
        }
        drop(disk);
        for _ in 0..REQUESTS {
            assert!(answers.next().await, "a write of a disk that was dropped");
        }
        host.open_disk(&path, options).await.expect("it is free again");
    });
}

/// A mounted file system that goes away with the test.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf, args: &[&str]) -> Option<Mount> {
        std::fs::create_dir_all(&at).expect("a directory");
        let done = Command::new("mount").args(args).arg(&at).output();
        match done {
            Ok(out) if out.status.success() => Some(Mount(at)),
            Ok(out) => {
                eprintln!("SKIPPED: no mount: {}", String::from_utf8_lossy(&out.stderr).trim());
                None
            }
            Err(e) => {
                eprintln!("SKIPPED: no mount: {e}");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_file_system_is_no_space() {
    let dir = Dir::new("full");
    let Some(mount) = Mount::new(dir.0.join("mnt"), &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) else { return };
    let path = mount.0.join("disk");
    std::fs::File::create(&path).and_then(|f| f.set_len(8 << 20)).expect("a sparse file");
    run(Options::default(), move |host| async move {
        let options = OpenOptions { block_size: BlockSize::B4096, claim: EXCLUSIVE };
        let disk = host.open_disk(&path, options).await.expect("it opens");
        let (range, data) = (block::BlockRange::new(0, 512), block::Buf::zeroes(2 << 20));
        let full = disk.write(range, data.clone(), block::Durability::Volatile).await;
        assert_eq!(full, Err(Fault::NoSpace));
        disk.unmap(range).await.expect("space can be given back");
        let (range, data) = (block::BlockRange::new(1024, 64), data.slice(0..256 << 10));
        disk.write(range, data, block::Durability::Durable).await.expect("there is room again");
        disk.flush().await.expect("a flush");
    });
}

#[test]
fn a_file_system_with_large_blocks_serves_small_ones() {
    let dir = Dir::new("large");
    let Some(device) = Loop::new(&dir.file("image", 64 << 20), 4096) else { return };
    let made = Command::new("mkfs.ext4").args(["-q", "-b", "4096", &device.0]).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no mkfs.ext4");
        return;
    }
    let Some(mount) = Mount::new(dir.0.join("mnt"), &[&device.0]) else { return };
    let path = mount.0.join("disk");
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        std::fs::File::create(&path).and_then(|f| f.set_len(8 << 20)).expect("a file");
        check(&path, block_size);
    }
}

#[test]
fn a_device_that_fails_is_a_medium_error() {
    let dir = Dir::new("eio");
    let file = dir.file("disk", 8 << 20);
    let Some(device) = Loop::new(&file, 512) else { return };
    let path = device.0.clone();
    run(Options::default(), move |host| async move {
        let options = OpenOptions { block_size: BlockSize::B512, claim: EXCLUSIVE };
        let disk = host.open_disk(&path, options).await.expect("it opens");
        std::fs::OpenOptions::new().write(true).open(&file).and_then(|f| f.set_len(1 << 20)).expect("cut");
        let (there, lost) = (block::BlockRange::new(0, 8), block::BlockRange::new(8192, 8));
        disk.read(there).await.expect("what is left can be read");
        assert_eq!(disk.read(lost).await, Err(Fault::Medium));
    });
}
