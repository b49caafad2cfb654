//! A nexus as the rest of the engine sees it: a device, and commands.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, Bytes, Fault, Geometry, Request, Ticket};
use futures_util::future::join_all;
use host::{Disk, DiskRef, Host};
use nexus::ledger::{Version, uri_tag};
use nexus::machine::{Denied, MemberView, Nexus as Machine, Outbox, Phase};
use nexus::map::Shape;
use nexus::{MemberId, MemberState, Reason};
use uuid::Uuid;

use crate::meter::IoStats;

use super::child::{self, Look, Unfit};
use super::claim;
use super::open;
use super::pump::{Child, Link, Pump};
use super::{
    ChildInfo, ChildSpec, ChildState, NexusError, NexusInfo, NexusSpec, NexusState, RebuildInfo, RebuildState, Settings,
};

/// How long a command waits for the ledger to be recorded.
const RECORD_LIMIT: Duration = Duration::from_secs(30);

/// An open nexus. Dropping it aborts what is in flight; [`Nexus::close`] ends it in order.
pub struct Nexus {
    pump: Rc<Pump>,
    /// Fails the next flush.
    doubt: Cell<Option<Fault>>,
}

impl Nexus {
    /// Opens a volume: reads labels and ledgers, decides who is in sync, records a new generation, and serves. Members
    /// that are behind are rebuilt at once.
    pub async fn open(host: &Host, spec: NexusSpec) -> Result<Rc<Nexus>, NexusError> {
        let pump = open::open(host, spec).await?;
        Ok(Rc::new(Nexus { pump, doubt: Cell::new(None) }))
    }
    /// The volume's identity.
    pub fn uuid(&self) -> Uuid {
        self.pump.uuid
    }
    /// The usable size.
    pub fn size(&self) -> Bytes {
        self.geometry().bytes()
    }
    /// What members have to have room for: while it grows, more than clients have.
    fn shape(&self) -> Shape {
        *self.pump.machine.borrow().shape()
    }

    /// Makes the volume larger, while it is used. The children that are open must have room; those that are not get what
    /// they lack when they are back, and have room. It has the old size or, when this returns, the new one, whatever
    /// happens meanwhile. Fine when it has that size.
    ///
    /// # Errors
    /// [`NexusError::Invalid`] for a smaller size, or one that is no multiple of the block size;
    /// [`NexusError::BadChild`] names a child without room; [`NexusError::BadState`]: try again.
    pub async fn grow(&self, size: Bytes) -> Result<(), NexusError> {
        self.check_serving()?;
        let (now, block_size) = (self.size(), self.geometry().block_size);
        let invalid = |reason: String| Err(NexusError::Invalid { nexus: self.uuid(), reason });
        if size < now {
            return invalid(format!("it has {now} bytes and cannot shrink to {size}"));
        }
        if !block_size.divides(size.0) {
            return invalid(format!("{size} bytes are no multiple of the block size, {}", block_size.bytes()));
        }
        let (old, blocks) = (self.geometry().blocks, block_size.blocks_in(size));
        if self.shape().blocks == old && blocks > old {
            let prepared = self.prepare(BlockRange::new(old.0, blocks.0 - old.0)).await?;
            self.command("", |machine, now, out| machine.grow(now, blocks, &prepared, out))?;
        } else if self.shape().blocks != blocks {
            return Err(self.bad_state("it is growing to another size; try again"));
        }
        self.wait(move |m| m.geometry().blocks >= blocks).await?;
        self.check_serving()
    }

    /// Makes the members that are not out ready for what is gained.
    async fn prepare(&self, gained: BlockRange) -> Result<Vec<MemberId>, NexusError> {
        let members = self.pump.machine.borrow().members(self.pump.host.now());
        let is_open = |id| members.iter().any(|m| m.id == id && !matches!(m.state, MemberState::Out(_)));
        let open: Vec<(String, MemberId, Link)> = {
            let children = self.pump.children.borrow();
            let open = children.iter().filter_map(|c| Some((c.uri.clone(), c.member?.0, c.link.clone()?)));
            open.filter(|(_, id, _)| is_open(*id)).collect()
        };
        let limit = self.settings().member_deadline;
        let enlarge = open.iter().map(|(_, _, link)| child::enlarge(&self.pump.host, link, self.uuid(), gained, limit));
        let enlarged = join_all(enlarge).await;
        let mut prepared = Vec::new();
        for ((uri, id, before), link) in open.into_iter().zip(enlarged) {
            let link = link.map_err(|reason| self.bad_child(&uri, reason))?;
            let same = |child: &mut Child| {
                let is_same = child.link.as_ref().is_some_and(|l| Rc::ptr_eq(&l.disk, &before.disk));
                if is_same {
                    child.link = Some(link.clone());
                }
                is_same
            };
            // One that was opened anew meanwhile is not prepared, and the machine says so.
            if self.with_child(&uri, same) == Some(true) {
                self.pump.set_link(id, Some(link));
                prepared.push(id);
            }
        }
        Ok(prepared)
    }

