//! What this room refuses, and by which code word. Texts of strangers are shown escaped and cut.

use crate::content::code::Code;
use crate::content::hash::{ContentId, KeyId};
use crate::content::layout::TooLong;
use crate::content::now::Now;
use crate::content::path::{Collision, PathFault};

/// Bytes or text that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More bytes or items than allowed.
    #[error("{what}: at most {max} allowed, found {found}")]
    OverLimit {
        /// What was counted, with its unit.
        what: &'static str,
        /// The bound.
        max: u64,
        /// What was found, or where counting stopped.
        found: u64,
    },
    /// A manifest or envelope that is not a protobuf message of its kind.
    #[error("the {what} does not parse: {reason}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A field of a manifest or envelope that breaks its rule.
    #[error("{what}: expected {expected}, found {found:?}")]
    Field {
        /// Which field.
        what: &'static str,
        /// Its rule.
        expected: &'static str,
        /// What was found, cut to 80 characters.
        found: String,
    },
    /// A path that is not safe below a destination.
    #[error("the path {path:?} is refused: {fault}")]
    UnsafePath {
        /// The path, cut to 80 characters.
        path: String,
        /// Why.
        fault: PathFault,
    },
    /// Paths that cannot stand side by side.
    #[error(transparent)]
    Collision(#[from] Collision),
    /// A file longer than any content may be.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Another number of piece hashes than the file's length asks for.
    #[error("the file {path:?} needs {expected} bytes of piece hashes, found {found}")]
    PieceHashes {
        /// The file.
        path: String,
        /// 32 bytes a piece.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Piece hashes that do not merge to the content id.
    #[error("the pieces of the file {path:?} merge to {found}, not to its content id {expected}")]
    DoesNotMerge {
        /// The file.
        path: String,
        /// The content id stated.
        expected: ContentId,
        /// What the pieces merge to.
        found: ContentId,
    },
    /// Text or bytes that are no Ed25519 key of the standard form.
    #[error("expected {expected}, found {found}")]
    Key {
        /// The form expected.
        expected: &'static str,
        /// What is wrong; never any of the key's bytes.
        found: &'static str,
    },
    /// A signature that does not fit the payload and the key it was given for.
    #[error("the signature by key {key_id} does not fit the payload")]
    BadSignature {
        /// The key.
        key_id: KeyId,
    },
    /// Text that is no link.
    #[error("not a piecework link: expected {expected}, found {found:?}")]
    Link {
        /// What stands there in a link.
        expected: &'static str,
        /// What was found, cut to 80 characters.
        found: String,
    },
    /// A trust store that does not parse or breaks a rule.
    #[error("the trust store is wrong: {reason}")]
    TrustStore {
        /// What, and where.
        reason: String,
    },
    /// A manifest that is well-formed and not trusted.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Error {
    /// The code word for people and scripts.
    pub fn code(&self) -> Code {
        match self {
            Error::UnsafePath { .. } | Error::Collision(_) => Code::UnsafePath,
            Error::BadSignature { .. } => Code::BadSignature,
            Error::Key { .. } | Error::Link { .. } | Error::TrustStore { .. } => Code::BadInput,
            Error::Refused(refusal) => refusal.code(),
            _ => Code::BadManifest,
        }
    }
}

/// Why a trust store does not let a manifest through; in the order in which they are looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A key that the store knows is named, or a key travels along, and its signature does not fit the bytes.
    #[error("the signature by the key {key_id} does not fit the bytes: the manifest was tampered with")]
    BadSignature {
        /// The key.
        key_id: KeyId,
    },
    /// No key of any publisher signed.
    #[error("no trusted publisher signed it; it names the keys {}", list(key_ids))]
    UnknownPublisher {
        /// The keys that the envelope names, verified or not.
        key_ids: Vec<KeyId>,
    },
    /// Signed by a publisher that may not sign this name.
    #[error("{} may not sign the name {name:?}", publishers.join(", "))]
    NameNotAllowed {
        /// Who signed.
        publishers: Vec<String>,
        /// The manifest's name.
        name: String,
    },
    /// Fewer distinct keys than the publisher's threshold.
    #[error("{publisher} asks for {threshold} signatures by distinct keys, found {found}")]
    ThresholdNotMet {
        /// Whose threshold.
        publisher: String,
        /// Keys asked for.
        threshold: u32,
        /// Keys found.
        found: u32,
    },
    /// Past the time the publisher set.
    #[error("it expired at {}; {now}", when(*expires))]
    Expired {
        /// Seconds since the epoch.
        expires: u64,
        /// By what clock.
        now: Now,
    },
    /// Older than the trust store allows of this publisher.
    #[error("it was made at {}, more than {max_age_seconds} s ago; {now}", when(*created))]
    TooOld {
        /// Seconds since the epoch.
        created: u64,
        /// The bound.
        max_age_seconds: u64,
        /// By what clock.
        now: Now,
    },
    /// Older than a publication of this name already seen.
    #[error("its sequence {found} is older than {highest}, already seen of the name {name:?}")]
    Rollback {
        /// The manifest's name.
        name: String,
        /// Its sequence.
        found: u64,
        /// The highest seen.
        highest: u64,
    },
}

impl Refusal {
    /// The code word for people and scripts.
    pub fn code(&self) -> Code {
        match self {
            Refusal::BadSignature { .. } => Code::BadSignature,
            Refusal::UnknownPublisher { .. } => Code::UnknownPublisher,
            Refusal::NameNotAllowed { .. } => Code::NameNotAllowed,
            Refusal::ThresholdNotMet { .. } => Code::ThresholdNotMet,
            Refusal::Expired { .. } | Refusal::TooOld { .. } => Code::Expired,
            Refusal::Rollback { .. } => Code::Rollback,
        }
    }
}

fn list(key_ids: &[KeyId]) -> String {
    key_ids.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

/// RFC 3339, or the bare seconds where no calendar reaches.
pub(crate) fn when(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    let text = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| format!("{seconds} s after 1970"))
}

/// The first 80 characters of a stranger's text, for an error.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
