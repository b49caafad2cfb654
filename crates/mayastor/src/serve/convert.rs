//! From the node's types to those of the wire.

use api::{v0, v1};
use engine::meter::Flow;
use engine::model::{
    BdevInfo, ChildInfo, ChildState, Health, IoStats, LedgerInfo, NexusInfo, NexusStatistics, NodeReport,
    NodeStatistics, PoolInfo, Protocol, RebuildInfo, ReplicaContents, ReplicaInfo, ReplicaStats, SettingInfo,
};

pub fn contents_v1(uuid: String, contents: ReplicaContents) -> v1::ReplicaContents {
    let text = |uuid: Option<uuid::Uuid>| uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
    let member = |(member, in_sync): (uuid::Uuid, bool)| v1::LedgerMember { member: member.to_string(), in_sync };
    let (volume, who) = (text(contents.volume), text(contents.member));
    let empty = v1::ReplicaContents { uuid, volume, member: who, ..Default::default() };
    match contents.ledger {
        None => empty,
        Some(ledger) => v1::ReplicaContents {
            size: ledger.size,
            generation: ledger.generation,
            parent: ledger.parent,
            members: ledger.members.into_iter().map(member).collect(),
            ..empty
        },
    }
}

/// What is used, to v0.3.0, is what others cannot have any more: also the space of a thick replica that is not written.
pub fn pool_v0(pool: PoolInfo) -> v0::Pool {
    let state = match pool.state {
        Health::Online => v0::PoolState::PoolOnline,
        Health::Degraded => v0::PoolState::PoolDegraded,
        Health::Faulted => v0::PoolState::PoolFaulted,
    };
    v0::Pool { name: pool.name, disks: pool.disks, state: state.into(), capacity: pool.capacity, used: pool.committed }
}

pub fn replica_v0(replica: ReplicaInfo) -> v0::Replica {
    let share = match replica.share {
        // v0.3.0 has no word for a replica that is shared over NBD; its URI says it.
        None | Some(Protocol::Nbd) => v0::ShareProtocolReplica::ReplicaNone,
        Some(Protocol::Nvmf) => v0::ShareProtocolReplica::ReplicaNvmf,
        Some(Protocol::Iscsi) => v0::ShareProtocolReplica::ReplicaIscsi,
    };
    v0::Replica {
        uuid: replica.uuid,
        pool: replica.pool,
        thin: replica.thin,
        size: replica.size,
        share: share.into(),
        uri: replica.uri,
    }
}

pub fn stats_v0(replica: ReplicaStats) -> v0::ReplicaStats {
    let stats = v0::Stats {
        num_read_ops: replica.num_read_ops,
        num_write_ops: replica.num_write_ops,
        bytes_read: replica.bytes_read,
        bytes_written: replica.bytes_written,
    };
    v0::ReplicaStats { uuid: replica.uuid, pool: replica.pool, stats: Some(stats) }
}

/// v0.3.0 has three states of a child: whatever is neither in sync nor failed is degraded.
pub fn child_v0(child: &ChildInfo) -> v0::Child {
    let state = match child.state {
        ChildState::Online => v0::ChildState::ChildOnline,
        ChildState::Rebuilding | ChildState::Offline | ChildState::OutOfSync => v0::ChildState::ChildDegraded,
        ChildState::Faulted => v0::ChildState::ChildFaulted,
    };
    let percent = |rebuild: &RebuildInfo| i32::try_from(rebuild.percent()).expect("at most 100");
    let rebuild_progress = child.rebuild.as_ref().map_or(-1, percent);
    v0::Child { uri: child.uri.clone(), state: state.into(), rebuild_progress }
}

pub fn nexus_v0(nexus: &NexusInfo) -> v0::Nexus {
    let state = match nexus.state {
        Health::Online => v0::NexusState::NexusOnline,
        Health::Degraded => v0::NexusState::NexusDegraded,
        Health::Faulted => v0::NexusState::NexusFaulted,
    };
    v0::Nexus {
        uuid: nexus.uuid.clone(),
        size: nexus.size,
        state: state.into(),
        children: nexus.children.iter().map(child_v0).collect(),
        device_uri: nexus.device_uri.clone(),
        rebuilds: nexus.rebuilds(),
    }
}

