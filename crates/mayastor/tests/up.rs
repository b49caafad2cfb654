//! `mayastor up` as a user meets it: the demo, a second one on the same directory, ports that are taken, and coming back.
#![allow(clippy::disallowed_methods, reason = "a black-box test")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

fn mayastor() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mayastor"))
}

/// The first of ten free ports in a row, below those that the system gives away.
fn ports(salt: u16) -> u16 {
    let start = 12_000 + u16::try_from(std::process::id() % 450).expect("small") * 40 + salt;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..500).map(|n| start.wrapping_add(n * 40)).find(|p| (*p..*p + 10).all(free)).expect("ten free ports")
}

fn directory(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("up-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

fn up(dir: &std::path::Path, grpc: u16, nvme: u16) -> Command {
    let mut command = mayastor();
    command.args(["up", "--pool-size", "512MiB", "--base-port", &grpc.to_string(), "--nvme-port", &nvme.to_string()]);
    command.args(["--http-port", "0"]).arg("--data-dir").arg(dir).env_remove("RUST_LOG");
    // Nothing of it may outlive a test that is killed.
    command.env("MAYASTOR_PARENT", std::process::id().to_string());
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A running `mayastor up`; it is killed when the test fails.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it and waits until it says that it is up.
fn started(mut command: Command) -> Up {
    let mut up = Up(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    let child = &mut up.0;
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(first.starts_with("Mayastor is up: 3 nodes"), "{first}");
    // Somebody must read the rest.
    std::thread::spawn(move || lines.for_each(drop));
    up
}

fn interrupt(mut up: Up) {
    let pid = rustix::process::Pid::from_child(&up.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert!(up.0.wait().expect("it ends").success());
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| state(*pid).is_some_and(|(_, ppid)| ppid == parent)).collect()
}

/// A process's state letter and its parent; nothing when there is no such process.
fn state(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[test]
fn no_engine_outlives_it_not_even_one_that_is_stopped() {
    let (dir, grpc, nvme) = (directory("killed"), ports(20), ports(30));
    let mut up = started(up(&dir, grpc, nvme));
    let engines = children(up.0.id());
    assert_eq!(engines.len(), 3);
    let stopped = rustix::process::Pid::from_raw(engines[0].cast_signed()).expect("a process");
    rustix::process::kill_process(stopped, rustix::process::Signal::STOP).expect("it runs");
    up.0.kill().expect("it runs");
    up.0.wait().expect("it ends");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // What nobody has waited for yet is gone too.
    while engines.iter().any(|pid| state(*pid).is_some_and(|(state, _)| state != 'Z')) {
        assert!(std::time::Instant::now() < end, "engines {engines:?} are still there");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn the_demo_keeps_its_promise() {
    let dir = directory("demo");
    let mut command = up(&dir, ports(0), ports(10));
    let output = command.args(["--demo", "--demo-size", "64MiB"]).output().expect("it runs");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for words in ["rebuilding a new copy", "the copies in", "are identical", "Every acknowledged byte is there"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!dir.exists(), "the demo tidies up");
}

#[test]
fn it_comes_back_as_it_was_and_is_alone() {
    let (dir, grpc, nvme) = (directory("back"), ports(5), ports(15));
    let control = format!("127.0.0.1:{}", grpc + 1);
    let client = |args: &[&str]| {
        let output = mayastor().args(["--control", &control]).args(args).output().expect("it runs");
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = started(up(&dir, grpc, nvme));
    let again = up(&dir, grpc + 4, nvme + 4).output().expect("it runs");
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert!(text(&again).contains("another `mayastor up` uses"), "{}", text(&again));
    let other = directory("other");
    let taken = up(&other, grpc, nvme).output().expect("it runs");
    assert_eq!(taken.status.code(), Some(1), "{}", text(&taken));
    assert!(text(&taken).contains(&format!("127.0.0.1:{grpc}")), "{}", text(&taken));

    let image = dir.join("image");
    let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&image, &bytes).expect("the image");
    let image = image.to_str().expect("text");
    client(&["volume", "create", "v", "--size", "64MiB", "-r", "2", "--wait"]);
    client(&["volume", "import", image, "v"]);
    let uri = client(&["-q", "volume", "publish", "v"]);
    interrupt(first);

    let second = started(up(&dir, grpc, nvme));
    client(&["volume", "show", "v", "--wait"]);
    assert!(client(&["volume", "list"]).contains(uri.trim()), "it is published where it was");
    let back = dir.join("back");
    client(&["volume", "export", "v", back.to_str().expect("text")]);
    assert!(std::fs::read(&back).expect("the export").starts_with(&bytes), "every byte is back");
    client(&["volume", "destroy", "v"]);
    assert!(client(&["volume", "list", "-q"]).is_empty());
    interrupt(second);
    for dir in [dir, other] {
        let _ = std::fs::remove_dir_all(dir);
    }
}
