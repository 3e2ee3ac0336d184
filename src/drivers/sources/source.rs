//! One URL of a file, and what was learnt of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ETAG, HeaderMap, LAST_MODIFIED};
use url::Url;

use crate::drivers::sources::error::{Change, Error};

/// Longest URL of a source.
const URL_BYTES_MAX: usize = 8 * 1024;
/// Longest validator kept.
const VALIDATOR_BYTES_MAX: usize = 256;
/// Addresses behind a redirect whose validators are kept; a redirector that signs each URL anew fills it.
const VALIDATORS_MAX: usize = 8;

/// What a path component keeps: the unreserved characters of RFC 3986.
pub(crate) const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One URL at which the exact file should lie.
#[derive(Debug)]
pub struct Source {
    url: Url,
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Default)]
struct Learnt {
    serves_ranges: Option<bool>,
    total: Option<u64>,
    /// By the URL that answered in the end, since each server behind a redirect has its own.
    validators: BTreeMap<String, Validators>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Validators {
    strong_etag: Option<String>,
    last_modified: Option<String>,
    /// Two servers answer for one URL and give it different tags; `If-Range` would only get whole files.
    disagree: bool,
}

impl Validators {
    /// Those of a response. A weak tag promises no equal bytes and is left out.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let text = |name| {
            let value = headers.get(name)?.to_str().ok()?;
            (!value.is_empty() && value.len() <= VALIDATOR_BYTES_MAX).then(|| value.to_owned())
        };
        let strong_etag = text(ETAG).filter(|tag| tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"'));
        Self { strong_etag, last_modified: text(LAST_MODIFIED), disagree: false }
    }
}

impl Source {
    /// A source at this URL. Whether it may be fetched is the gate's question, at each request.
    ///
    /// # Errors
    /// [`Error::BadUrl`] where it does not parse, is not http or https, or is longer than 8 KiB.
    pub fn new(url: &str) -> Result<Self, Error> {
        Ok(Self { url: parse_url(url)?, learnt: Mutex::default() })
    }

    /// Its URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its URL for people and logs: without credentials, query and fragment.
    pub fn shown(&self) -> String {
        shown(&self.url)
    }

    /// Whether it serves ranges; `None` before the first answer.
    pub fn serves_ranges(&self) -> Option<bool> {
        self.learnt().serves_ranges
    }

    /// The file's length as last told by the server.
    pub fn total(&self) -> Option<u64> {
        self.learnt().total
    }

    /// Strong tag for `If-Range`, if the server at `url` gave one and stands by it.
    pub(crate) fn if_range(&self, url: &Url) -> Option<String> {
        let learnt = self.learnt();
        let validators = learnt.validators.get(url.as_str()).filter(|validators| !validators.disagree)?;
        validators.strong_etag.clone()
    }

    /// Notes what an answer for `url` showed, and compares its validators with those of the first answer.
    ///
    /// # Errors
    /// The change, where both tag and date differ. A tag that differs alone is another server of the same name; the
    /// hashes judge its bytes.
    pub(crate) fn learn(&self, url: &Url, now: Validators, ranges: Option<bool>, total: u64) -> Result<(), Change> {
        let mut learnt = self.learnt();
        learnt.serves_ranges = ranges.or(learnt.serves_ranges);
        learnt.total = Some(total);
        let Some(before) = learnt.validators.get_mut(url.as_str()) else {
            if learnt.validators.len() >= VALIDATORS_MAX {
                learnt.validators.clear();
            }
            learnt.validators.insert(url.as_str().to_owned(), now);
            return Ok(());
        };
        let tags = before.strong_etag.as_ref().zip(now.strong_etag.as_ref()).filter(|(was, is)| was != is);
        let Some((was, is)) = tags else {
            return Ok(());
        };
        let dates = before.last_modified.as_ref().zip(now.last_modified.as_ref());
        if dates.is_some_and(|(was, is)| was == is) {
            before.disagree = true;
            return Ok(());
        }
        Err(Change::Validator { expected: was.clone(), found: is.clone() })
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        // What is learnt is whole after each statement, so a panic elsewhere does not spoil it.
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a URL of a source.
pub(crate) fn parse_url(text: &str) -> Result<Url, Error> {
    let bad = |why: String| Error::BadUrl { url: shown_text(text), why };
    if text.len() > URL_BYTES_MAX {
        return Err(bad(format!("it has {} bytes, at most {URL_BYTES_MAX} are read", text.len())));
    }
    let url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!("its scheme is {:?}; http and https are fetched", url.scheme())));
    }
    Ok(url)
}

