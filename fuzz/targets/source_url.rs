//! URLs of sources before the gate: the last line is a URL, those before it are the patterns of allowed origins. What
//! passes goes to http or https, without credentials, and never to an address that nobody named.

use std::net::IpAddr;

use piecework::content::pattern::{OriginPattern, OriginRules};
use piecework::drivers::sources::{Gate, Source, expand_base, special_kind};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (patterns, url) = text.rsplit_once('\n').unwrap_or(("", text));
    if let Ok(below) = expand_base(url, "a b/ü") {
        assert!(Source::new(&below).is_ok() || below == url, "{below}");
    }
    let Ok(source) = Source::new(url) else { return };
    let patterns = patterns.lines().filter_map(|line| OriginPattern::new(line).ok()).collect();
    let strict = Gate::new(OriginRules { patterns });
    for gate in [Gate::default(), strict.clone()] {
        if gate.check(source.url()).is_ok() {
            assert!(matches!(source.url().scheme(), "http" | "https"));
            assert!(source.url().username().is_empty() && source.url().password().is_none());
        }
    }
    let host = source.url().host_str().unwrap_or_default().trim_matches(['[', ']']);
    if let Ok(address) = host.parse::<IpAddr>()
        && let Some(kind) = special_kind(address)
    {
        assert!(Gate::default().check(source.url()).is_err(), "{url} leads to {kind}");
        assert!(kind.may_be_named() || strict.check(source.url()).is_err(), "{url} leads to {kind}");
    }
}
