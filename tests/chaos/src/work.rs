//! The clients: one for each volume, on a thread of its own, over our own initiator. Each knows for every block what it may
//! hold, and compares every read with that.

use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use block::{BlockRange, Durability};
use engine::load::{self, Model, OnFault, Report, Stop, Workload};
use engine::remote::{self, OnRestart, RemoteDisk, RemoteOptions, RemoteSpec, RemoteState};
use host::{Disk, DiskRef, Host};

use crate::Result;

/// How long one round of requests takes; between two the client looks where the volume is.
const ROUND: Duration = Duration::from_millis(300);
/// The part of each volume that is written, in bytes: small, so that every block is written many times.
const REGION: u64 = 24 << 20;

/// What the clients shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Read and write.
    Load = 0,
    /// Nothing; let go of the volume.
    Rest = 1,
    /// Read all that was ever written, and end.
    Verify = 2,
}

/// What the clients and the run share.
pub struct Shared {
    phase: AtomicU8,
    /// Where the volume is, as the control plane last said.
    uri: Mutex<Option<String>>,
    answered: AtomicU64,
    faults: AtomicU64,
    connections: AtomicU64,
    /// The first wrong read.
    wrong: Mutex<Option<String>>,
}

/// The client of one volume.
pub struct Client {
    /// The volume's name.
    pub volume: String,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<u64>>,
}

impl Client {
    /// Starts one.
    pub fn start(volume: &str, number: u64, seed: u64) -> Client {
        let shared = Arc::new(Shared {
            phase: AtomicU8::new(Phase::Load as u8),
            uri: Mutex::new(None),
            answered: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            wrong: Mutex::new(None),
        });
        let (told, name) = (shared.clone(), volume.to_owned());
        let thread = std::thread::spawn(move || {
            let options = ring::Options { name: name.clone(), ..ring::Options::default() };
            ring::try_run(options, move |host| live(host, told, number, seed))?
        });
        Client { volume: volume.to_owned(), shared, thread }
    }

    /// Tells it where the volume is.
    pub fn is_at(&self, uri: Option<String>) {
        *self.shared.uri.lock().expect("nobody panics with it") = uri;
    }

    /// Tells it what to do.
    pub fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// An error once it has read something wrong, or ended.
    pub fn check(&self) -> Result<()> {
        if let Some(wrong) = &*self.shared.wrong.lock().expect("nobody panics with it") {
            return Err(format!("{}: {wrong}", self.volume).into());
        }
        if self.thread.is_finished() && self.shared.phase.load(Ordering::Relaxed) != Phase::Verify as u8 {
            return Err(format!("the client of {} ended", self.volume).into());
        }
        Ok(())
    }

    /// Requests answered, requests failed, connections made.
    pub fn counts(&self) -> (u64, u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.shared.answered), get(&self.shared.faults), get(&self.shared.connections))
    }

    /// Lets it read all that it ever wrote; how many units of 4 KiB those were.
    pub fn verify(self) -> Result<u64> {
        self.enter(Phase::Verify);
        let verified = self.thread.join().map_err(|_| format!("the client of {} panicked", self.volume))??;
        match &*self.shared.wrong.lock().expect("nobody panics with it") {
            Some(wrong) => Err(format!("{}: {wrong}", self.volume).into()),
            None => Ok(verified),
        }
    }
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Load,
            1 => Phase::Rest,
            _ => Phase::Verify,
        }
    }

    /// Counts a report; false when a read was wrong.
    fn note(&self, report: &Report, what: &str) -> bool {
        self.answered.fetch_add(report.requests(), Ordering::Relaxed);
        self.faults.fetch_add(report.faults, Ordering::Relaxed);
        if report.mismatches == 0 {
            return true;
        }
        let examples: Vec<String> = report.examples.iter().take(5).map(ToString::to_string).collect();
        let mut wrong = self.wrong.lock().expect("nobody panics with it");
        wrong.get_or_insert(format!("{} wrong reads {what}: {}", report.mismatches, examples.join("; ")));
        false
    }
}

/// A connection, and to where.
struct Connection {
    uri: String,
    disk: Rc<RemoteDisk>,
}

async fn live(host: Host, shared: Arc<Shared>, number: u64, seed: u64) -> Result<u64> {
    let mut model = Model::new(seed ^ number.rotate_left(48));
    let mut connection: Option<Connection> = None;
    let mut round = 0u64;
    loop {
        let phase = shared.phase();
        let wanted = shared.uri.lock().expect("nobody panics with it").clone();
        let lost = |c: &Connection| c.disk.state() != RemoteState::Up;
        if let Some(c) = connection.take_if(|c| phase == Phase::Rest || lost(c) || Some(&c.uri) != wanted.as_ref()) {
            c.disk.close().await;
        }
        if phase == Phase::Rest {
            host.sleep(Duration::from_millis(50)).await;
            continue;
        }
        if connection.is_none()
            && let Some(uri) = wanted
        {
            round += 1;
            connection = connect(&host, &uri, number).await;
            shared.connections.fetch_add(u64::from(connection.is_some()), Ordering::Relaxed);
        }
        let Some(c) = &connection else {
            host.sleep(Duration::from_millis(200)).await;
            continue;
        };
        let disk: DiskRef = c.disk.clone() as Rc<dyn Disk>;
        if phase == Phase::Verify {
            let report = model.verify_all(&disk).await?;
            shared.note(&report, "in the end");
            c.disk.close().await;
            return Ok(report.checked_units);
        }
        round += 1;
        let report = load::run(&host, &disk, &workload(&disk, seed ^ round ^ number << 32), Some(&mut model)).await?;
        if !shared.note(&report, "under load") {
            return Ok(0);
        }
    }
}

fn workload(disk: &DiskRef, seed: u64) -> Workload {
    let shift = disk.geometry().block_size.shift();
    let sizes = [4 << 10, 8 << 10, 16 << 10, 64 << 10];
    Workload {
        read_percent: 50,
        unmap_percent: 3,
        request_bytes: sizes[(seed % 4) as usize],
        depth: 8,
        stop: Stop::After(ROUND),
        on_fault: OnFault::Count,
        durability: if seed.is_multiple_of(5) { Durability::Durable } else { Durability::Volatile },
        region: Some(BlockRange::new(0, REGION >> shift)),
        seed,
        ..Workload::default()
    }
}

async fn connect(host: &Host, uri: &str, number: u64) -> Option<Connection> {
    let (place, nqn) = uri.strip_prefix("nvmf://")?.split_once('/')?;
    let (name, port) = place.rsplit_once(':')?;
    let spec = RemoteSpec {
        host: name.to_owned(),
        port: port.parse().ok()?,
        nqn: nqn.split('?').next()?.to_owned(),
        host_nqn: format!("nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-{number:012x}"),
        uuid: None,
    };
    let options = RemoteOptions {
        command_deadline: Duration::from_secs(8),
        connect_timeout: Duration::from_secs(3),
        keep_alive: Duration::from_secs(2),
        // What was acknowledged outlives the process of the nexus.
        on_restart: OnRestart::Resume,
        ..RemoteOptions::default()
    };
    let disk = remote::connect(host, spec, options).await.ok()?;
    Some(Connection { uri: uri.to_owned(), disk })
}
