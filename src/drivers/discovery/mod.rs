//! Peers on this LAN, by DNS-SD over multicast DNS (RFC 6762, RFC 6763): service `_piecework._tcp.local.`, one instance
//! a node, named by its peer id. Content is never announced.
//!
//! Everything heard is a hint from strangers: entries are bounded, names that are no peer id and addresses that cannot
//! lie on a LAN are ignored. It yields addresses and decides nothing.

pub mod answer;
mod ask;
pub mod cache_hosts;
pub mod crowd;
mod error;
pub mod lan;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use mdns_sd::{IfKind, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::{mpsc, watch};

use crate::drivers::discovery::crowd::Heard;
pub use crate::drivers::discovery::error::Error;
pub use crate::drivers::discovery::lan::Lan;
use crate::drivers::discovery::lan::is_link_local;

/// DNS-SD service type.
pub const SERVICE: &str = "_piecework._tcp.local.";
/// Peers remembered; a LAN has fewer, a flood of made-up ones has more.
const PEERS_MAX: usize = 4096;
/// Addresses taken of one peer.
const ADDRESSES_MAX: usize = 8;
/// News waiting for the node.
const NEWS_MAX: usize = 256;
/// After the first answer, so long for the others.
const SETTLE_AFTER_FIRST: Duration = Duration::from_millis(100);
/// Without any answer.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// How often it is looked at how many speak on this link.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same where nobody has come or gone for long.
const LOOK_AT_REST: Duration = Duration::from_secs(40);

/// What is announced, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// TCP port on which peers are accepted; 0: only listen, announce nothing.
    pub port: u16,
    /// Who we are.
    pub peer_id: PeerId,
    /// Announce and listen on the loopback interface alone.
    pub loopback_only: bool,
    /// Goes along when the machine comes to another network; else it stays silent there.
    pub follows: bool,
}

/// News from the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A peer, and where it may be dialled.
    Peer {
        /// Who it says it is; proven by the handshake alone.
        peer: PeerId,
        /// At most a few addresses.
        addresses: Vec<SocketAddr>,
    },
    /// A peer said goodbye, or was not heard for long.
    Gone {
        /// Who.
        peer: PeerId,
    },
}

/// A running announcer and listener; `stop` says goodbye.
pub struct Discovery {
    daemon: ServiceDaemon,
    settled: watch::Receiver<bool>,
    keepers: watch::Receiver<Vec<Heard>>,
    covered: watch::Sender<bool>,
    search: cache_hosts::Search,
    loopback_only: bool,
    lan: Arc<Lan>,
}

impl Discovery {
    /// Starts both. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the system gives no multicast socket; a node does without then.
    pub fn start(options: Options, lan: Arc<Lan>) -> Result<(Self, mpsc::Receiver<Found>), Error> {
        let daemon = ServiceDaemon::new()?;
        if options.loopback_only {
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(IfKind::LoopbackV4)?;
        }
        if !options.follows {
            daemon.set_ip_check_interval(0)?;
        }
        let events = daemon.browse(SERVICE)?;
        let announced = (options.port != 0).then(|| service(&options)).transpose()?;
        if let Some(service) = &announced {
            daemon.register(service.clone())?;
        }
        let (tell_answers, answers) = mpsc::channel(NEWS_MAX);
        ask::all(&options, &lan, &tell_answers);
        let (news, found) = mpsc::channel(NEWS_MAX);
        let (tell, settled) = watch::channel(false);
        let (tell_keepers, keepers) = watch::channel(Vec::new());
        let covered = watch::channel(false).0;
        let voice =
            Voice { daemon: daemon.clone(), speaks: announced.is_some(), announced, covered: covered.subscribe() };
        let (loopback_only, search) = (options.loopback_only, cache_hosts::Search::default());
        tokio::spawn(listen((events, answers), options, Arc::clone(&lan), voice, (news, tell, tell_keepers)));
        Ok((Self { daemon, settled, keepers, covered, search, loopback_only, lan }, found))
    }

    /// Completes once the first answers are in: 100 ms after the first, or after a second without any.
    pub async fn settled(&self) {
        let mut settled = self.settled.clone();
        let _ = settled.wait_for(|settled| *settled).await;
    }

