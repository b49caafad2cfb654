//! A controller: one association of a host with a subsystem, or with discovery.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use block::{Instant, limits};

use super::{ConnectionId, SubsystemId};
use crate::Nqn;
use crate::command::notice;
use crate::fabrics::csts;
use crate::log::page;

/// KAS: the granularity of keep-alive timeouts.
pub(super) const KEEP_ALIVE_GRANULARITY: Duration = Duration::from_secs(1);

/// How far a controller is.
///
/// ```text
///  Waiting (its Connect is not answered: an older association of the host is still at the disk)
///     │
///     ▼      EN=1            SHN            flushed
///  Disabled ─────► Ready ─────────► ShuttingDown ─► ShutDown
///     ▲              │ EN=0                            │ EN=0
///     │              ▼                                 │
///     └────────── Resetting ◄──────────────────────────┘
///   I/O queues ended
///
///  any ─ admin connection lost, keep-alive expired, superseded, unexported ─► Closing ─ connections ended ─► gone
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its Connect waits for the end of an older association.
    Waiting,
    /// CC.EN is 0.
    Disabled,
    /// CC.EN is 1; commands are processed.
    Ready,
    /// CC.EN was cleared; the I/O queues are ending. CSTS.RDY stays 1 until then.
    Resetting,
    /// A shutdown was asked for; the flush is at the disk.
    ShuttingDown,
    /// The shutdown is complete.
    ShutDown,
    /// The association has ended; its connections have not all.
    Closing,
}

/// What has happened that a host may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The namespace's attributes changed.
    Namespace,
    /// The discovery log changed.
    Discovery,
}

impl Notice {
    fn bit(self) -> u32 {
        match self {
            Notice::Namespace => notice::NAMESPACE_ATTRIBUTES,
            Notice::Discovery => notice::DISCOVERY_LOG,
        }
    }
    fn result(self) -> u32 {
        match self {
            Notice::Namespace => notice::result(notice::INFO_NAMESPACE, page::CHANGED_NAMESPACES),
            Notice::Discovery => notice::result(notice::INFO_DISCOVERY, page::DISCOVERY),
        }
    }
}

/// `Quiet ─happened─► Pending ─event request there─► Reported ─log page read─► Quiet`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Report {
    #[default]
    Quiet,
    Pending,
    /// Not reported again until the host has read the log page (Base 5.2).
    Reported,
}

/// Asynchronous events (Base 5.2). A controller has one kind of notice: namespace or discovery.
#[derive(Debug)]
pub(super) struct Events {
    notice: Notice,
    /// Feature 0Bh as the host set it.
    pub enabled: u32,
    /// Slots of event requests.
    waiting: VecDeque<u16>,
    report: Report,
}

impl Events {
    /// Adds an event request; `false` when there are too many.
    pub fn add_request(&mut self, slot: u16) -> bool {
        if self.waiting.len() >= limits::ASYNC_EVENTS {
            return false;
        }
        self.waiting.push_back(slot);
        true
    }
    /// Takes back an event request; `false` when it is not there.
    pub fn remove_request(&mut self, slot: u16) -> bool {
        let at = self.waiting.iter().position(|s| *s == slot);
        at.and_then(|i| self.waiting.remove(i)).is_some()
    }
    /// Something has happened.
    pub fn happened(&mut self) {
        if self.report == Report::Quiet && self.enabled & self.notice.bit() != 0 {
            self.report = Report::Pending;
        }
    }
    /// The log page of the notice was read.
    pub fn acknowledged(&mut self) {
        if self.report == Report::Reported {
            self.report = Report::Quiet;
        }
    }
    /// The event request to answer now, and its result.
    pub fn due(&mut self) -> Option<(u16, u32)> {
        if self.report != Report::Pending {
            return None;
        }
        let slot = self.waiting.pop_front()?;
        self.report = Report::Reported;
        Some((slot, self.notice.result()))
    }
    /// Forgets everything (controller reset); the slots that held event requests.
    pub fn reset(&mut self) -> VecDeque<u16> {
        self.enabled = 0;
        self.report = Report::Quiet;
        std::mem::take(&mut self.waiting)
    }
}

/// The keep-alive timer (Base 3.9). Any bytes on any connection of the controller count as a sign of life. The time is
/// looked at four times per timeout, not with every byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepAlive {
    pub timeout: Duration,
    /// Since when nothing was heard, and when that was looked at last; `None` before the first look.
    quiet: Option<(Instant, Instant)>,
}

