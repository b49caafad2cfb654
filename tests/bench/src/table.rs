//! Results as a table for people and JSON for programs.

use std::fmt;
use std::time::Duration;

use engine::load::Report;

use crate::load::Job;

/// One result.
pub struct Row {
    pub device: String,
    pub job: String,
    pub iops: f64,
    pub mb_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub cpu_us: f64,
    /// A result that is not a job: one number.
    pub figure: Option<f64>,
}

impl Row {
    pub fn measured(device: &str, job: &Job, report: &Report, cpu: Duration) -> Row {
        let side = if job.work.read_percent == 100 { &report.reads } else { &report.writes };
        let latency = side.latency();
        let seconds = report.elapsed.as_secs_f64().max(1e-9);
        let us = |d: Duration| d.as_secs_f64() * 1e6;
        Row {
            device: device.into(),
            job: job.name.clone(),
            iops: side.count as f64 / seconds,
            mb_per_s: side.bytes as f64 / seconds / 1e6,
            p50_us: us(latency.p50),
            p99_us: us(latency.p99),
            p999_us: us(latency.p999),
            cpu_us: us(cpu) / side.count.max(1) as f64,
            figure: None,
        }
    }

    /// A job of which only the number of answers is known.
    pub fn counted(device: &str, job: &Job, count: u64, elapsed: Duration, cpu: Duration) -> Row {
        let iops = count as f64 / elapsed.as_secs_f64().max(1e-9);
        Row {
            iops,
            mb_per_s: iops * f64::from(job.work.request_bytes) / 1e6,
            cpu_us: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
            figure: None,
            ..Row::figure(device, &job.name, 0.0)
        }
    }

    pub fn figure(device: &str, job: &str, value: f64) -> Row {
        Row {
            device: device.into(),
            job: job.into(),
            iops: 0.0,
            mb_per_s: 0.0,
            p50_us: 0.0,
            p99_us: 0.0,
            p999_us: 0.0,
            cpu_us: 0.0,
            figure: Some(value),
        }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.device.clone(), self.job.clone()];
        match self.figure {
            Some(value) => cells.push(format!("{value:.2}")),
            None => cells.extend([
                format!("{:.0}", self.iops),
                format!("{:.0}", self.mb_per_s),
                format!("{:.1}", self.p50_us),
                format!("{:.1}", self.p99_us),
                format!("{:.1}", self.p999_us),
                if self.cpu_us > 0.0 { format!("{:.2}", self.cpu_us) } else { "-".into() },
            ]),
        }
        cells
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cells().join("  "))
    }
}

pub fn print(rows: &[Row]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["DEVICE", "JOB", "IOPS", "MB/s", "p50 us", "p99 us", "p99.9 us", "CPU us/IO"]);
    for row in rows {
        table.add_row(row.cells());
    }
    table.to_string()
}

pub fn json(rows: &[Row]) -> serde_json::Value {
    rows.iter()
        .map(|r| match r.figure {
            Some(value) => serde_json::json!({"device": r.device, "figure": r.job, "value": value}),
            None => serde_json::json!({
                "device": r.device, "job": r.job, "iops": r.iops, "mb_per_s": r.mb_per_s, "p50_us": r.p50_us,
                "p99_us": r.p99_us, "p999_us": r.p999_us, "cpu_us_per_io": r.cpu_us,
            }),
        })
        .collect()
}
