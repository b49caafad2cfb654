//! Volumes.

use std::collections::BTreeSet;

use api::v1;
use kube::ResourceExt;
use serde_json::Value;

use super::{Decision, View, signed};
use crate::resource::{FINALIZER, MayastorVolume, NexusChild, NexusStatus, ReplicaStatus, VolumeStatus, set_condition};
use crate::store::spec;

/// What is to be done about a volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Somebody asks for it: make it.
    Create,
    /// Another number of copies is asked for.
    Scale(u32),
    /// A larger size is asked for, in bytes.
    Grow(u64),
    /// Other nodes are asked for.
    Place,
    /// Destroy it: nobody uses it.
    Destroy,
    /// There is no such volume: let the object go.
    Release,
}

fn names(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What the spec asks for that the record does not say yet.
fn edit(volume: &MayastorVolume, data: &Value) -> Option<Action> {
    let wanted = &volume.spec.spec;
    let size = spec::size(u64::try_from(wanted.required_bytes).unwrap_or(0));
    let same =
        |list: &[String], known: &Value| list.iter().map(String::as_str).collect::<BTreeSet<_>>() == names(known);
    if data["size"].as_u64().is_some_and(|known| size != known) {
        return Some(Action::Grow(size));
    }
    if u64::from(wanted.replica_count) != data["replicas"].as_u64().unwrap_or(0) {
        return Some(Action::Scale(wanted.replica_count));
    }
    let placed = same(&wanted.required_nodes, &data["required_nodes"]);
    (!placed || !same(&wanted.preferred_nodes, &data["preferred_nodes"])).then_some(Action::Place)
}

/// Decides. `trouble`: why the last attempt to do something about it failed.
pub(crate) fn decide(volume: &MayastorVolume, view: &View, trouble: Option<&str>) -> Decision<VolumeStatus, Action> {
    let known = view.volumes.get(&volume.name_any());
    let record = volume.spec.record.as_ref();
    let generation = volume.metadata.generation;
    let going = volume.metadata.deletion_timestamp.is_some();
    let mut status = match known {
        Some(known) => describe(known),
        None => VolumeStatus { state: "pending".to_owned(), ..VolumeStatus::default() },
    };
    status.conditions = volume.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    status.observed_generation = generation;
    let asked = match record {
        None if going => None,
        None => Some(Action::Create),
        Some(_) if known.is_some_and(|v| v.state == "deleting") => None,
        Some(record) => edit(volume, &record.data),
    };
    let (accepted, word, why) = match (&asked, trouble) {
        (None, _) => (true, "Accepted", "what is asked for is recorded".to_owned()),
        (Some(_), Some(why)) => (false, "Refused", why.to_owned()),
        (Some(_), None) => (false, "Pending", "it is being taken over".to_owned()),
    };
    if !going {
        set_condition(&mut status.conditions, "Accepted", accepted, word, &why, generation);
    }
    if record.is_none() {
        status.reason = if accepted { String::new() } else { why };
    }
    let healthy = status.state == "healthy";
    let word = crate::resource::camel(&status.state);
    // Reasons with running times in them would be written each second.
    let why = if healthy { "all copies hold all that was written" } else { "see status.reason" };
    set_condition(&mut status.conditions, "Healthy", healthy, &word, why, generation);
    let action = if going { ending(volume, known, trouble, &mut status) } else { asked };
    Decision { status, action }
}

/// What stands between a volume and its end.
fn ending(
    volume: &MayastorVolume,
    known: Option<&v1::Volume>,
    trouble: Option<&str>,
    status: &mut VolumeStatus,
) -> Option<Action> {
    let held = volume.finalizers().iter().any(|f| f == FINALIZER);
    let (word, why, action) = match known {
        None => ("Gone", "there is no such volume".to_owned(), held.then_some(Action::Release)),
        Some(v) if v.state == "deleting" => ("Destroying", v.reason.clone(), None),
        Some(v) if !v.hosts.is_empty() => {
            let hosts: Vec<&str> = v.hosts.iter().map(|h| h.host.as_str()).collect();
            ("InUse", format!("it is used by {}", super::some(&hosts)), None)
        }
        Some(_) => {
            let why = trouble.map_or_else(|| "its copies are being destroyed".to_owned(), str::to_owned);
            ("Destroying", why, Some(Action::Destroy))
        }
    };
    let free = word != "InUse";
    set_condition(&mut status.conditions, "Deletable", free, word, &why, volume.metadata.generation);
    action
}

/// A volume as its status tells of it.
fn describe(v: &v1::Volume) -> VolumeStatus {
    let child = |r: &v1::VolumeReplica| NexusChild {
        uri: r.uri.clone(),
        state: match r.state.as_str() {
            "online" => "CHILD_ONLINE",
            "rebuilding" | "out-of-sync" | "offline" => "CHILD_DEGRADED",
            _ => "CHILD_FAULTED",
        }
        .to_owned(),
    };
    let replica = |r: &v1::VolumeReplica| ReplicaStatus {
        node: r.node.clone(),
        pool: r.pool.clone(),
        uri: r.uri.clone(),
        offline: r.state == "unreachable",
        state: r.state.clone(),
        reason: r.reason.clone(),
    };
    let nexus = NexusStatus {
        device_uri: v.device_uri.clone(),
        state: match v.state.as_str() {
            "online" => "NEXUS_ONLINE",
            "degraded" => "NEXUS_DEGRADED",
            "faulted" => "NEXUS_FAULTED",
            _ => "NEXUS_OFFLINE",
        }
        .to_owned(),
        children: v.replicas.iter().filter(|r| r.state != "retired").map(child).collect(),
    };
    VolumeStatus {
        uuid: v.uuid.clone(),
        size: signed(v.size),
        state: if v.state == "online" { "healthy" } else { v.state.as_str() }.to_owned(),
        reason: v.reason.clone(),
        node: v.target_node.clone(),
        nexus: (v.generation > 0).then_some(nexus),
        replicas: v.replicas.iter().map(replica).collect(),
        hosts: v.hosts.iter().map(|h| h.host.clone()).collect(),
        ..VolumeStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Record, VolumeFields, VolumeSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn volume(replicas: u32, bytes: i64, record: Option<(u32, u64)>) -> MayastorVolume {
        let spec = VolumeSpec { replica_count: replicas, required_bytes: bytes, ..VolumeSpec::default() };
        let data = |(replicas, size)| serde_json::json!({ "replicas": replicas, "size": size });
        let record = record.map(|r| Record { revision: 1, key: "volume/x".into(), data: data(r) });
        MayastorVolume::new("v", VolumeFields { spec, record })
    }

    fn view(hosts: &[&str]) -> View {
        let hosts = hosts.iter().map(|h| v1::VolumeHost { host: (*h).to_owned(), ..v1::VolumeHost::default() });
        let v =
            v1::Volume { name: "v".into(), state: "online".into(), hosts: hosts.collect(), ..v1::Volume::default() };
        View::new(v1::Status { volumes: vec![v], ..v1::Status::default() })
    }

    fn accepted(status: &VolumeStatus) -> (&str, &str) {
        let c = status.conditions.iter().find(|c| c.type_ == "Accepted").expect("it is there");
        (&c.status, &c.reason)
    }

    #[test]
    fn a_wish_is_made_and_an_edit_taken_over() {
        let nothing = View::new(v1::Status::default());
        let found = decide(&volume(2, 8000, None), &nothing, None);
        assert_eq!((found.action, accepted(&found.status)), (Some(Action::Create), ("False", "Pending")));
        let refused = decide(&volume(2, 8000, None), &nothing, Some("no room")).status;
        assert_eq!((accepted(&refused), refused.reason.as_str()), (("False", "Refused"), "no room"));
        let found = decide(&volume(2, 8000, Some((2, 8192))), &view(&[]), None);
        assert_eq!((found.action, accepted(&found.status)), (None, ("True", "Accepted")));
        assert_eq!(found.status.state, "healthy");
        assert_eq!(decide(&volume(3, 8000, Some((2, 8192))), &view(&[]), None).action, Some(Action::Scale(3)));
        assert_eq!(decide(&volume(2, 9000, Some((2, 8192))), &view(&[]), None).action, Some(Action::Grow(12288)));
    }

    #[test]
    fn a_volume_in_use_is_not_destroyed() {
        let mut going = volume(2, 8192, Some((2, 8192)));
        going.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        going.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        let found = decide(&going, &view(&["host-1"]), None);
        assert_eq!(found.action, None);
        let condition = found.status.conditions.iter().find(|c| c.type_ == "Deletable").expect("it is there");
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("InUse", "it is used by host-1"));
        assert_eq!(decide(&going, &view(&[]), None).action, Some(Action::Destroy));
        assert_eq!(decide(&going, &View::new(v1::Status::default()), None).action, Some(Action::Release));
    }
}
