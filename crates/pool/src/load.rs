//! Reading what is on disks, without writing anything: labels, the newest checkpoint, the journal.

use std::rc::Rc;

use block::Geometry;
use block::probe::{Mark, mark};
use host::DiskRef;
use uuid::Uuid;

use crate::checkpoint::{CheckpointHeader, HEADER_BYTES, Purpose};
use crate::label::{HEAD_BYTES, LABEL_A, LABEL_B, LABEL_BYTES, Label, LabelCopy, LabelState};
use crate::metadata::Metadata;
use crate::record::{BLOCK_BYTES, Block, BlockCopy};
use crate::{Member, PoolError, io, signature};

/// What a disk is, as far as pools are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nothing that we know.
    Blank,
    /// A disk of one of our pools.
    Pool(LabelInfo),
    /// Something of somebody else: a file system, a partition table...; the text has its article.
    Foreign(String),
    /// A label of ours that cannot be read; the text says why.
    Damaged(String),
    /// A label of a newer program; the text says which.
    Newer(String),
}

/// What a disk's label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelInfo {
    /// The cluster in which the pool was created.
    pub cluster: Uuid,
    /// The pool's name.
    pub pool: String,
    /// The pool's identity.
    pub pool_uuid: Uuid,
    /// The disk's identity.
    pub disk_uuid: Uuid,
    /// The disk's place in the pool, from 0.
    pub index: usize,
    /// Whether the disk certainly holds no data: creating its pool, or adding it, was interrupted.
    pub unused: bool,
}

/// What a disk is.
///
/// # Errors
/// Only [`PoolError::Io`].
pub async fn probe(disk: &DiskRef) -> Result<Probe, PoolError> {
    Ok(match read_label(disk).await? {
        Found::Label { label, .. } => Probe::Pool(LabelInfo {
            cluster: label.cluster,
            pool: label.name,
            pool_uuid: label.pool,
            disk_uuid: label.disk,
            index: usize::from(label.index),
            unused: label.state == LabelState::Preparing,
        }),
        Found::Nothing(None) => Probe::Blank,
        Found::Nothing(Some(what)) => Probe::Foreign(what.into()),
        Found::Damaged(why) => Probe::Damaged(why),
        Found::Newer(why) => Probe::Newer(why),
    })
}

/// Removes a disk's label, whatever pool it belongs to, so that the disk can be used anew. For disks whose pool is lost;
/// [`crate::Pool::destroy`] is the way for all others.
///
/// # Errors
/// Only [`PoolError::Io`].
pub async fn wipe(disk: &DiskRef) -> Result<(), PoolError> {
    let page = LABEL_BYTES as u64;
    let end = HEAD_BYTES.min(usable(&disk.geometry()));
    // The second copy first: a disk with the second copy only counts as damaged.
    if end > page {
        io::zero_durably(disk, page, end - page).await?;
    }
    io::zero_durably(disk, LABEL_A, page.min(end)).await
}

/// The part of a disk that a pool can use: whole pages.
pub(crate) fn usable(geometry: &Geometry) -> u64 {
    geometry.bytes().0 & !(LABEL_BYTES as u64 - 1)
}

