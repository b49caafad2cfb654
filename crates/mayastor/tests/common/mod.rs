//! Real processes of the program, for black-box tests: no fixed ports, nothing left behind.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_methods, reason = "tests own files, sockets and processes")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The program.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mayastor"));
    for name in [
        "MAYASTOR_ENGINE",
        "MAYASTOR_CONTROL",
        "MY_POD_IP",
        "MY_NODE_NAME",
        "RUST_LOG",
        "MAYASTOR_TOKEN",
        "MAYASTOR_TOKEN_FILE",
        "MAYASTOR_TOKENS",
    ] {
        command.env_remove(name);
    }
    command
}

/// A directory of this test, removed at its end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mayastor-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Dir(path)
    }
    /// A sparse file.
    pub fn disk(&self, name: &str, mib: u64) -> String {
        let path = self.0.join(name);
        std::fs::File::create(&path).and_then(|file| file.set_len(mib << 20)).expect("a sparse file");
        path.display().to_string()
    }
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running engine. It is killed at the end of the test, as a crash would.
pub struct Engine {
    process: Child,
    /// `host:port` of gRPC.
    pub grpc: String,
    /// `host:port` of NVMe/TCP.
    pub nvme: String,
    /// The rest of its standard output keeps the pipe open.
    _stdout: BufReader<std::process::ChildStdout>,
}

impl Engine {
    /// Starts one on ports of the system's choosing and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Engine {
        let mut command = program();
        command.args(["engine", "-g", "127.0.0.1:0", "-L", "warn"]);
        if !arguments.contains(&"--nvme") {
            command.args(["--nvme", "127.0.0.1:0"]);
        }
        // It must not outlive a test that is killed.
        command.env("MAYASTOR_PARENT", std::process::id().to_string());
        let mut process = command.args(arguments).stdout(Stdio::piped()).spawn().expect("the engine starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let ready = line.trim_end().split_once(" ready: gRPC ").and_then(|(_, rest)| rest.split_once(", NVMe/TCP "));
        let Some((grpc, nvme)) = ready else { panic!("not the line of an engine that is ready: {line:?}") };
        Engine { process, grpc: grpc.into(), nvme: nvme.into(), _stdout: stdout }
    }
    /// Asks it to stop, and waits until it has.
    pub fn terminate(mut self) -> ExitStatus {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        self.process.wait().expect("it ends")
    }
    /// Kills it, as a crash would.
    pub fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }
    /// Runs a client command against it.
    pub fn client(&self, line: &str) -> Run {
        client(&["--engine", &self.grpc], line)
    }
    /// Runs a command of v0.3.0's client against it.
    pub fn legacy(&self, dir: &Dir, line: &str) -> Run {
        let link = dir.0.join("mayastor-client");
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mayastor"), &link).expect("a link");
        }
        let (host, port) = self.grpc.split_once(':').expect("host:port");
        let output = Command::new(&link).args(["-a", host, "-p", port]).args(words(line)).output();
        Run::from(&output.expect("the client runs"))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<&Output> for Run {
    fn from(output: &Output) -> Run {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let code = output.status.code().expect("not killed");
        Run { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Run {
    /// What it printed; it must have succeeded and said nothing else.
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
    }
    /// What it complained of, one line without anything on stdout; it must have ended with this code.
    pub fn fails(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        assert!(self.stderr.starts_with("error: ") && self.stderr.trim_end().lines().count() == 1, "{self:?}");
        self.stderr.trim_start_matches("error: ").trim_end().to_owned()
    }
}

/// Runs a command that ends by itself; one that does not is ended after a minute, with code 124.
pub fn client(globals: &[&str], line: &str) -> Run {
    let program = program();
    let mut command = Command::new("timeout");
    for (name, value) in program.get_envs() {
        assert!(value.is_none(), "variables are only removed");
        command.env_remove(name);
    }
    command.args(["-k", "1", "60"]).arg(program.get_program()).args(globals).args(words(line));
    Run::from(&command.output().expect("the program runs"))
}

/// Words of a command line; single quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("one at least").push(c),
        }
    }
    words.into_iter().filter(|word| !word.is_empty()).collect()
}

/// A port that nobody listens on. It lies below those that the system gives away by itself, so that nobody gets it by
/// chance while an engine is away.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = 11_000 + u16::try_from(n).expect("small");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The size that a file takes on its file system, in bytes.
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).expect("a file").blocks() * 512
}

/// A connection for calls without the client.
pub async fn channel(address: &str) -> tonic::transport::Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("a connection")
}

/// Something that runs calls.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio")
}
