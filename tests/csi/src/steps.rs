//! Volumes from claim to pod and back.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use api::csi::volume_capability::access_mode::Mode;
use api::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use api::csi::{self as wire, VolumeCapability};
use tonic::Code;

use crate::Result;
use crate::cluster::Cluster;

/// A file system, or `block`.
pub type Kind = &'static str;

/// The ways in which a volume is used.
pub const KINDS: &[(&str, Kind)] = &[("ext4", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs"), ("raw_block", "block")];

/// The steps of the node plugin, before each of which it is killed once. A step of raw block has `block:` before it.
pub const STEPS: &[&str] = &[
    "stage-record",
    "stage-attach",
    "stage-probe",
    "stage-make",
    "stage-check",
    "stage-mount",
    "stage-answer",
    "publish-record",
    "publish-folder",
    "publish-bind",
    "publish-read-only",
    "publish-answer",
    "unpublish-unmount",
    "unpublish-remove",
    "unpublish-record",
    "unstage-unmount",
    "unstage-detach",
    "unstage-forget",
    "block:stage-attach",
    "block:stage-answer",
    "block:publish-file",
    "block:publish-bind",
    "block:publish-answer",
    "block:unpublish-unmount",
    "block:unpublish-remove",
    "block:unstage-detach",
];

/// A volume on its way.
struct Journey<'a> {
    cluster: &'a mut Cluster,
    kind: Kind,
    id: String,
    context: std::collections::BTreeMap<String, String>,
    staging: PathBuf,
    target: PathBuf,
    readonly: bool,
}

fn capability(kind: Kind) -> VolumeCapability {
    let access_type = match kind {
        "block" => AccessType::Block(BlockVolume {}),
        fs => AccessType::Mount(MountVolume { fs_type: fs.into(), ..Default::default() }),
    };
    let mode = Mode::SingleNodeMultiWriter as i32;
    VolumeCapability { access_mode: Some(AccessMode { mode }), access_type: Some(access_type) }
}

impl<'a> Journey<'a> {
    /// Makes a volume and publishes it to the node.
    async fn begin(cluster: &'a mut Cluster, kind: Kind, name: &str) -> Result<Journey<'a>> {
        let mut controller = cluster.controller().await?;
        let parameters = [("repl".to_owned(), "2".to_owned()), ("thin".to_owned(), "true".to_owned())].into();
        let request = wire::CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(wire::CapacityRange { required_bytes: 400 << 20, limit_bytes: 0 }),
            volume_capabilities: vec![capability(kind)],
            parameters,
            ..Default::default()
        };
        let volume = controller.create_volume(request).await?.into_inner().volume.ok_or("no volume")?;
        let request = wire::ControllerPublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            node_id: "mayastor://worker".into(),
            volume_capability: Some(capability(kind)),
            volume_context: volume.volume_context.clone(),
            ..Default::default()
        };
        let context = controller.controller_publish_volume(request).await?.into_inner().publish_context;
        let mounts = cluster.folder.join("mounts");
        let staging = mounts.join(format!("{name}-staging"));
        fs::create_dir_all(&staging)?;
        let target = mounts.join(format!("{name}-target")).join("mount");
        fs::create_dir_all(target.parent().ok_or("no folder")?)?;
        Ok(Journey { cluster, kind, id: volume.volume_id, context, staging, target, readonly: false })
    }

    async fn stage(&self) -> Result<()> {
        let request = wire::NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.context.clone(),
            staging_target_path: self.staging.display().to_string(),
            volume_capability: Some(capability(self.kind)),
            ..Default::default()
        };
        self.cluster.node().await?.node_stage_volume(request).await?;
        Ok(())
    }
    async fn publish(&self) -> Result<()> {
        let request = wire::NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.context.clone(),
            staging_target_path: self.staging.display().to_string(),
            target_path: self.target.display().to_string(),
            volume_capability: Some(capability(self.kind)),
            readonly: self.readonly,
            ..Default::default()
        };
        self.cluster.node().await?.node_publish_volume(request).await?;
        Ok(())
    }
    async fn unpublish(&self) -> Result<()> {
        let target_path = self.target.display().to_string();
        let request = wire::NodeUnpublishVolumeRequest { volume_id: self.id.clone(), target_path };
        self.cluster.node().await?.node_unpublish_volume(request).await?;
        Ok(())
    }
    async fn unstage(&self) -> Result<()> {
        let staging_target_path = self.staging.display().to_string();
        let request = wire::NodeUnstageVolumeRequest { volume_id: self.id.clone(), staging_target_path };
        self.cluster.node().await?.node_unstage_volume(request).await?;
        Ok(())
    }
    async fn stats(&self) -> Result<wire::NodeGetVolumeStatsResponse> {
        let volume_path = self.target.display().to_string();
        let request = wire::NodeGetVolumeStatsRequest { volume_id: self.id.clone(), volume_path, ..Default::default() };
        Ok(self.cluster.node().await?.node_get_volume_stats(request).await?.into_inner())
    }

    /// Makes the volume larger, as Kubernetes does it: the controller, then the node; each call twice.
    async fn expand(&self, bytes: i64) -> Result<()> {
        let range = Some(wire::CapacityRange { required_bytes: bytes, limit_bytes: 0 });
        let mut controller = self.cluster.controller().await?;
        for _ in 0..2 {
            let request = wire::ControllerExpandVolumeRequest {
                volume_id: self.id.clone(),
                capacity_range: range,
                volume_capability: Some(capability(self.kind)),
                ..Default::default()
            };
            let grown = controller.controller_expand_volume(request).await?.into_inner();
            if grown.capacity_bytes != bytes || !grown.node_expansion_required {
                return Err(format!("the controller answered {grown:?}").into());
            }
        }
        for _ in 0..2 {
            let request = wire::NodeExpandVolumeRequest {
                volume_id: self.id.clone(),
                volume_path: self.target.display().to_string(),
                staging_target_path: self.staging.display().to_string(),
                capacity_range: range,
                volume_capability: Some(capability(self.kind)),
                ..Default::default()
            };
            let grown = self.cluster.node().await?.node_expand_volume(request).await?.into_inner();
            if grown.capacity_bytes != bytes {
                return Err(format!("the node answered {grown:?}").into());
            }
        }
        Ok(())
    }

    /// Where the data is.
    fn data(&self) -> PathBuf {
        if self.kind == "block" { self.target.clone() } else { self.target.join("data") }
    }
    fn write(&self, seed: u8) -> Result<()> {
        let mut file =
            fs::File::options().create(self.kind != "block").write(true).truncate(false).open(self.data())?;
        file.write_all(&pattern(seed))?;
        file.sync_all()?;
        Ok(())
    }
    fn check(&self, seed: u8) -> Result<()> {
        let mut file = fs::File::open(self.data())?;
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = vec![0; pattern(seed).len()];
        file.read_exact(&mut bytes)?;
        if bytes == pattern(seed) { Ok(()) } else { Err("the data is not what was written".into()) }
    }

    /// Takes the volume from the node and destroys it.
    async fn end(self) -> Result<()> {
        self.unpublish().await?;
        self.unstage().await?;
        self.cluster.nothing_left()?;
        let mut controller = self.cluster.controller().await?;
        let (volume_id, node_id) = (self.id.clone(), "mayastor://worker".to_owned());
        let request = wire::ControllerUnpublishVolumeRequest { volume_id, node_id, ..Default::default() };
        controller.controller_unpublish_volume(request).await?;
        controller.delete_volume(wire::DeleteVolumeRequest { volume_id: self.id, ..Default::default() }).await?;
        let _ = fs::remove_dir(&self.staging);
        let _ = self.target.parent().map(fs::remove_dir);
        Ok(())
    }
}

