//! A checkpoint: all of the metadata at one point of the journal. docs/disk-format.md, section 3.

use uuid::Uuid;

use crate::codec::{Reader, Writer, is_sealed, name_from, seal};
use crate::map::{ExtentMap, Place, Run};
use crate::metadata::{Metadata, ReplicaMeta};
use crate::record::Record;

/// The size of a checkpoint's header; the body follows.
pub const HEADER_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"MAYACKPT";
const CRC_AT: usize = 12;
const DISK_ENTRY: u64 = 24;
const REPLICA_ENTRY: u64 = 88;
const RUN_ENTRY: u64 = 16;

/// What the pool was about to do when the checkpoint was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To go on.
    Running,
    /// To be exported: no journal follows.
    Exported,
    /// To be destroyed: its labels are being wiped.
    Destroyed,
}

/// The first block of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// The pool's identity.
    pub pool: Uuid,
    /// The highest one counts. It lies in slot `sequence % 2`.
    pub sequence: u64,
    /// The sequence of the checkpoint with which this opening of the pool began.
    pub epoch: u64,
    /// The first journal block to replay.
    pub next_block: u64,
    /// The last record that is contained already.
    pub applied: u64,
    /// What the pool was about to do.
    pub purpose: Purpose,
    /// The size of an extent in bytes.
    pub extent_bytes: u64,
    /// The number of the next new replica.
    pub next_replica: u32,
    /// The number of disks in the body.
    pub disks: u32,
    /// The number of replicas in the body.
    pub replicas: u32,
    /// The checksum of the body.
    pub body_crc: u32,
    /// The length of the body in bytes.
    pub body_len: u64,
}

/// The bytes that a slot needs so that no state of such a pool can outgrow it, reservations not counted.
pub fn worst_case(disks: u64, replicas: u64, extents: u64) -> u64 {
    HEADER_BYTES as u64 + disks * DISK_ENTRY + replicas * REPLICA_ENTRY + extents * RUN_ENTRY
}

/// The checkpoint as stored: the header, the body, zeroes up to a multiple of 4096. The fields of `header` that
/// describe the body are filled in here.
pub fn encode(mut header: CheckpointHeader, meta: &Metadata) -> Vec<u8> {
    let mut body = Writer::default();
    for disk in &meta.disks {
        body.uuid(disk.uuid).u32(disk.extents).u32(0);
    }
    for (id, replica) in &meta.replicas {
        let runs = replica.map.runs();
        let start = body.0.len();
        body.u32(*id).u32(runs.len() as u32).u64(replica.size).u8(u8::from(replica.thin));
        body.u8(replica.name.len() as u8).u8(replica.reservation.len() as u8).u8(0).u32(0);
        body.bytes(replica.name.as_bytes()).pad_to(start + REPLICA_ENTRY as usize).bytes(&replica.reservation);
        for run in runs {
            body.u32(run.logical).u32(run.place.extent).u32(run.count).u8(run.place.disk).u8(0).u16(0);
        }
    }
    header.extent_bytes = meta.extent_bytes;
    header.next_replica = meta.next_replica;
    (header.disks, header.replicas) = (meta.disks.len() as u32, meta.replicas.len() as u32);
    (header.body_crc, header.body_len) = (crc32c::crc32c(&body.0), body.0.len() as u64);
    let mut w = Writer(Vec::with_capacity(HEADER_BYTES + body.0.len().next_multiple_of(4096)));
    header.encode(&mut w);
    w.bytes(&body.0);
    let len = w.0.len().next_multiple_of(4096);
    w.pad_to(len);
    w.0
}

impl CheckpointHeader {
    fn encode(&self, w: &mut Writer) {
        w.bytes(MAGIC).u16(crate::label::FORMAT_VERSION).u8(self.purpose as u8).u8(0).u32(0).uuid(self.pool);
        w.u64(self.sequence).u64(self.epoch).u64(self.next_block).u64(self.applied).u64(self.extent_bytes);
        w.u32(self.next_replica).u32(self.disks).u32(self.replicas).u32(self.body_crc).u64(self.body_len);
        w.pad_to(HEADER_BYTES);
        seal(&mut w.0[..HEADER_BYTES], CRC_AT);
    }

