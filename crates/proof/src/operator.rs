//! An operator: hears from the nodes, asks the real planner, and carries out what it says, record by record and call by
//! call. It may die anywhere and be started again: it remembers nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use engine::model::{CreateNexus, CreateReplica, Error, ErrorKind, LedgerInfo, Protocol};
use host::Host;
use plan::{Action, Publish, Replica, ReplicaLife, Settings, Volume, safety};
use uuid::Uuid;

use crate::cluster::{Place, Shared};
use crate::oracle::short;
use crate::scenario::node_name;
use crate::store::{Snapshot, StoreError};
use crate::view::View;

/// Pause between two looks.
const TICK: Duration = Duration::from_millis(150);

/// One operator.
pub struct Operator {
    shared: Weak<Shared>,
    host: Host,
    name: String,
    view: RefCell<View>,
    /// Volumes that are being worked on, or rest after a failure until then.
    busy: RefCell<BTreeMap<Uuid, u64>>,
    settings: Settings,
}

/// Why an action did not work.
struct Failure(String);

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Failure {
        Failure(format!("store: {e:?}"))
    }
}
impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure(e.message)
    }
}

/// Starts an operator called `name` on that host.
pub fn start(shared: &Rc<Shared>, host: Host, name: &str) {
    let grace = shared.scenario.knobs.node_grace_ms;
    let names: Vec<String> = (0..shared.scenario.nodes.len()).map(node_name).collect();
    let operator = Rc::new(Operator {
        shared: Rc::downgrade(shared),
        view: RefCell::new(View::of(&names, ms(&host))),
        host: host.clone(),
        name: name.to_owned(),
        busy: RefCell::default(),
        settings: Settings {
            node_grace_ms: grace,
            fault_grace_ms: 500,
            retry_ms: 3000,
            reopen_ms: 1000,
            stuck_ms: 3000,
            abandon_ms: 60_000,
        },
    });
    for node in names {
        host.spawn(listen(operator.clone(), node));
    }
    host.spawn(async move {
        while let Some(shared) = operator.shared.upgrade() {
            operator.clone().turn(&shared).await;
            drop(shared);
            operator.host.sleep(TICK).await;
        }
    });
}

fn ms(host: &Host) -> u64 {
    host.now().0 / 1_000_000
}

/// Asks one node for its report, again and again.
async fn listen(operator: Rc<Operator>, node: String) {
    loop {
        let Some(shared) = operator.shared.upgrade() else { return };
        let from = (&operator.host, operator.name.as_str());
        let report = shared.call(from, &node, |node| Box::pin(async move { Ok(node.report()) })).await;
        let now = ms(&operator.host);
        match report {
            Ok(report) => operator.view.borrow_mut().heard(&node, report, now),
            Err(_) => operator.view.borrow_mut().missed(&node, now),
        }
        let pause = Duration::from_millis(shared.scenario.knobs.heartbeat_ms);
        drop(shared);
        operator.host.sleep(pause).await;
    }
}

impl Operator {
    /// One look, and everything started that is to be done.
    async fn turn(self: Rc<Self>, shared: &Rc<Shared>) {
        let Ok(mut snapshot) = shared.read_store(&self.host, &self.name).await else { return };
        self.adopt_ledgers(shared, &snapshot).await;
        let now = ms(&self.host);
        let observed = self.view.borrow_mut().prepare(&mut snapshot.desired, now);
        self.publish_places(shared, &snapshot);
        let mut sets: BTreeMap<Uuid, Vec<Action>> = BTreeMap::new();
        for action in plan::plan(&snapshot.desired, &observed, now, &self.settings) {
            sets.entry(action.volume()).or_default().push(action);
        }
        for (id, actions) in sets {
            if self.busy.borrow().get(&id).is_some_and(|until| *until > now) {
                continue;
            }
            self.busy.borrow_mut().insert(id, u64::MAX);
            let (operator, shared) = (self.clone(), shared.clone());
            self.host.spawn(async move {
                let mut rest = 0;
                for action in actions {
                    let done = operator.execute(&shared, &action).await;
                    let text = || format!("volume {}: {action}", short(action.volume()));
                    let now = shared.watcher.now();
                    match done {
                        Ok(()) => shared.trace.note(now, &operator.name, "done", &[], text),
                        Err(Failure(why)) => {
                            shared.trace.note(now, &operator.name, "failed", &[], || format!("{}: {why}", text()));
                            rest = ms(&operator.host) + 100 + operator.host.random() % 900;
                            break;
                        }
                    }
                }
                operator.busy.borrow_mut().insert(id, rest);
            });
        }
    }

