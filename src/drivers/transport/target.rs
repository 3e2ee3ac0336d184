//! Whom to dial: text from a command line, a link or a peer's hearsay.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::drivers::transport::error::Error;

/// Longest text of a target: a name of 253 bytes, a port and a peer id fit.
const TARGET_BYTES_MAX: usize = 512;

/// Where a peer listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// An address.
    Socket(SocketAddr),
    /// A name to resolve when it is dialled; `None`: addresses of either family.
    Name {
        /// The name.
        host: String,
        /// The port; not 0.
        port: u16,
        /// Family asked for by /dns4 or /dns6: whether it is IPv6.
        ipv6: Option<bool>,
    },
}

/// A peer to dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where it may be; tried in order.
    pub places: Vec<Place>,
    /// Who it must be; `None`: whoever is there.
    pub peer: Option<PeerId>,
}

impl Target {
    /// A peer at an address.
    pub fn socket(address: SocketAddr, peer: Option<PeerId>) -> Self {
        Self { places: vec![Place::Socket(address)], peer }
    }

    fn from_multiaddr(address: &Multiaddr) -> Option<Self> {
        let mut parts = address.iter();
        let host = parts.next()?;
        let Some(Protocol::Tcp(port @ 1..)) = parts.next() else { return None };
        let name = |host: &str, ipv6| is_name(host).then(|| Place::Name { host: host.to_owned(), port, ipv6 });
        let place = match host {
            Protocol::Ip4(address) => Place::Socket(SocketAddr::new(IpAddr::V4(address), port)),
            Protocol::Ip6(address) => Place::Socket(SocketAddr::new(IpAddr::V6(address), port)),
            Protocol::Dns(host) => name(&host, None)?,
            Protocol::Dns4(host) => name(&host, Some(false))?,
            Protocol::Dns6(host) => name(&host, Some(true))?,
            _ => return None,
        };
        let peer = match parts.next() {
            Some(Protocol::P2p(peer)) => Some(peer),
            Some(_) => return None,
            None => None,
        };
        if parts.next().is_some() {
            return None;
        }
        Some(Self { places: vec![place], peer })
    }

    fn from_host_and_port(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.port() != 0).then(|| Self::socket(address, None));
        }
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0 && is_name(host))?;
        Some(Self { places: vec![Place::Name { host: host.to_owned(), port, ipv6: None }], peer: None })
    }
}

/// Whether a resolver may be asked for it; everything else would be some other text in a log or a question.
fn is_name(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

/// `HOST:PORT`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or a multiaddress of TCP, with or without `/p2p/ID`.
impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = match text {
            _ if text.len() > TARGET_BYTES_MAX => None,
            _ if text.starts_with('/') => text.parse::<Multiaddr>().ok().as_ref().and_then(Self::from_multiaddr),
            _ => Self::from_host_and_port(text),
        };
        parsed.ok_or_else(|| Error::BadTarget { found: text.chars().take(200).collect() })
    }
}

impl TryFrom<&Multiaddr> for Target {
    type Error = Error;

    fn try_from(address: &Multiaddr) -> Result<Self, Error> {
        let refuse = || Error::BadTarget { found: address.to_string().chars().take(200).collect() };
        Self::from_multiaddr(address).ok_or_else(refuse)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Name { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf";

    #[test]
    fn addresses_names_and_multiaddresses_are_targets() {
        for (text, place, has_peer) in [
            ("127.0.0.1:7680", "127.0.0.1:7680", false),
            ("[::1]:7680", "[::1]:7680", false),
            ("seed.example:7680", "seed.example:7680", false),
            ("/ip4/10.0.0.1/tcp/7680", "10.0.0.1:7680", false),
            (&format!("/ip6/fd00::1/tcp/7680/p2p/{PEER}"), "[fd00::1]:7680", true),
            (&format!("/dns4/seed.example/tcp/1/p2p/{PEER}"), "seed.example:1", true),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.places.first().map(ToString::to_string).as_deref(), Some(place), "{text}");
            assert_eq!(target.peer.is_some(), has_peer, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            ":7680",
            "host",
            "host:0",
            "host:65536",
            "127.0.0.1:0",
            "ho st:1",
            "http://host:1",
            "/ip4/1.2.3.4/udp/1/quic-v1",
            "/ip4/1.2.3.4/tcp/0",
            "/ip4/1.2.3.4/tcp/1/ws",
            "/tcp/1",
            "/dns/a b:c/tcp/1",
            "/ip4/1.2.3.4/tcp/1/p2p/junk",
            &"a".repeat(600),
        ] {
            assert!(matches!(text.parse::<Target>(), Err(Error::BadTarget { .. })), "{text}");
        }
    }
}
