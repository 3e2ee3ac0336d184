//! [`Manifest`]: the files of one publication, with pieces that are known to merge to their content ids.
//!
//! One that exists has passed every rule of `proto/manifest.proto`; whether anyone should believe it is `trust`'s
//! question. The exact payload bytes are kept once, and the piece hashes are slices of them.

use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;

use crate::content::error::{Error, shown};
use crate::content::fields::{Fields, Malformed};
use crate::content::hash::{ContentId, ManifestId, PieceHash, Sha256};
use crate::content::layout::{FlatLayout, PieceIndex, PieceLayout};
use crate::content::path::{SafePath, check_distinct, is_plain};
use crate::content::{proto, tree};

/// Longest payload, in bytes: a few million pieces.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Most files.
pub const FILES_MAX: usize = 1_000_000;
/// Longest name, version and annotation key, in bytes.
pub const TEXT_BYTES_MAX: usize = 255;
/// Most annotations.
pub const ANNOTATIONS_MAX: usize = 256;
/// Longest annotation value, in bytes.
pub const ANNOTATION_BYTES_MAX: usize = 4096;
/// Most sources of one file.
pub const SOURCES_MAX: usize = 64;
/// Most sources of all files: each costs an allocation.
pub const SOURCES_TOTAL_MAX: usize = 1_000_000;
/// Longest URL of a source, in bytes.
pub const URL_BYTES_MAX: usize = 4096;
/// Last second of the year 9999: what RFC 3339 can say.
pub const TIME_MAX: u64 = 253_402_300_799;

/// A checked manifest; cloning shares it.
#[derive(Clone)]
pub struct Manifest(Arc<Parts>);

struct Parts {
    id: ManifestId,
    payload: Bytes,
    head: Head,
    files: Vec<FileEntry>,
    layout: FlatLayout,
    bare: bool,
}

/// The fields beside the files.
#[derive(Default)]
struct Head {
    name: String,
    version: String,
    sequence: u64,
    created: u64,
    expires: u64,
    annotations: Vec<(String, String)>,
    directory: bool,
}

/// One file of a manifest.
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// Where it belongs below the destination.
    pub path: SafePath,
    /// Bytes.
    pub length: u64,
    /// BLAKE3 root.
    pub content_id: ContentId,
    /// Whole-file SHA-256; `None` only in a bare manifest.
    pub sha256: Option<Sha256>,
    /// URLs of the exact file, `http` or `https`, as written.
    pub sources: Vec<String>,
    /// The owner may execute it.
    pub executable: bool,
    /// Its geometry, a function of the length.
    pub layout: PieceLayout,
    /// 32 bytes a piece.
    piece_hashes: Bytes,
}

impl FileEntry {
    /// Hash of one of this file's pieces, counted within the file; `None` outside.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<PieceHash> {
        let start = usize::try_from(piece.0).ok()?.checked_mul(32)?;
        PieceHash::from_slice(self.piece_hashes.get(start..start.checked_add(32)?)?)
    }

    /// Hashes of all pieces, 32 bytes each.
    pub fn piece_hashes(&self) -> &[u8] {
        &self.piece_hashes
    }
}

impl Manifest {
    /// Reads a payload and checks every rule. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`Error`] naming the first rule broken; no manifest is partly taken.
    pub fn decode(payload: &[u8]) -> Result<Self, Error> {
        check_payload_length(payload.len())?;
        Self::decode_shared(Bytes::copy_from_slice(payload))
    }

    /// As [`Manifest::decode`], sharing the bytes instead of copying them.
    ///
    /// # Errors
    /// As [`Manifest::decode`].
    pub fn decode_shared(payload: Bytes) -> Result<Self, Error> {
        let (head, files) = read(&payload)?;
        check_head(&head)?;
        let files = files.into_iter().map(check_file).collect::<Result<Vec<_>, _>>()?;
        check_distinct(files.iter().map(|file| &file.path))?;
        Self::assemble(payload, head, files, false)
    }

