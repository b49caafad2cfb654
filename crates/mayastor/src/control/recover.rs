//! `mayastor control recover`: lost records, made anew from what the storage nodes hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::control::recover::{Holding, Proposal, propose, write};
use ::control::store::election::{Candidate, Reign};
use ::control::store::{EmbeddedStore, Store};
use access::{Channel, Dial};
use api::v1;
use api::v1::engine_client::EngineClient;
use clap::Args;
use serde::Serialize;
use tonic::transport::Endpoint;
use uuid::Uuid;

use super::{Records, seat};
use crate::access::Credentials;
use crate::connect::with_port;
use crate::failure::{Done, Failure};
use crate::output::{self, Format, Output};

/// The examples of its help.
pub const EXAMPLES: &str = "Every storage node is asked what lies on its replicas. A volume is taken when all copies that its newest ledger
counts are found and agree; anything else is listed with the reason and left alone. Nothing on the nodes changes, and what
is on record already stays. The control plane must be stopped. Names of volumes are not on the disks: give them with --name.

Examples:
  mayastor control recover --engines 10.0.0.1,10.0.0.2,10.0.0.3
  mayastor control recover --engines n1,n2,n3 --name 5b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11=data --yes
  mayastor control recover --store etcd://10.0.0.1:2379/mayastor --engines n1,n2,n3 --yes";

/// How records are made anew.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    records: Records,
    /// The storage nodes, all of them, separated by commas
    #[arg(long, value_name = "HOST[:PORT],...", required = true, value_delimiter = ',')]
    engines: Vec<String>,
    /// What a volume shall be called; otherwise its uuid is its name
    #[arg(long = "name", value_name = "UUID=NAME", value_parser = name)]
    names: Vec<(Uuid, String)>,
    /// Write the records; otherwise they are only shown
    #[arg(long)]
    yes: bool,
}

fn name(text: &str) -> Result<(Uuid, String), String> {
    let (id, name) = text.split_once('=').ok_or("UUID=NAME is needed")?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > block::limits::NAME_BYTES || !name.chars().all(fits) {
        return Err("a name has 1 to 63 of a-z, 0-9, '-' and '.'".to_owned());
    }
    Ok((id.parse().map_err(|_| format!("{id:?} is no uuid"))?, name.to_owned()))
}

/// How long a node may take for an answer.
const CALL: Duration = Duration::from_secs(15);
/// How long the leader's place may take to become free.
const PLACE: Duration = Duration::from_secs(10);

/// What was found, for programs.
#[derive(Serialize)]
struct Report {
    volumes: Vec<Row>,
    unclear: Vec<Unclear>,
    left_alone: Vec<String>,
    written: bool,
}
#[derive(Serialize)]
struct Row {
    uuid: Uuid,
    name: String,
    size: u64,
    copies: usize,
    in_sync: usize,
    target: String,
    state: &'static str,
}
#[derive(Serialize)]
struct Unclear {
    uuid: Uuid,
    why: String,
}

/// Looks, shows, and writes when it shall.
pub async fn run(arguments: Arguments, own: &Credentials, output: &Output) -> Done {
    let dial = own.dial()?;
    let mut holdings = Vec::new();
    for engine in &arguments.engines {
        let address = with_port(engine, api::ENGINE_PORT)?;
        let held = ask(&address, &dial).await;
        // A node that is left out could be the one with the newest state: the copies there would only be missed.
        holdings.push(held.map_err(|why| Failure::unreachable(format!("engine {address}: {why}")))?);
    }
    let names: BTreeMap<Uuid, String> = arguments.names.into_iter().collect();
    let proposal = propose(&holdings, &names);
    let (store, reign) = open(&arguments.records).await?;
    let known: Vec<String> =
        store.list("volume/").await.map_err(Failure::failed)?.into_iter().map(|(k, _)| k).collect();
    let written = match arguments.yes {
        true => write(&*store, &proposal).await.map_err(Failure::failed)?,
        false => Vec::new(),
    };
    reign.resign().await;
    let report = describe(
        &proposal,
        |id| {
            let on_record = known.contains(&format!("volume/{id}"));
            if on_record {
                "on record"
            } else if written.contains(&id) {
                "written"
            } else {
                "would be written"
            }
        },
        arguments.yes,
    );
    show(&report, output)
}