    /// Answered writes from before this opening may be lost although the client has not flushed them yet: its next flush
    /// fails, so that it learns of it.
    pub fn fail_next_flush(&self) {
        self.doubt.set(Some(Fault::Medium));
    }

    /// Lets go of the members at once; what is in flight is aborted. The next nexus makes the members equal.
    pub fn abandon(&self) {
        if self.pump.machine.borrow().phase() != Phase::Closed {
            self.pump.with(|machine, now, out| machine.abort(now, out));
            self.pump.release();
        }
    }

    /// The whole picture.
    pub fn info(&self) -> NexusInfo {
        let now = self.pump.host.now();
        let machine = self.pump.machine.borrow();
        let members = machine.members(now);
        let (version, set) = machine.in_force();
        let children = self.pump.children.borrow();
        let uri_of =
            |id: MemberId| children.iter().find(|c| c.member.is_some_and(|(m, _)| m == id)).map(|c| c.uri.clone());
        let infos: Vec<ChildInfo> = children
            .iter()
            .map(|child| {
                let member = child.member.and_then(|(id, _)| members.iter().find(|m| m.id == id));
                child_info(child, member, machine.shape(), &uri_of)
            })
            .collect();
        let (state, reason) = health(&machine, &members, &infos);
        let listed = |c: &&Child| c.member.is_some_and(|(_, uuid)| set.contains(&uuid));
        NexusInfo {
            uuid: self.pump.uuid,
            size: machine.geometry().bytes(),
            block_size: machine.geometry().block_size,
            state,
            reason,
            generation: version.number(),
            in_sync: children.iter().filter(listed).map(|c| c.uri.clone()).collect(),
            children: infos,
        }
    }

    /// What clients asked for, since it was opened.
    pub fn io(&self) -> IoStats {
        self.pump.meter.read()
    }
    /// What was asked of the children that are open, by URI.
    pub fn children_io(&self) -> Vec<(String, IoStats)> {
        let children = self.pump.children.borrow();
        children.iter().filter_map(|c| Some((c.uri.clone(), c.link.as_ref()?.meter.read()))).collect()
    }

    /// Adds a child, out of sync; with `rebuild`, starts to copy to it. One that was a member before and is still listed
    /// gets only what it lacks.
    pub async fn add_child(&self, spec: ChildSpec, rebuild: bool, force: bool) -> Result<(), NexusError> {
        if self.find(&spec.uri).is_some() {
            return Err(NexusError::ChildExists { nexus: self.uuid(), uri: spec.uri });
        }
        let disk = spec.disk.map_err(|reason| self.bad_child(&spec.uri, reason))?;
        let look = self.look(&spec.uri, &disk).await?;
        open::refuse_foreign(self.uuid(), &look.probe, force).map_err(|reason| self.bad_child(&spec.uri, reason))?;
        let look = self.acquire(&spec.uri, &disk).await?;
        let at = self.pump.children.borrow().len();
        let child = Child { uri: spec.uri.clone(), link: None, member: None, reason: "being added".into() };
        self.pump.children.borrow_mut().push(child);
        let joined = self.join(&spec.uri, look, rebuild).await;
        if joined.is_err() {
            let mut children = self.pump.children.borrow_mut();
            let gone = children.iter().skip(at).position(|c| c.uri == spec.uri).map(|i| children.remove(at + i));
            drop(children);
            drop(gone);
        }
        joined
    }

