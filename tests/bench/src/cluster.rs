//! Three engines as processes, and the devices that are measured.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use api::{v0, v1};
use tonic::transport::Channel;
use uuid::Uuid;

use crate::{Result, local};

const ENGINES: usize = 3;
const GRPC_PORT: u16 = 23_124;
const NVME_PORT: u16 = 23_420;
/// The size of each measured device.
pub const DEVICE_BYTES: u64 = 1 << 30;

/// Where a device is.
pub enum Target {
    /// Exported by an engine.
    Remote(Export),
    /// In a pool in this file, used without an engine.
    Local(PathBuf),
}

/// Where an engine exports a device.
pub struct Export {
    pub host: String,
    pub port: u16,
    pub nqn: String,
}

type Make = fn(&mut Cluster) -> Result<Target>;

/// The measured devices, in order.
pub const DEVICES: &[(&str, Make)] = &[
    ("malloc", |c| c.malloc().map(Target::Remote)),
    ("local pool", |c| local::prepare(&c.dir).map(Target::Local)),
    ("pool", |c| c.pool_replica().map(Target::Remote)),
    ("nexus-1", |c| c.nexus(1).map(Target::Remote)),
    ("nexus-2", |c| c.nexus(2).map(Target::Remote)),
    ("nexus-3", |c| c.nexus(3).map(Target::Remote)),
];

struct Engine {
    process: Child,
    grpc: Channel,
}

/// The CPU time that some threads have used.
pub enum Clock {
    /// All of these processes.
    Processes(Vec<u32>),
    /// The one that asks.
    ThisThread,
}

impl Clock {
    /// The sum of the threads' time on a processor, user and system.
    pub fn now(&self) -> Result<Duration> {
        let used = |thread: &Path| -> Result<u64> {
            let schedstat = std::fs::read_to_string(thread.join("schedstat"))?;
            Ok(schedstat.split_whitespace().next().unwrap_or("0").parse::<u64>()?)
        };
        let mut total = 0;
        match self {
            Clock::ThisThread => total = used(Path::new("/proc/thread-self"))?,
            Clock::Processes(ids) => {
                for id in ids {
                    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
                        total += used(&thread?.path())?;
                    }
                }
            }
        }
        Ok(Duration::from_nanos(total))
    }
}

/// A running `perf record`; dropping it ends it in an orderly way, so that its file is whole.
pub struct Profile(Child);

impl Drop for Profile {
    fn drop(&mut self) {
        if let Some(id) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
        }
        let _ = self.0.wait();
    }
}

/// The engines.
pub struct Cluster {
    runtime: tokio::runtime::Runtime,
    engines: Vec<Engine>,
    dir: PathBuf,
    nexus: Option<String>,
}

