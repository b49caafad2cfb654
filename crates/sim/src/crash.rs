//! Every disk image that a power cut, or a killed process, may leave behind.
//!
//! Record what an operation does to the disks, then walk over all points at which the power may go; at each point walk
//! over the images that are legal there: what was flushed is there, and of everything else any subset of units.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use block::Durability;

use crate::disk::{DiskImage, DiskOptions};
use crate::entropy::Entropy;
use crate::world::World;

/// The contents of one atomic unit.
pub type Unit = Rc<[u8]>;
/// The units of one write, by index; `None` clears one.
type Units = [(u64, Option<Unit>)];

enum Step {
    WriteSubmitted { disk: usize, number: u64, units: Vec<(u64, Option<Unit>)> },
    WriteAnswered { disk: usize, number: u64, durability: Durability },
    FlushSubmitted { disk: usize, number: u64 },
    FlushAnswered { disk: usize, number: u64 },
    Mark(String),
}

#[derive(Default)]
struct Recording {
    disks: Vec<(String, DiskOptions, DiskImage)>,
    steps: Vec<Step>,
}

/// Takes down what happens to the disks of a world.
#[derive(Clone, Default)]
pub struct Recorder(Rc<RefCell<Recording>>);

impl Recorder {
    /// Starts to record all disks of `world`; what they hold now counts as durable.
    pub fn start(world: &World) -> Recorder {
        let recorder = Recorder::default();
        for (k, (_, disk)) in world.disks().into_iter().enumerate() {
            disk.record(recorder.clone(), k);
        }
        recorder
    }

    /// Notes that something became true for the user here (an answer was given), so that a test knows at each crash
    /// point what it may demand.
    pub fn mark(&self, text: impl Into<String>) {
        self.0.borrow_mut().steps.push(Step::Mark(text.into()));
    }

    /// Ends the recording.
    pub fn finish(self, world: &World) -> Log {
        for (_, disk) in world.disks() {
            disk.stop_recording();
        }
        Log { recording: std::mem::take(&mut self.0.borrow_mut()) }
    }

    pub(crate) fn add_disk(&self, name: String, options: DiskOptions, image: DiskImage) {
        self.0.borrow_mut().disks.push((name, options, image));
    }
    pub(crate) fn write_submitted(&self, disk: usize, number: u64, units: Vec<(u64, Option<Unit>)>) {
        self.0.borrow_mut().steps.push(Step::WriteSubmitted { disk, number, units });
    }
    pub(crate) fn write_answered(&self, disk: usize, number: u64, durability: Durability) {
        self.0.borrow_mut().steps.push(Step::WriteAnswered { disk, number, durability });
    }
    pub(crate) fn flush_submitted(&self, disk: usize, number: u64) {
        self.0.borrow_mut().steps.push(Step::FlushSubmitted { disk, number });
    }
    pub(crate) fn flush_answered(&self, disk: usize, number: u64) {
        self.0.borrow_mut().steps.push(Step::FlushAnswered { disk, number });
    }
}

/// What happened to the disks, in order.
pub struct Log {
    recording: Recording,
}

/// How many images to try at one crash point.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Up to this many uncertain units, every subset is tried (2^n images).
    pub exhaustive_units: usize,
    /// Above it, this many subsets are sampled, besides none and all of them.
    pub samples: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { exhaustive_units: 12, samples: 200 }
    }
}

/// One unit of a write of which it is not certain whether it is on the disk.
struct Uncertain {
    disk: usize,
    sequence: u64,
    index: u64,
    unit: Option<Unit>,
}

/// A possible state of all disks after a crash.
pub struct Crash {
    /// After how many recorded steps.
    pub step: usize,
    /// The marks that were set before it.
    pub marks: Vec<String>,
    /// What the crash was and which of the uncertain units were kept, to print when a check fails.
    pub what: String,
    disks: Vec<(String, DiskOptions, DiskImage)>,
}

impl Crash {
    /// A world with the disks as the crash left them.
    pub fn world(&self, seed: u64) -> World {
        let world = World::new(seed);
        for (name, options, image) in &self.disks {
            world.add_disk(PathBuf::from(name), options.clone()).set_image(image.clone());
        }
        world
    }
}

