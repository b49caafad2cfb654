//! The controller against a control plane that exists only in memory: idempotence, and the code of each refusal.
#![allow(clippy::disallowed_methods, reason = "tests live in the real world")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::csi::controller_server::Controller as _;
use api::csi::volume_capability::access_mode::Mode;
use api::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use api::csi::{self as wire, VolumeCapability};
use api::v1;
use csi::control_plane::ControlPlane;
use csi::controller::{Controller, URI};
use csi::names::{node_id, topology_of};
use tonic::{Code, Request, Status};

const MIB: i64 = 1 << 20;

/// Volumes in memory, with the control plane's own rules as far as the driver leans on them.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<BTreeMap<String, v1::Volume>>>);

impl Fake {
    fn edit(&self, name: &str, edit: impl FnOnce(&mut v1::Volume)) {
        edit(self.0.lock().unwrap().get_mut(name).expect("the volume"));
    }
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[tonic::async_trait]
impl ControlPlane for Fake {
    async fn create(&self, r: v1::CreateVolumeRequest) -> Result<v1::Volume, Status> {
        if r.size > 10 << 30 {
            return Err(Status::resource_exhausted("no pool has room"));
        }
        let mut all = self.0.lock().unwrap();
        if all.values().any(|v| v.name == r.name || v.uuid == r.uuid) {
            return Err(Status::already_exists(r.name));
        }
        let volume = v1::Volume {
            name: r.name,
            uuid: r.uuid.clone(),
            size: r.size,
            replicas_wanted: r.replicas,
            thin: r.thin,
            state: "online".into(),
            replicas: vec![v1::VolumeReplica { node: "n1".into(), state: "online".into(), ..Default::default() }],
            ..Default::default()
        };
        all.insert(r.uuid, volume.clone());
        Ok(volume)
    }
    async fn destroy(&self, name: &str) -> Result<(), Status> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
    async fn get(&self, name: &str) -> Result<Option<v1::Volume>, Status> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }
    async fn status(&self) -> Result<v1::Status, Status> {
        let node = |id: &str| v1::Node { id: id.into(), state: "online".into(), ..Default::default() };
        let pool = |node: &str| v1::NodePool {
            node: node.into(),
            pool: Some(v1::Pool { capacity: 10 << 30, ..Default::default() }),
        };
        Ok(v1::Status {
            nodes: vec![node("n1"), node("n2")],
            pools: vec![pool("n1"), pool("n2")],
            volumes: self.0.lock().unwrap().values().cloned().collect(),
        })
    }
    async fn attach(&self, r: v1::AttachVolumeRequest) -> Result<v1::Volume, Status> {
        let mut all = self.0.lock().unwrap();
        let held = all.values().filter(|v| v.uuid != r.name && v.hosts.iter().any(|h| h.host == r.host)).count();
        let volume = all.get_mut(&r.name).ok_or_else(|| Status::not_found("gone"))?;
        match volume.hosts.iter().find(|h| h.host == r.host) {
            Some(h) if (h.read_only, h.shared) != (r.read_only, r.shared) => {
                return Err(Status::already_exists("in another way"));
            }
            Some(_) => {}
            None if volume.hosts.iter().any(|h| !(h.shared && r.shared)) => {
                return Err(Status::failed_precondition("elsewhere"));
            }
            None if r.host_limit != 0 && held >= r.host_limit as usize => {
                return Err(Status::resource_exhausted("full"));
            }
            None => volume.hosts.push(v1::VolumeHost { host: r.host, read_only: r.read_only, shared: r.shared }),
        }
        volume.device_uri = format!("nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:nexus-{}", r.name);
        Ok(volume.clone())
    }
    async fn detach(&self, name: &str, host: &str) -> Result<v1::Volume, Status> {
        let mut all = self.0.lock().unwrap();
        let volume = all.get_mut(name).ok_or_else(|| Status::not_found("gone"))?;
        volume.hosts.retain(|h| !host.is_empty() && h.host != host);
        Ok(volume.clone())
    }
    async fn resize(&self, name: &str, size: u64) -> Result<v1::Volume, Status> {
        if size > 1 << 40 {
            return Err(Status::resource_exhausted("pool node-1/p has too little"));
        }
        self.edit(name, |v| v.size = size);
        Ok(self.0.lock().unwrap()[name].clone())
    }
    async fn set_replicas(&self, name: &str, replicas: u32) -> Result<v1::Volume, Status> {
        self.edit(name, |v| v.replicas_wanted = replicas);
        Ok(self.0.lock().unwrap()[name].clone())
    }
}