/// The label area of a disk.
pub(crate) enum Found {
    /// A label, and whether each copy says exactly this.
    Label {
        label: Label,
        copies: [bool; 2],
    },
    /// No label; perhaps a foreign signature.
    Nothing(Option<&'static str>),
    Damaged(String),
    Newer(String),
}

pub(crate) async fn read_label(disk: &DiskRef) -> Result<Found, PoolError> {
    use LabelCopy::{Absent, Bad, Good, Newer};
    let size = usable(&disk.geometry());
    if size < HEAD_BYTES {
        return Ok(Found::Nothing(foreign(disk, size).await?));
    }
    let a = Label::decode(&io::read(disk, LABEL_A, LABEL_BYTES as u64).await?);
    let b = Label::decode(&io::read(disk, LABEL_B, LABEL_BYTES as u64).await?);
    Ok(match (a, b) {
        (Newer(why), _) | (_, Newer(why)) => Found::Newer(why),
        (Good(a), Good(b)) => {
            if (a.pool, a.disk, a.index) != (b.pool, b.disk, b.index) {
                return Ok(Found::Damaged("the two copies of its label belong to different pools".into()));
            }
            let newest = if b.sequence > a.sequence { b.clone() } else { a.clone() };
            Found::Label { copies: [a == newest, b == newest], label: newest }
        }
        (Good(label), _) => Found::Label { label, copies: [true, false] },
        (Bad(_), Good(label)) => Found::Label { label, copies: [false, true] },
        (Absent, Good(label)) => {
            let what = foreign(disk, size).await?.unwrap_or("something unknown");
            Found::Damaged(format!("the start of this disk of pool {} was overwritten by {what}", label.name))
        }
        (Absent, Absent) => Found::Nothing(foreign(disk, size).await?),
        (Bad(why), _) | (Absent, Bad(why)) => Found::Damaged(format!("its label: {why}")),
    })
}

async fn foreign(disk: &DiskRef, size: u64) -> Result<Option<&'static str>, PoolError> {
    let head = io::read(disk, 0, size.min(signature::HEAD)).await?;
    // The tail is measured from the real end, which need not be a multiple of 4096.
    let end = disk.geometry().bytes().0;
    let tail_len = end.min(signature::TAIL);
    let tail = io::read(disk, end - tail_len, tail_len).await?;
    Ok(signature::detect(&head, &tail, end))
}

/// A disk whose label says that it belongs to the pool.
pub(crate) struct LoadedDisk {
    pub member: Member,
    pub label: Label,
    /// Whether each copy of the label is as it should be.
    pub copies: [bool; 2],
}

/// All that the disks say about a pool, validated.
pub(crate) struct Loaded {
    /// By index; all that the metadata names.
    pub disks: Vec<LoadedDisk>,
    /// Disks whose adding was interrupted before the pool knew them; they hold nothing.
    pub strays: Vec<LoadedDisk>,
    pub header: CheckpointHeader,
    pub meta: Metadata,
    /// The journal block after the last one replayed, and the last record.
    pub next_block: u64,
    pub last_record: u64,
}

impl Loaded {
    /// The label of disk 0.
    pub fn label(&self) -> &Label {
        &self.disks[0].label
    }
}

fn damaged(object: impl Into<String>, why: impl Into<String>) -> PoolError {
    PoolError::Damaged { object: object.into(), why: why.into() }
}

/// Reads and validates a pool. Writes nothing.
pub(crate) async fn load(members: Vec<Member>, name: Option<&str>) -> Result<Loaded, PoolError> {
    let (disks, blank) = labels(members, name).await?;
    if disks.is_empty() {
        return Err(blank.expect("at least one disk was given"));
    }
    let (pool, pool_name) = (disks[0].label.pool, disks[0].label.name.clone());
    if let Some(other) = disks.iter().find(|d| d.label.pool != pool || d.label.name != pool_name) {
        let why = format!(
            "it belongs to pool {} ({}), the others to {pool_name} ({pool})",
            other.label.name, other.label.pool
        );
        return Err(PoolError::Mixed { disk: other.member.uri.clone(), why });
    }
    let is_first = |d: &&LoadedDisk| d.label.index == 0 && d.label.state == LabelState::Member;
    let Some(first) = disks.iter().find(is_first) else {
        let which = "disk 0, which has the pool's metadata,".into();
        return Err(blank.unwrap_or(PoolError::MissingDisk { pool: pool_name, which }));
    };
    let (disk, label) = (first.member.disk.clone(), first.label.clone());
    let object = format!("pool {pool_name}");
    let (header, meta) = newest_checkpoint(&disk, &label).await?;
    if meta.extent_bytes != label.extent_bytes {
        return Err(damaged(object, "its label and its checkpoint have different extent sizes"));
    }
    let mut loaded = Loaded {
        disks: Vec::new(),
        strays: Vec::new(),
        next_block: header.next_block,
        last_record: header.applied,
        header,
        meta,
    };
    replay(&disk, &label, &mut loaded).await?;
    if let Some(why) = loaded.meta.problems().into_iter().next() {
        return Err(damaged(object, why));
    }
    // A pool that is being destroyed may have lost the labels of other disks already.
    let complete = loaded.header.purpose != Purpose::Destroyed;
    if let Some(error) = blank.filter(|_| complete) {
        return Err(error);
    }
    assign(disks, &mut loaded, complete)?;
    Ok(loaded)
}

