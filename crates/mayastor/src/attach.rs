//! `mayastor attach`: a volume as a block device of this host, without a kernel that speaks NVMe/TCP.
//!
//! ```text
//!   /dev/loopN ── kernel ── DIR/mnt/disk (FUSE) ── this process ── NVMe/TCP ── the volume's target
//! ```
//!
//! A process of its own for each volume, so that a restart of whoever asked for it does not interrupt I/O. DIR/lock is
//! locked for as long as it lives; DIR/device names the device once it is there. What a process left that was killed is
//! cleaned up by the next one for the same DIR, or with `--clean`.

mod fuse;
mod path;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Done, Failure};
use crate::output;
use crate::serve::Signals;
use path::Volume;

/// The examples of its help.
pub const EXAMPLES: &str = "Examples:
  mayastor attach nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:nexus-5b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11 --dir /run/data
  mayastor attach --dir /run/data --clean";

/// The file in the mounted folder.
const DISK: &str = "disk";
/// How often a device that is still in use is looked at.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// How often a busy file is tried before it is given up.
const ATTEMPTS: u32 = 50;

/// How a volume is attached.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The volume's address, as `mayastor volume publish` says it
    #[arg(value_name = "URI", required_unless_present = "clean")]
    uri: Option<String>,
    /// Where its state is kept: one folder for each volume
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// The volume's uuid: when its target moves, the control plane (--control) is asked where to
    #[arg(long, value_name = "UUID")]
    volume: Option<String>,
    /// How many seconds I/O waits for a target that is lost; -1 for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 600, allow_negative_numbers = true)]
    patience: i64,
    /// Only clean up what a process left that was killed
    #[arg(long, conflicts_with = "uri")]
    clean: bool,
    /// What is logged to stderr: error, warn, info, debug, trace, or a filter
    #[arg(short = 'L', long, value_name = "FILTER", env = "RUST_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
}

/// The files in DIR.
struct Place(PathBuf);

impl Place {
    fn mount(&self) -> PathBuf {
        self.0.join("mnt")
    }
    fn disk(&self) -> PathBuf {
        self.mount().join(DISK)
    }
    fn device(&self) -> PathBuf {
        self.0.join("device")
    }
}

fn cannot(what: &str, path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

/// Runs it until SIGTERM or SIGINT; SIGHUP makes it look at the volume's size again.
pub async fn run(arguments: Arguments, control: Option<String>, own: crate::access::Credentials) -> Done {
    let dial = own.dial()?;
    std::fs::create_dir_all(&arguments.dir).map_err(|e| cannot("make", &arguments.dir, e))?;
    let place = Place(arguments.dir.canonicalize().map_err(|e| cannot("find", &arguments.dir, e))?);
    let _lock = lock(&place)?;
    clean(&place).await?;
    if arguments.clean {
        return Ok(());
    }
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::failed)?;
    let uri = arguments.uri.clone().expect("clap demands it without --clean");
    let patience = u64::try_from(arguments.patience).ok().map(Duration::from_secs);
    let volume = tokio::select! {
        volume = Volume::connect(uri, patience) => Arc::new(volume?),
        signal = signals.next() => return Err(Failure::failed(format!("{signal}: stopped while connecting"))),
    };
    let attached = attach(&place, &volume, arguments.read_only)?;
    output::print(&format!("{}\n", attached.device.display()))?;
    let moves = path::follow(volume.clone(), arguments.volume.clone(), control, dial);
    tokio::pin!(moves);
    loop {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!("{signal}: detaching");
                break;
            }
            _ = hangup.recv() => match volume.reconnect(None).await {
                Ok(()) => ring::loops::resize(&attached.device).map_err(|e| cannot("resize", &attached.device, e))?,
                Err(failure) => tracing::warn!("the size could not be read again: {failure}"),
            },
            () = &mut moves => {}
        }
    }
    attached.end(&place).await?;
    volume.close().await;
    Ok(())
}

/// Takes DIR for this process.
fn lock(place: &Place) -> Result<File, Failure> {
    let path = place.0.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| cannot("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {
            // Whoever finds the lock taken finds our id in it.
            let id = format!("{:<20}\n", std::process::id());
            file.write_all_at(id.as_bytes(), 0).map_err(|e| cannot("write", &path, e))?;
            Ok(file)
        }
        Err(e) => Err(cannot("lock", &path, format!("{e}; the volume is attached by another process"))),
    }
}

/// Removes what a process left that was killed: its loop device, its mount, its note.
async fn clean(place: &Place) -> Done {
    remove(&place.device())?;
    for device in ring::loops::of_file(&place.disk()) {
        tracing::warn!("{} was left behind and is detached", device.display());
        ring::loops::detach(&device).map_err(|e| cannot("detach", &device, e))?;
    }
    let mount = place.mount();
    loop {
        // A mount whose process is gone is detached at once; its users get errors already.
        match unmount(&mount, UnmountFlags::DETACH) {
            Ok(()) => tracing::warn!("{} was left behind and is unmounted", mount.display()),
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(cannot("unmount", &mount, e)),
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Done {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", path, e)),
        _ => Ok(()),
    }
}

/// A volume that is a block device now.
struct Attached {
    device: PathBuf,
    session: fuser::BackgroundSession,
}

/// Mounts the file and makes a loop device of it.
fn attach(place: &Place, volume: &Arc<Volume>, read_only: bool) -> Result<Attached, Failure> {
    let mount = place.mount();
    std::fs::create_dir_all(&mount).map_err(|e| cannot("make", &mount, e))?;
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        fuser::MountOption::FSName("mayastor".into()),
        fuser::MountOption::NoDev,
        fuser::MountOption::NoSuid,
        fuser::MountOption::NoExec,
    ];
    let disk = fuse::Disk::new(volume.clone(), DISK, read_only);
    let session = fuser::spawn_mount(disk, &mount, &config).map_err(|e| cannot("mount", &mount, e))?;
    let path = place.disk();
    let file = File::options().read(true).write(!read_only).open(&path).map_err(|e| cannot("open", &path, e))?;
    let device = ring::loops::attach(&file, volume.block_size(), read_only)
        .map_err(|e| cannot("make a loop device of", &path, e))?;
    drop(file);
    // Under its name only once it is whole.
    let (note, new) = (place.device(), place.0.join("device.new"));
    std::fs::write(&new, device.display().to_string())
        .and_then(|()| std::fs::rename(&new, &note))
        .map_err(|e| cannot("write", &note, e))?;
    tracing::info!("{} is {}", volume.uri(), device.display());
    Ok(Attached { device, session })
}

impl Attached {
    /// Detaches in order; waits for whoever still uses the device.
    async fn end(self, place: &Place) -> Done {
        remove(&place.device())?;
        // What is in the page cache of the device goes to the volume first.
        if let Ok(device) = File::options().read(true).open(&self.device) {
            let _ = rustix::fs::fsync(device.as_fd());
        }
        ring::loops::detach(&self.device).map_err(|e| cannot("detach", &self.device, e))?;
        let mount = place.mount();
        for attempt in 0.. {
            match unmount(&mount, UnmountFlags::empty()) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => break,
                Err(Errno::BUSY) => {
                    if attempt % ATTEMPTS == ATTEMPTS - 1 {
                        tracing::warn!("{} is still in use", self.device.display());
                    }
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(e) => return Err(cannot("unmount", &mount, e)),
            }
        }
        // Its thread ends with the mount; joining it would only wait for what is over.
        drop(self.session);
        Ok(())
    }
}
