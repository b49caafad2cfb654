//! Opening a volume: look at the children, decide, label what is new, start the machine, record the new generation.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::probe::{Mark, Mutant, mark, mutant};
use block::{BlockSize, Blocks};
use futures_util::future::join_all;
use host::Host;
use nexus::MemberState;
use nexus::label::Probe;
use nexus::ledger::{Ledger, Role, Set, Version, uri_tag};
use nexus::machine::{Nexus as Machine, Opened, Opening, Phase, Standing};
use nexus::map::{Maps, Shape};
use nexus::open::{Decision, Found, decide};
use uuid::Uuid;

use super::child::{self, Look, Unfit};
use super::claim;
use super::pump::{Child, Pump};
use super::{ChildSpec, NexusError, NexusSpec};

/// A child while the volume is being opened.
struct Candidate {
    uri: String,
    look: Result<Look, String>,
    /// Its place among the machine's members.
    member: Option<(usize, Uuid)>,
}

/// Opens a volume; see [`super::Nexus::open`].
pub(super) async fn open(host: &Host, spec: NexusSpec) -> Result<Rc<Pump>, NexusError> {
    let nexus = spec.uuid;
    check(&spec)?;
    // A first look, so that an opening that can not succeed takes no member away from another nexus.
    let mut candidates = look_all(host, &spec, &BTreeMap::new()).await?;
    check_children(nexus, &candidates, spec.force)?;
    judge(&spec, &mut candidates)?;
    // Rule: a member is first made this nexus's own, and then looked at. What is found then is all that its former writers
    // have done and ever will.
    let key = host.random().max(1);
    let lost = if mutant(Mutant::OpenWithoutReserving) {
        BTreeMap::new()
    } else {
        claim_all(host, &spec, &candidates, key).await
    };
    let mut candidates = look_all(host, &spec, &lost).await?;
    let block_size = check_children(nexus, &candidates, spec.force)?;
    let mut opening = plan(host, &spec, block_size, &mut candidates).await?;
    opening.settings = spec.settings;

    let mut out = Vec::new();
    let machine = Machine::new(opening, host.now(), &mut out);
    let ids: Vec<_> = machine.members(host.now()).iter().map(|m| m.id).collect();
    let pump = Pump::new(host, (nexus, key), machine, spec.store.clone(), spec.events.clone());
    let changed = |look: &&Look| look.noted != Some(look.run);
    let news = candidates.iter().filter(|c| c.member.is_some()).filter_map(|c| c.look.as_ref().ok()).filter(changed);
    let news: Vec<_> = news.map(|look| (look.link.clone(), look.run)).collect();
    for candidate in candidates {
        let member = candidate.member.map(|(index, uuid)| (ids[index], uuid));
        let (link, reason) = match candidate.look {
            Ok(look) => (Some(look.link), String::new()),
            Err(reason) => (None, reason),
        };
        if let Some((id, _)) = member {
            pump.set_link(id, link.clone());
        }
        pump.children.borrow_mut().push(Child { uri: candidate.uri, link, member, reason });
    }
    pump.start();
    pump.carry_out(out);
    let settled = |m: &Machine| m.phase() != Phase::Opening;
    let in_time = pump.until(spec.settings.member_deadline * 3, settled).await;
    let phase = pump.machine.borrow().phase();
    if !in_time || phase != Phase::Serving {
        pump.with(|machine, now, out| machine.abort(now, out));
        pump.release();
        return Err(match phase {
            Phase::Fenced => NexusError::Fenced { nexus },
            _ => NexusError::NoQuorum {
                nexus,
                reason: "the ledger of the new generation could not be recorded on the members and in the store".into(),
            },
        });
    }
    // Whoever is in sync by the new record lacks nothing, or nobody knows better. A note that is not written costs a copy
    // of what is dirty at the next open.
    for (link, run) in news {
        let _ = host.timeout(spec.settings.member_deadline, child::note_run(&link, nexus, run)).await;
    }
    start_rebuilds(&pump);
    Ok(pump)
}