    /// Takes a child out of the volume for good. An unknown child is fine.
    pub async fn remove_child(&self, uri: &str) -> Result<(), NexusError> {
        let Some((member, _)) = self.find(uri) else { return Ok(()) };
        if self.pump.children.borrow().len() == 1 {
            return Err(NexusError::LastCopy { nexus: self.uuid(), uri: uri.into() });
        }
        if let Some(id) = member {
            let settled = move |m: &Machine| state_in(m, id).is_none_or(|s| !matches!(s, MemberState::Leaving(_)));
            self.wait(settled).await?;
            self.command(uri, |machine, now, out| machine.remove(now, id, out))?;
            self.wait(move |m| state_in(m, id).is_none()).await?;
            self.pump.set_link(id, None);
        }
        let mut children = self.pump.children.borrow_mut();
        let gone = children.iter().position(|c| c.uri == uri).map(|at| children.remove(at));
        drop(children);
        drop(gone);
        self.pump.tell(format!("child {uri} was removed"));
        Ok(())
    }

    /// Takes a child out until [`Nexus::online_child`].
    pub async fn offline_child(&self, uri: &str) -> Result<(), NexusError> {
        self.take_out(uri, Reason::Offline).await
    }
    /// Treats a child as failed.
    pub async fn fault_child(&self, uri: &str) -> Result<(), NexusError> {
        self.take_out(uri, Reason::Faulted).await
    }

    /// Takes out a child whose device is known to be gone, also when no request has met that yet: an idle volume is to be
    /// repaired like a busy one. Refused for the last good copy.
    pub async fn child_lost(&self, uri: &str) -> Result<(), NexusError> {
        self.take_out(uri, Reason::Failed(Fault::Gone)).await
    }

    async fn take_out(&self, uri: &str, reason: Reason) -> Result<(), NexusError> {
        let (member, _) = self.find(uri).ok_or_else(|| self.not_found(uri))?;
        let Some(id) = member else { return Ok(()) };
        self.command(uri, |machine, now, out| machine.take_out(now, id, reason, out))?;
        self.wait(move |m| state_in(m, id).is_none_or(|s| matches!(s, MemberState::Out(_)))).await
    }

    /// Brings a child back that is offline, faulted or was unreachable, with its device opened anew if one is given;
    /// starts its rebuild, which copies only what differs.
    pub async fn online_child(&self, uri: &str, disk: Option<DiskRef>) -> Result<(), NexusError> {
        let (member, link) = self.find(uri).ok_or_else(|| self.not_found(uri))?;
        let state = member.map(|id| state_in(&self.pump.machine.borrow(), id));
        if state.is_some_and(|s| !matches!(s, Some(MemberState::Out(_)))) {
            return Err(self.bad_state("the child is not offline"));
        }
        if let Some(id) = member {
            // The old connection goes first: what it still has in flight must not land on what is copied.
            if disk.is_some() {
                self.with_child(uri, |child| child.link.take());
                self.pump.set_link(id, None);
            }
            let answered = |m: &Machine| m.members(block::Instant(0)).iter().all(|m| m.id != id || m.unanswered == 0);
            if !self.pump.until(RECORD_LIMIT, answered).await {
                return Err(
                    self.bad_state("the child has not answered requests from before; they could still take effect")
                );
            }
        }
        let disk = disk.or(link).ok_or_else(|| self.bad_child(uri, "its device is not open".into()))?;
        let look = self.look(uri, &disk).await?;
        open::refuse_foreign(self.uuid(), &look.probe, false).map_err(|reason| self.bad_child(uri, reason))?;
        let look = self.acquire(uri, &disk).await?;
        self.join(uri, look, true).await
    }

