//! How background work yields to people: a window of bytes on their way to us, steered by the queueing delay that
//! round-trip times show. The receiver's form of LEDBAT (RFC 6817), with the decrease, slow start and slow-downs of
//! LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus) at the receiver's window as in rLEDBAT (RFC 9840).
//!
//! One [`Pacer`] stands for all background bytes of a node, so that many connections behave as one polite flow; each
//! connection has a [`BaseDelay`] of its own. Pure: round trips are handed in, the window is read off.

use std::collections::VecDeque;
use std::time::Duration;

use crate::swarm::rate::time_for;
use crate::swarm::timer::Uptime;

/// Queueing delay that background work may cause. RFC 6817 allows 100 ms, which a call or a game would feel.
pub const TARGET: Duration = Duration::from_micros(2_000);
/// A segment of TCP as Ethernet carries it, bytes.
const SEGMENT: u64 = 1_448;
/// The window never falls below a segment. At the round trip of others' short queue that is still three megabits a second:
/// there, nothing is read for most of the time (see [`Pacer::is_shut`]).
pub const WINDOW_MIN: u64 = SEGMENT;
/// Of a line that others have, background work takes one part in so many: enough to see when they are done.
const TRICKLE_PART: u64 = 128;
/// The least of it, bytes a second: less, and a server or a peer takes us for dead.
const TRICKLE_MIN: u64 = 8_192;
/// What is read between two pauses: round trips are smoothed over eight samples, and the first ones after a pause are wrong, since
/// to the kernel a closed window is crossed by any segment.
const TRICKLE_LOOK: u64 = 16 * SEGMENT;
/// Nor below two while nobody else has the line: on a thin one two segments are over the target by themselves.
const WINDOW_MIN_ALONE: u64 = 2 * SEGMENT;
/// What arrives is counted over this long.
const LINE_BIN: Duration = Duration::from_millis(250);
/// What the line was seen to carry is forgotten by one part in so many with each of these: by half in three minutes.
const LINE_FORGET: u64 = 1024;
/// The same while others have it, who may stay for long: by half in an hour and a half.
const LINE_FORGET_OTHERS: u64 = 32_768;
/// Growth after slow start is slower than TCP's by this factor (LEDBAT++, 4.2: `GAIN`), so that a queue which drains for
/// a moment is left to those who make it.
const GAIN_PART: u128 = 8;
/// No more is on its way at a time: 100 Mbit/s over a third of a second.
pub const WINDOW_MAX: u64 = 4 << 20;
/// A slow-down takes this long and two round trips besides.
const SLOW_DOWN: Duration = Duration::from_millis(30);
/// A slow-down begins so many times its own length after the last one's end, so that it costs a tenth at most.
const SLOW_DOWN_EVERY: u32 = 9;
/// Slow-downs are no closer than this, since the base hardly changes in less.
const SLOW_DOWN_GAP: Duration = Duration::from_secs(5);
/// Length of one window of the minimum, and how many count (RFC 6817, 4.2: `BASE_HISTORY`).
const BASE_WINDOW: Duration = Duration::from_secs(60);
const BASE_WINDOWS: usize = 10;

/// The round trip of one connection when no queue stands: the least that was seen in the last ten minutes.
#[derive(Debug, Clone, Default)]
pub struct BaseDelay {
    /// Minimum of each window, the oldest first; at most [`BASE_WINDOWS`].
    windows: VecDeque<Duration>,
    /// When the newest window began.
    since: Uptime,
}

impl BaseDelay {
    /// Takes in one round trip; returns how much of it is queueing.
    pub fn queueing(&mut self, now: Uptime, round_trip: Duration) -> Duration {
        if self.windows.is_empty() || now.since(self.since) >= BASE_WINDOW {
            if self.windows.len() >= BASE_WINDOWS {
                self.windows.pop_front();
            }
            self.windows.push_back(round_trip);
            self.since = now;
        }
        if let Some(newest) = self.windows.back_mut() {
            *newest = round_trip.min(*newest);
        }
        round_trip.saturating_sub(self.windows.iter().min().copied().unwrap_or(round_trip))
    }
}