impl KeepAlive {
    /// A timer for KATO milliseconds, rounded up to the granularity; `None` for 0, no timer.
    pub fn new(ms: u32) -> Option<KeepAlive> {
        let granules = u64::from(ms).div_ceil(KEEP_ALIVE_GRANULARITY.as_millis() as u64);
        (ms > 0).then(|| KeepAlive { timeout: KEEP_ALIVE_GRANULARITY * granules as u32, quiet: None })
    }
    /// KATO in milliseconds.
    pub fn ms(&self) -> u32 {
        u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX)
    }
    /// When to look next.
    pub fn deadline(&self) -> Instant {
        self.quiet.map_or(Instant(0), |(since, looked)| (looked + self.timeout / 4).min(since + self.timeout))
    }
    /// Looks. `heard`: bytes arrived since the last look. `true` when the timer has expired.
    pub fn look(&mut self, now: Instant, heard: bool) -> bool {
        let since = match self.quiet {
            Some((since, _)) if !heard => since,
            _ => now,
        };
        self.quiet = Some((since, now));
        now.since(since) >= self.timeout
    }
}

/// A controller.
#[derive(Debug)]
pub(super) struct Controller {
    /// CNTLID.
    pub id: u16,
    /// `None`: a discovery controller.
    pub subsystem: Option<SubsystemId>,
    /// The name with which the host asked for the subsystem.
    pub subsystem_nqn: Nqn,
    pub host_nqn: Nqn,
    pub host_id: [u8; 16],
    pub state: State,
    /// CC as the host set it.
    pub cc: u32,
    /// Its connections by queue, until they have ended.
    pub queues: BTreeMap<u16, ConnectionId>,
    /// How many I/O queues the host may connect.
    pub io_queues: u16,
    pub keep_alive: Option<KeepAlive>,
    pub events: Events,
    /// The namespace has changed since the changed namespace list was read.
    pub namespace_changed: bool,
}

impl Controller {
    pub fn new(id: u16, subsystem: Option<SubsystemId>, subsystem_nqn: Nqn, host_nqn: Nqn, host_id: [u8; 16]) -> Self {
        let notice = if subsystem.is_some() { Notice::Namespace } else { Notice::Discovery };
        Controller {
            id,
            subsystem,
            subsystem_nqn,
            host_nqn,
            host_id,
            state: State::Disabled,
            cc: 0,
            queues: BTreeMap::new(),
            io_queues: if subsystem.is_some() { limits::IO_QUEUES } else { 0 },
            keep_alive: None,
            events: Events { notice, enabled: 0, waiting: VecDeque::new(), report: Report::Quiet },
            namespace_changed: false,
        }
    }

    /// The admin queue's connection.
    pub fn admin(&self) -> Option<ConnectionId> {
        self.queues.get(&0).copied()
    }

    /// Whether admin commands are processed.
    pub fn is_enabled(&self) -> bool {
        matches!(self.state, State::Ready | State::ShuttingDown | State::ShutDown)
    }

    /// CSTS.
    pub fn status(&self) -> u32 {
        match self.state {
            State::Waiting | State::Disabled => 0,
            State::Ready | State::Resetting => csts::READY,
            State::ShuttingDown => csts::READY | csts::SHUTDOWN_ACTIVE,
            State::ShutDown => csts::READY | csts::SHUTDOWN_COMPLETE,
            State::Closing => csts::FATAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_masked_until_the_log_is_read() {
        let mut events = Events {
            notice: Notice::Namespace,
            enabled: notice::NAMESPACE_ATTRIBUTES,
            waiting: VecDeque::new(),
            report: Report::Quiet,
        };
        events.happened();
        assert_eq!(events.due(), None, "no request is there yet");
        assert!(events.add_request(3) && events.add_request(4));
        assert_eq!(events.due(), Some((3, 0x0004_0002)));
        events.happened();
        assert_eq!(events.due(), None, "the log was not read");
        events.acknowledged();
        events.happened();
        assert_eq!(events.due(), Some((4, 0x0004_0002)));
        assert!(!events.remove_request(4));
        for slot in 0..limits::ASYNC_EVENTS as u16 {
            assert!(events.add_request(slot));
        }
        assert!(!events.add_request(99));
        assert_eq!(events.reset().len(), limits::ASYNC_EVENTS);
    }

    #[test]
    fn the_keep_alive_timer_counts_from_the_last_sign_of_life() {
        let at = |s: u64| Instant(s * 1_000_000_000);
        let mut timer = KeepAlive::new(7_500).expect("on");
        assert_eq!(timer.ms(), 8_000);
        assert_eq!(timer.deadline(), at(0));
        assert!(!timer.look(at(10), false));
        assert_eq!(timer.deadline(), at(12));
        assert!(!timer.look(at(12), true));
        assert!(!timer.look(at(19), false));
        assert_eq!(timer.deadline(), at(20));
        assert!(timer.look(at(20), false));
        assert!(KeepAlive::new(0).is_none());
    }
}
