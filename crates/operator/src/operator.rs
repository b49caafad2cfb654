//! The operator: what people write into objects becomes volumes and pools, and what is becomes their status.
//!
//! One loop looks at all objects and at all that the control plane knows, whenever either changes, and asks
//! [`crate::decide`]. What is to be done is done by a task for each object, one at a time, and tried again with growing
//! pauses. Everything is idempotent, so an operator that dies and one that takes over begin with the same look.

mod act;
mod write;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::Control;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::Api;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::decide::{self, View};
use crate::resource::{MayastorNode, MayastorPool, MayastorVolume};
use crate::service::{self, Service};
use crate::watch::{Seen, follow};

/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// The most.
const TICK: Duration = Duration::from_secs(5);
/// The first pause after a failure, doubled with each up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// An object: its kind's plural and its name.
type Id = (String, String);

/// Where the work on one object stands.
///
/// ```text
///   (none) ─► Busy ─► (none)
///              │ ▲
///       failed ▼ │ the pause is over, or the object was changed
///             Resting
/// ```
#[derive(Clone, Debug)]
enum Doing {
    /// Something is being done; why it failed the last time, if it did.
    Busy(Option<Trouble>),
    /// The last attempt failed.
    Resting(Trouble),
}

/// A failure.
#[derive(Clone, Debug)]
struct Trouble {
    why: String,
    pause: Duration,
    until: Instant,
    /// The object's generation that it was about.
    generation: Option<i64>,
}

impl Doing {
    fn trouble(&self) -> Option<&Trouble> {
        match self {
            Doing::Busy(trouble) => trouble.as_ref(),
            Doing::Resting(trouble) => Some(trouble),
        }
    }
}

/// See the module.
pub(crate) struct Operator {
    control: Control,
    namespace: String,
    client: Client,
    pools: Api<MayastorPool>,
    volumes: Api<MayastorVolume>,
    nodes: Api<MayastorNode>,
    work: Mutex<BTreeMap<Id, Doing>>,
    /// When a status was written last, by object: what only counts seconds is not written each second.
    written: Mutex<BTreeMap<Id, Instant>>,
    wake: Arc<Notify>,
}

/// Runs for as long as it is polled. `control` must be the one that leads; `service`, when there is one, leads to it.
pub async fn run(client: Client, namespace: &str, control: Control, service: Option<Service>) {
    let endpoint = async {
        if let Some(service) = &service {
            service::keep(&client, namespace, service).await;
        }
    };
    tokio::join!(endpoint, operate(client.clone(), namespace, control));
}

