//! One block as a linearizable register (Gibbons and Korach's zones, for writes with unique values).
//!
//! A **group** is a write with the reads that returned it. `low` is the earliest answer in the group, `high` the latest
//! invocation. When `low < high` the zone from `low` to `high` is *forward*: the block certainly held the value all that
//! time. Otherwise it is *backward*. The history is a register's exactly when no two forward zones overlap and no backward
//! zone lies inside a forward one. An unanswered write has no answer: it may happen at any later time, once; unless it was
//! sent to a nexus that another has replaced: then it has happened before the other's first answer, or never does.
//!
//! A loss of power that took the caches of every member which held the block's last value begins a new **epoch**: what was
//! not flushed may be gone. The first read after it decides, and from then on the rules of a register hold again.

use crate::payload::Content;

/// The number of a write; 0 is the block as it was made, zeroes.
pub type WriteId = u64;
/// Nanoseconds on the world's clock.
pub type Time = u64;

const NEVER: Time = Time::MAX;

#[derive(Clone, Debug)]
struct Group {
    write: WriteId,
    zero: bool,
    answered: bool,
    /// Flushed on every member in sync.
    durable: bool,
    low: Time,
    high: Time,
    /// When it was certain for the first time that the block holds it: by an answer or by a read.
    known: Time,
    /// Without an answer: it has happened by then, or never does.
    over: Time,
}

impl Group {
    fn is_forward(&self) -> bool {
        self.low < self.high
    }
    /// Whether the two zones can not both be those of a register.
    fn contradicts(&self, other: &Group) -> bool {
        match (self.is_forward(), other.is_forward()) {
            (true, true) => self.low.max(other.low) < self.high.min(other.high),
            (true, false) => self.low < other.high && other.low < self.high,
            (false, true) => other.low < self.high && self.low < other.high,
            (false, false) => false,
        }
    }
    /// Whether everything about this group came before something of the other.
    fn is_before(&self, other: &Group) -> bool {
        self.low < other.high
    }
}

/// What the block may hold at the beginning of an epoch.
#[derive(Clone, Debug)]
struct Open {
    since: Time,
    /// Write, whether it is of zeroes, whether it was durable.
    allowed: Vec<(WriteId, bool, bool)>,
}

/// The history of one block.
#[derive(Clone, Debug)]
pub struct Register {
    groups: Vec<Group>,
    open: Option<Open>,
    /// What was allowed at the beginning of the epoch, and may come back with the next loss while nothing is flushed.
    fallback: Vec<(WriteId, bool, bool)>,
    /// Reads of zeroes can be of more than one write: they are not judged in this epoch.
    vague_zero: bool,
}

impl Default for Register {
    fn default() -> Register {
        let made =
            Group { write: 0, zero: true, answered: true, durable: true, low: 0, high: 0, known: 0, over: NEVER };
        Register { groups: vec![made], open: None, fallback: Vec::new(), vague_zero: false }
    }
}

impl Register {
    /// Whether a write of zeroes can be told from others: nothing else is under way, or left without an answer.
    pub fn is_calm(&self) -> bool {
        self.open.is_none() && self.groups.iter().all(|g| g.answered)
    }

    /// A write was sent.
    pub fn invoke(&mut self, write: WriteId, zero: bool, now: Time) {
        let group =
            Group { write, zero, answered: false, durable: false, low: NEVER, high: now, known: NEVER, over: NEVER };
        self.groups.push(group);
    }

    /// A write was answered. Returns it when it is known to be there for the first time, or what is wrong with that.
    pub fn answer(&mut self, write: WriteId, now: Time) -> Result<Option<WriteId>, String> {
        // An answer that was on its way when the power went belongs to the epoch before.
        let Some(k) = self.groups.iter().position(|g| g.write == write) else { return Ok(None) };
        self.groups[k].low = self.groups[k].low.min(now);
        self.groups[k].answered = true;
        self.judge(k, "the answer of the write")?;
        Ok(self.learn(k, now))
    }

    /// Writes that were sent before `sent` and are still unanswered have happened by now, or never will.
    pub fn over(&mut self, sent: Time, now: Time) {
        let open = |g: &&mut Group| !g.answered && g.low == NEVER && g.high < sent;
        self.groups.iter_mut().filter(open).for_each(|g| g.over = g.over.min(now));
    }

    fn learn(&mut self, k: usize, now: Time) -> Option<WriteId> {
        let group = &mut self.groups[k];
        let news = group.known == NEVER;
        group.known = group.known.min(now);
        (news && !group.durable).then_some(group.write)
    }

