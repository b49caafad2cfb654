//! Every state in which a crash may leave the disks of a pool, for every operation. docs/disk-format.md, section 6, has
//! the argument; this is the experiment.

mod common;

use common::BLOCKS;
use common::story::{Ask, Teller, tell};
use futures_util::future::join_all;
use sim::Entropy;
use sim::crash::Effort;

/// Disk 0: some twenty extents. Another disk: sixteen.
const FIRST: u64 = 400 << 10;
const OTHER: u64 = 192 << 10;

fn effort(exhaustive_units: usize, samples: usize) -> Effort {
    Effort { exhaustive_units, samples }
}
fn report(what: &str, tried: usize) {
    println!("{what}: {tried} crashes");
    assert!(tried > 20, "{what}: the story is too short to prove anything");
}
fn write(name: &'static str, start: u64, len: u64, byte: u8) -> Ask {
    Ask::Write { name, start, len, byte, durable: false }
}

fn unmap(name: &'static str, start: u64, len: u64) -> Ask {
    Ask::Unmap { name, start, len }
}
fn clear(name: &'static str, start: u64, len: u64, may_unmap: bool, durable: bool) -> Ask {
    Ask::Clear { name, start, len, may_unmap, durable }
}
fn create(name: &'static str, extents: u64, thin: bool) -> Ask {
    Ask::Create { name, extents, thin }
}

/// A pool with a replica that has data in each of its first three extents.
async fn with_data(t: Teller) {
    t.ask(Ask::Make { disks: vec![0] }).await;
    t.ask(create("a", 6, true)).await;
    t.ask(write("a", 0, 3 * BLOCKS, 0xa0)).await;
}

#[test]
pub(crate) fn make() {
    let story = tell(
        1,
        &[FIRST, OTHER, OTHER],
        |_| async {},
        |t| async move {
            t.ask(Ask::Make { disks: vec![0, 1, 2] }).await;
        },
    );
    report("make", story.survives(Effort::default()));
    report("make, then import", story.survives_twice(7, effort(8, 20)));
}

#[test]
pub(crate) fn create_and_destroy_replicas() {
    let story = tell(2, &[FIRST], with_data, |t| async move {
        t.ask(create("thick", 4, false)).await;
        t.ask(create("thin", 1000, true)).await;
        t.ask(write("thick", 3, 2, 0xb0)).await;
        t.ask(Ask::Destroy { name: "a" }).await;
        t.ask(Ask::Destroy { name: "thick" }).await;
    });
    report("replicas", story.survives(effort(10, 30)));
}

#[test]
pub(crate) fn writes() {
    let story = tell(3, &[FIRST], with_data, |t| async move {
        t.ask(write("a", 3 * BLOCKS + 2, 3, 1)).await;
        t.ask(write("a", 3 * BLOCKS + 3, 1, 2)).await;
        t.ask(Ask::Flush { name: "a" }).await;
        t.ask(Ask::Write { name: "a", start: 4 * BLOCKS, len: 2, byte: 3, durable: true }).await;
        t.ask(write("a", 2 * BLOCKS + 7, 2, 4)).await;
        t.ask(write("a", 4 * BLOCKS, 1, 5)).await;
        t.ask(Ask::Write { name: "a", start: 5 * BLOCKS - 1, len: 2, byte: 6, durable: true }).await;
    });
    report("writes", story.survives(Effort::default()));
}

#[test]
pub(crate) fn unmaps_and_zeroes() {
    let story = tell(4, &[FIRST], with_data, |t| async move {
        t.ask(unmap("a", 0, BLOCKS)).await;
        t.ask(write("a", 1, 2, 1)).await;
        t.ask(clear("a", BLOCKS + 2, 3, true, false)).await;
        t.ask(Ask::Flush { name: "a" }).await;
        t.ask(unmap("a", 2 * BLOCKS, BLOCKS)).await;
        t.ask(clear("a", 2 * BLOCKS, BLOCKS, true, true)).await;
        t.ask(clear("a", 2, 2 * BLOCKS, true, true)).await;
        t.ask(clear("a", 0, 6 * BLOCKS, false, false)).await;
        t.ask(write("a", BLOCKS, 1, 2)).await;
        t.ask(Ask::Flush { name: "a" }).await;
    });
    report("unmaps", story.survives(effort(10, 60)));
}

