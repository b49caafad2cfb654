//! `mayastor pool`.

use api::{Word, v1};
use clap::Subcommand;

use crate::connect::Client;
use crate::failure::Done;
use crate::output::Output;

/// Pools: disks that hold replicas
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a pool of one or more disks
    ///
    /// A disk is a device, a file or a URI (aio:///dev/sdb, malloc:///m0?size_mb=64, nvmf://host/nqn). When the disks hold
    /// the pool of this name already, it is imported. A disk with anything else on it is refused.
    #[command(after_help = "Examples:
  mayastor pool create p1 /dev/sdb
  mayastor pool create p1 /dev/sdb /dev/sdc --force
  mayastor pool create m0 'malloc:///m0?size_mb=64'
  mayastor pool create p1 /dev/sdb --node node-2")]
    Create {
        /// The name of the pool, 1 to 63 bytes
        #[arg(value_name = "POOL")]
        name: String,
        /// Its disks: paths or URIs
        #[arg(value_name = "DISK", required = true)]
        disks: Vec<String>,
        /// Overwrite what a disk holds (file system, partitions); the disks of another pool are refused all the same
        #[arg(short, long)]
        force: bool,
        /// Block size of disks that are given as paths: 512 or 4096
        #[arg(short, long, value_name = "BYTES")]
        block_size: Option<u32>,
        /// Accepted for scripts of v0.3.0; all values mean the same
        #[arg(short, long, value_name = "auto|aio|uring", hide = true)]
        io_if: Option<String>,
        /// Make it on this node, through the control plane
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Bring in a pool that is on its disks; nothing is ever formatted
    #[command(after_help = "Examples:
  mayastor pool import p1 /dev/sdb /dev/sdc")]
    Import {
        /// The name of the pool
        #[arg(value_name = "POOL")]
        name: String,
        /// All of its disks
        #[arg(value_name = "DISK", required = true)]
        disks: Vec<String>,
    },
    /// Close a pool and forget it; the data stays on its disks
    #[command(after_help = "Examples:
  mayastor pool export p1")]
    Export {
        /// The name of the pool
        #[arg(value_name = "POOL")]
        name: String,
    },
    /// Destroy a pool that holds no replica
    #[command(after_help = "Examples:
  mayastor pool destroy p1
  mayastor pool destroy p1 --node node-2")]
    Destroy {
        /// The name of the pool
        #[arg(value_name = "POOL")]
        name: String,
        /// On this node, through the control plane
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// List the pools of the engine, or of all nodes
    #[command(after_help = "Examples:
  mayastor pool list
  mayastor pool list --all -o json")]
    List {
        /// The pools of all nodes, from the control plane
        #[arg(long)]
        all: bool,
    },
    /// Add a disk to a pool that is in use
    #[command(after_help = "Examples:
  mayastor pool add-disk p1 /dev/sdd")]
    AddDisk {
        /// The name of the pool
        #[arg(value_name = "POOL")]
        name: String,
        /// The disk: a path or a URI
        #[arg(value_name = "DISK")]
        disk: String,
        /// Overwrite what the disk holds
        #[arg(short, long)]
        force: bool,
    },
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let output = &client.output;
    match command {
        Command::Create { name, disks, force, block_size, io_if: _, node } => {
            let disks = disks.into_iter().map(|disk| with_block_size(disk, block_size)).collect();
            let request = v1::CreatePoolRequest { name, disks, force, cluster: String::new() };
            create(request, node, client).await
        }
        Command::Import { name, disks } => {
            let engine = client.engine().await?;
            let pool = engine.check(engine.v1().import_pool(v1::ImportPoolRequest { name, disks }).await)?;
            output.made(&pool, &pool.name, format!("Imported pool {}", pool.name))
        }
        Command::Export { name } => {
            let engine = client.engine().await?;
            engine.check(engine.v1().export_pool(v1::PoolName { name: name.clone() }).await)?;
            output.done(format!("Exported pool {name}"))
        }
        Command::Destroy { name, node: None } => {
            let engine = client.engine().await?;
            engine.check(engine.v1().destroy_pool(v1::PoolName { name: name.clone() }).await)?;
            output.done(format!("Destroyed pool {name}"))
        }
        Command::Destroy { name, node: Some(node) } => {
            let control = client.control().await?;
            let request = v1::NodePoolName { node: node.clone(), pool: name.clone() };
            control.check(control.v1().destroy_pool(request).await)?;
            output.done(format!("Destroyed pool {name} on {node}"))
        }
        Command::List { all: false } => {
            let engine = client.engine().await?;
            let pools = engine.check(engine.v1().get_node(v1::Empty {}).await)?.pools;
            output.list(&pools, COLUMNS, |pool| row(pool, output), "No pools found")
        }
        Command::List { all: true } => {
            let control = client.control().await?;
            let pools = control.check(control.v1().list_pools(v1::Empty {}).await)?.pools;
            output.list(&pools, NODE_COLUMNS, |pool| node_row(pool, output), "No pools found")
        }
        Command::AddDisk { name, disk, force } => {
            let engine = client.engine().await?;
            let request = v1::AddPoolDiskRequest { name, disk: disk.clone(), force };
            let pool = engine.check(engine.v1().add_pool_disk(request).await)?;
            output.made(&pool, &pool.name, format!("Added {disk} to pool {}", pool.name))
        }
    }
}

async fn create(request: v1::CreatePoolRequest, node: Option<String>, client: &Client) -> Done {
    let output = &client.output;
    let Some(node) = node else {
        let engine = client.engine().await?;
        let pool = engine.check(engine.v1().create_pool(request).await)?;
        return output.made(&pool, &pool.name, format!("Created pool {}", pool.name));
    };
    let control = client.control().await?;
    let request = v1::NodePoolRequest { node, pool: Some(request) };
    let made = control.check(control.v1().create_pool(request).await)?;
    let name = made.pool.as_ref().map(|pool| pool.name.clone()).unwrap_or_default();
    output.made(&made, &name, format!("Created pool {name} on {}", made.node))
}

/// The disk with the block size that was asked for, unless it is a URI, which says its own.
fn with_block_size(disk: String, block_size: Option<u32>) -> String {
    match block_size {
        Some(bytes) if disk.starts_with('/') => format!("aio://{disk}?blk_size={bytes}"),
        _ => disk,
    }
}

const COLUMNS: &[&str] = &["NAME", "STATE", ">CAPACITY", ">USED", ">COMMITTED", "DISKS", "REASON"];

fn row(pool: &v1::Pool, output: &Output) -> Vec<String> {
    vec![
        pool.name.clone(),
        pool.state().word(),
        output.size(pool.capacity),
        output.size(pool.used),
        output.size(pool.committed),
        pool.disks.join(","),
        pool.reason.clone(),
    ]
}

/// The titles of a table of pools of several nodes.
pub const NODE_COLUMNS: &[&str] = &["NODE", "NAME", "STATE", ">CAPACITY", ">USED", ">COMMITTED", "DISKS", "REASON"];

/// A row of that table.
pub fn node_row(pool: &v1::NodePool, output: &Output) -> Vec<String> {
    let mut cells = vec![pool.node.clone()];
    cells.extend(row(&pool.pool.clone().unwrap_or_default(), output));
    cells
}

#[cfg(test)]
mod tests {
    use super::with_block_size;

    #[test]
    fn a_block_size_is_for_paths_only() {
        assert_eq!(with_block_size("/dev/sda".into(), Some(4096)), "aio:///dev/sda?blk_size=4096");
        assert_eq!(with_block_size("malloc:///m".into(), Some(4096)), "malloc:///m");
        assert_eq!(with_block_size("/dev/sda".into(), None), "/dev/sda");
    }
}
