//! The jobs, and the initiator that runs them.

use std::time::Duration;

use engine::load::{Pattern, Report, Stop, Workload};
use engine::remote::{self, RemoteOptions, RemoteSpec};

use crate::Result;
use crate::blast::Blast;
use crate::cluster::{Clock, Export};

/// One line of the table for each device.
pub struct Job {
    pub name: String,
    pub work: Workload,
    pub kind: Kind,
}

/// Who makes the load.
pub enum Kind {
    /// Our initiator; a request is followed by the next when it is answered.
    Closed,
    /// The load that is cheaper than the target.
    Blast(Blast),
}

impl Job {
    /// 4 KiB random at depth 1, 32, 128 and 128 KiB sequential at depth 16, each as reads and as writes.
    pub fn closed() -> Vec<Job> {
        let mut jobs = Vec::new();
        for (read_percent, kind) in [(100, "read"), (0, "write")] {
            for depth in [1, 32, 128] {
                let work = Workload { read_percent, depth, request_bytes: 4096, ..Workload::default() };
                jobs.push(Job { name: format!("rand{kind} 4k qd{depth}"), work, kind: Kind::Closed });
            }
            let work = Workload {
                read_percent,
                depth: 16,
                request_bytes: 128 << 10,
                pattern: Pattern::Sequential,
                ..Workload::default()
            };
            jobs.push(Job { name: format!("{kind} 128k qd16"), work, kind: Kind::Closed });
        }
        jobs
    }

    /// The jobs for a device. Those of which the target is the bottleneck are only for the RAM disk, which answers in
    /// order.
    pub fn all_for(device: &str) -> Vec<Job> {
        let mut jobs = Job::closed();
        if device == "malloc" {
            for (is_read, kind) in [(true, "read"), (false, "write")] {
                let work = Workload { read_percent: if is_read { 100 } else { 0 }, ..Workload::default() };
                let blast = Blast { is_read, depth: 120 };
                jobs.push(Job { name: format!("blast rand{kind} 4k qd120"), work, kind: Kind::Blast(blast) });
            }
        }
        jobs
    }
}

/// Runs a job on a thread of its own, pinned to the last processor. Returns what the engines spent on it too.
pub fn run(target: &Export, job: &Job, time: Duration, seed: u64, clock: Clock) -> Result<(Report, Duration)> {
    run_until(target, job, Some(time), seed, clock)
}

fn run_until(
    target: &Export,
    job: &Job,
    time: Option<Duration>,
    seed: u64,
    clock: Clock,
) -> Result<(Report, Duration)> {
    let spec = RemoteSpec {
        host: target.host.clone(),
        port: target.port,
        nqn: target.nqn.clone(),
        host_nqn: "nqn.2019-05.io.openebs:bench".into(),
        uuid: None,
    };
    let stop = time.map_or(job.work.stop, Stop::After);
    let work = Workload { stop, seed, ..job.work.clone() };
    let depth = u16::try_from(work.depth).unwrap_or(127).min(127);
    let processor = std::thread::available_parallelism().map_or(1, |n| n.get()) - 1;
    // It polls, as spdk_nvme_perf does.
    let spin = Duration::from_micros(100);
    let options = ring::Options { cpu: Some(processor), spin, ..ring::Options::default() };
    std::thread::spawn(move || {
        ring::run(options, move |host| async move {
            let options = RemoteOptions { queues: 1, depth, ..RemoteOptions::default() };
            let disk = remote::connect_disk(&host, spec, options).await.map_err(|e| e.to_string())?;
            if time.is_some() {
                let warm = Workload { stop: Stop::After(Duration::from_millis(300)), ..work.clone() };
                engine::load::run(&host, &disk, &warm, None).await.map_err(|e| e.to_string())?;
            }
            let before = clock.now().map_err(|e| e.to_string())?;
            let report = engine::load::run(&host, &disk, &work, None).await.map_err(|e| e.to_string())?;
            Ok((report, clock.now().map_err(|e| e.to_string())?.saturating_sub(before)))
        })
    })
    .join()
    .map_err(|_| "the load thread panicked")?
    .map_err(|e: String| e.into())
}

/// Writes `requests` requests of a job once, in order.
pub fn fill(target: &Export, job: &Job, requests: u64, clock: Clock) -> Result<()> {
    let work = Workload { stop: Stop::Requests(requests), ..job.work.clone() };
    let job = Job { name: job.name.clone(), work, kind: Kind::Closed };
    run_until(target, &job, None, 0, clock).map(|_| ())
}