async fn operate(client: Client, namespace: &str, control: Control) {
    let wake = Arc::new(Notify::new());
    let operator = Arc::new(Operator {
        pools: Api::namespaced(client.clone(), namespace),
        volumes: Api::namespaced(client.clone(), namespace),
        nodes: Api::namespaced(client.clone(), namespace),
        namespace: namespace.to_owned(),
        work: Mutex::default(),
        written: Mutex::default(),
        wake: wake.clone(),
        client,
        control,
    });
    let (pools, volumes, nodes) = (Seen::new(), Seen::new(), Seen::new());
    let looks = async {
        let mut version = 0;
        loop {
            if let (Some(pools), Some(volumes), Some(nodes)) = (pools.all(), volumes.all(), nodes.all()) {
                operator.look(&pools, &volumes, &nodes).await;
            }
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                () = wake.notified() => {}
                now = operator.control.changed(version) => version = now,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    };
    tokio::join!(
        looks,
        follow(operator.pools.clone(), pools.clone(), wake.clone()),
        follow(operator.volumes.clone(), volumes.clone(), wake.clone()),
        follow(operator.nodes.clone(), nodes.clone(), wake.clone()),
    );
}

fn id<K: Resource<DynamicType = ()>>(object: &K) -> Id {
    (K::plural(&()).into_owned(), object.name_any())
}

impl Operator {
    /// One look at everything.
    async fn look(
        self: &Arc<Self>,
        pools: &BTreeMap<String, Arc<MayastorPool>>,
        volumes: &BTreeMap<String, Arc<MayastorVolume>>,
        nodes: &BTreeMap<String, Arc<MayastorNode>>,
    ) {
        let view = View::new(self.control.status());
        for pool in pools.values() {
            let decision = decide::pool::decide(pool, &view, self.trouble(&**pool).as_deref());
            let old = pool.status.clone().unwrap_or_default();
            self.tell(&**pool, &old.conditions, &decision.status.conditions).await;
            if old != decision.status {
                self.status(&self.pools, &**pool, &decision.status).await;
            }
            if let Some(action) = decision.action {
                let it = pool.clone();
                self.act(&**pool, |operator| async move { operator.pool(&it, action).await });
            }
        }
        for volume in volumes.values() {
            let decision = decide::volume::decide(volume, &view, self.trouble(&**volume).as_deref());
            let old = volume.status.clone().unwrap_or_default();
            self.tell(&**volume, &old.conditions, &decision.status.conditions).await;
            let only_words =
                crate::resource::VolumeStatus { reason: old.reason.clone(), ..decision.status.clone() } == old;
            if old != decision.status && (!only_words || self.may_write_words(&**volume)) {
                self.status(&self.volumes, &**volume, &decision.status).await;
            }
            if let Some(action) = decision.action {
                let it = volume.clone();
                self.act(&**volume, |operator| async move { operator.volume(&it, action).await });
            }
        }
        for node in nodes.values() {
            let decision = decide::node::decide(node, &view, self.trouble(&**node).as_deref());
            let (state, report) = decision.status;
            if node.status != Some(state) {
                self.status(&self.nodes, &**node, &state).await;
            }
            if node.spec.report.as_ref() != Some(&report) {
                self.report(node, &report).await;
            }
            if let Some(action) = decision.action {
                let it = node.clone();
                self.act(&**node, |operator| async move { operator.node(&it, action).await });
            }
        }
        let known = |(kind, name): &Id| match kind.as_str() {
            "mayastorpools" => pools.contains_key(name),
            "mayastorvolumes" => volumes.contains_key(name),
            _ => nodes.contains_key(name),
        };
        let mut work = self.work.lock().expect("nobody panics while holding the work");
        work.retain(|id, doing| known(id) || matches!(doing, Doing::Busy(_)));
        self.written.lock().expect("nobody panics while holding the times").retain(|id, _| known(id));
    }

    /// Why the last attempt to do something about an object failed, unless the object was changed since.
    fn trouble<K: Resource<DynamicType = ()>>(&self, object: &K) -> Option<String> {
        let work = self.work.lock().expect("nobody panics while holding the work");
        let trouble = work.get(&id(object))?.trouble()?;
        (trouble.generation == object.meta().generation).then(|| trouble.why.clone())
    }

    /// Does something about an object, unless something is being done or its pause is not over.
    fn act<K, F, W>(self: &Arc<Self>, object: &K, what: W)
    where
        K: Resource<DynamicType = ()> + Debug,
        F: Future<Output = Result<(), String>> + Send + 'static,
        W: FnOnce(Arc<Self>) -> F,
    {
        let (id, generation) = (id(object), object.meta().generation);
        let before = {
            let mut work = self.work.lock().expect("nobody panics while holding the work");
            let before = match work.get(&id) {
                Some(Doing::Busy(_)) => return,
                Some(Doing::Resting(t)) if t.generation == generation && t.until > Instant::now() => return,
                Some(Doing::Resting(t)) => Some(t.clone()).filter(|t| t.generation == generation),
                None => None,
            };
            work.insert(id.clone(), Doing::Busy(before.clone()));
            before
        };
        let (operator, doing) = (self.clone(), what(self.clone()));
        tokio::spawn(async move {
            let done = doing.await;
            let mut work = operator.work.lock().expect("nobody panics while holding the work");
            match done {
                Ok(()) => drop(work.remove(&id)),
                Err(why) => {
                    tracing::warn!("{} {}: {why}", id.0, id.1);
                    let pause = before.map_or(FIRST, |t| (t.pause * 2).min(LONGEST));
                    let until = Instant::now() + pause;
                    work.insert(id, Doing::Resting(Trouble { why, pause, until, generation }));
                }
            }
            drop(work);
            operator.wake.notify_one();
        });
    }

    /// Tells people of conditions that are new.
    async fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, old: &[Condition], new: &[Condition]) {
        for condition in new {
            let before = old.iter().find(|c| c.type_ == condition.type_);
            let said = |c: &Condition| c.reason == condition.reason && c.message == condition.message;
            // How volumes are is told by the control plane's own events.
            if condition.type_ == "Healthy" || before.is_some_and(said) {
                continue;
            }
            self.event(object, condition).await;
        }
    }
}