    /// One write, answered now, is durable on every member in sync (FUA).
    pub fn forced(&mut self, write: WriteId) {
        if let Some(group) = self.groups.iter_mut().find(|g| g.write == write) {
            group.durable = true;
        }
    }

    /// What was known to be there at `asked` is durable on every member in sync.
    pub fn flushed(&mut self, asked: Time) {
        self.groups.iter_mut().filter(|g| g.known <= asked).for_each(|g| g.durable = true);
    }

    /// Whether a write may still be lost with the power.
    pub fn is_soft(&self, write: WriteId) -> bool {
        self.groups.iter().any(|g| g.write == write && !g.durable)
    }

    /// A read, from `asked` to `now`, returned `content`. Returns the write when it is known to be there for the first
    /// time, or what is wrong with that.
    pub fn read(&mut self, content: Content, asked: Time, now: Time) -> Result<Option<WriteId>, String> {
        if self.open.as_ref().is_some_and(|open| asked <= open.since) {
            // It was under way when the power went: it saw the one or the other.
            return Ok(None);
        }
        let found = match content {
            Content::Alien => return Err("it holds something that was never written there".into()),
            Content::Written(write) => self.groups.iter().position(|g| g.write == write && !g.zero),
            Content::Zero => {
                let mut zeroes = self.groups.iter().enumerate().filter(|(_, g)| g.zero && g.high <= now);
                let last = zeroes.next_back().map(|(k, _)| k);
                let others = zeroes.next().is_some() && !self.is_calm();
                let base = self.open.as_ref().is_some_and(|open| open.allowed.iter().any(|(_, zero, _)| *zero));
                self.vague_zero |= others || (last.is_some() && base);
                last
            }
        };
        let k = match found {
            Some(k) => k,
            None => self.decide(content, now)?,
        };
        let group = &mut self.groups[k];
        if !group.answered && group.high > now {
            return Err(format!("write {} was read before it was sent", group.write));
        }
        group.low = group.low.min(now).min(group.over);
        group.high = group.high.max(asked);
        self.judge(k, "a read of the write")?;
        Ok(self.learn(k, now))
    }

    /// The first read after a loss of power decides what the block holds.
    fn decide(&mut self, content: Content, now: Time) -> Result<usize, String> {
        let name = match content {
            Content::Written(write) => format!("write {write}"),
            _ => "zeroes".into(),
        };
        let Some(open) = &self.open else {
            return Err(format!("{name} was read, which the block can not hold any more"));
        };
        let wanted = |(write, zero, _): &&(WriteId, bool, bool)| match content {
            Content::Written(id) => *write == id && !*zero,
            _ => *zero,
        };
        let Some(&(write, zero, durable)) = open.allowed.iter().find(wanted) else {
            return Err(format!("{name} was read after a loss of power, but something newer was flushed before it"));
        };
        let since = open.since;
        self.open = None;
        self.groups.push(Group {
            write,
            zero,
            answered: true,
            durable,
            low: since.min(now),
            high: since,
            known: NEVER,
            over: NEVER,
        });
        Ok(self.groups.len() - 1)
    }

    fn judge(&self, k: usize, what: &str) -> Result<(), String> {
        let group = &self.groups[k];
        for (_, other) in self.groups.iter().enumerate().filter(|(i, _)| *i != k) {
            if self.vague_zero && (group.zero || other.zero) {
                continue;
            }
            if group.contradicts(other) {
                let name = |g: &Group| {
                    let kind = if g.zero { "zeroes, write" } else { "write" };
                    let until = if g.low == NEVER { "no answer".into() } else { format!("{:.3}", g.low as f64 / 1e6) };
                    format!("{kind} {} [first answer {until}, last asked {:.3}]", g.write, g.high as f64 / 1e6)
                };
                return Err(format!("{what} makes two values overlap in time: {} and {}", name(group), name(other)));
            }
        }
        Ok(())
    }

