//! What a disk should hold, as far as we wrote it.
//!
//! The unit is 4 KiB. Each written unit carries a tag (run, unit, version) and a checksum, so that a wrong read names
//! the write that it came from. A write that failed may or may not have happened: until a read has decided, both
//! contents are allowed; from then on only the one that was read.

use std::collections::BTreeMap;
use std::fmt;

use block::{BlockRange, BlockSize, Buf, BufMut, Data};
use host::DiskRef;
use smallvec::SmallVec;

use super::report::Report;
use super::{Dice, LoadError};

/// Bytes whose contents are tracked together.
pub const UNIT_BYTES: usize = 4096;
const MAGIC: u64 = 0x6d61_7961_7461_6731;
/// Bytes before the filler: magic, seed, unit, version.
const HEADER: usize = 32;
/// Units read at a time by [`Model::verify_all`] (1 MiB).
const SWEEP_UNITS: u64 = 256;

/// What one unit may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Whatever was there before the first write.
    Before,
    /// Zeroes, after an unmap.
    Zeroes,
    /// The payload of a write.
    Version(u64),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Before => f.write_str("what was there before"),
            Content::Zeroes => f.write_str("zeroes"),
            Content::Version(v) => write!(f, "version {v}"),
        }
    }
}

/// A unit that held something else than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Index of the 4 KiB unit on the disk.
    pub unit: u64,
    /// What it may hold.
    pub expected: String,
    /// What it held.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "4 KiB unit {}: expected {}, found {}", self.unit, self.expected, self.found)
    }
}

/// One unit: the allowed contents; the last is the youngest, and in flight while `changing`.
#[derive(Clone, Debug)]
struct Unit {
    allowed: SmallVec<[Content; 2]>,
}

/// What a disk should hold, as far as workloads wrote it.
pub struct Model {
    seed: u64,
    next_version: u64,
    units: BTreeMap<u64, Unit>,
}

impl Model {
    /// A model that knows nothing yet. The seed tells the payloads of one model from those of another.
    pub fn new(seed: u64) -> Model {
        Model { seed, next_version: 1, units: BTreeMap::new() }
    }

    /// How many 4 KiB units were written or unmapped so far.
    pub fn known_units(&self) -> u64 {
        self.units.len() as u64
    }

    /// Reads every unit that was ever written and checks it.
    pub async fn verify_all(&mut self, disk: &DiskRef) -> Result<Report, LoadError> {
        let size = disk.geometry().block_size;
        let blocks_per_unit = UNIT_BYTES as u64 >> size.shift();
        let mut report = Report::new();
        let mut from = 0;
        while let Some((&first, _)) = self.units.range(from..).next() {
            let window = self.units.range(first..first + SWEEP_UNITS);
            let last = window.last().map_or(first, |(&unit, _)| unit);
            let range = BlockRange::new(first * blocks_per_unit, (last + 1 - first) * blocks_per_unit);
            let data = super::read(disk, range).await?;
            report.checked(self.check(size, range, data));
            from = last + 1;
        }
        Ok(report)
    }

    fn units_of(size: BlockSize, range: BlockRange) -> std::ops::Range<u64> {
        let first = size.offset_of(range.start) / UNIT_BYTES as u64;
        first..first + size.bytes_of(range.len).0 / UNIT_BYTES as u64
    }

    fn begin(&mut self, size: BlockSize, range: BlockRange, content: impl Fn(u64) -> Content) {
        for unit in Model::units_of(size, range) {
            let known =
                self.units.entry(unit).or_insert_with(|| Unit { allowed: SmallVec::from_slice(&[Content::Before]) });
            known.allowed.push(content(unit));
        }
    }

    /// The payload for a write that is about to be submitted.
    pub(super) fn begin_write(&mut self, size: BlockSize, range: BlockRange) -> Buf {
        let version = self.next_version;
        self.next_version += 1;
        self.begin(size, range, |_| Content::Version(version));
        let mut buf = BufMut::new(size.bytes_of(range.len).0 as usize);
        for (bytes, unit) in buf.chunks_exact_mut(UNIT_BYTES).zip(Model::units_of(size, range)) {
            fill(bytes, self.seed, unit, version);
        }
        buf.freeze()
    }