    /// The manifest of a bare content id: what only length and piece hashes say. One file named by the id, no name,
    /// no SHA-256, no sources. The merge does not prove the length within the last piece: fetch that one first.
    ///
    /// # Errors
    /// [`Error`] for a length or hashes that do not fit each other or the id.
    pub fn bare(content_id: ContentId, length: u64, piece_hashes: &[u8]) -> Result<Self, Error> {
        check_payload_length(piece_hashes.len())?;
        let file = proto::File {
            path: content_id.to_string(),
            length,
            content_id: Bytes::copy_from_slice(content_id.as_bytes()),
            piece_hashes: Bytes::copy_from_slice(piece_hashes),
            ..proto::File::default()
        };
        let payload = proto::Manifest { files: vec![file], ..proto::Manifest::default() }.encode_to_vec();
        let payload = Bytes::from(payload);
        let (head, files) = read(&payload)?;
        let files = files.into_iter().map(check_file_bytes).collect::<Result<Vec<_>, _>>()?;
        Self::assemble(payload, head, files, true)
    }

    fn assemble(payload: Bytes, head: Head, files: Vec<FileEntry>, bare: bool) -> Result<Self, Error> {
        let layout = FlatLayout::new(files.iter().map(|file| file.length))?;
        let layout =
            layout.ok_or(Error::OverLimit { what: "pieces of all files", max: u32::MAX.into(), found: u64::MAX })?;
        let id = ManifestId::new(*blake3::hash(&payload).as_bytes());
        Ok(Self(Arc::new(Parts { id, payload, head, files, layout, bare })))
    }

    /// BLAKE3 of the exact payload.
    pub fn id(&self) -> ManifestId {
        self.0.id
    }

    /// The exact payload; shared, not copied.
    pub fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// `publisher/product/...`; empty in a bare manifest.
    pub fn name(&self) -> &str {
        &self.0.head.name
    }

    /// Free text for people; may be empty.
    pub fn version(&self) -> &str {
        &self.0.head.version
    }

    /// Rises with each publication of the name.
    pub fn sequence(&self) -> u64 {
        self.0.head.sequence
    }

    /// Seconds since the epoch.
    pub fn created(&self) -> u64 {
        self.0.head.created
    }

    /// Seconds since the epoch; `None`: never.
    pub fn expires(&self) -> Option<u64> {
        Some(self.0.head.expires).filter(|seconds| *seconds != 0)
    }

    /// Key and value, ascending by key.
    pub fn annotations(&self) -> &[(String, String)] {
        &self.0.head.annotations
    }

    /// Whether the files live below a folder: asked for, or several files, or a path with a folder in it.
    pub fn is_directory(&self) -> bool {
        self.0.head.directory || !matches!(self.files(), [only] if only.path.components().nth(1).is_none())
    }

    /// Whether this came from a bare content id: only lengths and hashes mean anything.
    pub fn is_bare(&self) -> bool {
        self.0.bare
    }

    /// The files; at least one, in the publisher's order.
    pub fn files(&self) -> &[FileEntry] {
        &self.0.files
    }

    /// The flat piece index over all files.
    pub fn layout(&self) -> &FlatLayout {
        &self.0.layout
    }

