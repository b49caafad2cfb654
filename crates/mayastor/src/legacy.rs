//! The program under the name `mayastor-client`: the commands and the output of v0.3.0's client, for scripts that were
//! written for it.

mod print;

use std::process::ExitCode;

use access::Channel;
use api::v0;
use api::v0::bdev_rpc_client::BdevRpcClient;
use api::v0::mayastor_client::MayastorClient;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::client::ReplicaProtocol;
use crate::connect::{root, with_port};
use crate::size;
use print::Printer;

/// CLI utility for Mayastor
#[derive(Debug, Parser)]
#[command(name = "Mayastor CLI", version = "0.1", arg_required_else_help = true)]
pub struct Cli {
    /// IP address of mayastor instance
    #[arg(short, long, value_name = "HOST", default_value = "127.0.0.1", global = true)]
    address: String,
    /// Port number of mayastor server
    #[arg(short = 'p', long, value_name = "NUMBER", default_value_t = 10124)]
    port: u16,
    /// Do not print any output except for list records
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Verbose output
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet", global = true)]
    verbose: u8,
    /// Output with large units: i for kiB, etc. or d for kB, etc.
    #[arg(short, long, value_name = "BASE", value_parser = ["i", "d"], global = true)]
    units: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Storage pool management
    #[command(subcommand)]
    Pool(Pool),
    /// Replica management
    #[command(subcommand)]
    Replica(Replica),
    /// Nexus device management
    #[command(subcommand)]
    Nexus(Nexus),
    /// Rebuild management
    #[command(subcommand)]
    Rebuild(Rebuild),
    /// Block device management
    #[command(subcommand)]
    Bdev(Bdev),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum IoInterface {
    Auto,
    Aio,
    Uring,
}

#[derive(Debug, Subcommand)]
enum Pool {
    /// Create storage pool
    Create {
        #[arg(short, long, value_name = "NUMBER", default_value_t = 0)]
        block_size: u32,
        #[arg(short, long, value_enum, default_value = "auto")]
        io_if: IoInterface,
        pool: String,
        #[arg(required = true)]
        disk: Vec<String>,
    },
    /// Destroy storage pool
    Destroy { pool: String },
    /// List storage pools
    List,
}

#[derive(Debug, Subcommand)]
enum Replica {
    /// Create replica on pool
    Create {
        pool: String,
        uuid: String,
        #[arg(short, long, value_name = "NUMBER", value_parser = size::parse)]
        size: u64,
        #[arg(short, long)]
        thin: bool,
        #[arg(short, long, value_enum, default_value = "none")]
        protocol: ReplicaProtocol,
    },
    /// Destroy replica
    Destroy { uuid: String },
    /// Share or unshare replica
    Share {
        uuid: String,
        #[arg(value_enum)]
        protocol: ReplicaProtocol,
    },
    /// List replicas
    List,
    /// IO stats of replicas
    Stats,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NexusProtocol {
    Nvmf,
    Iscsi,
}

#[derive(Debug, Subcommand)]
enum Nexus {
    /// Create a new nexus device
    Create {
        uuid: String,
        #[arg(value_parser = size::parse)]
        size: u64,
        /// Children, in one argument or several
        #[arg(required = true)]
        children: Vec<String>,
    },
    /// Destroy the nexus with given name
    Destroy { uuid: String },
    /// Publish the nexus
    Publish {
        #[arg(short, long, value_enum)]
        protocol: Option<NexusProtocol>,
        uuid: String,
        #[arg(default_value = "")]
        key: String,
    },
    /// Unpublish the nexus
    Unpublish { uuid: String },
    /// Add a child
    Add {
        uuid: String,
        uri: String,
        #[arg(default_value_t = false, action = clap::ArgAction::Set)]
        norebuild: bool,
    },
    /// Remove a child
    Remove { uuid: String, uri: String },
    /// List all nexus devices
    List {
        #[arg(short = 'c', long)]
        show_children: bool,
    },
    /// List nexus children
    Children { uuid: String },
}

#[derive(Debug, Args)]
struct Child {
    uuid: String,
    uri: String,
}

#[derive(Debug, Subcommand)]
enum Rebuild {
    /// Start a rebuild
    Start(Child),
    /// Stop a rebuild
    Stop(Child),
    /// Pause a rebuild
    Pause(Child),
    /// Resume a rebuild
    Resume(Child),
    /// Get the state of a rebuild
    State(Child),
    /// Get the progress of a rebuild
    Progress(Child),
}

#[derive(Debug, Subcommand)]
enum Bdev {
    /// List all bdevs
    List,
    /// Create a new bdev
    Create { uri: String },
    /// Destroy a bdev
    Destroy { name: String },
    /// Share a bdev
    Share {
        name: String,
        #[arg(value_enum, default_value = "nvmf")]
        protocol: NexusProtocol,
    },
    /// Unshare a bdev
    Unshare { name: String },
}

/// Whether the program was called by v0.3.0's name.
pub fn is_wanted() -> bool {
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    name.as_deref().and_then(std::path::Path::file_name).is_some_and(|name| name == "mayastor-client")
}

/// Runs a command. An error is v0.3.0's line on stderr and exit code 1.
pub async fn run(cli: Cli) -> ExitCode {
    let printer = Printer::new(cli.quiet, cli.verbose, cli.units.as_deref());
    match command(cli, &printer).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) if status.code() == Code::Cancelled && status.message() == print::NO_READER => ExitCode::SUCCESS,
        Err(status) => {
            eprintln!("Error: {status:?}");
            ExitCode::FAILURE
        }
    }
}

