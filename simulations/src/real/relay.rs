//! [`Relay`]: a switch of our own for labs whose hosts are far from each other, since not every kernel delays frames
//! (`netem`). One thread hears every port; a frame waits as long as its path takes one way, then goes out at the port of
//! its destination, or at all others where that is not known. What a line carries a second is its shaper's business.
//!
//! The round trip of a path is twice its latency, and what the thread takes besides: some tens of microseconds on an idle
//! core, more where two cores do everything else too.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::real::port::{FRAME_BYTES_MAX, HEADER_BYTES, Port};

/// Frames of one port that are heard before the next port is, and before what is due goes out.
const FRAMES_AT_ONCE: usize = 16;
/// Bytes that wait in all; a path of 100 Mbit/s and 100 ms holds 1.25 MB.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Addresses that are remembered; each host has one.
const ADDRESSES_MAX: usize = 4096;
/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Most urgent for the scheduler: what keeps this thread waiting would be measured as distance.
const PRIORITY: i32 = -20;

type Mac = [u8; 6];
/// The port where a frame goes out, and its bytes with the header in front.
type Leaving = (usize, Arc<[u8]>);

/// A running switch; it ends when dropped.
#[derive(Debug)]
pub(super) struct Relay {
    over: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Begins to switch between these ports, each with the one-way latency between its host and the middle.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(ports: Vec<(Port, Duration)>) -> std::io::Result<Self> {
        let (over, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, counts) = (Arc::clone(&over), Arc::clone(&lost));
        let work = move || {
            // Where either is refused, paths are a little longer than they should be.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1000));
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY);
            serve(&ports, &ends, &counts);
        };
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(work)?;
        Ok(Self { over, lost, thread: Some(thread) })
    }

    /// Frames that the switch itself has lost so far, for want of room or of a thread in time. What a shaper's full queue
    /// loses is not among them: it would be lost behind any switch.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(ports: &[(Port, Duration)], over: &AtomicBool, lost: &AtomicU64) {
    let mut table = Table::new(ports.iter().map(|(_, latency)| *latency).collect());
    let mut room = Box::new([0; FRAME_BYTES_MAX]);
    while !over.load(Ordering::Relaxed) {
        let wait = table.next_due().map_or(LOOK, |due| due.saturating_duration_since(Instant::now()).min(LOOK));
        let mut polled: Vec<PollFd<'_>> = ports.iter().map(|(port, _)| PollFd::new(port, PollFlags::IN)).collect();
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        // Interrupted or not, what is due goes out.
        let _ = poll(&mut polled, Some(&wait));
        let ready: Vec<bool> = polled.iter().map(|it| !it.revents().is_empty()).collect();
        for (number, (port, _)) in ports.iter().enumerate().filter(|(number, _)| ready.get(*number) == Some(&true)) {
            let mut missed = port.unheard();
            for _ in 0..FRAMES_AT_ONCE {
                match port.hear(&mut room) {
                    Ok(Some(frame)) => missed += u64::from(!table.take(number, frame, Instant::now())),
                    Ok(None) => break,
                    Err(_) => missed += 1,
                }
            }
            lost.fetch_add(missed, Ordering::Relaxed);
        }
        while let Some((to, frame)) = table.due(Instant::now()) {
            if let Some((port, _)) = ports.get(to) {
                // Refused: the shaper's queue is full.
                let _ = port.say(&frame);
            }
        }
    }
}

/// What is known and what waits.
struct Table {
    /// Of each port, one way.
    latencies: Vec<Duration>,
    homes: BTreeMap<Mac, usize>,
    /// By the moment at which they are due, and then as they came.
    waiting: BTreeMap<(Instant, u64), Leaving>,
    waiting_bytes: usize,
    number: u64,
}

impl Table {
    fn new(latencies: Vec<Duration>) -> Self {
        Self { latencies, homes: BTreeMap::new(), waiting: BTreeMap::new(), waiting_bytes: 0, number: 0 }
    }

    /// Takes a frame that came in at a port; false where it is lost.
    fn take(&mut self, from: usize, frame: &[u8], now: Instant) -> bool {
        let mac = |at: usize| frame.get(at..at + 6).and_then(|bytes| Mac::try_from(bytes).ok());
        let (Some(target), Some(source)) = (mac(HEADER_BYTES), mac(HEADER_BYTES + 6)) else { return false };
        if self.homes.len() < ADDRESSES_MAX || self.homes.contains_key(&source) {
            self.homes.insert(source, from);
        }
        let frame: Arc<[u8]> = frame.into();
        // The first bit of an address that goes out says that it is many hosts'.
        let home = self.homes.get(&target).copied().filter(|_| target[0] & 1 == 0);
        let all = 0..self.latencies.len();
        let mut kept = true;
        for to in home.map_or(all, |home| home..home + 1).filter(|to| *to != from) {
            kept &= self.put(from, to, &frame, now);
        }
        kept
    }

    fn put(&mut self, from: usize, to: usize, frame: &Arc<[u8]>, now: Instant) -> bool {
        if self.waiting_bytes + frame.len() > WAITING_BYTES_MAX {
            return false;
        }
        let latency = |port: usize| self.latencies.get(port).copied().unwrap_or_default();
        let due = now + latency(from) + latency(to);
        self.number += 1;
        self.waiting_bytes += frame.len();
        self.waiting.insert((due, self.number), (to, Arc::clone(frame)));
        true
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// The next frame whose time has come, and its port.
    fn due(&mut self, now: Instant) -> Option<Leaving> {
        self.next_due().filter(|due| *due <= now)?;
        let (_, (to, frame)) = self.waiting.pop_first()?;
        self.waiting_bytes -= frame.len();
        Some((to, frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYBODY: Mac = [0xff; 6];

    fn frame(target: Mac, source: Mac) -> Vec<u8> {
        [&[0; HEADER_BYTES][..], &target, &source, &[8, 0, 1]].concat()
    }

    fn table() -> (Table, Instant) {
        (Table::new([1, 2, 4].map(Duration::from_millis).to_vec()), Instant::now())
    }

    #[test]
    fn a_frame_waits_for_both_ends_of_its_path_and_goes_where_its_target_was_heard() {
        let (mut table, now) = table();
        assert!(table.take(1, &frame(EVERYBODY, [2; 6]), now));
        let after = |millis: u64| now + Duration::from_millis(millis);
        assert_eq!(table.due(after(2)), None);
        assert_eq!(table.due(after(3)).map(|(to, _)| to), Some(0));
        assert_eq!(table.due(after(5)), None);
        assert_eq!(table.due(after(6)).map(|(to, _)| to), Some(2));
        assert!(table.take(2, &frame([2; 6], [4; 6]), now));
        assert!(table.take(2, &frame([6; 6], [4; 6]), now), "nobody knows it");
        let to: Vec<usize> = std::iter::from_fn(|| table.due(after(9))).map(|(to, _)| to).collect();
        assert_eq!(to, [0, 1, 1]);
        assert_eq!((table.waiting_bytes, table.next_due()), (0, None));
    }

    #[test]
    fn what_finds_no_room_and_what_is_no_frame_is_lost() {
        let (mut table, now) = table();
        assert!(!table.take(0, &[0; HEADER_BYTES + 11], now));
        table.waiting_bytes = WAITING_BYTES_MAX;
        assert!(!table.take(0, &frame(EVERYBODY, [1; 6]), now));
        assert!(table.waiting.is_empty());
    }
}
