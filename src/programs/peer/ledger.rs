//! What was moved on each day, by where it came from and went to: kept over restarts for some thirteen months, so that it
//! can be told what a month has cost and what peers and cache hosts have saved. Days and months are those of the local calendar.
//!
//! The file is text, a line a day, so that people can read it. It is replaced whole, so a crash leaves one that is whole and
//! at most a minute old.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::Date;

use crate::drivers::machine::facts;
use crate::drivers::store::StateDir;
use crate::services::node::{Moved, Node};

/// Name of the file in the state folder.
const FILE: &str = "ledger";
/// Its first line.
const HEAD: &str = "piecework ledger 1";
/// Days with traffic that are kept.
pub const DAYS_MAX: usize = 400;
/// Longest file: what is longer was not written here.
const FILE_BYTES_MAX: usize = DAYS_MAX * 512;
/// How often what was moved is taken in, and written where it is news.
const EVERY: Duration = Duration::from_secs(60);
/// For so many days, today among them, it is told what was saved.
pub const SAVINGS_DAYS: [u16; 3] = [1, 7, 28];

/// Sums of payload bytes of some time. Of peers by how near they were: this host, this site, the group, the Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// Verified and stored, from peers.
    pub from_peers: [u64; 4],
    /// Verified and stored, over HTTP.
    pub from_http: u64,
    /// Of these, from cache hosts.
    pub from_cache_host: u64,
    /// Sent to peers.
    pub to_peers: [u64; 4],
    /// Content of others that was carried between them, as a relay.
    pub carried: u64,
}

/// The words of a line, in the order of [`Sums::values`].
const WORDS: [&str; 11] = [
    "from_host",
    "from_site",
    "from_group",
    "from_internet",
    "from_http",
    "from_cache_host",
    "to_host",
    "to_site",
    "to_group",
    "to_internet",
    "carried",
];

impl Sums {
    /// What was moved up to `now` and not up to `before`.
    pub(super) fn between(before: &Moved, now: &Moved) -> Self {
        let less = |now: [u64; 4], before: [u64; 4]| {
            let mut less = now;
            less.iter_mut().zip(before).for_each(|(now, before)| *now = now.saturating_sub(before));
            less
        };
        Self {
            from_peers: less(now.from_peers, before.from_peers),
            from_http: now.from_http.saturating_sub(before.from_http),
            from_cache_host: now.from_cache_host.saturating_sub(before.from_cache_host),
            to_peers: less(now.to_peers, before.to_peers),
            carried: now.carried.saturating_sub(before.carried),
        }
    }

    fn values(&mut self) -> [&mut u64; 11] {
        let Self { from_peers: [a, b, c, d], from_http, from_cache_host, to_peers: [e, f, g, h], carried } = self;
        [a, b, c, d, from_http, from_cache_host, e, f, g, h, carried]
    }

    fn add(&mut self, mut other: Sums) {
        for (sum, more) in self.values().into_iter().zip(other.values()) {
            *sum = sum.saturating_add(*more);
        }
    }

    /// Bytes that came from peers on this site, which cost no line.
    pub fn from_lan(&self) -> u64 {
        let [host, site, ..] = self.from_peers;
        host.saturating_add(site)
    }

    /// Bytes that went to peers on this site.
    pub fn to_lan(&self) -> u64 {
        let [host, site, ..] = self.to_peers;
        host.saturating_add(site)
    }

