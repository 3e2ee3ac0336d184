//! Which addresses that strangers tell may be dialled. Against being used to scan or flood others
//! (security: reflection): an address is a hint, and most kinds of it are nobody's honest peer.

use std::net::{IpAddr, SocketAddr};

use crate::drivers::discovery::lan::is_link_local;

/// Whether an address told by a peer that is itself at `teller` may be dialled. Loopback only where the teller was
/// reached over loopback; nothing link-local, so no metadata service; nothing that is many machines or none.
pub(crate) fn may_dial(teller: IpAddr, told: SocketAddr) -> bool {
    let ip = told.ip().to_canonical();
    if told.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    if ip.is_loopback() {
        return teller.to_canonical().is_loopback();
    }
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_broadcast() && ip.octets()[0] != 0,
        IpAddr::V6(ip) => !is_link_local(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_lead_to_machines_that_may_be_peers() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for told in ["10.0.0.2:7680", "192.168.1.9:1", "203.0.113.5:7680", "[fd00::2]:7680", "[2001:db8::1]:7"] {
            assert!(may_dial(ip("10.0.0.1"), at(told)), "{told}");
        }
        for told in [
            "10.0.0.2:0",
            "127.0.0.1:22",
            "[::1]:22",
            "[::ffff:127.0.0.1]:22",
            "169.254.169.254:80",
            "0.0.0.0:1",
            "255.255.255.255:1",
            "224.0.0.1:1",
            "[fe80::1]:1",
            "[ff02::1]:1",
            "0.1.2.3:5",
        ] {
            assert!(!may_dial(ip("10.0.0.1"), at(told)), "{told}");
        }
        assert!(may_dial(ip("127.0.0.1"), at("127.0.0.1:7680")));
    }
}