    /// Makes a reachable child of the list a member again, or a new one.
    async fn join(&self, uri: &str, look: Look, rebuild: bool) -> Result<(), NexusError> {
        let failed = |fault: block::Fault| self.bad_child(uri, format!("writing the label: {fault}"));
        let (host, nexus) = (&self.pump.host, self.uuid());
        let tag = uri_tag(uri);
        let known = look.member.and_then(|uuid| {
            let members = self.pump.machine.borrow().members(host.now());
            members.into_iter().find(|m| m.uuid == uuid)
        });
        let fits = || {
            let shape = self.shape();
            let size = shape.block_size.bytes_of(shape.blocks);
            child::check_room(&look.link.layout, size).map_err(|reason| self.bad_child(uri, reason))
        };
        fits()?;
        let (id, uuid) = match known {
            Some(member) if matches!(member.state, MemberState::Out(_)) => {
                child::repair_label(host, &look.link, &look.probe, nexus).await.map_err(failed)?;
                // It is not in sync, so whatever it lost with its cache will be copied.
                child::note_run(&look.link, nexus, look.run).await.map_err(failed)?;
                // The volume may have grown meanwhile.
                fits()?;
                self.command(uri, |machine, now, out| machine.online(now, member.id, look.slot, tag, out))?;
                (member.id, member.uuid)
            }
            Some(_) => {
                return Err(self.bad_child(uri, "it is a copy of another child: both have the same member uuid".into()));
            }
            None => {
                let before = self.find(uri).and_then(|(member, _)| member);
                let uuid = child::format(host, &look.link, &look.probe, nexus, &self.shape()).await.map_err(failed)?;
                child::note_run(&look.link, nexus, look.run).await.map_err(failed)?;
                fits()?;
                let id = self.command(uri, |machine, now, out| machine.add_member(now, uuid, tag, out))?;
                if let Some(old) = before {
                    // Another device stands behind the URI now: the member that was there is gone for good.
                    self.command(uri, |machine, now, out| machine.remove(now, old, out))?;
                }
                (id, uuid)
            }
        };
        self.pump.set_link(id, Some(look.link.clone()));
        self.with_child(uri, |child| {
            child.link = Some(look.link);
            child.member = Some((id, uuid));
            child.reason.clear();
        });
        if rebuild {
            self.command(uri, |machine, now, out| machine.start_rebuild(now, id, out))?;
        }
        Ok(())
    }

    /// Starts the rebuild of a child that is out of sync.
    pub fn start_rebuild(&self, uri: &str) -> Result<(), NexusError> {
        let id = self.member(uri)?;
        self.command(uri, |machine, now, out| machine.start_rebuild(now, id, out))
    }
    /// Ends a rebuild; what was copied is remembered. Fine when there is none.
    pub fn stop_rebuild(&self, uri: &str) -> Result<(), NexusError> {
        let id = self.member(uri)?;
        self.command(uri, |machine, now, out| machine.stop_rebuild(now, id, out))
    }
    /// Lets a rebuild wait.
    pub fn pause_rebuild(&self, uri: &str) -> Result<(), NexusError> {
        self.rebuild_info(uri)?;
        let id = self.member(uri)?;
        self.command(uri, |machine, now, out| machine.pause_rebuild(now, id, out))
    }
    /// Lets a waiting rebuild go on.
    pub fn resume_rebuild(&self, uri: &str) -> Result<(), NexusError> {
        self.rebuild_info(uri)?;
        let id = self.member(uri)?;
        self.command(uri, |machine, now, out| machine.resume_rebuild(now, id, out))
    }
    /// How far a rebuild is; [`NexusError::NoRebuild`] when there is none (any more).
    pub fn rebuild_info(&self, uri: &str) -> Result<RebuildInfo, NexusError> {
        let info = self.info();
        let child = info.children.into_iter().find(|c| c.uri == uri).ok_or_else(|| self.not_found(uri))?;
        child.rebuild.ok_or_else(|| NexusError::NoRebuild { nexus: self.uuid(), uri: uri.into() })
    }

    /// Changes the settings from now on.
    pub fn set_settings(&self, settings: Settings) -> Result<(), NexusError> {
        settings.check().map_err(|reason| NexusError::Invalid { nexus: self.uuid(), reason: reason.into() })?;
        self.pump.with(|machine, _, _| machine.set_settings(settings));
        Ok(())
    }
    /// The settings in force.
    pub fn settings(&self) -> Settings {
        *self.pump.machine.borrow().settings()
    }

    /// Waits for what is in flight, marks the members as clean and lets go of them. New requests fail with
    /// [`block::Fault::Aborted`]. When members do not answer, what is in flight is aborted, and the next nexus makes the
    /// members equal.
    pub async fn close(&self) -> Result<(), NexusError> {
        self.pump.with(|machine, now, out| machine.close(now, out));
        let limit = self.settings().member_deadline * 2;
        if !self.pump.until(limit, |m| m.phase() == Phase::Closed).await {
            self.pump.with(|machine, now, out| machine.abort(now, out));
        }
        self.pump.release();
        Ok(())
    }

