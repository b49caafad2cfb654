//! A volume as a block device of this node.
//!
//! * **kernel**: the kernel's NVMe/TCP initiator, told what to do through `/dev/nvme-fabrics` and sysfs.
//! * **user**: where the kernel has none, a process of its own (`mayastor attach`: our initiator, FUSE and a loop device).
//!   It outlives this plugin, so that a restart of the plugin does not interrupt I/O.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tonic::Status;
use uuid::Uuid;

use super::mounts::blocking;
use super::record::{Record, folder};
use crate::parameters::Connection;

/// How long a device may take to appear.
const APPEAR: Duration = Duration::from_secs(20);
/// How long a device may take to go.
const VANISH: Duration = Duration::from_secs(15);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Where the kernel takes connections.
const FABRICS: &str = "/dev/nvme-fabrics";
/// The kernel has that connection already.
const EALREADY: i32 = 114;

/// How devices are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Through the kernel where it can, else in user space.
    Auto,
    /// Through the kernel.
    Kernel,
    /// In user space.
    User,
}

/// What attaching needs.
#[derive(Clone, Debug)]
pub(crate) struct Attacher {
    pub transport: Transport,
    /// The folder of the plugin's state.
    pub state: PathBuf,
    /// The `mayastor` program.
    pub program: PathBuf,
    /// The control plane's address, for volumes whose target moves.
    pub control: Option<String>,
    /// The options by which the program shows that it may ask there.
    pub credentials: Vec<String>,
}

