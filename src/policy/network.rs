//! Which networks peers may be met on: told by the gateway's hardware address, the domain that it hands out, or the prefix.

use std::fmt;
use std::net::IpAddr;

/// Hardware address of an Ethernet-like interface.
pub type Mac = [u8; 6];

/// One network that this machine is on, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// The interface that leads there.
    pub interface: String,
    /// The gateway's hardware address, once the kernel knows it.
    pub gateway: Option<Mac>,
    /// Addresses that are on the link: network, and length of its prefix.
    pub prefixes: Vec<(IpAddr, u8)>,
}

/// A network that the operator trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedNetwork {
    /// By its gateway.
    Gateway(Mac),
    /// By the domain that machines there are given, in lower case.
    Domain(String),
    /// By the addresses on the link: within this network, with a prefix of this length.
    Prefix(IpAddr, u8),
}

impl TrustedNetwork {
    /// Reads `00:11:22:33:44:55`, `office.example` or `10.1.0.0/16`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(mac) = parse_mac(text) {
            return Some(Self::Gateway(mac));
        }
        if let Some((network, length)) = text.split_once('/') {
            let (network, length) = (network.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
            let most = if network.is_ipv4() { 32 } else { 128 };
            // One that has bits below its prefix is a slip of the pen.
            let right = (1..=most).contains(&length) && network == masked(network, length);
            return right.then_some(Self::Prefix(network, length));
        }
        let letter = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-';
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letter);
        let right =
            text.len() <= 253 && text.split('.').all(label) && text.bytes().any(|byte| byte.is_ascii_alphabetic());
        right.then(|| Self::Domain(text.to_ascii_lowercase()))
    }

    /// Whether a network is this one; `domains` are those that the machine was given.
    fn is(&self, network: &Network, domains: &[String]) -> bool {
        match self {
            Self::Gateway(mac) => network.gateway == Some(*mac),
            Self::Domain(domain) => domains.iter().any(|found| found.eq_ignore_ascii_case(domain)),
            Self::Prefix(trusted, length) => {
                let within = |(found, of): &(IpAddr, u8)| {
                    found.is_ipv4() == trusted.is_ipv4() && of >= length && masked(*found, *length) == *trusted
                };
                network.prefixes.iter().any(within)
            }
        }
    }
}

impl fmt::Display for TrustedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(mac) => f.write_str(&show_mac(mac)),
            Self::Domain(domain) => f.write_str(domain),
            Self::Prefix(network, length) => write!(f, "{network}/{length}"),
        }
    }
}

/// The first network that is none of these, as people know it; `None` where all are trusted. A machine that knows of no
/// network is on none that is trusted.
pub(crate) fn stranger(trusted: &[TrustedNetwork], networks: &[Network], domains: &[String]) -> Option<String> {
    if networks.is_empty() {
        return Some("no network is known".to_owned());
    }
    let strange = networks.iter().find(|network| !trusted.iter().any(|it| it.is(network, domains)))?;
    let gateway = strange.gateway.map_or_else(|| "unknown".to_owned(), |mac| show_mac(&mac));
    let prefixes: Vec<_> = strange.prefixes.iter().take(2).map(|(ip, length)| format!("{ip}/{length}")).collect();
    let domain = domains.first().map_or("none", |domain| domain);
    Some(format!("by {}: gateway {gateway}, domain {domain}, prefix {}", strange.interface, prefixes.join(" and ")))
}

/// Whether an address may be that of a machine on the Internet: one, and not of a private, shared or reserved network
/// (RFC 6890). What others tell of far peers leads to such addresses or nowhere.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            let reserved = a == 0 || a >= 240 || (a == 192 && b == 0 && ip.octets()[2] == 0);
            let of_a_link = ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_multicast();
            !shared && !reserved && !of_a_link
        }
        // Only what is assigned as global unicast, and what stands for no IPv4 address.
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            first & 0xe000 == 0x2000 && first != 0x2002 && !(first == 0x2001 && second == 0)
        }
    }
}

/// Reads a hardware address, six bytes between `:` or `-`; `None` for zeros, which the kernel has for those it seeks.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part =
            parts.next().filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac != [0; 6]).then_some(mac)
}

fn show_mac(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An address without what lies below a prefix.
pub fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(gateway: &str, prefix: &str) -> Network {
        let Some(TrustedNetwork::Prefix(ip, length)) = TrustedNetwork::parse(prefix) else { panic!("{prefix}") };
        Network { interface: "eth0".to_owned(), gateway: parse_mac(gateway), prefixes: vec![(ip, length)] }
    }

    #[test]
    fn networks_are_read_and_shown_as_they_were_written() {
        for text in ["00:11:22:33:44:5f", "office.example", "home", "10.1.0.0/16", "fd12:3456::/48"] {
            assert_eq!(TrustedNetwork::parse(text).map(|it| it.to_string()).as_deref(), Some(text));
        }
        assert_eq!(TrustedNetwork::parse("AA-11-22-33-44-55"), TrustedNetwork::parse("aa:11:22:33:44:55"));
        for text in
            ["", "10.1.2.3/16", "10.0.0.0/0", "10.0.0.0/33", "10.1.2.3", "a b", "00:00:00:00:00:00", "x..y", "a/8"]
        {
            assert_eq!(TrustedNetwork::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_far_is_on_the_internet_and_nowhere_else() {
        let is_public = |text: &str| is_public(text.parse().expect("an address"));
        for text in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "203.0.113.5", "2001:db8::1", "2a00::1", "::ffff:9.9.9.9"]
        {
            assert!(is_public(text), "{text}");
        }
        for text in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "192.0.0.8",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001::a00:1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(text), "{text}");
        }
    }

    #[test]
    fn every_network_the_machine_is_on_must_be_trusted() {
        let trusted: Vec<_> = ["aa:11:22:33:44:55", "office.example", "10.1.0.0/16"]
            .iter()
            .map(|text| TrustedNetwork::parse(text).expect("a network"))
            .collect();
        let is_trusted =
            |networks: &[Network], domain: &str| stranger(&trusted, networks, &[domain.to_owned()]).is_none();
        let strange = network("aa:00:00:00:00:01", "192.168.1.0/24");
        assert!(is_trusted(&[network("aa:11:22:33:44:55", "192.168.1.0/24")], "lan"), "by gateway");
        assert!(is_trusted(std::slice::from_ref(&strange), "Office.example"), "by domain");
        assert!(is_trusted(&[network("", "10.1.7.0/24")], "lan"), "by prefix");
        assert!(!is_trusted(&[network("", "10.0.0.0/8")], "lan"), "a wider network is another");
        assert!(!is_trusted(std::slice::from_ref(&strange), "lan"));
        assert!(!is_trusted(&[network("", "10.1.7.0/24"), strange], "lan"), "one of two is strange");
        assert!(!is_trusted(&[], "office.example"), "nothing is known");
    }
}
