//! What an operator inside this process may do: the calls of clients, and a few that clients have no use for.

use std::collections::BTreeSet;

use api::v1;
use api::v1::control_server::Control as Calls;
use plan::Life;
use tokio::sync::watch;
use tonic::Status;

use crate::record::NodeRecord;
use crate::service::{Refused, Service};
use crate::state::Fate;
use crate::{Control, cluster};

impl Control {
    /// The calls that clients make, without a network between.
    pub fn calls(&self) -> impl Calls + use<> {
        let (_, stopped) = watch::channel(());
        Service::new(self.0.clone(), stopped)
    }

    /// Somebody says where a storage node is: it is listened to from now on. A node that registers itself may correct that.
    ///
    /// # Errors
    /// UNAVAILABLE: the store.
    pub async fn add_node(&self, id: &str, endpoint: &str) -> Result<(), Status> {
        let inner = &self.0;
        let remember = |node: &mut NodeRecord| endpoint.clone_into(&mut node.endpoint);
        inner.state.change_node(id, remember).await.map_err(|e| Status::unavailable(e.to_string()))?;
        cluster::watch(inner, id, endpoint);
        inner.changed();
        Ok(())
    }

    /// Adds a disk to a pool.
    ///
    /// # Errors
    /// NOT_FOUND: the node; otherwise what its engine says.
    pub async fn add_pool_disk(&self, node: &str, pool: &str, disk: &str) -> Result<(), Status> {
        let inner = &self.0;
        let client = inner.cluster.client(node);
        let mut client = client.ok_or_else(|| Status::not_found(format!("there is no node {node}")))?;
        let request = v1::AddPoolDiskRequest { name: pool.to_owned(), disk: disk.to_owned(), force: false };
        crate::service::within(inner, node, client.add_pool_disk(request)).await?;
        let text = format!("disk {disk} was added to pool {pool} on {node}");
        inner.events.note("pool-disk-added", format!("pool/{node}/{pool}"), text).await;
        Ok(())
    }

    /// Sets the nodes that may hold copies of a volume (none: any), and those that are taken first.
    ///
    /// # Errors
    /// NOT_FOUND; FAILED_PRECONDITION when it is being deleted; UNAVAILABLE: the store.
    pub async fn set_nodes(&self, name: &str, required: Vec<String>, preferred: Vec<String>) -> Result<(), Status> {
        let inner = &self.0;
        let unknown = || Status::not_found(format!("there is no volume {name}"));
        let id = inner.state.find(name).ok_or_else(unknown)?;
        let required: BTreeSet<String> = required.into_iter().collect();
        let preferred: BTreeSet<String> = preferred.into_iter().collect();
        let done = inner.state.change(id, |volume| -> Result<Fate<()>, Refused> {
            let volume = volume.ok_or_else(unknown)?;
            if volume.life == Life::Deleting {
                return Err(Status::failed_precondition(format!("volume {name} is being deleted")).into());
            }
            if volume.required_nodes == required && volume.preferred_nodes == preferred {
                return Ok(Fate::Unchanged(()));
            }
            volume.required_nodes = required;
            volume.preferred_nodes = preferred;
            Ok(Fate::Put(()))
        });
        done.await.map_err(|Refused(status)| status)?;
        inner.work.hurry(id);
        inner.changed();
        Ok(())
    }
}