    /// Bytes that came from peers, near and far.
    pub fn from_all_peers(&self) -> u64 {
        self.from_peers.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Per cent of what came in that peers and cache hosts gave, 0 to 100; `None` where nothing came.
    pub fn saved_percent(&self) -> Option<f64> {
        let from_peers = self.from_all_peers() as f64;
        // The file is text, and may say anything.
        let saved = from_peers + self.from_cache_host.min(self.from_http) as f64;
        let all = from_peers + self.from_http as f64;
        (all > 0.0).then_some(100.0 * saved / all)
    }
}

/// Sums of each day on which something was moved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Days(BTreeMap<Date, Sums>);

impl Days {
    /// Reads the file's text; also returns how many lines say nothing that can be read. `None`: it is no such file.
    /// What a later version says besides is passed over.
    pub fn parse(text: &[u8]) -> Option<(Self, usize)> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= FILE_BYTES_MAX)?;
        let mut lines = text.lines();
        lines.next().filter(|head| *head == HEAD)?;
        let (mut days, mut wrong) = (BTreeMap::new(), 0usize);
        for line in lines {
            match day(line).filter(|(date, _)| !days.contains_key(date)) {
                Some((date, sums)) => _ = days.insert(date, sums),
                None => wrong = wrong.saturating_add(1),
            }
        }
        while days.len() > DAYS_MAX {
            days.pop_first();
        }
        Some((Self(days), wrong))
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for (date, sums) in &self.0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "{date}");
            let mut sums = *sums;
            for (word, bytes) in WORDS.iter().zip(sums.values()).filter(|(_, bytes)| **bytes > 0) {
                let _ = write!(text, " {word}={bytes}");
            }
            text.push('\n');
        }
        text
    }

    /// Adds to a day. Where there are too many, the oldest goes, whatever a clock that was wrong once made of the others;
    /// the day that is added to stays.
    pub fn add(&mut self, date: Date, sums: Sums) {
        self.0.entry(date).or_default().add(sums);
        while self.0.len() > DAYS_MAX {
            let Some(oldest) = self.0.keys().find(|held| **held != date).copied() else { return };
            self.0.remove(&oldest);
        }
    }

    /// The sums of so many days that end with `today`.
    pub fn last(&self, today: Date, days: u16) -> Sums {
        let before = today.to_julian_day().saturating_sub(i32::from(days));
        self.sum(|date| date.to_julian_day() > before && *date <= today)
    }

    /// The sums of the calendar month in which `today` is.
    pub fn month(&self, today: Date) -> Sums {
        self.sum(|date| (date.year(), date.month()) == (today.year(), today.month()))
    }

    fn sum(&self, wanted: impl Fn(&Date) -> bool) -> Sums {
        let mut sum = Sums::default();
        self.0.iter().filter(|(date, _)| wanted(date)).for_each(|(_, sums)| sum.add(*sums));
        sum
    }

    /// How many days there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was ever moved.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One line: a date, and words with their bytes.
fn day(line: &str) -> Option<(Date, Sums)> {
    let mut parts = line.split(' ');
    let date = facts::date(parts.next()?)?;
    let mut sums = Sums::default();
    for part in parts {
        let (word, bytes) = part.split_once('=')?;
        let bytes: u64 = bytes.parse().ok()?;
        if let Some((_, sum)) = WORDS.iter().zip(sums.values()).find(|(known, _)| **known == word) {
            *sum = bytes;
        }
    }
    Some((date, sums))
}

/// What the ledger says now.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Today, as the clock of this machine has it.
    pub today: Date,
    /// This calendar month, up to now.
    pub month: Sums,
    /// The days of [`SAVINGS_DAYS`].
    pub savings: [(u16, Sums); 3],
}

struct Held {
    days: Days,
    /// What the node had moved when it was looked last.
    seen: Moved,
    /// The file says less.
    news: bool,
}

/// The ledger of one daemon.
pub struct Ledger {
    state: Arc<StateDir>,
    node: Node,
    machine: PathBuf,
    held: Mutex<Held>,
}

impl Ledger {
    /// Reads the ledger of this state folder; `machine` is the root of the files that tell of the machine. One that cannot
    /// be read is told in the log, and begun anew.
    pub(crate) fn open(state: Arc<StateDir>, node: Node, machine: PathBuf) -> Arc<Self> {
        let days = read(&state);
        let held = Mutex::new(Held { days, seen: Moved::default(), news: false });
        Arc::new(Self { state, node, machine, held })
    }

    /// What it says now, with all that was moved up to this moment.
    pub fn account(&self) -> Account {
        let (today, held) = self.look();
        let savings = SAVINGS_DAYS.map(|days| (days, held.days.last(today, days)));
        Account { today, month: held.days.month(today), savings }
    }

    /// Bytes that went to peers on the Internet in this calendar month, and that were carried between others, up to this
    /// moment.
    pub(crate) fn far_this_month(&self) -> (u64, u64) {
        let (today, held) = self.look();
        let month = held.days.month(today);
        let [.., sent] = month.to_peers;
        (sent, month.carried)
    }

    /// Takes in what was moved since the last look. It counts for today, though some of a minute may have been yesterday.
    fn look(&self) -> (Date, MutexGuard<'_, Held>) {
        // A clock that tells nothing is one before 1970.
        let today = facts::today(&self.machine).unwrap_or(time::OffsetDateTime::UNIX_EPOCH.date());
        let mut held = self.held();
        let now = self.node.totals().moved;
        let more = Sums::between(&held.seen, &now);
        held.seen = now;
        if more != Sums::default() {
            held.days.add(today, more);
            held.news = true;
        }
        (today, held)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in and writes, as long as the daemon lives.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let ledger = Arc::clone(&self);
            // A disk thread that is gone is the daemon's end.
            if self.node.disk().run(move || ledger.write()).await.is_err() {
                return;
            }
        }
    }

    /// Writes what is news.
    pub(crate) fn write(&self) {
        let (_, mut held) = self.look();
        if !std::mem::take(&mut held.news) {
            return;
        }
        let text = held.days.text();
        drop(held);
        if let Err(error) = self.state.folder().replace(Path::new(FILE), text.as_bytes()) {
            tracing::warn!(%error, "the ledger cannot be written");
            self.held().news = true;
        }
    }
}

