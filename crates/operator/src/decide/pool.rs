//! Pools.

use api::v1;
use kube::ResourceExt;

use super::{Decision, View, signed, some};
use crate::resource::{FINALIZER, MayastorPool, PoolState, PoolStatus, set_condition};

/// What is to be done about a pool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Say that its object must not go before the pool does.
    Hold,
    /// Make it, or import it.
    Create,
    /// Add a disk.
    AddDisk(String),
    /// Destroy it: no volume has a copy in it.
    Destroy,
    /// There is nothing left: let the object go.
    Release,
}

/// A disk's name, however it is written: what follows the scheme of a file or device, without parameters.
fn disk(text: &str) -> &str {
    let text = text.split('?').next().unwrap_or(text);
    text.strip_prefix("aio://").or_else(|| text.strip_prefix("uring://")).unwrap_or(text)
}

/// The disks that are asked for and not there, if all that are there are asked for.
fn missing(wanted: &[String], there: &[String]) -> Option<Vec<String>> {
    let foreign = there.iter().any(|t| !wanted.iter().any(|w| disk(w) == disk(t)));
    let missing = wanted.iter().filter(|w| !there.iter().any(|t| disk(w) == disk(t))).cloned();
    (!foreign).then(|| missing.collect())
}

/// Decides. `trouble`: why the last attempt to do something about it failed.
pub(crate) fn decide(pool: &MayastorPool, view: &View, trouble: Option<&str>) -> Decision<PoolStatus, Action> {
    let name = pool.name_any();
    let node = view.nodes.get(&pool.spec.node);
    let there = view.pools.get(&(pool.spec.node.clone(), name.clone()));
    let mut status = pool.status.clone().unwrap_or_default();
    status.observed_generation = pool.metadata.generation;
    status.reason = String::new();
    if let Some(there) = there {
        status.disks.clone_from(&there.disks);
        // A node that is away tells nothing; what was known of the size is still true.
        if there.capacity > 0 {
            status.capacity = signed(there.capacity);
            status.used = signed(there.used);
            status.committed = signed(there.committed);
        }
    }
    let online = node.is_some_and(|n| n.state == "online");
    let held = pool.finalizers().iter().any(|f| f == FINALIZER);
    let missing = there.map_or_else(|| Some(Vec::new()), |t| missing(&pool.spec.disks, &t.disks));
    let (state, word, why) = match (node, there) {
        (None, _) => (PoolState::Pending, "NodeUnknown", format!("mayastor does not run on node {:?}", pool.spec.node)),
        (Some(_), there) if !online => {
            let was = there.is_some() || status.capacity > 0;
            let state = if was { PoolState::Offline } else { PoolState::Pending };
            (state, "NodeOffline", format!("mayastor does not run on the node {:?}", pool.spec.node))
        }
        (_, None) => match trouble {
            Some(why) => (PoolState::Pending, "Refused", why.to_owned()),
            None => (PoolState::Pending, "Creating", "Creating the pool".to_owned()),
        },
        (_, Some(there)) if missing.is_none() => {
            let disks = there.disks.join(", ");
            let why = format!("the node has a pool of that name on other disks ({disks}), which is left alone");
            (PoolState::Pending, "OtherDisks", why)
        }
        (_, Some(there)) => seen(there),
    };
    status.state = state;
    if !matches!(state, PoolState::Online) {
        status.reason.clone_from(&why);
    }
    let generation = pool.metadata.generation;
    let ready = matches!(state, PoolState::Online | PoolState::Degraded);
    set_condition(&mut status.conditions, "Ready", ready, word, &why, generation);

    let action = if pool.metadata.deletion_timestamp.is_some() {
        if !held {
            return Decision { status, action: None };
        }
        let ours = there.is_some() && missing.is_some();
        going(pool, view, trouble, (node.is_some(), online, ours), &mut status)
    } else {
        let to_add = missing.unwrap_or_default().into_iter().next();
        match (there, to_add) {
            _ if !online => None,
            _ if !held => Some(Action::Hold),
            (None, _) => Some(Action::Create),
            (Some(_), Some(disk)) => Some(Action::AddDisk(disk)),
            (Some(_), None) => None,
        }
    };
    if let (Some(Action::AddDisk(disk)), Some(why)) = (&action, trouble) {
        status.reason = format!("{disk} cannot be added: {why}");
    }
    Decision { status, action }
}

/// The state of a pool that its node shows.
fn seen(there: &v1::Pool) -> (PoolState, &'static str, String) {
    let reason = |otherwise: &str| if there.reason.is_empty() { otherwise.to_owned() } else { there.reason.clone() };
    match there.state() {
        v1::PoolState::PoolOnline => (PoolState::Online, "Online", "copies can be made in it".to_owned()),
        v1::PoolState::PoolDegraded => (PoolState::Degraded, "Degraded", reason("its node does not say why")),
        v1::PoolState::PoolFaulted => (PoolState::Faulted, "Faulted", reason("its node does not say why")),
        v1::PoolState::PoolUnknown => (PoolState::Unknown, "Unknown", reason("its node does not say how it is")),
    }
}

