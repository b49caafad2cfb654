//! The REST API against its own OpenAPI document: schemathesis makes up requests, valid and not, and judges the answers.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{Result, shell};

/// The version that the test was written with.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// Which requests, so that a failure can be repeated.
const SEED: &str = "20261122";

/// Runs it.
pub fn run() -> Result<()> {
    let root = shell::root();
    let venv = root.join("target/schemathesis");
    let tool = venv.join("bin/schemathesis");
    if !tool.exists() {
        shell::run("python3", &["-m", "venv", text(&venv)?])?;
        shell::run(text(&venv.join("bin/pip"))?, &["install", "--quiet", SCHEMATHESIS])?;
    }
    for auth in [Auth::Off, Auth::On] {
        judge(&root, &tool, auth)?;
    }
    Ok(())
}

/// Whether the control plane wants a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Off,
    On,
}

fn judge(root: &Path, tool: &Path, auth: Auth) -> Result<()> {
    let data = std::env::temp_dir().join(format!("mayastor-rest-{}", std::process::id()));
    let (up, port) = start(&root.join("target/release/mayastor"), &data, auth)?;
    let document = format!("http://127.0.0.1:{port}/openapi.json");
    let common = ["run", &document, "--seed", SEED, "--max-examples", "40", "--request-timeout", "60", "--no-color"];
    let mut common = common.map(str::to_owned).to_vec();
    if auth == Auth::On {
        let token = std::fs::read_to_string(data.join("cluster.token"))?;
        common.extend(["--header".to_owned(), format!("Authorization: Bearer {}", token.trim())]);
    }
    let common: Vec<&str> = common.iter().map(String::as_str).collect();
    let judged = || -> Result<()> {
        // A stream has no end to judge.
        let others = ["--exclude-path", "/v1/watch", "--exclude-operation-id", "create_pool"];
        shell::run(text(tool)?, &[&common[..], &others].concat())?;
        // What a node makes of the path of a disk no schema can say.
        let pools = ["--include-operation-id", "create_pool", "--exclude-checks", "positive_data_acceptance"];
        shell::run(text(tool)?, &[&common[..], &pools].concat())
    };
    let result = judged();
    drop(up);
    let _ = std::fs::remove_dir_all(&data);
    result
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| "a path that is no text".into())
}

/// A cluster that ends when it is dropped.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        // Its engines end with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, data: &Path, auth: Auth) -> Result<(Up, u16)> {
    let first = 14_000 + u16::try_from(std::process::id() % 400)? * 20;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let base = (0..400).map(|n| first.wrapping_add(n * 20)).find(|p| (*p..*p + 12).all(free));
    let base = base.ok_or("there are no twelve free ports")?;
    let port = |n: u16| (base + n).to_string();
    let mut child = Command::new(program)
        .args(["up", "--nodes", "2", "--pool-size", "1GiB", "--base-port", &port(0), "--http-port", &port(6)])
        .args(["--nvme-port", &port(8), "--data-dir"])
        .arg(data)
        .args(["--auth", if auth == Auth::On { "on" } else { "off" }])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let up = Up(child);
    println!("{}", lines.next().ok_or("mayastor up said nothing")??);
    // Somebody must read the rest.
    std::thread::spawn(move || lines.for_each(drop));
    Ok((up, base + 6))
}