impl Cluster {
    /// Starts the engines, pinned to the first processor.
    pub fn start(program: &Path, dir: &Path, spin_us: Option<u64>) -> Result<Cluster> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut cluster = Cluster { runtime, engines: Vec::new(), dir: dir.to_owned(), nexus: None };
        for k in 0..ENGINES {
            let grpc = format!("127.0.0.1:{}", GRPC_PORT + k as u16);
            let mut command = Command::new("taskset");
            command.args(["-c", "0"]).arg(program).args(["engine", "--node-name", &format!("bench-{k}")]);
            command.args(["--grpc", &grpc, "--nvme", &format!("127.0.0.1:{}", NVME_PORT + k as u16)]);
            if let Some(spin_us) = spin_us {
                command.args(["--spin", &spin_us.to_string()]);
            }
            command.env("MAYASTOR_PARENT", std::process::id().to_string());
            let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
            let channel = tonic::transport::Endpoint::from_shared(format!("http://{grpc}"))?;
            let channel = cluster.runtime.block_on(async {
                let end = Instant::now() + Duration::from_secs(10);
                loop {
                    match channel.connect().await {
                        Ok(channel) => return Ok(channel),
                        Err(e) if Instant::now() > end => return Err(e),
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            })?;
            cluster.engines.push(Engine { process, grpc: channel });
        }
        Ok(cluster)
    }

    /// The CPU time of the engines.
    pub fn clock(&self) -> Clock {
        Clock::Processes(self.engines.iter().map(|engine| engine.process.id()).collect())
    }

    /// Watches the first engine with `perf` until the guard is dropped.
    pub fn profile(&self, file: &Path) -> Result<Profile> {
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "-e", "cpu-clock", "-F", "2999", "-g", "-o"]).arg(file);
        command.args(["-p", &self.engines[0].process.id().to_string()]);
        Ok(Profile(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    }

    fn v0(&self, k: usize) -> v0::mayastor_client::MayastorClient<Channel> {
        v0::mayastor_client::MayastorClient::new(self.engines[k].grpc.clone())
    }
    fn v1(&self, k: usize) -> v1::engine_client::EngineClient<Channel> {
        v1::engine_client::EngineClient::new(self.engines[k].grpc.clone())
    }

    fn malloc(&mut self) -> Result<Export> {
        let mut bdev = v0::bdev_rpc_client::BdevRpcClient::new(self.engines[0].grpc.clone());
        let uri = format!("malloc:///bench?size_mb={}", DEVICE_BYTES >> 20);
        let target = self.runtime.block_on(async {
            bdev.create(v0::BdevUri { uri }).await?;
            let share = v0::BdevShareRequest { name: "bench".into(), proto: "nvmf".into() };
            target_of(&bdev.share(share).await?.into_inner().uri)
        })?;
        // Every page is there before it is measured: its first touch is the kernel's work, not ours.
        self.fill(&target)?;
        Ok(target)
    }

    fn pool(&self, k: usize, bytes: u64) -> Result<()> {
        let disk = self.dir.join(format!("pool{k}.img"));
        let _ = std::fs::remove_file(&disk);
        std::fs::File::create(&disk)?.set_len(bytes + (512 << 20))?;
        let disks = vec![format!("aio://{}?blk_size=4096", disk.canonicalize()?.display())];
        let request = v1::CreatePoolRequest { name: "bench".into(), disks, ..Default::default() };
        self.runtime.block_on(self.v1(k).create_pool(request))?;
        Ok(())
    }

    fn replica(&self, k: usize, size: u64, share: bool) -> Result<String> {
        let request = v1::CreateReplicaRequest {
            uuid: Uuid::new_v4().to_string(),
            pool: "bench".into(),
            size,
            thin: false,
            share,
        };
        Ok(self.runtime.block_on(self.v1(k).create_replica(request))?.into_inner().uri)
    }

    fn pool_replica(&mut self) -> Result<Export> {
        self.pool(0, DEVICE_BYTES)?;
        let target = target_of(&self.replica(0, DEVICE_BYTES, true)?)?;
        // Every extent is mapped before it is measured, as fio's file is laid out.
        self.fill(&target)?;
        Ok(target)
    }

    fn nexus(&mut self, members: usize) -> Result<Export> {
        let mut children = Vec::new();
        for k in 0..members {
            self.pool(k, DEVICE_BYTES + (64 << 20))?;
            children.push(self.replica(k, DEVICE_BYTES + (8 << 20), k > 0)?);
        }
        let uuid = Uuid::new_v4().to_string();
        let request =
            v1::CreateNexusRequest { uuid: uuid.clone(), size: DEVICE_BYTES, children, ledger: None, managed: false };
        self.runtime.block_on(self.v1(0).create_nexus(request))?;
        self.nexus = Some(uuid.clone());
        let nexus = self.runtime.block_on(self.v1(0).publish_nexus(v1::NexusName { uuid }))?.into_inner();
        let target = target_of(&nexus.device_uri)?;
        self.fill(&target)?;
        Ok(target)
    }

    fn fill(&self, target: &Export) -> Result<()> {
        let mut job = crate::load::Job::closed().remove(0);
        job.work.read_percent = 0;
        job.work.request_bytes = 1 << 20;
        job.work.pattern = engine::load::Pattern::Sequential;
        job.work.depth = 8;
        crate::load::fill(target, &job, DEVICE_BYTES >> 20, self.clock())
    }

    /// Adds a second member to a nexus of one and times the rebuild, in MB/s.
    pub fn rebuild_speed(&mut self, size: u64) -> Result<f64> {
        self.nexus(1)?;
        self.pool(1, size + (64 << 20))?;
        let uri = self.replica(1, size + (8 << 20), true)?;
        let uuid = self.nexus.clone().ok_or("the nexus was made")?;
        let begin = Instant::now();
        let child = v1::ChildRequest { uuid: uuid.clone(), uri: uri.clone() };
        self.runtime.block_on(self.v1(0).add_child(child))?;
        loop {
            let list = self.runtime.block_on(self.v0(0).list_nexus(v0::Null {}))?.into_inner().nexus_list;
            let nexus = list.iter().find(|n| n.uuid == uuid).ok_or("the nexus is gone")?;
            let child = nexus.children.iter().find(|c| c.uri == uri).ok_or("the child is gone")?;
            match child.state() {
                v0::ChildState::ChildOnline => break,
                v0::ChildState::ChildFaulted => return Err("the rebuild failed".into()),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
            if begin.elapsed() > Duration::from_secs(300) {
                return Err("the rebuild did not end in 300 s".into());
            }
        }
        let speed = size as f64 / begin.elapsed().as_secs_f64() / 1e6;
        println!("rebuild: {speed:.0} MB/s");
        self.clear()?;
        Ok(speed)
    }

    /// Removes what a device consisted of.
    pub fn clear(&mut self) -> Result<()> {
        if let Some(uuid) = self.nexus.take() {
            self.runtime.block_on(self.v0(0).destroy_nexus(v0::DestroyNexusRequest { uuid }))?;
        }
        let mut bdev = v0::bdev_rpc_client::BdevRpcClient::new(self.engines[0].grpc.clone());
        let list = self.runtime.block_on(bdev.list(v0::Null {}))?.into_inner().bdevs;
        if let Some(malloc) = list.iter().find(|b| b.name == "bench") {
            self.runtime.block_on(bdev.unshare(v0::CreateReply { name: "bench".into() }))?;
            self.runtime.block_on(bdev.destroy(v0::BdevUri { uri: malloc.uri.clone() }))?;
        }
        for k in 0..ENGINES {
            self.runtime.block_on(self.v0(k).destroy_pool(v0::DestroyPoolRequest { name: "bench".into() }))?;
            let _ = std::fs::remove_file(self.dir.join(format!("pool{k}.img")));
        }
        let _ = std::fs::remove_file(self.dir.join("local.img"));
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for engine in &mut self.engines {
            let _ = engine.process.kill();
            let _ = engine.process.wait();
        }
    }
}

/// `nvmf://host:port/nqn` in its parts.
fn target_of(uri: &str) -> Result<Export> {
    let parts = uri.strip_prefix("nvmf://").and_then(|rest| rest.split_once('/'));
    let (authority, nqn) = parts.ok_or_else(|| format!("{uri} is not an nvmf URI"))?;
    let (host, port) = authority.rsplit_once(':').ok_or_else(|| format!("{uri} has no port"))?;
    let nqn = nqn.split('?').next().unwrap_or(nqn);
    Ok(Export { host: host.into(), port: port.parse()?, nqn: nqn.into() })
}
