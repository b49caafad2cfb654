//! The workload of the story: reads and writes on a part of the volume, each read checked against what was acknowledged.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use block::BlockRange;
use engine::load::{self, Model, OnFault, Pattern, Report, Stop, Workload};
use host::{Disk, DiskRef, Host};
use tokio::task::JoinHandle;

use crate::failure::{Done, Failure};
use crate::image;

/// How long one run of the workload takes; between two it may be stopped.
const RUN: Duration = Duration::from_millis(250);
/// Any number will do.
const SEED: u64 = 0x6465_6d6f;

/// A running workload.
pub struct Work {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    thread: JoinHandle<Result<Verified, Failure>>,
}

/// What a workload did, all of it verified.
#[derive(Debug)]
pub struct Verified {
    /// Requests that were answered.
    pub requests: u64,
    /// The longest time that one took.
    pub longest: Duration,
    /// Bytes of the volume that were written at least once, and checked in the end.
    pub bytes: u64,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = crate::size::Units::Binary.show(self.bytes);
        write!(f, "{} requests, no error, {bytes} written and read back as acknowledged", self.requests)
    }
}

impl Work {
    /// Starts it on the `bytes` bytes from `from` of the volume.
    pub fn start(uri: String, from: u64, bytes: u64) -> Work {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = tokio::task::spawn_blocking({
            let (stop, requests) = (stop.clone(), requests.clone());
            move || image::on_ring(move |host| run(host, uri, from, bytes, stop, requests))
        });
        Work { stop, requests, thread }
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// An error when it has ended, which it does only for a reason.
    pub fn check(&self) -> Done {
        if self.thread.is_finished() || self.requests() == 0 {
            return Err(Failure::failed("the workload does not run"));
        }
        Ok(())
    }

    /// Stops it and checks all that it wrote.
    pub async fn finish(self) -> Result<Verified, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.await.map_err(Failure::failed)?
    }
}

async fn run(
    host: Host,
    uri: String,
    from: u64,
    bytes: u64,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
) -> Result<Verified, Failure> {
    let remote = image::connect(&host, &uri).await?;
    let disk: DiskRef = remote.clone() as Rc<dyn Disk>;
    let shift = disk.geometry().block_size.shift();
    let mut work = Workload {
        pattern: Pattern::Random,
        read_percent: 50,
        request_bytes: 16 << 10,
        depth: 16,
        stop: Stop::After(RUN),
        on_fault: OnFault::End,
        region: Some(BlockRange::new(from >> shift, bytes >> shift)),
        seed: SEED,
        ..Workload::default()
    };
    let mut model = Model::new(SEED);
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let report = load::run(&host, &disk, &work, Some(&mut model)).await.map_err(Failure::failed)?;
        flawless(&report)?;
        longest = longest.max(report.latency().max);
        requests.fetch_add(report.requests(), Ordering::Relaxed);
        work.seed += 1;
    }
    flawless(&model.verify_all(&disk).await.map_err(Failure::failed)?)?;
    remote.close().await;
    let bytes = model.known_units() * load::UNIT_BYTES as u64;
    Ok(Verified { requests: requests.load(Ordering::Relaxed), longest, bytes })
}

fn flawless(report: &Report) -> Done {
    if report.mismatches > 0 {
        let example = report.examples.first().map(ToString::to_string).unwrap_or_default();
        return Err(Failure::failed(format!("{} wrong reads, such as {example}", report.mismatches)));
    }
    if report.faults > 0 {
        return Err(Failure::failed(format!("{} requests failed", report.faults)));
    }
    Ok(())
}