    /// Hash of a flat piece; `None` outside.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<PieceHash> {
        let (place, within) = self.0.layout.locate(piece)?;
        self.file_at(place.file)?.piece_hash(within)
    }

    pub(crate) fn file_at(&self, file: u32) -> Option<&FileEntry> {
        self.0.files.get(usize::try_from(file).ok()?)
    }

    /// A manifest of one file in pieces of another size than its length asks for, so that tests of pieces of several
    /// blocks need no 64 GiB.
    #[cfg(test)]
    pub(crate) fn test_with_layout(layout: PieceLayout, hashes: &tree::FileHashes) -> Self {
        let file = FileEntry {
            path: SafePath::new("file").expect("safe"),
            length: layout.length(),
            content_id: hashes.content_id,
            sha256: None,
            sources: Vec::new(),
            executable: false,
            layout,
            piece_hashes: Bytes::copy_from_slice(&hashes.piece_hashes),
        };
        let flat = FlatLayout::test_of(layout);
        let payload = Bytes::copy_from_slice(hashes.content_id.as_bytes());
        let id = ManifestId::new(*hashes.content_id.as_bytes());
        Self(Arc::new(Parts { id, payload, head: Head::default(), files: vec![file], layout: flat, bare: true }))
    }
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Manifest({} {:?}, {} files)", self.0.id.short(), self.0.head.name, self.0.files.len())
    }
}

fn check_payload_length(found: usize) -> Result<(), Error> {
    at_most("bytes of the payload", PAYLOAD_BYTES_MAX, found)
}

/// # Errors
/// [`Error::OverLimit`] where `found` is more than `max`.
pub(crate) fn at_most(what: &'static str, max: usize, found: usize) -> Result<(), Error> {
    if found > max {
        return Err(Error::OverLimit { what, max: max as u64, found: found as u64 });
    }
    Ok(())
}

fn malformed(reason: Malformed) -> Error {
    Error::Malformed { what: "manifest", reason: reason.0.to_owned() }
}

fn undecodable(reason: prost::DecodeError) -> Error {
    Error::Malformed { what: "manifest", reason: reason.to_string() }
}

/// One walk over the payload; counts are checked before anything is allocated for them.
fn read(payload: &Bytes) -> Result<(Head, Vec<proto::File>), Error> {
    check_payload_length(payload.len())?;
    let (mut files, mut sources) = (0usize, 0usize);
    for field in Fields::of(payload) {
        let (number, value) = field.map_err(malformed)?;
        if number == 4 {
            let of_file = count_sources(value.bytes().map_err(malformed)?)?;
            (files, sources) = (files.saturating_add(1), sources.saturating_add(of_file));
        }
    }
    if files == 0 {
        return Err(Error::Field { what: "files", expected: "at least one", found: "none".to_owned() });
    }
    at_most("files", FILES_MAX, files)?;
    at_most("sources of all files", SOURCES_TOTAL_MAX, sources)?;
    let mut head = Head::default();
    let mut list = Vec::with_capacity(files);
    for field in Fields::of(payload) {
        let (number, value) = field.map_err(malformed)?;
        match number {
            1 => head.name = value.text().map_err(malformed)?.to_owned(),
            2 => head.version = value.text().map_err(malformed)?.to_owned(),
            3 => head.sequence = value.varint().map_err(malformed)?,
            4 => {
                let bytes = payload.slice_ref(value.bytes().map_err(malformed)?);
                list.push(proto::File::decode(bytes).map_err(undecodable)?);
            }
            5 => head.created = value.varint().map_err(malformed)?,
            6 => head.expires = value.varint().map_err(malformed)?,
            7 => {
                at_most("annotations", ANNOTATIONS_MAX, head.annotations.len().saturating_add(1))?;
                let pair = proto::Annotation::decode(value.bytes().map_err(malformed)?).map_err(undecodable)?;
                head.annotations.push((pair.key, pair.value));
            }
            8 => head.directory = value.flag().map_err(malformed)?,
            _ => {}
        }
    }
    Ok((head, list))
}

fn count_sources(file: &[u8]) -> Result<usize, Error> {
    let mut count = 0;
    for field in Fields::of(file) {
        count += usize::from(field.map_err(malformed)?.0 == 6);
        at_most("sources of a file", SOURCES_MAX, count)?;
    }
    Ok(count)
}