/// What was seen on all background connections since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The worst queueing delay among them.
    pub queueing: Duration,
    /// The round trip that it was part of.
    pub round_trip: Duration,
    /// Bytes that arrived.
    pub delivered: u64,
}

/// What comes over the line, and what was seen to.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    since: Uptime,
    bytes: u64,
    /// In the last bin that is over, bytes.
    last: u64,
    /// The most in a bin.
    best: u64,
}

impl Line {
    fn delivered(&mut self, now: Uptime, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        let passed = now.since(self.since);
        if passed >= LINE_BIN {
            // A look that comes late covers more.
            let bins = u64::try_from(passed.as_micros() / LINE_BIN.as_micros()).unwrap_or(u64::MAX);
            self.last = self.bytes / bins.max(1);
            let part = if self.is_others() { LINE_FORGET_OTHERS } else { LINE_FORGET };
            self.best = (self.best - self.best / part).max(self.last);
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// Most of it goes to others: we get less than half of what it carried.
    fn is_others(&self) -> bool {
        self.last < self.best / 2
    }

    /// How long so many bytes are to take while others have it.
    fn trickles(&self, bytes: u64) -> Duration {
        let bins = u64::try_from(1_000_000 / LINE_BIN.as_micros().max(1)).unwrap_or(1);
        time_for(bytes, (self.best.saturating_mul(bins) / TRICKLE_PART).max(TRICKLE_MIN))
    }
}

/// Others have the line: nothing is read until then, and so many bytes after it before the next look.
#[derive(Debug, Clone, Copy)]
struct Trickle {
    shut_until: Uptime,
    left: u64,
}

/// The window of all background connections of a node together.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Bytes that may be on their way. The least at first, so that no queue of our own is in the first base.
    window: u64,
    line: Line,
    trickle: Option<Trickle>,
    /// Until the first sign of a queue the window doubles in each round trip.
    slow_start: bool,
    /// Not cut again before then: a cut takes a round trip to show.
    cut_after: Uptime,
    /// The slow-down under way: its end, and the window to go back to.
    slow_down: Option<(Uptime, u64)>,
    /// When the next one begins; set once slow start has ended.
    slow_down_at: Option<Uptime>,
}

impl Default for Pacer {
    fn default() -> Self {
        let window = WINDOW_MIN_ALONE;
        Self {
            window,
            line: Line::default(),
            trickle: None,
            slow_start: true,
            cut_after: Uptime::ZERO,
            slow_down: None,
            slow_down_at: None,
        }
    }
}

impl Pacer {
    /// Bytes that all background connections together may have on their way, at least [`WINDOW_MIN`].
    pub fn window(&self) -> u64 {
        match self.slow_down {
            // Two segments also where one was asked for: of one alone the kernel learns no round trip, and without fresh ones the
            // others' queue was no longer seen (a flow beside it lost 28 to 40 % instead of 4).
            Some(_) => WINDOW_MIN_ALONE,
            None => self.window,
        }
    }

    /// Whether nothing may be read for now, since others have the line and even the least window would take too much of it.
    pub fn is_shut(&self, now: Uptime) -> bool {
        self.trickle.is_some_and(|trickle| now < trickle.shut_until)
    }

    /// Segments that each connection may have on its way at least.
    pub fn least_segments(&self) -> u64 {
        if self.window < WINDOW_MIN_ALONE && self.slow_down.is_none() { 1 } else { 2 }
    }

