//! Patterns of the trust store: `*` is any run of characters, '/' included; everything else stands for itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::content::error::{Error, shown};
use crate::content::path::is_plain;

/// Longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 255;

/// Whether `text` fits `pattern`. Each literal run is searched once, from where the last one ended: leftmost is always
/// right where a `*` stands before, so nothing is ever tried again.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = text.strip_suffix(tail) else { return false };
    for run in middle.split('*').filter(|run| !run.is_empty()) {
        let Some((_, after)) = text.split_once(run) else { return false };
        text = after;
    }
    true
}

fn refuse(what: &str, text: &str) -> Error {
    Error::TrustStore { reason: format!("{what} may not be {:?}", shown(text)) }
}

/// Names that a publisher may sign for; case matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern(String);

impl NamePattern {
    /// Takes a pattern of printable text.
    ///
    /// # Errors
    /// [`Error::TrustStore`] for an empty or longer one, or one with characters that no name has.
    pub fn new(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX || text.trim() != text || !text.chars().all(is_plain) {
            return Err(refuse("a name pattern", text));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether a manifest's name fits.
    pub fn matches(&self, name: &str) -> bool {
        fits(&self.0, name)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `host[:port]` from which a publisher's sources may be fetched; without a port, any. IPv6 addresses stand in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OriginPattern {
    /// Lower case.
    host: String,
    /// Digits with `*`; `*` where none was given.
    port: String,
}

impl OriginPattern {
    /// Takes a pattern; case does not matter.
    ///
    /// # Errors
    /// [`Error::TrustStore`] for what cannot be a host and a port.
    pub fn new(text: &str) -> Result<Self, Error> {
        let shape = |c: char| c.is_ascii_alphanumeric() || "*.-_:[]".contains(c);
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX || !text.chars().all(shape) {
            return Err(refuse("an origin pattern", text));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (text, "*"),
        };
        let host_fits =
            !host.is_empty() && (!host.contains([':', '[', ']']) || host.starts_with('[') && host.ends_with(']'));
        let port_fits = !port.is_empty() && port.len() <= 8 && port.chars().all(|c| c.is_ascii_digit() || c == '*');
        if !host_fits || !port_fits {
            return Err(refuse("an origin pattern", text));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port: port.to_owned() })
    }

    /// Whether a URL's host (an IPv6 address in brackets) and port fit.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        fits(&self.port, &port.to_string()) && fits(&self.host, &plain_host(host))
    }

    /// Whether this pattern was meant for the very host: literally, or as a range of addresses. What a name under
    /// somebody's wildcard resolves to is theirs to choose, so a wildcard names no address of this machine.
    fn names(&self, host: &str, port: u16) -> bool {
        let literal = !self.host.contains('*');
        let range = !self.host.chars().all(|c| c == '*') && address_of(&plain_host(host)).is_some();
        self.matches(host, port) && (literal || range)
    }
}

/// Lower case, without the dot of the root.
fn plain_host(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.to_ascii_lowercase()
}

fn address_of(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse().ok()
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.port != "*" { write!(f, ":{}", self.port) } else { Ok(()) }
    }
}

/// From where a publisher's sources may be fetched. Empty: every host, but nothing on this machine or link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginRules {
    /// The patterns, if any were given.
    pub patterns: Vec<OriginPattern>,
}

impl OriginRules {
    /// Whether a host may be looked up at all; its addresses are asked about by [`OriginRules::allows`].
    pub fn allows_host(&self, host: &str, port: u16) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.matches(host, port))
    }

    /// Whether a URL's host and port may be asked at the address it resolved to. Loopback and link-local addresses must
    /// be named by a pattern.
    pub fn allows(&self, host: &str, port: u16, address: IpAddr) -> bool {
        if is_local(address) {
            return self.patterns.iter().any(|pattern| pattern.names(host, port));
        }
        self.allows_host(host, port)
    }
}

