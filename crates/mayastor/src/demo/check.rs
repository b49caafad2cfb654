//! Every byte: the image on the volume against its file, and the copies against each other.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use block::{BlockRange, BlockSize, Buf};
use host::{Claim, Disk, DiskExt, Host, OpenOptions};
use pool::{Member, Pool};

use super::on_thread;
use crate::failure::{Done, Failure};
use crate::image;

/// Where the volume's data begins on each of its copies (docs/disk-format.md: the label and MayaMeta are before it).
const DATA_START: u64 = 5 << 20;
/// Bytes compared at a time.
const CHUNK: u64 = 1 << 20;

/// Reads the first `bytes` of the volume into the file `back` and compares them with the file `path`.
pub async fn same_image(uri: &str, path: &Path, back: &Path, bytes: u64) -> Done {
    let (uri, path, back) = (uri.to_owned(), path.to_owned(), back.to_owned());
    on_thread(move || {
        let original = File::open(&path).map_err(Failure::failed)?;
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&back);
        let file = file.map_err(Failure::failed)?;
        let (kept, bytes) = (file.try_clone().map_err(Failure::failed)?, bytes);
        image::on_ring(move |host| async move {
            let disk = image::connect(&host, &uri).await?;
            let bar = image::bar("verify", bytes, true);
            let shown = bar.clone();
            let read = image::read_file(&disk, &file, bytes, Box::new(move |done| shown.set_position(done))).await;
            bar.finish_and_clear();
            disk.close().await;
            read
        })?;
        same_files(&original, &kept, bytes)
    })
    .await
}

fn same_files(one: &File, other: &File, bytes: u64) -> Done {
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < bytes {
        let len = a.len().min(usize::try_from(bytes - at).unwrap_or(a.len()));
        one.read_exact_at(&mut a[..len], at).map_err(Failure::failed)?;
        other.read_exact_at(&mut b[..len], at).map_err(Failure::failed)?;
        if let Some(offset) = a[..len].iter().zip(&b[..len]).position(|(a, b)| a != b) {
            return Err(Failure::failed(format!("the image differs at byte {}", at + offset as u64)));
        }
        at += len as u64;
    }
    Ok(())
}

/// A copy of a volume, at rest.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Its node, for messages.
    pub node: String,
    /// Its name in the pool.
    pub uuid: String,
    /// The pool's file.
    pub file: PathBuf,
}

/// Compares the data of all copies. Their pools must not be in use.
pub fn same_copies(copies: Vec<Copy>, bytes: u64) -> Done {
    image::on_ring(move |host| async move {
        let mut open = Vec::new();
        for copy in copies {
            let pool = import(&host, &copy).await?;
            let replica = pool.replica(&copy.uuid).ok_or_else(|| {
                Failure::failed(format!("the pool of {} does not hold the copy {}", copy.node, copy.uuid))
            })?;
            open.push((copy, pool, replica));
        }
        let mut at = 0;
        while at < bytes {
            let len = CHUNK.min(bytes - at);
            let mut first: Option<Buf> = None;
            for (copy, _, replica) in &open {
                let shift = replica.geometry().block_size.shift();
                let range = BlockRange::new((DATA_START + at) >> shift, len >> shift);
                let fault = |f| Failure::failed(format!("the copy on {} at byte {at}: {f}", copy.node));
                let data = replica.read(range).await.map_err(fault)?;
                match &first {
                    None => first = Some(data),
                    Some(first) if **first == *data => {}
                    Some(_) => {
                        let (one, other) = (&open[0].0.node, &copy.node);
                        let text = format!("the copies on {one} and {other} differ in the MiB at byte {at}");
                        return Err(Failure::failed(text));
                    }
                }
            }
            at += len;
        }
        Ok(())
    })
}

async fn import(host: &Host, copy: &Copy) -> Result<Rc<Pool>, Failure> {
    let cannot = |e: String| Failure::failed(format!("the pool of {} cannot be read: {e}", copy.node));
    let options = OpenOptions { block_size: BlockSize::B512, claim: Claim::Exclusive };
    let disk = host.open_disk(&copy.file, options).await.map_err(|e| cannot(e.to_string()))?;
    let member = Member { uri: copy.file.display().to_string(), disk };
    pool::import(host, vec![member], None).await.map_err(|e| cannot(e.to_string()))
}
