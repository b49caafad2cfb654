//! Reservations of a logical unit: persistent ones (SPC 5.13) and the old RESERVE and RELEASE.
//!
//! They are kept in memory: the unit says that they do not persist through a power loss (PTPL_C is zero).

use block::limits;

use super::cdb::Access;
use super::{Failure, Sense};
use crate::IscsiName;
use crate::text::hex;
use crate::wire::{get64, put16, put32};

/// One end of a session, as reservations know it: the initiator's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The initiator.
    pub initiator: IscsiName,
    /// Its part of the session's identity.
    pub isid: [u8; 6],
}

#[derive(Clone, Debug)]
struct Registration {
    port: Port,
    key: u64,
}

#[derive(Clone, Debug)]
struct Holder {
    port: Port,
    kind: Kind,
}

/// Types of persistent reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteRegistrants = 5,
    AccessRegistrants = 6,
    WriteAll = 7,
    AccessAll = 8,
}

impl Kind {
    fn of(scope_and_type: u8) -> Result<Kind, Sense> {
        match scope_and_type {
            1 => Ok(Kind::WriteExclusive),
            3 => Ok(Kind::ExclusiveAccess),
            5 => Ok(Kind::WriteRegistrants),
            6 => Ok(Kind::AccessRegistrants),
            7 => Ok(Kind::WriteAll),
            8 => Ok(Kind::AccessAll),
            _ => Err(Sense::invalid_field(2)),
        }
    }
    /// Everybody who is registered holds it.
    fn is_of_all(self) -> bool {
        matches!(self, Kind::WriteAll | Kind::AccessAll)
    }
    /// Everybody who is registered may do everything.
    fn admits_registrants(self) -> bool {
        !matches!(self, Kind::WriteExclusive | Kind::ExclusiveAccess)
    }
    /// Everybody may read.
    fn admits_readers(self) -> bool {
        matches!(self, Kind::WriteExclusive | Kind::WriteRegistrants | Kind::WriteAll)
    }
}

/// What others learn of a PERSISTENT RESERVE OUT.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Unit attentions.
    pub attentions: Vec<(Port, Sense)>,
    /// Whose commands are aborted.
    pub aborts: Vec<Port>,
}

/// The reservations of one unit.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    registrations: Vec<Registration>,
    holder: Option<Holder>,
    generation: u32,
    /// Who has reserved the unit with RESERVE (6).
    old: Option<Port>,
}

impl Reservations {
    /// Whether a command may run.
    pub fn admits(&self, port: &Port, access: Access) -> bool {
        if self.old.as_ref().is_some_and(|old| old != port) {
            return access == Access::Free;
        }
        if access == Access::Reserve {
            return self.registrations.is_empty();
        }
        let Some(holder) = &self.holder else { return true };
        match access {
            Access::Free | Access::Query | Access::Reserve => true,
            Access::Read | Access::Write => {
                holder.port == *port
                    || holder.kind.admits_registrants() && self.find(port).is_some()
                    || holder.kind.admits_readers() && access == Access::Read
            }
        }
    }

    /// RESERVE (6), after [`Reservations::admits`].
    pub fn reserve_old(&mut self, port: &Port) {
        self.old = Some(port.clone());
    }

    /// RELEASE (6), or the end of the port's session: without effect for others than the holder.
    pub fn release_old(&mut self, port: &Port) {
        if self.old.as_ref() == Some(port) {
            self.old = None;
        }
    }

    /// A reset of the unit ends the old kind of reservation only.
    pub fn reset(&mut self) {
        self.old = None;
    }

    fn find(&self, port: &Port) -> Option<&Registration> {
        self.registrations.iter().find(|r| r.port == *port)
    }

    fn holds(&self, port: &Port) -> bool {
        self.holder.as_ref().is_some_and(|h| h.port == *port || h.kind.is_of_all() && self.find(port).is_some())
    }

    /// PERSISTENT RESERVE OUT.
    pub fn change(&mut self, port: &Port, action: u8, kind: u8, list: &[u8]) -> Result<News, Failure> {
        if list.len() != 24 {
            return Err(Sense::LIST_LENGTH.into());
        }
        let (key, new_key, flags) = (get64(list, 0), get64(list, 8), list[20]);
        // SPEC_I_PT, ALL_TG_PT, APTPL: not offered.
        if flags & 0x0d != 0 {
            return Err(Sense::invalid_parameter(20).into());
        }
        let registered = self.find(port).map(|r| r.key);
        match action {
            0 if registered.unwrap_or(0) != key => Err(Failure::Conflict),
            0 | 6 => self.register(port, new_key),
            _ if registered != Some(key) => Err(Failure::Conflict),
            1 => self.reserve(port, Kind::of(kind)?),
            2 => self.release(port, Kind::of(kind)?),
            3 => Ok(self.clear(port)),
            _ => self.preempt(port, Kind::of(kind)?, new_key, action == 5),
        }
    }

