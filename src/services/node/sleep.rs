//! Sleep: announced to peers where somebody announces it here, and found out afterwards in any case, by whether this process
//! stood still: the machine slept, or the process was stopped. Either way the world went on.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::drivers::machine::asleep::slept_since_boot;
use crate::services::node::Inner;
use crate::services::node::limits::{ASLEEP_MAX, SLEEP_CHECK, SLEEP_CHECK_AT_REST, SLEPT_MIN};

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
    let mut awake_at: Option<Instant> = None;
    let mut rest = SLEEP_CHECK;
    loop {
        tokio::time::sleep(rest).await;
        let Some(node) = node.upgrade() else { return };
        let now = Clocks::read(&machine);
        if now.stood_still(&before, rest) {
            tracing::info!("this process stood still: connections and leases begin anew");
            wake(&node).await;
        }
        awake_at = node.asleep.load(Ordering::Relaxed).then(|| awake_at.unwrap_or(now.monotonic));
        if awake_at.is_some_and(|since| since.elapsed() >= ASLEEP_MAX) {
            tracing::warn!("sleep was announced and did not come");
            wake(&node).await;
        }
        before = now;
        // Where nothing is open, nothing of it can be void, and each look wakes an idle machine.
        let at_rest = awake_at.is_none() && node.links().is_empty() && node.open_shares().is_empty();
        rest = if at_rest { SLEEP_CHECK_AT_REST } else { SLEEP_CHECK };
    }
}

/// The machine is about to sleep. Completes once peers have been told and connections have ended, after half a second at
/// the latest: they take over at once, and need not find out by waiting.
pub(crate) async fn announce(node: &Arc<Inner>) {
    if node.asleep.swap(true, Ordering::Relaxed) {
        return;
    }
    tracing::info!("this machine is about to sleep: leases and connections end");
    for share in node.open_shares() {
        share.fall_asleep().await;
    }
    node.part_with_all().await;
}

/// It woke, or will not sleep after all. Nothing happens where no sleep was announced, or the clocks have shown it already.
pub(crate) async fn announced_wake(node: &Arc<Inner>) {
    if node.asleep.load(Ordering::Relaxed) {
        wake(node).await;
    }
}

/// Every download and every seed hears of it, then connections end: a peer that was silent too long for the other side
/// is dialled anew rather than waited for.
async fn wake(node: &Arc<Inner>) {
    node.asleep.store(false, Ordering::Relaxed);
    node.isolation.forget();
    node.forget_line();
    for share in node.open_shares() {
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
