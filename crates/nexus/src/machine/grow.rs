//! Growing under way: what is gained is zeroes on every member, the map covers it, and then a ledger says so.
//! docs/replication.md, section 6.

use block::{Blocks, Instant};

use super::command::Denied;
use super::{Effect, Nexus, Outbox, Phase};
use crate::map::Shape;
use crate::member::{MemberId, MemberState};

/// How far a growth is.
///
/// ```text
///  (none) ──grow──▶ Marking ──map durable, no member changing──▶ Recording ──record in force──▶ (none)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Growth {
    /// The map round of this number, or a later one, covers what is gained on every member.
    Marking(u64),
    /// Ledgers name the new size; none of them is in force yet.
    Recording,
}

impl Nexus {
    /// Makes the volume larger. Clients have the new size once [`Nexus::geometry`] says so. `prepared` are members of which
    /// the caller has made sure that they have room, a label that says so, and durable zeroes between the old end and the
    /// new one. All that are not out must be among them. Fine when this size is under way or reached.
    pub fn grow(
        &mut self,
        now: Instant,
        blocks: Blocks,
        prepared: &[MemberId],
        out: &mut Outbox,
    ) -> Result<(), Denied> {
        self.tick(now);
        let gained = self.shape.blocks..blocks;
        if gained.start == gained.end {
            return Ok(());
        }
        if gained.end < gained.start {
            return Err(Denied::State("a volume cannot shrink"));
        }
        if self.growth.is_some() {
            return Err(Denied::State("it is growing to another size already; try again"));
        }
        let Some(shape) = self.shape.grown(blocks) else {
            return Err(Denied::State("its map of changes has no room for so many regions of their size"));
        };
        if self.phase != Phase::Serving || self.is_changing() {
            return Err(Denied::State("its members are changing; try again"));
        }
        let is_out = |m: &crate::member::Member| matches!(m.state, MemberState::Out(_));
        if self.members.iter().any(|m| !is_out(m) && !prepared.contains(&m.id)) {
            return Err(Denied::State("a member has joined meanwhile; try again"));
        }
        self.cover(shape);
        self.growth = Some(Growth::Marking(self.rounds_started + 1));
        self.settle(out);
        Ok(())
    }

    /// Whether the set of members in sync is not the one of the record in force.
    fn is_changing(&self) -> bool {
        let changing = |m: &crate::member::Member| matches!(m.state, MemberState::Leaving(_) | MemberState::Growing);
        !self.record.in_force || self.record.wanted || self.members.iter().any(changing)
    }

    /// Members are equal in what is gained; those that are out lack it.
    fn cover(&mut self, shape: Shape) {
        let (old, regions) = (self.shape.blocks, shape.regions());
        let gained = shape.touched(block::BlockRange { start: block::Lba(old.0), len: Blocks(shape.blocks.0 - old.0) });
        self.shape = shape;
        for map in [&mut self.dirty, &mut self.durable, &mut self.touched, &mut self.unequal] {
            map.grow(regions);
        }
        for member in &mut self.members {
            member.missing.grow(regions);
            if let Some(job) = &mut member.job {
                job.copier.grow(regions);
            }
            if matches!(member.state, MemberState::Out(_)) {
                gained.clone().for_each(|region| {
                    member.missing.set(region);
                });
            }
        }
        if let Some(copier) = &mut self.equalizer {
            copier.grow(regions);
        }
        self.stale.extend(0..shape.units());
    }

    /// Goes on with a growth; whether it did. A ledger with the new size follows only one that is in force, and whose members
    /// all have the map: whichever of the two the next nexus builds on, its members are good for the new size.
    pub(super) fn check_growth(&mut self) -> bool {
        let is_marked = matches!(self.growth, Some(Growth::Marking(round)) if round <= self.rounds_done);
        if !is_marked || self.phase != Phase::Serving || self.is_changing() {
            return false;
        }
        self.size = self.shape.block_size.bytes_of(self.shape.blocks);
        self.growth = Some(Growth::Recording);
        self.record.wanted = true;
        true
    }

    /// A record has come into force.
    pub(super) fn size_in_force(&mut self, out: &mut Outbox) {
        if self.growth == Some(Growth::Recording) {
            self.growth = None;
            self.served = self.shape.blocks;
            let text = format!("grown to {} bytes, recorded in ledger {}", self.size, self.record.version);
            out.push(Effect::Changed(text));
        }
    }
}
