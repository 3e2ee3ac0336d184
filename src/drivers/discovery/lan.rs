//! [`Lan`]: which addresses lie on this machine's own links or in private networks. What follows from that is decided
//! elsewhere.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use if_addrs::IfAddr;

/// The interfaces are read again after this long: a laptop changes networks, and a flood of questions must not cost a
/// system call each.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// The links that this machine is on.
#[derive(Debug, Default)]
pub struct Lan {
    read: Mutex<Option<(Instant, Vec<Prefix>)>>,
}

/// An interface's address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Lan {
    /// Whether an address may be a neighbour's: of this machine, of a private network (RFC 1918, RFC 4193), link-local,
    /// or on one of our links, since some networks give every desk a public address.
    pub fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        is_private(ip) || self.is_on_link(ip)
    }

    /// Whether an address lies within the network of one of this machine's interfaces.
    pub fn is_on_link(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = read.as_ref().is_some_and(|(at, _)| at.elapsed() < READ_AGAIN);
        if !fresh {
            // Without an answer nothing is on a link, and private addresses still count.
            *read = Some((Instant::now(), interfaces().unwrap_or_default()));
        }
        read.as_ref().is_some_and(|(_, prefixes)| prefixes.iter().any(|prefix| prefix.covers(ip)))
    }
}

impl Lan {
    /// The network of the first IPv4 interface that is not loopback, as `10.0.0.0/24`.
    pub fn first_link(&self) -> Option<String> {
        let mut links: Vec<_> = interfaces().ok()?.into_iter().filter_map(Prefix::network).collect();
        links.sort();
        links.first().map(|(network, length)| format!("{network}/{length}"))
    }
}

impl Prefix {
    fn network(self) -> Option<(std::net::Ipv4Addr, u8)> {
        match self.address {
            IpAddr::V4(own) if !own.is_loopback() => {
                let mask = u32::MAX.checked_shl(32u32.saturating_sub(self.length.into())).unwrap_or(0);
                Some((std::net::Ipv4Addr::from_bits(own.to_bits() & mask), self.length))
            }
            _ => None,
        }
    }

    fn covers(&self, ip: IpAddr) -> bool {
        // A network of one address is a point-to-point interface or an alias: nobody else is on it. One without a prefix
        // would be the whole Internet.
        match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) if (1..32).contains(&self.length) => {
                let shift = 32u32.saturating_sub(self.length.into());
                own.to_bits() >> shift == ip.to_bits() >> shift
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) if (1..128).contains(&self.length) => {
                let shift = 128u32.saturating_sub(self.length.into());
                own.to_bits() >> shift == ip.to_bits() >> shift
            }
            _ => false,
        }
    }
}

fn interfaces() -> std::io::Result<Vec<Prefix>> {
    let found = if_addrs::get_if_addrs()?;
    Ok(found
        .into_iter()
        .map(|interface| match interface.addr {
            IfAddr::V4(address) => Prefix { address: address.ip.into(), length: address.prefixlen },
            IfAddr::V6(address) => Prefix { address: address.ip.into(), length: address.prefixlen },
        })
        .collect())
}

/// Whether an address belongs to this machine, this link or a private network.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || is_link_local(ip) || ip.octets()[0] & 0xfe == 0xfc,
    }
}

/// Whether an address means something on one link only (RFC 4291, 2.5.6).
pub fn is_link_local(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 0xfe && second & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn private_networks_are_told_from_public_ones() {
        for text in ["10.1.2.3", "172.16.0.1", "192.168.0.1", "127.0.0.1", "169.254.1.1", "::1", "fe80::1", "fd12::1"] {
            assert!(is_private(ip(text)) && Lan::default().has(ip(text)), "{text}");
        }
        for text in ["8.8.8.8", "172.32.0.1", "2001:db8::1", "100.64.0.1"] {
            assert!(!is_private(ip(text)), "{text}");
        }
    }

    #[test]
    fn a_link_with_public_addresses_is_a_lan_too() {
        let desk = Prefix { address: ip("192.0.2.17"), length: 24 };
        assert!(desk.covers(ip("192.0.2.250")) && !desk.covers(ip("192.0.3.1")) && !desk.covers(ip("::1")));
        let desk = Prefix { address: ip("2001:db8:1:2::17"), length: 64 };
        assert!(desk.covers(ip("2001:db8:1:2:a:b:c:d")) && !desk.covers(ip("2001:db8:1:3::1")));
        for length in [0, 32, 128, 255] {
            assert!(!Prefix { address: ip("192.0.2.17"), length }.covers(ip("192.0.2.17")), "{length}");
        }
        assert!(!Prefix { address: ip("2001:db8::1"), length: 0 }.covers(ip("2001:db8::2")));
    }

    #[test]
    fn this_machine_has_links() {
        assert!(Lan::default().is_on_link(ip("127.0.0.1")), "the loopback network is one");
        assert!(!Lan::default().is_on_link(ip("203.0.113.77")));
    }
}
