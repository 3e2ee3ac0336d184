//! Client isolation as the node sees it: who is seen on this network, whether anybody can be connected, and what is
//! remembered of networks that isolate their machines. The verdict is the engine's (`swarm::isolation`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::drivers::discovery::Lan;
use crate::drivers::machine::facts;
use crate::drivers::store::StateDir;
use crate::drivers::transport::{Place, Target};
use crate::services::node::Inner;

/// In the state folder: a line for each network that isolates, seconds since 1970, a space, the network.
const FILE: &str = "isolated-networks";
/// How long a network is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Networks remembered.
const NETWORKS_MAX: usize = 16;
/// Longest name of a network, bytes.
pub(crate) const NETWORK_BYTES_MAX: usize = 128;
/// Longest file; what is longer was not written here.
const FILE_BYTES_MAX: usize = NETWORKS_MAX * (NETWORK_BYTES_MAX + 32);
/// Named peers that are counted.
const NAMED_MAX: usize = 64;

/// What a node knows of isolation.
#[derive(Default)]
pub(crate) struct Isolation {
    state: Option<Arc<StateDir>>,
    /// Peers that a person named, at addresses of links of ours.
    named: Mutex<BTreeSet<SocketAddr>>,
    on: AtomicBool,
    /// A peer of another group has greeted us since the machine slept last.
    met_stranger: AtomicBool,
    /// A connection has stood since the file was written last: it does not hold this network.
    refuted: AtomicBool,
}

impl Isolation {
    pub(crate) fn new(state: Option<Arc<StateDir>>) -> Self {
        Self { state, ..Self::default() }
    }

    /// Whether this network isolates its machines, as far as is known.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// A peer will be dialled that a person named. One elsewhere says nothing of this network.
    pub(crate) fn named(&self, target: &Target, lan: &Lan) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Place::Socket(address)) = target.places.first()
            && !address.ip().is_loopback()
            && lan.is_on_link(address.ip())
            && named.len() < NAMED_MAX
        {
            named.insert(*address);
        }
    }

    /// After sleep this may be another network.
    pub(crate) fn forget(&self) {
        self.on.store(false, Ordering::Relaxed);
        self.met_stranger.store(false, Ordering::Relaxed);
    }
}

impl Inner {
    /// Members seen on this network, named ones included, and whether any peer is connected, or would be were it of our group.
    pub(crate) fn neighbours(&self) -> (u32, bool) {
        let named = self.isolation.named.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        // Named and found by discovery is one member.
        let also_named = |addresses: &Vec<SocketAddr>| addresses.iter().any(|address| named.contains(address));
        let count = named.len() + found.values().filter(|addresses| !also_named(addresses)).count();
        let connected = !self.links().is_empty() || self.isolation.met_stranger.load(Ordering::Relaxed);
        (u32::try_from(count).unwrap_or(u32::MAX), connected)
    }

    /// Whether this network isolated its machines less than a day ago, and nobody has been connected since.
    pub(crate) fn was_isolated(&self) -> bool {
        let Some(state) = self.isolation.state.as_ref().filter(|_| self.links().is_empty()) else { return false };
        let known = !self.isolation.refuted.load(Ordering::Relaxed)
            && network(&self.lan).is_some_and(|network| read(state, now()).iter().any(|(_, held)| *held == network));
        self.isolation.on.fetch_or(known, Ordering::Relaxed);
        known
    }

    /// The engine finds that this network isolates its machines: remembered for a day.
    pub(crate) fn isolated(&self) {
        if self.isolation.on.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::info!(
            "members are seen on this network and none can be connected (client isolation): sources at once"
        );
        self.isolation.refuted.store(false, Ordering::Relaxed);
        self.note(true);
    }

    /// A peer of another group has greeted us. It will not be connected, and yet this network lets machines connect.
    pub(crate) fn met_stranger(&self) {
        self.isolation.met_stranger.store(true, Ordering::Relaxed);
        self.not_isolated();
    }

    /// A peer is connected: this network does not isolate, whatever was believed.
    pub(crate) fn not_isolated(&self) {
        self.isolation.on.store(false, Ordering::Relaxed);
        if !self.isolation.refuted.swap(true, Ordering::Relaxed) {
            self.note(false);
        }
    }

    fn note(&self, isolated: bool) {
        let (Some(state), Some(network)) = (self.isolation.state.clone(), network(&self.lan)) else { return };
        self.disk.spawn(move || {
            let (held, now) = (read(&state, now()), now());
            let Some(kept) = with(&held, &network, isolated, now) else { return };
            if let Err(error) = state.folder().replace(Path::new(FILE), write(&kept).as_bytes()) {
                tracing::warn!(%error, "what is known of networks that isolate their machines cannot be kept");
            }
        });
    }
}

