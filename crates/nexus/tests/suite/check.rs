//! What must hold in every state of a small world, whatever comes next.
//!
//! Most of it is about a crash at this very moment: for each set of devices that the next nexus may find, either it
//! refuses, or what it would serve is right. So each state stands for all of its crashes, too.

use std::collections::BTreeSet;
use std::time::Duration;

use block::{Blocks, Fault};
use nexus::ledger::{Set, Version};
use nexus::machine::Phase;
use nexus::map::{Maps, Shape};
use nexus::open::{Decision, decide, known_behind};
use nexus::{MemberId, MemberState, Reason};

use crate::device::{Device, VOLUME};
use crate::opening;
use crate::oracle::Oracle;
use crate::scope::StoreAnswer;
use crate::small::World;

impl World {
    /// Panics when the contract is broken, or would be by a crash now.
    pub fn check(&self) {
        self.check_members();
        recovery(&self.devices, &self.oracle, self.stored, &self.shape(), self.lossy.contains(&true));
        if let [life] = &self.lives[..]
            && life.machine.phase() == Phase::Serving
        {
            let counting = life.machine.counting();
            (1..1u8 << self.devices.len()).for_each(|set| self.check_counting(set, &counting));
        }
    }

    /// Whatever set a nexus would find in force after a crash now is one that acknowledgements wait for.
    fn check_counting(&self, set: u8, counting: &Set) {
        let reachable: Vec<usize> = (0..self.devices.len()).filter(|d| set >> d & 1 == 1).collect();
        if let Ok(Decision::Serve { in_sync, .. }) = decide(&opening::found(&self.devices, &reachable), self.stored) {
            assert!(in_sync.is_subset(counting), "{in_sync:?} would serve, acknowledgements wait for {counting:?}");
        }
    }

    /// Every member that counts has every acknowledged write, and there is one that may be read.
    fn check_members(&self) {
        for life in &self.lives {
            let machine = &life.machine;
            if life.is_over() {
                assert!(self.scope.budget.takeovers > 0, "nobody else is there, but the nexus stopped");
                continue;
            }
            let (_, set) = machine.in_force();
            assert!(machine.phase() == Phase::Opening || !set.is_empty(), "the last copy was dropped");
            if machine.phase() == Phase::Opening || self.lives.len() > 1 {
                continue;
            }
            let counting = machine.counting();
            let there =
                self.devices.iter().zip(&self.lossy).filter(|(d, lossy)| !**lossy && counting.contains(&d.uuid));
            for (device, _) in there {
                for (block, register) in self.oracle.registers.iter().enumerate() {
                    let has = device.data[block];
                    assert!(
                        register.allowed.contains(&has),
                        "{} counts and has {has} at block {block}, clients may see {:?}",
                        device.uuid,
                        register.allowed
                    );
                }
            }
        }
    }
}

/// A crash now, after which any of the devices are found: whatever would be served is right. With `lossy`, some devices
/// have lost what was not flushed.
pub fn recovery(devices: &[Device], oracle: &Oracle, stored: Option<Version>, shape: &Shape, lossy: bool) {
    for set in 1..1u8 << devices.len() {
        recovery_from(set, devices, oracle, stored, shape, lossy);
    }
}

fn recovery_from(set: u8, devices: &[Device], oracle: &Oracle, stored: Option<Version>, shape: &Shape, lossy: bool) {
    let reachable: Vec<usize> = (0..devices.len()).filter(|d| set >> d & 1 == 1).collect();
    let found = opening::found(devices, &reachable);
    let all = reachable.len() == devices.len();
    let (ledger, in_sync) = match decide(&found, stored) {
        Ok(Decision::Serve { ledger, in_sync, .. }) => (ledger, in_sync),
        Ok(Decision::Fresh) => {
            return assert!(!oracle.served || !all, "a volume that served looks like a new one");
        }
        Err(why) => return assert!(!all || !oracle.served, "with every device there, it is refused: {why}"),
    };
    let behind = known_behind(&ledger, &in_sync);
    let shape = &Shape { blocks: Blocks(ledger.size.0 / 512), ..*shape };
    let device = |at: &usize| &devices[*at];
    let sources: Vec<&Device> = reachable.iter().map(device).filter(|d| in_sync.contains(&d.uuid)).collect();
    let mut maps = Maps::clean(shape);
    for source in &sources {
        let own = Maps::decode(&source.map, VOLUME, shape);
        maps.dirty.add(&own.dirty);
        maps.behind.add(&own.behind);
    }
    for (block, register) in oracle.registers.iter().enumerate().take(shape.blocks.0 as usize) {
        let region = block / shape.region.0 as usize;
        // By the crash of the nexus alone.
        let now: BTreeSet<u64> = sources.iter().map(|d| d.data[block]).collect();
        let may = if lossy { &register.rollback } else { &register.allowed };
        let good = |v: &u64| may.contains(v) || register.allowed.contains(v);
        assert!(now.iter().all(good), "a crash now: block {block} may read as {now:?}, allowed {may:?}; found {set:b}");
        // By a power loss of all or of some.
        let later: BTreeSet<u64> = sources.iter().flat_map(|d| values(d, block)).collect();
        let good = |v: &u64| register.rollback.contains(v) || register.allowed.contains(v);
        let (rollback, text) = (&register.rollback, "a power loss now");
        assert!(later.iter().all(good), "{text}: block {block} may read as {later:?}, allowed {rollback:?}; {set:b}");
        let differ = later.len() > 1;
        assert!(
            !differ || sources.len() < 2 || maps.dirty.get(region),
            "members in sync may differ at block {block} ({later:?}), and it is not marked; found {set:b}"
        );
        // Those that come back get what they lack.
        let covered = maps.dirty.get(region) || maps.behind.get(region);
        for back in reachable.iter().map(device).filter(|d| behind.contains(&d.uuid)) {
            let same = values(back, block).is_subset(&later);
            assert!(
                (same && !differ) || covered,
                "{} lacks block {block} ({:?} for {later:?}), and it is not marked; found {set:b}",
                back.uuid,
                values(back, block)
            );
        }
    }
}

