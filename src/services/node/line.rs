//! How fast the line to the outside is, as far as downloads have shown: the best rate that was held for some seconds, over
//! HTTP and from peers elsewhere together. Remembered for each network, so that per cents of it mean something at once.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::drivers::store::StateDir;
use crate::services::node::Inner;
use crate::services::node::isolation::network;

/// In the state folder: a line for each network, bytes a second, seconds since 1970, the network.
const FILE: &str = "line-rates";
/// Whole seconds for which a rate must be held. What lay in the kernel's buffers comes within one of them.
const SECONDS: usize = 4;
/// A rate that was measured longer ago says nothing of the line of now.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);
/// Networks remembered, and the longest file; what is longer was not written here.
const NETWORKS_MAX: usize = 16;
const FILE_BYTES_MAX: usize = NETWORKS_MAX * 192;

/// The line of one node.
#[derive(Default)]
pub(crate) struct Line {
    state: Option<Arc<StateDir>>,
    meter: Mutex<Meter>,
}

/// Bytes of the second that runs and of those before it.
#[derive(Debug, Default)]
struct Meter {
    second: Option<Instant>,
    running: u64,
    /// The last whole seconds, the newest last.
    whole: [u64; SECONDS],
    /// The best rate that was held; 0: none yet.
    best: u64,
    /// It is better than what the file has.
    news: bool,
    /// What the file had of this network is known.
    read: bool,
}

impl Meter {
    fn note(&mut self, bytes: u64, now: Instant) {
        let began = *self.second.get_or_insert(now);
        let passed = now.saturating_duration_since(began).as_secs();
        // The second that ran, and those in which nothing came.
        for _ in 0..passed.min(SECONDS as u64 + 1) {
            self.whole.rotate_left(1);
            if let Some(last) = self.whole.last_mut() {
                *last = std::mem::take(&mut self.running);
            }
            // Held is what every one of them had.
            let held = self.whole.iter().copied().min().unwrap_or(0);
            if held > self.best {
                (self.best, self.news) = (held, true);
            }
        }
        if passed > 0 {
            self.second = began.checked_add(Duration::from_secs(passed));
        }
        self.running = self.running.saturating_add(bytes);
    }
}

impl Line {
    pub(crate) fn new(state: Option<Arc<StateDir>>) -> Self {
        Self { state, meter: Mutex::default() }
    }

    /// Bytes came over the line.
    pub(crate) fn note(&self, bytes: u64) {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner).note(bytes, Instant::now());
    }
}

impl Inner {
    /// The line's rate, bytes a second; 0 where nothing is known. What is better than known before is remembered. Reads a
    /// small file the first time, and writes it now and then.
    pub(crate) fn line_rate(&self) -> u64 {
        let (known, news, read) = {
            let mut meter = self.line.meter.lock().unwrap_or_else(PoisonError::into_inner);
            (meter.best, std::mem::take(&mut meter.news), std::mem::replace(&mut meter.read, true))
        };
        let Some((state, network)) = self.line.state.as_ref().zip(network(&self.lan)) else { return known };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut held = if read && !news { Vec::new() } else { remembered(state, now) };
        let before = held.iter().find(|(_, _, of)| *of == network).map_or(0, |(rate, ..)| *rate);
        if known > before && news {
            held.retain(|(_, _, of)| *of != network);
            held.push((known, now, network));
            let excess = held.len().saturating_sub(NETWORKS_MAX);
            let text: String = held.iter().skip(excess).map(|(rate, at, of)| format!("{rate} {at} {of}\n")).collect();
            if let Err(error) = state.folder().replace(Path::new(FILE), text.as_bytes()) {
                tracing::warn!(%error, "the line's rate cannot be remembered");
            }
        }
        let mut meter = self.line.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.best = meter.best.max(before);
        meter.best
    }

    /// After sleep this may be another network, with another line.
    pub(crate) fn forget_line(&self) {
        *self.line.meter.lock().unwrap_or_else(PoisonError::into_inner) = Meter::default();
    }
}

/// What the file has and is not too old; nothing where it cannot be read, and no line that is malformed.
fn remembered(state: &StateDir, now: u64) -> Vec<(u64, u64, String)> {
    let read = state.folder().read(Path::new(FILE), FILE_BYTES_MAX).ok().flatten().unwrap_or_default();
    let line = |line: &str| {
        let (rate, rest) = line.split_once(' ')?;
        let (at, network) = rest.split_once(' ')?;
        Some((rate.parse().ok()?, at.parse().ok()?, network.to_owned()))
    };
    let fresh = |(_, at, _): &(u64, u64, String)| now.abs_diff(*at) < REMEMBERED.as_secs();
    String::from_utf8(read).unwrap_or_default().lines().filter_map(line).filter(fresh).take(NETWORKS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_for_seconds_counts_and_a_burst_does_not() {
        let began = Instant::now();
        let at = |millis: u64| began + Duration::from_millis(millis);
        let mut meter = Meter::default();
        meter.note(9_000_000, at(0));
        for tenth in 1..40 {
            meter.note(100_000, at(tenth * 100));
        }
        assert_eq!(meter.best, 0, "not long enough");
        meter.note(100_000, at(4000));
        assert_eq!(meter.best, 1_000_000, "the burst of the first second does not count");
        meter.note(500_000, at(60_000));
        assert_eq!(meter.best, 1_000_000, "a pause holds nothing up and forgets nothing");
        assert!(meter.whole.iter().all(|bytes| *bytes == 0));
    }
}