fn mount(mode: Mode) -> VolumeCapability {
    let access_mode = Some(AccessMode { mode: mode as i32 });
    VolumeCapability { access_mode, access_type: Some(AccessType::Mount(MountVolume::default())) }
}
fn block(mode: Mode) -> VolumeCapability {
    let access_mode = Some(AccessMode { mode: mode as i32 });
    VolumeCapability { access_mode, access_type: Some(AccessType::Block(BlockVolume {})) }
}
fn wish(name: &str) -> wire::CreateVolumeRequest {
    wire::CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(wire::CapacityRange { required_bytes: 64 * MIB, limit_bytes: 0 }),
        volume_capabilities: vec![mount(Mode::SingleNodeWriter)],
        ..Default::default()
    }
}
fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

struct Driver {
    fake: Fake,
    controller: Controller<Fake>,
}

impl Driver {
    fn new() -> Driver {
        let fake = Fake::default();
        Driver { controller: Controller::new(fake.clone(), 3), fake }
    }
    async fn create(&self, request: wire::CreateVolumeRequest) -> Result<wire::Volume, Code> {
        let reply = self.controller.create_volume(Request::new(request)).await.map_err(|s| s.code())?;
        Ok(reply.into_inner().volume.expect("a volume"))
    }
    async fn publish(
        &self,
        id: &str,
        node: &str,
        capability: VolumeCapability,
        readonly: bool,
    ) -> Result<String, Code> {
        let request = wire::ControllerPublishVolumeRequest {
            volume_id: id.into(),
            node_id: node.into(),
            volume_capability: Some(capability),
            readonly,
            ..Default::default()
        };
        let reply = self.controller.controller_publish_volume(Request::new(request)).await.map_err(|s| s.code())?;
        Ok(reply.into_inner().publish_context[URI].clone())
    }
    async fn unpublish(&self, id: &str, node: &str) -> Result<(), Code> {
        let request =
            wire::ControllerUnpublishVolumeRequest { volume_id: id.into(), node_id: node.into(), ..Default::default() };
        self.controller.controller_unpublish_volume(Request::new(request)).await.map(drop).map_err(|s| s.code())
    }
    async fn delete(&self, id: &str) -> Result<(), Code> {
        let request = wire::DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
        self.controller.delete_volume(Request::new(request)).await.map(drop).map_err(|s| s.code())
    }
    async fn page(&self, max_entries: i32, token: &str) -> Result<(Vec<String>, String), Code> {
        let request = wire::ListVolumesRequest { max_entries, starting_token: token.into() };
        let reply = self.controller.list_volumes(Request::new(request)).await.map_err(|s| s.code())?.into_inner();
        Ok((reply.entries.into_iter().filter_map(|e| e.volume).map(|v| v.volume_id).collect(), reply.next_token))
    }
}

