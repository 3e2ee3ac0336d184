//! Which networks this machine is on, as the kernel's tables and the resolver's file have it (`proc(5)`, `resolv.conf(5)`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::drivers::machine::facts::text;
use crate::policy::Network;
use crate::policy::network::{masked, parse_mac};

/// Interfaces, routes of one, and domains that are looked at.
const INTERFACES_MAX: usize = 64;
const PREFIXES_MAX: usize = 16;
const DOMAINS_MAX: usize = 16;

/// What the route tables say of one interface.
#[derive(Default)]
struct Seen {
    /// A default route leads to it; its gateway, where it has one.
    way_out: bool,
    gateway: Option<Ipv4Addr>,
    prefixes: Vec<(IpAddr, u8)>,
}

/// The networks that default routes lead to; without any, all that the machine is on. Loopback is none.
pub(super) fn networks(root: &Path) -> Vec<Network> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for line in text(&root.join("proc/net/route")).unwrap_or_default().lines().skip(1) {
        v4_route(line, &mut seen);
    }
    for line in text(&root.join("proc/net/ipv6_route")).unwrap_or_default().lines() {
        v6_route(line, &mut seen);
    }
    let arp = text(&root.join("proc/net/arp")).unwrap_or_default();
    let any_way_out = seen.values().any(|seen| seen.way_out);
    let counted = seen.into_iter().filter(|(_, seen)| seen.way_out || !any_way_out);
    let of = |(interface, seen): (String, Seen)| {
        let gateway = seen.gateway.and_then(|gateway| hardware_address(&arp, gateway, &interface));
        Network { gateway, prefixes: seen.prefixes, interface }
    };
    counted.map(of).collect()
}

fn entry<'a>(seen: &'a mut BTreeMap<String, Seen>, interface: &str) -> Option<&'a mut Seen> {
    if interface == "lo" || (seen.len() >= INTERFACES_MAX && !seen.contains_key(interface)) {
        return None;
    }
    Some(seen.entry(interface.to_owned()).or_default())
}

/// A line of the IPv4 table. Addresses are numbers of this machine's byte order, in hexadecimal.
fn v4_route(line: &str, seen: &mut BTreeMap<String, Seen>) {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [interface, destination, gateway, _, _, _, _, mask, ..] = fields.as_slice() else { return };
    let address = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
    let (Some(destination), Some(gateway), Some(mask)) = (address(destination), address(gateway), address(mask)) else {
        return;
    };
    let Some(seen) = entry(seen, interface) else { return };
    if mask.is_unspecified() && destination.is_unspecified() {
        seen.way_out = true;
        seen.gateway = seen.gateway.or(Some(gateway).filter(|gateway| !gateway.is_unspecified()));
    } else if gateway.is_unspecified() && seen.prefixes.len() < PREFIXES_MAX {
        // A mask with holes is none of a link; what stands before the first hole is no wider than it.
        let length = mask.to_bits().leading_ones().try_into().unwrap_or(0);
        seen.prefixes.push((masked(destination.into(), length), length));
    }
}

/// A line of the IPv6 table.
fn v6_route(line: &str, seen: &mut BTreeMap<String, Seen>) {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, length, _, _, next_hop, .., interface] = fields.as_slice() else { return };
    let address = |text: &str| (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    let (Some(destination), Some(next_hop)) = (address(destination), address(next_hop)) else { return };
    let Ok(length) = u8::from_str_radix(length, 16) else { return };
    let network = Ipv6Addr::from_bits(destination);
    // The link's own addresses say nothing of which link it is.
    let of_any_link = network.is_unicast_link_local() || network.is_multicast();
    let Some(seen) = entry(seen, interface) else { return };
    if length == 0 && destination == 0 {
        seen.way_out |= next_hop != 0;
    } else if next_hop == 0 && !of_any_link && (1..128).contains(&length) && seen.prefixes.len() < PREFIXES_MAX {
        seen.prefixes.push((masked(network.into(), length), length));
    }
}

/// The hardware address of a neighbour on an interface, if the kernel knows it.
fn hardware_address(arp: &str, ip: Ipv4Addr, interface: &str) -> Option<[u8; 6]> {
    arp.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, hardware, _, device] = fields.as_slice() else { return None };
        (address.parse() == Ok(ip) && *device == interface).then(|| parse_mac(hardware)).flatten()
    })
}

/// Domains that names are looked up in, as a network hands them out.
pub(super) fn domains(root: &Path) -> Vec<String> {
    let text = text(&root.join("etc/resolv.conf")).unwrap_or_default();
    let words = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next()?, "domain" | "search").then_some(words)
    });
    let plain = |word: &str| word.trim_end_matches('.').to_ascii_lowercase();
    let mut domains: Vec<String> = words.flatten().map(plain).filter(|word| (1..=253).contains(&word.len())).collect();
    domains.dedup();
    domains.truncate(DOMAINS_MAX);
    domains
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        folder
    }

    #[test]
    fn a_network_is_told_by_its_gateway_and_its_prefix() {
        let routes = format!(
            "{HEAD}eth0\t00000000\t0100010A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        );
        let arp = "IP address HW type Flags HW address Mask Device\n\
            10.1.0.1 0x1 0x2 aa:11:22:33:44:55 * eth0\n10.1.0.1 0x1 0x2 bb:11:22:33:44:55 * wlan0\n";
        let folder = machine(&[("proc/net/route", &routes), ("proc/net/arp", arp)]);
        let prefix = (IpAddr::from([10, 1, 0, 0]), 16);
        let expected =
            Network { interface: "eth0".into(), gateway: parse_mac("aa:11:22:33:44:55"), prefixes: vec![prefix] };
        assert_eq!(networks(folder.path()), [expected], "what no default route leads to does not count beside one");
        let without = format!(
            "{HEAD}eth0\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\nlo\t0000007F\t00000000\t1\t0\t0\t0\t000000FF\t0\t0\t0\n"
        );
        let folder = machine(&[("proc/net/route", &without)]);
        assert_eq!(networks(folder.path()).len(), 1, "a LAN without a way out is a network all the same");
        assert!(networks(machine(&[]).path()).is_empty());
    }

    #[test]
    fn ipv6_has_prefixes_too_and_link_local_is_none() {
        let zeros = "0".repeat(32);
        let via = "fe800000000000000000000000000001";
        let line = |destination: &str, length: &str, hop: &str| {
            format!("{destination} {length} {zeros} 00 {hop} 00000400 1 0 00000001 eth0\n")
        };
        let text = line(&zeros, "00", via)
            + &line("fd120000000000000000000000000000", "40", &zeros)
            + &line("fe800000000000000000000000000000", "40", &zeros);
        let folder = machine(&[("proc/net/ipv6_route", &text)]);
        let found = networks(folder.path());
        let expected: (IpAddr, u8) = ("fd12::".parse().expect("an address"), 64);
        assert_eq!(found.first().map(|it| it.prefixes.clone()), Some(vec![expected]), "{found:?}");
    }

    #[test]
    fn domains_come_from_the_resolver() {
        let folder =
            machine(&[("etc/resolv.conf", "# x\ndomain Office.example.\nsearch lab.example office.example\n")]);
        assert_eq!(domains(folder.path()), ["office.example", "lab.example", "office.example"]);
        assert!(domains(machine(&[]).path()).is_empty());
    }
}