impl Log {
    /// The number of recorded steps.
    pub fn steps(&self) -> usize {
        self.recording.steps.len()
    }

    /// Calls `check` with every legal image of a power cut at every point.
    pub fn power_cuts(&self, effort: Effort, entropy: &mut Entropy, mut check: impl FnMut(&Crash)) -> usize {
        let mut tried = 0;
        for step in 0..=self.steps() {
            let (base, mut uncertain, marks) = self.at(step, true);
            uncertain.sort_by_key(|u| u.sequence);
            for kept in subsets(uncertain.len(), effort, entropy) {
                check(&self.crash(step, &marks, "power cut", base.clone(), &uncertain, &kept));
                tried += 1;
            }
        }
        tried
    }

    /// Calls `check` with the images that a killed process may leave at every point: everything that was answered is
    /// there, of what was in flight any subset.
    pub fn process_kills(&self, effort: Effort, entropy: &mut Entropy, mut check: impl FnMut(&Crash)) -> usize {
        let mut tried = 0;
        for step in 0..=self.steps() {
            let (base, uncertain, marks) = self.at(step, false);
            for kept in subsets(uncertain.len(), effort, entropy) {
                check(&self.crash(step, &marks, "process kill", base.clone(), &uncertain, &kept));
                tried += 1;
            }
        }
        tried
    }

    fn crash(
        &self,
        step: usize,
        marks: &[String],
        kind: &str,
        mut images: Vec<DiskImage>,
        uncertain: &[Uncertain],
        kept: &[bool],
    ) -> Crash {
        for (u, _) in uncertain.iter().zip(kept).filter(|(_, keep)| **keep) {
            put(&mut images[u.disk], u.index, u.unit.clone());
        }
        let names: Vec<String> = uncertain
            .iter()
            .zip(kept)
            .map(|(u, keep)| format!("{}{}:{}", if *keep { '+' } else { '-' }, u.disk, u.index))
            .collect();
        let disks = self.recording.disks.iter().zip(images).map(|((n, o, _), i)| (n.clone(), o.clone(), i)).collect();
        Crash { step, marks: marks.to_vec(), what: format!("{kind} after step {step}: {}", names.join(" ")), disks }
    }

    /// The certain images, the uncertain units and the marks after `step` steps.
    fn at(&self, step: usize, power: bool) -> (Vec<DiskImage>, Vec<Uncertain>, Vec<String>) {
        let mut images: Vec<DiskImage> = self.recording.disks.iter().map(|(_, _, image)| image.clone()).collect();
        let mut hard_sequence: BTreeMap<(usize, u64), u64> = BTreeMap::new();
        let mut writes: BTreeMap<(usize, u64), (&Units, bool)> = BTreeMap::new();
        let mut covers: BTreeMap<(usize, u64), BTreeSet<u64>> = BTreeMap::new();
        let mut marks = Vec::new();
        let mut harden = |images: &mut Vec<DiskImage>, disk: usize, number: u64, units: &Units| {
            for (index, unit) in units {
                let newest = hard_sequence.entry((disk, *index)).or_default();
                if *newest <= number {
                    *newest = number;
                    put(&mut images[disk], *index, unit.clone());
                }
            }
        };
        for s in &self.recording.steps[..step] {
            match s {
                Step::WriteSubmitted { disk, number, units } => {
                    writes.insert((*disk, *number), (units, false));
                }
                Step::WriteAnswered { disk, number, durability } => {
                    if let Some(write) = writes.get_mut(&(*disk, *number)) {
                        write.1 = true;
                    }
                    let hard = !power || *durability == Durability::Durable;
                    if let Some((units, _)) = hard.then(|| writes.remove(&(*disk, *number))).flatten() {
                        harden(&mut images, *disk, *number, units);
                    }
                }
                Step::FlushSubmitted { disk, number } => {
                    let answered = writes.iter().filter(|((d, _), w)| d == disk && w.1).map(|((_, n), _)| *n).collect();
                    covers.insert((*disk, *number), answered);
                }
                Step::FlushAnswered { disk, number } => {
                    for n in covers.remove(&(*disk, *number)).unwrap_or_default() {
                        if let Some((units, _)) = writes.remove(&(*disk, n)) {
                            harden(&mut images, *disk, n, units);
                        }
                    }
                }
                Step::Mark(text) => marks.push(text.clone()),
            }
        }
        let mut uncertain: Vec<Uncertain> = Vec::new();
        for ((disk, number), (units, _)) in writes {
            for (index, unit) in units {
                // An older write that was superseded by a durable newer one can no longer appear.
                if hard_sequence.get(&(disk, *index)).is_none_or(|s| *s <= number) {
                    uncertain.push(Uncertain { disk, sequence: number, index: *index, unit: unit.clone() });
                }
            }
        }
        // A single write of what is there already makes no difference.
        let mut times: BTreeMap<(usize, u64), u32> = BTreeMap::new();
        uncertain.iter().for_each(|u| *times.entry((u.disk, u.index)).or_default() += 1);
        uncertain.retain(|u| times[&(u.disk, u.index)] > 1 || !holds(&images[u.disk], u.index, u.unit.as_ref()));
        (images, uncertain, marks)
    }
}