pub fn bdev_v0(bdev: BdevInfo) -> v0::Bdev {
    v0::Bdev {
        name: bdev.name,
        uuid: bdev.uuid,
        num_blocks: bdev.num_blocks,
        blk_size: bdev.block_size,
        claimed: bdev.claimed_by.is_some(),
        claimed_by: bdev.claimed_by.unwrap_or_else(|| "Orphaned".into()),
        aliases: bdev.aliases.join(","),
        uri: bdev.uri,
    }
}

pub fn pool_v1(pool: PoolInfo) -> v1::Pool {
    let state = match pool.state {
        Health::Online => v1::PoolState::PoolOnline,
        Health::Degraded => v1::PoolState::PoolDegraded,
        Health::Faulted => v1::PoolState::PoolFaulted,
    };
    v1::Pool {
        name: pool.name,
        uuid: pool.uuid,
        disks: pool.disks,
        state: state.into(),
        reason: pool.reason,
        capacity: pool.capacity,
        used: pool.used,
        committed: pool.committed,
    }
}

pub fn replica_v1(replica: ReplicaInfo) -> v1::Replica {
    v1::Replica {
        uuid: replica.uuid,
        pool: replica.pool,
        size: replica.size,
        thin: replica.thin,
        allocated: replica.allocated,
        shared: replica.share.is_some(),
        uri: replica.uri,
        state: replica.state.to_string(),
    }
}

pub fn statistics_v1(statistics: NodeStatistics) -> v1::NodeStatistics {
    let flow = |f: Flow| v1::Flow { requests: f.requests, bytes: f.bytes, micros: f.micros, latency: f.latency };
    let io = |s: IoStats| v1::IoStats { reads: Some(flow(s.reads)), writes: Some(flow(s.writes)), errors: s.errors };
    let replica = |(uuid, stats)| v1::ReplicaStatistics { uuid, io: Some(io(stats)) };
    let child = |(uri, stats)| v1::ChildStatistics { uri, io: Some(io(stats)) };
    let nexus = |n: NexusStatistics| v1::NexusStatistics {
        uuid: n.uuid.to_string(),
        io: Some(io(n.io)),
        children: n.children.into_iter().map(child).collect(),
    };
    v1::NodeStatistics {
        instance: statistics.instance.to_string(),
        replicas: statistics.replicas.into_iter().map(replica).collect(),
        nexuses: statistics.nexuses.into_iter().map(nexus).collect(),
    }
}

pub fn rebuild_v1(rebuild: RebuildInfo) -> v1::Rebuild {
    v1::Rebuild {
        state: rebuild.state.to_string(),
        bytes_done: rebuild.bytes_done,
        bytes_total: rebuild.bytes_total,
        bytes_per_second: rebuild.bytes_per_second,
        eta_ms: rebuild.eta_ms.unwrap_or(0),
        source: rebuild.source,
    }
}

fn child_v1(child: ChildInfo) -> v1::Child {
    let state = match child.state {
        ChildState::Online => v1::ChildState::ChildOnline,
        ChildState::Rebuilding => v1::ChildState::ChildRebuilding,
        ChildState::Faulted => v1::ChildState::ChildFaulted,
        ChildState::Offline => v1::ChildState::ChildOffline,
        ChildState::OutOfSync => v1::ChildState::ChildOutOfSync,
    };
    v1::Child {
        uri: child.uri,
        state: state.into(),
        reason: child.reason,
        rebuild: child.rebuild.map(rebuild_v1),
        errors: child.errors,
    }
}

