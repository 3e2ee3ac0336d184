//! Socket addresses and multiaddresses of TCP, what a wildcard listener can be reached at, and how a socket is set up.

use std::net::{IpAddr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::drivers::transport::limits::UNSENT_BYTES_MAX;

/// `/ip4|ip6/…/tcp/…`
pub(crate) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// The address of a TCP or QUIC multiaddress, whoever is named behind it; `None` for relayed, named and other ones.
pub(crate) fn endpoint_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let port = match parts.next()? {
        Protocol::Tcp(port) => port,
        Protocol::Udp(port) => match parts.next()? {
            Protocol::QuicV1 => port,
            _ => return None,
        },
        _ => return None,
    };
    match (parts.next(), parts.next()) {
        (None, None) | (Some(Protocol::P2p(_)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The relay that an address leads through, as far as it is told: who, and where.
pub(crate) fn relay_of(address: &Multiaddr) -> (Option<PeerId>, Option<SocketAddr>) {
    let before: Vec<Protocol<'_>> = address.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
    let peer = before.iter().find_map(|part| match part {
        Protocol::P2p(peer) => Some(*peer),
        _ => None,
    });
    (peer, endpoint_of(&before.into_iter().collect()))
}

/// `/ip4|ip6/…/udp/…/quic-v1`
pub(crate) fn quic(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

/// Whether it leads through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Whether it is an address over UDP.
pub(crate) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

/// Puts the addresses of our interfaces in the place of wildcards: those that others can use first, loopback last.
/// Link-local IPv6 is left out, since a multiaddress of it means nothing without its interface.
pub(crate) fn reachable(bound: &[SocketAddr], interfaces: &[IpAddr]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for address in bound {
        if address.ip().is_unspecified() {
            let same_family = interfaces.iter().filter(|ip| ip.is_ipv4() == address.is_ipv4());
            let named = same_family.filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
            addresses.extend(named.map(|ip| SocketAddr::new(*ip, address.port())));
        } else {
            addresses.push(*address);
        }
    }
    addresses.sort_by_key(|address| address.ip().is_loopback());
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    addresses
}

/// Addresses of our interfaces; none where the system does not say.
pub(crate) fn interfaces() -> Vec<IpAddr> {
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    found.iter().map(if_addrs::Interface::ip).collect()
}

/// Sets a connection up for frames: small ones go at once, and little waits in the kernel.
pub(crate) fn prepare(tcp: &TcpStream) {
    // Either may be refused, at the cost of latency alone.
    let _ = tcp.set_nodelay(true);
    let _ = SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
}

/// The round trip of a connection as the kernel has it from the first packets on: no handshake's arithmetic and no wait
/// for a busy core is in it (tcp(7), `TCP_INFO`). `None` where the kernel does not tell.
pub(crate) fn kernel_round_trip(tcp: &TcpStream) -> Option<Duration> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a plain structure of integers, for which zeros are a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
        let target = std::ptr::from_mut(&mut info).cast();
        // SAFETY: an open descriptor, and a buffer of the length that is told.
        let got = unsafe { libc::getsockopt(tcp.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, target, &mut length) };
        (got == 0 && info.tcpi_rtt > 0).then(|| Duration::from_micros(u64::from(info.tcpi_rtt)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = tcp;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn a_wildcard_becomes_our_addresses_with_loopback_last() {
        let interfaces: Vec<IpAddr> =
            ["127.0.0.1", "10.0.0.5", "::1", "fe80::1", "fd00::5"].map(|text| text.parse().expect("an address")).into();
        let reachable = |bound: &[&str]| reachable(&sockets(bound), &interfaces);
        assert_eq!(reachable(&["0.0.0.0:1"]), sockets(&["10.0.0.5:1", "127.0.0.1:1"]));
        assert_eq!(
            reachable(&["[::]:1", "0.0.0.0:1"]),
            sockets(&["[fd00::5]:1", "10.0.0.5:1", "[::1]:1", "127.0.0.1:1"])
        );
        assert_eq!(reachable(&["192.0.2.1:7", "192.0.2.1:7"]), sockets(&["192.0.2.1:7"]));
    }

    #[test]
    fn multiaddresses_of_tcp_and_quic_come_back() {
        for text in ["/dns4/a/tcp/1", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/tcp/1/ws"] {
            assert_eq!(endpoint_of(&text.parse().expect("valid")), None, "{text}");
        }
        for address in sockets(&["127.0.0.1:7680", "[fd00::1]:1"]) {
            assert_eq!([quic(address), multiaddr(address)].map(|it| endpoint_of(&it)), [Some(address); 2]);
        }
        let id = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf";
        let circuit: Multiaddr = format!("/ip4/1.2.3.4/tcp/1/p2p/{id}/p2p-circuit/p2p/{id}").parse().expect("valid");
        assert!(endpoint_of(&circuit).is_none() && is_relayed(&circuit));
    }
}
