//! From an envelope's bytes to a manifest: signatures first, parsing after, wherever trust is asked for.

use prost::bytes::Bytes;

use crate::content::envelope::Envelope;
use crate::content::error::{Error, Refusal};
use crate::content::hash::KeyId;
use crate::content::key::PublicKey;
use crate::content::manifest::Manifest;
use crate::content::now::Now;
use crate::content::scope::Trusted;
use crate::content::trust::TrustStore;

/// A manifest that a trusted publisher stands for.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its envelope, to be passed on as it came.
    pub envelope: Envelope,
    /// The manifest.
    pub manifest: Manifest,
    /// Who stands for it.
    pub trusted: Trusted,
}

/// What is remembered of a name's publications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Past {
    /// The highest sequence seen; `None`: none was.
    pub highest_sequence: Option<u64>,
    /// When the newest manifest of the same publisher that was verified was made, seconds since the epoch; 0: none was.
    /// It is at least so late.
    pub newest_made: u64,
}

/// Reads an envelope and believes its manifest or not; nothing of the payload is parsed before signatures of known keys
/// were checked. `now` is [`Now::by`] this machine's clock; `past` tells what is remembered of a name; `exact`: this very
/// manifest was asked for by its id, so an older one is what is wanted.
///
/// # Errors
/// [`Error::Refused`] where it is not trusted, else the rule of the format that is broken.
pub fn open_trusted(
    bytes: impl Into<Bytes>,
    store: &TrustStore,
    now: Now,
    past: impl FnOnce(&str) -> Past,
    exact: bool,
) -> Result<Opened, Error> {
    let envelope = Envelope::decode_shared(bytes.into())?;
    let signers = store.signers(&envelope)?;
    let manifest = Manifest::decode_shared(envelope.payload().clone())?;
    let past = past(manifest.name());
    let now = now.not_before(past.newest_made);
    let trusted = store.check_scope(&signers, &manifest, now, past.highest_sequence, exact)?;
    Ok(Opened { envelope, manifest, trusted })
}

/// Reads an envelope that each of these keys must have signed; no name, threshold or time is asked about.
///
/// # Errors
/// [`Error::BadSignature`] or [`Refusal::UnknownPublisher`] for the first key that did not sign, or whose signature does
/// not fit; else the rule of the format that is broken.
pub fn open_signed_by(bytes: impl Into<Bytes>, keys: &[PublicKey]) -> Result<(Envelope, Manifest), Error> {
    let envelope = Envelope::decode_shared(bytes.into())?;
    let found = || envelope.signatures().iter().map(|signature| signature.key_id());
    for key in keys {
        let key_id = key.id();
        if !found().any(|id| id == key_id) {
            return Err(Refusal::UnknownPublisher { key_ids: found().collect() }.into());
        }
        if !envelope.verify_with(key) {
            return Err(Error::BadSignature { key_id });
        }
    }
    let manifest = Manifest::decode_shared(envelope.payload().clone())?;
    Ok((envelope, manifest))
}

/// What can be said of a signature without a trust store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It fits the payload and the key that travelled along; whose key that is, nobody says.
    Fits,
    /// It does not fit the key that travelled along.
    DoesNotFit,
    /// No key travelled along.
    KeyUnknown,
}

/// A manifest that nobody was asked about.
#[derive(Debug, Clone)]
pub struct Peeked {
    /// Its envelope.
    pub envelope: Envelope,
    /// The manifest.
    pub manifest: Manifest,
    /// Each signature's key and fit, in the envelope's order.
    pub signatures: Vec<(KeyId, Fit)>,
}

/// Reads an envelope for `inspect`, `publish` and `seed`, which need no trust.
///
/// # Errors
/// [`Error`] for the rule of the format that is broken. A signature that does not fit is no error here.
pub fn open_untrusted(bytes: impl Into<Bytes>) -> Result<Peeked, Error> {
    let envelope = Envelope::decode_shared(bytes.into())?;
    let message = envelope.signed_bytes();
    let fit = |signature: &crate::content::envelope::Signature| match signature.public_key() {
        None => Fit::KeyUnknown,
        Some(key) if key.check(&message, signature.as_bytes()) => Fit::Fits,
        Some(_) => Fit::DoesNotFit,
    };
    let signatures = envelope.signatures().iter().map(|signature| (signature.key_id(), fit(signature))).collect();
    let manifest = Manifest::decode_shared(envelope.payload().clone())?;
    Ok(Peeked { envelope, manifest, signatures })
}
