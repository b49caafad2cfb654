//! The output of v0.3.0's client.

use api::{Word, v0};
use serde::Serialize;
use tonic::Status;

use crate::failure::Failure;
use crate::output;

/// Prints as v0.3.0 did.
pub struct Printer {
    level: Level,
    /// `Some(1024)` or `Some(1000)` for large units, `None` for bytes.
    base: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Quiet,
    Normal,
    Verbose,
}

type Printed = Result<(), Status>;

impl Printer {
    /// As the options of the command line say.
    pub fn new(quiet: bool, verbose: u8, units: Option<&str>) -> Printer {
        let level = match (quiet, verbose) {
            (true, _) => Level::Quiet,
            (false, 0) => Level::Normal,
            (false, _) => Level::Verbose,
        };
        Printer { level, base: units.map(|units| if units == "i" { 1024.0 } else { 1000.0 }) }
    }

    /// A result line; nothing when quiet.
    pub fn say(&self, line: &str) -> Printed {
        if self.level < Level::Normal { Ok(()) } else { print(&format!("{line}\n")) }
    }
    /// A line about what is going on.
    pub fn verbose(&self, line: &str) -> Printed {
        if self.level < Level::Verbose { Ok(()) } else { print(&format!("{line}\n")) }
    }
    /// A reply as it is.
    pub fn json<T: Serialize>(&self, reply: &T) -> Printed {
        let text = serde_json::to_string_pretty(reply).map_err(|error| Status::internal(error.to_string()))?;
        print(&format!("{text}\n"))
    }

    pub fn pools(&self, pools: &[v0::Pool]) -> Printed {
        let row = |p: &v0::Pool| {
            let (capacity, used) = (self.size(p.capacity), self.size(p.used));
            vec![p.name.clone(), p.state().word(), capacity, used, p.disks.join(" ")]
        };
        self.list(&["NAME", "STATE", ">CAPACITY", ">USED", "DISKS"], pools.iter().map(row), "No pools found")
    }

    pub fn replicas(&self, replicas: &[v0::Replica]) -> Printed {
        let row = |r: &v0::Replica| {
            let (share, size) = (r.share().word(), self.size(r.size));
            vec![r.pool.clone(), r.uuid.clone(), r.thin.to_string(), share, size, r.uri.clone()]
        };
        let titles = ["POOL", "NAME", "THIN", "SHARE", ">SIZE", "URI"];
        self.list(&titles, replicas.iter().map(row), "No replicas found")
    }

    pub fn stats(&self, replicas: &[v0::ReplicaStats]) -> Printed {
        if replicas.is_empty() {
            return self.say("No replicas have been created");
        }
        let line = |cells: [&str; 6]| {
            let [pool, name, reads, writes, read, written] = cells;
            format!("{pool:20} {name:36} {reads:>10} {writes:>10} {read:>10} {written:>10}\n")
        };
        let mut text = String::new();
        if self.level >= Level::Normal {
            text += &line(["POOL", "NAME", "RDCNT", "WRCNT", "RDBYTES", "WRBYTES"]);
        }
        for replica in replicas {
            let stats = replica.stats.unwrap_or_default();
            let counts = [stats.num_read_ops.to_string(), stats.num_write_ops.to_string()];
            let sizes = [self.size(stats.bytes_read), self.size(stats.bytes_written)];
            text += &line([&replica.pool, &replica.uuid, &counts[0], &counts[1], &sizes[0], &sizes[1]]);
        }
        print(&text)
    }

    pub fn nexuses(&self, nexuses: &[v0::Nexus], show_children: bool) -> Printed {
        let mut titles = vec!["NAME", "PATH", ">SIZE", "STATE", ">REBUILDS"];
        if show_children {
            titles.push("CHILDREN");
        }
        let row = |n: &v0::Nexus| {
            let (size, rebuilds) = (self.size(n.size), n.rebuilds.to_string());
            let mut cells = vec![n.uuid.clone(), n.device_uri.clone(), size, n.state().word(), rebuilds];
            if show_children {
                cells.push(n.children.iter().map(|child| child.uri.as_str()).collect::<Vec<_>>().join(","));
            }
            cells
        };
        self.list(&titles, nexuses.iter().map(row), "No nexus found")
    }

    pub fn children(&self, children: &[v0::Child]) -> Printed {
        let row = |c: &v0::Child| vec![c.uri.clone(), c.state().word()];
        self.list(&["NAME", "STATE"], children.iter().map(row), "No children found")
    }

    /// Rows with titles in columns; when quiet, rows with single spaces.
    fn list(&self, titles: &[&str], rows: impl Iterator<Item = Vec<String>>, none: &str) -> Printed {
        let mut rows: Vec<Vec<String>> = rows.collect();
        if rows.is_empty() {
            return self.say(none);
        }
        let mut widths = vec![0; titles.len()];
        if self.level >= Level::Normal {
            rows.insert(0, titles.iter().map(|title| title.trim_start_matches('>').to_owned()).collect());
            for row in &rows {
                for (width, cell) in widths.iter_mut().zip(row) {
                    *width = cell.chars().count().max(*width);
                }
            }
        }
        let mut text = String::new();
        for row in rows {
            let cells = row.iter().zip(titles).zip(&widths).map(|((cell, title), &width)| {
                if title.starts_with('>') { format!("{cell:>width$}") } else { format!("{cell:width$}") }
            });
            text += cells.collect::<Vec<_>>().join(" ").trim_end();
            text.push('\n');
        }
        print(&text)
    }

    /// Plain bytes, or two decimals and a large unit.
    #[allow(clippy::cast_precision_loss, reason = "two decimals are shown")]
    fn size(&self, bytes: u64) -> String {
        let Some(base) = self.base else { return bytes.to_string() };
        let (mut value, mut power) = (bytes as f64, 0);
        while value >= base && power < 6 {
            value /= base;
            power += 1;
        }
        let binary = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let decimal = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
        let unit = if base > 1000.0 { binary[power] } else { decimal[power] };
        if power == 0 { format!("{bytes} {unit}") } else { format!("{value:.2} {unit}") }
    }
}

/// The message of the status that stands for a reader who has gone away.
pub const NO_READER: &str = "nobody reads the output";

fn print(text: &str) -> Printed {
    output::print(text).map_err(|failure| match failure {
        Failure::NoReader => Status::cancelled(NO_READER),
        other => Status::internal(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_decimals() {
        let show = |units, bytes| Printer::new(false, 0, units).size(bytes);
        assert_eq!(show(None, 100_663_296), "100663296");
        assert_eq!(show(Some("i"), 100_663_296), "96.00 MiB");
        assert_eq!(show(Some("d"), 100_663_296), "100.66 MB");
        assert_eq!(show(Some("i"), 0), "0 B");
    }
}
