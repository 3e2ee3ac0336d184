//! Time as it is handed in on every call, and the few alarms a swarm sets itself.

use std::time::Duration;

/// Microseconds since some start of the caller's choosing; never goes backward. No method panics or wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uptime(u64);

impl Uptime {
    /// The start.
    pub const ZERO: Self = Self(0);

    /// This many microseconds after the start.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Later by `by`; the end of time where that does not fit.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time passed since `earlier`; zero where that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// What a swarm wakes up for. One alarm each, so the table is as small as this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Discovery counts as settled, whatever it says.
    Settle,
    /// Timeouts, leases, back-offs, fallback: everything that is looked at several times a second.
    Housekeeping,
    /// The batch of `Have` goes out.
    Haves,
    /// Slots are dealt anew.
    ChokeRound,
    /// News about members goes out.
    Members,
}

const TIMERS: usize = 5;

/// When each [`Timer`] rings.
#[derive(Debug, Default)]
pub(crate) struct TimerTable {
    due: [Option<Uptime>; TIMERS],
}

impl TimerTable {
    /// Sets an alarm, replacing the former one.
    pub(crate) fn set(&mut self, timer: Timer, at: Uptime) {
        self.due[timer as usize] = Some(at);
    }

    /// Sets an alarm unless an earlier one is set.
    pub(crate) fn set_sooner(&mut self, timer: Timer, at: Uptime) {
        let due = self.due[timer as usize].get_or_insert(at);
        *due = at.min(*due);
    }

    /// Sets an alarm unless one is set.
    pub(crate) fn set_if_unset(&mut self, timer: Timer, at: Uptime) {
        self.due[timer as usize].get_or_insert(at);
    }

    /// Clears an alarm.
    pub(crate) fn clear(&mut self, timer: Timer) {
        self.due[timer as usize] = None;
    }

    /// Takes an alarm that is due.
    pub(crate) fn take_due(&mut self, timer: Timer, now: Uptime) -> bool {
        let due = self.due[timer as usize].is_some_and(|at| at <= now);
        if due {
            self.clear(timer);
        }
        due
    }

    /// The earliest alarm.
    pub(crate) fn next(&self) -> Option<Uptime> {
        self.due.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_at_both_ends() {
        assert_eq!(Uptime::from_micros(5).after(Duration::MAX), Uptime::from_micros(u64::MAX));
        assert_eq!(Uptime::from_micros(5).since(Uptime::from_micros(9)), Duration::ZERO);
        assert_eq!(Uptime::from_micros(9).since(Uptime::from_micros(5)), Duration::from_micros(4));
    }

    #[test]
    fn the_earliest_alarm_is_next_and_rings_once() {
        let mut table = TimerTable::default();
        assert_eq!(table.next(), None);
        table.set(Timer::Haves, Uptime::from_micros(7));
        table.set(Timer::Settle, Uptime::from_micros(3));
        table.set_if_unset(Timer::Settle, Uptime::from_micros(1));
        assert_eq!(table.next(), Some(Uptime::from_micros(3)));
        assert!(!table.take_due(Timer::Settle, Uptime::from_micros(2)));
        assert!(table.take_due(Timer::Settle, Uptime::from_micros(3)));
        assert!(!table.take_due(Timer::Settle, Uptime::from_micros(3)));
        assert_eq!(table.next(), Some(Uptime::from_micros(7)));
    }
}
