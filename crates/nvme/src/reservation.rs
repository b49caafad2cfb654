//! The reservation commands and the reservation status as they are on the wire (Base 7.2 to 7.5).

use block::{Fault, HostId, Persist, Registrant, ReservationKind, Reservations, Reserve};

use crate::command::{Sqe, io};
use crate::wire::{Le16, Le32, Le64, view};

/// IEKEY, bit 3 of CDW10: the host's key is not compared.
const IGNORE_KEY: u32 = 1 << 3;
/// Bytes of the head of an extended reservation status, and of each of its entries (Base figure 418, 419).
const HEAD: usize = 64;
const ENTRY: usize = 64;
/// RCSTS bit 0: the host holds the reservation.
const HOLDS: u8 = 1;
/// CNTLID of a registrant that has no controller.
pub const NO_CONTROLLER: u16 = 0xffff;
/// EDS, bit 0 of CDW11 of Reservation Report: the extended form, the only one for 128 bit host identifiers.
pub const EXTENDED: u32 = 1;

/// RESCAP of Identify Namespace (Base figure 280): all six kinds, and IEKEY as since version 1.3.
pub const CAPABILITIES: u8 = 0b1111_1110;
/// RESCAP bit 0: reservations can be kept through power loss.
pub const PERSISTENT: u8 = 1;

/// The bytes of data that a command takes from the host; `None` when it is none of the three that change a reservation.
pub fn payload_len(opcode: u8) -> Option<usize> {
    match opcode {
        io::RESERVATION_REGISTER | io::RESERVATION_ACQUIRE => Some(16),
        io::RESERVATION_RELEASE => Some(8),
        _ => None,
    }
}

/// What a Reservation Register, Acquire or Release asks for, by its opcode, CDW10 and data.
///
/// # Errors
/// [`Fault::Unsupported`] when a field has no meaning.
pub fn parse(opcode: u8, cdw10: u32, data: &[u8]) -> Result<Reserve, Fault> {
    let bad = Fault::Unsupported;
    let key = |at: usize| data.get(at..at + 8).and_then(view::<Le64>).map(Le64::get).ok_or(bad);
    let own = key(0)?;
    let ignore = cdw10 & IGNORE_KEY != 0;
    let current = (!ignore).then_some(own);
    let kind = || ReservationKind::from_number((cdw10 >> 8) as u8).ok_or(bad);
    // CPTPL, bits 31:30.
    let persist = match cdw10 >> 30 {
        0 => Persist::Keep,
        2 => Persist::Forget,
        3 => Persist::Remember,
        _ => return Err(bad),
    };
    match (opcode, cdw10 & 7) {
        (io::RESERVATION_REGISTER, 0) => Ok(Reserve::Register { key: key(8)?, persist }),
        (io::RESERVATION_REGISTER, 1) => Ok(Reserve::Unregister { current, persist }),
        (io::RESERVATION_REGISTER, 2) => Ok(Reserve::Replace { current, key: key(8)?, persist }),
        // IEKEY is for registrations only.
        _ if ignore => Err(bad),
        (io::RESERVATION_ACQUIRE, 0) => Ok(Reserve::Acquire { current: own, kind: kind()? }),
        (io::RESERVATION_ACQUIRE, 1 | 2) => Ok(Reserve::Preempt { current: own, victim: key(8)?, kind: kind()? }),
        (io::RESERVATION_RELEASE, 0) => Ok(Reserve::Release { current: own, kind: kind()? }),
        (io::RESERVATION_RELEASE, 1) => Ok(Reserve::Clear { current: own }),
        _ => Err(bad),
    }
}

/// The command that asks for it: opcode, CDW10 and data. A preemption is sent as preempt and abort.
pub fn encode(ask: Reserve) -> (u8, u32, Vec<u8>) {
    let persistence = |persist: Persist| match persist {
        Persist::Keep => 0,
        Persist::Forget => 2 << 30,
        Persist::Remember => 3 << 30,
    };
    let ignore = |current: Option<u64>| if current.is_none() { IGNORE_KEY } else { 0 };
    let rtype = |kind: ReservationKind| u32::from(kind as u8) << 8;
    let (opcode, cdw10, first, second) = match ask {
        Reserve::Register { key, persist } => (io::RESERVATION_REGISTER, persistence(persist), 0, Some(key)),
        Reserve::Unregister { current, persist } => {
            let cdw10 = 1 | ignore(current) | persistence(persist);
            (io::RESERVATION_REGISTER, cdw10, current.unwrap_or(0), Some(0))
        }
        Reserve::Replace { current, key, persist } => {
            let cdw10 = 2 | ignore(current) | persistence(persist);
            (io::RESERVATION_REGISTER, cdw10, current.unwrap_or(0), Some(key))
        }
        Reserve::Acquire { current, kind } => (io::RESERVATION_ACQUIRE, rtype(kind), current, Some(0)),
        Reserve::Preempt { current, victim, kind } => (io::RESERVATION_ACQUIRE, 2 | rtype(kind), current, Some(victim)),
        Reserve::Release { current, kind } => (io::RESERVATION_RELEASE, rtype(kind), current, None),
        Reserve::Clear { current } => (io::RESERVATION_RELEASE, 1, current, None),
    };
    let data = [Some(first), second].into_iter().flatten().flat_map(u64::to_le_bytes).collect();
    (opcode, cdw10, data)
}