    /// Reads a header; `Ok(None)` when there is none, or it is torn or damaged. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Option<CheckpointHeader>, String> {
        if bytes.len() != HEADER_BYTES || !bytes.starts_with(MAGIC) || !is_sealed(bytes, CRC_AT) {
            return Ok(None);
        }
        let mut r = Reader(&bytes[8..]);
        let version = r.u16()?;
        if version != crate::label::FORMAT_VERSION {
            return Err(format!("it has version {version}"));
        }
        let purpose = match r.u8()? {
            0 => Purpose::Running,
            1 => Purpose::Exported,
            2 => Purpose::Destroyed,
            other => return Err(format!("it has the unknown purpose {other}")),
        };
        r.bytes(5)?;
        let pool = r.uuid()?;
        let (sequence, epoch, next_block, applied) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let extent_bytes = r.u64()?;
        let (next_replica, disks, replicas, body_crc) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let body_len = r.u64()?;
        if epoch > sequence || [sequence, next_block, applied].iter().any(|n| *n > u64::MAX / 2) {
            return Err("its numbers are impossible".into());
        }
        Ok(Some(CheckpointHeader {
            pool,
            sequence,
            epoch,
            next_block,
            applied,
            purpose,
            extent_bytes,
            next_replica,
            disks,
            replicas,
            body_crc,
            body_len,
        }))
    }

    /// Reads the body, whose checksum the caller has compared. Never panics, whatever the bytes.
    pub fn body(&self, bytes: &[u8]) -> Result<Metadata, String> {
        let mut r = Reader(bytes);
        if !(crate::MIN_EXTENT..=crate::MAX_EXTENT).contains(&self.extent_bytes) || !self.extent_bytes.is_power_of_two()
        {
            return Err(format!("its extent size is {}", self.extent_bytes));
        }
        let mut meta = Metadata::new(self.extent_bytes, Vec::new());
        for index in 0..self.disks {
            let (uuid, extents) = (r.uuid()?, r.u32()?);
            r.u32()?;
            meta.apply(&Record::AddDisk { index: u8::try_from(index).unwrap_or(u8::MAX), uuid, extents })?;
        }
        for _ in 0..self.replicas {
            self.replica(&mut r, &mut meta)?;
        }
        if !r.is_empty() || meta.next_replica > self.next_replica {
            return Err("its body does not fit its header".into());
        }
        meta.next_replica = self.next_replica;
        Ok(meta)
    }

    fn replica(&self, r: &mut Reader<'_>, meta: &mut Metadata) -> Result<(), String> {
        let (replica, runs, size, thin, name_len) = (r.u32()?, r.u32()?, r.u64()?, r.u8()?, r.u8()?);
        let reservation = usize::from(r.u8()?);
        r.bytes(5)?;
        let name = r.bytes(64)?;
        let name = name_from(name.get(..usize::from(name_len)).ok_or("a name is too long")?)?;
        meta.apply(&Record::CreateReplica { replica, name, size, thin: thin != 0 })?;
        if reservation > 0 {
            meta.apply(&Record::Reserve { replica, state: r.bytes(reservation)?.to_vec() })?;
        }
        for _ in 0..runs {
            let (logical, extent, count, disk) = (r.u32()?, r.u32()?, r.u32()?, r.u8()?);
            r.bytes(3)?;
            meta.apply(&Record::Map { replica, run: Run { logical, place: Place { disk, extent }, count } })?;
        }
        Ok(())
    }
}

/// Reads a whole checkpoint from one piece of memory: header, checksum, body. `Ok(None)` when it is torn. This is the
/// entry for fuzzing; import reads header and body apart.
pub fn decode(bytes: &[u8]) -> Result<Option<(CheckpointHeader, Metadata)>, String> {
    let Some((head, rest)) = bytes.split_at_checked(HEADER_BYTES) else { return Ok(None) };
    let Some(header) = CheckpointHeader::decode(head)? else { return Ok(None) };
    let body = usize::try_from(header.body_len).ok().and_then(|len| rest.get(..len));
    let Some(body) = body.filter(|b| crc32c::crc32c(b) == header.body_crc) else { return Ok(None) };
    let meta = header.body(body)?;
    Ok(Some((header, meta)))
}

