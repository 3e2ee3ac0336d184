//! What an HTTP source did, or what could not be asked of it.

use std::time::Duration;

use crate::content::code::Code;
use crate::content::layout::ByteRange;
use crate::drivers::sources::gate::Refusal;
use crate::swarm::event::SourceFault;

/// Whose failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The server's, or that of the way to it.
    Source,
    /// This machine's: its configuration, or a question that made no sense.
    Local,
}

/// How an answer differs from the file that the manifest describes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Change {
    /// Another length.
    #[error("the manifest's file has {expected} bytes, the server's {found}{kind}")]
    Length {
        /// By the manifest.
        expected: u64,
        /// By the server.
        found: u64,
        /// " (text/html)" where the type suggests a page in the file's place, else nothing.
        kind: &'static str,
    },
    /// Another version than the one that earlier ranges came from.
    #[error("its ETag was {expected} and is {found} now")]
    Validator {
        /// At first.
        expected: String,
        /// Now.
        found: String,
    },
}

/// What was waited for when time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stage {
    /// A connection, or the answer's head.
    #[error("no answer")]
    Head,
    /// The next bytes of the body.
    #[error("no further byte")]
    Body,
    /// Bytes came, but too few.
    #[error("fewer than {bytes_min} bytes/s")]
    Rate {
        /// The least that is accepted.
        bytes_min: u64,
    },
}

/// What is wrong with a redirect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectFault {
    /// More hops than are followed.
    #[error("more than {hops_max} redirects")]
    TooMany {
        /// The bound.
        hops_max: usize,
    },
    /// Back to where it came from.
    #[error("the redirects go in a circle")]
    Circle,
    /// No URL to go to.
    #[error("the redirect names no URL that parses")]
    NoLocation,
}

/// Why a source did not deliver. URLs in it carry neither credentials nor query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a URL of a source.
    #[error("{url} is no URL of a source: {why}")]
    BadUrl {
        /// As far as it may be shown.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The gate refused the URL, a redirect's URL, or every address of its name.
    #[error("{url} is not fetched: {refusal}")]
    Gate {
        /// Which.
        url: String,
        /// Why.
        refusal: Refusal,
    },
    /// A range outside of the file, or empty.
    #[error("bytes {offset}+{length} of {url} were asked for, the file has {file_length}", offset = asked.offset, length = asked.length)]
    OutOfFile {
        /// Which.
        url: String,
        /// What was asked for.
        asked: ByteRange,
        /// By the manifest.
        file_length: u64,
    },
    /// The HTTP client cannot be set up: certificates, proxies.
    #[error("HTTP sources cannot be used: {why}")]
    Setup {
        /// As the client says.
        why: String,
    },
    /// No name, no connection, no TLS, or a connection that broke before the answer.
    #[error("{url} cannot be reached: {why}")]
    Unreachable {
        /// Which.
        url: String,
        /// The chain of causes.
        why: String,
    },
    /// Too slow or silent.
    #[error("{url}: {stage} within {waited:?}")]
    TimedOut {
        /// Which.
        url: String,
        /// What was waited for.
        stage: Stage,
        /// How long.
        waited: Duration,
    },
    /// 408, 425, 429, or a server error.
    #[error("{url} answers {status}{wait}", wait = retry_after.map_or(String::new(), |wait| format!(", to be asked again in {wait:?}")))]
    Busy {
        /// Which.
        url: String,
        /// As answered.
        status: u16,
        /// The server's wish, at most an hour.
        retry_after: Option<Duration>,
    },
    /// Another status than 200, 206 or a redirect.
    #[error("{url} answers {status}")]
    Status {
        /// Which.
        url: String,
        /// As answered.
        status: u16,
    },
    /// A redirect that cannot be followed.
    #[error("{url}: {fault}")]
    Redirect {
        /// The first URL.
        url: String,
        /// What is wrong.
        fault: RedirectFault,
    },
    /// A body compressed although that was not asked for: no range of the file's bytes.
    #[error("{url} sends the file encoded as {encoding:?}; it was asked for the bytes as they lie")]
    Compressed {
        /// Which.
        url: String,
        /// As found.
        encoding: String,
    },
    /// A 206 whose range is not the asked one.
    #[error("{url} was asked for bytes {first}-{last} and answers {found:?}", first = asked.offset, last = asked.end().saturating_sub(1))]
    WrongRange {
        /// Which.
        url: String,
        /// What was asked for.
        asked: ByteRange,
        /// `Content-Range` or what stands in its place.
        found: String,
    },
    /// Another file than the manifest's.
    #[error("{url} does not hold the manifest's file: {change}")]
    Changed {
        /// Which.
        url: String,
        /// In what.
        change: Change,
    },
    /// The body ended early.
    #[error("{url}: the body ended at byte {found} of {expected}")]
    Truncated {
        /// Which.
        url: String,
        /// Where it should have ended, as an offset in the file.
        expected: u64,
        /// Where it ended.
        found: u64,
    },
    /// More bytes than the answer's head promised; those beyond were dropped.
    #[error("{url}: the body goes on after byte {promised}, where it should have ended")]
    Overlong {
        /// Which.
        url: String,
        /// The promised end, as an offset in the file.
        promised: u64,
    },
    /// A document larger than what is read of it.
    #[error("{url} is larger than the {bytes_max} bytes that are read of such a document")]
    TooLarge {
        /// Which.
        url: String,
        /// The bound.
        bytes_max: u64,
    },
    /// Object storage answered with something else than a listing.
    #[error("{url} answers with something that is no listing of a bucket")]
    BadListing {
        /// Which.
        url: String,
    },
}

impl Error {
    /// What the engine is told.
    pub fn fault(&self) -> SourceFault {
        match self {
            Self::Unreachable { .. } => SourceFault::Unreachable,
            Self::TimedOut { .. } => SourceFault::TimedOut,
            Self::Busy { .. } => SourceFault::Busy,
            Self::Truncated { .. } => SourceFault::Truncated,
            Self::Changed { .. } => SourceFault::Changed,
            _ => SourceFault::Refused,
        }
    }

    /// Whether the same question may find another answer later.
    pub fn retry(&self) -> bool {
        matches!(
            self.fault(),
            SourceFault::Unreachable | SourceFault::TimedOut | SourceFault::Busy | SourceFault::Truncated
        )
    }

    /// When to ask again at the earliest, where the server said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whose failure it was.
    pub fn blame(&self) -> Blame {
        match self {
            Self::BadUrl { .. } | Self::OutOfFile { .. } | Self::Setup { .. } => Blame::Local,
            _ => Blame::Source,
        }
    }

    /// Code word where this is the last word on a download.
    pub fn code(&self) -> Code {
        match self {
            Self::BadUrl { .. } => Code::BadInput,
            Self::Gate { .. } => Code::OriginNotAllowed,
            Self::Setup { .. } => Code::BadConfig,
            Self::Changed { .. } => Code::SourceChanged,
            Self::WrongRange { .. } | Self::Overlong { .. } | Self::Compressed { .. } | Self::BadListing { .. } => {
                Code::Protocol
            }
            Self::TooLarge { .. } => Code::BadManifest,
            Self::OutOfFile { .. } => Code::WrongLength,
            _ => Code::NoSource,
        }
    }
}
