//! Reservations: which host may write to a device that several can reach. NVMe Base 2.0, section 8.19.
//!
//! ```text
//!               register                 acquire, preempt the holder
//!  (unknown) ─────────────▶ registrant ─────────────────────────────▶ holder
//!      ▲                      │    ▲                                    │
//!      ├── unregister, ───────┘    └────────────── release ─────────────┤
//!      └── preempted, clear ────────────────────────────────────────────┘
//! ```
//!
//! [`Reservations`] is the pure state: an action in, the next state or a refusal out. Whoever keeps it makes it durable and
//! asks [`Reservations::allows`] before each request.

use crate::Fault;

/// A host as a device tells it from others: NVMe's 128 bit host identifier. Zero names nobody and can not register.
pub type HostId = [u8; 16];

/// What a reservation keeps from whom. The numbers are NVMe's (RTYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ReservationKind {
    /// Only the holder writes.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 2,
    /// Only registrants write.
    WriteExclusiveRegistrants = 3,
    /// Only registrants read and write.
    ExclusiveAccessRegistrants = 4,
    /// Only registrants write, and all of them are holders.
    WriteExclusiveAll = 5,
    /// Only registrants read and write, and all of them are holders.
    ExclusiveAccessAll = 6,
}

impl ReservationKind {
    /// The kind with that number.
    pub fn from_number(number: u8) -> Option<ReservationKind> {
        use ReservationKind::*;
        let all = [
            WriteExclusive,
            ExclusiveAccess,
            WriteExclusiveRegistrants,
            ExclusiveAccessRegistrants,
            WriteExclusiveAll,
            ExclusiveAccessAll,
        ];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
    /// Whether others may not even read.
    pub fn excludes_reading(self) -> bool {
        matches!(
            self,
            ReservationKind::ExclusiveAccess
                | ReservationKind::ExclusiveAccessRegistrants
                | ReservationKind::ExclusiveAccessAll
        )
    }
    /// Whether all registrants may do what the holder may.
    pub fn is_for_registrants(self) -> bool {
        !matches!(self, ReservationKind::WriteExclusive | ReservationKind::ExclusiveAccess)
    }
    /// Whether all registrants are holders.
    pub fn is_held_by_all(self) -> bool {
        matches!(self, ReservationKind::WriteExclusiveAll | ReservationKind::ExclusiveAccessAll)
    }
}

/// What a registration changes about persistence through power loss (CPTPL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// Nothing.
    Keep,
    /// Registrations and reservation are forgotten when the device starts anew.
    Forget,
    /// They are kept.
    Remember,
}

/// What a host asks for. A `current` of `None` does not compare the host's key (IEKEY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Become a registrant.
    Register {
        /// The host's key from now on; not 0.
        key: u64,
        /// What becomes of persistence.
        persist: Persist,
    },
    /// Be a registrant no longer.
    Unregister {
        /// The host's key.
        current: Option<u64>,
        /// What becomes of persistence.
        persist: Persist,
    },
    /// Change the key; without `current` also for a host that is no registrant yet.
    Replace {
        /// The host's key.
        current: Option<u64>,
        /// The new one; not 0.
        key: u64,
        /// What becomes of persistence.
        persist: Persist,
    },
    /// Become the holder, when there is none.
    Acquire {
        /// The host's key.
        current: u64,
        /// What to hold.
        kind: ReservationKind,
    },
    /// Unregister whoever has the key `victim`; when that is the holder, become the holder. When this is answered,
    /// nothing that the victims had under way happens any more.
    Preempt {
        /// The host's key.
        current: u64,
        /// Whom. 0: everybody else, where all registrants are holders.
        victim: u64,
        /// What to hold.
        kind: ReservationKind,
    },
    /// Be the holder no longer.
    Release {
        /// The host's key.
        current: u64,
        /// What is held.
        kind: ReservationKind,
    },
    /// Unregister everybody.
    Clear {
        /// The host's key.
        current: u64,
    },
}

/// A host that is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// The host.
    pub host: HostId,
    /// Its key.
    pub key: u64,
}

/// The reservation of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it keeps from whom.
    pub kind: ReservationKind,
    /// Who acquired it. Where all registrants are holders this one may be gone.
    pub holder: HostId,
}

/// Who is registered with a device, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservations {
    generation: u32,
    persistent: bool,
    registrants: Vec<Registrant>,
    held: Option<Held>,
    most: usize,
}