/// Looks at every child but those that are `lost`, for the reasons given.
async fn look_all(
    host: &Host,
    spec: &NexusSpec,
    lost: &BTreeMap<String, String>,
) -> Result<Vec<Candidate>, NexusError> {
    let look = |child: &ChildSpec| {
        let (uri, disk) = (child.uri.clone(), child.disk.clone());
        let lost = lost.get(&uri).cloned();
        async move {
            let look = match (disk, lost) {
                (_, Some(reason)) | (Err(reason), None) => Err(reason),
                (Ok(disk), None) => match child::look(host, &disk, spec.uuid, spec.settings.member_deadline).await {
                    Ok(look) => Ok(look),
                    Err(Unfit::Io(reason)) => Err(reason),
                    Err(Unfit::Never(reason)) => {
                        return Err(NexusError::BadChild { nexus: spec.uuid, uri, reason });
                    }
                },
            };
            Ok(Candidate { uri, look, member: None })
        }
    };
    join_all(spec.children.iter().map(look)).await.into_iter().collect()
}

/// Makes the children that can be reached this nexus's own. Those that could not be, or were out of reach before.
async fn claim_all(host: &Host, spec: &NexusSpec, candidates: &[Candidate], key: u64) -> BTreeMap<String, String> {
    let limit = spec.settings.member_deadline;
    let claim = |candidate: &Candidate| {
        let (uri, disk) = (candidate.uri.clone(), candidate.look.as_ref().map(|l| l.link.disk.clone()));
        let disk = disk.map_err(String::clone);
        async move {
            let claimed = match disk {
                Ok(disk) => claim::claim(host, &disk, key, limit).await,
                Err(reason) => Err(reason),
            };
            claimed.err().map(|reason| (uri, reason))
        }
    };
    join_all(candidates.iter().map(claim)).await.into_iter().flatten().collect()
}

/// The ledgers that were found.
fn found(candidates: &[Candidate]) -> Vec<Found> {
    let looks = candidates.iter().filter_map(|c| c.look.as_ref().ok());
    let found = |l: &Look| {
        let (ledger, older, rotten) = (l.ledger.clone(), l.older.clone(), l.rotten);
        l.member.map(|member| Found { member, ledger, older, rotten })
    };
    looks.filter_map(found).collect()
}

/// What the ledgers that were found say. Members for which the volume has become too large are set aside.
fn judge(spec: &NexusSpec, candidates: &mut [Candidate]) -> Result<Decision, NexusError> {
    let nexus = spec.uuid;
    let stored = spec.ledger.as_ref().map(|l| Version::from_number(l.generation));
    let refused = |reason: String| NexusError::NoQuorum { nexus, reason };
    let decision = decide(&found(candidates), stored).map_err(|e| refused(e.to_string()))?;
    if matches!(decision, Decision::Fresh) {
        if !spec.fresh {
            return Err(refused("no ledger was found on any child, and the volume is not new".into()));
        }
        if let Some((uri, reason)) = candidates.iter().find_map(|c| c.look.as_ref().err().map(|e| (&c.uri, e))) {
            return Err(NexusError::BadChild { nexus, uri: uri.clone(), reason: reason.clone() });
        }
    }
    for candidate in candidates {
        let Ok(look) = &candidate.look else { continue };
        let size = if let Decision::Serve { ledger, .. } = &decision { ledger.size } else { spec.size };
        let Err(reason) = child::check_room(&look.link.layout, size) else { continue };
        match &decision {
            // It was away when the volume grew; it can come back when its device has grown, too.
            Decision::Serve { ledger, in_sync, .. }
                if look.member.is_some_and(|m| ledger.entry(m).is_some() && !in_sync.contains(&m)) =>
            {
                candidate.look = Err(reason);
            }
            _ => return Err(NexusError::BadChild { nexus, uri: candidate.uri.clone(), reason }),
        }
    }
    Ok(decision)
}

/// Every member that waits for a rebuild gets one.
fn start_rebuilds(pump: &Rc<Pump>) {
    let members = pump.machine.borrow().members(pump.host.now());
    for member in members.iter().filter(|m| m.state == MemberState::Joining) {
        pump.with(|machine, now, out| machine.start_rebuild(now, member.id, out))
            .expect("a member that waits for a rebuild can be rebuilt");
    }
}

