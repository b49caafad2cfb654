//! What lies on a child: its label, its identity, its ledger and dirty map. Sequential reads and writes only.

use std::time::Duration;

use block::{BlockRange, Buf, Bytes, Durability, Fault};
use host::{DiskExt, DiskRef, Host};
use nexus::label::{self, Label, Layout, Probe};
use nexus::ledger::Ledger;
use nexus::map::{Maps, Shape};
use nexus::meta::{self, CacheNote, Identity};
use uuid::{Builder, Uuid};

use crate::meter::Meter;

use super::pump::Link;

/// What was found on a child.
pub(super) struct Look {
    pub link: Link,
    pub probe: Probe,
    /// When the label is of this volume: who the member is.
    pub member: Option<Uuid>,
    pub ledger: Option<Ledger>,
    /// The ledger in the other slot.
    pub older: Option<Ledger>,
    /// The ledger slot that may be overwritten.
    pub slot: usize,
    /// The life of its cache in which it was last known to lack nothing, as far as it was noted.
    pub noted: Option<[u8; 16]>,
    /// The life of its cache now.
    pub run: [u8; 16],
}

impl Look {
    /// Whether the device may have lost what it had answered and not flushed.
    pub fn is_shaken(&self) -> bool {
        self.noted.is_some_and(|noted| noted != self.run)
    }
}

/// Why a child cannot be a member.
pub(super) enum Unfit {
    /// The device fails or does not answer.
    Io(String),
    /// It never can.
    Never(String),
}

fn io(what: &'static str) -> impl Fn(Fault) -> Unfit {
    move |fault| Unfit::Io(format!("{what}: {fault}"))
}

/// Reads a child's label and what belongs to it. `size` is the volume's.
pub(super) async fn look(
    host: &Host,
    disk: &DiskRef,
    volume: Uuid,
    size: Bytes,
    limit: Duration,
) -> Result<Look, Unfit> {
    let look = look_now(host, disk, volume, size);
    host.timeout(limit, look).await.unwrap_or_else(|| Err(Unfit::Io("the device does not answer".into())))
}

async fn look_now(host: &Host, disk: &DiskRef, volume: Uuid, size: Bytes) -> Result<Look, Unfit> {
    let geometry = disk.geometry();
    let layout = Layout::new(geometry.block_size, geometry.blocks).map_err(|e| Unfit::Never(e.to_string()))?;
    let room = geometry.block_size.bytes_of(layout.data().len);
    if !geometry.block_size.divides(size.0) || room < size {
        let (want, have) = (size.0, room.0);
        return Err(Unfit::Never(format!("the volume needs {want} bytes, the device has {have} beside its label")));
    }
    let front = disk.read(layout.probe_front()).await.map_err(io("reading the label"))?;
    let back = disk.read(layout.back()).await.map_err(io("reading the backup label"))?;
    let probe = label::probe(&front, &back, &layout);
    let link = Link { disk: disk.clone(), layout, meter: Meter::new(host, geometry.block_size) };
    let run = disk.run().unwrap_or_else(|| host.boot_id());
    let mut look = Look { link, probe, member: None, ledger: None, older: None, slot: 0, noted: None, run };
    if !matches!(&look.probe, Probe::Labelled { label, .. } if label.volume == volume) {
        return Ok(look);
    }
    let meta = layout.meta();
    let at = |range: BlockRange| range.shifted(meta.start - block::Lba(0));
    let identity = disk.read(at(meta::identity(geometry.block_size))).await.map_err(io("reading the identity"))?;
    let identity = Identity::decode(&identity).filter(|i| i.volume == volume);
    look.member = identity.map(|i| i.member);
    let noted = disk.read(at(meta::cache_note(geometry.block_size))).await.map_err(io("reading the identity"))?;
    look.noted = CacheNote::decode(&noted).filter(|n| n.volume == volume).map(|n| n.run);
    let mut damaged = 0;
    for slot in 0..2 {
        let bytes = disk.read(at(meta::slot(geometry.block_size, slot))).await.map_err(io("reading the ledger"))?;
        let Some(ledger) = Ledger::decode(&bytes).filter(|l| l.volume == volume) else {
            damaged += u32::from(bytes.iter().any(|b| *b != 0));
            continue;
        };
        if look.ledger.as_ref().is_none_or(|best| ledger.version > best.version) {
            look.older = look.ledger.replace(ledger);
            look.slot = 1 - slot;
        } else {
            look.older = Some(ledger);
        }
    }
    if damaged == 2 {
        return Err(Unfit::Io("both copies of its ledger are damaged".into()));
    }
    Ok(look)
}

