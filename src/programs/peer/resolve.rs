//! From what a person names (a file, a URL, a link) to a manifest that may be used, or a reason why not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::content::code::Code;
use crate::content::envelope::Envelope;
use crate::content::error::Refusal;
use crate::content::hash::{ContentId, ManifestId};
use crate::content::link::{Link, Target};
use crate::content::manifest::Manifest;
use crate::content::now::Now;
use crate::content::open::{Opened, Past, open_trusted};
use crate::content::{TrustStore, Trusted};
use crate::drivers::sources::Client;
use crate::drivers::store::StateDir;
use crate::drivers::transport::PeerId;
use crate::programs::peer::Failure;
use crate::services::node::Node;

/// Longest envelope read from a file or URL: the manifest's bound and room for signatures.
pub(super) const ENVELOPE_BYTES_MAX: u64 = (64 << 20) + (64 << 10);

/// What a person names.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// A manifest on this machine.
    File(PathBuf),
    /// A manifest at a URL.
    Url(String),
    /// `piecework:...`
    Link(Link),
    /// A manifest's envelope, in hand.
    Envelope(Arc<[u8]>),
}

impl Wanted {
    /// Tells the three apart: `piecework:` is a link, `http://` and `https://` a URL, all else a path.
    ///
    /// # Errors
    /// A link that does not parse.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.starts_with("piecework:") {
            let link = text.parse().map_err(|error| {
                Failure::new(Code::BadInput, format!("the link cannot be read: {error}"))
                    .culprit(text.chars().take(200).collect::<String>())
                    .remedy("copy the link anew, as `piecework inspect` prints it")
            })?;
            return Ok(Wanted::Link(link));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Wanted::Url(text.to_owned()));
        }
        Ok(Wanted::File(PathBuf::from(text)))
    }

    /// One line that says which it is; two ways of handing over one manifest have one.
    pub fn label(&self) -> String {
        match self {
            Wanted::File(path) => path.display().to_string(),
            Wanted::Url(url) => url.clone(),
            Wanted::Link(link) => link.to_string(),
            Wanted::Envelope(bytes) => match Envelope::decode(bytes) {
                Ok(envelope) => {
                    let id = ManifestId::new(*blake3::hash(envelope.payload()).as_bytes());
                    Link { target: Target::Manifest(id), peers: Vec::new(), sources: Vec::new() }.to_string()
                }
                Err(_) => "an unreadable manifest".to_owned(),
            },
        }
    }
}

/// A manifest that may be used.
pub struct Resolved {
    /// Verified, or bare where only a content id was known.
    pub manifest: Manifest,
    /// Exact bytes, for peers.
    pub envelope: Arc<[u8]>,
    /// Who answers for it; nobody where only a content id was known.
    pub trusted: Option<Trusted>,
    /// The peer that it came from.
    pub giver: Option<PeerId>,
}

/// Seconds since the epoch by the wall clock.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads an envelope from a file, bounded.
///
/// # Errors
/// Missing, unreadable, or longer than any manifest.
pub fn read_envelope(path: &Path) -> Result<Vec<u8>, Failure> {
    let length = std::fs::metadata(path).map_err(|error| Failure::input(path, &error))?.len();
    if length > ENVELOPE_BYTES_MAX {
        return Err(Failure::new(
            Code::BadManifest,
            format!("{} is longer than any manifest ({length} bytes)", path.display()),
        )
        .culprit(path.display().to_string())
        .remedy("name the .piecework file, not the content"));
    }
    std::fs::read(path).map_err(|error| Failure::input(path, &error))
}

/// Resolves a manifest file or URL; a link is `from_peers`' matter.
///
/// # Errors
/// Missing, malformed, or not trusted.
pub async fn from_file_or_url(
    wanted: &Wanted,
    http: &Client,
    trust: &TrustStore,
    state: &StateDir,
) -> Result<Option<Resolved>, Failure> {
    let (bytes, from) = match wanted {
        Wanted::File(path) => (read_envelope(path)?, path.display().to_string()),
        Wanted::Url(url) => (http.fetch_small(url, ENVELOPE_BYTES_MAX).await?, url.clone()),
        Wanted::Link(_) => return Ok(None),
        // Whoever handed it over named this very one.
        Wanted::Envelope(bytes) => return judge(bytes, &wanted.label(), trust, state, true).map(Some),
    };
    judge(&bytes, &from, trust, state, false).map(Some)
}

