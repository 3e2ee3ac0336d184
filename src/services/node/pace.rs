//! Rates that must not be passed, over all connections of a node: whoever moves bytes waits here until they fit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What may be moved at once after a pause; longer lets more than the rate through within a second.
const BURST: Duration = Duration::from_millis(50);
/// Slices under a rate are such a part of a second long, so that several connections take turns often enough for none to
/// look dead.
const SLICES_A_SECOND: u64 = 16;
/// Shortest slice, bytes.
const SLICE_BYTES_MIN: usize = 4096;

/// Bytes a second that may be moved; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// To peers.
    pub upload: u64,
    /// Of downloads that somebody waits for, from peers and sources together.
    pub foreground: u64,
    /// Of downloads that nobody waits for.
    pub background: u64,
    /// Of the first, what comes over the line to the outside: from origins, and from peers elsewhere.
    pub foreground_outside: u64,
    /// The same of the second.
    pub background_outside: u64,
    /// All that comes over the line to the outside, whoever waits for it: the budget of the site's line, which no node
    /// passes by itself. That a site's nodes together keep to it is the engine's doing.
    pub line: u64,
}

/// One rate.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    rate: AtomicU64,
    /// When what was let through so far has been earned.
    earned: Mutex<Option<Instant>>,
    changed: Notify,
}

/// The rates of a node.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    pub(crate) upload: Pace,
    pub(crate) foreground: Pace,
    pub(crate) background: Pace,
    pub(crate) foreground_outside: Pace,
    pub(crate) background_outside: Pace,
    pub(crate) line: Pace,
}

impl Paces {
    pub(crate) fn set(&self, rates: &Rates) {
        self.upload.set(rates.upload);
        self.foreground.set(rates.foreground);
        self.background.set(rates.background);
        self.foreground_outside.set(rates.foreground_outside);
        self.background_outside.set(rates.background_outside);
        self.line.set(rates.line);
    }
}

impl Pace {
    fn set(&self, rate: u64) {
        if self.rate.swap(rate, Ordering::Relaxed) != rate {
            *self.earned.lock().unwrap_or_else(PoisonError::into_inner) = None;
            // Whoever waits for an old rate goes on; at most a slice each.
            self.changed.notify_waiters();
        }
    }

    /// How many of so many bytes are to be moved in one go.
    pub(crate) fn slice(&self, bytes: usize) -> usize {
        match self.rate.load(Ordering::Relaxed) {
            0 => bytes,
            rate => bytes.min(usize::try_from(rate / SLICES_A_SECOND).unwrap_or(bytes).max(SLICE_BYTES_MIN)),
        }
    }

    /// Completes once so many bytes more are within the rate.
    pub(crate) async fn take(&self, bytes: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let changed = self.changed.notified();
        let due = {
            let mut earned = self.earned.lock().unwrap_or_else(PoisonError::into_inner);
            let due = due(*earned, Instant::now(), bytes, rate);
            *earned = Some(due);
            due
        };
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = changed => {}
        }
    }
}

/// When bytes that are asked for now have been earned.
fn due(earned: Option<Instant>, now: Instant, bytes: u64, rate: u64) -> Instant {
    let idle = now.checked_sub(BURST).unwrap_or(now);
    let from = earned.map_or(idle, |earned| earned.max(idle));
    let micros = u128::from(bytes).saturating_mul(1_000_000) / u128::from(rate.max(1));
    from + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX).min(60_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_through_keeps_to_the_rate_however_it_is_cut() {
        for slice in [1000, 50_000, 1_000_000] {
            let began = Instant::now();
            let (mut now, mut moved) = (began, 0);
            let mut earned = None;
            while moved < 10_000_000 {
                let next = due(earned, now, slice, 1_000_000);
                (earned, now, moved) = (Some(next), next.max(now), moved + slice);
            }
            let seconds = now.duration_since(began).as_secs_f64();
            assert!((9.9..=10.0).contains(&seconds), "{slice}: {seconds}");
        }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_a_burst() {
        let began = Instant::now();
        let first = due(None, began, 1000, 1000);
        let later = first + Duration::from_secs(100);
        assert_eq!(due(Some(first), later, 1000, 1000), later + Duration::from_secs(1) - BURST);
    }

    #[test]
    fn slices_under_a_rate_are_short_and_never_nothing() {
        let pace = Pace::default();
        assert_eq!(pace.slice(1 << 20), 1 << 20);
        pace.set(160_000);
        assert_eq!((pace.slice(1 << 20), pace.slice(7)), (10_000, 7));
        pace.set(1);
        assert_eq!(pace.slice(1 << 20), SLICE_BYTES_MIN);
    }
}