/// A header whose fields about the body are still to be filled in.
pub(crate) fn blank_header(pool: Uuid, purpose: Purpose) -> CheckpointHeader {
    CheckpointHeader {
        pool,
        purpose,
        sequence: 1,
        epoch: 1,
        next_block: 0,
        applied: 0,
        extent_bytes: 0,
        next_replica: 0,
        disks: 0,
        replicas: 0,
        body_crc: 0,
        body_len: 0,
    }
}

/// What is equal when two states are the same; for tests and for `check`.
impl PartialEq for ReplicaMeta {
    fn eq(&self, other: &ReplicaMeta) -> bool {
        let mine = (&self.name, self.size, self.thin, self.map.extents(), &self.reservation);
        mine == (&other.name, other.size, other.thin, other.map.extents(), &other.reservation)
            && same(&self.map, &other.map)
    }
}
fn same(a: &ExtentMap, b: &ExtentMap) -> bool {
    a.mapped() == b.mapped() && a.mapped_in(0, a.extents()).eq(b.mapped_in(0, b.extents()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::DiskMeta;
    use proptest::prelude::*;

    fn sample() -> (CheckpointHeader, Metadata) {
        let disks = vec![
            DiskMeta { uuid: Uuid::from_u128(1), extents: 100 },
            DiskMeta { uuid: Uuid::from_u128(2), extents: 50 },
        ];
        let mut meta = Metadata::new(1 << 20, disks);
        for (replica, thin) in [(3, true), (7, false)] {
            let name = format!("r{replica}");
            meta.apply(&Record::CreateReplica { replica, name, size: 20 << 20, thin }).unwrap();
            for i in [0, 1, 2, 9] {
                let place = Place { disk: u8::from(thin), extent: 10 + i };
                meta.apply(&Record::Map { replica, run: Run { logical: i, place, count: 1 } }).unwrap();
            }
        }
        meta.apply(&Record::Reserve { replica: 3, state: vec![7; 40] }).unwrap();
        let header = CheckpointHeader {
            sequence: 8,
            epoch: 5,
            next_block: 17,
            applied: 33,
            ..blank_header(Uuid::from_u128(9), Purpose::Running)
        };
        (header, meta)
    }

    #[test]
    fn a_checkpoint_survives_the_round_trip() {
        let (header, meta) = sample();
        let bytes = encode(header.clone(), &meta);
        assert!(bytes.len() as u64 <= worst_case(2, 2, 150).next_multiple_of(4096));
        let (back, again) = decode(&bytes).unwrap().unwrap();
        assert_eq!((back.sequence, back.epoch, back.next_block, back.applied), (8, 5, 17, 33));
        assert!(again.disks == meta.disks && again.next_replica == 8);
        assert!(again.replicas == meta.replicas);
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let (header, meta) = sample();
        let bytes = encode(header, &meta);
        let used = HEADER_BYTES + 2 * 24 + 2 * (88 + 2 * 16) + 40;
        for bit in (0..8 * 120).chain(8 * HEADER_BYTES..8 * used) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).unwrap().is_none(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(
            noise in proptest::collection::vec((0usize..400, any::<u8>()), 1..20),
            cut in 0usize..300,
        ) {
            let (header, meta) = sample();
            let mut bytes = encode(header, &meta);
            for (at, value) in noise {
                let at = if at < 120 { at } else { HEADER_BYTES + at - 120 };
                bytes[at] = value;
            }
            // Make both checksums right again, so that the noise reaches the fields.
            let len = u64::from_le_bytes(bytes[88..96].try_into().unwrap()).min(400) as usize;
            let crc = crc32c::crc32c(&bytes[HEADER_BYTES..HEADER_BYTES + len]);
            bytes[84..88].copy_from_slice(&crc.to_le_bytes());
            bytes[88..96].copy_from_slice(&(len as u64).to_le_bytes());
            seal(&mut bytes[..HEADER_BYTES], CRC_AT);
            let _ = decode(&bytes);
            bytes.truncate(bytes.len() - cut);
            let _ = decode(&bytes);
        }
    }
}
