//! Addresses to which no stranger's URL may send us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Why an address is not simply another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// This machine, by its loopback.
    Loopback,
    /// This machine, by an address of one of its interfaces.
    Own,
    /// Only on this link, where also the clouds' metadata services live.
    LinkLocal,
    /// A cloud's metadata service at an address that looks ordinary.
    Metadata,
    /// No address at all; Linux takes it for this machine.
    Unspecified,
    /// Many machines at once.
    Multicast,
    /// All machines of a network, or reserved for what never came.
    Reserved,
}

impl Special {
    /// Whether naming it in a pattern or on the command line opens it.
    pub fn may_be_named(self) -> bool {
        !matches!(self, Self::Multicast | Self::Reserved)
    }
}

impl std::fmt::Display for Special {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Own => "an address of this machine",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud metadata address",
            Self::Unspecified => "the unspecified address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved or broadcast address",
        })
    }
}

/// What is special about an address, those that carry another inside (v4-mapped, NAT64, 6to4, Teredo) included; `None`
/// for ordinary ones, private ranges among them. Whether it is one of ours is asked of the kernel, last.
pub fn special_kind(address: IpAddr) -> Option<Special> {
    let known = match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    };
    known.or_else(|| is_own(address).then_some(Special::Own))
}

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    match address.octets() {
        [127, ..] => Some(Special::Loopback),
        [169, 254, ..] => Some(Special::LinkLocal),
        // Alibaba and Oracle; the others are link-local.
        [100, 100, 100, 200] | [192, 0, 0, 192] => Some(Special::Metadata),
        [0, ..] => Some(Special::Unspecified),
        [224..=239, ..] => Some(Special::Multicast),
        [240..=255, ..] => Some(Special::Reserved),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    if address.is_unspecified() {
        return Some(Special::Unspecified);
    }
    if address.is_loopback() {
        return Some(Special::Loopback);
    }
    let words = address.segments();
    match words {
        [0xff00..=0xffff, ..] => return Some(Special::Multicast),
        [0xfe80..=0xfebf, ..] => return Some(Special::LinkLocal),
        // AWS over IPv6.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] => return Some(Special::Metadata),
        _ => {}
    }
    embedded_v4(words).into_iter().flatten().find_map(|inner| {
        // The inner address decides where packets end up, so an own one counts as well.
        special_v4(inner).or_else(|| is_own(IpAddr::V4(inner)).then_some(Special::Own))
    })
}

/// IPv4 addresses that an IPv6 address may stand for; where the prefix leaves the position open, every candidate.
fn embedded_v4(words: [u16; 8]) -> [Option<Ipv4Addr>; 2] {
    let join = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match words {
        // v4-compatible, v4-mapped, and translated (RFC 4291, 2765).
        [0, 0, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            [join(high, low), None]
        }
        // NAT64, well known (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [join(high, low), None],
        // NAT64, local use (RFC 8215): as a /96, or as a /48 whose address is split around one zero octet.
        [0x64, 0xff9b, 1, a, b, c, high, low] => {
            let [_, third] = b.to_be_bytes();
            let [fourth, _] = c.to_be_bytes();
            let [first, second] = a.to_be_bytes();
            // The split form ends in zeros.
            let low_form = if (high, low) == (0, 0) { None } else { join(high, low) };
            [low_form, Some(Ipv4Addr::new(first, second, third, fourth)).filter(|_| low_form.is_none())]
        }
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [join(high, low), None],
        // Teredo (RFC 4380): its server, and the client's address with every bit turned.
        [0x2001, 0, server_high, server_low, _, _, high, low] => [join(server_high, server_low), join(!high, !low)],
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [join(high, low), None],
        _ => [None, None],
    }
}

/// Whether packets to `address` stay on this machine. No packet is sent: the kernel routes a connected UDP socket, and
/// to an own address it answers from that address. Secondary addresses may answer from the primary, so that being able
/// to bind counts too, unless the system lets anyone bind to anything.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let answers_itself = UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect(SocketAddr::new(address, 9)).and_then(|()| socket.local_addr()))
        .is_ok_and(|local| local.ip() == address);
    if answers_itself {
        return true;
    }
    // TEST-NET-1 and the documentation prefix are nobody's.
    let nobody: IpAddr = if address.is_ipv4() {
        Ipv4Addr::new(192, 0, 2, 1).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    };
    UdpSocket::bind((address, 0)).is_ok() && UdpSocket::bind((nobody, 0)).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Option<Special> {
        special_kind(text.parse().expect("an address of the test"))
    }

    #[test]
    fn addresses_that_lead_back_are_special_in_every_dress() {
        for loopback in [
            "127.0.0.1",
            "127.255.255.254",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::127.0.0.1",
            "64:ff9b:1:7f00:0:0100::",
            "2002:7f00:1::1",
            "2001:0:5ef5:79fb:0:0:80ff:fffe",
            "fe00::5efe:127.0.0.1",
        ] {
            assert_eq!(kind(loopback), Some(Special::Loopback), "{loopback}");
        }
        for link in ["169.254.169.254", "fe80::1", "febf::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"] {
            assert_eq!(kind(link), Some(Special::LinkLocal), "{link}");
        }
        for unspecified in ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"] {
            assert_eq!(kind(unspecified), Some(Special::Unspecified), "{unspecified}");
        }
        for many in ["224.0.0.1", "239.255.255.250", "ff02::1", "::ffff:224.0.0.1"] {
            assert_eq!(kind(many), Some(Special::Multicast), "{many}");
        }
        for reserved in ["255.255.255.255", "240.0.0.1", "::ffff:255.255.255.255"] {
            assert_eq!(kind(reserved), Some(Special::Reserved), "{reserved}");
        }
        for metadata in ["100.100.100.200", "fd00:ec2::254", "192.0.0.192"] {
            assert_eq!(kind(metadata), Some(Special::Metadata), "{metadata}");
        }
    }

    #[test]
    fn private_and_public_addresses_are_ordinary() {
        // Of the private ranges none that a test machine is likely to have.
        for ordinary in ["10.231.77.3", "192.0.2.1", "8.8.8.8", "2606:4700::1111", "fd12:3456::1", "64:ff9b::808:808"] {
            assert_eq!(kind(ordinary), None, "{ordinary}");
        }
    }
}
