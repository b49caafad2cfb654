//! `mayastor replica`.

use api::{v0, v1};
use clap::Subcommand;
use uuid::Uuid;

use super::{ReplicaProtocol, yes};
use crate::connect::Client;
use crate::failure::Done;
use crate::size;

/// Replicas: one copy of a volume each, in a pool
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a replica in a pool
    #[command(after_help = "Examples:
  mayastor replica create p1 --size 10GiB
  mayastor replica create p1 8b3c0a3e-6f5b-4f0e-9c0c-5d8f2a9c1e11 --size 10GiB --thin --share nvmf")]
    Create {
        /// The pool that shall hold it
        #[arg(value_name = "POOL")]
        pool: String,
        /// Its name, by custom a uuid; chosen when left out
        #[arg(value_name = "UUID")]
        uuid: Option<String>,
        /// Its size, such as 10GiB
        #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
        size: u64,
        /// Take space when it is written, not at once
        #[arg(short, long)]
        thin: bool,
        /// How to share it
        #[arg(
            short = 'p',
            long = "share",
            visible_alias = "protocol",
            value_name = "PROTOCOL",
            value_enum,
            default_value = "none"
        )]
        share: ReplicaProtocol,
    },
    /// Destroy a replica and its data
    #[command(after_help = "Examples:
  mayastor replica destroy 8b3c0a3e-6f5b-4f0e-9c0c-5d8f2a9c1e11")]
    Destroy {
        /// The name of the replica
        #[arg(value_name = "UUID")]
        uuid: String,
    },
    /// Share a replica over the network, or take it back
    #[command(after_help = "Examples:
  mayastor replica share 8b3c0a3e-6f5b-4f0e-9c0c-5d8f2a9c1e11 nvmf
  mayastor replica share 8b3c0a3e-6f5b-4f0e-9c0c-5d8f2a9c1e11 none")]
    Share {
        /// The name of the replica
        #[arg(value_name = "UUID")]
        uuid: String,
        /// How
        #[arg(value_name = "PROTOCOL", value_enum, default_value = "nvmf")]
        share: ReplicaProtocol,
    },
    /// List the replicas of the engine
    #[command(after_help = "Examples:
  mayastor replica list
  mayastor replica list -o json --units d")]
    List,
    /// Reads and writes of each replica since the engine was started
    #[command(after_help = "Examples:
  mayastor replica stats")]
    Stats,
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let output = &client.output;
    let engine = client.engine().await?;
    match command {
        Command::Create { pool, uuid, size, thin, share } => {
            let uuid = uuid.unwrap_or_else(|| Uuid::new_v4().to_string());
            let share = v0::ShareProtocolReplica::from(share).into();
            let request = v0::CreateReplicaRequest { uuid, pool, size, thin, share };
            let replica = engine.check(engine.v0().create_replica(request).await)?;
            output.made(&replica, &replica.uuid, format!("Created {}", replica.uri))
        }
        Command::Destroy { uuid } => {
            engine.check(engine.v1().destroy_replica(v1::ReplicaName { uuid: uuid.clone() }).await)?;
            output.done(format!("Destroyed replica {uuid}"))
        }
        Command::Share { uuid, share } => {
            let verb = if share == ReplicaProtocol::None { "Unshared" } else { "Shared" };
            let share = v0::ShareProtocolReplica::from(share).into();
            let reply = engine.check(engine.v0().share_replica(v0::ShareReplicaRequest { uuid, share }).await)?;
            output.made(&reply, &reply.uri, format!("{verb} {}", reply.uri))
        }
        Command::List => {
            let replicas = engine.check(engine.v1().get_node(v1::Empty {}).await)?.replicas;
            let row = |r: &v1::Replica| {
                let (size, allocated) = (output.size(r.size), output.size(r.allocated));
                vec![r.pool.clone(), r.uuid.clone(), r.state.clone(), yes(r.thin), size, allocated, r.uri.clone()]
            };
            let titles = ["POOL", "NAME", "STATE", "THIN", ">SIZE", ">ALLOCATED", "URI"];
            output.list(&replicas, &titles, row, "No replicas found")
        }
        Command::Stats => {
            let replicas = engine.check(engine.v0().stat_replicas(v0::Null {}).await)?.replicas;
            let row = |r: &v0::ReplicaStats| {
                let stats = r.stats.unwrap_or_default();
                let (reads, writes) = (stats.num_read_ops.to_string(), stats.num_write_ops.to_string());
                let (read, written) = (output.size(stats.bytes_read), output.size(stats.bytes_written));
                vec![r.pool.clone(), r.uuid.clone(), reads, writes, read, written]
            };
            let titles = ["POOL", "NAME", ">READS", ">WRITES", ">READ", ">WRITTEN"];
            output.list(&replicas, &titles, row, "No replicas found")
        }
    }
}
