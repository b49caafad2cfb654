//! Long work on a terminal: bars; elsewhere: a line now and then.

use api::v1;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;

use crate::failure::Done;
use crate::output::{self, Output};

/// Whole per cent, 0 to 100; 100 only when all is done.
pub fn percent(rebuild: &v1::Rebuild) -> u64 {
    if rebuild.bytes_total == 0 {
        return 100;
    }
    let done = u128::from(rebuild.bytes_done.min(rebuild.bytes_total));
    u64::try_from(done * 100 / u128::from(rebuild.bytes_total)).expect("at most 100")
}

/// A duration for people: two units at most.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

/// One line about a rebuild.
pub fn line(rebuild: &v1::Rebuild, output: &Output) -> String {
    let size = |bytes| output.size(bytes);
    let mut text = format!(
        "{} {}% ({} of {}",
        rebuild.state,
        percent(rebuild),
        size(rebuild.bytes_done),
        size(rebuild.bytes_total)
    );
    if rebuild.bytes_per_second > 0 {
        text += &format!(", {}/s", size(rebuild.bytes_per_second));
    }
    if rebuild.eta_ms > 0 {
        text += &format!(", {} left", duration(rebuild.eta_ms));
    }
    text + ")"
}

/// Something that takes a while and does not say how far it is: a spinner on a terminal, nothing elsewhere.
pub struct Waiting(Option<ProgressBar>);

impl Waiting {
    /// Begins to turn.
    pub fn start(output: Output, text: &str) -> Waiting {
        let draw = output::is_terminal() && !output.quiet && output.format == output::Format::Table;
        Waiting(draw.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a valid template"));
            bar.set_message(text.to_owned());
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            bar
        }))
    }
    /// Goes away.
    pub fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// Several works in progress, by name.
pub struct Progress {
    output: Output,
    bars: Option<MultiProgress>,
    works: BTreeMap<String, Work>,
}

struct Work {
    bar: ProgressBar,
    /// What was last printed where there are no bars: the state, and the per cent in steps of ten.
    printed: Option<(String, u64)>,
}

impl Progress {
    /// Nothing in progress yet. Bars are drawn on a terminal, unless the output is quiet or for a program.
    pub fn new(output: Output) -> Progress {
        let draw = output::is_terminal() && !output.quiet && output.format == output::Format::Table;
        Progress {
            output,
            bars: draw.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr())),
            works: BTreeMap::new(),
        }
    }

    /// Shows how far a rebuild is.
    pub fn show(&mut self, name: &str, rebuild: &v1::Rebuild) -> Done {
        let text = line(rebuild, &self.output);
        let bars = &self.bars;
        let work = self.works.entry(name.to_owned()).or_insert_with(|| Work {
            bar: bars.as_ref().map_or_else(ProgressBar::hidden, |bars| bars.add(bar())),
            printed: None,
        });
        if self.bars.is_some() {
            work.bar.set_prefix(name.to_owned());
            work.bar.set_length(rebuild.bytes_total);
            work.bar.set_position(rebuild.bytes_done);
            work.bar.set_message(text);
            return Ok(());
        }
        let now = Some((rebuild.state.clone(), percent(rebuild) / 10));
        if work.printed == now || self.output.quiet || self.output.format != output::Format::Table {
            return Ok(());
        }
        work.printed = now;
        output::print(&format!("{name}: {text}\n"))
    }

    /// A work has ended: its bar goes.
    pub fn end(&mut self, name: &str) {
        if let Some(work) = self.works.remove(name) {
            work.bar.finish_and_clear();
        }
    }

    /// Ends all works except those that `keep` names.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<_> = self.works.keys().filter(|name| !keep(name)).cloned().collect();
        for name in gone {
            self.end(&name);
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}").expect("a correct template");
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (ms, text) in [(999, "0s"), (61_000, "1m01s"), (3_600_000, "1h00m"), (90_061_000, "1d01h")] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn a_line_says_what_is_known() {
        let output = Output { format: output::Format::Table, units: crate::size::Units::Binary, quiet: false };
        let mut rebuild =
            v1::Rebuild { state: "running".into(), bytes_done: 1 << 20, bytes_total: 4 << 20, ..Default::default() };
        assert_eq!(line(&rebuild, &output), "running 25% (1 MiB of 4 MiB)");
        rebuild.bytes_per_second = 1 << 20;
        rebuild.eta_ms = 3000;
        assert_eq!(line(&rebuild, &output), "running 25% (1 MiB of 4 MiB, 1 MiB/s, 3s left)");
    }
}