#[tokio::test]
async fn the_same_wish_gives_the_same_volume() {
    let d = Driver::new();
    let mut request = wish("pvc-0b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11");
    request.parameters = map(&[("repl", "2"), ("fsType", "xfs"), ("csi.storage.k8s.io/pvc/name", "claim")]);
    let first = d.create(request.clone()).await.unwrap();
    assert_eq!(first.volume_id, "0b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11");
    assert_eq!(first.capacity_bytes, 64 * MIB);
    assert_eq!(first.volume_context, map(&[("repl", "2"), ("fsType", "xfs")]));
    assert_eq!(d.create(request.clone()).await.unwrap(), first);
    // A range that the volume is in asks for the same.
    let mut wider = request.clone();
    wider.capacity_range = Some(wire::CapacityRange { required_bytes: MIB, limit_bytes: 100 * MIB });
    assert_eq!(d.create(wider).await.unwrap(), first);
    assert_eq!(d.fake.len(), 1);

    let mut larger = request.clone();
    larger.capacity_range = Some(wire::CapacityRange { required_bytes: 65 * MIB, limit_bytes: 0 });
    let mut smaller = request.clone();
    smaller.capacity_range = Some(wire::CapacityRange { required_bytes: MIB, limit_bytes: 63 * MIB });
    let mut copies = request.clone();
    copies.parameters.insert("repl".into(), "3".into());
    let mut thin = request.clone();
    thin.parameters.insert("thin".into(), "true".into());
    let mut elsewhere = request.clone();
    elsewhere.accessibility_requirements =
        Some(wire::TopologyRequirement { requisite: vec![topology_of("n2")], preferred: vec![] });
    for (what, other) in
        [("larger", larger), ("smaller", smaller), ("copies", copies), ("thin", thin), ("elsewhere", elsewhere)]
    {
        assert_eq!(d.create(other).await, Err(Code::AlreadyExists), "{what}");
    }
}

#[tokio::test]
async fn a_volume_that_is_not_ready_is_asked_for_again() {
    let d = Driver::new();
    let id = d.create(wish("v")).await.unwrap().volume_id;
    d.fake.edit(&id, |v| v.state = "pending".into());
    assert_eq!(d.create(wish("v")).await, Err(Code::Unavailable));
    d.fake.edit(&id, |v| v.state = "online".into());
    assert_eq!(d.create(wish("v")).await.unwrap().volume_id, id);
    d.fake.edit(&id, |v| v.state = "deleting".into());
    assert_eq!(d.create(wish("v")).await, Err(Code::Aborted));
    assert_eq!(d.publish(&id, &node_id("w"), mount(Mode::SingleNodeWriter), false).await, Err(Code::NotFound));
}

