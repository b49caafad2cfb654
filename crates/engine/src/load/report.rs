//! What a run measured.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Mismatch;

/// Mismatches kept word for word; all are counted.
const KEPT: usize = 16;
/// The longest latency that the histogram tells apart, in nanoseconds (100 s); longer ones count as this.
const LONGEST_NS: u64 = 100_000_000_000;

/// Latencies of one kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean: Duration,
    /// Half of the requests took at most this.
    pub p50: Duration,
    /// 99 % took at most this.
    pub p99: Duration,
    /// 99.9 % took at most this.
    pub p999: Duration,
    /// The slowest.
    pub max: Duration,
}

/// One kind of request.
#[derive(Clone, Debug)]
pub struct Side {
    /// Requests that succeeded.
    pub count: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    histogram: Histogram<u64>,
}

impl Side {
    fn new() -> Side {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid");
        Side { count: 0, bytes: 0, histogram }
    }
    pub(super) fn record(&mut self, latency: Duration, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        self.histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
    }
    /// The distribution of latencies; zeroes when there was no request.
    pub fn latency(&self) -> Latency {
        if self.histogram.is_empty() {
            return Latency::default();
        }
        let at = |quantile| Duration::from_nanos(self.histogram.value_at_quantile(quantile));
        Latency {
            mean: Duration::from_nanos(self.histogram.mean() as u64),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(self.histogram.max()),
        }
    }
    fn merge(&mut self, other: &Side) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.histogram.add(&other.histogram).expect("the bounds are equal");
    }
}

/// What a run measured, and, with a model, what it found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Reads.
    pub reads: Side,
    /// Writes.
    pub writes: Side,
    /// Unmaps.
    pub unmaps: Side,
    /// Requests that failed.
    pub faults: u64,
    /// From the first submission to the last completion.
    pub elapsed: Duration,
    /// 4 KiB units whose contents were checked.
    pub checked_units: u64,
    /// 4 KiB units that held something else than the model allows.
    pub mismatches: u64,
    /// The first few mismatches.
    pub examples: Vec<Mismatch>,
}

impl Report {
    pub(super) fn new() -> Report {
        Report {
            reads: Side::new(),
            writes: Side::new(),
            unmaps: Side::new(),
            faults: 0,
            elapsed: Duration::ZERO,
            checked_units: 0,
            mismatches: 0,
            examples: Vec::new(),
        }
    }
    pub(super) fn checked(&mut self, (units, wrong): (u64, Vec<Mismatch>)) {
        self.checked_units += units;
        self.mismatches += wrong.len() as u64;
        let room = KEPT.saturating_sub(self.examples.len());
        self.examples.extend(wrong.into_iter().take(room));
    }
    /// All requests that succeeded.
    pub fn requests(&self) -> u64 {
        self.reads.count + self.writes.count + self.unmaps.count
    }
    /// Requests in a second.
    pub fn iops(&self) -> f64 {
        per_second(self.requests(), self.elapsed)
    }
    /// Bytes in a second, unmapped ones not counted.
    pub fn bytes_per_second(&self) -> f64 {
        per_second(self.reads.bytes + self.writes.bytes, self.elapsed)
    }
    /// The latencies of reads, writes and unmaps together.
    pub fn latency(&self) -> Latency {
        let mut all = self.reads.clone();
        all.merge(&self.writes);
        all.merge(&self.unmaps);
        all.latency()
    }
}

fn per_second(n: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}