    /// Tells clients where their volumes are.
    fn publish_places(&self, shared: &Shared, snapshot: &Snapshot) {
        for (id, volume) in &snapshot.desired.volumes {
            let Some(node) = &volume.target else { continue };
            if let Some(uri) = self.view.borrow().device_uri(node, *id) {
                let place = Place { node: node.clone(), uri };
                let before = shared.directory.borrow_mut().insert(*id, place.clone());
                if before.as_ref() != Some(&place) {
                    let text = || format!("volume {} is found on {node}", short(*id));
                    shared.trace.note(shared.watcher.now(), &self.name, "place", &[], text);
                }
            }
        }
    }

    async fn adopt_ledgers(&self, shared: &Rc<Shared>, snapshot: &Snapshot) {
        let news = self.view.borrow().ledger_news(&snapshot.desired);
        for (id, node, ledger) in news {
            let Some(volume) = snapshot.desired.volumes.get(&id) else { continue };
            let new = Volume { ledger: Some(ledger.clone()), ..volume.clone() };
            let revision = snapshot.revisions[&id];
            if shared.write_store(&self.host, &self.name, id, revision, Some(new)).await.is_ok() {
                shared.note_ledger(id, &node, volume.ledger.as_ref(), &ledger);
            }
        }
    }

    /// Carries out an action, if it is still safe with what is known now.
    async fn execute(&self, shared: &Rc<Shared>, action: &Action) -> Result<(), Failure> {
        let mut snapshot = shared.read_store(&self.host, &self.name).await?;
        let observed = self.view.borrow_mut().prepare(&mut snapshot.desired, ms(&self.host));
        safety::allow(action, &snapshot.desired, &observed).map_err(|refusal| Failure(refusal.0))?;
        let id = action.volume();
        let Some(volume) = snapshot.desired.volumes.get(&id).cloned() else { return Ok(()) };
        let revision = snapshot.revisions[&id];
        match action.node() {
            None => self.record(shared, action, volume, revision).await,
            Some(node) => {
                let members: &[Uuid] = match action {
                    Action::OpenNexus { children, .. } => children,
                    Action::AddChild { replica, .. } => std::slice::from_ref(replica),
                    _ => &[],
                };
                let placed = |v: &Volume| members.iter().any(|m| is_placed(v, *m));
                if placed(&volume) {
                    // What a nexus gets may hold data from then on.
                    let mut new = volume.clone();
                    for (_, copy) in new.copies.iter_mut().filter(|(id, _)| members.contains(id)) {
                        if copy.life == ReplicaLife::Placed {
                            copy.life = ReplicaLife::Member;
                        }
                    }
                    shared.write_store(&self.host, &self.name, id, revision, Some(new)).await?;
                }
                self.call(shared, action, &volume, node).await
            }
        }
    }

    /// Actions that only change records.
    async fn record(&self, shared: &Rc<Shared>, action: &Action, mut v: Volume, revision: u64) -> Result<(), Failure> {
        let id = action.volume();
        let life = |v: &mut Volume, replica: &Uuid, life| {
            if let Some(copy) = v.copies.get_mut(replica) {
                copy.life = life;
            }
        };
        match action {
            Action::Place { pool, .. } => {
                let replica = uuid::Builder::from_random_bytes(self.host.random_bytes()).into_uuid();
                shared.copies.borrow_mut().insert(replica, pool.node.clone());
                v.copies.insert(replica, Replica { pool: pool.clone(), life: ReplicaLife::Placed });
            }
            Action::Discard { replica, .. } => life(&mut v, replica, ReplicaLife::Discarded),
            Action::Retire { replica, .. } => life(&mut v, replica, ReplicaLife::Retired),
            Action::Reinstate { replica, .. } => life(&mut v, replica, ReplicaLife::Member),
            Action::ForgetReplica { replica, .. } => drop(v.copies.remove(replica)),
            Action::SetTarget { node, .. } => {
                v.target = Some(node.clone());
                v.nexus_nodes.insert(node.clone());
                if matches!(v.publish, Publish::On(_)) {
                    v.publish = Publish::On(node.clone());
                }
            }
            Action::ForgetNexus { node, .. } => drop(v.nexus_nodes.remove(node)),
            Action::ForgetVolume { .. } => {
                shared.write_store(&self.host, &self.name, id, revision, None).await?;
                return Ok(());
            }
            _ => return Ok(()),
        }
        Ok(shared.write_store(&self.host, &self.name, id, revision, Some(v)).await?)
    }

    /// The URI by which a nexus on `target` uses a copy.
    fn uri_for(&self, volume: &Volume, replica: Uuid, target: &str) -> Result<String, Failure> {
        let copy = volume.copies.get(&replica).ok_or_else(|| Failure("the copy is not known".into()))?;
        if copy.pool.node == target {
            return Ok(format!("bdev:///{replica}"));
        }
        let shared = self.view.borrow().replica_uri(&copy.pool.node, replica);
        shared.ok_or_else(|| Failure(format!("replica {replica} is not shared")))
    }