/// The URL of a manifest's file: `base` itself, or where its path ends in `/` the percent-encoded `path` below it.
///
/// # Errors
/// [`Error::BadUrl`] where the base does not parse, or the path has an empty, `.` or `..` component.
pub fn expand_base(base: &str, path: &str) -> Result<String, Error> {
    let mut url = parse_url(base)?;
    let is_base = url.path().ends_with('/') && url.query().is_none();
    if !is_base {
        return Ok(base.to_owned());
    }
    if path.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return Err(Error::BadUrl { url: shown_text(base), why: format!("no file below it can be named {path:?}") });
    }
    let below: Vec<_> =
        path.split('/').map(|component| utf8_percent_encode(component, COMPONENT).to_string()).collect();
    url.set_fragment(None);
    Ok(format!("{url}{}", below.join("/")))
}

/// A URL without what may be secret in it: credentials, query, fragment.
pub(crate) fn shown(url: &Url) -> String {
    let mut plain = url.clone();
    // Refused by URLs that can have none anyway.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain.set_fragment(None);
    let had_query = plain.query().is_some();
    plain.set_query(None);
    if had_query { format!("{plain}?...") } else { plain.to_string() }
}

/// The same for text that may not parse.
pub(crate) fn shown_text(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) => shown(&url).chars().take(256).collect(),
        // Whatever stands before an `@` may be a password.
        Err(_) => {
            let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
            text.split(['?', '#']).next().unwrap_or_default().chars().take(256).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validators(etag: &str, date: &str) -> Validators {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Validators { strong_etag: some(etag), last_modified: some(date), disagree: false }
    }

    #[test]
    fn a_base_takes_the_path_and_a_file_url_stays_as_it_is() {
        let expand = |base, path| expand_base(base, path).expect("expands");
        assert_eq!(expand("http://h.test/d/", "a b/ü#?%.bin"), "http://h.test/d/a%20b/%C3%BC%23%3F%25.bin");
        assert_eq!(expand("http://h.test", "x"), "http://h.test/x");
        assert_eq!(expand("http://h.test/file.bin", "x"), "http://h.test/file.bin");
        assert_eq!(expand("http://h.test/d/?q=/", "x"), "http://h.test/d/?q=/");
        for path in ["", "../x", "a//b", "./a", "a/.."] {
            assert!(expand_base("http://h.test/d/", path).is_err(), "{path:?}");
        }
        assert!(expand_base("file:///etc/", "passwd").is_err());
    }

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        let shown = |text| Source::new(text).expect("parses").shown();
        assert_eq!(shown("http://user:word@h.test/p?token=1#frag"), "http://h.test/p?...");
        assert_eq!(shown_text("htp//user:word@h.test/p?token=1"), "h.test/p");
    }

    #[test]
    fn tag_and_date_together_tell_a_change_and_a_tag_alone_another_server() {
        let source = Source::new("http://h.test/f").expect("parses");
        let url = source.url().clone();
        assert_eq!(source.learn(&url, validators("\"a\"", "Mon"), Some(true), 5), Ok(()));
        assert_eq!(source.if_range(&url).as_deref(), Some("\"a\""));
        assert!(source.learn(&url, validators("\"b\"", "Tue"), Some(true), 5).is_err());
        assert!(source.learn(&url, validators("\"b\"", ""), Some(true), 5).is_err());
        assert_eq!(source.learn(&url, validators("\"b\"", "Mon"), Some(true), 5), Ok(()));
        assert_eq!(source.if_range(&url), None);
    }

    #[test]
    fn weak_tags_are_no_validators() {
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, "W/\"a\"".parse().expect("a value"));
        assert_eq!(Validators::read(&headers), Validators::default());
    }
}