    /// Everything that held the last value lost its cache.
    pub fn lose_power(&mut self, now: Time) {
        let durable: Vec<Group> = self.groups.iter().filter(|g| g.durable).cloned().collect();
        let overwritten = |g: &Group| durable.iter().any(|d| d.write != g.write && g.answered && g.is_before(d));
        let mut allowed: Vec<(WriteId, bool, bool)> = Vec::new();
        for group in self.groups.iter().filter(|g| !overwritten(g)) {
            allowed.push((group.write, group.zero, group.durable));
        }
        if durable.is_empty() {
            allowed.append(&mut self.fallback);
        }
        // What was never answered may still happen.
        self.groups.retain(|g| !g.answered && g.low == NEVER);
        for group in &mut self.groups {
            (group.high, group.over) = (now, NEVER);
        }
        self.fallback.clone_from(&allowed);
        self.open = Some(Open { since: now, allowed });
        self.vague_zero = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn w(write: WriteId) -> Content {
        Content::Written(write)
    }

    #[test]
    fn a_stale_read_is_noticed() {
        let mut r = Register::default();
        r.invoke(1, false, 10);
        r.answer(1, 20).unwrap();
        r.read(w(1), 30, 40).unwrap();
        r.invoke(2, false, 50);
        r.answer(2, 60).unwrap();
        r.read(w(2), 70, 80).unwrap();
        assert!(r.clone().read(w(1), 90, 100).is_err());
        assert!(r.clone().read(Content::Zero, 90, 100).is_err());
        assert!(r.clone().read(Content::Alien, 90, 100).is_err());
        assert!(r.read(w(2), 90, 100).is_ok());
    }

    #[test]
    fn an_overwritten_value_is_not_read_even_when_nothing_else_was_read() {
        let mut r = Register::default();
        r.invoke(1, false, 10);
        r.answer(1, 20).unwrap();
        r.invoke(2, false, 30);
        r.answer(2, 40).unwrap();
        assert!(r.read(w(1), 50, 60).is_err());
    }

    #[test]
    fn concurrent_writes_may_end_either_way_but_not_both() {
        let mut r = Register::default();
        r.invoke(1, false, 10);
        r.invoke(2, false, 12);
        r.answer(1, 20).unwrap();
        r.answer(2, 22).unwrap();
        r.read(w(1), 30, 40).unwrap();
        assert!(r.clone().read(w(2), 50, 60).is_err());
        assert!(r.read(w(1), 50, 60).is_ok());
    }

    #[test]
    fn an_unanswered_write_happens_late_but_only_once() {
        let mut r = Register::default();
        r.invoke(1, false, 10);
        r.invoke(2, false, 20);
        r.answer(2, 30).unwrap();
        r.read(w(2), 40, 50).unwrap();
        r.read(w(1), 60, 70).unwrap();
        assert!(r.read(w(2), 80, 90).is_err());
    }

    #[test]
    fn an_unanswered_write_does_not_happen_under_the_next_nexus() {
        let mut r = Register::default();
        r.invoke(1, false, 10);
        r.invoke(2, false, 40);
        r.answer(2, 50).unwrap();
        let mut early = r.clone();
        early.read(w(2), 55, 56).unwrap();
        r.over(30, 50);
        r.read(w(2), 60, 70).unwrap();
        assert!(r.read(w(1), 80, 90).is_err(), "it came after all");
        early.over(30, 57);
        assert!(early.clone().read(w(1), 58, 59).is_ok(), "it came in between");
        early.read(w(2), 60, 61).unwrap();
        assert!(early.read(w(1), 80, 90).is_err());
    }

    #[test]
    fn power_takes_back_what_was_not_flushed_and_the_first_read_decides() {
        let mut r = Register::default();
        for write in 1..=3 {
            r.invoke(write, false, write * 10);
            r.answer(write, write * 10 + 5).unwrap();
        }
        r.forced(2);
        r.lose_power(100);
        assert!(r.clone().read(w(1), 110, 120).is_err(), "2 was flushed");
        assert!(r.clone().read(Content::Zero, 110, 120).is_err());
        assert!(r.clone().read(w(3), 110, 120).is_ok());
        r.read(w(2), 110, 120).unwrap();
        assert!(r.clone().read(w(3), 130, 140).is_err(), "2 was read after the loss");
        r.invoke(4, false, 150);
        r.answer(4, 160).unwrap();
        assert!(r.clone().read(w(2), 170, 180).is_err());
        r.read(w(4), 170, 180).unwrap();
    }

    #[test]
    fn what_was_decided_but_not_flushed_may_be_lost_again() {
        let mut r = Register::default();
        r.invoke(1, false, 10);
        assert_eq!(r.answer(1, 20), Ok(Some(1)));
        r.lose_power(30);
        assert_eq!(r.read(w(1), 40, 50), Ok(Some(1)));
        let mut flushed = r.clone();
        r.lose_power(60);
        assert!(r.clone().read(Content::Zero, 70, 80).is_ok(), "1 was never flushed");
        r.read(w(1), 70, 80).unwrap();
        flushed.flushed(55);
        flushed.lose_power(60);
        assert!(flushed.read(Content::Zero, 70, 80).is_err());
    }
}
