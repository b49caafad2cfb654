//! What figures say, in words.

use api::v1;
use serde::Serialize;

/// How many times slower than the others something must be to be called slow.
const SLOWER: f64 = 2.0;
/// What takes less than this is not slow, however fast the others are, in microseconds.
const QUICK_US: f64 = 500.0;

/// Requests of one kind at one place, over some seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Span {
    /// Requests a second.
    pub per_second: f64,
    /// How long one took, on the average of those that were timed, in microseconds; `None` when none was.
    pub mean_us: Option<f64>,
    /// 99 of 100 took less, in microseconds; `None` when none was timed, or there is no bound.
    pub p99_us: Option<u64>,
    #[serde(skip)]
    timed: u64,
    #[serde(skip)]
    micros: u64,
}

/// The bound of a latency bucket of `mayastor.v1.Flow`, in microseconds; the last has none.
fn bound_us(bucket: usize, buckets: usize) -> Option<u64> {
    let first = if bucket.is_multiple_of(2) { 8 } else { 12 };
    (bucket + 1 < buckets).then(|| first << (bucket / 2))
}

impl Span {
    /// What a meter counted between two looks, so many seconds apart.
    pub fn between(before: Option<&v1::Flow>, after: Option<&v1::Flow>, seconds: f64) -> Span {
        let (empty_before, empty_after) = (v1::Flow::default(), v1::Flow::default());
        let (before, after) = (before.unwrap_or(&empty_before), after.unwrap_or(&empty_after));
        let at = |flow: &v1::Flow, n: usize| flow.latency.get(n).copied().unwrap_or(0);
        let latency: Vec<u64> = (0..after.latency.len()).map(|n| at(after, n).saturating_sub(at(before, n))).collect();
        let timed: u64 = latency.iter().sum();
        let micros = after.micros.saturating_sub(before.micros);
        let mut seen = 0;
        let p99 = latency.iter().position(|n| {
            seen += n;
            timed > 0 && seen * 100 >= timed * 99
        });
        Span {
            per_second: after.requests.saturating_sub(before.requests) as f64 / seconds.max(0.001),
            mean_us: (timed > 0).then(|| micros as f64 / timed as f64),
            p99_us: p99.and_then(|bucket| bound_us(bucket, latency.len())),
            timed,
            micros,
        }
    }

    /// Both together; the worse of both 99ths.
    pub fn add(&mut self, other: &Span) {
        self.per_second += other.per_second;
        self.timed += other.timed;
        self.micros += other.micros;
        self.mean_us = (self.timed > 0).then(|| self.micros as f64 / self.timed as f64);
        self.p99_us = self.p99_us.max(other.p99_us);
    }

    pub fn rate_text(self) -> String {
        format!("{:.0}", self.per_second)
    }
    pub fn mean_text(self) -> String {
        self.mean_us.map(time).unwrap_or_default()
    }
    pub fn p99_text(self) -> String {
        self.p99_us.map(|us| time(us as f64)).unwrap_or_default()
    }
}

/// Microseconds for people.
fn time(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.0} µs")
    } else if us < 1e6 {
        format!("{:.1} ms", us / 1000.0)
    } else {
        format!("{:.1} s", us / 1e6)
    }
}

/// A copy on the way of a volume's requests.
#[derive(Clone, Debug)]
pub struct Member {
    pub node: String,
    /// Whether a network lies between.
    pub remote: bool,
    /// As the volume sees it.
    pub seen: Span,
    /// As its pool serves it, when the node answers.
    pub served: Option<Span>,
}

impl Member {
    fn network_us(&self) -> Option<f64> {
        Some((self.seen.mean_us? - self.served?.mean_us?).max(0.0)).filter(|_| self.remote)
    }
    /// Where its time goes.
    fn parts(&self) -> String {
        let Some(disk) = self.served.and_then(|s| s.mean_us) else {
            return "its node says nothing about its part".into();
        };
        match self.network_us() {
            Some(network) => {
                let slow = if network > disk { "the network" } else { "its pool and disk" };
                format!("{} in its pool and disk, {} on the network: {slow} is the slow hop", time(disk), time(network))
            }
            None => format!("{} in its pool and disk, which is the slow hop", time(disk)),
        }
    }
}

/// The hops of a volume's requests of one kind.
#[derive(Clone, Debug)]
pub struct Hops {
    pub volume: Span,
    pub members: Vec<Member>,
}

impl Hops {
    pub fn new(volume: Span) -> Hops {
        Hops { volume, members: Vec::new() }
    }
}

