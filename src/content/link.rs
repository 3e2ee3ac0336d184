//! Links: what to get, and where it might be asked for, in one line of text.
//!
//! `piecework:<content id>` or `piecework:manifest:<manifest id>`, then optionally `?peer=MULTIADDR&source=URL`, both
//! percent-encoded and repeatable. Peers stay text here: what a multiaddress is, the transport knows.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::content::error::{Error, shown};
use crate::content::hash::{ContentId, ManifestId};
use crate::content::rules::check_url;

/// Most peers, and most sources.
pub const HINTS_MAX: usize = 32;
/// Longest multiaddress, in bytes.
pub const PEER_BYTES_MAX: usize = 1024;
/// Longest link, in bytes.
pub const LINK_BYTES_MAX: usize = 64 << 10;

/// What stays readable within a value; all else is percent-encoded.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b':');

/// What a link asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One file's bytes, whoever lists them.
    Content(ContentId),
    /// One exact manifest.
    Manifest(ManifestId),
}

/// A link, parsed whole. Peers and sources are hints of a stranger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What to get.
    pub target: Target,
    /// Multiaddresses, in order, as text.
    pub peers: Vec<String>,
    /// HTTP URLs, in order.
    pub sources: Vec<String>,
}

impl Link {
    /// Whether a text means to be a link; anything else on a command line is a file or a URL.
    pub fn is_link(text: &str) -> bool {
        text.get(..10).is_some_and(|scheme| scheme.eq_ignore_ascii_case("piecework:"))
    }
}

fn refuse(expected: &'static str, found: &str) -> Error {
    Error::Link { expected, found: shown(found) }
}

impl FromStr for Link {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > LINK_BYTES_MAX {
            return Err(refuse("at most 64 KiB", text));
        }
        if !Self::is_link(text) {
            return Err(refuse("the scheme piecework:", text));
        }
        let rest = text.get(10..).unwrap_or_default();
        let (id, query) = rest.split_once('?').map_or((rest, None), |(id, query)| (id, Some(query)));
        let fault = |_| refuse("64 hexadecimal digits, after \"manifest:\" for a manifest", id);
        let target = match id.strip_prefix("manifest:") {
            Some(id) => Target::Manifest(id.parse().map_err(fault)?),
            None => Target::Content(id.parse().map_err(fault)?),
        };
        let mut link = Self { target, peers: Vec::new(), sources: Vec::new() };
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            link.take(pair)?;
        }
        Ok(link)
    }
}

impl Link {
    fn take(&mut self, pair: &str) -> Result<(), Error> {
        let expected = "peer=MULTIADDR or source=URL, percent-encoded";
        let (key, value) = pair.split_once('=').ok_or_else(|| refuse(expected, pair))?;
        if !is_encoded(value) {
            return Err(refuse(expected, pair));
        }
        let value = percent_decode_str(value).decode_utf8().map_err(|_| refuse(expected, pair))?;
        let list = match key {
            "peer" => {
                let printable = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
                if !printable || value.len() > PEER_BYTES_MAX {
                    return Err(refuse("a multiaddress in printable ASCII", pair));
                }
                &mut self.peers
            }
            "source" => {
                check_url(&value).map_err(|_| refuse("an http or https URL", pair))?;
                &mut self.sources
            }
            _ => return Err(refuse(expected, pair)),
        };
        if list.len() >= HINTS_MAX {
            return Err(refuse("at most 32 peers and 32 sources", pair));
        }
        list.push(value.into_owned());
        Ok(())
    }
}

/// Whether every percent sign starts an escape, and nothing is there that an escape should stand for.
fn is_encoded(value: &str) -> bool {
    let escapes = value
        .split('%')
        .skip(1)
        .all(|rest| rest.get(..2).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())));
    escapes && value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'&' | b'"' | b'<' | b'>'))
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            Target::Content(id) => write!(f, "piecework:{id}")?,
            Target::Manifest(id) => write!(f, "piecework:manifest:{id}")?,
        }
        let peers = self.peers.iter().map(|value| ("peer", value));
        let sources = self.sources.iter().map(|value| ("source", value));
        for (position, (key, value)) in peers.chain(sources).enumerate() {
            let before = if position == 0 { '?' } else { '&' };
            write!(f, "{before}{key}={}", utf8_percent_encode(value, ENCODED))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn both_forms_read_and_print() {
        for (text, peers, sources) in [
            (format!("piecework:{ID}"), 0, 0),
            (format!("piecework:manifest:{ID}"), 0, 0),
            (format!("piecework:{ID}?peer=/ip4/192.0.2.1/tcp/7680"), 1, 0),
            (format!("piecework:{ID}?peer=/dns/a/tcp/1&peer=/dns/b/tcp/2&source=http://a/b%3Fc%3Dd%26e"), 2, 1),
        ] {
            let link: Link = text.parse().expect("a link");
            assert_eq!((link.peers.len(), link.sources.len()), (peers, sources));
            assert_eq!(link.to_string(), text);
        }
        let link: Link =
            format!("PieceWork:{}?source=http%3a%2F%2fa%2fb%3fc%3Dd%26e", ID.to_uppercase()).parse().expect("a link");
        assert_eq!(
            (link.sources[0].as_str(), link.to_string()),
            ("http://a/b?c=d&e", format!("piecework:{ID}?source=http://a/b%3Fc%3Dd%26e"))
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let many = vec!["peer=/a"; 33].join("&");
        for text in [
            "",
            "piecework:",
            "piecework",
            ID,
            "http://a",
            "piecewörk:x",
            &format!("piecework:{}", &ID[1..]),
            &format!("piecework:{ID}0"),
            &format!("piecework:manifest{ID}"),
            &format!("piecework:Manifest:{ID}"),
            &format!("piecework://{ID}"),
            &format!("piecework:{ID}?"),
            &format!("piecework:{ID}?peer"),
            &format!("piecework:{ID}?peer="),
            &format!("piecework:{ID}?peer=a&"),
            &format!("piecework:{ID}?other=a"),
            &format!("piecework:{ID}?peer=a b"),
            &format!("piecework:{ID}?peer=%0a"),
            &format!("piecework:{ID}?peer=%"),
            &format!("piecework:{ID}?peer=%zz"),
            &format!("piecework:{ID}?peer=%ff"),
            &format!("piecework:{ID}?source=ftp://a"),
            &format!("piecework:{ID}?source=file:///etc"),
            &format!("piecework:{ID}?source=http://u:p%40a"),
            &format!("piecework:{ID}?peer=a#b"),
            &format!("piecework:{ID}?{many}"),
            &format!("piecework:{ID}?peer={}", "a".repeat(1025)),
            &format!("piecework:{ID}?peer={}", "a".repeat(70_000)),
        ] {
            assert!(text.parse::<Link>().is_err(), "{}", shown(text));
        }
    }

    proptest! {
        #[test]
        fn links_round_trip(id: [u8; 32], whole: bool, peers in proptest::collection::vec("[!-~]{1,40}", 0..4), paths in proptest::collection::vec("[!-~]{0,40}", 0..4)) {
            let target = if whole { Target::Manifest(ManifestId::new(id)) } else { Target::Content(ContentId::new(id)) };
            let sources = paths.iter().map(|path| format!("http://host/{path}")).collect();
            let link = Link { target, peers, sources };
            prop_assert_eq!(link.to_string().parse::<Link>(), Ok(link));
        }
    }
}
