//! What the engine does before it starts the machine: look at the devices, decide, find each one's place.

use std::collections::BTreeMap;

use block::{Blocks, Bytes};
use nexus::ledger::{Set, Version};
use nexus::machine::{Opened, Opening, Standing};
use nexus::map::{Maps, Shape};
use nexus::open::{Decision, Found, decide, known_behind};
use nexus::{MemberId, Settings};
use uuid::Uuid;

use crate::device::{Device, VOLUME};

/// What was found on some devices.
pub fn found(devices: &[Device], reachable: &[usize]) -> Vec<Found> {
    let look =
        |d: &Device| Found { member: d.uuid, ledger: d.ledger(), older: d.slots[d.free_slot()].clone(), rotten: false };
    reachable.iter().map(|&at| look(&devices[at])).collect()
}

/// Opens the volume from the devices that can be reached; or says why not. Each member's device is told by its place.
pub fn plan(
    devices: &mut [Device],
    reachable: &[usize],
    stored: Option<Version>,
    is_new: bool,
    (shape, settings, salt): (Shape, Settings, u64),
    mut new_name: impl FnMut() -> Uuid,
) -> Result<(Opening, BTreeMap<MemberId, usize>), String> {
    let found = found(devices, reachable);
    let decision = decide(&found, stored).map_err(|e| e.to_string())?;
    let mut opening = Opening {
        volume: VOLUME,
        size: Bytes(shape.blocks.0 * 512),
        shape,
        settings,
        members: Vec::new(),
        maps: Maps::clean(&shape),
        bases: Vec::new(),
        parent: Version::default(),
        salt,
        highest: Version::default(),
        stored,
    };
    let mut places = Vec::new();
    let mut listed = Set::new();
    let in_sync: Set;
    match decision {
        Decision::Fresh if is_new => {
            let versions = found.iter().filter_map(|f| f.ledger.as_ref().map(|l| l.version));
            opening.highest = versions.max().unwrap_or_default();
            in_sync = found.iter().map(|f| f.member).collect();
        }
        Decision::Fresh => return Err("no ledger, and the volume is not new".into()),
        Decision::Serve { ledger, version, in_sync: here, bases, highest } => {
            opening.parent = version;
            opening.size = ledger.size;
            opening.shape.blocks = Blocks(ledger.size.0 / 512);
            opening.maps = Maps::clean(&opening.shape);
            listed = known_behind(&ledger, &here).into_iter().collect();
            (in_sync, opening.bases, opening.highest) = (here, bases, highest);
        }
    }
    for &at in reachable {
        let device = &mut devices[at];
        let standing = if in_sync.contains(&device.uuid) {
            let maps = Maps::decode(&device.map, VOLUME, &opening.shape);
            opening.maps.dirty.add(&maps.dirty);
            opening.maps.behind.add(&maps.behind);
            Standing::InSync
        } else if listed.remove(&device.uuid) {
            Standing::Behind
        } else {
            // Labelled anew, under a new name.
            device.uuid = new_name();
            device.slots = [None, None];
            Standing::New
        };
        opening.members.push(Opened { uuid: device.uuid, uri_tag: 0, standing, slot: device.free_slot() });
        places.push(at);
    }
    for (at, device) in devices.iter().enumerate() {
        if listed.contains(&device.uuid) {
            opening.members.push(Opened { uuid: device.uuid, uri_tag: 0, standing: Standing::Absent, slot: 0 });
            places.push(at);
        }
    }
    Ok((opening, (0..).map(MemberId).zip(places).collect()))
}