/// 4 MiB that depend on the seed.
fn pattern(seed: u8) -> Vec<u8> {
    (0..4u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

/// A volume is used, taken away, used again: the data is there, each call can be repeated.
pub async fn round_trip(cluster: &mut Cluster, kind: Kind) -> Result<()> {
    let mut j = Journey::begin(cluster, kind, &format!("trip-{kind}")).await?;
    for round in 0..2u8 {
        for _ in 0..2 {
            j.stage().await?;
        }
        for _ in 0..2 {
            j.publish().await?;
        }
        if round > 0 {
            j.check(round - 1)?;
        }
        j.write(round)?;
        j.check(round)?;
        let stats = j.stats().await?;
        if stats.volume_condition.ok_or("no condition")?.abnormal || stats.usage.iter().all(|u| u.total < 300 << 20) {
            return Err(format!("strange: {:?}", stats.usage).into());
        }
        // The plugin may come and go without an interruption.
        j.cluster.start_node(None).await?;
        j.check(round)?;
        j.write(round)?;
        for _ in 0..2 {
            j.unpublish().await?;
        }
        for _ in 0..2 {
            j.unstage().await?;
        }
        j.cluster.nothing_left()?;
    }
    if kind != "block" {
        j.stage().await?;
        j.readonly = true;
        j.publish().await?;
        j.check(1)?;
        if j.write(9).is_ok() {
            return Err("a read-only volume was written".into());
        }
        j.readonly = false;
        match j.publish().await {
            Err(e) if e.downcast_ref::<tonic::Status>().is_some_and(|s| s.code() == Code::AlreadyExists) => {}
            other => return Err(format!("published read-only and then for writing: {other:?}").into()),
        }
    }
    j.end().await
}

/// A volume in use grows: its data stays, the file system or device has the new size, and what is new can be written.
pub async fn grown(cluster: &mut Cluster, kind: Kind) -> Result<()> {
    const LARGE: u64 = 800 << 20;
    let j = Journey::begin(cluster, kind, &format!("grow-{kind}")).await?;
    j.stage().await?;
    j.publish().await?;
    j.write(3)?;
    j.expand(LARGE as i64).await?;
    j.check(3)?;
    let stats = j.stats().await?;
    // A file system keeps some of it for itself.
    if stats.usage.iter().all(|u| u.total < 700 << 20) {
        return Err(format!("it has not grown: {:?}", stats.usage).into());
    }
    if kind == "block" {
        let mut device = fs::File::options().read(true).write(true).open(j.data())?;
        device.seek(SeekFrom::Start(LARGE - (4 << 20)))?;
        let mut bytes = vec![1; 4 << 20];
        device.read_exact(&mut bytes)?;
        if bytes.iter().any(|b| *b != 0) {
            return Err("the new space is not zeroes".into());
        }
        device.seek(SeekFrom::Start(LARGE - (4 << 20)))?;
        device.write_all(&pattern(4))?;
        device.sync_all()?;
    } else {
        // More than there was room for.
        let mut file = fs::File::create(j.target.join("large"))?;
        for seed in 0..120 {
            file.write_all(&pattern(seed))?;
        }
        file.sync_all()?;
    }
    // It is as large when it is used again.
    j.unpublish().await?;
    j.unstage().await?;
    j.stage().await?;
    j.publish().await?;
    j.check(3)?;
    if j.stats().await?.usage.iter().all(|u| u.total < 700 << 20) {
        return Err("it has its old size again".into());
    }
    j.end().await
}

/// The node plugin dies before a step; the same call again completes, and in the end nothing is left.
pub async fn killed(cluster: &mut Cluster, step: &str) -> Result<()> {
    let (kind, step) = step.split_once(':').map_or(("ext4", step), |(_, step)| ("block", step));
    let mut j = Journey::begin(cluster, kind, &format!("kill-{kind}-{step}")).await?;
    j.readonly = step == "publish-read-only";
    // Some steps are only met by a volume that has been used before.
    if step == "stage-check" {
        j.stage().await?;
        j.unstage().await?;
    }
    let died = async |j: &mut Journey<'_>, answered: bool| -> Result<()> {
        if answered {
            return Err("the plugin was to die, but answered".into());
        }
        j.cluster.start_node(None).await
    };
    let in_call = |call: &str| step.starts_with(call);
    j.cluster.start_node(Some(step)).await?;
    if in_call("stage-") {
        let answered = j.stage().await.is_ok();
        died(&mut j, answered).await?;
    }
    j.stage().await?;
    if in_call("publish-") {
        let answered = j.publish().await.is_ok();
        died(&mut j, answered).await?;
    }
    j.publish().await?;
    if !j.readonly {
        j.write(7)?;
        j.check(7)?;
    }
    if in_call("unpublish-") {
        let answered = j.unpublish().await.is_ok();
        died(&mut j, answered).await?;
    }
    j.unpublish().await?;
    if in_call("unstage-") {
        let answered = j.unstage().await.is_ok();
        died(&mut j, answered).await?;
    }
    j.unstage().await?;
    j.cluster.nothing_left()?;
    // And it can be used again.
    j.stage().await?;
    j.publish().await?;
    if !j.readonly {
        j.check(7)?;
    }
    j.end().await
}