    /// Takes in what was seen since the last look. Worth a call each hundredth of a second while bytes come.
    pub fn look(&mut self, now: Uptime, sample: Sample) {
        self.line.delivered(now, sample.delivered);
        if self.trickles(now, sample) || self.slows_down(now, sample.round_trip) {
            return;
        }
        if sample.queueing > TARGET {
            self.slow_start = false;
            self.slow_down_at.get_or_insert(now.after(SLOW_DOWN_GAP));
            self.cut(now, sample);
            return;
        }
        // Who does not fill the window learns nothing about the line, and would burst later.
        let filled = sample.delivered >= self.window / 2;
        if self.slow_start {
            if sample.queueing.saturating_mul(4) > TARGET.saturating_mul(3) {
                self.slow_start = false;
                self.slow_down_at = Some(now.after(SLOW_DOWN_GAP));
            } else if filled {
                self.grow(sample.delivered.min(self.window));
            }
        } else if filled {
            let room = TARGET.saturating_sub(sample.queueing).as_micros();
            let step = u128::from(sample.delivered) * u128::from(SEGMENT) * room
                / (u128::from(self.window.max(1)) * TARGET.as_micros() * GAIN_PART);
            self.grow(u64::try_from(step).unwrap_or(u64::MAX).min(self.window / 4));
        }
    }

    fn grow(&mut self, by: u64) {
        self.window = self.window.saturating_add(by).min(WINDOW_MAX);
    }

    /// Less by as much as the delay is over the target, a half at most; once in a round trip.
    fn cut(&mut self, now: Uptime, sample: Sample) {
        if now < self.cut_after {
            return;
        }
        self.cut_after = now.after(sample.round_trip);
        let over = sample.queueing.saturating_sub(TARGET).as_micros();
        let part = u64::try_from(over * 1024 / TARGET.as_micros()).unwrap_or(u64::MAX).min(512);
        let least = if self.line.is_others() { WINDOW_MIN } else { WINDOW_MIN_ALONE };
        self.window = (self.window - self.window / 1024 * part).max(least);
        if self.window <= WINDOW_MIN {
            self.shut(now);
        }
    }

    fn shut(&mut self, now: Uptime) {
        let lasts = self.line.trickles(TRICKLE_LOOK);
        self.trickle = Some(Trickle { shut_until: now.after(lasts), left: TRICKLE_LOOK });
    }

    /// Whether others still have the line, as far as was seen.
    fn trickles(&mut self, now: Uptime, sample: Sample) -> bool {
        let Some(trickle) = &mut self.trickle else { return false };
        if now < trickle.shut_until {
            return true;
        }
        trickle.left = trickle.left.saturating_sub(sample.delivered);
        if trickle.left > 0 {
            return true;
        }
        if sample.queueing > TARGET {
            self.shut(now);
            return true;
        }
        self.trickle = None;
        false
    }

