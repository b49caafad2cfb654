//! `pool::check`: looks at a pool on its disks and changes nothing.

use host::Host;

use crate::load::load;
use crate::{Member, PoolError};

/// What [`check`] found in a pool that can be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The pool's name.
    pub pool: String,
    /// The sequence number of its newest checkpoint.
    pub checkpoint: u64,
    /// How many journal records follow it.
    pub journal_records: u64,
    /// Replicas: name, size in bytes, whether it is thin, mapped extents.
    pub replicas: Vec<(String, u64, bool, u32)>,
    /// All extents.
    pub extents: u64,
    /// Extents that belong to a replica.
    pub used: u64,
    /// What import would repair or leave aside: label copies, interrupted additions.
    pub notes: Vec<String>,
}

/// Reads a pool as import would and compares everything that must agree: labels, checkpoint, journal, owners of extents,
/// promises, names, limits. Writes nothing. The pool must not be open.
///
/// # Errors
/// As [`crate::import`], with [`PoolError::Damaged`] for anything that contradicts itself.
pub async fn check(_host: &Host, members: Vec<Member>) -> Result<Report, PoolError> {
    let loaded = load(members, None).await?;
    let mut notes = Vec::new();
    for disk in &loaded.disks {
        for (copy, good) in ["first", "second"].into_iter().zip(disk.copies) {
            if !good {
                notes.push(format!("disk {}: the {copy} copy of its label will be written again", disk.member.uri));
            }
        }
    }
    for disk in &loaded.strays {
        notes.push(format!("disk {}: adding it was interrupted, it holds nothing", disk.member.uri));
    }
    let meta = &loaded.meta;
    Ok(Report {
        pool: loaded.label().name.clone(),
        checkpoint: loaded.header.sequence,
        journal_records: loaded.last_record - loaded.header.applied,
        replicas: meta.replicas.values().map(|r| (r.name.clone(), r.size, r.thin, r.map.mapped())).collect(),
        extents: meta.extents(),
        used: meta.replicas.values().map(|r| u64::from(r.map.mapped())).sum(),
        notes,
    })
}
