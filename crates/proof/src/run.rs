//! One run of a scenario: the cluster comes up, things go wrong, things stop to go wrong, and everything must be as it was
//! asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use block::probe::{Mark, set_checks, take_marks};
use block::{Bytes, Instant};
use engine::model::{ChildState, CreatePool, Health};
use plan::{Life, Publish, Volume};

use crate::client::{self, Client};
use crate::cluster::{Cluster, Shared, disk_path, volume_id};
use crate::operator;
use crate::oracle::{Wrong, short};
use crate::scenario::Scenario;
use crate::trouble::Trouble;

/// How long the cluster may take to come up, and to come to rest.
const BOOT: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(240);
/// The world is looked at so often, at least.
const SLICE: Duration = Duration::from_millis(100);

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// What went wrong, if anything.
    pub wrong: Option<Wrong>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// Events in the trace.
    pub events: u64,
    /// Requests of clients that were answered well.
    pub requests: u64,
    /// Invariants that were looked at.
    pub checks: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Blocks that lost unflushed contents with the power, as they may.
    pub losses: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Rare paths that were reached.
    pub marks: Vec<(Mark, u64)>,
    /// The lines of the trace, when they were asked for.
    pub lines: Vec<String>,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario, keep_lines: bool) -> Report {
    let _ = take_marks();
    set_checks(true);
    crate::panics::listen();
    let cluster = Cluster::new(scenario.clone(), keep_lines);
    let shared = cluster.shared.clone();
    let mut run = Run { cluster, trouble: Trouble::default(), clients: Vec::new() };
    let ended = catch_unwind(AssertUnwindSafe(|| run.all()));
    let panicked = ended.is_err();
    if panicked {
        shared.oracle.accuse(Wrong::Panic(crate::panics::take()));
    }
    let (now, pulse) = (run.cluster.world.now(), run.cluster.world.pulse());
    let report = Report {
        wrong: shared.oracle.wrong(),
        hash: shared.trace.hash() ^ pulse,
        events: shared.trace.events(),
        requests: run.clients.iter().map(|c| c.done.get()).sum(),
        checks: shared.oracle.checks(),
        faults: run.trouble.faults,
        losses: shared.oracle.losses(),
        simulated: now.since(Instant(0)),
        marks: take_marks(),
        lines: shared.trace.take_lines(),
    };
    drop(shared);
    if panicked {
        // Something is in the middle of what it did; dropping it may panic again, and that is of no interest.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(run)));
    } else {
        drop(run);
    }
    crate::panics::ignore();
    report
}

struct Run {
    cluster: Cluster,
    trouble: Trouble,
    clients: Vec<Rc<Client>>,
}

impl Run {
    fn shared(&self) -> &Rc<Shared> {
        &self.cluster.shared
    }
    fn now(&self) -> Instant {
        self.cluster.world.now()
    }
    fn is_over(&self) -> bool {
        self.shared().oracle.wrong().is_some()
    }
    fn fail(&self, why: String) {
        self.shared().oracle.accuse(Wrong::Liveness(why));
    }

    fn all(&mut self) {
        self.boot();
        if self.is_over() {
            return;
        }
        self.begin_work();
        self.trouble();
        if self.is_over() {
            return;
        }
        self.peace();
        if self.is_over() {
            return;
        }
        crate::audit::mirrors(&mut self.cluster);
    }

    /// Runs the world until `until`, or until something is wrong.
    fn run_until(&mut self, until: Instant) {
        while self.now() < until && !self.is_over() {
            let due = self.trouble.next().unwrap_or(until);
            let next = until.min(due).min(self.now() + SLICE);
            self.cluster.world.run_until(next);
            self.trouble.end_due(&self.cluster, false);
        }
    }

    /// Runs until `done`; whether it was in time.
    fn wait(&mut self, limit: Duration, done: impl Fn(&Run) -> bool) -> bool {
        let end = self.now() + limit;
        while !done(self) {
            if self.now() >= end || self.is_over() {
                return false;
            }
            self.run_until(self.now() + SLICE);
        }
        true
    }

    // ---- the cluster comes up ----------------------------------------------------------------------------------------

