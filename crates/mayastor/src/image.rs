//! Disk images in and out of a volume, over our own initiator: `mayastor volume import` and `export`, and the demo.
//!
//! The data moves on the calling thread, which runs a ring of its own until the work is done.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use api::v1;
use block::{BlockRange, Buf, BufMut, Durability, Outcome, Request, Ticket};
use engine::remote::{self, RemoteDisk, RemoteOptions, RemoteSpec};
use host::{Disk, DiskExt, Host, Queue};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uuid::Uuid;

use crate::connect::Client;
use crate::failure::{Done, Failure};
use crate::output::{self, Format};

/// Bytes moved by one request.
const CHUNK: usize = 256 << 10;
/// Requests in flight.
const DEPTH: usize = 16;

/// Where a URI `nvmf://host[:port]/nqn` leads.
pub fn remote_spec(uri: &str) -> Result<RemoteSpec, Failure> {
    let wrong = || Failure::failed(format!("{uri:?} is not the address of a volume (nvmf://host:port/nqn)"));
    let rest = uri.strip_prefix("nvmf://").ok_or_else(wrong)?;
    let (address, nqn) = rest.split_once('/').ok_or_else(wrong)?;
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (address, api::NVME_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let nqn = nqn.split('?').next().unwrap_or(nqn).to_owned();
    // A name of its own for each user: the target tells hosts apart by it.
    let host_nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{}", Uuid::new_v4());
    Ok(RemoteSpec { host, port, nqn, host_nqn, uuid: None })
}

/// Connects to a volume. Requests survive a restart of its target; deadlines are long, since a nexus may be waiting for
/// a member to be given up.
pub async fn connect(host: &Host, uri: &str) -> Result<Rc<RemoteDisk>, Failure> {
    let options = RemoteOptions { command_deadline: Duration::from_secs(60), ..RemoteOptions::default() };
    remote::connect(host, remote_spec(uri)?, options).await.map_err(Failure::unreachable)
}

/// Runs work on a ring of this thread.
pub fn on_ring<T: 'static, F: Future<Output = Result<T, Failure>> + 'static>(
    work: impl FnOnce(Host) -> F,
) -> Result<T, Failure> {
    let options = ring::Options { name: "image".into(), ..ring::Options::default() };
    ring::try_run(options, work).map_err(Failure::failed)?
}

/// How far a transfer is: bytes done.
pub type Progress = Box<dyn Fn(u64)>;

/// A bar on a terminal, nothing elsewhere.
pub fn bar(label: &str, bytes: u64, visible: bool) -> ProgressBar {
    let style = "{prefix} [{bar:30}] {percent} % {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("a correct template").progress_chars("=> ");
    let bar = if visible && output::is_terminal() {
        ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr())
    } else {
        ProgressBar::hidden()
    };
    bar.with_style(style).with_prefix(label.to_owned())
}

fn is_zero(bytes: &[u8]) -> bool {
    // Whole words first: this is compared a lot.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|w| u128::from_ne_bytes(*w) == 0) && rest.iter().all(|b| *b == 0)
}

/// What went by: bytes moved, and how many of them were not all zeroes in their chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes in chunks that hold something.
    pub data: u64,
}

/// The requests in flight of one transfer, in no order.
struct Window {
    done: Queue<(u64, Outcome)>,
    flights: usize,
}

impl Window {
    fn new() -> Window {
        Window { done: Queue::default(), flights: 0 }
    }
    fn submit(&mut self, disk: &RemoteDisk, at: u64, request: Request) {
        let done = self.done.clone();
        self.flights += 1;
        disk.submit(request, Ticket::new(move |outcome| done.push((at, outcome))));
    }
    /// Waits until at most `most` are left, handing each outcome on.
    async fn drain(
        &mut self,
        most: usize,
        mut each: impl FnMut(u64, Outcome) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while self.flights > most {
            let (at, outcome) = self.done.next().await;
            self.flights -= 1;
            each(at, outcome)?;
        }
        Ok(())
    }
}

fn range(disk: &RemoteDisk, at: u64, len: usize) -> BlockRange {
    let shift = disk.geometry().block_size.shift();
    BlockRange::new(at >> shift, len as u64 >> shift)
}

fn failed(disk: &RemoteDisk, what: &str, at: u64, fault: block::Fault) -> Failure {
    Failure::failed(format!("{}: {what} at byte {at} failed: {fault}", disk.label()))
}