/// The labels of all members, and the error for the first that has none.
async fn labels(members: Vec<Member>, name: Option<&str>) -> Result<(Vec<LoadedDisk>, Option<PoolError>), PoolError> {
    if members.is_empty() {
        return Err(PoolError::Invalid("a pool needs at least one disk".into()));
    }
    let mut disks: Vec<LoadedDisk> = Vec::new();
    let mut blank = None;
    for member in members {
        let uri = member.uri.clone();
        let object = format!("disk {uri}");
        let (label, copies) = match read_label(&member.disk).await? {
            Found::Label { label, copies } => (label, copies),
            Found::Nothing(what) => {
                let what = what.map_or("it is blank".to_string(), |w| format!("it holds {w}"));
                blank.get_or_insert(PoolError::NotAPool { disk: uri, what });
                continue;
            }
            Found::Damaged(why) => return Err(damaged(object, why)),
            Found::Newer(why) => return Err(PoolError::Unsupported { object, why }),
        };
        if let Some(wanted) = name.filter(|n| *n != label.name) {
            return Err(PoolError::WrongName { disk: uri, found: label.name, wanted: wanted.into() });
        }
        let geometry = member.disk.geometry();
        if geometry.block_size != label.block_size {
            let (is, was) = (geometry.block_size.bytes(), label.block_size.bytes());
            let why = format!("it is opened with blocks of {is} bytes, its pool has blocks of {was} bytes");
            return Err(PoolError::Mixed { disk: uri, why });
        }
        if usable(&geometry) < label.disk_bytes {
            let (is, was) = (usable(&geometry), label.disk_bytes);
            return Err(damaged(object, format!("it has shrunk from {was} to {is} bytes")));
        }
        if disks.iter().any(|d| d.label.disk == label.disk || Rc::ptr_eq(&d.member.disk, &member.disk)) {
            return Err(PoolError::Mixed { disk: uri, why: "it was given twice".into() });
        }
        disks.push(LoadedDisk { member, label, copies });
    }
    Ok((disks, blank))
}

/// The newest valid checkpoint.
async fn newest_checkpoint(disk: &DiskRef, label: &Label) -> Result<(CheckpointHeader, Metadata), PoolError> {
    let area = &label.metadata;
    let mut found: Option<(CheckpointHeader, Vec<u8>)> = None;
    for (slot, offset) in area.slots.into_iter().enumerate() {
        let object = format!("checkpoint {slot} of pool {}", label.name);
        let head = io::read(disk, offset, HEADER_BYTES as u64).await?;
        let header = CheckpointHeader::decode(&head).map_err(|why| damaged(&object, why))?;
        let Some(header) = header.filter(|h| h.pool == label.pool) else { continue };
        if header.body_len > area.slot_bytes - HEADER_BYTES as u64 {
            return Err(damaged(&object, "its body is larger than its slot"));
        }
        let mut body = io::read(disk, offset + HEADER_BYTES as u64, header.body_len.next_multiple_of(4096)).await?;
        body.truncate(header.body_len as usize);
        let valid = crc32c::crc32c(&body) == header.body_crc;
        if !valid {
            mark(Mark::OlderCheckpoint);
        }
        if valid && found.as_ref().is_none_or(|(best, _)| best.sequence < header.sequence) {
            found = Some((header, body));
        }
    }
    let object = format!("pool {}", label.name);
    let Some((header, body)) = found else { return Err(damaged(object, "it has no valid checkpoint")) };
    let meta = header.body(&body).map_err(|why| damaged(object, format!("its checkpoint: {why}")))?;
    Ok((header, meta))
}

