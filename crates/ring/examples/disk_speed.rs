//! Random 4 KiB requests on a file or block device at a fixed queue depth: requests a second, latency, and what a
//! request costs the processor. To be compared with `fio --ioengine=io_uring --direct=1 --bs=4k --iodepth=N`.
//!
//! `disk_speed FILE read|write DEPTH SECONDS [SPIN_US]`. Writes destroy what is on the device.

#![allow(clippy::disallowed_methods, reason = "it reads what it has cost")]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, BlockSize, Buf, BufMut, Durability, Request, Ticket};
use host::{Claim, DiskRef, Host, OpenOptions, Queue};
use ring::{Options, run};

const BLOCKS: u64 = 8;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, kind, depth, seconds, rest @ ..] = &args[..] else {
        eprintln!("usage: disk_speed FILE read|write DEPTH SECONDS [SPIN_US]");
        std::process::exit(2);
    };
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|e| panic!("{text}: {e}"));
    let spin = Duration::from_micros(rest.first().map_or(0, |us| number(us)));
    let (path, writes) = (path.clone(), kind == "write");
    let (depth, time) = (number(depth), Duration::from_secs(number(seconds)));
    run(Options { spin, ..Options::default() }, move |host| async move {
        let options = OpenOptions { block_size: BlockSize::B512, claim: Claim::Exclusive };
        let disk = host.open_disk(path, options).await.unwrap_or_else(|e| panic!("{e}"));
        measure(&host, &disk, writes, depth, time).await;
    });
}

async fn measure(host: &Host, disk: &DiskRef, writes: bool, depth: u64, time: Duration) {
    let mut random = host.random() | 1;
    let places = disk.geometry().blocks.0 / BLOCKS;
    let payload = BufMut::zeroed(BLOCKS as usize * 512).freeze();
    let done = Queue::default();
    let failed = Rc::new(Cell::new(0u64));
    let mut submit = || {
        // xorshift: cheap, and random enough for places.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let range = BlockRange::new(random % places * BLOCKS, BLOCKS);
        let (start, done, failed) = (host.now(), done.clone(), failed.clone());
        let ticket = Ticket::new(move |outcome| {
            failed.set(failed.get() + u64::from(outcome.is_err()));
            done.push(start);
        });
        disk.submit(request(range, writes, &payload), ticket);
    };
    let (start, before) = (host.now(), processor_time());
    for _ in 0..depth {
        submit();
    }
    let mut latencies = Vec::new();
    while host.now().since(start) < time {
        let began = done.next().await;
        latencies.push(host.now().since(began));
        submit();
    }
    let (taken, after) = (host.now().since(start).as_secs_f64(), processor_time());
    let count = latencies.len() as f64;
    latencies.sort_unstable();
    let percentile = |p: f64| latencies[((count - 1.0) * p) as usize].as_secs_f64() * 1e6;
    println!(
        "{:.1} K/s, latency p50 {:.0} p99 {:.0} us, processor {:.2} us a request (user {:.2}, system {:.2}), {} failed",
        count / taken / 1e3,
        percentile(0.5),
        percentile(0.99),
        (after.0 + after.1 - before.0 - before.1) * 1e6 / count,
        (after.0 - before.0) * 1e6 / count,
        (after.1 - before.1) * 1e6 / count,
        failed.get(),
    );
    for _ in 0..depth {
        done.next().await;
    }
}

fn request(range: BlockRange, writes: bool, payload: &Buf) -> Request {
    match writes {
        true => Request::Write { range, data: payload.clone(), durability: Durability::Volatile },
        false => Request::Read { range },
    }
}

/// Seconds in user mode and in the kernel.
fn processor_time() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has it");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("the name") + 2..].split(' ').collect();
    let ticks = |i: usize| fields[i].parse::<f64>().expect("a number") / 100.0;
    (ticks(11), ticks(12))
}
