//! `mayastor bdev`.

use api::v0;
use clap::Subcommand;

use super::{Protocol, yes};
use crate::connect::Client;
use crate::failure::Done;

/// Block devices that an engine has open
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the block devices: opened ones, replicas and nexuses
    #[command(after_help = "Examples:
  mayastor bdev list")]
    List,
    /// Open the device of a URI
    #[command(after_help = "Examples:
  mayastor bdev create 'malloc:///m0?size_mb=64&blk_size=4096'
  mayastor bdev create aio:///dev/sdb
  mayastor bdev create nvmf://10.0.0.2:8420/nqn.2019-05.io.openebs:r2")]
    Create {
        /// The URI
        #[arg(value_name = "URI")]
        uri: String,
    },
    /// Close a device, by its name or URI; it is unshared first
    #[command(after_help = "Examples:
  mayastor bdev destroy m0")]
    Destroy {
        /// The name of the device, or its URI
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Offer a device to other machines
    #[command(after_help = "Examples:
  mayastor bdev share m0 nvmf")]
    Share {
        /// The name of the device
        #[arg(value_name = "NAME")]
        name: String,
        /// How
        #[arg(value_name = "PROTOCOL", value_enum, default_value = "nvmf")]
        protocol: Protocol,
    },
    /// Take a device back from other machines
    #[command(after_help = "Examples:
  mayastor bdev unshare m0")]
    Unshare {
        /// The name of the device
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let output = &client.output;
    let engine = client.engine().await?;
    match command {
        Command::List => {
            let bdevs = engine.check(engine.bdev().list(v0::Null {}).await)?.bdevs;
            let row = |bdev: &v0::Bdev| {
                let size = output.size(bdev.num_blocks.saturating_mul(bdev.blk_size.into()));
                let claimed = if bdev.claimed { bdev.claimed_by.clone() } else { yes(false) };
                vec![bdev.name.clone(), size, bdev.blk_size.to_string(), claimed, bdev.uuid.clone(), bdev.uri.clone()]
            };
            output.list(&bdevs, &["NAME", ">SIZE", ">BLOCK", "CLAIMED", "UUID", "URI"], row, "No devices found")
        }
        Command::Create { uri } => {
            let reply = engine.check(engine.bdev().create(v0::BdevUri { uri }).await)?;
            output.made(&reply, &reply.name, format!("Created device {}", reply.name))
        }
        Command::Destroy { name } => {
            let bdevs = engine.check(engine.bdev().list(v0::Null {}).await)?.bdevs;
            let bdev = find(bdevs, &name).ok_or_else(|| engine.missing(format!("device {name:?}")))?;
            // The call takes a URI; a device without one (a replica, a nexus) is refused by the engine with the reason.
            let uri = if bdev.uri.is_empty() { format!("bdev:///{}", bdev.name) } else { bdev.uri };
            engine.check(engine.bdev().unshare(v0::CreateReply { name: bdev.name.clone() }).await)?;
            engine.check(engine.bdev().destroy(v0::BdevUri { uri }).await)?;
            output.done(format!("Destroyed device {}", bdev.name))
        }
        Command::Share { name, protocol } => {
            let proto =
                clap::ValueEnum::to_possible_value(&protocol).expect("no value is skipped").get_name().to_owned();
            let reply = engine.check(engine.bdev().share(v0::BdevShareRequest { name, proto }).await)?;
            output.made(&reply, &reply.uri, format!("Shared {}", reply.uri))
        }
        Command::Unshare { name } => {
            engine.check(engine.bdev().unshare(v0::CreateReply { name: name.clone() }).await)?;
            output.done(format!("Unshared device {name}"))
        }
    }
}

/// The device of that name or alias.
pub fn find(bdevs: Vec<v0::Bdev>, name: &str) -> Option<v0::Bdev> {
    let is =
        |bdev: &v0::Bdev| bdev.name == name || bdev.uri == name || bdev.aliases.split(',').any(|alias| alias == name);
    bdevs.into_iter().find(is)
}
