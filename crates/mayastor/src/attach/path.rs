//! The way to a volume's target, which may move while I/O goes on.
//!
//! ```text
//!   Up ── answers fail: gone, fenced, silent ──► Waiting ── connected, here or where the control plane says ──► Up
//!                                                   │
//!                                                   └── longer than the patience ──► the request fails
//! ```
//!
//! A request whose path is lost is sent again on the next one. That is right for writes: whoever asked has no answer yet
//! and sends nothing else for the same blocks, and the control plane opens a volume elsewhere only once the old place
//! cannot write any more.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::v1;
use api::v1::control_client::ControlClient;
use block::{Fault, Geometry, Outcome, Request};
use engine::remote::{self, RemoteDisk, RemoteOptions, RemoteState};
use host::{Disk, DiskExt, Host};
use ring::Shard;
use tonic::transport::Endpoint;

use crate::failure::{Done, Failure};
use crate::image::remote_spec;

/// How long one association looks for its target before its requests come back to us.
const PATH_DEADLINE: Duration = Duration::from_secs(5);
/// The pause before a request is sent again.
const RETRY: Duration = Duration::from_millis(100);
/// How often the path is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The data thread's part.
struct Link {
    host: Host,
    disk: RefCell<Rc<RemoteDisk>>,
    patience: Option<Duration>,
}

/// A volume.
pub struct Volume {
    shard: Shard<Link>,
    bytes: AtomicU64,
    block_size: u32,
    uri: Mutex<String>,
}

fn options() -> RemoteOptions {
    RemoteOptions { command_deadline: PATH_DEADLINE, ..RemoteOptions::default() }
}

impl Volume {
    /// Connects; `patience`: how long I/O waits for a lost target, `None` for ever.
    pub async fn connect(uri: String, patience: Option<Duration>) -> Result<Volume, Failure> {
        let spec = remote_spec(&uri)?;
        let start = tokio::task::spawn_blocking(move || {
            let options_of_thread = ring::Options { name: "data".into(), ..ring::Options::default() };
            Shard::start(options_of_thread, move |host| {
                Box::pin(async move {
                    let disk = remote::connect(&host, spec, options()).await?;
                    Ok::<_, remote::RemoteError>(Rc::new(Link { host, disk: RefCell::new(disk), patience }))
                })
            })
        });
        let shard = start.await.map_err(Failure::failed)?.map_err(Failure::unreachable)?;
        let call = shard.call(|link| Box::pin(async move { link.disk.borrow().geometry() }));
        let geometry: Geometry = call.await.map_err(Failure::failed)?;
        let block_size = geometry.block_size.bytes();
        Ok(Volume { shard, bytes: AtomicU64::new(geometry.bytes().0), block_size, uri: Mutex::new(uri) })
    }

    /// Where it is reached now.
    pub fn uri(&self) -> String {
        self.uri.lock().expect("nobody panics with this lock").clone()
    }
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
    /// The size of its blocks in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Carries out a request on the data thread, and then `answer` there.
    pub fn submit(&self, request: Request, answer: impl FnOnce(Outcome) + Send + 'static) {
        self.shard.post(move |link| {
            Box::pin(async move {
                answer(link.carry_out(request).await);
            })
        });
    }

    /// Connects anew, here or at another address; requests go on there.
    pub async fn reconnect(&self, uri: Option<String>) -> Done {
        let uri = uri.unwrap_or_else(|| self.uri());
        let spec = remote_spec(&uri)?;
        let call = self.shard.call(move |link| {
            Box::pin(async move {
                let disk = remote::connect(&link.host, spec, options()).await?;
                let geometry = disk.geometry();
                // The old one is closed in the background; what it had in flight comes back and is sent again.
                link.disk.replace(disk);
                Ok::<_, remote::RemoteError>(geometry)
            })
        });
        let geometry = call.await.map_err(Failure::failed)?.map_err(Failure::unreachable)?;
        if geometry.block_size.bytes() != self.block_size {
            return Err(Failure::failed(format!("{uri} has other blocks than before")));
        }
        self.bytes.store(geometry.bytes().0, Ordering::Relaxed);
        *self.uri.lock().expect("nobody panics with this lock") = uri;
        Ok(())
    }

    /// Whether the path is up.
    async fn is_up(&self) -> bool {
        let call = self.shard.call(|link| Box::pin(async move { link.disk.borrow().state() == RemoteState::Up }));
        call.await.unwrap_or(false)
    }

    /// Makes everything durable and disconnects.
    pub async fn close(&self) {
        let closed = self.shard.call(|link| {
            Box::pin(async move {
                let disk = link.disk.borrow().clone();
                // The file system has flushed what it must keep; this is for those who did not.
                let _ = disk.flush().await;
                disk.close().await;
            })
        });
        if tokio::time::timeout(PATH_DEADLINE, closed).await.is_err() {
            tracing::warn!("{} does not answer; it is left as it is", self.uri());
        }
        let shard = self.shard.clone();
        // It joins the thread, which may take a moment.
        let _ = tokio::task::spawn_blocking(move || shard.stop()).await;
    }
}

impl Link {
    /// Sends a request until it is answered by a target, or patience ends.
    async fn carry_out(&self, request: Request) -> Outcome {
        let begin = self.host.now();
        loop {
            let disk = self.disk.borrow().clone();
            let fault = match disk.call(request.clone()).await {
                Err(fault @ (Fault::Gone | Fault::TimedOut | Fault::Fenced | Fault::Aborted)) => fault,
                answered => return answered,
            };
            drop(disk);
            if self.patience.is_some_and(|patience| self.host.now() >= begin + patience) {
                return Err(fault);
            }
            self.host.sleep(RETRY).await;
        }
    }
}

/// Looks after the path: when it is lost, asks the control plane where the volume is and connects there.
pub async fn follow(volume: std::sync::Arc<Volume>, uuid: Option<String>, control: Option<String>, dial: access::Dial) {
    let named = control.filter(|_| uuid.is_some()).and_then(|c| crate::connect::addresses(&c).ok()).unwrap_or_default();
    let endpoints = named.into_iter().filter_map(|c| Endpoint::from_shared(format!("http://{c}")).ok());
    let connect = |e: Endpoint| ControlClient::new(dial.lazy(&e.connect_timeout(LOOK * 4).timeout(LOOK * 10)));
    // Of several control planes one leads: each is asked in its turn.
    let mut clients: VecDeque<_> = endpoints.map(connect).collect();
    let mut lost = false;
    loop {
        tokio::time::sleep(LOOK).await;
        if volume.is_up().await {
            if lost {
                tracing::info!("{} is back", volume.uri());
            }
            lost = false;
            continue;
        }
        if !lost {
            tracing::warn!("{} is lost; I/O waits for it", volume.uri());
        }
        lost = true;
        let (Some(client), Some(name)) = (clients.front_mut(), uuid.clone()) else { continue };
        let found = client.get_volume(v1::VolumeName { name }).await.map(|v| v.into_inner().device_uri);
        let Ok(uri) = found else {
            clients.rotate_left(1);
            continue;
        };
        if uri.is_empty() || uri == volume.uri() {
            continue;
        }
        match volume.reconnect(Some(uri.clone())).await {
            Ok(()) => tracing::info!("the volume has moved to {uri}"),
            Err(failure) => tracing::warn!("the volume shall be at {uri}: {failure}"),
        }
    }
}