    /// An unmap is about to be submitted.
    pub(super) fn begin_clear(&mut self, size: BlockSize, range: BlockRange) {
        self.begin(size, range, |_| Content::Zeroes);
    }

    /// A write or unmap was answered. One that failed leaves both contents possible.
    pub(super) fn end_change(&mut self, size: BlockSize, range: BlockRange, happened: bool) {
        if !happened {
            return;
        }
        for unit in Model::units_of(size, range) {
            let known = self.units.get_mut(&unit).expect("the change was begun");
            let youngest = *known.allowed.last().expect("never empty");
            known.allowed = SmallVec::from_slice(&[youngest]);
        }
    }

    /// Checks what a read brought; returns how many units were checked, and the wrong ones.
    pub(super) fn check(&mut self, size: BlockSize, range: BlockRange, data: Data) -> (u64, Vec<Mismatch>) {
        let bytes = data.into_buf();
        let (mut checked, mut wrong) = (0, Vec::new());
        for (bytes, unit) in bytes.chunks_exact(UNIT_BYTES).zip(Model::units_of(size, range)) {
            let Some(known) = self.units.get_mut(&unit) else { continue };
            checked += 1;
            let found = recognise(bytes, self.seed, unit);
            let match_of = |content: &&Content| match content {
                Content::Before => matches!(found, Found::Zeroes | Found::Foreign),
                Content::Zeroes => found == Found::Zeroes,
                Content::Version(v) => found == Found::Version(*v),
            };
            match known.allowed.iter().rev().find(match_of).copied() {
                Some(content) => known.allowed = SmallVec::from_slice(&[content]),
                None => {
                    let expected: Vec<_> = known.allowed.iter().map(Content::to_string).collect();
                    wrong.push(Mismatch { unit, expected: expected.join(" or "), found: found.to_string() });
                }
            }
        }
        (checked, wrong)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Zeroes,
    Version(u64),
    OtherUnit { unit: u64, version: u64 },
    Torn { version: u64 },
    Foreign,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Zeroes => f.write_str("zeroes"),
            Found::Version(v) => write!(f, "version {v}"),
            Found::OtherUnit { unit, version } => write!(f, "version {version} of unit {unit}"),
            Found::Torn { version } => write!(f, "version {version} with a wrong checksum"),
            Found::Foreign => f.write_str("something that we did not write"),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn fill(bytes: &mut [u8], seed: u64, unit: u64, version: u64) {
    bytes[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&seed.to_le_bytes());
    bytes[16..24].copy_from_slice(&unit.to_le_bytes());
    bytes[24..32].copy_from_slice(&version.to_le_bytes());
    let mut dice = Dice::new(seed ^ unit.rotate_left(32) ^ version);
    for chunk in bytes[HEADER..].chunks_exact_mut(8) {
        chunk.copy_from_slice(&dice.next().to_le_bytes());
    }
    let sum = crc32c::crc32c(&bytes[..UNIT_BYTES - 4]);
    bytes[UNIT_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
}

fn recognise(bytes: &[u8], seed: u64, unit: u64) -> Found {
    if bytes.iter().all(|&b| b == 0) {
        return Found::Zeroes;
    }
    if word(bytes, 0) != MAGIC || word(bytes, 8) != seed {
        return Found::Foreign;
    }
    let version = word(bytes, 24);
    let sum = crc32c::crc32c(&bytes[..UNIT_BYTES - 4]).to_le_bytes();
    if bytes[UNIT_BYTES - 4..] != sum {
        return Found::Torn { version };
    }
    match word(bytes, 16) {
        u if u == unit => Found::Version(version),
        unit => Found::OtherUnit { unit, version },
    }
}
