//! The copies of a volume, compared byte by byte while nobody uses them.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use block::{BlockRange, BlockSize, Buf, Durability};
use host::{Claim, Disk, DiskExt, Host, OpenOptions};
use pool::{Member, Pool};
use serde_json::Value;

use crate::Result;
use crate::cluster::{Cluster, list};

/// Where the volume's data begins on each of its copies.
const DATA_START: u64 = 5 << 20;
/// Bytes compared at a time.
const CHUNK: u64 = 1 << 20;

/// A copy: its name in the pool, and the pool's file.
#[derive(Clone, Debug)]
pub struct Copy {
    uuid: String,
    file: PathBuf,
}

/// The copies in sync that the control plane tells of.
pub fn of(volume: &Value, cluster: &Cluster) -> Vec<Copy> {
    let online = list(&volume["replicas"]).iter().filter(|r| r["state"] == "online");
    let copy = |r: &Value| {
        let node = r["node"].as_str()?.strip_prefix("node-")?.parse().ok()?;
        Some(Copy { uuid: r["uuid"].as_str()?.to_owned(), file: cluster.disk(node) })
    };
    online.filter_map(copy).collect()
}

/// Compares the `bytes` bytes of data of all copies. No engine may run.
pub fn same(copies: Vec<Copy>, bytes: u64) -> Result<()> {
    let options = ring::Options { name: "compare".into(), ..ring::Options::default() };
    ring::try_run(options, move |host| compare(host, copies, bytes))?
}

async fn compare(host: Host, copies: Vec<Copy>, bytes: u64) -> Result<()> {
    let mut open = Vec::new();
    for copy in &copies {
        let pool = import(&host, &copy.file).await?;
        let missing = || format!("{} does not hold the copy {}", copy.file.display(), copy.uuid);
        let replica = pool.replica(&copy.uuid).ok_or_else(missing)?;
        open.push((copy, pool, replica));
    }
    let mut at = 0;
    while at < bytes {
        let len = CHUNK.min(bytes - at);
        let mut first = None;
        for (copy, _, replica) in &open {
            let shift = replica.geometry().block_size.shift();
            let data = replica.read(BlockRange::new((DATA_START + at) >> shift, len >> shift)).await?;
            let first = first.get_or_insert_with(|| data.clone());
            if let Some(byte) = first.iter().zip(data.iter()).position(|(a, b)| a != b) {
                let (one, other) = (&open[0].0, copy);
                return Err(format!("{one:?} and {other:?} differ at byte {} of the volume", at + byte as u64).into());
            }
        }
        at += len;
    }
    for (_, pool, _) in open {
        pool.export().await?;
    }
    Ok(())
}

/// Writes over the first block of one copy, past the volume: what a copy that missed a write looks like. No engine may run.
pub fn spoil(copy: Copy) -> Result<()> {
    let options = ring::Options { name: "spoil".into(), ..ring::Options::default() };
    ring::try_run(options, move |host| async move {
        let pool = import(&host, &copy.file).await?;
        let replica = pool.replica(&copy.uuid).ok_or("the copy is not in its pool")?;
        let block = replica.geometry().block_size;
        let range = BlockRange::new(DATA_START >> block.shift(), 1);
        replica.write(range, Buf::copy_of(&vec![0xd5; block.bytes() as usize]), Durability::Durable).await?;
        Ok(pool.export().await?)
    })?
}

async fn import(host: &Host, file: &Path) -> Result<Rc<Pool>> {
    let options = OpenOptions { block_size: BlockSize::B512, claim: Claim::Exclusive };
    let disk = host.open_disk(file, options).await?;
    let member = Member { uri: file.display().to_string(), disk };
    Ok(pool::import(host, vec![member], None).await?)
}