/// Notes the life of a member's cache, durably: from now on it counts as a member that has lost nothing in it.
pub(super) async fn note_run(link: &Link, volume: Uuid, run: [u8; 16]) -> Result<(), Fault> {
    let layout = &link.layout;
    let range = meta::cache_note(layout.block_size).shifted(layout.meta().start - block::Lba(0));
    let note = CacheNote { volume, run }.encode(layout.block_size);
    link.disk.write(range, Buf::copy_of(&note), Durability::Durable).await
}

/// Reads a member's dirty map.
pub(super) async fn read_maps(link: &Link, volume: Uuid, shape: &Shape) -> Result<Maps, Fault> {
    let range = meta::map(shape.block_size, shape.units()).shifted(link.layout.meta().start - block::Lba(0));
    let bytes = link.disk.read(range).await?;
    Ok(Maps::decode(&bytes, volume, shape))
}

/// A new random uuid.
pub(super) fn new_uuid(host: &Host) -> Uuid {
    Builder::from_random_bytes(host.random_bytes()).into_uuid()
}

/// Makes the child a member of the volume with no ledger yet: label, identity, empty slots, clean map. The member's uuid.
pub(super) async fn format(
    host: &Host,
    link: &Link,
    probe: &Probe,
    volume: Uuid,
    shape: &Shape,
) -> Result<Uuid, Fault> {
    let (disk, layout) = (&link.disk, &link.layout);
    let write =
        async |range: BlockRange, bytes: Vec<u8>| disk.write(range, Buf::copy_of(&bytes), Durability::Volatile).await;
    let meta = |range: BlockRange| range.shifted(layout.meta().start - block::Lba(0));
    let member = new_uuid(host);
    // What names the child as a member comes last: before that it is blank, or a label without identity.
    write(meta(meta::identity(shape.block_size)), vec![0; shape.block_size.bytes() as usize]).await?;
    for slot in 0..2 {
        write(meta(meta::slot(shape.block_size, slot)), vec![0; meta::SLOT_BYTES]).await?;
    }
    write(meta(meta::map(shape.block_size, shape.units())), Maps::clean(shape).encode(volume, shape)).await?;
    disk.flush().await?;
    repair_label(host, link, probe, volume).await?;
    write(meta(meta::identity(shape.block_size)), Identity { volume, member }.encode(shape.block_size)).await?;
    disk.flush().await?;
    Ok(member)
}

/// Writes the label when it is missing or not whole; a label of this volume keeps its partitions' GUIDs.
pub(super) async fn repair_label(host: &Host, link: &Link, probe: &Probe, volume: Uuid) -> Result<(), Fault> {
    let label = match probe {
        Probe::Labelled { whole: true, label } if label.volume == volume => return Ok(()),
        Probe::Labelled { label, .. } if label.volume == volume => *label,
        _ => Label { volume, meta: new_uuid(host), data: new_uuid(host) },
    };
    let (disk, layout) = (&link.disk, &link.layout);
    disk.write(layout.back(), Buf::copy_of(&label.back(layout)), Durability::Volatile).await?;
    disk.flush().await?;
    disk.write(layout.front(), Buf::copy_of(&label.front(layout)), Durability::Volatile).await?;
    disk.flush().await
}
