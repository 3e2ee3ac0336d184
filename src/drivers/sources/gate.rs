//! The one gate for URLs that came from outside.
//!
//! First the URL itself (scheme, credentials, port, host pattern, an address written as such), before anything is
//! looked up; then, when a connection is made, every address that its name resolved to. The second half runs inside the
//! resolver of the HTTP client, so that there is no moment between the check and the use.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use url::{Host, Url};

use crate::content::pattern::OriginRules;
use crate::drivers::sources::address::{Special, special_kind};

/// Ports on which another protocol listens that could take a request for its own; after the Fetch Standard's list.
/// Open to a pattern that names them.
const PORTS_BLOCKED: [u16; 82] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6697, 10080,
];

/// Why the gate let a URL not through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Neither http nor https.
    #[error("its scheme is {scheme:?}; http and https are fetched")]
    Scheme {
        /// As found.
        scheme: String,
    },
    /// No host.
    #[error("it names no host")]
    NoHost,
    /// A user name or password inside the URL.
    #[error("it carries a user name or password; sources are fetched without")]
    Credentials,
    /// A port of another protocol.
    #[error("port {port} belongs to another protocol; name {host}:{port} in the publisher's origins to allow it")]
    Port {
        /// Its host.
        host: String,
        /// As found.
        port: u16,
    },
    /// No pattern covers it.
    #[error("{host}:{port} is not among the allowed origins ({allowed})")]
    NotAllowed {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// The patterns.
        allowed: String,
    },
    /// An address that must be named first.
    #[error("{host} is {address}, {kind}; {remedy}", remedy = address_remedy(*kind, address, *port))]
    Address {
        /// Host as the URL has it.
        host: String,
        /// Its port.
        port: u16,
        /// The address.
        address: IpAddr,
        /// What is special about it.
        kind: Special,
    },
}

fn address_remedy(kind: Special, address: &IpAddr, port: u16) -> String {
    if kind.may_be_named() {
        let host = host_text_of(*address);
        format!("name {host}:{port} in the publisher's origins or give the URL on the command line to allow it")
    } else {
        "nothing is ever fetched from there".to_owned()
    }
}

/// Which URLs may be fetched, and which addresses a connection may be made to. The default lets every host through but
/// those that must be named.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    rules: OriginRules,
    /// Host and port of URLs that the operator gave; their own word for where they lead.
    given: BTreeSet<(String, u16)>,
}

impl Gate {
    /// A gate for a publisher's origins.
    pub fn new(rules: OriginRules) -> Self {
        Self { rules, given: BTreeSet::new() }
    }

    /// Lets the host and port of a URL from the command line through, wherever its name leads (but to many machines).
    pub fn give(&mut self, url: &Url) {
        if let Some((host, port)) = authority(url) {
            self.given.insert((host, port));
        }
    }

    /// Whether the URL may be fetched, before any look-up.
    ///
    /// # Errors
    /// The [`Refusal`] that applies first.
    pub fn check(&self, url: &Url) -> Result<(), Refusal> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme { scheme: url.scheme().chars().take(32).collect() });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        let Some((host, port)) = authority(url) else {
            return Err(Refusal::NoHost);
        };
        let given = self.given.contains(&(host.clone(), port));
        if !given && !self.rules.allows_host(&host, port) {
            let allowed: Vec<_> = self.rules.patterns.iter().map(ToString::to_string).collect();
            return Err(Refusal::NotAllowed { host, port, allowed: allowed.join(", ") });
        }
        if !given && PORTS_BLOCKED.contains(&port) && !self.names(&host, port) {
            return Err(Refusal::Port { host, port });
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(&host, port, address.into()),
            Some(Host::Ipv6(address)) => self.check_address(&host, port, address.into()),
            _ => Ok(()),
        }
    }

    /// Whether a connection for `host` and `port` may be made to `address`. An ordinary address always; a special one
    /// where a pattern names the address itself, where the URL was given by the operator, or, for this machine's own
    /// addresses, where a pattern names the host. `localhost` is the loopback's name.
    ///
    /// # Errors
    /// [`Refusal::Address`].
    pub fn check_address(&self, host: &str, port: u16, address: IpAddr) -> Result<(), Refusal> {
        let Some(kind) = special_kind(address) else {
            return Ok(());
        };
        let open = kind.may_be_named()
            && (self.given.contains(&(host.to_owned(), port))
                || self.names(&host_text_of(address), port)
                || (kind == Special::Own && self.names(host, port))
                || (kind == Special::Loopback && is_localhost(host) && self.names(host, port)));
        if open { Ok(()) } else { Err(Refusal::Address { host: host.to_owned(), port, address, kind }) }
    }

    /// Whether a pattern was meant for this very host or address: what the rules ask where loopback is at stake.
    fn names(&self, host: &str, port: u16) -> bool {
        self.rules.allows(host, port, Ipv4Addr::LOCALHOST.into())
    }
}