fn check_head(head: &Head) -> Result<(), Error> {
    check_text("name", &head.name, 1)?;
    check_text("version", &head.version, 0)?;
    for (what, seconds) in [("created", head.created), ("expires", head.expires)] {
        if seconds > TIME_MAX {
            return Err(Error::Field { what, expected: "seconds up to the year 9999", found: seconds.to_string() });
        }
    }
    for (key, value) in &head.annotations {
        check_text("key of an annotation", key, 1)?;
        at_most("bytes of an annotation", ANNOTATION_BYTES_MAX, value.len())?;
    }
    let pairs = head.annotations.iter().zip(head.annotations.iter().skip(1));
    for ((before, _), (key, _)) in pairs {
        if before >= key {
            let expected = "each key once, in ascending order";
            return Err(Error::Field { what: "annotations", expected, found: shown(key) });
        }
    }
    Ok(())
}

/// One line of text that shows as what it is.
fn check_text(what: &'static str, text: &str, least: usize) -> Result<(), Error> {
    at_most(what, TEXT_BYTES_MAX, text.len())?;
    let expected = if least == 0 {
        "printable text without spaces around it"
    } else {
        "printable text, at least one character, without spaces around it"
    };
    if text.len() < least || text.trim() != text || !text.chars().all(is_plain) {
        return Err(Error::Field { what, expected, found: shown(text) });
    }
    Ok(())
}

/// # Errors
/// [`Error::Field`] unless it is an absolute `http` or `https` URL in printable ASCII, with a host, without a password.
pub(crate) fn check_url(text: &str) -> Result<(), Error> {
    at_most("bytes of a source's URL", URL_BYTES_MAX, text.len())?;
    // The parser would drop tabs and line ends; what is listed is what is asked for.
    let parsed = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    let parsed = parsed.and_then(|text| url::Url::parse(text).ok());
    let fits = |url: &url::Url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
    };
    if parsed.as_ref().is_some_and(fits) {
        return Ok(());
    }
    let expected = "an http or https URL in ASCII, without user or password";
    Err(Error::Field { what: "URL of a source", expected, found: shown(text) })
}

fn check_file(file: proto::File) -> Result<FileEntry, Error> {
    file.sources.iter().try_for_each(|url| check_url(url))?;
    let entry = check_file_bytes(file)?;
    if entry.sha256.is_none() {
        let expected = "32 bytes of SHA-256";
        return Err(Error::Field { what: "sha256", expected, found: shown(entry.path.as_str()) });
    }
    Ok(entry)
}

/// Geometry first, since hashing asserts on it; then the merge.
fn check_file_bytes(file: proto::File) -> Result<FileEntry, Error> {
    let path = SafePath::new(&file.path).map_err(|fault| Error::UnsafePath { path: shown(&file.path), fault })?;
    let layout = PieceLayout::new(file.length)?;
    let content_id = ContentId::from_slice(&file.content_id).ok_or_else(|| Error::Field {
        what: "content_id",
        expected: "32 bytes",
        found: format!("{} bytes", file.content_id.len()),
    })?;
    let expected = u64::from(layout.piece_count()) * 32;
    let found = file.piece_hashes.len() as u64;
    let merged = tree::merge_pieces(&layout, &file.piece_hashes).filter(|_| found == expected);
    let Some(merged) = merged else {
        return Err(Error::PieceHashes { path: shown(path.as_str()), expected, found });
    };
    if merged != content_id {
        return Err(Error::DoesNotMerge { path: shown(path.as_str()), expected: content_id, found: merged });
    }
    if !matches!(file.sha256.len(), 0 | 32) {
        let found = format!("{} bytes", file.sha256.len());
        return Err(Error::Field { what: "sha256", expected: "32 bytes", found });
    }
    Ok(FileEntry {
        path,
        length: file.length,
        content_id,
        sha256: Sha256::from_slice(&file.sha256),
        sources: file.sources,
        executable: file.executable,
        layout,
        piece_hashes: file.piece_hashes,
    })
}
