//! Who uses a volume: what a host may do beside the others.

use api::v1;
use plan::{HostUse, Publish, Volume};
use tonic::Status;

/// Notes that a host uses the volume. `full`: the host has as many volumes as it takes. `node`: who shall serve it, when
/// nobody does yet.
pub(crate) fn attach(
    volume: &mut Volume,
    request: &v1::AttachVolumeRequest,
    full: bool,
    node: Option<String>,
) -> Result<(), Status> {
    let (name, host) = (&volume.name, &request.host);
    let wanted = HostUse { read_only: request.read_only, shared: request.shared };
    match volume.hosts.get(host) {
        Some(has) if *has != wanted => {
            let text = format!("volume {name} is attached to {host} in another way (read-only, or shared)");
            return Err(Status::already_exists(text));
        }
        Some(_) => {}
        None => {
            if let Some(other) = volume.hosts.iter().find(|(_, has)| !(has.shared && wanted.shared)) {
                let text = format!("volume {name} is attached to {} and cannot be shared", other.0);
                return Err(Status::failed_precondition(text));
            }
            if full {
                let text = format!("host {host} has {} volumes already, as many as it takes", request.host_limit);
                return Err(Status::resource_exhausted(text));
            }
            volume.hosts.insert(host.clone(), wanted);
        }
    }
    if volume.publish == Publish::No {
        volume.publish = node.map_or(Publish::Anywhere, Publish::On);
    }
    Ok(())
}

/// Notes that a host (all of them: an empty name) does not use the volume any more.
pub(crate) fn detach(volume: &mut Volume, host: &str) {
    let had = !volume.hosts.is_empty();
    volume.hosts.retain(|name, _| !host.is_empty() && name != host);
    // A volume that was published by hand stays so.
    if had && volume.hosts.is_empty() {
        volume.publish = Publish::No;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use tonic::Code;

    fn volume() -> Volume {
        Volume {
            name: "data".into(),
            size: block::Bytes(1 << 20),
            replicas: 1,
            thin: false,
            required_nodes: BTreeSet::new(),
            preferred_nodes: BTreeSet::new(),
            topology: plan::Topology::default(),
            moving: None,
            operation: String::new(),
            publish: Publish::No,
            hosts: BTreeMap::new(),
            life: plan::Life::Wanted,
            target: None,
            nexus_nodes: BTreeSet::new(),
            ledger: None,
            copies: BTreeMap::new(),
        }
    }

    fn request(host: &str, read_only: bool, shared: bool) -> v1::AttachVolumeRequest {
        v1::AttachVolumeRequest { name: "data".into(), host: host.into(), read_only, shared, ..Default::default() }
    }

    fn code(result: Result<(), Status>) -> Option<Code> {
        result.err().map(|s| s.code())
    }

    #[test]
    fn one_host_unless_all_of_them_share() {
        let mut v = volume();
        assert_eq!(code(attach(&mut v, &request("a", false, false), false, Some("n1".into()))), None);
        assert_eq!(v.publish, Publish::On("n1".into()));
        assert_eq!(code(attach(&mut v, &request("a", false, false), true, None)), None, "it has it already");
        assert_eq!(code(attach(&mut v, &request("a", true, false), false, None)), Some(Code::AlreadyExists));
        assert_eq!(code(attach(&mut v, &request("b", false, false), false, None)), Some(Code::FailedPrecondition));
        assert_eq!(code(attach(&mut v, &request("b", false, true), false, None)), Some(Code::FailedPrecondition));
        detach(&mut v, "b");
        assert_eq!(v.publish, Publish::On("n1".into()));
        detach(&mut v, "a");
        assert_eq!((v.publish.clone(), v.hosts.len()), (Publish::No, 0));

        assert_eq!(code(attach(&mut v, &request("a", false, true), false, None)), None);
        assert_eq!(code(attach(&mut v, &request("b", true, true), false, None)), None);
        assert_eq!(code(attach(&mut v, &request("c", true, false), false, None)), Some(Code::FailedPrecondition));
        assert_eq!(code(attach(&mut v, &request("c", true, true), true, None)), Some(Code::ResourceExhausted));
        detach(&mut v, "a");
        assert_eq!(v.publish, Publish::Anywhere);
        detach(&mut v, "");
        assert_eq!(v.publish, Publish::No);
    }

    #[test]
    fn a_volume_that_was_published_by_hand_stays_so() {
        let mut v = volume();
        v.publish = Publish::Anywhere;
        detach(&mut v, "a");
        assert_eq!(v.publish, Publish::Anywhere);
    }
}
