//! `mayastor nexus`.

use std::io::Read;
use std::path::{Path, PathBuf};

use api::{Word, v0, v1};
use clap::{Args, Subcommand, ValueEnum};

use super::Protocol;
use crate::connect::{Client, Engine};
use crate::failure::{Done, Failure};
use crate::output::Output;
use crate::size;

/// Nexuses: mirrored volumes over their children
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a nexus over children, each the URI of a device that is at least 6 MiB larger
    #[command(after_help = "Examples:
  mayastor nexus create 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 64MiB 'malloc:///a?size_mb=72' 'malloc:///b?size_mb=72'
  mayastor nexus create 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 1GiB bdev:///r1 nvmf://10.0.0.2:8420/nqn.2019-05.io.openebs:r2")]
    Create {
        /// Its uuid
        #[arg(value_name = "UUID")]
        uuid: String,
        /// Its usable size, such as 10GiB
        #[arg(value_name = "SIZE", value_parser = size::parse)]
        size: u64,
        /// Its children, by URI
        #[arg(value_name = "CHILD", required = true)]
        children: Vec<String>,
    },
    /// Unpublish and close a nexus; its children keep their data
    #[command(after_help = "Examples:
  mayastor nexus destroy 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1")]
    Destroy(Name),
    /// Offer a nexus to hosts
    #[command(after_help = "Examples:
  mayastor nexus publish 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1
  openssl rand -hex 64 > key && mayastor nexus publish 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 --key-file key

The engine keeps a key in memory only: after it was restarted, publish the nexus again.")]
    Publish {
        /// The uuid of the nexus
        #[arg(value_name = "UUID")]
        uuid: String,
        /// How
        #[arg(short, long, value_enum, default_value = "nvmf")]
        protocol: Protocol,
        /// Encrypt what hosts write with the key in this file; - is standard input
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// What the key is for
        #[arg(long, value_enum, default_value = "aes-xts-256", requires = "key_file")]
        cipher: Cipher,
    },
    /// Take a nexus back from hosts
    #[command(after_help = "Examples:
  mayastor nexus unpublish 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1")]
    Unpublish(Name),
    /// Add a child and start its rebuild
    #[command(after_help = "Examples:
  mayastor nexus add 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Add {
        /// Nexus and child.
        #[command(flatten)]
        child: Child,
        /// Leave it out of sync until a rebuild is started
        #[arg(long)]
        norebuild: bool,
    },
    /// Remove a child; the last good copy is never removed
    #[command(after_help = "Examples:
  mayastor nexus remove 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Remove(Child),
    /// List the nexuses of the engine
    #[command(after_help = "Examples:
  mayastor nexus list
  mayastor nexus list --show-children")]
    List {
        /// The URIs of their children too
        #[arg(short = 'c', long)]
        show_children: bool,
    },
    /// List the children of a nexus
    #[command(after_help = "Examples:
  mayastor nexus children 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1")]
    Children(Name),
    /// Take a child out of use until it is onlined
    #[command(after_help = "Examples:
  mayastor nexus offline 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Offline(Child),
    /// Take a child back into use and start its rebuild
    #[command(after_help = "Examples:
  mayastor nexus online 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Online(Child),
    /// Treat a child as failed
    #[command(after_help = "Examples:
  mayastor nexus fault 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Fault(Child),
}

/// How a nexus is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cipher {
    /// AES-256 in XTS; the key has 128 hexadecimal digits (openssl rand -hex 64)
    #[value(name = "aes-xts-256")]
    AesXts256,
    /// AES-128 in CBC, for volumes of v0.3.0; the key has 16 bytes
    #[value(name = "aes-cbc-128")]
    AesCbc128,
}