/// Host in the form that patterns compare with, and port.
pub(crate) fn authority(url: &Url) -> Option<(String, u16)> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some((plain_host(host)?, url.port_or_known_default()?))
}

/// A host in lower case without its final dot.
pub(crate) fn plain_host(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// Whether a host (plain form) is a name of the loopback (RFC 6761).
pub(crate) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// An address as a URL's host has it.
fn host_text_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        // The URL library's spelling, so that a pattern written from a URL fits.
        IpAddr::V6(v6) => Host::<String>::Ipv6(v6).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::pattern::OriginPattern;

    fn gate(patterns: &[&str]) -> Gate {
        let patterns = patterns.iter().map(|text| OriginPattern::new(text).expect("a pattern of the test"));
        Gate::new(OriginRules { patterns: patterns.collect() })
    }

    fn check(gate: &Gate, url: &str) -> Result<(), Refusal> {
        gate.check(&Url::parse(url).expect("a URL of the test"))
    }

    #[test]
    fn the_default_gate_lets_strangers_in_and_keeps_this_machine_out() {
        let gate = Gate::default();
        assert_eq!(check(&gate, "https://cdn.test/a"), Ok(()));
        assert_eq!(check(&gate, "http://10.231.77.3:8080/a"), Ok(()));
        assert!(matches!(check(&gate, "ftp://cdn.test/a"), Err(Refusal::Scheme { .. })));
        assert!(matches!(check(&gate, "http://u@cdn.test/a"), Err(Refusal::Credentials)));
        assert!(matches!(check(&gate, "http://cdn.test:25/a"), Err(Refusal::Port { port: 25, .. })));
        assert!(matches!(check(&gate, "http://2130706433/a"), Err(Refusal::Address { kind: Special::Loopback, .. })));
    }

    #[test]
    fn special_addresses_open_to_whoever_names_them_and_many_machines_to_nobody() {
        assert_eq!(check(&gate(&["127.0.0.1:8080"]), "http://127.0.0.1:8080/"), Ok(()));
        assert!(check(&gate(&["127.0.0.1:8080"]), "http://127.0.0.1:8081/").is_err());
        assert!(check(&gate(&["*"]), "http://127.0.0.1:8080/").is_err());
        assert_eq!(check(&gate(&["[::1]"]), "http://[0:0::1]:8080/"), Ok(()));
        let loopback = "127.0.0.1".parse().expect("an address");
        assert_eq!(gate(&["localhost:80"]).check_address("localhost", 80, loopback), Ok(()));
        // A publisher's name that leads here was named by nobody.
        assert!(gate(&["cdn.test:80"]).check_address("cdn.test", 80, loopback).is_err());
        assert_eq!(gate(&["cdn.test:80", "127.0.0.1:80"]).check_address("cdn.test", 80, loopback), Ok(()));
        let mut open = gate(&["*"]);
        let many = Url::parse("http://224.0.0.1/").expect("a URL");
        open.give(&many);
        assert!(open.check(&many).is_err());
    }

    #[test]
    fn a_given_url_passes_with_its_port_only() {
        let mut gate = gate(&["cdn.test"]);
        gate.give(&Url::parse("http://127.0.0.1:8080/x").expect("a URL"));
        assert_eq!(check(&gate, "http://127.0.0.1:8080/y"), Ok(()));
        assert!(check(&gate, "http://127.0.0.1:8081/y").is_err());
        assert!(matches!(check(&gate, "http://other.test/"), Err(Refusal::NotAllowed { .. })));
        assert_eq!(check(&gate, "https://cdn.test./"), Ok(()));
    }
}