struct Clients {
    mayastor: MayastorClient<Channel>,
    bdev: BdevRpcClient<Channel>,
}

async fn command(cli: Cli, printer: &Printer) -> Result<(), Status> {
    let address = with_port(&cli.address, cli.port).map_err(|e| Status::invalid_argument(e.to_string()))?;
    printer.verbose(&format!("Connecting to http://{address}"))?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|e| Status::invalid_argument(e.to_string()))?.tcp_nodelay(true);
    let unreachable = |e| Status::unavailable(format!("cannot connect to {address}: {}", root(&e)));
    // v0.3.0's client knows no credentials: it takes them from the environment.
    let dial = crate::access::Credentials::from_environment().dial();
    let dial = dial.map_err(|e| Status::invalid_argument(e.to_string()))?;
    let channel = dial.connect(&endpoint).await.map_err(unreachable)?;
    let clients = Clients { mayastor: MayastorClient::new(channel.clone()), bdev: BdevRpcClient::new(channel) };
    match cli.command {
        Command::Pool(command) => pool(command, clients.mayastor, printer).await,
        Command::Replica(command) => replica(command, clients.mayastor, printer).await,
        Command::Nexus(command) => nexus(command, clients.mayastor, printer).await,
        Command::Rebuild(command) => rebuild(command, clients.mayastor, printer).await,
        Command::Bdev(command) => bdev(command, clients.bdev, printer).await,
    }
}

async fn pool(command: Pool, mut client: MayastorClient<Channel>, printer: &Printer) -> Result<(), Status> {
    match command {
        Pool::Create { block_size, io_if, pool, disk } => {
            let io_if = match io_if {
                IoInterface::Auto => v0::PoolIoIf::PoolIoAuto,
                IoInterface::Aio => v0::PoolIoIf::PoolIoAio,
                IoInterface::Uring => v0::PoolIoIf::PoolIoUring,
            };
            let name = pool.clone();
            let request = v0::CreatePoolRequest { name, disks: disk, block_size, io_if: io_if.into() };
            client.create_pool(request).await?;
            printer.say(&format!("Created pool {pool}"))
        }
        Pool::Destroy { pool } => {
            client.destroy_pool(v0::DestroyPoolRequest { name: pool.clone() }).await?;
            printer.say(&format!("Destroyed pool {pool}"))
        }
        Pool::List => printer.pools(&client.list_pools(v0::Null {}).await?.into_inner().pools),
    }
}