/// The key in a file, without the end of its line. What it says of a wrong one does not repeat it.
fn read_key(file: &Path, cipher: Cipher) -> Result<String, Failure> {
    let wrong = |why: String| Failure::usage(format!("--key-file {}: {why}", file.display()));
    // More than any key, so that a wrong file is not read as a whole.
    let (mut bytes, most) = (Vec::new(), 1024);
    let read = match file.to_str() {
        Some("-") => std::io::stdin().take(most).read_to_end(&mut bytes),
        _ => std::fs::File::open(file).and_then(|f| f.take(most).read_to_end(&mut bytes)),
    };
    read.map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("a key is text".into()))?;
    let key = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).unwrap_or(&text);
    let (bytes, what) = match cipher {
        Cipher::AesXts256 => (128, "aes-xts-256 takes 128 hexadecimal digits (openssl rand -hex 64)"),
        Cipher::AesCbc128 => (16, "aes-cbc-128 takes 16 bytes"),
    };
    if key.len() == bytes { Ok(key.to_owned()) } else { Err(wrong(format!("it has {} bytes; {what}", key.len()))) }
}

/// The name of a nexus.
#[derive(Debug, Args)]
pub struct Name {
    /// The uuid of the nexus
    #[arg(value_name = "UUID")]
    uuid: String,
}

/// A child of a nexus.
#[derive(Clone, Debug, Args)]
pub struct Child {
    /// The uuid of the nexus
    #[arg(value_name = "UUID")]
    pub uuid: String,
    /// The URI of the child
    #[arg(value_name = "URI")]
    pub uri: String,
}

impl From<Child> for v1::ChildRequest {
    fn from(child: Child) -> Self {
        v1::ChildRequest { uuid: child.uuid, uri: child.uri }
    }
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let output = &client.output;
    let engine = client.engine().await?;
    match command {
        Command::Create { uuid, size, children } => {
            let request = v1::CreateNexusRequest { uuid, size, children, ledger: None, managed: false };
            let nexus = engine.check(engine.v1().create_nexus(request).await)?;
            output.made(&nexus, &nexus.uuid, format!("Nexus {} created", nexus.uuid))
        }
        Command::Destroy(Name { uuid }) => {
            engine.check(engine.v1().destroy_nexus(v1::NexusName { uuid: uuid.clone() }).await)?;
            output.done(format!("Nexus {uuid} destroyed"))
        }
        Command::Publish { uuid, protocol, key_file, cipher } => {
            let key = key_file.map(|file| read_key(&file, cipher)).transpose()?.unwrap_or_default();
            let share = v0::ShareProtocolNexus::from(protocol).into();
            let reply = engine.check(engine.v0().publish_nexus(v0::PublishNexusRequest { uuid, key, share }).await)?;
            output.made(&reply, &reply.device_uri, format!("Nexus published at {}", reply.device_uri))
        }
        Command::Unpublish(Name { uuid }) => {
            engine.check(engine.v1().unpublish_nexus(v1::NexusName { uuid: uuid.clone() }).await)?;
            output.done(format!("Nexus {uuid} unpublished"))
        }
        Command::List { show_children } => list(&engine, output, show_children).await,
        Command::Children(Name { uuid }) => {
            let nexus = find(&engine, &uuid).await?;
            output.list(&nexus.children, CHILD_COLUMNS, child_row, "No children found")
        }
        child => run_child(child, &engine, output).await,
    }
}

async fn run_child(command: Command, engine: &Engine, output: &Output) -> Done {
    match command {
        Command::Add { child, norebuild } => {
            let Child { uuid, uri } = child.clone();
            let request = v0::AddChildNexusRequest { uuid, uri, norebuild };
            let added = engine.check(engine.v0().add_child_nexus(request).await)?;
            output.made(&added, &added.uri, format!("Added {} to children of {}", child.uri, child.uuid))
        }
        Command::Remove(child) => {
            engine.check(engine.v1().remove_child(v1::ChildRequest::from(child.clone())).await)?;
            output.done(format!("Removed {} from children of {}", child.uri, child.uuid))
        }
        Command::Fault(child) => {
            engine.check(engine.v1().fault_child(v1::ChildRequest::from(child.clone())).await)?;
            output.done(format!("Faulted child {} of {}", child.uri, child.uuid))
        }
        Command::Offline(child) => operate(engine, output, child, v0::ChildAction::Offline).await,
        Command::Online(child) => operate(engine, output, child, v0::ChildAction::Online).await,
        _ => unreachable!("the caller has run the other commands"),
    }
}