    fn register(&mut self, port: &Port, key: u64) -> Result<News, Failure> {
        if key == 0 {
            let was_registered = self.find(port).is_some();
            let mut news = News::default();
            if was_registered {
                news = self.unregister(port);
                self.generation = self.generation.wrapping_add(1);
            }
            return Ok(news);
        }
        let is_full = self.registrations.len() >= limits::ISCSI_REGISTRATIONS;
        match self.registrations.iter_mut().find(|r| r.port == *port) {
            Some(registration) => registration.key = key,
            None if is_full => {
                return Err(Sense::NO_REGISTRATION_SPACE.into());
            }
            None => self.registrations.push(Registration { port: port.clone(), key }),
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(News::default())
    }

    fn unregister(&mut self, port: &Port) -> News {
        self.registrations.retain(|r| r.port != *port);
        let mut news = News::default();
        let Some(holder) = &mut self.holder else { return news };
        let kind = holder.kind;
        let ends = if kind.is_of_all() { self.registrations.is_empty() } else { holder.port == *port };
        if ends {
            self.holder = None;
            if kind.admits_registrants() {
                news.attentions = self.others(port, Sense::RESERVATIONS_RELEASED);
            }
        } else if kind.is_of_all() && holder.port == *port {
            holder.port = self.registrations[0].port.clone();
        }
        news
    }

    fn others(&self, port: &Port, sense: Sense) -> Vec<(Port, Sense)> {
        self.registrations.iter().filter(|r| r.port != *port).map(|r| (r.port.clone(), sense)).collect()
    }

    fn reserve(&mut self, port: &Port, kind: Kind) -> Result<News, Failure> {
        match &self.holder {
            Some(holder) if !self.holds(port) || holder.kind != kind => Err(Failure::Conflict),
            Some(_) => Ok(News::default()),
            None => {
                self.holder = Some(Holder { port: port.clone(), kind });
                Ok(News::default())
            }
        }
    }

    fn release(&mut self, port: &Port, kind: Kind) -> Result<News, Failure> {
        if !self.holds(port) {
            return Ok(News::default());
        }
        if self.holder.as_ref().is_some_and(|h| h.kind != kind) {
            return Err(Sense::INVALID_RELEASE.into());
        }
        self.holder = None;
        let attentions =
            if kind.admits_registrants() { self.others(port, Sense::RESERVATIONS_RELEASED) } else { Vec::new() };
        Ok(News { attentions, ..News::default() })
    }

    fn clear(&mut self, port: &Port) -> News {
        let attentions = self.others(port, Sense::RESERVATIONS_PREEMPTED);
        self.registrations.clear();
        self.holder = None;
        self.generation = self.generation.wrapping_add(1);
        News { attentions, ..News::default() }
    }

    fn preempt(&mut self, port: &Port, kind: Kind, key: u64, abort: bool) -> Result<News, Failure> {
        let holder = self.holder.as_ref();
        let takes_all = key == 0 && holder.is_some_and(|h| h.kind.is_of_all());
        if key == 0 && !takes_all {
            return Err(Sense::invalid_parameter(8).into());
        }
        let is_victim = |r: &Registration| takes_all || r.key == key;
        if !self.registrations.iter().any(is_victim) {
            return Err(Failure::Conflict);
        }
        let takes_over = takes_all
            || holder.is_some_and(|h| !h.kind.is_of_all() && self.find(&h.port).is_some_and(|r| r.key == key));
        let mut news = News::default();
        for victim in self.registrations.iter().filter(|r| is_victim(r)) {
            if abort {
                news.aborts.push(victim.port.clone());
            }
            if victim.port != *port {
                news.attentions.push((victim.port.clone(), Sense::REGISTRATIONS_PREEMPTED));
            }
        }
        self.registrations.retain(|r| r.port == *port || !(takes_all || r.key == key));
        if takes_over {
            let before = self.holder.replace(Holder { port: port.clone(), kind });
            if before.is_some_and(|h| h.kind != kind) {
                news.attentions.extend(self.others(port, Sense::RESERVATIONS_RELEASED));
            }
        } else if let Some(holder) = self.holder.as_mut().filter(|h| h.kind.is_of_all()) {
            // The one who asks is still registered, and so holds it with the others.
            holder.port = port.clone();
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(news)
    }

    /// PERSISTENT RESERVE IN.
    pub fn report(&self, action: u8) -> Vec<u8> {
        match action {
            0 => self.listing(self.registrations.iter().flat_map(|r| r.key.to_be_bytes()).collect()),
            1 => self.listing(self.reservation()),
            // No persistence; the type mask is valid, and names all six types.
            2 => vec![0, 8, 0, 0x80, 0xea, 1, 0, 0],
            _ => self.listing(self.registrations.iter().flat_map(|r| self.full_status(r)).collect()),
        }
    }

    fn listing(&self, body: Vec<u8>) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        put32(&mut bytes, 0, self.generation);
        put32(&mut bytes, 4, body.len() as u32);
        bytes.extend(body);
        bytes
    }

    fn reservation(&self) -> Vec<u8> {
        let Some(holder) = &self.holder else { return Vec::new() };
        let key = if holder.kind.is_of_all() { 0 } else { self.find(&holder.port).map_or(0, |r| r.key) };
        let mut bytes = vec![0; 16];
        bytes[..8].copy_from_slice(&key.to_be_bytes());
        bytes[13] = holder.kind as u8;
        bytes
    }

    fn full_status(&self, registration: &Registration) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        bytes[..8].copy_from_slice(&registration.key.to_be_bytes());
        if let Some(holder) = self.holder.as_ref().filter(|_| self.holds(&registration.port)) {
            bytes[12] = 1;
            bytes[13] = holder.kind as u8;
        }
        // The relative identifier of the only target port.
        put16(&mut bytes, 18, 1);
        let id = transport_id(&registration.port);
        put32(&mut bytes, 20, id.len() as u32);
        bytes.extend(id);
        bytes
    }
}