/// The extended reservation status. `controllers` names the controllers of a host; one that has none is listed once.
pub fn report(state: &Reservations, controllers: impl Fn(HostId) -> Vec<u16>) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0u16;
    for Registrant { host, key } in state.registrants() {
        let mut ids = controllers(*host);
        if ids.is_empty() {
            ids.push(NO_CONTROLLER);
        }
        for id in ids {
            let mut entry = [0; ENTRY];
            entry[..2].copy_from_slice(&id.to_le_bytes());
            entry[2] = if state.is_holder(*host) { HOLDS } else { 0 };
            entry[8..16].copy_from_slice(&key.to_le_bytes());
            entry[16..32].copy_from_slice(host);
            entries.extend(entry);
            count = count.saturating_add(1);
        }
    }
    let mut page = vec![0; HEAD];
    page[..4].copy_from_slice(&state.generation().to_le_bytes());
    page[4] = state.held().map_or(0, |held| held.kind as u8);
    page[5..7].copy_from_slice(&count.to_le_bytes());
    page[9] = u8::from(state.is_persistent());
    page.extend(entries);
    page
}

/// Reads an extended reservation status; `None` when it makes no sense, or is cut off. Never panics, whatever the bytes.
pub fn parse_report(page: &[u8]) -> Option<Reservations> {
    let head = page.get(..HEAD)?;
    let generation = view::<Le32>(&head[..4])?.get();
    let count = usize::from(view::<Le16>(&head[5..7])?.get());
    let mut registrants: Vec<Registrant> = Vec::new();
    let mut holder = None;
    for entry in page[HEAD..].get(..count.checked_mul(ENTRY)?)?.chunks_exact(ENTRY) {
        let host: HostId = entry[16..32].try_into().ok()?;
        let key = view::<Le64>(&entry[8..16])?.get();
        if entry[2] & HOLDS != 0 {
            holder.get_or_insert(host);
        }
        if !registrants.iter().any(|r| r.host == host) {
            registrants.push(Registrant { host, key });
        }
    }
    let held = match (head[4], holder) {
        (0, _) => None,
        (kind, Some(holder)) => Some(block::Held { kind: ReservationKind::from_number(kind)?, holder }),
        _ => return None,
    };
    Some(Reservations::reported(generation, head[9] & 1 != 0, registrants, held))
}

/// Whether a Reservation Report asks for the extended form, and how many bytes of it.
pub fn wanted(sqe: &Sqe) -> (bool, u64) {
    (sqe.cdw11.get() & EXTENDED != 0, (u64::from(sqe.cdw10.get()) + 1) * 4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_survive_the_wire() {
        let (persist, kind) = (Persist::Remember, ReservationKind::ExclusiveAccessAll);
        for ask in [
            Reserve::Register { key: 7, persist },
            Reserve::Unregister { current: Some(7), persist: Persist::Keep },
            Reserve::Unregister { current: None, persist: Persist::Forget },
            Reserve::Replace { current: None, key: 9, persist },
            Reserve::Replace { current: Some(1), key: 9, persist },
            Reserve::Acquire { current: 1, kind },
            Reserve::Preempt { current: 1, victim: u64::MAX, kind },
            Reserve::Release { current: 1, kind },
            Reserve::Clear { current: 1 },
        ] {
            let (opcode, cdw10, data) = encode(ask);
            assert_eq!(payload_len(opcode), Some(data.len()));
            assert_eq!(parse(opcode, cdw10, &data), Ok(ask));
        }
    }

    #[test]
    fn fields_without_a_meaning_are_refused() {
        let parse = |opcode, cdw10| parse(opcode, cdw10, &[1; 16]);
        assert!(parse(io::RESERVATION_REGISTER, 3).is_err(), "RREGA");
        assert!(parse(io::RESERVATION_REGISTER, 1 << 30).is_err(), "CPTPL");
        assert!(parse(io::RESERVATION_ACQUIRE, 1 << 8 | 3).is_err(), "RACQA");
        assert!(parse(io::RESERVATION_ACQUIRE, 0).is_err() && parse(io::RESERVATION_ACQUIRE, 7 << 8).is_err(), "RTYPE");
        assert!(parse(io::RESERVATION_ACQUIRE, 1 << 8 | IGNORE_KEY).is_err());
        assert!(parse(io::RESERVATION_RELEASE, 2).is_err(), "RRELA");
        assert!(super::parse(io::RESERVATION_ACQUIRE, 1 << 8 | 1, &[1; 15]).is_err());
    }

    #[test]
    fn a_report_survives_the_wire() {
        let mut state = Reservations::new(4);
        for host in [1u8, 2, 3] {
            let ask = Reserve::Register { key: host.into(), persist: Persist::Remember };
            state.apply([host; 16], ask).expect("room");
        }
        state.apply([2; 16], Reserve::Acquire { current: 2, kind: ReservationKind::WriteExclusive }).expect("free");
        let page = report(&state, |host| if host == [1; 16] { vec![4, 5] } else { Vec::new() });
        assert_eq!(page.len(), HEAD + 4 * ENTRY);
        let back = parse_report(&page).expect("well-formed");
        assert_eq!((back.registrants(), back.held()), (state.registrants(), state.held()));
        assert!(back.is_persistent() && back.generation() == 3);
        assert_eq!(parse_report(&page[..page.len() - 1]), None, "cut off");
    }

    proptest! {
        #[test]
        fn reading_a_report_never_panics(mut page in proptest::collection::vec(any::<u8>(), 0..300), count in 0u8..5) {
            if page.len() > 6 {
                page[5..7].copy_from_slice(&[count, 0]);
            }
            let _ = parse_report(&page);
        }
    }
}
