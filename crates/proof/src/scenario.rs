//! What a run is made of: the cluster, the work, and the schedule of what goes wrong. Plain data, so that it can be
//! printed, stored, replayed, and made shorter.

use serde::{Deserialize, Serialize};

use crate::Tape;

/// A run, before it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// The seed of the world: the order of tasks, latencies, what a power cut keeps.
    pub seed: u64,
    /// The storage nodes.
    pub nodes: Vec<NodePlan>,
    /// The volumes.
    pub volumes: Vec<VolumePlan>,
    /// Deadlines and the like.
    pub knobs: Knobs,
    /// What the clients do.
    pub work: Work,
    /// How long things go wrong, in milliseconds.
    pub run_ms: u64,
    /// What goes wrong, by time.
    pub events: Vec<Event>,
}

/// A storage node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// The size of its one disk in MiB.
    pub disk_mib: u64,
    /// How much its clock drifts, in millionths.
    pub drift_ppm: i32,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePlan {
    /// Its size in bytes.
    pub bytes: u64,
    /// Copies that are wanted.
    pub replicas: u32,
    /// Whether copies take space only as they are written.
    pub thin: bool,
}

/// Deadlines and limits, small ones, so that they are met in every run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knobs {
    /// The block size of all disks: 512 or 4096.
    pub block_bytes: u32,
    /// `nexus.member_deadline_ms`.
    pub member_deadline_ms: u64,
    /// `nexus.clear_after_ms`.
    pub clear_after_ms: u64,
    /// `nexus.error_threshold`.
    pub error_threshold: u64,
    /// `rebuild.segment_kib`.
    pub segment_kib: u64,
    /// `rebuild.tasks`.
    pub rebuild_tasks: u64,
    /// The planner's patience with a node that is away.
    pub node_grace_ms: u64,
    /// How often the operator hears from each node.
    pub heartbeat_ms: u64,
    /// How long a call to a node may take.
    pub rpc_ms: u64,
}