async fn operate(engine: &Engine, output: &Output, child: Child, action: v0::ChildAction) -> Done {
    let Child { uuid, uri } = child.clone();
    let request = v0::ChildNexusRequest { uuid, uri, action: action.into() };
    engine.check(engine.v0().child_operation(request).await)?;
    let Child { uuid, uri } = child;
    output.done(match action {
        v0::ChildAction::Offline => format!("Took child {uri} of {uuid} offline"),
        v0::ChildAction::Online => format!("Took child {uri} of {uuid} back; it is brought in sync"),
    })
}

async fn list(engine: &Engine, output: &Output, show_children: bool) -> Done {
    let nexuses = engine.check(engine.v1().get_node(v1::Empty {}).await)?.nexuses;
    let mut titles = vec!["NAME", ">SIZE", "STATE", ">CHILDREN", ">REBUILDS", ">GENERATION", "PATH", "REASON"];
    if show_children {
        titles.push("URIS");
    }
    let row = |nexus: &v1::Nexus| {
        let rebuilds = nexus.children.iter().filter(|child| child.rebuild.is_some()).count();
        let mut cells = vec![
            nexus.uuid.clone(),
            output.size(nexus.size),
            nexus.state().word(),
            nexus.children.len().to_string(),
            rebuilds.to_string(),
            // The generation proper; the lower half orders the records of one nexus (docs/replication.md, section 3).
            (nexus.generation >> 32).to_string(),
            nexus.device_uri.clone(),
            nexus.reason.clone(),
        ];
        if show_children {
            cells.push(nexus.children.iter().map(|child| child.uri.as_str()).collect::<Vec<_>>().join(","));
        }
        cells
    };
    output.list(&nexuses, &titles, row, "No nexus found")
}

const CHILD_COLUMNS: &[&str] = &["NAME", "STATE", ">REBUILD", ">ERRORS", "REASON"];

fn child_row(child: &v1::Child) -> Vec<String> {
    let rebuild = child.rebuild.as_ref().map(|r| format!("{}%", super::progress::percent(r))).unwrap_or_default();
    vec![child.uri.clone(), child.state().word(), rebuild, child.errors.to_string(), child.reason.clone()]
}

/// The nexus of that uuid, whichever case it is written in.
pub async fn find(engine: &Engine, uuid: &str) -> Result<v1::Nexus, Failure> {
    let nexuses = engine.check(engine.v1().get_node(v1::Empty {}).await)?.nexuses;
    pick(nexuses, uuid).ok_or_else(|| engine.missing(format!("nexus {uuid}")))
}

/// The nexus of that uuid among these.
pub fn pick(nexuses: Vec<v1::Nexus>, uuid: &str) -> Option<v1::Nexus> {
    nexuses.into_iter().find(|nexus| nexus.uuid.eq_ignore_ascii_case(uuid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_files() {
        let dir = tempfile();
        let read = |contents: &str, cipher| {
            std::fs::write(&dir, contents).expect("written");
            read_key(&dir, cipher).map_err(|failure| failure.to_string())
        };
        let key = "0123456789abcdef".repeat(8);
        for end in ["", "\n", "\r\n"] {
            assert_eq!(read(&format!("{key}{end}"), Cipher::AesXts256).as_ref(), Ok(&key));
            assert_eq!(read(&format!("{}{end}", &key[..16]), Cipher::AesCbc128).as_deref(), Ok(&key[..16]));
        }
        for (contents, cipher) in [("", Cipher::AesXts256), (&key[..16], Cipher::AesXts256), (&key, Cipher::AesCbc128)]
        {
            let error = read(contents, cipher).expect_err("the wrong length");
            assert!(contents.is_empty() || !error.contains(contents), "{error}");
        }
        std::fs::remove_file(&dir).expect("removed");
        assert!(read_key(&dir, Cipher::AesXts256).is_err());
    }

    fn tempfile() -> PathBuf {
        std::env::temp_dir().join(format!("mayastor-key-{}", std::process::id()))
    }
}