/// The network this machine is on: its gateway and the first of its links; `None` where there is neither.
pub(crate) fn network(lan: &Lan) -> Option<String> {
    let name = match (facts::gateway(Path::new("/")), lan.first_link()) {
        (Some(gateway), Some(link)) => format!("{link} by {gateway}"),
        (Some(gateway), None) => gateway.to_string(),
        (None, link) => link?,
    };
    (name.len() <= NETWORK_BYTES_MAX).then_some(name)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the file holds and is less than a day old; nothing where it is malformed, which is told.
fn read(state: &StateDir, now: u64) -> Vec<(u64, String)> {
    let held = match state.folder().read(Path::new(FILE), FILE_BYTES_MAX) {
        Ok(None) => return Vec::new(),
        Ok(Some(bytes)) => parse(&bytes),
        Err(error) => {
            tracing::warn!(%error, file = FILE, "cannot be read and is passed over");
            return Vec::new();
        }
    };
    let Some(mut held) = held else {
        tracing::warn!(file = FILE, "is malformed and is passed over");
        return Vec::new();
    };
    // A time ahead comes of a clock that was set back: nobody knows how old it is.
    held.retain(|(at, _)| now.checked_sub(*at).is_some_and(|age| age < REMEMBERED.as_secs()));
    held
}

fn parse(bytes: &[u8]) -> Option<Vec<(u64, String)>> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= FILE_BYTES_MAX)?;
    let line = |line: &str| {
        let (at, name) = line.split_once(' ')?;
        let fits = !name.is_empty() && name.len() <= NETWORK_BYTES_MAX && name.chars().all(|it| !it.is_control());
        Some((at.parse().ok()?, fits.then(|| name.to_owned())?))
    };
    let held: Vec<_> = text.lines().take(NETWORKS_MAX + 1).map(line).collect::<Option<_>>()?;
    (held.len() <= NETWORKS_MAX).then_some(held)
}

fn write(held: &[(u64, String)]) -> String {
    held.iter().map(|(at, name)| format!("{at} {name}\n")).collect()
}

/// What is to be kept with this news; `None` where nothing changes. A network keeps its day, so that it is found out
/// anew after that.
fn with(held: &[(u64, String)], network: &str, isolated: bool, now: u64) -> Option<Vec<(u64, String)>> {
    if held.iter().any(|(_, name)| name == network) == isolated {
        return None;
    }
    let others = held.iter().filter(|(_, name)| name != network).cloned();
    let mut kept: Vec<_> = others.chain(isolated.then(|| (now, network.to_owned()))).collect();
    kept.sort();
    let over = kept.len().saturating_sub(NETWORKS_MAX);
    Some(kept.split_off(over))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_remembered_for_a_day_and_forgotten_on_a_connection() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(folder.path()).expect("a state folder");
        let day = REMEMBERED.as_secs();
        assert!(read(&state, day).is_empty());
        let kept = with(&[], "10.0.0.0/24 by 10.0.0.1", true, 100).expect("news");
        assert_eq!(with(&kept, "10.0.0.0/24 by 10.0.0.1", true, 200), None, "its day is not made longer");
        state.folder().replace(Path::new(FILE), write(&kept).as_bytes()).expect("written");
        assert_eq!(read(&state, 100 + day - 1), kept);
        assert!(read(&state, 100 + day).is_empty(), "a day later");
        assert!(read(&state, 99).is_empty(), "a clock that was set back");
        assert_eq!(with(&kept, "10.0.0.0/24 by 10.0.0.1", false, 300), Some(vec![]));
        assert_eq!(with(&kept, "10.9.0.0/24", false, 300), None);
    }

    #[test]
    fn a_malformed_file_is_refused_as_a_whole_and_a_long_one_never_written() {
        for text in
            ["x 10.0.0.0/8\n", "7\n", "7 \n", "-1 a\n", "99999999999999999999 a\n", "7 a\u{7}b\n", "1 a\n\n2 b\n"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(&[0xff, b' ', b'a']), None);
        assert_eq!(parse("1 a\n".repeat(NETWORKS_MAX + 1).as_bytes()), None);
        assert_eq!(parse(format!("1 {}\n", "a".repeat(NETWORK_BYTES_MAX + 1)).as_bytes()), None);
        let mut held = Vec::new();
        for number in 0..100u64 {
            held = with(&held, &format!("network {number}"), true, number).expect("news");
        }
        assert_eq!((held.len(), held.first().map(|it| it.0)), (NETWORKS_MAX, Some(84)), "the oldest go");
        assert_eq!(parse(write(&held).as_bytes()), Some(held));
    }
}