/// Whether a unit of the image has these contents; `None` is all zeroes.
fn holds(image: &DiskImage, index: u64, unit: Option<&Unit>) -> bool {
    let zero = |u: &Unit| u.iter().all(|b| *b == 0);
    match (image.0.get(&index), unit) {
        (Some(a), Some(b)) => a == b,
        (Some(a), None) | (None, Some(a)) => zero(a),
        (None, None) => true,
    }
}

fn put(image: &mut DiskImage, index: u64, unit: Option<Unit>) {
    match unit {
        Some(unit) => image.0.insert(index, unit),
        None => image.0.remove(&index),
    };
}

fn subsets(n: usize, effort: Effort, entropy: &mut Entropy) -> Vec<Vec<bool>> {
    if n <= effort.exhaustive_units {
        return (0..1u64 << n).map(|bits| (0..n).map(|k| bits >> k & 1 == 1).collect()).collect();
    }
    let mut all = vec![vec![false; n], vec![true; n]];
    for _ in 0..effort.samples {
        // Mostly kept, mostly lost, and even: each finds other faults.
        let percent = [10, 50, 90][entropy.below(3) as usize];
        all.push((0..n).map(|_| entropy.chance(percent)).collect());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockRange, Buf};
    use host::{Claim, DiskExt, OpenOptions};
    use std::collections::BTreeSet;

    /// Two writes, a flush between them: the first is certain after the flush, the second never.
    #[test]
    fn a_flush_makes_certain_what_was_answered_before_it() {
        let world = World::new(1);
        world.add_disk("/d", DiskOptions::mib(1));
        let recorder = Recorder::start(&world);
        let (host, marks) = (world.host(), recorder.clone());
        world.run(async move {
            let options = OpenOptions { block_size: block::BlockSize::B512, claim: Claim::Exclusive };
            let disk = host.open_disk("/d", options).await.expect("opens");
            let write =
                |lba, byte| disk.write(BlockRange::new(lba, 1), Buf::copy_of(&[byte; 512]), Durability::Volatile);
            write(0, b'a').await.expect("written");
            disk.flush().await.expect("flushed");
            marks.mark("flushed");
            write(0, b'b').await.expect("written");
            write(1, b'c').await.expect("written");
        });
        let log = recorder.finish(&world);
        let mut seen = BTreeSet::new();
        log.power_cuts(Effort::default(), &mut Entropy::new(1), |crash| {
            let disk = crash.world(2).disk("/d");
            let (first, second) = (disk.peek(0, 1)[0], disk.peek(512, 1)[0]);
            if crash.marks.contains(&"flushed".to_owned()) {
                assert!(first == b'a' || first == b'b', "{}", crash.what);
            }
            seen.insert((first, second));
        });
        let all = [(0, 0), (b'a', 0), (b'b', 0), (b'a', b'c'), (b'b', b'c')];
        assert_eq!(seen, all.into_iter().collect());
    }
}
