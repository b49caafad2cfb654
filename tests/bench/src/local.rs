//! A pool without a network: the load runs on the data thread itself, as fio runs on the thread that drives the disk.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockSize, Bytes};
use engine::load::{Pattern, Report, Stop, Workload};
use host::{Claim, DiskRef, Host, OpenOptions};
use pool::{CreateOptions, Member, Pool, ReplicaSpec};
use uuid::Uuid;

use crate::Result;
use crate::cluster::{Clock, DEVICE_BYTES};

const NAME: &str = "local";
/// What the pool's metadata and journal may take.
const SPARE_BYTES: u64 = 512 << 20;

/// Makes the pool and writes every byte of its one thick replica, as fio's file is laid out. Returns its file.
pub fn prepare(dir: &Path) -> Result<PathBuf> {
    let file = dir.join("local.img");
    // What an earlier run has left.
    let _ = std::fs::remove_file(&file);
    std::fs::File::create(&file)?.set_len(DEVICE_BYTES + SPARE_BYTES)?;
    let file = file.canonicalize()?;
    on_engines_processor(file.clone(), |host, member| async move {
        let options = CreateOptions { name: NAME.into(), cluster: Uuid::nil(), force: false, extent_size: None };
        let pool = pool::create(&host, vec![member], options).await.map_err(|e| e.to_string())?;
        let spec = ReplicaSpec { name: NAME.into(), size: Bytes(DEVICE_BYTES), thin: false };
        let disk: DiskRef = pool.create_replica(spec).await.map_err(|e| e.to_string())?;
        let fill = Workload {
            read_percent: 0,
            request_bytes: 1 << 20,
            pattern: Pattern::Sequential,
            depth: 8,
            stop: Stop::Requests(DEVICE_BYTES >> 20),
            ..Workload::default()
        };
        engine::load::run(&host, &disk, &fill, None).await.map_err(|e| e.to_string())?;
        pool.export().await.map_err(|e| e.to_string())
    })?;
    Ok(file)
}

/// Runs a workload on the replica in the pool in this file. The CPU time has the load's own in it, as fio's has.
pub fn run(file: &Path, work: Workload) -> Result<(Report, Duration)> {
    on_engines_processor(file.to_owned(), |host, member| async move {
        let pool: Rc<Pool> = pool::import(&host, vec![member], Some(NAME)).await.map_err(|e| e.to_string())?;
        let disk: DiskRef = pool.replica(NAME).ok_or("the pool has no replica")?;
        let warm = Workload { stop: Stop::After(Duration::from_millis(300)), ..work.clone() };
        engine::load::run(&host, &disk, &warm, None).await.map_err(|e| e.to_string())?;
        let clock = Clock::ThisThread;
        let before = clock.now().map_err(|e| e.to_string())?;
        let report = engine::load::run(&host, &disk, &work, None).await.map_err(|e| e.to_string())?;
        let cpu = clock.now().map_err(|e| e.to_string())?.saturating_sub(before);
        drop(disk);
        pool.export().await.map_err(|e| e.to_string())?;
        Ok((report, cpu))
    })
}

/// Runs `work` with the pool's disk on a data thread on the processor on which engines are measured.
fn on_engines_processor<T: Send + 'static, F: Future<Output = std::result::Result<T, String>> + 'static>(
    file: PathBuf,
    work: impl FnOnce(Host, Member) -> F + Send + 'static,
) -> Result<T> {
    let options = ring::Options { cpu: Some(0), ..ring::Options::default() };
    std::thread::spawn(move || {
        ring::run(options, move |host| async move {
            let options = OpenOptions { block_size: BlockSize::B4096, claim: Claim::Exclusive };
            let path = file.display().to_string();
            let disk = host.open_disk(path.clone(), options).await.map_err(|e| e.to_string())?;
            work(host, Member { uri: path, disk }).await
        })
    })
    .join()
    .map_err(|_| "the data thread panicked")?
    .map_err(Into::into)
}