/// Host, port and NQN of `nvmf://host[:port]/nqn`.
pub(crate) fn address(uri: &str) -> Result<(String, u16, String), Status> {
    let wrong = || Status::invalid_argument(format!("{uri:?} is not the address of a volume (nvmf://host:port/nqn)"));
    let rest = uri.strip_prefix("nvmf://").ok_or_else(wrong)?;
    let (place, nqn) = rest.split_once('/').ok_or_else(wrong)?;
    let nqn = nqn.split('?').next().unwrap_or_default();
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (place, api::NVME_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // The text goes to the kernel as `key=value,key=value`.
    let plain =
        |text: &str| !text.is_empty() && !text.contains([',', '=', '/', ' ']) && !text.contains(char::is_control);
    if !plain(host) || !plain(nqn) || nqn.len() > 223 {
        return Err(wrong());
    }
    Ok((host.to_owned(), port, nqn.to_owned()))
}

/// The kernel's line for a connection.
fn fabrics_line(address: &(std::net::IpAddr, u16, String), host_id: Uuid, c: &Connection) -> String {
    let (ip, port, nqn) = address;
    let queues = c.io_queues.map(|n| format!(",nr_io_queues={n}")).unwrap_or_default();
    format!(
        "nqn={nqn},transport=tcp,traddr={ip},trsvcid={port},hostnqn=nqn.2014-08.org.nvmexpress:uuid:{host_id},\
         hostid={host_id},ctrl_loss_tmo={},reconnect_delay={},keep_alive_tmo={}{queues}",
        c.ctrl_loss_tmo, c.reconnect_delay, c.keep_alive,
    )
}

fn io(what: &str, path: &Path, e: impl std::fmt::Display) -> Status {
    Status::internal(format!("cannot {what} {}: {e}", path.display()))
}

/// Asks again and again until there is something.
async fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = tokio::time::Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if tokio::time::Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Attacher {
    /// The way that a new volume takes.
    pub fn choose(&self) -> &'static str {
        match self.transport {
            Transport::Kernel => "kernel",
            Transport::User => "user",
            Transport::Auto if Path::new(FABRICS).exists() => "kernel",
            Transport::Auto => {
                tracing::warn!(
                    "this kernel has no NVMe/TCP ({FABRICS} is missing; try `modprobe nvme-tcp`): volumes are attached \
                     in user space, which is slower"
                );
                "user"
            }
        }
    }

    /// The volume's device, when it is attached and alive.
    pub fn device(&self, volume: Uuid, record: &Record) -> Option<PathBuf> {
        match record.transport.as_str() {
            "kernel" => kernel_device(volume),
            _ => {
                self.helper(volume)?;
                let path = std::fs::read_to_string(folder(&self.state, volume).join("device")).ok()?;
                Some(PathBuf::from(path))
            }
        }
    }

    /// Attaches the volume, unless it is.
    pub async fn attach(&self, volume: Uuid, record: &Record, connection: &Connection) -> Result<PathBuf, Status> {
        if let Some(device) = self.device(volume, record) {
            return Ok(device);
        }
        match record.transport.as_str() {
            "kernel" => self.connect(volume, record, connection).await,
            _ => self.start_helper(volume, record, connection).await,
        }
    }

    /// Detaches the volume; one that is not attached is fine.
    pub async fn detach(&self, volume: Uuid, record: &Record) -> Result<(), Status> {
        match record.transport.as_str() {
            "kernel" => disconnect(record).await,
            _ => self.stop_helper(volume).await,
        }
    }

    /// Lets the device take on the size that the volume has now.
    pub fn look_at_size(&self, volume: Uuid, record: &Record) {
        // The kernel learns it from the target by itself.
        if record.transport != "kernel"
            && let Some(pid) = self.helper(volume)
        {
            // One that ended meanwhile is found out below.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::HUP);
        }
    }

    // ---- user space --------------------------------------------------------------------------------------------------

    /// The process that serves the volume, when it lives: it holds a lock and has written its id into the file.
    fn helper(&self, volume: Uuid) -> Option<rustix::process::Pid> {
        let path = folder(&self.state, volume).join("lock");
        let mut file = File::options().read(true).write(true).open(path).ok()?;
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {}
            _ => return None,
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        rustix::process::Pid::from_raw(text.trim().parse().ok()?)
    }

    fn command(&self, volume: Uuid) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("attach").arg("--dir").arg(folder(&self.state, volume)).stdin(Stdio::null());
        // It shall outlive us, and whoever we end with.
        command.env_remove("MAYASTOR_PARENT");
        command
    }

    async fn start_helper(&self, volume: Uuid, record: &Record, connection: &Connection) -> Result<PathBuf, Status> {
        let folder = folder(&self.state, volume);
        std::fs::create_dir_all(&folder).map_err(|e| io("make", &folder, e))?;
        let path = folder.join("attach.log");
        let log = File::options().create(true).append(true).open(&path).map_err(|e| io("open", &path, e))?;
        let mut command = self.command(volume);
        command.arg(&record.uri).args(["--volume", &volume.to_string()]);
        command.args(["--patience", &connection.ctrl_loss_tmo.to_string()]);
        if record.read_only {
            command.arg("--read-only");
        }
        if let Some(control) = &self.control {
            command.args(["--control", control]).args(&self.credentials);
        }
        // Not in our process group: what ends us does not end it.
        command.process_group(0).stdout(log.try_clone().map_err(|e| io("open", &path, e))?).stderr(log);
        let mut child = command.spawn().map_err(|e| io("run", &self.program, e))?;
        let mut ended = false;
        let found = wait_for(APPEAR, || {
            ended = matches!(child.try_wait(), Ok(Some(_)));
            self.device(volume, record).map(Some).or(ended.then_some(None))
        });
        if let Some(Some(device)) = found.await {
            return Ok(device);
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").to_owned();
        if !ended {
            // It would only hold what the next attempt needs.
            let _ = child.kill().await;
        }
        Err(Status::unavailable(format!("volume {volume} cannot be attached: {last}")))
    }

    async fn stop_helper(&self, volume: Uuid) -> Result<(), Status> {
        if let Some(pid) = self.helper(volume) {
            // One that ended meanwhile is what we want.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            if wait_for(VANISH, || self.helper(volume).is_none().then_some(())).await.is_none() {
                let text = format!("volume {volume} is still in use on this node and cannot be detached yet");
                return Err(Status::internal(text));
            }
        }
        // What a process left that was killed.
        let output = self.command(volume).arg("--clean").output().await.map_err(|e| io("run", &self.program, e))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Status::internal(format!("volume {volume} cannot be cleaned up: {said}")));
        }
        Ok(())
    }

    // ---- kernel ------------------------------------------------------------------------------------------------------

    async fn connect(&self, volume: Uuid, record: &Record, connection: &Connection) -> Result<PathBuf, Status> {
        let (host, port, nqn) = address(&record.uri)?;
        let ip = tokio::net::lookup_host((host.as_str(), port)).await.ok().and_then(|mut found| found.next());
        let ip = ip.ok_or_else(|| Status::unavailable(format!("{host} has no address")))?.ip();
        let line = fabrics_line(&(ip, port, nqn), self.host_id()?, connection);
        let wrote = blocking(move || -> std::io::Result<()> {
            let mut fabrics = File::options().read(true).write(true).open(FABRICS)?;
            fabrics.write_all(line.as_bytes())
        });
        match wrote.await? {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(EALREADY) => {}
            Err(e) => return Err(Status::unavailable(format!("{} cannot be connected: {e}", record.uri))),
        }
        let device = wait_for(APPEAR, || kernel_device(volume)).await;
        device.ok_or_else(|| Status::unavailable(format!("the device of volume {volume} did not appear")))
    }

    /// This node's identity towards targets, made once.
    fn host_id(&self) -> Result<Uuid, Status> {
        let path = self.state.join("hostid");
        let known = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if let Some(id) = known {
            return Ok(id);
        }
        let boot = std::fs::read_to_string("/etc/machine-id").or_else(|_| {
            // Without one each installation of the plugin is a host.
            std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        });
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, boot.map_err(|e| io("read", &path, e))?.trim().as_bytes());
        let new = self.state.join("hostid.new");
        let made = std::fs::write(&new, id.to_string()).and_then(|()| std::fs::rename(&new, &path));
        made.map_err(|e| io("write", &path, e))?;
        Ok(id)
    }
}

