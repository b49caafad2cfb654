//! Making a pool out of disks. The order of the writes is in docs/disk-format.md, section 5.

use std::rc::Rc;

use block::BlockSize;
use host::{DiskExt, Host};
use uuid::Uuid;

use crate::checkpoint::{self, Purpose};
use crate::codec::valid_name;
use crate::label::{HEAD_BYTES, LABEL_A, LABEL_B, Label, LabelState, MetadataArea};
use crate::load::{LoadedDisk, Probe, probe, usable, wipe};
use crate::metadata::{DiskMeta, Metadata};
use crate::record::BLOCK_BYTES;
use crate::{DEFAULT_EXTENT, MAX_EXTENT, MIN_EXTENT, Member, Pool, PoolError, import, io, signature};

/// How a pool is made.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its name: 1 to 63 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// The cluster that it belongs to; only stored.
    pub cluster: Uuid,
    /// Whether disks that hold something foreign are overwritten.
    pub force: bool,
    /// The size of an extent in bytes: a power of two from [`crate::SENSIBLE_EXTENT`] (tests: [`MIN_EXTENT`]) to
    /// [`MAX_EXTENT`]. `None`: [`DEFAULT_EXTENT`], or more for a pool of more than 4 TiB.
    pub extent_size: Option<u64>,
}

/// The most extents that a pool should have when nobody asks for a size of extents.
const COMFORTABLE_EXTENTS: u64 = 1 << 22;

/// Makes a pool. It is durable when this returns; a crash before leaves either all of it or disks that can be used for a
/// new one.
///
/// # Errors
/// [`PoolError::InUse`], [`PoolError::Foreign`], [`PoolError::Damaged`] for disks that hold something;
/// [`PoolError::Invalid`], [`PoolError::Mixed`], [`PoolError::TooSmall`] for arguments; [`PoolError::Io`].
pub async fn create(host: &Host, members: Vec<Member>, options: CreateOptions) -> Result<Rc<Pool>, PoolError> {
    if !valid_name(&options.name) {
        let why = format!(
            "{:?} is no name for a pool: it takes 1 to 63 letters, digits, dots, hyphens or underscores",
            options.name
        );
        return Err(PoolError::Invalid(why));
    }
    if members.is_empty() || members.len() > block::limits::POOL_DISKS {
        return Err(PoolError::Invalid(format!("a pool has 1 to {} disks", block::limits::POOL_DISKS)));
    }
    let block_size = members[0].disk.geometry().block_size;
    for (i, member) in members.iter().enumerate() {
        check_block_size(member, block_size)?;
        if members[..i].iter().any(|other| Rc::ptr_eq(&other.disk, &member.disk) || other.uri == member.uri) {
            return Err(PoolError::Mixed { disk: member.uri.clone(), why: "it was given twice".into() });
        }
    }
    let extent_bytes = extent_size(&members, options.extent_size)?;
    let mut disks = layouts(host, &members, &options, extent_bytes)?;
    let mut foreign = Vec::new();
    for member in &members {
        foreign.push(check_vacant(member, options.force).await?);
    }
    for (member, foreign) in members.iter().zip(foreign) {
        clear(member, foreign).await?;
    }
    for disk in disks.iter_mut().skip(1) {
        write_label(disk, LabelState::Preparing).await?;
    }
    let meta = Metadata::new(extent_bytes, disks.iter().map(disk_meta).collect());
    let first = &mut disks[0];
    let header = checkpoint::blank_header(first.label.pool, Purpose::Running);
    let slot = first.label.metadata.slots[(header.sequence % 2) as usize];
    io::write_durably(&first.member.disk, slot, &checkpoint::encode(header, &meta)).await?;
    // From here on the pool exists.
    write_label(first, LabelState::Member).await?;
    for disk in disks.iter_mut().skip(1) {
        write_label(disk, LabelState::Member).await?;
    }
    import(host, members, Some(&options.name)).await
}

pub(crate) fn disk_meta(disk: &LoadedDisk) -> DiskMeta {
    DiskMeta { uuid: disk.label.disk, extents: disk.label.extents }
}

pub(crate) fn check_block_size(member: &Member, wanted: BlockSize) -> Result<(), PoolError> {
    let is = member.disk.geometry().block_size;
    if is == wanted {
        return Ok(());
    }
    let (is, wanted) = (is.bytes(), wanted.bytes());
    let why = format!(
        "it has blocks of {is} bytes, other disks of the pool have {wanted}; open all of them with the larger block size (blk_size=4096)"
    );
    Err(PoolError::Mixed { disk: member.uri.clone(), why })
}

/// Refuses a disk that holds something; returns whether it holds something foreign that may be overwritten.
pub(crate) async fn check_vacant(member: &Member, force: bool) -> Result<bool, PoolError> {
    let disk = member.uri.clone();
    match probe(&member.disk).await? {
        Probe::Blank => Ok(false),
        // Left over from a crash: nothing was ever written to it.
        Probe::Pool(info) if info.unused => Ok(false),
        Probe::Pool(info) => Err(PoolError::InUse { disk, pool: info.pool }),
        Probe::Foreign(_) if force => Ok(true),
        Probe::Foreign(what) => Err(PoolError::Foreign { disk, what }),
        Probe::Damaged(why) => Err(PoolError::Damaged { object: format!("disk {disk}"), why }),
        Probe::Newer(why) => Err(PoolError::Unsupported { object: format!("disk {disk}"), why }),
    }
}