    fn boot(&mut self) {
        let names = self.cluster.node_names();
        for name in &names {
            self.cluster.start(name);
        }
        let all = names.len();
        if !self.wait(BOOT, |run| run.shared().machines.borrow().len() == all) {
            return self.fail("the engines did not start".into());
        }
        for name in &names {
            self.set_up(name);
        }
        let with_pool =
            |run: &Run| run.shared().machines.borrow().values().filter(|m| !m.node.pools().is_empty()).count();
        if !self.wait(BOOT, |run| with_pool(run) == all) {
            return self.fail("the pools were not made".into());
        }
        for (k, plan) in self.shared().scenario.volumes.iter().enumerate() {
            let volume = Volume {
                name: format!("v{k}"),
                size: Bytes(plan.bytes),
                replicas: plan.replicas,
                thin: plan.thin,
                required_nodes: BTreeSet::new(),
                preferred_nodes: BTreeSet::new(),
                topology: plan::Topology::default(),
                moving: None,
                operation: String::new(),
                publish: Publish::Anywhere,
                hosts: BTreeMap::new(),
                life: Life::Wanted,
                target: None,
                nexus_nodes: BTreeSet::new(),
                ledger: None,
                copies: BTreeMap::new(),
            };
            self.shared().store.edit(volume_id(k), |_| Some(volume));
        }
        operator::start(self.shared(), self.cluster.world.node("operator"), "operator");
        let volumes = self.shared().scenario.volumes.len();
        if !self.wait(BOOT, |run| run.shared().directory.borrow().len() == volumes) {
            self.fail("the volumes were not published".into());
        }
    }

    fn set_up(&self, name: &str) {
        let machine = self.shared().machines.borrow()[name].clone();
        let knobs = self.shared().scenario.knobs.clone();
        let pool = CreatePool {
            name: "pool".into(),
            disks: vec![disk_path(name)],
            block_size: knobs.block_bytes,
            ..CreatePool::default()
        };
        let settings = [
            ("nexus.member_deadline_ms", knobs.member_deadline_ms),
            ("nexus.clear_after_ms", knobs.clear_after_ms),
            ("nexus.error_threshold", knobs.error_threshold),
            ("rebuild.segment_kib", knobs.segment_kib),
            ("rebuild.tasks", knobs.rebuild_tasks),
        ];
        machine.host.spawn(async move {
            for (name, value) in settings {
                machine.node.set_setting(name.into(), value.to_string()).await.expect("the setting is valid");
            }
            machine.node.create_pool(pool).await.expect("a blank disk becomes a pool");
        });
    }

    fn begin_work(&mut self) {
        let shared = self.shared().clone();
        for (k, plan) in shared.scenario.volumes.iter().enumerate() {
            let name = format!("c{}", k + 1);
            let blocks = plan.bytes / u64::from(shared.scenario.knobs.block_bytes);
            let host = self.cluster.world.node(&name);
            self.clients.push(client::start(&shared, host, &name, volume_id(k), k as u64 + 1, blocks));
        }
    }

    // ---- things go wrong ---------------------------------------------------------------------------------------------

    fn trouble(&mut self) {
        let began = self.now();
        let events = self.shared().scenario.events.clone();
        for event in events {
            self.run_until(began + Duration::from_millis(event.at_ms));
            if self.is_over() {
                return;
            }
            self.trouble.inject(&self.cluster, &event.fault);
        }
        let end = began + Duration::from_millis(self.shared().scenario.run_ms);
        self.run_until(end);
    }

    // ---- things stop to go wrong -------------------------------------------------------------------------------------

    fn peace(&mut self) {
        self.cluster.note("world", "peace", String::new);
        self.trouble.end_all(&self.cluster);
        self.shared().calm.set(true);
        let clients = self.clients.len();
        let end = self.now() + REST;
        let at_rest = |run: &Run| run.shared().finished.get() == clients && run.unrest().is_none();
        while !self.wait(Duration::from_secs(20), at_rest) {
            if self.is_over() {
                return;
            }
            if self.now() >= end {
                let why = self.unrest().unwrap_or_else(|| "a client still waits for an answer".into());
                return self.fail(why);
            }
            self.trouble.restart_broken(&self.cluster);
        }
    }

    /// What is not as it was asked for, if anything.
    fn unrest(&self) -> Option<String> {
        let shared = self.shared();
        for k in 0..shared.scenario.volumes.len() {
            let id = volume_id(k);
            let name = short(id);
            let record = shared.store.volume(id)?;
            let machines = shared.machines.borrow();
            let nexus = record.target.as_ref().and_then(|t| machines.get(t)).and_then(|m| m.node.nexus(id));
            let Some(nexus) = nexus else { return Some(format!("volume {name} has no nexus")) };
            if nexus.state != Health::Online {
                let children: Vec<String> =
                    nexus.children.iter().map(|c| format!("{} {} {}", c.uri, c.state, c.reason)).collect();
                return Some(format!("volume {name} is {}: {} [{}]", nexus.state, nexus.reason, children.join(", ")));
            }
            let good = nexus.children.iter().filter(|c| c.state == ChildState::Online).count();
            if good != record.replicas as usize || record.copies.len() != good || record.nexus_nodes.len() != 1 {
                let copies = record.copies.len();
                return Some(format!("volume {name} has {good} of {} good copies, {copies} in all", record.replicas));
            }
            if nexus.device_uri.is_empty() {
                return Some(format!("volume {name} is not published"));
            }
        }
        None
    }
}
