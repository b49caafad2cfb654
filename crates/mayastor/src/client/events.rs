//! `mayastor events`.

use api::v1;
use clap::Args;
use tokio_stream::StreamExt;

use crate::connect::Client;
use crate::failure::Done;
use crate::output::{self, Format};

/// The examples of its help.
pub const EXAMPLES: &str = "Examples:
  mayastor events
  mayastor events --follow
  mayastor events --last 20 --object volume/data
  mayastor events --operation 5b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11";

/// What happened.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Go on with what happens from now on, until ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many; 0 for all that are kept
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    last: u32,
    /// Only those about this object, such as volume/data, pool/p1 or node/n1
    #[arg(long, value_name = "KIND/NAME", default_value = "", hide_default_value = true)]
    object: String,
    /// Only those that this wish caused: the operation of an event, a drain or a rebalance
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    operation: String,
}

/// Runs it.
pub async fn run(arguments: Arguments, client: &Client) -> Done {
    let output = &client.output;
    let control = client.control_stream().await?;
    let Arguments { follow, last, object, operation } = arguments;
    let request = v1::ListEventsRequest { follow, last, object, operation };
    let mut events = control.check(control.v1().list_events(request).await)?;
    let mut any = false;
    while let Some(event) = events.next().await {
        let event = event.map_err(|status| control.peer().failed(&status))?;
        any = true;
        match output.format {
            Format::Table => output::print(&line(&event))?,
            _ => output.item(&event)?,
        }
    }
    if !any && !output.quiet && output.format == Format::Table {
        output::print("No events found\n")?;
    }
    Ok(())
}

fn line(event: &v1::Event) -> String {
    let by = if event.actor.is_empty() { String::new() } else { format!(" (by {})", event.actor) };
    format!("{}  {:<18}  {:<20}  {}{by}\n", utc(event.time_ms), event.kind, event.object, event.text)
}

/// A time as `2026-11-22T17:12:58Z`.
fn utc(ms: u64) -> String {
    let seconds = ms / 1000;
    let (year, month, day) = date(seconds / 86400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day since 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years have 146,097 days; the loops below then take few steps.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_582_934_400_000, "2020-02-29T00:00:00Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
        // No number makes it panic.
        let _ = utc(u64::MAX);
    }
}
