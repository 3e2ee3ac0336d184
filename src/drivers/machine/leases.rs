//! What a DHCP server says of piecework in the lease that it gave this machine, as systemd-networkd and dhclient keep it
//! (`systemd-networkd.service(8)`, `dhclient.leases(5)`). Options 224 to 254 are for private use (RFC 3942).

use std::path::Path;

use crate::drivers::machine::facts::{names, text};
use crate::policy::value::is_host;

/// A group's id, as Delivery Optimization has it.
pub(super) const GROUP_OPTION: u8 = 234;
/// Cache hosts, as Delivery Optimization has them.
pub(super) const CACHE_HOST_OPTION: u8 = 235;
/// Rendezvous; ours.
pub(super) const RENDEZVOUS_OPTION: u8 = 236;
/// Hosts that one option may name.
const HOSTS_MAX: usize = 16;
/// Longest option, bytes: more than one DHCP option carries.
const OPTION_BYTES_MAX: usize = 256;

/// The text of an option: of the first lease of systemd-networkd that has it, else of the last of a file of dhclient's.
pub(super) fn lease_option(root: &Path, option: u8) -> Option<String> {
    let of_networkd = root.join("run/systemd/netif/leases");
    let assignment = format!("OPTION_{option}=");
    let networkd = names(&of_networkd).into_iter().find_map(|name| {
        let text = text(&of_networkd.join(name))?;
        text.lines().find_map(|line| from_hex(line.strip_prefix(&assignment)?.trim()))
    });
    let of_dhclient = root.join("var/lib/dhcp");
    let statement = format!("option unknown-{option} ");
    networkd.or_else(|| {
        names(&of_dhclient).into_iter().filter(|name| name.ends_with(".leases")).find_map(|name| {
            let text = text(&of_dhclient.join(name))?;
            let value = |line: &str| {
                let value = line.trim().strip_prefix(&statement)?.trim_end_matches(';').trim();
                match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
                    Some(plain) => Some(plain.to_owned()),
                    None => from_hex(&value.replace(':', "")),
                }
            };
            text.lines().filter_map(value).next_back()
        })
    })
}

/// Hosts that an option names, between commas or blanks. What is none is left out.
pub(super) fn lease_hosts(root: &Path, option: u8) -> Vec<String> {
    let text = lease_option(root, option).unwrap_or_default();
    let hosts = text.split([',', ' ']).filter(|host| is_host(host)).map(str::to_owned);
    hosts.take(HOSTS_MAX).collect()
}

/// Text from the hexadecimal of its bytes; a zero at its end is C's.
fn from_hex(digits: &str) -> Option<String> {
    let digits = digits.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> =
        digits.chunks(2).take(OPTION_BYTES_MAX).map(|pair| byte(pair).filter(|_| pair.len() == 2)).collect();
    let text = String::from_utf8(bytes?).ok()?;
    Some(text.trim_end_matches('\0').to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_lease_tells_the_group_however_its_client_writes_it() {
        for (file, text) in [
            ("run/systemd/netif/leases/2", "ADDRESS=10.0.0.5\nOPTION_234=6c6162203700\n"),
            (
                "var/lib/dhcp/dhclient.leases",
                "lease {\n  option unknown-234 \"old\";\n}\nlease {\n  option unknown-234 \"lab 7\";\n}\n",
            ),
            ("var/lib/dhcp/dhclient.eth0.leases", "  option unknown-234 6c:61:62:20:37;\n"),
        ] {
            assert_eq!(lease_option(machine(&[(file, text)]).path(), 234).as_deref(), Some("lab 7"), "{file}");
        }
        assert_eq!(lease_option(machine(&[("run/systemd/netif/leases/2", "OPTION_234=6\n")]).path(), 234), None);
    }

    #[test]
    fn hosts_of_a_lease_are_hosts() {
        let hosts = |text: &str| {
            let lease = format!("  option unknown-235 \"{text}\";\n  option unknown-236 \"other\";\n");
            lease_hosts(machine(&[("var/lib/dhcp/dhclient.leases", &lease)]).path(), 235)
        };
        assert_eq!(
            hosts("cache.office.example,10.0.0.5:8080 [fd00::1]:81"),
            ["cache.office.example", "10.0.0.5:8080", "[fd00::1]:81"]
        );
        assert_eq!(hosts("http://x/, a/b, host:99999,,ok"), ["ok"]);
        assert_eq!(hosts(&"a,".repeat(100)).len(), HOSTS_MAX);
        assert!(lease_hosts(machine(&[]).path(), 235).is_empty());
    }
}
