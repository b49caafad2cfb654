//! An engine as a process of this machine, driven by the client commands as a user would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;

const GRPC: &str = "127.0.0.1:24160";
const NVME: &str = "127.0.0.1:24161";
/// How long an engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An engine. Its process ends with this value.
pub struct Engine {
    program: PathBuf,
    folder: PathBuf,
    process: Child,
}

impl Engine {
    /// Starts an engine in an empty folder, with `more` options.
    pub fn start(program: &Path, folder: &Path, more: &[&str]) -> Result<Engine> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let program = program.canonicalize().map_err(|e| format!("{}: {e}; build it first", program.display()))?;
        let process = spawn(&program, &folder, more)?;
        let engine = Engine { program, folder, process };
        engine.answers()?;
        Ok(engine)
    }

    /// Ends the process and starts another one with the same configuration and `more` options.
    pub fn restart(&mut self, more: &[&str]) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.process = spawn(&self.program, &self.folder, more)?;
        self.answers()
    }

    fn answers(&self) -> Result<()> {
        let begin = Instant::now();
        while let Err(error) = self.client(&["bdev", "list"]) {
            if begin.elapsed() > PATIENCE {
                return Err(format!("the engine does not answer: {error}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A client command; its JSON answer.
    pub fn client(&self, words: &[&str]) -> Result<Value> {
        let output = Command::new(&self.program).args(["--engine", GRPC, "-o", "json"]).args(words).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("mayastor {}: {}", words.join(" "), said.trim()).into());
        }
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A file of the engine's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A pool named `pool` on a sparse file.
    pub fn pool(&self, mib: u64) -> Result<()> {
        let disk = self.file("disk.img");
        fs::File::create(&disk)?.set_len(mib << 20)?;
        self.client(&["pool", "create", "pool", &disk.display().to_string()])?;
        Ok(())
    }
}

fn spawn(program: &Path, folder: &Path, more: &[&str]) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("engine.log"))?;
    Ok(Command::new(program)
        .args(["engine", "--node-name", "protocols", "--grpc", GRPC, "--nvme", NVME])
        .args(["--iscsi-nexus-port", "0", "--iscsi-replica-port", "0", "--nbd-port", "0"])
        .args(more)
        .arg("--config")
        .arg(folder.join("config.yaml"))
        // Nothing may outlive a run that is killed.
        .env("MAYASTOR_PARENT", std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?)
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
