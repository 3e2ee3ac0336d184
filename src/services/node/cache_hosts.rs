//! Which of a share's sources are asked at the moment: cache hosts first, one at a time, then the origins.

use std::time::{Duration, Instant};

use crate::swarm::event::SourceFault;

/// How long cache hosts may bring nothing before the next is asked, and at last the origins; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CachePatience {
    /// Of a download that somebody waits for.
    pub foreground: Option<Duration>,
    /// Of one that nobody waits for.
    pub background: Option<Duration>,
}

impl CachePatience {
    /// That of a download.
    pub(crate) fn of(&self, background: bool) -> Option<Duration> {
        if background { self.background } else { self.foreground }
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
}

impl Turns {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, ..Self::default() }
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

    /// A source has brought something; `more`: more is asked of it.
    pub(crate) fn brought(&mut self, source: usize, more: bool, now: Instant) {
        if self.is_asked(source) {
            self.silent_since = more.then_some(now);
        }
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
        *self = Self { count: self.count, at: left.saturating_add(1), silent_since: None, failed: false };
        Some(left)
    }

    /// Whether no source will be asked but those of now.
    pub(crate) fn is_last(&self, patience: Option<Duration>) -> bool {
        self.at >= self.count || (self.at.saturating_add(1) == self.count && patience.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

    #[test]
    fn cache_hosts_come_in_order_and_the_origins_after_them() {
        let began = Instant::now();
        let mut turns = Turns::new(2);
        assert_eq!(turns.asked(5), 0..1);
        turns.asks(0, began);
        assert_eq!(turns.next(PATIENCE, began + Duration::from_secs(29)), None);
        turns.brought(0, true, began + Duration::from_secs(20));
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
        let mut turns = Turns::new(1);
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
        assert_eq!(Turns::new(0).asked(3), 0..3);
    }
}
