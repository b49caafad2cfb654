//! `mayastor volume`.

use std::path::PathBuf;

use api::v1;
use clap::Subcommand;
use tokio_stream::StreamExt;

use super::progress::{self, Progress};
use super::yes;
use crate::connect::{Client, Control};
use crate::failure::{Done, Failure};
use crate::image;
use crate::output::{self, Format, Output};
use crate::size;

/// Volumes: placed, replicated and repaired by the control plane
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a volume; its replicas are placed on different nodes
    #[command(after_help = "Examples:
  mayastor volume create data --size 10GiB
  mayastor volume create data --size 10GiB --replicas 2 --thin --wait
  mayastor volume create data --size 1GiB -r 2 --require node-1 --require node-2 --prefer node-1
  mayastor volume create data --size 1GiB --spread zone --require-label disk=fast")]
    Create {
        /// Its name: 1 to 63 characters of a-z, 0-9, "-" and "."
        #[arg(value_name = "NAME")]
        name: String,
        /// Its size, such as 10GiB
        #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
        size: u64,
        /// How many copies, each on another node
        #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
        replicas: u32,
        /// Take space when it is written, not at once
        #[arg(short, long)]
        thin: bool,
        /// Use only these nodes
        #[arg(long = "require", value_name = "NODE")]
        required_nodes: Vec<String>,
        /// Use these nodes when they have room
        #[arg(long = "prefer", value_name = "NODE")]
        preferred_nodes: Vec<String>,
        /// Use only nodes with this label
        #[arg(long = "require-label", value_name = "KEY=VALUE", value_parser = super::node::label)]
        required_labels: Vec<(String, String)>,
        /// Use nodes with this label when they have room
        #[arg(long = "prefer-label", value_name = "KEY=VALUE", value_parser = super::node::label)]
        preferred_labels: Vec<(String, String)>,
        /// Copies lie on nodes with different values of this label; KEY:soft when that is only preferred
        #[arg(long, value_name = "KEY[:soft]")]
        spread: Vec<String>,
        /// Copies lie on nodes with the same value of this label; KEY:soft when that is only preferred
        #[arg(long, value_name = "KEY[:soft]")]
        together: Vec<String>,
        /// Its uuid; chosen when left out
        #[arg(long, value_name = "UUID", default_value = "", hide_default_value = true)]
        uuid: String,
        /// Return when all its replicas are there
        #[arg(short, long)]
        wait: bool,
    },
    /// Destroy a volume and its data; a volume that is not there is not an error
    #[command(after_help = "Examples:
  mayastor volume destroy data")]
    Destroy {
        /// Its name or uuid
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List the volumes
    #[command(after_help = "Examples:
  mayastor volume list
  mayastor volume list -o json")]
    List,
    /// Show a volume and its replicas
    #[command(after_help = "Examples:
  mayastor volume show data
  mayastor volume show data --wait")]
    Show {
        /// Its name or uuid
        #[arg(value_name = "NAME")]
        name: String,
        /// Follow its repair until all its replicas are in sync
        #[arg(short, long)]
        wait: bool,
    },
    /// Offer a volume to hosts
    #[command(after_help = "Examples:
  mayastor volume publish data
  mayastor volume publish data --node node-1")]
    Publish {
        /// Its name or uuid
        #[arg(value_name = "NAME")]
        name: String,
        /// The node that shall serve it; chosen when left out
        #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
        node: String,
    },
    /// Take a volume back from hosts
    #[command(after_help = "Examples:
  mayastor volume unpublish data")]
    Unpublish {
        /// Its name or uuid
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Change the number of copies of a volume, also while it is in use
    #[command(after_help = "Examples:
  mayastor volume scale data 3
  mayastor volume scale data 3 --wait")]
    Scale {
        /// Its name or uuid
        #[arg(value_name = "NAME")]
        name: String,
        /// How many copies, each on another node
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
        replicas: u32,
        /// Return when all its replicas are in sync
        #[arg(short, long)]
        wait: bool,
    },
    /// Make a volume larger, also while it is in use; it never shrinks
    #[command(
        after_help = "Hosts see the new size at once; a file system on the volume is grown there (resize2fs, xfs_growfs).

Examples:
  mayastor volume resize data --size 20GiB"
    )]
    Resize {
        /// Its name or uuid
        #[arg(value_name = "NAME")]
        name: String,
        /// Its new size, such as 20GiB
        #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
        size: u64,
    },
    /// Write a disk image to the beginning of a volume
    #[command(after_help = "Examples:
  mayastor volume import disk.img data")]
    Import {
        /// The image, a file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The volume's name or uuid
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Write the contents of a volume to a new file
    #[command(after_help = "Examples:
  mayastor volume export data disk.img")]
    Export {
        /// The volume's name or uuid
        #[arg(value_name = "NAME")]
        name: String,
        /// The file; it must not exist
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let output = &client.output;
    let name_of = |name: &str| v1::VolumeName { name: name.to_owned() };
    if let Command::Show { name, wait: true } = &command {
        return wait_for(name, client).await;
    }
    match &command {
        Command::Import { file, name } => return image::import(file, name, client).await,
        Command::Export { name, file } => return image::export(name, file, client).await,
        _ => {}
    }
    let control = client.control().await?;
    match command {
        Command::Import { .. } | Command::Export { .. } => unreachable!("done above"),
        Command::Create {
            name,
            size,
            replicas,
            thin,
            required_nodes,
            preferred_nodes,
            required_labels,
            preferred_labels,
            spread,
            together,
            uuid,
            wait,
        } => {
            let request = v1::CreateVolumeRequest {
                name,
                size,
                replicas,
                thin,
                required_nodes,
                preferred_nodes,
                uuid,
                required_labels: required_labels.into_iter().collect(),
                preferred_labels: preferred_labels.into_iter().collect(),
                spread,
                together,
            };
            let volume = control.check(control.v1().create_volume(request).await)?;
            finish(volume, "Created", wait, client).await
        }
        Command::Destroy { name } => {
            control.check(control.v1().destroy_volume(name_of(&name)).await)?;
            output.done(format!("Destroyed volume {name}"))
        }
        Command::List => {
            let volumes = control.check(control.v1().list_volumes(v1::Empty {}).await)?.volumes;
            output.list(&volumes, COLUMNS, |volume| row(volume, output), "No volumes found")
        }
        Command::Show { name, .. } => show(&get(&control, &name).await?, output),
        Command::Publish { name, node } => {
            let volume = control.check(control.v1().publish_volume(v1::PublishVolumeRequest { name, node }).await)?;
            output.made(
                &volume,
                &volume.device_uri,
                format!("Volume {} published at {}", volume.name, volume.device_uri),
            )
        }
        Command::Unpublish { name } => {
            let volume = control.check(control.v1().unpublish_volume(name_of(&name)).await)?;
            output.made(&volume, &volume.name, format!("Volume {} unpublished", volume.name))
        }
        Command::Scale { name, replicas, wait } => {
            let request = v1::SetReplicaCountRequest { name, replicas };
            let volume = control.check(control.v1().set_replica_count(request).await)?;
            let verb = format!("Set {replicas} {} for", if replicas == 1 { "replica" } else { "replicas" });
            finish(volume, &verb, wait, client).await
        }
        Command::Resize { name, size } => {
            let mut progress = progress::Waiting::start(*output, &format!("Growing volume {name}"));
            let grown = control.v1().resize_volume(v1::ResizeVolumeRequest { name, size }).await;
            progress.end();
            let volume = control.check(grown)?;
            let text = format!("Volume {} has {} now", volume.name, output.size(volume.usable));
            output.made(&volume, &volume.name, text)
        }
    }
}

async fn get(control: &Control, name: &str) -> Result<v1::Volume, Failure> {
    control.check(control.v1().get_volume(v1::VolumeName { name: name.to_owned() }).await)
}

async fn finish(volume: v1::Volume, verb: &str, wait: bool, client: &Client) -> Done {
    if wait {
        return wait_for(&volume.name, client).await;
    }
    client.output.made(&volume, &volume.name, format!("{verb} volume {}", volume.name))
}

/// The titles of a table of volumes.
pub const COLUMNS: &[&str] = &["VOLUME", ">SIZE", "STATE", ">REPLICAS", "THIN", "NODE", "DEVICE", "REASON"];

/// A row of that table.
pub fn row(volume: &v1::Volume, output: &Output) -> Vec<String> {
    vec![
        volume.name.clone(),
        output.size(volume.size),
        volume.state.clone(),
        format!("{}/{}", in_sync(volume), volume.replicas_wanted),
        yes(volume.thin),
        volume.target_node.clone(),
        volume.device_uri.clone(),
        volume.reason.clone(),
    ]
}

fn in_sync(volume: &v1::Volume) -> usize {
    volume.replicas.iter().filter(|replica| replica.state == "online").count()
}

/// The titles of a table of replicas of volumes.
pub const REPLICA_COLUMNS: &[&str] = &["REPLICA OF", "NODE", "POOL", "STATE", "REBUILD", "REASON"];

/// The rows of that table.
pub fn replica_rows(volume: &v1::Volume, output: &Output) -> Vec<Vec<String>> {
    let row = |replica: &v1::VolumeReplica| {
        let rebuild = replica.rebuild.as_ref().map(|rebuild| progress::line(rebuild, output)).unwrap_or_default();
        let (node, pool) = (replica.node.clone(), replica.pool.clone());
        vec![volume.name.clone(), node, pool, replica.state.clone(), rebuild, replica.reason.clone()]
    };
    volume.replicas.iter().map(row).collect()
}

fn show(volume: &v1::Volume, output: &Output) -> Done {
    if output.format != Format::Table {
        return output.document(volume);
    }
    let mut text = output.table(COLUMNS, [row(volume, output)]);
    if !volume.replicas.is_empty() {
        text.push('\n');
        text += &output.table(REPLICA_COLUMNS, replica_rows(volume, output));
    }
    output::print(&text)
}

/// Follows a volume until it has all its replicas in sync.
async fn wait_for(name: &str, client: &Client) -> Done {
    let output = &client.output;
    let control = client.control_stream().await?;
    // Says at once, and with the control plane's own words, when there is no such volume.
    let uuid = get(&control, name).await?.uuid;
    let mut stream = control.check(control.v1().watch_status(v1::Empty {}).await)?;
    let mut progress = Progress::new(*output);
    let mut said = String::new();
    while let Some(status) = stream.next().await {
        let status = status.map_err(|status| control.peer().failed(&status))?;
        let Some(volume) = status.volumes.into_iter().find(|volume| volume.uuid == uuid) else {
            return Err(Failure::not_found(format!("volume {name} was destroyed ({})", control.peer())));
        };
        let label = |replica: &v1::VolumeReplica| format!("{} on {}/{}", volume.name, replica.node, replica.pool);
        progress.retain(|work| volume.replicas.iter().any(|r| r.rebuild.is_some() && label(r) == work));
        for replica in &volume.replicas {
            if let Some(rebuild) = &replica.rebuild {
                progress.show(&label(replica), rebuild)?;
            }
        }
        if is_whole(&volume) {
            progress.retain(|_| false);
            return show(&volume, output);
        }
        let now = format!("volume {} is {}: {}", volume.name, volume.state, volume.reason);
        if said != now && !output.quiet && output.format == Format::Table {
            // On stderr, so that stdout has the result only.
            eprintln!("{now}");
            said = now;
        }
    }
    Err(Failure::unreachable(format!("the {} ended the report", control.peer())))
}

/// Whether nothing is left to repair.
fn is_whole(volume: &v1::Volume) -> bool {
    let wanted = usize::try_from(volume.replicas_wanted).expect("at most 16");
    // A copy that is no longer needed may be on a node that is away for long.
    let kept = volume.replicas.iter().filter(|replica| replica.state != "retired").count();
    let all_in_sync = kept == wanted && in_sync(volume) == wanted;
    all_in_sync && matches!(volume.state.as_str(), "online" | "offline")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_whole_when_nothing_is_left_to_repair() {
        let online = v1::VolumeReplica { state: "online".into(), ..Default::default() };
        let rebuilding = v1::VolumeReplica { state: "rebuilding".into(), ..Default::default() };
        let mut volume = v1::Volume { replicas_wanted: 2, state: "online".into(), ..Default::default() };
        assert!(!is_whole(&volume));
        volume.replicas = vec![online.clone(), rebuilding];
        assert!(!is_whole(&volume));
        volume.replicas = vec![online.clone(), online.clone()];
        assert!(is_whole(&volume));
        volume.replicas.push(online);
        assert!(!is_whole(&volume), "one too many has still to be retired");
    }
}