#[tokio::test]
async fn bad_wishes_and_their_codes() {
    let d = Driver::new();
    let with = |edit: &dyn Fn(&mut wire::CreateVolumeRequest)| {
        let mut request = wish("v");
        edit(&mut request);
        request
    };
    let parameter = |key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.to_owned());
        with(&move |r| drop(r.parameters.insert(key.clone(), value.clone())))
    };
    let size = |required, limit| {
        with(&move |r| {
            r.capacity_range = Some(wire::CapacityRange { required_bytes: required, limit_bytes: limit });
        })
    };
    let source = wire::volume_content_source::Type::Volume(wire::volume_content_source::VolumeSource::default());
    let zone = wire::Topology { segments: map(&[("zone", "z")]) };
    let cases = [
        ("no name", with(&|r| r.name.clear()), Code::InvalidArgument),
        ("long name", with(&|r| r.name = "x".repeat(129)), Code::InvalidArgument),
        ("control character", with(&|r| r.name = "a\u{7}b".into()), Code::InvalidArgument),
        ("no capability", with(&|r| r.volume_capabilities.clear()), Code::InvalidArgument),
        (
            "RWX file system",
            with(&|r| r.volume_capabilities = vec![mount(Mode::MultiNodeMultiWriter)]),
            Code::InvalidArgument,
        ),
        ("mode 0", with(&|r| r.volume_capabilities = vec![block(Mode::Unknown)]), Code::InvalidArgument),
        (
            "one bad of two",
            with(&|r| r.volume_capabilities.push(mount(Mode::MultiNodeSingleWriter))),
            Code::InvalidArgument,
        ),
        ("repl 0", parameter("repl", "0"), Code::InvalidArgument),
        ("repl 17", parameter("repl", "17"), Code::InvalidArgument),
        ("protocol", parameter("protocol", "smoke"), Code::InvalidArgument),
        ("file system", parameter("fsType", "fat"), Code::InvalidArgument),
        ("typo", parameter("replica", "2"), Code::InvalidArgument),
        ("negative", size(-1, 0), Code::InvalidArgument),
        ("contradiction", size(2 * MIB, MIB), Code::InvalidArgument),
        ("too large for anything", size(i64::MAX, 0), Code::OutOfRange),
        ("too large for the pools", size(1 << 40, 0), Code::ResourceExhausted),
        ("no room between", size(MIB + 1, MIB + 2), Code::OutOfRange),
        (
            "source",
            with(&|r| r.volume_content_source = Some(wire::VolumeContentSource { r#type: Some(source.clone()) })),
            Code::InvalidArgument,
        ),
        (
            "topology",
            with(&|r| {
                let requisite = vec![zone.clone()];
                r.accessibility_requirements = Some(wire::TopologyRequirement { requisite, preferred: vec![] });
            }),
            Code::InvalidArgument,
        ),
        ("mutable", with(&|r| drop(r.mutable_parameters.insert("x".into(), "y".into()))), Code::InvalidArgument),
    ];
    for (what, request, code) in cases {
        assert_eq!(d.create(request).await, Err(code), "{what}");
    }
    assert_eq!(d.fake.len(), 0, "nothing was made");
}

#[tokio::test]
async fn one_node_at_a_time_unless_shared() {
    let d = Driver::new();
    let id = d.create(wish("v")).await.unwrap().volume_id;
    let (w1, w2) = (node_id("w1"), node_id("w2"));
    let rwo = mount(Mode::SingleNodeWriter);
    let uri = d.publish(&id, &w1, rwo.clone(), false).await.unwrap();
    assert!(uri.starts_with("nvmf://"), "{uri}");
    assert_eq!(d.publish(&id, &w1, rwo.clone(), false).await.unwrap(), uri, "the address comes with each repetition");
    assert_eq!(d.publish(&id, &w1, rwo.clone(), true).await, Err(Code::AlreadyExists));
    assert_eq!(d.publish(&id, &w2, rwo.clone(), false).await, Err(Code::FailedPrecondition));
    assert_eq!(d.delete(&id).await, Err(Code::FailedPrecondition));
    d.unpublish(&id, &w2).await.unwrap();
    assert_eq!(d.delete(&id).await, Err(Code::FailedPrecondition));
    d.unpublish(&id, &w1).await.unwrap();
    d.unpublish(&id, &w1).await.unwrap();

    let rwx = block(Mode::MultiNodeMultiWriter);
    d.publish(&id, &w1, rwx.clone(), false).await.unwrap();
    d.publish(&id, &w2, rwx.clone(), false).await.unwrap();
    let request = wire::ControllerGetVolumeRequest { volume_id: id.clone() };
    let seen = d.controller.controller_get_volume(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(seen.status.unwrap().published_node_ids, [w1, w2]);
    d.unpublish(&id, "").await.unwrap();
    d.delete(&id).await.unwrap();
    d.delete(&id).await.unwrap();
    d.unpublish(&id, &node_id("w1")).await.unwrap();
}

#[tokio::test]
async fn bad_calls_about_volumes_and_their_codes() {
    let d = Driver::new();
    let id = d.create(wish("v")).await.unwrap().volume_id;
    let none = "11111111-2222-4333-8444-555555555555";
    let (w, rwo) = (node_id("w"), mount(Mode::SingleNodeWriter));
    for (what, volume, node, capability, code) in [
        ("no id", "", w.as_str(), rwo.clone(), Code::InvalidArgument),
        ("no node", id.as_str(), "", rwo.clone(), Code::InvalidArgument),
        ("not a node", id.as_str(), "w", rwo.clone(), Code::NotFound),
        ("no volume", none, w.as_str(), rwo.clone(), Code::NotFound),
        ("not an id", "../../etc", w.as_str(), rwo.clone(), Code::NotFound),
        ("RWX file system", id.as_str(), w.as_str(), mount(Mode::MultiNodeMultiWriter), Code::InvalidArgument),
        ("no access", id.as_str(), w.as_str(), VolumeCapability::default(), Code::InvalidArgument),
    ] {
        assert_eq!(d.publish(volume, node, capability, false).await, Err(code), "{what}");
    }
    assert_eq!(d.unpublish("", &w).await, Err(Code::InvalidArgument));
    assert_eq!(d.unpublish("not an id", &w).await, Ok(()));
    assert_eq!(d.delete("").await, Err(Code::InvalidArgument));
    assert_eq!(d.delete("not an id").await, Ok(()));
    assert_eq!(d.page(-1, "").await, Err(Code::InvalidArgument));
    assert_eq!(d.page(0, "not a token").await, Err(Code::Aborted));
    // As many volumes as a node takes.
    for name in ["a", "b", "c"] {
        let id = d.create(wish(name)).await.unwrap().volume_id;
        d.publish(&id, &w, rwo.clone(), false).await.unwrap();
    }
    assert_eq!(d.publish(&id, &w, rwo, false).await, Err(Code::ResourceExhausted));
}

#[tokio::test]
async fn pages_hold_while_volumes_come_and_go() {
    let d = Driver::new();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(d.create(wish(&format!("v{n}"))).await.unwrap().volume_id);
    }
    ids.sort();
    let (first, token) = d.page(2, "").await.unwrap();
    assert_eq!(first, ids[..2]);
    d.delete(&ids[1]).await.unwrap();
    let (second, token) = d.page(2, &token).await.unwrap();
    assert_eq!(second, ids[2..4]);
    let (last, end) = d.page(2, &token).await.unwrap();
    assert_eq!((last.as_slice(), end.as_str()), (&ids[4..], ""));
    assert_eq!(d.page(0, "").await.unwrap().0.len(), 4);
}

#[tokio::test]
async fn capabilities_are_confirmed_or_not_with_a_reason() {
    let d = Driver::new();
    let id = d.create(wish("v")).await.unwrap().volume_id;
    let ask = async |id: &str, capabilities: Vec<VolumeCapability>, parameters: &[(&str, &str)]| {
        let request = wire::ValidateVolumeCapabilitiesRequest {
            volume_id: id.into(),
            volume_capabilities: capabilities,
            parameters: map(parameters),
            ..Default::default()
        };
        let reply = d.controller.validate_volume_capabilities(Request::new(request)).await;
        reply.map(|r| r.into_inner()).map_err(|s| s.code())
    };
    let rwo = mount(Mode::SingleNodeWriter);
    let good = ask(&id, vec![rwo.clone(), block(Mode::MultiNodeMultiWriter)], &[]).await.unwrap();
    assert_eq!(good.confirmed.unwrap().volume_capabilities.len(), 2);
    for (capability, parameters) in
        [(mount(Mode::MultiNodeMultiWriter), &[][..]), (rwo.clone(), &[("thin", "true")]), (rwo.clone(), &[("x", "y")])]
    {
        let bad = ask(&id, vec![capability], parameters).await.unwrap();
        assert!(bad.confirmed.is_none() && !bad.message.is_empty(), "{bad:?}");
    }
    assert_eq!(ask(&id, vec![], &[]).await, Err(Code::InvalidArgument));
    assert_eq!(ask("", vec![rwo.clone()], &[]).await, Err(Code::InvalidArgument));
    assert_eq!(ask("nothing", vec![rwo], &[]).await, Err(Code::NotFound));
}

#[tokio::test]
async fn the_number_of_copies_can_be_changed() {
    let d = Driver::new();
    let id = d.create(wish("v")).await.unwrap().volume_id;
    let modify = async |id: &str, key: &str, value: &str| {
        let mutable_parameters = map(&[(key, value)]);
        let request =
            wire::ControllerModifyVolumeRequest { volume_id: id.into(), mutable_parameters, ..Default::default() };
        d.controller.controller_modify_volume(Request::new(request)).await.map(drop).map_err(|s| s.code())
    };
    modify(&id, "repl", "2").await.unwrap();
    modify(&id, "repl", "2").await.unwrap();
    assert_eq!(modify(&id, "thin", "true").await, Err(Code::InvalidArgument));
    assert_eq!(modify(&id, "repl", "none").await, Err(Code::InvalidArgument));
    assert_eq!(modify("", "repl", "2").await, Err(Code::InvalidArgument));
    assert_eq!(modify("nothing", "repl", "2").await, Err(Code::NotFound));
}
