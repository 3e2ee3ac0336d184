//! Whether this process stood still: the machine slept, or the process was stopped. Either way the world went on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::drivers::machine::asleep::slept_since_boot;
use crate::services::node::Inner;
use crate::services::node::limits::{SLEEP_CHECK, SLEPT_MIN};

/// What two clocks said when they were looked at last.
struct Clocks {
    /// The clock that stands still during sleep, and runs on while a process is stopped.
    monotonic: Instant,
    /// How far the clock that counts sleep is ahead of it; never less than before.
    asleep: Duration,
}

impl Clocks {
    fn read(machine: &Path) -> Self {
        Self { monotonic: Instant::now(), asleep: slept_since_boot(machine) }
    }

    /// Whether so much passed unnoticed since `before` that connections and leases are void. `expected`: when this was to
    /// be looked at again.
    fn stood_still(&self, before: &Self, expected: Duration) -> bool {
        let late = self.monotonic.saturating_duration_since(before.monotonic).saturating_sub(expected);
        late >= SLEPT_MIN || self.asleep.saturating_sub(before.asleep) >= SLEPT_MIN
    }
}

/// Looks at the clocks while the node lives; after sleep, shares and connections begin anew.
pub(crate) async fn watch(node: Weak<Inner>, machine: PathBuf) {
    let mut before = Clocks::read(&machine);
    loop {
        tokio::time::sleep(SLEEP_CHECK).await;
        let Some(node) = node.upgrade() else { return };
        let now = Clocks::read(&machine);
        if now.stood_still(&before, SLEEP_CHECK) {
            wake(&node).await;
        }
        before = now;
    }
}

/// Every download and every seed hears of it, then connections end: a peer that was silent too long for the other side
/// is dialled anew rather than waited for.
async fn wake(node: &Arc<Inner>) {
    tracing::info!("this process stood still: connections and leases begin anew");
    node.isolation.forget();
    node.forget_line();
    let shares = {
        let topics = node.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut shares: Vec<_> = topics.values().flatten().map(|(share, _)| Arc::clone(share)).collect();
        shares.sort_by_key(Arc::as_ptr);
        shares.dedup_by(|one, other| Arc::ptr_eq(one, other));
        shares
    };
    for share in shares {
        share.tell(crate::swarm::event::Event::Woke).await;
    }
    for link in node.links().values() {
        link.abort();
    }
    node.recall();
    node.look_for_peers();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_a_stop_are_told_from_a_busy_machine() {
        let before = Clocks { monotonic: Instant::now(), asleep: Duration::from_secs(3) };
        let after = |passed: Duration, asleep: Duration| Clocks {
            monotonic: before.monotonic + passed,
            asleep: before.asleep + asleep,
        };
        let step = SLEEP_CHECK;
        assert!(!after(step, Duration::ZERO).stood_still(&before, step));
        assert!(!after(step + SLEPT_MIN / 2, SLEPT_MIN / 2).stood_still(&before, step));
        assert!(after(step + SLEPT_MIN, Duration::ZERO).stood_still(&before, step), "stopped");
        assert!(after(step, SLEPT_MIN).stood_still(&before, step), "asleep");
    }
}
