//! Names on the wire: volumes, nodes, topology.

use std::collections::BTreeSet;

use api::csi;
use tonic::Status;
use uuid::Uuid;

/// The topology key of this driver: the node's name.
pub const TOPOLOGY_KEY: &str = "openebs.io/nodename";
/// Kubernetes' own key, understood in requirements.
pub const HOSTNAME_KEY: &str = "kubernetes.io/hostname";
/// The longest name of a volume in CSI, in bytes.
const NAME_BYTES: usize = 128;
/// Names of volumes that carry no uuid get one derived from the name in this space.
const SPACE: Uuid = Uuid::from_u128(0x3d0e_3f1c_62a5_4a0e_9d6b_7f2f_51c8_4e11);

/// How a volume is called in the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeName {
    /// Its identity: the uuid in `pvc-<uuid>`, else one made from the name; the same name always gives the same uuid.
    pub uuid: Uuid,
    /// The name itself where the control plane's rules allow it, else `csi-<uuid>`.
    pub name: String,
}

impl VolumeName {
    /// The name that CSI chose.
    pub fn new(name: &str) -> Result<VolumeName, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("the volume's name is missing"));
        }
        if name.len() > NAME_BYTES || name.chars().any(char::is_control) {
            let text = format!("a volume's name has 1 to {NAME_BYTES} bytes and no control characters");
            return Err(Status::invalid_argument(text));
        }
        let given = name.strip_prefix("pvc-").filter(|id| id.len() == 36).and_then(|id| id.parse().ok());
        let uuid = given.unwrap_or_else(|| Uuid::new_v5(&SPACE, name.as_bytes()));
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let usable = name.len() <= block::limits::NAME_BYTES && name.chars().all(fits);
        Ok(VolumeName { uuid, name: if usable { name.to_owned() } else { format!("csi-{uuid}") } })
    }
}

/// The uuid in a volume id; `None` when it is no id of ours, so that there can be no such volume.
pub fn volume_id(id: &str) -> Result<Option<Uuid>, Status> {
    if id.is_empty() {
        return Err(Status::invalid_argument("the volume's id is missing"));
    }
    Ok(Uuid::try_parse(id).ok().filter(|uuid| uuid.to_string() == id))
}

/// The id under which a node is known to Kubernetes.
pub fn node_id(name: &str) -> String {
    format!("mayastor://{name}")
}

/// The node's name in a node id.
pub fn node_name(id: &str) -> Result<&str, Status> {
    if id.is_empty() {
        return Err(Status::invalid_argument("the node's id is missing"));
    }
    let name = id.strip_prefix("mayastor://").filter(|name| !name.is_empty());
    name.ok_or_else(|| Status::not_found(format!("there is no node {id}: its id would begin with mayastor://")))
}

/// Where a node is, in the terms of the driver's topology.
pub fn topology_of(node: &str) -> csi::Topology {
    csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), node.to_owned())].into() }
}

/// Where a volume's copies shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Only there, all of them storage nodes; empty: anywhere.
    pub required: BTreeSet<String>,
    /// There first, the best first.
    pub preferred: Vec<String>,
}

fn node_in(topology: &csi::Topology) -> Result<Option<String>, Status> {
    let mut node = None;
    for (key, value) in &topology.segments {
        if key == TOPOLOGY_KEY || key == HOSTNAME_KEY {
            node = Some(value.clone());
        } else {
            let text = format!("topology key {key} is not known; {TOPOLOGY_KEY} and {HOSTNAME_KEY} are");
            return Err(Status::invalid_argument(text));
        }
    }
    Ok(node)
}

/// Reads a requirement. It says from where the volume must be usable, which is from everywhere; so only what it says of
/// the nodes with pools (`storage`) restricts anything. One that allows all of them, or names none, is no restriction, so
/// that nodes that join later can be used too.
pub fn placement(wish: Option<&csi::TopologyRequirement>, storage: &BTreeSet<String>) -> Result<Placement, Status> {
    let Some(wish) = wish else { return Ok(Placement::default()) };
    let mut placement = Placement::default();
    for topology in &wish.requisite {
        match node_in(topology)? {
            Some(node) => drop(placement.required.insert(node)),
            // One that allows every node.
            None => placement.required.extend(storage.iter().cloned()),
        }
    }
    for topology in &wish.preferred {
        placement.preferred.extend(node_in(topology)?);
    }
    placement.required.retain(|node| storage.contains(node));
    if placement.required.len() == storage.len() {
        placement.required.clear();
    }
    Ok(placement)
}

/// The one node that a topology names, if any.
pub fn segment(topology: Option<&csi::Topology>) -> Result<Option<String>, Status> {
    topology.map_or(Ok(None), node_in)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_name_keeps_its_uuid_or_gets_one() {
        let id = "0b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11";
        let pvc = VolumeName::new(&format!("pvc-{id}")).unwrap();
        assert_eq!((pvc.uuid.to_string().as_str(), pvc.name), (id, format!("pvc-{id}")));
        let other = VolumeName::new("Some Name / with ünicode").unwrap();
        assert_eq!(other.name, format!("csi-{}", other.uuid));
        assert_eq!(VolumeName::new("Some Name / with ünicode").unwrap(), other);
        assert_ne!(VolumeName::new("Some other name").unwrap().uuid, other.uuid);
        assert_eq!(VolumeName::new(&"a".repeat(128)).unwrap().name.len(), 40);
        for bad in [String::new(), "a".repeat(129), "a\nb".into()] {
            assert_eq!(VolumeName::new(&bad).unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn only_our_own_ids_can_name_something() {
        assert_eq!(volume_id("").unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(volume_id("reg").unwrap(), None);
        assert_eq!(volume_id("0B0A2F53-3B8A-4A1C-9D57-2F8F6C6D1B11").unwrap(), None, "not as we write it");
        assert!(volume_id("0b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11").unwrap().is_some());
        assert_eq!(node_name("mayastor://w1").unwrap(), "w1");
        assert_eq!(node_name("w1").unwrap_err().code(), Code::NotFound);
        assert_eq!(node_name("mayastor://").unwrap_err().code(), Code::NotFound);
        assert_eq!(node_name("").unwrap_err().code(), Code::InvalidArgument);
    }

    fn wish(required: &[&str], preferred: &[&str]) -> csi::TopologyRequirement {
        let list = |names: &[&str]| names.iter().map(|n| topology_of(n)).collect();
        csi::TopologyRequirement { requisite: list(required), preferred: list(preferred) }
    }

    #[test]
    fn a_requirement_that_allows_all_is_none() {
        let storage: BTreeSet<String> = ["a", "b"].map(String::from).into();
        let all = placement(Some(&wish(&["a", "b", "worker"], &["b"])), &storage).unwrap();
        assert_eq!(all, Placement { required: BTreeSet::new(), preferred: vec!["b".into()] });
        let one = placement(Some(&wish(&["a", "worker"], &[])), &storage).unwrap();
        assert_eq!(one.required, ["a"].map(String::from).into());
        let none = placement(Some(&wish(&["worker"], &[])), &storage).unwrap();
        assert_eq!(none, Placement::default(), "a worker reaches all volumes over the network");
        assert_eq!(placement(None, &storage).unwrap(), Placement::default());
        let zone = csi::Topology { segments: [("zone".to_owned(), "z".to_owned())].into() };
        let wish = csi::TopologyRequirement { requisite: vec![zone], preferred: vec![] };
        assert_eq!(placement(Some(&wish), &storage).unwrap_err().code(), Code::InvalidArgument);
    }
}
