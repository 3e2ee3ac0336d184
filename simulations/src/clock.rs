//! [`Queue`]: what is to happen, ordered by time, then by the order in which it was put in.
//!
//! A calendar queue (Brown 1988): the near future lies in buckets of a fixed width, each sorted when its time comes; the
//! far future in laps. Putting in and taking out cost a few steps however much waits, which a heap's do not.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

/// Microseconds of one bucket, as a power of two.
const WIDTH_BITS: u32 = 8;
/// Buckets of one lap, as a power of two: a lap is about a second.
const LAP_BITS: u32 = 12;
const BUCKETS: usize = 1 << LAP_BITS;

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    sequence: u64,
    thing: T,
}

impl<T> Entry<T> {
    fn key(&self) -> (u64, u64) {
        (self.at, self.sequence)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    // The earliest is the greatest, so that a max-heap gives it first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// Things to happen, earliest first; equal times in the order of [`Queue::put`].
#[derive(Debug)]
pub struct Queue<T> {
    sequence: u64,
    length: usize,
    /// The bucket whose time it is, latest first.
    now: Vec<Entry<T>>,
    /// What was put into it since.
    late: BinaryHeap<Entry<T>>,
    /// Number of that bucket since the beginning of time.
    bucket: u64,
    lap: Vec<Vec<Entry<T>>>,
    later: BTreeMap<u64, Vec<Entry<T>>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            sequence: 0,
            length: 0,
            now: Vec::new(),
            late: BinaryHeap::new(),
            bucket: 0,
            lap: (0..BUCKETS).map(|_| Vec::new()).collect(),
            later: BTreeMap::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Things that wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Puts a thing at `at` microseconds. A time that has passed counts as the present.
    pub fn put(&mut self, at: u64, thing: T) {
        self.sequence += 1;
        self.length += 1;
        let bucket = (at >> WIDTH_BITS).max(self.bucket);
        let entry = Entry { at, sequence: self.sequence, thing };
        if bucket == self.bucket {
            self.late.push(entry);
        } else if bucket >> LAP_BITS == self.bucket >> LAP_BITS {
            self.lap[bucket as usize & (BUCKETS - 1)].push(entry);
        } else {
            self.later.entry(bucket >> LAP_BITS).or_default().push(entry);
        }
    }

    /// The next thing and its time.
    pub fn take(&mut self) -> Option<(u64, T)> {
        if self.length == 0 {
            return None;
        }
        while self.now.is_empty() && self.late.is_empty() {
            self.turn();
        }
        self.length -= 1;
        let entry = match (self.now.last(), self.late.peek()) {
            (Some(now), Some(late)) if late > now => self.late.pop(),
            (Some(_), _) => self.now.pop(),
            (None, _) => self.late.pop(),
        };
        entry.map(|entry| (entry.at, entry.thing))
    }

    /// Goes on to the next bucket that holds anything, within this lap or at the start of the next used one.
    fn turn(&mut self) {
        let lap = self.bucket >> LAP_BITS;
        while (self.bucket + 1) >> LAP_BITS == lap {
            self.bucket += 1;
            let place = self.bucket as usize & (BUCKETS - 1);
            if !self.lap[place].is_empty() {
                self.now = std::mem::take(&mut self.lap[place]);
                self.now.sort_unstable();
                return;
            }
        }
        let Some((lap, entries)) = self.later.pop_first() else { return };
        self.bucket = lap << LAP_BITS;
        for entry in entries {
            let bucket = entry.at >> WIDTH_BITS;
            if bucket == self.bucket {
                self.late.push(entry);
            } else {
                self.lap[bucket as usize & (BUCKETS - 1)].push(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn things_come_by_time_and_then_by_the_order_they_were_put() {
        let mut random = Random::new(1, 0);
        let mut queue = Queue::default();
        let mut expected = Vec::new();
        let mut now = 0;
        for number in 0..20_000u64 {
            // Near, far and very far, and often at the same time as another.
            let at = now + [0, 1, 200, 5_000, 3_000_000, 90_000_000][random.below(6) as usize];
            queue.put(at, number);
            expected.push((at, number));
            if number % 3 == 0 {
                let (at, number) = queue.take().expect("more was put than taken");
                assert!(at >= now);
                now = at;
                let first = expected.iter().min().copied();
                assert_eq!(first, Some((at, number)));
                expected.retain(|entry| *entry != (at, number));
            }
        }
        expected.sort_unstable();
        let rest: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(rest, expected);
        assert!(queue.is_empty());
    }
}
