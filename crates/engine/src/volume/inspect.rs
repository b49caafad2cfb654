//! What lies on a device, for those who have lost what they knew: whose member it is, and its newest ledger. Reads only.

use std::time::Duration;

use host::{DiskExt, DiskRef, Host};
use nexus::label::{self, Layout, Probe};
use nexus::ledger::Ledger;
use uuid::Uuid;

use super::child::{self, Unfit};

/// How long reading it may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What a device says of itself.
pub(crate) struct Contents {
    pub volume: Uuid,
    /// Who it is among the volume's members.
    pub member: Option<Uuid>,
    pub ledger: Option<Ledger>,
}

/// Reads it; `None`: it carries no label of ours.
pub(crate) async fn inspect(host: &Host, disk: &DiskRef) -> Result<Option<Contents>, String> {
    let geometry = disk.geometry();
    let Ok(layout) = Layout::new(geometry.block_size, geometry.blocks) else { return Ok(None) };
    let probe = async {
        let front = disk.read(layout.probe_front()).await?;
        let back = disk.read(layout.back()).await?;
        Ok::<_, block::Fault>(label::probe(&front, &back, &layout))
    };
    let probe = host.timeout(LIMIT, probe).await.ok_or("the device does not answer")?;
    let volume = match probe.map_err(|fault| format!("reading the label: {fault}"))? {
        Probe::Labelled { label, .. } => label.volume,
        Probe::Blank | Probe::Foreign(_) => return Ok(None),
    };
    match child::look(host, disk, volume, LIMIT).await {
        Ok(look) => Ok(Some(Contents { volume, member: look.member, ledger: look.ledger })),
        Err(Unfit::Io(reason) | Unfit::Never(reason)) => Err(reason),
    }
}