    /// Those that know of nodes which are silent, on a link with so many that some are; changes as they come and go.
    pub fn keepers(&self) -> watch::Receiver<Vec<Heard>> {
        self.keepers.clone()
    }

    /// Whether one of them tells others of this node: else it is not silent, however many speak.
    pub fn covered(&self, covered: bool) {
        self.covered.send_replace(covered);
    }

    /// Begins to look for cache hosts, or ends it. Must be called within a tokio runtime.
    pub fn seek_cache_hosts(&self, wanted: bool) {
        self.search.seek(wanted, &self.daemon, self.loopback_only, &self.lan);
    }

    /// Cache hosts on this machine's links now, `IP:PORT` each, in the order in which they are to be asked; a few at most.
    pub fn cache_hosts(&self) -> Vec<String> {
        self.search.now()
    }

    /// The same, once there is one, or a quarter of a second after the search began.
    pub async fn first_cache_hosts(&self) -> Vec<String> {
        self.search.first().await
    }

    /// Ends it; with a goodbye to the LAN, or without a word.
    pub fn stop(&self, goodbye: bool) {
        if !goodbye {
            // Without interfaces there is nobody to tell.
            let _ = self.daemon.disable_interface(IfKind::All);
        }
        // A daemon that has ended already has said it.
        let _ = self.daemon.shutdown();
    }
}

/// What this node announces.
fn service(options: &Options) -> Result<ServiceInfo, Error> {
    let instance = options.peer_id.to_base58();
    let host = format!("piecework-{}.local.", instance.chars().rev().take(12).collect::<String>());
    let properties = [("v", "1")];
    let mut service = match options.loopback_only {
        true => ServiceInfo::new(SERVICE, &instance, &host, "127.0.0.1", options.port, &properties[..])?,
        false => ServiceInfo::new(SERVICE, &instance, &host, (), options.port, &properties[..])?.enable_addr_auto(),
    };
    // Names hold the peer id, so they are nobody else's: asking first whether they are taken (RFC 6762, 8.1)
    // would keep machines that start together apart for most of a second.
    service.set_requires_probe(false);
    Ok(service)
}

/// The announcement, which is made and taken back as others come and go.
struct Voice {
    daemon: ServiceDaemon,
    announced: Option<ServiceInfo>,
    speaks: bool,
    covered: watch::Receiver<bool>,
}

impl Voice {
    /// Announces this node, or takes it back, as its rank among those that it has heard has it.
    fn look(&mut self, own: &PeerId, heard: &BTreeMap<PeerId, Vec<SocketAddr>>) {
        let Some(service) = &self.announced else { return };
        let speaks = !*self.covered.borrow() || crowd::speaks(self.speaks, own, heard);
        let done = match (self.speaks, speaks) {
            (true, false) => self.daemon.unregister(service.get_fullname()).map(|_| ()),
            (false, true) => self.daemon.register(service.clone()),
            _ => return,
        };
        match done {
            Ok(()) => {
                tracing::debug!(speaks, heard = heard.len(), "announced on this link, or not any more");
                self.speaks = speaks;
            }
            Err(error) => tracing::debug!(%error, "multicast DNS takes no orders now"),
        }
    }
}

/// Where news go: of peers, that the first answers are in, and of keepers.
type Tell = (mpsc::Sender<Found>, watch::Sender<bool>, watch::Sender<Vec<Heard>>);