async fn replica(command: Replica, mut client: MayastorClient<Channel>, printer: &Printer) -> Result<(), Status> {
    let share = |protocol| v0::ShareProtocolReplica::from(protocol).into();
    match command {
        Replica::Create { pool, uuid, size, thin, protocol } => {
            let request = v0::CreateReplicaRequest { uuid, pool, size, thin, share: share(protocol) };
            let replica = client.create_replica(request).await?.into_inner();
            printer.say(&format!("Created {}", replica.uri))
        }
        Replica::Destroy { uuid } => client.destroy_replica(v0::DestroyReplicaRequest { uuid }).await.map(drop),
        Replica::Share { uuid, protocol } => {
            let request = v0::ShareReplicaRequest { uuid, share: share(protocol) };
            let reply = client.share_replica(request).await?.into_inner();
            printer.say(&format!("Shared {}", reply.uri))
        }
        Replica::List => printer.replicas(&client.list_replicas(v0::Null {}).await?.into_inner().replicas),
        Replica::Stats => printer.stats(&client.stat_replicas(v0::Null {}).await?.into_inner().replicas),
    }
}

async fn nexus(command: Nexus, mut client: MayastorClient<Channel>, printer: &Printer) -> Result<(), Status> {
    match command {
        Nexus::Create { uuid, size, children } => {
            let children = children.iter().flat_map(|some| some.split_whitespace()).map(str::to_owned).collect();
            client.create_nexus(v0::CreateNexusRequest { uuid: uuid.clone(), size, children }).await?;
            printer.say(&format!("Nexus {uuid} created"))
        }
        Nexus::Destroy { uuid } => {
            client.destroy_nexus(v0::DestroyNexusRequest { uuid: uuid.clone() }).await?;
            printer.say(&format!("Nexus {uuid} destroyed"))
        }
        Nexus::Publish { protocol, uuid, key } => {
            let share = match protocol {
                None => v0::ShareProtocolNexus::NexusNbd,
                Some(NexusProtocol::Nvmf) => v0::ShareProtocolNexus::NexusNvmf,
                Some(NexusProtocol::Iscsi) => v0::ShareProtocolNexus::NexusIscsi,
            };
            let request = v0::PublishNexusRequest { uuid, key, share: share.into() };
            let reply = client.publish_nexus(request).await?.into_inner();
            printer.say(&format!("Nexus published at {}", reply.device_uri))
        }
        Nexus::Unpublish { uuid } => {
            client.unpublish_nexus(v0::UnpublishNexusRequest { uuid: uuid.clone() }).await?;
            printer.say(&format!("Nexus {uuid} unpublished"))
        }
        Nexus::Add { uuid, uri, norebuild } => {
            let request = v0::AddChildNexusRequest { uuid: uuid.clone(), uri: uri.clone(), norebuild };
            client.add_child_nexus(request).await?;
            printer.say(&format!("Added {uri} to children of {uuid}"))
        }
        Nexus::Remove { uuid, uri } => {
            client.remove_child_nexus(v0::RemoveChildNexusRequest { uuid: uuid.clone(), uri: uri.clone() }).await?;
            printer.say(&format!("Removed {uri} from children of {uuid}"))
        }
        Nexus::List { show_children } => {
            printer.nexuses(&client.list_nexus(v0::Null {}).await?.into_inner().nexus_list, show_children)
        }
        Nexus::Children { uuid } => {
            let list = client.list_nexus(v0::Null {}).await?.into_inner().nexus_list;
            let nexus = list.into_iter().find(|nexus| nexus.uuid == uuid);
            let nexus = nexus.ok_or_else(|| Status::invalid_argument("Specified nexus not found"))?;
            printer.children(&nexus.children)
        }
    }
}

