//! Mode pages (SPC 7.5, SBC 6.4): caching and control. Nothing in them can be changed.

use block::Geometry;

use super::Sense;
use crate::wire::{get16, put16, put24};

/// A MODE SENSE command (SPC 6.11, 6.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeSense {
    is_long: bool,
    with_blocks: bool,
    control: u8,
    page: u8,
    subpage: u8,
    /// Room in bytes.
    pub allocation: usize,
}

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL: u8 = 0x3f;

impl ModeSense {
    pub(super) fn parse(cdb: &[u8; 16], is_long: bool, allocation: usize) -> ModeSense {
        ModeSense {
            is_long,
            with_blocks: cdb[1] & 8 == 0,
            control: cdb[2] >> 6,
            page: cdb[2] & 0x3f,
            subpage: cdb[3],
            allocation,
        }
    }

    /// The answer.
    pub fn answer(&self, geometry: &Geometry) -> Result<Vec<u8>, Sense> {
        if self.control == 3 {
            return Err(Sense::NO_SAVING);
        }
        if !matches!((self.page, self.subpage), (CACHING | CONTROL, 0) | (ALL, 0 | 0xff)) {
            return Err(Sense::invalid_field(2));
        }
        let mut bytes = header(self.is_long, self.with_blocks, geometry);
        for code in [CACHING, CONTROL] {
            if self.page == code || self.page == ALL {
                let page = page(code, geometry);
                let changeable = self.control == 1;
                bytes.extend_from_slice(&page[..2]);
                bytes.extend(page[2..].iter().map(|byte| if changeable { 0 } else { *byte }));
            }
        }
        if self.is_long {
            let len = bytes.len() as u16 - 2;
            put16(&mut bytes, 0, len);
        } else {
            bytes[0] = bytes.len() as u8 - 1;
        }
        Ok(bytes)
    }
}

fn header(is_long: bool, with_blocks: bool, geometry: &Geometry) -> Vec<u8> {
    // DPO and FUA are known.
    let device = 0x10;
    let descriptor: u8 = if with_blocks { 8 } else { 0 };
    let mut bytes = if is_long { vec![0, 0, 0, device, 0, 0, 0, descriptor] } else { vec![0, 0, device, descriptor] };
    if with_blocks {
        let mut blocks = [0; 8];
        blocks[..4].copy_from_slice(&u32::try_from(geometry.blocks.0).unwrap_or(u32::MAX).to_be_bytes());
        put24(&mut blocks, 5, geometry.block_size.bytes());
        bytes.extend_from_slice(&blocks);
    }
    bytes
}

fn page(code: u8, geometry: &Geometry) -> Vec<u8> {
    let mut page;
    if code == CACHING {
        page = vec![0; 20];
        // WCE: what was written may be lost at a power cut until it is synchronized.
        page[2] = if geometry.features.volatile_cache { 4 } else { 0 };
    } else {
        page = vec![0; 12];
        // Commands may be reordered without restriction.
        page[3] = 0x10;
        // Busy timeout: unlimited.
        put16(&mut page, 8, u16::MAX);
    }
    page[0] = code;
    page[1] = page.len() as u8 - 2;
    page
}

/// Checks a MODE SELECT parameter list: it must say what is already so.
pub fn select(list: &[u8], is_long: bool, geometry: &Geometry) -> Result<(), Sense> {
    let (header, descriptor) =
        if is_long { (8, usize::from(get16(list, 6))) } else { (4, usize::from(*list.get(3).unwrap_or(&0))) };
    if list.is_empty() {
        return Ok(());
    }
    if list.len() < header + descriptor {
        return Err(Sense::LIST_LENGTH);
    }
    if !matches!(descriptor, 0 | 8) {
        return Err(Sense::invalid_parameter(if is_long { 6 } else { 3 }));
    }
    let mut at = header + descriptor;
    while at < list.len() {
        let code = list[at] & 0x3f;
        if !matches!(code, CACHING | CONTROL) || list[at] & 0x40 != 0 {
            return Err(Sense::invalid_parameter(at as u16));
        }
        let current = page(code, geometry);
        let Some(wanted) = list.get(at..at + current.len()) else { return Err(Sense::LIST_LENGTH) };
        if let Some(differs) = (1..current.len()).find(|i| wanted[*i] != current[*i]) {
            return Err(Sense::invalid_parameter((at + differs) as u16));
        }
        at += current.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockSize, Blocks, Features};

    fn geometry() -> Geometry {
        let features = Features { volatile_cache: true, ..Features::default() };
        Geometry { block_size: BlockSize::B4096, blocks: Blocks(100), features }
    }

    fn sense(cdb2: u8, dbd: bool, is_long: bool) -> Result<Vec<u8>, Sense> {
        let mut cdb = [0; 16];
        cdb[1] = if dbd { 8 } else { 0 };
        cdb[2] = cdb2;
        ModeSense::parse(&cdb, is_long, 255).answer(&geometry())
    }

    #[test]
    fn pages_with_and_without_block_descriptor() {
        let all = sense(0x3f, false, false).expect("valid");
        assert_eq!((all.len(), all[0], all[2], all[3]), (4 + 8 + 20 + 12, 43, 0x10, 8));
        assert_eq!(all[4..12], [0, 0, 0, 100, 0, 0, 16, 0]);
        assert_eq!(all[12..15], [8, 18, 4]);
        let caching = sense(8, true, true).expect("valid");
        assert_eq!((caching.len(), caching[1]), (28, 26));
        let changeable = sense(0x40 | 8, true, false).expect("valid");
        assert_eq!(changeable[4..7], [8, 18, 0]);
        assert_eq!(sense(0xc8, true, false), Err(Sense::NO_SAVING));
        assert_eq!(sense(0x01, true, false), Err(Sense::invalid_field(2)));
    }

    #[test]
    fn only_what_is_so_can_be_selected() {
        let mut list = vec![0, 0, 0, 0];
        list.extend(page(CACHING, &geometry()));
        assert_eq!(select(&list, false, &geometry()), Ok(()));
        list[6] = 0;
        assert_eq!(select(&list, false, &geometry()), Err(Sense::invalid_parameter(6)));
        assert_eq!(select(&list[..10], false, &geometry()), Err(Sense::LIST_LENGTH));
        assert_eq!(select(&[0, 0, 0], false, &geometry()), Err(Sense::LIST_LENGTH));
        assert_eq!(select(&[0, 0, 0, 0, 0x1c, 0], false, &geometry()), Err(Sense::invalid_parameter(4)));
    }
}