/// The kernel's block device with the volume's uuid.
fn kernel_device(volume: Uuid) -> Option<PathBuf> {
    let wanted = format!("uuid.{volume}");
    for entry in std::fs::read_dir("/sys/block").ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is = |file: &str| std::fs::read_to_string(entry.path().join(file)).is_ok_and(|t| t.trim() == wanted);
        let path = Path::new("/dev").join(&name);
        // Paths of a multipath device (nvme0c1n1) have no device node.
        if name.starts_with("nvme") && is("wwid") && path.exists() {
            return Some(path);
        }
    }
    None
}

/// Removes all of the kernel's connections to the volume.
async fn disconnect(record: &Record) -> Result<(), Status> {
    let (_, _, nqn) = address(&record.uri)?;
    blocking(move || {
        for entry in std::fs::read_dir("/sys/class/nvme").into_iter().flatten().flatten() {
            let theirs = std::fs::read_to_string(entry.path().join("subsysnqn"));
            if theirs.is_ok_and(|t| t.trim() == nqn) {
                let path = entry.path().join("delete_controller");
                match std::fs::write(&path, "1") {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("write", &path, e)),
                    _ => {}
                }
            }
        }
        Ok(())
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let nqn = "nqn.2019-05.io.openebs:nexus-5b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11";
        assert_eq!(address(&format!("nvmf://n1:8420/{nqn}")).unwrap(), ("n1".into(), 8420, nqn.into()));
        assert_eq!(address(&format!("nvmf://[::1]:7/{nqn}?x=y")).unwrap(), ("::1".into(), 7, nqn.into()));
        for bad in [
            "",
            "iscsi://n1/x",
            "nvmf://n1:8420",
            "nvmf://n1:8420/",
            "nvmf:///nqn",
            "nvmf://n1:port/nqn",
            "nvmf://n1:8420/nqn,hostnqn=evil",
            "nvmf://n1,x=y:8420/nqn",
            "nvmf://n1:8420/nqn\nx",
        ] {
            assert_eq!(address(bad).unwrap_err().code(), tonic::Code::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn the_line_for_the_kernel() {
        let id = Uuid::from_u128(7);
        let connection = Connection { ctrl_loss_tmo: -1, io_queues: Some(4), ..Connection::default() };
        assert_eq!(
            fabrics_line(&("10.0.0.1".parse().unwrap(), 8420, "nqn.x".into()), id, &connection),
            "nqn=nqn.x,transport=tcp,traddr=10.0.0.1,trsvcid=8420,\
             hostnqn=nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000007,\
             hostid=00000000-0000-0000-0000-000000000007,ctrl_loss_tmo=-1,reconnect_delay=2,keep_alive_tmo=5,nr_io_queues=4"
        );
    }
}