/// Where the time of a volume's requests goes; the slow hop by name.
pub fn verdict(what: &str, hops: &Hops) -> String {
    let Some(volume) = hops.volume.mean_us else { return format!("there were no {what} to be timed") };
    let mut members: Vec<(&Member, f64)> = hops.members.iter().filter_map(|m| Some((m, m.seen.mean_us?))).collect();
    members.sort_by(|a, b| b.1.total_cmp(&a.1));
    let Some(&(slowest, most)) = members.first() else {
        return format!("{what} take {}; no copy was asked meanwhile", time(volume));
    };
    let others: Vec<f64> = members[1..].iter().map(|m| m.1).collect();
    // The slower of two in the middle: one fast copy does not make the others slow.
    if let Some(usual) =
        others.get(others.len().saturating_sub(1) / 2).filter(|usual| most > QUICK_US && most > *usual * SLOWER)
    {
        return format!(
            "{what} take {}; the copy on {} is slow: {}, where the others take {}. It spends {}",
            time(volume),
            slowest.node,
            time(most),
            time(*usual),
            slowest.parts()
        );
    }
    let queue = (volume - most).max(0.0);
    if volume > QUICK_US && queue > volume / 2.0 {
        return format!(
            "{what} take {}, of which {} in the volume's own queue: they wait for each other (the same blocks, a rebuild, or a \
             change of the members) before a copy is asked; the slowest copy takes {}",
            time(volume),
            time(queue),
            time(most)
        );
    }
    let pace = if volume > QUICK_US { "no copy stands out" } else { "nothing is slow" };
    format!(
        "{what} take {}: {pace}; the slowest copy is on {}: {}, with {}",
        time(volume),
        slowest.node,
        time(most),
        even(slowest)
    )
}

fn even(member: &Member) -> String {
    match (member.served.and_then(|s| s.mean_us), member.network_us()) {
        (Some(disk), Some(network)) => format!("{} in pool and disk, {} on the network", time(disk), time(network)),
        (Some(disk), None) => format!("{} in pool and disk", time(disk)),
        (None, _) => "nothing known of its own part".into(),
    }
}

/// How fast the copies at one place are beside all others.
pub fn place(what: &str, here: &Span, there: &Span) -> String {
    match (here.mean_us, there.mean_us) {
        (None, _) => format!("there were no {what} to be timed"),
        (Some(here), None) => format!("{what} of its copies take {}; there are no others to compare with", time(here)),
        (Some(here), Some(there)) if here > QUICK_US && here > there * SLOWER => {
            format!("{what} of its copies are slow: {}, where copies elsewhere take {}", time(here), time(there))
        }
        (Some(here), Some(there)) => {
            format!("{what} of its copies take {}, copies elsewhere {}", time(here), time(there))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(mean_us: f64) -> Span {
        Span { per_second: 10.0, mean_us: Some(mean_us), p99_us: None, timed: 10, micros: (mean_us * 10.0) as u64 }
    }
    fn member(node: &str, seen: f64, served: f64) -> Member {
        Member { node: node.into(), remote: node != "n1", seen: span(seen), served: Some(span(served)) }
    }
    fn say(volume: f64, members: Vec<Member>) -> String {
        verdict("writes", &Hops { volume: span(volume), members })
    }

    #[test]
    fn the_slow_hop_is_named() {
        let fast = || vec![member("n1", 300.0, 290.0), member("n3", 400.0, 280.0)];
        let with = |m: Member| [fast(), vec![m]].concat();
        let disk = say(9100.0, with(member("n2", 9000.0, 8800.0)));
        assert!(
            disk.contains("copy on n2 is slow: 9.0 ms") && disk.contains("pool and disk is the slow hop"),
            "{disk}"
        );
        let network = say(9100.0, with(member("n2", 9000.0, 300.0)));
        assert!(network.contains("8.7 ms on the network: the network is the slow hop"), "{network}");
        let queue = say(9000.0, fast());
        assert!(queue.contains("8.6 ms in the volume's own queue"), "{queue}");
        let fine = say(420.0, fast());
        assert!(fine.contains("nothing is slow") && fine.contains("n3: 400 µs"), "{fine}");
        let all = say(9100.0, vec![member("n1", 8900.0, 8800.0), member("n3", 9000.0, 8800.0)]);
        assert!(all.contains("no copy stands out"), "{all}");
        let two = say(9100.0, vec![member("n1", 300.0, 300.0), member("n3", 9000.0, 8800.0)]);
        assert!(two.contains("copy on n3 is slow"), "{two}");
        let one_fast = say(
            39000.0,
            vec![member("n1", 19800.0, 19800.0), member("n2", 6900.0, 3300.0), member("n3", 28600.0, 23300.0)],
        );
        assert!(one_fast.contains("no copy stands out"), "{one_fast}");
        assert!(verdict("reads", &Hops::new(Span::default())).contains("no reads"));
    }

    #[test]
    fn spans_are_differences() {
        let flow = |requests, micros, fast, slow| v1::Flow {
            requests,
            bytes: 0,
            micros,
            latency: [vec![fast], vec![0; 5], vec![slow], vec![0; 30]].concat(),
        };
        let s = Span::between(Some(&flow(10, 100, 10, 0)), Some(&flow(30, 1100, 28, 2)), 2.0);
        assert_eq!((s.per_second, s.mean_us, s.p99_us), (10.0, Some(50.0), Some(64)));
        let idle = Span::between(Some(&flow(10, 100, 10, 0)), Some(&flow(10, 100, 10, 0)), 2.0);
        assert_eq!((idle.per_second, idle.mean_us, idle.p99_us), (0.0, None, None));
        assert_eq!(Span::between(None, None, 1.0), Span::default());
        assert!(place("reads", &span(9000.0), &span(300.0)).contains("slow: 9.0 ms"));
    }
}
