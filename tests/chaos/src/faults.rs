//! What goes wrong, when, and for how long: all from one seed.

use std::time::{Duration, Instant};

use crate::Result;
use crate::cluster::{Cluster, node_name};
use crate::net::{self, CONTROL, Means, Trouble};

/// The most faults at a time.
const AT_ONCE: usize = 2;

/// Random numbers from a seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
    fn time(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(from_ms + self.below(to_ms - from_ms))
    }
}

/// What is wrong with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It was killed.
    Killed,
    /// It was stopped in the middle of what it did.
    Paused,
    /// Its link suffers.
    Net(Trouble),
}

struct Active {
    member: usize,
    fault: Fault,
    until: Instant,
}

/// The faults of a run.
pub struct Faults {
    dice: Dice,
    begun: Instant,
    means: Means,
    active: Vec<Active>,
    next: Instant,
    /// How many of each kind there were: killed, paused, network.
    pub counts: [u64; 3],
}

impl Faults {
    /// No fault yet.
    pub fn new(seed: u64, means: Means) -> Faults {
        let begun = Instant::now();
        let next = begun + Duration::from_secs(2);
        Faults { dice: Dice(seed), begun, means, active: Vec::new(), next, counts: [0; 3] }
    }

    /// Ends faults whose time has come, and begins new ones.
    pub fn turn(&mut self, cluster: &mut Cluster, nodes: usize) -> Result<()> {
        let now = Instant::now();
        while let Some(n) = self.active.iter().position(|a| a.until <= now) {
            let over = self.active.remove(n);
            self.end(cluster, &over)?;
        }
        if now >= self.next && self.active.len() < AT_ONCE {
            self.next = now + self.dice.time(200, 4000);
            self.strike(cluster, nodes)?;
        }
        Ok(())
    }

    /// Ends all faults.
    pub fn relent(&mut self, cluster: &mut Cluster) -> Result<()> {
        for over in std::mem::take(&mut self.active) {
            self.end(cluster, &over)?;
        }
        Ok(())
    }

    fn strike(&mut self, cluster: &mut Cluster, nodes: usize) -> Result<()> {
        // The control plane is a member like the others.
        let member = match self.dice.below(nodes as u64 + 1) as usize {
            n if n == nodes => CONTROL,
            n => n,
        };
        let kind = self.dice.below(10);
        let (loss, mbit) = (5 + self.dice.below(36) as u8, 2 + self.dice.below(30) as u32);
        // Some end before anybody has noticed, some only after everybody has.
        let long = self.dice.below(2) == 0;
        let time = if long { self.dice.time(5000, 13_000) } else { self.dice.time(200, 4000) };
        if self.active.iter().any(|a| a.member == member) {
            return Ok(());
        }
        let fault = match kind {
            0..=3 => Fault::Killed,
            4 | 5 => Fault::Paused,
            6 => Fault::Net(Trouble::Cut),
            7 => Fault::Net(Trouble::Isolated),
            8 if self.means.loss => Fault::Net(Trouble::Loss(loss)),
            9 if self.means.slow => Fault::Net(Trouble::Slow(mbit)),
            _ => Fault::Net(Trouble::Cut),
        };
        // The control plane and the client are reached by everybody who is isolated: for it alone that is no fault.
        let lonely = fault == Fault::Net(Trouble::Isolated) && member == CONTROL;
        let fault = if lonely { Fault::Net(Trouble::Cut) } else { fault };
        let mut also = None;
        match fault {
            Fault::Killed => cluster.kill(member)?,
            Fault::Paused => cluster.pause(member)?,
            Fault::Net(trouble) => {
                net::trouble(member, trouble)?;
                // One isolated member alone still reaches all others.
                if trouble == Trouble::Isolated {
                    let other = (member + 1) % nodes;
                    if !self.active.iter().any(|a| a.member == other) {
                        net::trouble(other, trouble)?;
                        also = Some(other);
                    }
                }
            }
        }
        self.counts[match fault {
            Fault::Killed => 0,
            Fault::Paused => 1,
            Fault::Net(_) => 2,
        }] += 1;
        for member in [Some(member), also].into_iter().flatten() {
            self.say(member, &format!("{fault:?} for {:.1} s", time.as_secs_f64()));
            self.active.push(Active { member, fault, until: Instant::now() + time });
        }
        Ok(())
    }

    fn end(&mut self, cluster: &mut Cluster, over: &Active) -> Result<()> {
        match over.fault {
            Fault::Killed => cluster.begin(over.member)?,
            Fault::Paused => cluster.resume(over.member)?,
            Fault::Net(trouble) => net::relieve(over.member, trouble)?,
        }
        self.say(over.member, &format!("{:?} is over", over.fault));
        Ok(())
    }

    fn say(&self, member: usize, what: &str) {
        let name = if member == CONTROL { "control".to_owned() } else { node_name(member) };
        println!("{:7.1} s  {name}: {what}", self.begun.elapsed().as_secs_f64());
    }
}