    /// From time to time almost nothing is asked for, so that a queue of our own making drains and the base is seen.
    fn slows_down(&mut self, now: Uptime, round_trip: Duration) -> bool {
        if let Some((until, window)) = self.slow_down {
            if now >= until {
                self.slow_down = None;
                self.window = window;
            }
            return true;
        }
        if self.slow_down_at.is_none_or(|at| now < at) {
            return false;
        }
        let lasts = SLOW_DOWN.saturating_add(round_trip.saturating_mul(2));
        self.slow_down = Some((now.after(lasts), self.window));
        self.slow_down_at = Some(now.after(lasts).after(SLOW_DOWN_GAP.max(lasts * SLOW_DOWN_EVERY)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const STEP: u64 = 10_000;

    /// A line of `rate` bytes a second with a first-in-first-out queue, on which others keep `others` bytes standing.
    struct Link {
        rate: u64,
        others: u64,
        base: BaseDelay,
        pacer: Pacer,
        now: Uptime,
        delivered: u64,
    }

    impl Link {
        fn new(rate: u64) -> Self {
            let (base, pacer) = (BaseDelay::default(), Pacer::default());
            Self { rate, others: 0, base, pacer, now: Uptime::ZERO, delivered: 0 }
        }

        /// One hundredth of a second; returns the queueing delay.
        fn step(&mut self) -> Duration {
            self.now = self.now.after(Duration::from_micros(STEP));
            let window = self.pacer.window();
            let carried = self.rate / 1000;
            let mine = window.saturating_sub(carried);
            let queue = Duration::from_micros((mine + self.others) * 1_000_000 / self.rate);
            let round_trip = MILLI + queue;
            let full = u128::from(window) * u128::from(STEP) / round_trip.as_micros();
            let shut = self.pacer.is_shut(self.now);
            let delivered = if shut { 0 } else { u64::try_from(full).expect("small").min(self.rate / 100) };
            self.delivered += delivered;
            let queueing = self.base.queueing(self.now, round_trip);
            self.pacer.look(self.now, Sample { queueing, round_trip, delivered });
            queue
        }

        /// So many steps; returns the longest queueing delay.
        fn run(&mut self, steps: u32) -> Duration {
            (0..steps).map(|_| self.step()).max().unwrap_or_default()
        }
    }

    #[test]
    fn alone_on_a_line_it_fills_it_and_keeps_the_queue_short() {
        // Two segments on a line of half a megabyte a second alone are six milliseconds: less it cannot ask for.
        for (rate, used) in [(500_000, 80), (12_500_000, 93), (125_000_000, 93)] {
            let mut link = Link::new(rate);
            for _ in 0..300 {
                link.step();
            }
            link.delivered = 0;
            let worst = link.run(3_000);
            assert!(link.delivered >= rate * 30 * used / 100, "{} of {}", link.delivered, rate * 30);
            let least = Duration::from_micros(WINDOW_MIN_ALONE * 1_000_000 / rate);
            assert!(worst <= TARGET * 2 + least, "{worst:?} at {rate}");
        }
    }

    #[test]
    fn it_gives_way_to_others_within_a_second_and_comes_back() {
        let mut link = Link::new(12_500_000);
        for _ in 0..300 {
            link.step();
        }
        link.others = 2_500_000;
        for _ in 0..200 {
            link.step();
        }
        assert_eq!(link.pacer.window(), WINDOW_MIN);
        // They may stay for long: no more than a hundredth is taken.
        for _ in 0..600 {
            link.delivered = 0;
            link.run(500);
            assert!(link.delivered <= link.rate / 20, "{} in five seconds", link.delivered);
            assert!(link.delivered > 0, "others are looked for");
        }
        link.others = 0;
        for _ in 0..200 {
            link.step();
        }
        assert!(link.pacer.window() > 12 * SEGMENT, "{}", link.pacer.window());
    }

    #[test]
    fn a_window_that_is_not_filled_does_not_grow() {
        let mut pacer = Pacer::default();
        let before = pacer.window();
        for step in 0..1_000 {
            let sample = Sample { queueing: Duration::ZERO, round_trip: MILLI, delivered: before / 4 };
            pacer.look(Uptime::from_micros(step * STEP), sample);
        }
        assert_eq!(pacer.window(), before);
    }

    #[test]
    fn a_longer_way_becomes_the_base_when_the_old_one_is_forgotten() {
        let mut base = BaseDelay::default();
        let at = |minute: u64| Uptime::from_micros(minute * 60_000_000);
        base.queueing(at(0), MILLI);
        assert_eq!(base.queueing(at(5), MILLI * 21), MILLI * 20);
        for minute in 6..20 {
            base.queueing(at(minute), MILLI * 21);
        }
        assert_eq!(base.queueing(at(20), MILLI * 21), Duration::ZERO);
    }

    proptest::proptest! {
        #[test]
        fn the_window_stays_in_bounds(steps in proptest::collection::vec(proptest::prelude::any::<(u64, u64, u64)>(), 0..200)) {
            let mut pacer = Pacer::default();
            let mut now = 0u64;
            for (pass, queueing, delivered) in steps {
                now = now.saturating_add(pass % 10_000_000);
                let queueing = Duration::from_micros(queueing);
                pacer.look(Uptime::from_micros(now), Sample { queueing, round_trip: queueing, delivered });
                proptest::prop_assert!((WINDOW_MIN..=WINDOW_MAX).contains(&pacer.window()));
            }
        }
    }
}
