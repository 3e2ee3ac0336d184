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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::build::ManifestBuilder;
    use crate::content::build::samples::{counting, listed};
    use crate::content::code::Code;

    /// A valid message of two files, to be broken in one place.
    fn message() -> proto::Manifest {
        let mut two = listed("b/two", &counting((1 << 20) + 1));
        two.sources = vec!["https://example.com/two".to_owned()];
        let built = ManifestBuilder::new("acme/app").file(listed("a", b"one")).file(two).build().expect("valid");
        proto::Manifest::decode(built.payload().clone()).expect("canonical")
    }

    fn refused(change: impl FnOnce(&mut proto::Manifest)) -> Error {
        let mut message = message();
        change(&mut message);
        Manifest::decode(&message.encode_to_vec()).expect_err("a rule is broken")
    }

    #[test]
    fn what_was_built_reads_back() {
        let mut file = listed("bin/tool", b"#!/bin/sh\n");
        file.executable = true;
        file.sources = vec!["https://example.com/tool".to_owned(), "http://[::1]:8000/x%20y?z#f".to_owned()];
        let builder = ManifestBuilder::new("acme/tool/linux").version("2.4.1").sequence(7).created(1_700_000_000);
        let builder = builder.expires(Some(1_800_000_000)).annotation("z", "last").annotation("a", "first\nline");
        let manifest = builder.file(file).file(listed("empty", b"")).build().expect("valid");
        let read = Manifest::decode(manifest.payload()).expect("its own bytes");
        assert_eq!((read.id(), read.payload()), (manifest.id(), manifest.payload()));
        assert_eq!(read.id().as_bytes(), blake3::hash(manifest.payload()).as_bytes());
        assert_eq!((read.name(), read.version(), read.sequence()), ("acme/tool/linux", "2.4.1", 7));
        assert_eq!((read.created(), read.expires()), (1_700_000_000, Some(1_800_000_000)));
        assert_eq!(read.annotations().iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "z"]);
        assert!(read.is_directory() && !read.is_bare());
        let [tool, empty] = read.files() else { panic!("two files") };
        assert_eq!((tool.path.as_str(), tool.length, tool.executable, tool.sources.len()), ("bin/tool", 10, true, 2));
        assert_eq!(tool.piece_hash(PieceIndex(0)).map(|hash| *hash.as_bytes()), Some(*tool.content_id.as_bytes()));
        assert_eq!((tool.piece_hash(PieceIndex(1)), empty.piece_hash(PieceIndex(0))), (None, None));
        assert_eq!(empty.content_id.as_bytes(), blake3::hash(b"").as_bytes());
        assert_eq!((read.layout().piece_count(), read.layout().total_bytes()), (1, 10));
        assert_eq!(
            (read.piece_hash(PieceIndex(0)), read.piece_hash(PieceIndex(1))),
            (tool.piece_hash(PieceIndex(0)), None)
        );
    }

    #[test]
    fn a_lone_file_is_no_directory_unless_it_says_so() {
        let build = |path, directory| ManifestBuilder::new("n").file(listed(path, b"x")).directory(directory).build();
        assert!(!build("a", false).expect("valid").is_directory());
        assert!(build("a", true).expect("valid").is_directory());
        assert!(build("a/b", false).expect("valid").is_directory());
    }

    #[test]
    fn piece_hashes_are_not_copied() {
        let payload = Bytes::from(message().encode_to_vec());
        let manifest = Manifest::decode_shared(payload.clone()).expect("valid");
        let range = payload.as_ptr_range();
        assert!(manifest.files().iter().all(|file| range.contains(&file.piece_hashes().as_ptr())));
    }

    #[test]
    fn every_rule_is_held_against_a_manifest_that_breaks_it() {
        type Change = fn(&mut proto::Manifest);
        let changes: &[(&str, Change)] = &[
            ("no file", |m| m.files.clear()),
            ("no name", |m| m.name.clear()),
            ("long name", |m| m.name = "a".repeat(256)),
            ("escape in name", |m| m.name.push('\u{1b}')),
            ("space after name", |m| m.name.push(' ')),
            ("reordered version", |m| m.version = "1\u{202e}2".to_owned()),
            ("year 10000", |m| m.expires = TIME_MAX + 1),
            ("created never", |m| m.created = u64::MAX),
            ("annotation twice", |m| {
                m.annotations = vec![proto::Annotation { key: "k".to_owned(), value: String::new() }; 2]
            }),
            ("annotation without key", |m| m.annotations = vec![proto::Annotation::default()]),
            ("long annotation", |m| {
                m.annotations = vec![proto::Annotation { key: "k".to_owned(), value: "v".repeat(4097) }];
            }),
            ("many annotations", |m| {
                let annotation = |i: usize| proto::Annotation { key: format!("{i:04}"), value: String::new() };
                m.annotations = (0..257).map(annotation).collect();
            }),
            ("content id of 31 bytes", |m| m.files[0].content_id.truncate(31)),
            ("no SHA-256", |m| m.files[0].sha256.clear()),
            ("SHA-256 of 31 bytes", |m| m.files[0].sha256.truncate(31)),
            ("a piece too few", |m| m.files[1].piece_hashes.truncate(32)),
            ("half a piece hash", |m| m.files[1].piece_hashes.truncate(63)),
            ("no piece hashes", |m| m.files[1].piece_hashes.clear()),
            ("pieces of an empty file", |m| m.files[0].length = 0),
            ("another length", |m| m.files[1].length = 1 << 21 | 1),
            ("longest length", |m| m.files[1].length = u64::MAX),
            ("another id", |m| m.files[1].content_id = m.files[0].content_id.clone()),
            ("pieces changed places", |m| {
                let hashes = m.files[1].piece_hashes.clone();
                m.files[1].piece_hashes = [&hashes[32..], &hashes[..32]].concat().into();
            }),
            ("source by file", |m| m.files[1].sources[0] = "file:///etc/passwd".to_owned()),
            ("relative source", |m| m.files[1].sources[0] = "two".to_owned()),
            ("source with password", |m| m.files[1].sources[0] = "http://a:b@c/".to_owned()),
            ("source with line end", |m| m.files[1].sources[0] = "http://a/b\r\nc".to_owned()),
            ("source not in ASCII", |m| m.files[1].sources[0] = "http://é/".to_owned()),
            ("long source", |m| m.files[1].sources[0] = format!("http://a/{}", "b".repeat(4096))),
            ("many sources", |m| m.files[1].sources = vec!["http://a/".to_owned(); 65]),
        ];
        for (what, change) in changes {
            assert_eq!(refused(*change).code(), Code::BadManifest, "{what}");
        }
        for path in ["../a", "/etc/passwd", "a\0", "b", "A", "b/two/x", "B/TWO", ""] {
            assert_eq!(
                refused(|m| m.files[0].path = if path == "A" { "b/two".to_owned() } else { path.to_owned() }).code(),
                Code::UnsafePath,
                "{path:?}"
            );
        }
        assert!(Manifest::decode(&message().encode_to_vec()).is_ok());
    }

    #[test]
    fn unknown_fields_are_ignored_and_torn_bytes_are_not() {
        let payload = message().encode_to_vec();
        let more = [&payload[..], &[0xfa, 0x07, 1, 0xff, 0x91, 0x03, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        let (plain, extended) = (Manifest::decode(&payload).expect("valid"), Manifest::decode(&more).expect("valid"));
        assert_ne!(plain.id(), extended.id());
        assert_eq!(plain.name(), extended.name());
        for end in 0..payload.len() {
            // A cut between the files leaves a valid shorter list; only a signature can tell.
            if let Ok(shorter) = Manifest::decode(&payload[..end]) {
                assert_eq!(shorter.files().len(), 1, "{end}");
            }
        }
    }

    #[test]
    fn two_bytes_a_file_are_counted_before_they_cost_anything() {
        let found = Manifest::decode(&[0x22, 0].repeat(FILES_MAX + 1)).expect_err("too many");
        assert_eq!(found, Error::OverLimit { what: "files", max: 1_000_000, found: 1_000_001 });
        let mut file = vec![0x22, 0xc0, 0x84, 0x3d];
        file.extend([0x32, 0].repeat(500_000));
        assert_eq!(refused_bytes(&file), Error::OverLimit { what: "sources of a file", max: 64, found: 65 });
        let large = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert!(matches!(refused_bytes(&large), Error::OverLimit { what: "bytes of the payload", .. }));
    }

    fn refused_bytes(payload: &[u8]) -> Error {
        Manifest::decode(payload).expect_err("over a limit")
    }

    #[test]
    fn a_bare_id_gives_one_unnamed_file() {
        let file = listed("a", &counting(3 << 20));
        let (id, hashes) = (file.hashes.content_id, &file.hashes.piece_hashes);
        let bare = Manifest::bare(id, file.length, hashes).expect("it merges");
        assert!(bare.is_bare() && !bare.is_directory());
        assert_eq!((bare.name(), bare.files().len(), bare.layout().piece_count()), ("", 1, 3));
        assert_eq!((bare.files()[0].path.as_str(), bare.files()[0].sha256), (id.to_string().as_str(), None));
        assert_eq!(bare.files()[0].piece_hashes(), hashes);
        assert_eq!(Manifest::bare(id, file.length, hashes).expect("it merges").id(), bare.id());
        assert!(Manifest::bare(id, file.length + 1, hashes).is_err());
        assert!(Manifest::bare(id, u64::MAX, hashes).is_err());
        assert!(Manifest::bare(id, file.length, &hashes[32..]).is_err());
        assert!(Manifest::bare(ContentId::new([0; 32]), file.length, hashes).is_err());
        // Without a name it is no publication, whatever its bytes say.
        assert!(Manifest::decode(bare.payload()).is_err());
        let empty = Manifest::bare(ContentId::new(*blake3::hash(b"").as_bytes()), 0, &[]).expect("nothing");
        assert_eq!(empty.layout().piece_count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_manifest_or_refused(mut payload in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..300, byte: u8) {
            let _ = Manifest::decode(&payload);
            payload = message().encode_to_vec();
            if let Some(changed) = payload.get_mut(at) {
                *changed = byte;
            }
            if let Ok(read) = Manifest::decode(&payload) {
                let again = proto::Manifest::decode(&payload[..]).expect("what we take, prost takes");
                prop_assert_eq!(read.name(), again.name);
                prop_assert_eq!(read.files().len(), again.files.len());
                prop_assert_eq!(read.sequence(), again.sequence);
                prop_assert_eq!(read.0.head.directory, again.directory);
            }
        }

        #[test]
        fn the_walk_agrees_with_prost_on_every_field(name in "[a-z]{1,9}", version in "[0-9.]{0,5}", sequence: u64, created in 0u64..TIME_MAX,
            expires in 0u64..TIME_MAX, directory: bool, lengths in proptest::collection::vec(0usize..3000, 1..5)) {
            let mut builder = ManifestBuilder::new(&name).version(&version).sequence(sequence).created(created);
            builder = builder.expires(Some(expires).filter(|seconds| *seconds > 0)).directory(directory);
            for (position, length) in lengths.iter().enumerate() {
                builder = builder.file(listed(&format!("f{position}"), &counting(*length)));
            }
            let read = builder.build().expect("valid");
            let again = proto::Manifest::decode(read.payload().clone()).expect("canonical");
            prop_assert_eq!(&again.encode_to_vec(), read.payload());
            prop_assert_eq!((read.name(), read.version(), read.sequence()), (again.name.as_str(), again.version.as_str(), again.sequence));
            prop_assert_eq!((read.created(), read.expires().unwrap_or(0)), (again.created, again.expires));
            prop_assert_eq!(read.layout().total_bytes(), lengths.iter().sum::<usize>() as u64);
        }
    }
}