/// The pool is full: what one replica gives back is at once what the other one gets.
#[test]
pub(crate) fn extents_change_hands() {
    let before = |t: Teller| async move {
        t.ask(Ask::Make { disks: vec![0] }).await;
        let free = t.pool().info().capacity.0 / common::EXTENT;
        t.ask(create("a", 30, true)).await;
        t.ask(create("b", 30, true)).await;
        t.ask(write("a", 0, free * BLOCKS, 0xa0)).await;
    };
    let story = tell(5, &[FIRST], before, |t| async move {
        for round in 0..3 {
            t.ask(unmap("a", round * 2 * BLOCKS, 2 * BLOCKS)).await;
            t.ask(write("b", round * 2 * BLOCKS + 1, 2, 0xb0 + round as u8)).await;
            t.ask(write("b", (round * 2 + 1) * BLOCKS + 3, 1, 0xb8 + round as u8)).await;
        }
        t.ask(Ask::Destroy { name: "a" }).await;
        t.ask(write("b", 10 * BLOCKS, 4 * BLOCKS, 0xbf)).await;
    });
    report("extents change hands", story.survives(effort(7, 16)));
}

/// The same with extents that are not on the disk of the journal, so that its order needs flushes of its own.
#[test]
pub(crate) fn extents_of_another_disk_change_hands() {
    let before = |t: Teller| async move {
        t.ask(Ask::Make { disks: vec![0, 1] }).await;
        let free = t.pool().info().capacity.0 / common::EXTENT;
        t.ask(create("a", 60, true)).await;
        t.ask(create("b", 60, true)).await;
        t.ask(write("a", 0, free * BLOCKS, 0xa0)).await;
    };
    let story = tell(15, &[FIRST, OTHER], before, |t| async move {
        t.ask(unmap("a", 0, 12 * BLOCKS)).await;
        t.ask(write("b", 0, 12 * BLOCKS, 0xb0)).await;
        t.ask(unmap("a", 12 * BLOCKS, 12 * BLOCKS)).await;
        t.ask(write("b", 12 * BLOCKS, 12 * BLOCKS, 0xb1)).await;
    });
    report("extents of another disk change hands", story.survives(effort(4, 12)));
}

/// A replica may lie wholly on a disk that is not the journal's: its flush covers the journal, too.
#[test]
pub(crate) fn flushes_of_another_disk() {
    let before = |t: Teller| async move {
        t.ask(Ask::Make { disks: vec![0, 1] }).await;
        let free = t.pool().info().capacity.0 / common::EXTENT;
        t.ask(create("a", 60, true)).await;
        t.ask(write("a", 0, free * BLOCKS, 0xa0)).await;
        for name in ["b", "c", "d", "e"] {
            t.ask(create(name, 1, true)).await;
        }
    };
    let story = tell(16, &[FIRST, OTHER], before, |t| async move {
        for (name, extent) in [("b", 1), ("c", 7), ("d", 13), ("e", 19)] {
            t.ask(unmap("a", extent * BLOCKS, BLOCKS)).await;
            t.ask(write(name, 2, 2, 0xb0)).await;
            t.ask(Ask::Flush { name }).await;
        }
    });
    report("flushes of another disk", story.survives(effort(6, 12)));
}

#[test]
pub(crate) fn add_disk() {
    let story = tell(6, &[FIRST, OTHER], with_data, |t| async move {
        t.ask(write("a", 3 * BLOCKS, 1, 1)).await;
        t.ask(Ask::Grow { disk: 1 }).await;
        t.ask(create("b", 30, false)).await;
        t.ask(write("b", 0, 20 * BLOCKS, 2)).await;
    });
    report("add disk", story.survives(effort(7, 12)));
    report("add disk, then import", story.survives_twice(40, effort(6, 10)));
}

/// More records than the journal has room for, so that checkpoints happen between them and the ring goes round.
#[test]
pub(crate) fn checkpoints() {
    let story = tell(7, &[FIRST], with_data, |t| async move {
        for round in 0..12 {
            let at = 3 * BLOCKS + round % 2 * BLOCKS;
            t.ask(write("a", at + round % BLOCKS, 1, 1 + round as u8)).await;
            t.ask(unmap("a", at, BLOCKS)).await;
            t.ask(write("a", at, 1, 0x40 + round as u8)).await;
            if round % 5 == 4 {
                t.ask(Ask::Flush { name: "a" }).await;
            }
        }
    });
    report("checkpoints", story.survives(effort(5, 8)));
    report("checkpoints, then import", story.survives_twice(200, effort(6, 10)));
}

/// Reservations are durable when they are answered, through checkpoints too; the first one marks the label.
#[test]
pub(crate) fn reservations() {
    let story = tell(10, &[FIRST], with_data, |t| async move {
        t.ask(Ask::Reserve { name: "a", len: 32, byte: 1 }).await;
        t.ask(create("b", 4, true)).await;
        for round in 0..24u8 {
            t.ask(Ask::Reserve { name: "a", len: pool::MAX_RESERVATIONS, byte: 2 + round }).await;
            t.ask(Ask::Reserve {
                name: "b",
                len: usize::from(round % 3) * 8,
                byte: if round % 3 == 0 { 0 } else { 50 + round },
            })
            .await;
            t.ask(write("a", 3 * BLOCKS + u64::from(round) % BLOCKS, 1, 90 + round)).await;
        }
        t.ask(Ask::Destroy { name: "b" }).await;
        t.ask(create("b", 4, true)).await;
    });
    report("reservations", story.survives(effort(6, 10)));
    report("reservations, then import", story.survives_twice(150, effort(6, 10)));
}