fn check(spec: &NexusSpec) -> Result<(), NexusError> {
    let invalid = |reason: String| Err(NexusError::Invalid { nexus: spec.uuid, reason });
    if spec.children.is_empty() {
        return invalid("a nexus needs at least one child".into());
    }
    if spec.children.len() > block::limits::NEXUS_MEMBERS {
        return invalid(format!("a nexus has at most {} children", block::limits::NEXUS_MEMBERS));
    }
    if spec.size.0 == 0 {
        return invalid("the size must not be 0".into());
    }
    if let Err(reason) = spec.settings.check() {
        return invalid(reason.into());
    }
    for (i, child) in spec.children.iter().enumerate() {
        if spec.children[..i].iter().any(|c| c.uri == child.uri) {
            return Err(NexusError::ChildExists { nexus: spec.uuid, uri: child.uri.clone() });
        }
    }
    Ok(())
}

/// What must hold whatever the ledgers say; the common block size.
fn check_children(nexus: Uuid, candidates: &[Candidate], force: bool) -> Result<BlockSize, NexusError> {
    let bad = |uri: &str, reason: String| NexusError::BadChild { nexus, uri: uri.into(), reason };
    let mut block_size = None;
    let mut members = Set::new();
    for Candidate { uri, look, .. } in candidates {
        let Ok(look) = look else { continue };
        let this = look.link.layout.block_size;
        if *block_size.get_or_insert(this) != this {
            return Err(bad(uri, format!("its block size {} differs from that of the other children", this.bytes())));
        }
        refuse_foreign(nexus, &look.probe, force).map_err(|reason| bad(uri, reason))?;
        if look.member.is_some_and(|m| !members.insert(m)) {
            return Err(bad(uri, "it is a copy of another child: both have the same member uuid".into()));
        }
    }
    block_size.ok_or_else(|| {
        let why = candidates.iter().map(|c| match &c.look {
            Err(reason) => format!("{}: {reason}", c.uri),
            Ok(_) => c.uri.clone(),
        });
        let why: Vec<String> = why.collect();
        NexusError::NoQuorum { nexus, reason: format!("no child can be reached ({})", why.join("; ")) }
    })
}

/// Only what is blank or ours is labelled, unless forced.
pub(super) fn refuse_foreign(nexus: Uuid, probe: &Probe, force: bool) -> Result<(), String> {
    match probe {
        _ if force => Ok(()),
        Probe::Blank => Ok(()),
        Probe::Labelled { label, .. } if label.volume == nexus => Ok(()),
        Probe::Labelled { label, .. } => Err(format!("it belongs to nexus {}", label.volume)),
        Probe::Foreign(what) => Err(format!("it holds {what}")),
    }
}

/// Decides who is in sync, and labels the children that are new.
async fn plan(
    host: &Host,
    spec: &NexusSpec,
    block_size: BlockSize,
    candidates: &mut [Candidate],
) -> Result<Opening, NexusError> {
    let nexus = spec.uuid;
    let stored = spec.ledger.as_ref().map(|l| Version::from_number(l.generation));
    let decision = judge(spec, candidates)?;
    let shape = Shape::of(block_size, block_size.blocks_in(spec.size));
    let mut opening = Opening {
        volume: nexus,
        size: spec.size,
        shape,
        settings: spec.settings,
        members: Vec::new(),
        maps: Maps::clean(&shape),
        bases: Vec::new(),
        parent: Version::default(),
        salt: host.random(),
        highest: Version::default(),
        stored,
    };
    match decision {
        Decision::Fresh => {
            // A creation that crashed may have left records that never came into force.
            let seen = found(candidates).into_iter().filter_map(|f| f.ledger.map(|l| l.version)).max();
            opening.highest = seen.unwrap_or_default();
            for candidate in candidates {
                enlist(host, nexus, &mut opening, candidate, Standing::InSync).await?;
            }
        }
        Decision::Serve { ledger, version, in_sync, bases, highest } => {
            (opening.bases, opening.highest, opening.parent) = (bases, highest, version);
            opening.shape = shape_of(spec, &ledger, block_size)?;
            opening.size = ledger.size;
            opening.maps = Maps::clean(&opening.shape);
            for candidate in candidates.iter_mut() {
                admit(host, nexus, &mut opening, candidate, &ledger, &in_sync).await?;
            }
            set_back_shaken(&mut opening, candidates);
        }
    }
    Ok(opening)
}