async fn listen(
    (events, mut answers): (mdns_sd::Receiver<ServiceEvent>, mpsc::Receiver<Heard>),
    options: Options,
    lan: Arc<Lan>,
    mut voice: Voice,
    (news, settled, keepers): Tell,
) {
    let mut known: BTreeMap<PeerId, Vec<SocketAddr>> = BTreeMap::new();
    let mut settle_at = tokio::time::Instant::now() + SETTLE_MAX;
    let (mut look_at, mut look_after) = (settle_at, LOOK_EVERY);
    loop {
        let said = tokio::select! {
            event = events.recv_async() => match event {
                Ok(event) => said(event, &options, &lan),
                Err(_) => {
                    settled.send_replace(true);
                    return;
                }
            },
            // The listener knows better whom it has heard already.
            Some(heard) = answers.recv() => (!known.contains_key(&heard.0)).then_some(Said::At(heard)),
            () = tokio::time::sleep_until(settle_at), if !*settled.borrow() => {
                settled.send_replace(true);
                look_at = settle_at;
                continue;
            }
            () = tokio::time::sleep_until(look_at) => {
                look_at = tokio::time::Instant::now() + look_after;
                look_after = (look_after * 2).min(LOOK_AT_REST);
                let first = crowd::keepers(&known);
                keepers.send_if_modified(|held| std::mem::replace(held, first.clone()) != first);
                voice.look(&options.peer_id, &known);
                continue;
            }
            () = news.closed() => return,
        };
        let heard = match said {
            Some(Said::At((peer, addresses))) => {
                if known.get(&peer) == Some(&addresses) || (known.len() >= PEERS_MAX && !known.contains_key(&peer)) {
                    continue;
                }
                known.insert(peer, addresses.clone());
                settle_at = settle_at.min(tokio::time::Instant::now() + SETTLE_AFTER_FIRST);
                Found::Peer { peer, addresses }
            }
            Some(Said::Gone(peer)) if known.remove(&peer).is_some() => Found::Gone { peer },
            _ => continue,
        };
        (look_after, look_at) = (LOOK_EVERY, look_at.min(tokio::time::Instant::now() + LOOK_EVERY));
        if news.send(heard).await.is_err() {
            return;
        }
    }
}

/// What was heard of a node.
enum Said {
    At(Heard),
    Gone(PeerId),
}

fn said(event: ServiceEvent, options: &Options, lan: &Lan) -> Option<Said> {
    match event {
        ServiceEvent::ServiceResolved(service) => read(&service, options, lan).map(Said::At),
        ServiceEvent::ServiceRemoved(_, name) => peer_of(&name).map(Said::Gone),
        _ => None,
    }
}

/// The peer that an instance's full name stands for.
fn peer_of(full_name: &str) -> Option<PeerId> {
    full_name.split('.').next()?.parse().ok()
}

/// Who was resolved, and where; `None` for ourselves and for what is nobody.
fn read(service: &ResolvedService, options: &Options, lan: &Lan) -> Option<Heard> {
    let peer = peer_of(service.get_fullname()).filter(|peer| *peer != options.peer_id)?;
    let port = Some(service.get_port()).filter(|port| *port != 0)?;
    let mut addresses: Vec<_> = service
        .get_addresses()
        .iter()
        .filter_map(|ip| dialled_as(ip, port))
        .filter(|address| may_be_neighbour(address.ip(), options.loopback_only, lan))
        .collect();
    addresses.sort();
    addresses.truncate(ADDRESSES_MAX);
    (!addresses.is_empty()).then_some((peer, addresses))
}

/// Where to dial an address that was heard; one that is link-local means the link it was heard on.
fn dialled_as(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match ip {
        ScopedIp::V4(ip) => Some(SocketAddr::new(IpAddr::V4(*ip.addr()), port)),
        ScopedIp::V6(ip) => {
            let scope = if is_link_local(*ip.addr()) { ip.scope_id().index } else { 0 };
            Some(SocketAddrV6::new(*ip.addr(), port, 0, scope).into())
        }
        _ => None,
    }
}

/// Whether an address heard on the LAN may be a neighbour's; loopback only where we listen on loopback alone, since
/// another machine's loopback is ours.
fn may_be_neighbour(ip: IpAddr, loopback_only: bool, lan: &Lan) -> bool {
    ip.is_loopback() == loopback_only && lan.has(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_private_and_never_our_own_loopback() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let lan = Lan::default();
        let heard = |text, loopback_only| may_be_neighbour(ip(text), loopback_only, &lan);
        assert!(heard("192.168.1.4", false) && heard("169.254.3.4", false));
        assert!(!heard("8.8.8.8", false) && !heard("127.0.0.1", false));
        assert!(heard("127.0.0.1", true) && !heard("10.0.0.1", true));
    }

    #[test]
    fn names_that_are_no_peer_id_are_nobody() {
        let peer = PeerId::random();
        assert_eq!(peer_of(&format!("{}.{SERVICE}", peer.to_base58())), Some(peer));
        assert_eq!(peer_of("printer._piecework._tcp.local."), None);
        assert_eq!(peer_of(""), None);
    }
}
