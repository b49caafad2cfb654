//! The API server, two control planes, three engines.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::api::Api;
use crate::service::Service;

/// The addresses of the control planes, as pods would have them.
const CONTROLS: [&str; 2] = ["10.78.0.1:10125", "10.78.0.2:10125"];
/// The Service that engines and clients use.
pub const SERVICE: &str = "127.0.0.1:10125";
/// The file with the cluster's token.
const TOKEN: &str = "token";
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Everything. Its processes end with this value.
pub struct Cluster {
    pub api: Api,
    pub folder: PathBuf,
    program: PathBuf,
    service: Service,
    controls: [Option<Child>; 2],
    engines: BTreeMap<usize, Child>,
}

impl Cluster {
    /// Starts the API server alone.
    pub fn start(program: &Path, folder: &Path) -> Result<Cluster> {
        let program = program.canonicalize().map_err(|e| format!("{}: {e}; build it first", program.display()))?;
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        // The parts of a cluster know each other by a token.
        fs::write(folder.join(TOKEN), "0123456789abcdef".repeat(4))?;
        run("chmod", &["600", &folder.join(TOKEN).display().to_string()])?;
        let api = Api::start(&folder)?;
        let service = Service::start(SERVICE.parse()?)?;
        Ok(Cluster { api, folder, program, service, controls: [None, None], engines: BTreeMap::new() })
    }

    /// Starts a control plane with the permissions of its service account.
    pub fn start_control(&mut self, which: usize) -> Result<()> {
        let config = self.api.config("operator");
        let child = spawn(&self.program, &self.folder, &format!("control-{which}"), |c| {
            c.args(["control", "--store", "kubernetes", "--grpc", CONTROLS[which], "--http", "none"]);
            c.args(["--kubernetes-service", "mayastor-control", "--node-grace", "5", "--lease", "10"]);
            c.env("KUBECONFIG", config);
        })?;
        self.controls[which] = Some(child);
        Ok(())
    }

    /// Sends a signal to a control plane.
    pub fn signal(&mut self, which: usize, signal: &str) -> Result<()> {
        let child = self.controls[which].as_ref().ok_or("it does not run")?;
        run("kill", &[signal, &child.id().to_string()])?;
        if signal == "-9" {
            let mut child = self.controls[which].take().ok_or("it does not run")?;
            child.wait()?;
        }
        Ok(())
    }

    /// Which control plane leads, as the EndpointSlice says; connections to the Service go there.
    pub fn leader(&mut self) -> Option<usize> {
        let slice = self.get("endpointslice", "mayastor-control-leader").ok()?;
        let address = slice["endpoints"][0]["addresses"][0].as_str()?;
        let at: SocketAddr = format!("{address}:{}", slice["ports"][0]["port"]).parse().ok()?;
        self.service.point(Some(at));
        CONTROLS.iter().position(|c| *c == at.to_string())
    }

    /// Starts an engine, the same again after it was killed.
    pub fn start_engine(&mut self, n: usize) -> Result<()> {
        let ports = [format!("127.0.0.1:{}", 20_000 + n), format!("127.0.0.1:{}", 21_000 + n)];
        let config = self.folder.join(format!("engine-{n}.yaml"));
        let child = spawn(&self.program, &self.folder, &format!("engine-{n}"), |c| {
            c.args(["engine", "-N", &format!("node-{n}"), "-g", &ports[0], "--nvme", &ports[1], "--control", SERVICE]);
            c.args(["--iscsi-nexus-port", "0", "--iscsi-replica-port", "0"]).arg("-y").arg(config);
        })?;
        self.engines.insert(n, child);
        Ok(())
    }

    /// Kills an engine.
    pub fn kill_engine(&mut self, n: usize) {
        if let Some(engine) = self.engines.remove(&n) {
            end(engine, "-9");
        }
    }

    /// A file as a disk.
    pub fn disk(&self, name: &str, bytes: u64) -> Result<String> {
        let path = self.folder.join(name);
        fs::File::create(&path)?.set_len(bytes)?;
        Ok(path.display().to_string())
    }

    /// An object.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.api.kubectl(&["get", kind, name, "-o", "json"])?)?)
    }

    /// Writes objects.
    pub fn apply(&self, object: &Value) -> Result<String> {
        self.api.feed(&["apply", "-f", "-"], &object.to_string())
    }

    /// The mayastor client, on the Service.
    pub fn client(&self, args: &[&str]) -> Result<String> {
        let token = self.folder.join(TOKEN).display().to_string();
        output(
            &self.program,
            &[&["--control", SERVICE, "--timeout", "20", "--token-file", &token], args].concat(),
            None,
        )
    }

    /// Waits until something holds.
    pub fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Cluster) -> Option<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.leader();
            if holds(self) == Some(true) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("waited in vain for: {what}").into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until a field of an object has a value, and returns the object.
    pub fn wait_field(&mut self, kind: &str, name: &str, pointer: &str, value: &Value) -> Result<Value> {
        let mut last = Value::Null;
        let waited = self.wait(&format!("{kind} {name}: {pointer} = {value}"), |c| {
            last = c.get(kind, name).ok()?;
            Some(last.pointer(pointer).unwrap_or(&Value::Null) == value)
        });
        waited.map_err(|e| format!("{e}\n{last:#}"))?;
        Ok(last)
    }

    /// Waits until an object is gone.
    pub fn wait_gone(&mut self, kind: &str, name: &str) -> Result<()> {
        self.wait(&format!("{kind} {name} is gone"), |c| {
            Some(c.api.kubectl(&["get", kind, name, "--ignore-not-found", "-o", "name"]).ok()?.is_empty())
        })
    }

    /// The ends of the logs, for a failure report.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let names = ["control-0", "control-1", "engine-1", "engine-2", "engine-3"];
        for name in names {
            let text = fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            all += &format!("--- {name}\n");
            all.extend(tail.into_iter().rev().map(|line| format!("{line}\n")));
        }
        all
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let controls = self.controls.iter_mut().filter_map(Option::take);
        for child in std::mem::take(&mut self.engines).into_values().chain(controls) {
            // One that was stopped must go on to end.
            let _ = Command::new("kill").args(["-CONT", &child.id().to_string()]).status();
            end(child, "-9");
        }
    }
}

/// The condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// Ends a process.
pub fn end(mut child: Child, signal: &str) {
    let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
    let _ = child.wait();
}

/// Starts a process that writes into a log.
pub fn spawn(program: &Path, folder: &Path, name: &str, arguments: impl FnOnce(&mut Command)) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join(format!("{name}.log")))?;
    let mut command = Command::new(program);
    arguments(&mut command);
    // Nothing of ours may outlive a run that is killed.
    command.env("MAYASTOR_PARENT", std::process::id().to_string());
    command.env("MAYASTOR_TOKEN_FILE", folder.join(TOKEN));
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    child.map_err(|e| format!("{}: {e}", program.display()).into())
}

/// Runs a program; an error with what it said when it fails.
pub fn run(program: &str, args: &[&str]) -> Result<()> {
    output(Path::new(program), args, None).map(drop)
}

/// Runs a program and returns what it said.
pub fn output(program: &Path, args: &[&str], input: Option<&str>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", program.display()))?;
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        pipe.write_all(input.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&done.stderr).trim().into())
}