/// What an engine holds.
async fn ask(address: &str, dial: &Dial) -> Result<Holding, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let channel = dial.lazy(&endpoint.connect_timeout(CALL).timeout(CALL));
    let mut client: EngineClient<Channel> = EngineClient::new(channel).max_decoding_message_size(64 << 20);
    let report = client.get_node(v1::Empty {}).await.map_err(|s| crate::connect::said(&s))?.into_inner();
    let mut contents = BTreeMap::new();
    for replica in &report.replicas {
        let uuid = replica.uuid.clone();
        let found = client.inspect_replica(v1::ReplicaName { uuid: uuid.clone() }).await;
        contents.insert(uuid, found.map(tonic::Response::into_inner).map_err(|s| s.message().to_owned()));
    }
    Ok(Holding { report, contents })
}

/// The store, and the right to write to it.
async fn open(records: &Records) -> Result<(Arc<dyn Store>, Reign), Failure> {
    let Some((election, _)) = seat::election(records).await? else {
        let dir = &records.data_dir;
        let cannot = |e| Failure::failed(format!("the directory {} cannot be used: {e}", dir.display()));
        std::fs::create_dir_all(dir).map_err(cannot)?;
        let store = EmbeddedStore::open(&dir.join(super::FILE)).map_err(Failure::failed)?;
        return Ok((Arc::new(store), Reign::forever()));
    };
    let candidate = Candidate { name: "mayastor control recover".into(), ..Candidate::default() };
    let chosen = tokio::time::timeout(PLACE, election.campaign(candidate)).await;
    let in_use = |_| {
        Failure::failed(format!(
            "{}: a control plane leads there, or it cannot be reached; stop it first",
            records.store
        ))
    };
    let leadership = chosen.map_err(in_use)?.map_err(Failure::failed)?;
    Ok((leadership.store, leadership.reign))
}

fn describe(proposal: &Proposal, state: impl Fn(Uuid) -> &'static str, written: bool) -> Report {
    let row = |id: Uuid| {
        let v = &proposal.volumes[&id];
        Row {
            uuid: id,
            name: v.name.clone(),
            size: v.size.0,
            copies: v.copies.len(),
            in_sync: v.ledger.as_ref().map_or(0, |l| l.in_sync.len()),
            target: v.target.clone().unwrap_or_default(),
            state: state(id),
        }
    };
    let unclear = proposal.unclear.iter().map(|(id, why)| Unclear { uuid: *id, why: why.clone() });
    Report {
        volumes: proposal.volumes.keys().copied().map(row).collect(),
        unclear: unclear.collect(),
        left_alone: proposal.left.clone(),
        written,
    }
}

fn show(report: &Report, output: &Output) -> Done {
    if output.format != Format::Table {
        return output.item(report);
    }
    let row = |v: &Row| {
        let copies = format!("{} of {} in sync", v.in_sync, v.copies);
        vec![v.name.clone(), v.uuid.to_string(), output.size(v.size), copies, v.target.clone(), v.state.to_owned()]
    };
    let titles = ["NAME", "UUID", ">SIZE", "COPIES", "TARGET", "RECORD"];
    let mut text = match report.volumes.is_empty() {
        true => "No volume can be taken\n".to_owned(),
        false => output.table(&titles, report.volumes.iter().map(row)),
    };
    for Unclear { uuid, why } in &report.unclear {
        text += &format!("not touched: volume {uuid}: {why}\n");
    }
    for left in &report.left_alone {
        text += &format!("left alone: {left}\n");
    }
    if !report.written && !report.volumes.is_empty() {
        text += "Nothing was written; repeat it with --yes to write these records\n";
    }
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_volumes() {
        let id = "5b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11";
        assert_eq!(name(&format!("{id}=data")), Ok((id.parse().expect("a uuid"), "data".to_owned())));
        for wrong in ["", "data", "x=data", &format!("{id}="), &format!("{id}=No Name")] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