fn read(state: &StateDir) -> Days {
    let read = match state.folder().read(Path::new(FILE), FILE_BYTES_MAX) {
        Ok(Some(read)) => read,
        Ok(None) => return Days::default(),
        Err(error) => {
            tracing::warn!(%error, "the ledger cannot be read; a new one is begun");
            return Days::default();
        }
    };
    match Days::parse(&read) {
        Some((days, wrong)) => {
            if wrong > 0 {
                tracing::warn!(lines = wrong, "lines of the ledger cannot be read and are left out");
            }
            days
        }
        None => {
            tracing::warn!("the ledger is damaged; a new one is begun");
            Days::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn date(text: &str) -> Date {
        facts::date(text).expect("a date")
    }

    fn sums(site: u64, http: u64) -> Sums {
        Sums { from_peers: [0, site, 0, 0], from_http: http, ..Sums::default() }
    }

    #[test]
    fn days_and_months_are_those_of_the_calendar() {
        let mut days = Days::default();
        for (day, site, http) in [
            ("2026-01-31", 1, 100),
            ("2026-02-01", 2, 0),
            ("2026-02-22", 4, 0),
            ("2026-02-28", 8, 24),
            ("2026-03-01", 0, 0),
            // A clock was wrong once.
            ("2099-01-01", 1000, 0),
        ] {
            days.add(date(day), sums(site, http));
        }
        let today = date("2026-02-28");
        assert_eq!(days.month(today), sums(2 + 4 + 8, 24));
        assert_eq!(days.last(today, 1).saved_percent(), Some(25.0));
        assert_eq!(days.last(today, 7), sums(4 + 8, 24));
        assert_eq!(days.last(today, 28), sums(2 + 4 + 8, 24));
        assert_eq!(days.last(date("2026-03-01"), 1).saved_percent(), None);
        assert_eq!(days.month(date("2026-01-01")), sums(1, 100), "a clock that was set back counts where it is");
    }

    #[test]
    fn what_cache_hosts_gave_is_saved_and_never_more_than_came() {
        let saved = |cached| Sums { from_cache_host: cached, ..sums(20, 80) }.saved_percent();
        assert_eq!(
            (saved(0), saved(30), saved(80), saved(u64::MAX)),
            (Some(20.0), Some(50.0), Some(100.0), Some(100.0))
        );
    }

    #[test]
    fn the_oldest_day_goes_and_today_stays_whatever_the_clock_says() {
        let mut days = Days::default();
        let first = date("2026-01-01");
        for at in 0..500 {
            days.add(Date::from_julian_day(first.to_julian_day() + at).expect("a date"), sums(1, 0));
        }
        assert_eq!(days.len(), DAYS_MAX);
        days.add(date("1970-01-01"), sums(7, 0));
        assert_eq!((days.len(), days.month(date("1970-01-01"))), (DAYS_MAX, sums(7, 0)));
        assert!(days.text().len() <= FILE_BYTES_MAX);
    }

    #[test]
    fn what_cannot_be_read_costs_its_own_line_alone() {
        let read = |text: &str| Days::parse(text.as_bytes());
        let (days, wrong) = read(
            "piecework ledger 1\n2026-01-01 from_site=5 to_moon=9\n2026-01-02 from_site=\n2026-01-01 from_http=1\n\n\
             2026-01-03 from_http=18446744073709551616\nx\n2026-01-04",
        )
        .expect("a ledger");
        assert_eq!((days.month(date("2026-01-01")), wrong, days.len()), (sums(5, 0), 5, 2));
        assert!(read("").is_none() && read("piecework ledger 2\n").is_none() && Days::parse(b"\xff").is_none());
        assert!(read(&format!("{HEAD}\n{}", " ".repeat(FILE_BYTES_MAX))).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            rows in prop::collection::vec((0..20_000i32, prop::array::uniform10(any::<u64>())), 0..40)
        ) {
            let mut days = Days::default();
            for (at, values) in rows {
                let mut sums = Sums::default();
                sums.values().into_iter().zip(values).for_each(|(sum, value)| *sum = value);
                let epoch = date("1970-01-01").to_julian_day();
                days.add(Date::from_julian_day(epoch + at).expect("a date"), sums);
            }
            let text = days.text();
            prop_assert_eq!(Days::parse(text.as_bytes()), Some((days, 0)));
        }

        #[test]
        fn no_bytes_make_it_panic_and_what_it_takes_is_in_bounds(noise in prop::collection::vec(any::<u8>(), 0..400)) {
            let text = [HEAD.as_bytes(), b"\n", &noise].concat();
            if let Some((days, _)) = Days::parse(&text) {
                prop_assert!(days.len() <= DAYS_MAX);
                let again = Days::parse(days.text().as_bytes());
                prop_assert_eq!(again, Some((days, 0)));
            }
        }
    }
}
