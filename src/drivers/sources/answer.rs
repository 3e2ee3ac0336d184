//! The heads of answers, held against what was asked and what the manifest says.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use reqwest::{Response, StatusCode, Version};
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use crate::content::layout::ByteRange;
use crate::drivers::sources::body::Promise;
use crate::drivers::sources::error::{Change, Error};
use crate::drivers::sources::head::{ContentRange, content_range, decimal, is_identity, retry_after};
use crate::drivers::sources::source::{Source, Validators, shown};

/// The answer to a request, wherever redirects led.
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) url: Url,
    /// It was asked with `If-Range`.
    pub(crate) conditional: bool,
    pub(crate) slot: OwnedSemaphorePermit,
}

/// What an answer's head comes to.
pub(crate) enum Judged {
    /// A body follows.
    Promise(Promise),
    /// The condition was not met although the file may be the same.
    AskPlainly,
}

/// Holds the head of an answer against what was asked and what the manifest says.
pub(crate) fn judge(source: &Source, asked: ByteRange, file_length: u64, answer: &Answer) -> Result<Judged, Error> {
    let url = shown(&answer.url);
    let headers = answer.response.headers();
    let length = content_length(headers);
    let changed = |change| Error::Changed { url: shown(&answer.url), change };
    let other_length = |found| changed(Change::Length { expected: file_length, found, kind: page_kind(headers) });
    match answer.response.status() {
        StatusCode::PARTIAL_CONTENT => {
            refuse_encoding(headers, &url)?;
            let wrong = |found: String| Error::WrongRange { url: shown(&answer.url), asked, found };
            let (first, last, total) = match one(headers, CONTENT_RANGE).and_then(content_range) {
                Some(ContentRange::Bytes { first, last, total }) => (first, last, total),
                _ => return Err(wrong(range_text(headers))),
            };
            if let Some(total) = total.filter(|total| *total != file_length) {
                return Err(other_length(total));
            }
            if first != asked.offset || last >= asked.end() {
                return Err(wrong(range_text(headers)));
            }
            let end = last.saturating_add(1);
            if let Some(length) = length.filter(|length| *length != end.saturating_sub(first)) {
                return Err(wrong(format!("{} in {length} bytes", range_text(headers))));
            }
            source.learn(&answer.url, Validators::read(headers), Some(true), file_length).map_err(changed)?;
            Ok(Judged::Promise(Promise {
                url,
                start: first,
                end,
                asked_end: asked.end(),
                open_ended: length.is_none(),
                end_tells_length: false,
                whole_file: false,
            }))
        }
        StatusCode::OK => {
            refuse_encoding(headers, &url)?;
            if let Some(found) = length.filter(|length| *length != file_length) {
                return Err(other_length(found));
            }
            // To a conditional request a whole file says nothing about ranges.
            let ranges = (!answer.conditional).then_some(false);
            source.learn(&answer.url, Validators::read(headers), ranges, file_length).map_err(changed)?;
            if answer.conditional && source.if_range(&answer.url).is_none() {
                return Ok(Judged::AskPlainly);
            }
            let framed = answer.response.version() == Version::HTTP_2 || headers.contains_key(TRANSFER_ENCODING);
            Ok(Judged::Promise(Promise {
                url,
                start: 0,
                end: file_length,
                asked_end: asked.end(),
                open_ended: length.is_none(),
                end_tells_length: length.is_none() && framed,
                whole_file: true,
            }))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => match one(headers, CONTENT_RANGE).and_then(content_range) {
            Some(ContentRange::Unsatisfied { total }) if total != file_length => Err(other_length(total)),
            _ => Err(Error::Status { url, status: 416 }),
        },
        status => Err(Error::Status { url, status: status.as_u16() }),
    }
}

pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Statuses that time may mend.
pub(crate) fn refuse_busy(response: &Response, url: &Url) -> Result<(), Error> {
    let status = response.status().as_u16();
    // Not implemented and version not supported stay so.
    let busy = matches!(status, 408 | 425 | 429) || (status >= 500 && !matches!(status, 501 | 505));
    if !busy {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let wish = one(response.headers(), RETRY_AFTER).and_then(|value| retry_after(value, now));
    Err(Error::Busy { url: shown(url), status, retry_after: wish })
}

pub(crate) fn refuse_encoding(headers: &HeaderMap, url: &str) -> Result<(), Error> {
    match headers.get_all(CONTENT_ENCODING).iter().find(|value| !is_identity(value.as_bytes())) {
        None => Ok(()),
        Some(value) => Err(Error::Compressed { url: url.to_owned(), encoding: printable(value) }),
    }
}

/// The value of a header that came once.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    std::str::from_utf8(one(headers, CONTENT_LENGTH)?).ok().and_then(decimal)
}

fn range_text(headers: &HeaderMap) -> String {
    match (headers.get(CONTENT_RANGE), headers.get(CONTENT_TYPE)) {
        (Some(range), _) => printable(range),
        (None, Some(kind)) => format!("no Content-Range, {}", printable(kind)),
        (None, None) => "no Content-Range".to_owned(),
    }
}

/// Says so where what came looks like a page about the file.
fn page_kind(headers: &HeaderMap) -> &'static str {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if kind.to_ascii_lowercase().starts_with(b"text/html") { " (a text/html page)" } else { "" }
}

/// A header value for people: bounded, without control characters.
fn printable(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}