    /// Makes a device this nexus's own, and looks at it.
    ///
    /// A nexus that was replaced and does not know it yet must not take a member from its successor. What the successor
    /// has recorded on the member tells; when there is such a thing, this nexus first makes sure that its own members
    /// still obey it. See docs/replication.md, section 3.4.
    async fn acquire(&self, uri: &str, disk: &DiskRef) -> Result<Look, NexusError> {
        let before = self.look(uri, disk).await?;
        let rival = self.rival(&before);
        if rival.is_some() {
            let confirmed = self.pump.with(|machine, now, out| machine.confirm(now, out));
            self.wait(move |m| m.in_force().0 >= confirmed).await?;
            self.check_serving()?;
        }
        let limit = self.settings().member_deadline;
        let claimed = claim::claim(&self.pump.host, disk, self.pump.key, limit).await;
        claimed.map_err(|reason| self.bad_child(uri, reason))?;
        let look = self.look(uri, disk).await?;
        match self.rival(&look) {
            new if new == rival => Ok(look),
            _ => Err(self.bad_child(uri, "another nexus has just recorded its ledger on it".into())),
        }
    }

    /// Stops this nexus for good when another one has recorded a ledger above its own on the device.
    pub async fn check_rivals(&self, uri: &str, disk: &DiskRef) -> Result<(), NexusError> {
        let look = self.look(uri, disk).await?;
        if self.rival(&look).is_none() {
            return Ok(());
        }
        self.pump.with(|machine, now, out| machine.overtaken(now, out));
        Err(NexusError::Fenced { nexus: self.uuid() })
    }

    /// The ledger that another nexus has recorded on a member after this one's.
    fn rival(&self, look: &Look) -> Option<Version> {
        let (ours, _) = self.pump.machine.borrow().in_force();
        let theirs = look.ledger.as_ref().map(|ledger| ledger.version);
        theirs.filter(|theirs| *theirs > ours && theirs.writer() != ours.writer())
    }

    fn check_serving(&self) -> Result<(), NexusError> {
        match self.pump.machine.borrow().phase() {
            Phase::Fenced => Err(NexusError::Fenced { nexus: self.uuid() }),
            Phase::Closed | Phase::Draining | Phase::Cleaning => Err(self.bad_state("it is being closed")),
            Phase::Opening | Phase::Serving => Ok(()),
        }
    }

    async fn look(&self, uri: &str, disk: &DiskRef) -> Result<Look, NexusError> {
        let block_size = disk.geometry().block_size;
        if block_size != self.geometry().block_size {
            let reason = format!("its block size {} differs from that of the nexus", block_size.bytes());
            return Err(self.bad_child(uri, reason));
        }
        let limit = self.settings().member_deadline;
        child::look(&self.pump.host, disk, self.uuid(), limit).await.map_err(|unfit| match unfit {
            Unfit::Io(reason) | Unfit::Never(reason) => self.bad_child(uri, reason),
        })
    }

    fn find(&self, uri: &str) -> Option<(Option<MemberId>, Option<DiskRef>)> {
        let children = self.pump.children.borrow();
        let child = children.iter().find(|c| c.uri == uri)?;
        Some((child.member.map(|(id, _)| id), child.link.as_ref().map(|l| l.disk.clone())))
    }
    fn with_child<T>(&self, uri: &str, act: impl FnOnce(&mut Child) -> T) -> Option<T> {
        self.pump.children.borrow_mut().iter_mut().find(|c| c.uri == uri).map(act)
    }
    fn member(&self, uri: &str) -> Result<MemberId, NexusError> {
        let (member, _) = self.find(uri).ok_or_else(|| self.not_found(uri))?;
        member.ok_or_else(|| self.bad_state("the child could not be opened"))
    }
    async fn wait(&self, wanted: impl Fn(&Machine) -> bool) -> Result<(), NexusError> {
        let over = |m: &Machine| wanted(m) || matches!(m.phase(), Phase::Closed | Phase::Fenced);
        if self.pump.until(RECORD_LIMIT, over).await {
            return Ok(());
        }
        Err(self.bad_state("the new ledger could not be recorded yet; the command goes on"))
    }