/// After an unclean stop: a member whose device may have lost what it had answered is behind those that have lost nothing.
/// All of what it lacks is dirty. When all have lost their caches, any of them is as good as another.
fn set_back_shaken(opening: &mut Opening, candidates: &[Candidate]) {
    if opening.maps.dirty.is_zero() || mutant(Mutant::TrustShaken) {
        return;
    }
    let in_sync = |opening: &Opening, c: &Candidate| {
        let (at, _) = c.member.filter(|(at, _)| opening.members[*at].standing == Standing::InSync)?;
        Some((at, c.look.as_ref().is_ok_and(Look::is_shaken)))
    };
    let found: Vec<(usize, bool)> = candidates.iter().filter_map(|c| in_sync(opening, c)).collect();
    if found.iter().any(|(_, shaken)| !shaken) {
        for (at, _) in found.into_iter().filter(|(_, shaken)| *shaken) {
            mark(Mark::ShakenSetBack);
            opening.members[at].standing = Standing::Behind;
        }
    }
}

/// The volume's shape as its ledger says. When the store knows the volume it may have grown since the store was told its size,
/// or shall grow; else the size that was asked is a mistake if it is another one.
fn shape_of(spec: &NexusSpec, ledger: &Ledger, block_size: BlockSize) -> Result<Shape, NexusError> {
    if ledger.size != spec.size && spec.ledger.is_none() {
        let reason = format!("the volume has {} bytes, {} were asked", ledger.size, spec.size);
        return Err(NexusError::Invalid { nexus: spec.uuid, reason });
    }
    let region = block_size.blocks_in(ledger.region);
    Ok(Shape { block_size, blocks: block_size.blocks_in(ledger.size), region: region.max(Blocks(1)) })
}

/// Finds a child's place in a volume that exists.
async fn admit(
    host: &Host,
    nexus: Uuid,
    opening: &mut Opening,
    candidate: &mut Candidate,
    ledger: &Ledger,
    in_sync: &Set,
) -> Result<(), NexusError> {
    let tag = uri_tag(&candidate.uri);
    let listed = |member: Uuid| ledger.entry(member).is_some_and(|e| e.role != Role::Gone);
    let standing = match &candidate.look {
        // The ledger may name it by its URI; if not, it has never been a member, or is one no more.
        Err(_) => {
            let entry = ledger.entries.iter().find(|e| e.uri_tag == tag && e.role != Role::Gone);
            if let Some(entry) = entry.filter(|e| !opening.members.iter().any(|m| m.uuid == e.member)) {
                candidate.member = Some((opening.members.len(), entry.member));
                opening.members.push(Opened { uuid: entry.member, uri_tag: tag, standing: Standing::Absent, slot: 0 });
            }
            return Ok(());
        }
        Ok(look) => match look.member {
            Some(member) if in_sync.contains(&member) => Standing::InSync,
            Some(member) if listed(member) => Standing::Behind,
            _ => Standing::New,
        },
    };
    enlist(host, nexus, opening, candidate, standing).await?;
    let (Ok(look), Standing::InSync) = (&candidate.look, standing) else { return Ok(()) };
    let maps = child::read_maps(&look.link, nexus, &opening.shape).await;
    let maps = maps.map_err(|fault| NexusError::BadChild {
        nexus,
        uri: candidate.uri.clone(),
        reason: format!("reading the dirty map: {fault}"),
    })?;
    opening.maps.dirty.add(&maps.dirty);
    opening.maps.behind.add(&maps.behind);
    Ok(())
}

/// Makes a reachable child a member: labels it if it is new, completes its label if it is not whole.
async fn enlist(
    host: &Host,
    nexus: Uuid,
    opening: &mut Opening,
    candidate: &mut Candidate,
    standing: Standing,
) -> Result<(), NexusError> {
    let Ok(look) = &candidate.look else { return Ok(()) };
    let failed = |fault| NexusError::BadChild {
        nexus,
        uri: candidate.uri.clone(),
        reason: format!("writing the label: {fault}"),
    };
    let keep = look.member.filter(|_| standing != Standing::New);
    let (uuid, slot) = match keep {
        Some(uuid) => {
            child::repair_label(host, &look.link, &look.probe, nexus).await.map_err(failed)?;
            (uuid, look.slot)
        }
        None => (child::format(host, &look.link, &look.probe, nexus, &opening.shape).await.map_err(failed)?, 0),
    };
    candidate.member = Some((opening.members.len(), uuid));
    opening.members.push(Opened { uuid, uri_tag: uri_tag(&candidate.uri), standing, slot });
    Ok(())
}
