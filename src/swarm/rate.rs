//! Two measures of speed, in integers: how fast a supplier is while it owes us something, and what came in lately.

use std::time::Duration;

use crate::swarm::timer::Uptime;

const MICROS: u64 = 1_000_000;

/// `a * b / by`; saturates. `by` is not 0. Wide numbers are divided only where the product is one: that costs much more.
fn times_over(a: u64, b: u64, by: u64) -> u64 {
    match a.checked_mul(b) {
        Some(product) => product / by,
        None => u64::try_from(u128::from(a) * u128::from(b) / u128::from(by)).unwrap_or(u64::MAX),
    }
}

/// Bytes per second over `micros`; saturates.
pub(crate) fn per_second(bytes: u64, micros: u64) -> u64 {
    times_over(bytes, MICROS, micros.max(1))
}

/// How long `bytes` take at `rate`; the longest `Duration` micros can say where the rate is 0.
pub(crate) fn time_for(bytes: u64, rate: u64) -> Duration {
    if rate == 0 {
        return Duration::from_micros(u64::MAX);
    }
    Duration::from_micros(times_over(bytes, MICROS, rate))
}

/// Bytes that pass at `rate` within `time`; saturates.
pub(crate) fn bytes_in(rate: u64, time: Duration) -> u64 {
    match u64::try_from(time.as_micros()) {
        Ok(micros) => times_over(rate, micros, MICROS),
        Err(_) => {
            u64::try_from(u128::from(rate).saturating_mul(time.as_micros()) / u128::from(MICROS)).unwrap_or(u64::MAX)
        }
    }
}

/// Speed of one supplier while it owes us something. Half of the memory is dropped every two busy seconds, so that the
/// measure follows the line.
#[derive(Debug, Default)]
pub(crate) struct BusyRate {
    bytes: u64,
    busy_micros: u64,
    /// Since when time counts; `None` while nothing is owed.
    since: Option<Uptime>,
}

impl BusyRate {
    const HALVED_AFTER: u64 = 2_000_000;

    /// Something is owed from now on.
    pub(crate) fn begin(&mut self, now: Uptime) {
        self.since.get_or_insert(now);
    }

    /// Nothing is owed any more.
    pub(crate) fn end(&mut self, now: Uptime) {
        self.count(now);
        self.since = None;
    }

    /// Bytes arrived.
    pub(crate) fn add(&mut self, now: Uptime, bytes: u64) {
        self.count(now);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.busy_micros > Self::HALVED_AFTER {
            self.busy_micros /= 2;
            self.bytes /= 2;
        }
    }

    fn count(&mut self, now: Uptime) {
        if let Some(since) = self.since {
            let passed = u64::try_from(now.since(since).as_micros()).unwrap_or(u64::MAX);
            self.busy_micros = self.busy_micros.saturating_add(passed);
            self.since = Some(now);
        }
    }

    /// Bytes per second; `None` before anything was measured.
    pub(crate) fn rate(&self) -> Option<u64> {
        (self.bytes > 0).then(|| per_second(self.bytes, self.busy_micros))
    }
}

/// What came in over the last four seconds, in eight slots.
#[derive(Debug, Default)]
pub(crate) struct RecentRate {
    slots: [u64; 8],
    /// Number of the newest slot since the start of time.
    newest: u64,
}

impl RecentRate {
    const SLOT_MICROS: u64 = 500_000;

    fn advance(&mut self, now: Uptime) {
        let slot = now.micros() / Self::SLOT_MICROS;
        let stale = slot.saturating_sub(self.newest).min(8);
        for step in 0..stale {
            self.slots[((slot - step) % 8) as usize] = 0;
        }
        self.newest = self.newest.max(slot);
    }

    /// Bytes arrived.
    pub(crate) fn add(&mut self, now: Uptime, bytes: u64) {
        self.advance(now);
        let slot = &mut self.slots[(self.newest % 8) as usize];
        *slot = slot.saturating_add(bytes);
    }

    /// Bytes per second over the last `since.min(4 s)`, at least half a second.
    pub(crate) fn rate(&self, now: Uptime, start: Uptime) -> u64 {
        let slot = now.micros() / Self::SLOT_MICROS;
        if self.newest + 8 <= slot {
            return 0;
        }
        // Slots older than the newest one by eight were overwritten; those newer than it hold nothing yet.
        let bytes = (slot.saturating_sub(7)..=slot.min(self.newest))
            .filter(|slot| slot + 8 > self.newest)
            .fold(0u64, |sum, slot| sum.saturating_add(self.slots[(slot % 8) as usize]));
        let since_start = u64::try_from(now.since(start).as_micros()).unwrap_or(u64::MAX);
        let whole = 7 * Self::SLOT_MICROS + now.micros() % Self::SLOT_MICROS;
        per_second(bytes, since_start.clamp(Self::SLOT_MICROS, whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Uptime {
        Uptime::from_micros(millis * 1000)
    }

    #[test]
    fn only_busy_time_counts() {
        let mut rate = BusyRate::default();
        assert_eq!(rate.rate(), None);
        rate.begin(at(0));
        rate.add(at(500), 500_000);
        rate.end(at(500));
        rate.begin(at(60_000));
        rate.add(at(60_500), 500_000);
        assert_eq!(rate.rate(), Some(1_000_000));
        for second in 61..90 {
            rate.add(at(second * 1000), 100_000);
        }
        assert!(rate.rate().is_some_and(|rate| rate < 110_000), "{:?}", rate.rate());
    }

    #[test]
    fn the_recent_rate_forgets_after_four_seconds() {
        let mut rate = RecentRate::default();
        rate.add(at(100), 1_000_000);
        assert_eq!(rate.rate(at(400), at(0)), 2_000_000);
        assert_eq!(rate.rate(at(1000), at(0)), 1_000_000);
        assert!(rate.rate(at(3900), at(0)) > 200_000);
        assert_eq!(rate.rate(at(4000), at(0)), 0);
        assert_eq!(rate.rate(at(400_000), at(0)), 0);
        rate.add(at(400_100), 7);
        assert!(rate.rate(at(400_100), at(0)) > 0);
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(per_second(u64::MAX, 0), u64::MAX);
        assert_eq!(time_for(u64::MAX, 0), Duration::from_micros(u64::MAX));
        assert_eq!(time_for(u64::MAX, 1), Duration::from_micros(u64::MAX));
        assert_eq!(bytes_in(u64::MAX, Duration::MAX), u64::MAX);
    }
}