/// Writes a file to the beginning of a volume and makes it durable. Chunks of zeroes are written as such, which takes no
/// space on a thin volume. The file's last block is filled up with zeroes.
pub async fn write_file(disk: &RemoteDisk, file: &File, bytes: u64, progress: Progress) -> Result<Moved, Failure> {
    let block = u64::from(disk.geometry().block_size.bytes());
    let whole = bytes.next_multiple_of(block);
    if whole > disk.geometry().bytes().0 {
        let size = disk.geometry().bytes();
        return Err(Failure::failed(format!("{} has {size} bytes, the file needs {whole}", disk.label())));
    }
    let (mut window, mut moved, mut finished) = (Window::new(), Moved::default(), 0u64);
    let mut at = 0;
    while at < whole {
        let len = usize::try_from(CHUNK as u64).unwrap_or(CHUNK).min(usize::try_from(whole - at).unwrap_or(CHUNK));
        let mut buf = BufMut::zeroed(len);
        let from_file = len.min(usize::try_from(bytes - at).unwrap_or(len));
        file.read_exact_at(&mut buf[..from_file], at)
            .map_err(|e| Failure::failed(format!("the file cannot be read at byte {at}: {e}")))?;
        let range = range(disk, at, len);
        let request = if is_zero(&buf) {
            Request::WriteZeroes { range, may_unmap: true, durability: Durability::Volatile }
        } else {
            moved.data += len as u64;
            Request::Write { range, data: buf.freeze(), durability: Durability::Volatile }
        };
        window.submit(disk, at, request);
        moved.bytes += len as u64;
        at += len as u64;
        let each = |at: u64, outcome: Outcome| {
            finished += CHUNK as u64;
            progress(finished.min(bytes));
            outcome.map(drop).map_err(|fault| failed(disk, "a write", at, fault))
        };
        window.drain(DEPTH - 1, each).await?;
    }
    window.drain(0, |at, outcome| outcome.map(drop).map_err(|fault| failed(disk, "a write", at, fault))).await?;
    disk.flush().await.map_err(|fault| failed(disk, "a flush", 0, fault))?;
    progress(bytes);
    Ok(moved)
}

/// Reads the first `bytes` of a volume, in chunks, in no order.
pub async fn read_chunks(
    disk: &RemoteDisk,
    bytes: u64,
    progress: Progress,
    mut each: impl FnMut(u64, &Buf) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut window, mut at, mut finished) = (Window::new(), 0, 0u64);
    let mut take = |from: u64, outcome: Outcome| {
        let data = outcome.map_err(|fault| failed(disk, "a read", from, fault))?;
        finished += data.len() as u64;
        each(from, &data.into_buf())?;
        progress(finished.min(bytes));
        Ok(())
    };
    while at < bytes {
        let len = CHUNK.min(usize::try_from(bytes - at).unwrap_or(CHUNK));
        window.submit(disk, at, Request::Read { range: range(disk, at, len) });
        at += len as u64;
        window.drain(DEPTH - 1, &mut take).await?;
    }
    window.drain(0, &mut take).await
}

/// Reads the first `bytes` of a volume into a file; what is zero stays a hole.
pub async fn read_file(disk: &RemoteDisk, file: &File, bytes: u64, progress: Progress) -> Result<Moved, Failure> {
    let cannot = |e: std::io::Error| Failure::failed(format!("the file cannot be written: {e}"));
    file.set_len(0).and_then(|()| file.set_len(bytes)).map_err(cannot)?;
    let mut moved = Moved { bytes, data: 0 };
    read_chunks(disk, bytes, progress, |at, buf| {
        if !is_zero(buf) {
            moved.data += buf.len() as u64;
            file.write_all_at(buf, at).map_err(cannot)?;
        }
        Ok(())
    })
    .await?;
    file.sync_all().map_err(cannot)?;
    Ok(moved)
}

// ---- the commands --------------------------------------------------------------------------------------------------------

/// A volume that is published for as long as an image moves.
struct Lent {
    volume: v1::Volume,
    /// Whether it was published for this.
    ours: bool,
}

async fn borrow(name: &str, client: &Client) -> Result<Lent, Failure> {
    let control = client.control().await?;
    let volume = control.check(control.v1().get_volume(v1::VolumeName { name: name.to_owned() }).await)?;
    if !volume.device_uri.is_empty() {
        return Ok(Lent { volume, ours: false });
    }
    let request = v1::PublishVolumeRequest { name: name.to_owned(), node: String::new() };
    Ok(Lent { volume: control.check(control.v1().publish_volume(request).await)?, ours: true })
}