/// What the clients do: one client a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Requests at a time.
    pub depth: u64,
    /// Pause between two requests of one worker, at most.
    pub think_ms: u64,
    /// Blocks of a volume that are used, spread over it.
    pub blocks: u64,
    /// Of 100 requests, how many change something.
    pub changes: u64,
    /// Of 100 requests, how many are flushes.
    pub flushes: u64,
    /// Of 100 changes, how many are write-zeroes or unmaps.
    pub zeroes: u64,
    /// Of 100 writes, how many have FUA set.
    pub forced: u64,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds after the clients have begun.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// What can go wrong. Places are `n1`.. for storage nodes, `c1`.. for clients, `store` for the cluster's store, `operator`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// SIGKILL of an engine; it is started again after a while.
    KillProcess {
        /// Where.
        node: String,
        /// For how long.
        down_ms: u64,
    },
    /// A machine loses power, and its disks their caches.
    PowerCut {
        /// Where.
        node: String,
        /// For how long.
        down_ms: u64,
    },
    /// All machines lose power at once.
    PowerCutAll {
        /// The first is back after this time, the others one by one.
        down_ms: u64,
    },
    /// A process stops where it stands, and goes on later without having noticed (a zombie).
    Pause {
        /// Where.
        node: String,
        /// For how long.
        ms: u64,
    },
    /// Nothing arrives at or leaves a place.
    Isolate {
        /// Where.
        place: String,
        /// For how long.
        ms: u64,
    },
    /// Nothing arrives in one direction, or in both.
    Cut {
        /// From here.
        from: String,
        /// To here.
        to: String,
        /// Also back.
        both: bool,
        /// For how long.
        ms: u64,
    },
    /// Everything in one direction takes longer.
    Slow {
        /// From here.
        from: String,
        /// To here.
        to: String,
        /// By how much.
        by_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// All connections of a node are reset, wherever they are.
    Reset {
        /// Where.
        node: String,
    },
    /// The connections between two places fall silent for good; new ones work.
    Silence {
        /// The one.
        a: String,
        /// The other.
        b: String,
    },
    /// A node refuses new connections.
    Refuse {
        /// Where.
        node: String,
        /// For how long.
        ms: u64,
    },
    /// A disk does not answer.
    DiskStall {
        /// Where.
        node: String,
        /// For how long.
        ms: u64,
    },
    /// A disk is slow.
    DiskSlow {
        /// Where.
        node: String,
        /// By how much.
        by_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// The next flush of a disk fails, and loses some of what was dirty.
    FlushFails {
        /// Where.
        node: String,
    },
    /// A disk is pulled, and put back later with what it held then, at a restart of its machine.
    DiskGone {
        /// Where.
        node: String,
        /// For how long.
        ms: u64,
    },
    /// Some blocks of user data can not be read until they are written again.
    BadBlocks {
        /// Where.
        node: String,
        /// Which ones.
        salt: u64,
    },
    /// A page of metadata rots: a bit is another one, and nothing says so.
    BitRot {
        /// Where.
        node: String,
        /// Which page, and which bit.
        salt: u64,
    },
    /// A write of metadata arrived at another place with metadata as well.
    Misdirected {
        /// Where.
        node: String,
        /// From and to where.
        salt: u64,
    },
    /// A page of metadata can not be read until it is written again.
    BadMetadata {
        /// Where.
        node: String,
        /// Which one.
        salt: u64,
    },
    /// Somebody else uses up a pool.
    FillPool {
        /// Where.
        node: String,
        /// For how long.
        ms: u64,
    },
    /// The store makes changes and its answers get lost.
    LostReplies {
        /// How many of 100.
        percent: u64,
        /// For how long.
        ms: u64,
    },
    /// The operator dies wherever it is; another is started after a while.
    OperatorDies {
        /// For how long.
        down_ms: u64,
    },
    /// Two operators are alive.
    SecondOperator {
        /// For how long.
        ms: u64,
    },
    /// Somebody wants the volume on another node.
    Move {
        /// Which, from 0.
        volume: usize,
        /// Where.
        node: String,
    },
    /// Somebody wants more or fewer copies.
    Replicas {
        /// Which, from 0.
        volume: usize,
        /// How many.
        count: u32,
    },
}

/// The name of the `k`-th storage node, from 0.
pub fn node_name(k: usize) -> String {
    format!("n{}", k + 1)
}

impl Fault {
    /// The same with every place as `name_of` has it: `nexus-1` is where the nexus of volume 1 is, `copy-1-0` where its first
    /// good copy is.
    #[must_use]
    pub fn at_real_places(&self, name_of: &dyn Fn(&str) -> String) -> Fault {
        let mut value = serde_json::to_value(self).expect("plain data");
        let fields = value.as_object_mut().into_iter().flat_map(|o| o.values_mut()).filter_map(|v| v.as_object_mut());
        for field in fields.flat_map(|f| f.values_mut()) {
            if let serde_json::Value::String(place) = field {
                *place = name_of(place);
            }
        }
        serde_json::from_value(value).expect("the same fault elsewhere")
    }
}

/// What kinds of faults a scenario may have on; each seed has some of them.
const KINDS: u64 = 24;

impl Scenario {
    /// A scenario from a tape: sizes, limits, and which faults are on, are all choices.
    pub fn generate(tape: &mut Tape) -> Scenario {
        let seed = tape.below(u64::MAX);
        let nodes = tape.between(3, 5);
        let volumes = tape.between(1, 2);
        let skewed = tape.chance(30);
        let nodes: Vec<NodePlan> = (0..nodes)
            .map(|_| NodePlan { disk_mib: 64, drift_ppm: if skewed { tape.below(100_000) as i32 - 50_000 } else { 0 } })
            .collect();
        let volumes = (0..volumes).map(|_| VolumePlan::generate(tape)).collect();
        let knobs = Knobs::generate(tape);
        let work = Work::generate(tape);
        let run_ms = tape.between(5, 20) * 1000;
        let mut scenario = Scenario { seed, nodes, volumes, knobs, work, run_ms, events: Vec::new() };
        scenario.events = scenario.trouble(tape);
        scenario
    }

    fn trouble(&self, tape: &mut Tape) -> Vec<Event> {
        let share = *tape.pick(&[10, 20, 40]);
        let on: Vec<u64> = (0..KINDS).filter(|_| tape.chance(share)).collect();
        let count = if on.is_empty() { 0 } else { tape.between(1, 16) };
        let mut events: Vec<Event> = (0..count)
            .map(|_| {
                let at_ms = tape.below(self.run_ms);
                let kind = *tape.pick(&on);
                Event { at_ms, fault: self.fault(kind, tape) }
            })
            .collect();
        for _ in 0..*tape.pick(&[0, 0, 1, 2, 4]) {
            let at_ms = tape.below(self.run_ms);
            let burst = self.burst(tape).into_iter();
            events.extend(burst.map(|(after_ms, fault)| Event { at_ms: at_ms + after_ms, fault }));
        }
        events.sort_by_key(|e| e.at_ms);
        events
    }

    /// Faults that belong together, and when each comes after the first: chance alone would seldom put them side by side.
    fn burst(&self, tape: &mut Tape) -> Vec<(u64, Fault)> {
        let v = tape.below(self.volumes.len() as u64) + 1;
        let (nexus, copy) = (format!("nexus-{v}"), |k: u64| format!("copy-{v}-{k}"));
        let Knobs { member_deadline_ms, node_grace_ms, .. } = self.knobs;
        let soon = tape.below(member_deadline_ms + 500);
        let long = node_grace_ms + *tape.pick(&[500, 2000, 5000]);
        let mut crash = |node: String, down_ms: u64| match tape.below(2) {
            0 => Fault::KillProcess { node, down_ms },
            _ => Fault::PowerCut { node, down_ms },
        };
        match soon % 9 {
            // The nexus is replaced, and comes back without knowing it.
            0 => vec![(0, Fault::Pause { node: nexus, ms: long })],
            1 => vec![(0, Fault::Isolate { place: nexus, ms: long })],
            // A member falls silent; the nexus dies about when that is recorded; only the silent one is back soon.
            2 => vec![
                (0, Fault::Isolate { place: copy(1), ms: soon + 300 }),
                (soon, crash(nexus, 300)),
                (soon + 20, crash(copy(2), 5000)),
            ],
            // One that was away and missed writes is back just as the others go.
            3 => vec![(0, crash(copy(1), 1500)), (1200 + soon % 500, crash(nexus, 5000)), (1750, crash(copy(2), 5000))],
            // A rebuild under load loses its source, its target, or its nexus.
            4 => vec![
                (0, crash(copy(1), 300)),
                (600 + soon, crash(copy(soon % 3), 300)),
                (900 + soon, crash(nexus, 300)),
            ],
            // The nexus dies with writes under way; then everybody's caches go.
            5 => vec![(0, crash(nexus, 50)), (soon, Fault::PowerCutAll { down_ms: 50 })],
            // A machine that has hardly started goes again.
            6 => (0..4).map(|k| (k * (53 + soon % 40), Fault::PowerCut { node: copy(1), down_ms: 50 })).collect(),
            // The nexus is apart from a copy that loses power, perhaps the last one.
            7 => vec![
                (0, Fault::Move { volume: v as usize - 1, node: self.some_node(tape) }),
                (3000, Fault::PowerCut { node: copy(0), down_ms: 300 }),
                (3000 + soon, Fault::PowerCut { node: copy(1), down_ms: 300 }),
            ],
            // A pool is full, then loses power.
            _ => {
                let (node, down_ms) = (copy(soon % 3), 300);
                let fill = Fault::FillPool { node: node.clone(), ms: 2500 };
                vec![(0, fill), (2000 + soon, Fault::PowerCut { node, down_ms })]
            }
        }
    }

    /// A storage node: one by its number, or by what it does for a volume when the fault comes.
    fn some_node(&self, tape: &mut Tape) -> String {
        let volume = tape.below(self.volumes.len() as u64) + 1;
        match tape.below(10) {
            0 | 1 => format!("nexus-{volume}"),
            2..=4 => format!("copy-{volume}-{}", tape.below(3)),
            _ => node_name(tape.below(self.nodes.len() as u64) as usize),
        }
    }

    fn fault(&self, kind: u64, tape: &mut Tape) -> Fault {
        let (node, other) = (self.some_node(tape), self.some_node(tape));
        let ms = *tape.pick(&[50, 300, 1000, 2500, 5000, 12_000]);
        let by_ms = *tape.pick(&[5, 50, 400]);
        let volume = tape.below(self.volumes.len() as u64) as usize;
        let place = match tape.below(10) {
            0 => "store".into(),
            1 => "operator".into(),
            2 => format!("c{}", volume + 1),
            _ => other,
        };
        match kind {
            0 => Fault::KillProcess { node, down_ms: ms },
            1 => Fault::PowerCut { node, down_ms: ms },
            2 => Fault::PowerCutAll { down_ms: ms },
            3 => Fault::Pause { node, ms },
            4 => Fault::Isolate { place, ms },
            5 => Fault::Cut { from: node, to: place, both: tape.chance(50), ms },
            6 => Fault::Slow { from: node, to: place, by_ms, ms },
            7 => Fault::Reset { node },
            8 => Fault::Silence { a: node, b: place },
            9 => Fault::Refuse { node, ms },
            10 => Fault::DiskStall { node, ms },
            11 => Fault::DiskSlow { node, by_ms, ms },
            12 => Fault::FlushFails { node },
            13 => Fault::DiskGone { node, ms },
            14 => Fault::BadBlocks { node, salt: tape.below(256) },
            15 => Fault::LostReplies { percent: tape.between(10, 90), ms },
            16 => Fault::OperatorDies { down_ms: ms },
            17 => Fault::SecondOperator { ms },
            18 => Fault::Move { volume, node },
            20 => Fault::BitRot { node, salt: tape.below(1 << 20) },
            21 => Fault::Misdirected { node, salt: tape.below(1 << 20) },
            22 => Fault::BadMetadata { node, salt: tape.below(1 << 20) },
            23 => Fault::FillPool { node, ms },
            _ => Fault::Replicas { volume, count: tape.between(1, 3) as u32 },
        }
    }
}

impl VolumePlan {
    fn generate(tape: &mut Tape) -> VolumePlan {
        VolumePlan {
            bytes: *tape.pick(&[256 << 10, 1 << 20, 9 << 20, 24 << 20]),
            replicas: *tape.pick(&[1, 2, 2, 3, 3, 3]),
            thin: tape.chance(70),
        }
    }
}

impl Knobs {
    fn generate(tape: &mut Tape) -> Knobs {
        Knobs {
            block_bytes: *tape.pick(&[512, 4096, 4096]),
            member_deadline_ms: *tape.pick(&[300, 1000, 3000]),
            clear_after_ms: *tape.pick(&[50, 500, 5000]),
            error_threshold: *tape.pick(&[0, 3, 64]),
            segment_kib: *tape.pick(&[4, 16, 64]),
            rebuild_tasks: *tape.pick(&[1, 4, 16]),
            node_grace_ms: *tape.pick(&[1000, 3000, 10_000]),
            heartbeat_ms: *tape.pick(&[200, 500]),
            rpc_ms: *tape.pick(&[1000, 5000]),
        }
    }
}

impl Work {
    fn generate(tape: &mut Tape) -> Work {
        Work {
            depth: tape.between(1, 5),
            think_ms: *tape.pick(&[20, 60, 200]),
            blocks: *tape.pick(&[4, 16, 64, 256]),
            changes: *tape.pick(&[30, 50, 80]),
            flushes: *tape.pick(&[1, 5, 15]),
            zeroes: *tape.pick(&[0, 5, 20]),
            forced: *tape.pick(&[0, 10, 50]),
        }
    }
}
