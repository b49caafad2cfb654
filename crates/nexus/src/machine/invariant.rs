//! What docs/replication.md promises, looked at from within at each answer. The simulator turns this on for its thread
//! ([`block::probe::set_checks`]); what it finds is a panic, like every broken assumption.

use block::probe::checks;

use super::Nexus;
use super::flight::{Flight, Kind, LegState, Step};
use crate::member::MemberId;

impl Nexus {
    /// A change or a flush is about to be answered well: every member of the set in force and of every set in doubt has it.
    pub(super) fn check_acknowledgement(&self, flight: &Flight) {
        if !checks() || !matches!(flight.kind, Kind::Change | Kind::Flush) || flight.step != Step::Writing {
            return;
        }
        let has = |uuid| {
            let member = self.members.iter().find(|m| m.uuid == uuid);
            member.is_some_and(|m| flight.legs.iter().any(|l| l.member == m.id && l.state == LegState::Ok))
        };
        let lacks = self.counting().into_iter().find(|uuid| !has(*uuid));
        assert!(lacks.is_none(), "acknowledged, and member {lacks:?} of a set that may be in force lacks it");
    }

    /// A client's read is about to be answered with what this member returned: it is of the set in force.
    pub(super) fn check_reader(&self, flight: u32, member: MemberId) {
        if !checks() || !matches!(self.flights[flight as usize].kind, Kind::Read) {
            return;
        }
        let (_, set) = self.in_force();
        let of_the_set = self.member(member).is_some_and(|m| set.contains(&m.uuid));
        assert!(of_the_set, "a read is answered by {member:?}, which is not of the set in force {set:?}");
    }
}