    async fn call(&self, shared: &Rc<Shared>, action: &Action, volume: &Volume, to: &str) -> Result<(), Failure> {
        let id = action.volume();
        let name = id.to_string();
        let from = (&self.host, self.name.as_str());
        match action {
            Action::CreateReplica { replica, pool, size, thin, share, .. } => {
                let request = CreateReplica {
                    uuid: replica.to_string(),
                    pool: pool.pool.clone(),
                    size: size.0,
                    thin: *thin,
                    share: share.then_some(Protocol::Nvmf),
                };
                shared.call(from, to, |n| Box::pin(async move { n.create_replica(request).await })).await?;
            }
            Action::ShareReplica { replica, share, .. } => {
                let (replica, share) = (replica.to_string(), share.then_some(Protocol::Nvmf));
                shared.call(from, to, move |n| Box::pin(async move { n.share_replica(replica, share).await })).await?;
            }
            Action::DestroyReplica { replica, .. } => {
                let (watch, replica) = (shared.clone(), *replica);
                let call = shared.call(from, to, move |n| {
                    Box::pin(async move {
                        watch.destroyed(id, replica);
                        n.destroy_replica(replica.to_string()).await
                    })
                });
                gone_is_fine(call.await)?;
            }
            Action::OpenNexus { children, .. } => {
                let uris: Result<Vec<String>, Failure> =
                    children.iter().map(|m| self.uri_for(volume, *m, to)).collect();
                let any = |m: &Uuid| self.uri_for(volume, *m, to).unwrap_or_else(|_| format!("bdev:///{m}"));
                let ledger = volume
                    .ledger
                    .as_ref()
                    .map(|l| LedgerInfo { generation: l.generation.0, in_sync: l.in_sync.iter().map(any).collect() });
                let request = CreateNexus { uuid: name, size: volume.size.0, children: uris?, ledger, managed: true };
                shared.call(from, to, |n| Box::pin(async move { n.create_nexus(request).await })).await?;
            }
            Action::ResizeReplica { replica, size, .. } => {
                let (replica, size) = (replica.to_string(), size.0);
                shared.call(from, to, move |n| Box::pin(async move { n.resize_replica(replica, size).await })).await?;
            }
            Action::ResizeNexus { size, .. } => {
                let size = size.0;
                shared.call(from, to, move |n| Box::pin(async move { n.resize_nexus(name, size).await })).await?;
            }
            Action::CloseNexus { .. } => {
                let call = shared.call(from, to, |n| Box::pin(async move { n.destroy_nexus(name).await }));
                gone_is_fine(call.await)?;
            }
            Action::Publish { .. } => {
                let publish = |n: Rc<engine::node::Node>| async move {
                    n.publish_nexus(name, String::new(), Protocol::Nvmf).await
                };
                shared.call(from, to, |n| Box::pin(publish(n))).await?;
            }
            Action::Unpublish { .. } => {
                shared.call(from, to, |n| Box::pin(async move { n.unpublish_nexus(name).await })).await?;
            }
            Action::AddChild { replica, .. } => {
                let uri = self.uri_for(volume, *replica, to)?;
                shared.call(from, to, |n| Box::pin(async move { n.add_child(name, uri, false).await })).await?;
            }
            Action::RemoveChild { replica, .. } => {
                let known = self.view.borrow().child_uri(to, id, *replica);
                let uri = known.unwrap_or_else(|| format!("bdev:///{replica}"));
                shared.call(from, to, |n| Box::pin(async move { n.remove_child(name, uri).await })).await?;
            }
            other => unreachable!("{other} is not for a node"),
        }
        Ok(())
    }
}

fn is_placed(volume: &Volume, replica: Uuid) -> bool {
    volume.copies.get(&replica).is_some_and(|c| c.life == ReplicaLife::Placed)
}

fn gone_is_fine(reply: Result<(), Error>) -> Result<(), Error> {
    match reply {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Shared {
    /// A copy is about to be destroyed on its node: it must not be one that the ledger counts on (invariant 10).
    fn destroyed(&self, volume: Uuid, replica: Uuid) {
        let Some(record) = self.store.volume(volume).filter(|v| v.life == plan::Life::Wanted) else { return };
        let good: BTreeSet<Uuid> = record.ledger.map(|l| l.in_sync).unwrap_or_default();
        self.oracle.check(!good.contains(&replica), || {
            format!("volume {}: {} is destroyed, and the ledger counts on it", short(volume), self.copy_name(replica))
        });
    }
}