/// Applies the journal's blocks that follow the checkpoint, and looks for proof that some are missing.
async fn replay(disk: &DiskRef, label: &Label, loaded: &mut Loaded) -> Result<(), PoolError> {
    let ring = u64::from(label.metadata.journal_blocks);
    let object = format!("the journal of pool {}", label.name);
    let bytes = io::read(disk, label.metadata.journal, ring * BLOCK_BYTES as u64).await?;
    let mut blocks: Vec<Option<Block>> = Vec::new();
    let (epoch, checkpoint) = (loaded.header.epoch, loaded.header.sequence);
    let mut durable = 0;
    for (index, bytes) in bytes.chunks(BLOCK_BYTES).enumerate() {
        // Blocks of other pools may be left over from before.
        let ours = bytes[8..24] == label.pool.into_bytes();
        let block = match Block::decode(bytes) {
            BlockCopy::Good(block) if ours => Some(block),
            BlockCopy::Bad(why) if ours => return Err(damaged(object, format!("block {index}: {why}"))),
            _ => None,
        };
        if let Some(block) = &block {
            let newer = block.epoch > epoch || (block.epoch == epoch && block.checkpoint > checkpoint);
            if newer {
                return Err(damaged(object, format!("block {index} follows a newer checkpoint, which cannot be read")));
            }
            if block.epoch == epoch {
                durable = durable.max(block.durable_record);
            }
        }
        blocks.push(block.filter(|b| b.epoch == epoch));
    }
    for sequence in loaded.header.next_block..loaded.header.next_block + ring {
        let index = sequence % ring;
        let Some(block) = blocks[index as usize].take().filter(|b| b.sequence == sequence) else { break };
        if block.first_record > loaded.last_record + 1 {
            return Err(damaged(object, format!("block {index}: records before it are missing")));
        }
        for (number, record) in (block.first_record..).zip(&block.records) {
            // A checkpoint covers records that were still to be written when it was made.
            if number > loaded.last_record {
                let applied = loaded.meta.apply(record);
                applied.map_err(|why| damaged(&object, format!("record {number}: {why}")))?;
                loaded.last_record = number;
            }
        }
        mark(Mark::JournalReplayed);
        loaded.next_block = sequence + 1;
    }
    // What lies behind the gap was written and lost its predecessor with the power.
    if blocks.iter().flatten().any(|b| b.sequence > loaded.next_block) {
        mark(Mark::JournalTailDropped);
    }
    if loaded.last_record < durable {
        let last = loaded.last_record;
        return Err(damaged(object, format!("it can be read up to record {last} only, but {durable} were durable")));
    }
    Ok(())
}

/// Puts the disks into the places that the metadata gives them.
fn assign(disks: Vec<LoadedDisk>, loaded: &mut Loaded, complete: bool) -> Result<(), PoolError> {
    let mut places: Vec<Option<LoadedDisk>> = loaded.meta.disks.iter().map(|_| None).collect();
    let pool = disks[0].label.name.clone();
    for disk in disks {
        let index = usize::from(disk.label.index);
        let known = loaded.meta.disks.get(index).filter(|meta| meta.uuid == disk.label.disk);
        match known {
            Some(meta) if meta.extents != disk.label.extents => {
                return Err(damaged(
                    format!("disk {}", disk.member.uri),
                    "its label and the pool disagree about its size",
                ));
            }
            Some(_) => places[index] = Some(disk),
            None if disk.label.state == LabelState::Preparing => loaded.strays.push(disk),
            None => {
                let why =
                    format!("its label says that it is disk {index} of pool {pool}, but the pool does not know it");
                return Err(PoolError::Mixed { disk: disk.member.uri, why });
            }
        }
    }
    for (index, place) in places.into_iter().enumerate() {
        match place {
            Some(disk) => loaded.disks.push(disk),
            None if complete => {
                let which = format!("disk {index} (uuid {})", loaded.meta.disks[index].uuid);
                return Err(PoolError::MissingDisk { pool, which });
            }
            None => {}
        }
    }
    Ok(())
}