impl World {
    /// Whether everything that was asked is answered, and nothing is on its way.
    pub fn is_at_rest(&self) -> bool {
        let idle = self.lives.iter().all(|l| l.flying.is_empty() && l.recording.is_empty());
        self.lives.len() == 1 && idle && self.oracle.asked.is_empty()
    }

    /// Faults stop: everything is answered and repaired, the members are equal, and say what clients may see.
    pub fn rest(mut self) {
        if self.lives.len() > 1 {
            return; // one has yet to find out that it is not alone
        }
        if self.lives.is_empty() {
            self.devices.iter_mut().for_each(|d| d.gone = false);
            let opened = self.open((1 << self.devices.len()) - 1);
            assert!(opened.is_ok() || !self.oracle.served, "with every device there, the volume opens: {opened:?}");
            if opened.is_err() {
                return;
            }
        }
        for round in 0.. {
            assert!(round < 2000, "it never comes to rest; unanswered: {:?}", self.oracle.asked.keys());
            if !self.lives[0].recording.is_empty() {
                self.store(0, StoreAnswer::Taken);
            } else if !self.lives[0].flying.is_empty() {
                self.deliver(0, 0, None);
            } else if self.last_is_gone() {
                return; // nothing is served until it is opened again
            } else if !self.repair() {
                break;
            }
        }
        let machine = &self.lives[0].machine;
        let images = self.lives[0].places.values().map(|d| &self.devices[*d].data).collect::<BTreeSet<_>>();
        assert!(images.len() == 1, "members in sync differ: {images:?}");
        assert!(machine.members(self.now).iter().all(|m| m.state == MemberState::InSync));
        for (block, has) in images.first().expect("there is one").iter().enumerate() {
            let allowed = &self.oracle.registers[block].allowed;
            assert!(allowed.contains(has), "block {block} has {has} in the end, allowed {allowed:?}");
        }
    }

    /// Devices that are gone are taken out, as the engine does when it hears of it; whether none is left in sync.
    fn last_is_gone(&mut self) -> bool {
        let members = self.lives[0].machine.members(self.now);
        let is_gone = |id: &MemberId| {
            let device = self.lives[0].places[id];
            self.devices[device].gone || self.lives[0].cut.contains(&device)
        };
        let in_sync = members.iter().filter(|m| m.state == MemberState::InSync);
        let (gone, there): (Vec<MemberId>, Vec<MemberId>) = in_sync.map(|m| m.id).partition(is_gone);
        if there.is_empty() {
            return true;
        }
        for id in gone {
            self.with(0, |m, now, out| m.take_out(now, id, Reason::Failed(Fault::Gone), out))
                .expect("another is there");
        }
        false
    }

    /// The next step of repair when nothing is on its way; `false` when all is well.
    fn repair(&mut self) -> bool {
        let machine = &self.lives[0].machine;
        let members = machine.members(self.now);
        if let Some(out) = members.iter().find(|m| matches!(m.state, MemberState::Out(_))) {
            self.online(self.lives[0].places[&out.id]);
        } else if members.iter().any(|m| m.state == MemberState::Joining) {
            self.start_rebuilds(0);
        }
        let machine = &self.lives[0].machine;
        let well = machine.is_quiet() && machine.dirty_regions().1 == 0 && self.oracle.asked.is_empty();
        if well && machine.members(self.now).iter().all(|m| m.state == MemberState::InSync) {
            return false;
        }
        if self.lives[0].flying.is_empty() && self.lives[0].recording.is_empty() {
            self.now = self.now + Duration::from_millis(2100);
            self.with(0, |m, now, out| m.expire(now, out));
        }
        true
    }
}

/// What the device may hold there, after a power loss or without one.
fn values(device: &Device, block: usize) -> BTreeSet<u64> {
    let since = device.since[block].iter().map(|(_, v)| *v);
    since.chain([device.durable[block], device.data[block]]).collect()
}
