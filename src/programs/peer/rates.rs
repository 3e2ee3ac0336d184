//! How fast bytes have moved in the last ten minutes: a ring of samples, taken while something moves or somebody looks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::programs::peer::downloads::Downloads;
use crate::programs::peer::ledger::Sums;
use crate::services::node::{Moved, Node};

/// The time of one sample.
pub const SAMPLE: Duration = Duration::from_secs(2);
/// Samples kept: ten minutes of them.
const SAMPLES_MAX: usize = 300;
/// Between two looks while nothing moves: a node at rest is to sleep.
const AT_REST: Duration = Duration::from_secs(10);

/// What was moved within a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Its end, since the daemon was started.
    pub at: Duration,
    /// How long it is.
    pub length: Duration,
    /// Bytes of payload, by where they came from and went to.
    pub sums: Sums,
}

#[derive(Default)]
struct Ring {
    samples: VecDeque<Sample>,
    seen: Moved,
    /// End of the last sample.
    until: Duration,
}

impl Ring {
    /// Ends a sample at `at`, unless the last one has only just ended; says whether anything was moved in it.
    fn note(&mut self, at: Duration, now: Moved) -> bool {
        let length = at.saturating_sub(self.until);
        if length < SAMPLE / 2 {
            return true;
        }
        let sums = Sums::between(&self.seen, &now);
        (self.until, self.seen) = (at, now);
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at, length, sums });
        sums != Sums::default()
    }
}

/// The rates of one daemon; a handle.
#[derive(Clone)]
pub struct RateHistory {
    node: Node,
    started: Instant,
    ring: Arc<Mutex<Ring>>,
}

impl RateHistory {
    /// Of a daemon that was started at this moment.
    pub(crate) fn new(node: Node, started: Instant) -> Self {
        Self { node, started, ring: Arc::default() }
    }

    /// The samples, oldest first, up to now.
    pub fn samples(&self) -> Vec<Sample> {
        self.look();
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.samples.iter().copied().collect()
    }

    fn look(&self) -> bool {
        let (at, now) = (self.started.elapsed(), self.node.totals().moved);
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).note(at, now)
    }

    /// Looks as long as the daemon lives; seldom while nothing moves.
    pub(crate) async fn keep(self, downloads: Downloads) {
        let mut changes = downloads.changes();
        loop {
            if self.look() || downloads.any_active() {
                tokio::time::sleep(SAMPLE).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(AT_REST) => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_of_what_was_moved_between_them_and_are_bounded() {
        let mut ring = Ring::default();
        let moved = |bytes| Moved { from_http: bytes, ..Moved::default() };
        assert!(ring.note(SAMPLE, moved(5)));
        assert!(!ring.note(SAMPLE * 2, moved(5)), "nothing in this one");
        assert!(ring.note(SAMPLE * 2 + SAMPLE / 4, moved(9)), "too short to be one");
        assert!(ring.note(SAMPLE * 4, moved(9)));
        let bytes: Vec<_> = ring.samples.iter().map(|sample| sample.sums.from_http).collect();
        assert_eq!(bytes, [5, 0, 4]);
        assert_eq!(ring.samples.back().map(|sample| (sample.at, sample.length)), Some((SAMPLE * 4, SAMPLE * 2)));
        (5..1000).for_each(|at| _ = ring.note(SAMPLE * at, moved(9)));
        assert_eq!(ring.samples.len(), SAMPLES_MAX);
    }
}