/// What stands between a pool and its end. What volumes need is never destroyed.
fn going(
    pool: &MayastorPool,
    view: &View,
    trouble: Option<&str>,
    (known, online, ours): (bool, bool, bool),
    status: &mut PoolStatus,
) -> Option<Action> {
    let users = view.users(&pool.spec.node, &pool.name_any());
    let (word, why, action) = if !users.is_empty() {
        let why = format!("it holds copies of {}; they must be moved or deleted first", some(&users));
        ("InUse", why, None)
    } else if !known {
        ("NodeGone", "its node was removed".to_owned(), Some(Action::Release))
    } else if !online {
        let why = format!("node {} cannot be reached; if it never comes back, remove the node", pool.spec.node);
        ("NodeOffline", why, None)
    } else if ours {
        let why = trouble.map_or_else(|| "it is being destroyed".to_owned(), str::to_owned);
        (if trouble.is_some() { "Refused" } else { "Destroying" }, why, Some(Action::Destroy))
    } else {
        ("Gone", "its node has no such pool".to_owned(), Some(Action::Release))
    };
    let free = matches!(action, Some(Action::Release));
    set_condition(&mut status.conditions, "Deletable", free, word, &why, pool.metadata.generation);
    status.reason = format!("it is being deleted: {why}");
    action
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::PoolSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn pool(disks: &[&str]) -> MayastorPool {
        let spec = PoolSpec { node: "n1".into(), disks: disks.iter().map(|d| (*d).to_owned()).collect() };
        let mut pool = MayastorPool::new("p", spec);
        pool.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        pool
    }

    fn deleted(mut pool: MayastorPool) -> MayastorPool {
        pool.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        pool
    }

    fn view(state: &str, disks: Option<&[&str]>, volume: bool) -> View {
        let node = v1::Node { id: "n1".into(), state: state.into(), ..v1::Node::default() };
        let pool = disks.map(|disks| v1::NodePool {
            node: "n1".into(),
            pool: Some(v1::Pool {
                name: "p".into(),
                disks: disks.iter().map(|d| (*d).to_owned()).collect(),
                state: v1::PoolState::PoolOnline.into(),
                capacity: 10,
                ..v1::Pool::default()
            }),
        });
        let replica = v1::VolumeReplica { node: "n1".into(), pool: "p".into(), ..v1::VolumeReplica::default() };
        let v = v1::Volume { name: "v".into(), replicas: vec![replica], ..v1::Volume::default() };
        View::new(v1::Status {
            nodes: vec![node],
            pools: pool.into_iter().collect(),
            volumes: if volume { vec![v] } else { Vec::new() },
        })
    }

    fn action(pool: &MayastorPool, view: &View) -> Option<Action> {
        decide(pool, view, None).action
    }

    #[test]
    fn a_pool_is_made_when_its_node_is_there() {
        let nowhere = View::new(v1::Status::default());
        let found = decide(&pool(&["/dev/a"]), &nowhere, None);
        assert_eq!((found.action, found.status.state), (None, PoolState::Pending));
        assert_eq!(found.status.reason, "mayastor does not run on node \"n1\"");
        assert_eq!(action(&pool(&["/dev/a"]), &view("offline", None, false)), None);
        assert_eq!(action(&pool(&["/dev/a"]), &view("online", None, false)), Some(Action::Create));
        let mut new = pool(&["/dev/a"]);
        new.metadata.finalizers = None;
        assert_eq!(action(&new, &view("online", None, false)), Some(Action::Hold));
    }

    #[test]
    fn disks_are_the_same_however_they_are_written() {
        let there = view("online", Some(&["aio:///dev/a?blk_size=4096"]), false);
        assert_eq!(action(&pool(&["/dev/a"]), &there), None);
        assert_eq!(decide(&pool(&["/dev/a"]), &there, None).status.state, PoolState::Online);
        assert_eq!(action(&pool(&["/dev/a", "/dev/b"]), &there), Some(Action::AddDisk("/dev/b".into())));
        let other = decide(&pool(&["/dev/b"]), &there, None);
        assert_eq!((other.action, other.status.state), (None, PoolState::Pending));
    }

    #[test]
    fn a_pool_that_volumes_need_is_not_destroyed() {
        let found = decide(&deleted(pool(&["/dev/a"])), &view("online", Some(&["/dev/a"]), true), None);
        assert_eq!(found.action, None);
        let condition = found.status.conditions.iter().find(|c| c.type_ == "Deletable").expect("it is there");
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "InUse"));
        assert!(condition.message.contains("copies of v"), "{}", condition.message);
        // Nor while its node is away, with or without copies.
        assert_eq!(action(&deleted(pool(&["/dev/a"])), &view("offline", Some(&["/dev/a"]), false)), None);
    }

    #[test]
    fn a_pool_goes_step_by_step_and_a_stranger_of_its_name_stays() {
        let going = deleted(pool(&["/dev/a"]));
        assert_eq!(action(&going, &view("online", Some(&["/dev/a"]), false)), Some(Action::Destroy));
        assert_eq!(action(&going, &view("online", None, false)), Some(Action::Release));
        assert_eq!(action(&going, &view("online", Some(&["/dev/x"]), false)), Some(Action::Release));
        assert_eq!(action(&going, &View::new(v1::Status::default())), Some(Action::Release));
    }
}