pub fn nexus_v1(nexus: NexusInfo) -> v1::Nexus {
    let state = match nexus.state {
        Health::Online => v1::NexusState::NexusOnline,
        Health::Degraded => v1::NexusState::NexusDegraded,
        Health::Faulted => v1::NexusState::NexusFaulted,
    };
    v1::Nexus {
        uuid: nexus.uuid,
        size: nexus.size,
        state: state.into(),
        reason: nexus.reason,
        children: nexus.children.into_iter().map(child_v1).collect(),
        device_uri: nexus.device_uri,
        generation: nexus.ledger.generation,
        in_sync: nexus.ledger.in_sync,
        block_size: nexus.block_size,
    }
}

pub fn ledger_from_v1(ledger: v1::Ledger) -> LedgerInfo {
    LedgerInfo { generation: ledger.generation, in_sync: ledger.in_sync }
}

pub fn config_v1(settings: Vec<SettingInfo>) -> v1::Config {
    let setting = |s: SettingInfo| v1::Setting { name: s.name, value: s.value, default: s.default, help: s.help };
    v1::Config { settings: settings.into_iter().map(setting).collect() }
}

pub fn report_v1(report: NodeReport, endpoint: &str) -> v1::NodeReport {
    v1::NodeReport {
        id: report.id,
        grpc_endpoint: endpoint.to_owned(),
        version: report.version,
        sequence: report.sequence,
        instance: report.instance.to_string(),
        pools: report.pools.into_iter().map(pool_v1).collect(),
        replicas: report.replicas.into_iter().map(replica_v1).collect(),
        nexuses: report.nexuses.into_iter().map(nexus_v1).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::model::RebuildState;

    fn child(state: ChildState, done: Option<u64>) -> ChildInfo {
        let rebuild = done.map(|bytes_done| RebuildInfo {
            state: RebuildState::Running,
            bytes_done,
            bytes_total: 200,
            bytes_per_second: 7,
            eta_ms: None,
            source: "bdev:///a".into(),
        });
        ChildInfo { uri: format!("bdev:///{state}"), state, reason: "why".into(), rebuild, errors: 3 }
    }

    fn nexus() -> NexusInfo {
        NexusInfo {
            uuid: "u".into(),
            size: 10,
            block_size: 4096,
            state: Health::Degraded,
            reason: "a child is missing".into(),
            children: vec![
                child(ChildState::Online, None),
                child(ChildState::Rebuilding, Some(50)),
                child(ChildState::Faulted, None),
                child(ChildState::Offline, None),
                child(ChildState::OutOfSync, None),
            ],
            device_uri: "nvmf://x".into(),
            ledger: LedgerInfo { generation: 9, in_sync: vec!["bdev:///a".into()] },
            managed: true,
        }
    }

    #[test]
    fn v0_knows_three_states_of_a_child_and_minus_one() {
        let nexus = nexus_v0(&nexus());
        use v0::ChildState::{ChildDegraded, ChildFaulted, ChildOnline};
        let states: Vec<_> = nexus.children.iter().map(v0::Child::state).collect();
        assert_eq!(states, [ChildOnline, ChildDegraded, ChildFaulted, ChildDegraded, ChildDegraded]);
        let progress: Vec<_> = nexus.children.iter().map(|c| c.rebuild_progress).collect();
        assert_eq!(progress, [-1, 25, -1, -1, -1]);
        assert_eq!((nexus.rebuilds, nexus.size, nexus.state()), (1, 10, v0::NexusState::NexusDegraded));
    }

    #[test]
    fn v1_keeps_all_that_the_node_knows() {
        let nexus = nexus_v1(nexus());
        use v1::ChildState::{ChildFaulted, ChildOffline, ChildOnline, ChildOutOfSync, ChildRebuilding};
        let states: Vec<_> = nexus.children.iter().map(v1::Child::state).collect();
        assert_eq!(states, [ChildOnline, ChildRebuilding, ChildFaulted, ChildOffline, ChildOutOfSync]);
        let rebuild = nexus.children[1].rebuild.clone().expect("it is being rebuilt");
        assert_eq!(
            (rebuild.bytes_done, rebuild.bytes_total, rebuild.eta_ms, rebuild.state.as_str()),
            (50, 200, 0, "running")
        );
        assert_eq!((nexus.generation, nexus.in_sync.len(), nexus.block_size), (9, 1, 4096));
    }
}