    fn command<T>(
        &self,
        uri: &str,
        act: impl FnOnce(&mut Machine, block::Instant, &mut Outbox) -> Result<T, Denied>,
    ) -> Result<T, NexusError> {
        self.pump.with(act).map_err(|denied| match denied {
            Denied::Unknown => self.not_found(uri),
            Denied::LastCopy => NexusError::LastCopy { nexus: self.uuid(), uri: uri.into() },
            Denied::TooMany | Denied::Twice => {
                NexusError::Invalid { nexus: self.uuid(), reason: format!("{uri}: {denied}") }
            }
            Denied::State(reason) => self.bad_state(reason),
        })
    }
    fn bad_child(&self, uri: &str, reason: String) -> NexusError {
        NexusError::BadChild { nexus: self.uuid(), uri: uri.into(), reason }
    }
    fn bad_state(&self, reason: &str) -> NexusError {
        NexusError::BadState { nexus: self.uuid(), reason: reason.into() }
    }
    fn not_found(&self, uri: &str) -> NexusError {
        NexusError::ChildNotFound { nexus: self.uuid(), uri: uri.into() }
    }
}

fn state_in(machine: &Machine, id: MemberId) -> Option<MemberState> {
    machine.members(block::Instant(0)).into_iter().find(|m| m.id == id).map(|m| m.state)
}

fn child_info(
    child: &Child,
    member: Option<&MemberView>,
    shape: &Shape,
    uri_of: &dyn Fn(MemberId) -> Option<String>,
) -> ChildInfo {
    let Some(member) = member else {
        let reason = child.reason.clone();
        return ChildInfo { uri: child.uri.clone(), state: ChildState::Faulted, reason, rebuild: None, errors: 0 };
    };
    let (state, reason) = match member.state {
        MemberState::InSync => (ChildState::Online, String::new()),
        MemberState::Growing => (ChildState::Rebuilding, "copied; the ledger is being recorded".into()),
        MemberState::Rebuilding => (ChildState::Rebuilding, "being rebuilt".into()),
        MemberState::Joining => (ChildState::OutOfSync, "out of sync, waits for a rebuild".into()),
        MemberState::Leaving(Reason::Offline) | MemberState::Out(Reason::Offline) => {
            (ChildState::Offline, Reason::Offline.to_string())
        }
        MemberState::Out(Reason::Absent) if !child.reason.is_empty() => (ChildState::Faulted, child.reason.clone()),
        MemberState::Leaving(reason) | MemberState::Out(reason) => (ChildState::Faulted, reason.to_string()),
    };
    let bytes = |blocks| shape.block_size.bytes_of(blocks);
    let rebuild = member.rebuild.as_ref().map(|p| RebuildInfo {
        state: p.state,
        bytes_done: bytes(p.done),
        bytes_total: bytes(p.total),
        bytes_per_second: bytes(p.per_second).0,
        eta: p.eta,
        source: p.source.and_then(uri_of).unwrap_or_default(),
    });
    ChildInfo { uri: child.uri.clone(), state, reason, rebuild, errors: member.errors as u64 }
}

/// How well the volume is, and why it is not better.
fn health(machine: &Machine, members: &[MemberView], children: &[ChildInfo]) -> (NexusState, String) {
    match machine.phase() {
        Phase::Fenced => return (NexusState::Faulted, "a newer nexus owns the volume".into()),
        Phase::Closed | Phase::Draining | Phase::Cleaning => return (NexusState::Faulted, "closed".into()),
        Phase::Opening | Phase::Serving => {}
    }
    let threshold = machine.settings().error_threshold as usize;
    let serves = |m: &MemberView| m.state == MemberState::InSync && m.errors <= threshold;
    if !members.iter().any(serves) {
        return (NexusState::Faulted, "the last copy in sync fails".into());
    }
    let ill: Vec<String> = children
        .iter()
        .filter(|c| c.state != ChildState::Online)
        .map(|c| match &c.rebuild {
            Some(r) if r.state == RebuildState::Running => format!("{}: being rebuilt, {} %", c.uri, r.percent()),
            _ => format!("{}: {}", c.uri, c.reason),
        })
        .collect();
    if ill.is_empty() { (NexusState::Online, String::new()) } else { (NexusState::Degraded, ill.join("; ")) }
}

impl Disk for Nexus {
    fn geometry(&self) -> Geometry {
        self.pump.machine.borrow().geometry()
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        let ticket = self.pump.meter.ticket(&request, ticket);
        if let Request::Flush = request
            && let Some(fault) = self.doubt.take()
        {
            return ticket.fail(fault);
        }
        self.pump.submit(request, ticket);
    }
    fn label(&self) -> String {
        format!("nexus-{}", self.pump.uuid)
    }
}

impl Drop for Nexus {
    fn drop(&mut self) {
        self.abandon();
    }
}
