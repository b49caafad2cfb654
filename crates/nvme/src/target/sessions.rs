//! Which opening of a nexus's member may connect: any, until another one has written. An opening is what the host
//! identifier of a nexus names; it stays the same when the connection is made anew.
//!
//! Reading decides nothing, since a nexus has to read its members to learn whether it is the one that may open them. Its
//! first reservation or write that succeeds says that it is. From then on the opening before it is not let in again: a
//! nexus that was cut off and replaced learns so as soon as it is back.
//!
//! This holds while the subsystem is served. What keeps a replaced nexus from writing, also beyond that, is the
//! reservation of its successor.

use std::collections::VecDeque;

use crate::Nqn;

/// Names of nexuses that are remembered for one subsystem; a replica has one at a time.
const NAMES: usize = 16;
/// Openings of one name that are remembered as replaced.
const REPLACED: usize = 64;

/// Whether a connection's host has to say by its first write that the member is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is not a nexus.
    None,
    /// It is a nexus and has not written over this connection.
    Due,
    /// It has.
    Made,
}

impl Claim {
    pub(super) fn of(host: &Nqn) -> Claim {
        if host.is_nexus_host() { Claim::Due } else { Claim::None }
    }
}

#[derive(Debug)]
struct Session {
    host: Nqn,
    writer: [u8; 16],
    replaced: VecDeque<[u8; 16]>,
}

/// The openings that have written to a subsystem.
#[derive(Debug, Default)]
pub(super) struct Sessions(VecDeque<Session>);

impl Sessions {
    /// Whether an opening may connect.
    pub(super) fn admits(&self, host: &Nqn, id: [u8; 16]) -> bool {
        !self.0.iter().any(|s| s.host == *host && s.replaced.contains(&id))
    }

    /// An opening writes: the one that wrote before it is replaced.
    pub(super) fn claim(&mut self, host: &Nqn, id: [u8; 16]) {
        let Some(known) = self.0.iter_mut().find(|s| s.host == *host) else {
            if self.0.len() == NAMES {
                self.0.pop_front();
            }
            self.0.push_back(Session { host: host.clone(), writer: id, replaced: VecDeque::new() });
            return;
        };
        if known.writer == id {
            return;
        }
        if known.replaced.len() == REPLACED {
            known.replaced.pop_front();
        }
        known.replaced.push_back(std::mem::replace(&mut known.writer, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Nqn {
        Nqn::new(&format!("nqn.2019-05.io.openebs:nexus-{text}")).expect("a name")
    }

    #[test]
    fn a_writer_that_was_replaced_does_not_come_back() {
        let mut sessions = Sessions::default();
        sessions.claim(&name("a"), [1; 16]);
        assert!(
            sessions.admits(&name("a"), [2; 16]) && sessions.admits(&name("a"), [1; 16]),
            "nobody else has written"
        );
        sessions.claim(&name("a"), [2; 16]);
        assert!(sessions.admits(&name("a"), [2; 16]) && !sessions.admits(&name("a"), [1; 16]));
        assert!(sessions.admits(&name("b"), [1; 16]), "another volume is another matter");
        sessions.claim(&name("a"), [3; 16]);
        assert!(!sessions.admits(&name("a"), [1; 16]) && !sessions.admits(&name("a"), [2; 16]));
    }

    #[test]
    fn it_remembers_no_more_than_its_limits() {
        let mut sessions = Sessions::default();
        for k in 0..200u8 {
            sessions.claim(&name("a"), [k; 16]);
            sessions.claim(&name(&k.to_string()), [k; 16]);
        }
        assert!(sessions.0.len() <= NAMES && sessions.0.iter().all(|s| s.replaced.len() <= REPLACED));
        for k in 0..200u8 {
            sessions.claim(&name("b"), [k; 16]);
        }
        assert!(!sessions.admits(&name("b"), [198; 16]) && sessions.admits(&name("b"), [0; 16]));
        assert!(sessions.0.iter().all(|s| s.replaced.len() <= REPLACED));
    }
}
