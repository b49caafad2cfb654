//! What a logical unit says about itself: INQUIRY, READ CAPACITY, REPORT LUNS.

use block::{BlockSize, Geometry, limits};
use uuid::Uuid;

use super::{Sense, opcodes};
use crate::IscsiName;
use crate::wire::{padded, put16, put32, put64};

/// T10 vendor identification.
pub const VENDOR: &str = "MAYADATA";

/// A logical unit, as it describes itself.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The target's name.
    pub target: IscsiName,
    /// The tag of the portal group, which names the target's port.
    pub portal_group: u16,
    /// Its identity.
    pub uuid: Uuid,
    /// What it is called (product identification, 16 characters).
    pub product: String,
    /// The revision of the product, 4 characters.
    pub revision: String,
    /// Names this run of the target, so that an initiator notices that what was cached may be lost.
    pub run: [u8; 16],
    /// Size, block size, features.
    pub geometry: Geometry,
}

const SUPPORTED: u8 = 0x00;
const SERIAL: u8 = 0x80;
const IDENTIFICATION: u8 = 0x83;
const BLOCK_LIMITS: u8 = 0xb0;
const CHARACTERISTICS: u8 = 0xb1;
const PROVISIONING: u8 = 0xb2;
const PAGES: [u8; 6] = [SUPPORTED, SERIAL, IDENTIFICATION, BLOCK_LIMITS, CHARACTERISTICS, PROVISIONING];

/// Peripheral qualifier and device type of a unit that does not exist.
const NOT_THERE: u8 = 0x7f;

/// Standard INQUIRY data (SPC 6.6.2) of a unit, or of a place without one.
pub fn standard(unit: Option<&Unit>) -> Vec<u8> {
    let mut bytes = vec![0; 96];
    // Version: SPC-4. Response data format 2, hierarchical LUNs.
    (bytes[2], bytes[3], bytes[4]) = (6, 0x12, 91);
    // CMDQUE: commands are queued.
    bytes[7] = 2;
    bytes[8..16].copy_from_slice(&padded::<8>(VENDOR));
    bytes[16..32].copy_from_slice(&padded::<16>(unit.map_or("", |u| &u.product)));
    bytes[32..36].copy_from_slice(&padded::<4>(unit.map_or("", |u| &u.revision)));
    // Vendor specific: the run.
    bytes[36..52].copy_from_slice(&unit.map_or([0; 16], |u| u.run));
    // Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3.
    for (index, version) in [0x00a0, 0x0960, 0x0460, 0x04c0].into_iter().enumerate() {
        put16(&mut bytes, 58 + 2 * index, version);
    }
    if unit.is_none() {
        bytes[0] = NOT_THERE;
    }
    bytes
}

/// A vital product data page (SPC 7.8, SBC 6.5).
pub fn vital(unit: &Unit, page: u8) -> Result<Vec<u8>, Sense> {
    let body = match page {
        SUPPORTED => PAGES.to_vec(),
        SERIAL => unit.uuid.simple().to_string().into_bytes(),
        IDENTIFICATION => identification(unit),
        BLOCK_LIMITS => block_limits(unit),
        CHARACTERISTICS => {
            let mut body = vec![0; 60];
            // Medium rotation rate: not rotating.
            body[1] = 1;
            body
        }
        // LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned.
        PROVISIONING => vec![0, 0xe4, 2, 0],
        _ => return Err(Sense::invalid_field(2)),
    };
    let mut bytes = vec![0, page, 0, 0];
    put16(&mut bytes, 2, body.len() as u16);
    bytes.extend(body);
    Ok(bytes)
}

/// One designation descriptor: code set and protocol, association and type, value.
fn designator(into: &mut Vec<u8>, code_set: u8, kind: u8, value: &[u8]) {
    // The transport protocol (iSCSI) is said for ports and devices.
    let (protocol, valid) = if kind & 0x30 == 0 { (0, 0) } else { (0x50, 0x80) };
    into.extend_from_slice(&[protocol | code_set, valid | kind, 0, value.len() as u8]);
    into.extend_from_slice(value);
}

/// A name in UTF-8, ended by NUL and padded to a multiple of four (SPC 7.8.6.11).
fn name_string(text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.truncate(248);
    value.push(0);
    value.resize(value.len().next_multiple_of(4), 0);
    value
}

fn identification(unit: &Unit) -> Vec<u8> {
    let mut body = Vec::new();
    // NAA, locally assigned: 60 bits of the identity.
    let mut naa = [0; 8];
    naa.copy_from_slice(&unit.uuid.as_bytes()[8..]);
    naa[0] = 0x30 | naa[0] & 0x0f;
    designator(&mut body, 1, 0x03, &naa);
    // T10 vendor: the whole identity as text.
    let text = format!("{VENDOR}{}", unit.uuid.simple());
    designator(&mut body, 2, 0x01, text.as_bytes());
    // The target port: its relative number, and its name.
    designator(&mut body, 1, 0x14, &[0, 0, 0, 1]);
    let port = format!("{},t,0x{:04x}", unit.target, unit.portal_group);
    designator(&mut body, 3, 0x18, &name_string(&port));
    // The target device.
    designator(&mut body, 3, 0x28, &name_string(unit.target.as_str()));
    body
}