async fn rebuild(command: Rebuild, mut client: MayastorClient<Channel>, printer: &Printer) -> Result<(), Status> {
    let say = |verb: &str, (uuid, uri): (String, String)| {
        printer.say(&format!("{verb} rebuild of child {uri} on nexus {uuid}"))
    };
    match command {
        Rebuild::Start(Child { uuid, uri }) => {
            let names = (uuid.clone(), uri.clone());
            client.start_rebuild(v0::StartRebuildRequest { uuid, uri }).await?;
            say("Starting", names)
        }
        Rebuild::Stop(Child { uuid, uri }) => {
            let names = (uuid.clone(), uri.clone());
            client.stop_rebuild(v0::StopRebuildRequest { uuid, uri }).await?;
            say("Stopping", names)
        }
        Rebuild::Pause(Child { uuid, uri }) => {
            let names = (uuid.clone(), uri.clone());
            client.pause_rebuild(v0::PauseRebuildRequest { uuid, uri }).await?;
            say("Pausing", names)
        }
        Rebuild::Resume(Child { uuid, uri }) => {
            let names = (uuid.clone(), uri.clone());
            client.resume_rebuild(v0::ResumeRebuildRequest { uuid, uri }).await?;
            say("Resuming", names)
        }
        Rebuild::State(Child { uuid, uri }) => {
            let reply = client.get_rebuild_state(v0::RebuildStateRequest { uuid, uri }).await?.into_inner();
            printer.say(&reply.state)
        }
        Rebuild::Progress(Child { uuid, uri }) => {
            let reply = client.get_rebuild_progress(v0::RebuildProgressRequest { uuid, uri }).await?.into_inner();
            printer.say(&format!("{}% complete", reply.progress))
        }
    }
}

async fn bdev(command: Bdev, mut client: BdevRpcClient<Channel>, printer: &Printer) -> Result<(), Status> {
    match command {
        Bdev::List => printer.json(&client.list(v0::Null {}).await?.into_inner()),
        Bdev::Create { uri } => printer.json(&client.create(v0::BdevUri { uri }).await?.into_inner()),
        Bdev::Destroy { name } => {
            let bdevs = client.list(v0::Null {}).await?.into_inner().bdevs;
            let found = crate::client::bdev::find(bdevs, &name);
            let bdev = found.ok_or_else(|| Status::not_found(format!("bdev {name} not found")))?;
            client.unshare(v0::CreateReply { name: bdev.name }).await?;
            printer.json(&client.destroy(v0::BdevUri { uri: bdev.uri }).await?.into_inner())
        }
        Bdev::Share { name, protocol } => {
            let proto = match protocol {
                NexusProtocol::Nvmf => "nvmf",
                NexusProtocol::Iscsi => "iscsi",
            };
            let request = v0::BdevShareRequest { name, proto: proto.into() };
            printer.json(&client.share(request).await?.into_inner())
        }
        Bdev::Unshare { name } => printer.json(&client.unshare(v0::CreateReply { name }).await?.into_inner()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_sound_and_takes_what_v0_3_0_took() {
        Cli::command().debug_assert();
        for line in [
            "-a 127.0.0.1 -p 10124 -q pool list",
            "pool create -b 4096 -i uring tpool /dev/sda",
            "replica create tpool some-name -s 64MiB -t -p nvmf",
            "replica share some-name none",
            "nexus publish -p nvmf some-uuid 0123456789abcdef",
            "nexus add some-uuid malloc:///m0 true",
            "-v nexus list -c",
            "-u d pool list",
            "bdev share m0 iscsi",
        ] {
            Cli::try_parse_from(std::iter::once("mayastor-client").chain(line.split(' '))).expect(line);
        }
        assert!(Cli::try_parse_from(["mayastor-client", "-q", "-v", "pool", "list"]).is_err());
    }
}
