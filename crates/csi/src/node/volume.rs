//! The calls about one volume.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::csi;
use csi::volume_capability::access_mode::Mode;
use csi::volume_usage::Unit;
use tonic::{Code, Status};
use uuid::Uuid;

use super::mounts::{self, blocking};
use super::record::{self, Record};
use super::{Inner, attach, known, path, tools};
use crate::capability::{Access, Capability, Mount};
use crate::controller::{READ_ONLY, URI};
use crate::names;
use crate::parameters::Parameters;

/// How long a device may take to show its new size.
const GROWN: Duration = Duration::from_secs(10);
/// The file system when nobody names one.
const DEFAULT_FS: &str = "ext4";

fn not_staged(volume: Uuid) -> Status {
    Status::failed_precondition(format!("volume {volume} is not staged on this node"))
}

fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Status {
    let text = format!("cannot {what} {}", path.display());
    move |e| Status::internal(format!("{text}: {e}"))
}

/// The size of a block device in bytes.
fn device_size(device: &Path) -> io::Result<u64> {
    let name = device.file_name().ok_or(io::ErrorKind::NotFound)?;
    let text = std::fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"))?;
    text.trim().parse::<u64>().map(|sectors| sectors * 512).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Whether the node at `target` is the block device itself.
fn shows_device(target: &Path, device: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_device = std::fs::metadata(target).is_ok_and(|m| m.file_type().is_block_device());
    let number = |p: &Path| mounts::device_number(p).ok();
    is_device && number(target).is_some() && number(target) == number(device)
}

impl Inner {
    // ---- stage -------------------------------------------------------------------------------------------------------

    pub(super) async fn stage(&self, request: csi::NodeStageVolumeRequest) -> Result<(), Status> {
        names::volume_id(&request.volume_id)?;
        let staging = path("staging target path", &request.staging_target_path)?;
        let capability = Capability::read(request.volume_capability.as_ref())?;
        let volume = known(&request.volume_id)?;
        let missing = || Status::invalid_argument(format!("the publish context has no {URI:?}"));
        let uri = request.publish_context.get(URI).filter(|uri| !uri.is_empty()).ok_or_else(missing)?;
        attach::address(uri)?;
        let parameters = Parameters::read(&request.volume_context)?;
        let read_only =
            capability.is_read_only() || request.publish_context.get(READ_ONLY).is_some_and(|v| v == "true");
        let _turn = self.turn(volume)?;
        let fs = match &capability.access {
            Access::Block => None,
            Access::Mount(mount) => {
                let named = mount.fs.clone().or_else(|| parameters.fs.clone());
                Some(named.unwrap_or_else(|| DEFAULT_FS.to_owned()))
            }
        };
        let record = match self.load(volume)? {
            Some(known) => {
                let same = known.staging == staging && known.read_only == read_only && known.fs == fs;
                if !same {
                    let text = format!("volume {volume} is staged at {} in another way", known.staging.display());
                    return Err(Status::already_exists(text));
                }
                Record { uri: uri.clone(), ..known }
            }
            None => Record {
                uri: uri.clone(),
                staging: staging.to_owned(),
                read_only,
                fs,
                transport: self.attacher.choose().to_owned(),
                targets: Default::default(),
            },
        };
        (self.options.before)("stage-record");
        self.save(volume, &record)?;
        (self.options.before)("stage-attach");
        let device = self.attacher.attach(volume, &record, &parameters.connection).await?;
        if let Access::Mount(mount) = &capability.access {
            self.stage_mount(&record, &device, mount).await?;
        }
        (self.options.before)("stage-answer");
        Ok(())
    }

    async fn stage_mount(&self, record: &Record, device: &Path, mount: &Mount) -> Result<(), Status> {
        let staging = &record.staging;
        if let Some(there) = mounts::at(staging).map_err(io("see what is mounted at", staging))? {
            if mounts::is_of(&there, device) {
                return Ok(());
            }
            // The record says that this is our place: what is mounted is a device that is gone.
            tracing::warn!("{} shows a device that is gone; it is unmounted", staging.display());
            mounts::unmount_all(staging, true).await?;
        }
        std::fs::create_dir_all(staging).map_err(io("make", staging))?;
        let wanted = record.fs.as_deref().unwrap_or(DEFAULT_FS);
        (self.options.before)("stage-probe");
        let fs = match tools::probe(device).await? {
            None if record.read_only => {
                let text = "the volume is empty: it must be written before it can be used read-only";
                return Err(Status::failed_precondition(text));
            }
            None => {
                (self.options.before)("stage-make");
                tools::make(device, wanted).await?;
                wanted.to_owned()
            }
            Some(found) if found == wanted || (mount.fs.is_none() && super::is_file_system(&found)) => found,
            Some(found) => {
                let text = format!("the volume holds {found}, not {wanted}; it is not formatted over");
                return Err(Status::failed_precondition(text));
            }
        };
        let mut words = mount.flags.clone();
        if record.read_only {
            words.push("ro".into());
            // The journal must not be played back onto a device that refuses writes.
            words.extend(match fs.as_str() {
                "ext4" => Some("noload".to_owned()),
                "xfs" => Some("norecovery".to_owned()),
                _ => None,
            });
        } else {
            (self.options.before)("stage-check");
            tools::check(device, &fs).await?;
        }
        (self.options.before)("stage-mount");
        mounts::mount(device, staging, &fs, &words).await
    }

    pub(super) async fn unstage(&self, request: csi::NodeUnstageVolumeRequest) -> Result<(), Status> {
        names::volume_id(&request.volume_id)?;
        let staging = path("staging target path", &request.staging_target_path)?;
        let Ok(volume) = known(&request.volume_id) else { return Ok(()) };
        let _turn = self.turn(volume)?;
        let Some(record) = self.load(volume)? else { return Ok(()) };
        if record.staging != staging {
            // It is not staged there, which is what was asked for.
            return Ok(());
        }
        let published = mounts::all().map_err(io("see what is mounted at", staging))?;
        if let Some(target) = record.targets.keys().find(|t| published.iter().any(|m| m.point == **t)) {
            let text = format!("volume {volume} is still published at {}", target.display());
            return Err(Status::failed_precondition(text));
        }
        (self.options.before)("unstage-unmount");
        // A file system whose device is gone cannot be written back any more; waiting for it would be for ever.
        let lost = self.attacher.device(volume, &record).is_none();
        mounts::unmount_all(staging, lost).await?;
        (self.options.before)("unstage-detach");
        self.attacher.detach(volume, &record).await?;
        (self.options.before)("unstage-forget");
        record::forget(&self.options.state, volume).map_err(io("remove the record in", &self.options.state))
    }

    // ---- publish -----------------------------------------------------------------------------------------------------

    pub(super) async fn publish(&self, request: csi::NodePublishVolumeRequest) -> Result<(), Status> {
        names::volume_id(&request.volume_id)?;
        let target = path("target path", &request.target_path)?;
        let capability = Capability::read(request.volume_capability.as_ref())?;
        let volume = known(&request.volume_id)?;
        if request.staging_target_path.is_empty() {
            return Err(Status::failed_precondition("the staging target path is missing"));
        }
        let staging = path("staging target path", &request.staging_target_path)?;
        let _turn = self.turn(volume)?;
        let mut record = self.load(volume)?.filter(|r| r.staging == staging).ok_or_else(|| not_staged(volume))?;
        let device = self.attacher.device(volume, &record).ok_or_else(|| not_staged(volume))?;
        let is_mount = matches!(capability.access, Access::Mount(_));
        if is_mount != record.fs.is_some() {
            let text = format!("volume {volume} is staged as {}", if is_mount { "block" } else { "mount" });
            return Err(Status::failed_precondition(text));
        }
        let read_only = request.readonly || capability.is_read_only();
        if record.read_only && !read_only {
            return Err(Status::failed_precondition(format!("volume {volume} is staged read-only")));
        }
        if !is_mount && read_only && !record.read_only {
            let text = "a raw block device is read-only as a whole or not at all: ask for it when it is attached";
            return Err(Status::invalid_argument(text));
        }
        if capability.mode == Mode::SingleNodeSingleWriter
            && let Some(other) = record.targets.keys().find(|t| *t != target)
        {
            let text = format!("volume {volume} is published at {} already, for one pod only", other.display());
            return Err(Status::failed_precondition(text));
        }
        match record.targets.insert(target.to_owned(), read_only) {
            Some(before) if before != read_only => {
                let text = format!("volume {volume} is published at {} in another way", target.display());
                return Err(Status::already_exists(text));
            }
            _ => {}
        }
        (self.options.before)("publish-record");
        self.save(volume, &record)?;
        if is_mount {
            self.publish_mount(&record, &device, target, read_only).await?;
        } else {
            self.publish_block(&device, target).await?;
        }
        (self.options.before)("publish-answer");
        Ok(())
    }

    async fn publish_mount(&self, record: &Record, device: &Path, target: &Path, ro: bool) -> Result<(), Status> {
        let staged = mounts::at(&record.staging).map_err(io("see what is mounted at", &record.staging))?;
        if !staged.as_ref().is_some_and(|m| mounts::is_of(m, device)) {
            let text = format!("nothing is mounted at {}: stage the volume again", record.staging.display());
            return Err(Status::failed_precondition(text));
        }
        let mut there = mounts::at(target).map_err(io("see what is mounted at", target))?;
        if there.as_ref().is_some_and(|m| !mounts::is_of(m, device)) {
            tracing::warn!("{} shows a device that is gone; it is unmounted", target.display());
            mounts::unmount_all(target, true).await?;
            there = None;
        }
        if there.is_none() {
            (self.options.before)("publish-folder");
            std::fs::create_dir_all(target).map_err(io("make", target))?;
            (self.options.before)("publish-bind");
            mounts::bind(&record.staging, target).await?;
        }
        if ro && !there.is_some_and(|m| m.read_only) {
            (self.options.before)("publish-read-only");
            mounts::bind_read_only(target).await?;
        }
        Ok(())
    }

    async fn publish_block(&self, device: &Path, target: &Path) -> Result<(), Status> {
        if mounts::at(target).map_err(io("see what is mounted at", target))?.is_some() {
            if shows_device(target, device) {
                return Ok(());
            }
            tracing::warn!("{} shows a device that is gone; it is unmounted", target.display());
            mounts::unmount_all(target, true).await?;
        }
        (self.options.before)("publish-file");
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(io("make", folder))?;
        }
        if target.is_dir() {
            std::fs::remove_dir(target).map_err(io("replace the folder", target))?;
        }
        let file = std::fs::File::options().create(true).append(true).open(target);
        file.map(drop).map_err(io("make", target))?;
        (self.options.before)("publish-bind");
        mounts::bind(device, target).await
    }

    pub(super) async fn unpublish(&self, request: csi::NodeUnpublishVolumeRequest) -> Result<(), Status> {
        names::volume_id(&request.volume_id)?;
        let target = path("target path", &request.target_path)?;
        let Ok(volume) = known(&request.volume_id) else { return Ok(()) };
        let _turn = self.turn(volume)?;
        let record = self.load(volume)?;
        (self.options.before)("unpublish-unmount");
        // A bind mount goes at once for whoever has no file open in it; the file system itself stays staged.
        mounts::unmount_all(target, true).await?;
        (self.options.before)("unpublish-remove");
        let removed = match std::fs::symlink_metadata(target) {
            Ok(m) if m.is_dir() => std::fs::remove_dir(target),
            Ok(_) => std::fs::remove_file(target),
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove", target)(e)),
            _ => {}
        }
        (self.options.before)("unpublish-record");
        if let Some(mut record) = record
            && record.targets.remove(target).is_some()
        {
            self.save(volume, &record)?;
        }
        Ok(())
    }

    // ---- use ---------------------------------------------------------------------------------------------------------

    /// The record of a volume that is staged or published at the path.
    fn at_path(&self, id: &str, at: &str) -> Result<(Uuid, Record, PathBuf), Status> {
        names::volume_id(id)?;
        if at.is_empty() {
            return Err(Status::invalid_argument("the volume path is missing"));
        }
        let (at, volume) = (Path::new(at), known(id)?);
        let here = self.load(volume)?.filter(|r| r.staging == at || r.targets.contains_key(at));
        let none = || Status::not_found(format!("volume {volume} is not at {} on this node", at.display()));
        Ok((volume, here.ok_or_else(none)?, at.to_owned()))
    }

    pub(super) async fn stats(
        &self,
        request: csi::NodeGetVolumeStatsRequest,
    ) -> Result<csi::NodeGetVolumeStatsResponse, Status> {
        let (volume, record, at) = self.at_path(&request.volume_id, &request.volume_path)?;
        let condition = |abnormal: bool, message: String| Some(csi::VolumeCondition { abnormal, message });
        let Some(device) = self.attacher.device(volume, &record) else {
            let message = format!("the device of volume {volume} is gone from this node");
            return Ok(csi::NodeGetVolumeStatsResponse { usage: vec![], volume_condition: condition(true, message) });
        };
        if record.fs.is_none() {
            let total = device_size(&device).map_err(io("read the size of", &device))?.cast_signed();
            let usage = csi::VolumeUsage { total, unit: Unit::Bytes as i32, ..Default::default() };
            let volume_condition = condition(false, "the device is there".into());
            return Ok(csi::NodeGetVolumeStatsResponse { usage: vec![usage], volume_condition });
        }
        let mounted = mounts::at(&at).map_err(io("see what is mounted at", &at))?;
        let Some(mounted) = mounted.filter(|m| mounts::is_of(m, &device)) else {
            return Err(Status::not_found(format!("volume {volume} is not mounted at {}", at.display())));
        };
        let asked = at.clone();
        let stat = blocking(move || rustix::fs::statvfs(&asked)).await?;
        let stat = stat.map_err(|e| Status::internal(format!("cannot ask {}: {e}", at.display())))?;
        let bytes = |blocks: u64| (blocks * stat.f_frsize).cast_signed();
        let usage = vec![
            csi::VolumeUsage {
                available: bytes(stat.f_bavail),
                total: bytes(stat.f_blocks),
                used: bytes(stat.f_blocks - stat.f_bfree),
                unit: Unit::Bytes as i32,
            },
            csi::VolumeUsage {
                available: stat.f_favail.cast_signed(),
                total: stat.f_files.cast_signed(),
                used: (stat.f_files - stat.f_ffree).cast_signed(),
                unit: Unit::Inodes as i32,
            },
        ];
        let broken = mounted.fs_read_only && !record.read_only;
        let message =
            if broken { "the file system refuses writes after an error" } else { "the file system is mounted" };
        Ok(csi::NodeGetVolumeStatsResponse { usage, volume_condition: condition(broken, message.into()) })
    }

    pub(super) async fn expand(&self, request: csi::NodeExpandVolumeRequest) -> Result<i64, Status> {
        let (volume, record, at) = self.at_path(&request.volume_id, &request.volume_path)?;
        let required = request.capacity_range.map_or(0, |r| r.required_bytes);
        let required = u64::try_from(required).map_err(|_| Status::invalid_argument("the size is negative"))?;
        let _turn = self.turn(volume)?;
        let device = self.attacher.device(volume, &record).ok_or_else(|| not_staged(volume))?;
        self.attacher.look_at_size(volume, &record);
        let end = tokio::time::Instant::now() + GROWN;
        let size = loop {
            let size = device_size(&device).map_err(io("read the size of", &device))?;
            if size >= required {
                break size;
            }
            if tokio::time::Instant::now() > end {
                let text = format!("{} has {size} bytes, {required} are expected", device.display());
                return Err(Status::new(Code::Unavailable, text));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        if record.fs.is_some() {
            let mounted = mounts::at(&at).map_err(io("see what is mounted at", &at))?;
            let mounted = mounted.filter(|m| mounts::is_of(m, &device)).ok_or_else(|| not_staged(volume))?;
            tools::grow(&device, &at, &mounted.fs).await?;
        }
        Ok(size.cast_signed())
    }
}