/// Removes whatever was in the label area, and where a foreign format keeps a second signature.
pub(crate) async fn clear(member: &Member, foreign: bool) -> Result<(), PoolError> {
    if foreign {
        let end = member.disk.geometry().bytes().0;
        let tail = end.min(signature::TAIL);
        io::zero_durably(&member.disk, end - tail, tail).await?;
        let head = end.min(signature::HEAD);
        io::zero_durably(&member.disk, 0, head).await?;
    }
    wipe(&member.disk).await
}

fn extent_size(members: &[Member], asked: Option<u64>) -> Result<u64, PoolError> {
    if let Some(bytes) = asked {
        if !bytes.is_power_of_two() || !(MIN_EXTENT..=MAX_EXTENT).contains(&bytes) {
            return Err(PoolError::Invalid(format!(
                "an extent of {bytes} bytes: it takes a power of two from 64 KiB to 64 MiB"
            )));
        }
        return Ok(bytes);
    }
    let total: u64 = members.iter().map(|m| usable(&m.disk.geometry())).sum();
    let mut bytes = DEFAULT_EXTENT;
    while total / bytes > COMFORTABLE_EXTENTS && bytes < MAX_EXTENT {
        bytes *= 2;
    }
    Ok(bytes)
}

/// The parts of disk 0 for a pool that begins with about `extents` extents, with room to grow.
fn metadata_area(extents: u64, extent_bytes: u64) -> MetadataArea {
    let replicas = (4 * extents).clamp(64, block::limits::POOL_REPLICAS as u64);
    let growth = (4 * extents).max(1024);
    let slot_bytes = checkpoint::worst_case(block::limits::POOL_DISKS as u64, replicas, growth).next_multiple_of(4096);
    // A journal of a few MiB, but at most a hundredth of a small pool.
    let hundredth = extents * extent_bytes / (100 * BLOCK_BYTES as u64);
    let journal_blocks = (extents / 4).min(hundredth).clamp(16, 4096) as u32;
    let slots = [HEAD_BYTES, HEAD_BYTES + slot_bytes];
    MetadataArea { slots, slot_bytes, journal: slots[1] + slot_bytes, journal_blocks }
}

/// The byte offset of extent 0, and how many extents fit.
fn data_area(size: u64, from: u64, extent_bytes: u64) -> (u64, u64) {
    let start = from.next_multiple_of(extent_bytes.min(1 << 20));
    (start, size.saturating_sub(start) / extent_bytes)
}

/// The label of a disk that joins a pool.
pub(crate) fn layout(member: &Member, base: &Label, disk: Uuid, index: usize) -> Result<LoadedDisk, PoolError> {
    let size = usable(&member.disk.geometry());
    let area = &base.metadata;
    let from = if index == 0 { area.journal + u64::from(area.journal_blocks) * BLOCK_BYTES as u64 } else { HEAD_BYTES };
    let (data_offset, extents) = data_area(size, from, base.extent_bytes);
    if extents == 0 {
        let needed = data_offset + base.extent_bytes;
        return Err(PoolError::TooSmall { disk: member.uri.clone(), bytes: size, needed });
    }
    let extents = u32::try_from(extents).map_err(|_| {
        PoolError::Invalid(format!("disk {} has more than 2^32 extents; the pool needs larger ones", member.uri))
    })?;
    let (metadata, features) = if index == 0 { (*area, base.features) } else { (MetadataArea::default(), 0) };
    let index = index as u16;
    let label = Label { disk, index, disk_bytes: size, data_offset, extents, metadata, features, ..base.clone() };
    Ok(LoadedDisk { member: member.clone(), label, copies: [false; 2] })
}

fn layouts(
    host: &Host,
    members: &[Member],
    options: &CreateOptions,
    extent_bytes: u64,
) -> Result<Vec<LoadedDisk>, PoolError> {
    let extents: u64 = members.iter().map(|m| usable(&m.disk.geometry()) / extent_bytes).sum();
    let base = Label {
        state: LabelState::Preparing,
        sequence: 0,
        cluster: options.cluster,
        pool: new_uuid(host),
        name: options.name.clone(),
        disk: Uuid::nil(),
        index: 0,
        block_size: members[0].disk.geometry().block_size,
        disk_bytes: 0,
        extent_bytes,
        data_offset: 0,
        extents: 0,
        metadata: metadata_area(extents, extent_bytes),
        features: 0,
    };
    members.iter().enumerate().map(|(index, member)| layout(member, &base, new_uuid(host), index)).collect()
}

pub(crate) fn new_uuid(host: &Host) -> Uuid {
    uuid::Builder::from_random_bytes(host.random_bytes()).into_uuid()
}

/// Writes both copies of a label, in a new version, one after the other: the bad one first, so that a good one is left
/// whenever the power goes.
pub(crate) async fn write_label(disk: &mut LoadedDisk, state: LabelState) -> Result<(), PoolError> {
    disk.label.state = state;
    disk.label.sequence += 1;
    let bytes = disk.label.encode();
    let order = if disk.copies == [true, false] { [LABEL_B, LABEL_A] } else { [LABEL_A, LABEL_B] };
    for offset in order {
        io::write_durably(&disk.member.disk, offset, &bytes).await?;
    }
    disk.copies = [true, true];
    Ok(())
}

/// Flushes a disk.
pub(crate) async fn flush(member: &Member) -> Result<(), PoolError> {
    member.disk.flush().await.map_err(|fault| PoolError::Io { disk: member.uri.clone(), fault })
}
