//! Opening a pool that is on its disks.

use std::rc::Rc;

use host::Host;

use crate::checkpoint::{self, Purpose};
use crate::core::Core;
use crate::create::write_label;
use crate::label::LabelState;
use crate::load::{Loaded, load, wipe};
use crate::{Member, Pool, PoolError, io};

/// Opens a pool from all of its disks, in any order. Nothing is written before everything has been read and validated;
/// then a new checkpoint is, so that nothing of an interrupted past can be taken for the present later.
///
/// A disk that the pool does not know because adding it was interrupted is left alone; see
/// [`crate::PoolInfo::unused`].
///
/// # Errors
/// [`PoolError::NotAPool`], [`PoolError::WrongName`], [`PoolError::Mixed`], [`PoolError::MissingDisk`] for wrong disks;
/// [`PoolError::Damaged`], [`PoolError::Unsupported`] for what cannot be read (it is left as it is);
/// [`PoolError::Destroyed`] when a destroy was interrupted, which is completed; [`PoolError::Io`].
pub async fn import(host: &Host, members: Vec<Member>, name: Option<&str>) -> Result<Rc<Pool>, PoolError> {
    let mut loaded = load(members, name).await?;
    if loaded.header.purpose == Purpose::Destroyed {
        let name = loaded.label().name.clone();
        wipe_all(&loaded).await?;
        return Err(PoolError::Destroyed(name));
    }
    for disk in &mut loaded.disks {
        if disk.label.state != LabelState::Member || disk.copies != [true, true] {
            write_label(disk, LabelState::Member).await?;
        }
    }
    let area = loaded.label().metadata;
    make_durable(&loaded).await?;
    let mut header = loaded.header.clone();
    header.sequence += 1;
    header.epoch = header.sequence;
    header.purpose = Purpose::Running;
    (header.next_block, header.applied) = (loaded.next_block, loaded.last_record);
    let slot = area.slots[(header.sequence % 2) as usize];
    let bytes = checkpoint::encode(header.clone(), &loaded.meta);
    assert!(bytes.len() as u64 <= area.slot_bytes, "a checkpoint outgrew its slot");
    io::write_durably(&loaded.disks[0].member.disk, slot, &bytes).await?;
    loaded.header = header;
    Ok(Pool::new(Core::new(host, loaded)))
}

/// Writes the checkpoint that was found once more. When the flush behind it failed, it can be read but may not be durable,
/// and the older one, which is, will be overwritten next.
async fn make_durable(loaded: &Loaded) -> Result<(), PoolError> {
    let (header, disk) = (&loaded.header, &loaded.disks[0].member.disk);
    let slot = loaded.label().metadata.slots[(header.sequence % 2) as usize];
    let len = checkpoint::HEADER_BYTES as u64 + header.body_len.next_multiple_of(4096);
    let bytes = io::read(disk, slot, len).await?;
    io::write_durably(disk, slot, &bytes).await
}

/// Removes the labels of a pool that is being destroyed; disk 0, which knows that it is, comes last.
pub(crate) async fn wipe_all(loaded: &Loaded) -> Result<(), PoolError> {
    let (first, others) = loaded.disks.split_first().expect("disk 0 was loaded");
    for disk in loaded.strays.iter().chain(others) {
        wipe(&disk.member.disk).await?;
    }
    wipe(&first.member.disk).await
}
