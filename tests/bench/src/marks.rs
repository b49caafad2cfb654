//! What the figures are held against.

use crate::peer::FIO;
use crate::table::Row;

/// CPU time of the engine for a request to the RAM disk, in µs: what SPDK's target needs on a machine like the one in
/// `docs/performance.md`.
const CPU: &[(&str, f64)] = &[
    ("blast randread 4k qd120", 1.6),
    ("blast randwrite 4k qd120", 1.5),
    ("randread 4k qd128", 1.6),
    ("randwrite 4k qd128", 1.5),
];
/// Of fio's IOPS on the same disk.
const POOL: f64 = 0.9;
/// MB/s.
const REBUILD: f64 = 300.0;
/// % of a core.
const IDLE: f64 = 1.0;

/// The marks and what was measured, side by side.
pub fn print(rows: &[Row]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["MARK", "WANTED", "MEASURED", ""]);
    let mut add = |mark: String, wanted: String, measured: f64, is_met: bool| {
        let verdict = if is_met { "met" } else { "missed" };
        table.add_row([mark, wanted, format!("{measured:.2}"), verdict.into()]);
    };
    let find = |device: &str, job: &str| rows.iter().find(|row| row.device == device && row.job == job);
    for (job, most) in CPU {
        if let Some(row) = find("malloc", job) {
            add(format!("malloc, {job}: CPU us/IO"), format!("<= {most}"), row.cpu_us, row.cpu_us <= *most);
        }
    }
    for peer in rows {
        let Some(device) = peer.device.strip_prefix(FIO) else { continue };
        if let Some(row) = find(device.trim_start(), &peer.job) {
            let share = row.iops / peer.iops.max(1.0);
            add(format!("{}, {}: IOPS of fio's", row.device, row.job), format!(">= {POOL}"), share, share >= POOL);
        }
    }
    for (device, least, most) in [("rebuild", REBUILD, f64::INFINITY), ("idle", 0.0, IDLE)] {
        let Some(row) = rows.iter().find(|row| row.device == device) else { continue };
        let value = row.figure.unwrap_or_default();
        let wanted = if least > 0.0 { format!(">= {least}") } else { format!("<= {most}") };
        add(format!("{device}: {}", row.job), wanted, value, (least..=most).contains(&value));
    }
    table.to_string()
}
