//! How long things take, as histograms that any thread may add to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the buckets, in microseconds: about three a decade from a millisecond to half a minute.
const BOUNDS: [u64; 10] = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000];

/// One histogram.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// By bucket; the last is of what took longer than all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// What a histogram holds at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Upper end of each bucket in seconds, and how many took no longer.
    pub buckets: Vec<(f64, u64)>,
    /// How many there were.
    pub count: u64,
    /// What they took together, seconds.
    pub sum: f64,
}

impl Latency {
    /// Notes that something took so long.
    pub(crate) fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What it holds now.
    pub(crate) fn read(&self) -> Histogram {
        let mut count = 0u64;
        let mut buckets = Vec::with_capacity(BOUNDS.len());
        for (number, held) in self.counts.iter().enumerate() {
            count = count.saturating_add(held.load(Ordering::Relaxed));
            if let Some(bound) = BOUNDS.get(number) {
                buckets.push((Duration::from_micros(*bound).as_secs_f64(), count));
            }
        }
        Histogram { buckets, count, sum: Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64() }
    }
}

/// The histograms of a node.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    /// From a request to a peer until its piece has arrived.
    pub(crate) piece: Latency,
    /// From the start of an HTTP request until its answer's head.
    pub(crate) source: Latency,
    /// Hashing and writing one block.
    pub(crate) disk: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_counts_what_took_no_longer() {
        let latency = Latency::default();
        for micros in [0, 1000, 1001, 40_000_000] {
            latency.note(Duration::from_micros(micros));
        }
        let read = latency.read();
        assert_eq!((read.count, read.buckets.len()), (4, BOUNDS.len()));
        assert_eq!(read.buckets.iter().map(|(_, count)| *count).take(3).collect::<Vec<_>>(), [2, 3, 3]);
        assert_eq!(read.buckets.last().map(|(bound, count)| (*bound, *count)), Some((30.0, 3)));
        assert!((read.sum - 40.002_001).abs() < 1e-9);
    }
}
