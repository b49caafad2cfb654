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
    let start = 12_000 + u16::try_from(std::process::id() % 900).expect("small") * 20 + salt;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..500).map(|n| start.wrapping_add(n * 20)).find(|p| (*p..*p + 10).all(free)).expect("ten free ports")
}

fn directory(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("up-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

fn up(dir: &std::path::Path, grpc: u16, nvme: u16) -> Command {
    let mut command = mayastor();
    command.args(["up", "--pool-size", "512MiB", "--base-port", &grpc.to_string(), "--nvme-port", &nvme.to_string()]);
    command.arg("--data-dir").arg(dir).env_remove("RUST_LOG");
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Starts it and waits until it says that it is up.
fn started(mut command: Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(first.starts_with("Mayastor is up: 3 nodes"), "{first}");
    // Somebody must read the rest.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn interrupt(mut child: Child) {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert!(child.wait().expect("it ends").success());
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