/// The TransportID of an initiator's port (SPC 7.6.4.6, format 01b).
fn transport_id(port: &Port) -> Vec<u8> {
    let mut name = format!("{},i,{}", port.initiator, hex(&port.isid)).into_bytes();
    name.push(0);
    let len = name.len().next_multiple_of(4).max(20);
    name.resize(len, 0);
    let mut id = vec![0x45, 0, 0, 0];
    put16(&mut id, 2, len as u16);
    id.extend(name);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::get32;

    fn port(n: u8) -> Port {
        Port { initiator: IscsiName::new("iqn.2000-01.x:a").expect("a name"), isid: [0, 0, 0, 0, 0, n] }
    }

    fn list(key: u64, new_key: u64) -> Vec<u8> {
        [&key.to_be_bytes()[..], &new_key.to_be_bytes()[..], &[0; 8]].concat()
    }

    struct Unit(Reservations);

    impl Unit {
        fn out(&mut self, n: u8, action: u8, kind: u8, key: u64, new_key: u64) -> Result<News, Failure> {
            self.0.change(&port(n), action, kind, &list(key, new_key))
        }
        fn may(&self, n: u8) -> (bool, bool) {
            (self.0.admits(&port(n), Access::Read), self.0.admits(&port(n), Access::Write))
        }
        fn keys(&self) -> Vec<u64> {
            let bytes = self.0.report(0);
            bytes[8..].chunks(8).map(|k| get64(k, 0)).collect()
        }
    }

    #[test]
    fn registration_needs_the_right_key() {
        let mut u = Unit(Reservations::default());
        assert_eq!(u.out(1, 0, 0, 5, 7).err(), Some(Failure::Conflict), "not registered: the key is zero");
        u.out(1, 0, 0, 0, 7).expect("registered");
        assert_eq!(u.out(1, 0, 0, 0, 8).err(), Some(Failure::Conflict));
        u.out(1, 0, 0, 7, 8).expect("a new key");
        u.out(1, 6, 0, 99, 9).expect("ignoring the key");
        assert_eq!((u.keys(), get32(&u.0.report(0), 0)), (vec![9], 3));
        u.out(1, 0, 0, 9, 0).expect("unregistered");
        assert_eq!((u.keys(), get32(&u.0.report(0), 0)), (vec![], 4));
        assert_eq!(u.0.change(&port(1), 0, 0, &[0; 23]).err(), Some(Sense::LIST_LENGTH.into()));
        let mut kept = list(0, 7);
        kept[20] = 1;
        assert_eq!(u.0.change(&port(1), 0, 0, &kept).err(), Some(Sense::invalid_parameter(20).into()));
    }

    #[test]
    fn who_may_do_what_under_each_type() {
        // Port 1 holds, port 2 is registered, port 3 is not: (read, write) of 2 and 3.
        for (kind, second, third) in [
            (1, (true, false), (true, false)),
            (3, (false, false), (false, false)),
            (5, (true, true), (true, false)),
            (6, (true, true), (false, false)),
            (7, (true, true), (true, false)),
            (8, (true, true), (false, false)),
        ] {
            let mut u = Unit(Reservations::default());
            u.out(1, 0, 0, 0, 1).expect("registered");
            u.out(2, 0, 0, 0, 2).expect("registered");
            u.out(1, 1, kind, 1, 0).expect("reserved");
            assert_eq!((u.may(1), u.may(2), u.may(3)), ((true, true), second, third), "type {kind}");
            assert!(u.0.admits(&port(3), Access::Query) && u.0.admits(&port(3), Access::Free));
            assert!(!u.0.admits(&port(1), Access::Reserve), "the two kinds do not mix");
            assert_eq!(u.out(3, 1, kind, 0, 0).err(), Some(Failure::Conflict), "only who is registered reserves");
            assert_eq!(u.0.report(1)[8 + 13], kind);
            u.out(1, 2, kind, 1, 0).expect("released");
            assert_eq!(u.may(3), (true, true));
        }
    }

    #[test]
    fn a_release_of_another_type_is_refused() {
        let mut u = Unit(Reservations::default());
        u.out(1, 0, 0, 0, 1).expect("registered");
        u.out(1, 1, 1, 1, 0).expect("reserved");
        assert_eq!(u.out(1, 1, 3, 1, 0).err(), Some(Failure::Conflict));
        assert_eq!(u.out(1, 2, 3, 1, 0).err(), Some(Sense::INVALID_RELEASE.into()));
        assert_eq!(u.out(1, 1, 2, 1, 0).err(), Some(Sense::invalid_field(2).into()));
    }

    #[test]
    fn preemption_takes_over_and_tells() {
        let mut u = Unit(Reservations::default());
        for n in 1..=3 {
            u.out(n, 0, 0, 0, n.into()).expect("registered");
        }
        u.out(1, 1, 3, 1, 0).expect("reserved");
        let news = u.out(2, 5, 1, 2, 1).expect("preempted");
        assert_eq!(news.aborts, [port(1)]);
        assert_eq!(
            news.attentions,
            [(port(1), Sense::REGISTRATIONS_PREEMPTED), (port(3), Sense::RESERVATIONS_RELEASED)]
        );
        assert_eq!((u.keys(), u.may(1), u.may(2)), (vec![2, 3], (true, false), (true, true)));
        assert_eq!(u.out(2, 4, 1, 2, 77).err(), Some(Failure::Conflict), "nobody has that key");
        assert_eq!(u.out(2, 4, 1, 2, 0).err(), Some(Sense::invalid_parameter(8).into()));
        let news = u.out(3, 3, 0, 3, 0).expect("cleared");
        assert_eq!(news.attentions, [(port(2), Sense::RESERVATIONS_PREEMPTED)]);
        assert_eq!((u.keys(), u.may(1)), (vec![], (true, true)));
    }

    #[test]
    fn a_reservation_of_all_ends_with_the_last() {
        let mut u = Unit(Reservations::default());
        u.out(1, 0, 0, 0, 1).expect("registered");
        u.out(2, 0, 0, 0, 2).expect("registered");
        u.out(1, 1, 8, 1, 0).expect("reserved");
        u.out(1, 0, 0, 1, 0).expect("unregistered");
        assert_eq!((u.may(1), u.may(2)), ((false, false), (true, true)));
        let full = u.0.report(3);
        assert_eq!((full[8 + 12], full[8 + 13], full[8 + 24]), (1, 8, 0x45));
        u.out(2, 4, 3, 2, 0).expect("everybody's reservation is taken");
        assert_eq!(u.0.report(1)[8 + 13], 3);
        u.out(2, 0, 0, 2, 0).expect("unregistered");
        assert_eq!(u.may(1), (true, true));
    }

    #[test]
    fn the_old_kind() {
        let mut u = Unit(Reservations::default());
        u.0.reserve_old(&port(1));
        assert!(u.0.admits(&port(1), Access::Write) && !u.0.admits(&port(2), Access::Query));
        assert!(u.0.admits(&port(2), Access::Free) && !u.0.admits(&port(2), Access::Reserve));
        u.0.release_old(&port(2));
        assert!(!u.0.admits(&port(2), Access::Read));
        u.0.reset();
        assert!(u.0.admits(&port(2), Access::Write));
    }
}