fn block_limits(unit: &Unit) -> Vec<u8> {
    let size = unit.geometry.block_size.bytes() as usize;
    let blocks = |bytes: usize| (bytes / size) as u32;
    let mut body = vec![0; 60];
    // WSNZ: WRITE SAME of "to the end" is not taken.
    body[0] = 1;
    // COMPARE AND WRITE counts blocks in one byte.
    body[1] = blocks(limits::TRANSFER_BYTES / 2).min(255) as u8;
    // Optimal granularity: a page.
    put16(&mut body, 2, blocks(block::PAGE_SIZE).max(1) as u16);
    put32(&mut body, 4, blocks(limits::TRANSFER_BYTES));
    put32(&mut body, 8, blocks(limits::TRANSFER_BYTES));
    put32(&mut body, 16, u32::MAX);
    put32(&mut body, 20, limits::ISCSI_UNMAP_RANGES as u32);
    put32(&mut body, 24, blocks(block::PAGE_SIZE).max(1));
    // The alignment of granules is valid, and zero.
    put32(&mut body, 28, 0x8000_0000);
    put64(&mut body, 32, u64::from(blocks(limits::ISCSI_WRITE_SAME_BYTES)));
    body
}

/// READ CAPACITY (10) data: the last block, and the block size.
pub fn capacity10(geometry: &Geometry) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    let last = geometry.blocks.0.saturating_sub(1);
    put32(&mut bytes, 0, u32::try_from(last).unwrap_or(u32::MAX));
    put32(&mut bytes, 4, geometry.block_size.bytes());
    bytes
}

/// READ CAPACITY (16) data (SBC 5.16).
pub fn capacity16(geometry: &Geometry) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    put64(&mut bytes, 0, geometry.blocks.0.saturating_sub(1));
    put32(&mut bytes, 8, geometry.block_size.bytes());
    // Blocks of 512 bytes are best written eight at a time.
    bytes[13] = if geometry.block_size == BlockSize::B512 { 3 } else { 0 };
    // LBPME: blocks can be unmapped. LBPRZ: they read as zeroes then.
    bytes[14] = 0xc0;
    bytes
}

/// REPORT LUNS data: unit 0, unless only well-known units are asked for.
pub fn luns(select: u8) -> Vec<u8> {
    let mut bytes = vec![0; if select == 1 { 8 } else { 16 }];
    let len = bytes.len() as u32 - 8;
    put32(&mut bytes, 0, len);
    bytes
}

/// REPORT SUPPORTED OPERATION CODES data.
pub fn opcodes(option: u8, opcode: u8, action: u16, timeouts: bool) -> Result<Vec<u8>, Sense> {
    opcodes::report(option, opcode, action, timeouts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{get16, get32, get64};
    use block::{Blocks, Features};

    fn unit() -> Unit {
        Unit {
            target: IscsiName::new("iqn.2019-05.io.openebs:nexus-1").expect("a name"),
            portal_group: 1,
            uuid: Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788),
            product: "Nexus CAS Driver".into(),
            revision: "0001".into(),
            run: [9; 16],
            geometry: Geometry { block_size: BlockSize::B512, blocks: Blocks(1 << 33), features: Features::default() },
        }
    }

    #[test]
    fn standard_data() {
        let bytes = standard(Some(&unit()));
        assert_eq!((bytes.len(), bytes[4] as usize + 5), (96, 96));
        assert_eq!(&bytes[8..36], b"MAYADATANexus CAS Driver0001");
        assert_eq!(bytes[36..52], [9; 16]);
        assert_eq!(standard(None)[0], 0x7f);
    }

    #[test]
    fn each_supported_page_is_there_and_says_its_length() {
        let supported = vital(&unit(), 0).expect("there");
        for page in &supported[4..] {
            let bytes = vital(&unit(), *page).expect("there");
            assert_eq!((bytes[1], get16(&bytes, 2) as usize + 4), (*page, bytes.len()));
        }
        assert_eq!(vital(&unit(), 0xb7), Err(Sense::invalid_field(2)));
        assert_eq!(vital(&unit(), BLOCK_LIMITS).map(|b| (b.len(), get32(&b, 8))), Ok((64, 2048)));
    }

    #[test]
    fn designators_fill_the_page_exactly() {
        let page = vital(&unit(), IDENTIFICATION).expect("there");
        let (mut at, mut kinds) = (4, Vec::new());
        while at < page.len() {
            kinds.push(page[at + 1] & 0x3f);
            at += 4 + usize::from(page[at + 3]);
        }
        assert_eq!((at, kinds), (page.len(), vec![3, 1, 0x14, 0x18, 0x28]));
        assert_eq!(page[8] >> 4, 3);
    }

    #[test]
    fn capacities() {
        assert_eq!(get32(&capacity10(&unit().geometry), 0), u32::MAX);
        let long = capacity16(&unit().geometry);
        assert_eq!((get64(&long, 0), get32(&long, 8)), ((1 << 33) - 1, 512));
        assert_eq!([0, 1, 2].map(|s| luns(s).len()), [16, 8, 16]);
    }
}
