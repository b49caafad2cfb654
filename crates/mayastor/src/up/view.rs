//! What `mayastor up` shows: on a terminal one picture that is kept up to date, elsewhere a line for each event.

use std::collections::VecDeque;
use std::time::Duration;

use api::v1;
use control::{Control, EventStream};

use super::cluster::Cluster;
use crate::client::progress;
use crate::failure::Done;
use crate::output;
use crate::size::Units;

/// Events kept in sight.
const EVENTS: usize = 6;
/// The picture is drawn at most this often.
const PAUSE: Duration = Duration::from_millis(250);

/// See the module.
pub struct View {
    terminal: bool,
    events: EventStream,
    recent: VecDeque<String>,
    seen: u64,
}

impl View {
    /// Begins: says where everything is.
    pub fn new(cluster: &Cluster) -> Result<View, crate::failure::Failure> {
        let view = View {
            terminal: output::is_terminal(),
            events: cluster.control().events(),
            recent: VecDeque::new(),
            seen: 0,
        };
        if !view.terminal {
            output::print(&format!("{}\n{}", heading(cluster), hint(cluster)))?;
        }
        Ok(view)
    }

    /// Waits until there is something new.
    pub async fn news(&mut self, control: &Control) {
        if !self.terminal {
            if let Some(event) = self.events.next().await {
                self.recent.push_back(line(&event));
            }
            return;
        }
        tokio::time::sleep(PAUSE).await;
        // Times go on even when nothing happens.
        let changed = tokio::time::timeout(Duration::from_secs(1), control.changed(self.seen)).await;
        self.seen = changed.unwrap_or(self.seen);
        while let Some(event) = self.events.ready() {
            self.recent.push_back(line(&event));
        }
    }

    /// Something about a process.
    pub fn note(&mut self, text: &str) -> Done {
        self.recent.push_back(text.to_owned());
        Ok(())
    }

    /// Draws.
    pub fn show(&mut self, cluster: &Cluster) -> Done {
        if !self.terminal {
            let lines: String = self.recent.drain(..).map(|l| l + "\n").collect();
            return if lines.is_empty() { Ok(()) } else { output::print(&lines) };
        }
        while self.recent.len() > EVENTS {
            self.recent.pop_front();
        }
        let status = cluster.control().status();
        let mut text = heading(cluster);
        text += "\n";
        text += &nodes(cluster, &status);
        text += "\n";
        text += &volumes(&status);
        if status.volumes.is_empty() {
            text += &hint(cluster);
        }
        if !self.recent.is_empty() {
            text += "\n";
            text.extend(self.recent.iter().map(|l| format!("  {l}\n")));
        }
        text += "\nctrl-C stops everything; a second `mayastor up` continues here.\n";
        // Home, each line cleared to its end, then the rest of the screen: no flicker.
        output::print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
    }

    /// Leaves the picture where it is.
    pub fn end(&self) -> Done {
        if self.terminal { output::print("\n") } else { Ok(()) }
    }
}

fn line(event: &v1::Event) -> String {
    let seconds = event.time_ms / 1000 % 86_400;
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{h:02}:{m:02}:{s:02} UTC  {}", event.text)
}

fn heading(cluster: &Cluster) -> String {
    let (n, at) = (cluster.processes().len(), cluster.address());
    format!("Mayastor is up: {n} nodes, control plane at {at}, data in {}\n", cluster.dir().display())
}

fn hint(cluster: &Cluster) -> String {
    let at = cluster.address();
    let option = if at.port() == api::CONTROL_PORT { String::new() } else { format!(" --control {at}") };
    let page = cluster.page().map(|at| format!("See it in a browser: http://{at}\n\n")).unwrap_or_default();
    let note = cluster.note().map(|note| format!("{note}\n\n")).unwrap_or_default();
    format!(
        "{page}{note}In another terminal:\n  mayastor{option} volume create first --size 1GiB --replicas 2\n  \
         mayastor{option} volume publish first\n  mayastor{option} status --watch\n"
    )
}

/// A bar of `width` characters.
pub fn bar(done: u64, total: u64, width: usize) -> String {
    let filled =
        if total == 0 { 0 } else { (u128::from(done.min(total)) * width as u128 / u128::from(total)) as usize };
    format!("[{}{}]", "#".repeat(filled), ".".repeat(width - filled))
}

fn nodes(cluster: &Cluster, status: &v1::Status) -> String {
    let mut text = String::new();
    for (name, pid) in cluster.processes() {
        let state = status.nodes.iter().find(|n| n.id == name).map_or("starting", |n| n.state.as_str());
        let pid = pid.map_or("dead".to_owned(), |pid| format!("pid {pid}"));
        text += &format!("  {name:<9} {state:<12} {pid:<12}");
        for pool in status.pools.iter().filter(|p| p.node == name).filter_map(|p| p.pool.as_ref()) {
            let show = |n| Units::Binary.show(n);
            let bar = bar(pool.used, pool.capacity, 20);
            text += &format!(" {} {bar} {} of {}", pool.name, show(pool.used), show(pool.capacity));
            if !pool.reason.is_empty() {
                text += &format!(" ({})", pool.reason);
            }
        }
        text.push('\n');
    }
    text
}

fn volumes(status: &v1::Status) -> String {
    let mut text = String::new();
    for v in &status.volumes {
        let size = Units::Binary.show(v.size);
        text += &format!("  {:<16} {size:>9} {:<9} {}\n", v.name, v.state, v.device_uri);
        if !v.reason.is_empty() {
            text += &format!("    {}\n", v.reason);
        }
        for r in &v.replicas {
            text += &format!("    {}/{:<6} {:<12}", r.node, r.pool, r.state);
            if let Some(rebuild) = &r.rebuild {
                let eta = if rebuild.eta_ms > 0 { progress::duration(rebuild.eta_ms) + " left" } else { String::new() };
                let bar = bar(rebuild.bytes_done, rebuild.bytes_total, 30);
                text += &format!(" {bar} {} % {eta}", progress::percent(rebuild));
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn bars() {
        assert_eq!((bar(0, 0, 4), bar(1, 2, 4), bar(9, 2, 4)), ("[....]".into(), "[##..]".into(), "[####]".into()));
    }
}