async fn give_back(lent: &Lent, client: &Client) -> Done {
    if lent.ours {
        let control = client.control().await?;
        let name = v1::VolumeName { name: lent.volume.name.clone() };
        control.check(control.v1().unpublish_volume(name).await)?;
    }
    Ok(())
}

/// Moves data on a thread of its own, with a bar.
async fn transfer(
    client: &Client,
    label: String,
    bytes: u64,
    uri: String,
    file: File,
    write: bool,
) -> Result<Moved, Failure> {
    let visible = !client.output.quiet && client.output.format == Format::Table;
    let work = move || {
        on_ring(move |host| async move {
            let disk = connect(&host, &uri).await?;
            let bar = bar(&label, bytes, visible);
            let shown = bar.clone();
            let progress: Progress = Box::new(move |done| shown.set_position(done));
            let moved = if write {
                write_file(&disk, &file, bytes, progress).await
            } else {
                read_file(&disk, &file, bytes, progress).await
            };
            bar.finish_and_clear();
            disk.close().await;
            moved
        })
    };
    tokio::task::spawn_blocking(work).await.map_err(Failure::failed)?
}

/// Writes the file to the beginning of the volume. The rest of the volume stays as it is.
pub async fn import(path: &Path, name: &str, client: &Client) -> Done {
    let cannot = |e: std::io::Error| Failure::failed(format!("{} cannot be read: {e}", path.display()));
    let file = File::open(path).map_err(cannot)?;
    let bytes = file.metadata().map_err(cannot)?.len();
    let lent = borrow(name, client).await?;
    if bytes > lent.volume.size {
        give_back(&lent, client).await?;
        let (need, have) = (client.output.size(bytes), client.output.size(lent.volume.size));
        return Err(Failure::failed(format!("{} has {need}, volume {name} only {have}", path.display())));
    }
    let moved = transfer(client, format!("import {name}"), bytes, lent.volume.device_uri.clone(), file, true).await;
    give_back(&lent, client).await?;
    let moved = moved?;
    let (all, data) = (client.output.size(bytes), client.output.size(moved.data));
    client.output.done(format!("Imported {} into volume {name}: {all}, of it {data} of data", path.display()))
}

/// Writes the whole volume to the file, which must not exist.
pub async fn export(name: &str, path: &Path, client: &Client) -> Done {
    let cannot = |e: std::io::Error| Failure::failed(format!("{} cannot be made: {e}", path.display()));
    let file = File::options().read(true).write(true).create_new(true).open(path).map_err(cannot)?;
    let moved = async {
        let lent = borrow(name, client).await?;
        let (bytes, uri) = (lent.volume.size, lent.volume.device_uri.clone());
        let moved = transfer(client, format!("export {name}"), bytes, uri, file, false).await;
        give_back(&lent, client).await?;
        moved
    }
    .await;
    let moved = match moved {
        Ok(moved) => moved,
        Err(failure) => {
            // Half an image is worse than none.
            let _ = std::fs::remove_file(path);
            return Err(failure);
        }
    };
    let (all, data) = (client.output.size(moved.bytes), client.output.size(moved.data));
    client.output.done(format!("Exported volume {name} to {}: {all}, of it {data} of data", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_volumes() {
        let spec = remote_spec("nvmf://127.0.0.1:8421/nqn.2019-05.io.openebs:nexus-1?x=y").expect("an address");
        assert_eq!(
            (spec.host.as_str(), spec.port, spec.nqn.as_str()),
            ("127.0.0.1", 8421, "nqn.2019-05.io.openebs:nexus-1")
        );
        let spec = remote_spec("nvmf://[::1]/nqn.x").expect("an address");
        assert_eq!((spec.host.as_str(), spec.port), ("::1", api::NVME_PORT));
        for wrong in ["", "nvmf://host", "iscsi://host/iqn", "nvmf://host:x/nqn"] {
            assert!(remote_spec(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn zeroes_are_seen() {
        assert!(is_zero(&[0; 4096]) && is_zero(&[0; 17]) && is_zero(&[]));
        for at in [0, 15, 16, 4094, 4095] {
            let mut bytes = [0; 4096];
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
        }
    }
}