/// The version of the form in which reservations are kept.
const FORM: u8 = 1;
const HEAD: usize = 8;
const ENTRY: usize = 24;

impl Reservations {
    /// Nobody is registered; at most `most` hosts can be.
    pub fn new(most: usize) -> Reservations {
        Reservations { generation: 0, persistent: false, registrants: Vec::new(), held: None, most }
    }

    /// What another device has reported.
    pub fn reported(
        generation: u32,
        persistent: bool,
        registrants: Vec<Registrant>,
        held: Option<Held>,
    ) -> Reservations {
        let most = registrants.len();
        Reservations { generation, persistent, registrants, held, most }
    }

    /// GEN: changes with every change of the registrants.
    pub fn generation(&self) -> u32 {
        self.generation
    }
    /// PTPL: whether all of this is kept when the device starts anew.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }
    /// The registrants, oldest first.
    pub fn registrants(&self) -> &[Registrant] {
        &self.registrants
    }
    /// The reservation.
    pub fn held(&self) -> Option<Held> {
        self.held
    }
    /// Whether the host holds the reservation.
    pub fn is_holder(&self, host: HostId) -> bool {
        self.held.is_some_and(|held| match held.kind.is_held_by_all() {
            true => self.is_registered(host),
            false => held.holder == host,
        })
    }
    /// Whether a host may carry out a request that changes the device (a flush counts as one), or one that reads it
    /// (Base 8.19.1, "command behavior in the presence of a reservation").
    pub fn allows(&self, host: HostId, is_change: bool) -> bool {
        let Some(held) = self.held else { return true };
        let is_restricted = is_change || held.kind.excludes_reading();
        let is_let_in = if held.kind.is_for_registrants() { self.is_registered(host) } else { held.holder == host };
        !is_restricted || is_let_in
    }

    fn key_of(&self, host: HostId) -> Option<u64> {
        self.registrants.iter().find(|r| r.host == host).map(|r| r.key)
    }
    fn is_registered(&self, host: HostId) -> bool {
        self.key_of(host).is_some()
    }

    /// Does what a host asks for.
    ///
    /// # Errors
    /// [`Fault::Fenced`]: a conflict. [`Fault::Unsupported`]: the request makes no sense. [`Fault::NoSpace`]: too many
    /// registrants. Then nothing has changed.
    pub fn apply(&mut self, host: HostId, ask: Reserve) -> Result<(), Fault> {
        if host == [0; 16] {
            return Err(Fault::Unsupported);
        }
        match ask {
            Reserve::Register { key, persist } => {
                match self.key_of(host) {
                    Some(own) if own == key => {}
                    Some(_) => return Err(Fault::Fenced),
                    None => self.enlist(host, key)?,
                }
                self.persist(persist);
            }
            Reserve::Replace { current, key, persist } => {
                if current.is_some() || self.is_registered(host) {
                    self.check(host, current)?;
                }
                if key == 0 {
                    return Err(Fault::Unsupported);
                }
                match self.registrants.iter_mut().find(|r| r.host == host) {
                    Some(own) => own.key = key,
                    None => self.enlist(host, key)?,
                }
                self.persist(persist);
            }
            Reserve::Unregister { current, persist } => {
                self.check(host, current)?;
                self.expel(|r| r.host == host);
                self.persist(persist);
            }
            Reserve::Acquire { current, kind } => {
                self.check(host, Some(current))?;
                match self.held {
                    None => self.held = Some(Held { kind, holder: host }),
                    Some(held) if held.kind == kind && self.is_holder(host) => {}
                    Some(_) => return Err(Fault::Fenced),
                }
            }
            Reserve::Preempt { current, victim, kind } => self.preempt(host, current, victim, kind)?,
            Reserve::Release { current, kind } => {
                self.check(host, Some(current))?;
                if self.is_holder(host) {
                    if self.held.is_some_and(|held| held.kind != kind) {
                        return Err(Fault::Unsupported);
                    }
                    self.held = None;
                }
            }
            Reserve::Clear { current } => {
                self.check(host, Some(current))?;
                self.registrants.clear();
                self.held = None;
                self.generation = self.generation.wrapping_add(1);
            }
        }
        Ok(())
    }

