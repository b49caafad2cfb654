//! What lies on a child: its label, its identity, its ledger and dirty map. Sequential reads and writes only.

use std::time::Duration;

use block::probe::{Mark, mark};
use block::{BlockRange, BlockSize, Buf, Bytes, Durability, Fault};
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
    /// A slot of its ledger has rotted; see [`nexus::open::Found::rotten`].
    pub rotten: bool,
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

/// What a device has beside its label.
pub(super) fn room(layout: &Layout) -> Bytes {
    layout.block_size.bytes_of(layout.data().len)
}

/// Whether a volume of `size` bytes fits; if not, why.
pub(super) fn check_room(layout: &Layout, size: Bytes) -> Result<(), String> {
    let (want, have) = (size.0, room(layout).0);
    if layout.block_size.divides(want) && have >= want {
        return Ok(());
    }
    Err(format!("the volume needs {want} bytes, the device has {have} beside its label"))
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

/// Reads a child's label and what belongs to it. `limit` is the time for each answer.
pub(super) async fn look(host: &Host, disk: &DiskRef, volume: Uuid, limit: Duration) -> Result<Look, Unfit> {
    // Rule: a member that is slow is no member that is away: each answer has its time, not all of them together. Without it
    // the volume might be served from those that have lost more.
    let read = async |range: BlockRange| {
        let read = host.timeout(limit, disk.read(range)).await;
        read.unwrap_or(Err(Fault::TimedOut))
    };
    let geometry = disk.geometry();
    let layout = Layout::new(geometry.block_size, geometry.blocks).map_err(|e| Unfit::Never(e.to_string()))?;
    let front = read(layout.probe_front()).await.map_err(io("reading the label"))?;
    let back = read(layout.back()).await.map_err(io("reading the backup label"))?;
    let probe = label::probe(&front, &back, &layout);
    let link = Link { disk: disk.clone(), layout, meter: Meter::new(host, geometry.block_size) };
    let run = disk.run().unwrap_or_else(|| host.boot_id());
    let mut look =
        Look { link, probe, member: None, ledger: None, older: None, rotten: false, slot: 0, noted: None, run };
    if !matches!(&look.probe, Probe::Labelled { label, .. } if label.volume == volume) {
        return Ok(look);
    }
    let meta = layout.meta();
    let at = |range: BlockRange| range.shifted(meta.start - block::Lba(0));
    let identity = read(at(meta::identity(geometry.block_size))).await.map_err(io("reading the identity"))?;
    let identity = Identity::decode(&identity).filter(|i| i.volume == volume);
    look.member = identity.map(|i| i.member);
    let noted = read(at(meta::cache_note(geometry.block_size))).await.map_err(io("reading the identity"))?;
    look.noted = CacheNote::decode(&noted).filter(|n| n.volume == volume).map(|n| n.run);
    let mut damaged = 0;
    for slot in 0..2 {
        let bytes = match read(at(meta::slot(geometry.block_size, slot))).await {
            // The other slot may do. This one can be read again once it is written.
            Err(Fault::Medium) => {
                damaged += 1;
                continue;
            }
            read => read.map_err(io("reading the ledger"))?,
        };
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
    // A slot that power tore was not in force. Without a loss of power since it was last known to be whole, it has rotted.
    look.rotten = damaged > 0 && !look.is_shaken();
    if look.rotten {
        mark(Mark::LedgerRotten);
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

/// Bytes of the map that one request moves.
const MAP_PIECE: Bytes = Bytes(128 << 10);
/// Bytes that one request clears.
const ZERO_PIECE: Bytes = Bytes(64 << 20);

/// A range cut into pieces of at most so many bytes.
fn pieces(range: BlockRange, most: Bytes, block_size: BlockSize) -> impl Iterator<Item = BlockRange> {
    let step = block_size.blocks_in(most).0;
    let starts = (range.start.0..range.end().0).step_by(step as usize);
    starts.map(move |start| BlockRange::new(start, step.min(range.end().0 - start)))
}

/// Prepares a member for a larger volume: its device has the room, its label says so, and what the volume gains (blocks of
/// MayaData) is zeroes, durably. An error leaves the member as good as before. `limit` is for each request.
pub(super) async fn enlarge(
    host: &Host,
    link: &Link,
    volume: Uuid,
    gained: BlockRange,
    limit: Duration,
) -> Result<Link, String> {
    let late = || "the device does not answer".to_string();
    let disk = &link.disk;
    let geometry = host.timeout(limit, disk.refresh()).await.ok_or_else(late)?;
    let geometry = geometry.map_err(|fault| format!("asking for its size: {fault}"))?;
    let layout = Layout::new(geometry.block_size, geometry.blocks).map_err(|e| e.to_string())?;
    check_room(&layout, layout.block_size.bytes_of(gained.end() - block::Lba(0)))?;
    let link = Link { layout, ..link.clone() };
    let relabel = async {
        let (front, back) = (disk.read(layout.probe_front()).await?, disk.read(layout.back()).await?);
        match label::probe(&front, &back, &layout) {
            probe @ Probe::Labelled { label, .. } if label.volume == volume => {
                repair_label(host, &link, &probe, volume).await.map(|()| true)
            }
            _ => Ok(false),
        }
    };
    match host.timeout(limit, relabel).await.ok_or_else(late)? {
        Ok(true) => {}
        Ok(false) => return Err("its label is not the volume's any more".into()),
        Err(fault) => return Err(format!("writing the label: {fault}")),
    }
    // The backup of the old label lies there, and what other users of the device left.
    for piece in pieces(gained.shifted(layout.data().start - block::Lba(0)), ZERO_PIECE, layout.block_size) {
        let cleared = host.timeout(limit, disk.write_zeroes(piece, true)).await.ok_or_else(late)?;
        cleared.map_err(|fault| format!("clearing the new space: {fault}"))?;
    }
    let flushed = host.timeout(limit, disk.flush()).await.ok_or_else(late)?;
    flushed.map_err(|fault| format!("flushing the new space: {fault}"))?;
    Ok(link)
}

/// Reads a member's dirty map. What can not be read counts as dirty, like a sector that is damaged; it is written anew.
pub(super) async fn read_maps(link: &Link, volume: Uuid, shape: &Shape) -> Result<Maps, Fault> {
    let range = meta::map(shape.block_size, shape.units()).shifted(link.layout.meta().start - block::Lba(0));
    let mut bytes = Vec::new();
    for piece in pieces(range, MAP_PIECE, shape.block_size) {
        match link.disk.read(piece).await {
            Err(Fault::Medium) => bytes.resize(bytes.len() + shape.block_size.bytes_of(piece.len).0 as usize, 0xff),
            read => bytes.extend_from_slice(&read?),
        }
    }
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
    let map = Maps::clean(shape).encode(volume, shape);
    let places = pieces(meta(meta::map(shape.block_size, shape.units())), MAP_PIECE, shape.block_size);
    for (piece, bytes) in places.zip(map.chunks(MAP_PIECE.0 as usize)) {
        write(piece, bytes.to_vec()).await?;
    }
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