/// Checks signatures, name, expiry and sequence; remembers the sequence, and when it was made.
///
/// # Errors
/// It is malformed, or not to be believed.
pub(crate) fn judge(
    bytes: &[u8],
    from: &str,
    trust: &TrustStore,
    state: &StateDir,
    exact: bool,
) -> Result<Resolved, Failure> {
    let seen_error = std::cell::RefCell::new(None);
    let past = |name: &str| {
        let highest_sequence = state.highest_sequence(name).unwrap_or_else(|error| {
            *seen_error.borrow_mut() = Some(error);
            None
        });
        Past { highest_sequence, newest_made: state.newest_made(name) }
    };
    let opened = open_trusted(bytes.to_vec(), trust, Now::by(unix_now()), past, exact);
    if let Some(error) = seen_error.into_inner() {
        return Err(error.into());
    }
    let Opened { manifest, trusted, .. } = opened.map_err(|error| refused(&error, from))?;
    state.raise_sequence(manifest.name(), manifest.sequence())?;
    state.raise_made(manifest.name(), manifest.created())?;
    Ok(Resolved { manifest, envelope: bytes.into(), trusted: Some(trusted), giver: None })
}

/// Whether a signed manifest is young enough; one that does not say when it was made is too old. `state` remembers what
/// time it is at least.
///
/// # Errors
/// [`Code::Expired`].
pub fn fresh(resolved: &Resolved, state: &StateDir, max_age: Option<Duration>) -> Result<(), Failure> {
    let Some((max_age, manifest)) = max_age.filter(|_| resolved.trusted.is_some()).map(|age| (age, &resolved.manifest))
    else {
        return Ok(());
    };
    let now = Now::by(unix_now()).not_before(state.newest_made(manifest.name()));
    let age = now.at().saturating_sub(manifest.created());
    if age <= max_age.as_secs() {
        return Ok(());
    }
    let message = format!(
        "the manifest of {} was made {age} seconds ago, max_age_of_manifest is {}; {now}",
        manifest.name(),
        max_age.as_secs()
    );
    Err(Failure::new(Code::Expired, message).remedy("get the current manifest from the publisher"))
}

/// Whether a manifest's content is too small for peers that nobody named: a lone file, below policy's bound, that a source
/// has.
pub(crate) fn is_small(manifest: &Manifest, min_file_size: u64, has_source: bool) -> bool {
    let lone = !manifest.is_directory() && manifest.files().len() == 1;
    lone && has_source && manifest.layout().total_bytes() < min_file_size
}

/// A refusal with what to do about it.
pub fn refused(error: &crate::content::Error, from: &str) -> Failure {
    let code = error.code();
    let remedy = match code {
        Code::UnknownPublisher => {
            let key = match error {
                crate::content::Error::Refused(Refusal::UnknownPublisher { key_ids }) => key_ids.first(),
                _ => None,
            };
            let key = key.map_or_else(|| "KEY-ID".to_owned(), ToString::to_string);
            format!(
                "if you know this publisher, trust it with\n    piecework trust add --from {from} --key-id {key} \
                 --publisher NAME --names 'PATTERN'\n  and compare the key id with the publisher by another way first \
                 (its web site, a call)"
            )
        }
        Code::NameNotAllowed => {
            "trust the publisher for this name with `piecework trust add ... --names PATTERN`, if it \
                                 is meant to publish it"
                .into()
        }
        Code::ThresholdNotMet => "ask the publisher for a manifest with more signatures (`piecework sign`)".into(),
        Code::Expired => "get the current manifest from the publisher; if this machine's clock is wrong, set it".into(),
        Code::Rollback => "get the current manifest; to have this older one on purpose, ask for it by its exact link, \
                           piecework:manifest:ID (see `piecework inspect`)"
            .into(),
        Code::BadSignature => "the manifest was changed after it was signed: get it again, from its publisher".into(),
        _ => "get the manifest again, from its publisher".into(),
    };
    Failure::new(code, format!("{from}: {error}")).culprit(from).remedy(remedy)
}

