//! Peers on this LAN, by DNS-SD over multicast DNS (RFC 6762, RFC 6763): service `_piecework._tcp.local.`, one instance
//! a node, named by its peer id. Content is never announced.
//!
//! Everything heard is a hint from strangers: entries are bounded, names that are no peer id and addresses that cannot
//! lie on a LAN are ignored. It yields addresses and decides nothing.

mod error;
pub mod lan;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use mdns_sd::{IfKind, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::{mpsc, watch};

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
        if options.port != 0 {
            let instance = options.peer_id.to_base58();
            let host = format!("piecework-{}.local.", instance.chars().rev().take(12).collect::<String>());
            let properties = [("v", "1")];
            let service = match options.loopback_only {
                true => ServiceInfo::new(SERVICE, &instance, &host, "127.0.0.1", options.port, &properties[..])?,
                false => {
                    ServiceInfo::new(SERVICE, &instance, &host, (), options.port, &properties[..])?.enable_addr_auto()
                }
            };
            // Names hold the peer id, so they are nobody else's: asking first whether they are taken (RFC 6762, 8.1)
            // would keep machines that start together apart for most of a second.
            let mut service = service;
            service.set_requires_probe(false);
            daemon.register(service)?;
        }
        let (news, found) = mpsc::channel(NEWS_MAX);
        let (tell, settled) = watch::channel(false);
        tokio::spawn(listen(events, options, lan, news, tell));
        Ok((Self { daemon, settled }, found))
    }

    /// Completes once the first answers are in: 100 ms after the first, or after a second without any.
    pub async fn settled(&self) {
        let mut settled = self.settled.clone();
        let _ = settled.wait_for(|settled| *settled).await;
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

async fn listen(
    events: mdns_sd::Receiver<ServiceEvent>,
    options: Options,
    lan: Arc<Lan>,
    news: mpsc::Sender<Found>,
    settled: watch::Sender<bool>,
) {
    let mut known: BTreeMap<PeerId, Vec<SocketAddr>> = BTreeMap::new();
    let mut settle_at = tokio::time::Instant::now() + SETTLE_MAX;
    loop {
        let event = tokio::select! {
            event = events.recv_async() => event,
            () = tokio::time::sleep_until(settle_at), if !*settled.borrow() => {
                settled.send_replace(true);
                continue;
            }
            () = news.closed() => return,
        };
        let heard = match event {
            Ok(ServiceEvent::ServiceResolved(service)) => {
                let Some((peer, addresses)) = read(&service, &options, &lan) else { continue };
                if known.get(&peer) == Some(&addresses) || (known.len() >= PEERS_MAX && !known.contains_key(&peer)) {
                    continue;
                }
                known.insert(peer, addresses.clone());
                settle_at = settle_at.min(tokio::time::Instant::now() + SETTLE_AFTER_FIRST);
                Found::Peer { peer, addresses }
            }
            Ok(ServiceEvent::ServiceRemoved(_, name)) => {
                match peer_of(&name).filter(|peer| known.remove(peer).is_some()) {
                    Some(peer) => Found::Gone { peer },
                    None => continue,
                }
            }
            Ok(_) => continue,
            Err(_) => {
                settled.send_replace(true);
                return;
            }
        };
        if news.send(heard).await.is_err() {
            return;
        }
    }
}

/// The peer that an instance's full name stands for.
fn peer_of(full_name: &str) -> Option<PeerId> {
    full_name.split('.').next()?.parse().ok()
}

/// Who was resolved, and where; `None` for ourselves and for what is nobody.
fn read(service: &ResolvedService, options: &Options, lan: &Lan) -> Option<(PeerId, Vec<SocketAddr>)> {
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
