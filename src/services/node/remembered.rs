//! The last peers of each network, kept in the state folder: where multicast is off they are found again. Whoever is dialled so
//! must prove to be who it was.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::drivers::store::StateDir;
use crate::services::node::Inner;
use crate::services::node::candidates::Way;
use crate::services::node::isolation::{NETWORK_BYTES_MAX, network, now};
use crate::services::node::link::Link;

/// In the state folder: a line for each peer and network, newest first: seconds since 1970, peer id, address, network.
const FILE: &str = "last-peers";
/// Peers remembered of one network.
const PEERS_MAX: usize = 32;
/// Lines of the file.
const LINES_MAX: usize = 256;
/// Longest line: 20 digits, a peer id, an address and a network.
const LINE_BYTES_MAX: usize = NETWORK_BYTES_MAX + 200;
/// Longest file; what is longer was not written here.
const FILE_BYTES_MAX: usize = LINES_MAX * LINE_BYTES_MAX;
/// For so long a peer is remembered.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// When a peer was connected last, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Met {
    at: u64,
    address: SocketAddr,
}

/// By network and peer.
type Peers = BTreeMap<(String, PeerId), Met>;

/// What this process has met since it was written last.
#[derive(Default)]
pub(crate) struct Remembered {
    state: Option<Arc<StateDir>>,
    news: Mutex<Peers>,
    is_writing: AtomicBool,
}

impl Remembered {
    pub(crate) fn new(state: Option<Arc<StateDir>>) -> Self {
        Self { state, ..Self::default() }
    }
}

impl Inner {
    /// A peer is connected that accepts peers at this address.
    pub(crate) fn remember(&self, link: &Link, address: SocketAddr) {
        let ip = address.ip();
        let usual = self.company.borrow().discover && !ip.is_loopback() && self.lan.has(ip);
        // A scope is of one start of one machine.
        let scoped = matches!(address, SocketAddr::V6(address) if address.ip().is_unicast_link_local());
        if self.remembered.state.is_none() || !usual || scoped {
            return;
        }
        let Some(network) = network(&self.lan) else { return };
        let mut news = self.remembered.news.lock().unwrap_or_else(PoisonError::into_inner);
        if news.len() < LINES_MAX {
            news.insert((network, link.peer_id), Met { at: now(), address });
        }
    }

    /// The peers of the network that this machine is on are candidates from now on, those of another no more.
    pub(crate) fn recall(&self) {
        self.candidates.forget(Way::Remembered);
        let looks = {
            let company = self.company.borrow();
            company.peers && company.discover
        };
        let (Some(state), true) = (&self.remembered.state, looks) else { return };
        let Some(here) = network(&self.lan) else { return };
        let (now, until) = (Instant::now(), Instant::now().checked_add(REMEMBERED));
        for ((network, peer), met) in read(state, self::now()) {
            if network == here && peer != self.peer_id && self.is_near(met.address.ip(), false) {
                self.candidates.add(now, peer, met.address, Way::Remembered, until.unwrap_or(now));
            }
        }
    }

    /// Writes what is new, on a disk thread; what is being written already is not waited for.
    pub(crate) fn keep_remembered(self: &Arc<Self>) {
        let is_news = !self.remembered.news.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_news && !self.remembered.is_writing.swap(true, Ordering::AcqRel) {
            let node = Arc::clone(self);
            self.disk.spawn(move || {
                node.write_remembered();
                node.remembered.is_writing.store(false, Ordering::Release);
            });
        }
    }

    /// The same, at once.
    pub(crate) fn write_remembered(&self) {
        let Some(state) = &self.remembered.state else { return };
        let news = std::mem::take(&mut *self.remembered.news.lock().unwrap_or_else(PoisonError::into_inner));
        if news.is_empty() {
            return;
        }
        // Other processes on this state folder have met others.
        let mut all = read(state, now());
        all.extend(news);
        if let Err(error) = state.folder().replace(Path::new(FILE), write(all).as_bytes()) {
            tracing::warn!(%error, "the last peers of this network cannot be kept");
        }
    }
}