/// Asks peers for the manifest behind a link until one is good.
///
/// # Errors
/// None within `timeout`; or, by exact manifest id, one that is not trusted.
pub async fn from_peers(
    node: &Node,
    link: &Link,
    trust: &TrustStore,
    state: &StateDir,
    timeout: Duration,
    condemned: &[PeerId],
) -> Result<Resolved, Failure> {
    let mut search = node.manifests(&link.target);
    let mut troubles: Vec<String> = Vec::new();
    let looking = async {
        loop {
            let (peer, remote, bytes) = search.next().await;
            if condemned.contains(&peer) {
                continue;
            }
            match accept(&link.target, &bytes, &remote.to_string(), trust, state) {
                Ok(resolved) => return Ok(Resolved { giver: Some(peer), ..resolved }),
                Err(failure) if failure.code.exit_code() == 77 => return Err(failure),
                Err(failure) => {
                    tracing::warn!(%peer, %remote, reason = %failure, "a peer's manifest is not the one asked for");
                    troubles.truncate(7);
                    troubles.push(format!("peer {peer} at {remote}: {failure}"));
                }
            }
        }
    };
    match tokio::time::timeout(timeout, looking).await {
        Ok(result) => result,
        Err(_) => {
            let failure = Failure::new(
                Code::NoSource,
                format!("no peer gave the manifest of {link} within {} s", timeout.as_secs()),
            )
            .remedy("name a peer that has it with --peer HOST:PORT, or get the manifest's file from its publisher");
            troubles.extend(
                condemned.iter().map(|peer| format!("peer {peer} gave a manifest that is not of this content")),
            );
            troubles.extend(node.troubles());
            Err(if troubles.is_empty() { failure } else { failure.culprit(troubles.join("; ")) })
        }
    }
}

/// Judges what a peer, or the daemon, gave for a link.
///
/// # Errors
/// It is another manifest, or does not list the content; by exact manifest id, one that is not trusted.
pub fn accept(
    target: &Target,
    bytes: &[u8],
    from: &str,
    trust: &TrustStore,
    state: &StateDir,
) -> Result<Resolved, Failure> {
    let malformed = |error: &dyn std::fmt::Display| Failure::new(Code::BadManifest, error.to_string()).culprit(from);
    match target {
        Target::Manifest(id) => {
            let envelope = Envelope::decode(bytes).map_err(|error| malformed(&error))?;
            if blake3::hash(envelope.payload()).as_bytes() != id.as_bytes() {
                return Err(malformed(&"it is another manifest than the link names"));
            }
            judge(bytes, from, trust, state, true)
        }
        Target::Content(id) => {
            // Name, path, SHA-256 and sources count only where a trusted publisher signed them.
            if let Ok(resolved) = judge(bytes, from, trust, state, true)
                && !resolved.manifest.is_directory()
                && resolved.manifest.files().len() == 1
                && resolved.manifest.files().first().is_some_and(|file| file.content_id == *id)
            {
                return Ok(resolved);
            }
            let envelope = Envelope::decode(bytes).map_err(|error| malformed(&error))?;
            let manifest = Manifest::decode(envelope.payload()).map_err(|error| malformed(&error))?;
            bare(&manifest, id, bytes).ok_or_else(|| malformed(&"it does not list the content asked for"))
        }
    }
}

fn bare(manifest: &Manifest, id: &ContentId, bytes: &[u8]) -> Option<Resolved> {
    let file = manifest.files().iter().find(|file| file.content_id == *id)?;
    let manifest = Manifest::bare(*id, file.length, file.piece_hashes()).ok()?;
    Some(Resolved { manifest, envelope: bytes.into(), trusted: None, giver: None })
}
