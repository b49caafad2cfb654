//! The commands that we know, for REPORT SUPPORTED OPERATION CODES (SPC 6.35).

use super::Sense;
use crate::wire::{put16, put32};

/// A command: its service action, and for each byte of its CDB the bits that are looked at.
struct Known {
    action: Option<u16>,
    usage: &'static [u8],
}

const fn plain(usage: &'static [u8]) -> Known {
    Known { action: None, usage }
}
const fn with(action: u16, usage: &'static [u8]) -> Known {
    Known { action: Some(action), usage }
}

const F: u8 = 0xff;

/// All of them. The first byte of each is its operation code.
const KNOWN: &[Known] = &[
    plain(&[0x00, 0, 0, 0, 0, 4]),
    plain(&[0x03, 1, 0, 0, F, 4]),
    plain(&[0x08, 0x1f, F, F, F, 4]),
    plain(&[0x0a, 0x1f, F, F, F, 4]),
    plain(&[0x12, 1, F, F, F, 4]),
    plain(&[0x15, 0x11, 0, 0, F, 4]),
    plain(&[0x16, 0, 0, 0, 0, 4]),
    plain(&[0x17, 0, 0, 0, 0, 4]),
    plain(&[0x1a, 8, F, F, F, 4]),
    plain(&[0x1b, 1, 0, 0x0f, 0xf7, 4]),
    plain(&[0x1d, 0xf7, 0, F, F, 4]),
    plain(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 4]),
    plain(&[0x28, 0xf8, F, F, F, F, 0x3f, F, F, 4]),
    plain(&[0x2a, 0xf8, F, F, F, F, 0x3f, F, F, 4]),
    plain(&[0x2e, 0xf6, F, F, F, F, 0x3f, F, F, 4]),
    plain(&[0x2f, 0xf6, F, F, F, F, 0x3f, F, F, 4]),
    plain(&[0x34, 2, F, F, F, F, 0x3f, F, F, 4]),
    plain(&[0x35, 2, F, F, F, F, 0x3f, F, F, 4]),
    plain(&[0x41, 0xf8, F, F, F, F, 0x3f, F, F, 4]),
    plain(&[0x42, 1, 0, 0, 0, 0, 0x3f, F, F, 4]),
    plain(&[0x55, 0x11, 0, 0, 0, 0, 0, F, F, 4]),
    plain(&[0x5a, 0x18, F, F, 0, 0, 0, F, F, 4]),
    with(0, &[0x5e, 0x1f, 0, 0, 0, 0, 0, F, F, 4]),
    with(1, &[0x5e, 0x1f, 0, 0, 0, 0, 0, F, F, 4]),
    with(2, &[0x5e, 0x1f, 0, 0, 0, 0, 0, F, F, 4]),
    with(3, &[0x5e, 0x1f, 0, 0, 0, 0, 0, F, F, 4]),
    with(0, &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 4]),
    with(1, &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 4]),
    with(2, &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 4]),
    with(3, &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 4]),
    with(4, &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 4]),
    with(5, &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 4]),
    with(6, &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 4]),
    plain(&[0x88, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0x89, 0xf8, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0x3f, 4]),
    plain(&[0x8a, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0x8b, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0x8e, 0xf6, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0x8f, 0xf6, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0x90, 2, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0x91, 2, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0x93, 0xf9, F, F, F, F, F, F, F, F, F, F, F, F, 0x3f, 4]),
    with(0x10, &[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 4]),
    plain(&[0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, 4]),
    with(0x0c, &[0xa3, 0x1f, 0x87, F, F, F, F, F, F, F, 0, 4]),
    plain(&[0xa8, 0xf8, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0xaa, 0xf8, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0xae, 0xf6, F, F, F, F, F, F, F, F, 0x3f, 4]),
    plain(&[0xaf, 0xf6, F, F, F, F, F, F, F, F, 0x3f, 4]),
];

/// A command timeouts descriptor without a timeout.
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The answer.
pub(super) fn report(option: u8, opcode: u8, action: u16, timeouts: bool) -> Result<Vec<u8>, Sense> {
    match option {
        0 => return Ok(all(timeouts)),
        1..=3 => {}
        _ => return Err(Sense::invalid_field(2)),
    }
    let has_actions = KNOWN.iter().any(|k| k.usage[0] == opcode && k.action.is_some());
    let is_known = KNOWN.iter().any(|k| k.usage[0] == opcode);
    if option == 1 && has_actions || option == 2 && is_known && !has_actions {
        return Err(Sense::invalid_field(2));
    }
    let wanted = (option != 1 && has_actions).then_some(action);
    Ok(match KNOWN.iter().find(|k| k.usage[0] == opcode && k.action == wanted) {
        None => vec![0, 1, 0, 0],
        Some(known) => {
            let with_timeouts = if timeouts { 0x80 } else { 0 };
            let mut bytes = vec![0, 3 | with_timeouts, 0, known.usage.len() as u8];
            bytes.extend_from_slice(known.usage);
            // The service action takes the place of its bits.
            if let Some(action) = known.action {
                bytes[5] = action as u8;
            }
            if timeouts {
                bytes.extend_from_slice(&NO_TIMEOUTS);
            }
            bytes
        }
    })
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for known in KNOWN {
        let mut descriptor = [0; 8];
        descriptor[0] = known.usage[0];
        put16(&mut descriptor, 2, known.action.unwrap_or(0));
        descriptor[5] = u8::from(known.action.is_some()) | if timeouts { 2 } else { 0 };
        put16(&mut descriptor, 6, known.usage.len() as u16);
        bytes.extend_from_slice(&descriptor);
        if timeouts {
            bytes.extend_from_slice(&NO_TIMEOUTS);
        }
    }
    let len = bytes.len() as u32 - 4;
    put32(&mut bytes, 0, len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::cdb;
    use block::{BlockSize, Blocks, Features, Geometry};

    #[test]
    fn the_table_and_the_parser_know_the_same_commands() {
        let geometry = Geometry { block_size: BlockSize::B512, blocks: Blocks(64), features: Features::default() };
        for opcode in 0..=255u8 {
            for action in 0..32u8 {
                let mut bytes = [0; 16];
                (bytes[0], bytes[1]) = (opcode, action);
                let in_table =
                    KNOWN.iter().any(|k| k.usage[0] == opcode && k.action.is_none_or(|a| a == action.into()));
                let parsed = cdb::parse(&bytes, &geometry);
                if !in_table {
                    assert!(parsed.is_err(), "{opcode:#x} {action:#x} is parsed and not in the table");
                } else {
                    assert_ne!(parsed, Err(Sense::INVALID_OPCODE), "{opcode:#x} is in the table and not parsed");
                }
            }
        }
    }

    #[test]
    fn one_command_and_all() {
        assert_eq!(report(1, 0x24, 0, false), Ok(vec![0, 1, 0, 0]));
        assert_eq!(report(1, 0x5e, 0, false), Err(Sense::invalid_field(2)));
        assert_eq!(report(2, 0x28, 0, false), Err(Sense::invalid_field(2)));
        let pr = report(2, 0x5f, 6, true).expect("known");
        assert_eq!((pr[1], pr[3], pr[4], pr[5], pr.len()), (0x83, 10, 0x5f, 6, 4 + 10 + 12));
        assert_eq!(report(3, 0x28, 0, false).map(|b| b.len()), Ok(14));
        assert_eq!(report(4, 0, 0, false), Err(Sense::invalid_field(2)));
        assert_eq!(all(false).len(), 4 + 8 * KNOWN.len());
        assert_eq!(all(true).len(), 4 + 20 * KNOWN.len());
    }
}
