//! Which of a share's sources are asked at the moment: cache hosts first, one at a time, then the origins.

use std::time::{Duration, Instant};

use crate::content::layout::BLOCK_BYTES;
use crate::swarm::event::SourceFault;

/// How long a cache host that DNS-SD told of may take for a MiB. Anybody on a link can announce one, so what a bad one costs
/// a download is bounded whatever policy says of those that it names.
const FOUND_PATIENCE: Duration = Duration::from_secs(5);

/// How long cache hosts may bring nothing before the next is asked, and at last the origins; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CachePatience {
    /// Of a download that somebody waits for.
    pub foreground: Option<Duration>,
    /// Of one that nobody waits for.
    pub background: Option<Duration>,
    /// DNS-SD told of them: none is waited for long, and the origins always come after them.
    pub found: bool,
}

impl CachePatience {
    /// That of a download.
    pub(crate) fn of(&self, background: bool) -> Option<Duration> {
        let set = if background { self.background } else { self.foreground };
        match self.found {
            true => Some(set.map_or(FOUND_PATIENCE, |set| set.min(FOUND_PATIENCE))),
            false => set,
        }
    }
}

/// Where a share stands among its cache hosts. The first `count` of its sources are such.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    count: usize,
    /// The cache host that is asked; `count` once the origins are.
    at: usize,
    /// Since when the cache host has been asked and has brought nothing.
    silent_since: Option<Instant>,
    /// It will bring nothing.
    failed: bool,
    /// DNS-SD told of them: little bytes buy little time.
    found: bool,
}

impl Turns {
    pub(crate) fn new(count: usize, found: bool) -> Self {
        Self { count, found, ..Self::default() }
    }

    /// The numbers of the sources that are asked now, of so many.
    pub(crate) fn asked(&self, all: usize) -> std::ops::Range<usize> {
        if self.at < self.count { self.at..self.at.saturating_add(1) } else { self.count..all }
    }

    /// Whether this source is a cache host.
    pub(crate) fn is_cache_host(&self, source: usize) -> bool {
        source < self.count
    }

    fn is_asked(&self, source: usize) -> bool {
        source == self.at && source < self.count
    }

    /// Something is asked of a source.
    pub(crate) fn asks(&mut self, source: usize, now: Instant) {
        if self.is_asked(source) {
            self.silent_since.get_or_insert(now);
        }
    }

    /// A source has brought so many bytes; `more`: more is asked of it.
    pub(crate) fn brought(&mut self, source: usize, bytes: u64, more: bool, now: Instant) {
        if !self.is_asked(source) {
            return;
        }
        let bought = bought(bytes);
        self.silent_since = match (self.silent_since, self.found) {
            (Some(since), true) if more => Some(since.checked_add(bought).map_or(now, |since| since.min(now))),
            _ => more.then_some(now),
        };
    }

    /// What was asked of a source ended. A silent one is a matter of patience; one that cannot be reached, or has not the
    /// file, is not.
    pub(crate) fn ended(&mut self, source: usize, fault: Option<SourceFault>, more: bool) {
        if !self.is_asked(source) {
            return;
        }
        match fault {
            None if !more => self.silent_since = None,
            Some(SourceFault::Unreachable | SourceFault::Refused | SourceFault::Changed) => self.failed = true,
            _ => {}
        }
    }

    /// Goes on to the next where it is time; returns the number of the cache host that is asked no more. `patience`: see
    /// [`CachePatience`]; from the last cache host without end only while it is not for ever.
    pub(crate) fn next(&mut self, patience: Option<Duration>, now: Instant) -> Option<usize> {
        let overdue = patience.is_some_and(|patience| {
            self.silent_since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
        });
        let last = self.at.saturating_add(1) >= self.count;
        if self.at >= self.count || !(self.failed || overdue) || (last && patience.is_none()) {
            return None;
        }
        let left = self.at;
        *self = Self { count: self.count, found: self.found, at: left.saturating_add(1), ..Self::default() };
        Some(left)
    }

    /// Whether no source will be asked but those of now.
    pub(crate) fn is_last(&self, patience: Option<Duration>) -> bool {
        self.at >= self.count || (self.at.saturating_add(1) == self.count && patience.is_none())
    }
}

/// The time that bytes of a cache host buy, which DNS-SD told of: who trickles is as bad as who is silent.
fn bought(bytes: u64) -> Duration {
    let micros = FOUND_PATIENCE.as_micros().saturating_mul(bytes.into()) / u128::from(BLOCK_BYTES);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

    #[test]
    fn cache_hosts_come_in_order_and_the_origins_after_them() {
        let began = Instant::now();
        let mut turns = Turns::new(2, false);
        assert_eq!(turns.asked(5), 0..1);
        turns.asks(0, began);
        assert_eq!(turns.next(PATIENCE, began + Duration::from_secs(29)), None);
        turns.brought(0, 1, true, began + Duration::from_secs(20));
        assert_eq!(turns.next(PATIENCE, began + Duration::from_secs(49)), None);
        assert_eq!(turns.next(PATIENCE, began + Duration::from_secs(50)), Some(0));
        assert_eq!(turns.asked(5), 1..2);
        turns.ended(1, Some(SourceFault::Refused), false);
        assert_eq!(turns.next(PATIENCE, began), Some(1), "what has not the file is not waited for");
        assert_eq!((turns.asked(5), turns.next(PATIENCE, began)), (2..5, None));
    }

    #[test]
    fn who_is_asked_for_nothing_is_not_silent_and_never_is_never() {
        let began = Instant::now();
        let late = began + Duration::from_secs(3600);
        let mut turns = Turns::new(1, false);
        assert_eq!(turns.next(PATIENCE, late), None);
        turns.asks(0, began);
        turns.ended(0, None, false);
        assert_eq!(turns.next(PATIENCE, late), None);
        turns.asks(0, began);
        turns.ended(0, Some(SourceFault::TimedOut), false);
        assert_eq!(turns.next(None, late), None);
        turns.ended(0, Some(SourceFault::Unreachable), false);
        assert_eq!(turns.next(None, late), None, "the origin is not asked");
        assert!(turns.is_last(None) && !turns.is_last(PATIENCE));
        assert_eq!(turns.next(PATIENCE, began), Some(0));
        assert_eq!(Turns::new(0, false).asked(3), 0..3);
    }

    #[test]
    fn who_only_announced_itself_is_not_waited_for_however_it_trickles() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        for set in [None, Some(Duration::from_secs(60))] {
            let patience = CachePatience { foreground: set, background: set, found: true };
            assert_eq!((patience.of(true), patience.of(false)), (Some(FOUND_PATIENCE), Some(FOUND_PATIENCE)));
        }
        let mut turns = Turns::new(2, true);
        turns.asks(0, began);
        turns.brought(0, BLOCK_BYTES, true, at(4));
        assert_eq!(turns.next(Some(FOUND_PATIENCE), at(8)), None, "a MiB in five seconds is enough");
        turns.brought(0, 1000, true, at(8));
        assert_eq!(turns.next(Some(FOUND_PATIENCE), at(10)), Some(0), "a trickle is not");
        turns.asks(1, at(10));
        assert_eq!(turns.next(Some(FOUND_PATIENCE), at(15)), Some(1));
        assert_eq!(turns.asked(3), 2..3, "and the origins come in any case");
    }
}