/// Whether an address means this machine or this link, in whatever disguise: unspecified ones reach loopback, and IPv4
/// may be wrapped in IPv6 (mapped, compatible, NAT64, 6to4).
pub fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_local_v4(v4),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || wrapped(v6).is_some_and(is_local_v4)
        }
    }
}

fn is_local_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    address.is_loopback() || address.is_link_local() || first == 0
}

fn wrapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(join(high, low))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook definition, exponential.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                slow(rest, text) || text.split_first().is_some_and(|(_, text)| slow(pattern, text))
            }
            (Some((one, pattern)), Some((two, text))) => one == two && slow(pattern, text),
            _ => false,
        }
    }

    #[test]
    fn a_star_is_any_run_and_all_else_is_literal() {
        for (pattern, text, expected) in [
            ("acme/*", "acme/app/linux", true),
            ("acme/*", "acme/", true),
            ("acme/*", "acme", false),
            ("acme/*", "evil/acme/x", false),
            ("acme/*", "Acme/x", false),
            ("a?c", "abc", false),
            ("a.c", "abc", false),
            ("[ab]", "a", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("*b*", "abc", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_long_row_of_stars_is_answered_at_once() {
        let pattern = "*a".repeat(127);
        assert!(fits(&pattern, &"a".repeat(255)));
        assert!(!fits(&format!("{pattern}b"), &"a".repeat(255)));
    }

    fn rules(patterns: &[&str]) -> OriginRules {
        OriginRules { patterns: patterns.iter().map(|text| OriginPattern::new(text).expect("a pattern")).collect() }
    }

    #[test]
    fn origins_match_host_and_port() {
        for (pattern, host, port, expected) in [
            ("cdn.example.com", "cdn.example.com", 8080, true),
            ("CDN.example.com:443", "cdn.Example.com.", 443, true),
            ("cdn.example.com:443", "cdn.example.com", 80, false),
            ("*.example.com", "a.b.example.com", 80, true),
            ("*.example.com", "example.com", 80, false),
            ("127.0.0.1:*", "127.0.0.1", 1, true),
            ("[::1]:8000", "[::1]", 8000, true),
            ("[::1]", "[::1]", 8000, true),
            ("h:80*", "h", 8080, true),
        ] {
            assert_eq!(OriginPattern::new(pattern).expect("a pattern").matches(host, port), expected, "{pattern}");
        }
        for text in ["", ":80", "a:", "a/b", "a@b", "http://a", "a b", "::1", "[::1", "a]", "a:b", "a:1:2", "é"] {
            assert!(OriginPattern::new(text).is_err(), "{text}");
        }
        for text in ["a", "a:80", "*.b:8*", "[::1]", "[fe80::*]:80"] {
            assert_eq!(OriginPattern::new(text).expect("a pattern").to_string(), text);
        }
    }

    #[test]
    fn this_machine_must_be_named() {
        let outside: IpAddr = "192.0.2.1".parse().expect("an address");
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            let address = address.parse().expect("an address");
            assert!(!rules(&[]).allows("example.com", 80, address), "{address}");
            assert!(!rules(&["*"]).allows("127.0.0.1", 80, address), "{address}");
            assert!(!rules(&["*.com"]).allows("example.com", 80, address), "{address}");
            assert!(!rules(&["127.*"]).allows("127.evil.com", 80, address), "{address}");
            assert!(rules(&["localhost"]).allows("localhost", 80, address), "{address}");
            assert!(rules(&["x", "127.*:80"]).allows("127.0.0.1", 80, address), "{address}");
        }
        assert!(rules(&[]).allows("example.com", 80, outside));
        assert!(rules(&["*"]).allows("example.com", 80, outside));
        assert!(!rules(&["example.org"]).allows("example.com", 80, outside));
    }

    proptest! {
        #[test]
        fn globbing_agrees_with_its_definition(pattern in "[ab*/]{0,8}", text in "[ab/]{0,10}") {
            prop_assert_eq!(fits(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
