//! fio on a file beside the pool's: what the same disk does without us.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::load::Job;
use crate::table::Row;

/// The same job by fio with io_uring and O_DIRECT, on the engines' processor; nothing when fio is not installed.
pub fn fio_on_same_disk(dir: &Path, beside: &str, job: &Job, seconds: u64) -> Result<Option<Row>> {
    let file = dir.join("fio.img");
    let kind = match (job.name.starts_with("rand"), job.work.read_percent == 100) {
        (true, true) => "randread",
        (true, false) => "randwrite",
        (false, true) => "read",
        (false, false) => "write",
    };
    let output = Command::new("taskset")
        .args(["-c", "0", "fio"])
        .arg(format!("--filename={}", file.display()))
        .args([
            "--name=peer",
            "--ioengine=io_uring",
            "--direct=1",
            "--thread",
            "--size=1g",
            "--time_based",
            "--ramp_time=300ms",
        ])
        .args(["--output-format=json", &format!("--rw={kind}"), &format!("--runtime={seconds}")])
        .args([format!("--bs={}", job.work.request_bytes), format!("--iodepth={}", job.work.depth)])
        .output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        println!("fio is not installed, or failed: no peer for the pool");
        return Ok(None);
    };
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let side = &report["jobs"][0][if kind.ends_with("read") { "read" } else { "write" }];
    let number = |v: &serde_json::Value| v.as_f64().unwrap_or(0.0);
    let percentile = |p: &str| number(&side["clat_ns"]["percentile"][p]) / 1000.0;
    Ok(Some(Row {
        iops: number(&side["iops"]),
        mb_per_s: number(&side["bw_bytes"]) / 1e6,
        p50_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
        p999_us: percentile("99.900000"),
        figure: None,
        ..Row::figure(&format!("{FIO} {beside}"), &job.name, 0.0)
    }))
}

/// Removes fio's file.
pub fn clear(dir: &Path) {
    // It is there only when fio is.
    let _ = std::fs::remove_file(dir.join("fio.img"));
}

/// What the names of fio's rows begin with; the device that they stand beside follows.
pub const FIO: &str = "fio beside";