/// A replica has the old size or the new one, whole; what it gained reads as zeroes, whoever had the extents before. The
/// first growth marks the label.
#[test]
pub(crate) fn growing_replicas() {
    let story = tell(11, &[FIRST], with_data, |t| async move {
        t.ask(create("thick", 2, false)).await;
        t.ask(Ask::Enlarge { name: "thick", extents: 4 }).await;
        t.ask(write("thick", 2 * BLOCKS + 1, BLOCKS, 0xb0)).await;
        t.ask(unmap("a", 0, 2 * BLOCKS)).await;
        t.ask(Ask::Enlarge { name: "a", extents: 1000 }).await;
        t.ask(Ask::Write { name: "a", start: 999 * BLOCKS, len: 2, byte: 0xa1, durable: true }).await;
        t.ask(Ask::Enlarge { name: "thick", extents: 6 }).await;
        t.ask(write("thick", 5 * BLOCKS, BLOCKS, 0xb1)).await;
        t.ask(Ask::Flush { name: "thick" }).await;
        t.ask(Ask::Destroy { name: "a" }).await;
        t.ask(Ask::Enlarge { name: "thick", extents: 7 }).await;
    });
    report("growing", story.survives(effort(6, 10)));
    report("growing, then import", story.survives_twice(60, effort(6, 10)));
}

/// Growth through checkpoints: the ring goes round, and the last size is in the checkpoint.
#[test]
pub(crate) fn growing_through_checkpoints() {
    let story = tell(12, &[FIRST], with_data, |t| async move {
        t.ask(create("b", 1, true)).await;
        for round in 0..30u64 {
            t.ask(Ask::Enlarge { name: "b", extents: 2 + round * 3 }).await;
            if round % 6 == 5 {
                t.ask(write("b", (1 + round * 3) * BLOCKS, 1, round as u8)).await;
            }
        }
    });
    report("growing through checkpoints", story.survives(effort(5, 8)));
}

#[test]
pub(crate) fn export() {
    let story = tell(8, &[FIRST], with_data, |t| async move {
        t.ask(write("a", 5, 20, 1)).await;
        t.ask(write("a", 4 * BLOCKS, 1, 2)).await;
        t.ask(Ask::Export).await;
    });
    report("export", story.survives(effort(10, 60)));
}

#[test]
pub(crate) fn destroy() {
    let before = |t: Teller| async move {
        t.ask(Ask::Make { disks: vec![0, 1, 2] }).await;
    };
    let story = tell(9, &[FIRST, OTHER, OTHER], before, |t| async move { t.ask(Ask::Unmake).await });
    report("destroy", story.survives(Effort::default()));
    report("destroy, then import", story.survives_twice(10, effort(8, 20)));
}

/// Many requests at once, on the same blocks too.
#[test]
pub(crate) fn crowds() {
    let mut tried = 0;
    for seed in 100..103 {
        let before = |t: Teller| async move {
            t.ask(Ask::Make { disks: vec![0, 1] }).await;
            t.ask(create("a", 20, true)).await;
            t.ask(create("b", 8, false)).await;
        };
        let story = tell(seed, &[FIRST, OTHER], before, move |t| async move {
            let mut entropy = Entropy::new(seed);
            for round in 0..5u8 {
                let asks: Vec<Ask> = (0..6).map(|i| any_ask(&mut entropy, round * 6 + i + 1)).collect();
                join_all(asks.into_iter().map(|ask| t.ask(ask))).await;
            }
        });
        tried += story.survives(effort(3, 4));
    }
    report("crowds", tried);
}

fn any_ask(entropy: &mut Entropy, byte: u8) -> Ask {
    let (name, blocks) = if entropy.chance(60) { ("a", 20 * BLOCKS) } else { ("b", 8 * BLOCKS) };
    // Mostly few extents, so that requests meet.
    let blocks = if entropy.chance(70) { 3 * BLOCKS } else { blocks };
    let start = entropy.below(blocks);
    let len = 1 + entropy.below((blocks - start).min(2 * BLOCKS));
    let whole = (start / BLOCKS * BLOCKS, BLOCKS * (1 + entropy.below(2)).min((blocks - start).div_ceil(BLOCKS)));
    match entropy.below(10) {
        0..=4 => write(name, start, len, byte),
        5 => Ask::Write { name, start, len, byte, durable: true },
        6 => unmap(name, whole.0, whole.1),
        7 => clear(name, start, len, true, entropy.chance(50)),
        8 => clear(name, whole.0, whole.1, entropy.chance(50), entropy.chance(50)),
        _ => Ask::Flush { name },
    }
}