/// What the file holds and is not too old; nothing where it is malformed, which is told.
fn read(state: &StateDir, now: u64) -> Peers {
    let held = match state.folder().read(Path::new(FILE), FILE_BYTES_MAX) {
        Ok(None) => return Peers::new(),
        Ok(Some(bytes)) => parse(&bytes),
        Err(error) => {
            tracing::warn!(%error, file = FILE, "cannot be read and is passed over");
            return Peers::new();
        }
    };
    let Some(mut held) = held else {
        tracing::warn!(file = FILE, "is malformed and is passed over");
        return Peers::new();
    };
    // A time ahead comes of a clock that was set back: such a peer is as good as one of now.
    held.retain(|_, met| now.saturating_sub(met.at) < REMEMBERED.as_secs());
    held
}

fn parse(bytes: &[u8]) -> Option<Peers> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= FILE_BYTES_MAX)?;
    let line = |line: &str| {
        let [at, peer, address, network] = <[&str; 4]>::try_from(line.splitn(4, ' ').collect::<Vec<_>>()).ok()?;
        let fits = (1..=NETWORK_BYTES_MAX).contains(&network.len()) && !network.chars().any(char::is_control);
        let address: SocketAddr = address.parse().ok()?;
        let met = Met { at: at.parse().ok()?, address };
        (fits && address.port() != 0).then_some(((network.to_owned(), peer.parse().ok()?), met))
    };
    let lines: Vec<_> = text.lines().take(LINES_MAX + 1).map(line).collect::<Option<_>>()?;
    (lines.len() <= LINES_MAX).then(|| lines.into_iter().collect())
}

/// The newest of each network, and of all.
fn write(all: Peers) -> String {
    let mut lines: Vec<_> = all.into_iter().collect();
    lines.sort_by_key(|(_, met)| std::cmp::Reverse(met.at));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    lines.retain(|((network, _), _)| {
        let count = counts.entry(network.clone()).or_default();
        *count += 1;
        *count <= PEERS_MAX
    });
    let line =
        |((network, peer), met): ((String, PeerId), Met)| format!("{} {peer} {} {network}\n", met.at, met.address);
    lines.into_iter().take(LINES_MAX).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(at: u64, port: u16) -> Met {
        Met { at, address: ([10, 0, 0, 7], port).into() }
    }

    #[test]
    fn peers_come_back_by_their_network_the_newest_of_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(folder.path()).expect("a state folder");
        assert!(read(&state, 0).is_empty());
        let mut all = Peers::new();
        for number in 0..LINES_MAX {
            let network =
                if number < 40 { "10.0.0.0/24 by 10.0.0.1".to_owned() } else { format!("net {}", number / 40) };
            all.insert((network, PeerId::random()), met(number as u64, 7680));
        }
        let text = write(all);
        state.folder().replace(Path::new(FILE), text.as_bytes()).expect("written");
        let back = read(&state, 0);
        assert_eq!(back, parse(text.as_bytes()).expect("it parses"));
        let home: Vec<u64> =
            back.iter().filter(|((network, _), _)| network.contains(" by ")).map(|(_, met)| met.at).collect();
        assert_eq!((home.len(), home.iter().min()), (PEERS_MAX, Some(&8)), "the oldest go");
        assert_eq!(read(&state, REMEMBERED.as_secs() + 100).values().map(|met| met.at).min(), Some(101));
    }

    #[test]
    fn a_malformed_file_is_refused_as_a_whole() {
        let peer = PeerId::random();
        assert_eq!(parse(format!("7 {peer} 10.0.0.1:1 a b\n").as_bytes()).map(|held| held.len()), Some(1));
        for line in [
            "x".to_owned(),
            format!("x {peer} 10.0.0.1:1 a"),
            "7 nobody 10.0.0.1:1 a".to_owned(),
            format!("7 {peer} 10.0.0.1:0 a"),
            format!("7 {peer} 10.0.0.1 a"),
            format!("7 {peer} 10.0.0.1:1"),
            format!("7 {peer} 10.0.0.1:1 "),
            format!("7 {peer} 10.0.0.1:1 a\u{7}"),
            format!("7 {peer} 10.0.0.1:1 {}", "a".repeat(NETWORK_BYTES_MAX + 1)),
            "\n".to_owned(),
        ] {
            assert_eq!(parse(format!("{line}\n").as_bytes()), None, "{line:?}");
        }
        assert_eq!(parse(&[0xff]), None);
        assert_eq!(parse(format!("7 {peer} 10.0.0.1:1 a\n").repeat(LINES_MAX + 1).as_bytes()), None);
    }
}