    /// The host must be a registrant, with that key when one is given.
    fn check(&self, host: HostId, key: Option<u64>) -> Result<(), Fault> {
        match self.key_of(host) {
            Some(own) if key.is_none_or(|key| key == own) => Ok(()),
            _ => Err(Fault::Fenced),
        }
    }

    fn persist(&mut self, persist: Persist) {
        match persist {
            Persist::Keep => {}
            Persist::Forget => self.persistent = false,
            Persist::Remember => self.persistent = true,
        }
        self.generation = self.generation.wrapping_add(1);
    }

    fn enlist(&mut self, host: HostId, key: u64) -> Result<(), Fault> {
        if key == 0 {
            return Err(Fault::Unsupported);
        }
        if self.registrants.len() >= self.most {
            return Err(Fault::NoSpace);
        }
        self.registrants.push(Registrant { host, key });
        Ok(())
    }

    /// Unregisters; a reservation that nobody holds any more is released. Whether there was anybody to unregister.
    fn expel(&mut self, whom: impl Fn(&Registrant) -> bool) -> bool {
        let before = self.registrants.len();
        self.registrants.retain(|r| !whom(r));
        let lapsed = self.held.is_some_and(|held| match held.kind.is_held_by_all() {
            true => self.registrants.is_empty(),
            false => !self.is_registered(held.holder),
        });
        if lapsed {
            self.held = None;
        }
        self.registrants.len() < before
    }

    fn preempt(&mut self, host: HostId, current: u64, victim: u64, kind: ReservationKind) -> Result<(), Fault> {
        self.check(host, Some(current))?;
        let is_all = self.held.is_some_and(|held| held.kind.is_held_by_all());
        if victim == 0 && !is_all {
            return Err(Fault::Unsupported);
        }
        let takes_over = match self.held {
            None => false,
            Some(_) if is_all => victim == 0,
            Some(held) => self.key_of(held.holder) == Some(victim),
        };
        let expelled = self.expel(|r| r.host != host && (r.key == victim || victim == 0 && is_all));
        if !expelled && !takes_over {
            return Err(Fault::Fenced);
        }
        if takes_over {
            self.held = Some(Held { kind, holder: host });
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// What is to be kept for the next start of the device; empty when nothing is.
    ///
    /// Form 1, little-endian: form (1), kind or 0 (1), registrants (1), 0 (1), generation (4); for each registrant its host
    /// (16) and key (8); then, when something is held, the holder (16).
    pub fn to_keep(&self) -> Vec<u8> {
        if !self.persistent {
            return Vec::new();
        }
        let mut bytes = vec![FORM, self.held.map_or(0, |h| h.kind as u8), self.registrants.len() as u8, 0];
        bytes.extend(self.generation.to_le_bytes());
        for Registrant { host, key } in &self.registrants {
            bytes.extend(host);
            bytes.extend(key.to_le_bytes());
        }
        bytes.extend(self.held.iter().flat_map(|held| held.holder));
        bytes
    }

    /// The bytes that [`Reservations::to_keep`] takes for so many registrants.
    pub const fn kept_len(registrants: usize) -> usize {
        HEAD + registrants * ENTRY + 16
    }

    /// What was kept; `None` when the bytes make no sense. Never panics, whatever the bytes.
    pub fn from_kept(bytes: &[u8], most: usize) -> Option<Reservations> {
        let mut state = Reservations::new(most);
        if bytes.is_empty() {
            return Some(state);
        }
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let [FORM, kind, count, 0, generation @ ..] = head else { return None };
        state.generation = u32::from_le_bytes(generation.try_into().ok()?);
        state.persistent = true;
        let (entries, holder) = rest.split_at_checked(usize::from(*count) * ENTRY)?;
        for entry in entries.chunks_exact(ENTRY) {
            let (host, key) = (entry[..16].try_into().ok()?, u64::from_le_bytes(entry[16..].try_into().ok()?));
            if host == [0; 16] || key == 0 || state.is_registered(host) {
                return None;
            }
            state.registrants.push(Registrant { host, key });
        }
        match (kind, holder) {
            (0, []) => {}
            (kind, holder) => {
                let (kind, holder) = (ReservationKind::from_number(*kind)?, HostId::try_from(holder).ok()?);
                let held = if kind.is_held_by_all() { !entries.is_empty() } else { state.is_registered(holder) };
                state.held = held.then_some(Held { kind, holder });
                state.held?;
            }
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests;
